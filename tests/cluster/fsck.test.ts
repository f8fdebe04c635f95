/**
 * `mfs setrep` and `mfs fsck` on real clusters: replicas come and go with the data whole, and what is done to replicas on
 * the disks is found by path, and repaired.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { FsckResult } from "../../roles/admin/fsck.ts";
import type { SetrepResult } from "../../roles/admin/setrep.ts";
import type { StatusReply } from "../../wire/messages/nameserver.ts";
import { type Cluster, isRunning, mfs, withCluster } from "../harness/cluster.ts";
import { eventually, sh, within } from "../harness/command.ts";

function define(name: string, dataservers: number, body: (cluster: Cluster) => Promise<void>): void {
  Deno.test({
    name: `fsck: ${name}`,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () =>
      withCluster(
        { mode: "roles", dataservers, replication: 2, nameserverFlags: ["--dead-after", "2"] },
        (cluster) => within(150_000, name, body(cluster)),
      ),
  });
}

async function fsck(cluster: Cluster, ...args: string[]): Promise<FsckResult & { readonly code: number }> {
  const at = args[0]?.startsWith(cluster.mountpoint) ? [] : ["--nameserver", cluster.nameserver];
  const { code, stdout, stderr } = await mfs(["fsck", ...args, ...at, "--json"], 90_000);
  assert(stdout !== "", stderr);
  return { code, ...JSON.parse(stdout) };
}

async function setrep(...args: string[]): Promise<SetrepResult> {
  const { code, stdout, stderr } = await mfs(["setrep", ...args, "--json", "--wait", "60"], 90_000);
  assertEquals(code, 0, stderr + stdout);
  return JSON.parse(stdout);
}

async function status(cluster: Cluster): Promise<StatusReply> {
  const { stdout } = await mfs(["status", "--nameserver", cluster.nameserver, "--json"]);
  return JSON.parse(stdout);
}

/** Files on the mount and the same beside it. */
async function fill(cluster: Cluster): Promise<void> {
  await sh(
    `set -e
    mkdir -p ${cluster.scratch}/local/a/b
    cd ${cluster.scratch}/local
    head -c 9000000 /dev/urandom > large
    for i in 1 2 3 4 5 6 7 8; do head -c $((i * 30000)) /dev/urandom > a/$i; done
    head -c 5000 /dev/urandom > "$(printf 'a/b/\\377')" # too large to be kept at the nameserver
    cp -r . ${cluster.mountpoint}
    ln ${cluster.mountpoint}/large ${cluster.mountpoint}/a/b/link
    rm -f ${cluster.mountpoint}/a/b/link
    `,
    { timeoutMs: 60_000 },
  );
}

async function same(cluster: Cluster): Promise<void> {
  await sh(`diff -r ${cluster.scratch}/local ${cluster.mountpoint}`, { timeoutMs: 60_000 });
}

async function stop(cluster: Cluster, role: string): Promise<void> {
  const pid = cluster.pidOf(role);
  Deno.kill(pid, "SIGTERM");
  await eventually(10_000, `${role} stopped`, () => !isRunning(pid));
}

/** The file of a replica of a block, on the first volume that has one. */
async function replicaFile(
  cluster: Cluster,
  bytes: number,
): Promise<{ readonly path: string; readonly volume: string }> {
  const found = await sh(
    `find ${cluster.scratch}/volume*/blocks -name '*.blk' -size ${bytes}c | sort | head -1`,
  );
  const path = found.trim();
  return { path, volume: /volume(\d)/.exec(path)![1]! };
}

define(
  "replication goes up and down at once, of one file and of all below, with the data whole",
  3,
  async (cluster) => {
    await fill(cluster);
    const { replicas, blocks } = await status(cluster);
    assertEquals(replicas, 2 * blocks);
    const one = await setrep("3", `${cluster.mountpoint}/large`);
    assertEquals([one.path, one.replicas, one.changed, one.pending], ["/large", 3, 1, 0]);
    assertEquals((await status(cluster)).replicas, replicas + 1);
    const all = await setrep("-R", "3", "/a", "--nameserver", cluster.nameserver);
    assertEquals([all.inodes, all.changed, all.pending], [11, 11, 0]);
    assertEquals((await status(cluster)).replicas, 3 * blocks);
    // What is made below has it too.
    await sh(
      `head -c 5000 /dev/urandom | tee ${cluster.scratch}/local/a/b/new > ${cluster.mountpoint}/a/b/new`,
    );
    await eventually(
      20_000,
      "the new file has 3",
      async () => (await status(cluster)).replicas === 3 * (blocks + 1),
    );
    await same(cluster);
    await setrep("-R", "1", cluster.mountpoint);
    assertEquals((await status(cluster)).replicas, blocks + 1);
    await same(cluster);
    const { status: clean, code } = await fsck(cluster, "--verify");
    assertEquals([clean, code], ["clean", 0]);
  },
);

define("what happens to replicas on the disks is found by path, and repaired", 3, async (cluster) => {
  await fill(cluster);
  assertEquals((await fsck(cluster, "--verify")).status, "clean");
  // One with rotten bytes, one without its file, one cut short, of three files.
  const rotten = await replicaFile(cluster, 9_000_000);
  const lost = await replicaFile(cluster, 30_000);
  const cut = await replicaFile(cluster, 60_000);
  for (const volume of new Set([rotten.volume, lost.volume, cut.volume])) {
    await stop(cluster, `dataserver${volume}`);
  }
  await sh(`printf rot | dd of=${rotten.path} bs=1 seek=5000000 conv=notrunc status=none
            rm ${lost.path}
            truncate -s 100 ${cut.path}`);
  for (const volume of new Set([rotten.volume, lost.volume, cut.volume])) {
    await cluster.restart(`dataserver${volume}`);
  }
  const seenOf = ({ problems }: FsckResult) => problems.map(({ kind, path }) => `${kind} ${path}`).sort();
  const found = await fsck(cluster);
  assertEquals([found.code, seenOf(found)], [1, ["corrupt /a/2", "lost /a/1"]]);
  assertEquals(seenOf(await fsck(cluster, `${cluster.mountpoint}/a/1`)), ["lost /a/1"]);
  const read = await fsck(cluster, `${cluster.mountpoint}/large`, "--verify");
  assertEquals([read.code, seenOf(read)], [1, ["corrupt /large"]]);
  const repaired = await fsck(cluster, "--repair", "--verify");
  assertEquals([repaired.status, repaired.problems, repaired.code], ["clean", [], 0]);
  await same(cluster);
});

define(
  "servers that are away: too few replicas or none, by path, until they are back",
  2,
  async (cluster) => {
    await fill(cluster);
    const { blocks } = await status(cluster);
    await cluster.kill("dataserver2");
    // There is no other host for what it had.
    const found = await fsck(cluster, "--repair");
    assertEquals([found.code, found.counts], [1, { "under-replicated": blocks }]);
    assert(found.problems.every(({ path }) => path?.startsWith("/")));
    assertMatch(found.problems[0]!.repair!, /2 replicas need as many hosts, and 1 can be reached/);
    assertEquals((await fsck(cluster, "/a/b")).problems.map(({ path }) => path), ["/a/b/\\xff"]);
    await cluster.kill("dataserver1");
    assertEquals((await fsck(cluster)).counts, { missing: blocks });
    await cluster.restart("dataserver1");
    await cluster.restart("dataserver2");
    const { code, status: result } = await fsck(cluster, "--repair");
    assertEquals([result, code], ["clean", 0]);
    await same(cluster);
    await cluster.kill("nameserver");
    const { code: nobody, stderr } = await mfs(["fsck", "--nameserver", cluster.nameserver]);
    assertEquals(nobody, 3);
    assertMatch(stderr, /^mfs: fsck: [^\n]+\n$/);
  },
);
