/**
 * Who may touch the data of open files, and when: every read and write runs as an access under a lease that allows
 * it, waits for one where there is none, and is waited for before one is given back.
 *
 * Taking back READ means that the kernel's pages go, which waits for every page that a READ (or the writeback of a
 * mapping) in flight holds. So while they go, such accesses are still served, under the lease that is held until the
 * acknowledgement; their pages go in the next round. After ROUNDS_FREE rounds new ones wait for the next lease, but
 * those that the kernel waits for; pages of an access that waits are locked and not readable, so they need no round.
 * When the session is lost meanwhile, the revocation is over: what it waited for may get its lease in the next one only.
 *
 * Invariants:
 * - An acknowledgement leaves when no access is under way, nothing written is uncommitted, and the kernel has no page.
 * - A lease that was waited for serves at least the accesses that waited, before it is given back.
 */

import { timespecCompare } from "../base/clock.ts";
import { FsError } from "../wire/errno.ts";
import { LEASE_RANK, type LeaseMode } from "../wire/messages/inode.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { Access, Inode, OpenFile, Revocation } from "./inode.ts";
import type { Strays } from "./strays.ts";
import type { ByteRange } from "./pending_write.ts";
import { type Interruptible, withSignal } from "./interruptible.ts";

/** Rounds of an invalidation in which new accesses are served as if nothing was going on. */
const ROUNDS_FREE = 2;
/** Times that an access to several files asks for a lease that it lacks. */
const TRIES_MAX = 50;
const PAGE_BYTES = 4096;
const WHOLE: readonly ByteRange[] = [{ start: 0, end: Infinity }];

export interface DataAccessOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  /** Everything written is on the replicas, and the report of it has left. Never rejects. */
  readonly handOver: (file: OpenFile) => Promise<void>;
  readonly strays: Strays;
}

function overlaps(range: ByteRange, others: readonly ByteRange[]): boolean {
  return others.some(({ start, end }) => range.start < end && start < range.end);
}

/** Something is under way, or left here, that the lease must not be given back with. */
function isUsed(file: OpenFile, { keep, touched }: Revocation): boolean {
  if (keep === "none" && touched.length > 0) return true;
  return file.isUnflushed || [...file.accesses].some(({ isWrite }) => isWrite);
}

/** The part of `ranges` that no page of `holes` lies in. */
function without(ranges: readonly ByteRange[], holes: readonly ByteRange[]): ByteRange[] {
  let left = [...ranges];
  for (const hole of holes) {
    left = left.flatMap(({ start, end }) => {
      if (hole.end <= start || hole.start >= end) return [{ start, end }];
      const parts: ByteRange[] = [];
      if (start < hole.start) parts.push({ start, end: hole.start });
      if (hole.end < end) parts.push({ start: hole.end, end });
      return parts;
    });
  }
  return left;
}

/** What `size` bytes at `offset` touch, in whole pages. */
export function pagesOf(offset: number, size: number): ByteRange {
  return {
    start: Math.floor(offset / PAGE_BYTES) * PAGE_BYTES,
    end: Math.ceil((offset + size) / PAGE_BYTES) * PAGE_BYTES,
  };
}

export class DataAccess {
  readonly #options: DataAccessOptions;

  constructor(options: DataAccessOptions) {
    this.#options = options;
  }

  /**
   * Runs `run` under a lease that allows `access`; waits for one if need be. A read during which the session was lost runs
   * again: its pages would be from before. A write that waits for anything must not go on once the file's tenure is not the
   * one that it is given: others may change the file by then. EINTR, or EIO when no lease can be had.
   */
  async use<T>(
    file: OpenFile,
    access: Access,
    interrupt: Interruptible | undefined,
    run: (tenure: number) => Promise<T>,
  ): Promise<T> {
    for (;;) {
      while (!this.#allows(file, access)) await this.#obtain(file, access, interrupt);
      const { tenure } = file;
      file.accesses.add(access);
      if (access.isPaged) {
        file.inode.hasPages = true;
        file.inode.pagesBrought++;
        file.revocation?.touched.push(access);
      }
      try {
        const result = await run(tenure);
        if (access.isWrite || file.tenure === tenure) return result;
      } finally {
        file.accesses.delete(access);
        if (file.waiters.size > 0) file.wake();
      }
    }
  }

  /**
   * Runs `run` under leases that allow an access to each of several files. None is held while another's is waited for, as
   * another client may do the same the other way round. EAGAIN when others take one away again and again.
   */
  async useAll<T>(
    accesses: readonly (readonly [OpenFile, Access])[],
    interrupt: Interruptible,
    run: () => Promise<T>,
  ): Promise<T> {
    for (let tries = 0;; tries++) {
      const missing = accesses.find(([file, access]) => !this.#allows(file, access));
      if (missing === undefined) break;
      if (tries === TRIES_MAX) {
        throw new FsError("EAGAIN", "others use the files all the time", { op: "lease" });
      }
      await this.#obtain(missing[0], missing[1], interrupt);
    }
    for (const [file, access] of accesses) file.accesses.add(access);
    try {
      return await run();
    } finally {
      for (const [file, access] of accesses) {
        file.accesses.delete(access);
        if (file.waiters.size > 0) file.wake();
      }
    }
  }

  /** A read that waits for nothing may be done now: it is over before anything can be taken back. */
  isFree({ inode, revocation }: OpenFile): boolean {
    return revocation === null && inode.lease !== "none" && this.#options.session.isValid;
  }

  #allows({ inode, revocation }: OpenFile, access: Access): boolean {
    if (!this.#options.session.isValid) return false;
    if (revocation === null) return LEASE_RANK[inode.lease] >= LEASE_RANK[access.isWrite ? "write" : "read"];
    if (inode.lease === "none") return false;
    if (access.isWriteback) return true;
    // A writer becomes a reader: nothing of the kernel's goes.
    if (revocation.keep === "read") return !access.isWrite;
    if (!access.isPaged) return false;
    return !revocation.isHolding || overlaps(access, revocation.invalidating) ||
      overlaps(access, revocation.touched);
  }

  /** Waits until something has changed: a lease came, or a revocation went a step further. */
  async #obtain(file: OpenFile, access: Access, interrupt: Interruptible | undefined): Promise<void> {
    const { session } = this.#options;
    file.held.add(access);
    try {
      if (!session.isValid) {
        await session.untilValid(interrupt);
      } else if (file.revocation !== null) {
        await this.#woken(file, file.revocation.ended, interrupt);
      } else if (access.isWriteback) {
        // It must go on as soon as the lease that is there is taken back.
        await this.#woken(file, this.#acquire(file, "write"), interrupt);
      } else {
        await withSignal(this.#acquire(file, access.isWrite ? "write" : "read"), interrupt);
      }
    } finally {
      file.held.delete(access);
    }
  }

  async #woken(file: OpenFile, work: Promise<void>, interrupt: Interruptible | undefined): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    file.waiters.add(resolve);
    try {
      await withSignal(Promise.race([work, promise]), interrupt);
    } finally {
      file.waiters.delete(resolve);
    }
  }

  /** Asks for a lease for a file that is being opened. */
  acquire(file: OpenFile, mode: "read" | "write", interrupt: Interruptible): Promise<void> {
    return withSignal(this.#acquire(file, mode), interrupt);
  }

  /** Asks for a lease, one question a file at a time. */
  #acquire(file: OpenFile, mode: "read" | "write"): Promise<void> {
    return file.acquiring ??= this.#ask(file, mode).finally(() => file.acquiring = null);
  }

  async #ask(file: OpenFile, mode: "read" | "write"): Promise<void> {
    const { session, table } = this.#options;
    const { inode } = file;
    const askedAt = table.moment;
    inode.isRegistered = true;
    const reply = await session.nameserver.acquire({ ino: inode.ino, mode });
    inode.isRegistered = true; // maybe in another session than it was asked in
    // The lease may be had, but what it shows is from before a report of ours that has left again since.
    if (askedAt < inode.handedOverAt) return await this.#ask(file, mode);
    const hadNothing = inode.lease === "none";
    const { mtime, version } = inode.attributes;
    // Recalls that came while it waited were for what was held before: this was granted after them.
    if (!table.isLost(askedAt)) table.adopt(reply, table.moment);
    inode.isShared = reply.isShared;
    if (inode.lease === "write") this.#options.strays.granted(inode.ino);
    // Another client's mapping was written back while we held READ, as a recall for us took its pages: ours are from
    // before. Not waited for: the write that we ask for may hold one.
    if (!hadNothing && !file.isUnflushed && timespecCompare(mtime, inode.attributes.mtime) !== 0) {
      void this.dropPagesNow(inode);
    }
    if (hadNothing && inode.lease !== "none") {
      const last = reply.blocks.at(-1);
      const knownTo = reply.blocksComplete || last === undefined
        ? Number.MAX_SAFE_INTEGER
        : last.start + last.length;
      file.blocks.clear();
      // What is older than what is known here is asked for again.
      if (reply.attributes.version >= version) file.blocks.learn(0, knownTo, reply.blocks);
    }
  }

  // ---- giving back

  /** Gives back what `keep` does not leave; resolves when it may be acknowledged. Never rejects. */
  async revoke(inode: Inode, keep: LeaseMode): Promise<void> {
    // An earlier report may have been lost with its connection, and its answer with it: then it is sent again.
    if (inode.handingOver !== null) await inode.handingOver;
    // While one waits for another the file may be closed, and opened again as another object.
    while (inode.file !== null && inode.file.revocation !== null) await inode.file.revocation.ended;
    const { file } = inode;
    if (file === null) return await this.#revokeClosed(inode, keep);
    if (LEASE_RANK[inode.lease] <= LEASE_RANK[keep]) return;
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const revocation: Revocation = {
      keep,
      touched: [],
      invalidating: [],
      isHolding: false,
      ended,
      end,
    };
    file.revocation = revocation;
    file.wake();
    // `lose` ends it as well: what it waits for then may need a lease of the next session.
    await Promise.race([this.#giveBack(file, revocation), ended]);
  }

  async #giveBack(file: OpenFile, revocation: Revocation): Promise<void> {
    const { inode } = file;
    const { keep } = revocation;
    try {
      do {
        if (keep === "none") await this.#dropPages(file, revocation);
        await this.#flush(file, revocation);
        // The session was lost meanwhile, and all leases with it: none is kept.
        if (file.revocation !== revocation) return;
        // Again, as accesses that are allowed still may have begun in the steps until here.
      } while (isUsed(file, revocation));
      inode.lease = keep;
      // The answer to what was reported may still speak of the lease.
      this.#options.table.noteRecall(inode.ino);
      if (keep === "none") {
        inode.forgetAll();
        await this.#options.kernelCache.dropAttributes(inode);
      }
    } finally {
      if (file.revocation === revocation) this.#end(file, revocation);
    }
  }

  #end(file: OpenFile, revocation: Revocation): void {
    file.revocation = null;
    revocation.end();
    file.wake();
  }

  async #revokeClosed(inode: Inode, keep: LeaseMode): Promise<void> {
    if (LEASE_RANK[inode.lease] > LEASE_RANK[keep]) inode.lease = keep;
    if (keep !== "none") return;
    inode.forgetAll();
    await this.#options.kernelCache.dropAll(inode);
  }

  /** Waits for the accesses that are under way now, then reports until nothing is left to, nor being written. */
  async #flush(file: OpenFile, revocation: Revocation): Promise<void> {
    do {
      const before = [...file.accesses];
      while (before.some((access) => file.accesses.has(access))) {
        if (file.revocation !== revocation) return;
        await new Promise<void>((resolve) => {
          const wake = () => {
            file.waiters.delete(wake);
            resolve();
          };
          file.waiters.add(wake);
        });
      }
      if (file.revocation !== revocation) return;
      if (file.isUnflushed) await this.#options.handOver(file);
      // The writeback of a mapping may have come meanwhile.
    } while (file.isUnflushed || [...file.accesses].some(({ isWrite }) => isWrite));
  }

  async #dropPages(file: OpenFile, revocation: Revocation): Promise<void> {
    const { inode } = file;
    let ranges: readonly ByteRange[] = inode.hasPages ? WHOLE : [];
    inode.hasPages = false;
    for (let round = 1;; round++) {
      revocation.isHolding = round > ROUNDS_FREE;
      revocation.invalidating = ranges;
      revocation.touched = [];
      file.wake(); // those that the kernel waits for now
      await this.#options.kernelCache.dropRanges(inode, ranges);
      await this.#flush(file, revocation);
      if (file.revocation !== revocation || revocation.touched.length === 0) return;
      inode.hasPages = false;
      ranges = revocation.touched;
    }
  }

  /**
   * Pages go at once, whatever is under way: the session can't be kept up, or is lost. Those that an access waits with are
   * not readable.
   */
  async dropPagesNow(inode: Inode): Promise<void> {
    if (!inode.hasPages) return;
    const waiting = inode.file === null ? [] : [...inode.file.held, ...inode.file.accesses];
    const locked = waiting.filter(({ isPaged }) => isPaged);
    await this.#options.kernelCache.dropRanges(inode, without(WHOLE, locked));
  }

  /** The session is lost, and with it every lease: what was accepted is not sent any more, what waits asks anew. */
  lose(file: OpenFile): void {
    file.tenure++;
    const { revocation } = file;
    if (revocation !== null) {
      if (revocation.keep === "none") file.inode.hasPages = true; // it may not have come to all
      this.#end(file, revocation);
    }
    file.gathered?.send(); // nothing of the next one is added to it
    file.wake();
  }
}
