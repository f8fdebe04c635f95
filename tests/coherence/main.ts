/**
 * `scripts/coherence`: the coherence checker on a cluster of its own.
 *
 *     scripts/coherence look SEED OPERATIONS [options]
 *     scripts/coherence race SEED SECONDS    [options]
 *
 *     --fault stop:SECONDS        stops a mount's process for a while, again and again (race only, as all faults)
 *     --fault partition:SECONDS   cuts a mount off from the servers for a while; as root
 *     --fault restart[:SECONDS]   kills the nameserver and starts it again; several --fault: one of them each time
 *     --mounts N                  mount processes (3)
 *     --dataservers N             (3)
 *     --replication N             (2)
 *     --networks                  network namespaces also without a partition
 *     --program PATH              another mfs than this source tree's
 *     --log                       the ends of the processes' logs, also when nothing is wrong
 *
 * All other options go to the checker; they are at the head of checker.c. Faults come from the seed. A mapping shows old
 * pages as long as its mount's process is stopped, since the kernel asks nobody: under stop there are no mapped reads.
 *
 * Exit code 0: nothing is wrong. 1: something is. 2: wrong usage.
 */

import { SeededRandom } from "../../base/random.ts";
import { buildChecker, runChecker } from "./checker.ts";
import { RoleCluster } from "../harness/role_cluster.ts";
import { type Fault, injectFaults, parseFault } from "./faults.ts";

/** What a checker may take beyond its time: set-up, checks, and operations that wait for servers to come back. */
const CHECKER_EXTRA_MS = 240_000;
/** A slow machine does as few operations as this in a second. */
const LOOK_OPERATIONS_PER_S = 5;

interface Arguments {
  readonly mode: "look" | "race";
  readonly seed: string;
  readonly amount: string;
  readonly faults: readonly Fault[];
  readonly mounts: number;
  readonly dataservers: number;
  readonly replication: number;
  readonly networks: boolean;
  readonly program: string | undefined;
  readonly log: boolean;
  readonly rest: readonly string[];
}

function usage(message: string): never {
  console.error(
    `coherence: ${message}\nusage: scripts/coherence look|race SEED OPERATIONS|SECONDS [options]`,
  );
  console.error("The options are at the head of tests/coherence/main.ts.");
  Deno.exit(2);
}

function parseArguments(args: readonly string[]): Arguments {
  const values = new Map<string, string[]>();
  const flags = new Set<string>();
  const rest: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (["--fault", "--mounts", "--dataservers", "--replication", "--program"].includes(arg)) {
      values.set(arg, [...values.get(arg) ?? [], args[++i] ?? usage(`${arg} needs a value`)]);
    } else if (arg === "--log" || arg === "--networks") flags.add(arg);
    else rest.push(arg);
  }
  const [mode, seed, amount, ...others] = rest;
  if (mode !== "look" && mode !== "race") usage("look or race comes first");
  if (!/^\d+$/.test(seed ?? "") || !/^\d+(\.\d+)?$/.test(amount ?? "")) usage("two numbers are wanted");
  const number = (flag: string, otherwise: number): number => {
    const value = Number(values.get(flag)?.at(-1) ?? otherwise);
    return Number.isInteger(value) && value > 0 ? value : usage(`${flag} takes a number`);
  };
  const faults = (values.get("--fault") ?? []).map((text) =>
    parseFault(text) ?? usage(`unknown fault ${text}`)
  );
  if (faults.length > 0 && mode === "look") usage("faults are for race");
  return {
    mode,
    seed: seed!,
    amount: amount!,
    faults,
    mounts: number("--mounts", 3),
    dataservers: number("--dataservers", 3),
    replication: number("--replication", 2),
    networks: flags.has("--networks") || faults.some(({ kind }) => kind === "partition"),
    program: values.get("--program")?.at(-1),
    log: flags.has("--log"),
    rest: others,
  };
}

async function main(given: Arguments): Promise<number> {
  const { mode, seed, amount, faults, mounts, dataservers, replication, networks, program } = given;
  const cluster = await RoleCluster.start({
    mounts,
    dataservers,
    replication,
    networks: networks ? "mounts" : "none",
    ...(program === undefined ? {} : { program }),
  });
  let code = 1;
  try {
    const checker = await buildChecker(cluster.scratch);
    const stopping = new AbortController();
    const injected = injectFaults(
      cluster,
      faults,
      new SeededRandom(Number(seed)),
      stopping.signal,
      console.log,
    );
    // A failure to inject is told when the checker has ended.
    const failure = injected.then(() => undefined, (error: unknown) => error);
    const options = [
      ...(faults.length > 0 ? ["--faults"] : []),
      ...(faults.some(({ kind }) => kind === "stop") ? ["--no-mapped"] : []),
      ...given.rest,
    ];
    const limitMs = CHECKER_EXTRA_MS +
      1000 * (mode === "race" ? Number(amount) : Number(amount) / LOOK_OPERATIONS_PER_S);
    try {
      const args = [mode, seed, amount, ...cluster.mountpoints, ...options];
      ({ code } = await runChecker(checker, args, limitMs, (text) => {
        Deno.stdout.writeSync(new TextEncoder().encode(text));
      }));
    } finally {
      stopping.abort();
    }
    const error = await failure;
    if (error !== undefined) throw error;
    const ended = cluster.ended();
    if (ended.length > 0) {
      console.log(`ended by themselves: ${ended.join(", ")}`);
      code = 1;
    }
  } catch (error) {
    console.error(error);
    code = 1;
  }
  if (given.log) console.log(cluster.log());
  await cluster.discard();
  return code;
}

Deno.exit(await main(parseArguments(Deno.args)));
