import assert from "node:assert/strict";
import { BlockMap } from "../../fs/block_map.ts";
import { type Random, randomInt } from "../../base/random.ts";
import { asBlockId, asGeneration } from "../../wire/ids.ts";
import type { Block } from "../../wire/messages/inode.ts";
import { chance, pick, seededTest } from "../base/seeded.ts";

const SPACE = 2_000;
let nextId = 1;

const blockOf = (start: number, length: number): Block => ({
  id: asBlockId(nextId++),
  generation: asGeneration(1),
  start,
  length,
  written: false,
  replicas: [],
});

const overlaps = (block: Block, from: number, to: number) =>
  block.start < to && block.start + block.length > from;

/** What the nameserver has, and which bytes of it the client may know. */
class Model {
  blocks: Block[] = [];
  knownFrom = 0;
  knownTo = 0;

  constructor(random: Random) {
    for (let at = randomInt(random, 50); at < SPACE;) {
      const length = 1 + randomInt(random, 60);
      this.blocks.push(blockOf(at, length));
      at += length + (chance(random, 0.5) ? 0 : randomInt(random, 60));
    }
  }

  known(): Block[] {
    return this.blocks.filter((block) => overlaps(block, this.knownFrom, this.knownTo));
  }
  learn(from: number, to: number): Block[] {
    const touches = this.knownTo > this.knownFrom && from <= this.knownTo && to >= this.knownFrom;
    this.knownFrom = touches ? Math.min(this.knownFrom, from) : from;
    this.knownTo = touches ? Math.max(this.knownTo, to) : to;
    return this.blocks.filter((block) => overlaps(block, from, to));
  }
}

function compare(random: Random, map: BlockMap, model: Model): void {
  for (let i = 0; i < 12; i++) {
    const offset = randomInt(random, SPACE);
    const end = offset + 1 + randomInt(random, 100);
    assert.equal(map.knows(offset, end), offset >= model.knownFrom && end <= model.knownTo);
    if (!map.knows(offset, offset + 1)) continue;
    const at = model.blocks.find((block) => overlaps(block, offset, offset + 1));
    assert.deepEqual(map.at(offset), at);
    assert.equal(map.nextStart(offset), model.known().find(({ start }) => start > offset)?.start ?? Infinity);
    // Asked for in holes only: what ends before them.
    if (at !== undefined) continue;
    const before = model.known().findLast((block) => block.start + block.length <= offset);
    assert.deepEqual(map.before(offset), before);
  }
  for (const block of model.known()) assert.deepEqual(map.byId(block.id), block);
}

/** A change that the client itself makes: a new block over a hole, or another state of a block. */
function change(random: Random, map: BlockMap, model: Model): void {
  const offset = model.knownFrom + randomInt(random, model.knownTo - model.knownFrom);
  if (!map.knows(offset, offset + 1)) return;
  const old = model.blocks.find((block) => overlaps(block, offset, offset + 1));
  let block: Block;
  if (old !== undefined) {
    block = { ...old, generation: asGeneration(old.generation + 1), written: true };
  } else {
    const end = Math.min(model.blocks.find(({ start }) => start > offset)?.start ?? Infinity, offset + 40);
    const before = model.blocks.findLast(({ start }) => start <= offset);
    // An extended block keeps its id and start.
    block = before !== undefined && overlaps(before, model.knownFrom, model.knownTo) && chance(random, 0.3)
      ? { ...before, length: end - before.start }
      : blockOf(offset, end - offset);
  }
  map.put(block);
  model.blocks = [...model.blocks.filter(({ id }) => id !== block.id), block].sort((a, b) =>
    a.start - b.start
  );
}

seededTest("block map: agrees with the nameserver's blocks wherever it knows them", (random) => {
  for (let round = 0; round < 40; round++) {
    const map = new BlockMap();
    const model = new Model(random);
    for (let i = 0; i < 120; i++) {
      const version = map.version;
      const roll = random.next();
      if (roll < 0.4) {
        // Often next to what is known, as a reader that goes on.
        const from = chance(random, 0.6)
          ? pick(random, [model.knownFrom, model.knownTo])
          : randomInt(random, SPACE);
        const to = from + 1 + randomInt(random, 200);
        map.learn(from, to, model.learn(from, to));
        assert.notEqual(map.version, version);
      } else if (roll < 0.95) {
        if (model.knownTo > model.knownFrom) change(random, map, model);
      } else {
        map.clear();
        model.knownFrom = model.knownTo = 0;
        assert.notEqual(map.version, version);
      }
      compare(random, map, model);
    }
  }
});

Deno.test("block map: knows nothing at first and after clear", () => {
  const map = new BlockMap();
  assert.ok(!map.knows(0, 1));
  map.learn(0, 100, [blockOf(10, 20)]);
  assert.ok(map.knows(0, 100) && !map.knows(0, 101));
  assert.equal(map.at(9), undefined);
  assert.equal(map.at(10)?.length, 20);
  assert.equal(map.at(30), undefined);
  map.clear();
  assert.ok(!map.knows(0, 1));
  assert.equal(map.at(10), undefined);
});

Deno.test("block map: a range that does not touch what is known takes its place", () => {
  const map = new BlockMap();
  map.learn(0, 100, [blockOf(0, 100)]);
  map.learn(200, 300, [blockOf(250, 10)]);
  assert.ok(!map.knows(0, 1) && map.knows(200, 300));
  assert.equal(map.at(0), undefined);
  map.learn(100, 200, []);
  assert.ok(map.knows(100, 300));
});

Deno.test("block map: a block that has grown into what is learned is known once, as it is now", () => {
  const map = new BlockMap();
  const block = blockOf(0, 50);
  map.learn(0, 100, [block]);
  const grown = { ...block, length: 150 };
  map.learn(100, 200, [grown]);
  assert.deepEqual(map.at(10), grown);
  assert.deepEqual(map.at(120), grown);
  assert.equal(map.nextStart(0), Infinity);
});

Deno.test("block map: that a block holds data is not taken back by an answer from before it was reported", () => {
  const map = new BlockMap();
  const block = blockOf(0, 50);
  map.learn(0, 100, [block]);
  map.put({ ...block, written: true });
  map.put({ ...block, generation: asGeneration(2) });
  assert.deepEqual(map.at(0), { ...block, generation: 2, written: true });
  const other = blockOf(0, 50);
  map.put(other);
  assert.deepEqual(map.at(0), other, "another block at its place has none yet");
});
