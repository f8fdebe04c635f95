/**
 * Which of LevelDB's log files hold batches that are not on disk yet. A synced batch makes durable what is in the
 * same log before it, and no more: when its memory is full LevelDB goes on in a new log, without a sync of the old
 * one, whose batches stay in the page cache until they are in a table. Nor does it sync the directory, so that a
 * new log's name may be missing after a power cut, and at the first start what CURRENT names.
 * Invariant: after `syncOthers`, all batches written before are durable if the last one was synced.
 *
 * A change to a new log is told by the old one's size: each batch makes the log that it went to longer.
 */

import * as libc from "../../base/libc.ts";
import { syncDirectory } from "../../base/durable_files.ts";

const SEEK_END = 2;

interface Log {
  readonly fd: number;
  /** After the last batch. */
  bytes: number;
  hasUnsynced: boolean;
}

export class LogFiles {
  readonly #path: string;
  /** The log that the last batch went to; null before the first. */
  #current: Log | null = null;
  /** Logs before it with batches that were not synced: one at most, as a rule. */
  #older: Log[] = [];
  #isNameDurable = false;

  /** `path`: the database's directory. */
  constructor(path: string) {
    this.#path = path;
  }

  /** A batch was written. `isSynced`: by LevelDB, and with it all of the log that it went to. */
  wrote(isSynced: boolean): void {
    let log = this.#current;
    const bytes = log === null ? 0 : libc.lseek(log.fd, 0, SEEK_END);
    if (log === null || bytes === log.bytes) log = this.#change();
    else log.bytes = bytes;
    log.hasUnsynced = !isSynced;
  }

  /** Makes durable what LevelDB's own sync of the last batch has not. */
  async syncOthers(): Promise<void> {
    while (this.#older.length > 0) {
      const log = this.#older[0]!;
      // It may have been removed: then it is in a table, and syncing what has no name does no harm.
      if (await libc.fdatasyncAsync(log.fd) < 0) throw new Error("a log of the database can't be synced");
      this.#older.shift();
      libc.close(log.fd);
    }
    if (this.#isNameDurable) return;
    await syncDirectory(this.#path);
    this.#isNameDurable = true;
  }

  close(): void {
    for (const log of this.#older) libc.close(log.fd);
    if (this.#current !== null) libc.close(this.#current.fd);
    this.#older = [];
    this.#current = null;
  }

  /** Finds the log that is written to now. Invariant: nothing is being written meanwhile. */
  #change(): Log {
    const old = this.#current;
    if (old !== null) {
      if (old.hasUnsynced) this.#older.push(old);
      else libc.close(old.fd);
      this.#current = null;
    }
    const newest = logNumbers(this.#path).at(-1);
    const name = `${this.#path}/${newest === undefined ? "no log" : logName(newest)}`;
    const fd = libc.open(name, libc.O_RDONLY);
    if (fd < 0) throw new Error(`${name} can't be opened`);
    this.#isNameDurable = false;
    return this.#current = { fd, bytes: libc.lseek(fd, 0, SEEK_END), hasUnsynced: true };
  }
}

/** Numbers of the log files of a database, in the order in which they were written. */
export function logNumbers(path: string): number[] {
  const numbers: number[] = [];
  for (const { name } of Deno.readDirSync(path)) {
    const match = /^(\d+)\.log$/.exec(name);
    if (match !== null) numbers.push(Number(match[1]));
  }
  return numbers.sort((a, b) => a - b);
}

export const logName = (number: number): string => `${String(number).padStart(6, "0")}.log`;
