/**
 * MaggieFS beside other file systems on one machine and one disk: `scripts/bench --help`.
 *
 * Each workload runs on all of them, one after the other, before the next workload begins: what else the machine does
 * hits all alike, so the ratios of one run count, whatever its figures are. The order changes from workload to workload.
 * All of them are set up in one directory and are gone afterwards, also after Ctrl-C.
 */

import { Command } from "commander";
import { BENCH_BYTES, missingProgram, selectWorkloads } from "../../roles/admin/bench/command.ts";
import { BenchRunner } from "../../roles/admin/bench/runner.ts";
import type { Workload } from "../../roles/admin/bench/workload.ts";
import { interruptible } from "../../roles/admin/interrupt.ts";
import { UsageError } from "../../roles/admin/process.ts";
import { absolutePath } from "../../roles/admin/self.ts";
import { size } from "../../roles/admin/units.ts";
import { statvfs } from "../../base/libc.ts";
import { clearMounts, removeScratch } from "../../tests/harness/scratch.ts";
import { number } from "./arguments.ts";
import { changesSince, formatChanges } from "./baseline.ts";
import { drawChart } from "./chart.ts";
import { CpuMeter, footprintOf, OthersMeter } from "./footprint.ts";
import { glusterfs } from "./peers/glusterfs.ts";
import { bindfs, local } from "./peers/local.ts";
import { mfs } from "./peers/mfs.ts";
import { moosefs } from "./peers/moosefs.ts";
import { missingPackages, type Peer, type PeerKind } from "./peers/peer.ts";
import { formatResults } from "./report.ts";
import {
  median,
  type PeerResult,
  readResults,
  type Results,
  type Value,
  type WorkloadResult,
} from "./results.ts";

const KINDS: readonly PeerKind[] = [local, bindfs, moosefs, glusterfs, mfs];
const IDLE_MS_MAX = 3_000;
/** Copies of all data: one of ext4 and bindfs, two of each cluster. */
const COPIES = 8;

interface Options {
  readonly peers: readonly string[];
  readonly dir?: string;
  readonly local?: string;
  readonly only: readonly string[];
  readonly skip: readonly string[];
  readonly cold: boolean;
  readonly scale: number;
  readonly limit: number;
  readonly repeat: number;
  readonly settle: number;
  readonly json?: string;
  readonly baseline?: string;
  readonly worst: number;
  readonly chart?: string;
}

const names = (text: string) => text.split(",").filter((name) => name !== "");

function parse(args: readonly string[]): Options {
  const program = new Command("scripts/bench")
    .description("Measures MaggieFS beside other file systems, in turn, workload by workload.")
    .option("--peers <names>", "what to measure, with commas between", names, KINDS.map(({ name }) => name))
    .option("--dir <dir>", "a directory on the disk to use (default: a temporary one)")
    .option("--local <dir>", "the directory that stands for ext4 (default: beside the others)")
    .option("--only <names>", "only these workloads", names, [])
    .option("--skip <names>", "not these", names, [])
    .option("--no-cold", "not those that begin with empty caches; nothing else on the machine is slowed down")
    .option("--scale <factor>", "multiplies counts and sizes", number(0.001, 100), 1)
    .option("--limit <seconds>", "a workload ends after so long", number(1, 3600), 60)
    .option("--repeat <n>", "rounds; the medians count", number(1, 100), 1)
    .option("--settle <seconds>", "memory is looked at again after so long", number(0, 600), 10)
    .option("--json <file>", "write the results here")
    .option(
      "--baseline <file>",
      "compare with what an earlier run has written; exit code 1 if something is worse",
    )
    .option("--worst <ratio>", "below that it is worse", number(0.01, 1), 0.7)
    .option("--chart <file>", "draw the ratios into this SVG file")
    .addHelpText("after", "\nExample: scripts/bench --peers ext4,mfs --scale 0.1 --json now.json");
  return program.parse([...args], { from: "user" }).opts<Options>();
}

/** All that can be found wrong before anything is started. */
function prepare(
  options: Options,
): { readonly kinds: readonly PeerKind[]; readonly workloads: readonly Workload[] } {
  const kinds = options.peers.map((name) => {
    const kind = KINDS.find((candidate) => candidate.name === name);
    if (kind !== undefined) return kind;
    throw new UsageError(
      `there is no peer ${name}; there are ${KINDS.map((known) => known.name).join(", ")}`,
    );
  });
  if (kinds.length === 0 || new Set(kinds).size < kinds.length) {
    throw new UsageError("--peers: name each once");
  }
  const missing = missingPackages(kinds);
  if (missing.length > 0) {
    throw new UsageError(
      `missing programs: apt-get install --no-install-recommends ${
        missing.join(" ")
      } (or leave peers out by --peers)`,
    );
  }
  const isPlain = kinds.every((kind) => kind === local);
  if (Deno.uid() !== 0 && (options.cold || !isPlain)) {
    throw new UsageError("run it as root: it mounts, and empties the kernel's caches (--no-cold: does not)");
  }
  const workloads = selectWorkloads(options.only, options.skip).filter(({ isCold }) =>
    options.cold || !isCold
  );
  if (workloads.length === 0) throw new UsageError("--no-cold leaves no workload");
  for (const workload of workloads) {
    const lacks = missingProgram(workload);
    if (lacks !== undefined) {
      throw new UsageError(`${workload.name}: ${lacks}: apt-get install it, or --skip`);
    }
  }
  return { kinds, workloads };
}

function makeBase(options: Options): string {
  const parent = options.dir === undefined ? {} : { dir: absolutePath(options.dir) };
  let base: string;
  try {
    base = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "mfs-bench-", ...parent }));
  } catch (error) {
    throw new UsageError(`--dir: ${error instanceof Error ? error.message : error}`);
  }
  const space = statvfs(base);
  const needed = BENCH_BYTES * COPIES * options.scale;
  if (typeof space !== "number" && space.availableBytes < needed) {
    Deno.removeSync(base);
    throw new UsageError(
      `${size(space.availableBytes)} are free, ${size(needed)} needed: give --dir or a smaller --scale`,
    );
  }
  return base;
}

interface Contestant {
  readonly name: string;
  readonly peer: Peer;
  readonly runner: BenchRunner;
  readonly cpu: CpuMeter;
  readonly pssIdleMib: number;
  readonly processes: number;
  cpuBusy: number;
}

const say = (text: string) => console.error(text);
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function compare(options: Options, signal: AbortSignal): Promise<Results> {
  const { kinds, workloads } = prepare(options);
  const base = makeBase(options);
  const started: { readonly kind: PeerKind; readonly peer: Peer }[] = [];
  const runners: BenchRunner[] = [];
  try {
    await Deno.mkdir(`${base}/scratch`);
    for (const kind of kinds) {
      signal.throwIfAborted();
      say(`setting up ${kind.name}`);
      const own = kind === local && options.local !== undefined
        ? Deno.realPathSync(absolutePath(options.local))
        : `${base}/${kind.name}`;
      if (own.startsWith(base)) await Deno.mkdir(own);
      started.push({ kind, peer: await kind.start(own) });
    }
    await sleep(Math.min(IDLE_MS_MAX, options.settle * 1000));
    const contestants: Contestant[] = [];
    for (const { kind, peer } of started) {
      const settings = { scratch: `${base}/scratch`, scale: options.scale, limitMs: options.limit * 1000 };
      const runner = await BenchRunner.start({ ...settings, dir: `${peer.dir}/bench-${Deno.pid}` }, signal);
      runners.push(runner);
      const { pssMib: pssIdleMib, processes } = footprintOf(peer.pids);
      contestants.push({
        name: kind.name,
        peer,
        runner,
        cpu: new CpuMeter(peer.pids),
        pssIdleMib,
        processes,
        cpuBusy: 0,
      });
    }
    const others = new OthersMeter();
    const measured = await measure(contestants, workloads, options.repeat);
    const othersShare = others.share();
    const after = contestants.map(({ peer }) => footprintOf(peer.pids).pssMib);
    signal.throwIfAborted();
    await sleep(options.settle * 1000);
    const peers: Record<string, PeerResult> = {};
    for (const [i, { name, peer, processes, pssIdleMib, cpu, cpuBusy }] of contestants.entries()) {
      peers[name] = {
        note: peer.note,
        processes,
        pssIdleMib,
        pssAfterMib: after[i]!,
        pssSettledMib: footprintOf(peer.pids).pssMib,
        cpuSecondsBusy: cpuBusy,
        cpuSecondsIdle: cpu.seconds() - cpuBusy,
      };
    }
    return {
      format: "mfs-bench-1",
      at: new Date().toISOString(),
      machine: {
        processors: navigator.hardwareConcurrency,
        memoryMib: Deno.systemMemoryInfo().total / 1024 / 1024,
        kernel: Deno.osRelease(),
      },
      othersShare,
      scale: options.scale,
      repeat: options.repeat,
      peers,
      workloads: measured,
    };
  } finally {
    // What is on a mount goes with its peer; what is not is removed by hand.
    for (const [i, { kind }] of started.entries()) {
      if (kind === local) await runners[i]?.close().catch((error) => say(`bench: ${error.message}`));
      else runners[i]?.abandon();
    }
    await clearMounts(base);
    for (const { peer } of started.toReversed()) {
      await peer.stop().catch((error) => say(`bench: ${error.message}`));
    }
    await removeScratch(base);
  }
}

async function measure(
  contestants: readonly Contestant[],
  workloads: readonly Workload[],
  repeat: number,
): Promise<WorkloadResult[]> {
  const samples = new Map<string, number[]>();
  const flaws = new Map<string, { cut?: boolean; error?: string }>();
  for (let round = 0; round < repeat; round++) {
    for (const [i, { name: workload, unit }] of workloads.entries()) {
      const shown: string[] = [];
      for (let turn = 0; turn < contestants.length; turn++) {
        const contestant = contestants[(turn + i + round) % contestants.length]!;
        const key = `${workload} ${contestant.name}`;
        const cpuBefore = contestant.cpu.seconds();
        const answer = await contestant.runner.run(workload);
        contestant.cpuBusy += contestant.cpu.seconds() - cpuBefore;
        if ("error" in answer) flaws.set(key, { error: answer.error });
        else {
          samples.set(key, [...samples.get(key) ?? [], answer.value]);
          if (answer.cut) flaws.set(key, { cut: true });
        }
        shown.push(`${contestant.name} ${"error" in answer ? answer.error : answer.value.toPrecision(4)}`);
      }
      say(
        `${round * workloads.length + i + 1}/${repeat * workloads.length} ${workload}, ${unit}: ${
          shown.join(", ")
        }`,
      );
    }
  }
  return workloads.map(({ name: workload, unit }) => {
    const peers: Record<string, Value> = {};
    for (const { name } of contestants) {
      const own = samples.get(`${workload} ${name}`) ?? [];
      peers[name] = { value: median(own), samples: own, ...flaws.get(`${workload} ${name}`) };
    }
    return { workload, unit, peers };
  });
}

async function main(): Promise<number> {
  const options = parse(Deno.args);
  // Read first: a mistyped name is told now, not in ten minutes.
  const baseline = options.baseline === undefined ? undefined : readResults(options.baseline);
  const results = await interruptible((signal) => compare(options, signal));
  console.log(formatResults(results));
  if (options.json !== undefined) {
    Deno.writeTextFileSync(options.json, JSON.stringify(results, null, 1) + "\n");
  }
  if (options.chart !== undefined) Deno.writeTextFileSync(options.chart, drawChart(results));
  const hasFailed = results.workloads.some(({ peers }) =>
    Object.values(peers).some(({ error }) => error !== undefined)
  );
  if (baseline === undefined) return hasFailed ? 1 : 0;
  const changes = changesSince(baseline, results, options.worst);
  console.log(formatChanges(changes, options.worst));
  return hasFailed || changes.some(({ isWorse }) => isWorse) ? 1 : 0;
}

try {
  Deno.exit(await main());
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  Deno.exit(error instanceof UsageError ? 2 : 1);
}
