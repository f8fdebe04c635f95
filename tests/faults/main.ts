/**
 * `scripts/test faults`: real clusters that are disturbed in every way that they must bear, with programs on them that
 * know what must be there.
 *
 *     scripts/test faults [--runs N] [--seed S] [--seconds N] [--only KIND,...] [--json] [--log DIR]
 *
 *     --runs N         runs, each with a cluster of its own and the next seed (1)
 *     --seed S         of the first run (from the clock). The same seed plans the same faults; their timing differs
 *     --seconds N      how long a cluster is disturbed (60)
 *     --only KIND,...  only these faults; their names are in faults.ts
 *     --json           one line of JSON a run, and nothing else
 *     --log DIR        keeps the processes' logs of a run that failed as DIR/SEED.log
 *
 * Needs root, FUSE, ip(8) and gcc. Exit code 0: all is as it must be. 1: something is not. 2: wrong usage.
 */

import { missingKinds, whatIsMissing } from "./available.ts";
import { FAULT_KINDS, type FaultKind } from "./faults.ts";
import { formatPauses, mergePauses } from "./pauses.ts";
import { runOnce, type RunResult } from "./run.ts";

interface Arguments {
  readonly runs: number;
  readonly seed: number;
  readonly seconds: number;
  readonly kinds: readonly FaultKind[];
  readonly json: boolean;
  readonly logDir: string | undefined;
}

function usage(message: string): never {
  console.error(`faults: ${message}`);
  console.error("usage: scripts/test faults [--runs N] [--seed S] [--seconds N] [--only KIND,...] [--json]");
  Deno.exit(2);
}

function parseArguments(args: readonly string[]): Arguments {
  const values = new Map<string, string>();
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (arg === "--json") values.set(arg, "");
    else if (["--runs", "--seed", "--seconds", "--only", "--log"].includes(arg)) {
      values.set(arg, args[++i] ?? usage(`${arg} needs a value`));
    } else usage(`unknown argument ${arg}`);
  }
  const number = (flag: string, otherwise: number): number => {
    const value = Number(values.get(flag) ?? otherwise);
    return Number.isInteger(value) && value > 0 ? value : usage(`${flag} takes a number`);
  };
  const only = values.get("--only")?.split(",");
  const unknown = only?.find((kind) => !(FAULT_KINDS as readonly string[]).includes(kind));
  if (unknown !== undefined) usage(`unknown fault ${unknown}; there are ${FAULT_KINDS.join(", ")}`);
  return {
    runs: number("--runs", 1),
    seed: number("--seed", Date.now() % 1_000_000),
    seconds: number("--seconds", 60),
    kinds: (only as FaultKind[] | undefined) ?? FAULT_KINDS,
    json: values.has("--json"),
    logDir: values.get("--log"),
  };
}

function formatResult(
  { seed, injected, operations, files, blocks, longestPauses, problems }: RunResult,
): string {
  const faults = Object.entries(injected).map(([kind, count]) => `${count} ${kind}`).join(", ");
  const done = Object.entries(operations ?? {}).map(([kind, count]) => `${count} ${kind}`).join(", ");
  return [
    `seed ${seed}: ${problems.length === 0 ? "ok" : "FAILED"}; faults: ${faults || "none"}`,
    `operations: ${done || "unknown"}; ${files} files, ${blocks} blocks at the end`,
    `longest pauses: ${formatPauses(longestPauses) || "none"}`,
  ].join("; ");
}

async function main({ runs, seed, seconds, kinds: wanted, json, logDir }: Arguments): Promise<number> {
  const missing = await whatIsMissing();
  if (missing !== undefined) {
    console.error(`faults: needs ${missing}, which is not here`);
    return 1;
  }
  const impossible: readonly string[] = await missingKinds();
  const kinds = wanted.filter((kind) => !impossible.includes(kind));
  if (kinds.length < wanted.length && !json) console.log(`left out here: ${impossible.join(", ")}`);
  if (kinds.length === 0) return 1;
  const results: RunResult[] = [];
  for (let i = 0; i < runs; i++) {
    const result = await runOnce({
      seed: seed + i,
      seconds,
      kinds,
      tell: json ? () => {} : (line) => console.log(`  ${line}`),
    });
    const { log, ...rest } = result;
    results.push(rest);
    if (log !== undefined && logDir !== undefined) {
      await Deno.mkdir(logDir, { recursive: true });
      await Deno.writeTextFile(`${logDir}/${result.seed}.log`, log);
    }
    if (json) console.log(JSON.stringify(rest));
    else {
      console.log(formatResult(rest));
      for (const pause of rest.worstPauses) console.log(`  long: ${pause}`);
      for (const problem of rest.problems) console.log(`  ${problem}`);
    }
  }
  const failed = results.filter(({ problems }) => problems.length > 0);
  if (!json && runs > 1) {
    console.log(
      `longest pauses: ${formatPauses(mergePauses(results.map(({ longestPauses }) => longestPauses)))}`,
    );
    console.log(`${runs - failed.length} of ${runs} runs ok`);
    if (failed.length > 0) console.log(`failed seeds: ${failed.map((result) => result.seed).join(", ")}`);
  }
  return failed.length === 0 ? 0 : 1;
}

Deno.exit(await main(parseArguments(Deno.args)));
