/**
 * The kernel's requests in the file system's terms: converts arguments and answers, keeps the tables of handles, and
 * decides what the kernel may cache. All thinking happens in Names and Files.
 */

import type { Clock } from "../base/clock.ts";
import * as libc from "../base/libc.ts";
import { ERRNO, FsError, isErrno } from "../wire/errno.ts";
import { asInodeId, type InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  NAME_BYTES_MAX,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "../wire/messages/inode.ts";
import type { Credentials } from "../wire/messages/nameserver.ts";
import { type AccessTimes, NO_ACCESS } from "./access_times.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { DirectoryPlaces } from "./directory_places.ts";
import type { DirectoryStream } from "./directory_stream.ts";
import type { Files, Handle } from "./files.ts";
import { flagIoctl, isFlagChange, isSync } from "./inode_flags.ts";
import type { Ranges } from "./ranges.ts";
import type { Names } from "./names.ts";
import { beforeTruncate } from "./past_the_end.ts";
import type { InodeTable } from "./inode_table.ts";
import {
  type AttributesAnswer,
  type EntryAnswer,
  type FileSystemHandlers,
  isRoot,
  type KernelAttributes,
  type NegativeErrno,
  type OpenAnswer,
  type RequestContext,
} from "./kernel/handlers.ts";
import { FOPEN_CACHE_DIR, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH } from "./kernel/protocol.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { Found, Inode } from "./inode.ts";
import { lockHandlers, lockOwner } from "./lock_handlers.ts";
import type { Locks } from "./locks.ts";
import { listedXattrs, refusedXattrName, type VirtualXattrs } from "./virtual_xattrs.ts";

const BLOCK_SIZE = 4096;
const FALLOCATE_SUPPORTED = libc.FALLOC_FL_KEEP_SIZE | libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_ZERO_RANGE;
const DOT = 0x2e;
const O_NOATIME = 0o1000000;

export interface KernelHandlersOptions {
  readonly names: Names;
  readonly files: Files;
  readonly ranges: Ranges;
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly virtualXattrs: VirtualXattrs;
  readonly accessTimes: AccessTimes;
  readonly clock: Clock;
  /** The kernel asks for names each time, so that their directories' permissions are looked at. */
  readonly asksForNames?: boolean;
  /** The kernel enforces ACLs (default); where it does not, nobody sees or sets any. */
  readonly hasAcls?: boolean;
  /** Absent: locks are the kernel's own, and hold on this mount only. */
  readonly locks?: Locks;
}

export function kernelHandlers(options: KernelHandlersOptions): FileSystemHandlers {
  const { names, files, ranges, session, table, kernelCache, virtualXattrs, accessTimes, clock, locks } =
    options;
  const { asksForNames = false, hasAcls = true } = options;
  const handles = new Map<number, Handle>();
  /** Any open handle of an inode, for requests that only guess one. */
  const handleOfInode = new Map<InodeId, Handle>();
  const directories = new Map<number, DirectoryStream>();
  const places = new DirectoryPlaces(table, kernelCache);
  let nextHandle = 1;

  /** Marks changes, which hold a directory's lock for themselves in the kernel until they are answered. */
  const within = <T>(nodeid: number, work: T | Promise<T>, other = nodeid): T | Promise<T> => {
    if (!(work instanceof Promise)) return work;
    const inodes = other === nodeid ? [asInodeId(nodeid)] : [asInodeId(nodeid), asInodeId(other)];
    for (const ino of inodes) kernelCache.enter(ino);
    return work.finally(() => {
      for (const ino of inodes) kernelCache.leave(ino);
    });
  };

  /** As `within`, of changes of names: what others were told of the directory's attributes goes (`Inode.takeAttributesBack`). */
  const changingNames = <T>(
    { pid }: RequestContext,
    parent: number,
    work: T | Promise<T>,
    other = parent,
  ): T | Promise<T> => {
    const made = then(work, (result) => {
      for (const ino of new Set([parent, other])) {
        const directory = table.get(asInodeId(ino));
        if (directory?.takeAttributesBack(pid) === true) void kernelCache.dropAttributes(directory);
      }
      return result;
    });
    return within(parent, made, other);
  };

  const namesForMs = (parent: number, isKept: boolean, isListed = false) =>
    asksForNames ? 0 : names.namesForMs(asInodeId(parent), isKept, isListed);

  /** What the kernel is told of a name; counts, as the kernel does. */
  const entryOf = (
    parent: number,
    { inode: found, isKept }: Found,
    attributesForMs?: number,
    isListed = false,
  ): EntryAnswer | NegativeErrno => {
    if (found === null) {
      if (!isKept) return -ERRNO.ENOENT;
      return { ...ABSENT_ENTRY, entryTimeoutMs: namesForMs(parent, true) };
    }
    // It may have been given back in the steps until here. The kernel has it from now on, and a recall must find it.
    const inode = table.kept(found);
    inode.tell(clock.monotonicMs());
    return {
      nodeid: inode.ino,
      generation: 0, // inode ids are never used again
      entryTimeoutMs: namesForMs(parent, isKept, isListed),
      attributeTimeoutMs: attributesForMs ?? names.attributesForMs(inode),
      attributes: kernelAttributes(names.shown(inode)),
    };
  };

  const answerOf = (inode: Inode): AttributesAnswer => ({
    attributeTimeoutMs: names.attributesForMs(inode),
    attributes: kernelAttributes(names.shown(inode)),
  });

  /**
   * Of an inode that the kernel may have already, SETATTR, LINK and CREATE bring attributes which it takes whatever it was
   * told since (it compares versions in all other answers): they expire at once, and are asked for again.
   */
  const expired = (answer: AttributesAnswer): AttributesAnswer => ({ ...answer, attributeTimeoutMs: 0 });

  const handle = (fh: number): Handle => {
    const found = handles.get(fh);
    if (found === undefined) throw new FsError("EBADF", `no open file ${fh}`);
    return found;
  };

  /** Writeback of a mapping guesses its handle; any handle of the inode serves. */
  const handleOf = (nodeid: number, fh: number): Handle =>
    handles.get(fh) ?? handleOfInode.get(asInodeId(nodeid)) ?? handle(fh);

  const addHandle = (opened: Handle, flags: number): OpenAnswer | Promise<OpenAnswer> => {
    const fh = nextHandle++;
    handles.set(fh, opened);
    handleOfInode.set(opened.file.ino, opened);
    if (locks !== undefined) opened.refusal = () => locks.refusalOf(fh);
    opened.isQuiet = (flags & O_NOATIME) !== 0;
    const isRead = !opened.isDirect && !opened.isQuiet && (flags & libc.O_ACCMODE) !== libc.O_WRONLY;
    const access = isRead ? accessTimes.opened(opened.file) : NO_ACCESS;
    let openFlags = opened.isDirect || access.isDirect ? FOPEN_DIRECT_IO : 0;
    if (opened.keepsPages && access.keepsPages) openFlags |= FOPEN_KEEP_CACHE;
    // Nothing is written through it, so that close(2) has nothing to wait for, but the end of locks.
    if (!opened.write && locks?.needsFlush !== true) openFlags |= FOPEN_NOFLUSH;
    const answer = { fh, openFlags };
    const noted = opened.write ? dropUnusedPages(opened) : access.noted;
    return noted === undefined ? answer : noted.then(() => answer);
  };

  /**
   * Pages from before nobody but the writer had the file open, nor a mapping of it, go at once: else each write would have to
   * take some away.
   */
  const dropUnusedPages = ({ file }: Handle): Promise<void> | undefined => {
    const { inode } = file;
    if (file.handles !== 1 || !inode.hasPages) return undefined;
    const { pagesBrought } = inode;
    // Until then they are there, for a recall as well; and what was read meanwhile has brought new ones.
    return kernelCache.dropRanges(inode, [{ start: 0, end: Infinity }]).then(
      () => {
        if (inode.pagesBrought === pagesBrought) inode.hasPages = false;
      },
      () => {},
    );
  };

  return {
    lookup(context, parent, name) {
      // By handle (EXPORT_SUPPORT), for NFS and open_by_handle_at: also what the kernel has forgotten. ENOENT becomes ESTALE.
      if (isDots(name)) {
        return then(names.lookupDots(asInodeId(parent), name, context), (found) => entryOf(parent, found));
      }
      const look = () => names.lookup(asInodeId(parent), name, context);
      const answer = (found: Found) => {
        places.note(found.inode, asInodeId(parent), name);
        found.inode?.tellAttributes(context.pid);
        return entryOf(parent, found);
      };
      return then(look(), (found) => {
        const left = places.leave(found.inode, asInodeId(parent));
        return left === undefined ? answer(found) : left.then(look).then(answer);
      });
    },

    forget(nodeid, lookups) {
      files.forget(asInodeId(nodeid), lookups);
    },

    getattr: (context, nodeid) =>
      staleIfGone(then(names.getattr(asInodeId(nodeid), context), (inode) => {
        inode.tellAttributes(context.pid);
        return answerOf(inode);
      })),

    setattr(context, nodeid, changes) {
      const { mode, uid, gid, size, atime, mtime, killSuidGid } = changes;
      const truncated = size === undefined ? undefined : beforeTruncate(table.get(asInodeId(nodeid)), size);
      const changed = names.setattr({
        ino: asInodeId(nodeid),
        ...(mode === undefined ? {} : { mode }),
        ...(uid === undefined ? {} : { uid }),
        ...(gid === undefined ? {} : { gid }),
        ...(size === undefined ? {} : { size }),
        ...(atime === undefined ? {} : { atime }),
        ...(mtime === undefined ? {} : { mtime }),
        killSuidGid,
      }, context);
      const before = size === undefined ? 0 : table.get(asInodeId(nodeid))?.attributes.size ?? 0;
      return within(
        nodeid,
        staleIfGone(then(changed, (inode) => {
          truncated?.();
          if (size === undefined || size === 0) return expired(answerOf(inode));
          return then(ranges.tidy(inode, before - size, context), () => expired(answerOf(inode)));
        })),
      );
    },

    readlink(context, nodeid) {
      const target = staleIfGone(names.readlink(asInodeId(nodeid), context));
      accessTimes.accessed(table.get(asInodeId(nodeid)));
      return then(target, (bytes) => bytes ?? -ERRNO.EINVAL);
    },

    symlink(context, parent, name, target) {
      const request = { parent: asInodeId(parent), name, mode: S_IFLNK | 0o777, target };
      const made = names.make({ ...request, credentials: credentialsOf(context) }, context);
      return changingNames(context, parent, then(made, (found) => entryOf(parent, found)));
    },

    mknod(context, parent, name, mode, rdev, umask) {
      const type = (mode & S_IFMT) === 0 ? S_IFREG : mode & S_IFMT;
      const request = { parent: asInodeId(parent), name, mode: type | (mode & 0o7777), umask, rdev };
      const made = names.make({ ...request, credentials: credentialsOf(context) }, context);
      return changingNames(context, parent, then(made, (found) => entryOf(parent, found)));
    },

    mkdir(context, parent, name, mode, umask) {
      const request = { parent: asInodeId(parent), name, mode: S_IFDIR | (mode & 0o7777), umask };
      const made = names.make({ ...request, credentials: credentialsOf(context) }, context);
      return changingNames(
        context,
        parent,
        then(made, (found) => {
          places.note(found.inode, asInodeId(parent), name);
          return entryOf(parent, found);
        }),
      );
    },

    unlink: (context, parent, name) =>
      changingNames(context, parent, then(names.remove(asInodeId(parent), name, false, context), () => 0)),

    rmdir: (context, parent, name) =>
      changingNames(context, parent, then(names.remove(asInodeId(parent), name, true, context), () => 0)),

    rename(context, parent, name, newParent, newName, flags) {
      const source = { parent: asInodeId(parent), name };
      const target = { parent: asInodeId(newParent), name: newName };
      const credentials = credentialsOf(context);
      const renamed = places.moving(
        source,
        target,
        flags,
        () => names.rename(source.parent, name, target.parent, newName, flags, context, credentials),
      );
      return changingNames(context, parent, renamed === undefined ? 0 : renamed.then(() => 0), newParent);
    },

    link(context, nodeid, newParent, newName) {
      const linked = names.link(asInodeId(nodeid), asInodeId(newParent), newName, context);
      return changingNames(context, newParent, then(linked, (found) => entryOf(newParent, found, 0)));
    },

    create(context, parent, name, flags, mode, umask) {
      const created = files.create(
        {
          parent: asInodeId(parent),
          name,
          mode: mode & 0o7777,
          umask,
          exclusive: (flags & libc.O_EXCL) !== 0,
          write: (flags & libc.O_ACCMODE) !== libc.O_RDONLY,
          credentials: credentialsOf(context),
        },
        { truncate: (flags & libc.O_TRUNC) !== 0, append: (flags & libc.O_APPEND) !== 0 },
        context,
      );
      return changingNames(
        context,
        parent,
        then(created, ({ handle: opened, found, isNew }) =>
          then(addHandle(opened, flags), (open) => ({
            open,
            entry: entryOf(parent, found, isNew ? undefined : 0) as EntryAnswer,
          }))),
      );
    },

    async tmpfile(context, parent, flags, mode, umask) {
      const { handle: opened, found } = await files.createUnnamed({
        parent: asInodeId(parent),
        mode: mode & 0o7777,
        umask,
        linkable: (flags & libc.O_EXCL) === 0,
        credentials: credentialsOf(context),
      }, context).catch((error) => {
        if (!isErrno(error, "ENOENT")) throw error;
        // There is no name that could be missing. As ext4 has it.
        throw new FsError("EPERM", "the directory was removed", { op: error.op, cause: error });
      });
      return { open: await addHandle(opened, flags), entry: entryOf(parent, found) as EntryAnswer };
    },

    open(context, nodeid, flags, killSuidGid) {
      const opened = files.open(asInodeId(nodeid), {
        write: (flags & libc.O_ACCMODE) !== libc.O_RDONLY,
        truncate: (flags & libc.O_TRUNC) !== 0,
        append: (flags & libc.O_APPEND) !== 0,
        killSuidGid,
      }, context);
      return staleIfGone(then(opened, (handle) => addHandle(handle, flags)));
    },

    read(context, nodeid, fh, offset, size, { isDirect }) {
      const opened = handleOf(nodeid, fh);
      if (!opened.isQuiet) accessTimes.accessed(opened.file.inode);
      return files.readNow(opened, offset, size, isDirect) ??
        staleIfGone(files.read(opened, offset, size, isDirect, context));
    },

    async write(context, nodeid, fh, offset, data, { openFlags, fromPageCache, killSuidGid }) {
      const append = (openFlags & libc.O_APPEND) !== 0 && !fromPageCache;
      // The kernel leaves O_SYNC, O_DSYNC and RWF_DSYNC to us. O_SYNC has O_DSYNC's bit.
      const opened = handleOf(nodeid, fh);
      const isSynced = ((openFlags & libc.O_DSYNC) !== 0 || isSync(opened.file.inode.attributes)) &&
        !fromPageCache;
      const how = { append, killSuidGid, isSynced, isWriteback: fromPageCache };
      await staleIfGone(files.write(opened, offset, data, how, context));
      return data.length;
    },

    flush(_context, nodeid, fh, owner) {
      const closing = handle(fh);
      const flushed = closing.write ? staleIfGone(files.flush(closing)) : undefined;
      const unlock = () => locks?.closed(asInodeId(nodeid), lockOwner(owner));
      if (flushed instanceof Promise) return flushed.finally(unlock).then(() => 0);
      return then(unlock(), () => 0);
    },

    async release(_context, _nodeid, fh) {
      locks?.released(fh);
      const closing = handle(fh);
      handles.delete(fh);
      if (handleOfInode.get(closing.file.ino) === closing) handleOfInode.delete(closing.file.ino);
      await files.close(closing);
      return 0;
    },

    async fsync(_context, _nodeid, fh, dataOnly) {
      await staleIfGone(files.fsync(handle(fh), dataOnly));
      return 0;
    },

    opendir(_context, nodeid) {
      const ino = asInodeId(nodeid);
      const inode = table.get(ino);
      const isCached = inode !== undefined && inode.lease !== "none" && session.isValid &&
        !accessTimes.isStrict;
      const stream = names.openDirectory(ino, isCached);
      const fh = nextHandle++;
      directories.set(fh, stream);
      // A listing that is an access must be asked for.
      const drops = inode !== undefined && (inode.hasStalePages ||
        (inode.hasPages && (accessTimes.isDue(inode) || table.isCrossed(ino, inode.listedSince))));
      if (drops) {
        inode.hasStalePages = false;
        stream.opensAnew(inode);
      }
      // A listing of which the kernel has a part would never become whole.
      return { fh, openFlags: (isCached ? FOPEN_CACHE_DIR : 0) | (drops ? 0 : FOPEN_KEEP_CACHE) };
    },

    readdir(context, _nodeid, fh, cookie, writer, plus) {
      const stream = directories.get(fh);
      if (stream === undefined) return -ERRNO.EBADF;
      const done = stream.read(cookie, plus, ({ name, ino, type, cookie: next, found }) => {
        if (!plus) return writer.add(name, ino, type, next);
        if (found === undefined) return writer.addPlus(name, ino, type, next, null);
        places.note(found.inode, stream.ino, name, true);
        found.inode?.tellAttributes(context.pid);
        // One that does not fit is not told, and not counted.
        const entry = entryOf(stream.ino, found, undefined, true) as EntryAnswer;
        const isTold = writer.addPlus(name, ino, type, next, entry);
        if (!isTold) files.forget(ino, 1);
        return isTold;
      }, context);
      // Not beside it: a listing during which the directory changes may not be kept.
      return done.then(() => {
        accessTimes.accessed(table.get(stream.ino));
        return 0;
      });
    },

    releasedir(_context, _nodeid, fh) {
      const closing = directories.get(fh);
      if (closing !== undefined) names.closeDirectory(closing);
      directories.delete(fh);
      return 0;
    },

    async fsyncdir() {
      await names.syncNamespace();
      return 0;
    },

    async statfs(context) {
      const { totalBytes, freeBytes, files: inodes } = await names.statfs(context);
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

    setxattr(context, nodeid, name, value, flags, killSetgid) {
      const refused = refusedXattrName(name, hasAcls);
      if (refused < 0) return refused;
      const changed = names.setXattr(asInodeId(nodeid), name, value, flags, context, killSetgid);
      return within(nodeid, staleIfGone(changed.then(() => 0)));
    },

    getxattr(context, nodeid, name) {
      const refused = refusedXattrName(name, hasAcls);
      if (refused < 0) return refused;
      const ino = asInodeId(nodeid);
      const value = virtualXattrs.get(ino, name, context) ?? names.getXattr(ino, name, context);
      return staleIfGone(then(value, (value) => value ?? -ERRNO.ENODATA));
    },

    listxattr: (context, nodeid) =>
      staleIfGone(
        then(names.listXattrs(asInodeId(nodeid), context), (all) => listedXattrs(all, isRoot(context))),
      ),

    removexattr(context, nodeid, name) {
      const refused = refusedXattrName(name, hasAcls);
      if (refused < 0) return refused;
      const changed = names.removeXattr(asInodeId(nodeid), name, context);
      return within(nodeid, staleIfGone(changed.then(() => 0)));
    },

    async ioctl(context, nodeid, cmd, input) {
      const answer = await staleIfGone(flagIoctl(names, asInodeId(nodeid), cmd, input, context));
      // The kernel does not know that an ioctl changes times.
      const inode = isFlagChange(cmd) ? table.get(asInodeId(nodeid)) : undefined;
      if (inode !== undefined) await kernelCache.dropAttributes(inode);
      return answer;
    },

    async fallocate(context, _nodeid, fh, offset, length, mode) {
      if ((mode & ~FALLOCATE_SUPPORTED) !== 0) return -ERRNO.EOPNOTSUPP;
      const end = offset + length;
      if (!Number.isSafeInteger(end)) return -ERRNO.EFBIG;
      const grow = (mode & libc.FALLOC_FL_KEEP_SIZE) === 0;
      const opened = handle(fh);
      await staleIfGone(ranges.dropPrivileges(opened, !isRoot(context), context));
      if ((mode & (libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_ZERO_RANGE)) !== 0) {
        const keepsRoom = (mode & libc.FALLOC_FL_ZERO_RANGE) !== 0;
        await staleIfGone(ranges.zero(opened, offset, end, { grow, keepsRoom }, context));
      } else {
        await staleIfGone(ranges.reserve(opened, offset, end, { grow }, context));
      }
      return 0;
    },

    async copyFileRange(context, source, target, length) {
      if (locks?.refusalOf(source.fh) !== undefined || locks?.refusalOf(target.fh) !== undefined) {
        return -ERRNO.EIO;
      }
      const into = handle(target.fh);
      await staleIfGone(ranges.dropPrivileges(into, !isRoot(context), context));
      const from = handle(source.fh);
      const range = { from: source.offset, to: target.offset, length };
      const bytes = await staleIfGone(ranges.copy(from, into, range, context));
      if (!from.isQuiet) await accessTimes.accessed(from.file.inode, true);
      return { bytes };
    },

    async lseek(context, _nodeid, fh, offset, whence) {
      if (whence !== libc.SEEK_DATA && whence !== libc.SEEK_HOLE) return -ERRNO.EINVAL;
      const found = await staleIfGone(ranges.seek(handle(fh), offset, whence === libc.SEEK_DATA, context));
      return found === undefined ? -ERRNO.ENXIO : { offset: found };
    },

    ...locks === undefined ? {} : lockHandlers(locks),
  };
}

/** `next` of what is there already is there, too. */
function then<T, U>(value: T | Promise<T>, next: (value: T) => U | Promise<U>): U | Promise<U> {
  return value instanceof Promise ? value.then(next) : next(value);
}

/**
 * An inode that is gone was removed by another client, under a name that this kernel still has: ESTALE makes it look the
 * name up again, and make the file where that is asked for. One that is open here can only be gone when this client was
 * cut off, and lost its session; ENOENT would speak of a name.
 */
function staleIfGone<T>(operation: T | Promise<T>): T | Promise<T> {
  if (!(operation instanceof Promise)) return operation;
  return operation.catch((error) => {
    if (!isErrno(error, "ENOENT")) throw error;
    throw new FsError("ESTALE", error.message, { op: error.op, cause: error });
  });
}

function credentialsOf({ uid, gid }: RequestContext): Credentials {
  return { uid, gid };
}

const NO_TIME = { seconds: 0, nanoseconds: 0 };
/** No such name: node 0. */
const ABSENT_ENTRY: EntryAnswer = {
  nodeid: 0,
  generation: 0,
  entryTimeoutMs: 0,
  attributeTimeoutMs: 0,
  attributes: {
    ino: 0,
    size: 0,
    blocks: 0,
    atime: NO_TIME,
    mtime: NO_TIME,
    ctime: NO_TIME,
    btime: NO_TIME,
    mode: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blockSize: 0,
  },
};

/** "." or "..". */
function isDots(name: Uint8Array): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
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
