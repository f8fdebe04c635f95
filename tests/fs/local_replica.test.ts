/** The file of a replica, read past its dataserver: which bytes are given out, and when its descriptor is closed. */

import assert from "node:assert/strict";
import * as libc from "../../base/libc.ts";
import { LocalReplica, type ReplicaFile } from "../../fs/local_replica.ts";
import { FsError } from "../../wire/errno.ts";
import { cachedBytes, dropFromCache } from "../base/page_cache.ts";
import { CHUNK, crcsOf, identityOf } from "./replica_file.ts";

const LENGTH = 3 * CHUNK + 1000;
const errno = (name: string) => (error: unknown) => error instanceof FsError && error.errno === name;

function bytesOfLength(length: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 0xff);
}

async function withFile(
  body: (
    file: ReplicaFile,
    bytes: Uint8Array<ArrayBuffer>,
    crcs: Uint8Array<ArrayBuffer>,
  ) => Promise<void>,
  length = LENGTH,
): Promise<void> {
  const directory = await Deno.makeTempDir({ dir: "/var/tmp" });
  try {
    const path = `${directory}/7.blk`;
    const bytes = bytesOfLength(length);
    await Deno.writeFile(path, bytes);
    await body({ path, identity: identityOf(path), length, chunkBytes: CHUNK }, bytes, crcsOf(bytes));
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

const scratch = new Uint8Array(LENGTH + 2 * CHUNK);
/** Ranges in chunks, over their edges, and at the end. */
const RANGES: readonly (readonly [number, number])[] = [
  [0, 4096],
  [CHUNK - 1, CHUNK + 1],
  [4096, 8192],
  [LENGTH - 1, LENGTH],
  [0, LENGTH],
  [CHUNK, 2 * CHUNK],
];

function openDescriptors(path: string): number {
  return [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${name}`) === path;
    } catch {
      return false;
    }
  }).length;
}

Deno.test("local replica: gives the bytes of any range, at once and from the disk", () =>
  withFile(async (file, bytes, crcs) => {
    const replica = await LocalReplica.open(file, crcs);
    for (const [from, to] of RANGES) {
      assert.deepEqual(
        replica.readNow(from, to, scratch),
        bytes.subarray(from, to),
        `${from} to ${to} at once`,
      );
    }
    replica.close();
    const other = await LocalReplica.open(file, crcs);
    for (const [from, to] of RANGES) {
      assert.deepEqual(await other.read(from, to), bytes.subarray(from, to), `${from} to ${to}`);
    }
    other.close();
    assert.equal(openDescriptors(file.path), 0);
  }));

Deno.test("local replica: what is not in the page cache is not waited for", () =>
  withFile(async (file, bytes, crcs) => {
    const fd = libc.open(file.path, libc.O_RDWR);
    // The kernel begins to read it all the same, and may have come to the end when it looks again.
    let replica: LocalReplica | undefined;
    for (let tries = 1; replica === undefined; tries++) {
      assert.ok(tries < 100, "it has waited each time");
      assert.ok(await dropFromCache(fd, 0, LENGTH));
      const opened = await LocalReplica.open(file, crcs);
      if (opened.readNow(0, 4096, scratch) === null) replica = opened;
      else opened.close();
    }
    libc.close(fd);
    assert.deepEqual(await replica.read(0, 4096), bytes.subarray(0, 4096));
    // All of its chunk was read, and compared.
    assert.deepEqual(replica.readNow(60_000, CHUNK, scratch), bytes.subarray(60_000, CHUNK));
    replica.close();
  }));

Deno.test("local replica: a chunk that is not what was written is refused, the others are given out", () =>
  withFile(async (file, bytes, crcs) => {
    const fd = libc.open(file.path, libc.O_RDWR);
    libc.pwrite(fd, Uint8Array.of(bytes[CHUNK + 5]! ^ 1), CHUNK + 5);
    libc.close(fd);
    const replica = await LocalReplica.open(file, crcs);
    // Also where the bytes that are asked for are good.
    assert.throws(() => replica.readNow(CHUNK, CHUNK + 1, scratch), errno("EIO"));
    await assert.rejects(replica.read(CHUNK, CHUNK + 1), errno("EIO"));
    await assert.rejects(replica.read(0, 2 * CHUNK), errno("EIO"));
    assert.deepEqual(replica.readNow(0, CHUNK, scratch), bytes.subarray(0, CHUNK));
    replica.close();
  }));

Deno.test("local replica: a file that was cut is refused, when it is opened and later", () =>
  withFile(async (file, _bytes, crcs) => {
    const replica = await LocalReplica.open(file, crcs);
    await Deno.truncate(file.path, LENGTH - 10);
    assert.equal(replica.readNow(3 * CHUNK, LENGTH, scratch), null);
    await assert.rejects(replica.read(3 * CHUNK, LENGTH), errno("EIO"));
    replica.close();
    await assert.rejects(LocalReplica.open(file, crcs), errno("EIO"));
    assert.equal(openDescriptors(file.path), 0);
  }));

Deno.test("local replica: another file of that name, or checksums of another length, are refused", () =>
  withFile(async (file, bytes, crcs) => {
    await assert.rejects(LocalReplica.open(file, crcs.subarray(4)), errno("EIO"));
    await Deno.writeFile(`${file.path}.new`, bytes);
    await Deno.rename(`${file.path}.new`, file.path);
    await assert.rejects(LocalReplica.open(file, crcs), errno("ESTALE"));
    await Deno.remove(file.path);
    await assert.rejects(LocalReplica.open(file, crcs), errno("ENOENT"));
  }));

Deno.test("local replica: it is closed when what was being read has come", () =>
  withFile(async (file, bytes, crcs) => {
    const replica = await LocalReplica.open(file, crcs);
    const reading = [replica.read(0, CHUNK), replica.read(CHUNK, LENGTH)];
    replica.close();
    replica.close();
    assert.deepEqual(await Promise.all(reading), [bytes.subarray(0, CHUNK), bytes.subarray(CHUNK)]);
    assert.equal(openDescriptors(file.path), 0);
  }));

const MIB = 1024 * 1024;
const LONG = 8 * MIB;

Deno.test("local replica: who reads in order from the disk finds what comes next in the page cache", () =>
  withFile(async (file, _bytes, crcs) => {
    const replica = await LocalReplica.open(file, crcs);
    const fd = libc.open(file.path, libc.O_RDONLY);
    assert.ok(await dropFromCache(fd, 0, LONG));
    // Far behind what the kernel's own read-ahead brings for reads that are so small.
    const far = (position: number) => cachedBytes(fd, position + 2 * MIB, MIB);
    for (const at of [5, 0, 3]) await replica.read(at * CHUNK, (at + 1) * CHUNK);
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(far(0), 0, "not in order");
    for (const at of [0, 1]) await replica.read(3 * MIB + at * CHUNK, 3 * MIB + (at + 1) * CHUNK);
    const deadline = performance.now() + 10_000;
    while (far(3 * MIB) < MIB) {
      assert.ok(performance.now() < deadline, `${far(3 * MIB)} bytes within 10 s`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    libc.close(fd);
    replica.close();
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(openDescriptors(file.path), 0);
  }, LONG));
