/**
 * fsync and fdatasync: what was written to a file is on the disks of all its replicas, and what is needed to find it on the
 * nameserver's.
 *
 * Invariant: whatever is not known to be on all these disks is synced, whoever wrote it. That all machines which had something
 * stopped before it was synced is told as a failure of it.
 */

import type { Logger } from "../base/log.ts";
import { FsError } from "../wire/errno.ts";
import type { BlockId, InodeId } from "../wire/ids.ts";
import type { Block } from "../wire/messages/inode.ts";
import { type Blocks, isDropped, SYNC_TIMEOUT_MS } from "./blocks.ts";
import type { OpenFile } from "./inode.ts";
import type { Reports } from "./reports.ts";

/** Blocks of one file that are synced at once. */
const SYNCS_AT_ONCE = 32;

export interface SyncerOptions {
  readonly blocks: Blocks;
  readonly reports: Reports;
  /** Asks how the inode is now; who has written to it elsewhere reports that first. */
  readonly look: (ino: InodeId) => Promise<void>;
  readonly log: Logger;
}

export class Syncer {
  readonly #options: SyncerOptions;

  constructor(options: SyncerOptions) {
    this.#options = options;
  }

  /**
   * fsync(2) and fdatasync(2): every replica's disk, then the nameserver's. Whoever wrote it: what another descriptor or
   * another mount has written before is synced as well. `dataOnly`: what is needed to find the data, but no times.
   */
  async sync(file: OpenFile, dataOnly = false): Promise<void> {
    const { inode } = file;
    // Alone on its way, it comes after all that was written before.
    const last = file.pending.size === 1 ? file.gathered : null;
    last?.send(true);
    // What it changes is found already: the nameserver's disk and the replicas' need not wait for one another.
    const isFound = last !== null && file.isFindable &&
      last.ranges.every(({ start, end }) => file.blocks.isWritten(start, end));
    const hasAll = () => isFindableFromDisk(file, dataOnly);
    const reported = isFound && !hasAll() ? this.#options.reports.commit(file, true, last) : undefined;
    reported?.catch(() => {}); // it may fail while something else does; that is told below
    await file.settled(0, Infinity);
    // Without a lease what is known of its size may be from before it grew elsewhere.
    if (inode.lease === "none") await this.#options.look(file.ino);
    const { grants } = inode;
    const ours = new Map(file.unsynced);
    if (file.restSyncedAt !== grants || inode.lease === "none") {
      for await (const blocks of this.#writtenBlocks(file)) {
        const others = blocks.filter(({ id }) => !ours.has(id) && last?.synced.has(id) !== true);
        await Promise.all(others.map((block) => this.#syncOfOthers(file, block)));
      }
    }
    for (const block of await this.syncOurs(file, ours)) this.lost(file, block);
    if (reported !== undefined) await reported;
    else if (hasAll()) return;
    else await this.#options.reports.commit(file, true);
    file.restSyncedAt = grants;
  }

  /** Blocks that we have written to are on their replicas' disks. Gives those that all machines may have lost before. */
  async syncOurs(file: OpenFile, ours = new Map(file.unsynced)): Promise<BlockId[]> {
    const lost: BlockId[] = [];
    for (let i = 0; i < ours.size; i += SYNCS_AT_ONCE) {
      await Promise.all(
        [...ours].slice(i, i + SYNCS_AT_ONCE).map(async ([id, mark]) => {
          const block = file.blocks.at(mark.start);
          const current = block?.id === id ? block : await this.#find(file, mark.start);
          // Truncated away since, or while it was being synced.
          const used = current?.id === id ? await unlessDropped(this.#syncBlock(file, current)) : undefined;
          // A write that came meanwhile has put another mark: it may have missed the disk.
          if (file.unsynced.get(id) === mark) file.unsynced.delete(id);
          if ((used?.chosenAt ?? 0) > mark.since) lost.push(id);
        }),
      );
    }
    return lost;
  }

  /** All machines that had the block stopped after something was written to it here, and before it was synced. */
  lost(file: OpenFile, block: BlockId): void {
    this.#options.log.error("machines stopped before what was written was synced", { ino: file.ino, block });
    const message = "what was written may be lost: all machines that had it stopped before it was synced";
    file.fail(new FsError("EIO", message, { op: "fsync" }));
  }

  /** The block as it is afterwards. */
  #syncBlock(file: OpenFile, block: Block): Promise<Block> {
    return this.#options.blocks.sync(file, block, file.tenure);
  }

  /**
   * A block that we have not changed. A replica that can't be reached stays the block's only if all others are finalized: else
   * these may be doubtful after a power cut, as that one may, and it would not be known which of them was synced.
   */
  async #syncOfOthers(file: OpenFile, block: Block): Promise<void> {
    const { id, generation } = block;
    const isDone = await this.#options.blocks.onReachable(block, async (client, volume) => {
      const request = { block: id, generation, volume, chain: [] };
      return (await client.syncBlock(request, { timeoutMs: SYNC_TIMEOUT_MS })).isFinalized === true;
    });
    if (!isDone) await unlessDropped(this.#syncBlock(file, block));
  }

  /** The file's blocks that hold data, some at a time. */
  async *#writtenBlocks(file: OpenFile): AsyncGenerator<Block[]> {
    if (file.inlineBytes > 0) return;
    let found: Block[] = [];
    for (let at = 0; at < file.size;) {
      const { block, end } = await this.#options.blocks.piece(file, at);
      if (block !== undefined && file.hasData(block)) found.push(block);
      at = end;
      if (found.length < SYNCS_AT_ONCE && at < file.size) continue;
      yield found;
      found = [];
    }
  }

  async #find(file: OpenFile, start: number): Promise<Block | undefined> {
    return (await this.#options.blocks.piece(file, start)).block;
  }
}

/** Undefined when the block is gone. */
async function unlessDropped(work: Promise<Block>): Promise<Block | undefined> {
  try {
    return await work;
  } catch (error) {
    if (!isDropped(error)) throw error;
    return undefined;
  }
}

/** What the nameserver's disk has is enough to find all data. Times are left out if `dataOnly`. */
function isFindableFromDisk(file: OpenFile, dataOnly: boolean): boolean {
  const { inode } = file;
  return dataOnly && file.isFindable && file.unsyncedReports === 0 && inode.lease !== "none" &&
    file.restSyncedAt === inode.grants;
}
