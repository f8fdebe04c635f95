/**
 * System calls of all kinds by several processes on two mounts, all in one tree (shared_tree.c): afterwards both mounts show the
 * same tree, and the cluster is clean. For races there is no model; what single calls must answer the other exercisers tell.
 *
 *     scripts/test tree --seed S --calls N [--processes P] [--tcp] [--options LIST]
 *
 * N is for each process. Every third process is an ordinary user's. LIST is what both mounts are given with -o. Exit code 1: an error that may not be,
 * different trees, or a file system that is not clean.
 */

import { hasProgram, run, sh } from "../harness/command.ts";
import { mfs } from "../harness/cluster.ts";
import { SmallCluster } from "./small_cluster_process.ts";

/** Neither a multiple of a page nor of a chunk of checksums. */
const BLOCK_BYTES = 50_000;
/** On an overloaded machine, where all wait for each other. */
const CALL_MS_MAX = 100;
const START_MS_MAX = 20_000;
const LOOK_MS = 120_000;
const USER = 1000;
const SOURCE = decodeURIComponent(new URL("shared_tree.c", import.meta.url).pathname);
const DIFFERENCES_SHOWN = 10;

export interface Settings {
  readonly seed: number;
  /** Of each process. */
  readonly calls: number;
  readonly processes: number;
  readonly mode: "local" | "tcp";
  readonly options: string;
}

/** Calls that were done, those that were refused, and those that got ESTALE, by kind. */
export type Counts = Map<string, { done: number; refused: number; stale: number }>;

export const compiler: string | undefined = ["cc", "gcc", "clang"].find(hasProgram);
const isRoot = Deno.uid() === 0;

/** Everything that can be seen of a tree but times of access; a line each. */
async function look(dir: string): Promise<string[]> {
  const script = `cd ${dir}
    find . -printf '%p %y %i %m %n %U %G %s %b %T@ %C@ %l\\n'
    find . -type f -exec sha1sum {} +
    getfattr -R -P -h -d -m - -e hex . 2>/dev/null | awk '/^# file: /{file=$3} /=/{print file, $0}'`;
  const { code, stdout, stderr } = await run("bash", ["-c", script], { timeoutMs: LOOK_MS });
  if (code !== 0 || stderr !== "") throw new Error(`${dir} can't be looked at: ${stderr}`);
  return stdout.split("\n").filter((line) => line !== "").sort();
}

function compare(here: readonly string[], there: readonly string[]): void {
  const [first, second] = [new Set(here), new Set(there)];
  const only = [
    ...here.filter((line) => !second.has(line)).map((line) => `first mount:  ${line}`),
    ...there.filter((line) => !first.has(line)).map((line) => `second mount: ${line}`),
  ];
  if (only.length === 0) return;
  throw new Error(
    `${only.length} differences between the mounts:\n${only.slice(0, DIFFERENCES_SHOWN).join("\n")}`,
  );
}

/** Runs the processes, and compares; what they did. Errors tell what is wrong. */
export async function shareTree(cluster: SmallCluster, settings: Settings): Promise<Counts> {
  const program = `${cluster.scratch}/shared_tree`;
  await sh(`${compiler} -O1 -w -o ${program} ${SOURCE}`);
  const [here, there] = cluster.mountpoints.map((mountpoint) => `${mountpoint}/shared`) as [string, string];
  await sh(`timeout 20 bash -c 'mkdir ${here}; chmod 777 ${here}'`);
  const running = Array.from({ length: settings.processes }, (_, i) => {
    const seed = settings.seed * 1000 + i;
    const user = isRoot && i % 3 === 2 ? USER : 0;
    const args = [[here, there][i % 2]!, String(seed), String(settings.calls), String(user)];
    return run(program, args, { timeoutMs: START_MS_MAX + settings.calls * CALL_MS_MAX });
  });
  const counts: Counts = new Map();
  const wrong: string[] = [];
  for (const [i, { code, stdout, stderr }] of (await Promise.all(running)).entries()) {
    if (code !== 0) wrong.push(`process ${i} on mount ${i % 2 + 1}, exit code ${code}: ${stderr}`);
    for (const line of stdout.split("\n").filter((line) => line !== "")) {
      const [kind, done, refused, stale] = line.split(" ");
      const count = counts.get(kind!) ?? { done: 0, refused: 0, stale: 0 };
      count.done += Number(done);
      count.refused += Number(refused);
      count.stale += Number(stale);
      counts.set(kind!, count);
    }
  }
  if (wrong.length > 0) throw new Error(wrong.join("\n"));
  compare(await look(here), await look(there));
  const { code, stdout } = await mfs(["fsck", "--nameserver", cluster.nameserver], LOOK_MS);
  if (code !== 0) throw new Error(`fsck has found something:\n${stdout}`);
  await sh(`timeout 60 rm -rf ${there}`);
  const left = await sh(`timeout 20 ls -A ${cluster.mountpoints[0]}`);
  if (left !== "") throw new Error(`removed on the second mount, and left on the first: ${left}`);
  return counts;
}

/** Calls, and those of them that got ESTALE. */
export function sums(counts: Counts): [number, number] {
  const stale = [...counts.values()].reduce((sum, count) => sum + count.stale, 0);
  return [[...counts.values()].reduce((sum, { done, refused }) => sum + done + refused, stale), stale];
}

function parse(args: readonly string[]): Settings {
  const numbers = { seed: 1, calls: 20_000, processes: 6 };
  let [mode, options]: [Settings["mode"], string] = ["local", ""];
  for (let i = 0; i < args.length; i++) {
    const name = args[i]!.slice(2);
    if (args[i] === "--tcp") mode = "tcp";
    else if (args[i] === "--options" && args[i + 1] !== undefined) options = args[++i]!;
    else if (args[i]!.startsWith("--") && name in numbers && Number(args[i + 1]) > 0) {
      numbers[name as keyof typeof numbers] = Number(args[++i]);
    } else {
      console.error("usage: tree --seed S --calls N [--processes P] [--tcp] [--options LIST]");
      Deno.exit(2);
    }
  }
  return { ...numbers, mode, options };
}

async function main(settings: Settings): Promise<number> {
  if (compiler === undefined) {
    console.error("there is no C compiler: install gcc");
    return 2;
  }
  await using cluster = await SmallCluster.start(settings.mode, BLOCK_BYTES, [
    settings.options,
    settings.options,
  ]);
  try {
    const counts = await shareTree(cluster, settings);
    for (const [kind, { done, refused, stale }] of counts) {
      console.log(`${kind} ${done} done, ${refused} refused${stale > 0 ? `, ${stale} ESTALE` : ""}`);
    }
    const [calls, stale] = sums(counts);
    console.log(`${calls} calls, ${stale} of them ESTALE`);
    await cluster.stop();
  } catch (error) {
    console.error((error as Error).message);
    console.error(`seed ${settings.seed}\n--- end of the cluster's log\n${cluster.log.slice(-4000)}\n---`);
    return 1;
  }
  return 0;
}

if (import.meta.main) Deno.exit(await main(parse(Deno.args)));
