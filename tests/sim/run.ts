/** One run of a simulated cluster from one seed: programs work while things go wrong, then all heals and is looked at. */

import { randomInt, SeededRandom } from "../../base/random.ts";
import type { InodeId } from "../../wire/ids.ts";
import { Cluster } from "./cluster.ts";
import { ALL_FAULTS, type Fault, Faults } from "./faults.ts";
import { NamesWorkload } from "./names_workload.ts";
import { PAGE, PAGES, versionOf, Workload } from "./workload.ts";

export interface Outcome {
  readonly problems: readonly string[];
  readonly counts: Readonly<Record<string, number>>;
  readonly events: number;
  /** Of all events: equal when two runs were alike. */
  readonly hash: string;
}

/** Most runs are short, so that there are more of them; a few are long enough for servers to die and come back. */
const WORK_MS = [2_000, 2_000, 4_000, 4_000, 8_000, 20_000];
/** Files have up to PAGES registers: most grow over the limit where it is in the middle. */
const INLINE_LIMITS = [3 * PAGE, 5 * PAGE, 0, PAGES * PAGE];
/** Of so many seeds one is about names. */
const NAMES_EVERY = 4;
/** Of so many of the others one has a mount with a time-out. */
const SOFT_EVERY = 3;
const SOFT_TIMEOUT_MS = 1_500;
const PROGRAMS_END_MS = 200_000;
const SETTLE_MS = 300_000;

type Trace = (line: string) => void;

/**
 * Runs one seed. The same seed gives the same events, to the last. `trace` is told them. `kinds`: of faults; by default some
 * that the seed says.
 */
export async function simulate(
  seed: number,
  trace: Trace | null = null,
  kinds: readonly Fault[] = [],
): Promise<Outcome> {
  const restore = closeSources(seed);
  try {
    return await run(seed, trace, kinds);
  } finally {
    restore();
  }
}

/**
 * Takes away what would make two runs of a seed differ: real timers and clocks are not there, and the system's random
 * numbers come from the seed.
 */
function closeSources(seed: number): () => void {
  const random = new SeededRandom(seed ^ 0x5eed);
  const refuse = (name: string) => () => {
    throw new Error(`${name} has no place in a simulation`);
  };
  const { setTimeout, setInterval } = globalThis;
  const { random: mathRandom } = Math;
  const { now: dateNow } = Date;
  const performanceNow = performance.now;
  const { getRandomValues } = crypto;
  Object.assign(globalThis, { setTimeout: refuse("setTimeout"), setInterval: refuse("setInterval") });
  Math.random = refuse("Math.random");
  Date.now = refuse("Date.now");
  performance.now = refuse("performance.now");
  crypto.getRandomValues = <T extends ArrayBufferView | null>(values: T): T => {
    const bytes = values as unknown as Uint8Array;
    for (let i = 0; i < bytes.length; i++) bytes[i] = randomInt(random, 256);
    return values;
  };
  return () => {
    Object.assign(globalThis, { setTimeout, setInterval });
    Math.random = mathRandom;
    Date.now = dateNow;
    performance.now = performanceNow;
    crypto.getRandomValues = getRandomValues;
  };
}

async function run(seed: number, trace: Trace | null, only: readonly Fault[]): Promise<Outcome> {
  const isOfNames = seed % NAMES_EVERY === 0;
  const cluster = new Cluster({
    seed,
    dataservers: 3 + seed % 2,
    clients: 3,
    replication: seed % 5 === 0 ? 3 : 2,
    blockBytes: 4 * PAGE,
    inlineLimit: INLINE_LIMITS[(seed >> 1) % INLINE_LIMITS.length]!,
    softTimeoutMs: !isOfNames && seed % SOFT_EVERY === 0 ? SOFT_TIMEOUT_MS : undefined,
    trace,
  });
  const { simulation, problems } = cluster;
  const onRejection = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    const { reason } = event;
    problems.push(
      `a promise that nobody waits for failed: ${reason instanceof Error ? reason.stack : reason}`,
    );
    trace?.(problems.at(-1)!);
  };
  globalThis.addEventListener("unhandledrejection", onRejection);
  const workload = isOfNames ? new NamesWorkload(cluster) : new Workload(cluster);
  // Most seeds have a few kinds of faults only, which then meet more often.
  const some = ALL_FAULTS.filter(() => simulation.chance(0.4));
  const wanted = only.length > 0 ? only : some.length > 0 ? some : ALL_FAULTS;
  const kinds = isOfNames ? ["slow" as const, ...wanted] : wanted;
  const faults = new Faults(cluster, workload, kinds);
  const outcome = (): Outcome => ({
    problems,
    counts: { ...workload.counts, ...faults.counts },
    events: simulation.events,
    hash: simulation.hash,
  });
  try {
    await cluster.start();
    for (const client of cluster.clients) void workload.run(client);
    void faults.run();
    await simulation.run(() => problems.length > 0, simulation.pick(WORK_MS));
    workload.isStopping = faults.isStopping = true;
    await simulation.run(() => faults.isOver || problems.length > 0, 20_000);
    faults.heal();
    if (!await simulation.run(() => workload.running === 0 || problems.length > 0, PROGRAMS_END_MS)) {
      problems.push(`${workload.running} programs hang`);
    }
    if (problems.length > 0) return outcome();
    let wrong = "";
    if (
      !await simulation.run(() => (wrong = whatIsWrong(cluster, faults, workload.sources)) === "", SETTLE_MS)
    ) {
      problems.push(wrong);
    }
    const inlineProblem = cluster.inlineProblem();
    if (inlineProblem !== undefined) problems.push(inlineProblem);
    const gone = new Set(
      cluster.blocks().filter(({ extent }) => faults.isGone(extent)).map(({ ino }) => ino),
    );
    for (const client of cluster.patientClients) {
      if (client.life === null) void cluster.startClient(client);
      if (!await simulation.run(() => client.fs !== null, 60_000)) {
        throw new Error(`${client.host} is not mounted`);
      }
      await cluster.within(workload.readAll(client, gone), 200_000, `reading all on ${client.host}`);
    }
    for (const register of workload.registers) {
      const problem = register.check();
      if (problem !== undefined) problems.push(problem);
    }
  } catch (error) {
    problems.push(error instanceof Error ? error.stack ?? error.message : String(error));
  } finally {
    globalThis.removeEventListener("unhandledrejection", onRejection);
  }
  return outcome();
}

/** Empty when every block has its replicas, all alike. */
function whatIsWrong(cluster: Cluster, faults: Faults, sources: ReadonlySet<InodeId>): string {
  const wanted = Math.min(cluster.options.replication, cluster.dataservers.length);
  for (const { ino, extent } of cluster.blocks()) {
    if (!extent.written || faults.isGone(extent)) continue;
    const { block, volumes, generation, length } = extent;
    const what = `block ${block} of ${ino} generation ${generation} on ${volumes}`;
    if (volumes.length !== wanted) return `${what}: ${volumes.length} replicas`;
    let first: string | undefined;
    for (const volume of volumes) {
      const host = cluster.hostOf(volume);
      const record = host.disk.records.get(block);
      const file = host.fileOf(block);
      if (record === undefined || file === undefined) return `${what}: missing on ${host.host}`;
      if (record.generation !== generation) return `${what}: generation ${record.generation} on ${host.host}`;
      const bytes = new Uint8Array(length);
      bytes.set(file.bytes.subarray(0, length));
      const versions: (number | undefined)[] = [];
      for (let at = 0; at < length; at += PAGE) {
        versions.push(
          versionOf(bytes.subarray(at, at + PAGE), ino, (extent.start + at) / PAGE, sources.has(ino)),
        );
      }
      if (versions.includes(undefined)) return `${what}: wrong bytes on ${host.host}`;
      first ??= versions.join();
      if (versions.join() !== first) return `${what}: ${first} and ${versions} on ${host.host}`;
    }
  }
  return "";
}
