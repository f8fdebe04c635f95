import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  bytesCompare,
  bytesEqual,
  bytesKey,
  bytesOf,
  concatBytes,
  copyBytes,
  EMPTY_BYTES,
  textOf,
} from "../../base/bytes.ts";
import { type Random, randomBytes, randomInt } from "../../base/random.ts";
import { seededTest } from "./seeded.ts";

/** Bytes over a small alphabet, so that equal ones and prefixes are frequent. */
function similarBytes(random: Random): Uint8Array {
  return new Uint8Array(randomInt(random, 6)).map(() => [0, 1, 127, 128, 255][randomInt(random, 5)]!);
}

seededTest("bytes: compare orders as LevelDB does, and agrees with equal and key", (random) => {
  for (let i = 0; i < 5_000; i++) {
    const a = similarBytes(random);
    const b = similarBytes(random);
    assert.equal(Math.sign(bytesCompare(a, b)), Buffer.compare(a, b));
    assert.equal(bytesEqual(a, b), Buffer.compare(a, b) === 0);
    assert.equal(bytesKey(a) === bytesKey(b), bytesEqual(a, b));
  }
});

seededTest("bytes: key keeps every byte of short and long arrays", (random) => {
  for (const length of [0, 1, 255, 1023, 1024, 1025, 2048, 5000, 200_000]) {
    const bytes = randomBytes(random, length);
    const key = bytesKey(bytes);
    assert.equal(key.length, length);
    assert.deepEqual(Uint8Array.from(key, (unit) => unit.charCodeAt(0)), bytes);
  }
});

Deno.test("bytes: concat puts the parts one after another", () => {
  assert.deepEqual(concatBytes([]), EMPTY_BYTES);
  const joined = concatBytes([bytesOf("a"), EMPTY_BYTES, bytesOf("bc")]);
  assert.equal(textOf(joined), "abc");
});

Deno.test("bytes: copy owns its memory, also of a node Buffer", () => {
  const source = Buffer.from([1, 2, 3, 4]);
  const copy = copyBytes(source.subarray(1, 3));
  source.fill(9);
  assert.deepEqual([...copy], [2, 3]);
  assert.equal(copy.constructor, Uint8Array);
  assert.equal(copy.buffer.byteLength, 2);
});

Deno.test("bytes: text that is not UTF-8 does not throw", () => {
  assert.equal(textOf(new Uint8Array([0x61, 0xff])), "a\ufffd");
});
