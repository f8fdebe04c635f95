/** Blocks that come with names, and the first block that comes with a new file. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { gate, rest } from "../leaseserver/harness.ts";
import { addDataservers, makeService, ServiceClient } from "./service.ts";

const credentials = { uid: 0, gid: 0 };
const name = bytesOf;

// ---- small files

async function startWithBlocks() {
  const service = await makeService();
  await addDataservers(service);
  const [a, b] = [await ServiceClient.connect(service, "a"), await ServiceClient.connect(service, "b")];
  const create = (client: ServiceClient, file: string, options: object) =>
    client.call("create", {
      retry: client.tag(),
      parent: ROOT_INODE,
      name: name(file),
      credentials,
      mode: 0o644,
      exclusive: true,
      write: true,
      ...options,
    });
  return { service, a, b, create };
}

const allocate = async (client: ServiceClient, ino: InodeId, offset: number) =>
  (await client.call("allocateBlock", { retry: client.tag(), ino, offset, host: "a", avoid: [] })).block;

Deno.test("small files: their blocks come wherever they are shown, as far as they may be kept", async () => {
  const { service, a, b, create } = await startWithBlocks();
  const { attributes: { ino } } = await create(a, "f", {});
  const block = await allocate(a, ino, 0);
  await a.release(ino, "read");
  const found = (await b.lookup("f")).inode!;
  assert.deepEqual([found.lease, found.blocks], ["read", [block]]);
  const list = await b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true });
  assert.deepEqual(list.entries[0]!.inode!.blocks, [block]);
  const empty = await create(a, "empty", {});
  await a.release(empty.attributes.ino, "read");
  assert.deepEqual((await b.lookup("empty")).inode!.blocks, []);
  // Nobody would tell of a change of these.
  assert.equal((await new ServiceClient(service).lookup("f")).inode!.blocks, undefined);
  const dir = await a.mkdir("d");
  assert.equal((await b.lookup("d")).inode!.blocks, undefined);
  assert.equal((await b.call("getattr", { ino: dir })).blocks, undefined);
});

Deno.test("small files: a file of more blocks shows none of them but to who opens it", async () => {
  const { a, b, create } = await startWithBlocks();
  const { attributes: { ino } } = await create(a, "f", {});
  const blocks = [await allocate(a, ino, 0), await allocate(a, ino, 5_000)];
  await a.release(ino, "read");
  assert.equal((await b.lookup("f")).inode!.blocks, undefined);
  const opened = await b.open(ino);
  assert.deepEqual([opened.blocks, opened.blocksComplete], [blocks, true]);
});

Deno.test("small files: a writer's file is shown with the blocks that it has reported", async () => {
  const { a, b, create } = await startWithBlocks();
  const { attributes: { ino } } = await create(a, "f", {});
  const block = await allocate(a, ino, 0);
  a.onRecall = async () => {
    const written = [{ block: block.id, start: 0 }];
    await a.call("commit", {
      retry: a.tag(),
      ino,
      size: 100,
      mtime: { seconds: 9, nanoseconds: 0 },
      written,
      durable: false,
      killSuidGid: false,
    });
  };
  const { attributes, blocks } = (await b.lookup("f")).inode!;
  const { allocated: _, ...reported } = block; // which it has not told
  assert.deepEqual([attributes.size, blocks], [100, [{ ...reported, written: true }]]);
});

Deno.test("first block: comes with a new file whose maker writes and says where it is", async () => {
  const { a, create } = await startWithBlocks();
  const made = await create(a, "f", { host: "b" });
  assert.deepEqual([made.blocks.length, made.blocksComplete, made.lease], [1, true, "write"]);
  const [block] = made.blocks;
  assert.deepEqual([block!.start, block!.length, block!.written], [0, 1024, false]);
  assert.equal(block!.replicas[0]!.host, "b", "near the writer");
  assert.equal(block!.replicas.length, 2);
  assert.equal((await allocate(a, made.attributes.ino, 0)).id, block!.id, "it is the one that a write gets");
  assert.deepEqual((await create(a, "no host", {})).blocks, []);
  assert.deepEqual((await create(a, "reader", { write: false, host: "b" })).blocks, []);
  const again = await create(a, "f", { exclusive: false, host: "c" });
  assert.deepEqual([again.created, again.blocks[0]!.id], [false, block!.id]);
});

Deno.test("first block: a file is made also when there is no room for it", async () => {
  const service = await makeService();
  const a = await ServiceClient.connect(service, "a");
  const made = await a.call("create", {
    retry: a.tag(),
    parent: ROOT_INODE,
    name: name("f"),
    credentials,
    mode: 0o644,
    exclusive: true,
    write: true,
    host: "b",
  });
  assert.deepEqual([made.created, made.blocks, made.lease], [true, [], "write"]);
});

Deno.test("first block: goes again when the file is closed without a write and nobody else knows it", async () => {
  const { service, a, b, create } = await startWithBlocks();
  const blocksOf = (client: ServiceClient, ino: InodeId) =>
    client.call("blocks", { ino, offset: 0, length: 1 << 20 }).then(({ blocks }) => blocks.length);
  const totals = () => service.namespace.totals.get("blocks");

  const unused = (await create(a, "unused", { host: "a" })).attributes.ino;
  await a.release(unused, "read", [unused]);
  assert.deepEqual([await blocksOf(a, unused), totals()], [0, 0]);

  const seen = (await create(a, "seen", { host: "a" })).attributes.ino;
  assert.equal((await b.lookup("seen")).inode!.blocks!.length, 1);
  await a.release(seen, "read", [seen]);
  assert.equal(await blocksOf(a, seen), 1, "b was told of the block, and may read or write it");

  const known = (await create(a, "known", { host: "a" })).attributes.ino;
  await b.lookup("known");
  await b.release(known);
  await a.release(known, "read", [known]);
  assert.equal(await blocksOf(a, known), 0, "b has given back what it knew");

  const written = (await create(a, "written", { host: "a" })).attributes.ino;
  await a.commit(written, 1);
  await a.release(written, "read", [written]);
  assert.equal(await blocksOf(a, written), 1, "what has data stays, whatever the client says");

  const looking = (await create(a, "looking", { host: "a" })).attributes.ino;
  const answer = gate();
  a.onRecall = answer.wait;
  const opening = b.open(looking);
  await rest();
  await a.release(looking, "read", [looking]);
  answer.open();
  assert.equal((await opening).blocks.length, 1, "b is about to look, and sees what stays");
  await a.release(999 as InodeId, "none", [999 as InodeId, ROOT_INODE]);
});
