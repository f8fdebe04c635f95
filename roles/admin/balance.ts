/**
 * `mfs balance`: moves replicas from fuller volumes to emptier ones, in steps that the nameserver makes one by one. What
 * is planned here is a matter of space only: the nameserver moves a block only where it is as safe afterwards.
 *
 * What volumes say of themselves is some seconds old and counts what is still to be deleted, so what was moved is kept
 * account of here, and looked at anew once nothing is left to plan.
 */

import { FsError } from "../../wire/errno.ts";
import type { BlockId, VolumeId } from "../../wire/ids.ts";
import type { VolumeUsage } from "../../wire/messages/admin.ts";
import { disjoint, meanShare, planMoves, type PlannedMove, unbalanced } from "./balance_plan.ts";
import { type AdminClient, pause, withNameserverPatiently } from "./client.ts";
import { Progress } from "./progress.ts";
import { size } from "./units.ts";

/** A step lasts as long as the copies that it has begun. */
const STEP_TIMEOUT_MS = 10 * 60_000;
const CALL_TIMEOUT_MS = 30_000;
const PAIRS_MAX = 4;
/** After so much of one pair the plan is made again. */
const PAIR_BYTES_MAX = 1024 * 1024 * 1024;
const BUSY_MS = 500;
/** Volumes have said by then what was moved, and have deleted what they gave. */
const SETTLE_MS_MAX = 20_000;
const SETTLE_LOOK_MS = 1_000;
/** What others write meanwhile may be this part of a volume. */
const SETTLED_SHARE = 0.005;

export interface BalanceOptions {
  readonly nameserver: string;
  /** How far off the mean a volume may be: 0 to 1. */
  readonly threshold: number;
  readonly signal: AbortSignal;
}

export interface BalanceResult {
  readonly balanced: boolean;
  readonly moved: number;
  readonly movedBytes: number;
  /** The used part of all volumes together, 0 to 1. */
  readonly mean: number;
  readonly threshold: number;
  readonly volumes: readonly (VolumeUsage & { readonly share: number })[];
}

export async function balance(options: BalanceOptions): Promise<BalanceResult> {
  const balancing = new Balancing(options);
  try {
    return await balancing.run();
  } catch (error) {
    if (!options.signal.aborted) throw error;
    const { moved, movedBytes } = balancing;
    throw new FsError(
      "EINTR",
      `stopped after ${moved} blocks (${size(movedBytes)}); nothing goes on: run it again for the rest`,
      { op: "balance", cause: error },
    );
  } finally {
    balancing.progress.end();
  }
}

class Balancing {
  readonly #options: BalanceOptions;
  readonly progress = new Progress({ label: "balancing", unit: "bytes" });
  /** What will be moved in all, as last planned. */
  #expectedBytes = 0;
  moved = 0;
  movedBytes = 0;
  /** What volumes use, as it will be when they have said it. */
  #usage = new Map<VolumeId, VolumeUsage>();
  /** Where each pair goes on. "end": nothing more can be moved between them. */
  readonly #positions = new Map<string, BlockId | "end">();

  constructor(options: BalanceOptions) {
    this.#options = options;
  }

  async run(): Promise<BalanceResult> {
    const { threshold } = this.#options;
    for (;;) {
      const before = this.moved;
      await this.#settle();
      this.#positions.clear();
      for (;;) {
        const moves = planMoves(
          [...this.#usage.values()],
          threshold,
          (source, target) => this.#positions.get(keyOf(source, target)) === "end",
        );
        if (moves.length === 0) break;
        this.#show(moves);
        await Promise.all(disjoint(moves, PAIRS_MAX).map((move) => this.#move(move)));
      }
      // What could not be moved at all will not be the next time either.
      if (this.moved === before) return this.#result();
    }
  }

  #result(): BalanceResult {
    const { threshold } = this.#options;
    const volumes = [...this.#usage.values()];
    return {
      balanced: unbalanced(volumes, threshold).length === 0,
      moved: this.moved,
      movedBytes: this.movedBytes,
      mean: meanShare(volumes),
      threshold,
      volumes: volumes.map((volume) => ({ ...volume, share: volume.usedBytes / volume.totalBytes })),
    };
  }

  #show(moves: readonly PlannedMove[]): void {
    const planned = moves.reduce((sum, { bytes }) => sum + bytes, 0);
    this.#expectedBytes = this.movedBytes + planned;
    this.progress.update(this.movedBytes, this.#expectedBytes);
  }

  /** Moves what is planned for one pair of volumes, until nothing more can be. */
  async #move({ source, target, bytes, bytesMax }: PlannedMove): Promise<void> {
    const key = keyOf(source, target);
    let left = Math.min(bytes, PAIR_BYTES_MAX);
    let most = bytesMax;
    while (left > 0) {
      const from = this.#positions.get(key) ?? 0 as BlockId;
      if (from === "end") return;
      const { moved, movedBytes, next } = await this.#ask(({ admin }) =>
        admin.moveReplicas({ source, target, from, bytes: left, bytesMax: most }, {
          timeoutMs: STEP_TIMEOUT_MS,
        })
      );
      this.#positions.set(key, next ?? "end");
      left -= movedBytes;
      most -= movedBytes;
      this.moved += moved;
      this.movedBytes += movedBytes;
      this.#account(source, -movedBytes);
      this.#account(target, movedBytes);
      this.#expectedBytes = Math.max(this.#expectedBytes, this.movedBytes);
      this.progress.update(this.movedBytes, this.#expectedBytes);
      if (next === from) await pause(BUSY_MS, this.#options.signal);
    }
  }

  #account(volume: VolumeId, bytes: number): void {
    const usage = this.#usage.get(volume);
    if (usage === undefined) return;
    const { usedBytes, freeBytes } = usage;
    this.#usage.set(volume, { ...usage, usedBytes: usedBytes + bytes, freeBytes: freeBytes - bytes });
  }

  /** Learns what volumes use, when they have noticed what was moved. */
  async #settle(): Promise<void> {
    const expected = this.#usage;
    const untilMs = performance.now() + SETTLE_MS_MAX;
    for (;;) {
      const { volumes } = await this.#ask(({ admin }) =>
        admin.volumeUsage({}, { timeoutMs: CALL_TIMEOUT_MS })
      );
      this.#usage = new Map(volumes.map((usage) => [usage.volume, usage]));
      const isSettled = volumes.every(({ volume, usedBytes, totalBytes }) =>
        Math.abs(usedBytes - (expected.get(volume)?.usedBytes ?? usedBytes)) <= totalBytes * SETTLED_SHARE
      );
      if (isSettled || performance.now() > untilMs) return;
      await pause(SETTLE_LOOK_MS, this.#options.signal);
    }
  }

  #ask<T>(use: (client: AdminClient) => Promise<T>): Promise<T> {
    const { nameserver, signal } = this.#options;
    return withNameserverPatiently(nameserver, "balance", use, signal);
  }
}

function keyOf(source: VolumeId, target: VolumeId): string {
  return `${source} ${target}`;
}

/** What became of it, for people. */
export function describeBalance(result: BalanceResult): string {
  const { balanced, moved, movedBytes, mean, threshold, volumes } = result;
  const percent = (share: number) => `${(share * 100).toFixed(1)}%`;
  const shares = volumes.map(({ share }) => share);
  const range = volumes.length === 0
    ? "there are no live volumes"
    : `volumes are ${percent(Math.min(...shares))} to ${percent(Math.max(...shares))} full, ${
      percent(mean)
    } on average`;
  const done = `${moved} blocks (${size(movedBytes)}) moved; ${range}`;
  if (balanced) return done;
  const off = volumes.filter(({ share }) => Math.abs(share - mean) > threshold).map(({ volume }) => volume);
  return `${done}; volumes ${off.join(", ")} stay more than ${percent(threshold)} off: ` +
    "no block can move there or from there and stay on as many hosts and racks";
}
