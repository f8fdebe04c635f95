/** Blocks for files that are made here: when they are asked for, how long they are kept, and what becomes of the rest. */

import assert from "node:assert/strict";
import { silentLogger } from "../../base/log.ts";
import { BlockStock } from "../../fs/block_stock.ts";
import { asBlockId, asGeneration, asNodeId, asVolumeId } from "../../wire/ids.ts";
import type { ReserveBlocksRequest, ReservedBlocksReply } from "../../wire/messages/deferred.ts";
import type { Block } from "../../wire/messages/inode.ts";
import { FakeClock, settle } from "../base/fake_clock.ts";

const NODE = asNodeId(7);

function start() {
  const clock = new FakeClock();
  const asked: ReserveBlocksRequest[] = [];
  const answers: ((reply: ReservedBlocksReply | Error) => void)[] = [];
  let last = 0;
  const session = {
    reserveBlocks(request: ReserveBlocksRequest): Promise<ReservedBlocksReply> {
      asked.push(request);
      return new Promise((resolve, reject) =>
        answers.push((reply) => reply instanceof Error ? reject(reply) : resolve(reply))
      );
    },
  };
  const stock = new BlockStock({ session, host: "h", clock, log: silentLogger });
  const block = (): Block => ({
    ...{ id: asBlockId(++last), generation: asGeneration(1), start: 0, length: 1024, written: false },
    replicas: [{ node: NODE, volume: asVolumeId(3), address: "a:1", host: "h", alive: true }],
  });
  const answer = async (count: number) => {
    answers.shift()!({ blocks: Array.from({ length: count }, block) });
    await settle();
  };
  const fail = async () => {
    answers.shift()!(new Error("away"));
    await settle();
  };
  const take = () => stock.take([])?.id;
  return { clock, asked, stock, take, answer, fail };
}

Deno.test("block stock: asked for when files follow each other, in growing portions; each is taken once", async () => {
  const { clock, asked, take, answer } = start();
  assert.equal(take(), undefined);
  assert.equal(asked.length, 0, "one file is none that follows another");
  await clock.advance(1_500);
  assert.equal(take(), undefined);
  assert.equal(asked.length, 0);
  assert.equal(take(), undefined);
  assert.deepEqual(asked, [{ count: 8, host: "h", unused: [] }]);
  take();
  assert.equal(asked.length, 1, "once");
  await answer(8);
  const taken = [take()];
  assert.equal(asked[1]!.count, 16, "less than half of the next portion");
  await answer(16);
  for (let i = 0; i < 23; i++) taken.push(take());
  assert.deepEqual(taken, Array.from({ length: 24 }, (_, i) => i + 1));
});

Deno.test("block stock: what was placed long ago, or where something fails, goes back unused", async () => {
  const { clock, asked, stock, take, answer } = start();
  take();
  take();
  await answer(8);
  assert.equal(stock.take([NODE]), undefined);
  assert.deepEqual(asked[1]!.unused, [1, 2, 3, 4, 5, 6, 7, 8]);
  await answer(4);
  await clock.advance(20_001);
  assert.equal(take(), undefined);
  take();
  assert.deepEqual(asked[2]!.unused, [9, 10, 11, 12]);
  assert.equal(asked[2]!.count, 8, "from the start again");
});

Deno.test("block stock: the end of a session ends it, also what is on its way", async () => {
  const { asked, stock, take, answer } = start();
  take();
  take();
  await answer(8);
  assert.equal(take(), 1);
  assert.equal(asked.length, 2);
  stock.clear();
  assert.equal(take(), undefined);
  await answer(16);
  assert.equal(take(), undefined, "they were given to the session before");
  assert.deepEqual(asked[2]!.unused, []);
});

Deno.test("block stock: where none is to be had it is not asked all the time", async () => {
  const { clock, asked, take, answer, fail } = start();
  take();
  take();
  await fail();
  take();
  assert.equal(asked.length, 1);
  await clock.advance(10_000);
  take();
  take();
  await answer(0);
  take();
  assert.equal(asked.length, 2);
});
