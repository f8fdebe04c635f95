/**
 * One open directory: hands out entries in the order of their cookies. A position is a cookie, so that a listing goes on
 * from where it was while entries come and go.
 * Invariant: what is handed out is so then: the kernel takes names and inodes from a listing into its cache. What an answer
 * brings beyond one request of the kernel's is handed out later only if nothing of the directory was taken back, or
 * changed, meanwhile, and without inodes of which something was.
 */

import { bytesKey, bytesOf } from "../base/bytes.ts";
import { isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import { DT_DIR } from "../wire/messages/inode.ts";
import { wishesWithin } from "./claims.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { InodeTable } from "./inode_table.ts";
import type { Found, Inode } from "./inode.ts";
import type { Interruptible } from "./interruptible.ts";
import { COOKIE_PARENT, COOKIE_SELF, INLINE_BYTES, type NameReadAhead } from "./name_read_ahead.ts";

/** Entries asked for at first; most directories are small. */
const FIRST_ENTRIES = 128;
const ENTRIES_MAX = 2_048;
/** Names of a larger directory are not kept for the question whether one is absent. */
const COMPLETE_ENTRIES_MAX = 20_000;

/** An entry as it is handed out; `found` only with inodes, and if it did not vanish meanwhile. */
export interface ListedEntry {
  readonly name: Uint8Array;
  readonly ino: InodeId;
  readonly type: number;
  readonly cookie: number;
  readonly found?: Found;
}

/** One answer, as far as it was not handed out. */
interface Answer {
  readonly parent: InodeId;
  readonly entries: readonly (Omit<ListedEntry, "found"> & { readonly inode?: Inode })[];
  /** There are no more behind these. */
  readonly end: boolean;
  readonly withInodes: boolean;
  /** Its names may be kept, as long as nothing of the directory is taken back since. */
  readonly isKept: boolean;
  readonly since: number;
  /** The first that was not handed out, and the cookie before it. */
  next: number;
  cookie: number;
}

export class DirectoryStream {
  readonly ino: InodeId;
  /** The kernel keeps what is handed out. */
  readonly isCached: boolean;
  readonly #session: ClusterSession;
  readonly #table: InodeTable;
  readonly #readAhead: NameReadAhead;
  #limit = FIRST_ENTRIES;
  #answer: Answer | null = null;
  /** A reading from the start without a gap: since when, where it stands, and how many entries it has seen. */
  #whole: { readonly since: number; position: number; count: number } | null = null;

  constructor(
    session: ClusterSession,
    table: InodeTable,
    readAhead: NameReadAhead,
    ino: InodeId,
    isCached: boolean,
  ) {
    this.#session = session;
    this.#table = table;
    this.#readAhead = readAhead;
    this.ino = ino;
    this.isCached = isCached;
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
    const rest = this.#rest(cookie, withInodes);
    const answer = rest ?? await this.#ask(Math.max(cookie, COOKIE_PARENT), withInodes, interrupt);
    if (answer === undefined) return;
    if (cookie < COOKIE_PARENT) {
      const directory = this.#table.get(this.ino);
      // What is kept from here on is right only under the lease.
      if (directory !== undefined && this.isCached) {
        directory.hasPages = true;
        if (!answer.isKept) directory.hasStalePages = true;
      }
      const self = { name: DOT, ino: this.ino, type: DT_DIR, cookie: COOKIE_SELF };
      if (cookie < COOKIE_SELF && !take(self)) return;
      if (!take({ name: DOT_DOT, ino: answer.parent, type: DT_DIR, cookie: COOKIE_PARENT })) return;
    }
    for (; answer.next < answer.entries.length; answer.next++) {
      const { inode, ...entry } = answer.entries[answer.next]!;
      const isFound = withInodes && inode !== undefined &&
        (rest === undefined || (inode.isFresh && this.#table.get(inode.ino) === inode));
      if (!take(isFound ? { ...entry, found: { inode, isKept: answer.isKept } } : entry)) return;
      answer.cookie = entry.cookie;
    }
  }

  /** What there still is behind `cookie` of the last answer, if it may be handed out. */
  #rest(cookie: number, withInodes: boolean): Answer | undefined {
    const answer = this.#answer;
    if (answer === null || cookie !== answer.cookie || !answer.isKept || !this.#session.isValid) {
      return undefined;
    }
    if (withInodes && !answer.withInodes) return undefined;
    if (answer.next === answer.entries.length && !answer.end) return undefined;
    if (this.#table.get(this.ino)?.lease === "none" || this.#table.isCrossed(this.ino, answer.since)) {
      return undefined;
    }
    return answer;
  }

  async #ask(cookie: number, withInodes: boolean, interrupt: Interruptible): Promise<Answer | undefined> {
    const table = this.#table;
    this.#answer = null;
    const request = {
      ino: this.ino,
      cookie,
      limit: this.#limit,
      withInodes,
      inlineBytes: INLINE_BYTES,
      ...wishesWithin(table.get(this.ino)),
    };
    const since = table.moment;
    const reply = await this.#session.nameserver.readDirectory(request, interrupt).catch((error) => {
      if (isErrno(error, "ENOENT")) return undefined; // removed by another client: it has no entries
      throw error;
    });
    if (reply === undefined) return undefined;
    const { parent, directory: lease, entries: listed, end } = reply;
    this.#limit = Math.min(this.#limit * 2, ENTRIES_MAX);
    const directory = table.get(this.ino);
    let isKept = directory !== undefined && table.adoptLease(directory, lease, since);
    if (cookie === COOKIE_PARENT) this.#whole = { since, position: cookie, count: 0 };
    if (this.#whole?.position !== cookie) this.#whole = null;
    const isNoted = withInodes || (this.#whole?.count ?? Infinity) < COMPLETE_ENTRIES_MAX;
    const entries = listed.map(({ inode: found, ...entry }) => {
      // Noted before it is handed out, so that a recall finds whatever the kernel may have.
      if (isKept && isNoted) isKept = directory!.setEntry(bytesKey(entry.name), entry.ino);
      return found === undefined ? entry : { ...entry, inode: this.#readAhead.keep(this.ino, found, since) };
    });
    if (!isKept) this.#whole = null; // or there is no room to note all of them
    this.#noteRead(entries.at(-1)?.cookie ?? cookie, entries.length, end);
    this.#answer = { parent, entries, end, withInodes, isKept, since, next: 0, cookie };
    return this.#answer;
  }

  /** Once all of it has been read, every other name is absent. */
  #noteRead(position: number, count: number, end: boolean): void {
    const whole = this.#whole;
    if (whole === null) return;
    whole.position = position;
    whole.count += count;
    const directory = this.#table.get(this.ino);
    if (!end || directory === undefined || whole.count >= COMPLETE_ENTRIES_MAX) return;
    if (!this.#table.isCrossed(this.ino, whole.since)) directory.isComplete = true;
  }
}

const DOT = bytesOf(".");
const DOT_DOT = bytesOf("..");
