/**
 * All inodes that this mount knows, and the order of grants and recalls.
 *
 * Invariant: a lease in a reply counts only if nothing of the inode was taken back, or given back, since the request was
 * sent: `moment` is read before the request, and compared when its reply is taken over.
 */

import { bytesKey } from "../base/bytes.ts";
import { type InodeId, ROOT_INODE } from "../wire/ids.ts";
import { type InodeReply, LEASE_RANK, type LeaseMode } from "../wire/messages/inode.ts";
import type { AcquireReply } from "../wire/messages/nameserver.ts";
import { BlockMap } from "./block_map.ts";
import { Inode } from "./inode.ts";
import { InlineCache } from "./inline_cache.ts";

/** Recalls of inodes that are not in the table; which of them a late reply speaks of is remembered for so many. */
const STRANGERS_MAX = 4_096;

export class InodeTable {
  readonly #inodes = new Map<InodeId, Inode>();
  #moment = 1;
  readonly #strangers = new Map<InodeId, number>();
  /** No lease granted before counts, of whatever inode. */
  #floor = 0;
  /** When everything was taken back last. */
  #lost = 0;
  readonly inline = new InlineCache();

  get size(): number {
    return this.#inodes.size;
  }

  values(): IterableIterator<Inode> {
    return this.#inodes.values();
  }

  get(ino: InodeId): Inode | undefined {
    return this.#inodes.get(ino);
  }

  /** Now, in the order of requests and recalls. */
  get moment(): number {
    return this.#moment;
  }

  /** Something of the inode is taken back, or given back: leases in replies to earlier requests don't count. */
  noteRecall(ino: InodeId): void {
    const moment = ++this.#moment;
    const inode = this.#inodes.get(ino);
    if (inode !== undefined) {
      inode.recalledAt = moment;
      return;
    }
    this.#noteStranger(ino, moment);
  }

  #noteStranger(ino: InodeId, moment: number): void {
    this.#strangers.delete(ino);
    this.#strangers.set(ino, moment);
    if (this.#strangers.size <= STRANGERS_MAX) return;
    const [oldest, at] = this.#strangers.entries().next().value!;
    this.#strangers.delete(oldest);
    this.#floor = Math.max(this.#floor, at);
  }

  /** Everything is taken back. What the server says from now on counts, though it may have known more before (a power cut). */
  noteLoss(): void {
    this.#floor = this.#lost = ++this.#moment;
    this.#strangers.clear();
    for (const inode of this.#inodes.values()) inode.attributes = { ...inode.attributes, version: 0 };
  }

  /** True when a lease on the inode in the reply to a request of `askedAt` does not count any more. */
  isCrossed(ino: InodeId, askedAt: number): boolean {
    if (askedAt < this.#floor) return true;
    const at = this.#inodes.get(ino)?.recalledAt ?? this.#strangers.get(ino) ?? 0;
    return at > askedAt;
  }

  /** True when everything was taken back since. */
  isLost(askedAt: number): boolean {
    return this.#lost > askedAt;
  }

  /** An inode that was made here, which the nameserver does not know yet. */
  add(inode: Inode): void {
    this.#inodes.set(inode.ino, inode);
  }

  /** What is known under the number of an inode that may have been removed since: it again, if nothing is. */
  kept(inode: Inode): Inode {
    const known = this.#inodes.get(inode.ino);
    if (known !== undefined) return known;
    inode.recalledAt = Math.max(inode.recalledAt, this.#strangers.get(inode.ino) ?? 0);
    this.#inodes.set(inode.ino, inode);
    return inode;
  }

  /** Takes over what a reply says of an inode. */
  adopt(reply: InodeReply, askedAt: number): Inode {
    const { attributes, lease, target, blocks } = reply;
    let inode = this.#inodes.get(attributes.ino);
    const isCrossed = this.isCrossed(attributes.ino, askedAt);
    const isLost = this.isLost(askedAt);
    if (inode === undefined) {
      inode = new Inode(isLost ? { ...attributes, version: 0 } : attributes);
      this.#inodes.set(inode.ino, inode);
      inode.recalledAt = this.#strangers.get(inode.ino) ?? 0;
    }
    const isNewer = !isLost && attributes.version >= inode.attributes.version &&
      askedAt >= inode.handedOverAt;
    if (isNewer) inode.attributes = attributes;
    if (target !== undefined) inode.target = target;
    if (isCrossed || lease === "none") return inode;
    this.#raise(inode, lease);
    inode.attributesKnown = true;
    if (attributes.nlink > 0) inode.isUnlinked = false;
    // An answer from before a commit of ours may come after it: it knows of no data in a block that has some.
    if (isNewer && blocks !== undefined && inode.file === null && isAll(reply)) {
      inode.blocks = new BlockMap();
      inode.blocks.learn(0, Number.MAX_SAFE_INTEGER, blocks);
    }
    if (reply.inline !== undefined && inode.attributes.version === attributes.version) {
      this.inline.keep(inode, reply.inline);
    }
    return inode;
  }

  /**
   * As `adopt`, of what nobody here waits for: undefined when the inode was given back meanwhile, as nobody would do that again.
   */
  adoptKnown(reply: InodeReply, askedAt: number): Inode | undefined {
    return this.#inodes.has(reply.attributes.ino) ? this.adopt(reply, askedAt) : undefined;
  }

  /** Takes over what a reply says of a directory besides what it is about. True when it may be kept. */
  adoptLease(inode: Inode, lease: LeaseMode, askedAt: number): boolean {
    if (lease === "none" || this.isCrossed(inode.ino, askedAt)) return false;
    this.#raise(inode, lease);
    return true;
  }

  #raise(inode: Inode, lease: LeaseMode): void {
    // What was asked of its blocks while there was no lease may have changed since (an fsync asks then).
    if (inode.lease === "none") {
      inode.blocks?.clear();
      inode.inline = null;
    }
    if (LEASE_RANK[lease] <= LEASE_RANK[inode.lease]) return;
    if (inode.lease === "none") inode.grants++;
    inode.lease = lease;
  }

  /**
   * Notes that a name leads to `ino` (or ABSENT), as a reply to a request of `askedAt` says. `lease`: what it says of the
   * directory. True when it may be kept.
   */
  adoptEntry(parent: InodeId, name: Uint8Array, ino: InodeId, lease: LeaseMode, askedAt: number): boolean {
    const directory = this.#inodes.get(parent);
    if (directory === undefined || !this.adoptLease(directory, lease, askedAt)) return false;
    return directory.setEntry(bytesKey(name), ino);
  }

  /** The inode is not needed any more. */
  remove(inode: Inode): void {
    if (this.#inodes.get(inode.ino) !== inode || inode.ino === ROOT_INODE) return;
    this.#inodes.delete(inode.ino);
    this.inline.drop(inode);
    // Replies that are on their way speak of a lease that was given back.
    if (inode.recalledAt > 0) this.#noteStranger(inode.ino, inode.recalledAt);
  }
}

/** The blocks in a reply are all that the file has. */
function isAll(reply: InodeReply): boolean {
  return (reply as Partial<AcquireReply>).blocksComplete !== false;
}
