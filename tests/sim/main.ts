/**
 * Runs seeds of the simulated cluster:
 *
 *     scripts/test sim --seeds N [--from S] [--seconds T] [--trace] [--keep-going]
 *
 * A seed that fails is told with what was wrong; `--seeds 1 --from SEED --trace` shows all that happens in it.
 */

import { simulate } from "./run.ts";

const args = new Map<string, string>();
for (let i = 0; i < Deno.args.length; i++) {
  const name = Deno.args[i]!;
  const next = Deno.args[i + 1];
  if (next === undefined || next.startsWith("--")) args.set(name, "");
  else args.set(name, Deno.args[++i]!);
}
const from = Number(args.get("--from") ?? 1);
const seeds = Number(args.get("--seeds") ?? 1);
const limitMs = Number(args.get("--seconds") ?? Infinity) * 1000;
const startMs = performance.now();
const totals: Record<string, number> = {};
let failed = 0;
let done = 0;
for (let seed = from; seed < from + seeds && performance.now() - startMs < limitMs; seed++) {
  const { problems, counts } = await simulate(seed, args.has("--trace"));
  done++;
  for (const [name, count] of Object.entries(counts)) totals[name] = (totals[name] ?? 0) + count;
  if (problems.length === 0) continue;
  failed++;
  console.log(`seed ${seed}: ${problems.slice(0, 3).join("\n")}`);
  if (!args.has("--keep-going")) break;
}
const seconds = (performance.now() - startMs) / 1000;
console.log(JSON.stringify(totals));
console.log(`${done} seeds in ${seconds.toFixed(1)} s, ${failed} failed`);
Deno.exit(failed === 0 ? 0 : 1);
