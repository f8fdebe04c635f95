/** scripts/bench: MaggieFS beside a local directory, its files, its verdict on a baseline, and what it leaves behind. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { listMounts } from "../../roles/admin/mounts.ts";
import { changesSince } from "../../scripts/benchmarks/baseline.ts";
import { drawChart } from "../../scripts/benchmarks/chart.ts";
import { GOALS } from "../../scripts/benchmarks/goals.ts";
import { clusterRatio, type Results, speedRatio } from "../../scripts/benchmarks/results.ts";
import { formatResults } from "../../scripts/benchmarks/report.ts";
import { WORKLOADS } from "../../roles/admin/bench/catalogue.ts";
import type { Unit } from "../../roles/admin/bench/workload.ts";
import { eventually, run } from "../harness/command.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const BENCH = decodeURIComponent(new URL("../../scripts/bench", import.meta.url).pathname);
const isRoot = Deno.uid() === 0;

function resultsOf(workload: string, unit: Unit, values: Record<string, number | null>): Results {
  const peer = {
    note: "",
    processes: 1,
    pssIdleMib: 1,
    pssAfterMib: 1,
    pssSettledMib: 1,
    cpuSecondsBusy: 1,
    cpuSecondsIdle: 0,
  };
  return {
    format: "mfs-bench-1",
    at: "2026-01-02T03:04:05Z",
    machine: { processors: 2, memoryMib: 1024, kernel: "6.18" },
    othersShare: 0,
    scale: 1,
    repeat: 1,
    peers: Object.fromEntries(Object.keys(values).map((name) => [name, peer])),
    workloads: [{
      workload,
      unit,
      peers: Object.fromEntries(
        Object.entries(values).map((
          [name, value],
        ) => [name, { value, samples: value === null ? [] : [value] }]),
      ),
    }],
  };
}

async function inScratch(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = makeScratch();
  try {
    await work(dir);
  } finally {
    await removeScratch(dir);
  }
}

const mountsBelow = (dir: string) => listMounts().filter(({ mountpoint }) => mountpoint.startsWith(dir));

Deno.test({
  name:
    "comparison: two file systems, a table, JSON and a chart; a worse run than the baseline has exit code 1",
  ignore: !isRoot,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    inScratch(async (dir) => {
      // As if it had once been as quick as nothing is; of the others nothing is known.
      const once = resultsOf("create_4k_files", "files/s", { mfs: 1e12 });
      await Deno.writeTextFile(`${dir}/once.json`, JSON.stringify(once));
      const args = [
        ...["--peers", "ext4,mfs", "--no-cold", "--scale", "0.005", "--settle", "0", "--dir", dir],
        ...["--only", "create_4k_files,stat_warm,append_100b", "--json", `${dir}/now.json`],
        ...["--chart", `${dir}/now.svg`, "--baseline", `${dir}/once.json`],
      ];
      const { code, stdout, stderr } = await run(BENCH, args, { timeoutMs: 120_000 });
      assertEquals(code, 1, stdout + stderr);
      assertStringIncludes(stdout, "1 below 0.7 of the baseline");
      const results: Results = JSON.parse(await Deno.readTextFile(`${dir}/now.json`));
      assertEquals(Object.keys(results.peers), ["ext4", "mfs"]);
      assertEquals(results.workloads.map(({ workload }) => workload), [
        "create_4k_files",
        "stat_warm",
        "append_100b",
      ]);
      for (const { workload, peers } of results.workloads) {
        for (const peer of ["ext4", "mfs"]) assert(peers[peer]!.value! > 0, `${workload} on ${peer}`);
      }
      assert(results.othersShare >= 0 && results.othersShare <= 1);
      const mfs = results.peers["mfs"]!;
      assertEquals(mfs.processes, 5);
      assert(mfs.pssIdleMib > 20 && mfs.pssAfterMib > 20 && mfs.cpuSecondsBusy > 0);
      assertStringIncludes(await Deno.readTextFile(`${dir}/now.svg`), "stat_warm");

      // As if it had been a thousand times as quick.
      assertEquals([...Deno.readDirSync(dir)].filter(({ isDirectory }) => isDirectory), []);
      assertEquals(mountsBelow(dir), []);
    }),
});

Deno.test({
  name: "comparison: Ctrl-C takes away all that was set up",
  ignore: !isRoot,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    inScratch(async (dir) => {
      const child = new Deno.Command(BENCH, {
        args: [
          "--peers",
          "ext4,mfs",
          "--no-cold",
          "--dir",
          dir,
          "--only",
          "rand_write_4k_fsync_each,append_100b",
        ],
        stdin: "null",
        stdout: "null",
        stderr: "piped",
      }).spawn();
      let said = "";
      const reading = (async () => {
        for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) said += text;
      })();
      await eventually(40_000, "a mount in use", async () => {
        if (mountsBelow(dir).length === 0) return false;
        // The worker's directory is made last.
        const { code } = await run("sh", ["-c", `ls -d ${dir}/*/mfs/mount/bench-*/large`]);
        return code === 0;
      });
      child.kill("SIGINT");
      const { code } = await child.status;
      await reading;
      assertEquals(code, 1, said);
      assertStringIncludes(said, "bench: interrupted");
      assertEquals([...Deno.readDirSync(dir)], []);
      assertEquals(mountsBelow(dir), []);
      // What looks after a mount ends a moment after it.
      await eventually(3_000, "the end of all processes", async () => {
        const { stdout } = await run("sh", ["-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"]);
        return !stdout.includes(dir);
      });
    }),
});

Deno.test("comparison: wrong usage is one line that says what to do", async () => {
  for (
    const [args, message] of [
      [["--peers", "nofs"], "there is no peer nofs"],
      [["--peers", "ext4", "--only", "nothing"], 'there is no workload "nothing"'],
      [["--peers", "ext4", "--baseline", "/nowhere"], "/nowhere can't be read"],
    ] as const
  ) {
    const { code, stderr } = await run(BENCH, args);
    assert(code !== 0);
    assertStringIncludes(stderr, `bench: ${message}`);
    assertEquals(stderr.trim().split("\n").length, 1);
  }
});

Deno.test("comparison: ratios say how many times as quick, also where less is better", () => {
  const rate = resultsOf("untar", "files/s", { bindfs: 50, moosefs: 100, glusterfs: 20, mfs: 200 })
    .workloads[0]!;
  assertEquals(clusterRatio(rate), 2);
  assertEquals(speedRatio(rate, "mfs", "bindfs"), 4);
  const time = resultsOf("git_init_add_commit", "s", { moosefs: 30, glusterfs: 60, mfs: 10 }).workloads[0]!;
  assertEquals(clusterRatio(time), 3);
  assertEquals(speedRatio(time, "mfs", "bindfs"), undefined);
});

Deno.test("comparison: a baseline counts in ratio to the local file system, and a figure that is lost is worse", () => {
  const before = resultsOf("untar", "files/s", { ext4: 1000, mfs: 500 });
  const slowMachine = resultsOf("untar", "files/s", { ext4: 100, mfs: 50 });
  assertEquals(changesSince(before, slowMachine, 0.7), [{ workload: "untar", ratio: 1, isWorse: false }]);
  const slower = resultsOf("untar", "files/s", { ext4: 1000, mfs: 300 });
  assertEquals(changesSince(before, slower, 0.7), [{ workload: "untar", ratio: 0.6, isWorse: true }]);
  const alone = resultsOf("untar", "files/s", { mfs: 250 });
  assertEquals(changesSince(before, alone, 0.7), [{ workload: "untar", ratio: 0.5, isWorse: true }]);
  const lost = resultsOf("untar", "files/s", { ext4: 1000, mfs: null });
  assertEquals(changesSince(before, lost, 0.7), [{ workload: "untar", ratio: 0, isWorse: true }]);
  const seconds = changesSince(
    resultsOf("git_init_add_commit", "s", { ext4: 1, mfs: 10 }),
    resultsOf("git_init_add_commit", "s", { ext4: 1, mfs: 5 }),
    0.7,
  );
  assertEquals(seconds, [{ workload: "git_init_add_commit", ratio: 2, isWorse: false }]);
});

Deno.test("comparison: the table marks what is below its goal, and the chart shows the ratios", () => {
  const results = resultsOf("untar", "files/s", {
    ext4: 1000,
    bindfs: 400,
    moosefs: 100,
    glusterfs: 20,
    mfs: 200,
  });
  const text = formatResults(results);
  assertStringIncludes(text, "2.00!");
  assertStringIncludes(text, "0.500!");
  assertStringIncludes(text, "0 of 2 goals are met");
  assert(!text.includes("went to others"));
  assertStringIncludes(
    formatResults({ ...results, othersShare: 0.5 }),
    "50% of the processors went to others",
  );
  const met = formatResults(resultsOf("untar", "files/s", { bindfs: 400, moosefs: 100, mfs: 600 }));
  assertStringIncludes(met, "2 of 2 goals are met");
  const chart = drawChart(results);
  assertStringIncludes(chart, ">2.0</text>");
  assertEquals((chart.match(/<circle/g) ?? []).length, 4); // two in the legend
});

Deno.test("comparison: there is a goal for each workload", () => {
  assertEquals(Object.keys(GOALS).sort(), WORKLOADS.map(({ name }) => name).sort());
});
