/**
 * Operations on the tree: one function each, one transaction each. They decide errnos and ownership; they know
 * nothing of sessions, leases or connections.
 */

import { EMPTY_BYTES } from "../../base/bytes.ts";
import type { Timespec } from "../../base/clock.ts";
import { FsError } from "../../wire/errno.ts";
import { asInodeId, type InodeId, ROOT_INODE, type SessionId } from "../../wire/ids.ts";
import {
  FILE_BYTES_MAX,
  NLINK_MAX,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  SYMLINK_BYTES_MAX,
} from "../../wire/messages/inode.ts";
import type { Credentials, SetAttributesRequest } from "../../wire/messages/nameserver.ts";
import { dropExtents, truncateExtents } from "./block_operations.ts";
import { dropInline, resizeInline } from "./inline_data.ts";
import { followMode, inheritPermissions } from "./acls.ts";
import {
  addEntry,
  checkName,
  directory,
  entry,
  findEntry,
  isDotDot,
  redirectEntry,
  removeEntry,
} from "./entries.ts";
import { resizeAllocated } from "./extents.ts";
import {
  inheritedFlags,
  refuseAttributes,
  refuseIfImmutable,
  refuseIfProtected,
  refuseRemoval,
  setFlags,
} from "./inode_flags.ts";
import { orphanKey, xattrsKey } from "./keys.ts";
import { type InodeRecord, isDirectory } from "./records.ts";
import type { Transaction } from "./transaction.ts";
import { dropCapability } from "./xattr_records.ts";

const RENAME_NOREPLACE = 1;
const RENAME_EXCHANGE = 2;
const RENAME_WHITEOUT = 4;
const RENAME_FLAGS = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;

export interface NewInode {
  readonly credentials: Credentials;
  readonly mode: number;
  /** Applied to the mode, unless a default ACL is. */
  readonly umask?: number;
  readonly rdev: number;
  readonly target: Uint8Array;
  /** Its number, if that was given out before (reserveInodes). */
  readonly ino?: InodeId;
}

/** The root directory of a new file system; it belongs to whoever makes it. */
export function makeRoot(
  tx: Transaction,
  replication: number,
  owner: Credentials = { uid: 0, gid: 0 },
): void {
  const now = tx.now;
  tx.addInode({
    ...blankInode(ROOT_INODE, S_IFDIR | 0o755, now),
    uid: owner.uid,
    gid: owner.gid,
    nlink: 2,
    parent: ROOT_INODE,
    replication,
  });
}

/** An inode as it is made, with one link. */
export function blankInode(ino: InodeId, mode: number, now: Timespec): InodeRecord {
  return {
    ino,
    mode,
    uid: 0,
    gid: 0,
    nlink: 1,
    rdev: 0,
    size: 0,
    version: 1,
    allocatedBytes: 0,
    atime: now,
    mtime: now,
    ctime: now,
    btime: now,
    replication: 0,
    parent: ino,
    entries: 0,
    target: EMPTY_BYTES,
    pages: [],
    nextPage: 0,
    inlineBytes: 0,
    hasXattrs: false,
    isLinkable: false,
    hasCapability: false,
    flags: 0,
  };
}

/** The inode that the name leads to, which may be ".."; undefined when there is no such name. */
export function lookup(tx: Transaction, parent: InodeId, name: Uint8Array): InodeRecord | undefined {
  const within = directory(tx, parent);
  if (isDotDot(name)) return tx.inode(within.parent);
  checkName(name);
  const found = findEntry(tx, parent, name);
  return found === undefined ? undefined : tx.inode(found.ino);
}

/** mknod, mkdir, symlink and the making half of create. EEXIST when the name is taken. */
export function make(tx: Transaction, parentIno: InodeId, name: Uint8Array, what: NewInode): InodeRecord {
  const parent = directory(tx, parentIno);
  checkName(name);
  if (parent.nlink === 0) throw new FsError("ENOENT", "the directory was removed");
  if (findEntry(tx, parentIno, name) !== undefined) throw new FsError("EEXIST", "the name is taken");
  refuseIfImmutable(parent);
  const type = what.mode & S_IFMT;
  if (type === S_IFLNK && (what.target.length === 0 || what.target.length > SYMLINK_BYTES_MAX)) {
    throw new FsError(what.target.length === 0 ? "ENOENT" : "ENAMETOOLONG", "bad symlink target");
  }
  const inode = newInode(tx, parent, what);
  touchDirectory(tx, parent);
  if (type === S_IFDIR) parent.nlink++;
  addEntry(tx, parent, name, inode);
  return inode;
}

/** An inode as it is made in a directory, before it has a name. */
export function newInode(tx: Transaction, parent: InodeRecord, what: NewInode): InodeRecord {
  const type = what.mode & S_IFMT;
  const setgid = (parent.mode & S_ISGID) !== 0;
  const inode = blankInode(what.ino ?? asInodeId(tx.ids.next("inode")), what.mode, tx.now);
  inode.uid = what.credentials.uid;
  inode.gid = setgid ? parent.gid : what.credentials.gid;
  inode.rdev = what.rdev;
  inode.replication = parent.replication;
  inode.parent = parent.ino;
  inode.flags = type === S_IFLNK ? 0 : inheritedFlags(parent);
  if (type === S_IFDIR) {
    inode.nlink = 2;
    if (setgid) inode.mode |= S_ISGID;
  }
  if (type === S_IFLNK) {
    inode.target = what.target;
    inode.size = what.target.length;
  }
  tx.addInode(inode);
  inheritPermissions(tx, parent, inode, what.umask ?? 0);
  return inode;
}

function touchDirectory(tx: Transaction, parent: InodeRecord): void {
  tx.change(parent);
  parent.mtime = tx.now;
  parent.ctime = tx.now;
}

export function setAttributes(tx: Transaction, request: SetAttributesRequest): InodeRecord {
  const inode = tx.inode(request.ino);
  refuseAttributes(inode, request);
  tx.change(inode);
  if (request.size !== undefined) resize(tx, inode, request.size);
  if (request.mode !== undefined) {
    inode.mode = (inode.mode & S_IFMT) | (request.mode & 0o7777);
    followMode(tx, inode);
  }
  if (request.uid !== undefined) inode.uid = request.uid;
  if (request.gid !== undefined) inode.gid = request.gid;
  if (request.killSuidGid === true) killSuidGid(inode);
  const isOwnerSet = request.uid !== undefined || request.gid !== undefined;
  if (request.size !== undefined || isOwnerSet || request.killCapability === true) dropCapability(tx, inode);
  if (request.flags !== undefined) setFlags(inode, request.flags);
  if (request.atime !== undefined) inode.atime = request.atime === "now" ? tx.now : request.atime;
  if (request.mtime !== undefined) inode.mtime = request.mtime === "now" ? tx.now : request.mtime;
  inode.ctime = tx.now;
  return inode;
}

/** Of a file its own, of a directory what is made in it gets. False: it was so before. */
export function setReplication(tx: Transaction, inode: InodeRecord, replication: number): boolean {
  if (inode.replication === replication) return false;
  tx.change(inode);
  inode.replication = replication;
  inode.ctime = tx.now;
  return true;
}

/** What a write or truncate by an ordinary user takes off an executable: setuid, and setgid where it means that. */
export function killSuidGid(inode: InodeRecord): void {
  if (isDirectory(inode)) return;
  inode.mode &= ~S_ISUID;
  if ((inode.mode & 0o010) !== 0) inode.mode &= ~S_ISGID;
}

/** truncate(2): EINVAL on what has no data, EISDIR, EFBIG. Data past a smaller size is cut or dropped. */
function resize(tx: Transaction, inode: InodeRecord, size: number): void {
  if (isDirectory(inode)) throw new FsError("EISDIR", "a directory has no size");
  if ((inode.mode & S_IFMT) !== S_IFREG) throw new FsError("EINVAL", "only regular files have a size");
  if (size < 0 || !Number.isSafeInteger(size)) throw new FsError("EFBIG", `size ${size}`);
  if (size > FILE_BYTES_MAX) throw new FsError("EFBIG", `size ${size}`);
  resizeInline(tx, inode, size);
  if (size < inode.size) truncateExtents(tx, inode, size);
  const oldSize = inode.size;
  inode.size = size;
  resizeAllocated(tx, inode, oldSize);
  inode.mtime = tx.now;
}

/** A writer's report (commit): size only grows by it. */
export function grow(tx: Transaction, inode: InodeRecord, size: number): void {
  if (size <= inode.size) return;
  if (size > FILE_BYTES_MAX) throw new FsError("EFBIG", `size ${size}`);
  const oldSize = inode.size;
  inode.size = size;
  resizeAllocated(tx, inode, oldSize);
}

/** link(2), also of a file without a name that may get one: whose orphan it was is the caller's to undo. */
export function link(tx: Transaction, ino: InodeId, parentIno: InodeId, name: Uint8Array): InodeRecord {
  const parent = directory(tx, parentIno);
  checkName(name);
  const inode = tx.inode(ino);
  if (isDirectory(inode)) throw new FsError("EPERM", "a directory has one name");
  if (parent.nlink === 0 || (inode.nlink === 0 && !inode.isLinkable)) throw new FsError("ENOENT", "removed");
  if (findEntry(tx, parentIno, name) !== undefined) throw new FsError("EEXIST", "the name is taken");
  refuseIfImmutable(parent);
  refuseIfProtected(inode);
  if (inode.nlink >= NLINK_MAX) throw new FsError("EMLINK", "too many links");
  tx.change(inode);
  inode.nlink++;
  inode.isLinkable = false;
  inode.ctime = tx.now;
  touchDirectory(tx, parent);
  addEntry(tx, parent, name, inode);
  return inode;
}

/** The inode that remove or rename would take a name from, before anything changes. */
export function removalTarget(
  tx: Transaction,
  parentIno: InodeId,
  name: Uint8Array,
): InodeRecord | undefined {
  const found = findEntry(tx, parentIno, name);
  return found === undefined ? undefined : tx.findInode(found.ino);
}

/** unlink and rmdir. `openIn`: sessions that hold the inode open; it lives on as their orphan. */
export function remove(
  tx: Transaction,
  parentIno: InodeId,
  name: Uint8Array,
  isRmdir: boolean,
  openIn: readonly SessionId[],
): InodeRecord {
  const parent = directory(tx, parentIno);
  checkName(name);
  const old = entry(tx, parentIno, name);
  const inode = tx.inode(old.ino);
  refuseRemoval(parent, inode);
  if (isRmdir) {
    if (!isDirectory(inode)) throw new FsError("ENOTDIR", "not a directory");
    if (inode.entries > 0) throw new FsError("ENOTEMPTY", "the directory is not empty");
  } else if (isDirectory(inode)) {
    throw new FsError("EISDIR", "a directory is removed by rmdir");
  }
  touchDirectory(tx, parent);
  removeEntry(tx, parent, name, old);
  dropLink(tx, parent, inode, openIn);
  return inode;
}

/** One name of `inode` is gone: the last one takes the inode with it, unless it is open somewhere. */
function dropLink(
  tx: Transaction,
  parent: InodeRecord,
  inode: InodeRecord,
  openIn: readonly SessionId[],
): void {
  tx.change(inode);
  inode.ctime = tx.now;
  if (isDirectory(inode)) {
    parent.nlink--;
    inode.nlink = 0;
  } else {
    inode.nlink--;
  }
  if (inode.nlink > 0) return;
  if (openIn.length === 0) purge(tx, inode);
  else for (const session of openIn) tx.put(orphanKey(session, inode.ino), EMPTY_BYTES);
}

/** Removes an inode that has no name and is open nowhere, and all that belongs to it. */
export function purge(tx: Transaction, inode: InodeRecord): void {
  dropExtents(tx, inode);
  dropInline(tx, inode);
  if (inode.hasXattrs) tx.delete(xattrsKey(inode.ino));
  tx.removeInode(inode);
}

export interface RenameResult {
  readonly inode: InodeRecord;
  /** What had the new name: it may be gone now, or has the old name. */
  readonly replaced: InodeRecord | undefined;
}

/**
 * rename(2) and renameat2(2); replaces what is at the target in the same batch. `owner`: of what RENAME_WHITEOUT leaves
 * under the old name.
 */
export function rename(
  tx: Transaction,
  fromParent: InodeId,
  fromName: Uint8Array,
  toParent: InodeId,
  toName: Uint8Array,
  flags: number,
  openIn: readonly SessionId[],
  owner: Credentials = { uid: 0, gid: 0 },
): RenameResult {
  const isExchange = (flags & RENAME_EXCHANGE) !== 0;
  if ((flags & ~RENAME_FLAGS) !== 0 || (isExchange && flags !== RENAME_EXCHANGE)) {
    throw new FsError("EINVAL", `rename flags ${flags}`);
  }
  const source = directory(tx, fromParent);
  const target = directory(tx, toParent);
  checkName(fromName);
  checkName(toName);
  if (target.nlink === 0) throw new FsError("ENOENT", "the target directory was removed");
  const moved = entry(tx, fromParent, fromName);
  const inode = tx.inode(moved.ino);
  const existing = findEntry(tx, toParent, toName);
  if (isExchange) {
    if (existing === undefined) throw new FsError("ENOENT", "nothing to exchange with");
    refuseRemoval(source, inode);
    refuseRemoval(target, tx.inode(existing.ino));
    exchange(tx, source, fromName, moved, target, toName, existing);
    return { inode, replaced: existing.ino === moved.ino ? undefined : tx.inode(existing.ino) };
  }
  if (existing !== undefined && (flags & RENAME_NOREPLACE) !== 0) {
    throw new FsError("EEXIST", "the name is taken");
  }
  // Two names of one file: POSIX says that nothing happens.
  if (existing !== undefined && existing.ino === moved.ino) return { inode, replaced: undefined };
  refuseRemoval(source, inode);
  if (existing === undefined) refuseIfImmutable(target);
  else refuseRemoval(target, tx.inode(existing.ino));
  const movesDirectory = isDirectory(inode);
  if (movesDirectory && fromParent !== toParent) refuseLoop(tx, inode, target);

  let replaced: InodeRecord | undefined;
  if (existing !== undefined) {
    replaced = tx.inode(existing.ino);
    if (movesDirectory && !isDirectory(replaced)) throw new FsError("ENOTDIR", "the target is no directory");
    if (!movesDirectory && isDirectory(replaced)) throw new FsError("EISDIR", "the target is a directory");
    if (isDirectory(replaced) && replaced.entries > 0) {
      throw new FsError("ENOTEMPTY", "the target is not empty");
    }
  }
  touchDirectory(tx, source);
  touchDirectory(tx, target);
  if (replaced !== undefined) {
    removeEntry(tx, target, toName, existing!);
    dropLink(tx, target, replaced, openIn);
  }
  const isWhiteout = (flags & RENAME_WHITEOUT) !== 0;
  if (isWhiteout) redirectEntry(tx, source, fromName, moved, makeWhiteout(tx, source, owner));
  else removeEntry(tx, source, fromName, moved);
  // Who is reading the directory meets each file once, also when all are renamed meanwhile, and misses no name that was
  // there all the time: a name that is replaced keeps its place, and a file that gets another name takes its place along.
  const isWithin = fromParent === toParent && !isWhiteout;
  addEntry(tx, target, toName, inode, existing?.cookie ?? (isWithin ? moved.cookie : undefined));
  tx.change(inode);
  inode.ctime = tx.now;
  if (movesDirectory && fromParent !== toParent) {
    source.nlink--;
    target.nlink++;
    inode.parent = toParent;
  }
  return { inode, replaced };
}

/** What overlays take for "nothing is here": a character device 0:0 without any rights. */
function makeWhiteout(tx: Transaction, parent: InodeRecord, owner: Credentials): InodeRecord {
  const inode = blankInode(asInodeId(tx.ids.next("inode")), S_IFCHR, tx.now);
  inode.uid = owner.uid;
  inode.gid = (parent.mode & S_ISGID) !== 0 ? parent.gid : owner.gid;
  inode.parent = parent.ino;
  tx.addInode(inode);
  return inode;
}

function exchange(
  tx: Transaction,
  source: InodeRecord,
  fromName: Uint8Array,
  from: { readonly ino: InodeId; readonly cookie: number; readonly type: number },
  target: InodeRecord,
  toName: Uint8Array,
  to: { readonly ino: InodeId; readonly cookie: number; readonly type: number },
): void {
  if (from.ino === to.ino) return;
  const a = tx.inode(from.ino);
  const b = tx.inode(to.ino);
  if (source.ino !== target.ino) {
    if (isDirectory(a)) refuseLoop(tx, a, target);
    if (isDirectory(b)) refuseLoop(tx, b, source);
  }
  touchDirectory(tx, source);
  touchDirectory(tx, target);
  redirectEntry(tx, source, fromName, from, b);
  redirectEntry(tx, target, toName, to, a);
  for (const [inode, parent] of [[a, target], [b, source]] as const) {
    tx.change(inode);
    inode.ctime = tx.now;
    if (isDirectory(inode)) inode.parent = parent.ino;
  }
  const moved = (isDirectory(a) ? 1 : 0) - (isDirectory(b) ? 1 : 0);
  if (source.ino !== target.ino) {
    source.nlink -= moved;
    target.nlink += moved;
  }
}

/** EINVAL when `inode` is `target` or one of its ancestors: a directory can't move into itself. */
function refuseLoop(tx: Transaction, inode: InodeRecord, target: InodeRecord): void {
  for (let at = target;; at = tx.inode(at.parent)) {
    if (at.ino === inode.ino) throw new FsError("EINVAL", "a directory can't move into its own subtree");
    if (at.ino === ROOT_INODE || at.parent === at.ino) return;
  }
}
