/**
 * Whether memory grows: `scripts/bench-memory --help`. The workloads of `mfs bench` run on a cluster of real processes again
 * and again; after each round, when all has been quiet for a while, the memory of each process is noted. Of the first third,
 * in which caches fill and code is compiled, nothing is concluded.
 */

import { Command } from "commander";
import { Cluster } from "../../tests/harness/cluster.ts";
import { run, sleep } from "../../tests/harness/command.ts";
import { MFS } from "../../tests/harness/process.ts";
import { number } from "./arguments.ts";
import { footprintOf } from "./footprint.ts";

const QUIET_MS = 5_000;
const ROLES = ["nameserver", "dataserver1", "dataserver2", "dataserver3", "mount"] as const;
/** Of the sizes of a whole `mfs bench`. */
const SCALE = "0.05";
const WARM_PART = 1 / 3;

interface Options {
  readonly minutes: number;
  readonly json: boolean;
}

interface Round {
  readonly minutes: number;
  /** Proportional set size by role, in MiB. */
  readonly mib: Readonly<Record<string, number>>;
}

function parse(args: readonly string[]): Options {
  return new Command("scripts/bench-memory")
    .description("Whether the memory of a cluster's processes grows under mixed load.")
    .option("--minutes <n>", "how long", number(0.1, 10_000), 30)
    .option("--json", "print JSON and nothing else", false)
    .parse([...args], { from: "user" }).opts<Options>();
}

async function main({ minutes, json }: Options): Promise<void> {
  const cluster = await Cluster.start({ mode: "roles", dataservers: 3, replication: 2 });
  const rounds: Round[] = [];
  const startMs = performance.now();
  const elapsed = () => (performance.now() - startMs) / 60_000;
  try {
    while (elapsed() < minutes) {
      const { code, stderr } = await run(MFS, [
        ...["bench", cluster.mountpoint, "--scale", SCALE, "--limit", "10"],
      ], { timeoutMs: 600_000 });
      if (code !== 0) throw new Error(`mfs bench: ${stderr}`);
      await sleep(QUIET_MS);
      const mib = Object.fromEntries(
        ROLES.map((role) => [role, Math.round(footprintOf([cluster.pidOf(role)]).pssMib)]),
      );
      const round = { minutes: Math.round(elapsed() * 10) / 10, mib };
      rounds.push(round);
      if (!json) {
        console.log(
          `${round.minutes.toFixed(1).padStart(6)} min  ${
            ROLES.map((role) => `${role} ${mib[role]} MiB`).join("  ")
          }`,
        );
      }
    }
  } finally {
    await cluster.discard();
  }
  const growth = Object.fromEntries(ROLES.map((role) => [role, growthOf(rounds, role)]));
  if (json) console.log(JSON.stringify({ rounds, mibPerHour: growth }));
  else {
    console.log(
      `growth after the first third: ${
        ROLES.map((role) => `${role} ${growth[role]?.toFixed(0) ?? "?"} MiB/h`).join(", ")
      }`,
    );
  }
}

/** Slope of the line that lies nearest to the rounds after the first third, in MiB an hour; undefined: too few. */
function growthOf(rounds: readonly Round[], role: string): number | undefined {
  const last = rounds.at(-1)?.minutes ?? 0;
  const points = rounds.filter(({ minutes }) => minutes > last * WARM_PART);
  if (points.length < 3) return undefined;
  const mean = (of: (round: Round) => number) =>
    points.reduce((sum, one) => sum + of(one), 0) / points.length;
  const x = mean(({ minutes }) => minutes);
  const y = mean(({ mib }) => mib[role]!);
  const spread = points.reduce((sum, { minutes }) => sum + (minutes - x) ** 2, 0);
  const slope = points.reduce((sum, { minutes, mib }) => sum + (minutes - x) * (mib[role]! - y), 0);
  return slope / spread * 60;
}

await main(parse(Deno.args));
Deno.exit(0);
