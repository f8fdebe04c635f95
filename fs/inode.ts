/**
 * What this mount knows of one inode, and of a file that is open here. Asks nobody.
 *
 * Inode: attributes and, while a lease allows it, what hangs on them: entries of a directory, xattrs, the block map. One
 * object an inode, for as long as the kernel knows it or it is open.
 * OpenFile: what was written here but not yet reported to the nameserver, and the accesses to the data that are under way.
 * One object an inode, shared by all its handles.
 *
 * Invariants:
 * - What is marked known is what the nameserver would answer now, as long as the session is valid.
 * - `entries` has every name of the directory that the kernel may have with a timeout, so that a recall finds it.
 * - Attributes are replaced only by newer ones (`version`).
 * - `size` is what this mount's processes see: the nameserver's, or the end of our own uncommitted writes if that is
 *   larger. A commit reports that end only, never a size that it was told: another client may have cut the file.
 * - Data is read and written only within an access (data_access.ts), which holds a lease.
 */

import { copyBytes } from "../base/bytes.ts";
import { type Timespec, timespecCompare } from "../base/clock.ts";
import type { FsError } from "../wire/errno.ts";
import { type BlockId, type Generation, type InodeId, ROOT_INODE } from "../wire/ids.ts";
import {
  allocatedOf,
  type Attributes,
  type Block,
  type LeaseMode,
  S_IFDIR,
  S_IFMT,
  S_ISGID,
  S_ISUID,
} from "../wire/messages/inode.ts";
import { BlockMap } from "./block_map.ts";
import type { GatheredWrite } from "./gathered_write.ts";
import type { InlineBuffer } from "./inline_buffer.ts";
import type { ByteRange, PendingWrite } from "./pending_write.ts";
import type { RemovedXattrs } from "./removed_xattrs.ts";

/** A name that leads nowhere. */
export const ABSENT = 0 as InodeId;
/** A name that the kernel may have, but of which we don't know where it leads. */
export const UNKNOWN = -1 as InodeId;

/** So much later at most, on a machine that is not overloaded, a process opens what it has looked up. */
const OPEN_AFTER_LOOKUP_MS = 1_000;
/** Names noted of one directory, about 100 bytes each. */
const NAMES_MAX = 250_000;

/** A thread that can't be seen from here, as the kernel names it; and more than one. */
const UNSEEN = 0;
const SEVERAL = -1;

export class Inode {
  readonly ino: InodeId;
  attributes: Attributes;
  /** False: ask the nameserver before showing attributes. */
  attributesKnown = false;
  lease: LeaseMode = "none";
  /** When a lease was taken back last, or given back: `InodeTable.moment`. */
  recalledAt = 0;
  /** How often the kernel was told of it, less what it forgot. */
  lookups = 0;
  /** When the kernel was told of it last, and the time before; milliseconds of the monotonic clock. */
  #toldMs = -Infinity;
  #toldBeforeMs = -Infinity;
  /** Changes of it, or that rest upon it, which the nameserver has not been told of yet (deferred_changes.ts). */
  deferred = 0;
  /** When it was changed here last without asking, milliseconds of the monotonic clock: the kernel may not have taken that yet. */
  changedHereMs = -Infinity;
  /** Some of those were lost: the next change of it, or in it, fails. */
  hasLostChange = false;
  /** Recalls of it that are under way: nothing of it is deferred meanwhile. */
  yielding = 0;
  /** It was read then, which the nameserver may not know yet. */
  accessedAt: Timespec | null = null;
  /** Changes of its attributes that this mount has asked for: others may see them before the answer comes. */
  changesAsked = 0;
  /** Removals of it that are under way here: an open then asks the nameserver. */
  removing = 0;
  /** It has lost its last name, or was about to: it goes with the last close, so that an open asks the nameserver. */
  isUnlinked = false;
  /**
   * When its last name went, the nameserver was told that the kernel knows it still: something may hold it that is no open
   * file (O_PATH). It counts as open until the kernel forgets it.
   */
  isHeldWithoutName = false;
  /** The kernel may have pages of it: file data, or a directory's whole listing (directory_stream.ts). */
  hasPages = false;
  /** Reads that may have brought pages of file data. */
  pagesBrought = 0;
  /** Pages from before the session was lost may still be there. */
  hasStalePages = false;

  /** Directories: where names lead, by bytesKey. */
  entries: Map<string, InodeId> | null = null;
  /** Directories: a name that is not in `entries` is absent. */
  isComplete = false;
  /** Directories: it is not worth while to look for room in `entries`. */
  isFull = false;
  /** Directories: changes of names, by bytesKey, that this mount has asked for: others may see them before the answer comes. */
  #namesAsked: Map<string, number> | null = null;
  /** Directories: when this mount asked for one last, milliseconds of the monotonic clock. */
  namesAskedMs = -Infinity;
  /** Directories: the kernel may have names of it with a time-out that it was told in this epoch, or before. */
  namesToldIn = -1;
  /** Directories: or that came with a listing, to which the kernel gives the epoch in which it takes them. */
  namesListed = false;
  /**
   * Directories: the thread that asked for their attributes since the last change of names here, if it is only one. A change makes
   * the kernel forget them, but not what another thread was answered before and takes only afterwards: without a version that has
   * changed (INVAL_INODE) it would keep that for as long as it may.
   */
  #attributesToldTo: number | null = null;
  /** Directories: open handles here. */
  directoryHandles = 0;
  /** Directories: when the oldest of the entries was asked for that lie in the kernel's pages (`InodeTable.moment`). */
  listedSince = Infinity;
  /** Directories: the same of those that may come to lie there yet, by who was given them. */
  listing: Map<object, number> | null = null;
  /** Symlinks. */
  target: Uint8Array | null = null;
  /** Values by bytesKey of the name, null: there is none; while a lease is held. */
  xattrs: Map<string, Uint8Array | null> | null = null;
  xattrNames: readonly Uint8Array[] | null = null;
  /** After its removal, of what the nameserver has forgotten then. */
  removedXattrs: RemovedXattrs | null = null;
  /** Counts leases that came when there was none: others may have changed everything before each. */
  grants = 0;
  /** Regular files: operations of ours that change its replicas, begun so far and under way. */
  changes = 0;
  changing = 0;
  /** Regular files: what is known of its blocks. */
  blocks: BlockMap | null = null;
  /** Regular files: the data that the nameserver keeps itself (`Attributes.inlineBytes`), if it is known; never changed. */
  inline: Uint8Array | null = null;
  /** Another mount had it open for writing when it was opened here last. */
  isShared = false;
  /** While it is open here, or closing. */
  file: OpenFile | null = null;
  /** A report of what was written that left with the answer to a recall, until the server has answered it. */
  handingOver: Promise<void> | null = null;
  /** When it left (`InodeTable.moment`): answers to what was asked before don't know of it. */
  handedOverAt = 0;
  /** The server takes it for open here. */
  isRegistered = false;

  constructor(attributes: Attributes) {
    this.ino = attributes.ino;
    this.attributes = attributes;
    // The kernel has the root from the start, and never forgets it.
    if (this.ino === ROOT_INODE) this.lookups = 1;
  }

  /** True when attributes can be shown without asking (the session is looked at elsewhere). */
  get isFresh(): boolean {
    return this.attributesKnown && this.lease !== "none" && this.changesAsked === 0;
  }

  /** Its name may go before an open here is known to the nameserver. */
  get mayVanish(): boolean {
    return this.isUnlinked || this.removing > 0;
  }

  /** A thread is answered with its attributes. */
  tellAttributes(thread: number): void {
    if ((this.attributes.mode & S_IFMT) !== S_IFDIR) return;
    const isOnly = thread !== UNSEEN && (this.#attributesToldTo ?? thread) === thread;
    this.#attributesToldTo = isOnly ? thread : SEVERAL;
  }

  /** `thread` has changed names of it; true when another one may not have taken yet what it was answered before. */
  takeAttributesBack(thread: number): boolean {
    const told = this.#attributesToldTo;
    this.#attributesToldTo = null;
    return told !== null && told !== thread;
  }

  /** The kernel is told of it. */
  tell(nowMs: number): void {
    this.lookups++;
    this.#toldBeforeMs = this.#toldMs;
    this.#toldMs = nowMs;
  }

  /**
   * A process may have looked its name up, and be about to open it. Who takes the name away has often looked it up as well,
   * so that it takes two of them.
   */
  mayBeOpenedSoon(nowMs: number): boolean {
    return nowMs - this.#toldBeforeMs < OPEN_AFTER_LOOKUP_MS;
  }

  /** Attributes and xattrs were changed by somebody. */
  forgetAttributes(): void {
    this.attributesKnown = false;
    this.forgetXattrs();
  }

  forgetXattrs(): void {
    this.xattrs = null;
    this.xattrNames = null;
  }

  /** No lease is left: nothing of it may be shown any more. */
  forgetAll(): void {
    this.forgetAttributes();
    this.lease = "none";
    this.blocks?.clear();
    this.inline = null;
    this.entries = null;
    this.isComplete = false;
    this.isFull = false;
  }

  /** The file was cut, or grew, by a truncate of ours. */
  resizeInline(size: number): void {
    if (this.inline !== null && this.inline.length > size) {
      this.inline = copyBytes(this.inline.subarray(0, size));
    }
  }

  /** Where a name of the directory leads, as far as that is known. */
  entry(key: string): InodeId {
    if (this.#namesAsked?.has(key) === true) return UNKNOWN;
    return this.entries?.get(key) ?? (this.isComplete ? ABSENT : UNKNOWN);
  }

  /** A change of a name is asked for: until `endChange` nothing is known of where it leads, nor kept. */
  beginChange(key: string): void {
    this.setEntry(key, UNKNOWN);
    this.#namesAsked ??= new Map();
    this.#namesAsked.set(key, (this.#namesAsked.get(key) ?? 0) + 1);
  }

  endChange(key: string): void {
    const count = (this.#namesAsked?.get(key) ?? 1) - 1;
    if (count > 0) this.#namesAsked!.set(key, count);
    else this.#namesAsked?.delete(key);
  }

  /** This mount is asking for changes of names. */
  get isChangingNames(): boolean {
    return this.#namesAsked !== null && this.#namesAsked.size > 0;
  }

  /** Notes where a name leads. Only under a lease. False: it may not be kept, as it is being changed, or there are too many. */
  setEntry(key: string, ino: InodeId): boolean {
    if (this.#namesAsked?.has(key) === true) return false;
    this.entries ??= new Map();
    if (this.entries.size >= NAMES_MAX && !this.entries.has(key)) {
      this.isComplete = false;
      return false;
    }
    this.entries.set(key, ino);
    return true;
  }

  /** Makes room for names, if there is none, by those that lead nowhere; true when the kernel must forget them as well. */
  forgetAbsent(): boolean {
    const { entries } = this;
    if (entries === null || entries.size < NAMES_MAX || this.isFull) return false;
    for (const [key, ino] of entries) {
      if (ino === ABSENT || ino === UNKNOWN) entries.delete(key);
    }
    this.isComplete = false;
    this.isFull = entries.size > NAMES_MAX / 2;
    return true;
  }
}

/** Attributes with the time of an access that was noted here, if that is later. */
export function withAccess(attributes: Attributes, { accessedAt }: Inode): Attributes {
  if (accessedAt === null || timespecCompare(accessedAt, attributes.atime) <= 0) return attributes;
  return { ...attributes, atime: accessedAt };
}

/** What is under a name; `isKept`: the name may be cached. */
export interface Found {
  /** Null: there is no such name. */
  readonly inode: Inode | null;
  readonly isKept: boolean;
}

/** What is to be reported of a block. */
export interface BlockNote {
  readonly start: number;
  readonly length: number;
  /** Bytes that each of its replicas takes on its disk; undefined where that is not known. */
  readonly allocated: number | undefined;
}

/** A read or write of data that is under way, or waits for its lease. */
export interface Access extends ByteRange {
  readonly isWrite: boolean;
  /** The kernel may hold locks on its pages until it is answered, and keeps them in its cache afterwards. */
  readonly isPaged: boolean;
  /** The kernel writes back a mapping: it can't be held up while the pages are being taken away. */
  readonly isWriteback: boolean;
}

/** How a lease is being taken back, step by step; see data_access.ts. */
export interface Revocation {
  readonly keep: LeaseMode;
  /** Paged accesses since the pages' invalidation began. */
  touched: ByteRange[];
  invalidating: readonly ByteRange[];
  /** New accesses wait, but those that the invalidation waits for. */
  isHolding: boolean;
  readonly ended: Promise<void>;
  readonly end: () => void;
}

export class OpenFile {
  readonly inode: Inode;
  /** Open handles; at 0 the object goes. */
  handles = 0;
  /** Of those, the ones that may write. */
  writers = 0;
  /** The highest end of a write since the last commit, while `dirty`. */
  reach = 0;
  /** Something here is not yet committed: size, times or written blocks. */
  dirty = false;
  dirtySinceMs = 0;
  mtime: Timespec;
  killSuidGid = false;
  /** What was written since the last commit of data that the nameserver keeps itself, and what it was before. */
  inline: InlineBuffer | null = null;
  /** What the nameserver keeps is in blocks by now, which is not yet committed. */
  isOutgrown = false;
  /** Blocks that got data since the last commit; one whose room has changed since is another object. */
  readonly written = new Map<BlockId, BlockNote>();
  /** Blocks without data for which room was reserved since the last commit. */
  readonly reserved = new Map<BlockId, BlockNote>();
  /**
   * Blocks that got data since their replicas' last fsync, and the generation under which they got the first of it; each
   * write puts another object.
   */
  readonly unsynced = new Map<BlockId, { readonly start: number; readonly since: Generation }>();
  /** Changes of it that were asked for since the nameserver last said that all is on its disk. */
  unsyncedReports = 0;
  /** `Inode.grants` when the blocks that others may have written to were synced last; -1: never while it is open. */
  restSyncedAt = -1;
  readonly pending = new Set<PendingWrite>();
  /** Of those, the one that more can be added to. */
  gathered: GatheredWrite | null = null;
  pendingBytes = 0;
  /** The last failure of a write after it was accepted, and how many there were; each handle tells of new ones once. */
  writeError: FsError | null = null;
  writeErrors = 0;
  /** Commits of this file run one after the other, and so do allocations of its blocks. */
  committing: Promise<unknown> = Promise.resolve();
  allocating: Promise<unknown> = Promise.resolve();
  /** Counts losses of the session: what was accepted under an earlier one is not sent any more. */
  tenure = 0;

  readonly accesses = new Set<Access>();
  /** Accesses that wait for a lease. */
  readonly held = new Set<Access>();
  revocation: Revocation | null = null;
  /** Bytes that are zeros, whatever a page that the kernel still has says; see past_the_end.ts. */
  stale: ByteRange | null = null;
  acquiring: Promise<void> | null = null;
  /** Woken when an access has ended or a revocation has come a step further. */
  readonly waiters = new Set<() => void>();

  constructor(inode: Inode) {
    this.inode = inode;
    this.mtime = inode.attributes.mtime;
    inode.blocks ??= new BlockMap();
  }

  get ino(): InodeId {
    return this.inode.ino;
  }

  get blocks(): BlockMap {
    return this.inode.blocks!;
  }

  get size(): number {
    const { size } = this.inode.attributes;
    return this.dirty ? Math.max(size, this.reach) : size;
  }

  /** Bytes from the start that the nameserver keeps itself, with what is ours; 0: data is in blocks, or there is none. */
  get inlineBytes(): number {
    if (this.isOutgrown) return 0;
    return this.inline?.length ?? this.inode.attributes.inlineBytes ?? 0;
  }

  /** Accepted writes or uncommitted ones. */
  get isUnflushed(): boolean {
    return this.dirty || this.pending.size > 0;
  }

  /** Attributes with what is ours put over them. */
  shown(attributes: Attributes = this.inode.attributes): Attributes {
    if (!this.dirty) return attributes;
    const size = Math.max(attributes.size, this.reach);
    let mode = attributes.mode;
    if (this.killSuidGid) {
      mode &= ~S_ISUID;
      if ((mode & 0o010) !== 0) mode &= ~S_ISGID;
    }
    const { mtime } = this;
    return {
      ...attributes,
      mode,
      size,
      allocatedBytes: this.#allocatedBytes(attributes, size),
      inlineBytes: this.inlineBytes,
      mtime,
      ctime: timespecCompare(attributes.ctime, mtime) > 0 ? attributes.ctime : mtime,
    };
  }

  /** With what is not reported yet. What was accepted counts as if it went into holes, until it is on the replicas. */
  #allocatedBytes(attributes: Attributes, size: number): number {
    let sum = attributes.allocatedBytes - (attributes.inlineBytes ?? 0) + this.inlineBytes +
      this.pendingBytes;
    for (const notes of [this.written, this.reserved]) {
      for (const [id, { start, length, allocated }] of notes) {
        const known = this.blocks.at(start);
        if (known?.id === id) sum -= allocatedOf(known, attributes.size);
        sum += allocatedOf({ start, length, ...allocated === undefined ? {} : { allocated } }, size);
      }
    }
    return Math.max(0, sum);
  }

  /** Notes what a block takes on a disk now, and that it holds data if it `isWritten`. */
  noteBlock(block: Block, isWritten: boolean, allocated: number | undefined): void {
    const { id, start, length } = block;
    const notes = isWritten || this.hasData(block) ? this.written : this.reserved;
    if (notes === this.written) this.reserved.delete(id);
    const noted = notes.get(id);
    if (noted === undefined && this.#isReported(block, allocated)) return;
    if (noted === undefined || noted.allocated !== allocated || noted.length !== length) {
      notes.set(id, { start, length, allocated });
    }
  }

  /** The nameserver knows that the block holds data, and what it takes. */
  #isReported({ id, start }: Block, allocated: number | undefined): boolean {
    const known = this.blocks.at(start);
    return known?.id === id && known.written && known.allocated === allocated;
  }

  /** Nothing is to be reported but times and room: all data is found with what the nameserver knows. */
  get isFindable(): boolean {
    if (this.inline !== null || this.isOutgrown || this.killSuidGid) return false;
    if (this.dirty && this.reach > this.inode.attributes.size) return false;
    for (const { start } of [...this.written.values(), ...this.reserved.values()]) {
      if (this.blocks.at(start)?.written !== true) return false;
    }
    return true;
  }

  /** Notes that bytes up to `end` were written now. */
  wrote(end: number, mtime: Timespec, nowMs: number): void {
    if (!this.dirty) {
      this.dirty = true;
      this.dirtySinceMs = nowMs;
      this.reach = 0;
    }
    if (end > this.reach) this.reach = end;
    this.mtime = mtime;
  }

  /** True when the block holds data: committed, or written here since. */
  hasData(block: Block): boolean {
    return block.written || this.written.has(block.id);
  }

  /**
   * What is sent to the block may make its replicas. Not once they have had something, though nobody was told of that: one
   * that has lost it with the power of its machine must not begin anew.
   */
  makesReplicas(block: Block): boolean {
    return !this.hasData(block);
  }

  #overlapping(start: number, end: number): PendingWrite[] {
    return [...this.pending].filter((write) => write.overlaps(start, end));
  }

  /** True while an accepted write overlaps [start, end). */
  hasPending(start: number, end: number): boolean {
    return this.pending.size > 0 && this.#overlapping(start, end).length > 0;
  }

  /** Resolves when no accepted write but `except` overlaps [start, end) any more. */
  async settled(start: number, end: number, except?: PendingWrite): Promise<void> {
    for (;;) {
      const writes = this.#overlapping(start, end).filter((write) => write !== except);
      if (writes.length === 0) return;
      for (const write of writes) write.send();
      await Promise.all(writes.map((write) => write.done));
    }
  }

  /** Waits until nothing overlaps [start, end), and takes it; what it gives ends that. */
  async occupy(start: number, end: number): Promise<() => void> {
    while (this.hasPending(start, end)) await this.settled(start, end);
    return this.begin(start, end);
  }

  /** As `occupy`, of a range that nothing overlaps. */
  begin(start: number, end: number): () => void {
    const { promise: done, resolve } = Promise.withResolvers<void>();
    const overlaps = (from: number, to: number) => start < to && from < end;
    const pending: PendingWrite = { overlaps, done, send: () => {} };
    this.pending.add(pending);
    return () => {
      this.pending.delete(pending);
      resolve();
    };
  }

  /** Something that was accepted could not be stored. */
  fail(error: FsError): void {
    this.writeError = error;
    this.writeErrors++;
  }

  /** What is not reported never will be; `fail` says so. */
  abandon(): void {
    this.dirty = false;
    this.reach = 0;
    this.killSuidGid = false;
    this.written.clear();
    this.reserved.clear();
    this.inline = null;
    this.isOutgrown = false;
  }

  wake(): void {
    for (const wake of [...this.waiters]) wake();
  }
}
