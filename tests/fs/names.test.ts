/** Names, attributes and xattrs: what is answered from what is known, what is kept of answers, and what changes undo. */

import assert from "node:assert/strict";
import { bytesKey } from "../../base/bytes.ts";
import { ABSENT, type Inode, UNKNOWN } from "../../fs/inode.ts";
import type { Found } from "../../fs/inode.ts";
import type { Interruptible } from "../../fs/interruptible.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asInodeId, type InodeId } from "../../wire/ids.ts";
import {
  entryReply,
  found,
  INO,
  inodeReply,
  know,
  nameOf,
  opened,
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
  WRITING,
} from "./client.ts";

const A = nameOf("a");
const B = nameOf("b");
const CREDENTIALS = { uid: 0, gid: 0 };
const MKDIR = { parent: ROOT, name: A, mode: 0o040755, credentials: CREDENTIALS };

/** What is known without asking. */
function atOnce<T>(value: T | Promise<T>): T {
  assert.ok(!(value instanceof Promise), "answered without a call");
  return value;
}

/** A client whose root directory leads to INO by "a", under leases on both. */
function startWithName(): TestClient & { readonly root: Inode; readonly inode: Inode } {
  const client = startClient();
  const root = know(client, ROOT);
  const inode = know(client, INO);
  root.setEntry(bytesKey(A), INO);
  return { ...client, root, inode };
}

function entry(root: Inode, name: Uint8Array): InodeId | undefined {
  return root.entries?.get(bytesKey(name));
}

Deno.test("lookup: what the nameserver said is answered without a call from then on, present and absent", async () => {
  const { names, table, nameserver, session } = startClient();
  table.adopt(inodeReply(ROOT, "read"), table.moment);
  const asking = names.lookup(ROOT, A, PATIENT);
  await nameserver.answer("lookup", found(INO));
  const first = await asking;
  assert.deepEqual([first.inode?.ino, first.isKept], [INO, true]);
  assert.deepEqual(atOnce(names.lookup(ROOT, A, PATIENT)), first);
  const absent = names.lookup(ROOT, B, PATIENT);
  await nameserver.answer("lookup", { directory: "read" });
  assert.deepEqual(await absent, { inode: null, isKept: true });
  assert.deepEqual(atOnce(names.lookup(ROOT, B, PATIENT)), { inode: null, isKept: true });
  assert.deepEqual([names.namesForMs(ROOT, true), names.namesForMs(ROOT, false)], [session.validForMs, 0]);
  assert.equal(names.attributesForMs(first.inode!), session.validForMs);
  assert.deepEqual(nameserver.asked, ["lookup", "lookup"]);
});

Deno.test("lookup: in a directory of which all names are known every other one is absent, and noted as such", () => {
  const { names, root } = startWithName();
  root.isComplete = true;
  assert.equal(atOnce(names.lookup(ROOT, A, PATIENT)).inode?.ino, INO);
  assert.deepEqual(atOnce(names.lookup(ROOT, B, PATIENT)), { inode: null, isKept: true });
  assert.equal(entry(root, B), ABSENT, "so that a recall of the name finds that the kernel has it");
});

Deno.test("lookup: asks where the directory is not leased, the inode is not fresh, or the session is not valid", () => {
  const { names, root, inode, session, nameserver } = startWithName();
  root.isComplete = true;
  const asks = () => {
    const lookup = names.lookup(ROOT, A, PATIENT);
    assert.ok(lookup instanceof Promise);
  };
  session.isValid = false;
  asks();
  assert.ok(names.lookup(ROOT, B, PATIENT) instanceof Promise);
  session.isValid = true;
  inode.forgetAttributes();
  asks();
  inode.attributesKnown = true;
  inode.lease = "none";
  asks();
  inode.lease = "read";
  root.lease = "none";
  asks();
  root.lease = "read";
  root.setEntry(bytesKey(A), UNKNOWN);
  asks();
  root.setEntry(bytesKey(A), asInodeId(99)); // an inode that was forgotten since
  asks();
  assert.equal(nameserver.calls.length, 7);
  root.setEntry(bytesKey(A), INO);
  atOnce(names.lookup(ROOT, A, PATIENT));
});

Deno.test("lookup: a recall of names between request and reply means that the answer is not kept", async () => {
  for (const reply of [found(INO), { directory: "read" } as const]) {
    const client = startClient();
    const { names, nameserver } = client;
    const root = know(client, ROOT);
    const asking = names.lookup(ROOT, A, PATIENT);
    const call = await nameserver.next("lookup");
    await recall(client, { ino: ROOT, keep: "read", names: [A] }).promise;
    await call.answer(reply);
    const { inode, isKept } = await asking;
    assert.equal(isKept, false);
    assert.equal(inode === null, reply.directory === "read" && !("inode" in reply));
    if (inode !== null) assert.equal(inode.isFresh, true, "of the inode nothing was recalled");
    assert.notEqual(entry(root, A), INO);
    assert.notEqual(entry(root, A), ABSENT);
    assert.ok(names.lookup(ROOT, A, PATIENT) instanceof Promise, "so it is asked again");
  }
});

Deno.test("lookup: a recall of the inode between request and reply leaves the name, but not the attributes", async () => {
  const client = startClient();
  const { names, nameserver } = client;
  know(client, ROOT);
  const asking = names.lookup(ROOT, A, PATIENT);
  const call = await nameserver.next("lookup");
  await recall(client, { keep: "read", attributes: true }).promise;
  await call.answer(found(INO));
  const { inode, isKept } = await asking;
  assert.deepEqual([isKept, names.attributesForMs(inode!)], [true, 0]);
  assert.ok(names.lookup(ROOT, A, PATIENT) instanceof Promise);
});

Deno.test("lookup: a reply that grants nothing of the directory is not kept whatever is held of it", async () => {
  const { names, nameserver, root } = startWithName();
  const asking = names.lookup(ROOT, B, PATIENT);
  await nameserver.answer("lookup", { inode: inodeReply(OTHER, "read"), directory: "none" });
  assert.equal((await asking).isKept, false, "another is changing that very name");
  assert.equal(entry(root, B), undefined);
  assert.equal(root.lease, "read");
});

Deno.test("getattr: fresh attributes need no call, others one", async () => {
  const { names, nameserver, inode } = startWithName();
  assert.equal(atOnce(names.getattr(INO, PATIENT)), inode);
  inode.forgetAttributes();
  const asking = names.getattr(INO, PATIENT);
  await nameserver.answer("getattr", inodeReply(INO, "read", { version: 2, size: 9 }));
  assert.equal(await asking, inode);
  assert.equal(names.shown(inode).size, 9);
  assert.equal(atOnce(names.getattr(INO, PATIENT)), inode);
});

Deno.test("setattr: what is written comes first, and the answer's attributes are shown without another call", async () => {
  const client = startWithName();
  const { names, nameserver, inode, events } = client;
  const handle = await opened(client, WRITING);
  handle.file.wrote(10, names.shown(inode).mtime, 0);
  events.length = 0;
  const changing = names.setattr({ ino: INO, mode: 0o600 }, PATIENT);
  await nameserver.answer("commit", inodeReply(INO, "write", { version: 2, size: 10 }));
  const call = await nameserver.next("setattr");
  assert.equal(call.request.mode, 0o600);
  await call.answer(inodeReply(INO, "write", { version: 3, size: 10, mode: 0o100600 }));
  assert.equal(await changing, inode);
  assert.deepEqual([atOnce(names.getattr(INO, PATIENT)).attributes.mode, events], [0o100600, [
    "commit",
    `attributes ${INO}`,
    "setattr",
  ]]);
});

Deno.test("setattr: a new size makes the known blocks unknown, size 0 leaves none", async () => {
  for (const size of [100, 0]) {
    const { names, nameserver, table } = startClient();
    const inode = table.adopt({ ...inodeReply(INO, "read"), blocks: [] }, table.moment);
    assert.ok(inode.blocks!.knows(0, 1));
    const changing = names.setattr({ ino: INO, size }, PATIENT);
    await nameserver.answer("setattr", inodeReply(INO, "read", { version: 2, size }));
    await changing;
    assert.equal(inode.blocks!.knows(0, 1), size === 0);
  }
});

Deno.test("setattr: a getattr that was answered before it, but comes later, changes nothing", async () => {
  const { names, nameserver, inode } = startWithName();
  inode.forgetAttributes();
  const asking = names.getattr(INO, PATIENT);
  const late = await nameserver.next("getattr");
  const changing = names.setattr({ ino: INO, mode: 0o600 }, PATIENT);
  await quiet();
  await nameserver.calls[1]!.answer(inodeReply(INO, "read", { version: 2, mode: 0o100600 }));
  await changing;
  await late.answer(inodeReply(INO, "read", { version: 1, mode: 0o100644 }));
  assert.equal((await asking).attributes.mode, 0o100600);
});

// ---- our own changes of names

/** Runs a change of the name "a", and a lookup of it that the server answers before, whose answer comes in last. */
async function crossed(
  client: TestClient,
  start: () => unknown,
  answer: () => Promise<void>,
): Promise<Found> {
  const { names, nameserver, table } = client;
  table.get(ROOT)!.entries?.delete(bytesKey(A));
  const asking = names.lookup(ROOT, A, PATIENT) as Promise<Found>;
  const late = await nameserver.next("lookup");
  nameserver.calls.shift(); // the server has answered it; the answer is on its way
  const changing = start();
  await answer();
  await changing;
  nameserver.calls.push(late);
  await late.answer(found(INO));
  return await asking;
}

Deno.test("own changes: what a lookup that crossed one says of the name is not kept", async () => {
  const unlinked = startWithName();
  const before = await crossed(
    unlinked,
    () => unlinked.names.remove(ROOT, A, false, PATIENT),
    () => unlinked.nameserver.answer("remove", { ino: INO, nlink: 0, directory: "read" }),
  );
  assert.equal(before.isKept, false);
  assert.equal(entry(unlinked.root, A), ABSENT);
  assert.equal(unlinked.inode.isFresh, false, "nor what it says of the inode, which has lost a name since");

  const made = startWithName();
  const old = await crossed(
    made,
    () => made.names.make(MKDIR, PATIENT),
    () => made.nameserver.answer("make", entryReply(OTHER, "read", "read", { mode: 0o040755 })),
  );
  assert.equal(old.isKept, false);
  assert.equal(entry(made.root, A), OTHER);
});

Deno.test("own changes: while one is under way the name is asked for, though the directory is complete", async () => {
  const { names, root, nameserver } = startWithName();
  root.isComplete = true;
  const making = watch(names.make({ ...MKDIR, name: B }, PATIENT));
  assert.ok(names.lookup(ROOT, B, PATIENT) instanceof Promise);
  const removing = watch(names.remove(ROOT, A, false, PATIENT));
  assert.ok(names.lookup(ROOT, A, PATIENT) instanceof Promise);
  await quiet();
  await nameserver.calls.find(({ method }) => method === "make")!.fail(new FsError("EDQUOT", "full"));
  await nameserver.calls.find(({ method }) => method === "remove")!.fail(new FsError("EBUSY", "no"));
  assert.ok(isErrno(making.error, "EDQUOT") && isErrno(removing.error, "EBUSY"));
  assert.ok(names.lookup(ROOT, A, PATIENT) instanceof Promise, "a change that failed may have been made");
  assert.ok(names.lookup(ROOT, B, PATIENT) instanceof Promise);
});

/** Changes of the name "a" (and "b") that the nameserver is asked for, with its answers. */
const CHANGES: readonly {
  readonly method: "make" | "remove" | "rename" | "link" | "create";
  readonly start: (client: TestClient, interrupt?: Interruptible) => unknown;
  readonly answer: (client: TestClient) => Promise<unknown>;
}[] = [
  {
    method: "make",
    start: ({ names }, interrupt = PATIENT) => names.make(MKDIR, interrupt),
    answer: ({ nameserver }) =>
      nameserver.answer("make", entryReply(OTHER, "read", "read", { mode: 0o040755 })),
  },
  {
    method: "remove",
    start: ({ names }, interrupt = PATIENT) => names.remove(ROOT, A, false, interrupt),
    answer: ({ nameserver }) => nameserver.answer("remove", { ino: INO, nlink: 0, directory: "read" }),
  },
  {
    method: "rename",
    start: ({ names }, interrupt = PATIENT) => names.rename(ROOT, B, ROOT, A, 0, interrupt),
    answer: ({ nameserver }) => nameserver.answer("rename", { ino: OTHER, directory: "read" }),
  },
  {
    method: "link",
    start: ({ names }, interrupt = PATIENT) => names.link(OTHER, ROOT, A, interrupt),
    answer: ({ nameserver }) => nameserver.answer("link", entryReply(OTHER, "read", "read")),
  },
  {
    method: "create",
    start: ({ files }, interrupt = PATIENT) => {
      const request = { parent: ROOT, name: A, mode: 0o644, umask: 0, exclusive: false, write: false };
      return files.create({ ...request, credentials: { uid: 0, gid: 0 } }, {
        truncate: false,
        append: false,
      }, interrupt);
    },
    answer: ({ nameserver }) =>
      nameserver.answer("create", {
        ...entryReply(OTHER, "read", "read"),
        ...{ created: true, blocks: [], blocksComplete: true, isShared: false },
      }),
  },
];

Deno.test("own changes: others may see one before its answer, so that nothing is shown nor kept of the name until then", async () => {
  for (const { method, start, answer } of CHANGES) {
    const client = startWithName();
    const { names, nameserver, kernel, root } = client;
    assert.ok(names.namesForMs(ROOT, true) > 0);
    const changing = watch(Promise.resolve(start(client)));
    const call = await nameserver.next(method);
    nameserver.calls.shift();
    assert.ok(kernel.taken().includes("epoch"), `${method}: the kernel keeps what it has`);
    const during = watch(names.lookup(ROOT, A, PATIENT) as Promise<Found>);
    await nameserver.answer("lookup", found(INO));
    assert.equal((await during.promise).isKept, false, method);
    assert.ok(names.lookup(ROOT, A, PATIENT) instanceof Promise, `${method}: it is asked for again`);
    nameserver.calls.pop();
    nameserver.calls.unshift(call);
    await answer(client);
    await changing.promise;
    assert.notEqual(entry(root, A), INO, method);
    assert.notEqual(entry(root, A), UNKNOWN, `${method}: its answer says where the name leads`);
  }
});

Deno.test("own changes: the kernel keeps no names where others may look on, for a second, so that the next takes none away", async () => {
  const [{ start, answer }] = CHANGES as [typeof CHANGES[number]];
  const client = startWithName();
  const { names, kernel, clock, root, session } = client;
  const change = async () => {
    const changing = start(client);
    await answer(client);
    await changing;
    return kernel.taken().filter((message) => message === "epoch").length;
  };
  assert.equal(await change(), 0, "it was told of none");
  assert.equal(names.namesForMs(ROOT, true), 0);
  assert.equal(await change(), 0);
  await clock.advance(1_000);
  assert.equal(names.namesForMs(ROOT, true), session.validForMs);
  assert.deepEqual([await change(), await change()], [1, 0]);
  await clock.advance(1_000);
  names.namesForMs(ROOT, true);
  await client.kernelCache.dropAllNames();
  kernel.taken();
  assert.equal(await change(), 0, "they are gone already");
  root.lease = "exclusive";
  assert.equal(names.namesForMs(ROOT, true), session.validForMs, "nobody looks on without asking us");
  assert.equal(await change(), 0);
});

Deno.test("own changes: what the kernel has of a directory of ours goes when that is given up while one is asked for", async () => {
  for (const { method, start, answer } of CHANGES) {
    const client = startWithName();
    const { names, kernel, nameserver, root } = client;
    root.lease = "exclusive";
    names.namesForMs(ROOT, true);
    const changing = start(client);
    await nameserver.next(method);
    assert.ok(!kernel.taken().includes("epoch"), "nobody looks on without asking us");
    await recall(client, { ino: ROOT, keep: "read" }).promise;
    assert.ok(kernel.taken().includes("epoch"), `${method}: others see it before its answer is here`);
    await answer(client);
    await changing;
    kernel.taken();
    root.lease = "exclusive";
    await recall(client, { ino: ROOT, keep: "read" }).promise;
    assert.ok(!kernel.taken().includes("epoch"), "nothing is asked for");
  }
});

Deno.test("own changes: names of a listing go before one, as the kernel gives them the epoch in which it takes them", async () => {
  const [{ start, answer }] = CHANGES as [typeof CHANGES[number]];
  const client = startWithName();
  const { names, kernel, kernelCache } = client;
  const change = async () => {
    const changing = start(client);
    await answer(client);
    await changing;
    return kernel.taken().filter((message) => message === "epoch").length;
  };
  assert.ok(names.namesForMs(ROOT, true, true) > 0);
  await kernelCache.dropAllNames(); // before the kernel has taken them
  kernel.taken();
  assert.deepEqual([await change(), await change()], [1, 0]);
  assert.equal(names.namesForMs(ROOT, true, true), 0);
  assert.equal(await change(), 0, "it may not keep them");
});

Deno.test("own changes: who gives up waiting leaves one to be taken over, and the kernel looks again when it was made", async () => {
  for (const { method, start, answer } of CHANGES) {
    const client = startWithName();
    const { names, nameserver, kernel, root, table, releases, readAhead, clock } = client;
    root.lease = "exclusive";
    root.hasPages = true;
    names.namesForMs(ROOT, true);
    const giveUp = new AbortController();
    const changing = watch(Promise.resolve(start(client, giveUp)));
    const call = await nameserver.next(method);
    kernel.taken();
    giveUp.abort();
    await quiet();
    assert.ok(isErrno(changing.error, "EINTR"), method);
    assert.deepEqual(kernel.taken(), [`pages ${ROOT} 0+`], `${method}: it lets others look at the directory`);
    nameserver.calls.shift();
    const during = watch(names.lookup(ROOT, A, PATIENT) as Promise<Found>);
    await nameserver.answer("lookup", found(INO, "exclusive"));
    assert.equal((await during.promise).isKept, false, `${method}: it may be made at any time`);
    nameserver.calls.unshift(call);
    await answer(client);
    assert.ok(![INO, UNKNOWN].includes(entry(root, A)!), method);
    assert.equal(root.isFresh, false, method);
    const taken = kernel.taken();
    assert.ok(taken.includes(`attributes ${ROOT}`) && taken.includes("epoch"), `${method}: ${taken}`);
    await clock.advance(3_001);
    readAhead.sweep();
    await releases.send();
    assert.equal(table.get(OTHER), undefined, `${method}: nobody knows it`);
  }
});

Deno.test("own changes: of one that fails without being known to be made the directory is looked at again", async () => {
  for (const errno of ["EIO", "ENOSPC"] as const) {
    for (const { method, start } of CHANGES) {
      const client = startWithName();
      const { nameserver, kernel, root, table } = client;
      const { moment } = table;
      const changing = watch(Promise.resolve(start(client)));
      const call = await nameserver.next(method);
      kernel.taken();
      await call.fail(new FsError(errno, "no"));
      assert.ok(isErrno(changing.error, errno));
      const isDoubtful = errno === "EIO";
      assert.deepEqual([root.isFresh, table.isCrossed(ROOT, moment)], [!isDoubtful, isDoubtful], method);
      assert.equal(kernel.taken().includes(`attributes ${ROOT}`), isDoubtful, method);
    }
  }
});

Deno.test("make: the new name is known, the directory's attributes are not any more", async () => {
  const { names, root, nameserver } = startWithName();
  const making = names.make({ ...MKDIR, name: B }, PATIENT);
  await nameserver.answer("make", entryReply(OTHER, "read", "read", { mode: 0o040755 }));
  const { inode, isKept } = await making;
  assert.deepEqual([inode!.ino, isKept], [OTHER, true]);
  assert.equal(atOnce(names.lookup(ROOT, B, PATIENT)).inode, inode);
  assert.equal(root.isFresh, false, "its mtime and link count have changed");
  assert.equal(root.lease, "read", "but its names are as we know them");
  assert.deepEqual(atOnce(names.lookup(OTHER, A, PATIENT)).inode, null, "a directory that we made is empty");
  assert.equal(nameserver.asked.length, 1);
});

Deno.test("make: without a lease on the directory, or after a recall that crossed it, the name is not kept", async () => {
  const without = startWithName();
  const making = without.names.make({ ...MKDIR, name: B }, PATIENT);
  await without.nameserver.answer("make", entryReply(OTHER, "read", "none"));
  assert.equal((await making).isKept, false);
  assert.equal(entry(without.root, B), UNKNOWN);

  const client = startWithName();
  const again = client.names.make({ ...MKDIR, name: B }, PATIENT);
  const call = await client.nameserver.next("make");
  await recall(client, { ino: ROOT, keep: "read", names: [B] }).promise;
  await call.answer(entryReply(OTHER, "none", "read"));
  const { inode, isKept } = await again;
  assert.equal(isKept, false, "another has removed it already");
  assert.equal(entry(client.root, B), UNKNOWN);
  assert.notEqual(inode!.isComplete, true, "nor is it known that nobody has made anything in it");
});

Deno.test("link: both names lead to the inode, whose attributes are the answer's", async () => {
  const { names, root, inode, nameserver } = startWithName();
  const linking = names.link(INO, ROOT, B, PATIENT);
  await nameserver.answer("link", entryReply(INO, "read", "read", { version: 2, nlink: 2 }));
  assert.deepEqual(await linking, { inode, isKept: true });
  assert.equal(atOnce(names.lookup(ROOT, B, PATIENT)).inode?.attributes.nlink, 2);
  assert.equal(atOnce(names.lookup(ROOT, A, PATIENT)).inode?.attributes.nlink, 2);
  assert.equal(root.isFresh, false);
});

Deno.test("getattr: a file that another has removed is shown without a name to who has it open, and is gone to others", async () => {
  for (const isOpen of [true, false]) {
    const client = startWithName();
    const { names, inode, nameserver } = client;
    if (isOpen) await opened(client, READ_ONLY);
    inode.forgetAttributes();
    const asking = watch(names.getattr(INO, PATIENT) as Promise<Inode>);
    await (await nameserver.next("getattr")).fail(new FsError("ENOENT", "removed"));
    if (isOpen) assert.equal(asking.value?.attributes.nlink, 0);
    else assert.ok(isErrno(asking.error, "ENOENT"));
  }
});

Deno.test("getattr: a removed directory has no links for who works in it, when it is known that its name has gone", async () => {
  for (const isKnown of [true, false]) {
    const client = startWithName();
    const { names, inode, nameserver } = client;
    inode.attributes = { ...inode.attributes, mode: 0o040755, nlink: 2 };
    if (isKnown) {
      const removing = names.remove(ROOT, A, true, PATIENT);
      await nameserver.answer("remove", { ino: INO, nlink: 0, directory: "read" });
      await removing;
    }
    inode.forgetAttributes();
    const asking = watch(names.getattr(INO, PATIENT) as Promise<Inode>);
    await (await nameserver.next("getattr")).fail(new FsError("ENOENT", "removed"));
    const setting = watch(names.setattr({ ino: INO, mode: 0o040700, mtime: time(7) }, PATIENT));
    await (await nameserver.next("setattr")).fail(new FsError("ENOENT", "removed"));
    if (isKnown) {
      assert.equal(asking.value?.attributes.nlink, 0);
      const { mode, mtime, nlink } = setting.value!.attributes;
      assert.deepEqual([mode, mtime, nlink], [0o040700, time(7), 0]);
    } else {
      // Its name may lead to another one by now.
      assert.ok(isErrno(asking.error, "ENOENT"));
      assert.ok(isErrno(setting.error, "ENOENT"));
    }
  }
});

Deno.test("remove: says when another process may have looked the name up to open it", async () => {
  const client = startWithName();
  const { names, inode, nameserver, clock } = client;
  const told = async () => {
    const removing = watch(names.rename(ROOT, B, ROOT, A, 0, PATIENT));
    const call = await nameserver.next("rename");
    await call.fail(new FsError("EIO", "no"));
    assert.ok(isErrno(removing.error, "EIO"));
    client.root.setEntry(bytesKey(A), INO);
    return call.request.removed?.told ?? false;
  };
  assert.equal(await told(), false, "nobody did");
  inode.tell(clock.monotonicMs());
  assert.equal(await told(), false, "who takes the name away did");
  inode.tell(clock.monotonicMs());
  assert.equal(await told(), true);
  await clock.advance(1_000);
  assert.equal(await told(), false, "that was long ago");
  inode.tell(clock.monotonicMs());
  assert.equal(await told(), false, "of two, one was long ago");
});

Deno.test("remove: of a file that was opened with O_TRUNC, and is not told to be closed yet: that it is is told nevertheless", async () => {
  const client = startWithName();
  const { files, names, nameserver, session } = client;
  const opening = files.open(INO, { ...WRITING, truncate: true }, PATIENT);
  await nameserver.answer("setattr", inodeReply(INO, "write", { version: 2 }));
  await files.close(await opening);
  const removing = names.remove(ROOT, A, false, PATIENT);
  const call = await nameserver.next("remove");
  assert.deepEqual(call.request.removed, { ino: INO, open: false });
  await call.answer({ ino: INO, nlink: 0, directory: "read" });
  await removing;
  files.forget(INO, client.inode.lookups);
  await files.finish();
  assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "none", open: "no" }], unused: [] }]);
});

Deno.test("remove: of a file whose truncating open was interrupted: that it is not open is told", async () => {
  const client = startWithName();
  const { files, session } = client;
  client.inode.lease = "none";
  const giveUp = new AbortController();
  const opening = watch(files.open(INO, { ...WRITING, truncate: true }, giveUp) as Promise<unknown>);
  await quiet();
  giveUp.abort();
  await quiet();
  assert.ok(isErrno(opening.error, "EINTR"));
  files.forget(INO, client.inode.lookups);
  await files.finish();
  assert.deepEqual(session.told.map(({ held }) => held), [[{ ino: INO, lease: "none", open: "no" }]]);
});

Deno.test("remove: says whether the inode is open here, where it knows what is under the name", async () => {
  const client = startWithName();
  const { names, root, inode, nameserver } = client;
  const closed = names.remove(ROOT, A, false, PATIENT);
  const first = await nameserver.next("remove");
  assert.deepEqual(first.request.removed, { ino: INO, open: false });
  assert.equal(inode.isRegistered, false);
  await first.answer({ ino: INO, nlink: 1, directory: "read" });
  await closed;

  root.setEntry(bytesKey(A), INO);
  know(client, INO, "read", { version: 2 });
  await opened(client, READ_ONLY);
  assert.equal(inode.isRegistered, false, "opened under a lease, so that the server knows nothing of it");
  const open = names.remove(ROOT, A, false, PATIENT);
  const second = await nameserver.next("remove");
  assert.deepEqual(second.request.removed, { ino: INO, open: true });
  assert.equal(inode.isRegistered, true, "its last close must be told: it is an orphan of this mount");
  await second.answer({ ino: INO, nlink: 0, directory: "read" });
  await open;

  for (const known of [UNKNOWN, ABSENT, asInodeId(99)]) {
    root.setEntry(bytesKey(A), known);
    const unknown = names.remove(ROOT, A, false, PATIENT);
    const call = await nameserver.next("remove");
    assert.equal(call.request.removed, undefined, "the server asks, then");
    await call.answer({ ino: OTHER, nlink: 0, directory: "read" });
    await unknown;
  }
});

Deno.test("remove: the name is absent from then on, and the inode's attributes are not shown as they were", async () => {
  const { names, root, inode, nameserver } = startWithName();
  const removing = names.remove(ROOT, A, false, PATIENT);
  const call = await nameserver.next("remove");
  assert.equal(inode.removing, 1);
  await call.answer({ ino: INO, nlink: 1, directory: "read" });
  await removing;
  assert.deepEqual(atOnce(names.lookup(ROOT, A, PATIENT)), { inode: null, isKept: true });
  assert.deepEqual([inode.removing, inode.isFresh, inode.lease, root.isFresh], [0, false, "read", false]);
});

Deno.test("remove: of the last name nothing is held any more, unless the file is open here", async () => {
  const gone = startWithName();
  const removing = gone.names.remove(ROOT, A, false, PATIENT);
  await gone.nameserver.answer("remove", { ino: INO, nlink: 0, directory: "read" });
  await removing;
  assert.equal(gone.inode.lease, "none");

  const client = startWithName();
  const { file } = await opened(client, WRITING);
  const again = client.names.remove(ROOT, A, false, PATIENT);
  await client.nameserver.answer("remove", { ino: INO, nlink: 0, directory: "read" });
  await again;
  assert.deepEqual([client.inode.lease, client.inode.isFresh, client.inode.file], ["write", false, file]);
});

Deno.test("rename: both names are known as they are now, and nothing need be looked up again", async () => {
  const { names, inode, root, nameserver, kernel } = startWithName();
  const target = asInodeId(7);
  const renaming = names.rename(ROOT, A, ROOT, B, 0, PATIENT);
  await quiet();
  assert.ok(names.lookup(ROOT, A, PATIENT) instanceof Promise);
  assert.ok(names.lookup(ROOT, B, PATIENT) instanceof Promise);
  await nameserver.answer("rename", { ino: INO, replaced: { ino: target, nlink: 0 }, directory: "read" });
  await renaming;
  assert.deepEqual([entry(root, A), entry(root, B)], [ABSENT, INO]);
  assert.deepEqual([inode.isFresh, root.isFresh], [false, false], "its ctime, the directory's mtime");
  assert.deepEqual(kernel.taken(), [`attributes ${INO}`]);
});

Deno.test("rename: between directories both are changed", async () => {
  const client = startWithName();
  const { names, root, nameserver } = client;
  const directory = know(client, OTHER, "read", { mode: 0o040755 });
  const renaming = names.rename(ROOT, A, OTHER, B, 0, PATIENT);
  await nameserver.answer("rename", { ino: INO, directory: "read" });
  await renaming;
  assert.deepEqual([entry(root, A), entry(directory, B)], [ABSENT, INO]);
  assert.deepEqual([root.isFresh, directory.isFresh], [false, false]);
});

Deno.test("rename: what the kernel moves though it may not be kept has all names looked up again", async () => {
  const cases: [string, number, "read" | "none", number][] = [
    ["no lease on the directory", 0, "none", 7],
    ["an exchange", 2, "read", 7],
    ["two names of one inode", 0, "none", INO],
  ];
  for (const [why, flags, lease, ino] of cases) {
    const { names, root, nameserver, kernel } = startWithName();
    root.setEntry(bytesKey(B), asInodeId(ino));
    const renaming = names.rename(ROOT, A, ROOT, B, flags, PATIENT);
    await nameserver.answer("rename", { ino: INO, directory: lease });
    await renaming;
    assert.deepEqual([entry(root, A), entry(root, B)], [UNKNOWN, UNKNOWN], why);
    assert.deepEqual(kernel.taken(), [`attributes ${INO}`, "epoch"], why);
  }
});

Deno.test("rename: a recall of the names that crossed it means that they are not kept", async () => {
  const client = startWithName();
  const { names, root, nameserver, kernel } = client;
  const renaming = names.rename(ROOT, A, ROOT, B, 0, PATIENT);
  const call = await nameserver.next("rename");
  await recall(client, { ino: ROOT, keep: "read", names: [B] }).promise;
  kernel.taken();
  await call.answer({ ino: INO, directory: "read" });
  await renaming;
  assert.deepEqual([entry(root, A), entry(root, B)], [UNKNOWN, UNKNOWN]);
  assert.deepEqual(kernel.taken(), ["epoch"]);
});

Deno.test("rename: says whether what it replaces is open here, and that is asked for while it goes on", async () => {
  const client = startWithName();
  const { names, files, root, nameserver, session } = client;
  const replaced = know(client, OTHER);
  root.setEntry(bytesKey(B), OTHER);
  const renaming = names.rename(ROOT, A, ROOT, B, 0, PATIENT);
  const call = await nameserver.next("rename");
  assert.deepEqual(call.request.removed, { ino: OTHER, open: false });
  assert.equal(replaced.removing, 1);
  const opening = watch(Promise.resolve(files.open(OTHER, READ_ONLY, PATIENT)));
  await quiet();
  assert.equal(nameserver.calls[1]?.method, "acquire", "it may be gone by now");
  await nameserver.calls[1]!.fail(new FsError("ENOENT", "gone"));
  await call.answer({ ino: INO, replaced: { ino: OTHER, nlink: 0 }, directory: "read" });
  await renaming;
  assert.deepEqual([opening.state, replaced.removing, replaced.lease, replaced.file], [
    "failed",
    0,
    "none",
    null,
  ]);
  assert.equal(session.tags.length, 1);
});

Deno.test("a change carries a retry tag of its own", async () => {
  const { names, nameserver, session } = startWithName();
  const made = [names.make(MKDIR, PATIENT), names.make({ ...MKDIR, name: B }, PATIENT)].map((one) =>
    watch<Found>(one)
  );
  await quiet();
  const tags = nameserver.calls.map(({ request }) => (request as { retry: unknown }).retry);
  assert.deepEqual(tags, session.tags);
  for (const call of [...nameserver.calls]) await call.fail(new FsError("EEXIST", "it is there"));
  assert.deepEqual(made.map(({ state }) => state), ["failed", "failed"]);
});

// ---- symlinks and xattrs

Deno.test("readlink: a target never changes, so that it is known without a lease", async () => {
  const { names, nameserver, table } = startClient();
  const target = nameOf("elsewhere");
  const first = names.readlink(INO, PATIENT);
  await nameserver.answer("getattr", { ...inodeReply(INO, "none", { mode: 0o120777 }), target });
  assert.deepEqual(await first, target);
  table.noteLoss();
  assert.deepEqual(atOnce(names.readlink(INO, PATIENT)), target);
  const other = names.readlink(OTHER, PATIENT);
  await nameserver.answer("getattr", inodeReply(OTHER, "read"));
  assert.equal(await other, null, "no symlink");
});

const X = nameOf("user.x");

Deno.test("xattrs: an inode that has none needs no question", () => {
  const { names } = startWithName();
  assert.equal(atOnce(names.getXattr(INO, X, PATIENT)), null);
  assert.deepEqual(atOnce(names.listXattrs(INO, PATIENT)), []);
});

Deno.test("xattrs: values, absent ones and the names are asked for once, as long as nothing is recalled", async () => {
  const client = startClient();
  const { names, nameserver } = client;
  know(client, INO, "read", { hasXattrs: true });
  const value = nameOf("value");
  const first = names.getXattr(INO, X, PATIENT);
  await nameserver.answer("getXattr", { value });
  assert.deepEqual([await first, atOnce(names.getXattr(INO, X, PATIENT))], [value, value]);
  const absent = names.getXattr(INO, nameOf("user.y"), PATIENT);
  await (await nameserver.next("getXattr")).fail(new FsError("ENODATA", "none"));
  assert.deepEqual([await absent, atOnce(names.getXattr(INO, nameOf("user.y"), PATIENT))], [null, null]);
  const listing = names.listXattrs(INO, PATIENT);
  await nameserver.answer("listXattrs", { names: [X] });
  assert.deepEqual([await listing, atOnce(names.listXattrs(INO, PATIENT))], [[X], [X]]);
  await recall(client, { keep: "read", attributes: true }).promise;
  know(client, INO, "read", { hasXattrs: true, version: 2 });
  assert.ok(names.getXattr(INO, X, PATIENT) instanceof Promise);
  assert.ok(names.listXattrs(INO, PATIENT) instanceof Promise);
});

Deno.test("xattrs: what a recall crossed, or what is asked without a lease, is not kept", async () => {
  const client = startClient();
  const { names, nameserver } = client;
  const inode = know(client, INO, "read", { hasXattrs: true });
  const value = names.getXattr(INO, X, PATIENT);
  const listed = names.listXattrs(INO, PATIENT);
  await quiet();
  const [get, list] = nameserver.calls;
  await recall(client, { keep: "read", attributes: true }).promise;
  know(client, INO, "read", { hasXattrs: true, version: 2 }); // asked since
  await get!.answer({ value: nameOf("old") });
  await list!.answer({ names: [X] });
  assert.deepEqual([await value, await listed], [nameOf("old"), [X]]);
  assert.deepEqual([inode.xattrs, inode.xattrNames], [null, null]);
  inode.lease = "none";
  const again = names.getXattr(INO, X, PATIENT);
  await nameserver.answer("getXattr", { value: nameOf("new") });
  await again;
  assert.equal(inode.xattrs, null);
});

Deno.test("xattrs: another error is told and not remembered", async () => {
  const client = startClient();
  const { names, nameserver } = client;
  const inode = know(client, INO, "read", { hasXattrs: true });
  const asking = watch(names.getXattr(INO, X, PATIENT) as Promise<unknown>);
  await (await nameserver.next("getXattr")).fail(new FsError("ENOENT", "gone"));
  assert.equal(asking.state, "failed");
  assert.equal(inode.xattrs, null);
});

Deno.test("xattrs: our own change forgets the old values, also those that are on their way", async () => {
  const client = startClient();
  const { names, nameserver } = client;
  const inode = know(client, INO, "read", { hasXattrs: true });
  inode.xattrs = new Map([[bytesKey(X), nameOf("old")]]);
  inode.xattrNames = [X];
  const late = names.getXattr(INO, nameOf("user.y"), PATIENT);
  const lateCall = await nameserver.next("getXattr");
  const setting = names.setXattr(INO, X, nameOf("new"), 0, PATIENT);
  await quiet();
  await nameserver.calls[1]!.answer(inodeReply(INO, "read", { hasXattrs: true, version: 2 }));
  await setting;
  assert.ok(inode.isFresh, "the answer told its attributes");
  assert.deepEqual([inode.xattrs, inode.xattrNames], [null, null]);
  await lateCall.answer({ value: nameOf("old") });
  await late;
  assert.equal(inode.xattrs, null);
  const removing = names.removeXattr(INO, X, PATIENT);
  await nameserver.answer("removeXattr", inodeReply(INO, "read", { hasXattrs: false, version: 3 }));
  await removing;
  assert.equal(atOnce(names.getXattr(INO, X, PATIENT)), null);
});

Deno.test("rename: of an exchange both inodes have changed", async () => {
  const client = startWithName();
  const { names, root, inode, nameserver } = client;
  const other = know(client, OTHER);
  root.setEntry(bytesKey(B), OTHER);
  const renaming = names.rename(ROOT, A, ROOT, B, 2, PATIENT);
  await nameserver.answer("rename", { ino: INO, directory: "read", replaced: { ino: OTHER, nlink: 1 } });
  await renaming;
  assert.deepEqual([inode.isFresh, other.isFresh], [false, false], "both have a new ctime");
});

Deno.test("lookup: absent names are noted up to a bound, beyond it they go from here and from the kernel", async () => {
  const client = startWithName();
  const { names, root, kernel, nameserver } = client;
  root.isComplete = true;
  for (let i = 0; i < 249_999; i++) names.lookup(ROOT, nameOf(`absent${i}`), PATIENT);
  assert.deepEqual([root.entries!.size, kernel.taken()], [250_000, []]);
  const looking = names.lookup(ROOT, nameOf("one more"), PATIENT) as Promise<Found>;
  await nameserver.answer("lookup", { directory: "read" });
  assert.deepEqual([(await looking).isKept, kernel.taken()], [true, ["epoch"]]);
  assert.deepEqual([...root.entries!.values()], [INO, ABSENT], "what is there stays");
});

Deno.test("changes of attributes: until the answer is here nothing is shown of how they were, nor by the kernel", async () => {
  const changes: readonly ((client: TestClient) => unknown)[] = [
    ({ names }) => names.setattr({ ino: INO, mode: 0o600 }, PATIENT),
    ({ names }) => names.setXattr(INO, nameOf("user.x"), nameOf("1"), 0, PATIENT),
    ({ names }) => names.removeXattr(INO, nameOf("user.x"), PATIENT),
    ({ names }) => names.link(INO, ROOT, B, PATIENT),
    ({ names }) => names.remove(ROOT, A, false, PATIENT),
    ({ names }) => names.rename(ROOT, A, ROOT, B, 0, PATIENT),
    ({ names }) => names.rename(ROOT, B, ROOT, A, 0, PATIENT),
  ];
  for (const [i, change] of changes.entries()) {
    const client = startWithName();
    const { names, inode, kernel, nameserver } = client;
    inode.attributes = { ...inode.attributes, nlink: 2, hasXattrs: true };
    inode.tell(0);
    assert.equal(atOnce(names.getattr(INO, PATIENT)), inode);
    const changed = Promise.resolve(change(client)).catch(() => {});
    await quiet();
    assert.deepEqual(kernel.taken(), [`attributes ${INO}`], `change ${i}`);
    const [call] = nameserver.calls;
    assert.ok(call !== undefined, `change ${i}`);
    // Asked meanwhile, and answered as it was.
    const asking = names.getattr(INO, PATIENT);
    assert.ok(asking instanceof Promise, `change ${i}`);
    await nameserver.calls[1]!.answer(inodeReply(INO, "read", { nlink: 2, hasXattrs: true }));
    assert.equal(names.attributesForMs(await asking), 0, `change ${i}`);
    await call.fail(new FsError("EIO", "nobody knows what became of it"));
    await changed;
    assert.ok(names.getattr(INO, PATIENT) instanceof Promise, `change ${i} may have been made`);
  }
});

Deno.test("names: what was known and what was asked for are counted", async () => {
  const { names, root, inode, nameserver } = startWithName();
  root.isComplete = true;
  atOnce(names.lookup(ROOT, A, PATIENT));
  atOnce(names.lookup(ROOT, B, PATIENT));
  atOnce(names.getattr(INO, PATIENT));
  inode.forgetAttributes();
  const asked = [names.lookup(ROOT, A, PATIENT), names.getattr(INO, PATIENT)];
  await nameserver.answer("lookup", found(INO));
  await nameserver.answer("getattr", inodeReply(INO, "read"));
  await Promise.all(asked);
  atOnce(names.getXattr(INO, A, PATIENT));
  atOnce(names.listXattrs(INO, PATIENT));
  const counts = Object.entries(names.caches).map(([cache, { hits, misses }]) => [cache, hits, misses]);
  assert.deepEqual(counts, [["names", 2, 1], ["attributes", 1, 1], ["listings", 0, 0], ["xattrs", 2, 0]]);
});
