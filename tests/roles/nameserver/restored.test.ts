/**
 * A namespace that was restored from a backup, and dataservers that have gone on since: blocks go on with the newest replica
 * of all that are there, and nobody takes a new generation before those have said what they have.
 */

import assert from "node:assert/strict";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asGeneration, type VolumeId } from "../../../wire/ids.ts";
import { World } from "./settling_world.ts";

/** As makeService has it. */
const DEAD_AFTER_MS = 30_000;
/** Repair tries again what had to wait. */
const AGAIN_MS = 20_000;

/** The block's two volumes, and one that has nothing of it, as of the backup. */
async function restore(): Promise<{ world: World; first: VolumeId; second: VolumeId; third: VolumeId }> {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  const third = world.service.registry.volumes.find((volume) => !world.volumes.includes(volume))!;
  for (const volume of world.volumes) world.hold(volume, 8, "backup");
  await world.client.release(world.ino);
  const { namespace } = world.service;
  namespace.ids.leap();
  await namespace.change((tx) => namespace.ids.saveTo(tx), true);
  return { world, first, second, third };
}

/** What the life after the backup has made of a replica, by its `steps`. */
function goOn(world: World, volume: VolumeId, digest: string, steps: number): void {
  world.replicas.set(volume, { generation: world.block.generation + steps, length: 8, digest });
}

const digestsOf = (world: World) => world.listed.map((volume) => world.replicas.get(volume)?.digest);

Deno.test("restored: a block waits for the reports of all that are there, and goes on with the newest replica", async () => {
  const { world, first, second, third } = await restore();
  goOn(world, first, "older", 1);
  goOn(world, second, "newest", 2);
  await world.report(first);
  await world.report(third);
  await world.repairFor(DEAD_AFTER_MS + AGAIN_MS);
  assert.equal(world.extent!.generation, world.block.generation, "one that is there has not reported");
  await world.report(second);
  await world.repairFor(AGAIN_MS);
  assert.ok(world.listed.includes(second), `${world.listed}`);
  assert.deepEqual(new Set(digestsOf(world)), new Set(["newest"]));
});

Deno.test("restored: who comes back is waited for until it has reported again, and another's report is not its own", async () => {
  const { world, first, second, third } = await restore();
  for (const volume of [first, second, third]) await world.report(volume);
  await world.repairFor(DEAD_AFTER_MS - 5_000);
  goOn(world, first, "older", 1);
  goOn(world, second, "newest", 2);
  await world.report(first);
  await world.start(world.hostOf(second));
  const { registry } = world.service;
  await world.repairFor(AGAIN_MS);
  assert.deepEqual([registry.hasReports, world.extent!.generation], [false, world.block.generation]);
  registry.reported(second, { id: "before" } as never);
  await world.reportPart(second);
  assert.equal(registry.hasReports, false);
  await world.report(second);
  await world.repairFor(AGAIN_MS);
  assert.deepEqual(new Set(digestsOf(world)), new Set(["newest"]));
});

Deno.test("restored: a lost replica is not copied over, or in place of, a newer one that is yet to be reported", async () => {
  const { world, first, second, third } = await restore();
  goOn(world, third, "newest", 2);
  world.stop(second);
  await world.report(first);
  await world.repairFor(DEAD_AFTER_MS + AGAIN_MS);
  assert.equal(world.replicas.get(third)!.digest, "newest");
  await world.report(third);
  await world.repairFor(AGAIN_MS);
  assert.ok(world.listed.includes(third), `${world.listed}`);
  assert.deepEqual(new Set(digestsOf(world)), new Set(["newest"]));
});

Deno.test("restored: a lost replica is copied when all that are there have reported", async () => {
  const { world, first, second, third } = await restore();
  world.stop(second);
  await world.report(first);
  await world.report(third);
  await world.repairFor(DEAD_AFTER_MS + AGAIN_MS);
  assert.deepEqual([...world.listed].sort(), [first, third].sort());
  assert.deepEqual(digestsOf(world), ["backup", "backup"]);
});

Deno.test("restored: a writer whose replica refuses waits until it is known what counts, and takes none off that is newer", async () => {
  const { world, first, second, third } = await restore();
  const { block: { id, generation }, ino, service: { recovery, repair } } = world;
  const fails = () => recovery.replicasFailed(ino, 0, id, generation, [second]);
  const isRefused = (error: unknown) => isErrno(error, "EAGAIN");
  goOn(world, second, "newest", 1);
  await assert.rejects(fails(), isRefused, "who is there has not reported yet");
  for (const volume of [first, third]) await world.report(volume);
  await world.repairFor(DEAD_AFTER_MS + 5_000);
  await world.report(second);
  await assert.rejects(fails(), isRefused, "the block has not gone on with it yet");
  const task = { ino, start: 0, block: id };
  assert.equal(await repair.move(task, first, third, 8), "refused");
  assert.equal(world.replicas.get(first)!.generation, generation, "nobody was asked");
  await world.repairFor(AGAIN_MS);
  assert.ok(world.listed.includes(second), `${world.listed}`);
  assert.deepEqual(new Set(digestsOf(world)), new Set(["newest"]));
});

Deno.test("restored: once all have reported, one that comes back holds up nobody", async () => {
  const { world, first, second, third } = await restore();
  const { block: { id, generation }, ino, service: { recovery, registry } } = world;
  for (const volume of [first, second, third]) await world.report(volume);
  await world.repairFor(DEAD_AFTER_MS + 5_000);
  await world.start(world.hostOf(third));
  assert.deepEqual([registry.hasReports, registry.isComplete], [true, false]);
  assert.deepEqual((await recovery.replicasFailed(ino, 0, id, generation, [second])).volumes, [first]);
});

/** Of two that are there and have reported, the first has gone on since the backup; the third is away. */
async function restoreWithOlder() {
  const restored = await restore();
  const { world, first, second, third } = restored;
  world.stop(third);
  goOn(world, first, "older", 1);
  await world.report(first);
  await world.report(second);
  return restored;
}

Deno.test("restored: a replica that is reported while the block goes on with an older one is the block's", async () => {
  const { world, first, third } = await restoreWithOlder();
  let comes = 1;
  world.afterGeneration = async (volume) => {
    if (volume !== first || comes-- <= 0) return;
    await world.start(world.hostOf(third));
    goOn(world, third, "newest", 2);
    await world.report(third);
  };
  await world.repairFor(DEAD_AFTER_MS + 2 * AGAIN_MS);
  assert.ok(world.listed.includes(third), `${world.listed}`);
  assert.deepEqual(new Set(digestsOf(world)), new Set(["newest"]));
});

Deno.test("restored: an older replica that has taken a generation in vain is not the block's beside a newer one", async () => {
  const { world, first, third } = await restoreWithOlder();
  let comes = 1;
  world.afterGeneration = async (volume) => {
    if (volume !== first || comes-- <= 0) return;
    goOn(world, third, "newest", 2);
    await world.report(await world.start(world.hostOf(third)));
    await world.report(first); // as when its connection ends
    throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  await world.repairFor(DEAD_AFTER_MS + 2 * AGAIN_MS);
  assert.ok(world.listed.includes(third), `${world.listed}`);
  assert.deepEqual(new Set(digestsOf(world)), new Set(["newest"]));
});

Deno.test("restored: who took the first generation of this life in vain holds what the block does, and is not ahead", async () => {
  const { world, first, second, third } = await restore();
  const { namespace } = world.service;
  world.replicas.get(first)!.generation = namespace.ids.generationFloor;
  goOn(world, second, "newest", 1);
  for (const volume of [first, second, third]) await world.report(volume);
  await world.repairFor(DEAD_AFTER_MS + AGAIN_MS);
  assert.ok(world.listed.includes(second), `${world.listed}`);
  assert.deepEqual(new Set(digestsOf(world)), new Set(["newest"]));
});

Deno.test("restored: that a block goes on with a newer replica is on disk before anything goes on with it", async () => {
  const { world, second } = await restore();
  const { block, ino, service: { journal, recovery, clock } } = world;
  goOn(world, second, "newest", 1);
  const found = asGeneration(block.generation + 1);
  const adoption = { found, to: asGeneration(found + 1), volumes: [second], isNewest: () => true };
  journal.holdDurable();
  let isDone = false;
  const adopting = recovery.adopt(ino, 0, block.id, adoption).then(() => isDone = true);
  await clock.advance(1_000);
  assert.deepEqual([world.listed, isDone], [[second], false]);
  journal.release();
  await adopting;
});
