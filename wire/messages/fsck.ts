/** What `mfs fsck` asks of the nameserver, and what it hears. */

import type { BlockId, InodeId, VolumeId } from "../ids.ts";

/**
 * What can be wrong. Of blocks, as it is now:
 * - missing: no replica of a written block can be read
 * - corrupt, stale, lost: a replica that its block lists has wrong bytes, another generation, or is not on its volume
 * - under-replicated, over-replicated, misplaced: too few or too many replicas; two on one host, or all in one rack
 * - differing: replicas that hold different bytes, though each matches its checksums (only with `verify`)
 * - stray: a volume has a replica that no block lists
 *
 * Of the tables:
 * - record: a record that can't be read
 * - entry: a name that leads to no inode, or not to what it says
 * - order: the listing of a directory and its names disagree
 * - nameless: an inode without a name that nobody has open
 * - links: an inode's count of links, or a directory's of entries, is wrong
 * - unreachable: a directory whose parents do not lead to the root
 * - extents: the block map of a file is not in order
 * - page: a part of a block map that belongs to no file
 * - inline: data of a file that is kept beside its inode, and its inode or block map, disagree
 * - index: the index of replicas and the block maps disagree
 * - deletion: a replica that its block lists is to be deleted
 * - xattrs: extended attributes of an inode that is not there, or does not know of them
 * - orphan: an unlinked inode is kept for a client that is gone
 * - total: a running total is wrong
 */
export type FsckKind =
  | "missing"
  | "corrupt"
  | "stale"
  | "lost"
  | "under-replicated"
  | "over-replicated"
  | "misplaced"
  | "differing"
  | "stray"
  | "record"
  | "entry"
  | "order"
  | "nameless"
  | "links"
  | "unreachable"
  | "extents"
  | "page"
  | "inline"
  | "index"
  | "deletion"
  | "xattrs"
  | "orphan"
  | "total";

export interface FsckProblem {
  readonly kind: FsckKind;
  /** What is wrong, without the path. */
  readonly detail: string;
  /** From the root, "/a/b"; absent of what has no name. */
  readonly path?: Uint8Array;
  readonly ino?: InodeId;
  /** The block, where its extent starts in the file, and the volume of the replica. */
  readonly block?: BlockId;
  readonly start?: number;
  readonly volume?: VolumeId;
  /** How a repair finds it again; of no meaning to others. */
  readonly hint?: FsckHint;
}

export interface FsckHint {
  /** The record's key. */
  readonly key?: Uint8Array;
  /** The inode's version when it was looked at. */
  readonly version?: number;
  /** Numbers as they should be, in the order of the kind. */
  readonly numbers?: readonly number[];
}

export interface FsckStartRequest {
  /** Where to begin; absent: all, also what no name leads to. */
  readonly root?: { readonly ino: InodeId; readonly path: Uint8Array };
  /** Every replica's bytes are read, at so many bytes a second of each dataserver. */
  readonly verifyBytesPerSecond?: number;
}

export type FsckPhase = "tables" | "volumes" | "files" | "done";

export interface FsckProgress {
  readonly phase: FsckPhase;
  /** Looked at so far, of all phases. */
  readonly inodes: number;
  readonly blocks: number;
  readonly verifiedBytes: number;
}

export interface FsckStep extends FsckProgress {
  readonly problems: readonly FsckProblem[];
  /** What could not be looked at, and why; each is said once. */
  readonly unchecked: readonly string[];
}

/** What became of a problem. */
export interface FsckRepaired {
  /** "waiting": replicas are being made or taken off; ask `replicationState`. */
  readonly outcome: "repaired" | "waiting" | "gone" | "refused";
  /** What was done, or why nothing was. */
  readonly message: string;
}
