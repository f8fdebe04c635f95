import { equal, ok, rejects } from "node:assert/strict";
import { geteuid } from "../../../base/libc.ts";
import { silentLogger } from "../../../base/log.ts";
import { Volume, type VolumeParts } from "../../../roles/dataserver/volume.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asBlockId } from "../../../wire/ids.ts";
import { FakeClock, settle } from "../../base/fake_clock.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  recordingLogger,
  start,
  until,
  withDirectory,
} from "./harness.ts";

const MIB = 1024 * 1024;

async function write(client: BlockClient, volume: number, block: number, mebibytes = 1) {
  const at = { block: asBlockId(block), generation: GENERATION, volume: volume as never };
  for (let i = 0; i < mebibytes; i++) {
    await client.call.writeBlock({
      ...at,
      offset: i * MIB,
      chain: [],
      create: true,
      body: pattern(MIB, block),
    });
  }
}

/** Runs `test` in a file system of `megabytes`. */
async function inSmallFileSystem(
  megabytes: number,
  test: (directory: string) => Promise<void>,
): Promise<void> {
  const run = async (command: string, ...args: string[]) => {
    const { success, stderr } = await new Deno.Command(command, { args }).output();
    ok(success, new TextDecoder().decode(stderr));
  };
  await withDirectory(async (directory) => {
    await run("mount", "-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", directory);
    try {
      await test(directory);
    } finally {
      await run("umount", "-l", directory);
    }
  });
}

Deno.test("what is in trash counts as free, and goes when there is need, the oldest first", {
  ignore: geteuid() !== 0,
}, () =>
  inSmallFileSystem(24, async (directory) => {
    await using registry = new FakeRegistry();
    const path = `${directory}/v`;
    const stats = () => registry.heartbeats.findLast((volumes) => volumes.length > 0)![0]!;
    const names = () => [...Deno.readDirSync(`${path}/trash`)].map(({ name }) => name);
    {
      await using server = await start(registry, [path]);
      using client = await connectTo(server);
      // One of those in trash is room enough for a write and for what is kept free besides, however full it is then.
      const isForTrash = (block: number) => block === 3 || block === 5;
      for (let block = 1; block <= 8; block++) {
        await write(client, server.volumes[0]!.volume, block, isForTrash(block) ? 2 : 1);
      }
      await until(() => registry.heartbeats.at(-1)?.[0]?.blocks === 8, "a heartbeat");
    }
    // Two reports on two days: the nameserver does not know the one, then the other.
    const free = stats().freeBytes;
    for (const block of [3, 5]) {
      registry.answerReport = () => ({ stale: [], unknown: [asBlockId(block)] });
      await using _server = await start(registry, [path]);
      await until(() => names().some((name) => name.startsWith(`${block}.`)), "kept aside");
    }
    registry.answerReport = () => ({ stale: [], unknown: [] });
    const { log, lines } = recordingLogger();
    await using server = await start(registry, [path], { log });
    using client = await connectTo(server);
    const { volume } = server.volumes[0]!;
    const beats = registry.heartbeats.length;
    await until(() => registry.heartbeats.length > beats + 1 && stats().trashBytes! > 4 * MIB, "counted");
    ok(stats().trashBytes! < 4.1 * MIB);
    equal(stats().usedBytes, 6 * MIB);
    // Three starts have left logs of the database.
    ok(
      Math.abs(stats().freeBytes - free - 4 * MIB) < 2 * MIB,
      `${free} free before, ${stats().freeBytes} now`,
    );

    const emptied = () => lines.filter((line) => line.includes("its trash was emptied early")).length;
    let block = 100;
    while (emptied() === 0) await write(client, volume, block++);
    ok(names().some((name) => name.startsWith("5.")) && !names().some((name) => name.startsWith("3.")));
    // Then the other, and then there is no room.
    await rejects(async () => {
      while (block < 200) await write(client, volume, block++);
    }, (error) => isErrno(error, "ENOSPC"));
    equal(emptied(), 2);
    equal(names().length, 0);
    await until(() => stats().trashBytes === 0, "told");
    equal(stats().failed, undefined);
  }));

Deno.test("trash: who needs more room than it is just being emptied for gets that", async () => {
  let free = 0;
  const trash = {
    bytes: 8,
    async makeRoom(isEnough: () => boolean) {
      for (; trash.bytes > 0 && !isEnough(); trash.bytes--) {
        await settle();
        free++;
      }
    },
  };
  const space = {
    has: (bytes: number) => free >= bytes,
    demand(bytes: number) {
      if (free < bytes) throw new FsError("ENOSPC", "full");
    },
  };
  const records = { get: () => Promise.resolve(undefined) };
  const parts = { path: "/v", disk: {}, identity: {}, records, trash, space, log: silentLogger };
  const volume = new Volume({ ...parts, clock: new FakeClock() } as unknown as VolumeParts);
  const writing = [2, 5, 3].map((length) =>
    volume.write(asBlockId(1), GENERATION, 0, new Uint8Array(length), false)
  );
  // There is no such replica, which is found out when there is room.
  for (const write of writing) await rejects(write, (error) => isErrno(error, "ENOENT"));
  equal(trash.bytes, 3);
  await rejects(
    volume.write(asBlockId(1), GENERATION, 0, new Uint8Array(9), false),
    (error) => isErrno(error, "ENOSPC"),
  );
});
