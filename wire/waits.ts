/**
 * Promises that are waited for under a deadline and a signal, and that all fail together when their channel ends.
 * Invariant: every wait ends: by its promise, its deadline, its signal or `failAll`.
 */

import { FsError } from "./errno.ts";
import type { CallOptions } from "./service.ts";

/** Waits without a deadline of their own are looked at this often. */
const SWEEP_MS = 1_000;

interface Wait {
  readonly reject: (error: FsError) => void;
  readonly onGiveUp: (() => void) | undefined;
  readonly deadlineMs: number;
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
      const wait: Wait = { reject, onGiveUp, deadlineMs };
      const timer = timeoutMs === undefined
        ? undefined
        : setTimeout(() => this.#late(wait, timeoutMs), timeoutMs);
      const onAbort = signal === undefined ? undefined : () => {
        this.#giveUp(wait, new FsError("EINTR", `call to ${this.#peerName} was cancelled`));
      };
      const done = () => {
        this.#waits.delete(wait);
        clearTimeout(timer);
        if (onAbort !== undefined) signal!.removeEventListener("abort", onAbort);
        if (this.#waits.size === 0) this.#stopSweeper();
      };
      if (onAbort !== undefined) signal!.addEventListener("abort", onAbort, { once: true });
      this.#waits.add(wait);
      this.#sweeper ??= setInterval(() => this.#sweep(), SWEEP_MS);
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

  #late(wait: Wait, timeoutMs: number): void {
    this.#giveUp(wait, new FsError("ETIMEDOUT", `${this.#peerName} did not answer within ${timeoutMs} ms`));
  }

  #giveUp(wait: Wait, error: FsError): void {
    if (!this.#waits.delete(wait)) return;
    wait.reject(error);
    wait.onGiveUp?.();
  }

  #sweep(): void {
    const nowMs = performance.now();
    for (const wait of this.#waits) {
      if (wait.deadlineMs < nowMs) this.#late(wait, this.#defaultTimeoutMs);
    }
    if (this.#waits.size === 0) this.#stopSweeper();
  }

  #stopSweeper(): void {
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }
}
