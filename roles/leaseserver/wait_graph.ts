/**
 * Who waits for whom: owners of record locks, on all files and of all clients, so that one that would wait for itself
 * is told (EDEADLK) in place of being left to wait. An owner of several threads may have several waits; each must end.
 */

/** A session and an owner in it. */
export type OwnerKey = string & { readonly __brand: "OwnerKey" };

/** A wait of an owner; one that is no longer "waiting" is about to be over. */
interface Wait {
  readonly key: OwnerKey;
  readonly state: string;
}

/** A chain of more owners is not followed to its end; so long a one is no deadlock that somebody would look into. */
const OWNERS_MAX = 10_000;

export class WaitGraph<Waiter extends Wait> {
  readonly #waits = new Map<OwnerKey, Set<Waiter>>();

  add(waiter: Waiter): void {
    const waits = this.#waits.get(waiter.key);
    if (waits === undefined) this.#waits.set(waiter.key, new Set([waiter]));
    else waits.add(waiter);
  }

  remove(waiter: Waiter): void {
    const waits = this.#waits.get(waiter.key);
    if (waits?.delete(waiter) === true && waits.size === 0) this.#waits.delete(waiter.key);
  }

  waitersOf(owner: OwnerKey): readonly Waiter[] {
    return [...this.#waits.get(owner) ?? []];
  }

  /** Whether `waiter` waits for its own owner, by way of those that are in its way (`blockers`) and of what they wait for. */
  closesCycle(waiter: Waiter, blockers: (waiter: Waiter) => Iterable<OwnerKey>): boolean {
    const seen = new Set<OwnerKey>();
    const next: Waiter[] = [waiter];
    for (let one = next.pop(); one !== undefined && seen.size < OWNERS_MAX; one = next.pop()) {
      for (const owner of blockers(one)) {
        if (owner === waiter.key) return true;
        if (seen.has(owner)) continue;
        seen.add(owner);
        for (const other of this.#waits.get(owner) ?? []) {
          if (other.state === "waiting") next.push(other);
        }
      }
    }
    return false;
  }
}
