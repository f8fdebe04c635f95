/** What roles show over HTTP: on a real cluster every metric that the alerts and the dashboard name, in Prometheus' format. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { createLogger } from "../../base/log.ts";
import { startMetricsServer } from "../../roles/admin/metrics_server.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { eventually, hasProgram, run } from "../harness/command.ts";
import { mfs } from "../harness/cluster.ts";
import { MFS, MfsProcess } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const MONITORING = decodeURIComponent(new URL("../../scripts/monitoring", import.meta.url).pathname);
const options = { ignore: Deno.uid() !== 0, sanitizeOps: false, sanitizeResources: false };

async function page(
  address: string,
  path: string,
): Promise<{ readonly status: number; readonly text: string }> {
  const response = await fetch(`http://${address}${path}`, { signal: AbortSignal.timeout(10_000) });
  return { status: response.status, text: await response.text() };
}

/** Names and label sets with values; throws for a line that is none. */
function samplesOf(text: string): Map<string, number> {
  const samples = new Map<string, number>();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const [, name = "", value] = /^(\w+(?:\{.*\})?) (\S+)$/.exec(line) ?? [];
    assert(name !== "" && Number.isFinite(Number(value)), line);
    assert(!samples.has(name), `twice: ${name}`);
    samples.set(name, Number(value));
  }
  return samples;
}

const sumOf = (samples: Map<string, number>, pattern: RegExp) =>
  [...samples].filter(([name]) => pattern.test(name)).reduce((sum, [, value]) => sum + value, 0);

Deno.test({
  name: "metrics: a cluster's roles have all that alerts and dashboard name, and count what was done",
  ...options,
  async fn() {
    const scratch = makeScratch();
    const roles: MfsProcess[] = [];
    const loopback = () => `127.0.0.1:${freePort("127.0.0.1")}`;
    try {
      const [nameserver, ...pages] = [loopback(), loopback(), loopback(), loopback()] as const;
      await mfs(["format", "--dir", `${scratch}/ns`]);
      const [volume, mountpoint] = [`${scratch}/volume`, `${scratch}/mnt`];
      for (const dir of [volume, mountpoint]) Deno.mkdirSync(dir);
      const start = async (...args: string[]) => roles.push(await MfsProcess.start(args));
      await start(
        ...["nameserver", "--dir", `${scratch}/ns`, "--listen", nameserver, "--replication", "1"],
        ...["--backup-dir", `${scratch}/backups`, "--http", pages[0]],
      );
      await start(
        ...["dataserver", "--nameserver", nameserver, "--volume", volume, "--listen", loopback()],
        ...["--http", pages[1]],
      );
      await start("mount", nameserver, mountpoint, "--foreground", "--http", pages[2]);
      const data = 300_000;
      const work = await run("sh", [
        "-c",
        `head -c ${data} /dev/zero > ${mountpoint}/a && cat ${mountpoint}/a > /dev/null && ls -l ${mountpoint} &&
        echo small > ${mountpoint}/b && cat ${mountpoint}/b && ! stat ${mountpoint}/none && rm ${mountpoint}/b`,
      ], { timeoutMs: 30_000 });
      assertEquals(work.code, 0, work.stderr);
      await eventually(20_000, "a backup", async () => {
        const { text } = await page(pages[0], "/metrics");
        return /^mfs_backup_age_seconds /m.test(text);
      });
      const texts = await Promise.all(pages.map(async (address) => {
        assertEquals((await page(address, "/healthz")).text, "ok\n");
        assertEquals((await page(address, "/readyz")).status, 200);
        assertEquals((await page(address, "/nothing")).status, 404);
        const { status, text } = await page(address, "/metrics");
        assertEquals(status, 200, text);
        return text;
      }));
      const [ofNameserver, ofDataserver, ofMount] = texts.map(samplesOf);
      assertEquals(ofNameserver!.get("mfs_namespace_inodes"), 2);
      assertEquals(sumOf(ofNameserver!, /^mfs_dataserver_up\{/), 1);
      assert(sumOf(ofNameserver!, /^mfs_journal_duration_seconds_count\{/) > 0);
      assert(ofNameserver!.get("mfs_leveldb_memory_bytes")! > 0);
      assertEquals(sumOf(ofDataserver!, /^mfs_store_used_bytes\{/), data);
      assertEquals(sumOf(ofDataserver!, /^mfs_request_bytes_total\{.*direction="in"/), data);
      assertEquals(sumOf(ofMount!, /^mfs_mount_written_bytes_total\{/), data + "small\n".length);
      assert(sumOf(ofMount!, /^mfs_mount_operation_duration_seconds_count\{.*operation="WRITE"/) > 0);
      const cached = (result: string, cache: string) =>
        sumOf(ofMount!, new RegExp(`^mfs_mount_cache_${result}_total\\{.*cache="${cache}"`));
      assert(cached("misses", "listings") > 0);
      assert(cached("hits", "inline") > 0);
      assert(cached("hits", "names") + cached("misses", "names") >= 2);
      assert(cached("hits", "attributes") + cached("misses", "attributes") > 0);
      assert(sumOf(ofDataserver!, /^mfs_scrub_last_pass_timestamp_seconds\{/) > Date.now() / 1000 - 600);
      assertEquals(sumOf(ofDataserver!, /^mfs_scrub_errors_total\{/), 0);
      const exported = texts.join("\n");
      for (const file of ["alerts.yml", "dashboard.json"]) {
        const named = new Set(Deno.readTextFileSync(`${MONITORING}/${file}`).match(/\bmfs_[a-z0-9_]+\b/g));
        assert(named.size > 8);
        const missing = [...named].filter((name) => !new RegExp(`^${name}[ {]`, "m").test(exported));
        assertEquals(missing, [], `named in ${file}`);
      }
      if (hasProgram("promtool")) {
        for (const text of texts) {
          await Deno.writeTextFile(`${scratch}/page`, text);
          const checked = await run("sh", ["-c", `promtool check metrics < ${scratch}/page`]);
          assertEquals(checked.code, 0, checked.stderr + checked.stdout);
        }
      }
    } finally {
      for (const role of roles.reverse()) await role.stop();
      await removeScratch(scratch);
    }
  },
});

Deno.test({
  name: "metrics: the rules are right",
  ignore: !hasProgram("promtool"),
  async fn() {
    for (const args of [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]]) {
      const { code, stdout, stderr } = await run("promtool", args, { cwd: MONITORING });
      assertEquals(code, 0, stdout + stderr);
    }
  },
});

Deno.test("metrics: the dashboard's panels have expressions, and no two of them one place", () => {
  const { panels } = JSON.parse(Deno.readTextFileSync(`${MONITORING}/dashboard.json`));
  const places = panels.map(({ gridPos: { x, y } }: { gridPos: { x: number; y: number } }) => `${x},${y}`);
  assertEquals(new Set(places).size, panels.length);
  for (const { targets } of panels) assert(targets.every(({ expr }: { expr: string }) => expr.length > 0));
});

Deno.test({
  name: "metrics: a port that was asked for and is taken is wrong usage",
  ...options,
  async fn() {
    const scratch = makeScratch();
    const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    try {
      await mfs(["format", "--dir", `${scratch}/ns`]);
      const { code, stderr } = await run(MFS, [
        ...["nameserver", "--dir", `${scratch}/ns`, "--listen", "127.0.0.1:0"],
        ...["--http", `127.0.0.1:${taken.addr.port}`],
      ], { timeoutMs: 30_000 });
      assertEquals(code, 2);
      assertMatch(stderr, /mfs: nameserver: --http 127\.0\.0\.1:\d+: /);
    } finally {
      taken.close();
      await removeScratch(scratch);
    }
  },
});

Deno.test({
  name: "metrics: roles of one process are on one page, each figure once",
  ...options,
  async fn() {
    const scratch = makeScratch();
    const http = `127.0.0.1:${freePort("127.0.0.1")}`;
    const cluster = await MfsProcess.start(["singlenode", `${scratch}/mnt`, "--http", http]);
    try {
      const work = await run("sh", ["-c", `head -c 300000 /dev/zero > ${scratch}/mnt/a`], {
        timeoutMs: 30_000,
      });
      assertEquals(work.code, 0, work.stderr);
      const samples = samplesOf((await page(http, "/metrics")).text);
      assertEquals(sumOf(samples, /^mfs_store_registered\{/), 3);
      assertEquals(sumOf(samples, /^mfs_request_bytes_total\{host=.*direction="in"/), 600_000);
      assertEquals(sumOf(samples, /^mfs_mount_written_bytes_total\{/), 300_000);
      assertEquals(samples.get("mfs_namespace_inodes"), 2);
    } finally {
      await cluster.stop();
      await removeScratch(scratch);
    }
  },
});

Deno.test("metrics: where the usual port is taken there is no page, and the log says so", () => {
  const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const lines: string[] = [];
  try {
    const server = startMetricsServer({
      listen: `127.0.0.1:${taken.addr.port}`,
      isWanted: false,
      log: createLogger("test", { json: false, level: "info", write: (line) => lines.push(line) }),
      metrics: () => Promise.resolve([]),
      isReady: () => true,
    });
    assertEquals(server, undefined);
    assertEquals(lines.length, 1);
    assertMatch(lines[0]!, /no metrics: the port is taken/);
  } finally {
    taken.close();
  }
});
