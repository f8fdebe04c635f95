/** The dataserver's services: block data for clients and other dataservers, and the talk with the nameserver. */

import type { BlockId, Generation, NodeId, VolumeId } from "../ids.ts";
import { defineService, method } from "../service.ts";

/** One step of a replication chain. */
export interface ChainTarget {
  readonly node: NodeId;
  readonly volume: VolumeId;
  readonly address: string;
}

export interface WriteBlockRequest {
  readonly block: BlockId;
  readonly generation: Generation;
  /** The volume of the receiver that holds the replica. */
  readonly volume: VolumeId;
  /** Within the block, in bytes. */
  readonly offset: number;
  /** Where the receiver forwards to, in order. */
  readonly chain: readonly ChainTarget[];
  /** Make the replica when it is not there (the block was never written); else ENOENT for a missing one. */
  readonly create: boolean;
  readonly body: Uint8Array;
}

/** Several ranges of a block, which don't overlap. */
export interface WriteRangesRequest extends Omit<WriteBlockRequest, "offset"> {
  /** Offset within the block and length, in bytes; `body` has one after the other. */
  readonly ranges: readonly (readonly [number, number])[];
  /** As if a syncBlock came after it. */
  readonly durable: boolean;
}

/** Ranges of one writeRanges. */
export const WRITE_RANGES_MAX = 1_024;

/** Replicas of the chain that did not take the bytes, with why; empty: every replica has them. */
export interface ChainReply {
  readonly failed: readonly { readonly volume: VolumeId; readonly errno: string; readonly message: string }[];
  /** What the receiver's replica takes on its disk now; absent where that is not known. */
  readonly allocatedBytes?: number;
}

export interface SyncBlockReply extends ChainReply {
  /**
   * The receiver's replica is finalized: whatever happens to its machine, it is not taken for one that may lack something. Absent
   * where that is not so, and from older dataservers.
   */
  readonly isFinalized?: true;
}

export interface ReadBlockRequest {
  readonly block: BlockId;
  readonly generation: Generation;
  readonly volume: VolumeId;
  readonly offset: number;
  readonly length: number;
}

export interface ReadBlockReply {
  /** Shorter than asked where the replica ends; what is missing are zeros. */
  readonly body: Uint8Array;
}

export interface SyncBlockRequest {
  readonly block: BlockId;
  readonly generation: Generation;
  readonly volume: VolumeId;
  readonly chain: readonly ChainTarget[];
}

export interface TruncateBlockRequest extends SyncBlockRequest {
  /** The replica keeps no byte at or past this offset; shorter replicas stay as they are. */
  readonly length: number;
}

/**
 * What becomes of a range of a replica. "punch": a hole, and its room on the disk is free. "zero": zeros that have room on
 * the disk. "reserve": what is there stays, and all of it has room on the disk.
 */
export type RangeChange = "punch" | "zero" | "reserve";

export interface ChangeRangeRequest extends SyncBlockRequest {
  readonly change: RangeChange;
  /** Within the block, in bytes; may reach past the end of a replica, which stays as long as it is. */
  readonly offset: number;
  readonly length: number;
  /** As of WriteBlockRequest. */
  readonly create: boolean;
}

/** A range of a block that is copied from another block's replica: by the receiver, and down its chain. */
export interface CopyRangeRequest extends SyncBlockRequest {
  /** Within the block, in bytes. */
  readonly offset: number;
  readonly length: number;
  readonly create: boolean;
  readonly source: ChainTarget & {
    readonly block: BlockId;
    readonly generation: Generation;
    readonly offset: number;
  };
}

/** Bytes of one copyRange at most. */
export const COPY_RANGE_BYTES_MAX = 8 * 1024 * 1024;

export interface CopyRangeReply extends ChainReply {
  /** The source's replica could not be read: the target's replicas have a part of the range, and none has failed. */
  readonly sourceFailed?: { readonly errno: string; readonly message: string };
  /** With that: nothing of the target was changed, nor made. */
  readonly isUntouched?: boolean;
}

export interface ReplicaRequest {
  readonly block: BlockId;
  readonly generation: Generation;
  readonly volume: VolumeId;
}

export interface SeekBlockRequest extends ReplicaRequest {
  readonly offset: number;
  /** SEEK_DATA, else SEEK_HOLE. */
  readonly data: boolean;
}

export interface ReplicaStateRequest extends ReplicaRequest {
  /** Also say what it holds, by a digest; of a doubtful replica as well. Reads what was written since it was opened. */
  readonly digest?: boolean;
}

export interface ReplicaStateReply {
  readonly length: number;
  /** Equal at two times: no byte of the replica changed in between. */
  readonly state: string;
  /** Replicas with the same one hold the same bytes. */
  readonly digest?: string;
}

export interface ReplicaChangesRequest extends ReplicaRequest {
  /** A state that the replica was in. */
  readonly since: string;
}

export interface ReplicaChangesReply extends Omit<ReplicaStateReply, "digest"> {
  /**
   * Ranges of bytes, [from, to), outside of which nothing changed since, below the replica's length. Absent: it is not known
   * what did.
   */
  readonly changed?: readonly (readonly [number, number])[];
}

/** Where a replica lies, for who can read files of the dataserver's machine. */
export interface LocateReplicaReply {
  /** Absent where it may not be read but through the dataserver now: it was changed a moment ago, or its disk has failed. */
  readonly file?: {
    /** Which run of which machine. */
    readonly machine: string;
    readonly path: string;
    /** Device and inode number there. */
    readonly identity: string;
    /** In bytes; what its block has beyond are zeros. */
    readonly length: number;
    readonly chunkBytes: number;
  };
  /** crc32 of each chunk of it, u32 little-endian. */
  readonly body: Uint8Array;
}

/** Errors: ESTALE generation, ENOENT no such replica, EIO disk or checksum, ENOSPC volume full, ENODEV volume unknown. */
export const DATASERVER = defineService("dataserver", {
  writeBlock: method<WriteBlockRequest, ChainReply>(100),
  readBlock: method<ReadBlockRequest, ReadBlockReply>(101),
  /** fdatasync of data and checksums on every replica of the chain. */
  syncBlock: method<SyncBlockRequest, SyncBlockReply>(102),
  truncateBlock: method<TruncateBlockRequest, ChainReply>(103),
  replicaState: method<ReplicaStateRequest, ReplicaStateReply>(104),
  replicaChanges: method<ReplicaChangesRequest, ReplicaChangesReply>(105),
  changeRange: method<ChangeRangeRequest, ChainReply>(106),
  copyRange: method<CopyRangeRequest, CopyRangeReply>(107),
  /** Where data, or a hole, begins at or after `offset`; absent: nowhere. Past a replica's end there is a hole. */
  seekBlock: method<SeekBlockRequest, { readonly offset?: number }>(108),
  /**
   * For who holds a lease on the replica's file, under which nobody changes it: then the bytes at `path` stay those of the
   * block, whatever becomes of the replica, until the lease is given back.
   */
  locateReplica: method<ReplicaRequest, LocateReplicaReply>(109),
  writeRanges: method<WriteRangesRequest, ChainReply>(110),
});

export interface VolumeRegistration {
  /** Absent on a volume that was never registered. */
  readonly volume?: VolumeId;
  /** Random, made with the volume; recognises a volume whose registration's answer was lost. */
  readonly label: string;
  readonly path: string;
  /** Equal for volumes that share a disk, so that its space counts once. */
  readonly disk?: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
}

export interface RegisterRequest {
  /** Absent on a dataserver that was never registered. */
  readonly node?: NodeId;
  /** Random, made with the dataserver's first volume. */
  readonly label: string;
  readonly host: string;
  /** Label of what its host shares with others and may lose at once; absent or "": not known. */
  readonly rack?: string;
  /** HOST:PORT at which clients reach it. */
  readonly address: string;
  readonly volumes: readonly VolumeRegistration[];
}

export interface RegisterReply {
  readonly node: NodeId;
  /** In the order of the request. */
  readonly volumes: readonly VolumeId[];
  readonly heartbeatMs: number;
}

/** How far a volume's replicas were compared with their checksums. */
export interface ScrubStatus {
  /** Of the pass that is under way, 0 to 1. */
  readonly progress: number;
  /** When the last whole pass ended, in seconds since 1970; absent: never. */
  readonly lastPass?: number;
}

export interface VolumeStats {
  readonly volume: VolumeId;
  readonly totalBytes: number;
  /** For replicas, with what trash would make room for. */
  readonly freeBytes: number;
  readonly usedBytes: number;
  readonly blocks: number;
  /** Kept aside; goes when there is need. */
  readonly trashBytes?: number;
  /** Absent: scrubbing is off. */
  readonly scrub?: ScrubStatus;
  /** Why the volume can't be used, if so. */
  readonly failed?: string;
}

export interface ReplicaReport {
  readonly block: BlockId;
  readonly generation: Generation;
  /** It was being written when its machine stopped or its disk failed, and may lack what was not synced: nobody can use it until it is chosen. */
  readonly doubtful?: boolean;
}

/** One page of a full block report, in the order of block ids. */
export interface BlockReportRequest {
  readonly volume: VolumeId;
  /** The page covers block ids in [from, to). */
  readonly from: number;
  readonly to: number;
  readonly replicas: readonly ReplicaReport[];
}

export interface BlockReportReply {
  /** Replicas that are stale: an older generation than the block's, or taken off the block. Delete them. */
  readonly stale: readonly BlockId[];
  /** Blocks that the nameserver does not know: keep them aside. */
  readonly unknown: readonly BlockId[];
  /** What becomes of these is being settled: to be reported again a little later. Absent: none. */
  readonly again?: readonly BlockId[];
}

/** What dataservers ask of the nameserver. */
export const DATASERVER_REGISTRY = defineService("dataserverRegistry", {
  register: method<RegisterRequest, RegisterReply>(140),
  /** `leaving`: the dataserver stops, and its connection ends next. `heartbeatMs`: when the next is due; absent: as before. */
  heartbeat: method<
    { readonly node: NodeId; readonly volumes: readonly VolumeStats[]; readonly leaving?: boolean },
    { readonly ok: true; readonly heartbeatMs?: number }
  >(141),
  blockReport: method<BlockReportRequest, BlockReportReply>(142),
  /** Replicas that were deleted because a deleteBlocks push asked for it. */
  blocksDeleted: method<
    { readonly volume: VolumeId; readonly blocks: readonly BlockId[] },
    { readonly ok: true }
  >(143),
  /** A replica turned out corrupt or unreadable. */
  replicaCorrupt: method<
    { readonly volume: VolumeId; readonly block: BlockId; readonly message: string },
    { readonly ok: true }
  >(144),
  /**
   * These may hold other bytes than the others of their blocks: something was written here that others did not get, or the
   * other way round. The answer names those that were compared with the others; the rest is to be told again later.
   */
  replicasDiffer: method<
    {
      readonly volume: VolumeId;
      readonly replicas: readonly { readonly block: BlockId; readonly generation: Generation }[];
    },
    { readonly compared: readonly BlockId[] }
  >(145),
});

/** Of a copy that belongs to no block yet: blocks begin with 1. */
export const COPY_GENERATION = 0 as Generation;

export interface CopyReplicaRequest {
  /** Of the receiver. */
  readonly volume: VolumeId;
  readonly block: BlockId;
  /** Of the source. */
  readonly generation: Generation;
  readonly source: ChainTarget;
  /** At most so many bytes a second; absent: as fast as it goes. */
  readonly bytesPerSecond?: number;
}

/** Some of a volume's replicas: by id, or up to `limit` from id `from` on. */
export interface ListReplicasRequest {
  readonly volume: VolumeId;
  readonly blocks?: readonly BlockId[];
  readonly from?: number;
  readonly limit?: number;
}

export interface ListedReplica {
  readonly block: BlockId;
  readonly generation: Generation;
  /** What its record says, in bytes; exact when `isFinal`. */
  readonly length: number;
  readonly isFinal: boolean;
  /** Size of its file; -1: there is none. */
  readonly fileBytes: number;
}

/** Replicas in one list at most. */
export const LIST_REPLICAS_MAX = 1000;

export interface VerifyReplicaRequest extends ReplicaRequest {
  /** Of the extent: what the replica holds beyond counts for nothing, and where it is shorter are zeros. */
  readonly length: number;
  readonly bytesPerSecond: number;
}

export interface VerifyReplicaReply {
  /** Equal for replicas that hold the same bytes. */
  readonly digest: string;
  /** As of replicaState: it was the same before the first byte was read and after the last. Absent: it changed. */
  readonly state?: string;
  /** Bytes that were read. */
  readonly bytes: number;
  /** Some are not those that were written, and why; the rest was not read. It is reported as for any reader. */
  readonly corrupt?: string;
}

/** What the nameserver pushes to a dataserver over the connection that it registered on. */
export const DATASERVER_PUSHES = defineService("dataserverPushes", {
  /**
   * Delete these replicas, each if its generation is not above that of `upTo` in the same place (absent: whatever it is): a
   * newer one has been made since. Answered when accepted, reported by blocksDeleted when done.
   */
  deleteBlocks: method<
    {
      readonly volume: VolumeId;
      readonly blocks: readonly BlockId[];
      readonly upTo?: readonly Generation[];
    },
    { readonly ok: true }
  >(160),
  /**
   * The replica takes generation `to` (idempotent; ESTALE when it has neither `from` nor `to`) and answers its
   * length in bytes. Writes with an older generation are refused from then on. ESTALE of a doubtful one, unless it is
   * `chosen` to be what its block holds. `create`: a missing one is made, empty, so that no late write makes it with an
   * older generation; else ENOENT.
   */
  setGeneration: method<
    {
      readonly volume: VolumeId;
      readonly block: BlockId;
      readonly from: Generation;
      readonly to: Generation;
      readonly chosen?: boolean;
      readonly create?: boolean;
    },
    { readonly length: number }
  >(161),
  /**
   * Makes a replica of generation COPY_GENERATION from another dataserver's, and syncs it. What the volume has of the block
   * goes to trash first. The state is the source's from before its first byte was read. Asked again for a copy that it
   * made a moment ago of the same source, it fetches what changed since.
   */
  copyReplica: method<CopyReplicaRequest, ReplicaStateReply>(162),
  replicaState: method<ReplicaStateRequest, ReplicaStateReply>(163),
  /** Reads all of a replica, compares it with its checksums, and gives a digest of it. */
  verifyReplica: method<VerifyReplicaRequest, VerifyReplicaReply>(164),
  /** What there is, by the volume's records and its directory; those that are not there are left out. */
  listReplicas: method<ListReplicasRequest, { readonly replicas: readonly ListedReplica[] }>(165),
});
