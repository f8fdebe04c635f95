/**
 * What is known of each 64 KiB chunk of an open replica: its crc32, whether that crc still has to be computed
 * (dirty) and whether the chunk was seen to match it since the replica was opened (verified).
 * Owns: the replica's length. Does no I/O.
 * What is written in order needs not be read again: of a chunk that was filled up to somewhere the crc goes on from there.
 * Invariant: a chunk that is not dirty has the crc of its bytes up to the replica's end, holes counted as zeros.
 */

import { crc32 } from "node:zlib";

export const CHUNK_BYTES = 64 * 1024;
export const CRC_BYTES = 4;

/** Chunks of which a begin is known; a file that is written in order has one or two. */
const BEGINS_MAX = 64;

const VERIFIED = 1;
const DIRTY = 2;
const ZERO_CHUNK = new Uint8Array(CHUNK_BYTES);
const ZERO_CHUNK_CRC = crc32(ZERO_CHUNK);

function zerosCrc(bytes: number): number {
  return bytes === CHUNK_BYTES ? ZERO_CHUNK_CRC : crc32(ZERO_CHUNK.subarray(0, bytes));
}

export function chunkCount(length: number): number {
  return Math.ceil(length / CHUNK_BYTES);
}

/** Of a dirty chunk: the crc of its bytes up to `end`, an offset in the replica. */
interface Begin {
  readonly end: number;
  readonly crc: number;
}

export class ChunkTable {
  #length = 0;
  #crcs = new Uint32Array(1);
  #flags = new Uint8Array(1);
  /**
   * By chunk, the oldest first.
   * Invariant: nothing before a begin's `end` was touched since, nor is being written.
   */
  readonly #begins = new Map<number, Begin>();

  /** The replica's length in bytes. */
  get length(): number {
    return this.#length;
  }

  get count(): number {
    return chunkCount(this.#length);
  }

  /** Of a replica whose crcs were stored (`stored` is the side file, or a part of it), none of them verified yet. */
  static fromStored(length: number, stored: Uint8Array): ChunkTable {
    const table = new ChunkTable();
    table.#reserve(chunkCount(length));
    table.#length = length;
    const view = new DataView(stored.buffer, stored.byteOffset, stored.byteLength);
    const count = Math.min(table.count, Math.floor(stored.length / CRC_BYTES));
    for (let i = 0; i < count; i++) table.#crcs[i] = view.getUint32(i * CRC_BYTES, true);
    return table;
  }

  /**
   * Of a replica whose bytes are all there is to go by: every crc is to be computed, but those of `stored`, as many as it has, that
   * `isKnown` says are its chunks'.
   */
  static allDirty(
    length: number,
    stored: Uint8Array = new Uint8Array(0),
    isKnown: (index: number) => boolean = () => false,
  ): ChunkTable {
    const table = ChunkTable.fromStored(length, stored);
    for (let i = 0; i < table.count; i++) {
      if ((i + 1) * CRC_BYTES > stored.length || !isKnown(i)) table.#flags[i] = DIRTY;
    }
    return table;
  }

  /** The side file's content. No chunk may be dirty. */
  toStored(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.count * CRC_BYTES);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < this.count; i++) view.setUint32(i * CRC_BYTES, this.#crcs[i]!, true);
    return bytes;
  }

  /** Bytes of chunk `index` that exist. */
  bytesOf(index: number): number {
    return Math.min(CHUNK_BYTES, this.#length - index * CHUNK_BYTES);
  }

  isDirty(index: number): boolean {
    return (this.#flags[index]! & DIRTY) !== 0;
  }

  /** Neither dirty nor verified: its bytes must be compared with its crc before they are believed. */
  isUnproven(index: number): boolean {
    return this.#flags[index] === 0;
  }

  allVerified(first: number, last: number): boolean {
    for (let i = first; i <= last; i++) {
      if (this.#flags[i] !== VERIFIED) return false;
    }
    return true;
  }

  /** The first dirty chunk at or after `from`, or -1. */
  nextDirty(from: number): number {
    for (let i = from; i < this.count; i++) {
      if (this.isDirty(i)) return i;
    }
    return -1;
  }

  /** Offset of the first chunk from `from` on, wholly below `end`, that has the crc of something else than zeros; or -1. */
  nextNotZeros(from: number, end: number): number {
    for (let i = from; i < this.count; i++) {
      const bytes = this.bytesOf(i);
      if (i * CHUNK_BYTES + bytes > end) break;
      if (this.isDirty(i)) continue;
      if (this.#crcs[i] !== zerosCrc(bytes)) return i * CHUNK_BYTES;
    }
    return -1;
  }

  /** Compares chunk `index` with its crc; a match is remembered. */
  verify(index: number, bytes: Uint8Array): boolean {
    if (crc32(bytes) !== this.#crcs[index]) return false;
    this.#flags[index] = VERIFIED;
    return true;
  }

  /** As `verify`, of bytes that are not those that readers get. */
  matches(index: number, bytes: Uint8Array): boolean {
    return crc32(bytes) === this.#crcs[index];
  }

  /** Chunk `index` holds these bytes, and nobody is writing to it. */
  setClean(index: number, bytes: Uint8Array): void {
    this.#crcs[index] = crc32(bytes);
    this.#flags[index] = VERIFIED;
  }

  /** A write of [offset, end) is about to start: what it touches is dirty, and the replica reaches `end`. */
  beginWrite(offset: number, end: number): void {
    const first = Math.floor(offset / CHUNK_BYTES);
    if ((this.#begins.get(first)?.end ?? 0) > offset) this.#begins.delete(first);
    for (let i = first + 1; this.#begins.size > 0 && i < chunkCount(end); i++) this.#begins.delete(i);
    if (end > this.#length) {
      const before = this.count;
      // The old end grows by zeros, whether this write touches it or not.
      if (this.#length % CHUNK_BYTES !== 0) {
        // Of what this write changes the crc says nothing.
        if (this.#flags[before - 1] === VERIFIED && offset >= this.#length) {
          this.#setBegin(before - 1, this.#length, this.#crcs[before - 1]!);
        }
        this.#flags[before - 1] = DIRTY;
      }
      const after = chunkCount(end);
      this.#reserve(after);
      this.#crcs.fill(ZERO_CHUNK_CRC, before, after);
      this.#flags.fill(VERIFIED, before, after);
      this.#length = end;
    }
    this.#flags.fill(DIRTY, first, chunkCount(end));
  }

  #setBegin(index: number, end: number, crc: number): void {
    this.#begins.delete(index);
    if (this.#begins.size >= BEGINS_MAX) {
      const [oldest] = this.#begins.keys();
      this.#begins.delete(oldest!);
    }
    this.#begins.set(index, { end, crc });
  }

  /** Bytes of chunk `index`, from `offset` on, have been written. */
  #continue(index: number, offset: number, bytes: Uint8Array): void {
    const isStart = offset === index * CHUNK_BYTES;
    const begin = this.#begins.get(index);
    if (!isStart && begin?.end !== offset) return;
    const end = offset + bytes.length;
    const crc = isStart ? crc32(bytes) : crc32(bytes, begin!.crc);
    if (end < index * CHUNK_BYTES + this.bytesOf(index)) return this.#setBegin(index, end, crc);
    this.#begins.delete(index);
    this.#crcs[index] = crc;
    this.#flags[index] = VERIFIED;
  }

  /** That write has succeeded: chunks that are known from their start to their end are clean. */
  completeWrite(offset: number, bytes: Uint8Array): void {
    const end = offset + bytes.length;
    for (const i of new Set([Math.floor(offset / CHUNK_BYTES), chunkCount(end) - 1])) {
      const from = Math.max(offset, i * CHUNK_BYTES);
      const to = Math.min(end, (i + 1) * CHUNK_BYTES);
      const isWhole = from === i * CHUNK_BYTES && to === i * CHUNK_BYTES + this.bytesOf(i);
      if (!isWhole) this.#continue(i, from, bytes.subarray(from - offset, to - offset));
    }
    for (let i = chunkCount(offset); i < chunkCount(end); i++) {
      const start = i * CHUNK_BYTES;
      const chunkEnd = Math.min(start + CHUNK_BYTES, this.#length);
      if (end < chunkEnd) break;
      this.setClean(i, bytes.subarray(start - offset, chunkEnd - offset));
    }
  }

  /** As `completeWrite`, of zeros up to `end`. */
  completeZeros(offset: number, end: number): void {
    for (let i = chunkCount(offset); i < chunkCount(end); i++) {
      const bytes = this.bytesOf(i);
      if (end < i * CHUNK_BYTES + bytes) break;
      this.#crcs[i] = zerosCrc(bytes);
      this.#flags[i] = VERIFIED;
    }
  }

  /** Forgets everything at and past `length`, which is below the present length. */
  cut(length: number): void {
    this.#begins.clear();
    this.#length = length;
    if (length % CHUNK_BYTES !== 0) this.#flags[this.count - 1] = DIRTY;
  }

  #reserve(count: number): void {
    if (count <= this.#crcs.length) return;
    const capacity = Math.max(count, this.#crcs.length * 2);
    const crcs = new Uint32Array(capacity);
    crcs.set(this.#crcs);
    this.#crcs = crcs;
    const flags = new Uint8Array(capacity);
    flags.set(this.#flags);
    this.#flags = flags;
  }
}
