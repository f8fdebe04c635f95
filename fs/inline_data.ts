/**
 * Data of small files that the nameserver keeps itself: what it is, whether a write becomes part of it, and reading it. Such
 * a file has no block with data. The writer reports what is written, and moves all to a block once it grows over the limit.
 * Used within an access (data_access.ts), which holds a lease.
 */

import { EMPTY_BYTES } from "../base/bytes.ts";
import { FsError } from "../wire/errno.ts";
import type { Blocks } from "./blocks.ts";
import { CacheCount } from "./cache_counts.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { InlineBuffer } from "./inline_buffer.ts";
import type { InodeTable } from "./inode_table.ts";
import type { OpenFile } from "./inode.ts";
import type { Interruptible } from "./interruptible.ts";

/** Files with data that is not reported yet; with more of them each write is reported at once. */
const BUFFERED_FILES_MAX = 1_024;
const TRIES_MAX = 5;

export interface InlineDataOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly blocks: Blocks;
}

export class InlineData {
  readonly #options: InlineDataOptions;
  readonly #buffered = new Set<OpenFile>();
  /** Reads of data that is kept so. */
  readonly cache = new CacheCount();

  constructor(options: InlineDataOptions) {
    this.#options = options;
  }

  /** What is read of [start, end), which ends within the file; undefined: its data is not kept so any more. */
  async read(
    file: OpenFile,
    start: number,
    end: number,
    interrupt?: Interruptible,
  ): Promise<Uint8Array[] | undefined> {
    const { tenure } = file;
    if (!isKnown(file)) this.cache.misses++;
    else if (file.inlineBytes > 0) this.cache.hits++;
    // Again, as it may have been forgotten in the steps until here.
    while (!isKnown(file) && file.tenure === tenure) await this.#fetch(file, interrupt);
    if (file.inlineBytes === 0) return undefined;
    const { inode, inline } = file;
    // A copy of what writes go on changing. Where the session was lost meanwhile, the read is made again.
    const data = inline?.slice(start, end) ?? inode.inline?.subarray(start, end) ?? EMPTY_BYTES;
    if (inline === null && inode.inline !== null) this.#options.table.inline.keep(inode, inode.inline);
    const rest = end - start - data.length;
    return rest === 0 ? [data] : [data, new Uint8Array(rest)];
  }

  /** The nameserver has some of it, or may have: a report of it has left. */
  isKept({ inode, inline }: OpenFile): boolean {
    return (inode.attributes.inlineBytes ?? 0) > 0 || inline?.isReported === true;
  }

  /** A copy of all of it. */
  async copy(file: OpenFile, interrupt?: Interruptible): Promise<Uint8Array> {
    const [data = EMPTY_BYTES] = await this.read(file, 0, file.inlineBytes, interrupt) ?? [];
    return data;
  }

  /** Why it can't be said yet whether a write up to `end` becomes part of it: `learn` finds out. */
  isUnknown(file: OpenFile, end: number): boolean {
    if (file.inlineBytes > 0) return !isKnown(file);
    return this.#mayBegin(file, end) && !file.blocks.knows(0, this.#options.session.inlineLimit);
  }

  async learn(file: OpenFile): Promise<void> {
    const { blocks, session } = this.#options;
    if (file.inlineBytes > 0) await this.#fetch(file);
    else await blocks.know(file, 0, session.inlineLimit);
  }

  /** A write up to `end` becomes part of it. */
  takes(file: OpenFile, end: number): boolean {
    const { inlineLimit } = this.#options.session;
    if (file.inlineBytes > 0) return end <= Math.max(inlineLimit, file.inlineBytes);
    return this.#mayBegin(file, end) && file.blocks.isEmpty(inlineLimit);
  }

  /** The file has no data that we know of, and is not getting any. */
  #mayBegin(file: OpenFile, end: number): boolean {
    const { inlineLimit } = this.#options.session;
    return Math.max(end, file.size) <= inlineLimit && !file.isOutgrown && file.pending.size === 0 &&
      file.written.size === 0 && file.reserved.size === 0;
  }

  /** Puts a write into what is there, at once. True: too many files have something to report. */
  write(file: OpenFile, offset: number, data: Uint8Array): boolean {
    const { inode } = file;
    file.inline ??= new InlineBuffer(file.inlineBytes > 0 ? inode.inline! : EMPTY_BYTES);
    file.inline.write(offset, data);
    this.#buffered.add(file);
    if (this.#buffered.size <= BUFFERED_FILES_MAX) return false;
    for (const one of this.#buffered) {
      if (one.inline === null) this.#buffered.delete(one);
    }
    return this.#buffered.size > BUFFERED_FILES_MAX;
  }

  /** What was written is reported: it is as if it had been read, unless more came. */
  reported(file: OpenFile): void {
    const { inode, inline } = file;
    if (inline === null || !inline.isClean) return;
    file.inline = null;
    this.#buffered.delete(file);
    if (inode.lease !== "none") this.#options.table.inline.keep(inode, inline.slice());
  }

  async #fetch(file: OpenFile, interrupt?: Interruptible): Promise<void> {
    const { session, table } = this.#options;
    const { inode, tenure } = file;
    for (let tries = 1; !isKnown(file); tries++) {
      const { ino } = file;
      const fetchedAt = table.moment;
      const { inline } = await session.nameserver.blocks({ ino, offset: 0, length: 1 }, interrupt);
      if (file.tenure !== tenure) return; // whoever reads asks again, whoever writes has failed
      if (inline !== undefined && fetchedAt >= inode.handedOverAt) table.inline.keep(inode, inline);
      if (isKnown(file)) return;
      if (tries === TRIES_MAX) {
        throw new FsError("EIO", `the data of inode ${ino} is not there`, { op: "read" });
      }
      const askedAt = table.moment;
      table.adopt(await session.nameserver.getattr({ ino }, interrupt), askedAt);
      if (file.tenure !== tenure) return;
    }
  }
}

function isKnown({ inode, inline, inlineBytes }: OpenFile): boolean {
  return inline !== null || inlineBytes === 0 || inode.inline?.length === inlineBytes;
}
