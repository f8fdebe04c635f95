/** What Repair makes of a block, one thing after another: repair_simulation.test.ts has them all at once. */

import assert from "node:assert/strict";
import { allocateBlock, leaveDeletion } from "../../../roles/nameserver/block_operations.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import { deletionKey } from "../../../roles/nameserver/keys.ts";
import { decodeNumbers, type Extent } from "../../../roles/nameserver/records.ts";
import { FsError } from "../../../wire/errno.ts";
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
    for (const { node, alive } of registry.status()) if (alive) registry.heartbeat(node as never, []);
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
  await clock.advance(1_000); // the walk over all blocks, as servers have come
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

async function allocate({ namespace, registry }: FsckWorld): Promise<InodeId> {
  return await namespace.change((tx) => {
    const inode = makeFile(tx, "empty");
    allocateBlock(tx, inode, 0, BLOCK_BYTES, () => registry.place(REPLICATION, "", []));
    return inode.ino;
  });
}

Deno.test("repair: a block without data leaves a node that is decommissioned; what was made elsewhere can be written to", async () => {
  const world = await makeFsckWorld();
  const { registry, journal } = world;
  const ino = await allocate(world);
  const { block, generation } = extentOf(world, ino);
  const [going, staying] = replicasOf(world, ino);
  // By a write that failed, of which nobody has told.
  staying.replicas.set(block, { generation, length: 1, fileBytes: 1, digest: "x" });
  await registry.decommission(registry.findNode(going.host), true);
  await repairFor(world, 5);
  const extent = extentOf(world, ino);
  assert.deepEqual([extent.volumes.length, extent.volumes.includes(going.volume)], [REPLICATION, false]);
  assert.equal(staying.replicas.get(block)!.generation, extent.generation);
  assert.ok(extent.generation > generation);
  assert.ok(
    journal.get(deletionKey(going.volume, block)) !== undefined,
    "it is deleted there if it was made",
  );
});

Deno.test("repair: a block without data whose other server is lost leaves a node that is decommissioned, too", async () => {
  const world = await makeFsckWorld(["a", "b", "c", "d"]);
  const { registry } = world;
  const ino = await allocate(world);
  const { generation } = extentOf(world, ino);
  const [going, lost] = replicasOf(world, ino);
  await registry.decommission(registry.findNode(going.host), true);
  lost.peer.close();
  await repairFor(world, 50);
  const extent = extentOf(world, ino);
  assert.equal(extent.volumes.length, REPLICATION);
  assert.ok(!extent.volumes.includes(going.volume) && !extent.volumes.includes(lost.volume));
  assert.ok(extent.generation > generation);
});

Deno.test("repair: who knows where a block without data is hears of it when it moves", async () => {
  const world = await makeFsckWorld();
  const { registry } = world;
  const ino = await allocate(world);
  const client = await ServiceClient.connect(world, "a");
  await client.call("getattr", { ino });
  await registry.decommission(registry.findNode(replicasOf(world, ino)[0].host), true);
  await repairFor(world, 5);
  assert.equal(client.recalls.length, 1);
});

Deno.test("repair: a replica on a node that is decommissioned goes without a copy when there are enough others", async () => {
  const world = await makeFsckWorld();
  const { registry, admin } = world;
  const ino = await writeFile(world, "f");
  const { context } = (await ServiceClient.connect(world, "a")).peer;
  await admin.setReplication({ inodes: [ino], replication: 3 }, context);
  await repairFor(world, 3);
  assert.equal(extentOf(world, ino).volumes.length, 3);
  await registry.decommission(registry.findNode("c"), true);
  await admin.setReplication({ inodes: [ino], replication: 2 }, context);
  await repairFor(world, 3);
  const c = world.volumes.find(({ host }) => host === "c")!;
  const { volumes } = extentOf(world, ino);
  assert.deepEqual([volumes.length, volumes.includes(c.volume)], [2, false]);
});

/** A file on two of three hosts, all in one rack, but the third is in another and still has to delete an older replica. */
async function makeMisplaced(): Promise<
  { readonly world: FsckWorld; readonly third: FakeVolume; ino: InodeId }
> {
  const world = await makeFsckWorld();
  const ino = await writeFile(world, "f");
  const { block } = extentOf(world, ino);
  const third = world.volumes.find(({ volume }) => !extentOf(world, ino).volumes.includes(volume))!;
  await world.namespace.change((tx) => leaveDeletion(tx, third.volume, block, asGeneration(1)));
  return { world, third, ino };
}

const asksForCopy = ({ peer }: FakeVolume) =>
  peer.pushes.filter(({ op }) => op === DATASERVER_PUSHES.methods.copyReplica.op).length;

Deno.test("repair: a replica is not made where an older one is still to be deleted, and is once that is done", async () => {
  const { world, third, ino } = await makeMisplaced();
  const { context } = (await ServiceClient.connect(world, "a")).peer;
  await world.admin.setReplication({ inodes: [ino], replication: 3 }, context);
  await repairFor(world, 12);
  assert.equal(asksForCopy(third), 0);
  world.journal.append([[deletionKey(third.volume, extentOf(world, ino).block), null]]);
  await repairFor(world, 8);
  assert.equal(extentOf(world, ino).volumes.length, 3);
});

Deno.test("repair: a block moves to another rack, which is told of later, once an older replica is deleted there", async () => {
  const { world, third, ino } = await makeMisplaced();
  const stopping = new AbortController();
  const running = world.repair.run(stopping.signal);
  const pass = async (seconds: number) => {
    for (let i = 0; i < seconds; i++) {
      for (const { node } of world.registry.status()) world.registry.heartbeat(node as never, []);
      await world.clock.advance(1_000);
    }
  };
  await pass(2);
  for (const volume of world.volumes) await volume.register(world, volume === third ? "r2" : "r1");
  await pass(12);
  assert.equal(asksForCopy(third), 0);
  world.journal.append([[deletionKey(third.volume, extentOf(world, ino).block), null]]);
  await pass(8);
  assert.ok(extentOf(world, ino).volumes.includes(third.volume));
  assert.equal(extentOf(world, ino).volumes.length, REPLICATION);
  stopping.abort();
  await running;
});

Deno.test("repair: a copy whose generation nobody knows of is not made again before its block has gone on", async () => {
  const world = await makeFsckWorld();
  const ino = await writeFile(world, "f");
  const { block, generation } = extentOf(world, ino);
  const third = world.volumes.find(({ volume }) => !extentOf(world, ino).volumes.includes(volume))!;
  third.onGeneration = () => {
    third.onGeneration = () => {};
    throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  const { context } = (await ServiceClient.connect(world, "a")).peer;
  await world.admin.setReplication({ inodes: [ino], replication: 3 }, context);
  await repairFor(world, 2);
  assert.equal(asksForCopy(third), 1);
  const key = deletionKey(third.volume, block);
  assert.deepEqual(decodeNumbers(world.journal.get(key)!), [generation + 1]);
  third.replicas.delete(block);
  world.journal.append([[key, null]]);
  await repairFor(world, 20);
  const extent = extentOf(world, ino);
  assert.equal(extent.volumes.length, 3);
  assert.ok(extent.generation > generation + 1, "an order to delete that comes late does not hit it");
});
