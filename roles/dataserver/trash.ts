/**
 * Files that nobody claims are kept aside in the volume's trash/ for a while instead of being deleted: a
 * nameserver that was restored from a backup may still ask for them. They are in nobody's way: when room is needed
 * they go early, the oldest first.
 * Names: BLOCK.GENERATION.TIME.blk and .crc, TIME in milliseconds since 1970.
 */

import type { Clock } from "../../base/clock.ts";
import * as libc from "../../base/libc.ts";
import type { Logger } from "../../base/log.ts";
import type { Disk } from "./disk.ts";

const NAME = /^\d+\.\w+\.(\d+)\.(?:blk|crc)$/;

interface Kept {
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly sinceMs: number;
}

export class Trash {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #retentionMs: () => number;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #kept = new Map<string, Kept>();
  #bytes = 0;

  constructor(disk: Disk, volumePath: string, retentionMs: () => number, clock: Clock, log: Logger) {
    this.#disk = disk;
    this.#clock = clock;
    this.#directory = `${volumePath}/trash`;
    this.#retentionMs = retentionMs;
    this.#log = log;
  }

  /** Of all files here; not counted before `load`. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Counts what an earlier process has left. */
  async load(): Promise<void> {
    for (const name of await this.#disk.names(this.#directory)) await this.#count(name);
  }

  /** Moves a replica's files here; those that are not there are no error. */
  async take(block: number, generation: number | "none", dataPath: string, crcPath: string): Promise<void> {
    const name = `${block}.${generation}.${this.#nowMs()}`;
    const base = `${this.#directory}/${name}`;
    if (await this.#disk.rename(crcPath, `${base}.crc`)) await this.#count(`${name}.crc`);
    if (await this.#disk.rename(dataPath, `${base}.blk`)) {
      await this.#count(`${name}.blk`);
      this.#log.warn("kept a block file aside", { block, generation, file: `${base}.blk` });
    }
  }

  /** Removes what was here for longer than the retention. */
  async purge(): Promise<void> {
    const oldestMs = this.#nowMs() - this.#retentionMs();
    for (const [name, { sinceMs }] of this.#kept) {
      if (sinceMs < oldestMs) await this.#remove(name);
    }
  }

  /** Removes the oldest replicas, one after the other, until there is enough room or nothing left. */
  async makeRoom(isEnough: () => boolean): Promise<void> {
    const oldestFirst = [...this.#kept].sort(([nameOfA, a], [nameOfB, b]) =>
      a.sinceMs - b.sinceMs || (nameOfA < nameOfB ? -1 : 1)
    );
    let files = 0;
    let bytes = 0;
    let replica = "";
    for (const [name, kept] of oldestFirst) {
      // Both files of one: neither is of use without the other.
      const its = name.slice(0, name.lastIndexOf("."));
      if (its !== replica && isEnough()) break;
      replica = its;
      await this.#remove(name);
      files++;
      bytes += kept.bytes;
    }
    if (files === 0) return;
    this.#log.warn("volume is full: its trash was emptied early", {
      ...{ trash: this.#directory, files, bytes, left: this.#kept.size, leftBytes: this.#bytes },
    });
  }

  async #count(name: string): Promise<void> {
    const time = NAME.exec(name)?.[1];
    if (time === undefined || this.#kept.has(name)) return;
    const path = `${this.#directory}/${name}`;
    const fd = await this.#disk.open(path, libc.O_RDONLY);
    let bytes: number;
    try {
      bytes = this.#disk.size(fd, path);
    } finally {
      this.#disk.close(fd);
    }
    if (this.#kept.has(name)) return;
    this.#kept.set(name, { bytes, sinceMs: Number(time) });
    this.#bytes += bytes;
  }

  async #remove(name: string): Promise<void> {
    const kept = this.#kept.get(name);
    if (kept === undefined) return;
    await this.#disk.remove(`${this.#directory}/${name}`);
    if (this.#kept.delete(name)) this.#bytes -= kept.bytes;
  }

  #nowMs(): number {
    const { seconds, nanoseconds } = this.#clock.now();
    return seconds * 1000 + Math.floor(nanoseconds / 1e6);
  }
}
