/**
 * Nodes that are decommissioned, put back, in maintenance, moved to other racks, and balanced, and files that are to have
 * more or fewer replicas, simulated from a seed while writers write, dataservers die and rot, and disks fail.
 *
 * At all times: no two replicas of a block are on one host, and one that is good is left. In the end: every block has its
 * replicas, in two racks, on nodes that are to stay; the others hold nothing.
 */

import assert from "node:assert/strict";
import { type Random, randomInt } from "../../../base/random.ts";
import { holdsNothing } from "../../../roles/nameserver/node_admin.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { FakePeer } from "./fake_peer.ts";
import {
  assertReadable,
  type FakeDataserver,
  File,
  goodWithout,
  makeWorld,
  type Spec,
  WORDS,
  type World,
} from "./repair_world.ts";
import { REPLICATION } from "./service.ts";

/** Two servers on some hosts; three racks. */
const SPECS: readonly Spec[] = [
  { name: "a1", host: "a", rack: "r1" },
  { name: "a2", host: "a", rack: "r1" },
  { name: "b1", host: "b", rack: "r2" },
  { name: "b2", host: "b", rack: "r2" },
  { name: "c", host: "c", rack: "r1" },
  { name: "d", host: "d", rack: "r2" },
  { name: "e", host: "e", rack: "r3" },
];
const RACKS = ["", "r1", "r2", "r3"];
/** So many nodes may be decommissioned or away at once, that there is always a place. */
const AWAY_MAX = 2;
const TICK_STEPS = 20;

/** Holds for every block in every moment. */
function assertSafe(world: World): void {
  assertReadable(world);
  const { servers, files } = world;
  for (const file of files) {
    const { volumes, block, generation, written } = file.extent();
    const at = servers.filter(({ volume }) => volumes.includes(volume));
    assert.equal(at.length, volumes.length);
    const hosts = at.map(({ host }) => host);
    assert.equal(new Set(hosts).size, hosts.length, `block ${block} is twice on one of the hosts ${hosts}`);
    if (!written) continue;
    const isGood = ({ replicas }: FakeDataserver) => {
      const replica = replicas.get(block);
      return replica !== undefined && replica.generation >= generation && !replica.isCorrupt;
    };
    assert.ok(at.some(isGood), `block ${block} has lost its last good replica`);
  }
}

function isDraining({ service }: World, { volume }: FakeDataserver): boolean {
  return service.registry.isDraining(volume);
}

async function makeTrouble(world: World, counts: Map<string, number>): Promise<void> {
  const { random, servers, files, service: { clock, registry }, schedule } = world;
  const setReplication = async ({ ino }: File, replication: number) => {
    await world.service.namespace.change((tx) => operations.setReplication(tx, tx.inode(ino), replication));
    await world.repair.replicationChanged(ino);
  };
  const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1);
  for (let i = 0; i < 25; i++) {
    await clock.sleep(randomInt(random, 30_000));
    const server = pick(random, servers);
    const { node } = server;
    const isSafe = (file: File) => goodWithout(world, file, server) > 0;
    const draining = servers.filter((other) => isDraining(world, other));
    const away = servers.filter((other) => !other.isUp || other.isFailed || isDraining(world, other));
    const what = randomInt(random, 9);
    if (!server.isUp && what < 5) {
      count("start");
      await server.start();
    } else if (!server.isUp && what === 5 && registry.isKnown(server.volume)) {
      // Whatever it holds, as by force.
      count("forget");
      await registry.forget(node);
    } else if (server.isFailed && what < 5) {
      count("mend");
      server.stop();
      await server.start();
    } else if (what === 0 && away.length < AWAY_MAX && files.every(isSafe)) {
      count("stop");
      server.stop();
    } else if (what === 1 && server.isUp && files.every(isSafe)) {
      // An announced absence: nothing is copied meanwhile, unless it is written to.
      count("maintenance");
      await registry.maintain(node, 1 + randomInt(random, 120));
      server.stop();
    } else if (what === 2) {
      const file = pick(random, files);
      const replica = server.replicas.get(file.extent().block);
      // Which of them are rotten nobody knows when one is taken off.
      const isRotten = ({ replicas }: FakeDataserver) =>
        replicas.get(file.extent().block)?.isCorrupt === true;
      if (replica === undefined || !isSafe(file) || servers.some(isRotten)) continue;
      count("rot");
      replica.isCorrupt = true;
    } else if (what === 3 || what === 4) {
      if (isDraining(world, server)) {
        count("recommission");
        await registry.decommission(node, false);
      } else if (draining.length < AWAY_MAX && away.length < AWAY_MAX) {
        count("decommission");
        await registry.decommission(node, true);
      }
    } else if (what === 5 && server.isUp) {
      count("rack");
      server.stop();
      server.rack = pick(random, RACKS);
      await server.start();
    } else if (what === 6) {
      const file = pick(random, files);
      const { volumes, block } = file.extent();
      const [source, target] = [pick(random, volumes), pick(random, servers).volume];
      const moved = await world.repair.move({ ino: file.ino, start: 0, block }, source, target, WORDS);
      if (typeof moved !== "number") continue;
      count("move");
      assert.ok(file.extent().volumes.includes(target), "moved there");
    } else if (what === 7) {
      count("setrep");
      await setReplication(pick(random, files), REPLICATION + randomInt(random, 2));
    } else if (what === 8 && server.isUp && !server.isFailed && away.length < AWAY_MAX) {
      // What it has can still be read, also what nobody else has.
      count("fail");
      server.fail();
    }
    await schedule.delay();
  }
  const used = servers.filter((server) =>
    !isDraining(world, server) && server.replicas.size > 0 && registry.isKnown(server.volume)
  );
  if (used.length > 0) await registry.decommission(pick(random, used).node, true);
  for (const file of files) await setReplication(file, 0);
  // The racks as they were: everything has a place again.
  for (const [i, server] of servers.entries()) {
    server.stop();
    server.rack = SPECS[i]!.rack;
    await server.start();
    await registry.maintain(server.node, 0);
    for (const [block, { isCorrupt }] of server.replicas) {
      const { volume } = server;
      if (isCorrupt) world.handlers.replicaCorrupt({ volume, block, message: "rot" }, new FakePeer().context);
    }
  }
}

async function assertSettled(world: World): Promise<void> {
  const { servers, files, service: { registry, journal } } = world;
  for (const file of files) {
    const { volumes, block, generation } = file.extent();
    assert.equal(volumes.length, REPLICATION, `replicas of block ${block}`);
    const at = servers.filter(({ volume }) => volumes.includes(volume));
    assert.equal(new Set(at.map(({ rack }) => rack)).size, 2, `racks of block ${block}`);
    for (const server of at) {
      assert.equal(isDraining(world, server), false, `block ${block} is still on ${server.name}`);
      const replica = server.replicas.get(block);
      assert.deepEqual(
        { words: replica?.words, generation: replica?.generation, isCorrupt: replica?.isCorrupt },
        { words: Array(WORDS).fill(file.acknowledged), generation, isCorrupt: false },
        `block ${block} on ${server.name}`,
      );
    }
  }
  for (const server of servers) {
    const { volume, replicas } = server;
    if (registry.isDraining(volume)) assert.ok(await holdsNothing(journal, [{ volume }]));
    const listed = files.filter((file) => file.extent().volumes.includes(volume)).length;
    assert.equal(replicas.size, listed, `what was taken off ${server.name} is deleted there`);
  }
}

/** Runs `work` with heartbeats of all that are up, and looks that nothing is lost on the way. */
async function run(world: World, work: Promise<unknown>): Promise<void> {
  const { service, schedule, servers } = world;
  let steps = 0;
  await schedule.run(work, () => {
    for (const { isUp, node } of servers) {
      if (isUp && node !== 0) service.registry.heartbeat(node, []);
    }
    if (steps++ % TICK_STEPS === 0) assertSafe(world);
    for (const { client } of world.files) service.leaseserver.sessions.of(client.peer);
  });
}

async function simulate(random: Random, counts: Map<string, number>): Promise<void> {
  const world = await makeWorld(random, SPECS);
  const { service: { clock }, schedule, servers, files, repair, deletions } = world;
  const stopping = new AbortController();
  await run(
    world,
    (async () => {
      for (const server of servers) await server.start();
      for (let i = 0; i < 4; i++) files.push(await File.make(world, `f${i}`));
    })(),
  );
  const running = Promise.all([repair.run(stopping.signal), deletions.run(stopping.signal)]);
  let isTrouble = true;
  const keepWriting = async (file: File) => {
    for (let value = 1; isTrouble; value++) {
      await clock.sleep(chance(random, 0.3) ? 20_000 : randomInt(random, 2_000));
      await file.write(value);
    }
  };
  const writing = files.map(keepWriting);
  for (let i = 4; i < 8; i++) {
    writing.push((async () => {
      await clock.sleep(randomInt(random, 300_000));
      const file = await File.make(world, `f${i}`);
      files.push(file);
      await keepWriting(file);
    })());
  }
  const trouble = makeTrouble(world, counts).finally(() => isTrouble = false);
  await run(world, Promise.all([...writing, trouble]));
  await run(
    world,
    (async () => {
      for (let i = 0;; i++) {
        try {
          return await assertSettled(world);
        } catch (error) {
          if (i > 400) throw error;
        }
        await clock.sleep(500);
        await schedule.delay(); // that nothing goes on is no deadlock: it is told what is wrong
      }
    })(),
  );
  stopping.abort();
  await run(world, running);
}

seededTest(
  "nodes: whatever is asked of them and fails, blocks are safe, and all is as it should be in the end",
  async (random) => {
    const counts = new Map<string, number>();
    for (let round = 0; round < 5; round++) await simulate(random, counts);
    // A seed may leave out one or the other.
    assert.ok(counts.size >= 5, `of what may happen: ${JSON.stringify([...counts])}`);
  },
);
