/** Which replicas Repair counts on, takes off and replaces, while some are away, in doubt, or said to be bad. */

import assert from "node:assert/strict";
import { allocateBlock, leaveDeletion, markWritten } from "../../../roles/nameserver/block_operations.ts";
import { deletionKey } from "../../../roles/nameserver/keys.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import { FsError } from "../../../wire/errno.ts";
import type { BlockId, VolumeId } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { makeFsckWorld, writeFile } from "./fsck_world.ts";
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

Deno.test("repair: a replica that is corrupt goes though it answers, whatever else is said of it", async () => {
  const { world, first, second } = await make("a", "b", "c");
  const { service: { repair }, block } = world;
  repair.replicaBad(second, block.id, true);
  repair.replicaBad(second, block.id, false);
  assert.equal(repair.reportOf(second, block.id), "corrupt");
  await world.repairFor(5_000);
  assert.ok(world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
});

Deno.test("repair: what was said to be corrupt is replaced though its dataserver has come back, where there is another", async () => {
  const { world, first, second } = await make("a", "b", "c");
  world.service.repair.replicaBad(second, world.block.id, true);
  world.stop(second);
  await world.start(world.hostOf(second));
  await world.repairFor(10_000);
  assert.ok(world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
});

Deno.test("repair: all that a block has left is read when its dataserver comes back, though it was said to be corrupt", async () => {
  for (const isCorrupt of [false, true]) {
    const { world, first, second } = await make("a", "b", "c");
    const { service: { repair }, block } = world;
    world.stop(first);
    repair.replicaBad(second, block.id, true);
    await world.repairFor(DEAD_AFTER_MS + 10_000);
    assert.equal(repair.reportOf(second, block.id), "corrupt", "who has said so knows");
    world.stop(second);
    world.replicas.get(second)!.isCorrupt = isCorrupt;
    await world.start(world.hostOf(second));
    await world.repairFor(10_000);
    assert.equal(repair.reportOf(second, block.id), isCorrupt ? "corrupt" : undefined);
    assert.deepEqual([world.listed.includes(first), world.listed.length], [isCorrupt, 2]);
    assert.equal(repair.status().waiting + repair.status().running, 0);
  }
});

Deno.test("repair: a block does not go on with a corrupt replica while another may come back", async () => {
  const { world, first, second } = await make("a", "b");
  const { service: { repair, recovery }, block, ino } = world;
  repair.replicaBad(second, block.id, true);
  world.stop(first);
  const goOn = () => recovery.replicasFailed(ino, 0, block.id, world.extent!.generation, [first]);
  await assert.rejects(goOn, /none but corrupt replicas answer/);
  await world.repairFor(10_000);
  assert.deepEqual(world.listed, [first, second]);
  await world.start(world.hostOf(first));
  await world.repairFor(10_000);
  assert.ok(world.listed.includes(first), `${world.listed}`);
});

Deno.test("repair: a block goes on with a corrupt replica when all others are lost", async () => {
  const { world, first, second } = await make("a", "b");
  const { service: { repair, recovery }, block, ino } = world;
  repair.replicaBad(second, block.id, true);
  world.stop(first);
  await world.repairFor(DEAD_AFTER_MS + 10_000);
  await recovery.replicasFailed(ino, 0, block.id, world.extent!.generation, [first]);
  assert.deepEqual(world.listed, [second]);
});

Deno.test("repair: a block whose replicas are all lost is left alone until one is back", async () => {
  const { world, first, second } = await make("a", "b", "c");
  const { repair } = world.service;
  world.stop(first);
  world.stop(second);
  await world.repairFor(DEAD_AFTER_MS + 10_000);
  const { waiting, running, failed } = repair.status();
  assert.deepEqual([waiting, running, failed, world.listed], [0, 0, 0, world.volumes]);
  await world.start(world.hostOf(first));
  await world.repairFor(10_000);
  assert.ok(world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
  assert.equal(world.listed.length, 2);
});

Deno.test("repair: a lost replica that is back just as its successor counts is not beside it on one host", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  await world.client.release(world.ino);
  const host = world.hostOf(second);
  const successor = await world.start("other", host);
  world.stop(second);
  let most = 0;
  world.onGeneration = async (volume) => {
    most = Math.max(most, world.listed.length);
    if (volume === successor && !world.service.registry.isAlive(second)) await world.start(host);
  };
  await world.repairFor(DEAD_AFTER_MS + 2_000);
  assert.deepEqual([...world.listed].sort(), [first, successor].sort());
  assert.deepEqual([most, world.service.registry.isAlive(second)], [2, true]);
});

Deno.test("repair: a block is not moved to a better place while one of its replicas is away", async () => {
  const { world, second } = await make("a", "b", "c");
  const third = world.service.registry.volumes.find((volume) => !world.volumes.includes(volume))!;
  await world.repairFor(1_000);
  world.stop(second);
  for (const volume of [...world.volumes, third]) {
    const rack = volume === third ? "r2" : "r1";
    await world.start(world.hostOf(volume), world.hostOf(volume), rack);
  }
  world.stop(second);
  const before = world.extent;
  await world.repairFor(10_000);
  assert.deepEqual(world.extent, before);
  await world.start(world.hostOf(second), world.hostOf(second), "r1");
  await world.repairFor(10_000);
  assert.ok(world.listed.includes(third), `${world.listed}`);
});

Deno.test("repair: a move is refused to where the block is, was lately, or finds no room", async () => {
  const { world, first, second } = await make("a", "b", "c");
  const { service: { registry, repair, namespace }, block, ino } = world;
  const third = registry.volumes.find((volume) => !world.volumes.includes(volume))!;
  const move = (to: VolumeId, bytes = 8) => repair.move({ ino, start: 0, block: block.id }, first, to, bytes);
  assert.equal(await move(second), "refused");
  assert.equal(await move(third, 2e9), "refused");
  await namespace.change((tx) => leaveDeletion(tx, third, block.id, block.generation));
  assert.equal(await move(third), "refused");
  world.service.journal.append([[deletionKey(third, block.id), null]]);
  assert.deepEqual([world.replicas.has(third), world.listed], [false, world.volumes], "nothing has begun");
  repair.replicaBad(second, block.id, false);
  await settle();
  assert.equal(await move(third), "refused", "another replica may be bad");
  await world.repairFor(1_000);
  world.stop(second);
  await settle();
  assert.equal(await move(third), "refused", "another replica is away");
  await world.start(world.hostOf(second));
  assert.equal(await move(third), 8);
  assert.deepEqual([...world.listed].sort(), [second, third].sort());
});

Deno.test("repair: of blocks that lack replicas those with a single one come first", async () => {
  const world = await makeFsckWorld(["a", "b", "c", "d"]);
  const { repair, namespace, clock, volumes } = world;
  const blocks: BlockId[] = [];
  for (let i = 0; i < 40; i++) {
    const ino = await writeFile(world, `f${i}`);
    await namespace.change((tx) => operations.setReplication(tx, tx.inode(ino), 3));
    const { block, generation } = extentAt(namespace.begin(), namespace.begin().inode(ino), 0)!;
    blocks.push(block);
    const [, second] = extentAt(namespace.begin(), namespace.begin().inode(ino), 0)!.volumes;
    if (i === 39) await world.recovery.replicasFailed(ino, 0, block, generation, [second!]);
    else repair.look(ino, 0, block);
  }
  const stopping = new AbortController();
  let begun: BlockId[] | undefined;
  for (const volume of volumes) {
    volume.onState = () => begun ??= blocks.filter((block) => repair.isBusy(block));
  }
  const running = repair.run(stopping.signal);
  await clock.advance(1_000);
  stopping.abort();
  await clock.advance(1_000);
  await running;
  assert.ok(begun!.length < blocks.length && begun!.includes(blocks[39]!), `${begun}`);
});

Deno.test("repair: a replica that is bad goes, though its block has got another generation while that was found out", async () => {
  const { world, first, second } = await make("a", "b", "c");
  const { service: { repair, recovery }, block, ino } = world;
  let isFirst = true;
  world.onState = async (volume) => {
    if (volume !== second) return;
    if (isFirst) {
      isFirst = false;
      await recovery.replicasFailed(ino, 0, block.id, block.generation, []);
    }
    throw new FsError("EIO", "the disk can't be read");
  };
  repair.replicaBad(second, block.id, false);
  await world.repairFor(5_000);
  assert.equal(isFirst, false);
  assert.ok(world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
});

Deno.test("repair: a copy on a node that is decommissioned meanwhile does not become a replica", async () => {
  const { world, first, second } = await make("a", "b", "c");
  const { service: { registry, recovery }, block, ino } = world;
  await recovery.replicasFailed(ino, 0, block.id, block.generation, [second]);
  let copy: VolumeId | undefined;
  world.onCopy = async (volume) => {
    if (copy !== undefined) return;
    copy = volume;
    await registry.decommission(registry.findNode(world.hostOf(volume)), true);
  };
  const asked: VolumeId[] = [];
  world.onGeneration = async (volume) => void asked.push(volume);
  await world.repairFor(10_000);
  assert.ok(copy !== undefined && !asked.includes(copy), `${asked}`);
  assert.equal(world.listed[0], first);
});

/** The first one's disk has failed: it can be read, and takes no generation. */
async function makeFailing(): Promise<{ world: World; first: VolumeId; second: VolumeId }> {
  const made = await make("a", "b", "c");
  const { world, first } = made;
  world.onGeneration = async (volume) => {
    if (volume === first) throw new FsError("EIO", "the volume has failed");
  };
  world.fail(first);
  return made;
}

Deno.test("repair: of a block that is left on a disk alone which has failed copies are made as long as that can be read", async () => {
  const { world, first, second } = await makeFailing();
  world.stop(second);
  await world.repairFor(DEAD_AFTER_MS + 10_000);
  assert.equal(world.listed.length, 1);
  assert.ok(!world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
  assert.equal(world.replicas.get(world.listed[0]!)!.digest, "same");
});

Deno.test("repair: what a disk that has failed still gives is better than a corrupt or a doubtful replica", async () => {
  for (const isCorrupt of [true, false]) {
    const { world, first, second } = await makeFailing();
    const { repair } = world.service;
    world.replicas.set(second, { ...world.replicas.get(second)!, digest: "worse", isDoubtful: true });
    if (isCorrupt) repair.replicaBad(second, world.block.id, true);
    else repair.replicaDoubtful(second, world.block.id);
    await world.repairFor(10_000);
    assert.ok(world.listed.length > 0 && !world.listed.includes(first), `${world.listed}`);
    assert.ok(world.listed.every((volume) => world.replicas.get(volume)!.digest === "same"));
  }
});

Deno.test("repair: a doubtful replica is chosen when the disk of the other has failed, and gives nothing", async () => {
  const { world, first, second } = await makeFailing();
  const { repair } = world.service;
  world.replicas.get(second)!.isDoubtful = true;
  world.onCopy = async () => {
    repair.replicaBad(first, world.block.id, true);
    throw new FsError("EIO", "checksum mismatch");
  };
  repair.replicaDoubtful(second, world.block.id);
  await world.repairFor(20_000);
  assert.equal(world.replicas.get(second)!.isDoubtful, false);
  assert.ok(world.listed.includes(second) && !world.listed.includes(first), `${world.listed}`);
});

Deno.test("repair: a doubtful replica is chosen when there was no place for long for what the failed disk of the other gives", async () => {
  const { world, first, second } = await make("a", "b");
  world.onGeneration = async (volume) => {
    if (volume === first) throw new FsError("EIO", "the volume has failed");
  };
  world.fail(first);
  world.replicas.get(second)!.isDoubtful = true;
  world.service.repair.replicaDoubtful(second, world.block.id);
  await world.repairFor(15_000);
  assert.deepEqual([world.listed, world.replicas.get(second)!.isDoubtful], [world.volumes, true]);
  await world.repairFor(20_000);
  assert.deepEqual([world.listed, world.replicas.get(second)!.isDoubtful], [[second], false]);
});

Deno.test("repair: a doubtful replica is chosen at once when the failed disk of the other turns out not to have it", async () => {
  const { world, first, second } = await make("a", "b", "c");
  world.onGeneration = async (volume) => {
    if (volume === first) throw new FsError("EIO", "the volume has failed");
  };
  world.fail(first);
  world.replicas.delete(first);
  world.replicas.get(second)!.isDoubtful = true;
  world.service.repair.replicaDoubtful(second, world.block.id);
  await world.repairFor(2_000);
  assert.equal(world.replicas.get(second)!.isDoubtful, false);
  assert.ok(world.listed.includes(second) && !world.listed.includes(first), `${world.listed}`);
});
