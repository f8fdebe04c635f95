/**
 * The INIT negotiation: from what the kernel offers and what the caller wants to the reply and to the features
 * that the connection then has. Only flags that were offered are answered; the writeback cache never is (it
 * makes the kernel's size and mtime win over ours, and excludes passthrough).
 */

import { ERRNO } from "../../wire/errno.ts";
import * as P from "./protocol.ts";
import type { ReplyBuffer } from "./reply.ts";
import type { RequestReader } from "./request.ts";

export interface ConnectionOptions {
  /** Largest WRITE; READs are as large. A multiple of 4096. */
  readonly maxWriteBytes: number;
  /** Background requests (read-ahead, RELEASE ...) in flight. */
  readonly maxBackground: number;
  /** A changed mtime or size in any attribute reply drops the file's pages. Off: only a changed size does. */
  readonly autoInvalidateData: boolean;
  /** Symlink targets stay in the kernel until their inode is invalidated. */
  readonly cacheSymlinks: boolean;
  /** The kernel enforces POSIX ACLs kept in xattrs; forces default_permissions, and umask is left to the handlers. */
  readonly posixAcl: boolean;
  readonly readdirPlus: boolean;
  /** 0: no passthrough. 1: backing files on a plain file system. 2: on an overlay as well. */
  readonly passthroughStackDepth: 0 | 1 | 2;
}

export const CONNECTION_DEFAULTS: ConnectionOptions = {
  maxWriteBytes: 1024 * 1024,
  maxBackground: 64,
  autoInvalidateData: true,
  cacheSymlinks: false,
  posixAcl: false,
  readdirPlus: true,
  passthroughStackDepth: 0,
};

/** What kernel and session have agreed on. */
export interface ConnectionFeatures {
  /** The protocol minor that governs. */
  readonly minor: number;
  readonly maxWriteBytes: number;
  /** FUSE passthrough may be used: FOPEN_PASSTHROUGH with a backing id. */
  readonly hasPassthrough: boolean;
  /** NOTIFY_INC_EPOCH works (Linux 6.16). */
  readonly hasIncrementEpoch: boolean;
  /** An entry may be made to expire without being dropped. */
  readonly hasExpireOnly: boolean;
  /** Locks are asked of the handlers; otherwise they are the kernel's, local to this mount. */
  readonly hasRemoteLocks: boolean;
  /** SETXATTR comes with flags of its own: ACL_KILL_SGID. */
  readonly hasSetxattrExt: boolean;
}

/**
 * Encodes the INIT reply. Returns the features; or null when the kernel will send a second INIT; or a negative
 * errno when there is no common version.
 */
export function negotiate(
  reader: RequestReader,
  reply: ReplyBuffer,
  options: ConnectionOptions,
  servesLocks: boolean,
): ConnectionFeatures | null | number {
  const I = P.INIT_IN;
  const O = P.INIT_OUT;
  const major = reader.u32(I.major);
  const kernelMinor = reader.u32(I.minor);
  const at = reply.reserve(O.bytes);
  reply.bytes.fill(0, at, at + O.bytes);
  const view = reply.view;
  view.setUint32(at + O.major, P.PROTOCOL_MAJOR, true);
  if (major > P.PROTOCOL_MAJOR) return null;
  if (major < P.PROTOCOL_MAJOR || kernelMinor < P.PROTOCOL_MINOR_MIN) return -ERRNO.EPROTO;

  const minor = Math.min(kernelMinor, P.PROTOCOL_MINOR);
  const offered = reader.u32(I.flags);
  const flags = wantedFlags(options, servesLocks) & offered;
  const flags2 = flags & P.INIT_INIT_EXT ? wantedFlags2(options) & reader.u32(I.flags2) : 0;
  const hasPassthrough = (flags2 & P.INIT2_PASSTHROUGH) !== 0;

  view.setUint32(at + O.minor, minor, true);
  view.setUint32(at + O.max_readahead, reader.u32(I.max_readahead), true);
  view.setUint32(at + O.flags, flags, true);
  view.setUint16(at + O.max_background, options.maxBackground, true);
  view.setUint16(at + O.congestion_threshold, Math.ceil(options.maxBackground * 3 / 4), true);
  view.setUint32(at + O.max_write, options.maxWriteBytes, true);
  view.setUint32(at + O.time_gran, 1, true);
  view.setUint16(at + O.max_pages, options.maxWriteBytes / P.PAGE_BYTES, true);
  view.setUint32(at + O.flags2, flags2, true);
  view.setUint32(at + O.max_stack_depth, hasPassthrough ? options.passthroughStackDepth : 0, true);
  return {
    minor,
    maxWriteBytes: options.maxWriteBytes,
    hasPassthrough,
    hasIncrementEpoch: minor >= P.PROTOCOL_MINOR_INC_EPOCH,
    hasExpireOnly: (flags2 & P.INIT2_HAS_EXPIRE_ONLY) !== 0,
    hasRemoteLocks: (flags & P.INIT_POSIX_LOCKS) !== 0,
    hasSetxattrExt: (flags & P.INIT_SETXATTR_EXT) !== 0,
  };
}

function wantedFlags(options: ConnectionOptions, servesLocks: boolean): number {
  let flags = P.INIT_ASYNC_READ | P.INIT_ATOMIC_O_TRUNC | P.INIT_EXPORT_SUPPORT | P.INIT_BIG_WRITES |
    P.INIT_DONT_MASK |
    P.INIT_ASYNC_DIO | P.INIT_PARALLEL_DIROPS | P.INIT_HANDLE_KILLPRIV_V2 | P.INIT_MAX_PAGES |
    P.INIT_SETXATTR_EXT | P.INIT_INIT_EXT;
  if (options.autoInvalidateData) flags |= P.INIT_AUTO_INVAL_DATA;
  if (options.readdirPlus) flags |= P.INIT_DO_READDIRPLUS | P.INIT_READDIRPLUS_AUTO;
  if (options.cacheSymlinks) flags |= P.INIT_CACHE_SYMLINKS;
  if (options.posixAcl) flags |= P.INIT_POSIX_ACL;
  if (servesLocks) flags |= P.INIT_POSIX_LOCKS | P.INIT_FLOCK_LOCKS;
  return flags;
}

function wantedFlags2(options: ConnectionOptions): number {
  let flags = P.INIT2_HAS_EXPIRE_ONLY | P.INIT2_DIRECT_IO_ALLOW_MMAP;
  if (options.passthroughStackDepth > 0) flags |= P.INIT2_PASSTHROUGH;
  return flags;
}
