/**
 * What inode flags (chattr) forbid, as on ext4: nothing of an immutable inode changes; an append-only file only grows, and
 * of an append-only directory no name goes. They bind everybody, root as well; that only CAP_LINUX_IMMUTABLE sets or clears
 * them is checked by the kernels of the clients.
 */

import { FsError } from "../../wire/errno.ts";
import {
  FS_APPEND_FL,
  FS_IMMUTABLE_FL,
  INHERITED_FLAGS,
  INODE_FLAGS,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
} from "../../wire/messages/inode.ts";
import type { SetAttributesRequest } from "../../wire/messages/nameserver.ts";
import type { InodeRecord } from "./records.ts";

const PROTECTED = FS_IMMUTABLE_FL | FS_APPEND_FL;

function immutable(): FsError {
  return new FsError("EPERM", "the inode is immutable (chattr -i makes it changeable)");
}

function appendOnly(): FsError {
  return new FsError("EPERM", "the inode is append-only (chattr -a makes it changeable)");
}

/** EPERM when immutable: of data, or of names in a directory. */
export function refuseIfImmutable(inode: InodeRecord): void {
  if ((inode.flags & FS_IMMUTABLE_FL) !== 0) throw immutable();
}

/** EPERM when immutable or append-only: of all else. */
export function refuseIfProtected(inode: InodeRecord): void {
  if ((inode.flags & PROTECTED) === 0) return;
  refuseIfImmutable(inode);
  throw appendOnly();
}

/** EPERM unless a name that leads to `inode` may be taken from `parent`. */
export function refuseRemoval(parent: InodeRecord, inode: InodeRecord): void {
  refuseIfProtected(parent);
  refuseIfProtected(inode);
}

/** EPERM unless these attributes may change: the times of an append-only inode only to now, and its size not at all. */
export function refuseAttributes(inode: InodeRecord, request: SetAttributesRequest): void {
  const { mode, uid, gid, size, atime, mtime } = request;
  const changes = [mode, uid, gid, size, atime, mtime].some((value) => value !== undefined);
  if ((inode.flags & PROTECTED) === 0 || !changes) return;
  refuseIfImmutable(inode);
  const isTouch = [mode, uid, gid, size].every((value) => value === undefined) &&
    [atime, mtime].every((value) => value === undefined || value === "now");
  if (!isTouch) throw appendOnly();
}

/**
 * Flags that chattr asks for. EOPNOTSUPP: one of them is not known; ENOTTY: neither file nor directory; EPERM: the inode is
 * immutable and stays so.
 */
export function setFlags(inode: InodeRecord, flags: number): void {
  const type = inode.mode & S_IFMT;
  if (type !== S_IFREG && type !== S_IFDIR) {
    throw new FsError("ENOTTY", "only files and directories have flags");
  }
  if ((flags & ~INODE_FLAGS) !== 0) {
    throw new FsError(
      "EOPNOTSUPP",
      "of inode flags immutable, append-only, no-dump, no-atime and sync are possible",
    );
  }
  if (flags !== inode.flags && (flags & FS_IMMUTABLE_FL) !== 0) refuseIfImmutable(inode);
  inode.flags = flags;
}

/** The flags of what is made in a directory. */
export function inheritedFlags(parent: InodeRecord): number {
  return parent.flags & INHERITED_FLAGS;
}
