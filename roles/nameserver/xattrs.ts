/**
 * Extended attributes as operations see them. Names and values are bytes; who may use which namespace is checked by the
 * kernels of the clients. Limits as Linux: a name of 255 bytes, a value of 64 KiB, a listing of 64 KiB; and 1 MiB for all of
 * one inode. POSIX ACLs (`system.`) are acls.ts'.
 */

import { bytesOf, EMPTY_BYTES, startsWith } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { XATTR_VALUE_BYTES_MAX } from "../../wire/messages/inode.ts";
import { isSystemXattr, setAcl } from "./acls.ts";
import { refuseIfProtected } from "./inode_flags.ts";
import type { InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";
import { findXattr, loadXattrs, storeXattrs, withoutXattr, withXattr } from "./xattr_records.ts";

const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
const NAME_BYTES_MAX = 255;
/** More names, each with its NUL, no listxattr(2) can return. */
const LIST_BYTES_MAX = 65_536;
const ALL_BYTES_MAX = 1024 * 1024;
/** Names that are answered by the clients, and not kept. */
const VIRTUAL = bytesOf("user.mfs.");

function refuseIfVirtual(name: Uint8Array): void {
  if (startsWith(name, VIRTUAL)) throw new FsError("EPERM", "attributes of user.mfs. are read-only");
}

/** ENODATA when there is none of that name. */
export function getXattr(tx: Transaction, inode: InodeRecord, name: Uint8Array): Uint8Array {
  const value = findXattr(loadXattrs(tx, inode), name);
  if (value === undefined) throw new FsError("ENODATA", "no such attribute");
  return value;
}

export function listXattrs(tx: Transaction, inode: InodeRecord): Uint8Array[] {
  return loadXattrs(tx, inode).map(([name]) => name);
}

/**
 * Errors: EEXIST (XATTR_CREATE), ENODATA (XATTR_REPLACE), E2BIG, ERANGE (name), ENOSPC (all together too large), EPERM
 * (immutable or append-only, or a name that is not kept), and those of an ACL. `killSetgid` as setAcl's.
 */
export function setXattr(
  tx: Transaction,
  inode: InodeRecord,
  name: Uint8Array,
  value: Uint8Array,
  flags: number,
  killSetgid = false,
): InodeRecord {
  refuseIfProtected(inode);
  if (name.length === 0 || name.length > NAME_BYTES_MAX) throw new FsError("ERANGE", "bad attribute name");
  if (value.length > XATTR_VALUE_BYTES_MAX) {
    throw new FsError(
      "E2BIG",
      `attribute of ${value.length} bytes, at most ${XATTR_VALUE_BYTES_MAX} are possible`,
    );
  }
  if (isSystemXattr(name)) return setAcl(tx, inode, name, value, killSetgid);
  refuseIfVirtual(name);
  const old = loadXattrs(tx, inode);
  const exists = findXattr(old, name) !== undefined;
  if (exists && (flags & XATTR_CREATE) !== 0) throw new FsError("EEXIST", "the attribute exists");
  if (!exists && (flags & XATTR_REPLACE) !== 0) throw new FsError("ENODATA", "no such attribute");
  const xattrs = withXattr(old, name, value.length === 0 ? EMPTY_BYTES : value);
  let listBytes = 0;
  let allBytes = 0;
  for (const [other, bytes] of xattrs) {
    listBytes += other.length + 1;
    allBytes += other.length + bytes.length;
  }
  if (listBytes > LIST_BYTES_MAX || allBytes > ALL_BYTES_MAX) {
    throw new FsError("ENOSPC", "the inode's attributes are full");
  }
  return storeXattrs(tx, inode, xattrs);
}

/** ENODATA when there is none of that name, but for ACLs; EPERM as setXattr's. */
export function removeXattr(tx: Transaction, inode: InodeRecord, name: Uint8Array): InodeRecord {
  refuseIfProtected(inode);
  if (isSystemXattr(name)) return setAcl(tx, inode, name, null, false);
  refuseIfVirtual(name);
  const old = loadXattrs(tx, inode);
  const rest = withoutXattr(old, name);
  if (rest.length === old.length) throw new FsError("ENODATA", "no such attribute");
  return storeXattrs(tx, inode, rest);
}
