/**
 * Locks on files for this mount's processes. The leaseserver keeps them, but for record locks of files that nobody else locks
 * (kept_locks.ts); here is what each owner holds, to claim it again after a restart of the server and to release it when the
 * owner closes the file, and who waits.
 *
 * The kernel tells of a close in two ways. FLUSH comes for each descriptor of a process that is closed, and names the
 * process: its record locks on the file go. RELEASE comes when the last descriptor of an open file is closed, and names
 * nobody: what was asked for through that open file alone goes. That is flock's locks and those of the open file (OFD);
 * a process was named by FLUSH before.
 *
 * FLUSH costs each close a request, which nothing else needs of files that are only read: it is asked for from the first
 * record lock on this mount on. Of a file that was opened to be read before that, RELEASE alone tells: what a process locked
 * through it is kept while somebody else, who shares that open file, has not closed it.
 *
 * Invariants:
 * - A lock that the server may have granted is told to who asked for it, or taken back.
 * - An owner that has lost a lock, with the session, gets EIO for all that it does with locks on that file until it has
 *   closed it, and so do reads and writes through the handles that it was asked for through.
 */

import { type ByteSpan, type LockedRange, withRange } from "../base/lock_ranges.ts";
import { type Clock, OVER } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { FsError, isErrno, isTransportError } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import {
  LOCK_RANGES_MAX,
  type LockConflict,
  type LockKind,
  type LockOwner,
  type LockRequest,
  type LOCKS,
} from "../wire/messages/locks.ts";
import type { Client } from "../wire/service.ts";
import type { LockKeeper } from "./cluster_session.ts";
import { LockRecord } from "./lock_record.ts";
import type { Interruptible } from "./interruptible.ts";
import { KeptLocks, type LockCall } from "./kept_locks.ts";

/** An answer that is on its way when its caller gets a signal is waited for so long. */
const ANSWER_MS = 1_000;
/** A close does not wait longer for the server to hear of it: it will. */
const CLOSE_MS = 2_000;
/** Of what was lost, so many are named in the log. */
const LOST_NAMED_MAX = 20;

export interface LocksOptions {
  /** Calls that are sent until they are answered (ClusterSession.locks). */
  readonly server: Client<typeof LOCKS>;
  /** The server can't have given the session up. */
  readonly isValid: () => boolean;
  readonly clock: Clock;
  readonly log: Logger;
  /** Whether a thread waits for the lock of an open file, not of its process. */
  readonly waitsForOfdLock: (tid: number) => Promise<boolean>;
}

/** Who asks: the handle, and the kernel's name for the process or open file. */
export interface LockCaller extends LockOwner {
  readonly fh: number;
  /** The process. */
  readonly pid: number;
}

/** The thread that asks. */
export interface LockThread extends Interruptible {
  readonly pid: number;
}

/** A lock that is waited for. */
interface Wait {
  /** The server has something to say. */
  isOffered: boolean;
  wake: (() => void) | null;
}

export class Locks implements LockKeeper {
  readonly #options: LocksOptions;
  readonly #records: Readonly<Record<LockKind, Map<InodeId, Map<string, LockRecord>>>> = {
    posix: new Map(),
    flock: new Map(),
  };
  readonly #kept: KeptLocks;
  #areRecordsUsed = false;
  readonly #byHandle = new Map<number, Set<LockRecord>>();
  readonly #lostHandles = new Set<number>();
  readonly #waits = new Map<number, Wait>();
  #nextWait = 1;
  /** Counts losses of the session. */
  #tenure = 0;

  constructor(options: LocksOptions) {
    this.#options = options;
    const { server, clock, isValid } = options;
    const recordsOf = (ino: InodeId) => this.#records.posix.get(ino)?.values() ?? [];
    this.#kept = new KeptLocks({ server, clock, isValid, recordsOf });
  }

  /** Not undefined: a lock that was asked for through this handle is lost; the file may be another's to work on by now. */
  refusalOf(fh: number): FsError | undefined {
    return this.#lostHandles.size > 0 && this.#lostHandles.has(fh) ? lost() : undefined;
  }

  /** Each close must be told of: some process here takes record locks. */
  get needsFlush(): boolean {
    return this.#areRecordsUsed;
  }

  // ---- what processes ask for

  /** Errors: EAGAIN when it is not free, ENOLCK, EINTR (killed), EIO. */
  tryLock(caller: LockCaller, wanted: LockedRange, thread: LockThread): Promise<void> {
    const record = this.#recordOf(caller);
    return this.#tidied(record, this.#ask(record, wanted, {}, thread).then(() => {}));
  }

  /** As tryLock, but waits. Errors: EINTR when the thread got a signal, EDEADLK. */
  lock(caller: LockCaller, wanted: LockedRange, thread: LockThread): Promise<void> {
    const record = this.#recordOf(caller);
    record.waits++;
    const work = this.#lockOrWait(record, wanted, thread).finally(() => record.waits--);
    return this.#tidied(record, work);
  }

  async #lockOrWait(record: LockRecord, wanted: LockedRange, thread: LockThread): Promise<void> {
    let isUnchecked = false;
    for (;;) {
      const number = this.#nextWait++;
      const wait: Wait = { isOffered: false, wake: null };
      this.#waits.set(number, wait);
      try {
        const options = isUnchecked ? { wait: number, isUnchecked } : { wait: number };
        while (!await this.#ask(record, wanted, options, thread)) {
          if (await this.#offered(wait, thread.signal)) continue;
          this.#cancel(record, number);
          throw interrupted();
        }
        return;
      } catch (error) {
        if (!isErrno(error, "EDEADLK") || record.kind !== "posix" || isUnchecked) throw error;
        if (!await this.#options.waitsForOfdLock(thread.pid)) throw error;
        isUnchecked = true;
      } finally {
        this.#waits.delete(number);
      }
    }
  }

  /** Until the server has something to say (true), or the thread got a signal. */
  #offered(wait: Wait, signal: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const end = (isOffered: boolean) => {
        signal.removeEventListener("abort", onAbort);
        wait.wake = null;
        wait.isOffered = false;
        resolve(isOffered);
      };
      const onAbort = () => end(false);
      signal.addEventListener("abort", onAbort, { once: true });
      wait.wake = () => end(true);
      if (signal.aborted) onAbort();
      else if (wait.isOffered) end(true);
    });
  }

  /** One request: true when it is granted, false when it is waited for. */
  async #ask(
    record: LockRecord,
    wanted: LockedRange,
    options: Pick<LockRequest, "wait" | "isUnchecked">,
    { signal }: LockThread,
  ): Promise<boolean> {
    const { server } = this.#options;
    let isGivenUp = false;
    const work = record.inTurn(async () => {
      if (isGivenUp) throw interrupted();
      await this.#settle(record);
      if (this.#lockHere(record, wanted, options.wait !== undefined)) return true;
      return await this.#called(record, async (call) => {
        const tenure = this.#tenure;
        let isGranted: boolean;
        let kept: true | undefined;
        try {
          const { pid } = record;
          const keep = call?.keep === undefined ? {} : { keep: call.keep };
          const reply = await server.lock({ ...record.id, ...wanted, pid, ...options, ...keep });
          ({ granted: isGranted, kept } = reply);
        } catch (error) {
          if (isErrno(error, "EAGAIN") && record.kind === "flock") record.ranges = []; // the one that it was to replace
          if (isUncertain(error)) record.isInDoubt = true;
          throw error;
        }
        const isWanted = !isGivenUp && !(record.isLost && tenure !== this.#tenure);
        if (!isWanted && options.wait !== undefined) this.#cancel(record, options.wait);
        if (!isWanted && isGranted) record.isInDoubt = true;
        if (record.isInDoubt) await this.#settle(record);
        if (!isWanted) throw record.isLost ? lost() : interrupted();
        if (isGranted) record.ranges = withRange(record.ranges, wanted, wanted.type);
        else if (record.kind === "flock") record.ranges = [];
        if (kept === true) call?.kept();
        return isGranted;
      });
    });
    return await this.#unlessInterrupted(work, signal, () => isGivenUp = true);
  }

  /** Errors: EIO. */
  async unlock(caller: LockCaller, span: ByteSpan, thread: LockThread): Promise<void> {
    const record = this.#find(caller);
    if (record === undefined) return; // nothing was ever locked
    const work = record.inTurn(async () => {
      await this.#settle(record);
      if (this.#isKept(record) && this.#kept.setRanges(record, withRange(record.ranges, span))) return;
      await this.#called(record, async () => {
        const before = record.ranges;
        record.ranges = withRange(before, span);
        try {
          await this.#options.server.unlock({ ...record.id, start: span.start, end: span.end });
        } catch (error) {
          if (isUncertain(error)) record.isInDoubt = true;
          else record.ranges = before;
          throw error;
        }
      });
      if (record.isLost) throw lost();
    });
    await this.#tidied(record, this.#unlessInterrupted(work, thread.signal, () => {}));
  }

  /** A lock of another owner that is in the way of `wanted`. */
  async test(
    caller: LockOwner,
    wanted: LockedRange,
    thread: LockThread,
  ): Promise<LockConflict | undefined> {
    const record = this.#find(caller);
    if (record?.isLost === true) throw lost();
    const { ino, kind, owner } = caller;
    if (this.#isKept(caller)) return this.#kept.conflict(ino, record, wanted);
    const { server } = this.#options;
    const { conflict } = await this.#called(
      caller,
      () => server.testLock({ ino, kind, owner, ...wanted }, thread),
    );
    return conflict;
  }

  // ---- files that are kept here (kept_locks.ts)

  #isKept({ kind, ino }: Pick<LockOwner, "kind" | "ino">): boolean {
    return kind === "posix" && this.#kept.isKept(ino);
  }

  /** Whether it is held now by nobody's leave but ours. EAGAIN when another owner here is in the way, and it is not waited for. */
  #lockHere(record: LockRecord, wanted: LockedRange, isWaitedFor: boolean): boolean {
    if (!this.#isKept(record)) return false;
    if (this.#kept.conflict(record.ino, record, wanted) !== undefined) {
      if (isWaitedFor) return false; // the server keeps the order of who waits
      throw new FsError("EAGAIN", "another holds a lock on this", { op: "lock" });
    }
    return this.#kept.setRanges(record, withRange(record.ranges, wanted, wanted.type));
  }

  /** A call about locks of a file, which is kept no more then. */
  async #called<T>(
    { kind, ino }: Pick<LockOwner, "kind" | "ino">,
    send: (call: LockCall | undefined) => Promise<T>,
  ): Promise<T> {
    if (kind !== "posix") return await send(undefined);
    for (let ended = this.#kept.ended(ino); ended !== undefined; ended = this.#kept.ended(ino)) await ended;
    const call = this.#kept.begin(ino);
    try {
      return await send(call);
    } finally {
      call.end();
    }
  }

  // ---- what closes say

  /** FLUSH: the process has closed a descriptor of the file. Undefined when it holds nothing there. */
  closed(ino: InodeId, owner: string): Promise<void> | undefined {
    const record = this.#find({ ino, kind: "posix", owner });
    return record === undefined ? undefined : this.#releaseAll(record);
  }

  /** RELEASE: nobody has the handle any more. What is to be told is under way when it returns. */
  released(fh: number): void {
    this.#lostHandles.delete(fh);
    const records = this.#byHandle.get(fh);
    if (records === undefined) return;
    this.#byHandle.delete(fh);
    for (const record of records) {
      record.handles.delete(fh);
      if (record.handles.size === 0) void this.#releaseAll(record);
    }
  }

  /** Never rejects; what the server has not heard in time it will hear later. */
  async #releaseAll(record: LockRecord): Promise<void> {
    record.isLost = false;
    if (record.isIdle) return this.#tidy(record);
    const work = record.inTurn(async () => {
      const isKept = !record.isInDoubt && this.#isKept(record);
      record.ranges = [];
      if (isKept) return;
      record.isInDoubt = true;
      await this.#settle(record);
    });
    const late = new AbortController();
    const told = this.#tidied(record, work).catch((error) =>
      this.#options.log.warn("the release of locks was not heard yet", { ino: record.ino, error })
    );
    await Promise.race([told, this.#options.clock.sleep(CLOSE_MS, late.signal)]);
    late.abort(OVER);
  }

  // ---- what the session says

  offered(number: number): void {
    const wait = this.#waits.get(number);
    if (wait === undefined) {
      // Given up meanwhile, which the server may not have heard.
      void this.#options.server.cancelLock({ wait: number }).catch(() => {});
      return;
    }
    wait.isOffered = true;
    wait.wake?.();
  }

  recalled(ino: InodeId, kept: number): void {
    this.#kept.recall(ino, kept);
  }

  async reclaim(server: Client<typeof LOCKS>): Promise<void> {
    this.#kept.clear();
    const held = [...this.#all()].filter(({ ranges }) => ranges.length > 0);
    const refused: LockRecord[] = [];
    for (let at = 0; at < held.length;) {
      const first = at;
      let ranges = 0;
      do ranges += held[at++]!.ranges.length; while (
        at < held.length && ranges + held[at]!.ranges.length <= LOCK_RANGES_MAX
      );
      const batch = held.slice(first, at);
      try {
        const reply = await server.setLocks({ owners: batch.map(({ owned }) => owned) });
        refused.push(...batch.filter((_, i) => reply.held[i] !== true));
      } catch (error) {
        if (isTransportError(error)) throw error;
        this.#options.log.error("locks could not be claimed again", { error });
        refused.push(...batch);
      }
    }
    this.#lose(refused);
  }

  connected(): void {
    this.#kept.connected();
    for (const wait of this.#waits.values()) {
      wait.isOffered = true;
      wait.wake?.();
    }
    for (const record of this.#all()) {
      if (record.isInDoubt) {
        void this.#tidied(record, record.inTurn(() => this.#settle(record))).catch(() => {});
      }
    }
  }

  /** The session has ended: others may hold by now what was held here. */
  lost(): void {
    this.#tenure++;
    this.#kept.clear();
    for (const record of this.#all()) record.isInDoubt = false;
    this.#lose([...this.#all()].filter(({ ranges }) => ranges.length > 0));
  }

  #lose(records: readonly LockRecord[]): void {
    if (records.length === 0) return;
    for (const record of records) {
      record.ranges = [];
      record.isLost = true;
      for (const fh of record.handles) this.#lostHandles.add(fh);
    }
    const named = records.slice(0, LOST_NAMED_MAX);
    this.#options.log.error(
      "locks were lost with the session: who held them gets EIO until it closes the file",
      {
        count: records.length,
        inodes: [...new Set(named.map(({ ino }) => ino))],
        processes: [...new Set(named.map(({ pid }) => pid))],
      },
    );
  }

  // ---- records

  /** What the server has becomes what the record says; EIO for one that is lost. Within its turn. */
  async #settle(record: LockRecord): Promise<void> {
    while (record.isInDoubt) {
      const tenure = this.#tenure;
      const { server } = this.#options;
      const { held } = await this.#called(record, () => server.setLocks({ owners: [record.owned] }));
      // Heard by another session than it was meant for: it is to hold nothing there.
      record.isInDoubt = tenure !== this.#tenure;
      if (!record.isInDoubt && held[0] !== true) this.#lose([record]);
    }
    if (record.isLost) throw lost();
  }

  #cancel(record: LockRecord, wait: number): void {
    const told = record.inTurn(() => this.#options.server.cancelLock({ wait }));
    this.#tidied(record, told).catch((error) => {
      // `offered` says it again.
      this.#options.log.debug("a wait for a lock was not taken back yet", { ino: record.ino, error });
    });
  }

  /** What comes of `work`, but EINTR when the thread gets a signal and the answer does not come soon. */
  #unlessInterrupted<T>(work: Promise<T>, signal: AbortSignal, onGiveUp: () => void): Promise<T> {
    const ended = new AbortController();
    const interruption = new Promise<T>((_, reject) => {
      const onAbort = async () => {
        await this.#options.clock.sleep(ANSWER_MS, ended.signal);
        if (ended.signal.aborted) return;
        onGiveUp();
        reject(interrupted());
      };
      signal.addEventListener("abort", onAbort, { once: true, signal: ended.signal });
      if (signal.aborted) void onAbort();
    });
    return Promise.race([work, interruption]).finally(() => ended.abort(OVER));
  }

  *#all(): Iterable<LockRecord> {
    for (const kind of [this.#records.posix, this.#records.flock]) {
      for (const records of kind.values()) yield* records.values();
    }
  }

  #find({ kind, ino, owner }: LockOwner): LockRecord | undefined {
    return this.#records[kind].get(ino)?.get(owner);
  }

  #recordOf(caller: LockCaller): LockRecord {
    const { kind, ino, owner, fh, pid } = caller;
    if (kind === "posix") this.#areRecordsUsed = true;
    let records = this.#records[kind].get(ino);
    if (records === undefined) this.#records[kind].set(ino, records = new Map());
    let record = records.get(owner);
    if (record === undefined) records.set(owner, record = new LockRecord(caller));
    record.pid = pid;
    record.handles.add(fh);
    const ofHandle = this.#byHandle.get(fh);
    if (ofHandle === undefined) this.#byHandle.set(fh, new Set([record]));
    else ofHandle.add(record);
    return record;
  }

  /** `work`, after which the record goes if it holds nothing: the next close has nothing to tell. */
  async #tidied<T>(record: LockRecord, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } finally {
      void record.settled.then(() => this.#tidy(record));
    }
  }

  #tidy(record: LockRecord): void {
    const { kind, ino, owner } = record;
    if (!record.isIdle || record.isLost) return;
    const records = this.#records[kind].get(ino);
    if (records?.get(owner) !== record) return;
    records.delete(owner);
    if (records.size === 0) this.#records[kind].delete(ino);
    for (const fh of record.handles) {
      const ofHandle = this.#byHandle.get(fh);
      if (ofHandle?.delete(record) === true && ofHandle.size === 0) this.#byHandle.delete(fh);
    }
    record.handles.clear();
  }
}

/** Of what failed so, it is not known whether the server has done it. */
function isUncertain(error: unknown): boolean {
  return isErrno(error, "EIO") || isErrno(error, "EINTR") || isTransportError(error);
}

function interrupted(): FsError {
  return new FsError("EINTR", "interrupted while it waited for a lock", { op: "lock" });
}

function lost(): FsError {
  return new FsError("EIO", "its lock was lost with the session: close the file and open it again", {
    op: "lock",
  });
}
