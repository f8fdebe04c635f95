/**
 * Copies of other dataservers' replicas, which the nameserver asks for where a block has too few.
 * Invariants:
 * - A copy has COPY_GENERATION until the nameserver has made it a replica of its block: nobody reads it before.
 * - A volume makes one copy of a block at a time: who asks again ends the one before.
 * - What was there of the block is kept in trash, not overwritten; but for a copy that came to nothing.
 */

import { Buffer } from "node:buffer";
import type { Clock } from "../../base/clock.ts";
import { FsError } from "../../wire/errno.ts";
import {
  COPY_GENERATION,
  type CopyReplicaRequest,
  type ReplicaStateReply,
} from "../../wire/messages/dataserver.ts";
import type { ChannelPool } from "./channel_pool.ts";
import { CHUNK_BYTES } from "./chunk_table.ts";
import type { Volume } from "./volume.ts";

const STEP_BYTES = 1024 * 1024;
/** Steps that are on their way from the source at once. */
const STEPS_AHEAD = 4;
const STEP_TIMEOUT_MS = 5_000;
const ZERO_CHUNK = new Uint8Array(CHUNK_BYTES);

interface Running {
  readonly abort: AbortController;
  readonly done: Promise<unknown>;
}

export class Copies {
  readonly #pool: ChannelPool;
  readonly #clock: Clock;
  readonly #running = new Map<string, Running>();

  constructor(pool: ChannelPool, clock: Clock) {
    this.#pool = pool;
    this.#clock = clock;
  }

  async copy(volume: Volume, request: CopyReplicaRequest, signal: AbortSignal): Promise<ReplicaStateReply> {
    const key = `${volume.id}:${request.block}`;
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
    const { block, generation, source, bytesPerSecond } = request;
    const from = { block, generation, volume: source.volume };
    const options = { timeoutMs: STEP_TIMEOUT_MS };
    const state = await this.#pool.use(source.address, (client) => client.replicaState(from, options));
    const before = await volume.records.get(block);
    if (before?.generation === COPY_GENERATION) await volume.delete(block);
    else await volume.keepAside(block);
    // Also of an empty one there is a replica.
    await volume.write(block, COPY_GENERATION, 0, new Uint8Array(0), true);
    const startMs = this.#clock.monotonicMs();
    for (let at = 0; at < state.length; at += STEPS_AHEAD * STEP_BYTES) {
      const steps: Promise<void>[] = [];
      for (let i = 0; i < STEPS_AHEAD && at + i * STEP_BYTES < state.length; i++) {
        steps.push(this.#step(volume, request, at + i * STEP_BYTES, state.length));
      }
      const failed = (await Promise.allSettled(steps)).find((step) => step.status === "rejected");
      if (failed !== undefined) throw failed.reason;
      if (bytesPerSecond !== undefined) {
        const done = Math.min(state.length, at + STEPS_AHEAD * STEP_BYTES);
        const waitMs = startMs + done * 1000 / bytesPerSecond - this.#clock.monotonicMs();
        if (waitMs > 1) await this.#clock.sleep(waitMs, signal);
      }
      if (signal.aborted) {
        throw new FsError("EINTR", `the copy of block ${block} was given up`, { op: "copy" });
      }
    }
    await volume.sync(block, COPY_GENERATION);
    return state;
  }

  /** One step's bytes; where they are zeros the copy stays sparse. The last byte is always written: it gives the length. */
  async #step(volume: Volume, request: CopyReplicaRequest, offset: number, total: number): Promise<void> {
    const { block, generation, source } = request;
    const length = Math.min(STEP_BYTES, total - offset);
    const { body } = await this.#pool.use(
      source.address,
      (client) =>
        client.readBlock({ block, generation, volume: source.volume, offset, length }, {
          timeoutMs: STEP_TIMEOUT_MS,
        }),
    );
    const isLast = offset + length === total;
    for (let at = 0; at < body.length; at += CHUNK_BYTES) {
      const chunk = body.subarray(at, at + CHUNK_BYTES);
      const isEnd = isLast && at + chunk.length === length;
      if (!isEnd && isZero(chunk)) continue;
      await volume.write(block, COPY_GENERATION, offset + at, chunk, false);
    }
    // A source that was cut meanwhile has another state by now; the copy is not used.
    if (isLast && body.length < length) {
      await volume.write(block, COPY_GENERATION, total - 1, new Uint8Array(1), false);
    }
  }
}

function isZero(chunk: Uint8Array): boolean {
  return Buffer.compare(chunk, ZERO_CHUNK.subarray(0, chunk.length)) === 0;
}
