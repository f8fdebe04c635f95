/**
 * The leaseserver: sessions, leases and its RPC service. It runs beside the nameserver, which asks it before a
 * change and stores its sessions; it knows nothing of the namespace.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import { LEASESERVER } from "../../wire/messages/nameserver.ts";
import type { Handlers } from "../../wire/service.ts";
import { LeaseTable } from "./leases.ts";
import { type SessionRecord, type SessionStore, SessionTable } from "./sessions.ts";

export interface LeaseserverOptions {
  readonly sessionTtlMs: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly store: SessionStore;
  readonly stored: readonly SessionRecord[];
  /** A session is over: its orphans and remembered answers can go. */
  readonly onSessionEnd: (session: SessionId) => void;
  /** A session closed its last handles of these. */
  readonly onRelease: (session: SessionId, inodes: readonly InodeId[]) => Promise<void>;
  /** A session said what it holds open; what else was kept for it can go. */
  readonly onReclaim: (session: SessionId, open: ReadonlySet<InodeId>) => Promise<void>;
}

export class Leaseserver {
  readonly sessions: SessionTable;
  readonly leases: LeaseTable;
  readonly handlers: Handlers<typeof LEASESERVER>;

  constructor(options: LeaseserverOptions) {
    this.sessions = new SessionTable(
      {
        ttlMs: options.sessionTtlMs,
        clock: options.clock,
        store: options.store,
        log: options.log,
        onEnd: (session) => {
          this.leases.dropSession(session);
          options.onSessionEnd(session);
        },
      },
      options.stored,
    );
    this.leases = new LeaseTable(this.sessions);
    this.handlers = {
      openSession: async (request, { peer }) => {
        const { session, resumed } = await this.sessions.open(request, peer);
        return { session, resumed, ttlMs: options.sessionTtlMs, now: options.clock.now() };
      },
      renew: (_request, { peer }) => {
        this.sessions.of(peer);
        return { now: options.clock.now() };
      },
      reclaim: async (request, { peer }) => {
        const session = this.sessions.of(peer);
        const open = new Set(request.open.map(({ ino }) => ino));
        for (const { ino, lease } of request.open) await this.leases.open(ino, session, lease === "write");
        this.sessions.markReclaimed(session);
        this.leases.keepOnly(session, open);
        await options.onReclaim(session, open);
        return { granted: request.open.map(({ ino }) => this.leases.lease(ino, session)) };
      },
      releaseLeases: async (request, { peer }) => {
        const session = this.sessions.of(peer);
        this.leases.release(session, request.inodes);
        await options.onRelease(session, request.inodes);
        return { ok: true };
      },
      closeSession: (_request, { peer }) => {
        this.sessions.end(this.sessions.of(peer), "unmounted");
        return { ok: true };
      },
    };
  }
}
