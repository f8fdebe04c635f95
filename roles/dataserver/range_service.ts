/**
 * The part of the service DATASERVER that is about ranges of a block: holes and reserved room, and copies from another
 * block's replica, which bring no bytes to the client.
 * Invariant: a copy that lost its source has failed none of the target's replicas; the same copy again, from wherever,
 * makes them equal.
 */

import { asFsError } from "../../wire/errno.ts";
import type { VolumeId } from "../../wire/ids.ts";
import {
  type ChainTarget,
  type ChangeRangeRequest,
  COPY_RANGE_BYTES_MAX,
  type CopyRangeReply,
  type CopyRangeRequest,
  type DATASERVER,
} from "../../wire/messages/dataserver.ts";
import type { Handlers } from "../../wire/service.ts";
import { type Failures, withChain, WRITE_STEP_MS } from "./chain.ts";
import type { ChannelPool } from "./channel_pool.ts";
import { checkChained, checkReplica, demand, isId, isOffset } from "./request_checks.ts";
import type { Volume } from "./volume.ts";

/** What is read and written at once. */
const PART_BYTES = 1024 * 1024;
const READ_TIMEOUT_MS = 5_000;

type RangeHandlers = Pick<Handlers<typeof DATASERVER>, "changeRange" | "copyRange" | "seekBlock">;

export function rangeHandlers(findVolume: (id: VolumeId) => Volume, pool: ChannelPool): RangeHandlers {
  return {
    changeRange: (request) => {
      checkChanged(request);
      const { block, generation, change, offset, length, create, chain } = request;
      const volume = findVolume(request.volume);
      return withChain(
        volume.changeRange(block, generation, change, { offset, length, create }),
        pool,
        chain,
        WRITE_STEP_MS,
        (client, target, rest, options) =>
          client.changeRange({ ...request, volume: target.volume, chain: rest }, options),
        volume.chainOptions(block),
      );
    },
    copyRange: (request) => new RangeCopy(findVolume, pool, checkCopy(request)).run(),
    seekBlock: async (request) => {
      checkReplica(request);
      const { block, generation, offset, data } = request;
      demand(isOffset(offset), "range");
      const found = await findVolume(request.volume).seek(block, generation, offset, data === true);
      return found < 0 ? {} : { offset: found };
    },
  };
}

function checkChanged(request: ChangeRangeRequest): void {
  checkChained(request);
  const { change, offset, length, create } = request;
  demand(change === "punch" || change === "zero" || change === "reserve", "change");
  demand(isOffset(offset) && isId(length) && isOffset(offset + length), "range");
  demand(typeof create === "boolean", "create");
}

function checkCopy(request: CopyRangeRequest): CopyRangeRequest {
  checkChained(request);
  const { offset, length, create, source } = request;
  demand(isOffset(offset) && isId(length) && isOffset(offset + length), "range");
  demand(length <= COPY_RANGE_BYTES_MAX && typeof create === "boolean", "range");
  checkReplica(source);
  demand(isOffset(source.offset) && isId(source.volume) && typeof source.address === "string", "source");
  return request;
}

/** Where the bytes come from: a replica of this dataserver, or of another. */
interface Source {
  read(offset: number, length: number): Promise<Uint8Array>;
  /** As SeekBlockRequest; Infinity: nowhere. */
  seek(offset: number, wantsData: boolean): Promise<number>;
}

class SourceFailure extends Error {
  override readonly name = "SourceFailure";
}

class RangeCopy {
  readonly #pool: ChannelPool;
  readonly #request: CopyRangeRequest;
  readonly #volume: Volume;
  readonly #source: Source;
  #chain: readonly ChainTarget[];
  #failed: Failures[number][] = [];
  #create: boolean;
  #isUntouched = true;

  constructor(findVolume: (id: VolumeId) => Volume, pool: ChannelPool, request: CopyRangeRequest) {
    this.#pool = pool;
    this.#request = request;
    this.#volume = findVolume(request.volume);
    this.#chain = request.chain;
    this.#create = request.create;
    let own: Volume | undefined;
    try {
      own = findVolume(request.source.volume);
    } catch {
      // Another dataserver's.
    }
    const { source } = request;
    this.#source = own === undefined ? remoteSource(pool, source) : localSource(own, source);
  }

  async run(): Promise<CopyRangeReply> {
    try {
      await this.#copy();
    } catch (error) {
      if (!(error instanceof SourceFailure)) throw error;
      const { errno, message } = asFsError(error.cause, "copy");
      return { failed: this.#failed, sourceFailed: { errno, message }, isUntouched: this.#isUntouched };
    }
    const allocatedBytes = this.#volume.allocatedBytes(this.#request.block);
    return { failed: this.#failed, ...allocatedBytes === undefined ? {} : { allocatedBytes } };
  }

  async #copy(): Promise<void> {
    const { offset, length, source } = this.#request;
    const shift = offset - source.offset;
    const end = source.offset + length;
    for (let at = source.offset; at < end;) {
      const data = Math.min(end, await this.#ask(this.#source.seek(at, true)));
      if (data > at) await this.#punch(at + shift, data - at);
      at = data;
      if (at >= end) break;
      const hole = Math.min(end, await this.#ask(this.#source.seek(at, false)));
      // The next part is on its way while one is written.
      let next = this.#read(at, hole);
      while (at < hole) {
        const bytes = await next;
        const from = at;
        at = Math.min(hole, at + PART_BYTES);
        next = this.#read(at, hole);
        next.catch(() => {}); // told when it is waited for
        await this.#write(from + shift, bytes);
      }
      await next;
    }
  }

  async #ask<T>(answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      throw new SourceFailure("the source can't be read", { cause: error });
    }
  }

  async #read(at: number, end: number): Promise<Uint8Array> {
    const length = Math.min(PART_BYTES, end - at);
    if (length <= 0) return new Uint8Array(0);
    const bytes = await this.#ask(this.#source.read(at, length));
    if (bytes.length === length) return bytes;
    const whole = new Uint8Array(length); // past the replica's end are zeros
    whole.set(bytes);
    return whole;
  }

  async #write(offset: number, body: Uint8Array): Promise<void> {
    this.#isUntouched = false;
    const { block, generation } = this.#request;
    const create = this.#create;
    const { failed } = await withChain(
      this.#volume.write(block, generation, offset, body, create),
      this.#pool,
      this.#chain,
      WRITE_STEP_MS,
      (client, { volume }, chain, options) =>
        client.writeBlock({ block, generation, volume, offset, chain, create, body }, options),
      this.#volume.chainOptions(block),
    );
    this.#drop(failed);
  }

  /** What the target has there becomes a hole as well. A replica that is yet to be made has nothing there. */
  async #punch(offset: number, length: number): Promise<void> {
    this.#isUntouched = false;
    const { block, generation } = this.#request;
    const create = this.#create;
    const punch = { block, generation, change: "punch", offset, length, create } as const;
    const { failed } = await withChain(
      this.#volume.changeRange(block, generation, "punch", { offset, length, create }),
      this.#pool,
      this.#chain,
      WRITE_STEP_MS,
      (client, { volume }, chain, options) => client.changeRange({ ...punch, volume, chain }, options),
      this.#volume.chainOptions(block),
    );
    this.#drop(failed);
  }

  /** They are told at the end, and asked no more. */
  #drop(failed: Failures): void {
    if (failed.length === 0) return;
    this.#failed.push(...failed);
    this.#chain = this.#chain.filter(({ volume }) => !failed.some((one) => one.volume === volume));
  }
}

function localSource(volume: Volume, { block, generation }: CopyRangeRequest["source"]): Source {
  return {
    read: async (offset, length) => await volume.read(block, generation, offset, length),
    seek: async (offset, wantsData) => {
      const found = await volume.seek(block, generation, offset, wantsData);
      return found < 0 ? Infinity : found;
    },
  };
}

function remoteSource(pool: ChannelPool, source: CopyRangeRequest["source"]): Source {
  const { block, generation, volume, address } = source;
  const options = { timeoutMs: READ_TIMEOUT_MS };
  return {
    read: async (offset, length) => {
      const request = { block, generation, volume, offset, length };
      return (await pool.use(address, (client) => client.readBlock(request, options))).body;
    },
    seek: async (offset, wantsData) => {
      const request = { block, generation, volume, offset, data: wantsData };
      const { offset: found } = await pool.use(address, (client) => client.seekBlock(request, options));
      return found ?? Infinity;
    },
  };
}
