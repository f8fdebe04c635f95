/**
 * Who may cache what. A session holds READ on whatever it was told of, shared with others, EXCLUSIVE on what only it
 * knows, or WRITE on the data of a regular file, alone. Before anything changes, all others give up what they know of it:
 * that is the happens-before between clients.
 *
 * Invariants:
 * - While a session holds EXCLUSIVE or WRITE on an inode, no other holds anything of it.
 * - While the turn on an inode is taken, or a change of its names waits for acknowledgements, nothing of it is granted
 *   (`lease` answers "none") but to who has the turn.
 * - Nor is anything granted to who is being asked to give something of it up: the answer may be on its way.
 * - A session is taken for a holder until it released the inode, ended, or acknowledged the recall.
 * - What a session could write when it ended is fenced before anybody gets a lease on it; so is what it gives back and says to
 *   be doubtful.
 * - After a restart nobody looks or changes before all sessions have said what they hold, or are over.
 *
 * No cycle of waits: operations wait for turns in ascending order, then for acknowledgements; a client acknowledges
 * without waiting for an operation of its own, and its flush takes no turn (`mayCommit`).
 */

import type { Clock } from "../../base/clock.ts";
import { type Live, readerOf } from "../../base/live.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import { isExclusive, LEASE_RANK, type LeaseMode, type OpenMode } from "../../wire/messages/inode.ts";
import {
  type Held,
  LEASE_PUSHES,
  type LeaseStatus,
  type RecallAnswer,
  type RecallItem,
  type RecallPush,
} from "../../wire/messages/nameserver.ts";
import type { SessionTable } from "./sessions.ts";
import { Turns } from "./turns.ts";

interface Holder {
  readonly session: SessionId;
  readonly ino: InodeId;
  lease: LeaseMode;
  /** As it said last. */
  open: OpenMode;
  /** How often it has said, unasked, that it has the inode no more open. */
  closes: number;
  /** How often it was shown what it may cache. */
  shown: number;
  /** Recalls that it has not acknowledged yet. */
  recalls: number;
  /** Its session's changes of the inode that wait for their turn: woken by the next recall. */
  inLine: Set<() => void> | null;
  /** Resolved when no recall is left, if somebody waits for that. */
  acknowledged: PromiseWithResolvers<void> | null;
}

interface Recalled {
  readonly item: RecallItem;
  readonly holder: Holder;
}

/** Who was asked, and `Holder.shown` then. */
type Asked = Map<Holder, number>;

/** What `lease` is asked by: who has the turn on the inode, or who changes names of the directory. */
export type Own = "turn" | "names";

export interface LeaseTableOptions {
  readonly sessions: SessionTable;
  readonly clock: Clock;
  /** Leases that one session may hold; beyond it the oldest are recalled. */
  readonly perSessionMax: Live<number>;
  /** The session holds WRITE on the inode no more, and what it could write is settled. */
  readonly onWriteEnded?: (session: SessionId, ino: InodeId) => void;
  /** What sessions from before a restart held WRITE on, as far as it is known. */
  readonly presumed?: ReadonlyMap<SessionId, readonly InodeId[]>;
  /** The session is over and may have writes of this file on their way: resolves when they would be refused. */
  readonly fence: (ino: InodeId) => Promise<void>;
}

/**
 * Among the sessions that have a removed inode open: stands for those that were told of it within the last TOLD_MS and
 * hold nothing of it. A process there may be between the name's lookup and the open.
 */
export const TOLD_LATELY = 0 as SessionId;
export const TOLD_MS = 2_000;
/** Recalled at once when a session holds too many. */
const EVICTION_BATCH = 1_024;
/** Of who only looks (status, tools). */
const NO_SESSION = 0 as SessionId;
const SESSION_ENDED = () => new FsError("ESHUTDOWN", "the session has ended", { op: "lease" });

export class LeaseTable {
  readonly #options: LeaseTableOptions;
  readonly #holders = new Map<InodeId, Holder[]>();
  /** The same holders in the order in which they came. */
  readonly #bySession = new Map<SessionId, Map<InodeId, Holder>>();
  readonly #turns = new Turns();
  /** Changes of names that wait for acknowledgements, by directory. */
  readonly #suspended = new Map<InodeId, number>();
  readonly #fencing = new Map<InodeId, Promise<void>>();
  /** Inodes that sessions were told of which hold nothing of them, and when last; the oldest first. */
  readonly #told = new Map<InodeId, number>();
  readonly #evicting = new Set<SessionId>();
  readonly #perSessionMax: () => number;
  /** Of sessions that have not said what they hold: what they held WRITE on before the restart. */
  readonly #presumed = new Map<SessionId, ReadonlySet<InodeId>>();
  #granted = 0;
  #recalls = 0;
  #recalledInodes = 0;
  #recallMs = 0;
  #recallMsMax = 0;
  #waitingRecalls = 0;
  #evicted = 0;
  #fenced = 0;

  constructor(options: LeaseTableOptions) {
    this.#options = options;
    this.#perSessionMax = readerOf(options.perSessionMax);
    for (const [session, inodes] of options.presumed ?? []) this.#presumed.set(session, new Set(inodes));
  }

  status(): LeaseStatus {
    const counts: Record<LeaseMode, number> = { none: 0, read: 0, exclusive: 0, write: 0 };
    for (const holders of this.#holders.values()) {
      for (const { lease } of holders) counts[lease]++;
    }
    return {
      read: counts.read,
      exclusive: counts.exclusive,
      write: counts.write,
      perSessionMax: this.#perSessionMax(),
      granted: this.#granted,
      recalls: this.#recalls,
      recalledInodes: this.#recalledInodes,
      recallMs: Math.round(this.#recallMs),
      recallMsMax: Math.round(this.#recallMsMax),
      waitingTurns: this.#turns.waiting,
      waitingRecalls: this.#waitingRecalls,
      evicted: this.#evicted,
      fenced: this.#fenced,
    };
  }

  /** How many leases a session holds. */
  countOf(session: SessionId): Readonly<Record<Exclude<LeaseMode, "none">, number>> {
    const counts = { read: 0, exclusive: 0, write: 0 };
    for (const { lease } of this.#bySession.get(session)?.values() ?? []) {
      if (lease !== "none") counts[lease]++;
    }
    return counts;
  }

  // ---- granting

  #isBusy(ino: InodeId): boolean {
    return this.#turns.isTaken(ino) || (this.#suspended.size > 0 && this.#suspended.has(ino)) ||
      (this.#fencing.size > 0 && this.#fencing.has(ino));
  }

  /** As #isBusy, for who has the turn or is counted among those that change names. */
  #isBusyForOwner(ino: InodeId, own: Own): boolean {
    if (this.#fencing.size > 0 && this.#fencing.has(ino)) return true;
    const changing = this.#suspended.get(ino) ?? 0;
    return own === "turn" ? changing > 0 : changing > 1 || this.#turns.isTaken(ino);
  }

  /**
   * What a reply that shows `ino` to `session` lets it cache: READ, unless it has more already. `own`: asked for by
   * what `look`, `change` or `acquire` runs, which has the turn on the inode, or changes its names.
   */
  lease(ino: InodeId, session: SessionId, own?: Own): LeaseMode {
    const { sessions } = this.#options;
    if (!sessions.isAlive(session)) return "none";
    // It may have sent its acknowledgement: what it is shown by then it would keep. A change that went first has no turn.
    const isAsked = (this.#bySession.get(session)?.get(ino)?.recalls ?? 0) > 0;
    const isBusy = own === undefined ? this.#isBusy(ino) : this.#isBusyForOwner(ino, own);
    if (
      isAsked || isBusy || sessions.unreclaimed(session).length > 0 || this.isExclusiveOfOther(ino, session)
    ) {
      this.#noteTold(ino);
      return "none";
    }
    const holder = this.#register(ino, session);
    if (holder.lease === "none") this.#grant(holder, "read");
    else holder.shown++;
    return holder.lease;
  }

  /**
   * As `lease`, but EXCLUSIVE where nobody else has anything of the inode, or may be about to open it: what others know of it
   * they learn by a later request, which waits until this session has said what it changed.
   */
  leaseExclusive(ino: InodeId, session: SessionId, own?: Own): LeaseMode {
    const lease = this.lease(ino, session, own);
    if (lease !== "read" || this.#holders.get(ino)!.length > 1 || this.#isToldLately(ino)) return lease;
    this.#grant(this.#register(ino, session), "exclusive");
    return "exclusive";
  }

  /** EXCLUSIVE to who has just made the inode. */
  grantExclusive(ino: InodeId, session: SessionId): void {
    if (!this.#options.sessions.isAlive(session)) throw SESSION_ENDED();
    const holder = this.#register(ino, session);
    if (LEASE_RANK[holder.lease] < LEASE_RANK.exclusive) this.#grant(holder, "exclusive");
  }

  #isToldLately(ino: InodeId): boolean {
    const toldMs = this.#told.get(ino);
    return toldMs !== undefined && this.#options.clock.monotonicMs() - toldMs <= TOLD_MS;
  }

  #noteTold(ino: InodeId): void {
    const nowMs = this.#options.clock.monotonicMs();
    this.#told.delete(ino);
    this.#told.set(ino, nowMs);
    for (const [oldest, atMs] of this.#told) {
      if (nowMs - atMs <= TOLD_MS) break;
      this.#told.delete(oldest);
    }
  }

  /** WRITE to who has just made the inode, or changed it while nobody else had anything of it. */
  grantWrite(ino: InodeId, session: SessionId): void {
    if (!this.#options.sessions.isAlive(session)) throw SESSION_ENDED();
    const holder = this.#register(ino, session);
    holder.open = "write";
    this.#grant(holder, "write");
  }

  #grant(holder: Holder, lease: LeaseMode): void {
    holder.lease = lease;
    holder.shown++;
    this.#granted++;
  }

  /**
   * Waits for the turn and for what others must give up, grants, and runs `look` before anybody else has a turn.
   * Errors: EINTR (`signal`), ESHUTDOWN; what `look` throws takes the grant back.
   */
  async acquire<T>(
    ino: InodeId,
    session: SessionId,
    mode: "read" | "write",
    look: (isWrittenByOthers: boolean) => T | Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    await this.#options.sessions.allReclaimed(session);
    await this.#turns.take(ino, signal);
    try {
      await this.#recallOthers(session, [{ ino, keep: mode === "write" ? "none" : "read" }]);
      await this.#untilAcknowledged(ino, session);
      if (!this.#options.sessions.isAlive(session)) throw SESSION_ENDED();
      const others = this.#holders.get(ino)?.filter((holder) => holder.session !== session) ?? [];
      const holder = this.#register(ino, session);
      const { lease: before, open: openBefore } = holder;
      if (LEASE_RANK[mode] > LEASE_RANK[before]) this.#grant(holder, mode);
      if (holder.open !== "write") holder.open = mode;
      try {
        // Within the turn, so that no recall of the lease overtakes the answer that brings it.
        return await look(others.some(({ open }) => open === "write"));
      } catch (error) {
        // What was open before still is. Else its close is told, as of any that was asked for.
        if (before === "none" && openBefore === "no") this.#unregister(holder);
        else this.#lower(holder, before);
        throw error;
      }
    } finally {
      this.#turns.giveAll([ino]);
    }
  }

  // ---- before looks and changes

  /**
   * Runs `look` when what other sessions have buffered of the inodes has come in. `look` is told whether it has the turn
   * on them (for `lease`); it shows what it sees in its first synchronous step.
   */
  look<T>(
    session: SessionId,
    inodes: readonly InodeId[],
    look: (own: Own | undefined) => T | Promise<T>,
  ): T | Promise<T> {
    const isQuiet = this.#options.sessions.unreclaimed(session).length === 0 &&
      !inodes.some((ino) => this.#isWrittenByOthers(ino, session));
    if (isQuiet) return look(undefined);
    return this.change(session, inodes.map((ino) => ({ ino, keep: "read" })), () => look("turn"));
  }

  /** Somebody can write to it, or could when the server before us ended: what they leave is seen to when that ends. */
  hasWriter(ino: InodeId): boolean {
    return this.#isWrittenByOthers(ino, NO_SESSION) || this.#isPresumedOther(ino, NO_SESSION);
  }

  #isWrittenByOthers(ino: InodeId, session: SessionId): boolean {
    if (this.#fencing.size > 0 && this.#fencing.has(ino)) return true;
    return this.isExclusiveOfOther(ino, session);
  }

  /** Another session may know more of the inode than the nameserver does. */
  isExclusiveOfOther(ino: InodeId, session: SessionId): boolean {
    return this.#holders.get(ino)?.some((holder) =>
      holder.session !== session && isExclusive(holder.lease)
    ) ??
      false;
  }

  /** Resolves when what other sessions have changed in a directory, without having said so yet, has come in. */
  async settleNames(ino: InodeId, session: SessionId): Promise<void> {
    await this.look(session, [ino], () => {});
  }

  /**
   * Runs `run` after all other sessions gave up what it is about to change; `run` makes the change in its first
   * synchronous step. It gets the sessions in which inodes that are `removed` are open, or may be soon (TOLD_LATELY).
   * Items with `names` are of directories, which are not reserved: changes of their names go on side by side.
   */
  change<T>(
    session: SessionId,
    items: readonly RecallItem[],
    run: (openIn: readonly SessionId[]) => T | Promise<T>,
  ): Promise<T> {
    const { sessions } = this.#options;
    const isQuiet = sessions.unreclaimed(session).length === 0 &&
      items.every((item) => !this.#isBusy(item.ino) && this.#conflicting(session, item, NOBODY).length === 0);
    // Nothing to wait for, and nothing can come between this line and the change.
    if (isQuiet) return (async () => await run(this.#openIn(session, items)))();
    const [item] = items;
    if (item === undefined || items.length > 1 || item.names !== undefined) {
      return this.#changeAfterRecalls(session, items, run);
    }
    return this.#changeInLine(session, item, run);
  }

  /**
   * A change of one inode. While who has the turn waits for this very session's acknowledgement, it goes first: the kernel
   * writes no page of a file back while its truncate is under way, so that the client might acknowledge only afterwards.
   */
  async #changeInLine<T>(
    session: SessionId,
    item: RecallItem,
    run: (openIn: readonly SessionId[]) => T | Promise<T>,
  ): Promise<T> {
    const items = [item];
    for (;;) {
      await this.#options.sessions.allReclaimed(session);
      const hasTurn = await this.#turnOrRecall(item.ino, session);
      // What others have is recalled step by step: no further one may begin once who has the turn goes on, and is granted
      // what it recalls. It may go on, and its turn end, while this one waits: whoever is shown something is asked again.
      const asked: Asked = new Map();
      while (!hasTurn && this.#isRecalled(item.ino, session)) {
        const batches = this.#batches(session, items, asked);
        if (batches.size === 0) return await run(this.#openIn(session, items));
        await this.#recallAll(batches);
      }
      if (hasTurn) return await this.#changeInTurn(session, items, run);
    }
  }

  /**
   * A change that went first has recalled from who has the turn as well: what that acknowledges must not take what it is
   * granted now.
   */
  async #untilAcknowledged(ino: InodeId, session: SessionId): Promise<void> {
    for (;;) {
      const holder = this.#bySession.get(session)?.get(ino);
      if (holder === undefined || holder.recalls === 0) return;
      holder.acknowledged ??= Promise.withResolvers();
      await holder.acknowledged.promise;
    }
  }

  #isRecalled(ino: InodeId, session: SessionId): boolean {
    const holder = this.#bySession.get(session)?.get(ino);
    return holder !== undefined && holder.recalls > 0 && holder.lease !== "none" && !this.#fencing.has(ino);
  }

  /** True: the turn has come. False: it is another's, who waits for this session. */
  async #turnOrRecall(ino: InodeId, session: SessionId): Promise<boolean> {
    if (this.#turns.tryTake(ino)) return true;
    if (this.#isRecalled(ino, session)) return false;
    const holder = this.#bySession.get(session)?.get(ino);
    const recalled = new AbortController();
    const onRecall = () => recalled.abort();
    if (holder !== undefined) (holder.inLine ??= new Set()).add(onRecall);
    try {
      await this.#turns.take(ino, recalled.signal);
      return true;
    } catch (error) {
      if (recalled.signal.aborted) return false;
      throw error;
    } finally {
      holder?.inLine?.delete(onRecall);
    }
  }

  async #changeAfterRecalls<T>(
    session: SessionId,
    items: readonly RecallItem[],
    run: (openIn: readonly SessionId[]) => T | Promise<T>,
  ): Promise<T> {
    await this.#options.sessions.allReclaimed(session);
    await this.#turns.takeAll(items.filter(({ names }) => names === undefined).map(({ ino }) => ino));
    return await this.#changeInTurn(session, items, run);
  }

  /** With the turns on all inodes, which are given back. */
  async #changeInTurn<T>(
    session: SessionId,
    items: readonly RecallItem[],
    run: (openIn: readonly SessionId[]) => T | Promise<T>,
  ): Promise<T> {
    const { sessions } = this.#options;
    const directories = items.filter(({ names }) => names !== undefined).map(({ ino }) => ino);
    const inodes = items.filter(({ names }) => names === undefined).map(({ ino }) => ino);
    for (const ino of directories) this.#suspended.set(ino, (this.#suspended.get(ino) ?? 0) + 1);
    let result: T | Promise<T>;
    try {
      await this.#recallOthers(session, items);
      if (session !== NO_SESSION && !sessions.isAlive(session)) throw SESSION_ENDED();
      result = run(this.#openIn(session, items)); // as it is in this step
    } finally {
      for (const ino of directories) {
        const count = this.#suspended.get(ino)! - 1;
        if (count === 0) this.#suspended.delete(ino);
        else this.#suspended.set(ino, count);
      }
      this.#turns.giveAll(inodes);
    }
    return await result;
  }

  /**
   * Runs `work` while nobody can write to the inode: what others have buffered has come in before, and nobody gets WRITE
   * until it has ended. Readers go on, unless `keep` is "none": then nobody has anything of it, its block map included.
   * `work` must end by itself, and soon.
   */
  async withoutWriters<T>(
    ino: InodeId,
    work: () => Promise<T>,
    keep: "read" | "none" = "read",
  ): Promise<T> {
    await this.#options.sessions.allReclaimed(NO_SESSION);
    await this.#turns.take(ino);
    try {
      await this.#recallOthers(NO_SESSION, [{ ino, keep }]);
      return await work();
    } finally {
      this.#turns.giveAll([ino]);
    }
  }

  /** A flush needs no turn: it comes from who has the inode alone, or is what a recall waits for. */
  mayCommit(ino: InodeId, session: SessionId): boolean {
    const holder = this.#bySession.get(session)?.get(ino);
    return holder !== undefined && (isExclusive(holder.lease) || holder.recalls > 0);
  }

  // ---- recalls

  /**
   * Others that `item` takes something from, or that it has a question for, and that were not asked since they were shown
   * something last.
   */
  #conflicting(session: SessionId, item: RecallItem, asked: Asked): Holder[] {
    const holders = this.#holders.get(item.ino);
    if (holders === undefined) return [];
    return holders.filter((holder) => {
      if (holder.session === session) return false;
      if (LEASE_RANK[holder.lease] > LEASE_RANK[item.keep]) return true;
      if (asked.get(holder) === holder.shown) return false;
      if (item.removed === true) return true;
      return holder.lease !== "none" && (item.attributes === true || item.names !== undefined);
    });
  }

  /** Recalls until nothing conflicts. */
  async #recallOthers(session: SessionId, items: readonly RecallItem[]): Promise<void> {
    const asked: Asked = new Map();
    for (;;) {
      await this.#untilFenced(items);
      const batches = this.#batches(session, items, asked);
      if (batches.size === 0) return;
      await this.#recallAll(batches);
    }
  }

  /** What is to be recalled now, and from whom; those are noted as `asked`. */
  #batches(session: SessionId, items: readonly RecallItem[], asked: Asked): Map<SessionId, Recalled[]> {
    const batches = new Map<SessionId, Recalled[]>();
    for (const item of items) {
      for (const holder of this.#conflicting(session, item, asked)) {
        asked.set(holder, holder.shown);
        const batch = batches.get(holder.session);
        if (batch === undefined) batches.set(holder.session, [{ item, holder }]);
        else batch.push({ item, holder });
      }
    }
    return batches;
  }

  async #recallAll(batches: ReadonlyMap<SessionId, readonly Recalled[]>): Promise<void> {
    await Promise.all([...batches].map(([other, batch]) => this.#recall(other, batch)));
  }

  /**
   * Other sessions that have something `removed` open now, some that said so have closed it, or ended, since; and
   * TOLD_LATELY.
   */
  #openIn(session: SessionId, items: readonly RecallItem[]): SessionId[] {
    const openIn = new Set<SessionId>();
    for (const { ino, removed } of items) {
      if (removed !== true) continue;
      for (const holder of this.#holders.get(ino) ?? []) {
        if (holder.session !== session && holder.open !== "no") openIn.add(holder.session);
      }
      if (this.#isToldLately(ino)) openIn.add(TOLD_LATELY);
    }
    return [...openIn];
  }

  /** Until none of these is being fenced any more: another may begin to be while one is waited for. */
  async #untilFenced(items: readonly RecallItem[]): Promise<void> {
    if (this.#fencing.size === 0) return;
    for (;;) {
      const fences = items.map(({ ino }) => this.#fencing.get(ino)).filter((fence) => fence !== undefined);
      if (fences.length === 0) return;
      await Promise.all(fences);
    }
  }

  async #recall(session: SessionId, batch: readonly Recalled[]): Promise<void> {
    const { clock } = this.#options;
    const startMs = clock.monotonicMs();
    this.#recalls++;
    this.#recalledInodes += batch.length;
    this.#waitingRecalls++;
    for (const { holder } of batch) {
      holder.recalls++;
      for (const wake of holder.inLine ?? []) wake();
    }
    try {
      // What was said to be open may be the older of two that crossed: then it is asked again.
      for (let left = batch; left.length > 0;) left = await this.#askHolders(session, left);
    } finally {
      for (const { holder } of batch) {
        holder.recalls--;
        if (holder.recalls > 0) continue;
        holder.acknowledged?.resolve();
        holder.acknowledged = null;
      }
      this.#waitingRecalls--;
      const ms = clock.monotonicMs() - startMs;
      this.#recallMs += ms;
      this.#recallMsMax = Math.max(this.#recallMsMax, ms);
    }
  }

  /** Takes over what the session answers; what it said to be open, and to be closed by a release beside that. */
  async #askHolders(session: SessionId, batch: readonly Recalled[]): Promise<readonly Recalled[]> {
    const push: RecallPush = { items: batch.map(({ item }) => item) };
    const closes = batch.map(({ holder }) => holder.closes);
    const answer = await this.#options.sessions.push(session, LEASE_PUSHES.methods.recall.op, push) as
      | RecallAnswer
      | undefined;
    if (answer === undefined) return []; // it has ended, and holds nothing any more
    const { doubtful } = answer;
    batch.forEach(({ item, holder }, i) => {
      holder.open = answer.open[i] ?? "no";
      const isDropped = item.removed === true && holder.open === "no";
      if (isDropped || LEASE_RANK[holder.lease] > LEASE_RANK[item.keep]) {
        this.#lower(holder, isDropped ? "none" : item.keep, doubtful?.includes(item.ino));
      }
      if (holder.lease !== "none" || holder.open !== "no") return;
      this.#unregister(holder);
      this.#noteTold(holder.ino);
    });
    return batch.filter(({ holder }, i) => holder.open !== "no" && holder.closes !== closes[i]);
  }

  /** The session holds too much: what it got first goes, a batch at a time. */
  async #evict(session: SessionId): Promise<void> {
    if (this.#evicting.has(session)) return;
    this.#evicting.add(session);
    try {
      // Not within the operation that went over the limit.
      await this.#options.clock.sleep(0);
      for (;;) {
        const held = this.#bySession.get(session);
        if (held === undefined || held.size <= this.#perSessionMax()) return;
        const batch = [];
        for (const holder of held.values()) {
          if (batch.length >= Math.min(EVICTION_BATCH, held.size - this.#perSessionMax() + 64)) break;
          if (holder.lease === "none" || holder.open !== "no" || !this.#turns.tryTake(holder.ino)) continue;
          batch.push({ item: { ino: holder.ino, keep: "none" } as const, holder });
        }
        if (batch.length === 0) return; // all that is left is open
        try {
          await this.#recall(session, batch);
          this.#evicted += batch.length;
        } finally {
          this.#turns.giveAll(batch.map(({ holder }) => holder.ino));
        }
      }
    } finally {
      this.#evicting.delete(session);
    }
  }

  // ---- open files, and the end of things

  /** True while the session has the inode open, as far as it has told. */
  isOpenIn(ino: InodeId, session: SessionId): boolean {
    return (this.#bySession.get(session)?.get(ino)?.open ?? "no") !== "no";
  }

  /** Other sessions that have the inode open, or may be about to open it (TOLD_LATELY). */
  openElsewhere(ino: InodeId, session: SessionId): SessionId[] {
    return this.#openIn(session, [{ ino, keep: "none", removed: true }]);
  }

  /** True when nobody but `session` can know anything of the inode, nor come to without a later request. */
  isAlone(ino: InodeId, session: SessionId): boolean {
    return !this.#isBusy(ino) &&
      !(this.#holders.get(ino)?.some((holder) => holder.session !== session) ?? false);
  }

  /** Asks a session whether it has an inode open that is about to be removed by itself; in turn, as any recall. */
  async askOpen(ino: InodeId, session: SessionId): Promise<void> {
    await this.#turns.take(ino);
    try {
      const holder = this.#bySession.get(session)?.get(ino);
      if (holder === undefined) return;
      await this.#recall(session, [{ item: { ino, keep: holder.lease, removed: true }, holder }]);
    } finally {
      this.#turns.giveAll([ino]);
    }
  }

  /** The session says whether it has the inode open; what it opens later it asks for later. */
  noteOpen(ino: InodeId, session: SessionId, isOpen: boolean): void {
    const holder = this.#bySession.get(session)?.get(ino) ??
      (isOpen ? this.#register(ino, session) : undefined);
    if (holder !== undefined && isOpen !== (holder.open !== "no")) holder.open = isOpen ? "read" : "no";
  }

  /** The inode is gone for good. */
  forget(ino: InodeId): void {
    for (const holder of this.#holders.get(ino) ?? []) {
      this.#lower(holder, "none");
      this.#dropFrom(holder.session, ino);
    }
    this.#holders.delete(ino);
  }

  /** What the session holds from now on of these inodes; never more than before. */
  lower(session: SessionId, held: readonly Held[]): void {
    const mine = this.#bySession.get(session);
    if (mine === undefined) return;
    for (const { ino, lease, open, doubtful } of held) {
      const holder = mine.get(ino);
      if (holder === undefined) continue;
      if (LEASE_RANK[lease] < LEASE_RANK[holder.lease]) this.#lower(holder, lease, doubtful);
      holder.open = open;
      if (open === "no") holder.closes++;
      if (holder.lease === "none" && open === "no") this.#unregister(holder);
    }
  }

  /** After a restart the session says what it holds: granted again, as far as others did not say otherwise before. */
  reclaim(session: SessionId, { ino, lease, open, doubtful }: Held): LeaseMode {
    const others = this.#holders.get(ino)?.filter((holder) => holder.session !== session) ?? [];
    // Who gave WRITE back and does not know whether that was heard claims it. Others may have READ by then; or WRITE, which
    // is known of them before they say so.
    const isWrittenByOthers = others.some((holder) => isExclusive(holder.lease)) ||
      (lease === "write" && this.#isPresumedOther(ino, session));
    const most: LeaseMode = isWrittenByOthers
      ? "none"
      : others.some((holder) => holder.lease === "read")
      ? "read"
      : "write";
    const holder = this.#register(ino, session);
    holder.open = open;
    this.#grant(holder, LEASE_RANK[lease] > LEASE_RANK[most] ? most : lease);
    if (doubtful === true && holder.lease !== "write") this.#fence(session, ino);
    if (holder.lease === "none" && open === "no") this.#unregister(holder);
    return holder.lease;
  }

  #isPresumedOther(ino: InodeId, session: SessionId): boolean {
    for (const [other, inodes] of this.#presumed) {
      if (other !== session && inodes.has(ino)) return true;
    }
    return false;
  }

  /** The session has said all that it holds: nothing more is presumed. */
  endPresumed(session: SessionId): void {
    for (const ino of this.#presumed.get(session) ?? []) {
      if (this.#bySession.get(session)?.get(ino)?.lease !== "write") {
        this.#options.onWriteEnded?.(session, ino);
      }
    }
    this.#presumed.delete(session);
  }

  /** The session is over. What it could write is fenced before anybody else may. */
  dropSession(session: SessionId): void {
    const written = new Set(this.#presumed.get(session));
    this.#presumed.delete(session);
    for (const holder of [...this.#bySession.get(session)?.values() ?? []]) {
      if (holder.lease === "write") written.add(holder.ino);
      holder.lease = "none"; // that it has ended is told when it is fenced
      this.#unregister(holder);
    }
    for (const ino of written) this.#fence(session, ino);
  }

  #fence(session: SessionId, ino: InodeId): void {
    this.#fenced++;
    const fence: Promise<void> = this.#options.fence(ino).finally(() => {
      if (this.#fencing.get(ino) === fence) this.#fencing.delete(ino);
      this.#options.onWriteEnded?.(session, ino);
    });
    this.#fencing.set(ino, fence);
  }

  #register(ino: InodeId, session: SessionId): Holder {
    let mine = this.#bySession.get(session);
    if (mine === undefined) this.#bySession.set(session, mine = new Map());
    let holder = mine.get(ino);
    if (holder !== undefined) return holder;
    holder = {
      session,
      ino,
      lease: "none",
      open: "no",
      closes: 0,
      shown: 0,
      recalls: 0,
      inLine: null,
      acknowledged: null,
    };
    mine.set(ino, holder);
    const holders = this.#holders.get(ino);
    if (holders === undefined) this.#holders.set(ino, [holder]);
    else holders.push(holder);
    if (mine.size > this.#perSessionMax()) void this.#evict(session); // it never rejects: push gives up by itself
    return holder;
  }

  #lower(holder: Holder, lease: LeaseMode, isDoubtful = false): void {
    const { session, ino } = holder;
    const endsWriting = holder.lease === "write" && lease !== "write";
    holder.lease = lease;
    if (!endsWriting) return;
    if (isDoubtful) this.#fence(session, ino);
    else this.#options.onWriteEnded?.(session, ino);
  }

  #unregister(holder: Holder): void {
    this.#lower(holder, "none");
    // Another may have come in its place since it was looked up.
    if (this.#bySession.get(holder.session)?.get(holder.ino) === holder) {
      this.#dropFrom(holder.session, holder.ino);
    }
    const holders = this.#holders.get(holder.ino);
    const at = holders?.indexOf(holder) ?? -1;
    if (at < 0) return;
    if (holders!.length === 1) this.#holders.delete(holder.ino);
    else holders!.splice(at, 1);
  }

  #dropFrom(session: SessionId, ino: InodeId): void {
    const mine = this.#bySession.get(session);
    if (mine === undefined) return;
    mine.delete(ino);
    if (mine.size === 0) this.#bySession.delete(session);
  }
}

const NOBODY: Asked = new Map();
