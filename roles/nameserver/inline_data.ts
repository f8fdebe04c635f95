/**
 * Data of small files, kept beside their inodes so that no dataserver is involved: one record a file, written in the batch
 * that changes the inode. It is as safe as the metadata, and `Journal.durable` is its fsync.
 *
 * Invariants:
 * - `inode.inlineBytes` is the length of the record, and there is none when it is 0.
 * - It is at most the file's size, and what follows it reads as zeros.
 * - A file that has some has no block with data: a commit that says so of a block (`outgrown`) drops it in the same batch.
 * - It grows up to the limit only: its writer moves it to a block before. The size may be any: a truncate makes a hole behind.
 */

import { copyBytes, EMPTY_BYTES } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { INLINE_BYTES_MAX } from "../../wire/messages/inode.ts";
import type { WriteReport } from "../../wire/messages/write_report.ts";
import { extentsIn } from "./extents.ts";
import { inlineKey } from "./keys.ts";
import type { InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

export const INLINE_LIMIT_DEFAULT = 4096;

/** The bytes, not to be changed; undefined: there are none, or they are not what the inode says (fsck tells). */
export function findInline(tx: Transaction, inode: InodeRecord): Uint8Array | undefined {
  const bytes = inode.inlineBytes === 0 ? undefined : tx.get(inlineKey(inode.ino));
  return bytes?.length === inode.inlineBytes ? bytes : undefined;
}

function inlineData(tx: Transaction, inode: InodeRecord): Uint8Array {
  const bytes = inode.inlineBytes === 0 ? EMPTY_BYTES : findInline(tx, inode);
  if (bytes !== undefined) return bytes;
  throw new FsError("EIO", `the data of inode ${inode.ino} is not there: run mfs fsck`, { op: "inline" });
}

function setInline(tx: Transaction, inode: InodeRecord, bytes: Uint8Array): void {
  tx.count("inlineFiles", (bytes.length > 0 ? 1 : 0) - (inode.inlineBytes > 0 ? 1 : 0));
  tx.count("inlineBytes", bytes.length - inode.inlineBytes);
  if (bytes.length > 0) tx.put(inlineKey(inode.ino), bytes);
  else if (inode.inlineBytes > 0) tx.delete(inlineKey(inode.ino));
  inode.inlineBytes = bytes.length;
}

/** A file that goes, or whose data is in blocks. */
export function dropInline(tx: Transaction, inode: InodeRecord): void {
  setInline(tx, inode, EMPTY_BYTES);
}

/** The file has `size` from now on. */
export function resizeInline(tx: Transaction, inode: InodeRecord, size: number): void {
  if (size < inode.inlineBytes) setInline(tx, inode, copyBytes(inlineData(tx, inode).subarray(0, size)));
}

/**
 * What a commit says of the file's data. EINVAL for what no client asks for: it would leave the file with data in two places.
 * The size is the caller's to raise, to the end of the data at least.
 */
export function commitInline(
  tx: Transaction,
  inode: InodeRecord,
  { inline = [], body = EMPTY_BYTES, outgrown, size, written }: WriteReport,
  limit: number,
): void {
  const endMax = Math.min(Math.max(limit, inode.inlineBytes), INLINE_BYTES_MAX);
  if (outgrown === true) dropInline(tx, inode);
  if (inline.length > 0) {
    const hasBlocks = written.length > 0 ||
      extentsIn(tx, inode, 0, Infinity, Infinity).some((extent) => extent.written);
    if (hasBlocks) throw refused(inode, "has its data in blocks");
    setInline(tx, inode, patched(inode, inlineData(tx, inode), inline, body, Math.min(endMax, size)));
  }
  if (inode.inlineBytes === 0) return;
  if (written.length > 0) throw refused(inode, "has its data beside it");
  if (size > Math.max(endMax, inode.size)) {
    throw refused(inode, `has its data beside it, which a size of ${size} is too large for`);
  }
}

function patched(
  inode: InodeRecord,
  before: Uint8Array,
  ranges: NonNullable<WriteReport["inline"]>,
  body: Uint8Array,
  endMax: number,
): Uint8Array {
  let end = before.length;
  let total = 0;
  for (const { offset, length } of ranges) {
    const isRange = Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(length) && length > 0;
    if (!isRange || offset + length > Math.max(endMax, before.length)) {
      throw refused(inode, `is to get ${length} bytes at ${offset}, with up to ${endMax} possible`);
    }
    end = Math.max(end, offset + length);
    total += length;
  }
  if (total !== body.length) throw refused(inode, `is to get ${total} bytes, and ${body.length} came`);
  const after = new Uint8Array(end);
  after.set(before);
  let at = 0;
  for (const { offset, length } of ranges) {
    after.set(body.subarray(at, at + length), offset);
    at += length;
  }
  return after;
}

function refused({ ino }: InodeRecord, why: string): FsError {
  return new FsError("EINVAL", `inode ${ino} ${why}`, { op: "inline" });
}
