/**
 * Blocks that sessions have before they have files for them: a client that makes files, and tells of them later, stores their
 * data in these at once (DeferredMake.block).
 *
 * Invariants:
 * - A block is reserved, or a file has it, never both: one batch makes the file and ends the reservation.
 * - Replicas of reserved blocks are nobody's strays. None of them was answered for, as no file has them: when the session is
 *   over they are deleted, unless the namespace is an older one (a restored backup), where files may have had them since.
 * - Reservations are on disk before they are answered, and bounded (RESERVED_MAX a session).
 */

import { FsError } from "../../wire/errno.ts";
import {
  asBlockId,
  asSessionId,
  asVolumeId,
  type BlockId,
  type SessionId,
  type VolumeId,
} from "../../wire/ids.ts";
import { RESERVED_BLOCKS_MAX } from "../../wire/messages/deferred.ts";
import { ANY_GENERATION, leaveDeletion } from "./block_operations.ts";
import { getU64, reservedKey, TABLE_RESERVED, tableRange } from "./keys.ts";
import type { Journal } from "./journal.ts";
import { decodeNumbers, encodeNumbers } from "./records.ts";
import type { Transaction } from "./transaction.ts";

/** A client has two portions at most, unless answers were lost. */
const RESERVED_MAX = 16 * RESERVED_BLOCKS_MAX;
const LOADED_MAX = 1_000_000;

export interface ReservedBlock {
  readonly block: BlockId;
  readonly volumes: readonly VolumeId[];
}

/** Of the namespace. */
interface Changes {
  readonly journal: Journal;
  change<T>(operation: (tx: Transaction) => T, durable?: boolean): Promise<T>;
}

export class ReservedBlocks {
  readonly #namespace: Changes;
  /** Mirrors TABLE_RESERVED. */
  readonly #sessions = new Map<SessionId, Set<BlockId>>();
  readonly #all = new Set<BlockId>();

  constructor(namespace: Changes) {
    this.#namespace = namespace;
  }

  /** Call once, before anything else. */
  async load(): Promise<void> {
    for (const [key] of await this.#namespace.journal.scan(tableRange(TABLE_RESERVED), LOADED_MAX)) {
      this.#add(asSessionId(getU64(key, 1)), asBlockId(getU64(key, 9)));
    }
  }

  #add(session: SessionId, block: BlockId): void {
    const blocks = this.#sessions.get(session);
    if (blocks === undefined) this.#sessions.set(session, new Set([block]));
    else blocks.add(block);
    this.#all.add(block);
  }

  #remove(session: SessionId, block: BlockId): void {
    const blocks = this.#sessions.get(session);
    if (blocks?.delete(block) === true && blocks.size === 0) this.#sessions.delete(session);
    this.#all.delete(block);
  }

  has(block: BlockId): boolean {
    return this.#all.has(block);
  }

  /** Sessions that have any. */
  get sessions(): readonly SessionId[] {
    return [...this.#sessions.keys()];
  }

  /**
   * Gives the session up to `count` blocks more, on volumes that `place` names, as long as it does; `unused`: what it had, and
   * has not written to.
   */
  reserve(
    session: SessionId,
    count: number,
    unused: readonly BlockId[],
    place: () => readonly VolumeId[] | undefined,
  ): Promise<readonly ReservedBlock[]> {
    return this.#namespace.change((tx) => {
      for (const block of unused) {
        if (this.#sessions.get(session)?.has(block) !== true) continue;
        tx.delete(reservedKey(session, block));
        this.#remove(session, block);
      }
      const room = RESERVED_MAX - (this.#sessions.get(session)?.size ?? 0);
      const given: ReservedBlock[] = [];
      while (given.length < Math.min(count, room)) {
        const volumes = place();
        if (volumes === undefined) break;
        const block = asBlockId(tx.ids.next("block"));
        tx.put(reservedKey(session, block), encodeNumbers(volumes));
        this.#add(session, block);
        given.push({ block, volumes });
      }
      return given;
    }, true);
  }

  /** The block is about to be a file's: its volumes. Call `taken` once that is sure. ESTALE: the session does not have it. */
  take(tx: Transaction, session: SessionId, block: BlockId): readonly VolumeId[] {
    const key = reservedKey(session, block);
    const value = tx.get(key);
    if (value === undefined) throw new FsError("ESTALE", `block ${block} is not reserved for the session`);
    tx.delete(key);
    return decodeNumbers(value).map(asVolumeId);
  }

  taken(session: SessionId, block: BlockId): void {
    this.#remove(session, block);
  }

  /** The session is over. */
  async end(session: SessionId): Promise<void> {
    const blocks = this.#sessions.get(session);
    if (blocks === undefined) return;
    await this.#namespace.change((tx) => {
      for (const block of [...blocks]) {
        for (const volume of this.take(tx, session, block)) leaveDeletion(tx, volume, block, ANY_GENERATION);
        this.#remove(session, block);
      }
    });
  }
}
