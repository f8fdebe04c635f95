/**
 * One operation on the namespace: reads through to the journal, gathers writes, and hands them over as one batch.
 * An operation that throws before `commit` leaves nothing behind.
 * Invariant: a transaction lives within one synchronous step; nothing awaits between its start and its commit.
 */

import { bytesKey } from "../../base/bytes.ts";
import type { Clock, Timespec } from "../../base/clock.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId } from "../../wire/ids.ts";
import type { IdAllocator } from "./id_allocator.ts";
import type { Journal, Value, Write } from "./journal.ts";
import { extentsKey, inodeKey, type Key } from "./keys.ts";
import {
  decodeExtents,
  decodeInode,
  encodeExtents,
  encodeInode,
  type Extent,
  type InodeRecord,
} from "./records.ts";
import type { TotalName, Totals } from "./totals.ts";

interface LoadedInode {
  readonly inode: InodeRecord;
  dirty: boolean;
  /** The operation that has given it a new version. */
  versionOf: number;
}

interface LoadedPage {
  readonly key: Key;
  extents: Extent[];
  dirty: boolean;
}

export class Transaction {
  readonly #journal: Journal;
  readonly #writes = new Map<string, Write>();
  readonly #inodes = new Map<InodeId, LoadedInode>();
  readonly #pages = new Map<string, LoadedPage>();
  readonly ids: IdAllocator;
  readonly #totals: Totals;
  readonly #differences: Partial<Record<TotalName, number>> = {};
  readonly #clock: Clock;
  #now: Timespec | undefined;
  /** Counts the operations that are gathered. */
  #operation = 1;

  constructor(journal: Journal, ids: IdAllocator, totals: Totals, clock: Clock) {
    this.#journal = journal;
    this.ids = ids;
    this.#totals = totals;
    this.#clock = clock;
  }

  /** The time of this operation: one for all that it touches. */
  get now(): Timespec {
    return this.#now ??= this.#clock.now();
  }

  /** What follows is another operation of the same batch, which took place at `now`. */
  nextOperation(now: Timespec): void {
    this.#operation++;
    this.#now = now;
  }

  get(key: Key): Value | undefined {
    if (this.#writes.size > 0) {
      const write = this.#writes.get(bytesKey(key));
      if (write !== undefined) return write[1] ?? undefined;
    }
    return this.#journal.get(key);
  }

  put(key: Key, value: Value): void {
    this.#writes.set(bytesKey(key), [key, value]);
  }

  delete(key: Key): void {
    this.#writes.set(bytesKey(key), [key, null]);
  }

  /** The inode, or undefined. What comes back is shared within the transaction; `change` before writing to it. */
  findInode(ino: InodeId): InodeRecord | undefined {
    const loaded = this.#inodes.get(ino);
    if (loaded !== undefined) return loaded.inode;
    const bytes = this.get(inodeKey(ino));
    if (bytes === undefined) return undefined;
    const inode = decodeInode(ino, bytes);
    this.#inodes.set(ino, { inode, dirty: false, versionOf: 0 });
    return inode;
  }

  /** The inode; ENOENT when it is gone (the client held a stale reference). */
  inode(ino: InodeId): InodeRecord {
    const inode = this.findInode(ino);
    if (inode === undefined) throw new FsError("ENOENT", `no inode ${ino}`);
    return inode;
  }

  addInode(inode: InodeRecord): void {
    this.#inodes.set(inode.ino, { inode, dirty: true, versionOf: this.#operation });
    this.count("inodes", 1);
  }

  /** Marks an inode changed: it gets a new version, one an operation, and is written at commit. */
  change(inode: InodeRecord): InodeRecord {
    const loaded = this.#inodes.get(inode.ino)!;
    loaded.dirty = true;
    if (loaded.versionOf !== this.#operation) {
      loaded.versionOf = this.#operation;
      inode.version++;
    }
    return inode;
  }

  removeInode(inode: InodeRecord): void {
    this.#inodes.delete(inode.ino);
    this.delete(inodeKey(inode.ino));
    this.count("inodes", -1);
  }

  /** One page of a file's extents, shared within the transaction; `changePage` after writing to it. */
  page(ino: InodeId, page: number): Extent[] {
    return this.#page(ino, page).extents;
  }

  changePage(ino: InodeId, page: number, extents: Extent[]): void {
    const loaded = this.#page(ino, page);
    loaded.extents = extents;
    loaded.dirty = true;
  }

  #page(ino: InodeId, page: number): LoadedPage {
    const key = extentsKey(ino, page);
    const text = bytesKey(key);
    let loaded = this.#pages.get(text);
    if (loaded === undefined) {
      const bytes = this.get(key);
      loaded = { key, extents: bytes === undefined ? [] : decodeExtents(bytes), dirty: false };
      this.#pages.set(text, loaded);
    }
    return loaded;
  }

  /** Changes a running total when (and only when) this transaction commits. */
  count(name: TotalName, difference: number): void {
    this.#differences[name] = (this.#differences[name] ?? 0) + difference;
  }

  /** Hands everything over as one batch: its position, or 0 when nothing changed. */
  commit(): number {
    for (const { inode, dirty } of this.#inodes.values()) {
      if (dirty) this.put(inodeKey(inode.ino), encodeInode(inode));
    }
    for (const { key, extents, dirty } of this.#pages.values()) {
      if (!dirty) continue;
      if (extents.length === 0) this.delete(key);
      else this.put(key, encodeExtents(extents));
    }
    for (const [name, difference] of Object.entries(this.#differences)) {
      this.#totals.add(name as TotalName, difference);
    }
    this.ids.saveTo(this);
    this.#totals.saveTo(this);
    return this.#writes.size === 0 ? 0 : this.#journal.append([...this.#writes.values()]);
  }
}
