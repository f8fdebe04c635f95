/**
 * Runs seeds of the simulated cluster:
 *
 *     scripts/test sim --seeds N [--from S] [--seconds T] [--jobs J] [--trace] [--keep-going] [--faults A,B]
 *
 * `--faults`: only these kinds of faults.ts.
 * A seed that fails is told with what was wrong and how to see all that happens in it. As many run side by side as there
 * are processors; each in a thread of its own, where nothing else happens.
 */

import { ALL_FAULTS, type Fault } from "./faults.ts";
import type { Outcome } from "./run.ts";
import type { SeedRequest } from "./seed_worker.ts";

const args = new Map<string, string>();
for (let i = 0; i < Deno.args.length; i++) {
  const name = Deno.args[i]!;
  const next = Deno.args[i + 1];
  if (next === undefined || next.startsWith("--")) args.set(name, "");
  else args.set(name, Deno.args[++i]!);
}
const from = Number(args.get("--from") ?? 1);
const seeds = Number(args.get("--seeds") ?? 1);
const trace = args.has("--trace");
const jobs = trace ? 1 : Math.min(seeds, Number(args.get("--jobs") ?? navigator.hardwareConcurrency));
const limitMs = Number(args.get("--seconds") ?? Infinity) * 1000;
if (![from, seeds, jobs, limitMs].every((value) => value > 0)) {
  console.error("mfs: scripts/test sim: --seeds, --from, --jobs and --seconds take a number above 0");
  Deno.exit(2);
}

const kinds = (args.get("--faults") ?? "").split(",").filter((name) => name !== "") as Fault[];
if (!kinds.every((kind) => ALL_FAULTS.includes(kind))) {
  console.error(`mfs: scripts/test sim: --faults takes some of ${ALL_FAULTS}`);
  Deno.exit(2);
}

const startMs = performance.now();
const totals: Record<string, number> = {};
let next = from;
let failed = 0;
let done = 0;
let events = 0;

function note(seed: number, { problems, counts, events: its, hash }: Outcome): void {
  done++;
  events += its;
  for (const [name, count] of Object.entries(counts)) totals[name] = (totals[name] ?? 0) + count;
  if (trace) console.log(`${its} events, hash ${hash}`);
  if (problems.length === 0) return;
  failed++;
  console.log(`seed ${seed}: ${problems.slice(0, 3).join("\n")}`);
  const only = kinds.length > 0 ? ` --faults ${kinds}` : "";
  console.log(`see: scripts/test sim --from ${seed}${only} --trace`);
}

function isOver(): boolean {
  return next >= from + seeds || performance.now() - startMs > limitMs ||
    (failed > 0 && !args.has("--keep-going"));
}

/** Runs seeds in a thread until there is none left to begin. */
function runSome(): Promise<void> {
  const worker = new Worker(import.meta.resolve("./seed_worker.ts"), { type: "module" });
  return new Promise<void>((resolve, reject) => {
    const ask = () => {
      if (isOver()) return resolve();
      const request: SeedRequest = { seed: next++, trace, kinds };
      worker.postMessage(request);
    };
    worker.onmessage = ({ data }: MessageEvent<{ seed: number; outcome: Outcome }>) => {
      note(data.seed, data.outcome);
      ask();
    };
    worker.onerror = ({ message }) => reject(new Error(message));
    ask();
  }).finally(() => worker.terminate());
}

await Promise.all(Array.from({ length: jobs }, runSome));
const seconds = (performance.now() - startMs) / 1000;
console.log(JSON.stringify(totals));
console.log(
  `${done} seeds (${events} events) in ${seconds.toFixed(1)} s, ` +
    `${Math.round(done / seconds * 60)} a minute, ${failed} failed`,
);
Deno.exit(failed === 0 ? 0 : 1);
