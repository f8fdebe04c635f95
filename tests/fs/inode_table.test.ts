import assert from "node:assert/strict";
import { bytesKey } from "../../base/bytes.ts";
import { ABSENT } from "../../fs/inode.ts";
import { InodeTable } from "../../fs/inode_table.ts";
import { OpenFile } from "../../fs/inode.ts";
import { asInodeId } from "../../wire/ids.ts";
import { acquireReply, attributesOf, blockOf, INO, inodeReply, nameOf, OTHER, ROOT } from "./client.ts";

Deno.test("inode table: newer attributes are taken, older ones that come late are not", () => {
  const table = new InodeTable();
  const inode = table.adopt(inodeReply(INO, "read", { version: 5, size: 100 }), table.moment);
  assert.equal(table.adopt(inodeReply(INO, "read", { version: 7, size: 300 }), table.moment), inode);
  assert.equal(inode.attributes.size, 300);
  table.adopt(inodeReply(INO, "read", { version: 6, size: 200 }), table.moment);
  assert.deepEqual([inode.attributes.size, inode.attributes.version], [300, 7]);
  table.adopt(inodeReply(INO, "read", { version: 7, size: 301 }), table.moment);
  assert.equal(
    inode.attributes.size,
    301,
    "of two replies of one version the later counts: block locations change so",
  );
});

Deno.test("inode table: a lease is raised by replies and lowered by none", () => {
  const table = new InodeTable();
  const inode = table.adopt(inodeReply(INO, "none"), table.moment);
  assert.deepEqual([inode.lease, inode.attributesKnown, inode.isFresh], ["none", false, false]);
  table.adopt(inodeReply(INO, "read"), table.moment);
  assert.deepEqual([inode.lease, inode.isFresh], ["read", true]);
  table.adopt(inodeReply(INO, "write"), table.moment);
  assert.equal(inode.lease, "write");
  table.adopt(inodeReply(INO, "read", { version: 2, size: 9 }), table.moment);
  assert.deepEqual([inode.lease, inode.attributes.size], ["write", 9]);
  table.adopt(inodeReply(INO, "none", { version: 3, size: 10 }), table.moment);
  assert.deepEqual([inode.lease, inode.attributes.size], ["write", 10], "recalls take back, replies do not");
});

Deno.test("inode table: a lease counts only if nothing was recalled since it was asked for", () => {
  const table = new InodeTable();
  const inode = table.adopt(inodeReply(INO, "write", { version: 1 }), table.moment);
  const before = table.moment;
  table.noteRecall(INO);
  inode.forgetAll();
  table.adopt(inodeReply(INO, "write", { version: 2, size: 7 }), before);
  assert.deepEqual([inode.lease, inode.isFresh], ["none", false]);
  assert.equal(inode.attributes.size, 7, "though what it says is newer than what was known");
  table.adopt(inodeReply(INO, "read", { version: 3 }), table.moment);
  assert.deepEqual([inode.lease, inode.isFresh], ["read", true]);
});

Deno.test("inode table: attributes from before a recall are not shown as known after it", () => {
  const table = new InodeTable();
  const inode = table.adopt(inodeReply(INO, "read", { version: 4, size: 100 }), table.moment);
  const before = table.moment;
  // The recall was for a change that made version 5; this answer was on its way with version 4.
  table.noteRecall(INO);
  inode.forgetAttributes();
  assert.equal(inode.lease, "read", "only attributes were taken back");
  table.adopt(inodeReply(INO, "read", { version: 4, size: 100 }), before);
  assert.equal(inode.isFresh, false);
  table.adopt(inodeReply(INO, "read", { version: 5, size: 70 }), table.moment);
  assert.deepEqual([inode.isFresh, inode.attributes.size], [true, 70]);
});

Deno.test("inode table: a recall of one inode does not touch another's lease", () => {
  const table = new InodeTable();
  const before = table.moment;
  table.noteRecall(OTHER);
  const inode = table.adopt(inodeReply(INO, "read"), before);
  assert.equal(inode.isFresh, true);
});

Deno.test("inode table: a recall of an inode that is not known yet crosses the reply that makes it known", () => {
  const table = new InodeTable();
  const before = table.moment;
  table.noteRecall(INO);
  const inode = table.adopt(inodeReply(INO, "read"), before);
  assert.deepEqual([inode.lease, inode.isFresh], ["none", false]);
  // It is no stranger any more, but what was asked before still is.
  table.adopt(inodeReply(INO, "read"), before);
  assert.equal(inode.isFresh, false);
  table.adopt(inodeReply(INO, "read"), table.moment);
  assert.equal(inode.isFresh, true);
});

Deno.test("inode table: recalls of strangers are remembered, and where one was forgotten no older lease counts", () => {
  const table = new InodeTable();
  const before = table.moment;
  const strangers = Array.from({ length: 4_096 }, (_, i) => asInodeId(1_000 + i));
  for (const ino of strangers) table.noteRecall(ino);
  const between = table.moment;
  assert.equal(table.isCrossed(INO, before), false);
  assert.ok(strangers.every((ino) => table.isCrossed(ino, before)));
  table.noteRecall(OTHER); // one more than are remembered: the oldest goes
  assert.equal(table.isCrossed(INO, before), true, "it may be the one that was forgotten");
  assert.equal(table.isCrossed(INO, between), false);
  assert.equal(table.isCrossed(strangers[0]!, before), true);
  assert.equal(table.isCrossed(strangers[1]!, between), false);
  assert.equal(table.adopt(inodeReply(INO, "read"), before).isFresh, false);
  assert.equal(table.isLost(before), false);
});

Deno.test("inode table: a stranger that is recalled again and again is remembered by its last", () => {
  const table = new InodeTable();
  table.noteRecall(INO);
  for (let i = 0; i < 4_000; i++) table.noteRecall(asInodeId(1_000 + i));
  const before = table.moment;
  table.noteRecall(INO);
  for (let i = 0; i < 4_000; i++) table.noteRecall(asInodeId(10_000 + i));
  assert.equal(table.isCrossed(INO, before), true);
});

Deno.test("inode table: after everything was lost no lease from before counts, of whatever inode", () => {
  const table = new InodeTable();
  const known = table.adopt(inodeReply(INO, "read"), table.moment);
  const before = table.moment;
  assert.equal(table.isLost(before), false);
  table.noteLoss();
  known.forgetAll();
  assert.equal(table.isLost(before), true);
  assert.equal(table.adopt(inodeReply(INO, "write"), before).isFresh, false);
  assert.equal(table.adopt(inodeReply(OTHER, "write"), before).isFresh, false);
  assert.equal(table.isLost(table.moment), false);
  assert.equal(table.adopt(inodeReply(OTHER, "write"), table.moment).lease, "write");
});

Deno.test("inode table: what is removed is still remembered as recalled, and the root stays", () => {
  const table = new InodeTable();
  const root = table.adopt(inodeReply(ROOT, "read"), table.moment);
  assert.equal(root.lookups, 1, "the kernel has it from the start");
  table.remove(root);
  assert.equal(table.get(ROOT), root);
  const inode = table.adopt(inodeReply(INO, "read"), table.moment);
  const before = table.moment;
  table.noteRecall(INO); // as it is given back
  table.remove(inode);
  assert.deepEqual([table.get(INO), table.size], [undefined, 1]);
  // The answer to a lookup that was under way: its lease was given back after it was granted.
  const again = table.adopt(inodeReply(INO, "read"), before);
  assert.notEqual(again, inode);
  assert.equal(again.isFresh, false);
  table.remove(inode); // an object that is not in the table any more does not take the new one with it
  assert.equal(table.get(INO), again);
});

Deno.test("inode table: a name is kept only under a lease on its directory that no recall crossed", () => {
  const table = new InodeTable();
  const name = nameOf("a");
  assert.equal(
    table.adoptEntry(ROOT, name, INO, "read", table.moment),
    false,
    "a directory that is not known",
  );
  const root = table.adopt(inodeReply(ROOT, "none"), table.moment);
  assert.equal(table.adoptEntry(ROOT, name, INO, "none", table.moment), false);
  assert.equal(root.entries, null);
  const before = table.moment;
  table.noteRecall(ROOT);
  assert.equal(table.adoptEntry(ROOT, name, INO, "read", before), false);
  assert.deepEqual([root.entries, root.lease], [null, "none"]);
  assert.equal(table.adoptEntry(ROOT, name, INO, "read", table.moment), true);
  assert.equal(table.adoptEntry(ROOT, nameOf("b"), ABSENT, "read", table.moment), true);
  assert.equal(root.lease, "read");
  assert.deepEqual([...root.entries!], [[bytesKey(name), INO], [bytesKey(nameOf("b")), ABSENT]]);
  assert.equal(root.isFresh, false, "what a reply says of names says nothing of the directory's attributes");
  // "none" while another changes one of its names: not to be kept whatever is held.
  assert.equal(table.adoptEntry(ROOT, nameOf("c"), INO, "none", table.moment), false);
  assert.equal(root.entries!.has(bytesKey(nameOf("c"))), false);
});

Deno.test("inode table: blocks in a reply are the file's map, unless it is open, they are not all, or the lease does not count", () => {
  const table = new InodeTable();
  const blocks = [blockOf(1, 0, 4096)];
  const before = table.moment;
  table.noteRecall(INO);
  const inode = table.adopt({ ...inodeReply(INO, "read"), blocks }, before);
  assert.equal(inode.blocks, null);
  table.adopt(acquireReply(INO, "read", {}, { blocks, blocksComplete: false }), table.moment);
  assert.equal(inode.blocks, null);
  table.adopt({ ...inodeReply(INO, "read"), blocks }, table.moment);
  assert.ok(inode.blocks!.knows(0, Number.MAX_SAFE_INTEGER));
  assert.equal(inode.blocks!.at(5)?.id, blocks[0]!.id);
  inode.file = new OpenFile(inode);
  table.adopt({ ...inodeReply(INO, "read"), blocks: [] }, table.moment);
  assert.ok(
    inode.file.blocks.at(5),
    "what is being written has blocks that a reply on its way does not know",
  );
});

Deno.test("inode: what a symlink leads to is kept whatever the lease, all else goes with it", () => {
  const table = new InodeTable();
  const target = nameOf("elsewhere");
  const inode = table.adopt({ ...inodeReply(INO, "none", { mode: 0o120777 }), target }, table.moment);
  assert.equal(inode.target, target);
  table.adopt({ ...inodeReply(INO, "read"), blocks: [] }, table.moment);
  inode.setEntry("a", OTHER);
  inode.isComplete = true;
  inode.xattrs = new Map();
  inode.xattrNames = [];
  inode.forgetAll();
  assert.deepEqual(
    [inode.target, inode.lease, inode.entries, inode.isComplete, inode.xattrs, inode.xattrNames],
    [target, "none", null, false, null, null],
  );
  assert.equal(inode.blocks!.knows(0, 1), false);
});

Deno.test("inode: attributes and xattrs go without the lease, names and blocks stay", () => {
  const table = new InodeTable();
  const inode = table.adopt({ ...inodeReply(INO, "read"), blocks: [] }, table.moment);
  inode.setEntry("a", OTHER);
  inode.xattrs = new Map([["user.x", null]]);
  inode.xattrNames = [nameOf("user.x")];
  inode.forgetAttributes();
  assert.deepEqual([inode.isFresh, inode.lease, inode.xattrs, inode.xattrNames], [false, "read", null, null]);
  assert.deepEqual([inode.entries!.size, inode.blocks!.knows(0, 1)], [1, true]);
  assert.deepEqual(inode.attributes, attributesOf(INO), "they are there for who may show old ones");
});

Deno.test("inode table: what is remembered of inodes that were given back is bounded", () => {
  const table = new InodeTable();
  const before = table.moment;
  for (let i = 0; i < 10_000; i++) {
    const inode = table.adopt(inodeReply(asInodeId(1_000 + i), "read"), table.moment);
    table.noteRecall(inode.ino); // as Releases does
    table.remove(inode);
  }
  assert.equal(
    table.isCrossed(INO, before),
    true,
    "some were forgotten, so that no lease from before counts",
  );
});

Deno.test("inode table: what is known of blocks from before a lease is asked for again under it", () => {
  const table = new InodeTable();
  const inode = table.adopt(inodeReply(INO, "none"), table.moment);
  inode.file = new OpenFile(inode);
  inode.file.blocks.learn(0, 1_000, [blockOf(1, 0, 100)]); // as an fsync does
  table.adopt(inodeReply(INO, "read"), table.moment);
  assert.equal(inode.file.blocks.knows(0, 1), false);
  inode.file.blocks.learn(0, 1_000, [blockOf(1, 0, 100)]);
  table.adopt(inodeReply(INO, "write"), table.moment);
  assert.equal(inode.file.blocks.knows(0, 1), true, "a lease that was there already covers it");
});

Deno.test("inode table: after a loss the server may know less than it did; what was asked before does not count", () => {
  const table = new InodeTable();
  const before = table.moment;
  const inode = table.adopt(inodeReply(INO, "read", { version: 7, size: 300 }), before);
  table.noteLoss();
  table.adopt(inodeReply(INO, "none", { version: 8, size: 400 }), before);
  const other = table.adopt(inodeReply(OTHER, "none", { version: 9, size: 500 }), before);
  table.adopt(inodeReply(INO, "read", { version: 5, size: 100 }), table.moment);
  table.adopt(inodeReply(OTHER, "read", { version: 5, size: 100 }), table.moment);
  assert.deepEqual([inode.attributes.size, other.attributes.size], [100, 100]);
});

Deno.test("inode table: blocks in an answer from before what is known do not take the place of those", () => {
  const table = new InodeTable();
  const written = blockOf(1, 0, 100);
  const whole = (version: number, isWritten: boolean) => ({
    ...inodeReply(INO, "read", { version, size: 100 }),
    blocks: [{ ...written, written: isWritten }],
  });
  const before = table.moment;
  const inode = table.adopt(whole(5, true), table.moment);
  table.adopt(whole(4, false), before);
  assert.equal(inode.blocks?.at(0)?.written, true);
  table.adopt(whole(6, false), table.moment);
  assert.equal(inode.blocks?.at(0)?.written, false, "a newer one counts");
});
