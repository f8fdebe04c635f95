/**
 * Faults while the checker runs: one at a time, drawn from a seed, with quiet times between. Whatever is done is undone
 * before this returns.
 */

import { randomInt, type SeededRandom } from "../../base/random.ts";
import type { RoleCluster } from "../harness/role_cluster.ts";

export type Fault =
  /** A mount's process is stopped for a while. */
  | { readonly kind: "stop"; readonly seconds: number }
  /** A mount is cut off from all servers for a while. */
  | { readonly kind: "partition"; readonly seconds: number }
  /** kill -9 of the nameserver, which is away for a while. */
  | { readonly kind: "restart"; readonly seconds: number };

/** "stop:15", "partition:5", "restart", "restart:3"; undefined for anything else. */
export function parseFault(text: string): Fault | undefined {
  const [, kind, seconds] = /^(stop|partition|restart)(?::(\d+(?:\.\d+)?))?$/.exec(text) ?? [];
  if (kind === undefined || (kind !== "restart" && seconds === undefined)) return undefined;
  return { kind: kind as Fault["kind"], seconds: Number(seconds ?? 0) };
}

const FIRST_QUIET_MS = 2_000;
const QUIET_MS = { least: 2_000, range: 6_000 };

/** Resolves when `signal` is aborted, with nothing left undone. `tell` gets a line for each fault. */
export async function injectFaults(
  cluster: RoleCluster,
  faults: readonly Fault[],
  random: SeededRandom,
  signal: AbortSignal,
  tell: (line: string) => void,
): Promise<void> {
  if (faults.length === 0) return;
  const startMs = performance.now();
  const say = (line: string) => tell(`${((performance.now() - startMs) / 1000).toFixed(1)} s: ${line}`);
  await pause(FIRST_QUIET_MS, signal);
  while (!signal.aborted) {
    const fault = faults[randomInt(random, faults.length)]!;
    const mount = 1 + randomInt(random, cluster.mountpoints.length);
    switch (fault.kind) {
      case "stop":
        say(`mount ${mount} is stopped for ${fault.seconds} s`);
        await cluster.pause(`mount${mount}`, fault.seconds, (ms) => pause(ms, signal));
        say(`mount ${mount} goes on`);
        break;
      case "partition":
        say(`mount ${mount} is cut off for ${fault.seconds} s`);
        await cluster.setCutOff(mount, true);
        await pause(fault.seconds * 1000, signal);
        await cluster.setCutOff(mount, false);
        say(`mount ${mount} is joined again`);
        break;
      case "restart":
        say("the nameserver is killed");
        await cluster.restartNameserver(() => pause(fault.seconds * 1000, signal));
        say("the nameserver is back");
        break;
    }
    await pause(QUIET_MS.least + randomInt(random, QUIET_MS.range), signal);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
