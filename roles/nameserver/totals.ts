/** Running totals of the namespace (inodes, blocks, replicas, data of small files), kept in the same batch as what they count. */

import { metaKey } from "./keys.ts";
import { decodeNumbers, encodeNumbers } from "./records.ts";
import type { Value } from "./journal.ts";

/** In the order in which they are stored. */
export const TOTAL_NAMES = ["inodes", "blocks", "replicas", "inlineFiles", "inlineBytes"] as const;
export type TotalName = typeof TOTAL_NAMES[number];

export class Totals {
  readonly #values: Record<TotalName, number>;
  #dirty = false;

  constructor(stored: Value | undefined) {
    const numbers = stored === undefined ? [] : decodeNumbers(stored);
    this.#values = Object.fromEntries(TOTAL_NAMES.map((name, i) => [name, numbers[i] ?? 0])) as Record<
      TotalName,
      number
    >;
  }

  static readonly key = metaKey("totals");

  get(name: TotalName): number {
    return this.#values[name];
  }

  add(name: TotalName, difference: number): void {
    this.#values[name] += difference;
    this.#dirty = true;
  }

  saveTo(batch: { put(key: Uint8Array<ArrayBuffer>, value: Value): void }): void {
    if (!this.#dirty) return;
    this.#dirty = false;
    batch.put(Totals.key, encodeNumbers(TOTAL_NAMES.map((name) => this.#values[name])));
  }
}
