/**
 * The locks of one owner on one file: byte ranges, each shared or exclusive, that are split and merged as POSIX says
 * (fcntl(2)). Knows nothing of other owners but whether two locks conflict.
 * Invariant: ranges are ascending and disjoint; two that touch differ in type.
 */

/** "read" is shared, "write" exclusive. */
export type LockType = "read" | "write";

export interface ByteSpan {
  readonly start: number;
  /** The last byte; Infinity: all from `start` on, however long the file gets. */
  readonly end: number;
}

export interface LockedRange extends ByteSpan {
  readonly type: LockType;
}

/** `ranges` once all of `span` is locked as `type`, or, without one, unlocked. */
export function withRange(
  ranges: readonly LockedRange[],
  { start, end }: ByteSpan,
  type?: LockType,
): LockedRange[] {
  const before: LockedRange[] = [];
  const after: LockedRange[] = [];
  let mergedStart = start;
  let mergedEnd = end;
  for (const range of ranges) {
    const isSame = range.type === type;
    if (range.start < start) {
      // What lies before the span stays; of the same type, it becomes one with it.
      if (isSame && range.end >= start - 1) mergedStart = range.start;
      else before.push(range.end < start ? range : { ...range, end: start - 1 });
    }
    if (range.end > end) {
      if (isSame && range.start <= end + 1) mergedEnd = range.end;
      else after.push(range.start > end ? range : { ...range, start: end + 1 });
    }
  }
  const merged = type === undefined ? [] : [{ start: mergedStart, end: mergedEnd, type }];
  return [...before, ...merged, ...after];
}

/** Whether two locks of different owners can't be held at once. */
export function conflicts(one: LockedRange, other: LockedRange): boolean {
  return one.start <= other.end && other.start <= one.end && (one.type === "write" || other.type === "write");
}

/** The first of `ranges` that conflicts with `wanted`, of another owner. */
export function firstConflict(
  ranges: readonly LockedRange[],
  wanted: LockedRange,
): LockedRange | undefined {
  for (let i = firstEndingFrom(ranges, wanted.start); i < ranges.length; i++) {
    const range = ranges[i]!;
    if (range.start > wanted.end) return undefined;
    if (conflicts(range, wanted)) return range;
  }
  return undefined;
}

/** The index of the first range that ends at `position` or later. */
function firstEndingFrom(ranges: readonly LockedRange[], position: number): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ranges[middle]!.end < position) low = middle + 1;
    else high = middle;
  }
  return low;
}
