/** A writer's report of a file, applied to the tree. Who may write is the caller's to know. */

import { timespecCompare } from "../../base/clock.ts";
import type { WriteReport } from "../../wire/messages/write_report.ts";
import { markReserved, markWritten, regularFile } from "./block_operations.ts";
import { commitInline } from "./inline_data.ts";
import * as operations from "./operations.ts";
import type { Extent, InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

/** The inode as it is then, and the blocks that have data by that for the first time. */
export function applyReport(
  tx: Transaction,
  report: WriteReport,
  inlineLimit: number,
): { readonly inode: InodeRecord; readonly written: readonly Extent[] } {
  const inode = regularFile(tx, report.ino);
  tx.change(inode);
  commitInline(tx, inode, report, inlineLimit);
  operations.grow(tx, inode, report.size);
  const written = markWritten(tx, inode, report.written);
  markReserved(tx, inode, report.reserved ?? []);
  if (report.killSuidGid) operations.killSuidGid(inode);
  // As the writer has shown it since: a flush must not look like another change.
  inode.mtime = report.mtime;
  if (timespecCompare(report.mtime, inode.ctime) > 0) inode.ctime = report.mtime;
  return { inode, written };
}
