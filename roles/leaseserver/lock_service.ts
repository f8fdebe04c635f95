/** The RPC service for locks: checks what comes in, waits out the time after a restart, and calls the table. */

import { type ByteSpan, isOffset, type LockType } from "../../base/lock_ranges.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import {
  KEPT_RANGES_MAX,
  LOCK_RANGES_MAX,
  type LockOwner,
  LOCKS,
  type OwnedLocks,
} from "../../wire/messages/locks.ts";
import type { Handlers, Peer } from "../../wire/service.ts";
import type { LockTable } from "./locks.ts";
import type { SessionTable } from "./sessions.ts";

export function lockHandlers(sessions: SessionTable, locks: LockTable): Handlers<typeof LOCKS> {
  /** The session of who asks, once all from before a restart have claimed what they hold. */
  const settled = async (peer: Peer): Promise<SessionId> => {
    const session = sessions.of(peer);
    const reclaimed = sessions.allReclaimed(session);
    if (reclaimed === undefined) return session;
    await reclaimed;
    return sessions.of(peer); // it may have come back over another connection, and asked again
  };
  /** What `work` gives for the session of who asks, in a step in which nobody keeps the record locks of any of these files. */
  const freed = async <T>(
    peer: Peer,
    files: readonly Pick<LockOwner, "kind" | "ino">[],
    work: (session: SessionId) => T,
  ): Promise<T> => {
    for (;;) {
      const session = sessions.of(peer);
      let waiting: Promise<void> | undefined;
      for (const file of files) waiting ??= locks.free(session, file);
      if (waiting === undefined) return work(session); // not a step later: others wait for the same
      await waiting;
    }
  };
  return {
    lock: async (request, { peer }) => {
      checkOwner(request);
      checkLock(request, request);
      if (request.wait !== undefined) checkWait(request.wait);
      if (request.keep !== undefined) checkWait(request.keep);
      await settled(peer);
      return await freed(peer, [request], (session) => {
        const granted = locks.lock(session, request);
        const { kind, ino, keep } = request;
        const mayKeep = granted && kind === "posix" && keep !== undefined;
        return mayKeep && locks.keep(session, ino, keep) ? { granted, kept: true } : { granted };
      });
    },
    unlock: async (request, { peer }) => {
      checkOwner(request);
      checkLock(request, { start: request.start, end: request.end });
      await freed(peer, [request], (session) => locks.unlock(session, request, request));
      return { ok: true };
    },
    testLock: async (request, { peer }) => {
      checkOwner(request);
      checkLock(request, request);
      const { start, end, type } = request;
      await settled(peer);
      const conflict = await freed(
        peer,
        [request],
        (session) => locks.test(session, request, { start, end, type }),
      );
      return conflict === undefined ? {} : { conflict };
    },
    cancelLock: ({ wait }, { peer }) => {
      const session = sessions.of(peer);
      checkWait(wait);
      locks.cancel(session, wait);
      return { ok: true };
    },
    setLocks: async ({ owners }, { peer }) => {
      let ranges = 0;
      for (const owned of owners) {
        checkOwner(owned);
        for (const range of owned.ranges) checkLock(owned, range);
        ranges += owned.ranges.length;
      }
      if (owners.length > LOCK_RANGES_MAX || (owners.length > 1 && ranges > LOCK_RANGES_MAX)) {
        throw invalid(`${ranges} ranges of ${owners.length} owners in one message`);
      }
      return await freed(
        peer,
        owners,
        (session) => ({ held: owners.map((owned) => locks.set(session, owned)) }),
      );
    },
    giveUpLocks: ({ ino, kept, owners }, { peer }) => {
      const session = sessions.of(peer);
      if (owners !== undefined) checkGivenUp(ino, owners);
      locks.giveUp(session, ino, kept, owners);
      return { ok: true };
    },
  };
}

function checkOwner({ ino, kind, owner }: LockOwner): void {
  if (!Number.isSafeInteger(ino) || ino <= 0) throw invalid(`inode ${ino}`);
  if (kind !== "posix" && kind !== "flock") throw invalid(`kind ${kind}`);
  if (typeof owner !== "string" || !/^[0-9a-f]{1,16}$/.test(owner)) throw invalid(`owner ${owner}`);
}

function checkLock(
  { kind }: LockOwner,
  { start, end, type = "read" }: ByteSpan & { readonly type?: LockType },
): void {
  const isSpan = isOffset(start) && (end === Infinity || isOffset(end)) && end >= start;
  const isWhole = start === 0 && end === Infinity;
  if (!isSpan || (kind === "flock" && !isWhole)) throw invalid(`bytes ${start} to ${end}`);
  if (type !== "read" && type !== "write") throw invalid(`type ${type}`);
}

function checkGivenUp(ino: InodeId, owners: readonly OwnedLocks[]): void {
  let count = 0;
  for (const owned of owners) {
    checkOwner(owned);
    if (owned.kind !== "posix" || owned.ino !== ino) throw invalid(`kept of inode ${ino}`);
    for (const range of owned.ranges) checkLock(owned, range);
    count += owned.ranges.length;
  }
  if (count > KEPT_RANGES_MAX) throw invalid(`${count} kept ranges`);
}

function checkWait(wait: number): void {
  if (!Number.isSafeInteger(wait) || wait <= 0) throw invalid(`wait ${wait}`);
}

function invalid(what: string): FsError {
  return new FsError("EINVAL", `no such lock: ${what}`, { op: "lock" });
}
