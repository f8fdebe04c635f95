/**
 * The client's session with the nameserver and leaseserver: connects, keeps the session alive, comes back after a
 * broken connection or a restarted server, and sends again what was under way.
 *
 * Invariants:
 * - A change carries the same retry tag however often it is sent; its slot is used by no other change meanwhile.
 * - A change that may have been applied in a session that has ended since is not sent again: it fails with EIO.
 * - After each (re)connection the server is told what is open before anything else is sent.
 */

import type { Clock, Timespec } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { FsError, isTransportError } from "../wire/errno.ts";
import type { Dialer } from "../wire/dialer.ts";
import { helloOf } from "../wire/hello.ts";
import type { InodeId, SessionId } from "../wire/ids.ts";
import type { LeaseMode } from "../wire/messages/inode.ts";
import {
  LEASE_PUSHES,
  LEASESERVER,
  NAMESERVER,
  type RecallAnswer,
  type RecallPush,
  RETRY_SLOTS,
  type RetryTag,
} from "../wire/messages/nameserver.ts";
import {
  type CallOptions,
  type Channel,
  type Client,
  createClient,
  createPushHandler,
} from "../wire/service.ts";

export interface ClusterSessionOptions {
  /** HOST:PORT of the nameserver. */
  readonly nameserver: string;
  readonly clientId: string;
  readonly host: string;
  readonly mountpoint: string;
  /** As OpenSessionRequest's. */
  readonly place?: string;
  readonly dialer: Dialer;
  readonly clock: Clock;
  readonly log: Logger;
  /** Milliseconds after which a call without a server fails with EIO; undefined: waits until it is back. */
  readonly softTimeoutMs?: number;
  readonly onRecall: (push: RecallPush) => Promise<RecallAnswer> | RecallAnswer;
  /** What to reclaim after a reconnection. */
  readonly openInodes: () => readonly { readonly ino: InodeId; readonly lease: LeaseMode }[];
  /** The server's answer to it. */
  readonly onReclaimed: (granted: ReadonlyMap<InodeId, LeaseMode>) => void;
}

const BACKOFF_MS_MIN = 50;
const BACKOFF_MS_MAX = 1_000;
/** Clocks that differ by less are taken for one: the measurement itself is no better over a slow network. */
const CLOCK_TOLERANCE_MS = 50;

/** Slots kept for what a recall waits for: see `change`. */
const FLUSH_SLOTS = 16;

/** Retry slots that are free, and who waits for one. */
class SlotPool {
  readonly #free: RetryTag[] = [];
  readonly #waiters: ((slot: RetryTag) => void)[] = [];

  constructor(first: number, count: number) {
    for (let slot = first + count - 1; slot >= first; slot--) this.#free.push({ slot, sequence: 0 });
  }

  async use<T>(send: (retry: RetryTag) => Promise<T>): Promise<T> {
    const last = this.#free.pop() ?? await new Promise<RetryTag>((resolve) => this.#waiters.push(resolve));
    const retry = { slot: last.slot, sequence: last.sequence + 1 };
    try {
      return await send(retry);
    } finally {
      const waiter = this.#waiters.shift();
      if (waiter === undefined) this.#free.push(retry);
      else waiter(retry);
    }
  }
}

interface Link {
  readonly channel: Channel;
  readonly session: SessionId;
}

export class ClusterSession {
  readonly #options: ClusterSessionOptions;
  readonly #slots = new SlotPool(FLUSH_SLOTS, RETRY_SLOTS - FLUSH_SLOTS);
  readonly #flushSlots = new SlotPool(0, FLUSH_SLOTS);
  readonly #stopping = new AbortController();
  #clusterId = "";
  #link: Link | null = null;
  #connecting: Promise<Link> | null = null;
  #clockOffsetMs = 0;
  #ttlMs = 10_000;
  #renewal: Promise<void> | null = null;
  /** The nameserver's operations; changes go through `change`. */
  readonly nameserver: Client<typeof NAMESERVER>;
  readonly #leaseserver: Client<typeof LEASESERVER>;

  constructor(options: ClusterSessionOptions) {
    this.#options = options;
    this.nameserver = createClient(NAMESERVER, (op, request, call) => this.#call(op, request, call));
    this.#leaseserver = createClient(LEASESERVER, (op, request, call) => this.#call(op, request, call));
  }

  get clusterId(): string {
    return this.#clusterId;
  }

  /** The first connection: fails with the reason instead of trying for ever. */
  async connect(): Promise<void> {
    await this.#establish();
    this.#renewal = this.#renew();
  }

  /** The server's time, as near as it matters, so that times set here and there agree. */
  now(): Timespec {
    const now = this.#options.clock.now();
    if (Math.abs(this.#clockOffsetMs) < CLOCK_TOLERANCE_MS) return now;
    const nanoseconds = now.nanoseconds + Math.round((this.#clockOffsetMs % 1000) * 1e6);
    const carry = Math.floor(nanoseconds / 1e9);
    return {
      seconds: now.seconds + Math.trunc(this.#clockOffsetMs / 1000) + carry,
      nanoseconds: nanoseconds - carry * 1e9,
    };
  }

  /** Runs a change with a retry tag of its own. */
  change<T>(send: (retry: RetryTag) => Promise<T>): Promise<T> {
    return this.#slots.use(send);
  }

  /**
   * As `change`, for what written data needs on its way out (blocks, commits). It has slots of its own: a change may
   * wait for another client's recall, which waits for that client's flush, and the other way round.
   */
  flushChange<T>(send: (retry: RetryTag) => Promise<T>): Promise<T> {
    return this.#flushSlots.use(send);
  }

  async releaseLeases(inodes: readonly InodeId[]): Promise<void> {
    await this.#leaseserver.releaseLeases({ inodes });
  }

  /** Says goodbye, so that nobody waits for this client's leases. */
  async close(): Promise<void> {
    this.#stopping.abort();
    const link = this.#link;
    if (link !== null) {
      try {
        await link.channel.call(LEASESERVER.methods.closeSession.op, {}, { timeoutMs: 1_000 });
      } catch (error) {
        this.#options.log.debug("goodbye was not heard; the session will time out", { error });
      }
      link.channel.close();
    }
    await this.#renewal;
  }

  /**
   * Sends until it is answered. `call.signal` is looked at only while there is no server to wait for: a signal of
   * another kind than a kill must not break an operation that is answered soon (programs do not expect EINTR).
   */
  async #call(op: number, request: unknown, call: CallOptions = {}): Promise<unknown> {
    const startMs = this.#options.clock.monotonicMs();
    const isChange = (request as { retry?: RetryTag }).retry !== undefined;
    const timed = call.timeoutMs === undefined ? undefined : { timeoutMs: call.timeoutMs };
    let sentIn: SessionId | undefined;
    for (;;) {
      if (this.#stopping.signal.aborted) throw new FsError("ENOTCONN", "the mount is stopping");
      try {
        const link = this.#link ?? await this.#reconnected(call);
        if (isChange && sentIn !== undefined && sentIn !== link.session) {
          throw new FsError("EIO", "the session ended while a change was under way; it may have been made");
        }
        sentIn = link.session;
        return await link.channel.call(op, request, timed);
      } catch (error) {
        if (!isTransportError(error)) throw error;
        // The server does not know this session any more: go through a new connection.
        if (error instanceof FsError && error.errno === "ESHUTDOWN") this.#drop();
        const { softTimeoutMs, clock } = this.#options;
        if (softTimeoutMs !== undefined && clock.monotonicMs() - startMs > softTimeoutMs) {
          throw new FsError("EIO", `no answer from the nameserver for ${softTimeoutMs} ms`, { cause: error });
        }
        if (call.signal?.aborted) throw new FsError("EINTR", "interrupted");
        if (this.#link !== null) await clock.sleep(BACKOFF_MS_MIN, call.signal);
      }
    }
  }

  #drop(): void {
    const link = this.#link;
    this.#link = null;
    link?.channel.close();
  }

  /** Waits for the link, at most until the call is interrupted or the soft time-out has passed. */
  #reconnected(call: CallOptions): Promise<Link> {
    this.#connecting ??= this.#retryConnecting().finally(() => this.#connecting = null);
    const { softTimeoutMs } = this.#options;
    const { signal } = call;
    if (signal?.aborted) return Promise.reject(new FsError("EINTR", "interrupted"));
    if (signal === undefined && softTimeoutMs === undefined) return this.#connecting;
    const connecting = this.#connecting;
    return new Promise((resolve, reject) => {
      const give = (error: FsError) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        reject(error);
      };
      const onAbort = () => give(new FsError("EINTR", "interrupted"));
      signal?.addEventListener("abort", onAbort, { once: true });
      const timer = softTimeoutMs === undefined
        ? undefined
        : setTimeout(() => give(new FsError("ETIMEDOUT", "the nameserver is not there")), softTimeoutMs);
      connecting.then((link) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        resolve(link);
      }, give);
    });
  }

  async #retryConnecting(): Promise<Link> {
    const { clock, log, nameserver } = this.#options;
    let backoffMs = BACKOFF_MS_MIN;
    for (let attempt = 1;; attempt++) {
      if (this.#stopping.signal.aborted) throw new FsError("ENOTCONN", "the mount is stopping");
      try {
        const link = await this.#establish();
        log.info("connected again", { nameserver, session: link.session });
        return link;
      } catch (error) {
        if (attempt === 1 || attempt % 30 === 0) {
          log.warn("waiting for the nameserver", { nameserver, error });
        }
        await clock.sleep(backoffMs, this.#stopping.signal);
        backoffMs = Math.min(backoffMs * 2, BACKOFF_MS_MAX);
      }
    }
  }

  async #establish(): Promise<Link> {
    const { nameserver, clientId, host, mountpoint, place, dialer, clock } = this.#options;
    const { channel, clusterId } = await dialer.dial(nameserver, {
      hello: helloOf("client", this.#clusterId, `${host}:${mountpoint}`),
      expectRole: "nameserver",
      onPush: createPushHandler(LEASE_PUSHES, { recall: (push) => this.#options.onRecall(push) }),
    });
    try {
      const leaseserver = createClient(LEASESERVER, (op, request, call) => channel.call(op, request, call));
      const sentMs = clock.monotonicMs();
      const reply = await leaseserver.openSession({
        clientId,
        host,
        mountpoint,
        ...(place === undefined ? {} : { place }),
      });
      this.#measureClock(reply.now, clock.monotonicMs() - sentMs);
      this.#ttlMs = reply.ttlMs;
      this.#clusterId = clusterId;
      const open = this.#options.openInodes();
      const { granted } = await leaseserver.reclaim({ open });
      this.#options.onReclaimed(new Map(open.map(({ ino }, i) => [ino, granted[i] ?? "none"])));
      const link = { channel, session: reply.session };
      this.#link = link;
      void channel.closed.then(() => {
        if (this.#link === link) this.#link = null;
        if (!this.#stopping.signal.aborted) void this.#reconnected({}).catch(() => {}); // it logs; it fails only when stopping
      });
      return link;
    } catch (error) {
      channel.close();
      throw error;
    }
  }

  #measureClock(server: Timespec, roundTripMs: number): void {
    const local = this.#options.clock.now();
    const differenceMs = (server.seconds - local.seconds) * 1000 +
      (server.nanoseconds - local.nanoseconds) / 1e6;
    this.#clockOffsetMs = differenceMs + roundTripMs / 2;
  }

  async #renew(): Promise<void> {
    const { clock } = this.#options;
    while (!this.#stopping.signal.aborted) {
      await clock.sleep(this.#ttlMs / 4, this.#stopping.signal);
      const link = this.#link;
      if (link === null) continue;
      try {
        const sentMs = clock.monotonicMs();
        const timeoutMs = this.#ttlMs / 2;
        const reply = await link.channel.call(LEASESERVER.methods.renew.op, {}, { timeoutMs }) as {
          now: Timespec;
        };
        this.#measureClock(reply.now, clock.monotonicMs() - sentMs);
      } catch (error) {
        this.#options.log.debug("renewal failed", { error });
        if (this.#link === link) this.#drop();
      }
    }
  }
}
