/**
 * Small files' data that is kept with their inodes: what was used last stays, within BYTES_MAX. What is kept is right for as
 * long as a lease is held, as a block map is (`Inode.forgetAll`).
 */

import type { Inode } from "./inode.ts";

const BYTES_MAX = 16 * 1024 * 1024;
/** What keeping one costs besides its bytes. */
const OVERHEAD_BYTES = 512;

export class InlineCache {
  /** What each counts, the one that was used last at the end; also of data that was forgotten meanwhile. */
  readonly #counted = new Map<Inode, number>();
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax = BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Notes the inode's data, or that it was used. It is not copied, and must not be changed. */
  keep(inode: Inode, data: Uint8Array): void {
    this.#uncount(inode);
    inode.inline = data;
    const bytes = data.length + OVERHEAD_BYTES;
    this.#counted.set(inode, bytes);
    this.#bytes += bytes;
    for (const [oldest] of this.#counted) {
      if (this.#bytes <= this.#bytesMax || oldest === inode) break;
      this.drop(oldest);
    }
  }

  drop(inode: Inode): void {
    this.#uncount(inode);
    inode.inline = null;
  }

  #uncount(inode: Inode): void {
    this.#bytes -= this.#counted.get(inode) ?? 0;
    this.#counted.delete(inode);
  }
}
