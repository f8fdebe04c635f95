/** Blocks whose replicas' machines have stopped while they were written: which of them count in the end. */

import assert from "node:assert/strict";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import type { Extent } from "../../../roles/nameserver/records.ts";
import type { InodeId } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { type FakeVolume, type FsckWorld, makeFsckWorld, writeFile } from "./fsck_world.ts";

function extentOf({ namespace }: FsckWorld, ino: InodeId): Extent {
  const tx = namespace.begin();
  return extentAt(tx, tx.inode(ino), 0)!;
}

/** Lets Repair work for a while, with all dataservers alive. */
async function repairFor({ clock, registry, repair, volumes }: FsckWorld, seconds: number): Promise<void> {
  const stopping = new AbortController();
  const running = repair.run(stopping.signal);
  for (let i = 0; i < seconds; i++) {
    for (const node of registry.status()) registry.heartbeat(node.node as never, []);
    await clock.advance(1_000);
  }
  stopping.abort();
  await settle();
  await running;
  assert.ok(volumes.length > 0);
}

function replicasOf(world: FsckWorld, ino: InodeId): [FakeVolume, FakeVolume] {
  const { volumes } = extentOf(world, ino);
  const [first, second] = volumes.map((volume) => world.volumes.find((one) => one.volume === volume)!);
  return [first!, second!];
}

Deno.test("doubtful: one is settled on though the other, which is gone, has counted as good for a while", async () => {
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

Deno.test("doubtful: it goes where another has what was acknowledged", async () => {
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
