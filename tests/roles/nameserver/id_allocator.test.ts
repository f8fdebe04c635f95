import assert from "node:assert/strict";
import { randomInt } from "../../../base/random.ts";
import { COUNTERS, IdAllocator } from "../../../roles/nameserver/id_allocator.ts";
import type { Value } from "../../../roles/nameserver/journal.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";

Deno.test("ids: the root inode's and the dots' numbers are not given out", () => {
  const ids = new IdAllocator(undefined);
  assert.equal(ids.next("inode"), 2);
  assert.equal(ids.next("cookie"), 3);
  for (const counter of ["block", "node", "volume", "session"] as const) assert.equal(ids.next(counter), 1);
});

seededTest("ids: none is given out twice, however often the process dies", (random) => {
  let stored: Value | undefined;
  const used = new Map(COUNTERS.map((counter) => [counter, new Set<number>()]));
  for (let life = 0; life < 60; life++) {
    const ids = new IdAllocator(stored);
    let fresh: [typeof COUNTERS[number], number][] = [];
    for (let step = randomInt(random, 300); step > 0; step--) {
      const counter = pick(random, COUNTERS);
      if (chance(random, 0.02)) ids.skip(counter, randomInt(random, 20_000));
      else {
        for (let n = chance(random, 0.02) ? 1_500 : 1; n > 0; n--) fresh.push([counter, ids.next(counter)]);
      }
      // An id counts as given out only when its batch is written; a crash before loses both.
      if (!chance(random, 0.5)) continue;
      ids.saveTo({ put: (_key, value) => stored = value });
      for (const [name, id] of fresh) {
        assert.ok(!used.get(name)!.has(id), `${name} ${id} twice`);
        used.get(name)!.add(id);
      }
      fresh = [];
    }
  }
});

Deno.test("ids: what another source uses is skipped", () => {
  const ids = new IdAllocator(undefined);
  ids.skip("volume", 7);
  assert.equal(ids.next("volume"), 8);
  ids.skip("volume", 3);
  assert.equal(ids.next("volume"), 9);
  let stored: Value | undefined;
  ids.saveTo({ put: (_key, value) => stored = value });
  assert.ok(new IdAllocator(stored).next("volume") > 9);
});

Deno.test("ids: the bound is written only when it moved", () => {
  const ids = new IdAllocator(undefined);
  let writes = 0;
  for (let i = 0; i < 3_000; i++) {
    ids.next("inode");
    ids.saveTo({ put: () => writes++ });
  }
  assert.ok(writes >= 3 && writes <= 4, `${writes} writes`);
});
