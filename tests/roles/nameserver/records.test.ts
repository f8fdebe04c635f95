import assert from "node:assert/strict";
import { copyBytes } from "../../../base/bytes.ts";
import type { Timespec } from "../../../base/clock.ts";
import { type Random, randomBytes, randomInt } from "../../../base/random.ts";
import * as records from "../../../roles/nameserver/records.ts";
import { asBlockId, asGeneration, asInodeId, asVolumeId } from "../../../wire/ids.ts";
import { FS_APPEND_FL, FS_IMMUTABLE_FL, FS_NODUMP_FL } from "../../../wire/messages/inode.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";

const big = (random: Random) =>
  pick(random, [0, 1, 2 ** 32, Number.MAX_SAFE_INTEGER, Math.floor(random.next() * 2 ** 53)]);
const u32 = (random: Random) => pick(random, [0, 1, 2 ** 31, 2 ** 32 - 1, randomInt(random, 2 ** 32)]);

function randomTime(random: Random): Timespec {
  const seconds = pick(random, [0, -1, -(2 ** 40), 2 ** 34, randomInt(random, 2 ** 31)]);
  return { seconds, nanoseconds: pick(random, [0, 1, 999_999_999, randomInt(random, 1e9)]) };
}

function randomInode(random: Random): records.InodeRecord {
  return {
    ino: asInodeId(1 + big(random)),
    mode: u32(random),
    uid: u32(random),
    gid: u32(random),
    nlink: u32(random),
    rdev: u32(random),
    size: big(random),
    version: big(random),
    allocatedBytes: big(random),
    atime: randomTime(random),
    mtime: randomTime(random),
    ctime: randomTime(random),
    btime: randomTime(random),
    replication: randomInt(random, 256),
    parent: asInodeId(big(random)),
    entries: big(random),
    target: randomBytes(random, chance(random, 0.5) ? 0 : randomInt(random, 4096)),
    pages: Array.from({ length: randomInt(random, 100) }, () => ({ first: big(random), page: u32(random) })),
    nextPage: u32(random),
    inlineBytes: u32(random),
    hasXattrs: chance(random, 0.5),
    isLinkable: chance(random, 0.5),
    hasCapability: chance(random, 0.5),
    flags: pick(random, [0, FS_IMMUTABLE_FL, FS_APPEND_FL | FS_NODUMP_FL]),
  };
}

const randomExtent = (random: Random): records.Extent => ({
  block: asBlockId(big(random)),
  start: big(random),
  length: big(random),
  generation: asGeneration(big(random)),
  written: chance(random, 0.5),
  ...(chance(random, 0.5) ? { allocated: big(random) } : {}),
  volumes: Array.from({ length: randomInt(random, 8) }, () => asVolumeId(u32(random))),
  ...chance(random, 0.2) ? { chosenAt: asGeneration(big(random)) } : {},
});

/** The same bytes as LevelDB gives them: a view somewhere inside a larger buffer. */
function asView(bytes: Uint8Array): Uint8Array {
  const larger = new Uint8Array(bytes.length + 13).fill(0xaa);
  larger.set(bytes, 5);
  return larger.subarray(5, 5 + bytes.length);
}

seededTest("records: inodes come back as they were", (random) => {
  for (let i = 0; i < 1_000; i++) {
    const inode = randomInode(random);
    const bytes = asView(records.encodeInode(inode));
    const decoded = records.decodeInode(inode.ino, bytes);
    bytes.fill(0xee); // what was decoded does not look into the buffer
    assert.deepEqual(decoded, inode);
  }
});

seededTest("records: extents come back as they were", (random) => {
  for (let i = 0; i < 500; i++) {
    const extents = Array.from({ length: randomInt(random, 140) }, () => randomExtent(random));
    assert.deepEqual(records.decodeExtents(asView(records.encodeExtents(extents))), extents);
  }
});

Deno.test("records: extents of version 1, which says nothing of room on disks, are understood", () => {
  const extents: records.Extent[] = [1, 2].map((id) => ({
    block: asBlockId(id),
    start: id * 100,
    length: 100,
    generation: asGeneration(1),
    written: id === 1,
    volumes: [asVolumeId(3), asVolumeId(4)],
  }));
  const bytes = records.encodeExtents(extents);
  bytes[0] = 1;
  assert.deepEqual(records.decodeExtents(bytes), extents);
  bytes[0] = 3;
  assert.throws(() => records.decodeExtents(bytes), /version 3/);
});

seededTest("records: entries, order, replicas, retries and numbers come back as they were", (random) => {
  for (let i = 0; i < 1_000; i++) {
    const entry = { ino: asInodeId(big(random)), type: randomInt(random, 16), cookie: big(random) };
    assert.deepEqual(records.decodeEntry(asView(records.encodeEntry(entry))), entry);
    const order = { ino: entry.ino, type: entry.type, name: randomBytes(random, 1 + randomInt(random, 255)) };
    assert.deepEqual(records.decodeOrder(asView(records.encodeOrder(order))), order);
    const [ino, start] = [asInodeId(big(random)), big(random)];
    assert.deepEqual(records.decodeReplica(asView(records.encodeReplica(ino, start))), { ino, start });
    const retry = { sequence: big(random), ino: big(random), other: big(random) };
    assert.deepEqual(records.decodeRetry(asView(records.encodeRetry(retry))), retry);
    const numbers = Array.from({ length: randomInt(random, 9) }, () => big(random));
    assert.deepEqual(records.decodeNumbers(asView(records.encodeNumbers(numbers))), numbers);
  }
});

seededTest("records: another layout version is refused, not misread", (random) => {
  const encoded: [Uint8Array<ArrayBuffer>, (bytes: Uint8Array) => unknown][] = [
    [records.encodeInode(randomInode(random)), (bytes) => records.decodeInode(asInodeId(1), bytes)],
    [records.encodeEntry({ ino: asInodeId(5), type: 8, cookie: 3 }), records.decodeEntry],
    [records.encodeOrder({ ino: asInodeId(5), type: 8, name: new Uint8Array(3) }), records.decodeOrder],
    [records.encodeExtents([randomExtent(random)]), records.decodeExtents],
  ];
  for (const [bytes, decode] of encoded) {
    for (const version of [0, records.EXTENTS_VERSION + 1, 255]) {
      const other = copyBytes(bytes);
      other[0] = version;
      assert.throws(() => decode(other), /version/);
    }
  }
});

seededTest(
  "records: every truncation of an inode or extents record throws, or is longer than its parts",
  (random) => {
    const inode = records.encodeInode({ ...randomInode(random), target: randomBytes(random, 20) });
    const extents = records.encodeExtents(Array.from({ length: 5 }, () => randomExtent(random)));
    for (let length = 0; length < inode.length; length++) {
      try {
        records.decodeInode(asInodeId(1), inode.subarray(0, length));
      } catch (error) {
        assert.ok(error instanceof Error);
      }
    }
    for (let length = 0; length < extents.length; length++) {
      assert.throws(() => records.decodeExtents(extents.subarray(0, length)));
    }
  },
);
