/** `mfs mount`, `umount` and `singlenode`: what puts the file system on a directory of this machine. */

import type { Command } from "commander";
import { RoleSettings } from "../admin/config.ts";
import type { Singlenode } from "../singlenode/singlenode.ts";
import { printLine, serveUntilStopped, UsageError } from "../admin/process.ts";
import { NOBODY, type UserIds } from "../admin/units.ts";
import {
  address,
  command,
  idRanges,
  integer,
  joinOptions,
  type LogFlags,
  logOf,
  type MountOptionFlags,
  mountOptionsOf,
  need,
  reloadOf,
  usage,
  userIds,
  watched,
  withConfig,
  withHttp,
  withLog,
  withMountOptions,
  withTracing,
} from "./flags.ts";

/** Where the log of a mount in the background goes, unless told. */
const MOUNT_LOG = "mfs-mount.log";

withTracing(withHttp(withConfig(withLog(withMountOptions(command(
  "mount",
  "Mounts the file system; returns once it is mounted and leaves a process in the background.",
  "mfs mount 10.0.0.1:7400 /mnt/mfs -o noatime",
))))))
  .argument("[nameserver]", "HOST:PORT of the cluster's nameserver; or --nameserver", address)
  .argument("[mountpoint]", "an empty directory; or --mountpoint")
  .option("--nameserver <host:port>", "the cluster's nameserver, in a configuration file", address)
  .option("--mountpoint <dir>", "where to mount, in a configuration file")
  .option(
    "--root-squash [uid:gid]",
    "root of this machine counts as this user (default: 65534:65534)",
    userIds,
  )
  .option(
    "--uidmap <local:cluster:count>",
    "users of this machine who have other numbers in the cluster; several ranges: with + between them",
    idRanges,
  )
  .option("--gidmap <local:cluster:count>", "the same of groups", idRanges)
  .option("--foreground", "stay in the foreground, log to stderr")
  .option("--host <name>", "label of this machine: replicas on it are read first", Deno.hostname())
  .option("--rack <name>", "label of its rack: replicas in it are read next", "")
  .action(
    async (givenServer: string | undefined, givenPoint: string | undefined, _options, self: Command) => {
      const settings = new RoleSettings(self);
      settings.merge();
      const flags = self.opts<
        MountFlags & {
          foreground?: boolean;
          rootSquash?: UserIds | true;
          nameserver?: string;
          mountpoint?: string;
        }
      >();
      const nameserver = need(givenServer ?? flags.nameserver, "HOST:PORT of the nameserver");
      const mountpoint = need(givenPoint ?? flags.mountpoint, "the directory to mount on");
      const squash = flags.rootSquash === true ? NOBODY : flags.rootSquash;
      const given = mountOptionsOf(flags);
      const o = squash === undefined
        ? given
        : joinOptions(`root_squash=${squash.uid}:${squash.gid}`, given || undefined);
      const options = { ...flags, o };
      const all = [
        o,
        flags.uidmap === undefined ? "" : `uidmap=${flags.uidmap}`,
        flags.gidmap === undefined ? "" : `gidmap=${flags.gidmap}`,
      ].filter((option) => option !== "").join(",");
      const { Assembly, checkMountOptions } = await import("../singlenode/assembly.ts");
      await usage(() => checkMountOptions(all));
      if (options.foreground !== true) {
        const isLevelGiven = self.getOptionValueSource("logLevel") === "cli";
        return await mountInBackground(nameserver, mountpoint, options, isLevelGiven);
      }
      const log = logOf("mfs", flags, self);
      const reload = reloadOf(settings, log);
      await serveUntilStopped("mount", log, async (signal) => {
        const assembly = new Assembly(log, signal);
        const { host, rack } = options;
        const { http, tracing } = flags;
        const page = { role: "mount", http, tracing, log, metrics: () => assembly.metrics() } as const;
        return await watched(page, async () => {
          const { ended } = await assembly.startMount({ nameserver, mountpoint, host, rack, options: all });
          return { stop: () => assembly.stop(), ended, failed: assembly.failed };
        });
      }, reload);
    },
  );

interface MountFlags extends LogFlags, MountOptionFlags {
  readonly config?: string;
  readonly http?: string;
  readonly tracing?: boolean;
  readonly host: string;
  readonly rack: string;
  readonly uidmap?: string;
  readonly gidmap?: string;
}

/** `isLevelGiven`: by a flag; otherwise the other process finds the level by itself, also when it is told to look again. */
async function mountInBackground(
  nameserver: string,
  mountpoint: string,
  flags: MountFlags,
  isLevelGiven: boolean,
): Promise<void> {
  const { absolutePath, startInBackground, stateDirectory } = await import("../admin/self.ts");
  const logFile = flags.logFile === undefined
    ? `${stateDirectory()}/${MOUNT_LOG}`
    : absolutePath(flags.logFile);
  const started = await startInBackground([
    ...["mount", nameserver, absolutePath(mountpoint), "--foreground"],
    ...["--host", flags.host, "--rack", flags.rack],
    ...["--log-file", logFile, ...flags.logJson ? ["--log-json"] : []],
    ...isLevelGiven ? ["--log-level", flags.logLevel] : [],
    ...flags.o ? ["-o", flags.o] : [],
    // Ranges add up: as flags they are not taken from the file once more.
    ...flags.uidmap === undefined ? [] : ["--uidmap", flags.uidmap],
    ...flags.gidmap === undefined ? [] : ["--gidmap", flags.gidmap],
    ...flags.http === undefined ? [] : ["--http", flags.http],
    ...flags.tracing ? ["--tracing"] : [],
    ...flags.config === undefined ? [] : ["--config", absolutePath(flags.config)],
  ]);
  if (started.ready) {
    printLine(`mounted on ${mountpoint} by process ${started.pid}`);
    Deno.exit(0);
  }
  printLine(started.message, Deno.stderr);
  Deno.exit(started.code);
}

command("umount", "Unmounts a MaggieFS mount of this machine.", "mfs umount /mnt/mfs")
  .argument("<mountpoint>")
  .option("--lazy", "take the mount away now, end it when its last user has gone")
  .action(async (mountpoint: string, options: { lazy?: boolean }) => {
    const { umount } = await import("../admin/umount.ts");
    await umount(mountpoint, { lazy: options.lazy === true });
  });

withTracing(withHttp(withLog(
  withMountOptions(command(
    "singlenode",
    "Runs a whole cluster on this machine and mounts it, until Ctrl-C.",
    "mfs singlenode /tmp/mfs",
  )),
  "warn",
)))
  .argument("[mountpoint]", "where to mount; made when missing; default: mnt under the directory")
  .option("--dataservers <n>", "dataservers (default: 3, or what the directory has)", integer(1, 64))
  .option(
    "--volumes <n>",
    "volumes of each dataserver (default: 1, or what the directory has)",
    integer(1, 64),
  )
  .option("--replication <n>", "replicas of a new file", integer(1, 16), 2)
  .option("--dir <dir>", "keep the cluster here; without it a temporary directory, removed at the end")
  .option("--processes", "one process a role instead of one for all")
  .option("--listen <host:port>", "where the nameserver listens (default: a free port on loopback)", address)
  .action(async (mountpoint: string | undefined, _options, self: Command) => {
    const { replication, processes = false, ...options } = self.opts<
      LogFlags & MountOptionFlags & {
        dataservers?: number;
        volumes?: number;
        replication: number;
        dir?: string;
        processes?: boolean;
        listen?: string;
        http?: string;
        tracing?: boolean;
      }
    >();
    const mountOptions = mountOptionsOf(options);
    const { checkMountOptions } = await import("../singlenode/assembly.ts");
    await usage(() => checkMountOptions(mountOptions));
    if (processes && options.http !== undefined && options.http !== "off") {
      throw new UsageError("--http shows the roles of one process, so it does not go with --processes");
    }
    const { describe, startSinglenode } = await import("../singlenode/singlenode.ts");
    const log = logOf("mfs", options);
    const childFlags = [
      ...["--log-level", options.logLevel, ...options.logJson ? ["--log-json"] : []],
      ...options.tracing ? ["--tracing"] : [],
    ];
    const place = mountpoint === undefined ? {} : { mountpoint };
    await serveUntilStopped("singlenode", log, async (signal) => {
      const settings = {
        ...options,
        ...place,
        replication,
        processes,
        mountOptions,
        childFlags,
        log,
        signal,
      };
      let singlenode: Singlenode;
      const http = processes ? "off" : options.http;
      const { tracing } = options;
      return await watched(
        { role: "singlenode", http, tracing, log, metrics: () => singlenode.metrics() },
        async () => {
          singlenode = await startSinglenode(settings);
          printLine(describe(singlenode, replication, programName()));
          return singlenode;
        },
      );
    });
  });

/** How the user called us, for hints. */
function programName(): string {
  return Deno.env.get("MFS_PROGRAM") ?? "mfs";
}
