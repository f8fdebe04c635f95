/**
 * What `mfs status` shows. Replica health comes from a walk over all block maps, so it is kept for a few seconds and
 * never made twice at once.
 */

import type { Clock } from "../../base/clock.ts";
import type { BackupStatus, StatusReply } from "../../wire/messages/nameserver.ts";
import type { Leaseserver } from "../leaseserver/leaseserver.ts";
import { asInodeId } from "../../wire/ids.ts";
import { holdsNothing } from "./node_admin.ts";
import { getU64, type Key, TABLE_DELETION, TABLE_EXTENTS, tableRange } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import { decodeExtents } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Repair } from "./repair.ts";

const HEALTH_TTL_MS = 2_000;
/** So many times as long as counting took it rests. */
const HEALTH_REST = 2;
/** So long new figures are waited for when there are older ones. */
const HEALTH_WAIT_MS = 1_000;
const PAGE = 250;

interface Health {
  readonly underReplicated: number;
  readonly missing: number;
  readonly misplaced: number;
  readonly pendingDeletions: number;
}

export interface StatusOptions {
  readonly backup?: () => BackupStatus | undefined;
  readonly clusterId: string;
  readonly version: string;
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly leaseserver: Leaseserver;
  readonly repair: Repair;
  readonly clock: Clock;
  /** Replicas that a block should have, unless its file says otherwise. */
  readonly replication: number;
}

export class StatusReporter {
  readonly #options: StatusOptions;
  readonly #startedMs: number;
  #health: Health | undefined;
  #counting: Promise<Health> | null = null;
  #countAgainMs = -Infinity;

  constructor(options: StatusOptions) {
    this.#options = options;
    this.#startedMs = options.clock.monotonicMs();
  }

  async report(): Promise<StatusReply> {
    const { clusterId, version, namespace, registry, leaseserver, repair, clock } = this.#options;
    const nowMs = clock.monotonicMs();
    const health = await this.#healthNow(nowMs);
    const backup = this.#options.backup?.();
    return {
      clusterId,
      version,
      startedSecondsAgo: Math.round((nowMs - this.#startedMs) / 1000),
      inodes: namespace.totals.get("inodes"),
      blocks: namespace.totals.get("blocks"),
      replicas: namespace.totals.get("replicas"),
      inlineFiles: namespace.totals.get("inlineFiles"),
      inlineBytes: namespace.totals.get("inlineBytes"),
      ...health,
      ...registry.space(),
      sessions: leaseserver.status(),
      leases: leaseserver.leases.status(),
      repair: repair.status(),
      residentBytes: Deno.memoryUsage().rss,
      dataservers: await Promise.all(
        registry.status().map(async (server) =>
          server.state === "decommissioning" && await holdsNothing(namespace.journal, server.volumes)
            ? { ...server, state: "decommissioned" as const }
            : server
        ),
      ),
      ...(backup === undefined ? {} : { backup }),
    };
  }

  /**
   * What was counted last. It is counted anew when that is old; of a large namespace this takes its time, and who has asked
   * gets the former figures meanwhile, if there are any.
   */
  async #healthNow(nowMs: number): Promise<Health> {
    const { clock } = this.#options;
    if (this.#counting === null && nowMs >= this.#countAgainMs) {
      this.#counting = this.#walk().then((health) => {
        this.#health = health;
        const doneMs = clock.monotonicMs();
        this.#countAgainMs = Math.max(nowMs + HEALTH_TTL_MS, doneMs + HEALTH_REST * (doneMs - nowMs));
        return health;
      }).finally(() => this.#counting = null);
      this.#counting.catch(() => {}); // who waits for it is told
    }
    if (this.#health === undefined) return await this.#counting!;
    if (this.#counting === null) return this.#health;
    const former = this.#health;
    const waited = new AbortController();
    try {
      return await Promise.race([
        this.#counting,
        clock.sleep(HEALTH_WAIT_MS, waited.signal).then(() => former),
      ]);
    } finally {
      waited.abort();
    }
  }

  async #walk(): Promise<Health> {
    const { namespace, registry, replication } = this.#options;
    let underReplicated = 0;
    let missing = 0;
    let misplaced = 0;
    let pendingDeletions = 0;
    await this.#each(TABLE_EXTENTS, (records) => {
      const tx = namespace.begin();
      const placement = registry.placement();
      for (const [key, value] of records) {
        const inode = tx.findInode(asInodeId(getU64(key, 1)));
        for (const { written, volumes } of decodeExtents(value)) {
          if (!written) continue; // nothing to lose yet
          const alive = volumes.filter((volume) => registry.isAlive(volume));
          if (alive.length < (inode?.replication || replication)) underReplicated++;
          if (alive.length === 0) missing++;
          const staying = alive.filter((volume) => !registry.isDraining(volume));
          if (placement.betterSpread(staying, () => false) !== undefined) misplaced++;
        }
      }
    });
    await this.#each(TABLE_DELETION, ({ length }) => pendingDeletions += length);
    return { underReplicated, missing, misplaced, pendingDeletions };
  }

  async #each(
    table: number,
    visit: (records: readonly (readonly [Uint8Array, Uint8Array])[]) => void,
  ): Promise<void> {
    const [start, to] = tableRange(table);
    let from: Key = start;
    for (;;) {
      const records = await this.#options.namespace.journal.scan([from, to], PAGE);
      visit(records);
      const last = records.at(-1)?.[0];
      if (last === undefined || records.length < PAGE) return;
      from = new Uint8Array(last.length + 1);
      from.set(last);
    }
  }
}
