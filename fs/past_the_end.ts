/**
 * What a mapping has stored into the last page past the end of its file. Of a page that is written back the kernel cuts
 * it off; a page that is dirty while the file grows would bring it as data, where local file systems have zeros.
 *
 * - Before a write or fallocate(2) makes the file longer, the kernel writes that page back and drops it.
 * - A truncate can't have that done: the kernel writes nothing of the file back until it is answered. But then it writes
 *   back and drops all pages at once, and whoever stores into that page afterwards has it read before. So until it is
 *   read, what comes of it is from before, and those bytes are zeros.
 */

import { pagesOf } from "./data_access.ts";
import type { Inode, OpenFile } from "./inode.ts";
import type { ByteRange } from "./pending_write.ts";
import type { KernelCache } from "./kernel_cache.ts";

/**
 * The file is about to grow, and the kernel writes back what it has of it from `from` on by itself. Outside of accesses:
 * the kernel waits for those that bring the page, or write it.
 */
export function beforeGrowth(
  kernelCache: KernelCache,
  { inode, size }: OpenFile,
  from: number,
): Promise<void> | undefined {
  const page = pagesOf(size, 0);
  if (!inode.hasPages || page.start === size || from < page.end) return undefined;
  return kernelCache.dropRanges(inode, [page]);
}

/** Of a file that a truncate to `size` is about to be asked for; what it gives is to be called when it was done. */
export function beforeTruncate(inode: Inode | undefined, size: number): () => void {
  if (inode === undefined || inode.file === null) return () => {};
  const { file, grants } = inode;
  const start = file.size;
  // Without a lease there is no page; and if another client had its turn, those that there were have gone.
  const hasPages = inode.hasPages && inode.lease !== "none";
  return () => {
    const isGrowth = size > start && start < pagesOf(start, 0).end;
    file.stale = isGrowth && hasPages && inode.grants === grants
      ? { start, end: Math.min(size, pagesOf(start, 0).end) }
      : null;
  };
}

/** Pages are read: what they are written back with afterwards is new. */
export function pagesRead(file: OpenFile, { start, end }: ByteRange): void {
  if (file.stale !== null && start < file.stale.end && file.stale.start < end) file.stale = null;
}

/** Pages are written back. */
export function pagesWritten(file: OpenFile, offset: number, data: Uint8Array): void {
  const { stale } = file;
  if (stale === null || offset >= stale.end || offset + data.length <= stale.start) return;
  data.fill(0, Math.max(0, stale.start - offset), stale.end - offset);
  file.stale = null;
}
