/**
 * The roles that one process runs: starts them so that they reach each other by direct calls (one ProcessDialer
 * for all), and stops them clients first, so that a mount hands its data over before its servers go.
 * A role's code is loaded when the role is started: a mount alone does not pay for the nameserver's database.
 */

import { resolve } from "node:path";
import type { Live } from "../../base/live.ts";
import type { Logger } from "../../base/log.ts";
import type { Metric } from "../../base/metrics.ts";
import { ProcessDialer } from "../../wire/dialer.ts";
import type { Dataserver } from "../dataserver/dataserver.ts";
import type { Mount } from "../mount/mount.ts";
import type { AutoBackupSettings } from "../nameserver/auto_backup.ts";
import type { Nameserver } from "../nameserver/nameserver.ts";

export interface NameserverArguments {
  readonly dir: string;
  readonly listen: string;
  readonly replication?: number;
  readonly sessionTtlMs?: number;
  readonly leasesPerSession?: Live<number>;
  readonly deadAfterMs?: Live<number>;
  readonly repairBytesPerSecond?: () => number;
  readonly inlineLimit?: number;
  readonly backup?: () => AutoBackupSettings | undefined;
}

export interface DataserverArguments {
  readonly nameserver: string;
  readonly volumes: readonly string[];
  readonly listen: string;
  readonly host: string;
  readonly rack?: string;
  readonly scrubPeriodMs?: Live<number>;
  readonly scrubBytesPerSecond?: () => number;
  readonly trashRetentionMs?: Live<number>;
}

export interface MountArguments {
  readonly nameserver: string;
  readonly mountpoint: string;
  readonly host: string;
  readonly rack?: string;
  /** As behind -o: comma-separated. */
  readonly options: string;
  readonly createMountpoint?: boolean;
}

export class Assembly {
  readonly dialer = new ProcessDialer();
  /** Resolves when a role can no longer serve, with why. */
  readonly failed: Promise<Error>;
  readonly #log: Logger;
  #resolveFailed!: (error: Error) => void;
  readonly #mounts: Mount[] = [];
  readonly #dataservers: Dataserver[] = [];
  readonly #nameservers: Nameserver[] = [];
  /** Gives up starts that still wait for another role. */
  readonly #signal: AbortSignal | undefined;

  constructor(log: Logger, signal?: AbortSignal) {
    this.#log = log;
    this.#signal = signal;
    this.failed = new Promise((resolve) => this.#resolveFailed = resolve);
  }

  async startNameserver(options: NameserverArguments): Promise<Nameserver> {
    const { startNameserver } = await import("../nameserver/nameserver.ts");
    const server = await startNameserver({
      ...options,
      log: this.#log.child("nameserver"),
      processDialer: this.dialer,
      onFailure: (error) => this.#resolveFailed(error),
    });
    this.#nameservers.push(server);
    return server;
  }

  /** `label`: its name in the log when there are several. */
  async startDataserver(options: DataserverArguments, label = "dataserver"): Promise<Dataserver> {
    const { startDataserver } = await import("../dataserver/dataserver.ts");
    const server = await startDataserver({
      ...options,
      // The nameserver's log and status name them: a path must mean the same wherever it is read.
      volumes: options.volumes.map((volume) => resolve(volume)),
      log: this.#log.child(label),
      dialer: this.dialer,
      processDialer: this.dialer,
      ...(this.#signal === undefined ? {} : { signal: this.#signal }),
    });
    this.#dataservers.push(server);
    return server;
  }

  async startMount(options: MountArguments): Promise<Mount> {
    const { parseMountOptions, startMount } = await import("../mount/mount.ts");
    const mount = await startMount({
      ...options,
      options: parseMountOptions(options.options),
      log: this.#log.child("mount"),
      dialer: this.dialer,
    });
    this.#mounts.push(mount);
    return mount;
  }

  /** Of all roles in this process. */
  async metrics(): Promise<readonly Metric[]> {
    const nameservers = await Promise.all(this.#nameservers.map((role) => role.metrics()));
    return [
      ...nameservers.flat(),
      ...[...this.#dataservers, ...this.#mounts].flatMap((role) => role.metrics()),
    ];
  }

  /** Stops everything that was started, clients first. Goes on after a failure and reports the first. */
  async stop(): Promise<void> {
    const failures: unknown[] = [];
    for (const roles of [this.#mounts, this.#dataservers, this.#nameservers]) {
      const results = await Promise.allSettled(roles.splice(0).map((role) => role.stop()));
      for (const result of results) {
        if (result.status === "fulfilled") continue;
        this.#log.error("a role did not stop cleanly", { error: result.reason });
        failures.push(result.reason);
      }
    }
    if (failures.length > 0) throw failures[0];
  }

  /** Runs `start`; when it fails, what it had started is stopped first. */
  async startAll<T>(start: (assembly: Assembly) => Promise<T>): Promise<T> {
    try {
      return await start(this);
    } catch (error) {
      await this.stop().catch(() => {}); // logged there; the first failure is the one to report
      throw error;
    }
  }
}

/** A mistake in -o is to be found before anything is started. Throws FsError EINVAL. */
export async function checkMountOptions(options: string): Promise<void> {
  const { parseMountOptions } = await import("../mount/mount.ts");
  parseMountOptions(options);
}
