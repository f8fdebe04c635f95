/**
 * Directory entries: a name leads to an inode, and a cookie gives it a stable place in the listing. Both keys of an
 * entry change in the same batch, with the directory's entry count.
 */

import { FsError } from "../../wire/errno.ts";
import type { InodeId } from "../../wire/ids.ts";
import { NAME_BYTES_MAX } from "../../wire/messages/inode.ts";
import { entryKey, orderKey } from "./keys.ts";
import {
  decodeEntry,
  encodeEntry,
  encodeOrder,
  type EntryRecord,
  type InodeRecord,
  isDirectory,
} from "./records.ts";
import type { Transaction } from "./transaction.ts";

/** The directory; ENOENT, ENOTDIR. */
export function directory(tx: Transaction, ino: InodeId): InodeRecord {
  const inode = tx.inode(ino);
  if (!isDirectory(inode)) throw new FsError("ENOTDIR", `inode ${ino} is not a directory`);
  return inode;
}

export function isDotDot(name: Uint8Array): boolean {
  return name.length === 2 && name[0] === 0x2e && name[1] === 0x2e;
}

/** ENAMETOOLONG over 255 bytes; EINVAL for what no client may send as a name. */
export function checkName(name: Uint8Array): void {
  if (name.length > NAME_BYTES_MAX) throw new FsError("ENAMETOOLONG", `name of ${name.length} bytes`);
  const isDot = name.length === 1 && name[0] === 0x2e;
  if (name.length === 0 || isDot || isDotDot(name) || name.includes(0) || name.includes(0x2f)) {
    throw new FsError("EINVAL", "not a name for a directory entry");
  }
}

export function findEntry(tx: Transaction, parent: InodeId, name: Uint8Array): EntryRecord | undefined {
  const bytes = tx.get(entryKey(parent, name));
  return bytes === undefined ? undefined : decodeEntry(bytes);
}

/** The entry; ENOENT. */
export function entry(tx: Transaction, parent: InodeId, name: Uint8Array): EntryRecord {
  const found = findEntry(tx, parent, name);
  if (found === undefined) throw new FsError("ENOENT", "no such entry");
  return found;
}

/** Adds a name to a directory that is marked changed: at the end of its listing, or in a place that is free. */
export function addEntry(
  tx: Transaction,
  parent: InodeRecord,
  name: Uint8Array,
  inode: InodeRecord,
  cookie = tx.ids.next("cookie"),
): void {
  const type = (inode.mode >>> 12) & 15;
  tx.put(entryKey(parent.ino, name), encodeEntry({ ino: inode.ino, type, cookie }));
  tx.put(orderKey(parent.ino, cookie), encodeOrder({ ino: inode.ino, type, name }));
  parent.entries++;
}

/** Makes an existing name lead elsewhere, in its old place of the listing. */
export function redirectEntry(
  tx: Transaction,
  parent: InodeRecord,
  name: Uint8Array,
  old: EntryRecord,
  inode: InodeRecord,
): void {
  const type = (inode.mode >>> 12) & 15;
  tx.put(entryKey(parent.ino, name), encodeEntry({ ino: inode.ino, type, cookie: old.cookie }));
  tx.put(orderKey(parent.ino, old.cookie), encodeOrder({ ino: inode.ino, type, name }));
}

/** Takes a name out of a directory that is marked changed. */
export function removeEntry(tx: Transaction, parent: InodeRecord, name: Uint8Array, old: EntryRecord): void {
  tx.delete(entryKey(parent.ino, name));
  tx.delete(orderKey(parent.ino, old.cookie));
  parent.entries--;
}
