/** Opening and closing: what needs a call, what a recall meanwhile means, and what is given back afterwards. */

import assert from "node:assert/strict";
import { bytesKey } from "../../base/bytes.ts";
import type { Handle } from "../../fs/files.ts";
import { UNKNOWN } from "../../fs/inode.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import {
  acquireReply,
  blockOf,
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
  watch,
  WRITING,
} from "./client.ts";

const TRUNCATING = { ...WRITING, truncate: true };
const CREATE = {
  parent: ROOT,
  name: nameOf("a"),
  credentials: { uid: 0, gid: 0 },
  mode: 0o600,
  exclusive: false,
  write: true,
};

function startKnowing(lease: "none" | "read" | "write"): TestClient & { readonly asked: string[] } {
  const client = startClient();
  know(client, ROOT);
  know(client, INO, lease);
  return { ...client, asked: client.nameserver.asked };
}

function atOnce(opening: Handle | Promise<Handle>): Handle {
  assert.ok(!(opening instanceof Promise), "opened without a call");
  return opening;
}

Deno.test("open: under a lease that allows it no call is made, and the server knows nothing of it", async () => {
  const reading = startKnowing("read");
  const handle = atOnce(reading.files.open(INO, READ_ONLY, PATIENT));
  assert.deepEqual([handle.write, handle.isDirect, handle.keepsPages], [false, false, true]);
  assert.equal(handle.file.inode.isRegistered, false);
  await reading.files.close(handle);
  await reading.files.finish();
  assert.deepEqual([reading.asked, reading.session.told], [[], []]);

  const writing = startKnowing("write");
  const both = [READ_ONLY, WRITING].map((options) => atOnce(writing.files.open(INO, options, PATIENT)));
  assert.deepEqual(both.map(({ file }) => file), [both[0]!.file, both[0]!.file]);
  assert.deepEqual([both[0]!.file.handles, both[0]!.file.writers], [2, 1]);
  assert.deepEqual(writing.asked, []);
});

Deno.test("open: one question where the lease is missing or too low, and none is the answer to a reader of a writer", async () => {
  for (
    const [lease, options, mode] of [["none", READ_ONLY, "read"], ["none", WRITING, "write"], [
      "read",
      WRITING,
      "write",
    ]] as const
  ) {
    const { files, nameserver, asked } = startKnowing(lease);
    const opening = files.open(INO, options, PATIENT);
    const call = await nameserver.next("acquire");
    assert.deepEqual(call.request, { ino: INO, mode });
    await call.answer(acquireReply(INO, mode, { version: 2, size: 5 }));
    const { file } = await opening;
    assert.deepEqual([file.inode.lease, file.size, file.inode.isRegistered], [mode, 5, true]);
    assert.deepEqual(asked, ["acquire"]);
  }
});

Deno.test("open: asks while the session is not valid, the inode is being removed, or its lease taken back", async () => {
  const reasons: ((client: TestClient) => void)[] = [
    ({ session }) => session.isValid = false,
    ({ table }) => table.get(INO)!.removing++,
    ({ table }) => table.get(INO)!.forgetAttributes(),
    ({ table }) => table.get(INO)!.isUnlinked = true,
  ];
  for (const reason of reasons) {
    const client = startKnowing("read");
    reason(client);
    assert.ok(client.files.open(INO, READ_ONLY, PATIENT) instanceof Promise);
    await quiet();
    assert.equal(client.asked.length, 1);
  }
  const client = startKnowing("write");
  const { file } = await opened(client, WRITING);
  file.inode.hasPages = true;
  client.kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  assert.ok(client.files.open(INO, READ_ONLY, PATIENT) instanceof Promise);
  await client.kernel.held[0]!.release();
  assert.deepEqual((await recalled.promise).open, ["write"]);
});

Deno.test("open: what was open as its last name went may be gone after its close, so that another open asks", async () => {
  const client = startKnowing("read");
  const { files, nameserver } = client;
  const handle = await files.open(INO, READ_ONLY, PATIENT);
  assert.deepEqual((await recall(client, { keep: "read", attributes: true, removed: true }).promise).open, [
    "read",
  ]);
  await files.close(handle);
  const opening = watch(Promise.resolve(files.open(INO, READ_ONLY, PATIENT)));
  await (await nameserver.next("acquire")).fail(new FsError("ENOENT", "gone"));
  assert.equal(opening.state, "failed");
  // The removal came to nothing: it has a name.
  know(client, INO, "read", { version: 3 });
  assert.ok(!(files.open(INO, READ_ONLY, PATIENT) instanceof Promise));
});

Deno.test("open: an inode that is not known here is asked for first", async () => {
  const { files, nameserver } = startClient();
  const opening = files.open(INO, READ_ONLY, PATIENT);
  await nameserver.answer("getattr", inodeReply(INO, "read", { size: 7 }));
  assert.equal((await opening).file.size, 7);
  assert.deepEqual(nameserver.asked, ["getattr"], "whose answer brought the lease");
});

Deno.test("open: with O_TRUNC it is one call, which brings the lease and leaves no blocks", async () => {
  for (
    const [lease, options, granted] of [
      ["none", TRUNCATING, "write"],
      ["read", TRUNCATING, "write"],
      ["none", { ...READ_ONLY, truncate: true }, "read"],
    ] as const
  ) {
    const { files, nameserver, asked } = startKnowing(lease);
    const opening = files.open(INO, { ...options, killSuidGid: true }, PATIENT);
    const call = await nameserver.next("setattr");
    const { retry: _retry, ...request } = call.request;
    assert.deepEqual(request, {
      ino: INO,
      size: 0,
      killSuidGid: true,
      ...options.write ? { write: true } : {},
    });
    await call.answer(inodeReply(INO, granted, { version: 2, size: 0 }));
    const { file } = await opening;
    assert.deepEqual(asked, ["setattr"]);
    assert.deepEqual([file.inode.lease, file.size], [granted, 0]);
  }
});

Deno.test("open: with O_TRUNC and a reply that brings no lease, one is asked for", async () => {
  const { files, nameserver, asked } = startKnowing("none");
  const opening = files.open(INO, TRUNCATING, PATIENT);
  await nameserver.answer("setattr", inodeReply(INO, "none", { version: 2 }));
  await nameserver.answer("acquire", acquireReply(INO, "write", { version: 2 }));
  assert.equal((await opening).file.inode.lease, "write");
  assert.deepEqual(asked, ["setattr", "acquire"]);
});

Deno.test("open: one that fails leaves no handle, and what it may have registered is released", async () => {
  const { files, nameserver, session, table } = startKnowing("none");
  const opening = watch(files.open(INO, READ_ONLY, PATIENT) as Promise<Handle>);
  await (await nameserver.next("acquire")).fail(new FsError("ENOENT", "gone"));
  assert.ok(isErrno(opening.error, "ENOENT"));
  assert.equal(table.get(INO)!.file, null);
  await files.finish();
  assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "none", open: "no" }], unused: [] }]);
});

Deno.test("open: interrupted while it waits for its lease it ends, and the answer counts all the same", async () => {
  const client = startKnowing("none");
  const { files, nameserver, table } = client;
  const giveUp = new AbortController();
  const opening = watch(files.open(INO, READ_ONLY, giveUp) as Promise<Handle>);
  const call = await nameserver.next("acquire");
  giveUp.abort();
  await quiet();
  assert.ok(isErrno(opening.error, "EINTR"));
  assert.equal(table.get(INO)!.file!.handles, 0);
  await call.answer(acquireReply(INO, "read", { version: 2 }));
  assert.deepEqual([table.get(INO)!.lease, table.get(INO)!.file], ["read", null]);
});

Deno.test("open: handles of one inode share one file, which goes with the last", async () => {
  const client = startKnowing("read");
  const { files, table } = client;
  const [one, two] = [1, 2].map(() => atOnce(files.open(INO, READ_ONLY, PATIENT)));
  assert.equal(one!.file, two!.file);
  assert.equal(one!.file.handles, 2);
  await files.close(one!);
  assert.equal(table.get(INO)!.file, one!.file);
  await files.close(two!);
  assert.equal(table.get(INO)!.file, null);
});

Deno.test("open: of two at once both questions' answers count", async () => {
  const { files, nameserver, asked } = startKnowing("none");
  const reading = files.open(INO, READ_ONLY, PATIENT);
  const writing = watch(files.open(INO, WRITING, PATIENT) as Promise<Handle>);
  await nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }));
  assert.equal((await reading).file.inode.lease, "read");
  assert.deepEqual(asked, ["acquire"], "one question at a time; the writer's first write asks for WRITE");
  assert.equal((await writing.promise).file.writers, 1);
});

Deno.test("open: which handles bypass the kernel's page cache", async () => {
  const client = startKnowing("write");
  const first = atOnce(client.files.open(INO, READ_ONLY, PATIENT));
  assert.equal(first.isDirect, false);
  const writer = atOnce(client.files.open(INO, WRITING, PATIENT));
  assert.equal(writer.isDirect, true);
  const second = atOnce(client.files.open(INO, READ_ONLY, PATIENT));
  assert.equal(second.isDirect, true, "what is being written is read so, too");
  for (const handle of [writer, second]) await client.files.close(handle);
  assert.equal(atOnce(client.files.open(INO, READ_ONLY, PATIENT)).isDirect, false);

  const shared = startKnowing("none");
  assert.equal((await opened(shared, READ_ONLY, { version: 2 }, { isShared: true })).isDirect, true);
});

Deno.test("open: pages from before a lost session go with the first open after it", async () => {
  const client = startKnowing("read");
  const { files, table, recalls } = client;
  table.get(INO)!.hasPages = true;
  await recalls.lost();
  const first = await opened(client, READ_ONLY, { version: 2 });
  const second = await opened(client, READ_ONLY);
  assert.deepEqual([first.keepsPages, second.keepsPages], [false, true]);
  await files.close(first);
});

// ---- recalls right behind an answer

Deno.test("open: a recall right behind its answer is not lost", async () => {
  const client = startKnowing("none");
  const { files, nameserver } = client;
  const opening = files.open(INO, READ_ONLY, PATIENT);
  const call = await nameserver.next("acquire");
  // Both frames came in one piece: the answer's promise is resolved, and the push is handled in the same turn.
  void call.answer(acquireReply(INO, "read", { version: 2 }));
  const recalled = recall(client, { keep: "none" });
  const { file } = await opening;
  await recalled.promise;
  assert.equal(
    file.inode.isFresh,
    false,
    "another is about to change the inode: nothing of it may be cached",
  );
  assert.deepEqual([file.inode.lease, file.inode.hasPages], ["none", false]);
});

Deno.test("open: asked right behind its answer, or before, it says that the file is open", async () => {
  for (const isBefore of [true, false]) {
    const client = startKnowing("none");
    const { files, nameserver } = client;
    const opening = files.open(INO, READ_ONLY, PATIENT);
    const call = await nameserver.next("acquire");
    const item = { keep: "read", attributes: true, removed: true } as const;
    const early = isBefore ? recall(client, item) : undefined;
    if (early !== undefined) assert.deepEqual(await early.promise, { open: ["read"] });
    void call.answer(acquireReply(INO, "read", { version: 2 }));
    const late = early ?? recall(client, item);
    const { file } = await opening;
    assert.deepEqual(await late.promise, { open: ["read"] }, "or the inode is removed under an open file");
    // What a recall took that came while the question waited was granted before: the answer is from after it.
    assert.equal(file.inode.isFresh, isBefore);
  }
});

// ---- creat

Deno.test("create: a new file is open, its name known, and nothing else is asked", async () => {
  const { files, nameserver, table, asked } = startKnowing("none");
  const creating = files.create(CREATE, { truncate: false }, PATIENT);
  const call = await nameserver.next("create");
  assert.equal(call.request.host, "here", "its first block is to be near");
  const reply = acquireReply(OTHER, "write", {}, { blocks: [blockOf(1, 0, 1024, false)] });
  await call.answer({ ...reply, directory: "read", created: true });
  const { handle, found } = await creating;
  assert.deepEqual([found.inode?.ino, found.isKept], [OTHER, true]);
  assert.equal(handle.file.inode, found.inode);
  assert.deepEqual([handle.write, handle.file.handles, handle.file.inode.lease], [true, 1, "write"]);
  assert.equal(handle.file.blocks.at(0)?.start, 0);
  assert.equal(table.get(ROOT)!.entries!.get(bytesKey(CREATE.name)), OTHER);
  assert.deepEqual(asked, ["create"]);
});

Deno.test("create: given up on while it waits it ends, and what was made all the same is closed and released", async () => {
  const { files, nameserver, session, table } = startKnowing("none");
  const giveUp = new AbortController();
  const creating = watch(files.create(CREATE, { truncate: false }, giveUp));
  const call = await nameserver.next("create");
  giveUp.abort();
  await quiet();
  assert.ok(isErrno(creating.error, "EINTR"));
  await call.answer({ ...acquireReply(OTHER, "write"), directory: "read", created: true });
  await quiet();
  assert.equal(table.get(OTHER)?.file ?? null, null);
  await files.finish();
  assert.deepEqual(session.told.flatMap(({ held }) => held), [{ ino: OTHER, lease: "none", open: "no" }]);
});

Deno.test("create: one that opens what is there takes over its handles and what may be cached, and truncates if asked", async () => {
  for (const truncate of [false, true]) {
    const client = startKnowing("none");
    const { files, nameserver, asked } = client;
    const { file } = await opened(client, READ_ONLY, { version: 2 });
    asked.length = 0;
    const creating = files.create(CREATE, { truncate }, PATIENT);
    const reply = acquireReply(INO, "write", { version: 3, size: 9 }, { isShared: true });
    await nameserver.answer("create", { ...reply, directory: "read", created: false });
    if (truncate) await nameserver.answer("setattr", inodeReply(INO, "write", { version: 4, size: 0 }));
    const { handle } = await creating;
    assert.equal(handle.file, file);
    assert.deepEqual([file.handles, file.writers, file.inode.lease], [2, 1, "write"]);
    assert.deepEqual([file.size, file.inode.isShared, file.inode.isRegistered], [
      truncate ? 0 : 9,
      true,
      true,
    ]);
    assert.deepEqual(asked, truncate ? ["create", "setattr"] : ["create"]);
  }
});

Deno.test("create: one that opens what was told as closed meanwhile says again that it is open", async () => {
  const client = startKnowing("none");
  const { files, nameserver, releases, session } = client;
  await files.close(await opened(client, READ_ONLY, { version: 2 }));
  const creating = watch(files.create(CREATE, { truncate: false }, PATIENT));
  const call = await nameserver.next("create");
  await releases.send();
  assert.deepEqual(session.told.map(({ held }) => held.map(({ open }) => open)), [["no"]]);
  await call.answer({ ...acquireReply(INO, "write", { version: 3 }), directory: "read", created: false });
  assert.equal(creating.state, "waits");
  await nameserver.answer("acquire", acquireReply(INO, "write", { version: 3 }));
  assert.deepEqual([creating.state, client.table.get(INO)!.lease], ["done", "write"]);
});

Deno.test("create: one that fails leaves nothing open and its name to be asked for", async () => {
  const { files, nameserver, table } = startKnowing("none");
  table.get(ROOT)!.isComplete = true;
  const creating = watch(files.create(CREATE, { truncate: false }, PATIENT));
  await (await nameserver.next("create")).fail(new FsError("EDQUOT", "full"));
  assert.ok(isErrno(creating.error, "EDQUOT"));
  assert.equal(table.get(ROOT)!.entries!.get(bytesKey(CREATE.name)), UNKNOWN);

  const again = watch(files.create(CREATE, { truncate: true }, PATIENT));
  const reply = acquireReply(INO, "write", { version: 3, size: 9 });
  await nameserver.answer("create", { ...reply, directory: "read", created: false });
  await (await nameserver.next("setattr")).fail(new FsError("EIO", "no"));
  assert.ok(isErrno(again.error, "EIO"));
  assert.equal(table.get(INO)!.file, null);
});

// ---- closing, and what is told of it

Deno.test("close: what was registered is told once a second, WRITE as READ", async () => {
  const client = startKnowing("none");
  const { files, session, clock, table } = client;
  const handle = await opened(client, WRITING, { version: 2 });
  const stopping = new AbortController();
  const running = files.run(stopping.signal);
  await clock.advance(1_500);
  assert.deepEqual(session.told, []);
  await files.close(handle);
  assert.deepEqual(session.told, []);
  await clock.advance(1_000);
  assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "read", open: "no" }], unused: [] }]);
  assert.equal(table.get(INO)!.lease, "read");
  assert.equal(table.get(INO)!.isFresh, true);
  await clock.advance(5_000);
  assert.equal(session.told.length, 1, "once is enough");
  stopping.abort();
  await clock.advance(1_000);
  await running;
});

Deno.test("close: the last one commits first, and a failure of that is logged", async () => {
  for (const fails of [false, true]) {
    const client = startKnowing("none");
    const { files, nameserver, log, table, session } = client;
    const handle = await opened(client, WRITING, { version: 2 });
    handle.file.wrote(10, handle.file.mtime, 0);
    const closing = watch(files.close(handle));
    const call = await nameserver.next("commit");
    assert.notEqual(table.get(INO)!.file, null, "asked for it meanwhile, it is still open");
    if (fails) await call.fail(new FsError("EIO", "no"));
    else await call.answer(inodeReply(INO, "write", { version: 3, size: 10 }));
    assert.equal(closing.state, "done");
    assert.equal(table.get(INO)!.file, null);
    assert.equal(log.filter(({ level }) => level === "error").length, fails ? 1 : 0);
    await files.finish();
    assert.equal(session.told.length, 1);
  }
});

Deno.test("close: opened again while it commits, the file stays", async () => {
  const client = startKnowing("none");
  const { files, nameserver, table, session } = client;
  const handle = await opened(client, WRITING, { version: 2 });
  handle.file.wrote(10, handle.file.mtime, 0);
  const closing = files.close(handle);
  const call = await nameserver.next("commit");
  const again = atOnce(files.open(INO, READ_ONLY, PATIENT));
  assert.equal(again.file, handle.file);
  await call.answer(inodeReply(INO, "write", { version: 3, size: 10 }));
  await closing;
  assert.equal(table.get(INO)!.file, again.file);
  await files.finish();
  assert.deepEqual(session.told, []);
  await files.close(again);
  await files.finish();
  assert.equal(session.told.length, 1);
});

Deno.test("close: waits for a lease that is being taken back, so that nobody finds the file gone meanwhile", async () => {
  const client = startKnowing("none");
  const { files, kernel, table } = client;
  const handle = await opened(client, WRITING, { version: 2 });
  handle.file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  const closing = watch(files.close(handle));
  await quiet();
  assert.deepEqual([closing.state, table.get(INO)!.file], ["waits", handle.file]);
  await kernel.held[0]!.release();
  assert.deepEqual([closing.state, recalled.state, table.get(INO)!.file], ["done", "done", null]);
});

Deno.test("forget: an inode that the kernel has forgotten as often as it was told of it is released and gone", async () => {
  const client = startKnowing("read");
  const { files, session, table } = client;
  const inode = table.get(INO)!;
  inode.lookups = 3;
  inode.hasPages = true;
  files.forget(INO, 2);
  await files.finish();
  assert.deepEqual([session.told, inode.hasPages], [[], true]);
  files.forget(INO, 1);
  assert.equal(inode.hasPages, false);
  await files.finish();
  assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "none", open: "no" }], unused: [] }]);
  assert.equal(table.get(INO), undefined);
  files.forget(INO, 1); // not known any more
  files.forget(ROOT, 1);
  await files.finish();
  assert.deepEqual([session.told.length, table.get(ROOT)!.lookups], [1, 1]);
});

Deno.test("forget: one that is open is released after its close", async () => {
  const client = startKnowing("none");
  const { files, session, table } = client;
  const handle = await opened(client, READ_ONLY, { version: 2 });
  files.forget(INO, 1);
  await files.finish();
  assert.deepEqual(session.told, []);
  await files.close(handle);
  await files.finish();
  assert.deepEqual(session.told.map(({ held }) => held), [[{ ino: INO, lease: "none", open: "no" }]]);
  assert.equal(table.get(INO), undefined);
});

Deno.test("forget: one that was looked up again before it was told is kept", async () => {
  const client = startKnowing("read");
  const { files, session, table } = client;
  files.forget(INO, 1);
  table.get(INO)!.lookups++; // a lookup answered from the cache
  await files.finish();
  assert.equal(table.get(INO)!.isFresh, true);
  assert.deepEqual(session.told, []);
});
