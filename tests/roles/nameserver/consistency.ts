/**
 * What must hold between all records of a namespace after every operation: each relation that the sources call an
 * invariant, checked over the whole database.
 */

import assert from "node:assert/strict";
import { bytesKey } from "../../../base/bytes.ts";
import { PAGE_EXTENTS } from "../../../roles/nameserver/extents.ts";
import {
  getU64,
  metaKey,
  TABLE_DELETION,
  TABLE_ENTRY,
  TABLE_EXTENTS,
  TABLE_INLINE,
  TABLE_INODE,
  TABLE_ORDER,
  TABLE_ORPHAN,
  TABLE_REPLICA,
  TABLE_XATTRS,
  tableRange,
} from "../../../roles/nameserver/keys.ts";
import {
  decodeEntry,
  decodeExtents,
  decodeInode,
  decodeNumbers,
  decodeOrder,
  decodeReplica,
  type Extent,
  type InodeRecord,
  isDirectory,
} from "../../../roles/nameserver/records.ts";
import { asInodeId } from "../../../wire/ids.ts";
import type { MemoryJournal } from "./memory_journal.ts";

export interface Snapshot {
  readonly inodes: ReadonlyMap<number, InodeRecord>;
  /** Directory to its entries by `bytesKey` of the name. */
  readonly entries: ReadonlyMap<number, ReadonlyMap<string, { ino: number; type: number; cookie: number }>>;
  readonly extents: ReadonlyMap<number, readonly Extent[]>;
  /** "volume/block" to "ino/start". */
  readonly replicas: ReadonlyMap<string, string>;
  /** "volume/block". */
  readonly deletions: ReadonlySet<string>;
}

/** Reads everything and checks how it fits together. */
export function checkNamespace(journal: MemoryJournal): Snapshot {
  const inodes = readInodes(journal);
  const entries = readEntries(journal, inodes);
  const extents = readExtents(journal, inodes);
  checkTree(inodes, entries, journal);
  const { replicas, deletions } = checkReplicas(journal, extents);
  const blocks = [...extents.values()].flat();
  const totals = decodeNumbers(journal.get(metaKey("totals")) ?? new Uint8Array(40));
  const inline = checkInline(journal, inodes, extents);
  assert.deepEqual(totals, [inodes.size, blocks.length, replicas.size, ...inline], "running totals");
  assert.equal(new Set(blocks.map(({ block }) => block)).size, blocks.length, "block ids are unique");
  for (const [key] of journal.list(tableRange(TABLE_XATTRS))) {
    assert.ok(inodes.get(getU64(key, 1))?.hasXattrs, "xattrs belong to an inode that knows them");
  }
  return { inodes, entries, extents, replicas, deletions };
}

/** Gives how many files have data beside their inodes, and how much. */
function checkInline(
  journal: MemoryJournal,
  inodes: ReadonlyMap<number, InodeRecord>,
  extents: ReadonlyMap<number, readonly Extent[]>,
): [number, number] {
  const kept = new Map(
    journal.list(tableRange(TABLE_INLINE)).map(([key, { length }]) => [getU64(key, 1), length]),
  );
  for (const [ino, { inlineBytes, size }] of inodes) {
    assert.equal(kept.get(ino) ?? 0, inlineBytes, `inode ${ino} knows what is kept beside it`);
    if (inlineBytes === 0) continue;
    assert.ok(inlineBytes <= size, `inode ${ino} has no more data than its size`);
    assert.ok(!extents.get(ino)?.some(({ written }) => written), `inode ${ino} has its data in one place`);
  }
  for (const [ino, length] of kept) {
    assert.ok(inodes.has(ino) && length > 0, `data belongs to an inode (${ino})`);
  }
  return [kept.size, [...kept.values()].reduce((sum, length) => sum + length, 0)];
}

function readInodes(journal: MemoryJournal): Map<number, InodeRecord> {
  return new Map(
    journal.list(tableRange(TABLE_INODE)).map(([key, value]) => {
      const ino = asInodeId(getU64(key, 1));
      return [ino, decodeInode(ino, value)];
    }),
  );
}

function readEntries(journal: MemoryJournal, inodes: ReadonlyMap<number, InodeRecord>) {
  const entries = new Map<number, Map<string, { ino: number; type: number; cookie: number }>>();
  for (const [key, value] of journal.list(tableRange(TABLE_ENTRY))) {
    const parent = getU64(key, 1);
    const names = entries.get(parent) ?? new Map();
    entries.set(parent, names.set(bytesKey(key.subarray(9)), decodeEntry(value)));
  }
  let ordered = 0;
  for (const [key, value] of journal.list(tableRange(TABLE_ORDER))) {
    const { ino, type, name } = decodeOrder(value);
    const cookie = getU64(key, 9);
    assert.deepEqual(
      entries.get(getU64(key, 1))?.get(bytesKey(name)),
      { ino, type, cookie },
      "order and entry agree",
    );
    assert.ok(cookie > 2, "cookies of . and .. are not given out");
    ordered++;
  }
  let count = 0;
  for (const [parent, names] of entries) {
    count += names.size;
    assert.ok(inodes.has(parent), "entries belong to a directory that exists");
  }
  assert.equal(ordered, count, "as many order keys as entries");
  return entries;
}

function checkTree(
  inodes: ReadonlyMap<number, InodeRecord>,
  entries: ReturnType<typeof readEntries>,
  journal: MemoryJournal,
): void {
  const links = new Map<number, number>();
  const subdirectories = new Map<number, number>();
  for (const [parent, names] of entries) {
    for (const { ino, type } of names.values()) {
      const inode = inodes.get(ino);
      assert.ok(inode !== undefined, "an entry leads to an inode");
      assert.equal(type, (inode.mode >>> 12) & 15, "an entry has its inode's type");
      links.set(ino, (links.get(ino) ?? 0) + 1);
      if (!isDirectory(inode)) continue;
      assert.equal(inode.parent, parent, "a directory knows its parent");
      subdirectories.set(parent, (subdirectories.get(parent) ?? 0) + 1);
    }
  }
  const orphans = new Set(journal.list(tableRange(TABLE_ORPHAN)).map(([key]) => getU64(key, 9)));
  for (const [ino, inode] of inodes) {
    const names = links.get(ino) ?? 0;
    if (isDirectory(inode)) {
      assert.equal(inode.nlink, 2 + (subdirectories.get(ino) ?? 0), `links of directory ${ino}`);
      assert.equal(inode.entries, entries.get(ino)?.size ?? 0, `entry count of ${ino}`);
      assert.equal(names, ino === 1 ? 0 : 1, "a directory has one name, the root none");
      assertReachesRoot(inode, inodes);
    } else {
      assert.equal(inode.nlink, names, `links of inode ${ino}`);
      assert.ok(names > 0 || orphans.has(ino), "an inode without a name is an orphan");
    }
  }
}

function assertReachesRoot(directory: InodeRecord, inodes: ReadonlyMap<number, InodeRecord>): void {
  let at = directory;
  for (let steps = 0; at.ino !== 1; steps++) {
    assert.ok(steps < inodes.size, "parents lead to the root");
    at = inodes.get(at.parent)!;
  }
}

function readExtents(
  journal: MemoryJournal,
  inodes: ReadonlyMap<number, InodeRecord>,
): Map<number, Extent[]> {
  const pages = new Map(
    journal.list(tableRange(TABLE_EXTENTS)).map(([key, value]) => [
      `${getU64(key, 1)}/${getU64(key, 9)}`,
      decodeExtents(value),
    ]),
  );
  const all = new Map<number, Extent[]>();
  let referred = 0;
  for (const [ino, inode] of inodes) {
    const extents: Extent[] = [];
    for (const { first, page } of inode.pages) {
      const here = pages.get(`${ino}/${page}`);
      assert.ok(here !== undefined && here.length > 0, "a page exists and is not empty");
      assert.ok(here.length <= PAGE_EXTENTS, "a page holds at most PAGE_EXTENTS");
      assert.equal(here[0]!.start, first, "a page begins where its inode says");
      extents.push(...here);
      referred++;
    }
    let allocatedBytes = 0;
    let end = 0;
    for (const extent of extents) {
      assert.ok(extent.length > 0, "an extent is not empty");
      assert.ok(extent.start >= end, "extents are in order and do not overlap");
      end = extent.start + extent.length;
      allocatedBytes += extent.allocated === undefined
        ? Math.max(0, Math.min(end, inode.size) - extent.start)
        : Math.min(extent.allocated, Math.ceil(extent.length / 4096) * 4096);
    }
    assert.equal(inode.allocatedBytes, allocatedBytes, `allocatedBytes of ${ino}`);
    if (extents.length > 0) all.set(ino, extents);
  }
  assert.equal(referred, pages.size, "every page belongs to an inode");
  return all;
}

function checkReplicas(journal: MemoryJournal, extents: ReadonlyMap<number, readonly Extent[]>) {
  const replicas = new Map<string, string>();
  for (const [key, value] of journal.list(tableRange(TABLE_REPLICA))) {
    const { ino, start } = decodeReplica(value);
    replicas.set(`${getU64(key, 1)}/${getU64(key, 9)}`, `${ino}/${start}`);
  }
  const expected = new Map<string, string>();
  for (const [ino, list] of extents) {
    for (const { block, start, volumes } of list) {
      assert.equal(new Set(volumes).size, volumes.length, "a volume holds one replica of a block");
      for (const volume of volumes) expected.set(`${volume}/${block}`, `${ino}/${start}`);
    }
  }
  const sorted = (map: ReadonlyMap<string, string>) => [...map].sort(([a], [b]) => a < b ? -1 : 1);
  assert.deepEqual(sorted(replicas), sorted(expected), "the replica index is exactly the extents'");
  const deletions = new Set(
    journal.list(tableRange(TABLE_DELETION)).map(([key]) => `${getU64(key, 1)}/${getU64(key, 9)}`),
  );
  for (const replica of deletions) {
    assert.ok(!replicas.has(replica), `replica ${replica} is in use and to be deleted`);
  }
  return { replicas, deletions };
}
