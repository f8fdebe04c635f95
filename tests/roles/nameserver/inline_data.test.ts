/** Data of small files beside their inodes: what a commit makes of it, what cuts and drops it, and what is refused. */

import assert from "node:assert/strict";
import { bytesOf, EMPTY_BYTES, textOf } from "../../../base/bytes.ts";
import { commitInline, dropInline, findInline } from "../../../roles/nameserver/inline_data.ts";
import { allocateBlock, markWritten } from "../../../roles/nameserver/block_operations.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { inodeKey } from "../../../roles/nameserver/keys.ts";
import { decodeInode, INLINE_RECORD_VERSION, RECORD_VERSION } from "../../../roles/nameserver/records.ts";
import type { Transaction } from "../../../roles/nameserver/transaction.ts";
import { FsError } from "../../../wire/errno.ts";
import { asVolumeId, type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { INLINE_BYTES_MAX, S_IFREG } from "../../../wire/messages/inode.ts";
import type { CommitRequest } from "../../../wire/messages/nameserver.ts";
import { checkNamespace } from "./consistency.ts";
import { makeWorld, type World } from "./harness.ts";

const LIMIT = 16;
const OWNER = { credentials: { uid: 0, gid: 0 }, mode: S_IFREG | 0o644, rdev: 0, target: EMPTY_BYTES };

/** A namespace with one file in it. */
async function makeFile() {
  const world = await makeWorld();
  const { ino } = await world.namespace.change((tx) => operations.make(tx, ROOT_INODE, bytesOf("f"), OWNER));
  return { world, ino };
}

function request(ino: InodeId, size: number, more: Partial<CommitRequest> = {}): CommitRequest {
  const mtime = { seconds: 1, nanoseconds: 0 };
  const how = { mtime, written: [], durable: false, killSuidGid: false };
  return { retry: { slot: 0, sequence: 1 }, ino, size, ...how, ...more };
}

/** A write as a client reports it. */
async function write(
  { namespace }: World,
  ino: InodeId,
  parts: Record<number, string>,
  size?: number,
): Promise<void> {
  const inline = Object.entries(parts).map(([at, { length }]) => ({ offset: Number(at), length }));
  const end = Math.max(...inline.map(({ offset, length }) => offset + length));
  const body = bytesOf(Object.values(parts).join(""));
  await namespace.change((tx) => {
    const inode = tx.change(tx.inode(ino));
    commitInline(tx, inode, request(ino, size ?? end, { inline, body }), LIMIT);
    operations.grow(tx, inode, size ?? end);
  });
}

function dataOf({ namespace }: World, ino: InodeId): string | undefined {
  const tx = namespace.begin();
  const found = findInline(tx, tx.inode(ino));
  return found && textOf(found).replaceAll("\0", ".");
}

const retry = { slot: 0, sequence: 1 };

function resize({ namespace }: World, ino: InodeId, size: number) {
  return namespace.change((tx) => operations.setAttributes(tx, { retry, ino, size }));
}

/** The file gets a block that holds data. */
function addBlock(tx: Transaction, ino: InodeId): void {
  const inode = tx.inode(ino);
  const { block, start } = allocateBlock(tx, inode, 0, 1024, () => [asVolumeId(1)]);
  markWritten(tx, inode, [{ block, start }]);
}

const refused = (errno: string) => (error: unknown) => error instanceof FsError && error.errno === errno;

Deno.test("inline: writes go over what is there, gaps read as zeros, and totals follow", async () => {
  const { world, ino } = await makeFile();
  await write(world, ino, { 0: "hello" });
  await write(world, ino, { 1: "E", 7: "x" });
  assert.equal(dataOf(world, ino), "hEllo..x");
  const { totals } = world.namespace;
  assert.deepEqual([totals.get("inlineFiles"), totals.get("inlineBytes")], [1, 8]);
  checkNamespace(world.journal);
});

Deno.test("inline: a cut is exact, growing again gives zeros, however large", async () => {
  const { world, ino } = await makeFile();
  await write(world, ino, { 0: "abcdef" });
  await resize(world, ino, 3);
  await resize(world, ino, LIMIT);
  assert.equal(dataOf(world, ino), "abc");
  await resize(world, ino, LIMIT + 1);
  await write(world, ino, { 1: "B", [LIMIT - 1]: "z" });
  assert.equal(dataOf(world, ino), `aBc${".".repeat(LIMIT - 4)}z`);
  await assert.rejects(write(world, ino, { [LIMIT]: "z" }), refused("EINVAL"));
  assert.equal(world.namespace.begin().inode(ino).size, LIMIT + 1);
  await resize(world, ino, 0);
  assert.equal(dataOf(world, ino), undefined);
  await resize(world, ino, LIMIT + 1);
  checkNamespace(world.journal);
});

Deno.test("inline: what has outgrown it is dropped in the batch that names the blocks", async () => {
  const { world, ino } = await makeFile();
  await write(world, ino, { 0: "abc" });
  await world.namespace.change((tx) => {
    const inode = tx.change(tx.inode(ino));
    const { block, start } = allocateBlock(tx, inode, 0, 1024, () => [asVolumeId(1)]);
    const written = [{ block, start }];
    commitInline(tx, inode, request(ino, 100, { outgrown: true, written }), LIMIT);
    operations.grow(tx, inode, 100);
    markWritten(tx, inode, written);
  });
  assert.equal(dataOf(world, ino), undefined);
  checkNamespace(world.journal);
});

Deno.test("inline: data in two places, beyond the limit or without its bytes is refused, and nothing changes", async () => {
  const { world, ino } = await makeFile();
  await write(world, ino, { 0: "abc" });
  const version = () => world.namespace.begin().inode(ino).version;
  const before = version();
  const written = [{ block: 7 as never, start: 0 }];
  const one = [{ offset: 0, length: 1 }];
  for (
    const bad of [
      request(ino, 5, { written }),
      request(ino, 5, { inline: one, body: bytesOf("x"), written }),
      request(ino, LIMIT + 1, { inline: one, body: bytesOf("x") }),
      request(ino, LIMIT + 1, { inline: [{ offset: LIMIT, length: 1 }], body: bytesOf("x") }),
      request(ino, 5, { inline: one, body: bytesOf("xy") }),
      request(ino, 5, { inline: [{ offset: -1, length: 1 }], body: bytesOf("x") }),
      request(ino, 5, { inline: [{ offset: 0, length: 2 ** 53 }], body: bytesOf("x") }),
    ]
  ) {
    const commit = world.namespace.change((tx) => commitInline(tx, tx.change(tx.inode(ino)), bad, LIMIT));
    await assert.rejects(commit, refused("EINVAL"), JSON.stringify(bad));
  }
  assert.deepEqual([version(), dataOf(world, ino)], [before, "abc"]);

  const other = await world.namespace.change((tx) => {
    const made = operations.make(tx, ROOT_INODE, bytesOf("g"), OWNER);
    addBlock(tx, made.ino);
    return made.ino;
  });
  await assert.rejects(write(world, other, { 0: "x" }), refused("EINVAL"));
});

Deno.test("inline: a lower limit leaves what is there writable, up to its size and never over the maximum", async () => {
  const { world, ino } = await makeFile();
  await write(world, ino, { 0: "abcdef" });
  const patch = (size: number, offset: number, limit: number) =>
    world.namespace.change((tx) => {
      const inline = [{ offset, length: 1 }];
      commitInline(tx, tx.change(tx.inode(ino)), request(ino, size, { inline, body: bytesOf("Z") }), limit);
    });
  await patch(6, 5, 0);
  assert.equal(dataOf(world, ino), "abcdeZ");
  await assert.rejects(patch(7, 6, 0), refused("EINVAL"));
  await assert.rejects(patch(INLINE_BYTES_MAX + 1, INLINE_BYTES_MAX, 1e9), refused("EINVAL"));
});

Deno.test("inline: it goes with its file, and its record's version says so to what does not know of it", async () => {
  const { world, ino } = await makeFile();
  const version = () => world.journal.get(inodeKey(ino))![0];
  assert.equal(version(), RECORD_VERSION);
  await write(world, ino, { 0: "abc" });
  assert.equal(version(), INLINE_RECORD_VERSION);
  assert.equal(decodeInode(ino, world.journal.get(inodeKey(ino))!).inlineBytes, 3);
  await world.namespace.change((tx) => dropInline(tx, tx.change(tx.inode(ino))));
  assert.equal(version(), RECORD_VERSION);
  await write(world, ino, { 0: "abc" });
  await world.namespace.change((tx) => operations.remove(tx, ROOT_INODE, bytesOf("f"), false, []));
  checkNamespace(world.journal);
  assert.equal(world.namespace.totals.get("inlineFiles"), 0);
});
