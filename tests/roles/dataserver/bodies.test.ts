/** The memory of what is written is used again only when the whole chain has it. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { bytesEqual } from "../../../base/bytes.ts";
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

Deno.test("the memory of a write is used again when all of the chain have it, else never", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    await using b = await start(registry, [`${directory}/b`]);
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
    const before = bodies.idleBytes;
    ok(before >= 2 * SIZE);
    await b.stop();
    const reply = await client.call.writeBlock({ ...at, chain: [targetOf(b)], offset: 0, body: writes[0]! });
    equal(reply.failed.length, 1);
    equal(bodies.idleBytes, before - SIZE, "who did not answer may still be sent it");
  }));
