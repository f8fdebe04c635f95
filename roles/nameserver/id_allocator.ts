/**
 * Ids that are never reused: inode, block, cookie, node, volume and session ids from counters. A range is reserved
 * on disk before any id of it is handed out, so a crash skips ids but never repeats one.
 * Invariant: an id below the reserved bound is handed out only by this process; the bound is written in the same
 * batch as the first id of its range.
 */

import { metaKey } from "./keys.ts";
import { decodeNumbers, encodeNumbers } from "./records.ts";
import type { Value } from "./journal.ts";

export const COUNTERS = ["inode", "block", "cookie", "node", "volume", "session"] as const;
export type Counter = typeof COUNTERS[number];

const RANGE = 1000;
const KEY = metaKey("ids");
/** 1 is the root inode; cookies 1 and 2 belong to "." and "..". */
const FIRST: Readonly<Record<Counter, number>> = {
  inode: 2,
  block: 1,
  cookie: 3,
  node: 1,
  volume: 1,
  session: 1,
};

export class IdAllocator {
  readonly #next: Record<Counter, number>;
  readonly #reserved: Record<Counter, number>;
  #dirty = false;

  constructor(stored: Value | undefined) {
    const bounds = stored === undefined ? COUNTERS.map((counter) => FIRST[counter]) : decodeNumbers(stored);
    const entries = COUNTERS.map((counter, i) => [counter, bounds[i] ?? FIRST[counter]] as const);
    this.#next = Object.fromEntries(entries) as Record<Counter, number>;
    this.#reserved = { ...this.#next };
  }

  static readonly key = KEY;

  next(counter: Counter): number {
    const id = this.#next[counter]++;
    if (id >= this.#reserved[counter]) {
      this.#reserved[counter] = id + RANGE;
      this.#dirty = true;
    }
    return id;
  }

  /** Never hands out `id` or less: another source (an older life of the cluster) already uses it. */
  skip(counter: Counter, id: number): void {
    if (id < this.#next[counter]) return;
    this.#next[counter] = id + 1;
    this.#reserved[counter] = Math.max(this.#reserved[counter], id + RANGE);
    this.#dirty = true;
  }

  /** Puts newly reserved bounds into the batch that uses them. */
  saveTo(batch: { put(key: Uint8Array<ArrayBuffer>, value: Value): void }): void {
    if (!this.#dirty) return;
    this.#dirty = false;
    batch.put(KEY, encodeNumbers(COUNTERS.map((counter) => this.#reserved[counter])));
  }
}
