/** One volume, on parts that do just what a test says. */

import { deepEqual, rejects } from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { Volume, type VolumeParts } from "../../../roles/dataserver/volume.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asBlockId } from "../../../wire/ids.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { GENERATION } from "./harness.ts";

const BLOCK = asBlockId(7);

function makeVolume(parts: Record<string, unknown>): Volume {
  const all = { path: "/v", disk: {}, identity: {}, log: silentLogger, clock: new FakeClock(), ...parts };
  return new Volume(all as unknown as VolumeParts);
}

Deno.test("volume: a file that was found without a record stays where it is when it has one by the time that it is looked at again", async () => {
  const taken: number[] = [];
  const trash = { take: (block: number) => Promise.resolve(taken.push(block)) };
  let record: unknown = { generation: GENERATION, state: "writing", length: 0 };
  const volume = makeVolume({ trash, records: { get: () => Promise.resolve(record) } });
  await volume.checkStray(BLOCK);
  deepEqual(taken, []);
  record = undefined;
  await volume.checkStray(BLOCK);
  deepEqual(taken, [BLOCK]);
});

Deno.test("volume: what was synced while the disk failed for somebody else is not said to be on it", async () => {
  const volume = makeVolume({});
  const replica = { sync: () => Promise.resolve(volume.fail("I/O error")) };
  volume.open.set(BLOCK, replica as never);
  await rejects(volume.sync(BLOCK, GENERATION), (error) => isErrno(error, "EIO"));
});
