/**
 * Client sessions: who is there, since when silent, and the way to reach them. Any traffic renews a session; one
 * that is silent for the TTL ends, and with it all that it held.
 * Invariant: a session is stored before its id is given out, so that a restarted server waits for it.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { FsError } from "../../wire/errno.ts";
import { asSessionId, type SessionId } from "../../wire/ids.ts";
import type { Peer } from "../../wire/service.ts";
import type { OpenSessionRequest } from "../../wire/messages/nameserver.ts";

export interface SessionRecord {
  readonly session: SessionId;
  readonly clientId: string;
  readonly host: string;
  readonly mountpoint: string;
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
  /** Has told what it holds since this server started. */
  reclaimed: boolean;
  ended = false;
  /** Woken when the session is reached again or ends. */
  waiting: (() => void)[] = [];

  constructor(record: SessionRecord, nowMs: number, reclaimed: boolean) {
    this.record = record;
    this.lastSeenMs = nowMs;
    this.reclaimed = reclaimed;
  }

  wake(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const wake of waiting) wake();
  }
}

export interface SessionTableOptions {
  readonly ttlMs: number;
  readonly clock: Clock;
  readonly store: SessionStore;
  readonly log: Logger;
  /** The session is over: what it held can go. */
  readonly onEnd: (session: SessionId) => void;
}

const SESSIONS_MAX = 10_000;
const PUSH_TIMEOUT_MS = 3_000;

export class SessionTable {
  readonly #options: SessionTableOptions;
  readonly #sessions = new Map<SessionId, Session>();
  readonly #byClient = new Map<string, Session>();

  constructor(options: SessionTableOptions, stored: readonly SessionRecord[]) {
    this.#options = options;
    const nowMs = options.clock.monotonicMs();
    for (const record of stored) this.#add(new Session(record, nowMs, false));
  }

  get size(): number {
    return this.#sessions.size;
  }

  get ttlMs(): number {
    return this.#options.ttlMs;
  }

  #add(session: Session): void {
    this.#sessions.set(session.record.session, session);
    this.#byClient.set(session.record.clientId, session);
  }

  /** Opens a session for a client on `peer`, or attaches the one that it has. */
  async open(request: OpenSessionRequest, peer: Peer): Promise<{ session: SessionId; resumed: boolean }> {
    let session = this.#byClient.get(request.clientId);
    const resumed = session !== undefined;
    if (session === undefined) {
      if (this.#sessions.size >= SESSIONS_MAX) {
        throw new FsError("EAGAIN", `the nameserver has ${SESSIONS_MAX} clients: unmount some`, {
          op: "mount",
        });
      }
      const record = { ...request, session: asSessionId(this.#options.store.nextId()) };
      session = new Session(record, this.#options.clock.monotonicMs(), true);
      this.#add(session);
      await this.#options.store.save(record);
      this.#options.log.info("session opened", {
        session: record.session,
        host: record.host,
        at: record.mountpoint,
      });
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

  #touch(session: Session): void {
    session.lastSeenMs = this.#options.clock.monotonicMs();
  }

  /** The session of a request, renewed by it. EAGAIN when the peer has none (it ended, or HELLO only). */
  of(peer: Peer): SessionId {
    const session = peer.state;
    if (!(session instanceof Session) || session.ended) {
      throw new FsError("ESHUTDOWN", "no session: open one first", { op: "session" });
    }
    this.#touch(session);
    return session.record.session;
  }

  /** The session of a request, or 0 for a caller without one (status, tools). */
  ofOrNone(peer: Peer): SessionId {
    const session = peer.state;
    return session instanceof Session && !session.ended ? this.of(peer) : asSessionId(0);
  }

  markReclaimed(id: SessionId): void {
    const session = this.#sessions.get(id);
    if (session !== undefined) session.reclaimed = true;
  }

  /** Sessions from before a restart that have not yet said what they hold. */
  unreclaimed(except: SessionId): SessionId[] {
    const ids: SessionId[] = [];
    for (const session of this.#sessions.values()) {
      if (!session.reclaimed && session.record.session !== except) ids.push(session.record.session);
    }
    return ids;
  }

  isAlive(id: SessionId): boolean {
    return this.#sessions.has(id);
  }

  /**
   * Sends a push until it is acknowledged: the answer, or undefined when the session ended first. Waits at most
   * about the TTL, since a client that does not answer is silent.
   */
  async push(id: SessionId, op: number, message: unknown): Promise<unknown> {
    const deadlineMs = this.#options.clock.monotonicMs() + this.#options.ttlMs + PUSH_TIMEOUT_MS;
    for (;;) {
      const session = this.#sessions.get(id);
      if (session === undefined) return undefined;
      if (this.#options.clock.monotonicMs() > deadlineMs) {
        this.#options.log.warn("session does not answer recalls", { session: id });
        this.end(id, "it did not answer a recall");
        return undefined;
      }
      if (session.peer !== null) {
        try {
          const answer = await session.peer.push(op, message, { timeoutMs: PUSH_TIMEOUT_MS });
          this.#touch(session);
          return answer;
        } catch (error) {
          this.#options.log.debug("push failed", { session: id, error });
        }
      }
      // Until it is back, ended, or a little later: whichever comes first.
      const abort = new AbortController();
      session.waiting.push(() => abort.abort());
      await this.#options.clock.sleep(200, abort.signal);
    }
  }

  /** Ends sessions that were silent for the TTL. Call about once a second. */
  expire(): void {
    const nowMs = this.#options.clock.monotonicMs();
    for (const session of this.#sessions.values()) {
      if (nowMs - session.lastSeenMs > this.#options.ttlMs) {
        this.end(session.record.session, "silent for the TTL");
      }
    }
  }

  end(id: SessionId, why: string): void {
    const session = this.#sessions.get(id);
    if (session === undefined) return;
    session.ended = true;
    this.#sessions.delete(id);
    this.#byClient.delete(session.record.clientId);
    this.#options.store.remove(id);
    this.#options.log.info("session ended", { session: id, why });
    this.#options.onEnd(id);
    session.wake();
  }
}
