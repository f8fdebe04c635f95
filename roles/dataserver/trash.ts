/**
 * Files that nobody claims are kept aside in the volume's trash/ for a while instead of being deleted: a
 * nameserver that was restored from a backup may still ask for them.
 * Names: BLOCK.GENERATION.TIME.blk and .crc, TIME in milliseconds since 1970.
 */

import type { Logger } from "../../base/log.ts";
import type { Clock } from "../../base/clock.ts";
import type { Disk } from "./disk.ts";

const NAME = /^\d+\.\w+\.(\d+)\.(?:blk|crc)$/;

export class Trash {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #retentionMs: number;
  readonly #clock: Clock;
  readonly #log: Logger;

  constructor(disk: Disk, volumePath: string, retentionMs: number, clock: Clock, log: Logger) {
    this.#disk = disk;
    this.#clock = clock;
    this.#directory = `${volumePath}/trash`;
    this.#retentionMs = retentionMs;
    this.#log = log;
  }

  /** Moves a replica's files here; those that are not there are no error. */
  async take(block: number, generation: number | "none", dataPath: string, crcPath: string): Promise<void> {
    const base = `${this.#directory}/${block}.${generation}.${this.#nowMs()}`;
    await this.#disk.rename(crcPath, `${base}.crc`);
    if (await this.#disk.rename(dataPath, `${base}.blk`)) {
      this.#log.warn("kept a block file aside", { block, generation, file: `${base}.blk` });
    }
  }

  /** Removes what was here for longer than the retention. */
  async purge(): Promise<void> {
    const oldest = this.#nowMs() - this.#retentionMs;
    for (const name of await this.#disk.names(this.#directory)) {
      const match = NAME.exec(name);
      if (match !== null && Number(match[1]) < oldest) await this.#disk.remove(`${this.#directory}/${name}`);
    }
  }

  /** Milliseconds since 1970. */
  #nowMs(): number {
    const { seconds, nanoseconds } = this.#clock.now();
    return seconds * 1000 + Math.floor(nanoseconds / 1e6);
  }
}
