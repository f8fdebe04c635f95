import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { Leaseserver } from "../../../roles/leaseserver/leaseserver.ts";
import type { ErrnoName } from "../../../wire/errno.ts";
import { asInodeId, asSessionId } from "../../../wire/ids.ts";
import { KEPT_RANGES_MAX, type LockRequest } from "../../../wire/messages/locks.ts";
import { LEASE_PUSHES } from "../../../wire/messages/nameserver.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { FakePeer } from "../nameserver/fake_peer.ts";
import { passLooking, rest, TTL_MS, watch } from "./harness.ts";

const INO = asInodeId(5);
const OWNER = { ino: INO, kind: "posix", owner: "a" } as const;
const LOCK = { ...OWNER, start: 0, end: Infinity, type: "write", pid: 1 } as const;

/** A server that knows the sessions of these clients from before its restart. */
function start(...clients: string[]) {
  const clock = new FakeClock();
  let next = 1;
  const server = new Leaseserver({
    run: "r",
    clock,
    log: silentLogger,
    stored: clients.map((clientId, i) => ({
      session: asSessionId(70 + i),
      clientId,
      host: "h",
      mountpoint: "/m",
    })),
    store: { nextId: () => next++, save: () => Promise.resolve(), remove: () => {} },
    fence: () => Promise.resolve(),
    onSessionEnd: () => {},
    onRelease: () => Promise.resolve(),
    onUnused: () => Promise.resolve(),
    onReclaim: () => Promise.resolve(),
  });
  const open = async (clientId: string) => {
    const peer = new FakePeer();
    const { session } = await server.handlers.openSession(
      { clientId, host: "h", mountpoint: "/m" },
      peer.context,
    );
    return { peer, session, context: peer.context };
  };
  return { clock, server, open, locks: server.lockHandlers };
}

const refused = (errno: ErrnoName) => ({ errno });

Deno.test("lock service: after a restart nobody gets a lock before all have claimed theirs", async () => {
  const { server, open, locks } = start("old");
  const old = await open("old");
  const other = await open("new");
  const asked = watch(locks.lock({ ...LOCK, wait: 1 }, other.context));
  const tested = watch(locks.testLock(LOCK, other.context));
  await rest();
  assert.deepEqual([asked.isDone, tested.isDone], [false, false]);
  const held = await locks.setLocks({ owners: [{ ...OWNER, pid: 9, ranges: [LOCK] }] }, old.context);
  assert.deepEqual(held, { held: [true] });
  await server.handlers.reclaim({ held: [], last: true }, old.context);
  await rest();
  assert.deepEqual(asked.value, { granted: false });
  assert.equal((tested.value as { conflict: { pid: number } }).conflict.pid, 0);
  await locks.unlock({ ...OWNER, start: 0, end: Infinity }, old.context);
  await rest();
  assert.deepEqual(other.peer.pushes, [{ op: LEASE_PUSHES.methods.lockOffered.op, message: { wait: 1 } }]);
});

Deno.test("lock service: what waited for that is not done for who came back over another connection meanwhile", async () => {
  const { server, open, locks } = start("old");
  const first = await open("new");
  const asked = assert.rejects(async () => await locks.lock(LOCK, first.context), refused("ESHUTDOWN"));
  await open("new");
  const old = await open("old");
  await server.handlers.reclaim({ held: [], last: true }, old.context);
  await asked;
  assert.deepEqual(server.locks.countOf(first.session), { locks: 0, waits: 0 });
});

Deno.test("lock service: the end of a session, said or by silence, releases what it held", async () => {
  const { server, clock, open, locks } = start();
  const one = await open("one");
  const two = await open("two");
  await locks.lock(LOCK, one.context);
  assert.deepEqual(server.status().map(({ locks: held, lockWaits }) => [held, lockWaits]), [[1, 0], [0, 0]]);
  await server.handlers.closeSession({}, one.context);
  assert.deepEqual(await locks.lock(LOCK, two.context), { granted: true });
  await passLooking(clock, server.sessions, TTL_MS);
  const three = await open("three");
  await clock.advance(1);
  server.sessions.expire();
  assert.deepEqual(await locks.lock(LOCK, three.context), { granted: true });
});

Deno.test("lock service: what is no lock is refused, and touches nothing", async () => {
  const { server, open, locks } = start();
  const { context, session } = await open("one");
  const bad: Partial<Record<keyof LockRequest, unknown>>[] = [
    { ino: 0 },
    { ino: 1.5 },
    { kind: "lease" },
    { owner: "" },
    { owner: "xyz" },
    { owner: "1".repeat(17) },
    { owner: 7 },
    { start: -1 },
    { start: NaN },
    { start: 2 ** 53 },
    { start: 5n },
    { start: 2n ** 63n },
    { start: 2n ** 60n, end: 9 },
    { start: 5, end: 4 },
    { end: 2 ** 60 },
    { type: "exclusive" },
    { kind: "flock", start: 1 },
    { kind: "flock", end: 9 },
    { wait: 0 },
  ];
  for (const one of bad) {
    const request = { ...LOCK, ...one } as LockRequest;
    await assert.rejects(
      async () => await locks.lock(request, context),
      refused("EINVAL"),
      String(Object.entries(one)),
    );
    if (one.wait !== undefined) continue;
    await assert.rejects(async () => await locks.testLock(request, context), refused("EINVAL"));
    const owned = { ...request, ranges: [request] };
    await assert.rejects(async () => await locks.setLocks({ owners: [owned] }, context), refused("EINVAL"));
  }
  await assert.rejects(async () => await locks.cancelLock({ wait: -1 }, context), refused("EINVAL"));
  assert.deepEqual(server.locks.countOf(session), { locks: 0, waits: 0 });
  const stranger = new FakePeer();
  await assert.rejects(async () => await locks.lock(LOCK, stranger.context), refused("ESHUTDOWN"));
});

Deno.test("lock service: who is alone on a file keeps its locks, until another asks, and tells what it holds then", async () => {
  const { open, locks } = start();
  const one = await open("one");
  const two = await open("two");
  const kept = 7;
  assert.deepEqual(await locks.lock({ ...LOCK, keep: kept }, one.context), { granted: true, kept: true });
  const asked = watch(locks.lock({ ...LOCK, start: 0, end: 9, wait: 1, keep: 7 }, two.context));
  const tested = watch(locks.testLock({ ...LOCK, start: 50, end: 60 }, two.context));
  await rest();
  assert.deepEqual([asked.isDone, tested.isDone], [false, false]);
  const { op } = LEASE_PUSHES.methods.recallLocks;
  assert.deepEqual(one.peer.pushes, [{ op, message: { ino: INO, kept } }]);
  // It has let go of the beginning, and another of its processes has some.
  const range = { start: 40, end: 59, type: "write" } as const;
  const owners = [{ ...OWNER, owner: "b", pid: 3, ranges: [range] }];
  await locks.giveUpLocks({ ino: INO, kept: kept + 1, owners: [] }, one.context); // not that one
  await rest();
  assert.equal(asked.isDone, false);
  await locks.giveUpLocks({ ino: INO, kept, owners }, one.context);
  await rest();
  assert.deepEqual(asked.value, { granted: true }); // it is not alone there
  assert.deepEqual(tested.value, { conflict: { ...range, pid: 0 } });
  await locks.giveUpLocks({ ino: INO, kept, owners: [] }, one.context); // sent again
  assert.deepEqual(await locks.testLock({ ...LOCK, start: 50, end: 60 }, two.context), tested.value);
});

Deno.test("lock service: a call of who keeps the locks ends that; with others there, or waiting, nobody keeps them", async () => {
  const { open, locks } = start();
  const one = await open("one");
  const two = await open("two");
  await locks.lock({ ...LOCK, end: 9, keep: 7 }, one.context);
  await locks.unlock({ ...OWNER, start: 0, end: 4 }, one.context);
  // Too late: it would bring back what was unlocked.
  await locks.giveUpLocks(
    { ino: INO, kept: 7, owners: [{ ...OWNER, pid: 1, ranges: [LOCK] }] },
    one.context,
  );
  const beside = { ...LOCK, start: 0, end: 4, keep: 7 } as const;
  assert.deepEqual(await locks.lock(beside, two.context), { granted: true });
  assert.deepEqual(await locks.lock({ ...LOCK, start: 5, end: 6, keep: 7 }, one.context), {
    granted: true,
  });
  assert.deepEqual(one.peer.pushes, []);
  assert.deepEqual(await locks.lock({ ...LOCK, owner: "c", wait: 4 }, one.context), { granted: false });
  await locks.unlock({ ...OWNER, start: 0, end: 4 }, two.context);
  const waited = await locks.lock({ ...LOCK, start: 0, end: 2, keep: 7 }, one.context);
  assert.deepEqual(waited, { granted: true });
});

Deno.test("lock service: nobody keeps more locks of a file than can be given up in one message", async () => {
  const { open, locks } = start();
  const one = await open("one");
  for (let i = 0; i < KEPT_RANGES_MAX; i++) {
    await locks.lock({ ...LOCK, start: 2 * i, end: 2 * i }, one.context);
  }
  const more = { ...LOCK, start: 2 * KEPT_RANGES_MAX, end: Infinity, keep: 7 };
  assert.deepEqual(await locks.lock(more, one.context), { granted: true });
  await locks.unlock({ ...OWNER, start: 0, end: 0 }, one.context);
  assert.deepEqual(await locks.lock({ ...more, keep: 8 }, one.context), { granted: true, kept: true });
});

Deno.test("lock service: a session that ends, or does not give up, keeps nobody from the locks", async () => {
  const { server, clock, open, locks } = start();
  const one = await open("one");
  const two = await open("two");
  await locks.lock({ ...LOCK, keep: 7 }, one.context);
  const asked = watch(locks.lock(LOCK, two.context));
  await rest();
  await server.handlers.closeSession({}, one.context);
  await rest();
  assert.deepEqual(asked.value, { granted: true });
  await locks.unlock({ ...OWNER, start: 0, end: Infinity }, two.context);
  await locks.lock({ ...LOCK, keep: 7 }, two.context);
  const three = await open("three");
  const again = watch(locks.lock(LOCK, three.context));
  for (let i = 0; i < 8 && !again.isDone; i++) {
    await clock.advance(TTL_MS / 2);
    await server.handlers.renew({}, three.context);
    if (server.sessions.isAlive(two.session)) await server.handlers.renew({}, two.context);
    server.sessions.expire();
    await rest();
  }
  assert.deepEqual(again.value, { granted: true });
});
