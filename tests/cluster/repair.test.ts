/**
 * Blocks that have lost replicas get others by themselves, while the file system is in use: what was written is whole when
 * only copies are left of it.
 */

import { assert, assertEquals } from "@std/assert";
import { eventually, sh, within } from "../harness/command.ts";
import { type Cluster, type ClusterOptions, isRunning, mfs, withCluster } from "../harness/cluster.ts";
import type { StatusReply } from "../../wire/messages/nameserver.ts";

const OPTIONS: ClusterOptions = {
  mode: "roles",
  dataservers: 3,
  replication: 2,
  nameserverFlags: ["--dead-after", "2"],
};

function define(name: string, body: (cluster: Cluster) => Promise<void>): void {
  Deno.test({
    name: `repair: ${name}`,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => withCluster(OPTIONS, (cluster) => within(150_000, name, body(cluster))),
  });
}

async function status(cluster: Cluster): Promise<StatusReply> {
  const { code, stdout, stderr } = await mfs(["status", "--nameserver", cluster.nameserver, "--json"]);
  assertEquals(code, 0, stderr);
  return JSON.parse(stdout);
}

/** Every block has as many replicas as it should on dataservers that live, and none has more. */
async function repaired(cluster: Cluster): Promise<void> {
  await eventually(60_000, "all blocks repaired", async () => {
    const { blocks, replicas, underReplicated, repair } = await status(cluster);
    return underReplicated === 0 && replicas === 2 * blocks && repair.waiting + repair.running === 0;
  });
}

/** Files of all kinds, and the same on the local disk: `same` compares. */
async function fill(cluster: Cluster): Promise<void> {
  await sh(
    `set -e
    mkdir ${cluster.scratch}/local
    cd ${cluster.scratch}/local
    cp -r /usr/include/linux many
    head -c 40000000 /dev/urandom > large
    truncate -s 30M sparse
    printf end | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
    printf middle | dd of=sparse bs=1 seek=7000000 conv=notrunc status=none
    : > empty
    cp -r --sparse=always . ${cluster.mountpoint}
    `,
    { timeoutMs: 60_000 },
  );
}

async function same(cluster: Cluster): Promise<void> {
  await sh(`diff -r ${cluster.scratch}/local ${cluster.mountpoint}`, { timeoutMs: 60_000 });
}

/** Appends lines and overwrites a block's start until `stop` is made, in the mount and beside it. */
function startWriting(cluster: Cluster): { readonly end: () => Promise<void> } {
  const stop = `${cluster.scratch}/stop`;
  const written = sh(
    `set -e
    i=0
    while [ ! -e ${stop} ]; do
      i=$((i + 1))
      for d in ${cluster.mountpoint} ${cluster.scratch}/local; do
        echo "line $i" >> $d/appended
        printf '%08d' $i | dd of=$d/rewritten bs=1 seek=$((i % 50 * 8)) conv=notrunc status=none
      done
    done`,
    { timeoutMs: 120_000 },
  );
  // When the test fails before `end`, its cluster goes under the writer: what went wrong is the test's to say.
  written.catch(() => {});
  return {
    end: async () => {
      Deno.writeTextFileSync(stop, "");
      await written;
    },
  };
}

define(
  "what a dead dataserver had is copied, while files are written, and is all there from the copies",
  async (cluster) => {
    await fill(cluster);
    const writing = startWriting(cluster);
    await cluster.kill("dataserver2");
    // Of all that there is, and of what is being written.
    await repaired(cluster);
    await writing.end();
    await repaired(cluster);
    const { repair, blocks } = await status(cluster);
    assert(repair.copied > blocks / 3, `${repair.copied} copies of ${blocks} blocks`);
    await same(cluster);
    // Now each block is on both that are left: one of them alone must have everything.
    await cluster.kill("dataserver3");
    await same(cluster);
    await cluster.restart("dataserver3");
    await cluster.kill("dataserver1");
    await same(cluster);
  },
);

define("a dataserver that comes back keeps nothing that is out of date or too much", async (cluster) => {
  await fill(cluster);
  await cluster.kill("dataserver2");
  await repaired(cluster);
  await sh(`printf changed | dd of=${cluster.mountpoint}/large bs=1 seek=1000 conv=notrunc status=none
            printf changed | dd of=${cluster.scratch}/local/large bs=1 seek=1000 conv=notrunc status=none`);
  await cluster.restart("dataserver2");
  await repaired(cluster);
  await eventually(30_000, "old replicas deleted", async () => {
    const { replicas, pendingDeletions, dataservers } = await status(cluster);
    const kept = dataservers.flatMap(({ volumes }) => volumes).reduce((sum, { blocks }) => sum + blocks, 0);
    return pendingDeletions === 0 && kept === replicas;
  });
  await same(cluster);
});

define("the nameserver dies again and again while blocks are copied", async (cluster) => {
  await fill(cluster);
  await cluster.kill("dataserver2");
  for (let i = 0; i < 4; i++) {
    await eventually(30_000, "copies under way", async () => {
      const { repair, underReplicated } = await status(cluster);
      return repair.copied > 20 || underReplicated === 0;
    });
    await cluster.kill("nameserver");
    await cluster.restart("nameserver");
    await same(cluster);
  }
  await repaired(cluster);
  await cluster.kill("dataserver3");
  await same(cluster);
});

define("a dataserver that is away for less than the dead time keeps what it has", async (cluster) => {
  await fill(cluster);
  await cluster.kill("dataserver2");
  await cluster.restart("dataserver2");
  await repaired(cluster);
  assertEquals((await status(cluster)).repair.copied, 0);
  await same(cluster);
});

define("a corrupt replica is replaced when it is found", async (cluster) => {
  await fill(cluster);
  // Stopped in order, so that its checksums are on disk. The mount reads the replicas of its own host first.
  const pid = cluster.pidOf("dataserver1");
  Deno.kill(pid, "SIGTERM");
  await eventually(10_000, "dataserver1 stopped", () => !isRunning(pid));
  const found = await sh(
    `find ${cluster.scratch}/volume1/blocks -name '*.blk' -size +30M -printf '%s %p\\n' | sort -n | tail -1`,
  );
  const path = found.trim().split(" ")[1];
  assert(path !== undefined, "the large file has its first replica where it was written");
  await sh(`printf rot | dd of=${path} bs=1 seek=2000000 conv=notrunc status=none`);
  await cluster.restart("dataserver1");
  await cluster.kill("mount");
  await sh(`umount -l ${cluster.mountpoint}`);
  await cluster.restart("mount");
  await same(cluster);
  await eventually(30_000, "the replica replaced", async () => (await status(cluster)).repair.copied > 0);
  await repaired(cluster);
  for (const other of ["dataserver2", "dataserver3"]) {
    await cluster.kill(other);
    await same(cluster);
    await cluster.restart(other);
    await repaired(cluster);
  }
});

define("a corrupt replica that is the last counts again once it was mended", async (cluster) => {
  await sh(
    `mkdir ${cluster.scratch}/local
    head -c 1000000 /dev/urandom > ${cluster.scratch}/local/f
    cp ${cluster.scratch}/local/f ${cluster.mountpoint}`,
  );
  const found = await sh(`cd ${cluster.scratch}; find volume* -name '*.blk' -size +900k | sort`);
  const replicas = found.trim().split("\n");
  assertEquals(replicas.length, 2, found);
  const [first, second] = replicas.map((path) => path.split("/")[0]!.replace("volume", "dataserver")) as [
    string,
    string,
  ];
  const restartWith = async (bytes: string) => {
    // Stopped in order, so that its checksums are on disk.
    const pid = cluster.pidOf(second);
    Deno.kill(pid, "SIGTERM");
    await eventually(10_000, `${second} stopped`, () => !isRunning(pid));
    const path = `${cluster.scratch}/${replicas[1]}`;
    await sh(`dd if=${bytes} of=${path} bs=1 skip=500000 seek=500000 count=10 conv=notrunc status=none`);
    await cluster.restart(second);
  };
  await restartWith("/dev/zero");
  await cluster.kill(first);
  await eventually(30_000, "the replica reported", async () => {
    const { stdout } = await mfs(["fsck", "--nameserver", cluster.nameserver, "--json"]);
    return /is corrupt/.test(stdout);
  });
  await restartWith(`${cluster.scratch}/local/f`);
  await repaired(cluster);
  await same(cluster);
});
