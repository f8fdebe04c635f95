/**
 * Reading: cuts a read along blocks, asks the nearest replica of each, and fills holes and short replicas with
 * zeros. A replica that fails, or is slow, is passed over for the next; when all fail, or one says that it has another
 * generation, the block's locations are read again.
 * Invariant: exactly the asked range below the file's size is returned, never less.
 */

import { type Clock, OVER } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { bodies } from "../wire/bodies.ts";
import { asFsError, FsError, isErrno, isTransportError } from "../wire/errno.ts";
import type { VolumeId } from "../wire/ids.ts";
import type { Block } from "../wire/messages/inode.ts";
import { type Blocks, isDropped } from "./blocks.ts";
import type { DataserverClient, Dataservers } from "./dataservers.ts";
import type { FileReadAhead } from "./file_read_ahead.ts";
import { firstAnswer } from "./hedge.ts";
import type { InlineData } from "./inline_data.ts";
import type { OpenFile } from "./inode.ts";
import type { LocalReplica } from "./local_replica.ts";
import type { LocalReplicas } from "./local_replicas.ts";
import type { Interruptible } from "./interruptible.ts";

/** Of one replica: a disk may be slow, and its server says that it lives (DATASERVER_SILENCE_MS). */
const READ_TIMEOUT_MS = 15_000;
/** A replica that takes longer is not waited for alone. */
const HEDGE_MS = 400;
const RETRY_MS = 300;
/** A replica is of another generation: so long the others have to answer before it is asked what the block is now. */
const OUTDATED_MS = 100;
/** Rounds over all replicas before a failure that is not of the network is given up on. */
const ROUNDS_MAX = 3;
/**
 * Replicas that can't be read but may be soon: the nameserver settles generations after a restart of it, and what counts
 * after one of machines, once all are back or given up on.
 */
const UNSETTLED_MS = 120_000;
const ZEROS = new Uint8Array(1024 * 1024);
/** Of what is read at once, with the chunks around it. */
const NOW_BYTES_MAX = 1024 * 1024;
const CHUNKS_AROUND_BYTES = 128 * 1024;

export interface ReaderOptions {
  readonly dataservers: Dataservers;
  /** Absent: everything is asked of dataservers. */
  readonly localReplicas?: LocalReplicas;
  /** Absent: nothing is fetched before it is read. */
  readonly fileAhead?: FileReadAhead;
  readonly blocks: Blocks;
  readonly inline: InlineData;
  readonly clock: Clock;
  readonly log: Logger;
  readonly softTimeoutMs?: number;
}

export class Reader {
  readonly #options: ReaderOptions;
  readonly #scratch = new Uint8Array(NOW_BYTES_MAX + CHUNKS_AROUND_BYTES);
  /** For the mount's counters: reads of a block, by the way that they went. */
  readonly counts = { cached: 0, disk: 0, served: 0, ahead: 0 };

  constructor(options: ReaderOptions) {
    this.#options = options;
  }

  /**
   * As `read`, what was fetched ahead or is in the page cache of this machine, within one block; null when `read` is needed.
   * The bytes are good until the next call.
   */
  readNow(file: OpenFile, offset: number, size: number): Uint8Array | null {
    const { localReplicas, fileAhead } = this.#options;
    const end = Math.min(offset + size, file.size);
    if (file.pending.size > 0 || end <= offset) return null;
    const block = file.blocks.at(offset);
    if (block === undefined || end > block.start + block.length || !file.hasData(block)) return null;
    const fetched = this.#take(file, block, offset - block.start, end - block.start);
    if (fetched !== null) {
      fileAhead!.reading(file, offset, end);
      return fetched;
    }
    if (localReplicas === undefined) return null;
    const replica = localReplicas.find(file, block);
    if (replica === null || end - block.start > replica.length || end - offset > NOW_BYTES_MAX) return null;
    try {
      const bytes = replica.readNow(offset - block.start, end - block.start, this.#scratch);
      if (bytes !== null) this.counts.cached++;
      return bytes;
    } catch (error) {
      localReplicas.drop(block, replica, error);
      return null;
    }
  }

  /** What was fetched ahead of a part of a block. */
  #take(file: OpenFile, block: Block, from: number, to: number): Uint8Array | null {
    const bytes = this.#options.fileAhead?.take(file, block, from, to) ?? null;
    if (bytes !== null) this.counts.ahead++;
    return bytes;
  }

  /** The bytes of [offset, offset + size) below the end of the file, as views in order. */
  async read(file: OpenFile, offset: number, size: number, interrupt?: Interruptible): Promise<Uint8Array[]> {
    const end = Math.min(offset + size, file.size);
    if (end <= offset) return [];
    if (file.pending.size > 0) await file.settled(offset, end);
    const inline = file.inlineBytes > 0 && await this.#options.inline.read(file, offset, end, interrupt);
    if (inline) {
      this.#options.fileAhead?.reading(file, offset, end);
      return inline;
    }
    // Again, as a truncate of ours may have cleared the map in the steps until here: what it does not know it has as holes.
    while (!file.blocks.knows(offset, end)) await this.#options.blocks.know(file, offset, end, interrupt);
    const parts: (Uint8Array | Promise<Uint8Array[]>)[] = [];
    let at = offset;
    while (at < end) {
      const block = file.blocks.at(at);
      const isHole = block === undefined || !file.hasData(block);
      const stop = Math.min(
        end,
        block === undefined ? file.blocks.nextStart(at) : block.start + block.length,
      );
      if (isHole) addZeros(parts, stop - at);
      else parts.push(this.#readBlock(file, block, at - block.start, stop - at, interrupt));
      at = stop;
    }
    // All at once: of several that fail each is waited for.
    const reading = Promise.all(parts);
    this.#options.fileAhead?.reading(file, offset, end); // what is asked for ahead comes behind what is waited for
    const read = await reading;
    return read.flatMap((part) => part);
  }

  async #readBlock(
    file: OpenFile,
    block: Block,
    offset: number,
    length: number,
    interrupt: Interruptible | undefined,
  ): Promise<Uint8Array[]> {
    const served = () => {
      this.counts.served++;
      return this.#onReplica(file, block, async (client, { id, generation }, volume) => {
        const request = { block: id, generation, volume, offset, length };
        return (await client.readBlock(request, { timeoutMs: READ_TIMEOUT_MS })).body;
      }, interrupt);
    };
    const { localReplicas, fileAhead } = this.#options;
    const arrival = fileAhead?.arrival(file, block);
    const fetched = arrival === undefined ? this.#take(file, block, offset, offset + length) : null;
    if (fetched !== null) return [fetched];
    const replica = localReplicas?.isBusy === false ? localReplicas.find(file, block) : null;
    let body: Uint8Array | undefined;
    if (replica !== null) body = await this.#readLocal(replica, block, offset, length, served);
    else if (arrival === undefined) body = await served();
    else body = await this.#readArriving(arrival, file, block, { offset, length }, served);
    if (body === undefined) return zeros(length);
    interrupt?.onReplied?.(() => bodies.give(body));
    if (body.length === length) return [body];
    const views: Uint8Array[] = body.length === 0 ? [] : [body];
    addZeros(views, length - body.length);
    return views;
  }

  /** What is just being fetched; if that fails, or takes long, `otherwise` as well. */
  async #readArriving(
    arrival: Promise<void>,
    file: OpenFile,
    block: Block,
    { offset, length }: { readonly offset: number; readonly length: number },
    otherwise: () => Promise<Uint8Array | undefined>,
  ): Promise<Uint8Array | undefined> {
    return await firstAnswer([true, false], {
      ask: async (isFetched) => {
        if (!isFetched) return await otherwise();
        await arrival;
        const bytes = this.#take(file, block, offset, offset + length);
        if (bytes === null) throw new FsError("EAGAIN", "it can't be used", { op: "read" });
        return bytes;
      },
      onFailure: () => {}, // whoever fetched it has said why
      onSlow: () => {},
      clock: this.#options.clock,
      hedgeMs: HEDGE_MS,
    });
  }

  /** From the replica's file; if that fails, or takes long, `otherwise` as well. */
  async #readLocal(
    replica: LocalReplica,
    block: Block,
    offset: number,
    length: number,
    otherwise: () => Promise<Uint8Array | undefined>,
  ): Promise<Uint8Array | undefined> {
    const localReplicas = this.#options.localReplicas!;
    const end = Math.min(offset + length, replica.length);
    if (end <= offset) return undefined;
    return await firstAnswer([true, false], {
      ask: async (isLocal) => {
        if (!isLocal) return await otherwise();
        const bytes = await localReplicas.read(replica, offset, end);
        this.counts.disk++;
        return bytes;
      },
      onFailure: (isLocal, error) => {
        if (isLocal) localReplicas.drop(block, replica, error);
      },
      onSlow: () => localReplicas.drop(block, replica, "slow"),
      clock: this.#options.clock,
      hedgeMs: HEDGE_MS,
    });
  }

  /**
   * Where data, or a hole, begins in a block at or after `offset`, both within the block; undefined: not in this block. What
   * is reported as a hole reads as zeros.
   */
  async seek(
    file: OpenFile,
    block: Block,
    offset: number,
    wantsData: boolean,
    interrupt: Interruptible,
  ): Promise<number | undefined> {
    const found = await this.#onReplica(file, block, async (client, { id, generation }, volume) => {
      const request = { block: id, generation, volume, offset, data: wantsData };
      try {
        return (await client.seekBlock(request, { timeoutMs: READ_TIMEOUT_MS })).offset ?? Infinity;
      } catch (error) {
        if (!isErrno(error, "ENOSYS")) throw error;
        return wantsData ? offset : Infinity; // an older dataserver: all may be data
      }
    }, interrupt);
    const at = found ?? (wantsData ? Infinity : offset); // it was dropped
    return at < block.length ? at : undefined;
  }

  /** Asks the nearest replica that answers; undefined when the block was dropped meanwhile. */
  async #onReplica<T extends Uint8Array | number>(
    file: OpenFile,
    block: Block,
    ask: (client: DataserverClient, current: Block, volume: VolumeId) => Promise<T>,
    interrupt: Interruptible | undefined,
  ): Promise<T | undefined> {
    const { clock, dataservers, softTimeoutMs, log } = this.#options;
    const startMs = clock.monotonicMs();
    let current = block;
    for (let round = 1;; round++) {
      let failure: FsError = new FsError("EIO", `block ${block.id} has no replica`);
      let isStale = false;
      const outdated = Promise.withResolvers<void>();
      const asked = current;
      const replicas = dataservers.nearestFirst(current.replicas);
      if (replicas.length > 0) {
        try {
          const answer = firstAnswer(replicas, {
            ask: async ({ address, volume }) => await ask(await dataservers.client(address), asked, volume),
            onFailure: ({ address, volume }, error) => {
              if (isErrno(error, "ESTALE")) {
                isStale = true;
                outdated.resolve();
              }
              log.debug("replica could not be read", { block: asked.id, volume, address, error });
            },
            onSlow: ({ address }) => dataservers.noteSlow(address),
            clock,
            hedgeMs: HEDGE_MS,
          });
          const first = await this.#unlessChanged(file, current, answer, outdated.promise);
          if (typeof first === "number" || first instanceof Uint8Array) return first;
          current = first;
          round = 0;
          continue;
        } catch (error) {
          if (isDropped(error)) return undefined;
          failure = asFsError(error, "read");
        }
      }
      const sinceMs = clock.monotonicMs() - startMs;
      const isLate = softTimeoutMs !== undefined && sinceMs > softTimeoutMs;
      const mayPass = isTransportError(failure) || (isStale && sinceMs < UNSETTLED_MS);
      if (isLate || (!mayPass && round >= ROUNDS_MAX)) {
        log.error("no replica of a block can be read", { ino: file.ino, block: current.id, error: failure });
        throw new FsError("EIO", failure.message, { op: "read", cause: failure });
      }
      if (round > 1) {
        await clock.sleep(RETRY_MS, interrupt?.signal);
        if (interrupt?.signal.aborted) throw new FsError("EINTR", "interrupted");
      }
      try {
        current = await this.#options.blocks.refetch(file, current);
      } catch (error) {
        if (!isDropped(error)) throw error;
        return undefined;
      }
    }
  }

  /**
   * The answer; or, once a replica was found `outdated` and another one is still waited for, the block as it is now, if it
   * has changed: whoever is asked by what was known before may be hung, and no replica any more.
   */
  async #unlessChanged<T>(
    file: OpenFile,
    block: Block,
    answer: Promise<T>,
    outdated: Promise<void>,
  ): Promise<T | Block> {
    const { clock, blocks, log } = this.#options;
    const ended = new AbortController();
    const changed = outdated.then(async () => {
      for (let waitMs = OUTDATED_MS;; waitMs = RETRY_MS) {
        await clock.sleep(waitMs, ended.signal);
        if (ended.signal.aborted) return block;
        try {
          const now = await blocks.refetch(file, block);
          if (now.generation !== block.generation) return now;
        } catch (error) {
          if (isDropped(error)) throw error;
          log.debug("block could not be looked up again", { block: block.id, error });
        }
      }
    });
    try {
      return await Promise.race([answer, changed]);
    } finally {
      ended.abort(OVER);
      // Whoever comes too late is not waited for.
      answer.catch(() => {});
      changed.catch(() => {});
    }
  }
}

/** What a block that was dropped, by a truncate from elsewhere, reads as. */
function zeros(length: number): Uint8Array[] {
  const views: Uint8Array[] = [];
  addZeros(views, length);
  return views;
}

function addZeros(parts: (Uint8Array | Promise<Uint8Array[]>)[], length: number): void {
  for (let left = length; left > 0; left -= ZEROS.length) {
    parts.push(left >= ZEROS.length ? ZEROS : ZEROS.subarray(0, left));
  }
}
