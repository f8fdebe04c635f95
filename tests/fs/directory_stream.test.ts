/** Listing a directory: in order, from any cookie, and what of it may be kept. */

import assert from "node:assert/strict";
import { bytesKey, textOf } from "../../base/bytes.ts";
import type { ClusterSession } from "../../fs/cluster_session.ts";
import { DirectoryStream, type ListedEntry } from "../../fs/directory_stream.ts";
import { asInodeId } from "../../wire/ids.ts";
import type { DirectoryEntry, LeaseMode } from "../../wire/messages/inode.ts";
import type { ReadDirectoryReply, ReadDirectoryRequest } from "../../wire/messages/nameserver.ts";
import {
  inodeReply,
  know,
  nameOf,
  PATIENT,
  quiet,
  recall,
  ROOT,
  startClient,
  type TestClient,
  type Told,
  watch,
} from "./client.ts";

const PARENT = asInodeId(3);

function entryOf(i: number, withInode = false): DirectoryEntry {
  const ino = asInodeId(100 + i);
  const entry = { name: nameOf(`name${i}`), ino, type: 8, cookie: 10 + i };
  return withInode ? { ...entry, inode: inodeReply(ino, "read") } : entry;
}

function start(isCached = true): TestClient & { readonly stream: DirectoryStream } {
  const client = startClient();
  know(client, ROOT);
  return { ...client, stream: newStream(client, isCached) };
}

function newStream(client: TestClient, isCached = true): DirectoryStream {
  const session = client.session as unknown as ClusterSession;
  const { table, readAhead, kernelCache } = client;
  return new DirectoryStream({ session, table, readAhead, kernelCache, ino: ROOT, isCached });
}

/** Answers from `entries` of the directory, as the nameserver would. */
async function serve(
  client: TestClient,
  entries: readonly DirectoryEntry[],
  directory: LeaseMode = "read",
): Promise<ReadDirectoryRequest> {
  const call = await client.nameserver.next("readDirectory");
  const { cookie, limit } = call.request;
  const from = entries.filter((entry) => entry.cookie > cookie);
  const reply: ReadDirectoryReply = {
    parent: PARENT,
    directory,
    entries: from.slice(0, limit),
    end: from.length < limit,
  };
  await call.answer(reply);
  return call.request;
}

/** Reads on as the kernel does, until nothing more comes or `room` entries were taken. */
function read(stream: DirectoryStream, cookie: number, room = Infinity, withInodes = false) {
  const taken: ListedEntry[] = [];
  const take = (entry: ListedEntry): boolean => {
    if (taken.length >= room) return false;
    taken.push(entry);
    return true;
  };
  const readOn = async () => {
    for (let count = -1, at = cookie; taken.length > count && taken.length < room;) {
      count = taken.length;
      await stream.read(at, withInodes, take, PATIENT);
      at = taken.at(-1)?.cookie ?? at;
    }
  };
  return { taken, done: watch(readOn()) };
}

/** Answers until the reading is done. */
async function serveAll(
  client: TestClient,
  { done }: ReturnType<typeof read>,
  entries: readonly DirectoryEntry[],
): Promise<void> {
  for (await quiet(); done.state === "waits"; await quiet()) await serve(client, entries);
  await done.promise;
}

const namesOf = (entries: readonly ListedEntry[]) => entries.map(({ name }) => textOf(name));

Deno.test("directory: itself and its parent come first, each entry once, over several answers", async () => {
  const client = start();
  const entries = Array.from({ length: 300 }, (_, i) => entryOf(i));
  const reading = read(client.stream, 0);
  await serveAll(client, reading, entries);
  const { taken } = reading;
  assert.deepEqual(namesOf(taken), [".", "..", ...entries.map(({ name }) => textOf(name))]);
  assert.deepEqual(taken.slice(0, 2).map(({ ino, cookie, found }) => [ino, cookie, found]), [
    [ROOT, 1, undefined],
    [PARENT, 2, undefined],
  ]);
  // 128, and the rest; that there are no more is known.
  assert.equal(client.nameserver.asked.length, 2);
});

Deno.test("directory: where it ended is known, until something of it changes, and from the start it is read anew", async () => {
  const client = start();
  const { stream, nameserver, table, session } = client;
  const read = (cookie: number) => {
    const seen: ListedEntry[] = [];
    const take = (entry: ListedEntry) => seen.push(entry) > 0;
    return watch(stream.read(cookie, false, take, PATIENT).then(() => seen.length));
  };
  const all = read(0);
  await serve(client, [entryOf(1)]);
  assert.equal(await all.promise, 3);
  assert.equal(await read(11).promise, 0);
  assert.deepEqual(nameserver.asked, ["readDirectory"]);
  const [again, middle] = [read(0), read(2)];
  await serve(client, [entryOf(1)]);
  await serve(client, [entryOf(1)]);
  assert.deepEqual([await again.promise, await middle.promise], [3, 1]);
  session.isValid = false;
  const fenced = read(11);
  await serve(client, [entryOf(1)]);
  assert.equal(await fenced.promise, 0);
  session.isValid = true;
  table.noteRecall(ROOT);
  const more = read(11);
  await serve(client, [entryOf(1), entryOf(2)]);
  assert.equal(await more.promise, 1);
  const empty = read(0);
  await serve(client, []);
  assert.equal(await empty.promise, 2);
  assert.equal(await read(2).promise, 0);
  table.get(ROOT)!.forgetAll();
  const lost = read(2);
  await serve(client, [], "none");
  assert.equal(await lost.promise, 0);
  assert.equal(nameserver.asked.length, 7);
});

Deno.test("directory: goes on from any cookie, and with what the kernel had no room for", async () => {
  const client = start();
  const { stream, nameserver } = client;
  const entries = Array.from({ length: 60 }, (_, i) => entryOf(i));
  const first = read(stream, 0, 20);
  await serve(client, entries);
  await first.done.promise;
  const next = read(stream, first.taken.at(-1)!.cookie);
  await next.done.promise;
  assert.deepEqual(namesOf(next.taken), entries.slice(18).map(({ name }) => textOf(name)));
  assert.equal(nameserver.asked.length, 1);
  const middle = read(stream, first.taken.at(-1)!.cookie);
  const request = await serve(client, entries);
  assert.deepEqual([request.cookie, request.limit], [27, 256]);
  assert.equal((await middle.done.promise, middle.taken.length), 42);
  const dots = read(stream, 1);
  await serveAll(client, dots, entries.slice(0, 3));
  assert.deepEqual(namesOf(dots.taken), ["..", "name0", "name1", "name2"]);
});

Deno.test("directory: the rest of an answer is asked for anew after a change of the directory, and for its inodes", async () => {
  for (const why of ["changed", "without inodes", "fenced"]) {
    const client = start();
    const { stream, nameserver, table, session } = client;
    const entries = Array.from({ length: 60 }, (_, i) => entryOf(i, why !== "without inodes"));
    const first = read(stream, 0, 20, why !== "without inodes");
    await serve(client, entries);
    await first.done.promise;
    if (why === "changed") table.noteRecall(ROOT);
    if (why === "fenced") session.isValid = false;
    const next = read(stream, first.taken.at(-1)!.cookie, 42, true);
    await serve(client, entries);
    assert.equal((await next.done.promise, next.taken.length), 42);
    assert.equal(nameserver.asked.length, 2, why);
  }
});

Deno.test("directory: the rest of an answer comes without inodes of which something was taken back meanwhile", async () => {
  const client = start();
  const { stream, table } = client;
  const entries = Array.from({ length: 30 }, (_, i) => entryOf(i, true));
  const first = read(stream, 0, 20, true);
  await serve(client, entries);
  await first.done.promise;
  const [gone, changed, kept] = [entries[25]!, entries[26]!, entries[27]!].map(({ ino }) => table.get(ino)!);
  table.remove(gone!);
  changed!.forgetAttributes();
  const next = read(stream, first.taken.at(-1)!.cookie, Infinity, true);
  await next.done.promise;
  const found = new Map(next.taken.map((entry) => [entry.ino, entry.found?.inode]));
  assert.deepEqual([found.get(gone!.ino), found.get(changed!.ino), found.get(kept!.ino)], [
    undefined,
    undefined,
    kept,
  ]);
});

Deno.test("directory: inodes that were not handed out are given back", async () => {
  const client = start();
  const { stream, table, readAhead, releases, session, clock } = client;
  const first = read(stream, 0, 3, true);
  await serve(client, [entryOf(0, true), entryOf(1, true)]);
  await first.done.promise;
  first.taken.at(-1)!.found!.inode!.lookups++;
  await clock.advance(3_000);
  readAhead.sweep();
  await releases.send();
  const released = (session.told as Told[]).flatMap(({ held }) => held.map(({ ino }) => ino));
  assert.deepEqual(released, [entryOf(1).ino]);
  assert.ok(table.get(entryOf(0).ino) !== undefined);
});

Deno.test("directory: a kernel with no room for a name takes none, and asks again", async () => {
  const client = start();
  const none = watch(client.stream.read(0, false, () => false, PATIENT));
  await serve(client, [entryOf(0)]);
  assert.equal(none.state, "done");
  const { taken, done } = read(client.stream, 0, 3);
  await serve(client, [entryOf(0)]);
  await done.promise;
  assert.deepEqual(namesOf(taken), [".", "..", "name0"]);
});

Deno.test("directory: read to its end under a lease, all its names are known", async () => {
  const client = start();
  const { stream, names, nameserver, table } = client;
  const entries = Array.from({ length: 130 }, (_, i) => entryOf(i, true));
  const reading = read(stream, 0, Infinity, true);
  await serveAll(client, reading, entries);
  const { taken } = reading;
  assert.ok(taken.slice(2).every(({ found }) => found?.isKept && found.inode?.isFresh));
  const root = table.get(ROOT)!;
  assert.equal(root.isComplete, true);
  assert.deepEqual(await names.lookup(ROOT, nameOf("absent"), PATIENT), { inode: null, isKept: true });
  assert.equal((await names.lookup(ROOT, nameOf("name7"), PATIENT)).inode?.ino, 107);
  assert.equal(nameserver.asked.length, 2);
});

Deno.test("directory: read in pieces that follow each other it is complete, with a gap, or from the middle, not", async () => {
  const entries = Array.from({ length: 200 }, (_, i) => entryOf(i));
  for (const [cookies, isComplete] of [[[0, 137], true], [[0, 140], false], [[27], false]] as const) {
    const client = start();
    for (const cookie of cookies) {
      await serveAll(client, read(client.stream, cookie, cookie === 0 ? 130 : Infinity), entries);
    }
    assert.equal(client.table.get(ROOT)!.isComplete, isComplete, cookies.join());
  }
});

Deno.test("directory: a recall of names that crossed a part of it means that it is not complete, nor that part kept", async () => {
  const client = start();
  const { stream, table } = client;
  const entries = Array.from({ length: 130 }, (_, i) => entryOf(i, true));
  const reading = read(stream, 0, Infinity, true);
  const { taken } = reading;
  await serve(client, entries);
  await recall(client, { ino: ROOT, keep: "read", names: [nameOf("name129")] }).promise;
  await serveAll(client, reading, entries);
  const root = table.get(ROOT)!;
  assert.equal(root.isComplete, false);
  assert.deepEqual([taken[10]!.found!.isKept, taken.at(-1)!.found!.isKept], [true, false]);
  assert.notEqual(root.entries!.get(bytesKey(nameOf("name129"))), 229);
});

Deno.test("directory: recalled between two parts, though each is kept, it is not complete", async () => {
  const client = start();
  const { stream, table } = client;
  const entries = Array.from({ length: 200 }, (_, i) => entryOf(i));
  const first = read(stream, 0, 130);
  await serve(client, entries);
  await first.done.promise;
  await recall(client, { ino: ROOT, keep: "read", names: [nameOf("name3")] }).promise;
  await serveAll(client, read(stream, 137), entries);
  assert.equal(table.get(ROOT)!.isComplete, false);
});

const PAGES = `pages ${ROOT} 0+`;

Deno.test("directory: without a lease nothing of it is kept, and its listing goes from the kernel before it is whole", async () => {
  const client = start();
  const { stream, table, kernel } = client;
  const reading = read(stream, 0, 3, true);
  const { taken } = reading;
  await serve(client, [entryOf(0, true)], "none");
  await reading.done.promise;
  const root = table.get(ROOT)!;
  assert.deepEqual([root.isComplete, root.entries, taken.at(-1)!.found!.isKept], [false, null, false]);
  assert.deepEqual([root.hasPages, kernel.taken()], [false, []]);
  const end = read(stream, 10);
  await serve(client, [entryOf(0, true)], "none");
  await end.done.promise;
  assert.deepEqual([root.hasPages, kernel.taken()], [true, [PAGES]]);
});

Deno.test("directory: that the kernel has its whole listing is noted, where it keeps one", async () => {
  for (const isCached of [true, false]) {
    const client = start(isCached);
    const root = client.table.get(ROOT)!;
    const part = read(client.stream, 0, 2);
    await serveAll(client, part, [entryOf(0)]);
    assert.equal(root.hasPages, false, "it does not show what is not whole");
    await serveAll(client, read(client.stream, 2), [entryOf(0)]);
    assert.deepEqual([root.hasPages, root.hasStalePages, client.kernel.taken()], [isCached, false, []]);
  }
});

/** Something of the directory is taken back; what the kernel was told. */
async function recallName(client: TestClient): Promise<string[]> {
  await recall(client, { ino: ROOT, keep: "read", names: [nameOf("other")] }).promise;
  return client.kernel.taken();
}

Deno.test("directory: entries that lie in the kernel's pages since before a recall are never part of a whole listing", async () => {
  for (const isRecalled of [true, false]) {
    const client = start();
    const entries = [entryOf(0), entryOf(1)];
    await serveAll(client, read(client.stream, 0, 3), entries); // and is not read on
    client.stream.close();
    if (isRecalled) assert.deepEqual(await recallName(client), [`attributes ${ROOT}`]);
    const next = newStream(client);
    await serveAll(client, read(next, 0), entries);
    assert.deepEqual(client.kernel.taken(), isRecalled ? [PAGES] : []);
    await serveAll(client, read(newStream(client), 0), entries);
    assert.deepEqual(client.kernel.taken(), [], "they are gone");
  }
});

Deno.test("directory: entries that the kernel has not put into pages yet are never part of a whole listing after a recall", async () => {
  const client = start();
  const { stream, table } = client;
  const root = table.get(ROOT)!;
  const entries = [entryOf(0)];
  await serveAll(client, read(stream, 0, 3), entries); // the kernel has the answer, and got no further
  assert.deepEqual(await recallName(client), [`attributes ${ROOT}`]);
  for (let round = 0; round < 2; round++) {
    await serveAll(client, read(newStream(client), 0), entries);
    assert.deepEqual([client.kernel.taken(), root.hasPages], [[PAGES], true], "they may have come");
  }
  stream.close();
  await quiet();
  assert.deepEqual(client.kernel.taken(), [PAGES], "or come after that");
  await serveAll(client, read(newStream(client), 0), entries);
  assert.deepEqual(client.kernel.taken(), []);
});

Deno.test("directory: what is taken back while old entries go from the kernel's pages is waited for as well", async () => {
  const client = start();
  const { stream, kernel, table } = client;
  const entries = [entryOf(0)];
  await serveAll(client, read(stream, 0, 3), entries);
  const other = newStream(client);
  await serveAll(client, read(other, 0, 3), entries);
  await recallName(client);
  kernel.holds = (message) => message === PAGES;
  const end = read(other, 10);
  await serve(client, entries);
  await quiet();
  assert.deepEqual([end.done.state, kernel.held.length], ["waits", 1]);
  const back = read(stream, 2, 1);
  await quiet();
  kernel.holds = () => false;
  await kernel.held[0]!.release();
  await serveAll(client, back, entries);
  await end.done.promise;
  assert.deepEqual(kernel.taken(), [PAGES, PAGES]);
  assert.equal(table.get(ROOT)!.hasPages, true);
});

Deno.test("directory: a listing that ends when the session may be over goes from the kernel", async () => {
  const client = start();
  const { stream, session, kernel } = client;
  await serveAll(client, read(stream, 0, 3), [entryOf(0)]);
  session.isValid = false;
  const end = read(stream, 10);
  await serve(client, [entryOf(0)]);
  await end.done.promise;
  assert.deepEqual(kernel.taken(), [PAGES]);
});

Deno.test("directory: pages that go with an open are not taken away again, once it has come to the kernel", async () => {
  const client = start();
  const { stream, table, kernel } = client;
  const root = table.get(ROOT)!;
  const entries = [entryOf(0)];
  await serveAll(client, read(stream, 0), entries);
  table.noteRecall(ROOT);
  const next = newStream(client);
  next.opensAnew(root);
  await serveAll(client, read(newStream(client), 0), entries);
  assert.deepEqual(kernel.taken(), [PAGES], "the open may not have come there");
  await serveAll(client, read(next, 0), entries);
  assert.deepEqual(kernel.taken(), []);
});

Deno.test("directory: while a change of its names is asked for that somebody gave up waiting for, no listing is kept", async () => {
  for (const isChanging of [true, false]) {
    const client = start();
    const { stream, table, kernel } = client;
    const root = table.get(ROOT)!;
    if (isChanging) root.beginChange(bytesKey(nameOf("made")));
    const reading = read(stream, 0, Infinity, true);
    await serveAll(client, reading, [entryOf(0, true)]);
    assert.deepEqual(reading.taken.map(({ found }) => found?.isKept), [undefined, undefined, !isChanging]);
    assert.deepEqual(kernel.taken(), isChanging ? [PAGES] : []);
    assert.equal(root.isComplete, !isChanging);
  }
});

Deno.test("directory: a very large one is not taken for complete", async () => {
  const client = start();
  const entries = Array.from({ length: 20_001 }, (_, i) => entryOf(i));
  for (const count of [19_999, 20_001]) {
    client.table.get(ROOT)!.isComplete = false;
    await serveAll(client, read(newStream(client), 0), entries.slice(0, count));
    assert.equal(client.table.get(ROOT)!.isComplete, count === 19_999);
  }
});

Deno.test("directory: an entry whose inode vanished meanwhile is listed without it", async () => {
  const client = start();
  const reading = read(client.stream, 0, Infinity, true);
  const { taken } = reading;
  await serveAll(client, reading, [entryOf(0), entryOf(1, true)]);
  assert.deepEqual(taken.slice(2).map(({ found }) => found?.inode?.ino), [undefined, 101]);
});
