/** Repairs names and listings of directories. The number of entries and links is right again after the next look. */

import { bytesEqual } from "../../base/bytes.ts";
import { asInodeId, type InodeId, type SessionId } from "../../wire/ids.ts";
import type { FsckProblem, FsckRepaired } from "../../wire/messages/fsck.ts";
import { findEntry, removeEntry } from "./entries.ts";
import type { FsckParts } from "./fsck_context.ts";
import { keyAfter } from "./fsck_reader.ts";
import { GONE, refused, repaired } from "./fsck_outcomes.ts";
import { adopt } from "./fsck_repair_inodes.ts";
import {
  entryKey,
  getU64,
  orderKey,
  prefixRange,
  TABLE_ENTRY,
  TABLE_EXTENTS,
  TABLE_ORDER,
  xattrsKey,
} from "./keys.ts";
import { nameItem } from "./replies.ts";
import {
  decodeEntry,
  decodeOrder,
  encodeEntry,
  encodeOrder,
  type EntryRecord,
  type InodeRecord,
  isDirectory,
} from "./records.ts";
import type { Transaction } from "./transaction.ts";

const NO_SESSION = 0 as SessionId;
const PAGE = 1000;

/** A change of a name that clients may know. */
function changeName(
  { namespace, leaseserver }: FsckParts,
  parent: InodeId,
  name: Uint8Array,
  change: (tx: Transaction) => FsckRepaired,
): Promise<FsckRepaired> {
  return leaseserver.leases.change(NO_SESSION, [nameItem(parent, name)], () => namespace.change(change));
}

function directoryOf(tx: Transaction, ino: InodeId): InodeRecord | undefined {
  const inode = tx.findInode(ino);
  return inode !== undefined && isDirectory(inode) ? inode : undefined;
}

export async function repairEntry(parts: FsckParts, { hint }: FsckProblem): Promise<FsckRepaired> {
  const key = hint?.key;
  if (key?.[0] !== TABLE_ENTRY) return GONE;
  const parent = asInodeId(getU64(key, 1));
  const name = key.slice(9);
  const seen = findEntry(parts.namespace.begin(), parent, name);
  if (seen === undefined) return GONE;
  const hasRest = await hasLeft(parts, seen.ino);
  const otherName = await nameElsewhere(parts, seen.ino, parent);
  return await changeName(parts, parent, name, (tx) => {
    const entry = findEntry(tx, parent, name);
    if (entry?.ino !== seen.ino) return GONE;
    const directory = directoryOf(tx, parent);
    const inode = tx.findInode(entry.ino);
    if (inode === undefined) {
      if (hasRest) return refused(`what is left of inode ${entry.ino} is kept, and so is its name`);
      if (directory === undefined) dropEntry(tx, parent, name, entry);
      else removeEntry(tx, tx.change(directory), name, entry);
      return repaired("the name is gone: nothing was left of what it led to");
    }
    if (directory === undefined) {
      dropEntry(tx, parent, name, entry);
      return adopt(tx, inode);
    }
    const type = (inode.mode >>> 12) & 15;
    if (entry.type !== type) {
      putEntry(tx, parent, name, { ...entry, type });
      return repaired("it has its type again");
    }
    if (!isDirectory(inode) || inode.parent === parent) return GONE;
    if (otherName) {
      return refused("the directory has another name where it says that it is: remove one of them");
    }
    tx.change(inode);
    inode.parent = parent;
    return repaired("the directory knows again where it is");
  });
}

/** Something of an inode without a record is there. */
async function hasLeft({ namespace: { journal } }: FsckParts, ino: InodeId): Promise<boolean> {
  if (journal.get(xattrsKey(ino)) !== undefined) return true;
  for (const table of [TABLE_EXTENTS, TABLE_ENTRY]) {
    if ((await journal.scan(prefixRange(table, ino), 1)).length > 0) return true;
  }
  return false;
}

/** A directory has a name in the one that it says it is in, if that is another one. */
async function nameElsewhere({ namespace }: FsckParts, ino: InodeId, parent: InodeId): Promise<boolean> {
  const inode = namespace.begin().findInode(ino);
  if (inode === undefined || !isDirectory(inode) || inode.parent === parent) return false;
  const [from, to] = prefixRange(TABLE_ENTRY, inode.parent);
  for (let next = from;;) {
    const page = await namespace.journal.scan([next, to], PAGE);
    if (page.some(([, value]) => decodeEntry(value).ino === ino)) return true;
    const last = page.at(-1)?.[0];
    if (last === undefined || page.length < PAGE) return false;
    next = keyAfter(last);
  }
}

function putEntry(tx: Transaction, parent: InodeId, name: Uint8Array, entry: EntryRecord): void {
  tx.put(entryKey(parent, name), encodeEntry(entry));
  tx.put(orderKey(parent, entry.cookie), encodeOrder({ ino: entry.ino, type: entry.type, name }));
}

/** Of a directory that is not there. */
function dropEntry(tx: Transaction, parent: InodeId, name: Uint8Array, { cookie }: EntryRecord): void {
  tx.delete(entryKey(parent, name));
  const order = tx.get(orderKey(parent, cookie));
  if (order !== undefined && bytesEqual(decodeOrder(order).name, name)) tx.delete(orderKey(parent, cookie));
}

export async function repairOrder(parts: FsckParts, { hint }: FsckProblem): Promise<FsckRepaired> {
  const key = hint?.key;
  if (key === undefined) return GONE;
  const parent = asInodeId(getU64(key, 1));
  if (key[0] === TABLE_ENTRY) {
    const name = key.slice(9);
    return await changeName(parts, parent, name, (tx) => listAgain(tx, parent, name));
  }
  if (key[0] !== TABLE_ORDER) return GONE;
  const cookie = getU64(key, 9);
  const seen = parts.namespace.begin().get(orderKey(parent, cookie));
  if (seen === undefined) return GONE;
  const { name } = decodeOrder(seen);
  return await changeName(parts, parent, name, (tx) => nameAgain(tx, parent, cookie));
}

/** The name has its place in the listing, or another one where somebody else has that. */
function listAgain(tx: Transaction, parent: InodeId, name: Uint8Array): FsckRepaired {
  const entry = findEntry(tx, parent, name);
  if (entry === undefined) return GONE;
  const value = tx.get(orderKey(parent, entry.cookie));
  const order = value === undefined ? undefined : decodeOrder(value);
  if (
    order !== undefined && bytesEqual(order.name, name) && order.ino === entry.ino &&
    order.type === entry.type
  ) {
    if (entry.cookie > 2) return GONE;
    tx.delete(orderKey(parent, entry.cookie));
  }
  const isOthers = order !== undefined && !bytesEqual(order.name, name) &&
    findEntry(tx, parent, order.name)?.cookie === entry.cookie;
  const cookie = isOthers || entry.cookie <= 2 ? tx.ids.next("cookie") : entry.cookie;
  putEntry(tx, parent, name, { ...entry, cookie });
  return repaired("it is in the listing again");
}

/** What is listed is a name again, or is not listed if it leads nowhere. */
function nameAgain(tx: Transaction, parent: InodeId, cookie: number): FsckRepaired {
  const value = tx.get(orderKey(parent, cookie));
  if (value === undefined) return GONE;
  const { ino, type, name } = decodeOrder(value);
  const entry = findEntry(tx, parent, name);
  if (entry?.cookie === cookie) {
    return directoryOf(tx, parent) === undefined ? refused("its name is dealt with first") : GONE;
  }
  if (entry !== undefined || tx.findInode(ino) === undefined) {
    tx.delete(orderKey(parent, cookie));
    return repaired(entry === undefined ? "it is not listed any more: it led nowhere" : "it is listed once");
  }
  if (directoryOf(tx, parent) === undefined) {
    tx.delete(orderKey(parent, cookie));
    return repaired("it is not listed any more: its directory is not there");
  }
  tx.put(entryKey(parent, name), encodeEntry({ ino, type, cookie }));
  return repaired("the name leads there again");
}
