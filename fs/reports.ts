/**
 * Tells the nameserver what was written to a file: size, times, blocks that hold data, and small files' data itself.
 *
 * Invariants:
 * - A report leaves when everything accepted before is on the replicas; but one beside a write that needs no report to be found.
 * - Reports of one file leave one after the other.
 */

import { type Timespec, timespecCompare } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { asFsError } from "../wire/errno.ts";
import type { BlockId } from "../wire/ids.ts";
import type { Attributes } from "../wire/messages/inode.ts";
import { demandTenure } from "./blocks.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { InlineData } from "./inline_data.ts";
import type { InodeTable } from "./inode_table.ts";
import type { LocalChanges } from "./local_changes.ts";
import type { BlockNote, Inode, OpenFile } from "./inode.ts";
import type { PendingWrite } from "./pending_write.ts";

export interface ReportsOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  /** The nameserver made something else of a commit than was shown before. Must not wait. */
  readonly attributesChanged: (inode: Inode) => void;
  readonly inline: InlineData;
  /** As NamesOptions'. */
  readonly local?: Pick<LocalChanges, "report"> | undefined;
  readonly log: Logger;
}

interface CommitOptions {
  readonly durable: boolean;
  readonly onSent?: () => void;
  readonly beside?: PendingWrite;
  readonly isBeforeChange?: boolean;
}

/** What a commit says of a file. */
interface Report {
  readonly reach: number;
  readonly mtime: Timespec;
  readonly killSuidGid: boolean;
  readonly written: ReadonlyMap<BlockId, BlockNote>;
  readonly reserved: ReadonlyMap<BlockId, BlockNote>;
  readonly outgrown: boolean;
}

export class Reports {
  readonly #options: ReportsOptions;

  constructor(options: ReportsOptions) {
    this.#options = options;
  }

  /**
   * Everything written so far is on the replicas, and the nameserver knows it, or is told before it is asked for anything else
   * (`ClusterSession.settle`). `durable`: it is on its disk, too. `beside`: does not wait for that write, which nothing is to be
   * reported of but times.
   */
  commit(file: OpenFile, durable: boolean, beside?: PendingWrite): Promise<void> {
    return this.#inTurn(file, { durable, ...beside === undefined ? {} : { beside } });
  }

  /** As `commit`, before a change of ours that comes on top: the report waits for that one, where both can be deferred. */
  commitBeforeChange(file: OpenFile): Promise<void> {
    return this.#inTurn(file, { durable: false, isBeforeChange: true });
  }

  #inTurn(file: OpenFile, options: CommitOptions): Promise<void> {
    const run = file.committing.then(() => this.#commit(file, options));
    file.committing = run.catch(() => {});
    return run;
  }

  /**
   * As `commit`, but resolves as soon as the report has left: whoever hears from us after that on the same connection, such as
   * by the answer to a recall, finds it made. How it went is the file's to tell, and `Inode.handingOver` waits for it.
   */
  handOver(file: OpenFile): Promise<void> {
    const { inode } = file;
    const { promise: sent, resolve } = Promise.withResolvers<void>();
    const run = file.committing.then(() => this.#commit(file, { durable: false, onSent: resolve })).catch(
      (error) => {
        this.#options.log.error("written data is lost: it could not be reported before its lease ended", {
          ino: file.ino,
          error,
        });
        file.fail(asFsError(error, "commit"));
        file.abandon();
      },
    ).finally(() => {
      resolve();
      if (inode.handingOver === run) inode.handingOver = null;
    });
    file.committing = run;
    inode.handingOver = run;
    return sent;
  }

  async #commit(
    file: OpenFile,
    { durable, onSent, beside, isBeforeChange = false }: CommitOptions,
  ): Promise<void> {
    await file.settled(0, Infinity, beside);
    const { unsyncedReports } = file;
    const synced = () => file.unsyncedReports = Math.max(0, file.unsyncedReports - unsyncedReports);
    if (!file.dirty) {
      if (!durable) return;
      await this.#options.session.nameserver.sync({ ino: file.ino });
      synced();
      return;
    }
    if (!durable) file.unsyncedReports++;
    const { session, table, attributesChanged } = this.#options;
    const askedAt = table.moment;
    const report: Report = {
      reach: file.reach,
      mtime: file.mtime,
      killSuidGid: file.killSuidGid,
      written: new Map(file.written),
      reserved: new Map(file.reserved),
      outgrown: file.isOutgrown,
    };
    const inline = file.inline?.take();
    const { reach, mtime, killSuidGid } = report;
    const written = [...report.written].map(([block, { start, allocated }]) => ({
      block,
      start,
      ...allocated === undefined ? {} : { allocated },
    }));
    const reserved = [...report.reserved].map(([block, { start, allocated = 0 }]) => ({
      block,
      start,
      allocated,
    }));
    const { tenure } = file;
    const shown = file.shown();
    const told = {
      ...{ size: reach, mtime, killSuidGid, written },
      ...reserved.length === 0 ? {} : { reserved },
      ...report.outgrown ? { outgrown: true as const } : {},
      ...inline === undefined || inline.ranges.length === 0
        ? {}
        : { inline: inline.ranges, body: inline.body },
    };
    const mayWait = !durable && onSent === undefined && beside === undefined;
    if (mayWait && this.#options.local?.report(file, told, isBeforeChange) === true) {
      this.#reported(file, report, undefined);
      return;
    }
    let isSent = false;
    const leaves = () => {
      demandTenure(file, tenure);
      if (onSent === undefined) return;
      const { inode } = file;
      // Invariant: an answer to what was asked before it left last is from before it. It may leave again, when its connection
      // has ended, and behind what was asked meanwhile.
      table.noteRecall(inode.ino);
      inode.handedOverAt = table.moment;
      if (isSent) return file.blocks.changed();
      isSent = true;
      // From here on it is the server's: what it makes of it is asked when somebody wants to know.
      inode.attributes = shown;
      inode.forgetAttributes();
      this.#reported(file, report, beside);
      onSent();
    };
    const reply = await session.flushChange((retry) =>
      session.commit({ retry, ino: file.ino, durable, ...told }, leaves)
    ).catch((error) => {
      if (inline !== undefined) file.inline?.putBack(inline.ranges);
      throw error;
    });
    demandTenure(file, tenure);
    if (durable) synced();
    if (onSent === undefined) {
      this.#reported(file, report, beside);
      table.adopt(reply, askedAt);
    } else {
      // What it says of a lease is from before the one was given back.
      table.adoptKnown({ ...reply, lease: "none" }, table.moment);
    }
    if (!isShownRight(shown, file.shown())) attributesChanged(file.inode);
  }

  /** The file has nothing more to report of this, unless writes came meanwhile. */
  #reported(
    file: OpenFile,
    { reach, mtime, written, reserved, outgrown }: Report,
    beside: PendingWrite | undefined,
  ): void {
    if (outgrown) file.isOutgrown = false;
    this.#options.inline.reported(file);
    for (const [notes, told] of [[file.written, written], [file.reserved, reserved]] as const) {
      for (const [id, note] of told) {
        if (notes.get(id) === note) notes.delete(id);
        const known = file.blocks.at(note.start);
        if (known?.id !== id) {
          // What is being learned of it may be from before the report, and the note of it is gone.
          file.blocks.changed();
          continue;
        }
        const { allocated: _, ...block } = known;
        file.blocks.put({
          ...block,
          written: known.written || told === written,
          ...note.allocated === undefined ? {} : { allocated: note.allocated },
        });
      }
    }
    const isSettled = [...file.pending].every((write) => write === beside);
    const isClean = file.written.size === 0 && file.reserved.size === 0 && isSettled &&
      file.inline === null && !file.isOutgrown && file.reach === reach && file.mtime === mtime;
    if (!isClean) return;
    file.dirty = false;
    file.killSuidGid = false;
  }
}

function isShownRight(shown: Attributes, now: Attributes): boolean {
  return shown.size === now.size && shown.allocatedBytes === now.allocatedBytes && shown.mode === now.mode &&
    timespecCompare(shown.mtime, now.mtime) === 0 && timespecCompare(shown.ctime, now.ctime) === 0;
}
