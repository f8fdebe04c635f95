/**
 * Locks on files: who holds which, and who waits. Record locks (fcntl) and whole-file locks (flock) are kept apart, and
 * each belongs to an owner of a session.
 *
 * Invariants:
 * - No two owners hold, or are offered, locks on a file that conflict.
 * - A lock that is offered is taken, or given up, by its client, or goes with its session: nothing is granted to who may
 *   not want it any more.
 * - What waits is offered its lock in the step in which nothing is in its way any more.
 * - While a session keeps a file's record locks itself, nobody else holds, waits for, or gets anything there; what is known of
 *   its own owners there may be out of date.
 *
 * Fairness: who waits is served first come, first served. A request that must wait for nobody but for others that wait
 * lets them go first for FAIR_MS, and no longer: a program may hold a shared lock and wait until another has got one,
 * which must not fail for a third that wants the lock for itself. Who holds something on the file lets nobody go first,
 * as the others may be waiting for just that.
 */

import type { Clock } from "../../base/clock.ts";
import {
  type ByteSpan,
  conflicts,
  firstConflict,
  type LockedRange,
  withRange,
} from "../../base/lock_ranges.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import {
  KEPT_FILES_MAX,
  KEPT_RANGES_MAX,
  type LockConflict,
  type LockKind,
  type LockOwner,
  type LockRequest,
  type OwnedLocks,
} from "../../wire/messages/locks.ts";
import { type OwnerKey, WaitGraph } from "./wait_graph.ts";

export interface LockTableOptions {
  readonly clock: Clock;
  /** Tells a client that its wait has come to something: it asks again. */
  readonly tell: (session: SessionId, wait: number) => void;
  /** Asks a client to give up what it keeps; it is done when `ended` aborts. Ends the session if it does not in time. */
  readonly recall: (session: SessionId, ino: InodeId, kept: number, ended: AbortSignal) => void;
  /** Ranges that a session may hold, and locks that it may wait for: about 150 bytes each. */
  readonly rangesPerSessionMax?: number;
  readonly waitsPerSessionMax?: number;
}

/** What one owner holds on one file. */
interface Owner {
  readonly key: OwnerKey;
  readonly session: SessionId;
  readonly file: FileLocks;
  pid: number;
  ranges: readonly LockedRange[];
}

interface Waiter {
  readonly key: OwnerKey;
  readonly session: SessionId;
  readonly file: FileLocks;
  readonly wait: number;
  readonly wanted: LockedRange;
  readonly isUnchecked: boolean;
  readonly sinceMs: number;
  /** "offered": free, and kept for it; "deadlock": it would wait for itself. */
  state: "waiting" | "offered" | "deadlock";
  /** Aborts when it waits no more. */
  readonly ended: AbortController;
}

/** Who keeps a file's record locks itself. */
interface Keeper {
  readonly session: SessionId;
  readonly kept: number;
  isRecalled: boolean;
  /** Aborts when it keeps them no more. */
  readonly ended: AbortController;
}

interface FileLocks {
  readonly kind: LockKind;
  readonly ino: InodeId;
  keeper: Keeper | null;
  readonly owners: Map<OwnerKey, Owner>;
  /** In the order in which they came. */
  readonly waiters: Waiter[];
}

interface SessionLocks {
  readonly owners: Set<Owner>;
  readonly waits: Map<number, Waiter>;
  readonly kept: Set<FileLocks>;
  ranges: number;
}

export const FAIR_MS = 1_000;
export const LOCK_RANGES_PER_SESSION = 65_536;
export const LOCK_WAITS_PER_SESSION = 8_192;

export class LockTable {
  readonly #options: LockTableOptions;
  readonly #files: Readonly<Record<LockKind, Map<InodeId, FileLocks>>> = {
    posix: new Map(),
    flock: new Map(),
  };
  readonly #sessions = new Map<SessionId, SessionLocks>();
  readonly #graph = new WaitGraph<Waiter>();

  constructor(options: LockTableOptions) {
    this.#options = options;
  }

  /** What a session holds and waits for, as far as it is not kept by the session itself. */
  countOf(session: SessionId): { readonly locks: number; readonly waits: number } {
    const mine = this.#sessions.get(session);
    if (mine === undefined) return { locks: 0, waits: 0 };
    let locks = mine.ranges;
    for (const file of mine.kept) {
      for (const { ranges } of file.owners.values()) locks -= ranges.length;
    }
    return { locks, waits: mine.waits.size };
  }

  // ---- who keeps a file's record locks itself

  /**
   * Leaves the file's record locks to a session if it is alone there, under a number of its own. It has just been granted one,
   * and no other call of it is under way.
   */
  keep(session: SessionId, ino: InodeId, kept: number): boolean {
    const file = this.#files.posix.get(ino);
    const mine = this.#sessions.get(session);
    if (file === undefined || mine === undefined || file.keeper !== null || file.waiters.length > 0) {
      return false;
    }
    if (mine.kept.size >= KEPT_FILES_MAX) return false;
    let ranges = 0;
    for (const owner of file.owners.values()) {
      if (owner.session !== session) return false;
      ranges += owner.ranges.length;
    }
    if (ranges > KEPT_RANGES_MAX) return false; // they could not be given up in one message
    file.keeper = { session, kept, isRecalled: false, ended: new AbortController() };
    mine.kept.add(file);
    return true;
  }

  /**
   * To be asked before anything of the file's is looked at or changed for a session, again after each wait: undefined when
   * nobody keeps its record locks. The session itself, if it asks, has not taken up that it keeps them.
   */
  free(session: SessionId, { kind, ino }: Pick<LockOwner, "kind" | "ino">): Promise<void> | undefined {
    const file = this.#files[kind].get(ino);
    if (file === undefined || file.keeper === null) return undefined;
    if (file.keeper.session !== session) return this.#recall(file.keeper, ino);
    this.#endKeeping(file);
    return undefined;
  }

  #recall(keeper: Keeper, ino: InodeId): Promise<void> {
    const { session, kept, ended: { signal } } = keeper;
    const ended = new Promise<void>((resolve) =>
      signal.addEventListener("abort", () => resolve(), { once: true })
    );
    if (!keeper.isRecalled) {
      keeper.isRecalled = true;
      this.#options.recall(session, ino, kept, signal);
    }
    return ended;
  }

  /** The session keeps the file's record locks no more; its owners hold exactly that, or what is known of them here. */
  giveUp(session: SessionId, ino: InodeId, kept: number, owners: readonly OwnedLocks[] | undefined): void {
    const file = this.#files.posix.get(ino);
    if (file?.keeper?.session !== session || file.keeper.kept !== kept) return;
    if (owners !== undefined) { for (const owner of [...file.owners.values()]) this.#hold(owner, []); }
    for (const { owner, pid, ranges } of owners ?? []) {
      if (ranges.length === 0) continue;
      this.#hold(this.#makeOwner(session, file, keyOf(session, owner), pid), ranges);
    }
    this.#endKeeping(file);
    this.#settle(file);
  }

  #endKeeping(file: FileLocks): void {
    const { keeper } = file;
    if (keeper === null) return;
    file.keeper = null;
    this.#sessions.get(keeper.session)?.kept.delete(file);
    this.#forgetIfIdle(keeper.session);
    keeper.ended.abort();
  }

  // ---- what sessions ask for

  /**
   * True when the lock is held now; false when it is waited for. What the owner held of the range becomes part of it in the
   * same step; an flock of another type goes first, and is lost even if the new one is not to be had.
   */
  lock(session: SessionId, request: LockRequest): boolean {
    const { kind, ino, owner, pid, wait, isUnchecked = false } = request;
    const known = wait === undefined ? undefined : this.#sessions.get(session)?.waits.get(wait);
    if (known !== undefined) return this.#poll(known, pid);
    const file = this.#fileOf(kind, ino);
    const key = keyOf(session, owner);
    const wanted: LockedRange = { start: request.start, end: request.end, type: request.type };
    const held = file.owners.get(key);
    try {
      if (held !== undefined && kind === "flock") {
        if (held.ranges[0]!.type === wanted.type) return true;
        this.#hold(held, []);
      }
      const isBlocked = this.#isBlocked(file, key, wanted);
      const mustWait = isBlocked || (wait !== undefined && held === undefined &&
        this.#isInLine(file, key, wanted, file.waiters.length));
      if (!mustWait) {
        this.#take(session, file, key, wanted, pid);
        return true;
      }
      if (wait === undefined) throw new FsError("EAGAIN", "another holds a lock on this", { op: "lock" });
      const waiter = this.#startWaiting(session, file, key, { wanted, wait, isUnchecked });
      if (this.#isDeadlock(waiter)) {
        this.#stopWaiting(waiter);
        throw DEADLOCK();
      }
      return false;
    } finally {
      this.#settle(file);
    }
  }

  /** What has become of a wait. */
  #poll(waiter: Waiter, pid: number): boolean {
    if (waiter.state === "waiting") return false;
    this.#stopWaiting(waiter);
    try {
      if (waiter.state === "deadlock") throw DEADLOCK();
      this.#take(waiter.session, waiter.file, waiter.key, waiter.wanted, pid);
      return true;
    } finally {
      this.#settle(waiter.file);
    }
  }

  /** Errors: ENOLCK, when a range would become two and there is no room. */
  unlock(session: SessionId, { kind, ino, owner }: LockOwner, span: ByteSpan): void {
    const held = this.#files[kind].get(ino)?.owners.get(keyOf(session, owner));
    if (held === undefined) return;
    const ranges = withRange(held.ranges, span);
    this.#checkRoom(session, ranges.length - held.ranges.length);
    this.#hold(held, ranges);
    this.#settle(held.file);
  }

  /** A lock that another owner holds in the way of `wanted`. */
  test(session: SessionId, { kind, ino, owner }: LockOwner, wanted: LockedRange): LockConflict | undefined {
    const file = this.#files[kind].get(ino);
    if (file === undefined) return undefined;
    const key = keyOf(session, owner);
    for (const other of file.owners.values()) {
      if (other.key === key) continue;
      const range = firstConflict(other.ranges, wanted);
      if (range !== undefined) return { ...range, pid: other.session === session ? other.pid : 0 };
    }
    return undefined;
  }

  cancel(session: SessionId, wait: number): void {
    const waiter = this.#sessions.get(session)?.waits.get(wait);
    if (waiter === undefined) return;
    this.#stopWaiting(waiter);
    this.#settle(waiter.file);
  }

  /** The owner holds exactly `ranges` from now on; false, and it holds nothing, if others hold something in the way. */
  set(session: SessionId, { kind, ino, owner, pid, ranges }: OwnedLocks): boolean {
    const file = this.#fileOf(kind, ino);
    const key = keyOf(session, owner);
    try {
      const isFree = !ranges.some((range) => this.#isBlocked(file, key, range));
      const held = file.owners.get(key);
      let next: readonly LockedRange[] = [];
      if (isFree) { for (const range of ranges) next = withRange(next, range, range.type); }
      this.#checkRoom(session, next.length - (held?.ranges.length ?? 0));
      this.#hold(held ?? this.#makeOwner(session, file, key, pid), next);
      return isFree;
    } finally {
      this.#settle(file);
    }
  }

  /** The session is over, and all that it held and waited for. */
  dropSession(session: SessionId): void {
    const mine = this.#sessions.get(session);
    if (mine === undefined) return;
    const files = new Set<FileLocks>();
    for (const waiter of [...mine.waits.values()]) {
      files.add(waiter.file);
      this.#stopWaiting(waiter);
    }
    for (const owner of [...mine.owners]) {
      files.add(owner.file);
      this.#hold(owner, []);
    }
    for (const file of [...mine.kept]) {
      files.add(file);
      this.#endKeeping(file);
    }
    for (const file of files) this.#settle(file);
  }

  // ---- what is in the way

  /** Others hold, or are offered, something in the way. */
  #isBlocked(file: FileLocks, key: OwnerKey, wanted: LockedRange): boolean {
    for (const owner of file.owners.values()) {
      if (owner.key !== key && firstConflict(owner.ranges, wanted) !== undefined) return true;
    }
    return file.waiters.some((waiter) =>
      waiter.state === "offered" && waiter.key !== key && conflicts(waiter.wanted, wanted)
    );
  }

  /** One of the first `count` waiters, who came before, waits for something in the way. */
  #isInLine(file: FileLocks, key: OwnerKey, wanted: LockedRange, count: number): boolean {
    for (let i = 0; i < count; i++) {
      const waiter = file.waiters[i]!;
      if (waiter.state === "waiting" && waiter.key !== key && conflicts(waiter.wanted, wanted)) return true;
    }
    return false;
  }

  /** Would it wait for itself? */
  #isDeadlock(waiter: Waiter): boolean {
    if (waiter.file.kind !== "posix" || waiter.isUnchecked) return false;
    return this.#graph.closesCycle(waiter, (one) => this.#blockers(one));
  }

  *#blockers({ file, key, wanted }: Waiter): Iterable<OwnerKey> {
    for (const owner of file.owners.values()) {
      if (owner.key !== key && firstConflict(owner.ranges, wanted) !== undefined) yield owner.key;
    }
    for (const waiter of file.waiters) {
      if (waiter.state === "offered" && waiter.key !== key && conflicts(waiter.wanted, wanted)) {
        yield waiter.key;
      }
    }
  }

  /** Offers what has become free to who waits for it, in order. Call after every change of a file's locks. */
  #settle(file: FileLocks): void {
    const { clock, tell } = this.#options;
    const nowMs = clock.monotonicMs();
    for (const [i, waiter] of file.waiters.entries()) {
      if (waiter.state !== "waiting" || this.#isBlocked(file, waiter.key, waiter.wanted)) continue;
      const letsOthersGo = nowMs - waiter.sinceMs < FAIR_MS && !file.owners.has(waiter.key);
      if (letsOthersGo && this.#isInLine(file, waiter.key, waiter.wanted, i)) continue;
      waiter.state = "offered";
      tell(waiter.session, waiter.wait);
    }
    const isUnused = file.owners.size === 0 && file.waiters.length === 0 && file.keeper === null;
    if (isUnused) this.#files[file.kind].delete(file.ino);
  }

  // ---- bookkeeping

  #fileOf(kind: LockKind, ino: InodeId): FileLocks {
    let file = this.#files[kind].get(ino);
    if (file === undefined) {
      this.#files[kind].set(ino, file = { kind, ino, keeper: null, owners: new Map(), waiters: [] });
    }
    return file;
  }

  #sessionOf(session: SessionId): SessionLocks {
    let mine = this.#sessions.get(session);
    if (mine === undefined) {
      this.#sessions.set(session, mine = { owners: new Set(), waits: new Map(), kept: new Set(), ranges: 0 });
    }
    return mine;
  }

  #forgetIfIdle(session: SessionId): void {
    const mine = this.#sessions.get(session);
    if (mine === undefined || mine.owners.size > 0 || mine.waits.size > 0 || mine.kept.size > 0) return;
    this.#sessions.delete(session);
  }

  #makeOwner(session: SessionId, file: FileLocks, key: OwnerKey, pid: number): Owner {
    const owner: Owner = { key, session, file, pid, ranges: [] };
    file.owners.set(key, owner);
    this.#sessionOf(session).owners.add(owner);
    return owner;
  }

  /** Nothing is in the way: the owner holds it as well from now on. */
  #take(session: SessionId, file: FileLocks, key: OwnerKey, wanted: LockedRange, pid: number): void {
    const held = file.owners.get(key);
    const ranges = withRange(held?.ranges ?? [], wanted, wanted.type);
    this.#checkRoom(session, ranges.length - (held?.ranges.length ?? 0));
    const owner = held ?? this.#makeOwner(session, file, key, pid);
    owner.pid = pid;
    this.#hold(owner, ranges);
    // What others wait for has another holder now, who may wait for them elsewhere.
    for (const waiter of this.#graph.waitersOf(key)) {
      if (waiter.state !== "waiting" || !this.#isDeadlock(waiter)) continue;
      waiter.state = "deadlock";
      this.#graph.remove(waiter);
      this.#options.tell(waiter.session, waiter.wait);
    }
  }

  /** ENOLCK when the session may not hold so many ranges more. */
  #checkRoom(session: SessionId, more: number): void {
    const { rangesPerSessionMax = LOCK_RANGES_PER_SESSION } = this.#options;
    if (more <= 0 || (this.#sessions.get(session)?.ranges ?? 0) + more <= rangesPerSessionMax) return;
    throw new FsError("ENOLCK", `this mount holds ${rangesPerSessionMax} locks: release some`, {
      op: "lock",
    });
  }

  #hold(owner: Owner, ranges: readonly LockedRange[]): void {
    const mine = this.#sessionOf(owner.session);
    mine.ranges += ranges.length - owner.ranges.length;
    owner.ranges = ranges;
    if (ranges.length > 0) return;
    owner.file.owners.delete(owner.key);
    mine.owners.delete(owner);
    this.#forgetIfIdle(owner.session);
  }

  #startWaiting(
    session: SessionId,
    file: FileLocks,
    key: OwnerKey,
    request: Pick<Waiter, "wanted" | "wait" | "isUnchecked">,
  ): Waiter {
    const { clock, waitsPerSessionMax = LOCK_WAITS_PER_SESSION } = this.#options;
    const mine = this.#sessionOf(session);
    if (mine.waits.size >= waitsPerSessionMax) {
      throw new FsError(
        "ENOLCK",
        `${waitsPerSessionMax} locks are waited for on this mount: wait for fewer`,
        {
          op: "lock",
        },
      );
    }
    const ended = new AbortController();
    const sinceMs = clock.monotonicMs();
    const waiter: Waiter = { ...request, key, session, file, sinceMs, state: "waiting", ended };
    file.waiters.push(waiter);
    mine.waits.set(request.wait, waiter);
    if (file.kind === "posix" && !request.isUnchecked) this.#graph.add(waiter);
    void clock.sleep(FAIR_MS, ended.signal).then(() => {
      if (!ended.signal.aborted) this.#settle(file);
    });
    return waiter;
  }

  #stopWaiting(waiter: Waiter): void {
    const { file, session } = waiter;
    waiter.ended.abort();
    file.waiters.splice(file.waiters.indexOf(waiter), 1);
    this.#graph.remove(waiter);
    this.#sessions.get(session)?.waits.delete(waiter.wait);
    this.#forgetIfIdle(session);
  }
}

function keyOf(session: SessionId, owner: string): OwnerKey {
  return `${session} ${owner}` as OwnerKey;
}

const DEADLOCK = () => new FsError("EDEADLK", "who holds the lock waits for this process", { op: "lock" });
