/**
 * One volume: the replicas in one directory. Finds or opens the replica of a request, creates, deletes and counts
 * replicas, and knows whether its disk still works.
 * Owns: the directory, its LevelDB and the table of open replicas. What keeps those in bounds is keeper.ts.
 * Invariant: opening, deleting and keeping aside exclude each other for one block (`#busy`).
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { asFsError, FsError, isErrno } from "../../wire/errno.ts";
import type { BlockId, Generation, VolumeId } from "../../wire/ids.ts";
import {
  COPY_GENERATION,
  type LocateReplicaReply,
  type RangeChange,
  type ReplicaChangesReply,
  type ReplicaStateReply,
} from "../../wire/messages/dataserver.ts";
import type { ChainOptions } from "./chain.ts";
import { Differences } from "./differences.ts";
import type { Disk } from "./disk.ts";
import { WHOLE } from "./range_lock.ts";
import { Replica, ReplicaClosed, type ReplicaHost, staleError } from "./replica.ts";
import { createReplica, openReplica, type ReplicaPaths } from "./replica_opener.ts";
import { isLackOfRoom, type ReplicaRecord, type ReplicaRecords } from "./replica_records.ts";
import type { Space } from "./space.ts";
import type { Trash } from "./trash.ts";
import { bucketOf, type VolumeIdentity } from "./volume_directory.ts";
import { noteFailure } from "./volume_life.ts";

/** No extent is longer; its chunk table would be a megabyte. */
export const BLOCK_BYTES_MAX = 16 * 1024 ** 3;
const LOOKUPS_MAX = 100;
const CORRUPT_MAX = 10_000;
const COUNT_PAGE = 5_000;
/** A write that was begun before its block was deleted comes within this time, if it comes. */
const BURIED_MS = 60_000;
const BURIED_MAX = 20_000;
const NOWHERE: LocateReplicaReply = { body: new Uint8Array(0) };

export interface VolumeParts {
  readonly path: string;
  readonly identity: VolumeIdentity;
  readonly disk: Disk;
  readonly records: ReplicaRecords;
  readonly trash: Trash;
  readonly space: Space;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface VolumeFigures {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly usedBytes: number;
  readonly trashBytes: number;
  readonly blocks: number;
  readonly failed?: string;
}

export class Volume implements ReplicaHost {
  readonly path: string;
  readonly disk: Disk;
  readonly records: ReplicaRecords;
  readonly trash: Trash;
  readonly log: Logger;
  identity: VolumeIdentity;
  /** Open replicas. */
  readonly open = new Map<BlockId, Replica>();
  readonly differences = new Differences();
  /** Told of each replica that turned out corrupt, once. */
  onCorrupt: (block: BlockId, message: string) => void = () => {};
  /** Told when it fails, once. */
  onFailed: () => void = () => {};
  /** Waits until another replica may be opened; set by the keeper. */
  makeRoom: () => Promise<void> | undefined = () => undefined;
  /** Finalizes a replica soon, unless it is being written. Never rejects. */
  settle: (replica: Replica) => Promise<void> = () => Promise.resolve();
  readonly #space: Space;
  readonly #clock: Clock;
  readonly #busy = new Map<BlockId, Promise<unknown>>();
  readonly #corrupt = new Map<BlockId, string>();
  /** What was deleted lately, and up to which generation; the oldest first. */
  readonly #buried = new Map<BlockId, { readonly upTo: Generation; readonly atMs: number }>();
  #failed: string | undefined;
  #mayLack = false;
  #failureNoted: Promise<void> = Promise.resolve();
  /** The disk has failed to write, and has not taken the note of that yet. */
  #mustNote = false;
  #closing = false;
  #emptying: Promise<void> | null = null;
  #usedBytes = 0;
  #blocks = 0;
  #lastFigures = { totalBytes: 0, freeBytes: 0 };

  constructor(parts: VolumeParts) {
    this.path = parts.path;
    this.disk = parts.disk;
    this.identity = parts.identity;
    this.records = parts.records;
    this.trash = parts.trash;
    this.log = parts.log;
    this.#space = parts.space;
    this.#clock = parts.clock;
  }

  /** The id that the nameserver gave it; 0 before that. */
  get id(): VolumeId {
    return this.identity.volume ?? 0 as VolumeId;
  }

  /** The disk that it lies on; volumes with the same one share its space. */
  get diskIdentity(): string {
    return this.disk.identity(this.path);
  }

  /** Bytes of all replicas. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Replicas. */
  get blocks(): number {
    return this.#blocks;
  }

  get failed(): string | undefined {
    return this.#failed;
  }

  /** Adds up what the records say; once, before use. */
  async count(): Promise<void> {
    for (let from = 0;;) {
      const page = await this.records.page(from, COUNT_PAGE);
      for (const { record } of page) this.#usedBytes += record.length;
      this.#blocks += page.length;
      if (page.length < COUNT_PAGE) return;
      from = page[page.length - 1]!.block + 1;
    }
  }

  read(
    block: BlockId,
    generation: Generation,
    offset: number,
    length: number,
  ): Uint8Array | Promise<Uint8Array> {
    const replica = this.open.get(block);
    if (replica !== undefined && !this.#busy.has(block)) {
      replica.lastUseMs = this.#clock.monotonicMs();
      const result = replica.read(generation, offset, length);
      if (result instanceof Uint8Array) return result;
      return result.catch((error) => {
        if (!(error instanceof ReplicaClosed)) throw error;
        return this.#with(block, null, (found) => found.read(generation, offset, length));
      });
    }
    return this.#with(block, null, (found) => found.read(generation, offset, length));
  }

  /** As `read`, with everything compared with its crcs again. */
  async reread(block: BlockId, generation: Generation, offset: number, length: number): Promise<Uint8Array> {
    return await this.#with(block, null, (replica) => replica.reread(generation, offset, length));
  }

  /** Writes `body`; `create` makes a missing replica. */
  write(
    block: BlockId,
    generation: Generation,
    offset: number,
    body: Uint8Array,
    create: boolean,
  ): Promise<void> {
    return this.writeRanges(block, generation, [[offset, body.length]], body, create);
  }

  /** Writes ranges, offset and length each, with what is one after the other in `body`; `create` makes a missing replica. */
  async writeRanges(
    block: BlockId,
    generation: Generation,
    ranges: readonly (readonly [number, number])[],
    body: Uint8Array,
    create: boolean,
  ): Promise<void> {
    this.#checkWritable(block);
    if (ranges.some(([offset, length]) => offset + length > BLOCK_BYTES_MAX)) {
      throw new FsError("EFBIG", `a block has at most ${BLOCK_BYTES_MAX} bytes`, { op: "write" });
    }
    await this.#withRoom(block, ranges, async () => {
      await this.#with(
        block,
        create ? generation : null,
        (replica) => replica.write(generation, ranges, body),
        { isChange: true },
      );
    });
  }

  /** As the message; `create` makes a missing replica. */
  async changeRange(
    block: BlockId,
    generation: Generation,
    change: RangeChange,
    { offset, length, create }: {
      readonly offset: number;
      readonly length: number;
      readonly create: boolean;
    },
  ): Promise<void> {
    this.#checkWritable(block);
    if (offset + length > BLOCK_BYTES_MAX) {
      throw new FsError("EFBIG", `a block has at most ${BLOCK_BYTES_MAX} bytes`, { op: "fallocate" });
    }
    const run = async () => {
      await this.#with(
        block,
        create ? generation : null,
        (replica) => replica.changeRange(generation, change, offset, offset + length),
        { isChange: true },
      );
    };
    if (change === "punch") await run();
    else await this.#withRoom(block, [[offset, length]], run);
  }

  /** Runs what writes to ranges; where there is no room, once more with what trash has held. */
  async #withRoom(
    block: BlockId,
    ranges: readonly (readonly [number, number])[],
    run: () => Promise<void>,
  ): Promise<void> {
    const bytes = ranges.reduce((sum, [, length]) => sum + length, 0);
    const attempt = async () => {
      try {
        this.#space.demand(bytes);
      } catch (error) {
        // What has its place already needs none: files are changed in place, and reserved room is used, on full disks.
        const open = this.open.get(block);
        if (!ranges.every(([offset, length]) => open?.hasRoom(offset, offset + length) === true)) throw error;
      }
      await run();
    };
    try {
      await attempt();
    } catch (error) {
      if (!isErrno(error, "ENOSPC") || this.trash.bytes === 0) throw error;
      await this.#emptyTrash(bytes);
      await attempt();
    }
  }

  /** For an operation that changes a replica here, and those of the same block down the chain. */
  chainOptions(block: BlockId): ChainOptions {
    return {
      allocated: () => this.allocatedBytes(block),
      begin: () => {
        const end = this.differences.begin(block);
        return (differs) => end(differs, this.#clock.monotonicMs());
      },
    };
  }

  /** Tells of replicas that may differ from the others of their block, where that is due; `tell` answers which were compared. */
  tellDifferences(
    tell: (replicas: readonly { block: BlockId; generation: Generation }[]) => Promise<readonly BlockId[]>,
  ): Promise<void> {
    return this.differences.tellDue(this.#clock.monotonicMs(), async (blocks) => {
      const found: { block: BlockId; generation: Generation }[] = [];
      for (const block of blocks) {
        const record = this.open.get(block)?.record ?? await this.records.get(block);
        if (record === undefined) this.differences.forget(block);
        else found.push({ block, generation: record.generation });
      }
      return found.length === 0 ? [] : await tell(found);
    });
  }

  /** What an open replica takes on the disk, if that is known. */
  allocatedBytes(block: BlockId): number | undefined {
    return this.open.get(block)?.allocatedBytes();
  }

  /** As the message; -1: nowhere. */
  async seek(block: BlockId, generation: Generation, offset: number, wantsData: boolean): Promise<number> {
    return await this.#with(block, null, (replica) => replica.seek(generation, offset, wantsData));
  }

  /** Gives whether the replica is finalized. */
  async sync(block: BlockId, generation: Generation): Promise<boolean> {
    this.#checkWritable(block);
    if (await this.#isOnDisk(block, generation)) return true;
    const state = await this.#with(block, null, async (replica) => {
      const { state } = replica;
      await replica.sync(generation);
      return state;
    });
    this.#checkWritable(block); // a group that failed before ours began
    return state === "finalized";
  }

  /** Nobody has it open, and it was finalized: whoever syncs a whole file need not open all of its replicas. */
  async #isOnDisk(block: BlockId, generation: Generation): Promise<boolean> {
    if (this.open.has(block) || this.#busy.has(block)) return false;
    const record = await this.records.get(block);
    return record?.state === "finalized" && record.generation === generation && !this.open.has(block);
  }

  async truncate(block: BlockId, generation: Generation, length: number): Promise<void> {
    this.#checkWritable(block);
    await this.#with(block, null, (replica) => replica.truncate(generation, length), { isChange: true });
  }

  async stateOf(block: BlockId, generation: Generation, withDigest = false): Promise<ReplicaStateReply> {
    const action = withDigest
      ? (replica: Replica) => replica.digestOf(generation)
      : (replica: Replica) => replica.stateOf(generation);
    return await this.#with(block, null, action);
  }

  /** As the message. */
  async locate(block: BlockId, generation: Generation): Promise<LocateReplicaReply> {
    const isSound = () =>
      this.#failed === undefined && !this.#corrupt.has(block) && !this.differences.has(block);
    if (!isSound()) return NOWHERE;
    const find = async () => isSound() && await this.#with(block, null, (one) => one.locate(generation));
    const found = await find();
    if (found || this.disk.whereabouts === undefined) return found || NOWHERE;
    // Whoever asks reads under a lease: it is not being written, or was not to be before long.
    const replica = this.open.get(block);
    if (replica !== undefined) await this.settle(replica);
    return await find() || NOWHERE;
  }

  async changesSince(block: BlockId, generation: Generation, since: string): Promise<ReplicaChangesReply> {
    return await this.#with(block, null, (replica) => replica.changesSince(generation, since));
  }

  /** As the message: wire/messages/dataserver.ts. */
  async setGeneration(
    block: BlockId,
    from: Generation,
    to: Generation,
    { chosen = false, create = false }: { readonly chosen?: boolean; readonly create?: boolean } = {},
  ): Promise<number> {
    this.#checkWritable(block);
    const set = (replica: Replica) => replica.setGeneration(from, to, chosen);
    try {
      return await this.#with(block, null, set);
    } catch (error) {
      if (!create || !isErrno(error, "ENOENT")) throw error;
      // If a write makes it meanwhile, with another generation, this finds that one.
      return await this.#with(block, to, set);
    }
  }

  /**
   * Deletes a replica, unless its generation is above `upTo`; one that is not there is no error. For a while no late write
   * makes it again with a generation up to that.
   */
  async delete(block: BlockId, upTo?: Generation): Promise<void> {
    if (upTo !== undefined) this.#bury(block, upTo);
    await this.#remove(
      block,
      upTo,
      (_record, data, crc) => Promise.all([this.disk.remove(data), this.disk.remove(crc)]),
    );
  }

  /** Keeps a replica's files in trash/ and forgets it, unless its generation is above `upTo`. */
  async keepAside(block: BlockId, upTo?: Generation): Promise<void> {
    await this.#remove(
      block,
      upTo,
      (record, data, crc) => this.trash.take(block, record?.generation ?? "none", data, crc),
    );
  }

  /** A block file was found: kept aside when no record speaks of it. */
  async checkStray(block: BlockId): Promise<void> {
    await this.#exclusive(block, async () => {
      if (await this.records.get(block) !== undefined) return;
      const { dataPath, crcPath } = this.#pathsOf(block);
      await this.trash.take(block, "none", dataPath, crcPath);
    });
  }

  /** Makes sure that a replica of a crashed process is open, so that the keeper finalizes it. */
  async recover(block: BlockId): Promise<void> {
    await this.#with(block, null, () => {});
  }

  /**
   * Compares what the disk has of a range of whole chunks with its checksums; gives the replica's length. Not a use: a
   * replica that was opened for it is closed soon.
   */
  async scrub(block: BlockId, offset: number, length: number): Promise<number> {
    if (this.#corrupt.has(block)) return 0;
    return await this.#with(block, null, (replica) => replica.scrub(offset, length), { isUse: false });
  }

  /** What trash holds counts as free: it goes when there is need. */
  figures(): VolumeFigures {
    try {
      this.#lastFigures = this.#space.measure();
    } catch (error) {
      this.fail(error instanceof Error ? error.message : String(error), isErrno(error, "EROFS"));
    }
    // The disk may take it by now.
    if (this.#mustNote) this.#noteFailure(this.#failed ?? "");
    return {
      ...this.#lastFigures,
      freeBytes: this.#lastFigures.freeBytes + this.trash.bytes,
      usedBytes: this.#usedBytes,
      trashBytes: this.trash.bytes,
      blocks: this.#blocks,
      ...(this.#failed === undefined ? {} : { failed: this.#failed }),
    };
  }

  /** Those that were reported by onCorrupt and are still here. */
  get corruptReplicas(): ReadonlyMap<BlockId, string> {
    return this.#corrupt;
  }

  lengthChanged(bytes: number): void {
    this.#usedBytes += bytes;
  }

  corrupt(block: BlockId, message: string): FsError {
    if (!this.#corrupt.has(block)) {
      this.log.error("replica is corrupt", { block, volume: this.id, reason: message });
      // Invariant: bounded. Past the limit a corrupt replica is found again at its next read.
      if (this.#corrupt.size < CORRUPT_MAX) this.#corrupt.set(block, message);
      this.onCorrupt(block, message);
    }
    return new FsError("EIO", `block ${block}: ${message}`, { op: "read" });
  }

  writeFailed(error: FsError): FsError {
    if (error.errno === "EIO" || error.errno === "EROFS") this.fail(error.message, !isLackOfRoom(error));
    return error;
  }

  get mayLack(): boolean {
    return this.#mayLack;
  }

  /**
   * The disk can't be written any more: changes are refused until a restart, reads are still tried. `mayLack`: it has failed
   * to write, so that what was not synced may be gone.
   */
  fail(reason: string, mayLack = false): void {
    if (mayLack && !this.#mayLack) {
      this.#mayLack = this.#mustNote = true;
      this.#noteFailure(reason);
    }
    if (this.#failed !== undefined) return;
    this.#failed = reason;
    this.log.error("volume has failed", { path: this.path, volume: this.id, reason });
    this.onFailed();
  }

  #noteFailure(reason: string): void {
    this.#mustNote = false; // not while it is tried
    this.#failureNoted = noteFailure(this.disk, this.path, reason).then((isNoted) => {
      this.#mustNote = !isNoted;
    });
  }

  /** Refuses new operations; those that run go on. */
  stopAccepting(): void {
    this.#closing = true;
  }

  /** Closes all files and the database. What is still "writing" is recovered at the next start. */
  async close(): Promise<void> {
    await this.#failureNoted; // else the next start takes it that nothing is lacking
    await Promise.allSettled(this.#busy.values());
    for (const replica of this.open.values()) {
      const hold = await replica.lock.acquire(0, WHOLE, true);
      replica.close();
      replica.lock.release(hold);
    }
    this.open.clear();
    await this.records.close();
  }

  /** Reads are tried in any case: they find out by themselves which chunks are good. */
  #checkWritable(block: BlockId): void {
    if (this.#failed !== undefined) {
      throw new FsError("EIO", `volume ${this.path} has failed: ${this.#failed}`, { op: "write" });
    }
    const reason = this.#corrupt.get(block);
    if (reason !== undefined) throw new FsError("EIO", `block ${block}: ${reason}`, { op: "write" });
  }

  /**
   * As far as it takes to have room for `bytes`. Who asks at the same time shares it, and goes on where it was begun for less.
   * Never rejects.
   */
  async #emptyTrash(bytes: number): Promise<void> {
    for (let before = Infinity; this.trash.bytes < before && !this.#space.has(bytes);) {
      before = this.trash.bytes;
      await (this.#emptying ??= this.trash.makeRoom(() => this.#space.has(bytes)).catch((error) => {
        this.log.warn("trash could not be emptied", { path: this.path, error });
      }).finally(() => this.#emptying = null));
    }
  }

  /** Runs `action` on the block's replica; `create` is the generation to make a missing one with. */
  async #with<T>(
    block: BlockId,
    create: Generation | null,
    action: (replica: Replica) => T | Promise<T>,
    { isUse = true, isChange = false }: { readonly isUse?: boolean; readonly isChange?: boolean } = {},
  ): Promise<T> {
    for (let i = 0; i < LOOKUPS_MAX; i++) {
      const found = this.#find(block, create);
      const replica = found instanceof Replica ? found : await found;
      if (isUse) replica.lastUseMs = this.#clock.monotonicMs();
      if (isChange) replica.lastChangeMs = replica.lastUseMs;
      try {
        return await action(replica);
      } catch (error) {
        if (!(error instanceof ReplicaClosed)) throw error;
      }
    }
    throw new FsError("EBUSY", `block ${block} is opened and closed all the time`);
  }

  #find(block: BlockId, create: Generation | null): Replica | Promise<Replica> {
    if (this.#closing) throw new FsError("ESHUTDOWN", "the dataserver stops");
    const replica = this.open.get(block);
    if (replica !== undefined && !this.#busy.has(block)) return replica;
    return this.#exclusive(block, async () => {
      const other = this.open.get(block);
      if (other !== undefined) return other;
      await this.makeRoom();
      const record = await this.records.get(block);
      if (record === undefined && create === null) {
        throw new FsError("ENOENT", `no replica of block ${block} on volume ${this.id}`, { op: "block" });
      }
      if (record !== undefined && create !== null && record.generation !== create) {
        throw staleError(block, record.generation, create);
      }
      let opened: Replica;
      if (record === undefined) {
        this.#checkWritable(block);
        this.#checkBuried(block, create!);
        opened = await createReplica(this, this.trash, this.#pathsOf(block), create!);
        this.#blocks++;
      } else {
        opened = await openReplica(this, this.#pathsOf(block), record);
      }
      opened.lastChangeMs = this.#clock.monotonicMs();
      this.open.set(block, opened);
      return opened;
    });
  }

  #bury(block: BlockId, upTo: Generation): void {
    this.#buried.delete(block);
    this.#buried.set(block, { upTo, atMs: this.#clock.monotonicMs() });
    // The oldest first. What a late write makes after that goes with the next block report.
    for (const [oldest, { atMs }] of this.#buried) {
      if (this.#buried.size <= BURIED_MAX && this.#clock.monotonicMs() - atMs < BURIED_MS) break;
      this.#buried.delete(oldest);
    }
  }

  #checkBuried(block: BlockId, create: Generation): void {
    const buried = this.#buried.get(block);
    // A copy is made when the nameserver has heard that the block was deleted here, and has no generation yet.
    if (buried === undefined || create === COPY_GENERATION || create > buried.upTo) return;
    if (this.#clock.monotonicMs() - buried.atMs < BURIED_MS) {
      throw new FsError("ESTALE", `block ${block} was deleted here up to generation ${buried.upTo}`);
    }
  }

  async #remove(
    block: BlockId,
    upTo: Generation | undefined,
    takeAway: (record: ReplicaRecord | undefined, data: string, crc: string) => Promise<unknown>,
  ): Promise<void> {
    await this.#exclusive(block, async () => {
      let length = 0;
      const replica = this.open.get(block);
      if (replica !== undefined) {
        const hold = await replica.lock.acquire(0, WHOLE, true);
        const isNewer = upTo !== undefined && replica.record.generation > upTo;
        if (!isNewer) {
          length = replica.length;
          replica.close();
          this.open.delete(block);
        }
        replica.lock.release(hold);
        if (isNewer) return;
      }
      const record = await this.records.get(block);
      if (record !== undefined && upTo !== undefined && record.generation > upTo) return;
      // The record first: a crash in between leaves a stray file, not a record without a file.
      if (record !== undefined) {
        await this.records.delete(block).catch((error) => {
          throw this.writeFailed(asFsError(error, "delete"));
        });
        this.#blocks--;
        this.#usedBytes -= replica === undefined ? record.length : length;
      }
      this.#corrupt.delete(block);
      const { dataPath, crcPath } = this.#pathsOf(block);
      await takeAway(record, dataPath, crcPath);
    });
  }

  async #exclusive<T>(block: BlockId, action: () => Promise<T>): Promise<T> {
    for (;;) {
      const other = this.#busy.get(block);
      if (other === undefined) break;
      await other.catch(() => {}); // its own caller has the error
    }
    const running = action();
    this.#busy.set(block, running);
    try {
      return await running;
    } finally {
      this.#busy.delete(block);
    }
  }

  #pathsOf(block: BlockId): ReplicaPaths {
    const directory = `${this.path}/${bucketOf(block)}`;
    return {
      block,
      directory,
      dataPath: `${directory}/${block}.blk`,
      crcPath: `${directory}/${block}.crc`,
    };
  }
}
