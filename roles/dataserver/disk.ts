/**
 * Whole reads and writes on descriptors, and errors with the file's name. Everything that may wait for a disk
 * runs on a thread of the pool; only what the page cache has is read on the serving thread.
 */

import * as libc from "../../base/libc.ts";
import { ERRNO, errnoName, FsError } from "../../wire/errno.ts";

const SEEK_END = 2;
const FILE_MODE = 0o640;

export function diskError(negativeErrno: number, op: string, path: string): FsError {
  const errno = errnoName(-negativeErrno);
  return new FsError(errno, `${op} ${path}: ${errno}`, { op });
}

/** open(2); throws FsError. */
export async function openFile(path: string, flags: number): Promise<number> {
  const fd = await libc.openAsync(path, flags, FILE_MODE);
  if (fd < 0) throw diskError(fd, "open", path);
  return fd;
}

/** The file's size in bytes. */
export function fileSize(fd: number, path: string): number {
  const size = libc.lseek(fd, 0, SEEK_END);
  if (size < 0) throw diskError(size, "lseek", path);
  return size;
}

/** Fills `buffer` from `offset`: bytes read, short only at the end of the file. At once when cached. */
export function readFully(
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

/** Writes all of `bytes` at `offset`; throws FsError. */
export async function writeFully(fd: number, bytes: Uint8Array, offset: number, path: string): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const rest = (done === 0 ? bytes : bytes.subarray(done)) as Uint8Array<ArrayBuffer>;
    const count = await libc.pwriteAsync(fd, rest, offset + done);
    if (count === -ERRNO.EINTR) continue;
    if (count <= 0) throw diskError(count === 0 ? -ERRNO.ENOSPC : count, "write", path);
    done += count;
  }
}

/** fdatasync(2); throws FsError EIO. */
export async function syncData(fd: number, path: string): Promise<void> {
  const result = await libc.fdatasyncAsync(fd);
  if (result < 0) throw diskError(result, "fdatasync", path);
}

/** Makes the names in a directory durable. */
export async function syncDirectory(path: string): Promise<void> {
  const fd = await openFile(path, libc.O_RDONLY);
  try {
    const result = await libc.fsyncAsync(fd);
    if (result < 0) throw diskError(result, "fsync", path);
  } finally {
    libc.close(fd);
  }
}

/** Replaces a file whole: after a crash it has the old content or the new one, and the new one is durable. */
export async function replaceFile(directory: string, name: string, content: Uint8Array): Promise<void> {
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

/** Removes a file; one that is not there is fine. */
export async function removeFile(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Renames a file; false when it is not there. */
export async function renameFile(from: string, to: string): Promise<boolean> {
  try {
    await Deno.rename(from, to);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
