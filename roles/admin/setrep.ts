/**
 * `mfs setrep`: gives a file, or a directory and what is made in it from then on, another number of replicas; with
 * `recursive` all that is below as well. The walk is driven from here, page by page.
 * Bounded: it keeps a page of each directory on the way down, and asks for ADMIN_BATCH_MAX inodes at a time.
 */

import { type Dialer, tcpDialer } from "../../wire/dialer.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { InodeId } from "../../wire/ids.ts";
import { ADMIN_BATCH_MAX } from "../../wire/messages/admin.ts";
import { DT_DIR, DT_REG, S_IFDIR, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import { type AdminClient, withNameserver } from "./client.ts";
import { formatPath, type FsPath, locate, resolve } from "./fs_path.ts";
import { EXIT_FAILURE, printLine } from "./process.ts";
import { Progress } from "./progress.ts";

const PAGE = 1024;
/** A batch may wait for clients that are silent. */
const SET_TIMEOUT_MS = 300_000;
const POLL_MS = 500;

export interface SetrepOptions {
  /** 0: the cluster's default. */
  readonly replication: number;
  readonly recursive: boolean;
  /** Waits until blocks have their replicas, so long at most. */
  readonly waitMs?: number;
  readonly dialer?: Dialer;
  readonly progress?: (label: string) => Progress;
}

export interface SetrepResult {
  readonly path: string;
  /** As it was set, and what it means. */
  readonly replication: number;
  readonly replicas: number;
  /** Files and directories that were looked at, and those that had another replication before. */
  readonly inodes: number;
  readonly changed: number;
  readonly hosts: number;
  /** Only with `waitMs`: blocks that do not have their replicas yet. */
  readonly pending?: number;
  readonly warning?: string;
}

/** Errors: as resolve; EINVAL for what has no replicas. */
export async function setrep({ nameserver, path }: FsPath, options: SetrepOptions): Promise<SetrepResult> {
  return await withNameserver(
    nameserver,
    "setrep",
    (client) => run(client, path, options),
    options.dialer ?? tcpDialer,
  );
}

async function run(client: AdminClient, path: Uint8Array, options: SetrepOptions): Promise<SetrepResult> {
  const { replication, recursive, waitMs } = options;
  const { ino, attributes } = await resolve(client, path);
  const type = attributes.mode & S_IFMT;
  if (type !== S_IFDIR && type !== S_IFREG) {
    throw new FsError(
      "EINVAL",
      `${formatPath(path)} has no blocks: only files and directories have replicas`,
      {
        op: "setrep",
      },
    );
  }
  const newProgress = options.progress ?? ((label) => new Progress({ label, unit: "inodes" }));
  const walk = () => recursive && type === S_IFDIR ? inodesBelow(client, ino) : [[ino]];
  let inodes = 0;
  let changed = 0;
  let hosts = 0;
  let replicas = replication;
  const setting = newProgress("setting");
  try {
    for await (const batch of walk()) {
      const reply = await client.admin.setReplication({ inodes: batch, replication }, {
        timeoutMs: SET_TIMEOUT_MS,
      });
      inodes += batch.length;
      changed += reply.changed;
      hosts = reply.hosts;
      replicas = reply.replication;
      setting.update(inodes);
    }
  } finally {
    setting.end();
  }
  const result = {
    path: formatPath(path),
    replication,
    replicas,
    inodes,
    changed,
    hosts,
    ...warningOf(replicas, hosts),
  };
  if (waitMs === undefined) return result;
  const waiting = newProgress("waiting for replicas");
  try {
    return { ...result, pending: await settle(client, walk(), inodes, performance.now() + waitMs, waiting) };
  } finally {
    waiting.end();
  }
}

function warningOf(replicas: number, hosts: number): { readonly warning?: string } {
  if (replicas <= hosts) return {};
  const warning =
    `${replicas} replicas are wanted and ${hosts} host${hosts === 1 ? " is" : "s are"} up: blocks get ` +
    "the others when more hosts come";
  return { warning };
}

/** The directory and all files and directories below it; directories before what is in them. */
async function* inodesBelow({ nameserver }: AdminClient, top: InodeId): AsyncGenerator<InodeId[]> {
  yield [top];
  const stack: { readonly ino: InodeId; cookie: number }[] = [{ ino: top, cookie: 0 }];
  while (stack.length > 0) {
    const at = stack[stack.length - 1]!;
    const page = await readPage(nameserver, at);
    if (page.end) stack.pop();
    const last = page.entries.at(-1);
    if (last !== undefined) at.cookie = last.cookie;
    const wanted = page.entries.filter(({ type }) => type === DT_DIR || type === DT_REG);
    for (let i = 0; i < wanted.length; i += ADMIN_BATCH_MAX) {
      yield wanted.slice(i, i + ADMIN_BATCH_MAX).map(({ ino }) => ino);
    }
    for (const { ino, type } of wanted) if (type === DT_DIR) stack.push({ ino, cookie: 0 });
  }
}

async function readPage(
  nameserver: AdminClient["nameserver"],
  { ino, cookie }: { readonly ino: InodeId; readonly cookie: number },
) {
  try {
    return await nameserver.readDirectory({ ino, cookie, limit: PAGE, withInodes: false });
  } catch (error) {
    if (isErrno(error, "ENOENT")) return { entries: [], end: true }; // removed meanwhile
    throw error;
  }
}

/** Gives how many blocks still lack something when no more can be waited for. */
async function settle(
  { admin }: AdminClient,
  batches: AsyncIterable<InodeId[]> | Iterable<InodeId[]>,
  total: number,
  untilMs: number,
  progress: Progress,
): Promise<number> {
  let done = 0;
  let left = 0;
  for await (const inodes of batches) {
    for (;;) {
      const { pending, missing, wanted, hosts } = await admin.replicationState({ inodes });
      // What has no replica gets none, and where there are too few hosts there is no place.
      const isOver = pending <= missing || wanted > hosts || performance.now() > untilMs;
      if (isOver) {
        left += pending;
        break;
      }
      progress.update(done, total);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    done += inodes.length;
    progress.update(done, total);
  }
  return left;
}

/** For people. */
export function formatSetrep(result: SetrepResult): string {
  const { path, replication, replicas, inodes, changed, pending } = result;
  const what = replication === 0 ? `the cluster's default, ${replicas}` : `${replicas}`;
  const lines = [`${path}: replication ${what}; ${changed} of ${inodes} files and directories changed`];
  if (pending !== undefined) {
    lines.push(
      pending === 0 ? "all blocks have their replicas" : `${pending} blocks do not have their replicas yet`,
    );
  }
  return lines.join("\n");
}

const WAIT_SECONDS_DEFAULT = 600;

export interface SetrepFlags {
  readonly nameserver?: string;
  readonly recursive?: boolean;
  /** Seconds; true: the default. */
  readonly wait?: number | true;
  readonly json?: boolean;
}

/** The command: answers on stdout, and ends with EXIT_FAILURE when blocks were waited for in vain. */
export async function setrepCommand(replication: number, path: string, flags: SetrepFlags): Promise<void> {
  const { nameserver, recursive = false, wait, json = false } = flags;
  const seconds = wait === true ? WAIT_SECONDS_DEFAULT : wait;
  const result = await setrep(await locate(path, nameserver), {
    replication,
    recursive,
    ...seconds === undefined ? {} : { waitMs: seconds * 1000 },
  });
  printLine(json ? JSON.stringify(result) : formatSetrep(result));
  if (result.warning !== undefined && !json) printLine(`mfs: setrep: ${result.warning}`, Deno.stderr);
  if ((result.pending ?? 0) > 0) Deno.exit(EXIT_FAILURE);
}
