/**
 * The FUSE kernel protocol, version 7.45, in numbers: opcodes, flags, structure sizes and offsets. The one place
 * where the kernel's names appear; fields carry the names that they have in the header.
 * Source: Linux include/uapi/linux/fuse.h. Invariant: offsets equal the C compiler's, which
 * tests/fs/kernel/protocol_test.ts compares where there is one. `bytes` is the size of the structure.
 */

export const PROTOCOL_MAJOR = 7;
/** The newest minor that this code knows; the lower of this and the kernel's governs. */
export const PROTOCOL_MINOR = 45;
/** Older kernels (before Linux 5.2) lack what we rely on. */
export const PROTOCOL_MINOR_MIN = 31;
/** NOTIFY_INC_EPOCH exists from here on (Linux 6.16). */
export const PROTOCOL_MINOR_INC_EPOCH = 44;

export const NAME_BYTES_MAX = 255;
export const SYMLINK_TARGET_BYTES_MAX = 4095;
/** A request carries at most max_write bytes of data, beside headers that fit in this. */
export const REQUEST_HEADROOM_BYTES = 4096;
/** `error` of a reply must lie in (-ERRNO_LIMIT, 0], or the kernel refuses it and the caller hangs. */
export const ERRNO_LIMIT = 512;
export const PAGE_BYTES = 4096;

// Opcodes
export const OP_LOOKUP = 1;
export const OP_FORGET = 2;
export const OP_GETATTR = 3;
export const OP_SETATTR = 4;
export const OP_READLINK = 5;
export const OP_SYMLINK = 6;
export const OP_MKNOD = 8;
export const OP_MKDIR = 9;
export const OP_UNLINK = 10;
export const OP_RMDIR = 11;
export const OP_RENAME = 12;
export const OP_LINK = 13;
export const OP_OPEN = 14;
export const OP_READ = 15;
export const OP_WRITE = 16;
export const OP_STATFS = 17;
export const OP_RELEASE = 18;
export const OP_FSYNC = 20;
export const OP_SETXATTR = 21;
export const OP_GETXATTR = 22;
export const OP_LISTXATTR = 23;
export const OP_REMOVEXATTR = 24;
export const OP_FLUSH = 25;
export const OP_INIT = 26;
export const OP_OPENDIR = 27;
export const OP_READDIR = 28;
export const OP_RELEASEDIR = 29;
export const OP_FSYNCDIR = 30;
export const OP_GETLK = 31;
export const OP_SETLK = 32;
export const OP_SETLKW = 33;
export const OP_ACCESS = 34;
export const OP_CREATE = 35;
export const OP_INTERRUPT = 36;
export const OP_BMAP = 37;
export const OP_DESTROY = 38;
export const OP_IOCTL = 39;
export const OP_POLL = 40;
export const OP_NOTIFY_REPLY = 41;
export const OP_BATCH_FORGET = 42;
export const OP_FALLOCATE = 43;
export const OP_READDIRPLUS = 44;
export const OP_RENAME2 = 45;
export const OP_LSEEK = 46;
export const OP_COPY_FILE_RANGE = 47;
export const OP_SETUPMAPPING = 48;
export const OP_REMOVEMAPPING = 49;
export const OP_SYNCFS = 50;
export const OP_TMPFILE = 51;
export const OP_STATX = 52;
export const OP_COPY_FILE_RANGE_64 = 53;
/** Exclusive bound of the opcodes above: the length of a table of operations. */
export const OPCODE_LIMIT = 64;

// INIT flags, bits 0 to 31 in `flags`
export const INIT_ASYNC_READ = 1 << 0;
export const INIT_POSIX_LOCKS = 1 << 1;
export const INIT_ATOMIC_O_TRUNC = 1 << 3;
export const INIT_EXPORT_SUPPORT = 1 << 4;
export const INIT_BIG_WRITES = 1 << 5;
export const INIT_DONT_MASK = 1 << 6;
export const INIT_FLOCK_LOCKS = 1 << 10;
export const INIT_AUTO_INVAL_DATA = 1 << 12;
export const INIT_DO_READDIRPLUS = 1 << 13;
export const INIT_READDIRPLUS_AUTO = 1 << 14;
export const INIT_ASYNC_DIO = 1 << 15;
export const INIT_PARALLEL_DIROPS = 1 << 18;
export const INIT_POSIX_ACL = 1 << 20;
export const INIT_MAX_PAGES = 1 << 22;
export const INIT_CACHE_SYMLINKS = 1 << 23;
export const INIT_HANDLE_KILLPRIV_V2 = 1 << 28;
export const INIT_SETXATTR_EXT = 1 << 29;
/** Without it in the reply the kernel ignores `flags2`. */
export const INIT_INIT_EXT = 1 << 30;

// INIT flags, bits 32 to 63, here as bits of `flags2`
export const INIT2_HAS_EXPIRE_ONLY = 1 << 3;
export const INIT2_DIRECT_IO_ALLOW_MMAP = 1 << 4;
export const INIT2_PASSTHROUGH = 1 << 5;

// open_out.open_flags
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
export const FOPEN_NONSEEKABLE = 1 << 2;
export const FOPEN_CACHE_DIR = 1 << 3;
export const FOPEN_STREAM = 1 << 4;
export const FOPEN_NOFLUSH = 1 << 5;
export const FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6;
export const FOPEN_PASSTHROUGH = 1 << 7;

// Flags inside requests
export const GETATTR_FH = 1 << 0;
export const OPEN_KILL_SUIDGID = 1 << 0;
/** The lock owner is given: only reads that bypass the page cache do so. */
export const READ_LOCKOWNER = 1 << 1;
export const WRITE_CACHE = 1 << 0;
export const WRITE_KILL_SUIDGID = 1 << 2;
/** Of an ACL: the caller is not of the file's group and lacks CAP_FSETID. */
export const SETXATTR_ACL_KILL_SGID = 1 << 0;
export const FSYNC_FDATASYNC = 1 << 0;
export const LK_FLOCK = 1 << 0;
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_FH = 1 << 6;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_CTIME = 1 << 10;
export const FATTR_KILL_SUIDGID = 1 << 11;

// statx(2)
export const STATX_BASIC_STATS = 0x7ff;
export const STATX_BTIME = 0x800;

// Notifications
export const NOTIFY_INVAL_INODE = 2;
export const NOTIFY_INVAL_ENTRY = 3;
export const NOTIFY_DELETE = 6;
export const NOTIFY_INC_EPOCH = 8;
export const NOTIFY_EXPIRE_ONLY = 1 << 0;

// ioctls on /dev/fuse
export const DEV_IOC_BACKING_OPEN = 0x4010e501;
export const DEV_IOC_BACKING_CLOSE = 0x4004e502;

// Structures. Each is used through a DataView at base + field.

export const IN_HEADER = {
  bytes: 40,
  len: 0,
  opcode: 4,
  unique: 8,
  nodeid: 16,
  uid: 24,
  gid: 28,
  pid: 32,
  total_extlen: 36,
} as const;
export const OUT_HEADER = { bytes: 16, len: 0, error: 4, unique: 8 } as const;

export const ATTR = {
  bytes: 88,
  ino: 0,
  size: 8,
  blocks: 16,
  atime: 24,
  mtime: 32,
  ctime: 40,
  atimensec: 48,
  mtimensec: 52,
  ctimensec: 56,
  mode: 60,
  nlink: 64,
  uid: 68,
  gid: 72,
  rdev: 76,
  blksize: 80,
  flags: 84,
} as const;
export const ENTRY_OUT = {
  bytes: 128,
  nodeid: 0,
  generation: 8,
  entry_valid: 16,
  attr_valid: 24,
  entry_valid_nsec: 32,
  attr_valid_nsec: 36,
  attr: 40,
} as const;
export const ATTR_OUT = { bytes: 104, attr_valid: 0, attr_valid_nsec: 8, attr: 16 } as const;
export const GETATTR_IN = { bytes: 16, getattr_flags: 0, fh: 8 } as const;
export const SETATTR_IN = {
  bytes: 88,
  valid: 0,
  fh: 8,
  size: 16,
  lock_owner: 24,
  atime: 32,
  mtime: 40,
  ctime: 48,
  atimensec: 56,
  mtimensec: 60,
  ctimensec: 64,
  mode: 68,
  uid: 76,
  gid: 80,
} as const;
export const STATX_IN = { bytes: 24, getattr_flags: 0, fh: 8, sx_flags: 16, sx_mask: 20 } as const;
export const STATX_OUT = { bytes: 288, attr_valid: 0, attr_valid_nsec: 8, flags: 12, stat: 32 } as const;
export const STATX = {
  bytes: 256,
  mask: 0,
  blksize: 4,
  attributes: 8,
  nlink: 16,
  uid: 20,
  gid: 24,
  mode: 28,
  ino: 32,
  size: 40,
  blocks: 48,
  attributes_mask: 56,
  atime: 64,
  btime: 80,
  ctime: 96,
  mtime: 112,
  rdev_major: 128,
  rdev_minor: 132,
  dev_major: 136,
  dev_minor: 140,
} as const;
export const SX_TIME = { bytes: 16, tv_sec: 0, tv_nsec: 8 } as const;
export const KSTATFS = {
  bytes: 80,
  blocks: 0,
  bfree: 8,
  bavail: 16,
  files: 24,
  ffree: 32,
  bsize: 40,
  namelen: 44,
  frsize: 48,
} as const;
export const FORGET_IN = { bytes: 8, nlookup: 0 } as const;
export const FORGET_ONE = { bytes: 16, nodeid: 0, nlookup: 8 } as const;
export const BATCH_FORGET_IN = { bytes: 8, count: 0 } as const;

export const OPEN_IN = { bytes: 8, flags: 0, open_flags: 4 } as const;
export const CREATE_IN = { bytes: 16, flags: 0, mode: 4, umask: 8, open_flags: 12 } as const;
export const OPEN_OUT = { bytes: 16, fh: 0, open_flags: 8, backing_id: 12 } as const;
export const MKNOD_IN = { bytes: 16, mode: 0, rdev: 4, umask: 8 } as const;
export const MKDIR_IN = { bytes: 8, mode: 0, umask: 4 } as const;
export const RENAME_IN = { bytes: 8, newdir: 0 } as const;
export const RENAME2_IN = { bytes: 16, newdir: 0, flags: 8 } as const;
export const LINK_IN = { bytes: 8, oldnodeid: 0 } as const;
export const RELEASE_IN = { bytes: 24, fh: 0, flags: 8, release_flags: 12, lock_owner: 16 } as const;
export const FLUSH_IN = { bytes: 24, fh: 0, lock_owner: 16 } as const;
export const READ_IN = {
  bytes: 40,
  fh: 0,
  offset: 8,
  size: 16,
  read_flags: 20,
  lock_owner: 24,
  flags: 32,
} as const;
export const WRITE_IN = {
  bytes: 40,
  fh: 0,
  offset: 8,
  size: 16,
  write_flags: 20,
  lock_owner: 24,
  flags: 32,
} as const;
export const WRITE_OUT = { bytes: 8, size: 0 } as const;
export const FSYNC_IN = { bytes: 16, fh: 0, fsync_flags: 8 } as const;
export const LSEEK_IN = { bytes: 24, fh: 0, offset: 8, whence: 16 } as const;
export const LSEEK_OUT = { bytes: 8, offset: 0 } as const;
export const FALLOCATE_IN = { bytes: 32, fh: 0, offset: 8, length: 16, mode: 24 } as const;
export const COPY_FILE_RANGE_IN = {
  bytes: 56,
  fh_in: 0,
  off_in: 8,
  nodeid_out: 16,
  fh_out: 24,
  off_out: 32,
  len: 40,
  flags: 48,
} as const;
export const COPY_FILE_RANGE_OUT = { bytes: 8, bytes_copied: 0 } as const;

export const SETXATTR_IN = { bytes: 16, size: 0, flags: 4, setxattr_flags: 8 } as const;
/** Without SETXATTR_EXT: the first 8 bytes (FUSE_COMPAT_SETXATTR_IN_SIZE). */
export const SETXATTR_IN_COMPAT_BYTES = 8;
export const GETXATTR_IN = { bytes: 8, size: 0 } as const;
export const GETXATTR_OUT = { bytes: 8, size: 0 } as const;
/** The last byte of a lock that has no end. */
export const OFFSET_MAX = 2n ** 63n - 1n;
export const FILE_LOCK = { bytes: 24, start: 0, end: 8, type: 16, pid: 20 } as const;
export const LK_IN = { bytes: 48, fh: 0, owner: 8, lk: 16, lk_flags: 40 } as const;
export const LK_OUT = { bytes: 24, lk: 0 } as const;
export const IOCTL_IN = { bytes: 32, fh: 0, flags: 8, cmd: 12, arg: 16, in_size: 24, out_size: 28 } as const;
export const IOCTL_OUT = { bytes: 16, result: 0, flags: 4, in_iovs: 8, out_iovs: 12 } as const;
export const ACCESS_IN = { bytes: 8, mask: 0 } as const;
export const INTERRUPT_IN = { bytes: 8, unique: 0 } as const;

export const DIRENT = { bytes: 24, ino: 0, off: 8, namelen: 16, type: 20 } as const;
export const DIRENTPLUS = { bytes: 152, entry_out: 0, dirent: 128 } as const;

export const NOTIFY_INVAL_INODE_OUT = { bytes: 24, ino: 0, off: 8, len: 16 } as const;
export const NOTIFY_INVAL_ENTRY_OUT = { bytes: 16, parent: 0, namelen: 8, flags: 12 } as const;
export const NOTIFY_DELETE_OUT = { bytes: 24, parent: 0, child: 8, namelen: 16 } as const;

export const INIT_IN = { bytes: 64, major: 0, minor: 4, max_readahead: 8, flags: 12, flags2: 16 } as const;
export const INIT_OUT = {
  bytes: 64,
  major: 0,
  minor: 4,
  max_readahead: 8,
  flags: 12,
  max_background: 16,
  congestion_threshold: 18,
  max_write: 20,
  time_gran: 24,
  max_pages: 28,
  flags2: 32,
  max_stack_depth: 36,
} as const;
export const BACKING_MAP = { bytes: 16, fd: 0, flags: 4, padding: 8 } as const;
