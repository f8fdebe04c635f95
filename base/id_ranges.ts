/**
 * Numbers of users, or of groups, on this machine and what they are elsewhere: ranges LOCAL:REMOTE:COUNT, as user namespaces have
 * them. A number that no range names, on either side, is the same on both.
 * Invariant: no two numbers of one side have the same counterpart. So one that a range names on the other side only has none: what
 * it would stand for is somebody else's.
 */

/** The last but one is for what has no counterpart (fs/id_map.ts), the last is no id at all. */
const ID_MAX = 0xfffffffd;
/** As user namespaces have it (linux/user_namespace.h). */
const RANGES_MAX = 340;
const SEPARATOR = "+";

type Side = "local" | "remote";

interface IdRange {
  readonly local: number;
  readonly remote: number;
  readonly count: number;
}

export class IdRanges {
  readonly #ranges: readonly IdRange[];
  readonly #sorted: Readonly<Record<Side, readonly IdRange[]>>;

  private constructor(ranges: readonly IdRange[]) {
    this.#ranges = ranges;
    const by = (side: Side) => ranges.toSorted((a, b) => a[side] - b[side]);
    this.#sorted = { local: by("local"), remote: by("remote") };
  }

  /** All are the same on both sides. */
  static readonly none = new IdRanges([]);

  /** "LOCAL:REMOTE:COUNT+...", where a COUNT of 1 may be left out. Throws a RangeError that says what is wrong. */
  static parse(text: string): IdRanges {
    const parts = text.split(SEPARATOR);
    if (parts.length > RANGES_MAX) {
      throw new RangeError(`${parts.length} ranges, at most ${RANGES_MAX} are possible`);
    }
    const ranges = new IdRanges(parts.map(parseRange));
    for (const side of ["local", "remote"] as const) {
      const sorted = ranges.#sorted[side];
      for (const [i, range] of sorted.entries()) {
        const next = sorted[i + 1];
        if (next === undefined || range[side] + range.count <= next[side]) continue;
        throw new RangeError(
          `${textOf(range)} and ${textOf(next)} overlap: ${next[side]} comes twice on the ${
            side === "local" ? "left" : "right"
          }`,
        );
      }
    }
    return ranges;
  }

  /** Undefined: it has no counterpart. */
  toRemote(id: number): number | undefined {
    return this.#counterpart(id, "local", "remote");
  }

  /** Undefined: it has no counterpart. */
  toLocal(id: number): number | undefined {
    return this.#counterpart(id, "remote", "local");
  }

  toString(): string {
    return this.#ranges.map(textOf).join(SEPARATOR);
  }

  #counterpart(id: number, from: Side, to: Side): number | undefined {
    const range = find(this.#sorted[from], from, id);
    if (range !== undefined) return range[to] + (id - range[from]);
    return id > ID_MAX || find(this.#sorted[to], to, id) !== undefined ? undefined : id;
  }
}

/** What two options say together. */
export function joinRanges(text: string, before?: string): string {
  return before === undefined ? text : `${before}${SEPARATOR}${text}`;
}

/** Both kinds. */
export interface IdMaps {
  readonly users: IdRanges;
  readonly groups: IdRanges;
}

function parseRange(text: string): IdRange {
  const match = /^(\d{1,10}):(\d{1,10})(?::(\d{1,10}))?$/.exec(text);
  if (match === null) {
    throw new RangeError(`${JSON.stringify(text)} is not LOCAL:CLUSTER:COUNT, such as 1000:20001:1`);
  }
  const [local, remote, count] = [Number(match[1]), Number(match[2]), Number(match[3] ?? 1)];
  if (count < 1) throw new RangeError(`${text} is an empty range`);
  if (Math.max(local, remote) + count - 1 > ID_MAX) {
    throw new RangeError(`${text} goes beyond ${ID_MAX}, the largest number of a user or group`);
  }
  return { local, remote, count };
}

/** The range that has `id` on that side. */
function find(sorted: readonly IdRange[], side: Side, id: number): IdRange | undefined {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]![side] <= id) low = middle + 1;
    else high = middle;
  }
  const range = sorted[low - 1];
  return range !== undefined && id < range[side] + range.count ? range : undefined;
}

function textOf({ local, remote, count }: IdRange): string {
  return `${local}:${remote}:${count}`;
}
