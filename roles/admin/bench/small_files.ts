/**
 * Many small files, a hundred in a directory: made, looked up, listed, read, renamed and removed, by plain system calls.
 * The files stay for the next workload; how many there are stands in a file beside them.
 */

import {
  close,
  cString,
  lstatSize,
  mkdir,
  O_CREAT,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  open,
  read,
  rename,
  unlink,
  write,
} from "../../../base/libc.ts";
import { randomBytes, SeededRandom } from "../../../base/random.ts";
import { removeTree } from "./programs.ts";
import { type BenchContext, check, must, scaled, type Timed, timedLoop, type Workload } from "./workload.ts";

const FILES = 2_000;
const FILES_PER_DIRECTORY = 100;
const FILE_BYTES = 4096;
const CONTENT = randomBytes(new SeededRandom(1), FILE_BYTES);
const CONTENT_WORDS = new Uint32Array(CONTENT.buffer);

const rootOf = (context: BenchContext) => `${context.dir}/small`;
const countFile = (context: BenchContext) => `${context.dir}/small.count`;

function pathsOf(context: BenchContext, count: number, prefix = ""): string[] {
  const root = rootOf(context);
  const directories = directoriesOf(scaled(context, FILES, FILES_PER_DIRECTORY));
  return Array.from({ length: count }, (_, i) => `${root}/${i % directories}/${prefix}${i}`);
}

const directoriesOf = (files: number) => Math.max(1, Math.floor(files / FILES_PER_DIRECTORY));

async function create(context: BenchContext): Promise<Timed> {
  const root = rootOf(context);
  await removeTree(root);
  const count = scaled(context, FILES, FILES_PER_DIRECTORY);
  Deno.mkdirSync(root);
  for (let i = 0; i < directoriesOf(count); i++) Deno.mkdirSync(`${root}/${i}`);
  const paths = pathsOf(context, count);
  const timed = timedLoop(context.limitMs, count, (i) => {
    const path = paths[i]!;
    const fd = must(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o644), "open", path);
    const written = write(fd, CONTENT);
    must(close(fd), "close", path);
    check(written === FILE_BYTES, `write(${path}) answered ${written}`);
  });
  Deno.writeTextFileSync(countFile(context), String(timed.done));
  return timed;
}

/** How many files there are now; they are made when there are none. */
async function existing(context: BenchContext): Promise<number> {
  try {
    return Number(Deno.readTextFileSync(countFile(context)));
  } catch {
    return (await create(context)).done;
  }
}

function readAll(context: BenchContext, paths: readonly string[]): Timed {
  // More than there is, so that a file that is too long is seen.
  const buffer = new Uint8Array(2 * FILE_BYTES);
  const words = new Uint32Array(buffer.buffer);
  return timedLoop(context.limitMs, paths.length, (i) => {
    const path = paths[i]!;
    const fd = must(open(path, O_RDONLY), "open", path);
    const length = read(fd, buffer);
    close(fd);
    check(length === FILE_BYTES, `read(${path}) answered ${length}`);
    for (let word = 0; word < CONTENT_WORDS.length; word++) {
      if (words[word] !== CONTENT_WORDS[word]) check(false, path);
    }
  });
}

/** Files below `dir`, each looked at. */
function walk(dir: string, onFile: (path: string) => void): void {
  for (const entry of Deno.readDirSync(dir)) {
    const path = `${dir}/${entry.name}`;
    if (entry.isDirectory) walk(path, onFile);
    else onFile(path);
  }
}

export const SMALL_FILES: readonly Workload[] = [
  {
    name: "create_4k_files",
    unit: "files/s",
    about: "open(O_CREAT), write of 4 KiB, close",
    run: create,
  },
  {
    name: "stat_warm",
    unit: "ops/s",
    about: "stat of files that were just made",
    async run(context) {
      const paths = pathsOf(context, await existing(context)).map(cString);
      return timedLoop(context.limitMs, paths.length, (i) => {
        const size = lstatSize(paths[i]!);
        if (size !== FILE_BYTES) check(false, `stat of file ${i} answered ${size}`);
      });
    },
  },
  {
    name: "walk_stat_cold",
    unit: "files/s",
    about: "listing all directories, and lstat of each file",
    isCold: true,
    async run(context) {
      const count = await existing(context);
      await context.dropCaches();
      const startMs = performance.now();
      let files = 0;
      walk(rootOf(context), (path) => {
        const size = lstatSize(cString(path));
        if (size !== FILE_BYTES) check(false, `stat of ${path} answered ${size}`);
        files++;
      });
      const seconds = (performance.now() - startMs) / 1000;
      check(files === count, `${files} files are listed of ${count}`);
      return { done: files, seconds, cut: false };
    },
  },
  {
    name: "open_read_4k_cold",
    unit: "files/s",
    about: "open, read of all, close",
    isCold: true,
    async run(context) {
      const paths = pathsOf(context, await existing(context));
      await context.dropCaches();
      return readAll(context, paths);
    },
  },
  {
    name: "open_read_4k_warm",
    unit: "files/s",
    about: "open, read of all, close, of files that were just read",
    async run(context) {
      const paths = pathsOf(context, await existing(context));
      readAll(context, paths);
      return readAll(context, paths);
    },
  },
  {
    name: "rename",
    unit: "ops/s",
    about: "rename within a directory",
    async run(context) {
      const count = await existing(context);
      const from = pathsOf(context, count).map(cString);
      const to = pathsOf(context, count, "r").map(cString);
      const timed = timedLoop(
        context.limitMs,
        count,
        (i) => must(rename(from[i]!, to[i]!), "rename", `file ${i}`),
      );
      for (let i = 0; i < timed.done; i++) must(rename(to[i]!, from[i]!), "rename", `file ${i}`);
      return timed;
    },
  },
  {
    name: "unlink",
    unit: "ops/s",
    about: "unlink",
    async run(context) {
      const paths = pathsOf(context, await existing(context)).map(cString);
      Deno.removeSync(countFile(context));
      const timed = timedLoop(
        context.limitMs,
        paths.length,
        (i) => must(unlink(paths[i]!), "unlink", `file ${i}`),
      );
      let left = 0;
      walk(rootOf(context), () => left++);
      check(left === paths.length - timed.done, `${left} files are left`);
      return timed;
    },
  },
  {
    name: "mkdir",
    unit: "ops/s",
    about: "mkdir of empty directories in one directory",
    async run(context) {
      const root = `${context.dir}/directories`;
      await removeTree(root);
      Deno.mkdirSync(root);
      const paths = Array.from({ length: scaled(context, FILES, 20) }, (_, i) => cString(`${root}/d${i}`));
      const timed = timedLoop(
        context.limitMs,
        paths.length,
        (i) => must(mkdir(paths[i]!, 0o755), "mkdir", `d${i}`),
      );
      const made = [...Deno.readDirSync(root)].length;
      check(made === timed.done, `${made} directories are there of ${timed.done}`);
      await removeTree(root);
      return timed;
    },
  },
];
