/**
 * The nameserver's service for administrators: what `mfs` commands ask of a running cluster. Long work goes in steps:
 * each request does a bounded part and answers where the next one goes on, so that a command shows progress, and ends
 * with its user.
 */

import type { BlockId, InodeId, NodeId, VolumeId } from "../ids.ts";
import { defineService, method } from "../service.ts";
import type { BackupOpenReply, BackupReadReply, BackupReadRequest } from "./backup.ts";
import type { NodeState } from "./nameserver.ts";
import type { FsckProblem, FsckRepaired, FsckStartRequest, FsckStep } from "./fsck.ts";

/** Replicas of a block at most. */
export const REPLICATION_MAX = 16;
/** Inodes or problems in one message at most. */
export const ADMIN_BATCH_MAX = 256;

/** How the blocks of some files are, as far as written. */
export interface ReplicationState {
  readonly blocks: number;
  /** They have other numbers of good replicas than they should. */
  readonly pending: number;
  /** Those among them that have no good replica: nothing can be made of them. */
  readonly missing: number;
  /** Replicas that the files should have; the largest, if they differ. */
  readonly wanted: number;
  /** Hosts with a live volume: there is no place for more replicas of a block. */
  readonly hosts: number;
}

export interface NodeReply {
  readonly node: NodeId;
  readonly host: string;
  readonly address: string;
  /** "": not known. */
  readonly rack: string;
  readonly alive: boolean;
  readonly state: NodeState;
  /** It may be away for so long; 0: it may not. */
  readonly maintenanceSeconds: number;
}

/** Where a survey goes on. */
export interface ReplicaPosition {
  readonly volume: VolumeId;
  readonly block: BlockId;
}

/** Of one step's replicas. */
export interface SurveyReply {
  readonly replicas: number;
  /** Blocks that can be read nowhere else. */
  readonly onlyHere: number;
  /** Hosts that the most replicated of the blocks needs. */
  readonly hostsNeeded: number;
  /** Absent: that was the last step. */
  readonly next?: ReplicaPosition;
}

export interface DecommissionRequest {
  readonly node: NodeId;
  /** As a survey of the node has found. */
  readonly hostsNeeded: number;
  /** Although its blocks have no place elsewhere yet. */
  readonly force: boolean;
}

export interface ForgetRequest {
  readonly node: NodeId;
  /** Only this one of its volumes. */
  readonly volume?: VolumeId;
  /** Although blocks count on it: those that are nowhere else are missing, until it is back. */
  readonly force: boolean;
}

export interface ForgetReply {
  readonly node: NodeId;
  readonly host: string;
  /** Those that were forgotten. */
  readonly volumes: readonly VolumeId[];
}

/** A volume that balancing may take from or give to. */
export interface VolumeUsage {
  readonly volume: VolumeId;
  readonly node: NodeId;
  readonly host: string;
  /** "": not known. */
  readonly rack: string;
  readonly usedBytes: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
}

export interface MoveReplicasRequest {
  readonly source: VolumeId;
  readonly target: VolumeId;
  /** Blocks from this one on. */
  readonly from: BlockId;
  /** Until so many are moved. */
  readonly bytes: number;
  /** A block with which it would be more than this stays. */
  readonly bytesMax: number;
}

export interface MoveReplicasReply {
  readonly moved: number;
  readonly movedBytes: number;
  /** The block to go on with; absent: `source` has no more that can go to `target`. */
  readonly next?: BlockId;
}

export const ADMIN = defineService("admin", {
  /** A node by its number, host or address. Errors: ENOENT, EINVAL when several fit. */
  node: method<{ readonly name: string }, NodeReply>(70),
  /** Looks at a part of the replicas that a node has. */
  surveyNode: method<
    { readonly node: NodeId; readonly volume?: VolumeId; readonly from?: ReplicaPosition },
    SurveyReply
  >(71),
  /** ENOSPC, and nothing changes, when its blocks have no place elsewhere. */
  decommission: method<DecommissionRequest, NodeReply>(72),
  recommission: method<{ readonly node: NodeId }, NodeReply>(73),
  /** `seconds` from now; 0 ends it. */
  maintain: method<{ readonly node: NodeId; readonly seconds: number }, NodeReply>(74),
  volumeUsage: method<Record<string, never>, { readonly volumes: readonly VolumeUsage[] }>(75),
  /** Moves a few replicas from one volume to another, as far as they are well placed there. */
  moveReplicas: method<MoveReplicasRequest, MoveReplicasReply>(76),
  /**
   * Takes away the record of a node, or of a volume, that is away for good. EBUSY: it is there; ENOTEMPTY: blocks count on it. One that
   * comes back is known by its number again, and has what blocks still name it for.
   */
  forget: method<ForgetRequest, ForgetReply>(77),
  /** Files and directories get another replication (0: the cluster's); other inodes are passed over, as are those that went. */
  setReplication: method<
    { readonly inodes: readonly InodeId[]; readonly replication: number },
    { readonly changed: number; readonly hosts: number; readonly replication: number }
  >(80),
  replicationState: method<{ readonly inodes: readonly InodeId[] }, ReplicationState>(81),
  /** Begins a check of the file system; it ends with the connection. EBUSY when others are under way. */
  fsckStart: method<
    FsckStartRequest,
    { readonly fsck: number; readonly inodes: number; readonly blocks: number }
  >(82),
  /** Goes on with the check for a moment. */
  fsckNext: method<{ readonly fsck: number }, FsckStep>(83),
  /** Repairs what can be repaired without loss, each after another look at it. */
  fsckRepair: method<
    { readonly problems: readonly FsckProblem[] },
    { readonly outcomes: readonly FsckRepaired[] }
  >(84),
  /**
   * Takes hold of the metadata as it is now, to be read as a backup. It is let go when it was read or closed, with the
   * connection, and when nobody reads for a minute. EBUSY: too many at a time.
   */
  backupOpen: method<Record<string, never>, BackupOpenReply>(90),
  /** ESTALE: it was let go. */
  backupRead: method<BackupReadRequest, BackupReadReply>(91),
  backupClose: method<{ readonly backup: number }, { readonly ok: true }>(92),
});
