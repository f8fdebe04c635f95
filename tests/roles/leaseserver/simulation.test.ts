/** Many clients with random applications, over a network whose order the seed decides, and what must hold throughout. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { type Random, randomInt } from "../../../base/random.ts";
import { LeaseTable } from "../../../roles/leaseserver/leases.ts";
import { SessionTable } from "../../../roles/leaseserver/sessions.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asInodeId, type InodeId } from "../../../wire/ids.ts";
import { isExclusive } from "../../../wire/messages/inode.ts";
import type { RecallItem, RecallPush } from "../../../wire/messages/nameserver.ts";
import { FakeClock, settle } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { FakePeer } from "../nameserver/fake_peer.ts";
import { makeTables, Member, TTL_MS } from "./harness.ts";
import { Schedule } from "./schedule.ts";
import { SimulatedClient } from "./simulated_client.ts";
import { attributesOf, dataOf, nameOf, SimulatedNameserver, Truth } from "./simulated_nameserver.ts";

const FILES = [3, 4, 5].map(asInodeId);
const DIRECTORIES = [1, 2].map(asInodeId);
const NAMES = ["a", "b", "c"];
/** The file that a name leads to. */
const target = (name: string): InodeId => FILES[NAMES.indexOf(name)]!;

interface World {
  readonly random: Random;
  readonly clock: FakeClock;
  readonly schedule: Schedule;
  readonly sessions: SessionTable;
  readonly nameserver: SimulatedNameserver;
  readonly truth: Truth;
  readonly clients: SimulatedClient[];
  readonly peers: FakePeer[];
}

async function makeWorld(random: Random, count: number, perSessionMax = 1_000_000): Promise<World> {
  const clock = new FakeClock();
  const schedule = new Schedule(random, clock);
  const truth = new Truth();
  let next = 1;
  const store = { nextId: () => next++, save: () => Promise.resolve(), remove: () => {} };
  const clients: SimulatedClient[] = [];
  const peers: FakePeer[] = [];
  const sessions = new SessionTable({
    ttlMs: TTL_MS,
    clock,
    store,
    log: silentLogger,
    onEnd: (session) => {
      nameserver.leases.dropSession(session);
      const client = clients.find((other) => other.session === session)!;
      const writable = FILES.filter((ino) => client.leaseOf(ino) === "write" || client.dirty().includes(ino));
      for (const ino of writable) assert.ok(nameserver.isFencing(ino), `${ino} is not fenced`);
    },
  }, []);
  const nameserver: SimulatedNameserver = new SimulatedNameserver(
    (fence) => new LeaseTable({ sessions, clock, perSessionMax, fence }),
    schedule,
    random,
    target,
  );
  for (let i = 0; i < count; i++) {
    const peer = new FakePeer((_op, push) =>
      client.isCrashed
        ? Promise.reject(new FsError("ENOTCONN", "crashed"))
        : client.recall(push as RecallPush)
    );
    const request = { clientId: `c${i}`, host: "h", mountpoint: "/m" };
    const { session } = await sessions.open(request, peer);
    const client: SimulatedClient = new SimulatedClient(session, nameserver, truth, schedule);
    clients.push(client);
    peers.push(peer);
  }
  return { random, clock, schedule, sessions, nameserver, truth, clients, peers };
}

type Step = (world: World, client: SimulatedClient) => Promise<void>;

const pause: Step = async ({ random, schedule }) => {
  if (chance(random, 0.3)) await schedule.delay();
};

/** Opens a file, reads, writes and truncates it, and closes it. */
const useFile: Step = async (world, client) => {
  const { random } = world;
  const ino = pick(random, FILES);
  const write = chance(random, 0.5);
  await client.open(ino, write);
  for (let i = randomInt(random, 5); i > 0 && !client.isCrashed; i--) {
    if (!write || chance(random, 0.4)) await client.read(ino);
    else if (chance(random, 0.15)) await client.truncate(ino);
    else await client.write(ino);
    await pause(world, client);
  }
  await client.close(ino, write);
};

/** Names in a directory: looked up, made and removed, moved. */
const useNames: Step = async (world, client) => {
  const { random } = world;
  const place = (): readonly [InodeId, string] => [pick(random, DIRECTORIES), pick(random, NAMES)];
  for (let i = randomInt(random, 5); i > 0 && !client.isCrashed; i--) {
    const roll = random.next();
    const at = place();
    if (roll < 0.6) await client.lookup(...at);
    else if (roll < 0.85) await client.changeName(...at);
    else {
      const to = place();
      if (at[0] !== to[0] || at[1] !== to[1]) await client.rename(at, to);
    }
    await pause(world, client);
  }
};

/** Works in one directory: once it is the client's alone its changes wait for long until the server hears of them. */
const workInDirectory: Step = async (world, client) => {
  const { random, schedule } = world;
  const directory = pick(random, DIRECTORIES);
  for (const name of NAMES) await client.lookup(directory, name);
  for (let i = 3 + randomInt(random, 8); i > 0 && !client.isCrashed; i--) {
    await client.changeName(directory, pick(random, NAMES));
    await schedule.delay();
  }
};

const useAttributes: Step = async (world, client) => {
  const { random } = world;
  for (let i = randomInt(random, 4); i > 0 && !client.isCrashed; i--) {
    const ino = pick(random, [...FILES, ...DIRECTORIES]);
    const roll = random.next();
    if (roll < 0.65) await client.getattr(ino);
    else if (roll < 0.8) await client.list([...FILES, ...DIRECTORIES].filter(() => chance(random, 0.6)));
    else await client.setMode(ino);
    await pause(world, client);
  }
};

/** Who is asked whether it has a file open says so if it had it open all the while. */
const askOpen: Step = async ({ random, clients }, client) => {
  const ino = pick(random, FILES);
  const before = clients.map((other) => ({
    session: other.session,
    isOpen: other !== client && !other.isCrashed && other.inode(ino).opened > 0,
    closings: other.inode(ino).closings,
  }));
  const openIn = new Set(await client.openIn(ino));
  if (client.isCrashed) return;
  clients.forEach((other, i) => {
    const { isOpen, closings, session } = before[i]!;
    if (!isOpen || other.isCrashed || other.inode(ino).closings !== closings) return;
    assert.ok(openIn.has(session), `${ino} is open in session ${session}`);
  });
};

const forget: Step = async ({ random }, client) => {
  const inodes = [...FILES, ...DIRECTORIES].filter(() => chance(random, 0.4));
  await client.release(inodes, pick(random, ["none", "read"]));
};

const STEPS: readonly (readonly [number, Step])[] = [
  [0.38, useFile],
  [0.58, useNames],
  [0.7, workInDirectory],
  [0.88, useAttributes],
  [0.92, askOpen],
  [1, forget],
];

async function application(world: World, client: SimulatedClient, steps: number): Promise<void> {
  for (let i = 0; i < steps && !client.isCrashed; i++) {
    const roll = world.random.next();
    const [, step] = STEPS.find(([below]) => roll < below)!;
    try {
      await step(world, client);
    } catch (error) {
      if (!client.isCrashed || !isErrno(error, "ESHUTDOWN")) throw error;
    }
    await pause(world, client);
  }
}

/** What is believed at any moment: at most one EXCLUSIVE or WRITE, and then nobody else has anything. */
function assertExclusive({ clients }: World): void {
  for (const ino of [...FILES, ...DIRECTORIES]) {
    const leases = clients.filter(({ isCrashed }) => !isCrashed).map((client) => client.leaseOf(ino));
    const writers = leases.filter(isExclusive).length;
    const readers = leases.filter((lease) => lease === "read").length;
    assert.ok(writers === 0 || (writers === 1 && readers === 0), `${ino}: ${leases}`);
  }
}

/** One that holds something vanishes; what it alone knew is gone. */
function crashOne({ random, clients, truth, nameserver }: World): void {
  const alive = clients.filter(({ isCrashed }) => !isCrashed);
  if (alive.length <= 1) return;
  const victim = pick(random, alive);
  victim.isCrashed = true;
  for (const ino of victim.dirty()) truth.lost(dataOf(ino), nameserver.stored(dataOf(ino)));
  for (const { directory, name } of victim.deferred()) {
    for (const register of [nameOf(directory, name), attributesOf(directory)]) {
      truth.lost(register, nameserver.stored(register));
    }
  }
}

interface Options {
  readonly crashes?: boolean;
  readonly perSessionMax?: number;
}

async function simulate(random: Random, options: Options): Promise<World> {
  const world = await makeWorld(random, 2 + randomInt(random, 4), options.perSessionMax);
  const { clients, peers, sessions, schedule, nameserver } = world;
  // Two applications a client, so that its own operations overlap as well.
  const work = clients.flatMap((client) => [1, 2].map(() => application(world, client, 25)));
  let ticks = 0;
  await schedule.run(Promise.all(work), () => {
    assertExclusive(world);
    clients.forEach(({ isCrashed }, i) => {
      if (!isCrashed) sessions.ofOrNone(peers[i]!); // renewals
    });
    if (++ticks % 50 === 0) sessions.expire();
    if (options.crashes && ticks % 300 === 0) crashOne(world);
  });
  const isQuiet = async () => {
    for (;;) {
      const { waitingTurns, waitingRecalls } = nameserver.leases.status();
      if (waitingTurns === 0 && waitingRecalls === 0) return;
      await settle();
    }
  };
  await schedule.run(isQuiet(), () => sessions.expire());
  return world;
}

seededTest(
  "simulation: many clients never see what is old, never hold what excludes another, and never hang",
  async (random) => {
    for (let round = 0; round < 60; round++) await simulate(random, {});
  },
);

seededTest(
  "simulation: clients that vanish hold others up until their TTL, and no longer",
  async (random) => {
    for (let round = 0; round < 30; round++) await simulate(random, { crashes: true });
  },
);

seededTest("simulation: all holds as well for clients that may hold little", async (random) => {
  for (let round = 0; round < 30; round++) {
    await simulate(random, { perSessionMax: 1 + randomInt(random, 4) });
  }
});

/** Each of `steps` is repeated by one session until one of them was done `enough` times; how often each was done. */
async function race(
  random: Random,
  steps: readonly ((member: Member, schedule: Schedule) => Promise<unknown>)[],
  enough: number,
): Promise<number[]> {
  const tables = makeTables();
  const schedule = new Schedule(random, tables.clock);
  const members = await Promise.all(
    steps.map((_, i) => Member.join(tables, `c${i}`, () => schedule.delay())),
  );
  const counts = steps.map(() => 0);
  const work = members.map(async (member, i) => {
    while (Math.max(...counts) < enough) {
      await schedule.delay();
      await steps[i]!(member, schedule);
      counts[i]!++;
    }
  });
  await schedule.run(Promise.all(work), () => {
    for (const { peer } of members) tables.sessions.of(peer);
  });
  return counts;
}

const INO = FILES[0]!;
const readIt = (member: Member) => member.acquire(INO, "read");
const writeIt = (member: Member) => member.acquire(INO, "write");
const changeIt = (member: Member) => member.change({ ino: INO, keep: "read", attributes: true });

seededTest(
  "fairness: a stream of readers starves no writer, of writers no reader, of changes nobody",
  async (random) => {
    for (
      const steps of [
        [readIt, readIt, readIt, readIt, readIt, writeIt],
        [writeIt, writeIt, writeIt, writeIt, writeIt, readIt],
        [changeIt, changeIt, changeIt, changeIt, changeIt, readIt],
        [readIt, readIt, writeIt, writeIt, changeIt, changeIt],
      ]
    ) {
      const counts = await race(random, steps, 60);
      assert.ok(Math.min(...counts) >= 10, `${counts}`);
    }
  },
);

seededTest(
  "fairness: who needs several inodes at once is not passed over for ever by who needs one",
  async (random) => {
    const all = (member: Member) => member.change(...FILES.map((ino) => ({ ino, keep: "none" } as const)));
    const one = (ino: InodeId) => (member: Member) => member.acquire(ino, "write");
    const counts = await race(random, [all, ...FILES.map(one), ...FILES.map(one)], 100);
    assert.ok(counts[0]! >= 10, `${counts}`);
  },
);

seededTest(
  "deadlock: changes of the same inodes in any order, whose recalls are flushed first, all end",
  async (random) => {
    const inodes = [...FILES, ...DIRECTORIES];
    const mixed = (member: Member) => {
      const items = shuffled(random, inodes).slice(0, 1 + randomInt(random, inodes.length));
      return member.change(...items.map((ino): RecallItem => (
        DIRECTORIES.includes(ino) && chance(random, 0.7)
          ? { ino, keep: "read", names: [bytesOf("n")] }
          : { ino, keep: pick(random, ["none", "read"]), attributes: true, removed: chance(random, 0.3) }
      )));
    };
    const write = (member: Member) => member.acquire(pick(random, FILES), "write");
    const counts = await race(random, [mixed, mixed, mixed, mixed, write, write], 100);
    assert.ok(Math.min(...counts) > 0, `${counts}`);
  },
);

function shuffled<T>(random: Random, items: readonly T[]): T[] {
  const left = [...items];
  return items.map(() => left.splice(randomInt(random, left.length), 1)[0]!);
}
