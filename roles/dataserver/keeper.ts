/**
 * Keeps a volume's open replicas in bounds: finalizes those that nobody has written to for a while, closes those
 * that nobody uses, opens those that a crash left in state "writing" so that they are finalized too.
 * Invariant: a record says "finalized" only after the data, the crcs and their names were synced.
 */

import { bytesOf } from "../../base/bytes.ts";
import type { Clock } from "../../base/clock.ts";
import { asFsError, FsError } from "../../wire/errno.ts";
import type { BlockId } from "../../wire/ids.ts";
import type { Hold } from "./range_lock.ts";
import { type Replica, ReplicaClosed } from "./replica.ts";
import type { Volume } from "./volume.ts";

export interface KeeperOptions {
  readonly clock: Clock;
  /** A replica without writes for so long is finalized. */
  readonly finalizeIdleMs: number;
  /** Open replicas a volume; more only while they are all in use. */
  readonly openMax: number;
}

const DIFFERENCES_FILE = "differences.json";
const SWEEP_MS = 500;
/** One that somebody wants to read from its file is finalized after so long without writes. */
const REST_MS = 100;
const CLOSE_IDLE_MS = 60_000;
const BATCH_MAX = 256;
const RECOVER_BATCH = 16;
/** Past so many files one syncfs(2) costs less than an fsync each. */
const SYNC_EACH_MAX = 4;
/**
 * Open replicas over `openMax` by this factor are made room for, down to half of it: many at once, because a
 * batch costs one syncfs(2), however large it is, and one by one they would cost an fsync each.
 */
const CROWDED_FACTOR = 1.5;
/** Open replicas over `openMax` by this factor: opening another waits. */
const OPEN_OVERLOAD = 4;
const ROOM_WAIT_MS = 10_000;

interface Prepared {
  readonly replica: Replica;
  readonly version: number;
}

export class Keeper {
  readonly #volume: Volume;
  readonly #options: KeeperOptions;
  #left: BlockId[] = [];
  /** Invariant: replicas are finalized by one at a time, as each writes the crc files anew. */
  #sweeping: Promise<void> | null = null;
  #isEnding = false;

  constructor(volume: Volume, options: KeeperOptions) {
    this.#volume = volume;
    this.#options = options;
    volume.makeRoom = () => this.#makeRoom();
    volume.settle = (replica) => this.#settle(replica);
  }

  /** Replicas of a crashed process that were not looked at yet. */
  get leftCount(): number {
    return this.#left.length;
  }

  /** Remembers what a crash left. Once, before `run`. */
  async load(): Promise<void> {
    const { records, differences } = this.#volume;
    this.#left = [...await records.writing()];
    const nowMs = this.#options.clock.monotonicMs();
    for (const block of await this.#storedDifferences()) differences.note(block, nowMs);
    for (const block of this.#left) {
      const record = await records.get(block);
      // A write may have got here, and no further.
      if (record !== undefined && record.isDoubtful !== true) {
        differences.note(block, nowMs);
      }
    }
  }

  async #storedDifferences(): Promise<readonly BlockId[]> {
    const { disk, path, log } = this.#volume;
    const name = `${path}/${DIFFERENCES_FILE}`;
    let stored: unknown;
    try {
      stored = JSON.parse(await disk.readText(name) || "[]");
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) log.warn("file not read", { name, error });
    }
    return Array.isArray(stored) ? stored.filter((one) => Number.isSafeInteger(one)) : [];
  }

  /** What is finalized now has no other mark. One that is found later costs a comparison. */
  async #storeDifferences(): Promise<void> {
    const { disk, path, differences } = this.#volume;
    if (differences.blocks.length === 0) return await disk.remove(`${path}/${DIFFERENCES_FILE}`);
    await disk.replaceFile(path, DIFFERENCES_FILE, bytesOf(JSON.stringify(differences.blocks)));
  }

  /** Sweeps until `signal` aborts. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#options.clock.sleep(SWEEP_MS, signal);
      if (signal.aborted) break;
      await this.sweep();
    }
  }

  /** One round; shared when one runs already. Never rejects. */
  sweep(): Promise<void> {
    return this.#sweeping ?? this.#alone(() => this.#sweepOnce());
  }

  #alone(work: () => Promise<void>): Promise<void> {
    return this.#sweeping = work().catch((error) => {
      this.#volume.log.error("finalizing failed", { volume: this.#volume.id, error });
    }).finally(() => this.#sweeping = null);
  }

  /** As `Volume.settle`. */
  async #settle(replica: Replica): Promise<void> {
    const { clock } = this.#options;
    const { lastChangeMs } = replica;
    const restMs = lastChangeMs + REST_MS - clock.monotonicMs();
    if (restMs > 0) await clock.sleep(restMs);
    while (this.#sweeping !== null) await this.#sweeping;
    // Not by the clock once more: a timer may be early by a fraction of a millisecond.
    const isAtRest = replica.lastChangeMs === lastChangeMs;
    const mayBe = !this.#isEnding && this.#volume.failed === undefined && !replica.isClosed;
    if (!isAtRest || !mayBe || !this.#isFinalizable(replica)) return;
    await this.#alone(async () => void await this.#finalize([replica]));
  }

  /** Finalizes everything that is open, idle or not; for a stop. Rejects with the first failure. */
  async finalizeAll(): Promise<void> {
    this.#isEnding = true;
    await this.#sweeping;
    if (this.#volume.mayLack) return; // doubtful at the next start
    await this.#storeDifferences();
    for (;;) {
      const writing = [...this.#volume.open.values()].filter((replica) => this.#isWhole(replica));
      if (writing.length === 0) return;
      if (await this.#finalize(writing.slice(0, BATCH_MAX)) === 0) return; // in use; recovered at the next start
    }
  }

  async #sweepOnce(): Promise<void> {
    const { open } = this.#volume;
    await this.#recoverSome();
    if (this.#volume.failed === undefined) {
      const idleMs = this.#isCrowded ? 0 : this.#options.finalizeIdleMs;
      const before = this.#options.clock.monotonicMs() - idleMs;
      const idle = [...open.values()]
        .filter((replica) => this.#isFinalizable(replica) && replica.lastChangeMs <= before)
        .sort((a, b) => a.lastChangeMs - b.lastChangeMs);
      if (idle.length > 0) await this.#finalize(idle.slice(0, BATCH_MAX));
    }
    this.#closeSome();
  }

  get #isCrowded(): boolean {
    return this.#volume.open.size >= this.#options.openMax * CROWDED_FACTOR;
  }

  #isFinalizable(replica: Replica): boolean {
    return this.#isWhole(replica) && !this.#volume.differences.has(replica.block);
  }

  #isWhole(replica: Replica): boolean {
    return replica.state === "writing" && !replica.isDoubtful &&
      !this.#volume.corruptReplicas.has(replica.block);
  }

  async #recoverSome(): Promise<void> {
    const count = Math.min(RECOVER_BATCH, this.#left.length, this.#options.openMax - this.#volume.open.size);
    for (let i = 0; i < count && this.#volume.open.size < this.#options.openMax; i++) {
      const block = this.#left.pop()!;
      try {
        await this.#volume.recover(block);
      } catch (error) {
        // Deleted meanwhile, or corrupt, which was reported.
        this.#volume.log.debug("replica not recovered", { block, error });
      }
    }
  }

  /** Closes the longest unused until the table is in bounds; only finalized ones may be closed. */
  #closeSome(): void {
    const { open } = this.#volume;
    const { openMax } = this.#options;
    const excess = open.size > openMax ? open.size - Math.ceil(openMax / 2) : 0;
    const longAgo = this.#options.clock.monotonicMs() - CLOSE_IDLE_MS;
    const candidates = [...open.values()]
      .filter((replica) => replica.state === "finalized" && (excess > 0 || replica.lastUseMs < longAgo))
      .sort((a, b) => a.lastUseMs - b.lastUseMs);
    let toClose = excess;
    for (const replica of candidates) {
      if (toClose <= 0 && replica.lastUseMs >= longAgo) break;
      const hold = replica.tryHoldAll();
      if (hold === null) continue;
      replica.close();
      open.delete(replica.block);
      replica.lock.release(hold);
      toClose--;
    }
  }

  #makeRoom(): Promise<void> | undefined {
    const { open } = this.#volume;
    if (!this.#isCrowded) return undefined;
    if (open.size < this.#options.openMax * OPEN_OVERLOAD) {
      void this.sweep(); // never rejects; this one need not wait for it
      return undefined;
    }
    return this.#waitForRoom();
  }

  async #waitForRoom(): Promise<void> {
    const deadline = this.#options.clock.monotonicMs() + ROOM_WAIT_MS;
    while (this.#volume.open.size >= this.#options.openMax * OPEN_OVERLOAD) {
      if (this.#options.clock.monotonicMs() > deadline) {
        throw new FsError("ENFILE", `too many replicas are open on volume ${this.#volume.path}`);
      }
      await this.sweep();
      await this.#options.clock.sleep(1);
    }
  }

  /** Finalizes those that stay unchanged meanwhile; gives how many. */
  async #finalize(replicas: readonly Replica[]): Promise<number> {
    const prepared: Prepared[] = [];
    for (const replica of replicas) {
      try {
        prepared.push({ replica, version: await replica.storeCrcs() });
      } catch (error) {
        if (!this.#isExcused(replica, error)) throw this.#volume.writeFailed(asFsError(error, "finalize"));
      }
    }
    const synced = await this.#syncAll(prepared);
    const held: { replica: Replica; hold: Hold }[] = [];
    for (const { replica, version } of synced) {
      const hold = replica.tryHoldAll();
      if (hold === null) continue;
      if (replica.version === version) held.push({ replica, hold });
      else replica.lock.release(hold);
    }
    try {
      if (held.length === 0) return 0;
      const entries = held.map(({ replica }) => ({
        block: replica.block,
        record: { ...replica.record, state: "finalized" as const },
      }));
      await this.#volume.records.put(entries, true);
      for (const { replica } of held) replica.becomeFinalized();
      return held.length;
    } catch (error) {
      throw this.#volume.writeFailed(asFsError(error, "finalize"));
    } finally {
      for (const { replica, hold } of held) replica.lock.release(hold);
    }
  }

  async #syncAll(prepared: readonly Prepared[]): Promise<readonly Prepared[]> {
    if (prepared.length > SYNC_EACH_MAX) {
      try {
        await this.#volume.disk.syncAll(this.#volume.path);
      } catch (error) {
        throw this.#volume.writeFailed(asFsError(error, "finalize"));
      }
      return prepared;
    }
    const synced: Prepared[] = [];
    for (const item of prepared) {
      try {
        await item.replica.syncFiles();
        synced.push(item);
      } catch (error) {
        if (!this.#isExcused(item.replica, error)) {
          throw this.#volume.writeFailed(asFsError(error, "finalize"));
        }
      }
    }
    return synced;
  }

  /** Deleted meanwhile, or its bytes can't be read, which was reported. */
  #isExcused(replica: Replica, error: unknown): boolean {
    return error instanceof ReplicaClosed || replica.isClosed ||
      this.#volume.corruptReplicas.has(replica.block);
  }
}
