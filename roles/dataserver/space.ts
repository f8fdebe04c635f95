/**
 * How full a volume's file system is, asked at most once a second, and the refusal of writes that would fill it:
 * a reserve is kept, because LevelDB must be able to write when data no longer can.
 */

import type { Clock } from "../../base/clock.ts";
import { FsError } from "../../wire/errno.ts";
import type { Disk } from "./disk.ts";

const FRESH_MS = 1000;
const RESERVE_BYTES_MAX = 64 * 1024 * 1024;
const RESERVE_FRACTION = 0.01;

export class Space {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #clock: Clock;
  #askedMs = -Infinity;
  #availableBytes = 0;
  #reserveBytes = 0;

  constructor(disk: Disk, path: string, clock: Clock) {
    this.#disk = disk;
    this.#path = path;
    this.#clock = clock;
  }

  /** Total bytes, and those that replicas may still take; throws FsError when the file system is gone. */
  measure(): { readonly totalBytes: number; readonly freeBytes: number } {
    const figures = this.#disk.space(this.#path);
    this.#askedMs = this.#clock.monotonicMs();
    this.#availableBytes = figures.availableBytes;
    this.#reserveBytes = Math.min(RESERVE_BYTES_MAX, Math.floor(figures.totalBytes * RESERVE_FRACTION));
    return {
      totalBytes: figures.totalBytes,
      freeBytes: Math.max(0, figures.availableBytes - this.#reserveBytes),
    };
  }

  /** There is room for `bytes` more, and for as much again as the reserve. Asks now. */
  has(bytes: number): boolean {
    this.measure();
    return this.#availableBytes - bytes >= 2 * this.#reserveBytes;
  }

  /** Throws ENOSPC when `bytes` more would touch the reserve. */
  demand(bytes: number): void {
    this.#availableBytes -= bytes;
    if (
      this.#availableBytes < 2 * this.#reserveBytes || this.#clock.monotonicMs() - this.#askedMs > FRESH_MS
    ) {
      this.measure();
      if (this.#availableBytes - bytes < this.#reserveBytes) {
        throw new FsError("ENOSPC", `no space left on volume ${this.#path}`, { op: "write" });
      }
      this.#availableBytes -= bytes;
    }
  }
}
