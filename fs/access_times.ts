/**
 * Times of access (atime). The kernel leaves them to us, and what its page cache serves never reaches us: so the handlers
 * make the next read reach us whenever it would change the time (`isDue`), and all further ones cost nothing.
 *
 * Invariants:
 * - No reader waits for it. This mount shows the new time from then on (`Inode.accessedAt`). Others do when the nameserver has
 *   it: of what is this mount's alone before they may look (deferred_changes.ts); else it is told before whatever this mount
 *   asks next, and within DELAY_MS.
 * - What waits to be told is bounded (QUEUE_MAX); beyond it accesses are not noted.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { InodeId } from "../wire/ids.ts";
import { FS_NOATIME_FL, S_IFDIR, S_IFMT } from "../wire/messages/inode.ts";
import { ACCESSED_MAX } from "../wire/messages/nameserver.ts";
import { isAccessDue } from "../wire/relatime.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { notBefore } from "./deferred_changes.ts";
import { type Inode, type OpenFile, withAccess } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { LocalChanges } from "./local_changes.ts";

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
  /** As NamesOptions'. */
  readonly local?: Pick<LocalChanges, "access"> | undefined;
}

const DELAY_MS = 50;
/** Of a larger file that the kernel has pages of the open counts as the access: they are dear to read again. */
const DROPPED_BYTES_MAX = 16 * 1024 * 1024;
const QUEUE_MAX = 4_096;

export class AccessTimes {
  readonly #options: AccessTimesOptions;
  /** To be told. */
  readonly #queue = new Map<InodeId, Inode>();
  #isWaiting = false;
  #telling: Promise<unknown> = Promise.resolve();

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
    return isAccessDue(withAccess(inode.file?.shown() ?? inode.attributes, inode), session.now());
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
   * The inode is read now. `isUnseen`: the answer does not make the kernel ask for the time again, as those to READ, READDIR and
   * READLINK do; what comes back is to be waited for then.
   */
  accessed(inode: Inode | undefined, isUnseen = false): Promise<void> | undefined {
    if (inode === undefined || !this.isDue(inode)) return undefined;
    const { local, session, kernelCache } = this.#options;
    if (local?.access(inode) !== true) {
      if (!this.#queue.has(inode.ino) && this.#queue.size >= QUEUE_MAX) return undefined;
      // Of what somebody has changed meanwhile the nameserver knows whether it counts.
      if (inode.attributesKnown) inode.accessedAt = notBefore(session.now(), [inode]);
      this.#queue.set(inode.ino, inode);
      if (!this.#isWaiting) void this.#tellLater();
    }
    return isUnseen ? kernelCache.dropAttributes(inode) : undefined;
  }

  async #tellLater(): Promise<void> {
    this.#isWaiting = true;
    await this.#options.clock.sleep(DELAY_MS);
    this.#isWaiting = false;
    void this.tell();
  }

  /** Sends what is to be told; resolves when all of it was heard, or is given up. Never rejects. */
  tell(): Promise<unknown> {
    while (this.#queue.size > 0) {
      const batch = [...this.#queue.values()].slice(0, ACCESSED_MAX);
      for (const { ino } of batch) this.#queue.delete(ino);
      this.#telling = Promise.all([this.#telling, this.#tell(batch)]);
    }
    return this.#telling;
  }

  async #tell(batch: readonly Inode[]): Promise<void> {
    const { session, table, log } = this.#options;
    const askedAt = table.moment;
    const told = batch.map((inode) => ({ inode, time: inode.accessedAt }));
    try {
      const reply = await session.nameserver.accessed({
        inodes: told.map(({ inode: { ino, attributes: { version } }, time }) => ({
          ...{ ino, version },
          ...time === null ? {} : { time },
        })),
        always: this.isStrict,
      });
      for (const inode of reply.inodes) table.adoptKnown(inode, askedAt);
    } catch (error) {
      log.debug("times of access were not told", { count: batch.length, error });
    }
    for (const { inode, time } of told) {
      if (inode.accessedAt === time) inode.accessedAt = null;
    }
  }
}
