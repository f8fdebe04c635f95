/**
 * Looks at replicas for who checks the file system: what there is by the records and the directory, and what a replica
 * holds byte by byte.
 * Invariant: a volume reads one replica at a time for it, no faster than it was asked to.
 */

import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import type { Clock } from "../../base/clock.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { BlockId, VolumeId } from "../../wire/ids.ts";
import {
  LIST_REPLICAS_MAX,
  type ListedReplica,
  type ListReplicasRequest,
  type ReplicaStateReply,
  type VerifyReplicaReply,
  type VerifyReplicaRequest,
} from "../../wire/messages/dataserver.ts";
import { CHUNK_BYTES } from "./chunk_table.ts";
import type { ReplicaEntry } from "./replica_records.ts";
import type { Volume } from "./volume.ts";
import { bucketOf } from "./volume_directory.ts";

const STEP_BYTES = 1024 * 1024;
/** Replicas that wait for their turn on one volume. */
const WAITING_MAX = 1024;
const ZERO_CHUNK_CRC = crc32(new Uint8Array(CHUNK_BYTES));

/** The replicas that were asked for, in the order of the request or of their ids. */
export async function listReplicas(volume: Volume, request: ListReplicasRequest): Promise<ListedReplica[]> {
  const { blocks, from = 0, limit = LIST_REPLICAS_MAX } = request;
  if ((blocks?.length ?? limit) > LIST_REPLICAS_MAX) {
    throw new FsError("EINVAL", `at most ${LIST_REPLICAS_MAX} replicas in one list`, { op: "listReplicas" });
  }
  const entries = blocks === undefined
    ? await volume.records.page(from, limit)
    : (await Promise.all(blocks.map((block) => entryOf(volume, block)))).filter((entry) =>
      entry !== undefined
    );
  return await Promise.all(entries.map(async ({ block, record: { generation, length, state } }) => {
    const fileBytes = await sizeOf(`${volume.path}/${bucketOf(block)}/${block}.blk`);
    return { block, generation, length, isFinal: state === "finalized", fileBytes };
  }));
}

async function entryOf(volume: Volume, block: BlockId): Promise<ReplicaEntry | undefined> {
  const record = await volume.records.get(block);
  return record && { block, record };
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await Deno.stat(path)).size;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return -1;
    throw error;
  }
}

export class Inspection {
  readonly #clock: Clock;
  /** The last in line, and how many there are, by volume. */
  readonly #lines = new Map<VolumeId, { last: Promise<unknown>; length: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Errors: ENOENT, ESTALE, EBUSY. */
  async verify(
    volume: Volume,
    request: VerifyReplicaRequest,
    signal: AbortSignal,
  ): Promise<VerifyReplicaReply> {
    const line = this.#lines.get(volume.id) ?? { last: Promise.resolve(), length: 0 };
    this.#lines.set(volume.id, line);
    if (line.length >= WAITING_MAX) {
      throw new FsError("EBUSY", `volume ${volume.id} has ${WAITING_MAX} replicas to verify`, {
        op: "verify",
      });
    }
    line.length++;
    const turn = line.last.then(() => this.#verify(volume, request, signal));
    line.last = turn.catch(() => {});
    try {
      return await turn;
    } finally {
      line.length--;
    }
  }

  async #verify(
    volume: Volume,
    { block, generation, length, bytesPerSecond }: VerifyReplicaRequest,
    signal: AbortSignal,
  ): Promise<VerifyReplicaReply> {
    const crcs: number[] = [];
    let before: ReplicaStateReply;
    let end: number;
    const startMs = this.#clock.monotonicMs();
    try {
      before = await volume.stateOf(block, generation);
      end = Math.min(before.length, length);
      for (let at = 0; at < end; at += STEP_BYTES) {
        const bytes = await volume.reread(block, generation, at, Math.min(STEP_BYTES, end - at));
        for (let i = 0; i < bytes.length; i += CHUNK_BYTES) {
          crcs.push(crcOf(bytes.subarray(i, i + CHUNK_BYTES)));
        }
        const waitMs = startMs + (at + bytes.length) * 1000 / bytesPerSecond - this.#clock.monotonicMs();
        if (waitMs > 1) await this.#clock.sleep(waitMs, signal);
        if (signal.aborted) throw new FsError("ESHUTDOWN", "the dataserver stops", { op: "verify" });
      }
    } catch (error) {
      if (!isErrno(error, "EIO")) throw error;
      return { digest: "", bytes: crcs.length * CHUNK_BYTES, corrupt: error.message };
    }
    const after = await volume.stateOf(block, generation);
    const isSame = after.state === before.state;
    return { digest: digestOf(crcs), bytes: end, ...isSame ? { state: before.state } : {} };
  }
}

/** Of a chunk whose missing end are zeros. */
function crcOf(bytes: Uint8Array): number {
  if (bytes.length === CHUNK_BYTES) return crc32(bytes);
  const chunk = new Uint8Array(CHUNK_BYTES);
  chunk.set(bytes);
  return crc32(chunk);
}

/** Zeros at the end count for nothing: a shorter replica reads as if it had them. */
function digestOf(crcs: readonly number[]): string {
  let count = crcs.length;
  while (count > 0 && crcs[count - 1] === ZERO_CHUNK_CRC) count--;
  return createHash("sha1").update(new Uint8Array(Uint32Array.from(crcs.slice(0, count)).buffer)).digest(
    "hex",
  );
}
