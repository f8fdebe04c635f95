/** Opening a finalized replica: what its files must be, what is told where they are not, and that nothing stays open. */

import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import * as libc from "../../../base/libc.ts";
import { CHUNK_BYTES } from "../../../roles/dataserver/chunk_table.ts";
import { type Disk, systemDisk } from "../../../roles/dataserver/disk.ts";
import type { Replica, ReplicaHost } from "../../../roles/dataserver/replica.ts";
import { openReplica } from "../../../roles/dataserver/replica_opener.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId } from "../../../wire/ids.ts";
import { GENERATION, withDirectory } from "./harness.ts";

const BLOCK = asBlockId(9);
const LENGTH = 2 * CHUNK_BYTES;

interface World {
  readonly disk: Disk;
  readonly paths: { readonly dataPath: string; readonly crcPath: string };
  /** What was told of the replica, and failures of the disk. */
  readonly told: string[];
  readonly open: Set<number>;
  openIt(disk?: Disk): Promise<Replica>;
}

function world(directory: string): World {
  const dataPath = `${directory}/9.blk`;
  const crcPath = `${directory}/9.crc`;
  Deno.writeFileSync(dataPath, new Uint8Array(LENGTH));
  Deno.writeFileSync(crcPath, new Uint8Array(8));
  const open = new Set<number>();
  const told: string[] = [];
  const disk: Disk = {
    ...systemDisk,
    open: async (path, flags) => {
      const fd = await systemDisk.open(path, flags);
      open.add(fd);
      return fd;
    },
    close: (fd) => {
      ok(open.delete(fd), "it is closed once");
      systemDisk.close(fd);
    },
  };
  const openIt = (used = disk) => {
    const host = {
      disk: used,
      mayLack: false,
      lengthChanged: () => {},
      corrupt: (_block: number, message: string) => {
        told.push(`corrupt: ${message}`);
        return new FsError("EIO", message);
      },
      writeFailed: (error: FsError) => {
        told.push(`failed: ${error.errno}`);
        return error;
      },
    };
    const paths = { block: BLOCK, directory, dataPath, crcPath };
    const record = { generation: GENERATION, state: "finalized", length: LENGTH } as const;
    return openReplica(host as unknown as ReplicaHost, paths, record);
  };
  return { disk, paths: { dataPath, crcPath }, told, open, openIt };
}

/** `disk`, of which `fail` may refuse to open, or to read, a path. */
function failing(disk: Disk, op: "open" | "read", suffix: string, errno: "EIO" | "EMFILE" | "ENOENT"): Disk {
  const refuse = (path: string, what: string) => {
    if (what === op && path.endsWith(suffix)) throw new FsError(errno, `${what} of ${suffix}: ${errno}`);
  };
  return {
    ...disk,
    open: async (path, flags) => {
      refuse(path, "open");
      return await disk.open(path, flags);
    },
    read: async (fd, buffer, offset, path) => {
      refuse(path, "read");
      return await disk.read(fd, buffer, offset, path);
    },
  };
}

Deno.test("opening a replica: its two files are opened side by side", () =>
  withDirectory(async (directory) => {
    const { disk, openIt, open } = world(directory);
    const asked: string[] = [];
    const both = Promise.withResolvers<void>();
    const replica = await openIt({
      ...disk,
      open: async (path, flags) => {
        asked.push(path.slice(-4));
        if (asked.length === 2) both.resolve();
        await both.promise;
        return await disk.open(path, flags);
      },
    });
    deepEqual(asked, [".blk", ".crc"]);
    equal(replica.length, LENGTH);
    equal(open.size, 1, "that of the data");
    replica.close();
    equal(open.size, 0);
  }));

for (
  const [what, damage, message] of [
    ["no data file", ({ paths }) => Deno.removeSync(paths.dataPath), /^corrupt: open .*\.blk: ENOENT$/],
    ["no crc file", ({ paths }) => Deno.removeSync(paths.crcPath), /^corrupt: open .*\.crc: ENOENT$/],
    [
      "neither, of which the data file is told",
      ({ paths: { dataPath, crcPath } }) => [dataPath, crcPath].forEach((path) => Deno.removeSync(path)),
      /^corrupt: open .*\.blk: ENOENT$/,
    ],
    [
      "a short crc file",
      ({ paths }) => Deno.truncateSync(paths.crcPath, 7),
      /^corrupt: .*\.crc is too short/,
    ],
    [
      "a short data file, and no crc file",
      ({ paths }) => {
        Deno.truncateSync(paths.dataPath, 7);
        Deno.removeSync(paths.crcPath);
      },
      /^corrupt: a truncated block file/,
    ],
  ] satisfies readonly (readonly [string, (world: World) => void, RegExp])[]
) {
  Deno.test(`opening a replica: ${what}: it is corrupt, which is told once, and nothing stays open`, () =>
    withDirectory(async (directory) => {
      const one = world(directory);
      damage(one);
      await rejects(one.openIt());
      equal(one.told.length, 1);
      ok(message.test(one.told[0]!), one.told[0]);
      equal(one.open.size, 0);
    }));
}

for (
  const [op, suffix, errno, told] of [
    ["open", ".blk", "EIO", ["corrupt: open of .blk: EIO"]],
    ["open", ".blk", "EMFILE", ["failed: EMFILE"]],
    ["open", ".crc", "EIO", ["corrupt: open of .crc: EIO"]],
    ["read", ".crc", "EIO", ["corrupt: read of .crc: EIO"]],
    ["open", ".crc", "EMFILE", []],
  ] as const
) {
  Deno.test(`opening a replica: ${errno} at the ${op} of ${suffix}`, () =>
    withDirectory(async (directory) => {
      const one = world(directory);
      const disk = failing(one.disk, op, suffix, errno);
      const expected = told[0]?.startsWith("corrupt") ? "EIO" : errno;
      await rejects(one.openIt(disk), (error) => error instanceof FsError && error.errno === expected);
      deepEqual(one.told, told);
      equal(one.open.size, 0);
    }));
}

Deno.test("opening what the kernel has at hand: it can be written to; nothing is made", () =>
  withDirectory((directory) => {
    const path = `${directory}/x`;
    ok(libc.openCached(path, libc.O_RDONLY) < 0);
    Deno.writeTextFileSync(path, "abc");
    const fd = libc.openCached(path, libc.O_RDWR);
    ok(fd >= 0, `${fd}`);
    equal(libc.pwrite(fd, Uint8Array.of(0x78), 1), 1);
    libc.close(fd);
    equal(Deno.readTextFileSync(path), "axc");
    return Promise.resolve();
  }));
