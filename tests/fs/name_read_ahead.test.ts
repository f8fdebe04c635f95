/** Reading ahead in directories: when it begins and goes on, what is kept of it, and what is given back. */

import assert from "node:assert/strict";
import { ABSENT, type Inode } from "../../fs/inode.ts";
import { bytesKey } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { asInodeId } from "../../wire/ids.ts";
import { S_IFDIR } from "../../wire/messages/inode.ts";
import type { ReadDirectoryReply, ReadDirectoryRequest } from "../../wire/messages/nameserver.ts";
import {
  inodeReply,
  know,
  nameOf,
  PATIENT,
  quiet,
  ROOT,
  startClient,
  type TestClient,
  type Told,
} from "./client.ts";

const FIRST = 1_000;
const inoOf = (i: number) => asInodeId(FIRST + i);

/** Entries [from, to) of a directory, "0" of inode 1000 and so on. */
function page(
  from: number,
  to: number,
  end: boolean,
  more: Partial<ReadDirectoryReply> = {},
): ReadDirectoryReply {
  const entries = Array.from({ length: to - from }, (_, at) => {
    const i = from + at;
    return {
      name: nameOf(`${i}`),
      ino: inoOf(i),
      type: 8,
      cookie: 10 + i,
      inode: inodeReply(inoOf(i), "read"),
    };
  });
  return { parent: ROOT, directory: "read", entries, end, ...more };
}

/** A client that has asked for three names of the root, one by one. */
async function startAfterMisses(lease: "read" | "exclusive" = "read") {
  const client = startClient();
  const root = know(client, ROOT, lease, { mode: S_IFDIR | 0o755 });
  for (const name of ["x", "y", "z"]) await ask(client, nameOf(name));
  return { ...client, root };
}

/** A lookup of a name that is not known, and is absent. */
async function ask({ names, nameserver }: TestClient, name: Uint8Array): Promise<void> {
  const looking = names.lookup(ROOT, name, PATIENT);
  assert.ok(looking instanceof Promise);
  await quiet();
  const call = nameserver.calls.find(({ method }) => method === "lookup");
  await call!.answer({ directory: "read" });
  await looking;
}

async function requested({ nameserver }: TestClient): Promise<ReadDirectoryRequest> {
  return (await nameserver.next("readDirectory")).request;
}

/** The kernel looks a name up, and has it without a call. */
function find({ names }: TestClient, i: number): Inode {
  const found = names.lookup(ROOT, nameOf(`${i}`), PATIENT);
  assert.ok(!(found instanceof Promise), `${i} is known`);
  found.inode!.lookups++;
  return found.inode!;
}

Deno.test("read-ahead: begins behind the third name that is asked for; what comes is found without asking", async () => {
  const client = await startAfterMisses();
  const { nameserver, names, root } = client;
  assert.deepEqual(nameserver.asked, ["lookup", "lookup", "lookup", "readDirectory"]);
  const request = await requested(client);
  assert.deepEqual([request.cookie, request.limit, request.withInodes, request.ahead, request.wantsFound], [
    ...[2, 128, true, true, undefined],
  ]);
  await nameserver.answer("readDirectory", page(0, 3, true));
  assert.equal(find(client, 2).ino, inoOf(2));
  assert.ok(root.isComplete);
  const absent = names.lookup(ROOT, nameOf("none"), PATIENT);
  assert.deepEqual(absent, { inode: null, isKept: true });
  assert.equal(root.entries?.get(bytesKey(nameOf("none"))), ABSENT);
});

Deno.test("read-ahead: goes on when half of a page was asked for, with larger ones", async () => {
  const client = await startAfterMisses();
  const { nameserver, root } = client;
  await nameserver.answer("readDirectory", page(0, 128, false));
  for (let i = 0; i < 63; i++) find(client, i);
  for (let i = 0; i < 63; i++) find(client, i); // again: it counts once
  assert.equal(nameserver.calls.length, 0);
  find(client, 63);
  const request = await requested(client);
  assert.deepEqual([request.cookie, request.limit], [10 + 127, 256]);
  await nameserver.answer("readDirectory", page(128, 200, true));
  find(client, 199);
  assert.ok(root.isComplete);
});

Deno.test("read-ahead: what came with a listing is no reason to begin", async () => {
  const client = startClient();
  const { readAhead, nameserver, table } = client;
  const root = know(client, ROOT, "read", { mode: S_IFDIR | 0o755 });
  await ask(client, nameOf("x"));
  const inode = readAhead.keep(ROOT, inodeReply(inoOf(0), "read"), table.moment);
  root.setEntry(bytesKey(nameOf("0")), inode.ino);
  assert.equal(find(client, 0), inode);
  await quiet();
  assert.deepEqual(nameserver.asked, ["lookup"]);
});

Deno.test("read-ahead: of a directory that is this mount's alone what is found is wanted alone", async () => {
  const client = await startAfterMisses("exclusive");
  assert.equal((await requested(client)).wantsFound, true);
});

Deno.test("read-ahead: what the kernel does not ask for is given back, the rest stays", async () => {
  const client = await startAfterMisses();
  const { nameserver, readAhead, releases, session, clock, table } = client;
  await nameserver.answer("readDirectory", page(0, 3, true));
  find(client, 1);
  await clock.advance(2_999);
  readAhead.sweep();
  await releases.send();
  assert.deepEqual(session.told, []);
  await clock.advance(1);
  readAhead.sweep();
  await releases.send();
  const released = (session.told as Told[]).flatMap(({ held }) => held.map(({ ino, lease }) => [ino, lease]));
  assert.deepEqual(released, [[inoOf(0), "none"], [inoOf(2), "none"]]);
  assert.deepEqual([0, 1, 2].map((i) => table.get(inoOf(i)) !== undefined), [false, true, false]);
  const again = client.names.lookup(ROOT, nameOf("0"), PATIENT);
  assert.ok(again instanceof Promise, "it is asked for again");
  again.catch(() => {});
});

Deno.test("read-ahead: there is a bound on what the kernel did not ask for", async () => {
  const client = await startAfterMisses();
  const { nameserver, releases, session } = client;
  await nameserver.answer("readDirectory", page(0, 9_000, true));
  await releases.send();
  const released = session.told.flatMap(({ held }) => held).length;
  assert.ok(released >= 9_000 - 8_192 && released < 1_000, `${released}`);
});

Deno.test("read-ahead: an answer that crosses a change of the directory is not kept", async () => {
  const client = await startAfterMisses();
  const { nameserver, names, root, table } = client;
  const removing = names.remove(ROOT, nameOf("1"), false, PATIENT);
  await quiet();
  const call = nameserver.calls.find(({ method }) => method === "remove")!;
  await call.answer({ ino: inoOf(1), nlink: 0, directory: "read" });
  await removing;
  await nameserver.answer("readDirectory", page(0, 3, true)); // it was made before
  assert.equal(root.entries?.get(bytesKey(nameOf("1"))), ABSENT);
  assert.equal(root.isComplete, false);
  assert.equal(table.get(inoOf(0)), undefined);
});

Deno.test("read-ahead: pages between which the directory has changed are not taken for all of it", async () => {
  const client = await startAfterMisses();
  const { nameserver, table, root } = client;
  await nameserver.answer("readDirectory", page(0, 2, false));
  table.noteRecall(ROOT);
  find(client, 0);
  await nameserver.answer("readDirectory", page(2, 3, true));
  find(client, 2);
  assert.equal(root.isComplete, false);
});

Deno.test("read-ahead: entries without an inode are asked for, and a refusal ends it", async () => {
  const client = await startAfterMisses();
  const { nameserver, names } = client;
  const { entries: [whole], ...rest } = page(0, 1, true);
  const { inode: _, ...entry } = whole!;
  await nameserver.answer("readDirectory", { ...rest, entries: [entry] });
  const looking = names.lookup(ROOT, nameOf("0"), PATIENT);
  assert.ok(looking instanceof Promise);
  await nameserver.answer("lookup", { inode: inodeReply(inoOf(0), "read"), directory: "read" });
  await looking;

  const refused = await startAfterMisses();
  await (await refused.nameserver.next("readDirectory")).fail(new FsError("EAGAIN", "another has it"));
  for (const name of ["a", "b", "c"]) await ask(refused, nameOf(name));
  assert.equal(refused.nameserver.asked.filter((method) => method === "readDirectory").length, 1);
});

Deno.test("read-ahead: begins anew when the directory was taken away meanwhile", async () => {
  const client = await startAfterMisses();
  const { nameserver, root } = client;
  await nameserver.answer("readDirectory", page(0, 3, true));
  root.forgetAll();
  know(client, ROOT, "read", { mode: S_IFDIR | 0o755 });
  for (const name of ["x", "y", "z"]) await ask(client, nameOf(name));
  assert.equal((await requested(client)).cookie, 2);
});
