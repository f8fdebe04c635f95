/**
 * The nameserver's service for clients: the namespace and the block map.
 *
 * Every change carries a `retry` tag: the session's slot and a number that grows in that slot. The nameserver
 * keeps the last number and outcome of each slot (durably, in the same batch as the change), so that a change
 * that is sent again after a lost answer is applied once. A slot has one change in flight at a time.
 */

import type { Timespec } from "../../base/clock.ts";
import type { UserIds } from "../../base/user_ids.ts";
import type { BlockId, Generation, InodeId, SessionId, VolumeId } from "../ids.ts";
import { defineService, method } from "../service.ts";
import type { ScrubStatus } from "./dataserver.ts";
import type {
  DeferredChange,
  DeferReply,
  ReserveBlocksRequest,
  ReservedBlocksReply,
  ReservedInodes,
} from "./deferred.ts";
import type { WriteReport } from "./write_report.ts";
import type { Block, DirectoryEntry, InodeReply, LeaseMode, OpenMode } from "./inode.ts";

/** Slots of a session: the changes that it may have in flight at once. */
export const RETRY_SLOTS = 128;

export interface RetryTag {
  readonly slot: number;
  readonly sequence: number;
}

/** Whose rights and ownership apply to a change; `groups` are supplementary groups where they are known. */
export interface Credentials {
  readonly uid: number;
  readonly gid: number;
  readonly groups?: readonly number[];
}

interface Change {
  readonly retry: RetryTag;
}

interface InDirectory {
  readonly parent: InodeId;
  readonly name: Uint8Array;
}

/** What the caller would rather have alone (EXCLUSIVE) than share: it gets that where nobody else has anything of it. */
interface Wishes {
  /** The directory whose names it changes. */
  readonly wantsDirectory?: true;
  /** What it makes or finds. */
  readonly wantsFound?: true;
}

export interface DeferRequest extends Change {
  readonly changes: readonly DeferredChange[];
}

export interface MakeRequest extends Change, InDirectory, Wishes {
  readonly credentials: Credentials;
  /** Type and permission bits. */
  readonly mode: number;
  /** Applied to the mode, unless the directory has a default ACL. Absent: it has been applied. */
  readonly umask?: number;
  readonly rdev?: number;
  /** Symlinks only. */
  readonly target?: Uint8Array;
}

export interface CreateRequest extends Change, InDirectory, Pick<Wishes, "wantsDirectory"> {
  readonly credentials: Credentials;
  readonly mode: number;
  /** As MakeRequest's. */
  readonly umask?: number;
  /**
   * O_EXCL: EEXIST when the name is taken. Without it an existing regular file is opened, if the caller may certainly do that;
   * ESTALE: what there is must be looked up and opened.
   */
  readonly exclusive: boolean;
  /** The caller means to write: asks for a write lease. */
  readonly write: boolean;
  /** Of a writer: its host label. A new file gets its first block at once, near it, if there is room. */
  readonly host?: string;
}

export type CreateReply = EntryReply & AcquireReply & { readonly created: boolean };

/** O_TMPFILE: a regular file without a name, open for writing by the session, and gone when it is closed unlinked. */
export interface CreateUnnamedRequest extends Change {
  /** Whose group and replication it gets. */
  readonly parent: InodeId;
  readonly credentials: Credentials;
  readonly mode: number;
  /** As MakeRequest's. */
  readonly umask?: number;
  /** link() may give it a name. */
  readonly linkable: boolean;
  /** As CreateRequest's. */
  readonly host?: string;
}

/** What a change of names made of a directory's attributes: of one who knew them one version before, all that differs. */
export interface DirectoryChange {
  readonly ino: InodeId;
  readonly version: number;
  readonly nlink: number;
  /** Time of modification and of change. */
  readonly mtime: Timespec;
}

/** Directories that a change of names changed: one, or two by a rename; absent in the answer to a repetition. */
interface ChangedDirectories {
  readonly directories?: readonly DirectoryChange[];
}

/**
 * What was made or found under a name, and what may be cached of the directory: "none" also while another changes one of
 * its names, so that this one must not be cached, whatever is held.
 */
export interface EntryReply extends InodeReply, ChangedDirectories {
  readonly directory: LeaseMode;
}

export interface LookupReply {
  /** Absent: there is no such name, which may be cached as well. */
  readonly inode?: InodeReply;
  readonly directory: LeaseMode;
}

export interface SetAttributesRequest extends Change {
  readonly ino: InodeId;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: Timespec | "now";
  readonly mtime?: Timespec | "now";
  readonly killSuidGid?: boolean;
  /** The data is about to change: file capabilities go. */
  readonly killCapability?: boolean;
  /** FS_*_FL: all that it has from now on. */
  readonly flags?: number;
  /** With `size`: the caller goes on to write, so it asks for a write lease. */
  readonly write?: boolean;
}

/**
 * What the caller knows of the inode that loses its name by its change. `open`: it has it open; `told`: a process there
 * may be between a lookup of the name and an open. When the name leads to another inode, or nothing is said, the server
 * asks; what the caller has not told as closed counts as open meanwhile.
 */
export interface Removed {
  readonly ino: InodeId;
  readonly open: boolean;
  readonly told?: boolean;
}

export interface RemoveRequest extends Change, InDirectory, Pick<Wishes, "wantsDirectory"> {
  readonly directory: boolean;
  readonly removed?: Removed;
}

export interface RenameRequest extends Change, InDirectory {
  readonly newParent: InodeId;
  readonly newName: Uint8Array;
  /** RENAME_NOREPLACE 1, RENAME_EXCHANGE 2, RENAME_WHITEOUT 4. */
  readonly flags: number;
  /** Of the whiteout. */
  readonly credentials?: Credentials;
  readonly removed?: Removed;
}

/** An inode that lost a name, and its new link count. */
export interface NameLost {
  readonly ino: InodeId;
  readonly nlink: number;
}

export interface RemoveReply extends NameLost, ChangedDirectories {
  /** Whether the name's absence may be cached. */
  readonly directory: LeaseMode;
}

export interface RenameReply extends ChangedDirectories {
  readonly ino: InodeId;
  /** The inode that was replaced or exchanged, if any. */
  readonly replaced?: NameLost;
  /** Whether the names may be cached as they are now: the least of what the session has of both directories. */
  readonly directory: LeaseMode;
}

export interface AcquireRequest {
  readonly ino: InodeId;
  /** Others have nothing afterwards (write), or no more than read. */
  readonly mode: "read" | "write";
}

export interface AcquireReply extends InodeReply {
  /** The first blocks of a regular file (up to 64). */
  readonly blocks: readonly Block[];
  /** True when `blocks` are all the file has. */
  readonly blocksComplete: boolean;
  /** Another session has it open for writing: the lease will go back and forth. */
  readonly isShared: boolean;
}

export interface BlocksRequest {
  readonly ino: InodeId;
  readonly offset: number;
  readonly length: number;
}

export interface BlocksReply {
  /** Those that overlap the range, by start (at most 256); what lies between is a hole. */
  readonly blocks: readonly Block[];
  /** The range that the reply is complete for: [offset, end). */
  readonly end: number;
  /** As InodeReply's. */
  readonly inline?: Uint8Array;
}

export interface AllocateBlockRequest extends Change {
  readonly ino: InodeId;
  readonly offset: number;
  /** Host label of the writer, for the first replica. */
  readonly host: string;
  /** Nodes that just failed the caller; avoided when others are there. */
  readonly avoid: readonly number[];
  /**
   * A block that ends before `offset` and was cut short by a truncate: the caller holds a write lease and has
   * truncated every replica to the block's length, so its extent may grow over `offset` again.
   */
  readonly extend?: BlockId;
}

/** Inodes in one ClaimRequest. */
export const CLAIM_MAX = 1_024;

export interface ClaimRequest {
  readonly inodes: readonly InodeId[];
}

/** Inodes in one AccessedRequest. */
export const ACCESSED_MAX = 256;

/** Needs no tag: to be told twice changes nothing. */
export interface AccessedRequest {
  /**
   * Inodes that were read, when (absent: now), and the `Attributes.version` by which the caller found their times of access
   * due.
   */
  readonly inodes: readonly {
    readonly ino: InodeId;
    readonly version: number;
    readonly time?: Timespec;
  }[];
  /** Also those whose time of access is not due (strictatime). */
  readonly always: boolean;
}

/** What a writer has to report. */
export interface CommitRequest extends Change, WriteReport {
  /** Answer only when it is on disk (fsync). */
  readonly durable: boolean;
}

/** Needs no tag: the generation tells a report that was dealt with. */
export interface ReplicaFailedRequest {
  readonly ino: InodeId;
  readonly start: number;
  readonly block: BlockId;
  readonly generation: Generation;
  readonly failed: readonly VolumeId[];
  /** The caller has written to the block, whether that was reported or not: a replica that is missing has lost it. */
  readonly hasData?: boolean;
}

export interface PunchRequest extends Change {
  readonly ino: InodeId;
  readonly offset: number;
  readonly length: number;
}

export interface ReadDirectoryRequest extends Pick<Wishes, "wantsFound"> {
  readonly ino: InodeId;
  /** 0: from the start. */
  readonly cookie: number;
  readonly limit: number;
  readonly withInodes: boolean;
  /** So many bytes of files' data may come along (InodeReply.inline). Absent: none. */
  readonly inlineBytes?: number;
  /** Nobody waits for it: what other sessions have alone is left out, instead of being asked of them. */
  readonly ahead?: true;
}

export interface ReadDirectoryReply {
  readonly parent: InodeId;
  /** What may be cached of the directory: of its names, its listing. */
  readonly directory: LeaseMode;
  readonly entries: readonly DirectoryEntry[];
  readonly end: boolean;
}

export interface StatfsReply {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly files: number;
  readonly blockBytes: number;
}

export interface VolumeStatus {
  readonly volume: VolumeId;
  readonly path: string;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly usedBytes: number;
  readonly blocks: number;
  readonly trashBytes?: number;
  readonly scrub?: ScrubStatus;
  readonly failed?: string;
}

/** What administrators have a node do: "decommissioned": nothing that is counted on is left there. */
export type NodeState = "in service" | "decommissioning" | "decommissioned";

export interface DataserverStatus {
  readonly node: number;
  readonly host: string;
  /** Absent or "": not known. */
  readonly rack?: string;
  readonly state?: NodeState;
  /** For so long it may be away without being missed; absent: it may not. */
  readonly maintenanceSeconds?: number;
  readonly address: string;
  readonly alive: boolean;
  readonly lastHeartbeatSeconds: number;
  readonly volumes: readonly VolumeStatus[];
}

/** What a mount counts of itself and tells with each renewal; all since it started. */
export interface ClientCounters {
  /** Requests of the kernel. */
  readonly kernelRequests: number;
  /** Calls to nameserver and leaseserver, by operation, renewals included. */
  readonly calls: Readonly<Record<string, number>>;
  /** Inodes that it keeps, with or without a lease. */
  readonly inodes: number;
  /** Recalled things, and the milliseconds until they were given up. */
  readonly recalls: number;
  readonly recallMs: number;
  /** Times that it had to stop serving from its caches, as the server was silent. */
  readonly fences: number;
  /** Absent from older clients. */
  readonly reads?: ReadCounters;
}

/** Reads of blocks by the way that their bytes came. */
export interface ReadCounters {
  /** From the file of a replica on the same machine; the page cache had it. */
  readonly cached: number;
  /** From the file of a replica on the same machine; its disk was waited for. */
  readonly disk: number;
  /** From a dataserver, on whatever machine. */
  readonly served: number;
  /** From memory, as a dataserver was asked before. Absent from older clients. */
  readonly ahead?: number;
  /** Why replicas on the same machine can't be read from their files, if that was tried in vain. */
  readonly refused?: string;
}

/** One client. */
export interface SessionStatus {
  readonly session: SessionId;
  readonly host: string;
  readonly mountpoint: string;
  readonly connected: boolean;
  readonly lastSeenSeconds: number;
  readonly readLeases: number;
  /** Absent from older servers. */
  readonly exclusiveLeases?: number;
  readonly writeLeases: number;
  /** Ranges that its processes hold locks on, and locks that they wait for; absent from older servers. */
  readonly locks?: number;
  readonly lockWaits?: number;
  readonly counters?: ClientCounters;
}

/** The leaseserver's own figures; counts since it started. */
export interface LeaseStatus {
  readonly read: number;
  readonly exclusive: number;
  readonly write: number;
  /** Leases that one session may hold; beyond it the oldest are recalled. */
  readonly perSessionMax: number;
  readonly granted: number;
  /** Messages sent, the inodes they spoke of, and how long they were waited for. */
  readonly recalls: number;
  readonly recalledInodes: number;
  readonly recallMs: number;
  readonly recallMsMax: number;
  /** Operations that wait now: for their turn on an inode, and for acknowledgements. */
  readonly waitingTurns: number;
  readonly waitingRecalls: number;
  /** Leases recalled since a session had too many, and write leases that ended with their session. */
  readonly evicted: number;
  readonly fenced: number;
}

export interface StatusReply {
  readonly clusterId: string;
  readonly version: string;
  readonly startedSecondsAgo: number;
  readonly inodes: number;
  readonly blocks: number;
  readonly replicas: number;
  /** Files whose data lies beside their inodes, and the bytes of it; absent from older servers. */
  readonly inlineFiles?: number;
  readonly inlineBytes?: number;
  readonly underReplicated: number;
  readonly missing: number;
  /** Blocks all of whose replicas are in one rack, or two on one host, while there is a better place. */
  readonly misplaced: number;
  /** Of the disks of live volumes that take blocks, each disk once; before replication. */
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly pendingDeletions: number;
  readonly sessions: readonly SessionStatus[];
  readonly leases: LeaseStatus;
  readonly repair: RepairStatus;
  readonly residentBytes: number;
  readonly dataservers: readonly DataserverStatus[];
  /** Of the backups that the nameserver makes; absent when it makes none. */
  readonly backup?: BackupStatus;
}

export interface BackupStatus {
  readonly dir: string;
  readonly everySeconds: number;
  /** The newest whole one; absent when there is none. */
  readonly lastFile?: string;
  readonly lastSecondsAgo?: number;
  /** Why the last attempt failed, if it did. */
  readonly error?: string;
}

/** Giving blocks the replicas that they should have. */
export interface RepairStatus {
  /** Blocks that are known to need it. */
  readonly waiting: number;
  readonly running: number;
  /** Blocks are still being looked for. */
  readonly walking: boolean;
  /** Replicas made since the start, and attempts that failed. */
  readonly copied: number;
  readonly copiedBytes: number;
  readonly failed: number;
}

export const NAMESERVER = defineService("nameserver", {
  lookup: method<InDirectory & Pick<Wishes, "wantsFound">, LookupReply>(1),
  getattr: method<{ readonly ino: InodeId }, InodeReply>(2),
  setattr: method<SetAttributesRequest, InodeReply>(3),
  /** mknod, mkdir and symlink, by the type in `mode`. */
  make: method<MakeRequest, EntryReply>(4),
  create: method<CreateRequest, CreateReply>(5),
  remove: method<RemoveRequest, RemoveReply>(6),
  rename: method<RenameRequest, RenameReply>(7),
  link: method<Change & InDirectory & { readonly ino: InodeId }, EntryReply>(8),
  /** A lease on a file's data, waited for in turn; what an open or a first read or write needs. */
  acquire: method<AcquireRequest, AcquireReply>(9),
  blocks: method<BlocksRequest, BlocksReply>(11),
  /** The block that covers `offset`, made when there was a hole. */
  allocateBlock: method<AllocateBlockRequest, { readonly block: Block }>(12),
  commit: method<CommitRequest, InodeReply>(13),
  /** Takes failed replicas off a block and gives the survivors a new generation. EAGAIN when none of them answers, ENODATA when all are missing. */
  replicaFailed: method<ReplicaFailedRequest, { readonly block: Block }>(14),
  /** Drops whole blocks inside the range; the caller zeroes the ragged ends. */
  punch: method<PunchRequest, InodeReply>(15),
  readDirectory: method<ReadDirectoryRequest, ReadDirectoryReply>(16),
  setXattr: method<
    & Change
    & {
      readonly ino: InodeId;
      readonly name: Uint8Array;
      readonly value: Uint8Array;
      readonly flags: number;
      /** With a POSIX ACL: the caller is not of the file's group, so that setgid goes. */
      readonly killSetgid?: boolean;
    },
    InodeReply
  >(17),
  getXattr: method<{ readonly ino: InodeId; readonly name: Uint8Array }, { readonly value: Uint8Array }>(18),
  listXattrs: method<{ readonly ino: InodeId }, { readonly names: readonly Uint8Array[] }>(19),
  removeXattr: method<Change & { readonly ino: InodeId; readonly name: Uint8Array }, InodeReply>(20),
  statfs: method<Record<string, never>, StatfsReply>(21),
  /**
   * Everything that was answered before is on disk when this is answered. ENOENT when there is no inode `ino`: its making was
   * lost with the power of the server's machine.
   */
  sync: method<{ readonly ino?: InodeId }, { readonly ok: true }>(22),
  status: method<Record<string, never>, StatusReply>(23),
  createUnnamed: method<CreateUnnamedRequest, AcquireReply>(30),
  /** Sets times of access. Answers what the inodes are then; those that are gone are left out. */
  accessed: method<AccessedRequest, { readonly inodes: readonly InodeReply[] }>(31),
  /** Changes that the caller has made already: applied at once, whatever others wait for, and all in one batch. */
  defer: method<DeferRequest, DeferReply>(32),
  /** What the caller would rather have alone, of what it knows. Answers what the inodes are; others' and gone ones are left out. */
  claim: method<ClaimRequest, { readonly inodes: readonly InodeReply[] }>(34),
  /** Numbers for inodes that the caller makes. */
  reserveInodes: method<{ readonly count: number }, ReservedInodes>(33),
  /** Blocks for files that the caller makes. They are its own until it has told of a file that has them, or its session ends. */
  reserveBlocks: method<ReserveBlocksRequest, ReservedBlocksReply>(35),
});

/** What a client says to keep its session, and what the leaseserver asks of it. */
export interface OpenSessionRequest {
  /** Chosen by the client, unique to this mount: asking again with it gives the same session. */
  readonly clientId: string;
  readonly host: string;
  readonly mountpoint: string;
  /**
   * Names the mount point among all machines, boots and mount namespaces: a client that opens a session there is
   * proof that the one before it has died.
   */
  readonly place?: string;
  /** It knows of data that is kept beside inodes. One that does not would read such files as zeros: EPROTO. */
  readonly readsInline?: true;
}

export interface OpenSessionReply {
  readonly session: SessionId;
  /** Silence longer than this ends the session. */
  readonly ttlMs: number;
  /** The nameserver's clock, so that times a client sets itself agree with the server's. */
  readonly now: Timespec;
  /** False: the session is new (or was given up); nothing that was held before holds. */
  readonly resumed: boolean;
  /** Root of that host counts as this user; absent: it is root. */
  readonly rootSquash?: UserIds;
  /** Data of files up to this size is kept beside their inodes. Absent: of none. */
  readonly inlineLimit?: number;
  /** Names this run of the server. Another one than before: it has forgotten leases, which are reclaimed. */
  readonly run: string;
  /** How often the server's machine has stopped without warning: what was answered before and not synced may be lost. */
  readonly cuts?: number;
}

/** What a session holds of an inode. */
export interface Held {
  readonly ino: InodeId;
  readonly lease: LeaseMode;
  readonly open: OpenMode;
  /** Of a file that it may not write to any more: as RecallAnswer's. */
  readonly doubtful?: true;
}

export interface ReclaimRequest {
  /** A part of what the client holds, at most RECLAIM_MAX. */
  readonly held: readonly Held[];
  /** This was the last part: what else was kept for the session can go. */
  readonly last: boolean;
}

/** Inodes in one message that speaks of many. */
export const RECLAIM_MAX = 10_000;

export const LEASESERVER = defineService("leaseserver", {
  openSession: method<OpenSessionRequest, OpenSessionReply>(40),
  /** `isFull`: the nameserver's disk is nearly full, as DeferReply has it. */
  renew: method<
    { readonly counters?: ClientCounters },
    { readonly now: Timespec; readonly isFull?: true }
  >(41),
  /** After a restart of the server, before anything else is asked. */
  reclaim: method<ReclaimRequest, { readonly granted: readonly LeaseMode[] }>(42),
  /**
   * What the session holds from now on; orphans that it no longer has open go. `unused`: files whose first block,
   * made with them, got no data.
   */
  release: method<
    { readonly held: readonly Held[]; readonly unused: readonly InodeId[] },
    { readonly ok: true }
  >(43),
  closeSession: method<Record<string, never>, { readonly ok: true }>(44),
});

/**
 * Something that a session has to give up. `keep`: what it may hold of the inode afterwards ("read" of a writer: flush
 * first). `attributes`: what it knows of attributes and xattrs is no longer right. `names`: nor is what it knows of
 * these entries of a directory, of its listing and its attributes. `removed`: the inode loses its last name; if it is
 * not open there, nothing of it is kept.
 */
export interface RecallItem {
  readonly ino: InodeId;
  readonly keep: LeaseMode;
  readonly attributes?: boolean;
  readonly names?: readonly Uint8Array[];
  readonly removed?: boolean;
}

/** Sent by the leaseserver to a session; the pushAck is the answer, when all of it has been given up. */
export interface RecallPush {
  readonly items: readonly RecallItem[];
}

export interface RecallAnswer {
  /** Whether each item's inode is open there. */
  readonly open: readonly OpenMode[];
  /**
   * Files of them whose replicas may still get what an operation of the session sent that has failed: they are to refuse it before
   * anybody writes to the file.
   */
  readonly doubtful?: readonly InodeId[];
}

export const LEASE_PUSHES = defineService("leasePushes", {
  recall: method<RecallPush, RecallAnswer>(60),
  /** A wait for a lock (messages/locks.ts) has come to something: ask again. */
  lockOffered: method<{ readonly wait: number }, { readonly ok: true }>(61),
  /** Another client wants something of a file whose record locks are kept under that number: give them up. */
  recallLocks: method<{ readonly ino: InodeId; readonly kept: number }, { readonly ok: true }>(62),
});
