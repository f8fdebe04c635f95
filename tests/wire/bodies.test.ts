/** Memory for large bodies: used again only once it was given back, and let go of when nobody needs it. */

import { deepEqual, equal, notEqual } from "node:assert/strict";
import { BodyPool } from "../../wire/bodies.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

Deno.test("bodies: memory is used again once it was given back, for any length of its size", () => {
  const pool = new BodyPool();
  const one = pool.take(MIB - 48);
  const two = pool.take(MIB);
  notEqual(one.buffer, two.buffer);
  deepEqual([one.length, two.length], [MIB - 48, MIB]);
  pool.give(one);
  equal(pool.take(600 * KIB).buffer, one.buffer);
  notEqual(pool.take(MIB).buffer, one.buffer, "it is in use");
});

Deno.test("bodies: what is given back twice, or was never taken, is handed out once or never", () => {
  const pool = new BodyPool();
  const one = pool.take(MIB);
  pool.give(one.subarray(10, 20));
  pool.give(one);
  equal(pool.idleBytes, MIB);
  pool.give(new Uint8Array(MIB));
  equal(pool.idleBytes, MIB);
  equal(pool.take(MIB).buffer, one.buffer);
  notEqual(pool.take(MIB).buffer, one.buffer);
});

Deno.test("bodies: small and huge ones are not kept, and of the others so many only", () => {
  const pool = new BodyPool();
  for (const length of [0, 1, 100 * KIB, 2 * MIB]) {
    const body = pool.take(length);
    equal(body.length, length);
    pool.give(body);
  }
  equal(pool.idleBytes, 0);
  const taken = Array.from({ length: 40 }, () => pool.take(MIB));
  for (const body of taken) pool.give(body);
  equal(pool.idleBytes, 16 * MIB);
});

Deno.test("bodies: trimming lets go of what was not needed since the last time", () => {
  const pool = new BodyPool();
  const taken = Array.from({ length: 4 }, () => pool.take(MIB));
  for (const body of taken) pool.give(body);
  pool.trim();
  equal(pool.idleBytes, 4 * MIB, "it was needed a moment ago");
  const [a, b, c] = [pool.take(MIB), pool.take(MIB), pool.take(MIB)];
  for (const body of [a, b, c]) pool.give(body);
  pool.trim();
  equal(pool.idleBytes, 3 * MIB, "one was idle all the time");
  pool.trim();
  equal(pool.idleBytes, 0);
});
