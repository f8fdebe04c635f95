/**
 * Copies a range of a file to another, or elsewhere in the same one, by the dataservers: for each piece one that has a
 * replica of the source, where there is one, reads it and writes down the target's chain. Holes stay holes.
 *
 * Invariants:
 * - What a call does is bounded (COPY_BYTES_MAX, COPY_MS_MAX), and so is what is under way (PIECES_AT_ONCE).
 * - The target's size never ends below a byte that was copied, also when a piece in the middle has failed: nothing of it
 *   comes to light later.
 * - Of a source that can't be read no replica of the target is blamed.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { asFsError, FsError, isErrno } from "../wire/errno.ts";
import { decodeError } from "../wire/error_message.ts";
import type { NodeId, VolumeId } from "../wire/ids.ts";
import type { Block } from "../wire/messages/inode.ts";
import { type Blocks, demandTenure, isDropped } from "./blocks.ts";
import type { Dataservers } from "./dataservers.ts";
import type { InlineData } from "./inline_data.ts";
import type { OpenFile } from "./inode.ts";
import type { Writer } from "./writer.ts";
import type { Interruptible } from "./interruptible.ts";

const COPY_BYTES_MAX = 128 * 1024 * 1024;
/** Others may wait for a lease on one of the files. */
const COPY_MS_MAX = 1_000;
/** At once, of what is read and written here. */
const INLINE_COPY_BYTES_MAX = 1024 * 1024;
const PIECE_BYTES = 4 * 1024 * 1024;
const PIECES_AT_ONCE = 4;
/** A piece is written in so many steps, each of which waits for the chain. */
const STEPS = 4;
const STEP_TIMEOUT_MS = 4_000;
const CHAIN_STEP_TIMEOUT_MS = 3_000;
/** Rounds over the source's replicas. */
const ROUNDS_MAX = 3;
const RETRY_MS = 300;

export interface RangeCopierOptions {
  readonly dataservers: Dataservers;
  readonly blocks: Blocks;
  readonly inline: InlineData;
  readonly writer: Writer;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A part of the range that lies in one block of each file, or in a hole of the source. */
interface Piece {
  readonly from: number;
  readonly to: number;
  readonly length: number;
  /** Of the source, if it holds data; else the piece is a hole. */
  readonly block: Block | undefined;
  /** Of the target. */
  readonly there: Block | undefined;
}

export class RangeCopier {
  readonly #options: RangeCopierOptions;

  constructor(options: RangeCopierOptions) {
    this.#options = options;
  }

  /**
   * Bytes that were copied, at least one. The caller holds accesses that allow it, and [from, from + length) lies in the
   * source. EOPNOTSUPP when the dataservers can't do it.
   */
  async copy(
    source: OpenFile,
    target: OpenFile,
    from: number,
    to: number,
    length: number,
    interrupt: Interruptible,
  ): Promise<number> {
    const { clock, writer } = this.#options;
    const limit = Math.min(length, COPY_BYTES_MAX);
    const startMs = clock.monotonicMs();
    const { tenure } = target;
    await source.settled(from, from + limit);
    demandTenure(target, tenure);
    if (source.inlineBytes > 0) return await this.#copyInline(source, target, from, to, limit, interrupt);
    await writer.outgrow(target);
    const release = await target.occupy(to, to + limit);
    /** Of the first piece that failed, and why. */
    let failedAt = Infinity;
    let failure: unknown;
    const running = new Set<Promise<void>>();
    let done = 0;
    let reached = 0;
    try {
      while (done < limit && failedAt === Infinity) {
        if (done > 0 && (interrupt.signal.aborted || clock.monotonicMs() - startMs > COPY_MS_MAX)) break;
        const at = done;
        let piece: Piece;
        try {
          demandTenure(target, tenure);
          piece = await this.#nextPiece(source, target, from + at, to + at, limit - at, tenure);
        } catch (error) {
          failedAt = at;
          failure = error;
          break;
        }
        done += piece.length;
        const run = this.#copyPiece(source, target, piece, tenure).then(() => {
          reached = Math.max(reached, at + piece.length);
        }).catch((error) => {
          if (at >= failedAt) return;
          failedAt = at;
          failure = error;
        }).finally(() => running.delete(run));
        running.add(run);
        if (running.size >= PIECES_AT_ONCE) await Promise.race(running);
      }
    } finally {
      await Promise.all(running);
      release();
    }
    demandTenure(target, tenure);
    if (reached > 0) writer.note(target, to + reached);
    const copied = Math.min(done, failedAt);
    if (copied > 0) return copied;
    throw asFsError(failure, "copy");
  }

  /** What the nameserver keeps is little: it is read and written here. */
  async #copyInline(
    source: OpenFile,
    target: OpenFile,
    from: number,
    to: number,
    length: number,
    interrupt: Interruptible,
  ): Promise<number> {
    const { inline, writer } = this.#options;
    const tenures = [source.tenure, target.tenure] as const;
    const bytes = (await inline.copy(source, interrupt)).subarray(from);
    demandTenure(source, tenures[0]);
    demandTenure(target, tenures[1]);
    // A hole behind becomes zeros, some at a time.
    const data = new Uint8Array(Math.min(length, INLINE_COPY_BYTES_MAX));
    data.set(bytes.subarray(0, data.length));
    await writer.write(target, to, data, false);
    return data.length;
  }

  async #nextPiece(
    source: OpenFile,
    target: OpenFile,
    from: number,
    to: number,
    length: number,
    tenure: number,
  ): Promise<Piece> {
    const { blocks } = this.#options;
    const { block: found, end: fromEnd } = await blocks.piece(source, from);
    const block = found !== undefined && source.hasData(found) ? found : undefined;
    let { block: there, end: toEnd } = await blocks.piece(target, to);
    if (block !== undefined && there === undefined) {
      const [near] = this.#options.dataservers.nearestFirst(block.replicas);
      there = await blocks.allocate(target, to, tenure, near?.host);
      toEnd = there.start + there.length;
    }
    const most = block === undefined ? length : Math.min(length, PIECE_BYTES);
    return { from, to, length: Math.min(most, fromEnd - from, toEnd - to), block, there };
  }

  async #copyPiece(source: OpenFile, target: OpenFile, piece: Piece, tenure: number): Promise<void> {
    const { writer } = this.#options;
    const { to, length, block, there } = piece;
    if (block === undefined) {
      if (there === undefined || !target.hasData(there)) return;
      return await writer.changeRange(target, there, "punch", to, to + length, tenure);
    }
    if (there === undefined) throw new FsError("EAGAIN", "the target's block was dropped");
    await this.#copyBlock(source, block, target, there, piece, tenure);
  }

  async #copyBlock(
    source: OpenFile,
    block: Block,
    target: OpenFile,
    there: Block,
    { from, to, length }: Piece,
    tenure: number,
  ): Promise<void> {
    const { blocks, dataservers, writer, clock, log } = this.#options;
    let current = block;
    const bad = new Set<VolumeId>();
    for (let round = 1;; round++) {
      /** Why the source could not be read, or the whole thing is not served. */
      let failure: FsError | undefined;
      let isUntouched = false;
      let asked: VolumeId | undefined;
      let allocated: number | undefined;
      let since = there.generation;
      const candidates = dataservers.nearestFirst(current.replicas).filter(({ volume }) => !bad.has(volume));
      if (candidates.length === 0) throw new FsError("EOPNOTSUPP", "no replica of the source can be read");
      const used = await blocks.onChain(target, there, async (client, volume, chain, now) => {
        failure = undefined;
        isUntouched = false;
        since = now.generation;
        const head = now.replicas.find((replica) => replica.volume === volume)?.node;
        const origin = candidates.find(({ node }) => node === head) ?? candidates[0]!;
        asked = origin.volume;
        const request = {
          ...{ block: now.id, generation: now.generation, volume, chain, create: target.makesReplicas(now) },
          ...{ offset: to - now.start, length },
          source: {
            ...{ block: current.id, generation: current.generation, offset: from - current.start },
            ...{ node: origin.node, volume: origin.volume, address: origin.address },
          },
        };
        const timeoutMs = STEPS * (STEP_TIMEOUT_MS + chain.length * CHAIN_STEP_TIMEOUT_MS);
        try {
          const reply = await client.copyRange(request, { timeoutMs });
          allocated = reply.allocatedBytes;
          if (reply.sourceFailed !== undefined) failure = decodeError(reply.sourceFailed);
          isUntouched = reply.isUntouched === true;
          return reply;
        } catch (error) {
          if (!isErrno(error, "ENOSYS")) throw error;
          failure = new FsError("EOPNOTSUPP", "an older dataserver", { cause: error });
          isUntouched = true;
          return { failed: [] };
        }
      }, { tenure, headOn: nodesOf(candidates) });
      // Also a part of it may be there. But a block that is said to have data has replicas.
      if (!isUntouched) writer.noteWritten(target, used, allocated, since);
      if (failure === undefined) return;
      if (failure.errno === "EOPNOTSUPP") throw failure;
      log.debug("a replica could not be copied from", { block: current.id, volume: asked, error: failure });
      if (round >= ROUNDS_MAX * 2) throw new FsError("EOPNOTSUPP", failure.message, { cause: failure });
      if (isErrno(failure, "ESTALE") || round % 2 === 0) await clock.sleep(RETRY_MS);
      else bad.add(asked!);
      try {
        const now = await blocks.refetch(source, current);
        if (now.generation !== current.generation) bad.clear();
        current = now;
      } catch (error) {
        if (isDropped(error)) throw new FsError("EOPNOTSUPP", "the source's block was dropped");
        throw error;
      }
    }
  }
}

function nodesOf(replicas: readonly { readonly node: NodeId }[]): NodeId[] {
  return replicas.map(({ node }) => node);
}
