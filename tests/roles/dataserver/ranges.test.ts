/** Ranges of blocks: holes and reserved room on the disk, and copies from one block to another. */

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { bytesEqual, concatBytes } from "../../../base/bytes.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, asGeneration } from "../../../wire/ids.ts";
import { connectTo, FakeRegistry, GENERATION, pattern, start, targetOf, withDirectory } from "./harness.ts";

const MIB = 1024 * 1024;
const BLOCK = asBlockId(7);
const SOURCE = asBlockId(9);

const blocksOnDisk = (path: string) => Deno.statSync(path).blocks! * 512;

Deno.test("a punched range takes no room on any disk of the chain, and reads as zeros", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    await using b = await start(registry, [`${directory}/b`]);
    using client = await connectTo(a);
    const volume = a.volumes[0]!.volume;
    const at = { block: BLOCK, generation: GENERATION, volume, chain: [targetOf(b)] };
    const files = ["a", "b"].map((name) => `${directory}/${name}/blocks/07/7.blk`);
    const bytes = pattern(4 * MIB, 1);
    const written = await client.call.writeBlock({ ...at, offset: 0, create: true, body: bytes });
    ok(written.allocatedBytes! >= 4 * MIB);
    const punch = { ...at, change: "punch", offset: MIB + 100, length: 2 * MIB, create: false } as const;
    const punched = await client.call.changeRange(punch);
    deepEqual(punched.failed, []);
    ok(punched.allocatedBytes! <= 2 * MIB + 65536);
    bytes.fill(0, MIB + 100, 3 * MIB + 100);
    for (const file of files) {
      ok(blocksOnDisk(file) <= 2 * MIB + 65536, file);
      ok(bytesEqual(Deno.readFileSync(file), bytes), file);
    }
    const hole = (await client.call.seekBlock({ ...at, offset: 0, data: false })).offset!;
    ok(hole >= MIB + 100 && hole < MIB + 8192);
    const data = (await client.call.seekBlock({ ...at, offset: hole, data: true })).offset!;
    ok(data <= 3 * MIB + 100 && data > 3 * MIB - 4096);
    deepEqual(await client.call.seekBlock({ ...at, offset: 4 * MIB, data: true }), {});

    const reserve = { ...at, change: "reserve", offset: 8 * MIB, length: MIB, create: false } as const;
    equal((await client.call.changeRange(reserve)).allocatedBytes! >= punched.allocatedBytes! + MIB, true);
    equal((await client.call.replicaState(at)).length, 4 * MIB, "the length stays");
    for (const file of files) ok(blocksOnDisk(file) >= 3 * MIB, file);
  }));

Deno.test("ranges of one message are written on every disk of the chain, in any order, and synced if it says so", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    await using b = await start(registry, [`${directory}/b`]);
    using client = await connectTo(a);
    const volume = a.volumes[0]!.volume;
    const at = { block: BLOCK, generation: GENERATION, volume, chain: [targetOf(b)] };
    const expected = new Uint8Array(300_010);
    const ranges = [[300_000, 10], [5, 70_000], [100_000, 1], [100_001, 65_536]] as const;
    const parts = ranges.map(([offset, length], i) => {
      const bytes = pattern(length, i + 1);
      expected.set(bytes, offset);
      return bytes;
    });
    const request = { ...at, ranges, body: concatBytes(parts), durable: true };
    await rejects(client.call.writeRanges({ ...request, create: false }), { errno: "ENOENT" });
    deepEqual((await client.call.writeRanges({ ...request, create: true })).failed, []);
    for (const [server, name] of [[a, "a"], [b, "b"]] as const) {
      using reader = await connectTo(server);
      const there = { ...at, volume: server.volumes[0]!.volume, chain: [] };
      const { body } = await reader.call.readBlock({ ...there, offset: 0, length: 400_000 });
      ok(bytesEqual(body, expected), name);
      ok(bytesEqual(Deno.readFileSync(`${directory}/${name}/blocks/07/7.blk`), expected), name);
    }
    const bad = [
      { ranges: [] },
      { ranges: [[0, 1] as const] },
      { ranges: [[-1, parts[1]!.length] as const] },
      { ranges: "x" as never },
      { body: "x" as never },
      { ranges: Array.from({ length: 1_025 }, () => [0, 0] as const), body: new Uint8Array(0) },
    ];
    for (const change of bad) {
      await rejects(client.call.writeRanges({ ...request, create: true, ...change }), { errno: "EINVAL" });
    }
    const { body } = await client.call.readBlock({ ...at, offset: 0, length: 400_000 });
    ok(bytesEqual(body, expected), "nothing was touched");
  }));

Deno.test("a range is copied down the target's chain, from another server's replica, with its holes", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    await using b = await start(registry, [`${directory}/b`]);
    await using c = await start(registry, [`${directory}/c`]);
    using client = await connectTo(a);
    using other = await connectTo(c);
    const source = { ...targetOf(c), block: SOURCE, generation: GENERATION, offset: 100_000 };
    const original = new Uint8Array(6 * MIB);
    for (const [offset, seed] of [[0, 1], [5 * MIB, 2]] as const) {
      const body = pattern(MIB, seed);
      original.set(body, offset);
      const to = { block: SOURCE, generation: GENERATION, volume: c.volumes[0]!.volume, chain: [] };
      await other.call.writeBlock({ ...to, offset, create: true, body });
    }
    const volume = a.volumes[0]!.volume;
    const at = { block: BLOCK, generation: GENERATION, volume, chain: [targetOf(b)] };
    // What the target had in a hole of the source goes.
    const old = pattern(2 * MIB, 3);
    await client.call.writeBlock({ ...at, offset: 2 * MIB, create: true, body: old });
    const request = { ...at, offset: 0, length: 5.5 * MIB, create: true };
    const reply = await client.call.copyRange({ ...request, source });
    deepEqual([reply.failed, reply.sourceFailed], [[], undefined]);
    for (const name of ["a", "b"]) {
      const file = `${directory}/${name}/blocks/07/7.blk`;
      const copy = Deno.readFileSync(file);
      ok(bytesEqual(copy, original.subarray(100_000, 100_000 + 5.5 * MIB)), name);
      ok(blocksOnDisk(file) < 2.5 * MIB, `${name} has the hole`);
    }

    const stale = { ...source, generation: asGeneration(5) };
    const failed = await client.call.copyRange({ ...request, source: stale });
    deepEqual([failed.failed, failed.sourceFailed?.errno, failed.isUntouched], [[], "ESTALE", true]);
    await b.stop();
    const without = await client.call.copyRange({ ...request, source });
    deepEqual([without.failed.map((one) => one.volume), without.sourceFailed], [
      [b.volumes[0]!.volume],
      undefined,
    ]);
    await rejects(
      client.call.copyRange({ ...request, source, length: 100 * MIB }),
      (error: unknown) => error instanceof FsError && error.errno === "EINVAL",
    );
  }));

Deno.test("bytes that a disk has lost are not taken for a hole", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const at = { block: BLOCK, generation: GENERATION, chain: [] };
    {
      await using server = await start(registry, [`${directory}/a`]);
      using client = await connectTo(server);
      const volume = server.volumes[0]!.volume;
      await client.call.writeBlock({ ...at, volume, offset: 0, create: true, body: pattern(MIB, 1) });
    }
    using file = Deno.openSync(`${directory}/a/blocks/07/7.blk`, { write: true });
    file.truncateSync(300_000);
    file.truncateSync(MIB);
    await using server = await start(registry, [`${directory}/a`]);
    using client = await connectTo(server);
    const volume = server.volumes[0]!.volume;
    const found = await client.call.seekBlock({ ...at, volume, offset: 400_000, data: true });
    equal(found.offset, 458_752); // the next whole chunk
  }));
