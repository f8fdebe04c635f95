/**
 * Locks on files (flock(2) and fcntl(2) record locks) between clients and the leaseserver, which keeps them for a
 * session and an owner.
 *
 * Each change says what is so afterwards, so that one that is sent again changes nothing more. A client sends the
 * changes of one owner on one file one after the other, and gives none up: what it does not want any more it takes back
 * by another. A lock that is not free is waited for under a number of the client's own: `lock` answers that it was not
 * granted, LEASE_PUSHES' `lockOffered` comes when it is free, and kept for the waiter, and the same `lock` takes it.
 *
 * Record locks of a file that only one client's processes lock are left to that client ("kept"): it grants and releases them
 * itself, and the server does not hear of it, until another client wants something of the file. `recallLocks` asks for them
 * then, and `giveUpLocks` tells what is held.
 */

import type { ByteSpan, LockedRange } from "../../base/lock_ranges.ts";
import type { InodeId } from "../ids.ts";
import { defineService, method } from "../service.ts";

/** fcntl's record locks, of processes or of open files (OFD), and flock's: they know nothing of each other. */
export type LockKind = "posix" | "flock";

/** Whose, and on what. */
export interface LockOwner {
  readonly ino: InodeId;
  readonly kind: LockKind;
  /** The kernel's name for a process or an open file: 64 bits in hexadecimal, unique in a session. */
  readonly owner: string;
}

export interface LockRequest extends LockOwner, LockedRange {
  /** The process, as the kernel there calls it. */
  readonly pid: number;
  /** The number of the wait, if it may be waited for; with one that waits already: what has become of it. */
  readonly wait?: number;
  /** The owner is not one thread of control (OFD): no deadlock is looked for. */
  readonly isUnchecked?: boolean;
  /**
   * No other call of the client about the file's record locks is under way, and it would keep them, under this number, which it
   * uses once.
   */
  readonly keep?: number;
}

export interface LockReply {
  readonly granted: boolean;
  /** The file's record locks are the client's own from now on. */
  readonly kept?: true;
}

/** All that an owner holds on a file. */
export interface OwnedLocks extends LockOwner {
  readonly pid: number;
  readonly ranges: readonly LockedRange[];
}

/** A lock that is in the way. */
export interface LockConflict extends LockedRange {
  /** The process, if it is one of the asking client's; else 0. */
  readonly pid: number;
}

/** Ranges in one message that speaks of many owners; one with more goes by itself. */
export const LOCK_RANGES_MAX = 10_000;
/** Files whose record locks a client may keep, and ranges of each. */
export const KEPT_FILES_MAX = 256;
export const KEPT_RANGES_MAX = 256;

export const LOCKS = defineService("locks", {
  /** Errors: EAGAIN (without `wait`), EDEADLK, ENOLCK. */
  lock: method<LockRequest, LockReply>(45),
  unlock: method<LockOwner & ByteSpan, { readonly ok: true }>(46),
  testLock: method<LockOwner & LockedRange, { readonly conflict?: LockConflict }>(47),
  /** Waits no more; a lock that was offered meanwhile is free again. */
  cancelLock: method<{ readonly wait: number }, { readonly ok: true }>(48),
  /**
   * These owners hold exactly that from now on: after a restart of the server, in place of something that may or may not
   * have been applied, or nothing any more. `held`: false where others hold something in the way; such an owner holds
   * nothing then.
   */
  setLocks: method<{ readonly owners: readonly OwnedLocks[] }, { readonly held: readonly boolean[] }>(49),
  /**
   * The client keeps the file's record locks no more: its owners hold exactly that. Without `owners` it did not take up that it
   * keeps them: what the server knows is all. Without effect when it does not keep them under that number.
   */
  giveUpLocks: method<
    { readonly ino: InodeId; readonly kept: number; readonly owners?: readonly OwnedLocks[] },
    { readonly ok: true }
  >(50),
});
