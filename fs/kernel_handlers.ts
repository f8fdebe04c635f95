/**
 * The kernel's requests in the file system's terms: converts arguments and answers, keeps the tables of handles, and
 * decides what the kernel may cache. All thinking happens in FileSystem.
 */

import { EMPTY_BYTES, textOf } from "../base/bytes.ts";
import * as libc from "../base/libc.ts";
import { ERRNO, FsError, isErrno } from "../wire/errno.ts";
import { asInodeId, type InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  type InodeReply,
  NAME_BYTES_MAX,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "../wire/messages/inode.ts";
import type { Credentials } from "../wire/messages/nameserver.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { DirectoryStream } from "./directory_stream.ts";
import type { FileSystem } from "./file_system.ts";
import type {
  AttributesAnswer,
  EntryAnswer,
  FileSystemHandlers,
  KernelAttributes,
  OpenAnswer,
  RequestContext,
} from "./kernel/handlers.ts";
import { FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE } from "./kernel/protocol.ts";
import type { OpenFile } from "./open_file.ts";

const BLOCK_SIZE = 4096;
const FALLOCATE_SUPPORTED = libc.FALLOC_FL_KEEP_SIZE | libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_ZERO_RANGE;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

export interface KernelHandlersOptions {
  readonly fileSystem: FileSystem;
  readonly session: ClusterSession;
  /** How long the kernel may keep names and attributes that no lease guards. */
  readonly cacheMs: number;
  /** Drops the kernel's attributes of an inode; must not wait. */
  readonly invalidateAttributes: (ino: InodeId) => void;
}

/** Inodes whose last shown version is remembered. */
const SHOWN_MAX = 20_000;

export function kernelHandlers(options: KernelHandlersOptions): FileSystemHandlers {
  const { fileSystem, session, cacheMs } = options;
  const files = new Map<number, OpenFile>();
  const directories = new Map<number, DirectoryStream>();
  let nextHandle = 1;

  /** Attributes of a file that is written from elsewhere are asked for each time. */
  const attributeTimeoutMs = (ino: InodeId): number =>
    fileSystem.openFile(ino)?.lease === "none" ? 0 : cacheMs;

  /** Versions of attributes that the kernel was given, newest last, so that an open knows whether they still hold. */
  const shownVersions = new Map<InodeId, number>();
  const noteShown = (attributes: Attributes): void => {
    shownVersions.delete(attributes.ino);
    shownVersions.set(attributes.ino, attributes.version);
    if (shownVersions.size <= SHOWN_MAX) return;
    const oldest = shownVersions.keys().next().value;
    if (oldest !== undefined) shownVersions.delete(oldest);
  };

  const entryOf = (reply: InodeReply): EntryAnswer => {
    const attributes = fileSystem.shown(reply);
    noteShown(attributes);
    return {
      nodeid: attributes.ino,
      generation: 0, // inode ids are never used again
      entryTimeoutMs: cacheMs,
      attributeTimeoutMs: attributeTimeoutMs(attributes.ino),
      attributes: kernelAttributes(attributes),
    };
  };

  const answerOf = (attributes: Attributes): AttributesAnswer => {
    noteShown(attributes);
    return {
      attributeTimeoutMs: attributeTimeoutMs(attributes.ino),
      attributes: kernelAttributes(attributes),
    };
  };

  const file = (fh: number): OpenFile => {
    const found = files.get(fh);
    if (found === undefined) throw new FsError("EBADF", `no open file ${fh}`);
    return found;
  };

  /** Writeback of a mapping guesses its handle; any handle of the inode serves. */
  const fileOf = (nodeid: number, fh: number): OpenFile =>
    files.get(fh) ?? fileSystem.openFile(asInodeId(nodeid)) ?? file(fh);

  const addFile = (opened: { readonly file: OpenFile; readonly keepCache: boolean }): OpenAnswer => {
    const fh = nextHandle++;
    files.set(fh, opened.file);
    const openFlags = opened.file.lease === "none"
      ? FOPEN_DIRECT_IO
      : opened.keepCache
      ? FOPEN_KEEP_CACHE
      : 0;
    return { fh, openFlags };
  };

  return {
    async lookup(context, parent, name) {
      return entryOf(await fileSystem.lookup(asInodeId(parent), name, context));
    },

    async getattr(context, nodeid) {
      return answerOf(await staleIfGone(fileSystem.getattr(asInodeId(nodeid), context)));
    },

    async setattr(context, nodeid, changes) {
      const { mode, uid, gid, size, atime, mtime, killSuidGid } = changes;
      return answerOf(
        await fileSystem.setattr({
          ino: asInodeId(nodeid),
          ...(mode === undefined ? {} : { mode }),
          ...(uid === undefined ? {} : { uid }),
          ...(gid === undefined ? {} : { gid }),
          ...(size === undefined ? {} : { size }),
          ...(atime === undefined ? {} : { atime }),
          ...(mtime === undefined ? {} : { mtime }),
          killSuidGid,
        }, context),
      );
    },

    async readlink(context, nodeid) {
      const { target } = await session.nameserver.getattr({ ino: asInodeId(nodeid) }, context);
      return target ?? -ERRNO.EINVAL;
    },

    async symlink(context, parent, name, target) {
      const request = { parent: asInodeId(parent), name, mode: S_IFLNK | 0o777, target };
      return entryOf(await fileSystem.make({ ...request, credentials: credentialsOf(context) }, context));
    },

    async mknod(context, parent, name, mode, rdev, umask) {
      const type = (mode & S_IFMT) === 0 ? S_IFREG : mode & S_IFMT;
      const request = { parent: asInodeId(parent), name, mode: type | (mode & 0o7777 & ~umask), rdev };
      return entryOf(await fileSystem.make({ ...request, credentials: credentialsOf(context) }, context));
    },

    async mkdir(context, parent, name, mode, umask) {
      const request = { parent: asInodeId(parent), name, mode: S_IFDIR | (mode & 0o7777 & ~umask) };
      return entryOf(await fileSystem.make({ ...request, credentials: credentialsOf(context) }, context));
    },

    async unlink(context, parent, name) {
      await fileSystem.remove(asInodeId(parent), name, false, context);
      return 0;
    },

    async rmdir(context, parent, name) {
      await fileSystem.remove(asInodeId(parent), name, true, context);
      return 0;
    },

    async rename(context, parent, name, newParent, newName, flags) {
      await fileSystem.rename(asInodeId(parent), name, asInodeId(newParent), newName, flags, context);
      return 0;
    },

    async link(context, nodeid, newParent, newName) {
      return entryOf(await fileSystem.link(asInodeId(nodeid), asInodeId(newParent), newName, context));
    },

    async create(context, parent, name, flags, mode, umask) {
      const opened = await fileSystem.create(
        {
          parent: asInodeId(parent),
          name,
          mode: mode & 0o7777 & ~umask,
          exclusive: (flags & libc.O_EXCL) !== 0,
          write: (flags & libc.O_ACCMODE) !== libc.O_RDONLY,
          credentials: credentialsOf(context),
        },
        { truncate: (flags & libc.O_TRUNC) !== 0 },
        context,
      );
      return { entry: entryOf(opened.reply), open: addFile(opened) };
    },

    async open(context, nodeid, flags, killSuidGid) {
      const write = (flags & libc.O_ACCMODE) !== libc.O_RDONLY;
      const truncate = (flags & libc.O_TRUNC) !== 0;
      const ino = asInodeId(nodeid);
      const opened = await staleIfGone(fileSystem.open(ino, { write, truncate, killSuidGid }, context));
      const { file: openFile } = opened;
      // The kernel may have attributes from a look before the open: the size must not be older than the open.
      if (openFile.lease === "none" || shownVersions.get(ino) !== openFile.attributes.version) {
        options.invalidateAttributes(ino);
      }
      return addFile(opened);
    },

    read(context, nodeid, fh, offset, size) {
      return fileSystem.read(fileOf(nodeid, fh), offset, size, context);
    },

    async write(context, nodeid, fh, offset, data, { openFlags, fromPageCache, killSuidGid }) {
      const append = (openFlags & libc.O_APPEND) !== 0 && !fromPageCache;
      await fileSystem.write(fileOf(nodeid, fh), offset, data, { append, killSuidGid }, context);
      return data.length;
    },

    async flush(_context, _nodeid, fh) {
      await fileSystem.flush(file(fh));
      return 0;
    },

    async release(_context, _nodeid, fh) {
      const closing = file(fh);
      files.delete(fh);
      await fileSystem.close(closing);
      return 0;
    },

    async fsync(_context, _nodeid, fh) {
      await fileSystem.fsync(file(fh));
      return 0;
    },

    opendir(_context, nodeid) {
      const fh = nextHandle++;
      directories.set(fh, new DirectoryStream(session, asInodeId(nodeid)));
      return { fh, openFlags: 0 };
    },

    async readdir(context, _nodeid, fh, cookie, writer, plus) {
      const stream = directories.get(fh);
      if (stream === undefined) return -ERRNO.EBADF;
      await stream.read(cookie, plus, ({ name, ino, type, cookie: next, inode }) => {
        if (!plus) return writer.add(name, ino, type, next);
        return writer.addPlus(name, ino, type, next, inode === undefined ? null : entryOf(inode));
      }, context);
      return 0;
    },

    releasedir(_context, _nodeid, fh) {
      directories.delete(fh);
      return 0;
    },

    async fsyncdir() {
      await fileSystem.syncNamespace();
      return 0;
    },

    async statfs(context) {
      const { totalBytes, freeBytes, files: inodes } = await fileSystem.statfs(context);
      const free = Math.floor(freeBytes / BLOCK_SIZE);
      // Inodes cost metadata only; as many as bytes are free is more than anyone can make.
      return {
        blocks: Math.floor(totalBytes / BLOCK_SIZE),
        blocksFree: free,
        blocksAvailable: free,
        files: inodes + free,
        filesFree: free,
        blockSize: BLOCK_SIZE,
        nameLengthMax: NAME_BYTES_MAX,
      };
    },

    async setxattr(context, nodeid, name, value, flags) {
      if (isSystemXattr(name)) return -ERRNO.EOPNOTSUPP;
      await fileSystem.setXattr(asInodeId(nodeid), name, value, flags, context);
      return 0;
    },

    async getxattr(context, nodeid, name) {
      if (isSystemXattr(name)) return -ERRNO.EOPNOTSUPP;
      return await fileSystem.getXattr(asInodeId(nodeid), name, context);
    },

    listxattr(context, nodeid) {
      return fileSystem.listXattrs(asInodeId(nodeid), context);
    },

    async removexattr(context, nodeid, name) {
      if (isSystemXattr(name)) return -ERRNO.EOPNOTSUPP;
      await fileSystem.removeXattr(asInodeId(nodeid), name, context);
      return 0;
    },

    async fallocate(context, _nodeid, fh, offset, length, mode) {
      if ((mode & ~FALLOCATE_SUPPORTED) !== 0) return -ERRNO.EOPNOTSUPP;
      const end = offset + length;
      if (!Number.isSafeInteger(end)) return -ERRNO.EFBIG;
      const grow = (mode & libc.FALLOC_FL_KEEP_SIZE) === 0;
      if (context.uid !== 0) await fileSystem.dropPrivileges(file(fh), context);
      if ((mode & (libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_ZERO_RANGE)) !== 0) {
        await fileSystem.zeroRange(file(fh), offset, end, grow, context);
      } else {
        await fileSystem.allocate(file(fh), offset, end, grow);
      }
      return 0;
    },

    async lseek(_context, _nodeid, fh, offset, whence) {
      if (whence !== SEEK_DATA && whence !== SEEK_HOLE) return -ERRNO.EINVAL;
      const found = await fileSystem.seek(file(fh), offset, whence === SEEK_DATA);
      return found === undefined ? -ERRNO.ENXIO : { offset: found };
    },
  };
}

/**
 * An inode that is gone was removed by another client, under a name that this kernel still has: ESTALE makes it look the
 * name up again, and make the file where that is asked for.
 */
async function staleIfGone<T>(operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    if (!isErrno(error, "ENOENT")) throw error;
    throw new FsError("ESTALE", error.message, { op: error.op, cause: error });
  }
}

function credentialsOf({ uid, gid }: RequestContext): Credentials {
  return { uid, gid };
}

/** POSIX ACLs and the like, which the server does not keep yet: as on a file system mounted without them. */
function isSystemXattr(name: Uint8Array): boolean {
  return textOf(name.length > 7 ? name.subarray(0, 7) : EMPTY_BYTES) === "system.";
}

function kernelAttributes(attributes: Attributes): KernelAttributes {
  const { ino, size, allocatedBytes, atime, mtime, ctime, btime, mode, nlink, uid, gid, rdev } = attributes;
  const blocks = Math.ceil(allocatedBytes / 512);
  return {
    ino,
    size,
    blocks,
    atime,
    mtime,
    ctime,
    btime,
    mode,
    nlink,
    uid,
    gid,
    rdev,
    blockSize: BLOCK_SIZE,
  };
}
