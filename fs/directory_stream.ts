/**
 * One open directory: hands out entries in the order of their cookies. A position is a cookie, so that a listing goes on
 * from where it was while entries come and go.
 * Invariant: what is handed out for a request of the kernel's was fetched for it, by one call (that there is nothing more may be
 * known): the kernel takes names and
 * inodes from a listing into its cache, and must not be given what was true when an earlier part of it was read.
 */

import { bytesKey, bytesOf } from "../base/bytes.ts";
import { isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import { isExclusive } from "../wire/messages/inode.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { InodeTable } from "./inode_table.ts";
import type { Found } from "./inode.ts";
import type { Interruptible } from "./interruptible.ts";

/** Entries asked for at first; most directories are small. */
const FIRST_ENTRIES = 128;
const ENTRIES_MIN = 16;
const ENTRIES_MAX = 2_048;
/** Of the data of small files, which is wanted where they are all read, and not where they are only looked at. */
const INLINE_BYTES = 128 * 1024;
/** Names of a larger directory are not kept for the question whether one is absent. */
const COMPLETE_ENTRIES_MAX = 20_000;
const DT_DIR = 4;
const COOKIE_SELF = 1;
const COOKIE_PARENT = 2;

/** An entry as it is handed out; `found` only with inodes, and if it did not vanish meanwhile. */
export interface ListedEntry {
  readonly name: Uint8Array;
  readonly ino: InodeId;
  readonly type: number;
  readonly cookie: number;
  readonly found?: Found;
}

export class DirectoryStream {
  readonly ino: InodeId;
  /** The kernel keeps what is handed out. */
  readonly isCached: boolean;
  readonly #session: ClusterSession;
  readonly #table: InodeTable;
  /** About as many as the kernel takes: what it does not take is fetched for nothing. */
  #limit = FIRST_ENTRIES;
  /** A reading from the start without a gap: since when, where it stands, and how many entries it has seen. */
  #whole: { readonly since: number; position: number; count: number } | null = null;

  /** There was nothing behind this cookie, and is not while nothing of the directory is taken back, or changed, since. */
  #end: { readonly cookie: number; readonly since: number } | null = null;

  constructor(session: ClusterSession, table: InodeTable, ino: InodeId, isCached: boolean) {
    this.#session = session;
    this.#table = table;
    this.ino = ino;
    this.isCached = isCached;
  }

  /** The kernel asks until nothing comes. */
  #isEnd(cookie: number): boolean {
    if (this.#end?.cookie !== cookie || !this.#session.isValid) return false;
    return this.#table.get(this.ino)?.lease !== "none" && !this.#table.isCrossed(this.ino, this.#end.since);
  }

  /**
   * Gives entries after `cookie` to `take` until it says false or there are no more of one answer. "." and ".." come first
   * and never carry an inode.
   */
  async read(
    cookie: number,
    withInodes: boolean,
    take: (entry: ListedEntry) => boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    if (this.#isEnd(cookie)) return;
    let position = Math.max(cookie, COOKIE_PARENT);
    const request = {
      ino: this.ino,
      cookie: position,
      limit: this.#limit,
      withInodes,
      inlineBytes: INLINE_BYTES,
      ...isExclusive(this.#table.get(this.ino)?.lease ?? "none") ? { wantsFound: true as const } : {},
    };
    const askedAt = this.#table.moment;
    const reply = await this.#session.nameserver.readDirectory(request, interrupt).catch((error) => {
      if (isErrno(error, "ENOENT")) return undefined; // removed by another client: it has no entries
      throw error;
    });
    if (reply === undefined) return;
    const { parent, directory: lease, entries, end } = reply;
    const directory = this.#table.get(this.ino);
    const isKept = directory !== undefined && this.#table.adoptLease(directory, lease, askedAt);
    if (position === COOKIE_PARENT) this.#whole = { since: askedAt, position, count: 0 };
    if (!isKept || this.#whole?.position !== position) this.#whole = null;
    if (cookie < COOKIE_PARENT) {
      // What is kept from here on is right only under the lease.
      if (directory !== undefined && this.isCached) {
        directory.hasPages = true;
        if (!isKept) directory.hasStalePages = true;
      }
      const self = { name: DOT, ino: this.ino, type: DT_DIR, cookie: COOKIE_SELF };
      if (cookie < COOKIE_SELF && !take(self)) return;
      if (!take({ name: DOT_DOT, ino: parent, type: DT_DIR, cookie: COOKIE_PARENT })) return;
    }
    let taken = 0;
    for (const { inode: listed, ...entry } of entries) {
      // Noted before it is handed out, so that a recall finds whatever the kernel may have.
      const isNoted = withInodes || (this.#whole?.count ?? Infinity) < COMPLETE_ENTRIES_MAX;
      const isEntryKept = isKept && (!isNoted || directory.setEntry(bytesKey(entry.name), entry.ino));
      if (isKept && !isEntryKept) this.#whole = null; // no room to note all of them
      const inode = listed === undefined ? undefined : this.#table.adopt(listed, askedAt);
      if (!take(inode === undefined ? entry : { ...entry, found: { inode, isKept: isEntryKept } })) {
        this.#limit = Math.max(taken, ENTRIES_MIN);
        return;
      }
      taken++;
      position = entry.cookie;
      if (this.#whole !== null) {
        this.#whole.position = position;
        this.#whole.count++;
      }
    }
    if (!end) {
      this.#limit = Math.min(this.#limit * 2, ENTRIES_MAX);
      return;
    }
    if (isKept) this.#end = { cookie: position, since: askedAt };
    const whole = this.#whole;
    if (whole !== null && directory !== undefined && whole.count < COMPLETE_ENTRIES_MAX) {
      if (!this.#table.isCrossed(this.ino, whole.since)) directory.isComplete = true;
    }
  }
}

const DOT = bytesOf(".");
const DOT_DOT = bytesOf("..");
