/**
 * Changes of names and attributes that the nameserver is asked for, while they are under way: others may see a change before
 * its answer is here, and tell of it. What is changed here at once is local_changes.ts'.
 *
 * Invariants:
 * - Until the answer is here nothing is shown of how it was before, by this mount's kernel neither.
 * - A change that was sent is taken over, though nobody waits for it any more.
 */

import { bytesKey } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import { isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import { isExclusive } from "../wire/messages/inode.ts";
import type { EntryName } from "./claims.ts";
import type { Inode } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";
import { type Interruptible, withSignal } from "./interruptible.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { LocalChanges } from "./local_changes.ts";

export interface AskedChangesOptions {
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly clock: Clock;
  /** As NamesOptions'. */
  readonly local?: LocalChanges | undefined;
}

export class AskedChanges {
  readonly #options: AskedChangesOptions;

  constructor(options: AskedChangesOptions) {
    this.#options = options;
  }

  /** Runs a change of attributes of `inodes`, and takes its answer over. */
  async attributes<T>(inodes: readonly (Inode | undefined)[], change: () => Promise<T>): Promise<T> {
    const known = [...new Set(inodes)].filter((inode) => inode !== undefined);
    const shown = known.filter(({ isFresh }) => isFresh);
    for (const inode of known) inode.changesAsked++;
    try {
      if (shown.length > 0) {
        await Promise.all(shown.map((inode) => this.#options.kernelCache.dropAttributes(inode)));
      }
      return await change();
    } catch (error) {
      const mayBeMade = isErrno(error, "EINTR") || isErrno(error, "EIO");
      if (mayBeMade) { for (const { ino } of known) this.noteChanged(ino); }
      throw error;
    } finally {
      for (const inode of known) inode.changesAsked--;
    }
  }

  /**
   * Asks for a change of names, and takes the answer over, with the moment of the request. The kernel holds the directory's lock,
   * but passes over that for names it has. They can't go one by one as long as it does (kernel_cache.ts), so that all have to;
   * that the next change finds none is cheaper than doing so each time.
   */
  async names<T, U>(
    names: readonly EntryName[],
    ask: () => Promise<T>,
    adopt: (reply: T, askedAt: number) => U,
  ): Promise<U> {
    const { table, kernelCache, clock, local } = this.#options;
    // What is known of all other names here would have to be asked for again: better have the directory to ourselves first.
    const told = names.flatMap(([parent]) => table.get(parent) ?? []).filter((it) => this.#isTold(it));
    if (told.length > 0) await local?.claimDirectories(told);
    const changing: { readonly directory: Inode; readonly key: string }[] = [];
    let isTold = false;
    for (const [parent, name] of names) {
      const directory = table.get(parent);
      kernelCache.boundNames(directory);
      if (directory === undefined) continue;
      isTold ||= this.#isTold(directory);
      directory.namesAskedMs = clock.monotonicMs();
      const key = bytesKey(name);
      directory.beginChange(key);
      changing.push({ directory, key });
    }
    let askedAt: number;
    let reply: T;
    try {
      if (isTold) {
        // It has taken all listings of these directories, as it holds their locks.
        for (const { directory } of changing) directory.namesListed = false;
        await kernelCache.dropAllNames();
      }
      askedAt = table.moment;
      reply = await ask();
    } catch (error) {
      if (isErrno(error, "EIO")) { // it may have been made
        for (const { directory } of changing) this.noteChanged(directory.ino);
        await this.#dropDirectories(names.map(([parent]) => parent));
      }
      throw error;
    } finally {
      for (const { directory, key } of changing) directory.endChange(key);
    }
    return adopt(reply, askedAt);
  }

  /** The kernel may have names of it that others may change, or see changed, before we hear of it. */
  #isTold({ namesToldIn, namesListed, lease }: Inode): boolean {
    const mayHaveNames = namesListed || namesToldIn === this.#options.kernelCache.epoch;
    return mayHaveNames && lease !== "none" && !isExclusive(lease);
  }

  /**
   * Waits for a change of names in `parents`. Who gives up waiting leaves it to go on, as the nameserver may make it: nothing of
   * these names is kept until its answer is here, and taken over. The kernel is told of no change then, and lets others look at
   * the directories: what it has of them goes, and once more when the change was made, which `unwanted` gets.
   */
  async untilAnswered<T>(
    changing: Promise<T>,
    parents: readonly InodeId[],
    interrupt: Interruptible,
    unwanted: (made: T) => unknown = () => {},
  ): Promise<T> {
    try {
      return await withSignal(changing, interrupt);
    } catch (error) {
      if (interrupt.signal.aborted) {
        changing.then(async (made) => {
          await this.#dropDirectories(parents);
          // It has not moved what was renamed.
          await this.#options.kernelCache.dropAllNames();
          await unwanted(made);
        }).catch(() => {}); // `error` says why, or nobody waits for it
        await this.#dropDirectories(parents);
      }
      throw error;
    }
  }

  /** What the kernel has of these directories goes, but names. */
  async #dropDirectories(inodes: readonly InodeId[]): Promise<void> {
    const { kernelCache } = this.#options;
    await Promise.all([...new Set(inodes)].map((ino) => {
      const directory = this.#options.table.get(ino);
      return directory === undefined ? undefined : kernelCache.dropAll(directory);
    }));
  }

  /**
   * We changed an inode by a reply that does not tell its attributes. Answers that were on their way meanwhile may be from
   * before, so this is a recall like any other.
   */
  noteChanged(ino: InodeId): void {
    this.#options.table.get(ino)?.forgetAttributes();
    this.#options.table.noteRecall(ino);
  }
}
