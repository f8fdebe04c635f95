/**
 * What the nameserver's replies to clients say of inodes and blocks, and what they let their receiver cache.
 * Invariant: what may be cached is decided in the same synchronous step in which it was seen.
 */

import type { InodeId, SessionId } from "../../wire/ids.ts";
import {
  type Block,
  type InodeReply,
  type LeaseMode,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "../../wire/messages/inode.ts";
import type { AcquireReply, DirectoryChange, RecallItem } from "../../wire/messages/nameserver.ts";
import type { LeaseTable, Own } from "../leaseserver/leases.ts";
import { extentsIn } from "./extents.ts";
import { findInline } from "./inline_data.ts";
import { attributesOf, type Extent, type InodeRecord } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Transaction } from "./transaction.ts";

/** Blocks in the reply to an open. */
const OPEN_BLOCKS = 64;
/** How much data of small files a reply may still bring along. */
export interface InlineRoom {
  bytes: number;
}

/** Files of so many blocks bring them along wherever they are shown. */
const SMALL_BLOCKS = 1;

export class Replies {
  readonly #leases: LeaseTable;
  readonly #registry: Registry;

  constructor(leases: LeaseTable, registry: Registry) {
    this.#leases = leases;
    this.#registry = registry;
  }

  block(extent: Extent): Block {
    return {
      id: extent.block,
      generation: extent.generation,
      start: extent.start,
      length: extent.length,
      written: extent.written,
      ...extent.allocated === undefined ? {} : { allocated: extent.allocated },
      replicas: extent.volumes.map((volume) => this.#registry.location(volume)),
      ...(extent.chosenAt === undefined ? {} : { chosenAt: extent.chosenAt }),
    };
  }

  /** `isWanted`: the session would rather have it alone. */
  inode(inode: InodeRecord, session: SessionId, own?: Own, isWanted = false): InodeReply {
    const lease = isWanted
      ? this.#leases.leaseExclusive(inode.ino, session, own)
      : this.#leases.lease(inode.ino, session, own);
    const reply = { attributes: attributesOf(inode), lease };
    return (inode.mode & S_IFMT) === S_IFLNK ? { ...reply, target: inode.target } : reply;
  }

  /**
   * As `inode`, and of a small file its blocks, or its data if there is `room`, so that it can be read without another
   * question. `wantsFound`: the session would rather have it alone.
   */
  whole(
    tx: Transaction,
    inode: InodeRecord,
    session: SessionId,
    own?: Own,
    { room = { bytes: Infinity }, wantsFound = false }: {
      readonly room?: InlineRoom;
      readonly wantsFound?: boolean | undefined;
    } = {},
  ): InodeReply {
    const reply = this.inode(inode, session, own, wantsFound);
    if ((inode.mode & S_IFMT) !== S_IFREG || reply.lease === "none" || inode.pages.length > 1) return reply;
    if (inode.inlineBytes > 0) {
      if (inode.inlineBytes > room.bytes) return reply;
      room.bytes -= inode.inlineBytes;
      return { ...reply, blocks: [], ...inlineOf(tx, inode) };
    }
    const extents = extentsIn(tx, inode, 0, Infinity, SMALL_BLOCKS + 1);
    return extents.length > SMALL_BLOCKS
      ? reply
      : { ...reply, blocks: extents.map((extent) => this.block(extent)) };
  }

  /** What may be kept of a directory by who changes names of it; `isWanted` as in `inode`. */
  names(parent: InodeId, session: SessionId, isWanted = false): LeaseMode {
    return isWanted
      ? this.#leases.leaseExclusive(parent, session, "names")
      : this.#leases.lease(parent, session, "names");
  }

  /** To who opens the file, within its turn. */
  acquired(tx: Transaction, inode: InodeRecord, session: SessionId, isShared: boolean): AcquireReply {
    const extents = extentsIn(tx, inode, 0, Infinity, OPEN_BLOCKS + 1);
    return {
      ...this.inode(inode, session, "turn"),
      blocks: extents.slice(0, OPEN_BLOCKS).map((extent) => this.block(extent)),
      blocksComplete: extents.length <= OPEN_BLOCKS,
      isShared,
      ...inlineOf(tx, inode),
    };
  }
}

/** The data of a file that has it beside its inode, as it goes into a reply. */
export function inlineOf(tx: Transaction, inode: InodeRecord): { readonly inline?: Uint8Array } {
  const inline = findInline(tx, inode);
  return inline === undefined ? {} : { inline };
}

/** As the directories are after this transaction's change of their names. */
export function changesOf(tx: Transaction, ...inodes: readonly InodeId[]): DirectoryChange[] {
  return [...new Set(inodes)].map((ino) => {
    const { version, nlink, mtime } = tx.inode(ino);
    return { ino, version, nlink, mtime };
  });
}

/** The name changes, and with it the directory's listing and attributes. */
export function nameItem(parent: InodeId, name: Uint8Array): RecallItem {
  return { ino: parent, keep: "read", names: [name] };
}
