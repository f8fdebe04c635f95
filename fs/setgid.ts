/**
 * What the kernel's protocol leaves out about setuid and setgid, and local file systems do:
 * - Setgid of a file that its group may not execute goes when somebody changes its data who is not in that group. The kernel says
 *   that a caller without CAP_FSETID does it, but neither which groups the caller has nor that this bit is to go: its protocol
 *   takes setgid off with the right to execute only. So it is done before the change.
 * - chown(2) that leaves both owners as they are takes the bits off all the same, and is refused where that is another's file.
 */

import { ERRNO } from "../wire/errno.ts";
import { asInodeId, type InodeId } from "../wire/ids.ts";
import { S_IFDIR, S_IFMT, S_ISGID, S_ISUID } from "../wire/messages/inode.ts";
import type { InodeTable } from "./inode_table.ts";
import { type FileSystemHandlers, isRoot, type RequestContext } from "./kernel/handlers.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { Names } from "./names.ts";

const S_IXGRP = 0o010;

export interface SetgidOptions {
  readonly names: Pick<Names, "shown" | "setattr" | "getattr">;
  readonly table: InodeTable;
  readonly kernelCache: Pick<KernelCache, "dropAttributes">;
  /** Supplementary groups of a thread, as `names` have groups. */
  readonly groupsOf?: (tid: number) => Promise<readonly number[]>;
}

export function withForeignSetgid(inner: FileSystemHandlers, options: SetgidOptions): FileSystemHandlers {
  const handlers = inner as Required<FileSystemHandlers>;
  const { names, table, kernelCache, groupsOf = groupsOfThread } = options;

  const isOfGroup = async (gid: number, context: RequestContext): Promise<boolean> =>
    context.gid === gid || (await groupsOf(context.pid)).includes(gid);

  const drop = async (ino: InodeId, mode: number, gid: number, context: RequestContext): Promise<void> => {
    if (await isOfGroup(gid, context)) return;
    const inode = await names.setattr({ ino, mode: mode & 0o7777 & ~(S_ISUID | S_ISGID) }, context);
    await kernelCache.dropAttributes(inode);
  };

  /** `change`, after the bit was taken off if it has to be: nearly never, and nothing is waited for otherwise. */
  const before = <T>(context: RequestContext, nodeid: number, isKilling: boolean, change: () => T) => {
    const inode = isKilling ? table.get(asInodeId(nodeid)) : undefined;
    if (inode === undefined) return change();
    const { mode, gid } = names.shown(inode);
    if (!isForMembers(mode)) return change();
    return drop(inode.ino, mode, gid, context).then(change) as T;
  };

  /** Whether a chown without owners would take bits off a file that the caller does not own. */
  const takesFromAnother = async (ino: InodeId, context: RequestContext): Promise<boolean> => {
    // Before a fallocate or copy the kernel asks for the same, with the right to write: not told apart where one is possible.
    if ((table.get(ino)?.file?.writers ?? 0) > 0) return false;
    const { mode, uid, gid } = names.shown(await names.getattr(ino, context));
    if (uid === context.uid || (mode & S_IFMT) === S_IFDIR) return false;
    if ((mode & S_ISUID) !== 0 || (mode & (S_ISGID | S_IXGRP)) === (S_ISGID | S_IXGRP)) return true;
    return isForMembers(mode) && !await isOfGroup(gid, context);
  };

  return {
    ...inner,
    setattr(context, nodeid, changes) {
      const { mode, uid, gid, size, killSuidGid } = changes;
      const isOwnerSet = mode !== undefined || uid !== undefined || gid !== undefined;
      const isKilling = killSuidGid && !isRoot(context) && (size !== undefined || !isOwnerSet);
      const change = () =>
        before(context, nodeid, isKilling, () => handlers.setattr(context, nodeid, changes));
      if (!isKilling || size !== undefined) return change();
      return takesFromAnother(asInodeId(nodeid), context).then((isRefused) =>
        isRefused ? -ERRNO.EPERM : change()
      );
    },
    open: (context, nodeid, flags, killSuidGid) =>
      before(context, nodeid, killSuidGid, () => handlers.open(context, nodeid, flags, killSuidGid)),
    write: (context, nodeid, fh, offset, data, how) =>
      before(
        context,
        nodeid,
        how.killSuidGid,
        () => handlers.write(context, nodeid, fh, offset, data, how),
      ),
    fallocate: (context, nodeid, fh, offset, length, mode) =>
      before(
        context,
        nodeid,
        !isRoot(context),
        () => handlers.fallocate(context, nodeid, fh, offset, length, mode),
      ),
    copyFileRange: (context, source, target, length) =>
      before(
        context,
        target.nodeid,
        !isRoot(context),
        () => handlers.copyFileRange(context, source, target, length),
      ),
  };
}

/** Setgid without the right to execute: it stays with what the group's members do. */
function isForMembers(mode: number): boolean {
  return (mode & (S_ISGID | S_IXGRP)) === S_ISGID && (mode & S_IFMT) !== S_IFDIR;
}

/** None, if the thread can't be seen: of another pid namespace, or gone. */
export async function groupsOfThread(tid: number): Promise<readonly number[]> {
  try {
    const status = await Deno.readTextFile(`/proc/${tid}/status`);
    const [, groups = ""] = /^Groups:(.*)$/m.exec(status) ?? [];
    return (groups.match(/\d+/g) ?? []).map(Number);
  } catch {
    return [];
  }
}
