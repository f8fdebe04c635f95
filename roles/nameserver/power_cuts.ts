/**
 * Whether the nameserver's machine has stopped under it, or its file system was mounted anew: then what it had answered and
 * not synced may be lost, while clients go by it. They are told (OpenSessionReply.cuts), and what they held before is waited
 * out.
 * Invariant: a life is noted on disk before it answers anybody, and that it ended well only when all of it is on disk.
 */

import { bytesOf, textOf } from "../../base/bytes.ts";
import type { Journal, Value } from "./journal.ts";
import { metaKey } from "./keys.ts";

const KEY = metaKey("life");

interface LifeRecord {
  readonly mounting: string;
  readonly hasEnded: boolean;
  readonly cuts: number;
}

export class PowerCuts {
  readonly #journal: Journal;
  readonly #mounting: string;
  /** How many there have been. */
  readonly count: number;
  /** There was one since the life before. */
  readonly isAfter: boolean;

  private constructor(journal: Journal, mounting: string) {
    this.#journal = journal;
    this.#mounting = mounting;
    const before = decode(journal.get(KEY));
    this.isAfter = before !== undefined && before.mounting !== mounting && !before.hasEnded;
    this.count = (before?.cuts ?? 0) + (this.isAfter ? 1 : 0);
  }

  /** A life begins; `mounting` names the run of the machine and the mount of the file system (base/mounting.ts). */
  static async begin(journal: Journal, mounting: string): Promise<PowerCuts> {
    const cuts = new PowerCuts(journal, mounting);
    await cuts.#note(false);
    return cuts;
  }

  /** Nothing is answered any more. */
  async end(): Promise<void> {
    await this.#journal.durable(this.#journal.position);
    await this.#note(true);
  }

  #note(hasEnded: boolean): Promise<void> {
    const record: LifeRecord = { mounting: this.#mounting, hasEnded, cuts: this.count };
    return this.#journal.durable(this.#journal.append([[KEY, bytesOf(JSON.stringify(record))]]));
  }
}

function decode(value: Value | undefined): LifeRecord | undefined {
  return value === undefined ? undefined : JSON.parse(textOf(value));
}
