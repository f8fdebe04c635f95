import assert from "node:assert/strict";
import { bytesCompare } from "../../../base/bytes.ts";
import { randomBytes, randomInt } from "../../../base/random.ts";
import * as keys from "../../../roles/nameserver/keys.ts";
import {
  asBlockId,
  asInodeId,
  asSessionId,
  asVolumeId,
  type BlockId,
  type InodeId,
  type SessionId,
  type VolumeId,
} from "../../../wire/ids.ts";
import type { Random } from "../../../base/random.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";

const EDGES = [0, 1, 2, 127, 128, 255, 256, 65535, 65536, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1]
  .concat([2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 40, 2 ** 52, 2 ** 53 - 2, 2 ** 53 - 1]);

function randomId(random: Random): number {
  return chance(random, 0.5) ? pick(random, EDGES) : Math.floor(2 ** (random.next() * 53));
}

Deno.test("keys: numbers at the edges of every byte come back", () => {
  for (const a of EDGES) {
    for (const b of EDGES) {
      const key = keys.extentsKey(asInodeId(a), b);
      assert.equal(keys.getU64(key, 1), a);
      assert.equal(keys.getU64(key, 9), b);
    }
  }
});

seededTest("keys: sort as the numbers in them do", (random) => {
  for (let i = 0; i < 20_000; i++) {
    const [a1, a2, b1, b2] = Array.from({ length: 4 }, () => randomId(random)) as [
      number,
      number,
      number,
      number,
    ];
    const expected = Math.sign(a1 - b1 || a2 - b2);
    const makers = [
      (a: number, b: number) => keys.orderKey(asInodeId(a), b),
      (a: number, b: number) => keys.replicaKey(asVolumeId(a), asBlockId(b)),
      (a: number, b: number) => keys.orphanKey(asSessionId(a), asInodeId(b)),
    ];
    const make = pick(random, makers);
    assert.equal(Math.sign(bytesCompare(make(a1, a2), make(b1, b2))), expected, `${[a1, a2, b1, b2]}`);
    assert.equal(
      Math.sign(bytesCompare(keys.inodeKey(asInodeId(a1)), keys.inodeKey(asInodeId(b1)))),
      Math.sign(a1 - b1),
    );
  }
});

seededTest("keys: ranges hold exactly the keys that they say", (random) => {
  const inRange = ([from, to]: readonly [Uint8Array, Uint8Array], key: Uint8Array) =>
    bytesCompare(key, from) >= 0 && bytesCompare(key, to) < 0;
  for (let i = 0; i < 10_000; i++) {
    const a = randomId(random);
    const b = randomId(random);
    const other = chance(random, 0.5) ? a : randomId(random);
    const key = keys.orderKey(asInodeId(a), b);
    assert.ok(inRange(keys.tableRange(keys.TABLE_ORDER), key));
    assert.ok(!inRange(keys.tableRange(keys.TABLE_ENTRY), key));
    assert.ok(!inRange(keys.tableRange(keys.TABLE_EXTENTS), key));
    if (other < Number.MAX_SAFE_INTEGER) {
      assert.equal(inRange(keys.prefixRange(keys.TABLE_ORDER, other), key), other === a);
    }
    const from = randomId(random);
    const to = chance(random, 0.3) ? Number.MAX_SAFE_INTEGER + 1 : randomId(random);
    if (a < Number.MAX_SAFE_INTEGER) {
      assert.equal(inRange(keys.fieldRange(keys.TABLE_ORDER, a, from, to), key), b >= from && b < to);
    }
  }
});

seededTest("keys: entries of one directory sort by the bytes of their names", (random) => {
  for (let i = 0; i < 3_000; i++) {
    const parent = asInodeId(randomId(random));
    const name = randomBytes(random, 1 + randomInt(random, 255));
    const other = chance(random, 0.5)
      ? name.subarray(0, randomInt(random, name.length))
      : randomBytes(random, 3);
    const key = keys.entryKey(parent, name);
    assert.equal(
      Math.sign(bytesCompare(key, keys.entryKey(parent, other))),
      Math.sign(bytesCompare(name, other)),
    );
    assert.deepEqual(key.subarray(9), name);
  }
});

Deno.test("keys: no two tables share a key", () => {
  const all = [
    keys.metaKey("ids"),
    keys.inodeKey(1 as InodeId),
    keys.entryKey(1 as InodeId, new Uint8Array(8)),
    keys.orderKey(1 as InodeId, 0),
    keys.extentsKey(1 as InodeId, 0),
    keys.xattrsKey(1 as InodeId),
    keys.orphanKey(1 as SessionId, 0 as InodeId),
    keys.replicaKey(1 as VolumeId, 0 as BlockId),
    keys.deletionKey(1 as VolumeId, 0 as BlockId),
    keys.retryKey(1 as SessionId, 0),
    keys.sessionKey(1 as SessionId),
    keys.nodeKey(1),
    keys.volumeKey(1),
  ];
  assert.equal(new Set(all.map((key) => key[0])).size, all.length);
});
