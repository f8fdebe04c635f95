/**
 * One open directory: hands out entries in the order of their cookies. A position is a cookie, so that a listing goes on
 * from where it was while entries come and go.
 * Invariant: what is handed out is so then: the kernel takes names and inodes from a listing into its cache. What an answer
 * brings beyond one request of the kernel's is handed out later only if nothing of the directory was taken back, or
 * changed, meanwhile, and without inodes of which something was.
 *
 * The kernel keeps the listing (FOPEN_CACHE_DIR): it puts the entries of an answer into pages after it was given, each where
 * the one before it ends, whichever handle brings it, and serves every handle from them once an empty answer has said that
 * there are no more. A notification in between finds nothing. So:
 * Invariant: an empty answer leaves only when nothing lies in the pages, or may come to lie there, that was asked for before
 * something of the directory was taken back, or that may not be kept; else what lies there goes first. The kernel has put an
 * answer into pages, or will not, when its handle comes with the next request.
 */

import { bytesKey, bytesOf } from "../base/bytes.ts";
import { isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import { DT_DIR } from "../wire/messages/inode.ts";
import type { CacheCount } from "./cache_counts.ts";
import { wishesWithin } from "./claims.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { InodeTable } from "./inode_table.ts";
import type { Found, Inode } from "./inode.ts";
import type { Interruptible } from "./interruptible.ts";
import type { KernelCache } from "./kernel_cache.ts";
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

export interface DirectoryStreamOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly readAhead: NameReadAhead;
  readonly ino: InodeId;
  /** The kernel keeps what is handed out. */
  readonly isCached: boolean;
  /** Of what was answered without asking. */
  readonly count?: CacheCount;
}

/** When what may not be kept was asked for: before anything was taken back. */
const NEVER = -1;

export class DirectoryStream {
  readonly #options: DirectoryStreamOptions;
  #limit = FIRST_ENTRIES;
  #answer: Answer | null = null;
  /** A reading from the start without a gap: since when, where it stands, and how many entries it has seen. */
  #whole: { readonly since: number; position: number; count: number } | null = null;
  /** The kernel takes all pages away when it opens the directory, which it may not have done yet. */
  #isOpening = false;

  constructor(options: DirectoryStreamOptions) {
    this.#options = options;
  }

  get ino(): InodeId {
    return this.#options.ino;
  }

  get #session(): ClusterSession {
    return this.#options.session;
  }

  get #table(): InodeTable {
    return this.#options.table;
  }

  /** The kernel opens it, and what lies in the directory's pages goes with that. */
  opensAnew(directory: Inode): void {
    this.#isOpening = true;
    this.#note(directory, directory.listedSince);
    directory.listedSince = Infinity;
  }

  close(): void {
    void this.#settle(this.#table.get(this.ino));
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
    const settled = this.#settle(this.#table.get(this.ino));
    if (settled !== undefined) await settled;
    let isEmpty = true;
    const answer = await this.#read(cookie, withInodes, (entry) => {
      if (!take(entry)) return false;
      isEmpty = false;
      return true;
    }, interrupt);
    const directory = this.#table.get(this.ino);
    if (directory === undefined || !this.#options.isCached) return;
    if (isEmpty) {
      await this.#completeListing(directory);
    } else {
      this.#note(directory, answer?.isKept === true ? answer.since : NEVER);
    }
  }

  /** Entries that were asked for then may come to lie in the pages. */
  #note(directory: Inode, since: number): void {
    directory.listing ??= new Map();
    directory.listing.set(this, since);
  }

  /** The kernel has taken what it was given last. */
  #settle(directory: Inode | undefined): Promise<void> | undefined {
    const since = directory?.listing?.get(this);
    if (directory === undefined || since === undefined) return undefined;
    directory.listing!.delete(this);
    const isGone = this.#isOpening;
    this.#isOpening = false;
    if (isGone) return undefined;
    directory.listedSince = Math.min(directory.listedSince, since);
    // An empty answer that left meanwhile did not know.
    if (!directory.hasPages || !this.#table.isCrossed(this.ino, since)) return undefined;
    return this.#options.kernelCache.dropListing(directory);
  }

  /** Before an empty answer: what lies in the pages may be shown from then on. */
  async #completeListing(directory: Inode): Promise<void> {
    const isOld = (since: number) => this.#table.isCrossed(this.ino, since);
    const mayBecomeOld = directory.listing?.values().some(isOld) === true;
    let isDropped = this.#session.isValid && !mayBecomeOld;
    while (!isDropped || isOld(directory.listedSince)) {
      isDropped = true;
      await this.#options.kernelCache.dropListing(directory);
    }
    directory.hasPages = true;
  }

  async #read(
    cookie: number,
    withInodes: boolean,
    take: (entry: ListedEntry) => boolean,
    interrupt: Interruptible,
  ): Promise<Answer | undefined> {
    const rest = this.#rest(cookie, withInodes);
    const { count } = this.#options;
    if (count !== undefined) {
      if (rest === undefined) count.misses++;
      else count.hits++;
    }
    const answer = rest ?? await this.#ask(Math.max(cookie, COOKIE_PARENT), withInodes, interrupt);
    if (answer === undefined) return undefined;
    if (cookie < COOKIE_PARENT) {
      const self = { name: DOT, ino: this.ino, type: DT_DIR, cookie: COOKIE_SELF };
      if (cookie < COOKIE_SELF && !take(self)) return answer;
      if (!take({ name: DOT_DOT, ino: answer.parent, type: DT_DIR, cookie: COOKIE_PARENT })) return answer;
    }
    for (; answer.next < answer.entries.length; answer.next++) {
      const { inode, ...entry } = answer.entries[answer.next]!;
      const isFound = withInodes && inode !== undefined &&
        (rest === undefined || (inode.isFresh && this.#table.get(inode.ino) === inode));
      if (!take(isFound ? { ...entry, found: { inode, isKept: answer.isKept } } : entry)) return answer;
      answer.cookie = entry.cookie;
    }
    return answer;
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
    // Who gave up waiting for a change of names has let go of the directory's lock in the kernel: it may come meanwhile.
    let isKept = directory !== undefined && table.adoptLease(directory, lease, since) &&
      !directory.isChangingNames;
    if (cookie === COOKIE_PARENT) this.#whole = { since, position: cookie, count: 0 };
    if (this.#whole?.position !== cookie) this.#whole = null;
    const isNoted = withInodes || (this.#whole?.count ?? Infinity) < COMPLETE_ENTRIES_MAX;
    const inodes: Inode[] = [];
    const entries = listed.map(({ inode: found, ...entry }) => {
      // Noted before it is handed out, so that a recall finds whatever the kernel may have.
      if (isKept && isNoted) isKept = directory!.setEntry(bytesKey(entry.name), entry.ino);
      if (found === undefined) return entry;
      const inode = this.#options.readAhead.keep(this.ino, found, since);
      inodes.push(inode);
      return { ...entry, inode };
    });
    this.#options.readAhead.listed(inodes);
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
