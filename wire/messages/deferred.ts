/**
 * Changes of names and attributes that a client has made already, under EXCLUSIVE leases, and tells the nameserver of
 * afterwards, in the order in which it made them.
 */

import type { Timespec } from "../../base/clock.ts";
import type { BlockId, InodeId } from "../ids.ts";
import type { Block } from "./inode.ts";
import type { WriteReport } from "./write_report.ts";

/** Changes in one DeferRequest. */
export const DEFERRED_MAX = 1_024;
/** Inode numbers given out at once. */
export const RESERVED_INODES_MAX = 4_096;
/** Blocks given out at once. */
export const RESERVED_BLOCKS_MAX = 64;

interface Deferred {
  /** The time that its author gave it, by the nameserver's clock as far as it knows that. */
  readonly time: Timespec;
}

/** Something new under a name that is free; its number comes from reserveInodes. */
export interface DeferredMake extends Deferred {
  readonly kind: "make";
  readonly ino: InodeId;
  readonly parent: InodeId;
  readonly name: Uint8Array;
  readonly uid: number;
  readonly gid: number;
  /** Type and permission bits, before `umask`. */
  readonly mode: number;
  readonly umask: number;
  readonly rdev?: number;
  readonly target?: Uint8Array;
  /** A regular file that its author writes to: it has the write lease. */
  readonly write?: true;
  /** Of a file that is about to be written: as CreateRequest's. */
  readonly host?: string;
  /** Its first block, of those that reserveBlocks gave: it may have data already. */
  readonly block?: BlockId;
}

/** One more name of what is no directory. */
export interface DeferredLink extends Deferred {
  readonly kind: "link";
  readonly ino: InodeId;
  readonly parent: InodeId;
  readonly name: Uint8Array;
}

/** unlink or rmdir of what only its author knows, and nobody has open. */
export interface DeferredRemove extends Deferred {
  readonly kind: "remove";
  readonly ino: InodeId;
  readonly parent: InodeId;
  readonly name: Uint8Array;
  readonly directory: boolean;
  /** As Removed's. */
  readonly told?: true;
  /** Its author's kernel knows it still, as something may hold it: it lives on there until that is told as closed. */
  readonly held?: true;
}

export interface DeferredRename extends Deferred {
  readonly kind: "rename";
  readonly ino: InodeId;
  readonly parent: InodeId;
  readonly name: Uint8Array;
  readonly newParent: InodeId;
  readonly newName: Uint8Array;
  /** What had the new name. */
  readonly replaced?: InodeId;
  /** Of that: as Removed's. */
  readonly told?: true;
  /** Of that: as DeferredRemove's. */
  readonly held?: true;
}

export interface DeferredAttributes extends Deferred {
  readonly kind: "setattr";
  readonly ino: InodeId;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly atime?: Timespec;
  readonly mtime?: Timespec;
}

/** The inode was read at `time`. */
export interface DeferredAccess extends Deferred {
  readonly kind: "access";
  readonly ino: InodeId;
}

/** Of a file that only its author can write to. */
export interface DeferredReport extends Deferred, WriteReport {
  readonly kind: "report";
}

export type DeferredChange =
  | DeferredMake
  | DeferredLink
  | DeferredRemove
  | DeferredRename
  | DeferredAttributes
  | DeferredAccess
  | DeferredReport;

export interface DeferReply {
  /** So many of the changes are made, in order; the rest never will be. */
  readonly applied: number;
  /** Why the first of the rest was refused. */
  readonly refusal?: string;
  /** First blocks of files that were made with a `host`; absent in the answer to a repetition. */
  readonly blocks?: readonly { readonly ino: InodeId; readonly block: Block }[];
  /** The nameserver's disk is nearly full: what comes next is to be asked for, so that it can be refused. */
  readonly isFull?: true;
}

export interface ReservedInodes {
  /** These and the `count` - 1 after it are the caller's: nobody else ever gets them. */
  readonly first: InodeId;
  readonly count: number;
}

export interface ReserveBlocksRequest {
  readonly count: number;
  /** As CreateRequest's. */
  readonly host: string;
  /** Blocks that it was given, never wrote to, and no longer wants. */
  readonly unused: readonly BlockId[];
}

export interface ReservedBlocksReply {
  /** For files of the cluster's replication, and their start; fewer than were asked for, or none, where that is not to be had. */
  readonly blocks: readonly Block[];
}
