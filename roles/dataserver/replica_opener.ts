/**
 * Makes and opens replicas: from the files and the record of one block to a Replica, or to the error that says what
 * is wrong with them.
 * Invariant: a finalized replica whose files do not have the size of its record is corrupt, never served as zeros.
 */

import * as libc from "../../base/libc.ts";
import { asFsError } from "../../wire/errno.ts";
import type { Generation } from "../../wire/ids.ts";
import { chunkCount, ChunkTable, CRC_BYTES } from "./chunk_table.ts";
import type { Disk } from "./disk.ts";
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
export function openReplica(host: ReplicaHost, paths: ReplicaPaths, record: ReplicaRecord): Promise<Replica> {
  // Open replicas in state "writing" stay open, so this one was left by a crash: its bytes are all there is.
  return record.state === "writing" ? openLeft(host, paths, record) : openFinalized(host, paths, record);
}

async function openLeft(host: ReplicaHost, paths: ReplicaPaths, record: ReplicaRecord): Promise<Replica> {
  const fd = await openData(host, paths, true);
  try {
    const size = host.disk.size(fd, paths.dataPath);
    host.lengthChanged(size - record.length);
    return new Replica({ ...paths, fd }, host, ChunkTable.allDirty(size), { ...record, isDurable: false });
  } catch (error) {
    host.disk.close(fd);
    throw error;
  }
}

async function openFinalized(
  host: ReplicaHost,
  paths: ReplicaPaths,
  record: ReplicaRecord,
): Promise<Replica> {
  const { block, dataPath, crcPath } = paths;
  // Side by side, as each may be a thread's work. What is wrong with the data file is told first, and then only that.
  const [opened, crcs] = await Promise.allSettled([
    openData(host, paths, false),
    readCrcs(host.disk, crcPath, chunkCount(record.length)),
  ]);
  if (opened.status === "rejected") throw opened.reason;
  const fd = opened.value;
  try {
    const size = host.disk.size(fd, dataPath);
    if (size !== record.length) {
      const what = size < record.length ? "a truncated block file" : "a block file that is too long";
      throw host.corrupt(block, `${what}: ${dataPath} has ${size} bytes, not ${record.length}`);
    }
    if (crcs.status === "rejected") {
      const { errno, message } = asFsError(crcs.reason, "open");
      throw errno === "ENOENT" || errno === "EIO" ? host.corrupt(block, message) : crcs.reason;
    }
    if (crcs.value === null) throw host.corrupt(block, `${crcPath} is too short for its block file`);
    const chunks = ChunkTable.fromStored(size, crcs.value);
    return new Replica({ ...paths, fd }, host, chunks, { ...record, isDurable: true });
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

/** The checksums of `count` chunks; null: the file has fewer. */
async function readCrcs(disk: Disk, path: string, count: number): Promise<Uint8Array | null> {
  const stored = new Uint8Array(count * CRC_BYTES);
  if (count === 0) return stored;
  const fd = await disk.open(path, libc.O_RDONLY);
  try {
    return await disk.read(fd, stored, 0, path) === stored.length ? stored : null;
  } finally {
    disk.close(fd);
  }
}
