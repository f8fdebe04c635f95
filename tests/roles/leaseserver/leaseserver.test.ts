import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { Leaseserver, type LeaseserverOptions } from "../../../roles/leaseserver/leaseserver.ts";
import type { SessionRecord } from "../../../roles/leaseserver/sessions.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asInodeId, asSessionId, type InodeId, type SessionId } from "../../../wire/ids.ts";
import { type Held, RECLAIM_MAX } from "../../../wire/messages/nameserver.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { FakePeer } from "../nameserver/fake_peer.ts";
import { rest } from "./harness.ts";

const INO = asInodeId(5);
const OTHER = asInodeId(6);
const STORED = [{ session: asSessionId(70), clientId: "old", host: "h", mountpoint: "/m" }];

interface StartOptions extends Pick<LeaseserverOptions, "rootSquash" | "inlineLimit" | "isFull"> {
  readonly stored?: readonly SessionRecord[];
  readonly run?: string;
}

function start(options: StartOptions = {}) {
  const { stored = [], run = "r1", ...others } = options;
  const clock = new FakeClock();
  const ended: SessionId[] = [];
  const released: [SessionId, InodeId][] = [];
  const unused: (readonly InodeId[])[] = [];
  const reclaimed: [SessionId, readonly boolean[]][] = [];
  const fenced: InodeId[] = [];
  let next = 1;
  const server = new Leaseserver({
    ...others,
    sessionTtlMs: 10_000,
    run,
    clock,
    log: silentLogger,
    stored,
    store: { nextId: () => next++, save: () => Promise.resolve(), remove: () => {} },
    fence: async (ino) => void fenced.push(ino),
    onSessionEnd: (session) => ended.push(session),
    onRelease: async (session, ino) => void released.push([session, ino]),
    onUnused: async (inodes) => void unused.push(inodes),
    onReclaim: async (session, isOpen) => void reclaimed.push([session, [INO, OTHER].map(isOpen)]),
  });
  const open = async (clientId: string, host = "h") => {
    const peer = new FakePeer(() => ({ open: [] }));
    const request = { clientId, host, mountpoint: "/m" };
    const reply = await server.handlers.openSession(request, peer.context);
    return { session: reply.session, context: peer.context, reply };
  };
  const acquire = async (session: SessionId, ino: InodeId, mode: "read" | "write") => {
    const look = () => server.leases.lease(ino, session, "turn");
    const lease = await server.leases.acquire(ino, session, mode, look);
    await rest();
    return lease;
  };
  return { clock, server, open, acquire, ended, released, unused, reclaimed, fenced };
}

const isRefused = (error: unknown) => isErrno(error, "EINVAL");
const shutdown = (error: unknown) => isErrno(error, "ESHUTDOWN");

Deno.test("leaseserver: hosts are told whom their root counts as, but those whose root stays root", async () => {
  const user = { uid: 65534, gid: 65534 };
  const { open } = start({ rootSquash: { user, exceptHosts: ["admin"] } });
  assert.deepEqual((await open("a", "node1")).reply.rootSquash, user);
  assert.equal((await open("b", "admin")).reply.rootSquash, undefined);
});

Deno.test("leaseserver: a mount that does not know of data beside inodes gets no session where there may be some", async () => {
  const { server } = start({ inlineLimit: 0 });
  const { context } = new FakePeer(() => ({ open: [] }));
  const request = { clientId: "a", host: "h", mountpoint: "/m" };
  await assert.rejects(
    async () => await server.handlers.openSession(request, context),
    (error) => isErrno(error, "EPROTO") && error.message.includes("install"),
  );
  assert.equal(
    (await server.handlers.openSession({ ...request, readsInline: true }, context)).inlineLimit,
    0,
  );
});

Deno.test("leaseserver: a session is told the TTL, the time, whether it is the same, and the server's run", async () => {
  const { open, clock } = start({ stored: STORED, run: "second" });
  const { reply } = await open("old");
  assert.deepEqual(reply, {
    session: 70,
    resumed: true,
    ttlMs: 10_000,
    now: clock.now(),
    run: "second",
    cuts: 0,
  });
  assert.equal((await open("new")).reply.resumed, false);
});

Deno.test("leaseserver: what is held is said in parts, and counts when the last has come", async () => {
  const { server, open, acquire, reclaimed } = start({ stored: STORED });
  const [old, fresh] = [await open("old"), await open("new")];
  const one: Held = { ino: INO, lease: "write", open: "write" };
  const two: Held = { ino: OTHER, lease: "read", open: "no" };
  let lease: string | undefined;
  const acquiring = acquire(fresh.session, asInodeId(7), "write").then((granted) => lease = granted);
  assert.deepEqual(await server.handlers.reclaim({ held: [one], last: false }, old.context), {
    granted: ["write"],
  });
  await rest();
  assert.deepEqual([lease, reclaimed.length], [undefined, 0]);
  assert.deepEqual(await server.handlers.reclaim({ held: [two], last: true }, old.context), {
    granted: ["read"],
  });
  await acquiring;
  assert.equal(lease, "write");
  assert.deepEqual(reclaimed, [[old.session, [true, false]]], "what is open there is kept");
  assert.deepEqual(server.leases.countOf(old.session), { read: 1, exclusive: 0, write: 1 });
});

Deno.test("leaseserver: nothing held is said by an empty last part", async () => {
  const { server, open, reclaimed } = start({ stored: STORED });
  const old = await open("old");
  assert.deepEqual(await server.handlers.reclaim({ held: [], last: true }, old.context), { granted: [] });
  assert.deepEqual(reclaimed, [[old.session, [false, false]]]);
  assert.equal(server.leases.lease(INO, (await open("new")).session), "read");
});

Deno.test("leaseserver: two who both claim WRITE do not both get it", async () => {
  const second = { ...STORED[0]!, session: asSessionId(71), clientId: "other" };
  const { server, open } = start({ stored: [...STORED, second] });
  const [a, b] = [await open("old"), await open("other")];
  const request = { held: [{ ino: INO, lease: "write", open: "write" }], last: true } as const;
  assert.deepEqual(await server.handlers.reclaim(request, a.context), { granted: ["write"] });
  assert.deepEqual(await server.handlers.reclaim(request, b.context), { granted: ["none"] });
});

Deno.test("leaseserver: closed files and blocks that nobody wrote to are passed on", async () => {
  const { server, open, acquire, released, unused } = start();
  const [a, b] = [await open("a"), await open("b")];
  for (const ino of [INO, OTHER]) await acquire(a.session, ino, "write");
  const held: Held[] = [
    { ino: INO, lease: "read", open: "no" },
    { ino: OTHER, lease: "read", open: "read" },
  ];
  await server.handlers.release({ held, unused: [INO] }, a.context);
  assert.deepEqual(released, [[a.session, INO]]);
  assert.deepEqual(unused, [[INO]]);
  assert.deepEqual(server.leases.countOf(a.session), { read: 2, exclusive: 0, write: 0 });
  assert.equal(server.leases.lease(INO, b.session), "read");
  await server.handlers.release(
    { held: [{ ino: INO, lease: "none", open: "no" }], unused: [INO] },
    a.context,
  );
  assert.deepEqual(unused, [[INO]], "another knows the block by now");
  await server.handlers.release({ held: [], unused: [] }, a.context);
  assert.equal(released.length, 2);
});

Deno.test("leaseserver: messages that speak of too many inodes are refused whole", async () => {
  const { server, open, released, reclaimed } = start();
  const { context } = await open("a");
  const held = Array.from(
    { length: RECLAIM_MAX + 1 },
    (_, i): Held => ({ ino: asInodeId(i + 1), lease: "read", open: "no" }),
  );
  await assert.rejects(async () => await server.handlers.reclaim({ held, last: true }, context), isRefused);
  await assert.rejects(async () => await server.handlers.release({ held, unused: [] }, context), isRefused);
  assert.deepEqual([released, reclaimed], [[], []]);
  const reply = await server.handlers.reclaim({ held: held.slice(1), last: true }, context);
  assert.equal(reply.granted.length, RECLAIM_MAX);
});

Deno.test("leaseserver: a renewal says when there is hardly room for what clients make without asking", async () => {
  let isFull = true;
  const { server, open, clock } = start({ isFull: () => isFull });
  const { context } = await open("a");
  assert.deepEqual(await server.handlers.renew({}, context), { now: clock.now(), isFull });
  isFull = false;
  assert.deepEqual(await server.handlers.renew({}, context), { now: clock.now() });
});

Deno.test("leaseserver: renew, its counters, and goodbye", async () => {
  const { server, open, acquire, ended, fenced, clock } = start();
  const a = await open("a");
  await acquire(a.session, INO, "write");
  server.leases.lease(OTHER, a.session);
  await clock.advance(340);
  assert.deepEqual(server.status().map(({ lastSeenSeconds, counters }) => [lastSeenSeconds, counters]), [[
    0.3,
    undefined,
  ]]);
  const counters = { kernelRequests: 1, calls: { lookup: 2 }, inodes: 3, recalls: 4, recallMs: 5, fences: 0 };
  assert.deepEqual(await server.handlers.renew({ counters }, a.context), { now: clock.now() });
  assert.deepEqual(await server.handlers.renew({}, a.context), { now: clock.now() });
  assert.deepEqual(server.status(), [{
    session: a.session,
    host: "h",
    mountpoint: "/m",
    connected: true,
    lastSeenSeconds: 0,
    readLeases: 1,
    exclusiveLeases: 0,
    writeLeases: 1,
    locks: 0,
    lockWaits: 0,
    counters,
  }]);
  await server.handlers.closeSession({}, a.context);
  assert.deepEqual([ended, fenced, server.status()], [[a.session], [INO], []]);
  assert.throws(() => server.handlers.renew({}, a.context), shutdown);
});

Deno.test("leaseserver: who has no session is told so by everything but the opening of one", async () => {
  const { server } = start();
  const { context } = new FakePeer();
  for (
    const ask of [
      () => server.handlers.renew({}, context),
      () => server.handlers.reclaim({ held: [], last: true }, context),
      () => server.handlers.release({ held: [], unused: [INO] }, context),
      () => server.handlers.closeSession({}, context),
    ]
  ) {
    await assert.rejects(async () => await ask(), shutdown);
  }
});
