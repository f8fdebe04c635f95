/**
 * Client sessions: who is there, since when silent, and the way to reach them. Any traffic renews a session; one
 * that is silent for the TTL ends, and with it all that it held.
 * Invariants:
 * - A session is on disk before its id is given out, so that a restarted server waits for it.
 * - After a power cut none is resumed: its client may know of changes that are lost. It gets another one, drops what it
 *   holds, and the old one is waited out, as of a client that is silent.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { FsError } from "../../wire/errno.ts";
import { asSessionId, type SessionId } from "../../wire/ids.ts";
import { type Peer, pushTo } from "../../wire/service.ts";
import {
  type ClientCounters,
  LEASE_PUSHES,
  type OpenSessionRequest,
} from "../../wire/messages/nameserver.ts";

export interface SessionRecord {
  readonly session: SessionId;
  readonly clientId: string;
  readonly host: string;
  readonly mountpoint: string;
  readonly place?: string;
  /** `SessionTableOptions.cuts` when it was opened, if there had been one. */
  readonly cuts?: number;
}

/** Where sessions survive a restart of the server. */
export interface SessionStore {
  nextId(): number;
  save(record: SessionRecord): Promise<void>;
  remove(session: SessionId): void;
}

class Session {
  readonly record: SessionRecord;
  peer: Peer | null = null;
  lastSeenMs: number;
  /** It is from before a power cut. */
  readonly isLost: boolean;
  /** Resolves when its record is stored. */
  saved: Promise<void> = Promise.resolve();
  ended = false;
  /** What the client told of itself last. */
  counters: ClientCounters | undefined;
  /** Called when the session is reached again or ends. */
  readonly waiting = new Set<() => void>();

  constructor(record: SessionRecord, nowMs: number, isLost = false) {
    this.record = record;
    this.lastSeenMs = nowMs;
    this.isLost = isLost;
  }

  wake(): void {
    for (const wake of [...this.waiting]) wake();
  }
}

/** A session as `mfs status` shows it. */
export interface SessionState {
  readonly record: SessionRecord;
  readonly connected: boolean;
  readonly silentMs: number;
  readonly counters: ClientCounters | undefined;
}

export interface SessionTableOptions {
  readonly ttlMs: number;
  readonly clock: Clock;
  readonly store: SessionStore;
  readonly log: Logger;
  /** The session is over: what it held can go. */
  readonly onEnd: (session: SessionId) => void;
  /** How often the server's machine has stopped without warning; absent: never. */
  readonly cuts?: number;
}

const SESSIONS_MAX = 10_000;
/** A client that renews its session but does not acknowledge a recall is given up after so many times the TTL. */
export const PUSH_TTLS_MAX = 3;
const PUSH_RETRY_MS = 200;
/** From one look at the sessions to the next, at most this part of the TTL counts as silence. */
const LOOK_PART = 4;

export class SessionTable {
  readonly #options: SessionTableOptions;
  readonly #sessions = new Map<SessionId, Session>();
  readonly #byClient = new Map<string, Session>();
  /** Sessions from before a restart that have not yet said what they hold. */
  readonly #unreclaimed = new Set<SessionId>();
  #reclaimWaiters: (() => void)[] = [];
  readonly #startedMs: number;
  /** When the sessions were looked at last. */
  #lookedMs: number;

  constructor(options: SessionTableOptions, stored: readonly SessionRecord[]) {
    this.#options = options;
    this.#startedMs = this.#lookedMs = options.clock.monotonicMs();
    for (const record of stored) {
      const isLost = (record.cuts ?? 0) !== (options.cuts ?? 0);
      this.#add(new Session(record, this.#startedMs, isLost));
      this.#unreclaimed.add(record.session);
    }
  }

  get size(): number {
    return this.#sessions.size;
  }

  get ttlMs(): number {
    return this.#options.ttlMs;
  }

  #add(session: Session): void {
    this.#sessions.set(session.record.session, session);
    if (!session.isLost) this.#byClient.set(session.record.clientId, session);
  }

  /** Opens a session for a client on `peer`, or attaches the one that it has. */
  async open(request: OpenSessionRequest, peer: Peer): Promise<{ session: SessionId; resumed: boolean }> {
    let session = this.#byClient.get(request.clientId);
    const resumed = session !== undefined;
    if (session === undefined) {
      this.#endFormer(request);
      if (this.#sessions.size >= SESSIONS_MAX) {
        throw new FsError("EAGAIN", `the nameserver has ${SESSIONS_MAX} clients: unmount some`, {
          op: "mount",
        });
      }
      const { store, cuts = 0 } = this.#options;
      const since = cuts === 0 ? {} : { cuts };
      const record = { ...request, ...since, session: asSessionId(store.nextId()) };
      session = new Session(record, this.#options.clock.monotonicMs());
      this.#add(session);
      session.saved = this.#options.store.save(record);
      this.#options.log.info("session opened", {
        session: record.session,
        host: record.host,
        at: record.mountpoint,
      });
    }
    try {
      await session.saved;
    } catch (error) {
      this.#remove(session);
      throw error;
    }
    if (session.ended) {
      throw new FsError("EAGAIN", "the session has just ended; open another", { op: "mount" });
    }
    const attached = session;
    attached.peer = peer;
    peer.state = attached;
    void peer.closed.then(() => {
      if (attached.peer === peer) attached.peer = null;
    });
    this.#touch(attached);
    attached.wake();
    return { session: attached.record.session, resumed };
  }

  /** What was mounted at this place before has died, or nothing could be mounted there now: nobody waits for it. */
  #endFormer({ place }: OpenSessionRequest): void {
    if (place === undefined) return;
    for (const { record, peer, isLost } of this.#sessions.values()) {
      if (record.place === place && peer === null && !isLost) {
        this.end(record.session, "its mount point was mounted anew");
      }
    }
  }

  #touch(session: Session): void {
    session.lastSeenMs = this.#options.clock.monotonicMs();
  }

  /**
   * The session of a request, renewed by it. ESHUTDOWN when the peer has none: it ended, came back over another connection
   * (what still arrives over the old one is out of order), or HELLO only.
   */
  of(peer: Peer): SessionId {
    const session = peer.state;
    if (!(session instanceof Session) || session.ended || session.peer !== peer) {
      throw new FsError("ESHUTDOWN", "no session: open one first", { op: "session" });
    }
    this.#touch(session);
    return session.record.session;
  }

  /** The session of a request, renewed by it, or 0 for a caller without one (status, tools). */
  ofOrNone(peer: Peer): SessionId {
    return peer.state instanceof Session ? this.of(peer) : asSessionId(0);
  }

  markReclaimed(id: SessionId): void {
    if (!this.#unreclaimed.delete(id)) return;
    const waiters = this.#reclaimWaiters;
    this.#reclaimWaiters = [];
    for (const wake of waiters) wake();
  }

  /** Sessions from before a restart that have not yet said what they hold. */
  unreclaimed(except: SessionId): SessionId[] {
    if (this.#unreclaimed.size === 0) return [];
    return [...this.#unreclaimed].filter((id) => id !== except);
  }

  /** Waits until all but `except` have said what they hold, or are over; undefined when nobody is waited for. */
  allReclaimed(except: SessionId): Promise<void> | undefined {
    if (this.unreclaimed(except).length === 0) return undefined;
    return this.#untilReclaimed(except);
  }

  async #untilReclaimed(except: SessionId): Promise<void> {
    while (this.unreclaimed(except).length > 0) {
      await new Promise<void>((resolve) => this.#reclaimWaiters.push(resolve));
    }
  }

  isAlive(id: SessionId): boolean {
    return this.#sessions.has(id);
  }

  /** What was heard of a session's client. */
  describe(): readonly SessionState[] {
    const nowMs = this.#options.clock.monotonicMs();
    return [...this.#sessions.values()].map(({ record, peer, lastSeenMs, counters }) => ({
      record,
      connected: peer !== null,
      silentMs: nowMs - lastSeenMs,
      counters,
    }));
  }

  /** The client of a peer counted these. */
  count(peer: Peer, counters: ClientCounters): void {
    const session = peer.state;
    if (session instanceof Session) session.counters = counters;
  }

  /**
   * Sends a push until it is acknowledged: the answer, or undefined when the session ended first. A client that is
   * stopped or cut off is silent, so that this lasts for the TTL at most; one that lives must answer at some time, too.
   */
  async push(id: SessionId, op: number, message: unknown): Promise<unknown> {
    const { clock, ttlMs, log } = this.#options;
    const deadlineMs = clock.monotonicMs() + PUSH_TTLS_MAX * ttlMs;
    for (;;) {
      const session = this.#sessions.get(id);
      if (session === undefined) return undefined;
      const leftMs = deadlineMs - clock.monotonicMs();
      if (leftMs <= 0) {
        log.warn("session does not answer recalls", { session: id });
        this.end(id, "it did not answer a recall");
        return undefined;
      }
      const { peer } = session;
      if (peer !== null) {
        try {
          const pushed = pushTo(peer, LEASE_PUSHES, op, message, { timeoutMs: leftMs });
          const answer = await whileAttached(session, peer, pushed);
          if (session.ended) return undefined;
          if (answer === SUPERSEDED) continue;
          this.#touch(session);
          return answer;
        } catch (error) {
          log.debug("push failed", { session: id, error });
        }
      }
      // Until it is back, ended, or a little later: whichever comes first.
      const abort = new AbortController();
      const wake = () => abort.abort();
      session.waiting.add(wake);
      await clock.sleep(PUSH_RETRY_MS, abort.signal);
      session.waiting.delete(wake);
    }
  }

  /**
   * Ends sessions that were silent for the TTL. Call several times a second: when this process stood still in between, nobody
   * could be heard, and what came meanwhile is read before anybody is blamed. A client stops by its own clock in any case.
   */
  expire(): void {
    const { clock, ttlMs } = this.#options;
    const nowMs = clock.monotonicMs();
    const stoodMs = Math.max(0, nowMs - this.#lookedMs - ttlMs / LOOK_PART);
    this.#lookedMs = nowMs;
    for (const session of this.#sessions.values()) {
      const id = session.record.session;
      session.lastSeenMs = Math.min(nowMs, session.lastSeenMs + stoodMs);
      if (nowMs - session.lastSeenMs > ttlMs) {
        this.end(id, "silent for the TTL");
      } else if (this.#unreclaimed.has(id) && nowMs - this.#startedMs > 3 * ttlMs) {
        // It is here, but keeps what it holds to itself: others have waited long enough.
        this.end(id, "it did not reclaim");
      }
    }
  }

  end(id: SessionId, why: string): void {
    const session = this.#sessions.get(id);
    if (session === undefined) return;
    this.#remove(session);
    this.#options.store.remove(id);
    this.#options.log.info("session ended", { session: id, why });
    this.#options.onEnd(id);
    this.markReclaimed(id);
    session.wake();
  }

  #remove(session: Session): void {
    session.ended = true;
    this.#sessions.delete(session.record.session);
    if (this.#byClient.get(session.record.clientId) === session) {
      this.#byClient.delete(session.record.clientId);
    }
  }
}

const SUPERSEDED = Symbol("superseded");

/** What `work` comes to, or SUPERSEDED as soon as the session has ended, or its client is back over another connection. */
function whileAttached(session: Session, peer: Peer, work: Promise<unknown>): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const onWake = () => {
      if (!session.ended && session.peer === peer) return;
      session.waiting.delete(onWake);
      resolve(SUPERSEDED);
    };
    session.waiting.add(onWake);
    work.then(resolve, reject).finally(() => session.waiting.delete(onWake));
  });
}
