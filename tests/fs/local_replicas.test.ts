/**
 * Replicas of this machine that a client reads from their files: when it does, when it asks a dataserver instead, and what
 * ends it. The file and the dataserver hold different bytes, so that a read shows where it went.
 */

import assert from "node:assert/strict";
import type { Handle } from "../../fs/files.ts";
import { FsError } from "../../wire/errno.ts";
import { asGeneration, asNodeId, asVolumeId } from "../../wire/ids.ts";
import type { LocateReplicaReply, ReplicaRequest } from "../../wire/messages/dataserver.ts";
import type { Block, ReplicaLocation } from "../../wire/messages/inode.ts";
import {
  acquireReply,
  blockOf,
  INO,
  inodeReply,
  MACHINE,
  opened,
  PATIENT,
  quiet,
  READ_ONLY,
  recall,
  startClient,
  type TestClient,
  WRITING,
} from "./client.ts";
import { CHUNK, crcsOf, identityOf } from "./replica_file.ts";

const LENGTH = 4 * CHUNK;
const FILE = 3;
const SERVED = 7;
const HOW = { append: false, isWriteback: false, isSynced: false, killSuidGid: false };

interface World extends AsyncDisposable {
  readonly client: TestClient;
  readonly path: string;
  /** Locations that were asked for, as ADDRESS.GENERATION. */
  readonly located: string[];
  where(): LocateReplicaReply;
}

async function start(): Promise<World> {
  const directory = await Deno.makeTempDir({ dir: "/var/tmp" });
  const path = `${directory}/1.blk`;
  const bytes = new Uint8Array(LENGTH).fill(FILE);
  await Deno.writeFile(path, bytes);
  const client = startClient();
  const located: string[] = [];
  const where = () => ({
    file: { machine: MACHINE, path, identity: identityOf(path), length: LENGTH, chunkBytes: CHUNK },
    body: crcsOf(bytes),
  });
  client.dataservers.onLocate = (address: string, { generation }: ReplicaRequest) => {
    located.push(`${address}.${generation}`);
    return Promise.resolve(where());
  };
  return {
    client,
    path,
    located,
    where,
    async [Symbol.asyncDispose]() {
      client.localReplicas.close();
      await Deno.remove(directory, { recursive: true });
    },
  };
}

/** Lets calls of the pool return, which no clock of ours moves. */
async function settled(): Promise<void> {
  for (let i = 0; i < 20; i++) {
    await quiet();
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

function openFor(
  client: TestClient,
  blocks: readonly Block[],
  how = READ_ONLY,
  size = LENGTH,
): Promise<Handle> {
  return opened(client, how, { size }, { blocks });
}

/** The bytes of a read that takes the longer way. */
async function read(client: TestClient, handle: Handle, offset: number, length: number): Promise<Uint8Array> {
  const parts = await client.files.read(handle, offset, length, false, PATIENT);
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

async function readsFrom(client: TestClient, handle: Handle): Promise<number> {
  const bytes = await read(client, handle, 0, 4096);
  assert.equal(bytes.length, 4096);
  assert.ok(bytes.every((byte) => byte === bytes[0]));
  return bytes[0]!;
}

/** A file whose replica was located: reads go to the file. */
async function located(world: World, how = READ_ONLY): Promise<Handle> {
  const handle = await openFor(world.client, [blockOf(1, 0, LENGTH)], how);
  await readsFrom(world.client, handle);
  await settled();
  assert.equal(await readsFrom(world.client, handle), FILE);
  return handle;
}

Deno.test("local replicas: the first read goes to the dataserver, those after it to the file", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await openFor(client, [blockOf(1, 0, LENGTH)]);
  assert.equal(await readsFrom(client, handle), SERVED);
  await settled();
  assert.deepEqual(world.located, ["dataserver.1"]);
  assert.equal(await readsFrom(client, handle), FILE);
  const now = client.files.readNow(handle, CHUNK - 10, 20, true);
  assert.deepEqual(now, new Uint8Array(20).fill(FILE));
  assert.equal(handle.file.inode.hasPages, true, "by the read before");
  assert.deepEqual(client.reader.counts, { cached: 1, disk: 1, served: 1, ahead: 0 });
});

Deno.test("local replicas: what is read at once counts as pages of the kernel's, unless it goes past its cache", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await located(world);
  const { inode } = handle.file;
  for (const isDirect of [true, false]) {
    inode.hasPages = false;
    assert.notEqual(client.files.readNow(handle, 0, 4096, isDirect), null);
    assert.equal(inode.hasPages, !isDirect);
  }
});

Deno.test("local replicas: where the file ends before its block there are zeros; past the end of the file nothing", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await openFor(client, [blockOf(1, 0, 16 * CHUNK)], READ_ONLY, LENGTH + 100);
  await readsFrom(client, handle);
  await settled();
  const end = await read(client, handle, LENGTH - 10, 1000);
  assert.deepEqual(end, Uint8Array.from([...new Array(10).fill(FILE), ...new Array(100).fill(0)]));
  assert.equal(client.files.readNow(handle, LENGTH - 10, 1000, true), null, "that takes the longer way");
  assert.deepEqual(await read(client, handle, LENGTH + 50, 10), new Uint8Array(10));
  assert.equal(client.reader.counts.served, 1);
});

Deno.test("local replicas: nothing is read at once while a lease is being taken back, or the session may be over", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await located(world);
  client.session.isValid = false;
  assert.equal(client.files.readNow(handle, 0, 10, false), null);
  client.session.revive();
  assert.notEqual(client.files.readNow(handle, 0, 10, false), null);
  client.kernel.holds = (message) => message.startsWith("pages");
  const taking = recall(client, { keep: "none" });
  await quiet();
  assert.equal(taking.state, "waits");
  assert.equal(client.files.readNow(handle, 0, 10, false), null);
  for (const held of [...client.kernel.held]) await held.release();
  await quiet();
  assert.equal(taking.state, "done");
  assert.equal(client.files.readNow(handle, 0, 10, false), null);
});

Deno.test("local replicas: a recall ends it; under the next lease the replica is located anew", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await located(world);
  await recall(client, { keep: "none" }).promise;
  const reading = readsFrom(client, handle);
  const block = { ...blockOf(1, 0, LENGTH), generation: asGeneration(2) };
  await client.nameserver.answer("acquire", acquireReply(INO, "read", { size: LENGTH }, { blocks: [block] }));
  assert.equal(await reading, SERVED);
  await settled();
  assert.deepEqual(world.located, ["dataserver.1", "dataserver.2"]);
  assert.equal(await readsFrom(client, handle), FILE);
});

Deno.test("local replicas: a location that a recall has crossed is not used", async () => {
  await using world = await start();
  const { client } = world;
  const answer = Promise.withResolvers<LocateReplicaReply>();
  client.dataservers.onLocate = () => answer.promise;
  const handle = await openFor(client, [blockOf(1, 0, LENGTH)]);
  await readsFrom(client, handle);
  await recall(client, { keep: "none" }).promise;
  const reading = readsFrom(client, handle);
  client.dataservers.onLocate = () => Promise.resolve({ body: new Uint8Array(0) });
  const reply = acquireReply(INO, "read", { size: LENGTH }, { blocks: [blockOf(1, 0, LENGTH)] });
  await client.nameserver.answer("acquire", reply);
  assert.equal(await reading, SERVED);
  answer.resolve(world.where());
  await settled();
  assert.equal(await readsFrom(client, handle), SERVED);
});

Deno.test("local replicas: a lost session ends it", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await located(world);
  await client.recalls.lost();
  const reading = readsFrom(client, handle);
  client.dataservers.onLocate = () => Promise.resolve({ body: new Uint8Array(0) });
  const reply = acquireReply(INO, "read", { size: LENGTH }, { blocks: [blockOf(1, 0, LENGTH)] });
  await client.nameserver.answer("acquire", reply);
  assert.equal(await reading, SERVED);
});

Deno.test("local replicas: what is written here ends it, until the replica is at rest and located anew", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await located(world, WRITING);
  let isAtRest = false;
  client.dataservers.onLocate = () => Promise.resolve(isAtRest ? world.where() : { body: new Uint8Array(0) });
  await client.files.write(handle, 0, new Uint8Array(4096), HOW, PATIENT);
  await quiet();
  assert.equal(client.files.readNow(handle, CHUNK, 10, true), null);
  assert.equal(await readsFrom(client, handle), SERVED);
  const committing = client.writer.commit(handle.file, false);
  await client.nameserver.answer("commit", inodeReply(INO, "write", { size: LENGTH, version: 2 }));
  await committing;
  for (let i = 0; i < 3; i++) {
    await settled();
    assert.equal(await readsFrom(client, handle), SERVED, "not at rest");
    await client.clock.advance(3_000);
  }
  isAtRest = true;
  await readsFrom(client, handle);
  await settled();
  assert.equal(await readsFrom(client, handle), FILE);
});

Deno.test("local replicas: a location that was asked for while something was being written is not used", async () => {
  await using world = await start();
  const { client } = world;
  const answer = Promise.withResolvers<LocateReplicaReply>();
  client.dataservers.onLocate = () => answer.promise;
  const handle = await openFor(client, [blockOf(1, 0, LENGTH)], WRITING);
  await readsFrom(client, handle);
  await client.files.write(handle, 0, new Uint8Array(4096), HOW, PATIENT);
  await quiet();
  answer.resolve(world.where());
  await settled();
  client.dataservers.onLocate = () => Promise.resolve({ body: new Uint8Array(0) });
  assert.equal(await readsFrom(client, handle), SERVED);
});

Deno.test("local replicas: bytes that are not those that were written come from the dataserver", async () => {
  await using world = await start();
  const { client } = world;
  const file = await Deno.open(world.path, { write: true });
  await file.write(Uint8Array.of(1));
  file.close();
  const handle = await openFor(client, [blockOf(1, 0, LENGTH)]);
  await readsFrom(client, handle);
  await settled();
  assert.equal(await readsFrom(client, handle), SERVED);
  assert.deepEqual(client.reader.counts, { cached: 0, disk: 0, served: 2, ahead: 0 });
  // The dataserver finds out what is wrong, and another replica takes its place; meanwhile it is asked.
  assert.equal(await readsFrom(client, handle), SERVED);
  await settled();
  assert.equal(world.located.length, 1);
});

Deno.test("local replicas: a dataserver of another machine, or an older one, is asked once for all blocks", async () => {
  for (const isOld of [false, true]) {
    await using world = await start();
    const { client } = world;
    const asked: string[] = [];
    client.dataservers.onLocate = (address) => {
      asked.push(address);
      if (address === "here") return Promise.resolve(world.where());
      if (isOld) return Promise.reject(new FsError("ENOSYS", "unknown operation"));
      const reply = world.where();
      return Promise.resolve({ ...reply, file: { ...reply.file!, machine: "another machine" } });
    };
    const replicas = ["there", "here"].map((address, i): ReplicaLocation => ({
      node: asNodeId(i + 1),
      volume: asVolumeId(i + 1),
      address,
      host: address,
      alive: true,
    }));
    const blocks = [0, 1, 2].map((i) => ({ ...blockOf(i + 1, i * LENGTH, LENGTH), replicas }));
    const handle = await openFor(client, blocks, READ_ONLY, 3 * LENGTH);
    for (let i = 0; i < 3; i++) {
      for (const block of blocks) {
        await read(client, handle, block.start, 10);
        await settled();
      }
    }
    assert.deepEqual(asked, ["there", "here", "here", "here"]);
    assert.equal((await read(client, handle, 2 * LENGTH, 1))[0], FILE);
  }
});

Deno.test("local replicas: a file that may not be opened is said to be so, and not tried again soon", async () => {
  await using world = await start();
  const { client } = world;
  client.dataservers.onLocate = () => {
    world.located.push("");
    return Promise.reject(new FsError("EACCES", "open /v/1.blk: EACCES"));
  };
  const handle = await openFor(client, [blockOf(1, 0, LENGTH)]);
  for (let i = 0; i < 3; i++) {
    assert.equal(await readsFrom(client, handle), SERVED);
    await settled();
    await client.clock.advance(10_000);
  }
  assert.equal(world.located.length, 1);
  assert.equal(client.localReplicas.refused, "open /v/1.blk: EACCES");
});

Deno.test("local replicas: small files are not located", async () => {
  await using world = await start();
  const { client } = world;
  const handle = await openFor(client, [blockOf(1, 0, LENGTH)], READ_ONLY, 4096);
  for (let i = 0; i < 3; i++) {
    assert.equal(await readsFrom(client, handle), SERVED);
    await settled();
  }
  assert.deepEqual(world.located, []);
});

function isOpen(path: string): boolean {
  return [...Deno.readDirSync("/proc/self/fd")].some(({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${name}`) === path;
    } catch {
      return false;
    }
  });
}

Deno.test("local replicas: what is not used for 5 s, or open for a minute, is closed and found again", async () => {
  await using world = await start();
  const { client, path } = world;
  const handle = await located(world);
  const ending = new AbortController();
  const background = client.files.run(ending.signal);
  const pass = async (seconds: number) => {
    for (let s = 0; s < seconds; s++) await client.clock.advance(1_000);
  };
  await pass(4);
  assert.equal(isOpen(path), true);
  assert.notEqual(client.files.readNow(handle, 0, 10, false), null);
  await pass(4);
  assert.equal(isOpen(path), true, "it was used");
  await pass(4);
  assert.equal(isOpen(path), false);
  await readsFrom(client, handle);
  await settled();
  assert.equal(isOpen(path), true);
  let s = 0;
  for (; s < 100 && client.files.readNow(handle, 0, 10, false) !== null; s++) await pass(1);
  assert.ok(s >= 55 && s <= 65, `closed after ${s} s`);
  await settled(); // it is found again
  ending.abort();
  await pass(1);
  await background;
});

Deno.test("local replicas: files of a dataserver that is gone are closed, also those that were about to be opened", async () => {
  await using world = await start();
  const { client, path } = world;
  const handle = await located(world);
  client.localReplicas.gone("another");
  assert.equal(isOpen(path), true);
  client.localReplicas.gone("dataserver");
  assert.equal(isOpen(path), false);
  assert.equal(client.files.readNow(handle, 0, 10, false), null);
  await client.clock.advance(3_000);
  const answer = Promise.withResolvers<LocateReplicaReply>();
  client.dataservers.onLocate = () => answer.promise;
  await readsFrom(client, handle);
  await quiet();
  client.localReplicas.gone("dataserver");
  answer.resolve(world.where());
  await settled();
  assert.equal(isOpen(path), false);
});
