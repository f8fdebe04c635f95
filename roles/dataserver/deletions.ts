/**
 * Deletes replicas in the background, in the order asked, and reports those that are gone to the nameserver.
 * Invariant: bounded; past PENDING_MAX a push is refused and the nameserver asks again. A report that could not
 * be sent is kept (up to the same bound) and sent after the next registration.
 */

import type { Logger } from "../../base/log.ts";
import { FsError } from "../../wire/errno.ts";
import type { BlockId, Generation, VolumeId } from "../../wire/ids.ts";
import type { Volume } from "./volume.ts";

const PENDING_MAX = 200_000;
const BATCH = 500;
const PARALLEL = 8;

interface Work {
  readonly volume: Volume;
  /** Tell the nameserver when it is done. */
  readonly report: boolean;
  readonly doomed: readonly DoomedReplica[];
}

export interface DoomedReplica {
  readonly block: BlockId;
  /** It stays when its generation is higher: it has been made anew. Undefined: whatever it is. */
  readonly upTo: Generation | undefined;
}

export type ReportDeleted = (volume: VolumeId, blocks: readonly BlockId[]) => Promise<void>;

export class Deletions {
  readonly #report: ReportDeleted;
  readonly #log: Logger;
  #queue: Work[] = [];
  #pending = 0;
  #unreported: { readonly volume: VolumeId; readonly blocks: readonly BlockId[] }[] = [];
  #running: Promise<void> | null = null;
  #stopped = false;

  constructor(report: ReportDeleted, log: Logger) {
    this.#report = report;
    this.#log = log;
  }

  add(volume: Volume, doomed: readonly DoomedReplica[], options: { readonly report: boolean }): void {
    if (this.#pending + doomed.length > PENDING_MAX) {
      throw new FsError("EBUSY", `${this.#pending} deletions are pending: ask again`, { op: "deleteBlocks" });
    }
    this.#pending += doomed.length;
    for (let i = 0; i < doomed.length; i += BATCH) {
      this.#queue.push({ volume, report: options.report, doomed: doomed.slice(i, i + BATCH) });
    }
    this.#running ??= this.#run();
  }

  /** Sends what an earlier connection did not take. Never rejects. */
  async resend(): Promise<void> {
    const old = this.#unreported;
    this.#unreported = [];
    for (const { volume, blocks } of old) await this.#tell(volume, blocks);
  }

  /** Ends after the batch in progress; the nameserver asks for the rest again. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    for (let work = this.#queue.shift(); work !== undefined && !this.#stopped; work = this.#queue.shift()) {
      const gone: BlockId[] = [];
      for (let i = 0; i < work.doomed.length; i += PARALLEL) {
        await Promise.all(
          work.doomed.slice(i, i + PARALLEL).map(async ({ block, upTo }) => {
            try {
              await work!.volume.delete(block, upTo);
              gone.push(block);
            } catch (error) {
              this.#log.warn("replica not deleted", { block, error });
            }
          }),
        );
      }
      this.#pending -= work.doomed.length;
      if (work.report && gone.length > 0) await this.#tell(work.volume.id, gone);
    }
    this.#running = null; // in the step in which nothing is left: what is added in the next begins anew
  }

  async #tell(volume: VolumeId, blocks: readonly BlockId[]): Promise<void> {
    try {
      await this.#report(volume, blocks);
    } catch (error) {
      this.#log.debug("deletions not reported", { volume, error });
      if (this.#unreported.length < PENDING_MAX / BATCH) this.#unreported.push({ volume, blocks });
    }
  }
}
