/** Reading and writing through a whole client: where bytes go, when the nameserver hears of it, and what fails. */

import assert from "node:assert/strict";
import type { Handle } from "../../fs/files.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { Attributes, Block } from "../../wire/messages/inode.ts";
import {
  acquireReply,
  blockOf,
  gate,
  INO,
  inodeReply,
  opened,
  PATIENT,
  quiet,
  READ_ONLY,
  recall,
  startClient,
  type TestClient,
  time,
  watch,
  WRITING,
} from "./client.ts";

const PAGE = 4096;
const MIB = 1024 * 1024;
const HOW = { append: false, isWriteback: false, isSynced: false, killSuidGid: false };
const BLOCKS = [blockOf(1, 0, 64 * MIB)];

async function start(
  changes: Partial<Attributes> = {},
  blocks: readonly Block[] = BLOCKS,
): Promise<{ client: TestClient; handle: Handle }> {
  const client = startClient();
  const handle = await opened(client, WRITING, { size: 10 * PAGE, ...changes }, { blocks });
  client.events.length = 0;
  client.nameserver.asked.length = 0;
  return { client, handle };
}

function write(
  client: TestClient,
  handle: Handle,
  offset: number,
  length: number,
  how: Partial<typeof HOW> = {},
) {
  const data = new Uint8Array(length);
  // Nothing is added to it: it is sent at once.
  const written = client.files.write(handle, offset, data, { ...HOW, ...how }, PATIENT);
  return watch(written.then(() => handle.file.gathered?.send()));
}

/** Answers a commit with what it reported. */
async function commit(client: TestClient, version = 2, changes: Partial<Attributes> = {}): Promise<void> {
  const call = await client.nameserver.next("commit");
  const { size, mtime } = call.request;
  const attributes = { version, size: Math.max(size, 10 * PAGE), mtime, ctime: mtime, ...changes };
  await call.answer(inodeReply(INO, "write", attributes));
}

Deno.test("write: is accepted at once under a lease, sent behind, and shown before anybody is told", async () => {
  const { client, handle } = await start();
  const { names, files, dataservers, events } = client;
  const sent = gate();
  dataservers.onWrite = () => sent.opened;
  const writing = write(client, handle, 20 * PAGE, 10);
  await quiet();
  assert.equal(writing.state, "done");
  assert.deepEqual(events, [`data 1 ${20 * PAGE}+10`]);
  assert.equal(names.shown(handle.file.inode).size, 20 * PAGE + 10);
  const flushing = watch(files.flush(handle));
  await quiet();
  assert.equal(client.nameserver.calls.length, 0, "not before the replicas have it");
  await sent.open();
  const call = await client.nameserver.next("commit");
  assert.deepEqual([call.request.size, call.request.durable, call.request.written], [
    20 * PAGE + 10,
    false,
    [], // it was known to hold data
  ]);
  await commit(client);
  assert.equal(flushing.state, "done");
  await files.flush(handle);
  assert.deepEqual(client.nameserver.asked, ["commit"], "once");
});

Deno.test("write: what the caller does with its buffer afterwards does not matter", async () => {
  const { client, handle } = await start();
  const { dataservers } = client;
  const seen: number[] = [];
  dataservers.client = () =>
    Promise.resolve({
      writeRanges: ({ body }: { body: Uint8Array }) => {
        seen.push(body[0]!);
        return Promise.resolve({ failed: [] });
      },
    });
  const data = new Uint8Array(10).fill(1);
  await client.files.write(handle, 0, data, HOW, PATIENT);
  data.fill(2);
  handle.file.gathered!.send();
  await quiet();
  assert.deepEqual(seen, [1]);
});

Deno.test("write: those that overlap go one after the other, others side by side", async () => {
  const { client, handle } = await start();
  const { dataservers } = client;
  const gates = [gate(), gate(), gate()];
  let count = 0;
  dataservers.onWrite = () => gates[count++]!.opened;
  const one = write(client, handle, 0, 100);
  const overlapping = write(client, handle, 50, 100);
  const apart = write(client, handle, 1_000, 100);
  await quiet();
  assert.deepEqual([one.state, overlapping.state, apart.state], ["done", "waits", "done"]);
  assert.deepEqual(dataservers.writes.map(({ offset }) => offset), [0, 1_000]);
  await gates[0]!.open();
  assert.deepEqual(dataservers.writes.map(({ offset }) => offset), [0, 1_000, 50]);
  for (const { open } of gates) await open();
});

Deno.test("write: what is accepted is bounded, for the file and for the mount", async () => {
  const { client, handle } = await start();
  const sent = gate();
  client.dataservers.onWrite = () => sent.opened;
  const writes = Array.from({ length: 9 }, (_, i) => write(client, handle, i * MIB, MIB));
  await quiet();
  assert.deepEqual(writes.map(({ state }) => state), [...Array(8).fill("done"), "waits"]);
  assert.equal(handle.file.pendingBytes, 8 * MIB);
  await sent.open();
  assert.equal(writes[8]!.state, "done");
  assert.equal(handle.file.pendingBytes, 0);
});

Deno.test("write: at the end of the file, wherever that is now", async () => {
  const { client, handle } = await start();
  const { dataservers, table, nameserver } = client;
  await write(client, handle, 0, 10, { append: true }).promise;
  await write(client, handle, 0, 10, { append: true }).promise;
  await quiet();
  assert.deepEqual(dataservers.writes.map(({ offset }) => offset), [10 * PAGE, 10 * PAGE + 10]);
  handle.file.dirty = false;
  table.get(INO)!.forgetAttributes(); // by a change of ours
  const appending = write(client, handle, 0, 10, { append: true });
  await nameserver.answer("getattr", inodeReply(INO, "write", { version: 5, size: 20 * PAGE }));
  await appending.promise;
  await quiet();
  assert.equal(dataservers.writes.at(-1)!.offset, 20 * PAGE);
});

Deno.test("write: pages that the kernel has of what is written go before it returns; writeback keeps its own", async () => {
  const { client, handle } = await start();
  const { kernel } = client;
  await write(client, handle, PAGE + 5, PAGE).promise;
  assert.deepEqual(kernel.taken(), []);
  handle.file.inode.hasPages = true;
  kernel.holds = () => true;
  const writing = write(client, handle, PAGE + 5, PAGE);
  await quiet();
  assert.deepEqual([writing.state, kernel.taken()], ["waits", [`pages ${INO} ${PAGE}+${2 * PAGE}`]]);
  assert.equal(handle.file.accesses.size, 0, "a read of these pages may go on meanwhile");
  await kernel.held[0]!.release();
  assert.equal(writing.state, "done");
  await write(client, handle, PAGE, PAGE, { isWriteback: true }).promise;
  assert.deepEqual(kernel.taken(), []);
});

Deno.test("write: by who may not keep them takes setuid and setgid off, before it returns", async () => {
  const { client, handle } = await start({ mode: 0o106755 });
  const writing = write(client, handle, 0, 10, { killSuidGid: true });
  const call = await client.nameserver.next("commit");
  assert.equal(writing.state, "waits");
  assert.equal(call.request.killSuidGid, true);
  await commit(client, 2, { mode: 0o100755 });
  assert.equal(writing.state, "done");
  // The kernel would go on showing the mode that it knows, and go by it where it does not ask.
  assert.deepEqual(client.kernel.taken(), [`attributes ${INO}`, "epoch"]);
});

Deno.test("write: by an ordinary user to a file without setuid and setgid is reported as late as root's", async () => {
  for (const mode of [0o100777, 0o102767]) {
    const { client, handle } = await start({ mode });
    for (const offset of [0, PAGE]) {
      await write(client, handle, offset, 10, { killSuidGid: true }).promise;
    }
    assert.deepEqual(client.nameserver.asked, []);
    assert.equal(client.names.shown(handle.file.inode).mode, mode);
  }
});

Deno.test("write: past the largest file is EFBIG, of nothing is nothing", async () => {
  const { client, handle } = await start();
  assert.ok(isErrno((await settled(write(client, handle, Number.MAX_SAFE_INTEGER - 5, 10))).error, "EFBIG"));
  assert.equal((await settled(write(client, handle, 0, 0))).state, "done");
  assert.deepEqual(client.events, []);
});

async function settled<T>(watched: T): Promise<T> {
  await quiet();
  return watched;
}

Deno.test("write: over a hole a block is made, one after the other", async () => {
  const { client, handle } = await start({ size: 0 }, []);
  const { nameserver, dataservers } = client;
  await write(client, handle, 0, 10).promise;
  await write(client, handle, 8 * MIB, 10).promise;
  await quiet();
  assert.equal(nameserver.calls.length, 1, "extending a block must not meet another's new data");
  await nameserver.answer("allocateBlock", { block: blockOf(1, 0, 4 * MIB, false) });
  const second = await nameserver.next("allocateBlock");
  assert.deepEqual([second.request.offset, second.request.extend], [8 * MIB, undefined]);
  await second.answer({ block: blockOf(2, 8 * MIB, 4 * MIB, false) });
  await quiet();
  assert.deepEqual(dataservers.writes, [
    { block: 1, offset: 0, length: 10 },
    { block: 2, offset: 0, length: 10 },
  ]);
});

Deno.test("write: a failure after it was accepted is told once, by close or fsync, and logged", async () => {
  for (const tell of ["flush", "fsync"] as const) {
    const { client, handle } = await start({ size: 0 }, []);
    const { nameserver, files, log } = client;
    await write(client, handle, 0, 10).promise;
    await (await nameserver.next("allocateBlock")).fail(new FsError("ENOSPC", "full"));
    assert.equal(log.filter(({ level }) => level === "error").length, 1);
    for (const [expected, round] of [["failed", 1], ["done", 2]] as const) {
      const telling = watch(files[tell](handle));
      await quiet();
      const [call] = nameserver.calls;
      if (call?.method === "commit") await commit(client, 1 + round);
      if (call?.method === "sync") await nameserver.answer("sync", { ok: true });
      await quiet();
      assert.equal(telling.state, expected, tell);
      if (expected === "failed") assert.ok(isErrno(telling.error, "ENOSPC"));
    }
  }
});

Deno.test("fsync: the replicas' disks first, then the nameserver's; without a change only the latter", async () => {
  const { client, handle } = await start();
  const { files, nameserver, events } = client;
  await write(client, handle, 0, 10).promise;
  await quiet();
  const syncing = watch(files.fsync(handle));
  const call = await nameserver.next("commit");
  assert.equal(call.request.durable, true);
  assert.deepEqual(events, ["data 1 0+10", "sync 1", "commit"]);
  await commit(client);
  assert.equal(syncing.state, "done");
  const again = watch(files.fsync(handle));
  await nameserver.answer("sync", { ok: true });
  await quiet();
  assert.equal(again.state, "done");
  assert.deepEqual(client.dataservers.syncs, [1]);
});

Deno.test("fsync: a write that is acknowledged while it runs is synced by the next", async () => {
  const { client, handle } = await start();
  const { files, dataservers, nameserver } = client;
  write(client, handle, 0, 10);
  await quiet();
  const sync = gate();
  dataservers.onSync = () => sync.opened;
  const first = watch(files.fsync(handle));
  await quiet();
  assert.deepEqual(dataservers.syncs, [1]);
  write(client, handle, 20, 10);
  await quiet();
  const second = watch(files.fsync(handle));
  await quiet();
  assert.deepEqual(dataservers.syncs, [1, 1], "not taken for done because the first is under way");
  write(client, handle, 40, 10);
  await quiet();
  await sync.open();
  await commit(client);
  await nameserver.answer("sync", { ok: true });
  assert.deepEqual([first.state, second.state], ["done", "done"]);
  const third = watch(files.fsync(handle));
  await nameserver.answer("sync", { ok: true });
  assert.equal(third.state, "done");
  assert.deepEqual(dataservers.syncs, [1, 1, 1], "not forgotten because an earlier one has ended");
});

Deno.test("fsync: what another descriptor or another mount wrote is synced too, and once under one lease", async () => {
  const blocks = [blockOf(1, 0, PAGE), blockOf(2, PAGE, PAGE), {
    ...blockOf(3, 2 * PAGE, PAGE),
    written: false,
  }];
  const client = startClient();
  const handle = await opened(client, READ_ONLY, { size: 3 * PAGE }, { blocks });
  const { files, dataservers, nameserver } = client;
  const synced = async () => {
    dataservers.syncs.length = 0;
    const syncing = watch(files.fsync(handle));
    await nameserver.answer("sync", { ok: true });
    await syncing.promise;
    return dataservers.syncs;
  };
  assert.deepEqual(await synced(), [1, 2]);
  assert.deepEqual(await synced(), []);
  // Others write, and this mount is told: what it knew is void.
  await recall(client, { keep: "none" }).promise;
  const reading = watch(files.read(handle, 0, 10, true, PATIENT));
  await nameserver.answer("acquire", acquireReply(INO, "read", { size: 3 * PAGE }, { blocks }));
  await reading.promise;
  assert.deepEqual(await synced(), [1, 2]);
});

Deno.test("fsync: what another mount has made the file larger by since this one looked is synced", async () => {
  const client = startClient();
  const handle = await opened(client, READ_ONLY, { size: 0 }, { blocks: [] });
  const { files, dataservers, nameserver } = client;
  await recall(client, { keep: "none" }).promise;
  const syncing = watch(files.fsync(handle));
  // Whoever wrote it reports that before this is answered.
  await nameserver.answer("getattr", inodeReply(INO, "read", { version: 2, size: PAGE }));
  await nameserver.answer("blocks", { blocks: [blockOf(1, 0, PAGE)], end: Number.MAX_SAFE_INTEGER });
  await nameserver.answer("sync", { ok: true });
  await syncing.promise;
  assert.deepEqual(dataservers.syncs, [1]);
});

Deno.test("fsync: of what others wrote, and has come to rest, needs one replica; one that says no is taken off the block", async () => {
  const client = startClient();
  client.dataservers.isFinalized = true;
  const block = blockOf(1, 0, PAGE);
  const [replica] = block.replicas;
  const away = { ...replica!, volume: 77 as never, address: "away" };
  const broken = { ...replica!, volume: 78 as never, address: "broken" };
  const blocks = [{ ...block, replicas: [replica!, away] }];
  const handle = await opened(client, READ_ONLY, { size: PAGE }, { blocks });
  const { files, dataservers, nameserver } = client;
  const good = dataservers.client.bind(dataservers);
  dataservers.client = ((address: string) => {
    if (address === "away") return Promise.reject(new FsError("ECONNREFUSED", "away"));
    if (address !== "broken") return good(address);
    return Promise.resolve({ syncBlock: () => Promise.reject(new FsError("EIO", "broken disk")) });
  }) as typeof dataservers.client;
  const syncing = watch(files.fsync(handle));
  await nameserver.answer("sync", { ok: true });
  await syncing.promise;
  assert.deepEqual(dataservers.syncs, [1]);

  handle.file.restSyncedAt = 0;
  handle.file.blocks.put({ ...block, replicas: [broken, replica!] });
  const again = watch(files.fsync(handle));
  const call = await nameserver.next("replicaFailed");
  assert.deepEqual(call.request.failed, [78]);
  await call.answer({ block: { ...block, generation: (block.generation + 1) as never } });
  await nameserver.answer("sync", { ok: true });
  await again.promise;
});

Deno.test("write: of a synced descriptor is on the disks when it returns, and tells its failure", async () => {
  const { client, handle } = await start();
  const { dataservers, events } = client;
  const writing = write(client, handle, 0, 10, { isSynced: true });
  await quiet();
  assert.equal(writing.state, "waits");
  await commit(client);
  assert.equal(writing.state, "done");
  // In place: the nameserver's disk does not wait for the replicas'.
  assert.deepEqual(events.slice(0, 3), ["data 1 0+10", "commit", "sync 1"]);
  dataservers.onWrite = () => Promise.reject(new FsError("ENOSPC", "full"));
  const failing = write(client, handle, 0, 10, { isSynced: true });
  await commit(client);
  await assert.rejects(failing.promise, (error) => isErrno(error, "ENOSPC"));
});

Deno.test("commit: where the nameserver makes something else of it, the kernel is told to look again", async () => {
  for (
    const [changes, isOther] of [[{}, false], [{ size: 99 * PAGE }, true], [
      { ctime: time(9e9) },
      true,
    ]] as const
  ) {
    const { client, handle } = await start();
    await write(client, handle, 0, 10).promise;
    await quiet();
    const flushing = watch(client.files.flush(handle));
    await commit(client, 2, changes);
    await quiet();
    assert.equal(flushing.state, "done");
    assert.deepEqual(client.kernel.taken(), isOther ? [`attributes ${INO}`] : []);
  }
});

Deno.test("commit: what was written meanwhile keeps the file dirty", async () => {
  const { client, handle } = await start();
  const { files, nameserver } = client;
  await write(client, handle, 0, 10).promise;
  await quiet();
  const flushing = watch(files.flush(handle));
  const call = await nameserver.next("commit");
  await write(client, handle, 30 * PAGE, 10).promise;
  await quiet();
  const { mtime } = call.request;
  await call.answer(inodeReply(INO, "write", { version: 2, size: 10 * PAGE, mtime, ctime: mtime }));
  assert.equal(flushing.state, "done");
  assert.deepEqual([handle.file.dirty, handle.file.size], [true, 30 * PAGE + 10]);
});

Deno.test("background: what has been dirty for three seconds is committed", async () => {
  const { client, handle } = await start();
  const { files, clock, nameserver } = client;
  const stopping = new AbortController();
  const running = files.run(stopping.signal);
  await write(client, handle, 0, 10).promise;
  await clock.advance(2_500);
  assert.deepEqual(nameserver.asked, []);
  await clock.advance(1_000);
  assert.deepEqual(nameserver.asked, ["commit"]);
  await (await nameserver.next("commit")).fail(new FsError("EIO", "no"));
  assert.ok(client.log.some(({ message }) => /not committed yet/.test(message)));
  stopping.abort();
  await clock.advance(1_000);
  await running;
});

Deno.test("finish: everything that was accepted is committed, and releases are told", async () => {
  const { client, handle } = await start();
  const { files, session } = client;
  await write(client, handle, 0, 10).promise;
  const finishing = watch(files.finish());
  await commit(client);
  await quiet();
  assert.equal(finishing.state, "done");
  assert.deepEqual(session.told, []);
});

Deno.test("read: what was written here and is on its way comes first; holes and short replicas are zeros", async () => {
  const blocks = [blockOf(1, 0, PAGE), blockOf(2, 2 * PAGE, PAGE, false)];
  const { client, handle } = await start({ size: 3 * PAGE }, blocks);
  const { files, dataservers } = client;
  const sent = gate();
  dataservers.onWrite = () => sent.opened;
  await write(client, handle, 10, 10).promise;
  const reading = watch(files.read(handle, 0, 4 * PAGE, false, PATIENT));
  await quiet();
  assert.equal(reading.state, "waits");
  await sent.open();
  const bytes = reading.value!.flatMap((view) => [...view]);
  assert.equal(bytes.length, 3 * PAGE, "exactly what lies before the end");
  assert.deepEqual([bytes[0], bytes[PAGE], bytes[2 * PAGE]], [7, 0, 0]);
  assert.deepEqual(await files.read(handle, 3 * PAGE, 10, false, PATIENT), []);
});

Deno.test("seek: data and holes by blocks, and nothing past the end", async () => {
  const blocks = [blockOf(1, PAGE, PAGE), blockOf(2, 4 * PAGE, PAGE, false)];
  const { client, handle } = await start({ size: 6 * PAGE }, blocks);
  const seek = (offset: number, wantsData: boolean) => client.ranges.seek(handle, offset, wantsData, PATIENT);
  assert.deepEqual(
    await Promise.all([
      seek(0, true),
      seek(0, false),
      seek(PAGE, false),
      seek(PAGE + 5, true),
      seek(3 * PAGE, true),
    ]),
    [PAGE, 0, 2 * PAGE, PAGE + 5, undefined],
  );
  assert.deepEqual(await Promise.all([seek(5 * PAGE, false), seek(6 * PAGE, true), seek(6 * PAGE, false)]), [
    5 * PAGE,
    undefined,
    undefined,
  ]);
});

Deno.test("fallocate: makes blocks over the holes, and moves the end only where asked", async () => {
  for (const grow of [false, true]) {
    const { client, handle } = await start({ size: PAGE }, [blockOf(1, 0, PAGE)]);
    const { ranges, nameserver, events } = client;
    const allocating = watch(ranges.reserve(handle, 0, 2 * PAGE, { grow }, PATIENT));
    await nameserver.answer("statfs", { totalBytes: MIB, freeBytes: MIB, files: 1, blockBytes: MIB });
    await nameserver.answer("allocateBlock", { block: blockOf(2, PAGE, MIB, false) });
    if (grow) {
      const call = await nameserver.next("commit");
      assert.equal(call.request.size, 2 * PAGE);
      const { mtime } = call.request;
      await call.answer(inodeReply(INO, "write", { version: 2, size: 2 * PAGE, mtime, ctime: mtime }));
    }
    await quiet();
    assert.equal(allocating.state, "done");
    assert.deepEqual(events.filter((event) => event.startsWith("reserve")), [
      `reserve 1 0+${PAGE}`,
      `reserve 2 0+${PAGE}`,
    ]);
    assert.equal(handle.file.size, grow ? 2 * PAGE : PAGE);
  }
});

Deno.test("fallocate: what has no room in all of the cluster changes nothing", async () => {
  const { client, handle } = await start({ size: PAGE }, [blockOf(1, 0, PAGE)]);
  const { ranges, nameserver, events } = client;
  const reserving = watch(ranges.reserve(handle, 0, 3 * PAGE, { grow: true }, PATIENT));
  await nameserver.answer("statfs", { totalBytes: MIB, freeBytes: 2 * PAGE - 1, files: 1, blockBytes: MIB });
  await quiet();
  assert.ok(isErrno(reserving.error, "ENOSPC"));
  assert.deepEqual(events.filter((event) => event.startsWith("reserve")), []);
});

Deno.test("punch: whole blocks go, the rest becomes a hole, and the kernel's pages go", async () => {
  const { client, handle } = await start({}, [blockOf(1, 0, 10 * PAGE)]);
  const { ranges, nameserver, kernel, events } = client;
  handle.file.inode.hasPages = true;
  const how = { grow: false, keepsRoom: false };
  const zeroing = watch(ranges.zero(handle, 100, 200, how, PATIENT));
  const call = await nameserver.next("punch");
  assert.deepEqual([call.request.offset, call.request.length], [100, 100]);
  await call.answer(inodeReply(INO, "write", { version: 2, size: 10 * PAGE }));
  await nameserver.answer("blocks", { blocks: [blockOf(1, 0, 10 * PAGE)], end: 10 * PAGE });
  await commit(client, 3);
  await quiet();
  assert.equal(zeroing.state, "done");
  assert.deepEqual(events.filter((event) => event.startsWith("punch 1")), ["punch 1 100+100"]);
  assert.equal(kernel.taken().at(-1), `pages ${INO} 0+`);
});

Deno.test("ranges: nothing of an operation goes on after the session in which it began", async () => {
  const blocks = [blockOf(1, 0, 10 * PAGE), blockOf(2, 10 * PAGE, 10 * PAGE)];
  const how = { grow: false, keepsRoom: true };
  const work = {
    zero: (client: TestClient, handle: Handle) => client.ranges.zero(handle, 0, 20 * PAGE, how, PATIENT),
    reserve: (client: TestClient, handle: Handle) =>
      client.ranges.reserve(handle, 0, 20 * PAGE, how, PATIENT),
  };
  for (const [change, run] of Object.entries(work)) {
    const { client, handle } = await start({ size: 20 * PAGE }, blocks);
    const { dataservers, access, events } = client;
    dataservers.onWrite = () => {
      access.lose(handle.file); // and others may hold the lease by now
      return Promise.resolve();
    };
    const working = watch(run(client, handle));
    await quiet();
    assert.ok(isErrno(working.error, "EIO"), change);
    assert.deepEqual(events, [`${change} 1 0+${10 * PAGE}`]);
  }
});

Deno.test("ranges, write at the end: nothing begins when the session was lost while the attributes were asked for", async () => {
  const how = { grow: true, keepsRoom: true };
  const range = { from: 0, to: 20 * PAGE, length: 10 };
  const work = {
    zero: (client: TestClient, handle: Handle) => client.ranges.zero(handle, 0, 20 * PAGE, how, PATIENT),
    punch: (client: TestClient, handle: Handle) =>
      client.ranges.zero(handle, 0, PAGE, { grow: false, keepsRoom: false }, PATIENT),
    copy: (client: TestClient, handle: Handle) => client.ranges.copy(handle, handle, range, PATIENT),
    append: (client: TestClient, handle: Handle) =>
      client.files.write(handle, 0, new Uint8Array(10), { ...HOW, append: true }, PATIENT),
  };
  for (const [name, run] of Object.entries(work)) {
    const { client, handle } = await start({ size: 20 * PAGE }, [blockOf(1, 0, 30 * PAGE)]);
    const { nameserver, table, access, events } = client;
    table.get(INO)!.forgetAttributes(); // by a change of ours
    const working = watch(run(client, handle).then(() => {}));
    const asked = await nameserver.next("getattr");
    access.lose(handle.file); // and others may hold the lease by now
    const reply = inodeReply(INO, "none", { version: 5, size: 20 * PAGE });
    await asked.answer(reply);
    await quiet();
    if (name === "copy") await nameserver.answer("getattr", reply); // of the other end
    await quiet();
    assert.ok(isErrno(working.error, "EIO"), name);
    assert.deepEqual(nameserver.calls.map(({ method }) => method), [], name);
    assert.deepEqual(events.filter((event) => !event.startsWith("getattr")), [], name);
  }
});

Deno.test("write: no block is made for what was accepted in a session that is over", async () => {
  const { client, handle } = await start({ size: 0 }, []);
  const { nameserver, access } = client;
  await client.files.write(handle, 0, new Uint8Array(10), HOW, PATIENT);
  await client.files.write(handle, 8 * MIB, new Uint8Array(MIB), HOW, PATIENT);
  const first = await nameserver.next("allocateBlock"); // for one of them; the other waits for it
  access.lose(handle.file);
  await first.answer({ block: blockOf(1, first.request.offset, 4 * MIB, false) });
  await client.clock.advance(10);
  assert.deepEqual(nameserver.calls.map(({ method }) => method), []);
  assert.deepEqual(client.dataservers.writes, []);
});

Deno.test("read-only handles share what a writer's has buffered", async () => {
  const { client, handle } = await start();
  const reader = await opened(client, READ_ONLY);
  await write(client, handle, 11 * PAGE, 10).promise;
  assert.equal(reader.file, handle.file);
  assert.equal(reader.file.size, 11 * PAGE + 10);
});

Deno.test("fsync: fails once after a power cut of the nameserver's machine, if something was reported and not synced", async () => {
  const { client, handle } = await start();
  const { files, nameserver, recalls } = client;
  /** An operation that commits, or asks for the nameserver's disk. */
  const end = async (work: Promise<void>) => {
    const working = watch(work);
    for (await quiet(); working.state === "waits"; await quiet()) {
      if (nameserver.calls[0]?.method === "commit") await commit(client);
      else if (nameserver.calls[0]?.method === "acquire") {
        await nameserver.answer(
          "acquire",
          acquireReply(INO, "write", { size: 10 * PAGE }, { blocks: BLOCKS }),
        );
      } else if (nameserver.calls[0]?.method === "blocks") {
        await nameserver.answer("blocks", { blocks: BLOCKS, end: 64 * MIB });
      } else if (nameserver.calls[0]?.method === "getattr") {
        await nameserver.answer("getattr", inodeReply(INO, "read", { size: 10 * PAGE }));
      } else await nameserver.answer("sync", { ok: true });
    }
    return working.error;
  };
  write(client, handle, 0, 10);
  await quiet();
  assert.equal(await end(files.fsync(handle)), undefined);
  await recalls.lost(true);
  assert.equal(await end(files.fsync(handle)), undefined, "all was synced");
  for (const isCut of [false, true]) {
    const writing = write(client, handle, 0, 10);
    await end(writing.promise);
    assert.equal(await end(files.flush(handle)), undefined);
    await recalls.lost(isCut);
    assert.equal(
      isErrno(await end(files.fsync(handle)), "EIO"),
      isCut,
      "the server has it, but for a power cut",
    );
    assert.equal(await end(files.fsync(handle)), undefined, "it is told once");
  }
});

Deno.test("trim: what another thread has written past the new end meanwhile stays", async () => {
  const client = startClient();
  const block = blockOf(1, 0, 4096);
  const handle = await opened(client, WRITING, { size: 4096 }, { blocks: [block] });
  const { dataservers, nameserver, files, ranges } = client;
  const write = Promise.withResolvers<void>();
  dataservers.onWrite = () => write.promise;
  const how = { append: false, isWriteback: false, killSuidGid: false };
  await files.write(handle, 4096, new Uint8Array(10), how, PATIENT);
  handle.file.gathered!.send();
  await nameserver.answer("allocateBlock", { block: { ...block, length: 8192 } });
  client.events.length = 0;
  const trimmed = watch(ranges.trim(INO, PATIENT));
  await quiet();
  assert.equal(trimmed.state, "waits");
  write.resolve();
  await quiet();
  assert.equal(trimmed.state, "done");
  assert.deepEqual(client.events, []);
});

Deno.test("truncate: a report that was handed over comes first, though it may have been lost on its way", async () => {
  const client = startClient();
  const handle = await opened(client, WRITING, { size: 4096 }, { blocks: [blockOf(1, 0, 8192)] });
  const { nameserver, names } = client;
  const how = { append: false, isWriteback: false, killSuidGid: false };
  await client.files.write(handle, 4096, new Uint8Array(10), how, PATIENT);
  const revoked = watch(client.access.revoke(handle.file.inode, "none"));
  const report = await nameserver.next("commit");
  assert.equal(revoked.state, "done", "it has left");
  const cut = watch(names.setattr({ ino: INO, size: 100 }, PATIENT));
  await quiet();
  assert.deepEqual(nameserver.calls.map(({ method }) => method), ["commit"]);
  await report.answer(inodeReply(INO, "none", { size: 4106, version: 2 }));
  await nameserver.answer("setattr", inodeReply(INO, "none", { size: 100, version: 3 }));
  assert.equal(cut.state, "done");
});

Deno.test("fsync: a block that another client's truncate takes away while it is being synced is none that has failed", async () => {
  const { client, handle } = await start();
  const { dataservers, files, nameserver } = client;
  const block = BLOCKS[0]!;
  handle.file.unsynced.set(block.id, { start: 0, since: block.generation });
  dataservers.onSync = () => Promise.reject(new FsError("ENOENT", "no replica of the block"));
  const syncing = watch(files.fsync(handle));
  await quiet();
  for (let call = nameserver.calls[0]; call !== undefined; call = nameserver.calls[0]) {
    await call.answer(call.method === "blocks" ? { blocks: [], end: 64 * MIB } : { ok: true });
  }
  assert.equal(syncing.state, "done", String(syncing.error));
  assert.equal(handle.file.unsynced.size, 0);
});

Deno.test("write: nothing is sent when the session has ended, or is not valid, by the time that the dataserver is reached", async () => {
  for (const isLost of [true, false]) {
    const { client, handle } = await start();
    const { dataservers, events, recalls, session } = client;
    const reached = gate();
    const connect = dataservers.client.bind(dataservers);
    dataservers.client = async (address) => {
      await reached.opened;
      return await connect(address);
    };
    write(client, handle, 0, 10);
    await quiet();
    if (isLost) await recalls.lost();
    else session.isValid = false;
    await reached.open();
    assert.deepEqual(events.filter((event) => event.startsWith("data")), []);
    session.revive();
    await quiet();
    assert.equal(events.some((event) => event.startsWith("data")), !isLost);
    assert.equal(handle.file.writeErrors > 0, isLost);
  }
});

/** Steps of the program from an answer until whoever waits for it goes on, and some more. */
const STEPS_MAX = 12;

/**
 * A question about blocks, asked by `work`, is answered, and some steps later a truncate, which takes away what was learned;
 * after that all questions are answered. `work` must come to what it would have come to without the truncate.
 */
async function besideTruncate(
  work: (client: TestClient, handle: Handle) => Promise<unknown>,
  check: (client: TestClient, result: unknown) => void,
): Promise<void> {
  for (let steps = 0; steps <= STEPS_MAX; steps++) {
    const { client, handle } = await start();
    const { nameserver, names } = client;
    const truncating = watch(names.setattr({ ino: INO, size: 20 * PAGE }, PATIENT) as Promise<unknown>);
    const truncate = await nameserver.next("setattr");
    handle.file.blocks.clear();
    const working = watch(work(client, handle));
    await quiet();
    const { size } = handle.file.inode.attributes;
    const attributes = () => nameserver.calls.find(({ method }) => method === "getattr");
    for (let call = attributes(); call !== undefined; call = attributes()) {
      await call.answer(inodeReply(INO, "write", { size }));
    }
    const asked = nameserver.calls.find(({ method }) => method === "blocks")!;
    const blocks = { blocks: BLOCKS, end: 64 * MIB };
    void asked.answer(blocks);
    for (let i = 0; i < steps; i++) await Promise.resolve();
    await truncate.answer(inodeReply(INO, "write", { version: 2, size: 20 * PAGE }));
    for (let call = nameserver.calls[0]; call !== undefined; call = nameserver.calls[0]) {
      if (call.method === "commit") await commit(client, 3, { size: 20 * PAGE });
      else await call.answer(call.method === "blocks" ? blocks : { ok: true });
    }
    assert.deepEqual([truncating.state, working.state], ["done", "done"], `${steps} steps`);
    check(client, working.value);
  }
}

Deno.test("read: what a truncate beside it makes unknown is no hole", () =>
  besideTruncate(
    (client, handle) => client.files.read(handle, 0, 8 * PAGE, false, PATIENT),
    (_client, parts) =>
      assert.ok((parts as Uint8Array[]).every((part) => part.length > 0 && part.every((byte) => byte === 7))),
  ));

Deno.test("fsync: a block that a truncate beside it makes unknown is synced", () =>
  besideTruncate(
    async (client, handle) => {
      const block = BLOCKS[0]!;
      handle.file.unsynced.set(block.id, { start: 0, since: block.generation });
      handle.file.restSyncedAt = handle.file.inode.grants; // nobody else has written to it
      await client.files.fsync(handle);
    },
    (client) => assert.deepEqual(client.dataservers.syncs, [1]),
  ));

Deno.test("SEEK_HOLE and copy_file_range: a truncate beside them makes no hole of what is data", async () => {
  await besideTruncate(
    (client, handle) => client.ranges.seek(handle, 0, true, PATIENT),
    (_client, found) => assert.equal(found, 0),
  );
  await besideTruncate(
    (client, handle) => client.ranges.copy(handle, handle, { from: 0, to: 12 * PAGE, length: PAGE }, PATIENT),
    (client, copied) => {
      assert.equal(copied, PAGE);
      assert.ok(client.events.includes(`copy 1 0+${PAGE} to 1 ${12 * PAGE}`));
    },
  );
});
