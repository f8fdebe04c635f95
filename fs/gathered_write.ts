/**
 * Small writes to one file that were accepted one after the other and go to its dataservers together: a message down a
 * chain costs far more than the bytes in it. Knows nothing of blocks.
 *
 * Invariants:
 * - Its ranges don't overlap, so that they may be stored in any order.
 * - Nothing is added once it has been sent.
 */

import type { BlockId } from "../wire/ids.ts";
import type { ByteRange, PendingWrite } from "./pending_write.ts";

/** A larger write fills a message by itself. */
export const GATHERED_BYTES_MAX = 32 * 1024;
const BYTES_MAX = 256 * 1024;
const RANGES_MAX = 64;
const FIRST_BYTES = 8 * 1024;
const GROWTH = 4;

export class GatheredWrite implements PendingWrite {
  readonly tenure: number;
  readonly sinceMs: number;
  readonly done: Promise<void>;
  /** Its bytes are stored, or that has failed. */
  readonly end: () => void;
  /** Blocks that are on their replicas' disks with it, and with all that was written to them before. */
  readonly synced = new Set<BlockId>();
  readonly #onSend: (write: GatheredWrite, durable: boolean) => void;
  /** One after the other in the buffer. */
  readonly #ranges: ByteRange[] = [];
  #buffer = new Uint8Array(FIRST_BYTES);
  #bytes = 0;
  #isSent = false;

  /** `tenure` is the file's when it was accepted; `onSend` is called once. */
  constructor(
    tenure: number,
    sinceMs: number,
    onSend: (write: GatheredWrite, durable: boolean) => void,
  ) {
    this.tenure = tenure;
    this.sinceMs = sinceMs;
    this.#onSend = onSend;
    ({ promise: this.done, resolve: this.end } = Promise.withResolvers<void>());
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** What was written, one after the other in `body`. */
  get ranges(): readonly ByteRange[] {
    return this.#ranges;
  }

  get body(): Uint8Array {
    return this.#buffer.subarray(0, this.#bytes);
  }

  overlaps(start: number, end: number): boolean {
    return this.#ranges.some((range) => range.start < end && start < range.end);
  }

  /** Takes a write, which overlaps nothing of it. False: it is to be sent first. */
  add(start: number, data: Uint8Array): boolean {
    const last = this.#ranges.at(-1);
    const isNext = last?.end === start;
    const bytes = this.#bytes + data.length;
    if (this.#isSent || bytes > BYTES_MAX || (!isNext && this.#ranges.length === RANGES_MAX)) return false;
    if (bytes > this.#buffer.length) this.#grow(bytes);
    this.#buffer.set(data, this.#bytes);
    this.#bytes = bytes;
    const end = start + data.length;
    if (isNext) this.#ranges[this.#ranges.length - 1] = { start: last.start, end };
    else this.#ranges.push({ start, end });
    return true;
  }

  /** Takes a write over bytes all of which it has, in one range. */
  replace(start: number, data: Uint8Array): boolean {
    if (this.#isSent) return false;
    let at = 0;
    for (const range of this.#ranges) {
      if (start >= range.start && start + data.length <= range.end) {
        this.#buffer.set(data, at + start - range.start);
        return true;
      }
      at += range.end - range.start;
    }
    return false;
  }

  /** Sends it, unless that was done. `durable`: it is on the replicas' disks when it is `done`. */
  send(durable = false): void {
    if (this.#isSent) return;
    this.#isSent = true;
    this.#onSend(this, durable);
  }

  #grow(bytes: number): void {
    const grown = new Uint8Array(Math.min(BYTES_MAX, Math.max(bytes, this.#buffer.length * GROWTH)));
    grown.set(this.body);
    this.#buffer = grown;
  }
}
