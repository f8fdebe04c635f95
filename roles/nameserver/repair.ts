/**
 * Gives blocks the replicas that they should have: copies where there are too few, takes off what is corrupt or too many.
 *
 * Where blocks come from: a walk over the replicas of each volume that is lost, a walk over all blocks after a start and
 * whenever volumes have come, or have room again that was missed, and reports of single replicas (corrupt, missing, failed under a writer). What is to be done
 * about a block is decided when its turn comes, from what is so then: a block may be told of twice, or for nothing.
 *
 * Invariants:
 * - A block's last good replica is never taken off it.
 * - A copy counts only if no byte of its source changed since the copy began, seen while nobody can write (addReplica).
 * - Bounded: QUEUE_MAX blocks are known at a time; the walks stop meanwhile.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import {
  asBlockId,
  asGeneration,
  asInodeId,
  type BlockId,
  type Generation,
  type InodeId,
  type VolumeId,
} from "../../wire/ids.ts";
import type { CopyReplicaRequest, ReplicaStateReply } from "../../wire/messages/dataserver.ts";
import type { RepairStatus } from "../../wire/messages/nameserver.ts";
import type { LeaseTable } from "../leaseserver/leases.ts";
import type { BlockRecovery } from "./block_recovery.ts";
import { extentAt, extentsIn } from "./extents.ts";
import {
  deletionKey,
  fieldRange,
  getU64,
  type Key,
  replicaKey,
  TABLE_EXTENTS,
  TABLE_REPLICA,
  tableRange,
} from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import { decodeExtents, decodeReplica, type Extent, type InodeRecord } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Transaction } from "./transaction.ts";

const PERIOD_MS = 200;
const QUEUE_MAX = 20_000;
/** The walks go on when fewer blocks than this wait. */
const QUEUE_LOW = 10_000;
const PAGE = 1_000;
/** All blocks are looked at again after so long, whatever was heard. */
const WALK_MS = 60 * 60_000;
/** And that often at most as there is room again: a volume that is nearly full may have some and none in turn. */
const ROOM_WALK_MS = 10_000;
const RETRY_MS = 5_000;
/** Copies at once in all, and from or to one volume. */
const COPIES_MAX = 16;
const COPIES_PER_VOLUME = 8;
/** A source that changes while it is copied is copied again; after so many times while nobody can write. */
const TRIES_WITH_WRITERS = 2;
const CALL_TIMEOUT_MS = 3_000;
/** A copy that takes longer than its bytes at this rate has failed. */
const SLOWEST_BYTES_PER_MS = 1_000;
const COPY_TIMEOUT_MS = 30_000;
const BAD_MAX = 100_000;
export const REPAIR_BYTES_PER_SECOND_DEFAULT = 128 * 1024 * 1024;

interface Task {
  readonly ino: InodeId;
  readonly start: number;
  readonly block: BlockId;
}

/**
 * A block with replicas of a generation that the namespace does not name, as the server died after they had taken it, did
 * not hear that they had, or was restored from a backup.
 */
interface Ahead {
  readonly task: Task;
  /** Those that were reported, perhaps on volumes that the block does not list. */
  readonly replicas: Map<VolumeId, Generation>;
}

export interface RepairOptions {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly leases: LeaseTable;
  readonly recovery: BlockRecovery;
  readonly clock: Clock;
  readonly log: Logger;
  readonly replication: number;
  /** Of all copies together. */
  readonly bytesPerSecond: number;
}

/** "busy": its volumes have enough to do. */
type Outcome = "done" | "again" | "busy" | "later";

export class Repair {
  readonly #options: RepairOptions;
  /** By how many good replicas are left; the most endangered first. */
  readonly #queues: Map<BlockId, Task>[] = [new Map(), new Map(), new Map()];
  readonly #running = new Map<BlockId, Promise<void>>();
  readonly #busyVolumes = new Map<VolumeId, number>();
  /** When blocks that could not be repaired are tried again. */
  readonly #later: { readonly task: Task; readonly atMs: number }[] = [];
  /** Replicas that were reported; true: as corrupt, false: as missing or behind, which may have been so for a moment. */
  readonly #bad = new Map<string, boolean>();
  /** Blocks that may have replicas of a newer generation than the namespace names, or that could not be fenced. */
  readonly #ahead = new Map<BlockId, Ahead>();
  /** Blocks that had a doubtful replica, which are #bad as well. */
  readonly #doubtful = new Set<BlockId>();
  /** Walks over the replicas of lost volumes: the next block. */
  readonly #walks = new Map<VolumeId, number>();
  /** The walk over all blocks: the next key. Null: none is under way. */
  #walk: Key | null = null;
  #walkedMs: number;
  #alive: ReadonlySet<VolumeId> = new Set();
  /** Those that have room. */
  #places: ReadonlySet<VolumeId> = new Set();
  /** Since the last walk began: a block found no place for another replica; a volume that was full has room again. */
  #lacksPlace = false;
  #hasNewRoom = false;
  #lost: ReadonlySet<VolumeId> = new Set();
  #copied = 0;
  #copiedBytes = 0;
  #failed = 0;
  #told = 0;

  constructor(options: RepairOptions) {
    this.#options = options;
    this.#walkedMs = options.clock.monotonicMs();
    options.recovery.onReplicasLost = (ino, start, block) => this.#add({ ino, start, block });
    options.recovery.onUnsettled = (ino, start, block) => {
      const task = { ino, start, block };
      this.#noteAhead(task);
      // What is being repaired is tried again later by itself.
      if (!this.#running.has(block)) this.#add(task);
    };
  }

  status(): RepairStatus {
    return {
      waiting: this.#queued + this.#later.length,
      running: this.#running.size,
      walking: this.#walk !== null || this.#walks.size > 0,
      copied: this.#copied,
      copiedBytes: this.#copiedBytes,
      failed: this.#failed,
    };
  }

  /** A dataserver says that a replica is corrupt, missing, or behind its block. */
  replicaBad(volume: VolumeId, block: BlockId, isCorrupt: boolean): void {
    const { namespace } = this.#options;
    const owner = namespace.journal.get(replicaKey(volume, block));
    if (owner === undefined) return; // not the block's any more
    const key = badKey(volume, block);
    if (this.#bad.size < BAD_MAX) this.#bad.set(key, isCorrupt || this.#bad.get(key) === true);
    this.#add({ ...decodeReplica(owner), block });
  }

  /** A dataserver's machine has stopped while this replica was written: it may lack what was acknowledged. */
  replicaDoubtful(volume: VolumeId, block: BlockId): void {
    if (this.#doubtful.size < BAD_MAX) this.#doubtful.add(block);
    this.replicaBad(volume, block, false);
  }

  /** What is known against a replica that its block lists: it is corrupt, or was said to be missing or behind. */
  reportOf(volume: VolumeId, block: BlockId): "corrupt" | "suspect" | undefined {
    const isCorrupt = this.#bad.get(badKey(volume, block));
    return isCorrupt === undefined ? undefined : isCorrupt ? "corrupt" : "suspect";
  }

  /** The block is being repaired just now. */
  isBusy(block: BlockId): boolean {
    return this.#running.has(block);
  }

  /** Looks at the block soon, whatever is known of it. */
  look(ino: InodeId, start: number, block: BlockId): void {
    this.#add({ ino, start, block });
  }

  /** The file's blocks should have another number of replicas than before. */
  async replicationChanged(ino: InodeId): Promise<void> {
    const { namespace, clock } = this.#options;
    for (let from = 0;;) {
      const tx = namespace.begin();
      const inode = tx.findInode(ino);
      if (inode === undefined) return;
      const page = extentsIn(tx, inode, from, Infinity, PAGE);
      for (const extent of page) {
        if (this.#isSuspect(inode, extent)) this.#add({ ino, start: extent.start, block: extent.block });
      }
      const last = page.at(-1);
      if (last === undefined || page.length < PAGE) return;
      from = last.start + last.length;
      await clock.sleep(0);
    }
  }

  /** Replicas that the blocks of an inode should have. */
  wanted(inode: InodeRecord | undefined): number {
    return inode?.replication || this.#options.replication;
  }

  /**
   * A block holds data for the first time. It may have got too few replicas, or have lost some while there was nothing to
   * copy yet.
   */
  blockWritten(inode: InodeRecord, extent: Extent): void {
    if (this.#isSuspect(inode, extent)) {
      this.#add({ ino: inode.ino, start: extent.start, block: extent.block });
    }
  }

  /** A dataserver has a replica of a newer generation than its block; perhaps on a volume that the block does not list. */
  replicaAhead(task: Task, volume: VolumeId, generation: Generation): void {
    this.#noteAhead(task)?.replicas.set(volume, generation);
    this.#add(task);
  }

  #noteAhead(task: Task): Ahead | undefined {
    let ahead = this.#ahead.get(task.block);
    if (ahead !== undefined || this.#ahead.size >= BAD_MAX) return ahead; // it is reported again after the next start
    ahead = { task, replicas: new Map() };
    this.#ahead.set(task.block, ahead);
    return ahead;
  }

  /** Until `signal` aborts. What is under way then ends with the connections. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    while (!signal.aborted) {
      try {
        this.#watchVolumes();
        await this.#walkOn();
        this.#start(signal);
        this.#tell();
      } catch (error) {
        if (!signal.aborted) log.error("repair pauses", { error });
      }
      await clock.sleep(PERIOD_MS, signal);
    }
  }

  #tell(): void {
    const { waiting, running, walking } = this.status();
    if (waiting + running > 0 || walking || this.#copied === this.#told) return;
    this.#options.log.info("blocks have all replicas that there is a place for", {
      made: this.#copied - this.#told,
    });
    this.#told = this.#copied;
  }

  // ---- finding blocks

  /** Volumes that were lost begin a walk over their replicas; ones that came are a place for what had none. */
  #watchVolumes(): void {
    const { registry, clock, log } = this.#options;
    const alive = new Set(registry.volumes.filter((volume) => registry.isAlive(volume)));
    const lost = new Set(registry.volumes.filter((volume) => registry.isLost(volume)));
    for (const volume of lost) {
      if (this.#lost.has(volume)) continue;
      log.warn("volume is lost: its blocks get other replicas", { volume });
      this.#walks.set(volume, 0);
    }
    for (const volume of this.#walks.keys()) {
      if (!lost.has(volume)) this.#walks.delete(volume); // it is back
    }
    const nowMs = clock.monotonicMs();
    const hasCome = [...alive].some((volume) => !this.#alive.has(volume));
    const places = new Set([...alive].filter((volume) => registry.isPlace(volume)));
    this.#hasNewRoom ||= [...places].some((volume) => !this.#places.has(volume));
    const isRoomDue = this.#hasNewRoom && this.#lacksPlace && this.#walk === null &&
      nowMs - this.#walkedMs > ROOM_WALK_MS;
    if (hasCome || isRoomDue || nowMs - this.#walkedMs > WALK_MS) {
      this.#walkedMs = nowMs;
      this.#walk = tableRange(TABLE_EXTENTS)[0];
      this.#lacksPlace = this.#hasNewRoom = false;
    }
    this.#alive = alive;
    this.#places = places;
    this.#lost = lost;
    while (this.#later.length > 0 && (hasCome || this.#later[0]!.atMs <= nowMs)) {
      this.#add(this.#later.shift()!.task);
    }
  }

  get #isAwayUnseen(): boolean {
    return [...this.#alive].some((volume) => !this.#options.registry.isAlive(volume));
  }

  async #walkOn(): Promise<void> {
    const { namespace } = this.#options;
    // More of these than the queue takes are told of once and at once.
    if (this.#queued + this.#later.length + this.#running.size === 0) {
      for (const { task } of this.#ahead.values()) {
        if (this.#queued < QUEUE_LOW) this.#add(task);
      }
    }
    for (const [volume, from] of this.#walks) {
      if (this.#queued >= QUEUE_LOW) return;
      const range = fieldRange(TABLE_REPLICA, volume, from, Number.MAX_SAFE_INTEGER + 1);
      const page = await namespace.journal.scan(range, PAGE);
      for (const [key, value] of page) {
        this.#add({ ...decodeReplica(value), block: asBlockId(getU64(key, 9)) });
      }
      const last = page.at(-1);
      if (last === undefined || page.length < PAGE) this.#walks.delete(volume);
      else this.#walks.set(volume, getU64(last[0], 9) + 1);
    }
    if (this.#walk === null || this.#queued >= QUEUE_LOW) return;
    const [, to] = tableRange(TABLE_EXTENTS);
    const page = await namespace.journal.scan([this.#walk, to], PAGE);
    for (const [key, value] of page) {
      const ino = asInodeId(getU64(key, 1));
      for (const extent of decodeExtents(value)) {
        if (this.#isSuspect(namespace.begin().findInode(ino), extent)) {
          this.#add({ ino, start: extent.start, block: extent.block });
        }
      }
    }
    const last = page.at(-1)?.[0];
    if (last === undefined || page.length < PAGE) this.#walk = null;
    else {
      this.#walk = new Uint8Array(last.length + 1);
      this.#walk.set(last);
    }
  }

  get #queued(): number {
    return this.#queues.reduce((sum, { size }) => sum + size, 0);
  }

  #isSuspect(inode: InodeRecord | undefined, extent: Extent): boolean {
    const { registry } = this.#options;
    if (!extent.written) return false;
    const kept = extent.volumes.filter((volume) => !registry.isLost(volume)).length;
    if (kept !== this.wanted(inode)) return true;
    return this.#bad.size > 0 && extent.volumes.some((volume) => this.#bad.has(badKey(volume, extent.block)));
  }

  #add(task: Task): void {
    const { block } = task;
    if (this.#queues.some((queue) => queue.has(block))) return;
    const { namespace } = this.#options;
    const extent = extentOf(namespace.begin(), task);
    if (extent === undefined) return;
    const good = this.#good(extent).length;
    const queue = this.#queues[Math.min(good === 0 ? 2 : good - 1, 2)]!;
    // Beyond the bound the next walk over all blocks finds it.
    if (this.#queued >= QUEUE_MAX) {
      this.#walkedMs = -Infinity;
      return;
    }
    queue.set(block, task);
  }

  // ---- repairing

  /** Begins what may begin. */
  #start(signal: AbortSignal): void {
    for (const queue of this.#queues) {
      for (const [block, task] of queue) {
        if (this.#running.size >= COPIES_MAX) return;
        if (this.#running.has(block)) continue;
        queue.delete(block);
        this.#running.set(block, this.#repair(task, signal));
      }
    }
  }

  /** Never rejects. */
  async #repair(task: Task, signal: AbortSignal): Promise<void> {
    const { log, clock } = this.#options;
    let outcome: Outcome;
    try {
      outcome = await this.#repairOnce(task);
    } catch (error) {
      this.#failed++;
      if (!signal.aborted) log.warn("block not repaired", { block: task.block, ino: task.ino, error });
      outcome = "later";
    }
    this.#running.delete(task.block);
    // A volume that comes back before the next look at all of them was never seen to be away: no walk follows.
    if (outcome === "done" && this.#isAwayUnseen) outcome = "later";
    if (outcome === "again" || outcome === "busy") this.#add(task);
    if (outcome === "later" && this.#later.length < QUEUE_MAX) {
      this.#later.push({ task, atMs: clock.monotonicMs() + RETRY_MS });
    }
    if (outcome !== "busy" && !signal.aborted) this.#start(signal);
  }

  async #repairOnce(task: Task): Promise<Outcome> {
    const { namespace, registry, recovery } = this.#options;
    const { ino, start, block } = task;
    const extent = await namespace.look((tx) => extentOf(tx, task));
    // Nobody knows of data in it, or who writes it sees to it.
    if (extent === undefined || !extent.written) {
      this.#ahead.delete(block);
      if (extent !== undefined) return "done";
      this.#doubtful.delete(block);
      for (const volume of registry.volumes) this.#bad.delete(badKey(volume, block));
      return "done";
    }
    const ahead = this.#ahead.get(block);
    if (ahead !== undefined) {
      const outcome = await this.#settle(ahead, extent);
      if (outcome !== undefined) return outcome;
    }
    const reported = extent.volumes.filter((volume) =>
      registry.isAlive(volume) && this.#bad.has(badKey(volume, block))
    );
    const bad: VolumeId[] = [];
    for (const volume of reported) {
      if (await this.#isBad(extent, volume)) bad.push(volume);
      else this.#bad.delete(badKey(volume, block));
    }
    const good = this.#good(extent);
    // What it has comes back, or never; unless all that is left may lack something.
    if (good.length === 0) return this.#doubtful.has(block) ? await this.#choose(task, extent) : "done";
    if (bad.length > 0) {
      const changed = await recovery.replicasFailed(ino, start, block, extent.generation, bad);
      for (const volume of bad) {
        if (!changed.volumes.includes(volume)) this.#bad.delete(badKey(volume, block));
      }
      return "again";
    }
    // Not before they are off the block: the one that counts as good may be gone, too, and not have said so yet.
    this.#doubtful.delete(block);
    const kept = extent.volumes.filter((volume) => !registry.isLost(volume));
    const wanted = this.wanted(namespace.begin().findInode(ino));
    if (kept.length > wanted && good.length === kept.length) {
      const surplus = registry.placement().surplus(good);
      await recovery.replicasFailed(ino, start, block, extent.generation, [surplus]);
      return "again";
    }
    if (kept.length >= wanted) return "done";
    return await this.#addReplica(ino, extent, kept, good);
  }

  /** All that the block has left may lack what was acknowledged: settles on what it holds, when nothing better can come. */
  async #choose({ ino, start, block }: Task, extent: Extent): Promise<Outcome> {
    const { registry, recovery } = this.#options;
    if (extent.volumes.some((volume) => !registry.isAlive(volume) && !registry.isLost(volume))) {
      return "later";
    }
    const present = extent.volumes.filter((volume) => registry.isAlive(volume));
    const isChosen = await recovery.choose(ino, start, extent, present);
    if (!isChosen) return "later";
    this.#doubtful.delete(block);
    for (const volume of present) this.#bad.delete(badKey(volume, block));
    return "again";
  }

  /**
   * Gives a block whose replicas are ahead of it a generation that both know. Either the server died after the replicas had
   * taken a new one: what they hold is the same under both. Or it was restored from a backup: then only those with the
   * newest count, wherever they are. Undefined when all that is left of it may lack something.
   */
  async #settle({ task, replicas }: Ahead, extent: Extent): Promise<Outcome | undefined> {
    const { namespace, registry, recovery } = this.#options;
    const { ino, start, block } = task;
    const { generation } = extent;
    const newest = Math.max(0, ...replicas.values());
    if (newest > generation && generation < namespace.ids.generationFloor) {
      // Who comes later with a newer one would find that the block has gone on without it.
      if (!registry.isComplete) return "later";
      const volumes = [...replicas.keys()].filter((volume) => replicas.get(volume) === newest);
      await recovery.adopt(ino, start, block, asGeneration(newest), volumes);
    } else {
      // Who does not answer would be left behind: all that may come back are waited for.
      if (extent.volumes.some((volume) => !registry.isAlive(volume) && !registry.isLost(volume))) {
        return "later";
      }
      try {
        await recovery.settle(ino, start, block, generation);
      } catch (error) {
        if (isErrno(error, "EAGAIN") && this.#doubtful.has(block)) return undefined;
        throw error;
      }
    }
    this.#ahead.delete(block);
    return "again";
  }

  /** What was reported is so still. */
  async #isBad(extent: Extent, volume: VolumeId): Promise<boolean> {
    if (this.#bad.get(badKey(volume, extent.block)) === true) return true;
    try {
      await this.#stateOf(extent, volume);
      return false;
    } catch (error) {
      if (isErrno(error, "ENOENT") || isErrno(error, "ESTALE") || isErrno(error, "EIO")) return true;
      throw error;
    }
  }

  #good(extent: Extent): VolumeId[] {
    const { registry } = this.#options;
    return extent.volumes.filter((volume) =>
      registry.isAlive(volume) && !this.#bad.has(badKey(volume, extent.block))
    );
  }

  async #addReplica(
    ino: InodeId,
    extent: Extent,
    kept: readonly VolumeId[],
    good: readonly VolumeId[],
  ): Promise<Outcome> {
    const { registry, recovery, leases, log } = this.#options;
    const { block, start } = extent;
    const isBusy = (volume: VolumeId) => (this.#busyVolumes.get(volume) ?? 0) >= COPIES_PER_VOLUME;
    const source = good.find((volume) => !isBusy(volume));
    if (source === undefined) return "busy";
    // What a volume still has to delete of the block would be deleted after the copy was made.
    let isDeleting = false;
    const target = registry.placement().placeBeside(kept, (volume) => {
      if (extent.volumes.includes(volume)) return true;
      if (this.#options.namespace.journal.get(deletionKey(volume, block)) === undefined) return false;
      return isDeleting = true;
    });
    if (target === undefined && isDeleting) return "later";
    if (target === undefined) {
      this.#lacksPlace = true; // until a volume comes, or has room
      return "done";
    }
    if (isBusy(target)) return "busy";
    this.#count(source, 1);
    this.#count(target, 1);
    try {
      for (let tries = 1; tries <= TRIES_WITH_WRITERS; tries++) {
        const copy = await this.#copy(extent, source, target, true);
        const isAdded = await leases.withoutWriters(
          ino,
          () =>
            recovery.addReplica(
              ino,
              start,
              extent,
              target,
              async () => (await this.#stateOf(extent, source)).state === copy.state,
            ),
        );
        if (isAdded) return this.#added(copy, ino, extent, target);
      }
      let copy: ReplicaStateReply | undefined;
      const isAdded = await leases.withoutWriters(ino, async () => {
        copy = await this.#copy(extent, source, target, false);
        const { state } = copy;
        const isExact = async () => (await this.#stateOf(extent, source)).state === state;
        return await recovery.addReplica(ino, start, extent, target, isExact);
      });
      return isAdded ? this.#added(copy!, ino, extent, target) : "later";
    } catch (error) {
      // The block, or a server, went meanwhile: what there is of a copy goes to trash with the next report.
      log.debug("replica not copied", { block, source, target, error });
      throw error;
    } finally {
      this.#count(source, -1);
      this.#count(target, -1);
    }
  }

  #added({ length }: ReplicaStateReply, ino: InodeId, { block }: Extent, target: VolumeId): Outcome {
    this.#copied++;
    this.#copiedBytes += length;
    this.#options.log.debug("block has a new replica", { block, ino, volume: target });
    return "again";
  }

  #count(volume: VolumeId, by: number): void {
    const count = (this.#busyVolumes.get(volume) ?? 0) + by;
    if (count === 0) this.#busyVolumes.delete(volume);
    else this.#busyVolumes.set(volume, count);
  }

  async #copy(
    extent: Extent,
    source: VolumeId,
    target: VolumeId,
    isLimited: boolean,
  ): Promise<ReplicaStateReply> {
    const { registry, bytesPerSecond } = this.#options;
    const { node, address } = registry.location(source);
    const rate = Math.ceil(bytesPerSecond / Math.max(1, this.#running.size));
    const request: CopyReplicaRequest = {
      volume: target,
      block: extent.block,
      generation: extent.generation,
      source: { node, volume: source, address },
      ...(isLimited ? { bytesPerSecond: rate } : {}),
    };
    const slowest = isLimited ? Math.min(SLOWEST_BYTES_PER_MS, rate / 2_000) : SLOWEST_BYTES_PER_MS * 10;
    const timeoutMs = COPY_TIMEOUT_MS + extent.length / slowest;
    return await this.#dataserver(target).copyReplica(request, { timeoutMs });
  }

  async #stateOf({ block, generation }: Extent, volume: VolumeId): Promise<ReplicaStateReply> {
    const request = { block, generation, volume };
    return await this.#dataserver(volume).replicaState(request, { timeoutMs: CALL_TIMEOUT_MS });
  }

  #dataserver(volume: VolumeId): NonNullable<ReturnType<Registry["dataserver"]>> {
    const dataserver = this.#options.registry.dataserver(volume);
    if (dataserver === null) throw new FsError("EHOSTUNREACH", `the dataserver of volume ${volume} is away`);
    return dataserver;
  }
}

/** The task's block as it is now, if it is still there. */
function extentOf(tx: Transaction, { ino, start, block }: Task): Extent | undefined {
  const inode = tx.findInode(ino);
  const extent = inode === undefined ? undefined : extentAt(tx, inode, start);
  return extent?.block === block ? extent : undefined;
}

function badKey(volume: VolumeId, block: BlockId): string {
  return `${volume}:${block}`;
}
