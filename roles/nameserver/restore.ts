/**
 * A nameserver's directory from a backup. The dataservers may have gone on since it was taken, so nothing that the
 * cluster did meanwhile may be taken for something else:
 * - Ids go on far behind those of the backup: what was made since has others.
 * - So do generations (IdAllocator.generationFloor): a replica that has another than the backup says is known to be
 *   newer, and its block goes on with it (repair.ts).
 * - Deletions that were due are not: a replica may have come back to that volume. What no block lists is kept aside
 *   by its dataserver.
 * - What was written to a file since, past its end or to a block that had nothing, does not show up in it when it grows.
 * - Clients that were there are not: they begin anew. What they had open without a name goes.
 */

import { asInodeId, asSessionId } from "../../wire/ids.ts";
import { FsError } from "../../wire/errno.ts";
import { type BackupHead, BackupReader } from "./backup_file.ts";
import type { Journal, Write } from "./journal.ts";
import {
  extentsKey,
  getU64,
  type Key,
  TABLE_DELETION,
  TABLE_EXTENTS,
  TABLE_ORPHAN,
  TABLE_RESERVED,
  TABLE_RETRY,
  TABLE_SESSION,
  tableRange,
} from "./keys.ts";
import { keepWritten } from "./block_operations.ts";
import { LAYOUT_VERSION, makeDirectory } from "./layout.ts";
import { IdAllocator } from "./id_allocator.ts";
import { Namespace } from "./namespace.ts";

const PAGE = 1_000;
const LEFT_OUT = [TABLE_SESSION, TABLE_RETRY, TABLE_DELETION, TABLE_RESERVED];

export interface Restored {
  readonly clusterId: string;
  /** Of which instant the backup is, milliseconds since 1970. */
  readonly timeMs: number;
  readonly inodes: number;
  readonly blocks: number;
}

export interface RestoreOptions {
  readonly force: boolean;
  /** Records read so far, of about twice as many as there are: all are checked before any is used. */
  readonly onRecords?: (records: number, total: number | undefined) => void;
}

/** Errors: ENOENT, EINVAL (no backup, or damaged: nothing was touched); as formatNameserver. */
export async function restoreNameserver(
  file: string,
  dir: string,
  options: RestoreOptions,
): Promise<Restored> {
  const { head, records: total } = await checkBackup(file, options);
  let restored: Restored | undefined;
  const { clusterId, timeMs } = head;
  await makeDirectory(dir, { op: "restore", force: options.force, clusterId }, async ({ journal, clock }) => {
    await using reader = await BackupReader.open(file);
    for await (const page of reader.pages()) {
      const writes = page.filter(([key]) => !LEFT_OUT.includes(key[0]!))
        .map(([key, value]): Write => [key as Key, value]);
      if (writes.length > 0) await journal.written(journal.append(writes));
      options.onRecords?.(total + reader.records, 2 * total);
    }
    const namespace = await Namespace.load(journal, clock);
    await dropOrphans(namespace);
    await keepWhatWasWritten(namespace);
    await dropTable(journal, TABLE_DELETION);
    namespace.ids.leap();
    await namespace.change((tx) => namespace.ids.saveTo(tx), true);
    restored = {
      clusterId,
      timeMs,
      inodes: namespace.totals.get("inodes"),
      blocks: namespace.totals.get("blocks"),
    };
  });
  return restored!;
}

async function checkBackup(
  file: string,
  options: RestoreOptions,
): Promise<{ readonly head: BackupHead; readonly records: number }> {
  await using reader = await BackupReader.open(file);
  const { head } = reader;
  if (head.layout !== LAYOUT_VERSION) {
    throw new FsError(
      "EINVAL",
      `${file} has layout ${head.layout}, this mfs reads ${LAYOUT_VERSION}: use mfs ${head.program}`,
      { op: "restore" },
    );
  }
  let hasIds = false;
  for await (const page of reader.pages()) {
    hasIds ||= page.some(([key]) => isIds(key));
    options.onRecords?.(reader.records, undefined);
  }
  if (!hasIds) {
    throw new FsError("EINVAL", `${file} holds no namespace: give another backup`, { op: "restore" });
  }
  return { head, records: reader.records };
}

const isIds = (key: Uint8Array): boolean =>
  key.length === IdAllocator.key.length && key.every((byte, i) => byte === IdAllocator.key[i]);

async function dropOrphans(namespace: Namespace): Promise<void> {
  for (;;) {
    const orphans = await namespace.journal.scan(tableRange(TABLE_ORPHAN), PAGE);
    if (orphans.length === 0) return;
    for (const session of new Set(orphans.map(([key]) => getU64(key, 1)))) {
      await namespace.endSession(asSessionId(session));
    }
    await namespace.journal.written(
      namespace.journal.append(orphans.map(([key]): Write => [key as Key, null])),
    );
  }
}

async function keepWhatWasWritten(namespace: Namespace): Promise<void> {
  const [first, to] = tableRange(TABLE_EXTENTS);
  let from = first;
  for (;;) {
    const pages = await namespace.journal.scan([from, to], PAGE);
    if (pages.length === 0) return;
    const inodes = new Set(pages.map(([key]) => getU64(key, 1)));
    await namespace.change((tx) => inodes.forEach((ino) => keepWritten(tx, asInodeId(ino))));
    from = extentsKey(asInodeId(getU64(pages.at(-1)![0], 1) + 1), 0);
  }
}

async function dropTable(journal: Journal, table: number): Promise<void> {
  for (;;) {
    const records = await journal.scan(tableRange(table), PAGE);
    if (records.length === 0) return;
    await journal.written(journal.append(records.map(([key]): Write => [key as Key, null])));
  }
}
