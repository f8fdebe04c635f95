/** What a crash leaves of the checksums of a replica that was being written: those of all that had not been touched. */

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { bytesEqual } from "../../../base/bytes.ts";
import { randomInt, SeededRandom } from "../../../base/random.ts";
import { asBlockId, asGeneration } from "../../../wire/ids.ts";
import { isErrno } from "../../../wire/errno.ts";
import { CHUNK_BYTES } from "../../../roles/dataserver/chunk_table.ts";
import { LevelRecords, type ReplicaRecord } from "../../../roles/dataserver/replica_records.ts";
import { Touched } from "../../../roles/dataserver/touched.ts";
import { testSeed } from "../../base/seeded.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  start,
  withDirectory,
} from "./harness.ts";

const BLOCK = asBlockId(300);
const FILE = "blocks/2c/300.blk";

/** Chunks of `touched` that are untouched, below `count`. */
function untouched(touched: Touched, count: number): number[] {
  return Array.from({ length: count }, (_, i) => i).filter((i) => touched.isUntouched(i));
}

Deno.test("touched: in a small replica each chunk is a part; what lies past its end was never anybody's", () => {
  const touched = new Touched(3 * CHUNK_BYTES + 1);
  deepEqual(untouched(touched, 6), [0, 1, 2, 3]);
  equal(touched.covers(CHUNK_BYTES, CHUNK_BYTES + 1), false);
  touched.note(CHUNK_BYTES, CHUNK_BYTES + 1);
  equal(touched.covers(CHUNK_BYTES, 2 * CHUNK_BYTES), true);
  equal(touched.covers(CHUNK_BYTES, 2 * CHUNK_BYTES + 1), false);
  deepEqual(untouched(touched, 6), [0, 2, 3]);
  equal(touched.covers(4 * CHUNK_BYTES, 9 * CHUNK_BYTES), true, "it has no checksum stored");
  touched.note(3 * CHUNK_BYTES + 7, 9 * CHUNK_BYTES);
  deepEqual(untouched(touched, 6), [0, 2]);
  deepEqual(untouched(Touched.fromStored(touched.toStored()), 6), [0, 2]);
  const copy = touched.copy();
  copy.note(0, 1);
  deepEqual([untouched(copy, 6), untouched(touched, 6)], [[2], [0, 2]]);
});

Deno.test("touched: a large replica has parts of several chunks, a whole one as many as there is room for", () => {
  for (const chunks of [64, 65, 100, 128, 129, 16_384]) {
    const touched = new Touched(chunks * CHUNK_BYTES);
    const each = Math.ceil(chunks / 64);
    const last = chunks - 1;
    touched.note(last * CHUNK_BYTES + 5, last * CHUNK_BYTES + 6);
    equal(untouched(touched, chunks).length, chunks - (chunks % each || each), `${chunks}`);
    ok(!touched.isUntouched(last));
    touched.note(0, chunks * CHUNK_BYTES);
    deepEqual(untouched(touched, chunks), []);
  }
});

Deno.test("records: say what was touched, of replicas that are being written in this life of the volume", () =>
  withDirectory(async (directory) => {
    const touched = new Touched(5 * CHUNK_BYTES);
    touched.note(0, 1);
    const record = { generation: asGeneration(3), length: 7 };
    const writing = { ...record, state: "writing" } as const;
    const marked = { ...writing, touched: touched.toStored() };
    const put: ReplicaRecord[] = [writing, marked, { ...marked, state: "finalized" }];
    const read = async (life: number) => {
      const records = await LevelRecords.open(`${directory}/meta`, "label", life);
      if (life === 1) {
        await records.put(put.map((record, i) => ({ block: asBlockId(i + 1), record })), false);
      }
      const found = (await records.page(0, 10)).map(({ record }) => record);
      await records.close();
      return found;
    };
    deepEqual(await read(1), [writing, marked, { ...record, state: "finalized" }]);
    const doubtful = { ...writing, isDoubtful: true };
    deepEqual(await read(2), [doubtful, doubtful, { ...record, state: "finalized" }]);
  }));

/** A finalized replica of `bytes` in `volume`, then `change`, and what a kill leaves of that. */
async function killedAfter(
  directory: string,
  bytes: Uint8Array,
  change: (client: BlockClient, volume: never) => Promise<unknown>,
): Promise<string> {
  await using registry = new FakeRegistry();
  const path = `${directory}/v`;
  const at = { block: BLOCK, generation: GENERATION, chain: [], create: true, offset: 0 };
  {
    await using server = await start(registry, [path]);
    using client = await connectTo(server);
    await client.call.writeBlock({ ...at, volume: server.volumes[0]!.volume, body: bytes });
  }
  await using server = await start(registry, [path], { finalizeIdleMs: 60_000 });
  using client = await connectTo(server);
  await change(client, server.volumes[0]!.volume as never);
  const killed = `${directory}/killed`;
  const { success } = await new Deno.Command("cp", { args: ["-a", path, killed] }).output();
  ok(success);
  return killed;
}

function flipByte(path: string, offset: number): void {
  using file = Deno.openSync(path, { read: true, write: true });
  const byte = new Uint8Array(1);
  file.seekSync(offset, Deno.SeekMode.Start);
  file.readSync(byte);
  byte[0]! ^= 1;
  file.seekSync(offset, Deno.SeekMode.Start);
  file.writeSync(byte);
}

Deno.test("a kill while a replica is written: all that was written is there, and rot beside it is found", () =>
  withDirectory(async (directory) => {
    const random = new SeededRandom(testSeed());
    let found = 0;
    for (let round = 0; round < 6; round++) {
      const chunks = [7, 64, 100][round % 3]!;
      let bytes: Uint8Array = pattern(chunks * CHUNK_BYTES - randomInt(random, CHUNK_BYTES), round);
      const before = bytes.length;
      const changed = new Set<number>();
      const note = (from: number, to: number) => {
        for (let at = Math.floor(from / CHUNK_BYTES); at * CHUNK_BYTES < to; at++) changed.add(at);
      };
      const home = `${directory}/${round}`;
      await Deno.mkdir(home);
      const killed = await killedAfter(home, bytes, async ({ call }, volume) => {
        const at = { block: BLOCK, generation: GENERATION, chain: [], volume };
        for (let i = 0; i < chunks / 4; i++) {
          const offset = randomInt(random, bytes.length);
          const length = 1 + randomInt(random, 150_000);
          const what = randomInt(random, 8);
          if (what === 0) {
            const cut = bytes.length - randomInt(random, 2 * CHUNK_BYTES);
            await call.truncateBlock({ ...at, length: cut });
            note(cut, bytes.length);
            bytes = bytes.slice(0, cut);
          } else if (what < 3) {
            await call.changeRange({ ...at, change: "punch", offset, length, create: false });
            note(offset, Math.min(bytes.length, offset + length));
            bytes.fill(0, offset, offset + length);
          } else {
            const from = what === 3 ? bytes.length + randomInt(random, CHUNK_BYTES) : offset;
            const body = pattern(length, i);
            await call.writeBlock({ ...at, offset: from, create: false, body });
            note(Math.min(bytes.length, from), from + length);
            const grown = new Uint8Array(Math.max(bytes.length, from + length));
            grown.set(bytes);
            grown.set(body, from);
            bytes = grown;
          }
        }
      });
      const each = Math.ceil(Math.ceil(before / CHUNK_BYTES) / 64);
      const isUntouched = (chunk: number) => {
        const first = chunk - chunk % each;
        return Array.from({ length: each }, (_, i) => first + i).every((one) => !changed.has(one));
      };
      const candidates = Array.from(
        { length: Math.ceil(Math.min(before, bytes.length) / CHUNK_BYTES) },
        (_, i) => i,
      )
        .filter(isUntouched);
      const rotten = candidates[randomInt(random, candidates.length || 1)];
      if (rotten !== undefined) flipByte(`${killed}/${FILE}`, rotten * CHUNK_BYTES);

      await using registry = new FakeRegistry();
      await using server = await start(registry, [killed]);
      using client = await connectTo(server);
      const read = async (chunk: number) => {
        const offset = chunk * CHUNK_BYTES;
        const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume };
        return (await client.call.readBlock({ ...at, offset, length: CHUNK_BYTES })).body;
      };
      for (let chunk = 0; chunk * CHUNK_BYTES < bytes.length; chunk++) {
        if (chunk === rotten) {
          await rejects(read(chunk), (error) => isErrno(error, "EIO"));
          continue;
        }
        const expected = bytes.subarray(chunk * CHUNK_BYTES, (chunk + 1) * CHUNK_BYTES);
        ok(bytesEqual(await read(chunk), expected), `round ${round} chunk ${chunk}`);
      }
      equal(registry.corrupt.length, rotten === undefined ? 0 : 1);
      found += registry.corrupt.length;
    }
    ok(found > 0);
  }));

Deno.test("a kill while a replica is written: a file that has lost what was not touched is corrupt, one without checksums is not", () =>
  withDirectory(async (directory) => {
    const bytes = pattern(5 * CHUNK_BYTES, 1);
    const killed = await killedAfter(
      directory,
      bytes,
      ({ call }, volume) =>
        call.writeBlock({
          ...{ block: BLOCK, generation: GENERATION, chain: [], volume },
          ...{ offset: 10, create: false, body: pattern(100, 2) },
        }),
    );
    bytes.set(pattern(100, 2), 10);
    const readAs = async (name: string, spoil: (path: string) => void) => {
      const path = `${directory}/${name}`;
      const { success } = await new Deno.Command("cp", { args: ["-a", killed, path] }).output();
      ok(success);
      spoil(path);
      await using registry = new FakeRegistry();
      await using server = await start(registry, [path]);
      using client = await connectTo(server);
      const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume };
      try {
        return (await client.call.readBlock({ ...at, offset: 0, length: bytes.length })).body;
      } catch (error) {
        equal(registry.corrupt.length, 1);
        return error;
      }
    };
    const cut = (length: number) => (path: string) => Deno.truncateSync(`${path}/${FILE}`, length);
    ok(isErrno(await readAs("cut", cut(4 * CHUNK_BYTES)), "EIO"));
    for (
      const spoil of [
        () => {},
        (path: string) => Deno.truncateSync(`${path}/${FILE.replace("blk", "crc")}`, 6),
      ]
    ) {
      const read = await readAs(crypto.randomUUID(), spoil);
      ok(read instanceof Uint8Array && bytesEqual(read, bytes), String(read));
    }
  }));
