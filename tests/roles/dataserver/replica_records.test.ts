/** The volume's database on a disk that is full, as other programs on it may make it. */

import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { geteuid } from "../../../base/libc.ts";
import { systemDisk } from "../../../roles/dataserver/disk.ts";
import type { ReplicaRecords } from "../../../roles/dataserver/replica_records.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asBlockId, asGeneration } from "../../../wire/ids.ts";
import {
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
const ignore = geteuid() !== 0;

/** Runs `test` in a file system of its own, which it can fill and make room in. */
async function onSmallDisk(
  test: (directory: string, setFull: (full: boolean) => Promise<void>) => Promise<void>,
): Promise<void> {
  const run = async (command: string, ...args: string[]) => {
    const { success, stderr } = await new Deno.Command(command, { args }).output();
    ok(success, new TextDecoder().decode(stderr));
  };
  await withDirectory(async (directory) => {
    await run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory);
    const ballast = `${directory}/ballast`;
    const setFull = async (full: boolean) => {
      if (!full) return await Deno.remove(ballast);
      using file = Deno.openSync(ballast, { write: true, create: true });
      try {
        for (;;) file.writeSync(new Uint8Array(4096));
      } catch (error) {
        match(String(error), /No space/);
      }
    };
    try {
      await test(directory, setFull);
    } finally {
      await run("umount", "-l", directory);
    }
  });
}

const put = (records: ReplicaRecords, block: number, durable: boolean) =>
  records.put([{
    block: asBlockId(block),
    record: { generation: asGeneration(1), state: "finalized", length: block },
  }], durable);

Deno.test("records: all that was acknowledged is there after a start, when the disk was full for a while", {
  ignore,
}, () =>
  onSmallDisk(async (directory, setFull) => {
    const path = `${directory}/meta`;
    await Deno.mkdir(path);
    const known: number[] = [];
    const records = await systemDisk.openRecords(path, "label", 1);
    const putMany = async (from: number) => {
      const blocks = Array.from({ length: 300 }, (_, i) => from + i);
      const results = await Promise.allSettled(blocks.map((block) => put(records, block, block % 2 === 0)));
      results.forEach(({ status }, i) => status === "fulfilled" && known.push(blocks[i]!));
      return results.filter(({ status }) => status === "rejected").length;
    };
    equal(await putMany(1), 0);
    await setFull(true);
    for (let from = 1_000; await putMany(from) === 0; from += 300);
    await setFull(false);
    await rejects(put(records, 100_000, false), (error) =>
      isErrno(error, "EIO") && /start the dataserver again/.test(error.message));
    await putMany(200_000);
    await records.close();
    const again = await systemDisk.openRecords(path, "label", 1);
    const found = (await again.page(0, 1_000_000)).map(({ block }) =>
      Number(block)
    );
    await again.close();
    deepEqual(known.filter((block) => !found.includes(block)), []);
  }));

Deno.test(
  "a volume whose database could not be written has failed until its dataserver starts again, and lacks nothing then",
  { ignore },
  () =>
    onSmallDisk(async (directory, setFull) => {
      await using registry = new FakeRegistry();
      const paths = [`${directory}/v`];
      const bytes = pattern(MIB, 1);
      const write = async (client: Awaited<ReturnType<typeof connectTo>>, volume: number, block: number) =>
        await client.call.writeBlock({
          ...{ block: asBlockId(block), generation: GENERATION, volume: volume as never },
          ...{ offset: 0, chain: [], create: true, body: bytes },
        });
      let generation = GENERATION;
      {
        await using server = await start(registry, paths);
        using client = await connectTo(server);
        const { volume } = server.volumes[0]!;
        await write(client, volume, 1);
        await setFull(true);
        await rejects(async () => {
          for (;;) {
            const to = asGeneration(generation + 1);
            await registry.pushes().setGeneration({ volume, block: asBlockId(1), from: generation, to });
            generation = to;
          }
        }, (error) => error instanceof FsError && error.errno === "EIO");
        await until(() => registry.heartbeats.at(-1)?.[0]?.failed !== undefined, "told");
        await setFull(false);
        await rejects(write(client, volume, 2), (error) => isErrno(error, "EIO"));
        ok(Deno.statSync(`${directory}/v`).isDirectory);
        equal((await readAll(client, server, asBlockId(1), MIB, generation)).length, MIB);
      }
      await using server = await start(registry, paths);
      using client = await connectTo(server);
      deepEqual(await readAll(client, server, asBlockId(1), MIB, generation), bytes);
      await write(client, server.volumes[0]!.volume, 2);
    }),
);
