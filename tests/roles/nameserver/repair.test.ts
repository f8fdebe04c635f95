/** What Repair makes of a block, one thing after another: repair_simulation.test.ts has them all at once. */

import assert from "node:assert/strict";
import { allocateBlock } from "../../../roles/nameserver/block_operations.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import type { Extent } from "../../../roles/nameserver/records.ts";
import { asGeneration, type InodeId } from "../../../wire/ids.ts";
import { DATASERVER_PUSHES } from "../../../wire/messages/dataserver.ts";
import { settle } from "../../base/fake_clock.ts";
import { BLOCK_BYTES, type FakeVolume, type FsckWorld, makeFsckWorld, writeFile } from "./fsck_world.ts";
import { makeFile } from "./harness.ts";
import { REPLICATION, ServiceClient } from "./service.ts";

function extentOf({ namespace }: FsckWorld, ino: InodeId): Extent {
  const tx = namespace.begin();
  return extentAt(tx, tx.inode(ino), 0)!;
}

/** Lets Repair work for a while, with all dataservers alive. */
async function repairFor({ clock, registry, repair }: FsckWorld, seconds: number): Promise<void> {
  const stopping = new AbortController();
  const running = repair.run(stopping.signal);
  for (let i = 0; i < seconds; i++) {
    for (const node of registry.status()) registry.heartbeat(node.node as never, []);
    await clock.advance(1_000);
  }
  stopping.abort();
  await settle();
  await running;
}

function replicasOf(world: FsckWorld, ino: InodeId): [FakeVolume, FakeVolume] {
  const { volumes } = extentOf(world, ino);
  const [first, second] = volumes.map((volume) => world.volumes.find((one) => one.volume === volume)!);
  return [first!, second!];
}

Deno.test("repair: a doubtful replica is settled on though the other, which is gone, has counted as good for a while", async () => {
  const world = await makeFsckWorld();
  const ino = await writeFile(world, "f");
  const { block, generation } = extentOf(world, ino);
  const [gone, doubtful] = replicasOf(world, ino);
  gone.replicas.delete(block);
  doubtful.replicas.get(block)!.isDoubtful = true;
  world.repair.replicaDoubtful(doubtful.volume, block);
  await repairFor(world, 2);
  assert.equal(extentOf(world, ino).generation, generation, "nobody has said that the other is gone");
  world.repair.replicaBad(gone.volume, block, false);
  await repairFor(world, 12);
  const { volumes } = extentOf(world, ino);
  assert.ok(volumes.includes(doubtful.volume) && !volumes.includes(gone.volume), `${volumes}`);
  assert.ok(!doubtful.replicas.get(block)!.isDoubtful);
});

Deno.test("repair: a doubtful replica goes where another has what was acknowledged", async () => {
  const world = await makeFsckWorld();
  const ino = await writeFile(world, "f");
  const { block } = extentOf(world, ino);
  const [good, doubtful] = replicasOf(world, ino);
  doubtful.replicas.get(block)!.isDoubtful = true;
  world.repair.replicaDoubtful(doubtful.volume, block);
  await repairFor(world, 3);
  const { volumes } = extentOf(world, ino);
  assert.ok(volumes.includes(good.volume) && !volumes.includes(doubtful.volume), `${volumes}`);
});

Deno.test("repair: a volume that was away for a moment, which nobody saw, gets the replica that had no other place", async () => {
  const world = await makeFsckWorld();
  const { repair, registry, clock } = world;
  const ino = await writeFile(world, "f");
  const { block } = extentOf(world, ino);
  const [first, second] = replicasOf(world, ino);
  const third = world.volumes.find((volume) => volume !== first && volume !== second)!;
  const stopping = new AbortController();
  const running = repair.run(stopping.signal);
  await settle();
  const { context } = (await ServiceClient.connect(world, "a")).peer;
  await world.admin.setReplication({ inodes: [ino], replication: 3 }, context);
  // Repair looks at all volumes each 200 ms. Then it asks whether this is so, and finds no place for a third one.
  repair.replicaBad(first.volume, block, false);
  first.onState = () => third.peer.close();
  await clock.advance(200);
  for (let i = 0; i < 50; i++) await settle();
  assert.deepEqual([registry.isAlive(third.volume), repair.status().running], [false, 0]);
  await third.register(world);
  stopping.abort();
  await running;
  await repairFor(world, 12);
  const { copyReplica } = DATASERVER_PUSHES.methods;
  assert.ok(third.peer.pushes.some(({ op }) => op === copyReplica.op), "a copy was asked for");
});

Deno.test("repair: of a block without data a replica that was not made takes the new generation by being made", async () => {
  const world = await makeFsckWorld();
  const { namespace, recovery, registry } = world;
  const creates = () =>
    world.volumes.flatMap(({ peer }) => peer.pushes.splice(0)).map(({ message }) =>
      (message as { create?: true }).create
    );
  const written = await writeFile(world, "f");
  const { block, generation } = extentOf(world, written);
  await recovery.replicasFailed(written, 0, block, generation, []);
  assert.deepEqual(creates(), [undefined, undefined], "one with data that is missing has lost it");
  const [ino, empty] = await namespace.change((tx) => {
    const inode = makeFile(tx, "g");
    const place = () => registry.place(REPLICATION, "", []);
    return [inode.ino, allocateBlock(tx, inode, 0, BLOCK_BYTES, place)] as const;
  });
  await recovery.replicasFailed(ino, 0, empty.block, empty.generation, []);
  assert.deepEqual(creates(), [true, true]);
  // Who has written to it says so, though nobody else knows it yet.
  await recovery.replicasFailed(ino, 0, empty.block, asGeneration(2), [], true);
  assert.deepEqual(creates(), [undefined, undefined]);
});
