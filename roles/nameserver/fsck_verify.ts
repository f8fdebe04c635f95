/**
 * Has the bytes of every replica read and compared: by each dataserver with its checksums, and here those of one block
 * with each other.
 * Invariant: replicas are said to differ only after both were read while nobody could write to their file.
 * Bounded: BLOCKS_MAX blocks at a time; each volume reads one replica at a time, at the rate that was asked for.
 */

import { isErrno } from "../../wire/errno.ts";
import type { InodeId, VolumeId } from "../../wire/ids.ts";
import type { VerifyReplicaReply } from "../../wire/messages/dataserver.ts";
import { extentNow, type FsckContext, volumeName } from "./fsck_context.ts";
import type { Extent } from "./records.ts";

const BLOCKS_MAX = 16;
const TRIES = 3;
const RETRY_MS = 500;
const STATE_TIMEOUT_MS = 5_000;
const TIMEOUT_MS = 60_000;
/** While writers wait, at least as fast as this. */
const ALONE_BYTES_PER_SECOND = 256 * 1024 * 1024;

export interface VerifiedBlock {
  readonly extent: Extent;
  readonly ino: InodeId;
  readonly path: (() => Uint8Array) | undefined;
  /** Those that can be asked. */
  readonly volumes: readonly VolumeId[];
}

interface Digests {
  /** By volume, of those that answered. */
  readonly replies: ReadonlyMap<VolumeId, VerifyReplicaReply>;
  /** There was a moment at which each was as it was read. */
  readonly isSteady: boolean;
}

export class Verification {
  readonly #run: FsckContext;
  readonly #bytesPerSecond: number;
  readonly #running = new Set<Promise<void>>();
  #aborted = false;
  bytes = 0;

  constructor(run: FsckContext, bytesPerSecond: number) {
    this.#run = run;
    this.#bytesPerSecond = bytesPerSecond;
  }

  add(block: VerifiedBlock): void {
    const running: Promise<void> = this.#verify(block).catch((error) =>
      this.#run.cannotCheck(`block ${block.extent.block} of inode ${block.ino}: ${messageOf(error)}`)
    ).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Call `wait` before more is added. */
  get isFull(): boolean {
    return this.#running.size >= BLOCKS_MAX;
  }

  async *wait(): AsyncGenerator<void> {
    while (this.isFull) {
      await Promise.race(this.#running);
      yield;
    }
  }

  async end(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Nobody wants to know any more. */
  abort(): void {
    this.#aborted = true;
  }

  async #verify(block: VerifiedBlock): Promise<void> {
    const { clock, leaseserver } = this.#run.parts;
    const corrupt = new Set<VolumeId>();
    for (let tries = 0; tries < TRIES; tries++) {
      if (this.#aborted) return;
      if (tries > 0) await clock.sleep(RETRY_MS);
      const digests = await this.#ask(block, this.#bytesPerSecond, corrupt);
      if (digests === undefined || digests.isSteady && areEqual(digests)) return;
    }
    // They differ, or are written all the time: now for certain.
    const rate = Math.max(this.#bytesPerSecond, ALONE_BYTES_PER_SECOND);
    const digests = await leaseserver.leases.withoutWriters(block.ino, () => this.#ask(block, rate, corrupt));
    if (digests === undefined || areEqual(digests)) return;
    const { ino, path, extent } = block;
    if (!digests.isSteady) throw new Error("its replicas change all the time");
    const groups = Map.groupBy(digests.replies, ([, { digest }]) => digest);
    const detail = `block ${extent.block}: replicas differ: ` +
      [...groups.values()].map((replicas) =>
        replicas.map(([volume]) => volumeName(this.#run, volume)).join(" and ")
      ).join(" against ");
    this.#run.report({
      ...{ kind: "differing", detail, ino, block: extent.block, start: extent.start },
      ...path === undefined ? {} : { path: path() },
    });
  }

  #reportCorrupt(
    volume: VolumeId,
    why: string,
    { block, start }: Extent,
    { ino, path }: Pick<VerifiedBlock, "ino" | "path">,
    told: Set<VolumeId>,
  ): void {
    if (told.has(volume)) return;
    told.add(volume);
    const detail = `block ${block}: the replica on ${volumeName(this.#run, volume)} is corrupt: ${why}`;
    this.#run.report({
      ...{ kind: "corrupt", detail, ino, block, start, volume },
      ...path === undefined ? {} : { path: path() },
    });
  }

  /** Undefined when the block is not there any more. Those that turn out corrupt are told of, and noted, once. */
  async #ask(
    { extent: seen, ino, path }: VerifiedBlock,
    bytesPerSecond: number,
    corrupt: Set<VolumeId>,
  ): Promise<Digests | undefined> {
    const { namespace, registry } = this.#run.parts;
    const { block, start } = seen;
    const extent = extentNow(namespace.begin(), ino, start, block);
    if (extent === undefined) return undefined;
    const { generation, length } = extent;
    const replies = new Map<VolumeId, VerifyReplicaReply>();
    let isSteady = true;
    const timeoutMs = TIMEOUT_MS + BLOCKS_MAX * 2_000 * length / bytesPerSecond;
    await Promise.all(extent.volumes.map(async (volume) => {
      const dataserver = registry.dataserver(volume);
      if (dataserver === null) return; // said elsewhere
      try {
        const request = { volume, block, generation, length, bytesPerSecond };
        const reply = await dataserver.verifyReplica(request, { timeoutMs });
        this.bytes += reply.bytes;
        if (reply.corrupt === undefined) replies.set(volume, reply);
        else this.#reportCorrupt(volume, reply.corrupt, extent, { ino, path }, corrupt);
      } catch (error) {
        // Taken off its block, or lost: the block map or the volume's records say so.
        if (!isErrno(error, "ESTALE") && !isErrno(error, "ENOENT")) throw error;
        isSteady = false;
      }
    }));
    const same = await Promise.all([...replies].map(async ([volume, { state }]) => {
      const request = { volume, block, generation };
      const asked = registry.dataserver(volume)?.replicaState(request, { timeoutMs: STATE_TIMEOUT_MS });
      const now = await asked?.catch(() => undefined);
      return state !== undefined && now?.state === state;
    }));
    return { replies, isSteady: isSteady && same.every((is) => is) };
  }
}

function areEqual({ replies }: Digests): boolean {
  return new Set([...replies.values()].map(({ digest }) => digest)).size <= 1;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
