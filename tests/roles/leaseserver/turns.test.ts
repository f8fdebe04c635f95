import assert from "node:assert/strict";
import { Turns } from "../../../roles/leaseserver/turns.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asInodeId, type InodeId } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { rest } from "./harness.ts";

const INO = asInodeId(5);
const OTHER = asInodeId(6);

Deno.test("turns: who comes first goes first, one at a time", async () => {
  const turns = new Turns();
  const order: number[] = [];
  await turns.take(INO);
  for (const i of [1, 2, 3]) void turns.take(INO).then(() => order.push(i));
  assert.equal(turns.waiting, 3);
  assert.equal(turns.tryTake(INO), false);
  for (const expected of [[], [1], [1, 2], [1, 2, 3]]) {
    await rest();
    assert.deepEqual(order, expected);
    turns.giveAll([INO]);
  }
  await rest();
  assert.equal(turns.waiting, 0);
  assert.ok(!turns.isTaken(INO));
  assert.ok(turns.tryTake(INO));
});

Deno.test("turns: nobody comes in between a turn that is given back and the next in line", async () => {
  const turns = new Turns();
  await turns.take(INO);
  let isNext = false;
  void turns.take(INO).then(() => isNext = true);
  turns.giveAll([INO]);
  // What is answered now is sent before the next starts; the turn is not free meanwhile.
  await Promise.resolve();
  assert.deepEqual([isNext, turns.isTaken(INO), turns.tryTake(INO)], [false, true, false]);
  await rest();
  assert.ok(isNext);
});

Deno.test("turns: waiting ends with EINTR when it is given up, and the others move up", async () => {
  const turns = new Turns();
  await turns.take(INO);
  const abort = new AbortController();
  const second = turns.take(INO, abort.signal);
  const third = turns.take(INO);
  abort.abort();
  await assert.rejects(second, (error) => isErrno(error, "EINTR"));
  assert.equal(turns.waiting, 1);
  turns.giveAll([INO]);
  await third;
  await assert.rejects(turns.take(INO, AbortSignal.abort()), (error) => isErrno(error, "EINTR"));
  turns.giveAll([INO]);
  await rest();
  assert.ok(!turns.isTaken(INO), "an end that came after the turn is given up changes nothing");
});

Deno.test("turns: one that is free is taken though the caller has given up", async () => {
  const turns = new Turns();
  await turns.take(INO, AbortSignal.abort());
  assert.ok(turns.isTaken(INO));
});

Deno.test("turns: an abort after the turn has come does not take it away", async () => {
  const turns = new Turns();
  await turns.take(INO);
  const abort = new AbortController();
  const next = turns.take(INO, abort.signal);
  turns.giveAll([INO]);
  await next;
  abort.abort();
  assert.ok(turns.isTaken(INO));
  turns.giveAll([INO]);
  await rest();
  assert.ok(!turns.isTaken(INO));
});

Deno.test("turns: several are taken together, each once, and not waited for when all are free", async () => {
  const turns = new Turns();
  assert.equal(turns.takeAll([OTHER, INO, OTHER]), undefined);
  const both = turns.takeAll([INO, OTHER]);
  assert.ok(both !== undefined);
  turns.giveAll([INO, OTHER, INO]);
  await both;
  turns.giveAll([INO, OTHER]);
  await rest();
  assert.ok(!turns.isTaken(INO) && !turns.isTaken(OTHER));
});

seededTest("turns: many who take several at once never wait for each other for ever", async (random) => {
  const turns = new Turns();
  const inodes = [1, 2, 3, 4, 5, 6].map(asInodeId);
  const taken = new Set<InodeId>();
  let done = 0;
  const work = Array.from({ length: 20 }, async () => {
    for (let i = 0; i < 30; i++) {
      const mine = inodes.filter(() => chance(random, 0.4));
      await turns.takeAll(mine);
      for (const ino of mine) {
        assert.ok(!taken.has(ino), "one has it at a time");
        taken.add(ino);
      }
      if (chance(random, 0.7)) await settle();
      for (const ino of mine) taken.delete(ino);
      turns.giveAll(mine);
      // A single one as well, as opens take them.
      const ino = pick(random, inodes);
      await turns.take(ino);
      assert.ok(!taken.has(ino));
      turns.giveAll([ino]);
    }
    done++;
  });
  let last = -1;
  for (let idle = 0; done < work.length; idle++) {
    await settle();
    if (done !== last) idle = 0;
    last = done;
    assert.ok(idle < 5_000, "they wait for each other");
  }
  await Promise.all(work);
  assert.equal(turns.waiting, 0);
  assert.ok(inodes.every((ino) => !turns.isTaken(ino)));
});
