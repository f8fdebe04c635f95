/**
 * What is given back by itself: leases on inodes that the kernel has forgotten, write leases on files that were closed,
 * and that they are closed. Told in batches, about once a second, as nobody waits for it.
 *
 * Invariants:
 * - What is told is what is so when it is sent; nothing that the server granted before counts afterwards
 *   (`InodeTable.noteRecall`), and what was not heard is looked at anew.
 * - An inode that was said to be open here, though it was not, is released.
 */

import type { Logger } from "../base/log.ts";
import { type InodeId, ROOT_INODE } from "../wire/ids.ts";
import type { LeaseMode } from "../wire/messages/inode.ts";
import { type Held, RECLAIM_MAX } from "../wire/messages/nameserver.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { InodeTable } from "./inode_table.ts";
import type { Inode, OpenFile } from "./inode.ts";
import type { Strays } from "./strays.ts";

const BATCH = 1_024;

export interface ReleasesOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly log: Logger;
  readonly strays: Strays;
  /** What was written here stays this mount's alone, if nobody else asks for it: it may change it without asking. */
  readonly keepsExclusive?: boolean;
}

export class Releases {
  readonly #options: ReleasesOptions;
  readonly #queue = new Set<InodeId>();
  /** Files that were made with a block, as long as nothing is known to be in it. */
  readonly #unused = new WeakSet<OpenFile>();
  readonly #unusedClosed = new Set<InodeId>();
  #sending: Promise<void> = Promise.resolve();
  #creating = 0;
  /** Inodes said to be open, as a creation under way may open them. */
  readonly #supposed = new Set<InodeId>();

  constructor(options: ReleasesOptions) {
    this.#options = options;
  }

  /** The kernel knows the inode no more. */
  forgotten(inode: Inode): void {
    if (inode.file === null) this.#add(inode.ino);
  }

  /** The last handle of the file was closed. */
  closed(inode: Inode, file: OpenFile): void {
    if (this.#unused.has(file) && inode.attributes.size === 0) this.#unusedClosed.add(inode.ino);
    else this.#unusedClosed.delete(inode.ino);
    if (inode.isRegistered || inode.lease === "write" || inode.lookups === 0) this.#add(inode.ino);
  }

  /** The file has a block that nothing was written to yet. */
  noteUnused(file: OpenFile, hasBlock: boolean): void {
    if (hasBlock) this.#unused.add(file);
  }

  /** A creation is under way; which inode it opens is not known before its end. */
  beginCreate(): { end(ino?: InodeId): void } {
    this.#creating++;
    let isEnded = false;
    return {
      end: (ino) => {
        if (isEnded) return;
        isEnded = true;
        this.#creating--;
        if (ino !== undefined && this.#supposed.delete(ino)) {
          const inode = this.#options.table.get(ino);
          if (inode !== undefined) inode.isRegistered = true; // the server takes it for open
        }
        if (this.#creating > 0) return;
        for (const supposed of this.#supposed) {
          const inode = this.#options.table.get(supposed);
          if (inode !== undefined) inode.isRegistered = true; // it was looked up meanwhile
          this.#add(supposed);
        }
        this.#supposed.clear();
      },
    };
  }

  /** Asked about an inode that is not known here: may a creation under way open it? */
  mayBeOpening(ino: InodeId): boolean {
    if (this.#creating === 0) return false;
    this.#supposed.add(ino);
    return true;
  }

  #add(ino: InodeId): void {
    this.#queue.add(ino);
    if (this.#queue.size >= BATCH) void this.send();
  }

  /** Tells what there is to tell; resolves when it was heard. Never rejects. */
  send(): Promise<void> {
    const early: InodeId[] = [];
    while (this.#queue.size > 0) {
      const batch = [...this.#queue].slice(0, RECLAIM_MAX);
      for (const ino of batch) this.#queue.delete(ino);
      const unused: InodeId[] = [];
      const held = batch.flatMap((ino) => {
        // The server may not know it yet.
        if ((this.#options.table.get(ino)?.deferred ?? 0) === 0) return this.#lower(ino, unused);
        early.push(ino);
        return [];
      });
      if (held.length === 0) continue;
      const sent = this.#options.session.release(held, unused).catch((error) => {
        this.#options.log.debug("releases were not told", { count: held.length, error });
        for (const { ino } of held) {
          const inode = this.#options.table.get(ino);
          if (inode !== undefined) inode.isRegistered = true;
          this.#queue.add(ino);
        }
        for (const ino of unused) this.#unusedClosed.add(ino);
      });
      this.#sending = Promise.all([this.#sending, sent]).then(() => {});
    }
    for (const ino of early) this.#queue.add(ino);
    return this.#sending;
  }

  /** Gives back what is not needed any more of an inode, and says what is left. */
  #lower(ino: InodeId, unused: InodeId[]): Held[] {
    const { table } = this.#options;
    const inode = table.get(ino);
    if (inode !== undefined && inode.file !== null) return []; // it is open again, or closing
    if (inode === undefined) {
      table.noteRecall(ino);
      return [this.#held(ino, "none")];
    }
    if (inode.isHeldWithoutName && inode.lookups > 0) return []; // as if it were open
    const isKept = inode.lookups > 0 && inode.lease !== "write"; // the kernel has looked it up again
    if (isKept && !inode.isRegistered && !this.#unusedClosed.has(ino)) return [];
    const isHeld = inode.lease !== "none" || inode.isRegistered;
    table.noteRecall(ino);
    inode.isRegistered = false;
    if (inode.lookups === 0 && ino !== ROOT_INODE) {
      inode.forgetAll();
      table.remove(inode);
    } else if (inode.lease === "write") {
      inode.lease = this.#options.keepsExclusive === true ? "exclusive" : "read";
    }
    if (this.#unusedClosed.delete(ino)) {
      unused.push(ino);
      inode.blocks?.clear();
    }
    return isHeld ? [this.#held(ino, inode.lease)] : [];
  }

  #held(ino: InodeId, lease: LeaseMode): Held {
    return { ino, lease, open: "no", ...this.#options.strays.has(ino) ? { doubtful: true } : {} };
  }
}
