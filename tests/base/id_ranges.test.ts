/** Ranges of users' and groups' numbers: what is taken for them, and that the way there and back ends where it began. */

import assert from "node:assert/strict";
import { IdRanges, joinRanges } from "../../base/id_ranges.ts";
import { type Random, randomInt } from "../../base/random.ts";
import { seededTest } from "./seeded.ts";

const ROUNDS = 500;
/** Ranges lie among so many numbers, so that they meet. */
const IDS = 60;
const RANGES_MAX = 6;

interface Range {
  readonly local: number;
  readonly remote: number;
  readonly count: number;
}

function randomRanges(random: Random): Range[] {
  return Array.from({ length: 1 + randomInt(random, RANGES_MAX) }, () => ({
    local: randomInt(random, IDS),
    remote: randomInt(random, IDS),
    count: 1 + randomInt(random, 8),
  }));
}

/** Each number by itself. Undefined: two would have the same counterpart. */
function modelOf(ranges: readonly Range[]): Map<number, number> | undefined {
  const model = new Map<number, number>();
  for (const { local, remote, count } of ranges) {
    for (let i = 0; i < count; i++) {
      if (model.has(local + i)) return undefined;
      model.set(local + i, remote + i);
    }
  }
  return new Set(model.values()).size === model.size ? model : undefined;
}

seededTest("id ranges: each number has one counterpart that leads back, or none", (random) => {
  let [taken, refused, without] = [0, 0, 0];
  for (let round = 0; round < ROUNDS; round++) {
    const ranges = randomRanges(random);
    const text = ranges.map(({ local, remote, count }) => `${local}:${remote}:${count}`).join("+");
    const model = modelOf(ranges);
    if (model === undefined) {
      assert.throws(() => IdRanges.parse(text), /^RangeError: [^\n]* overlap: \d+ comes twice/, text);
      refused++;
      continue;
    }
    taken++;
    const map = IdRanges.parse(text);
    assert.equal(String(map), text);
    const remotes = new Set(model.values());
    for (let id = 0; id < IDS + 10; id++) {
      const there = map.toRemote(id);
      assert.equal(there, model.get(id) ?? (remotes.has(id) ? undefined : id), `${id} by ${text}`);
      if (there === undefined) without++;
      else assert.equal(map.toLocal(there), id, `${id} by ${text}`);
      const here = map.toLocal(id);
      if (here === undefined) assert.ok(model.has(id) && !remotes.has(id), `${id} by ${text}`);
      else assert.equal(map.toRemote(here), id, `${id} by ${text}`);
    }
  }
  assert.ok(taken > 50 && refused > 50 && without > 50, `${taken} ${refused} ${without}`);
});

Deno.test("id ranges: a count of 1 may be left out, and several texts add up", () => {
  const map = IdRanges.parse(joinRanges("7:100:2", joinRanges("1000:20001")));
  assert.equal(String(map), "1000:20001:1+7:100:2");
  assert.deepEqual([map.toRemote(1000), map.toRemote(8), map.toRemote(9)], [20001, 101, 9]);
});

Deno.test("id ranges: without any, all numbers but nobody's are the same", () => {
  for (const id of [0, 1, 65534, 4294967293]) {
    assert.deepEqual([IdRanges.none.toRemote(id), IdRanges.none.toLocal(id)], [id, id]);
  }
  for (const id of [4294967294, 4294967295]) {
    assert.deepEqual([IdRanges.none.toRemote(id), IdRanges.none.toLocal(id)], [undefined, undefined]);
  }
});

Deno.test("id ranges: the last number there is can be in a range", () => {
  const map = IdRanges.parse("4294967292:10:2");
  assert.deepEqual([map.toRemote(4294967293), map.toLocal(11), map.toLocal(12)], [11, 4294967293, 12]);
});

Deno.test("id ranges: what is wrong is said in one line", () => {
  const cases: [string, RegExp][] = [
    ["", /"" is not LOCAL:CLUSTER:COUNT/],
    ["1000", /"1000" is not LOCAL:CLUSTER:COUNT/],
    ["1:2:3:4", /"1:2:3:4" is not/],
    ["1:2:3+", /"" is not/],
    ["alice:2:1", /"alice:2:1" is not/],
    ["-1:2:1", /is not/],
    ["1:2:0", /1:2:0 is an empty range/],
    ["4294967293:0:2", /goes beyond 4294967293/],
    ["0:4294967294", /goes beyond 4294967293/],
    ["1:10:5+5:20:1", /^RangeError: 1:10:5 and 5:20:1 overlap: 5 comes twice on the left$/],
    ["1:10:5+9:14:1", /^RangeError: 1:10:5 and 9:14:1 overlap: 14 comes twice on the right$/],
    [Array.from({ length: 341 }, (_, i) => `${i}:${i}`).join("+"), /341 ranges, at most 340/],
  ];
  for (const [text, message] of cases) assert.throws(() => IdRanges.parse(text), message, text.slice(0, 40));
});
