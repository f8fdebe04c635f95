/** What a recall takes, what it answers, and what is left after a restart of the server or the end of the session. */

import assert from "node:assert/strict";
import { bytesKey } from "../../base/bytes.ts";
import { KernelNotifier } from "../../fs/kernel/notify.ts";
import { ABSENT, type Inode, UNKNOWN } from "../../fs/inode.ts";
import { FsError } from "../../wire/errno.ts";
import { asBlockId, asGeneration, asInodeId } from "../../wire/ids.ts";
import {
  acquireReply,
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
const keyA = bytesKey(A);
const keyB = bytesKey(B);

// ---- names

Deno.test("recall of a directory: names of a listing that the kernel may not have taken yet are waited for", async () => {
  for (const isListed of [true, false]) {
    const client = startClient();
    const { kernel, names } = client;
    const root = know(client, ROOT);
    root.setEntry(keyA, INO);
    names.namesForMs(ROOT, true, isListed);
    kernel.holds = (message) => message.startsWith("entry");
    const giving = recall(client, { ino: ROOT, keep: "none" });
    await quiet();
    if (isListed) {
      assert.deepEqual([kernel.taken(), giving.state], [[`entry ${ROOT}/.`], "waits"]);
      await kernel.held[0]!.release();
    }
    await giving.promise;
    assert.equal(kernel.taken()[0], "epoch");
  }
});

Deno.test("lost: names of a listing that the kernel may not have taken yet are waited for", async () => {
  const client = startClient();
  const { kernel, names, recalls } = client;
  know(client, ROOT).setEntry(keyA, INO);
  names.namesForMs(ROOT, true, true);
  kernel.holds = (message) => message.startsWith("entry");
  const losing = watch(recalls.lost());
  await quiet();
  assert.deepEqual([kernel.taken().includes(`entry ${ROOT}/.`), losing.state], [true, "waits"]);
  await kernel.held[0]!.release();
  await losing.promise;
  assert.equal(kernel.taken().at(-1), "epoch");
});

Deno.test("recall of names: those that are cached go, and so do the listing and the attributes", async () => {
  for (const hasPages of [true, false]) {
    const client = startClient();
    const root = know(client, ROOT);
    root.setEntry(keyA, INO);
    root.setEntry("other", OTHER);
    root.hasPages = hasPages;
    const answer = await recall(client, { ino: ROOT, keep: "read", names: [A, B] }).promise;
    assert.deepEqual(answer, { open: ["no"] });
    assert.deepEqual([...root.entries!], [[keyA, UNKNOWN], ["other", OTHER]]);
    assert.deepEqual([root.lease, root.isFresh, root.hasPages], ["read", false, false]);
    assert.deepEqual(client.kernel.taken(), [
      `entry ${ROOT}/a`,
      hasPages ? `pages ${ROOT} 0+` : `attributes ${ROOT}`,
    ]);
  }
});

Deno.test("recall of names: in a complete directory a name that is not cached is not taken for absent any more", async () => {
  const client = startClient();
  const root = know(client, ROOT);
  root.isComplete = true;
  await recall(client, { ino: ROOT, keep: "read", names: [A] }).promise;
  assert.deepEqual([root.entries!.get(keyA), root.isComplete], [UNKNOWN, true]);
  assert.deepEqual(client.kernel.taken(), [`attributes ${ROOT}`], "the kernel was never told of it");
});

Deno.test("recall of names: absent ones are the kernel's as well, and are taken away again after an answer", async () => {
  const client = startClient();
  const root = know(client, ROOT);
  root.setEntry(keyA, ABSENT);
  for (let round = 0; round < 2; round++) {
    await recall(client, { ino: ROOT, keep: "read", names: [A] }).promise;
    assert.ok(client.kernel.taken().includes(`entry ${ROOT}/a`));
    assert.equal(root.entries!.get(keyA), UNKNOWN);
  }
});

Deno.test("recall of names: goes by the epoch while an operation is in flight in the directory", async () => {
  const client = startClient();
  const root = know(client, ROOT);
  root.setEntry(keyA, INO);
  client.kernelCache.enter(ROOT);
  await recall(client, { ino: ROOT, keep: "read", names: [A] }).promise;
  assert.deepEqual(client.kernel.taken(), ["epoch", `attributes ${ROOT}`]);
});

// ---- attributes, and what loses its last name

Deno.test("recall of attributes: those and the xattrs go, the lease on all else stays", async () => {
  const client = startClient();
  const inode = know(client, INO, "write");
  inode.xattrs = new Map([["user.x", null]]);
  inode.hasPages = true;
  const before = client.table.moment;
  await recall(client, { keep: "write", attributes: true }).promise;
  assert.deepEqual([inode.lease, inode.isFresh, inode.xattrs, inode.hasPages], ["write", false, null, true]);
  assert.deepEqual(client.kernel.taken(), [`attributes ${INO}`]);
  assert.equal(client.table.isCrossed(INO, before), true);
});

Deno.test("recall of attributes: waits until the kernel knows the inode, so that nothing old comes after it", async () => {
  const client = startClient();
  know(client, INO);
  client.kernel.knows = () => false;
  const recalled = recall(client, { keep: "read", attributes: true });
  await quiet();
  assert.equal(recalled.state, "waits");
  client.kernel.knows = () => true;
  await client.clock.advance(1);
  assert.equal(recalled.state, "done");
});

Deno.test("recall of what is removed: nothing is kept of it unless it is open, which is said", async () => {
  const item = { keep: "read", attributes: true, removed: true } as const;
  const closed = startClient();
  const inode = know(closed, INO);
  inode.hasPages = true;
  assert.deepEqual(await recall(closed, item).promise, { open: ["no"] });
  assert.deepEqual([inode.lease, inode.hasPages, inode.isRegistered], ["none", false, false]);
  assert.deepEqual(closed.kernel.taken(), [`attributes ${INO}`, `pages ${INO} 0+`]);

  for (const [options, open] of [[READ_ONLY, "read"], [WRITING, "write"]] as const) {
    const client = startClient();
    const { file } = await opened(client, options);
    file.inode.isRegistered = false; // as if it had been opened under a lease
    assert.deepEqual(await recall(client, item).promise, { open: [open] });
    assert.deepEqual([file.inode.lease, file.inode.isFresh, file.inode.isRegistered], ["read", false, true]);
  }
});

Deno.test("recall of what is removed: closed while it is asked, it says so", async () => {
  const client = startClient();
  const handle = await opened(client, WRITING);
  const sent = Promise.withResolvers<void>();
  const running = client.access.use(
    handle.file,
    { start: 0, end: 1, isWrite: true, isPaged: false, isWriteback: false },
    PATIENT,
    () => sent.promise,
  );
  const recalled = recall(client, { keep: "read", attributes: true, removed: true });
  await quiet();
  const closing = client.files.close(handle);
  sent.resolve();
  await running;
  await closing;
  assert.deepEqual(await recalled.promise, { open: ["no"] });
  assert.equal(handle.file.inode.lease, "none", "as the server takes it, also if the inode lives on");
});

Deno.test("recall of what is not known here: a creation under way may open it", async () => {
  const client = startClient();
  const item = { keep: "read", attributes: true, removed: true } as const;
  assert.deepEqual(await recall(client, item).promise, { open: ["no"] });
  know(client, ROOT);
  const request = {
    parent: ROOT,
    name: A,
    credentials: { uid: 0, gid: 0 },
    mode: 0o600,
    exclusive: false,
    write: true,
  };
  const creating = client.files.create(request, { truncate: false }, PATIENT);
  const call = await client.nameserver.next("create");
  assert.deepEqual(await recall(client, item).promise, { open: ["write"] });
  assert.deepEqual(await recall(client, { ...item, ino: OTHER }).promise, { open: ["write"] });
  assert.deepEqual(await recall(client, { ino: OTHER, keep: "none" }).promise, { open: ["write"] });
  await call.answer({ ...acquireReply(INO, "write"), directory: "read", created: false });
  await quiet();
  assert.equal(client.table.get(INO)!.isFresh, false, "its lease was granted before it was taken back");
  await client.nameserver.answer("acquire", acquireReply(INO, "write", { version: 2 }));
  await creating;
  await client.files.finish();
  assert.deepEqual(client.session.told.map(({ held }) => held), [[{
    ino: OTHER,
    lease: "none",
    open: "no",
  }]]);
});

// ---- leases

Deno.test("recall of a directory: all its names go by the epoch, and it is known no more", async () => {
  const client = startClient();
  const root = know(client, ROOT);
  root.setEntry(keyA, INO);
  root.isComplete = true;
  root.hasPages = true;
  assert.deepEqual(await recall(client, { ino: ROOT, keep: "none" }).promise, { open: ["no"] });
  assert.deepEqual([root.lease, root.entries, root.isComplete, root.hasPages], ["none", null, false, false]);
  assert.deepEqual(client.kernel.taken(), ["epoch", `pages ${ROOT} 0+`]);
});

Deno.test("recall of what is being given up already: is answered when that is done", async () => {
  const cases = [
    [INO, "pages", (client: TestClient) => know(client, INO).hasPages = true],
    [ROOT, "epoch", (client: TestClient) => know(client, ROOT).setEntry(keyA, INO)],
  ] as const;
  for (const [ino, held, prepare] of cases) {
    const client = startClient();
    prepare(client);
    client.kernel.holds = (message) => message.startsWith(held);
    const recalled = [recall(client, { ino, keep: "none" }), recall(client, { ino, keep: "none" })];
    await quiet();
    const again = recall(client, { ino, keep: "none" });
    await quiet();
    assert.deepEqual([...recalled, again].map(({ state }) => state), ["waits", "waits", "waits"], held);
    while (client.kernel.held.length > 0) await client.kernel.held[0]!.release();
    assert.deepEqual([...recalled, again].map(({ state }) => state), ["done", "done", "done"], held);
    assert.equal(client.table.get(ino)!.yielding, 0);
  }
});

Deno.test("recall of many: each is answered, in order, and they go on side by side", async () => {
  const client = startClient();
  await opened(client, READ_ONLY);
  const other = know(client, OTHER);
  other.hasPages = true;
  client.kernel.holds = (message) => message.startsWith("pages");
  const items = [
    { ino: OTHER, keep: "none" },
    { ino: INO, keep: "none" },
    { ino: asInodeId(99), keep: "none" },
  ] as const;
  const recalled = watch(client.recalls.recall({ items }));
  await quiet();
  assert.equal(client.table.get(INO)!.lease, "none", "though the first one waits");
  assert.equal(recalled.state, "waits");
  await client.kernel.held[0]!.release();
  assert.deepEqual(recalled.value, { open: ["no", "read", "no"] });
  assert.equal(client.recalls.count, 3);
});

Deno.test("recall: leases in replies to earlier requests count no more, those in later ones do", async () => {
  const client = startClient();
  const inode = know(client, INO);
  const before = client.table.moment;
  await recall(client, { keep: "none" }).promise;
  client.table.adopt(inodeReply(INO, "read"), before);
  assert.equal(inode.lease, "none");
  client.table.adopt(inodeReply(INO, "read"), client.table.moment);
  assert.equal(inode.lease, "read");
});

// ---- after a restart of the server

Deno.test("held: all leases and what is open, and nothing else", async () => {
  const client = startClient();
  know(client, ROOT);
  const { file } = await opened(client, WRITING);
  know(client, OTHER, "none");
  const closed = know(client, asInodeId(8));
  assert.deepEqual(client.recalls.held(), [
    { ino: ROOT, lease: "read", open: "no" },
    { ino: INO, lease: "write", open: "write" },
    { ino: asInodeId(8), lease: "read", open: "no" },
  ]);
  assert.deepEqual([file.inode.isRegistered, closed.isRegistered], [true, false]);
  await recall(client, { keep: "none" }).promise;
  assert.deepEqual(client.recalls.held()[1], { ino: INO, lease: "none", open: "write" });
});

Deno.test("recall of a file whose replicas may still get what has failed: it is said until the lease is granted anew", async () => {
  const client = startClient();
  const { file } = await opened(client, WRITING);
  client.strays.note(INO, asBlockId(1), asGeneration(1));
  assert.deepEqual(await recall(client, { keep: "write", attributes: true }).promise, { open: ["write"] });
  const told = { open: ["write"], doubtful: [INO] };
  assert.deepEqual(await recall(client, { keep: "read" }).promise, told);
  assert.deepEqual(client.recalls.held(), [{ ino: INO, lease: "read", open: "write", doubtful: true }]);
  assert.deepEqual(await recall(client, { keep: "none" }).promise, told, "the answer was not heard, maybe");
  const acquiring = client.access.acquire(file, "write", PATIENT);
  await client.nameserver.answer("acquire", acquireReply(INO, "write"));
  await acquiring;
  assert.deepEqual(await recall(client, { keep: "read" }).promise, { open: ["write"] });
});

Deno.test("recall of what is not known here any more: its replicas may still get what has failed", async () => {
  const client = startClient();
  client.strays.note(INO, asBlockId(1), asGeneration(1));
  assert.deepEqual(await recall(client, { keep: "none" }).promise, { open: ["no"], doubtful: [INO] });
  client.strays.settled(asBlockId(1), asGeneration(2));
  assert.deepEqual(await recall(client, { keep: "none" }).promise, { open: ["no"], doubtful: [INO] });
  client.strays.settled(asBlockId(1), asGeneration(1));
  assert.deepEqual(await recall(client, { keep: "none" }).promise, { open: ["no"] });
});

Deno.test("held: a write lease that was given back stays claimed until what left with it is answered", async () => {
  const client = startClient();
  const { file } = await opened(client, WRITING);
  const lease = () => client.recalls.held().map(({ lease }) => lease);
  file.wrote(10, time(5), 0);
  assert.deepEqual(await recall(client, { keep: "read" }).promise, { open: ["write"] });
  assert.deepEqual([file.inode.lease, lease()], ["read", ["write"]]);
  await client.nameserver.answer("commit", inodeReply(INO, "none", { version: 2, size: 10, mtime: time(5) }));
  assert.deepEqual(lease(), ["read"]);
});

Deno.test("recall: what is answered from before a report that has left again shows nothing of the file", async () => {
  const client = startClient();
  const { nameserver, session, access } = client;
  const { file } = await opened(client, WRITING);
  file.wrote(10, time(5), 0);
  await recall(client, { keep: "none" }).promise;
  const { promise: connected, resolve: connect } = Promise.withResolvers<void>();
  session.connected = connected;
  await (await nameserver.next("commit")).fail(new FsError("ENOTCONN", "gone"));
  const acquiring = watch(access.acquire(file, "write", PATIENT));
  await quiet();
  connect();
  await quiet();
  // It was asked for first over the new connection.
  await nameserver.answer("acquire", acquireReply(INO, "write", { version: 1, size: 0 }));
  assert.deepEqual([file.inode.lease, acquiring.state], ["none", "waits"]);
  await nameserver.answer("commit", inodeReply(INO, "none", { version: 2, size: 10, mtime: time(5) }));
  await nameserver.answer("acquire", acquireReply(INO, "write", { version: 2, size: 10, mtime: time(5) }));
  await acquiring.promise;
  assert.deepEqual([file.inode.lease, file.size], ["write", 10]);
});

Deno.test("held: what was given back in a session that is over is not claimed in the next", async () => {
  const client = startClient();
  const { file } = await opened(client, WRITING);
  file.wrote(10, time(5), 0);
  await recall(client, { keep: "read" }).promise;
  await client.recalls.lost();
  assert.notEqual(file.inode.handingOver, null);
  assert.deepEqual(client.recalls.held(), [{ ino: INO, lease: "none", open: "write" }]);
});

Deno.test("reclaimed: what was not granted again is given up, what was stays as it is", async () => {
  const client = startClient();
  const root = know(client, ROOT);
  const { file } = await opened(client, WRITING);
  const before = client.table.moment;
  root.setEntry(keyA, INO);
  await client.recalls.reclaimed(new Map([[ROOT, "read"], [INO, "read"], [asInodeId(99), "none"]]));
  assert.deepEqual([root.lease, root.entries?.size], ["read", 1]);
  assert.deepEqual([file.inode.lease, file.inode.isFresh], ["none", false], "less than it had is nothing");
  assert.deepEqual(client.kernel.taken(), ["epoch", `attributes ${INO}`]);
  assert.equal(client.table.isCrossed(INO, before), true);
  await client.recalls.reclaimed(new Map([[ROOT, "read"]]));
  assert.deepEqual(client.kernel.taken(), []);
});

// ---- the session is lost, or can't be kept up

Deno.test("what is lost of a file, but not the session, leaves its close to be told", async () => {
  const ways: ((client: TestClient, inode: Inode) => Promise<void>)[] = [
    ({ recalls }, inode) => recalls.changesLost([inode]),
    ({ recalls }) => recalls.reclaimed(new Map([[INO, "none"]])),
  ];
  for (const lose of ways) {
    const client = startClient();
    const { files, releases, session } = client;
    const handle = await opened(client, READ_ONLY);
    await files.close(handle);
    await lose(client, handle.file.inode);
    await releases.send();
    assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "none", open: "no" }], unused: [] }]);
  }
});

Deno.test("lost: everything is given up, closed and open", async () => {
  const client = startClient();
  const root = know(client, ROOT);
  root.setEntry(keyB, OTHER);
  root.hasPages = true;
  const other = know(client, OTHER);
  other.target = nameOf("elsewhere");
  const { file } = await opened(client, READ_ONLY);
  file.inode.isRegistered = false;
  const before = client.table.moment;
  await client.recalls.lost();
  for (const inode of [root, other, file.inode]) {
    assert.deepEqual([inode.lease, inode.isFresh, inode.entries], ["none", false, null]);
  }
  assert.deepEqual([other.target, file.inode.isRegistered], [nameOf("elsewhere"), true]);
  assert.equal(client.table.isLost(before), true);
  const messages = client.kernel.taken();
  assert.equal(messages[0], "epoch");
  assert.deepEqual(
    messages.slice(1).toSorted(),
    [`attributes ${ROOT}`, `attributes ${INO}`, `attributes ${OTHER}`, `pages ${ROOT} 0+`].toSorted(),
  );
  assert.deepEqual([root.hasStalePages, other.hasStalePages], [true, false]);
});

Deno.test("lost: pages that do not go are not waited for for ever", async () => {
  const client = startClient();
  know(client, INO).hasPages = true;
  client.kernel.holds = (message) => message.startsWith("pages");
  const lost = watch(client.recalls.lost());
  await client.clock.advance(1_000);
  assert.equal(lost.state, "waits");
  await client.clock.advance(1_500);
  assert.equal(lost.state, "done");
  await client.kernel.held[0]!.release();
});

Deno.test("lost: with more files' pages in the kernel than notifications can wait", async () => {
  const client = startClient();
  const device = { write: () => 40, writeAsync: () => quiet().then(() => 40) };
  const notifier = new KernelNotifier({ fd: 3, concurrency: 2, queueMax: 4 }, device);
  client.kernelCache.attach(notifier);
  for (let ino = 10; ino < 30; ino++) know(client, asInodeId(ino)).hasPages = true;
  const lost = watch(client.recalls.lost());
  await client.clock.advance(5_000);
  assert.equal((lost.error as FsError | undefined)?.message, undefined);
  assert.equal(lost.state, "done");
});

Deno.test("fenced: what the kernel would show of open files without asking goes, and nothing is given up", async () => {
  const client = startClient();
  know(client, ROOT);
  const { file } = await opened(client, READ_ONLY);
  file.inode.hasPages = true;
  client.recalls.fenced();
  await quiet();
  assert.deepEqual(client.kernel.taken(), ["epoch", `attributes ${INO}`, `pages ${INO} 0+`]);
  assert.deepEqual([file.inode.lease, client.recalls.fences], ["read", 1]);
  assert.equal(client.table.isLost(client.table.moment), false);
});
