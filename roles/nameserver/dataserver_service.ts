/** The nameserver's service for dataservers: registration, heartbeats, block reports. */

import type { Logger } from "../../base/log.ts";
import { asBlockId, type BlockId, type Generation, type VolumeId } from "../../wire/ids.ts";
import type {
  BlockReportReply,
  BlockReportRequest,
  DATASERVER_REGISTRY,
} from "../../wire/messages/dataserver.ts";
import type { Handlers } from "../../wire/service.ts";
import type { LeaseTable } from "../leaseserver/leases.ts";
import type { BlockRecovery } from "./block_recovery.ts";
import type { DeletionQueue } from "./deletions.ts";
import { extentAt } from "./extents.ts";
import { deletionKey, fieldRange, getU64, replicaKey, TABLE_REPLICA } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import { decodeReplica } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Repair } from "./repair.ts";
import type { Transaction } from "./transaction.ts";

const REPORT_PAGE_MAX = 100_000;

export function dataserverHandlers(
  namespace: Namespace,
  registry: Registry,
  deletions: DeletionQueue,
  repair: Repair,
  leases: Pick<LeaseTable, "hasWriter" | "withoutWriters">,
  recovery: Pick<BlockRecovery, "settle" | "isChanging">,
  log: Logger,
): Handlers<typeof DATASERVER_REGISTRY> {
  /** Makes a block's replicas equal, if one of this generation may differ from the others. False: not now. */
  const compare = async (volume: VolumeId, block: BlockId, generation: Generation): Promise<boolean> => {
    const found = await namespace.look((tx) => findBlock(tx, [volume], block));
    if (found === undefined || found.extent.generation !== generation) return false;
    const { task: { ino, start }, extent: { volumes } } = found;
    if (!volumes.includes(volume) || volumes.length === 1) return volumes.includes(volume);
    // Whoever may write knows more, and its end will be seen to. Who is away for a moment is not left behind.
    if (leases.hasWriter(ino) || volumes.some((one) => registry.isAwaited(one))) return false;
    try {
      return await leases.withoutWriters(ino, () => recovery.settle(ino, start, block, generation));
    } catch (error) {
      log.debug("replicas could not be compared", { block, ino, error });
      return false;
    }
  };
  return {
    register: async (request, { peer }) => {
      const reply = await registry.register(request, peer);
      deletions.registered(reply.volumes);
      return reply;
    },
    heartbeat: ({ node, volumes, leaving }) => {
      if (leaving !== true) return { ok: true, heartbeatMs: registry.heartbeat(node, volumes) };
      registry.leave(node);
      return { ok: true };
    },
    blockReport: async (request, { peer }) => {
      const reply = await compareReport(namespace, registry, repair, recovery, log, request);
      if (request.to >= Number.MAX_SAFE_INTEGER) registry.reported(request.volume, peer);
      return reply;
    },
    blocksDeleted: ({ volume, blocks }) => {
      deletions.deleted(volume, blocks);
      return { ok: true };
    },
    replicaCorrupt: ({ volume, block, message }) => {
      log.error("replica is corrupt", { volume, block, message });
      repair.replicaBad(volume, block, true);
      return { ok: true };
    },
    replicasDiffer: async ({ volume, replicas }) => {
      const compared: BlockId[] = [];
      await Promise.all(replicas.map(async ({ block, generation }) => {
        if (await compare(volume, block, generation)) compared.push(block);
      }));
      return { compared };
    },
  };
}

/**
 * Compares one page of a volume's replicas with the index. A replica is stale when its block lists a newer
 * generation or awaits deletion on this volume; unknown when no block lists it, nor a client has it for a file to come. While its
 * block's replicas are being changed, nobody knows: it may be one that they were being changed to when we were killed.
 */
async function compareReport(
  namespace: Namespace,
  registry: Registry,
  repair: Repair,
  recovery: Pick<BlockRecovery, "isChanging">,
  log: Logger,
  { volume, from, to, replicas }: BlockReportRequest,
): Promise<BlockReportReply> {
  const range = fieldRange(TABLE_REPLICA, volume, from, to);
  const records = await namespace.journal.scan(range, REPORT_PAGE_MAX);
  const expected = new Map(records.map(([key, value]) => [asBlockId(getU64(key, 9)), decodeReplica(value)]));
  const stale: BlockId[] = [];
  const unknown: BlockId[] = [];
  const again: BlockId[] = [];
  // What was moved after the backup that this namespace was restored from: a newer replica than the block has, elsewhere.
  const hasMoved = (tx: Transaction, block: BlockId, generation: Generation): boolean => {
    const { generationFloor } = namespace.ids;
    if (generationFloor === 1) return false;
    const found = findBlock(tx, registry.volumes, block);
    if (found === undefined || found.extent.generation >= Math.min(generation, generationFloor)) return false;
    log.warn("replica is ahead of its block, on another volume", { volume, block, generation });
    repair.replicaAhead(found.task, volume, generation);
    return true;
  };
  await namespace.look((tx) => {
    for (const { block, generation, doubtful } of replicas) {
      const owner = expected.get(block);
      expected.delete(block);
      if (owner === undefined) {
        // A copy that has become a replica since the index was read, or has its generation and becomes one just now.
        const isListed = tx.get(replicaKey(volume, block)) !== undefined;
        if (isListed || recovery.isChanging(block)) {
          if (!isListed) again.push(block);
          if (doubtful === true) repair.replicaDoubtful(volume, block);
          // But not one of a generation that another life of the cluster gave.
          if (generation < namespace.ids.generationFloor) hasMoved(tx, block, generation);
          continue;
        }
        if (tx.get(deletionKey(volume, block)) !== undefined) stale.push(block);
        else if (namespace.reserved.has(block) || hasMoved(tx, block, generation)) continue;
        else unknown.push(block);
        continue;
      }
      const inode = tx.findInode(owner.ino);
      const extent = inode === undefined ? undefined : extentAt(tx, inode, owner.start);
      const listed = extent?.block === block && extent.volumes.includes(volume);
      if (listed && generation > extent.generation) {
        log.warn("replica is ahead of its block", { volume, block, generation, current: extent.generation });
        repair.replicaAhead({ ...owner, block }, volume, generation);
      }
      if (listed && generation >= extent.generation && doubtful === true) {
        log.warn("replica may lack what was written last", { volume, block, generation });
        repair.replicaDoubtful(volume, block);
      }
      // An only replica is kept whatever it says: there is nothing better.
      if (listed && generation < extent.generation && extent.volumes.length > 1) {
        log.warn("replica is behind its block", { volume, block, generation, current: extent.generation });
        repair.replicaBad(volume, block, false);
      }
    }
    for (const [block, { ino, start }] of expected) {
      const inode = tx.findInode(ino);
      const extent = inode === undefined ? undefined : extentAt(tx, inode, start);
      if (extent?.block !== block) continue;
      // Of a block that is not known to be written it may not have been made yet: looked at again when it is.
      if (extent.written) log.warn("replica is missing", { volume, block, ino });
      repair.replicaBad(volume, block, false);
    }
  });
  // It deletes them: as in DeletionQueue.
  if (stale.length > 0) await namespace.journal.durable(namespace.journal.position);
  return { stale, unknown, ...again.length === 0 ? {} : { again } };
}

/** The block's place in its file, by the volumes that it lists. */
function findBlock(tx: Transaction, volumes: readonly VolumeId[], block: BlockId) {
  for (const volume of volumes) {
    const value = tx.get(replicaKey(volume, block));
    if (value === undefined) continue;
    const { ino, start } = decodeReplica(value);
    const inode = tx.findInode(ino);
    const extent = inode === undefined ? undefined : extentAt(tx, inode, start);
    if (extent?.block === block) return { task: { ino, start, block }, extent };
  }
  return undefined;
}
