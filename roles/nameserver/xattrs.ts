/**
 * Extended attributes: all of an inode in one record, read and written whole (they are few and small). Names and
 * values are bytes. Limits as Linux: a value of 64 KiB, and 1 MiB for all of one inode.
 */

import { bytesEqual, EMPTY_BYTES } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { storedCodec } from "../../wire/codec.ts";
import { xattrsKey } from "./keys.ts";
import type { InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
const VALUE_BYTES_MAX = 65_536;
const ALL_BYTES_MAX = 1024 * 1024;

type Xattr = readonly [name: Uint8Array, value: Uint8Array];

function load(tx: Transaction, inode: InodeRecord): readonly Xattr[] {
  if (!inode.hasXattrs) return [];
  const bytes = tx.get(xattrsKey(inode.ino));
  return bytes === undefined ? [] : storedCodec.decode(bytes) as Xattr[];
}

function store(tx: Transaction, inode: InodeRecord, xattrs: readonly Xattr[]): InodeRecord {
  tx.change(inode);
  inode.ctime = tx.now;
  inode.hasXattrs = xattrs.length > 0;
  if (inode.hasXattrs) tx.put(xattrsKey(inode.ino), storedCodec.encode(xattrs));
  else tx.delete(xattrsKey(inode.ino));
  return inode;
}

/** ENODATA when there is none of that name. */
export function getXattr(tx: Transaction, inode: InodeRecord, name: Uint8Array): Uint8Array {
  const found = load(tx, inode).find(([other]) => bytesEqual(other, name));
  if (found === undefined) throw new FsError("ENODATA", "no such attribute");
  return found[1];
}

export function listXattrs(tx: Transaction, inode: InodeRecord): Uint8Array[] {
  return load(tx, inode).map(([name]) => name);
}

/** EEXIST (XATTR_CREATE), ENODATA (XATTR_REPLACE), E2BIG, ERANGE (name), ENOSPC (all together too large). */
export function setXattr(
  tx: Transaction,
  inode: InodeRecord,
  name: Uint8Array,
  value: Uint8Array,
  flags: number,
): InodeRecord {
  if (name.length === 0 || name.length > 255) throw new FsError("ERANGE", "bad attribute name");
  if (value.length > VALUE_BYTES_MAX) throw new FsError("E2BIG", `attribute of ${value.length} bytes`);
  const old = load(tx, inode);
  const exists = old.some(([other]) => bytesEqual(other, name));
  if (exists && (flags & XATTR_CREATE) !== 0) throw new FsError("EEXIST", "the attribute exists");
  if (!exists && (flags & XATTR_REPLACE) !== 0) throw new FsError("ENODATA", "no such attribute");
  const added: Xattr = [name, value.length === 0 ? EMPTY_BYTES : value];
  const xattrs = exists ? old.map((xattr) => bytesEqual(xattr[0], name) ? added : xattr) : [...old, added];
  let total = 0;
  for (const [other, bytes] of xattrs) total += other.length + bytes.length;
  if (total > ALL_BYTES_MAX) throw new FsError("ENOSPC", "the inode's attributes are full");
  return store(tx, inode, xattrs);
}

export function removeXattr(tx: Transaction, inode: InodeRecord, name: Uint8Array): InodeRecord {
  const old = load(tx, inode);
  const rest = old.filter(([other]) => !bytesEqual(other, name));
  if (rest.length === old.length) throw new FsError("ENODATA", "no such attribute");
  return store(tx, inode, rest);
}
