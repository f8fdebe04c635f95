/**
 * The key space of the namespace in LevelDB: one byte of table, then big-endian fields, so that a range of keys
 * is a range of ids. Owns the byte layout of keys; values are records.ts.
 */

import type { BlockId, InodeId, SessionId, VolumeId } from "../../wire/ids.ts";
import { bytesOf } from "../../base/bytes.ts";

const META = 0x01;
export const TABLE_INODE = 0x10;
export const TABLE_ENTRY = 0x11;
export const TABLE_ORDER = 0x12;
export const TABLE_EXTENTS = 0x13;
export const TABLE_XATTRS = 0x14;
export const TABLE_ORPHAN = 0x15;
export const TABLE_REPLICA = 0x16;
export const TABLE_DELETION = 0x17;
export const TABLE_RETRY = 0x18;
export const TABLE_SESSION = 0x19;
export const TABLE_NODE = 0x1a;
export const TABLE_VOLUME = 0x1b;
export const TABLE_WRITER = 0x1c;
export const TABLE_INLINE = 0x1d;
export const TABLE_RESERVED = 0x1e;

export type Key = Uint8Array<ArrayBuffer>;

function setU64(bytes: Uint8Array, at: number, value: number): void {
  const high = Math.floor(value / 0x1_0000_0000);
  const low = value >>> 0;
  bytes[at] = high >>> 24;
  bytes[at + 1] = high >>> 16;
  bytes[at + 2] = high >>> 8;
  bytes[at + 3] = high;
  bytes[at + 4] = low >>> 24;
  bytes[at + 5] = low >>> 16;
  bytes[at + 6] = low >>> 8;
  bytes[at + 7] = low;
}

/** The unsigned 64-bit big-endian number at `at` (ours are below 2^53). */
export function getU64(bytes: Uint8Array, at: number): number {
  const high = bytes[at]! * 0x100_0000 + (bytes[at + 1]! << 16) + (bytes[at + 2]! << 8) + bytes[at + 3]!;
  const low = bytes[at + 4]! * 0x100_0000 + (bytes[at + 5]! << 16) + (bytes[at + 6]! << 8) + bytes[at + 7]!;
  return high * 0x1_0000_0000 + low;
}

function key1(table: number, a: number): Key {
  const key = new Uint8Array(9);
  key[0] = table;
  setU64(key, 1, a);
  return key;
}

function key2(table: number, a: number, b: number): Key {
  const key = new Uint8Array(17);
  key[0] = table;
  setU64(key, 1, a);
  setU64(key, 9, b);
  return key;
}

export function metaKey(name: string): Key {
  const text = bytesOf(name);
  const key = new Uint8Array(1 + text.length);
  key[0] = META;
  key.set(text, 1);
  return key;
}

export const inodeKey = (ino: InodeId): Key => key1(TABLE_INODE, ino);

export function entryKey(parent: InodeId, name: Uint8Array): Key {
  const key = new Uint8Array(9 + name.length);
  key[0] = TABLE_ENTRY;
  setU64(key, 1, parent);
  key.set(name, 9);
  return key;
}

/** The same entries by cookie, so that a listing has stable positions. */
export const orderKey = (parent: InodeId, cookie: number): Key => key2(TABLE_ORDER, parent, cookie);
export const extentsKey = (ino: InodeId, page: number): Key => key2(TABLE_EXTENTS, ino, page);
export const xattrsKey = (ino: InodeId): Key => key1(TABLE_XATTRS, ino);
/** The data of a small file. */
export const inlineKey = (ino: InodeId): Key => key1(TABLE_INLINE, ino);
export const orphanKey = (session: SessionId, ino: InodeId): Key => key2(TABLE_ORPHAN, session, ino);
export const replicaKey = (volume: VolumeId, block: BlockId): Key => key2(TABLE_REPLICA, volume, block);
export const deletionKey = (volume: VolumeId, block: BlockId): Key => key2(TABLE_DELETION, volume, block);
export const retryKey = (session: SessionId, slot: number): Key => key2(TABLE_RETRY, session, slot);
export const sessionKey = (session: SessionId): Key => key1(TABLE_SESSION, session);
export const nodeKey = (node: number): Key => key1(TABLE_NODE, node);
/** The session may write to the file: it holds a write lease. */
export const writerKey = (session: SessionId, ino: InodeId): Key => key2(TABLE_WRITER, session, ino);
/** A block that the session may give a file which it makes. */
export const reservedKey = (session: SessionId, block: BlockId): Key => key2(TABLE_RESERVED, session, block);
export const volumeKey = (volume: number): Key => key1(TABLE_VOLUME, volume);

/** All keys of a table, as [from, to). */
export function tableRange(table: number): readonly [Key, Key] {
  return [new Uint8Array([table]), new Uint8Array([table + 1])];
}

/** All keys of a table whose first field is `a`, as [from, to). */
export function prefixRange(table: number, a: number): readonly [Key, Key] {
  return [key1(table, a), key1(table, a + 1)];
}

/** Keys of a table with first field `a` and second field in [from, to). */
export function fieldRange(table: number, a: number, from: number, to: number): readonly [Key, Key] {
  return [key2(table, a, from), to > Number.MAX_SAFE_INTEGER ? key1(table, a + 1) : key2(table, a, to)];
}
