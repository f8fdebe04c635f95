/**
 * Reading ahead in small files: when it begins and how far it goes, what is answered from it, and what ends it. The dataserver
 * says something else each time that a test changes `fill`, so that a read shows when its bytes were asked for.
 */

import assert from "node:assert/strict";
import type { Handle } from "../../fs/files.ts";
import type { Inode } from "../../fs/inode.ts";
import { FsError } from "../../wire/errno.ts";
import { asInodeId } from "../../wire/ids.ts";
import { type Attributes, S_IFDIR } from "../../wire/messages/inode.ts";
import {
  acquireReply,
  blockOf,
  gate,
  inodeReply,
  know,
  nameOf,
  PATIENT,
  quiet,
  READ_ONLY,
  recall,
  ROOT,
  startClient,
  type TestClient,
  watch,
  WRITING,
} from "./client.ts";

const SIZE = 10_000;
const BEFORE = 7;
const AFTER = 8;
const WINDOW = 8;
const HOW = { append: false, isWriteback: false, isSynced: false, killSuidGid: false };
const inoOf = (i: number) => asInodeId(1_000 + i);

/** What a reply says of file `i`, which has block `i`. */
function fileReply(i: number, changes: Partial<Attributes> = {}) {
  return { ...inodeReply(inoOf(i), "read", { size: SIZE, ...changes }), blocks: [blockOf(i, 0, 1 << 26)] };
}

/** Files [from, to), as one answer lists them and the kernel knows them. */
function list(
  client: TestClient,
  from: number,
  to: number,
  changes: Readonly<Record<number, Partial<Attributes>>> = {},
): Inode[] {
  const { table, readAhead } = client;
  const inodes: Inode[] = [];
  for (let i = from; i < to; i++) {
    const inode = table.adopt(fileReply(i, changes[i]), table.moment);
    inode.lookups = 1;
    inodes.push(inode);
  }
  readAhead.listed(inodes);
  return inodes;
}

function asked({ dataservers }: TestClient): number[] {
  return dataservers.reads.splice(0).map(({ block }) => block);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

function openFile({ files }: TestClient, i: number, how = READ_ONLY): Handle {
  const handle = files.open(inoOf(i), how, PATIENT);
  assert.ok(!(handle instanceof Promise), "it is opened without asking");
  return handle;
}

/** What the kernel does for a program that reads a file: its bytes, and whether they were there at once. */
async function readOpen(
  { files }: TestClient,
  handle: Handle,
  offset = 0,
  size = 131_072,
): Promise<{ readonly bytes: Uint8Array; readonly isNow: boolean }> {
  const now = files.readNow(handle, offset, size, false);
  if (now !== null) return { bytes: now, isNow: true };
  const parts = await files.read(handle, offset, size, false, PATIENT);
  return { bytes: Uint8Array.from(parts.flatMap((part) => [...part])), isNow: false };
}

async function read(
  client: TestClient,
  i: number,
): Promise<{ readonly value: number; readonly isNow: boolean }> {
  const handle = openFile(client, i);
  const { bytes, isNow } = await readOpen(client, handle);
  await client.files.close(handle);
  await quiet();
  assert.equal(bytes.length, handle.file.size);
  assert.ok(bytes.every((byte) => byte === bytes[0]));
  return { value: bytes[0]!, isNow };
}

/** 20 files, of which the first three were read: 3 to 10 are there. */
async function started(): Promise<TestClient> {
  const client = startClient();
  list(client, 0, 20);
  for (let i = 0; i < 3; i++) await read(client, i);
  assert.deepEqual(asked(client), range(0, 3 + WINDOW));
  return client;
}

Deno.test("file read-ahead: after three files in a row the next ones are fetched whole, and read at once", async () => {
  const client = startClient();
  list(client, 0, 20);
  assert.deepEqual(await read(client, 0), { value: BEFORE, isNow: false });
  assert.deepEqual(await read(client, 1), { value: BEFORE, isNow: false });
  assert.deepEqual(asked(client), [0, 1]);
  await read(client, 2);
  assert.deepEqual(client.dataservers.reads.map(({ offset, length }) => [offset, length]), [
    ...Array.from({ length: 1 + WINDOW }, () => [0, SIZE]),
  ]);
  assert.deepEqual(asked(client), range(2, 3 + WINDOW));
  assert.deepEqual(await read(client, 3), { value: BEFORE, isNow: true });
  assert.deepEqual(asked(client), [3 + WINDOW], "one more for each that is read");
  for (let i = 4; i < 20; i++) assert.equal((await read(client, i)).isNow, true, `${i}`);
  assert.deepEqual(asked(client), range(4 + WINDOW, 20));
  assert.deepEqual(client.reader.counts, { cached: 0, disk: 0, served: 3, ahead: 17 });
  assert.equal(client.table.get(inoOf(3))!.hasPages, true, "the kernel has them now");
});

Deno.test("file read-ahead: files out of order, or of which only a part is read, are no reason to begin", async () => {
  for (const order of [[4, 2, 0, 6, 5], [0, 2, 4, 6, 8]]) {
    const client = startClient();
    list(client, 0, 20);
    for (const i of order) await read(client, i);
    assert.deepEqual(asked(client), order);
  }
  const client = startClient();
  list(client, 0, 20);
  for (let i = 0; i < 5; i++) await readOpen(client, openFile(client, i), 0, 4096);
  for (let i = 5; i < 10; i++) await readOpen(client, openFile(client, i), 4096);
  assert.deepEqual(asked(client), range(0, 10));
});

Deno.test("file read-ahead: a file that is read in several pieces counts once, at its end", async () => {
  const client = startClient();
  list(client, 0, 20);
  for (let i = 0; i < 4; i++) {
    const handle = openFile(client, i);
    const first = await readOpen(client, handle, 0, 4096);
    const rest = await readOpen(client, handle, 4096, 16_384);
    assert.deepEqual([first.bytes.length, rest.bytes.length, first.isNow, rest.isNow], [
      ...[4096, SIZE - 4096, i === 3, i === 3],
    ]);
    await quiet();
  }
  assert.deepEqual(asked(client), [0, 0, 1, 1, 2, 2, ...range(3, 4 + WINDOW)]);
});

Deno.test("file read-ahead: what the kernel has, what is large, empty or kept by the nameserver is passed over", async () => {
  const client = startClient();
  const inodes = list(client, 0, 12, {
    1: { size: 65_537 },
    4: { inlineBytes: SIZE },
    5: { size: 0 },
    6: { size: 65_536 },
    8: { size: 100_000 },
  });
  inodes[2]!.hasPages = true;
  inodes[9]!.hasPages = true;
  inodes[10]!.blocks!.clear();
  inodes[11]!.blocks!.learn(0, SIZE, [blockOf(11, 0, 4096), blockOf(111, 4096, 1 << 20)]);
  client.table.inline.keep(inodes[4]!, new Uint8Array(SIZE));
  for (const i of [0, 3, 4]) await read(client, i);
  assert.deepEqual(asked(client), [0, 3, 6, 7]);
});

Deno.test("file read-ahead: a walk through directories goes on from one to the next", async () => {
  const client = await started();
  for (let i = 3; i < 20; i++) await read(client, i);
  asked(client);
  list(client, 30, 50);
  await read(client, 30);
  assert.deepEqual(asked(client), range(30, 31 + WINDOW));
  for (const i of [31, 32]) await read(client, i);
  asked(client);
  list(client, 50, 52); // a directory below, after which the one above goes on
  assert.deepEqual([(await read(client, 50)).isNow, (await read(client, 51)).isNow], [false, true]);
  assert.deepEqual(asked(client), [50, 51]);
  await read(client, 33);
  assert.deepEqual(asked(client), [33 + WINDOW]);
});

Deno.test("file read-ahead: a walk goes on behind small directories, and ends where one is left at its beginning", async () => {
  const client = startClient();
  for (let at = 0; at < 10; at += 2) list(client, at, at + 2);
  for (let i = 0; i < 10; i++) assert.equal((await read(client, i)).isNow, i > 2 && i % 2 === 1, `${i}`);
  list(client, 20, 40);
  list(client, 40, 60);
  asked(client);
  await read(client, 20);
  assert.deepEqual(asked(client), range(20, 21 + WINDOW));
  await read(client, 40);
  assert.deepEqual(asked(client), [40]);
});

Deno.test("file read-ahead: who reads a few files of each directory does not begin it", async () => {
  const client = startClient();
  for (const at of [0, 100, 200, 300, 400]) list(client, at, at + 20);
  for (const i of [0, 100, 101, 200, 300, 301, 400]) await read(client, i);
  assert.deepEqual(asked(client), [0, 100, 101, 200, 300, 301, 400]);
});

Deno.test("file read-ahead: who reads goes on when what is on its way comes, and nobody is asked twice", async () => {
  const client = startClient();
  list(client, 0, 20);
  const coming = gate();
  client.dataservers.onRead = (_address, _generation, block) => block > 2 ? coming.opened : Promise.resolve();
  for (let i = 0; i < 3; i++) await read(client, i);
  asked(client);
  const reading = watch(read(client, 3));
  await quiet();
  assert.equal(reading.state, "waits");
  await coming.open();
  assert.equal((await reading.promise).value, BEFORE);
  assert.deepEqual(asked(client), []);
  assert.deepEqual(client.reader.counts, { cached: 0, disk: 0, served: 3, ahead: 1 });
});

Deno.test("file read-ahead: no more than the window is under way, whoever reads", async () => {
  const client = startClient();
  list(client, 0, 20);
  list(client, 20, 40);
  const coming = gate();
  let isOpen = 0;
  client.dataservers.onRead = (_address, _generation, block) => {
    if (block < 3 || (block >= 20 && block < 23)) return Promise.resolve();
    isOpen++;
    return coming.opened;
  };
  for (const i of [0, 1, 2, 20, 21, 22]) await read(client, i);
  assert.equal(isOpen, WINDOW);
  await coming.open();
  await read(client, 3);
  await read(client, 23);
  assert.equal(isOpen, 2 * WINDOW + 2, "the other's begins when there is room");
});

Deno.test("file read-ahead: there is a bound on what is kept", async () => {
  const client = startClient();
  for (let at = 0; at < 50; at++) {
    list(client, at * 20, at * 20 + 20);
    for (let i = 0; i < 3; i++) await read(client, at * 20 + i);
  }
  const { served, ahead } = client.reader.counts;
  assert.equal(asked(client).length - served - ahead, 256);
});

Deno.test("file read-ahead: a recall takes what was fetched; under the next lease it is asked for anew", async () => {
  const client = await started();
  client.dataservers.fill = AFTER;
  await recall(client, { ino: inoOf(3), keep: "none" }).promise;
  const opening = Promise.resolve(client.files.open(inoOf(3), READ_ONLY, PATIENT));
  const { attributes, blocks } = fileReply(3);
  await client.nameserver.answer("acquire", acquireReply(inoOf(3), "read", attributes, { blocks }));
  assert.equal((await readOpen(client, await opening)).bytes[0], AFTER);
  assert.equal((await read(client, 4)).value, BEFORE, "of others it stays");
});

/** As started, but file 3 comes when the gate opens. */
async function startedAwaiting(): Promise<{ client: TestClient; coming: ReturnType<typeof gate> }> {
  const client = startClient();
  list(client, 0, 20);
  const coming = gate();
  client.dataservers.onRead = (_address, _generation, block) =>
    block === 3 ? coming.opened : Promise.resolve();
  for (let i = 0; i < 3; i++) await read(client, i);
  return { client, coming };
}

Deno.test("file read-ahead: what comes after a recall is not used", async () => {
  const { client, coming } = await startedAwaiting();
  await recall(client, { ino: inoOf(3), keep: "none" }).promise;
  client.table.adopt(fileReply(3), client.table.moment); // a lease again, with the same block
  await coming.open();
  client.dataservers.onRead = () => Promise.resolve();
  client.dataservers.fill = AFTER;
  assert.equal((await read(client, 3)).value, AFTER);
});

Deno.test("file read-ahead: a recall while who reads waits for what is on its way", async () => {
  const { client, coming } = await startedAwaiting();
  const reading = watch(readOpen(client, openFile(client, 3)));
  await quiet();
  const taking = recall(client, { ino: inoOf(3), keep: "none" });
  await quiet();
  assert.equal(taking.state, "waits", "for the read");
  await coming.open();
  assert.equal((await reading.promise).bytes[0], BEFORE);
  await taking.promise;
});

Deno.test("file read-ahead: the session's end takes all of it, and nothing is answered while it may be over", async () => {
  const client = await started();
  const handle = openFile(client, 3);
  client.session.isValid = false;
  assert.equal(client.files.readNow(handle, 0, SIZE, false), null);
  client.session.revive();
  asked(client);
  client.dataservers.fill = AFTER;
  await client.recalls.lost();
  const reading = watch(readOpen(client, handle));
  await quiet();
  const { attributes, blocks } = fileReply(3);
  await client.nameserver.answer("acquire", acquireReply(inoOf(3), "read", attributes, { blocks }));
  assert.equal((await reading.promise).bytes[0], AFTER);
});

Deno.test("file read-ahead: nothing is asked for without a lease, or while one is given back or a change of ours is under way", async () => {
  const client = startClient();
  const inodes = list(client, 0, 8);
  inodes[3]!.lease = "none";
  inodes[4]!.yielding = 1;
  inodes[5]!.changing = 1;
  inodes[6]!.deferred = 1;
  inodes[7]!.blocks!.clear();
  inodes[7]!.blocks!.learn(0, Number.MAX_SAFE_INTEGER, [blockOf(7, 0, 1 << 26, false)]);
  for (let i = 0; i < 3; i++) await read(client, i);
  assert.deepEqual(asked(client), [0, 1, 2]);
});

Deno.test("file read-ahead: nothing is asked for once the session may be over, also when that comes while a dataserver is dialled", async () => {
  for (const isDialling of [false, true]) {
    const client = startClient();
    const { dataservers, session, fileAhead } = client;
    list(client, 0, 20);
    for (let i = 0; i < 2; i++) await read(client, i);
    const handle = openFile(client, 2);
    const dialled = gate();
    const dial = dataservers.client.bind(dataservers);
    dataservers.client = (address) => dialled.opened.then(() => dial(address));
    asked(client);
    session.isValid = isDialling;
    fileAhead.reading(handle.file, 0, SIZE);
    session.isValid = false;
    await dialled.open();
    session.revive();
    await quiet();
    assert.deepEqual(asked(client), []);
  }
});

Deno.test("file read-ahead: what is taken back while a dataserver is dialled is not asked for", async () => {
  const client = startClient();
  const { dataservers, fileAhead } = client;
  list(client, 0, 6);
  for (let i = 0; i < 2; i++) await read(client, i);
  const handle = openFile(client, 2);
  const dialled = gate();
  const dial = dataservers.client.bind(dataservers);
  dataservers.client = (address) => dialled.opened.then(() => dial(address));
  asked(client);
  fileAhead.reading(handle.file, 0, SIZE);
  await recall(client, { ino: inoOf(3), keep: "none" }).promise;
  await dialled.open();
  assert.deepEqual(asked(client), [4, 5]);
});

Deno.test("file read-ahead: what is written here ends it, from when it is accepted on", async () => {
  for (const isSent of [false, true]) {
    const client = await started();
    const inode = client.table.get(inoOf(3))!;
    inode.lease = "write";
    const sending = gate();
    client.dataservers.onWrite = () => sending.opened;
    if (isSent) await sending.open();
    const handle = openFile(client, 3, WRITING);
    await client.files.write(handle, 5_000, new Uint8Array(10).fill(AFTER), HOW, PATIENT);
    if (isSent) {
      const committing = client.writer.commit(handle.file, false);
      await client.nameserver.answer("commit", { ...fileReply(3, { version: 2 }), lease: "write" });
      await committing;
      assert.equal(handle.file.isUnflushed, false);
    }
    assert.equal(client.files.readNow(handle, 0, 100, true), null, isSent ? "stored" : "accepted");
    asked(client);
    const reading = watch(client.files.read(handle, 0, 100, true, PATIENT));
    await sending.open();
    await reading.promise;
    assert.deepEqual(asked(client), [3]);
  }
});

Deno.test("file read-ahead: what a truncate of ours cut is not shown", async () => {
  const client = await started();
  client.dataservers.fill = AFTER;
  const cutting = client.names.setattr({ ino: inoOf(3), size: 10 }, PATIENT);
  await client.nameserver.answer("setattr", inodeReply(inoOf(3), "read", { size: 10, version: 2 }));
  await cutting;
  const handle = openFile(client, 3);
  const reading = watch(readOpen(client, handle));
  await client.nameserver.answer("blocks", { blocks: [blockOf(3, 0, 10)], end: 1 << 26 });
  assert.deepEqual((await reading.promise).bytes, new Uint8Array(10).fill(AFTER));
});

Deno.test("file read-ahead: what could not be fetched is read as if nothing had been, and so is what does not come", async () => {
  const client = startClient();
  list(client, 0, 20);
  let isFailing = true;
  client.dataservers.onRead = (_address, _generation, block) => {
    if (block < 3 || !isFailing) return Promise.resolve();
    return block === 3 ? Promise.reject(new FsError("EIO", "a bad disk")) : new Promise(() => {});
  };
  for (let i = 0; i < 3; i++) await read(client, i);
  isFailing = false;
  client.dataservers.fill = AFTER;
  assert.deepEqual(await read(client, 3), { value: AFTER, isNow: false });
  const reading = watch(read(client, 4));
  await quiet();
  assert.equal(reading.state, "waits");
  await client.clock.advance(400);
  assert.equal((await reading.promise).value, AFTER);
  assert.ok(!client.log.some(({ level }) => level === "error" || level === "warn"));

  const other = startClient();
  list(other, 0, 30);
  other.dataservers.onRead = (_address, _generation, block) =>
    block < 4 ? Promise.resolve() : Promise.reject(new FsError("EIO", "a bad disk"));
  for (let i = 0; i < 3; i++) await read(other, i);
  asked(other);
  assert.equal((await read(other, 3)).isNow, true);
  assert.deepEqual(asked(other), range(11, 11 + WINDOW), "what has failed is not waited for");
});

Deno.test("file read-ahead: past the end of a replica that is shorter than its file there are zeros", async () => {
  const client = startClient();
  list(client, 0, 20);
  client.dataservers.replicaBytes = 6_000;
  for (let i = 0; i < 3; i++) await readOpen(client, openFile(client, i));
  await quiet();
  const whole = await readOpen(client, openFile(client, 3));
  assert.ok(whole.isNow);
  assert.deepEqual(
    whole.bytes,
    Uint8Array.from([...new Array(6_000).fill(BEFORE), ...new Array(4_000).fill(0)]),
  );
  const rest = await readOpen(client, openFile(client, 4), 8_192, 4_096);
  assert.deepEqual([rest.isNow, rest.bytes], [true, new Uint8Array(SIZE - 8_192)]);
});

Deno.test("file read-ahead: what is not read within 3 s is given up, and only three files in a row begin it again", async () => {
  const client = await started();
  const ending = new AbortController();
  const background = client.files.run(ending.signal);
  await client.clock.advance(2_000);
  assert.equal((await read(client, 3)).isNow, true);
  for (let s = 0; s < 2; s++) await client.clock.advance(1_000);
  asked(client);
  client.dataservers.fill = AFTER;
  assert.equal((await read(client, 4)).value, AFTER);
  assert.equal((await read(client, 5)).value, AFTER);
  assert.deepEqual(asked(client).filter((block) => block < 3 + WINDOW), [4, 5]);
  await read(client, 6);
  assert.ok(asked(client).includes(7), "it goes on");
  ending.abort();
  await client.clock.advance(1_000);
  await background;
});

Deno.test("file read-ahead: goes by what listings bring, and what is read ahead of names", async () => {
  for (const isListed of [true, false]) {
    const client = startClient();
    const { names, nameserver } = client;
    know(client, ROOT, "read", { mode: S_IFDIR | 0o755 });
    const entries = range(0, 12).map((i) => ({
      ...{ name: nameOf(`${i}`), ino: inoOf(i), type: 8, cookie: 10 + i, inode: fileReply(i) },
    }));
    const page = { parent: ROOT, directory: "read", entries, end: true } as const;
    if (isListed) {
      const listing = names.openDirectory(ROOT, true).read(0, true, () => true, PATIENT);
      await nameserver.answer("readDirectory", page);
      await listing;
    } else {
      for (const name of ["x", "y", "z"]) {
        const looking = Promise.resolve(names.lookup(ROOT, nameOf(name), PATIENT));
        await quiet();
        await nameserver.calls.find(({ method }) => method === "lookup")!.answer({ directory: "read" });
        await looking;
      }
      await nameserver.answer("readDirectory", page);
    }
    for (let i = 0; i < 3; i++) await read(client, i);
    assert.deepEqual(asked(client), range(0, 11));
  }
});
