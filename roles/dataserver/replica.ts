/**
 * One open replica: the order of what happens to it, its generation and its state.
 * Owns: the lock and what the volume's database says of this replica. Knows nothing of chains or of the nameserver.
 * Invariant: no byte of the data file changes before the database says "writing" durably, unless the replica is
 * new; so a finalized record always has the right length and crcs.
 * Invariant: a doubtful replica is neither read nor written nor finalized before the nameserver has chosen it.
 * Invariant: what a change leaves of the chunks that it touches is compared with its checksums before the replica is in state
 * "writing": a crash in that state has the checksums of what may have changed computed anew, and rot that was found would get
 * good ones. What may have changed is recorded before it does (touched.ts).
 */

import { randomHexId } from "../../base/random.ts";
import { bodies } from "../../wire/bodies.ts";
import { asFsError, FsError } from "../../wire/errno.ts";
import type { BlockId, Generation } from "../../wire/ids.ts";
import type {
  LocateReplicaReply,
  RangeChange,
  ReplicaChangesReply,
  ReplicaStateReply,
} from "../../wire/messages/dataserver.ts";
import { ChangeLog } from "./change_log.ts";
import { CHUNK_BYTES, chunkCount, type ChunkTable } from "./chunk_table.ts";
import { type Hold, RangeLock, WHOLE } from "./range_lock.ts";
import { type ContentHost, ReplicaContent, type ReplicaFile } from "./replica_content.ts";
import type { ReplicaRecord, ReplicaRecords, ReplicaState } from "./replica_records.ts";
import { all, SharedSync } from "./shared_sync.ts";
import { Touched } from "./touched.ts";

const SETTLE_CHUNKS = 16;

/** What a replica needs of its volume. */
export interface ReplicaHost extends ContentHost {
  readonly records: ReplicaRecords;
}

/** Thrown to an operation that waited while its replica was closed: look it up again. Never leaves the volume. */
export class ReplicaClosed extends Error {
  override readonly name = "ReplicaClosed";
}

export class Replica {
  readonly block: BlockId;
  readonly lock = new RangeLock();
  readonly #opening = randomHexId();
  lastUseMs = 0;
  /** When it was opened, or was to be changed last. */
  lastChangeMs = 0;
  readonly #host: ReplicaHost;
  readonly #content: ReplicaContent;
  #generation: Generation;
  #state: ReplicaState;
  #isDoubtful: boolean;
  #recordDurable: boolean;
  #nameDurable: boolean;
  #closed = false;
  #startingToWrite: Promise<void> | null = null;
  /** In state "writing": what may have no good checksum in the crc file, as it is recorded. Null: nothing has one. */
  #touched: Touched | null;
  /** The same with what is still to be recorded. */
  #toTouch: Touched | null;
  readonly #touching = new SharedSync(() => this.#touchOnce());
  // Changes begun and changes done, and how many of those were done before the last fdatasync began.
  #version = 0;
  readonly #changed = new ChangeLog();
  #changes = 0;
  #syncedChanges = -1;
  readonly #syncing = new SharedSync(() => this.#syncOnce());

  constructor(
    file: ReplicaFile,
    host: ReplicaHost,
    chunks: ChunkTable,
    record: ReplicaRecord & { readonly isDurable: boolean },
  ) {
    this.block = file.block;
    this.#host = host;
    this.#content = new ReplicaContent(file, host, chunks, () => this.#isOnDisk);
    this.#generation = record.generation;
    this.#state = record.state;
    this.#isDoubtful = record.isDoubtful === true;
    this.#recordDurable = record.isDurable;
    this.#nameDurable = record.state === "finalized";
    this.#touched = record.touched === undefined ? null : Touched.fromStored(record.touched);
    this.#toTouch = this.#touched?.copy() ?? null;
  }

  get state(): ReplicaState {
    return this.#state;
  }

  get length(): number {
    return this.#content.length;
  }

  /** Its machine stopped, or its disk failed, while it was being written: it may lack what was acknowledged. */
  get isDoubtful(): boolean {
    return this.#isDoubtful;
  }

  get #isOnDisk(): boolean {
    return this.#state === "finalized" || this.#syncedChanges === this.#changes;
  }

  /** Names what the replica holds: another one after each change, and after each opening. */
  stateOf(generation: Generation): ReplicaStateReply {
    this.#check(generation);
    return { length: this.length, state: `${this.#opening}.${this.#version}` };
  }

  /**
   * Where it is found by others of this machine. Undefined while it may change, or is not on its disk: what a failing disk
   * has not written may go from the page cache, and only we would notice.
   */
  locate(generation: Generation): LocateReplicaReply | undefined {
    this.#check(generation);
    const isQuiet = this.#state === "finalized" && this.#startingToWrite === null;
    return isQuiet ? this.#content.located() : undefined;
  }

  /** As `stateOf`, with a digest of what it holds; also of a doubtful one. */
  async digestOf(generation: Generation): Promise<ReplicaStateReply> {
    await this.#settleSome();
    const hold = await this.lock.acquire(0, WHOLE, true);
    try {
      this.#checkGeneration(generation);
      await this.#settleRest();
      const state = `${this.#opening}.${this.#version}`;
      return { length: this.length, state, digest: this.#content.digest() };
    } finally {
      this.lock.release(hold);
    }
  }

  /** What changed since the replica was in state `since`; without `changed` when that is not known. */
  changesSince(generation: Generation, since: string): ReplicaChangesReply {
    const now = this.stateOf(generation);
    const [opening, version] = since.split(".");
    if (opening !== this.#opening) return now;
    const runs = this.#changed.since(Number(version), chunkCount(this.length));
    return {
      ...now,
      changed: runs.map(([from, to]) =>
        [from * CHUNK_BYTES, Math.min(to * CHUNK_BYTES, this.length)] as const
      ),
    };
  }

  /** Counts up with each change: equal before and after means that nothing changed. */
  get version(): number {
    return this.#version;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  get record(): ReplicaRecord {
    const record = { generation: this.#generation, state: this.#state, length: this.length };
    return this.#touched === null ? record : { ...record, touched: this.#touched.toStored() };
  }

  /** Bytes from `offset`, fewer at the replica's end. At once when they are proven and cached. */
  read(generation: Generation, offset: number, length: number): Uint8Array | Promise<Uint8Array> {
    const end = Math.min(offset + length, this.length);
    if (end > offset && this.lock.isFree(offset, end, false)) {
      this.#check(generation);
      const bytes = this.#content.readCached(offset, end);
      if (bytes !== null) return bytes;
    }
    return this.#readLocked(generation, offset, length);
  }

  /** As `read`, but all of it is read from the file and compared with its crcs, whatever was proven before. */
  reread(generation: Generation, offset: number, length: number): Promise<Uint8Array> {
    return this.#readLocked(generation, offset, length, true);
  }

  async #readLocked(
    generation: Generation,
    offset: number,
    length: number,
    isStrict = false,
  ): Promise<Uint8Array> {
    const from = Math.floor(offset / CHUNK_BYTES) * CHUNK_BYTES;
    const hold = await this.lock.acquire(from, chunkCount(offset + length) * CHUNK_BYTES, false);
    try {
      this.#check(generation);
      const end = Math.min(offset + length, this.length);
      if (end <= offset) return new Uint8Array(0);
      if (isStrict) {
        const last = chunkCount(end) - 1;
        const bytes = await this.#content.settle(from / CHUNK_BYTES, last, this.#state === "finalized", true);
        return bytes.subarray(offset - from, end - from);
      }
      return await this.#content.read(offset, end, this.#state === "finalized");
    } finally {
      this.lock.release(hold);
    }
  }

  /** Writes ranges, offset and length each, which don't overlap, with what is one after the other in `body`. */
  async write(
    generation: Generation,
    ranges: readonly (readonly [number, number])[],
    body: Uint8Array,
  ): Promise<void> {
    this.#check(generation);
    let at = 0;
    for (const [offset, length] of ranges) {
      if (length === 0) continue;
      // One at a time: what lies between small pieces that are far apart may be being written.
      const hold = await this.lock.acquire(offset, offset + length, true);
      try {
        this.#check(generation);
        await this.#prove(offset, offset + length);
        // What lies between the old end and `offset` comes as zeros.
        await this.#begin(Math.min(offset, this.length), offset + length);
        await this.#write(offset, body.subarray(at, at + length));
      } finally {
        this.lock.release(hold);
      }
      at += length;
    }
  }

  /** What stays of the chunks at the edges of a range is what was written. With the range held. */
  #prove(offset: number, end: number): Promise<void> | undefined {
    return this.#content.mustProveEdges(offset, end) ? this.#content.proveEdges(offset, end) : undefined;
  }

  /** With the range held. */
  async #write(offset: number, bytes: Uint8Array): Promise<void> {
    const end = offset + bytes.length;
    // What lies between the old end and `offset` comes as zeros.
    this.#changed.note(
      Math.floor(Math.min(offset, this.length) / CHUNK_BYTES),
      chunkCount(end),
      ++this.#version,
    );
    try {
      await this.#content.write(offset, bytes);
    } finally {
      this.#changes++;
    }
  }

  /** Changes [offset, end), also past the replica's end, which stays where it is. */
  async changeRange(generation: Generation, change: RangeChange, offset: number, end: number): Promise<void> {
    const hold = await this.lock.acquire(offset, end, true);
    try {
      this.#check(generation);
      const stop = Math.min(end, this.length);
      const changesBytes = change !== "reserve" && stop > offset;
      if (changesBytes) await this.#prove(offset, stop);
      await this.#begin(offset, changesBytes ? stop : offset);
      if (changesBytes) {
        this.#changed.note(Math.floor(offset / CHUNK_BYTES), chunkCount(stop), ++this.#version);
      }
      try {
        await this.#content.changeRange(change, offset, end);
      } finally {
        this.#changes++;
      }
    } finally {
      this.lock.release(hold);
    }
  }

  /** What it takes on the disk, if that is known. */
  allocatedBytes(): number | undefined {
    return this.#closed ? undefined : this.#content.allocatedBytes();
  }

  /** A write there needs no more room on the disk. */
  hasRoom(offset: number, end: number): boolean {
    return !this.#closed && this.#content.hasRoom(offset, end);
  }

  /** Where data, or a hole, begins at or after `offset`, or -1. What is reported as a hole reads as zeros. */
  async seek(generation: Generation, offset: number, wantsData: boolean): Promise<number> {
    const hold = await this.lock.acquire(offset, WHOLE, false);
    try {
      this.#check(generation);
      return await this.#content.seek(offset, wantsData);
    } finally {
      this.lock.release(hold);
    }
  }

  /** Keeps no byte at or past `length`; a shorter replica stays as it is. */
  async truncate(generation: Generation, length: number): Promise<void> {
    const hold = await this.lock.acquire(0, WHOLE, true);
    try {
      this.#check(generation);
      if (length >= this.length) return;
      if (length % CHUNK_BYTES !== 0) await this.#content.proveEdges(length, length + 1);
      await this.#begin(length, this.length);
      this.#changed.note(Math.floor(length / CHUNK_BYTES), chunkCount(this.length), ++this.#version);
      try {
        await this.#content.cut(length);
      } finally {
        this.#changes++;
      }
    } finally {
      this.lock.release(hold);
    }
  }

  /**
   * What was written before is on disk when it resolves: data, name and record. Not the crcs: those of a replica
   * in state "writing" are computed anew after a crash. Concurrent calls share the disk's flushes.
   */
  sync(generation: Generation): Promise<void> {
    this.#check(generation);
    if (this.#syncedChanges === this.#changes && this.#recordDurable && this.#nameDurable) {
      return Promise.resolve();
    }
    if (this.#state === "finalized" && this.#recordDurable) return Promise.resolve();
    return this.#syncing.run();
  }

  async #syncOnce(): Promise<void> {
    const changes = this.#changes;
    try {
      if (this.#closed) throw new ReplicaClosed();
      // At once: a file system with a journal commits it once for all of them.
      await all([
        this.#content.sync(!this.#nameDurable),
        ...this.#recordDurable ? [] : [this.#host.records.sync()],
      ]);
      this.#nameDurable = true;
      this.#recordDurable = true;
      this.#syncedChanges = changes;
    } catch (error) {
      if (error instanceof ReplicaClosed) throw error;
      throw this.#host.writeFailed(asFsError(error, "sync"));
    }
  }

  /**
   * Takes generation `to`, durably; gives the length. ESTALE when it has neither `from` nor `to`, or is doubtful and not
   * `chosen`.
   */
  async setGeneration(from: Generation, to: Generation, isChosen: boolean): Promise<number> {
    const hold = await this.lock.acquire(0, WHOLE, true);
    try {
      if (this.#closed) throw new ReplicaClosed();
      if (this.#isDoubtful && !isChosen) throw doubtfulError(this.block);
      if (this.#generation !== to || this.#isDoubtful) {
        if (this.#generation !== to) this.#checkGeneration(from);
        // What is chosen is what the block holds: another power cut must not take it back.
        if (this.#isDoubtful) await this.#writing(this.#content.sync(true));
        const record = { ...this.record, generation: to };
        await this.#writing(this.#host.records.put([{ block: this.block, record }], true));
        this.#generation = to;
        this.#isDoubtful = false;
      } else if (!this.#recordDurable) {
        await this.#writing(this.#host.records.sync());
      }
      this.#recordDurable = true;
      return this.length;
    } finally {
      this.lock.release(hold);
    }
  }

  /** Compares what the disk has of a range of whole chunks with their checksums. Gives the replica's length. */
  async scrub(offset: number, length: number): Promise<number> {
    const hold = await this.lock.acquire(offset, offset + length, false);
    try {
      if (this.#closed) throw new ReplicaClosed();
      const end = Math.min(offset + length, this.length);
      if (end > offset) await this.#content.scrub(offset, end, this.#state === "finalized");
      return this.length;
    } finally {
      this.lock.release(hold);
    }
  }

  /** First step of finalizing: the crc file agrees with the data file. Gives the version that it describes. */
  async storeCrcs(): Promise<number> {
    await this.#settleSome();
    const hold = await this.lock.acquire(0, WHOLE, true);
    try {
      if (this.#closed) throw new ReplicaClosed();
      await this.#settleRest();
      await this.#content.storeCrcs();
      return this.#version;
    } finally {
      this.lock.release(hold);
    }
  }

  /** Computes the crcs of what was written, as far as writers leave it alone. */
  async #settleSome(): Promise<void> {
    // In small steps first, so that writers of other ranges need not wait for a whole recovered replica.
    for (let run = this.#content.dirtyRun(0, SETTLE_CHUNKS); run !== null;) {
      const hold = await this.lock.acquire(run.first * CHUNK_BYTES, (run.last + 1) * CHUNK_BYTES, false);
      try {
        if (this.#closed) throw new ReplicaClosed();
        bodies.give(await this.#content.settle(run.first, run.last, false));
      } finally {
        this.lock.release(hold);
      }
      run = this.#content.dirtyRun(run.last + 1, SETTLE_CHUNKS);
    }
  }

  /** And the rest, with everything held. */
  async #settleRest(): Promise<void> {
    for (let run = this.#content.dirtyRun(0, 1); run !== null; run = this.#content.dirtyRun(run.last, 1)) {
      bodies.give(await this.#content.settle(run.first, run.last, false));
    }
  }

  /** Second step: both files and their names are on disk. */
  async syncFiles(): Promise<void> {
    if (this.#closed) throw new ReplicaClosed();
    await this.#content.syncCrcs();
    if (this.#closed) throw new ReplicaClosed(); // deleted meanwhile
    await this.#content.sync(true);
  }

  /** Third step, under a hold of everything and after its record was written durably. */
  becomeFinalized(): void {
    this.#state = "finalized";
    this.#touched = this.#toTouch = null;
    this.#recordDurable = true;
    this.#nameDurable = true;
    this.#syncedChanges = this.#changes;
  }

  /** A hold of everything if nobody uses the replica now, else null. */
  tryHoldAll(): Hold | null {
    if (this.#closed || this.#content.isBeingSynced || !this.lock.isIdle) return null;
    return this.lock.acquire(0, WHOLE, true) as Hold;
  }

  /** Call with everything held. Operations that wait get ReplicaClosed. */
  close(): void {
    this.#closed = true;
    this.#content.close();
  }

  #check(generation: Generation): void {
    this.#checkGeneration(generation);
    if (this.#isDoubtful) throw doubtfulError(this.block);
  }

  #checkGeneration(generation: Generation): void {
    if (this.#closed) throw new ReplicaClosed();
    if (generation !== this.#generation) throw staleError(this.block, this.#generation, generation);
  }

  /** [offset, end), which is held, may change from then on. */
  #begin(offset: number, end: number): Promise<void> | undefined {
    if (this.#state !== "writing") return this.#startWriting(offset, end);
    return this.#touch(offset, end);
  }

  #touch(offset: number, end: number): Promise<void> | undefined {
    if (this.#touched === null || this.#touched.covers(offset, end)) return undefined;
    this.#toTouch!.note(offset, end);
    return this.#touching.run();
  }

  async #touchOnce(): Promise<void> {
    const touched = this.#toTouch!.copy();
    const record = { ...this.record, touched: touched.toStored() };
    // Not durably: after a power cut it is doubtful in any case.
    await this.#writing(this.#host.records.put([{ block: this.block, record }], false));
    this.#touched = touched;
  }

  async #startWriting(offset: number, end: number): Promise<void> {
    // Writers of disjoint ranges share it; whatever makes the state finalized again holds everything.
    await (this.#startingToWrite ??= (async () => {
      try {
        const touched = this.length === 0 ? null : new Touched(this.length);
        touched?.note(offset, end);
        const stored = touched === null ? {} : { touched: touched.toStored() };
        const record = { ...this.record, ...stored, state: "writing" } as const;
        await this.#writing(this.#host.records.put([{ block: this.block, record }], true));
        this.#state = "writing";
        this.#touched = touched;
        this.#toTouch = touched?.copy() ?? null;
        this.#recordDurable = true;
      } finally {
        this.#startingToWrite = null;
      }
    })());
    await this.#touch(offset, end);
  }

  async #writing(operation: Promise<void>): Promise<void> {
    try {
      await operation;
    } catch (error) {
      throw this.#host.writeFailed(asFsError(error, "record"));
    }
  }
}

function doubtfulError(block: BlockId): FsError {
  const message =
    `block ${block} was being written here when the machine stopped or the disk failed: the nameserver settles what counts`;
  return new FsError("ESTALE", message, { op: "block" });
}

export function staleError(block: BlockId, ours: Generation, theirs: Generation): FsError {
  return new FsError("ESTALE", `block ${block} has generation ${ours} here, not ${theirs}`, { op: "block" });
}
