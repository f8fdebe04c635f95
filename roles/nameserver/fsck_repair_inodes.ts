/** Repairs of inodes: their counts, those that no name leads to, and what is kept of those that were unlinked. */

import { bytesOf, EMPTY_BYTES } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { asInodeId, asSessionId, ROOT_INODE, type SessionId } from "../../wire/ids.ts";
import { S_IFDIR } from "../../wire/messages/inode.ts";
import type { FsckProblem, FsckRepaired } from "../../wire/messages/fsck.ts";
import { addEntry, findEntry } from "./entries.ts";
import type { FsckParts } from "./fsck_context.ts";
import { GONE, refused, repaired } from "./fsck_outcomes.ts";
import { getU64, orphanKey, TABLE_ORPHAN, TABLE_XATTRS, xattrsKey } from "./keys.ts";
import * as operations from "./operations.ts";
import { type InodeRecord, isDirectory } from "./records.ts";
import { nameItem } from "./replies.ts";
import type { Transaction } from "./transaction.ts";
import { hasCapability, loadXattrs } from "./xattr_records.ts";

const NO_SESSION = 0 as SessionId;
const LOST_FOUND = bytesOf("lost+found");
const NAMES_MAX = 100;

/** A change of an inode that clients may know. */
export function changeInode(
  { namespace, leaseserver }: FsckParts,
  { ino, hint }: FsckProblem,
  change: (tx: Transaction, inode: InodeRecord) => FsckRepaired,
): FsckRepaired | Promise<FsckRepaired> {
  if (ino === undefined) return GONE;
  return leaseserver.leases.change(
    NO_SESSION,
    [{ ino, keep: "read", attributes: true }],
    () =>
      namespace.change((tx) => {
        const inode = tx.findInode(ino);
        if (inode === undefined) return GONE;
        if (hint?.version !== undefined && inode.version !== hint.version) return GONE;
        return change(tx, inode);
      }),
  );
}

/** As they were counted, if nothing of the inode has changed since: each change of its names does. */
export function repairLinks(parts: FsckParts, problem: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  const [links, entries] = problem.hint?.numbers ?? [];
  if (links === undefined || entries === undefined || problem.hint?.version === undefined) return GONE;
  return changeInode(parts, problem, (tx, inode) => {
    const isRight = inode.nlink === links && (!isDirectory(inode) || inode.entries === entries);
    if (isRight) return refused("a directory with several names: remove all but one of them");
    tx.change(inode);
    inode.nlink = links;
    if (isDirectory(inode)) inode.entries = entries;
    inode.ctime = tx.now;
    return repaired("it is counted again");
  });
}

export function repairNameless(parts: FsckParts, problem: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  const { namespace, leaseserver } = parts;
  const { ino, hint } = problem;
  const [links, entries] = hint?.numbers ?? [];
  if (ino === undefined || links === undefined || entries === undefined) return GONE;
  const items = [nameItem(ROOT_INODE, LOST_FOUND), { ino, keep: "read", attributes: true } as const];
  return leaseserver.leases.change(NO_SESSION, items, () =>
    namespace.change((tx) => {
      const inode = tx.findInode(ino);
      if (inode === undefined || inode.version !== hint?.version) return GONE;
      const openIn = inode.nlink === 0 ? namespace.sessionsOfOrphan(ino) : [];
      if (openIn.length > 0) {
        for (const session of openIn) tx.put(orphanKey(session, ino), EMPTY_BYTES);
        return repaired("it was unlinked and is open: that is noted again");
      }
      tx.change(inode);
      if (isDirectory(inode)) {
        inode.nlink = links;
        inode.entries = entries;
      } else inode.nlink = 0;
      return adopt(tx, inode);
    }));
}

/** Gives an inode that no name leads to one in /lost+found, with a link more if it is no directory. */
export function adopt(tx: Transaction, inode: InodeRecord): FsckRepaired {
  const found = findEntry(tx, ROOT_INODE, LOST_FOUND);
  const what = { credentials: { uid: 0, gid: 0 }, mode: S_IFDIR | 0o700, rdev: 0, target: EMPTY_BYTES };
  const lost = found === undefined ? operations.make(tx, ROOT_INODE, LOST_FOUND, what) : tx.inode(found.ino);
  if (!isDirectory(lost)) {
    throw new FsError("ENOTDIR", "/lost+found is no directory: give it another name", { op: "fsck" });
  }
  for (let i = 0; i < NAMES_MAX; i++) {
    const name = `#${inode.ino}${i === 0 ? "" : `.${i}`}`;
    if (findEntry(tx, lost.ino, bytesOf(name)) !== undefined) continue;
    tx.change(lost);
    lost.mtime = tx.now;
    lost.ctime = tx.now;
    tx.change(inode);
    inode.ctime = tx.now;
    if (isDirectory(inode)) {
      inode.parent = lost.ino;
      lost.nlink++;
    } else inode.nlink++;
    addEntry(tx, lost, bytesOf(name), inode);
    return repaired(`it is /lost+found/${name} now`);
  }
  return refused("/lost+found has many things of its number: move them away");
}

/** Nobody has it open any more; an inode that has names again stays. */
export async function repairOrphan(
  { namespace, leaseserver }: FsckParts,
  { hint }: FsckProblem,
): Promise<FsckRepaired> {
  if (hint?.key?.[0] !== TABLE_ORPHAN) return GONE;
  const session = asSessionId(getU64(hint.key, 1));
  const ino = asInodeId(getU64(hint.key, 9));
  const key = orphanKey(session, ino);
  const isOver = () => !leaseserver.sessions.isAlive(session) && !namespace.isEnding(session);
  const inode = namespace.begin().findInode(ino);
  const isLeft = inode === undefined || inode.nlink > 0 || isOver();
  if (!isLeft || namespace.journal.get(key) === undefined) return GONE;
  await namespace.releaseOrphan(session, ino);
  // One that memory does not know of.
  await namespace.change((tx) => {
    if (tx.get(key) !== undefined) tx.delete(key);
  });
  return repaired("it is kept no longer");
}

export function repairXattrs(parts: FsckParts, problem: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  const { ino, hint } = problem;
  if (ino === undefined || hint?.key?.[0] !== TABLE_XATTRS) return GONE;
  const key = xattrsKey(ino);
  if (parts.namespace.begin().findInode(ino) === undefined) {
    return parts.namespace.change((tx) => {
      if (tx.findInode(ino) !== undefined || tx.get(key) === undefined) return GONE;
      tx.delete(key);
      return repaired("they are gone: the inode is not there");
    });
  }
  return changeInode(parts, { ...problem, hint: {} }, (tx, inode) => {
    const isThere = tx.get(key) !== undefined;
    if (inode.hasXattrs === isThere) return GONE;
    tx.change(inode);
    inode.hasXattrs = isThere;
    inode.hasCapability = isThere && hasCapability(loadXattrs(tx, inode));
    return repaired(isThere ? "it knows of them again" : "it does not speak of them any more");
  });
}
