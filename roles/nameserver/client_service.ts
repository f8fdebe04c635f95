/**
 * The nameserver's service for clients, together with open_service.ts and removal_service.ts: unpacks a request, asks the leaseserver what must be recalled first, runs the
 * operation, and puts the reply together. Operations that have to wait for a recall wait before their transaction,
 * and look again afterwards.
 * Invariant: what a reply lets its receiver cache is decided in the same synchronous step in which it was seen.
 */

import { FsError } from "../../wire/errno.ts";
import { EMPTY_BYTES } from "../../base/bytes.ts";
import { type InodeId, type SessionId, type VolumeId } from "../../wire/ids.ts";
import { type InodeReply, type LeaseMode } from "../../wire/messages/inode.ts";
import {
  CLAIM_MAX,
  type DirectoryChange,
  type EntryReply,
  NAMESERVER,
  type ReadDirectoryReply,
  type RecallItem,
  type RetryTag,
} from "../../wire/messages/nameserver.ts";
import type { CallContext, Handlers } from "../../wire/service.ts";
import type { Own } from "../leaseserver/leases.ts";
import { accessHandlers } from "./access_service.ts";
import { allocateBlock, extendBlock, punchExtents, regularFile } from "./block_operations.ts";
import type { ClientServiceOptions } from "./client_parts.ts";
import { deferredHandlers } from "./deferred_service.ts";
import { directory } from "./entries.ts";
import { extentAt, extentsIn } from "./extents.ts";
import { fieldRange, getU64, TABLE_ORDER, writerKey } from "./keys.ts";
import { refuseIfProtected } from "./inode_flags.ts";
import { openHandlers } from "./open_service.ts";
import * as operations from "./operations.ts";
import { decodeOrder, type InodeRecord } from "./records.ts";
import { removalHandlers } from "./removal_service.ts";
import { changesOf, inlineOf, nameItem, Replies } from "./replies.ts";
import { Retries } from "./retries.ts";
import type { Transaction } from "./transaction.ts";
import { applyReport } from "./write_reports.ts";
import { getXattr, listXattrs, removeXattr, setXattr } from "./xattrs.ts";

/** Extents in one page of the block map. */
const PAGE_BLOCKS = 256;
const ENTRIES_MAX = 4096;
/** Of small files' data in one page of a listing. */
const LISTED_INLINE_BYTES_MAX = 1024 * 1024;
/** Readings of a directory that changes under them before one is handed out that may not be kept. */
const STEADY_TRIES = 3;

export function clientHandlers(options: ClientServiceOptions): Handlers<typeof NAMESERVER> {
  const { namespace, registry, leaseserver, repair, blockBytes, inlineLimit = 0 } = options;
  const { leases, sessions } = leaseserver;
  const retries = new Retries(namespace.journal);
  const replies = new Replies(leases, registry);
  const parts = { ...options, retries, replies };

  const sessionOf = ({ peer }: CallContext): SessionId => sessions.of(peer);
  /** Every request renews the session that it comes from, as its client counts on that. */
  const callerOf = ({ peer }: CallContext): SessionId => sessions.ofOrNone(peer);

  /** Another session's buffered size and times come in before anybody looks. */
  const lookAt = async <T>(
    ino: InodeId,
    session: SessionId,
    operation: (tx: Transaction, own: Own | undefined) => T,
  ): Promise<T> => await leases.look(session, [ino], (own) => namespace.look((tx) => operation(tx, own)));

  /** A change of one inode that others may cache; `more` are other inodes that it touches. */
  const changeInode = (
    context: CallContext,
    request: { readonly ino: InodeId; readonly retry: RetryTag },
    keep: LeaseMode,
    operation: (tx: Transaction) => InodeRecord,
    options: { readonly durable?: boolean; readonly write?: boolean; readonly more?: RecallItem[] } = {},
  ): Promise<InodeReply> => {
    const session = sessionOf(context);
    const { ino } = request;
    const { durable = false, write = false, more = [] } = options;
    return retries.once(
      session,
      request.retry,
      (record) =>
        leases.change(session, [{ ino, keep, attributes: true }, ...more], () =>
          namespace.change((tx) => {
            const inode = operation(tx);
            record(tx, inode.ino);
            if (write) {
              leases.grantWrite(ino, session);
              tx.put(writerKey(session, ino), EMPTY_BYTES);
            }
            return replies.inode(inode, session, "turn");
          }, durable)),
      () => namespace.change((tx) => replies.inode(tx.inode(ino), session), durable),
    );
  };

  /**
   * A change that a client makes on the way out of data, of an inode that only it may write to: who recalls that from it waits
   * for the change, so it waits for nobody.
   */
  const flush = (
    context: CallContext,
    request: { readonly ino: InodeId; readonly retry: RetryTag },
    operation: (tx: Transaction) => InodeRecord,
    durable = false,
  ): Promise<InodeReply> => {
    const session = sessionOf(context);
    if (!leases.mayCommit(request.ino, session)) {
      return changeInode(context, request, "none", operation, { durable });
    }
    return retries.once(
      session,
      request.retry,
      (record) =>
        namespace.change((tx) => {
          const inode = operation(tx);
          record(tx, inode.ino);
          return replies.inode(inode, session);
        }, durable),
      () => namespace.change((tx) => replies.inode(tx.inode(request.ino), session), durable),
    );
  };

  const handlers: Handlers<typeof NAMESERVER> = {
    ...accessHandlers(parts),
    ...deferredHandlers(parts),
    ...openHandlers(parts),
    ...removalHandlers(parts),

    lookup: async ({ parent, name, wantsFound }, context) => {
      const session = callerOf(context);
      const find = (tx: Transaction) => operations.lookup(tx, parent, name);
      if (leases.isExclusiveOfOther(parent, session)) await leases.settleNames(parent, session);
      for (;;) {
        const ino = await namespace.look((tx) => find(tx)?.ino);
        if (ino === undefined) {
          const reply = await namespace.look((tx) =>
            find(tx) === undefined ? { directory: leases.lease(parent, session) } : undefined
          );
          if (reply !== undefined) return reply;
          continue;
        }
        const reply = await lookAt(ino, session, (tx, own) => {
          const inode = find(tx);
          if (inode?.ino !== ino) return undefined; // another by now, whose buffered size may be elsewhere
          return {
            inode: replies.whole(tx, inode, session, own, { wantsFound }),
            directory: leases.lease(parent, session),
          };
        });
        if (reply !== undefined) return reply;
      }
    },

    getattr: ({ ino }, context) => {
      const session = callerOf(context);
      return lookAt(ino, session, (tx, own) => replies.inode(tx.inode(ino), session, own));
    },

    claim: ({ inodes }, context) => {
      const session = sessions.of(context.peer);
      if (inodes.length > CLAIM_MAX) throw new FsError("EPROTO", `${inodes.length} inodes at once`);
      // Nobody is disturbed.
      const free = inodes.filter((ino) => !leases.isExclusiveOfOther(ino, session));
      return leases.look(session, free, (own) =>
        namespace.look((tx) => ({
          inodes: free.flatMap((ino) => {
            const inode = tx.findInode(ino);
            return inode === undefined ? [] : [replies.inode(inode, session, own, true)];
          }),
        })));
    },

    setattr: (request, context) => {
      const isCut = request.size !== undefined;
      const write = isCut && request.write === true;
      const operation = (tx: Transaction) => operations.setAttributes(tx, request);
      return changeInode(context, request, isCut ? "none" : "read", operation, { write });
    },

    make: (request, context) => {
      const session = sessionOf(context);
      const { parent, name, credentials, mode, wantsFound, wantsDirectory } = request;
      return retries.once<EntryReply>(
        session,
        request.retry,
        (record) =>
          leases.change(session, [nameItem(parent, name)], () =>
            namespace.change((tx) => {
              const what = {
                credentials,
                mode,
                umask: request.umask ?? 0,
                rdev: request.rdev ?? 0,
                target: request.target ?? EMPTY_BYTES,
              };
              const inode = operations.make(tx, parent, name, what);
              record(tx, inode.ino);
              return {
                ...replies.inode(inode, session, undefined, wantsFound),
                directory: replies.names(parent, session, wantsDirectory),
                directories: changesOf(tx, parent),
              };
            })),
        // By now it may have another name.
        ({ ino }) =>
          namespace.look((tx) => ({
            ...replies.inode(tx.inode(ino as InodeId), session),
            directory: "none",
          })),
      );
    },

    link: async (request, context) => {
      const { ino, parent, name } = request;
      const session = sessionOf(context);
      let directoryLease: LeaseMode = "none";
      let directories: DirectoryChange[] | undefined;
      const operation = (tx: Transaction) => {
        const inode = operations.link(tx, ino, parent, name);
        directoryLease = leases.lease(parent, session, "names");
        directories = changesOf(tx, parent);
        namespace.endOrphan(tx, ino);
        return inode;
      };
      const reply = await changeInode(context, request, "read", operation, {
        more: [nameItem(parent, name)],
      });
      return { ...reply, directory: directoryLease, ...directories === undefined ? {} : { directories } };
    },

    blocks: ({ ino, offset, length }, context) =>
      lookAt(ino, callerOf(context), (tx) => {
        const inode = regularFile(tx, ino);
        const end = offset + length;
        const extents = extentsIn(tx, inode, offset, end, PAGE_BLOCKS);
        const last = extents.at(-1);
        const isWhole = extents.length < PAGE_BLOCKS || last === undefined;
        return {
          blocks: extents.map((extent) => replies.block(extent)),
          end: isWhole ? end : last.start + last.length,
          ...inlineOf(tx, inode),
        };
      }),

    allocateBlock: (request, context) => {
      const session = sessionOf(context);
      const { ino, offset } = request;
      return retries.once(
        session,
        request.retry,
        (record) =>
          namespace.change((tx) => {
            const inode = regularFile(tx, ino);
            const extended = request.extend === undefined
              ? undefined
              : extendBlock(tx, inode, offset, request.extend, blockBytes);
            const count = inode.replication || options.replication;
            const place = (): VolumeId[] => registry.place(count, request.host, request.avoid);
            const extent = extended ?? allocateBlock(tx, inode, offset, blockBytes, place);
            record(tx, ino);
            return { block: replies.block(extent) };
          }),
        () =>
          namespace.look((tx) => {
            const extent = extentAt(tx, regularFile(tx, ino), offset);
            if (extent === undefined) throw new FsError("EAGAIN", "the block was dropped again");
            return { block: replies.block(extent) };
          }),
      );
    },

    commit: (request, context) => {
      const operation = (tx: Transaction) => {
        const { inode, written } = applyReport(tx, request, inlineLimit);
        for (const extent of written) repair.blockWritten(inode, extent);
        return inode;
      };
      return flush(context, request, operation, request.durable);
    },

    replicaFailed: async (request, context) => {
      sessionOf(context);
      const { ino, start, block, generation, failed, hasData } = request;
      const extent = await options.recovery.replicasFailed(ino, start, block, generation, failed, hasData);
      return { block: replies.block(extent) };
    },

    punch: (request, context) =>
      flush(context, request, (tx) => {
        const inode = regularFile(tx, request.ino);
        refuseIfProtected(inode);
        punchExtents(tx, inode, request.offset, request.offset + request.length);
        return inode;
      }),

    readDirectory: async (request, context): Promise<ReadDirectoryReply> => {
      const { ino, cookie, limit, withInodes, wantsFound, inlineBytes = 0, ahead = false } = request;
      const session = callerOf(context);
      if (leases.isExclusiveOfOther(ino, session)) {
        if (ahead) throw new FsError("EAGAIN", "another client has the directory to itself");
        await leases.settleNames(ino, session);
      }
      const isLeftOut = (entry: InodeId) => !withInodes || ahead && leases.isExclusiveOfOther(entry, session);
      const count = Math.min(Math.max(1, limit), ENTRIES_MAX);
      const range = fieldRange(TABLE_ORDER, ino, cookie + 1, Number.MAX_SAFE_INTEGER + 1);
      for (let tries = 1;; tries++) {
        const before = await namespace.look((tx) => directory(tx, ino).version);
        const records = await namespace.journal.scan(range, count);
        const listed = records.map(([key, value]) => ({ ...decodeOrder(value), cookie: getU64(key, 9) }));
        const end = records.length < count;
        const reply = await leases.look(
          session,
          listed.map((entry) => entry.ino).filter((entry) => !isLeftOut(entry)),
          (own) =>
            namespace.look((tx) => {
              const inode = directory(tx, ino);
              // What changed while it was listed may be missing or gone: then nobody may keep the list.
              const isSteady = inode.version === before;
              if (!isSteady && tries < STEADY_TRIES) return undefined;
              const room = { bytes: Math.min(inlineBytes, LISTED_INLINE_BYTES_MAX) };
              const entries = listed.map((entry) => {
                const found = isLeftOut(entry.ino) ? undefined : tx.findInode(entry.ino);
                if (found === undefined) return entry;
                return { ...entry, inode: replies.whole(tx, found, session, own, { room, wantsFound }) };
              });
              const directoryLease: LeaseMode = isSteady ? leases.lease(ino, session) : "none";
              return { parent: inode.parent, entries, end, directory: directoryLease };
            }),
        );
        if (reply !== undefined) return reply;
      }
    },

    setXattr: (request, context) =>
      changeInode(
        context,
        request,
        "read",
        (tx) => {
          const { ino, name, value, flags, killSetgid } = request;
          return setXattr(tx, tx.inode(ino), name, value, flags, killSetgid);
        },
      ),

    getXattr: ({ ino, name }, context) => {
      callerOf(context);
      return namespace.look((tx) => ({ value: getXattr(tx, tx.inode(ino), name) }));
    },

    listXattrs: ({ ino }, context) => {
      callerOf(context);
      return namespace.look((tx) => ({ names: listXattrs(tx, tx.inode(ino)) }));
    },

    removeXattr: (request, context) =>
      changeInode(
        context,
        request,
        "read",
        (tx) => removeXattr(tx, tx.inode(request.ino), request.name),
      ),

    statfs: (_request, context) => {
      callerOf(context);
      const { totalBytes, freeBytes } = registry.space();
      // What a user can store: every byte is kept `replication` times.
      const { replication } = options;
      return {
        totalBytes: Math.floor(totalBytes / replication),
        freeBytes: Math.floor(freeBytes / replication),
        files: namespace.totals.get("inodes"),
        blockBytes,
      };
    },

    sync: async ({ ino }, context) => {
      callerOf(context);
      await namespace.change((tx) => {
        if (ino !== undefined) tx.inode(ino);
      }, true);
      return { ok: true };
    },

    status: (_request, context) => {
      callerOf(context);
      return options.status.report();
    },
  };
  const isRepeated = (retry: RetryTag, context: CallContext) => retries.isKnown(callerOf(context), retry);
  return options.room?.guard(handlers, isRepeated) ?? handlers;
}
