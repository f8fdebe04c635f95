/**
 * What the kernel caches of this mount, and how to take it away: names, attributes, pages. The answer "gone" is one
 * that a recall can be acknowledged by: nothing old is shown afterwards.
 *
 * How the kernel's locks are kept out of it (fuse.md, 10):
 * - INVAL_ENTRY waits for the directory's lock. A change in it holds that until we answer, which may wait for another
 *   client's acknowledgement. So while a change is in flight here, or as soon as one comes, the epoch is incremented
 *   instead: every name is looked up again, from our own cache. Lookups and listings in flight hold the lock as well, but
 *   wait for nobody else's acknowledgement, so they are waited for; and must be, as the kernel gives names that come with
 *   a listing the epoch of when it takes them. If one does not end soon, then by the epoch, too.
 * - INVAL_INODE of a range waits for pages that a READ in flight holds. Who drops pages (data_access.ts) sees to it that
 *   those READs are answered.
 * - Inodes that a reply has told of may not be in the kernel yet: then the notification finds nothing and comes too
 *   early. It is repeated until it finds the inode, or the kernel has forgotten it.
 */

import { bytesOf } from "../base/bytes.ts";
import { type Clock, OVER } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import type { KernelNotifier } from "./kernel/notify.ts";
import type { Inode } from "./inode.ts";
import type { ByteRange } from "./pending_write.ts";

/** Longer than a lookup or listing takes that nobody holds up. */
const ENTRY_MS_MAX = 50;
/** Changes in the same directory take less, unless somebody else is waited for. */
const OLD_NAME_MS_MAX = 20;
const RETRY_MS = 1;
const RETRIES_MAX = 2_000;
/** What no name is: to wait for a directory's lock. */
const NO_NAME = bytesOf(".");

export interface KernelCacheOptions {
  readonly clock: Clock;
  readonly log: Logger;
}

type Notifier = Pick<KernelNotifier, "invalidateInode" | "invalidateEntry" | "incrementEpoch">;

export class KernelCache {
  readonly #options: KernelCacheOptions;
  #notifier: Notifier | null = null;
  /** Changes in flight, by directory. */
  readonly #inFlight = new Map<InodeId, number>();
  /** INVAL_ENTRYs in the kernel, by directory: a change that comes meanwhile would be waited for. */
  readonly #entering = new Map<InodeId, Set<() => void>>();

  #epoch = 0;

  constructor(options: KernelCacheOptions) {
    this.#options = options;
  }

  /** The kernel is there, or (null) gone: then there is nothing to take away. */
  attach(notifier: Notifier | null): void {
    this.#notifier = notifier;
  }

  /** Counts how often all names were dropped. */
  get epoch(): number {
    return this.#epoch;
  }

  /** A change in a directory is in flight until `leave`. */
  enter(directory: InodeId): void {
    this.#inFlight.set(directory, (this.#inFlight.get(directory) ?? 0) + 1);
    for (const onEnter of this.#entering.get(directory) ?? []) onEnter();
  }

  leave(directory: InodeId): void {
    const count = (this.#inFlight.get(directory) ?? 1) - 1;
    if (count === 0) this.#inFlight.delete(directory);
    else this.#inFlight.set(directory, count);
  }

  /** Attributes are gone. Undefined: already. */
  dropAttributes(inode: Inode): Promise<void> | undefined {
    if (this.#notifier === null || inode.lookups === 0) return undefined;
    return this.#untilFound(inode, -1, 0);
  }

  /**
   * The mode has changed by itself. Of who links a file Linux looks at the mode that it heard of last (protected_hardlinks),
   * without asking again as for other rights; so the name is looked up again, which brings it.
   */
  async dropMode(inode: Inode): Promise<void> {
    await this.dropAttributes(inode);
    await this.dropAllNames();
  }

  /** All pages (file data, or a directory's listing) and attributes are gone. */
  dropAll(inode: Inode): Promise<void> | undefined {
    if (!inode.hasPages) return this.dropAttributes(inode);
    if (this.#notifier === null || inode.lookups === 0) return undefined;
    inode.hasPages = false;
    inode.listedSince = Infinity;
    return this.#untilFound(inode, 0, 0);
  }

  /** What lies in a directory's pages is gone. */
  async dropListing(directory: Inode): Promise<void> {
    directory.listedSince = Infinity;
    await this.dropRanges(directory, [{ start: 0, end: Infinity }]);
  }

  /** Pages of these ranges are gone. */
  async dropRanges(inode: Inode, ranges: readonly ByteRange[]): Promise<void> {
    if (this.#notifier === null || inode.lookups === 0) return;
    await Promise.all(
      ranges.map(({ start, end }) =>
        this.#notify((notifier) =>
          notifier.invalidateInode(inode.ino, start, end === Infinity ? 0 : end - start)
        )
      ),
    );
  }

  /** Sends as soon as there is room among those that wait for the kernel. False: it had nothing, or is gone. */
  async #notify(send: (notifier: Notifier) => Promise<boolean>): Promise<boolean> {
    while (this.#notifier !== null) {
      try {
        return await send(this.#notifier);
      } catch (error) {
        if (!isErrno(error, "EAGAIN")) throw error;
        await this.#options.clock.sleep(RETRY_MS);
      }
    }
    return false;
  }

  async #untilFound(inode: Inode, offset: number, length: number): Promise<void> {
    for (let tries = 0; this.#notifier !== null && inode.lookups > 0; tries++) {
      if (await this.#notify((notifier) => notifier.invalidateInode(inode.ino, offset, length))) return;
      if (tries >= RETRIES_MAX) {
        // The answer that told of it went to nobody: the kernel will not say either that it has forgotten it.
        this.#options.log.debug("the kernel does not know an inode that it was told of", { ino: inode.ino });
        inode.lookups = 0;
        return;
      }
      await this.#options.clock.sleep(RETRY_MS);
    }
  }

  /** Names of a directory are gone. */
  async dropNames(directory: Inode, names: readonly Uint8Array[]): Promise<void> {
    if (this.#notifier === null || directory.lookups === 0 || names.length === 0) return;
    if (this.#inFlight.has(directory.ino)) {
      await this.dropAllNames();
      return;
    }
    const { promise: entered, resolve: onEnter } = Promise.withResolvers<"late">();
    const late = () => onEnter("late");
    let watching = this.#entering.get(directory.ino);
    if (watching === undefined) this.#entering.set(directory.ino, watching = new Set());
    watching.add(late);
    const done = new AbortController();
    void this.#options.clock.sleep(ENTRY_MS_MAX, done.signal).then(late);
    try {
      const dropped = Promise.all(
        names.map((name) => this.#notify((notifier) => notifier.invalidateEntry(directory.ino, name))),
      );
      if (await Promise.race([dropped, entered]) === "late") await this.dropAllNames();
    } finally {
      done.abort(OVER);
      watching.delete(late);
      if (watching.size === 0) this.#entering.delete(directory.ino);
    }
  }

  /**
   * A name that leads elsewhere by now is gone, and `others` have ended. Waits for changes in its directory, which may wait for
   * other clients: but not for long, as it is to spare the kernel something (directory_places.ts), and nothing is acknowledged
   * by it.
   */
  async dropOldName(
    directory: InodeId,
    name: Uint8Array,
    others: readonly Promise<unknown>[],
  ): Promise<void> {
    const done = new AbortController();
    const dropped = this.#notify((notifier) => notifier.invalidateEntry(directory, name));
    const late = this.#options.clock.sleep(OLD_NAME_MS_MAX, done.signal);
    await Promise.race([Promise.all([dropped, ...others]), late]);
    done.abort(OVER);
  }

  /**
   * Every name of a directory is gone, and of all others as well. Of a listing that was given the kernel may not have taken the
   * names yet, to give them the new epoch: it holds the directory's lock until it has.
   */
  async dropNamesOf(directory: Inode): Promise<void> {
    if (directory.namesListed) {
      directory.namesListed = false;
      await this.dropNames(directory, [NO_NAME]);
    }
    await this.dropAllNames();
  }

  /** What is noted of absent names of a directory goes when there is no room for more. */
  boundNames(directory: Inode | undefined): void {
    if (directory?.forgetAbsent() === true) void this.dropAllNames();
  }

  /** Every name of the mount is looked up again. */
  async dropAllNames(): Promise<void> {
    this.#epoch++;
    await this.#notifier?.incrementEpoch();
  }
}
