/** One replica, on a disk that says what it was asked, in order: what is on it when a new generation is acknowledged. */

import { deepEqual, equal, rejects } from "node:assert/strict";
import { ChunkTable } from "../../../roles/dataserver/chunk_table.ts";
import { Replica, type ReplicaHost } from "../../../roles/dataserver/replica.ts";
import type { ReplicaEntry, ReplicaRecord } from "../../../roles/dataserver/replica_records.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asBlockId, asGeneration } from "../../../wire/ids.ts";

const BLOCK = asBlockId(7);
const [ONE, TWO, THREE] = [1, 2, 3].map(asGeneration) as [never, never, never];

function make(record: Partial<ReplicaRecord> & { readonly isDurable: boolean }) {
  const asked: string[] = [];
  const ask = async (what: string) => {
    asked.push(`${what} ...`);
    await Promise.resolve();
    asked.push(what);
  };
  const host = {
    disk: {
      syncData: () => ask("data"),
      syncDirectory: () => ask("name"),
      close: () => {},
    },
    records: {
      put: (entries: readonly ReplicaEntry[], durable: boolean) =>
        ask(`generation ${entries[0]!.record.generation}${durable ? " durably" : ""}`),
      sync: () => ask("records"),
    },
    writeFailed: (error: Error) => error,
  };
  const file = { block: BLOCK, directory: "d", dataPath: "d/7.blk", crcPath: "d/7.crc", fd: -1 };
  const whole = { generation: ONE, state: "writing", length: 0, ...record } as const;
  const replica = new Replica(file, host as unknown as ReplicaHost, new ChunkTable(), whole);
  /** What it has asked for since, where that had ended. */
  const done = () => asked.splice(0).filter((line) => !line.endsWith("..."));
  return { replica, done };
}

Deno.test("replica: a new generation is acknowledged when it is on the disk", async () => {
  const { replica, done } = make({ isDurable: true });
  await replica.setGeneration(ONE, TWO, false);
  deepEqual(done(), ["generation 2 durably"]);
  equal(replica.record.generation, TWO);
  // Once more, and from one that it had: nothing is left to do; one that it never had is refused.
  await replica.setGeneration(ONE, TWO, false);
  deepEqual(done(), []);
  await rejects(replica.setGeneration(ONE, THREE, false), (error) => isErrno(error, "ESTALE"));
  deepEqual(done(), []);
});

Deno.test("replica: that it has the generation already is said when its record is on the disk", async () => {
  const { replica, done } = make({ generation: TWO, isDurable: false });
  await replica.setGeneration(ONE, TWO, false);
  deepEqual(done(), ["records"]);
  await replica.setGeneration(ONE, TWO, false);
  deepEqual(done(), [], "once");
});

Deno.test("replica: one that may lack something counts once it is chosen, with its bytes and its name on the disk before", async () => {
  const { replica, done } = make({ isDurable: true, isDoubtful: true });
  await rejects(replica.setGeneration(ONE, TWO, false), (error) => isErrno(error, "ESTALE"));
  deepEqual(done(), []);
  await replica.setGeneration(ONE, TWO, true);
  deepEqual(done(), ["data", "name", "generation 2 durably"]);
  equal(replica.isDoubtful, false);
});

Deno.test("replica: chosen again under the generation that it has, it is on the disk no less", async () => {
  const { replica, done } = make({ generation: TWO, isDurable: true, isDoubtful: true });
  await replica.setGeneration(ONE, TWO, true);
  deepEqual(done(), ["data", "name", "generation 2 durably"]);
});
