/**
 * Random operations on mounts of small clusters, compared with a file system of the local disk or with a model. The
 * exercisers are child programs with a time limit; this process never touches a mount.
 *
 * MFS_TEST_SEED=N runs that seed only, MFS_TEST_FULL=1 ten times as many. A failure prints the command that did it;
 * its seed and `--only LIST` (`-o LIST`) with fewer and fewer operations lead to what matters.
 */

import { hasProgram, run, sh } from "../harness/command.ts";
import { referenceDirectory } from "./reference.ts";
import { childArguments, type Mode, SmallCluster } from "./small_cluster_process.ts";

/** Neither a multiple of a page nor of a chunk of checksums, so that requests cross blocks at every offset. */
const BLOCK_BYTES = 100_000;
const LIMIT_MS = 60_000;
const FACTOR = Deno.env.get("MFS_TEST_FULL") === "1" ? 10 : 1;
const HERE = decodeURIComponent(new URL(".", import.meta.url).pathname);
const isRoot = Deno.uid() === 0;
const compiler = ["cc", "gcc", "clang"].find(hasProgram);

/** `count` seeds from `first` on, and those that once found something; or the one that was asked for. */
function seeds(first: number, count: number, ...known: number[]): number[] {
  const asked = Deno.env.get("MFS_TEST_SEED");
  if (asked !== undefined) return [Number(asked)];
  return [...known, ...Array.from({ length: count * FACTOR }, (_, i) => first + i)];
}

/** One way of running an exerciser. */
interface Exercise {
  readonly name: string;
  readonly seeds: readonly number[];
  /** Why it is left out. */
  readonly skip?: string | undefined;
  /** The program and its arguments. */
  command(seed: number, places: Places): Promise<readonly string[]>;
}

interface Places {
  readonly cluster: SmallCluster;
  /** On a local disk, not on the mount. */
  readonly reference: string;
}

const exercises = (isExt4: boolean): readonly Exercise[] => {
  const program = (file: string) => [Deno.execPath(), ...childArguments(`${HERE}${file}`)];
  const withoutCompiler = compiler === undefined ? "there is no C compiler" : undefined;
  const withoutExt4 = isExt4 ? undefined : "errno and link counts are compared with ext4, and there is none";
  const file = (seed: number, { cluster, reference }: Places, operations: number) => [
    ...[`${cluster.scratch}/file_exerciser`, `${cluster.mountpoints[0]}/file`, `${reference}/file`],
    ...[String(seed), String(operations)],
  ];
  const tree = (seed: number, { cluster, reference }: Places) => [
    ...program("tree_exerciser.ts"),
    ...[cluster.mountpoints[0], reference, String(seed), "1500"],
  ];
  const twoMounts = (seed: number, { cluster }: Places, operations: number) => [
    ...program("two_mounts_exerciser.ts"),
    ...[...cluster.mountpoints, String(seed), String(operations)],
  ];
  return [
    {
      name: "a file equals one on the local disk",
      seeds: seeds(1, 3),
      skip: withoutCompiler,
      command: async (seed, places) => file(seed, places, 500),
    },
    {
      name: "a file that another mount holds open equals one on the local disk",
      seeds: seeds(101, 1),
      skip: withoutCompiler,
      command: async (seed, places) => [
        ...file(seed, places, 250),
        ...["-h", `${places.cluster.mountpoints[1]}/file`],
      ],
    },
    {
      name: "a tree equals one on the local disk",
      seeds: seeds(201, 2),
      skip: withoutExt4,
      command: async (seed, places) => tree(seed, places),
    },
    {
      name: "a tree of several users equals one on the local disk",
      seeds: seeds(301, 2),
      skip: withoutExt4 ?? (isRoot ? undefined : "only root can be several users"),
      command: async (seed, places) => [...tree(seed, places), "--users"],
    },
    {
      name: "files that are open on two mounts hold what both wrote",
      // Punches and allocations by a mount whose picture of the size was out of date.
      seeds: seeds(401, 1, 1038625791, 787677232),
      command: async (seed, places) => twoMounts(seed, places, 250),
    },
    {
      name: "files that two mounts open in turn hold what both wrote",
      seeds: seeds(501, 1),
      command: async (seed, places) => [...twoMounts(seed, places, 300), "--away"],
    },
  ];
};

async function runExercise(exercise: Exercise, seed: number, places: Places): Promise<void> {
  const [name, ...args] = await exercise.command(seed, places);
  const { code, stdout, stderr } = await run(name!, args, { timeoutMs: LIMIT_MS, env: { NO_COLOR: "1" } })
    .catch((error) => ({ code: -1, stdout: "", stderr: String(error) }));
  if (code === 0) return;
  const command = [name, ...args].join(" ");
  throw new Error(`MFS_TEST_SEED=${seed} repeats this: exit code ${code} of ${command}\n${stdout}${stderr}`);
}

for (const mode of ["local", "tcp"] as const satisfies readonly Mode[]) {
  Deno.test({
    name: `random operations, ${mode}`,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async (test) => {
      await using cluster = await SmallCluster.start(mode, BLOCK_BYTES);
      const reference = await referenceDirectory(cluster.scratch);
      try {
        if (compiler !== undefined) {
          await sh(`${compiler} -O1 -w -o ${cluster.scratch}/file_exerciser ${HERE}file_exerciser.c`);
        }
        let isWell = true;
        for (const exercise of exercises(reference.isExt4)) {
          if (exercise.skip !== undefined) console.log(`skipped: ${exercise.name}: ${exercise.skip}`);
          for (const seed of exercise.seeds) {
            const passed = await test.step({
              name: `${exercise.name}, seed ${seed}`,
              ignore: exercise.skip !== undefined,
              sanitizeOps: false,
              sanitizeResources: false,
              fn: () => runExercise(exercise, seed, { cluster, reference: reference.dir }),
            });
            isWell &&= passed || exercise.skip !== undefined;
          }
        }
        if (!isWell) console.error(`--- end of the cluster's log\n${cluster.log.slice(-6000)}\n---`);
        await test.step("the cluster stops by itself", () => cluster.stop());
      } finally {
        await reference.remove();
      }
    },
  });
}
