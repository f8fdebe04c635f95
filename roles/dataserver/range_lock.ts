/**
 * Orders the operations on one replica: overlapping ranges exclude each other unless both only read, disjoint
 * ranges run in parallel.
 * Invariant: of two conflicting operations, the one that came first runs first.
 */

import { FsError } from "../../wire/errno.ts";

const HOLDS_MAX = 4096;
/** The end of a range that covers a whole replica. */
export const WHOLE = Number.MAX_SAFE_INTEGER;

/** A place in the queue, held or waiting. */
export interface Hold {
  readonly from: number;
  readonly to: number;
  readonly exclusive: boolean;
  /** Set while it waits. */
  wake: (() => void) | null;
}

function conflict(a: Hold, from: number, to: number, exclusive: boolean): boolean {
  return (a.exclusive || exclusive) && a.from < to && from < a.to;
}

export class RangeLock {
  // In order of arrival, those that run and those that wait.
  readonly #holds: Hold[] = [];

  get isIdle(): boolean {
    return this.#holds.length === 0;
  }

  /** True when an operation on [from, to) would start at once. */
  isFree(from: number, to: number, exclusive: boolean): boolean {
    for (let i = 0; i < this.#holds.length; i++) {
      if (conflict(this.#holds[i]!, from, to, exclusive)) return false;
    }
    return true;
  }

  /** Takes [from, to); at once when it is free, else when all that conflict and came before were released. */
  acquire(from: number, to: number, exclusive: boolean): Hold | Promise<Hold> {
    if (this.#holds.length >= HOLDS_MAX) {
      throw new FsError("EBUSY", `more than ${HOLDS_MAX} operations wait for one replica`);
    }
    const free = this.isFree(from, to, exclusive);
    const hold: Hold = { from, to, exclusive, wake: null };
    this.#holds.push(hold);
    if (free) return hold;
    return new Promise((resolve) => hold.wake = () => resolve(hold));
  }

  /** Gives a hold back and starts what waited for it. */
  release(hold: Hold): void {
    this.#holds.splice(this.#holds.indexOf(hold), 1);
    for (let i = 0; i < this.#holds.length; i++) {
      const waiting = this.#holds[i]!;
      if (waiting.wake === null) continue;
      let blocked = false;
      for (let j = 0; j < i && !blocked; j++) {
        blocked = conflict(this.#holds[j]!, waiting.from, waiting.to, waiting.exclusive);
      }
      if (blocked) continue;
      const wake = waiting.wake;
      waiting.wake = null;
      wake();
    }
  }
}
