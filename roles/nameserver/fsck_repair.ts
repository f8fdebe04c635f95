/**
 * Repairs what a check has found, as far as nothing can be lost by it.
 * Invariants:
 * - A problem is looked at again in the step that mends it; what has changed since is left to the next look.
 * - No inode, name of one, block or good replica is ever taken away: what nobody can reach goes to /lost+found.
 */

import { FsError } from "../../wire/errno.ts";
import type { FsckProblem, FsckRepaired } from "../../wire/messages/fsck.ts";
import { asBlockId, asVolumeId } from "../../wire/ids.ts";
import { leaveDeletion } from "./block_operations.ts";
import { extentNow, type FsckParts } from "./fsck_context.ts";
import { GONE, refused, repaired } from "./fsck_outcomes.ts";
import { repairInline } from "./fsck_inline.ts";
import { repairEntry, repairOrder } from "./fsck_repair_names.ts";
import { repairLinks, repairNameless, repairOrphan, repairXattrs } from "./fsck_repair_inodes.ts";
import { deletionKey, getU64, replicaKey } from "./keys.ts";
import { decodeReplica, encodeReplica, type Extent, type InodeRecord } from "./records.ts";
import { TOTAL_NAMES } from "./totals.ts";
import type { Transaction } from "./transaction.ts";

/** Errors: the journal's. What is wrong with a problem itself is a refusal. */
export async function repairProblem(parts: FsckParts, problem: FsckProblem): Promise<FsckRepaired> {
  try {
    return await repairKind(parts, problem);
  } catch (error) {
    // What it speaks of went, or is damaged as well.
    if (error instanceof FsError && error.op !== "journal") return refused(error.message);
    throw error;
  }
}

function repairKind(parts: FsckParts, problem: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  switch (problem.kind) {
    case "under-replicated":
    case "over-replicated":
    case "corrupt":
    case "lost":
    case "stale":
      return requeue(parts, problem);
    case "missing":
      return refused(
        "none of its replicas can be read: bring back the volumes that had it, or restore the file",
      );
    case "misplaced":
      return move(parts, problem);
    case "differing":
      return refused("which one is right can't be told: compare the file with a copy, and write it again");
    case "stray":
      return repairStray(parts, problem);
    case "index":
      return repairIndex(parts, problem);
    case "deletion":
      return repairDeletion(parts, problem);
    case "total":
      return repairTotal(parts, problem);
    case "entry":
      return repairEntry(parts, problem);
    case "order":
      return repairOrder(parts, problem);
    case "links":
      return repairLinks(parts, problem);
    case "nameless":
      return repairNameless(parts, problem);
    case "orphan":
      return repairOrphan(parts, problem);
    case "xattrs":
      return repairXattrs(parts, problem);
    case "extents":
      return repairExtents(parts, problem);
    case "inline":
      return repairInline(parts, problem);
    case "page":
      return refused("these blocks may be all that is left of a file: they are kept");
    case "unreachable":
      return refused("where it belongs can't be told: restore the nameserver's directory from a backup");
    case "record":
      return refused("what it said is lost: restore the nameserver's directory from a backup");
  }
}

/** Repair makes replicas and takes them off. */
function requeue({ namespace, repair }: FsckParts, problem: FsckProblem): FsckRepaired {
  const { kind, ino, start, block, volume } = problem;
  if (ino === undefined || start === undefined || block === undefined) return GONE;
  const extent = extentNow(namespace.begin(), ino, start, block);
  if (extent === undefined || volume !== undefined && !extent.volumes.includes(volume)) return GONE;
  if (volume === undefined) repair.look(ino, start, block);
  else repair.replicaBad(volume, block, kind !== "stale");
  return { outcome: "waiting", message: "replicas were made and taken off" };
}

/** Repair moves replicas, if only there is a place. */
function move({ repair }: FsckParts, { ino, start, block }: FsckProblem): FsckRepaired {
  if (ino === undefined || start === undefined || block === undefined) return GONE;
  repair.look(ino, start, block);
  return refused("it moves by itself once another host or rack has room: look again later");
}

/** The block has a replica that can be read, on another volume than `volume`. */
function isSafeWithout({ registry, repair }: FsckParts, { block, volumes }: Extent, volume: number): boolean {
  return volumes.some((other) =>
    other !== volume && registry.isAlive(other) && repair.reportOf(other, block) === undefined
  );
}

/** What a block's other replicas make superfluous is deleted. */
function repairStray(parts: FsckParts, { block, volume }: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  if (block === undefined || volume === undefined) return GONE;
  const { namespace, registry, repair } = parts;
  if (repair.isBusy(block)) return refused("the block is being repaired: look again later");
  return namespace.change((tx) => {
    if (tx.get(replicaKey(volume, block)) !== undefined) return GONE;
    for (const other of registry.volumes) {
      const owner = tx.get(replicaKey(other, block));
      if (owner === undefined) continue;
      const { ino, start } = decodeReplica(owner);
      const extent = extentNow(tx, ino, start, block);
      if (extent === undefined || !isSafeWithout(parts, extent, volume)) continue;
      leaveDeletion(tx, volume, block, tx.ids.generationAfter(extent.generation));
      return repaired("it is deleted: the block has its replicas elsewhere");
    }
    return refused("its dataserver puts it into its trash when it registers the next time");
  });
}

function repairIndex(parts: FsckParts, problem: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  const { ino, start, hint } = problem;
  if (ino === undefined || start === undefined || hint?.key === undefined) return GONE;
  const volume = asVolumeId(getU64(hint.key, 1));
  const block = asBlockId(getU64(hint.key, 9));
  const key = replicaKey(volume, block);
  return parts.namespace.change((tx) => {
    const extent = extentNow(tx, ino, start, block);
    const value = tx.get(key);
    if (extent?.volumes.includes(volume)) {
      const record = value === undefined ? undefined : decodeReplica(value);
      if (record?.ino === ino && record.start === start) return GONE;
      tx.put(key, encodeReplica(ino, start));
      dropDeletion(tx, volume, block);
      return repaired("the index has it again");
    }
    if (value === undefined) return GONE;
    if (extent === undefined) {
      return refused("its file is not there: the replica may be all that is left of it");
    }
    if (!isSafeWithout(parts, extent, volume)) {
      return refused("no other replica of the block can be read: this one may be all that is left");
    }
    tx.delete(key);
    leaveDeletion(tx, volume, block, tx.ids.generationAfter(extent.generation));
    return repaired("the replica is deleted: the block has its replicas elsewhere");
  });
}

function dropDeletion(tx: Transaction, volume: number, block: number): boolean {
  const key = deletionKey(asVolumeId(volume), asBlockId(block));
  if (tx.get(key) === undefined) return false;
  tx.delete(key);
  return true;
}

function repairDeletion(
  { namespace }: FsckParts,
  problem: FsckProblem,
): FsckRepaired | Promise<FsckRepaired> {
  const { ino, start, block, volume } = problem;
  if (ino === undefined || start === undefined || block === undefined || volume === undefined) return GONE;
  return namespace.change((tx) => {
    if (!(extentNow(tx, ino, start, block)?.volumes.includes(volume) ?? false)) return GONE;
    return dropDeletion(tx, volume, block) ? repaired("it is not to be deleted any more") : GONE;
  });
}

/** By how much it was wrong at one moment it is wrong at each. */
function repairTotal({ namespace }: FsckParts, { hint }: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  const [at, difference] = hint?.numbers ?? [];
  const name = TOTAL_NAMES[at ?? -1];
  if (name === undefined || difference === undefined || !Number.isSafeInteger(difference)) return GONE;
  return namespace.change((tx) => {
    tx.count(name, difference);
    return repaired("the total is right again");
  });
}

/** Of what hangs on extents alone; how those themselves should lie nobody knows. */
function repairExtents({ namespace }: FsckParts, problem: FsckProblem): FsckRepaired | Promise<FsckRepaired> {
  const { ino, hint } = problem;
  const bytes = hint?.numbers?.[0];
  if (ino === undefined || bytes === undefined && hint?.key === undefined) return refused(UNKNOWN_EXTENTS);
  return namespace.change((tx) => {
    const inode = tx.findInode(ino);
    if (inode === undefined) return GONE;
    if (hint?.key !== undefined) return beginPage(tx, inode, getU64(hint.key, 9));
    if (inode.version !== hint?.version) return GONE;
    tx.change(inode);
    inode.allocatedBytes = bytes!;
    return repaired("the number is right again");
  });
}

const UNKNOWN_EXTENTS = "how its blocks should lie can't be told: restore the file from a copy";

/** The file knows again where a page of its block map begins, if the pages are in order then. */
function beginPage(tx: Transaction, inode: InodeRecord, page: number): FsckRepaired {
  const at = inode.pages.findIndex((ref) => ref.page === page);
  const ref = inode.pages[at];
  const first = ref && tx.page(inode.ino, page)[0]?.start;
  if (ref === undefined || first === undefined || ref.first === first) return GONE;
  const isInOrder = first > (inode.pages[at - 1]?.first ?? -1) &&
    first < (inode.pages[at + 1]?.first ?? Infinity);
  if (!isInOrder) return refused(UNKNOWN_EXTENTS);
  tx.change(inode);
  ref.first = first;
  return repaired("its block map is in order again");
}
