/** The RPC service for locks: checks what comes in, waits out the time after a restart, and calls the table. */

import { type ByteSpan, isOffset, type LockType } from "../../base/lock_ranges.ts";
import { FsError } from "../../wire/errno.ts";
import type { SessionId } from "../../wire/ids.ts";
import { LOCK_RANGES_MAX, type LockOwner, LOCKS } from "../../wire/messages/locks.ts";
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
  return {
    lock: async (request, { peer }) => {
      checkOwner(request);
      checkLock(request, request);
      if (request.wait !== undefined) checkWait(request.wait);
      return { granted: locks.lock(await settled(peer), request) };
    },
    unlock: (request, { peer }) => {
      const session = sessions.of(peer);
      checkOwner(request);
      checkLock(request, { start: request.start, end: request.end });
      locks.unlock(session, request, request);
      return { ok: true };
    },
    testLock: async (request, { peer }) => {
      checkOwner(request);
      checkLock(request, request);
      const { start, end, type } = request;
      const conflict = locks.test(await settled(peer), request, { start, end, type });
      return conflict === undefined ? {} : { conflict };
    },
    cancelLock: ({ wait }, { peer }) => {
      const session = sessions.of(peer);
      checkWait(wait);
      locks.cancel(session, wait);
      return { ok: true };
    },
    setLocks: ({ owners }, { peer }) => {
      const session = sessions.of(peer);
      let ranges = 0;
      for (const owned of owners) {
        checkOwner(owned);
        for (const range of owned.ranges) checkLock(owned, range);
        ranges += owned.ranges.length;
      }
      if (owners.length > LOCK_RANGES_MAX || (owners.length > 1 && ranges > LOCK_RANGES_MAX)) {
        throw invalid(`${ranges} ranges of ${owners.length} owners in one message`);
      }
      return { held: owners.map((owned) => locks.set(session, owned)) };
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

function checkWait(wait: number): void {
  if (!Number.isSafeInteger(wait) || wait <= 0) throw invalid(`wait ${wait}`);
}

function invalid(what: string): FsError {
  return new FsError("EINVAL", `no such lock: ${what}`, { op: "lock" });
}
