/**
 * What a workload of the benchmark is: a name, a unit, and a function that runs it once in a directory and answers what
 * it measured. The directory keeps what one leaves for the next (the files that are read have been written before); a
 * workload that misses something makes it first, untimed, so each can be run alone.
 *
 * Invariant: what a workload has read or made is checked, within the measured time where that is cheap, else after it.
 * A file system that answers wrongly is an error, never a figure.
 */

import { errnoName, FsError } from "../../../wire/errno.ts";

export interface BenchContext {
  /** On the file system under test; nobody else's. */
  readonly dir: string;
  /** A directory on a local disk. */
  readonly scratch: string;
  /** 1: the full size. Counts and sizes are multiplied by it. */
  readonly scale: number;
  /** A loop ends after so long, and what it has done by then counts. */
  readonly limitMs: number;
  /** The kernel's caches are empty afterwards. */
  dropCaches(): Promise<void>;
}

/** How much was done in which time. */
export interface Timed {
  readonly done: number;
  readonly seconds: number;
  /** The time was over before all was done. */
  readonly cut: boolean;
}

export type Unit = "files/s" | "ops/s" | "MB/s" | "IOPS" | "commits/s" | "writes/s" | "s";

export interface Workload {
  readonly name: string;
  /** All but seconds are the better the higher. */
  readonly unit: Unit;
  readonly about: string;
  /** Begins with empty caches: needs root, and slows down whatever else runs on the machine. */
  readonly isCold?: boolean;
  /** Programs without which it can't run. */
  readonly needs?: readonly string[];
  run(context: BenchContext): Promise<Timed>;
}

/** The figure of a workload, in its unit. */
export function valueOf(unit: Unit, { done, seconds }: Timed): number {
  return unit === "s" ? seconds : done / seconds;
}

/** A count at this scale, at least `min`. */
export function scaled(context: BenchContext, count: number, min = 1): number {
  return Math.max(min, Math.round(count * context.scale));
}

/** So often the clock is looked at. */
const CLOCK_ROUNDS = 16;

/** Calls `step` with 0 ... `count` - 1, until the time is over. */
export function timedLoop(limitMs: number, count: number, step: (i: number) => void): Timed {
  const startMs = performance.now();
  const endMs = startMs + limitMs;
  let done = 0;
  while (done < count) {
    step(done++);
    if (done % CLOCK_ROUNDS === 0 && performance.now() > endMs) break;
  }
  return { done, seconds: (performance.now() - startMs) / 1000, cut: done < count };
}

/** The result of a system call, or an error that says which one failed on what. */
export function must(result: number, call: string, path: string): number {
  if (result < 0) throw new FsError(errnoName(-result), `${call}(${path}) failed`, { op: "bench" });
  return result;
}

export function check(isRight: boolean, what: string): void {
  if (!isRight) throw new Error(`wrong data: ${what}`);
}
