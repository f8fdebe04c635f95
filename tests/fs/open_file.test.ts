import assert from "node:assert/strict";
import { asInodeId } from "../../wire/ids.ts";
import type { InodeReply, LeaseMode } from "../../wire/messages/inode.ts";
import { OpenFile } from "../../fs/inode.ts";

const time = (seconds: number) => ({ seconds, nanoseconds: 0 });

function reply(version: number, size = 100, lease: LeaseMode = "read", seconds = 1): InodeReply {
  return {
    lease,
    attributes: {
      ino: asInodeId(5),
      mode: 0o106755,
      uid: 0,
      gid: 0,
      nlink: 1,
      size,
      allocatedBytes: 0,
      atime: time(seconds),
      mtime: time(seconds),
      ctime: time(seconds),
      btime: time(seconds),
      rdev: 0,
      replication: 1,
      version,
    },
  };
}

Deno.test("open file: newer attributes are taken, older ones that come late are not", () => {
  const file = new OpenFile(reply(5, 100));
  file.adopt(reply(7, 300), 0);
  assert.equal(file.size, 300);
  file.adopt(reply(6, 200), 0);
  assert.deepEqual([file.size, file.attributes.version], [300, 7]);
  file.adopt(reply(7, 300, "write"), 0);
  assert.equal(file.lease, "write");
});

Deno.test("open file: a lease counts only if no recall came since it was asked for", () => {
  const file = new OpenFile(reply(1, 100, "write"));
  const before = file.recalls;
  file.recalls++;
  file.lease = "none";
  file.adopt(reply(2, 100, "write"), before);
  assert.equal(file.lease, "none");
  file.adopt(reply(3, 100, "read"), file.recalls);
  assert.equal(file.lease, "read");
});

Deno.test("open file: attributes from before a recall are not shown as known after it", () => {
  const file = new OpenFile(reply(4));
  const before = file.recalls;
  // The recall was for a change that made version 5; this answer was on its way with version 4.
  file.recalls++;
  file.attributesKnown = false;
  file.lease = "none";
  file.adopt(reply(4), before);
  assert.equal(file.isFresh, false);
  file.adopt(reply(5, 70, "read"), file.recalls);
  assert.deepEqual([file.isFresh, file.size], [true, 70]);
});

Deno.test("open file: while dirty, size and mtime are its own", () => {
  const file = new OpenFile(reply(1, 100, "write", 1));
  file.wrote(150, time(50), 1_000);
  file.wrote(120, time(60), 2_000);
  assert.deepEqual([file.size, file.dirty, file.dirtySinceMs], [150, true, 1_000]);
  file.adopt(reply(2, 110, "write", 2), 0);
  assert.equal(file.size, 150);
  const shown = file.shown();
  assert.deepEqual([shown.size, shown.mtime, shown.ctime], [150, time(60), time(60)]);
  assert.equal(shown.version, 2);
  file.dirty = false;
  file.adopt(reply(3, 150, "write", 60), 0);
  assert.deepEqual(file.shown(), file.attributes);
});

Deno.test("open file: the first write starts from the size that the nameserver has", () => {
  const file = new OpenFile(reply(1, 100));
  file.adopt(reply(2, 40), 0);
  file.wrote(10, time(2), 0);
  assert.equal(file.size, 40);
});

Deno.test("open file: a write that takes setuid off shows so at once", () => {
  const file = new OpenFile(reply(1));
  file.killSuidGid = true;
  file.wrote(1, time(2), 0);
  assert.equal(file.shown().mode & 0o7777, 0o755);
});

Deno.test("open file: pending writes are waited for where they overlap", async () => {
  const file = new OpenFile(reply(1));
  const first = Promise.withResolvers<void>();
  const write = { start: 10, end: 20, done: first.promise };
  file.pending.add(write);
  assert.deepEqual([[0, 10], [20, 30], [19, 20], [0, 11]].map(([a, b]) => file.hasPending(a!, b!)), [
    false,
    false,
    true,
    true,
  ]);
  await file.settled(0, 10);
  let isSettled = false;
  const settled = file.settled(0, Infinity).then(() => isSettled = true);
  await Promise.resolve();
  assert.equal(isSettled, false);
  file.pending.delete(write);
  first.resolve();
  await settled;
});
