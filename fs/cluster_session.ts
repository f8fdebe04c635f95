/**
 * The client's session with the nameserver and leaseserver: connects, keeps the session alive, comes back after a
 * broken connection or a restarted server, and sends again what was under way.
 *
 * Invariants:
 * - A change carries the same retry tag however often it is sent; its slot is used by no other change meanwhile.
 * - A change that may have been applied in a session that has ended since is not sent again: it fails with EIO.
 * - After a restart of the server it is told what is held before anything else is sent; after the end of the session
 *   everything that was held is given up first.
 * - `isValid` ends before the server can give this session up: the TTL counts from when something was sent that the
 *   server has answered, on the monotonic clock, less a margin.
 */

import { type Clock, OVER, type Timespec } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { tracing } from "../base/tracing.ts";
import type { UserIds } from "../base/user_ids.ts";
import { FsError, isTransportError } from "../wire/errno.ts";
import type { Dialer } from "../wire/dialer.ts";
import { helloOf } from "../wire/hello.ts";
import type { InodeId, SessionId } from "../wire/ids.ts";
import { withSignal } from "./interruptible.ts";
import type { InodeReply, LeaseMode } from "../wire/messages/inode.ts";
import type {
  DeferredChange,
  DeferReply,
  ReserveBlocksRequest,
  ReservedBlocksReply,
  ReservedInodes,
} from "../wire/messages/deferred.ts";
import { LOCKS } from "../wire/messages/locks.ts";
import {
  type ClientCounters,
  type CommitRequest,
  type CreateReply,
  type CreateRequest,
  type Held,
  LEASE_PUSHES,
  LEASESERVER,
  NAMESERVER,
  type RecallAnswer,
  type RecallPush,
  RECLAIM_MAX,
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
import { isTraced, tracedCall } from "../wire/tracing.ts";

/** The part of the client that holds locks; calls of its own go through ClusterSession.locks. */
export interface LockKeeper {
  /** The server asks to ask again for what is waited for. */
  offered(wait: number): void;
  /** Another client wants something of a file whose record locks are kept here. */
  recalled(ino: InodeId, kept: number): void;
  /** Tells a server that has forgotten them, through `locks`, which locks are held. */
  reclaim(locks: Client<typeof LOCKS>): Promise<void>;
  /** There is a connection again: what was left in doubt can be settled. */
  connected(): void;
}

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
  /** What to reclaim after a restart of the server. */
  readonly held: () => readonly Held[];
  /** The server's answer to it. */
  readonly onReclaimed: (granted: ReadonlyMap<InodeId, LeaseMode>) => Promise<void>;
  /** The session has ended: nothing that was held before holds; `isCut`: nor may what was answered and not synced. */
  readonly onLost: (isCut: boolean) => Promise<void>;
  /** What holds locks on files: told of what the server says of them, and of a new connection. */
  readonly locks: LockKeeper;
  /** The session is no longer valid, as the server was silent. */
  readonly onFenced: () => void;
  /** Changes that were deferred are told first (deferred_changes.ts); undefined: there are none. Never rejects. */
  readonly settle?: () => Promise<void> | undefined;
  /** What to tell of this mount with each renewal. */
  readonly counters: () => Omit<ClientCounters, "calls">;
}

const BACKOFF_MS_MIN = 50;
const BACKOFF_MS_MAX = 1_000;
/** Renewals in a TTL: the kernel may keep what it is told of for the TTL less a renewal and the margin. */
const RENEWALS = 10;
/** Part of the TTL by which a client stops before the server does. */
const MARGIN = 0.2;
/** A silent server is noticed that late at most, in parts of the TTL. */
const FENCE_CHECKS = 20;
/** Clocks that differ by less are taken for one: the measurement itself is no better over a slow network. */
const CLOCK_TOLERANCE_MS = 50;

/** Slots kept for what a recall waits for: see `change`. */
const FLUSH_SLOTS = 16;
/** For deferred changes, which whoever has another slot may wait for. */
const DEFER_SLOTS = 1;

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

type RenewReply = { readonly now: Timespec; readonly isFull?: true };

export class ClusterSession {
  readonly #options: ClusterSessionOptions;
  readonly #slots = new SlotPool(FLUSH_SLOTS, RETRY_SLOTS - FLUSH_SLOTS - DEFER_SLOTS);
  readonly #flushSlots = new SlotPool(0, FLUSH_SLOTS);
  readonly #deferSlots = new SlotPool(RETRY_SLOTS - DEFER_SLOTS, DEFER_SLOTS);
  readonly #stopping = new AbortController();
  #clusterId = "";
  #rootSquash: UserIds | undefined;
  #link: Link | null = null;
  #connecting: Promise<Link> | null = null;
  #clockOffsetMs = 0;
  #ttlMs = 10_000;
  #inlineLimit = 0;
  #validUntilMs = -Infinity;
  #isFenced = false;
  #session: SessionId | undefined;
  #run = "";
  /** As OpenSessionReply's. */
  #cuts = 0;
  /** Changes that were asked for, and those of them that are on the server's disk. */
  #changes = 0;
  #changesSynced = 0;
  /** Some were lost, for this reason, and nobody was told. */
  #lostChanges: string | undefined;
  #isFull = false;
  /** How often deferred changes were lost. */
  #losses = 0;
  /** Calls that have not been answered, and of which the answer may be taken over. */
  #unanswered = 0;
  readonly #calls: Record<string, number> = {};
  #renewal: Promise<unknown> | null = null;
  /** The nameserver's operations; changes go through `change`. */
  readonly nameserver: Client<typeof NAMESERVER>;
  /** Locks; what has been asked for must be waited for, or be taken back. */
  readonly locks: Client<typeof LOCKS>;
  readonly #leaseserver: Client<typeof LEASESERVER>;

  constructor(options: ClusterSessionOptions) {
    this.#options = options;
    this.nameserver = createClient(NAMESERVER, (op, request, call) => this.#call(op, request, call));
    this.locks = createClient(LOCKS, (op, request, call) => this.#call(op, request, call));
    this.#leaseserver = createClient(LEASESERVER, (op, request, call) => this.#call(op, request, call));
  }

  /** Whom the cluster takes root of this host for, as of the last time that it was asked. */
  get rootSquash(): UserIds | undefined {
    return this.#rootSquash;
  }

  /** Data of files up to this size is the nameserver's to keep. */
  get inlineLimit(): number {
    return this.#inlineLimit;
  }

  get clusterId(): string {
    return this.#clusterId;
  }

  /** The first connection: fails with the reason instead of trying for ever. */
  async connect(): Promise<void> {
    await this.#establish();
    this.#renewal = Promise.all([this.#renew(), this.#watch()]);
  }

  /** True while the server can't have given this session up. */
  get isValid(): boolean {
    return this.#options.clock.monotonicMs() < this.#validUntilMs;
  }

  /** Milliseconds for which the session stays valid without another word from the server. */
  get validForMs(): number {
    return Math.max(0, this.#validUntilMs - this.#options.clock.monotonicMs());
  }

  /** Waits until the session is valid again, or lost and another is; as any call does. */
  async untilValid(interrupt?: CallOptions): Promise<void> {
    while (!this.isValid) await this.#leaseserver.renew({}, interrupt);
  }

  /** Calls so far, by operation. */
  get calls(): Readonly<Record<string, number>> {
    return this.#calls;
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
    this.#changes++;
    return this.#slots.use(send);
  }

  /** All changes that were answered before are on the server's disk; EIO, once, when some may be lost. */
  async sync(): Promise<void> {
    const changes = this.#changes;
    await this.nameserver.sync({});
    this.#changesSynced = Math.max(this.#changesSynced, changes);
    const lost = this.#lostChanges;
    if (lost === undefined) return;
    this.#lostChanges = undefined;
    throw new FsError("EIO", lost, { op: "fsync" });
  }

  /**
   * As `change`, for what written data needs on its way out (blocks, commits). It has slots of its own: a change may
   * wait for another client's recall, which waits for that client's flush, and the other way round.
   */
  flushChange<T>(send: (retry: RetryTag) => Promise<T>): Promise<T> {
    return this.#flushSlots.use(send);
  }

  /**
   * The nameserver's `commit`. `onSend` is called in the step in which it leaves, each time: what is sent after that over
   * the same connection, such as the answer to a recall, comes after it. What it throws ends the call.
   */
  commit(
    request: CommitRequest,
    onSend: () => void,
  ): Promise<InodeReply> {
    return this.#call(NAMESERVER.methods.commit.op, request, {}, onSend) as Promise<InodeReply>;
  }

  /** The nameserver's `create`. It is given up on only until it is sent: later the file may be open here. */
  create(request: CreateRequest, interrupt: CallOptions): Promise<CreateReply> {
    const { op } = NAMESERVER.methods.create;
    return this.#call(op, request, interrupt, undefined, true) as Promise<CreateReply>;
  }

  /**
   * No call is under way, nor waits for deferred changes to be told. Only then anything is deferred: so no answer can be
   * from before what was deferred since it was asked for.
   */
  get isQuiet(): boolean {
    return this.#unanswered === 0;
  }

  /**
   * Tells of deferred changes, in order; they come before whatever is asked afterwards. `onSend` is called each time that they
   * are sent; what it throws ends the call.
   */
  async defer(changes: readonly DeferredChange[], onSend: () => void): Promise<DeferReply> {
    this.#changes++;
    const reply = await this.#deferSlots.use((retry) =>
      this.#send(NAMESERVER.methods.defer.op, { retry, changes }, {}, onSend) as Promise<DeferReply>
    );
    if (reply.isFull === true) this.#isFull = true;
    return reply;
  }

  /** The nameserver's disk is nearly full: changes are to be asked for, so that it can refuse them. */
  get isFull(): boolean {
    return this.#isFull;
  }

  /** Deferred changes will never be made: the next sync says so. */
  noteLostChange(): void {
    this.#losses++;
    this.#lostChanges ??= "names that were changed here could not be told to the nameserver";
  }

  /** Resolves when the nameserver knows all that was done here before; undefined: it does. */
  settle(): Promise<void> | undefined {
    return this.#options.settle?.();
  }

  /** Numbers for new inodes; nothing is known by it, so that it may be under way at any time. */
  reserveInodes(count: number): Promise<ReservedInodes> {
    return this.#send(NAMESERVER.methods.reserveInodes.op, { count }) as Promise<ReservedInodes>;
  }

  /** Blocks for new files; as with reserveInodes. */
  reserveBlocks(request: ReserveBlocksRequest): Promise<ReservedBlocksReply> {
    return this.#send(NAMESERVER.methods.reserveBlocks.op, request) as Promise<ReservedBlocksReply>;
  }

  /** Tells what is held from now on. Once only: what was not heard must be looked at anew before it is told again. */
  async release(held: readonly Held[], unused: readonly InodeId[]): Promise<void> {
    const link = this.#link;
    if (link === null) throw new FsError("ENOTCONN", "the nameserver is not there");
    const { op } = LEASESERVER.methods.release;
    this.#count(op);
    await link.channel.call(op, { held, unused });
  }

  #count(op: number): void {
    const name = OPERATION_NAMES.get(op)!;
    this.#calls[name] = (this.#calls[name] ?? 0) + 1;
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

  /** As #send, after what was deferred before. */
  async #call(
    op: number,
    request: unknown,
    call: CallOptions = {},
    onSend?: () => void,
    mustEnd = false,
  ): Promise<unknown> {
    this.#unanswered++;
    try {
      const losses = this.#losses;
      const settling = this.#options.settle?.();
      if (settling !== undefined) await withSignal(settling, call.signal && { signal: call.signal });
      // It would be made without what came before it. What written data needs on its way out goes on.
      if (losses !== this.#losses && isOrdered(request)) {
        throw new FsError("EIO", "what was changed before could not be told to the nameserver");
      }
      return await this.#send(op, request, call, onSend, mustEnd || CHANGES_OF_NAMES.has(op));
    } finally {
      this.#unanswered--;
    }
  }

  /**
   * Sends until it is answered, or `call.signal` aborts: who asked is being killed. `mustEnd`: that counts only until it is
   * sent.
   */
  async #send(
    op: number,
    request: unknown,
    call: CallOptions = {},
    onSend?: () => void,
    mustEnd = false,
  ): Promise<unknown> {
    const { tracer } = tracing;
    // What comes through a client of a service has its span already.
    if (tracer?.current !== undefined && !isTraced(request)) {
      const name = OPERATION_NAMES.get(op)!;
      const send = (traced: unknown) => this.#sendUntilAnswered(op, traced, call, onSend, mustEnd);
      return await tracedCall(tracer, NAMESERVER.name, name, request, send);
    }
    return await this.#sendUntilAnswered(op, request, call, onSend, mustEnd);
  }

  async #sendUntilAnswered(
    op: number,
    request: unknown,
    call: CallOptions,
    onSend: (() => void) | undefined,
    mustEnd: boolean,
  ): Promise<unknown> {
    const startMs = this.#options.clock.monotonicMs();
    const isChange = (request as { retry?: RetryTag }).retry !== undefined;
    this.#count(op);
    let sentIn: SessionId | undefined;
    for (;;) {
      this.#checkStopping();
      try {
        const link = this.#link ?? await this.#reconnected(call);
        if (isChange && sentIn !== undefined && sentIn !== link.session) {
          throw new FsError("EIO", "the session ended while a change was under way; it may have been made");
        }
        if (mustEnd && call.signal !== undefined) {
          if (call.signal.aborted && sentIn === undefined) throw new FsError("EINTR", "interrupted");
          const { signal: _, ...rest } = call;
          call = rest;
        }
        sentIn = link.session;
        const sentMs = this.#options.clock.monotonicMs();
        onSend?.();
        const reply = await link.channel.call(op, request, call);
        if (this.#link === link) this.#heard(sentMs);
        return reply;
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

  /** The server answered what was sent at `sentMs`: it counts the TTL from then on, or later. */
  #heard(sentMs: number): void {
    const untilMs = sentMs + this.#ttlMs * (1 - MARGIN);
    if (untilMs <= this.#validUntilMs) return;
    this.#validUntilMs = untilMs;
    if (!this.#isFenced) return;
    this.#isFenced = false;
    this.#options.log.info("the nameserver answers again", { session: this.#session });
  }

  #drop(): void {
    const link = this.#link;
    this.#link = null;
    link?.channel.close();
  }

  /** Waits for the link, at most until the call is interrupted or the soft time-out has passed. */
  #reconnected(call: CallOptions): Promise<Link> {
    this.#connecting ??= this.#retryConnecting();
    const { softTimeoutMs, clock } = this.#options;
    const { signal } = call;
    if (signal?.aborted) return Promise.reject(new FsError("EINTR", "interrupted"));
    if (signal === undefined && softTimeoutMs === undefined) return this.#connecting;
    const connecting = this.#connecting;
    return new Promise((resolve, reject) => {
      const over = new AbortController();
      const end = () => {
        over.abort(OVER);
        signal?.removeEventListener("abort", onAbort);
      };
      const give = (error: unknown) => {
        end();
        reject(error);
      };
      const onAbort = () => give(new FsError("EINTR", "interrupted"));
      signal?.addEventListener("abort", onAbort, { once: true });
      if (softTimeoutMs !== undefined) {
        void clock.sleep(softTimeoutMs, over.signal).then(() => {
          if (!over.signal.aborted) give(new FsError("ETIMEDOUT", "the nameserver is not there"));
        });
      }
      connecting.then((link) => {
        end();
        resolve(link);
      }, give);
    });
  }

  async #retryConnecting(): Promise<Link> {
    const { clock, log, nameserver } = this.#options;
    let backoffMs = BACKOFF_MS_MIN;
    for (let attempt = 1;; attempt++) {
      this.#checkStopping(); // for good: nobody connects any more
      try {
        const link = await this.#establish();
        if (this.#link !== link) throw new FsError("ENOTCONN", "the connection ended at once");
        log.info("connected again", { nameserver, session: link.session });
        // From here on who misses it connects anew, also before those that waited go on.
        this.#connecting = null;
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
      onPush: createPushHandler(LEASE_PUSHES, {
        recall: (push) => this.#options.onRecall(push),
        lockOffered: ({ wait }) => {
          this.#options.locks.offered(wait);
          return { ok: true as const };
        },
        recallLocks: ({ ino, kept }) => {
          this.#options.locks.recalled(ino, kept);
          return { ok: true as const };
        },
      }),
    });
    try {
      const call = (op: number, request: unknown, options?: CallOptions) => {
        this.#count(op);
        return channel.call(op, request, options);
      };
      const leaseserver = createClient(LEASESERVER, call);
      this.#checkStopping();
      const sentMs = clock.monotonicMs();
      const { session, resumed, ttlMs, run, now, cuts = 0, rootSquash, inlineLimit = 0 } = await leaseserver
        .openSession({
          clientId,
          host,
          mountpoint,
          ...(place === undefined ? {} : { place }),
          readsInline: true,
        });
      this.#measureClock(now, clock.monotonicMs() - sentMs);
      this.#ttlMs = ttlMs;
      this.#clusterId = clusterId;
      this.#rootSquash = rootSquash;
      this.#inlineLimit = inlineLimit;
      const isLost = this.#session !== undefined && (!resumed || session !== this.#session);
      if (isLost) {
        this.#validUntilMs = -Infinity;
        const isCut = cuts !== this.#cuts;
        if (isCut && this.#changes > this.#changesSynced) {
          this.#lostChanges = "the nameserver's machine stopped before what was changed was synced";
        }
        await this.#options.onLost(isCut);
      }
      this.#cuts = cuts;
      this.#session = session;
      // Of a new session it knows nothing either: what is open here must not be taken for closed.
      if (run !== this.#run || (isLost && this.#options.held().length > 0)) {
        this.#run = ""; // if it fails, all is to be said over the next connection
        await this.#options.locks.reclaim(createClient(LOCKS, call));
        await this.#reclaim(leaseserver);
      }
      this.#run = run;
      this.#checkStopping();
      const link = { channel, session };
      this.#link = link;
      this.#heard(sentMs);
      this.#options.locks.connected();
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

  #checkStopping(): void {
    if (this.#stopping.signal.aborted) throw new FsError("ENOTCONN", "the mount is stopping");
  }

  /** The server knows the session, but not what it holds. */
  async #reclaim(leaseserver: Client<typeof LEASESERVER>): Promise<void> {
    const held = this.#options.held();
    const granted = new Map<InodeId, LeaseMode>();
    for (let at = 0; at === 0 || at < held.length; at += RECLAIM_MAX) {
      const part = held.slice(at, at + RECLAIM_MAX);
      const reply = await leaseserver.reclaim({ held: part, last: at + RECLAIM_MAX >= held.length });
      part.forEach(({ ino }, i) => granted.set(ino, reply.granted[i] ?? "none"));
    }
    if (held.length > 0) await this.#options.onReclaimed(granted);
  }

  #measureClock(server: Timespec, roundTripMs: number): void {
    const local = this.#options.clock.now();
    const differenceMs = (server.seconds - local.seconds) * 1000 +
      (server.nanoseconds - local.nanoseconds) / 1e6;
    this.#clockOffsetMs = differenceMs + roundTripMs / 2;
  }

  async #renew(): Promise<void> {
    const { clock } = this.#options;
    const { op } = LEASESERVER.methods.renew;
    while (!this.#stopping.signal.aborted) {
      await clock.sleep(this.#ttlMs / RENEWALS, this.#stopping.signal);
      const link = this.#link;
      if (link === null || this.#stopping.signal.aborted) continue;
      try {
        const sentMs = clock.monotonicMs();
        const timeoutMs = this.#ttlMs / 2;
        this.#count(op);
        const counters = { ...this.#options.counters(), calls: this.#calls };
        const reply = await link.channel.call(op, { counters }, { timeoutMs }) as RenewReply;
        this.#isFull = reply.isFull === true;
        this.#measureClock(reply.now, clock.monotonicMs() - sentMs);
        if (this.#link === link) this.#heard(sentMs);
      } catch (error) {
        this.#options.log.debug("renewal failed", { error });
        if (this.#link === link) this.#drop();
      }
    }
  }

  /** Notices that the session is no longer valid. */
  async #watch(): Promise<void> {
    const { clock, log } = this.#options;
    while (!this.#stopping.signal.aborted) {
      await clock.sleep(this.#ttlMs / FENCE_CHECKS, this.#stopping.signal);
      if (this.isValid || this.#isFenced || this.#stopping.signal.aborted) continue;
      this.#isFenced = true;
      log.warn("the nameserver is silent: nothing is served from caches until it is back", {
        session: this.#session,
      });
      this.#options.onFenced();
    }
  }
}

/** A change that does not belong to written data (`flushChange`). */
function isOrdered(request: unknown): boolean {
  return ((request as { retry?: RetryTag }).retry?.slot ?? 0) >= FLUSH_SLOTS;
}

/** Given up on only until they are sent: later the nameserver may make them, and what is known here has to follow. */
const CHANGES_OF_NAMES: ReadonlySet<number> = new Set(
  (["make", "link", "remove", "rename"] as const).map((name) => NAMESERVER.methods[name].op),
);

const OPERATION_NAMES: ReadonlyMap<number, string> = new Map(
  [NAMESERVER, LEASESERVER, LOCKS].flatMap(({ methods }) =>
    Object.entries(methods).map(([name, { op }]): [number, string] => [op, name])
  ),
);
