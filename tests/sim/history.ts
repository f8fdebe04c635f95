/**
 * What programs saw of the data, and whether it can be explained: each page of a file is a register, every write to it
 * has a version of its own, and there must be one order of all reads and writes in which each takes effect at some time
 * between its beginning and its end (linearizability).
 *
 * A write that was not known to be stored when its client died or heard of an error may have happened or not (`isOpen`),
 * but whoever reads or writes afterwards settles it: it does not come later.
 */

/** Times are `Simulation.tick`s. */
export interface Operation {
  readonly isWrite: boolean;
  readonly client: string;
  /** What was written or read; 0 is nothing, or zeros. */
  readonly version: number;
  readonly from: number;
  /** Infinity: it has not ended. */
  to: number;
  /** Of a write: it may never have happened. */
  isOpen: boolean;
}

/** A value that what was there may have fallen back to when machines lost their power. */
interface Cut {
  readonly at: number;
}

export class Register {
  readonly name: string;
  operations: Operation[] = [];
  /** Writes that are on disk, with all that came before. */
  readonly #synced: { readonly operation: Operation; readonly at: number }[] = [];
  readonly #cuts: Cut[] = [];

  constructor(name: string) {
    this.name = name;
  }

  begin(isWrite: boolean, client: string, version: number, from: number): Operation {
    const operation: Operation = { isWrite, client, version, from, to: Infinity, isOpen: isWrite };
    this.operations.push(operation);
    return operation;
  }

  end(operation: Operation, at: number): void {
    operation.to = at;
    operation.isOpen = false;
    this.#settle(operation.client, operation.from, at);
  }

  read(client: string, version: number, from: number, to: number): void {
    this.operations.push({ isWrite: false, client, version, from, to, isOpen: false });
    this.#settle(client, from, to);
  }

  /** Who reads, or writes, after a writer's end settles what it left. */
  #settle(client: string, from: number, to: number): void {
    for (const write of this.operations) {
      if (write.isOpen && write.to === LEFT && write.client !== client && this.#leftAt(write) < from) {
        write.to = to;
      }
    }
  }

  readonly #left = new Map<Operation, number>();

  #leftAt(write: Operation): number {
    return this.#left.get(write) ?? Infinity;
  }

  /** Nobody will say whether this write has happened. */
  leave(write: Operation, at: number): void {
    write.isOpen = true;
    write.to = LEFT;
    // That it saw itself what it had not stored yet says nothing. Zeros may be from before, but not when it has written some.
    const isOwn = ({ isWrite, client, version, to }: Operation) =>
      !isWrite && client === write.client && version === write.version && (version !== 0 || to > write.from);
    this.operations = this.operations.filter((operation) => !isOwn(operation));
    this.#left.set(write, at);
  }

  /** What was acknowledged is on disk. */
  synced(operation: Operation, at: number): void {
    this.#synced.push({ operation, at });
  }

  /** All that have this page lost their power: what is not on disk may be gone. */
  cut(at: number): void {
    this.#cuts.push({ at });
  }

  /** The last of the writes that have ended before `at`, and nothing of which may have been lost since. */
  lastWriteBefore(at: number): Operation | undefined {
    const cutAt = this.#cuts.at(-1)?.at ?? -1;
    let last: Operation | undefined;
    for (const one of this.operations) {
      if (!one.isWrite || one.isOpen || one.to >= at || one.from <= cutAt) continue;
      if (last === undefined || one.from > last.from) last = one;
    }
    return last;
  }

  /** `operation`, which somebody else's sync covers, may have been lost in a power cut before that came. */
  wasCutSince({ from }: Operation): boolean {
    return this.#cuts.some(({ at }) => at >= from);
  }

  /** Undefined, or why what was seen can't be explained. */
  check(): string | undefined {
    let from = 0;
    let initial: ReadonlySet<number> = new Set([0]);
    for (const { at } of [...this.#cuts, { at: Infinity }]) {
      const part = this.operations.filter((one) => one.from < at && (one.to > from || one.isOpen)).flatMap(
        (one) => {
          if (one.from < from) return one.isWrite ? [{ ...one, from, isOpen: true }] : [];
          if (one.to > at && at !== Infinity) {
            return one.isWrite ? [{ ...one, to: Infinity, isOpen: true }] : [];
          }
          return [one];
        },
      );
      if (!isLinearizable(part, initial)) {
        return `${this.name} from ${[...initial]}:\n${part.map(describe).join("\n")}`;
      }
      initial = this.#after(at);
      from = at;
    }
    return undefined;
  }

  /** What may be left of it after a power cut. */
  #after(at: number): ReadonlySet<number> {
    let synced: Operation | undefined;
    for (const one of this.#synced) {
      const { operation } = one;
      // Its own client may have heard afterwards that it could not be stored.
      if (one.at >= at || operation.isOpen) continue;
      if (synced === undefined || operation.from > synced.from) synced = operation;
    }
    const left = this.operations.filter((one) =>
      one.isWrite && one.from < at && (synced === undefined || one === synced || one.to > synced.from)
    );
    return new Set([...left.map(({ version }) => version), ...synced === undefined ? [0] : []]);
  }
}

/** Of a write that nobody has settled. */
const LEFT = Number.MAX_SAFE_INTEGER;

function describe({ isWrite, client, version, from, to, isOpen }: Operation): string {
  const end = to >= LEFT ? "..." : to;
  return `  ${client} ${isWrite ? isOpen ? "writes?" : "writes" : "reads"} ${version}  [${from}, ${end}]`;
}

/** Exact, by search: few operations overlap. */
export function isLinearizable(operations: readonly Operation[], initial: ReadonlySet<number>): boolean {
  const read = new Set(operations.filter(({ isWrite }) => !isWrite).map(({ version }) => version));
  // What may not have happened and nobody saw did not; zeros are written by many.
  const all = operations.filter(({ isWrite, isOpen, version }) =>
    !isWrite || !isOpen || version === 0 || read.has(version)
  ).sort((a, b) => a.from - b.from);
  const tried = new Set<string>();
  const search = (done: bigint, value: number, latest: number): boolean => {
    for (let again = true; again;) {
      again = false;
      let soonest = Infinity;
      let isOver = true;
      for (let i = 0; i < all.length; i++) {
        const one = all[i]!;
        if ((done & (1n << BigInt(i))) !== 0n || one.isOpen) continue;
        isOver = false;
        if (one.to < soonest) soonest = one.to;
      }
      if (isOver) return true;
      // A read of what is there changes nothing: it goes first.
      for (let i = 0; i < all.length; i++) {
        const one = all[i]!;
        if (one.from > soonest) break;
        if (one.isWrite || one.version !== value || (done & (1n << BigInt(i))) !== 0n) continue;
        done |= 1n << BigInt(i);
        if (one.from > latest) latest = one.from;
        again = true;
      }
      if (again) continue;
      const key = `${done} ${value}`;
      if (tried.has(key)) return false;
      tried.add(key);
      for (let i = 0; i < all.length; i++) {
        const one = all[i]!;
        if (one.from > soonest) break;
        if (!one.isWrite || (done & (1n << BigInt(i))) !== 0n || (one.isOpen && one.to < latest)) continue;
        if (search(done | (1n << BigInt(i)), one.version, Math.max(latest, one.from))) return true;
      }
      return false;
    }
    return false;
  };
  return [...initial].some((value) => search(0n, value, 0));
}
