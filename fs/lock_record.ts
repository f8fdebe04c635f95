/**
 * What one owner holds on one file, as far as this mount knows, and whose turn it is to change that.
 *
 * Invariants:
 * - Changes of one record are made one after the other, each until the server has answered it: what is sent again after a
 *   broken connection never comes behind something later.
 * - `ranges` is what the server has, or will have when what is under way has arrived; if that can't be said, the record
 *   is in doubt, and `ranges` is what it is to become.
 */

import type { LockedRange } from "../base/lock_ranges.ts";
import type { InodeId } from "../wire/ids.ts";
import type { LockKind, LockOwner, OwnedLocks } from "../wire/messages/locks.ts";

export class LockRecord {
  readonly ino: InodeId;
  readonly kind: LockKind;
  /** 64 bits in hexadecimal. */
  readonly owner: string;
  pid = 0;
  ranges: readonly LockedRange[] = [];
  /** Open handles that the owner's locks were asked for through. */
  readonly handles = new Set<number>();
  /** Locks that it waits for. */
  waits = 0;
  /** The server may have something else. */
  isInDoubt = false;
  /** It held something when the session ended, and has not closed the file since. */
  isLost = false;
  #turn: Promise<void> | null = null;

  constructor({ ino, kind, owner }: LockOwner) {
    this.ino = ino;
    this.kind = kind;
    this.owner = owner;
  }

  /** Nothing is held, or under way. */
  get isIdle(): boolean {
    return this.ranges.length === 0 && this.#turn === null && this.waits === 0 && !this.isInDoubt;
  }

  get id(): LockOwner {
    return { ino: this.ino, kind: this.kind, owner: this.owner };
  }

  get owned(): OwnedLocks {
    return { ...this.id, pid: this.pid, ranges: this.ranges };
  }

  /** Runs `change` when those before it are through; at once, in this very step, if there is none. */
  inTurn<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#turn === null ? change() : this.#turn.then(change);
    const turn = result.then(() => {}, () => {}).then(() => {
      if (this.#turn === turn) this.#turn = null;
    });
    this.#turn = turn;
    return result;
  }

  /** Resolves when what is under way now is through. */
  get settled(): Promise<void> {
    return this.#turn ?? Promise.resolve();
  }
}
