/**
 * Walks the tree of names and checks each directory and file that it comes to: names against the listing, inodes against
 * their names, block maps in themselves and against the index of replicas. It carries the path, so what it finds has one.
 * Bounded: one page of names for each level of the tree; a directory is gone into only where its inode says that it is,
 * so that damage can't lead in a circle.
 */

import { bytesEqual, bytesKey, concatBytes, EMPTY_BYTES } from "../../base/bytes.ts";
import { type InodeId, ROOT_INODE } from "../../wire/ids.ts";
import { DT_DIR, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import type { FsckHint } from "../../wire/messages/fsck.ts";
import { checkBlockMap } from "./fsck_extents.ts";
import { decoded } from "./fsck_reader.ts";
import type { BlockChecks } from "./fsck_blocks.ts";
import type { FsckContext } from "./fsck_context.ts";
import {
  entryKey,
  getU64,
  inodeKey,
  orderKey,
  prefixRange,
  TABLE_ENTRY,
  TABLE_ORDER,
  TABLE_ORPHAN,
  tableRange,
  xattrsKey,
} from "./keys.ts";
import {
  decodeEntry,
  decodeInode,
  decodeOrder,
  type EntryRecord,
  type InodeRecord,
  isDirectory,
} from "./records.ts";
import { inoAt } from "./fsck_reader.ts";

const SLASH = new Uint8Array([0x2f]);
const NAMES_PAGE = 256;
/** Files with several names that are known to be checked; beyond it they are checked for each name. */
const LINKED_MAX = 500_000;

/** A place in the tree; its path is put together when somebody asks. */
interface Place {
  readonly ino: InodeId;
  readonly parent: Place | undefined;
  /** Of the root of the walk: its whole path. */
  readonly name: Uint8Array;
}

export async function* checkTree(run: FsckContext, blockChecks: BlockChecks): AsyncGenerator<void> {
  const { root } = run.request;
  const top: Place = { ino: root?.ino ?? ROOT_INODE, parent: undefined, name: root?.path ?? EMPTY_BYTES };
  const linked = new Set<InodeId>();
  const inode = run.reader.inode(top.ino);
  if (inode === undefined || inode === "damaged") {
    run.report({ kind: "record", detail: "its inode can't be read", ino: top.ino, path: pathOf(top) });
    return;
  }
  yield* checkInode(run, blockChecks, top, inode);
  // What is to be gone into, the next at the end.
  const stack: AsyncIterator<Place | undefined>[] = [];
  if (isDirectory(inode)) stack.push(checkDirectory(run, blockChecks, top, linked));
  while (stack.length > 0) {
    const { value, done } = await stack[stack.length - 1]!.next();
    if (done) stack.pop();
    else if (value !== undefined) stack.push(checkDirectory(run, blockChecks, value, linked));
    yield;
  }
  if (root === undefined) yield* checkUnlinked(run, blockChecks);
  yield* blockChecks.end();
}

function pathOf(place: Place): Uint8Array {
  const parts: Uint8Array[] = [];
  let at: Place | undefined = place;
  for (; at?.parent !== undefined; at = at.parent) parts.push(at.name, SLASH);
  if (at !== undefined && !bytesEqual(at.name, SLASH)) parts.push(at.name);
  return parts.length === 1 && parts[0]!.length === 0 ? SLASH : concatBytes(parts.reverse());
}

/** Checks what is in a directory; gives the directories in it, and undefined after each step. */
async function* checkDirectory(
  run: FsckContext,
  blockChecks: BlockChecks,
  place: Place,
  linked: Set<InodeId>,
): AsyncGenerator<Place | undefined> {
  const { reader } = run;
  const { ino } = place;
  run.named(ino, () => pathOf(place));
  for await (const page of reader.pages(prefixRange(TABLE_ORDER, ino), NAMES_PAGE)) {
    for (const [key, value] of page) checkOrder(run, place, key, value);
    yield undefined;
  }
  for await (const page of reader.pages(prefixRange(TABLE_ENTRY, ino), NAMES_PAGE)) {
    const subdirectories: Place[] = [];
    for (const [key, value] of page) {
      const entry = decoded(value, decodeEntry);
      if (entry === "damaged") continue; // checkTables says so
      const child: Place = { ino: entry.ino, parent: place, name: key.slice(9) };
      const inode = checkEntry(run, child, entry);
      if (inode === undefined) continue;
      if (isDirectory(inode)) {
        if (inode.parent === ino) subdirectories.push(child);
      } else {
        if (inode.nlink > 1 && linked.has(inode.ino)) continue;
        if (inode.nlink > 1 && linked.size < LINKED_MAX) linked.add(inode.ino);
        run.named(inode.ino, () => pathOf(child));
      }
      for await (const _ of checkInode(run, blockChecks, child, inode)) yield undefined;
    }
    yield undefined;
    yield* subdirectories;
  }
}

function checkOrder(run: FsckContext, place: Place, key: Uint8Array, value: Uint8Array): void {
  const order = decoded(value, decodeOrder);
  if (order === "damaged") return;
  const cookie = getU64(key, 9);
  const entry = run.reader.read(entryKey(place.ino, order.name), decodeEntry);
  if (entry === "damaged") return;
  // Of one that leads elsewhere the name itself is told of (checkEntry).
  if (entry?.cookie === cookie) return;
  const detail = entry === undefined
    ? `it is listed, and is no name: it would lead to inode ${order.ino}`
    : "it is listed twice";
  const path = pathOf({ ino: order.ino, parent: place, name: order.name });
  run.report({ kind: "order", detail, path, ino: order.ino, hint: { key } });
}

/** Gives the inode that the name leads to, if it can be read. */
function checkEntry(run: FsckContext, child: Place, entry: EntryRecord): InodeRecord | undefined {
  const { reader } = run;
  const parent = child.parent!.ino;
  const key = entryKey(parent, child.name);
  const wrong = (kind: "entry" | "order", detail: string, hint: FsckHint = { key }) =>
    run.report({ kind, detail, path: pathOf(child), ino: entry.ino, hint });
  const order = reader.read(orderKey(parent, entry.cookie), decodeOrder);
  if (order === undefined) wrong("order", "it is not in the listing of its directory");
  else if (order !== "damaged") {
    const isSame = order.ino === entry.ino && order.type === entry.type && bytesEqual(order.name, child.name);
    if (!isSame) {
      wrong("order", `the listing has "${bytesKey(order.name)}" leading to inode ${order.ino} in its place`);
    }
  }
  if (entry.cookie <= 2) wrong("order", `its place in the listing, ${entry.cookie}, belongs to "." or ".."`);
  const inode = reader.read(inodeKey(entry.ino), (value) => decodeInode(entry.ino, value));
  if (inode === undefined) {
    wrong("entry", `it leads to inode ${entry.ino}, which is not there`);
    return undefined;
  }
  if (inode === "damaged") {
    run.report({ kind: "record", detail: "its inode can't be read", path: pathOf(child), ino: entry.ino });
    return undefined;
  }
  const type = (inode.mode >>> 12) & 15;
  if (type !== entry.type) wrong("entry", `it says that it is of type ${entry.type}, and is of type ${type}`);
  if (type === DT_DIR && inode.parent !== parent) {
    wrong("entry", `the directory says that it is in inode ${inode.parent}, and is in ${parent}`);
  }
  return inode;
}

/** An inode by itself, and its blocks. */
async function* checkInode(
  run: FsckContext,
  blockChecks: BlockChecks,
  place: Place,
  inode: InodeRecord,
): AsyncGenerator<void> {
  const { reader, request } = run;
  if (request.root !== undefined) run.inodes++;
  const path = () => pathOf(place);
  const { ino, version } = inode;
  if (inode.hasXattrs && reader.get(xattrsKey(ino)) === undefined) {
    const detail = "its extended attributes are not there";
    run.report({ kind: "xattrs", detail, ino, path: path(), hint: { key: xattrsKey(ino), version } });
  }
  if ((inode.mode & S_IFMT) === S_IFREG) yield* checkBlockMap(run, blockChecks, inode, path);
}

/** Unlinked files that somebody has open have blocks as well. */
async function* checkUnlinked(run: FsckContext, blockChecks: BlockChecks): AsyncGenerator<void> {
  const seen = new Set<InodeId>();
  for await (const page of run.reader.pages(tableRange(TABLE_ORPHAN))) {
    for (const [key] of page) {
      const ino = inoAt(key, 9);
      const inode = run.reader.inode(ino);
      if (seen.has(ino) || inode === undefined || inode === "damaged" || inode.nlink > 0) continue;
      seen.add(ino);
      if ((inode.mode & S_IFMT) === S_IFREG) yield* checkBlockMap(run, blockChecks, inode, undefined);
    }
    yield;
  }
}
