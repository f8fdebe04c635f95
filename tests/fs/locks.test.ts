import assert from "node:assert/strict";
import { silentLogger } from "../../base/log.ts";
import { type Random, randomInt } from "../../base/random.ts";
import { isOfdWait } from "../../fs/lock_caller.ts";
import { Locks } from "../../fs/locks.ts";
import { FsError } from "../../wire/errno.ts";
import { asInodeId } from "../../wire/ids.ts";
import { KEPT_RANGES_MAX, type LockRequest, LOCKS, type OwnedLocks } from "../../wire/messages/locks.ts";
import { createClient } from "../../wire/service.ts";
import { FakeClock, settle } from "../base/fake_clock.ts";
import { chance, pick, seededTest } from "../base/seeded.ts";
import { Process, World } from "./lock_world.ts";

const INO = asInodeId(5);
const CALLER = { ino: INO, kind: "posix", owner: "a1", fh: 3, pid: 70 } as const;
const ALL = { start: 0, end: Infinity, type: "write" } as const;
/** Of the simulation: so many clients, processes on each, and things that a process does. */
const CLIENTS = 3;
const PROCESSES = 3;
const STEPS = 40;
const ROUNDS = 8;
const OPS = new Map(Object.entries(LOCKS.methods).map(([name, { op }]) => [op, name]));

interface Call {
  readonly name: string;
  // deno-lint-ignore no-explicit-any -- looked at by tests that know which it is
  readonly request: any;
  answer(value: unknown): Promise<void>;
  fail(error: FsError): Promise<void>;
}

/** Locks over a server that answers when the test says so. */
function start(waitsForOfdLock = () => Promise.resolve(false)) {
  const clock = new FakeClock();
  const calls: Call[] = [];
  const server = createClient(LOCKS, (op, request) =>
    new Promise((resolve, reject) =>
      calls.push({
        name: OPS.get(op)!,
        request,
        answer: (value) => (resolve(value), settle()),
        fail: (error) => (reject(error), settle()),
      })
    ));
  const errors: string[] = [];
  const log = {
    ...silentLogger,
    error: (message: string) => void errors.push(message),
  } as typeof silentLogger;
  const world = { isValid: true };
  const isValid = () => world.isValid;
  const locks = new Locks({ server, clock, log, waitsForOfdLock, isValid });
  const abort = new AbortController();
  const thread = { pid: 71, signal: abort.signal };
  const next = async (name: string): Promise<Call> => {
    await settle();
    const call = calls.shift();
    assert.equal(call?.name, name);
    return call!;
  };
  return Object.assign(world, { locks, clock, calls, thread, next, errors, interrupt: () => abort.abort() });
}

function outcome(work: Promise<unknown>): { state: string } {
  const state = { state: "pending" };
  work.then(() => state.state = "ok", (error) => state.state = (error as FsError).errno);
  return state;
}

const errno = (name: "EAGAIN" | "EDEADLK" | "EIO") => new FsError(name, "no");

Deno.test("client locks: one call each; a close after that has nothing to tell", async () => {
  const { locks, thread, next, calls } = start();
  const locked = outcome(locks.tryLock(CALLER, ALL, thread));
  const call = await next("lock");
  assert.deepEqual(call.request, { ino: INO, kind: "posix", owner: "a1", ...ALL, pid: 70, keep: 1 });
  await call.answer({ granted: true });
  assert.equal(locked.state, "ok");
  const unlocked = outcome(locks.unlock(CALLER, { start: 0, end: Infinity }, thread));
  await (await next("unlock")).answer({ ok: true });
  assert.equal(unlocked.state, "ok");
  assert.equal(locks.closed(INO, "a1"), undefined);
  assert.equal(locks.closed(INO, "b"), undefined);
  locks.released(3);
  assert.equal(calls.length, 0);
});

Deno.test("client locks: a close releases what the process holds, and its wait for that is bounded", async () => {
  const { locks, thread, next, clock } = start();
  const locked = locks.tryLock(CALLER, ALL, thread);
  await (await next("lock")).answer({ granted: true });
  await locked;
  const closed = outcome(locks.closed(INO, "a1")!);
  const call = await next("setLocks");
  assert.deepEqual(call.request.owners, [{ ino: INO, kind: "posix", owner: "a1", pid: 70, ranges: [] }]);
  assert.equal(closed.state, "pending");
  await clock.advance(2_000);
  assert.equal(closed.state, "ok");
  await call.answer({ held: [true] });
  assert.equal(locks.closed(INO, "a1"), undefined);
});

Deno.test("client locks: the last close of an open file releases what was locked through it alone", async () => {
  const { locks, thread, next, calls } = start();
  const take = async (caller: Parameters<Locks["tryLock"]>[0]) => {
    const locked = locks.tryLock(caller, ALL, thread);
    await (await next("lock")).answer({ granted: true });
    await locked;
  };
  await take({ ...CALLER, kind: "flock", owner: "f" });
  await take({ ...CALLER, owner: "ofd" });
  await take({ ...CALLER, owner: "process" });
  await take({ ...CALLER, owner: "process", fh: 4 });
  locks.released(3);
  const told = [(await next("setLocks")).request, (await next("setLocks")).request];
  assert.deepEqual(told.map(({ owners }) => (owners as OwnedLocks[])[0]!.owner).sort(), ["f", "ofd"]);
  assert.equal(calls.length, 0);
});

Deno.test("client locks: who waits asks again when it is told, and a word that comes early is not lost", async () => {
  const { locks, thread, next } = start();
  const locked = outcome(locks.lock(CALLER, ALL, thread));
  const first = await next("lock");
  const { wait } = first.request as LockRequest;
  locks.offered(wait!);
  await first.answer({ granted: false });
  await (await next("lock")).answer({ granted: false });
  assert.equal(locked.state, "pending");
  locks.offered(wait!);
  const last = await next("lock");
  assert.equal(last.request.wait, wait);
  await last.answer({ granted: true });
  assert.equal(locked.state, "ok");
});

Deno.test("client locks: a signal ends a wait at once; the server is told, again if it offers the lock later", async () => {
  const { locks, thread, next, interrupt, calls } = start();
  const locked = outcome(locks.lock(CALLER, ALL, thread));
  const asked = await next("lock");
  await asked.answer({ granted: false });
  interrupt();
  await settle();
  assert.equal(locked.state, "EINTR");
  const cancel = await next("cancelLock");
  assert.equal(cancel.request.wait, asked.request.wait);
  locks.offered(asked.request.wait);
  await (await next("cancelLock")).answer({ ok: true });
  await cancel.answer({ ok: true });
  assert.equal(locks.closed(INO, "a1"), undefined);
  assert.equal(calls.length, 0);
});

Deno.test("client locks: a signal while the answer is on its way: the lock is told, as it is had", async () => {
  const { locks, thread, next, interrupt, clock } = start();
  const locked = outcome(locks.lock(CALLER, ALL, thread));
  const asked = await next("lock");
  interrupt();
  await clock.advance(500);
  assert.equal(locked.state, "pending");
  await asked.answer({ granted: true });
  assert.equal(locked.state, "ok");
  assert.notEqual(locks.closed(INO, "a1"), undefined);
});

Deno.test("client locks: a lock whose answer comes after its caller was let go is taken back", async () => {
  const { locks, thread, next, interrupt, clock, calls } = start();
  const locked = outcome(locks.lock(CALLER, ALL, thread));
  const asked = await next("lock");
  interrupt();
  await clock.advance(1_000);
  assert.equal(locked.state, "EINTR");
  await asked.answer({ granted: true });
  const call = await next("setLocks");
  assert.deepEqual(call.request.owners[0].ranges, []);
  await call.answer({ held: [true] });
  await (await next("cancelLock")).answer({ ok: true });
  assert.equal(locks.closed(INO, "a1"), undefined);
  assert.equal(calls.length, 0);
});

Deno.test("client locks: a deadlock is told to processes; for an open file the lock is waited for", async () => {
  for (const isOfd of [false, true]) {
    const { locks, thread, next } = start(() => Promise.resolve(isOfd));
    const locked = outcome(locks.lock(CALLER, ALL, thread));
    const asked = await next("lock");
    assert.equal(asked.request.isUnchecked, undefined);
    await asked.fail(errno("EDEADLK"));
    if (!isOfd) {
      assert.equal(locked.state, "EDEADLK");
      continue;
    }
    const again = await next("lock");
    assert.equal(again.request.isUnchecked, true);
    await again.answer({ granted: true });
    assert.equal(locked.state, "ok");
  }
});

Deno.test("client locks: what was lost with the session is EIO until the file is closed, also for its handle", async () => {
  const { locks, thread, next, errors, calls } = start();
  const locked = locks.tryLock(CALLER, ALL, thread);
  await (await next("lock")).answer({ granted: true });
  await locked;
  locks.lost();
  assert.equal(errors.length, 1);
  assert.equal(locks.refusalOf(3)?.errno, "EIO");
  assert.equal(locks.refusalOf(4), undefined);
  await assert.rejects(locks.tryLock(CALLER, ALL, thread), { errno: "EIO" });
  await assert.rejects(locks.lock(CALLER, ALL, thread), { errno: "EIO" });
  await assert.rejects(locks.unlock(CALLER, { start: 0, end: 5 }, thread), { errno: "EIO" });
  await assert.rejects(locks.test(CALLER, ALL, thread), { errno: "EIO" });
  await locks.closed(INO, "a1");
  locks.released(3);
  assert.equal(locks.refusalOf(3), undefined);
  assert.equal(calls.length, 0);
  const again = outcome(locks.tryLock({ ...CALLER, fh: 5 }, ALL, thread));
  await (await next("lock")).answer({ granted: true });
  assert.equal(again.state, "ok");
});

Deno.test("client locks: what was under way when the session was lost is taken back in the new one, and EIO", async () => {
  const { locks, thread, next, calls } = start();
  const locked = locks.tryLock(CALLER, { ...ALL, end: 9 }, thread);
  await (await next("lock")).answer({ granted: true });
  await locked;
  const late = outcome(locks.tryLock(CALLER, { ...ALL, start: 10 }, thread));
  const asked = await next("lock");
  locks.lost();
  await asked.answer({ granted: true });
  const taken = await next("setLocks");
  assert.deepEqual(taken.request.owners[0].ranges, []);
  await taken.answer({ held: [true] });
  assert.equal(late.state, "EIO");
  locks.connected();
  await settle();
  assert.equal(calls.length, 0);
});

Deno.test("client locks: what was to settle a doubt, but came into another session, is settled there", async () => {
  const { locks, thread, next, calls } = start();
  const locked = locks.tryLock(CALLER, { ...ALL, end: 9 }, thread);
  await (await next("lock")).answer({ granted: true });
  await locked;
  const failed = outcome(locks.tryLock(CALLER, { ...ALL, start: 10 }, thread));
  await (await next("lock")).fail(errno("EIO"));
  assert.equal(failed.state, "EIO");
  locks.connected();
  const settled = await next("setLocks");
  assert.deepEqual(settled.request.owners[0].ranges, [{ ...ALL, end: 9 }]);
  locks.lost();
  await settled.answer({ held: [true] });
  const again = await next("setLocks");
  assert.deepEqual(again.request.owners[0].ranges, []);
  await again.answer({ held: [true] });
  assert.equal(calls.length, 0);
});

Deno.test("client locks: a restarted server is told what is held, and what it refuses is lost", async () => {
  const { locks, thread, next, errors } = start();
  for (const owner of ["a1", "b2"]) {
    const locked = locks.tryLock({ ...CALLER, owner, fh: owner === "a1" ? 3 : 4 }, ALL, thread);
    await (await next("lock")).answer({ granted: true });
    await locked;
  }
  const told: OwnedLocks[] = [];
  const server = createClient(LOCKS, (_op, request) => {
    told.push(...(request as { owners: OwnedLocks[] }).owners);
    return Promise.resolve({ held: [true, false] });
  });
  await locks.reclaim(server);
  assert.deepEqual(told.map(({ owner, ranges }) => [owner, ranges]), [["a1", [ALL]], ["b2", [ALL]]]);
  assert.equal(errors.length, 1);
  assert.deepEqual([locks.refusalOf(3), locks.refusalOf(4)?.errno], [undefined, "EIO"]);
});

Deno.test("client locks: what a failed call may have done is settled by the next one, or with the next connection", async () => {
  const { locks, thread, next } = start();
  const locked = outcome(locks.tryLock(CALLER, ALL, thread));
  await (await next("lock")).fail(errno("EIO"));
  assert.equal(locked.state, "EIO");
  const again = outcome(locks.tryLock(CALLER, { ...ALL, start: 7 }, thread));
  await (await next("setLocks")).fail(errno("EIO"));
  assert.equal(again.state, "EIO");
  locks.connected();
  const settled = await next("setLocks");
  assert.deepEqual(settled.request.owners[0].ranges, []);
  await settled.answer({ held: [true] });
  assert.equal(locks.closed(INO, "a1"), undefined);
});

Deno.test("client locks: a thread tells whether it waits for the lock of an open file", () => {
  const fcntl = Deno.build.arch === "x86_64" ? 72 : 25;
  assert.equal(isOfdWait(`${fcntl} 0x3 0x26 0x7ffd 0x0 0x0 0x0 0x7ffc 0x7f33\n`), true);
  assert.equal(isOfdWait(`${fcntl} 0x3 0x7 0x7ffd 0x0 0x0 0x0 0x7ffc 0x7f33\n`), false);
  assert.equal(isOfdWait("0 0x3 0x26 0x7ffd 0x0 0x0 0x0 0x7ffc 0x7f33\n"), false);
  assert.equal(isOfdWait("running\n"), undefined);
});

/** A lock that was granted, with the file's locks to be kept here. */
async function keep({ locks, thread, next }: ReturnType<typeof start>): Promise<number> {
  const locked = outcome(locks.tryLock(CALLER, ALL, thread));
  const call = await next("lock");
  await call.answer({ granted: true, kept: true });
  assert.equal(locked.state, "ok");
  return call.request.keep;
}

const OTHER = { ...CALLER, owner: "b2", fh: 4, pid: 80 } as const;

Deno.test("client locks: of a file that is kept nothing is asked; a wait is the server's, which is told first", async () => {
  const world = start();
  const { locks, thread, calls, next } = world;
  await keep(world);
  await assert.rejects(locks.tryLock(OTHER, { ...ALL, start: 5 }, thread), { errno: "EAGAIN" });
  assert.deepEqual(await locks.test(OTHER, { ...ALL, start: 5 }, thread), { ...ALL, pid: 70 });
  await locks.unlock(CALLER, { start: 0, end: 9 }, thread);
  await locks.tryLock(OTHER, { start: 0, end: 3, type: "read" }, thread);
  await locks.tryLock({ ...OTHER, owner: "c3" }, { start: 0, end: 3, type: "read" }, thread);
  await locks.closed(INO, "c3");
  assert.deepEqual(calls, []);
  const waited = outcome(locks.lock(OTHER, { ...ALL, start: 20, end: 30 }, thread));
  const told = await next("giveUpLocks");
  assert.deepEqual(told.request, {
    ino: INO,
    kept: 1,
    owners: [
      { ino: INO, kind: "posix", owner: "a1", pid: 70, ranges: [{ ...ALL, start: 10 }] },
      { ino: INO, kind: "posix", owner: "b2", pid: 80, ranges: [{ start: 0, end: 3, type: "read" }] },
    ],
  });
  // What comes meanwhile goes to the server as well, after that.
  const unlocked = outcome(locks.unlock(CALLER, { start: 0, end: Infinity }, thread));
  assert.deepEqual(calls, []);
  await told.answer({ ok: true });
  await (await next("lock")).answer({ granted: true });
  await (await next("unlock")).answer({ ok: true });
  assert.deepEqual([waited.state, unlocked.state], ["ok", "ok"]);
});

Deno.test("client locks: a file that another client asks for is given up, and not asked for again at once", async () => {
  const world = start();
  const { locks, thread, next, clock, calls } = world;
  locks.recalled(INO, await keep(world));
  const told = await next("giveUpLocks");
  assert.equal(told.request.owners[0].owner, "a1");
  await told.answer({ ok: true });
  const locked = outcome(locks.tryLock(OTHER, { ...ALL, start: 5 }, thread));
  const call = await next("lock");
  assert.equal(call.request.keep, undefined);
  await call.answer({ granted: true });
  assert.equal(locked.state, "ok");
  await clock.advance(5_001);
  const later = outcome(locks.tryLock(OTHER, { ...ALL, start: 6 }, thread));
  const asks = await next("lock");
  // Asked for before the answer is here.
  locks.recalled(INO, asks.request.keep);
  await asks.answer({ granted: true, kept: true });
  assert.equal((await next("giveUpLocks")).request.kept, asks.request.keep);
  assert.deepEqual([later.state, calls.length], ["ok", 0]);
});

Deno.test("client locks: a file is not kept when another call went beside the one that asked, nor without a valid session", async () => {
  const world = start();
  const { locks, thread, next, calls } = world;
  const first = outcome(locks.tryLock(CALLER, { ...ALL, end: 9 }, thread));
  const call = await next("lock");
  const second = outcome(locks.tryLock(OTHER, { ...ALL, start: 10 }, thread));
  await (await next("lock")).answer({ granted: true });
  await call.answer({ granted: true, kept: true });
  assert.deepEqual([first.state, second.state], ["ok", "ok"]);
  void locks.unlock(CALLER, { start: 0, end: 9 }, thread);
  await (await next("unlock")).answer({ ok: true });
  await keep(world);
  world.isValid = false;
  void locks.unlock(CALLER, { start: 0, end: 9 }, thread);
  await (await next("giveUpLocks")).answer({ ok: true });
  await (await next("unlock")).answer({ ok: true });
  assert.deepEqual(calls, []);
});

Deno.test("client locks: a file with more ranges than may be given up in one message is not kept", async () => {
  const { locks, thread, next, calls } = start();
  let asked = 0;
  for (let i = 0; i < KEPT_RANGES_MAX + 10; i++) {
    const locked = outcome(locks.tryLock(CALLER, { start: i * 10, end: i * 10, type: "write" }, thread));
    await settle();
    if (calls.length === 0) continue;
    const call = calls.shift()!;
    if (call.name === "giveUpLocks") {
      assert.ok(call.request.owners[0].ranges.length <= KEPT_RANGES_MAX);
      await call.answer({ ok: true });
      await settle();
    }
    const lock = call.name === "lock" ? call : calls.shift()!;
    assert.equal(lock.request.keep === undefined, i > 0, `lock ${i}`);
    asked++;
    await lock.answer(lock.request.keep === undefined ? { granted: true } : { granted: true, kept: true });
    assert.equal(locked.state, "ok");
  }
  assert.equal(asked, 1 + 10); // the first, and those past the limit
  const unlocked = outcome(locks.unlock(CALLER, { start: 0, end: Infinity }, thread));
  await (await next("unlock")).answer({ ok: true });
  assert.equal(unlocked.state, "ok");
});

Deno.test("client locks: what a restarted server is told of kept files is all that is held, and they are kept no more", async () => {
  const world = start();
  const { locks, thread, next } = world;
  await keep(world);
  await locks.unlock(CALLER, { start: 0, end: 9 }, thread);
  const asked: unknown[] = [];
  const server = createClient(LOCKS, (_op, request) => {
    asked.push(request);
    return Promise.resolve({ held: [true] });
  });
  await locks.reclaim(server);
  const owned = { ino: INO, kind: "posix", owner: "a1", pid: 70, ranges: [{ ...ALL, start: 10 }] };
  assert.deepEqual(asked, [{ owners: [owned] }]);
  void locks.unlock(CALLER, { start: 10, end: 11 }, thread);
  await next("unlock");
});

Deno.test("client locks: a file that could not be given up is still to be, and nothing is granted there meanwhile", async () => {
  const world = start();
  const { locks, thread, next } = world;
  locks.recalled(INO, await keep(world));
  await (await next("giveUpLocks")).fail(errno("EIO"));
  const unlocked = outcome(locks.unlock(CALLER, { start: 0, end: 9 }, thread));
  await (await next("giveUpLocks")).fail(errno("EIO"));
  assert.equal(unlocked.state, "EIO");
  locks.connected();
  await (await next("giveUpLocks")).answer({ ok: true });
  void locks.unlock(CALLER, { start: 0, end: 9 }, thread);
  await next("unlock");
});

seededTest(
  "client locks: broken connections, restarts and lost sessions: no two hold one, and none is left",
  async (random) => {
    const outcomes = new Map<string, number>();
    for (let round = 0; round < ROUNDS; round++) await play(random, outcomes);
    for (const expected of ["granted", "EAGAIN", "EINTR", "unlocked"]) {
      assert.ok(
        (outcomes.get(expected) ?? 0) > 0,
        `nothing was ${expected}: ${JSON.stringify([...outcomes])}`,
      );
    }
  },
);

/** Processes of several clients lock and unlock while all goes wrong; at the end nothing may be left. */
async function play(random: Random, outcomes: Map<string, number>): Promise<void> {
  const world = new World(random, CLIENTS);
  const { schedule } = world;
  let running = 0;
  const interruptLater = async (abort: AbortController) => {
    for (let i = randomInt(random, 12); i >= 0; i--) await schedule.delay();
    abort.abort();
  };
  const step = async (process: Process): Promise<string> => {
    if (chance(random, 0.5)) {
      const abort = new AbortController();
      const start = randomInt(random, 8);
      const type = pick(random, ["read", "write"] as const);
      const end = chance(random, 0.2) ? Infinity : start + randomInt(random, 4);
      const wanted = process.isWhole ? { start: 0, end: Infinity, type } : { start, end, type };
      if (chance(random, 0.3)) void interruptLater(abort);
      return await process.lock(wanted, chance(random, 0.6), abort.signal);
    }
    if (chance(random, 0.6)) return await process.unlock();
    await process.close();
    return "closed";
  };
  const live = async (process: Process) => {
    running++;
    for (let i = 0; i < STEPS; i++) {
      await schedule.delay();
      const what = await step(process);
      outcomes.set(what, (outcomes.get(what) ?? 0) + 1);
      // Nobody keeps for ever what others wait for.
      if (what === "granted" && chance(random, 0.7)) await process.unlock();
    }
    await process.close();
    running--;
  };
  const disturb = async () => {
    while (running > 0) {
      for (let i = randomInt(random, 60); i >= 0; i--) await schedule.delay();
      const client = pick(random, world.clients);
      const what = random.next();
      if (what < 0.6) client.breakLink();
      else if (what < 0.8) world.restart();
      else client.loseSession();
      for (const one of world.clients) await one.reconnect();
      await world.clock.advance(randomInt(random, 1_500));
    }
  };
  const processes = world.clients.flatMap((client, i) =>
    Array.from({ length: PROCESSES }, (_, j) => {
      const id = 10 * i + j + 1;
      return new Process(world, client, id, id, j === 2 ? "flock" : "posix", 1 + randomInt(random, 2));
    })
  );
  await schedule.run(Promise.all([...processes.map(live), disturb()]), () => {});
  const rest = async () => {
    for (const client of world.clients) await client.reconnect();
    for (let i = 0; i < 200; i++) await schedule.delay();
  };
  await schedule.run(rest(), () => {});
  await world.clock.advance(3_000);
  await schedule.run(rest(), () => {});
  // What clients keep themselves they give up once somebody else asks.
  const outside = world.newSession();
  await schedule.run(Promise.all([1, 2].map((ino) => world.freed(outside, asInodeId(ino)))), () => {});
  for (const { session } of world.clients) {
    assert.deepEqual(world.table.countOf(session), { locks: 0, waits: 0 }, `session ${session}`);
  }
}
