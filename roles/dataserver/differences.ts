/**
 * Replicas of a volume that may hold other bytes than the others of their block: something was done to them and not down the
 * chain, or a crash cut it off. Whoever writes tells the nameserver of that. A writer that has died does not; a nameserver that
 * knew who might write sees to its blocks then, but one whose machine has lost its power may not know. So we tell it, a
 * while later, until it says that it has compared them.
 *
 * Invariant: what is in here is not finalized (keeper.ts) until a stop, which writes it down: so a crash leaves a mark of it.
 */

import type { BlockId } from "../../wire/ids.ts";

/** Longer than a writer takes to tell. */
const FIRST_MS = 5_000;
/** The nameserver may have been another one, or have had a reason to wait. */
const AGAIN_MS = 10_000;
/** The oldest are forgotten beyond: they were told many times. */
const NOTED_MAX = 50_000;
/** Told at once. */
const PAGE = 100;

/** One time that something was noted of a block. */
interface Noted {
  dueMs: number;
}

export class Differences {
  readonly #noted = new Map<BlockId, Noted>();
  /** Operations down the chain of which it is not known yet whether all have done them. */
  readonly #underWay = new Map<BlockId, number>();

  /** An operation on all replicas of a block begins; what that gives is told whether it was not done by all of them. */
  begin(block: BlockId): (differs: boolean, nowMs: number) => void {
    this.#underWay.set(block, (this.#underWay.get(block) ?? 0) + 1);
    return (differs, nowMs) => {
      const left = this.#underWay.get(block)! - 1;
      if (left === 0) this.#underWay.delete(block);
      else this.#underWay.set(block, left);
      if (differs) this.note(block, nowMs);
    };
  }

  note(block: BlockId, nowMs: number): void {
    this.#noted.delete(block);
    this.#noted.set(block, { dueMs: nowMs + FIRST_MS });
    if (this.#noted.size <= NOTED_MAX) return;
    for (const oldest of this.#noted.keys()) {
      this.#noted.delete(oldest);
      break;
    }
  }

  get blocks(): readonly BlockId[] {
    return [...new Set([...this.#noted.keys(), ...this.#underWay.keys()])];
  }

  has(block: BlockId): boolean {
    return this.#noted.has(block) || this.#underWay.has(block);
  }

  /** The replica is gone. */
  forget(block: BlockId): void {
    this.#noted.delete(block);
  }

  /** The nameserver is another one now, or may be: it is told of all. */
  tellAll(): void {
    for (const noted of this.#noted.values()) noted.dueMs = -Infinity;
  }

  /** Tells what is due, in pages; `tell` answers which of them were compared. */
  async tellDue(
    nowMs: number,
    tell: (blocks: readonly BlockId[]) => Promise<readonly BlockId[]>,
  ): Promise<void> {
    const due = [...this.#noted].filter(([, { dueMs }]) => dueMs <= nowMs);
    for (let i = 0; i < due.length; i += PAGE) {
      const page = due.slice(i, i + PAGE);
      for (const [, noted] of page) noted.dueMs = nowMs + AGAIN_MS;
      const compared = new Set(await tell(page.map(([block]) => block)));
      for (const [block, noted] of page) {
        // What was noted meanwhile is another difference.
        if (compared.has(block) && this.#noted.get(block) === noted) this.#noted.delete(block);
      }
    }
  }
}
