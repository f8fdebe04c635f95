/** Names that go while files are open: a file lives on until it is closed everywhere, and no longer. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { isErrno } from "../../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { gate, rest, watch } from "../leaseserver/harness.ts";
import { checkNamespace } from "./consistency.ts";
import {
  endLingering,
  makeService,
  type Service,
  ServiceClient,
  startService,
  withoutDirectories,
} from "./service.ts";

const nlinkOf = (client: ServiceClient, ino: InodeId) =>
  client.call("getattr", { ino }).then(({ attributes }) => attributes.nlink);
const isGone = async (client: ServiceClient, ino: InodeId) =>
  await assert.rejects(client.call("getattr", { ino }), (error) => isErrno(error, "ENOENT"));

/** True while the namespace has the inode. */
const isThere = ({ journal }: Service, ino: InodeId) => checkNamespace(journal).inodes.has(ino);

Deno.test("unlink: a file that is open elsewhere lives on until it is closed there", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await b.open(ino);
  const reply = await b.remove("f");
  assert.deepEqual(withoutDirectories(reply), { ino, nlink: 0, directory: "read" });
  assert.ok(a.recalls.some((item) => item.removed === true && item.ino === ino), "a was asked");
  assert.equal(await nlinkOf(a, ino), 0);
  await b.release(ino);
  await nlinkOf(a, ino);
  await a.release(ino);
  await isGone(a, ino);
  checkNamespace(service.journal);
});

Deno.test("unlink: a file that is only known elsewhere is forgotten there, and goes when nobody can be about to open it", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await a.release(ino, "read");
  await b.lookup("f");
  await a.remove("f", { ino, open: false });
  assert.ok(isThere(service, ino));
  await endLingering(service);
  assert.ok(!isThere(service, ino));
  const { leases } = service.leaseserver;
  assert.ok(leases.isAlone(ino, a.session) && leases.isAlone(ino, b.session));
});

Deno.test("unlink: what was found under a name a moment before its removal can be opened", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await a.release(ino, "read");
  await b.lookup("f");
  await a.remove("f", { ino, open: false });
  await b.open(ino);
  await endLingering(service);
  assert.equal(await nlinkOf(b, ino), 0);
  await b.release(ino);
  assert.ok(!isThere(service, ino));
  assert.ok(service.leaseserver.leases.isAlone(ino, a.session), "nobody is remembered as its holder");
});

Deno.test("unlink: what was found under a name while it was being removed can be opened", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await a.create("f");
  await a.release(ino, "read");
  const answer = gate();
  a.onRecall = answer.wait;
  const removing = c.remove("f", { ino, open: false });
  await rest();
  // It has the name still, but nothing of it may be kept.
  const { inode } = await b.lookup("f");
  assert.deepEqual([inode?.attributes.ino, inode?.lease], [ino, "none"]);
  answer.open();
  await removing;
  await b.open(ino);
  await b.release(ino);
  await endLingering(service);
  assert.ok(!isThere(service, ino));
});

Deno.test("unlink: what another process of the remover may be about to open stays for a moment", async () => {
  for (const told of [true, false]) {
    const { service, clients: [a] } = await startService("a");
    const ino = await a.create("f");
    await a.release(ino, "read");
    await a.create("g");
    await a.rename("g", "f", 0, { ino, open: false, ...(told ? { told } : {}) });
    assert.equal(isThere(service, ino), told);
    await endLingering(service);
    assert.ok(!isThere(service, ino));
  }
});

Deno.test("unlink: what stays for a moment goes after a restart as well", async () => {
  const { service: before, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await a.release(ino, "read");
  await b.lookup("f");
  await a.remove("f", { ino, open: false });
  const service = await makeService(before);
  assert.ok(isThere(service, ino));
  await endLingering(service);
  assert.ok(!isThere(service, ino));
});

Deno.test("unlink: one of two names takes nothing from who has the file open", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await a.call("link", { retry: a.tag(), ino, parent: ROOT_INODE, name: bytesOf("g") });
  const asked = a.recalls.length;
  assert.deepEqual(withoutDirectories(await b.remove("f")), { ino, nlink: 1, directory: "read" });
  assert.deepEqual(a.recalls.slice(asked).filter(({ ino: of }) => of === ino), [
    { ino, keep: "read", attributes: true },
  ]);
  await a.release(ino);
  assert.equal(await nlinkOf(a, ino), 1);
});

Deno.test("unlink: who says that it has the file open itself keeps it, without being asked", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  await a.remove("f", { ino, open: true });
  assert.deepEqual(a.recalls, []);
  assert.equal(await nlinkOf(a, ino), 0);
  await a.release(ino);
  assert.ok(!isThere(service, ino));
});

Deno.test("unlink: who says that it has not is not asked either", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  await a.release(ino, "read");
  await a.remove("f", { ino, open: false });
  assert.deepEqual(a.recalls, []);
  assert.ok(!isThere(service, ino));
});

Deno.test("unlink: who speaks of another inode, or of none, is asked", async () => {
  for (const isWrong of [true, false]) {
    for (const isOpen of [true, false]) {
      const { service, clients: [a] } = await startService("a");
      const other = await a.create("other");
      const ino = await a.create("f");
      if (!isOpen) await a.release(ino, "read");
      await a.remove("f", isWrong ? { ino: other, open: !isOpen } : undefined);
      assert.deepEqual(a.recalls.map((item) => [item.ino, item.removed]), [[ino, true]]);
      // Who was asked may be about to open it.
      await endLingering(service);
      assert.equal(isThere(service, ino), isOpen);
      if (!isOpen) continue;
      await a.release(ino);
      assert.ok(!isThere(service, ino));
    }
  }
});

Deno.test("unlink: who is asked about what it has given back is not asked at all", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  await a.release(ino);
  await a.remove("f");
  assert.deepEqual(a.recalls, []);
  assert.ok(!isThere(service, ino));
});

Deno.test("unlink: a file that is replaced by a rename lives on in the same way", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const old = await a.create("old");
  const fresh = await b.create("fresh");
  const reply = await b.rename("fresh", "old");
  assert.deepEqual(withoutDirectories(reply), {
    ino: fresh,
    directory: "read",
    replaced: { ino: old, nlink: 0 },
  });
  assert.equal(await nlinkOf(a, old), 0);
  service.leaseserver.sessions.end(a.session, "test");
  await rest();
  await isGone(b, old);
  checkNamespace(service.journal);
});

Deno.test("unlink: a rename hears from its author whether what it replaces is open", async () => {
  for (const open of [true, false]) {
    const { service, clients: [a] } = await startService("a");
    const old = await a.create("old");
    if (!open) await a.release(old, "read");
    await a.create("fresh");
    await a.rename("fresh", "old", 0, { ino: old, open });
    assert.deepEqual(a.recalls, []);
    assert.equal(isThere(service, old), open);
  }
});

Deno.test("unlink: a file that is opened while its holders are asked is not lost", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await a.create("f");
  const asked = gate();
  const answer = gate();
  a.onRecall = async (items) => {
    if (!items.some(({ removed }) => removed)) return;
    asked.open();
    await answer.wait();
    a.openInodes.delete(ino); // a has closed it meanwhile
  };
  const removing = b.remove("f");
  await asked.wait();
  // It comes behind, of what it was told before.
  const late = c.open(ino).then(() => "opened", (error) => error.errno);
  await rest();
  answer.open();
  await removing;
  assert.equal(await late, "opened");
  await endLingering(service);
  assert.equal(await nlinkOf(c, ino), 0);
  await c.release(ino);
  await isGone(b, ino);
});

Deno.test("unlink: who opens a file behind its removal, as another has it open, keeps it as well", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await a.create("f");
  const answer = gate();
  a.onRecall = answer.wait;
  const removing = b.remove("f");
  await rest();
  const late = c.open(ino).then(() => true, (error) => {
    assert.ok(isErrno(error, "ENOENT"), error);
    return false;
  });
  await rest();
  answer.open();
  await removing;
  const isOpen = await late;
  await a.release(ino);
  assert.equal(isThere(service, ino), isOpen);
  if (!isOpen) return;
  await c.release(ino);
  assert.ok(!isThere(service, ino));
});

Deno.test("unlink: who opens by name behind the removal gets a new file, or keeps the old one", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await a.create("f");
  const answer = gate();
  a.onRecall = answer.wait;
  const removing = b.remove("f");
  await rest();
  const late = c.openByName("f");
  await rest();
  answer.open();
  await removing;
  const opened = (await late).attributes.ino;
  await a.release(ino);
  assert.ok(isThere(service, opened), "it is open in c");
  await c.release(opened);
  assert.equal(isThere(service, ino), false);
});

Deno.test("unlink: what a client said before it opened the file does not hide that it has", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  await a.release(ino, "read");
  service.journal.hold();
  const chmod = a.chmod(ino); // the removal has to wait for what it sees to be written
  await rest();
  const removing = a.remove("f", { ino, open: false });
  const opening = a.open(ino).then(() => true, (error) => {
    assert.ok(isErrno(error, "ENOENT"), error);
    return false;
  });
  await rest();
  service.journal.release();
  await Promise.all([chmod, removing]);
  assert.equal(await opening, isThere(service, ino), "it is open exactly if it is still there");
});

Deno.test("unlink: WRITE that is granted to who is asked about its own file is not taken back by the answer", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await a.release(ino, "read");
  await a.create("g");
  const answer = gate();
  a.onRecall = answer.wait;
  const exchanging = a.rename("g", "f", 2); // it does not say what it knows of f
  await rest();
  const opening = a.open(ino, true);
  await rest();
  answer.open();
  await exchanging;
  assert.equal((await opening).lease, "write");
  assert.equal(service.leaseserver.leases.countOf(a.session).write, 1);
  const asked = a.recalls.length;
  await b.call("getattr", { ino });
  assert.deepEqual(a.recalls.slice(asked), [{ ino, keep: "read" }]);
});

// Though it keeps READ: it was told that the name goes, and asks.
Deno.test("unlink: who has closed the file and opens it again meanwhile has it open exactly if it is still there", async () => {
  const { service, b, ino, answer, removing } = await removeWhileBIsOpen();
  await b.release(ino, "read");
  const opening = b.open(ino).then(() => true, (error) => {
    assert.ok(isErrno(error, "ENOENT"), error);
    return false;
  });
  answer.open();
  await removing;
  await rest();
  assert.equal(isThere(service, ino), await opening);
});

Deno.test("unlink: a file that its remover has opened by name, and does not know of yet, is kept", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await b.create("f");
  await b.release(ino);
  assert.equal((await a.openByName("f")).attributes.ino, ino);
  await a.remove("f", { ino, open: false }); // sent before the answer came
  assert.ok(isThere(service, ino));
  await a.release(ino);
  assert.ok(!isThere(service, ino));
});

Deno.test("unlink: who gets a name anew while the old file's holders are asked removes the new one", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  const old = await a.create("f");
  const fresh = await c.create("g");
  let asked = 0;
  a.onRecall = async (items) => {
    if (!items.some(({ ino, removed }) => removed && ino === old) || asked++ > 0) return;
    // Names of the directory change side by side, only what they lead to is reserved.
    await service.namespace.change(() => {});
    await rest();
  };
  const removing = b.remove("f", { ino: old, open: false });
  const replacing = c.rename("g", "f");
  const [removed] = await Promise.all([removing, replacing]);
  const left = await b.lookup("f");
  assert.ok(
    removed.ino === old && left.inode?.attributes.ino === fresh ||
      removed.ino === fresh && left.inode === undefined,
  );
  checkNamespace(service.journal);
});

Deno.test("unlink: of many who remove one name one succeeds", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  for (let i = 0; i < 30; i++) {
    const ino = await a.create("f");
    const outcomes = await Promise.all(
      [a, b, c].map((client) => client.remove("f").then(() => "done", (error) => error.errno)),
    );
    assert.deepEqual(outcomes.sort(), ["ENOENT", "ENOENT", "done"]);
    assert.equal(isThere(service, ino), true, "a has it open");
    await a.release(ino);
    assert.equal(isThere(service, ino), false);
  }
});

Deno.test("unlink: what is said of a directory or of nothing is what rmdir and unlink say", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const dir = await a.mkdir("d");
  await b.lookup("x", dir);
  await a.create("f", dir);
  await assert.rejects(a.remove("d"), (error) => isErrno(error, "EISDIR"));
  await assert.rejects(a.remove("nothing"), (error) => isErrno(error, "ENOENT"));
  const rmdir = (name: string, parent: InodeId) =>
    a.call("remove", { retry: a.tag(), parent, name: bytesOf(name), directory: true });
  await assert.rejects(rmdir("d", ROOT_INODE), (error) => isErrno(error, "ENOTEMPTY"));
  await assert.rejects(rmdir("f", dir), (error) => isErrno(error, "ENOTDIR"));
  await assert.rejects(rmdir("f", 999 as InodeId), (error) => isErrno(error, "ENOENT"));
});

// ---- who closes or ends meanwhile

/** b has `f` open and says so; c holds something that the removal waits for, until the returned gate opens. */
async function removeWhileBIsOpen() {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await b.create("f");
  await c.lookup("f");
  const answer = gate();
  c.onRecall = answer.wait;
  const removing = a.remove("f");
  await rest();
  assert.ok(b.recalls.some(({ removed }) => removed === true), "b has been asked, and has answered");
  return { service, a, b, ino, answer, removing };
}

Deno.test("unlink: who closes the file before all others have answered does not keep it", async () => {
  const { service, b, ino, answer, removing } = await removeWhileBIsOpen();
  await b.release(ino);
  answer.open();
  await removing;
  await endLingering(service);
  assert.ok(!isThere(service, ino), "nobody has it open, and nobody will close it");
});

Deno.test("unlink: who ends before all others have answered does not keep it", async () => {
  const { service, b, ino, answer, removing } = await removeWhileBIsOpen();
  service.leaseserver.sessions.end(b.session, "test");
  await rest();
  answer.open();
  await removing;
  await endLingering(service);
  assert.ok(!isThere(service, ino), "it is kept for a session that is over");
});

Deno.test("unlink: who removes its own open file and ends before it is removed does not keep it", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await b.lookup("f");
  const answer = gate();
  b.onRecall = answer.wait;
  const removing = a.remove("f", { ino, open: true });
  removing.catch(() => {});
  await rest();
  service.leaseserver.sessions.end(a.session, "test");
  await rest();
  answer.open();
  await removing.catch(() => {});
  await rest();
  const orphans = service.namespace.orphansOf(a.session);
  assert.deepEqual(orphans, [], "an orphan of a session that is over");
});

Deno.test("unlink: who removes its own open file and closes it before it is removed does not keep it", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await b.lookup("f");
  const answer = gate();
  b.onRecall = answer.wait;
  const removing = a.remove("f", { ino, open: true });
  await rest();
  await a.release(ino);
  answer.open();
  await removing;
  await endLingering(service);
  assert.ok(!isThere(service, ino), "nobody has it open, and nobody will close it");
});

Deno.test("unlink: a file that its remover opens at the same time is not taken from under it", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  await a.release(ino, "read");
  await b.lookup("x"); // holds the directory, so that the removal has to wait
  const removing = a.remove("f", { ino, open: false });
  const opening = a.open(ino).then(() => true, (error) => {
    assert.ok(isErrno(error, "ENOENT"), error);
    return false;
  });
  await removing;
  assert.equal(await opening, isThere(service, ino), "it is open exactly if it is still there");
});

// ---- restart

Deno.test("unlink: sessions that have not come back after a restart keep their open files", async () => {
  const before = await makeService();
  const a = await ServiceClient.connect(before, "a");
  const ino = await a.create("f");
  const service = await makeService(before);
  const b = await ServiceClient.connect(service, "b");
  const removing = watch(b.remove("f"));
  await rest();
  assert.ok(!removing.isDone);
  const again = new ServiceClient(service);
  again.openInodes.set(ino, "read");
  await again.openSession("a");
  await again.reclaim([{ ino, lease: "read", open: "read" }]);
  await rest();
  assert.deepEqual(withoutDirectories(removing.value!), { ino, nlink: 0, directory: "read" });
  assert.equal(await nlinkOf(again, ino), 0);
  await again.release(ino);
  await isGone(b, ino);
});

Deno.test("unlink: orphans from before a restart go when their session does not say that they are open", async () => {
  const before = await makeService();
  const a = await ServiceClient.connect(before, "a");
  const [kept, closed] = [await a.create("kept"), await a.create("closed")];
  for (const [name, ino] of [["kept", kept], ["closed", closed]] as const) {
    await a.remove(name, { ino, open: true });
  }
  const service = await makeService(before);
  const again = new ServiceClient(service);
  await again.openSession("a");
  // In parts; nothing goes before the last.
  const { handlers } = service.leaseserver;
  const held = [{ ino: kept, lease: "none", open: "read" }] as const;
  await handlers.reclaim({ held: [], last: false }, again.peer.context);
  assert.ok(isThere(service, closed));
  await handlers.reclaim({ held, last: true }, again.peer.context);
  assert.deepEqual([isThere(service, kept), isThere(service, closed)], [true, false]);
  await again.release(kept);
  assert.ok(!isThere(service, kept));
});

Deno.test("unlink: what is opened again while its close is being seen to stays", async () => {
  let isOpenedOnce = false;
  for (let others = 0; others <= 8; others++) {
    const { service, clients: [a] } = await startService("a");
    const inodes: InodeId[] = [];
    for (let i = 0; i <= others; i++) {
      const ino = await a.create(`f${i}`);
      await a.open(ino);
      await a.remove(`f${i}`, { ino, open: true });
      inodes.push(ino);
    }
    const released = a.releaseAll(inodes);
    const ino = inodes.at(-1)!;
    const opening = watch(a.open(ino));
    await released;
    await rest();
    // Either it has gone before, or it stays.
    if (opening.value === undefined) continue;
    isOpenedOnce = true;
    assert.equal(await nlinkOf(a, ino), 0, `behind ${others} others`);
    await a.release(ino);
    await isGone(a, ino);
    checkNamespace(service.journal);
  }
  assert.ok(isOpenedOnce);
});
