/** Leases on attributes and data: looks, changes, opens and commits, also after a restart. */

import assert from "node:assert/strict";
import { bytesOf, textOf } from "../../../base/bytes.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asInodeId, type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { FS_IMMUTABLE_FL } from "../../../wire/messages/inode.ts";
import { gate, passLooking, rest, watch } from "../leaseserver/harness.ts";
import { describe, makeService, type Service, ServiceClient, since, startService } from "./service.ts";

const name = bytesOf;

// ---- attributes and data

Deno.test("leases: who changes an inode waits until the others gave up what they know of it", async () => {
  const { clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await a.create("f");
  const answer = gate();
  a.onRecall = answer.wait;
  const change = watch(b.chmod(ino));
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
  const { clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  const x = name("user.x");
  const changes: [string, string, () => Promise<{ readonly lease: string }>][] = [
    ["chmod", "read", () => a.chmod(ino)],
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

Deno.test("flags: an immutable file is written by nobody, whoever had it open; what was accepted before comes in", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f", ROOT_INODE, true);
  a.onRecall = async () => void await a.commit(ino, 77);
  const set = await b.call("setattr", { retry: b.tag(), ino, flags: FS_IMMUTABLE_FL });
  assert.deepEqual([set.attributes.flags, set.attributes.size], [FS_IMMUTABLE_FL, 77]);
  const isRefused = (error: unknown) => isErrno(error, "EPERM");
  for (const client of [a, b]) {
    await assert.rejects(client.call("acquire", { ino, mode: "write" }), isRefused);
    await assert.rejects(client.call("setattr", { retry: client.tag(), ino, size: 0 }), isRefused);
    await assert.rejects(client.call("punch", { retry: client.tag(), ino, offset: 0, length: 9 }), isRefused);
    assert.equal((await client.call("acquire", { ino, mode: "read" })).attributes.size, 77);
  }
  await a.call("setattr", { retry: a.tag(), ino, flags: 0 });
  assert.equal((await b.call("acquire", { ino, mode: "write" })).lease, "write");
});

Deno.test("leases: a writer's size is asked for before anybody looks, and it becomes a reader", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
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
  const { clients: [a, b] } = await startService("a", "b");
  await a.create("f", ROOT_INODE, true);
  await b.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: false });
  assert.deepEqual(a.recalls, []);
});

Deno.test("leases: a truncate by who goes on to write grants WRITE, another READ, a chmod never WRITE", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
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
  const { clients: [a, b, c] } = await startService("a", "b", "c");
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
  const { clients: [a, b, c, d] } = await startService("a", "b", "c", "d");
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
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
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
  assert.deepEqual(service.leaseserver.leases.countOf(c.session), { read: 0, exclusive: 0, write: 0 });
});

Deno.test("leases: only regular files that are there are opened", async () => {
  const { service, clients: [a] } = await startService("a");
  const link = await a.symlink("l", "t");
  const open = (ino: InodeId) => a.call("acquire", { ino, mode: "write" });
  await assert.rejects(open(ROOT_INODE), (error) => isErrno(error, "EINVAL"));
  await assert.rejects(open(link.attributes.ino), (error) => isErrno(error, "EINVAL"));
  await assert.rejects(open(999 as InodeId), (error) => isErrno(error, "ENOENT"));
  assert.equal(service.leaseserver.leases.countOf(a.session).write, 0);
});

// ---- commits

Deno.test("commit: from who holds WRITE or is being recalled it waits for nobody", async () => {
  const { clients: [a, b, c] } = await startService("a", "b", "c");
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
  const { clients: [a, b, c] } = await startService("a", "b", "c");
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
  const { clients: [a] } = await startService("a");
  const ino = await a.create("f", ROOT_INODE, true);
  await a.commit(ino, 30);
  const { attributes } = await a.commit(ino, 10);
  assert.deepEqual([attributes.size, attributes.mtime], [30, { seconds: 9, nanoseconds: 0 }]);
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
    chmod: watch(b.chmod(ino)),
    commit: watch(b.commit(ino, 4)),
    mkdir: watch(b.mkdir("d")),
    create: watch(b.create("new")),
    open: watch(b.openByName("f", true)),
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
  await passLooking(service.clock, sessions, 9_000);
  sessions.of(b.peer);
  await rest();
  assert.ok(!look.isDone);
  await passLooking(service.clock, sessions, 1_500);
  await rest();
  assert.equal(look.value?.lease, "read");
});

Deno.test("punch: who holds WRITE and is asked for it punches first, and is not waited for by itself", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f", ROOT_INODE, true);
  a.onRecall = async () => void await a.call("punch", { retry: a.tag(), ino, offset: 0, length: 9 });
  const opening = watch(b.open(ino));
  await rest();
  assert.equal(opening.value?.lease, "read");
});

Deno.test("sync: of a file that the server does not know, as after a power cut, it says so", async () => {
  const { clients: [a] } = await startService("a");
  const ino = await a.create("f");
  assert.deepEqual(await a.call("sync", { ino }), { ok: true });
  assert.deepEqual(await a.call("sync", {}), { ok: true });
  await assert.rejects(a.call("sync", { ino: asInodeId(4711) }), (error) => isErrno(error, "ENOENT"));
});
