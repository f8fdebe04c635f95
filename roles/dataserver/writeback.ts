/**
 * When the disk is to begin with what was written to a replica. The page cache would keep it for half a minute, and an fsync
 * at the end of a large file would wait for all of it, as would everybody's who syncs at that time.
 * Only what comes in large pieces counts: small ones are often written again.
 */

const LARGE_BYTES = 64 * 1024;
const BEGIN_BYTES = 8 * 1024 * 1024;

export interface WritebackRange {
  readonly offset: number;
  readonly length: number;
}

export class Writeback {
  #bytes = 0;
  #start = Infinity;
  #end = 0;

  /** Bytes were written: what the disk is to begin with now, or null. */
  written(offset: number, length: number): WritebackRange | null {
    if (length < LARGE_BYTES) return null;
    this.#bytes += length;
    this.#start = Math.min(this.#start, offset);
    this.#end = Math.max(this.#end, offset + length);
    if (this.#bytes < BEGIN_BYTES) return null;
    const range = { offset: this.#start, length: this.#end - this.#start };
    this.#bytes = 0;
    this.#start = Infinity;
    this.#end = 0;
    return range;
  }
}
