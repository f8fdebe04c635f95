/**
 * What a client knows of a file's blocks: the blocks inside one known range, by start; inside it, what no block
 * covers is a hole. Asks nobody: the reader and writer fill it.
 * Invariant: blocks are ordered, do not overlap, and all lie (at least in part) in the known range.
 */

import type { BlockId } from "../wire/ids.ts";
import type { Block } from "../wire/messages/inode.ts";

export class BlockMap {
  #blocks: Block[] = [];
  #from = 0;
  #to = 0;
  /** Counts changes, so that a reply that crossed one is not learned. */
  version = 0;

  /** Forgets everything. */
  clear(): void {
    this.version++;
    this.#blocks = [];
    this.#from = this.#to = 0;
  }

  /** Answers that are on their way may not be learned. */
  changed(): void {
    this.version++;
  }

  /** True when all of [offset, end) is known. */
  knows(offset: number, end: number): boolean {
    return offset >= this.#from && end <= this.#to;
  }

  /** Learns all blocks of [from, to). A range that does not touch the known one replaces it. */
  learn(from: number, to: number, blocks: readonly Block[]): void {
    this.version++;
    const touches = from <= this.#to && to >= this.#from && this.#to > this.#from;
    if (!touches) {
      this.#blocks = [...blocks];
      this.#from = from;
      this.#to = to;
      return;
    }
    const before = this.#blocks.filter((block) => block.start + block.length <= from);
    const after = this.#blocks.filter((block) => block.start >= to);
    const ids = new Set(blocks.map((block) => block.id));
    this.#blocks = [
      ...before.filter((block) => !ids.has(block.id)),
      ...blocks,
      ...after.filter((block) => !ids.has(block.id)),
    ];
    this.#from = Math.min(this.#from, from);
    this.#to = Math.max(this.#to, to);
  }

  /** The end of the known range. */
  get knownTo(): number {
    return this.#to;
  }

  /** No block is known, and all of [0, end) is. */
  isEmpty(end: number): boolean {
    return this.#blocks.length === 0 && this.knows(0, end);
  }

  /** Index of the last block that starts at or before `offset`, or -1. */
  #index(offset: number): number {
    let low = 0;
    let high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#blocks[middle]!.start <= offset) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** The block that covers `offset`, or undefined in a hole (or outside of the known range). */
  at(offset: number): Block | undefined {
    const block = this.#blocks[this.#index(offset)];
    return block !== undefined && offset < block.start + block.length ? block : undefined;
  }

  /** For an `offset` in a hole: the last block before it. */
  before(offset: number): Block | undefined {
    const block = this.#blocks[this.#index(offset)];
    return block !== undefined && block.start + block.length <= offset ? block : undefined;
  }

  /** Start of the first block after `offset`, or Infinity. */
  nextStart(offset: number): number {
    return this.#blocks[this.#index(offset) + 1]?.start ?? Infinity;
  }

  /** Where the block, or the hole, at `offset` ends, as far as is known. */
  endOf(offset: number): number {
    const block = this.at(offset);
    if (block !== undefined) return block.start + block.length;
    return Math.min(this.nextStart(offset), this.#to);
  }

  /** All of [start, end) is in blocks that hold data. */
  isWritten(start: number, end: number): boolean {
    for (let at = start; at < end;) {
      const block = this.at(at);
      if (block?.written !== true) return false;
      at = block.start + block.length;
    }
    return true;
  }

  byId(id: BlockId): Block | undefined {
    return this.#blocks.find((block) => block.id === id);
  }

  /**
   * What was answered to a question that was asked at the map's `version` of then. If the map has changed since, the answer
   * may be from before that: where a block ends, and that it is there, stays as it is known. What is known afterwards.
   */
  renew(block: Block, version: number): Block {
    if (version !== this.version) {
      const known = this.#blocks[this.#index(block.start)];
      // The caller may use it; reads and writes to come ask again.
      if (known?.id !== block.id) return block;
      if (known.generation >= block.generation) return known;
      block = { ...block, length: known.length };
    }
    this.put(block);
    return this.#blocks[this.#index(block.start)]!;
  }

  /**
   * Puts in a new block, or the new state of one. A block that holds data does so for good: an answer that says otherwise
   * is from before that was reported.
   */
  put(block: Block): void {
    this.version++;
    const index = this.#index(block.start);
    const known = this.#blocks[index];
    if (known?.start !== block.start) {
      this.#blocks.splice(index + 1, 0, block);
      return;
    }
    const isWritten = block.written || (known.id === block.id && known.written);
    this.#blocks[index] = block.written === isWritten ? block : { ...block, written: true };
  }
}
