/**
 * Times of access (atime). The kernel leaves them to us, and what its page cache serves never reaches us: so the handlers
 * make the next read reach us whenever it would change the time (`isDue`), and all further ones cost nothing.
 *
 * Invariants:
 * - A reader gets its data when every client would see the new time: the nameserver has it, and who had the old one has
 *   dropped it. The question goes out beside the read. Nobody waits for it longer than WAIT_MS, or while something of the
 *   file is being taken away: whoever does that waits for the read. The time is then seen a little later.
 * - What waits to be told is bounded (QUEUE_MAX); beyond it accesses are not noted.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { InodeId } from "../wire/ids.ts";
import { FS_NOATIME_FL, S_IFDIR, S_IFMT } from "../wire/messages/inode.ts";
import { ACCESSED_MAX } from "../wire/messages/nameserver.ts";
import { isAccessDue } from "../wire/relatime.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Inode, OpenFile } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";

/** "relatime": the first access after a change, and one a day. "strict": each. "off": none. */
export type AtimePolicy = "relatime" | "strict" | "off";

/** How an open brings the next access to us. */
export interface OpenAccess {
  readonly isDirect: boolean;
  readonly keepsPages: boolean;
  /** The open itself counts as the access, and waits for this. */
  readonly noted?: Promise<void>;
}

export const NO_ACCESS: OpenAccess = { isDirect: false, keepsPages: true };

export interface AccessTimesOptions {
  readonly policy: AtimePolicy;
  /** False: nothing is noted of directories (nodiratime). */
  readonly directories: boolean;
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly clock: Clock;
  readonly log: Logger;
}

const WAIT_MS = 100;
/** Of a larger file that the kernel has pages of the open counts as the access: they are dear to read again. */
const DROPPED_BYTES_MAX = 16 * 1024 * 1024;
const QUEUE_MAX = 4_096;
const CALLS_MAX = 4;

interface Access {
  readonly inode: Inode;
  readonly noted: Promise<void>;
  readonly end: () => void;
  /** The kernel may be told, or keep, the old time after the answers to those that wait. */
  isUnseen: boolean;
}

export class AccessTimes {
  readonly #options: AccessTimesOptions;
  readonly #queue = new Map<InodeId, Access>();
  readonly #sent = new Map<InodeId, Access>();
  #calls = 0;

  constructor(options: AccessTimesOptions) {
    this.#options = options;
  }

  /** Every read must reach us: nothing of it may come from the kernel's cache. */
  get isStrict(): boolean {
    return this.#options.policy === "strict";
  }

  /** The next access changes the time, as far as is known here. */
  isDue(inode: Inode): boolean {
    const { policy, directories, session } = this.#options;
    if (policy === "off") return false;
    if (((inode.attributes.flags ?? 0) & FS_NOATIME_FL) !== 0) return false;
    if (!directories && (inode.attributes.mode & S_IFMT) === S_IFDIR) return false;
    if (policy === "strict") return true;
    // Somebody has changed attributes: the nameserver knows, and its answer brings them.
    if (!inode.attributesKnown && inode.lease !== "none") return true;
    return isAccessDue(inode.file?.shown() ?? inode.attributes, session.now());
  }

  /** A file is opened for reading through the page cache: what sees to it that a read that is an access reaches us. */
  opened(file: OpenFile): OpenAccess {
    if (this.isStrict) return { isDirect: true, keepsPages: true };
    const { inode } = file;
    if (!this.isDue(inode)) return NO_ACCESS;
    // A read of nothing does not get past the kernel's page cache.
    if (file.size === 0) return { isDirect: true, keepsPages: true };
    if (!inode.hasPages || file.size <= DROPPED_BYTES_MAX) return { isDirect: false, keepsPages: false };
    const noted = this.accessed(inode, true);
    return { isDirect: false, keepsPages: true, ...noted && { noted } };
  }

  /**
   * The inode is read now. What comes back is to be waited for before the reader gets its answer. `isUnseen`: that answer
   * does not make the kernel ask for the time again, as those to READ, READDIR and READLINK do.
   */
  accessed(inode: Inode | undefined, isUnseen = false): Promise<void> | undefined {
    if (inode === undefined || !this.isDue(inode)) return undefined;
    const { ino } = inode;
    let access = this.#queue.get(ino) ?? (this.isStrict ? undefined : this.#sent.get(ino));
    if (access === undefined) {
      if (this.#queue.size >= QUEUE_MAX) return undefined;
      const { promise: noted, resolve: end } = Promise.withResolvers<void>();
      access = { inode, noted, end, isUnseen: false };
      this.#queue.set(ino, access);
      this.#send();
    }
    if (isUnseen) access.isUnseen = true;
    return this.#wait(access);
  }

  #wait(access: Access): Promise<void> {
    const { file } = access.inode;
    const { promise, resolve } = Promise.withResolvers<void>();
    const done = new AbortController();
    const giveUp = () => {
      if (done.signal.aborted) return;
      access.isUnseen = true;
      resolve();
    };
    const onWake = () => {
      if (file?.revocation !== null) giveUp();
    };
    if (file !== null) {
      file.waiters.add(onWake);
      onWake();
    }
    void this.#options.clock.sleep(WAIT_MS, done.signal).then(giveUp);
    void access.noted.then(resolve);
    return promise.finally(() => {
      done.abort();
      file?.waiters.delete(onWake);
    });
  }

  #send(): void {
    while (this.#calls < CALLS_MAX && this.#queue.size > 0) {
      const batch: Access[] = [];
      for (const [ino, access] of this.#queue) {
        if (batch.length >= ACCESSED_MAX) break;
        this.#queue.delete(ino);
        this.#sent.set(ino, access);
        batch.push(access);
      }
      this.#calls++;
      void this.#tell(batch).finally(() => {
        this.#calls--;
        this.#send();
      });
    }
  }

  async #tell(batch: readonly Access[]): Promise<void> {
    const { session, table, kernelCache, log } = this.#options;
    const askedAt = table.moment;
    try {
      const reply = await session.nameserver.accessed({
        inodes: batch.map(({ inode }) => ({ ino: inode.ino, version: inode.attributes.version })),
        always: this.isStrict,
      });
      for (const inode of reply.inodes) table.adopt(inode, askedAt);
    } catch (error) {
      log.debug("times of access were not told", { count: batch.length, error });
    }
    for (const access of batch) {
      const { inode, end } = access;
      if (this.#sent.get(inode.ino) === access) this.#sent.delete(inode.ino);
      if (access.isUnseen) await kernelCache.dropAttributes(inode);
      end();
    }
  }
}
