/**
 * Changes of names and attributes that a client has made already, under EXCLUSIVE leases, and tells now. They are applied in
 * their order, in one batch, in the step in which they come: who recalls one of those leases waits for them, so they wait
 * for nobody.
 *
 * Invariants:
 * - Nothing is applied to what the session does not have to itself; so nobody else has to give anything up.
 * - If one can't be applied, neither are those after it: they may build upon it.
 */

import { EMPTY_BYTES } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { asInodeId, type BlockId, type InodeId, type SessionId, type VolumeId } from "../../wire/ids.ts";
import {
  DEFERRED_MAX,
  type DeferredChange,
  type DeferredMake,
  type DeferredRemove,
  type DeferredRename,
  type DeferReply,
  RESERVED_BLOCKS_MAX,
  RESERVED_INODES_MAX,
} from "../../wire/messages/deferred.ts";
import { type Block, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import type { DeferRequest, NAMESERVER } from "../../wire/messages/nameserver.ts";
import type { Handlers } from "../../wire/service.ts";
import { TOLD_LATELY } from "../leaseserver/leases.ts";
import { allocateBlock, giveBlock, newExtent } from "./block_operations.ts";
import type { ClientServiceParts } from "./client_parts.ts";
import { extentAt } from "./extents.ts";
import { writerKey } from "./keys.ts";
import * as operations from "./operations.ts";
import { type Extent, type InodeRecord, isDirectory } from "./records.ts";
import type { Transaction } from "./transaction.ts";
import { applyReport } from "./write_reports.ts";

/** The change at this place in its batch can't be applied. */
class Refused extends Error {
  readonly at: number;

  constructor(at: number, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.at = at;
  }
}

/** One batch as it is being applied. */
interface Batch {
  readonly tx: Transaction;
  readonly session: SessionId;
  /** What was made in it, which the session has by that. */
  readonly made: Set<InodeId>;
  /** What is to be done beside the namespace, once all is known to be applied; in order. */
  readonly after: (() => void)[];
  readonly blocks: { readonly ino: InodeId; readonly block: Block }[];
  /** What holds data for the first time. */
  readonly written: Written[];
}

interface Written {
  readonly inode: InodeRecord;
  readonly extent: Extent;
}

export function deferredHandlers(
  parts: ClientServiceParts,
): Pick<Handlers<typeof NAMESERVER>, "defer" | "reserveInodes" | "reserveBlocks"> {
  const {
    namespace,
    registry,
    retries,
    replies,
    lingering,
    repair,
    blockBytes,
    replication,
    room,
    inlineLimit = 0,
  } = parts;
  const { leases, sessions } = parts.leaseserver;
  const { reserved } = namespace;

  const checkOwn = ({ made, session }: Batch, inodes: readonly (InodeId | undefined)[]): void => {
    for (const ino of inodes) {
      if (ino === undefined || made.has(ino) || leases.mayCommit(ino, session)) continue;
      throw new FsError("ESTALE", `inode ${ino} is not the session's alone`);
    }
  };

  const make = (batch: Batch, change: DeferredMake): void => {
    const { tx, session, made, after } = batch;
    const { ino, parent, name, uid, gid, mode, umask, rdev = 0, target = EMPTY_BYTES, write, host, block } =
      change;
    checkOwn(batch, [parent]);
    if (!namespace.ids.hasGiven("inode", ino) || tx.findInode(ino) !== undefined) {
      throw new FsError("EEXIST", `${ino} is no number for a new inode`);
    }
    const what = { credentials: { uid, gid }, mode, umask, rdev, target, ino };
    const inode = operations.make(tx, parent, name, what);
    made.add(ino);
    const isRegular = (mode & S_IFMT) === S_IFREG;
    if (isRegular && block !== undefined) giveReserved(batch, inode, block);
    else if (isRegular && host !== undefined) allocateFirst(batch, inode, host);
    if (write === true) tx.put(writerKey(session, ino), EMPTY_BYTES);
    after.push(() => write === true ? leases.grantWrite(ino, session) : leases.grantExclusive(ino, session));
  };

  /** Undefined where there is no room: the write will say so. */
  const placed = (count: number, host: string): VolumeId[] | undefined => {
    try {
      return registry.place(count, host, []);
    } catch {
      return undefined;
    }
  };

  const allocateFirst = ({ tx, blocks }: Batch, inode: InodeRecord, host: string): void => {
    const volumes = placed(inode.replication || replication, host);
    if (volumes === undefined) return;
    allocateBlock(tx, inode, 0, blockBytes, () => volumes);
    blocks.push({ ino: inode.ino, block: replies.block(extentAt(tx, inode, 0)!) });
  };

  const giveReserved = ({ tx, session, after }: Batch, inode: InodeRecord, block: BlockId): void => {
    // One that was forgotten since has lost what was written there.
    const volumes = reserved.take(tx, session, block).filter((volume) => registry.isKnown(volume));
    if (volumes.length === 0) throw new FsError("EIO", `the volumes of block ${block} are forgotten`);
    giveBlock(tx, inode, { block, volumes }, blockBytes);
    after.push(() => reserved.taken(session, block));
  };

  /** What loses a name is the one that its author saw. */
  const checkTarget = (
    tx: Transaction,
    parent: InodeId,
    name: Uint8Array,
    ino: InodeId | undefined,
  ): void => {
    const now = operations.removalTarget(tx, parent, name)?.ino;
    if (now !== ino) {
      throw new FsError("ESTALE", `the name leads to ${now ?? "nothing"}, not to ${ino ?? "nothing"}`);
    }
  };

  /**
   * Who keeps what loses its last name. Nobody else has a lease on it, but others may have it open from before, and then have
   * said so.
   */
  const holdersOf = (
    { tx, session }: Batch,
    ino: InodeId | undefined,
    { told, held }: { readonly told?: true; readonly held?: true },
  ): readonly SessionId[] => {
    if (ino === undefined || isDirectory(tx.inode(ino))) return [];
    const holders = new Set(leases.openElsewhere(ino, session));
    if (told === true) holders.add(TOLD_LATELY);
    if (held === true) holders.add(session);
    return [...holders];
  };

  /** The inode may have lost its last name. */
  const lose = ({ after, session }: Batch, inode: InodeRecord, holders: readonly SessionId[]): void => {
    if (inode.nlink > 0) return;
    const { ino } = inode;
    after.push(() => {
      if (holders.length === 0) return leases.forget(ino);
      if (holders.includes(session)) leases.noteOpen(ino, session, true);
      namespace.noteOrphan(ino, holders);
      if (holders.includes(TOLD_LATELY)) lingering.add(ino);
    });
  };

  const remove = (batch: Batch, change: DeferredRemove): void => {
    const { tx } = batch;
    const { parent, name, ino } = change;
    checkOwn(batch, [parent, ino]);
    checkTarget(tx, parent, name, ino);
    const holders = holdersOf(batch, ino, change);
    lose(batch, operations.remove(tx, parent, name, change.directory, holders), holders);
  };

  const rename = (batch: Batch, change: DeferredRename): void => {
    const { tx } = batch;
    const { parent, name, newParent, newName, ino, replaced } = change;
    checkOwn(batch, [parent, newParent, ino, replaced]);
    checkTarget(tx, parent, name, ino);
    checkTarget(tx, newParent, newName, replaced);
    const holders = holdersOf(batch, replaced, change);
    const result = operations.rename(tx, parent, name, newParent, newName, 0, holders);
    if (result.replaced !== undefined) lose(batch, result.replaced, holders);
  };

  const apply = (batch: Batch, change: DeferredChange): void => {
    batch.tx.nextOperation(change.time);
    switch (change.kind) {
      case "make":
        return make(batch, change);
      case "link":
        checkOwn(batch, [change.parent, change.ino]);
        operations.link(batch.tx, change.ino, change.parent, change.name);
        return;
      case "remove":
        return remove(batch, change);
      case "rename":
        return rename(batch, change);
      case "report": {
        checkOwn(batch, [change.ino]);
        const { inode, written } = applyReport(batch.tx, change, inlineLimit);
        batch.written.push(...written.map((extent) => ({ inode, extent })));
        return;
      }
      case "access":
        checkOwn(batch, [change.ino]);
        batch.tx.change(batch.tx.inode(change.ino)).atime = change.time;
        return;
      case "setattr": {
        checkOwn(batch, [change.ino]);
        const { ino, mode, uid, gid, atime, mtime } = change;
        operations.setAttributes(batch.tx, {
          ino,
          retry: NO_TAG,
          ...mode === undefined ? {} : { mode },
          ...uid === undefined ? {} : { uid },
          ...gid === undefined ? {} : { gid },
          ...atime === undefined ? {} : { atime },
          ...mtime === undefined ? {} : { mtime },
        });
        return;
      }
    }
  };

  const applyAll = async (
    { changes }: DeferRequest,
    session: SessionId,
    record: (tx: Transaction, applied: number) => void,
  ): Promise<DeferReply> => {
    let count = changes.length;
    let refusal: string | undefined;
    for (;;) {
      try {
        const written: Written[] = [];
        const reply = await namespace.change<DeferReply>((tx) => {
          const batch: Batch = { tx, session, made: new Set(), after: [], blocks: [], written };
          for (let i = 0; i < count; i++) {
            try {
              apply(batch, changes[i]!);
            } catch (error) {
              throw new Refused(i, error);
            }
          }
          record(tx, count);
          for (const run of batch.after) run();
          return {
            applied: count,
            ...refusal === undefined ? {} : { refusal },
            ...batch.blocks.length === 0 ? {} : { blocks: batch.blocks },
            ...room?.isNearlyFull === true ? { isFull: true } : {},
          };
        });
        // A file that was made in the batch is not there before.
        for (const { inode, extent } of written) repair.blockWritten(inode, extent);
        return reply;
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        // What comes before it is applied by itself.
        count = error.at;
        refusal = error.message;
      }
    }
  };

  return {
    defer: (request, context) => {
      const session = sessions.of(context.peer);
      const { changes, retry } = request;
      if (changes.length > DEFERRED_MAX) throw new FsError("EPROTO", `${changes.length} changes at once`);
      return retries.once<DeferReply>(
        session,
        retry,
        (record) => applyAll(request, session, record),
        ({ ino: applied }) => ({ applied }),
      );
    },

    reserveInodes: async ({ count }, context) => {
      sessions.of(context.peer);
      if (!(count > 0 && count <= RESERVED_INODES_MAX)) {
        throw new FsError("EPROTO", `${count} inodes at once`);
      }
      const first = await namespace.change(({ ids }) => ids.take("inode", count));
      return { first: asInodeId(first), count };
    },

    reserveBlocks: async ({ count, host, unused }, context) => {
      const session = sessions.of(context.peer);
      if (!(count > 0 && count <= RESERVED_BLOCKS_MAX)) {
        throw new FsError("EPROTO", `${count} blocks at once`);
      }
      if (!Array.isArray(unused)) throw new FsError("EPROTO", "unused blocks are no list");
      const given = await reserved.reserve(session, count, unused, () => placed(replication, host));
      const extents = given.map(({ block, volumes }) =>
        newExtent(namespace.ids, block, 0, blockBytes, volumes)
      );
      return { blocks: extents.map((extent) => replies.block(extent)) };
    },
  };
}

/** The batch has one. */
const NO_TAG = { slot: 0, sequence: 0 };
