/** Records of extended attributes: the bytes that the general codec makes, and what is damaged is found. */

import assert from "node:assert/strict";
import { randomBytes, randomInt, SeededRandom } from "../../../base/random.ts";
import { decodeXattrs, encodeXattrs, type Xattr } from "../../../roles/nameserver/xattr_records.ts";
import { storedCodec } from "../../../wire/codec.ts";

/** Around where the lengths take another form. */
const LENGTHS = [0, 1, 22, 23, 24, 25, 254, 255, 256, 257, 65_535, 65_536];

function randomXattrs(random: SeededRandom): Xattr[] {
  const count = [0, 1, 5, 23, 24, 300][randomInt(random, 6)]!;
  const length = () =>
    count <= 5 && randomInt(random, 3) === 0
      ? LENGTHS[randomInt(random, LENGTHS.length)]!
      : randomInt(random, 40);
  return Array.from({ length: count }, () => [randomBytes(random, length()), randomBytes(random, length())]);
}

const plain = (xattrs: readonly Xattr[]) => xattrs.map((pair) => pair.map((part) => [...part]));

Deno.test("xattr records: they are what the general codec makes, and read as it reads them", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const xattrs = randomXattrs(new SeededRandom(seed));
    const record = encodeXattrs(xattrs);
    assert.deepEqual(record, new Uint8Array(storedCodec.encode(xattrs)), `seed ${seed}`);
    assert.deepEqual(plain(decodeXattrs(record)), plain(xattrs), `seed ${seed}`);
    // In a larger buffer, as the database's are.
    const within = new Uint8Array(record.length + 7);
    within.set(record, 3);
    assert.deepEqual(plain(decodeXattrs(within.subarray(3, 3 + record.length))), plain(xattrs));
  }
});

Deno.test("xattr records: what is cut, longer, or something else, is refused", () => {
  for (let seed = 1; seed <= 100; seed++) {
    const random = new SeededRandom(seed);
    const record = encodeXattrs([...randomXattrs(random), [randomBytes(random, 8), randomBytes(random, 30)]]);
    const cut = record.subarray(0, randomInt(random, record.length));
    assert.throws(() => decodeXattrs(cut), RangeError, `seed ${seed}, cut to ${cut.length}`);
    const longer = new Uint8Array(record.length + 1);
    longer.set(record);
    assert.throws(() => decodeXattrs(longer), RangeError);
  }
  for (const other of ["text", 7, { a: 1 }, [1], [[new Uint8Array(1)]], [["name", "value"]]]) {
    assert.throws(() => decodeXattrs(storedCodec.encode(other)), RangeError, JSON.stringify(other));
  }
});
