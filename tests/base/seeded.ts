/**
 * Random tests that can be repeated: each runs from a seed, taken from MFS_TEST_SEED if set, else from the
 * clock, and a failure says which it was.
 */

import { type Random, SeededRandom } from "../../base/random.ts";

/** A test that draws from `random`; its failure names the seed that repeats it. */
export function seededTest(name: string, run: (random: Random) => Promise<void> | void): void {
  Deno.test(name, async () => {
    const seed = Number(Deno.env.get("MFS_TEST_SEED") ?? Date.now() % 1_000_000_007) >>> 0;
    try {
      await run(new SeededRandom(seed));
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error);
      throw new Error(`MFS_TEST_SEED=${seed} repeats this: ${what}`, { cause: error });
    }
  });
}

/** One of `items`. */
export function pick<T>(random: Random, items: readonly T[]): T {
  return items[Math.floor(random.next() * items.length)]!;
}

/** True with `probability`. */
export function chance(random: Random, probability: number): boolean {
  return random.next() < probability;
}
