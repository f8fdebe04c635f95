import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { type Random, randomInt } from "../../../base/random.ts";
import { LeaseTable } from "../../../roles/leaseserver/leases.ts";
import { Leaseserver } from "../../../roles/leaseserver/leaseserver.ts";
import { type SessionRecord, SessionTable } from "../../../roles/leaseserver/sessions.ts";
import { FsError } from "../../../wire/errno.ts";
import { asInodeId, asSessionId, type InodeId, type SessionId } from "../../../wire/ids.ts";
import type { RecallAnswer, RecallPush } from "../../../wire/messages/nameserver.ts";
import { FakeClock, settle } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { FakePeer } from "../nameserver/fake_peer.ts";
import { Schedule } from "./schedule.ts";
import { SimulatedClient, Truth } from "./simulated_client.ts";

const INO = asInodeId(5);

function start(stored: readonly SessionRecord[] = []) {
  const clock = new FakeClock();
  let next = 1;
  const store = { nextId: () => next++, save: () => Promise.resolve(), remove: () => {} };
  const sessions = new SessionTable(
    { ttlMs: 10_000, clock, store, log: silentLogger, onEnd: (session) => leases.dropSession(session) },
    stored,
  );
  const leases: LeaseTable = new LeaseTable(sessions);
  return { clock, sessions, leases };
}

type Answer = (push: RecallPush) => Promise<RecallAnswer> | RecallAnswer;

/** A session whose recalls are answered by `answer`. */
async function join(sessions: SessionTable, clientId: string, answer: Answer = () => ({ open: true })) {
  const peer = new FakePeer((_op, message) => answer(message as RecallPush));
  const { session } = await sessions.open({ clientId, host: "h", mountpoint: "/m" }, peer);
  return { session, peer, recalls: () => peer.pushes.map(({ message }) => message as RecallPush) };
}

// ---- policy

Deno.test("leases: one holder has READ or, if it writes, WRITE; several readers READ; else nobody has any", async () => {
  const { sessions, leases } = start();
  const [a, b, c] = await Promise.all(["a", "b", "c"].map((id) => join(sessions, id)));
  assert.equal(await leases.open(INO, a!.session, false), "read");
  assert.equal(await leases.open(INO, b!.session, false), "read");
  assert.equal(leases.lease(INO, a!.session), "read");
  assert.deepEqual(a!.recalls(), []);
  assert.equal(await leases.open(INO, c!.session, true), "none");
  assert.deepEqual([a!, b!, c!].map(({ session }) => leases.lease(INO, session)), ["none", "none", "none"]);
  assert.deepEqual(a!.recalls(), [{ ino: INO, keep: "none", removed: false }]);
  leases.release(c!.session, [INO]);
  assert.deepEqual([a!, b!].map(({ session }) => leases.lease(INO, session)), ["read", "read"]);
  leases.release(a!.session, [INO]);
  assert.equal(await leases.open(INO, b!.session, true), "write");
});

Deno.test("leases: who does not hold an inode open gets none", async () => {
  const { sessions, leases } = start();
  const { session } = await join(sessions, "a");
  assert.equal(leases.lease(INO, session), "none");
  assert.equal(leases.settle(INO, session), undefined);
  assert.equal(leases.beforeChange(INO, session), undefined);
  assert.equal(leases.size, 0);
});

Deno.test("leases: while a recall runs none is granted on that inode, others are", async () => {
  const { sessions, leases } = start();
  const answer = Promise.withResolvers<void>();
  const a = await join(sessions, "a", async () => {
    await answer.promise;
    return { open: true };
  });
  const b = await join(sessions, "b");
  await leases.open(INO, a.session, false);
  const change = leases.beforeChange(INO, b.session);
  assert.ok(change !== undefined);
  assert.equal(leases.lease(INO, a.session), "none");
  assert.equal(await leases.open(asInodeId(6), a.session, true), "write");
  answer.resolve();
  await change;
  assert.equal(leases.lease(INO, a.session), "read");
});

Deno.test("leases: a look leaves a writer READ, a change nothing", async () => {
  const { sessions, leases } = start();
  const [a, b] = [await join(sessions, "a"), await join(sessions, "b")];
  await leases.open(INO, a.session, true);
  await leases.settle(INO, b.session);
  assert.equal(leases.settle(INO, b.session), undefined, "nothing is left to ask for");
  await leases.beforeChange(INO, b.session);
  assert.deepEqual(a.recalls().map(({ keep }) => keep), ["read", "none"]);
  assert.equal(leases.beforeChange(INO, b.session), undefined);
});

Deno.test("leases: who changes its own inode is not asked", async () => {
  const { sessions, leases } = start();
  const a = await join(sessions, "a");
  await leases.open(INO, a.session, true);
  assert.equal(leases.beforeChange(INO, a.session), undefined);
  assert.equal(leases.settle(INO, a.session), undefined);
});

Deno.test("leases: a session is asked for what it was granted, also when a later answer grants less", async () => {
  const { sessions, leases } = start();
  const [a, b] = [await join(sessions, "a"), await join(sessions, "b")];
  await leases.open(INO, a.session, false);
  await leases.open(INO, b.session, false);
  assert.equal(await leases.open(INO, a.session, true), "none");
  // The answer that says "none" is on its way to a, which goes on reading from its cache until it arrives.
  await leases.beforeChange(INO, b.session);
  assert.deepEqual(a.recalls(), [{ ino: INO, keep: "none", removed: false }]);
});

Deno.test("leases: a client may commit from within a recall", async () => {
  const { sessions, leases } = start();
  const a = await join(sessions, "a", async ({ ino }) => {
    await leases.beforeChange(ino, a.session);
    return { open: true };
  });
  const b = await join(sessions, "b");
  await leases.open(INO, a.session, true);
  assert.equal(await leases.open(INO, b.session, false), "none");
});

Deno.test("leases: a holder that does not answer is waited for until its session is over", async () => {
  const { sessions, leases, clock } = start();
  const a = await join(sessions, "a", () => Promise.reject(new FsError("ETIMEDOUT", "")));
  const b = await join(sessions, "b");
  await leases.open(INO, a.session, true);
  let isDone = false;
  const change = leases.beforeChange(INO, b.session)!.then(() => isDone = true);
  await clock.advance(9_000);
  assert.equal(isDone, false);
  await clock.advance(6_000);
  await change;
  assert.ok(!sessions.isAlive(a.session));
  assert.ok(!leases.holds(INO, a.session));
});

Deno.test("leases: a session that has ended holds nothing, and can't come to hold anything", async () => {
  const { sessions, leases } = start();
  const [a, b] = [await join(sessions, "a"), await join(sessions, "b")];
  await leases.open(INO, a.session, true);
  sessions.end(a.session, "test");
  assert.equal(leases.size, 0);
  // A request that was under way when the session ended.
  await (async () => await leases.open(INO, a.session, true))().catch(() => {});
  assert.equal(leases.size, 0, "it is not registered after its end");
  assert.equal(await leases.open(INO, b.session, true), "write");
});

Deno.test("leases: an inode that is gone is forgotten, and may be held again", async () => {
  const { sessions, leases } = start();
  const a = await join(sessions, "a");
  await leases.open(INO, a.session, false);
  leases.forget(INO);
  assert.ok(!leases.holds(INO, a.session));
  leases.release(a.session, [INO]);
  assert.equal(await leases.open(INO, a.session, false), "read");
  leases.dropSession(a.session);
  assert.equal(leases.size, 0);
});

Deno.test("leases: askOpen names those that say so; who ended meanwhile does not", async () => {
  const { sessions, leases, clock } = start();
  const answers: Answer[] = [
    () => ({ open: true }),
    () => ({ open: false }),
    () => {
      sessions.end(all[2]!.session, "test");
      return Promise.reject(new FsError("ENOTCONN", ""));
    },
  ];
  const all = await Promise.all(answers.map((answer, i) => join(sessions, `c${i}`, answer)));
  for (const { session } of all) await leases.open(INO, session, false);
  const ids = all.map(({ session }) => session);
  assert.deepEqual(leases.otherHolders(INO, asSessionId(99)), ids);
  const asking = leases.askOpen(INO, ids);
  await clock.advance(1_000);
  assert.deepEqual(await asking, [ids[0]]);
  assert.deepEqual(all[0]!.recalls(), [{ ino: INO, keep: "read", removed: true }], "it keeps what it has");
});

// ---- restart

const STORED = [{ session: asSessionId(70), clientId: "old", host: "h", mountpoint: "/m" }];

Deno.test("leases: after a restart none is granted until all have said what they hold", async () => {
  const { sessions, leases } = start(STORED);
  const a = await join(sessions, "a");
  assert.equal(await leases.open(INO, a.session, true), "none");
  const old = await join(sessions, "old");
  assert.equal(leases.lease(INO, a.session), "none");
  sessions.markReclaimed(old.session);
  assert.equal(leases.lease(INO, a.session), "write");
});

Deno.test("leases: after a restart a change waits for those that have not said what they hold", async () => {
  const { sessions, leases, clock } = start(STORED);
  const a = await join(sessions, "a");
  let isDone = false;
  // The old session may cache this inode; it does not even know yet that the server was away.
  const change = Promise.resolve(leases.beforeChange(INO, a.session)).then(() => isDone = true);
  await clock.advance(1_000);
  assert.equal(isDone, false, "applied while another may still cache the inode");
  sessions.end(asSessionId(70), "test");
  await clock.advance(1_000);
  await change;
});

Deno.test("leases: after a restart a look waits for those that may have buffered writes", async () => {
  const { sessions, leases, clock } = start(STORED);
  const a = await join(sessions, "a");
  let isDone = false;
  const look = Promise.resolve(leases.settle(INO, a.session)).then(() => isDone = true);
  await clock.advance(1_000);
  assert.equal(isDone, false, "answered while another may have newer data");
  sessions.end(asSessionId(70), "test");
  await clock.advance(1_000);
  await look;
});

function startServer(stored: readonly SessionRecord[] = []) {
  const ended: SessionId[] = [];
  const released: [SessionId, readonly InodeId[]][] = [];
  const reclaimed: [SessionId, InodeId[]][] = [];
  let next = 1;
  const server = new Leaseserver({
    sessionTtlMs: 10_000,
    clock: new FakeClock(),
    log: silentLogger,
    stored,
    store: { nextId: () => next++, save: () => Promise.resolve(), remove: () => {} },
    onSessionEnd: (session) => ended.push(session),
    onRelease: async (session, inodes) => void released.push([session, inodes]),
    onReclaim: async (session, open) => void reclaimed.push([session, [...open]]),
  });
  const open = async (clientId: string) => {
    const peer = new FakePeer(() => ({ open: true }));
    const request = { clientId, host: "h", mountpoint: "/m" };
    const { session } = await server.handlers.openSession(request, peer.context);
    return { session, context: peer.context };
  };
  return { server, open, ended, released, reclaimed };
}

Deno.test("leaseserver: reclaim registers what is open and says what may be cached", async () => {
  const { server, open, reclaimed } = startServer(STORED);
  const a = await open("old");
  const [one, two] = [asInodeId(1), asInodeId(2)];
  const request = { open: [{ ino: one, lease: "write" }, { ino: two, lease: "read" }] } as const;
  assert.deepEqual(await server.handlers.reclaim(request, a.context), { granted: ["write", "read"] });
  assert.deepEqual(reclaimed, [[a.session, [one, two]]]);
  assert.ok(server.leases.holds(one, a.session) && server.leases.holds(two, a.session));
});

Deno.test("leaseserver: reclaim lets go what the session no longer has open", async () => {
  const { server, open } = startServer();
  const [a, b] = [await open("a"), await open("b")];
  await server.leases.open(INO, a.session, true);
  // The connection broke, the file was closed, and the client is back.
  const again = await open("a");
  assert.equal(again.session, a.session);
  await server.handlers.reclaim({ open: [] }, again.context);
  assert.ok(!server.leases.holds(INO, a.session), "what is not open any more is not held");
  assert.equal(await server.leases.open(INO, b.session, true), "write");
});

Deno.test("leaseserver: renew, release and goodbye", async () => {
  const { server, open, ended, released } = startServer();
  const a = await open("a");
  await server.leases.open(INO, a.session, false);
  assert.ok((await server.handlers.renew({}, a.context)).now.seconds > 0);
  await server.handlers.releaseLeases({ inodes: [INO] }, a.context);
  assert.deepEqual(released, [[a.session, [INO]]]);
  assert.equal(server.leases.size, 0);
  await server.leases.open(INO, a.session, false);
  await server.handlers.closeSession({}, a.context);
  assert.deepEqual(ended, [a.session]);
  assert.equal(server.leases.size, 0);
  assert.throws(() => server.handlers.renew({}, a.context));
});

// ---- many clients

const INODES = [asInodeId(1), asInodeId(2), asInodeId(3)];

/** One application: opens, reads, writes and closes at random. */
async function application(random: Random, client: SimulatedClient, schedule: Schedule, steps: number) {
  for (let i = 0; i < steps && !client.isCrashed; i++) {
    const ino = pick(random, INODES);
    const roll = random.next();
    if (roll < 0.2) await client.open(ino, chance(random, 0.4));
    else if (roll < 0.35) await client.close(ino);
    else if (roll < 0.7) await client.read(ino);
    else await client.write(ino);
    if (chance(random, 0.3)) await schedule.delay();
  }
}

/** What is believed at any moment: at most one WRITE, and then nobody else caches. */
function assertExclusive(clients: readonly SimulatedClient[]): void {
  for (const ino of INODES) {
    const leases = clients.filter(({ isCrashed }) => !isCrashed).map(({ files }) =>
      files.get(ino)?.lease ?? "none"
    );
    const writers = leases.filter((lease) => lease === "write").length;
    const readers = leases.filter((lease) => lease === "read").length;
    assert.ok(writers === 0 || (writers === 1 && readers === 0), `${ino}: ${leases}`);
  }
}

async function simulate(random: Random, options: { readonly crashes: boolean }): Promise<void> {
  const { clock, sessions, leases } = start();
  const schedule = new Schedule(random, clock);
  const truth = new Truth();
  const clients: SimulatedClient[] = [];
  const peers: FakePeer[] = [];
  for (let i = 2 + randomInt(random, 4); i > 0; i--) {
    const joined = await join(sessions, `c${i}`, (push) => {
      if (client.isCrashed) return Promise.reject(new FsError("ENOTCONN", "crashed"));
      return client.recall(push);
    });
    const client: SimulatedClient = new SimulatedClient(joined.session, leases, truth, schedule);
    clients.push(client);
    peers.push(joined.peer);
  }
  // Two applications a client, so that its own operations overlap as well.
  const work = clients.flatMap((client) => [1, 2].map(() => application(random, client, schedule, 60)));
  let ticks = 0;
  await schedule.run(Promise.all(work), () => {
    assertExclusive(clients);
    clients.forEach(({ isCrashed }, i) => {
      if (!isCrashed) sessions.ofOrNone(peers[i]!); // renewals
    });
    if (++ticks % 50 === 0) sessions.expire();
    if (!options.crashes || ticks % 300 !== 0) return;
    // Only who has nothing buffered, so that no acknowledged write is lost with it.
    const clean = clients.filter((client) =>
      !client.isCrashed &&
      [...client.files.values()].every(({ isDirty, lease }) => !isDirty && lease !== "write")
    );
    if (clean.length > 0 && clients.filter(({ isCrashed }) => !isCrashed).length > 1) {
      const victim = pick(random, clean);
      victim.isCrashed = true;
    }
  });
  await settle();
}

seededTest(
  "leases: many clients never see an old file, never hold what excludes another, and never hang",
  async (random) => {
    for (let round = 0; round < 120; round++) await simulate(random, { crashes: false });
  },
);

seededTest(
  "leases: clients that vanish hold the others up until their TTL, and no longer",
  async (random) => {
    for (let round = 0; round < 50; round++) await simulate(random, { crashes: true });
  },
);

seededTest("leases: nobody starves while others keep opening and changing one inode", async (random) => {
  const { clock, sessions, leases } = start();
  const schedule = new Schedule(random, clock);
  const all = await Promise.all([...Array(6).keys()].map((i) =>
    join(sessions, `c${i}`, async () => {
      await schedule.delay();
      return { open: true };
    })
  ));
  const turns = all.map(() => 0);
  let isOver = false;
  const work = all.map(async ({ session }, i) => {
    while (!isOver) {
      await schedule.delay();
      await leases.open(INO, session, i % 2 === 0);
      await schedule.delay();
      await leases.beforeChange(INO, session);
      turns[i]!++;
      if (turns[i]! >= 60) isOver = true;
      if (chance(random, 0.3)) leases.release(session, [INO]);
    }
  });
  await schedule.run(Promise.all(work), () => {});
  assert.ok(Math.min(...turns) >= 10, `turns: ${turns}`);
});
