/** `mfs nameserver` and `mfs dataserver`. */

import type { Command } from "commander";
import { collect, RoleSettings } from "../admin/config.ts";
import { serveUntilStopped, UsageError } from "../admin/process.ts";
import { NOBODY, type UserIds } from "../admin/units.ts";
import {
  address,
  command,
  DATASERVER_LISTEN,
  integer,
  joinOptions,
  type LogFlags,
  logOf,
  NAMESERVER_LISTEN,
  need,
  reloadOf,
  usage,
  userIds,
  watched,
  withConfig,
  withHttp,
  withLog,
  withTracing,
} from "./flags.ts";

withTracing(withHttp(withConfig(withLog(
  command(
    "nameserver",
    "Serves the namespace of a cluster and the leases on it.",
    "mfs nameserver --dir /var/lib/mfs/nameserver --listen 10.0.0.1:7400",
  ),
))))
  .option("--dir <dir>", "directory that `mfs format` made (required)")
  .option(
    "--listen <host:port>",
    "where clients and dataservers connect; port 0: any",
    address,
    NAMESERVER_LISTEN,
  )
  .option("--replication <n>", "replicas of a new file", integer(1, 16), 3)
  .option(
    "--session-ttl <seconds>",
    "a client that is silent for so long loses what it holds; kernels cache for a little less",
    integer(2, 3600),
    10,
  )
  .option(
    "--leases <n>",
    "leases that one client may hold, before the oldest are recalled",
    integer(1_000, 100_000_000),
    200_000,
  )
  .option(
    "--dead-after <seconds>",
    "a dataserver that is silent for so long is lost: its blocks get other replicas",
    integer(1, 86_400),
    30,
  )
  .option(
    "--repair-rate <mib>",
    "MiB a second that making new replicas may take, in all",
    integer(1, 1_000_000),
    128,
  )
  .option(
    "--inline-limit <bytes>",
    "files up to this size are kept with the namespace, without dataservers; 0: none",
    integer(0, 65_536),
    4096,
  )
  .option(
    "--root-squash [uid:gid]",
    "root of client machines counts as this user (default: 65534:65534)",
    userIds,
  )
  .option("--root-from <host>", "but not of the machine with that label; repeat it for more", collect)
  .option("--backup-dir <dir>", "save backups of the namespace here (on another disk than --dir)")
  .option("--backup-every <minutes>", "minutes from one backup to the next", integer(1, 100_000), 60)
  .option("--backup-keep <n>", "backups to keep; older ones are removed", integer(1, 100_000), 24)
  .action(async (_options, self: Command) => {
    const settings = new RoleSettings(self);
    settings.merge();
    const options = self.opts<
      LogFlags & {
        http?: string;
        tracing?: boolean;
        dir?: string;
        listen: string;
        replication: number;
        sessionTtl: number;
        leases: number;
        deadAfter: number;
        repairRate: number;
        inlineLimit: number;
        rootSquash?: UserIds | true;
        rootFrom?: string[];
        backupDir?: string;
        backupEvery: number;
        backupKeep: number;
      }
    >();
    const dir = need(options.dir, "--dir");
    if (options.rootFrom !== undefined && options.rootSquash === undefined) {
      throw new UsageError("--root-from says whose root stays root, so it goes with --root-squash");
    }
    const { Assembly } = await import("../singlenode/assembly.ts");
    const log = logOf("mfs", options, self);
    const now = () => self.opts<typeof options>();
    const reload = reloadOf(settings, log);
    await serveUntilStopped("nameserver", log, async (signal) => {
      const assembly = new Assembly(log, signal);
      const page = {
        role: "nameserver",
        http: options.http,
        tracing: options.tracing,
        log,
        metrics: () => assembly.metrics(),
      } as const;
      return await watched(page, async () => {
        await assembly.startNameserver({
          dir,
          listen: options.listen,
          replication: options.replication,
          sessionTtlMs: options.sessionTtl * 1000,
          leasesPerSession: () => now().leases,
          deadAfterMs: () => now().deadAfter * 1000,
          repairBytesPerSecond: () => now().repairRate * 1024 * 1024,
          inlineLimit: options.inlineLimit,
          ...(options.rootSquash === undefined ? {} : {
            rootSquash: {
              user: options.rootSquash === true ? NOBODY : options.rootSquash,
              exceptHosts: options.rootFrom ?? [],
            },
          }),
          backup: () => {
            const { backupDir, backupEvery, backupKeep } = now();
            if (backupDir === undefined) return undefined;
            return { dir: backupDir, everyMs: backupEvery * 60_000, keep: backupKeep };
          },
        });
        return { stop: () => assembly.stop(), failed: assembly.failed };
      });
    }, reload);
  });

withTracing(withHttp(withConfig(withLog(
  command(
    "dataserver",
    "Keeps block replicas on the directories given, and mounts the file system too if asked.",
    "mfs dataserver --nameserver 10.0.0.1:7400 --volume /disks/1 --volume /disks/2 --listen 10.0.0.2:7401",
  ),
))))
  .option("--nameserver <host:port>", "the cluster's nameserver (required)", address)
  .option("--volume <dir>", "directory for replicas; repeat it for more (required)", collect)
  .option(
    "--listen <host:port>",
    "where clients and dataservers connect; port 0: any",
    address,
    DATASERVER_LISTEN,
  )
  .option("--host <name>", "label of this machine: replicas of a block go to different ones", Deno.hostname())
  .option(
    "--scrub-days <days>",
    "every replica is read and compared with its checksums once in so long; 0: never",
    integer(0, 3650),
    14,
  )
  .option("--scrub-rate <mib>", "MiB a second that this may read from one volume", integer(1, 100_000), 32)
  .option(
    "--trash-hours <hours>",
    "replicas that nobody claims are kept for so long, unless their volume runs full",
    integer(0, 87_600),
    24,
  )
  .option("--rack <name>", "label of its rack: replicas of a block go to two at least", "")
  .option("--mount <mountpoint>", "mount the file system here as well, with direct access to these volumes")
  .option("-o <options>", "mount options, comma-separated", joinOptions)
  .action(async (_options, self: Command) => {
    const settings = new RoleSettings(self);
    settings.merge();
    const options = self.opts<
      LogFlags & {
        http?: string;
        tracing?: boolean;
        nameserver?: string;
        volume?: readonly string[];
        listen: string;
        host: string;
        scrubDays: number;
        scrubRate: number;
        trashHours: number;
        rack: string;
        mount?: string;
        o?: string;
      }
    >();
    const nameserver = need(options.nameserver, "--nameserver");
    const volumes = need(options.volume, "--volume");
    const { host, rack, listen, mount } = options;
    const { Assembly, checkMountOptions } = await import("../singlenode/assembly.ts");
    if (mount !== undefined) await usage(() => checkMountOptions(options.o ?? ""));
    const log = logOf("mfs", options, self);
    const now = () => self.opts<typeof options>();
    await serveUntilStopped(
      "dataserver",
      log,
      (signal) =>
        new Assembly(log, signal).startAll((assembly) => {
          const metrics = () => assembly.metrics();
          const { http, tracing } = options;
          return watched({ role: "dataserver", http, tracing, log, metrics }, async () => {
            await assembly.startDataserver({
              ...{ nameserver, volumes, listen, host, rack },
              scrubPeriodMs: () => now().scrubDays * 24 * 60 * 60_000,
              scrubBytesPerSecond: () => now().scrubRate * 1024 * 1024,
              trashRetentionMs: () => now().trashHours * 60 * 60_000,
            });
            if (mount !== undefined) {
              const mounted = await assembly.startMount({
                nameserver,
                mountpoint: mount,
                host,
                rack,
                options: options.o ?? "",
              });
              void mounted.ended.then(() =>
                log.warn("unmounted; the dataserver goes on", { mountpoint: mount })
              );
            }
            return { stop: () => assembly.stop(), failed: assembly.failed };
          });
        }),
      reloadOf(settings, log),
    );
  });
