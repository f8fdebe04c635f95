/**
 * Blocks for files that are made here and told of later: given by the nameserver in advance, so that what a program writes to
 * a new file can go to dataservers before the nameserver has heard of the file (DeferredMake.block).
 *
 * Invariants:
 * - A block is taken once. It is a file's when the nameserver is told of that; when the session ends it is nobody's (`clear`).
 * - Who makes a file now and then has none: they are asked for while files follow each other, and at most 2 * PORTION_MAX are
 *   here. Those that were placed long ago, or near a machine that fails, go back unused.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { BlockId, NodeId } from "../wire/ids.ts";
import type { Block } from "../wire/messages/inode.ts";
import { RESERVED_BLOCKS_MAX } from "../wire/messages/deferred.ts";
import type { ClusterSession } from "./cluster_session.ts";

const PORTION_MIN = 8;
const PORTION_MAX = RESERVED_BLOCKS_MAX;
/** Files that are so far apart don't follow each other. */
const BURST_MS = 1_000;
/** What was placed before that may lie on machines that are gone, or full, by now. */
const KEPT_MS = 20_000;
const RETRY_MS = 10_000;

interface Portion {
  readonly blocks: Block[];
  readonly untilMs: number;
}

export interface BlockStockOptions {
  readonly session: Pick<ClusterSession, "reserveBlocks">;
  readonly host: string;
  readonly clock: Clock;
  readonly log: Logger;
}

export class BlockStock {
  readonly #options: BlockStockOptions;
  /** The oldest first. */
  #portions: Portion[] = [];
  #unused: BlockId[] = [];
  #wanted = PORTION_MIN;
  #lastMs = -Infinity;
  #askAtMs = -Infinity;
  #isAsking = false;
  /** Counts sessions. */
  #lives = 0;

  constructor(options: BlockStockOptions) {
    this.#options = options;
  }

  /** A block at the start of a new file, without data, none of whose replicas is on one of `avoid`; undefined: there is none now. */
  take(avoid: readonly NodeId[]): Block | undefined {
    const nowMs = this.#options.clock.monotonicMs();
    const isBurst = nowMs - this.#lastMs < BURST_MS;
    if (!isBurst) this.#wanted = PORTION_MIN;
    this.#lastMs = nowMs;
    const block = this.#next(nowMs, avoid);
    const left = this.#portions.reduce((sum, { blocks }) => sum + blocks.length, 0);
    if (isBurst && left < this.#wanted / 2 && !this.#isAsking && nowMs >= this.#askAtMs) void this.#ask();
    return block;
  }

  #next(nowMs: number, avoid: readonly NodeId[]): Block | undefined {
    for (;;) {
      const [portion] = this.#portions;
      if (portion === undefined) return undefined;
      const block = portion.blocks.shift();
      if (block === undefined) this.#portions.shift();
      else if (portion.untilMs > nowMs && !block.replicas.some(({ node }) => avoid.includes(node))) {
        return block;
      } else this.#unused.push(block.id);
    }
  }

  async #ask(): Promise<void> {
    const { session, host, clock, log } = this.#options;
    this.#isAsking = true;
    const life = this.#lives;
    const unused = this.#unused.splice(0);
    try {
      const { blocks } = await session.reserveBlocks({ count: this.#wanted, host, unused });
      if (life !== this.#lives) return;
      if (blocks.length === 0) this.#askAtMs = clock.monotonicMs() + RETRY_MS;
      this.#portions.push({ blocks: [...blocks], untilMs: clock.monotonicMs() + KEPT_MS });
      this.#wanted = Math.min(this.#wanted * 2, PORTION_MAX);
    } catch (error) {
      this.#askAtMs = clock.monotonicMs() + RETRY_MS;
      log.debug("no blocks were given", { error }); // until then each is asked for
    } finally {
      this.#isAsking = false;
    }
  }

  /** The session that they were given to is over. */
  clear(): void {
    this.#lives++;
    this.#portions = [];
    this.#unused = [];
  }
}
