/**
 * The namespace as one object: the journal, ids and totals, transactions on them, the orphans, and the blocks that sessions
 * have reserved. Everything that
 * changes metadata goes through `change`, everything that looks through `look`.
 * Invariant: the function given to either runs synchronously; the promise that comes back resolves only when what
 * it did or saw is in the journal's log, and when ids that it was given will never be given again.
 */

import { EMPTY_BYTES } from "../../base/bytes.ts";
import type { Clock } from "../../base/clock.ts";
import { asInodeId, asSessionId, type InodeId, type SessionId } from "../../wire/ids.ts";
import { IdAllocator } from "./id_allocator.ts";
import type { Journal } from "./journal.ts";
import { getU64, orphanKey, prefixRange, retryKey, TABLE_ORPHAN, TABLE_RETRY, tableRange } from "./keys.ts";
import { purge } from "./operations.ts";
import { ReservedBlocks } from "./reserved_blocks.ts";
import { Totals } from "./totals.ts";
import { Transaction } from "./transaction.ts";

const ORPHANS_MAX = 1_000_000;

export class Namespace {
  readonly journal: Journal;
  readonly clock: Clock;
  readonly ids: IdAllocator;
  readonly totals: Totals;
  readonly reserved: ReservedBlocks;
  /** Inodes without a name that are open somewhere, and where. Mirrors TABLE_ORPHAN. */
  readonly #orphans = new Map<InodeId, Set<SessionId>>();
  /** Sessions that are over, and whose orphans are going. */
  readonly #ending = new Set<SessionId>();
  /** Reservations of ids that were seen, and the position up to which they may not be on disk yet; 0: they are. */
  #reservations = 0;
  #reservedAt = 0;
  /** Called when an orphan is gone for good: whoever keeps something of it can forget it. */
  onOrphanGone: (ino: InodeId) => void = () => {};

  private constructor(journal: Journal, clock: Clock) {
    this.journal = journal;
    this.clock = clock;
    this.ids = new IdAllocator(journal.get(IdAllocator.key));
    this.totals = new Totals(journal.get(Totals.key));
    this.reserved = new ReservedBlocks(this);
  }

  static async load(journal: Journal, clock: Clock): Promise<Namespace> {
    const namespace = new Namespace(journal, clock);
    for (const [key] of await journal.scan(tableRange(TABLE_ORPHAN), ORPHANS_MAX)) {
      namespace.noteOrphan(asInodeId(getU64(key, 9)), [asSessionId(getU64(key, 1))]);
    }
    await namespace.reserved.load();
    return namespace;
  }

  begin(): Transaction {
    return new Transaction(this.journal, this.ids, this.totals, this.clock);
  }

  /** Runs a read-only operation. A refusal also waits for what it saw: it says that something is so. */
  look<T>(operation: (tx: Transaction) => T): T | Promise<T> {
    this.journal.seen();
    let result: T;
    try {
      result = operation(this.begin());
    } catch (error) {
      return this.#seenWritten().then(() => Promise.reject(error));
    }
    const seen = this.journal.seen();
    const wait = seen === 0 ? undefined : this.journal.written(seen);
    return wait === undefined ? result : wait.then(() => result);
  }

  async #seenWritten(): Promise<void> {
    const seen = this.journal.seen();
    if (seen > 0) await this.journal.written(seen);
  }

  /**
   * Runs an operation and commits it as one batch. `durable`: answer when it, and all that was answered before, is
   * on disk.
   */
  async change<T>(operation: (tx: Transaction) => T, durable = false): Promise<T> {
    this.journal.seen();
    const tx = this.begin();
    let result: T;
    try {
      result = operation(tx);
    } catch (error) {
      await this.#seenWritten();
      throw error;
    }
    const position = tx.commit() || this.journal.seen();
    const reserved = this.#reserved();
    if (durable) await this.journal.durable(this.journal.position);
    else if (position > 0) await this.journal.written(position);
    if (reserved !== undefined) await reserved;
    return result;
  }

  /** Waits until the ids that were given out are reserved on disk; undefined: they are. */
  #reserved(): Promise<void> | undefined {
    if (this.#reservations !== this.ids.reservations) {
      this.#reservations = this.ids.reservations;
      this.#reservedAt = this.journal.position;
    }
    const position = this.#reservedAt;
    if (position === 0) return undefined;
    return this.journal.durable(position).then(() => {
      if (this.#reservedAt === position) this.#reservedAt = 0;
    });
  }

  noteOrphan(ino: InodeId, sessions: readonly SessionId[]): void {
    const open = this.#orphans.get(ino) ?? new Set();
    for (const session of sessions) open.add(session);
    this.#orphans.set(ino, open);
  }

  /** The session has opened an inode that lost its last name before. */
  async keepOrphan(session: SessionId, ino: InodeId): Promise<void> {
    if (this.#orphans.get(ino)?.has(session) ?? false) return;
    this.noteOrphan(ino, [session]);
    await this.change((tx) => tx.put(orphanKey(session, ino), EMPTY_BYTES));
  }

  /** The session no longer holds `ino` open: an orphan that nobody else holds goes. */
  async releaseOrphan(session: SessionId, ino: InodeId): Promise<void> {
    const open = this.#orphans.get(ino);
    if (open === undefined || !open.delete(session)) return;
    if (open.size === 0) this.#orphans.delete(ino);
    const isLast = open.size === 0;
    await this.change((tx) => {
      tx.delete(orphanKey(session, ino));
      const inode = isLast ? tx.findInode(ino) : undefined;
      if (inode !== undefined && inode.nlink === 0) purge(tx, inode);
      if (isLast) this.onOrphanGone(ino);
    });
  }

  /** The inode has got a name in this transaction, which can't fail any more: it is nobody's orphan. */
  endOrphan(tx: Transaction, ino: InodeId): void {
    for (const session of this.sessionsOfOrphan(ino)) tx.delete(orphanKey(session, ino));
    this.#orphans.delete(ino);
  }

  /** Where an inode that has no name is open. */
  sessionsOfOrphan(ino: InodeId): readonly SessionId[] {
    return [...this.#orphans.get(ino) ?? []];
  }

  /** Sessions that keep inodes without a name. */
  orphanSessions(): ReadonlySet<SessionId> {
    return new Set([...this.#orphans.values()].flatMap((open) => [...open]));
  }

  orphansOf(session: SessionId): InodeId[] {
    const inodes: InodeId[] = [];
    for (const [ino, open] of this.#orphans) {
      if (open.has(session)) inodes.push(ino);
    }
    return inodes;
  }

  /** The session is over, and what it held is still being cleared away. */
  isEnding(session: SessionId): boolean {
    return this.#ending.has(session);
  }

  /** The session is over: its orphans, reserved blocks and remembered answers go. */
  async endSession(session: SessionId): Promise<void> {
    this.#ending.add(session);
    try {
      for (const ino of this.orphansOf(session)) await this.releaseOrphan(session, ino);
      await this.reserved.end(session);
    } finally {
      this.#ending.delete(session);
    }
    const answers = await this.journal.scan(prefixRange(TABLE_RETRY, session), 4096);
    if (answers.length > 0) {
      this.journal.append(answers.map(([key]) => [retryKey(session, getU64(key, 9)), null]));
    }
  }
}
