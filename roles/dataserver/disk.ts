/**
 * What the dataserver needs of the operating system's files, as an interface, so that a simulated disk can take its
 * place; and the system's: whole reads and writes on descriptors, and errors with the file's name. Everything that may
 * wait for a disk runs on a thread of the pool; only what the page cache has is read on the serving thread.
 */

import * as libc from "../../base/libc.ts";
import { ERRNO, errnoName, FsError } from "../../wire/errno.ts";
import type { RangeChange } from "../../wire/messages/dataserver.ts";
import { readDirect } from "./direct_read.ts";
import { machineRun, systemMounting } from "../../base/mounting.ts";
import { LevelRecords, type ReplicaRecords } from "./replica_records.ts";

/** Failures are FsErrors with the file's name, but for what `names`, `readText` and `makeDirectory` throw: Deno's own. */
export interface Disk {
  /** open(2): a descriptor. */
  open(path: string, flags: number): Promise<number>;
  close(fd: number): void;
  /** The file's size in bytes. */
  size(fd: number, path: string): number;
  /** Bytes read without waiting for the disk; fewer, or a negative number, where it would have to. */
  readCached(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): number;
  /** Fills `buffer` from `offset`: bytes read, short only at the end of the file. At once when cached. */
  read(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number, path: string): number | Promise<number>;
  /** As `read`, but what the disk itself has, past the page cache; both in whole 4096. Absent: `read` will do. */
  readDirect?(path: string, offset: number, length: number): Promise<Uint8Array>;
  /** Writes all of `bytes` at `offset`. */
  write(fd: number, bytes: Uint8Array, offset: number, path: string): Promise<void>;
  /** The disk begins to write down this range. Advice: never fails, and nothing waits for it. Absent: it does when it does. */
  startWriteback?(fd: number, offset: number, length: number): Promise<void>;
  /** Bytes that the file takes on the disk. Absent: that is not known. */
  allocated?(fd: number, path: string): number;
  /** A write to all of [offset, end) needs no more room on the disk. Absent: it may. */
  hasRoom?(fd: number, offset: number, end: number): boolean;
  /** fallocate(2), the file's size stays. EOPNOTSUPP where the file system can't. Absent: it never can. */
  changeRange?(fd: number, change: RangeChange, offset: number, length: number, path: string): Promise<void>;
  /** Where data, or a hole, begins at or after `offset`, or -1. Absent: everything up to the file's end is data. */
  seek?(fd: number, offset: number, wantsData: boolean, path: string): Promise<number>;
  /** ftruncate(2). */
  truncate(fd: number, length: number, path: string): Promise<void>;
  /** fdatasync(2). */
  syncData(fd: number, path: string): Promise<void>;
  /** Makes the names in a directory durable. */
  syncDirectory(path: string): Promise<void>;
  /** syncfs(2): everything of the file system that `path` lies in is on disk. */
  syncAll(path: string): Promise<void>;
  /** Replaces a file whole: after a crash it has the old content or the new one, and the new one is durable. */
  replaceFile(directory: string, name: string, content: Uint8Array): Promise<void>;
  /** Removes a file; one that is not there is fine. */
  remove(path: string): Promise<void>;
  /** Renames a file; false when it is not there. */
  rename(from: string, to: string): Promise<boolean>;
  /** Names in a directory. */
  names(path: string): Promise<string[]>;
  readText(path: string): Promise<string>;
  /** Makes a directory and those above it; one that is there is fine. */
  makeDirectory(path: string): Promise<void>;
  /** The path without symlinks; the path itself when there is nothing. */
  realPath(path: string): Promise<string>;
  /** Bytes of the file system, and those that are free for us; EROFS when it takes no writes. */
  space(path: string): { readonly totalBytes: number; readonly availableBytes: number };
  /** Names the file system: the machine, and the device on it (the path, where that can't be asked). */
  identity(path: string): string;
  /** Where an open file is found by other processes of this run of the machine. Absent: nowhere. */
  whereabouts?(fd: number, path: string): { readonly machine: string; readonly identity: string };
  /** Names the run of the machine and the mount of the file system: in another one, what was not synced may be gone. */
  mounting(path: string): string;
  /** The database of the volume with this label, in this life (volume_life.ts). */
  openRecords(path: string, label: string, life: number): Promise<ReplicaRecords>;
}

const SEEK_END = 2;
const DIRECTORY_MODE = 0o750;
const FILE_MODE = 0o640;

const QUICK_BYTES = 64 * 1024;
const SLOW_FOR_MS = 1_000;

/**
 * Calls that take less time than waking another thread, as they need no disk: they are made at once. One that took long (the
 * kernel holds writers up, as its cache is full of what the disk has not taken yet, or the disk stands still) has stopped the
 * whole server: for a while after it threads make them.
 */
class QuickCalls {
  readonly #slowMs: number;
  #fromMs = 0;

  constructor(slowMs: number) {
    this.#slowMs = slowMs;
  }

  /** Undefined: a thread is to make it. */
  run(call: () => number): number | undefined {
    const startMs = performance.now();
    if (startMs < this.#fromMs) return undefined;
    const result = call();
    const endMs = performance.now();
    if (endMs - startMs > this.#slowMs) this.#fromMs = endMs + SLOW_FOR_MS;
    return result;
  }
}

const quickUses = new QuickCalls(5);
/** Making a file takes 10 us, or 50 times that where thousands were removed a moment ago (ext4 passes over their inodes). */
const quickMakes = new QuickCalls(0.1);

function diskError(negativeErrno: number, op: string, path: string): FsError {
  const errno = errnoName(-negativeErrno);
  return new FsError(errno, `${op} ${path}: ${errno}`, { op });
}

async function openFile(path: string, flags: number): Promise<number> {
  const fd = openQuickly(path, flags) ?? await libc.openAsync(path, flags, FILE_MODE);
  if (fd < 0) throw diskError(fd, "open", path);
  return fd;
}

/** What the kernel has at hand takes no disk, nor what is made anew; undefined: a thread is to do it. */
function openQuickly(path: string, flags: number): number | undefined {
  if ((flags & libc.O_EXCL) !== 0) return quickMakes.run(() => libc.open(path, flags, FILE_MODE));
  if ((flags & libc.O_CREAT) !== 0) return undefined;
  const fd = quickUses.run(() => libc.openCached(path, flags));
  return fd !== undefined && fd < 0 ? undefined : fd; // a thread tries again, and tells the failure
}

function fileSize(fd: number, path: string): number {
  const size = libc.lseek(fd, 0, SEEK_END);
  if (size < 0) throw diskError(size, "lseek", path);
  return size;
}

function readFully(
  fd: number,
  buffer: Uint8Array<ArrayBuffer>,
  offset: number,
  path: string,
): number | Promise<number> {
  const count = libc.preadNowait(fd, buffer, offset);
  if (count === buffer.length) return count;
  // A failure here may only mean "would block" or "not supported": the real call decides.
  return readRest(fd, buffer, offset, Math.max(count, 0), path);
}

async function readRest(
  fd: number,
  buffer: Uint8Array<ArrayBuffer>,
  offset: number,
  filled: number,
  path: string,
): Promise<number> {
  while (filled < buffer.length) {
    const count = await libc.preadAsync(fd, buffer.subarray(filled), offset + filled);
    if (count === -ERRNO.EINTR) continue;
    if (count < 0) throw diskError(count, "read", path);
    if (count === 0) break;
    filled += count;
  }
  return filled;
}

/** Bytes written at once, or 0 where a thread is to do it. */
function writeQuickly(fd: number, bytes: Uint8Array<ArrayBuffer>, offset: number): number {
  if (bytes.length > QUICK_BYTES) return 0;
  const count = quickUses.run(() => libc.pwrite(fd, bytes, offset));
  return Math.max(0, count ?? 0); // a thread tries again, and tells the failure
}

async function writeFully(fd: number, bytes: Uint8Array, offset: number, path: string): Promise<void> {
  let done = writeQuickly(fd, bytes as Uint8Array<ArrayBuffer>, offset);
  while (done < bytes.length) {
    const rest = (done === 0 ? bytes : bytes.subarray(done)) as Uint8Array<ArrayBuffer>;
    const count = await libc.pwriteAsync(fd, rest, offset + done);
    if (count === -ERRNO.EINTR) continue;
    if (count <= 0) throw diskError(count === 0 ? -ERRNO.ENOSPC : count, "write", path);
    done += count;
  }
}

async function syncData(fd: number, path: string): Promise<void> {
  const result = await libc.fdatasyncAsync(fd);
  if (result < 0) throw diskError(result, "fdatasync", path);
}

async function syncDirectory(path: string): Promise<void> {
  const fd = await openFile(path, libc.O_RDONLY);
  try {
    const result = await libc.fsyncAsync(fd);
    if (result < 0) throw diskError(result, "fsync", path);
  } finally {
    libc.close(fd);
  }
}

async function replaceFile(directory: string, name: string, content: Uint8Array): Promise<void> {
  const temporary = `${directory}/${name}.tmp`;
  const fd = await openFile(temporary, libc.O_WRONLY | libc.O_CREAT | libc.O_TRUNC);
  try {
    await writeFully(fd, content, 0, temporary);
    await syncData(fd, temporary);
  } finally {
    libc.close(fd);
  }
  await Deno.rename(temporary, `${directory}/${name}`);
  await syncDirectory(directory);
}

async function removeFile(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function renameFile(from: string, to: string): Promise<boolean> {
  try {
    await Deno.rename(from, to);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function truncate(fd: number, length: number, path: string): Promise<void> {
  const result = await libc.ftruncateAsync(fd, length);
  if (result < 0) throw diskError(result, "truncate", path);
}

function allocated(fd: number, path: string): number {
  const bytes = libc.allocatedBytes(fd);
  if (bytes < 0) throw diskError(bytes, "statx", path);
  return bytes;
}

function hasRoom(fd: number, offset: number, end: number): boolean {
  const to = libc.allocatedTo(fd, offset, end);
  if (to >= 0) return to >= end;
  return libc.lseek(fd, offset, libc.SEEK_HOLE) >= end; // tmpfs has no FIEMAP
}

const FALLOCATE_MODES: Readonly<Record<RangeChange, number>> = {
  punch: libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE,
  zero: libc.FALLOC_FL_ZERO_RANGE | libc.FALLOC_FL_KEEP_SIZE,
  reserve: libc.FALLOC_FL_KEEP_SIZE,
};

async function changeRange(
  fd: number,
  change: RangeChange,
  offset: number,
  length: number,
  path: string,
): Promise<void> {
  const result = await libc.fallocateAsync(fd, FALLOCATE_MODES[change], offset, length);
  if (result < 0) throw diskError(result, "fallocate", path);
}

async function seek(fd: number, offset: number, wantsData: boolean, path: string): Promise<number> {
  const result = await libc.lseekAsync(fd, offset, wantsData ? libc.SEEK_DATA : libc.SEEK_HOLE);
  if (result === -ERRNO.ENXIO) return -1;
  if (result < 0) throw diskError(result, "lseek", path);
  return result;
}

async function syncAll(path: string): Promise<void> {
  const fd = await openFile(path, libc.O_RDONLY);
  try {
    const result = await libc.syncfsAsync(fd);
    if (result < 0) throw diskError(result, "syncfs", path);
  } finally {
    libc.close(fd);
  }
}

async function names(path: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of Deno.readDir(path)) found.push(name);
  return found;
}

async function realPath(path: string): Promise<string> {
  try {
    return await Deno.realPath(path);
  } catch {
    return path.replace(/(?<=.)\/+$/, ""); // absent: it may be made, and what is wrong is said then
  }
}

function space(path: string): { readonly totalBytes: number; readonly availableBytes: number } {
  const figures = libc.statvfs(path);
  if (typeof figures === "number") throw diskError(figures, "statvfs", path);
  if (figures.isReadOnly) throw diskError(-ERRNO.EROFS, "statvfs", path);
  return figures;
}

/** What tells this machine from others; machines without an id count as one by their host name. */
function machineId(): string {
  try {
    return Deno.readTextFileSync("/etc/machine-id").trim();
  } catch {
    return Deno.hostname();
  }
}

function identity(path: string): string {
  try {
    return `${machineId()}:${Deno.statSync(path).dev}`;
  } catch {
    return `${machineId()}:${path}`;
  }
}

function whereabouts(fd: number, path: string): { readonly machine: string; readonly identity: string } {
  const found = libc.fileIdentity(fd);
  if (typeof found === "number") throw diskError(found, "statx", path);
  return { machine: machineRun(), identity: found };
}

export const systemDisk: Disk = {
  open: openFile,
  close: libc.close,
  size: fileSize,
  readCached: libc.preadNowait,
  read: readFully,
  readDirect,
  write: writeFully,
  startWriteback: libc.startWritebackAsync,
  allocated,
  hasRoom,
  changeRange,
  seek,
  truncate,
  syncData,
  syncDirectory,
  syncAll,
  replaceFile,
  remove: removeFile,
  rename: renameFile,
  names,
  readText: Deno.readTextFile,
  makeDirectory: (path) => Deno.mkdir(path, { recursive: true, mode: DIRECTORY_MODE }),
  realPath,
  space,
  identity,
  whereabouts,
  mounting: systemMounting,
  openRecords: LevelRecords.open,
};
