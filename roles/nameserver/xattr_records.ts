/** Extended attributes as they are stored: all of an inode in one record, read and written whole (they are few and small). */

import { bytesEqual, bytesOf } from "../../base/bytes.ts";
import { storedCodec } from "../../wire/codec.ts";
import { xattrsKey } from "./keys.ts";
import type { InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

export type Xattr = readonly [name: Uint8Array, value: Uint8Array];

/** File capabilities (setcap), which whatever changes the data or the owner takes away. */
const CAPABILITY = bytesOf("security.capability");

export function loadXattrs(tx: Transaction, inode: InodeRecord): readonly Xattr[] {
  if (!inode.hasXattrs) return [];
  const bytes = tx.get(xattrsKey(inode.ino));
  return bytes === undefined ? [] : storedCodec.decode(bytes) as Xattr[];
}

export function storeXattrs(tx: Transaction, inode: InodeRecord, xattrs: readonly Xattr[]): InodeRecord {
  tx.change(inode);
  inode.ctime = tx.now;
  inode.hasXattrs = xattrs.length > 0;
  inode.hasCapability = hasCapability(xattrs);
  if (inode.hasXattrs) tx.put(xattrsKey(inode.ino), storedCodec.encode(xattrs));
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
