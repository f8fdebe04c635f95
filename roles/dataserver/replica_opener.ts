/**
 * Makes and opens replicas: from the files and the record of one block to a Replica, or to the error that says what
 * is wrong with them.
 * Invariant: a finalized replica whose files do not have the size of its record is corrupt, never served as zeros.
 */

import * as libc from "../../base/libc.ts";
import { asFsError } from "../../wire/errno.ts";
import type { Generation } from "../../wire/ids.ts";
import { chunkCount, ChunkTable, CRC_BYTES } from "./chunk_table.ts";
import { Replica, type ReplicaHost } from "./replica.ts";
import type { ReplicaFile } from "./replica_content.ts";
import type { ReplicaRecord } from "./replica_records.ts";
import type { Trash } from "./trash.ts";

export type ReplicaPaths = Omit<ReplicaFile, "fd">;

/** A new, empty replica. A file that is in its way belongs to nobody and goes to trash. */
export async function createReplica(
  host: ReplicaHost,
  trash: Trash,
  paths: ReplicaPaths,
  generation: Generation,
): Promise<Replica> {
  const { block } = paths;
  const record: ReplicaRecord = { generation, state: "writing", length: 0 };
  try {
    // Side by side, as each is a thread's work. A crash that leaves one of them leaves a stray, or the record of an empty
    // replica: neither was acknowledged.
    const [put, opened] = await Promise.allSettled([
      host.records.put([{ block, record }], false),
      openNew(host, trash, paths),
    ]);
    if (put.status === "fulfilled" && opened.status === "fulfilled") {
      const file = { ...paths, fd: opened.value };
      return new Replica(file, host, new ChunkTable(), { ...record, isDurable: false });
    }
    if (opened.status === "fulfilled") host.disk.close(opened.value);
    throw put.status === "rejected" ? put.reason : (opened as PromiseRejectedResult).reason;
  } catch (error) {
    // Best effort: a record that stays behind is that of an empty replica, which is what was asked for.
    await host.records.delete(block).catch(() => {});
    throw host.writeFailed(asFsError(error, "create"));
  }
}

async function openNew(
  host: ReplicaHost,
  trash: Trash,
  { block, dataPath, crcPath }: ReplicaPaths,
): Promise<number> {
  const flags = libc.O_RDWR | libc.O_CREAT | libc.O_EXCL;
  try {
    return await host.disk.open(dataPath, flags);
  } catch (error) {
    if (asFsError(error, "open").errno !== "EEXIST") throw error;
    await trash.take(block, "none", dataPath, crcPath);
    return await host.disk.open(dataPath, flags);
  }
}

/** The replica that `record` speaks of. */
export async function openReplica(
  host: ReplicaHost,
  paths: ReplicaPaths,
  record: ReplicaRecord,
): Promise<Replica> {
  const { block, dataPath } = paths;
  // Open replicas in state "writing" stay open, so this one was left by a crash: its bytes are all there is.
  const isLeft = record.state === "writing";
  const fd = await openData(host, paths, isLeft);
  try {
    const size = host.disk.size(fd, dataPath);
    let chunks: ChunkTable;
    if (isLeft) {
      chunks = ChunkTable.allDirty(size);
      host.lengthChanged(size - record.length);
    } else {
      if (size !== record.length) {
        const what = size < record.length ? "a truncated block file" : "a block file that is too long";
        throw host.corrupt(block, `${what}: ${dataPath} has ${size} bytes, not ${record.length}`);
      }
      chunks = ChunkTable.fromStored(size, await readCrcs(host, paths, chunkCount(size)));
    }
    return new Replica({ ...paths, fd }, host, chunks, { ...record, isDurable: !isLeft });
  } catch (error) {
    host.disk.close(fd);
    throw error;
  }
}

async function openData(
  host: ReplicaHost,
  { block, dataPath }: ReplicaPaths,
  create: boolean,
): Promise<number> {
  try {
    return await host.disk.open(dataPath, libc.O_RDWR | (create ? libc.O_CREAT : 0));
  } catch (error) {
    const fsError = asFsError(error, "open");
    if (fsError.errno === "ENOENT" || fsError.errno === "EIO") throw host.corrupt(block, fsError.message);
    throw host.writeFailed(fsError);
  }
}

async function readCrcs(
  host: ReplicaHost,
  { block, crcPath }: ReplicaPaths,
  count: number,
): Promise<Uint8Array> {
  const stored = new Uint8Array(count * CRC_BYTES);
  if (count === 0) return stored;
  try {
    const fd = await host.disk.open(crcPath, libc.O_RDONLY);
    try {
      if (await host.disk.read(fd, stored, 0, crcPath) === stored.length) return stored;
    } finally {
      host.disk.close(fd);
    }
  } catch (error) {
    const { errno, message } = asFsError(error, "open");
    if (errno !== "ENOENT" && errno !== "EIO") throw error;
    throw host.corrupt(block, message);
  }
  throw host.corrupt(block, `${crcPath} is too short for its block file`);
}
