/**
 * The service DATASERVER: checks what came over the wire, finds the volume, runs the operation here and down the
 * chain. Thinks nothing itself.
 * A local failure is thrown; failures further down are listed in the reply.
 */

import { FsError } from "../../wire/errno.ts";
import type { VolumeId } from "../../wire/ids.ts";
import {
  type ChainReply,
  type ChainTarget,
  DATASERVER,
  type ReadBlockReply,
  type ReadBlockRequest,
  type SyncBlockRequest,
  type TruncateBlockRequest,
  type WriteBlockRequest,
} from "../../wire/messages/dataserver.ts";
import { addHandlers, type CallContext, type HandlerTable } from "../../wire/service.ts";
import { CHAIN_MAX, forward, type Step, SYNC_STEP_MS, WRITE_STEP_MS } from "./chain.ts";
import type { ChannelPool } from "./channel_pool.ts";
import { BLOCK_BYTES_MAX, type Volume } from "./volume.ts";

const READ_BYTES_MAX = 8 * 1024 * 1024;
const NONE_FAILED: ChainReply = { failed: [] };

/** The handlers of DATASERVER over these volumes. */
export function blockHandlers(findVolume: (id: VolumeId) => Volume, pool: ChannelPool): HandlerTable {
  const table = new Map<number, (request: unknown, context: CallContext) => unknown>();
  addHandlers(table, DATASERVER, {
    replicaState: ({ block, generation, volume }) => {
      demand(isId(block) && isCount(generation), "block");
      return findVolume(volume).stateOf(block, generation);
    },
    replicaChanges: ({ block, generation, volume, since }) => {
      demand(isId(block) && isCount(generation), "block");
      demand(typeof since === "string", "state");
      return findVolume(volume).changesSince(block, generation, since);
    },
    readBlock: (request) => readBlock(findVolume, request),
    writeBlock: (request) => {
      const { block, generation, offset, body, create } = checkWrite(request);
      const local = findVolume(request.volume).write(block, generation, offset, body, create === true);
      return withChain(
        local,
        pool,
        request.chain,
        WRITE_STEP_MS,
        (client, { volume }, chain, options) =>
          client.writeBlock({ block, generation, volume, offset, chain, create, body }, options),
      );
    },
    syncBlock: (request) => {
      const { block, generation } = checkChained(request);
      const local = findVolume(request.volume).sync(block, generation);
      return withChain(
        local,
        pool,
        request.chain,
        SYNC_STEP_MS,
        (client, { volume }, chain, options) =>
          client.syncBlock({ block, generation, volume, chain }, options),
      );
    },
    truncateBlock: (request) => {
      const { block, generation, length } = checkTruncate(request);
      const local = findVolume(request.volume).truncate(block, generation, length);
      return withChain(
        local,
        pool,
        request.chain,
        WRITE_STEP_MS,
        (client, { volume }, chain, options) =>
          client.truncateBlock({ block, generation, volume, chain, length }, options),
      );
    },
  });
  return table;
}

function readBlock(
  findVolume: (id: VolumeId) => Volume,
  request: ReadBlockRequest,
): ReadBlockReply | Promise<ReadBlockReply> {
  const { block, generation, volume, offset, length } = request;
  demand(isId(block) && isCount(generation), "block");
  demand(isOffset(offset) && isCount(length) && length <= READ_BYTES_MAX, "range");
  const bytes = findVolume(volume).read(block, generation, offset, length);
  return bytes instanceof Uint8Array ? { body: bytes } : bytes.then((body) => ({ body }));
}

async function withChain(
  local: Promise<void>,
  pool: ChannelPool,
  chain: readonly ChainTarget[],
  stepMs: number,
  step: Step,
): Promise<ChainReply> {
  if (chain.length === 0) {
    await local;
    return NONE_FAILED;
  }
  // Both start before either is waited for; `forward` never rejects.
  const downstream = forward(pool, chain, stepMs, step);
  await local;
  const failed = await downstream;
  return failed.length === 0 ? NONE_FAILED : { failed };
}

function demand(condition: boolean, what: string): void {
  if (!condition) throw new FsError("EINVAL", `the request's ${what} is out of bounds`, { op: "block" });
}

const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const isId = (value: unknown): boolean => isCount(value) && (value as number) > 0;
const isOffset = (value: unknown): boolean => isCount(value) && (value as number) <= BLOCK_BYTES_MAX;

function checkChained<R extends SyncBlockRequest | WriteBlockRequest>(request: R): R {
  demand(isId(request.block) && isCount(request.generation), "block");
  const { chain } = request;
  demand(Array.isArray(chain) && chain.length <= CHAIN_MAX, "chain");
  for (const target of chain) {
    demand(typeof target?.address === "string" && isId(target.volume), "chain");
  }
  return request;
}

function checkWrite(request: WriteBlockRequest): WriteBlockRequest {
  demand(isOffset(request.offset) && request.body instanceof Uint8Array, "range");
  return checkChained(request);
}

function checkTruncate(request: TruncateBlockRequest): TruncateBlockRequest {
  demand(isCount(request.length), "length");
  return checkChained(request);
}
