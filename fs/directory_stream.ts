/**
 * One open directory: hands out entries in the order of their cookies. A position is a cookie, so that a listing goes on
 * from where it was while entries come and go.
 * Invariant: what is handed out was fetched for this very request: the kernel takes names and inodes from a listing
 * into its cache, and must not be given what was true when an earlier part of it was read.
 */

import { bytesOf } from "../base/bytes.ts";
import type { InodeId } from "../wire/ids.ts";
import type { DirectoryEntry } from "../wire/messages/inode.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Interruptible } from "./open_file.ts";

/** Entries asked for at first; most directories are small. */
const FIRST_ENTRIES = 128;
const ENTRIES_MIN = 16;
const DT_DIR = 4;
const COOKIE_SELF = 1;
const COOKIE_PARENT = 2;

export class DirectoryStream {
  readonly ino: InodeId;
  readonly #session: ClusterSession;
  /** As many as the kernel took the last time: what it does not take is fetched for nothing. */
  #limit = FIRST_ENTRIES;

  constructor(session: ClusterSession, ino: InodeId) {
    this.#session = session;
    this.ino = ino;
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
    let position = Math.max(cookie, COOKIE_PARENT);
    let taken = 0;
    for (let isFirst = true;; isFirst = false) {
      const request = { ino: this.ino, cookie: position, limit: this.#limit, withInodes };
      const { parent, entries, end } = await this.#session.nameserver.readDirectory(request, interrupt);
      if (isFirst && cookie < COOKIE_PARENT) {
        const self = { name: DOT, ino: this.ino, type: DT_DIR, cookie: COOKIE_SELF };
        if (cookie < COOKIE_SELF && !take(self)) return;
        if (!take({ name: DOT_DOT, ino: parent, type: DT_DIR, cookie: COOKIE_PARENT })) return;
      }
      for (const entry of entries) {
        if (!take(entry)) {
          this.#limit = Math.max(taken, ENTRIES_MIN);
          return;
        }
        taken++;
        position = entry.cookie;
      }
      if (end) return;
    }
  }
}

const DOT = bytesOf(".");
const DOT_DOT = bytesOf("..");
