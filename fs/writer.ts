/**
 * Writing: cuts a write along blocks, sends each part down its chain, and reports size, times and written blocks to
 * the nameserver; what is written of a small file goes with the report itself (inline_data.ts). Under a write lease a
 * write is accepted at once and sent behind the application's back, within a bounded window; without one it returns
 * when all replicas and the nameserver have it.
 *
 * Invariants:
 * - Accepted bytes are bounded (WINDOW_BYTES a file, TOTAL_BYTES a mount).
 * - Two writes that overlap are never in flight together, so the later one wins on every replica.
 * - A failure after acceptance is told by the next fsync or close of each handle, and logged. So is that all machines which
 *   had something stopped before it was synced.
 */

import { copyBytes } from "../base/bytes.ts";
import { type Clock, type Timespec, timespecCompare } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { asFsError, FsError, isErrno } from "../wire/errno.ts";
import { decodeError } from "../wire/error_message.ts";
import type { BlockId, Generation } from "../wire/ids.ts";
import type { ChainReply, RangeChange } from "../wire/messages/dataserver.ts";
import type { Attributes, Block } from "../wire/messages/inode.ts";
import { FILE_BYTES_MAX, S_ISGID, S_ISUID } from "../wire/messages/inode.ts";
import { type Blocks, isDropped, leaseLost } from "./blocks.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { InlineData } from "./inline_data.ts";
import type { InodeTable } from "./inode_table.ts";
import type { BlockNote, Inode, OpenFile, PendingWrite } from "./inode.ts";

const WINDOW_BYTES = 8 * 1024 * 1024;
const TOTAL_BYTES = 32 * 1024 * 1024;
/** A dataserver waits 3 s for each of those after it in the chain; the head must have time to say who failed. */
const WRITE_TIMEOUT_MS = 4_000;
const CHAIN_STEP_TIMEOUT_MS = 3_000;
/** As WRITE_TIMEOUT_MS; a disk may have gigabytes to write down. */
const SYNC_TIMEOUT_MS = 10 * 60_000;
/** Of moving a small file's data to blocks, where all machines that have got it stop before it is synced. */
const OUTGROW_TRIES = 5;
/** Blocks of one file that are synced at once. */
const SYNCS_AT_ONCE = 32;

export interface WriterOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  /** The nameserver made something else of a commit than was shown before. Must not wait. */
  readonly attributesChanged: (inode: Inode) => void;
  readonly blocks: Blocks;
  readonly inline: InlineData;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What a commit says of a file. */
interface Report {
  readonly reach: number;
  readonly mtime: Timespec;
  readonly killSuidGid: boolean;
  readonly written: ReadonlyMap<BlockId, BlockNote>;
  readonly reserved: ReadonlyMap<BlockId, BlockNote>;
  readonly outgrown: boolean;
}

export class Writer {
  readonly #options: WriterOptions;
  #acceptedBytes = 0;
  #roomWaiters: (() => void)[] = [];

  constructor(options: WriterOptions) {
    this.#options = options;
  }

  /** write(2): returns when the bytes are accepted (write lease) or everywhere (none). */
  async write(file: OpenFile, offset: number, data: Uint8Array, killSuidGid: boolean): Promise<void> {
    const end = offset + data.length;
    if (end > FILE_BYTES_MAX) throw new FsError("EFBIG", `write up to ${end}`);
    if (data.length === 0) return;
    const { tenure } = file;
    let place = this.#place(file, offset, end);
    for (; typeof place !== "string"; place = this.#place(file, offset, end)) {
      await place;
      if (file.tenure !== tenure) throw leaseLost(); // while it waited
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
    // The view belongs to the request; what outlives it is copied.
    const bytes = isBuffered ? copyBytes(data) : data;
    const { promise: done, resolve } = Promise.withResolvers<void>();
    const pending: PendingWrite = { start: offset, end, done };
    file.pending.add(pending);
    file.pendingBytes += bytes.length;
    this.#acceptedBytes += bytes.length;
    if (isBuffered) this.note(file, end);
    let failure: FsError | undefined;
    const sent = this.#send(file, offset, bytes, tenure).catch((error) => {
      failure = asFsError(error, "write");
      if (!isBuffered) return; // the caller hears it at once
      this.#options.log.error("written data could not be stored", { ino: file.ino, offset, error: failure });
      file.fail(failure);
    }).finally(() => {
      file.pending.delete(pending);
      file.pendingBytes -= bytes.length;
      this.#acceptedBytes -= bytes.length;
      resolve();
      const waiters = this.#roomWaiters;
      this.#roomWaiters = [];
      for (const wake of waiters) wake();
    });
    if (isBuffered) {
      if (kills) await this.commit(file, false);
      return;
    }
    await sent;
    if (failure !== undefined) throw failure;
    this.note(file, end);
    await this.commit(file, false);
  }

  /**
   * Where a write of [offset, end), which can be accepted now, goes: to the data that the nameserver keeps, or to blocks. Else
   * something to wait for, before this is asked again.
   */
  #place(file: OpenFile, offset: number, end: number): "inline" | "blocks" | Promise<void> {
    const { inline } = this.#options;
    if (file.hasPending(offset, end)) return file.settled(offset, end);
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
      for (let tries = 1;; tries++) {
        await this.#send(file, 0, data, tenure);
        if (file.tenure !== tenure) throw leaseLost();
        // What the nameserver has may have been synced there: it must not go before it is on other disks.
        if (!isKept || (await this.#syncOurs(file)).length === 0) break;
        if (tries === OUTGROW_TRIES) {
          throw new FsError("EIO", "machines stop while the file is moved to a block");
        }
      }
      if (file.tenure !== tenure) throw leaseLost();
      // Invariant: from the first byte in a block on until here no report leaves, as each waits for what is pending.
      const { mtime } = file.shown();
      file.isOutgrown = true;
      file.inline = null;
      file.wrote(0, mtime, this.#options.clock.monotonicMs());
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

  async #send(file: OpenFile, offset: number, bytes: Uint8Array, tenure: number): Promise<void> {
    let at = 0;
    const parts: Promise<void>[] = [];
    try {
      while (at < bytes.length) {
        const position = offset + at;
        const block = await this.#blockAt(file, position);
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
    await Promise.all(parts);
  }

  /** The block at `position`, allocated if need be. Allocations of one file run one after the other. */
  async #blockAt(file: OpenFile, position: number): Promise<Block> {
    const { blocks } = this.#options;
    await blocks.know(file, position, position + 1);
    return file.blocks.at(position) ?? await blocks.allocate(file, position);
  }

  async #sendPart(
    file: OpenFile,
    block: Block,
    position: number,
    body: Uint8Array,
    tenure: number,
  ): Promise<void> {
    const offset = position - block.start;
    let allocated: number | undefined;
    let since = block.generation;
    try {
      const used = await this.#options.blocks.onChain(
        file,
        block,
        async (client, volume, chain, current) => {
          since = current.generation;
          const reply = await client.writeBlock(
            {
              block: current.id,
              generation: current.generation,
              volume,
              offset,
              chain,
              create: !current.written,
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
    } catch (error) {
      // The block was dropped under us (a truncate from elsewhere): the bytes go where the file is now.
      if (!isDropped(error)) throw error;
      file.blocks.clear();
      await this.#send(file, position, body, tenure);
    }
  }

  /** A block got data that is not on all disks yet. Answers to writes cross: none of them takes room away. */
  noteWritten(file: OpenFile, block: Block, allocated: number | undefined, since: Generation): void {
    const before = file.written.get(block.id)?.allocated ?? 0;
    file.noteBlock(block, true, allocated === undefined ? undefined : Math.max(allocated, before));
    this.#noteUnsynced(file, block, since);
  }

  /** `since`: the generation under which the data was sent. */
  #noteUnsynced(file: OpenFile, { id, start }: Block, since: Generation): void {
    file.unsynced.set(id, { start, since: file.unsynced.get(id)?.since ?? since });
  }

  /**
   * Changes [offset, end) of the file, which lies in `block`, on all its replicas. ENOSPC when there is no room for what is to be
   * reserved: no replica is given up for that. The caller has the range to itself.
   */
  async changeRange(
    file: OpenFile,
    block: Block,
    change: RangeChange,
    offset: number,
    end: number,
  ): Promise<void> {
    let allocated: number | undefined;
    let full: FsError | undefined;
    let since = block.generation;
    const used = await this.#options.blocks.onChain(file, block, async (client, volume, chain, current) => {
      full = undefined;
      since = current.generation;
      const { id, generation } = current;
      const range = { change, offset: offset - current.start, length: end - offset };
      const request = { block: id, generation, volume, chain, create: !current.written, ...range };
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
    });
    if (file.hasData(used)) this.#noteUnsynced(file, used, since);
    file.noteBlock(used, false, allocated);
    this.note(file, 0);
    if (full !== undefined) throw full;
  }

  /** Everything written so far is on the replicas, and the nameserver knows it. `durable`: on its disk, too. */
  commit(file: OpenFile, durable: boolean): Promise<void> {
    const run = file.committing.then(() => this.#commit(file, durable));
    file.committing = run.catch(() => {});
    return run;
  }

  /**
   * As `commit`, but resolves as soon as the report has left: whoever hears from us after that on the same connection, such as
   * by the answer to a recall, finds it made. How it went is the file's to tell, and `Inode.handingOver` waits for it.
   */
  handOver(file: OpenFile): Promise<void> {
    const { inode } = file;
    const { promise: sent, resolve } = Promise.withResolvers<void>();
    const run = file.committing.then(() => this.#commit(file, false, resolve)).catch((error) => {
      this.#options.log.error("written data is lost: it could not be reported before its lease ended", {
        ino: file.ino,
        error,
      });
      file.fail(asFsError(error, "commit"));
      file.abandon();
    }).finally(() => {
      resolve();
      if (inode.handingOver === run) inode.handingOver = null;
    });
    file.committing = run;
    inode.handingOver = run;
    return sent;
  }

  async #commit(file: OpenFile, durable: boolean, onSent?: () => void): Promise<void> {
    while (file.pending.size > 0) await file.settled(0, Infinity);
    const { unsyncedReports } = file;
    const synced = () => file.unsyncedReports = Math.max(0, file.unsyncedReports - unsyncedReports);
    if (!file.dirty) {
      if (!durable) return;
      await this.#options.session.nameserver.sync({ ino: file.ino });
      synced();
      return;
    }
    if (!durable) file.unsyncedReports++;
    const { session, table, attributesChanged } = this.#options;
    const askedAt = table.moment;
    const report: Report = {
      reach: file.reach,
      mtime: file.mtime,
      killSuidGid: file.killSuidGid,
      written: new Map(file.written),
      reserved: new Map(file.reserved),
      outgrown: file.isOutgrown,
    };
    const inline = file.inline?.take();
    const { reach, mtime, killSuidGid } = report;
    const written = [...report.written].map(([block, { start, allocated }]) => ({
      block,
      start,
      ...allocated === undefined ? {} : { allocated },
    }));
    const reserved = [...report.reserved].map(([block, { start, allocated = 0 }]) => ({
      block,
      start,
      allocated,
    }));
    const { tenure } = file;
    const shown = file.shown();
    let isSent = false;
    const reply = await session.flushChange((retry) => {
      const request = {
        ...{ retry, ino: file.ino, size: reach, mtime, killSuidGid, durable, written },
        ...reserved.length === 0 ? {} : { reserved },
        ...report.outgrown ? { outgrown: true as const } : {},
        ...inline === undefined || inline.ranges.length === 0
          ? {}
          : { inline: inline.ranges, body: inline.body },
      };
      return session.commit(request, () => {
        if (file.tenure !== tenure) throw leaseLost();
        if (onSent === undefined || isSent) return;
        isSent = true;
        // From here on it is the server's: what it makes of it is asked when somebody wants to know.
        const { inode } = file;
        inode.attributes = shown;
        inode.forgetAttributes();
        table.noteRecall(inode.ino);
        inode.handedOverAt = table.moment;
        this.#reported(file, report);
        onSent();
      });
    }).catch((error) => {
      if (inline !== undefined) file.inline?.putBack(inline.ranges);
      throw error;
    });
    if (file.tenure !== tenure) throw leaseLost();
    if (durable) synced();
    if (onSent === undefined) {
      this.#reported(file, report);
      table.adopt(reply, askedAt);
    } else {
      // What it says of a lease is from before the one was given back.
      table.adopt({ ...reply, lease: "none" }, table.moment);
    }
    if (!isShownRight(shown, file.shown())) attributesChanged(file.inode);
  }

  /** The file has nothing more to report of this, unless writes came meanwhile. */
  #reported(file: OpenFile, { reach, mtime, written, reserved, outgrown }: Report): void {
    if (outgrown) file.isOutgrown = false;
    this.#options.inline.reported(file);
    for (const [notes, told] of [[file.written, written], [file.reserved, reserved]] as const) {
      for (const [id, note] of told) {
        if (notes.get(id) === note) notes.delete(id);
        const known = file.blocks.at(note.start);
        if (known?.id !== id) {
          // What is being learned of it may be from before the report, and the note of it is gone.
          file.blocks.changed();
          continue;
        }
        const { allocated: _, ...block } = known;
        file.blocks.put({
          ...block,
          written: known.written || told === written,
          ...note.allocated === undefined ? {} : { allocated: note.allocated },
        });
      }
    }
    const isClean = file.written.size === 0 && file.reserved.size === 0 && file.pending.size === 0 &&
      file.inline === null && !file.isOutgrown && file.reach === reach && file.mtime === mtime;
    if (!isClean) return;
    file.dirty = false;
    file.killSuidGid = false;
  }

  /**
   * fsync(2) and fdatasync(2): every replica's disk, then the nameserver's. Whoever wrote it: what another descriptor or
   * another mount has written before is synced as well.
   */
  async sync(file: OpenFile): Promise<void> {
    const { inode } = file;
    await file.settled(0, Infinity);
    const { grants } = inode;
    const ours = new Map(file.unsynced);
    if (file.restSyncedAt !== grants || inode.lease === "none") {
      for await (const blocks of this.#writtenBlocks(file)) {
        const others = blocks.filter(({ id }) => !ours.has(id));
        await Promise.all(others.map((block) => this.#syncOfOthers(file, block)));
      }
    }
    for (const block of await this.#syncOurs(file, ours)) this.#lost(file, block);
    await this.commit(file, true);
    file.restSyncedAt = grants;
  }

  /** Blocks that we have written to are on their replicas' disks. Gives those that all machines may have lost before. */
  async #syncOurs(file: OpenFile, ours = new Map(file.unsynced)): Promise<BlockId[]> {
    const lost: BlockId[] = [];
    for (let i = 0; i < ours.size; i += SYNCS_AT_ONCE) {
      await Promise.all(
        [...ours].slice(i, i + SYNCS_AT_ONCE).map(async ([id, mark]) => {
          const block = file.blocks.at(mark.start);
          const current = block?.id === id ? block : await this.#find(file, mark.start);
          const used = current?.id === id ? await this.#syncBlock(file, current) : undefined; // truncated away since
          // A write that came meanwhile has put another mark: it may have missed the disk.
          if (file.unsynced.get(id) === mark) file.unsynced.delete(id);
          if ((used?.chosenAt ?? 0) > mark.since) lost.push(id);
        }),
      );
    }
    return lost;
  }

  /** All machines that had the block stopped after something was written to it here, and before it was synced. */
  #lost(file: OpenFile, block: BlockId): void {
    this.#options.log.error("machines stopped before what was written was synced", { ino: file.ino, block });
    const message = "what was written may be lost: all machines that had it stopped before it was synced";
    file.fail(new FsError("EIO", message, { op: "fsync" }));
  }

  /** The block as it is afterwards. */
  #syncBlock(file: OpenFile, block: Block): Promise<Block> {
    return this.#options.blocks.onChain(file, block, (client, volume, chain, used) =>
      client.syncBlock(
        { block: used.id, generation: used.generation, volume, chain },
        { timeoutMs: SYNC_TIMEOUT_MS },
      ));
  }

  /** A block that we have not changed: a replica that can't be reached has nothing of ours to lose. */
  async #syncOfOthers(file: OpenFile, block: Block): Promise<void> {
    const { blocks } = this.#options;
    if (
      !await blocks.onReachable(block, (client, volume) =>
        client.syncBlock(
          { block: block.id, generation: block.generation, volume, chain: [] },
          { timeoutMs: SYNC_TIMEOUT_MS },
        ))
    ) {
      try {
        await this.#syncBlock(file, block);
      } catch (error) {
        if (!isDropped(error)) throw error;
      }
    }
  }

  /** The file's blocks that hold data, some at a time. */
  async *#writtenBlocks(file: OpenFile): AsyncGenerator<Block[]> {
    if (file.inlineBytes > 0) return;
    let found: Block[] = [];
    for (let at = 0; at < file.size;) {
      await this.#options.blocks.know(file, at, at + 1);
      const block = file.blocks.at(at);
      const next = block === undefined ? file.blocks.nextStart(at) : block.start + block.length;
      if (block !== undefined && file.hasData(block)) found.push(block);
      // Past the known range there may be more.
      at = block === undefined && next === Infinity ? file.blocks.knownTo : next;
      if (found.length < SYNCS_AT_ONCE && at < file.size) continue;
      yield found;
      found = [];
    }
  }

  async #find(file: OpenFile, start: number): Promise<Block | undefined> {
    await this.#options.blocks.know(file, start, start + 1);
    return file.blocks.at(start);
  }
}

function isShownRight(shown: Attributes, now: Attributes): boolean {
  return shown.size === now.size && shown.allocatedBytes === now.allocatedBytes && shown.mode === now.mode &&
    timespecCompare(shown.mtime, now.mtime) === 0 && timespecCompare(shown.ctime, now.ctime) === 0;
}

/** There may be a setuid or setgid that a write takes off: none is known to be there only while nobody else can put one. */
function mayBePrivileged({ lease, attributesKnown, attributes: { mode } }: Inode): boolean {
  if (lease !== "write" || !attributesKnown) return true;
  return (mode & S_ISUID) !== 0 || (mode & (S_ISGID | 0o010)) === (S_ISGID | 0o010);
}
