/**
 * Taking failed replicas off a block while a writer waits: the survivors get a higher generation, so that what was
 * left behind is stale wherever it turns up, and the writer goes on with them.
 *
 * Invariants:
 * - The new generation is durable on every survivor before the namespace names it: a replica that missed the
 *   change can never be taken for a current one.
 * - A block keeps at least one replica; when no survivor answers, nothing changes and the caller tries again.
 */

import type { Logger } from "../../base/log.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asGeneration, type BlockId, type Generation, type InodeId, type VolumeId } from "../../wire/ids.ts";
import { DATASERVER_PUSHES } from "../../wire/messages/dataserver.ts";
import { changeReplicas, regularFile } from "./block_operations.ts";
import { extentAt } from "./extents.ts";
import type { Namespace } from "./namespace.ts";
import type { Extent } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Transaction } from "./transaction.ts";

const GENERATION_TIMEOUT_MS = 2_000;

export class BlockRecovery {
  readonly #namespace: Namespace;
  readonly #registry: Registry;
  readonly #log: Logger;
  /** Changes under way, by block: a second report about one waits for the first. */
  readonly #running = new Map<BlockId, Promise<Extent>>();

  constructor(namespace: Namespace, registry: Registry, log: Logger) {
    this.#namespace = namespace;
    this.#registry = registry;
    this.#log = log;
  }

  /** The block as it is after `failed` were taken off it, or as it is now when the report is out of date. */
  async replicasFailed(
    ino: InodeId,
    start: number,
    block: BlockId,
    generation: Generation,
    failed: readonly VolumeId[],
  ): Promise<Extent> {
    const running = this.#running.get(block);
    if (running !== undefined) {
      await running.catch(() => {});
      return await this.replicasFailed(ino, start, block, generation, failed);
    }
    const promise = this.#change(ino, start, block, generation, failed);
    this.#running.set(block, promise);
    try {
      return await promise;
    } finally {
      this.#running.delete(block);
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
    this.#log.warn("replicas taken off a block", {
      block,
      ino,
      generation: changed.generation,
      left: changed.volumes,
      failed: extent.volumes.filter((volume) => !changed.volumes.includes(volume)),
    });
    return changed;
  }

  /** True when the replica has the new generation (or the block has no data yet, and will be made with it). */
  async #setGeneration(volume: VolumeId, extent: Extent, to: Generation): Promise<boolean> {
    const peer = this.#registry.peer(volume);
    if (peer === null) return false;
    try {
      const request = { volume, block: extent.block, from: extent.generation, to };
      await peer.push(DATASERVER_PUSHES.methods.setGeneration.op, request, {
        timeoutMs: GENERATION_TIMEOUT_MS,
      });
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
