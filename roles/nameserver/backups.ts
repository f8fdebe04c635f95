/**
 * Backups that administrators read from a running nameserver, page by page.
 * Invariant: bounded; BACKUPS_MAX at a time, and none is held (with the files that LevelDB keeps for it) longer than
 * somebody reads it.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { VERSION } from "../../base/version.ts";
import { FsError } from "../../wire/errno.ts";
import type { ADMIN } from "../../wire/messages/admin.ts";
import type { BackupOpenReply, BackupReadReply, BackupReadRequest } from "../../wire/messages/backup.ts";
import type { Handlers, Peer } from "../../wire/service.ts";
import { type BackupHead, encodeBackup } from "./backup_file.ts";
import type { Journal, JournalSnapshot } from "./journal.ts";
import { LAYOUT_VERSION } from "./layout.ts";
import type { Namespace } from "./namespace.ts";

const BACKUPS_MAX = 4;
const IDLE_MS = 60_000;
const LIFE_MS_MAX = 6 * 60 * 60_000;
const WATCH_MS = 5_000;

type BackupHandlers = Pick<Handlers<typeof ADMIN>, "backupOpen" | "backupRead" | "backupClose">;

interface Held {
  readonly peer: Peer;
  readonly snapshot: JournalSnapshot;
  readonly pieces: AsyncGenerator<Uint8Array>;
  readonly openedMs: number;
  usedMs: number;
  page: number;
  isReading: boolean;
}

export interface BackupsOptions {
  readonly clusterId: string;
  readonly namespace: Namespace;
  readonly clock: Clock;
  readonly log: Logger;
}

export class Backups {
  readonly #options: BackupsOptions;
  readonly #held = new Map<number, Held>();
  #last = 0;

  constructor(options: BackupsOptions) {
    this.#options = options;
  }

  readonly handlers: BackupHandlers = {
    backupOpen: (_request, { peer }) => this.#open(peer),
    backupRead: (request) => this.#read(request),
    backupClose: async ({ backup }) => {
      await this.#close(backup);
      return { ok: true };
    },
  };

  /** Lets go what nobody reads any more, until `signal` aborts, and then all. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    while (!signal.aborted) {
      await clock.sleep(WATCH_MS, signal);
      const nowMs = clock.monotonicMs();
      for (const [backup, held] of this.#held) {
        if (nowMs - held.usedMs < IDLE_MS && nowMs - held.openedMs < LIFE_MS_MAX) continue;
        if (!signal.aborted) log.warn("a backup was given up: nobody reads it, or too slowly", { backup });
        await this.#close(backup);
      }
    }
    for (const backup of this.#held.keys()) await this.#close(backup);
  }

  #open(peer: Peer): BackupOpenReply {
    const { clusterId, namespace, clock } = this.#options;
    if (this.#held.size >= BACKUPS_MAX) {
      throw new FsError("EBUSY", `${BACKUPS_MAX} backups are being read already: try again later`, {
        op: "backup",
      });
    }
    const backup = ++this.#last;
    const head = headOf(clusterId, clock);
    const snapshot = namespace.journal.snapshot();
    const nowMs = clock.monotonicMs();
    const pieces = encodeBackup(snapshot, head);
    this.#held.set(backup, {
      ...{ peer, snapshot, pieces, openedMs: nowMs, usedMs: nowMs, page: 0, isReading: false },
    });
    void peer.closed.then(() => this.#close(backup));
    return { backup, clusterId, timeMs: head.timeMs, inodes: namespace.totals.get("inodes") };
  }

  async #read({ backup, page }: BackupReadRequest): Promise<BackupReadReply> {
    const held = this.#held.get(backup);
    if (held === undefined) {
      throw new FsError("ESTALE", "the backup was given up: begin again", { op: "backup" });
    }
    if (held.isReading || page !== held.page) throw new FsError("EINVAL", `page ${page} is not the next one`);
    held.isReading = true;
    try {
      const { value, done } = await held.pieces.next();
      held.page++;
      held.usedMs = this.#options.clock.monotonicMs();
      if (done !== true) return { body: value, isLast: false };
    } finally {
      held.isReading = false;
      if (!this.#held.has(backup)) await held.snapshot.close();
    }
    await this.#close(backup);
    return { body: new Uint8Array(0), isLast: true };
  }

  async #close(backup: number): Promise<void> {
    const held = this.#held.get(backup);
    if (held === undefined) return;
    this.#held.delete(backup);
    // Who is reading closes it then.
    if (!held.isReading) await held.snapshot.close();
  }
}

/** What a backup that is begun now says of itself. */
export function headOf(clusterId: string, clock: Clock): BackupHead {
  const { seconds, nanoseconds } = clock.now();
  const timeMs = seconds * 1000 + Math.floor(nanoseconds / 1e6);
  return { clusterId, layout: LAYOUT_VERSION, timeMs, program: VERSION };
}

/** All of the namespace as it is now, as a backup's bytes. */
export async function* backupOf(
  journal: Journal,
  clusterId: string,
  clock: Clock,
): AsyncGenerator<Uint8Array> {
  const snapshot = journal.snapshot();
  try {
    yield* encodeBackup(snapshot, headOf(clusterId, clock));
  } finally {
    await snapshot.close();
  }
}
