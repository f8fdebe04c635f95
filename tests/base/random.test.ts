import assert from "node:assert/strict";
import { randomBytes, randomHexId, randomInt, SeededRandom, systemRandom } from "../../base/random.ts";

Deno.test("random: the same seed gives the same sequence, another seed another", () => {
  const sequence = (seed: number) => {
    const random = new SeededRandom(seed);
    return Array.from({ length: 20 }, () => random.next());
  };
  assert.deepEqual(sequence(7), sequence(7));
  assert.notDeepEqual(sequence(7), sequence(8));
});

Deno.test("random: integers cover [0, below) and nothing else", () => {
  for (const random of [new SeededRandom(1), systemRandom]) {
    const seen = new Set<number>();
    for (let i = 0; i < 1_000; i++) seen.add(randomInt(random, 7));
    assert.deepEqual([...seen].sort(), [0, 1, 2, 3, 4, 5, 6]);
  }
});

Deno.test("random: bytes use all values, hex ids are 32 digits and differ", () => {
  assert.equal(new Set(randomBytes(new SeededRandom(3), 10_000)).size, 256);
  assert.match(randomHexId(), /^[0-9a-f]{32}$/);
  assert.notEqual(randomHexId(), randomHexId());
});
