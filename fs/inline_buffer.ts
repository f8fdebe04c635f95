/**
 * The data of a small file that the nameserver keeps itself, as it is with what was written here and not reported yet.
 * Bounded by INLINE_BYTES_MAX, and so are the ranges that were written.
 */

import { concatBytes, copyBytes } from "../base/bytes.ts";
import type { InlineRange } from "../wire/messages/write_report.ts";

/** More are reported as one, with what lies between: only who may write the file alone writes so many. */
const RANGES_MAX = 64;

export class InlineBuffer {
  #bytes: Uint8Array;
  #length: number;
  /** Some of it has been taken for a report. */
  isReported = false;
  /** What was written, in order; they neither overlap nor touch. */
  #ranges: readonly InlineRange[] = [];

  /** `bytes`: what the nameserver has. */
  constructor(bytes: Uint8Array) {
    this.#bytes = copyBytes(bytes);
    this.#length = bytes.length;
  }

  get length(): number {
    return this.#length;
  }

  /** Nothing is left to report. */
  get isClean(): boolean {
    return this.#ranges.length === 0;
  }

  /** A copy of [start, end), as far as there is data. */
  slice(start = 0, end = Infinity): Uint8Array {
    return this.#bytes.slice(start, Math.min(end, this.#length));
  }

  /** What lies between the end and `offset` becomes zeros. */
  write(offset: number, data: Uint8Array): void {
    if (data.length === 0) return;
    const from = Math.min(offset, this.#length);
    const end = offset + data.length;
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(end, this.#bytes.length * 2));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    this.#bytes.set(data, offset);
    this.#length = Math.max(this.#length, end);
    this.#note(from, end);
  }

  #note(start: number, end: number): void {
    const before = this.#ranges.filter((range) => range.offset + range.length < start);
    const after = this.#ranges.filter((range) => range.offset > end);
    for (const { offset, length } of this.#ranges.slice(before.length, this.#ranges.length - after.length)) {
      start = Math.min(start, offset);
      end = Math.max(end, offset + length);
    }
    this.#ranges = [...before, { offset: start, length: end - start }, ...after];
    if (this.#ranges.length <= RANGES_MAX) return;
    const { offset } = this.#ranges[0]!;
    const last = this.#ranges.at(-1)!;
    this.#ranges = [{ offset, length: last.offset + last.length - offset }];
  }

  /** What was written since the last time, for a report. */
  take(): { readonly ranges: readonly InlineRange[]; readonly body: Uint8Array } {
    const ranges = this.#ranges;
    this.#ranges = [];
    this.isReported = true;
    return {
      ranges,
      body: concatBytes(ranges.map(({ offset, length }) => this.slice(offset, offset + length))),
    };
  }

  /** The report of these did not succeed. */
  putBack(ranges: readonly InlineRange[]): void {
    for (const { offset, length } of ranges) this.#note(offset, offset + length);
  }
}
