/** The dispatcher over requests in memory: good ones, truncated ones, random ones, and handlers that misbehave. */

import assert from "node:assert/strict";
import { bytesKey, bytesOf, concatBytes, copyBytes } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { SeededRandom } from "../../../base/random.ts";
import { Dispatcher, type ReplySink } from "../../../fs/kernel/dispatcher.ts";
import type { FileSystemHandlers, RequestContext } from "../../../fs/kernel/handlers.ts";
import { CONNECTION_DEFAULTS, type ConnectionFeatures } from "../../../fs/kernel/init.ts";
import { PAYLOAD_COPY_BYTES_MAX } from "../../../fs/kernel/operations.ts";
import * as P from "../../../fs/kernel/protocol.ts";
import type { ReplyBuffer } from "../../../fs/kernel/reply.ts";
import { RequestBuffer } from "../../../fs/kernel/request.ts";
import { ERRNO, FsError } from "../../../wire/errno.ts";
import { testSeed } from "../../base/seeded.ts";
import { answeredLater, MemoryFs } from "./memory_fs.ts";
import { encodeRequest, EXAMPLES, fixed, nameBytes, type RequestFields } from "./requests.ts";

interface Reply {
  readonly error: number;
  readonly unique: number;
  readonly payload: Uint8Array;
}

/** A dispatcher whose replies are collected, and checked as the kernel would. */
class Harness implements ReplySink {
  /** How many requests were still waited for after each that was. */
  readonly answers: number[] = [];
  readonly replies: Reply[] = [];
  readonly returned: RequestBuffer[] = [];
  features: ConnectionFeatures | null = null;
  /** What the next `send` says instead of sending. */
  refuse: number[] = [];
  readonly dispatcher: Dispatcher;
  buffer = new RequestBuffer(1024 * 1024 + 4096);

  constructor(handlers: FileSystemHandlers) {
    this.dispatcher = new Dispatcher({
      handlers,
      sink: this,
      log: silentLogger,
      connection: { ...CONNECTION_DEFAULTS, passthroughStackDepth: 1 },
      trace: null,
    });
  }

  answered(): void {
    this.answers.push(this.dispatcher.pendingCount);
  }

  send(reply: ReplyBuffer): number {
    const refused = this.refuse.shift();
    if (refused !== undefined) return refused;
    const parts = [reply.bytes.subarray(0, reply.length)];
    if (reply.tail instanceof Uint8Array) parts.push(reply.tail as Uint8Array<ArrayBuffer>);
    else if (reply.tail !== null) parts.push(...reply.tail as Uint8Array<ArrayBuffer>[]);
    const message = concatBytes(parts);
    const view = new DataView(message.buffer);
    const error = view.getInt32(P.OUT_HEADER.error, true);
    assert.equal(view.getUint32(P.OUT_HEADER.len, true), message.length, "the length is the bytes written");
    assert.ok(error <= 0 && error > -512, `error ${error} is acceptable to the kernel`);
    if (error !== 0) assert.equal(message.length, P.OUT_HEADER.bytes, "an error has no payload");
    this.replies.push({
      error,
      unique: view.getUint32(P.OUT_HEADER.unique, true),
      payload: message.subarray(P.OUT_HEADER.bytes),
    });
    return message.length;
  }

  giveBack(buffer: RequestBuffer): void {
    this.returned.push(buffer);
  }

  connected(features: ConnectionFeatures): void {
    this.features = features;
  }

  /** Dispatches and says whether the buffer was kept. */
  dispatch(message: Uint8Array): boolean {
    this.buffer.bytes.fill(0xaa, 0, message.length + 300);
    this.buffer.bytes.set(message);
    const kept = this.dispatcher.dispatch(this.buffer, message.length);
    if (!kept) this.buffer.bytes.fill(0xbb, 0, message.length); // as the next request would
    return kept;
  }

  async settled(): Promise<void> {
    for (let i = 0; i < 1000 && this.dispatcher.pendingCount > 0; i++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert.equal(this.dispatcher.pendingCount, 0, "all requests were answered");
  }

  async ask(fields: RequestFields): Promise<Reply> {
    const before = this.replies.length;
    this.dispatch(encodeRequest(fields));
    await this.settled();
    assert.equal(this.replies.length, before + 1, `one reply to opcode ${fields.opcode}`);
    return this.replies[before]!;
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function withFile(): MemoryFs {
  const fs = new MemoryFs();
  const context: RequestContext = { uid: 0, gid: 0, pid: 0, signal: new AbortController().signal };
  fs.create(context, 1, bytesOf("file"), 0, 0o644, 0);
  fs.setattr(context, 2, { size: 50, killSuidGid: false });
  return fs;
}

const REPLY_BYTES: Readonly<Record<number, number>> = {
  [P.OP_LOOKUP]: 128,
  [P.OP_GETATTR]: 104,
  [P.OP_STATX]: 288,
  [P.OP_SETATTR]: 104,
  [P.OP_CREATE]: 144,
  [P.OP_OPEN]: 16,
  [P.OP_WRITE]: 8,
  [P.OP_INIT]: 64,
  [P.OP_LSEEK]: 8,
  [P.OP_COPY_FILE_RANGE]: 8,
  [P.OP_COPY_FILE_RANGE_64]: 8,
  [P.OP_GETLK]: 24,
  [P.OP_UNLINK]: 0,
  [P.OP_GETXATTR]: 5,
  [P.OP_LISTXATTR]: 7,
};

for (const mode of ["at once", "later"] as const) {
  const newHarness = () => new Harness(mode === "at once" ? withFile() : answeredLater(withFile(), 0));

  Deno.test(`dispatcher: every operation succeeds when answered ${mode}`, async () => {
    const harness = newHarness();
    let unique = 0;
    for (const example of EXAMPLES) {
      unique += 2;
      const reply = await harness.ask({ ...example, unique });
      assert.equal(reply.error, 0, `opcode ${example.opcode}`);
      assert.equal(reply.unique, unique);
      const expected = REPLY_BYTES[example.opcode];
      if (expected !== undefined) assert.equal(reply.payload.length, expected, `opcode ${example.opcode}`);
    }
    assert.equal(harness.features?.minor, 45);
    assert.equal(harness.features?.hasPassthrough, true);
  });

  Deno.test(`dispatcher: every truncation of every request is answered with an error, ${mode}`, async () => {
    for (const example of EXAMPLES) {
      const whole = encodeRequest(example);
      for (const adjustsLength of [true, false]) {
        for (let length = P.IN_HEADER.bytes; length < whole.length; length++) {
          const harness = newHarness();
          const message = copyBytes(whole.subarray(0, length));
          if (adjustsLength) new DataView(message.buffer).setUint32(0, length, true);
          harness.dispatch(message);
          await harness.settled();
          assert.equal(harness.replies.length, 1, `opcode ${example.opcode} cut to ${length}`);
          assert.ok(harness.replies[0]!.error < 0, `opcode ${example.opcode} cut to ${length} is an error`);
        }
      }
    }
  });

  Deno.test(`dispatcher: random bytes never break it, ${mode}`, async () => {
    const seed = testSeed();
    const random = new SeededRandom(seed);
    const harness = newHarness();
    let expected = 0;
    try {
      for (let i = 0; i < 5000; i++) {
        const body = new Uint8Array(Math.floor(random.next() * 120));
        for (let k = 0; k < body.length; k++) {
          body[k] = random.next() < 0.5 ? 0 : Math.floor(random.next() * 256);
        }
        const opcode = Math.floor(random.next() * 70);
        const nodeid = Math.floor(random.next() * 4);
        // Bounded sizes: MemoryFs would allocate what a random size asks for.
        if ([P.OP_SETATTR, P.OP_FALLOCATE, P.OP_WRITE].includes(opcode)) body.fill(0, 8, 32);
        if ([P.OP_COPY_FILE_RANGE, P.OP_COPY_FILE_RANGE_64].includes(opcode)) body.fill(0, 32, 40);
        harness.dispatch(encodeRequest({ opcode, nodeid, body, unique: 2 * i + 2 }));
        if (!isReplyless(opcode)) expected++;
        if (i % 100 === 0) await harness.settled();
      }
      await harness.settled();
      assert.equal(harness.replies.length, expected);
      await sleep(150); // an INTERRUPT may have hit: the look at the caller ends with its request
    } catch (error) {
      console.log(`MFS_TEST_SEED=${seed}`);
      throw error;
    }
  });
}

function isReplyless(opcode: number): boolean {
  return opcode === P.OP_FORGET || opcode === P.OP_BATCH_FORGET || opcode === P.OP_INTERRUPT ||
    opcode === P.OP_NOTIFY_REPLY;
}

Deno.test("dispatcher: an operation without a handler is ENOSYS, an ioctl ENOTTY, an unknown opcode ENOSYS", async () => {
  const harness = new Harness({});
  for (const example of EXAMPLES) {
    if (example.opcode === P.OP_INIT) continue;
    assert.equal((await harness.ask(example)).error, -ERRNO.ENOSYS);
  }
  assert.equal((await harness.ask({ opcode: P.OP_IOCTL, body: fixed(32) })).error, -ERRNO.ENOTTY);
  assert.equal((await harness.ask({ opcode: P.OP_POLL, body: fixed(24) })).error, -ERRNO.ENOSYS);
  assert.equal((await harness.ask({ opcode: 4711 })).error, -ERRNO.ENOSYS);
  assert.equal((await harness.ask({ opcode: P.OP_DESTROY })).error, 0);
});

Deno.test("dispatcher: a name of 255 bytes passes, one of 256 is ENAMETOOLONG", async () => {
  const harness = new Harness(withFile());
  const lookup = (length: number) =>
    harness.ask({ opcode: P.OP_LOOKUP, body: nameBytes("n".repeat(length)) });
  assert.equal((await lookup(255)).error, -ERRNO.ENOENT);
  assert.equal((await lookup(256)).error, -ERRNO.ENAMETOOLONG);
});

Deno.test("dispatcher: errors of a handler become its reply", async () => {
  const outcomes: [unknown, number][] = [
    [new FsError("EDQUOT", "full"), -ERRNO.EDQUOT],
    [new Error("a bug"), -ERRNO.EIO],
    [Object.assign(new Error("disk"), { code: "ENOSPC" }), -ERRNO.ENOSPC],
    [undefined, -ERRNO.EIO],
    [-ERRNO.EACCES, -ERRNO.EACCES],
    [-4000, -ERRNO.EIO],
    [5, -ERRNO.EIO],
    [NaN, -ERRNO.EIO],
    [-1.5, -ERRNO.EIO],
  ];
  for (const [outcome, expected] of outcomes) {
    const act = () => {
      if (typeof outcome === "number") return outcome;
      throw outcome;
    };
    const later = async () => act();
    for (const lookup of [act, later]) {
      const reply = await new Harness({ lookup }).ask({ opcode: P.OP_LOOKUP, body: nameBytes("x") });
      assert.equal(reply.error, expected, String(outcome));
    }
  }
});

Deno.test("dispatcher: an answer that cannot be encoded is EIO", async () => {
  for (const answer of [undefined, null, {}, 0, "text"]) {
    const lookup = () => answer as unknown as number;
    const reply = await new Harness({ lookup }).ask({ opcode: P.OP_LOOKUP, body: nameBytes("x") });
    assert.equal(reply.error, -ERRNO.EIO, String(answer));
  }
});

Deno.test("dispatcher: a reply that the kernel refuses is replaced by EIO, one that it forgot is not", async () => {
  const harness = new Harness(withFile());
  harness.refuse = [-ERRNO.EINVAL];
  assert.equal((await harness.ask({ opcode: P.OP_LOOKUP, body: nameBytes("file") })).error, -ERRNO.EIO);
  harness.refuse = [-ERRNO.ENOENT];
  harness.dispatch(encodeRequest({ opcode: P.OP_LOOKUP, body: nameBytes("file") }));
  assert.equal(harness.replies.length, 1);
});

/** A harness whose lookups and lock waits go on until they are interrupted. */
function waitingHarness(): {
  readonly harness: Harness;
  readonly aborted: number[];
  readonly interrupt: (unique: number) => void;
} {
  const aborted: number[] = [];
  const untilAborted = async ({ signal }: RequestContext, what: number): Promise<number> => {
    await new Promise<void>((resolve) => {
      if (signal.aborted) return resolve();
      signal.addEventListener("abort", () => resolve());
    });
    aborted.push(what);
    return -ERRNO.EINTR;
  };
  const harness = new Harness({
    lookup: (context, parent) => untilAborted(context, parent),
    setlk: (context, nodeid) => untilAborted(context, nodeid),
    getlk: (_context, _node, _fh, _owner, lock) => lock,
  });
  const interrupt = (unique: number) => {
    const body = fixed(8, { 0: unique });
    harness.dispatch(encodeRequest({ opcode: P.OP_INTERRUPT, unique: unique + 1, body }));
  };
  return { harness, aborted, interrupt };
}

Deno.test("dispatcher: INTERRUPT ends a wait for a lock at once, of that request only, before or after it came", async () => {
  const { harness, aborted, interrupt } = waitingHarness();
  const waitForLock = (unique: number, nodeid: number) =>
    harness.dispatch(
      encodeRequest({ opcode: P.OP_SETLKW, unique, nodeid, pid: Deno.pid, body: fixed(P.LK_IN.bytes) }),
    );
  waitForLock(10, 1);
  waitForLock(12, 2);
  interrupt(12);
  await sleep(5);
  assert.deepEqual(aborted, [2], "though this process is not being killed");
  interrupt(14);
  waitForLock(14, 3);
  await sleep(5);
  assert.deepEqual(aborted, [2, 3]);
  harness.dispatcher.abandon();
  await harness.settled();
  assert.deepEqual(harness.replies.map((reply) => reply.unique), [12, 14, 10]);
  for (let i = 0; i < 1000; i++) interrupt(1000 + 2 * i); // strays are bounded
});

Deno.test("dispatcher: INTERRUPT of all else goes on waiting while the caller lives, and aborts when it is killed", async () => {
  const { harness, aborted, interrupt } = waitingHarness();
  // Its status has SIGKILL neither pending nor blocked: this very process.
  harness.dispatch(
    encodeRequest({ opcode: P.OP_LOOKUP, unique: 10, nodeid: 1, pid: Deno.pid, body: nameBytes("a") }),
  );
  interrupt(10);
  await sleep(1_300);
  assert.deepEqual(aborted, []);
  // Gone, or in another pid namespace: taken for killed after a while, whether the interrupt came before or after.
  const gone = new Deno.Command("true").spawn();
  await gone.status;
  interrupt(12);
  for (const [unique, nodeid] of [[12, 2], [14, 3]]) {
    harness.dispatch(
      encodeRequest({
        opcode: P.OP_LOOKUP,
        unique: unique!,
        nodeid: nodeid!,
        pid: gone.pid,
        body: nameBytes("b"),
      }),
    );
  }
  interrupt(14);
  await sleep(500);
  assert.deepEqual(aborted, [], "it may be one that cannot be seen");
  await sleep(800);
  assert.deepEqual(aborted, [2, 3]);
  harness.dispatcher.abandon();
  await harness.settled();
  assert.deepEqual(aborted, [2, 3, 1]);
  await sleep(150); // the look at who is not being killed ends with its request
});

Deno.test("dispatcher: data of a write stays valid until a late handler settles; only large ones keep the buffer", async () => {
  for (const length of [10, PAYLOAD_COPY_BYTES_MAX - 1, PAYLOAD_COPY_BYTES_MAX, 1024 * 1024]) {
    const data = new Uint8Array(length).map((_, i) => i % 251);
    let seen: Uint8Array | null = null;
    const harness = new Harness({
      write: async (_context, _node, _fh, _offset, given) => {
        await new Promise((resolve) => setTimeout(resolve, 2));
        seen = copyBytes(given);
        return given.length;
      },
    });
    const body = concatBytes([fixed(P.WRITE_IN.bytes, { 16: length }), data]);
    const kept = harness.dispatch(encodeRequest({ opcode: P.OP_WRITE, body }));
    assert.equal(kept, length >= PAYLOAD_COPY_BYTES_MAX);
    await harness.settled();
    assert.deepEqual(seen, data);
    assert.deepEqual(harness.returned, kept ? [harness.buffer] : []);
  }
});

Deno.test("dispatcher: it is told when a request that was waited for was answered, or has failed", async () => {
  const waiting: PromiseWithResolvers<number>[] = [];
  const harness = new Harness({
    fsync: () => {
      const one = Promise.withResolvers<number>();
      waiting.push(one);
      return one.promise;
    },
    unlink: () => 0,
  });
  harness.dispatch(encodeRequest({ opcode: P.OP_UNLINK, body: bytesOf("a\0") }));
  assert.deepEqual(harness.answers, []);
  for (let unique = 1; unique <= 2; unique++) {
    harness.dispatch(encodeRequest({ opcode: P.OP_FSYNC, unique, body: new Uint8Array(16) }));
  }
  waiting[0]!.resolve(0);
  await sleep(1);
  assert.deepEqual(harness.answers, [1]);
  waiting[1]!.reject(new FsError("EIO", "why"));
  await harness.settled();
  assert.deepEqual([harness.answers, harness.replies.map(({ error }) => error)], [[1, 0], [0, 0, -5]]);
});

Deno.test("dispatcher: what is to be done after the reply is done then, once, whatever the answer", async () => {
  for (const answer of [new Uint8Array([1, 2]), -ERRNO.EIO, "nonsense"]) {
    const harness = new Harness({
      read: async (context) => {
        const before = harness.replies.length;
        context.onReplied!(() => {
          done++;
          assert.equal(harness.replies.length, before + 1);
        });
        await Promise.resolve();
        return answer as Uint8Array;
      },
    });
    let done = 0;
    await harness.ask({ opcode: P.OP_READ, body: fixed(P.READ_IN.bytes, { 16: 10 }) });
    assert.equal(done, 1);
  }
});

Deno.test("dispatcher: memory that the handler of a write takes stays its own until it gives it back, once", async () => {
  for (const length of [10, PAYLOAD_COPY_BYTES_MAX]) {
    let giveBack: (() => void) | undefined;
    let isTwice = false;
    const harness = new Harness({
      write: async (context, _node, _fh, _offset, given) => {
        giveBack = context.takeBuffer!();
        isTwice = context.takeBuffer!() !== undefined;
        await Promise.resolve();
        return given.length;
      },
    });
    const body = concatBytes([fixed(P.WRITE_IN.bytes, { 16: length }), new Uint8Array(length)]);
    const kept = harness.dispatch(encodeRequest({ opcode: P.OP_WRITE, body }));
    await harness.settled();
    const isLarge = length >= PAYLOAD_COPY_BYTES_MAX;
    assert.equal(kept, isLarge);
    assert.equal(giveBack !== undefined, isLarge, "a small one is a copy");
    assert.equal(isTwice, false);
    assert.deepEqual(harness.returned, [], "the answer does not give it back");
    giveBack?.();
    assert.deepEqual(harness.returned, isLarge ? [harness.buffer] : []);
  }
});

Deno.test("dispatcher: getxattr and listxattr tell the size, the value, or ERANGE", async () => {
  const harness = new Harness({
    getxattr: () => bytesOf("value"),
    listxattr: () => [bytesOf("user.a"), bytesOf("user.bc")],
  });
  const get = (size: number) =>
    harness.ask({ opcode: P.OP_GETXATTR, body: concatBytes([fixed(8, { 0: size }), nameBytes("user.a")]) });
  const list = (size: number) => harness.ask({ opcode: P.OP_LISTXATTR, body: fixed(8, { 0: size }) });
  assert.deepEqual([...(await get(0)).payload], [5, 0, 0, 0, 0, 0, 0, 0]);
  assert.equal((await get(4)).error, -ERRNO.ERANGE);
  assert.deepEqual((await get(5)).payload, bytesOf("value"));
  assert.deepEqual([...(await list(0)).payload], [15, 0, 0, 0, 0, 0, 0, 0]);
  assert.equal((await list(14)).error, -ERRNO.ERANGE);
  assert.deepEqual((await list(15)).payload, bytesOf("user.a\0user.bc\0"));
});

Deno.test("dispatcher: times before 1970, long timeouts and large numbers keep their value", async () => {
  const time = { seconds: -5, nanoseconds: 7 };
  const attributes = {
    ino: 2 ** 52 + 1,
    size: 2 ** 51 + 3,
    blocks: 1,
    atime: time,
    mtime: time,
    ctime: time,
    btime: time,
    mode: 0o100644,
    nlink: 1,
    uid: 0xfffffffe,
    gid: 2,
    rdev: 0,
    blockSize: 4096,
  };
  let seen: unknown;
  const harness = new Harness({
    getattr: () => ({ attributeTimeoutMs: Infinity, attributes }),
    setattr: (_context, _node, changes) => {
      seen = changes;
      return { attributeTimeoutMs: 1500, attributes };
    },
  });
  const view = new DataView(copyBytes((await harness.ask(EXAMPLES[1]!)).payload).buffer);
  assert.equal(view.getBigUint64(P.ATTR_OUT.attr_valid, true), 0x7fffffffn);
  assert.equal(view.getBigUint64(P.ATTR_OUT.attr + P.ATTR.ino, true), 2n ** 52n + 1n);
  assert.equal(view.getBigUint64(P.ATTR_OUT.attr + P.ATTR.size, true), 2n ** 51n + 3n);
  assert.equal(view.getBigInt64(P.ATTR_OUT.attr + P.ATTR.mtime, true), -5n);
  assert.equal(view.getUint32(P.ATTR_OUT.attr + P.ATTR.mtimensec, true), 7);
  assert.equal(view.getUint32(P.ATTR_OUT.attr + P.ATTR.uid, true), 0xfffffffe);

  const S = P.SETATTR_IN;
  const body = fixed(S.bytes, {
    [S.valid]: P.FATTR_MTIME | P.FATTR_ATIME | P.FATTR_ATIME_NOW | P.FATTR_MODE | P.FATTR_KILL_SUIDGID,
    [S.mode]: 0o600,
    [S.mtime]: 0xfffffffb,
    [S.mtime + 4]: 0xffffffff,
    [S.mtimensec]: 9,
  });
  const reply = await harness.ask({ opcode: P.OP_SETATTR, body });
  assert.deepEqual(seen, {
    killSuidGid: true,
    mode: 0o600,
    atime: "now",
    mtime: { seconds: -5, nanoseconds: 9 },
  });
  const valid = new DataView(copyBytes(reply.payload).buffer);
  assert.equal(valid.getUint32(P.ATTR_OUT.attr_valid, true), 1);
  assert.equal(valid.getUint32(P.ATTR_OUT.attr_valid_nsec, true), 500_000_000);
});

Deno.test("dispatcher: a directory reply holds whole, padded records and never more than asked", async () => {
  const names = Array.from({ length: 200 }, (_, i) => bytesOf("n".repeat(1 + i % 17) + i));
  let added = 0;
  const harness = new Harness({
    readdir: (_context, _node, _fh, cookie, writer) => {
      for (added = cookie; added < names.length; added++) {
        if (!writer.add(names[added]!, added + 10, 8, added + 1)) break;
      }
      return 0;
    },
  });
  const seen: Uint8Array[] = [];
  for (let cookie = 0;;) {
    const { payload } = await harness.ask({
      opcode: P.OP_READDIR,
      body: fixed(P.READ_IN.bytes, { [P.READ_IN.size]: 512, [P.READ_IN.offset]: cookie }),
    });
    assert.ok(payload.length <= 512 && payload.length % 8 === 0);
    if (payload.length === 0) break;
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    for (let at = 0; at < payload.length;) {
      const length = view.getUint32(at + P.DIRENT.namelen, true);
      seen.push(payload.subarray(at + P.DIRENT.bytes, at + P.DIRENT.bytes + length));
      cookie = view.getUint32(at + P.DIRENT.off, true);
      at += (P.DIRENT.bytes + length + 7) & ~7;
    }
  }
  assert.deepEqual(seen.map(bytesKey), names.map(bytesKey));
});

Deno.test("dispatcher: FORGET and BATCH_FORGET reach the handler, a lock to the end is Infinity", async () => {
  const forgotten: [number, number][] = [];
  let range: unknown;
  const harness = new Harness({
    forget: (nodeid, lookups) => void forgotten.push([nodeid, lookups]),
    getlk: (_context, _node, _fh, owner, lock) => {
      range = { owner, ...lock };
      return lock;
    },
    setlk: () => 0,
  });
  harness.dispatch(encodeRequest({ opcode: P.OP_FORGET, nodeid: 5, body: fixed(8, { 0: 3 }) }));
  const two = concatBytes([fixed(8, { 0: 2 }), fixed(16, { 0: 7, 8: 1 }), fixed(16, { 0: 8, 8: 2 })]);
  harness.dispatch(encodeRequest({ opcode: P.OP_BATCH_FORGET, nodeid: 0, body: two }));
  harness.dispatch(encodeRequest({ opcode: P.OP_BATCH_FORGET, nodeid: 0, body: two.subarray(0, 30) }));
  assert.deepEqual(forgotten, [[5, 3], [7, 1], [8, 2]]);
  assert.equal(harness.replies.length, 0);

  const body = fixed(P.LK_IN.bytes, {
    8: 1,
    12: 0xf0000000,
    16: 4,
    24: 0xffffffff,
    28: 0x7fffffff,
    32: 1,
    36: 99,
  });
  const { payload } = await harness.ask({ opcode: P.OP_GETLK, body });
  assert.deepEqual(range, { owner: 0xf000000000000001n, start: 4, end: Infinity, type: 1, pid: 99 });
  assert.deepEqual(payload, body.subarray(16, 40));
});

Deno.test("dispatcher: time-outs are over in a reply that is late, as the process was stopped before it was written", async () => {
  const now = { seconds: 1, nanoseconds: 0 };
  const times = { atime: now, mtime: now, ctime: now, btime: now };
  const owner = { mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0 };
  for (const stoppedMs of [0, 150]) {
    const answer = {
      nodeid: 2,
      generation: 1,
      entryTimeoutMs: 3_000,
      attributeTimeoutMs: 2_000,
      /** Encoded last. */
      get attributes() {
        for (const startMs = performance.now(); performance.now() - startMs < stoppedMs;);
        return { ino: 2, size: 0, blocks: 0, blockSize: 4096, ...times, ...owner };
      },
    };
    const harness = new Harness({
      lookup: () => answer,
      getattr: () => answer,
      statx: () => answer,
      readdir: (_context, _node, _fh, _cookie, writer) => {
        for (const name of ["a", "b"]) writer.addPlus(bytesOf(name), 2, 8, 1, answer);
        return 0;
      },
    } as FileSystemHandlers);
    const ask = async (opcode: number) => {
      const { payload, error } = await harness.ask(EXAMPLES.find((example) => example.opcode === opcode)!);
      assert.equal(error, 0);
      return new DataView(copyBytes(payload).buffer);
    };
    const isLate = stoppedMs > 0;
    const [forNames, forAttributes] = isLate ? [0, 0] : [3, 2];
    const entry = await ask(P.OP_LOOKUP);
    assert.equal(entry.getUint32(P.ENTRY_OUT.entry_valid, true), forNames);
    assert.equal(entry.getUint32(P.ENTRY_OUT.attr_valid, true), forAttributes);
    assert.equal(entry.getUint32(P.ENTRY_OUT.nodeid, true), 2, "all else is as it was");
    assert.equal((await ask(P.OP_GETATTR)).getUint32(P.ATTR_OUT.attr_valid, true), forAttributes);
    assert.equal((await ask(P.OP_STATX)).getUint32(P.STATX_OUT.attr_valid, true), forAttributes);
    const listing = await ask(P.OP_READDIRPLUS);
    for (const start of [0, listing.byteLength / 2]) {
      const at = start + P.DIRENTPLUS.entry_out;
      assert.equal(listing.getUint32(at + P.ENTRY_OUT.entry_valid, true), forNames);
      assert.equal(listing.getUint32(at + P.ENTRY_OUT.attr_valid, true), forAttributes);
    }
  }
});
