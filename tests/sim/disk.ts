/**
 * The disk of a simulated machine: files, names and a volume's database, each as a process sees it and as it would be
 * after a power cut. A process that is killed leaves what it has written; a power cut keeps what was synced and a random
 * part of the rest: any of the writes to a file, names and records up to some point.
 */

import { bytesOf, textOf } from "../../base/bytes.ts";
import * as libc from "../../base/libc.ts";
import type { Disk } from "../../roles/dataserver/disk.ts";
import type { ReplicaEntry, ReplicaRecord, ReplicaRecords } from "../../roles/dataserver/replica_records.ts";
import { FsError } from "../../wire/errno.ts";
import type { BlockId } from "../../wire/ids.ts";
import { type Life, NEVER, type Simulation } from "./simulation.ts";

/** What a disk writes whole. */
const SECTOR = 64;

interface Change {
  readonly offset: number;
  /** Null: the file was cut at `offset`. */
  readonly bytes: Uint8Array | null;
}

export class SimFile {
  bytes = new Uint8Array(0);
  durable = new Uint8Array(0);
  unsynced: Change[] = [];
  opens = 0;

  apply(change: Change): void {
    this.bytes = changed(this.bytes, change);
    this.unsynced.push(change);
  }

  sync(): void {
    this.durable = this.bytes;
    this.unsynced = [];
  }
}

/** Files are replaced, never changed in place: what was synced shares its array with what there is. */
function changed(before: Uint8Array<ArrayBuffer>, { offset, bytes }: Change): Uint8Array<ArrayBuffer> {
  if (bytes === null) {
    const cut = new Uint8Array(offset);
    cut.set(before.subarray(0, offset));
    return cut;
  }
  const after = new Uint8Array(Math.max(before.length, offset + bytes.length));
  after.set(before);
  after.set(bytes, offset);
  return after;
}

interface NameChange {
  readonly path: string;
  readonly file: SimFile | null;
}

/** A record, and in which life of its volume it was written (volume_life.ts). */
interface StoredRecord extends ReplicaRecord {
  readonly life: number;
}

/**
 * Until its process is started again: nothing is written any more; or all but the volume's note that it has failed, and what
 * was not synced may be lost where that was made; or the directory is not to be found.
 */
export type DiskFailure = "EIO" | "EROFS" | "lossy" | "gone";

interface RecordBatch {
  readonly entries: readonly { readonly block: BlockId; readonly record: StoredRecord | null }[];
}

export class SimDisk {
  readonly #simulation: Simulation;
  names = new Map<string, SimFile>();
  #durableNames = new Map<string, SimFile>();
  #nameLog: NameChange[][] = [];
  readonly #directories = new Set<string>();
  records = new Map<BlockId, StoredRecord>();
  #durableRecords = new Map<BlockId, StoredRecord>();
  #recordLog: RecordBatch[] = [];
  /** Milliseconds by which it is slower than usual. */
  slownessMs = 0;
  failure: DiskFailure | null = null;
  #isFailureNoted = false;
  /** Counts power cuts. */
  boots = 1;
  readonly writing = new Set<{ readonly file: SimFile; readonly change: Change }>();

  constructor(simulation: Simulation) {
    this.#simulation = simulation;
  }

  /** Writes that were under way when their process was killed may have been made in part. */
  killed(): void {
    for (const { file, change } of this.writing) {
      if (change.bytes === null || !this.#simulation.chance(0.5)) continue;
      const length = SECTOR * this.#simulation.below(change.bytes.length / SECTOR + 1);
      if (length > 0) file.apply({ offset: change.offset, bytes: change.bytes.subarray(0, length) });
    }
    this.writing.clear();
    if (this.#isFailureNoted) { for (const file of this.names.values()) this.#loseUnsynced(file); }
    this.failure = null;
    this.#isFailureNoted = false;
  }

  /** After a power cut it may be found in the state of being written. */
  isWriting(block: BlockId): boolean {
    return [this.records, this.#durableRecords].some((records) => records.get(block)?.state === "writing");
  }

  /** What is left when the machine comes back. */
  powerCut(): void {
    const simulation = this.#simulation;
    this.boots++;
    for (const file of new Set([...this.names.values(), ...this.#durableNames.values()])) {
      this.#loseUnsynced(file);
      file.opens = 0;
    }
    const names = simulation.below(this.#nameLog.length + 1);
    for (const batch of this.#nameLog.slice(0, names)) putNames(this.#durableNames, batch);
    this.#nameLog = [];
    this.names = new Map(this.#durableNames);
    const batches = simulation.below(this.#recordLog.length + 1);
    for (const batch of this.#recordLog.slice(0, batches)) putRecords(this.#durableRecords, batch);
    this.#recordLog = [];
    this.records = new Map(this.#durableRecords);
  }

  #loseUnsynced(file: SimFile): void {
    const simulation = this.#simulation;
    let bytes = file.durable;
    for (const change of file.unsynced) {
      if (simulation.chance(0.4)) continue;
      if (change.bytes === null || simulation.chance(0.7)) {
        bytes = changed(bytes, change);
        continue;
      }
      for (let at = 0; at < change.bytes.length; at += SECTOR) {
        if (simulation.chance(0.5)) continue;
        const sector = change.bytes.subarray(at, at + SECTOR);
        bytes = changed(bytes, { offset: change.offset + at, bytes: sector });
      }
    }
    file.bytes = bytes;
    file.sync();
  }

  /** Nothing is written any more. */
  #checkWrites(op: string): void {
    if (this.failure === null || this.failure === "gone") return;
    const errno = this.failure === "EROFS" ? "EROFS" : "EIO";
    throw new FsError(errno, `${op}: ${errno}`, { op });
  }

  #checkPath(op: string, path: string): void {
    if (this.failure === "gone") throw new FsError("ENOENT", `${op} ${path}: ENOENT`, { op });
  }

  #rename(changes: NameChange[]): void {
    putNames(this.names, changes);
    this.#nameLog.push(changes);
  }

  #syncNames(): void {
    for (const batch of this.#nameLog) putNames(this.#durableNames, batch);
    this.#nameLog = [];
  }

  /** The disk as the process of `life` has it. */
  open(life: Life): Disk {
    const simulation = this.#simulation;
    const files = new Map<number, SimFile>();
    let nextFd = 3;
    const pause = () =>
      life.wait(0.02 + 0.3 * simulation.random.next() + this.slownessMs * simulation.random.next());
    const file = (fd: number): SimFile => {
      const found = files.get(fd);
      if (found === undefined) throw new Error(`no open file ${fd}`);
      return found;
    };
    const apply = async (target: SimFile, change: Change): Promise<void> => {
      if (life.isOver) return NEVER;
      const entry = { file: target, change };
      this.writing.add(entry);
      await pause();
      this.writing.delete(entry);
      this.#checkWrites("write");
      target.apply(change);
    };
    const read = (fd: number, buffer: Uint8Array<ArrayBuffer>, offset: number): number => {
      const { bytes } = file(fd);
      const part = bytes.subarray(offset, offset + buffer.length);
      buffer.set(part);
      return part.length;
    };
    return {
      open: async (path, flags) => {
        if (life.isOver) return NEVER;
        if (simulation.chance(0.1)) await pause();
        this.#checkPath("open", path);
        let found = this.names.get(path);
        if (found !== undefined && (flags & libc.O_EXCL) !== 0) throw new FsError("EEXIST", `open ${path}`);
        if (found === undefined) {
          if ((flags & libc.O_CREAT) === 0) throw new FsError("ENOENT", `open ${path}`);
          this.#checkWrites(`open ${path}`);
          found = new SimFile();
          this.#rename([{ path, file: found }]);
        }
        if ((flags & libc.O_TRUNC) !== 0) found.apply({ offset: 0, bytes: null });
        const fd = nextFd++;
        found.opens++;
        files.set(fd, found);
        return fd;
      },
      close: (fd) => {
        const closed = files.get(fd);
        if (closed !== undefined && !life.isOver) closed.opens--;
        files.delete(fd);
      },
      size: (fd) => file(fd).bytes.length,
      readCached: (fd, buffer, offset) => simulation.chance(0.3) ? -11 : read(fd, buffer, offset),
      read: (fd, buffer, offset) => {
        if (simulation.chance(0.5)) return read(fd, buffer, offset);
        return pause().then(() => read(fd, buffer, offset));
      },
      write: (fd, bytes, offset) => apply(file(fd), { offset, bytes: bytes.slice() }),
      changeRange: async (fd, change, offset, length) => {
        const target = file(fd);
        const end = Math.min(offset + length, target.bytes.length);
        if (change === "reserve" || end <= offset) {
          await pause();
          return this.#checkWrites(change);
        }
        await apply(target, { offset, bytes: new Uint8Array(end - offset) });
      },
      truncate: (fd, length) => {
        const target = file(fd);
        const bytes = length > target.bytes.length ? new Uint8Array(length - target.bytes.length) : null;
        return apply(target, { offset: bytes === null ? length : target.bytes.length, bytes });
      },
      syncData: async (fd) => {
        const synced = file(fd);
        await pause();
        this.#checkWrites("fdatasync");
        synced.sync();
        await pause();
      },
      syncDirectory: async (path) => {
        await pause();
        this.#checkPath("fsync", path);
        this.#checkWrites(`fsync ${path}`);
        this.#syncNames();
      },
      syncAll: async (path) => {
        await pause();
        this.#checkPath("syncfs", path);
        this.#checkWrites(`syncfs ${path}`);
        for (const synced of this.names.values()) synced.sync();
        this.#syncNames();
        await pause();
      },
      replaceFile: async (directory, name, content) => {
        await pause();
        this.#checkPath("replace", directory);
        if (this.failure === "lossy") this.#isFailureNoted = true;
        else this.#checkWrites(`replace ${name}`);
        const replaced = new SimFile();
        replaced.apply({ offset: 0, bytes: content.slice() });
        replaced.sync();
        this.#rename([{ path: `${directory}/${name}`, file: replaced }]);
        this.#syncNames();
      },
      remove: async (path) => {
        await pause();
        if (this.failure === "gone") return; // so nothing is there
        this.#checkWrites(`remove ${path}`);
        if (this.names.has(path)) this.#rename([{ path, file: null }]);
      },
      rename: async (from, to) => {
        await pause();
        const moved = this.names.get(from);
        if (moved === undefined || this.failure === "gone") return false;
        this.#checkWrites(`rename ${from}`);
        this.#rename([{ path: from, file: null }, { path: to, file: moved }]);
        return true;
      },
      names: (path) => {
        if (life.isOver) return NEVER;
        if (this.failure === "gone") return Promise.reject(new Deno.errors.NotFound(path));
        const found = new Set<string>();
        for (const one of [...this.names.keys(), ...this.#directories]) {
          if (one.startsWith(`${path}/`)) found.add(one.slice(path.length + 1).split("/")[0]!);
        }
        return Promise.resolve([...found]);
      },
      readText: (path) =>
        this.failure === "gone"
          ? Promise.reject(new Deno.errors.NotFound(path))
          : Promise.resolve(textOf(this.names.get(path)?.bytes ?? bytesOf(""))),
      makeDirectory: (path) => {
        // 256 of them would make `names` slow; they are known to be there.
        if (!path.includes("/blocks/")) this.#directories.add(path);
        return Promise.resolve();
      },
      realPath: (path) => Promise.resolve(path),
      space: (path) => {
        this.#checkPath("statvfs", path);
        if (this.failure === "EROFS") this.#checkWrites(`statvfs ${path}`);
        return { totalBytes: 1e12, availableBytes: 1e12 };
      },
      identity: () => life.host,
      mounting: () => `boot ${this.boots}`,
      openRecords: (_path, _label, volumeLife) => Promise.resolve(this.#recordsFor(life, volumeLife, pause)),
    };
  }

  #recordsFor(life: Life, volumeLife: number, pause: () => Promise<void>): ReplicaRecords {
    let last: Promise<void> = Promise.resolve();
    let isBroken = false;
    const write = (batch: RecordBatch, durable: boolean): Promise<void> => {
      if (life.isOver) return NEVER;
      const run = last.then(async () => {
        await pause();
        // As LevelDB: what follows on a part of a record can't be read.
        isBroken ||= this.failure !== null && this.failure !== "gone";
        if (isBroken) throw new FsError("EIO", "records can't be written", { op: "write" });
        putRecords(this.records, batch);
        this.#recordLog.push(batch);
        if (!durable) return;
        for (const one of this.#recordLog) putRecords(this.#durableRecords, one);
        this.#recordLog = [];
        await pause();
      });
      last = run.catch(() => {});
      return run;
    };
    const found = ({ life: its, generation, state, length }: StoredRecord): ReplicaRecord => ({
      ...{ generation, state, length },
      ...(state === "writing" && its !== volumeLife ? { isDoubtful: true } : {}),
    });
    const sorted = () =>
      [...this.records].sort(([a], [b]) => a - b).map(([block, record]) => ({
        block,
        record: found(record),
      }));
    return {
      get: async (block) => {
        const record = this.records.get(block);
        return record === undefined ? undefined : found(record);
      },
      put: (entries, durable) =>
        write(
          {
            entries: entries.map(({ block, record }) => ({ block, record: { ...record, life: volumeLife } })),
          },
          durable,
        ),
      delete: (block) => write({ entries: [{ block, record: null }] }, false),
      sync: () => write({ entries: [] }, true),
      page: async (from, limit): Promise<ReplicaEntry[]> =>
        sorted().filter(({ block }) => block >= from).slice(0, limit),
      writing: async () =>
        sorted().filter(({ record }) => record.state === "writing").map(({ block }) => block),
      close: () => Promise.resolve(),
    };
  }
}

function putNames(names: Map<string, SimFile>, changes: readonly NameChange[]): void {
  for (const { path, file } of changes) {
    if (file === null) names.delete(path);
    else names.set(path, file);
  }
}

function putRecords(records: Map<BlockId, StoredRecord>, { entries }: RecordBatch): void {
  for (const { block, record } of entries) {
    if (record === null) records.delete(block);
    else records.set(block, record);
  }
}
