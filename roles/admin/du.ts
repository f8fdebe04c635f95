/**
 * `mfs du`: how many files and directories are below a path and what room they take, by a walk over the nameserver: no
 * client's caches are filled, and nothing is mounted.
 * Bounded: as walk, and a file of several names is counted once as long as there are no more than LINKED_MAX of them.
 */

import type { InodeId } from "../../wire/ids.ts";
import { type Attributes, S_IFDIR, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import { type AdminClient, withNameserver } from "./client.ts";
import { formatPath, type FsPath, locate, resolve } from "./fs_path.ts";
import { printLine } from "./process.ts";
import { Progress } from "./progress.ts";
import { clusterReplication } from "./replication.ts";
import { size, table } from "./units.ts";
import { walk } from "./walk.ts";

const LINKED_MAX = 1_000_000;

export interface Usage {
  /** Regular ones. */
  readonly files: number;
  /** With the one at the top. */
  readonly directories: number;
  /** Symbolic links, pipes, sockets and devices. */
  readonly others: number;
  /** Sizes of files, holes included. */
  readonly bytes: number;
  /** What the blocks of files hold, each block once. */
  readonly blockBytes: number;
  /** What all replicas take when each block has as many as its file should have. */
  readonly replicaBytes: number;
  /** What the nameserver keeps beside the inodes of small files. */
  readonly inlineBytes: number;
}

export interface UsageOfPath extends Usage {
  readonly path: string;
}

export interface DuResult extends UsageOfPath {
  /** Directories down to the depth that was asked for, each before the one that it is in. */
  readonly below: readonly UsageOfPath[];
  readonly seconds: number;
  /** Too many files have several names: some of them count for each name. */
  readonly linksCountedTwice?: true;
}

type Sum = { -readonly [Name in keyof Usage]: Usage[Name] };

export interface DuOptions extends FsPath {
  /** Directories so far below the path are told as well; 0: none. */
  readonly depth: number;
  readonly progress?: Progress;
}

/** Errors: as resolve. */
export async function du(options: DuOptions): Promise<DuResult> {
  return await withNameserver(options.nameserver, "du", (client) => run(client, options));
}

async function run(client: AdminClient, { path, depth, ...options }: DuOptions): Promise<DuResult> {
  const startMs = performance.now();
  const { ino, attributes } = await resolve(client, path);
  const default_ = await clusterReplication(client);
  const counter = new Counter(default_.replication);
  const below: UsageOfPath[] = [];
  let total = emptySum();
  let seen = 1;
  if ((attributes.mode & S_IFMT) === S_IFDIR) {
    const progress = options.progress ?? new Progress({ label: "counting", unit: "inodes" });
    const sums: Sum[] = [];
    try {
      for await (const step of walk(client, { ino, path })) {
        if (step.kind === "enter") sums.push({ ...emptySum(), directories: 1 });
        else if (step.kind === "entries") {
          for (const { inode } of step.entries) {
            if (inode !== undefined) counter.add(sums.at(-1)!, inode.attributes);
          }
          progress.update(seen += step.entries.length);
        } else {
          const sum = sums.pop()!;
          const parent = sums.at(-1);
          if (parent === undefined) total = sum;
          else {
            addSum(parent, sum);
            if (step.depth <= depth) below.push({ path: formatPath(step.path), ...sum });
          }
        }
      }
    } finally {
      progress.end();
    }
  } else counter.add(total, attributes);
  return {
    path: formatPath(path),
    ...total,
    below,
    seconds: (performance.now() - startMs) / 1000,
    ...counter.isFull ? { linksCountedTwice: true } : {},
  };
}

class Counter {
  readonly #replication: number;
  readonly #linked = new Set<InodeId>();
  isFull = false;

  constructor(replication: number) {
    this.#replication = replication;
  }

  /** Directories count where they are entered. */
  add(sum: Sum, attributes: Attributes): void {
    const { ino, mode, nlink, allocatedBytes, inlineBytes = 0, replication } = attributes;
    const type = mode & S_IFMT;
    if (type === S_IFDIR || nlink > 1 && this.#isSeen(ino)) return;
    if (type !== S_IFREG) {
      sum.others++;
      return;
    }
    const blockBytes = allocatedBytes - inlineBytes;
    sum.files++;
    sum.bytes += attributes.size;
    sum.blockBytes += blockBytes;
    sum.replicaBytes += blockBytes * (replication || this.#replication);
    sum.inlineBytes += inlineBytes;
  }

  #isSeen(ino: InodeId): boolean {
    if (this.#linked.has(ino)) return true;
    if (this.#linked.size < LINKED_MAX) this.#linked.add(ino);
    else this.isFull = true;
    return false;
  }
}

function emptySum(): Sum {
  return { files: 0, directories: 0, others: 0, bytes: 0, blockBytes: 0, replicaBytes: 0, inlineBytes: 0 };
}

function addSum(sum: Sum, more: Usage): void {
  for (const key of Object.keys(sum) as (keyof Sum)[]) sum[key] += more[key];
}

/** For people. */
export function formatDu({ below, linksCountedTwice, ...top }: DuResult): string {
  const rows = [["FILES", "DIRECTORIES", "OTHERS", "SIZE", "IN BLOCKS", "REPLICAS", "INLINE", "PATH"]];
  for (const one of [...below, top]) {
    const counts = [one.files, one.directories, one.others].map(String);
    const sizes = [one.bytes, one.blockBytes, one.replicaBytes, one.inlineBytes].map(size);
    rows.push([...counts, ...sizes, one.path]);
  }
  const lines = table(rows);
  if (linksCountedTwice) {
    lines.push(`more than ${LINKED_MAX} files have several names: the others count for each name`);
  }
  return lines.join("\n");
}

export interface DuFlags {
  readonly nameserver?: string;
  readonly depth: number;
  readonly json?: boolean;
}

/** The command. Without a path: the whole file system of `nameserverDefault`, unless flags name another. */
export async function duCommand(
  path: string | undefined,
  nameserverDefault: string,
  { nameserver, depth, json = false }: DuFlags,
): Promise<void> {
  const at = path === undefined
    ? await locate("/", nameserver ?? nameserverDefault)
    : await locate(path, nameserver);
  const result = await du({ ...at, depth });
  printLine(json ? JSON.stringify(result) : formatDu(result));
}
