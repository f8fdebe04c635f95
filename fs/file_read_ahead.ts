/**
 * Reading ahead in small files: who reads a directory's files one after the other, as they were listed (grep -r, tar, cp -r),
 * gets the next ones fetched beside, whole, so that their reads are answered from memory. That is files of one block; what the
 * nameserver keeps itself comes with the listing (name_read_ahead.ts).
 *
 * Why that is right: whoever changes a file's data holds WRITE, and we hold a lease from before a dataserver is asked until
 * the bytes are used. So they are what it would answer now.
 *
 * Invariants:
 * - What was fetched belongs to a block as the block map has it (the object): what takes the map away, as a recall or the
 *   session's end does, takes the bytes with it, also those that are still on their way.
 * - What this mount itself changes (`Inode.changes`), or has accepted and not reported, takes them away as well.
 * - Nothing is asked for, or used, once the session may have ended.
 * - Nobody is told of a failure, nor waits for one: what is not there is read as if nothing had been fetched.
 * - At most WINDOW questions are under way, and KEPT_MAX files kept, none for more than KEPT_MS and a sweep.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { FsError } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import { type Block, S_IFMT, S_IFREG } from "../wire/messages/inode.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Dataservers } from "./dataservers.ts";
import type { Inode, OpenFile } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";

/** Files read in a row, after which more are fetched. */
const IN_ROW_MIN = 3;
/** Files fetched before they are read, of one listing; and questions under way, of all. */
const WINDOW = 8;
/** Listed files among which those are looked for. */
const SPAN = 64;
/** Larger ones are worth a question of their own. */
const SMALL_BYTES_MAX = 64 * 1024;
/** 16 MiB. */
const KEPT_MAX = 256;
const KEPT_MS = 3_000;

export interface FileReadAheadOptions {
  readonly session: Pick<ClusterSession, "isValid">;
  readonly table: InodeTable;
  readonly dataservers: Pick<Dataservers, "client" | "nearestFirst">;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Small files as one answer has listed them, and how far they were read. */
interface Listing {
  readonly files: readonly InodeId[];
  /** The one that was begun to be read from its start last, and the one that was read to its end last; -1: none. */
  begun: number;
  last: number;
  /** Files that were read one after the other until that one, with those of listings before; and of those, the latter. */
  inRow: number;
  inRowBefore: number;
  /** The next one to look at for fetching. */
  next: number;
  /** Fetched, or being fetched, and not read. */
  ahead: number;
}

interface Place {
  readonly listing: Listing;
  readonly index: number;
}

/** A file's data, of one block object. */
interface Fetched {
  readonly inode: Inode;
  readonly block: Block;
  readonly listing: Listing;
  /** Of all of it, the size of the file when it was asked for. */
  readonly length: number;
  /** Of the inode, before it was asked for. */
  readonly changes: number;
  readonly sinceMs: number;
  /** Null while it is on its way. */
  bytes: Uint8Array | null;
  readonly arrived: Promise<void>;
}

export class FileReadAhead {
  readonly #options: FileReadAheadOptions;
  readonly #places = new WeakMap<Inode, Place>();
  /** The listing of which a file was read last. */
  #listing: Listing | null = null;
  /** The oldest first. */
  readonly #kept = new Map<Block, Fetched>();
  #asking = 0;

  constructor(options: FileReadAheadOptions) {
    this.#options = options;
  }

  /** These were listed together, in this order. */
  listed(inodes: readonly Inode[]): void {
    const small = inodes.filter(isSmallFile);
    if (small.length === 0) return;
    const files = small.map(({ ino }) => ino);
    const listing: Listing = { files, begun: -1, last: -1, inRow: 0, inRowBefore: 0, next: 0, ahead: 0 };
    small.forEach((inode, index) => this.#places.set(inode, { listing, index }));
  }

  /** [offset, end) of the file is being read: fetches those behind it, if that goes on in order. */
  reading(file: OpenFile, offset: number, end: number): void {
    const { size, inode } = file;
    if (size > SMALL_BYTES_MAX) return;
    const place = this.#places.get(inode);
    if (place === undefined) return;
    const { listing, index } = place;
    if (offset === 0) listing.begun = index;
    if (end < size || listing.begun !== index) return;
    if (index !== listing.last) {
      const before = this.#inRowBefore(listing, index);
      if (before === 0) listing.next = index + 1;
      if (before === 0 || listing.last < 0) listing.inRowBefore = before;
      listing.inRow = before + 1;
      listing.last = index;
      this.#listing = listing;
    }
    if (listing.inRow >= IN_ROW_MIN) this.#fetchBehind(listing, index);
  }

  /** How many were read in a row until the one before `index`. */
  #inRowBefore(listing: Listing, index: number): number {
    const { last, inRow } = listing;
    if (last >= 0) return index > last && this.#arePassed(listing, last + 1, index) ? inRow : 0;
    // With the first of a listing a walk goes on: the one before was read to its end, or well into it, up to a directory.
    const before = this.#listing;
    if (before === null || !this.#arePassed(listing, 0, index)) return 0;
    const isWalk = before.inRow - before.inRowBefore >= IN_ROW_MIN ||
      this.#arePassed(before, before.last + 1, before.files.length);
    return isWalk ? before.inRow : 0;
  }

  /** Those that the kernel has already it reads without us. */
  #arePassed({ files }: Listing, from: number, to: number): boolean {
    if (to - from > SPAN) return false;
    for (let i = from; i < to; i++) {
      if (this.#options.table.get(files[i]!)?.hasPages === false) return false;
    }
    return true;
  }

  #fetchBehind(listing: Listing, index: number): void {
    const { files } = listing;
    if (listing.next <= index) listing.next = index + 1;
    const end = Math.min(files.length, index + 1 + SPAN);
    while (
      listing.next < end && listing.ahead < WINDOW && this.#asking < WINDOW && this.#kept.size < KEPT_MAX
    ) {
      const inode = this.#options.table.get(files[listing.next++]!);
      const block = inode === undefined ? undefined : this.#wanted(inode);
      if (block !== undefined && !this.#kept.has(block)) void this.#fetch(inode!, block, listing);
    }
  }

  /** The one block of a file that may be fetched, and that nobody here has. */
  #wanted(inode: Inode): Block | undefined {
    const { attributes: { size, inlineBytes = 0 }, file } = inode;
    // What is known of blocks without a lease may be old.
    if (inode.lease === "none" || inode.yielding > 0 || inode.deferred > 0) return undefined;
    if (inode.hasPages || (file !== null && file.revocation !== null)) return undefined;
    if (size === 0 || size > SMALL_BYTES_MAX || inlineBytes > 0) return undefined;
    const block = inode.blocks?.at(0);
    return block?.written === true && block.length >= size ? block : undefined;
  }

  async #fetch(inode: Inode, block: Block, listing: Listing): Promise<void> {
    const { dataservers, clock, log } = this.#options;
    const { promise: arrived, resolve } = Promise.withResolvers<void>();
    const { attributes: { size: length }, changes } = inode;
    const sinceMs = clock.monotonicMs();
    const fetched: Fetched = { inode, block, listing, length, changes, sinceMs, bytes: null, arrived };
    this.#kept.set(block, fetched);
    listing.ahead++;
    this.#asking++;
    try {
      const [nearest] = dataservers.nearestFirst(block.replicas);
      if (nearest?.alive !== true) throw new FsError("EIO", "its nearest replica is not there");
      const client = await dataservers.client(nearest.address);
      if (!this.#isRight(fetched)) return this.#drop(fetched);
      const { id, generation } = block;
      const request = { block: id, generation, volume: nearest.volume, offset: 0, length };
      fetched.bytes = (await client.readBlock(request, { timeoutMs: KEPT_MS })).body;
    } catch (error) {
      log.debug("a file could not be read ahead", { ino: inode.ino, block: block.id, error });
      this.#drop(fetched);
    } finally {
      this.#asking--;
      resolve();
    }
  }

  /** What is fetched is what a dataserver would answer now. A map that still has the block says that the lease is held. */
  #isRight({ inode, block, changes }: Fetched): boolean {
    return inode.blocks?.at(0) === block && this.#options.session.isValid &&
      inode.changes === changes && inode.changing === 0 && inode.file?.isUnflushed !== true;
  }

  /** The bytes [from, to) of the block if they are here; those past its replica's end are zeros. */
  take(file: OpenFile, block: Block, from: number, to: number): Uint8Array | null {
    const fetched = this.#find(file, block);
    if (fetched === undefined || fetched.bytes === null || to > fetched.length) return null;
    // It is not asked for again: the kernel has it.
    if (to === fetched.length) this.#drop(fetched);
    const known = fetched.bytes.subarray(Math.min(from, fetched.bytes.length), to);
    if (known.length === to - from) return known;
    const bytes = new Uint8Array(to - from);
    bytes.set(known);
    return bytes;
  }

  /** Resolves when it is worth while to `take`; undefined: it is not on its way. Never rejects. */
  arrival(file: OpenFile, block: Block): Promise<void> | undefined {
    const fetched = this.#find(file, block);
    return fetched?.bytes === null ? fetched.arrived : undefined;
  }

  #find({ inode }: OpenFile, block: Block): Fetched | undefined {
    const fetched = this.#kept.get(block);
    if (fetched === undefined || (fetched.inode === inode && this.#isRight(fetched))) return fetched;
    this.#drop(fetched);
    return undefined;
  }

  #drop(fetched: Fetched): void {
    if (this.#kept.get(fetched.block) !== fetched) return;
    this.#kept.delete(fetched.block);
    fetched.listing.ahead--;
  }

  /** Gives up what was not read. About once a second. */
  sweep(): void {
    const beforeMs = this.#options.clock.monotonicMs() - KEPT_MS;
    for (const fetched of this.#kept.values()) {
      if (fetched.sinceMs > beforeMs) return;
      this.#drop(fetched);
      fetched.listing.inRow = 0; // whoever read it has stopped
    }
  }
}

function isSmallFile({ attributes: { mode, size } }: Inode): boolean {
  return (mode & S_IFMT) === S_IFREG && size > 0 && size <= SMALL_BYTES_MAX;
}
