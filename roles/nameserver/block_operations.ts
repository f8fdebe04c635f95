/**
 * Operations on a file's blocks: allocate, mark written, change replicas, cut and drop. Each change of the block
 * map changes the replica index in the same batch, and leaves a deletion for each replica that lost its block.
 * Invariant: (volume, block) is in the replica index exactly when the block's extent lists the volume.
 */

import { FsError } from "../../wire/errno.ts";
import {
  asBlockId,
  asGeneration,
  type BlockId,
  type Generation,
  type InodeId,
  type VolumeId,
} from "../../wire/ids.ts";
import { allocatedOf, FILE_BYTES_MAX, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import {
  extentAt,
  extentBefore,
  extentsIn,
  insertExtent,
  nextStart,
  removeExtent,
  replaceExtent,
} from "./extents.ts";
import type { IdAllocator } from "./id_allocator.ts";
import { deletionKey, replicaKey } from "./keys.ts";
import { encodeNumbers, encodeReplica, type Extent, type InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

export const ANY_GENERATION = asGeneration(Number.MAX_SAFE_INTEGER);

/** The regular file; EINVAL for anything else. */
export function regularFile(tx: Transaction, ino: InodeId): InodeRecord {
  const inode = tx.inode(ino);
  if ((inode.mode & S_IFMT) !== S_IFREG) throw new FsError("EINVAL", `inode ${ino} is not a regular file`);
  return inode;
}

/** The extent a new block at `offset` may take: the grid cell of `blockBytes`, clipped by its neighbours. */
function freeRange(
  tx: Transaction,
  inode: InodeRecord,
  offset: number,
  blockBytes: number,
): [number, number] {
  const cell = Math.floor(offset / blockBytes) * blockBytes;
  const before = extentBefore(tx, inode, offset);
  const start = before === undefined ? cell : Math.max(cell, before.start + before.length);
  const end = Math.min(cell + blockBytes, nextStart(tx, inode, offset), FILE_BYTES_MAX);
  return [start, end];
}

/** A block over the hole at `offset` with replicas on `volumes`; the one that is there if there is one. */
export function allocateBlock(
  tx: Transaction,
  inode: InodeRecord,
  offset: number,
  blockBytes: number,
  volumes: () => readonly VolumeId[],
): Extent {
  if (offset < 0 || offset >= FILE_BYTES_MAX) throw new FsError("EFBIG", `offset ${offset}`);
  const existing = extentAt(tx, inode, offset);
  if (existing !== undefined) return existing;
  const [start, end] = freeRange(tx, inode, offset, blockBytes);
  return insertBlock(tx, inode, asBlockId(tx.ids.next("block")), start, end - start, volumes());
}

/** A new file's first block, which was reserved for it (reserved_blocks.ts). */
export function giveBlock(
  tx: Transaction,
  inode: InodeRecord,
  { block, volumes }: { readonly block: BlockId; readonly volumes: readonly VolumeId[] },
  blockBytes: number,
): void {
  insertBlock(tx, inode, block, 0, blockBytes, volumes);
}

/** Of a block that nobody has written to. */
export function newExtent(
  ids: IdAllocator,
  block: BlockId,
  start: number,
  length: number,
  volumes: readonly VolumeId[],
): Extent {
  const generation = ids.generationAfter(0);
  return { block, start, length, generation, written: false, allocated: 0, volumes };
}

function insertBlock(
  tx: Transaction,
  inode: InodeRecord,
  block: BlockId,
  start: number,
  length: number,
  volumes: readonly VolumeId[],
): Extent {
  const extent = newExtent(tx.ids, block, start, length, volumes);
  tx.change(inode);
  insertExtent(tx, inode, extent);
  tx.count("blocks", 1);
  addReplicas(tx, inode.ino, extent, extent.volumes);
  return extent;
}

/**
 * Lets a block that a truncate had cut short cover `offset` again, if it is still as the caller saw it: its
 * replicas were truncated to the extent's length, so nothing old shows. Otherwise undefined.
 */
export function extendBlock(
  tx: Transaction,
  inode: InodeRecord,
  offset: number,
  block: BlockId,
  blockBytes: number,
): Extent | undefined {
  const before = extentBefore(tx, inode, offset);
  if (before === undefined || before.block !== block || offset < before.start + before.length) {
    return undefined;
  }
  const cell = Math.floor(before.start / blockBytes) * blockBytes;
  const end = Math.min(cell + blockBytes, nextStart(tx, inode, offset));
  if (offset >= end) return undefined;
  tx.change(inode);
  const extended = { ...before, length: end - before.start };
  replaceExtent(tx, inode, extended);
  return extended;
}

/**
 * The blocks hold data from now on: reads of them ask the replicas. Blocks that went meanwhile are passed over. Returns
 * those that had none before.
 */
export function markWritten(
  tx: Transaction,
  inode: InodeRecord,
  blocks: readonly { readonly block: BlockId; readonly start: number; readonly allocated?: number }[],
): Extent[] {
  const marked: Extent[] = [];
  for (const { block, start, allocated } of blocks) {
    const extent = extentAt(tx, inode, start);
    if (extent === undefined || extent.block !== block) continue;
    if (extent.written && extent.allocated === allocated) continue;
    tx.change(inode);
    const { allocated: _, ...rest } = extent;
    const written = { ...rest, written: true, ...allocated === undefined ? {} : { allocated } };
    replaceExtent(tx, inode, written);
    if (!extent.written) marked.push(written);
  }
  return marked;
}

/** What blocks without data, whose room was reserved, take on their disks. */
export function markReserved(
  tx: Transaction,
  inode: InodeRecord,
  blocks: readonly { readonly block: BlockId; readonly start: number; readonly allocated: number }[],
): void {
  for (const { block, start, allocated } of blocks) {
    const extent = extentAt(tx, inode, start);
    if (extent === undefined || extent.block !== block || extent.allocated === allocated) continue;
    tx.change(inode);
    replaceExtent(tx, inode, { ...extent, allocated });
  }
}

/** What was written to the block under a generation lower than `at`, and not synced, may be lost. */
export function setChosen(tx: Transaction, inode: InodeRecord, extent: Extent, at: Generation): void {
  tx.change(inode);
  replaceExtent(tx, inode, { ...extent, chosenAt: at });
}

/** Gives a block other replicas and a higher generation. */
export function changeReplicas(
  tx: Transaction,
  inode: InodeRecord,
  extent: Extent,
  volumes: readonly VolumeId[],
  generation: Generation = tx.ids.generationAfter(extent.generation),
): Extent {
  const changed: Extent = { ...extent, volumes, generation };
  tx.change(inode);
  // One that falls out may have taken the new generation, as the others did.
  const removed = extent.volumes.filter((volume) => !volumes.includes(volume));
  removeReplicas(tx, extent, removed, generation);
  addReplicas(tx, inode.ino, changed, volumes.filter((volume) => !extent.volumes.includes(volume)));
  replaceExtent(tx, inode, changed);
  return changed;
}

function addReplicas(tx: Transaction, ino: InodeId, extent: Extent, volumes: readonly VolumeId[]): void {
  for (const volume of volumes) {
    tx.put(replicaKey(volume, extent.block), encodeReplica(ino, extent.start));
    // It may have lost the block before, and not have heard of it yet.
    const deletion = deletionKey(volume, extent.block);
    if (tx.get(deletion) !== undefined) tx.delete(deletion);
  }
  tx.count("replicas", volumes.length);
}

/**
 * A volume is told to delete what it has of a block, up to a generation: the block may have got a replica there again before
 * it comes to that.
 */
export function leaveDeletion(tx: Transaction, volume: VolumeId, block: BlockId, upTo: Generation): void {
  tx.put(deletionKey(volume, block), encodeNumbers([upTo]));
}

/** `upTo`: the highest generation that one of them can have, and lower than what is made on their volumes later. */
function removeReplicas(
  tx: Transaction,
  { block }: Extent,
  volumes: readonly VolumeId[],
  upTo: Generation,
): void {
  for (const volume of volumes) {
    tx.delete(replicaKey(volume, block));
    leaveDeletion(tx, volume, block, upTo);
  }
  tx.count("replicas", -volumes.length);
}

function dropExtent(tx: Transaction, inode: InodeRecord, extent: Extent): void {
  removeExtent(tx, inode, extent.start);
  removeReplicas(tx, extent, extent.volumes, ANY_GENERATION); // no block has its id again
  tx.count("blocks", -1);
}

/**
 * The file ends at `size` from now on. An extent that crosses it is cut there: what its replicas hold past the cut
 * belongs to no extent and is never read again.
 */
export function truncateExtents(tx: Transaction, inode: InodeRecord, size: number): void {
  for (const extent of extentsIn(tx, inode, size, Infinity, Infinity)) {
    if (extent.start >= size) dropExtent(tx, inode, extent);
    else replaceExtent(tx, inode, cutTo(extent, size - extent.start));
  }
}

/** What its replicas hold past the cut is theirs until somebody trims them; it counts no more. */
function cutTo(extent: Extent, length: number): Extent {
  if (extent.allocated === undefined) return { ...extent, length };
  const cut = { ...extent, length };
  return { ...cut, allocated: allocatedOf(cut, Infinity) };
}

/** Drops the extents that lie wholly in [offset, end); the caller zeroes the ragged ends. */
export function punchExtents(tx: Transaction, inode: InodeRecord, offset: number, end: number): void {
  for (const extent of extentsIn(tx, inode, offset, end, Infinity)) {
    if (extent.start >= offset && extent.start + extent.length <= end) dropExtent(tx, inode, extent);
  }
  tx.change(inode);
  inode.mtime = tx.now;
  inode.ctime = tx.now;
}

/** Drops the blocks of which nobody has reported that they hold data. */
export function dropUnwritten(tx: Transaction, inode: InodeRecord): void {
  for (const extent of extentsIn(tx, inode, 0, Infinity, Infinity)) {
    if (!extent.written) dropExtent(tx, inode, extent);
  }
}

/** Drops the block that a file was made with, if nothing was ever written to the file. */
export function dropUnused(tx: Transaction, ino: InodeId): void {
  const inode = tx.findInode(ino);
  if (inode === undefined || (inode.mode & S_IFMT) !== S_IFREG || inode.size > 0) return;
  const extents = extentsIn(tx, inode, 0, Infinity, 2);
  if (extents.length !== 1 || extents[0]!.written) return;
  tx.change(inode);
  dropExtent(tx, inode, extents[0]!);
}

/**
 * Leaves a file only what is known to be its own: blocks that nothing was written to go, and what lies past the end belongs
 * to no extent.
 */
export function keepWritten(tx: Transaction, ino: InodeId): void {
  const inode = tx.findInode(ino);
  if (inode === undefined) return;
  tx.change(inode);
  for (const extent of extentsIn(tx, inode, 0, Infinity, Infinity)) {
    if (!extent.written) dropExtent(tx, inode, extent);
  }
  truncateExtents(tx, inode, inode.size);
}

/** Drops all extents of an inode that is being removed. */
export function dropExtents(tx: Transaction, inode: InodeRecord): void {
  for (const extent of extentsIn(tx, inode, 0, Infinity, Infinity)) dropExtent(tx, inode, extent);
}
