/**
 * What a file system gives to the kernel session: one handler an operation, in decoded terms. The session owns
 * the wire format; handlers see numbers and byte views only.
 *
 * Contract for handlers:
 * - A handler answers at once (returns a value) or later (returns a promise); other requests go on meanwhile.
 * - An expected failure is returned as a negative errno number (`-ERRNO.ENOENT`), or thrown as FsError; anything
 *   else that is thrown is logged and answered as EIO.
 * - Byte views in arguments (names, write data, xattr values) are valid until the handler's promise settles, and
 *   for a synchronous handler until it returns. Who needs them longer copies.
 * - `nodeid`, `fh` and cookies are the file system's own and below 2^53. Lock owners are opaque keys (bigint).
 */

import type { Timespec } from "../../base/clock.ts";

/** Who asks. uid, gid and pid are 0 for requests that the kernel makes itself; never check rights by them. */
export interface RequestContext {
  readonly uid: number;
  readonly gid: number;
  /** The caller's number on this machine, where `uid` and `gid` were mapped to others (fs/id_map.ts). */
  readonly localUid?: number;
  /** Thread id of the caller, 0 when not visible. */
  readonly pid: number;
  /**
   * Aborts when the caller is being killed (SETLKW: when it got any signal); made on first use, so it costs nothing
   * unread.
   */
  readonly signal: AbortSignal;
  /**
   * Of a large WRITE: the memory that its data lies in is the handler's from now on, also after the answer. What it gives must
   * be called once, when nothing uses the data any more; if it is not, the garbage collector takes it. Undefined: the data is to be
   * copied by who needs it after the answer.
   */
  takeBuffer?(): (() => void) | undefined;
  /** Runs `action` when the kernel has the reply: memory that the answer lies in may be used again. */
  onReplied?(action: () => void): void;
}

/** Root of this machine asks, to whom its kernel gives all rights. */
export function isRoot({ uid, localUid = uid }: Pick<RequestContext, "uid" | "localUid">): boolean {
  return localUid === 0;
}

/** A negative errno number. */
export type NegativeErrno = number;
export type Answer<T> = T | NegativeErrno | Promise<T | NegativeErrno>;
/** For operations without a payload: 0 or a negative errno. */
export type Status = number | Promise<number>;

export interface KernelAttributes {
  readonly ino: number;
  readonly size: number;
  /** In units of 512 bytes. */
  readonly blocks: number;
  readonly atime: Timespec;
  readonly mtime: Timespec;
  readonly ctime: Timespec;
  readonly btime: Timespec;
  /** Type and permission bits. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  /** In the kernel's 32-bit encoding. */
  readonly rdev: number;
  readonly blockSize: number;
}

/** LOOKUP and its like. `nodeid` 0 is a negative entry, cached for `entryTimeoutMs`. */
export interface EntryAnswer {
  readonly nodeid: number;
  readonly generation: number;
  readonly entryTimeoutMs: number;
  readonly attributeTimeoutMs: number;
  readonly attributes: KernelAttributes;
}

export interface AttributesAnswer {
  readonly attributeTimeoutMs: number;
  readonly attributes: KernelAttributes;
}

export interface OpenAnswer {
  readonly fh: number;
  /** FOPEN_* bits. */
  readonly openFlags: number;
  /** Only with FOPEN_PASSTHROUGH. */
  readonly backingId?: number;
}

export interface CreateAnswer {
  readonly entry: EntryAnswer;
  readonly open: OpenAnswer;
}

/** What SETATTR asks for; an absent field stays as it is. "now" is the server's clock. */
export interface AttributeChanges {
  readonly fh?: number;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly size?: number;
  readonly atime?: Timespec | "now";
  readonly mtime?: Timespec | "now";
  readonly ctime?: Timespec;
  /** Clear setuid, setgid and capabilities as the caller lacks CAP_FSETID. */
  readonly killSuidGid: boolean;
}

export interface StatfsAnswer {
  readonly blocks: number;
  readonly blocksFree: number;
  readonly blocksAvailable: number;
  readonly files: number;
  readonly filesFree: number;
  readonly blockSize: number;
  readonly nameLengthMax: number;
}

/**
 * Collects directory records into one reply. `add` returns false, and adds nothing, when the record does not
 * fit; the handler then stops. `cookie` is the position after the entry (never 0).
 */
export interface DirectoryWriter {
  /** READDIR record. `type` is a DT_* value: (mode >> 12) & 15. */
  add(name: Uint8Array, ino: number, type: number, cookie: number): boolean;
  /** READDIRPLUS record; `entry` null means "no attributes here" (as for "." and ".."). */
  addPlus(name: Uint8Array, ino: number, type: number, cookie: number, entry: EntryAnswer | null): boolean;
}

/** A place in an open file. */
export interface FilePosition {
  readonly nodeid: number;
  readonly fh: number;
  readonly offset: number;
}

export interface LockRange {
  /** First byte: a number up to 2^53-1, a bigint from there on. */
  readonly start: number | bigint;
  /** Last byte, or Infinity for "to the end". */
  readonly end: number | bigint;
  /** F_RDLCK 0, F_WRLCK 1, F_UNLCK 2. */
  readonly type: number;
  readonly pid: number;
}

/**
 * The operations. Every one is optional: a missing one is answered ENOSYS, which for most operations the
 * kernel remembers for the life of the mount.
 */
export interface FileSystemHandlers {
  lookup?(context: RequestContext, parent: number, name: Uint8Array): Answer<EntryAnswer>;
  /** No reply exists; must not throw. Called once a node for BATCH_FORGET. */
  forget?(nodeid: number, lookups: number): void;
  getattr?(context: RequestContext, nodeid: number, fh: number | undefined): Answer<AttributesAnswer>;
  setattr?(context: RequestContext, nodeid: number, changes: AttributeChanges): Answer<AttributesAnswer>;
  readlink?(context: RequestContext, nodeid: number): Answer<Uint8Array>;
  symlink?(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    target: Uint8Array,
  ): Answer<EntryAnswer>;
  mknod?(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    mode: number,
    rdev: number,
    umask: number,
  ): Answer<EntryAnswer>;
  mkdir?(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    mode: number,
    umask: number,
  ): Answer<EntryAnswer>;
  unlink?(context: RequestContext, parent: number, name: Uint8Array): Status;
  rmdir?(context: RequestContext, parent: number, name: Uint8Array): Status;
  /** RENAME and RENAME2; `flags`: RENAME_NOREPLACE 1, RENAME_EXCHANGE 2, RENAME_WHITEOUT 4. */
  rename?(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    newParent: number,
    newName: Uint8Array,
    flags: number,
  ): Status;
  link?(context: RequestContext, nodeid: number, newParent: number, newName: Uint8Array): Answer<EntryAnswer>;
  create?(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    flags: number,
    mode: number,
    umask: number,
  ): Answer<CreateAnswer>;
  tmpfile?(
    context: RequestContext,
    parent: number,
    flags: number,
    mode: number,
    umask: number,
  ): Answer<CreateAnswer>;
  /** `killSuidGid`: O_TRUNC by a caller without CAP_FSETID. */
  open?(context: RequestContext, nodeid: number, flags: number, killSuidGid: boolean): Answer<OpenAnswer>;
  /**
   * Up to `size` bytes from `offset`, as one or several views (at most 60) that are written out before the next
   * turn of the event loop; fewer bytes only at the true end of the file. `isDirect`: into the caller's memory; else into
   * pages of the cache, which are locked until the answer.
   */
  read?(
    context: RequestContext,
    nodeid: number,
    fh: number,
    offset: number,
    size: number,
    options: { readonly isDirect: boolean },
  ): Answer<Uint8Array | readonly Uint8Array[]>;
  /** Bytes written (all, or a negative errno). `fromPageCache`: writeback of a mapping; fh is a guess. */
  write?(
    context: RequestContext,
    nodeid: number,
    fh: number,
    offset: number,
    data: Uint8Array,
    options: { readonly openFlags: number; readonly fromPageCache: boolean; readonly killSuidGid: boolean },
  ): Status;
  statfs?(context: RequestContext, nodeid: number): Answer<StatfsAnswer>;
  flush?(context: RequestContext, nodeid: number, fh: number, lockOwner: bigint): Status;
  release?(context: RequestContext, nodeid: number, fh: number, openFlags: number): Status;
  fsync?(context: RequestContext, nodeid: number, fh: number, dataOnly: boolean): Status;
  opendir?(context: RequestContext, nodeid: number, flags: number): Answer<OpenAnswer>;
  /** Fills `writer` from `cookie` (0: the start) on; 0 or a negative errno. `plus`: use addPlus. */
  readdir?(
    context: RequestContext,
    nodeid: number,
    fh: number,
    cookie: number,
    writer: DirectoryWriter,
    plus: boolean,
  ): Status;
  releasedir?(context: RequestContext, nodeid: number, fh: number): Status;
  fsyncdir?(context: RequestContext, nodeid: number, fh: number, dataOnly: boolean): Status;
  access?(context: RequestContext, nodeid: number, mask: number): Status;
  setxattr?(
    context: RequestContext,
    nodeid: number,
    name: Uint8Array,
    value: Uint8Array,
    flags: number,
    /** With a POSIX ACL: the caller is not of the file's group and lacks CAP_FSETID. */
    killSetgid?: boolean,
  ): Status;
  /** The value; the session deals with "how long is it" and ERANGE. */
  getxattr?(context: RequestContext, nodeid: number, name: Uint8Array): Answer<Uint8Array>;
  /** The names, without NULs; the session encodes them. */
  listxattr?(context: RequestContext, nodeid: number): Answer<readonly Uint8Array[]>;
  removexattr?(context: RequestContext, nodeid: number, name: Uint8Array): Status;
  /** `input`: what `cmd` says that the caller gives; the answer: what it says that he gets, of that length. */
  ioctl?(context: RequestContext, nodeid: number, cmd: number, input: Uint8Array): Answer<Uint8Array>;
  fallocate?(
    context: RequestContext,
    nodeid: number,
    fh: number,
    offset: number,
    length: number,
    mode: number,
  ): Status;
  /** Bytes that were copied; 0 at the source's end. -EOPNOTSUPP: the kernel reads and writes instead. */
  copyFileRange?(
    context: RequestContext,
    source: FilePosition,
    target: FilePosition,
    length: number,
  ): Answer<{ readonly bytes: number }>;
  /** SEEK_DATA 3 or SEEK_HOLE 4: the new offset; -ENXIO at or past the end. */
  lseek?(
    context: RequestContext,
    nodeid: number,
    fh: number,
    offset: number,
    whence: number,
  ): Answer<{ readonly offset: number }>;
  getlk?(
    context: RequestContext,
    nodeid: number,
    fh: number,
    owner: bigint,
    lock: LockRange,
  ): Answer<LockRange>;
  /** `wait`: SETLKW, may stay unanswered until granted or `context.signal` aborts. `flock`: whole-file lock. */
  setlk?(
    context: RequestContext,
    nodeid: number,
    fh: number,
    owner: bigint,
    lock: LockRange,
    options: { readonly wait: boolean; readonly flock: boolean },
  ): Status;
}
