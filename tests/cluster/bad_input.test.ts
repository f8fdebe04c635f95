/**
 * Wrong surroundings and hostile bytes: each is answered by one clear line or a closed connection, never by a
 * stack trace, a hang or a damaged cluster.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { eventually, hasProgram, run, type RunResult, sh, sleep, within } from "../harness/command.ts";
import { testSeed } from "../base/seeded.ts";
import { type Cluster, mfs, withCluster } from "../harness/cluster.ts";
import { MFS, MfsProcess } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { randomBytes, SeededRandom } from "../../base/random.ts";
import { encodeFrame, FRAME_BYTES_MAX } from "../../wire/frame.ts";

function test(name: string, fn: () => Promise<void>, ignore = false): void {
  Deno.test({
    name: `bad input: ${name}`,
    ignore,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => within(120_000, name, fn()),
  });
}

async function withScratch(body: (dir: string) => Promise<void>): Promise<void> {
  const dir = makeScratch();
  try {
    await body(dir);
  } finally {
    await removeScratch(dir);
  }
}

/** Failed with one line for people; log lines of the role may stand before it. */
function assertClear(result: RunResult, line: RegExp): void {
  assertEquals(result.code, 1, `${result.stdout}${result.stderr}`);
  const last = result.stderr.trimEnd().split("\n").at(-1)!;
  assertMatch(last, /^mfs: [a-z]+: /, result.stderr);
  assertMatch(last, line, result.stderr);
  assertNoTrace(result.stderr);
}

/** Where a server says that it listens. */
function addressOf(server: MfsProcess): string {
  const address = /address=(\S+)/.exec(server.log)?.[1];
  if (address === undefined) throw new Error(`no address in: ${server.log}`);
  return address;
}

function assertNoTrace(text: string): void {
  const trace = text.split("\n").filter((line) => /^\s+at .*:\d+/.test(line) || /error: Uncaught/.test(line));
  assertEquals(trace, []);
}

test("a port in use", () =>
  withScratch(async (dir) => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const address = `127.0.0.1:${listener.addr.port}`;
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    assertClear(await mfs(["nameserver", "--dir", `${dir}/ns`, "--listen", address]), /in use/);
    for (const processes of [[], ["--processes"]]) {
      const args = ["singlenode", "--dir", `${dir}/cluster`, "--listen", address, ...processes];
      assertClear(await mfs(args), /in use/);
    }
    const nameserver = await MfsProcess.start([
      "nameserver",
      "--dir",
      `${dir}/ns`,
      "--listen",
      "127.0.0.1:0",
    ]);
    const at = addressOf(nameserver);
    const args = ["dataserver", "--nameserver", at, "--volume", `${dir}/volume`, "--listen", address];
    assertClear(await mfs(args), /in use/);
    await nameserver.stop();
    listener.close();
  }));

test("a directory without permission", () =>
  withScratch(async (dir) => {
    await Deno.mkdir(`${dir}/closed`);
    await Deno.chmod(`${dir}/closed`, 0o500);
    // Root may write everywhere unless it gives that up.
    const capabilities = "-dac_override,-dac_read_search";
    const [program, before] = Deno.uid() === 0
      ? ["setpriv", [`--bounding-set=${capabilities}`, `--inh-caps=${capabilities}`, MFS]] as const
      : [MFS, []] as const;
    const limited = (args: string[]) =>
      run(program, [...before, ...args], { timeoutMs: 30_000, env: { DENO: Deno.execPath() } });
    assertClear(await limited(["format", "--dir", `${dir}/closed/ns`]), /closed/);
    assertClear(await limited(["nameserver", "--dir", `${dir}/closed`, "--listen", "127.0.0.1:0"]), /closed/);
    assertClear(await limited(["singlenode", "--dir", `${dir}/closed/cluster`]), /permission .*closed/);
    assertClear(await limited(["singlenode", "--dir", `${dir}/closed`]), /permission .*closed/);
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const nameserver = await MfsProcess.start([
      "nameserver",
      "--dir",
      `${dir}/ns`,
      "--listen",
      "127.0.0.1:0",
    ]);
    const at = addressOf(nameserver);
    const args = [
      "dataserver",
      "--nameserver",
      at,
      "--volume",
      `${dir}/closed/volume`,
      "--listen",
      "127.0.0.1:0",
    ];
    assertClear(await limited(args), /closed/);
    await nameserver.stop();
  }), Deno.uid() === 0 && !hasProgram("setpriv"));

test("a missing nameserver", () =>
  withScratch(async (dir) => {
    await Deno.mkdir(`${dir}/mnt`);
    const refused = /127\.0\.0\.1:1\b.*refused/;
    assertClear(await mfs(["status", "--nameserver", "127.0.0.1:1"]), refused);
    assertClear(await mfs(["mount", "127.0.0.1:1", `${dir}/mnt`, "--foreground"]), refused);
    assertClear(await mfs(["mount", "127.0.0.1:1", `${dir}/mnt`, "--log-file", `${dir}/log`]), refused);
    assertClear(await mfs(["nameserver", "--dir", `${dir}/none`, "--listen", "127.0.0.1:0"]), /mfs format/);
  }));

test("a dataserver that is started before its nameserver waits for it, and says so", () =>
  withScratch(async (dir) => {
    const nameserver = `127.0.0.1:${freePort("127.0.0.1")}`;
    const early = MfsProcess.start([
      ...["dataserver", "--nameserver", nameserver, "--volume", `${dir}/v`, "--listen", "127.0.0.1:0"],
    ]);
    await sleep(1000);
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const server = await MfsProcess.start(["nameserver", "--dir", `${dir}/ns`, "--listen", nameserver]);
    const dataserver = await early;
    assertMatch(dataserver.log, /WARN.*refused/);
    await dataserver.stop();
    await server.stop();
  }));

test("a mount point that is a file, missing, not empty or busy", () =>
  withCluster({ mode: "one process" }, async (cluster) => {
    const { scratch, nameserver, mountpoint } = cluster;
    const attempt = (place: string) => mfs(["mount", nameserver, place, "--foreground"]);
    await Deno.writeTextFile(`${scratch}/file`, "");
    assertClear(await attempt(`${scratch}/file`), /file.*not a directory/);
    assertClear(await attempt(`${scratch}/missing`), /missing/);
    await Deno.mkdir(`${scratch}/full`);
    await Deno.writeTextFile(`${scratch}/full/precious`, "");
    assertClear(await attempt(`${scratch}/full`), /not empty/);
    assertClear(await attempt(mountpoint), /already a mount point/);
    assertClear(await mfs(["singlenode", `${scratch}/file`]), /file.*not a directory/);
    assertClear(await mfs(["umount", `${scratch}/full`]), /not a mount point/);
    await sh(`echo still > ${mountpoint}/alive && grep -q still ${mountpoint}/alive`);

    // A user of the mount holds it.
    const holder = new Deno.Command("sleep", { args: ["30"], cwd: mountpoint }).spawn();
    assertClear(await mfs(["umount", mountpoint]), /in use/);
    holder.kill("SIGKILL");
    await holder.status;
  }));

test("a second singlenode on the same directory", () =>
  withCluster({ mode: "one process" }, async (cluster) => {
    const second = await mfs([
      "singlenode",
      `${cluster.scratch}/mnt2`,
      "--dir",
      `${cluster.scratch}/cluster`,
    ]);
    assertClear(second, /in use by another singlenode \(process \d+\)/);
    await sh(`ls ${cluster.mountpoint}`);
  }));

/** Every port that a process of the cluster listens on. */
async function portsOf(cluster: Cluster): Promise<number[]> {
  const inodes = new Set<string>();
  for (const pid of cluster.pids()) {
    const out = await sh(`ls -l /proc/${pid}/fd | grep -o 'socket:\\[[0-9]*' | grep -o '[0-9]*$' || true`);
    for (const inode of out.split("\n")) inodes.add(inode);
  }
  // proc(5) net/tcp: local address in the second column, state 0A is LISTEN, inode in the tenth.
  const rows = Deno.readTextFileSync("/proc/net/tcp").split("\n").map((line) => line.trim().split(/\s+/));
  const listening = rows.filter((row) => row[3] === "0A" && inodes.has(row[9] ?? ""));
  return listening.map((row) => parseInt(row[1]!.split(":")[1]!, 16));
}

/** Sends bytes and answers whether the peer closed the connection. */
async function sendTo(port: number, bytes: Uint8Array, timeoutMs: number): Promise<boolean> {
  const socket = await Deno.connect({ hostname: "127.0.0.1", port });
  try {
    const closed = (async () => {
      try {
        for (let at = 0; at < bytes.length;) at += await socket.write(bytes.subarray(at));
        const buffer = new Uint8Array(65536);
        while (await socket.read(buffer) !== null);
      } catch {
        // Reset: closed as well.
      }
      return true;
    })();
    return await within(timeoutMs, `port ${port} closes`, closed).catch(() => false);
  } finally {
    try {
      socket.close();
    } catch {
      // Closed by the runtime meanwhile.
    }
  }
}

test("garbage and oversized frames to every port", () =>
  withCluster({ mode: "processes" }, async (cluster) => {
    const ports = await portsOf(cluster);
    assertEquals(ports.length, 4, "a nameserver and three dataservers listen");
    await sh(`head -c 300000 /dev/urandom > ${cluster.mountpoint}/file`);
    const sum = await sh(`sha256sum < ${cluster.mountpoint}/file`);
    const random = new SeededRandom(testSeed());
    const header = (length: number, head: number) => {
      const bytes = encodeFrame(1, 5, 1, new Uint8Array(0), 0);
      const view = new DataView(bytes.buffer);
      view.setUint32(0, length, true);
      view.setUint32(12, head, true);
      return bytes;
    };
    const bad: [string, Uint8Array][] = [
      ["a frame over the limit", header(FRAME_BYTES_MAX + 1, 0)],
      ["the largest length", header(0xffffffff, 0xffffffff)],
      ["a frame shorter than its header", header(3, 0)],
      ["a head longer than its frame", header(16, 100)],
      ["a request before HELLO", encodeFrame(1, 23, 1, new Uint8Array([0xa0]), 0)],
      ["broken CBOR as HELLO", encodeFrame(1, 0, 1, new Uint8Array([0xff, 0xff, 0x1c]), 0)],
      ["a HELLO that is none", encodeFrame(1, 0, 1, new Uint8Array([0x01]), 0)],
      ["HTTP", new TextEncoder().encode("GET / HTTP/1.1\r\nHost: x\r\n\r\n")],
    ];
    for (const port of ports) {
      for (const [what, bytes] of bad) {
        assert(await sendTo(port, bytes, 8_000), `${what}: port ${port} keeps the connection`);
      }
      const noise = Array.from(
        { length: 40 },
        () => randomBytes(random, 1 + Math.floor(random.next() * 5000)),
      );
      // Some of it may look like the start of a frame; then silence ends the connection.
      const closed = await Promise.all(noise.map((bytes) => sendTo(port, bytes, 8_000)));
      assertEquals(closed.filter((isClosed) => !isClosed).length, 0, `noise at port ${port}`);
    }
    assertEquals(await sh(`sha256sum < ${cluster.mountpoint}/file`), sum);
    await sh(`cd ${cluster.mountpoint} && cp file copy && cmp file copy`);
    const status = await mfs(["status", "--nameserver", cluster.nameserver, "--json"]);
    assertEquals(
      JSON.parse(status.stdout).dataservers.filter((server: { alive: boolean }) => server.alive).length,
      3,
    );
    assertNoTrace(cluster.log);
    assert(!/child died/.test(cluster.log), "nothing died of it");
  }));

test("a foreign cluster's dataserver", () =>
  withScratch(async (dir) => {
    const start = async (name: string) => {
      assertEquals((await mfs(["format", "--dir", `${dir}/${name}`])).code, 0);
      const server = await MfsProcess.start([
        "nameserver",
        "--dir",
        `${dir}/${name}`,
        "--listen",
        "127.0.0.1:0",
      ]);
      return { server, address: addressOf(server) };
    };
    const [one, two] = [await start("one"), await start("two")];
    const args = (nameserver: string) => [
      ...["dataserver", "--nameserver", nameserver, "--volume", `${dir}/volume`, "--listen", "127.0.0.1:0"],
    ];
    const first = await MfsProcess.start(args(one.address));
    await first.stop();
    assertClear(await mfs(args(two.address)), /cluster/);
    const status = JSON.parse((await mfs(["status", "--nameserver", two.address, "--json"])).stdout);
    assertEquals(status.dataservers, []);
    // And its own cluster still takes it.
    const again = await MfsProcess.start(args(one.address));
    await again.stop();
    await one.server.stop();
    await two.server.stop();
  }));

test("a truncated and a damaged block file", () =>
  withCluster({ mode: "roles" }, async (cluster) => {
    const { mountpoint, scratch } = cluster;
    await sh(`head -c 5M /dev/urandom > ${mountpoint}/file`);
    const sum = await sh(`sha256sum < ${mountpoint}/file`);
    for (
      const [name, spoil] of [["truncated", "truncate -s 1M "], [
        "damaged",
        "dd if=/dev/zero bs=64k count=4 seek=10 conv=notrunc status=none of=",
      ]]
    ) {
      // The one that was spoilt before has been replaced, perhaps elsewhere.
      let replicas: string[] = [];
      await eventually(30_000, "two replicas of 5 MiB", async () => {
        const { stdout } = await mfs(["status", "--nameserver", cluster.nameserver, "--json"]);
        replicas = (await sh(`find ${scratch}/volume?/blocks -type f -size 5120k`)).trim().split("\n");
        return replicas.length === 2 && JSON.parse(stdout).underReplicated === 0;
      });
      await cluster.stop();
      await sh(`${spoil}${replicas[0]}`);
      await cluster.restartEverything();
      const read = await sh(`sha256sum < ${mountpoint}/file`, { timeoutMs: 60_000 });
      assertEquals(read, sum, `${name}: the other replica is read`);
      assertNoTrace(cluster.log);
    }
    await sh(`echo works > ${mountpoint}/new && grep -q works ${mountpoint}/new`);
  }));

test("a namespace of another version and a damaged one", () =>
  withScratch(async (dir) => {
    const ns = `${dir}/ns`;
    const attempt = () => mfs(["nameserver", "--dir", ns, "--listen", "127.0.0.1:0"]);
    assertEquals((await mfs(["format", "--dir", ns])).code, 0);
    const identity = `${ns}/nameserver.json`;
    const saved = Deno.readTextFileSync(identity);
    await Deno.writeTextFile(identity, saved.replace(/"layout": \d+/, '"layout": 99'));
    assertClear(await attempt(), /layout 99/);
    await Deno.writeTextFile(identity, "{");
    assertClear(await attempt(), /damaged/);
    await Deno.writeTextFile(identity, saved);

    const current = Deno.readTextFileSync(`${ns}/db/CURRENT`);
    await Deno.writeTextFile(`${ns}/db/CURRENT`, "MANIFEST-999999\n");
    assertClear(await attempt(), /./);
    await Deno.writeTextFile(`${ns}/db/CURRENT`, current);
    const server = await MfsProcess.start(["nameserver", "--dir", ns, "--listen", "127.0.0.1:0"]);
    await eventually(5_000, "serves again", () => /serving/.test(server.log));
    await server.stop();
  }));

test("a volume of another version", () =>
  withScratch(async (dir) => {
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const nameserver = await MfsProcess.start([
      "nameserver",
      "--dir",
      `${dir}/ns`,
      "--listen",
      "127.0.0.1:0",
    ]);
    const at = addressOf(nameserver);
    const args = ["dataserver", "--nameserver", at, "--volume", `${dir}/v`, "--listen", "127.0.0.1:0"];
    await (await MfsProcess.start(args)).stop();
    const json = `${dir}/v/volume.json`;
    const saved = Deno.readTextFileSync(json);
    const other = saved.replace(/"format": ?\d+/, '"format": 99');
    assert(other !== saved, "a volume says in which format it is");
    await Deno.writeTextFile(json, other);
    assertClear(await mfs(args), /99/);
    await Deno.writeTextFile(json, saved);
    await (await MfsProcess.start(args)).stop();
    await nameserver.stop();
  }));
