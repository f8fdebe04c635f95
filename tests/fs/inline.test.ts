/** Small files' data that the nameserver keeps itself: what a client reports, keeps, and moves to blocks. */

import assert from "node:assert/strict";
import { concatBytes, textOf } from "../../base/bytes.ts";
import { InlineBuffer } from "../../fs/inline_buffer.ts";
import { InlineCache } from "../../fs/inline_cache.ts";
import { Inode } from "../../fs/inode.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asInodeId } from "../../wire/ids.ts";
import {
  attributesOf,
  blockOf,
  INO,
  inodeReply,
  nameOf,
  opened,
  PATIENT,
  quiet,
  READ_ONLY,
  startClient,
  type TestClient,
  watch,
  WRITING,
} from "./client.ts";

const HOW = { append: false, isWriteback: false, killSuidGid: false };

function limited(limit = 16): TestClient {
  const client = startClient();
  client.session.inlineLimit = limit;
  return client;
}

async function read(client: TestClient, handle: Awaited<ReturnType<typeof opened>>, size = 100) {
  return textOf(concatBytes(await client.files.read(handle, 0, size, true, PATIENT)));
}

const some = (text: string) => ({
  changes: { size: text.length, inlineBytes: text.length },
  inline: nameOf(text),
});

Deno.test("inline: writes wait for nobody, are read at once, and go with one report", async () => {
  const client = limited();
  const handle = await opened(client, WRITING);
  await client.files.write(handle, 0, nameOf("hello"), HOW, PATIENT);
  await client.files.write(handle, 3, nameOf("p!"), HOW, PATIENT);
  assert.equal(await read(client, handle), "help!");
  assert.equal(client.nameserver.calls.length, 0);
  const closing = watch(client.files.flush(handle));
  const { request, answer } = await client.nameserver.next("commit");
  assert.deepEqual([request.inline, textOf(request.body!), request.size], [
    [{ offset: 0, length: 5 }],
    "help!",
    5,
  ]);
  await answer(inodeReply(INO, "write", { size: 5, inlineBytes: 5, version: 9 }));
  assert.equal(closing.state, "done");
  assert.equal(await read(client, handle), "help!");
  assert.deepEqual([client.dataservers.writes, client.nameserver.calls.length], [[], 0]);
});

Deno.test("inline: what a reply has brought is read without a call, and asked for once it was dropped", async () => {
  const client = limited();
  const { changes, inline } = some("abc");
  const handle = await opened(client, READ_ONLY, changes, { inline });
  assert.equal(await read(client, handle), "abc");
  assert.equal(client.nameserver.calls.length, 0);
  client.table.inline.drop(handle.file.inode);
  const reading = watch(read(client, handle));
  await client.nameserver.answer("blocks", { blocks: [], end: 1, inline });
  assert.equal(reading.value, "abc");
});

Deno.test("inline: a report that fails is made again, with what came meanwhile", async () => {
  const client = limited();
  const handle = await opened(client, WRITING);
  await client.files.write(handle, 0, nameOf("ab"), HOW, PATIENT);
  const closing = watch(client.files.flush(handle));
  await (await client.nameserver.next("commit")).fail(new Error("lost"));
  assert.equal(closing.state, "failed");
  await client.files.write(handle, 4, nameOf("c"), HOW, PATIENT);
  void client.files.flush(handle);
  const { request } = await client.nameserver.next("commit");
  assert.deepEqual([request.inline, textOf(request.body!)], [[{ offset: 0, length: 5 }], "ab\0\0c"]);
});

Deno.test("inline: growing over the limit moves what is synced to disks before the nameserver drops it", async () => {
  const client = limited();
  const { changes, inline } = some("abc");
  const handle = await opened(client, WRITING, changes, { inline });
  client.events.length = 0;
  const writing = watch(client.files.write(handle, 3, nameOf("x".repeat(20)), HOW, PATIENT));
  await client.nameserver.answer("allocateBlock", { block: blockOf(7, 0, 1024, false) });
  assert.equal(writing.state, "done");
  await quiet();
  const of = client.events.filter((event) => /^(data|sync)/.test(event));
  assert.deepEqual(of.slice(0, 2).map((event) => event.split(" ")[0]), ["data", "sync"], of.join());
  void client.files.flush(handle);
  const { request } = await client.nameserver.next("commit");
  assert.deepEqual([request.outgrown, request.inline, request.size], [true, undefined, 23]);
  assert.equal(request.written.length, 1);
});

Deno.test("inline: what could not be moved to blocks is beside the inode still, and no report speaks of blocks", async () => {
  const client = limited();
  const { changes, inline } = some("abc");
  const handle = await opened(client, WRITING, changes, { inline });
  client.dataservers.onSync = () => Promise.reject(new FsError("ENOSPC", "full"));
  const writing = watch(client.files.write(handle, 3, nameOf("x".repeat(20)), HOW, PATIENT));
  await client.nameserver.answer("allocateBlock", { block: blockOf(7, 0, 1024, false) });
  await quiet();
  assert.ok(isErrno(writing.error, "ENOSPC"));
  assert.equal(client.dataservers.writes.length, 1);
  assert.equal(await read(client, handle), "abc");
  void client.files.flush(handle).catch(() => {});
  const { request, answer } = await client.nameserver.next("commit");
  assert.deepEqual([request.outgrown, request.written], [undefined, []]);
  await answer(inodeReply(INO, "write", { size: 3, inlineBytes: 3, version: 9 }));
  // What was sent there may have been cut off since: nothing of it is left when it is tried again.
  client.dataservers.onSync = () => Promise.resolve();
  client.events.length = 0;
  const again = watch(client.files.write(handle, 50, nameOf("x".repeat(20)), HOW, PATIENT));
  await quiet();
  assert.equal(again.state, "done");
  const sent = client.events.filter((event) => /^(zero|data)/.test(event));
  assert.deepEqual(sent.slice(0, 2), ["zero 7 0+1024", "data 7 0+3"]);
});

Deno.test("inline buffer: ranges are merged, and bounded in number", () => {
  const buffer = new InlineBuffer(nameOf("0123456789"));
  buffer.write(2, nameOf("ab"));
  buffer.write(4, nameOf("c"));
  buffer.write(8, nameOf("d"));
  const { ranges, body } = buffer.take();
  assert.deepEqual(ranges, [{ offset: 2, length: 3 }, { offset: 8, length: 1 }]);
  assert.equal(textOf(body), "abcd");
  assert.ok(buffer.isClean);
  for (let i = 0; i < 1000; i++) buffer.write(i * 2, nameOf("x"));
  const { ranges: many, body: all } = buffer.take();
  assert.ok(many.length <= 64, `${many.length}`);
  assert.equal(many.reduce((sum, { length }) => sum + length, 0), all.length);
  assert.equal(buffer.length, 1999);
});

Deno.test("inline cache: its bytes are bounded, and what was used last stays", () => {
  const cache = new InlineCache(3_000);
  const inodes = Array.from({ length: 5 }, (_, i) => new Inode(attributesOf(asInodeId(i + 10))));
  for (const inode of inodes) {
    cache.keep(inode, new Uint8Array(500));
    if (inodes[0]!.inline !== null) cache.keep(inodes[0]!, inodes[0]!.inline);
  }
  assert.ok(cache.bytes <= 3_000);
  assert.deepEqual(inodes.map(({ inline }) => inline !== null), [true, false, false, false, true]);
});

Deno.test("inline: what a truncate has made longer than the limit keeps its data there, until a write goes past it", async () => {
  const client = limited();
  const { inline } = some("abc");
  const handle = await opened(client, WRITING, { size: 5_000, inlineBytes: 3 }, { inline });
  const { file } = handle;
  const read = await client.files.read(handle, 0, 10_000, false, PATIENT);
  assert.deepEqual([read.reduce((sum, { length }) => sum + length, 0), textOf(read[0]!)], [5_000, "abc"]);
  await client.files.write(handle, 1, nameOf("X"), HOW, PATIENT);
  assert.equal(file.inlineBytes, 3);
  const growing = watch(client.files.write(handle, 4_000, nameOf("end"), HOW, PATIENT));
  await client.nameserver.answer("allocateBlock", { block: blockOf(7, 0, 8_192, false) });
  await quiet();
  assert.deepEqual([growing.state, file.inlineBytes, file.size], ["done", 0, 5_000]);
});
