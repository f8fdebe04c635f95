/**
 * Removed inodes that other clients were told of lately: a process there that has looked the name up may be about to open
 * it, and then has the file as one that was unlinked while it was open. They stay for a moment (TOLD_MS) and go then.
 * Without that an open of a name that is replaced again and again could find each file gone that it was told of, though
 * the name never was.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import type { InodeId } from "../../wire/ids.ts";
import { TOLD_LATELY, TOLD_MS } from "../leaseserver/leases.ts";
import type { Namespace } from "./namespace.ts";

/** They go so much later at most. */
const PERIOD_MS = 250;
/** Changes that are on their way to the journal at once. */
const BATCH = 256;

export class Lingering {
  readonly #namespace: Namespace;
  readonly #clock: Clock;
  readonly #log: Logger;
  /** When they go; the soonest first. */
  readonly #due = new Map<InodeId, number>();

  /** What an earlier run of the server left is taken over. */
  constructor(namespace: Namespace, clock: Clock, log: Logger) {
    this.#namespace = namespace;
    this.#clock = clock;
    this.#log = log;
    for (const ino of namespace.orphansOf(TOLD_LATELY)) this.add(ino);
  }

  add(ino: InodeId): void {
    this.#due.set(ino, this.#clock.monotonicMs() + TOLD_MS);
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(PERIOD_MS, signal);
      try {
        await this.releaseDue();
      } catch (error) {
        if (!signal.aborted) this.#log.error("removed inodes were not released", { error });
      }
    }
  }

  async releaseDue(): Promise<void> {
    const nowMs = this.#clock.monotonicMs();
    for (;;) {
      const batch: InodeId[] = [];
      for (const [ino, dueMs] of this.#due) {
        if (dueMs > nowMs || batch.length >= BATCH) break;
        batch.push(ino);
      }
      if (batch.length === 0) return;
      for (const ino of batch) this.#due.delete(ino);
      await Promise.all(batch.map((ino) => this.#namespace.releaseOrphan(TOLD_LATELY, ino)));
    }
  }
}
