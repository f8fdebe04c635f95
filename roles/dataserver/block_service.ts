/**
 * The service DATASERVER: checks what came over the wire, finds the volume, runs the operation here and down the
 * chain. Thinks nothing itself.
 * A local failure is thrown; failures further down are listed in the reply.
 */

import type { VolumeId } from "../../wire/ids.ts";
import {
  DATASERVER,
  type ReadBlockReply,
  type ReadBlockRequest,
  type SyncBlockReply,
  type TruncateBlockRequest,
  WRITE_RANGES_MAX,
  type WriteBlockRequest,
  type WriteRangesRequest,
} from "../../wire/messages/dataserver.ts";
import { addHandlers, type CallContext, type HandlerTable } from "../../wire/service.ts";
import { SYNC_STEP_MS, withChain, WRITE_STEP_MS } from "./chain.ts";
import type { ChannelPool } from "./channel_pool.ts";
import { rangeHandlers } from "./range_service.ts";
import { checkChained, checkReplica, demand, isCount, isOffset } from "./request_checks.ts";
import type { Volume } from "./volume.ts";

const READ_BYTES_MAX = 8 * 1024 * 1024;

/** The handlers of DATASERVER over these volumes. */
export function blockHandlers(findVolume: (id: VolumeId) => Volume, pool: ChannelPool): HandlerTable {
  const table = new Map<number, (request: unknown, context: CallContext) => unknown>();
  addHandlers(table, DATASERVER, {
    ...rangeHandlers(findVolume, pool),
    replicaState: ({ block, generation, volume }) => {
      checkReplica({ block, generation });
      return findVolume(volume).stateOf(block, generation);
    },
    replicaChanges: ({ block, generation, volume, since }) => {
      checkReplica({ block, generation });
      demand(typeof since === "string", "state");
      return findVolume(volume).changesSince(block, generation, since);
    },
    locateReplica: ({ block, generation, volume }) => {
      checkReplica({ block, generation });
      return findVolume(volume).locate(block, generation);
    },
    readBlock: (request, { answerIsOwn }) => {
      answerIsOwn?.();
      return readBlock(findVolume, request);
    },
    writeBlock: async (request, { bodyDone }) => {
      const { block, generation, offset, body, create } = checkWrite(request);
      const own = findVolume(request.volume);
      const local = own.write(block, generation, offset, body, create === true);
      const reply = await withChain(
        local,
        pool,
        request.chain,
        WRITE_STEP_MS,
        (client, { volume }, chain, options) =>
          client.writeBlock({ block, generation, volume, offset, chain, create, body }, options),
        own.chainOptions(block),
      );
      // Who has answered has got it all; of who has not it may still be in a queue.
      if (reply.failed.length === 0) bodyDone?.();
      return reply;
    },
    writeRanges: (request) => {
      const { block, generation, ranges, body, create, durable } = checkWriteRanges(request);
      const own = findVolume(request.volume);
      const written = own.writeRanges(block, generation, ranges, body, create === true);
      return withChain(
        durable ? written.then(() => own.sync(block, generation)) : written,
        pool,
        request.chain,
        durable ? SYNC_STEP_MS : WRITE_STEP_MS,
        (client, { volume }, chain, options) =>
          client.writeRanges({ block, generation, volume, chain, create, ranges, body, durable }, options),
        own.chainOptions(block),
      );
    },
    syncBlock: async (request): Promise<SyncBlockReply> => {
      const { block, generation } = checkChained(request);
      const local = findVolume(request.volume).sync(block, generation);
      const reply = await withChain(
        local,
        pool,
        request.chain,
        SYNC_STEP_MS,
        (client, { volume }, chain, options) =>
          client.syncBlock({ block, generation, volume, chain }, options),
      );
      return await local ? { ...reply, isFinalized: true } : reply;
    },
    truncateBlock: (request) => {
      const { block, generation, length } = checkTruncate(request);
      const own = findVolume(request.volume);
      const local = own.truncate(block, generation, length);
      return withChain(
        local,
        pool,
        request.chain,
        WRITE_STEP_MS,
        (client, { volume }, chain, options) =>
          client.truncateBlock({ block, generation, volume, chain, length }, options),
        own.chainOptions(block),
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
  checkReplica(request);
  demand(isOffset(offset) && isCount(length) && length <= READ_BYTES_MAX, "range");
  const bytes = findVolume(volume).read(block, generation, offset, length);
  return bytes instanceof Uint8Array ? { body: bytes } : bytes.then((body) => ({ body }));
}

function checkWrite(request: WriteBlockRequest): WriteBlockRequest {
  demand(isOffset(request.offset) && request.body instanceof Uint8Array, "range");
  return checkChained(request);
}

function checkWriteRanges(request: WriteRangesRequest): WriteRangesRequest {
  const { ranges, body } = request;
  demand(Array.isArray(ranges) && ranges.length > 0 && ranges.length <= WRITE_RANGES_MAX, "ranges");
  demand(body instanceof Uint8Array, "ranges");
  let bytes = 0;
  for (const [offset, length] of ranges) {
    demand(isOffset(offset) && isCount(length), "ranges");
    bytes += length;
  }
  demand(bytes === body.length, "ranges");
  return checkChained(request);
}

function checkTruncate(request: TruncateBlockRequest): TruncateBlockRequest {
  demand(isCount(request.length), "length");
  return checkChained(request);
}
