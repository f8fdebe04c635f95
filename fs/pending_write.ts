/** What is under way to a file's replicas, and what waits for it. */

/** Bytes [start, end) of a file. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** A write that was accepted but not yet acknowledged by all replicas, or another change of a range that is under way. */
export interface PendingWrite {
  /** True when some of it is in [start, end). */
  overlaps(start: number, end: number): boolean;
  /** Never rejects; failures are kept by the file (`OpenFile.fail`). */
  readonly done: Promise<void>;
  /** Must be called before `done` is waited for: it may have been left for others to join it. */
  send(): void;
}
