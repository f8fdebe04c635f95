/**
 * Files that nobody claims are kept aside in the volume's trash/ for a while instead of being deleted: a
 * nameserver that was restored from a backup may still ask for them.
 * Names: BLOCK.GENERATION.TIME.blk and .crc, TIME in milliseconds since 1970.
 */

import type { Logger } from "../../base/log.ts";
import { removeFile, renameFile } from "./disk.ts";

const NAME = /^\d+\.\w+\.(\d+)\.(?:blk|crc)$/;

export class Trash {
  readonly #directory: string;
  readonly #retentionMs: number;
  readonly #log: Logger;

  constructor(volumePath: string, retentionMs: number, log: Logger) {
    this.#directory = `${volumePath}/trash`;
    this.#retentionMs = retentionMs;
    this.#log = log;
  }

  /** Moves a replica's files here; those that are not there are no error. */
  async take(block: number, generation: number | "none", dataPath: string, crcPath: string): Promise<void> {
    const base = `${this.#directory}/${block}.${generation}.${Date.now()}`;
    await renameFile(crcPath, `${base}.crc`);
    if (await renameFile(dataPath, `${base}.blk`)) {
      this.#log.warn("kept a block file aside", { block, generation, file: `${base}.blk` });
    }
  }

  /** Removes what was here for longer than the retention. */
  async purge(): Promise<void> {
    const oldest = Date.now() - this.#retentionMs;
    for await (const entry of Deno.readDir(this.#directory)) {
      const match = NAME.exec(entry.name);
      if (match !== null && Number(match[1]) < oldest) await removeFile(`${this.#directory}/${entry.name}`);
    }
  }
}
