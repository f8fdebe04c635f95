/**
 * Which parts of a replica may have changed since its checksums were stored, so that after a crash of the process the others
 * are still compared with theirs: rot there would get good checksums else.
 * Coarse, as each part that is new costs a record; what was longer or is cut off needs none, as nothing is stored of it then.
 */

import { CHUNK_BYTES, chunkCount } from "./chunk_table.ts";

const PARTS = 64;
export const PARTS_BYTES = PARTS / 8;

/** As it is recorded. */
export interface StoredTouched {
  /** Of the replica when its checksums were stored, in bytes. */
  readonly length: number;
  /** A bit for each part, from the lowest of the first byte on: set where something may have changed. */
  readonly parts: Uint8Array;
}

export class Touched {
  /** Of the replica when its checksums were stored. */
  readonly length: number;
  readonly #chunks: number;
  /** Chunks of one part; of the last ones there may be fewer. */
  readonly #chunksEach: number;
  readonly #parts = new Uint8Array(PARTS_BYTES);

  /** Of a replica of so many bytes, which has its checksums stored. */
  constructor(length: number) {
    this.length = length;
    this.#chunks = chunkCount(length);
    this.#chunksEach = Math.max(1, Math.ceil(this.#chunks / PARTS));
  }

  static fromStored({ length, parts }: StoredTouched): Touched {
    const touched = new Touched(length);
    touched.#parts.set(parts);
    return touched;
  }

  copy(): Touched {
    return Touched.fromStored({ length: this.length, parts: this.#parts });
  }

  /** [offset, end) is going to change, or to go. */
  note(offset: number, end: number): void {
    for (let part = this.#partOf(offset); part < this.#partsUntil(end); part++) {
      this.#parts[part >> 3]! |= 1 << (part & 7);
    }
  }

  /** All of [offset, end) is noted. */
  covers(offset: number, end: number): boolean {
    for (let part = this.#partOf(offset); part < this.#partsUntil(end); part++) {
      if (!this.#has(part)) return false;
    }
    return true;
  }

  /** Whether the stored checksum of chunk `index`, if there is one, is still that of its bytes. */
  isUntouched(index: number): boolean {
    return index < this.#chunks && !this.#has(Math.floor(index / this.#chunksEach));
  }

  toStored(): StoredTouched {
    return { length: this.length, parts: this.#parts.slice() };
  }

  #has(part: number): boolean {
    return (this.#parts[part >> 3]! & (1 << (part & 7))) !== 0;
  }

  #partOf(offset: number): number {
    return Math.floor(offset / CHUNK_BYTES / this.#chunksEach);
  }

  #partsUntil(end: number): number {
    return Math.ceil(Math.min(chunkCount(end), this.#chunks) / this.#chunksEach);
  }
}
