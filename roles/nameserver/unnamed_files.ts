/**
 * Files that are made without a name (O_TMPFILE): born as an orphan of the session that opens them, so that they go when
 * it closes them or ends, unless link(2) has given them a name before.
 * Invariant: an inode without a name that may get one (`isLinkable`) never had one; an unlinked file stays unlinked.
 */

import { EMPTY_BYTES } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import { directory } from "./entries.ts";
import { refuseIfImmutable } from "./inode_flags.ts";
import { orphanKey } from "./keys.ts";
import { type NewInode, newInode } from "./operations.ts";
import type { InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

/** A regular file that `session` has open; owner, group and replication are as of a new file in the directory. */
export function makeUnnamed(
  tx: Transaction,
  parentIno: InodeId,
  what: NewInode,
  isLinkable: boolean,
  session: SessionId,
): InodeRecord {
  const parent = directory(tx, parentIno);
  if (parent.nlink === 0) throw new FsError("ENOENT", "the directory was removed");
  refuseIfImmutable(parent);
  const inode = newInode(tx, parent, what);
  inode.nlink = 0;
  inode.isLinkable = isLinkable;
  tx.put(orphanKey(session, inode.ino), EMPTY_BYTES);
  return inode;
}
