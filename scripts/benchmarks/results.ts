/** What a run of the comparison has measured, as it is written to a file, and the ratios within it. */

import type { Unit } from "../../roles/admin/bench/workload.ts";
import { CLUSTER_PEERS } from "./goals.ts";

export const OURS = "mfs";

export interface PeerResult {
  readonly note: string;
  /** When nothing has been done yet, right after the last workload, and when it has been idle for a while. */
  readonly processes: number;
  readonly pssIdleMib: number;
  readonly pssAfterMib: number;
  readonly pssSettledMib: number;
  /** Of all its processes, while its own workloads ran and while those of the others did. */
  readonly cpuSecondsBusy: number;
  readonly cpuSecondsIdle: number;
}

export interface Value {
  /** The median of `samples`; null when none succeeded. */
  readonly value: number | null;
  readonly samples: readonly number[];
  /** A sample stopped at the time limit. */
  readonly cut?: boolean;
  readonly error?: string;
}

export interface WorkloadResult {
  readonly workload: string;
  readonly unit: Unit;
  readonly peers: Readonly<Record<string, Value>>;
}

export interface Results {
  readonly format: "mfs-bench-1";
  readonly at: string;
  readonly machine: { readonly processors: number; readonly memoryMib: number; readonly kernel: string };
  /** Of all processor time meanwhile, what went to none of the file systems and workloads; 0 to 1. */
  readonly othersShare: number;
  readonly scale: number;
  readonly repeat: number;
  readonly peers: Readonly<Record<string, PeerResult>>;
  readonly workloads: readonly WorkloadResult[];
}

export function median(samples: readonly number[]): number | null {
  if (samples.length === 0) return null;
  const sorted = samples.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** How many times as quick `peer` is as `other`; undefined when one of them was not measured. */
export function speedRatio({ unit, peers }: WorkloadResult, peer: string, other: string): number | undefined {
  const ours = peers[peer]?.value ?? null;
  const theirs = peers[other]?.value ?? null;
  if (ours === null || theirs === null || ours <= 0 || theirs <= 0) return undefined;
  return unit === "s" ? theirs / ours : ours / theirs;
}

/** MaggieFS against the better of the other cluster file systems: the least ratio. */
export function clusterRatio(result: WorkloadResult): number | undefined {
  const ratios = CLUSTER_PEERS.map((peer) => speedRatio(result, OURS, peer)).filter((ratio) =>
    ratio !== undefined
  );
  return ratios.length === 0 ? undefined : Math.min(...ratios);
}

/** Reads what an earlier run has written. Throws with one sentence when it is nothing of the kind. */
export function readResults(path: string): Results {
  let parsed: Partial<Results>;
  try {
    parsed = JSON.parse(Deno.readTextFileSync(path));
  } catch (error) {
    throw new Error(`${path} can't be read: ${error instanceof Error ? error.message : error}`);
  }
  if (parsed.format !== "mfs-bench-1" || !Array.isArray(parsed.workloads)) {
    throw new Error(`${path} is no result of scripts/bench --json`);
  }
  return parsed as Results;
}
