/**
 * Reading ahead in directories: who has looked up some names of one will look up more, and asking for each takes a message.
 * So what is in it, with small files' data, is fetched in growing pages, beside the lookups. What is all there then also
 * tells which names are absent.
 *
 * Invariants:
 * - Nobody waits for it, and it takes nothing from anybody: what another mount has alone is left out.
 * - What the kernel was not told of is given back after KEPT_MS, and there are at most KEPT_MAX of it.
 */

import { bytesKey } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { InodeId } from "../wire/ids.ts";
import type { InodeReply } from "../wire/messages/inode.ts";
import { wishesWithin } from "./claims.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { FileReadAhead } from "./file_read_ahead.ts";
import type { Inode } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";
import type { Releases } from "./releases.ts";

/** Names that were asked for one by one, after which more are fetched. */
const MISSES_MIN = 3;
const ENTRIES_MIN = 128;
const ENTRIES_MAX = 1_024;
/** Entries begin behind the cookies of "." and "..". */
export const COOKIE_SELF = 1;
export const COOKIE_PARENT = 2;
/**
 * Of small files' data in one answer: of as many files as the first page has. It is wanted where they are all read, and not
 * where they are only looked at.
 */
export const INLINE_BYTES = 512 * 1024;
const KEPT_MS = 3_000;
const KEPT_MAX = 8_192;

export interface NameReadAheadOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly releases: Releases;
  /** Told of what was listed together. */
  readonly fileAhead?: FileReadAhead;
  readonly clock: Clock;
  readonly log: Logger;
}

/** How it goes with a directory. */
interface Progress {
  /** `Inode.grants` of the directory: what was fetched under an earlier lease is gone. */
  grants: number;
  misses: number;
  /** Where the next page begins; null: there is none. */
  cookie: number | null;
  limit: number;
  /** Entries of the last page, and those of all that were asked for since it came. */
  fetched: number;
  hits: number;
  /** Since when it is read without a gap (`InodeTable.moment`). */
  since: number;
  isFetching: boolean;
}

export class NameReadAhead {
  readonly #options: NameReadAheadOptions;
  readonly #progress = new WeakMap<Inode, Progress>();
  /** What the kernel was not told of, since when, and where it is; the oldest first. */
  readonly #kept = new Map<Inode, { readonly sinceMs: number; readonly directory: InodeId }>();

  constructor(options: NameReadAheadOptions) {
    this.#options = options;
  }

  /** A name of the directory is asked of the nameserver. */
  missed(directory: Inode): void {
    if (directory.lease === "none" || directory.isComplete) return;
    const progress = this.#progressOf(directory);
    progress.misses++;
    if (progress.misses >= MISSES_MIN && progress.cookie === COOKIE_PARENT) {
      void this.#fetch(directory, progress);
    }
  }

  /** The kernel is told of an inode that was found without asking. */
  found(inode: Inode): void {
    const kept = this.#kept.get(inode);
    if (kept === undefined) return;
    this.#kept.delete(inode);
    const directory = this.#options.table.get(kept.directory);
    const progress = directory === undefined ? undefined : this.#progress.get(directory);
    if (progress === undefined) return;
    progress.hits++;
    const isWorthwhile = progress.fetched > 0 && progress.hits * 2 >= progress.fetched;
    if (isWorthwhile) void this.#fetch(directory!, progress);
  }

  #progressOf(directory: Inode): Progress {
    let progress = this.#progress.get(directory);
    if (progress === undefined || progress.grants !== directory.grants) {
      progress = {
        ...{ grants: directory.grants, misses: 0, cookie: COOKIE_PARENT, limit: ENTRIES_MIN },
        ...{ fetched: 0, hits: 0, since: 0, isFetching: false },
      };
      this.#progress.set(directory, progress);
    }
    return progress;
  }

  async #fetch(directory: Inode, progress: Progress): Promise<void> {
    const { session, table, log } = this.#options;
    const { cookie, limit } = progress;
    if (progress.isFetching || cookie === null || progress.grants !== directory.grants) return;
    progress.isFetching = true;
    const { ino } = directory;
    const askedAt = table.moment;
    if (cookie === COOKIE_PARENT) progress.since = askedAt;
    try {
      const { entries, end, directory: lease } = await session.nameserver.readDirectory({
        ...{ ino, cookie, limit, withInodes: true, inlineBytes: INLINE_BYTES, ahead: true },
        ...wishesWithin(directory),
      });
      progress.cookie = null;
      if (table.get(ino) !== directory || !table.adoptLease(directory, lease, askedAt)) return;
      const inodes: Inode[] = [];
      for (const { name, ino: child, inode, cookie: at } of entries) {
        if (!directory.setEntry(bytesKey(name), child)) return;
        if (inode !== undefined) inodes.push(this.keep(ino, inode, askedAt));
        if (!end) progress.cookie = at;
      }
      this.listed(inodes);
      if (end && !table.isCrossed(ino, progress.since)) directory.isComplete = true;
      progress.fetched = entries.length;
      progress.hits = 0;
      progress.limit = Math.min(limit * 2, ENTRIES_MAX);
    } catch (error) {
      progress.cookie = null;
      log.debug("a directory could not be read ahead", { ino, error });
    } finally {
      progress.isFetching = false;
      this.sweep();
    }
  }

  /** What one answer has of a directory, in its order. */
  listed(inodes: readonly Inode[]): void {
    this.#options.fileAhead?.listed(inodes);
  }

  /** Takes over an inode of which the kernel is told later, or not at all. */
  keep(directory: InodeId, reply: InodeReply, askedAt: number): Inode {
    const { table } = this.#options;
    const isNew = table.get(reply.attributes.ino) === undefined;
    const inode = table.adopt(reply, askedAt);
    if (isNew) this.noteUntold(inode, directory);
    return inode;
  }

  /** The kernel was not told of it: it is given back if nobody asks for it soon. */
  noteUntold(inode: Inode, directory: InodeId): void {
    this.#kept.set(inode, { sinceMs: this.#options.clock.monotonicMs(), directory });
  }

  /** Gives back what the kernel did not ask for. */
  sweep(): void {
    const beforeMs = this.#options.clock.monotonicMs() - KEPT_MS;
    for (const [inode, { sinceMs }] of this.#kept) {
      if (sinceMs > beforeMs && this.#kept.size <= KEPT_MAX) return;
      this.#kept.delete(inode);
      if (inode.lookups === 0) this.#options.releases.forgotten(inode);
    }
  }
}
