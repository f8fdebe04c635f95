/**
 * A file that is open on this mount: its attributes as known, what may be cached of it, its block map, and what was
 * written here but not yet reported to the nameserver. One object an inode, shared by all its handles.
 *
 * Invariants:
 * - `size` is what this mount's processes see: the nameserver's, or the end of our own uncommitted writes if that is
 *   larger. A commit reports that end only, never a size that it was told: another client may have cut the file.
 * - A lease in a reply counts only if no recall came between the request and the reply (`recalls`).
 * - Attributes are replaced only by newer ones (`version`).
 */

import type { Timespec } from "../base/clock.ts";
import type { FsError } from "../wire/errno.ts";
import type { BlockId, InodeId } from "../wire/ids.ts";
import type { Attributes, Block, InodeReply, LeaseMode } from "../wire/messages/inode.ts";
import { S_ISGID, S_ISUID } from "../wire/messages/inode.ts";
import { BlockMap } from "./block_map.ts";

/** Something that a user may give up on; the signal is made when it is first looked at. */
export interface Interruptible {
  readonly signal: AbortSignal;
}

/** A write that was accepted but not yet acknowledged by all replicas. */
export interface PendingWrite {
  readonly start: number;
  readonly end: number;
  /** Never rejects; failures are kept in the file's `writeError`. */
  readonly done: Promise<void>;
}

export class OpenFile {
  readonly ino: InodeId;
  attributes: Attributes;
  /** False: ask the nameserver before showing attributes. */
  attributesKnown = true;
  lease: LeaseMode;
  /** Counts recalls, so that a lease in a reply that crossed one is not believed. */
  recalls = 0;
  /** Open handles; at 0 the object goes. */
  handles = 0;
  readonly blocks = new BlockMap();
  /** The highest end of a write since the last commit, while `dirty`. */
  reach = 0;
  /** Something here is not yet committed: size, times or written blocks. */
  dirty = false;
  dirtySinceMs = 0;
  mtime: Timespec;
  killSuidGid = false;
  /** Blocks that got data since the last commit, and where they start. */
  readonly written = new Map<BlockId, number>();
  /** Blocks that got data since their replicas' last fsync. */
  readonly unsynced = new Map<BlockId, number>();
  readonly pending = new Set<PendingWrite>();
  pendingBytes = 0;
  /** The first failure of a write after it was accepted; told once, by the next fsync or close. */
  writeError: FsError | null = null;
  /** Commits of this file run one after the other, and so do allocations of its blocks. */
  committing: Promise<unknown> = Promise.resolve();
  allocating: Promise<unknown> = Promise.resolve();

  constructor(reply: InodeReply) {
    this.ino = reply.attributes.ino;
    this.attributes = reply.attributes;
    this.lease = reply.lease;
    this.mtime = reply.attributes.mtime;
  }

  get size(): number {
    return this.dirty ? Math.max(this.attributes.size, this.reach) : this.attributes.size;
  }

  /** Takes over what a reply says. `recallsBefore`: `recalls` when its request was sent. */
  adopt(reply: InodeReply, recallsBefore: number): void {
    if (this.recalls === recallsBefore) this.lease = reply.lease;
    if (reply.attributes.version < this.attributes.version) return;
    this.attributes = reply.attributes;
    this.attributesKnown = true;
    if (!this.dirty) this.mtime = reply.attributes.mtime;
  }

  /** True when attributes can be shown without asking. */
  get isFresh(): boolean {
    return this.attributesKnown && this.lease !== "none";
  }

  /** Attributes with what is ours put over them. */
  shown(attributes: Attributes = this.attributes): Attributes {
    if (!this.dirty) return attributes;
    const size = Math.max(attributes.size, this.reach);
    let mode = attributes.mode;
    if (this.killSuidGid) {
      mode &= ~S_ISUID;
      if ((mode & 0o010) !== 0) mode &= ~S_ISGID;
    }
    return {
      ...attributes,
      mode,
      size,
      allocatedBytes: attributes.allocatedBytes + size - attributes.size,
      mtime: this.mtime,
      ctime: this.mtime,
    };
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

  #overlapping(start: number, end: number): PendingWrite[] {
    return [...this.pending].filter((write) => write.start < end && write.end > start);
  }

  /** True while an accepted write overlaps [start, end). */
  hasPending(start: number, end: number): boolean {
    return this.pending.size > 0 && this.#overlapping(start, end).length > 0;
  }

  /** Resolves when no accepted write overlaps [start, end) any more. */
  async settled(start: number, end: number): Promise<void> {
    while (this.hasPending(start, end)) {
      await Promise.all(this.#overlapping(start, end).map((write) => write.done));
    }
  }
}
