/**
 * Reads every replica of a volume from its disk once a period and compares it with its checksums, so that bytes that
 * rotted are found while other replicas still have them. What it finds is reported as for any other reader.
 * Invariants:
 * - Its reads are spread over the period, STEP_BYTES at a time, and never faster than `bytesPerSecond`.
 * - Replicas in use are read too, and the disk is asked, not the page cache: what the kernel serves from it, or reads by
 *   itself later, is on the disk as it was written.
 * - A restart goes on where the last run was (scrub.json), so that a pass comes to its end.
 */

import type { Clock } from "../../base/clock.ts";
import { bytesOf } from "../../base/bytes.ts";
import { type Live, readerOf, restUnlessChanged } from "../../base/live.ts";
import { isErrno } from "../../wire/errno.ts";
import type { VolumeId } from "../../wire/ids.ts";
import type { ScrubStatus } from "../../wire/messages/dataserver.ts";
import type { ReplicaEntry } from "./replica_records.ts";
import type { Volume } from "./volume.ts";

export interface ScrubOptions {
  /** One pass over the volume. 0: never. */
  readonly periodMs: Live<number>;
  readonly bytesPerSecond: () => number;
  readonly clock: Clock;
}

/** What a volume's scrubbing shows to Prometheus. */
export interface ScrubFigures extends ScrubStatus {
  readonly volume: VolumeId;
  readonly periodMs: number;
  /** Compared with their checksums since the start. */
  readonly bytes: number;
  /** Replicas that did not match theirs, or could not be read. */
  readonly errors: number;
}

const STEP_BYTES = 1024 * 1024;
/** What a replica costs beside its bytes: files are opened, disks seek. */
const REPLICA_BYTES = 64 * 1024;
const PAUSE_MS_MIN = 20;
const PAUSE_MS_MAX = 60 * 60_000;
/** How far it may fall behind and catch up again. */
/** A change of the period is noticed within this time. */
const LOOK_MS = 30_000;
const BEHIND_MS_MAX = 1_000;
const SAVE_MS = 5 * 60_000;
const PAGE = 64;
const STATE_FILE = "scrub.json";

export class Scrubber {
  readonly #volume: Volume;
  readonly #options: ScrubOptions;
  readonly #periodMs: () => number;
  /** The pass goes on with this block. */
  #from = 0;
  /** What the pass has cost so far, and what it had before `#from`. */
  #done = 0;
  #doneBefore = 0;
  /** End of the last whole pass, seconds since 1970. */
  #lastPass: number | undefined;
  /** Compared since the start, and what was wrong. */
  #bytes = 0;
  #errors = 0;
  #dueMs = 0;
  #savedMs = 0;

  constructor(volume: Volume, options: ScrubOptions) {
    this.#volume = volume;
    this.#options = options;
    this.#periodMs = readerOf(options.periodMs);
  }

  /** Undefined when it is off. */
  figures(): ScrubFigures | undefined {
    const status = this.status();
    const periodMs = this.#periodMs();
    return status &&
      { ...status, volume: this.#volume.id, periodMs, bytes: this.#bytes, errors: this.#errors };
  }

  /** Undefined when it is off. */
  status(): ScrubStatus | undefined {
    if (this.#isOff) return undefined;
    const progress = Math.round(Math.min(1, this.#done / this.#total) * 1000) / 1000;
    return { progress, ...(this.#lastPass === undefined ? {} : { lastPass: this.#lastPass }) };
  }

  /** Scrubs until `signal` aborts. Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    await this.#load();
    this.#dueMs = this.#savedMs = clock.monotonicMs();
    while (!signal.aborted) {
      if (this.#isOff) {
        await this.#rest(Infinity, signal);
        continue;
      }
      let page: readonly ReplicaEntry[] | null = null;
      try {
        // A disk that failed is asked no more than its clients ask.
        if (this.#volume.failed === undefined) page = await this.#volume.records.page(this.#from, PAGE);
      } catch (error) {
        this.#volume.log.warn("scrubbing paused", { path: this.#volume.path, error });
      }
      for (const { block } of page ?? []) {
        await this.#scrubReplica(block, signal);
        if (signal.aborted || this.#isOff) break;
        this.#from = block + 1;
        this.#doneBefore = this.#done;
        if (clock.monotonicMs() - this.#savedMs >= SAVE_MS) await this.#save();
      }
      // What was not noted is read again.
      if (signal.aborted) return;
      if (this.#isOff) {
        this.#done = this.#doneBefore;
        continue;
      }
      if (page !== null && page.length < PAGE) await this.#endPass();
      if (page === null || page.length === 0) {
        await this.#rest(Math.min(PAUSE_MS_MAX, Math.max(PAUSE_MS_MIN, this.#periodMs())), signal);
      }
    }
  }

  async #scrubReplica(block: ReplicaEntry["block"], signal: AbortSignal): Promise<void> {
    await this.#pace(REPLICA_BYTES, signal);
    try {
      for (
        let offset = 0, length = 1;
        offset < length && !signal.aborted && !this.#isOff;
        offset += STEP_BYTES
      ) {
        length = await this.#volume.scrub(block, offset, STEP_BYTES);
        const bytes = Math.max(0, Math.min(STEP_BYTES, length - offset));
        this.#bytes += bytes;
        await this.#pace(bytes, signal);
      }
    } catch (error) {
      if (isErrno(error, "EIO")) this.#errors++;
      // Deleted meanwhile; or corrupt, which is reported.
      if (!isErrno(error, "EIO") && !isErrno(error, "ENOENT") && !isErrno(error, "ESHUTDOWN")) {
        this.#volume.log.warn("replica not scrubbed", { block, error });
      }
    }
  }

  get #isOff(): boolean {
    return this.#periodMs() === 0;
  }

  get #total(): number {
    const { usedBytes, blocks } = this.#volume;
    return Math.max(1, usedBytes + blocks * REPLICA_BYTES);
  }

  /** Waits as long as `bytes` may take. */
  async #pace(bytes: number, signal: AbortSignal): Promise<void> {
    const { bytesPerSecond, clock } = this.#options;
    this.#done += bytes;
    const nowMs = clock.monotonicMs();
    const msPerByte = Math.max(this.#periodMs() / this.#total, 1000 / bytesPerSecond());
    this.#dueMs = Math.max(this.#dueMs, nowMs - BEHIND_MS_MAX) + bytes * msPerByte;
    const waitMs = Math.min(this.#dueMs - nowMs, PAUSE_MS_MAX);
    if (waitMs >= PAUSE_MS_MIN) await this.#rest(waitMs, signal);
  }

  /** Waits for so long, or until the period is another one: from then on it counts. */
  async #rest(ms: number, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const periodMs = this.#periodMs();
    const hasChanged = () => this.#periodMs() !== periodMs;
    if (await restUnlessChanged(clock, ms, LOOK_MS, hasChanged, signal)) this.#dueMs = clock.monotonicMs();
  }

  async #endPass(): Promise<void> {
    this.#from = 0;
    this.#done = this.#doneBefore = 0;
    this.#lastPass = this.#options.clock.now().seconds;
    if (this.#volume.blocks > 0) await this.#save();
  }

  /** A file that is lost or wrong costs a pass from the start. */
  async #load(): Promise<void> {
    try {
      const text = await this.#volume.disk.readText(`${this.#volume.path}/${STATE_FILE}`);
      const { from, done, lastPass } = JSON.parse(text);
      if (Number.isSafeInteger(from) && Number.isFinite(done) && from >= 0 && done >= 0) {
        this.#from = from;
        this.#done = this.#doneBefore = done;
      }
      if (Number.isSafeInteger(lastPass)) this.#lastPass = lastPass;
    } catch (error) {
      this.#volume.log.debug("scrubbing begins anew", { path: this.#volume.path, error });
    }
  }

  async #save(): Promise<void> {
    this.#savedMs = this.#options.clock.monotonicMs();
    if (this.#volume.failed !== undefined) return;
    const state = { from: this.#from, done: this.#doneBefore, lastPass: this.#lastPass };
    try {
      await this.#volume.disk.replaceFile(
        this.#volume.path,
        STATE_FILE,
        bytesOf(`${JSON.stringify(state)}\n`),
      );
    } catch (error) {
      this.#volume.log.warn("how far scrubbing is was not noted", { path: this.#volume.path, error });
    }
  }
}
