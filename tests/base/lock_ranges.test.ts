import assert from "node:assert/strict";
import {
  asOffset,
  type ByteSpan,
  firstConflict,
  type LockedRange,
  type LockType,
  withRange,
} from "../../base/lock_ranges.ts";
import { type Random, randomInt } from "../../base/random.ts";
import { pick, seededTest } from "./seeded.ts";

/** Bytes that the model knows one by one; from there on all are alike. */
const BYTES = 24;
const ROUNDS = 4_000;

/** Where they begin: places are numbers before 2^53, and bigints from there on. */
const BASES = [0n, 2n ** 53n - BigInt(BYTES / 2)];

/** Each byte by itself; the last one stands for all that follow. */
type Model = (LockType | undefined)[];

function randomSpan(random: Random, base: bigint): ByteSpan {
  const start = randomInt(random, BYTES);
  const at = (byte: number) => asOffset(base + BigInt(byte));
  const end = randomInt(random, 5) === 0 ? Infinity : at(start + randomInt(random, BYTES - start));
  return { start: at(start), end };
}

function bytesIn({ start, end }: ByteSpan, base: bigint): number[] {
  const isIn = (byte: number) => base + BigInt(byte) >= start && base + BigInt(byte) <= end;
  return Array.from({ length: BYTES + 1 }, (_, byte) => byte).filter(isIn);
}

function modelOf(ranges: readonly LockedRange[], base: bigint): Model {
  const model: Model = new Array(BYTES + 1).fill(undefined);
  for (const range of ranges) for (const byte of bytesIn(range, base)) model[byte] = range.type;
  return model;
}

seededTest("lock ranges: split and merge as bytes that are locked one by one", (random) => {
  const base = pick(random, BASES);
  let ranges: LockedRange[] = [];
  const model: Model = new Array(BYTES + 1).fill(undefined);
  for (let round = 0; round < ROUNDS; round++) {
    const span = randomSpan(random, base);
    const type = pick(random, ["read", "write", undefined] as const);
    const before = structuredClone(ranges);
    const next = withRange(ranges, span, type);
    assert.deepEqual(ranges, before, "what was given is left as it was");
    ranges = next;
    for (const byte of bytesIn(span, base)) model[byte] = type;
    assert.deepEqual(modelOf(ranges, base), model);
    for (const [i, range] of ranges.entries()) {
      assert.ok(range.end >= range.start);
      const last = ranges[i - 1];
      if (last === undefined) continue;
      assert.ok(last.end < range.start, "ascending, disjoint");
      assert.ok(BigInt(last.end) + 1n < range.start || last.type !== range.type, "merged");
    }
  }
});

seededTest("lock ranges: the first conflict is that of the first byte in the way", (random) => {
  const base = pick(random, BASES);
  for (let round = 0; round < ROUNDS; round++) {
    let ranges: LockedRange[] = [];
    for (let i = randomInt(random, 6); i >= 0; i--) {
      ranges = withRange(
        ranges,
        randomSpan(random, base),
        pick(random, ["read", "write", undefined] as const),
      );
    }
    const wanted = { ...randomSpan(random, base), type: pick(random, ["read", "write"] as const) };
    const model = modelOf(ranges, base);
    const byte = bytesIn(wanted, base).find((one) =>
      model[one] === "write" || (model[one] === "read" && wanted.type === "write")
    );
    const found = firstConflict(ranges, wanted);
    if (byte === undefined) assert.equal(found, undefined);
    else assert.ok(found !== undefined && bytesIn(found, base).includes(byte), `${byte}`);
  }
});
