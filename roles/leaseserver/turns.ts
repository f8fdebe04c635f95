/**
 * Turns on inodes: what recalls leases, or grants one that must not be lost, has the inode to itself until it is done.
 * Who comes first goes first, so that a stream of readers starves no writer, nor the other way.
 * Invariant: whoever takes several turns takes them in ascending order of inodes, so that no two wait for each other.
 */

import { atNextTurn } from "../../base/event_loop.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId } from "../../wire/ids.ts";

export class Turns {
  /** Inodes whose turn is taken, and who waits for it. */
  readonly #taken = new Map<InodeId, (() => void)[]>();
  #waiting = 0;

  /** Operations that wait for a turn. */
  get waiting(): number {
    return this.#waiting;
  }

  isTaken(ino: InodeId): boolean {
    return this.#taken.size > 0 && this.#taken.has(ino);
  }

  /** Takes the turn if nobody has it. */
  tryTake(ino: InodeId): boolean {
    if (this.#taken.has(ino)) return false;
    this.#taken.set(ino, []);
    return true;
  }

  /** Waits for the turn; EINTR when `signal` aborts first. */
  async take(ino: InodeId, signal?: AbortSignal): Promise<void> {
    if (this.tryTake(ino)) return;
    const queue = this.#taken.get(ino)!;
    this.#waiting++;
    try {
      await new Promise<void>((resolve, reject) => {
        const onAbort = () => {
          const at = queue.indexOf(go);
          if (at < 0) return; // its turn has just come
          queue.splice(at, 1);
          reject(new FsError("EINTR", "given up while it waited for its turn"));
        };
        const go = () => {
          signal?.removeEventListener("abort", onAbort);
          resolve();
        };
        queue.push(go);
        signal?.addEventListener("abort", onAbort, { once: true });
        if (signal?.aborted) onAbort();
      });
    } finally {
      this.#waiting--;
    }
  }

  /** Takes the turns on all of them; undefined when none had to be waited for. */
  takeAll(inodes: readonly InodeId[]): Promise<void> | undefined {
    const ascending = [...new Set(inodes)].sort((a, b) => a - b);
    for (let i = 0; i < ascending.length; i++) {
      if (!this.tryTake(ascending[i]!)) return this.#takeRest(ascending.slice(i));
    }
    return undefined;
  }

  async #takeRest(ascending: readonly InodeId[]): Promise<void> {
    for (const ino of ascending) await this.take(ino);
  }

  /**
   * Gives turns back. Whoever is next, also who asks only now, starts after what is being answered has been sent: no recall
   * overtakes the answer that brings the lease.
   */
  giveAll(inodes: Iterable<InodeId>): void {
    for (const ino of new Set(inodes)) {
      const queue = this.#taken.get(ino);
      if (queue !== undefined) atNextTurn(() => this.#next(ino, queue));
    }
  }

  #next(ino: InodeId, queue: (() => void)[]): void {
    const go = queue.shift();
    if (go === undefined) this.#taken.delete(ino);
    else go();
  }
}
