/**
 * Puts the client together: the session with the cluster, and the file system above it that the kernel's handlers
 * (kernel_handlers.ts) convert for. Starts nothing: `session.connect`, `kernelCache.attach` and `files.run` do.
 */

import { AccessTimes, type AtimePolicy } from "./access_times.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { machineRun } from "../base/mounting.ts";
import type { Dialer } from "../wire/dialer.ts";
import { Blocks } from "./blocks.ts";
import type { ClientCounters } from "../wire/messages/nameserver.ts";
import { AskedChanges } from "./asked_changes.ts";
import type { CacheCounts } from "./cache_counts.ts";
import { ClusterSession } from "./cluster_session.ts";
import { DataAccess } from "./data_access.ts";
import { Dataservers } from "./dataservers.ts";
import { BlockStock } from "./block_stock.ts";
import { DeferredChanges } from "./deferred_changes.ts";
import { FileReadAhead } from "./file_read_ahead.ts";
import { Files } from "./files.ts";
import { InlineData } from "./inline_data.ts";
import { InodeNumbers } from "./inode_numbers.ts";
import { InodeTable } from "./inode_table.ts";
import { KernelCache } from "./kernel_cache.ts";
import { waitsForOfdLock } from "./lock_caller.ts";
import { LocalReplicas } from "./local_replicas.ts";
import { LocalChanges } from "./local_changes.ts";
import { Locks } from "./locks.ts";
import { NameReadAhead } from "./name_read_ahead.ts";
import { Names } from "./names.ts";
import { Ranges } from "./ranges.ts";
import { Reader } from "./reader.ts";
import { Recalls } from "./recalls.ts";
import { Releases } from "./releases.ts";
import { Strays } from "./strays.ts";
import { VirtualXattrs } from "./virtual_xattrs.ts";
import { Writer } from "./writer.ts";

export interface FileSystemOptions {
  /** HOST:PORT. */
  readonly nameserver: string;
  /** These as OpenSessionRequest's. */
  readonly clientId: string;
  readonly host: string;
  /** Label of this host's rack; absent or "": not known. */
  readonly rack?: string;
  readonly mountpoint: string;
  readonly place?: string;
  readonly dialer: Dialer;
  /** True for the address of a dataserver in this process. */
  readonly isLocal: (address: string) => boolean;
  readonly clock: Clock;
  readonly log: Logger;
  /** Milliseconds after which what nobody answers fails with EIO; undefined: it waits. */
  readonly softTimeoutMs?: number;
  /** Default "relatime". */
  readonly atime?: AtimePolicy;
  /** Default true. */
  readonly directoryAtime?: boolean;
  /** Names and attributes are changed here first, where that is possible, and told later. Default false. */
  readonly writeBehind?: boolean;
  /** Requests of the kernel so far. */
  readonly kernelRequests: () => number;
}

export interface FileSystem {
  readonly session: ClusterSession;
  readonly dataservers: Dataservers;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly names: Names;
  readonly files: Files;
  readonly virtualXattrs: VirtualXattrs;
  readonly accessTimes: AccessTimes;
  readonly locks: Locks;
  readonly ranges: Ranges;
  /** What the mount counts of itself. */
  readonly counters: () => ClientCounters;
  readonly caches: CacheCounts;
}

export function makeFileSystem(options: FileSystemOptions): FileSystem {
  const { nameserver, clientId, host, mountpoint, place, dialer, isLocal, clock, log } = options;
  const soft = options.softTimeoutMs === undefined ? {} : { softTimeoutMs: options.softTimeoutMs };
  const table = new InodeTable();
  const kernelCache = new KernelCache({ clock, log });
  const session: ClusterSession = new ClusterSession({
    nameserver,
    clientId,
    host,
    mountpoint,
    ...(place === undefined ? {} : { place }),
    dialer,
    clock,
    log,
    ...soft,
    onRecall: (push) => recalls.recall(push),
    held: () => recalls.held(),
    onReclaimed: (granted) => recalls.reclaimed(granted),
    onLost: (isCut) => {
      locks.lost();
      stock.clear();
      return recalls.lost(isCut);
    },
    locks: {
      offered: (wait) => locks.offered(wait),
      recalled: (ino, kept) => locks.recalled(ino, kept),
      reclaim: (server) => locks.reclaim(server),
      connected: () => locks.connected(),
    },
    onFenced: () => recalls.fenced(),
    settle: () => {
      void accessTimes.tell();
      return deferred.settle();
    },
    counters: () => counters(),
  });
  const counters = () => ({
    kernelRequests: options.kernelRequests(),
    inodes: table.size,
    recalls: recalls.count,
    recallMs: Math.round(recalls.ms),
    fences: recalls.fences,
    reads: {
      ...reader.counts,
      ...localReplicas.refused === undefined ? {} : { refused: localReplicas.refused },
    },
  });
  const locks = new Locks({
    server: session.locks,
    isValid: () => session.isValid,
    clock,
    log,
    waitsForOfdLock,
  });
  const { rack = "" } = options;
  const clusterId = () => session.clusterId;
  const onGone = (address: string) => localReplicas.gone(address);
  const dataservers = new Dataservers({ dialer, host, rack, clock, clusterId, isLocal, onGone });
  const { writeBehind = false } = options;
  const deferred: DeferredChanges = new DeferredChanges({
    session,
    clock,
    log,
    onLost: (inodes) => recalls.changesLost(inodes),
  });
  const numbers = new InodeNumbers(session, log);
  const local = writeBehind ? new LocalChanges({ session, table, deferred, numbers, clock }) : undefined;
  const stock = new BlockStock({ session, host, clock, log });
  const strays = new Strays();
  const blocks = new Blocks({ session, dataservers, host, clock, log, deferred, stock, strays, ...soft });
  const inline = new InlineData({ session, table, blocks });
  const localReplicas: LocalReplicas = new LocalReplicas({ dataservers, machine: machineRun(), clock, log });
  const fileAhead = new FileReadAhead({ session, table, dataservers, clock, log });
  const reader: Reader = new Reader({
    ...{ inline, dataservers, localReplicas, fileAhead, blocks, clock, log },
    ...soft,
  });
  const writer: Writer = new Writer({
    session,
    table,
    blocks,
    inline,
    local,
    clock,
    log,
    attributesChanged: (inode) => void kernelCache.dropAttributes(inode),
  });
  const access = new DataAccess({
    session,
    table,
    kernelCache,
    handOver: (file) => writer.handOver(file),
    strays,
  });
  const releases = new Releases({ session, table, log, strays, keepsExclusive: writeBehind });
  const recalls: Recalls = new Recalls({
    ...{ table, kernelCache, access, releases, clock, log, strays, deferred, local },
  });
  const readAhead = new NameReadAhead({ session, table, releases, fileAhead, clock, log });
  const tellAccesses = (): Promise<unknown> => accessTimes.tell();
  const asked = new AskedChanges({ table, kernelCache, clock, local });
  const names = new Names({
    ...{ session, table, kernelCache, asked, writer, clock, local, readAhead, tellAccesses },
  });
  const files = new Files({
    ...{
      session,
      names,
      asked,
      table,
      kernelCache,
      access,
      releases,
      readAhead,
      blocks,
      reader,
      localReplicas,
      fileAhead,
      writer,
      clock,
      log,
      host,
      local,
      deferred,
    },
  });
  const virtualXattrs = new VirtualXattrs({ session, names, writer });
  const ranges = new Ranges({
    ...{ session, dataservers, names, table, kernelCache, access, blocks, inline },
    ...{ reader, writer, files, clock, log },
  });
  const { atime = "relatime", directoryAtime = true } = options;
  const accessTimes: AccessTimes = new AccessTimes({
    ...{ policy: atime, directories: directoryAtime, session, table, kernelCache, clock, log, local },
  });
  return {
    session,
    dataservers,
    table,
    kernelCache,
    names,
    files,
    ranges,
    virtualXattrs,
    accessTimes,
    locks,
    counters: () => ({ ...counters(), calls: { ...session.calls } }),
    caches: { ...names.caches, inline: inline.cache },
  };
}
