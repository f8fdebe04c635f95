/**
 * Repair, simulated from a seed: writers write, dataservers die and come back, replicas rot. In the end every block has its
 * replicas on different hosts, all of its generation, and all hold what was acknowledged last.
 */

import assert from "node:assert/strict";
import { type Random, randomInt } from "../../../base/random.ts";
import type { VolumeId } from "../../../wire/ids.ts";
import type { Block } from "../../../wire/messages/inode.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { FakePeer } from "./fake_peer.ts";
import {
  assertReadable,
  type FakeDataserver,
  File,
  goodWithout,
  makeWorld,
  TOTAL_BYTES,
  WORDS,
  type World,
} from "./repair_world.ts";
import { REPLICATION } from "./service.ts";

async function makeTrouble(world: World): Promise<void> {
  const { random, servers, files, service: { clock }, schedule } = world;
  for (let i = 0; i < 12; i++) {
    await clock.sleep(randomInt(random, 45_000));
    const server = pick(random, servers);
    if (!server.isUp) {
      await server.start();
      continue;
    }
    const isSafe = (file: File) => goodWithout(world, file, server) > 0;
    if (chance(random, 0.6)) {
      if (files.every(isSafe)) server.stop();
    } else {
      const file = pick(random, files);
      const replica = server.replicas.get(file.extent().block);
      if (replica !== undefined && isSafe(file)) replica.isCorrupt = true;
    }
    await schedule.delay();
  }
  for (const server of servers) {
    if (!server.isUp) await server.start();
    // As a scrubber does in the end.
    for (const [block, { isCorrupt }] of server.replicas) {
      const { volume } = server;
      if (isCorrupt) world.handlers.replicaCorrupt({ volume, block, message: "rot" }, new FakePeer().context);
    }
  }
}

function assertRepaired({ servers, files }: World): void {
  for (const file of files) {
    const { volumes, block, generation } = file.extent();
    assert.equal(volumes.length, REPLICATION, `replicas of block ${block}`);
    assert.equal(new Set(volumes).size, REPLICATION, "on different hosts");
    for (const volume of volumes) {
      const { host, replicas } = servers.find((server) => server.volume === volume)!;
      const replica = replicas.get(block);
      assert.deepEqual(
        { words: replica?.words, generation: replica?.generation, isCorrupt: replica?.isCorrupt },
        { words: Array(WORDS).fill(file.acknowledged), generation, isCorrupt: false },
        `block ${block} on ${host}`,
      );
    }
  }
}

/** Gives how many replicas were made. */
async function simulate(random: Random): Promise<number> {
  const world = await makeWorld(random);
  const { service, schedule, servers, files, repair } = world;
  const stopping = new AbortController();
  const tick = () => {
    for (const { isUp, node } of servers) {
      if (isUp && node !== 0) service.registry.heartbeat(node, []);
    }
    assertReadable(world);
    for (const { client } of files) service.leaseserver.sessions.of(client.peer);
  };
  await schedule.run(
    (async () => {
      for (const server of servers) await server.start();
      for (let i = 0; i < 3; i++) files.push(await File.make(world, `f${i}`));
    })(),
    tick,
  );
  const repairing = Promise.all([repair.run(stopping.signal), world.deletions.run(stopping.signal)]);
  let isTrouble = true;
  const keepWriting = async (file: File) => {
    for (let value = 1; isTrouble; value++) {
      await service.clock.sleep(chance(random, 0.1) ? 5_000 : randomInt(random, 400));
      await file.write(value);
    }
  };
  const writing = files.map(keepWriting);
  // Files whose first write meets servers that die.
  for (let i = 3; i < 8; i++) {
    writing.push((async () => {
      await service.clock.sleep(randomInt(random, 200_000));
      const file = await File.make(world, `f${i}`);
      files.push(file);
      await keepWriting(file);
    })());
  }
  const trouble = makeTrouble(world).finally(() => isTrouble = false);
  await schedule.run(Promise.all([...writing, trouble]), tick);
  const settled = async () => {
    for (let i = 0;; i++) {
      try {
        return assertRepaired(world);
      } catch (error) {
        if (i > 400) throw error;
      }
      await service.clock.sleep(500);
      await schedule.delay(); // that nothing goes on is no deadlock: it is told what is wrong
    }
  };
  await schedule.run(settled(), tick);
  stopping.abort();
  await schedule.run(repairing, tick);
  return repair.status().copied;
}

/** A world with one file in which no answer is lost; `tick` beats all hearts. */
async function makeQuietWorld(random: Random): Promise<{ readonly world: World; readonly tick: () => void }> {
  const world = await makeWorld(random);
  world.lost = 0;
  const { service, schedule, servers, files } = world;
  const tick = () => {
    for (const { isUp, node } of servers) {
      if (isUp && node !== 0) service.registry.heartbeat(node, []);
    }
  };
  await schedule.run(
    (async () => {
      for (const server of servers) await server.start();
      files.push(await File.make(world, "f"));
    })(),
    tick,
  );
  return { world, tick };
}

seededTest(
  "repair: replicas that took a generation which the server did not come to write down are its block's again",
  async (random) => {
    const { world, tick } = await makeQuietWorld(random);
    const { service, schedule, servers, files, repair } = world;
    const { block, volumes } = files[0]!.extent();
    for (const server of servers) {
      if (volumes.includes(server.volume)) server.replicas.get(block)!.generation++;
      server.stop();
    }
    const stopping = new AbortController();
    const repairing = Promise.all([repair.run(stopping.signal), world.deletions.run(stopping.signal)]);
    await schedule.run(
      (async () => {
        // One after the other: who is not back yet must not be left behind.
        for (const server of servers) {
          await server.start();
          await service.clock.sleep(2_000);
        }
        await service.clock.sleep(10_000);
      })(),
      tick,
    );
    assert.equal(repair.status().copied, 0);
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: a block whose replicas are ahead of it does not wait for the end of a maintenance",
  async (random) => {
    const { world, tick } = await makeQuietWorld(random);
    const { service, schedule, servers, files, repair } = world;
    const { block, volumes } = files[0]!.extent();
    const [away, ahead] = servers.filter(({ volume }) => volumes.includes(volume)) as [
      FakeDataserver,
      FakeDataserver,
    ];
    await service.registry.maintain(away.node, 3_600);
    away.stop();
    ahead.stop();
    ahead.replicas.get(block)!.generation++;
    const stopping = new AbortController();
    const repairing = Promise.all([repair.run(stopping.signal), world.deletions.run(stopping.signal)]);
    const generationOf = (server: FakeDataserver) => server.replicas.get(block)?.generation;
    await schedule.run(
      (async () => {
        await ahead.start();
        await service.clock.sleep(10_000);
        assert.notEqual(files[0]!.extent().generation, generationOf(ahead), "it may be back soon");
        await service.clock.sleep(40_000);
      })(),
      tick,
    );
    assert.equal(files[0]!.extent().generation, generationOf(ahead));
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: balancing leaves a block alone that a restored cluster has not settled yet",
  async (random) => {
    const { world, tick } = await makeQuietWorld(random);
    const { service, schedule, servers, files, repair } = world;
    service.namespace.ids.leap();
    const { block, volumes } = files[0]!.extent();
    const [first, second] = volumes as [VolumeId, VolumeId];
    const ahead = servers.find(({ volume }) => volume === second)!;
    ahead.stop();
    ahead.replicas.get(block)!.generation += 5;
    const stopping = new AbortController();
    const repairing = repair.run(stopping.signal);
    await schedule.run(
      (async () => {
        await ahead.start();
        await service.clock.sleep(3_000); // it is tried again later, when all have had the time to come
        const free = servers.find(({ volume }) => !volumes.includes(volume))!.volume;
        const task = { ino: files[0]!.ino, start: 0, block };
        assert.equal(await repair.move(task, first, free, WORDS), "refused");
        assert.deepEqual(files[0]!.extent().volumes, volumes);
        await service.clock.sleep(45_000);
      })(),
      tick,
    );
    assert.ok(files[0]!.extent().volumes.includes(second), "what is newest counts");
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: a block that lost a replica before anything was written to it gets another",
  async (random) => {
    const world = await makeWorld(random);
    world.lost = 0;
    const { service, schedule, servers, files, repair } = world;
    const tick = () => {
      for (const { isUp, node } of servers) {
        if (isUp) service.registry.heartbeat(node, []);
      }
    };
    await schedule.run(Promise.all(servers.map((server) => server.start())), tick);
    const stopping = new AbortController();
    const repairing = Promise.all([repair.run(stopping.signal), world.deletions.run(stopping.signal)]);
    await schedule.run(
      (async () => {
        await service.clock.sleep(1_000); // the walk over all blocks, as servers have come
        const lose = async ({ replicas }: Block) => {
          const lost = pick(random, replicas).volume;
          servers.find(({ volume }) => volume === lost)!.stop();
        };
        files.push(await File.make(world, "f", lose));
        await service.clock.sleep(10_000);
      })(),
      tick,
    );
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: a block that found no place gets its replica when a full volume has room again",
  async (random) => {
    const world = await makeWorld(random);
    world.lost = 0;
    const { service, schedule, servers, files, repair } = world;
    const tick = () => {
      for (const { isUp, node, volume, freeBytes } of servers) {
        const stats = { volume, totalBytes: TOTAL_BYTES, freeBytes, usedBytes: 0, blocks: 0 };
        if (isUp && node !== 0) service.registry.heartbeat(node, [stats]);
      }
    };
    const full = servers.slice(REPLICATION - 1);
    for (const server of full) server.freeBytes = 0;
    await schedule.run(Promise.all(servers.map((server) => server.start())), tick);
    const stopping = new AbortController();
    const repairing = repair.run(stopping.signal);
    await schedule.run(
      (async () => {
        files.push(await File.make(world, "f"));
        await service.clock.sleep(60_000);
        assert.equal(files[0]!.extent().volumes.length, REPLICATION - 1);
        pick(random, full).freeBytes = TOTAL_BYTES;
        await service.clock.sleep(30_000);
      })(),
      tick,
    );
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: whatever fails, blocks have all replicas again, with what was acknowledged",
  async (random) => {
    let copied = 0;
    for (let round = 0; round < 8; round++) copied += await simulate(random);
    assert.ok(copied > 10, `${copied} replicas were made`);
  },
);
