/**
 * Backups that the nameserver makes by itself: one file each, named by its time, in a directory that should lie on
 * another disk. An old one is removed only when there is a newer whole one, and only if it is this cluster's.
 */

import type { Clock } from "../../base/clock.ts";
import { restUnlessChanged } from "../../base/live.ts";
import { saveFile } from "../../base/durable_files.ts";
import type { Logger } from "../../base/log.ts";
import type { BackupStatus } from "../../wire/messages/nameserver.ts";
import { backupOf } from "./backups.ts";
import type { Journal } from "./journal.ts";

/** A change of the settings is noticed within this time. */
const LOOK_MS = 2_000;
/** A failed one is tried again after so long at most. */
const RETRY_MS_MAX = 5 * 60_000;

export interface AutoBackupSettings {
  /** Made when missing. */
  readonly dir: string;
  readonly everyMs: number;
  readonly keep: number;
}

export interface AutoBackupOptions {
  /** Asked each time; undefined: none are made. */
  readonly settings: () => AutoBackupSettings | undefined;
  readonly clusterId: string;
  readonly journal: Journal;
  readonly clock: Clock;
  readonly log: Logger;
}

export class AutoBackup {
  readonly #options: AutoBackupOptions;
  /** Its time is in its name. */
  #last: string | undefined;
  #error: string | undefined;

  constructor(options: AutoBackupOptions) {
    this.#options = options;
  }

  /** Undefined: none are made. */
  status(): BackupStatus | undefined {
    const settings = this.#options.settings();
    if (settings === undefined) return undefined;
    const { dir, everyMs } = settings;
    const last = this.#last;
    return {
      dir,
      everySeconds: everyMs / 1000,
      ...(last === undefined
        ? {}
        : { lastFile: last, lastSecondsAgo: Math.max(0, Math.round((this.#nowMs() - timeOf(last)) / 1000)) }),
      ...(this.#error === undefined ? {} : { error: this.#error }),
    };
  }

  /** Makes one whenever the last is so old, until `signal` aborts: then also in the middle of one. */
  async run(signal: AbortSignal): Promise<void> {
    const { log } = this.#options;
    while (!signal.aborted) {
      const settings = this.#options.settings();
      if (settings === undefined) {
        await this.#rest(Infinity, settings, signal);
        continue;
      }
      const { dir, everyMs } = settings;
      let waitMs: number;
      try {
        this.#last = (await this.#names(dir)).at(-1);
        const ageMs = this.#last === undefined ? Infinity : this.#nowMs() - timeOf(this.#last);
        // A clock that was set back must not put backups off.
        if (ageMs >= everyMs || ageMs < 0) await this.#make(settings, signal);
        this.#error = undefined;
        waitMs = Math.max(0, everyMs - (this.#last === undefined ? 0 : this.#nowMs() - timeOf(this.#last)));
      } catch (error) {
        if (signal.aborted) return;
        this.#error = error instanceof Error ? error.message : String(error);
        log.error("no backup could be made", { dir, error });
        waitMs = Math.min(everyMs, RETRY_MS_MAX);
      }
      await this.#rest(Math.min(waitMs, everyMs), settings, signal);
    }
  }

  /** Waits for so long, or until the settings are others. */
  async #rest(ms: number, before: AutoBackupSettings | undefined, signal: AbortSignal): Promise<void> {
    const { clock, settings } = this.#options;
    await restUnlessChanged(clock, ms, LOOK_MS, () => !isSame(before, settings()), signal);
  }

  async #make({ dir, keep }: AutoBackupSettings, signal: AbortSignal): Promise<void> {
    const { journal, clusterId, clock, log } = this.#options;
    const name = `${this.#prefix}${
      new Date(this.#nowMs()).toISOString().replaceAll(/[-:]|\.\d+/g, "")
    }.backup`;
    const startMs = clock.monotonicMs();
    const pieces = gently(backupOf(journal, clusterId, clock), clock, signal);
    const bytes = await saveFile(`${dir}/${name}`, pieces, { overwrite: true });
    this.#last = name;
    log.info("backup made", { file: `${dir}/${name}`, bytes, ms: Math.round(clock.monotonicMs() - startMs) });
    const names = await this.#names(dir);
    for (const old of names.slice(0, Math.max(0, names.length - keep))) await Deno.remove(`${dir}/${old}`);
  }

  /** Backups of this cluster, the oldest first; what an interrupted one left is removed. */
  async #names(dir: string): Promise<string[]> {
    await Deno.mkdir(dir, { recursive: true });
    const names: string[] = [];
    for await (const { name } of Deno.readDir(dir)) {
      if (!name.startsWith(this.#prefix)) continue;
      if (/T\d{6}Z\.backup$/.test(name)) names.push(name);
      if (name.endsWith(".backup.partial")) await Deno.remove(`${dir}/${name}`);
    }
    return names.sort();
  }

  get #prefix(): string {
    return `mfs-${this.#options.clusterId.slice(0, 8)}-`;
  }

  /** Milliseconds since 1970. */
  #nowMs(): number {
    const { seconds, nanoseconds } = this.#options.clock.now();
    return seconds * 1000 + Math.floor(nanoseconds / 1e6);
  }
}

function isSame(a: AutoBackupSettings | undefined, b: AutoBackupSettings | undefined): boolean {
  return a?.dir === b?.dir && a?.everyMs === b?.everyMs && a?.keep === b?.keep;
}

/** As much rest as work, for those who are being served meanwhile. */
async function* gently(
  pieces: AsyncGenerator<Uint8Array>,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  let startMs = clock.monotonicMs();
  for await (const piece of pieces) {
    yield piece;
    await clock.sleep(clock.monotonicMs() - startMs, signal);
    if (signal.aborted) throw new Error("the nameserver stops");
    startMs = clock.monotonicMs();
  }
}

/** Milliseconds since 1970, from ...-20261125T193000Z.backup. */
function timeOf(name: string): number {
  const [, date, hours, minutes, seconds] = /-(\d{8})T(\d\d)(\d\d)(\d\d)Z\.backup$/.exec(name)!;
  const day = `${date!.slice(0, 4)}-${date!.slice(4, 6)}-${date!.slice(6)}`;
  return Date.parse(`${day}T${hours}:${minutes}:${seconds}Z`);
}
