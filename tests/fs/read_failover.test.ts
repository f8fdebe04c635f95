/** A read of which one replica hangs, and another has a generation that the client does not know yet. */

import assert from "node:assert/strict";
import { FsError } from "../../wire/errno.ts";
import { asGeneration, asNodeId, asVolumeId } from "../../wire/ids.ts";
import type { Block, ReplicaLocation } from "../../wire/messages/inode.ts";
import { blockOf, opened, PATIENT, quiet, READ_ONLY, startClient, watch } from "./client.ts";

const LENGTH = 4096;
const HEDGE_MS = 400;
/** What a read may take when one server hangs. */
const FAILOVER_MS = 1_000;

function blockAt(generation: number, ...addresses: readonly string[]): Block {
  const replicas = addresses.map((address, i): ReplicaLocation => ({
    node: asNodeId(i + 1),
    volume: asVolumeId(i + 1),
    address,
    host: address,
    alive: true,
  }));
  return { ...blockOf(1, 0, 1 << 20), generation: asGeneration(generation), replicas };
}

const stale = () => Promise.reject(new FsError("ESTALE", "another generation"));
const hung = () => new Promise<void>(() => {});

async function start() {
  const client = startClient();
  const handle = await opened(client, READ_ONLY, { size: LENGTH }, { blocks: [blockAt(1, "a", "b")] });
  client.nameserver.asked.length = 0;
  const asked: string[] = [];
  const { onRead } = client.dataservers;
  const answers = new Map<string, () => Promise<void>>();
  client.dataservers.onRead = (address, generation, block) => {
    asked.push(`${address}.${generation}`);
    return answers.get(`${address}.${generation}`)?.() ?? onRead(address, generation, block);
  };
  const read = () => watch(client.files.read(handle, 0, LENGTH, false, PATIENT));
  return { client, asked, answers, read };
}

Deno.test("read: one replica hangs and the other is ahead of what is known: the block is looked up, nobody is waited for", async () => {
  const { client, asked, answers, read } = await start();
  const { clock, nameserver } = client;
  answers.set("a.1", hung).set("b.1", stale);
  const startMs = clock.monotonicMs();
  const reading = read();
  await clock.advance(HEDGE_MS);
  assert.deepEqual(asked, ["a.1", "b.1"]);
  await clock.advance(100);
  await nameserver.answer("blocks", { blocks: [blockAt(2, "b", "c")], end: 1 << 20 });
  assert.equal(reading.state, "done");
  assert.deepEqual(asked, ["a.1", "b.1", "b.2"]);
  assert.ok(clock.monotonicMs() - startMs < FAILOVER_MS);
  await clock.advance(60_000);
  assert.deepEqual([nameserver.asked, asked.length], [["blocks"], 3], "and nothing goes on behind it");
});

Deno.test("read: as long as the nameserver says that nothing has changed, who is slow may still answer", async () => {
  const { client, asked, answers, read } = await start();
  const { clock, nameserver } = client;
  const slow = Promise.withResolvers<void>();
  answers.set("a.1", () => slow.promise).set("b.1", stale);
  const reading = read();
  await clock.advance(HEDGE_MS + 100);
  for (let i = 0; i < 3; i++) {
    await nameserver.answer("blocks", { blocks: [blockAt(1, "a", "b")], end: 1 << 20 });
    await clock.advance(300);
  }
  assert.equal(reading.state, "waits");
  slow.resolve();
  await quiet();
  assert.equal(reading.state, "done");
  await nameserver.answer("blocks", { blocks: [blockAt(1, "a", "b")], end: 1 << 20 });
  await clock.advance(60_000);
  assert.equal(nameserver.asked.length, 4, "nobody goes on asking");
  assert.deepEqual(asked, ["a.1", "b.1"], "nobody is asked twice");
});

Deno.test("read: a block that was dropped meanwhile reads as zeros", async () => {
  const { client, answers, read } = await start();
  answers.set("a.1", hung).set("b.1", stale);
  const reading = read();
  await client.clock.advance(HEDGE_MS + 100);
  await client.nameserver.answer("blocks", { blocks: [], end: 1 << 20 });
  assert.equal(reading.state, "done");
  assert.deepEqual(reading.value, [new Uint8Array(LENGTH)]);
});

Deno.test("read: a lookup that fails leaves it to who is asked", async () => {
  const { client, asked, answers, read } = await start();
  const { clock, nameserver } = client;
  answers.set("a.1", hung).set("b.1", stale);
  const reading = read();
  await clock.advance(HEDGE_MS + 100);
  await (await nameserver.next("blocks")).fail(new FsError("EIO", "not now"));
  assert.equal(reading.state, "waits");
  await clock.advance(300);
  await nameserver.answer("blocks", { blocks: [blockAt(2, "c")], end: 1 << 20 });
  assert.equal(reading.state, "done");
  assert.deepEqual(asked, ["a.1", "b.1", "c.2"]);
});
