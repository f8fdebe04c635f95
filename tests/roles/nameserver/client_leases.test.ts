/** What the service's replies let a client cache, and what its changes take from others. */

import assert from "node:assert/strict";
import { bytesOf, textOf } from "../../../base/bytes.ts";
import { isErrno } from "../../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { S_IFLNK } from "../../../wire/messages/inode.ts";
import type { RecallItem } from "../../../wire/messages/nameserver.ts";
import { gate, rest, watch } from "../leaseserver/harness.ts";
import { checkNamespace } from "./consistency.ts";
import { addDataservers, makeService, type Service, ServiceClient } from "./service.ts";

const credentials = { uid: 0, gid: 0 };
const name = bytesOf;

async function start(...names: string[]) {
  const service = await makeService();
  const clients = await Promise.all(names.map((who) => ServiceClient.connect(service, who)));
  return { service, clients: clients as [ServiceClient, ServiceClient, ServiceClient, ServiceClient] };
}

/** What was recalled since, as text. */
function since(client: ServiceClient): () => string[] {
  const from = client.recalls.length;
  return () => client.recalls.slice(from).map(describe);
}

function describe({ ino, keep, attributes, names, removed }: RecallItem): string {
  const parts = [`${ino} ${keep}`];
  if (attributes) parts.push("attributes");
  if (names !== undefined) parts.push(`names ${names.map(textOf)}`);
  if (removed) parts.push("removed");
  return parts.join(" ");
}

const make = (client: ServiceClient, file: string, mode: number, target = "t") =>
  client.call("make", {
    retry: client.tag(),
    parent: ROOT_INODE,
    name: name(file),
    credentials,
    mode,
    target: name(target),
  });

const chmod = (client: ServiceClient, ino: InodeId, mode = 0o600) =>
  client.call("setattr", { retry: client.tag(), ino, mode });

// ---- replies

Deno.test("leases: a name that is absent may be kept by who hears so, and so may one that is there", async () => {
  const { service, clients: [a, b] } = await start("a", "b");
  assert.deepEqual(await a.lookup("f"), { directory: "read" });
  const ino = await b.create("f");
  assert.deepEqual(a.recalls.map(describe), ["1 read names f"]);
  const found = await a.lookup("f");
  assert.deepEqual([found.inode?.attributes.ino, found.inode?.lease, found.directory], [ino, "read", "read"]);
  assert.deepEqual(service.leaseserver.leases.countOf(a.session), { read: 2, write: 0 });
});

Deno.test("leases: who has no session is shown everything and may keep nothing", async () => {
  const { service, clients: [a] } = await start("a");
  const ino = await a.create("f");
  const tool = new ServiceClient(service);
  const found = await tool.lookup("f");
  assert.deepEqual([found.inode?.lease, found.directory], ["none", "none"]);
  assert.equal((await tool.call("getattr", { ino })).lease, "none");
  const list = await tool.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true });
  assert.deepEqual([list.directory, list.entries[0]?.inode?.lease], ["none", "none"]);
  await assert.rejects(tool.call("acquire", { ino, mode: "read" }), (error) => isErrno(error, "ESHUTDOWN"));
  assert.deepEqual(await chmod(a, ino).then(() => tool.recalls), []);
});

Deno.test("leases: what was made is its maker's to keep, also the directory it was made in", async () => {
  const { clients: [a] } = await start("a");
  const dir = await a.mkdir("d");
  assert.equal((await a.lookup("d")).inode?.lease, "read");
  const link = await make(a, "l", S_IFLNK | 0o777, "there");
  assert.deepEqual([link.lease, link.directory, textOf(link.target!)], ["read", "read", "there"]);
  assert.equal(textOf((await a.lookup("l")).inode!.target!), "there");
  const file = await a.create("f", dir);
  const linked = await a.call("link", { retry: a.tag(), ino: file, parent: ROOT_INODE, name: name("g") });
  assert.deepEqual([linked.lease, linked.directory, linked.attributes.nlink], ["read", "read", 2]);
  assert.deepEqual(a.recalls, []);
});

Deno.test("leases: who makes a file to write it holds WRITE, who makes it to read READ", async () => {
  const { service, clients: [a] } = await start("a");
  await a.create("r");
  assert.deepEqual(service.leaseserver.leases.countOf(a.session), { read: 2, write: 0 });
  await a.create("w", ROOT_INODE, true);
  assert.deepEqual(service.leaseserver.leases.countOf(a.session), { read: 2, write: 1 });
});

Deno.test("leases: a listing may be kept, and all inodes that it shows", async () => {
  const { service, clients: [a, b] } = await start("a", "b");
  for (const file of ["x", "y"]) await a.create(file);
  const list = await b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true });
  assert.equal(list.directory, "read");
  assert.deepEqual(list.entries.map(({ inode }) => inode?.lease), ["read", "read"]);
  assert.deepEqual(service.leaseserver.leases.countOf(b.session), { read: 3, write: 0 });
  const asked = since(b);
  await a.create("z");
  assert.deepEqual(asked(), ["1 read names z"]);
});

// ---- names

Deno.test("leases: a change of names asks for exactly these names, of those who hold the directory", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  const dir = await a.mkdir("d");
  const other = await a.mkdir("e");
  const file = await a.create("f", dir);
  await b.lookup("f", dir); // holds the directory and the file
  await c.lookup("nothing", other); // holds another directory
  const asked = [since(b), since(c)];
  const expect = (ofB: string[], ofC: string[], what: string) => {
    assert.deepEqual([asked[0]!(), asked[1]!()], [ofB, ofC], what);
    asked[0] = since(b);
    asked[1] = since(c);
  };
  await a.create("new", dir);
  expect([`${dir} read names new`], [], "create");
  await a.call("link", { retry: a.tag(), ino: file, parent: dir, name: name("two") });
  expect([`${file} read attributes`, `${dir} read names two`], [], "link");
  const rename = (from: InodeId, source: string, to: InodeId, target: string, flags = 0) =>
    a.call("rename", {
      retry: a.tag(),
      parent: from,
      name: name(source),
      newParent: to,
      newName: name(target),
      flags,
    });
  await rename(dir, "two", dir, "three");
  expect([`${dir} read names two,three`, `${file} read attributes`], [], "rename within a directory");
  await rename(dir, "three", other, "four");
  expect(
    [`${dir} read names three`, `${file} read attributes`],
    [`${other} read names four`],
    "rename to another directory",
  );
  await rename(other, "four", dir, "f");
  expect(
    [`${file} read attributes`, `${dir} read names f`],
    [`${other} read names four`],
    "rename between two names of one file",
  );
  await a.call("remove", { retry: a.tag(), parent: other, name: name("four"), directory: false });
  expect([`${file} read attributes`], [`${other} read names four`], "unlink of one of two names");
  await a.call("remove", { retry: a.tag(), parent: dir, name: name("f"), directory: false });
  expect([`${file} read attributes removed`, `${dir} read names f`], [], "unlink of the last name");
  await a.call("remove", { retry: a.tag(), parent: ROOT_INODE, name: name("e"), directory: true });
  expect([], [`${other} none`], "rmdir");
});

Deno.test("leases: exchanged names are both asked for, and what they lead to", async () => {
  const { clients: [a, b] } = await start("a", "b");
  const [one, two] = [await a.create("one"), await a.mkdir("two")];
  for (const file of ["one", "two"]) await b.lookup(file);
  const asked = since(b);
  const { ino, directory } = await a.rename("one", "two", 2);
  assert.deepEqual([ino, directory], [one, "read"]);
  assert.deepEqual(asked(), [`${two} none`, "1 read names one,two", `${one} read attributes`]);
});

Deno.test("leases: who exchanges two names hears of both inodes", async () => {
  const { clients: [a, b] } = await start("a", "b");
  const [one, two] = [await a.create("one"), await a.create("two")];
  const before = (await b.call("getattr", { ino: two })).attributes.version;
  const { ino, replaced } = await b.rename("one", "two", 2);
  assert.ok((await a.call("getattr", { ino: two })).attributes.version > before);
  assert.deepEqual([ino, replaced?.ino], [one, two]);
});

Deno.test("leases: after a rename between two names of one file none of them may be kept", async () => {
  const { clients: [a] } = await start("a");
  const ino = await a.create("one");
  await a.call("link", { retry: a.tag(), ino, parent: ROOT_INODE, name: name("two") });
  assert.deepEqual(await a.rename("one", "two"), { ino, directory: "none" });
  assert.equal((await a.lookup("one")).inode?.attributes.ino, ino);
});

Deno.test("leases: a creation that is answered again lets nobody keep a name that has moved since", async () => {
  const { service, clients: [a, b] } = await start("a", "b");
  const entry = { parent: ROOT_INODE, name: name("x"), credentials };
  const creations = [
    () => ({ ...entry, retry: a.tag(), mode: 0o600, exclusive: true, write: false }),
    () => ({ ...entry, retry: a.tag(), mode: S_IFLNK | 0o777, target: name("t") }),
  ];
  for (const [i, creation] of creations.entries()) {
    const request = creation();
    const call = () => i === 0 ? a.call("create", request as never) : a.call("make", request as never);
    const { attributes } = await call();
    await a.release(ROOT_INODE); // it has forgotten the directory, or was never granted it
    await b.rename("x", `moved ${i}`);
    assert.deepEqual(a.recalls.filter(({ names }) => names !== undefined), []);
    const again = await call();
    assert.equal(again.attributes.ino, attributes.ino);
    assert.equal(again.directory, "none", i === 0 ? "create" : "make");
  }
  checkNamespace(service.journal);
});

Deno.test("leases: while a name changes nothing of its directory may be kept", async () => {
  const { service, clients: [a, b, c] } = await start("a", "b", "c");
  const other = await a.create("other");
  const dir = await a.mkdir("d");
  await b.lookup("f");
  const answer = gate();
  b.onRecall = answer.wait;
  const creating = a.create("f");
  await rest();
  // Looks are answered as long as the change was not made, but they grant nothing of the directory.
  assert.deepEqual(await c.lookup("f"), { directory: "none" });
  const found = await c.lookup("other");
  assert.deepEqual([found.directory, found.inode?.lease], ["none", "read"]);
  const list = await c.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: false });
  assert.deepEqual([list.directory, list.entries.length], ["none", 2]);
  assert.equal((await c.call("getattr", { ino: ROOT_INODE })).lease, "none");
  const opened = await c.call("create", {
    retry: c.tag(),
    parent: ROOT_INODE,
    name: name("other"),
    credentials,
    mode: 0o600,
    exclusive: false,
    write: false,
  });
  assert.deepEqual([opened.attributes.ino, opened.directory, opened.lease], [other, "none", "read"]);
  assert.equal((await c.lookup("x", dir)).directory, "read", "another directory may be kept");
  assert.deepEqual(service.leaseserver.leases.countOf(c.session), { read: 2, write: 0 });
  answer.open();
  await creating;
  assert.equal((await c.lookup("f")).directory, "read");
});

Deno.test("leases: of two who change names of one directory at once neither may keep what it made", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  await c.lookup("x");
  const answers = [gate(), gate()];
  let asked = 0;
  c.onRecall = () => answers[asked++]!.wait();
  const made = (client: ServiceClient, file: string) => watch(make(client, file, S_IFLNK | 0o777));
  const first = made(a, "one");
  await rest();
  const second = made(b, "two");
  await rest();
  assert.equal(asked, 2, "the second does not wait for the first");
  answers[1]!.open();
  await rest();
  assert.equal(second.value?.directory, "none");
  assert.ok(!first.isDone);
  answers[0]!.open();
  await rest();
  assert.equal(first.value?.directory, "read");
});

Deno.test("leases: a name that went while the file under it was waited for may not be kept", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  const ino = await a.create("f");
  await a.release(ino);
  await b.lookup("f");
  const answer = gate();
  b.onRecall = answer.wait;
  const renaming = a.rename("f", "g");
  await rest();
  const opening = c.call("create", {
    retry: c.tag(),
    parent: ROOT_INODE,
    name: name("f"),
    credentials,
    mode: 0o600,
    exclusive: false,
    write: false,
  });
  await rest();
  answer.open();
  await renaming;
  const reply = await opening;
  assert.ok(
    reply.created || reply.directory === "none",
    "c was told that f leads to the file, may keep that, and was not recalled",
  );
});

Deno.test("leases: attributes of a directory that are shown while its names change may not be kept", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  const dir = await a.mkdir("d");
  const file = await b.create("f", ROOT_INODE, true);
  await b.lookup("x", dir);
  await c.call("getattr", { ino: dir });
  const answer = gate();
  b.onRecall = (items) => items.some(({ ino }) => ino === dir) ? answer.wait() : b.commit(file, 5).then();
  const creating = a.create("new", dir);
  await rest();
  // A listing of the parent has to wait for the writer of another file, and shows the directory as well.
  const list = await c.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true });
  const shown = list.entries.find(({ ino }) => ino === dir)!.inode!;
  const asked = since(c);
  answer.open();
  await creating;
  const now = await a.call("getattr", { ino: dir });
  assert.ok(now.attributes.version > shown.attributes.version);
  assert.ok(shown.lease === "none" || asked().length > 0, "c keeps attributes that nobody took from it");
});

// ---- attributes and data

Deno.test("leases: who changes an inode waits until the others gave up what they know of it", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  const ino = await a.create("f");
  const answer = gate();
  a.onRecall = answer.wait;
  const change = watch(chmod(b, ino));
  await rest();
  assert.ok(!change.isDone);
  const looked = await c.call("getattr", { ino });
  assert.equal(looked.attributes.mode & 0o777, 0o644, "not changed before the acknowledgement");
  assert.equal(looked.lease, "none");
  answer.open();
  await rest();
  assert.equal(change.value?.lease, "read");
  assert.equal(change.value?.attributes.mode, 0o100600);
  assert.deepEqual(a.recalls.map(describe), [`${ino} read attributes`], "its data is as it was");
});

Deno.test("leases: changes of attributes and xattrs leave others READ, changes of data nothing", async () => {
  const { clients: [a, b] } = await start("a", "b");
  const ino = await a.create("f");
  const x = name("user.x");
  const changes: [string, string, () => Promise<{ readonly lease: string }>][] = [
    ["chmod", "read", () => chmod(a, ino)],
    ["setXattr", "read", () => a.call("setXattr", { retry: a.tag(), ino, name: x, value: x, flags: 0 })],
    ["removeXattr", "read", () => a.call("removeXattr", { retry: a.tag(), ino, name: x })],
    ["truncate", "none", () => a.call("setattr", { retry: a.tag(), ino, size: 3 })],
    ["punch", "none", () => a.call("punch", { retry: a.tag(), ino, offset: 0, length: 9 })],
    ["commit", "none", () => a.commit(ino, 10)],
  ];
  for (const [what, keep, change] of changes) {
    await b.call("getattr", { ino });
    const asked = since(b);
    const { lease } = await change();
    assert.deepEqual([asked(), lease], [[`${ino} ${keep} attributes`], "read"], what);
  }
  assert.deepEqual(a.recalls, []);
});

Deno.test("leases: a writer's size is asked for before anybody looks, and it becomes a reader", async () => {
  const { service, clients: [a, b, c] } = await start("a", "b", "c");
  const looks: [string, (client: ServiceClient, ino: InodeId, file: string) => Promise<number>][] = [
    ["getattr", async (client, ino) => (await client.call("getattr", { ino })).attributes.size],
    ["lookup", async (client, _, file) => (await client.lookup(file)).inode!.attributes.size],
    ["readDirectory", async (client, ino) => {
      const request = { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true };
      const { entries } = await client.call("readDirectory", request);
      return entries.find((entry) => entry.ino === ino)!.inode!.attributes.size;
    }],
    ["acquire", async (client, ino) => (await client.open(ino)).attributes.size],
  ];
  for (const [what, look] of looks) {
    const ino = await a.create(what, ROOT_INODE, true);
    a.onRecall = async (items) => {
      if (items.some((item) => item.ino === ino)) await a.commit(ino, 77);
    };
    const asked = since(a);
    assert.deepEqual(await Promise.all([look(b, ino, what), look(c, ino, what)]), [77, 77], what);
    assert.deepEqual(asked().filter((item) => item.startsWith(`${ino} `)), [`${ino} read`], what);
    assert.equal((await a.call("getattr", { ino })).lease, "read", what);
    assert.equal(service.leaseserver.leases.countOf(a.session).write, 0, what);
  }
});

Deno.test("leases: a listing without inodes asks no writer", async () => {
  const { clients: [a, b] } = await start("a", "b");
  await a.create("f", ROOT_INODE, true);
  await b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: false });
  assert.deepEqual(a.recalls, []);
});

Deno.test("leases: a truncate by who goes on to write grants WRITE, another READ, a chmod never WRITE", async () => {
  const { service, clients: [a, b] } = await start("a", "b");
  const ino = await a.create("f");
  const set = (client: ServiceClient, fields: object) =>
    client.call("setattr", { retry: client.tag(), ino, ...fields }).then(({ lease }) => lease);
  assert.equal(await set(b, { size: 0 }), "read");
  assert.equal(await set(b, { mode: 0o600, write: true }), "read");
  assert.equal(await set(b, { size: 0, write: true }), "write");
  assert.ok(service.leaseserver.leases.isOpenIn(ino, b.session));
  assert.equal(await set(a, { size: 4, write: true }), "write");
  assert.equal(b.recalls.at(-1)?.keep, "none");
  assert.deepEqual([a, b].map(({ session }) => service.leaseserver.leases.countOf(session).write), [1, 0]);
});

Deno.test("leases: a truncate that waits gets WRITE before the next in line", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  const ino = await a.create("f", ROOT_INODE, true);
  const answer = gate();
  a.onRecall = answer.wait;
  const order: string[] = [];
  b.onRecall = () => void order.push("b is recalled");
  const truncating = b.callNow("setattr", { retry: b.tag(), ino, size: 0, write: true })
    .then(({ lease }) => order.push(`b has ${lease}`));
  await rest();
  const opening = c.open(ino, true).then(({ lease }) => order.push(`c has ${lease}`));
  await rest();
  answer.open();
  await Promise.all([truncating, opening]);
  assert.deepEqual(order, ["b has write", "b is recalled", "c has write"]);
});

Deno.test("leases: opens wait for each other in the order in which they came", async () => {
  const { clients: [a, b, c, d] } = await start("a", "b", "c", "d");
  const ino = await a.create("f", ROOT_INODE, true);
  const answer = gate();
  a.onRecall = answer.wait;
  const order: string[] = [];
  const opens = ([[b, true], [c, false], [d, true]] as const).map(async ([client, write], i) => {
    const mode = write ? "write" : "read";
    const { lease, isShared } = await client.callNow("acquire", { ino, mode });
    order.push(`${i} ${lease} ${isShared ? "shared" : "alone"}`);
  });
  await rest();
  answer.open();
  await Promise.all(opens);
  assert.deepEqual(order, ["0 write shared", "1 read shared", "2 write shared"]);
  assert.deepEqual(b.recalls.map(({ keep }) => keep), ["read", "none"]);
  assert.deepEqual(c.recalls.map(({ keep }) => keep), ["none"]);
});

Deno.test("leases: an open that is interrupted while it waits gets nothing", async () => {
  const { service, clients: [a, b, c] } = await start("a", "b", "c");
  const ino = await a.create("f", ROOT_INODE, true);
  const answer = gate();
  a.onRecall = answer.wait;
  const waiting = b.open(ino);
  await rest();
  const abort = new AbortController();
  const interrupted = c.call("acquire", { ino, mode: "write" }, abort.signal);
  await rest();
  abort.abort();
  await assert.rejects(interrupted, (error) => isErrno(error, "EINTR"));
  answer.open();
  assert.equal((await waiting).lease, "read");
  assert.deepEqual(service.leaseserver.leases.countOf(c.session), { read: 0, write: 0 });
});

Deno.test("leases: only regular files that are there are opened", async () => {
  const { service, clients: [a] } = await start("a");
  const link = await make(a, "l", S_IFLNK | 0o777);
  const open = (ino: InodeId) => a.call("acquire", { ino, mode: "write" });
  await assert.rejects(open(ROOT_INODE), (error) => isErrno(error, "EINVAL"));
  await assert.rejects(open(link.attributes.ino), (error) => isErrno(error, "EINVAL"));
  await assert.rejects(open(999 as InodeId), (error) => isErrno(error, "ENOENT"));
  assert.equal(service.leaseserver.leases.countOf(a.session).write, 0);
});

// ---- commits

Deno.test("commit: from who holds WRITE or is being recalled it waits for nobody", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  const ino = await a.create("f", ROOT_INODE, true);
  assert.equal((await a.commit(ino, 5)).lease, "write");
  const flushed: string[] = [];
  const answer = gate();
  a.onRecall = async () => {
    // The turn is taken, and another waits for it; what a has buffered goes in between.
    flushed.push(await a.commit(ino, 10).then(({ lease }) => lease));
    await answer.wait();
    flushed.push(await a.commit(ino, 20).then(({ lease }) => lease));
  };
  const opening = watch(b.open(ino));
  const next = watch(c.open(ino, true));
  await rest();
  assert.deepEqual([flushed, opening.isDone, next.isDone], [["none"], false, false]);
  answer.open();
  await rest();
  assert.ok(flushed.length >= 2 && flushed.every((lease) => lease === "none"), "a flush is granted nothing");
  assert.equal(opening.value?.attributes.size, 20);
  assert.equal(next.value?.attributes.size, 20);
});

Deno.test("commit: from who holds nothing all others give up what they know first", async () => {
  const { clients: [a, b, c] } = await start("a", "b", "c");
  const ino = await a.create("f", ROOT_INODE, true);
  await b.open(ino);
  const answer = gate();
  b.onRecall = answer.wait;
  const commit = watch(c.commit(ino, 30));
  await rest();
  assert.ok(!commit.isDone);
  assert.equal((await c.call("getattr", { ino })).attributes.size, 0);
  answer.open();
  await rest();
  assert.deepEqual([commit.value?.attributes.size, commit.value?.lease], [30, "read"]);
  assert.equal(b.recalls.at(-1)?.keep, "none");
});

Deno.test("commit: a size never shrinks by it, and the time is the writer's", async () => {
  const { clients: [a] } = await start("a");
  const ino = await a.create("f", ROOT_INODE, true);
  await a.commit(ino, 30);
  const { attributes } = await a.commit(ino, 10);
  assert.deepEqual([attributes.size, attributes.mtime], [30, { seconds: 9, nanoseconds: 0 }]);
});

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
  assert.deepEqual([attributes.size, blocks], [100, [{ ...block, written: true }]]);
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

// ---- restart

async function restart(names: readonly string[], prepare: (clients: ServiceClient[]) => Promise<void>) {
  const before = await makeService();
  await prepare(await Promise.all(names.map((who) => ServiceClient.connect(before, who))));
  const service: Service = await makeService(before);
  return service;
}

Deno.test("restart: nothing is granted or changed before all have said what they hold", async () => {
  let ino = 0 as InodeId;
  const service = await restart(["a"], async ([a]) => {
    ino = await a!.create("f", ROOT_INODE, true);
  });
  const b = await ServiceClient.connect(service, "b");
  const waiting = {
    getattr: watch(b.call("getattr", { ino })),
    lookup: watch(b.lookup("f")),
    list: watch(b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true })),
    acquire: watch(b.open(ino)),
    chmod: watch(chmod(b, ino)),
    commit: watch(b.commit(ino, 4)),
    mkdir: watch(b.mkdir("d")),
    create: watch(b.create("new")),
    open: watch(b.call("create", {
      retry: b.tag(),
      parent: ROOT_INODE,
      name: name("f"),
      credentials,
      mode: 0,
      exclusive: false,
      write: true,
    })),
  };
  // The name is absent, whoever comes back; but that may not be kept.
  const absent = await b.lookup("absent");
  assert.equal(absent.directory, "none");
  await rest();
  const a = new ServiceClient(service);
  await a.openSession("a");
  await rest();
  assert.deepEqual(Object.entries(waiting).filter(([, { isDone }]) => isDone).map(([what]) => what), []);
  assert.equal(service.leaseserver.leases.status().granted, 0);
  a.openInodes.set(ino, "write");
  a.onRecall = () => a.commit(ino, 50).then();
  await a.reclaim([{ ino, lease: "write", open: "write" }, { ino: ROOT_INODE, lease: "read", open: "no" }]);
  for (let i = 0; i < 10; i++) await rest();
  assert.deepEqual(Object.entries(waiting).filter(([, { isDone }]) => !isDone).map(([what]) => what), []);
  assert.equal(waiting.getattr.value?.attributes.size, 50, "the size that a had buffered");
  assert.ok(a.recalls.some((item) => item.names?.some((one) => textOf(one) === "d")));
});

Deno.test("restart: who does not come back is waited for until its session is over", async () => {
  let ino = 0 as InodeId;
  const service = await restart(["a"], async ([a]) => {
    ino = await a!.create("f", ROOT_INODE, true);
  });
  const { sessions } = service.leaseserver;
  const b = await ServiceClient.connect(service, "b");
  const look = watch(b.call("getattr", { ino }));
  await service.clock.advance(9_000);
  sessions.of(b.peer);
  sessions.expire();
  await rest();
  assert.ok(!look.isDone);
  await service.clock.advance(1_500);
  sessions.expire();
  await rest();
  assert.equal(look.value?.lease, "read");
});
