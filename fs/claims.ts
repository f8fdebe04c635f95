/**
 * What this mount would rather have to itself (EXCLUSIVE), so that it may change it without asking (local_changes.ts):
 * directories whose names it changes, and what is in them.
 *
 * Invariants:
 * - Nobody is disturbed by it: what others have anything of is not given.
 * - A directory that others took back from us, or have something of, is not asked for again for a while, longer each time.
 */

import { bytesKey } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import type { InodeId } from "../wire/ids.ts";
import { isExclusive } from "../wire/messages/inode.ts";
import { CLAIM_MAX } from "../wire/messages/nameserver.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Inode } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";
import type { Interruptible } from "./interruptible.ts";

/** Changes of a directory's names in a row, by this mount alone, after which it is wanted. */
const CHANGES_MIN = 2;
/** What is in a directory is claimed in growing numbers, as what is read ahead. */
const CLAIMED_MIN = 16;
const CLAIMED_MAX = 512;
/** Names looked at for that in one claim. */
const LOOKS_MAX = 16 * CLAIMED_MAX;
/** Directories claimed in a row without a refusal, after which others are without waiting for changes. */
const CLAIMS_MIN = 2;
const SHY_MS_MIN = 1_000;
const SHY_MS_MAX = 64_000;

export interface ClaimsOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly clock: Clock;
}

/** A directory, and a name in it. */
export type EntryName = readonly [parent: InodeId, name: Uint8Array];

/** To be sent with a request that finds something in the directory. */
export function wishesWithin(directory: Inode | undefined): { readonly wantsFound?: true } {
  return directory !== undefined && isExclusive(directory.lease) ? { wantsFound: true } : {};
}

/** How it went with a directory. */
interface Record {
  /** Changes of its names that were asked for since somebody else changed or took it. */
  changes: number;
  shyUntilMs: number;
  shyMs: number;
  /** Those in it that are claimed next, and how many at once. */
  children: Iterator<InodeId> | null;
  claimed: number;
}

export class Claims {
  readonly #options: ClaimsOptions;
  readonly #records = new WeakMap<Inode, Record>();
  /** Claims in a row that nothing was refused of. */
  #granted = 0;

  constructor(options: ClaimsOptions) {
    this.#options = options;
  }

  /** To be sent with a request that changes names of the directory. */
  wishes(parent: InodeId): { readonly wantsDirectory?: true } {
    const { table, clock } = this.#options;
    const inode = table.get(parent);
    if (inode === undefined || isExclusive(inode.lease)) return {};
    const record = this.#recordOf(inode);
    record.changes++;
    const isWanted = record.changes >= CHANGES_MIN && clock.monotonicMs() >= record.shyUntilMs;
    return isWanted ? { wantsDirectory: true } : {};
  }

  #recordOf(inode: Inode): Record {
    let record = this.#records.get(inode);
    if (record === undefined) {
      record = {
        changes: 0,
        shyUntilMs: -Infinity,
        shyMs: SHY_MS_MIN,
        children: null,
        claimed: CLAIMED_MIN,
      };
      this.#records.set(inode, record);
    }
    return record;
  }

  /** Another session has taken the directory, or changed it, or has something of what is in it. */
  noteTaken(inode: Inode): void {
    const nowMs = this.#options.clock.monotonicMs();
    const record = this.#recordOf(inode);
    const isLongAgo = nowMs > record.shyUntilMs + SHY_MS_MAX;
    record.shyMs = isLongAgo ? SHY_MS_MIN : Math.min(record.shyMs * 2, SHY_MS_MAX);
    record.shyUntilMs = nowMs + record.shyMs;
    record.changes = 0;
    record.claimed = CLAIMED_MIN;
    this.#granted = 0;
  }

  /**
   * Asks for what stands in the way of changing these names here: the directories, what the names lead to, and more that is in
   * them, as who removes or renames one often goes on with the next. Undefined: it is not worth while. What was refused is for the
   * caller to find out. Never rejects.
   */
  claim(
    names: readonly EntryName[],
    interrupt: Interruptible,
  ): Promise<void> | undefined {
    const { table, clock } = this.#options;
    const wanted = new Set<InodeId>();
    const directories = new Set<Inode>();
    for (const [parent, name] of names) {
      const directory = table.get(parent);
      if (directory === undefined || !this.#isClaimable(directory)) return undefined;
      const record = this.#recordOf(directory);
      if (clock.monotonicMs() < record.shyUntilMs) return undefined;
      if (!isExclusive(directory.lease)) {
        if (record.changes < CHANGES_MIN && this.#granted < CLAIMS_MIN) return undefined;
        wanted.add(parent);
      }
      const found = table.get(directory.entry(bytesKey(name)));
      if (found !== undefined && !isExclusive(found.lease)) {
        if (!this.#isClaimable(found)) return undefined;
        wanted.add(found.ino);
      }
      directories.add(directory);
    }
    if (wanted.size === 0) return undefined;
    const needed = [...wanted];
    for (const directory of directories) this.#addChildren(directory, wanted);
    return this.#claim(directories, needed, [...wanted].slice(0, CLAIM_MAX), interrupt);
  }

  /** Asks for directories that nobody else has anything of, as far as it is worth while. Never rejects. */
  claimDirectories(directories: readonly Inode[]): Promise<void> | undefined {
    const nowMs = this.#options.clock.monotonicMs();
    const wanted = new Set(directories).values().filter((directory) =>
      this.#isClaimable(directory) && nowMs >= this.#recordOf(directory).shyUntilMs
    ).toArray();
    if (wanted.length === 0) return undefined;
    const inodes = wanted.map(({ ino }) => ino);
    return this.#claim(wanted, inodes, inodes);
  }

  #isClaimable(inode: Inode): boolean {
    return inode.isFresh && !inode.isUnlinked && inode.yielding === 0 && inode.removing === 0 &&
      inode.accessedAt === null;
  }

  #addChildren(directory: Inode, wanted: Set<InodeId>): void {
    const { table } = this.#options;
    const record = this.#recordOf(directory);
    record.children ??= directory.entries?.values() ?? null;
    let left = record.claimed;
    for (let looks = LOOKS_MAX; looks > 0 && left > 0 && record.children !== null; looks--) {
      const { value: ino, done = false } = record.children.next();
      if (done) record.children = null;
      const inode = ino === undefined ? undefined : table.get(ino);
      if (inode === undefined || isExclusive(inode.lease) || !this.#isClaimable(inode)) continue;
      wanted.add(inode.ino);
      left--;
    }
    record.claimed = Math.min(record.claimed * 2, CLAIMED_MAX);
  }

  async #claim(
    directories: Iterable<Inode>,
    needed: readonly InodeId[],
    inodes: readonly InodeId[],
    interrupt?: Interruptible,
  ): Promise<void> {
    const { session, table } = this.#options;
    const askedAt = table.moment;
    const granted = new Set<InodeId>();
    try {
      const reply = await session.nameserver.claim({ inodes }, interrupt);
      for (const one of reply.inodes) {
        const inode = table.adoptKnown(one, askedAt);
        if (inode !== undefined && isExclusive(inode.lease)) granted.add(inode.ino);
      }
    } catch {
      // Whoever asks for the change itself hears why.
    }
    const isGranted = needed.every((ino) => granted.has(ino)) && granted.size * 2 >= inodes.length;
    if (isGranted) this.#granted++;
    else for (const directory of directories) this.noteTaken(directory);
  }
}
