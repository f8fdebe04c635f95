/**
 * Gives blocks the replicas that they should have: copies where there are too few or one is to go or lies badly, takes off
 * what is corrupt or too many. BlockFinder says which blocks to look at, as do reports of single replicas (corrupt,
 * missing, failed under a writer). What is to be done about a block is decided when its turn comes, from what is so then.
 *
 * Invariants:
 * - A block's last good replica is never taken off it. What moves is taken off in the step in which its copy counts.
 * - Replicas of nodes that are being decommissioned are read and copied, and do not count.
 * - Where nothing is endangered (replicas that move) only a part of the copies at once may be.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { isErrno } from "../../wire/errno.ts";
import { asGeneration, type BlockId, type Generation, type InodeId, type VolumeId } from "../../wire/ids.ts";
import type { RepairStatus } from "../../wire/messages/nameserver.ts";
import type { LeaseTable } from "../leaseserver/leases.ts";
import { BlockFinder } from "./block_finder.ts";
import { changeReplicas } from "./block_operations.ts";
import type { BlockRecovery } from "./block_recovery.ts";
import { extentAt, extentsIn } from "./extents.ts";
import { deletionKey, replicaKey } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import type { Placement } from "./placement.ts";
import { decodeReplica, type Extent, type InodeRecord } from "./records.ts";
import type { Registry } from "./registry.ts";
import { NOT_URGENT, RepairQueue, type Task, type Urgency } from "./repair_queue.ts";
import { ReplicaCopier } from "./replica_copier.ts";
import type { Transaction } from "./transaction.ts";

const PERIOD_MS = 200;
/** The walks go on when fewer blocks than this wait. */
const QUEUE_LOW = 10_000;
const RETRY_MS = 5_000;
/**
 * Before a doubtful replica is settled on, a place is looked for so long for a copy of another on a disk that has failed. Who
 * writes to the block waits for that.
 */
const RESCUE_MS = 20_000;
/** What needs no dataserver's answer leaves the nameserver to others after so long. */
const TURN_MS = 4;
/** Blocks under repair at once in all, and those of them that are not endangered. */
const RUNNING_MAX = 16;
const NOT_URGENT_MAX = 8;
/** Blocks of a file that are looked at at once. */
const PAGE = 1_000;
const BAD_MAX = 100_000;
export const REPAIR_BYTES_PER_SECOND_DEFAULT = 128 * 1024 * 1024;

/**
 * A block with replicas of a generation that the namespace does not name, as the server died after they had taken it, did
 * not hear that they had, or was restored from a backup.
 */
interface Ahead {
  readonly task: Task;
  /** Those that were reported, perhaps on volumes that the block does not list. */
  readonly replicas: Map<VolumeId, Generation>;
  /** Which generation replicas were to take in place of which: some may have, without the block's going on with them. */
  readonly tries: Map<Generation, Generation>;
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
  readonly bytesPerSecond: () => number;
}

/** What was said of a replica: that it is corrupt, or missing or behind, which may have been so for a moment. */
interface BadReport {
  readonly isCorrupt: boolean;
  /** Registry.connection of its volume then: by another one its disk may be back. */
  readonly connection: unknown;
}

/** "busy": its volumes have enough to do. */
type Outcome = "done" | "again" | "busy" | "later";

/** A block's replicas, by what can be expected of them. */
interface Replicas {
  readonly wanted: number;
  /** Not lost. */
  readonly kept: readonly VolumeId[];
  /** Kept, and to stay. */
  readonly counted: readonly VolumeId[];
  /** Live, and not known as bad. */
  readonly good: readonly VolumeId[];
  /** On disks that have failed, and can perhaps be read; not known as bad. */
  readonly failing: readonly VolumeId[];
  /** To go, lost or not. */
  readonly leaving: readonly VolumeId[];
  readonly lost: readonly VolumeId[];
}

export class Repair {
  readonly #options: RepairOptions;
  readonly #queue = new RepairQueue();
  readonly #finder: BlockFinder;
  readonly #copier: ReplicaCopier;
  /** Blocks that are being worked on. */
  readonly #running = new Map<BlockId, Urgency>();
  /** Replicas that were reported. */
  readonly #bad = new Map<string, BadReport>();
  /** Blocks that may have replicas of a newer generation than the namespace names, or that could not be fenced. */
  readonly #ahead = new Map<BlockId, Ahead>();
  /** Blocks that had a doubtful replica, which are #bad as well, and since when. */
  readonly #doubtful = new Map<BlockId, number>();
  /** When those that are ahead are looked at next, if nothing else waits. */
  #aheadMs = -Infinity;
  #failed = 0;
  #told = 0;
  /** When others were served last; and whether they are just now, after which all goes on. */
  #turnMs = 0;
  #isResting = false;

  constructor(options: RepairOptions) {
    this.#options = options;
    const { namespace, registry, leases, recovery, clock, log, bytesPerSecond } = options;
    this.#finder = new BlockFinder({
      namespace,
      registry,
      clock,
      log,
      isSuspect: (inode, extent, placement) => this.#isSuspect(inode, extent, placement),
      found: (task) => this.#add(task),
      isFull: () => this.#queue.size >= QUEUE_LOW,
    });
    const sharers = () => this.#running.size;
    this.#copier = new ReplicaCopier({ namespace, registry, leases, recovery, log, bytesPerSecond, sharers });
    recovery.onReplicasLost = (ino, start, block) => this.#add({ ino, start, block });
    recovery.onUnsettled = (ino, start, block) => {
      const task = { ino, start, block };
      this.#noteAhead(task);
      // What is being repaired is tried again later by itself.
      if (!this.#running.has(block)) this.#add(task);
    };
    recovery.mayBeBehind = (extent) => this.#mayBeBehind(extent);
    recovery.isCorrupt = (volume, block) => this.reportOf(volume, block) === "corrupt";
  }

  status(): RepairStatus {
    return {
      waiting: this.#queue.size + this.#queue.laterSize,
      running: this.#running.size,
      walking: this.#finder.isWalking,
      copied: this.#copier.copied,
      copiedBytes: this.#copier.copiedBytes,
      failed: this.#failed,
    };
  }

  /** A dataserver says that a replica is corrupt, missing, or behind its block. */
  replicaBad(volume: VolumeId, block: BlockId, isCorrupt: boolean): void {
    const { namespace } = this.#options;
    const owner = namespace.journal.get(replicaKey(volume, block));
    if (owner === undefined) return; // not the block's any more
    this.#noteBad(volume, block, isCorrupt);
    this.#add({ ...decodeReplica(owner), block });
  }

  #noteBad(volume: VolumeId, block: BlockId, isCorrupt: boolean): void {
    const key = badKey(volume, block);
    if (this.#bad.size >= BAD_MAX || !isCorrupt && this.#bad.get(key)?.isCorrupt === true) return;
    this.#bad.set(key, { isCorrupt, connection: this.#options.registry.connection(volume) });
  }

  /**
   * A dataserver's machine has stopped while this replica was written: it may lack what was acknowledged. Also of a copy that
   * becomes a replica just now: whoever makes it one looks at the block again.
   */
  replicaDoubtful(volume: VolumeId, block: BlockId): void {
    this.#noteDoubtful(volume, block);
    this.replicaBad(volume, block, false);
  }

  #noteDoubtful(volume: VolumeId, block: BlockId): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (this.#doubtful.size < BAD_MAX && !this.#doubtful.has(block)) this.#doubtful.set(block, nowMs);
    this.#noteBad(volume, block, false);
  }

  /** What is known against a replica that its block lists: it is corrupt, or was said to be missing or behind. */
  reportOf(volume: VolumeId, block: BlockId): "corrupt" | "suspect" | undefined {
    const report = this.#bad.get(badKey(volume, block));
    return report === undefined ? undefined : report.isCorrupt ? "corrupt" : "suspect";
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
    const { namespace, registry, clock } = this.#options;
    for (let from = 0;;) {
      const tx = namespace.begin();
      const inode = tx.findInode(ino);
      if (inode === undefined) return;
      const page = extentsIn(tx, inode, from, Infinity, PAGE);
      const placement = registry.placement();
      for (const extent of page) {
        if (this.#isSuspect(inode, extent, placement)) {
          this.#add({ ino, start: extent.start, block: extent.block });
        }
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
    if (this.#isSuspect(inode, extent, this.#options.registry.placement())) {
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
    ahead = { task, replicas: new Map(), tries: new Map() };
    this.#ahead.set(task.block, ahead);
    return ahead;
  }

  /** Until `signal` aborts. What is under way then ends with the connections. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    while (!signal.aborted) {
      try {
        const hasPlaces = this.#finder.watch();
        for (const task of this.#queue.takeLater(clock.monotonicMs(), hasPlaces)) this.#add(task);
        this.#addAhead();
        if (!this.#isRestoredUnheard) await this.#finder.walkOn();
        this.#turnMs = clock.monotonicMs();
        this.#start(signal);
        this.#tell();
      } catch (error) {
        if (!signal.aborted) log.error("repair pauses", { error });
      }
      await clock.sleep(PERIOD_MS, signal);
    }
  }

  /** More of these than the queue takes are told of once and at once. */
  #addAhead(): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (this.#queue.size + this.#running.size > 0 || nowMs < this.#aheadMs) return;
    this.#aheadMs = nowMs + RETRY_MS;
    for (const { task } of this.#ahead.values()) {
      if (this.#queue.size < QUEUE_LOW) this.#add(task);
    }
  }

  #tell(): void {
    const { waiting, running, walking, copied } = this.status();
    if (waiting + running > 0 || walking || copied === this.#told) return;
    this.#options.log.info("blocks have all replicas that there is a place for", {
      made: copied - this.#told,
    });
    this.#told = copied;
  }

  // ---- what is so

  #replicas(inode: InodeRecord | undefined, { volumes, block }: Extent): Replicas {
    const { registry } = this.#options;
    const kept = volumes.filter((volume) => !registry.isLost(volume));
    const isBad = (volume: VolumeId) => this.#bad.has(badKey(volume, block));
    return {
      wanted: this.wanted(inode),
      kept,
      counted: kept.filter((volume) => !registry.isDraining(volume)),
      good: volumes.filter((volume) => registry.isAlive(volume) && !isBad(volume)),
      failing: volumes.filter((volume) => registry.isFailing(volume) && !isBad(volume)),
      leaving: volumes.filter((volume) => registry.isDraining(volume)),
      lost: volumes.filter((volume) => registry.isLost(volume)),
    };
  }

  #isSuspect(inode: InodeRecord | undefined, extent: Extent, placement: Placement): boolean {
    const { counted, leaving, wanted } = this.#replicas(inode, extent);
    if (leaving.length > 0) return true;
    if (!extent.written) return false;
    if (this.#bad.size > 0 && extent.volumes.some((volume) => this.#bad.has(badKey(volume, extent.block)))) {
      return true;
    }
    return counted.length !== wanted || placement.betterSpread(counted, () => false) !== undefined;
  }

  #add(task: Task): void {
    const { namespace } = this.#options;
    const tx = namespace.begin();
    const extent = extentOf(tx, task);
    if (extent === undefined) return;
    const { good, failing, wanted, counted, leaving } = this.#replicas(tx.findInode(task.ino), extent);
    let urgency: Urgency;
    const left = good.length || Math.min(1, failing.length);
    if (good.length < wanted) urgency = left === 0 ? 2 : left === 1 ? 0 : 1;
    else urgency = leaving.length > 0 || counted.length !== wanted ? 3 : 4;
    // Beyond the bound the next walk over all blocks finds it.
    if (!this.#queue.add(task, urgency)) this.#finder.lookAgain();
  }

  /** Where a replica of the block may not go: where one is, or where an older one is still to be deleted. */
  #avoid({ volumes, block }: Extent): (volume: VolumeId) => boolean {
    return (volume) => volumes.includes(volume) || this.#isBeingDeleted(volume, block);
  }

  #isBeingDeleted(volume: VolumeId, block: BlockId): boolean {
    return this.#options.namespace.journal.get(deletionKey(volume, block)) !== undefined;
  }

  // ---- repairing

  /** Begins what may begin. */
  #start(signal: AbortSignal): void {
    for (const [task, urgency] of this.#queue.waiting()) {
      if (this.#running.size >= RUNNING_MAX) return;
      if (urgency >= NOT_URGENT && this.#notUrgent >= NOT_URGENT_MAX) return;
      if (this.#running.has(task.block)) continue;
      this.#queue.take(task);
      void this.#repair(task, urgency, signal);
    }
  }

  get #notUrgent(): number {
    return [...this.#running.values()].filter((urgency) => urgency >= NOT_URGENT).length;
  }

  /** Never rejects. */
  async #repair(task: Task, urgency: Urgency, signal: AbortSignal): Promise<void> {
    const { log, clock } = this.#options;
    this.#running.set(task.block, urgency);
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
    if (outcome === "done" && this.#finder.isAwayUnseen) outcome = "later";
    if (outcome === "again" || outcome === "busy") this.#add(task);
    if (outcome === "later") this.#queue.addLater(task, clock.monotonicMs() + RETRY_MS);
    if (outcome === "busy" || this.#isResting) return;
    if (clock.monotonicMs() - this.#turnMs > TURN_MS) {
      this.#isResting = true;
      await clock.sleep(0);
      this.#isResting = false;
      this.#turnMs = clock.monotonicMs();
    }
    if (!signal.aborted) this.#start(signal);
  }

  async #repairOnce(task: Task): Promise<Outcome> {
    const { namespace, registry } = this.#options;
    const { ino, block } = task;
    const extent = await namespace.look((tx) => extentOf(tx, task));
    if (extent === undefined || !extent.written) {
      // One that is written under the old generation by those who have that still has others that have not.
      if (extent !== undefined) {
        // Nothing of it was synced, nor closed: its writer does not wait for what a failed disk may give.
        if (await this.#isAllDoubtful(extent)) return await this.#choose(task, extent);
        return await this.#moveUnwritten(task, extent);
      }
      this.#ahead.delete(block);
      this.#doubtful.delete(block);
      for (const volume of registry.volumes) this.#bad.delete(badKey(volume, block));
      return "done";
    }
    const ahead = this.#ahead.get(block);
    if (this.#mayBeBehind(extent) && !registry.isComplete) return "later";
    if (ahead !== undefined) {
      const outcome = await this.#settle(ahead, extent);
      if (outcome !== undefined) return outcome;
    }
    const bad = await this.#findBad(extent);
    const replicas = this.#replicas(namespace.begin().findInode(ino), extent);
    const { good, kept, counted, wanted, leaving, lost } = replicas;
    if (good.length === 0) {
      const outcome = await this.#rescue(ino, extent, replicas);
      if (outcome !== "done") return outcome;
      // What it has comes back, or never; unless all that is left may lack something.
      if (this.#doubtful.has(block)) {
        return this.#mayBeRescued(block, replicas) ? "later" : await this.#choose(task, extent);
      }
      return await this.#isWellAgain(extent, bad) ? "again" : "done";
    }
    if (bad.length > 0) return await this.#takeOffBad(task, extent, bad);
    // Not before they are off the block: the one that counts as good may be gone, too, and not have said so yet. Nor when one
    // was reported just now.
    if (!extent.volumes.some((volume) => this.#bad.has(badKey(volume, block)))) this.#doubtful.delete(block);
    if (kept.length < wanted) {
      const outcome = await this.#copy(ino, extent, replicas);
      if (outcome !== "done") return outcome;
    }
    if (counted.length < wanted) {
      const going = kept.find((volume) => leaving.includes(volume));
      return going === undefined ? "done" : await this.#copy(ino, extent, replicas, going);
    }
    if (leaving.length > 0) {
      if (counted.filter((volume) => good.includes(volume)).length < wanted) return "later";
      return await this.#takeOff(ino, extent, [...leaving, ...lost], wanted);
    }
    if (counted.length > wanted) {
      // While one may still come back, nobody knows which are too many.
      if (good.length < kept.length) return "done";
      return await this.#takeOff(ino, extent, [registry.placement().surplus(counted), ...lost], wanted);
    }
    const placement = registry.placement();
    if (placement.betterSpread(counted, () => false) === undefined || good.length < kept.length) {
      return "done";
    }
    const better = placement.betterSpread(counted, this.#avoid(extent));
    if (better === undefined) return "later"; // an older replica is still to be deleted there
    return await this.#copy(ino, extent, replicas, better.from, better.to);
  }

  /**
   * Replicas of a block that nobody knows of data in go without a copy. What somebody has written is known once nobody can
   * write. Who has its block map gives that up: nothing says to a writer that a replica which was never made is not to be.
   */
  async #moveUnwritten(task: Task, { volumes }: Extent): Promise<Outcome> {
    const { namespace, registry, leases } = this.#options;
    if (!volumes.some((volume) => registry.isDraining(volume))) return "done";
    return await leases.withoutWriters(task.ino, async () => {
      const extent = await namespace.look((tx) => extentOf(tx, task));
      if (extent === undefined) return "done";
      if (extent.written) return "again";
      return await this.#placeUnwritten(task, extent);
    }, "none");
  }

  /** Nobody can write. */
  async #placeUnwritten(task: Task, { volumes, block, generation }: Extent): Promise<Outcome> {
    const { namespace, registry, recovery } = this.#options;
    const { ino, start } = task;
    const going = volumes.filter((volume) =>
      registry.isDraining(volume) || !(registry.isAlive(volume) || registry.isAwaited(volume))
    );
    const stays = going.length < volumes.length;
    // Those that stay may have been made, without anybody saying so: they take the generation that is written with.
    if (stays) await recovery.replicasFailed(ino, start, block, generation, going);
    return await namespace.change((tx): Outcome => {
      const inode = tx.findInode(ino);
      const extent = extentOf(tx, task);
      if (inode === undefined || extent === undefined) return "done";
      const placed = stays ? [...extent.volumes] : [];
      while (placed.length < volumes.length) {
        const volume = registry.placement().placeBeside(placed, this.#avoid(extent));
        if (volume === undefined) break;
        placed.push(volume);
      }
      if (placed.length === 0) return "later";
      // Those that come make theirs with the first write.
      changeReplicas(tx, inode, extent, placed, stays ? extent.generation : undefined);
      return "done";
    });
  }

  /** Nobody can write to it: its writer, which has not said yet that it holds data, waits. */
  async #isAllDoubtful(extent: Extent): Promise<boolean> {
    if (!this.#doubtful.has(extent.block)) return false;
    const isAlive = (volume: VolumeId) => this.#options.registry.isAlive(volume);
    const bad = await this.#findBad(extent);
    return extent.volumes.every((volume) => !isAlive(volume) || bad.includes(volume));
  }

  /** What is on a disk that has failed can be read, and there may be a place for a copy soon. */
  #mayBeRescued(block: BlockId, { failing }: Replicas): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    return failing.length > 0 && nowMs - (this.#doubtful.get(block) ?? nowMs) < RESCUE_MS;
  }

  /** All that the block has left may lack what was acknowledged: settles on what it holds, when nothing better can come. */
  async #choose({ ino, start, block }: Task, extent: Extent): Promise<Outcome> {
    const { registry, recovery, clock } = this.#options;
    if (extent.volumes.some((volume) => !registry.isAlive(volume) && !registry.isLost(volume))) {
      return "later";
    }
    const sinceMs = this.#doubtful.get(block) ?? clock.monotonicMs();
    const present = extent.volumes.filter((volume) => registry.isAlive(volume));
    // Before, so that what is reported meanwhile stays: their machines may stop again.
    this.#doubtful.delete(block);
    const reports = present.map((volume) =>
      [badKey(volume, block), this.#bad.get(badKey(volume, block))] as const
    );
    for (const [key] of reports) this.#bad.delete(key);
    let isChosen = false;
    try {
      isChosen = await recovery.choose(ino, start, extent, present);
    } finally {
      if (!isChosen) {
        this.#doubtful.set(block, sinceMs);
        for (const [key, report] of reports) {
          if (report !== undefined && this.#bad.get(key)?.isCorrupt !== true) this.#bad.set(key, report);
        }
      }
    }
    return isChosen ? "again" : "later";
  }

  /**
   * It is as of a backup, and has a newer replica that was reported, or may be reported yet by who is there: that is left
   * behind when the others take another generation.
   */
  #mayBeBehind({ block, generation }: Extent): boolean {
    const { namespace, registry } = this.#options;
    if (generation >= namespace.ids.generationFloor) return false;
    const ahead = this.#ahead.get(block);
    return !registry.hasReports || (ahead !== undefined && this.#newest(ahead) > generation);
  }

  /** What is found meanwhile would have to wait. */
  get #isRestoredUnheard(): boolean {
    const { namespace, registry } = this.#options;
    return namespace.ids.generationFloor > 1 && !registry.hasReports;
  }

  /** Of the replicas of a block that is as of a backup: the newest generation that another life of the cluster gave. */
  #newest({ replicas, tries }: Ahead): Generation {
    const { generationFloor } = this.#options.namespace.ids;
    // The first of this life is taken in vain by who had the block's.
    const generations = [...replicas.values()].filter((generation) => generation !== generationFloor)
      .map((generation) => tries.get(generation) ?? generation);
    return asGeneration(Math.max(0, ...generations));
  }

  /**
   * Gives a block whose replicas are ahead of it a generation that both know. Either the server died after the replicas had
   * taken a new one: what they hold is the same under both. Or it was restored from a backup: then only those with the
   * newest count, wherever they are. Undefined when all that is left of it may lack something.
   */
  async #settle(ahead: Ahead, extent: Extent): Promise<Outcome | undefined> {
    const { namespace, registry, recovery } = this.#options;
    const { ino, start, block } = ahead.task;
    const { generation } = extent;
    const { generationFloor } = namespace.ids;
    if (generation < generationFloor && this.#newest(ahead) > generation) {
      return await this.#adopt(ahead);
    }
    // Who does not answer is left behind, and has nothing that the others lack: who may be back soon is waited for.
    if (extent.volumes.some((volume) => registry.isAwaited(volume))) return "later";
    this.#ahead.delete(block); // before, so that what is heard meanwhile stays
    let isSettled = false;
    try {
      isSettled = await recovery.settle(ino, start, block, generation);
    } catch (error) {
      if (isErrno(error, "EAGAIN") && this.#doubtful.has(block)) return undefined;
      throw error;
    } finally {
      if (!isSettled && !this.#ahead.has(block)) this.#ahead.set(block, ahead);
    }
    return isSettled ? "again" : "later";
  }

  /** Everybody is there: who comes later with a newer one finds that the block has gone on without it. */
  async #adopt(ahead: Ahead): Promise<Outcome> {
    const { namespace, recovery } = this.#options;
    const { task: { ino, start, block }, replicas, tries } = ahead;
    const found = this.#newest(ahead);
    const volumes = [...replicas].filter(([, generation]) => (tries.get(generation) ?? generation) === found)
      .map(([volume]) => volume);
    const tried = [...tries].find(([, before]) => before === found)?.[0];
    const to = tried ?? asGeneration(Math.max(found, namespace.ids.generationFloor, ...tries.keys()) + 1);
    tries.set(to, found);
    const isNewest = () => this.#newest(ahead) === found;
    if (await recovery.adopt(ino, start, block, { found, to, volumes, isNewest })) this.#ahead.delete(block);
    return "again";
  }

  async #takeOffBad({ ino, start, block }: Task, extent: Extent, bad: readonly VolumeId[]): Promise<Outcome> {
    const changed = await this.#options.recovery.replicasFailed(ino, start, block, extent.generation, bad);
    for (const volume of bad) {
      if (!changed.volumes.includes(volume)) this.#bad.delete(badKey(volume, block));
    }
    return "again";
  }

  /** Live replicas that were reported, and are bad still. */
  async #findBad(extent: Extent): Promise<VolumeId[]> {
    const reported = extent.volumes.filter((volume) =>
      this.#options.registry.isAlive(volume) && this.#bad.has(badKey(volume, extent.block))
    );
    const bad: VolumeId[] = [];
    for (const volume of reported) {
      if (await this.#isBad(extent, volume)) bad.push(volume);
      else this.#bad.delete(badKey(volume, extent.block));
    }
    return bad;
  }

  /** What was reported is so still. */
  async #isBad(extent: Extent, volume: VolumeId): Promise<boolean> {
    if (this.reportOf(volume, extent.block) === "corrupt") return true;
    try {
      await this.#copier.stateOf(extent, volume);
      return false;
    } catch (error) {
      if (isBadReply(error)) return true;
      throw error;
    }
  }

  /**
   * Nothing is left of the block but replicas that were said to be corrupt: true when one of them, whose dataserver has come
   * back since, holds what its checksums say.
   */
  async #isWellAgain(extent: Extent, bad: readonly VolumeId[]): Promise<boolean> {
    const { registry, log } = this.#options;
    const { block } = extent;
    for (const volume of bad) {
      const report = this.#bad.get(badKey(volume, block));
      if (report?.isCorrupt !== true || report.connection === registry.connection(volume)) continue;
      try {
        if (!await this.#copier.isCorrupt(extent, volume)) {
          log.warn("replica was said to be corrupt, and is not any more", { block, volume });
          this.#bad.delete(badKey(volume, block));
          return true;
        }
      } catch (error) {
        if (!isBadReply(error)) throw error;
      }
      this.#noteBad(volume, block, true); // by this connection
    }
    return false;
  }

  async #takeOff(ino: InodeId, extent: Extent, remove: readonly VolumeId[], keep: number): Promise<Outcome> {
    const isChanged = await this.#options.recovery.replace(ino, extent.start, extent, { remove, keep });
    return isChanged ? "again" : "later";
  }

  /** One more replica, in the place of `instead` if given; `to`: where, if that matters. "done": there is no place for it. */
  async #copy(
    ino: InodeId,
    extent: Extent,
    { kept, good, lost, wanted }: Replicas,
    instead?: VolumeId,
    to?: VolumeId,
  ): Promise<Outcome> {
    const placement = this.#options.registry.placement();
    const staying = kept.filter((volume) => volume !== instead);
    const target = to ?? placement.placeBeside(staying, this.#avoid(extent));
    if (target === undefined) {
      // Until one has deleted what it had of the block; or until a volume comes, or has room.
      if (placement.placeBeside(staying, (volume) => extent.volumes.includes(volume))) return "later";
      this.#finder.noteNoPlace();
      return "done";
    }
    const source = this.#copier.leastBusy(good);
    if (source === undefined || this.#copier.isBusy(target)) return "busy";
    // A lost one that is back just now must not be beside its successor, perhaps on the same host.
    const remove = [...instead === undefined ? [] : [instead], ...lost];
    const keep = Math.min(wanted, staying.length + 1);
    this.#forgetBad(target, extent.block);
    const bytes = await this.#copier.copy({ ino, extent, source, target, remove, keep });
    return bytes === undefined ? "later" : "again";
  }

  /**
   * Nothing is left but on disks that have failed: a copy of what one gives, if that is all as it was written. "done": nothing
   * is left there, or there is no place for it.
   */
  async #rescue(ino: InodeId, extent: Extent, replicas: Replicas): Promise<Outcome> {
    const { kept, wanted, failing: [source] } = replicas;
    if (source === undefined) return "done";
    if (await this.#isBad(extent, source)) {
      this.#noteBad(source, extent.block, false);
      return "again";
    }
    const instead = kept.length < wanted ? undefined : kept[0];
    return await this.#copy(ino, extent, { ...replicas, good: [source] }, instead);
  }

  /** What was said of a replica that was there before is not so of the copy that is made now. */
  #forgetBad(volume: VolumeId, block: BlockId): void {
    this.#bad.delete(badKey(volume, block));
  }

  /**
   * For balancing: moves a block's replica of about `bytes` from one volume to another, if all of its replicas are well,
   * and it is spread as well afterwards. Bytes moved; "refused": it stays where it is; "busy": there is too much to do
   * now. A failure is logged, and the block stays where it is.
   */
  async move(
    task: Task,
    source: VolumeId,
    target: VolumeId,
    bytes: number,
  ): Promise<number | "refused" | "busy"> {
    const { namespace, registry, log } = this.#options;
    const tx = namespace.begin();
    const inode = tx.findInode(task.ino);
    const extent = extentOf(tx, task);
    if (inode === undefined || extent === undefined || !extent.written) return "refused";
    const { block } = task;
    // Who is ahead would be left behind.
    if (this.#running.has(block) || this.#queue.has(block) || this.#ahead.has(block)) return "refused";
    if (this.#mayBeBehind(extent)) return "refused";
    const { volumes } = extent;
    const { counted, good, wanted } = this.#replicas(inode, extent);
    if (counted.length !== wanted || volumes.length !== wanted || good.length !== wanted) return "refused";
    if (!volumes.includes(source) || this.#avoid(extent)(target)) return "refused";
    const placement = registry.placement();
    const moved = [...volumes.filter((volume) => volume !== source), target];
    if (placement.spread(moved) < placement.spread(volumes) || !placement.hasRoom(target, bytes)) {
      return "refused";
    }
    const from = this.#copier.leastBusy(good);
    if (this.#notUrgent >= NOT_URGENT_MAX || this.#running.size >= RUNNING_MAX) return "busy";
    if (from === undefined || this.#copier.isBusy(target)) return "busy";
    this.#running.set(task.block, 4);
    try {
      const { ino } = task;
      const copy = { ino, extent, source: from, target, remove: [source], keep: wanted };
      this.#forgetBad(target, block);
      return await this.#copier.copy(copy) ?? "refused";
    } catch (error) {
      this.#failed++;
      log.warn("replica not moved", { block: task.block, source, target, error });
      return "refused";
    } finally {
      this.#running.delete(task.block);
    }
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

/** The replica is not there, out of date, or can't be read. */
function isBadReply(error: unknown): boolean {
  return isErrno(error, "ENOENT") || isErrno(error, "ESTALE") || isErrno(error, "EIO");
}
