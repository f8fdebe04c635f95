/**
 * The locks of one owner on one file: byte ranges, each shared or exclusive, that are split and merged as POSIX says
 * (fcntl(2)). Knows nothing of other owners but whether two locks conflict.
 * Invariants: an offset has one form (`asOffset`); ranges are ascending and disjoint; two that touch differ in type.
 */

/** "read" is shared, "write" exclusive. */
export type LockType = "read" | "write";

/** A place in a file, up to 2^63-1: a number up to 2^53-1, a bigint from there on. The two compare as they should. */
export type Offset = number | bigint;

export interface ByteSpan {
  readonly start: Offset;
  /** The last byte; Infinity: all from `start` on, however long the file gets. */
  readonly end: Offset;
}

export interface LockedRange extends ByteSpan {
  readonly type: LockType;
}

/** The one form of a place. */
export function asOffset(value: bigint): Offset {
  return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

/** True for a place in its one form; not for Infinity. */
export function isOffset(value: unknown): value is Offset {
  if (typeof value === "number") return Number.isSafeInteger(value) && value >= 0;
  return typeof value === "bigint" && value > Number.MAX_SAFE_INTEGER && value < 2n ** 63n;
}

function moved(offset: Offset, by: 1 | -1): Offset {
  if (typeof offset === "number" && !(offset === Number.MAX_SAFE_INTEGER && by === 1)) return offset + by;
  return asOffset(BigInt(offset) + BigInt(by));
}

/** `ranges` once all of `span` is locked as `type`, or, without one, unlocked. */
export function withRange(
  ranges: readonly LockedRange[],
  { start, end }: ByteSpan,
  type?: LockType,
): LockedRange[] {
  const before: LockedRange[] = [];
  const after: LockedRange[] = [];
  const justBefore = moved(start, -1);
  const justAfter = moved(end, 1);
  let mergedStart = start;
  let mergedEnd = end;
  for (const range of ranges) {
    const isSame = range.type === type;
    if (range.start < start) {
      // What lies before the span stays; of the same type, it becomes one with it.
      if (isSame && range.end >= justBefore) mergedStart = range.start;
      else before.push(range.end < start ? range : { ...range, end: justBefore });
    }
    if (range.end > end) {
      if (isSame && range.start <= justAfter) mergedEnd = range.end;
      else after.push(range.start > end ? range : { ...range, start: justAfter });
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
function firstEndingFrom(ranges: readonly LockedRange[], position: Offset): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ranges[middle]!.end < position) low = middle + 1;
    else high = middle;
  }
  return low;
}
