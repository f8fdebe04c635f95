/**
 * Root of this machine as an ordinary user of the file system: what the kernel asks for uid 0 is checked here as for the
 * user that root is taken for, since the kernel itself lets root do everything; what is made belongs to that user. A client
 * without a kernel asks as uid 0 for the user that runs it (roles/mount/client.ts).
 *
 * It holds for uid 0 only: programs that got capabilities without being root keep them. Descriptors stay what they were
 * opened as. That a directory may not be searched is found when the kernel asks for names in it: so it must ask each
 * time, and names have no time-out (kernel_handlers.ts). chdir(2) alone asks nothing: root gets into any directory, and then
 * sees none of its names.
 * Invariant: every handler that acts on a name or an inode for its caller is here, or needs no right (getattr, readlink,
 * statfs, and what goes by an open handle).
 */

import * as libc from "../base/libc.ts";
import type { UserIds } from "../base/user_ids.ts";
import { FsError, isErrno } from "../wire/errno.ts";
import { asInodeId, type InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  S_ISGID,
} from "../wire/messages/inode.ts";
import { isFlagChange } from "./inode_flags.ts";
import {
  type AttributeChanges,
  type CreateAnswer,
  type FileSystemHandlers,
  isRoot,
  type RequestContext,
} from "./kernel/handlers.ts";
import type { Names } from "./names.ts";
import { MAY_EXECUTE, MAY_READ, MAY_WRITE, notPermitted, Permissions } from "./permissions.ts";
import { isXattrOf } from "./virtual_xattrs.ts";
import type { Interruptible } from "./interruptible.ts";

type Handlers = Required<FileSystemHandlers>;

/** Opened by execve(2) (linux/fs.h __FMODE_EXEC). */
const FMODE_EXEC = 0o40;
const S_ISUID_OR_SGID = 0o6000;
const CREATE_TRIES = 10;

/** `groups`: the user's supplementary groups. */
export function squashRoot(
  inner: FileSystemHandlers,
  names: Names,
  user: UserIds,
  groups: readonly number[] = [],
): FileSystemHandlers {
  const handlers = inner as Handlers;
  const permissions = new Permissions(names, user, groups);
  /** Also whom a map of ids makes root of the cluster (id_map.ts). */
  const isSquashed = (context: RequestContext) => isRoot(context) || context.uid === 0;

  /** Who root is taken for. */
  const as = (context: RequestContext): RequestContext => ({
    uid: user.uid,
    gid: user.gid,
    pid: context.pid,
    get signal() {
      return context.signal;
    },
    takeBuffer: () => context.takeBuffer?.(),
  });

  const check = (nodeid: number, wanted: number, interrupt: Interruptible) =>
    permissions.check(asInodeId(nodeid), wanted, interrupt);

  /** What a name leads to, in a directory that may be searched. */
  const find = async (parent: number, name: Uint8Array, context: RequestContext) => {
    await check(parent, MAY_EXECUTE, context);
    const { inode } = await names.lookup(asInodeId(parent), name, context);
    return inode === null ? undefined : permissions.attributes(inode.ino, context);
  };

  /** Something may be made in the directory; its mode, in which setgid does not survive in another group's directory. */
  const checkMaking = async (parent: number, mode: number, context: RequestContext): Promise<number> => {
    const directory = await check(parent, MAY_WRITE | MAY_EXECUTE, context);
    const isSetgid = (mode & (S_ISGID | 0o010)) === (S_ISGID | 0o010) && (mode & S_IFMT) !== S_IFDIR;
    const isForeign = (directory.mode & S_ISGID) !== 0 && !permissions.isOfGroup(directory.gid);
    return isSetgid && isForeign ? mode & ~S_ISGID : mode;
  };

  const checkOpen = async (nodeid: number, flags: number, context: RequestContext): Promise<void> => {
    const access = flags & libc.O_ACCMODE;
    let wanted = access === libc.O_WRONLY ? 0 : MAY_READ;
    if ((flags & FMODE_EXEC) !== 0) wanted = MAY_EXECUTE;
    if (access !== libc.O_RDONLY || (flags & libc.O_TRUNC) !== 0) wanted |= MAY_WRITE;
    await check(nodeid, wanted, context);
  };

  /** SETATTR, as setattr_prepare of the kernel has it for others than root: what is left of the changes. */
  const allowedChanges = async (
    ino: InodeId,
    changes: AttributeChanges,
    context: RequestContext,
  ): Promise<AttributeChanges> => {
    const { mode, uid, gid, size, atime, mtime, fh } = changes;
    const attributes = await permissions.attributes(ino, context);
    const isOwner = permissions.owns(attributes);
    const isOwnerChanged = (uid !== undefined && uid !== attributes.uid) ||
      (gid !== undefined && gid !== attributes.gid && !permissions.isOfGroup(gid));
    if (isOwnerChanged) throw notPermitted("only root may give files away");
    const isSet = [atime, mtime].some((time) => time !== undefined && time !== "now");
    if (!isOwner && (isSet || [mode, uid, gid].some((value) => value !== undefined))) {
      throw notPermitted("it belongs to another user");
    }
    const isTouched = !isOwner && (atime !== undefined || mtime !== undefined);
    // Of a descriptor that was opened for writing, the size may be set.
    if (isTouched || (size !== undefined && fh === undefined)) await check(ino, MAY_WRITE, context);
    const isKilling = size !== undefined || uid !== undefined || gid !== undefined;
    return {
      ...changes,
      ...mode !== undefined && !permissions.isOfGroup(gid ?? attributes.gid) ? { mode: mode & ~S_ISGID } : {},
      killSuidGid: changes.killSuidGid || isKilling,
    };
  };

  /** As with fs.protected_hardlinks: of what the user could not read and write, it makes no names. */
  const checkLink = async (attributes: Attributes, context: RequestContext): Promise<void> => {
    if (permissions.owns(attributes)) return;
    const isSafe = (attributes.mode & S_IFMT) === S_IFREG && (attributes.mode & S_ISUID_OR_SGID) === 0;
    if (isSafe && await permissions.permits(attributes, MAY_READ | MAY_WRITE, context)) return;
    throw notPermitted("it belongs to another user");
  };

  const checkXattr = async (
    nodeid: number,
    name: Uint8Array,
    context: RequestContext,
  ): Promise<Attributes> => {
    const ino = asInodeId(nodeid);
    if (isXattrOf("system.", name)) return await permissions.checkOwner(ino, context);
    if (!isXattrOf("user.", name)) throw notPermitted("only root may change attributes of that kind");
    return await check(nodeid, MAY_WRITE, context);
  };

  /** What is there is opened as open(2) does; what is not is made, and by nobody else meanwhile. */
  const create: Handlers["create"] = async (context, parent, name, flags, mode, umask) => {
    const exclusive = (flags & libc.O_EXCL) !== 0;
    for (let tries = 0; tries < CREATE_TRIES; tries++) {
      const there = exclusive ? undefined : await find(parent, name, context);
      if (there === undefined) {
        const allowed = await checkMaking(parent, mode, context);
        try {
          return await handlers.create(as(context), parent, name, flags | libc.O_EXCL, allowed, umask);
        } catch (error) {
          if (exclusive || !isErrno(error, "EEXIST")) throw error;
          continue;
        }
      }
      if ((there.mode & S_IFMT) !== S_IFREG) break;
      await checkOpen(there.ino, flags, context);
      const entry = await handlers.lookup(as(context), parent, name);
      if (typeof entry === "number") return entry;
      if (entry.nodeid === there.ino) {
        const open = await handlers.open(as(context), there.ino, flags, true);
        if (typeof open !== "number") return { entry, open } satisfies CreateAnswer;
        handlers.forget(entry.nodeid, 1);
        return open;
      }
      if (entry.nodeid !== 0) handlers.forget(entry.nodeid, 1);
    }
    throw new FsError("ESTALE", "what has that name changes, or is no file");
  };

  const squashed: Partial<Handlers> = {
    async lookup(context, parent, name) {
      await check(parent, MAY_EXECUTE, context);
      return handlers.lookup(as(context), parent, name);
    },
    async setattr(context, nodeid, changes) {
      const allowed = await allowedChanges(asInodeId(nodeid), changes, context);
      return handlers.setattr(as(context), nodeid, allowed);
    },
    async symlink(context, parent, name, target) {
      await checkMaking(parent, 0, context);
      return handlers.symlink(as(context), parent, name, target);
    },
    async mknod(context, parent, name, mode, rdev, umask) {
      const allowed = await checkMaking(parent, mode, context);
      const type = mode & S_IFMT;
      if ((type === S_IFCHR && rdev !== 0) || type === S_IFBLK) {
        throw notPermitted("only root may make devices");
      }
      return handlers.mknod(as(context), parent, name, allowed, rdev, umask);
    },
    async mkdir(context, parent, name, mode, umask) {
      await checkMaking(parent, 0, context);
      return handlers.mkdir(as(context), parent, name, mode, umask);
    },
    async unlink(context, parent, name) {
      await permissions.checkRemoval(asInodeId(parent), await find(parent, name, context), context);
      return handlers.unlink(as(context), parent, name);
    },
    async rmdir(context, parent, name) {
      await permissions.checkRemoval(asInodeId(parent), await find(parent, name, context), context);
      return handlers.rmdir(as(context), parent, name);
    },
    async rename(context, parent, name, newParent, newName, flags) {
      const moved = await find(parent, name, context);
      const replaced = await find(newParent, newName, context);
      await permissions.checkRemoval(asInodeId(parent), moved, context);
      await permissions.checkRemoval(asInodeId(newParent), replaced, context);
      if (parent !== newParent) {
        for (const inode of [moved, replaced]) {
          // Its ".." changes.
          if (inode !== undefined && (inode.mode & S_IFMT) === S_IFDIR) {
            await check(inode.ino, MAY_WRITE, context);
          }
        }
      }
      return handlers.rename(as(context), parent, name, newParent, newName, flags);
    },
    async link(context, nodeid, newParent, newName) {
      await checkLink(await permissions.attributes(asInodeId(nodeid), context), context);
      await checkMaking(newParent, 0, context);
      return handlers.link(as(context), nodeid, newParent, newName);
    },
    create,
    async tmpfile(context, parent, flags, mode, umask) {
      const allowed = await checkMaking(parent, mode, context);
      return handlers.tmpfile(as(context), parent, flags, allowed, umask);
    },
    async open(context, nodeid, flags) {
      await checkOpen(nodeid, flags, context);
      return handlers.open(as(context), nodeid, flags, true);
    },
    async opendir(context, nodeid, flags) {
      await check(nodeid, MAY_READ, context);
      return handlers.opendir(as(context), nodeid, flags);
    },
    write: (context, nodeid, fh, offset, data, options) =>
      handlers.write(as(context), nodeid, fh, offset, data, {
        ...options,
        // The kernel's own writing back is by root as well, and not for it.
        killSuidGid: options.killSuidGid || !options.fromPageCache,
      }),
    fallocate: (context, nodeid, fh, offset, length, mode) =>
      handlers.fallocate(as(context), nodeid, fh, offset, length, mode),
    copyFileRange: (context, source, target, length) =>
      handlers.copyFileRange(as(context), source, target, length),
    async setxattr(context, nodeid, name, value, flags) {
      const { gid } = await checkXattr(nodeid, name, context);
      return handlers.setxattr(as(context), nodeid, name, value, flags, !permissions.isOfGroup(gid));
    },
    async getxattr(context, nodeid, name) {
      if (isXattrOf("trusted.", name)) throw new FsError("ENODATA", "only root sees attributes of that kind");
      if (isXattrOf("user.", name)) await check(nodeid, MAY_READ, context);
      return handlers.getxattr(as(context), nodeid, name);
    },
    listxattr: (context, nodeid) => handlers.listxattr(as(context), nodeid),
    async removexattr(context, nodeid, name) {
      await checkXattr(nodeid, name, context);
      return handlers.removexattr(as(context), nodeid, name);
    },
    ioctl(context, nodeid, cmd, input) {
      if (isFlagChange(cmd)) throw notPermitted("only root may change flags");
      return handlers.ioctl(as(context), nodeid, cmd, input);
    },
  };

  const result: Record<string, unknown> = { ...inner };
  for (const [name, handler] of Object.entries(squashed)) {
    const plain = inner[name as keyof Handlers] as ((...args: unknown[]) => unknown) | undefined;
    if (plain === undefined) continue;
    const checked = handler as (...args: unknown[]) => unknown;
    result[name] = (context: RequestContext, ...args: unknown[]) =>
      isSquashed(context) ? checked(context, ...args) : plain.call(inner, context, ...args);
  }
  return result as FileSystemHandlers;
}
