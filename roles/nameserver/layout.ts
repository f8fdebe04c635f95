/**
 * The nameserver's directory: `nameserver.json` says whose it is and in which layout, `db/` holds the namespace.
 * A directory of another layout, or of something else, is refused with one line and not touched.
 */

import { bytesOf } from "../../base/bytes.ts";
import { getegid, geteuid } from "../../base/libc.ts";
import { randomHexId } from "../../base/random.ts";
import { systemClock } from "../../base/clock.ts";
import { FsError } from "../../wire/errno.ts";
import { replaceFile, syncDirectory } from "../../base/durable_files.ts";
import { LevelJournal } from "./journal.ts";
import { Namespace } from "./namespace.ts";
import { makeRoot } from "./operations.ts";

export const LAYOUT_VERSION = 1;
const KIND = "mfs-nameserver";
const OP = "nameserver";

export interface NameserverIdentity {
  readonly clusterId: string;
}

const IDENTITY = "nameserver.json";
/** What may lie in the directory: also what an interrupted format, or the cut of a log (log_recovery.ts) left. */
const OURS = [IDENTITY, `${IDENTITY}.new`, "db", "db.cut", "lost+found"];
const identityPath = (dir: string): string => `${dir}/${IDENTITY}`;
export const databasePath = (dir: string): string => `${dir}/db`;

/** Reads whose directory this is. Errors: ENOENT not formatted, EINVAL another layout or not ours, EACCES. */
export async function readIdentity(dir: string): Promise<NameserverIdentity> {
  let text: string;
  try {
    text = await Deno.readTextFile(identityPath(dir));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new FsError("ENOENT", `${dir} holds no namespace: run "mfs format --dir ${dir}" first`, {
        op: OP,
      });
    }
    throw new FsError("EACCES", `${dir} can't be read: ${(error as Error).message}`, {
      op: OP,
      cause: error,
    });
  }
  let identity: { kind?: unknown; layout?: unknown; clusterId?: unknown };
  try {
    identity = JSON.parse(text);
  } catch (error) {
    throw new FsError("EINVAL", `${identityPath(dir)} is damaged: restore it from a backup`, {
      op: OP,
      cause: error,
    });
  }
  if (identity.kind !== KIND || typeof identity.clusterId !== "string") {
    throw new FsError("EINVAL", `${identityPath(dir)} is not a nameserver's: give another --dir`, { op: OP });
  }
  if (identity.layout !== LAYOUT_VERSION) {
    throw new FsError(
      "EINVAL",
      `${dir} has layout ${identity.layout}, this mfs reads ${LAYOUT_VERSION}: use the mfs that wrote it`,
      { op: OP },
    );
  }
  return { clusterId: identity.clusterId };
}

/**
 * Makes an empty namespace in `dir` (made when missing). EEXIST when it holds one, unless `force`; ENOTEMPTY when it
 * holds anything else.
 */
export async function formatNameserver(
  dir: string,
  options: { readonly force: boolean; readonly replication?: number },
): Promise<NameserverIdentity> {
  const clusterId = randomHexId();
  await makeDirectory(dir, { ...options, op: "format", clusterId }, async (namespace) => {
    const owner = { uid: geteuid(), gid: getegid() };
    await namespace.change((tx) => makeRoot(tx, options.replication ?? 0, owner), true);
  });
  return { clusterId };
}

export interface MakeDirectoryOptions {
  readonly op: string;
  readonly force: boolean;
  readonly clusterId: string;
}

/** Makes a nameserver's directory with what `fill` puts into an empty namespace. Errors: as formatNameserver. */
export async function makeDirectory(
  dir: string,
  { op, force, clusterId }: MakeDirectoryOptions,
  fill: (namespace: Namespace) => Promise<void>,
): Promise<void> {
  let names: string[] = [];
  try {
    await Deno.mkdir(dir, { recursive: true });
    for await (const entry of Deno.readDir(dir)) names.push(entry.name);
  } catch (error) {
    throw new FsError("EACCES", `${dir} can't be made or read: ${(error as Error).message}`, {
      op,
      cause: error,
    });
  }
  const isNamespace = names.includes(IDENTITY) || names.includes("db");
  if (isNamespace && !force) {
    throw new FsError("EEXIST", `${dir} holds a cluster: --force destroys it and makes another one`, { op });
  }
  names = names.filter((name) => !OURS.includes(name));
  if (names.length > 0) {
    throw new FsError("ENOTEMPTY", `${dir} holds other things (${names[0]} ...): give an empty directory`, {
      op,
    });
  }
  try {
    if (isNamespace) {
      // Opening takes LevelDB's lock: a namespace that is being served is not destroyed under its server.
      if (await exists(databasePath(dir))) await refuseIfServed(dir, op);
      await Deno.remove(identityPath(dir)).catch(ignoreNotFound);
      await Deno.remove(databasePath(dir), { recursive: true }).catch(ignoreNotFound);
      await Deno.remove(`${databasePath(dir)}.cut`, { recursive: true }).catch(ignoreNotFound);
    }
    const journal = await LevelJournal.open(databasePath(dir), {
      createIfMissing: true,
      onFailure: () => {},
    });
    try {
      await fill(await Namespace.load(journal, systemClock));
    } finally {
      await journal.close();
    }
    await writeIdentity(dir, { clusterId });
  } catch (error) {
    if (error instanceof FsError) throw error;
    throw new FsError("EACCES", `${dir} can't be written: ${(error as Error).message}`, { op, cause: error });
  }
}

/** Last: only a directory with this file counts as formatted. All of it is on disk when this returns. */
async function writeIdentity(dir: string, { clusterId }: NameserverIdentity): Promise<void> {
  const text = JSON.stringify({ kind: KIND, layout: LAYOUT_VERSION, clusterId }, null, 2) + "\n";
  await syncDirectory(dir);
  await replaceFile(dir, IDENTITY, bytesOf(text));
  await syncDirectory(`${dir}/..`);
}

async function refuseIfServed(dir: string, op: string): Promise<void> {
  let journal: LevelJournal;
  try {
    journal = await LevelJournal.open(databasePath(dir), { createIfMissing: true, onFailure: () => {} });
  } catch (error) {
    if (error instanceof FsError && error.errno === "EBUSY") {
      throw new FsError("EBUSY", `${dir} is being served: stop its nameserver first`, { op });
    }
    return; // damaged: that is what --force is for
  }
  await journal.close();
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

function ignoreNotFound(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}
