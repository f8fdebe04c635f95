/** What the nameserver's service for clients is made of. */

import type { Leaseserver } from "../leaseserver/leaseserver.ts";
import type { BlockRecovery } from "./block_recovery.ts";
import type { Lingering } from "./lingering.ts";
import type { Namespace } from "./namespace.ts";
import type { Registry } from "./registry.ts";
import type { Repair } from "./repair.ts";
import type { Replies } from "./replies.ts";
import type { Room } from "./room.ts";
import type { Retries } from "./retries.ts";
import type { StatusReporter } from "./status_reporter.ts";

export interface ClientServiceOptions {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly leaseserver: Leaseserver;
  readonly recovery: BlockRecovery;
  readonly repair: Repair;
  readonly lingering: Lingering;
  readonly status: StatusReporter;
  readonly blockBytes: number;
  readonly replication: number;
  /** Data of files up to this size is kept beside their inodes; 0: of none. */
  readonly inlineLimit?: number;
  /** Absent: there is always room for changes. */
  readonly room?: Room;
}

/** What the files that it is split into share. */
export interface ClientServiceParts extends ClientServiceOptions {
  readonly retries: Retries;
  readonly replies: Replies;
}
