import assert from "node:assert/strict";
import { firstConflict, type LockedRange, type LockType, withRange } from "../../base/lock_ranges.ts";
import { type Random, randomInt } from "../../base/random.ts";
import { pick, seededTest } from "./seeded.ts";

/** Bytes that the model knows one by one; from there on all are alike. */
const BYTES = 24;
const ROUNDS = 4_000;

/** Each byte by itself; the last one stands for all that follow. */
type Model = (LockType | undefined)[];

function randomSpan(random: Random): { start: number; end: number } {
  const start = randomInt(random, BYTES);
  return { start, end: randomInt(random, 5) === 0 ? Infinity : start + randomInt(random, BYTES - start) };
}

function bytesIn({ start, end }: { start: number; end: number }): number[] {
  return Array.from({ length: BYTES + 1 }, (_, byte) => byte).filter((byte) => byte >= start && byte <= end);
}

function modelOf(ranges: readonly LockedRange[]): Model {
  const model: Model = new Array(BYTES + 1).fill(undefined);
  for (const range of ranges) for (const byte of bytesIn(range)) model[byte] = range.type;
  return model;
}

seededTest("lock ranges: split and merge as bytes that are locked one by one", (random) => {
  let ranges: LockedRange[] = [];
  const model: Model = new Array(BYTES + 1).fill(undefined);
  for (let round = 0; round < ROUNDS; round++) {
    const span = randomSpan(random);
    const type = pick(random, ["read", "write", undefined] as const);
    const before = structuredClone(ranges);
    const next = withRange(ranges, span, type);
    assert.deepEqual(ranges, before, "what was given is left as it was");
    ranges = next;
    for (const byte of bytesIn(span)) model[byte] = type;
    assert.deepEqual(modelOf(ranges), model);
    for (const [i, range] of ranges.entries()) {
      assert.ok(range.end >= range.start);
      const last = ranges[i - 1];
      if (last === undefined) continue;
      assert.ok(last.end < range.start, "ascending, disjoint");
      assert.ok(last.end + 1 < range.start || last.type !== range.type, "merged");
    }
  }
});

seededTest("lock ranges: the first conflict is that of the first byte in the way", (random) => {
  for (let round = 0; round < ROUNDS; round++) {
    let ranges: LockedRange[] = [];
    for (let i = randomInt(random, 6); i >= 0; i--) {
      ranges = withRange(ranges, randomSpan(random), pick(random, ["read", "write", undefined] as const));
    }
    const wanted = { ...randomSpan(random), type: pick(random, ["read", "write"] as const) };
    const model = modelOf(ranges);
    const byte = bytesIn(wanted).find((one) =>
      model[one] === "write" || (model[one] === "read" && wanted.type === "write")
    );
    const found = firstConflict(ranges, wanted);
    if (byte === undefined) assert.equal(found, undefined);
    else assert.ok(found !== undefined && found.start <= byte && found.end >= byte, `${byte}`);
  }
});
