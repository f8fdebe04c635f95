/**
 * The bytes of one open replica: the data file and its chunk table, kept in agreement, and the crc file.
 * Owns: the descriptor. Orders nothing: the replica (replica.ts) holds the range that each call here names.
 * Invariant: bytes leave here only after their chunk matched its crc in this residency, or was written in it; and once the
 * disk has failed, only after it matched now, unless all of the replica is on the disk.
 */

import { crc32 } from "node:zlib";
import { assert } from "../../base/assert.ts";
import * as libc from "../../base/libc.ts";
import { bodies } from "../../wire/bodies.ts";
import { asFsError, FsError, isErrno } from "../../wire/errno.ts";
import type { BlockId } from "../../wire/ids.ts";
import type { LocateReplicaReply, RangeChange } from "../../wire/messages/dataserver.ts";
import { CHUNK_BYTES, chunkCount, type ChunkTable } from "./chunk_table.ts";
import type { Disk } from "./disk.ts";
import { all } from "./shared_sync.ts";
import { Writeback, type WritebackRange } from "./writeback.ts";

const ZEROS = new Uint8Array(1024 * 1024);

/** What a replica tells its volume. */
export interface ContentHost {
  readonly disk: Disk;
  /** The replica's length changed by `bytes`. */
  lengthChanged(bytes: number): void;
  /** Its content is not what was written: logs and reports it, and gives the error to throw. */
  corrupt(block: BlockId, message: string): FsError;
  /** The disk failed to write: gives the error to throw. */
  writeFailed(error: FsError): FsError;
  /** The disk has failed to write: what was not synced may be gone, from the page cache as well. */
  readonly mayLack: boolean;
}

export interface ReplicaFile {
  readonly block: BlockId;
  readonly fd: number;
  readonly dataPath: string;
  readonly crcPath: string;
  readonly directory: string;
}

export class ReplicaContent {
  readonly #file: ReplicaFile;
  readonly #host: ContentHost;
  readonly #chunks: ChunkTable;
  readonly #isOnDisk: () => boolean;
  #closed = false;
  readonly #writeback = new Writeback();
  // Syncs and writeback use the descriptor without a hold: it is closed when the last has ended.
  // Invariant: it is closed once, and not used after that; its number is another file's then.
  #pins = 0;

  /** `isOnDisk`: everything was synced. */
  constructor(file: ReplicaFile, host: ContentHost, chunks: ChunkTable, isOnDisk: () => boolean) {
    this.#file = file;
    this.#host = host;
    this.#chunks = chunks;
    this.#isOnDisk = isOnDisk;
  }

  get #disk(): Disk {
    return this.#host.disk;
  }

  get length(): number {
    return this.#chunks.length;
  }

  get isBeingSynced(): boolean {
    return this.#pins > 0;
  }

  /** [offset, end) if it is proven and the page cache has it all, else null. */
  readCached(offset: number, end: number): Uint8Array | null {
    const first = Math.floor(offset / CHUNK_BYTES);
    if (!this.#chunks.allVerified(first, chunkCount(end) - 1)) return null;
    const buffer = bodies.take(end - offset);
    if (this.#disk.readCached(this.#file.fd, buffer, offset) === buffer.length && !this.#mayLack) {
      return buffer;
    }
    bodies.give(buffer);
    return null;
  }

  /** Bytes that were read before it was asked may not be those that were written, where it says yes. */
  get #mayLack(): boolean {
    return this.#host.mayLack && !this.#isOnDisk();
  }

  /** [offset, end), with the chunks around it held: `isWhole` when the file must reach its length. */
  async read(offset: number, end: number, isWhole: boolean): Promise<Uint8Array> {
    const first = Math.floor(offset / CHUNK_BYTES);
    const last = chunkCount(end) - 1;
    if (this.#chunks.allVerified(first, last)) {
      const buffer = bodies.take(end - offset);
      const count = await this.#readFile(buffer, offset);
      if (count < buffer.length && isWhole) throw this.#tooShort(offset + count);
      if (!this.#mayLack) return buffer;
      bodies.give(buffer);
    }
    const bytes = await this.settle(first, last, isWhole);
    return bytes.subarray(offset - first * CHUNK_BYTES, end - first * CHUNK_BYTES);
  }

  /**
   * Reads chunks whole, proving those that are clean and computing the crc of those that are dirty. Where the
   * file ends below the replica's length, a write that extends it is still on its way: zeros, unless `isWhole`.
   * `isStrict`: also what was proven before is compared again; it is in any case where bytes may be gone, and what has no crc
   * is not believed then. What it gives is the caller's alone (wire/bodies.ts).
   */
  async settle(first: number, last: number, isWhole: boolean, isStrict = false): Promise<Uint8Array> {
    const buffer = bodies.take((last - first + 1) * CHUNK_BYTES);
    const start = first * CHUNK_BYTES;
    const count = await this.#readFile(buffer, start);
    if (isWhole && start + count < Math.min(this.length, start + buffer.length)) {
      throw this.#tooShort(start + count);
    }
    const mayLack = this.#mayLack;
    for (let i = first; i <= last && i < this.#chunks.count; i++) {
      const at = (i - first) * CHUNK_BYTES;
      const chunk = buffer.subarray(at, at + CHUNK_BYTES);
      if (!this.#chunks.isDirty(i)) {
        if (isStrict || mayLack || this.#chunks.isUnproven(i)) this.#prove(i, chunk);
      } else if (mayLack) {
        const message =
          `${this.#file.dataPath} may lack what was written to chunk ${i} before the disk failed`;
        throw this.#host.corrupt(this.#file.block, message);
      } else this.#chunks.setClean(i, chunk.subarray(0, this.#chunks.bytesOf(i)));
    }
    return buffer;
  }

  /**
   * Compares what the disk has of the chunks of [offset, end), which are held, with their crcs; dirty ones have none yet.
   * `isWhole` as in `read`.
   */
  async scrub(offset: number, end: number, isWhole: boolean): Promise<void> {
    const differing = (bytes: Uint8Array) => {
      const chunk = new Uint8Array(CHUNK_BYTES);
      for (let i = Math.floor(offset / CHUNK_BYTES); i < Math.min(chunkCount(end), this.#chunks.count); i++) {
        if (this.#chunks.isDirty(i)) continue;
        const at = i * CHUNK_BYTES - offset;
        // Past the file's end, which a write on its way is going to move, there are zeros.
        chunk.fill(0);
        chunk.set(bytes.subarray(at, at + CHUNK_BYTES));
        if (!this.#chunks.matches(i, chunk.subarray(0, this.#chunks.bytesOf(i)))) return i;
      }
      return -1;
    };
    const length = chunkCount(end - offset) * CHUNK_BYTES;
    let bytes = await this.#readDisk(offset, length);
    if (isWhole && offset + bytes.length < Math.min(this.length, offset + length)) {
      throw this.#tooShort(offset + bytes.length);
    }
    if (differing(bytes) < 0) return;
    // Once more with everything surely on the disk: a good replica must not be given up.
    await this.sync(false);
    bytes = await this.#readDisk(offset, length);
    const index = differing(bytes);
    if (index < 0) return;
    const message = `checksum mismatch on the disk in ${this.#file.dataPath}, chunk ${index}`;
    throw this.#host.corrupt(this.#file.block, message);
  }

  async #readDisk(offset: number, length: number): Promise<Uint8Array> {
    const { dataPath } = this.#file;
    if (this.#disk.readDirect === undefined) {
      const buffer = new Uint8Array(length);
      return buffer.subarray(0, await this.#readFile(buffer, offset));
    }
    try {
      return await this.#disk.readDirect(dataPath, offset, length);
    } catch (error) {
      throw this.#host.corrupt(this.#file.block, error instanceof Error ? error.message : String(error));
    }
  }

  /** The next run of chunks to settle from chunk `from` on, at most `limit` long, or null. */
  dirtyRun(from: number, limit: number): { readonly first: number; readonly last: number } | null {
    const first = this.#chunks.nextDirty(from);
    if (first < 0) return null;
    let last = first;
    while (last + 1 < Math.min(first + limit, this.#chunks.count) && this.#chunks.isDirty(last + 1)) last++;
    return { first, last };
  }

  /** A change of [offset, end) keeps old bytes in a chunk that was not yet compared with its crc. */
  mustProveEdges(offset: number, end: number): boolean {
    return this.#mustProve(Math.floor(offset / CHUNK_BYTES), offset, end) ||
      this.#mustProve(chunkCount(end) - 1, offset, end) ||
      (end > this.length && this.#mustProve(this.#chunks.count - 1, offset, end));
  }

  /** Compares them now; else a new crc would be computed over bytes that had rotted. */
  async proveEdges(offset: number, end: number): Promise<void> {
    // The two ends, and the tail, which grows when the replica does.
    for (const index of [Math.floor(offset / CHUNK_BYTES), chunkCount(end) - 1, this.#chunks.count - 1]) {
      if (!this.#mustProve(index, offset, end)) continue;
      const buffer = new Uint8Array(CHUNK_BYTES);
      await this.#readFile(buffer, index * CHUNK_BYTES);
      // A neighbour in the same chunk may have begun to write meanwhile: then it has proven the chunk before.
      if (index < this.#chunks.count && this.#chunks.isUnproven(index)) this.#prove(index, buffer);
    }
  }

  /** Writes `body`, with its range held. */
  async write(offset: number, body: Uint8Array): Promise<void> {
    const before = this.length;
    this.#chunks.beginWrite(offset, offset + body.length);
    if (this.length !== before) this.#host.lengthChanged(this.length - before);
    try {
      await this.#disk.write(this.#file.fd, body, offset, this.#file.dataPath);
    } catch (error) {
      await this.#coverLength();
      throw this.#host.writeFailed(asFsError(error, "write"));
    }
    this.#chunks.completeWrite(offset, body);
    const range = this.#writeback.written(offset, body.length);
    if (range !== null) void this.#startWriteback(range);
  }

  /** Never rejects. */
  async #startWriteback({ offset, length }: WritebackRange): Promise<void> {
    if (this.#disk.startWriteback === undefined || this.#closed) return;
    this.#pins++;
    try {
      await this.#disk.startWriteback(this.#file.fd, offset, length);
    } finally {
      this.#unpin();
    }
  }

  /** Changes a range, which is held. Where the file system can't, zeros are written, and nothing is reserved. */
  async changeRange(change: RangeChange, offset: number, end: number): Promise<void> {
    const stop = change === "reserve" ? offset : Math.min(end, this.length);
    if (stop > offset) this.#chunks.beginWrite(offset, stop);
    try {
      if (!await this.#fallocate(change, offset, end - offset) && stop > offset) {
        if (change === "punch" || !await this.#fallocate("punch", offset, stop - offset)) {
          await this.#writeZeros(offset, stop);
        }
      }
    } catch (error) {
      throw this.#host.writeFailed(asFsError(error, "fallocate"));
    }
    if (stop > offset) this.#chunks.completeZeros(offset, stop);
  }

  /** False where the file system can't. */
  async #fallocate(change: RangeChange, offset: number, length: number): Promise<boolean> {
    try {
      if (this.#disk.changeRange === undefined) return false;
      await this.#disk.changeRange(this.#file.fd, change, offset, length, this.#file.dataPath);
      return true;
    } catch (error) {
      if (isErrno(error, "EOPNOTSUPP")) return false;
      throw error;
    }
  }

  async #writeZeros(offset: number, end: number): Promise<void> {
    for (let at = offset; at < end; at += ZEROS.length) {
      const zeros = ZEROS.subarray(0, Math.min(ZEROS.length, end - at));
      await this.#disk.write(this.#file.fd, zeros, at, this.#file.dataPath);
    }
  }

  /** What it takes on the disk, if that is known. */
  allocatedBytes(): number | undefined {
    return this.#disk.allocated?.(this.#file.fd, this.#file.dataPath);
  }

  /** A write there needs no more room on the disk. */
  hasRoom(offset: number, end: number): boolean {
    return this.#disk.hasRoom?.(this.#file.fd, offset, end) ?? false;
  }

  /** Where data, or a hole, begins at or after `offset`, or -1; with all after it held. */
  async seek(offset: number, wantsData: boolean): Promise<number> {
    if (offset >= this.length) return wantsData ? -1 : offset;
    if (this.#disk.seek === undefined) return wantsData ? offset : this.length;
    const found = await this.#disk.seek(this.#file.fd, offset, wantsData, this.#file.dataPath);
    // The file may end before a write that extends the replica has come to it.
    if (!wantsData) return found < 0 ? this.length : found;
    // Where the file has a hole, but bytes were written: they are lost, which only a read can tell.
    const lost = this.#chunks.nextNotZeros(chunkCount(offset), found < 0 ? this.length : found);
    return lost < 0 ? found : lost;
  }

  /** Drops everything at and past `length`, with everything held. */
  async cut(length: number): Promise<void> {
    try {
      await this.#disk.truncate(this.#file.fd, length, this.#file.dataPath);
    } catch (error) {
      throw this.#host.writeFailed(asFsError(error, "truncate"));
    }
    this.#host.lengthChanged(length - this.length);
    this.#chunks.cut(length);
  }

  /** Where it is found by others of this machine, with its crcs; with no chunk dirty. Undefined: nowhere. */
  located(): LocateReplicaReply | undefined {
    const { fd, dataPath: path } = this.#file;
    const found = this.#disk.whereabouts?.(fd, path);
    if (found === undefined) return undefined;
    const file = { ...found, path, length: this.length, chunkBytes: CHUNK_BYTES };
    return { file, body: this.#chunks.toStored() };
  }

  /** Names the bytes, with everything held and no chunk dirty. */
  digest(): string {
    return `${this.length}.${crc32(this.#chunks.toStored()).toString(16)}`;
  }

  /** Writes the crc file, with everything held and no chunk dirty. In place: a crash leaves it what it says of what was not touched. */
  async storeCrcs(): Promise<void> {
    const { crcPath } = this.#file;
    const stored = this.#chunks.toStored();
    const fd = await this.#disk.open(crcPath, libc.O_WRONLY | libc.O_CREAT);
    try {
      await this.#disk.write(fd, stored, 0, crcPath);
      if (this.#disk.size(fd, crcPath) > stored.length) {
        await this.#disk.truncate(fd, stored.length, crcPath);
      }
    } finally {
      this.#disk.close(fd);
    }
  }

  /** The data is on disk when it resolves, and the file's name if `withName`. Needs no hold; not once it is closed. */
  async sync(withName: boolean): Promise<void> {
    assert(!this.#closed, "a closed replica is synced");
    this.#pins++;
    try {
      await all([
        this.#disk.syncData(this.#file.fd, this.#file.dataPath),
        ...withName ? [this.#disk.syncDirectory(this.#file.directory)] : [],
      ]);
    } finally {
      this.#unpin();
    }
  }

  /** The crc file is on disk when it resolves. */
  async syncCrcs(): Promise<void> {
    const fd = await this.#disk.open(this.#file.crcPath, libc.O_WRONLY);
    try {
      await this.#disk.syncData(fd, this.#file.crcPath);
    } finally {
      this.#disk.close(fd);
    }
  }

  /** Call once, with everything held. */
  close(): void {
    assert(!this.#closed, "a replica is closed twice");
    this.#closed = true;
    if (this.#pins === 0) this.#disk.close(this.#file.fd);
  }

  #unpin(): void {
    this.#pins--;
    if (this.#pins === 0 && this.#closed) this.#disk.close(this.#file.fd);
  }

  #mustProve(index: number, offset: number, end: number): boolean {
    if (index < 0 || index >= this.#chunks.count || !this.#chunks.isUnproven(index)) return false;
    const start = index * CHUNK_BYTES;
    return offset > start || end < start + this.#chunks.bytesOf(index);
  }

  #prove(index: number, chunk: Uint8Array): void {
    if (this.#chunks.verify(index, chunk.subarray(0, this.#chunks.bytesOf(index)))) return;
    const message = `checksum mismatch in ${this.#file.dataPath}, chunk ${index}`;
    throw this.#host.corrupt(this.#file.block, message);
  }

  #tooShort(end: number): FsError {
    const message = `a truncated block file: ${this.#file.dataPath} ends at ${end}, not at ${this.length}`;
    return this.#host.corrupt(this.#file.block, message);
  }

  /** Bytes read; the rest of the buffer, past the end of the file, is zeros. */
  async #readFile(buffer: Uint8Array<ArrayBuffer>, offset: number): Promise<number> {
    try {
      const count = await this.#disk.read(this.#file.fd, buffer, offset, this.#file.dataPath);
      buffer.fill(0, count);
      return count;
    } catch (error) {
      throw this.#host.corrupt(this.#file.block, error instanceof Error ? error.message : String(error));
    }
  }

  /** After a failed write: the file reaches the length that the chunk table has, so that the rest reads as zeros. */
  async #coverLength(): Promise<void> {
    const { fd, dataPath } = this.#file;
    if (this.#disk.size(fd, dataPath) >= this.length) return;
    await this.#disk.truncate(fd, this.length, dataPath).catch(() => {}); // the write's failure is told already
  }
}
