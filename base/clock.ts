/**
 * Time as a parameter. Everything above takes a Clock, so that a cluster can run under a simulated one.
 * Invariant: durations and deadlines use `monotonicMs`; only timestamps that people see use `now`.
 */

/** Seconds and nanoseconds since 1970, as POSIX keeps them; 0 <= nanoseconds < 1e9. */
export interface Timespec {
  readonly seconds: number;
  readonly nanoseconds: number;
}

/** For `abort` of what nobody asks why: without a reason each makes an Error, with a stack. */
export const OVER = "over";

export interface Clock {
  /** Milliseconds from an arbitrary point; never goes back. */
  monotonicMs(): number;
  /** Wall-clock time. */
  now(): Timespec;
  /** Resolves after `ms`, or at once when `signal` aborts (never rejects). */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

class SystemClock implements Clock {
  monotonicMs(): number {
    return performance.now();
  }

  now(): Timespec {
    // timeOrigin + now() has microseconds; Date.now() alone would make two writes in one millisecond equal.
    // It is re-anchored when the wall clock was stepped, so that a set clock is followed.
    let ms = performance.timeOrigin + performance.now();
    const wall = Date.now();
    if (Math.abs(ms + this.#stepMs - wall) > 20) this.#stepMs = wall - ms;
    ms += this.#stepMs;
    const seconds = Math.floor(ms / 1000);
    const nanoseconds = Math.min(999_999_999, Math.max(0, Math.round((ms - seconds * 1000) * 1e6)));
    return { seconds, nanoseconds };
  }

  #stepMs = 0;

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal?.addEventListener("abort", done, { once: true });
    });
  }
}

export const systemClock: Clock = new SystemClock();

/** Waits for `work` at most `ms`; whether it ended, well or not. */
export async function within(work: Promise<unknown>, ms: number): Promise<boolean> {
  const abort = new AbortController();
  const late = systemClock.sleep(ms, abort.signal).then(() => false);
  const result = await Promise.race([work.then(() => true, () => true), late]);
  abort.abort(OVER);
  return result;
}

export function timespecCompare(a: Timespec, b: Timespec): number {
  return a.seconds - b.seconds || a.nanoseconds - b.nanoseconds;
}
