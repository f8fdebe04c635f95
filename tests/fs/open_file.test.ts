import assert from "node:assert/strict";
import { Inode } from "../../fs/inode.ts";
import { OpenFile } from "../../fs/inode.ts";
import { attributesOf, blockOf, INO, time } from "./client.ts";

function newFile(size = 100): OpenFile {
  return new OpenFile(new Inode(attributesOf(INO, { size, mode: 0o106755 })));
}

Deno.test("open file: while dirty, size and mtime are its own", () => {
  const file = newFile();
  file.wrote(150, time(50), 1_000);
  file.wrote(120, time(60), 2_000);
  assert.deepEqual([file.size, file.dirty, file.dirtySinceMs], [150, true, 1_000]);
  file.inode.attributes = attributesOf(INO, { size: 110, version: 2 });
  assert.equal(file.size, 150);
  const shown = file.shown();
  assert.deepEqual([shown.size, shown.mtime, shown.ctime], [150, time(60), time(60)]);
  assert.equal(shown.version, 2);
  file.inode.attributes = attributesOf(INO, { size: 110, ctime: time(70), version: 3 });
  assert.deepEqual(file.shown().ctime, time(70), "another's chmod, later than our write");
  file.dirty = false;
  file.inode.attributes = attributesOf(INO, { size: 150, version: 4 });
  assert.equal(file.shown(), file.inode.attributes);
});

Deno.test("open file: what blocks take on disks counts, and what was accepted meanwhile", () => {
  const file = newFile(100);
  file.inode.attributes = attributesOf(INO, { size: 100, allocatedBytes: 4096 });
  const old = { ...blockOf(3, 0, 1 << 20), allocated: 4096 };
  const fresh = { ...blockOf(4, 1 << 20, 1 << 20, false), allocated: 0 };
  file.blocks.learn(0, 2 << 20, [old, fresh]);
  file.wrote((2 << 20) - 1, time(2), 0);
  assert.equal(file.shown().allocatedBytes, 4096, "a hole takes no room");
  file.pendingBytes = 1000;
  assert.equal(file.shown().allocatedBytes, 5096);
  file.pendingBytes = 0;
  file.noteBlock(old, true, 12288);
  file.noteBlock(fresh, true, 8192);
  assert.equal(file.shown().allocatedBytes, 12288 + 8192);
  file.noteBlock(old, true, 0);
  assert.equal(file.shown().allocatedBytes, 8192, "it was punched");
  file.noteBlock(old, true, undefined);
  assert.equal(file.shown().allocatedBytes, (1 << 20) + 8192, "of an older dataserver it counts as full");
});

Deno.test("open file: a write inside keeps the size, and one after a commit starts from what the nameserver has", () => {
  const file = newFile(40);
  file.wrote(10, time(2), 0);
  assert.equal(file.size, 40);
  file.wrote(50, time(3), 0);
  file.dirty = false;
  file.inode.attributes = attributesOf(INO, { size: 20, version: 3 });
  file.wrote(10, time(4), 5);
  assert.deepEqual([file.size, file.reach, file.dirtySinceMs], [20, 10, 5], "another has cut it meanwhile");
});

Deno.test("open file: a write that takes setuid off shows so at once", () => {
  const file = newFile();
  file.killSuidGid = true;
  file.wrote(1, time(2), 0);
  assert.equal(file.shown().mode & 0o7777, 0o755);
  file.inode.attributes = attributesOf(INO, { mode: 0o106745 });
  assert.equal(file.shown().mode & 0o7777, 0o2745, "without group execution setgid means something else");
});

Deno.test("open file: a block has data once it was written here, before the nameserver knows", () => {
  const file = newFile();
  const block = blockOf(3, 0, 4096, false);
  assert.equal(file.hasData(block), false);
  file.noteBlock(block, true, 4096);
  assert.equal(file.hasData(block), true);
  assert.equal(file.hasData(blockOf(4, 0, 4096)), true);
});

Deno.test("open file: pending writes are waited for where they overlap", async () => {
  const file = newFile();
  assert.equal(file.isUnflushed, false);
  const end = file.begin(10, 20);
  assert.equal(file.isUnflushed, true);
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
  end();
  await settled;
});

Deno.test("open file: who is woken may wait again, without being woken by the same", () => {
  const file = newFile();
  let woken = 0;
  const wake = () => {
    woken++;
    file.waiters.delete(wake);
    file.waiters.add(again);
  };
  const again = () => woken += 100;
  file.waiters.add(wake);
  file.wake();
  assert.equal(woken, 1);
  file.wake();
  assert.equal(woken, 101);
});
