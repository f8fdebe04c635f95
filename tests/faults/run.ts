/** One run: a cluster, workers on it, faults for a while; then everything is compared. */

import { eventually, sh, within } from "../harness/command.ts";
import { MfsProcess } from "../harness/process.ts";
import { RoleCluster } from "../harness/role_cluster.ts";
import { randomInt, SeededRandom } from "../../base/random.ts";
import { checkFileSystem } from "./check.ts";
import { prepareVolume } from "./damage.ts";
import { isAllowed } from "./errors.ts";
import { type FaultKind, type Injected, Injector } from "./faults.ts";
import { healthy } from "./health.ts";
import { type LongestPauses, longestPauses, worstPauses } from "./pauses.ts";
import { compareReplicas } from "./replicas.ts";
import { buildWorker, type WorkerCounts, Workers } from "./workers.ts";

export interface RunOptions {
  readonly seed: number;
  readonly seconds: number;
  readonly kinds: readonly FaultKind[];
  /** A line for each thing that happens. */
  readonly tell: (line: string) => void;
}

export interface RunResult {
  readonly seed: number;
  readonly seconds: number;
  readonly injected: Readonly<Record<string, number>>;
  readonly operations?: WorkerCounts;
  readonly files: number;
  readonly blocks: number;
  readonly longestPauses: LongestPauses;
  /** Some that took very long, in words. */
  readonly worstPauses: readonly string[];
  /** Empty: all is as it must be. */
  readonly problems: readonly string[];
  /** The processes' logs, when something is wrong. */
  readonly log?: string;
}

const MOUNTS = 3;
const WORKERS = 4;
const SESSION_TTL_S = 4;
const DEAD_AFTER_S = 2;
const UNDONE_MS = 120_000;
const STOPPED_MS = 90_000;
const REPAIRED_MS = 120_000;
const VERIFIED_MS = 60_000;
const LOG_BYTES = 400_000;

/** Never rejects. */
export async function runOnce(options: RunOptions): Promise<RunResult> {
  const { seed, seconds, kinds, tell } = options;
  const random = new SeededRandom(seed);
  const dataservers = 3 + randomInt(random, 2);
  const replication = 2 + randomInt(random, 2);
  const problems: string[] = [];
  let operations: WorkerCounts | undefined;
  let files = 0;
  let blocks = 0;
  let cluster: RoleCluster | undefined;
  let workers: Workers | undefined;
  let injector: Injector | undefined;
  let log: string | undefined;
  let fresh: MfsProcess | undefined;
  tell(
    `seed ${seed}: ${dataservers} dataservers, ${replication} replicas, ${MOUNTS} mounts, ${WORKERS} workers`,
  );
  try {
    cluster = await RoleCluster.start({
      mounts: MOUNTS,
      dataservers,
      replication,
      networks: "mounts and dataservers",
      prepareVolume,
      nameserverFlags: ["--dead-after", String(DEAD_AFTER_S), "--session-ttl", String(SESSION_TTL_S)],
    });
    workers = Workers.start(await buildWorker(cluster.scratch), WORKERS, seed, cluster.mountpoints);
    injector = new Injector({ cluster, seed, kinds, tell });
    await inject(injector, seconds);
    tell("faults undone");
    operations = await workers.stop(STOPPED_MS);
    tell("workers stopped");
    const left = await healthy(cluster, REPAIRED_MS, { idle: true });
    tell("all blocks repaired");
    const mountpoint = `${cluster.scratch}/fresh`;
    await Deno.mkdir(mountpoint);
    fresh = await MfsProcess.start(
      ["mount", cluster.nameserver, mountpoint, "--foreground", "--host", "fresh"],
      {},
      cluster.scratch,
      [...cluster.networks!.enter(0), cluster.program] as [string, ...string[]],
    );
    files = await workers.verify(mountpoint, VERIFIED_MS);
    const names = Number(await sh(`find ${mountpoint} | wc -l`, { timeoutMs: VERIFIED_MS }));
    const { inodes } = await cluster.status();
    // Some kernel still knows them, or a mount has not told that they are closed.
    tell(`${files} files verified${inodes > names ? `; ${inodes - names} without a name are left` : ""}`);
    await fresh.stop();
    problems.push(...await checkFileSystem(cluster));
    tell("file system checked");
    const ended = cluster.ended();
    if (ended.length > 0) problems.push(`ended by themselves: ${ended.join(", ")}`);
    // Files without a name go with the mount that has them, and their replicas a moment later.
    await cluster.stopMounts();
    await healthy(cluster, REPAIRED_MS, { idle: true, left });
    tell("nothing left to do");
    await cluster.stop();
    const volumes = Array.from({ length: dataservers }, (_, i) => cluster!.volumeOf(i + 1));
    const compared = await compareReplicas(`${cluster.scratch}/nameserver`, volumes, replication);
    blocks = compared.blocks;
    problems.push(...compared.problems);
    tell(`${compared.replicas} replicas of ${blocks} blocks compared`);
  } catch (error) {
    problems.push(error instanceof Error ? error.message : String(error));
  }
  const injected = injector?.injected ?? [];
  if (workers !== undefined) {
    problems.push(...workers.wrongs);
    const bad = workers.errors.filter((error) => !isAllowed(error, injected));
    problems.push(...bad.map((error) => `not an error that may be: ${JSON.stringify(error)}`));
  }
  if (problems.length > 0) {
    log = [cluster?.log(LOG_BYTES), ...fresh === undefined ? [] : [`--- fresh\n${fresh.log}`]].join("\n");
  }
  workers?.kill();
  fresh?.kill();
  await cluster?.discard();
  return {
    seed,
    seconds,
    injected: countKinds(injected),
    ...(operations === undefined ? {} : { operations }),
    files,
    blocks,
    longestPauses: longestPauses(workers?.pauses ?? [], injected),
    worstPauses: worstPauses(workers?.pauses ?? [], injected),
    problems,
    ...(log === undefined ? {} : { log }),
  };
}

async function inject(injector: Injector, seconds: number): Promise<void> {
  const stopping = new AbortController();
  const running = injector.run(stopping.signal);
  let hasEnded = false;
  running.then(() => hasEnded = true, () => hasEnded = true);
  const endMs = performance.now() + seconds * 1000;
  await eventually(seconds * 1000 + 1_000, "the end", () => hasEnded || performance.now() > endMs);
  stopping.abort();
  await within(UNDONE_MS, "faults undone", running);
}

function countKinds(injected: readonly Injected[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { kind } of injected) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}
