/**
 * Copies of other dataservers' replicas, which the nameserver asks for where a block has too few.
 * Invariants:
 * - A copy has COPY_GENERATION until the nameserver has made it a replica of its block: nobody reads it before.
 * - A volume makes one copy of a block at a time: who asks again ends the one before.
 * - A copy that is asked for again is brought up to date by what the source says has changed since, if both are known to
 *   be what they were: so that the last time, while nobody can write, takes no longer than what was written a moment ago.
 * - What was there of the block is kept in trash, not overwritten; but for a copy that came to nothing.
 */

import { Buffer } from "node:buffer";
import type { Clock } from "../../base/clock.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { BlockId, Generation, VolumeId } from "../../wire/ids.ts";
import {
  COPY_GENERATION,
  type CopyReplicaRequest,
  type ReplicaChangesReply,
  type ReplicaStateReply,
} from "../../wire/messages/dataserver.ts";
import type { ChannelPool } from "./channel_pool.ts";
import { CHUNK_BYTES } from "./chunk_table.ts";
import type { Volume } from "./volume.ts";

const STEP_BYTES = 1024 * 1024;
/** Steps that are on their way from the source at once. */
const STEPS_AHEAD = 4;
const STEP_TIMEOUT_MS = 5_000;
const MADE_MAX = 10_000;
const ZERO_CHUNK = new Uint8Array(CHUNK_BYTES);

/** A copy: what of, and that it is as it was made. */
interface Made {
  readonly source: VolumeId;
  readonly generation: Generation;
  /** Of the source when the copy began. */
  readonly state: string;
  /** Of the copy when it was done. */
  readonly copyState: string;
}

interface Running {
  readonly abort: AbortController;
  readonly done: Promise<unknown>;
}

export class Copies {
  readonly #pool: ChannelPool;
  readonly #clock: Clock;
  readonly #running = new Map<string, Running>();
  /** Copies that no generation was given yet, as far as is known; the oldest go first. */
  readonly #made = new Map<string, Made>();

  constructor(pool: ChannelPool, clock: Clock) {
    this.#pool = pool;
    this.#clock = clock;
  }

  async copy(volume: Volume, request: CopyReplicaRequest, signal: AbortSignal): Promise<ReplicaStateReply> {
    const key = keyOf(volume, request.block);
    for (let before = this.#running.get(key); before !== undefined; before = this.#running.get(key)) {
      before.abort.abort();
      await before.done;
    }
    const abort = new AbortController();
    const copying = this.#copy(volume, request, AbortSignal.any([signal, abort.signal]));
    this.#running.set(key, { abort, done: copying.catch(() => {}) });
    try {
      return await copying;
    } finally {
      this.#running.delete(key);
    }
  }

  async #copy(volume: Volume, request: CopyReplicaRequest, signal: AbortSignal): Promise<ReplicaStateReply> {
    const { block, generation, source } = request;
    const key = keyOf(volume, block);
    const before = this.#made.get(key);
    this.#made.delete(key);
    const state = await this.#update(volume, request, before, signal) ??
      await this.#copyWhole(volume, request, signal);
    await volume.sync(block, COPY_GENERATION);
    const copy = await volume.stateOf(block, COPY_GENERATION);
    if (this.#made.size >= MADE_MAX) this.#made.delete(this.#made.keys().next().value!);
    this.#made.set(key, { source: source.volume, generation, state: state.state, copyState: copy.state });
    return state;
  }

  /** Fetches what changed since the copy `made`; undefined when it has to be made anew. */
  async #update(
    volume: Volume,
    request: CopyReplicaRequest,
    made: Made | undefined,
    signal: AbortSignal,
  ): Promise<ReplicaStateReply | undefined> {
    const { block, generation, source } = request;
    if (made === undefined || made.source !== source.volume || made.generation !== generation) {
      return undefined;
    }
    const copy = await volume.stateOf(block, COPY_GENERATION).catch(() => undefined);
    if (copy?.state !== made.copyState) return undefined;
    let changes: ReplicaChangesReply;
    try {
      const since = { block, generation, volume: source.volume, since: made.state };
      changes = await this.#pool.use(
        source.address,
        (client) => client.replicaChanges(since, { timeoutMs: STEP_TIMEOUT_MS }),
      );
    } catch (error) {
      if (isErrno(error, "ENOSYS")) return undefined; // an older dataserver
      throw error;
    }
    const { length, state, changed } = changes;
    if (changed === undefined) return undefined;
    if (length < copy.length) await volume.truncate(block, COPY_GENERATION, length);
    await this.#fetch(volume, request, changed, length, { isEmpty: false }, signal);
    const now = await volume.stateOf(block, COPY_GENERATION);
    return now.length === length ? { length, state } : undefined;
  }

  async #copyWhole(
    volume: Volume,
    request: CopyReplicaRequest,
    signal: AbortSignal,
  ): Promise<ReplicaStateReply> {
    const { block, generation, source } = request;
    const from = { block, generation, volume: source.volume };
    const options = { timeoutMs: STEP_TIMEOUT_MS };
    const state = await this.#pool.use(source.address, (client) => client.replicaState(from, options));
    const before = await volume.records.get(block);
    if (before?.generation === COPY_GENERATION) await volume.delete(block);
    else await volume.keepAside(block);
    // Also of an empty one there is a replica.
    await volume.write(block, COPY_GENERATION, 0, new Uint8Array(0), true);
    await this.#fetch(volume, request, [[0, state.length]], state.length, { isEmpty: true }, signal);
    return { length: state.length, state: state.state };
  }

  /** Fetches these ranges of a source of `total` bytes. `isEmpty`: the copy has zeros there. */
  async #fetch(
    volume: Volume,
    request: CopyReplicaRequest,
    ranges: readonly (readonly [number, number])[],
    total: number,
    how: { readonly isEmpty: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { block, bytesPerSecond } = request;
    const startMs = this.#clock.monotonicMs();
    const steps = stepsOf(ranges);
    let done = 0;
    for (let next = steps.next(); next.done !== true;) {
      const running: Promise<void>[] = [];
      for (; running.length < STEPS_AHEAD && next.done !== true; next = steps.next()) {
        const [offset, end] = next.value;
        running.push(this.#step(volume, request, offset, end, total, how.isEmpty));
        done += end - offset;
      }
      const failed = (await Promise.allSettled(running)).find((step) => step.status === "rejected");
      if (failed !== undefined) throw failed.reason;
      if (bytesPerSecond !== undefined) {
        const waitMs = startMs + done * 1000 / bytesPerSecond - this.#clock.monotonicMs();
        if (waitMs > 1) await this.#clock.sleep(waitMs, signal);
      }
      if (signal.aborted) {
        throw new FsError("EINTR", `the copy of block ${block} was given up`, { op: "copy" });
      }
    }
  }

  /** One step's bytes. What is zeros stays sparse in an empty copy, but for the last byte: it gives the length. */
  async #step(
    volume: Volume,
    request: CopyReplicaRequest,
    offset: number,
    end: number,
    total: number,
    isEmpty: boolean,
  ): Promise<void> {
    const { block, generation, source } = request;
    const length = end - offset;
    const { body } = await this.#pool.use(
      source.address,
      (client) =>
        client.readBlock({ block, generation, volume: source.volume, offset, length }, {
          timeoutMs: STEP_TIMEOUT_MS,
        }),
    );
    const isLast = end === total;
    for (let at = 0; at < body.length; at += CHUNK_BYTES) {
      const chunk = body.subarray(at, at + CHUNK_BYTES);
      const isEnd = isLast && at + chunk.length === length;
      if (isEmpty && !isEnd && isZero(chunk)) continue;
      await volume.write(block, COPY_GENERATION, offset + at, chunk, false);
    }
    // A source that was cut meanwhile has another state by now; the copy is not used as it is.
    if (isLast && body.length < length) {
      await volume.write(block, COPY_GENERATION, total - 1, new Uint8Array(1), false);
    }
  }
}

function keyOf(volume: Volume, block: BlockId): string {
  return `${volume.id}:${block}`;
}

function* stepsOf(ranges: readonly (readonly [number, number])[]): Generator<[number, number]> {
  for (const [from, to] of ranges) {
    for (let at = from; at < to; at += STEP_BYTES) yield [at, Math.min(at + STEP_BYTES, to)];
  }
}

function isZero(chunk: Uint8Array): boolean {
  return Buffer.compare(chunk, ZERO_CHUNK.subarray(0, chunk.length)) === 0;
}
