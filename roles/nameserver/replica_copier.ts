/**
 * Copies replicas from one volume to another, and makes the copies their block's.
 *
 * Invariants:
 * - A copy counts only if no byte of its source changed since the copy began, seen while nobody can write.
 * - What there is of a copy that came to nothing is deleted.
 * - Bounded: so many copies from or to one volume at once, and so many bytes a second of all together.
 */

import type { Logger } from "../../base/log.ts";
import { FsError } from "../../wire/errno.ts";
import type { InodeId, VolumeId } from "../../wire/ids.ts";
import {
  COPY_GENERATION,
  type CopyReplicaRequest,
  type ReplicaStateReply,
} from "../../wire/messages/dataserver.ts";
import type { LeaseTable } from "../leaseserver/leases.ts";
import type { BlockRecovery } from "./block_recovery.ts";
import { deletionKey, replicaKey } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import { encodeNumbers, type Extent } from "./records.ts";
import type { Registry } from "./registry.ts";

const COPIES_PER_VOLUME = 8;
/** A source that changes while it is copied is copied again; after so many times while nobody can write. */
const TRIES_WITH_WRITERS = 2;
const CALL_TIMEOUT_MS = 3_000;
/** A copy that takes longer than its bytes at this rate has failed. */
const SLOWEST_BYTES_PER_MS = 1_000;
const COPY_TIMEOUT_MS = 30_000;

export interface CopierOptions {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly leases: LeaseTable;
  readonly recovery: BlockRecovery;
  readonly log: Logger;
  /** Of all copies together, as it is now. */
  readonly bytesPerSecond: () => number;
  /** Among how many that is shared now. */
  readonly sharers: () => number;
}

/** What becomes of a block's replicas with the copy. */
export interface Copy {
  readonly ino: InodeId;
  readonly extent: Extent;
  readonly source: VolumeId;
  readonly target: VolumeId;
  /** Replicas in whose place the copy comes, and how many there must be without them. */
  readonly remove: readonly VolumeId[];
  readonly keep: number;
}

export class ReplicaCopier {
  readonly #options: CopierOptions;
  readonly #busy = new Map<VolumeId, number>();
  /** Replicas made, and their bytes. */
  copied = 0;
  copiedBytes = 0;

  constructor(options: CopierOptions) {
    this.#options = options;
  }

  isBusy(volume: VolumeId): boolean {
    return this.#load(volume) >= COPIES_PER_VOLUME;
  }

  /** The one of `volumes` with the fewest copies under way, if it may have another. */
  leastBusy(volumes: readonly VolumeId[]): VolumeId | undefined {
    const free = volumes.filter((volume) => !this.isBusy(volume));
    return free.length === 0
      ? undefined
      : free.reduce((least, volume) => this.#load(volume) < this.#load(least) ? volume : least);
  }

  /** Bytes of the replica that was made; undefined when the block has changed meanwhile. Errors: of the dataservers. */
  async copy(copy: Copy): Promise<number | undefined> {
    const { recovery, leases, registry, log } = this.#options;
    const { ino, extent, source, target, remove, keep } = copy;
    const add = async ({ state }: ReplicaStateReply) =>
      await recovery.replace(ino, extent.start, extent, {
        add: {
          copy: target,
          isExact: async () =>
            !registry.isDraining(target) && (await this.stateOf(extent, source)).state === state,
        },
        remove,
        keep,
      });
    this.#count(source, 1);
    this.#count(target, 1);
    let bytes: number | undefined;
    try {
      for (let tries = 1; tries <= TRIES_WITH_WRITERS && bytes === undefined; tries++) {
        const made = await this.#make(copy, true);
        if (await leases.withoutWriters(ino, () => add(made))) bytes = made.length;
        // It was given up with a generation that another one there would get, too.
        else if (this.#isBeingDeleted(copy)) return undefined;
      }
      bytes ??= await leases.withoutWriters(ino, async () => {
        const made = await this.#make(copy, false);
        return await add(made) ? made.length : undefined;
      });
    } catch (error) {
      // The block, or a server, went meanwhile.
      log.debug("replica not copied", { block: extent.block, source, target, error });
      throw error;
    } finally {
      this.#count(source, -1);
      this.#count(target, -1);
      if (bytes === undefined) this.#discard(copy);
    }
    if (bytes === undefined) return undefined;
    if (!this.#isListed(copy)) { // left out, or gone again
      this.#discard(copy);
      return undefined;
    }
    this.copied++;
    this.copiedBytes += bytes;
    log.debug("block has a new replica", { block: extent.block, ino, volume: target, insteadOf: remove });
    return bytes;
  }

  #isListed({ extent: { block }, target }: Copy): boolean {
    return this.#options.namespace.journal.get(replicaKey(target, block)) !== undefined;
  }

  /** Only while it is a copy: what is made of it later has a generation of its own, and was told of by who gave it that. */
  #discard(copy: Copy): void {
    if (this.#isListed(copy) || this.#isBeingDeleted(copy)) return;
    const key = deletionKey(copy.target, copy.extent.block);
    this.#options.namespace.journal.append([[key, encodeNumbers([COPY_GENERATION])]]);
  }

  #isBeingDeleted({ extent: { block }, target }: Copy): boolean {
    return this.#options.namespace.journal.get(deletionKey(target, block)) !== undefined;
  }

  #load(volume: VolumeId): number {
    return this.#busy.get(volume) ?? 0;
  }

  #count(volume: VolumeId, by: number): void {
    const count = this.#load(volume) + by;
    if (count === 0) this.#busy.delete(volume);
    else this.#busy.set(volume, count);
  }

  async #make({ extent, source, target }: Copy, isLimited: boolean): Promise<ReplicaStateReply> {
    const { node, address } = this.#options.registry.location(source);
    const rate = this.#rate;
    const request: CopyReplicaRequest = {
      volume: target,
      block: extent.block,
      generation: extent.generation,
      source: { node, volume: source, address },
      ...(isLimited ? { bytesPerSecond: rate } : {}),
    };
    const slowest = isLimited ? slowestAt(rate) : SLOWEST_BYTES_PER_MS * 10;
    const timeoutMs = COPY_TIMEOUT_MS + extent.length / slowest;
    return await this.#dataserver(target).copyReplica(request, { timeoutMs });
  }

  async stateOf({ block, generation }: Extent, volume: VolumeId): Promise<ReplicaStateReply> {
    const request = { block, generation, volume };
    return await this.#dataserver(volume).replicaState(request, { timeoutMs: CALL_TIMEOUT_MS });
  }

  /** Has all of the replica read, and compared with its checksums. Errors: as stateOf. */
  async isCorrupt({ block, generation, length }: Extent, volume: VolumeId): Promise<boolean> {
    const bytesPerSecond = this.#rate;
    const request = { block, generation, volume, length, bytesPerSecond };
    const timeoutMs = COPY_TIMEOUT_MS + length / slowestAt(bytesPerSecond);
    const { corrupt } = await this.#dataserver(volume).verifyReplica(request, { timeoutMs });
    return corrupt !== undefined;
  }

  /** Bytes a second of one copy. */
  get #rate(): number {
    const { bytesPerSecond, sharers } = this.#options;
    return Math.ceil(bytesPerSecond() / Math.max(1, sharers()));
  }

  #dataserver(volume: VolumeId): NonNullable<ReturnType<Registry["dataserver"]>> {
    const dataserver = this.#options.registry.dataserver(volume);
    if (dataserver === null) throw new FsError("EHOSTUNREACH", `the dataserver of volume ${volume} is away`);
    return dataserver;
  }
}

/** Bytes per ms. */
function slowestAt(bytesPerSecond: number): number {
  return Math.min(SLOWEST_BYTES_PER_MS, bytesPerSecond / 2_000);
}
