/**
 * Opening files for clients, by inode and by name: the lease and the blocks that an open brings, and the file itself where
 * it is to be made.
 * Invariant: whoever opens a file that has lost its last name keeps it, as who had it open when it lost it.
 */

import { EMPTY_BYTES } from "../../base/bytes.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { InodeId, SessionId, VolumeId } from "../../wire/ids.ts";
import { type LeaseMode, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import type { AcquireReply, CreateRequest, EntryReply, NAMESERVER } from "../../wire/messages/nameserver.ts";
import type { Handlers } from "../../wire/service.ts";
import { allocateBlock, regularFile } from "./block_operations.ts";
import type { ClientServiceParts } from "./client_parts.ts";
import { findEntry } from "./entries.ts";
import { refuseIfImmutable } from "./inode_flags.ts";
import { writerKey } from "./keys.ts";
import * as operations from "./operations.ts";
import { type InodeRecord, isDirectory } from "./records.ts";
import { changesOf, nameItem } from "./replies.ts";
import type { Transaction } from "./transaction.ts";
import { makeUnnamed } from "./unnamed_files.ts";

const READ = 4;
const WRITE = 2;

type Created = EntryReply & AcquireReply & { readonly created: boolean };

export function openHandlers(
  parts: ClientServiceParts,
): Pick<Handlers<typeof NAMESERVER>, "create" | "createUnnamed" | "acquire"> {
  const { namespace, registry, retries, replies, blockBytes, replication, inlineLimit = 0 } = parts;
  const { leases, sessions } = parts.leaseserver;

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
      const show = (tx: Transaction): T => {
        const inode = regularFile(tx, ino);
        if (mode === "write") refuseIfImmutable(inode);
        isOrphan = inode.nlink === 0;
        return replyOf(tx, inode, isShared);
      };
      // Who may write is on disk before it does, so that a restarted server fences what it left.
      const reply = mode === "read" ? namespace.look(show) : namespace.change((tx) => {
        tx.put(writerKey(session, ino), EMPTY_BYTES);
        return show(tx);
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
      return { ...replies.acquired(tx, inode, session, isShared), directory };
    });

  const create = async (
    request: CreateRequest,
    session: SessionId,
    record: (tx: Transaction, ino: number) => void,
  ): Promise<Created> => {
    const { parent } = request;
    for (let tries = 0; tries < 100; tries++) {
      if (leases.isExclusiveOfOther(parent, session)) await leases.settleNames(parent, session);
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
  ): Promise<Created> => {
    const { parent, name, credentials, mode, umask = 0, write, host } = request;
    return leases.change(session, [nameItem(parent, name)], () =>
      namespace.change((tx) => {
        const what = { credentials, mode: S_IFREG | (mode & 0o7777), umask, rdev: 0, target: EMPTY_BYTES };
        const inode = operations.make(tx, parent, name, what);
        if (write && host !== undefined) allocateFirst(tx, inode, host);
        record(tx, inode.ino);
        if (write) {
          leases.grantWrite(inode.ino, session);
          tx.put(writerKey(session, inode.ino), EMPTY_BYTES);
        }
        const reply = replies.acquired(tx, inode, session, false);
        const directories = changesOf(tx, parent);
        const directory = replies.names(parent, session, request.wantsDirectory);
        return { ...reply, directories, directory, created: true };
      }));
  };

  /** The file that creat(2) opens instead of making one; undefined when there is none. */
  const openable = (tx: Transaction, request: CreateRequest): InodeId | undefined => {
    const { parent, name, exclusive } = request;
    const inode = operations.lookup(tx, parent, name);
    if (inode === undefined) return undefined;
    if (exclusive) throw new FsError("EEXIST", "the name is taken");
    if (isDirectory(inode)) throw new FsError("EISDIR", "a directory has that name");
    // The kernel saw no such name, so that it has not asked what the caller may do with the file: it looks again, and opens it,
    // or what a symlink leads to.
    if ((inode.mode & S_IFMT) !== S_IFREG || !mayCertainlyOpen(inode, request)) {
      throw new FsError("ESTALE", "another has made something of that name meanwhile");
    }
    return inode.ino;
  };

  /**
   * The first block of a new file, whose maker is about to write it; when there is no room the write will say so. Where it may
   * turn out to need none it has to be asked for.
   */
  const allocateFirst = (tx: Transaction, inode: InodeRecord, host: string): void => {
    if (inlineLimit > 0) return;
    let volumes: VolumeId[];
    try {
      volumes = registry.place(inode.replication || replication, host, []);
    } catch {
      return;
    }
    allocateBlock(tx, inode, 0, blockBytes, () => volumes);
  };

  return {
    create: (request, context) => {
      const session = sessions.of(context.peer);
      return retries.once(
        session,
        request.retry,
        (record) => create(request, session, record),
        async ({ ino }) => ({ ...await acquireNamed(ino as InodeId, request, session), created: true }),
      );
    },

    createUnnamed: (request, context) => {
      const session = sessions.of(context.peer);
      const { parent, credentials, mode, umask = 0, linkable, host } = request;
      return retries.once<AcquireReply>(
        session,
        request.retry,
        (record) =>
          leases.change(session, [], () =>
            namespace.change((tx) => {
              const what = {
                credentials,
                mode: S_IFREG | (mode & 0o7777),
                umask,
                rdev: 0,
                target: EMPTY_BYTES,
              };
              const inode = makeUnnamed(tx, parent, what, linkable, session);
              if (host !== undefined) allocateFirst(tx, inode, host);
              record(tx, inode.ino);
              leases.grantWrite(inode.ino, session);
              tx.put(writerKey(session, inode.ino), EMPTY_BYTES);
              namespace.noteOrphan(inode.ino, [session]);
              return replies.acquired(tx, inode, session, false);
            })),
        ({ ino }) =>
          acquireWith(
            ino as InodeId,
            "write",
            session,
            undefined,
            (tx, inode, isShared) => replies.acquired(tx, inode, session, isShared),
          ),
      );
    },

    acquire: ({ ino, mode }, context) => {
      const session = sessions.of(context.peer);
      return acquireWith(
        ino,
        mode,
        session,
        context.signal,
        (tx, inode, isShared) => replies.acquired(tx, inode, session, isShared),
      );
    },
  };
}

/** Whatever groups the caller has. */
function mayCertainlyOpen(inode: InodeRecord, { credentials, write }: CreateRequest): boolean {
  const { mode, uid, hasXattrs } = inode;
  if (credentials.uid === 0) return true;
  const wanted = write ? READ | WRITE : READ; // whether a writer reads as well is not told
  if (hasXattrs) return false; // an ACL may be among them
  const allowed = credentials.uid === uid ? mode >> 6 : (mode >> 3) & mode;
  return (allowed & wanted) === wanted;
}
