/**
 * The leaseserver: sessions, leases, locks and its RPC services. It runs beside the nameserver, which asks it before a
 * change and stores its sessions; it knows nothing of the namespace.
 */

import type { Clock } from "../../base/clock.ts";
import type { Live } from "../../base/live.ts";
import type { UserIds } from "../../base/user_ids.ts";
import type { Logger } from "../../base/log.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import type { LOCKS } from "../../wire/messages/locks.ts";
import {
  LEASE_PUSHES,
  LEASESERVER,
  RECLAIM_MAX,
  type SessionStatus,
} from "../../wire/messages/nameserver.ts";
import type { Handlers } from "../../wire/service.ts";
import { LeaseTable } from "./leases.ts";
import { lockHandlers } from "./lock_service.ts";
import { LockTable } from "./locks.ts";
import { PUSH_TTLS_MAX, type SessionRecord, type SessionStore, SessionTable } from "./sessions.ts";

export const SESSION_TTL_MS_DEFAULT = 10_000;
/** Some 35 MiB here (170 bytes a lease), and up to 400 MiB in the client (2 KiB an inode). */
export const LEASES_PER_SESSION_DEFAULT = 200_000;

/** Root of all hosts but those labelled so counts as `user`. */
export interface RootSquash {
  readonly user: UserIds;
  readonly exceptHosts: readonly string[];
}

export interface LeaseserverOptions {
  readonly sessionTtlMs?: number;
  readonly leasesPerSession?: Live<number>;
  readonly rootSquash?: RootSquash;
  /** As OpenSessionReply's. */
  readonly inlineLimit?: number;
  /** Names this run of the server. */
  readonly run: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly store: SessionStore;
  readonly stored: readonly SessionRecord[];
  /** How often the server's machine has stopped without warning; absent: never. */
  readonly cuts?: number;
  /** A session is over: its orphans and remembered answers can go. */
  readonly onSessionEnd: (session: SessionId) => void;
  /** These three as LeaseTableOptions'. */
  readonly fence: (ino: InodeId) => Promise<void>;
  readonly onWriteEnded?: (session: SessionId, ino: InodeId) => void;
  readonly presumed?: ReadonlyMap<SessionId, readonly InodeId[]>;
  /** A session closed its last handle of the inode. Looks at it at once. */
  readonly onRelease: (session: SessionId, ino: InodeId) => Promise<void>;
  /** A session closed these files without writing to the block that they were made with. */
  readonly onUnused: (inodes: readonly InodeId[]) => Promise<void>;
  /** There is hardly room for what clients make without asking. */
  readonly isFull?: () => boolean;
  /** A session said what it holds open; what else was kept for it can go. */
  readonly onReclaim: (session: SessionId, isOpen: (ino: InodeId) => boolean) => Promise<void>;
}

export class Leaseserver {
  readonly sessions: SessionTable;
  readonly leases: LeaseTable;
  readonly locks: LockTable;
  readonly handlers: Handlers<typeof LEASESERVER>;
  readonly lockHandlers: Handlers<typeof LOCKS>;

  constructor(options: LeaseserverOptions) {
    const { clock, store, log, stored, run, cuts = 0, fence, onWriteEnded, presumed } = options;
    const ttlMs = options.sessionTtlMs ?? SESSION_TTL_MS_DEFAULT;
    this.sessions = new SessionTable(
      {
        ttlMs,
        clock,
        store,
        log,
        cuts,
        onEnd: (session) => {
          this.leases.dropSession(session);
          this.locks.dropSession(session);
          options.onSessionEnd(session);
        },
      },
      stored,
    );
    const perSessionMax = options.leasesPerSession ?? LEASES_PER_SESSION_DEFAULT;
    this.leases = new LeaseTable({
      ...{ sessions: this.sessions, clock, perSessionMax, fence },
      ...onWriteEnded === undefined ? {} : { onWriteEnded },
      ...presumed === undefined ? {} : { presumed },
    });
    const { op: offered } = LEASE_PUSHES.methods.lockOffered;
    const { op: recallLocks } = LEASE_PUSHES.methods.recallLocks;
    this.locks = new LockTable({
      clock,
      // It never rejects: push gives up by itself.
      tell: (session, wait) => void this.sessions.push(session, offered, { wait }),
      recall: async (session, ino, kept, ended) => {
        await this.sessions.push(session, recallLocks, { ino, kept });
        await clock.sleep(PUSH_TTLS_MAX * ttlMs, ended);
        if (!ended.aborted) this.sessions.end(session, "it did not give up its locks");
      },
    });
    this.lockHandlers = lockHandlers(this.sessions, this.locks);
    this.handlers = {
      openSession: async (request, { peer }) => {
        const { rootSquash, inlineLimit } = options;
        if (inlineLimit !== undefined && request.readsInline !== true) {
          const message = "this mount is of an older mfs, which would not find the data of small files: " +
            "install the nameserver's version here";
          throw new FsError("EPROTO", message, { op: "mount" });
        }
        const { session, resumed } = await this.sessions.open(request, peer);
        const isSquashed = rootSquash !== undefined && !rootSquash.exceptHosts.includes(request.host);
        const squash = isSquashed ? { rootSquash: rootSquash.user } : {};
        const inline = inlineLimit === undefined ? {} : { inlineLimit };
        return { session, resumed, ttlMs, now: clock.now(), run, cuts, ...inline, ...squash };
      },
      renew: ({ counters }, { peer }) => {
        this.sessions.of(peer);
        if (counters !== undefined) this.sessions.count(peer, counters);
        return { now: clock.now(), ...options.isFull?.() === true ? { isFull: true } : {} };
      },
      reclaim: async ({ held, last }, { peer }) => {
        const session = this.sessions.of(peer);
        checkLength(held);
        const granted = held.map((one) => this.leases.reclaim(session, one));
        if (last) {
          this.leases.endPresumed(session);
          this.sessions.markReclaimed(session);
          await options.onReclaim(session, (ino) => this.leases.isOpenIn(ino, session));
        }
        return { granted };
      },
      release: async ({ held, unused }, { peer }) => {
        const session = this.sessions.of(peer);
        checkLength(held);
        this.leases.lower(session, held);
        // Who has looked at the file meanwhile knows the block: it stays.
        const dropped = unused.filter((ino) => this.leases.isAlone(ino, session));
        if (dropped.length > 0) await options.onUnused(dropped);
        for (const { ino, open } of held) {
          // By now it may have been opened again.
          if (open === "no" && !this.leases.isOpenIn(ino, session)) await options.onRelease(session, ino);
        }
        return { ok: true };
      },
      closeSession: (_request, { peer }) => {
        this.sessions.end(this.sessions.of(peer), "unmounted");
        return { ok: true };
      },
    };
  }

  status(): SessionStatus[] {
    return this.sessions.describe().map(({ record, connected, silentMs, counters }) => {
      const { read, exclusive, write } = this.leases.countOf(record.session);
      const { locks, waits } = this.locks.countOf(record.session);
      return {
        session: record.session,
        host: record.host,
        mountpoint: record.mountpoint,
        connected,
        lastSeenSeconds: Math.round(silentMs / 100) / 10,
        readLeases: read,
        exclusiveLeases: exclusive,
        writeLeases: write,
        locks,
        lockWaits: waits,
        ...(counters === undefined ? {} : { counters }),
      };
    });
  }
}

function checkLength(held: readonly unknown[]): void {
  if (held.length > RECLAIM_MAX) {
    throw new FsError("EINVAL", `${held.length} inodes in one message, at most ${RECLAIM_MAX} are possible`);
  }
}
