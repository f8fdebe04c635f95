/** A Journal in memory, whose writes a test can hold back; and what a test wants to see of its records. */

import { bytesCompare, bytesKey } from "../../../base/bytes.ts";
import type { Journal, JournalSnapshot, Value, Write } from "../../../roles/nameserver/journal.ts";
import type { Key } from "../../../roles/nameserver/keys.ts";

export class MemoryJournal implements Journal {
  readonly #records = new Map<
    string,
    { readonly key: Key; readonly value: Value; readonly position: number }
  >();
  readonly #deleted = new Map<string, number>();
  #position = 0;
  #writtenPosition = 0;
  #seenPosition = 0;
  #isHeld = false;
  #isDurableHeld = false;
  #waiters: { readonly position: number; readonly resolve: () => void }[] = [];
  /** Positions that somebody wanted on disk. */
  readonly durablePositions: number[] = [];

  get position(): number {
    return this.#position;
  }

  /** From now on nothing is written (but all is read) until `release`. */
  hold(): void {
    this.#isHeld = true;
  }

  /** From now on nothing comes onto the disk (but all is written) until `release`. */
  holdDurable(): void {
    this.#isDurableHeld = true;
  }

  release(): void {
    this.#isHeld = this.#isDurableHeld = false;
    this.#writtenPosition = this.#position;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const { resolve } of waiters) resolve();
  }

  get(key: Key): Value | undefined {
    const text = bytesKey(key);
    const record = this.#records.get(text);
    const position = record?.position ?? this.#deleted.get(text) ?? 0;
    if (position > this.#writtenPosition) this.#seenPosition = Math.max(this.#seenPosition, position);
    return record?.value;
  }

  append(writes: readonly Write[]): number {
    const position = ++this.#position;
    for (const [key, value] of writes) {
      const text = bytesKey(key);
      if (value === null) {
        this.#records.delete(text);
        this.#deleted.set(text, position);
      } else {
        this.#records.set(text, { key, value, position });
      }
    }
    if (!this.#isHeld) this.#writtenPosition = position;
    return position;
  }

  seen(): number {
    const position = this.#seenPosition;
    this.#seenPosition = 0;
    return position > this.#writtenPosition ? position : 0;
  }

  written(position: number): Promise<void> | undefined {
    if (position <= this.#writtenPosition) return undefined;
    return new Promise((resolve) => this.#waiters.push({ position, resolve }));
  }

  async durable(position: number): Promise<void> {
    this.durablePositions.push(position);
    if (this.#isDurableHeld) {
      await new Promise<void>((resolve) => this.#waiters.push({ position, resolve }));
    } else await this.written(position);
  }

  /** All records of [from, to) in key order. */
  list(range?: readonly [Key, Key]): (readonly [Key, Value])[] {
    const records: (readonly [Key, Value])[] = [];
    for (const { key, value } of this.#records.values()) {
      const isInside = range === undefined ||
        bytesCompare(key, range[0]) >= 0 && bytesCompare(key, range[1]) < 0;
      if (isInside) records.push([key, value]);
    }
    return records.sort(([a], [b]) => bytesCompare(a, b));
  }

  scan(range: readonly [Key, Key], limit: number): Promise<readonly (readonly [Uint8Array, Value])[]> {
    return Promise.resolve(this.list(range).slice(0, limit));
  }

  read(from: Key): Promise<readonly (readonly [Uint8Array, Value])[]> {
    return Promise.resolve(this.list([from, new Uint8Array([0xff])]).slice(0, 10));
  }

  snapshot(): JournalSnapshot {
    const copy = new MemoryJournal();
    copy.append(this.list());
    return copy;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
