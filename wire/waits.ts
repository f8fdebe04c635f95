/**
 * Promises that are waited for under a deadline and a signal, and that all fail together when their channel ends.
 * Invariant: every wait ends: by its promise, its deadline, its signal or `failAll`.
 */

import { FsError } from "./errno.ts";
import type { CallOptions } from "./service.ts";

/** Deadlines are looked at this often; a shorter one has a timer of its own, which costs more than a call. */
const SWEEP_MS = 1_000;

interface Wait {
  readonly reject: (error: FsError) => void;
  readonly onGiveUp: (() => void) | undefined;
  readonly deadlineMs: number;
  readonly timeoutMs: number;
}

export class Waits {
  readonly #waits = new Set<Wait>();
  readonly #peerName: string;
  readonly #defaultTimeoutMs: number;
  #sweeper: number | undefined;

  /** `peerName` is for messages; `defaultTimeoutMs` for calls that name none, kept to about a second. */
  constructor(peerName: string, defaultTimeoutMs: number) {
    this.#peerName = peerName;
    this.#defaultTimeoutMs = defaultTimeoutMs;
  }

  /** Waits for `promise`; `onGiveUp` is called when something else ends the wait. */
  for<T>(promise: Promise<T>, options: CallOptions | undefined, onGiveUp?: () => void): Promise<T> {
    const timeoutMs = options?.timeoutMs;
    const signal = options?.signal;
    return new Promise<T>((resolve, reject) => {
      const deadlineMs = performance.now() + (timeoutMs ?? this.#defaultTimeoutMs);
      const wait: Wait = { reject, onGiveUp, deadlineMs, timeoutMs: timeoutMs ?? this.#defaultTimeoutMs };
      const timer = timeoutMs === undefined || timeoutMs > SWEEP_MS
        ? undefined
        : setTimeout(() => this.#late(wait), timeoutMs);
      const onAbort = signal === undefined ? undefined : () => {
        this.#giveUp(wait, new FsError("EINTR", `call to ${this.#peerName} was cancelled`));
      };
      const done = () => {
        this.#waits.delete(wait);
        if (timer !== undefined) clearTimeout(timer);
        if (onAbort !== undefined) signal!.removeEventListener("abort", onAbort);
      };
      if (onAbort !== undefined) signal!.addEventListener("abort", onAbort, { once: true });
      this.#waits.add(wait);
      this.#startSweeper();
      promise.then((value) => {
        done();
        resolve(value);
      }, (error) => {
        done();
        reject(error);
      });
    });
  }

  failAll(error: FsError): void {
    for (const wait of this.#waits) this.#giveUp(wait, error);
    this.#stopSweeper();
  }

  #late(wait: Wait): void {
    this.#giveUp(
      wait,
      new FsError("ETIMEDOUT", `${this.#peerName} did not answer within ${wait.timeoutMs} ms`),
    );
  }

  #giveUp(wait: Wait, error: FsError): void {
    if (!this.#waits.delete(wait)) return;
    wait.reject(error);
    wait.onGiveUp?.();
  }

  #sweep(): void {
    const nowMs = performance.now();
    for (const wait of this.#waits) {
      if (wait.deadlineMs < nowMs) this.#late(wait);
    }
    if (this.#waits.size === 0) this.#stopSweeper();
  }

  #startSweeper(): void {
    if (this.#sweeper !== undefined) return;
    this.#sweeper = setInterval(() => this.#sweep(), SWEEP_MS);
    // It only ends waits; what is waited for keeps the process alive.
    Deno.unrefTimer(this.#sweeper);
  }

  #stopSweeper(): void {
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }
}
