/** The kernel's handlers for locks: convert, and call locks.ts. */

import type { LockedRange } from "../base/lock_ranges.ts";
import { asInodeId } from "../wire/ids.ts";
import type { LockKind } from "../wire/messages/locks.ts";
import type { FileSystemHandlers, LockRange } from "./kernel/handlers.ts";
import type { Locks } from "./locks.ts";

/** Source: Linux asm-generic/fcntl.h. */
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;

export function lockHandlers(locks: Locks): Required<Pick<FileSystemHandlers, "getlk" | "setlk">> {
  return {
    async getlk(context, nodeid, _fh, owner, lock) {
      const caller = { ino: asInodeId(nodeid), kind: "posix", owner: lockOwner(owner) } as const;
      const conflict = await locks.test(caller, wantedOf(lock), context);
      if (conflict === undefined) return { ...lock, type: F_UNLCK };
      const { start, end, type, pid } = conflict;
      return { start, end, type: type === "write" ? F_WRLCK : F_RDLCK, pid };
    },

    async setlk(context, nodeid, fh, owner, lock, { wait, flock }) {
      const kind: LockKind = flock ? "flock" : "posix";
      const { pid } = lock;
      const caller = { ino: asInodeId(nodeid), kind, owner: lockOwner(owner), fh, pid };
      if (lock.type === F_UNLCK) await locks.unlock(caller, lock, context);
      else if (wait) await locks.lock(caller, wantedOf(lock), context);
      else await locks.tryLock(caller, wantedOf(lock), context);
      return 0;
    },
  };
}

/** An owner as messages have it: the kernel's number does not fit one of ours. */
export function lockOwner(owner: bigint): string {
  return owner.toString(16);
}

function wantedOf({ start, end, type }: LockRange): LockedRange {
  return { start, end, type: type === F_RDLCK ? "read" : "write" };
}
