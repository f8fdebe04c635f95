/** The session with the servers, over channels that a test answers, breaks and refuses, under a clock that it moves. */

import assert from "node:assert/strict";
import { systemClock } from "../../base/clock.ts";
import { createLogger, silentLogger } from "../../base/log.ts";
import { ClusterSession, type ClusterSessionOptions } from "../../fs/cluster_session.ts";
import type { DialOptions } from "../../wire/dialer.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asInodeId, asSessionId } from "../../wire/ids.ts";
import type { LeaseMode } from "../../wire/messages/inode.ts";
import {
  type Held,
  LEASE_PUSHES,
  LEASESERVER,
  NAMESERVER,
  RECLAIM_MAX,
  type ReclaimRequest,
  type RetryTag,
} from "../../wire/messages/nameserver.ts";
import type { CallOptions, Channel } from "../../wire/service.ts";
import { FakeClock } from "../base/fake_clock.ts";
import { INO, inodeReply, nameOf, quiet, watch } from "./client.ts";

const TTL_MS = 10_000;
/** Less a fifth: what a client counts on. */
const VALID_MS = 8_000;

const NAMES = new Map(
  [NAMESERVER, LEASESERVER].flatMap(({ methods }) =>
    Object.entries(methods).map(([name, { op }]): [number, string] => [op, name])
  ),
);

/** A nameserver as its clients see it. */
class FakeServer {
  readonly clock: FakeClock;
  /** What was called, and what the client was told besides, in order. */
  readonly events: string[] = [];
  readonly requests: { readonly name: string; readonly request: unknown }[] = [];
  readonly channels: FakeChannel[] = [];
  readonly dialled: DialOptions[] = [];
  isRefusing = false;
  /** Answers nothing. */
  isSilent = false;
  session = 1;
  run = "first";
  cuts = 0;
  isNew = true;
  /** Says what becomes of a call; undefined: the usual answer. */
  onCall: (name: string, request: unknown) => Promise<unknown> | undefined = () => undefined;

  constructor(clock: FakeClock) {
    this.clock = clock;
  }

  async dial(_address: string, options: DialOptions): Promise<{ channel: Channel; clusterId: string }> {
    if (this.isRefusing) throw new FsError("ECONNREFUSED", "nobody there");
    this.dialled.push(options);
    const channel = new FakeChannel(this);
    this.channels.push(channel);
    return { channel, clusterId: "cluster" };
  }

  answer(name: string, request: unknown): Promise<unknown> {
    this.events.push(name);
    this.requests.push({ name, request });
    const special = this.onCall(name, request);
    if (special !== undefined) return special;
    if (this.isSilent) return new Promise(() => {});
    switch (name) {
      case "openSession": {
        const resumed = !this.isNew;
        this.isNew = false;
        return Promise.resolve({
          session: asSessionId(this.session),
          resumed,
          ttlMs: TTL_MS,
          run: this.run,
          cuts: this.cuts,
          now: this.clock.now(),
        });
      }
      case "reclaim":
        return Promise.resolve({ granted: (request as ReclaimRequest).held.map(({ lease }) => lease) });
      case "renew":
        return Promise.resolve({ now: this.clock.now() });
      case "getattr":
      case "setattr":
        return Promise.resolve(inodeReply(INO, "none"));
      default:
        return Promise.resolve({ ok: true });
    }
  }

  /** The session was given up, or the server started again; existing channels end. */
  change(what: { readonly session?: number; readonly run?: string }): void {
    if (what.session !== undefined) {
      this.session = what.session;
      this.isNew = true;
    }
    if (what.run !== undefined) this.run = what.run;
    this.breakAll();
  }

  breakAll(): void {
    for (const channel of this.channels) channel.close();
  }

  count(name: string): number {
    return this.events.filter((event) => event === name).length;
  }
}

class FakeChannel implements Channel {
  readonly #server: FakeServer;
  readonly #ended = Promise.withResolvers<void>();
  isOpen = true;

  constructor(server: FakeServer) {
    this.#server = server;
  }

  get closed(): Promise<void> {
    return this.#ended.promise;
  }

  call(op: number, request: unknown, options: CallOptions = {}): Promise<unknown> {
    if (!this.isOpen) return Promise.reject(new FsError("ENOTCONN", "closed"));
    if (options.signal?.aborted) return Promise.reject(new FsError("EINTR", "cancelled"));
    return new Promise((resolve, reject) => {
      void this.closed.then(() => reject(new FsError("ENOTCONN", "closed")));
      options.signal?.addEventListener("abort", () => reject(new FsError("EINTR", "cancelled")));
      if (options.timeoutMs !== undefined) {
        void this.#server.clock.sleep(options.timeoutMs).then(() => reject(new FsError("ETIMEDOUT", "late")));
      }
      this.#server.answer(NAMES.get(op)!, request).then(resolve, reject);
    });
  }

  close(): void {
    this.isOpen = false;
    this.#ended.resolve();
  }
}

interface Started {
  readonly clock: FakeClock;
  readonly server: FakeServer;
  readonly session: ClusterSession;
  readonly warnings: string[];
  /** What the client was told, with `server.events`. */
  readonly events: string[];
  held: Held[];
  readonly granted: ReadonlyMap<number, LeaseMode>[];
  end(): Promise<void>;
}

function create(more: Partial<ClusterSessionOptions> = {}): Started {
  const clock = new FakeClock();
  const server = new FakeServer(clock);
  const warnings: string[] = [];
  const started = { held: [] as Held[], granted: [] as ReadonlyMap<number, LeaseMode>[] };
  const session = new ClusterSession({
    nameserver: "nameserver:1",
    clientId: "client",
    host: "here",
    mountpoint: "/mnt",
    dialer: server,
    clock,
    log: createLogger("session", {
      level: "info",
      json: true,
      write: (line) => void warnings.push(JSON.parse(line).message),
    }),
    onRecall: ({ items }) => ({ open: items.map(() => "no" as const) }),
    held: () => started.held,
    onReclaimed: async (granted) => {
      server.events.push("reclaimed");
      started.granted.push(granted);
    },
    onLost: async () => {
      server.events.push(`lost (${session.isValid ? "valid" : "not valid"})`);
    },
    onFenced: () => void server.events.push("fenced"),
    locks: { offered: () => {}, recalled: () => {}, reclaim: () => Promise.resolve(), connected: () => {} },
    counters: () => ({ kernelRequests: 1, inodes: 2, recalls: 3, recallMs: 4, fences: 5 }),
    ...more,
  });
  return Object.assign(started, {
    clock,
    server,
    session,
    warnings,
    events: server.events,
    async end() {
      server.isSilent = false;
      server.isRefusing = false;
      server.onCall = () => undefined;
      const closing = session.close();
      await clock.advance(TTL_MS);
      await closing;
      await quiet();
    },
  });
}

async function start(more: Partial<ClusterSessionOptions> = {}): Promise<Started> {
  const started = create(more);
  await started.session.connect();
  started.events.length = 0;
  return started;
}

const getattr = ({ session }: Started, signal?: AbortSignal) =>
  watch(session.nameserver.getattr({ ino: INO }, signal === undefined ? {} : { signal }));

const chmod = ({ session }: Started) =>
  watch(session.change((retry) => session.nameserver.setattr({ retry, ino: INO, mode: 0 })));

// ---- connecting

Deno.test("session: the first connection says who it is, and fails with the reason", async () => {
  const started = create({ place: "boot ns /mnt" });
  await started.session.connect();
  assert.deepEqual(started.events, ["openSession", "reclaim"]);
  assert.deepEqual(started.server.requests[0]!.request, {
    clientId: "client",
    host: "here",
    mountpoint: "/mnt",
    readsInline: true,
    place: "boot ns /mnt",
  });
  assert.deepEqual(started.server.requests[1]!.request, { held: [], last: true });
  assert.deepEqual(started.granted, []);
  assert.equal(started.session.clusterId, "cluster");
  assert.equal(started.server.dialled[0]!.hello.clusterId, "");
  await started.end();
  const refused = create();
  refused.server.isRefusing = true;
  await assert.rejects(refused.session.connect(), (error) => isErrno(error, "ECONNREFUSED"));
});

Deno.test("session: a connection after the first is to the same cluster only", async () => {
  const started = await start();
  started.server.breakAll();
  await quiet();
  assert.equal(started.server.dialled[1]!.hello.clusterId, "cluster");
  await started.end();
});

Deno.test("session: recalls are answered by who was asked for that", async () => {
  const started = await start();
  const answer = await started.server.dialled[0]!.onPush!(LEASE_PUSHES.methods.recall.op, {
    items: [{ ino: INO, keep: "none" }],
  });
  assert.deepEqual(answer, { open: ["no"] });
  await started.end();
});

Deno.test("session: who commits is told in the step in which it leaves, each time, and may end it", async () => {
  const started = await start();
  const { server, session, clock } = started;
  const request = { ino: INO, size: 1, mtime: clock.now(), killSuidGid: false, durable: false, written: [] };
  const sends: number[] = [];
  server.isRefusing = true;
  server.breakAll();
  await quiet();
  const committing = watch(session.change((retry) =>
    session.commit({ ...request, retry }, () => {
      sends.push(server.count("commit"));
      if (sends.length === 3) throw new FsError("EIO", "enough");
    })
  ));
  await clock.advance(1_000);
  assert.deepEqual(sends, [], "there is no connection yet");
  server.isRefusing = false;
  server.onCall = (name) => name === "commit" ? new Promise(() => {}) : undefined;
  await clock.advance(1_000);
  assert.deepEqual([sends, server.count("commit")], [[0], 1]);
  server.breakAll();
  await clock.advance(1_000);
  assert.deepEqual([sends, server.count("commit"), committing.state], [[0, 1], 2, "waits"]);
  server.breakAll();
  await clock.advance(1_000);
  assert.deepEqual([sends, server.count("commit")], [[0, 1, 2], 2]);
  assert.ok(isErrno(committing.error, "EIO"));
  await started.end();
});

// ---- validity

Deno.test("session: is valid for less than the TTL after what was sent last and answered", async () => {
  const started = await start();
  const { session, clock, server } = started;
  assert.equal(session.validForMs, VALID_MS);
  server.isSilent = true;
  await clock.advance(VALID_MS - 1);
  assert.deepEqual([session.isValid, session.validForMs], [true, 1]);
  await clock.advance(1);
  assert.deepEqual([session.isValid, session.validForMs], [false, 0]);
  await started.end();
});

Deno.test("session: counts from when something was sent, not from its answer", async () => {
  const started = create();
  const { session, clock, server } = started;
  const slow = Promise.withResolvers<void>();
  const usual = (name: string, request: unknown) => {
    server.onCall = () => undefined;
    server.events.pop();
    server.requests.pop();
    return server.answer(name, request);
  };
  server.onCall = (name, request) => slow.promise.then(() => usual(name, request));
  const connecting = session.connect();
  await clock.advance(3_000);
  slow.resolve();
  await connecting;
  assert.equal(session.validForMs, VALID_MS - 3_000);
  await started.end();
});

Deno.test("session: renewals tell whether the nameserver's disk is nearly full", async () => {
  const started = await start();
  const { session, clock, server } = started;
  for (const isFull of [false, true, false]) {
    server.onCall = (name) =>
      name === "renew" ? Promise.resolve({ now: clock.now(), ...isFull ? { isFull } : {} }) : undefined;
    await clock.advance(TTL_MS / 10);
    assert.equal(session.isFull, isFull);
  }
  await started.end();
});

Deno.test("session: renewals and all other answers keep it valid, and renewals tell the counters", async () => {
  const started = await start();
  const { session, clock, server } = started;
  await clock.advance(50_000);
  assert.ok(session.validForMs >= VALID_MS - TTL_MS / 10);
  assert.equal(server.count("renew"), 50);
  const last = server.requests.findLast(({ name }) => name === "renew")!;
  const { calls, ...counters } = (last.request as { counters: { calls: Record<string, number> } }).counters;
  assert.deepEqual(counters, { kernelRequests: 1, inodes: 2, recalls: 3, recallMs: 4, fences: 5 });
  assert.equal(calls.renew, 50);
  server.onCall = (name) => name === "renew" ? new Promise(() => {}) : undefined;
  await clock.advance(700);
  await getattr(started).promise;
  assert.equal(session.validForMs, VALID_MS);
  await started.end();
});

Deno.test("session: a silent server is noticed in time, told once, and once more the next time", async () => {
  const started = await start();
  const { session, clock, server, events, warnings } = started;
  for (let round = 1; round <= 2; round++) {
    events.length = 0;
    server.isSilent = true;
    server.isRefusing = true; // a new connection
    await clock.advance(VALID_MS - 1_000 - 1);
    assert.deepEqual([session.isValid, events.includes("fenced")], [true, false]);
    await clock.advance(1_000 + TTL_MS / 20 + 1);
    assert.deepEqual([session.isValid, events.includes("fenced")], [false, true]);
    await clock.advance(30_000);
    assert.equal(events.filter((event) => event === "fenced").length, 1);
    server.isSilent = false;
    server.isRefusing = false;
    await clock.advance(2_000);
    assert.equal(session.isValid, true);
    assert.equal(warnings.filter((message) => /answers again/.test(message)).length, round);
    assert.ok(!events.some((event) => event.startsWith("lost")), "the server has waited for it");
  }
  await started.end();
});

Deno.test("session: untilValid waits for the server, or until who waits is given up on", async () => {
  const started = await start();
  const { session, clock, server } = started;
  await session.untilValid();
  assert.equal(server.count("renew"), 0);
  server.isSilent = true;
  server.isRefusing = true;
  await clock.advance(20_000);
  const giveUp = new AbortController();
  const given = watch(session.untilValid(giveUp));
  const patient = watch(session.untilValid());
  await quiet();
  giveUp.abort();
  await quiet();
  assert.ok(isErrno(given.error, "EINTR"));
  assert.equal(patient.state, "waits");
  server.isSilent = false;
  server.isRefusing = false;
  await clock.advance(2_000);
  assert.equal(patient.state, "done");
  await started.end();
});

// ---- broken connections

Deno.test("session: a broken connection is made again, and what was under way is sent again, changes with their tag", async () => {
  const started = await start();
  const { server, clock, events } = started;
  server.onCall = (name) => name.endsWith("attr") ? new Promise(() => {}) : undefined;
  const reading = getattr(started);
  const changing = chmod(started);
  await quiet();
  assert.deepEqual(events, ["getattr", "setattr"]);
  server.onCall = () => undefined;
  server.breakAll();
  await clock.advance(200);
  assert.deepEqual([reading.state, changing.state], ["done", "done"]);
  assert.deepEqual(events.slice(2).toSorted(), ["getattr", "openSession", "setattr"]);
  assert.equal(events[2], "openSession");
  const tags = server.requests.filter(({ name }) => name === "setattr").map(({ request }) =>
    (request as { retry: RetryTag }).retry
  );
  assert.deepEqual(tags[0], tags[1]);
  await started.end();
});

Deno.test("session: connects again by itself, with nothing to send, ever more rarely while it is refused", async () => {
  const started = await start();
  const { server, clock, events } = started;
  server.isRefusing = true;
  const attempts: number[] = [];
  const dial = server.dial.bind(server);
  server.dial = (address, options) => {
    attempts.push(clock.monotonicMs());
    return dial(address, options);
  };
  server.breakAll();
  await clock.advance(20_000);
  const gaps = attempts.slice(1).map((at, i) => at - attempts[i]!);
  assert.deepEqual(gaps.slice(0, 6), [50, 100, 200, 400, 800, 1_000]);
  assert.ok(gaps.slice(5).every((gap) => gap === 1_000));
  server.isRefusing = false;
  await clock.advance(1_000);
  assert.deepEqual(events.filter((event) => event === "openSession").length, 1);
  await started.end();
});

Deno.test("session: connects again by itself also when the connection ends as soon as it is there", async () => {
  for (let steps = 0; steps <= 20; steps++) {
    const started = await start();
    const { server, clock } = started;
    server.onCall = (name) => {
      if (name !== "openSession" || server.channels.length > 2) return undefined;
      const answer = (server.onCall = () => undefined, server.answer(name, {}));
      void answer.then(async () => {
        for (let i = 0; i < steps; i++) await Promise.resolve();
        server.channels.at(-1)!.close();
      });
      return answer;
    };
    server.breakAll();
    await clock.advance(2_000);
    assert.equal(server.channels.length, 3, `${steps} steps`);
    assert.ok(server.channels.at(-1)!.isOpen, `${steps} steps`);
    await started.end();
  }
});

Deno.test("session: a server that does not know it any more is asked anew over another connection", async () => {
  const started = await start();
  const { server, clock, events } = started;
  let isKnown = false;
  server.onCall = (name) => {
    if (name === "openSession") isKnown = true;
    return isKnown ? undefined : Promise.reject(new FsError("ESHUTDOWN", "no session"));
  };
  server.session = 2;
  server.isNew = true;
  const asking = getattr(started);
  await clock.advance(200);
  assert.equal(asking.state, "done");
  assert.deepEqual(events, ["getattr", "openSession", "lost (not valid)", "getattr"]);
  assert.equal(server.channels[0]!.isOpen, false);
  await started.end();
});

Deno.test("session: an answer that is an error is told as it is, and not repeated", async () => {
  const started = await start();
  const { server, events } = started;
  server.onCall = (name) => name === "getattr" ? Promise.reject(new FsError("ENOENT", "gone")) : undefined;
  await assert.rejects(getattr(started).promise, (error) => isErrno(error, "ENOENT"));
  assert.deepEqual(events, ["getattr"]);
  await started.end();
});

Deno.test("session: a renewal without an answer gives the connection up", async () => {
  const started = await start();
  const { server, clock } = started;
  server.onCall = (name) => name === "renew" ? new Promise(() => {}) : undefined;
  await clock.advance(TTL_MS / 10 + TTL_MS / 2 + 100);
  assert.equal(server.channels[0]!.isOpen, false);
  assert.equal(server.channels.length, 2);
  await started.end();
});

// ---- the end of the session, and restarts of the server

Deno.test("session: lost, all is given up before anything else is sent, and it is not valid before", async () => {
  const started = await start();
  const { server, clock, events, session } = started;
  server.onCall = (name) => name === "getattr" ? new Promise(() => {}) : undefined;
  const reading = getattr(started);
  await quiet();
  server.onCall = () => undefined;
  server.change({ session: 2, run: "second" });
  const later = getattr(started);
  await clock.advance(200);
  assert.deepEqual([reading.state, later.state], ["done", "done"]);
  assert.deepEqual(events, ["getattr", "openSession", "lost (not valid)", "reclaim", "getattr", "getattr"]);
  assert.equal(session.isValid, true);
  await started.end();
});

Deno.test("session: lost, the giving up is waited for", async () => {
  const given = Promise.withResolvers<void>();
  const started = await start({ onLost: () => given.promise });
  const { server, clock, events, session } = started;
  server.change({ session: 2 });
  const asking = getattr(started);
  await clock.advance(5_000);
  assert.deepEqual([asking.state, session.isValid], ["waits", false]);
  assert.ok(!events.includes("getattr"));
  given.resolve();
  await clock.advance(200);
  assert.equal(asking.state, "done");
  await started.end();
});

Deno.test("session: lost, a change that may have been made is not sent again, one that was not sent is", async () => {
  const started = await start();
  const { server, clock, events } = started;
  server.onCall = (name) => name === "setattr" ? new Promise(() => {}) : undefined;
  const sent = chmod(started);
  await quiet();
  server.onCall = () => undefined;
  server.isRefusing = true;
  server.change({ session: 2 });
  await quiet();
  const unsent = chmod(started);
  await quiet();
  server.isRefusing = false;
  await clock.advance(200);
  assert.ok(isErrno(sent.error, "EIO"));
  assert.equal(unsent.state, "done");
  assert.deepEqual(events, ["setattr", "openSession", "lost (not valid)", "setattr"]);
  await started.end();
});

Deno.test("session: the same session that the server does not call resumed is another", async () => {
  const started = await start();
  started.server.change({ session: 1 });
  await started.clock.advance(200);
  assert.deepEqual(started.events, ["openSession", "lost (not valid)"]);
  await started.end();
});

Deno.test("session: a new run of the server gets what is held, in parts, before anything else", async () => {
  const started = await start();
  const { server, clock, events, granted } = started;
  const count = 2 * RECLAIM_MAX + 1;
  started.held = Array.from({ length: count }, (_, i) => ({
    ino: asInodeId(i + 1),
    lease: "read" as const,
    open: "no" as const,
  }));
  server.onCall = (name, request) => {
    if (name !== "reclaim") return undefined;
    const { held, last } = request as ReclaimRequest;
    // Of the last part nothing is granted, nor answered for.
    return Promise.resolve({ granted: last ? [] : held.map(() => "read") });
  };
  server.change({ run: "second" });
  const asking = getattr(started);
  await clock.advance(200);
  assert.equal(asking.state, "done");
  assert.deepEqual(events, ["openSession", "reclaim", "reclaim", "reclaim", "reclaimed", "getattr"]);
  const parts = server.requests.filter(({ name }) => name === "reclaim").slice(1).map(({ request }) => {
    const { held, last } = request as ReclaimRequest;
    return [held.length, last];
  });
  assert.deepEqual(parts, [[RECLAIM_MAX, false], [RECLAIM_MAX, false], [1, true]]);
  assert.equal(granted[0]!.size, count);
  assert.deepEqual([granted[0]!.get(1), granted[0]!.get(count)], ["read", "none"]);
  server.breakAll();
  await clock.advance(200);
  assert.equal(server.count("reclaim"), 3, "the same run remembers");
  await started.end();
});

Deno.test("session: a connection that breaks while things are reclaimed begins anew", async () => {
  const started = await start();
  const { server, clock, events } = started;
  started.held = [{ ino: INO, lease: "read", open: "no" }];
  server.onCall = (name) => name === "reclaim" ? new Promise(() => {}) : undefined;
  server.change({ run: "second" });
  await clock.advance(200);
  server.onCall = () => undefined;
  server.breakAll();
  await clock.advance(200);
  assert.deepEqual(events, ["openSession", "reclaim", "openSession", "reclaim", "reclaimed"]);
  await started.end();
});

Deno.test("session: lost on a server that goes on, it tells what is open here", async () => {
  const started = await start();
  const { server, clock, events } = started;
  started.held = [{ ino: INO, lease: "none", open: "read" }];
  server.change({ session: 2 });
  await clock.advance(200);
  assert.deepEqual(events, ["openSession", "lost (not valid)", "reclaim", "reclaimed"]);
  await started.end();
});

Deno.test("session: lost on a server that goes on, it tells what is open here though it has to connect twice", async () => {
  const started = await start();
  const { server, clock, events } = started;
  started.held = [{ ino: INO, lease: "none", open: "read" }];
  server.onCall = (name) => name === "reclaim" ? new Promise(() => {}) : undefined;
  server.change({ session: 2 });
  await clock.advance(200);
  server.onCall = () => undefined;
  server.breakAll();
  await clock.advance(200);
  assert.deepEqual(
    events,
    ["openSession", "lost (not valid)", "reclaim", "openSession", "reclaim", "reclaimed"],
  );
  await started.end();
});

// ---- calls

Deno.test("session: calls are counted by operation, once however often they are sent", async () => {
  const started = await start();
  const { server, clock, session } = started;
  server.onCall = (name) => name === "getattr" ? new Promise(() => {}) : undefined;
  const asking = getattr(started);
  await quiet();
  server.onCall = () => undefined;
  server.breakAll();
  await clock.advance(200);
  await asking.promise;
  await chmod(started).promise;
  await session.release([], []);
  const { getattr: gets, setattr, release, openSession } = session.calls;
  assert.deepEqual([gets, setattr, release, openSession], [1, 1, 1, 2]);
  await started.end();
});

Deno.test("session: a release is sent once; what was not heard is told as failed", async () => {
  const started = await start();
  const { server, clock, session, events } = started;
  const held = [{ ino: INO, lease: "none", open: "no" }] as const;
  server.onCall = (name) => name === "release" ? new Promise(() => {}) : undefined;
  const sent = watch(session.release(held, [INO]));
  await quiet();
  server.onCall = () => undefined;
  server.isRefusing = true;
  server.breakAll();
  await quiet();
  assert.equal(sent.state, "failed");
  const unsent = watch(session.release(held, []));
  await quiet();
  assert.ok(isErrno(unsent.error, "ENOTCONN"));
  server.isRefusing = false;
  await clock.advance(2_000);
  assert.deepEqual(server.requests.filter(({ name }) => name === "release").map(({ request }) => request), [
    { held, unused: [INO] },
  ]);
  assert.equal(events.at(-1), "renew");
  await started.end();
});

Deno.test("session: a create that was sent is answered, whoever gives up, also over a new connection", async () => {
  const started = await start();
  const { server, session, clock, events } = started;
  const make = (signal: AbortSignal) =>
    watch(
      session.change((retry) => {
        const name = new Uint8Array([0x61]);
        const request = { retry, parent: INO, name, mode: 0o644, umask: 0, exclusive: false, write: true };
        return session.create({ ...request, credentials: { uid: 0, gid: 0 } }, { signal });
      }),
    );
  server.onCall = (name) => name === "create" ? new Promise(() => {}) : undefined;
  const giveUp = new AbortController();
  const sent = make(giveUp.signal);
  await quiet();
  giveUp.abort();
  await quiet();
  assert.equal(sent.state, "waits");
  const unsent = make(AbortSignal.abort());
  await quiet();
  assert.ok(isErrno(unsent.error, "EINTR"));
  server.onCall = () => undefined;
  server.breakAll();
  await clock.advance(5_000);
  assert.equal(sent.state, "done");
  assert.equal(events.filter((event) => event === "create").length, 2);
  await started.end();
});

Deno.test("session: a change of names is given up on only until it is sent", async () => {
  const started = await start();
  const { server, session } = started;
  const name = nameOf("a");
  const asks = {
    make: { parent: INO, name, mode: 0o040755, credentials: { uid: 0, gid: 0 } },
    link: { ino: INO, parent: INO, name },
    remove: { parent: INO, name, directory: false },
    rename: { parent: INO, name, newParent: INO, newName: name, flags: 0 },
  };
  for (const method of ["make", "link", "remove", "rename"] as const) {
    const answer = Promise.withResolvers<unknown>();
    server.onCall = (called) => called === method ? answer.promise : undefined;
    const ask = session.nameserver[method] as (request: unknown, call: CallOptions) => Promise<unknown>;
    const change = (signal: AbortSignal) =>
      watch(session.change((retry) => ask({ ...asks[method], retry }, { signal })));
    const giveUp = new AbortController();
    const sent = change(giveUp.signal);
    await quiet();
    giveUp.abort();
    await quiet();
    assert.equal(sent.state, "waits", method);
    const unsent = change(AbortSignal.abort());
    await quiet();
    assert.ok(isErrno(unsent.error, "EINTR"), method);
    answer.resolve({});
    await quiet();
    assert.equal(sent.state, "done", method);
  }
  await started.end();
});

Deno.test("session: an interrupted call ends, wherever it is", async () => {
  const started = await start();
  const { server, clock, events } = started;
  server.onCall = (name) => name === "getattr" ? new Promise(() => {}) : undefined;
  const giveUp = new AbortController();
  const asking = getattr(started, giveUp.signal);
  await quiet();
  giveUp.abort();
  await quiet();
  assert.ok(isErrno(asking.error, "EINTR"), "unanswered");

  server.isRefusing = true;
  server.breakAll();
  const giveUpToo = new AbortController();
  const waiting = getattr(started, giveUpToo.signal);
  const patient = getattr(started);
  await clock.advance(5_000);
  giveUpToo.abort();
  await quiet();
  assert.ok(isErrno(waiting.error, "EINTR"), "not sent");
  assert.equal(patient.state, "waits");
  const before = getattr(started, AbortSignal.abort());
  await quiet();
  assert.ok(isErrno(before.error, "EINTR"), "before it was made");
  server.isRefusing = false;
  server.onCall = () => undefined;
  await clock.advance(1_000);
  assert.equal(patient.state, "done");
  assert.equal(events.filter((event) => event === "getattr").length, 2);
  await started.end();
});

Deno.test("session: with a soft time-out a call without a server fails, and none waits for longer", async () => {
  const started = await start({ clock: systemClock, log: silentLogger, softTimeoutMs: 150 });
  const { server } = started;
  server.isRefusing = true;
  server.breakAll();
  const startMs = performance.now();
  await assert.rejects(getattr(started).promise, (error) => isErrno(error, "EIO"));
  const tookMs = performance.now() - startMs;
  assert.ok(tookMs > 140 && tookMs < 2_000, `${tookMs} ms`);
  server.isRefusing = false;
  await started.session.close();
});

// ---- retry tags

Deno.test("session: changes in flight have slots of their own, whose numbers grow; more wait", async () => {
  const started = await start();
  const { session } = started;
  const ends: (() => void)[] = [];
  const tags: RetryTag[] = [];
  const run = () =>
    watch(session.change((retry) => {
      tags.push(retry);
      return new Promise<void>((resolve) => ends.push(resolve));
    }));
  const running = Array.from({ length: 130 }, run);
  await quiet();
  assert.equal(tags.length, 111);
  assert.equal(new Set(tags.map(({ slot }) => slot)).size, 111);
  assert.ok(tags.every(({ slot, sequence }) => slot >= 16 && slot < 127 && sequence === 1));
  const flushTags: RetryTag[] = [];
  const flushes = Array.from({ length: 17 }, () =>
    watch(session.flushChange((retry) => {
      flushTags.push(retry);
      return new Promise<void>((resolve) => ends.push(resolve));
    })));
  await quiet();
  assert.deepEqual(
    flushTags.map(({ slot }) => slot).toSorted((a, b) => a - b),
    Array.from(
      { length: 16 },
      (_, i) => i,
    ),
    "what a recall waits for has its own",
  );
  ends.shift()!();
  await quiet();
  assert.equal(tags.length, 112);
  assert.deepEqual(tags[111], { slot: tags[0]!.slot, sequence: 2 });
  while (ends.length > 0) {
    ends.shift()!();
    await quiet();
  }
  assert.ok([...running, ...flushes].every(({ state }) => state === "done"));
  await assert.rejects(session.change(() => Promise.reject(new FsError("ENOSPC", "full"))));
  for (const [slot, sequences] of Map.groupBy(tags, ({ slot }) => slot)) {
    assert.deepEqual(
      sequences.map(({ sequence }) => sequence),
      sequences.map((_, i) => i + 1),
      `slot ${slot}`,
    );
  }
  await started.end();
});

// ---- time, and the end

Deno.test("session: times are the server's where the clocks differ, ours where they don't", async () => {
  const started = await start();
  const { session, clock, server } = started;
  assert.deepEqual(session.now(), clock.now());
  server.onCall = (name) => {
    if (name !== "renew") return undefined;
    const { seconds, nanoseconds } = clock.now();
    return Promise.resolve({ now: { seconds: seconds - 7, nanoseconds } });
  };
  await clock.advance(1_100);
  const { seconds, nanoseconds } = session.now();
  const now = clock.now();
  assert.ok(nanoseconds >= 0 && nanoseconds < 1e9);
  assert.ok(Math.abs((seconds - now.seconds) + (nanoseconds - now.nanoseconds) / 1e9 + 7) < 0.001);
  await started.end();
});

Deno.test("session: closed, it says goodbye, ends its connection, and fails what is asked then", async () => {
  const started = await start();
  const { session, server, clock, events } = started;
  const closing = session.close();
  await clock.advance(TTL_MS);
  await closing;
  assert.deepEqual([events[0], server.channels[0]!.isOpen], ["closeSession", false]);
  await assert.rejects(getattr(started).promise, (error) => isErrno(error, "ENOTCONN"));
  await clock.advance(60_000);
  assert.equal(server.channels.length, 1);
});

Deno.test("session: closed while there is no server, it ends all the same", async () => {
  const started = await start();
  const { session, server, clock } = started;
  server.isRefusing = true;
  server.breakAll();
  const waiting = getattr(started);
  await clock.advance(3_000);
  const closing = watch(session.close());
  await clock.advance(2_000);
  assert.deepEqual([closing.state, waiting.state], ["done", "failed"]);
});

Deno.test("session: closed while it connects, it leaves no connection behind", async () => {
  const started = await start();
  const { session, server, clock } = started;
  const dial = server.dial.bind(server);
  const slow = Promise.withResolvers<void>();
  server.dial = async (address, options) => {
    await slow.promise;
    return await dial(address, options);
  };
  server.breakAll();
  await quiet();
  const closing = session.close();
  await clock.advance(1_000);
  await closing;
  slow.resolve();
  await clock.advance(1_000);
  assert.deepEqual(server.channels.map(({ isOpen }) => isOpen), [false, false]);
});

Deno.test("session: closed, it sends nothing after its goodbye", async () => {
  const started = await start();
  const { session, clock, events } = started;
  const closing = session.close();
  await clock.advance(TTL_MS);
  await closing;
  assert.deepEqual(events, ["closeSession"]);
});

Deno.test("session: a power cut of the server's machine is told with the loss, and by the next sync once if something was changed", async () => {
  const told: boolean[] = [];
  const started = await start({ onLost: async (isCut) => void told.push(isCut) });
  const { server, clock, session } = started;
  const sync = async () => {
    const syncing = watch(session.sync());
    await clock.advance(200);
    return syncing.error;
  };
  const lose = async (session: number, cuts: number) => {
    server.cuts = cuts;
    server.change({ session });
    await clock.advance(2_000);
  };
  chmod(started);
  await clock.advance(200);
  await lose(2, 0);
  assert.equal(await sync(), undefined, "it is there");
  await lose(3, 1);
  assert.equal(await sync(), undefined, "it was synced");
  chmod(started);
  await clock.advance(200);
  await lose(4, 2);
  assert.ok(isErrno(await sync(), "EIO"));
  assert.equal(await sync(), undefined);
  assert.deepEqual(told, [false, true, true]);
  await started.end();
});

// ---- deferred changes

Deno.test("session: what was deferred is told before anything else leaves; a waiting caller may be killed", async () => {
  let telling: PromiseWithResolvers<void> | undefined = Promise.withResolvers<void>();
  const started = await start({ settle: () => telling?.promise });
  const { server, session } = started;
  const killed = new AbortController();
  const calls = [getattr(started), chmod(started), getattr(started, killed.signal)];
  await quiet();
  assert.deepEqual([started.events, session.isQuiet], [[], false]);
  killed.abort();
  await quiet();
  assert.ok(isErrno(calls[2]!.error, "EINTR"));
  // The deferred changes themselves, and numbers for inodes, wait for nothing.
  await session.defer([], () => {});
  await session.reserveInodes(5);
  assert.deepEqual(started.events, ["defer", "reserveInodes"]);
  telling.resolve();
  telling = undefined;
  await quiet();
  assert.deepEqual([server.count("getattr"), server.count("setattr"), session.isQuiet], [1, 1, true]);
  await started.end();
});

Deno.test("session: a change that waited for some that are lost is not made, written data goes on; a sync says so once", async () => {
  let telling: PromiseWithResolvers<void> | undefined = Promise.withResolvers<void>();
  const started = await start({ settle: () => telling?.promise });
  const { session, clock } = started;
  const report = { ino: INO, size: 1, mtime: clock.now(), killSuidGid: false, durable: false, written: [] };
  const changing = chmod(started);
  const asking = getattr(started);
  const flushing = watch(session.flushChange((retry) => session.commit({ ...report, retry }, () => {})));
  const syncing = watch(session.sync());
  session.noteLostChange();
  telling.resolve();
  telling = undefined;
  await quiet();
  assert.deepEqual([asking.state, flushing.state, changing.state, syncing.state], [
    ...["done", "done", "failed", "failed"],
  ]);
  assert.ok(isErrno(changing.error, "EIO") && isErrno(syncing.error, "EIO"));
  await session.sync();
  assert.equal(await chmod(started).promise.then(() => "done"), "done");
  await started.end();
});

Deno.test("session: deferred changes are not sent in another session than theirs", async () => {
  let isLost = false;
  const started = await start({ onLost: async () => void (isLost = true) });
  const { server, session, clock } = started;
  server.isRefusing = true;
  server.change({ session: 9 });
  const telling = watch(session.defer([], () => {
    if (isLost) throw new FsError("EIO", "lost");
  }));
  await clock.advance(500);
  server.isRefusing = false;
  await clock.advance(1_000);
  assert.deepEqual([telling.state, server.count("defer")], ["failed", 0]);
  await started.end();
});
