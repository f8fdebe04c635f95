/** Times of access: which reads are told, when, what is shown meanwhile, and how the next one is made to reach us. */

import assert from "node:assert/strict";
import { FsError, isErrno } from "../../wire/errno.ts";
import { S_IFDIR } from "../../wire/messages/inode.ts";
import { FakeClock } from "../base/fake_clock.ts";
import { INO, inodeReply, know, OTHER, PATIENT, quiet, ROOT, startClient, time, watch } from "./client.ts";
import { OpenFile } from "../../fs/inode.ts";
import type { AccessedRequest } from "../../wire/messages/nameserver.ts";

const NOW = new FakeClock().now().seconds;
/** Read since the last change. */
const LATE = { atime: time(NOW - 1), mtime: time(NOW - 5), ctime: time(NOW - 5) };
const DELAY_MS = 50;

function start(...parameters: Parameters<typeof startClient>) {
  const client = startClient(...parameters);
  const inode = know(client, INO, "read", { size: 10 });
  const file = inode.file = new OpenFile(inode);
  return { ...client, inode, file };
}

/** What the nameserver says after it was told. */
const noted = (version = 2) => ({ inodes: [inodeReply(INO, "read", { size: 10, version, ...LATE })] });

Deno.test("access times: the first read after a change is told, without being waited for, the next is not", async () => {
  const { accessTimes, names, nameserver, inode, clock } = start("relatime");
  assert.equal(accessTimes.accessed(inode), undefined);
  const { atime } = names.shown(inode);
  assert.equal(atime.seconds, NOW, "shown here at once");
  assert.equal(accessTimes.isDue(inode), false);
  accessTimes.accessed(inode);
  await quiet();
  assert.deepEqual(nameserver.asked, []);
  await clock.advance(DELAY_MS);
  assert.deepEqual(nameserver.asked, ["accessed"], "one message for both");
  assert.deepEqual(nameserver.calls[0]!.request, {
    inodes: [{ ino: INO, version: 1, time: atime }],
    always: false,
  });
  await nameserver.answer("accessed", noted());
  assert.deepEqual(names.shown(inode).atime, LATE.atime, "from then on what the nameserver says counts");
  assert.equal(accessTimes.accessed(inode), undefined);
  await clock.advance(DELAY_MS);
  assert.deepEqual(nameserver.asked, ["accessed"]);
  inode.attributes = { ...inode.attributes, ctime: LATE.atime };
  assert.ok(accessTimes.isDue(inode), "as after a change of the mode in the same moment");
});

Deno.test("access times: who asks for something tells of them before", async () => {
  const { accessTimes, nameserver, inode } = start("relatime");
  accessTimes.accessed(inode);
  const telling = accessTimes.tell();
  await quiet();
  assert.deepEqual(nameserver.asked, ["accessed"]);
  await nameserver.answer("accessed", noted());
  await telling;
  await accessTimes.tell();
  assert.deepEqual(nameserver.asked, ["accessed"]);
});

Deno.test("access times: the answer brings nothing back of what the kernel has forgotten meanwhile", async () => {
  const { accessTimes, files, nameserver, releases, session, table, inode } = start("relatime");
  inode.file = null;
  accessTimes.accessed(inode);
  const telling = accessTimes.tell();
  await quiet();
  files.forget(INO, inode.lookups);
  await releases.send();
  assert.deepEqual(session.told.flatMap(({ held }) => held), [{ ino: INO, lease: "none", open: "no" }]);
  await nameserver.answer("accessed", noted());
  await telling;
  assert.equal(table.get(INO), undefined, "nobody would give it back again");
});

Deno.test("access times: a change of attributes is asked for when the nameserver has heard of the access before it", async () => {
  const { accessTimes, names, nameserver, inode } = start("relatime");
  accessTimes.accessed(inode);
  const changing = watch(names.setattr({ ino: INO, mode: 0o600 }, PATIENT) as Promise<unknown>);
  await quiet();
  assert.deepEqual(nameserver.asked, ["accessed"]);
  await nameserver.answer("accessed", noted());
  await nameserver.answer("setattr", inodeReply(INO, "read", { version: 3 }));
  assert.equal(changing.state, "done");
});

Deno.test("access times: what others have changed meanwhile is not shown before the nameserver was asked", async () => {
  const { accessTimes, names, nameserver, inode } = start("relatime");
  inode.attributes = { ...inode.attributes, ...LATE };
  inode.forgetAttributes();
  accessTimes.accessed(inode);
  assert.deepEqual(names.shown(inode).atime, LATE.atime);
  void accessTimes.tell();
  await quiet();
  assert.deepEqual(nameserver.calls[0]!.request, { inodes: [{ ino: INO, version: 1 }], always: false });
});

Deno.test("access times: one that is set by a program counts from then on", async () => {
  const { accessTimes, names, nameserver, inode } = start("relatime");
  accessTimes.accessed(inode);
  const set = { atime: time(5), mtime: time(NOW - 5), ctime: time(NOW) };
  const setting = names.setattr({ ino: INO, atime: time(5) }, PATIENT);
  await quiet();
  await nameserver.answer("accessed", noted());
  await nameserver.answer("setattr", inodeReply(INO, "read", { size: 10, version: 3, ...set }));
  assert.deepEqual(names.shown(await setting).atime, time(5));
});

Deno.test("access times: who waits until one is told before a change can be killed", async () => {
  const { accessTimes, names, nameserver, inode } = start("relatime");
  accessTimes.accessed(inode);
  const killed = new AbortController();
  const setting = Promise.resolve(names.setattr({ ino: INO, mode: 0o600 }, { signal: killed.signal }));
  await quiet();
  assert.deepEqual(nameserver.asked, ["accessed"]);
  killed.abort();
  await assert.rejects(setting, (error) => isErrno(error, "EINTR"));
});

Deno.test("access times: of what is this mount's alone they are deferred with all other changes", async () => {
  const { accessTimes, names, nameserver, inode, clock } = start("relatime", true, true);
  inode.lease = "exclusive";
  const { version } = inode.attributes;
  accessTimes.accessed(inode);
  assert.equal(names.shown(inode).atime.seconds, NOW);
  assert.equal(inode.attributes.version, version + 1, "as it will be at the nameserver");
  await clock.advance(DELAY_MS);
  assert.deepEqual(nameserver.asked, ["defer"]);
});

Deno.test("access times: a day after the last one the next is told", () => {
  const { accessTimes, inode, session } = start("relatime");
  const { seconds } = session.now();
  const at = (atime: number) => {
    inode.attributes = {
      ...inode.attributes,
      atime: time(atime),
      mtime: time(atime - 9),
      ctime: time(atime - 9),
    };
    return accessTimes.isDue(inode);
  };
  assert.deepEqual([at(seconds - 86_399), at(seconds - 86_400)], [false, true]);
});

Deno.test("access times: what was written here and is not reported yet counts", () => {
  const { accessTimes, inode, file, clock } = start("relatime");
  inode.attributes = { ...inode.attributes, ...LATE };
  assert.equal(accessTimes.isDue(inode), false);
  file.wrote(1, time(NOW), clock.monotonicMs());
  assert.equal(accessTimes.isDue(inode), true);
});

Deno.test("access times: off says nothing, nodiratime nothing of directories", () => {
  const off = start("off");
  assert.equal(off.accessTimes.isDue(off.inode), false);
  assert.deepEqual(off.accessTimes.opened(off.file), { isDirect: false, keepsPages: true });
  const files = startClient("strict", false);
  const directory = know(files, ROOT, "read", { mode: S_IFDIR | 0o755 });
  assert.equal(files.accessTimes.isDue(directory), false);
  assert.equal(files.accessTimes.isDue(know(files, OTHER)), true);
});

Deno.test("access times: an open of what is due brings the next read to us", async () => {
  const { accessTimes, inode, file, nameserver, kernel } = start("relatime");
  inode.hasPages = true;
  assert.deepEqual(accessTimes.opened(file), { isDirect: false, keepsPages: false });
  inode.attributes = { ...inode.attributes, size: 0 };
  assert.deepEqual(accessTimes.opened(file), { isDirect: true, keepsPages: true }, "of nothing to read");
  inode.attributes = { ...inode.attributes, size: 1e9 };
  const { noted: opening, ...large } = accessTimes.opened(file);
  assert.deepEqual(large, { isDirect: false, keepsPages: true });
  await opening;
  void accessTimes.tell();
  await nameserver.answer("accessed", noted());
  assert.deepEqual(kernel.taken(), [`attributes ${INO}`], "no answer to a read makes the kernel ask");
  inode.attributes = { ...inode.attributes, size: 10 };
  assert.deepEqual(accessTimes.opened(file), { isDirect: false, keepsPages: true });
  const strict = start("strict");
  assert.equal(strict.accessTimes.opened(strict.file).isDirect, true);
});

Deno.test("access times: strict notes each read", async () => {
  const { accessTimes, nameserver, inode, clock } = start("strict");
  inode.attributes = { ...inode.attributes, ...LATE };
  accessTimes.accessed(inode);
  await clock.advance(DELAY_MS);
  await nameserver.answer("accessed", noted());
  accessTimes.accessed(inode);
  await clock.advance(DELAY_MS);
  assert.deepEqual(nameserver.asked, ["accessed", "accessed"]);
});

Deno.test("access times: one that could not be told is not shown any longer", async () => {
  const { accessTimes, names, nameserver, inode } = start("relatime");
  const before = names.shown(inode).atime;
  accessTimes.accessed(inode);
  const telling = accessTimes.tell();
  await quiet();
  await nameserver.calls[0]!.fail(new FsError("EIO", "gone"));
  await telling;
  assert.deepEqual(names.shown(inode).atime, before);
});

Deno.test("access times: what waits to be told is bounded, and goes out in few messages", async () => {
  const client = startClient("relatime");
  const { accessTimes, nameserver } = client;
  for (let i = 0; i < 5_000; i++) accessTimes.accessed(know(client, (100 + i) as typeof INO));
  const telling = accessTimes.tell();
  await quiet();
  const messages = nameserver.calls.map(({ request }) => (request as AccessedRequest).inodes.length);
  assert.deepEqual(messages, Array(16).fill(256));
  for (const _ of messages) await nameserver.answer("accessed", { inodes: [] });
  await telling;
});
