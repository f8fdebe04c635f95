/** Commands that show what is so, on a real cluster: `mfs status --watch`, `mfs locations`, `mfs du`, `mfs get` and
 * `mfs set`. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Cluster, mfs, withCluster } from "../harness/cluster.ts";
import { eventually, run, sh, within } from "../harness/command.ts";
import { MFS } from "../harness/process.ts";
import type { Attributes } from "../../roles/admin/attributes.ts";
import type { DirectoryLocations, FileLocations } from "../../roles/admin/locations.ts";
import type { DuResult } from "../../roles/admin/du.ts";
import { fetchStatus } from "../../roles/admin/status.ts";

const BLOCK = 4 << 20;

function define(name: string, body: (cluster: Cluster) => Promise<void>): void {
  Deno.test({
    name: `looking: ${name}`,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () =>
      withCluster({
        mode: "roles",
        nameserverFlags: ["--dead-after", "2"],
        dataserverFlags: (i) => ["--rack", `r${i % 2}`],
      }, (cluster) => within(180_000, name, body(cluster))),
  });
}

async function answer(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await mfs(args, 60_000);
  assertEquals(code, 0, stderr);
  return stdout.trim();
}

async function json<T>(...args: string[]): Promise<T> {
  return JSON.parse(await answer(...args, "--json"));
}

async function refuses(code: number, line: RegExp, ...args: string[]): Promise<void> {
  const result = await mfs(args);
  assertEquals([result.code, result.stdout], [code, ""], result.stderr);
  assertMatch(result.stderr, /^mfs: [a-z]+: [^\n]+\n$/);
  assertMatch(result.stderr, line);
}

async function out(script: string): Promise<string> {
  return (await sh(script, { timeoutMs: 60_000 })).trim();
}

define("locations of a file are those of its block map, and its replicas lie there", async (cluster) => {
  const { mountpoint, scratch, nameserver } = cluster;
  await sh(`cd ${mountpoint}
    mkdir d
    echo little > d/small
    head -c 3000000 /dev/urandom > d/large
    truncate -s 2G d/sparse
    head -c 100000 /dev/urandom | dd of=d/sparse bs=1M seek=1024 conv=notrunc status=none
    ln d/large d/again
    mkfifo d/pipe
    sync d/large d/sparse d/small`);

  const small = await json<FileLocations>("locations", `${mountpoint}/d/small`);
  assertEquals([small.size, small.inlineBytes, small.blocks, small.holes], [7, 7, [], []]);

  const large = await json<FileLocations>("locations", "/d/large", "--nameserver", nameserver);
  assertEquals([large.kind, large.path, large.size, large.replication], ["file", "/d/large", 3_000_000, 2]);
  const lines = large.blocks.map(({ offset, length, replicas }) =>
    `${offset}\t${offset + length}\t${replicas.map(({ host }) => host).join(",")}`
  );
  assertEquals(
    lines.join("\n"),
    await out(`getfattr --only-values -n user.mfs.blockLocs ${mountpoint}/d/large`),
  );
  const { dataservers } = await fetchStatus(nameserver);
  for (const { replicas, written, length } of large.blocks) {
    assert(written && length <= BLOCK * 64);
    assertEquals(new Set(replicas.map(({ host }) => host)).size, 2);
    for (const { node, host, rack, address, path, alive } of replicas) {
      const server = dataservers.find((one) => one.node === node)!;
      assertEquals([host, address, alive], [server.host, server.address, true]);
      assertEquals([path, rack], [`${scratch}/volume${host.slice(4)}`, `r${Number(host.slice(4)) % 2}`]);
    }
  }
  // The bytes are where it says.
  const [first] = large.blocks;
  const sizes = await out(`find ${first!.replicas[0]!.path} -type f -size -3000001c -size +2999000c | wc -l`);
  assert(Number(sizes) >= 1, sizes);

  const sparse = await json<FileLocations>("locations", `${mountpoint}/d/sparse`);
  const ranges = [...sparse.blocks, ...sparse.holes].sort((a, b) => a.offset - b.offset);
  let end = 0;
  for (const { offset, length } of ranges) {
    assertEquals(offset, end);
    end += length;
  }
  assertEquals(end, 2 ** 31);
  assert(
    sparse.blocks.some(({ offset, length }) => offset <= 2 ** 30 && 2 ** 30 + 100_000 <= offset + length),
  );
  assert(sparse.holes.length > 0);
  assertMatch(await answer("locations", `${mountpoint}/d/sparse`), /^bytes 0 to \d+ are a hole$/m);

  const all = await json<DirectoryLocations>("locations", mountpoint);
  assertEquals([all.kind, all.path, all.files, all.missing, all.inlineBytes], ["directory", "/", 3, 0, 7]);
  const blocks = [...large.blocks, ...sparse.blocks];
  assertEquals([all.blocks, all.bytes], [blocks.length, sum(blocks.map(({ length }) => length))]);
  for (const share of all.hosts) {
    const own = blocks.filter(({ replicas }) => replicas.some(({ host }) => host === share.host));
    assertEquals([share.blocks, share.bytes], [own.length, sum(own.map(({ length }) => length))]);
  }
  assertEquals(sum(all.hosts.map((share) => share.blocks)), 2 * blocks.length);

  // A server that is away shows as such at once, before its blocks have other replicas.
  const gone = first!.replicas[0]!;
  await sh(`kill -STOP ${cluster.pidOf(`dataserver${gone.host.slice(4)}`)}`);
  try {
    await eventually(20_000, "the replica is away or elsewhere", async () => {
      const now = await json<FileLocations>("locations", "/d/large", "--nameserver", nameserver);
      return now.blocks[0]!.replicas.every(({ host, alive }) => host !== gone.host || !alive);
    });
  } finally {
    await sh(`kill -CONT ${cluster.pidOf(`dataserver${gone.host.slice(4)}`)}`);
  }

  await refuses(1, /has no blocks: give a file or a directory/, "locations", `${mountpoint}/d/pipe`);
  await refuses(1, /\/d\/none does not exist/, "locations", "/d/none", "--nameserver", nameserver);
  await refuses(1, /not on a mount of MaggieFS/, "locations", "/proc");
  await refuses(2, /missing required argument 'path'/, "locations");
});

define("du counts what find and stat count", async (cluster) => {
  const { mountpoint, nameserver } = cluster;
  await sh(`cd ${mountpoint}
    mkdir -p a/b/c a/empty e
    for i in $(seq 1 1500); do echo $i > a/b/f$i; done
    head -c 300000 /dev/urandom > a/b/c/large
    head -c 50000 /dev/urandom > e/three
    ln a/b/c/large e/again
    truncate -s 1G e/hole
    ln -s x e/link
    mkfifo e/pipe`);
  await answer("setrep", "3", `${mountpoint}/e/three`);
  await sh(`sync -f ${mountpoint}`);

  const du = await json<DuResult>("du", "--nameserver", nameserver, "--depth", "1");
  const find = (type: string) => out(`cd ${mountpoint}; find . ${type} -printf '%i\\n' | sort -u | wc -l`);
  assertEquals(String(du.files), await find("-type f"));
  assertEquals(String(du.directories), await find("-type d"));
  assertEquals(String(du.others), await find("-not -type f -not -type d"));
  const stat = (format: string) =>
    out(
      `cd ${mountpoint}; find . -type f -printf '%i ${format}\\n' | sort -u | awk '{ n += $2 } END { print n }'`,
    );
  assertEquals(String(du.bytes), await stat("%s"));
  assertEquals(du.inlineBytes, 9 * 2 + 90 * 3 + 900 * 4 + 501 * 5);
  // Inline files take a sector each in st_blocks.
  const sectors = Number(
    await out(
      `cd ${mountpoint}; find a/b/c e/three -type f -printf '%b\\n' | awk '{ n += $1 } END { print n }'`,
    ),
  );
  assertEquals(du.blockBytes, sectors * 512);
  const three = Number(await out(`stat -c %b ${mountpoint}/e/three`)) * 512;
  assertEquals(du.replicaBytes, 2 * (du.blockBytes - three) + 3 * three);
  assertEquals(du.below.map(({ path, directories }) => [path, directories]), [["/a", 4], ["/e", 1]]);
  assertEquals(sum(du.below.map(({ bytes }) => bytes)), du.bytes);

  const below = await json<DuResult>("du", `${mountpoint}/a`, "--depth", "9");
  assertEquals(below.below.map(({ path }) => path), ["/a/b/c", "/a/b", "/a/empty"]);
  assertEquals([below.files, below.path], [1501, "/a"]);
  assertMatch(await answer("du", `${mountpoint}/a`), /^FILES +DIR.* PATH\n1501 +4 .* \/a$/);
  assertEquals((await json<DuResult>("du", `${mountpoint}/e/three`)).bytes, 50_000);

  await refuses(2, /from 0 to/, "du", "--depth", "x");
  await refuses(1, /does not exist/, "du", "/none", "--nameserver", nameserver);
  await refuses(1, /127\.0\.0\.1:1/, "du", "--nameserver", "127.0.0.1:1");
});

define("an attribute that is set is inherited, and get says from where", async (cluster) => {
  const { mountpoint, nameserver } = cluster;
  await sh(`cd ${mountpoint}; mkdir -p a/b; head -c 100000 /dev/urandom > a/old; mkfifo a/pipe`);
  const get = async (path: string) => (await json<Attributes>("get", `${mountpoint}${path}`)).attributes;
  const key = "replication";
  assertEquals(await get("/a/old"), [{ key, value: "2", source: "cluster" }]);
  assertEquals(await get(""), [{ key, value: "2", source: "cluster" }]);

  const set = await json<{ changed: number }>("set", "/a", "replication=3", "--nameserver", nameserver);
  assertEquals(set.changed, 1);
  await sh(`cd ${mountpoint}; mkdir a/c; head -c 100000 /dev/urandom > a/c/new; sync a/c/new`);
  assertEquals(await get("/a"), [{ key, value: "3", source: "here" }]);
  assertEquals(await get("/a/c/new"), [{ key, value: "3", source: "inherited", from: "/a" }]);
  assertEquals(await get("/a/old"), [{ key, value: "2", source: "cluster" }]);
  const { blocks } = await json<FileLocations>("locations", `${mountpoint}/a/c/new`);
  assertEquals(blocks.map(({ replicas }) => replicas.length), [3]);

  const all = await answer("set", "-R", `${mountpoint}/a`, "replication=1");
  assertMatch(all, /^\/a: replication=1; 5 of 5 files and directories changed$/);
  assertEquals(await get("/a/old"), [{ key, value: "1", source: "inherited", from: "/a" }]);
  await answer("set", `${mountpoint}/a/c/new`, "replication=2");
  assertMatch(await answer("get", `${mountpoint}/a/c/new`), /^KEY .*\nreplication +2 +set here$/);
  await answer("set", "-R", "/", "replication=default", "--nameserver", nameserver);
  assertEquals(await get("/a/c/new"), [{ key, value: "2", source: "cluster" }]);

  await refuses(2, /unknown attribute "colour": there is replication \(1 to 16/, "set", "/a", "colour=1");
  for (const wrong of ["replication", "replication=", "replication=0", "replication=17", "replication=x"]) {
    await refuses(2, /VALUE 1 to 16, or default/, "set", "/a", wrong, "--nameserver", nameserver);
  }
  await refuses(1, /has no attributes/, "get", `${mountpoint}/a/pipe`);
  await refuses(1, /does not exist/, "get", "/none", "--nameserver", nameserver);
});

define("status --watch shows a page after the other until it is interrupted", async (cluster) => {
  const env = { DENO: Deno.execPath(), NO_COLOR: "1" };
  const watch =
    `timeout --foreground --preserve-status -s INT 6 ${MFS} status --watch 1 --nameserver ${cluster.nameserver}`;
  const lines = await run("sh", ["-c", `${watch} --json`], { env });
  assertEquals([lines.code, lines.stderr], [0, ""]);
  const pages = lines.stdout.trim().split("\n").map((line) => JSON.parse(line));
  assert(pages.length >= 3, String(pages.length));
  assert(pages.at(-1).startedSecondsAgo > pages[0].startedSecondsAgo);

  const plain = await run("sh", ["-c", watch], { env });
  assertEquals([plain.code, plain.stderr], [0, ""]);
  assert(plain.stdout.split(/^cluster /m).length > 3);
  assert(!plain.stdout.includes("\x1b"));

  const screen = await run("script", ["-qec", watch, "/dev/null"], { env });
  assertEquals(screen.code, 0, screen.stdout);
  assert(screen.stdout.startsWith("\x1b[2J\x1b[Hcluster "), JSON.stringify(screen.stdout.slice(0, 40)));
  assert(screen.stdout.split("\x1b[H").length > 3);
  assertEquals(screen.stdout.split("\x1b[2J").length, 2);

  // Nobody reads any more: it ends by itself.
  await run("sh", ["-c", `${MFS} status --watch 1 --nameserver ${cluster.nameserver} | head -1`], {
    env,
    timeoutMs: 20_000,
  });
  await refuses(2, /from 1 to/, "status", "--watch", "0");
  await refuses(1, /127\.0\.0\.1:1/, "status", "--watch", "--nameserver", "127.0.0.1:1");
});

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
