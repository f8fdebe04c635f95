/** Small writes that go to the dataservers together: what is added, when they leave, and what waits for them. */

import assert from "node:assert/strict";
import { GatheredWrite } from "../../fs/gathered_write.ts";
import type { Handle } from "../../fs/files.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { Attributes, Block } from "../../wire/messages/inode.ts";
import {
  blockOf,
  gate,
  INO,
  inodeReply,
  opened,
  PATIENT,
  quiet,
  startClient,
  type TestClient,
  watch,
  WRITING,
} from "./client.ts";

const PAGE = 4096;
const MIB = 1024 * 1024;
const HOW = { append: false, isWriteback: false, killSuidGid: false };
const BLOCKS = [blockOf(1, 0, 64 * MIB)];
const filled = (length: number, value: number) => new Uint8Array(length).fill(value);

function gathered(onSend: (write: GatheredWrite, durable: boolean) => void = () => {}) {
  return new GatheredWrite(0, 0, onSend);
}

Deno.test("gathered: what follows is joined, what lies apart is a range of its own", () => {
  const write = gathered();
  for (const [start, value] of [[100, 1], [110, 2], [50, 3], [60, 4]] as const) {
    assert.equal(write.add(start, filled(10, value)), true);
  }
  assert.deepEqual(write.ranges, [{ start: 100, end: 120 }, { start: 50, end: 70 }]);
  assert.deepEqual([...write.body], [1, 2, 3, 4].flatMap((value) => Array(10).fill(value)));
  const overlaps = [[0, 50], [70, 100], [120, 200], [69, 70], [119, 120]] as const;
  assert.deepEqual(overlaps.map(([from, to]) => write.overlaps(from, to)), [false, false, false, true, true]);
});

Deno.test("gathered: bytes that it has are replaced in place, in one range only", () => {
  const write = gathered();
  write.add(100, filled(10, 1));
  write.add(50, filled(10, 2));
  assert.equal(write.replace(55, filled(5, 9)), true);
  assert.equal(write.replace(55, filled(6, 9)), false);
  assert.equal(write.replace(95, filled(10, 9)), false);
  assert.deepEqual([...write.body], [...filled(10, 1), ...filled(5, 2), ...filled(5, 9)]);
});

Deno.test("gathered: it has a bound, and leaves once", () => {
  const sent: boolean[] = [];
  const full = gathered((_, durable) => sent.push(durable));
  for (let i = 0; i < 8; i++) assert.equal(full.add(i * 32 * 1024, filled(32 * 1024, i)), true);
  assert.equal(full.add(MIB, filled(1, 1)), false);
  assert.ok(full.body.every((byte, i) => byte === i >> 15));
  full.send(true);
  full.send();
  assert.deepEqual(sent, [true]);
  assert.equal(full.replace(0, filled(1, 9)), false, "it is on its way");
  const scattered = gathered();
  for (let i = 0; i < 64; i++) assert.equal(scattered.add(i * 100, filled(10, i)), true);
  assert.equal(scattered.add(MIB, filled(1, 1)), false);
  assert.equal(scattered.add(63 * 100 + 10, filled(1, 1)), true, "it follows the last one");
});

async function start(
  changes: Partial<Attributes> = {},
  blocks: readonly Block[] = BLOCKS,
): Promise<{ client: TestClient; handle: Handle; write: (offset: number, length: number) => Promise<void> }> {
  const client = startClient();
  const handle = await opened(client, WRITING, { size: 10 * PAGE, ...changes }, { blocks });
  client.events.length = 0;
  client.nameserver.asked.length = 0;
  const write = (offset: number, length: number) =>
    client.files.write(handle, offset, new Uint8Array(length), HOW, PATIENT);
  return { client, handle, write };
}

/** Answers a commit with what it reported. */
async function commit(client: TestClient): Promise<void> {
  const call = await client.nameserver.next("commit");
  const { size, mtime } = call.request;
  await call.answer(
    inodeReply(INO, "write", { version: 2, size: Math.max(size, 10 * PAGE), mtime, ctime: mtime }),
  );
}

Deno.test("write: small ones wait a little for more, and go in one message", async () => {
  const { client, handle, write } = await start();
  const { dataservers, clock } = client;
  let messages = 0;
  dataservers.onWrite = () => {
    messages++;
    return Promise.resolve();
  };
  for (const offset of [0, 100, 8 * PAGE, 200]) await write(offset, 100);
  await quiet();
  assert.equal(messages, 0);
  assert.equal(handle.file.pendingBytes, 400);
  await clock.advance(10);
  assert.equal(messages, 1);
  assert.deepEqual(dataservers.writes.map(({ offset, length }) => [offset, length]), [
    [0, 200],
    [8 * PAGE, 100],
    [200, 100],
  ]);
  assert.equal(handle.file.pendingBytes, 0);
  // The next ones have a time of their own.
  await write(0, 100);
  await clock.advance(9);
  assert.equal(messages, 1);
  await clock.advance(20);
  assert.equal(messages, 2);
});

Deno.test("write: what is gathered leaves at once when it is full, and large ones do not wait for it", async () => {
  const { client, write } = await start();
  const { dataservers } = client;
  for (let at = 0; at <= 256 * 1024; at += 32 * 1024) await write(at, 32 * 1024);
  await quiet();
  assert.deepEqual(dataservers.writes.map(({ length }) => length), [256 * 1024]);
  await write(MIB, 100_000);
  await quiet();
  assert.deepEqual(dataservers.writes.map(({ length }) => length), [256 * 1024, 100_000]);
});

Deno.test("write: over what is gathered it is put in place; over a part of it, it waits", async () => {
  const { client, write } = await start();
  const { dataservers } = client;
  const sent = gate();
  dataservers.onWrite = () => sent.opened;
  await write(0, 100);
  await write(50, 50);
  await quiet();
  assert.equal(dataservers.writes.length, 0);
  const over = watch(write(50, 100));
  await quiet();
  assert.deepEqual([over.state, dataservers.writes.length], ["waits", 1]);
  await sent.open();
  assert.equal(over.state, "done");
});

Deno.test("read: what it overlaps of what is gathered is sent first, the rest can wait", async () => {
  const { client, handle, write } = await start();
  const { dataservers, files } = client;
  await write(0, 100);
  await files.read(handle, PAGE, 100, false, PATIENT);
  assert.equal(dataservers.writes.length, 0);
  await files.read(handle, 50, 100, false, PATIENT);
  assert.equal(dataservers.writes.length, 1);
});

Deno.test("fsync: what is gathered is written and synced by one message, with what was written before", async () => {
  const { client, handle, write } = await start();
  const { dataservers, files, clock, nameserver } = client;
  await write(0, 100);
  await clock.advance(10);
  await write(PAGE, 100);
  let asked = 0;
  const { client: connect } = dataservers;
  dataservers.client = async (address) => {
    asked++;
    return await connect.call(dataservers, address);
  };
  const syncing = watch(files.fsync(handle));
  await commit(client);
  await quiet();
  assert.equal(syncing.state, "done");
  assert.deepEqual([asked, dataservers.syncs, handle.file.unsynced.size], [1, [1], 0]);
  const again = watch(files.fsync(handle));
  await nameserver.answer("sync", { ok: true });
  assert.equal(again.state, "done");
  assert.deepEqual(dataservers.syncs, [1], "nothing was written since");
});

Deno.test("fsync: does not return before the disks have it, though the nameserver has answered", async () => {
  const { client, handle, write } = await start();
  const { dataservers, files } = client;
  const sync = gate();
  dataservers.onSync = () => sync.opened;
  await write(0, 100);
  const syncing = watch(files.fsync(handle));
  await commit(client);
  await quiet();
  assert.equal(syncing.state, "waits");
  await sync.open();
  assert.equal(syncing.state, "done");
  // And the other way round; in a new place the nameserver comes last.
  await write(20 * PAGE, 100);
  const growing = watch(files.fsync(handle));
  const call = await client.nameserver.next("commit");
  assert.deepEqual([growing.state, call.request.durable, dataservers.syncs], ["waits", true, [1, 1]]);
  await call.answer(inodeReply(INO, "write", { version: 3, size: call.request.size }));
  assert.equal(growing.state, "done");
});

Deno.test("fsync: in a file that grows, the nameserver does not know of data that may be nowhere", async () => {
  const { client, handle, write } = await start();
  const { dataservers, files, nameserver } = client;
  const sync = gate();
  dataservers.onSync = () => sync.opened;
  await write(20 * PAGE, 100);
  const syncing = watch(files.fsync(handle));
  await quiet();
  assert.deepEqual(nameserver.asked, []);
  await sync.open();
  await commit(client);
  assert.equal(syncing.state, "done");
});

Deno.test("fsync: a failure of what was gathered is told, however the nameserver answered", async () => {
  const { client, handle, write } = await start();
  const { dataservers, files } = client;
  dataservers.onSync = () => Promise.reject(new FsError("ENOSPC", "full"));
  await write(0, 100);
  const syncing = watch(files.fsync(handle));
  await commit(client);
  for (let i = 0; i < 40 && syncing.state === "waits"; i++) await client.clock.advance(1_000);
  assert.equal(syncing.state, "failed");
  assert.ok(isErrno(syncing.error, "ENOSPC"));
});

Deno.test("fdatasync: asks the nameserver for what is needed to find data, not for times", async () => {
  const { client, handle, write } = await start();
  const { dataservers, files, nameserver } = client;
  const sync = async (...expected: ("commit" | "sync")[]) => {
    nameserver.asked.length = 0;
    const syncing = watch(files.fsync(handle, true));
    for (const name of expected) {
      if (name === "commit") await commit(client);
      else await nameserver.answer(name, { ok: true });
    }
    await quiet();
    assert.deepEqual([syncing.state, nameserver.asked], ["done", expected]);
  };
  await write(0, 100);
  await sync("commit"); // it is not known what others have left unsynced
  await write(0, 100);
  await sync();
  assert.deepEqual(dataservers.syncs, [1, 1]);
  assert.ok(handle.file.dirty, "the time is still to be told");
  await write(20 * PAGE, 100);
  await sync("commit"); // it has grown
  // Told, but not to its disk.
  await write(30 * PAGE, 100);
  const flushing = watch(files.flush(handle));
  await commit(client);
  assert.equal(flushing.state, "done");
  await sync("sync");
  await sync();
});

Deno.test("write: with the session lost, what was gathered goes nowhere, and nothing is added to it", async () => {
  const { client, handle, write } = await start();
  const { dataservers, access } = client;
  await write(0, 100);
  access.lose(handle.file);
  await write(100, 100);
  await client.clock.advance(10);
  assert.deepEqual(dataservers.writes.map(({ offset, length }) => [offset, length]), [[100, 100]]);
  assert.ok(isErrno(handle.file.writeError, "EIO"));
});

Deno.test("write: gathered over several blocks, each gets its own; those that can be had, if one can't", async () => {
  const { client, handle, write } = await start({ size: 3 * MIB }, [
    blockOf(1, 0, MIB),
    blockOf(2, MIB, MIB),
  ]);
  const { dataservers, nameserver } = client;
  await write(MIB - 10, 20);
  await write(100, 5);
  await write(2 * MIB, 7);
  await client.clock.advance(10);
  await (await nameserver.next("allocateBlock")).fail(new FsError("ENOSPC", "full"));
  await quiet();
  assert.deepEqual(dataservers.writes, [
    { block: 1, offset: MIB - 10, length: 10 },
    { block: 1, offset: 100, length: 5 },
    { block: 2, offset: 0, length: 10 },
  ]);
  assert.ok(isErrno(handle.file.writeError, "ENOSPC"));
  assert.equal(handle.file.pendingBytes, 0);
});

Deno.test("fsync: other blocks that were written before are synced as well", async () => {
  const blocks = [blockOf(1, 0, MIB), blockOf(2, MIB, MIB)];
  const { client, handle, write } = await start({ size: 2 * MIB }, blocks);
  const { dataservers, files, clock } = client;
  // The second time under a lease, as the first one syncs what anybody has written.
  for (const expected of [[2, 1], [2, 1, 2, 1]]) {
    await write(0, 100);
    await write(MIB + PAGE, 100);
    await clock.advance(10);
    await write(MIB, 100);
    const syncing = watch(files.fsync(handle));
    await commit(client);
    await quiet();
    assert.deepEqual([syncing.state, dataservers.syncs, handle.file.unsynced.size], ["done", expected, 0]);
  }
});
