import assert from "node:assert/strict";
import { PowerCuts } from "../../../roles/nameserver/power_cuts.ts";
import { MemoryJournal } from "./memory_journal.ts";

Deno.test("power cuts: only a life that did not end, and another run of the machine, are one", async () => {
  const journal = new MemoryJournal();
  const begin = async (mounting: string) => {
    const cuts = await PowerCuts.begin(journal, mounting);
    assert.equal(journal.durablePositions.at(-1), journal.position);
    return cuts;
  };
  const seen = ({ isAfter, count }: PowerCuts) => [isAfter, count];
  const first = await begin("boot 1");
  assert.deepEqual(seen(first), [false, 0]);
  await first.end();
  assert.deepEqual(seen(await begin("boot 2")), [false, 0], "it had ended well");
  assert.deepEqual(seen(await begin("boot 2")), [false, 0], "the process died");
  assert.deepEqual(seen(await begin("boot 3")), [true, 1]);
  const last = await begin("boot 3");
  assert.deepEqual(seen(last), [false, 1]);
  await last.end();
  assert.deepEqual(seen(await begin("boot 4")), [false, 1]);
  assert.deepEqual(seen(await begin("boot 5")), [true, 2]);
});

Deno.test("power cuts: a life has ended well when all of it is on disk, not before", async () => {
  const journal = new MemoryJournal();
  const cuts = await PowerCuts.begin(journal, "boot 1");
  journal.append([[new Uint8Array([9]), new Uint8Array()]]);
  const { position } = journal;
  journal.holdDurable();
  const ending = cuts.end();
  await Promise.resolve();
  assert.equal(journal.position, position);
  assert.equal(journal.durablePositions.at(-1), position);
  journal.release();
  await ending;
  assert.equal(journal.durablePositions.at(-1), position + 1);
});
