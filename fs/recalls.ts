/**
 * Giving things back: what the leaseserver recalls, what is left after a restart of the server, and everything when the
 * session is lost. An acknowledgement means that nothing old is shown any more, neither by us nor by the kernel.
 * Invariant: giving back never waits for an operation of this mount that may wait for the server (data_access.ts and
 * kernel_cache.ts say how), so that no two clients wait for each other.
 */

import { bytesKey } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import { turnOfTheEventLoop } from "../base/event_loop.ts";
import type { Logger } from "../base/log.ts";
import { FsError } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import {
  isExclusive,
  LEASE_RANK,
  type LeaseMode,
  type OpenMode,
  S_IFDIR,
  S_IFMT,
} from "../wire/messages/inode.ts";
import type { Held, RecallAnswer, RecallItem, RecallPush } from "../wire/messages/nameserver.ts";
import { leaseLost } from "./blocks.ts";
import type { DataAccess } from "./data_access.ts";
import type { DeferredChanges } from "./deferred_changes.ts";
import type { LocalChanges } from "./local_changes.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { Releases } from "./releases.ts";
import { type Inode, UNKNOWN } from "./inode.ts";
import type { Strays } from "./strays.ts";

/** Pages that do not go sooner, as something holds them, go later: attributes are gone, so nobody reads them. */
const LOST_PAGES_MS = 2_000;
/** Longer than a thread takes that was answered, on a machine that is not overloaded. */
const UNTAKEN_MS = 1_000;

export interface RecallsOptions {
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly access: DataAccess;
  readonly releases: Releases;
  readonly clock: Clock;
  readonly log: Logger;
  readonly strays: Strays;
  /** Absent: nothing is deferred. */
  readonly deferred?: DeferredChanges;
  readonly local?: LocalChanges | undefined;
}

export class Recalls {
  readonly #options: RecallsOptions;
  /** What is being given up of each inode. */
  readonly #giving = new Map<Inode, Promise<unknown>>();
  /** For the mount's counters. */
  count = 0;
  ms = 0;
  fences = 0;

  constructor(options: RecallsOptions) {
    this.#options = options;
  }

  async recall({ items }: RecallPush): Promise<RecallAnswer> {
    const { clock } = this.#options;
    const startMs = clock.monotonicMs();
    // Answers that came before this are taken in first.
    await turnOfTheEventLoop();
    const open = await Promise.all(items.map((item) => this.#give(item)));
    this.count += items.length;
    this.ms += clock.monotonicMs() - startMs;
    const doubtful = items.map(({ ino }) => ino).filter((ino) => this.#isDoubtful(ino));
    return { open, ...doubtful.length === 0 ? {} : { doubtful } };
  }

  /** Whether what is not this mount's to write any more may still get what was sent to it. */
  #isDoubtful(ino: InodeId): boolean {
    return this.#options.strays.has(ino) && this.#options.table.get(ino)?.lease !== "write";
  }

  async #give(item: RecallItem): Promise<OpenMode> {
    const { table, releases } = this.#options;
    const { ino } = item;
    table.noteRecall(ino);
    const inode = table.get(ino);
    if (inode === undefined) return releases.mayBeOpening(ino) ? "write" : "no";
    inode.yielding++;
    // The same may be asked for again, as over a new connection: what the one has begun to take away the other would not see.
    const before = this.#giving.get(inode);
    const giving = before === undefined
      ? this.#giveSettled(inode, item)
      : before.catch(() => {}).then(() => this.#giveSettled(inode, item));
    this.#giving.set(inode, giving);
    try {
      return await giving;
    } finally {
      inode.yielding--;
      if (this.#giving.get(inode) === giving) this.#giving.delete(inode);
    }
  }

  async #giveSettled(inode: Inode, item: RecallItem): Promise<OpenMode> {
    const { kernelCache, deferred, local } = this.#options;
    const { keep } = item;
    // Whoever asks is to see it. The nameserver takes it without waiting for anybody.
    while (inode.deferred > 0) await deferred?.settle();
    const wasOurs = isExclusive(inode.lease);
    if (wasOurs) local?.noteTaken(inode);
    if (item.removed === true) inode.isUnlinked = true;
    if (item.names !== undefined) {
      await this.#dropNames(inode, item.names);
      if (isExclusive(inode.lease)) inode.lease = "read";
    } else {
      await this.#lower(inode, keep);
    }
    if (wasOurs && !isExclusive(inode.lease)) await this.#dropBefore(inode);
    if (item.attributes === true) {
      inode.forgetAttributes();
      await kernelCache.dropAttributes(inode);
    }
    // Closed meanwhile: the server takes it that nothing is left here of what is removed and not open.
    if (item.removed === true && openMode(inode) === "no") await this.#lower(inode, "none");
    // Also what is being opened just now: it asks the server, and finds the inode alive.
    const open = openMode(inode);
    if (open !== "no") inode.isRegistered = true;
    return open;
  }

  /**
   * Others may see from now on what is asked for here, or was made here and answered: what the kernel has from before that, as
   * nobody could (AskedChanges.names) or it has not taken the answer yet, goes.
   */
  async #dropBefore(inode: Inode): Promise<void> {
    const { kernelCache, clock } = this.#options;
    const isUntaken = clock.monotonicMs() - inode.changedHereMs < UNTAKEN_MS;
    if (isUntaken) await kernelCache.dropAttributes(inode);
    const isDirectory = (inode.attributes.mode & S_IFMT) === S_IFDIR;
    if (isDirectory && (isUntaken || inode.isChangingNames)) await kernelCache.dropNamesOf(inode);
  }

  async #lower(inode: Inode, keep: LeaseMode): Promise<void> {
    const { access, kernelCache } = this.#options;
    if (keep === "none" && inode.entries !== null && inode.entries.size > 0) {
      inode.forgetAll();
      await kernelCache.dropNamesOf(inode);
    }
    await access.revoke(inode, keep);
  }

  async #dropNames(inode: Inode, names: readonly Uint8Array[]): Promise<void> {
    const { kernelCache } = this.#options;
    const cached = names.filter((name) => {
      const key = bytesKey(name);
      const isCached = inode.entries?.has(key) === true;
      if (isCached || inode.isComplete) inode.setEntry(key, UNKNOWN);
      return isCached;
    });
    inode.forgetAttributes();
    await Promise.all([kernelCache.dropNames(inode, cached), kernelCache.dropAll(inode)]);
  }

  // ---- after the connection was broken

  /** What this mount holds, for a server that has forgotten it. */
  held(): Held[] {
    const { table } = this.#options;
    const held: Held[] = [];
    for (const inode of table.values()) {
      const open = openMode(inode);
      // A report that left with an acknowledgement may not have arrived: until it is answered nobody else may look. Unless
      // it left in a session that is over.
      const isHandingOver = inode.handingOver !== null && !table.isLost(inode.handedOverAt);
      // What has lost its last name here is ours until the nameserver has taken that over as well.
      const kept = inode.deferred > 0 && !isExclusive(inode.lease) ? "exclusive" : inode.lease;
      const lease = isHandingOver ? "write" : kept;
      if (lease === "none" && open === "no") continue;
      const isDoubtful = lease !== "write" && this.#options.strays.has(inode.ino);
      held.push({ ino: inode.ino, lease, open, ...isDoubtful ? { doubtful: true } : {} });
      if (open !== "no") inode.isRegistered = true;
    }
    return held;
  }

  /** What of it the server has granted again. */
  async reclaimed(granted: ReadonlyMap<InodeId, LeaseMode>): Promise<void> {
    const lost: Inode[] = [];
    for (const [ino, lease] of granted) {
      const inode = this.#options.table.get(ino);
      if (inode === undefined || LEASE_RANK[lease] >= LEASE_RANK[inode.lease]) continue;
      this.#options.table.noteRecall(ino);
      lost.push(inode);
    }
    await this.#drop(lost);
  }

  /** The session has ended, and others may have changed everything. `isCut`: as ClusterSessionOptions.onLost's. */
  async lost(isCut = false): Promise<void> {
    const { table, log, deferred } = this.#options;
    this.#failMakers(deferred?.lose() ?? []);
    table.noteLoss();
    const inodes = [...table.values()];
    for (const inode of inodes) {
      const { file } = inode;
      inode.isRegistered = openMode(inode) !== "no"; // as the next session is told
      if (file === null || !isCut || file.unsyncedReports === 0) continue;
      file.unsyncedReports = 0;
      const message = "the nameserver's machine stopped before what was written was synced";
      file.fail(new FsError("EIO", message, { op: "fsync" }));
    }
    log.warn("the session was lost: caches are dropped", { inodes: inodes.length });
    await this.#drop(inodes);
  }

  /** What was shown of these will not come true: all that is known of them goes. */
  async changesLost(inodes: readonly Inode[]): Promise<void> {
    const { table } = this.#options;
    this.#failMakers(inodes);
    for (const inode of inodes) {
      table.noteRecall(inode.ino);
      inode.attributes = { ...inode.attributes, version: 0 };
    }
    await this.#drop(inodes);
  }

  #failMakers(inodes: readonly Inode[]): void {
    for (const { file } of inodes) {
      if (file?.isUnflushed === false) {
        file.fail(new FsError("EIO", "a change of it could not be told to the nameserver", { op: "defer" }));
      }
    }
  }

  async #drop(inodes: readonly Inode[]): Promise<void> {
    const { kernelCache, access, clock, log } = this.#options;
    if (inodes.length === 0) return;
    const pages: Promise<void>[] = [];
    await kernelCache.dropAllNames();
    for (const inode of inodes) {
      const { file } = inode;
      if (file !== null) {
        access.lose(file);
        if (file.isUnflushed) {
          log.error("written data is lost: its lease ended before it was stored", {
            ino: inode.ino,
            bytes: file.pendingBytes,
            end: file.reach,
          });
          file.fail(leaseLost());
          file.abandon();
        }
      }
      inode.forgetAll();
      void kernelCache.dropAttributes(inode);
      if (inode.hasPages) {
        inode.hasStalePages = true;
        pages.push(access.dropPagesNow(inode));
      }
    }
    await Promise.all(
      inodes.filter(({ namesListed }) => namesListed).map((it) => kernelCache.dropNamesOf(it)),
    );
    const late = new AbortController();
    await Promise.race([Promise.all(pages), clock.sleep(LOST_PAGES_MS, late.signal)]);
    late.abort();
  }

  /** The session can't be kept up: what the kernel would show without asking goes, as far as it did not expire. */
  fenced(): void {
    const { table, kernelCache, access } = this.#options;
    this.fences++;
    void kernelCache.dropAllNames();
    for (const inode of table.values()) {
      if (inode.file === null && inode.directoryHandles === 0) continue;
      void kernelCache.dropAttributes(inode);
      void access.dropPagesNow(inode);
    }
  }
}

export function openMode({ file, isHeldWithoutName, lookups }: Inode): OpenMode {
  if (file === null || file.handles === 0) return isHeldWithoutName && lookups > 0 ? "read" : "no";
  return file.writers > 0 ? "write" : "read";
}
