/**
 * A fixed number of seeds of the simulated cluster, and that a seed gives the same history each time. More of them:
 * main.ts. `scripts/test sim --seeds N --from S` runs that.
 */

import assert from "node:assert/strict";
import { isLinearizable, type Operation } from "./history.ts";
import { simulate } from "./run.ts";

const SEEDS = 80;

Deno.test("simulated cluster: nothing that was seen is wrong, and all comes to rest", async () => {
  // What a seed makes of it changes with every change of the code: these are no better than others.
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { problems, hash } = await simulate(seed);
    const command = `scripts/test sim --from ${seed} --trace`;
    assert.deepEqual(problems, [], `seed ${seed}, history ${hash}: ${command} shows what happened`);
  }
});

Deno.test("simulated cluster: a seed gives one history, whether it is looked at or not", async () => {
  const trace = async (seed: number) => {
    const lines: string[] = [];
    const { hash } = await simulate(seed, (line) => lines.push(line));
    return { hash, lines };
  };
  const first = await trace(7);
  const second = await trace(7);
  assert.deepEqual(second, first);
  assert.ok(first.lines.length > 500);
  const { hash, events } = await simulate(7);
  assert.equal(hash, first.hash);
  assert.ok(events > 500);
  assert.notEqual((await simulate(8)).hash, hash);
});

function history(...lines: readonly string[]): Operation[] {
  return lines.map((line) => {
    const [what, version, from, to] = line.split(" ");
    const isWrite = what !== "read";
    return {
      client: "c",
      isWrite,
      isOpen: what === "write?",
      version: Number(version),
      from: Number(from),
      to: Number(to),
    };
  });
}

Deno.test("history: an old value after a new one, and one that comes late, can't be explained", () => {
  const from0 = new Set([0]);
  assert.ok(isLinearizable(history("write 1 1 4", "read 0 2 3", "read 1 2 5", "read 1 6 7"), from0));
  assert.ok(!isLinearizable(history("write 1 1 4", "read 1 2 3", "read 0 4 5"), from0), "it was seen before");
  assert.ok(!isLinearizable(history("write 1 1 2", "write 2 3 4", "read 1 5 6"), from0), "it is overwritten");
  assert.ok(!isLinearizable(history("read 5 1 2"), from0), "nobody wrote it");
  // One that may not have happened: it has or it has not, and that by its end.
  assert.ok(isLinearizable(history("write? 1 1 9", "read 0 2 3", "read 1 4 5"), from0));
  assert.ok(isLinearizable(history("write? 1 1 9", "read 0 10 11"), from0));
  assert.ok(!isLinearizable(history("write? 1 1 9", "read 1 2 3", "read 0 4 5"), from0));
  assert.ok(!isLinearizable(history("write? 1 1 9", "read 0 10 11", "read 1 12 13"), from0), "it comes late");
});
