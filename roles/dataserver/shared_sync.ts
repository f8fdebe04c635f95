/**
 * One way of making something durable that callers share: however many ask while it runs, it runs once more for all of
 * them.
 * Invariant: a run counts for a caller only if it began after the call, so whatever was written before the call is
 * in it.
 */

export class SharedSync {
  readonly #action: () => Promise<void>;
  #running: Promise<void> | null = null;
  #next: Promise<void> | null = null;

  constructor(action: () => Promise<void>) {
    this.#action = action;
  }

  /** Resolves, or rejects, as a run does that begins now or later. */
  run(): Promise<void> {
    if (this.#next !== null) return this.#next;
    if (this.#running === null) return this.#start();
    return this.#next = this.#running.catch(() => {}).then(() => {
      this.#next = null;
      return this.#start();
    });
  }

  #start(): Promise<void> {
    const run = this.#action().finally(() => {
      if (this.#running === run) this.#running = null;
    });
    return this.#running = run;
  }
}

/** Waits until all have ended, however one of them did; then throws the first failure. */
export async function all(parts: readonly Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(parts)) {
    if (result.status === "rejected") throw result.reason;
  }
}
