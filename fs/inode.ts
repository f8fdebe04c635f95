/**
 * What this mount knows of one inode: its attributes and, while a lease allows it, what hangs on them: entries of a
 * directory, xattrs, the block map. One object an inode, for as long as the kernel knows it or it is open.
 *
 * Invariants:
 * - What is marked known is what the nameserver would answer now, as long as the session is valid.
 * - `entries` has every name of the directory that the kernel may have with a timeout, so that a recall finds it.
 * - Attributes are replaced only by newer ones (`version`).
 */

import { type InodeId, ROOT_INODE } from "../wire/ids.ts";
import type { Attributes, LeaseMode } from "../wire/messages/inode.ts";
import type { BlockMap } from "./block_map.ts";
import type { OpenFile } from "./open_file.ts";

/** A name that leads nowhere. */
export const ABSENT = 0 as InodeId;
/** A name that the kernel may have, but of which we don't know where it leads. */
export const UNKNOWN = -1 as InodeId;

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
  /** Removals of it that are under way here: an open then asks the nameserver. */
  removing = 0;
  /** The kernel may have pages of it: file data, or a directory's listing. */
  hasPages = false;
  /** Pages from before the session was lost may still be there. */
  hasStalePages = false;

  /** Directories: where names lead, by bytesKey. */
  entries: Map<string, InodeId> | null = null;
  /** Directories: a name that is not in `entries` is absent. */
  isComplete = false;
  /** Directories: open handles here. */
  directoryHandles = 0;
  /** Symlinks. */
  target: Uint8Array | null = null;
  /** Values by bytesKey of the name, null: there is none; while a lease is held. */
  xattrs: Map<string, Uint8Array | null> | null = null;
  xattrNames: readonly Uint8Array[] | null = null;
  /** Regular files: what is known of its blocks. */
  blocks: BlockMap | null = null;
  /** Another mount had it open for writing when it was opened here last. */
  isShared = false;
  /** While it is open here, or closing. */
  file: OpenFile | null = null;
  /** A report of what was written that left with the answer to a recall, until the server has answered it. */
  handingOver: Promise<void> | null = null;
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
    return this.attributesKnown && this.lease !== "none";
  }

  /** Attributes and xattrs were changed by somebody. */
  forgetAttributes(): void {
    this.attributesKnown = false;
    this.xattrs = null;
    this.xattrNames = null;
  }

  /** No lease is left: nothing of it may be shown any more. */
  forgetAll(): void {
    this.forgetAttributes();
    this.lease = "none";
    this.blocks?.clear();
    this.entries = null;
    this.isComplete = false;
  }

  /** Notes where a name leads. Only under a lease. */
  setEntry(key: string, ino: InodeId): void {
    (this.entries ??= new Map()).set(key, ino);
  }
}
