/**
 * A cluster whose nameserver is lost and comes back from a backup that is older than what its dataservers have: what was
 * there at the backup is there with its bytes, wherever its blocks have gone since, and nothing else is taken for it.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { eventually, sh, within } from "../harness/command.ts";
import { type Cluster, type ClusterOptions, mfs, withCluster } from "../harness/cluster.ts";
import type { StatusReply } from "../../wire/messages/nameserver.ts";

const OPTIONS: ClusterOptions = {
  mode: "roles",
  dataservers: 3,
  replication: 2,
  nameserverFlags: ["--dead-after", "2"],
};

async function answer(args: readonly string[]): Promise<Record<string, unknown>> {
  const { code, stdout, stderr } = await mfs([...args, "--json"]);
  assertEquals(code, 0, stderr);
  return JSON.parse(stdout);
}

const status = async (cluster: Cluster): Promise<StatusReply> =>
  await answer(["status", "--nameserver", cluster.nameserver]) as unknown as StatusReply;

async function repaired(cluster: Cluster): Promise<void> {
  await eventually(60_000, "all blocks repaired", async () => {
    const { blocks, replicas, underReplicated, repair } = await status(cluster);
    return underReplicated === 0 && replicas === 2 * blocks && repair.waiting + repair.running === 0;
  });
}

async function restartWith(cluster: Cluster, prepare: () => Promise<void>): Promise<void> {
  await cluster.kill("mount");
  await sh(`umount -l ${cluster.mountpoint}`, { timeoutMs: 10_000 });
  await cluster.kill("nameserver");
  await prepare();
  await cluster.restart("nameserver");
  await cluster.restart("mount");
}

Deno.test({
  name: "backup: a cluster goes on from an old one with what its dataservers have",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () => withCluster(OPTIONS, (cluster) => within(150_000, "backup", goesOn(cluster))),
});

async function goesOn(cluster: Cluster): Promise<void> {
  const { scratch, mountpoint: mnt, nameserver } = cluster;
  const file = `${scratch}/backup`;
  await sh(`mkdir ${scratch}/local; cd ${scratch}/local
    mkdir many; cp /usr/include/linux/[a-d]*.h many; head -c 5000000 /dev/urandom > large
    head -c 5000 /dev/zero > rewritten; printf before > small; printf short > grown
    cp -r . ${mnt}`);
  // Written to all the while: the backup is of one instant.
  const busy = sh(`for i in $(seq 100); do echo $i > ${mnt}/busy.$i; done`, { timeoutMs: 60_000 });
  const saved = await answer(["backup", file, "--nameserver", nameserver]);
  await busy;
  assertEquals(saved.bytes, (await Deno.stat(file)).size);
  const again = await mfs(["backup", file, "--nameserver", nameserver]);
  assertEquals([again.code, again.stderr], [1, `mfs: backup: ${file} exists: --force replaces it\n`]);

  // What the backup does not know of. The blocks of one dataserver go elsewhere.
  await sh(`cd ${mnt}; mkdir after; for i in $(seq 50); do head -c 5000 /dev/urandom > after/$i; done
    printf rewriting | dd of=rewritten conv=notrunc status=none; printf after > small
    head -c 1000000 /dev/urandom >> grown`);
  await cluster.kill("dataserver2");
  await eventually(10_000, "it counts as lost", async () => (await status(cluster)).underReplicated > 0);
  await repaired(cluster);
  const before = await status(cluster);

  // Of what lay on dataserver2 and 3 there is only what was copied to 1, of which the backup does not know.
  await cluster.kill("dataserver3");
  const dir = `${scratch}/nameserver`;
  await restartWith(cluster, async () => {
    const refused = await mfs(["restore", file, "--dir", dir]);
    assertEquals(refused.code, 1);
    assertStringIncludes(refused.stderr, "--force");
    await Deno.rename(dir, `${dir}.lost`);
    const restored = await answer(["restore", file, "--dir", dir]);
    assertEquals([restored.clusterId, restored.time], [saved.clusterId, saved.time]);
  });
  assertEquals((await status(cluster)).clusterId, before.clusterId);
  await eventually(60_000, "all blocks are there", async () => {
    const { missing, repair } = await status(cluster);
    return missing === 0 && repair.waiting + repair.running === 0;
  });
  await sh(`diff -r ${scratch}/local/many ${mnt}/many`, { timeoutMs: 60_000 });
  for (const role of ["dataserver2", "dataserver3"]) await cluster.restart(role);
  await repaired(cluster);

  await sh(
    `cd ${scratch}/local
    diff -r many ${mnt}/many; cmp large ${mnt}/large
    [ "$(cat ${mnt}/grown)" = short ]
    [ "$(head -c 9 ${mnt}/rewritten)" = rewriting ] # the bytes of a block are as the dataservers have them
    [ "$(cat ${mnt}/small)" = before ]              # those of a small file are in the backup
    [ ! -e ${mnt}/after ]
    # A prefix of what was being written at the time of the backup, each file whole or empty.
    n=$(ls ${mnt} | grep -c ^busy || true)
    for i in $(seq $n); do [ -e ${mnt}/busy.$i ]; done
    # What the file grew by after the backup does not come back when it grows again.
    truncate -s 100000 ${mnt}/grown
    tail -c +6 ${mnt}/grown | cmp -n 99995 - /dev/zero
    cp -r ${scratch}/local/many ${mnt}/new; diff -r many ${mnt}/new
    printf more >> ${mnt}/rewritten; [ "$(tail -c +5001 ${mnt}/rewritten)" = more ]`,
    { timeoutMs: 60_000 },
  );
  const kept = await sh(`ls ${scratch}/volume*/trash | grep -c 'blk$'`);
  assert(Number(kept) >= 2 * 50, `${kept} replicas of what came after the backup are kept aside`);
  await repaired(cluster);

  // Each dataserver alone has its share whole: two of three are enough for everything.
  await cluster.kill("dataserver1");
  await sh(`cd ${scratch}/local; diff -r many ${mnt}/new; diff -r many ${mnt}/many; cmp large ${mnt}/large`, {
    timeoutMs: 60_000,
  });
}
