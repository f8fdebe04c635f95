/**
 * A tree of source-like files of 1 to 200 KiB, unpacked, searched, copied, removed and committed by the programs that
 * people use for it. The tree is made from a seed, once in a run, on a local disk; what the programs have made is
 * compared with it.
 */

import { randomInt, SeededRandom } from "../../../base/random.ts";
import { LateError, removeTree, runProgram } from "./programs.ts";
import { type BenchContext, check, scaled, type Timed, type Workload } from "./workload.ts";

const FILES = 3_000;
const FILES_MIN = 50;
const FILE_BYTES_MAX = 200_000;
/** Of the logarithm of a file's size, as source trees have it: 8.5 KB in the mean. */
const SIZE_MEAN = 8.2;
const SIZE_DEVIATION = 1.3;
/** Each so many files one ends with the word that is searched for: who finds them all has read all of them. */
const NEEDLE = "nosuchstringxyz";
const NEEDLE_EVERY = 50;

/** Making what a workload needs may take so long. */
const UNTIMED_MS = 150_000;

const treeOf = (context: BenchContext) => `${context.dir}/tree`;
const copyOf = (context: BenchContext) => `${context.dir}/copy`;
const filesOf = (context: BenchContext) => scaled(context, FILES, FILES_MIN);

interface Source {
  readonly tar: string;
  /** What the archive has, unpacked. */
  readonly dir: string;
}

async function source(context: BenchContext): Promise<Source> {
  const base = `${context.scratch}/source`;
  const result = { tar: `${base}/tree.tar`, dir: `${base}/tree` };
  if (isThere(result.tar)) return result;
  const making = `${base}.making`;
  await removeTree(making);
  const random = new SeededRandom(1);
  const noise = new Uint8Array(FILE_BYTES_MAX * 2);
  for (let i = 0; i < noise.length; i++) noise[i] = 32 + randomInt(random, 95);
  for (let i = 0; i < filesOf(context); i++) {
    const dir = `${making}/tree/p${i % 40}/q${i % 7}`;
    Deno.mkdirSync(dir, { recursive: true });
    const normal = Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
    const bytes = Math.min(FILE_BYTES_MAX, 1 + Math.floor(Math.exp(SIZE_MEAN + SIZE_DEVIATION * normal)));
    const start = randomInt(random, noise.length - bytes);
    const content = noise.slice(start, start + bytes + NEEDLE.length).subarray(0, bytes);
    const needle = i % NEEDLE_EVERY === 0 ? new TextEncoder().encode(`\n${NEEDLE}\n`) : new Uint8Array();
    const all = new Uint8Array(content.length + needle.length);
    all.set(content);
    all.set(needle, content.length);
    Deno.writeFileSync(`${dir}/f${i}.c`, all);
  }
  await runProgram("tar", ["cf", `${making}/tree.tar`, "-C", making, "tree"]);
  await Deno.rename(making, base);
  return result;
}

function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

/**
 * How long `work` took, for `files` files. When its time was over, what `count` finds was done; without `count` that is an
 * error.
 */
async function timePrograms(
  context: BenchContext,
  files: number,
  work: (limitMs: number) => Promise<unknown>,
  count?: () => number,
): Promise<Timed> {
  const startMs = performance.now();
  let cut = false;
  try {
    await work(context.limitMs);
  } catch (error) {
    if (!(error instanceof LateError) || count === undefined) throw error;
    cut = true;
  }
  const seconds = (performance.now() - startMs) / 1000;
  return { done: cut ? count!() : files, seconds, cut };
}

function countFiles(dir: string): number {
  let files = 0;
  if (!isThere(dir)) return 0;
  for (const entry of Deno.readDirSync(dir)) {
    if (entry.isDirectory) files += countFiles(`${dir}/${entry.name}`);
    else files++;
  }
  return files;
}

async function unpack(context: BenchContext): Promise<Timed> {
  const { tar, dir } = await source(context);
  await removeTree(treeOf(context));
  await removeTree(unpackedMark(context));
  const timed = await timePrograms(
    context,
    filesOf(context),
    (limitMs) => runProgram("tar", ["xf", tar, "-C", context.dir], { limitMs }),
    () => countFiles(treeOf(context)),
  );
  if (!timed.cut) {
    await compare(dir, treeOf(context));
    Deno.writeTextFileSync(unpackedMark(context), "");
  }
  return timed;
}

/** There when the tree is whole. */
const unpackedMark = (context: BenchContext) => `${context.dir}/tree.unpacked`;

async function compare(expected: string, actual: string): Promise<void> {
  const differences = await runProgram("diff", ["-rq", "--exclude=.git", expected, actual], {
    codes: [0, 1],
  });
  check(differences === "", differences.split("\n", 1)[0]!);
}

/** The tree is there, without what git has made of it. */
async function haveTree(context: BenchContext): Promise<void> {
  if (!isThere(unpackedMark(context))) {
    const { cut } = await unpack({ ...context, limitMs: Math.max(context.limitMs, UNTIMED_MS) });
    if (cut) throw new Error("the tree could not be unpacked in time");
  }
  await removeTree(`${treeOf(context)}/.git`);
}

async function copy(context: BenchContext): Promise<Timed> {
  await haveTree(context);
  await removeTree(copyOf(context));
  return await timePrograms(
    context,
    filesOf(context),
    (limitMs) => runProgram("cp", ["-a", treeOf(context), copyOf(context)], { limitMs }),
    () => countFiles(copyOf(context)),
  );
}

/** Settings of whoever runs this count for nothing. */
const GIT_ENV = {
  GIT_CONFIG_GLOBAL: "/dev/null",
  GIT_CONFIG_NOSYSTEM: "1",
  GIT_AUTHOR_NAME: "a",
  GIT_AUTHOR_EMAIL: "a@b",
  GIT_COMMITTER_NAME: "a",
  GIT_COMMITTER_EMAIL: "a@b",
};

export const TREES: readonly Workload[] = [
  {
    name: "untar",
    unit: "files/s",
    about: "tar x of 3000 files in 280 directories",
    needs: ["tar", "diff"],
    run: unpack,
  },
  {
    name: "grep_r_cold",
    unit: "files/s",
    about: "grep -r through them",
    isCold: true,
    needs: ["tar", "diff", "grep"],
    async run(context) {
      await haveTree(context);
      const files = filesOf(context);
      await context.dropCaches();
      let found = "";
      const timed = await timePrograms(context, files, async (limitMs) => {
        found = await runProgram("grep", ["-rl", NEEDLE, treeOf(context)], { limitMs, codes: [0, 1] });
      });
      const count = found.split("\n").length - 1;
      check(count === Math.ceil(files / NEEDLE_EVERY), `grep has found ${count} files`);
      return timed;
    },
  },
  {
    name: "cp_a",
    unit: "files/s",
    about: "cp -a of them",
    needs: ["tar", "diff", "cp"],
    async run(context) {
      const timed = await copy(context);
      if (!timed.cut) await compare((await source(context)).dir, copyOf(context));
      return timed;
    },
  },
  {
    name: "rm_rf",
    unit: "files/s",
    about: "rm -rf of the copy",
    needs: ["tar", "diff", "cp", "rm"],
    async run(context) {
      if (!isThere(copyOf(context))) await copy(context);
      const files = countFiles(copyOf(context));
      const timed = await timePrograms(
        context,
        files,
        (limitMs) => runProgram("rm", ["-rf", copyOf(context)], { limitMs }),
        () => files - countFiles(copyOf(context)),
      );
      check(timed.cut || !isThere(copyOf(context)), "the copy is still there");
      return timed;
    },
  },
  {
    name: "git_init_add_commit",
    unit: "s",
    about: "git init, add, commit and status of the tree",
    needs: ["tar", "diff", "git"],
    async run(context) {
      await haveTree(context);
      const files = filesOf(context);
      const git = (args: readonly string[], limitMs: number) =>
        runProgram("git", args, { cwd: treeOf(context), env: GIT_ENV, limitMs });
      const timed = await timePrograms(context, files, async (limitMs) => {
        for (const args of [["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["status"]]) {
          await git(args, limitMs);
        }
      });
      const changes = await git(["status", "--porcelain"], context.limitMs);
      check(changes === "", `git status shows ${changes.split("\n", 1)[0]}`);
      const tracked =
        (await git(["ls-tree", "-r", "--name-only", "HEAD"], context.limitMs)).split("\n").length - 1;
      check(tracked === files, `git has ${tracked} files of ${files}`);
      return timed;
    },
  },
];
