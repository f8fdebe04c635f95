/** When the disk is told to begin with what was written. */

import { deepEqual, equal } from "node:assert/strict";
import { Writeback } from "../../../roles/dataserver/writeback.ts";

const MIB = 1024 * 1024;

Deno.test("writeback: the disk begins after every 8 MiB in large pieces, with all that was written, in whatever order", () => {
  const writeback = new Writeback();
  for (const offset of [3, 1, 2, 0, 4, 6, 7]) equal(writeback.written(offset * MIB, MIB), null);
  deepEqual(writeback.written(5 * MIB, MIB), { offset: 0, length: 8 * MIB });
  for (let i = 8; i < 15; i++) equal(writeback.written(i * MIB, MIB), null);
  deepEqual(writeback.written(15 * MIB, MIB), { offset: 8 * MIB, length: 8 * MIB });
});

Deno.test("writeback: small writes never make it begin", () => {
  const writeback = new Writeback();
  for (let i = 0; i < 10_000; i++) equal(writeback.written(i * 4096, 4096), null);
});
