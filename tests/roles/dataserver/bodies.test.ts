/** The memory of what is written is used again only when the whole chain has it, that of what is read when it was sent. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { bytesEqual } from "../../../base/bytes.ts";
import { type Disk, systemDisk } from "../../../roles/dataserver/disk.ts";
import { bodies } from "../../../wire/bodies.ts";
import { asBlockId } from "../../../wire/ids.ts";
import {
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  readAll,
  start,
  targetOf,
  withDirectory,
} from "./harness.ts";

const BLOCK = asBlockId(7);
const SIZE = 512 * 1024;

/** Whoever still uses what was given back, or takes it for zeros, is found out. */
const give = bodies.give.bind(bodies);
bodies.give = (body) => {
  new Uint8Array(body.buffer).fill(0xee);
  give(body);
};
// Counted below, on machines that are slow as well.
bodies.trim = () => {};

Deno.test("the memory of a write is used again when all of the chain have it, else never", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    // Nothing is finalized meanwhile, which reads.
    await using a = await start(registry, [`${directory}/a`], { finalizeIdleMs: 60_000 });
    await using b = await start(registry, [`${directory}/b`], { finalizeIdleMs: 60_000 });
    using client = await connectTo(a);
    const at = { block: BLOCK, generation: GENERATION, volume: a.volumes[0]!.volume, create: true };
    const writes = Array.from({ length: 8 }, (_, i) => pattern(SIZE - i * 1000, i));
    // In turn, so that memory is used again, and at once.
    for (const [i, body] of writes.entries()) {
      const reply = await client.call.writeBlock({ ...at, chain: [targetOf(b)], offset: i * SIZE, body });
      deepEqual(reply.failed, []);
    }
    equal(bodies.idleBytes, 2 * SIZE, "one of each server");
    await Promise.all(
      writes.map((body, i) =>
        client.call.writeBlock({ ...at, chain: [targetOf(b)], offset: (8 + i) * SIZE, body })
      ),
    );
    for (const server of [a, b]) {
      using other = await connectTo(server);
      const bytes = await readAll(other, server, BLOCK, 16 * SIZE);
      for (const [i, body] of [...writes, ...writes].entries()) {
        ok(bytesEqual(bytes.subarray(i * SIZE, i * SIZE + body.length), body), `write ${i}`);
      }
    }
    await b.stop();
    const before = bodies.idleBytes;
    ok(before >= 2 * SIZE);
    const reply = await client.call.writeBlock({ ...at, chain: [targetOf(b)], offset: 0, body: writes[0]! });
    equal(reply.failed.length, 1);
    equal(bodies.idleBytes, before - SIZE, "who did not answer may still be sent it");
  }));

Deno.test("the memory of what is read is used again when it was sent, and what a replica lacks is zeros", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const begun = Promise.withResolvers<void>();
    const late = Promise.withResolvers<void>();
    const end = 9 * SIZE + 1000;
    const disk: Disk = {
      ...systemDisk,
      write: async (fd, bytes, offset, path) => {
        if (offset === end) {
          begun.resolve();
          await late.promise;
        }
        await systemDisk.write(fd, bytes, offset, path);
      },
    };
    await using server = await start(registry, [`${directory}/v`], { disk });
    using client = await connectTo(server);
    const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume, chain: [] };
    const bytes = pattern(8 * SIZE, 3);
    for (let offset = 0; offset < bytes.length; offset += SIZE) {
      const body = bytes.slice(offset, offset + SIZE);
      await client.call.writeBlock({ ...at, create: true, offset, body });
    }
    const read = async (offset: number, length: number, expected: Uint8Array) => {
      const { body } = await client.call.readBlock({ ...at, offset, length });
      ok(bytesEqual(body, expected), `${length} bytes at ${offset}`);
      bodies.give(body);
    };
    for (let round = 0; round < 3; round++) {
      await Promise.all(Array.from({ length: 12 }, (_, i) => {
        const offset = i * 300_000;
        return read(offset, 400_000, bytes.subarray(offset, offset + 400_000));
      }));
    }
    const idle = bodies.idleBytes;
    ok(idle > 0);
    await read(0, SIZE, bytes.subarray(0, SIZE));
    equal(bodies.idleBytes, idle, "nothing is lost");
    // The file ends where the write with a gap, which is on its way, has not come to yet.
    const writing = client.call.writeBlock({ ...at, create: false, offset: end, body: pattern(200_000, 4) });
    await begun.promise;
    await read(8 * SIZE, SIZE, new Uint8Array(SIZE));
    late.resolve();
    await writing;
    const expected = new Uint8Array(end - 8 * SIZE + 200_000);
    expected.set(pattern(200_000, 4), end - 8 * SIZE);
    await read(8 * SIZE, expected.length, expected);
  }));
