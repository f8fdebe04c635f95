/**
 * The block map of one file: extents in order of their start, kept in pages of at most PAGE_EXTENTS, so that a
 * file of 10,000 blocks costs as much per operation as a small one.
 * Invariants: extents do not overlap; pages are ordered and never empty; `inode.pages[i].first` is the start of
 * the page's first extent; `inode.allocatedBytes` is the sum of what they count (`allocatedOf`).
 */

import { allocatedOf } from "../../wire/messages/inode.ts";
import type { Extent, InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

export const PAGE_EXTENTS = 128;

/** Index into `inode.pages` of the page that would hold an extent starting at `offset`; -1 before the first. */
function pageIndex(inode: InodeRecord, offset: number): number {
  let low = 0;
  let high = inode.pages.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (inode.pages[middle]!.first <= offset) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Index of the last extent that starts at or before `offset`; -1 when all start after it. */
function extentIndex(extents: readonly Extent[], offset: number): number {
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (extents[middle]!.start <= offset) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The last extent that starts at or before `offset`, whether it covers it or not. */
export function extentBefore(tx: Transaction, inode: InodeRecord, offset: number): Extent | undefined {
  const index = pageIndex(inode, offset);
  if (index < 0) return undefined;
  const extents = tx.page(inode.ino, inode.pages[index]!.page);
  return extents[extentIndex(extents, offset)];
}

/** The extent that covers `offset`, or undefined in a hole. */
export function extentAt(tx: Transaction, inode: InodeRecord, offset: number): Extent | undefined {
  const extent = extentBefore(tx, inode, offset);
  return extent !== undefined && offset < extent.start + extent.length ? extent : undefined;
}

/** Start of the first extent that starts after `offset`, or Infinity. */
export function nextStart(tx: Transaction, inode: InodeRecord, offset: number): number {
  const index = pageIndex(inode, offset);
  if (index >= 0) {
    const extents = tx.page(inode.ino, inode.pages[index]!.page);
    const next = extents[extentIndex(extents, offset) + 1];
    if (next !== undefined) return next.start;
  }
  return inode.pages[index + 1]?.first ?? Infinity;
}

/** Up to `limit` extents that overlap [offset, end), in order. */
export function extentsIn(
  tx: Transaction,
  inode: InodeRecord,
  offset: number,
  end: number,
  limit: number,
): Extent[] {
  const found: Extent[] = [];
  for (let index = Math.max(0, pageIndex(inode, offset)); index < inode.pages.length; index++) {
    const ref = inode.pages[index]!;
    if (ref.first >= end) break;
    const extents = tx.page(inode.ino, ref.page);
    for (let i = Math.max(0, extentIndex(extents, offset)); i < extents.length; i++) {
      const extent = extents[i]!;
      if (extent.start >= end || found.length === limit) return found;
      if (extent.start + extent.length > offset) found.push(extent);
    }
  }
  return found;
}

/** Adds an extent into a hole. The inode must already be marked changed. */
export function insertExtent(tx: Transaction, inode: InodeRecord, extent: Extent): void {
  inode.allocatedBytes += allocatedOf(extent, inode.size);
  const index = pageIndex(inode, extent.start);
  if (index < 0) {
    const first = inode.pages[0];
    if (first === undefined) {
      addPage(tx, inode, 0, [extent]);
      return;
    }
    const extents = tx.page(inode.ino, first.page);
    first.first = extent.start;
    storePage(tx, inode, 0, [extent, ...extents]);
    return;
  }
  const extents = tx.page(inode.ino, inode.pages[index]!.page);
  const at = extentIndex(extents, extent.start) + 1;
  storePage(tx, inode, index, [...extents.slice(0, at), extent, ...extents.slice(at)]);
}

/** Puts `extent` in the place of the one with the same start. */
export function replaceExtent(tx: Transaction, inode: InodeRecord, extent: Extent): void {
  const index = pageIndex(inode, extent.start);
  const ref = inode.pages[index]!;
  const extents = tx.page(inode.ino, ref.page);
  const at = extentIndex(extents, extent.start);
  const old = extents[at]!;
  inode.allocatedBytes += allocatedOf(extent, inode.size) - allocatedOf(old, inode.size);
  tx.changePage(inode.ino, ref.page, extents.map((other, i) => i === at ? extent : other));
}

/** Takes the extent that starts at `start` out of the map. */
export function removeExtent(tx: Transaction, inode: InodeRecord, start: number): void {
  const index = pageIndex(inode, start);
  const ref = inode.pages[index]!;
  const extents = tx.page(inode.ino, ref.page);
  const at = extentIndex(extents, start);
  inode.allocatedBytes -= allocatedOf(extents[at]!, inode.size);
  const rest = extents.filter((_, i) => i !== at);
  tx.changePage(inode.ino, ref.page, rest);
  if (rest.length === 0) inode.pages.splice(index, 1);
  else ref.first = rest[0]!.start;
}

/** The size of the file changed from `oldSize` to `inode.size`; keeps `allocatedBytes` right. */
export function resizeAllocated(tx: Transaction, inode: InodeRecord, oldSize: number): void {
  const from = Math.min(oldSize, inode.size);
  for (const extent of extentsIn(tx, inode, from, Infinity, Infinity)) {
    inode.allocatedBytes += allocatedOf(extent, inode.size) - allocatedOf(extent, oldSize);
  }
}

function addPage(tx: Transaction, inode: InodeRecord, index: number, extents: Extent[]): void {
  const page = inode.nextPage++;
  inode.pages.splice(index, 0, { first: extents[0]!.start, page });
  tx.changePage(inode.ino, page, extents);
}

function storePage(tx: Transaction, inode: InodeRecord, index: number, extents: Extent[]): void {
  const ref = inode.pages[index]!;
  if (extents.length <= PAGE_EXTENTS) {
    tx.changePage(inode.ino, ref.page, extents);
    return;
  }
  // A file that grows at its end fills its pages: there, only the new extent moves on.
  const isLast = index === inode.pages.length - 1;
  const cut = isLast ? PAGE_EXTENTS : extents.length >>> 1;
  tx.changePage(inode.ino, ref.page, extents.slice(0, cut));
  addPage(tx, inode, index + 1, extents.slice(cut));
}
