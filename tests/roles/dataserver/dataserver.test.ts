import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { bytesEqual } from "../../../base/bytes.ts";
import { randomInt, SeededRandom } from "../../../base/random.ts";
import { LocalReplica } from "../../../fs/local_replica.ts";
import { ProcessDialer } from "../../../wire/dialer.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, asGeneration, asVolumeId } from "../../../wire/ids.ts";
import { DATASERVER } from "../../../wire/messages/dataserver.ts";
import { serve } from "../../../wire/server.ts";
import { testSeed } from "../../base/seeded.ts";
import {
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  readAll,
  start,
  targetOf,
  until,
  withDirectory,
} from "./harness.ts";

const BLOCK = asBlockId(7);
const errno = (name: string) => (error: unknown) => error instanceof FsError && error.errno === name;

Deno.test("a replica is written, read, synced, and found again after a restart", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const bytes = pattern(200_000, 1);
    {
      await using server = await start(registry, [`${directory}/v`]);
      using client = await connectTo(server);
      const volume = server.volumes[0]!.volume;
      const at = { block: BLOCK, generation: GENERATION, volume, chain: [] };
      await rejects(
        client.call.writeBlock({ ...at, offset: 0, create: false, body: bytes }),
        errno("ENOENT"),
      );
      const reply = await client.call.writeBlock({ ...at, offset: 300_000, create: true, body: bytes });
      deepEqual(reply.failed, []);
      await client.call.syncBlock(at);
      const read = await readAll(client, server, BLOCK, 500_000);
      ok(bytesEqual(read.subarray(300_000), bytes));
      ok(read.subarray(0, 300_000).every((byte) => byte === 0));
      const short = await client.call.readBlock({ ...at, offset: 499_000, length: 5_000 });
      equal(short.body.length, 1_000);
      const beyond = await client.call.readBlock({ ...at, offset: 900_000, length: 10 });
      equal(beyond.body.length, 0);
      await rejects(
        client.call.readBlock({ ...at, volume: 99 as never, offset: 0, length: 1 }),
        errno("ENODEV"),
      );
    }
    await using server = await start(registry, [`${directory}/v`]);
    equal(registry.registrations.at(-1)!.node, server.node);
    equal(registry.registrations.at(-1)!.volumes[0]!.volume, server.volumes[0]!.volume);
    await until(
      () => registry.reports.some((page) => page.replicas.length === 1),
      "a report with the replica",
    );
    using client = await connectTo(server);
    const read = await readAll(client, server, BLOCK, 500_000);
    ok(bytesEqual(read.subarray(300_000), bytes));
  }));

Deno.test("random writes, reads, truncates, syncs and pauses agree with a simple model", () =>
  withDirectory(async (directory) => {
    const random = new SeededRandom(testSeed());
    const LENGTH_MAX = 1_000_000;
    const BLOCKS = 6;
    await using registry = new FakeRegistry();
    let server = await start(registry, [`${directory}/v`], { openReplicasMax: 2, finalizeIdleMs: 1 });
    let client = await connectTo(server);
    const model = new Map<number, { bytes: Uint8Array; length: number }>();
    try {
      for (let i = 0; i < 600; i++) {
        const block = 1 + randomInt(random, BLOCKS);
        const known = model.get(block);
        const volume = server.volumes[0]!.volume;
        const at = { block: asBlockId(block), generation: GENERATION, volume, chain: [] };
        const dice = randomInt(random, 100);
        if (known === undefined || dice < 40) {
          // Several at once, of disjoint ranges.
          const state = known ?? { bytes: new Uint8Array(LENGTH_MAX), length: 0 };
          model.set(block, state);
          let offset = randomInt(random, 2) === 0 ? state.length : randomInt(random, LENGTH_MAX);
          const writes: Promise<unknown>[] = [];
          for (let n = 1 + randomInt(random, 4); n > 0 && offset < LENGTH_MAX; n--) {
            const span = [10, 4096, 65536, 200_000][randomInt(random, 4)]!;
            const length = Math.min(1 + randomInt(random, span), LENGTH_MAX - offset);
            const body = pattern(length, randomInt(random, 1e9));
            state.bytes.set(body, offset);
            state.length = Math.max(state.length, offset + length);
            writes.push(client.call.writeBlock({ ...at, offset, create: true, body }));
            offset += length + (randomInt(random, 3) === 0 ? randomInt(random, 70_000) : 0);
          }
          await Promise.all(writes);
        } else if (dice < 55) {
          const offset = randomInt(random, LENGTH_MAX);
          const length = 1 + randomInt(random, 300_000);
          const change = (["punch", "zero", "reserve"] as const)[randomInt(random, 3)]!;
          await client.call.changeRange({ ...at, change, offset, length, create: false });
          const end = Math.min(offset + length, known.length);
          if (change !== "reserve" && offset < end) known.bytes.fill(0, offset, end);
        } else if (dice < 62) {
          const [other, from] = [...model][randomInt(random, model.size)]!;
          const offset = randomInt(random, LENGTH_MAX - 1);
          const sourceOffset = randomInt(random, LENGTH_MAX - 1);
          const room = LENGTH_MAX - Math.max(offset, sourceOffset);
          const length = 1 + randomInt(random, Math.min(room, 300_000));
          if (other === block && Math.abs(offset - sourceOffset) < length) continue;
          const source = { ...targetOf(server), block: asBlockId(other), generation: GENERATION };
          const request = { ...at, offset, length, create: false };
          await client.call.copyRange({ ...request, source: { ...source, offset: sourceOffset } });
          known.bytes.set(from.bytes.subarray(sourceOffset, sourceOffset + length), offset);
          // Where the source ends in a hole, the target need not grow.
          const grown = (await client.call.replicaState(at)).length;
          ok(known.bytes.subarray(grown).every((byte) => byte === 0), `nothing is missing at step ${i}`);
          known.length = grown;
        } else if (dice < 68) {
          const offset = randomInt(random, LENGTH_MAX);
          const data = (await client.call.seekBlock({ ...at, offset, data: true })).offset ?? LENGTH_MAX;
          ok(data >= offset);
          ok(known.bytes.subarray(offset, data).every((byte) => byte === 0), `a hole at step ${i}`);
          const hole = await client.call.seekBlock({ ...at, offset, data: false });
          equal(hole.offset! > offset, data === offset, `data or a hole at step ${i}`);
        } else if (dice < 82) {
          const offset = randomInt(random, LENGTH_MAX);
          const length = randomInt(random, 200_000);
          const { body } = await client.call.readBlock({ ...at, offset, length });
          const end = Math.max(offset, Math.min(known.length, offset + length));
          equal(body.length, end - offset, `length at step ${i}`);
          ok(bytesEqual(body, known.bytes.subarray(offset, end)), `bytes at step ${i}`);
        } else if (dice < 90) {
          const length = randomInt(random, LENGTH_MAX);
          await client.call.truncateBlock({ ...at, length });
          if (length < known.length) {
            known.bytes.fill(0, length);
            known.length = length;
          }
        } else if (dice < 96) {
          await client.call.syncBlock(at);
        } else if (dice < 98) {
          await new Promise((resolve) => setTimeout(resolve, 30));
        } else {
          client[Symbol.dispose]();
          await server.stop();
          server = await start(registry, [`${directory}/v`], { openReplicasMax: 2, finalizeIdleMs: 1 });
          client = await connectTo(server);
        }
      }
      for (const [block, { bytes, length }] of model) {
        const read = await readAll(client, server, block, LENGTH_MAX);
        ok(bytesEqual(read.subarray(0, length), bytes.subarray(0, length)), `block ${block} at the end`);
      }
      await until(
        () => registry.heartbeats.at(-1)!.some(({ blocks }) => blocks === model.size),
        "heartbeat with the number of blocks",
      );
      const used = [...model.values()].reduce((sum, { length }) => sum + length, 0);
      await until(() => registry.heartbeats.at(-1)![0]!.usedBytes === used, "heartbeat with the used bytes");
      equal(registry.corrupt.length, 0);
    } finally {
      client[Symbol.dispose]();
      await server.stop();
    }
  }, 60_000));

Deno.test("a chain of three writes everywhere; one that was stopped is reported and costs only itself", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    await using b = await start(registry, [`${directory}/b`]);
    await using c = await start(registry, [`${directory}/c`]);
    using client = await connectTo(a);
    const volume = a.volumes[0]!.volume;
    const at = { block: BLOCK, generation: GENERATION, volume, chain: [targetOf(b), targetOf(c)] };
    const bytes = pattern(300_000, 5);
    deepEqual((await client.call.writeBlock({ ...at, offset: 0, create: true, body: bytes })).failed, []);
    deepEqual((await client.call.syncBlock(at)).failed, []);
    deepEqual((await client.call.truncateBlock({ ...at, length: 250_000 })).failed, []);
    for (const server of [a, b, c]) {
      using other = await connectTo(server);
      const { body } = await other.call.readBlock({
        ...at,
        volume: server.volumes[0]!.volume,
        offset: 0,
        length: 300_000,
      });
      ok(bytesEqual(body, bytes.subarray(0, 250_000)));
    }
    await b.stop();
    const more = pattern(1000, 6);
    const reply = await client.call.writeBlock({ ...at, offset: 10, create: false, body: more });
    deepEqual(reply.failed.map((one) => one.volume), [b.volumes[0]!.volume]);
    using last = await connectTo(c);
    ok(bytesEqual((await readAll(last, c, BLOCK, 1010)).subarray(10), more));
    await c.stop();
    const both = await client.call.syncBlock(at);
    deepEqual(both.failed.map((one) => one.volume), [b.volumes[0]!.volume, c.volumes[0]!.volume]);
  }));

Deno.test("a chain whose last hangs reports only that one, in time", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    await using b = await start(registry, [`${directory}/b`]);
    const hang = new Map(
      Object.values(DATASERVER.methods).map(({ op }) => [op, () => new Promise(() => {})]),
    );
    await using hung = serve("127.0.0.1:0", {
      role: "dataserver",
      clusterId: () => a.clusterId,
      handlers: hang,
      log: silentLogger,
    });
    using client = await connectTo(a);
    const started = performance.now();
    const reply = await client.call.writeBlock({
      block: BLOCK,
      generation: GENERATION,
      volume: a.volumes[0]!.volume,
      chain: [targetOf(b), { ...targetOf(b), volume: asVolumeId(77), address: hung.address }],
      offset: 0,
      create: true,
      body: pattern(100, 1),
    });
    deepEqual(reply.failed.map(({ volume, errno }) => [volume, errno]), [[77, "ETIMEDOUT"]]);
    ok(performance.now() - started < 5000);
    using toB = await connectTo(b);
    ok(bytesEqual(await readAll(toB, b, BLOCK, 100), pattern(100, 1)));
  }));

Deno.test("a local failure is thrown, a stale replica down the chain is listed", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    await using b = await start(registry, [`${directory}/b`]);
    using toA = await connectTo(a);
    using toB = await connectTo(b);
    const body = pattern(10, 1);
    const write = { block: BLOCK, offset: 0, create: true, body };
    await toB.call.writeBlock({
      ...write,
      generation: asGeneration(9),
      volume: b.volumes[0]!.volume,
      chain: [],
    });
    const reply = await toA.call.writeBlock({
      ...write,
      generation: GENERATION,
      volume: a.volumes[0]!.volume,
      chain: [targetOf(b)],
    });
    deepEqual(reply.failed.map(({ errno }) => errno), ["ESTALE"]);
    await rejects(
      toA.call.writeBlock({
        ...write,
        generation: asGeneration(2),
        volume: a.volumes[0]!.volume,
        chain: [targetOf(b)],
      }),
      errno("ESTALE"),
    );
  }));

Deno.test("generations: an older or a newer request is ESTALE, setGeneration is idempotent and durable", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const two = asGeneration(2);
    const three = asGeneration(3);
    {
      await using server = await start(registry, [`${directory}/v`]);
      using client = await connectTo(server);
      const volume = server.volumes[0]!.volume;
      const body = pattern(1000, 1);
      const write = (generation: number) =>
        client.call.writeBlock({
          block: BLOCK,
          generation: asGeneration(generation),
          volume,
          chain: [],
          offset: 0,
          create: true,
          body,
        });
      await write(2);
      await rejects(write(1), errno("ESTALE"));
      await rejects(write(3), errno("ESTALE"));
      const push = registry.pushes();
      deepEqual(await push.setGeneration({ volume, block: BLOCK, from: two, to: three }), { length: 1000 });
      deepEqual(await push.setGeneration({ volume, block: BLOCK, from: two, to: three }), { length: 1000 });
      await rejects(
        push.setGeneration({ volume, block: BLOCK, from: two, to: asGeneration(4) }),
        errno("ESTALE"),
      );
      await rejects(
        push.setGeneration({ volume, block: asBlockId(99), from: two, to: three }),
        errno("ENOENT"),
      );
      // One that may not have been made is made, so that a late write can't make it with the old generation.
      const missing = { volume, block: asBlockId(99) };
      deepEqual(await push.setGeneration({ ...missing, from: two, to: three, create: true }), { length: 0 });
      const late = { ...missing, generation: two, chain: [], offset: 0, create: true, body };
      await rejects(client.call.writeBlock(late), errno("ESTALE"));
      await client.call.writeBlock({ ...late, generation: three });
      deepEqual(await push.setGeneration({ ...missing, from: two, to: three, create: true }), {
        length: 1000,
      });
      await rejects(write(2), errno("ESTALE"));
      await write(3);
      await rejects(readAll(client, server, BLOCK, 10, two), errno("ESTALE"));
    }
    await using server = await start(registry, [`${directory}/v`]);
    using client = await connectTo(server);
    await rejects(readAll(client, server, BLOCK, 10, two), errno("ESTALE"));
    ok(bytesEqual(await readAll(client, server, BLOCK, 1000, three), pattern(1000, 1)));
  }));

Deno.test("deleteBlocks deletes in the background and reports; a report's stale and unknown are obeyed", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/v`], { trashRetentionMs: 400 });
    using client = await connectTo(server);
    const volume = server.volumes[0]!.volume;
    for (let block = 1; block <= 40; block++) {
      await client.call.writeBlock({
        block: asBlockId(block),
        generation: GENERATION,
        volume,
        chain: [],
        offset: 0,
        create: true,
        body: pattern(100, block),
      });
    }
    await registry.pushes().deleteBlocks({ volume, blocks: [1, 2, 3, 777].map(asBlockId) });
    await until(() => registry.deleted.length === 4, "four deletions reported");
    await rejects(readAll(client, server, 2, 10), errno("ENOENT"));
    registry.answerReport = () => ({ stale: [asBlockId(4)], unknown: [asBlockId(5)] });
    await registry.restart();
    await until(() => registry.registrations.length === 2, "registered again");
    await until(() => registry.heartbeats.at(-1)![0]!.blocks === 35, "35 blocks left");
    equal(registry.reports.at(-1)!.replicas.length, 37);
    equal(registry.reports.at(-1)!.to, Number.MAX_SAFE_INTEGER);
    await rejects(readAll(client, server, 4, 10), errno("ENOENT"));
    await rejects(readAll(client, server, 5, 10), errno("ENOENT"));
    const trash = () => [...Deno.readDirSync(`${directory}/v/trash`)].map(({ name }) => name);
    ok(trash().some((name) => name.startsWith("5.1.") && name.endsWith(".blk")));
    await until(() => trash().length === 0, "trash purged");
  }));

Deno.test("inside one process the ProcessDialer calls directly, and the stop withdraws", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const dialer = new ProcessDialer();
    const server = await start(registry, [`${directory}/v`], { dialer, processDialer: dialer });
    ok(dialer.isLocal(server.address));
    using client = await connectTo(server, dialer);
    const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume, chain: [] };
    await client.call.writeBlock({ ...at, offset: 0, create: true, body: pattern(99, 3) });
    ok(bytesEqual(await readAll(client, server, BLOCK, 99), pattern(99, 3)));
    await server.stop();
    ok(!dialer.isLocal(server.address));
    await rejects(readAll(client, server, BLOCK, 99), errno("ENOTCONN"));
  }));

Deno.test("requests out of bounds are EINVAL or EFBIG and change nothing", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/v`]);
    using client = await connectTo(server);
    const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume, chain: [] };
    const body = pattern(10, 1);
    await rejects(client.call.writeBlock({ ...at, offset: -1, create: true, body }), errno("EINVAL"));
    await rejects(client.call.writeBlock({ ...at, offset: 2 ** 52, create: true, body }), errno("EINVAL"));
    await rejects(
      client.call.writeBlock({ ...at, offset: 16 * 2 ** 30, create: true, body }),
      errno("EFBIG"),
    );
    await rejects(
      client.call.writeBlock({ ...at, block: 0 as never, offset: 0, create: true, body }),
      errno("EINVAL"),
    );
    await rejects(
      client.call.writeBlock({ ...at, chain: "x" as never, offset: 0, create: true, body }),
      errno("EINVAL"),
    );
    await rejects(client.call.readBlock({ ...at, offset: 0, length: 2 ** 40 }), errno("EINVAL"));
    await rejects(client.call.readBlock({ ...at, offset: 0, length: 1 }), errno("ENOENT"));
  }));

Deno.test("a replica is located for others of its machine once it is at rest, with the checksums of what is in it", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/v`]);
    using client = await connectTo(server);
    const bytes = pattern(200_000, 1);
    const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume, chain: [] };
    const locate = () => client.call.locateReplica(at);
    const write = () => client.call.writeBlock({ ...at, offset: 0, create: true, body: bytes });
    await rejects(locate(), errno("ENOENT"));
    await write();
    const busy = locate();
    for (let i = 0; i < 10; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      await write();
    }
    equal((await busy).file, undefined, "it was being changed");
    equal((await client.call.syncBlock(at)).isFinalized, undefined, "and may be taken for doubtful");
    // At once when nobody writes, and reading it changes nothing about that.
    await client.call.readBlock({ ...at, offset: 0, length: 10 });
    const sinceMs = performance.now();
    const { file, body } = await locate();
    ok(performance.now() - sinceMs < 1_500, "it is not waited for until it is finalized by itself");
    equal(file?.length, bytes.length);
    equal((await client.call.syncBlock(at)).isFinalized, true);
    const replica = await LocalReplica.open(file!, body);
    ok(bytesEqual(await replica.read(0, bytes.length), bytes));
    replica.close();
    await rejects(
      client.call.locateReplica({ ...at, generation: asGeneration(GENERATION + 1) }),
      errno("ESTALE"),
    );
    await client.call.truncateBlock({ ...at, length: 100_000 });
    equal((await locate()).file?.length, 100_000);
  }));
