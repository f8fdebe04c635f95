/** What is given back by itself: in batches, as it is when it is sent, and again where it was not heard. */

import assert from "node:assert/strict";
import { OpenFile } from "../../fs/inode.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asBlockId, asGeneration, asInodeId } from "../../wire/ids.ts";
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

const CREATE = {
  parent: ROOT,
  name: nameOf("a"),
  credentials: { uid: 0, gid: 0 },
  mode: 0o600,
  exclusive: true,
  write: true,
};

/** Forgets an inode that the kernel knew. */
function forget(client: TestClient, ino: number): void {
  client.files.forget(asInodeId(ino), 1);
}

Deno.test("releases: what was forgotten is told in batches; a full one at once", async () => {
  const client = startClient();
  const { session, releases } = client;
  for (let ino = 10; ino < 10 + 1_023; ino++) {
    know(client, asInodeId(ino));
    forget(client, ino);
  }
  await quiet();
  assert.equal(session.told.length, 0);
  know(client, OTHER);
  forget(client, OTHER);
  await quiet();
  assert.deepEqual(session.told.map(({ held }) => held.length), [1_024]);
  assert.equal(client.table.size, 0);
  await releases.send();
  assert.equal(session.told.length, 1);
});

Deno.test("releases: what the server does not take for held is not told", async () => {
  const client = startClient();
  know(client, INO, "none");
  forget(client, INO);
  await client.releases.send();
  assert.deepEqual([client.session.told, client.table.size], [[], 0]);
});

Deno.test("releases: a reply to before counts no more, also if the inode is looked up again", async () => {
  const client = startClient();
  const { table, releases } = client;
  know(client, INO);
  const before = table.moment;
  forget(client, INO);
  await releases.send();
  assert.equal(table.adopt(inodeReply(INO, "read"), before).isFresh, false);
});

Deno.test("releases: a file that is open again, or closing, is not told", async () => {
  const client = startClient();
  const { files, releases, session } = client;
  const handle = await opened(client, WRITING);
  await files.close(handle);
  const again = await opened(client, READ_ONLY);
  await releases.send();
  assert.deepEqual(session.told, []);
  assert.equal(again.file.inode.lease, "write");
  await files.close(again);
  await releases.send();
  assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "read", open: "no" }], unused: [] }]);
});

Deno.test("releases: send waits until what it told was heard", async () => {
  const client = startClient();
  const { session, releases } = client;
  const { promise, resolve } = Promise.withResolvers<void>();
  session.hear = () => promise;
  know(client, INO);
  forget(client, INO);
  let isHeard = false;
  const sent = releases.send().then(() => isHeard = true);
  await quiet();
  assert.deepEqual([session.told.length, isHeard], [1, false]);
  resolve();
  await sent;
});

Deno.test("releases: with a file it is told that its replicas may still get what has failed", async () => {
  const client = startClient();
  const { session, releases, strays } = client;
  strays.note(INO, asBlockId(1), asGeneration(1));
  for (const ino of [INO, OTHER]) {
    know(client, ino);
    forget(client, ino);
  }
  await releases.send();
  assert.deepEqual(session.told[0]!.held, [
    { ino: INO, lease: "none", open: "no", doubtful: true },
    { ino: OTHER, lease: "none", open: "no" },
  ]);
});

Deno.test("releases: what was not heard is told again, with the state of that time", async () => {
  const client = startClient();
  const { session, releases, table, names, nameserver } = client;
  session.hear = () => Promise.reject(new FsError("ENOTCONN", "gone"));
  know(client, INO);
  know(client, OTHER);
  for (const ino of [INO, OTHER]) forget(client, ino);
  await releases.send();
  assert.deepEqual(session.told[0]!.held.map(({ ino, lease }) => [ino, lease]), [[INO, "none"], [
    OTHER,
    "none",
  ]]);
  assert.equal(table.size, 0);
  // One is looked up again meanwhile.
  know(client, ROOT);
  const looking = names.lookup(ROOT, nameOf("a"), PATIENT);
  await nameserver.answer("lookup", { inode: inodeReply(INO, "read"), directory: "read" });
  (await looking).inode!.lookups++;
  session.hear = () => Promise.resolve();
  await releases.send();
  assert.deepEqual(session.told[1]!.held, [{ ino: OTHER, lease: "none", open: "no" }]);
  await releases.send();
  assert.equal(session.told.length, 2);
});

Deno.test(
  "releases: not heard that a file was closed, it is told again though no lease is left",
  async () => {
    const client = startClient();
    const { session, releases, files } = client;
    const handle = await opened(client, READ_ONLY);
    await recall(client, { keep: "none" }).promise;
    await files.close(handle);
    session.hear = () => Promise.reject(new FsError("ENOTCONN", "gone"));
    await releases.send();
    session.hear = () => Promise.resolve();
    await releases.send();
    const closed = { held: [{ ino: INO, lease: "none", open: "no" }], unused: [] };
    assert.deepEqual(session.told, [closed, closed], "or the server takes it for open for ever");
  },
);

Deno.test("releases: of an open that is interrupted the close is told behind the answer, which makes it open at the server", async () => {
  for (const isLost of [false, true]) {
    const client = startClient();
    const { files, nameserver, recalls, releases, session, table } = client;
    know(client, INO, "none");
    const giveUp = new AbortController();
    const opening = watch(Promise.resolve(files.open(INO, READ_ONLY, giveUp)));
    const acquire = await nameserver.next("acquire");
    giveUp.abort();
    await quiet();
    assert.ok(isErrno(opening.error, "EINTR"));
    await releases.send();
    assert.deepEqual(session.told, []);
    if (isLost) await recalls.lost(); // it is asked again in the next session
    await acquire.answer(acquireReply(INO, "read"));
    await releases.send();
    const lease = isLost ? "none" : "read";
    assert.deepEqual(session.told, [{ held: [{ ino: INO, lease, open: "no" }], unused: [] }]);
    assert.equal(table.get(INO)!.file, null);
  }
});

Deno.test("releases: a file that was said to be open while it was being made is told when it is closed", async () => {
  const client = startClient();
  const { files, nameserver, releases, session } = client;
  know(client, ROOT);
  const creating = files.create({ ...CREATE, write: false }, { truncate: false }, PATIENT);
  const call = await nameserver.next("create");
  const removed = { keep: "read", attributes: true, removed: true } as const;
  assert.deepEqual(await recall(client, removed).promise, { open: ["write"] });
  await call.answer({ ...acquireReply(INO, "none", { nlink: 0 }), directory: "none", created: true });
  const { handle } = await creating;
  handle.file.inode.lookups = 1;
  await files.close(handle);
  await releases.send();
  assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "none", open: "no" }], unused: [] }]);
});

Deno.test("releases: a file that is written again while its last commit is under way is not told before the next", async () => {
  const client = startClient();
  const { files, nameserver, releases, session } = client;
  const handle = await opened(client, WRITING, {}, { blocks: [blockOf(1, 0, 1024)] });
  const how = { append: false, isWriteback: false, killSuidGid: false };
  await files.write(handle, 0, new Uint8Array(5), how, PATIENT);
  const closing = watch(files.close(handle));
  const first = await nameserver.next("commit");
  const again = await opened(client, WRITING);
  await files.write(again, 5, new Uint8Array(5), how, PATIENT);
  const closingAgain = watch(files.close(again));
  await first.answer(inodeReply(INO, "write", { version: 2, size: 5 }));
  await releases.send();
  assert.deepEqual([session.told, closingAgain.state], [[], "waits"]);
  for (const version of [3, 4]) {
    const [call] = nameserver.calls;
    if (call !== undefined) await call.answer(inodeReply(INO, "write", { version, size: 10 }));
  }
  assert.deepEqual([closing.state, closingAgain.state], ["done", "done"]);
  await releases.send();
  assert.deepEqual(session.told.map(({ held }) => held), [[{ ino: INO, lease: "read", open: "no" }]]);
});

/** A new file that was made with a block. */
async function created(client: TestClient) {
  know(client, ROOT);
  const creating = client.files.create(CREATE, { truncate: false }, PATIENT);
  const reply = acquireReply(INO, "write", {}, { blocks: [blockOf(1, 0, 1024, false)] });
  await client.nameserver.answer("create", { ...reply, directory: "read", created: true });
  const { handle } = await creating;
  handle.file.inode.lookups = 1;
  return handle;
}

Deno.test("releases: a file that was made with a block and stayed empty is told as such", async () => {
  const client = startClient();
  const { files, session, releases } = client;
  const handle = await created(client);
  assert.ok(handle.file.blocks.at(0));
  await files.close(handle);
  await releases.send();
  assert.deepEqual(session.told, [{ held: [{ ino: INO, lease: "read", open: "no" }], unused: [INO] }]);
  assert.equal(handle.file.blocks.knows(0, 1), false, "as it is given back");
});

Deno.test("releases: one that got data, or was made without a block, is not told as unused", async () => {
  const client = startClient();
  const { files, session, releases, nameserver } = client;
  const handle = await created(client);
  const how = { append: false, isWriteback: false, killSuidGid: false };
  await files.write(handle, 0, new Uint8Array(5), how, PATIENT);
  const closing = files.close(handle);
  await nameserver.answer("commit", inodeReply(INO, "write", { version: 2, size: 5 }));
  await closing;
  await releases.send();
  assert.deepEqual(session.told.map(({ unused }) => unused), [[]]);

  releases.noteUnused(new OpenFile(know(client, OTHER)), false);
  await releases.send();
  assert.equal(session.told.length, 1);
});

Deno.test("releases: not heard that a block is unused, it is told again", async () => {
  const client = startClient();
  const { files, session, releases } = client;
  await files.close(await created(client));
  session.hear = () => Promise.reject(new FsError("ENOTCONN", "gone"));
  await releases.send();
  session.hear = () => Promise.resolve();
  await releases.send();
  assert.deepEqual(session.told.map(({ unused }) => unused), [[INO], [INO]]);
});

Deno.test("releases: said to be open for a creation that opened something else, it is released", async () => {
  const client = startClient();
  const { releases, session } = client;
  assert.equal(releases.mayBeOpening(OTHER), false);
  const one = releases.beginCreate();
  const two = releases.beginCreate();
  assert.equal(releases.mayBeOpening(OTHER), true);
  assert.equal(releases.mayBeOpening(INO), true);
  one.end(INO);
  one.end(); // counts once
  await releases.send();
  assert.deepEqual(session.told, [], "the other may still be opening it");
  two.end();
  assert.equal(releases.mayBeOpening(OTHER), false);
  await releases.send();
  assert.deepEqual(session.told, [{ held: [{ ino: OTHER, lease: "none", open: "no" }], unused: [] }]);
});

Deno.test("releases: said to be open for a creation, and looked up before that ends, it is released, or when it is closed", async () => {
  for (const isOpen of [false, true]) {
    const client = startClient();
    const { files, releases, session } = client;
    const creating = releases.beginCreate();
    const asked = recall(client, { keep: "read" });
    await quiet();
    assert.deepEqual(asked.value, { open: ["write"] });
    know(client, INO);
    const handle = isOpen ? await opened(client, READ_ONLY) : undefined;
    creating.end(OTHER);
    await releases.send();
    const told = [{ held: [{ ino: INO, lease: "read", open: "no" }], unused: [] }];
    assert.deepEqual(session.told, isOpen ? [] : told);
    if (handle !== undefined) await files.close(handle);
    await releases.send();
    assert.deepEqual(session.told, told);
  }
});
