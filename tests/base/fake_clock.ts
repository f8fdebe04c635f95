/** A clock that stands until a test moves it. Sleepers wake in the order of their times. */

import { setImmediate } from "node:timers";
import type { Clock, Timespec } from "../../base/clock.ts";

interface Sleeper {
  readonly atMs: number;
  readonly wake: () => void;
}

export class FakeClock implements Clock {
  #nowMs = 1_000_000;
  #sleepers: Sleeper[] = [];

  monotonicMs(): number {
    return this.#nowMs;
  }

  now(): Timespec {
    const ms = 1_700_000_000_000 + this.#nowMs;
    return { seconds: Math.floor(ms / 1000), nanoseconds: Math.round((ms % 1000) * 1e6) };
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const sleeper: Sleeper = {
        atMs: this.#nowMs + ms,
        wake: () => {
          this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
          resolve();
        },
      };
      this.#sleepers.push(sleeper);
      signal?.addEventListener("abort", sleeper.wake, { once: true });
    });
  }

  /** Lets `ms` pass, step by step where somebody sleeps, and what was woken run before the next step. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      await settle();
      const next = this.#sleepers.toSorted((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined || next.atMs > untilMs) break;
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.wake();
    }
    this.#nowMs = untilMs;
    await settle();
  }
}

/** Lets everything run that only waits for promises, as the event loop does between two events. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
