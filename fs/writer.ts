/**
 * Writing: cuts a write along blocks and sends each part down its chain; what is written of a small file goes with the
 * report of it itself (inline_data.ts). Under a write lease a write is accepted at once and sent behind the application's
 * back, within a bounded window, small ones together (gathered_write.ts); without one it returns when all replicas and the
 * nameserver have it.
 *
 * Invariants:
 * - Accepted bytes are bounded (WINDOW_BYTES a file, TOTAL_BYTES a mount).
 * - Two writes that overlap are never in flight together, so the later one wins on every replica.
 * - What is accepted is sent within GATHERED_MS, or as soon as anybody waits for it.
 * - A failure after acceptance is told by the next fsync or close of each handle, and logged.
 */

import { concatBytes, copyBytes } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import { asFsError, FsError, isErrno } from "../wire/errno.ts";
import { decodeError } from "../wire/error_message.ts";
import type { BlockId, Generation, InodeId } from "../wire/ids.ts";
import type { ChainReply, RangeChange } from "../wire/messages/dataserver.ts";
import type { Block } from "../wire/messages/inode.ts";
import { FILE_BYTES_MAX, S_ISGID, S_ISUID } from "../wire/messages/inode.ts";
import { type Blocks, demandTenure, isDropped, SYNC_TIMEOUT_MS } from "./blocks.ts";
import { GATHERED_BYTES_MAX, GatheredWrite } from "./gathered_write.ts";
import type { Inode, OpenFile } from "./inode.ts";
import { Reports, type ReportsOptions } from "./reports.ts";
import { Syncer } from "./syncer.ts";

const WINDOW_BYTES = 8 * 1024 * 1024;
const TOTAL_BYTES = 32 * 1024 * 1024;
/** A dataserver waits 3 s for each of those after it in the chain; the head must have time to say who failed. */
const WRITE_TIMEOUT_MS = 4_000;
const CHAIN_STEP_TIMEOUT_MS = 3_000;
/** Of a write this large the memory that it came in is kept until it is sent; smaller ones are copied. */
const TAKEN_BYTES_MIN = 512 * 1024;
/** So long what is gathered waits for more. */
const GATHERED_MS = 10;
/** Of moving a small file's data to blocks, where all machines that have got it stop before it is synced. */
const OUTGROW_TRIES = 5;

export interface WriterOptions extends ReportsOptions {
  readonly blocks: Blocks;
  readonly clock: Clock;
}

/** What a write came in, which may be kept for longer than the write takes (`RequestContext.takeBuffer`). */
export interface Memory {
  takeBuffer?(): (() => void) | undefined;
}

/** Bytes at a position of the file. */
interface Part {
  readonly position: number;
  readonly bytes: Uint8Array;
}

export class Writer {
  readonly #options: WriterOptions;
  readonly #reports: Reports;
  readonly #syncer: Syncer;
  /** Not sent yet, the oldest first. */
  readonly #gathering = new Set<GatheredWrite>();
  #isSweeping = false;
  #acceptedBytes = 0;
  #roomWaiters: (() => void)[] = [];

  constructor(options: WriterOptions) {
    this.#options = options;
    this.#reports = new Reports(options);
    const { session, table } = options;
    const look = async (ino: InodeId) => {
      const askedAt = table.moment;
      table.adopt(await session.nameserver.getattr({ ino }), askedAt);
    };
    this.#syncer = new Syncer({ ...options, reports: this.#reports, look });
  }

  /** See `Reports.commit`. */
  commit(file: OpenFile, durable: boolean): Promise<void> {
    return this.#reports.commit(file, durable);
  }

  /** See `Reports.commitBeforeChange`. */
  commitBeforeChange(file: OpenFile): Promise<void> {
    return this.#reports.commitBeforeChange(file);
  }

  /** See `Reports.handOver`. */
  handOver(file: OpenFile): Promise<void> {
    return this.#reports.handOver(file);
  }

  /** See `Syncer.sync`. */
  sync(file: OpenFile, dataOnly = false): Promise<void> {
    return this.#syncer.sync(file, dataOnly);
  }

  /** write(2): returns when the bytes are accepted (write lease) or everywhere (none). `memory` is what `data` lies in. */
  async write(
    file: OpenFile,
    offset: number,
    data: Uint8Array,
    killSuidGid: boolean,
    memory?: Memory,
  ): Promise<void> {
    const end = offset + data.length;
    if (end > FILE_BYTES_MAX) throw new FsError("EFBIG", `write up to ${end}`);
    if (data.length === 0) return;
    const { tenure } = file;
    let place = this.#place(file, offset, data);
    for (; typeof place !== "string"; place = this.#place(file, offset, data)) {
      await place;
      demandTenure(file, tenure); // while it waited
    }
    const isBuffered = file.inode.lease === "write";
    // The kernel says so of every write of an ordinary user.
    const kills = killSuidGid && mayBePrivileged(file.inode);
    if (kills) file.killSuidGid = true;
    if (place === "inline") {
      const isFull = this.#options.inline.write(file, offset, data);
      this.note(file, end);
      if (kills || isFull || !isBuffered) await this.commit(file, false);
      return;
    }
    if (isBuffered) {
      if (place === "blocks") this.#accept(file, offset, data, memory);
      this.note(file, end);
      if (kills) await this.commit(file, false);
      return;
    }
    const done = this.#begin(file, offset, end);
    try {
      await this.#send(file, offset, data, tenure);
      demandTenure(file, tenure);
    } finally {
      done();
    }
    this.note(file, end);
    await this.commit(file, false);
  }

  /** Takes a write, which is stored behind the application's back. */
  #accept(file: OpenFile, offset: number, data: Uint8Array, memory: Memory | undefined): void {
    const { tenure } = file;
    if (data.length > GATHERED_BYTES_MAX) {
      const giveBack = data.length < TAKEN_BYTES_MIN ? undefined : memory?.takeBuffer?.();
      // Else the view belongs to the request.
      const bytes = giveBack === undefined ? copyBytes(data) : data;
      const done = this.#begin(file, offset, offset + bytes.length);
      void this.#send(file, offset, bytes, tenure).then(
        (isDone) => isDone && giveBack?.(),
        (error) => this.#failed(file, offset, error),
      ).finally(done);
      return;
    }
    if (file.gathered?.add(offset, data) !== true) {
      file.gathered?.send();
      this.#beginGathering(file).add(offset, data);
    }
    file.pendingBytes += data.length;
    this.#acceptedBytes += data.length;
  }

  #beginGathering(file: OpenFile): GatheredWrite {
    const { clock } = this.#options;
    const gathered = new GatheredWrite(file.tenure, clock.monotonicMs(), (write, durable) => {
      if (file.gathered === write) file.gathered = null;
      this.#gathering.delete(write);
      void this.#sendGathered(file, write, durable).catch((error) =>
        this.#failed(file, write.ranges[0]!.start, error)
      ).finally(() => {
        file.pending.delete(write);
        this.#ended(file, write.bytes);
        write.end();
      });
    });
    file.gathered = gathered;
    file.pending.add(gathered);
    this.#gathering.add(gathered);
    if (!this.#isSweeping) void this.#sweep();
    return gathered;
  }

  /** Sends what waits for more to be gathered, when its time is over. */
  async #sweep(): Promise<void> {
    const { clock } = this.#options;
    this.#isSweeping = true;
    while (this.#gathering.size > 0) {
      await clock.sleep(GATHERED_MS);
      const nowMs = clock.monotonicMs();
      for (const gathered of this.#gathering) {
        if (nowMs - gathered.sinceMs < GATHERED_MS) break; // the others are younger
        gathered.send();
      }
    }
    this.#isSweeping = false;
  }

  /** Bytes of [start, end) are on their way; what it gives ends that. */
  #begin(file: OpenFile, start: number, end: number): () => void {
    const bytes = end - start;
    const done = file.begin(start, end);
    file.pendingBytes += bytes;
    this.#acceptedBytes += bytes;
    return () => {
      done();
      this.#ended(file, bytes);
    };
  }

  #ended(file: OpenFile, bytes: number): void {
    file.pendingBytes -= bytes;
    this.#acceptedBytes -= bytes;
    const waiters = this.#roomWaiters;
    this.#roomWaiters = [];
    for (const wake of waiters) wake();
  }

  /** Something that was accepted could not be stored. */
  #failed(file: OpenFile, offset: number, cause: unknown): void {
    const error = asFsError(cause, "write");
    this.#options.log.error("written data could not be stored", { ino: file.ino, offset, error });
    file.fail(error);
  }

  /**
   * Where a write of [offset, end), which can be accepted now, goes: to the data that the nameserver keeps, or to blocks, or it
   * was taken by what is gathered. Else something to wait for, before this is asked again.
   */
  #place(file: OpenFile, offset: number, data: Uint8Array): "inline" | "blocks" | "gathered" | Promise<void> {
    const { inline } = this.#options;
    const end = offset + data.length;
    if (file.hasPending(offset, end)) {
      return file.gathered?.replace(offset, data) === true ? "gathered" : file.settled(offset, end);
    }
    if (inline.isUnknown(file, end)) return inline.learn(file);
    if (inline.takes(file, end)) return "inline";
    if (file.inlineBytes > 0) return this.outgrow(file);
    return this.#hasRoom(file, end - offset) ? "blocks" : this.#roomFor(file, end - offset);
  }

  /** What the nameserver keeps of the file's data is in blocks afterwards; the next report says so. Only under a write lease. */
  async outgrow(file: OpenFile): Promise<void> {
    if (file.inlineBytes === 0) return;
    const { tenure } = file;
    const release = await file.occupy(0, Infinity);
    try {
      if (file.inlineBytes === 0) return; // by another write
      const isKept = this.#options.inline.isKept(file);
      const data = await this.#options.inline.copy(file);
      const { block } = await this.#options.blocks.piece(file, 0);
      demandTenure(file, tenure);
      // What an earlier try has left in it, and was cut off since, would be seen when the file has grown.
      if (block !== undefined) {
        await this.changeRange(file, block, "zero", block.start, block.start + block.length, tenure);
      }
      for (let tries = 1;; tries++) {
        await this.#send(file, 0, data, tenure);
        demandTenure(file, tenure);
        // What the nameserver has may have been synced there: it must not go before it is on other disks.
        if (!isKept || (await this.#syncer.syncOurs(file)).length === 0) break;
        if (tries === OUTGROW_TRIES) {
          throw new FsError("EIO", "machines stop while the file is moved to a block");
        }
        file.written.clear(); // all of it is sent again: replicas may begin anew
      }
      demandTenure(file, tenure);
      // Invariant: from the first byte in a block on until here no report leaves, as each waits for what is pending.
      const { mtime } = file.shown();
      file.isOutgrown = true;
      file.inline = null;
      file.wrote(0, mtime, this.#options.clock.monotonicMs());
    } catch (error) {
      // What the nameserver has is the file's data still: no report may speak of blocks.
      if (file.tenure === tenure) file.written.clear();
      throw error;
    } finally {
      release();
    }
  }

  /** Something of the file was changed now, by a write if it has an `end`. */
  note(file: OpenFile, end: number): void {
    file.wrote(end, this.#options.session.now(), this.#options.clock.monotonicMs());
  }

  #hasRoom(file: OpenFile, length: number): boolean {
    const isFileFull = file.pendingBytes > 0 && file.pendingBytes + length > WINDOW_BYTES;
    const isMountFull = this.#acceptedBytes > 0 && this.#acceptedBytes + length > TOTAL_BYTES;
    return !isFileFull && !isMountFull;
  }

  async #roomFor(file: OpenFile, length: number): Promise<void> {
    while (!this.#hasRoom(file, length)) {
      await new Promise<void>((resolve) => this.#roomWaiters.push(resolve));
    }
  }

  async #sendGathered(file: OpenFile, gathered: GatheredWrite, durable: boolean): Promise<void> {
    const { ranges, body } = gathered;
    const byBlock = new Map<BlockId, { readonly block: Block; readonly parts: Part[] }>();
    const sent: Promise<void>[] = [];
    try {
      let at = 0;
      for (const { start, end } of ranges) {
        for (let position = start; position < end;) {
          const block = await this.#blockAt(file, position, gathered.tenure);
          const length = Math.min(end, block.start + block.length) - position;
          const part = { position, bytes: body.subarray(at, at + length) };
          const found = byBlock.get(block.id);
          if (found === undefined) byBlock.set(block.id, { block, parts: [part] });
          else found.parts.push(part);
          position += length;
          at += length;
        }
      }
    } finally {
      // Also where no block was to be had for the rest.
      for (const { block, parts } of byBlock.values()) {
        sent.push(this.#sendParts(file, block, parts, gathered, durable));
      }
      await Promise.allSettled(sent);
    }
    await Promise.all(sent);
  }

  /** Parts of what was gathered, all in one block. */
  async #sendParts(
    file: OpenFile,
    block: Block,
    parts: readonly Part[],
    gathered: GatheredWrite,
    durable: boolean,
  ): Promise<void> {
    const { tenure } = gathered;
    const mark = file.unsynced.get(block.id);
    const ranges = parts.map(({ position, bytes }) => [position - block.start, bytes.length] as const);
    const isAll = parts.reduce((sum, { bytes }) => sum + bytes.length, 0) === gathered.bytes;
    const body = isAll ? gathered.body : concatBytes(parts.map(({ bytes }) => bytes));
    let allocated: number | undefined;
    let since = block.generation;
    try {
      const used = await this.#options.blocks.onChain(
        file,
        block,
        async (client, volume, chain, current) => {
          const { id, generation } = current;
          since = generation;
          const create = file.makesReplicas(current);
          const request = { block: id, generation, volume, chain, create, ranges, body, durable };
          const timeoutMs = durable
            ? SYNC_TIMEOUT_MS
            : WRITE_TIMEOUT_MS + chain.length * CHAIN_STEP_TIMEOUT_MS;
          const reply = await client.writeRanges(request, { timeoutMs });
          allocated = reply.allocatedBytes;
          return reply;
        },
        { tenure },
      );
      if (!durable) return this.noteWritten(file, used, allocated, since);
      this.#noteAllocated(file, used, allocated);
      gathered.synced.add(used.id);
      // What was written to it before is on the disks as well.
      if (mark === undefined || file.unsynced.get(used.id) !== mark) return;
      file.unsynced.delete(used.id);
      if ((used.chosenAt ?? 0) > mark.since) this.#syncer.lost(file, used.id);
    } catch (error) {
      if (!isDropped(error)) throw error;
      file.blocks.clear();
      for (const { position, bytes } of parts) await this.#send(file, position, bytes, tenure);
    }
  }

  /** Gives whether nothing can use `bytes` any more; where something was sent twice, the first may still be on its way. */
  async #send(file: OpenFile, offset: number, bytes: Uint8Array, tenure: number): Promise<boolean> {
    let at = 0;
    const parts: Promise<boolean>[] = [];
    try {
      while (at < bytes.length) {
        const position = offset + at;
        const block = await this.#blockAt(file, position, tenure);
        const length = Math.min(bytes.length - at, block.start + block.length - position);
        const part = this.#sendPart(file, block, position, bytes.subarray(at, at + length), tenure);
        part.catch(() => {}); // it may fail while the next block is asked for; that is told below
        parts.push(part);
        at += length;
      }
    } finally {
      // Whatever failed: nothing of this write is in flight when the next one to the range begins.
      await Promise.allSettled(parts);
    }
    return (await Promise.all(parts)).every((isDone) => isDone);
  }

  /** The block at `position`, allocated if need be. Allocations of one file run one after the other. */
  async #blockAt(file: OpenFile, position: number, tenure: number): Promise<Block> {
    const { blocks } = this.#options;
    return (await blocks.piece(file, position)).block ?? await blocks.allocate(file, position, tenure);
  }

  /** As `#send`. */
  async #sendPart(
    file: OpenFile,
    block: Block,
    position: number,
    body: Uint8Array,
    tenure: number,
  ): Promise<boolean> {
    let sendings = 0;
    const offset = position - block.start;
    let allocated: number | undefined;
    let since = block.generation;
    try {
      const used = await this.#options.blocks.onChain(
        file,
        block,
        async (client, volume, chain, current) => {
          since = current.generation;
          sendings++;
          const reply = await client.writeBlock(
            {
              block: current.id,
              generation: current.generation,
              volume,
              offset,
              chain,
              create: file.makesReplicas(current),
              body,
            },
            { timeoutMs: WRITE_TIMEOUT_MS + chain.length * CHAIN_STEP_TIMEOUT_MS },
          );
          allocated = reply.allocatedBytes;
          return reply;
        },
        { tenure },
      );
      this.noteWritten(file, used, allocated, since);
      return sendings === 1 && used === block;
    } catch (error) {
      // The block was dropped under us (a truncate from elsewhere): the bytes go where the file is now.
      if (!isDropped(error)) throw error;
      file.blocks.clear();
      await this.#send(file, position, body, tenure);
      return false;
    }
  }

  /** A block got data that is not on all disks yet. Answers to writes cross: none of them takes room away. */
  noteWritten(file: OpenFile, block: Block, allocated: number | undefined, since: Generation): void {
    this.#noteAllocated(file, block, allocated);
    this.#noteUnsynced(file, block, since);
  }

  #noteAllocated(file: OpenFile, block: Block, allocated: number | undefined): void {
    const before = file.written.get(block.id)?.allocated ?? 0;
    file.noteBlock(block, true, allocated === undefined ? undefined : Math.max(allocated, before));
    // The write itself may have been reported beside it.
    if (!file.dirty && file.written.size > 0) file.wrote(0, file.mtime, this.#options.clock.monotonicMs());
  }

  /** `since`: the generation under which the data was sent. */
  #noteUnsynced(file: OpenFile, { id, start }: Block, since: Generation): void {
    file.unsynced.set(id, { start, since: file.unsynced.get(id)?.since ?? since });
  }

  /**
   * Changes [offset, end) of the file, which lies in `block`, on all its replicas. ENOSPC when there is no room for what is to be
   * reserved: no replica is given up for that. The caller has the range to itself. `tenure` as in `Blocks.onChain`.
   */
  async changeRange(
    file: OpenFile,
    block: Block,
    change: RangeChange,
    offset: number,
    end: number,
    tenure: number,
  ): Promise<void> {
    let allocated: number | undefined;
    let full: FsError | undefined;
    let since = block.generation;
    const used = await this.#options.blocks.onChain(file, block, async (client, volume, chain, current) => {
      full = undefined;
      since = current.generation;
      const { id, generation } = current;
      const range = { change, offset: offset - current.start, length: end - offset };
      const request = { block: id, generation, volume, chain, create: file.makesReplicas(current), ...range };
      try {
        const timeoutMs = WRITE_TIMEOUT_MS + chain.length * CHAIN_STEP_TIMEOUT_MS;
        const reply = await client.changeRange(request, { timeoutMs });
        allocated = reply.allocatedBytes;
        const isFull = ({ errno }: ChainReply["failed"][number]) => change !== "punch" && errno === "ENOSPC";
        const first = reply.failed.find(isFull);
        if (first !== undefined) full = decodeError(first);
        return { failed: reply.failed.filter((one) => !isFull(one)) };
      } catch (error) {
        if (change === "punch" || !isErrno(error, "ENOSPC")) throw error;
        full = error;
        return { failed: [] };
      }
    }, { tenure });
    if (file.hasData(used)) this.#noteUnsynced(file, used, since);
    file.noteBlock(used, false, allocated);
    this.note(file, 0);
    if (full !== undefined) throw full;
  }
}

/** There may be a setuid or setgid that a write takes off: none is known to be there only while nobody else can put one. */
function mayBePrivileged({ lease, attributesKnown, attributes: { mode } }: Inode): boolean {
  if (lease !== "write" || !attributesKnown) return true;
  return (mode & S_ISUID) !== 0 || (mode & (S_ISGID | 0o010)) === (S_ISGID | 0o010);
}
