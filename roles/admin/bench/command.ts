/**
 * `mfs bench DIR`: how quick the file system is that holds a directory, for its users. Runs the workloads in a directory
 * that it makes there and removes again, on Ctrl-C as well.
 */

import { interruptible } from "../interrupt.ts";
import { EXIT_FAILURE, messageOf, printLine, UsageError } from "../process.ts";
import { Progress } from "../progress.ts";
import { absolutePath } from "../self.ts";
import { size } from "../units.ts";
import { WORKLOADS } from "./catalogue.ts";
import { hasProgram, LateError, runProgram } from "./programs.ts";
import { BenchRunner } from "./runner.ts";
import type { WorkerAnswer } from "./worker.ts";
import type { Unit, Workload } from "./workload.ts";

export interface BenchFlags {
  readonly only?: readonly string[];
  readonly skip?: readonly string[];
  readonly scale: number;
  readonly limit: number;
  readonly cold?: boolean;
  readonly list?: boolean;
  readonly json?: boolean;
}

export interface BenchRow {
  readonly workload: string;
  readonly unit: Unit;
  /** In that unit; null: it was not measured, and `error` or `skipped` says why. */
  readonly value: number | null;
  readonly error?: string;
  /** It takes a program that is not installed. */
  readonly skipped?: string;
  /** It stopped at the limit, before all was done. */
  readonly cut?: boolean;
}

/** What all of them need at the full size, with what is made on the way. */
export const BENCH_BYTES = 700 * 1024 * 1024;
/** The least sizes are those of this scale. */
const SPACE_SCALE_MIN = 0.02;
const LOOK_MS_MAX = 10_000;

/** Those that `only` and `skip` leave. Throws UsageError when one of them does not exist. */
export function selectWorkloads(only: readonly string[], skip: readonly string[]): readonly Workload[] {
  for (const name of [...only, ...skip]) {
    if (!WORKLOADS.some((workload) => workload.name === name)) {
      const names = WORKLOADS.map((workload) => workload.name).join(", ");
      throw new UsageError(`there is no workload ${JSON.stringify(name)}; there are ${names}`);
    }
  }
  const selected = WORKLOADS.filter(({ name }) =>
    (only.length === 0 || only.includes(name)) && !skip.includes(name)
  );
  if (selected.length === 0) throw new UsageError("--only and --skip leave no workload");
  return selected;
}

/** What `workload` misses of programs; undefined when it can run. */
export function missingProgram({ needs = [] }: Workload): string | undefined {
  const missing = needs.filter((program) => !hasProgram(program));
  return missing.length === 0 ? undefined : `${missing.join(" and ")} is not installed`;
}

export function rowOf({ name, unit }: Workload, answer: WorkerAnswer): BenchRow {
  if ("error" in answer) return { workload: name, unit, value: null, error: answer.error };
  return { workload: name, unit, value: answer.value, ...answer.cut ? { cut: true } : {} };
}

/** Three digits or all before the point. */
export function figure(value: number): string {
  return value >= 100 ? String(Math.round(value)) : value.toPrecision(3);
}

function formatRow({ workload, unit, value, error, skipped, cut }: BenchRow): string {
  const name = workload.padEnd(26);
  if (value === null) return `${name}        -  ${error ?? skipped}`;
  return `${name}${figure(value).padStart(9)}  ${unit}${cut ? " (stopped at the limit)" : ""}`;
}

export async function benchCommand(path: string | undefined, flags: BenchFlags): Promise<void> {
  if (flags.list) {
    for (const { name, about, isCold } of WORKLOADS) {
      printLine(`${name.padEnd(26)}${about}${isCold ? " (--cold)" : ""}`);
    }
    return;
  }
  if (path === undefined) throw new UsageError("give the directory to measure, such as `mfs bench /mnt/mfs`");
  const selected = selectWorkloads(flags.only ?? [], flags.skip ?? []);
  const runnable = selected.filter(({ isCold }) => !isCold || flags.cold);
  if (runnable.length === 0) {
    throw new UsageError("these begin with empty caches: give --cold as well, as root");
  }
  if (flags.cold && Deno.uid() !== 0) {
    throw new UsageError("--cold empties the kernel's caches: run it as root");
  }
  const target = absolutePath(path);
  await checkTarget(target, flags.scale);
  const rows = await interruptible((signal) => measure(target, runnable, flags, signal));
  if (flags.json) printLine(JSON.stringify({ dir: target, scale: flags.scale, results: rows }));
  if (rows.some(({ error }) => error !== undefined)) Deno.exit(EXIT_FAILURE);
}

/** In another process: on a mount that hangs, we don't. */
async function checkTarget(target: string, scale: number): Promise<void> {
  const out = await runProgram("stat", ["--format=%F", "--", target], { limitMs: LOOK_MS_MAX }).catch(
    (error) => {
      if (error instanceof LateError) {
        throw new Error(`${target} does not answer within ${LOOK_MS_MAX / 1000} s`);
      }
      throw new UsageError(`${target} can't be looked at: ${messageOf(error).replace(/^.*: /, "")}`);
    },
  );
  if (out.trim() !== "directory") throw new UsageError(`${target} is no directory`);
  const df = await runProgram("df", ["--block-size=1", "--output=avail", "--", target], {
    limitMs: LOOK_MS_MAX,
  });
  const available = Number(df.trim().split("\n").at(-1));
  const needed = BENCH_BYTES * Math.max(scale, SPACE_SCALE_MIN);
  if (available < needed) {
    throw new UsageError(
      `${target} has ${size(available)} free, and ${size(needed)} are needed: give a smaller --scale`,
    );
  }
}

async function measure(
  target: string,
  workloads: readonly Workload[],
  flags: BenchFlags,
  signal: AbortSignal,
): Promise<BenchRow[]> {
  const scratch = Deno.makeTempDirSync({ prefix: "mfs-bench-" });
  const progress = new Progress({ label: "bench", unit: "workloads" });
  const rows: BenchRow[] = [];
  try {
    const dir = `${target}/mfs-bench-${Deno.pid}`;
    const runner = await BenchRunner.start(
      { dir, scratch, scale: flags.scale, limitMs: flags.limit * 1000 },
      signal,
    );
    try {
      for (const [i, workload] of workloads.entries()) {
        progress.update(i, workloads.length);
        const row = await measureOne(runner, workload);
        progress.end();
        if (!flags.json) printLine(formatRow(row));
        rows.push(row);
      }
    } finally {
      await runner.close();
    }
  } finally {
    Deno.removeSync(scratch, { recursive: true });
  }
  return rows;
}

async function measureOne(runner: BenchRunner, workload: Workload): Promise<BenchRow> {
  const skipped = missingProgram(workload);
  if (skipped !== undefined) return { workload: workload.name, unit: workload.unit, value: null, skipped };
  return rowOf(workload, await runner.run(workload.name));
}
