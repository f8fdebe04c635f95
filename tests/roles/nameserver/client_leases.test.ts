/** What replies let a client keep of names and directories, and what changes of names take from others. */

import assert from "node:assert/strict";
import { bytesOf, textOf } from "../../../base/bytes.ts";
import { isErrno } from "../../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { S_IFLNK } from "../../../wire/messages/inode.ts";
import { gate, rest, watch } from "../leaseserver/harness.ts";
import { checkNamespace } from "./consistency.ts";
import { describe, ServiceClient, since, startService } from "./service.ts";

const credentials = { uid: 0, gid: 0 };
const name = bytesOf;

// ---- replies

Deno.test("leases: a name that is absent may be kept by who hears so, and so may one that is there", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  assert.deepEqual(await a.lookup("f"), { directory: "read" });
  const ino = await b.create("f");
  assert.deepEqual(a.recalls.map(describe), ["1 read names f"]);
  const found = await a.lookup("f");
  assert.deepEqual([found.inode?.attributes.ino, found.inode?.lease, found.directory], [ino, "read", "read"]);
  assert.deepEqual(service.leaseserver.leases.countOf(a.session), { read: 2, exclusive: 0, write: 0 });
});

Deno.test("leases: who has no session is shown everything and may keep nothing", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  const tool = new ServiceClient(service);
  const found = await tool.lookup("f");
  assert.deepEqual([found.inode?.lease, found.directory], ["none", "none"]);
  assert.equal((await tool.call("getattr", { ino })).lease, "none");
  const list = await tool.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true });
  assert.deepEqual([list.directory, list.entries[0]?.inode?.lease], ["none", "none"]);
  await assert.rejects(tool.call("acquire", { ino, mode: "read" }), (error) => isErrno(error, "ESHUTDOWN"));
  assert.deepEqual(await a.chmod(ino).then(() => tool.recalls), []);
});

Deno.test("leases: what was made is its maker's to keep, also the directory it was made in", async () => {
  const { clients: [a] } = await startService("a");
  const dir = await a.mkdir("d");
  assert.equal((await a.lookup("d")).inode?.lease, "read");
  const link = await a.symlink("l", "there");
  assert.deepEqual([link.lease, link.directory, textOf(link.target!)], ["read", "read", "there"]);
  assert.equal(textOf((await a.lookup("l")).inode!.target!), "there");
  const file = await a.create("f", dir);
  const linked = await a.call("link", { retry: a.tag(), ino: file, parent: ROOT_INODE, name: name("g") });
  assert.deepEqual([linked.lease, linked.directory, linked.attributes.nlink], ["read", "read", 2]);
  assert.deepEqual(a.recalls, []);
});

Deno.test("leases: who makes a file to write it holds WRITE, who makes it to read READ", async () => {
  const { service, clients: [a] } = await startService("a");
  await a.create("r");
  assert.deepEqual(service.leaseserver.leases.countOf(a.session), { read: 2, exclusive: 0, write: 0 });
  await a.create("w", ROOT_INODE, true);
  assert.deepEqual(service.leaseserver.leases.countOf(a.session), { read: 2, exclusive: 0, write: 1 });
});

Deno.test("leases: a listing may be kept, and all inodes that it shows", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  for (const file of ["x", "y"]) await a.create(file);
  const list = await b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true });
  assert.equal(list.directory, "read");
  assert.deepEqual(list.entries.map(({ inode }) => inode?.lease), ["read", "read"]);
  assert.deepEqual(service.leaseserver.leases.countOf(b.session), { read: 3, exclusive: 0, write: 0 });
  const asked = since(b);
  await a.create("z");
  assert.deepEqual(asked(), ["1 read names z"]);
});

Deno.test("leases: a listing that changed while it was read is read again, or may not be kept", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const { journal } = service;
  const scan = journal.scan.bind(journal);
  for (const changes of [0, 1, 2, 3, 10]) {
    let left = changes;
    journal.scan = async (range, limit) => {
      const records = await scan(range, limit);
      if (left-- > 0) await a.create(`${changes} ${left}`);
      return records;
    };
    const list = await b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 99, withInodes: false });
    journal.scan = scan;
    const all = await b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 99, withInodes: false });
    assert.equal(list.directory, changes < 3 ? "read" : "none", `${changes} changes`);
    if (list.directory === "read") {
      assert.equal(list.entries.length, all.entries.length, `${changes} changes`);
    }
  }
});

// ---- names

Deno.test("leases: a change of names asks for exactly these names, of those who hold the directory", async () => {
  const { clients: [a, b, c] } = await startService("a", "b", "c");
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
  const { clients: [a, b] } = await startService("a", "b");
  const [one, two] = [await a.create("one"), await a.mkdir("two")];
  for (const file of ["one", "two"]) await b.lookup(file);
  const asked = since(b);
  const { ino, directory } = await a.rename("one", "two", 2);
  assert.deepEqual([ino, directory], [one, "read"]);
  assert.deepEqual(asked(), [`${two} none`, "1 read names one,two", `${one} read attributes`]);
});

Deno.test("leases: who exchanges two names hears of both inodes", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const [one, two] = [await a.create("one"), await a.create("two")];
  const before = (await b.call("getattr", { ino: two })).attributes.version;
  const { ino, replaced } = await b.rename("one", "two", 2);
  assert.ok((await a.call("getattr", { ino: two })).attributes.version > before);
  assert.deepEqual([ino, replaced?.ino], [one, two]);
});

Deno.test("leases: after a rename between two names of one file none of them may be kept", async () => {
  const { clients: [a] } = await startService("a");
  const ino = await a.create("one");
  await a.call("link", { retry: a.tag(), ino, parent: ROOT_INODE, name: name("two") });
  assert.deepEqual(await a.rename("one", "two"), { ino, directory: "none" });
  assert.equal((await a.lookup("one")).inode?.attributes.ino, ino);
});

Deno.test("leases: a creation that is answered again lets nobody keep a name that has moved since", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
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
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
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
  const opened = await c.openByName("other");
  assert.deepEqual([opened.attributes.ino, opened.directory, opened.lease], [other, "none", "read"]);
  assert.equal((await c.lookup("x", dir)).directory, "read", "another directory may be kept");
  assert.deepEqual(service.leaseserver.leases.countOf(c.session), { read: 2, exclusive: 0, write: 0 });
  answer.open();
  await creating;
  assert.equal((await c.lookup("f")).directory, "read");
});

Deno.test("leases: of two who change names of one directory at once neither may keep what it made", async () => {
  const { clients: [a, b, c] } = await startService("a", "b", "c");
  await c.lookup("x");
  const answers = [gate(), gate()];
  let asked = 0;
  c.onRecall = () => answers[asked++]!.wait();
  const made = (client: ServiceClient, file: string) => watch(client.symlink(file, "t"));
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
  const { clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await a.create("f");
  await a.release(ino);
  await b.lookup("f");
  const answer = gate();
  b.onRecall = answer.wait;
  const renaming = a.rename("f", "g");
  await rest();
  const opening = c.openByName("f");
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
  const { clients: [a, b, c] } = await startService("a", "b", "c");
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
