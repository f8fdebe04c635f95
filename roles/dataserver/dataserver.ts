/**
 * A dataserver: opens its volumes, serves their replicas, and keeps itself known to the nameserver.
 * This file only puts the parts together and takes them apart again in order.
 * Invariant: it listens before it registers, and registers before it is announced as ready.
 */

import { type Clock, systemClock } from "../../base/clock.ts";
import { type Live, readerOf } from "../../base/live.ts";
import type { Logger } from "../../base/log.ts";
import type { Metric } from "../../base/metrics.ts";
import { type Random, systemRandom } from "../../base/random.ts";
import { bodies } from "../../wire/bodies.ts";
import { parseAddress } from "../../wire/client.ts";
import type { Dialer, LocalServer, ProcessDialer } from "../../wire/dialer.ts";
import { FsError } from "../../wire/errno.ts";
import { type BlockId, type NodeId, type VolumeId } from "../../wire/ids.ts";
import { DATASERVER, DATASERVER_PUSHES } from "../../wire/messages/dataserver.ts";
import { metered, requestMeter } from "../../wire/meter.ts";
import { type RunningServer, serve } from "../../wire/server.ts";
import { createPushHandler, type PushHandler } from "../../wire/service.ts";
import { type BlockRange, type ReportActions, reportBlocks } from "./block_report.ts";
import { blockHandlers } from "./block_service.ts";
import { Copies } from "./copies.ts";
import { ChannelPool } from "./channel_pool.ts";
import { Deletions } from "./deletions.ts";
import { type Disk, systemDisk } from "./disk.ts";
import { Inspection, listReplicas } from "./inspection.ts";
import { dataserverMetrics } from "./metrics.ts";
import { NameserverLink, type Registry } from "./nameserver_link.ts";
import { keepTidy, watchDirectory } from "./open_volume.ts";
import type { Volume } from "./volume.ts";
import { VolumeSet } from "./volume_set.ts";

export interface DataserverOptions {
  /** HOST:PORT. */
  readonly nameserver: string;
  /** Directories, one a disk. */
  readonly volumes: readonly string[];
  /** HOST:PORT to listen on; port 0 takes any. Default 127.0.0.1:0. */
  readonly listen?: string;
  /** The host's label, for placement. Also the name at which peers reach us when we listen on all addresses. */
  readonly host: string;
  /** Label of the rack, for placement; absent or "": not known. */
  readonly rack?: string;
  readonly log: Logger;
  readonly dialer: Dialer;
  /** Replaces the interval that the nameserver asks for. */
  readonly heartbeatMs?: number;
  /** The dataserver announces itself there under its address, for direct calls inside this process. */
  readonly processDialer?: ProcessDialer;
  /** How long files that nobody claims are kept, while there is room. Default one day. */
  readonly trashRetentionMs?: Live<number>;
  /** A replica without writes for so long is finalized. Default 2 s. */
  readonly finalizeIdleMs?: number;
  /** Every replica is read and compared with its checksums once in this time; 0: never. Default two weeks. */
  readonly scrubPeriodMs?: Live<number>;
  /** What that may read at most from one volume. Default 32 MiB. */
  readonly scrubBytesPerSecond?: () => number;
  /** Open replicas a volume. Default 256. */
  readonly openReplicasMax?: number;
  /** Gives up a start that still waits for its nameserver. */
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly disk?: Disk;
  /** Listens; a simulated network takes its place. */
  readonly serve?: typeof serve;
}

export interface Dataserver extends AsyncDisposable {
  /** HOST:PORT at which peers reach it. */
  readonly address: string;
  readonly node: NodeId;
  readonly clusterId: string;
  readonly volumes: readonly { readonly volume: VolumeId; readonly path: string }[];
  readonly localServer: LocalServer;
  metrics(): readonly Metric[];
  /** Finalizes replicas and closes everything, within STOP_MS. What was acknowledged is kept in any case. */
  stop(): Promise<void>;
}

const TRASH_RETENTION_MS_DEFAULT = 24 * 60 * 60_000;
const FINALIZE_IDLE_MS_DEFAULT = 2_000;
const SCRUB_PERIOD_MS_DEFAULT = 14 * 24 * 60 * 60_000;
const SCRUB_BYTES_PER_SECOND_DEFAULT = 32 * 1024 * 1024;
const OPEN_REPLICAS_DEFAULT = 256;
const DIFFERENCES_MS = 1_000;
const REPORT_RETRY_MS = 2_000;
const TRIM_MS = 2_000;
const COMPARE_TIMEOUT_MS = 60_000;
const FINALIZE_AT_STOP_MS = 3_500;
const CLOSE_AT_STOP_MS = 1_000;
const OK = { ok: true } as const;

/**
 * Starts a dataserver; resolves when it is registered. A nameserver that is not up yet is waited for; errors are
 * FsError: EINVAL, EBUSY, ENOTEMPTY and others for volumes, EADDRINUSE, EPROTO for a foreign cluster, EINTR when
 * `signal` aborts.
 */
export async function startDataserver(options: DataserverOptions): Promise<Dataserver> {
  const server = await RunningDataserver.open(options);
  try {
    await server.run();
    return server;
  } catch (error) {
    await server.stop();
    throw error;
  }
}

class RunningDataserver implements Dataserver {
  readonly address: string;
  readonly localServer: LocalServer;
  readonly #options: DataserverOptions;
  readonly #clock: Clock;
  readonly #volumes: VolumeSet;
  readonly #server: RunningServer;
  readonly #pool: ChannelPool;
  readonly #link: NameserverLink;
  readonly #deletions: Deletions;
  readonly #copies: Copies;
  readonly #meter = requestMeter(DATASERVER);
  readonly #inspection: Inspection;
  readonly #abort = new AbortController();
  readonly #background: Promise<void>[] = [];
  #stopping: Promise<void> | null = null;

  static async open(options: DataserverOptions): Promise<RunningDataserver> {
    const volumes = await VolumeSet.open(options.volumes, {
      trashRetentionMs: options.trashRetentionMs ?? TRASH_RETENTION_MS_DEFAULT,
      finalizeIdleMs: options.finalizeIdleMs ?? FINALIZE_IDLE_MS_DEFAULT,
      openReplicasMax: options.openReplicasMax ?? OPEN_REPLICAS_DEFAULT,
      scrubPeriodMs: options.scrubPeriodMs ?? SCRUB_PERIOD_MS_DEFAULT,
      scrubBytesPerSecond: options.scrubBytesPerSecond ?? (() => SCRUB_BYTES_PER_SECOND_DEFAULT),
      disk: options.disk ?? systemDisk,
      clock: options.clock ?? systemClock,
      log: options.log,
    });
    try {
      return new RunningDataserver(options, volumes);
    } catch (error) {
      for (const { volume } of volumes.all) await volume.close();
      throw error;
    }
  }

  private constructor(options: DataserverOptions, volumes: VolumeSet) {
    const clock = options.clock ?? systemClock;
    this.#options = options;
    this.#clock = clock;
    this.#volumes = volumes;
    const clusterId = () => volumes.clusterId;
    const { log, dialer } = options;
    this.#pool = new ChannelPool(dialer, clusterId, `dataserver ${options.host}`, clock);
    this.#copies = new Copies(this.#pool, clock);
    this.#inspection = new Inspection(clock);
    const handlers = metered(blockHandlers((id) => volumes.find(id), this.#pool), this.#meter, clock);
    this.localServer = { role: "dataserver", clusterId, handlers };
    this.#server = (options.serve ?? serve)(options.listen ?? "127.0.0.1:0", { ...this.localServer, log });
    this.address = reachableAddress(this.#server.address, options.host);
    this.#deletions = new Deletions(async (volume, blocks) => {
      const registry = this.#link.registry;
      if (registry === null) throw new FsError("ENOTCONN", "not registered");
      await registry.blocksDeleted({ volume, blocks });
    }, log);
    this.#link = new NameserverLink({
      nameserver: options.nameserver,
      dialer,
      description: `dataserver ${options.host} ${this.address}`,
      clock,
      random: options.random ?? systemRandom,
      log,
      ...(options.heartbeatMs === undefined ? {} : { heartbeatMs: options.heartbeatMs }),
    }, {
      clusterId,
      checkCluster: (id) => volumes.checkCluster(id, options.nameserver),
      onPush: this.#pushHandler(),
      registration: () => ({
        ...(volumes.node === undefined ? {} : { node: volumes.node }),
        label: volumes.nodeLabel,
        host: options.host,
        ...(options.rack === undefined || options.rack === "" ? {} : { rack: options.rack }),
        address: this.address,
        volumes: volumes.registrations(),
      }),
      registered: (id, reply) => volumes.assign(id, reply),
      report: (registry, signal) => this.#report(registry, signal),
      stats: () => volumes.stats(),
    });
  }

  get node(): NodeId {
    return this.#volumes.node!;
  }

  get clusterId(): string {
    return this.#volumes.clusterId;
  }

  metrics(): readonly Metric[] {
    const { host } = this.#options;
    const isRegistered = this.#link.registry !== null;
    const [volumes, scrubs] = [this.#volumes.stats(), this.#volumes.scrubs()];
    return dataserverMetrics({ host, meter: this.#meter, isRegistered, volumes, scrubs });
  }

  get volumes(): readonly { readonly volume: VolumeId; readonly path: string }[] {
    return this.#volumes.all.map(({ volume }) => ({ volume: volume.id, path: volume.path }));
  }

  /** Starts what runs in the background; resolves when registered. */
  async run(): Promise<void> {
    const { signal } = this.#abort;
    const { processDialer, log } = this.#options;
    const trashRetentionMs = readerOf(this.#options.trashRetentionMs, TRASH_RETENTION_MS_DEFAULT);
    for (const { volume, keeper } of this.#volumes.all) {
      volume.onCorrupt = (block, message) => this.#reportCorrupt(volume.id, block, message);
      volume.onFailed = () => this.#link.beatNow();
      this.#background.push(keeper.run(signal));
    }
    await new Promise<void>((resolve, reject) => {
      const giveUp = () => reject(new FsError("EINTR", "the start was given up", { op: "register" }));
      if (this.#options.signal?.aborted) return giveUp();
      this.#options.signal?.addEventListener("abort", giveUp, { once: true });
      const linked = this.#link.run(() => {
        log.info("registered", { node: this.node, address: this.address, cluster: this.clusterId });
        resolve();
      }, signal).catch(reject);
      this.#background.push(linked);
    });
    // Only now: a directory of a foreign cluster must be left as it was found.
    for (const { volume, scrubber } of this.#volumes.all) {
      this.#background.push(keepTidy(volume, trashRetentionMs, this.#clock, signal));
      this.#background.push(scrubber.run(signal));
      this.#background.push(watchDirectory(volume, this.#clock, signal));
    }
    this.#background.push(this.#tellDifferences(signal));
    this.#background.push(this.#trimMemory(signal));
    processDialer?.announce(this.address, this.localServer);
  }

  /** Lets go of memory that is not needed any more, until `signal` aborts. Never rejects. */
  async #trimMemory(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(TRIM_MS, signal);
      bodies.trim();
    }
  }

  /** Tells the nameserver of replicas that may differ from others, until `signal` aborts. Never rejects. */
  async #tellDifferences(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(DIFFERENCES_MS, signal);
      const { registry } = this.#link;
      if (registry === null) continue;
      for (const { volume } of this.#volumes.all) {
        try {
          await volume.tellDifferences(async (replicas) =>
            (await registry.replicasDiffer({ volume: volume.id, replicas }, {
              timeoutMs: COMPARE_TIMEOUT_MS,
            })).compared
          );
        } catch (error) {
          this.#options.log.debug("replicas that may differ were not told", { volume: volume.id, error });
        }
      }
    }
  }

  stop(): Promise<void> {
    return this.#stopping ??= this.#stop();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #stop(): Promise<void> {
    const { log, processDialer } = this.#options;
    if (processDialer?.isLocal(this.address)) processDialer.withdraw(this.address);
    for (const { volume } of this.#volumes.all) volume.stopAccepting();
    this.#abort.abort();
    await this.#server.close();
    this.#pool.close();
    await Promise.all(this.#volumes.all.map(async ({ volume, keeper }) => {
      try {
        if (volume.failed === undefined) await this.#within(FINALIZE_AT_STOP_MS, keeper.finalizeAll());
      } catch (error) {
        log.warn("replicas are left to be recovered at the next start", { path: volume.path, error });
      }
    }));
    try {
      await this.#within(CLOSE_AT_STOP_MS, this.#close());
    } catch (error) {
      log.warn("stopped with work in progress", { error });
    }
    log.info("stopped", { address: this.address });
  }

  async #close(): Promise<void> {
    // The volumes last: the others still use their databases.
    await Promise.all([this.#deletions.stop(), ...this.#background]);
    await Promise.all(this.#volumes.all.map(({ volume }) => volume.close()));
  }

  async #within(ms: number, work: Promise<unknown>): Promise<void> {
    const waited = new AbortController();
    const late = this.#clock.sleep(ms, waited.signal).then(() => {
      if (!waited.signal.aborted) throw new FsError("ETIMEDOUT", `not done within ${ms} ms`, { op: "stop" });
    });
    try {
      await Promise.race([work, late]);
    } finally {
      waited.abort();
    }
  }

  #pushHandler(): PushHandler {
    return createPushHandler(DATASERVER_PUSHES, {
      deleteBlocks: ({ volume, blocks, upTo }) => {
        const doomed = blocks.map((block, i) => ({ block, upTo: upTo?.[i] }));
        this.#deletions.add(this.#volumes.find(volume), doomed, { report: true });
        return OK;
      },
      setGeneration: async ({ volume, block, from, to, ...how }) => {
        const found = this.#volumes.find(volume);
        const set = async () => ({ length: await found.setGeneration(block, from, to, how) });
        return await this.#changeReplica(found, block, set);
      },
      replicaState: ({ volume, block, generation, digest }) =>
        this.#volumes.find(volume).stateOf(block, generation, digest === true),
      copyReplica: (request) => {
        const volume = this.#volumes.find(request.volume);
        const copy = () => this.#copies.copy(volume, request, this.#abort.signal);
        return this.#changeReplica(volume, request.block, copy);
      },
      verifyReplica: (request) =>
        this.#inspection.verify(this.#volumes.find(request.volume), request, this.#abort.signal),
      listReplicas: async (request) => ({
        replicas: await listReplicas(this.#volumes.find(request.volume), request),
      }),
    });
  }

  /**
   * Does what the nameserver asked for. If it has registered anew meanwhile (the nameserver may be another one by now),
   * the report that followed may have told of the replica as it was before: that is told again.
   */
  async #changeReplica<T>(volume: Volume, block: BlockId, change: () => Promise<T>): Promise<T> {
    const asked = this.#link.registry;
    try {
      return await change();
    } finally {
      const { registry } = this.#link;
      if (registry !== asked && registry !== null) void this.#reportBlock(registry, volume, block);
    }
  }

  async #reportBlock(registry: Registry, volume: Volume, block: BlockId): Promise<void> {
    const { signal } = this.#abort;
    while (registry === this.#link.registry && !signal.aborted) {
      try {
        await this.#reportVolume(registry, volume, signal, { from: block, to: block + 1 });
        return;
      } catch (error) {
        this.#options.log.debug("replica not reported", { volume: volume.id, block, error });
      }
      await this.#clock.sleep(REPORT_RETRY_MS, signal);
    }
  }

  /** Never rejects. */
  async #reportLater(registry: Registry, volume: Volume, blocks: readonly BlockId[]): Promise<void> {
    await this.#clock.sleep(REPORT_RETRY_MS, this.#abort.signal);
    for (const block of blocks) await this.#reportBlock(registry, volume, block);
  }

  #reportVolume(
    registry: Registry,
    volume: Volume,
    signal: AbortSignal,
    range?: BlockRange,
  ): Promise<number> {
    const actions: ReportActions = {
      send: (page) => registry.blockReport(page),
      onStale: (doomed) => this.#deletions.add(volume, doomed, { report: false }),
      onUnknown: async (replicas) => {
        for (const { block, upTo } of replicas) {
          try {
            await volume.keepAside(block, upTo);
          } catch (error) {
            // It is in nobody's way, and what comes after it must be told of.
            this.#options.log.warn("replica not kept aside", { volume: volume.id, block, error });
          }
        }
      },
      onUnsettled: (blocks) => void this.#reportLater(registry, volume, blocks),
    };
    return reportBlocks(volume, volume.id, actions, signal, range);
  }

  /** Until each volume has told what it has: the nameserver hears it from nobody else. With the connection, it is done anew. */
  async #report(registry: Registry, signal: AbortSignal): Promise<void> {
    for (const { volume } of this.#volumes.all) volume.differences.tellAll();
    let waiting = this.#volumes.all.map(({ volume }) => volume);
    for (let isFirst = true; waiting.length > 0 && !signal.aborted; isFirst = false) {
      const failed: Volume[] = [];
      for (const volume of waiting) {
        if (!await this.#hasReported(registry, volume, signal)) failed.push(volume);
      }
      waiting = failed;
      if (isFirst && !signal.aborted) await this.#deletions.resend();
      if (waiting.length > 0) await this.#clock.sleep(REPORT_RETRY_MS, signal);
    }
  }

  async #hasReported(registry: Registry, volume: Volume, signal: AbortSignal): Promise<boolean> {
    try {
      const replicas = await this.#reportVolume(registry, volume, signal);
      this.#options.log.info("blocks reported", { volume: volume.id, replicas });
      for (const [block, message] of volume.corruptReplicas) {
        if (signal.aborted) return false;
        await registry.replicaCorrupt({ volume: volume.id, block, message });
      }
      return true;
    } catch (error) {
      if (!signal.aborted) {
        this.#options.log.warn("block report failed: it is tried again", { volume: volume.id, error });
      }
      return false;
    }
  }

  #reportCorrupt(volume: VolumeId, block: BlockId, message: string): void {
    // Without a registration it is told with the next block report.
    this.#link.registry?.replicaCorrupt({ volume, block, message }).catch((error) =>
      this.#options.log.debug("corrupt replica not reported", { block, error })
    );
  }
}

/** An address that listens everywhere is no address to go to: the host's label takes its place. */
function reachableAddress(bound: string, host: string): string {
  const { hostname, port } = parseAddress(bound);
  return hostname === "0.0.0.0" || hostname === "::" ? `${host}:${port}` : bound;
}
