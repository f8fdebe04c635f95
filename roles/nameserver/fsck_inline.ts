/** Checks the data that is kept beside inodes against them (inline_data.ts says what must hold), and repairs what is not so. */

import { bytesOf } from "../../base/bytes.ts";
import { ROOT_INODE, type SessionId } from "../../wire/ids.ts";
import { S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import type { FsckProblem, FsckRepaired } from "../../wire/messages/fsck.ts";
import { extentsIn } from "./extents.ts";
import type { FsckContext, FsckParts } from "./fsck_context.ts";
import { GONE, refused, repaired } from "./fsck_outcomes.ts";
import { inoAt } from "./fsck_reader.ts";
import { adopt, changeInode } from "./fsck_repair_inodes.ts";
import { inlineKey, TABLE_INLINE, tableRange } from "./keys.ts";
import { blankInode } from "./operations.ts";
import { type InodeRecord, isDirectory } from "./records.ts";
import { nameItem } from "./replies.ts";

const NOT_THERE = "is not there: restore the file from a copy";

/** Each record belongs to a file that knows of it. Gives how many there are, and their bytes. */
export async function* checkInlineTable(
  run: FsckContext,
): AsyncGenerator<void, { readonly files: number; readonly bytes: number }> {
  let files = 0;
  let bytes = 0;
  for await (const page of run.reader.pages(tableRange(TABLE_INLINE))) {
    for (const [key, { length }] of page) {
      files++;
      bytes += length;
      const ino = inoAt(key, 1);
      const inode = run.reader.inode(ino);
      if (inode === "damaged" || inode !== undefined && inode.inlineBytes > 0) continue;
      const detail = inode === undefined
        ? `${length} bytes of inode ${ino}, which is not there`
        : `${length} bytes are kept beside it, of which it does not know`;
      const problem = { kind: "inline", detail, ino, hint: { key } } as const;
      if (inode === undefined) run.report(problem);
      else run.reportWhenNamed(problem);
    }
    yield;
  }
  return { files, bytes };
}

/** What a file says of its data is so, and it has it in one place. `path`: absent of a file without a name. */
export function checkInline(
  run: FsckContext,
  inode: InodeRecord,
  path: (() => Uint8Array) | undefined,
): void {
  const { ino, inlineBytes, size } = inode;
  if (inlineBytes === 0) return;
  const key = inlineKey(ino);
  const wrong = (detail: string) =>
    run.report({ kind: "inline", detail, ino, ...path === undefined ? {} : { path: path() }, hint: { key } });
  const length = run.reader.get(key)?.length;
  if (length === undefined) wrong(`its data, ${inlineBytes} bytes beside it, is not there`);
  else if (length !== inlineBytes) {
    wrong(`it says that ${inlineBytes} bytes are kept beside it, and it is ${length}`);
  }
  if (inlineBytes > size) wrong(`${inlineBytes} bytes are kept beside it, of a size of ${size}`);
  const hasBlocks = inode.pages.some(({ page }) => {
    const extents = run.reader.page(ino, page);
    return Array.isArray(extents) && extents.some(({ written }) => written);
  });
  if (hasBlocks) wrong("it has data beside it as well as in blocks");
}

/** Nothing is taken away: what belongs to no inode becomes a file in /lost+found. */
export function repairInline(parts: FsckParts, problem: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  const { ino, hint } = problem;
  if (ino === undefined || hint?.key?.[0] !== TABLE_INLINE) return GONE;
  if (parts.namespace.begin().findInode(ino) === undefined) return adoptInline(parts, problem);
  return changeInode(parts, { ...problem, hint: {} }, (tx, inode) => {
    const length = tx.get(inlineKey(ino))?.length;
    const isFile = !isDirectory(inode) && (inode.mode & S_IFMT) === S_IFREG;
    if (length === undefined) return inode.inlineBytes === 0 ? GONE : refused(`its data ${NOT_THERE}`);
    if (!isFile) return refused("it is no file: what these bytes are can't be told");
    if (extentsIn(tx, inode, 0, Infinity, Infinity).some(({ written }) => written)) {
      return refused("which of them is its data can't be told: restore the file from a copy");
    }
    if (inode.inlineBytes === length && inode.size >= length) return GONE;
    tx.change(inode);
    inode.inlineBytes = length;
    inode.size = Math.max(inode.size, length);
    return repaired("it knows of all its data again");
  });
}

function adoptInline({ namespace, leaseserver }: FsckParts, { ino }: FsckProblem): Promise<FsckRepaired> {
  const items = [nameItem(ROOT_INODE, bytesOf("lost+found"))];
  return leaseserver.leases.change(0 as SessionId, items, () =>
    namespace.change((tx) => {
      const length = tx.get(inlineKey(ino!))?.length;
      if (length === undefined || tx.findInode(ino!) !== undefined) return GONE;
      const inode = blankInode(ino!, S_IFREG | 0o600, tx.now);
      inode.nlink = 0;
      inode.size = inode.inlineBytes = length;
      tx.addInode(inode);
      return adopt(tx, inode);
    }));
}
