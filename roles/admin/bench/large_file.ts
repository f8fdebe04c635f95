/**
 * One large file, read and written by 4 KiB to 1 MiB at a time, in order and at random places. Each 4 KiB of it begin
 * with their number, so that what is read can be checked at next to no cost.
 */

import {
  close,
  dropCached,
  fallocate,
  fsync,
  ftruncate,
  O_CREAT,
  O_RDONLY,
  O_RDWR,
  O_TRUNC,
  open,
  pread,
  pwrite,
} from "../../../base/libc.ts";
import { randomBytes, randomInt, SeededRandom } from "../../../base/random.ts";
import { type BenchContext, check, must } from "./workload.ts";

export const MIB = 1024 * 1024;
export const BLOCK_BYTES = 4096;
const FILE_MIB = 512;
const FILE_MIB_MIN = 4;
const MAGIC = 0x6d66_7362;

export const fileOf = (context: BenchContext) => `${context.dir}/large`;
export const fileBytes = (context: BenchContext) =>
  Math.max(FILE_MIB_MIN, Math.round(FILE_MIB * context.scale)) * MIB;

export interface LargeFile extends Disposable {
  readonly fd: number;
  readonly bytes: number;
}

/** Opens the file, which is written first (untimed) when it is not there. */
export function openLarge(context: BenchContext, flags: number): LargeFile {
  const path = fileOf(context);
  if (!exists(path)) {
    using writing = createLarge(context);
    cutLarge(writing, writeInOrder(writing, performance.now() + context.limitMs));
  }
  const fd = must(open(path, flags), "open", path);
  return { fd, bytes: Deno.statSync(path).size, [Symbol.dispose]: () => void close(fd) };
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** What was written before the time was over is all there is: the others go by its size. */
export function cutLarge({ fd, bytes }: LargeFile, written: number): void {
  if (written < bytes) must(ftruncate(fd, written), "ftruncate", "large");
}

/** A new file with its room reserved, as fio and others do. */
export function createLarge(context: BenchContext): LargeFile {
  const path = fileOf(context);
  const bytes = fileBytes(context);
  const fd = must(open(path, O_RDWR | O_CREAT | O_TRUNC, 0o644), "open", path);
  // A file system that can't do it grows the file as it is written.
  if (fallocate(fd, 0, 0, bytes) < 0) must(ftruncate(fd, bytes), "ftruncate", path);
  return { fd, bytes, [Symbol.dispose]: () => void close(fd) };
}

/** Sets the heads of the blocks in `buffer`, which will lie at `offset`. */
export function stamp(view: DataView, offset: number): void {
  for (let at = 0; at < view.byteLength; at += BLOCK_BYTES) {
    view.setUint32(at, (offset + at) / BLOCK_BYTES, true);
    view.setUint32(at + 4, MAGIC, true);
  }
}

/** The heads of the blocks in `buffer`, which was read at `offset`, are what `stamp` set. */
export function checkStamps(view: DataView, offset: number): void {
  for (let at = 0; at < view.byteLength; at += BLOCK_BYTES) {
    if (
      view.getUint32(at, true) !== (offset + at) / BLOCK_BYTES || view.getUint32(at + 4, true) !== MAGIC
    ) check(false, `the large file at byte ${offset + at}`);
  }
}

export interface Buffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
}

const buffers = new Map<number, Buffer>();

/** Incompressible, one for each length: made before the clock starts, as that takes longer than many a read. */
export function bufferOf(length: number): Buffer {
  let buffer = buffers.get(length);
  if (buffer === undefined) {
    const bytes = randomBytes(new SeededRandom(length), length);
    buffer = { bytes, view: new DataView(bytes.buffer) };
    buffers.set(length, buffer);
  }
  return buffer;
}

/** Writes the file from its begin by 1 MiB at a time: how many bytes, until `endMs` of the clock. */
export function writeInOrder({ fd, bytes }: LargeFile, endMs: number): number {
  const { bytes: data, view } = bufferOf(MIB);
  let at = 0;
  for (; at < bytes && performance.now() < endMs; at += MIB) {
    stamp(view, at);
    const written = must(pwrite(fd, data, at), "pwrite", "large");
    check(written === MIB, `a write of 1 MiB answered ${written}`);
  }
  return at;
}

/** Reads the file from its begin: how many bytes, until `endMs`. */
export function readInOrder({ fd, bytes }: LargeFile, chunkBytes: number, endMs: number): number {
  const { bytes: data, view } = bufferOf(chunkBytes);
  let at = 0;
  for (; at < bytes && performance.now() < endMs; at += chunkBytes) {
    const length = must(pread(fd, data, at), "pread", "large");
    check(length === chunkBytes, `a read of ${chunkBytes} bytes at ${at} answered ${length}`);
    checkStamps(view, at);
  }
  return at;
}

/** All block numbers below `count` in random order. */
export function shuffledBlocks(count: number, seed: number): Uint32Array {
  const blocks = Uint32Array.from({ length: count }, (_, i) => i);
  const random = new SeededRandom(seed);
  for (let i = count - 1; i > 0; i--) {
    const other = randomInt(random, i + 1);
    const block = blocks[i]!;
    blocks[i] = blocks[other]!;
    blocks[other] = block;
  }
  return blocks;
}

/** Reads blocks in the order given, again and again, until `endMs`: how many. */
export function readBlocks(fd: number, blocks: Uint32Array, endMs: number): number {
  const { bytes: data, view } = bufferOf(BLOCK_BYTES);
  let done = 0;
  while (performance.now() < endMs) {
    const offset = blocks[done % blocks.length]! * BLOCK_BYTES;
    const length = must(pread(fd, data, offset), "pread", "large");
    if (length !== BLOCK_BYTES) check(false, `a read of 4 KiB at ${offset} answered ${length}`);
    checkStamps(view, offset);
    done++;
  }
  return done;
}

/** Writes blocks in the order given, until `count` or `endMs`: how many. */
export function writeBlocks(
  fd: number,
  blocks: Uint32Array,
  { count = Infinity, endMs, fsyncEach = false }: {
    readonly count?: number;
    readonly endMs: number;
    readonly fsyncEach?: boolean;
  },
): number {
  const { bytes: data, view } = bufferOf(BLOCK_BYTES);
  let done = 0;
  while (done < count && performance.now() < endMs) {
    const offset = blocks[done % blocks.length]! * BLOCK_BYTES;
    stamp(view, offset);
    const written = must(pwrite(fd, data, offset), "pwrite", "large");
    if (written !== BLOCK_BYTES) check(false, `a write of 4 KiB answered ${written}`);
    if (fsyncEach) must(fsync(fd), "fsync", "large");
    done++;
  }
  return done;
}

export function dropFileCache({ fd, bytes }: LargeFile): void {
  dropCached(fd, 0, bytes);
}

export { O_RDONLY, O_RDWR };
