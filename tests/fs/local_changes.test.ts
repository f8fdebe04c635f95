/** Changes of names that are made here and told later: what is deferred, when it is told, and what becomes of it. */

import assert from "node:assert/strict";
import { bytesKey, bytesOf } from "../../base/bytes.ts";
import {
  ACL_GROUP_OBJ,
  ACL_MASK,
  ACL_OTHER,
  ACL_USER,
  ACL_USER_OBJ,
  type AclEntry,
  encodeAcl,
} from "../../base/posix_acl.ts";
import type { Handle } from "../../fs/files.ts";
import { ABSENT, type Found, type Inode } from "../../fs/inode.ts";
import { openMode } from "../../fs/recalls.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asInodeId } from "../../wire/ids.ts";
import type { DeferredChange } from "../../wire/messages/deferred.ts";
import { type LeaseMode, S_IFDIR, S_IFLNK } from "../../wire/messages/inode.ts";
import type { DeferRequest } from "../../wire/messages/nameserver.ts";
import {
  blockOf,
  entryReply,
  INO,
  inodeReply,
  know,
  nameOf,
  OTHER,
  PATIENT,
  quiet,
  READ_ONLY,
  recall,
  ROOT,
  startClient,
  type TestClient,
  time,
  watch,
} from "./client.ts";

const CREDENTIALS = { uid: 1, gid: 2 };
const FIRST = 100;
const [A, B, C] = [nameOf("a"), nameOf("b"), nameOf("c")];
const DIRECTORY = { mode: S_IFDIR | 0o755, nlink: 2 };
const WRITING = { append: false, isWriteback: false, killSuidGid: false };

/** A client that has the root to itself, and knows all its names. */
async function startAlone(): Promise<TestClient & { readonly root: Inode }> {
  const client = startClient("off", true, true);
  client.session.inlineLimit = 4096;
  const root = know(client, ROOT, "exclusive", DIRECTORY);
  root.isComplete = true;
  const first = watch(client.names.make(mkdir(nameOf("first")), PATIENT));
  await client.nameserver.answer("make", entryReply(OTHER, "read", "exclusive"));
  assert.equal(first.state, "done");
  know(client, ROOT, "exclusive", DIRECTORY);
  client.nameserver.asked.length = 0;
  return { ...client, root };
}

function mkdir(name: Uint8Array, parent = ROOT) {
  return { parent, name, mode: S_IFDIR | 0o777, umask: 0o22, credentials: CREDENTIALS };
}

function symlink(name: Uint8Array) {
  return { parent: ROOT, name, mode: S_IFLNK | 0o777, target: nameOf("x"), credentials: CREDENTIALS };
}

function atOnce<T>(value: T | Promise<T>): T {
  assert.ok(!(value instanceof Promise), "made without a call");
  return value;
}

function made(client: TestClient, request: ReturnType<typeof mkdir | typeof symlink>): Inode {
  const inode = atOnce<Found>(client.names.make(request, PATIENT)).inode!;
  inode.lookups++;
  return inode;
}

function create({ files }: TestClient, name: Uint8Array): Handle {
  const request = { parent: ROOT, name, mode: 0o666, umask: 0o22, credentials: CREDENTIALS };
  const creating = files.create({ ...request, exclusive: true, write: true }, { truncate: false }, PATIENT);
  return atOnce(creating).handle;
}

function textOf(change: DeferredChange): string {
  const name = "name" in change ? ` ${new TextDecoder().decode(change.name)}` : "";
  return `${change.kind}${name} ${change.ino}`;
}

async function told(
  { nameserver }: TestClient,
): Promise<{ readonly changes: string[]; answer(applied?: number): Promise<void> }> {
  const call = await nameserver.next("defer");
  const { changes } = call.request as DeferRequest;
  return {
    changes: changes.map(textOf),
    answer: (applied = changes.length) =>
      call.answer({ applied, ...applied < changes.length ? { refusal: "why" } : {} }),
  };
}

Deno.test("local changes: made at once, shown as they will be, and told in order within 100 ms", async () => {
  const client = await startAlone();
  const { names, root, nameserver, clock, table } = client;
  const { version } = root.attributes;
  const directory = made(client, mkdir(A));
  assert.deepEqual([directory.ino, directory.attributes.mode, directory.attributes.uid, directory.lease], [
    ...[asInodeId(FIRST), S_IFDIR | 0o755, 1, "exclusive"],
  ]);
  assert.deepEqual([root.attributes.nlink, root.attributes.version], [3, version + 1]);
  const link = made(client, symlink(B));
  assert.deepEqual([link.attributes.size, link.attributes.mode & 0o777], [1, 0o777]);
  atOnce(names.rename(ROOT, B, ROOT, C, 0, PATIENT));
  assert.equal(atOnce(names.lookup(ROOT, C, PATIENT)).inode, link);
  assert.equal(atOnce(names.lookup(ROOT, B, PATIENT)).inode, null);
  assert.equal(atOnce(names.setattr({ ino: link.ino, uid: 7 }, PATIENT)).attributes.uid, 7);
  atOnce(names.remove(ROOT, A, true, PATIENT));
  assert.deepEqual([root.attributes.nlink, directory.attributes.nlink, directory.isUnlinked], [2, 0, true]);
  assert.deepEqual(nameserver.asked, []);
  await clock.advance(99);
  const batch = await told(client);
  assert.deepEqual(batch.changes, [
    ...[`make a ${FIRST}`, `make b ${FIRST + 1}`, `rename b ${FIRST + 1}`, `setattr ${FIRST + 1}`],
    `remove a ${FIRST}`,
  ]);
  assert.ok(root.deferred > 0);
  await batch.answer();
  assert.deepEqual([root.deferred, link.deferred, client.deferred.isEmpty], [0, 0, true]);
  assert.equal(table.get(link.ino), link);
});

Deno.test("local changes: what the nameserver must decide, or others may have a part in, is asked for", async () => {
  const cases: [string, (client: TestClient & { root: Inode }, file: Inode) => unknown][] = [
    [
      "the directory is not ours alone",
      ({ names, root }) => (root.lease = "read", names.make(mkdir(A), PATIENT)),
    ],
    ["it is being taken back", ({ names, root }) => (root.yielding = 1, names.make(mkdir(A), PATIENT))],
    [
      "its attributes are not known",
      ({ names, root }) => (root.forgetAttributes(), names.make(mkdir(A), PATIENT)),
    ],
    ["it may have a default ACL", ({ names, root }) => {
      root.attributes = { ...root.attributes, hasXattrs: true };
      return names.make(mkdir(A), PATIENT);
    }],
    ["it is append-only", ({ names, root }) => {
      root.attributes = { ...root.attributes, flags: 0x20 };
      return names.make(mkdir(A), PATIENT);
    }],
    ["the name may be taken", ({ names, root }) => (root.isComplete = false, names.make(mkdir(A), PATIENT))],
    ["the name is taken", ({ names }) => names.make(mkdir(C), PATIENT)],
    ["the name is too long", ({ names }) => names.make(mkdir(new Uint8Array(256).fill(65)), PATIENT)],
    [
      "the session may be over",
      ({ names, session }) => (session.isValid = false, names.make(mkdir(A), PATIENT)),
    ],
    ["another question is under way", ({ names, session }) => {
      void session.nameserver.statfs({});
      return names.make(mkdir(A), PATIENT);
    }],
    [
      "the file is not ours alone",
      ({ names }, file) => (file.lease = "read", names.remove(ROOT, C, false, PATIENT)),
    ],
    ["it is open here", async ({ names, files }, file) => {
      file.lease = "read"; // for the open
      await files.open(file.ino, READ_ONLY, PATIENT);
      file.lease = "exclusive";
      return names.remove(ROOT, C, false, PATIENT);
    }],
    ["rename flags", ({ names }) => names.rename(ROOT, C, ROOT, B, 2, PATIENT)],
    [
      "an attribute that goes with data",
      ({ names }, file) => names.setattr({ ino: file.ino, size: 0 }, PATIENT),
    ],
    ["privileges go", ({ names }, file) => {
      file.attributes = { ...file.attributes, mode: 0o104755 };
      return names.setattr({ ino: file.ino, uid: 5, killSuidGid: true }, PATIENT);
    }],
    ["an ACL follows the mode", ({ names }, file) => {
      file.attributes = { ...file.attributes, hasXattrs: true };
      return names.setattr({ ino: file.ino, mode: 0 }, PATIENT);
    }],
  ];
  for (const [why, run] of cases) {
    const client = await startAlone();
    const file = know(client, INO, "exclusive");
    client.root.setEntry(bytesKey(C), INO);
    const running = run(client, file);
    await quiet();
    assert.ok(running instanceof Promise, why);
    running.catch(() => {});
    assert.deepEqual(
      [client.deferred.isEmpty, client.nameserver.asked.includes("defer")],
      [true, false],
      why,
    );
  }
});

Deno.test("local changes: only an empty directory goes, or is replaced, and none gets another parent", async () => {
  const client = await startAlone();
  const { names, root } = client;
  const [one, two] = [made(client, mkdir(A)), made(client, mkdir(B))];
  const inner = atOnce<Found>(names.make(mkdir(C, one.ino), PATIENT)).inode!;
  for (
    const asked of [
      () => names.remove(ROOT, A, true, PATIENT),
      () => names.rename(ROOT, B, ROOT, A, 0, PATIENT),
      () => names.rename(one.ino, C, two.ino, C, 0, PATIENT),
    ]
  ) {
    const entries = new Map(root.entries);
    const running = asked();
    assert.ok(running instanceof Promise);
    running.catch(() => {});
    await quiet();
    await client.nameserver.calls.find(({ method }) => method !== "defer")!.fail(
      new FsError("ENOTEMPTY", "no"),
    );
    for (const [key, ino] of entries) root.setEntry(key, ino);
    one.setEntry(bytesKey(C), inner.ino);
  }
  atOnce(names.remove(one.ino, C, true, PATIENT));
  atOnce(names.rename(ROOT, B, ROOT, A, 0, PATIENT));
  assert.deepEqual([root.attributes.nlink, one.isUnlinked, inner.isUnlinked], [3, true, true]);
});

Deno.test("local changes: a recall waits until they are told, and nothing is deferred meanwhile", async () => {
  const client = await startAlone();
  const { names, root, clock } = client;
  made(client, symlink(A));
  const recalling = recall(client, { ino: ROOT, keep: "read", names: [B] });
  await quiet();
  const batch = await told(client);
  assert.deepEqual([batch.changes, recalling.state], [[`make a ${FIRST}`], "waits"]);
  assert.ok(names.make(mkdir(C), PATIENT) instanceof Promise);
  await batch.answer();
  assert.deepEqual([recalling.state, root.lease], ["done", "read"]);
  // So does one of what was made, by who has come to know its number.
  const other = await startAlone();
  const link = made(other, symlink(A));
  const taking = recall(other, { ino: link.ino, keep: "none" });
  const second = await told(other);
  assert.equal(taking.state, "waits");
  await second.answer();
  assert.deepEqual([taking.state, link.lease], ["done", "none"]);
  await clock.advance(0);
});

Deno.test("local changes: a new file, its data and its attributes are one call, sent at close", async () => {
  const client = await startAlone();
  const { files, names, nameserver } = client;
  const handle = create(client, A);
  const { inode } = handle.file;
  await files.write(handle, 0, nameOf("hello"), WRITING, PATIENT);
  const writing = watch(names.setattr({ ino: inode.ino, mtime: { seconds: 7, nanoseconds: 0 } }, PATIENT));
  await quiet();
  const closing = watch(files.flush(handle));
  const call = await nameserver.next("defer");
  const { changes } = call.request as DeferRequest;
  assert.deepEqual(changes.map(textOf), [`make a ${FIRST}`, `report ${FIRST}`, `setattr ${FIRST}`]);
  const [, report] = changes;
  assert.ok(report?.kind === "report");
  assert.deepEqual([report.size, report.inline, report.body], [
    5,
    [{ offset: 0, length: 5 }],
    nameOf("hello"),
  ]);
  assert.deepEqual([closing.state, inode.attributes.size, inode.attributes.version], ["waits", 5, 3]);
  await call.answer({ applied: 3 });
  assert.deepEqual([writing.state, closing.state, nameserver.asked], ["done", "done", ["defer"]]);
});

Deno.test("local changes: a new file that needs a block gets it with its making", async () => {
  const client = await startAlone();
  const { files, nameserver, dataservers } = client;
  const handle = create(client, A);
  await files.write(handle, 0, new Uint8Array(5_000), WRITING, PATIENT);
  const closing = watch(files.flush(handle));
  const call = await nameserver.next("defer");
  const [make] = (call.request as DeferRequest).changes;
  assert.ok(make?.kind === "make");
  assert.equal(make.host, "here");
  const ino = asInodeId(FIRST);
  await call.answer({ applied: 1, blocks: [{ ino, block: blockOf(3, 0, 1 << 20, false) }] });
  await quiet();
  assert.deepEqual(dataservers.writes, [{ block: 3, offset: 0, length: 5_000 }]);
  await nameserver.answer("commit", inodeReply(ino, "write", { size: 5_000 }));
  assert.equal(closing.state, "done");
});

/** Files follow each other, and blocks were given for the next ones. */
async function stocked(...blocks: number[]) {
  const client = await startAlone();
  client.root.attributes = { ...client.root.attributes, replication: 0 };
  client.session.reservable.push(...blocks.map((id) => blockOf(id, 0, 1 << 20, false)));
  assert.deepEqual([client.stock.take([]), client.stock.take([])], [undefined, undefined]);
  await quiet();
  return client;
}

Deno.test("local changes: with a block that was given in advance data goes out first, and one call tells all", async () => {
  const client = await stocked(8, 9);
  const { files, names, nameserver, dataservers } = client;
  const handle = create(client, A);
  await files.write(handle, 0, new Uint8Array(5_000), WRITING, PATIENT);
  const setting = watch(Promise.resolve(names.setattr({ ino: handle.file.ino, mode: 0o600 }, PATIENT)));
  await quiet();
  assert.deepEqual(dataservers.writes, [{ block: 8, offset: 0, length: 5_000 }]);
  assert.deepEqual([setting.state, nameserver.asked], ["done", []]);
  const closing = watch(files.flush(handle));
  const call = await nameserver.next("defer");
  const { changes } = call.request as DeferRequest;
  assert.deepEqual(changes.map(textOf), [`make a ${FIRST}`, `report ${FIRST}`, `setattr ${FIRST}`]);
  const [make, report] = changes;
  assert.ok(make?.kind === "make" && report?.kind === "report");
  assert.deepEqual([make.block, make.host, report.size], [8, undefined, 5_000]);
  assert.deepEqual(report.written.map(({ block, start }) => [block, start]), [[8, 0]]);
  assert.equal(closing.state, "waits");
  await call.answer({ applied: 3 });
  assert.deepEqual([closing.state, nameserver.asked], ["done", ["defer"]]);
});

Deno.test("local changes: a block that was given in advance is for the start of a file of the usual replication that is not told of yet", async () => {
  const client = await stocked(8);
  const { files, nameserver, dataservers, root } = client;
  root.attributes = { ...root.attributes, replication: 3 };
  const asks = async (handle: Handle, offset: number) => {
    await files.write(handle, offset, new Uint8Array(5_000), WRITING, PATIENT);
    const closing = watch(files.flush(handle));
    const call = await nameserver.next("defer");
    const make = (call.request as DeferRequest).changes.find(({ kind }) => kind === "make");
    assert.ok(make?.kind === "make");
    assert.deepEqual([make.block, make.host], [undefined, "here"]);
    const block = blockOf(handle.file.ino, 0, 1 << 20, false);
    await call.answer({ applied: 1, blocks: [{ ino: handle.file.ino, block }] });
    await nameserver.answer("commit", inodeReply(handle.file.ino, "write", { size: offset + 5_000 }));
    assert.equal(closing.state, "done");
  };
  await asks(create(client, A), 0);
  root.attributes = { ...root.attributes, replication: 0 };
  await asks(create(client, B), 4_096);
  const late = create(client, C);
  const telling = watch(client.deferred.settle()!);
  await (await told(client)).answer();
  assert.equal(telling.state, "done");
  await files.write(late, 0, new Uint8Array(5_000), WRITING, PATIENT);
  const closing = watch(files.flush(late));
  await nameserver.answer("allocateBlock", { block: blockOf(20, 0, 1 << 20, false) });
  await nameserver.answer("commit", inodeReply(late.file.ino, "write", { size: 5_000 }));
  assert.equal(closing.state, "done");
  assert.ok(dataservers.writes.every(({ block }) => block !== 8));
  assert.equal(client.stock.take([])?.id, 8);
});

for (const how of ["its session ends", "the nameserver refuses them"] as const) {
  Deno.test(`local changes: lost as ${how}, the next change, close and sync say so, once`, async () => {
    const client = await startAlone();
    const { files, names, root, recalls, session, kernel } = client;
    const open = create(client, A);
    const closing = watch(files.flush(open));
    await (await told(client)).answer();
    assert.equal(closing.state, "done");
    const lost = made(client, mkdir(B));
    const file = create(client, C);
    kernel.taken();
    if (how === "its session ends") await recalls.lost();
    else {
      const telling = client.deferred.settle();
      await (await told(client)).answer(0);
      await telling;
    }
    assert.deepEqual([root.lease, lost.lease, root.deferred, session.lostChanges], ["none", "none", 0, 1]);
    assert.ok(kernel.taken().includes("epoch"));
    // Whoever had a file open, whichever it was.
    for (const handle of [open, file]) {
      await assert.rejects(files.flush(handle), (error) => isErrno(error, "EIO"));
      await files.flush(handle);
    }
    assert.throws(() => names.make(symlink(nameOf("d")), PATIENT), (error) => isErrno(error, "EIO"));
    const making = names.make(symlink(nameOf("d")), PATIENT);
    assert.ok(making instanceof Promise);
    making.catch(() => {});
  });
}

Deno.test("local changes: a file is not said to be closed or given back before it is known", async () => {
  const client = await startAlone();
  const { files, releases, session } = client;
  const handle = create(client, A);
  void files.close(handle);
  await quiet();
  await releases.send();
  assert.deepEqual(session.told, []);
  const telling = client.deferred.settle();
  await (await told(client)).answer();
  await telling;
  await releases.send();
  assert.deepEqual(session.told.map(({ held }) => held), [[{
    ino: asInodeId(FIRST),
    lease: "none",
    open: "no",
  }]]);
});

Deno.test("local changes: what was written to a file that was made here is synced by who opens it later", async () => {
  for (const dataOnly of [false, true]) {
    const client = await startAlone();
    const { files, nameserver, dataservers } = client;
    const handle = create(client, A);
    const { ino } = handle.file;
    handle.file.inode.lookups++;
    await files.write(handle, 0, new Uint8Array(5_000), WRITING, PATIENT);
    const closing = watch(files.flush(handle));
    const call = await nameserver.next("defer");
    await call.answer({ applied: 1, blocks: [{ ino, block: blockOf(3, 0, 1 << 20, false) }] });
    await nameserver.answer("commit", inodeReply(ino, "write", { size: 5_000 }));
    assert.equal(closing.state, "done");
    await files.close(handle);
    assert.deepEqual(dataservers.syncs, []);
    const opening = watch(files.open(ino, { write: true, truncate: false, killSuidGid: false }, PATIENT));
    await quiet();
    assert.equal(opening.state, "done");
    const syncing = watch(files.fsync(await opening.promise, dataOnly));
    await nameserver.answer("sync", { ok: true });
    assert.deepEqual([syncing.state, dataservers.syncs], ["done", [3]]);
  }
});

Deno.test("local changes: when the nameserver's disk is nearly full, they are asked for", async () => {
  const client = await startAlone();
  const { names, nameserver, clock } = client;
  made(client, symlink(A));
  const telling = client.deferred.settle();
  await (await nameserver.next("defer")).answer({ applied: 1, isFull: true });
  await telling;
  const making = names.make(symlink(B), PATIENT);
  assert.ok(making instanceof Promise);
  making.catch(() => {});
  await (await nameserver.next("make")).fail(new FsError("ENOSPC", "full"));
  client.root.setEntry(bytesKey(B), ABSENT);
  await clock.advance(5_000);
  assert.ok(!client.deferred.hasRoom, "until a renewal says otherwise");
  client.session.isFull = false;
  made(client, symlink(B));
});

Deno.test("local changes: a directory that others took is wanted again after a while only", async () => {
  const client = startClient("off", true, true);
  const { names, nameserver, clock } = client;
  const wanted = async (name: string) => {
    know(client, ROOT, "read", DIRECTORY);
    const making = watch(names.make(mkdir(nameOf(name)), PATIENT));
    await quiet();
    const call = await nameserver.next("make");
    await call.answer(entryReply(INO, "none", "none"));
    assert.equal(making.state, "done");
    return (call.request as { wantsDirectory?: true }).wantsDirectory === true;
  };
  assert.deepEqual([await wanted("1"), await wanted("2")], [false, true]);
  const root = know(client, ROOT, "exclusive", DIRECTORY);
  recall(client, { ino: ROOT, keep: "read" });
  await quiet();
  assert.equal(root.lease, "read");
  assert.deepEqual([await wanted("3"), await wanted("4")], [false, false]);
  await clock.advance(1_000);
  assert.equal(await wanted("5"), true);
});

Deno.test("local changes: a file that the kernel knows still when its end is told counts as open until it is forgotten", async () => {
  const client = await startAlone();
  const { files, names, releases, session, nameserver } = client;
  const handles = [A, B].map((name) => create(client, name));
  const [held, forgotten] = handles.map(({ file }) => file.inode) as [Inode, Inode];
  for (const inode of [held, forgotten]) inode.lookups = 1;
  const settled = client.deferred.settle();
  await (await told(client)).answer();
  await settled;
  await Promise.all(handles.map((handle) => files.close(handle)));
  await releases.send();
  session.told.length = 0;
  for (const inode of [held, forgotten]) inode.lease = "exclusive";
  atOnce(names.remove(ROOT, A, false, PATIENT));
  atOnce(names.remove(ROOT, B, false, PATIENT));
  files.forget(forgotten.ino, 1);
  const telling = client.deferred.settle();
  const call = await nameserver.next("defer");
  const { changes } = call.request as DeferRequest;
  assert.deepEqual(changes.map((change) => "held" in change ? change.held : undefined), [true, undefined]);
  await call.answer({ applied: 2 });
  await telling;
  await releases.send();
  const toldOf = (ino: number) => session.told.flatMap(({ held }) => held).filter((one) => one.ino === ino);
  assert.deepEqual([openMode(held), toldOf(held.ino)], ["read", []]);
  assert.equal(openMode(forgotten), "no");
  files.forget(held.ino, 1);
  await releases.send();
  assert.deepEqual(toldOf(held.ino), [{ ino: held.ino, lease: "none", open: "no" }]);
});

Deno.test("local changes: one more name of a file, and the loss of one of them", async () => {
  const client = await startAlone();
  const { names, root, nameserver } = client;
  const inode = made(client, symlink(A));
  const { version } = root.attributes;
  const found = atOnce(names.link(inode.ino, ROOT, B, PATIENT));
  assert.deepEqual([found.inode, found.isKept, inode.attributes.nlink], [inode, true, 2]);
  assert.equal(root.attributes.version, version + 1);
  assert.equal(atOnce(names.lookup(ROOT, B, PATIENT)).inode, inode);
  atOnce(names.remove(ROOT, A, false, PATIENT));
  assert.deepEqual([inode.attributes.nlink, inode.isUnlinked], [1, false]);
  assert.deepEqual(nameserver.asked, []);
  const directory = made(client, mkdir(C));
  for (const [ino, name] of [[directory.ino, A], [inode.ino, B]] as const) {
    const asking = names.link(ino, ROOT, name, PATIENT);
    assert.ok(asking instanceof Promise, "a directory, and a name that is taken");
    asking.catch(() => {});
    const batch = nameserver.calls.find(({ method }) => method === "defer");
    if (batch !== undefined) await batch.answer({ applied: 4 });
    await quiet();
    await nameserver.calls.find(({ method }) => method === "link")!.fail(new FsError("EPERM", "no"));
  }
});

Deno.test("local changes: an ACL that is a mode is set as one, of what is written as well; others are asked for", async () => {
  const client = await startAlone();
  const { names, nameserver } = client;
  const name = bytesOf("system.posix_acl_access");
  const acl = (...entries: AclEntry[]) => encodeAcl(entries);
  const [owner, group, other] = [
    { tag: ACL_USER_OBJ, permissions: 6, id: 0xffffffff },
    { tag: ACL_GROUP_OBJ, permissions: 4, id: 0xffffffff },
    { tag: ACL_OTHER, permissions: 0, id: 0xffffffff },
  ];
  const handle = create(client, A);
  const { inode } = handle.file;
  await client.files.write(handle, 0, nameOf("data"), WRITING, PATIENT);
  const setting = watch(names.setXattr(inode.ino, name, acl(owner, group, other), 0, PATIENT));
  await quiet();
  assert.equal(setting.state, "done");
  assert.equal(inode.attributes.mode & 0o7777, 0o640);
  const removing = watch(names.removeXattr(inode.ino, bytesOf("system.posix_acl_default"), PATIENT));
  await quiet();
  assert.equal(removing.state, "done");
  assert.deepEqual(nameserver.asked, []);
  const user = { tag: ACL_USER, permissions: 7, id: 9 };
  const mask = { tag: ACL_MASK, permissions: 7, id: 0xffffffff };
  names.setXattr(inode.ino, name, acl(owner, user, group, mask, other), 0, PATIENT).catch(() => {});
  await quiet();
  assert.deepEqual(nameserver.asked, ["setXattr"]);
});

Deno.test("local changes: what the kernel has from before one that it may not have taken yet goes when others look", async () => {
  for (const afterMs of [0, 999, 1_000]) {
    const client = await startAlone();
    const { names, nameserver, clock, kernel, root } = client;
    const file = know(client, INO, "exclusive");
    root.setEntry(bytesKey(C), INO);
    made(client, mkdir(A));
    atOnce(names.setattr({ ino: INO, mode: 0o600 }, PATIENT));
    const telling = client.deferred.settle();
    await nameserver.answer("defer", { applied: 2 });
    await telling;
    await clock.advance(afterMs);
    for (const inode of [root, file]) {
      kernel.taken();
      const { ino } = inode;
      await recall(client, { ino, keep: "read" }).promise;
      assert.equal(inode.lease, "read");
      const taken = kernel.taken();
      const isUntaken = afterMs < 1_000;
      assert.equal(taken.includes(`attributes ${ino}`), isUntaken, `${ino} after ${afterMs} ms`);
      assert.equal(taken.includes("epoch"), isUntaken && inode === root, `${ino} after ${afterMs} ms`);
    }
  }
});

// ---- claims

/** A client to which the root and files in it, "0" of inode 200 and so on, were told, shared with others. */
function startShared(count: number) {
  const client = startClient("off", true, true);
  const root = know(client, ROOT, "read", DIRECTORY);
  root.isComplete = true;
  for (let i = 0; i < count; i++) {
    root.setEntry(bytesKey(nameOf(`${i}`)), know(client, asInodeId(200 + i)).ino);
  }
  return { ...client, root };
}

const claimReply = (inodes: readonly number[], lease: LeaseMode = "exclusive") => ({
  inodes: inodes.map((ino) => inodeReply(asInodeId(ino), lease, ino === ROOT ? DIRECTORY : {})),
});

async function removeByAsking({ names, nameserver }: TestClient, name: string, ino: number): Promise<void> {
  const removing = names.remove(ROOT, nameOf(name), false, PATIENT);
  await nameserver.answer("remove", {
    ...{ ino: asInodeId(ino), nlink: 0, directory: "read" },
    directories: [{ ino: ROOT, version: 2, nlink: 2, mtime: time(2) }],
  });
  await removing;
}

Deno.test("claims: after two changes in a directory it is claimed with what is in it, and the next are made here", async () => {
  const client = startShared(100);
  const { names, nameserver, root } = client;
  await removeByAsking(client, "0", 200);
  root.attributes = { ...root.attributes, version: 1 };
  await removeByAsking(client, "1", 201);
  const renaming = watch(Promise.resolve(names.rename(ROOT, nameOf("2"), ROOT, B, 0, PATIENT)));
  const { inodes } = (await nameserver.next("claim")).request;
  assert.deepEqual(inodes.slice(0, 2), [ROOT, asInodeId(202)], "what is in the way comes first");
  assert.equal(inodes.length, 1 + 16, "one of them is the one that is renamed");
  await nameserver.answer("claim", claimReply(inodes));
  assert.equal(renaming.state, "done");
  assert.deepEqual(nameserver.asked, ["remove", "remove", "claim"]);
  for (let i = 3; i < 18; i++) atOnce(names.remove(ROOT, nameOf(`${i}`), false, PATIENT));
  const next = watch(Promise.resolve(names.remove(ROOT, nameOf("50"), false, PATIENT)));
  const second = (await nameserver.next("claim")).request.inodes;
  assert.deepEqual([second[0], second.length], [asInodeId(250), 1 + 32], "more at once");
  await nameserver.answer("claim", claimReply(second));
  assert.equal(next.state, "done");
});

Deno.test("claims: where the kernel would have to forget its names for a change, the directory is claimed before", async () => {
  for (const lease of ["exclusive", "read"] as const) {
    const client = startShared(3);
    const { names, nameserver, kernel, clock } = client;
    const make = async (name: Uint8Array, version: number) => {
      names.namesForMs(ROOT, true);
      const making = watch(Promise.resolve(names.make(mkdir(name), PATIENT)));
      await quiet();
      if (nameserver.calls[0]!.method === "claim") {
        await nameserver.answer("claim", claimReply([ROOT], lease));
      }
      const taken = kernel.taken().filter((message) => message === "epoch");
      await nameserver.answer("make", {
        ...entryReply(OTHER, "read", lease, { mode: S_IFDIR }),
        directories: [{ ino: ROOT, version, nlink: 3, mtime: time(2) }],
      });
      await making.promise;
      return taken.length;
    };
    assert.equal(
      await make(A, 2),
      lease === "read" ? 1 : 0,
      "only what others have something of is not given",
    );
    assert.deepEqual(nameserver.asked, ["claim", "make"]);
    if (lease === "exclusive") continue;
    for (const version of [3, 4]) {
      await clock.advance(1_000);
      assert.equal(await make(B, version), 1);
    }
    assert.deepEqual(nameserver.asked.slice(2), ["claim", "make", "make"], "not again for a while");
  }
});

Deno.test("claims: what is refused is asked for, and so are further changes for a while", async () => {
  const client = startShared(9);
  const { names, nameserver, root, clock } = client;
  root.lease = "exclusive";
  const removing = watch(Promise.resolve(names.remove(ROOT, nameOf("0"), false, PATIENT)));
  const { inodes } = (await nameserver.next("claim")).request;
  await nameserver.answer("claim", claimReply(inodes.slice(1)));
  assert.equal(removing.state, "waits");
  await nameserver.answer("remove", { ino: asInodeId(200), nlink: 0, directory: "read" });
  assert.equal(removing.state, "done");
  know(client, ROOT, "exclusive", { ...DIRECTORY, version: 9 });
  const again = () => {
    know(client, asInodeId(208), "read", { version: 9 }).lease = "read";
    root.setEntry(bytesKey(A), asInodeId(208));
    return names.remove(ROOT, A, false, PATIENT) as Promise<void>;
  };
  again().catch(() => {});
  await quiet();
  assert.equal(nameserver.calls[0]!.method, "remove");
  await nameserver.calls[0]!.fail(new FsError("EACCES", "why"));
  await clock.advance(64_000);
  const last = again();
  await quiet();
  assert.equal(nameserver.calls[0]!.method, "claim");
  await nameserver.calls[0]!.fail(new FsError("ENOSYS", "an older server"));
  await nameserver.answer("remove", { ino: asInodeId(208), nlink: 0, directory: "read" });
  await last;
});

Deno.test("claims: the answer brings nothing back of what the kernel has forgotten meanwhile", async () => {
  const client = startShared(2);
  const { names, nameserver, root, files, releases, table } = client;
  root.lease = "exclusive";
  const removing = watch(Promise.resolve(names.remove(ROOT, nameOf("0"), false, PATIENT)));
  const { inodes } = (await nameserver.next("claim")).request;
  assert.deepEqual(inodes, [200, 201]);
  files.forget(asInodeId(201), 1);
  await releases.send();
  await nameserver.answer("claim", claimReply(inodes));
  assert.deepEqual([removing.state, table.get(asInodeId(201))], ["done", undefined]);
});

Deno.test("claims: none of what is being given back, or removed, and none while a call is under way", async () => {
  const client = startShared(2);
  const { names, nameserver, root, table } = client;
  root.lease = "exclusive";
  table.get(asInodeId(200))!.yielding = 1;
  names.remove(ROOT, nameOf("0"), false, PATIENT)!.catch(() => {});
  await quiet();
  assert.deepEqual(nameserver.asked, ["remove"]);
  names.remove(ROOT, nameOf("1"), false, PATIENT)!.catch(() => {});
  await quiet();
  assert.deepEqual(nameserver.asked, ["remove", "remove"]);
});
