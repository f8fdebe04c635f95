/**
 * POSIX ACLs of inodes. They are kept among the extended attributes, under the names that Linux has for them; who may do
 * what is checked by the kernels of the clients.
 * Invariants: the permission bits of the mode are those of the access ACL (of the group: its mask); an access ACL that says
 * no more than the mode is not kept; only directories have a default ACL.
 */

import {
  ACCESS_ACL,
  type Acl,
  aclAfterChmod,
  decodeAcl,
  DEFAULT_ACL,
  encodeAcl,
  inheritedAcl,
  isEquivalentToMode,
  modeOfAcl,
} from "../../base/posix_acl.ts";
import { bytesEqual, bytesOf, startsWith } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { S_IFLNK, S_IFMT, S_ISGID } from "../../wire/messages/inode.ts";
import { type InodeRecord, isDirectory } from "./records.ts";
import type { Transaction } from "./transaction.ts";
import { findXattr, loadXattrs, storeXattrs, withoutXattr, withXattr } from "./xattr_records.ts";

const SYSTEM = bytesOf("system.");

export function isSystemXattr(name: Uint8Array): boolean {
  return startsWith(name, SYSTEM);
}

/**
 * Sets the ACL of that name; `value` null, or without entries, removes it, which may be done when there is none.
 * `killSetgid`: the caller is not of the file's group, so that its setgid goes. Errors: EOPNOTSUPP (no such system attribute,
 * or a symlink), EACCES (a default ACL of what is no directory), EINVAL (not an ACL).
 */
export function setAcl(
  tx: Transaction,
  inode: InodeRecord,
  name: Uint8Array,
  value: Uint8Array | null,
  killSetgid: boolean,
): InodeRecord {
  const isDefault = bytesEqual(name, DEFAULT_ACL);
  if ((!isDefault && !bytesEqual(name, ACCESS_ACL)) || (inode.mode & S_IFMT) === S_IFLNK) {
    throw new FsError("EOPNOTSUPP", "of system attributes there are POSIX ACLs only, and not of symlinks");
  }
  const acl = value === null ? [] : decodeAcl(value);
  if (acl === undefined) throw new FsError("EINVAL", "not a valid POSIX ACL");
  if (isDefault && !isDirectory(inode)) {
    if (acl.length > 0) throw new FsError("EACCES", "only directories have a default ACL");
    return inode;
  }
  const old = loadXattrs(tx, inode);
  if (acl.length === 0 && findXattr(old, name) === undefined) return inode;
  if (!isDefault && acl.length > 0) {
    tx.change(inode);
    inode.mode = modeOfAcl(acl, inode.mode);
    if (killSetgid) inode.mode &= ~S_ISGID;
  }
  const isKept = acl.length > 0 && (isDefault || !isEquivalentToMode(acl));
  return storeXattrs(tx, inode, isKept ? withXattr(old, name, encodeAcl(acl)) : withoutXattr(old, name));
}

function aclOf(tx: Transaction, inode: InodeRecord, name: Uint8Array): Acl | undefined {
  const value = findXattr(loadXattrs(tx, inode), name);
  return value === undefined ? undefined : decodeAcl(value);
}

/** After a change of the mode: its access ACL, if it has one, says the same. */
export function followMode(tx: Transaction, inode: InodeRecord): void {
  const acl = aclOf(tx, inode, ACCESS_ACL);
  if (acl === undefined) return;
  storeXattrs(
    tx,
    inode,
    withXattr(loadXattrs(tx, inode), ACCESS_ACL, encodeAcl(aclAfterChmod(acl, inode.mode))),
  );
}

/**
 * Gives a new inode the permissions that its directory wants: by the directory's default ACL, which a directory inherits as
 * its own as well; else what `umask` leaves.
 */
export function inheritPermissions(
  tx: Transaction,
  parent: InodeRecord,
  inode: InodeRecord,
  umask: number,
): void {
  if ((inode.mode & S_IFMT) === S_IFLNK) return;
  const inherited = aclOf(tx, parent, DEFAULT_ACL);
  if (inherited === undefined) {
    inode.mode &= ~(umask & 0o777);
    return;
  }
  const { mode, acl } = inheritedAcl(inherited, inode.mode);
  inode.mode = mode;
  const xattrs = [
    ...acl === undefined ? [] : [[ACCESS_ACL, encodeAcl(acl)] as const],
    ...isDirectory(inode) ? [[DEFAULT_ACL, encodeAcl(inherited)] as const] : [],
  ];
  if (xattrs.length > 0) storeXattrs(tx, inode, xattrs);
}
