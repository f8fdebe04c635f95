/**
 * The records of one moment, as a check reads them: what can't be decoded is "damaged" and not an error, and nothing is
 * taken for granted of how records fit together.
 * Invariant: all that is read is of the same moment, between two batches; so a relation that does not hold here is
 * damage, however much changes meanwhile.
 */

import { asInodeId, type InodeId } from "../../wire/ids.ts";
import type { JournalSnapshot, Value } from "./journal.ts";
import { extentsKey, inodeKey, type Key } from "./keys.ts";
import { decodeExtents, decodeInode, type Extent, type InodeRecord } from "./records.ts";

const PAGE = 256;

export type Damaged = "damaged";
export type Read<T> = T | Damaged | undefined;

export class FsckReader {
  readonly #snapshot: JournalSnapshot;
  /** What was read last: much of what is looked at one after the other belongs to one file. */
  #inode: { readonly ino: InodeId; readonly inode: Read<InodeRecord> } | undefined;
  #page: { readonly ino: InodeId; readonly page: number; readonly extents: Read<Extent[]> } | undefined;

  constructor(snapshot: JournalSnapshot) {
    this.#snapshot = snapshot;
  }

  get(key: Key): Value | undefined {
    return this.#snapshot.get(key);
  }

  /** What is under the key. */
  read<T>(key: Key, decode: (value: Value) => T): Read<T> {
    const value = this.#snapshot.get(key);
    return value === undefined ? undefined : decoded(value, decode);
  }

  inode(ino: InodeId): Read<InodeRecord> {
    if (this.#inode?.ino !== ino) {
      this.#inode = { ino, inode: this.read(inodeKey(ino), (value) => decodeInode(ino, value)) };
    }
    return this.#inode.inode;
  }

  page(ino: InodeId, page: number): Read<Extent[]> {
    if (this.#page?.ino !== ino || this.#page.page !== page) {
      this.#page = { ino, page, extents: this.read(extentsKey(ino, page), decodeExtents) };
    }
    return this.#page.extents;
  }

  /** All records of [from, to) in order, a page at a time. */
  async *pages(
    [from, to]: readonly [Key, Key],
    limit = PAGE,
  ): AsyncGenerator<readonly (readonly [Uint8Array, Value])[]> {
    for (let next = from;;) {
      const page = await this.#snapshot.scan([next, to], limit);
      if (page.length > 0) yield page;
      const last = page.at(-1)?.[0];
      if (last === undefined || page.length < limit) return;
      next = keyAfter(last);
    }
  }

  /** The extent that starts at `start`; undefined also when its page is damaged. */
  extent(inode: InodeRecord, start: number): Extent | undefined {
    const ref = inode.pages.findLast(({ first }) => first <= start);
    const extents = ref === undefined ? undefined : this.page(inode.ino, ref.page);
    return Array.isArray(extents) ? extents.find((extent) => extent.start === start) : undefined;
  }

  close(): Promise<void> {
    return this.#snapshot.close();
  }
}

export function decoded<T>(value: Value, decode: (value: Value) => T): T | Damaged {
  try {
    return decode(value);
  } catch {
    return "damaged"; // another version, or too short
  }
}

/** The least key that is greater. */
export function keyAfter(key: Uint8Array): Key {
  const next = new Uint8Array(key.length + 1);
  next.set(key);
  return next;
}

export function inoAt(key: Uint8Array, at: number): InodeId {
  return asInodeId(Number(new DataView(key.buffer, key.byteOffset, key.byteLength).getBigUint64(at)));
}
