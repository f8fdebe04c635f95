import assert from "node:assert/strict";
import { type Random, randomInt } from "../../../base/random.ts";
import {
  extentAt,
  extentBefore,
  extentsIn,
  insertExtent,
  nextStart,
  PAGE_EXTENTS,
  removeExtent,
  replaceExtent,
  resizeAllocated,
} from "../../../roles/nameserver/extents.ts";
import { decodeInode, type Extent, type InodeRecord } from "../../../roles/nameserver/records.ts";
import { inodeKey } from "../../../roles/nameserver/keys.ts";
import type { Transaction } from "../../../roles/nameserver/transaction.ts";
import { asBlockId, asGeneration, type InodeId } from "../../../wire/ids.ts";
import { chance, seededTest } from "../../base/seeded.ts";
import { checkNamespace } from "./consistency.ts";
import { makeFile, makeWorld, type World } from "./harness.ts";

const SPACE = 1_000_000;

/** The extents of one file in an array: what the pages must agree with. */
class Model {
  extents: Extent[] = [];
  size = 0;

  at(offset: number): Extent | undefined {
    return this.extents.find(({ start, length }) => start <= offset && offset < start + length);
  }
  before(offset: number): Extent | undefined {
    return this.extents.findLast(({ start }) => start <= offset);
  }
  next(offset: number): number {
    return this.extents.find(({ start }) => start > offset)?.start ?? Infinity;
  }
  in(offset: number, end: number, limit: number): Extent[] {
    return this.extents.filter((extent) => extent.start < end && extent.start + extent.length > offset)
      .slice(0, limit);
  }
  put(extent: Extent): void {
    this.extents = [...this.extents.filter(({ start }) => start !== extent.start), extent];
    this.extents.sort((a, b) => a.start - b.start);
  }
  remove(start: number): void {
    this.extents = this.extents.filter((extent) => extent.start !== start);
  }
}

let blocks = 1;

/** Often not known. */
const allocated = (random: Random) => chance(random, 0.5) ? { allocated: randomInt(random, 12_000) } : {};

function newExtent(start: number, length: number, more: { readonly allocated?: number } = {}): Extent {
  return {
    block: asBlockId(blocks++),
    start,
    length,
    generation: asGeneration(1),
    written: false,
    ...more,
    volumes: [],
  };
}

function step(random: Random, tx: Transaction, inode: InodeRecord, model: Model, growth: number): void {
  const offset = randomInt(random, SPACE);
  const roll = random.next();
  if (roll < growth) {
    if (model.at(offset) !== undefined) return;
    const room = Math.min(model.next(offset), SPACE) - offset;
    const extent = newExtent(offset, Math.min(room, 1 + randomInt(random, 200)), allocated(random));
    insertExtent(tx, inode, extent);
    tx.count("blocks", 1);
    model.put(extent);
  } else if (roll < growth + 0.2) {
    const old = model.before(offset);
    if (old === undefined) return;
    const room = Math.min(model.next(old.start), SPACE) - old.start;
    const { allocated: _, ...rest } = old;
    const length = 1 + randomInt(random, Math.min(room, 400));
    const extent = { ...rest, length, written: true, ...allocated(random) };
    replaceExtent(tx, inode, extent);
    model.put(extent);
  } else if (roll < growth + 0.25) {
    const oldSize = inode.size;
    inode.size = model.size = randomInt(random, SPACE + 100);
    resizeAllocated(tx, inode, oldSize);
  } else {
    const old = model.before(offset);
    if (old === undefined) return;
    removeExtent(tx, inode, old.start);
    tx.count("blocks", -1);
    model.remove(old.start);
  }
}

function compareLookups(random: Random, tx: Transaction, inode: InodeRecord, model: Model): void {
  for (let i = 0; i < 8; i++) {
    const known = model.before(randomInt(random, SPACE));
    // Often exactly at an edge.
    const offset = known === undefined || chance(random, 0.3)
      ? randomInt(random, SPACE)
      : Math.max(0, known.start + (chance(random, 0.5) ? 0 : known.length) + randomInt(random, 3) - 1);
    const end = offset + 1 + randomInt(random, SPACE / 10);
    const limit = chance(random, 0.5) ? Infinity : 1 + randomInt(random, 300);
    assert.deepEqual(extentAt(tx, inode, offset), model.at(offset));
    assert.deepEqual(extentBefore(tx, inode, offset), model.before(offset));
    assert.equal(nextStart(tx, inode, offset), model.next(offset));
    assert.deepEqual(extentsIn(tx, inode, offset, end, limit), model.in(offset, end, limit));
  }
}

async function run(random: Random, world: World, steps: number, growthAt: (step: number) => number) {
  const { ino } = await world.namespace.change((tx) => makeFile(tx, "f"));
  const model = new Model();
  let most = 0;
  for (let done = 0; done < steps;) {
    await world.namespace.change((tx) => {
      const inode = tx.change(tx.inode(ino));
      for (let i = 1 + randomInt(random, 60); i > 0; i--, done++) {
        step(random, tx, inode, model, growthAt(done));
      }
      compareLookups(random, tx, inode, model);
    });
    await world.namespace.look((tx) => compareLookups(random, tx, tx.inode(ino), model));
    if (chance(random, 0.05)) checkExtents(world, ino, model);
    most = Math.max(most, model.extents.length);
  }
  checkExtents(world, ino, model);
  return { ino, most };
}

function checkExtents({ journal }: World, ino: InodeId, model: Model): void {
  const { extents } = checkNamespace(journal);
  assert.deepEqual(extents.get(ino) ?? [], model.extents);
}

seededTest(
  "extents: thousands of random inserts, replacements and removals agree with an array",
  async (random) => {
    const world = await makeWorld();
    // Grows to some thousand extents, shrinks, and grows again.
    const { most } = await run(random, world, 9_000, (done) => done < 5_000 ? 0.7 : done < 7_500 ? 0.1 : 0.5);
    assert.ok(most > PAGE_EXTENTS * 8, `${most} extents at most`);
  },
);

seededTest("extents: a file that loses all its extents has no page left", async (random) => {
  const world = await makeWorld();
  const { ino } = await run(random, world, 1_500, () => 0.7);
  await world.namespace.change((tx) => {
    const inode = tx.change(tx.inode(ino));
    for (const { start } of extentsIn(tx, inode, 0, Infinity, Infinity)) {
      removeExtent(tx, inode, start);
      tx.count("blocks", -1);
    }
  });
  const { inodes, extents } = checkNamespace(world.journal);
  assert.deepEqual(inodes.get(ino)!.pages, []);
  assert.equal(extents.size, 0);
});

Deno.test("extents: a file that grows at its end fills its pages", async () => {
  const { journal, namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  const count = 10_000;
  for (let i = 0; i < count; i++) {
    await namespace.change((tx) => {
      insertExtent(tx, tx.change(tx.inode(ino)), newExtent(i * 10, 10));
      tx.count("blocks", 1);
    });
  }
  const { pages } = decodeInode(ino, journal.get(inodeKey(ino))!);
  assert.equal(pages.length, Math.ceil(count / PAGE_EXTENTS));
  checkNamespace(journal);
});
