/** Copies of replicas that are being written: made whole once, then brought up to date by what changed. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { bytesEqual } from "../../../base/bytes.ts";
import { randomInt } from "../../../base/random.ts";
import type { Dataserver } from "../../../roles/dataserver/dataserver.ts";
import { tcpDialer } from "../../../wire/dialer.ts";
import { asBlockId } from "../../../wire/ids.ts";
import { DATASERVER } from "../../../wire/messages/dataserver.ts";
import { chance, seededTest } from "../../base/seeded.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  start,
  targetOf,
  until,
  withDirectory,
} from "./harness.ts";

const MIB = 1024 * 1024;
const BLOCK = asBlockId(7);
const FILE = "blocks/07/7.blk";

/** Counts the bytes that are asked for. */
function countingDialer() {
  const counted = { bytes: 0 };
  const dialer: typeof tcpDialer = {
    async dial(address, options) {
      const dialled = await tcpDialer.dial(address, options);
      const { channel } = dialled;
      const call: typeof channel.call = (op, message, how) => {
        if (op === DATASERVER.methods.readBlock.op) counted.bytes += (message as { length: number }).length;
        return channel.call(op, message, how);
      };
      return {
        ...dialled,
        channel: { call, close: () => channel.close(), closed: channel.closed } as typeof channel,
      };
    },
  };
  return { dialer, counted };
}

interface Pair {
  readonly source: Dataserver;
  readonly client: BlockClient;
  readonly counted: { bytes: number };
  /** Has the copy made, and gives what was fetched for it. */
  copy(): Promise<number>;
  files(): { readonly source: Uint8Array; readonly copy: Uint8Array };
  write(offset: number, body: Uint8Array): Promise<void>;
  truncate(length: number): Promise<void>;
}

async function withPair(test: (pair: Pair) => Promise<void>): Promise<void> {
  await withDirectory(async (directory) => {
    await using sourceRegistry = new FakeRegistry();
    await using targetRegistry = new FakeRegistry();
    const { dialer, counted } = countingDialer();
    await using source = await start(sourceRegistry, [`${directory}/a`]);
    await using target = await start(targetRegistry, [`${directory}/b`], { dialer });
    using client = await connectTo(source);
    const volume = source.volumes[0]!.volume;
    const at = { block: BLOCK, generation: GENERATION, volume, chain: [] };
    await test({
      source,
      client,
      counted,
      async copy() {
        counted.bytes = 0;
        const request = {
          volume: target.volumes[0]!.volume,
          block: BLOCK,
          generation: GENERATION,
          source: targetOf(source),
        };
        await targetRegistry.pushes().copyReplica(request);
        return counted.bytes;
      },
      files: () => ({
        source: Deno.readFileSync(`${directory}/a/${FILE}`),
        copy: Deno.readFileSync(`${directory}/b/${FILE}`),
      }),
      async write(offset, body) {
        await client.call.writeBlock({ ...at, offset, create: true, body });
      },
      async truncate(length) {
        await client.call.truncateBlock({ ...at, length });
      },
    });
  });
}

const same = ({ source, copy }: ReturnType<Pair["files"]>) => bytesEqual(source, copy);

Deno.test("a copy keeps aside what was there of the block before, but for a copy that came to nothing", () =>
  withDirectory(async (directory) => {
    await using sourceRegistry = new FakeRegistry();
    await using targetRegistry = new FakeRegistry();
    await using source = await start(sourceRegistry, [`${directory}/a`]);
    await using target = await start(targetRegistry, [`${directory}/b`]);
    await using otherRegistry = new FakeRegistry();
    await using other = await start(otherRegistry, [`${directory}/c`]);
    const older = pattern(1000, 1);
    const made = [[source, pattern(1000, 2)], [target, older], [other, pattern(1000, 3)]] as const;
    for (const [server, body] of made) {
      using client = await connectTo(server);
      const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume, chain: [] };
      await client.call.writeBlock({ ...at, offset: 0, create: true, body });
    }
    const { volume } = target.volumes[0]!;
    const kept = () =>
      [...Deno.readDirSync(`${directory}/b/trash`)].map(({ name }) => name).filter((name) =>
        name.endsWith(".blk")
      );
    const request = { volume, block: BLOCK, generation: GENERATION, source: targetOf(source) };
    await targetRegistry.pushes().copyReplica(request);
    equal(kept().length, 1);
    ok(bytesEqual(Deno.readFileSync(`${directory}/b/trash/${kept()[0]}`), older));
    // Of another source it is made anew, and the one before was nobody's.
    await targetRegistry.pushes().copyReplica({ ...request, source: targetOf(other) });
    equal(kept().length, 1);
    ok(bytesEqual(Deno.readFileSync(`${directory}/b/${FILE}`), pattern(1000, 3)));
  }));

Deno.test("a copy that is asked for again fetches what changed since, no more", () =>
  withPair(async ({ copy, files, write, truncate }) => {
    await write(0, pattern(8 * MIB, 1));
    equal(await copy(), 8 * MIB);
    ok(same(files()));
    equal(await copy(), 0);
    await write(3 * MIB + 5, pattern(10, 2));
    equal(await copy(), 64 * 1024);
    ok(same(files()));
    await write(9 * MIB, pattern(10, 3));
    ok(await copy() < 1.1 * MIB);
    ok(same(files()));
    await truncate(2 * MIB + 1);
    ok(await copy() <= 64 * 1024);
    equal(files().copy.length, 2 * MIB + 1);
    ok(same(files()));
    await write(2 * MIB, new Uint8Array(100_000));
    await copy();
    ok(same(files()), "zeros over what was not");
  }));

Deno.test("a copy is made anew when it, or its source, may be another one than it was", () =>
  withPair(async ({ copy, files, write, client, source }) => {
    await write(0, pattern(2 * MIB, 1));
    await copy();
    // The source takes another generation and back: not what the copy was made of, as far as is known.
    await write(5, pattern(10, 2));
    equal(await copy(), 64 * 1024);
    const { volume } = source.volumes[0]!;
    await client.call.syncBlock({ block: BLOCK, generation: GENERATION, volume, chain: [] });
    // Closed and opened again, it has forgotten what changed when.
    const state = await client.call.replicaState({ block: BLOCK, generation: GENERATION, volume });
    const other = {
      block: BLOCK,
      generation: GENERATION,
      volume,
      since: `other.${state.state.split(".")[1]}`,
    };
    equal((await client.call.replicaChanges(other)).changed, undefined);
    ok(same(files()));
  }));

seededTest(
  "a copy that was asked for while nobody writes is exact, whatever was written before and meanwhile",
  (random) =>
    withPair(async ({ copy, files, write, truncate }) => {
      const LENGTH_MAX = 1_500_000;
      await write(0, pattern(randomInt(random, LENGTH_MAX) + 1, 1));
      for (let round = 0; round < 12; round++) {
        const copying = chance(random, 0.7) ? copy() : null;
        for (let i = randomInt(random, 6); i > 0; i--) {
          if (chance(random, 0.25)) await truncate(randomInt(random, LENGTH_MAX));
          else {
            const body = chance(random, 0.3)
              ? new Uint8Array(1 + randomInt(random, 200_000))
              : pattern(1 + randomInt(random, 100_000), randomInt(random, 1e9));
            await write(randomInt(random, LENGTH_MAX), body);
          }
        }
        await copying;
        await copy();
        ok(same(files()), `round ${round}`);
      }
    }),
);

Deno.test("a replica that is still being changed for a nameserver when the next one gets its report is reported again", () =>
  withDirectory(async (directory) => {
    await using sourceRegistry = new FakeRegistry();
    await using registry = new FakeRegistry();
    const isAsked = Promise.withResolvers<void>();
    const mayGoOn = Promise.withResolvers<void>();
    const dialer: typeof tcpDialer = {
      async dial(address, options) {
        const dialled = await tcpDialer.dial(address, options);
        const { channel } = dialled;
        const call: typeof channel.call = async (op, message, how) => {
          if (op === DATASERVER.methods.readBlock.op) {
            isAsked.resolve();
            await mayGoOn.promise;
          }
          return await channel.call(op, message, how);
        };
        return {
          ...dialled,
          channel: { call, close: () => channel.close(), closed: channel.closed } as typeof channel,
        };
      },
    };
    await using source = await start(sourceRegistry, [`${directory}/a`]);
    await using target = await start(registry, [`${directory}/b`], { dialer });
    using client = await connectTo(source);
    const at = { block: BLOCK, generation: GENERATION, volume: source.volumes[0]!.volume, chain: [] };
    await client.call.writeBlock({ ...at, offset: 0, create: true, body: pattern(1000, 1) });
    const { volume } = target.volumes[0]!;
    const request = { volume, block: BLOCK, generation: GENERATION, source: targetOf(source) };
    const copying = registry.pushes().copyReplica(request);
    copying.catch(() => {}); // who asked is gone
    await isAsked.promise;
    const reports = registry.reports.length;
    await registry.restart();
    await until(() => registry.reports.length > reports, "the report that follows the registration");
    const again = () => registry.reports.filter(({ from, to }) => from === BLOCK && to === BLOCK + 1);
    equal(again().length, 0);
    mayGoOn.resolve();
    await until(() => again().length === 1, "a report of the replica as it is now");
    deepEqual(again()[0], {
      volume,
      from: BLOCK,
      to: BLOCK + 1,
      replicas: [{ block: BLOCK, generation: 0 }],
    });
  }));
