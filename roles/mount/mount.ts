/**
 * A mount as a process part: the session with the cluster, the file system above it, and the kernel session that
 * serves it. Starts in that order, ends in the other, within bounded time.
 */

import { systemClock, within } from "../../base/clock.ts";
import * as libc from "../../base/libc.ts";
import type { Logger } from "../../base/log.ts";
import type { Metric } from "../../base/metrics.ts";
import { randomHexId } from "../../base/random.ts";
import { makeFileSystem } from "../../fs/file_system.ts";
import { kernelHandlers } from "../../fs/kernel_handlers.ts";
import { guardMount } from "../../fs/kernel/guard.ts";
import {
  abortConnection,
  clearDeadMount,
  type FuseMount,
  mountFuse,
  raiseReadAhead,
  unmountFuse,
} from "../../fs/kernel/mount.ts";
import { KernelNotifier } from "../../fs/kernel/notify.ts";
import { KernelSession } from "../../fs/kernel/session.ts";
import { mapIds, mappedGroupsOf } from "../../fs/id_map.ts";
import { mountMetrics } from "./metrics.ts";
import { squashRoot } from "../../fs/root_squash.ts";
import { withForeignSetgid } from "../../fs/setgid.ts";
import { FsError } from "../../wire/errno.ts";
import { type Dialer, ProcessDialer } from "../../wire/dialer.ts";
import type { MountOptions } from "./options.ts";

export { parseMountOptions } from "./options.ts";
export { type MountOptions } from "./options.ts";

const READ_AHEAD_KIB = 1_024;
const INIT_TIMEOUT_MS = 10_000;
/** A stopping mount waits that long for its data to reach the cluster. */
const FINISH_TIMEOUT_MS = 3_000;

export interface MountStartOptions {
  /** HOST:PORT. */
  readonly nameserver: string;
  readonly mountpoint: string;
  /** Label of this host: replicas that carry it are near. */
  readonly host: string;
  /** Label of its rack: the same, a little farther. Absent or "": not known. */
  readonly rack?: string;
  readonly log: Logger;
  readonly dialer: Dialer;
  readonly options: MountOptions;
  /** Make the mount point when it is missing. */
  readonly createMountpoint?: boolean;
  /** Log every request and its reply. */
  readonly trace?: boolean;
}

export interface Mount extends AsyncDisposable {
  readonly mountpoint: string;
  /** Resolves when the kernel session has ended, also when it was unmounted from outside. */
  readonly ended: Promise<void>;
  /** Requests of the kernel and calls to the nameserver so far, by operation. */
  counters(): {
    readonly kernel: Readonly<Record<string, number>>;
    readonly calls: Readonly<Record<string, number>>;
  };
  metrics(): readonly Metric[];
  /** Unmounts (lazily when it is busy) after what was written has reached the cluster. */
  stop(): Promise<void>;
}

export async function startMount(start: MountStartOptions): Promise<Mount> {
  const { nameserver, mountpoint, host, rack = "", log, dialer, options } = start;
  const clock = systemClock;
  const { idMaps } = options;
  if (idMaps !== undefined && libc.geteuid() !== 0) {
    throw new FsError("EPERM", "uidmap and gidmap say who is whom: only root may mount with them", {
      op: "mount",
    });
  }
  if (await clearDeadMount(mountpoint)) log.info("cleared a dead mount", { mountpoint });
  if (start.createMountpoint === true) await makeMountpoint(mountpoint);

  let kernelSession: KernelSession | null = null;
  const fileSystem = makeFileSystem({
    nameserver,
    clientId: randomHexId(),
    host,
    rack,
    mountpoint,
    place: await placeOf(mountpoint),
    dialer,
    isLocal: (address) => dialer instanceof ProcessDialer && dialer.isLocal(address),
    clock,
    log,
    ...(options.softTimeoutMs === undefined ? {} : { softTimeoutMs: options.softTimeoutMs }),
    // A read-only mount changes nothing.
    atime: options.readOnly ? "off" : options.atime,
    directoryAtime: options.directoryAtime,
    writeBehind: options.writeBehind,
    kernelRequests: () => kernelSession?.requestCount ?? 0,
  });
  const { locks, ...withoutLocks } = fileSystem;
  const { session, files, kernelCache, accessTimes, dataservers, counters, caches } = fileSystem;
  await session.connect();

  let mount: FuseMount;
  try {
    mount = await mountFuse({
      mountpoint,
      // As in /etc/fstab: so `mount -a` sees that it is mounted.
      source: nameserver,
      subtype: "mfs",
      readOnly: options.readOnly,
      noSuid: !options.suid || libc.geteuid() !== 0,
      noDev: !options.dev || libc.geteuid() !== 0,
      noExec: !options.exec,
      sync: options.sync,
      atime: options.atime,
      directoryAtime: options.directoryAtime,
      ...(options.allowOther === undefined ? {} : { allowOther: options.allowOther }),
    });
  } catch (error) {
    await session.close();
    throw error;
  }
  const rootSquash = options.rootSquash ?? session.rootSquash;
  const plain = kernelHandlers({
    ...withoutLocks,
    ...options.lock ? { locks } : {},
    clock,
    asksForNames: rootSquash !== undefined,
    hasAcls: options.acl,
  });
  const groupsOf = idMaps === undefined ? {} : { groupsOf: mappedGroupsOf(idMaps) };
  const unsquashed = withForeignSetgid(plain, { ...fileSystem, ...groupsOf });
  const handlers = rootSquash === undefined
    ? unsquashed
    : squashRoot(unsquashed, fileSystem.names, rootSquash);
  const kernel = new KernelSession({
    fd: mount.fd,
    handlers: idMaps === undefined
      ? handlers
      : mapIds(handlers, idMaps, { isRootSquashed: rootSquash !== undefined }),
    log,
    options: {
      trace: start.trace ?? false,
      cacheSymlinks: options.atime !== "strict",
      posixAcl: options.acl,
    },
  });
  kernelSession = kernel;
  const notifier = new KernelNotifier({ fd: mount.fd });
  const endGuard = guardMount(mount, log);
  kernelCache.attach(notifier);
  const stopping = new AbortController();
  const background = files.run(stopping.signal);
  const ended = kernel.run(stopping.signal);

  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => stopped ??= end();
  const end = async (): Promise<void> => {
    // What is buffered goes out first: unmounting must not depend on a cluster that may be gone.
    await within(files.finish(), FINISH_TIMEOUT_MS);
    kernelCache.attach(null);
    const notified = notifier.close();
    try {
      await unmountFuse(mount.mountpoint);
    } catch (error) {
      log.warn("the mount is busy; detaching it", { mountpoint: mount.mountpoint, error });
      await unmountFuse(mount.mountpoint, { lazy: true }).catch((failure) =>
        log.error("not unmounted", { failure })
      );
      await abortConnection(mount.deviceMinor);
    }
    await within(ended, 1_000);
    stopping.abort();
    await within(Promise.all([ended, background, notified]), 1_000);
    await within(Promise.all([files.finish(), accessTimes.tell()]), 500);
    await session.close();
    dataservers.close();
    libc.close(mount.fd);
    endGuard();
    log.info("unmounted", { mountpoint: mount.mountpoint });
  };
  try {
    await withinOrFail(kernel.initialized, INIT_TIMEOUT_MS, "the kernel did not start the FUSE session");
  } catch (error) {
    await stop();
    throw error;
  }
  await raiseReadAhead(mount.deviceNumber, READ_AHEAD_KIB);
  log.info("mounted", {
    mountpoint: mount.mountpoint,
    nameserver,
    ...(rootSquash === undefined ? {} : { root: `${rootSquash.uid}:${rootSquash.gid}` }),
    ...(idMaps === undefined ? {} : { uidmap: String(idMaps.users), gidmap: String(idMaps.groups) }),
  });
  // Unmounted from outside: the rest ends, too.
  void ended.then(() => stop());
  return {
    mountpoint: mount.mountpoint,
    ended: ended.then(() => stop()),
    counters: () => ({ kernel: kernel.requestCounts, calls: { ...session.calls } }),
    metrics: () => {
      const { meter, readBytes, writtenBytes } = kernel.figures;
      const figures = {
        meter,
        readBytes,
        writtenBytes,
        counters: counters(),
        caches,
        pending: kernel.pendingCount,
      };
      return mountMetrics(mount.mountpoint, { ...figures, isValid: session.isValid });
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** Names a mount point among all machines, boots and mount namespaces. */
async function placeOf(mountpoint: string): Promise<string> {
  const boot = (await Deno.readTextFile("/proc/sys/kernel/random/boot_id")).trim();
  const namespace = await Deno.readLink("/proc/self/ns/mnt");
  return `${boot} ${namespace} ${await Deno.realPath(mountpoint).catch(() => mountpoint)}`;
}

async function makeMountpoint(mountpoint: string): Promise<void> {
  try {
    await Deno.mkdir(mountpoint, { recursive: true });
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return; // mountFuse says what is wrong with it
    throw new FsError("EACCES", `mount point ${mountpoint} can't be made: ${(error as Error).message}`, {
      op: "mount",
      cause: error,
    });
  }
}

async function withinOrFail(work: Promise<unknown>, ms: number, message: string): Promise<void> {
  if (!await within(work, ms)) throw new FsError("ETIMEDOUT", message, { op: "mount" });
  await work;
}
