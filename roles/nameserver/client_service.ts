/**
 * The nameserver's service for clients: unpacks a request, asks the leaseserver what must be recalled first, runs the
 * operation, and puts the reply together. Operations that have to wait for a recall wait before their transaction,
 * and look again afterwards.
 * Invariant: what a reply lets its receiver cache is decided in the same synchronous step in which it was seen.
 */

import { FsError, isErrno } from "../../wire/errno.ts";
import { EMPTY_BYTES } from "../../base/bytes.ts";
import { timespecCompare } from "../../base/clock.ts";
import { type InodeId, type SessionId, type VolumeId } from "../../wire/ids.ts";
import {
  type Block,
  type InodeReply,
  type LeaseMode,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "../../wire/messages/inode.ts";
import {
  type AcquireReply,
  type CreateRequest,
  type DirectoryChange,
  type EntryReply,
  NAMESERVER,
  type ReadDirectoryReply,
  type RecallItem,
  type Removed,
  type RemoveReply,
  type RenameReply,
  type RetryTag,
} from "../../wire/messages/nameserver.ts";
import type { CallContext, Handlers } from "../../wire/service.ts";
import type { Own } from "../leaseserver/leases.ts";
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
/** Files of so many blocks bring them along wherever they are shown. */
const SMALL_BLOCKS = 1;
/** Readings of a directory that changes under them before one is handed out that may not be kept. */
const STEADY_TRIES = 3;

export interface ClientServiceOptions {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly leaseserver: Leaseserver;
  readonly recovery: BlockRecovery;
  readonly status: StatusReporter;
  readonly blockBytes: number;
  readonly replication: number;
}

/** As the directories are after this transaction's change of their names. */
function changesOf(tx: Transaction, ...inodes: readonly InodeId[]): DirectoryChange[] {
  return [...new Set(inodes)].map((ino) => {
    const { version, nlink, mtime } = tx.inode(ino);
    return { ino, version, nlink, mtime };
  });
}

/** The name changes, and with it the directory's listing and attributes. */
function nameItem(parent: InodeId, name: Uint8Array): RecallItem {
  return { ino: parent, keep: "read", names: [name] };
}

export function clientHandlers(options: ClientServiceOptions): Handlers<typeof NAMESERVER> {
  const { namespace, registry, leaseserver, blockBytes } = options;
  const { leases, sessions } = leaseserver;
  const retries = new Retries(namespace.journal);

  const sessionOf = ({ peer }: CallContext): SessionId => sessions.of(peer);
  /** Every request renews the session that it comes from, as its client counts on that. */
  const callerOf = ({ peer }: CallContext): SessionId => sessions.ofOrNone(peer);

  const replyOf = (inode: InodeRecord, session: SessionId, own?: Own): InodeReply => {
    const reply = { attributes: attributesOf(inode), lease: leases.lease(inode.ino, session, own) };
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

  /** As replyOf, and of a small file its blocks, so that it can be read without another question. */
  const wholeReplyOf = (
    tx: Transaction,
    inode: InodeRecord,
    session: SessionId,
    own?: Own,
  ): InodeReply => {
    const reply = replyOf(inode, session, own);
    if ((inode.mode & S_IFMT) !== S_IFREG || reply.lease === "none" || inode.pages.length > 1) return reply;
    const extents = extentsIn(tx, inode, 0, Infinity, SMALL_BLOCKS + 1);
    return extents.length > SMALL_BLOCKS ? reply : { ...reply, blocks: extents.map(blockOf) };
  };

  const acquireReplyOf = (
    tx: Transaction,
    inode: InodeRecord,
    session: SessionId,
    isShared: boolean,
  ): AcquireReply => {
    const extents = extentsIn(tx, inode, 0, Infinity, OPEN_BLOCKS + 1);
    return {
      ...replyOf(inode, session, "turn"),
      blocks: extents.slice(0, OPEN_BLOCKS).map(blockOf),
      blocksComplete: extents.length <= OPEN_BLOCKS,
      isShared,
    };
  };

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
            if (write) leases.grantWrite(ino, session);
            return replyOf(inode, session, "turn");
          }, durable)),
      () => namespace.change((tx) => replyOf(tx.inode(ino), session), durable),
    );
  };

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
   * Runs a change that may take the last name of an inode: `attempt` gets the sessions that hold it open, and says
   * by "again" that something else is under the name by now.
   */
  const removing = async <T>(
    request: { readonly parent: InodeId; readonly name: Uint8Array; readonly removed?: Removed },
    session: SessionId,
    more: (target: InodeRecord | undefined) => readonly RecallItem[],
    attempt: (openIn: readonly SessionId[], isSame: (tx: Transaction) => boolean) => Promise<T | "again">,
  ): Promise<T> => {
    const { parent, name, removed } = request;
    for (let tries = 0; tries < 100; tries++) {
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
          const isOpenHere = isLast && leases.isOpenIn(target.ino, session);
          return attempt(isOpenHere ? [...openIn, session] : openIn, isSame);
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
    else leases.forget(inode.ino);
  };

  /** `replyOf` runs in the turn; whoever opens a file that lost its last name meanwhile keeps it as well. */
  const acquireWith = <T>(
    ino: InodeId,
    mode: "read" | "write",
    session: SessionId,
    signal: AbortSignal | undefined,
    replyOf: (tx: Transaction, inode: InodeRecord, isShared: boolean) => T,
  ): Promise<T> => {
    const look = async (isShared: boolean): Promise<T> => {
      let isOrphan = false;
      const reply = namespace.look((tx) => {
        const inode = regularFile(tx, ino);
        isOrphan = inode.nlink === 0;
        return replyOf(tx, inode, isShared);
      });
      if (!isOrphan) return reply;
      return (await Promise.all([reply, namespace.keepOrphan(session, ino)]))[0];
    };
    return leases.acquire(ino, session, mode, look, signal);
  };

  /** Of what was found under a name; the name may lead elsewhere by the time of its turn. */
  const acquireNamed = (
    ino: InodeId,
    { parent, name, write }: CreateRequest,
    session: SessionId,
  ): Promise<AcquireReply & { readonly directory: LeaseMode }> =>
    acquireWith(ino, write ? "write" : "read", session, undefined, (tx, inode, isShared) => {
      const isThere = findEntry(tx, parent, name)?.ino === ino;
      const directory = isThere ? leases.lease(parent, session) : "none";
      return { ...acquireReplyOf(tx, inode, session, isShared), directory };
    });

  const create = async (
    request: CreateRequest,
    session: SessionId,
    record: (tx: Transaction, ino: number) => void,
  ): Promise<EntryReply & AcquireReply & { readonly created: boolean }> => {
    for (let tries = 0; tries < 100; tries++) {
      // What is there is opened, and nobody's names change.
      const existing = await namespace.look((tx) => openable(tx, request));
      try {
        if (existing === undefined) return await makeFile(request, session, record);
        return { ...await acquireNamed(existing, request, session), created: false };
      } catch (error) {
        // Made or removed by another meanwhile.
        const isOvertaken = isErrno(error, existing === undefined ? "EEXIST" : "ENOENT");
        if (!isOvertaken || request.exclusive) throw error;
      }
    }
    throw new FsError("EAGAIN", "the name comes and goes faster than it can be opened");
  };

  const makeFile = (
    request: CreateRequest,
    session: SessionId,
    record: (tx: Transaction, ino: number) => void,
  ): Promise<EntryReply & AcquireReply & { readonly created: boolean }> => {
    const { parent, name, credentials, mode, write, host } = request;
    return leases.change(session, [nameItem(parent, name)], () =>
      namespace.change((tx) => {
        const what = { credentials, mode: S_IFREG | (mode & 0o7777), rdev: 0, target: EMPTY_BYTES };
        const inode = operations.make(tx, parent, name, what);
        if (write && host !== undefined) allocateFirst(tx, inode, host);
        record(tx, inode.ino);
        if (write) leases.grantWrite(inode.ino, session);
        const reply = acquireReplyOf(tx, inode, session, false);
        const directories = changesOf(tx, parent);
        return { ...reply, directories, directory: leases.lease(parent, session, "names"), created: true };
      }));
  };

  /** The file that creat(2) opens instead of making one; undefined when there is none. */
  const openable = (tx: Transaction, { parent, name, exclusive }: CreateRequest): InodeId | undefined => {
    const inode = operations.lookup(tx, parent, name);
    if (inode === undefined) return undefined;
    if (exclusive) throw new FsError("EEXIST", "the name is taken");
    if (isDirectory(inode)) throw new FsError("EISDIR", "a directory has that name");
    if ((inode.mode & S_IFMT) === S_IFLNK) throw new FsError("ELOOP", "a symlink has that name");
    if ((inode.mode & S_IFMT) !== S_IFREG) throw new FsError("EINVAL", "a special file has that name");
    return inode.ino;
  };

  /** The first block of a new file, whose maker is about to write it; when there is no room the write will say so. */
  const allocateFirst = (tx: Transaction, inode: InodeRecord, host: string): void => {
    let volumes: VolumeId[];
    try {
      volumes = registry.place(inode.replication || options.replication, host, []);
    } catch {
      return;
    }
    allocateBlock(tx, inode, 0, blockBytes, () => volumes);
  };

  return {
    lookup: async ({ parent, name }, context) => {
      const session = callerOf(context);
      const find = (tx: Transaction) => operations.lookup(tx, parent, name);
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
            inode: wholeReplyOf(tx, inode, session, own),
            directory: leases.lease(parent, session),
          };
        });
        if (reply !== undefined) return reply;
      }
    },

    getattr: ({ ino }, context) => {
      const session = callerOf(context);
      return lookAt(ino, session, (tx, own) => replyOf(tx.inode(ino), session, own));
    },

    setattr: (request, context) => {
      const isCut = request.size !== undefined;
      const write = isCut && request.write === true;
      const operation = (tx: Transaction) => operations.setAttributes(tx, request);
      return changeInode(context, request, isCut ? "none" : "read", operation, { write });
    },

    make: (request, context) => {
      const session = sessionOf(context);
      const { parent, name, credentials, mode } = request;
      return retries.once<EntryReply>(
        session,
        request.retry,
        (record) =>
          leases.change(session, [nameItem(parent, name)], () =>
            namespace.change((tx) => {
              const what = {
                credentials,
                mode,
                rdev: request.rdev ?? 0,
                target: request.target ?? EMPTY_BYTES,
              };
              const inode = operations.make(tx, parent, name, what);
              record(tx, inode.ino);
              return {
                ...replyOf(inode, session),
                directory: leases.lease(parent, session, "names"),
                directories: changesOf(tx, parent),
              };
            })),
        // By now it may have another name.
        ({ ino }) =>
          namespace.look((tx) => ({ ...replyOf(tx.inode(ino as InodeId), session), directory: "none" })),
      );
    },

    create: (request, context) => {
      const session = sessionOf(context);
      return retries.once(
        session,
        request.retry,
        (record) => create(request, session, record),
        async ({ ino }) => ({ ...await acquireNamed(ino as InodeId, request, session), created: true }),
      );
    },

    remove: (request, context) => {
      const session = sessionOf(context);
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
                return { ino, nlink, directories, directory: leases.lease(parent, session, "names") };
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
      const session = sessionOf(context);
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
        for (let tries = 0; tries < 100; tries++) {
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
                );
                record(tx, inode.ino, replaced?.ino);
                // Two names of one file: nothing has happened.
                if (replaced === undefined && findEntry(tx, parent, name) !== undefined) {
                  return { ino: inode.ino, directory: "none" };
                }
                const here = leases.lease(parent, session, "names");
                const there = leases.lease(newParent, session, "names");
                const reply: RenameReply = {
                  ino: inode.ino,
                  directory: here === "none" ? here : there,
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

    link: async (request, context) => {
      const { ino, parent, name } = request;
      const session = sessionOf(context);
      let directoryLease: LeaseMode = "none";
      let directories: DirectoryChange[] | undefined;
      const operation = (tx: Transaction) => {
        const inode = operations.link(tx, ino, parent, name);
        directoryLease = leases.lease(parent, session, "names");
        directories = changesOf(tx, parent);
        return inode;
      };
      const reply = await changeInode(context, request, "read", operation, {
        more: [nameItem(parent, name)],
      });
      return { ...reply, directory: directoryLease, ...directories === undefined ? {} : { directories } };
    },

    acquire: ({ ino, mode }, context) => {
      const session = sessionOf(context);
      return acquireWith(
        ino,
        mode,
        session,
        context.signal,
        (tx, inode, isShared) => acquireReplyOf(tx, inode, session, isShared),
      );
    },

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

    commit: (request, context) => {
      const session = sessionOf(context);
      const operation = (tx: Transaction) => {
        const inode = regularFile(tx, request.ino);
        tx.change(inode);
        operations.grow(tx, inode, request.size);
        markWritten(tx, inode, request.written);
        if (request.killSuidGid) operations.killSuidGid(inode);
        // As the writer has shown it since: a flush must not look like another change.
        inode.mtime = request.mtime;
        if (timespecCompare(request.mtime, inode.ctime) > 0) inode.ctime = request.mtime;
        return inode;
      };
      if (!leases.mayCommit(request.ino, session)) {
        return changeInode(context, request, "none", operation, { durable: request.durable });
      }
      return retries.once(
        session,
        request.retry,
        (record) =>
          namespace.change((tx) => {
            const inode = operation(tx);
            record(tx, inode.ino);
            return replyOf(inode, session);
          }, request.durable),
        () => namespace.change((tx) => replyOf(tx.inode(request.ino), session), request.durable),
      );
    },

    replicaFailed: async (request, context) => {
      sessionOf(context);
      const { ino, start, generation, failed } = request;
      const extent = await options.recovery.replicasFailed(ino, start, request.block, generation, failed);
      return { block: blockOf(extent) };
    },

    punch: (request, context) =>
      changeInode(context, request, "none", (tx) => {
        const inode = regularFile(tx, request.ino);
        punchExtents(tx, inode, request.offset, request.offset + request.length);
        return inode;
      }),

    readDirectory: async ({ ino, cookie, limit, withInodes }, context): Promise<ReadDirectoryReply> => {
      const session = callerOf(context);
      const count = Math.min(Math.max(1, limit), ENTRIES_MAX);
      const range = fieldRange(TABLE_ORDER, ino, cookie + 1, Number.MAX_SAFE_INTEGER + 1);
      for (let tries = 1;; tries++) {
        const before = await namespace.look((tx) => directory(tx, ino).version);
        const records = await namespace.journal.scan(range, count);
        const listed = records.map(([key, value]) => ({ ...decodeOrder(value), cookie: getU64(key, 9) }));
        const end = records.length < count;
        const reply = await leases.look(
          session,
          withInodes ? listed.map((entry) => entry.ino) : [],
          (own) =>
            namespace.look((tx) => {
              const inode = directory(tx, ino);
              // What changed while it was listed may be missing or gone: then nobody may keep the list.
              const isSteady = inode.version === before;
              if (!isSteady && tries < STEADY_TRIES) return undefined;
              const entries = !withInodes ? listed : listed.map((entry) => {
                const found = tx.findInode(entry.ino);
                if (found === undefined) return entry;
                return { ...entry, inode: wholeReplyOf(tx, found, session, own) };
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
        (tx) => setXattr(tx, tx.inode(request.ino), request.name, request.value, request.flags),
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

    sync: async (_request, context) => {
      callerOf(context);
      await namespace.change(() => {}, true);
      return { ok: true };
    },

    status: (_request, context) => {
      callerOf(context);
      return options.status.report();
    },
  };
}
