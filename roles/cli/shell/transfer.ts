/**
 * get, put and cat: data between the cluster and local files, in large pieces of which several are on their way.
 * Local files are read and written on this thread: the page cache answers, and a hand-over to another costs more.
 */

import * as libc from "../../../base/libc.ts";
import { errnoName, FsError } from "../../../wire/errno.ts";
import type { FsClient, RemoteFile } from "../../mount/client.ts";

const PIECE_BYTES = 1024 * 1024;
/** Pieces on their way. */
const WINDOW = 6;

/** Told how many bytes of how many are through. */
export type OnProgress = (done: number, total: number) => void;

/** Bytes of the file, as long as it was when it was opened, and what has been added since. */
export async function get(
  client: FsClient,
  from: Uint8Array,
  to: string,
  onProgress: OnProgress,
  signal: AbortSignal,
): Promise<void> {
  const file = await client.openFile(from);
  try {
    const { size, mode } = file.attributes;
    const fd = opened(libc.open(to, libc.O_WRONLY | libc.O_CREAT | libc.O_TRUNC, mode & 0o777), to);
    try {
      let done = 0;
      let end = 0;
      for await (const { start, end: stop } of dataOf(file, size)) {
        end = stop;
        await inPieces(start, stop, signal, async (at, length) => {
          let position = at;
          await file.read(at, length, (bytes) => {
            writeAll(fd, bytes, position, to);
            position += bytes.length;
          });
          onProgress(done += position - at, size);
        });
      }
      // A hole at the end. Devices have no size to set.
      const result = end < size ? libc.ftruncate(fd, size) : 0;
      if (result < 0) throw localError(result, to);
    } finally {
      libc.close(fd);
    }
  } finally {
    await file.close();
  }
}

export async function put(
  client: FsClient,
  from: string,
  to: Uint8Array,
  onProgress: OnProgress,
  signal: AbortSignal,
): Promise<void> {
  const fd = opened(libc.open(from, libc.O_RDONLY), from);
  try {
    const { size, mode, isFile } = await Deno.stat(from);
    if (!isFile) throw new FsError("EINVAL", `${from} is no regular file`);
    const file = await client.createFile(to, (mode ?? 0o666) & 0o777);
    let isDone = false;
    try {
      await send(fd, from, file, size, onProgress, signal);
      isDone = true;
    } finally {
      const closing = file.close();
      // What went wrong first is what is told.
      await (isDone ? closing : closing.catch(() => {}));
    }
  } finally {
    libc.close(fd);
  }
}

async function send(
  fd: number,
  name: string,
  file: RemoteFile,
  size: number,
  onProgress: OnProgress,
  signal: AbortSignal,
): Promise<void> {
  const idle: Uint8Array<ArrayBuffer>[] = [];
  let done = 0;
  let end = 0;
  for (const { start, end: stop } of localData(fd, size)) {
    await inPieces(start, stop, signal, async (at, length) => {
      const buffer = idle.pop() ?? new Uint8Array(PIECE_BYTES);
      const count = libc.pread(fd, buffer.subarray(0, length), at);
      if (count < 0) throw localError(count, name);
      if (count > 0) await file.write(at, buffer.subarray(0, count), () => void idle.push(buffer));
      end = Math.max(end, at + count);
      onProgress(done += count, size);
    });
  }
  if (end < size) await file.truncate(size);
}

/** Gives the file's bytes to `write`, in order. */
export async function cat(
  client: FsClient,
  path: Uint8Array,
  write: (bytes: Uint8Array) => void,
  signal: AbortSignal,
): Promise<void> {
  const file = await client.openFile(path);
  try {
    for (let at = 0;;) {
      signal.throwIfAborted();
      const count = await file.read(at, PIECE_BYTES, write);
      if (count === 0) return;
      at += count;
    }
  } finally {
    await file.close();
  }
}

/** WINDOW of them at a time. The first failure counts; those on their way are waited for. */
async function inPieces(
  start: number,
  end: number,
  signal: AbortSignal,
  transfer: (at: number, length: number) => Promise<void>,
): Promise<void> {
  let next = start;
  const run = async () => {
    while (next < end) {
      signal.throwIfAborted();
      const at = next;
      next = Math.min(end, at + PIECE_BYTES);
      try {
        await transfer(at, next - at);
      } catch (error) {
        next = end;
        throw error;
      }
    }
  };
  const count = Math.min(WINDOW, Math.ceil((end - start) / PIECE_BYTES));
  const results = await Promise.allSettled(Array.from({ length: count }, run));
  const failed = results.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
}

interface Extent {
  readonly start: number;
  readonly end: number;
}

/** Without the holes of files that are worth the question. */
async function* dataOf(file: RemoteFile, size: number): AsyncGenerator<Extent> {
  if (size <= PIECE_BYTES) return yield { start: 0, end: size };
  for (let at = 0; at < size;) {
    const start = await file.seek(at, libc.SEEK_DATA);
    if (start === undefined || start >= size) return;
    const end = Math.min(size, await file.seek(start, libc.SEEK_HOLE) ?? size);
    yield { start, end };
    at = end;
  }
}

/** The same; all of it where the disk does not tell. */
function* localData(fd: number, size: number): Generator<Extent> {
  if (size <= PIECE_BYTES) return yield { start: 0, end: size };
  for (let at = 0; at < size;) {
    const start = libc.lseek(fd, at, libc.SEEK_DATA);
    if (start < 0) {
      if (errnoName(-start) !== "ENXIO") yield { start: at, end: size };
      return;
    }
    if (start >= size) return;
    const hole = libc.lseek(fd, start, libc.SEEK_HOLE);
    const end = hole < 0 ? size : Math.min(size, hole);
    yield { start, end };
    at = end;
  }
}

function writeAll(fd: number, bytes: Uint8Array, position: number, name: string): void {
  for (let at = 0; at < bytes.length;) {
    const count = libc.pwrite(fd, bytes.subarray(at) as Uint8Array<ArrayBuffer>, position + at);
    if (count < 0) throw localError(count, name);
    at += count;
  }
}

function opened(fd: number, name: string): number {
  if (fd < 0) throw localError(fd, name);
  return fd;
}

function localError(negativeErrno: number, name: string): FsError {
  return new FsError(errnoName(-negativeErrno), `on this machine: ${name}`, { op: "local" });
}
