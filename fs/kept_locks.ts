/**
 * Record locks that the leaseserver leaves to this mount: of files that nobody else locks. They are granted and released here,
 * without a call, until another mount asks for the file.
 *
 * Invariants:
 * - While a file is kept, no call about its record locks is under way or begins; the first one gives it up, and waits for that.
 * - It is taken up only from the answer to a call beside which no other was under way: later calls would have ended it there.
 * - Nothing is granted here when the session may be over.
 */

import type { Clock } from "../base/clock.ts";
import { firstConflict, type LockedRange } from "../base/lock_ranges.ts";
import type { InodeId } from "../wire/ids.ts";
import { KEPT_FILES_MAX, KEPT_RANGES_MAX, type LockConflict, type LOCKS } from "../wire/messages/locks.ts";
import type { Client } from "../wire/service.ts";
import type { LockRecord } from "./lock_record.ts";

/** So long after another mount has asked for a file it is not kept again: the two would take it from each other. */
const RECALLED_MS = 5_000;
/** Of so many files that is remembered. */
const RECALLED_FILES_MAX = 1_024;

export interface KeptLocksOptions {
  /** As LocksOptions'. */
  readonly server: Client<typeof LOCKS>;
  readonly clock: Clock;
  readonly isValid: () => boolean;
  /** All that hold record locks of the file. */
  readonly recordsOf: (ino: InodeId) => Iterable<LockRecord>;
}

interface Keep {
  readonly kept: number;
  /** It is to be given up; the server may have heard of that already. */
  isEnding: boolean;
  ending: Promise<void> | null;
}

/** Calls about a file's record locks that are under way. */
interface Calls {
  count: number;
  /** Another has begun since the one that began alone. */
  isCrowded: boolean;
  /** One is under way whose answer may say that the file is kept. */
  mayBeKept: boolean;
  /** What was asked for by another mount before it was known to be kept. */
  recalled: number;
}

/** A call, from before it is sent until it is answered. */
export interface LockCall {
  /** A number under which the file may be kept. */
  readonly keep?: number;
  /** The answer said that it is. */
  kept(): void;
  /** It is over, answered or not. */
  end(): void;
}

export class KeptLocks {
  readonly #options: KeptLocksOptions;
  readonly #files = new Map<InodeId, Keep>();
  readonly #calls = new Map<InodeId, Calls>();
  /** Until when a file is not kept again. */
  readonly #recalled = new Map<InodeId, number>();
  #nextKept = 1;
  /** Counts what the server has forgotten. */
  #tenure = 0;

  constructor(options: KeptLocksOptions) {
    this.#options = options;
  }

  // ---- what is done here

  /** This mount decides about the file's record locks now. */
  isKept(ino: InodeId): boolean {
    return this.#files.get(ino)?.isEnding === false && this.#options.isValid();
  }

  /** Another owner here holds something in the way of `wanted`, in a kept file. */
  conflict(ino: InodeId, record: LockRecord | undefined, wanted: LockedRange): LockConflict | undefined {
    for (const other of this.#options.recordsOf(ino)) {
      const range = other === record ? undefined : firstConflict(other.ranges, wanted);
      if (range !== undefined) return { ...range, pid: other.pid };
    }
    return undefined;
  }

  /** Changes what an owner holds in a kept file; false, and nothing is changed, when that is more than may be kept. */
  setRanges(record: LockRecord, ranges: readonly LockedRange[]): boolean {
    const count = this.#countRanges(record.ino) - record.ranges.length + ranges.length;
    if (count > KEPT_RANGES_MAX) return false;
    record.ranges = ranges;
    return true;
  }

  #countRanges(ino: InodeId): number {
    let count = 0;
    for (const { ranges } of this.#options.recordsOf(ino)) count += ranges.length;
    return count;
  }

  // ---- calls

  /**
   * To be awaited before a call about the file's record locks begins: it is kept no more. Undefined: it is not. Errors: EIO,
   * where the mount does not wait for its server (soft).
   */
  ended(ino: InodeId): Promise<void> | undefined {
    const keep = this.#files.get(ino);
    if (keep === undefined) return undefined;
    keep.isEnding = true;
    return keep.ending ??= this.#giveUp(ino, keep).finally(() => keep.ending = null);
  }

  /** As `ended`, when nobody waits for it. */
  #end(ino: InodeId): void {
    this.ended(ino)?.catch(() => {}); // `connected` or the next call tries again
  }

  /** A call about the file's record locks begins. The file is not kept. */
  begin(ino: InodeId): LockCall {
    let calls = this.#calls.get(ino);
    if (calls === undefined) {
      this.#calls.set(ino, calls = { count: 0, isCrowded: false, mayBeKept: false, recalled: 0 });
    } else calls.isCrowded = true;
    calls.count++;
    const keep = !calls.isCrowded && this.#hasRoom(ino) ? this.#nextKept++ : undefined;
    if (keep !== undefined) calls.mayBeKept = true;
    const tenure = this.#tenure;
    const { clock } = this.#options;
    return {
      ...keep === undefined ? {} : { keep },
      kept: () => {
        if (keep === undefined || calls.isCrowded || tenure !== this.#tenure) return;
        this.#files.set(ino, { kept: keep, isEnding: false, ending: null });
        if (calls.recalled === keep) this.#end(ino);
      },
      end: () => {
        if (keep !== undefined) {
          calls.mayBeKept = false;
          if (calls.recalled !== 0 && this.#files.get(ino)?.kept !== calls.recalled) {
            this.#decline(ino, calls.recalled);
          }
        }
        if (--calls.count === 0 && this.#calls.get(ino) === calls) this.#calls.delete(ino);
        const untilMs = this.#recalled.get(ino);
        if (untilMs !== undefined && untilMs <= clock.monotonicMs()) this.#recalled.delete(ino);
      },
    };
  }

  #hasRoom(ino: InodeId): boolean {
    const untilMs = this.#recalled.get(ino);
    if (untilMs !== undefined && untilMs > this.#options.clock.monotonicMs()) return false;
    // A lock makes two more ranges at most, when it is amid another.
    if (this.#countRanges(ino) + 2 > KEPT_RANGES_MAX) return false;
    if (this.#files.size < KEPT_FILES_MAX) return true;
    for (const oldest of this.#files.keys()) {
      this.#end(oldest);
      break;
    }
    return false;
  }

  async #giveUp(ino: InodeId, keep: Keep): Promise<void> {
    const { kept } = keep;
    const owners = [...this.#options.recordsOf(ino)].filter(({ ranges }) => ranges.length > 0)
      .map(({ owned }) => owned);
    await this.#options.server.giveUpLocks({ ino, kept, owners });
    if (this.#files.get(ino) === keep) this.#files.delete(ino);
  }

  /** It was not taken up. Should it not be heard, the next call ends it, or the end of the session. */
  #decline(ino: InodeId, kept: number): void {
    this.#options.server.giveUpLocks({ ino, kept }).catch(() => {});
  }

  // ---- what the session says

  /** Another mount wants something of the file. */
  recall(ino: InodeId, kept: number): void {
    if (this.#recalled.size >= RECALLED_FILES_MAX) this.#recalled.clear();
    this.#recalled.set(ino, this.#options.clock.monotonicMs() + RECALLED_MS);
    const keep = this.#files.get(ino);
    if (keep?.kept === kept) return this.#end(ino);
    const calls = this.#calls.get(ino);
    if (calls?.mayBeKept === true) calls.recalled = kept;
    else this.#decline(ino, kept);
  }

  /** There is a connection again. */
  connected(): void {
    for (const [ino, { isEnding }] of this.#files) {
      if (isEnding) this.#end(ino);
    }
  }

  /** The server knows nothing of it, or the session is over. */
  clear(): void {
    this.#tenure++;
    this.#files.clear();
  }
}
