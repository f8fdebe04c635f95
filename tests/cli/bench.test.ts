/** `mfs bench` on a real cluster, and that it tells wrong data from right, at a size that takes seconds. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { selectWorkloads } from "../../roles/admin/bench/command.ts";
import { WORKLOADS } from "../../roles/admin/bench/catalogue.ts";
import { BenchRunner } from "../../roles/admin/bench/runner.ts";
import { Cluster, mfs } from "../harness/cluster.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const SCALE = 0.005;

async function inScratch(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = makeScratch();
  try {
    await work(dir);
  } finally {
    await removeScratch(dir);
  }
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `bench: ${name}`, sanitizeOps: false, sanitizeResources: false, fn });
}

async function withRunner(work: (runner: BenchRunner, dir: string) => Promise<void>): Promise<void> {
  await inScratch(async (base) => {
    const dir = `${base}/bench`;
    const runner = await BenchRunner.start({ dir, scratch: base, scale: SCALE, limitMs: 10_000 });
    try {
      await work(runner, dir);
    } finally {
      await runner.close();
    }
  });
}

test("on a mount each workload without cold caches has a figure, and nothing is left", async () => {
  const cluster = await Cluster.start({ mode: "one process" });
  try {
    const result = await mfs(["bench", cluster.mountpoint, "--scale", String(SCALE), "--json"], 120_000);
    assertEquals(result.code, 0, result.stdout + result.stderr);
    const { results } = JSON.parse(result.stdout);
    const expected = WORKLOADS.filter(({ isCold }) => !isCold).map(({ name }) => name);
    assertEquals(results.map(({ workload }: { workload: string }) => workload), expected);
    for (const { workload, value, cut } of results) {
      assert(value > 0, workload);
      assertEquals(cut, undefined, workload);
    }
    const left = await new Deno.Command("ls", { args: ["-A", cluster.mountpoint] }).output();
    assertEquals(new TextDecoder().decode(left.stdout), "");
    await cluster.stop();
  } finally {
    await cluster.discard();
  }
});

test("what was changed behind its back is wrong data, not a figure", () =>
  withRunner(async (runner, dir) => {
    assert("value" in await runner.run("seq_write_1m_fsync"));
    using large = await Deno.open(`${dir}/large`, { write: true });
    // The number of the second 4 KiB.
    await large.seek(4096, Deno.SeekMode.Start);
    await large.write(new Uint8Array([7]));
    assertEquals(await runner.run("seq_read_1m_warm"), { error: "wrong data: the large file at byte 4096" });
    assertEquals(await runner.run("rand_write_4k_end_fsync"), {
      error: "wrong data: the large file at byte 4096",
    });

    assert("value" in await runner.run("create_4k_files"));
    assert("value" in await runner.run("open_read_4k_warm"));
    await Deno.writeTextFile(`${dir}/small/0/7`, "short");
    const read = await runner.run("open_read_4k_warm");
    assertStringIncludes("error" in read ? read.error : "no error", "wrong data: read(");
    const looked = await runner.run("stat_warm");
    assertStringIncludes(
      "error" in looked ? looked.error : "no error",
      "wrong data: stat of file 7 answered 5",
    );
  }));

test("each workload makes what it needs, also when it runs alone or again", () =>
  withRunner(async (runner) => {
    for (
      const name of [
        "rm_rf",
        "rename",
        "unlink",
        "unlink",
        "seq_read_1m_warm",
        "git_init_add_commit",
        "rm_rf",
      ]
    ) {
      const answer = await runner.run(name);
      assert("value" in answer && answer.value > 0, `${name}: ${JSON.stringify(answer)}`);
    }
  }));

test("an interrupted run ends at once, and takes its directory away", () =>
  inScratch(async (base) => {
    const abort = new AbortController();
    const dir = `${base}/bench`;
    const runner = await BenchRunner.start({ dir, scratch: base, scale: 1, limitMs: 60_000 }, abort.signal);
    const running = runner.run("rand_write_4k_fsync_each").then(() => "answered", (error) => error.message);
    setTimeout(() => abort.abort(new Error("interrupted")), 500);
    assertEquals(await running, "interrupted");
    await runner.close();
    assertEquals([...Deno.readDirSync(base)].map(({ name }) => name).filter((name) => name === "bench"), []);
  }));

test("wrong usage is told before anything is made", () =>
  inScratch(async (dir) => {
    for (
      const [args, message] of [
        [["bench"], "give the directory to measure"],
        [["bench", `${dir}/none`], "No such file or directory"],
        [["bench", "/dev/null"], "/dev/null is no directory"],
        [["bench", dir, "--only", "nothing"], 'there is no workload "nothing"'],
        [["bench", dir, "--only", "seq_read_1m_cold"], "give --cold as well"],
        [["bench", dir, "--scale", "0"], "from 0.001 to 100"],
        [["bench", "/proc"], "give a smaller --scale"],
      ] as const
    ) {
      const { code, stderr } = await mfs([...args]);
      assertEquals(code, 2, stderr);
      assertStringIncludes(stderr, message);
      assertEquals(stderr.trim().split("\n").length, 1);
    }
    assertEquals([...Deno.readDirSync(dir)], []);
  }));

Deno.test("bench: --only and --skip choose workloads in their order", () => {
  const names = (only: string[], skip: string[]) => selectWorkloads(only, skip).map(({ name }) => name);
  assertEquals(names(["unlink", "stat_warm"], []), ["stat_warm", "unlink"]);
  assertEquals(names(["unlink", "stat_warm"], ["unlink"]), ["stat_warm"]);
  assertEquals(names([], []).length, WORKLOADS.length);
});
