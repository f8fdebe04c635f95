/**
 * Changes that are sent again are applied once: per session and slot, the number of the last change that was
 * applied and the inodes that its answer spoke of, stored in the change's own batch.
 * Invariant: a slot's number only grows; a request with the number that is stored is answered from what is there
 * now, and one that is still running is waited for.
 */

import { FsError } from "../../wire/errno.ts";
import type { SessionId } from "../../wire/ids.ts";
import { RETRY_SLOTS, type RetryTag } from "../../wire/messages/nameserver.ts";
import type { Journal } from "./journal.ts";
import { retryKey } from "./keys.ts";
import { decodeRetry, encodeRetry, type RetryRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

interface SlotState {
  sequence: number;
  running: Promise<unknown>;
}

export class Retries {
  readonly #journal: Journal;
  readonly #running = new Map<SessionId, Map<number, SlotState>>();

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  /** The change is under way, or was applied. */
  isKnown(session: SessionId, { slot, sequence }: RetryTag): boolean {
    if (this.#running.get(session)?.get(slot)?.sequence === sequence) return true;
    if (!Number.isInteger(slot) || slot < 0 || slot >= RETRY_SLOTS) return false;
    const stored = this.#journal.get(retryKey(session, slot));
    return stored !== undefined && decodeRetry(stored).sequence === sequence;
  }

  /**
   * Runs `apply`, or answers a repetition by `replay`. `apply` calls the recorder it is given within its own
   * transaction, so that the mark and the change are one batch.
   */
  async once<T>(
    session: SessionId,
    tag: RetryTag,
    apply: (record: (tx: Transaction, ino: number, other?: number) => void) => Promise<T>,
    replay: (record: RetryRecord) => Promise<T> | T,
  ): Promise<T> {
    const { slot, sequence } = tag;
    const valid = Number.isInteger(slot) && slot >= 0 && slot < RETRY_SLOTS && Number.isSafeInteger(sequence);
    if (!valid) throw new FsError("EPROTO", `bad retry tag ${slot}/${sequence}`);
    let slots = this.#running.get(session);
    if (slots === undefined) this.#running.set(session, slots = new Map());
    const running = slots.get(slot);
    if (running !== undefined) {
      if (running.sequence === sequence) return await running.running as T;
      // The client gave up on the change before; it must be over before the slot is used again.
      await running.running.catch(() => {});
      return await this.once(session, tag, apply, replay);
    }
    const stored = this.#journal.get(retryKey(session, slot));
    if (stored !== undefined) {
      const last = decodeRetry(stored);
      if (last.sequence === sequence) return await replay(last);
      if (last.sequence > sequence) throw new FsError("EPROTO", `change ${sequence} of slot ${slot} is over`);
    }
    const record = (tx: Transaction, ino: number, other = 0) =>
      tx.put(retryKey(session, slot), encodeRetry({ sequence, ino, other }));
    const promise = apply(record);
    slots.set(slot, { sequence, running: promise });
    try {
      return await promise;
    } finally {
      slots.delete(slot);
      if (slots.size === 0) this.#running.delete(session);
    }
  }
}
