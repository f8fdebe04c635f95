/**
 * Times of access, as clients tell them: set without touching anything else of the inode. Others that hold a lease keep
 * it, and give up the attributes that they know.
 */

import { type Timespec, timespecCompare } from "../../base/clock.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import { FS_NOATIME_FL, type InodeReply } from "../../wire/messages/inode.ts";
import { ACCESSED_MAX, type NAMESERVER } from "../../wire/messages/nameserver.ts";
import { isAccessDue } from "../../wire/relatime.ts";
import type { Handlers } from "../../wire/service.ts";
import type { ClientServiceParts } from "./client_parts.ts";
import type { InodeRecord } from "./records.ts";

export function accessHandlers(
  parts: ClientServiceParts,
): Pick<Handlers<typeof NAMESERVER>, "accessed"> {
  const { namespace, replies } = parts;
  const { leases, sessions } = parts.leaseserver;

  const note = async (
    ino: InodeId,
    isDue: (inode: InodeRecord) => boolean,
    time: Timespec | undefined,
    session: SessionId,
  ): Promise<InodeReply | undefined> => {
    // Another client may have told it since: then nobody is disturbed, not even who has buffered writes.
    const reply = await namespace.look((tx) => {
      const inode = tx.findInode(ino);
      if (inode === undefined) return "gone";
      return isDue(inode) ? undefined : replies.inode(inode, session);
    });
    if (reply !== undefined) return reply === "gone" ? undefined : reply;
    return await leases.change(
      session,
      [{ ino, keep: "write", attributes: true }],
      () =>
        namespace.change((tx) => {
          const inode = tx.findInode(ino);
          if (inode === undefined) return undefined;
          if (isDue(inode)) tx.change(inode).atime = time ?? tx.now;
          return replies.inode(inode, session, "turn");
        }),
    );
  };

  return {
    accessed: async ({ inodes, always }, context) => {
      const session = sessions.of(context.peer);
      if (inodes.length > ACCESSED_MAX) throw new FsError("EPROTO", `${inodes.length} inodes at once`);
      const now = namespace.clock.now();
      const noted = await Promise.all(
        inodes.map(({ ino, version, time }) => {
          // What the caller knows besides, such as its own writes that are not reported yet, counts as well. What was changed after
          // the access may be the time itself (utimensat).
          const isDue = (inode: InodeRecord) =>
            (inode.flags & FS_NOATIME_FL) === 0 &&
            (time === undefined || timespecCompare(time, inode.atime) > 0) &&
            (inode.version === version ||
              ((time === undefined || timespecCompare(time, inode.ctime) >= 0) &&
                (always || isAccessDue(inode, now))));
          return note(ino, isDue, time, session);
        }),
      );
      return { inodes: noted.filter((reply) => reply !== undefined) };
    },
  };
}
