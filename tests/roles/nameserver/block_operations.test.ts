import assert from "node:assert/strict";
import { type Random, randomInt } from "../../../base/random.ts";
import {
  allocateBlock,
  changeReplicas,
  extendBlock,
  markReserved,
  markWritten,
  punchExtents,
  regularFile,
  truncateExtents,
} from "../../../roles/nameserver/block_operations.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import type { Transaction } from "../../../roles/nameserver/transaction.ts";
import { grow, remove, setAttributes } from "../../../roles/nameserver/operations.ts";
import { bytesOf } from "../../../base/bytes.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asVolumeId, type InodeId, ROOT_INODE, type VolumeId } from "../../../wire/ids.ts";
import { FILE_BYTES_MAX } from "../../../wire/messages/inode.ts";
import { pick, seededTest } from "../../base/seeded.ts";
import { checkNamespace } from "./consistency.ts";
import { makeDirectory, makeFile, makeWorld, type World } from "./harness.ts";

const BLOCK = 64;
const SPACE = 256;
const retry = { slot: 0, sequence: 0 };

interface ModelBlock {
  readonly id: number;
  start: number;
  volumes: number[];
  generation: number;
  written: boolean;
}

/** A file as an array that says for each byte to which block it belongs. */
class Model {
  readonly owner: (ModelBlock | undefined)[] = new Array(SPACE);
  size = 0;
  /** "volume/block" of replicas that lost their block. */
  readonly deletions = new Set<string>();

  blocks(): ModelBlock[] {
    return [...new Set(this.owner.filter((block) => block !== undefined))];
  }
  length(block: ModelBlock): number {
    return this.owner.filter((other) => other === block).length;
  }
  drop(block: ModelBlock): void {
    for (const volume of block.volumes) this.deletions.add(`${volume}/${block.id}`);
  }
  /** The hole around `offset`, within its cell of the grid. */
  hole(offset: number): [number, number] {
    const cell = offset - offset % BLOCK;
    let [start, end] = [offset, offset];
    while (start > cell && this.owner[start - 1] === undefined) start--;
    while (end < Math.min(cell + BLOCK, SPACE) && this.owner[end] === undefined) end++;
    return [start, end];
  }
  clear(from: number, to: number): void {
    for (let i = from; i < to; i++) this.owner[i] = undefined;
  }
}

const volumesOf = (random: Random): VolumeId[] =>
  [1, 2, 3, 4, 5].filter(() => random.next() < 0.5).map(asVolumeId);

async function assertAgrees({ journal }: World, ino: InodeId, model: Model): Promise<void> {
  const { extents, inodes, deletions } = checkNamespace(journal);
  const actual = (extents.get(ino) ?? []).map((extent) => ({
    id: extent.block as number,
    start: extent.start,
    length: extent.length,
    volumes: [...extent.volumes] as number[],
    generation: extent.generation as number,
    written: extent.written,
  }));
  const expected = model.blocks().map((block) => ({ ...block, length: model.length(block) }));
  assert.deepEqual(actual, expected.sort((a, b) => a.start - b.start));
  assert.equal(inodes.get(ino)!.size, model.size);
  assert.deepEqual([...deletions].sort(), [...model.deletions].sort(), "deletions");
}

function step(random: Random, world: World, ino: InodeId, model: Model): Promise<unknown> {
  const { namespace } = world;
  const offset = randomInt(random, SPACE);
  const known = model.blocks();
  switch (randomInt(random, 8)) {
    case 0:
    case 1: {
      const volumes = volumesOf(random);
      return namespace.change((tx) => {
        const extent = allocateBlock(tx, regularFile(tx, ino), offset, BLOCK, () => volumes);
        const existing = model.owner[offset];
        if (existing !== undefined) return assert.equal(extent.block, existing.id);
        const [start, end] = model.hole(offset);
        model.owner.fill(
          { id: extent.block, start, volumes: [...volumes], generation: 1, written: false },
          start,
          end,
        );
      });
    }
    case 2: {
      if (known.length === 0) return Promise.resolve();
      const block = pick(random, known);
      return namespace.change((tx) => {
        const extent = extendBlock(tx, regularFile(tx, ino), offset, block.id as never, BLOCK);
        const end = block.start + model.length(block);
        const cellEnd = block.start - block.start % BLOCK + BLOCK;
        const isHole = offset >= end && offset < cellEnd &&
          model.owner.slice(end, offset + 1).every((owner) => owner === undefined);
        assert.equal(extent !== undefined, isHole);
        if (isHole) model.owner.fill(block, end, model.hole(offset)[1]);
      });
    }
    case 3: {
      const [size] = [model.size = randomInt(random, SPACE)];
      return namespace.change((tx) => {
        const isCut = size < tx.inode(ino).size;
        setAttributes(tx, { retry, ino, size });
        if (!isCut) return;
        for (const block of known) if (block.start >= size) model.drop(block);
        model.clear(size, SPACE);
      });
    }
    case 4: {
      const end = offset + 1 + randomInt(random, BLOCK);
      return namespace.change((tx) => {
        punchExtents(tx, regularFile(tx, ino), offset, end);
        for (const block of known) {
          const blockEnd = block.start + model.length(block);
          if (block.start < offset || blockEnd > end) continue;
          model.drop(block);
          model.clear(block.start, blockEnd);
        }
      });
    }
    case 5: {
      const some = known.filter(() => random.next() < 0.3);
      const stale = { block: 999_999 as never, start: offset };
      return namespace.change((tx) => {
        const blocks = some.map(({ id, start }) => ({ block: id as never, start }));
        markWritten(tx, regularFile(tx, ino), [...blocks, stale]);
        for (const block of some) block.written = true;
      });
    }
    case 6: {
      if (known.length === 0) return Promise.resolve();
      const block = pick(random, known);
      // Recovery only takes replicas off.
      const volumes = block.volumes.filter(() => random.next() < 0.7);
      return namespace.change((tx) => {
        const inode = regularFile(tx, ino);
        changeReplicas(tx, inode, extentAt(tx, inode, block.start)!, volumes.map(asVolumeId));
        for (const volume of block.volumes) {
          if (!volumes.includes(volume)) model.deletions.add(`${volume}/${block.id}`);
        }
        block.volumes = volumes;
        block.generation++;
      });
    }
    default: {
      model.size = Math.max(model.size, offset);
      return namespace.change((tx) => grow(tx, tx.change(tx.inode(ino)), offset));
    }
  }
}

seededTest("blocks: random operations agree with an array of bytes after every one", async (random) => {
  for (let round = 0; round < 6; round++) {
    const world = await makeWorld();
    const { ino } = await world.namespace.change((tx) => makeFile(tx, "f"));
    const model = new Model();
    for (let i = 0; i < 250; i++) {
      await step(random, world, ino, model);
      await assertAgrees(world, ino, model);
    }
    await world.namespace.change((tx) => remove(tx, ROOT_INODE, bytesOf("f"), false, []));
    for (const block of model.blocks()) model.drop(block);
    const { extents, replicas, deletions } = checkNamespace(world.journal);
    assert.equal(extents.size + replicas.size, 0);
    assert.deepEqual([...deletions].sort(), [...model.deletions].sort());
  }
});

seededTest("blocks: a volume that gets a block back is not told to delete it", async (random) => {
  const { journal, namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  const change = (volumes: readonly number[]) =>
    namespace.change((tx) => {
      const inode = regularFile(tx, ino);
      changeReplicas(tx, inode, extentAt(tx, inode, 0)!, volumes.map(asVolumeId));
    });
  await namespace.change((tx) =>
    allocateBlock(tx, regularFile(tx, ino), 0, BLOCK, () => [1, 2].map(asVolumeId))
  );
  await change([1]);
  assert.equal(checkNamespace(journal).deletions.size, 1);
  await change([1, 2]);
  checkNamespace(journal);
  for (let i = 0; i < 20; i++) {
    await change([1, 2, 3, 4].filter(() => random.next() < 0.6));
    checkNamespace(journal);
  }
});

Deno.test("blocks: a cut block grows again up to the next one, and not over it", async () => {
  const { journal, namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  const allocate = (offset: number) =>
    namespace.change((tx) => allocateBlock(tx, regularFile(tx, ino), offset, BLOCK, () => []));
  const truncate = (size: number) => namespace.change((tx) => setAttributes(tx, { retry, ino, size }));
  const first = await allocate(0);
  await namespace.change((tx) => grow(tx, tx.change(tx.inode(ino)), BLOCK));
  await truncate(20); // [0, 20)
  await allocate(20);
  await namespace.change((tx) => grow(tx, tx.change(tx.inode(ino)), BLOCK));
  await truncate(40); // [20, 40)
  await allocate(50); // [40, 64)
  await namespace.change((tx) => punchExtents(tx, regularFile(tx, ino), 20, 40));
  const extend = (offset: number) =>
    namespace.change((tx) => extendBlock(tx, regularFile(tx, ino), offset, first.block, BLOCK));
  assert.equal(await extend(45), undefined);
  const extended = await extend(30);
  assert.deepEqual([extended?.start, extended?.length], [0, 40]);
  checkNamespace(journal);
});

Deno.test("blocks: offsets that no file has are refused", async () => {
  const { namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  for (const offset of [-1, FILE_BYTES_MAX, FILE_BYTES_MAX + 2]) {
    await assert.rejects(
      namespace.change((tx) => allocateBlock(tx, regularFile(tx, ino), offset, BLOCK, () => [])),
      (error) => isErrno(error, "EFBIG"),
    );
  }
  await namespace.change((tx) => {
    const extent = allocateBlock(tx, regularFile(tx, ino), FILE_BYTES_MAX - 1, BLOCK, () => []);
    assert.ok(extent.start + extent.length <= FILE_BYTES_MAX);
  });
});

Deno.test("blocks: only regular files have them", async () => {
  const { namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeDirectory(tx, "d"));
  await assert.rejects(
    namespace.change((tx) => regularFile(tx, ino)),
    (error) => isErrno(error, "EINVAL") || isErrno(error, "EISDIR"),
  );
});

Deno.test("blocks: the size of the cells may change under a file", async () => {
  const { journal, namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  const allocate = (offset: number, blockBytes: number) =>
    namespace.change((tx) => allocateBlock(tx, regularFile(tx, ino), offset, blockBytes, () => []));
  await allocate(100, 64); // [64, 128)
  await allocate(300, 1000); // [128, 1000)
  const first = await allocate(0, 1000); // [0, 64)
  assert.deepEqual([first.start, first.length], [0, 64]);
  const middle = await allocate(1005, 10);
  assert.deepEqual([middle.start, middle.length], [1000, 10]);
  checkNamespace(journal);
});

Deno.test("a file takes the room that its writers have told of, and no more than its blocks cover", async () => {
  const world = await makeWorld();
  const { ino } = await world.namespace.change((tx) => makeFile(tx, "f"));
  const length = 100_000;
  const at = (tx: Transaction) => regularFile(tx, ino);
  const taken = () => world.namespace.look((tx) => at(tx).allocatedBytes);
  const [first, second] = await world.namespace.change((tx) => {
    tx.change(at(tx)).size = 150_000;
    return [0, length].map((offset) => allocateBlock(tx, at(tx), offset, length, () => [asVolumeId(1)]));
  });
  assert.equal(await taken(), 0, "blocks without data");
  await world.namespace.change((tx) => {
    const written = [{ ...first!, allocated: 40_960 }];
    assert.deepEqual(markWritten(tx, at(tx), written).map(({ block }) => block), [first!.block]);
    markReserved(tx, at(tx), [{ ...second!, allocated: 1_000_000 }]);
  });
  assert.equal(await taken(), 40_960 + 102_400);
  await world.namespace.change((tx) => {
    assert.deepEqual(markWritten(tx, at(tx), [{ ...first!, allocated: 8_192 }]), [], "it had data before");
  });
  assert.equal(await taken(), 8_192 + 102_400, "some of it was punched");
  await world.namespace.change((tx) => {
    tx.change(at(tx)).size = 5;
    truncateExtents(tx, at(tx), 5);
  });
  assert.equal(await taken(), 4_096);
  const { block, start } = first!;
  await world.namespace.change((tx) => void markWritten(tx, at(tx), [{ block, start }]));
  assert.equal(await taken(), 5, "not told: full up to the end");
  checkNamespace(world.journal);
});
