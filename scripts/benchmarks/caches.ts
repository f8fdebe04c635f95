/**
 * What caches bring and cost, measured on a cluster of real processes with two mounts, and beside it on a local directory,
 * in turn within one run: `scripts/bench-caches --help`.
 *
 * Rates of one client alone are shown as ratios to the local directory, with the requests of the kernel and the calls to
 * the nameserver that they took; a hand-over between two clients in microseconds and in round trips (a statfs(2), which
 * is one request and one call).
 */

import { Command } from "commander";
import { fetchStatus } from "../../roles/admin/status.ts";
import { RoleCluster } from "../../tests/harness/role_cluster.ts";
import { run } from "../../tests/harness/command.ts";
import { number } from "./arguments.ts";

const SOURCE = decodeURIComponent(new URL("./caches.c", import.meta.url).pathname);
/** Counters come with a renewal, about once a second. */
const COUNTERS_MS = 1_500;

interface Options {
  readonly seconds: number;
  readonly files: number;
  readonly json: boolean;
}

interface Counters {
  readonly requests: number;
  readonly calls: number;
}

interface Result {
  readonly name: string;
  readonly perSecond: number;
  readonly local: number;
  readonly ratio: number;
  readonly requestsPerOperation: number;
  readonly callsPerOperation: number;
}

function parse(args: readonly string[]): Options {
  return new Command("scripts/bench-caches")
    .description("What caches bring on one mount, and what a hand-over between two costs.")
    .option("--seconds <n>", "how long each operation is repeated", number(1, 3600), 4)
    .option("--files <n>", "how many files there are", number(1, 1_000_000), 2_000)
    .option("--json", "print JSON and nothing else", false)
    .parse([...args], { from: "user" }).opts<Options>();
}

async function measure(
  program: string,
  args: readonly string[],
  seconds: number,
): Promise<Record<string, number>> {
  const { code, stdout, stderr } = await run(program, args, { timeoutMs: 120_000 + 2_000 * seconds });
  if (code !== 0) throw new Error(`${args.join(" ")}: ${stderr}`);
  return JSON.parse(stdout);
}

/** What the first mount has counted, once it has told. */
async function countersOf(cluster: RoleCluster): Promise<Counters> {
  await new Promise((resolve) => setTimeout(resolve, COUNTERS_MS));
  const { sessions } = await fetchStatus(cluster.nameserver);
  const { counters } = sessions.find(({ mountpoint }) => mountpoint === cluster.mountpoints[0])!;
  const { renew: _, ...calls } = counters!.calls;
  return {
    requests: counters!.kernelRequests,
    calls: Object.values(calls).reduce((sum, count) => sum + count, 0),
  };
}

async function main({ seconds, files, json }: Options): Promise<void> {
  const cluster = await RoleCluster.start({ mounts: 2 });
  try {
    const program = `${cluster.scratch}/caches`;
    const compiled = await run("gcc", ["-O2", "-o", program, SOURCE], { timeoutMs: 60_000 });
    if (compiled.code !== 0) throw new Error(compiled.stderr);
    const local = `${cluster.scratch}/local`;
    await Deno.mkdir(local);
    const [mount1, mount2] = cluster.mountpoints as [string, string];
    const results: Result[] = [];
    for (
      const [name, args] of [
        ["stat", [files]],
        ["openread", [files]],
        ["list", [files]],
        ["read", [64]],
      ] as const
    ) {
      const ours = (dir: string, time: number) =>
        measure(program, [name, dir, String(args[0]), String(time)], time);
      await ours(mount1, 0.01); // makes the files
      const before = await countersOf(cluster);
      const { perSecond, operations } = await ours(mount1, seconds) as {
        perSecond: number;
        operations: number;
      };
      const after = await countersOf(cluster);
      const { perSecond: localPerSecond } = await ours(local, seconds) as { perSecond: number };
      results.push({
        name,
        perSecond,
        local: localPerSecond,
        ratio: perSecond / localPerSecond,
        requestsPerOperation: (after.requests - before.requests) / operations,
        callsPerOperation: (after.calls - before.calls) / operations,
      });
      if (!json) {
        const { ratio, requestsPerOperation, callsPerOperation } = results.at(-1)!;
        console.log(
          `${name.padEnd(10)} ${perSecond} /s, ${
            ratio.toFixed(2)
          } of local (${localPerSecond} /s); an operation took ` +
            `${requestsPerOperation.toFixed(4)} requests, ${callsPerOperation.toFixed(4)} calls`,
        );
      }
    }
    const pingPong = await measure(
      program,
      ["pingpong", mount1, mount2, String(seconds)],
      seconds,
    ) as unknown as Record<
      string,
      { readonly median: number; readonly p99: number }
    >;
    const roundTrips = pingPong["handOverUs"]!.median / pingPong["oneCallUs"]!.median;
    if (json) console.log(JSON.stringify({ alone: results, pingPong, roundTrips }));
    else {
      for (const [name, figure] of Object.entries(pingPong)) {
        if (typeof figure === "object") {
          console.log(`${name.padEnd(10)} ${figure.median} us, p99 ${figure.p99} us`);
        }
      }
      console.log(`a hand-over (write, then read elsewhere) is ${roundTrips.toFixed(1)} round trips`);
    }
  } finally {
    await cluster.discard();
  }
}

await main(parse(Deno.args));
Deno.exit(0);
