/**
 * Blocks of which a replica may still get, of an operation that has failed, what was sent to it under a generation: the end of a
 * connection is no end of it, as the kernel goes on sending, and a server that hung has it in its socket.
 *
 * Invariant: what comes late changes nothing that was done after the operation. Here the block gets another generation before
 * the next operation on it (blocks.ts); before others may write to the file, all its blocks do, at the nameserver, which is told
 * with the lease that is given back.
 */

import type { BlockId, Generation, InodeId } from "../wire/ids.ts";

/** Blocks that are remembered. */
const BLOCKS_MAX = 10_000;

interface Stray {
  readonly ino: InodeId;
  readonly generation: Generation;
  /** The lease under which it was sent is still held, or was given back and may not have been heard of. */
  isOurs: boolean;
}

export class Strays {
  readonly #blocks = new Map<BlockId, Stray>();

  note(ino: InodeId, block: BlockId, generation: Generation): void {
    this.#blocks.delete(block);
    this.#blocks.set(block, { ino, generation, isOurs: true });
    if (this.#blocks.size <= BLOCKS_MAX) return;
    const [oldest] = this.#blocks.keys();
    this.#blocks.delete(oldest!);
  }

  /** Under which generation something of the block may still arrive. */
  generationOf(block: BlockId): Generation | undefined {
    return this.#blocks.get(block)?.generation;
  }

  /** What was sent under this generation has arrived, or is refused. */
  settled(block: BlockId, generation: Generation): void {
    if (this.generationOf(block) === generation) this.#blocks.delete(block);
  }

  /** Whether who gives the file's write lease back has to say so. */
  has(ino: InodeId): boolean {
    if (this.#blocks.size === 0) return false;
    return this.#blocks.values().some((stray) => stray.isOurs && stray.ino === ino);
  }

  /** The file's write lease was granted: whatever was told with the one before has been seen to. */
  granted(ino: InodeId): void {
    for (const stray of this.#blocks.values()) {
      if (stray.ino === ino) stray.isOurs = false;
    }
  }
}
