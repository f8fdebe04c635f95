import { equal, ok } from "node:assert/strict";
import * as libc from "../../../base/libc.ts";
import { silentLogger } from "../../../base/log.ts";
import { asBlockId, type BlockId } from "../../../wire/ids.ts";
import { Scrubber } from "../../../roles/dataserver/scrubber.ts";
import type { Volume } from "../../../roles/dataserver/volume.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { cachedBytes, dropFromCache } from "../../base/page_cache.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  readAll,
  start,
  until,
  withDirectory,
} from "./harness.ts";

const MIB = 1024 * 1024;
/** 300 % 256 = 0x2c. */
const BLOCK = 300;
const FILE = "blocks/2c/300.blk";

async function write(client: BlockClient, volume: number, block: number, body: Uint8Array, offset = 0) {
  const at = { block: asBlockId(block), generation: GENERATION, volume: volume as never };
  await client.call.writeBlock({ ...at, offset, chain: [], create: true, body });
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

for (const state of ["finalized", "writing"] as const) {
  Deno.test(`the scrubber reads replicas that are in use and proven, ${state} ones`, () =>
    withDirectory(async (directory) => {
      await using registry = new FakeRegistry();
      const options = { scrubPeriodMs: 300, finalizeIdleMs: state === "writing" ? 60_000 : 20 };
      await using server = await start(registry, [`${directory}/v`], options);
      using client = await connectTo(server);
      await write(client, server.volumes[0]!.volume, BLOCK, pattern(3 * MIB, 1));
      const scrub = () => registry.heartbeats.at(-1)?.[0]?.scrub;
      await until(() => scrub()?.lastPass !== undefined, "a whole pass");
      await readAll(client, server, BLOCK, 3 * MIB);
      equal(registry.corrupt.length, 0);
      flipByte(`${directory}/v/${FILE}`, 2 * MIB + 77);
      await until(() => registry.corrupt.length === 1, "found");
      equal(registry.corrupt[0]!.block, BLOCK);
      const figure = (name: string) =>
        server.metrics().find((metric) => metric.name === name)?.samples[0]?.value ?? NaN;
      // What is known to be corrupt is not counted again.
      await until(() => figure("mfs_scrub_last_pass_timestamp_seconds") > 0, "a pass in the figures");
      equal(figure("mfs_scrub_errors_total"), 1);
      ok(figure("mfs_scrub_bytes_total") >= 2 * MIB, "all before the flipped byte");
      equal(figure("mfs_scrub_period_seconds"), 0.3);
      ok(figure("mfs_scrub_progress_ratio") >= 0 && figure("mfs_scrub_progress_ratio") <= 1);
    }));
}

Deno.test("the scrubber leaves the page cache as it was", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/v`], {
      scrubPeriodMs: 500,
      finalizeIdleMs: 20,
    });
    using client = await connectTo(server);
    for (let i = 0; i < 8; i++) {
      await write(client, server.volumes[0]!.volume, BLOCK, pattern(MIB, i), i * MIB);
    }
    const fd = libc.open(`${directory}/v/${FILE}`, libc.O_RDONLY);
    try {
      ok(cachedBytes(fd, 0, 8 * MIB) > 0);
      if (!await dropFromCache(fd, 0, 8 * MIB)) return; // a file system that lives in memory
      const passes = new Set<number>();
      await until(() => {
        const { lastPass } = registry.heartbeats.at(-1)?.[0]?.scrub ?? {};
        if (lastPass !== undefined) passes.add(lastPass);
        return passes.size >= 2;
      }, "two passes");
      // Between two passes, as one holds what it reads.
      await until(() => cachedBytes(fd, 0, 8 * MIB) < 2 * MIB, "nothing left behind");
    } finally {
      libc.close(fd);
    }
  }));

/** A volume of which the scrubber sees only the sizes of its replicas. */
function volumeOf(sizes: readonly number[]) {
  const files = new Map<string, string>();
  const reads: { readonly block: BlockId; readonly offset: number }[] = [];
  const volume = {
    path: "/v",
    log: silentLogger,
    failed: undefined as string | undefined,
    usedBytes: sizes.reduce((sum, size) => sum + size, 0),
    blocks: sizes.length,
    records: {
      page: (from: number, limit: number) =>
        Promise.resolve(
          sizes.map((_, i) => ({ block: asBlockId(i + 1) })).filter(({ block }) => block >= from).slice(
            0,
            limit,
          ),
        ),
    },
    scrub(block: BlockId, offset: number) {
      reads.push({ block, offset });
      return Promise.resolve(sizes[block - 1]!);
    },
    disk: {
      readText: (path: string) =>
        files.has(path) ? Promise.resolve(files.get(path)!) : Promise.reject(new Deno.errors.NotFound(path)),
      replaceFile: (directory: string, name: string, content: Uint8Array) => {
        files.set(`${directory}/${name}`, new TextDecoder().decode(content));
        return Promise.resolve();
      },
    },
  };
  return { volume: volume as unknown as Volume, mutable: volume, reads };
}

/** Runs a scrubber for `ms`, then stops it. */
async function scrubFor(
  ms: number,
  volume: Volume,
  options: { readonly periodMs: number; readonly bytesPerSecond: number },
  clock = new FakeClock(),
): Promise<Scrubber> {
  const { periodMs, bytesPerSecond } = options;
  const scrubber = new Scrubber(volume, { periodMs, bytesPerSecond: () => bytesPerSecond, clock });
  const abort = new AbortController();
  const running = scrubber.run(abort.signal);
  await clock.advance(ms);
  abort.abort();
  await running;
  return scrubber;
}

const DAY_MS = 86_400_000;

Deno.test("a pass takes its period: of large replicas, of many small ones, of none", async () => {
  for (const sizes of [[...Array(50).fill(6 * MIB), 0], Array(2_000).fill(100), []]) {
    const { volume, reads } = volumeOf(sizes);
    const options = { periodMs: DAY_MS, bytesPerSecond: 32 * MIB };
    const half = await scrubFor(DAY_MS / 2, volume, options);
    const { progress, lastPass } = half.status()!;
    if (sizes.length > 0) {
      ok(progress > 0.4 && progress < 0.6, `${progress} of ${sizes.length}`);
      equal(lastPass, undefined);
    }
    const count = reads.length;
    // Another process goes on from there.
    const whole = await scrubFor(DAY_MS * 0.6, volume, options);
    ok(whole.status()!.lastPass !== undefined, `no end of a pass over ${sizes.length}`);
    ok(reads.length < 2.3 * count + 1, "and reads nothing twice");
    equal(new Set(reads.map(({ block }) => block)).size, sizes.length);
  }
});

Deno.test("another period counts at once: a longer one, a shorter one, none, one again", async () => {
  const { volume, reads } = volumeOf(Array(50).fill(6 * MIB));
  let periodMs = DAY_MS;
  const clock = new FakeClock();
  const scrubber = new Scrubber(volume, {
    ...{ periodMs: () => periodMs, bytesPerSecond: () => 32 * MIB, clock },
  });
  const abort = new AbortController();
  const running = scrubber.run(abort.signal);
  const readsIn = async (ms: number) => {
    const before = reads.length;
    await clock.advance(ms);
    return reads.length - before;
  };
  const inTwoHours = await readsIn(DAY_MS / 12);
  ok(inTwoHours > 15 && inTwoHours < 40, `${inTwoHours} of 300 in a twelfth of the period`);
  periodMs = 365 * DAY_MS;
  await clock.advance(30_000);
  ok(await readsIn(DAY_MS / 12) <= 2, "a year for a pass");
  periodMs = DAY_MS / 24;
  await clock.advance(30_000);
  ok(await readsIn(DAY_MS / 24) > 200, "an hour for a pass");
  periodMs = 0;
  await clock.advance(30_000);
  equal(await readsIn(DAY_MS / 24), 0);
  equal(scrubber.status(), undefined);
  periodMs = DAY_MS / 24;
  await clock.advance(30_000);
  ok(await readsIn(DAY_MS / 24) > 200, "on again");
  abort.abort();
  await running;
});

Deno.test("the rate is a bound, whatever the period; off is off; a failed disk is left alone", async () => {
  const { volume, mutable, reads } = volumeOf([1000 * MIB]);
  await scrubFor(10_000, volume, { periodMs: 1, bytesPerSecond: 10 * MIB });
  ok(reads.length > 90 && reads.length <= 112, `${reads.length} MiB in 10 s`);
  const count = reads.length;
  const off = await scrubFor(10_000, volume, { periodMs: 0, bytesPerSecond: 10 * MIB });
  equal(off.status(), undefined);
  equal(off.figures(), undefined);
  mutable.failed = "gone";
  await scrubFor(10_000, volume, { periodMs: 1, bytesPerSecond: 10 * MIB });
  equal(reads.length, count);
});
