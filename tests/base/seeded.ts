/**
 * Random tests that can be repeated: each runs from the same seed every time, so that what fails is what was changed, or from
 * MFS_TEST_SEED; a failure says which it was.
 */

import { type Random, SeededRandom } from "../../base/random.ts";

const SEED_DEFAULT = 1;

export function testSeed(otherwise = SEED_DEFAULT): number {
  return Number(Deno.env.get("MFS_TEST_SEED") ?? otherwise) >>> 0;
}

/** A test that draws from `random`; its failure names the seed that repeats it. */
export function seededTest(name: string, run: (random: Random) => Promise<void> | void): void {
  Deno.test(name, async () => {
    const seed = testSeed();
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
