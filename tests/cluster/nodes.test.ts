/**
 * Dataservers that are taken away in order, while the file system is in use: decommissioning (over deaths of the nameserver
 * and of the node itself), maintenance, racks, and balancing of volumes of real sizes.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { eventually, run, sh, sleep, within } from "../harness/command.ts";
import { type Cluster, type ClusterOptions, mfs, withCluster } from "../harness/cluster.ts";
import type { BalanceResult } from "../../roles/admin/balance.ts";
import { fetchStatus } from "../../roles/admin/status.ts";
import type { DataserverStatus, StatusReply } from "../../wire/messages/nameserver.ts";

const DEAD_AFTER_SECONDS = 2;

function define(name: string, options: ClusterOptions, body: (cluster: Cluster) => Promise<void>): void {
  Deno.test({
    name: `nodes: ${name}`,
    ignore: options.prepareVolume !== undefined && Deno.uid() !== 0,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => withCluster(options, (cluster) => within(120_000, name, body(cluster))),
  });
}

/** A command on the cluster, which succeeds. */
async function command(cluster: Cluster, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await mfs([...args, "--nameserver", cluster.nameserver], 60_000);
  assertEquals(code, 0, stderr);
  return stdout.trim();
}

async function status({ nameserver }: Cluster): Promise<StatusReply> {
  return await fetchStatus(nameserver);
}

async function nodeOf(cluster: Cluster, host: string): Promise<DataserverStatus> {
  const { dataservers } = await status(cluster);
  return dataservers.find((server) => server.host === host)!;
}

/** Every block has its replicas on live servers, in two racks where there are any, and nothing is to be done. */
async function settled(cluster: Cluster): Promise<void> {
  await eventually(60_000, "all is in its place", async () => {
    const { underReplicated, misplaced, replicas, blocks, repair } = await status(cluster);
    return underReplicated + misplaced + repair.waiting + repair.running === 0 && replicas === 2 * blocks;
  });
}

/** As `settled`, where `single` blocks are to have one replica. */
async function settledBut(cluster: Cluster, single: number): Promise<void> {
  await eventually(60_000, "all is in its place", async () => {
    const { underReplicated, missing, replicas, blocks } = await status(cluster);
    return underReplicated + missing === 0 && replicas === 2 * blocks - single;
  });
}

/** Each block has all its replicas, each on another host, in two racks, as the dataservers say. */
async function clean(cluster: Cluster): Promise<void> {
  const { code, stdout, stderr } = await mfs(["fsck", "--nameserver", cluster.nameserver, "--json"], 60_000);
  // Volumes of servers that are away for good can't be asked.
  assert(code === 0 || code === 3, `${stdout}${stderr}`);
  assertEquals(JSON.parse(stdout).problems, []);
}

async function fill(cluster: Cluster): Promise<void> {
  await sh(
    `mkdir ${cluster.scratch}/local
    cd ${cluster.scratch}/local
    cp -r /usr/include/linux/netfilter many
    for i in 1 2 3 4; do head -c 5000000 /dev/urandom > large$i; done
    cp -r . ${cluster.mountpoint}`,
    { timeoutMs: 60_000 },
  );
}

async function same(cluster: Cluster): Promise<void> {
  await sh(`diff -r ${cluster.scratch}/local ${cluster.mountpoint}`, { timeoutMs: 60_000 });
}

/** Writes to the mount and beside it until `end`. */
function startWriting(cluster: Cluster): { readonly end: () => Promise<void> } {
  const stop = `${cluster.scratch}/stop`;
  const written = sh(
    `i=0
    while [ ! -e ${stop} ]; do
      i=$((i + 1))
      for d in ${cluster.mountpoint} ${cluster.scratch}/local; do
        echo "line $i" >> $d/appended
        echo "file $i" > $d/new$((i % 20))
        printf '%08d' $i | dd of=$d/large1 bs=1 seek=$((i % 50 * 8)) conv=notrunc status=none
      done
    done`,
    { timeoutMs: 100_000 },
  );
  written.catch(() => {});
  return {
    end: async () => {
      Deno.writeTextFileSync(stop, "");
      await written;
    },
  };
}

define(
  "one is drained while files are written and servers die, and can be taken away",
  {
    mode: "roles",
    dataservers: 4,
    // Slow, so that there is a middle.
    nameserverFlags: ["--dead-after", String(DEAD_AFTER_SECONDS), "--repair-rate", "20"],
    dataserverFlags: (i) => ["--rack", i <= 2 ? "r1" : "r2"],
  },
  async (cluster) => {
    const { nameserver } = cluster;
    await fill(cluster);
    assertEquals((await status(cluster)).misplaced, 0, "new blocks are in two racks");
    const writing = startWriting(cluster);
    const nobody = await mfs(["decommission", "node9", "--nameserver", nameserver]);
    assertEquals([nobody.code, nobody.stdout], [1, ""]);
    assertEquals(nobody.stderr, 'mfs: decommission: no dataserver node9: "mfs status" lists them\n');
    const drained = mfs(["decommission", "node1", "--nameserver", nameserver, "--json"], 90_000);
    await eventually(20_000, "the drain under way", async () => (await status(cluster)).repair.copied > 2);
    await cluster.kill("nameserver");
    await cluster.restart("nameserver");
    const { code, stdout, stderr } = await drained;
    assertEquals(code, 0, stderr);
    assertMatch(stderr, /^draining node \d+: \d+ blocks of [1-9]\d* blocks/);
    const result = JSON.parse(stdout);
    assertEquals({ host: result.host, state: result.state }, { host: "node1", state: "decommissioned" });
    await writing.end();
    await eventually(20_000, "what was there is deleted", async () => {
      const { state, volumes } = await nodeOf(cluster, "node1");
      return state === "decommissioned" && volumes[0]!.blocks === 0;
    });
    await cluster.kill("dataserver1");
    await settled(cluster);
    await same(cluster);

    // This one dies in the middle.
    const begun = await command(cluster, "decommission", "node3", "--no-wait");
    assertMatch(begun, /node \d+ \(node3\) is being decommissioned, [1-9]\d* blocks to go/);
    await cluster.kill("dataserver3");
    assertMatch(await command(cluster, "decommission", "node3"), /is decommissioned/);
    await settled(cluster);
    await same(cluster);

    const refused = await mfs(["decommission", "node4", "--nameserver", nameserver]);
    assertEquals(refused.code, 1);
    assertMatch(
      refused.stderr,
      /^mfs: decommission: node \d+ \(node4\) has blocks that need 2 hosts.*--force/,
    );
    assertEquals((await nodeOf(cluster, "node4")).state, "in service");
    const forced = await command(cluster, "decommission", "node4", "--no-wait", "--force");
    assertMatch(forced, /is being decommissioned/);
    await same(cluster);
    await command(cluster, "recommission", "node4");
    await settled(cluster);

    // Back for a while without being missed.
    await command(cluster, "recommission", "node3");
    await command(cluster, "maintenance", "node4", "--for", "1h");
    await cluster.kill("dataserver4");
    await cluster.restart("dataserver3");
    // A new nameserver knows of the maintenance, too, when the time of those who do not come is over.
    await cluster.kill("nameserver");
    await cluster.restart("nameserver");
    await sleep(DEAD_AFTER_SECONDS * 1_500);
    const { repair, underReplicated } = await status(cluster);
    assertEquals(repair.copied, 0, "nothing is copied in maintenance");
    assert(underReplicated > 0);
    assert((await nodeOf(cluster, "node4")).maintenanceSeconds! > 3_000);
    await command(cluster, "maintenance", "node4", "--end");
    await settled(cluster);
    assert((await status(cluster)).repair.copied > 0, "it is missed when maintenance is over");
    await same(cluster);
    await clean(cluster);
  },
);

define(
  "one that is gone for good is forgotten, and is taken for what it has when it is back all the same",
  {
    mode: "roles",
    dataservers: 4,
    nameserverFlags: ["--dead-after", String(DEAD_AFTER_SECONDS)],
  },
  async (cluster) => {
    const { nameserver, mountpoint } = cluster;
    const hosts = async () => (await status(cluster)).dataservers.map(({ host }) => host).sort();
    const refuses = async (pattern: RegExp, ...args: string[]) => {
      const { code, stdout, stderr } = await mfs(["forget", ...args, "--nameserver", nameserver]);
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, pattern);
    };
    await fill(cluster);
    const { node } = await nodeOf(cluster, "node3");
    await refuses(
      /^mfs: forget: node \d+ \(node3\) is connected: stop it first, for good\n$/,
      "node3",
      "--force",
    );
    await command(cluster, "maintenance", "node3", "--for", "1h");
    await cluster.kill("dataserver3");
    await refuses(
      /^mfs: forget: [1-9]\d* blocks count on node \d+ \(node3\), 0 of them are nowhere else: .*--force.*\n$/,
      "node3",
    );
    await command(cluster, "maintenance", "node3", "--end");
    await eventually(30_000, "what it had is copied", async () => {
      return (await status(cluster)).repair.copied > 0;
    });
    await settled(cluster);
    assertEquals(await command(cluster, "forget", "node3"), `node ${node} (node3) is forgotten`);
    assertEquals(await hosts(), ["node1", "node2", "node4"]);
    await eventually(30_000, "no deletions wait for it", async () => {
      return (await status(cluster)).pendingDeletions === 0;
    });
    await cluster.kill("nameserver");
    await cluster.restart("nameserver");
    assertEquals(await hosts(), ["node1", "node2", "node4"]);
    await same(cluster);
    const checked = await mfs(["fsck", "--nameserver", nameserver], 60_000);
    assertEquals(checked.code, 0, checked.stdout + checked.stderr);

    // Back from the dead, with what no block names it for.
    await cluster.restart("dataserver3");
    await eventually(20_000, "it is listed again, and its replicas are in its trash", async () => {
      const found = await nodeOf(cluster, "node3");
      return found?.alive === true && found.node === node && found.volumes[0]!.blocks === 0;
    });
    await settled(cluster);
    await same(cluster);
    await clean(cluster);

    // By force, with the only replica of a file.
    await sh(`mkdir ${mountpoint}/single ${cluster.scratch}/local/single`);
    await command(cluster, "set", "/single", "replication=1");
    await sh(
      `head -c 3000000 /dev/urandom > ${cluster.scratch}/local/single/f
      cp ${cluster.scratch}/local/single/f ${mountpoint}/single/f && sync ${mountpoint}/single/f`,
      { timeoutMs: 30_000 },
    );
    await cluster.kill("dataserver1");
    await eventually(60_000, "all that can be copied", async () => {
      const { missing, underReplicated, repair } = await status(cluster);
      return missing === 1 && underReplicated === 1 && repair.running === 0;
    });
    await refuses(/: 1 blocks count on node \d+ \(node1\), 1 of them are nowhere else: /, "node1");
    assertMatch(await command(cluster, "forget", "node1", "--force"), /forgotten; 1 blocks are nowhere else/);
    assertEquals(await hosts(), ["node2", "node3", "node4"]);
    assertEquals((await status(cluster)).missing, 1);
    await cluster.restart("dataserver1");
    await settledBut(cluster, 1);
    await same(cluster);
  },
);

define(
  "volumes are evened out, and blocks stay on different hosts",
  {
    mode: "roles",
    dataservers: 3,
    prepareVolume: (dir) => run("mount", ["-t", "tmpfs", "-o", "size=120M", "mfs-test", dir]),
  },
  async (cluster) => {
    await fill(cluster);
    const used = async () => (await status(cluster)).dataservers.map(({ volumes }) => volumes[0]!.usedBytes);
    await eventually(15_000, "heartbeats", async () => Math.max(...await used()) > 20_000_000);
    const { balanced, moved, volumes }: BalanceResult = JSON.parse(
      await command(cluster, "balance", "--threshold", "3", "--json"),
    );
    assert(balanced && moved > 0, JSON.stringify(volumes));
    const after = await used();
    const total = 120 * 1024 * 1024;
    const mean = after.reduce((a, b) => a + b) / 3;
    assert(after.every((bytes) => Math.abs(bytes - mean) <= 0.04 * total), String(after));
    await settled(cluster);
    await clean(cluster);
    // Each block is on two of the three: without one of them all is there.
    for (const server of ["dataserver1", "dataserver2", "dataserver3"]) {
      await cluster.kill(server);
      await same(cluster);
      await cluster.restart(server);
    }
  },
);
