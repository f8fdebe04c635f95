/**
 * The nameserver's service for clients: unpacks a request, asks the leaseserver what must be recalled first, runs the
 * operation, and puts the reply together. Operations that have to wait for a recall wait before their transaction,
 * and look again afterwards.
 */

import { FsError } from "../../wire/errno.ts";
import { EMPTY_BYTES } from "../../base/bytes.ts";
import { type InodeId, type SessionId, type VolumeId } from "../../wire/ids.ts";
import { type Block, type InodeReply, S_IFLNK, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import {
  type CreateRequest,
  NAMESERVER,
  type OpenReply,
  type ReadDirectoryReply,
  type RemoveReply,
  type RetryTag,
} from "../../wire/messages/nameserver.ts";
import type { CallContext, Handlers } from "../../wire/service.ts";
import type { Leaseserver } from "../leaseserver/leaseserver.ts";
import { allocateBlock, extendBlock, markWritten, punchExtents, regularFile } from "./block_operations.ts";
import type { BlockRecovery } from "./block_recovery.ts";
import { directory, findEntry } from "./entries.ts";
import { extentAt, extentsIn } from "./extents.ts";
import { fieldRange, getU64, TABLE_ORDER } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import * as operations from "./operations.ts";
import { attributesOf, decodeOrder, type Extent, type InodeRecord, isDirectory } from "./records.ts";
import type { Registry } from "./registry.ts";
import { Retries } from "./retries.ts";
import type { StatusReporter } from "./status_reporter.ts";
import type { Transaction } from "./transaction.ts";
import { getXattr, listXattrs, removeXattr, setXattr } from "./xattrs.ts";

/** Blocks in an open reply, and in one page of the block map. */
const OPEN_BLOCKS = 64;
const PAGE_BLOCKS = 256;
const ENTRIES_MAX = 4096;

export interface ClientServiceOptions {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly leaseserver: Leaseserver;
  readonly recovery: BlockRecovery;
  readonly status: StatusReporter;
  readonly blockBytes: number;
  readonly replication: number;
}

export function clientHandlers(options: ClientServiceOptions): Handlers<typeof NAMESERVER> {
  const { namespace, registry, leaseserver, blockBytes } = options;
  const { leases, sessions } = leaseserver;
  const retries = new Retries(namespace.journal);

  const sessionOf = ({ peer }: CallContext): SessionId => sessions.of(peer);
  const callerOf = ({ peer }: CallContext): SessionId => sessions.ofOrNone(peer);

  const replyOf = (inode: InodeRecord, session: SessionId): InodeReply => {
    const reply = { attributes: attributesOf(inode), lease: leases.lease(inode.ino, session) };
    return (inode.mode & S_IFMT) === S_IFLNK ? { ...reply, target: inode.target } : reply;
  };

  const blockOf = (extent: Extent): Block => ({
    id: extent.block,
    generation: extent.generation,
    start: extent.start,
    length: extent.length,
    written: extent.written,
    replicas: extent.volumes.map((volume) => registry.location(volume)),
  });

  const openReplyOf = (tx: Transaction, inode: InodeRecord, session: SessionId): OpenReply => {
    const extents = (inode.mode & S_IFMT) === S_IFREG
      ? extentsIn(tx, inode, 0, Infinity, OPEN_BLOCKS + 1)
      : [];
    return {
      ...replyOf(inode, session),
      blocks: extents.slice(0, OPEN_BLOCKS).map(blockOf),
      blocksComplete: extents.length <= OPEN_BLOCKS,
    };
  };

  /** Another session's buffered size and times come in before anybody looks. */
  const lookAt = async <T>(
    ino: InodeId,
    session: SessionId,
    operation: (tx: Transaction) => T,
  ): Promise<T> => {
    const wait = leases.settle(ino, session);
    if (wait !== undefined) await wait;
    return await namespace.look(operation);
  };

  /** A change of one inode that others may cache. */
  const changeInode = (
    context: CallContext,
    request: { readonly ino: InodeId; readonly retry: RetryTag },
    operation: (tx: Transaction) => InodeRecord,
    durable = false,
  ): Promise<InodeReply> => {
    const session = sessionOf(context);
    return retries.once(
      session,
      request.retry,
      async (record) => {
        const wait = leases.beforeChange(request.ino, session);
        if (wait !== undefined) await wait;
        return await namespace.change((tx) => {
          const inode = operation(tx);
          record(tx, inode.ino);
          return replyOf(inode, session);
        }, durable);
      },
      () => namespace.change((tx) => replyOf(tx.inode(request.ino), session), durable),
    );
  };

  /** Who else holds open what is about to lose its name; asks before the change, holding nothing. */
  const openElsewhere = async (
    parent: InodeId,
    name: Uint8Array,
    session: SessionId,
  ): Promise<{ ino: InodeId | undefined; open: SessionId[]; asked: readonly SessionId[] }> => {
    const target = await namespace.look((tx) => operations.removalTarget(tx, parent, name));
    if (target === undefined || isDirectory(target)) return { ino: target?.ino, open: [], asked: [] };
    const asked = leases.otherHolders(target.ino, session);
    const open = asked.length === 0 ? [] : await leases.askOpen(target.ino, asked);
    // Sessions that have not yet told what they hold since a restart may hold it.
    return { ino: target.ino, open: [...open, ...sessions.unreclaimed(session)], asked };
  };

  /**
   * Runs a change that may take the last name of an inode: `attempt` gets the sessions that hold it open, and says
   * by "again" that another inode has taken its place meanwhile.
   */
  const withOpenHolders = async <T>(
    parent: InodeId,
    name: Uint8Array,
    session: SessionId,
    attempt: (ino: InodeId | undefined, open: readonly SessionId[]) => Promise<T | "again">,
  ): Promise<T> => {
    for (let tries = 0; tries < 100; tries++) {
      const { ino, open, asked } = await openElsewhere(parent, name, session);
      const isAskedAll = ino === undefined ||
        leases.otherHolders(ino, session).every((holder) => asked.includes(holder));
      if (!isAskedAll) continue; // somebody opened it since
      const isOpenHere = ino !== undefined && leases.holds(ino, session);
      const result = await attempt(ino, isOpenHere ? [...open, session] : open);
      if (result !== "again") return result;
    }
    throw new FsError("EAGAIN", "the name changes faster than its holders can be asked");
  };

  /** The inode may have lost its last name: it is an orphan of those that hold it open, or gone. */
  const afterRemoval = (inode: InodeRecord, open: readonly SessionId[]): void => {
    if (inode.nlink > 0) return;
    if (open.length > 0) namespace.noteOrphan(inode.ino, open);
    else leases.forget(inode.ino);
  };

  const openExisting = async (ino: InodeId, write: boolean, session: SessionId): Promise<OpenReply> => {
    await leases.open(ino, session, write);
    try {
      return await lookAt(ino, session, (tx) => openReplyOf(tx, tx.inode(ino), session));
    } catch (error) {
      leases.release(session, [ino]);
      throw error;
    }
  };

  const create = async (
    request: CreateRequest,
    session: SessionId,
    record: (tx: Transaction, ino: number) => void,
  ): Promise<OpenReply & { readonly created: boolean }> => {
    const { parent, name, credentials, mode, exclusive, write } = request;
    const made = await namespace.change((tx) => {
      directory(tx, parent);
      const existing = findEntry(tx, parent, name);
      if (existing !== undefined) {
        if (exclusive) throw new FsError("EEXIST", "the name is taken");
        const inode = tx.inode(existing.ino);
        if (isDirectory(inode)) throw new FsError("EISDIR", "a directory has that name");
        if ((inode.mode & S_IFMT) === S_IFLNK) throw new FsError("ELOOP", "a symlink has that name");
        return { existing: inode.ino };
      }
      const inode = operations.make(tx, parent, name, {
        credentials,
        mode: S_IFREG | (mode & 0o7777),
        rdev: 0,
        target: EMPTY_BYTES,
      });
      record(tx, inode.ino);
      // Nobody else can know the inode yet, so this grants at once.
      void leases.open(inode.ino, session, write);
      return { reply: openReplyOf(tx, inode, session) };
    });
    if ("reply" in made) return { ...made.reply!, created: true };
    return { ...await openExisting(made.existing!, write, session), created: false };
  };

  return {
    lookup: async ({ parent, name }, context) => {
      const session = callerOf(context);
      const inode = await namespace.look((tx) => operations.lookup(tx, parent, name));
      const wait = leases.settle(inode.ino, session);
      if (wait === undefined) return replyOf(inode, session);
      await wait;
      return await namespace.look((tx) => replyOf(operations.lookup(tx, parent, name), session));
    },

    getattr: ({ ino }, context) => {
      const session = callerOf(context);
      return lookAt(ino, session, (tx) => replyOf(tx.inode(ino), session));
    },

    setattr: (request, context) =>
      changeInode(context, request, (tx) => operations.setAttributes(tx, request)),

    make: (request, context) => {
      const session = sessionOf(context);
      const { parent, name, credentials, mode } = request;
      return retries.once(
        session,
        request.retry,
        (record) =>
          namespace.change((tx) => {
            const what = {
              credentials,
              mode,
              rdev: request.rdev ?? 0,
              target: request.target ?? EMPTY_BYTES,
            };
            const inode = operations.make(tx, parent, name, what);
            record(tx, inode.ino);
            return replyOf(inode, session);
          }),
        ({ ino }) => namespace.look((tx) => replyOf(tx.inode(ino as InodeId), session)),
      );
    },

    create: (request, context) => {
      const session = sessionOf(context);
      return retries.once(
        session,
        request.retry,
        (record) => create(request, session, record),
        async ({ ino }) => ({ ...await openExisting(ino as InodeId, request.write, session), created: true }),
      );
    },

    remove: (request, context) => {
      const session = sessionOf(context);
      const { parent, name } = request;
      return retries.once<RemoveReply>(
        session,
        request.retry,
        (record) =>
          withOpenHolders(parent, name, session, (asked, open) =>
            namespace.change((tx) => {
              if (findEntry(tx, parent, name)?.ino !== asked) return "again";
              const inode = operations.remove(tx, parent, name, request.directory, open);
              record(tx, inode.ino);
              afterRemoval(inode, open);
              return { ino: inode.ino, nlink: inode.nlink };
            })),
        ({ ino }) =>
          namespace.look((tx) => ({ ino: ino as InodeId, nlink: tx.findInode(ino as InodeId)?.nlink ?? 0 })),
      );
    },

    rename: (request, context) => {
      const session = sessionOf(context);
      const { parent, name, newParent, newName, flags } = request;
      return retries.once(
        session,
        request.retry,
        (record) =>
          withOpenHolders(newParent, newName, session, (asked, open) =>
            namespace.change((tx) => {
              if (findEntry(tx, newParent, newName)?.ino !== asked) return "again";
              const { inode, replaced } = operations.rename(
                tx,
                parent,
                name,
                newParent,
                newName,
                flags,
                open,
              );
              record(tx, inode.ino, replaced?.ino);
              if (replaced === undefined) return { ino: inode.ino };
              afterRemoval(replaced, open);
              return { ino: inode.ino, replaced: { ino: replaced.ino, nlink: replaced.nlink } };
            })),
        ({ ino, other }) =>
          namespace.look((tx) => {
            if (other === 0) return { ino: ino as InodeId };
            const nlink = tx.findInode(other as InodeId)?.nlink ?? 0;
            return { ino: ino as InodeId, replaced: { ino: other as InodeId, nlink } };
          }),
      );
    },

    link: (request, context) =>
      changeInode(context, request, (tx) => operations.link(tx, request.ino, request.parent, request.name)),

    open: ({ ino, write }, context) => openExisting(ino, write, sessionOf(context)),

    blocks: ({ ino, offset, length }, context) =>
      lookAt(ino, callerOf(context), (tx) => {
        const inode = regularFile(tx, ino);
        const end = offset + length;
        const extents = extentsIn(tx, inode, offset, end, PAGE_BLOCKS);
        const last = extents.at(-1);
        const isWhole = extents.length < PAGE_BLOCKS || last === undefined;
        return { blocks: extents.map(blockOf), end: isWhole ? end : last.start + last.length };
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
            return { block: blockOf(extent) };
          }),
        () =>
          namespace.look((tx) => {
            const extent = extentAt(tx, regularFile(tx, ino), offset);
            if (extent === undefined) throw new FsError("EAGAIN", "the block was dropped again");
            return { block: blockOf(extent) };
          }),
      );
    },

    commit: (request, context) =>
      changeInode(context, request, (tx) => {
        const inode = regularFile(tx, request.ino);
        tx.change(inode);
        operations.grow(tx, inode, request.size);
        markWritten(tx, inode, request.written);
        if (request.killSuidGid) operations.killSuidGid(inode);
        inode.mtime = request.mtime;
        inode.ctime = tx.now;
        return inode;
      }, request.durable),

    replicaFailed: async (request, context) => {
      sessionOf(context);
      const { ino, start, generation, failed } = request;
      const extent = await options.recovery.replicasFailed(ino, start, request.block, generation, failed);
      return { block: blockOf(extent) };
    },

    punch: (request, context) =>
      changeInode(context, request, (tx) => {
        const inode = regularFile(tx, request.ino);
        punchExtents(tx, inode, request.offset, request.offset + request.length);
        return inode;
      }),

    readDirectory: async ({ ino, cookie, limit, withInodes }, context): Promise<ReadDirectoryReply> => {
      const session = callerOf(context);
      const parent = await namespace.look((tx) => directory(tx, ino).parent);
      const count = Math.min(Math.max(1, limit), ENTRIES_MAX);
      const range = fieldRange(TABLE_ORDER, ino, cookie + 1, Number.MAX_SAFE_INTEGER + 1);
      const records = await namespace.journal.scan(range, count);
      const listed = records.map(([key, value]) => ({ ...decodeOrder(value), cookie: getU64(key, 9) }));
      const end = records.length < count;
      if (!withInodes) return { parent, entries: listed, end };
      for (const entry of listed) {
        const wait = leases.settle(entry.ino, session);
        if (wait !== undefined) await wait;
      }
      return await namespace.look((tx) => ({
        parent,
        end,
        entries: listed.map((entry) => {
          const inode = tx.findInode(entry.ino);
          return inode === undefined ? entry : { ...entry, inode: replyOf(inode, session) };
        }),
      }));
    },

    setXattr: (request, context) =>
      changeInode(
        context,
        request,
        (tx) => setXattr(tx, tx.inode(request.ino), request.name, request.value, request.flags),
      ),

    getXattr: ({ ino, name }) => namespace.look((tx) => ({ value: getXattr(tx, tx.inode(ino), name) })),

    listXattrs: ({ ino }) => namespace.look((tx) => ({ names: listXattrs(tx, tx.inode(ino)) })),

    removeXattr: (request, context) =>
      changeInode(context, request, (tx) => removeXattr(tx, tx.inode(request.ino), request.name)),

    statfs: () => {
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

    sync: async () => {
      await namespace.change(() => {}, true);
      return { ok: true };
    },

    status: () => options.status.report(),
  };
}
