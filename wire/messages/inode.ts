/** Inodes, extents and leases as they travel: what most replies of the nameserver carry. */

import type { Timespec } from "../../base/clock.ts";
import type { BlockId, Generation, InodeId, NodeId, VolumeId } from "../ids.ts";

// File types, the top four bits of `mode` (sys/stat.h).
export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;
export const S_ISUID = 0o4000;
export const S_ISGID = 0o2000;
export const S_ISVTX = 0o1000;

// Of an entry's type, the same bits by themselves (dirent.h).
export const DT_DIR = S_IFDIR >>> 12;
export const DT_REG = S_IFREG >>> 12;

/** The size that directories show. */
export const DIRECTORY_BYTES = 4096;

// Inode flags, as chattr has them (linux/fs.h FS_*_FL).
/** What is written is on disk when write(2) returns. */
export const FS_SYNC_FL = 0x08;
export const FS_IMMUTABLE_FL = 0x10;
export const FS_APPEND_FL = 0x20;
export const FS_NODUMP_FL = 0x40;
/** Reading it is no access. */
export const FS_NOATIME_FL = 0x80;
/** Those that what is made in a directory has from it. */
export const INHERITED_FLAGS = FS_SYNC_FL | FS_NODUMP_FL | FS_NOATIME_FL;
/** Those that are kept. */
export const INODE_FLAGS = FS_IMMUTABLE_FL | FS_APPEND_FL | INHERITED_FLAGS;

/** Bytes of an extended attribute's value at most (XATTR_SIZE_MAX). */
export const XATTR_VALUE_BYTES_MAX = 65_536;
/** Bytes of a name at most, and of a symlink target (limits.h). */
export const NAME_BYTES_MAX = 255;
export const SYMLINK_BYTES_MAX = 4095;
/** Names of one file at most, as ext4. A directory has as many subdirectories as there is room for, and counts them. */
export const NLINK_MAX = 65_000;
/** Bytes of a file that the nameserver keeps itself at most, however it is set. */
export const INLINE_BYTES_MAX = 65_536;
/** Largest file: every offset stays an exact number. */
export const FILE_BYTES_MAX = Number.MAX_SAFE_INTEGER;

export interface Attributes {
  readonly ino: InodeId;
  /** Type and permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  readonly size: number;
  /** Bytes that blocks hold, or the nameserver itself, for st_blocks. */
  readonly allocatedBytes: number;
  /**
   * Bytes from its start that the nameserver keeps beside the inode; what follows up to the size reads as zeros, and no block
   * holds data. Absent: none.
   */
  readonly inlineBytes?: number;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  readonly ctime: Timespec;
  readonly btime: Timespec;
  readonly rdev: number;
  readonly replication: number;
  /** It has extended attributes; when not, nobody has to ask for one. */
  readonly hasXattrs: boolean;
  /** One of them are file capabilities, which go before its data changes. Absent: no. */
  readonly hasCapability?: boolean;
  /** FS_*_FL. Absent: none. */
  readonly flags?: number;
  /** Grows with every change of the inode: of two replies that crossed on the way, the larger one is newer. */
  readonly version: number;
}

/**
 * What a client may cache of an inode until it is recalled. "none": nothing. "read": attributes, pages, xattrs,
 * block map, entries present and absent. "exclusive" (one holder, and then nobody else has anything): also own changes of
 * attributes, and of a directory's names, which the nameserver hears of later (DeferRequest). "write": also buffered
 * writes and own size and mtime (regular files).
 */
export type LeaseMode = "none" | "read" | "exclusive" | "write";

/** Each allows all that those before it do. */
export const LEASE_RANK: Readonly<Record<LeaseMode, number>> = { none: 0, read: 1, exclusive: 2, write: 3 };

/** One holder, and nobody else has anything of the inode. */
export function isExclusive(lease: LeaseMode): boolean {
  return LEASE_RANK[lease] >= LEASE_RANK.exclusive;
}

/** Whether a session has an inode open, and for what. */
export type OpenMode = "no" | "read" | "write";

/** An inode in a reply: its attributes and what the asking session may cache from now on. */
export interface InodeReply {
  readonly attributes: Attributes;
  /** "none" grants nothing new; what the session holds already is taken back by recalls only. */
  readonly lease: LeaseMode;
  /** Only for symlinks. */
  readonly target?: Uint8Array;
  /** All blocks of a small regular file, so that it can be read without another question. */
  readonly blocks?: readonly Block[];
  /** The `inlineBytes` of a file that has some; absent also where they would make the reply too large. */
  readonly inline?: Uint8Array;
}

/** Where one replica lies and how to reach it. */
export interface ReplicaLocation {
  readonly node: NodeId;
  readonly volume: VolumeId;
  /** HOST:PORT of the dataserver. */
  readonly address: string;
  /** Its host label, for "is it near". */
  readonly host: string;
  /** Absent: not known. */
  readonly rack?: string;
  readonly alive: boolean;
}

/**
 * A block: the extent [start, start + length) of one file. `length` is what the block may hold; its replicas
 * may be shorter, and what lies beyond a replica's end reads as zeros. `written` false: allocated, but no data
 * was committed yet, so it reads as zeros without asking a dataserver.
 */
export interface Block {
  readonly id: BlockId;
  readonly generation: Generation;
  readonly start: number;
  readonly length: number;
  readonly written: boolean;
  /** Bytes that each of its replicas takes on its disk, as the last writer has reported them; absent: not known. */
  readonly allocated?: number;
  readonly replicas: readonly ReplicaLocation[];
  /**
   * All its replicas' machines had stopped, and the nameserver settled on what one of them still had: what was written under
   * a lower generation and not synced may be lost. Absent: that has never been.
   */
  readonly chosenAt?: Generation;
}

/** What a file system takes room in. */
const UNIT_BYTES = 4096;

/**
 * What a block counts for st_blocks of a file of `size`: what it takes on a disk, but no more than it covers. Where that is
 * not known it counts as full up to the file's end.
 */
export function allocatedOf(
  { start, length, allocated }: {
    readonly start: number;
    readonly length: number;
    readonly allocated?: number;
  },
  size: number,
): number {
  if (allocated === undefined) return Math.max(0, Math.min(length, size - start));
  return Math.min(allocated, Math.ceil(length / UNIT_BYTES) * UNIT_BYTES);
}

export interface DirectoryEntry {
  readonly name: Uint8Array;
  readonly ino: InodeId;
  /** DT_*: (mode >> 12) & 15. */
  readonly type: number;
  /** Position after this entry; stays valid while entries come and go. */
  readonly cookie: number;
  /** Only when asked for; absent also if the inode vanished meanwhile. */
  readonly inode?: InodeReply;
}
