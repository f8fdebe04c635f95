/**
 * The nameserver as a process part: opens the namespace, starts the leaseserver beside it, serves, and stops.
 */

import { systemMounting } from "../../base/mounting.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import { type Live, readerOf } from "../../base/live.ts";
import type { Logger } from "../../base/log.ts";
import type { Metric } from "../../base/metrics.ts";
import { type Random, randomHexId, systemRandom } from "../../base/random.ts";
import { VERSION } from "../../base/version.ts";
import { storedCodec } from "../../wire/codec.ts";
import { DATASERVER_REGISTRY } from "../../wire/messages/dataserver.ts";
import { ADMIN } from "../../wire/messages/admin.ts";
import { LOCKS } from "../../wire/messages/locks.ts";
import { metered, requestMeter } from "../../wire/meter.ts";
import { LEASESERVER, NAMESERVER } from "../../wire/messages/nameserver.ts";
import { asInodeId, asSessionId, type InodeId, type SessionId } from "../../wire/ids.ts";
import type { LocalServer, ProcessDialer } from "../../wire/dialer.ts";
import { serve } from "../../wire/server.ts";
import { addHandlers, type CallContext } from "../../wire/service.ts";
import { TOLD_LATELY } from "../leaseserver/leases.ts";
import { Leaseserver, type RootSquash } from "../leaseserver/leaseserver.ts";
import type { SessionRecord } from "../leaseserver/sessions.ts";
import { adminHandlers } from "./admin_service.ts";
import { AutoBackup, type AutoBackupSettings } from "./auto_backup.ts";
import { Backups } from "./backups.ts";
import { dropUnused } from "./block_operations.ts";
import { BlockRecovery } from "./block_recovery.ts";
import { clientHandlers } from "./client_service.ts";
import { dataserverHandlers } from "./dataserver_service.ts";
import { DeletionQueue } from "./deletions.ts";
import { type Journal, LevelJournal, type Write } from "./journal.ts";
import { getU64, sessionKey, TABLE_SESSION, TABLE_WRITER, tableRange, writerKey } from "./keys.ts";
import { databasePath, formatNameserver, readIdentity } from "./layout.ts";
import { INLINE_LIMIT_DEFAULT } from "./inline_data.ts";
import { Lingering } from "./lingering.ts";
import { nameserverMetrics } from "./metrics.ts";
import { PowerCuts } from "./power_cuts.ts";
import { Namespace } from "./namespace.ts";
import { Registry } from "./registry.ts";
import { Room, spaceOf } from "./room.ts";
import { Repair, REPAIR_BYTES_PER_SECOND_DEFAULT } from "./repair.ts";
import { StatusReporter } from "./status_reporter.ts";

export { formatNameserver };

export const BLOCK_BYTES_DEFAULT = 128 * 1024 * 1024;
export const REPLICATION_DEFAULT = 3;
/** Silent sessions are noticed that late at most. */
const DEAD_AFTER_MS_DEFAULT = 30_000;
const HEARTBEAT_MS_MAX = 3_000;
const EXPIRY_MS = 250;
/** Files that are open for writing when the server stops. */
const WRITERS_MAX = 10_000_000;

export interface NameserverOptions {
  /** A formatted directory. */
  readonly dir: string;
  /** HOST:PORT; port 0 takes any. */
  readonly listen: string;
  readonly log: Logger;
  /** Announces the server here, for roles in the same process. */
  readonly processDialer?: ProcessDialer;
  readonly replication?: number;
  readonly blockBytes?: number;
  /** Data of files up to this size is kept beside their inodes, 0: of none; at most INLINE_BYTES_MAX. */
  readonly inlineLimit?: number;
  /** Silence that ends a client's session. */
  readonly sessionTtlMs?: number;
  /** Leases that one client may hold. */
  readonly leasesPerSession?: Live<number>;
  /** Whose root counts as another user; absent: nobody's. */
  readonly rootSquash?: RootSquash;
  readonly heartbeatMs?: number;
  readonly deadAfterMs?: Live<number>;
  /** Of all copies of replicas together. */
  readonly repairBytesPerSecond?: () => number;
  /** Where, how often and how many; undefined: no backups are made here. */
  readonly backup?: () => AutoBackupSettings | undefined;
  /** Called when the namespace can no longer be written: the process must end. */
  readonly onFailure?: (error: Error) => void;
  readonly clock?: Clock;
  readonly random?: Random;
  /** Opens the namespace; by default the one in `dir`. */
  readonly open?: () => Promise<OpenNamespace>;
  /** Listens; a simulated network takes its place. */
  readonly serve?: typeof serve;
}

export interface OpenNamespace {
  readonly clusterId: string;
  readonly journal: Journal;
  /** As base/mounting.ts. */
  readonly mounting: string;
}

export interface Nameserver extends AsyncDisposable {
  readonly address: string;
  readonly clusterId: string;
  readonly localServer: LocalServer;
  metrics(): Promise<readonly Metric[]>;
  /** Everything acknowledged is on disk when this resolves. */
  stop(): Promise<void>;
}

export async function startNameserver(options: NameserverOptions): Promise<Nameserver> {
  const { log } = options;
  const clock = options.clock ?? systemClock;
  const { clusterId, journal, mounting } = await (options.open ?? (() => openNamespace(options)))();
  try {
    const cuts = await PowerCuts.begin(journal, mounting);
    if (cuts.isAfter) log.warn("the machine stopped without warning: what was not synced may be lost");
    const namespace = await Namespace.load(journal, clock);
    const replication = options.replication ?? REPLICATION_DEFAULT;
    const deadAfterMs = readerOf(options.deadAfterMs, DEAD_AFTER_MS_DEFAULT);
    const { heartbeatMs = () => Math.min(HEARTBEAT_MS_MAX, deadAfterMs() / 4) } = options;
    const registry = await Registry.load({
      journal,
      ids: namespace.ids,
      clock,
      random: options.random ?? systemRandom,
      log,
      heartbeatMs,
      deadAfterMs,
      reserveBytes: 64 * 1024 * 1024,
    });
    const stored = (await journal.scan(tableRange(TABLE_SESSION), 100_000))
      .map(([, value]) => storedCodec.decode(value) as SessionRecord);
    const writers = new Map<SessionId, InodeId[]>();
    for (const [key] of await journal.scan(tableRange(TABLE_WRITER), WRITERS_MAX)) {
      const session = asSessionId(getU64(key, 1));
      const inodes = writers.get(session);
      if (inodes === undefined) writers.set(session, [asInodeId(getU64(key, 9))]);
      else inodes.push(asInodeId(getU64(key, 9)));
    }
    const stopping = new AbortController();
    const recovery = new BlockRecovery(namespace, registry, log);
    const { sessionTtlMs, leasesPerSession, rootSquash, inlineLimit = INLINE_LIMIT_DEFAULT } = options;
    const space = () => options.open === undefined ? spaceOf(options.dir) : undefined;
    const room = new Room({ clock, log, space });
    const endSession = (session: SessionId): void => {
      namespace.endSession(session).catch((error) =>
        log.error("session clean-up failed", { session, error })
      );
    };
    const leaseserver = new Leaseserver({
      ...(sessionTtlMs === undefined ? {} : { sessionTtlMs }),
      ...(leasesPerSession === undefined ? {} : { leasesPerSession }),
      ...(rootSquash === undefined ? {} : { rootSquash }),
      inlineLimit,
      isFull: () => room.isNearlyFull,
      run: randomHexId(),
      cuts: cuts.count,
      clock,
      log: log.child("leaseserver"),
      stored,
      store: {
        nextId: () => namespace.ids.next("session"),
        save: async (record) => {
          const writes: Write[] = [[sessionKey(record.session), storedCodec.encode(record)]];
          namespace.ids.saveTo({ put: (key, value) => writes.push([key, value]) });
          await journal.durable(journal.append(writes));
        },
        remove: (session) => void journal.append([[sessionKey(session), null]]),
      },
      onSessionEnd: endSession,
      onRelease: (session, ino) => namespace.releaseOrphan(session, ino),
      onUnused: (inodes) => namespace.change((tx) => inodes.forEach((ino) => dropUnused(tx, ino))),
      onReclaim: async (session, isOpen) => {
        for (const ino of namespace.orphansOf(session)) {
          if (!isOpen(ino)) await namespace.releaseOrphan(session, ino);
        }
      },
      fence: (ino) => recovery.fence(ino),
      onWriteEnded: (session, ino) => {
        if (!stopping.signal.aborted) journal.append([[writerKey(session, ino), null]]);
      },
      presumed: writers,
    });
    namespace.onOrphanGone = (ino) => leaseserver.leases.forget(ino);
    // Sessions that ended, and were not settled, or cleared away, before the server did.
    for (const session of writers.keys()) {
      if (!leaseserver.sessions.isAlive(session)) leaseserver.leases.dropSession(session);
    }
    for (const session of new Set([...namespace.orphanSessions(), ...namespace.reserved.sessions])) {
      if (session !== TOLD_LATELY && !leaseserver.sessions.isAlive(session)) endSession(session);
    }
    const deletions = new DeletionQueue(journal, registry, clock, log);
    const repair = new Repair({
      namespace,
      registry,
      leases: leaseserver.leases,
      recovery,
      clock,
      log: log.child("repair"),
      replication,
      bytesPerSecond: options.repairBytesPerSecond ?? (() => REPAIR_BYTES_PER_SECOND_DEFAULT),
    });
    const lingering = new Lingering(namespace, clock, log);
    const backups = new Backups({ clusterId, namespace, clock, log });
    const autoBackup = options.backup &&
      new AutoBackup({ settings: options.backup, clusterId, journal, clock, log: log.child("backup") });
    const status = new StatusReporter({
      backup: () => autoBackup?.status(),
      clusterId,
      version: VERSION,
      namespace,
      registry,
      leaseserver,
      repair,
      clock,
      replication,
    });
    const handlers = new Map<number, (request: unknown, context: CallContext) => unknown>();
    const blockBytes = options.blockBytes ?? BLOCK_BYTES_DEFAULT;
    const parts = {
      ...{
        namespace,
        registry,
        leaseserver,
        recovery,
        repair,
        lingering,
        status,
        blockBytes,
        replication,
        inlineLimit,
        clock,
        backups,
      },
    };
    addHandlers(handlers, NAMESERVER, clientHandlers({ ...parts, room }));
    addHandlers(handlers, LEASESERVER, leaseserver.handlers);
    addHandlers(handlers, LOCKS, leaseserver.lockHandlers);
    addHandlers(handlers, ADMIN, adminHandlers(parts));
    addHandlers(
      handlers,
      DATASERVER_REGISTRY,
      dataserverHandlers(namespace, registry, deletions, repair, leaseserver.leases, recovery, log),
    );

    const meter = requestMeter(NAMESERVER, LEASESERVER, LOCKS, ADMIN, DATASERVER_REGISTRY);
    const localServer: LocalServer = {
      role: "nameserver",
      clusterId: () => clusterId,
      handlers: metered(handlers, meter, clock),
    };
    const server = (options.serve ?? serve)(options.listen, { ...localServer, log });
    options.processDialer?.announce(server.address, localServer);
    const running = Promise.all([
      deletions.run(stopping.signal),
      lingering.run(stopping.signal),
      repair.run(stopping.signal),
      backups.run(stopping.signal),
      autoBackup?.run(stopping.signal),
      expireSessions(leaseserver, clock, stopping.signal),
    ]);
    log.info("serving", {
      address: server.address,
      cluster: clusterId,
      inodes: namespace.totals.get("inodes"),
    });

    let stopped: Promise<void> | undefined;
    const stop = (): Promise<void> =>
      stopped ??= (async () => {
        stopping.abort();
        options.processDialer?.withdraw(server.address);
        await server.close();
        await running;
        await cuts.end();
        await journal.close();
        log.info("stopped");
      })();
    const metrics = async () => [
      ...meter.metrics("requests to the nameserver"),
      ...nameserverMetrics(await status.report()),
      ...journal.metrics?.() ?? [],
    ];
    return { address: server.address, clusterId, localServer, metrics, stop, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await journal.close();
    throw error;
  }
}

async function openNamespace({ dir, log, onFailure }: NameserverOptions): Promise<OpenNamespace> {
  const { clusterId } = await readIdentity(dir);
  const journal = await LevelJournal.open(databasePath(dir), {
    createIfMissing: false,
    onFailure: (error) => {
      log.error("stopping: the namespace can't be written", { error });
      onFailure?.(error);
    },
    onCut: (cut) => log.warn("the journal had a gap: what is behind it is left out", { ...cut }),
  });
  return { clusterId, journal, mounting: systemMounting(dir) };
}

async function expireSessions({ sessions }: Leaseserver, clock: Clock, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(EXPIRY_MS, signal);
    if (!signal.aborted) sessions.expire();
  }
}
