/**
 * The nameserver's LevelDB, simulated: written batches survive the process, synced ones a power cut; of the others some
 * first ones do.
 */

import { bytesKey } from "../../base/bytes.ts";
import type { BatchOperation, Level, Value } from "../../roles/nameserver/journal.ts";
import type { Key } from "../../roles/nameserver/keys.ts";
import { type Life, NEVER, type Simulation } from "./simulation.ts";

type Batch = readonly BatchOperation[];

/** Records in the order of their keys. */
class Sorted {
  readonly #values = new Map<string, [Key, Value]>();
  #keys: string[] = [];

  put(batch: Batch): void {
    for (const operation of batch) {
      const text = bytesKey(operation.key);
      if (operation.type === "del") {
        if (this.#values.delete(text)) this.#keys.splice(this.#at(text), 1);
      } else {
        if (!this.#values.has(text)) this.#keys.splice(this.#at(text), 0, text);
        this.#values.set(text, [operation.key, operation.value]);
      }
    }
  }

  /** Where `text` is, or would be. */
  #at(text: string): number {
    let low = 0;
    let high = this.#keys.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#keys[middle]! < text) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  get(key: Key): Value | undefined {
    return this.#values.get(bytesKey(key))?.[1];
  }

  range(from: Key, to: Key, limit: number): [Key, Value][] {
    const found: [Key, Value][] = [];
    const end = bytesKey(to);
    for (let at = this.#at(bytesKey(from)); at < this.#keys.length && found.length < limit; at++) {
      const text = this.#keys[at]!;
      if (text >= end) break;
      found.push(this.#values.get(text)!);
    }
    return found;
  }

  copy(): Sorted {
    const copy = new Sorted();
    copy.#keys = [...this.#keys];
    for (const [text, record] of this.#values) copy.#values.set(text, record);
    return copy;
  }
}

export class SimLevel {
  readonly #simulation: Simulation;
  #written = new Sorted();
  #durable = new Sorted();
  #log: Batch[] = [];
  slownessMs = 0;
  /** Counts power cuts. */
  boots = 1;

  constructor(simulation: Simulation) {
    this.#simulation = simulation;
  }

  open(life: Life): Level {
    const simulation = this.#simulation;
    return {
      getSync: (key: Key) => this.#written.get(key),
      batch: async (operations: BatchOperation[], { sync }: { readonly sync: boolean }) => {
        if (life.isOver) return NEVER;
        await life.wait(0.02 + 0.2 * simulation.random.next() + this.slownessMs * simulation.random.next());
        this.#written.put(operations);
        this.#log.push(operations);
        if (sync) {
          for (const batch of this.#log) this.#durable.put(batch);
          this.#log = [];
        }
        await life.wait(0.02 + (sync ? 1 : 0.1) * simulation.random.next());
      },
      iterator: ({ gte, lt, limit }: { readonly gte: Key; readonly lt: Key; readonly limit: number }) => ({
        all: () => life.isOver ? NEVER : Promise.resolve(this.#written.range(gte, lt, limit)),
        close: () => Promise.resolve(),
      }),
      close: () => Promise.resolve(),
    } as unknown as Level;
  }

  /** What is written, for who looks from outside. */
  range([from, to]: readonly [Key, Key]): [Key, Value][] {
    return this.#written.range(from, to, Infinity);
  }

  /** What is left when the machine comes back. */
  powerCut(): void {
    this.boots++;
    const kept = this.#simulation.below(this.#log.length + 1);
    for (const batch of this.#log.slice(0, kept)) this.#durable.put(batch);
    this.#log = [];
    this.#written = this.#durable.copy();
  }
}
