/**
 * One open replica: its descriptor, its chunk table and the order of what happens to it.
 * Owns: the data file and its crc file while it is open. Knows nothing of chains or of the nameserver.
 * Invariant: no byte of the data file changes before the volume's database says "writing" durably, unless the
 * replica is new; so a finalized record always has the right length and crcs.
 * Invariant: bytes leave here only after their chunk matched its crc in this residency, or was written in it.
 */

import * as libc from "../../base/libc.ts";
import { asFsError, FsError } from "../../wire/errno.ts";
import type { BlockId, Generation } from "../../wire/ids.ts";
import { CHUNK_BYTES, chunkCount, ChunkTable } from "./chunk_table.ts";
import { diskError, fileSize, openFile, readFully, syncData, syncDirectory, writeFully } from "./disk.ts";
import { type Hold, RangeLock, WHOLE } from "./range_lock.ts";
import type { ReplicaEntry, ReplicaRecords, ReplicaState } from "./replica_records.ts";

const SETTLE_CHUNKS = 16;

/** What a replica needs of its volume. */
export interface ReplicaHost {
  readonly records: ReplicaRecords;
  /** The replica's length changed by `bytes`. */
  lengthChanged(bytes: number): void;
  /** Its content is not what was written: logs and reports it, and gives the error to throw. */
  corrupt(block: BlockId, message: string): FsError;
  /** The disk failed to write: gives the error to throw. */
  writeFailed(error: FsError): FsError;
}

export interface ReplicaFile {
  readonly block: BlockId;
  readonly fd: number;
  readonly dataPath: string;
  readonly crcPath: string;
  readonly directory: string;
}

/** Thrown to an operation that waited while its replica was closed: look it up again. Never leaves the volume. */
export class ReplicaClosed extends Error {
  override readonly name = "ReplicaClosed";
}

export class Replica {
  readonly block: BlockId;
  readonly lock = new RangeLock();
  lastUseMs = 0;
  readonly #file: ReplicaFile;
  readonly #host: ReplicaHost;
  readonly #chunks: ChunkTable;
  #generation: Generation;
  #state: ReplicaState;
  #recordDurable: boolean;
  #nameDurable: boolean;
  #closed = false;
  // Operations that use the descriptor without a hold; it is closed when the last has ended.
  #pins = 0;
  #startingToWrite: Promise<void> | null = null;
  // Changes begun and changes done, and how many of those were done before the last fdatasync began.
  #version = 0;
  #changes = 0;
  #syncedChanges = -1;
  #syncing: Promise<void> | null = null;
  #syncNext: Promise<void> | null = null;

  constructor(
    file: ReplicaFile,
    host: ReplicaHost,
    chunks: ChunkTable,
    record: { readonly generation: Generation; readonly state: ReplicaState; readonly isDurable: boolean },
  ) {
    this.block = file.block;
    this.#file = file;
    this.#host = host;
    this.#chunks = chunks;
    this.#generation = record.generation;
    this.#state = record.state;
    this.#recordDurable = record.isDurable;
    this.#nameDurable = record.state === "finalized";
  }

  get state(): ReplicaState {
    return this.#state;
  }

  get generation(): Generation {
    return this.#generation;
  }

  get length(): number {
    return this.#chunks.length;
  }

  /** Counts up with each change: equal before and after means that nothing changed. */
  get version(): number {
    return this.#version;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Bytes from `offset`, fewer at the replica's end. At once when they are proven and cached. */
  read(generation: Generation, offset: number, length: number): Uint8Array | Promise<Uint8Array> {
    const first = Math.floor(offset / CHUNK_BYTES);
    const end = Math.min(offset + length, this.length);
    if (end > offset && this.lock.isFree(offset, end, false)) {
      if (this.#chunks.allVerified(first, chunkCount(end) - 1)) {
        this.#check(generation);
        return this.#readProven(offset, end);
      }
    }
    return this.#readLocked(generation, offset, length);
  }

  async #readLocked(generation: Generation, offset: number, length: number): Promise<Uint8Array> {
    const first = Math.floor(offset / CHUNK_BYTES);
    const hold = await this.lock.acquire(
      first * CHUNK_BYTES,
      chunkCount(offset + length) * CHUNK_BYTES,
      false,
    );
    try {
      this.#check(generation);
      const end = Math.min(offset + length, this.length);
      if (end <= offset) return new Uint8Array(0);
      const last = chunkCount(end) - 1;
      if (this.#chunks.allVerified(first, last)) return await this.#readProven(offset, end);
      const bytes = await this.#settle(first, last);
      return bytes.subarray(offset - first * CHUNK_BYTES, end - first * CHUNK_BYTES);
    } finally {
      this.lock.release(hold);
    }
  }

  #readProven(offset: number, end: number): Uint8Array | Promise<Uint8Array> {
    const buffer = new Uint8Array(end - offset);
    this.#pins++;
    const count = this.#readFile(buffer, offset);
    if (typeof count === "number") {
      this.#unpin();
      if (count < buffer.length) this.#checkShort(offset + count);
      return buffer;
    }
    return count.then((filled) => {
      if (filled < buffer.length) this.#checkShort(offset + filled);
      return buffer;
    }).finally(() => this.#unpin());
  }

  /** Writes `body` at `offset`. */
  async write(generation: Generation, offset: number, body: Uint8Array): Promise<void> {
    const end = offset + body.length;
    const hold = await this.lock.acquire(offset, end, true);
    try {
      this.#check(generation);
      if (body.length === 0) return;
      if (this.#state !== "writing") await this.#startWriting();
      if (this.#mustProveEdges(offset, end)) await this.#proveEdges(offset, end);
      const before = this.length;
      this.#version++;
      this.#chunks.beginWrite(offset, end);
      if (this.length !== before) this.#host.lengthChanged(this.length - before);
      try {
        await writeFully(this.#file.fd, body, offset, this.#file.dataPath);
      } catch (error) {
        await this.#coverLength();
        throw this.#host.writeFailed(asFsError(error, "write"));
      } finally {
        this.#changes++;
      }
      this.#chunks.completeWrite(offset, body);
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
      if (this.#state !== "writing") await this.#startWriting();
      if (length % CHUNK_BYTES !== 0) await this.#proveEdges(length, length + 1);
      this.#version++;
      const result = await libc.ftruncateAsync(this.#file.fd, length);
      this.#changes++;
      if (result < 0) {
        throw this.#host.writeFailed(diskError(result, "truncate", this.#file.dataPath));
      }
      this.#host.lengthChanged(length - this.length);
      this.#chunks.cut(length);
    } finally {
      this.lock.release(hold);
    }
  }

  /**
   * What was written before is on disk when it resolves: data, name and record. Not the crcs: those of a replica
   * in state "writing" are computed anew after a crash. Concurrent calls share one fdatasync.
   */
  sync(generation: Generation): Promise<void> {
    this.#check(generation);
    if (this.#syncedChanges === this.#changes && this.#recordDurable && this.#nameDurable) {
      return Promise.resolve();
    }
    if (this.#state === "finalized" && this.#recordDurable) return Promise.resolve();
    if (this.#syncing === null) return this.#syncing = this.#syncOnce();
    // The one that runs may have begun before our bytes were written: share the next one.
    return this.#syncNext ??= this.#syncing.catch(() => {}).then(() => {
      this.#syncNext = null;
      return this.#syncing = this.#syncOnce();
    });
  }

  async #syncOnce(): Promise<void> {
    const changes = this.#changes;
    if (this.#closed) throw new ReplicaClosed();
    this.#pins++;
    try {
      await syncData(this.#file.fd, this.#file.dataPath);
      if (!this.#nameDurable) await syncDirectory(this.#file.directory);
      this.#nameDurable = true;
      if (!this.#recordDurable) await this.#host.records.sync();
      this.#recordDurable = true;
      this.#syncedChanges = changes;
    } catch (error) {
      throw this.#host.writeFailed(asFsError(error, "sync"));
    } finally {
      this.#unpin();
      this.#syncing = null;
    }
  }

  /** Takes generation `to`, durably; gives the length. ESTALE when it has neither `from` nor `to`. */
  async setGeneration(from: Generation, to: Generation): Promise<number> {
    const hold = await this.lock.acquire(0, WHOLE, true);
    try {
      if (this.#closed) throw new ReplicaClosed();
      if (this.#generation !== to) {
        this.#check(from);
        await this.#host.records.put(
          [{ block: this.block, record: { ...this.record, generation: to } }],
          true,
        );
        this.#generation = to;
        this.#recordDurable = true;
      } else if (!this.#recordDurable) {
        await this.#host.records.sync();
        this.#recordDurable = true;
      }
      return this.length;
    } catch (error) {
      if (error instanceof ReplicaClosed) throw error;
      throw this.#host.writeFailed(asFsError(error, "setGeneration"));
    } finally {
      this.lock.release(hold);
    }
  }

  get record(): ReplicaEntry["record"] {
    return { generation: this.#generation, state: this.#state, length: this.length };
  }

  /** First step of finalizing: the crc file agrees with the data file. Gives the version that it describes. */
  async storeCrcs(): Promise<number> {
    // In small steps first, so that writers of other ranges need not wait for a whole recovered replica.
    for (let i = this.#chunks.nextDirty(0); i >= 0; i = this.#chunks.nextDirty(i + SETTLE_CHUNKS)) {
      const last = Math.min(i + SETTLE_CHUNKS, this.#chunks.count) - 1;
      const hold = await this.lock.acquire(i * CHUNK_BYTES, (last + 1) * CHUNK_BYTES, false);
      try {
        if (this.#closed) throw new ReplicaClosed();
        if (last < this.#chunks.count) await this.#settle(i, last);
      } finally {
        this.lock.release(hold);
      }
    }
    const hold = await this.lock.acquire(0, WHOLE, true);
    try {
      if (this.#closed) throw new ReplicaClosed();
      for (let i = this.#chunks.nextDirty(0); i >= 0; i = this.#chunks.nextDirty(i)) await this.#settle(i, i);
      const fd = await openFile(this.#file.crcPath, libc.O_WRONLY | libc.O_CREAT | libc.O_TRUNC);
      try {
        await writeFully(fd, this.#chunks.toStored(), 0, this.#file.crcPath);
      } finally {
        libc.close(fd);
      }
      return this.#version;
    } finally {
      this.lock.release(hold);
    }
  }

  /** Second step: both files and their names are on disk. */
  async syncFiles(): Promise<void> {
    if (this.#closed) throw new ReplicaClosed();
    this.#pins++;
    try {
      await syncData(this.#file.fd, this.#file.dataPath);
      const fd = await openFile(this.#file.crcPath, libc.O_WRONLY);
      try {
        await syncData(fd, this.#file.crcPath);
      } finally {
        libc.close(fd);
      }
      await syncDirectory(this.#file.directory);
    } finally {
      this.#unpin();
    }
  }

  /** Third step, under a hold of everything and after its record was written durably. */
  becomeFinalized(): void {
    this.#state = "finalized";
    this.#recordDurable = true;
    this.#nameDurable = true;
    this.#syncedChanges = this.#changes;
  }

  /** A hold of everything if nobody uses the replica now, else null. */
  tryHoldAll(): Hold | null {
    if (this.#closed || this.#pins > 0 || !this.lock.isIdle) return null;
    return this.lock.acquire(0, WHOLE, true) as Hold;
  }

  /** Call with everything held. Operations that wait get ReplicaClosed. */
  close(): void {
    this.#closed = true;
    if (this.#pins === 0) libc.close(this.#file.fd);
  }

  #unpin(): void {
    this.#pins--;
    if (this.#pins === 0 && this.#closed) libc.close(this.#file.fd);
  }

  #check(generation: Generation): void {
    if (this.#closed) throw new ReplicaClosed();
    if (generation !== this.#generation) throw staleError(this.block, this.#generation, generation);
  }

  #startWriting(): Promise<void> {
    // Writers of disjoint ranges share it; whatever makes the state finalized again holds everything.
    return this.#startingToWrite ??= (async () => {
      try {
        const record = { ...this.record, state: "writing" } as const;
        await this.#host.records.put([{ block: this.block, record }], true);
        this.#state = "writing";
        this.#recordDurable = true;
      } catch (error) {
        throw this.#host.writeFailed(asFsError(error, "record"));
      } finally {
        this.#startingToWrite = null;
      }
    })();
  }

  /** Chunk `index` keeps some of its old bytes, which were not yet compared with its crc, beside [offset, end). */
  #mustProve(index: number, offset: number, end: number): boolean {
    if (index < 0 || index >= this.#chunks.count || !this.#chunks.isUnproven(index)) return false;
    const start = index * CHUNK_BYTES;
    return offset > start || end < start + this.#chunks.bytesOf(index);
  }

  /** Else a new crc would be computed over bytes that had rotted. The edges are the ends, and a tail that grows. */
  #mustProveEdges(offset: number, end: number): boolean {
    return this.#mustProve(Math.floor(offset / CHUNK_BYTES), offset, end) ||
      this.#mustProve(chunkCount(end) - 1, offset, end) ||
      (end > this.length && this.#mustProve(this.#chunks.count - 1, offset, end));
  }

  async #proveEdges(offset: number, end: number): Promise<void> {
    for (const index of [Math.floor(offset / CHUNK_BYTES), chunkCount(end) - 1, this.#chunks.count - 1]) {
      if (!this.#mustProve(index, offset, end)) continue;
      const buffer = new Uint8Array(CHUNK_BYTES);
      await this.#readFile(buffer, index * CHUNK_BYTES);
      // A neighbour in the same chunk may have begun to write meanwhile: then it has proven the chunk before.
      if (index < this.#chunks.count && this.#chunks.isUnproven(index)) this.#prove(index, buffer);
    }
  }

  /** Reads chunks whole, proving those that are clean and computing the crc of those that are dirty. */
  async #settle(first: number, last: number): Promise<Uint8Array> {
    const buffer = new Uint8Array((last - first + 1) * CHUNK_BYTES);
    const start = first * CHUNK_BYTES;
    const count = await this.#readFile(buffer, start);
    if (start + count < Math.min(this.length, start + buffer.length)) this.#checkShort(start + count);
    for (let i = first; i <= last && i < this.#chunks.count; i++) {
      const at = (i - first) * CHUNK_BYTES;
      const chunk = buffer.subarray(at, at + CHUNK_BYTES);
      if (this.#chunks.isDirty(i)) this.#chunks.setClean(i, chunk.subarray(0, this.#chunks.bytesOf(i)));
      else if (this.#chunks.isUnproven(i)) this.#prove(i, chunk);
    }
    return buffer;
  }

  #prove(index: number, chunk: Uint8Array): void {
    if (this.#chunks.verify(index, chunk.subarray(0, this.#chunks.bytesOf(index)))) return;
    throw this.#host.corrupt(this.block, `checksum mismatch in ${this.#file.dataPath}, chunk ${index}`);
  }

  /** The file ended below the replica's length. Only a replica in state "writing" may have its end still to come. */
  #checkShort(fileEnd: number): void {
    if (this.#state === "writing") return;
    throw this.#host.corrupt(
      this.block,
      `a truncated block file: ${this.#file.dataPath} ends at ${fileEnd}, not at ${this.length}`,
    );
  }

  #readFile(buffer: Uint8Array<ArrayBuffer>, offset: number): number | Promise<number> {
    try {
      const count = readFully(this.#file.fd, buffer, offset, this.#file.dataPath);
      return typeof count === "number" ? count : count.catch((error) => this.#unreadable(error));
    } catch (error) {
      return this.#unreadable(error);
    }
  }

  #unreadable(error: unknown): never {
    throw this.#host.corrupt(this.block, error instanceof Error ? error.message : String(error));
  }

  /** After a failed write: the file reaches the length that the chunk table has, so that the rest reads as zeros. */
  async #coverLength(): Promise<void> {
    if (fileSize(this.#file.fd, this.#file.dataPath) < this.length) {
      await libc.ftruncateAsync(this.#file.fd, this.length);
    }
  }
}

export function staleError(block: BlockId, ours: Generation, theirs: Generation): FsError {
  return new FsError("ESTALE", `block ${block} has generation ${ours} here, not ${theirs}`, { op: "block" });
}
