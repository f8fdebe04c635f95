/** Which replicas Repair counts on, takes off and replaces, while some are away, in doubt, or said to be bad. */

import assert from "node:assert/strict";
import { allocateBlock, markWritten } from "../../../roles/nameserver/block_operations.ts";
import { deletionKey } from "../../../roles/nameserver/keys.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { FsError } from "../../../wire/errno.ts";
import type { VolumeId } from "../../../wire/ids.ts";
import { makeFile } from "./harness.ts";
import { World } from "./settling_world.ts";

/** As makeService has it. */
const DEAD_AFTER_MS = 30_000;

async function setReplication({ service: { namespace, repair }, ino }: World, count: number): Promise<void> {
  await namespace.change((tx) => operations.setReplication(tx, tx.inode(ino), count));
  await repair.replicationChanged(ino);
}

/** A block on `a` and `b`, and room on the other hosts; nobody writes. */
async function make(...hosts: string[]): Promise<{ world: World; first: VolumeId; second: VolumeId }> {
  const world = await World.make(...hosts);
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  await world.client.release(world.ino);
  return { world, first, second };
}

/** On three hosts. */
async function makeThree(): Promise<{ world: World; first: VolumeId; second: VolumeId; third: VolumeId }> {
  const made = await make("a", "b", "c");
  await setReplication(made.world, 3);
  await made.world.repairFor(2_000);
  assert.equal(made.world.listed.length, 3);
  const { world, first, second } = made;
  return { ...made, third: world.listed.find((volume) => volume !== first && volume !== second)! };
}

Deno.test("repair: which replica is too many is not decided while one may still come back", async () => {
  const { world, third } = await makeThree();
  const { generation } = world.extent!;
  world.stop(third);
  await setReplication(world, 2);
  await world.repairFor(10_000);
  assert.deepEqual([world.listed.length, world.extent!.generation], [3, generation]);
  await world.start(world.hostOf(third));
  await world.repairFor(10_000);
  assert.equal(world.listed.length, 2);
});

Deno.test("repair: a replica is not taken off a node that is decommissioned while one that counts is away", async () => {
  const { world, first, second, third } = await makeThree();
  world.stop(third);
  await world.service.registry.decommission(world.service.registry.findNode(world.hostOf(first)), true);
  const { generation } = world.extent!;
  await setReplication(world, 2);
  await world.repairFor(10_000);
  assert.deepEqual([world.listed.length, world.extent!.generation], [3, generation]);
  await world.start(world.hostOf(third));
  await world.repairFor(10_000);
  assert.deepEqual([...world.listed].sort(), [second, third].sort());
});

Deno.test("repair: a replica that was said to be behind, and is not, stays", async () => {
  const { world, second } = await make("a", "b", "c");
  const { service: { repair }, block, extent } = world;
  repair.replicaBad(second, block.id, false);
  await world.repairFor(5_000);
  assert.deepEqual(world.extent, extent);
  assert.equal(repair.reportOf(second, block.id), undefined);
});

Deno.test("repair: a replica whose disk can't be read is replaced", async () => {
  const { world, first, second } = await make("a", "b", "c");
  const { service: { repair }, block } = world;
  world.onState = async (volume) => {
    if (volume === second) throw new FsError("EIO", "the disk can't be read");
  };
  repair.replicaBad(second, block.id, false);
  await world.repairFor(5_000);
  assert.ok(world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
  assert.equal(world.listed.length, 2);
});

Deno.test("repair: nothing is chosen of doubtful replicas while one that may be better is away, and may be back", async () => {
  const { world, first, second } = await make("a", "b");
  world.replicas.get(first)!.isDoubtful = true;
  world.stop(second);
  await world.report(first);
  await world.repairFor(10_000);
  assert.equal(world.replicas.get(first)!.isDoubtful, true);
  await world.report(await world.start(world.hostOf(second)));
  await world.repairFor(10_000);
  assert.deepEqual(world.listed, [second]);
});

Deno.test("repair: a doubtful replica is chosen when the one that may have been better is lost", async () => {
  const { world, first, second } = await make("a", "b");
  world.replicas.get(first)!.isDoubtful = true;
  world.stop(second);
  await world.report(first);
  await world.repairFor(DEAD_AFTER_MS + 10_000);
  assert.deepEqual([world.listed, world.replicas.get(first)!.isDoubtful], [[first], false]);
});

Deno.test("repair: a replica that is corrupt is known as such after a choice that came to nothing", async () => {
  const { world, first, second } = await make("a", "b");
  const { service: { repair }, block } = world;
  world.replicas.get(first)!.isDoubtful = true;
  repair.replicaBad(second, block.id, true);
  world.onState = async (_volume, digest) => {
    if (digest) throw new FsError("ETIMEDOUT", "slow");
  };
  await world.report(first);
  await world.repairFor(10_000);
  assert.deepEqual(world.listed, world.volumes);
  assert.deepEqual([first, second].map((volume) => repair.reportOf(volume, block.id)), [
    "suspect",
    "corrupt",
  ]);
});

Deno.test("repair: what was said of a replica that a writer has taken off is not so of a copy in its place", async () => {
  const { world, first, second } = await make("a", "b");
  const { service: { repair, recovery, journal }, block, ino } = world;
  repair.replicaBad(first, block.id, true);
  await recovery.replicasFailed(ino, 0, block.id, block.generation, [first]);
  // It is deleted there.
  journal.append([[deletionKey(first, block.id), null]]);
  world.replicas.delete(first);
  await world.repairFor(20_000);
  assert.deepEqual([...world.listed].sort(), [first, second].sort());
  assert.equal(repair.status().copied, 1);
});

Deno.test("repair: a block whose move has used up a generation that it has not goes on, whatever else waits", async () => {
  const { world, first } = await make("a", "b", "c");
  const { service: { registry, repair, namespace }, block, ino } = world;
  const third = registry.volumes.find((volume) => !world.volumes.includes(volume))!;
  // Another block, which waits for as long as a maintenance lasts.
  const away = await world.start("d");
  await registry.maintain(registry.findNode("d"), 3_600);
  const other = await namespace.change((tx) => {
    const inode = makeFile(tx, "g");
    const extent = allocateBlock(tx, inode, 0, 1024, () => [away]);
    markWritten(tx, inode, [extent]);
    return extent.block;
  });
  repair.replicaDoubtful(away, other);
  world.stop(away);
  await world.repairFor(1_000);
  world.afterGeneration = async (volume) => {
    if (volume === third) throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  const { generation } = world.extent!;
  assert.equal(await repair.move({ ino, start: 0, block: block.id }, first, third, 8), "refused");
  assert.deepEqual([world.extent!.generation, world.replicas.get(third)!.generation], [
    generation,
    generation + 1,
  ]);
  await world.repairFor(10_000);
  assert.ok(repair.status().waiting > 0, "the other waits still");
  assert.deepEqual([world.extent!.generation, world.listed], [generation + 1, world.volumes]);
});
