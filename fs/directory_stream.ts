/**
 * One open directory: hands out entries in the order of their cookies, a page of them fetched at a time. A position
 * is a cookie, so that a listing goes on from where it was while entries come and go.
 */

import { bytesOf } from "../base/bytes.ts";
import type { InodeId } from "../wire/ids.ts";
import type { DirectoryEntry } from "../wire/messages/inode.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Interruptible } from "./open_file.ts";

const PAGE_ENTRIES = 1024;
/** The first page is small: most directories are, and `test -d x/*` wants no more. */
const FIRST_PAGE_ENTRIES = 128;
const DT_DIR = 4;
const COOKIE_SELF = 1;
const COOKIE_PARENT = 2;

export class DirectoryStream {
  readonly ino: InodeId;
  readonly #session: ClusterSession;
  #parent: InodeId;
  #page: readonly DirectoryEntry[] = [];
  /** The page follows this cookie. */
  #from = -1;
  #isLast = false;
  #withInodes = false;

  constructor(session: ClusterSession, ino: InodeId) {
    this.#session = session;
    this.ino = ino;
    this.#parent = ino;
  }

  /**
   * Gives entries after `cookie` to `take` until it says false or there are no more. "." and ".." come first and
   * never carry an inode.
   */
  async read(
    cookie: number,
    withInodes: boolean,
    take: (entry: DirectoryEntry) => boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    let position = cookie;
    // A listing from the start sees what is there now.
    if (cookie === 0) this.#from = -1;
    if (!await this.#seek(position, withInodes, interrupt)) return;
    if (position < COOKIE_SELF) {
      if (!take({ name: DOT, ino: this.ino, type: DT_DIR, cookie: COOKIE_SELF })) return;
      position = COOKIE_SELF;
    }
    if (position < COOKIE_PARENT) {
      if (!take({ name: DOT_DOT, ino: this.#parent, type: DT_DIR, cookie: COOKIE_PARENT })) return;
      position = COOKIE_PARENT;
    }
    for (;;) {
      for (const entry of this.#page) {
        if (entry.cookie <= position) continue;
        if (!take(entry)) return;
        position = entry.cookie;
      }
      if (this.#isLast) return;
      if (!await this.#seek(position, withInodes, interrupt)) return;
    }
  }

  /** Has the page that holds what follows `position`; false when nothing does. */
  async #seek(position: number, withInodes: boolean, interrupt: Interruptible): Promise<boolean> {
    const last = this.#page.at(-1)?.cookie ?? this.#from;
    const isHere = this.#from >= 0 && position >= this.#from && (position < last || this.#isLast) &&
      (!withInodes || this.#withInodes);
    if (isHere) return true;
    const from = Math.max(position, COOKIE_PARENT);
    const limit = position < COOKIE_SELF ? FIRST_PAGE_ENTRIES : PAGE_ENTRIES;
    const request = { ino: this.ino, cookie: from, limit, withInodes };
    const reply = await this.#session.nameserver.readDirectory(request, interrupt);
    this.#page = reply.entries;
    this.#from = position;
    this.#isLast = reply.end;
    this.#withInodes = withInodes;
    this.#parent = reply.parent;
    return position < COOKIE_PARENT || reply.entries.length > 0;
  }
}

const DOT = bytesOf(".");
const DOT_DOT = bytesOf("..");
