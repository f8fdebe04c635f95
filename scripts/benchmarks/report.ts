/** The results of a comparison as a table, with the goals where there are some. */

import { figure } from "../../roles/admin/bench/command.ts";
import { CPU_GOAL, type Goal, GOALS, MEMORY_GOAL } from "./goals.ts";
import {
  clusterRatio,
  OURS,
  type PeerResult,
  type Results,
  speedRatio,
  type WorkloadResult,
} from "./results.ts";

const NAME_WIDTH = 26;
const WIDTH = 11;
/** Of the processors, what others may take before it is told; writing back takes a little always. */
const OTHERS_MAX = 0.15;

export function formatResults(results: Results): string {
  const peers = Object.keys(results.peers);
  const { processors, memoryMib, kernel } = results.machine;
  const lines = [
    `${processors} processors, ${
      Math.round(memoryMib / 1024)
    } GiB, Linux ${kernel}; scale ${results.scale}, ` +
    `${results.repeat === 1 ? "one round" : `the median of ${results.repeat} rounds`}`,
    ...peers.map((peer) => `  ${peer.padEnd(10)} ${results.peers[peer]!.note}`),
    ...results.othersShare > OTHERS_MAX
      ? [
        `  ${
          Math.round(results.othersShare * 100)
        }% of the processors went to others meanwhile: ratios are too low for` +
        ` file systems of several processes`,
      ]
      : [],
    "",
  ];
  const hasGoals = peers.includes(OURS) && peers.length > 1;
  const heads = [...peers, "unit", ...hasGoals ? ["/cluster", "goal", "/local", "goal"] : []];
  lines.push("".padEnd(NAME_WIDTH) + heads.map((head) => head.padStart(WIDTH)).join(""));
  let met = 0;
  let known = 0;
  for (const result of results.workloads) {
    const cells: string[] = peers.map((peer) => cellOf(result, peer));
    cells.push(result.unit);
    if (hasGoals) {
      const { cells: ratios, verdicts } = ratiosOf(result, GOALS[result.workload]);
      cells.push(...ratios);
      known += verdicts.length;
      met += verdicts.filter((verdict) => verdict).length;
    }
    lines.push(result.workload.padEnd(NAME_WIDTH) + cells.map((cell) => cell.padStart(WIDTH)).join(""));
  }
  lines.push("", ...footprintLines(results, peers));
  for (const { workload, peers } of results.workloads) {
    for (const [peer, { error, cut }] of Object.entries(peers)) {
      if (error !== undefined) lines.push(`${workload} on ${peer}: ${error}`);
      else if (cut) lines.push(`${workload} on ${peer}: stopped at the time limit`);
    }
  }
  if (hasGoals) {
    lines.push(
      `/cluster: how many times as quick as the better of the cluster file systems; /local: than the local one named; ` +
        `! below its goal. ${met} of ${known} goals are met.`,
    );
  }
  return lines.join("\n");
}

function cellOf({ peers }: WorkloadResult, peer: string): string {
  const value = peers[peer];
  if (value === undefined) return "";
  if (value.value === null) return "failed";
  return figure(value.value) + (value.cut ? "*" : "");
}

function ratiosOf(
  result: WorkloadResult,
  goal: Goal | undefined,
): { readonly cells: readonly string[]; readonly verdicts: readonly boolean[] } {
  const cells: string[] = [];
  const verdicts: boolean[] = [];
  const add = (ratio: number | undefined, wanted: number | undefined, of = "") => {
    if (ratio === undefined) cells.push("", "");
    else {
      const isMet = wanted === undefined || ratio >= wanted;
      if (wanted !== undefined) verdicts.push(isMet);
      cells.push(figure(ratio) + (isMet ? "" : "!"), wanted === undefined ? "" : `${figure(wanted)}${of}`);
    }
  };
  add(clusterRatio(result), goal?.cluster);
  const [peer, wanted] = goal?.local ?? ["ext4", undefined];
  add(speedRatio(result, OURS, peer), wanted, ` ${peer}`);
  return { cells, verdicts };
}

function footprintLines({ peers }: Results, names: readonly string[]): string[] {
  const row = (head: string, of: (peer: PeerResult) => number) =>
    head.padEnd(NAME_WIDTH) + names.map((name) => figure(of(peers[name]!)).padStart(WIDTH)).join("");
  const cpu = ({ cpuSecondsBusy, cpuSecondsIdle }: PeerResult) => cpuSecondsBusy + cpuSecondsIdle;
  const lines = [
    row("processes", ({ processes }) => processes),
    row("PSS idle, MiB", ({ pssIdleMib }) => pssIdleMib),
    row("PSS after, MiB", ({ pssAfterMib }) => pssAfterMib),
    row("PSS settled, MiB", ({ pssSettledMib }) => pssSettledMib),
    row("processor seconds", cpu),
    row("  during its own part", ({ cpuSecondsBusy }) => cpuSecondsBusy),
  ];
  const ours = peers[OURS];
  const other = peers["moosefs"];
  if (ours !== undefined && other !== undefined) {
    const verdict = (what: string, ratio: number, goal: number) =>
      `${what} of ${OURS} in ratio to moosefs: ${figure(ratio)}${ratio <= goal ? "" : "!"} (goal: at most ${
        figure(goal)
      })`;
    lines.push(
      verdict("PSS after", ours.pssAfterMib / other.pssAfterMib, MEMORY_GOAL),
      verdict("processor seconds", cpu(ours) / cpu(other), CPU_GOAL),
    );
  }
  return [...lines, ""];
}
