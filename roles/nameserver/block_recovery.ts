/**
 * Taking failed replicas off a block while a writer waits: the survivors get a higher generation, so that what was
 * left behind is stale wherever it turns up, and the writer goes on with them.
 *
 * Invariants:
 * - The new generation is durable on every survivor before the namespace names it: a replica that missed the
 *   change can never be taken for a current one.
 * - So it is of a block that has no data yet: a write that comes late finds a replica, and is refused.
 * - And it is on the nameserver's disk before it is answered: after a power cut that forgot it, who was left behind would
 *   be listed again, and take the generation that the others have (Repair.replicaAhead) without what they have.
 * - A block keeps at least one replica; when no survivor answers, nothing changes and the caller tries again.
 * - It never goes on with none but corrupt ones while another may come back.
 *
 * The same bars a client whose session has ended from writing: `fence` gives all blocks of a file a new generation. What
 * it was writing then may have reached some replicas and not others: those that differ from the most are taken off before
 * anybody reads, so that no reader sees the one and then the other. All hold what was acknowledged, so that any will do.
 *
 * Replicas whose machine stopped while they were written are doubtful: they may lack what was acknowledged. They take no
 * new generation, so that they go when the block has another; `choose` settles on one when it has not.
 */

import type { Logger } from "../../base/log.ts";
import { FsError, isErrno, isTransportError } from "../../wire/errno.ts";
import type { BlockId, Generation, InodeId, VolumeId } from "../../wire/ids.ts";
import { COPY_GENERATION } from "../../wire/messages/dataserver.ts";
import { S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import {
  changeReplicas,
  dropUnwritten,
  leaveDeletion,
  regularFile,
  setChosen,
  truncateExtents,
} from "./block_operations.ts";
import { extentAt, extentsIn } from "./extents.ts";
import type { Namespace } from "./namespace.ts";
import type { Extent } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Transaction } from "./transaction.ts";

const GENERATION_TIMEOUT_MS = 2_000;
/** Of a server that has been silent for the dead time: readers find the others' new generation before the block has it. */
const SILENT_TIMEOUT_MS = 300;
/** A block none of whose replicas answers for so long is left as it is: nobody could write to it either. */
const FENCE_MS_MAX = 30_000;
const FENCE_RETRY_MS = 500;
/** So long all its replicas are waited for, before it is fenced without some. */
const FENCE_COMPLETE_MS = 6_000;
const FENCE_PAGE = 256;
/** A dataserver reads what was written lately to say what a replica holds. */
const DIGEST_TIMEOUT_MS = 30_000;

/** What is to become of a block's replicas. */
export interface Replacement {
  readonly add?: { readonly copy: VolumeId; readonly isExact: () => Promise<boolean> };
  readonly remove: readonly VolumeId[];
  /** So many there must be afterwards, or none is removed. */
  readonly keep: number;
}

/** Of replicas that are newer than a restored namespace knows. */
export interface Adoption {
  readonly found: Generation;
  /** What they take: nobody else is to have it. */
  readonly to: Generation;
  /** Those that were reported, perhaps where the block is not listed. */
  readonly volumes: readonly VolumeId[];
  readonly isNewest: () => boolean;
}

/** Of what replicas hold. */
interface Comparison {
  readonly alike: readonly VolumeId[];
  readonly others: readonly VolumeId[];
  readonly cutOff: readonly VolumeId[];
  /** Of some nobody knows, as they did not answer. */
  readonly isSilent: boolean;
}

interface TakeOptions {
  /** Also by a doubtful replica. */
  readonly chosen?: boolean;
  /** Gets those of which their dataserver says that there is no replica. */
  readonly missing?: VolumeId[];
}

export class BlockRecovery {
  readonly #namespace: Namespace;
  readonly #registry: Registry;
  readonly #log: Logger;
  /** Told of each block that has lost replicas. */
  onReplicasLost: (ino: InodeId, start: number, block: BlockId) => void = () => {};
  /** Told of each block whose replicas may have a generation that it has not, or hold different things. */
  onUnsettled: (ino: InodeId, start: number, block: BlockId) => void = () => {};
  /** Whether the block may have newer replicas, from after the backup that it is as of: it waits for them. */
  mayBeBehind: (extent: Extent) => boolean = () => false;
  /** The replica is known to be corrupt. */
  isCorrupt: (volume: VolumeId, block: BlockId) => boolean = () => false;
  /** Changes under way, by block: a second report about one waits for the first. */
  readonly #running = new Map<BlockId, Promise<unknown>>();

  constructor(namespace: Namespace, registry: Registry, log: Logger) {
    this.#namespace = namespace;
    this.#registry = registry;
    this.#log = log;
  }

  /** Which replicas the block has, and their generation, is being changed just now. */
  isChanging(block: BlockId): boolean {
    return this.#running.has(block);
  }

  /** The block as it is after `failed` were taken off it, or as it is now when the report is out of date. */
  async replicasFailed(
    ino: InodeId,
    start: number,
    block: BlockId,
    generation: Generation,
    failed: readonly VolumeId[],
    hasData = false,
  ): Promise<Extent> {
    const changed = await this.#alone(
      block,
      () => this.#change(ino, start, block, generation, failed, { hasData, mayLeave: true }),
    );
    return changed!;
  }

  /**
   * All replicas that answer get a new generation, and those that hold something else than most are taken off. EAGAIN when
   * none answers. False: somebody has gone away meanwhile who may be back soon, and nobody knows what it holds. Then none is
   * taken off, unless somebody waits for it (`mayLeave`): when dataservers are stopped, or started again, one after the other
   * a block would be left with the replicas of those that are there just then, though all of them hold the same.
   */
  async settle(
    ino: InodeId,
    start: number,
    block: BlockId,
    generation: Generation,
    { mayLeave = false }: { readonly mayLeave?: boolean } = {},
  ): Promise<boolean> {
    const fenced = await this.#alone(
      block,
      () => this.#change(ino, start, block, generation, [], { hasData: false, mayLeave }),
    );
    if (fenced === null) return false;
    const { others, cutOff } = await this.#alike(fenced, fenced.volumes);
    if (!mayLeave && cutOff.some((volume) => !this.#registry.isLost(volume))) return false;
    if (others.length === 0) return true;
    this.#log.warn("replicas of a block differ, as its writer has gone", { ino, block, others });
    await this.replicasFailed(ino, start, block, fenced.generation, others);
    return true;
  }

  /**
   * Changes where a block's replicas are: makes a copy (COPY_GENERATION) a replica, while nobody writes to the block, and
   * takes others off, in one step. `isExact` is asked at the last moment whether the copy is what the block's replicas
   * hold. False, and nothing has changed, when it is not, or the block has changed since `seen`, or nobody answers; what
   * there is of a copy with a generation is deleted then.
   *
   * Invariant: those in `remove` go only if all others that are to stay, and at least `keep` of them, have the new
   * generation. If not, they stay as well; and the copy is left out where it would share a host with one of them.
   */
  replace(
    ino: InodeId,
    start: number,
    seen: Extent,
    change: Replacement,
  ): Promise<boolean> {
    const { add } = change;
    return this.#alone(seen.block, async () => {
      const isSame = (now: Extent) => now.generation === seen.generation;
      if (!isSame(await this.#namespace.look((tx) => currentExtent(tx, ino, start, seen.block)))) {
        return false;
      }
      if (add !== undefined && !await add.isExact()) return false;
      // Who did not answer may have taken the generation all the same: it is used up before others get it (onUnsettled).
      const giveUp = async () => {
        this.onUnsettled(ino, start, seen.block);
        if (add !== undefined) {
          await this.#namespace.change((tx) => leaveDeletion(tx, add.copy, seen.block, to));
        }
        return false;
      };
      const to = this.#namespace.ids.generationAfter(seen.generation);
      // The copy first: if it fails, nothing has changed. Who of the others does not answer then is left behind.
      if (add !== undefined) {
        const copied = { ...seen, generation: COPY_GENERATION };
        if (!await this.#setGeneration(add.copy, copied, to)) return await giveUp();
      }
      // Those that go as well: from now on no replica takes what another does not.
      const took = await this.#takers(seen.volumes, seen, to);
      const volumes = this.#replicasAfter(seen.volumes, took, change);
      if (volumes.length === 0) return await giveUp();
      return await this.#namespace.change((tx) => {
        const now = tx.findInode(ino) === undefined ? undefined : extentAt(tx, regularFile(tx, ino), start);
        if (now?.block !== seen.block || !isSame(now)) {
          // The file was removed, or cut, meanwhile: nobody else knows of the copy, which has a generation by now.
          if (add !== undefined) leaveDeletion(tx, add.copy, seen.block, to);
          return false;
        }
        changeReplicas(tx, regularFile(tx, ino), now, volumes);
        if (add !== undefined && !volumes.includes(add.copy)) leaveDeletion(tx, add.copy, seen.block, to);
        return true;
      }, true);
    });
  }

  /**
   * None but doubtful replicas are left, which these are: what one of them holds is what the block holds from now on. True
   * when that is so. Who has written to it without a sync hears of it (Block.chosenAt).
   */
  choose(ino: InodeId, start: number, seen: Extent, doubtful: readonly VolumeId[]): Promise<boolean> {
    return this.#alone(seen.block, async () => {
      const isSame = (now: Extent) => now.generation === seen.generation;
      const to = this.#namespace.ids.generationAfter(seen.generation);
      // One that was chosen before, though its answer was lost, may have been read by then.
      const before = await Promise.all(doubtful.map((volume) => this.#hasGeneration(volume, seen.block, to)));
      const chosen = doubtful.filter((_, i) => before[i]);
      const compared = chosen.length > 0 ? undefined : await this.#alike(seen, doubtful, to);
      // One that is slow may be the one that lacks nothing.
      if (compared?.isSilent === true) return false;
      const kept = compared?.alike ?? chosen;
      if (!isSame(await this.#namespace.look((tx) => currentExtent(tx, ino, start, seen.block)))) {
        return false;
      }
      if (kept.length === 0) return false;
      // First, as nobody can tell afterwards that what took the generation was doubtful before.
      await this.#namespace.change((tx) => {
        const now = currentExtent(tx, ino, start, seen.block);
        if (isSame(now)) setChosen(tx, regularFile(tx, ino), now, to);
      }, true);
      const volumes = await this.#takers(kept, seen, to, { chosen: true });
      if (volumes.length === 0) return false;
      const isChanged = await this.#namespace.change((tx) => {
        const now = currentExtent(tx, ino, start, seen.block);
        if (!isSame(now)) return false;
        changeReplicas(tx, regularFile(tx, ino), now, volumes);
        return true;
      }, true);
      if (!isChanged) return false;
      const { block } = seen;
      this.#log.error("block may have lost what was not synced: all its replicas' machines stopped", {
        block,
        ino,
        kept: volumes,
      });
      this.onReplicasLost(ino, start, block);
      return true;
    });
  }

  async #hasGeneration(volume: VolumeId, block: BlockId, generation: Generation): Promise<boolean> {
    const dataserver = this.#registry.dataserver(volume);
    if (dataserver === null) return false;
    try {
      await dataserver.replicaState({ volume, block, generation }, { timeoutMs: GENERATION_TIMEOUT_MS });
      return true;
    } catch (error) {
      if (isErrno(error, "ESTALE") || isErrno(error, "ENOENT")) return false;
      throw error;
    }
  }

  /**
   * Those of `volumes` whose replicas hold the same, as many as possible, and those that hold something else, or do not say
   * what. `cutOff`: the connection to these has ended, or there is none. `next`: some may have taken this generation, which
   * nobody has heard of.
   */
  async #alike(
    { block, generation }: Extent,
    volumes: readonly VolumeId[],
    next?: Generation,
  ): Promise<Comparison> {
    let isSilent = false;
    const cutOff: VolumeId[] = [];
    const ask = async (volume: VolumeId, generation: Generation) => {
      const request = { volume, block, generation, digest: true };
      const dataserver = this.#registry.dataserver(volume);
      if (dataserver === null) throw new FsError("EHOSTUNREACH", "its dataserver is away");
      return await dataserver.replicaState(request, { timeoutMs: DIGEST_TIMEOUT_MS });
    };
    const found = await Promise.all(volumes.map(async (volume) => {
      try {
        return await ask(volume, generation).catch((error) => {
          if (next === undefined || !isErrno(error, "ESTALE")) throw error;
          return ask(volume, next);
        });
      } catch (error) {
        isSilent ||= isTransportError(error);
        if (isTransportError(error) && !isErrno(error, "ETIMEDOUT")) cutOff.push(volume);
        if (!isErrno(error, "ENOENT")) {
          this.#log.warn("replica does not say what it holds", { volume, block, error });
        }
        return undefined;
      }
    }));
    const groups = new Map<string, { length: number; readonly volumes: VolumeId[] }>();
    found.forEach((state, i) => {
      if (state?.digest === undefined) return;
      const group = groups.get(state.digest) ?? { length: state.length, volumes: [] };
      group.volumes.push(volumes[i]!);
      groups.set(state.digest, group);
    });
    const [best] = [...groups.values()].sort((a, b) =>
      b.volumes.length - a.volumes.length || b.length - a.length
    );
    if (best === undefined) return { alike: [], others: [], cutOff, isSilent }; // nobody knows: as it was
    const others = volumes.filter((volume) => !best.volumes.includes(volume));
    return { alike: best.volumes, others, cutOff, isSilent };
  }

  /**
   * The block goes on with what another life of the cluster made of it: with those replicas of `volumes`, and of its own,
   * that have the generation `found`, which is newer than the backup knows. The others are left behind. False, and nothing
   * has changed, when it is not the newest any more by the time that they have taken `to`.
   */
  adopt(
    ino: InodeId,
    start: number,
    block: BlockId,
    { found, to, volumes, isNewest }: Adoption,
  ): Promise<boolean> {
    return this.#alone(block, async () => {
      const extent = await this.#namespace.look((tx) => currentExtent(tx, ino, start, block));
      if (found <= extent.generation) return true;
      const candidates = [...new Set([...extent.volumes, ...volumes])];
      const newer = { ...extent, generation: found, written: true };
      let survivors = await this.#takers(candidates, newer, to);
      if (survivors.length === 0) {
        // None but doubtful ones: what most of them hold counts. One that is slow may be the one that lacks nothing.
        const { alike, isSilent } = await this.#alike(newer, candidates);
        if (!isSilent) survivors = await this.#takers(alike, newer, to, { chosen: true });
      }
      if (survivors.length === 0) {
        throw new FsError("EHOSTUNREACH", `block ${block}: no replica answers`, { op: "adopt" });
      }
      const isAdopted = await this.#namespace.change((tx) => {
        const now = currentExtent(tx, ino, start, block);
        if (now.generation !== extent.generation) return true;
        if (!isNewest()) return false;
        changeReplicas(tx, regularFile(tx, ino), now, survivors, to);
        return true;
      }, true);
      if (!isAdopted) return false;
      this.#log.warn("block goes on with what it became after the backup", {
        ...{ block, ino, found, generation: to, volumes: survivors },
      });
      this.onReplicasLost(ino, start, block);
      return true;
    });
  }

  /** Which of those that took the new generation, and the copy, are the block's from now on. */
  #replicasAfter(
    before: readonly VolumeId[],
    took: readonly VolumeId[],
    { add, remove, keep }: Replacement,
  ): VolumeId[] {
    const copies = add === undefined ? [] : [add.copy];
    const staying = before.filter((volume) => !remove.includes(volume));
    const isEnough = staying.every((volume) => took.includes(volume)) &&
      staying.length + copies.length >= keep;
    if (isEnough) return [...staying, ...copies];
    const hostOf = (volume: VolumeId) => this.#registry.location(volume).host;
    const keptHosts = took.filter((volume) => remove.includes(volume)).map(hostOf);
    return [...took, ...copies.filter((copy) => !keptHosts.includes(hostOf(copy)))];
  }

  /** Runs a change of a block's replicas when the one before has ended. */
  async #alone<T>(block: BlockId, change: () => Promise<T>): Promise<T> {
    for (let before = this.#running.get(block); before !== undefined; before = this.#running.get(block)) {
      await before.catch(() => {});
    }
    const running = change();
    this.#running.set(block, running);
    try {
      return await running;
    } finally {
      this.#running.delete(block);
    }
  }

  /** From now on dataservers refuse writes to the file that were begun before, and nothing is left of them past its end. Never rejects. */
  async fence(ino: InodeId): Promise<void> {
    try {
      // What it wrote and did not report belongs to no extent: nobody sees it later. A file that grows again reads as zeros.
      await this.#namespace.change((tx) => {
        const inode = tx.findInode(ino);
        if (inode === undefined || (inode.mode & S_IFMT) !== S_IFREG) return;
        truncateExtents(tx, tx.change(inode), inode.size);
        dropUnwritten(tx, inode);
      });
      for (let from = 0;;) {
        const page = await this.#namespace.look((tx) => {
          const inode = tx.findInode(ino);
          return inode === undefined ? [] : extentsIn(tx, inode, from, Infinity, FENCE_PAGE);
        });
        await Promise.all(page.map((extent) => this.#fenceExtent(ino, extent)));
        const last = page.at(-1);
        if (last === undefined || page.length < FENCE_PAGE) break;
        from = last.start + last.length;
      }
    } catch (error) {
      this.#log.error("file not fenced", { ino, error });
    }
  }

  async #fenceExtent(ino: InodeId, extent: Extent): Promise<void> {
    const { clock } = this.#namespace;
    const untilMs = clock.monotonicMs() + FENCE_MS_MAX;
    const completeMs = clock.monotonicMs() + FENCE_COMPLETE_MS;
    // Who is coming back just now, as after a restart of ours, is not left behind; nor who goes meanwhile.
    const isAway = (volume: VolumeId) => this.#registry.isAwaited(volume);
    while (extent.volumes.some(isAway) && clock.monotonicMs() < completeMs) await clock.sleep(FENCE_RETRY_MS);
    for (;;) {
      const mayLeave = clock.monotonicMs() >= completeMs;
      try {
        if (await this.settle(ino, extent.start, extent.block, extent.generation, { mayLeave })) return;
      } catch (error) {
        if (isErrno(error, "ENOENT")) return; // dropped meanwhile
        if (!isErrno(error, "EAGAIN") || clock.monotonicMs() > untilMs) {
          this.#log.warn("block not fenced", { ino, block: extent.block, error });
          this.onUnsettled(ino, extent.start, extent.block);
          return;
        }
      }
      await clock.sleep(FENCE_RETRY_MS);
    }
  }

  /** Null, and nothing has changed: somebody who may be back soon has gone away meanwhile, and may not be left behind. */
  async #change(
    ino: InodeId,
    start: number,
    block: BlockId,
    generation: Generation,
    failed: readonly VolumeId[],
    { hasData, mayLeave }: { readonly hasData: boolean; readonly mayLeave: boolean },
  ): Promise<Extent | null> {
    const extent = await this.#namespace.look((tx) => currentExtent(tx, ino, start, block));
    if (extent.generation !== generation) return extent;
    if (this.mayBeBehind(extent)) {
      throw new FsError("EAGAIN", `block ${block} may be behind its replicas`, { op: "replicaFailed" });
    }
    const candidates = extent.volumes.filter((volume) => !failed.includes(volume));
    const to = this.#namespace.ids.generationAfter(extent.generation);
    const written = extent.written || hasData;
    const before = new Map(candidates.map((volume) => [volume, this.#registry.connection(volume)]));
    const missing: VolumeId[] = [];
    const took = await this.#takers(candidates, { ...extent, written }, to, { missing });
    // Where nobody says that one has failed, who is there and was not heard is asked once more before it is left behind.
    const unheard = failed.length > 0
      ? []
      : candidates.filter((volume) => !took.includes(volume) && this.#registry.isAlive(volume));
    const heard = await this.#takers(unheard, { ...extent, written }, to);
    const isCutOff = (volume: VolumeId) => before.get(volume) !== this.#registry.connection(volume);
    const survivors = candidates.filter((volume) =>
      took.includes(volume) ? !isCutOff(volume) : heard.includes(volume)
    );
    const isCorrupt = (volume: VolumeId) => this.isCorrupt(volume, block);
    const isBetter = (volume: VolumeId) =>
      !isCorrupt(volume) && !missing.includes(volume) && !this.#registry.isLost(volume);
    if (survivors.every(isCorrupt) && (survivors.length === 0 || extent.volumes.some(isBetter))) {
      // Who did not answer may have taken it, and then refuses what has the old one.
      this.onUnsettled(ino, start, block);
      if (extent.volumes.every((volume) => missing.includes(volume))) {
        throw new FsError("ENODATA", `block ${block}: all its replicas are missing`, { op: "replicaFailed" });
      }
      const which = survivors.length === 0 ? "no replica answers" : "none but corrupt replicas answer";
      throw new FsError("EAGAIN", `block ${block}: ${which}`, { op: "replicaFailed" });
    }
    // Whoever has gone may be the one that has all on its disk, when the machines of those that have answered stop next.
    const mayBeBack = (volume: VolumeId) => isCutOff(volume) && !this.#registry.isLost(volume);
    if (!mayLeave && candidates.some((volume) => !survivors.includes(volume) && mayBeBack(volume))) {
      this.onUnsettled(ino, start, block);
      return null;
    }
    const changed = await this.#namespace.change((tx) => {
      const now = currentExtent(tx, ino, start, block);
      if (now.generation !== extent.generation) return now;
      return changeReplicas(tx, regularFile(tx, ino), now, survivors);
    }, true);
    const lost = extent.volumes.filter((volume) => !changed.volumes.includes(volume));
    if (lost.length > 0) {
      const { generation, volumes: left } = changed;
      this.#log.warn("replicas taken off a block", { block, ino, generation, left, failed: lost });
      this.onReplicasLost(ino, start, block);
    }
    return changed;
  }

  /**
   * Those of `volumes` that took the generation, and have been there since: while one is waited for, another's machine may
   * stop, and come back without what was not on its disk.
   */
  async #takers(
    volumes: readonly VolumeId[],
    extent: Extent,
    to: Generation,
    options: TakeOptions = {},
  ): Promise<VolumeId[]> {
    const connections = volumes.map((volume) => this.#registry.connection(volume));
    const took = await Promise.all(
      volumes.map((volume) => this.#setGeneration(volume, extent, to, options)),
    );
    return volumes.filter((volume, i) => took[i] && this.#registry.connection(volume) === connections[i]);
  }

  /**
   * True when the replica has the new generation. Of a block without data yet it may not have been made: it is made now, or
   * a write that is still on its way would make it with the old one.
   */
  async #setGeneration(
    volume: VolumeId,
    extent: Extent,
    to: Generation,
    { chosen = false, missing }: TakeOptions = {},
  ): Promise<boolean> {
    const dataserver = this.#registry.dataserver(volume);
    if (dataserver === null) return false;
    try {
      const request = {
        volume,
        block: extent.block,
        from: extent.generation,
        to,
        ...chosen ? { chosen } : {},
        ...extent.written ? {} : { create: true },
      };
      const timeoutMs = this.#registry.isSilent(volume) ? SILENT_TIMEOUT_MS : GENERATION_TIMEOUT_MS;
      await dataserver.setGeneration(request, { timeoutMs });
      return true;
    } catch (error) {
      if (isErrno(error, "ENOENT")) missing?.push(volume);
      this.#log.warn("replica did not take a new generation", { volume, block: extent.block, error });
      return false;
    }
  }
}

/** The extent, if the block is still there; ENOENT when it was dropped meanwhile. */
function currentExtent(tx: Transaction, ino: InodeId, start: number, block: BlockId): Extent {
  const extent = extentAt(tx, regularFile(tx, ino), start);
  if (extent === undefined || extent.block !== block) {
    throw new FsError("ENOENT", `block ${block} was dropped`, { op: "block dropped" });
  }
  return extent;
}
