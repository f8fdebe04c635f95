/**
 * Extended attributes as they are stored: all of an inode in one record, read and written whole (they are few and small).
 * The record is CBOR (RFC 8949): an array of arrays of two byte strings. It is read and written here, as `storedCodec` would,
 * but thirty times quicker: some programs keep thousands on one inode, and each is looked for among all.
 */

import { bytesEqual, bytesOf } from "../../base/bytes.ts";
import { xattrsKey } from "./keys.ts";
import type { InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

export type Xattr = readonly [name: Uint8Array, value: Uint8Array];

/** File capabilities (setcap), which whatever changes the data or the owner takes away. */
const CAPABILITY = bytesOf("security.capability");

export function loadXattrs(tx: Transaction, inode: InodeRecord): readonly Xattr[] {
  if (!inode.hasXattrs) return [];
  const bytes = tx.get(xattrsKey(inode.ino));
  return bytes === undefined ? [] : decodeXattrs(bytes);
}

export function storeXattrs(tx: Transaction, inode: InodeRecord, xattrs: readonly Xattr[]): InodeRecord {
  tx.change(inode);
  inode.ctime = tx.now;
  inode.hasXattrs = xattrs.length > 0;
  inode.hasCapability = hasCapability(xattrs);
  if (inode.hasXattrs) tx.put(xattrsKey(inode.ino), encodeXattrs(xattrs));
  else tx.delete(xattrsKey(inode.ino));
  return inode;
}

export function findXattr(xattrs: readonly Xattr[], name: Uint8Array): Uint8Array | undefined {
  return xattrs.find(([other]) => bytesEqual(other, name))?.[1];
}

export function hasCapability(xattrs: readonly Xattr[]): boolean {
  return findXattr(xattrs, CAPABILITY) !== undefined;
}

/** In its place, or behind the others. */
export function withXattr(xattrs: readonly Xattr[], name: Uint8Array, value: Uint8Array): Xattr[] {
  const added: Xattr = [name, value];
  return findXattr(xattrs, name) === undefined
    ? [...xattrs, added]
    : xattrs.map((xattr) => bytesEqual(xattr[0], name) ? added : xattr);
}

export function withoutXattr(xattrs: readonly Xattr[], name: Uint8Array): Xattr[] {
  return xattrs.filter(([other]) => !bytesEqual(other, name));
}

/** What a change of a file's data or owner takes off it, whoever makes it. */
export function dropCapability(tx: Transaction, inode: InodeRecord): void {
  if (inode.hasCapability) storeXattrs(tx, inode, withoutXattr(loadXattrs(tx, inode), CAPABILITY));
}

// ---- the record

const BYTE_STRING = 2;
const ARRAY = 4;

/** Names and values are views of `record`. Throws a RangeError when it is not what `encodeXattrs` makes. */
export function decodeXattrs(record: Uint8Array): Xattr[] {
  let at = 0;
  const head = (type: number): number => {
    const first = record[at++];
    const short = (first ?? 0) & 31;
    if (first === undefined || first >> 5 !== type || short > 26) throw damaged();
    if (short < 24) return short;
    let length = 0;
    for (let bytes = 1 << (short - 24); bytes > 0; bytes--) length = length * 256 + (record[at++] ?? 0);
    return length;
  };
  const bytes = (): Uint8Array => {
    const length = head(BYTE_STRING);
    if (length > record.length - at) throw damaged();
    return record.subarray(at, at += length);
  };
  const xattrs: Xattr[] = [];
  for (let left = head(ARRAY); left > 0; left--) {
    if (head(ARRAY) !== 2) throw damaged();
    xattrs.push([bytes(), bytes()]);
  }
  if (at !== record.length) throw damaged();
  return xattrs;
}

export function encodeXattrs(xattrs: readonly Xattr[]): Uint8Array {
  let length = headBytes(xattrs.length);
  for (const [name, value] of xattrs) {
    length += 1 + headBytes(name.length) + name.length + headBytes(value.length) + value.length;
  }
  const record = new Uint8Array(length);
  let at = 0;
  const head = (type: number, length: number): void => {
    const more = headBytes(length) - 1;
    record[at++] = type << 5 | (more === 0 ? length : more === 1 ? 24 : more === 2 ? 25 : 26);
    for (let shift = 8 * (more - 1); shift >= 0; shift -= 8) record[at++] = length >>> shift;
  };
  const bytes = (part: Uint8Array): void => {
    head(BYTE_STRING, part.length);
    record.set(part, at);
    at += part.length;
  };
  head(ARRAY, xattrs.length);
  for (const [name, value] of xattrs) {
    head(ARRAY, 2);
    bytes(name);
    bytes(value);
  }
  return record;
}

function headBytes(length: number): number {
  return length < 24 ? 1 : length < 0x100 ? 2 : length < 0x10000 ? 3 : 5;
}

function damaged(): RangeError {
  return new RangeError("a record of extended attributes is damaged");
}
