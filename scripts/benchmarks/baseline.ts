/**
 * A run against an earlier one. What counts is MaggieFS in ratio to the local file system of the same run, so that another
 * machine, or a busier one, is no change; where either run has no local file system, the figures themselves.
 */

import { figure } from "../../roles/admin/bench/command.ts";
import { OURS, type Results, speedRatio, type WorkloadResult } from "./results.ts";

export interface Change {
  readonly workload: string;
  /** How many times as quick as in the baseline. */
  readonly ratio: number;
  readonly isWorse: boolean;
}

const LOCAL = "ext4";

export function changesSince(baseline: Results, results: Results, worstRatio: number): readonly Change[] {
  const before = new Map(baseline.workloads.map((result) => [result.workload, result]));
  const changes: Change[] = [];
  for (const result of results.workloads) {
    const old = before.get(result.workload);
    const ratio = old === undefined ? undefined : ratioOf(old, result);
    // What could be measured and no longer can is worse than slow.
    const isLost = ratio === undefined && old !== undefined && isMeasured(old) &&
      result.peers[OURS] !== undefined &&
      !isMeasured(result);
    if (isLost) changes.push({ workload: result.workload, ratio: 0, isWorse: true });
    else if (ratio !== undefined) {
      changes.push({ workload: result.workload, ratio, isWorse: ratio < worstRatio });
    }
  }
  return changes;
}

const isMeasured = ({ peers }: WorkloadResult) => (peers[OURS]?.value ?? null) !== null;

function ratioOf(old: WorkloadResult, result: WorkloadResult): number | undefined {
  const oldRatio = speedRatio(old, OURS, LOCAL);
  const newRatio = speedRatio(result, OURS, LOCAL);
  if (oldRatio !== undefined && newRatio !== undefined) return newRatio / oldRatio;
  const both: WorkloadResult = { ...result, peers: { now: result.peers[OURS]!, before: old.peers[OURS]! } };
  return speedRatio(both, "now", "before");
}

export function formatChanges(changes: readonly Change[], worstRatio: number): string {
  const rows = changes.map(({ workload, ratio, isWorse }) =>
    `${workload.padEnd(26)}${figure(ratio).padStart(8)}${isWorse ? "  WORSE" : ""}`
  );
  const worse = changes.filter(({ isWorse }) => isWorse).length;
  const verdict = worse === 0
    ? `none is below ${worstRatio} of the baseline`
    : `${worse} below ${worstRatio} of the baseline`;
  return [`times as quick as in the baseline, in ratio to ${LOCAL}:`, ...rows, verdict].join("\n");
}
