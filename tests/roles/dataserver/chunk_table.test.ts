/** Checksums of chunks against a model: whatever is not dirty has the crc of its bytes. */

import { equal, ok } from "node:assert/strict";
import { randomBytes, randomInt, SeededRandom } from "../../../base/random.ts";
import { CHUNK_BYTES, chunkCount, ChunkTable } from "../../../roles/dataserver/chunk_table.ts";
import { testSeed } from "../../base/seeded.ts";

const LENGTH_MAX = 5 * CHUNK_BYTES;

interface Write {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

class Model {
  readonly table = new ChunkTable();
  readonly bytes = new Uint8Array(LENGTH_MAX);
  inFlight: Write[] = [];
  /** Where writes began and ended lately, and where the replica did. */
  marks: number[] = [0];

  begin(write: Write): void {
    this.marks = [...this.marks, this.table.length, write.offset, write.offset + write.bytes.length].slice(
      -12,
    );
    this.table.beginWrite(write.offset, write.offset + write.bytes.length);
    this.inFlight.push(write);
  }

  complete(write: Write): void {
    this.inFlight = this.inFlight.filter((one) => one !== write);
    this.bytes.set(write.bytes, write.offset);
    this.table.completeWrite(write.offset, write.bytes);
  }

  /** Some of it may have come to the file. */
  fail(write: Write): void {
    this.inFlight = this.inFlight.filter((one) => one !== write);
    this.bytes.set(write.bytes.subarray(0, write.bytes.length / 2), write.offset);
  }

  chunk(index: number): Uint8Array {
    const start = index * CHUNK_BYTES;
    return this.bytes.subarray(start, start + this.table.bytesOf(index));
  }

  check(): void {
    for (let i = 0; i < this.table.count; i++) {
      if (!this.table.isDirty(i)) ok(this.table.matches(i, this.chunk(i)), `chunk ${i}`);
    }
  }

  isFree(from: number, to: number): boolean {
    return this.inFlight.every(({ offset, bytes }) => offset + bytes.length <= from || to <= offset);
  }
}

Deno.test("chunk table: any writes at once, cuts, zeros and reads leave no wrong checksum", () => {
  const random = new SeededRandom(testSeed());
  for (let round = 0; round < 60; round++) {
    const model = new Model();
    const { table } = model;
    for (let step = 0; step < 150; step++) {
      // Now and then everything in flight comes to its end.
      const kind = randomInt(random, step % 20 < 12 ? 12 : 4) + (step % 20 < 12 ? 0 : 8);
      if (kind < 6) {
        // Mostly where others begin or end.
        const mark = () => model.marks[randomInt(random, model.marks.length)]!;
        const offset = randomInt(random, 5) === 0 ? randomInt(random, LENGTH_MAX) : mark();
        const size = [100, 4096, CHUNK_BYTES / 2, CHUNK_BYTES][randomInt(random, 4)]! - randomInt(random, 2);
        const end = Math.min(LENGTH_MAX, randomInt(random, 3) === 0 ? mark() : offset + size);
        if (end <= offset || !model.isFree(offset, end)) continue;
        model.begin({ offset, bytes: randomBytes(random, end - offset) });
      } else if (kind < 10) {
        const one = model.inFlight[randomInt(random, Math.max(1, model.inFlight.length))];
        if (one === undefined) continue;
        if (randomInt(random, 10) === 0) model.fail(one);
        else model.complete(one);
      } else if (model.inFlight.length > 0) {
        continue; // the others hold everything
      } else if (kind === 10 && table.length > 0) {
        const length = randomInt(random, table.length);
        model.bytes.fill(0, length);
        table.cut(length);
      } else {
        const offset = randomInt(random, table.length + 1);
        const end = Math.min(table.length, offset + randomInt(random, 2 * CHUNK_BYTES));
        if (end > offset && randomInt(random, 2) === 0) {
          table.beginWrite(offset, end);
          model.bytes.fill(0, offset, end);
          table.completeZeros(offset, end);
        } else {
          for (let i = 0; i < table.count; i++) {
            if (table.isDirty(i)) table.setClean(i, model.chunk(i));
          }
        }
      }
      model.check();
    }
  }
});

Deno.test("chunk table: what is written in order is never to be read again", () => {
  const random = new SeededRandom(1);
  for (const size of [100, 4000, CHUNK_BYTES - 48, CHUNK_BYTES + 48]) {
    const model = new Model();
    for (let at = 0; at + size <= LENGTH_MAX; at += size) {
      const write = { offset: at, bytes: randomBytes(random, size) };
      model.begin(write);
      model.complete(write);
      equal(model.table.nextDirty(0), -1, `${size} bytes at ${at}`);
    }
    equal(model.table.count, chunkCount(model.table.length));
    model.check();
  }
});

Deno.test("chunk table: tails that come after what is behind them, as the kernel cuts them off, need no reading", () => {
  const random = new SeededRandom(2);
  const model = new Model();
  const write = (offset: number, end: number) => {
    const one = { offset, bytes: randomBytes(random, end - offset) };
    model.begin(one);
    return () => model.complete(one);
  };
  // Later ones begin before earlier ones have ended, and after.
  const first = write(0, CHUNK_BYTES - 16);
  const second = write(CHUNK_BYTES, 2 * CHUNK_BYTES - 16);
  first();
  const tail = write(CHUNK_BYTES - 16, CHUNK_BYTES);
  second();
  const third = write(2 * CHUNK_BYTES, 3 * CHUNK_BYTES);
  tail();
  write(2 * CHUNK_BYTES - 16, 2 * CHUNK_BYTES)();
  third();
  equal(model.table.nextDirty(0), -1);
  model.check();
});

Deno.test("chunk table: a write over the end leaves no checksum of what it has overwritten to go on from", () => {
  const random = new SeededRandom(3);
  const model = new Model();
  for (const [offset, end] of [[0, 128], [64, 192], [128, 192]] as const) {
    const write = { offset, bytes: randomBytes(random, end - offset) };
    model.begin(write);
    model.complete(write);
    model.check();
  }
});
