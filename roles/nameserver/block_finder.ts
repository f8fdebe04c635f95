/**
 * Finds blocks that need repair: walks over the replicas of volumes that are lost or being emptied, and over all blocks
 * after a start, whenever volumes have come, or have room again that was missed, or the layout of the cluster has changed,
 * and once an hour whatever was heard.
 * What is to be done about a block is not decided here: one may be found twice, or for nothing.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { asBlockId, asInodeId, type VolumeId } from "../../wire/ids.ts";
import { fieldRange, getU64, type Key, TABLE_EXTENTS, TABLE_REPLICA, tableRange } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import type { Placement } from "./placement.ts";
import { decodeExtents, decodeReplica, type Extent, type InodeRecord } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Task } from "./repair_queue.ts";

/** Records at once, and how often at each look. */
const PAGE = 100;
const ROUNDS = 10;
const WALK_MS = 60 * 60_000;
/** And that often at most as there is room again: a volume that is nearly full may have some and none in turn. */
const ROOM_WALK_MS = 10_000;
/** A volume that is being emptied is looked at again so long after, and so much longer for each page that it has. */
const DRAIN_MS = 2_000;
const DRAIN_PAGE_MS = 50;

export interface FinderOptions {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly clock: Clock;
  readonly log: Logger;
  readonly isSuspect: (inode: InodeRecord | undefined, extent: Extent, placement: Placement) => boolean;
  readonly found: (task: Task) => void;
  /** Walks wait while it is true. */
  readonly isFull: () => boolean;
}

export class BlockFinder {
  readonly #options: FinderOptions;
  /** Walks over the replicas of one volume: the next block, and how many pages were looked at. */
  readonly #walks = new Map<VolumeId, { next: number; pages: number }>();
  /** When volumes that are being emptied are looked at again. */
  readonly #drains = new Map<VolumeId, number>();
  /** The walk over all blocks: the next key. Null: none is under way. */
  #walk: Key | null = null;
  #walkedMs: number;
  #layoutVersion = -1;
  /** And by which connection (Registry.connection). */
  #alive: ReadonlyMap<VolumeId, unknown> = new Map();
  /** Those that have room. */
  #places: ReadonlySet<VolumeId> = new Set();
  /** Since the last walk began: a block found no place for another replica; a volume that was full has room again. */
  #lacksPlace = false;
  #hasNewRoom = false;
  #lost: ReadonlySet<VolumeId> = new Set();

  constructor(options: FinderOptions) {
    this.#options = options;
    this.#walkedMs = options.clock.monotonicMs();
  }

  /** Blocks are still being looked for. */
  get isWalking(): boolean {
    return this.#walk !== null || this.#walks.size > 0;
  }

  /** All blocks are looked at once more. */
  lookAgain(): void {
    this.#walkedMs = -Infinity;
  }

  /** A block found no place for a replica. */
  noteNoPlace(): void {
    this.#lacksPlace = true;
  }

  /** A volume has gone since the last look at all of them. */
  get isAwayUnseen(): boolean {
    return [...this.#alive.keys()].some((volume) => !this.#options.registry.isAlive(volume));
  }

  /** Begins walks as volumes have come and gone. True when there may be places that were not there before. */
  watch(): boolean {
    const { registry, clock, log } = this.#options;
    const nowMs = clock.monotonicMs();
    const alive = new Map(
      registry.volumes.filter((volume) => registry.isAlive(volume))
        .map((volume) => [volume, registry.connection(volume)]),
    );
    const lost = new Set(registry.volumes.filter((volume) => registry.isLost(volume)));
    const draining = registry.volumes.filter((volume) => registry.isDraining(volume));
    for (const volume of lost) {
      if (this.#lost.has(volume)) continue;
      log.warn("volume is lost: its blocks get other replicas", { volume });
      this.#walks.set(volume, { next: 0, pages: 0 });
    }
    for (const volume of draining) {
      const isDue = nowMs >= (this.#drains.get(volume) ?? -Infinity);
      if (isDue && !this.#walks.has(volume)) this.#walks.set(volume, { next: 0, pages: 0 });
    }
    for (const volume of this.#walks.keys()) {
      if (!lost.has(volume) && !draining.includes(volume)) this.#walks.delete(volume); // it is back
    }
    for (const volume of this.#drains.keys()) {
      if (!draining.includes(volume)) this.#drains.delete(volume);
    }
    const hasCome = [...alive].some(([volume, connection]) => this.#alive.get(volume) !== connection);
    const isNewLayout = this.#layoutVersion !== registry.layoutVersion;
    const places = new Set([...alive.keys()].filter((volume) => registry.isPlace(volume)));
    this.#hasNewRoom ||= [...places].some((volume) => !this.#places.has(volume));
    const isRoomDue = this.#hasNewRoom && this.#lacksPlace && this.#walk === null &&
      nowMs - this.#walkedMs > ROOM_WALK_MS;
    if (hasCome || isNewLayout || isRoomDue || nowMs - this.#walkedMs > WALK_MS) {
      this.#walkedMs = nowMs;
      this.#walk = tableRange(TABLE_EXTENTS)[0];
      this.#lacksPlace = this.#hasNewRoom = false;
    }
    this.#alive = alive;
    this.#places = places;
    this.#lost = lost;
    this.#layoutVersion = registry.layoutVersion;
    return hasCome || isNewLayout;
  }

  /** A few pages of each walk that is under way; others are served after each. */
  async walkOn(): Promise<void> {
    const { isFull, clock } = this.#options;
    for (let round = 0; round < ROUNDS && this.isWalking; round++) {
      for (const volume of this.#walks.keys()) {
        if (isFull()) return;
        await this.#walkVolume(volume);
      }
      if (isFull()) return;
      await this.#walkAll();
      await clock.sleep(0);
    }
  }

  async #walkVolume(volume: VolumeId): Promise<void> {
    const { namespace, registry, clock, found } = this.#options;
    const walk = this.#walks.get(volume)!;
    const range = fieldRange(TABLE_REPLICA, volume, walk.next, Number.MAX_SAFE_INTEGER + 1);
    const page = await namespace.journal.scan(range, PAGE);
    for (const [key, value] of page) found({ ...decodeReplica(value), block: asBlockId(getU64(key, 9)) });
    walk.pages++;
    const last = page.at(-1);
    if (last !== undefined && page.length === PAGE) {
      walk.next = getU64(last[0], 9) + 1;
      return;
    }
    this.#walks.delete(volume);
    if (!registry.isDraining(volume)) return;
    this.#drains.set(volume, clock.monotonicMs() + DRAIN_MS + walk.pages * DRAIN_PAGE_MS);
  }

  async #walkAll(): Promise<void> {
    const { namespace, registry, isSuspect, found } = this.#options;
    if (this.#walk === null) return;
    const [, to] = tableRange(TABLE_EXTENTS);
    const page = await namespace.journal.scan([this.#walk, to], PAGE);
    const tx = namespace.begin();
    const placement = registry.placement();
    for (const [key, value] of page) {
      const ino = asInodeId(getU64(key, 1));
      for (const extent of decodeExtents(value)) {
        if (isSuspect(tx.findInode(ino), extent, placement)) {
          found({ ino, start: extent.start, block: extent.block });
        }
      }
    }
    const last = page.at(-1)?.[0];
    if (last === undefined || page.length < PAGE) this.#walk = null;
    else {
      this.#walk = new Uint8Array(last.length + 1);
      this.#walk.set(last);
    }
  }
}
