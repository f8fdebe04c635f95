/** How long operations waited, by what was being done to the cluster meanwhile. */

import type { Injected } from "./faults.ts";
import type { WorkerPause } from "./workers.ts";

/** What a fault leaves behind, such as a session that has to end. */
const AFTERMATH_MS = 3_000;
const WORST = 5;
const WORST_MS_MIN = 5_000;

/** Milliseconds of the longest, by "kill dataserver" and the like, then by "read", "write" ... */
export type LongestPauses = Record<string, Record<string, number>>;

function activeDuring(injected: readonly Injected[], fromMs: number, toMs: number): Injected[] {
  return injected.filter((fault) => fault.fromMs <= toMs && fromMs <= fault.toMs + AFTERMATH_MS);
}

/** "kill dataserver": of one fault alone; several at once: "several". */
function during(injected: readonly Injected[], fromMs: number, toMs: number): string {
  const active = activeDuring(injected, fromMs, toMs);
  const [fault] = active;
  if (fault === undefined) return "quiet";
  if (active.length > 1) return "several";
  const roles = new Set(fault.roles.map((role) => role.replace(/\d+$/, "")));
  return roles.size === 1 ? `${fault.kind} ${[...roles][0]}` : fault.kind;
}

export function longestPauses(pauses: readonly WorkerPause[], injected: readonly Injected[]): LongestPauses {
  const longest: LongestPauses = {};
  for (const { pause, ms, fromMs } of pauses) {
    const of = longest[during(injected, fromMs, fromMs + ms)] ??= {};
    of[pause] = Math.max(of[pause] ?? 0, ms);
  }
  return longest;
}

/** The longest of a run, each with all that was done to the cluster meanwhile. */
export function worstPauses(pauses: readonly WorkerPause[], injected: readonly Injected[]): string[] {
  const worst = pauses.filter(({ ms }) => ms >= WORST_MS_MIN).sort((a, b) => b.ms - a.ms).slice(0, WORST);
  return worst.map(({ pause, ms, mount, fromMs }) => {
    const faults = activeDuring(injected, fromMs, fromMs + ms).map(({ kind, what }) => `${kind} ${what}`);
    return `${pause} on mount${mount} from ${fromMs}: ${(ms / 1000).toFixed(1)} s; ${
      faults.join(", ") || "quiet"
    }`;
  });
}

export function mergePauses(runs: readonly LongestPauses[]): LongestPauses {
  const merged: LongestPauses = {};
  for (const run of runs) {
    for (const [fault, kinds] of Object.entries(run)) {
      const of = merged[fault] ??= {};
      for (const [kind, ms] of Object.entries(kinds)) of[kind] = Math.max(of[kind] ?? 0, ms);
    }
  }
  return merged;
}

export function formatPauses(pauses: LongestPauses): string {
  const faults = Object.entries(pauses).sort(([a], [b]) => a < b ? -1 : 1);
  return faults.map(([fault, kinds]) => {
    const parts = Object.entries(kinds).map(([kind, ms]) => `${kind} ${(ms / 1000).toFixed(1)} s`);
    return `${fault}: ${parts.join(", ")}`;
  }).join("; ");
}
