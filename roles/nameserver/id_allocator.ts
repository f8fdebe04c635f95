/**
 * Ids that are never reused: inode, block, cookie, node, volume and session ids from counters. A range is reserved
 * on disk before any id of it is answered, so a crash or a power cut skips ids but never repeats one.
 * Invariant: an id below the reserved bound is handed out only by this process; the bound is written in the same
 * batch as the first id of its range, and whoever answers waits until that is on disk (`reservations`, Namespace.change).
 */

import { asGeneration, type Generation } from "../../wire/ids.ts";
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

/**
 * More than a cluster hands out between a backup and its restoration. There is room for thousands of restorations below
 * 2^53, and below 2^32 for volumes.
 */
const LEAP: Readonly<Record<Counter, number>> = {
  inode: 2 ** 40,
  block: 2 ** 40,
  cookie: 2 ** 40,
  node: 10_000,
  volume: 100_000,
  session: 2 ** 24,
};

/** More often than the replicas of one block change in one life of a cluster. */
const GENERATION_LEAP = 2 ** 30;

export class IdAllocator {
  readonly #next: Record<Counter, number>;
  readonly #reserved: Record<Counter, number>;
  #generationFloor: number;
  #dirty = false;
  /** Counts the bounds that were put into batches. */
  reservations = 0;

  constructor(stored: Value | undefined) {
    const bounds = stored === undefined ? COUNTERS.map((counter) => FIRST[counter]) : decodeNumbers(stored);
    const entries = COUNTERS.map((counter, i) => [counter, bounds[i] ?? FIRST[counter]] as const);
    this.#next = Object.fromEntries(entries) as Record<Counter, number>;
    this.#reserved = { ...this.#next };
    this.#generationFloor = bounds[COUNTERS.length] ?? 1;
  }

  /**
   * Generations from here on were given by this life of the cluster; lower ones are as of the backup that it was restored
   * from, and the life that it was taken from may have given higher ones since. 1: it never was restored.
   */
  get generationFloor(): number {
    return this.#generationFloor;
  }

  /** A block's next generation: one that no other life of the cluster has given it. */
  generationAfter(generation: number): Generation {
    return asGeneration(Math.max(generation + 1, this.#generationFloor));
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

  /** The first of `count` ids in a row. */
  take(counter: Counter, count: number): number {
    const first = this.#next[counter];
    this.skip(counter, first + count - 1);
    return first;
  }

  /** It was handed out, by this life of the cluster or another. */
  hasGiven(counter: Counter, id: number): boolean {
    return id < this.#next[counter];
  }

  /** Never hands out `id` or less: another source (an older life of the cluster) already uses it. */
  skip(counter: Counter, id: number): void {
    if (id < this.#next[counter]) return;
    this.#next[counter] = id + 1;
    this.#reserved[counter] = Math.max(this.#reserved[counter], id + RANGE);
    this.#dirty = true;
  }

  /** Skips what another life of the cluster may have handed out that is not known here (a restored backup). */
  leap(): void {
    for (const counter of COUNTERS) this.skip(counter, this.#next[counter] + LEAP[counter]);
    this.#generationFloor = this.#generationFloor + GENERATION_LEAP;
    this.#dirty = true;
  }

  /** Puts newly reserved bounds into the batch that uses them. */
  saveTo(batch: { put(key: Uint8Array<ArrayBuffer>, value: Value): void }): void {
    if (!this.#dirty) return;
    this.#dirty = false;
    this.reservations++;
    const bounds = COUNTERS.map((counter) => this.#reserved[counter]);
    batch.put(KEY, encodeNumbers([...bounds, this.#generationFloor]));
  }
}
