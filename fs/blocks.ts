/**
 * The talk about blocks between a client and the nameserver: fetching the block map, allocating blocks over holes,
 * and taking failed replicas off a block. Shared by reader and writer.
 */

import { FsError, isErrno, isTransportError } from "../wire/errno.ts";
import { decodeError } from "../wire/error_message.ts";
import type { Generation, NodeId, VolumeId } from "../wire/ids.ts";
import type { ChainReply, ChainTarget } from "../wire/messages/dataserver.ts";
import type { Block } from "../wire/messages/inode.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { BlockStock } from "./block_stock.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Dataservers } from "./dataservers.ts";
import type { DeferredChanges } from "./deferred_changes.ts";
import type { OpenFile } from "./inode.ts";
import type { Interruptible } from "./interruptible.ts";
import type { Strays } from "./strays.ts";

/** How far ahead of a needed offset the block map is fetched. */
const FETCH_BYTES = 16 * 1024 ** 3;
const RETRY_MS = 300;
/** A disk may have gigabytes to write down; a server that hangs is noticed by its silence. */
export const SYNC_TIMEOUT_MS = 10 * 60_000;
/** So long a replica may have another generation than the nameserver says: it settles that after a restart. */
const UNSETTLED_MS = 3_000;
/** And so long it may take until it is known what counts, after a restart of machines. */
const SETTLED_MS_MAX = 120_000;
/** Tries of a replica operation that fail for another reason than reachability. */
const ATTEMPTS_MAX = 20;

export interface BlocksOptions {
  readonly session: ClusterSession;
  readonly dataservers: Dataservers;
  readonly host: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly deferred?: DeferredChanges;
  /** Absent: each block is asked for. */
  readonly stock?: BlockStock;
  readonly strays: Strays;
  /** As ClusterSession's. */
  readonly softTimeoutMs?: number;
}

const DROPPED = "block dropped";

/** True when an operation failed because the nameserver no longer has the block. */
export function isDropped(error: unknown): boolean {
  return isErrno(error, "ENOENT") && error.op === DROPPED;
}

/** EIO when the session is over in which what is being done to the file began. */
export function demandTenure(file: OpenFile, tenure: number): void {
  if (file.tenure !== tenure) throw leaseLost();
}

/** What a write comes to that was accepted in a session that is over: others may have changed the file since. */
export function leaseLost(): FsError {
  return new FsError("EIO", "written data could not be stored before its lease ended", { op: "lease" });
}

/** Whoever failed so may get what was sent all the same, and later than what is sent next. */
function mayStillArrive(error: unknown): boolean {
  return isTransportError(error) && !isErrno(error, "ECONNREFUSED");
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

type ChainCall = (
  client: Awaited<ReturnType<Dataservers["client"]>>,
  volume: VolumeId,
  chain: readonly ChainTarget[],
  block: Block,
) => Promise<ChainReply>;

interface ChainOptions {
  /** `OpenFile.tenure` when the operation began. */
  readonly tenure: number;
  /** Nodes one of which should come first in the chain. */
  readonly headOn?: readonly NodeId[];
}

/** A block, or a hole, and where it ends as far as is known. */
export interface MapPiece {
  readonly block: Block | undefined;
  readonly end: number;
}

export class Blocks {
  readonly #options: BlocksOptions;
  /** Nodes that failed a moment ago; new blocks avoid them until the nameserver knows better. */
  readonly #suspects = new Map<NodeId, number>();

  constructor(options: BlocksOptions) {
    this.#options = options;
  }

  /**
   * Makes the file's block map cover [offset, end). By the time that the caller goes on, a truncate beside it may have cleared
   * the map, which then shows holes everywhere: ask whether it `knows` once more, or use `piece`.
   */
  async know(file: OpenFile, offset: number, end: number, interrupt?: Interruptible): Promise<void> {
    while (!file.blocks.knows(offset, end)) {
      const { version } = file.blocks;
      const length = Math.max(end - offset, Math.min(FETCH_BYTES, Number.MAX_SAFE_INTEGER - offset));
      const reply = await this.#options.session.nameserver.blocks(
        { ino: file.ino, offset, length },
        interrupt,
      );
      // What came may be older than an allocation that it crossed, or a lease that was lost.
      if (version !== file.blocks.version) continue;
      file.blocks.learn(offset, reply.end, reply.blocks);
    }
  }

  /** What the block map has at `offset`, in one step; it may have changed when the caller goes on. */
  async piece(file: OpenFile, offset: number, interrupt?: Interruptible): Promise<MapPiece> {
    while (!file.blocks.knows(offset, offset + 1)) await this.know(file, offset, offset + 1, interrupt);
    return { block: file.blocks.at(offset), end: file.blocks.endOf(offset) };
  }

  /**
   * The block that covers `offset`, allocated if there is a hole, near `host`. The map must know `offset`. `tenure` as in
   * `onChain`.
   */
  allocate(file: OpenFile, offset: number, tenure: number, host = this.#options.host): Promise<Block> {
    // One after the other: extending a cut block truncates its replicas, which must not meet another's new data.
    const run = file.allocating.then(() => this.#allocate(file, offset, tenure, host));
    file.allocating = run.catch(() => {});
    return run;
  }

  async #allocate(file: OpenFile, offset: number, tenure: number, host: string): Promise<Block> {
    const known = file.blocks.at(offset) ?? await this.#firstOfNew(file, offset, host);
    if (known !== undefined) return known;
    const extend = await this.#prepareExtension(file, offset, tenure);
    const { session } = this.#options;
    const { block } = await session.flushChange((retry) => {
      demandTenure(file, tenure);
      return session.nameserver.allocateBlock({
        retry,
        ino: file.ino,
        offset,
        host,
        avoid: this.#avoided(),
        ...(extend === undefined ? {} : { extend: extend.id }),
      });
    });
    file.blocks.put(block);
    return block;
  }

  /** A file whose making is still to be told gets its first block by that: one of our stock, or by telling it at once. */
  async #firstOfNew(file: OpenFile, offset: number, host: string): Promise<Block | undefined> {
    const { deferred, stock } = this.#options;
    if (deferred === undefined || file.inode.deferred === 0) return undefined;
    const isUsual = offset === 0 && host === this.#options.host && file.inode.attributes.replication === 0;
    if (stock !== undefined && isUsual) {
      const block = deferred.makeWithBlock(file.ino, () => stock.take(this.#avoided()));
      if (block !== undefined) {
        file.blocks.put(block);
        return block;
      }
    }
    return await deferred.settleWithBlock(file.ino, host) ? file.blocks.at(offset) : undefined;
  }

  /**
   * A block that a truncate cut short, made ready to grow again over `offset`: its replicas lose what lies past the
   * cut, on their disks as well, or a power cut might bring it back. Only under a write lease, when nobody else can grow it
   * meanwhile.
   */
  async #prepareExtension(file: OpenFile, offset: number, tenure: number): Promise<Block | undefined> {
    const before = file.blocks.before(offset);
    if (before === undefined || file.inode.lease !== "write" || !file.hasData(before)) return undefined;
    // Another block starts before `offset`'s own cell ends only if the cut one lies in the same cell; the
    // nameserver checks that. Far away there is no point in asking.
    if (before.start + before.length !== offset && offset - before.start > before.length * 2 + (1 << 20)) {
      return undefined;
    }
    try {
      const cut = await this.cut(file, before, tenure);
      const synced = await this.sync(file, cut, tenure);
      // All machines that had it stopped in between: what was cut off may be back.
      return (synced.chosenAt ?? 0) > cut.generation ? undefined : synced;
    } catch (error) {
      this.#options.log.debug("a cut block is not extended", { block: before.id, error });
      return undefined;
    }
  }

  /** A block's replicas lose what lies past its end. Only under a write lease. */
  cut(file: OpenFile, block: Block, tenure: number): Promise<Block> {
    return this.onChain(
      file,
      block,
      (client, volume, chain, { id, generation, length }) =>
        client.truncateBlock({ block: id, generation, volume, chain, length }),
      { tenure },
    );
  }

  /** What a block's replicas hold is on their disks; gives the block as it is afterwards. */
  sync(file: OpenFile, block: Block, tenure: number): Promise<Block> {
    return this.onChain(
      file,
      block,
      (client, volume, chain, { id, generation }) =>
        client.syncBlock({ block: id, generation, volume, chain }, { timeoutMs: SYNC_TIMEOUT_MS }),
      { tenure },
    );
  }

  #avoided(): NodeId[] {
    const nowMs = this.#options.clock.monotonicMs();
    for (const [node, untilMs] of this.#suspects) {
      if (untilMs < nowMs) this.#suspects.delete(node);
    }
    return [...this.#suspects.keys()];
  }

  /**
   * Runs an operation on all replicas of a block through a chain. Replicas that fail are taken off the block and the
   * rest goes on; returns the block as it is afterwards. Fails with ENOSPC when the volumes are full, `isDropped`
   * when the block is gone, EIO when the disks of all replicas refuse, or when the session is over in which the whole of what
   * is being done began (`tenure`): others may change the file by now.
   */
  async onChain(
    file: OpenFile,
    block: Block,
    call: ChainCall,
    options: ChainOptions,
  ): Promise<Block> {
    const { inode } = file;
    const { strays } = this.#options;
    const stray = { generation: strays.generationOf(block.id) };
    inode.changes++;
    inode.changing++;
    try {
      const used = await this.#onChain(file, block, call, options, stray);
      if (stray.generation !== undefined) strays.settled(block.id, stray.generation);
      return used;
    } catch (error) {
      if (stray.generation !== undefined) strays.note(file.ino, block.id, stray.generation);
      throw error;
    } finally {
      inode.changing--;
    }
  }

  async #onChain(
    file: OpenFile,
    block: Block,
    call: ChainCall,
    { tenure, headOn = [] }: ChainOptions,
    stray: { generation: Generation | undefined },
  ): Promise<Block> {
    const { clock, dataservers, softTimeoutMs, session } = this.#options;
    const startMs = clock.monotonicMs();
    const isLate = () => softTimeoutMs !== undefined && clock.monotonicMs() - startMs > softTimeoutMs;
    let current = block;
    let refetched: Block | undefined;
    let refusals = 0;
    for (let attempt = 1;; attempt++) {
      // Invariant: nothing is sent to a replica after the lease may have been given to another.
      if (!session.isValid) await session.untilValid();
      demandTenure(file, tenure);
      // Invariant: an operation is done when nothing of it can arrive any more. Else it might undo what is done next.
      if (stray.generation === current.generation) {
        const fenced = await this.#fence(file, current).catch((error) => {
          if (!isErrno(error, "ENODATA")) throw error;
          if (++refusals >= ATTEMPTS_MAX) throw new FsError("EIO", error.message, { cause: error });
          return current;
        });
        if (fenced.generation === current.generation) {
          if (isLate()) throw new FsError("EIO", `no replica of block ${current.id} can be reached`);
          await clock.sleep(RETRY_MS);
        }
        current = fenced;
        continue;
      }
      const nearest = dataservers.nearestFirst(current.replicas);
      const preferred = nearest.filter(({ node, alive }) => alive && headOn.includes(node));
      const [head, ...rest] = headOn.length === 0 ? nearest : [...new Set([...preferred, ...nearest])];
      if (head === undefined) throw new FsError("EIO", `block ${current.id} has no replica`);
      const failed: VolumeId[] = [];
      let failure: unknown;
      /** Replicas that have it. */
      let holders: readonly VolumeId[] = [];
      let isSent = false;
      try {
        const client = await dataservers.client(head.address);
        if (!session.isValid || file.tenure !== tenure) continue; // while it was dialled
        const chain = rest.map(({ node, volume, address }) => ({ node, volume, address }));
        isSent = true;
        const reply = await call(client, head.volume, chain, current);
        const [first] = reply.failed;
        if (first === undefined) return current;
        if (reply.failed.some((one) => mayStillArrive(decodeError(one)))) {
          stray.generation = current.generation;
        }
        failure = decodeError(first);
        failed.push(...reply.failed.map(({ volume }) => volume));
        holders = current.replicas.map(({ volume }) => volume).filter((volume) => !failed.includes(volume));
      } catch (error) {
        failure = error;
        if (isSent && mayStillArrive(error)) stray.generation = current.generation;
        const isOutOfDate = isErrno(error, "ESTALE") || isErrno(error, "ENOENT");
        // Out of date: our picture of the block, at first; if that was right, the replica.
        const isUnsettled = isErrno(error, "ESTALE") && clock.monotonicMs() - startMs < UNSETTLED_MS;
        if (!isOutOfDate || (current === refetched && !isUnsettled)) failed.push(head.volume);
      }
      const isReachability = isTransportError(failure);
      const isUnsettled = isErrno(failure, "ESTALE") && clock.monotonicMs() - startMs < SETTLED_MS_MAX;
      if (!isReachability && !isUnsettled) refusals++;
      if (isLate() || refusals >= ATTEMPTS_MAX) {
        throw isErrno(failure, "ENOSPC")
          ? failure
          : new FsError("EIO", messageOf(failure), { cause: failure });
      }
      // A full volume is not a broken replica; when it is the writer's only fault, the writer hears of it.
      if (isErrno(failure, "ENOSPC") && current.replicas.length === 1) throw failure;
      try {
        if (failed.length > 0) {
          current = await this.#takeOff(file, current, failed, messageOf(failure));
          // Another report may have come first, which took off others than this one: then not all that are left have it.
          if (current.replicas.every(({ volume }) => holders.includes(volume))) return current;
        } else {
          const now = await this.refetch(file, current);
          if (now.generation === current.generation) refetched = now;
          current = now;
        }
      } catch (error) {
        if (!isTransportError(error) && !isErrno(error, "EAGAIN") && !isErrno(error, "ENODATA")) throw error;
        // No replica can be reached or used now: wait for one to come back, or for the nameserver to settle it.
      }
      if (attempt > 1 || failed.length === 0) await clock.sleep(RETRY_MS);
    }
  }

  /**
   * Runs an operation on each replica that can be reached, which gives whether the others may be passed over. False when one of
   * them failed, none can be reached, or one of the others may not be passed over: then it is the chain's.
   */
  async onReachable(
    block: Block,
    call: (client: Awaited<ReturnType<Dataservers["client"]>>, volume: VolumeId) => Promise<boolean>,
  ): Promise<boolean> {
    const { dataservers } = this.#options;
    const results = await Promise.allSettled(
      block.replicas.map(async ({ address, volume }) =>
        await call(await dataservers.client(address), volume)
      ),
    );
    const done = results.filter((result) => result.status === "fulfilled");
    if (done.length === results.length) return true;
    return done.length > 0 && done.every(({ value: mayPassOthers }) => mayPassOthers) &&
      results.every((result) => result.status === "fulfilled" || isTransportError(result.reason));
  }

  /**
   * The block's replicas refuse from now on what was sent to them before; those that don't answer are taken off. As it was when
   * none does; ENODATA when all of them are missing.
   */
  async #fence(file: OpenFile, block: Block): Promise<Block> {
    try {
      const fenced = await this.#report(file, block, []);
      this.#options.log.info("replicas got another generation, as what was sent to them may still arrive", {
        ...{ ino: file.ino, block: block.id, generation: fenced.generation },
      });
      return fenced;
    } catch (error) {
      if (isTransportError(error) || isErrno(error, "EAGAIN")) return block;
      throw error;
    }
  }

  #takeOff(file: OpenFile, block: Block, failed: readonly VolumeId[], why: string): Promise<Block> {
    const { log, clock } = this.#options;
    log.warn("replicas failed", { ino: file.ino, block: block.id, volumes: failed, why });
    for (const replica of block.replicas) {
      if (failed.includes(replica.volume)) this.#suspects.set(replica.node, clock.monotonicMs() + 10_000);
    }
    return this.#report(file, block, failed);
  }

  /** All but `failed` of the block's replicas get a new generation, and stay if they do. */
  async #report(file: OpenFile, block: Block, failed: readonly VolumeId[]): Promise<Block> {
    const { session } = this.#options;
    const { version } = file.blocks;
    // Not a tagged change: the generation makes a repetition harmless.
    const reply = await session.nameserver.replicaFailed({
      ino: file.ino,
      start: block.start,
      block: block.id,
      generation: block.generation,
      failed,
      ...(file.hasData(block) ? { hasData: true } : {}),
    });
    return file.blocks.renew(reply.block, version);
  }

  /** The block as the nameserver has it now; ENOENT when it was dropped. */
  async refetch(file: OpenFile, block: Block): Promise<Block> {
    const { session } = this.#options;
    const { version } = file.blocks;
    const { blocks } = await session.nameserver.blocks({ ino: file.ino, offset: block.start, length: 1 });
    const current = blocks[0];
    if (current === undefined || current.id !== block.id) {
      throw new FsError("ENOENT", `block ${block.id} was dropped`, { op: DROPPED });
    }
    return file.blocks.renew(current, version);
  }
}
