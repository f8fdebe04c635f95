/**
 * The one FFI binding to libc. Every function here returns what the system call returns, with a failure as
 * a negative errno, so that callers never touch the thread-local `errno` themselves.
 *
 * Two flavours: plain functions run on the calling thread and block the event loop for as long as the call
 * takes; functions named ...Async run on a thread of Deno's blocking pool (32 threads). `errno` of the pool's
 * thread cannot be read from here, so an Async function that failed says -EIO unless its comment says more.
 *
 * Invariant: a buffer given to an Async function is kept alive by the wrapper until the call has returned.
 */

const library = Deno.dlopen("libc.so.6", {
  __errno_location: { parameters: [], result: "pointer" },
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  openAsync: { name: "open", parameters: ["buffer", "i32", "u32"], result: "i32", nonblocking: true },
  syscall: { parameters: ["i64", "i32", "buffer", "buffer", "usize"], result: "i64" },
  close: { parameters: ["i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  writeAsync: { name: "write", parameters: ["i32", "buffer", "usize"], result: "i32", nonblocking: true },
  writev: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  pread: { parameters: ["i32", "buffer", "usize", "i64"], result: "i32" },
  preadAsync: {
    name: "pread",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "i32",
    nonblocking: true,
  },
  preadv2: { parameters: ["i32", "buffer", "i32", "i64", "i32"], result: "i32" },
  pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "i32" },
  pwriteAsync: {
    name: "pwrite",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "i32",
    nonblocking: true,
  },
  fsync: { parameters: ["i32"], result: "i32" },
  fsyncAsync: { name: "fsync", parameters: ["i32"], result: "i32", nonblocking: true },
  fdatasyncAsync: { name: "fdatasync", parameters: ["i32"], result: "i32", nonblocking: true },
  syncFileRangeAsync: {
    name: "sync_file_range",
    parameters: ["i32", "i64", "i64", "u32"],
    result: "i32",
    nonblocking: true,
  },
  syncfsAsync: { name: "syncfs", parameters: ["i32"], result: "i32", nonblocking: true },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  ftruncateAsync: { name: "ftruncate", parameters: ["i32", "i64"], result: "i32", nonblocking: true },
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  fallocateAsync: {
    name: "fallocate",
    parameters: ["i32", "i32", "i64", "i64"],
    result: "i32",
    nonblocking: true,
  },
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  lseekAsync: { name: "lseek", parameters: ["i32", "i64", "i32"], result: "i64", nonblocking: true },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  rename: { parameters: ["buffer", "buffer"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
  mkdir: { parameters: ["buffer", "u32"], result: "i32" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  pollAsync: { name: "poll", parameters: ["buffer", "u64", "i32"], result: "i32", nonblocking: true },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  fcntlLock: { name: "fcntl", parameters: ["i32", "i32", "buffer"], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  mount: { parameters: ["buffer", "buffer", "buffer", "u64", "buffer"], result: "i32" },
  umount2Async: { name: "umount2", parameters: ["buffer", "i32"], result: "i32", nonblocking: true },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  recvmsgAsync: { name: "recvmsg", parameters: ["i32", "buffer", "i32"], result: "i32", nonblocking: true },
  posix_fadvise: { parameters: ["i32", "i64", "i64", "i32"], result: "i32" },
  fadviseAsync: {
    name: "posix_fadvise",
    parameters: ["i32", "i64", "i64", "i32"],
    result: "i32",
    nonblocking: true,
  },
  statvfs: { parameters: ["buffer", "buffer"], result: "i32" },
  geteuid: { parameters: [], result: "u32" },
  getegid: { parameters: [], result: "u32" },
  setsid: { parameters: [], result: "i32" },
  clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
  malloc_trim: { parameters: ["usize"], result: "i32" },
});
const libc = library.symbols;

const EIO = 5;
const EINTR = 4;
const ENAMETOOLONG = 36;

// One errno location a thread; an isolate stays on its thread. V8 may make calls of its own between one of these and the look at
// errno: seldom, EAGAIN (it waits for a lock) or, once a process, ENOENT (tsc_freq_khz) stands in place of the error.
const errnoView = new Deno.UnsafePointerView(libc.__errno_location()!);

function checked(result: number): number {
  return result < 0 ? -errnoView.getInt32(0) : result;
}

// Deno takes a safe integer for a 64-bit argument as readily as a bigint, without allocating one; its types
// do not say so.
function wide(value: number): bigint {
  return value as unknown as bigint;
}

/**
 * Buffers of calls that run on the pool. The runtime does not keep them alive, and neither does a suspended
 * function that no longer mentions them: a collected one is memory that somebody else gets (seen: open(2) of a
 * path that had become another object's bytes).
 */
const inUse = new Set<{ readonly buffers: readonly ArrayBufferView[] }>();

async function pinned<T>(buffers: readonly ArrayBufferView[], call: Promise<T>): Promise<T> {
  const pin = { buffers };
  inUse.add(pin);
  try {
    return await call;
  } finally {
    inUse.delete(pin);
  }
}

/** A NUL-terminated copy of a path for C. */
export function cString(path: string | Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = typeof path === "string" ? new TextEncoder().encode(path) : path;
  const result = new Uint8Array(bytes.length + 1);
  result.set(bytes);
  return result;
}

// fcntl.h, x86_64 and aarch64 alike unless noted
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_ACCMODE = 3;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DSYNC = 0o10000;
export const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;
export const O_CLOEXEC = 0o2000000;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const F_SETFD = 2;
export const FD_CLOEXEC = 1;
const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;
const SYNC_FILE_RANGE_WRITE = 2;
const ST_RDONLY = 1;
export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const FALLOC_FL_ZERO_RANGE = 0x10;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
export const POLLIN = 1;
export const RWF_NOWAIT = 8;
const AT_FDCWD = -100;
/** asm-generic/unistd.h, x86_64 alike; openat2.h. */
const SYS_OPENAT2 = 437n;
const RESOLVE_CACHED = 0x20;
/** struct open_how: flags, mode, resolve. */
const openHow = new BigUint64Array(3);
export const MNT_DETACH = 2;

/** open(2): a descriptor or -errno. O_CLOEXEC is always added. */
export function open(path: string | Uint8Array, flags: number, mode = 0): number {
  return checked(libc.open(cString(path), flags | O_CLOEXEC, mode));
}

/** open(2) on a thread of the pool: a descriptor or -errno. On failure it is tried again here, for the errno. */
export async function openAsync(path: string, flags: number, mode = 0): Promise<number> {
  const name = cString(path);
  const result = await pinned([name], libc.openAsync(name, flags | O_CLOEXEC, mode));
  return result < 0 ? open(path, flags, mode) : result;
}

/**
 * open(2) without waiting for a disk (openat2 with RESOLVE_CACHED): a descriptor, or -EAGAIN where the kernel does not have
 * all of the path at hand, or -errno, which may only mean that it is not supported. Makes no file.
 */
export function openCached(path: string, flags: number): number {
  openHow[0] = BigInt(flags | O_CLOEXEC);
  openHow[2] = BigInt(RESOLVE_CACHED);
  return checked(
    Number(libc.syscall(SYS_OPENAT2, AT_FDCWD, cString(path), openHow, wide(openHow.byteLength))),
  );
}

export function close(fd: number): number {
  return checked(libc.close(fd));
}

/** read(2) into all of `buffer`: bytes read or -errno. */
export function read(fd: number, buffer: Uint8Array<ArrayBuffer>): number {
  return checked(libc.read(fd, buffer, wide(buffer.length)));
}

/** write(2) of all of `buffer`: bytes written or -errno. */
export function write(fd: number, buffer: Uint8Array<ArrayBuffer>): number {
  return checked(libc.write(fd, buffer, wide(buffer.length)));
}

/** write(2) on a thread of the pool: bytes written or -EIO (the real errno is not to be had). */
export async function writeAsync(fd: number, buffer: Uint8Array<ArrayBuffer>): Promise<number> {
  const result = await pinned([buffer], libc.writeAsync(fd, buffer, wide(buffer.length)));
  return result < 0 ? -EIO : result;
}

/** The address of a view's bytes; stays right while the view is alive. */
function addressOf(view: Uint8Array<ArrayBuffer> | BigUint64Array<ArrayBuffer>): bigint {
  // Small arrays live on V8's heap, where a collection moves them, until somebody asks for their buffer.
  if (view.buffer.byteLength < view.byteLength) throw new RangeError("a view without memory");
  return Deno.UnsafePointer.value(Deno.UnsafePointer.of(view));
}

// One iovec array for all vectored calls of this thread: sync calls cannot overlap.
const IOVEC_MAX = 64;
const iovecs = new BigUint64Array(IOVEC_MAX * 2);

function fillIovecs(parts: readonly Uint8Array[]): number {
  if (parts.length > IOVEC_MAX) throw new RangeError(`at most ${IOVEC_MAX} parts`);
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i]!;
    // An empty view may have no address; the length 0 beside it keeps the kernel from looking.
    iovecs[2 * i] = part.length === 0 ? 0n : addressOf(part as Uint8Array<ArrayBuffer>);
    iovecs[2 * i + 1] = BigInt(part.length);
  }
  return parts.length;
}

/** writev(2) of up to 64 parts: bytes written or -errno. */
export function writev(fd: number, parts: readonly Uint8Array[]): number {
  return checked(libc.writev(fd, iovecs, fillIovecs(parts)));
}

/** pread(2) into all of `buffer`: bytes read (short at the end of the file) or -errno. */
export function pread(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): number {
  return checked(libc.pread(fd, buffer, wide(buffer.length), wide(offset)));
}

/** preadv2(2) with RWF_NOWAIT: bytes that the page cache had (may be short), or -EAGAIN, or -errno. */
export function preadNowait(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): number {
  return checked(libc.preadv2(fd, iovecs, fillIovecs([buffer]), wide(offset), RWF_NOWAIT));
}

/** pread(2) on a thread of the pool. On failure it is tried again here, for the errno. */
export async function preadAsync(
  fd: number,
  buffer: Uint8Array<ArrayBuffer>,
  offset: number,
): Promise<number> {
  const result = await pinned([buffer], libc.preadAsync(fd, buffer, wide(buffer.length), wide(offset)));
  return result < 0 ? pread(fd, buffer, offset) : result;
}

/** pwrite(2) of all of `buffer`: bytes written or -errno. */
export function pwrite(fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): number {
  return checked(libc.pwrite(fd, buffer, wide(buffer.length), wide(offset)));
}

/** pwrite(2) on a thread of the pool. On failure it is tried again here, for the errno. */
export async function pwriteAsync(
  fd: number,
  buffer: Uint8Array<ArrayBuffer>,
  offset: number,
): Promise<number> {
  const result = await pinned([buffer], libc.pwriteAsync(fd, buffer, wide(buffer.length), wide(offset)));
  return result < 0 ? pwrite(fd, buffer, offset) : result;
}

/**
 * fsync(2) on a thread of the pool: 0 or -EIO. Never tried again: Linux reports a lost write once, and a
 * second fsync would claim success.
 */
export async function fsyncAsync(fd: number): Promise<number> {
  return await libc.fsyncAsync(fd) < 0 ? -EIO : 0;
}

/** fsync(2) here, which blocks for as long as the disk takes: 0 or -errno. Only for who has nothing else to do. */
export function fsync(fd: number): number {
  return checked(libc.fsync(fd));
}

/** fdatasync(2), as fsyncAsync. */
export async function fdatasyncAsync(fd: number): Promise<number> {
  return await libc.fdatasyncAsync(fd) < 0 ? -EIO : 0;
}

/**
 * sync_file_range(2) on a thread of the pool: the disk begins to write what the page cache has of this range. Nothing waits
 * for that, and nothing depends on it; a failure is told by the next fsync.
 */
export async function startWritebackAsync(fd: number, offset: number, length: number): Promise<void> {
  await libc.syncFileRangeAsync(fd, wide(offset), wide(length), SYNC_FILE_RANGE_WRITE);
}

/** syncfs(2) on a thread of the pool: everything of the file system that holds `fd` is on disk; 0 or -EIO. */
export async function syncfsAsync(fd: number): Promise<number> {
  return await libc.syncfsAsync(fd) < 0 ? -EIO : 0;
}

/** ftruncate(2) on a thread of the pool. On failure it is tried again here, for the errno. */
export async function ftruncateAsync(fd: number, length: number): Promise<number> {
  const result = await libc.ftruncateAsync(fd, wide(length));
  return result < 0 ? ftruncate(fd, length) : result;
}

export function ftruncate(fd: number, length: number): number {
  return checked(libc.ftruncate(fd, wide(length)));
}

export function fallocate(fd: number, mode: number, offset: number, length: number): number {
  return checked(libc.fallocate(fd, mode, wide(offset), wide(length)));
}

/** fallocate(2) on a thread of the pool. On failure it is tried again here, for the errno. */
export async function fallocateAsync(
  fd: number,
  mode: number,
  offset: number,
  length: number,
): Promise<number> {
  const result = await libc.fallocateAsync(fd, mode, wide(offset), wide(length));
  return result < 0 ? fallocate(fd, mode, offset, length) : result;
}

/**
 * posix_fadvise(2) on a thread of the pool: the disk begins to read this range into the page cache. Linux takes about 1 MiB a
 * call. Advice: nothing depends on it.
 */
export async function willNeedAsync(fd: number, offset: number, length: number): Promise<void> {
  await libc.fadviseAsync(fd, wide(offset), wide(length), POSIX_FADV_WILLNEED);
}

/** posix_fadvise(2): the page cache need not keep this range. Advice: nothing depends on it. */
export function dropCached(fd: number, offset: number, length: number): void {
  libc.posix_fadvise(fd, wide(offset), wide(length), POSIX_FADV_DONTNEED);
}

/** lseek(2): the new offset or -errno. */
export function lseek(fd: number, offset: number, whence: number): number {
  const result = Number(libc.lseek(fd, wide(offset), whence));
  return result < 0 ? -errnoView.getInt32(0) : result;
}

/** lseek(2) on a thread of the pool. On failure it is tried again here, for the errno. */
export async function lseekAsync(fd: number, offset: number, whence: number): Promise<number> {
  const result = Number(await libc.lseekAsync(fd, wide(offset), whence));
  return result < 0 ? lseek(fd, offset, whence) : result;
}

// linux/stat.h
const AT_EMPTY_PATH = 0x1000;
const AT_SYMLINK_NOFOLLOW = 0x100;
const STATX_BASIC_STATS = 0x7ff;
const STATX_BLOCKS = 0x400;
const STATX_BYTES = 256;
const STATX_SIZE_OFFSET = 40;
const STATX_BLOCKS_OFFSET = 48;
const EMPTY_PATH = new Uint8Array(1);
const statxBuffer = new DataView(new ArrayBuffer(STATX_BYTES));
const statxBytes = new Uint8Array(statxBuffer.buffer);

/** lstat(2) of a path (NUL-terminated, see cString): its size in bytes, or -errno. */
export function lstatSize(path: Uint8Array<ArrayBuffer>): number {
  const result = checked(libc.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, statxBytes));
  return result < 0 ? result : Number(statxBuffer.getBigUint64(STATX_SIZE_OFFSET, true));
}

/** rename(2), unlink(2) and mkdir(2) of NUL-terminated paths: 0 or -errno. */
export function rename(from: Uint8Array<ArrayBuffer>, to: Uint8Array<ArrayBuffer>): number {
  return checked(libc.rename(from, to));
}

export function unlink(path: Uint8Array<ArrayBuffer>): number {
  return checked(libc.unlink(path));
}

export function mkdir(path: Uint8Array<ArrayBuffer>, mode: number): number {
  return checked(libc.mkdir(path, mode));
}

/** Bytes that an open file takes on its disk (st_blocks), or -errno. */
export function allocatedBytes(fd: number): number {
  const bytes = new Uint8Array(statxBuffer.buffer);
  const result = checked(libc.statx(fd, EMPTY_PATH, AT_EMPTY_PATH, STATX_BLOCKS, bytes));
  return result < 0 ? result : Number(statxBuffer.getBigUint64(STATX_BLOCKS_OFFSET, true)) * 512;
}

const STATX_INO = 0x100;
const STATX_INO_OFFSET = 32;
const STATX_DEVICE_OFFSET = 136;

/** Names an open file among all of this machine: device and inode number; or -errno. */
export function fileIdentity(fd: number): string | number {
  const bytes = new Uint8Array(statxBuffer.buffer);
  const result = checked(libc.statx(fd, EMPTY_PATH, AT_EMPTY_PATH, STATX_INO, bytes));
  if (result < 0) return result;
  const major = statxBuffer.getUint32(STATX_DEVICE_OFFSET, true);
  const minor = statxBuffer.getUint32(STATX_DEVICE_OFFSET + 4, true);
  return `${major}:${minor} ${statxBuffer.getBigUint64(STATX_INO_OFFSET, true)}`;
}

// linux/fiemap.h, linux/fs.h
const FS_IOC_FIEMAP = 0xc020660b;
const FIEMAP_BYTES = 32;
const FIEMAP_EXTENT_BYTES = 56;
const FIEMAP_EXTENTS = 32;

/** How far from `offset` on a file has room on its disk without a gap (FIEMAP, which shows reserved room too), or -errno. */
export function allocatedTo(fd: number, offset: number, end: number): number {
  const bytes = new Uint8Array(FIEMAP_BYTES + FIEMAP_EXTENTS * FIEMAP_EXTENT_BYTES);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(offset), true);
  view.setBigUint64(8, BigInt(end - offset), true);
  view.setUint32(24, FIEMAP_EXTENTS, true);
  const result = ioctl(fd, FS_IOC_FIEMAP, bytes);
  if (result < 0) return result;
  let to = offset;
  for (let i = 0; i < view.getUint32(20, true); i++) {
    const at = FIEMAP_BYTES + i * FIEMAP_EXTENT_BYTES;
    const start = Number(view.getBigUint64(at, true));
    if (start > to) break;
    to = Math.max(to, start + Number(view.getBigUint64(at + 16, true)));
  }
  return to;
}

function pollBuffer(fd: number, events: number): Uint8Array<ArrayBuffer> {
  const buffer = new Uint8Array(8);
  const view = new DataView(buffer.buffer);
  view.setInt32(0, fd, true);
  view.setInt16(4, events, true);
  return buffer;
}

/** poll(2) of one descriptor on a thread of the pool: its `revents`, 0 after `timeoutMs`, or -EINTR. */
export async function pollAsync(fd: number, events: number, timeoutMs: number): Promise<number> {
  const buffer = pollBuffer(fd, events);
  const result = await pinned([buffer], libc.pollAsync(buffer, 1n, timeoutMs));
  if (result < 0) return -EINTR;
  return result === 0 ? 0 : new DataView(buffer.buffer).getInt16(6, true);
}

/** poll(2) of one descriptor, here: its `revents`, 0 after `timeoutMs`, or -errno. */
export function poll(fd: number, events: number, timeoutMs: number): number {
  const buffer = pollBuffer(fd, events);
  const result = checked(libc.poll(buffer, 1n, timeoutMs));
  return result <= 0 ? result : new DataView(buffer.buffer).getInt16(6, true);
}

const pollPair = new DataView(new ArrayBuffer(16));
const pollPairBytes = new Uint8Array(pollPair.buffer);

/** poll(2) of two descriptors for input, here: 1 for the first and 2 for the second, added; 0 after `timeoutMs`, or -errno. */
export function pollTwo(first: number, second: number, timeoutMs: number): number {
  pollPair.setInt32(0, first, true);
  pollPair.setInt32(4, POLLIN, true);
  pollPair.setInt32(8, second, true);
  pollPair.setInt32(12, POLLIN, true);
  const result = checked(libc.poll(pollPairBytes, 2n, timeoutMs));
  if (result <= 0) return result;
  return (pollPair.getInt16(6, true) === 0 ? 0 : 1) + (pollPair.getInt16(14, true) === 0 ? 0 : 2);
}

export function fcntl(fd: number, command: number, argument: number): number {
  return checked(libc.fcntl(fd, command, argument));
}

const F_SETLK = 6;
const F_WRLCK = 1;

/**
 * Takes a whole file's write lock (fcntl(2), F_SETLK): 0, or -EAGAIN when another process holds one, or -errno. The
 * process loses it when it closes any descriptor of that file. Layout: struct flock, 64 bit.
 */
export function tryLock(fd: number): number {
  const flock = new Uint8Array(32);
  new DataView(flock.buffer).setInt16(0, F_WRLCK, true);
  return checked(libc.fcntlLock(fd, F_SETLK, flock));
}

export function ioctl(fd: number, request: number, argument: Uint8Array<ArrayBuffer>): number {
  return checked(libc.ioctl(fd, wide(request), argument));
}

/** mount(2). Returns before a FUSE daemon has answered INIT. */
export function mount(source: string, target: string, type: string, flags: number, data: string): number {
  return checked(libc.mount(cString(source), cString(target), cString(type), wide(flags), cString(data)));
}

/** umount2(2) on a thread of the pool (it may wait for the daemon, which is us): 0 or -EIO. */
export async function umountAsync(target: string, flags: number): Promise<number> {
  const name = cString(target);
  return await pinned([name], libc.umount2Async(name, flags)) < 0 ? -EIO : 0;
}

const AF_UNIX = 1;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;

/** A connected pair of UNIX stream sockets without CLOEXEC, or -errno. */
export function socketpair(): readonly [number, number] | number {
  const fds = new Int32Array(2);
  const result = checked(libc.socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
  return result < 0 ? result : [fds[0]!, fds[1]!];
}

const SOCK_CLOEXEC = 0o2000000;
/** sys/un.h */
const SUN_PATH_BYTES = 108;

/**
 * A descriptor that is connected to a Unix socket, or -errno; the path has at most 107 bytes. One that begins with @
 * is a name in the abstract namespace (unix(7)). `type`: SOCK_DGRAM, never blocking, or SOCK_STREAM.
 */
export function connectUnix(path: string, type: number = SOCK_STREAM): number {
  const name = new TextEncoder().encode(path);
  if (name.length >= SUN_PATH_BYTES) return -ENAMETOOLONG;
  const address = new Uint8Array(2 + SUN_PATH_BYTES);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  const isAbstract = path.startsWith("@");
  if (isAbstract) address[2] = 0;
  const flags = SOCK_CLOEXEC | (type === SOCK_DGRAM ? O_NONBLOCK : 0);
  const fd = checked(libc.socket(AF_UNIX, type | flags, 0));
  if (fd < 0) return fd;
  // The length counts in an abstract name: zeros behind it would be part of it.
  const result = checked(libc.connect(fd, address, isAbstract ? 2 + name.length : address.length));
  if (result < 0) close(fd);
  return result < 0 ? result : fd;
}

/** setsid(2): this process leads a session and a process group of its own from now on. Its id, or -errno. */
export function setsid(): number {
  return checked(libc.setsid());
}

const CLOCK_MONOTONIC = 1;

/** clock_gettime(2) of CLOCK_MONOTONIC, which is the same clock in every process of the machine. */
export function monotonicMicroseconds(): bigint {
  const time = new BigInt64Array(2);
  const result = checked(libc.clock_gettime(CLOCK_MONOTONIC, time));
  if (result < 0) throw new Error(`clock_gettime: error ${-result}`);
  return time[0]! * 1_000_000n + time[1]! / 1_000n;
}

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;

/**
 * recvmsg(2) of one byte with one descriptor beside it (SCM_RIGHTS), on a thread of the pool: the descriptor,
 * or -1 when the peer closed or sent none. Layout: struct msghdr and cmsghdr, 64 bit (sys/socket.h).
 */
export async function receiveDescriptor(socket: number): Promise<number> {
  const data = new Uint8Array(1);
  const control = new Uint8Array(24);
  const iovec = new BigUint64Array([addressOf(data), 1n]);
  const header = new BigUint64Array([
    0n, // msg_name
    0n, // msg_namelen
    addressOf(iovec),
    1n, // msg_iovlen
    addressOf(control),
    BigInt(control.length), // msg_controllen
    0n, // msg_flags
  ]);
  const received = await pinned([data, control, iovec, header], libc.recvmsgAsync(socket, header, 0));
  const view = new DataView(control.buffer);
  const isDescriptor = received === 1 && iovec.length === 2 && data.length === 1 &&
    view.getUint32(8, true) === SOL_SOCKET && view.getUint32(12, true) === SCM_RIGHTS;
  return isDescriptor ? view.getInt32(16, true) : -1;
}

/** Space of the file system that holds `path`, in bytes, and its inode counts; or -errno. */
export interface Statvfs {
  readonly totalBytes: number;
  /** Free for unprivileged users. */
  readonly availableBytes: number;
  readonly freeBytes: number;
  readonly files: number;
  readonly filesFree: number;
  readonly isReadOnly: boolean;
}

/** statvfs(3). Layout of struct statvfs on 64-bit Linux: 11 unsigned longs (bits/statvfs.h). */
export function statvfs(path: string): Statvfs | number {
  const out = new BigUint64Array(16);
  const result = checked(libc.statvfs(cString(path), out));
  if (result < 0) return result;
  const fragmentBytes = Number(out[1]);
  return {
    totalBytes: Number(out[2]) * fragmentBytes,
    freeBytes: Number(out[3]) * fragmentBytes,
    availableBytes: Number(out[4]) * fragmentBytes,
    files: Number(out[5]),
    filesFree: Number(out[6]),
    isReadOnly: (Number(out[9]) & ST_RDONLY) !== 0,
  };
}

export function geteuid(): number {
  return libc.geteuid();
}

export function getegid(): number {
  return libc.getegid();
}

/** Gives memory that malloc holds but does not use back to the system. */
export function mallocTrim(): void {
  libc.malloc_trim(0n);
}
