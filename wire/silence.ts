/**
 * Finds out that the other end of a connection hangs (stopped, cut off, its machine gone) although TCP still holds, long
 * before the deadlines of calls, which must leave time for a slow disk: while calls wait and nothing comes, the peer is
 * pinged, and a peer that answers nothing at all is given up.
 *
 * Time counts by ticks, each for at most two: when this process was the one that stood still, what came meanwhile is read
 * before the peer is blamed.
 */

import type { FrameStream } from "./stream.ts";

/** Answered by every server, without a handler. */
export const PING_OP = 0xffff;
const TICKS = 8;

export interface SilenceOptions {
  readonly stream: FrameStream;
  readonly silenceMs: number;
  /** True while something is waited for. */
  readonly isWaiting: () => boolean;
  readonly ping: () => void;
}

export class SilenceWatch {
  readonly #options: SilenceOptions;
  readonly #tickMs: number;
  #timer: number | undefined;
  #tickedMs = 0;
  #silentMs = 0;
  #received = 0;
  #sent = 0;
  #hasPinged = false;

  constructor(options: SilenceOptions) {
    this.#options = options;
    this.#tickMs = options.silenceMs / TICKS;
  }

  /** Something is waited for from now on. */
  begin(): void {
    if (this.#timer !== undefined) return;
    this.#heard();
    this.#tickedMs = performance.now();
    this.#timer = setInterval(() => this.#tick(), this.#tickMs);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #heard(): void {
    const { receivedBytes, sentBytes } = this.#options.stream;
    this.#received = receivedBytes;
    this.#sent = sentBytes;
    this.#silentMs = 0;
    this.#hasPinged = false;
  }

  #tick(): void {
    const { stream, silenceMs, isWaiting, ping } = this.#options;
    const nowMs = performance.now();
    const sinceMs = Math.min(nowMs - this.#tickedMs, 2 * this.#tickMs);
    this.#tickedMs = nowMs;
    if (stream.isClosed || !isWaiting()) return this.end();
    // Behind a slow network the ping waits for what is sent before it: as long as that goes on, the peer takes it.
    const isTaking = stream.isSending && stream.sentBytes !== this.#sent;
    if (stream.receivedBytes !== this.#received || isTaking) return this.#heard();
    this.#silentMs += sinceMs;
    if (this.#silentMs >= silenceMs && this.#hasPinged) {
      this.end();
      stream.close(`silent for ${Math.round(this.#silentMs)} ms`);
    } else if (this.#silentMs >= silenceMs / 4 && !this.#hasPinged) {
      this.#hasPinged = true;
      ping();
    }
  }
}
