/** Changing how many replicas files have: who must hear of it, what is made from then on, and what Repair is told. */

import assert from "node:assert/strict";
import { setrep } from "../../../roles/admin/setrep.ts";
import { extentsIn } from "../../../roles/nameserver/extents.ts";
import { Progress } from "../../../roles/admin/progress.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { gate, rest, watch } from "../leaseserver/harness.ts";
import { type FsckWorld, makeFsckWorld, name, writeFile } from "./fsck_world.ts";
import { makeDirectory, makeFile } from "./harness.ts";
import { describe, ServiceClient } from "./service.ts";

function replicationOf({ namespace }: FsckWorld, ino: InodeId): number {
  return namespace.begin().inode(ino).replication;
}

Deno.test("setrep: clients give up what they know of the inode first, and its ctime changes", async () => {
  const world = await makeFsckWorld();
  const ino = await writeFile(world, "f");
  const client = await ServiceClient.connect(world, "a");
  const before = (await client.call("getattr", { ino })).attributes;
  const answer = gate();
  client.onRecall = answer.wait;
  await world.clock.advance(1_000);
  const { context } = client.peer;
  const setting = watch(
    Promise.resolve(world.admin.setReplication({ inodes: [ino], replication: 3 }, context)),
  );
  await rest();
  assert.ok(!setting.isDone);
  assert.equal(replicationOf(world, ino), before.replication);
  answer.open();
  await rest();
  assert.deepEqual(setting.value, { changed: 1, hosts: 3, replication: 3 });
  assert.deepEqual(client.recalls.map(describe), [`${ino} read attributes`]);
  const after = (await client.call("getattr", { ino })).attributes;
  assert.equal(after.replication, 3);
  assert.ok(after.ctime.seconds > before.ctime.seconds);
  assert.deepEqual(after.mtime, before.mtime);
  // The same again is no change, and nobody is asked.
  const again = await world.admin.setReplication({ inodes: [ino], replication: 3 }, context);
  assert.deepEqual([again.changed, client.recalls.length], [0, 1]);
});

Deno.test("setrep: Repair is told of the blocks that have too few or too many replicas now", async () => {
  const world = await makeFsckWorld();
  const ino = await writeFile(world, "f", ROOT_INODE, 3);
  const { context } = await ServiceClient.connect(world, "a").then(({ peer }) => peer);
  for (const [replication, waiting] of [[3, 3], [2, 3], [1, 3]] as const) {
    await world.admin.setReplication({ inodes: [ino], replication }, context);
    assert.equal(world.repair.status().waiting, waiting, `${replication}`);
    const state = await world.admin.replicationState({ inodes: [ino] }, context);
    const pending = replication === 2 ? 0 : 3;
    assert.deepEqual(state, { blocks: 3, pending, missing: 0, wanted: replication, hosts: 3 });
  }
  // A replica that was found bad is still listed, and does not count.
  await world.admin.setReplication({ inodes: [ino], replication: 2 }, context);
  const { block, volumes } = extentsIn(
    world.namespace.begin(),
    world.namespace.begin().inode(ino),
    0,
    1,
    1,
  )[0]!;
  world.repair.replicaBad(volumes[0]!, block, true);
  assert.equal((await world.admin.replicationState({ inodes: [ino] }, context)).pending, 1);
});

Deno.test("setrep: a host that is being decommissioned is no place for a replica", async () => {
  const world = await makeFsckWorld();
  const ino = await writeFile(world, "f");
  const { context } = await ServiceClient.connect(world, "a").then(({ peer }) => peer);
  const hosts = async () => (await world.admin.replicationState({ inodes: [ino] }, context)).hosts;
  assert.equal(await hosts(), 3);
  await world.registry.decommission(world.registry.findNode("c"), true);
  assert.equal(await hosts(), 2);
});

Deno.test("setrep: a wrong number, a wrong kind of inode, and one that went are not changed", async () => {
  const world = await makeFsckWorld();
  const client = await ServiceClient.connect(world, "a");
  const { context } = client.peer;
  const { attributes: { ino: link } } = await client.symlink("l", "t");
  for (const replication of [-1, 1.5, 17]) {
    await assert.rejects(
      async () => await world.admin.setReplication({ inodes: [ROOT_INODE], replication }, context),
      /1 to 16/,
    );
  }
  const { changed } = await world.admin.setReplication(
    { inodes: [link, 999 as InodeId], replication: 3 },
    context,
  );
  assert.equal(changed, 0);
  const many = Array.from({ length: 257 }, () => ROOT_INODE);
  await assert.rejects(
    async () => await world.admin.setReplication({ inodes: many, replication: 3 }, context),
    /at most 256/,
  );
});

Deno.test("setrep: with all that is below it walks the tree page by page; what is made later has it too", async () => {
  const world = await makeFsckWorld();
  const { namespace } = world;
  const quiet = { progress: (label: string) => new Progress({ label, unit: "inodes", write: () => {} }) };
  const inodes: InodeId[] = [];
  const top = (await namespace.change((tx) => makeDirectory(tx, "top"))).ino;
  let at = top;
  for (let depth = 0; depth < 3; depth++) {
    for (let i = 0; i < 400; i++) {
      inodes.push((await namespace.change((tx) => makeFile(tx, `f${i}`, at))).ino);
    }
    at = (await namespace.change((tx) => makeDirectory(tx, "d", at))).ino;
    inodes.push(at);
  }
  const beside = (await namespace.change((tx) => makeFile(tx, "beside"))).ino;
  const path = { nameserver: "n:1", path: name("/top") };
  const only = await setrep(path, { replication: 4, recursive: false, dialer: world.dialer, ...quiet });
  assert.deepEqual([only.inodes, only.changed], [1, 1]);
  assert.match(only.warning!, /4 replicas are wanted and 3 hosts are up/);
  assert.ok(inodes.every((ino) => replicationOf(world, ino) === 2));
  const all = await setrep(path, { replication: 5, recursive: true, dialer: world.dialer, ...quiet });
  assert.deepEqual([all.inodes, all.changed], [1204, 1204]);
  assert.ok(inodes.every((ino) => replicationOf(world, ino) === 5));
  assert.deepEqual([replicationOf(world, beside), replicationOf(world, ROOT_INODE)], [2, 2]);
  const later = await namespace.change((tx) => makeFile(tx, "later", at));
  assert.equal(later.replication, 5);
});
