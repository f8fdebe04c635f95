/**
 * The volume's LevelDB: one record a replica (generation, state, length), and beside it a marker for each
 * replica in state "writing", so that a start finds those without a scan.
 * Keys: 'r' + block id, 'w' + block id (u64 big-endian, so that they sort), 'v' the volume's label.
 * Invariants:
 * - Record and marker change in one batch.
 * - A record in state "writing" names the life of the volume (volume_life.ts) in which it was written. Found in another
 *   one, its replica is doubtful, and stays so until its record is put anew.
 * - Nothing is written after a batch that failed: LevelDB may have left a part of it in its log, as a full disk does, and
 *   the next start reads no further than that. So one batch is written at a time, and the first that fails is the last.
 *
 * LevelDB's own synced writes would hold up the serving thread for as long as the disk takes, one after the other. So
 * batches are written without a sync, which puts them into LevelDB's log file with one write(2), and `sync` flushes the
 * log on a thread of the pool, once for all who wait. A log that is gone by then had its records moved into a table,
 * which LevelDB syncs before it removes the log.
 */

import { ClassicLevel } from "classic-level";
import { bytesOf, EMPTY_BYTES, textOf } from "../../base/bytes.ts";
import * as libc from "../../base/libc.ts";
import { ERRNO, errnoName, FsError } from "../../wire/errno.ts";
import { asBlockId, asGeneration, type BlockId, type Generation } from "../../wire/ids.ts";
import { all, SharedSync } from "./shared_sync.ts";
import { PARTS_BYTES, type StoredTouched } from "./touched.ts";

export type ReplicaState = "writing" | "finalized";

export interface ReplicaRecord {
  readonly generation: Generation;
  readonly state: ReplicaState;
  /** In bytes. Exact when finalized; when writing, what it was when the writing began. */
  readonly length: number;
  /** Its machine stopped, or its disk failed, while it was being written: what was not synced may be gone. Of what is read, not put. */
  readonly isDoubtful?: boolean;
  /** In state "writing": of what the crc file still says the truth. Absent: of nothing. Not of a doubtful one. */
  readonly touched?: StoredTouched;
}

export interface ReplicaEntry {
  readonly block: BlockId;
  readonly record: ReplicaRecord;
}

const RECORD = 0x72;
const WRITING = 0x77;
const LABEL_KEY = bytesOf("v");
const LOG_FILE = /^\d+\.log$/;
const CACHE_BYTES = 1024 * 1024;

// Value: u8 format | u8 state | u48 life (0 when finalized) | f64 generation | f64 length, little-endian.
// In another format after that: f64 length | 8 bytes of parts, what was touched.
const VALUE_FORMAT = 1;
const VALUE_FORMAT_TOUCHED = 2;
const VALUE_BYTES = 24;
const VALUE_STATE_AT = 1;
const VALUE_LIFE_AT = 2;
const VALUE_GENERATION_AT = 8;
const VALUE_LENGTH_AT = 16;
const VALUE_TOUCHED_AT = 24;
const VALUE_PARTS_AT = 32;
const VALUE_TOUCHED_BYTES = VALUE_PARTS_AT + PARTS_BYTES;

function keyOf(prefix: number, block: number): Uint8Array {
  const key = new Uint8Array(9);
  key[0] = prefix;
  new DataView(key.buffer).setBigUint64(1, BigInt(block));
  return key;
}

function blockOf(key: Uint8Array): BlockId {
  return asBlockId(Number(new DataView(key.buffer, key.byteOffset, key.byteLength).getBigUint64(1)));
}

/** The keys of all records. */
const RECORDS = { gte: keyOf(RECORD, 0), lt: Uint8Array.of(RECORD + 1) };

function encodeRecord(record: ReplicaRecord, life: number): Uint8Array {
  const touched = record.state === "writing" ? record.touched : undefined;
  const value = new Uint8Array(touched === undefined ? VALUE_BYTES : VALUE_TOUCHED_BYTES);
  const view = new DataView(value.buffer);
  value[0] = touched === undefined ? VALUE_FORMAT : VALUE_FORMAT_TOUCHED;
  value[VALUE_STATE_AT] = record.state === "finalized" ? 1 : 0;
  if (record.state === "writing") {
    view.setUint16(VALUE_LIFE_AT, life % 0x10000, true);
    view.setUint32(VALUE_LIFE_AT + 2, Math.floor(life / 0x10000), true);
  }
  view.setFloat64(VALUE_GENERATION_AT, record.generation, true);
  view.setFloat64(VALUE_LENGTH_AT, record.length, true);
  if (touched !== undefined) {
    view.setFloat64(VALUE_TOUCHED_AT, touched.length, true);
    value.set(touched.parts, VALUE_PARTS_AT);
  }
  return value;
}

function decodeRecord(value: Uint8Array, life: number): ReplicaRecord {
  const hasTouched = value[0] === VALUE_FORMAT_TOUCHED;
  if (
    value.length !== (hasTouched ? VALUE_TOUCHED_BYTES : VALUE_BYTES) ||
    !hasTouched && value[0] !== VALUE_FORMAT
  ) {
    throw new FsError("EIO", "a replica record has an unknown format");
  }
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  const state = value[VALUE_STATE_AT] === 1 ? "finalized" : "writing";
  const itsLife = view.getUint16(VALUE_LIFE_AT, true) + view.getUint32(VALUE_LIFE_AT + 2, true) * 0x10000;
  const isDoubtful = state === "writing" && itsLife !== life;
  return {
    generation: asGeneration(view.getFloat64(VALUE_GENERATION_AT, true)),
    state,
    length: view.getFloat64(VALUE_LENGTH_AT, true),
    ...isDoubtful ? { isDoubtful } : {},
    ...hasTouched && !isDoubtful
      ? {
        touched: {
          length: view.getFloat64(VALUE_TOUCHED_AT, true),
          parts: value.slice(VALUE_PARTS_AT, VALUE_PARTS_AT + PARTS_BYTES),
        },
      }
      : {},
  };
}

/** The volume's database. */
export interface ReplicaRecords {
  get(block: BlockId): Promise<ReplicaRecord | undefined>;
  /** Writes records; `durable`: on disk when it resolves, else it only survives the death of the process. */
  put(entries: readonly ReplicaEntry[], durable: boolean): Promise<void>;
  delete(block: BlockId): Promise<void>;
  /** Everything that was put before is on disk when it resolves. */
  sync(): Promise<void>;
  /** Up to `limit` records from block id `from` on, in the order of block ids. */
  page(from: number, limit: number): Promise<readonly ReplicaEntry[]>;
  /** Blocks whose replica is in state "writing". */
  writing(): Promise<readonly BlockId[]>;
  close(): Promise<void>;
}

/** What is gone needs none. */
async function flush(path: string, sync: (fd: number) => Promise<number>): Promise<void> {
  const fd = await libc.openAsync(path, libc.O_RDONLY);
  if (fd === -ERRNO.ENOENT) return;
  if (fd < 0) throw new Error(`${path} can't be opened: ${errnoName(-fd)}`);
  try {
    if (await sync(fd) < 0) throw new Error(`${path} can't be written to disk`);
  } finally {
    libc.close(fd);
  }
}

type Database = ClassicLevel<Uint8Array, Uint8Array>;
type BatchOperation =
  | { type: "put"; key: Uint8Array; value: Uint8Array }
  | { type: "del"; key: Uint8Array };

export class LevelRecords implements ReplicaRecords {
  readonly #db: Database;
  readonly #path: string;
  readonly #life: number;
  readonly #syncing = new SharedSync(() => this.#syncOnce());
  /** Not written yet. */
  #operations: BatchOperation[] = [];
  readonly #writing = new SharedSync(() => this.#writeOnce());
  /** Why nothing is written any more. */
  #broken: FsError | null = null;
  /** No block above this one has a record. */
  #highest: number;
  /** Log files whose names are on disk. */
  #namedLogs: ReadonlySet<string> = new Set();

  private constructor(db: Database, path: string, life: number, highest: number) {
    this.#db = db;
    this.#life = life;
    this.#highest = highest;
    this.#path = path;
  }

  /**
   * Opens the database in `path`; `life` names the volume's. Errors: EBUSY another process has it; EINVAL it
   * is not the one of `label`.
   */
  static async open(path: string, label: string, life: number): Promise<LevelRecords> {
    const db: Database = new ClassicLevel(path, {
      keyEncoding: "view",
      valueEncoding: "view",
      cacheSize: CACHE_BYTES,
      writeBufferSize: CACHE_BYTES,
    });
    try {
      await db.open();
    } catch (error) {
      const cause = (error as { cause?: { code?: unknown; message?: unknown } }).cause;
      if (cause?.code === "LEVEL_LOCKED") {
        throw new FsError("EBUSY", `${path} is used by another process`, { cause: error });
      }
      throw new FsError("EIO", `${path} can't be opened: ${String(cause?.message ?? error)}`, {
        cause: error,
      });
    }
    try {
      const known = await db.get(LABEL_KEY);
      if (known === undefined) {
        const keys = await db.keys({ limit: 1 }).all();
        if (keys.length > 0) throw new FsError("EINVAL", `${path} holds a LevelDB that is not MaggieFS's`);
        await db.put(LABEL_KEY, bytesOf(label), { sync: true });
      } else if (textOf(known) !== label) {
        throw new FsError("EINVAL", `${path} belongs to another volume`);
      }
      const [last] = await db.keys({ ...RECORDS, limit: 1, reverse: true }).all();
      return new LevelRecords(db, path, life, last === undefined ? -1 : blockOf(last));
    } catch (error) {
      await db.close();
      throw error;
    }
  }

  async get(block: BlockId): Promise<ReplicaRecord | undefined> {
    if (block > this.#highest) return undefined; // ids are given in order: so are most new blocks' here
    const value = await this.#run("read", this.#db.get(keyOf(RECORD, block)));
    return value === undefined ? undefined : decodeRecord(value, this.#life);
  }

  async put(entries: readonly ReplicaEntry[], durable: boolean): Promise<void> {
    const operations: BatchOperation[] = [];
    for (const { block, record } of entries) {
      if (block > this.#highest) this.#highest = block;
      const marker = keyOf(WRITING, block);
      operations.push({ type: "put", key: keyOf(RECORD, block), value: encodeRecord(record, this.#life) });
      operations.push(
        record.state === "writing"
          ? { type: "put", key: marker, value: EMPTY_BYTES }
          : { type: "del", key: marker },
      );
    }
    await this.#write(operations);
    if (durable) await this.sync();
  }

  async delete(block: BlockId): Promise<void> {
    await this.#write([
      { type: "del", key: keyOf(RECORD, block) },
      { type: "del", key: keyOf(WRITING, block) },
    ]);
  }

  #write(operations: readonly BatchOperation[]): Promise<void> {
    this.#operations.push(...operations);
    return this.#writing.run();
  }

  async #writeOnce(): Promise<void> {
    const operations = this.#operations;
    this.#operations = [];
    if (this.#broken !== null) throw this.#broken;
    try {
      await this.#db.batch(operations);
    } catch (error) {
      throw this.#broken = new FsError(
        "EIO",
        `the volume's database can't be written: ${
          messageOf(error)
        }: when that is mended, start the dataserver again`,
        { cause: error },
      );
    }
  }

  sync(): Promise<void> {
    return this.#run("sync", this.#syncing.run());
  }

  async #syncOnce(): Promise<void> {
    const logs = new Set<string>();
    for await (const { name } of Deno.readDir(this.#path)) if (LOG_FILE.test(name)) logs.add(name);
    const isNamed = [...logs].every((name) => this.#namedLogs.has(name));
    await all([
      ...[...logs].map((name) => flush(`${this.#path}/${name}`, libc.fdatasyncAsync)),
      ...isNamed ? [] : [flush(this.#path, libc.fsyncAsync)],
    ]);
    this.#namedLogs = logs;
  }

  async page(from: number, limit: number): Promise<readonly ReplicaEntry[]> {
    const entries = await this.#run(
      "read",
      this.#db.iterator({ ...RECORDS, gte: keyOf(RECORD, from), limit }).all(),
    );
    return entries.map(([key, value]) => ({ block: blockOf(key), record: decodeRecord(value, this.#life) }));
  }

  async writing(): Promise<readonly BlockId[]> {
    const keys = await this.#run(
      "read",
      this.#db.keys({ gte: keyOf(WRITING, 0), lt: Uint8Array.of(WRITING + 1) }).all(),
    );
    return keys.map(blockOf);
  }

  async close(): Promise<void> {
    await this.#db.close();
  }

  async #run<T>(what: "read" | "sync", operation: Promise<T>): Promise<T> {
    try {
      return await operation;
    } catch (error) {
      throw new FsError("EIO", `${what} of the volume's database: ${messageOf(error)}`, { cause: error });
    }
  }
}

/** Of the database's failures: nothing that was written before is at risk. */
export function isLackOfRoom(error: FsError): boolean {
  return /No space left on device|Disk quota exceeded/.test(error.message);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
