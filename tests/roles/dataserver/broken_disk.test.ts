/** A disk that fails to write: what was not synced by then may be gone, and must not be read as if it were there. */

import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { bytesEqual } from "../../../base/bytes.ts";
import { geteuid } from "../../../base/libc.ts";
import { type Disk, systemDisk } from "../../../roles/dataserver/disk.ts";
import { lifeOf, noteFailure } from "../../../roles/dataserver/volume_life.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asBlockId, type VolumeId } from "../../../wire/ids.ts";
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

const CHUNK = 64 * 1024;
const LATER = { finalizeIdleMs: 600_000 };
/** Written and not synced; of the second chunk a part. */
const UNSYNCED = asBlockId(1);
/** Written and synced. */
const SYNCED = asBlockId(2);
const LENGTH = CHUNK + 1000;
const errno = (name: "EIO" | "ESTALE") => (error: unknown) => isErrno(error, name);

/** The system's, until it breaks: then data is neither written nor synced. */
function breakableDisk(): {
  readonly disk: Disk;
  readonly state: { isBroken: boolean; takesNotes: boolean };
} {
  const state = { isBroken: false, takesNotes: true };
  const check = (path: string) => {
    if (state.isBroken) throw new FsError("EIO", `${path}: I/O error`, { op: "write" });
  };
  const disk: Disk = {
    ...systemDisk,
    write: async (fd, bytes, offset, path) => {
      check(path);
      await systemDisk.write(fd, bytes, offset, path);
    },
    syncData: async (fd, path) => {
      check(path);
      await systemDisk.syncData(fd, path);
    },
    // Slow, as failing disks are: who stops has to wait for it.
    replaceFile: async (directory, name, bytes) => {
      if (state.isBroken) await new Promise((resolve) => setTimeout(resolve, 200));
      if (!state.takesNotes) check(name);
      await systemDisk.replaceFile(directory, name, bytes);
    },
  };
  return { disk, state };
}

async function write(client: BlockClient, volume: VolumeId, block: number): Promise<void> {
  const what = { block: asBlockId(block), generation: GENERATION, volume, chain: [], create: true };
  const bytes = pattern(LENGTH, block);
  await client.call.writeBlock({ ...what, offset: 0, body: bytes });
  // Over a part of the last chunk, which then has no checksum.
  await client.call.writeBlock({
    ...what,
    offset: LENGTH - 20,
    body: bytes.subarray(LENGTH - 20, LENGTH - 10),
  });
}

function dataFile(path: string, block: number): string {
  return `${path}/blocks/${block.toString(16).padStart(2, "0")}/${block}.blk`;
}

/** The page cache has dropped what it could not write: zeros are there again. */
function drop(path: string, block: number, from: number, to: number): void {
  using file = Deno.openSync(dataFile(path, block), { write: true });
  file.seekSync(from, Deno.SeekMode.Start);
  file.writeSync(new Uint8Array(to - from));
}

Deno.test("a disk that fails: of what was not synced nothing is read but what matches its checksum", () =>
  withDirectory(async (directory) => {
    const path = `${directory}/v`;
    const { disk, state } = breakableDisk();
    await using registry = new FakeRegistry();
    {
      await using server = await start(registry, [path], { disk, ...LATER });
      using client = await connectTo(server);
      const { volume } = server.volumes[0]!;
      for (const block of [UNSYNCED, SYNCED]) await write(client, volume, block);
      await client.call.syncBlock({ block: SYNCED, generation: GENERATION, volume, chain: [] });
      const read = (block: number) => readAll(client, server, block, LENGTH);

      state.isBroken = true;
      await rejects(
        client.call.syncBlock({ block: UNSYNCED, generation: GENERATION, volume, chain: [] }),
        errno("EIO"),
      );
      equal(registry.corrupt.length, 0);
      ok(
        bytesEqual(
          await readAll(client, server, UNSYNCED, CHUNK),
          pattern(LENGTH, UNSYNCED).subarray(0, CHUNK),
        ),
      );
      await rejects(read(UNSYNCED), errno("EIO"), "there is no checksum of a chunk that was written in part");
      await until(() => registry.corrupt.length === 1, "it is reported");
      drop(path, UNSYNCED, 100, 200);
      await rejects(readAll(client, server, UNSYNCED, CHUNK), errno("EIO"));
      ok(bytesEqual(await read(SYNCED), pattern(LENGTH, SYNCED)), "what is on the disk can be read");
    }
    match(Deno.readTextFileSync(`${path}/failure.json`), /"why":/);

    // The dataserver is started again, and the disk works.
    await using server = await start(registry, [path], LATER);
    using client = await connectTo(server);
    await until(() => registry.reports.at(-1)?.replicas.length === 2, "a block report");
    deepEqual(registry.reports.at(-1)!.replicas.map(({ doubtful }) => doubtful), [true, true]);
    await rejects(readAll(client, server, UNSYNCED, LENGTH), errno("ESTALE"));
  }));

Deno.test("a disk that fails: that is noted on it as soon as it takes that", () =>
  withDirectory(async (directory) => {
    const path = `${directory}/v`;
    const { disk, state } = breakableDisk();
    state.takesNotes = false;
    await using registry = new FakeRegistry();
    {
      await using server = await start(registry, [path], { disk, ...LATER });
      using client = await connectTo(server);
      const { volume } = server.volumes[0]!;
      await write(client, volume, UNSYNCED);
      state.isBroken = true;
      await rejects(
        client.call.syncBlock({ block: UNSYNCED, generation: GENERATION, volume, chain: [] }),
        errno("EIO"),
      );
      const beats = registry.heartbeats.length;
      await until(() => registry.heartbeats.length > beats + 1, "it was tried");
      ok(![...Deno.readDirSync(path)].some(({ name }) => name === "failure.json"));
      state.isBroken = false;
      await until(() => [...Deno.readDirSync(path)].some(({ name }) => name === "failure.json"), "the note");
    }
    await using server = await start(registry, [path], LATER);
    await until(() => registry.reports.at(-1)?.replicas.length === 1, "a block report");
    equal(registry.reports.at(-1)!.replicas[0]!.doubtful, true);
    equal(server.volumes.length, 1);
  }));

Deno.test("a volume without room, or whose directory is away, has lost nothing: what was not synced can be read", () =>
  withDirectory(async (directory) => {
    const path = `${directory}/v`;
    await using registry = new FakeRegistry();
    await using server = await start(registry, [path], LATER);
    using client = await connectTo(server);
    await write(client, server.volumes[0]!.volume, UNSYNCED);
    Deno.renameSync(path, `${directory}/gone`);
    await until(() => registry.heartbeats.at(-1)![0]!.failed !== undefined, "the volume has failed");
    ok(bytesEqual(await readAll(client, server, UNSYNCED, LENGTH), pattern(LENGTH, UNSYNCED)));
    Deno.renameSync(`${directory}/gone`, path);
    ok(![...Deno.readDirSync(path)].some(({ name }) => name === "failure.json"));
  }));

Deno.test("life: another one after each failure", () =>
  withDirectory(async (directory) => {
    const first = await lifeOf(systemDisk, directory);
    equal(await lifeOf(systemDisk, directory), first);
    await noteFailure(systemDisk, directory, "EIO");
    const second = await lifeOf(systemDisk, directory);
    notEqual(second, first);
    equal(await lifeOf(systemDisk, directory), second);
    await noteFailure(systemDisk, directory, "EIO");
    notEqual(await lifeOf(systemDisk, directory), second);
    await noteFailure(systemDisk, `${directory}/absent`, "EIO");
  }));

const run = async (command: string, ...args: string[]) =>
  (await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()).success;
const hasLoop = geteuid() === 0 && await run("losetup", "-f") && await run("mkfs.ext4", "-V");

Deno.test(
  "life: another one when the file system is mounted anew",
  { ignore: !hasLoop },
  () =>
    withDirectory(async (directory) => {
      const [image, mountpoint] = [`${directory}/image`, `${directory}/mounted`];
      Deno.mkdirSync(mountpoint);
      ok(await run("truncate", "-s", "16M", image));
      ok(await run("mkfs.ext4", "-q", "-F", image));
      const lives: number[] = [];
      for (let i = 0; i < 2; i++) {
        ok(await run("mount", "-o", "loop", image, mountpoint));
        try {
          lives.push(await lifeOf(systemDisk, mountpoint), await lifeOf(systemDisk, mountpoint));
        } finally {
          ok(await run("umount", mountpoint));
        }
      }
      equal(lives[0], lives[1]);
      equal(lives[2], lives[3]);
      notEqual(lives[0], lives[2]);
    }),
);
