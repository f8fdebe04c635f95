/**
 * Makes and opens replicas: from the files and the record of one block to a Replica, or to the error that says what
 * is wrong with them.
 * Invariant: a finalized replica whose files do not have the size of its record is corrupt, never served as zeros.
 */

import * as libc from "../../base/libc.ts";
import { asFsError } from "../../wire/errno.ts";
import type { Generation } from "../../wire/ids.ts";
import { CHUNK_BYTES, chunkCount, ChunkTable, CRC_BYTES } from "./chunk_table.ts";
import type { Disk } from "./disk.ts";
import { Replica, type ReplicaHost } from "./replica.ts";
import type { ReplicaFile } from "./replica_content.ts";
import type { ReplicaRecord } from "./replica_records.ts";
import { Touched } from "./touched.ts";
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
  // Open replicas in state "writing" stay open, so this one was left by a crash: what it was changed in has no checksums.
  return record.state === "writing" ? openLeft(host, paths, record) : openFinalized(host, paths, record);
}

async function openLeft(host: ReplicaHost, paths: ReplicaPaths, record: ReplicaRecord): Promise<Replica> {
  const { block, dataPath, crcPath } = paths;
  const fd = await openData(host, paths, true);
  try {
    const size = host.disk.size(fd, dataPath);
    const touched = record.touched && Touched.fromStored(record.touched);
    // A crash may have left any part of it, or none: what is there is right.
    const stored = touched === undefined
      ? undefined
      : await readCrcs(host.disk, crcPath, chunkCount(touched.length)).catch(() => undefined);
    for (let i = 0; touched !== undefined && i < chunkCount(touched.length); i++) {
      const end = Math.min((i + 1) * CHUNK_BYTES, touched.length);
      if (end <= size || !touched.isUntouched(i)) continue;
      throw host.corrupt(block, `a truncated block file: ${dataPath} has ${size} bytes, and had ${end}`);
    }
    host.lengthChanged(size - record.length);
    const chunks = ChunkTable.allDirty(size, stored, (index) => touched!.isUntouched(index));
    return new Replica({ ...paths, fd }, host, chunks, { ...record, isDurable: false });
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
    if (crcs.value.length < chunkCount(record.length) * CRC_BYTES) {
      throw host.corrupt(block, `${crcPath} is too short for its block file`);
    }
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

/** The checksums of `count` chunks, or as many as the file has. */
async function readCrcs(disk: Disk, path: string, count: number): Promise<Uint8Array> {
  const stored = new Uint8Array(count * CRC_BYTES);
  if (count === 0) return stored;
  const fd = await disk.open(path, libc.O_RDONLY);
  try {
    return stored.subarray(0, await disk.read(fd, stored, 0, path));
  } finally {
    disk.close(fd);
  }
}
