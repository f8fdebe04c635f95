/**
 * Taking failed replicas off a block while a writer waits: the survivors get a higher generation, so that what was
 * left behind is stale wherever it turns up, and the writer goes on with them.
 *
 * Invariants:
 * - The new generation is durable on every survivor before the namespace names it: a replica that missed the
 *   change can never be taken for a current one.
 * - A block keeps at least one replica; when no survivor answers, nothing changes and the caller tries again.
 *
 * The same bars a client whose session has ended from writing: `fence` gives all blocks of a file a new generation.
 */

import type { Logger } from "../../base/log.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asGeneration, type BlockId, type Generation, type InodeId, type VolumeId } from "../../wire/ids.ts";
import { COPY_GENERATION } from "../../wire/messages/dataserver.ts";
import { changeReplicas, regularFile, truncateExtents } from "./block_operations.ts";
import { extentAt, extentsIn } from "./extents.ts";
import type { Namespace } from "./namespace.ts";
import type { Extent } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Transaction } from "./transaction.ts";

const GENERATION_TIMEOUT_MS = 2_000;
/** A block none of whose replicas answers for so long is left as it is: nobody could write to it either. */
const FENCE_MS_MAX = 30_000;
const FENCE_RETRY_MS = 500;
const FENCE_PAGE = 256;

export class BlockRecovery {
  readonly #namespace: Namespace;
  readonly #registry: Registry;
  readonly #log: Logger;
  /** Told of each block that has lost replicas. */
  onReplicasLost: (ino: InodeId, start: number, block: BlockId) => void = () => {};
  /** Changes under way, by block: a second report about one waits for the first. */
  readonly #running = new Map<BlockId, Promise<unknown>>();

  constructor(namespace: Namespace, registry: Registry, log: Logger) {
    this.#namespace = namespace;
    this.#registry = registry;
    this.#log = log;
  }

  /** The block as it is after `failed` were taken off it, or as it is now when the report is out of date. */
  replicasFailed(
    ino: InodeId,
    start: number,
    block: BlockId,
    generation: Generation,
    failed: readonly VolumeId[],
  ): Promise<Extent> {
    return this.#alone(block, () => this.#change(ino, start, block, generation, failed));
  }

  /**
   * Makes a copy (COPY_GENERATION) a replica of its block, while nobody writes to it. `isExact` is asked at the last moment
   * whether the copy is what the block's replicas hold. False when it is not, or the block has changed since.
   */
  addReplica(
    ino: InodeId,
    start: number,
    seen: Extent,
    copy: VolumeId,
    isExact: () => Promise<boolean>,
  ): Promise<boolean> {
    return this.#alone(seen.block, async () => {
      const isSame = (now: Extent) => now.generation === seen.generation;
      if (!isSame(await this.#namespace.look((tx) => current(tx, ino, start, seen.block)))) return false;
      if (!await isExact()) return false;
      const to = asGeneration(seen.generation + 1);
      // The copy first: if it fails, nothing has changed. Who of the others does not answer then is left behind.
      if (!await this.#setGeneration(copy, { ...seen, generation: COPY_GENERATION }, to)) return false;
      const took = await Promise.all(seen.volumes.map((volume) => this.#setGeneration(volume, seen, to)));
      const volumes = [...seen.volumes.filter((_, i) => took[i]), copy];
      return await this.#namespace.change((tx) => {
        const now = current(tx, ino, start, seen.block);
        if (!isSame(now)) return false;
        changeReplicas(tx, regularFile(tx, ino), now, volumes);
        return true;
      });
    });
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
      // What it wrote past the end and did not report belongs to no extent: a file that grows again reads as zeros there.
      await this.#namespace.change((tx) => {
        const inode = tx.findInode(ino);
        if (inode !== undefined) truncateExtents(tx, tx.change(inode), inode.size);
      });
    } catch (error) {
      this.#log.error("file not fenced", { ino, error });
    }
  }

  async #fenceExtent(ino: InodeId, extent: Extent): Promise<void> {
    const { clock } = this.#namespace;
    const untilMs = clock.monotonicMs() + FENCE_MS_MAX;
    for (;;) {
      try {
        await this.replicasFailed(ino, extent.start, extent.block, extent.generation, []);
        return;
      } catch (error) {
        if (isErrno(error, "ENOENT")) return; // dropped meanwhile
        if (!isErrno(error, "EHOSTUNREACH") || clock.monotonicMs() > untilMs) {
          this.#log.warn("block not fenced", { ino, block: extent.block, error });
          return;
        }
        await clock.sleep(FENCE_RETRY_MS);
      }
    }
  }

  async #change(
    ino: InodeId,
    start: number,
    block: BlockId,
    generation: Generation,
    failed: readonly VolumeId[],
  ): Promise<Extent> {
    const extent = await this.#namespace.look((tx) => current(tx, ino, start, block));
    if (extent.generation !== generation) return extent;
    const candidates = extent.volumes.filter((volume) => !failed.includes(volume));
    const to = asGeneration(extent.generation + 1);
    const took = await Promise.all(candidates.map((volume) => this.#setGeneration(volume, extent, to)));
    const survivors = candidates.filter((_, i) => took[i]);
    if (survivors.length === 0) {
      throw new FsError("EHOSTUNREACH", `block ${block}: no replica answers`, { op: "replicaFailed" });
    }
    const changed = await this.#namespace.change((tx) => {
      const now = current(tx, ino, start, block);
      if (now.generation !== extent.generation) return now;
      return changeReplicas(tx, regularFile(tx, ino), now, survivors);
    });
    const lost = extent.volumes.filter((volume) => !changed.volumes.includes(volume));
    if (lost.length > 0) {
      const { generation, volumes: left } = changed;
      this.#log.warn("replicas taken off a block", { block, ino, generation, left, failed: lost });
      this.onReplicasLost(ino, start, block);
    }
    return changed;
  }

  /** True when the replica has the new generation (or the block has no data yet, and will be made with it). */
  async #setGeneration(volume: VolumeId, extent: Extent, to: Generation): Promise<boolean> {
    const dataserver = this.#registry.dataserver(volume);
    if (dataserver === null) return false;
    try {
      const request = { volume, block: extent.block, from: extent.generation, to };
      await dataserver.setGeneration(request, { timeoutMs: GENERATION_TIMEOUT_MS });
      return true;
    } catch (error) {
      if (isErrno(error, "ENOENT") && !extent.written) return true;
      this.#log.warn("replica did not take a new generation", { volume, block: extent.block, error });
      return false;
    }
  }
}

/** The extent, if the block is still there; ENOENT when it was dropped meanwhile. */
function current(tx: Transaction, ino: InodeId, start: number, block: BlockId): Extent {
  const extent = extentAt(tx, regularFile(tx, ino), start);
  if (extent === undefined || extent.block !== block) {
    throw new FsError("ENOENT", `block ${block} was dropped`, { op: "block dropped" });
  }
  return extent;
}
