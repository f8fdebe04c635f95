/** What every Channel promises, whatever carries it: one suite, run on each implementation. */

import assert from "node:assert/strict";
import { EMPTY_BYTES } from "../../base/bytes.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { CallContext, Channel, HandlerTable, Peer, PushHandler } from "../../wire/service.ts";

export interface Opened extends AsyncDisposable {
  readonly channel: Channel;
}

/** Opens a channel to a server with these handlers. */
export type OpenChannel = (handlers: HandlerTable, onPush?: PushHandler) => Promise<Opened>;

type Handler = (request: unknown, context: CallContext) => unknown;

const ECHO = 1;
const FAIL = 2;
const WAIT = 3;
const BREAK = 4;

/** A server whose WAIT calls stand until the test answers them, and that keeps its peer. */
class Script {
  readonly waiting = new Map<unknown, { resolve: (value: unknown) => void; context: CallContext }>();
  peer: Peer | undefined;
  calls = 0;
  readonly handlers: ReadonlyMap<number, Handler> = new Map<number, Handler>([
    [ECHO, (request, { peer }) => {
      this.calls++;
      this.peer = peer;
      return request;
    }],
    [FAIL, () => {
      throw new FsError("ENOTEMPTY", "still full", { op: "rmdir" });
    }],
    [BREAK, () => {
      throw new TypeError("a bug");
    }],
    [WAIT, (request, context) => {
      context.signal; // asked for in time, as a handler that can be cancelled does
      return new Promise((resolve) =>
        this.waiting.set((request as { id: unknown }).id, { resolve, context })
      );
    }],
  ]);

  answer(id: unknown, value: unknown): void {
    this.waiting.get(id)!.resolve(value);
    this.waiting.delete(id);
  }
}

export async function until(condition: () => boolean, what: string, limitMs = 5_000): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Fails instead of waiting for ever. */
export async function within<T>(promise: Promise<T>, what: string, limitMs = 2_000): Promise<T> {
  let timer: number | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${limitMs} ms: ${what}`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

const rejects = (promise: Promise<unknown>, errno: FsError["errno"], what: string) =>
  within(assert.rejects(promise, (error) => isErrno(error, errno), `${what}: ${errno}`), what);

export function channelContract(name: string, open: OpenChannel): void {
  const test = (
    what: string,
    run: (channel: Channel, script: Script) => Promise<void>,
    onPush?: PushHandler,
  ) =>
    Deno.test(`${name}: ${what}`, async () => {
      const script = new Script();
      await using opened = await open(script.handlers, onPush);
      await run(opened.channel, script);
    });

  test("a call is answered with what the handler gave, body and all", async (channel) => {
    const body = new Uint8Array(70_000).map((_, i) => i);
    const reply = await channel.call(ECHO, { a: 1, nested: { b: [1, "x"] }, body }) as Record<
      string,
      unknown
    >;
    assert.deepEqual({ ...reply, body: undefined }, { a: 1, nested: { b: [1, "x"] }, body: undefined });
    assert.deepEqual(new Uint8Array(reply.body as Uint8Array), body);
    const { body: empty } = await channel.call(ECHO, { body: EMPTY_BYTES }) as { body: Uint8Array };
    assert.equal(empty.length, 0);
  });

  test("a handler's error keeps errno, message and operation; a bug is EIO", async (channel) => {
    await assert.rejects(channel.call(FAIL, {}), (error) => {
      assert.ok(isErrno(error, "ENOTEMPTY"));
      assert.deepEqual([error.message, error.op], ["still full", "rmdir"]);
      return true;
    });
    await rejects(channel.call(BREAK, {}), "EIO", "a bug");
    assert.deepEqual(await channel.call(ECHO, { on: 1 }), { on: 1 });
  });

  test("an unknown operation is ENOSYS", async (channel) => {
    await rejects(channel.call(999, {}), "ENOSYS", "unknown");
  });

  test("calls are answered out of order", async (channel, script) => {
    const order: number[] = [];
    const calls = [1, 2, 3].map(async (id) => {
      assert.deepEqual(await channel.call(WAIT, { id }), { answer: id });
      order.push(id);
    });
    await until(() => script.waiting.size === 3, "all calls arrive");
    for (const id of [3, 1, 2]) {
      script.answer(id, { answer: id });
      await until(() => order.at(-1) === id, "the answer arrives");
    }
    await Promise.all(calls);
  });

  test("a thousand calls at once are all answered, each with its own", async (channel) => {
    const replies = await Promise.all(
      Array.from({ length: 1_000 }, (_, i) => channel.call(ECHO, { i, [`f${i % 90}`]: i })),
    );
    replies.forEach((reply, i) => assert.deepEqual(reply, { i, [`f${i % 90}`]: i }));
  });

  test("a call ends at its deadline, and a late answer harms nothing", async (channel, script) => {
    await rejects(channel.call(WAIT, { id: 1 }, { timeoutMs: 20 }), "ETIMEDOUT", "deadline");
    script.answer(1, { shape: 1, seen: { first: "late" } });
    assert.deepEqual(await channel.call(ECHO, { shape: 2, seen: { first: "now" } }), {
      shape: 2,
      seen: { first: "now" },
    });
  });

  test("a cancelled call ends at once with EINTR and its handler is told", async (channel, script) => {
    const abort = new AbortController();
    const call = channel.call(WAIT, { id: 1 }, { signal: abort.signal });
    await until(() => script.waiting.size === 1, "the call arrives");
    const { signal } = script.waiting.get(1)!.context;
    abort.abort();
    await rejects(call, "EINTR", "cancel");
    await until(() => signal?.aborted === true, "the handler is told");
    script.answer(1, {});
    assert.deepEqual(await channel.call(ECHO, { on: 1 }), { on: 1 });
  });

  test("a call that is cancelled before it starts does not start", async (channel, script) => {
    await rejects(channel.call(ECHO, {}, { signal: AbortSignal.abort() }), "EINTR", "cancelled");
    await channel.call(ECHO, {});
    assert.equal(script.calls, 1);
  });

  const pushed: unknown[] = [];
  test("pushes arrive and are acknowledged, a body as well", async (channel, script) => {
    await channel.call(ECHO, {});
    const answer = await script.peer!.push(60, { ino: 5, body: new Uint8Array([1, 2]) });
    assert.deepEqual(answer, { open: true });
    const { op, message } = pushed[0] as { op: number; message: { ino: number; body: Uint8Array } };
    assert.deepEqual([op, message.ino, [...message.body]], [60, 5, [1, 2]]);
    const many = await Promise.all(Array.from({ length: 200 }, (_, i) => script.peer!.push(60, { i })));
    assert.equal(many.length, 200);
  }, (op, message) => {
    pushed.push({ op, message });
    return { open: true };
  });

  test("a push whose handler fails brings its errno back", async (channel, script) => {
    await channel.call(ECHO, {});
    await rejects(script.peer!.push(60, {}), "EBUSY", "push");
  }, () => {
    throw new FsError("EBUSY", "not now");
  });

  test("a push to an end that takes none is ENOSYS", async (channel, script) => {
    await channel.call(ECHO, {});
    await rejects(script.peer!.push(60, {}), "ENOSYS", "push");
  });

  const never = Promise.withResolvers<void>();
  test("a push ends at its deadline", async (channel, script) => {
    await channel.call(ECHO, {});
    await rejects(script.peer!.push(60, {}, { timeoutMs: 20 }), "ETIMEDOUT", "push");
    assert.deepEqual(await channel.call(ECHO, { on: 1 }), { on: 1 });
    never.resolve();
  }, () => never.promise);

  let own: Channel | undefined;
  test("a push handler may call the server before it answers", async (channel, script) => {
    own = channel;
    await channel.call(ECHO, {});
    assert.deepEqual(await within(script.peer!.push(60, {}), "push"), { inner: 1 });
  }, () => own!.call(ECHO, { inner: 1 }));

  const slow = Promise.withResolvers<void>();
  test("closing fails what is pending on both ends, and all that comes after", async (channel, script) => {
    await channel.call(ECHO, {});
    const pending = [1, 2, 3].map((id) => channel.call(WAIT, { id }));
    for (const call of pending) call.catch(() => {});
    await until(() => script.waiting.size === 3, "calls arrive");
    const { signal } = script.waiting.get(1)!.context;
    const peer = script.peer!;
    const push = peer.push(60, {});
    push.catch(() => {});
    channel.close();
    try {
      await within(channel.closed, "closed");
      await within(peer.closed, "the server sees it");
      for (const call of pending) await rejects(call, "ENOTCONN", "a pending call");
      await rejects(push, "ENOTCONN", "a pending push");
      await rejects(channel.call(ECHO, {}), "ENOTCONN", "a later call");
      await rejects(peer.push(60, {}), "ENOTCONN", "a later push");
      await until(() => signal?.aborted === true, "the handler is told");
    } finally {
      slow.resolve();
    }
  }, () => slow.promise);

  Deno.test(`${name}: one state a channel, kept between its calls`, async () => {
    const handlers = new Map<number, Handler>([[1, (_request, { peer }) => {
      peer.state = (peer.state as number | undefined ?? 0) + 1;
      return peer.state;
    }]]);
    await using a = await open(handlers);
    await using b = await open(handlers);
    assert.deepEqual(
      [await a.channel.call(1, {}), await a.channel.call(1, {}), await b.channel.call(1, {})],
      [
        1,
        2,
        1,
      ],
    );
  });
}
