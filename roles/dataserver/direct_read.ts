/**
 * Reads what the disk itself has of a file, past the page cache: for who wants to know whether the disk still has it,
 * and must not push out of the cache what others read. Dirty pages of the range are written down first, by the kernel.
 * Where a file system can't do that (EINVAL), what the cache had is taken from there, and what the read brought in is
 * given up again.
 */

import * as libc from "../../base/libc.ts";
import { ERRNO, errnoName, FsError } from "../../wire/errno.ts";

/** Enough for any disk's logical block. */
const ALIGNMENT = 4096;

/** Bytes from `offset`, fewer at the file's end; both are multiples of ALIGNMENT. Throws FsError. */
export async function readDirect(path: string, offset: number, length: number): Promise<Uint8Array> {
  const buffer = alignedBuffer(length);
  const fd = await libc.openAsync(path, libc.O_RDONLY | libc.O_DIRECT);
  if (fd >= 0) {
    try {
      const count = await fill(fd, buffer, offset);
      if (count >= 0) return buffer.subarray(0, count);
      if (count !== -ERRNO.EINVAL) throw failed(count, "read", path);
    } finally {
      libc.close(fd);
    }
  } else if (fd !== -ERRNO.EINVAL) throw failed(fd, "open", path);
  return await readBeside(path, buffer, offset);
}

async function readBeside(
  path: string,
  buffer: Uint8Array<ArrayBuffer>,
  offset: number,
): Promise<Uint8Array> {
  const fd = await libc.openAsync(path, libc.O_RDONLY);
  if (fd < 0) throw failed(fd, "open", path);
  try {
    if (libc.preadNowait(fd, buffer, offset) === buffer.length) return buffer;
    const count = await fill(fd, buffer, offset);
    if (count < 0) throw failed(count, "read", path);
    libc.dropCached(fd, offset, buffer.length);
    return buffer.subarray(0, count);
  } finally {
    libc.close(fd);
  }
}

/** Bytes read, or -errno. */
async function fill(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): Promise<number> {
  let filled = 0;
  while (filled < buffer.length) {
    const count = await libc.preadAsync(fd, buffer.subarray(filled), offset + filled);
    if (count === -ERRNO.EINTR) continue;
    if (count < 0) return count;
    filled += count;
    // An end inside of a block is the file's; a direct read can't begin there anyway.
    if (count === 0 || filled % ALIGNMENT !== 0) break;
  }
  return filled;
}

function alignedBuffer(length: number): Uint8Array<ArrayBuffer> {
  const buffer = new Uint8Array(length + ALIGNMENT);
  const over = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer)) % BigInt(ALIGNMENT));
  const start = over === 0 ? 0 : ALIGNMENT - over;
  return buffer.subarray(start, start + length);
}

function failed(negativeErrno: number, op: string, path: string): FsError {
  const errno = errnoName(-negativeErrno);
  return new FsError(errno, `${op} ${path}: ${errno}`, { op });
}
