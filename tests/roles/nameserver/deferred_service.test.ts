/** Changes that a client has made already: applied in order, in one batch, and only to what the client has alone. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { asInodeId, type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import type { DeferredChange, DeferredMake } from "../../../wire/messages/deferred.ts";
import { S_IFDIR, S_IFLNK, S_IFREG } from "../../../wire/messages/inode.ts";
import { CLAIM_MAX } from "../../../wire/messages/nameserver.ts";
import { isErrno } from "../../../wire/errno.ts";
import { TOLD_MS } from "../../../roles/leaseserver/leases.ts";
import { endLingering, makeService, type Service, ServiceClient, since, startService } from "./service.ts";

const name = bytesOf;

function at(seconds: number) {
  return { time: { seconds: 1_800_000_000 + seconds, nanoseconds: 5 } };
}

/** Client `a` has made the directory "d", and has it alone. */
async function start() {
  const { service, clients: [a, b] } = await startService("a", "b");
  const { attributes, lease } = await a.call("make", {
    ...{ retry: a.tag(), parent: ROOT_INODE, name: name("d"), mode: S_IFDIR | 0o755 },
    ...{ credentials: { uid: 0, gid: 0 }, wantsFound: true },
  });
  assert.equal(lease, "exclusive");
  const { first } = await a.call("reserveInodes", { count: 100 });
  const dir = attributes.ino;
  const make = (number: number, entry: string, more: Partial<DeferredMake> = {}): DeferredMake => ({
    ...{ kind: "make", ...at(number), ino: asInodeId(first + number), parent: dir, name: name(entry) },
    ...{ uid: 1, gid: 2, mode: S_IFREG | 0o666, umask: 0o22, ...more },
  });
  const tell = (...changes: DeferredChange[]) => a.call("defer", { retry: a.tag(), changes });
  const inode = (number: number) => asInodeId(first + number);
  return { service, a, b, dir, make, tell, inode };
}

async function namesOf(client: ServiceClient, ino: InodeId): Promise<string[]> {
  const { entries } = await client.call("readDirectory", { ino, cookie: 0, limit: 100, withInodes: false });
  return entries.map((entry) => `${new TextDecoder().decode(entry.name)}=${entry.ino}`).sort();
}

function presence(service: Service, ino: InodeId): Promise<boolean> {
  return Promise.resolve(service.namespace.look((tx) => tx.findInode(ino) !== undefined));
}

Deno.test("deferred: all kinds of changes, as of their times, and the next look shows them", async () => {
  const { service, a, b, dir, make, tell, inode } = await start();
  const reply = await tell(
    make(1, "sub", { mode: S_IFDIR | 0o777 }),
    make(2, "link", { mode: S_IFLNK | 0o777, target: name("x") }),
    make(3, "f", { write: true }),
    {
      kind: "report",
      ...at(4),
      ino: inode(3),
      size: 10,
      ...{ mtime: at(4).time, killSuidGid: false, written: [] },
    },
    { kind: "setattr", ...at(5), ino: inode(2), uid: 9 },
    {
      kind: "rename",
      ...at(6),
      ino: inode(2),
      parent: dir,
      name: name("link"),
      newParent: dir,
      newName: name("l"),
    },
    make(7, "gone", { mode: S_IFDIR | 0o777 }),
    { kind: "remove", ...at(8), ino: inode(7), parent: dir, name: name("gone"), directory: true },
  );
  assert.deepEqual(reply, { applied: 8 });
  const of = (ino: InodeId) => service.namespace.look((tx) => tx.inode(ino));
  const [sub, link, file, parent] = await Promise.all([inode(1), inode(2), inode(3), dir].map(of));
  assert.deepEqual([sub!.mode, sub!.nlink, sub!.btime], [S_IFDIR | 0o755, 2, at(1).time]);
  assert.deepEqual([link!.uid, link!.ctime, link!.btime], [9, at(6).time, at(2).time]);
  // One version an operation, as by requests of their own.
  assert.deepEqual([file!.size, file!.version, link!.version], [10, 2, 3]);
  assert.deepEqual([parent!.nlink, parent!.mtime, parent!.version], [3, at(8).time, 1 + 6]);
  assert.equal(service.leaseserver.leases.mayCommit(inode(3), a.session), true);
  assert.equal(await presence(service, inode(7)), false);
  assert.deepEqual(await namesOf(b, dir), [`f=${inode(3)}`, `l=${inode(2)}`, `sub=${inode(1)}`].sort());
  assert.deepEqual(a.recalls.map(({ ino }) => ino), [dir]);
});

Deno.test("deferred: sent again they are applied once, also by a server that was started again", async () => {
  const { service, a, dir, make, inode } = await start();
  const retry = a.tag();
  const changes = [make(1, "f"), make(2, "g")];
  assert.deepEqual(await a.call("defer", { retry, changes }), { applied: 2 });
  assert.deepEqual(await a.call("defer", { retry, changes }), { applied: 2 });
  const restarted = await makeService(service);
  const again = new ServiceClient(restarted);
  await again.openSession("a");
  await again.reclaim([{ ino: dir, lease: "exclusive", open: "no" }]);
  await ServiceClient.connect(restarted, "b");
  assert.deepEqual(await again.call("defer", { retry, changes }), { applied: 2 });
  assert.deepEqual(await namesOf(again, dir), [`f=${inode(1)}`, `g=${inode(2)}`]);
});

Deno.test("deferred: what can't be applied ends them: what comes before it is made, nothing behind it", async () => {
  const { a, dir, make, tell, inode } = await start();
  const reply = await tell(make(1, "f"), make(2, "f"), make(3, "g"));
  assert.equal(reply.applied, 1);
  assert.match(reply.refusal!, /taken/);
  assert.deepEqual(await namesOf(a, dir), [`f=${inode(1)}`]);
  // A number that was never given out, and one that is taken.
  assert.equal((await tell({ ...make(4, "h"), ino: asInodeId(10 ** 9) })).applied, 0);
  assert.equal((await tell({ ...make(4, "h"), ino: inode(1) })).applied, 0);
  // A name that leads elsewhere, to what is the session's as well.
  await tell(make(5, "g"));
  const names = { parent: dir, name: name("f") };
  const wrong = { kind: "remove", ...at(6), ino: inode(5), ...names, directory: false } as const;
  const wrongTarget = { newParent: dir, newName: name("g"), replaced: inode(1) };
  assert.equal(
    (await tell({ kind: "rename", ...at(6), ino: inode(1), ...names, ...wrongTarget })).applied,
    0,
  );
  assert.equal((await tell(wrong)).applied, 0);
  assert.deepEqual(await namesOf(a, dir), [`f=${inode(1)}`, `g=${inode(5)}`]);
});

Deno.test("deferred: nothing is changed that the session does not have alone", async () => {
  const { a, b, dir, make, tell, inode } = await start();
  await tell(make(1, "f"));
  await b.lookup("f", dir); // takes the directory and the file
  const refused = [
    make(2, "g"),
    { kind: "remove", ...at(3), ino: inode(1), parent: dir, name: name("f"), directory: false },
    { kind: "setattr", ...at(3), ino: inode(1), mode: 0 },
    {
      kind: "rename",
      ...at(3),
      ino: inode(1),
      parent: dir,
      name: name("f"),
      newParent: dir,
      newName: name("g"),
    },
  ] as const;
  for (const change of refused) {
    const { applied, refusal } = await tell(change);
    assert.deepEqual([applied, /alone/.test(refusal!)], [0, true], change.kind);
  }
  await assert.rejects(b.call("defer", { retry: b.tag(), changes: Array(1_025).fill(make(3, "x")) }), {
    errno: "EPROTO",
  });
  assert.deepEqual(await namesOf(a, dir), [`f=${inode(1)}`]);
});

Deno.test("deferred: a file that others have open, or may open soon, stays until they close it", async () => {
  const { service, a, b, dir, make, tell, inode } = await start();
  await tell(make(1, "f"), make(2, "g"), make(3, "h"));
  await b.open(inode(1));
  await b.open(inode(2));
  // It writes to the file, and has it alone then, but for who has it open.
  await a.open(inode(1), true);
  await a.open(inode(2), true);
  for (const number of [1, 2]) await a.release(inode(number), "exclusive");
  const remove = (number: number, entry: string, more: object = {}): DeferredChange => ({
    ...{
      kind: "remove",
      ...at(9),
      ino: inode(number),
      parent: dir,
      name: name(entry),
      directory: false,
      ...more,
    },
  });
  const replace = {
    ...{ kind: "rename", ...at(8), ino: inode(3), parent: dir, name: name("h"), newParent: dir },
    ...{ newName: name("g"), replaced: inode(2) },
  } as DeferredChange;
  // The directory was looked at by nobody: it is still its own.
  assert.deepEqual(await tell(remove(1, "f"), replace, remove(3, "g", { told: true })), { applied: 3 });
  assert.deepEqual(await Promise.all([1, 2, 3].map((n) => presence(service, inode(n)))), [true, true, true]);
  await endLingering(service);
  assert.deepEqual(await Promise.all([1, 2, 3].map((n) => presence(service, inode(n)))), [true, true, false]);
  await b.release(inode(1));
  await b.release(inode(2));
  assert.deepEqual(await Promise.all([1, 2].map((n) => presence(service, inode(n)))), [false, false]);
});

Deno.test("deferred: a file that its author holds without a name stays until that is released", async () => {
  const { service, a, dir, make, tell, inode } = await start();
  await tell(make(1, "f"), make(2, "g"), make(3, "h"));
  const change = { ...at(9), parent: dir, directory: false };
  const replace = {
    ...{ kind: "rename", ...at(9), ino: inode(3), parent: dir, name: name("h"), newParent: dir },
    ...{ newName: name("g"), replaced: inode(2), held: true },
  } as DeferredChange;
  const remove: DeferredChange = { kind: "remove", ...change, ino: inode(1), name: name("f"), held: true };
  assert.deepEqual(await tell(remove, replace), { applied: 2 });
  assert.deepEqual(await Promise.all([1, 2].map((n) => presence(service, inode(n)))), [true, true]);
  for (const number of [1, 2]) await a.release(inode(number), "none");
  assert.deepEqual(await Promise.all([1, 2].map((n) => presence(service, inode(n)))), [false, false]);
});

Deno.test("deferred: numbers for inodes are given out once, over a restart as well", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const one = await a.call("reserveInodes", { count: 10 });
  const other = await b.call("reserveInodes", { count: 10 });
  assert.ok(other.first >= one.first + 10);
  assert.ok(await a.mkdir("d") >= other.first + 10);
  const restarted = await makeService(service);
  for (const who of ["a", "b"]) await ServiceClient.connect(restarted, who);
  const late = await (await ServiceClient.connect(restarted, "c")).mkdir("e");
  assert.ok(late >= other.first + 10);
  for (const count of [0, -1, 4_097, NaN]) {
    await assert.rejects(a.call("reserveInodes", { count }), { errno: "EPROTO" });
  }
});

Deno.test("deferred: one more name; not of another's file, nor of a directory", async () => {
  const { a, b, dir, make, tell, inode } = await start();
  await tell(make(1, "f"), make(2, "d", { mode: S_IFDIR | 0o755 }));
  const link = (ino: InodeId, entry: string) =>
    ({ kind: "link", ...at(3), ino, parent: dir, name: name(entry) }) as const;
  assert.equal((await tell(link(inode(1), "g"))).applied, 1);
  assert.deepEqual(await namesOf(a, dir), [`d=${inode(2)}`, `f=${inode(1)}`, `g=${inode(1)}`]);
  const { attributes: { nlink, ctime } } = await a.call("getattr", { ino: inode(1) });
  assert.deepEqual([nlink, ctime], [2, at(3).time]);
  assert.equal((await tell(link(inode(2), "e"))).applied, 0);
  const theirs = await b.create("t", undefined, true);
  assert.equal((await tell(link(theirs, "t"))).applied, 0);
});

Deno.test("deferred: a time of access is set, and nothing else", async () => {
  const { a, make, tell, inode } = await start();
  await tell(make(1, "f"));
  const { attributes: before } = await a.call("getattr", { ino: inode(1) });
  await tell({ kind: "access", ...at(9), ino: inode(1) });
  const { attributes: after } = await a.call("getattr", { ino: inode(1) });
  assert.deepEqual(after, { ...before, atime: at(9).time, version: before.version + 1 });
});

// ---- claims

Deno.test("claim: what nobody else has anything of is given alone; nobody is disturbed, and what is gone is left out", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const [shared, free, taken] = [
    await a.create("s"),
    await a.create("f"),
    await b.create("t", undefined, true),
  ];
  for (const ino of [shared, free]) await a.release(ino, "read");
  await b.call("getattr", { ino: shared });
  const [toA, toB] = [since(a), since(b)];
  const { inodes } = await a.call("claim", { inodes: [shared, free, taken, asInodeId(12_345)] });
  assert.deepEqual(inodes.map(({ attributes, lease }) => [attributes.ino, lease]), [
    [shared, "read"],
    [free, "exclusive"],
  ]);
  assert.deepEqual([toA(), toB()], [[], []]);
  await service.clock.advance(TOLD_MS + 1);
  await b.release(shared, "none");
  const { inodes: [now] } = await a.call("claim", { inodes: [shared] });
  assert.equal(now!.lease, "exclusive");
});

Deno.test("claim: too many at once are refused", async () => {
  const { clients: [a] } = await startService("a");
  const inodes = Array.from({ length: CLAIM_MAX + 1 }, () => ROOT_INODE);
  await assert.rejects(a.call("claim", { inodes }), (error) => isErrno(error, "EPROTO"));
});

Deno.test("listing ahead: what another client has alone is left out, and it is not asked", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const [mine, theirs] = [await a.create("m"), await b.create("t", undefined, true)];
  await a.release(mine, "read");
  const toB = since(b);
  const list = { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: true, ahead: true } as const;
  const { entries, directory } = await a.call("readDirectory", list);
  assert.deepEqual(entries.map(({ ino, inode }) => [ino, inode?.attributes.ino]), [[mine, mine], [
    theirs,
    undefined,
  ]]);
  assert.equal(directory, "read");
  assert.deepEqual(toB(), []);
});

Deno.test("listing ahead: a directory that another client has alone is not listed", async () => {
  const { b, dir } = await start();
  const list = { ino: dir, cookie: 0, limit: 9, withInodes: true, ahead: true } as const;
  await assert.rejects(b.call("readDirectory", list), (error) => isErrno(error, "EAGAIN"));
});

Deno.test("deferred: a rename between a directory of the session's own and a shared one leaves the shared one shared", async () => {
  const { a, b, dir, make, tell } = await start();
  await tell(make(1, "moved"));
  await b.call("lookup", { parent: ROOT_INODE, name: name("other") });
  const own = { parent: dir, name: name("moved") };
  const shared = { newParent: ROOT_INODE, newName: name("moved") };
  const there = await a.call("rename", { retry: a.tag(), ...own, ...shared, flags: 0 });
  const back = { parent: ROOT_INODE, name: name("moved"), newParent: dir, newName: name("moved") };
  const here = await a.call("rename", { retry: a.tag(), ...back, flags: 0 });
  assert.deepEqual([there.directory, here.directory], ["read", "read"]);
});
