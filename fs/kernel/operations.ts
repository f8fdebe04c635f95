/**
 * The table of operations: for every opcode that a handler serves, how long its fixed fields are, how the
 * handler is called and how its answer is encoded. The dispatcher drives one parse and one reply path from it.
 * What is not in the table (INIT, INTERRUPT, FORGET ...) has no ordinary reply and lives in dispatcher.ts.
 * Decoding happens before the handler is called, in the same synchronous step: the reader is reused after.
 */

import type { Timespec } from "../../base/clock.ts";
import { asOffset } from "../../base/lock_ranges.ts";
import { ERRNO } from "../../wire/errno.ts";
import type {
  Answer,
  AttributeChanges,
  AttributesAnswer,
  CreateAnswer,
  EntryAnswer,
  FileSystemHandlers,
  LockRange,
  OpenAnswer,
  StatfsAnswer,
} from "./handlers.ts";
import * as P from "./protocol.ts";
import { DirectoryBuffer, type ReplyBuffer } from "./reply.ts";
import type { KernelRequest, RequestReader } from "./request.ts";

/** Payloads below this are copied before the call, so that one small write does not hold a whole buffer. */
export const PAYLOAD_COPY_BYTES_MAX = 64 * 1024;

type Handlers = Required<FileSystemHandlers>;

export interface Operation<T = unknown> {
  readonly name: string;
  readonly handler: keyof FileSystemHandlers;
  /** Size of the fixed fields between the header and names or data. */
  readonly fixedBytes: number;
  call(handlers: Handlers, request: KernelRequest, reader: RequestReader): Answer<T>;
  /** A number that is not negative is a good answer; elsewhere only 0 is, where the reply is empty. */
  readonly isNumeric?: true;
  /** Appends the payload of a successful answer; 0 or a negative errno. Null: the reply is empty. */
  readonly encode: ((reply: ReplyBuffer, answer: T, request: KernelRequest) => number) | null;
}

const table: (Operation | undefined)[] = new Array(P.OPCODE_LIMIT).fill(undefined);

function define<T>(opcode: number, operation: Operation<T>): void {
  // The dispatcher passes `encode` only what `call` of the same operation has answered.
  table[opcode] = operation as unknown as Operation;
}

/** The operation of an opcode, or undefined. */
export function operationOf(opcode: number): Operation | undefined {
  return table[opcode];
}

// How answers are encoded

function encodeEntry(reply: ReplyBuffer, answer: EntryAnswer): number {
  reply.entry(answer);
  return 0;
}

function encodeAttributes(reply: ReplyBuffer, answer: AttributesAnswer): number {
  reply.attributes(answer);
  return 0;
}

function encodeStatx(reply: ReplyBuffer, answer: AttributesAnswer): number {
  reply.statx(answer);
  return 0;
}

function encodeOpen(reply: ReplyBuffer, answer: OpenAnswer): number {
  reply.open(answer);
  return 0;
}

function encodeCreate(reply: ReplyBuffer, answer: CreateAnswer): number {
  reply.entry(answer.entry);
  reply.open(answer.open);
  return 0;
}

function encodeBytes(reply: ReplyBuffer, answer: Uint8Array): number {
  reply.tail = answer;
  return 0;
}

function encodeData(reply: ReplyBuffer, answer: Uint8Array | readonly Uint8Array[]): number {
  reply.tail = answer;
  return 0;
}

function encodeWritten(reply: ReplyBuffer, answer: number): number {
  reply.u32Pair(answer, 0);
  return 0;
}

function encodeStatfs(reply: ReplyBuffer, answer: StatfsAnswer): number {
  reply.statfs(answer);
  return 0;
}

function encodeOffset(reply: ReplyBuffer, answer: { readonly offset: number }): number {
  reply.u64(answer.offset);
  return 0;
}

function encodeLock(reply: ReplyBuffer, answer: LockRange): number {
  reply.lock(answer);
  return 0;
}

/** The caller first asks "how long" with no room at all, then comes with room. */
function encodeXattr(reply: ReplyBuffer, value: Uint8Array, request: KernelRequest): number {
  if (request.replyBytesMax === 0) reply.u32Pair(value.length, 0);
  else if (value.length > request.replyBytesMax) return -ERRNO.ERANGE;
  else reply.tail = value;
  return 0;
}

function encodeXattrNames(reply: ReplyBuffer, names: readonly Uint8Array[], request: KernelRequest): number {
  let byteLength = 0;
  for (const name of names) byteLength += name.length + 1;
  if (request.replyBytesMax === 0) reply.u32Pair(byteLength, 0);
  else if (byteLength > request.replyBytesMax) return -ERRNO.ERANGE;
  else reply.names(names);
  return 0;
}

/** Where the caller has other room than the answer is long, `cmd` was mistaken for another one. */
function encodeIoctl(reply: ReplyBuffer, answer: Uint8Array, request: KernelRequest): number {
  if (answer.length !== request.replyBytesMax) return -ERRNO.ENOTTY;
  reply.zeros(P.IOCTL_OUT.bytes);
  reply.tail = answer;
  return 0;
}

/** The records lie in the request's directory buffer; the handler's answer was only 0. */
function encodeDirectory(reply: ReplyBuffer, _answer: number, request: KernelRequest): number {
  reply.tail = request.directory!.records();
  return 0;
}

// How fields are decoded

function readName(reader: RequestReader): Uint8Array {
  return reader.name(P.NAME_BYTES_MAX);
}

function readPayload(reader: RequestReader, request: KernelRequest, length: number): Uint8Array {
  const payload = reader.payload(length);
  if (length < PAYLOAD_COPY_BYTES_MAX) return payload.slice();
  request.usesBuffer = true;
  return payload;
}

function readFh(reader: RequestReader, flags: number): number | undefined {
  return flags & P.GETATTR_FH ? reader.u64(P.GETATTR_IN.fh) : undefined;
}

function readTime(reader: RequestReader, secondsAt: number, nanosecondsAt: number): Timespec {
  return { seconds: reader.i64(secondsAt), nanoseconds: reader.u32(nanosecondsAt) };
}

const FATTR_ATTRIBUTES = P.FATTR_MODE | P.FATTR_UID | P.FATTR_GID | P.FATTR_SIZE |
  P.FATTR_ATIME | P.FATTR_MTIME | P.FATTR_ATIME_NOW | P.FATTR_MTIME_NOW | P.FATTR_CTIME;

function readChanges(reader: RequestReader): AttributeChanges {
  const S = P.SETATTR_IN;
  const valid = reader.u32(S.valid);
  const changes: { -readonly [K in keyof AttributeChanges]: AttributeChanges[K] } = {
    // chown(2) that leaves both owners as they are asks for nothing else: as with others, the bits go.
    killSuidGid: (valid & P.FATTR_KILL_SUIDGID) !== 0 || (valid & FATTR_ATTRIBUTES) === 0,
  };
  if (valid & P.FATTR_FH) changes.fh = reader.u64(S.fh);
  if (valid & P.FATTR_MODE) changes.mode = reader.u32(S.mode);
  if (valid & P.FATTR_UID) changes.uid = reader.u32(S.uid);
  if (valid & P.FATTR_GID) changes.gid = reader.u32(S.gid);
  if (valid & P.FATTR_SIZE) changes.size = reader.u64(S.size);
  if (valid & P.FATTR_ATIME_NOW) changes.atime = "now";
  else if (valid & P.FATTR_ATIME) changes.atime = readTime(reader, S.atime, S.atimensec);
  if (valid & P.FATTR_MTIME_NOW) changes.mtime = "now";
  else if (valid & P.FATTR_MTIME) changes.mtime = readTime(reader, S.mtime, S.mtimensec);
  if (valid & P.FATTR_CTIME) changes.ctime = readTime(reader, S.ctime, S.ctimensec);
  return changes;
}

function readLock(reader: RequestReader): LockRange {
  const at = P.LK_IN.lk;
  const start = reader.opaque(at + P.FILE_LOCK.start);
  const end = reader.opaque(at + P.FILE_LOCK.end);
  return {
    start: asOffset(start),
    end: end >= P.OFFSET_MAX ? Infinity : asOffset(end),
    type: reader.u32(at + P.FILE_LOCK.type),
    pid: reader.u32(at + P.FILE_LOCK.pid),
  };
}

// Names and attributes

define<EntryAnswer>(P.OP_LOOKUP, {
  name: "LOOKUP",
  handler: "lookup",
  fixedBytes: 0,
  call: (handlers, request, reader) => handlers.lookup(request, request.nodeid, readName(reader)),
  encode: encodeEntry,
});

define<AttributesAnswer>(P.OP_GETATTR, {
  name: "GETATTR",
  handler: "getattr",
  fixedBytes: P.GETATTR_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.getattr(request, request.nodeid, readFh(reader, reader.u32(P.GETATTR_IN.getattr_flags))),
  encode: encodeAttributes,
});

// statx_in begins as getattr_in does.
define<AttributesAnswer>(P.OP_STATX, {
  name: "STATX",
  handler: "getattr",
  fixedBytes: P.STATX_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.getattr(request, request.nodeid, readFh(reader, reader.u32(P.STATX_IN.getattr_flags))),
  encode: encodeStatx,
});

define<AttributesAnswer>(P.OP_SETATTR, {
  name: "SETATTR",
  handler: "setattr",
  fixedBytes: P.SETATTR_IN.bytes,
  call: (handlers, request, reader) => handlers.setattr(request, request.nodeid, readChanges(reader)),
  encode: encodeAttributes,
});

define<Uint8Array>(P.OP_READLINK, {
  name: "READLINK",
  handler: "readlink",
  fixedBytes: 0,
  call: (handlers, request) => handlers.readlink(request, request.nodeid),
  encode: encodeBytes,
});

define<EntryAnswer>(P.OP_SYMLINK, {
  name: "SYMLINK",
  handler: "symlink",
  fixedBytes: 0,
  call(handlers, request, reader) {
    const name = readName(reader);
    return handlers.symlink(request, request.nodeid, name, reader.name(P.SYMLINK_TARGET_BYTES_MAX));
  },
  encode: encodeEntry,
});

define<EntryAnswer>(P.OP_MKNOD, {
  name: "MKNOD",
  handler: "mknod",
  fixedBytes: P.MKNOD_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.mknod(
      request,
      request.nodeid,
      readName(reader),
      reader.u32(P.MKNOD_IN.mode),
      reader.u32(P.MKNOD_IN.rdev),
      reader.u32(P.MKNOD_IN.umask),
    ),
  encode: encodeEntry,
});

define<EntryAnswer>(P.OP_MKDIR, {
  name: "MKDIR",
  handler: "mkdir",
  fixedBytes: P.MKDIR_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.mkdir(
      request,
      request.nodeid,
      readName(reader),
      reader.u32(P.MKDIR_IN.mode),
      reader.u32(P.MKDIR_IN.umask),
    ),
  encode: encodeEntry,
});

define<number>(P.OP_UNLINK, {
  name: "UNLINK",
  handler: "unlink",
  fixedBytes: 0,
  call: (handlers, request, reader) => handlers.unlink(request, request.nodeid, readName(reader)),
  encode: null,
});

define<number>(P.OP_RMDIR, {
  name: "RMDIR",
  handler: "rmdir",
  fixedBytes: 0,
  call: (handlers, request, reader) => handlers.rmdir(request, request.nodeid, readName(reader)),
  encode: null,
});

define<number>(P.OP_RENAME, {
  name: "RENAME",
  handler: "rename",
  fixedBytes: P.RENAME_IN.bytes,
  call(handlers, request, reader) {
    const name = readName(reader);
    const newParent = reader.u64(P.RENAME_IN.newdir);
    return handlers.rename(request, request.nodeid, name, newParent, readName(reader), 0);
  },
  encode: null,
});

define<number>(P.OP_RENAME2, {
  name: "RENAME2",
  handler: "rename",
  fixedBytes: P.RENAME2_IN.bytes,
  call(handlers, request, reader) {
    const name = readName(reader);
    const newParent = reader.u64(P.RENAME2_IN.newdir);
    const flags = reader.u32(P.RENAME2_IN.flags);
    return handlers.rename(request, request.nodeid, name, newParent, readName(reader), flags);
  },
  encode: null,
});

define<EntryAnswer>(P.OP_LINK, {
  name: "LINK",
  handler: "link",
  fixedBytes: P.LINK_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.link(request, reader.u64(P.LINK_IN.oldnodeid), request.nodeid, readName(reader)),
  encode: encodeEntry,
});

define<number>(P.OP_ACCESS, {
  name: "ACCESS",
  handler: "access",
  fixedBytes: P.ACCESS_IN.bytes,
  call: (handlers, request, reader) => handlers.access(request, request.nodeid, reader.u32(P.ACCESS_IN.mask)),
  encode: null,
});

define<StatfsAnswer>(P.OP_STATFS, {
  name: "STATFS",
  handler: "statfs",
  fixedBytes: 0,
  call: (handlers, request) => handlers.statfs(request, request.nodeid),
  encode: encodeStatfs,
});

// Files

define<CreateAnswer>(P.OP_CREATE, {
  name: "CREATE",
  handler: "create",
  fixedBytes: P.CREATE_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.create(
      request,
      request.nodeid,
      readName(reader),
      reader.u32(P.CREATE_IN.flags),
      reader.u32(P.CREATE_IN.mode),
      reader.u32(P.CREATE_IN.umask),
    ),
  encode: encodeCreate,
});

define<CreateAnswer>(P.OP_TMPFILE, {
  name: "TMPFILE",
  handler: "tmpfile",
  fixedBytes: P.CREATE_IN.bytes,
  call(handlers, request, reader) {
    readName(reader); // meaningless, but must be there
    return handlers.tmpfile(
      request,
      request.nodeid,
      reader.u32(P.CREATE_IN.flags),
      reader.u32(P.CREATE_IN.mode),
      reader.u32(P.CREATE_IN.umask),
    );
  },
  encode: encodeCreate,
});

define<OpenAnswer>(P.OP_OPEN, {
  name: "OPEN",
  handler: "open",
  fixedBytes: P.OPEN_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.open(
      request,
      request.nodeid,
      reader.u32(P.OPEN_IN.flags),
      (reader.u32(P.OPEN_IN.open_flags) & P.OPEN_KILL_SUIDGID) !== 0,
    ),
  encode: encodeOpen,
});

define<Uint8Array | readonly Uint8Array[]>(P.OP_READ, {
  name: "READ",
  handler: "read",
  fixedBytes: P.READ_IN.bytes,
  call(handlers, request, reader) {
    request.replyBytesMax = reader.u32(P.READ_IN.size);
    return handlers.read(
      request,
      request.nodeid,
      reader.u64(P.READ_IN.fh),
      reader.u64(P.READ_IN.offset),
      request.replyBytesMax,
      { isDirect: (reader.u32(P.READ_IN.read_flags) & P.READ_LOCKOWNER) !== 0 },
    );
  },
  encode: encodeData,
});

define<number>(P.OP_WRITE, {
  name: "WRITE",
  handler: "write",
  fixedBytes: P.WRITE_IN.bytes,
  call(handlers, request, reader) {
    const writeFlags = reader.u32(P.WRITE_IN.write_flags);
    return handlers.write(
      request,
      request.nodeid,
      reader.u64(P.WRITE_IN.fh),
      reader.u64(P.WRITE_IN.offset),
      readPayload(reader, request, reader.u32(P.WRITE_IN.size)),
      {
        openFlags: reader.u32(P.WRITE_IN.flags),
        fromPageCache: (writeFlags & P.WRITE_CACHE) !== 0,
        killSuidGid: (writeFlags & P.WRITE_KILL_SUIDGID) !== 0,
      },
    );
  },
  isNumeric: true,
  encode: encodeWritten,
});

define<number>(P.OP_FLUSH, {
  name: "FLUSH",
  handler: "flush",
  fixedBytes: P.FLUSH_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.flush(
      request,
      request.nodeid,
      reader.u64(P.FLUSH_IN.fh),
      reader.opaque(P.FLUSH_IN.lock_owner),
    ),
  encode: null,
});

define<number>(P.OP_RELEASE, {
  name: "RELEASE",
  handler: "release",
  fixedBytes: P.RELEASE_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.release(
      request,
      request.nodeid,
      reader.u64(P.RELEASE_IN.fh),
      reader.u32(P.RELEASE_IN.flags),
    ),
  encode: null,
});

define<number>(P.OP_FSYNC, {
  name: "FSYNC",
  handler: "fsync",
  fixedBytes: P.FSYNC_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.fsync(request, request.nodeid, reader.u64(P.FSYNC_IN.fh), isDataOnly(reader)),
  encode: null,
});

function isDataOnly(reader: RequestReader): boolean {
  return (reader.u32(P.FSYNC_IN.fsync_flags) & P.FSYNC_FDATASYNC) !== 0;
}

define<number>(P.OP_FALLOCATE, {
  name: "FALLOCATE",
  handler: "fallocate",
  fixedBytes: P.FALLOCATE_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.fallocate(
      request,
      request.nodeid,
      reader.u64(P.FALLOCATE_IN.fh),
      reader.u64(P.FALLOCATE_IN.offset),
      reader.u64(P.FALLOCATE_IN.length),
      reader.u32(P.FALLOCATE_IN.mode),
    ),
  encode: null,
});

define<{ readonly offset: number }>(P.OP_LSEEK, {
  name: "LSEEK",
  handler: "lseek",
  fixedBytes: P.LSEEK_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.lseek(
      request,
      request.nodeid,
      reader.u64(P.LSEEK_IN.fh),
      reader.u64(P.LSEEK_IN.offset),
      reader.u32(P.LSEEK_IN.whence),
    ),
  encode: encodeOffset,
});

/** What both versions ask; they differ in how many bytes they can be told of. */
const copyFileRange = {
  handler: "copyFileRange",
  fixedBytes: P.COPY_FILE_RANGE_IN.bytes,
  call: (handlers: Handlers, request: KernelRequest, reader: RequestReader) =>
    handlers.copyFileRange(
      request,
      {
        nodeid: request.nodeid,
        fh: reader.u64(P.COPY_FILE_RANGE_IN.fh_in),
        offset: reader.u64(P.COPY_FILE_RANGE_IN.off_in),
      },
      {
        nodeid: reader.u64(P.COPY_FILE_RANGE_IN.nodeid_out),
        fh: reader.u64(P.COPY_FILE_RANGE_IN.fh_out),
        offset: reader.u64(P.COPY_FILE_RANGE_IN.off_out),
      },
      Math.min(reader.u64(P.COPY_FILE_RANGE_IN.len), COPY_BYTES_MAX),
    ),
} as const;
/** The older version's answer has 32 bits. */
const COPY_BYTES_MAX = 2 ** 31;

define<{ readonly bytes: number }>(P.OP_COPY_FILE_RANGE, {
  ...copyFileRange,
  name: "COPY_FILE_RANGE",
  encode: encodeCopied,
});

define<{ readonly bytes: number }>(P.OP_COPY_FILE_RANGE_64, {
  ...copyFileRange,
  name: "COPY_FILE_RANGE_64",
  encode: encodeCopied,
});

/** write_out and copy_file_range_out: a number below 2^32 looks alike in both. */
function encodeCopied(reply: ReplyBuffer, answer: { readonly bytes: number }): number {
  reply.u64(answer.bytes);
  return 0;
}

// Directories

define<OpenAnswer>(P.OP_OPENDIR, {
  name: "OPENDIR",
  handler: "opendir",
  fixedBytes: P.OPEN_IN.bytes,
  call: (handlers, request, reader) => handlers.opendir(request, request.nodeid, reader.u32(P.OPEN_IN.flags)),
  encode: encodeOpen,
});

function callReaddir(handlers: Handlers, request: KernelRequest, reader: RequestReader, plus: boolean) {
  const directory = DirectoryBuffer.take(reader.u32(P.READ_IN.size));
  request.directory = directory;
  const fh = reader.u64(P.READ_IN.fh);
  return handlers.readdir(request, request.nodeid, fh, reader.u64(P.READ_IN.offset), directory, plus);
}

define<number>(P.OP_READDIR, {
  name: "READDIR",
  handler: "readdir",
  fixedBytes: P.READ_IN.bytes,
  call: (handlers, request, reader) => callReaddir(handlers, request, reader, false),
  isNumeric: true,
  encode: encodeDirectory,
});

define<number>(P.OP_READDIRPLUS, {
  name: "READDIRPLUS",
  handler: "readdir",
  fixedBytes: P.READ_IN.bytes,
  call: (handlers, request, reader) => callReaddir(handlers, request, reader, true),
  isNumeric: true,
  encode: encodeDirectory,
});

define<number>(P.OP_RELEASEDIR, {
  name: "RELEASEDIR",
  handler: "releasedir",
  fixedBytes: P.RELEASE_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.releasedir(request, request.nodeid, reader.u64(P.RELEASE_IN.fh)),
  encode: null,
});

define<number>(P.OP_FSYNCDIR, {
  name: "FSYNCDIR",
  handler: "fsyncdir",
  fixedBytes: P.FSYNC_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.fsyncdir(request, request.nodeid, reader.u64(P.FSYNC_IN.fh), isDataOnly(reader)),
  encode: null,
});

// Extended attributes

function callSetxattr(handlers: Handlers, request: KernelRequest, reader: RequestReader, extended: boolean) {
  const S = P.SETXATTR_IN;
  const name = readName(reader);
  const value = readPayload(reader, request, reader.u32(S.size));
  const killSetgid = extended && (reader.u32(S.setxattr_flags) & P.SETXATTR_ACL_KILL_SGID) !== 0;
  return handlers.setxattr(request, request.nodeid, name, value, reader.u32(S.flags), killSetgid);
}

define<number>(P.OP_SETXATTR, {
  name: "SETXATTR",
  handler: "setxattr",
  fixedBytes: P.SETXATTR_IN_COMPAT_BYTES,
  call: (handlers, request, reader) => callSetxattr(handlers, request, reader, false),
  encode: null,
});

/** Where SETXATTR_EXT was agreed on. */
export const SETXATTR_EXTENDED: Operation = {
  name: "SETXATTR",
  handler: "setxattr",
  fixedBytes: P.SETXATTR_IN.bytes,
  call: (handlers, request, reader) => callSetxattr(handlers, request, reader, true),
  encode: null,
};

define<Uint8Array>(P.OP_GETXATTR, {
  name: "GETXATTR",
  handler: "getxattr",
  fixedBytes: P.GETXATTR_IN.bytes,
  call(handlers, request, reader) {
    request.replyBytesMax = reader.u32(P.GETXATTR_IN.size);
    return handlers.getxattr(request, request.nodeid, readName(reader));
  },
  encode: encodeXattr,
});

define<readonly Uint8Array[]>(P.OP_LISTXATTR, {
  name: "LISTXATTR",
  handler: "listxattr",
  fixedBytes: P.GETXATTR_IN.bytes,
  call(handlers, request, reader) {
    request.replyBytesMax = reader.u32(P.GETXATTR_IN.size);
    return handlers.listxattr(request, request.nodeid);
  },
  encode: encodeXattrNames,
});

define<number>(P.OP_REMOVEXATTR, {
  name: "REMOVEXATTR",
  handler: "removexattr",
  fixedBytes: 0,
  call: (handlers, request, reader) => handlers.removexattr(request, request.nodeid, readName(reader)),
  encode: null,
});

// Others

define<Uint8Array>(P.OP_IOCTL, {
  name: "IOCTL",
  handler: "ioctl",
  fixedBytes: P.IOCTL_IN.bytes,
  call(handlers, request, reader) {
    const input = reader.payload(reader.u32(P.IOCTL_IN.in_size)).slice();
    request.replyBytesMax = reader.u32(P.IOCTL_IN.out_size);
    return handlers.ioctl(request, request.nodeid, reader.u32(P.IOCTL_IN.cmd), input);
  },
  encode: encodeIoctl,
});

// Locks

define<LockRange>(P.OP_GETLK, {
  name: "GETLK",
  handler: "getlk",
  fixedBytes: P.LK_IN.bytes,
  call: (handlers, request, reader) =>
    handlers.getlk(
      request,
      request.nodeid,
      reader.u64(P.LK_IN.fh),
      reader.opaque(P.LK_IN.owner),
      readLock(reader),
    ),
  encode: encodeLock,
});

function callSetlk(handlers: Handlers, request: KernelRequest, reader: RequestReader, wait: boolean) {
  return handlers.setlk(
    request,
    request.nodeid,
    reader.u64(P.LK_IN.fh),
    reader.opaque(P.LK_IN.owner),
    readLock(reader),
    { wait, flock: (reader.u32(P.LK_IN.lk_flags) & P.LK_FLOCK) !== 0 },
  );
}

define<number>(P.OP_SETLK, {
  name: "SETLK",
  handler: "setlk",
  fixedBytes: P.LK_IN.bytes,
  call: (handlers, request, reader) => callSetlk(handlers, request, reader, false),
  encode: null,
});

define<number>(P.OP_SETLKW, {
  name: "SETLKW",
  handler: "setlk",
  fixedBytes: P.LK_IN.bytes,
  call: (handlers, request, reader) => callSetlk(handlers, request, reader, true),
  encode: null,
});

/** Operations that no handler can serve, for traces. */
const OTHER_NAMES: Readonly<Record<number, string>> = {
  [P.OP_FORGET]: "FORGET",
  [P.OP_INIT]: "INIT",
  [P.OP_INTERRUPT]: "INTERRUPT",
  [P.OP_BMAP]: "BMAP",
  [P.OP_DESTROY]: "DESTROY",
  [P.OP_POLL]: "POLL",
  [P.OP_NOTIFY_REPLY]: "NOTIFY_REPLY",
  [P.OP_BATCH_FORGET]: "BATCH_FORGET",
  [P.OP_COPY_FILE_RANGE]: "COPY_FILE_RANGE",
  [P.OP_SETUPMAPPING]: "SETUPMAPPING",
  [P.OP_REMOVEMAPPING]: "REMOVEMAPPING",
  [P.OP_SYNCFS]: "SYNCFS",
  [P.OP_COPY_FILE_RANGE_64]: "COPY_FILE_RANGE_64",
};

/** Name of an opcode, for people. */
export function operationName(opcode: number): string {
  return table[opcode]?.name ?? OTHER_NAMES[opcode] ?? `opcode ${opcode}`;
}
