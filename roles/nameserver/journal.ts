/**
 * The journal: the one way by which the namespace changes. Batches are appended synchronously, seen by reads at
 * once, and written to LevelDB's log in groups.
 *
 * Invariants:
 * - Batches are written in the order of `append`, each whole or not at all.
 * - `written(p)` resolves only when all up to position p is in the log (survives kill -9 of this process);
 *   `durable(p)` only when it is on disk.
 * - A reply that shows a change leaves after `written` of that change: who reads calls `seen()` for the position.
 * - After a power cut the database holds all up to some position that is not before the last durable one: none
 *   between is missing.
 * - After a failed write nothing more is accepted: what memory shows and the disk holds would differ.
 */

import { ClassicLevel } from "classic-level";
import { bytesKey } from "../../base/bytes.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import * as libc from "../../base/libc.ts";
import { gauge, type Metric, OperationMeter } from "../../base/metrics.ts";
import { FsError } from "../../wire/errno.ts";
import type { Key } from "./keys.ts";
import { LogFiles } from "./log_files.ts";
import { cutLogsAtGap, type LogCut } from "./log_recovery.ts";

export type Value = Uint8Array;
/** null deletes. */
export type Write = readonly [key: Key, value: Value | null];

/** All records as they were written at one moment, each batch whole or not at all. */
export interface JournalSnapshot {
  get(key: Key): Value | undefined;
  /** As Journal's. */
  scan(range: readonly [Key, Key], limit: number): Promise<readonly (readonly [Uint8Array, Value])[]>;
  /** Some hundred records from `from` on in key order; none after the last. */
  read(from: Key): Promise<readonly (readonly [Uint8Array, Value])[]>;
  /** Call once; nothing is read afterwards. */
  close(): Promise<void>;
}

export interface Journal {
  /** The value as of the last append, or undefined. */
  get(key: Key): Value | undefined;
  /** Appends one atomic batch; returns its position. */
  append(writes: readonly Write[]): number;
  /** The position of the last append. */
  readonly position: number;
  written(position: number): Promise<void> | undefined;
  durable(position: number): Promise<void>;
  /** The newest position among the appends that `get` showed since the last call; 0: none unwritten. */
  seen(): number;
  /** Up to `limit` records of [from, to) in key order, of what is written. */
  scan(range: readonly [Key, Key], limit: number): Promise<readonly (readonly [Uint8Array, Value])[]>;
  /** What is written now. While it is open, what it shows takes room on the disk also when it is deleted. */
  snapshot(): JournalSnapshot;
  /** What it has written, and how long that took. */
  metrics?(): readonly Metric[];
  close(): Promise<void>;
}

/**
 * Each record is an object of its own: of pages this small none outlives the young generation's next collection, while of
 * larger ones the heap grows by hundreds of megabytes when a large namespace is read.
 */
const SNAPSHOT_PAGE_RECORDS = 500;
const SNAPSHOT_PAGE_BYTES = 64 * 1024;

interface Pending {
  readonly key: Key;
  readonly value: Value | null;
  readonly position: number;
}

type Overlay = Map<string, Pending>;
/** What the journal needs of LevelDB; a simulated disk takes its place. */
export type Level =
  & Pick<ClassicLevel<Uint8Array, Uint8Array>, "getSync" | "iterator" | "snapshot" | "close">
  & {
    batch(operations: BatchOperation[], options: { readonly sync: boolean }): Promise<void>;
    getProperty?(name: string): string;
  };

export type BatchOperation =
  | { readonly type: "put"; readonly key: Key; readonly value: Value }
  | { readonly type: "del"; readonly key: Key };

interface Waiter {
  readonly position: number;
  readonly durable: boolean;
  readonly resolve: () => void;
  readonly reject: (error: FsError) => void;
}

export interface LevelJournalOptions {
  readonly createIfMissing: boolean;
  /** Called once, when a write failed and the journal has stopped. */
  readonly onFailure: (error: FsError) => void;
  /** A power cut, or a damaged disk, had left a gap in the logs: they end there now. */
  readonly onCut?: (cut: LogCut) => void;
  /** LevelDB's block cache. */
  readonly cacheBytes?: number;
  /** What LevelDB keeps in memory before it writes a table and changes to a new log. */
  readonly writeBufferBytes?: number;
}

/** leveldb/db/dbformat.h: kNumLevels. */
const LEVELS = 7;
/** Groups of batches, as the meter numbers them. */
const WRITE = 0;
const SYNC = 1;

/** Databases that this process has open: a second one would take LevelDB's lock of the first away. */
const openPaths = new Set<string>();

export class LevelJournal implements Journal {
  readonly #path: string | undefined;
  readonly #level: Level;
  readonly #logs: LogFiles | undefined;
  readonly #onFailure: (error: FsError) => void;
  readonly #clock: Clock;
  #pending: Overlay = new Map();
  #writing: Overlay | null = null;
  #position = 0;
  #writtenPosition = 0;
  #durablePosition = 0;
  #seenPosition = 0;
  #waiters: Waiter[] = [];
  #running: Promise<void> | null = null;
  #failure: FsError | null = null;
  readonly #meter = new OperationMeter("mfs_journal", (op) => op === SYNC ? "sync" : "write", 2);

  /** On a database that is open, and that a power cut does not reach; `open` for one in a directory. */
  constructor(
    level: Level,
    onFailure: (error: FsError) => void,
    path?: string,
    clock: Clock = systemClock,
  ) {
    this.#clock = clock;
    this.#path = path;
    this.#level = level;
    this.#logs = path === undefined ? undefined : new LogFiles(path);
    this.#onFailure = onFailure;
  }

  /** Opens the database directory. Errors: EBUSY (another process has it), EIO (damaged or of another kind). */
  static async open(path: string, options: LevelJournalOptions): Promise<LevelJournal> {
    if (openPaths.has(path)) throw inUse(path);
    openPaths.add(path);
    try {
      const cut = await cutUnderLock(path);
      const level = await openLevel(path, options);
      if (cut !== null) options.onCut?.(cut);
      return new LevelJournal(level, options.onFailure, path);
    } catch (error) {
      openPaths.delete(path);
      throw error;
    }
  }

  get(key: Key): Value | undefined {
    if (this.#pending.size > 0 || this.#writing !== null) {
      const text = bytesKey(key);
      const hit = this.#pending.get(text) ?? this.#writing?.get(text);
      if (hit !== undefined) {
        if (hit.position > this.#seenPosition) this.#seenPosition = hit.position;
        return hit.value ?? undefined;
      }
    }
    return this.#level.getSync(key);
  }

  append(writes: readonly Write[]): number {
    if (this.#failure !== null) throw this.#failure;
    const position = ++this.#position;
    for (const [key, value] of writes) this.#pending.set(bytesKey(key), { key, value, position });
    if (this.#running === null) this.#running = this.#run();
    return position;
  }

  seen(): number {
    const position = this.#seenPosition;
    this.#seenPosition = 0;
    return position > this.#writtenPosition ? position : 0;
  }

  written(position: number): Promise<void> | undefined {
    if (position <= this.#writtenPosition) return undefined;
    return this.#wait(position, false);
  }

  durable(position: number): Promise<void> {
    if (position <= this.#durablePosition) return Promise.resolve();
    return this.#wait(position, true);
  }

  /** The position of the last append. */
  get position(): number {
    return this.#position;
  }

  async scan(range: readonly [Key, Key], limit: number): Promise<readonly (readonly [Uint8Array, Value])[]> {
    const iterator = this.#level.iterator({ gte: range[0], lt: range[1], limit });
    try {
      return await iterator.all();
    } finally {
      await iterator.close();
    }
  }

  snapshot(): JournalSnapshot {
    const level = this.#level;
    const snapshot = level.snapshot();
    return {
      get: (key) => level.getSync(key, { snapshot }),
      scan: async (range, limit) => {
        const iterator = level.iterator({ gte: range[0], lt: range[1], limit, snapshot });
        try {
          return await iterator.all();
        } finally {
          await iterator.close();
        }
      },
      read: async (from) => {
        const iterator = level.iterator({ gte: from, snapshot, highWaterMarkBytes: SNAPSHOT_PAGE_BYTES });
        try {
          return await iterator.nextv(SNAPSHOT_PAGE_RECORDS);
        } finally {
          await iterator.close();
        }
      },
      close: () => snapshot.close(),
    };
  }

  async close(): Promise<void> {
    if (this.#running !== null) await this.#running;
    if (this.#failure === null && this.#durablePosition < this.#position) await this.durable(this.#position);
    this.#logs?.close();
    await this.#level.close();
    if (this.#path !== undefined) openPaths.delete(this.#path);
  }

  #wait(position: number, durable: boolean): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiters.push({ position, durable, resolve, reject });
      if (this.#running === null) this.#running = this.#run();
    });
  }

  metrics(): readonly Metric[] {
    const property = (name: string) => Number(this.#level.getProperty?.(`leveldb.${name}`) ?? 0);
    return [
      ...this.#meter.metrics("groups of changes written to LevelDB's log"),
      gauge("mfs_leveldb_memory_bytes", "Memory of LevelDB.", property("approximate-memory-usage")),
      gauge(
        "mfs_leveldb_files",
        "Tables of LevelDB, by level.",
        Array.from({ length: LEVELS }, (_, level) => ({
          labels: { level },
          value: property(`num-files-at-level${level}`),
        })),
      ),
    ];
  }

  /** Writes group after group until nothing is pending and nobody waits. Never rejects. */
  async #run(): Promise<void> {
    try {
      // Appends of the same turn of the event loop share the first group.
      await Promise.resolve();
      while (this.#pending.size > 0 || this.#waiters.length > 0) {
        const group = this.#pending;
        const position = this.#position;
        const sync = this.#waiters.some((waiter) => waiter.durable);
        this.#writing = group;
        this.#pending = new Map();
        const operations: BatchOperation[] = [];
        for (const { key, value } of group.values()) {
          operations.push(value === null ? { type: "del", key } : { type: "put", key, value });
        }
        // An empty synced batch would not reach the log: rewrite the position marker instead.
        if (operations.length === 0) {
          operations.push({ type: "put", key: MARKER, value: MARKER });
        }
        const startMs = this.#clock.monotonicMs();
        await this.#level.batch(operations, { sync });
        this.#logs?.wrote(sync);
        this.#writing = null;
        this.#writtenPosition = position;
        if (sync) {
          await this.#logs?.syncOthers();
          this.#durablePosition = position;
        }
        this.#meter.note(sync ? SYNC : WRITE, this.#clock.monotonicMs() - startMs, false);
        this.#wake();
      }
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#failure = new FsError("EIO", `the namespace can't be written: ${message}`, {
        op: "journal",
        cause: error,
      });
      const waiters = this.#waiters;
      this.#waiters = [];
      for (const waiter of waiters) waiter.reject(this.#failure);
      this.#onFailure(this.#failure);
    } finally {
      this.#running = null;
    }
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      const reached = waiter.durable ? this.#durablePosition : this.#writtenPosition;
      if (waiter.position <= reached) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}

const MARKER = new Uint8Array([0x00]);

const inUse = (path: string) =>
  new FsError("EBUSY", `${path} is in use by another process`, { op: "nameserver" });

async function openLevel(path: string, options: LevelJournalOptions): Promise<Level> {
  const level = new ClassicLevel<Uint8Array, Uint8Array>(path, {
    keyEncoding: "view",
    valueEncoding: "view",
    createIfMissing: options.createIfMissing,
    cacheSize: options.cacheBytes ?? 8 * 1024 * 1024,
    writeBufferSize: options.writeBufferBytes ?? 4 * 1024 * 1024,
  });
  try {
    await level.open();
    return level;
  } catch (error) {
    const cause = (error as { cause?: { code?: string; message?: string } }).cause;
    if (cause?.code === "LEVEL_LOCKED") throw inUse(path);
    throw new FsError(
      "EIO",
      `${path} can't be opened as a namespace database (${
        cause?.message ?? error
      }): restore it from a backup`,
      { op: "nameserver", cause: error },
    );
  }
}

/** The logs of a database that a process is using are not touched: LevelDB's own lock is held meanwhile. */
async function cutUnderLock(path: string): Promise<LogCut | null> {
  const lock = libc.open(`${path}/LOCK`, libc.O_RDWR);
  if (lock < 0) return null; // no database, or one that can't be opened: LevelDB says which
  try {
    if (libc.tryLock(lock) < 0) throw inUse(path);
    return await cutLogsAtGap(path);
  } finally {
    libc.close(lock);
  }
}
