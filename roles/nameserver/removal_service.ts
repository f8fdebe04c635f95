/**
 * Taking names away for clients: unlink, rmdir, and rename over what is there.
 * Invariant: an inode that loses its last name goes only when no session has it open, nor may be about to
 * (lingering.ts); whoever may know is asked before, within the inode's turn.
 */

import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import { LEASE_RANK } from "../../wire/messages/inode.ts";
import type {
  NAMESERVER,
  RecallItem,
  Removed,
  RemoveReply,
  RenameReply,
} from "../../wire/messages/nameserver.ts";
import type { Handlers } from "../../wire/service.ts";
import { TOLD_LATELY } from "../leaseserver/leases.ts";
import type { ClientServiceParts } from "./client_parts.ts";
import { findEntry } from "./entries.ts";
import * as operations from "./operations.ts";
import { type InodeRecord, isDirectory } from "./records.ts";
import { changesOf, nameItem } from "./replies.ts";
import type { Transaction } from "./transaction.ts";

/** How often something else may be under the name by the time that its holders were asked. */
const TRIES_MAX = 100;

export function removalHandlers(
  parts: ClientServiceParts,
): Pick<Handlers<typeof NAMESERVER>, "remove" | "rename"> {
  const { namespace, retries, lingering } = parts;
  const { leases, sessions } = parts.leaseserver;

  /** What a change that takes `name` away tells the others, besides that the name changes. */
  const removalItems = (target: InodeRecord | undefined): RecallItem[] => {
    if (target === undefined) return [];
    const { ino } = target;
    if (isDirectory(target)) return [{ ino, keep: "none" }];
    return [{ ino, keep: "read", attributes: true, ...(target.nlink === 1 ? { removed: true } : {}) }];
  };

  /**
   * What the client says of its own opens is so when it sends it: taken over before what it has sent behind. That it has none
   * open is not: it may not know yet of one by name, and tells its closes anyway.
   */
  const noteRemoved = ({ removed }: { readonly removed?: Removed }, session: SessionId): void => {
    if (removed?.open === true) leases.noteOpen(removed.ino, session, true);
  };

  /**
   * Runs a change that may take the last name of an inode: `attempt` gets the sessions that hold it open or may do so
   * soon, and says by "again" that something else is under the name by now.
   */
  const removing = async <T>(
    request: { readonly parent: InodeId; readonly name: Uint8Array; readonly removed?: Removed },
    session: SessionId,
    more: (target: InodeRecord | undefined) => readonly RecallItem[],
    attempt: (openIn: readonly SessionId[], isSame: (tx: Transaction) => boolean) => Promise<T | "again">,
  ): Promise<T> => {
    const { parent, name, removed } = request;
    for (let tries = 0; tries < TRIES_MAX; tries++) {
      const target = await namespace.look((tx) => operations.removalTarget(tx, parent, name));
      const isLast = target !== undefined && !isDirectory(target) && target.nlink === 1;
      const isTold = removed?.ino === target?.ino && tries === 0;
      if (isLast && !isTold) await leases.askOpen(target.ino, session);
      const isSame = (tx: Transaction): boolean => {
        const now = operations.removalTarget(tx, parent, name);
        return now?.ino === target?.ino && now?.nlink === target?.nlink;
      };
      const result = await leases.change(
        session,
        [...removalItems(target), ...more(target)],
        (openIn) => {
          if (!isLast) return attempt(openIn, isSame);
          const holders = new Set(openIn);
          if (leases.isOpenIn(target.ino, session)) holders.add(session);
          if (isTold && removed?.told === true) holders.add(TOLD_LATELY);
          return attempt([...holders], isSame);
        },
      );
      if (result !== "again") return result;
    }
    throw new FsError("EAGAIN", "the name changes faster than its holders can be asked");
  };

  /** The inode may have lost its last name: it is an orphan of those that hold it open, or gone. */
  const afterRemoval = (inode: InodeRecord, openIn: readonly SessionId[]): void => {
    if (inode.nlink > 0) return;
    if (openIn.length > 0) namespace.noteOrphan(inode.ino, openIn);
    if (openIn.includes(TOLD_LATELY)) lingering.add(inode.ino);
    if (openIn.length === 0) leases.forget(inode.ino);
  };

  return {
    remove: (request, context) => {
      const session = sessions.of(context.peer);
      noteRemoved(request, session);
      const { parent, name } = request;
      return retries.once<RemoveReply>(
        session,
        request.retry,
        (record) =>
          removing(
            request,
            session,
            () => [nameItem(parent, name)],
            (openIn, isSame) =>
              namespace.change((tx) => {
                if (!isSame(tx)) return "again";
                const inode = operations.remove(tx, parent, name, request.directory, openIn);
                record(tx, inode.ino);
                afterRemoval(inode, openIn);
                const { ino, nlink } = inode;
                const directories = changesOf(tx, parent);
                const directory = parts.replies.names(parent, session, request.wantsDirectory);
                return { ino, nlink, directories, directory };
              }),
          ),
        ({ ino }) =>
          namespace.look((tx) => {
            const nlink = tx.findInode(ino as InodeId)?.nlink ?? 0;
            return { ino: ino as InodeId, nlink, directory: "none" };
          }),
      );
    },

    rename: (request, context) => {
      const session = sessions.of(context.peer);
      noteRemoved(request, session);
      const { parent, name, newParent, newName, flags } = request;
      const names = parent === newParent
        ? [{ ino: parent, keep: "read", names: [name, newName] } as const]
        : [nameItem(parent, name), nameItem(newParent, newName)];
      /** What is moved has a new ctime; a directory's ".." leads elsewhere. */
      const movedItems = (moved: InodeRecord | undefined, target: InodeRecord | undefined): RecallItem[] =>
        moved === undefined || moved.ino === target?.ino
          ? []
          : [{ ino: moved.ino, keep: "read", attributes: true }];
      const target = {
        parent: newParent,
        name: newName,
        ...(request.removed && { removed: request.removed }),
      };
      const run = async (record: (tx: Transaction, ino: number, other?: number) => void) => {
        for (let tries = 0; tries < TRIES_MAX; tries++) {
          const moved = await namespace.look((tx) => operations.removalTarget(tx, parent, name));
          const result = await removing<RenameReply | "moved">(
            target,
            session,
            (replaced) => [...names, ...movedItems(moved, replaced)],
            (openIn, isSame) =>
              namespace.change((tx) => {
                if (!isSame(tx)) return "again";
                if (operations.removalTarget(tx, parent, name)?.ino !== moved?.ino) return "moved";
                const { inode, replaced } = operations.rename(
                  tx,
                  parent,
                  name,
                  newParent,
                  newName,
                  flags,
                  openIn,
                  request.credentials,
                );
                record(tx, inode.ino, replaced?.ino);
                // Two names of one file: nothing has happened.
                if (replaced === undefined && findEntry(tx, parent, name)?.ino === inode.ino) {
                  return { ino: inode.ino, directory: "none" };
                }
                const here = leases.lease(parent, session, "names");
                const there = leases.lease(newParent, session, "names");
                const reply: RenameReply = {
                  ino: inode.ino,
                  // Of both: a client that took one for its own by the other would make changes that are refused.
                  directory: LEASE_RANK[here] < LEASE_RANK[there] ? here : there,
                  directories: changesOf(tx, parent, newParent),
                };
                if (replaced === undefined) return reply;
                afterRemoval(replaced, openIn);
                return { ...reply, replaced: { ino: replaced.ino, nlink: replaced.nlink } };
              }),
          );
          if (result !== "moved") return result;
        }
        throw new FsError("EAGAIN", "the name changes faster than its holders can be asked");
      };
      return retries.once<RenameReply>(
        session,
        request.retry,
        run,
        ({ ino, other }) =>
          namespace.look((tx) => {
            const reply: RenameReply = { ino: ino as InodeId, directory: "none" };
            if (other === 0) return reply;
            const nlink = tx.findInode(other as InodeId)?.nlink ?? 0;
            return { ...reply, replaced: { ino: other as InodeId, nlink } };
          }),
      );
    },
  };
}
