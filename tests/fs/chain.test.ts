/** An operation on all replicas of a block, when some of them fail: who is taken off, and what is sent again. */

import assert from "node:assert/strict";
import type { Handle } from "../../fs/files.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asGeneration, asVolumeId } from "../../wire/ids.ts";
import type { Block } from "../../wire/messages/inode.ts";
import {
  blockOf,
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

const MIB = 1024 * 1024;
const HOW = { append: false, isWriteback: false, killSuidGid: false };

/** `block` with its replicas on these volumes. */
function on(block: Block, generation: number, ...volumes: number[]): Block {
  const [replica] = block.replicas;
  return {
    ...block,
    generation: asGeneration(generation),
    replicas: volumes.map((volume) => ({ ...replica!, volume: asVolumeId(volume), address: `d${volume}:1` })),
  };
}

const BLOCK = on(blockOf(1, 0, MIB), 1, 1, 2, 3);

async function start(blocks: readonly Block[] = [BLOCK]): Promise<{ client: TestClient; handle: Handle }> {
  const client = startClient();
  const handle = await opened(client, WRITING, { size: 2 * MIB }, { blocks });
  return { client, handle };
}

/** What the nameserver says when no other replica is left. */
const NONE_ANSWERS = new FsError("EAGAIN", "no replica answers");

/** A write to which nothing is added: it is sent at once. */
async function write(client: TestClient, handle: Handle, offset: number, length: number) {
  await client.files.write(handle, offset, new Uint8Array(length), HOW, PATIENT);
  handle.file.gathered?.send();
}

Deno.test("chain: a report that comes second gets replicas that do not have the write: it is sent to them", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  dataservers.onChain = () => [{ volume: asVolumeId(2), errno: "ENOTCONN", message: "gone" }];
  await write(client, handle, 0, 10);
  const report = await nameserver.next("replicaFailed");
  assert.deepEqual(report.request.failed, [2]);
  assert.equal(dataservers.writes.length, 1);
  dataservers.onChain = () => [];
  // Another write had found 1 and 3 to fail, and 2 to be well.
  await report.answer({ block: on(BLOCK, 2, 2) });
  await client.clock.advance(1_000);
  assert.equal(dataservers.writes.length, 2, "what only 1 and 3 had goes to 2");
  const fine = dataservers.writes.length;
  await client.clock.advance(1_000);
  assert.equal(dataservers.writes.length, fine, "once");
});

Deno.test("chain: replicas that are left after a failure and have the write do not get it again", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  dataservers.onChain = () => [{ volume: asVolumeId(2), errno: "ENOTCONN", message: "gone" }];
  await write(client, handle, 0, 10);
  const report = await nameserver.next("replicaFailed");
  await report.answer({ block: on(BLOCK, 2, 1, 3) });
  await client.clock.advance(1_000);
  assert.equal(dataservers.writes.length, 1);
});

Deno.test("chain: only what comes to a block first makes its replicas, though the nameserver has not heard of that yet", async () => {
  const { client, handle } = await start([{ ...BLOCK, written: false }]);
  const { dataservers, nameserver } = client;
  await write(client, handle, 0, 10);
  await quiet();
  await write(client, handle, 10, 10);
  await write(client, handle, MIB / 2, MIB / 4); // not gathered
  await quiet();
  assert.deepEqual(dataservers.creates, [true, false, false]);
  assert.deepEqual(nameserver.calls.map(({ method }) => method), []);
});

Deno.test("chain: when no other replica is left, the one that failed is tried again until it is back", async () => {
  const alone = on(BLOCK, 1, 1);
  const { client, handle } = await start([alone]);
  const { dataservers, nameserver } = client;
  dataservers.onWrite = () => Promise.reject(new FsError("ECONNREFUSED", "gone"));
  await write(client, handle, 0, 10);
  for (let i = 1; i <= 30; i++) {
    const report = await nameserver.next("replicaFailed");
    // Back just before the last answer: who is asked next must be the dataserver.
    if (i === 30) dataservers.onWrite = () => Promise.resolve();
    await report.fail(NONE_ANSWERS);
    await client.clock.advance(1_000);
    assert.equal(dataservers.writes.length, i + 1);
  }
  assert.equal(nameserver.calls.length, 0);
});

Deno.test("chain: a refusal after a long time without any replica is no reason to give up", async () => {
  const alone = on(BLOCK, 1, 1);
  const { client, handle } = await start([alone]);
  const { dataservers, nameserver } = client;
  dataservers.onWrite = () => Promise.reject(new FsError("ECONNREFUSED", "gone"));
  await write(client, handle, 0, 10);
  for (let i = 1; i <= 25; i++) {
    const report = await nameserver.next("replicaFailed");
    if (i === 25) dataservers.onWrite = () => Promise.reject(new FsError("EBUSY", "just started"));
    await report.fail(NONE_ANSWERS);
    await client.clock.advance(1_000);
  }
  const report = await nameserver.next("replicaFailed");
  dataservers.onWrite = () => Promise.resolve();
  await report.fail(NONE_ANSWERS);
  await client.clock.advance(1_000);
  const telling = watch(client.files.flush(handle));
  await quiet();
  assert.notEqual(telling.state, "failed");
});

Deno.test("chain: of a write across two blocks nothing is in flight when it has failed", async () => {
  const first = on(blockOf(1, 0, MIB), 1, 1);
  const { client, handle } = await start([first]);
  const { dataservers, nameserver } = client;
  const gate = Promise.withResolvers<void>();
  dataservers.onWrite = () => gate.promise;
  // Accepted; its second block is asked for.
  await write(client, handle, MIB - 10, 20);
  const allocation = await nameserver.next("allocateBlock");
  await allocation.fail(new FsError("ENOSPC", "every volume is full"));
  const sent = dataservers.writes.length;
  const other = watch(write(client, handle, 100, 10));
  const overlapping = watch(write(client, handle, MIB - 5, 5));
  await quiet();
  assert.deepEqual([other.state, overlapping.state], ["done", "waits"], "a part is still on its way there");
  assert.equal(dataservers.writes.length, sent + 1);
  gate.resolve();
  await quiet();
  assert.equal(overlapping.state, "done");
  assert.equal(dataservers.writes.length, sent + 2);
});

Deno.test("chain: fsync fails once when all machines that had what was written have stopped since", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  let current = BLOCK;
  dataservers.onSync = (generation) =>
    generation === current.generation
      ? Promise.resolve()
      : Promise.reject(new FsError("ESTALE", `not ${generation}`));
  const sync = async () => {
    const syncing = watch(client.files.fsync(handle));
    for (await quiet(); syncing.state === "waits"; await client.clock.advance(1_000)) {
      if (nameserver.calls[0]?.method === "blocks") {
        await nameserver.answer("blocks", { blocks: [current], end: MIB });
      } else await nameserver.answer("commit", inodeReply(INO, "write", { size: 2 * MIB }));
    }
    return syncing;
  };
  await write(client, handle, 0, 10);
  current = on(BLOCK, 2, 1, 2);
  assert.equal((await sync()).state, "done", "a replica failed: the others have it");
  await write(client, handle, 0, 10);
  current = { ...on(BLOCK, 3, 1, 2), chosenAt: asGeneration(3) };
  const { error } = await sync();
  assert.ok(isErrno(error, "EIO"), `${error}`);
  await write(client, handle, 0, 10);
  assert.equal((await sync()).state, "done", "it was written again");
});

for (const isFinalized of [true, false]) {
  Deno.test(`chain: fsync of what others have written: a replica that can't be reached ${isFinalized ? "stays where the others are finalized" : "is left behind where another is still being written"}`, async () => {
    const { client, handle } = await start();
    const { dataservers, nameserver } = client;
    const connect = dataservers.client.bind(dataservers);
    dataservers.client = (address) =>
      address === "d2:1" ? Promise.reject(new FsError("ECONNREFUSED", "it is away")) : connect(address);
    dataservers.onChain = () => [{ volume: asVolumeId(2), errno: "ECONNREFUSED", message: "it is away" }];
    dataservers.isFinalized = isFinalized;
    const syncing = watch(client.files.fsync(handle));
    if (!isFinalized) {
      const report = await nameserver.next("replicaFailed");
      assert.deepEqual([report.request.failed, syncing.state], [[2], "waits"]);
      await report.answer({ block: on(BLOCK, 2, 1, 3) });
    }
    await nameserver.answer("sync", { ok: true });
    assert.equal(syncing.state, "done", String(syncing.error));
    assert.equal(dataservers.syncs.length, isFinalized ? 2 : 3);
  });
}

Deno.test("chain: what was said of a block before it grew does not make it end there again", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  const { blocks } = handle.file;
  dataservers.onChain = () => [{ volume: asVolumeId(2), errno: "ENOTCONN", message: "gone" }];
  await write(client, handle, 0, 10);
  const report = await nameserver.next("replicaFailed");
  dataservers.onChain = () => [];
  await write(client, handle, MIB, 10);
  await quiet();
  const allocation = nameserver.calls.find(({ method }) => method === "allocateBlock")!;
  await allocation.answer({ block: { ...BLOCK, length: 2 * MIB } });
  // Waited longer for the disk than the block's growth, which came after it.
  await report.answer({ block: on(BLOCK, 2, 1, 3) });
  await client.clock.advance(1_000);
  assert.deepEqual(blocks.at(MIB), { ...on(BLOCK, 2, 1, 3), length: 2 * MIB });
  await write(client, handle, MIB + 10, 10);
  assert.deepEqual(nameserver.calls.map(({ method }) => method), [], "nothing is extended again");
});

Deno.test("chain: a block grows only when what lay past its end is gone from the disks, too", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver, events } = client;
  const disk = Promise.withResolvers<void>();
  dataservers.onSync = () => disk.promise;
  events.length = 0;
  await write(client, handle, MIB, 10);
  await quiet();
  assert.deepEqual([events, nameserver.calls.length], [[`cut 1 to ${MIB}`, "sync 1"], 0]);
  disk.resolve();
  const allocation = await nameserver.next("allocateBlock");
  assert.equal(allocation.request.extend, 1);
});

Deno.test("chain: a block whose machines all stopped while it was to grow does not: what was cut off may be back", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  dataservers.onSync = (generation) =>
    generation === 1 ? Promise.reject(new FsError("ESTALE", "another generation")) : Promise.resolve();
  await write(client, handle, MIB, 10);
  const now = { ...on(BLOCK, 3, 1), chosenAt: asGeneration(3) };
  await nameserver.answer("blocks", { blocks: [now], end: 2 * MIB });
  await client.clock.advance(1_000);
  const allocation = await nameserver.next("allocateBlock");
  assert.equal(allocation.request.extend, undefined);
});

Deno.test("chain: a block to which nothing was copied, as the source could not be read, has no data", async () => {
  for (const isUntouched of [true, undefined]) {
    const target = blockOf(2, MIB, MIB, false);
    const { client, handle } = await start([BLOCK, target]);
    client.dataservers.onCopy = () => ({
      failed: [],
      sourceFailed: { errno: "EOPNOTSUPP", message: "not now" },
      ...isUntouched === undefined ? {} : { isUntouched },
    });
    const copying = watch(client.ranges.copy(handle, handle, { from: 0, to: MIB, length: 4096 }, PATIENT));
    await quiet();
    assert.ok(isErrno(copying.error, "EOPNOTSUPP"), copying.state);
    // One that older dataservers speak of may have some.
    assert.equal(handle.file.hasData(target), isUntouched === undefined);
  }
});

Deno.test("chain: a block that is not known any more is not put back by an answer from before", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  const { blocks } = handle.file;
  dataservers.onChain = () => [{ volume: asVolumeId(2), errno: "ENOTCONN", message: "gone" }];
  await write(client, handle, 0, 10);
  const report = await nameserver.next("replicaFailed");
  blocks.clear();
  blocks.learn(0, 2 * MIB, []);
  await report.answer({ block: on(BLOCK, 2, 1, 3) });
  assert.equal(blocks.at(0), undefined);
});

Deno.test("commit: where data is is not forgotten by what was asked before it was reported", async () => {
  const fresh = { ...BLOCK, written: false };
  const { client, handle } = await start([fresh]);
  const { nameserver, files } = client;
  const { blocks } = handle.file;
  await write(client, handle, 0, 10);
  const flushed = watch(files.flush(handle));
  const commit = await nameserver.next("commit");
  blocks.clear();
  const reading = watch(files.read(handle, 0, 10, false, PATIENT));
  await quiet();
  const asked = nameserver.calls.find(({ method }) => method === "blocks")!;
  await commit.answer(inodeReply(INO, "write", { size: 2 * MIB }));
  await quiet();
  assert.equal(flushed.state, "done");
  await asked.answer({ blocks: [fresh], end: 2 * MIB });
  await nameserver.answer("blocks", { blocks: [BLOCK], end: 2 * MIB });
  await quiet();
  assert.equal(reading.state, "done");
  assert.equal(blocks.at(0)?.written, true);
});

Deno.test("chain: the memory of a large write is given back once it was sent, once, to all; else it never is", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  let given = 0;
  const memory = { ...PATIENT, takeBuffer: () => () => void given++ };
  const large = new Uint8Array(MIB / 2);
  const send = (data: Uint8Array) => client.files.write(handle, 0, data, HOW, memory);
  const { promise: sent, resolve: answer } = Promise.withResolvers<void>();
  dataservers.onWrite = () => sent;
  await send(large);
  assert.equal(given, 0, "it is on its way");
  answer();
  await quiet();
  assert.equal(given, 1);
  dataservers.onWrite = () => Promise.resolve();
  await send(large.subarray(1));
  await quiet();
  assert.equal(given, 1, "a smaller one was copied");
  dataservers.onChain = () => [{ volume: asVolumeId(2), errno: "ETIMEDOUT", message: "late" }];
  await send(large);
  const report = await nameserver.next("replicaFailed");
  dataservers.onChain = () => [];
  await report.answer({ block: on(BLOCK, 2, 1, 3) });
  await client.clock.advance(1_000);
  assert.equal(given, 1, "it may still be on its way to the one that failed");
});

for (const how of ["by the caller", "down the chain"]) {
  Deno.test(`chain: what was given up ${how} may still arrive: nothing is sent again before the replicas refuse it`, async () => {
    const { client, handle } = await start();
    const { dataservers, nameserver, clock } = client;
    const generations: number[] = [];
    const lost = new FsError("ENOTCONN", "silent for 2000 ms");
    if (how === "by the caller") dataservers.onWrite = () => Promise.reject(lost);
    else {dataservers.onChain =
        () => [{ volume: asVolumeId(2), errno: "ENOTCONN", message: "silent for 2000 ms" }];}
    dataservers.onGeneration = (generation) => generations.push(generation);
    await write(client, handle, 0, 10);
    await (await nameserver.next("replicaFailed")).fail(NONE_ANSWERS);
    dataservers.onWrite = () => Promise.resolve();
    dataservers.onChain = () => [];
    for (let tries = 0; tries < 3; tries++) {
      await clock.advance(1_000);
      const fencing = await nameserver.next("replicaFailed");
      assert.deepEqual([fencing.request.failed, fencing.request.generation, generations], [[], 1, [1]]);
      if (tries < 2) await fencing.fail(tries === 0 ? NONE_ANSWERS : lost);
      else await fencing.answer({ block: on(BLOCK, 3, 2, 3) });
    }
    await clock.advance(1_000);
    assert.deepEqual([generations, handle.file.pendingBytes, nameserver.calls.length], [[1, 3], 0, 0]);
  });
}

Deno.test("chain: what may still arrive is not waited for without end where all replicas are missing", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver } = client;
  dataservers.onWrite = () => Promise.reject(new FsError("ETIMEDOUT", "no answer"));
  await write(client, handle, 0, 10);
  await (await nameserver.next("replicaFailed")).fail(NONE_ANSWERS);
  await client.clock.advance(1_000);
  for (let refusals = 1; refusals <= 20; refusals++) {
    assert.equal(handle.file.writeError, null);
    const fencing = await nameserver.next("replicaFailed");
    assert.deepEqual(fencing.request.failed, []);
    await fencing.fail(new FsError("ENODATA", "all its replicas are missing"));
    await client.clock.advance(1_000);
  }
  assert.ok(isErrno(handle.file.writeError, "EIO"));
  assert.deepEqual([dataservers.writes.length, nameserver.calls.length], [1, 0]);
});

Deno.test("chain: what nobody can have got is sent again as it is", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver, clock } = client;
  dataservers.onWrite = () => Promise.reject(new FsError("ECONNREFUSED", "is it running?"));
  await write(client, handle, 0, 10);
  const report = await nameserver.next("replicaFailed");
  dataservers.onWrite = () => Promise.resolve();
  await report.fail(NONE_ANSWERS);
  await clock.advance(1_000);
  assert.deepEqual([nameserver.calls.length, dataservers.writes.length, handle.file.pendingBytes], [0, 2, 0]);
});

Deno.test("chain: what may still arrive of an operation that has failed, the next one to its block sees to", async () => {
  const { client, handle } = await start();
  const { dataservers, nameserver, clock } = client;
  dataservers.onWrite = () => Promise.reject(new FsError("ETIMEDOUT", "no answer"));
  await write(client, handle, 0, 10);
  const report = await nameserver.next("replicaFailed");
  dataservers.onWrite = () => Promise.resolve();
  await report.fail(new FsError("EIO", "on purpose"));
  assert.ok(isErrno(handle.file.writeError, "EIO"));
  assert.ok(client.strays.has(INO));
  await write(client, handle, 0, 10);
  const fencing = await nameserver.next("replicaFailed");
  assert.deepEqual([fencing.request.failed, dataservers.writes.length], [[], 1]);
  await fencing.answer({ block: on(BLOCK, 2, 1, 2, 3) });
  await clock.advance(1_000);
  assert.deepEqual([dataservers.writes.length, handle.file.pendingBytes], [2, 0]);
  assert.ok(!client.strays.has(INO));
  await write(client, handle, 0, 10);
  await quiet();
  assert.deepEqual([dataservers.writes.length, nameserver.calls.length], [3, 0], "once");
});
