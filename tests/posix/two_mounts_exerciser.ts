/**
 * A child program: random operations on a few files through two mounts of one cluster, one operation after the
 * other, compared with what the files must hold by then.
 *
 *     two_mounts_exerciser.ts MOUNT1 MOUNT2 SEED OPERATIONS [--away] [--only LIST]
 *
 * The files are open on both mounts. What was changed through one must be seen through the other's descriptors, and
 * through new ones, as soon as the change has returned: a wrong byte or a wrong length read is a difference at once.
 * Attributes get one more look after CACHE_MS, the time for which the kernel may keep them.
 * --away: files are also left alone by a mount for a while, so that the other one's writes are buffered.
 */

import * as libc from "../../base/libc.ts";
import { randomInt, type SeededRandom } from "../../base/random.ts";
import { pick } from "../base/seeded.ts";
import { Journal, parseArguments, randomOf, weighted } from "./exerciser.ts";
import * as sys from "./system_calls.ts";
import { FileModel } from "./file_model.ts";

const FILES = 2;
const OFFSET_MAX = 700_000;
const LENGTH_MAX = 60_000;
const APPEND_BYTES = 100;
const CACHE_MS = 1_100;
const PUNCH = libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE;

const WEIGHTS = {
  write: 8,
  read: 10,
  readAll: 2,
  append: 5,
  truncate: 4,
  truncateByName: 1,
  punch: 2,
  allocate: 2,
  reopen: 4,
  stat: 3,
  statByName: 2,
  fsync: 1,
};

interface Sample {
  readonly name: string;
  readonly model: FileModel;
  /** Descriptors by mount; undefined: closed there. */
  readonly fds: (number | undefined)[];
}

const { positional, flags, only } = parseArguments(
  "two_mounts_exerciser.ts MOUNT1 MOUNT2 SEED OPERATIONS [--away] [--only LIST]",
  4,
  ["--away"],
);
const mounts = positional.slice(0, 2);
const [seed, operations] = [Number(positional[2]), Number(positional[3])];
const isAwayAllowed = flags.has("--away");
const journal = new Journal(seed);
const buffer = new Uint8Array(4 << 20);
/** The operations that needed a second look at attributes. */
const late: number[] = [];
let operation = 0;

function expect(result: number, what: string): number {
  if (result < 0) journal.differ(`${what}: errno ${-result}`);
  return result;
}

function pathOf(file: Sample, mount: number): string {
  return `${mounts[mount]}/${file.name}`;
}

function descriptor(file: Sample, mount: number): number {
  return file.fds[mount] ??= expect(libc.open(pathOf(file, mount), libc.O_RDWR), "open");
}

function close(file: Sample, mount: number): void {
  const fd = file.fds[mount];
  file.fds[mount] = undefined;
  if (fd !== undefined) expect(libc.close(fd), "close");
}

function checkRead(file: Sample, mount: number, offset: number, length: number): void {
  const view = buffer.subarray(0, length);
  const count = expect(libc.pread(descriptor(file, mount), view, offset), "read");
  const right = file.model.read(offset, length);
  let at = 0;
  while (at < Math.min(count, right.length) && view[at] === right[at]) at++;
  if (at < Math.min(count, right.length)) {
    journal.differ(
      `read of ${length} bytes at ${offset}: wrong from ${offset + at} on (${view[at]}, not ${right[at]})`,
    );
  }
  if (count !== right.length) {
    journal.differ(
      `read of ${length} bytes at ${offset}: ${count} bytes, not ${right.length} (size ${file.model.size})`,
    );
  }
}

async function checkSize(what: string | number, right: number): Promise<void> {
  for (let look = 1;; look++) {
    const status = sys.status(what);
    if (typeof status === "number") return journal.differ(`stat: errno ${-status}`);
    if (status.size === right) return;
    if (look === 2) journal.differ(`size ${status.size} after ${CACHE_MS} ms, not ${right}`);
    await new Promise((resolve) => setTimeout(resolve, CACHE_MS));
    late.push(operation);
  }
}

function drawData(random: SeededRandom, length: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = randomInt(random, 0xffffffff) | 1;
  for (let i = 0; i < words.length; i++) {
    // xorshift32 (Marsaglia)
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

function append(file: Sample, mount: number, data: Uint8Array<ArrayBuffer>): void {
  const fd = expect(libc.open(pathOf(file, mount), libc.O_WRONLY | libc.O_APPEND), "open to append");
  const count = expect(libc.write(fd, data), "append");
  if (count !== data.length) journal.differ(`append: ${count} bytes, not ${data.length}`);
  expect(libc.close(fd), "close after append");
  file.model.write(file.model.size, data);
}

async function runOperation(number: number): Promise<void> {
  const random = randomOf(seed, number);
  const kind = weighted(random, WEIGHTS);
  const file = files[randomInt(random, FILES)]!;
  const mount = randomInt(random, 2);
  const offset = randomInt(random, OFFSET_MAX);
  const length = pick(random, [
    1,
    4096,
    1 + randomInt(random, LENGTH_MAX),
    1 + randomInt(random, LENGTH_MAX),
  ]);
  const { model } = file;
  journal.note(`${number} ${file.name} mount ${mount + 1} (${model.size} bytes) ${kind} ${offset} ${length}`);
  switch (kind) {
    case "write": {
      const data = drawData(random, length);
      const count = expect(libc.pwrite(descriptor(file, mount), data, offset), "write");
      if (count !== length) journal.differ(`write: ${count} bytes, not ${length}`);
      return model.write(offset, data);
    }
    case "read":
      return checkRead(file, mount, offset, length);
    case "readAll":
      return checkRead(file, mount, 0, model.size + 10);
    case "append":
      return append(file, mount, drawData(random, APPEND_BYTES));
    case "truncate":
      expect(libc.ftruncate(descriptor(file, mount), offset), "ftruncate");
      return model.resize(offset);
    case "truncateByName":
      expect(sys.truncate(pathOf(file, mount), offset), "truncate");
      return model.resize(offset);
    case "punch":
      expect(libc.fallocate(descriptor(file, mount), PUNCH, offset, length), "fallocate");
      return model.zero(offset, offset + length);
    case "allocate":
      expect(libc.fallocate(descriptor(file, mount), 0, offset, length), "fallocate");
      return model.resize(Math.max(model.size, offset + length));
    case "reopen":
      close(file, mount);
      if (!isAwayAllowed) descriptor(file, mount);
      return;
    case "stat":
      return await checkSize(descriptor(file, mount), model.size);
    case "statByName":
      return await checkSize(pathOf(file, mount), model.size);
    case "fsync":
      expect(await libc.fsyncAsync(descriptor(file, mount)), "fsync");
      return;
  }
}

const files = Array.from({ length: FILES }, (_, i): Sample => {
  // A name that was never used before: what a mount knows of names may be a second old.
  const file: Sample = {
    name: `two-${seed}-${Deno.pid}-${i}`,
    model: new FileModel(),
    fds: [undefined, undefined],
  };
  expect(
    libc.close(
      expect(libc.open(pathOf(file, 0), libc.O_CREAT | libc.O_RDWR | libc.O_TRUNC, 0o644), "create"),
    ),
    "close",
  );
  return file;
});
if (!isAwayAllowed) { for (const file of files) for (const mount of [0, 1]) descriptor(file, mount); }

for (; operation < operations; operation++) {
  if (only?.has(operation) !== false) await runOperation(operation);
}
for (const file of files) {
  for (const mount of [0, 1]) {
    for (const how of ["as it is", "opened again"]) {
      journal.note(`the end: ${file.name} mount ${mount + 1} (${file.model.size} bytes) readAll, ${how}`);
      checkRead(file, mount, 0, file.model.size + 10);
      close(file, mount);
    }
  }
  expect(sys.unlink(pathOf(file, 1)), "unlink");
}
console.log(`ok: ${operations} operations, attributes late at [${late}]`);
