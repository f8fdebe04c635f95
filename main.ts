/**
 * The command line of `mfs`: parses arguments, merges the configuration file, and starts a role. Knows roles/ and
 * nothing below; each role's code is loaded only when its command runs, so that `--help` is quick.
 * Exit codes: 0, 1 for a failure (`mfs: WHAT: WHY` on stderr), 2 for wrong usage.
 */

import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { collect, CONFIG_DIR, configReference, configTemplate, RoleSettings } from "./roles/admin/config.ts";
import { NOBODY, parsePeriod, parseUserIds, type UserIds } from "./roles/admin/units.ts";
import {
  EXIT_USAGE,
  exitOnUncaughtErrors,
  exitWith,
  type Logger,
  type LogLevel,
  messageOf,
  openLog,
  printLine,
  programVersion,
  serveUntilStopped,
  UsageError,
} from "./roles/admin/process.ts";
import { MOUNT_HELPER, programArguments } from "./roles/admin/self.ts";
import type { BenchFlags } from "./roles/admin/bench/command.ts";
import type { FsckFlags } from "./roles/admin/fsck.ts";
import type { SetrepFlags } from "./roles/admin/setrep.ts";

const NAMESERVER_LISTEN = "127.0.0.1:7400";
const DATASERVER_LISTEN = "127.0.0.1:7401";
/** Where the log of a mount in the background goes, unless told. */
const MOUNT_LOG = "mfs-mount.log";

const program = new Command("mfs")
  .description("MaggieFS, a distributed POSIX file system for Linux.")
  .exitOverride()
  .configureOutput({ writeErr: () => {}, writeOut: (text) => printLine(text.trimEnd()) })
  .addHelpText("after", "\nExample: mfs singlenode /tmp/mfs\n\nEach command has its own --help.");

function command(usage: string, description: string, example: string): Command {
  return program.command(usage).description(description).addHelpText("after", `\nExample: ${example}`);
}

function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  };
}

function address(text: string): string {
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[^:\s]+):(\d{1,5})$/.exec(text)?.[1];
  if (port !== undefined && Number(port) <= 65535) return text;
  throw new InvalidArgumentError("It must be HOST:PORT.");
}

function userIds(text: string): UserIds {
  const user = parseUserIds(text);
  if (user !== undefined) return user;
  throw new InvalidArgumentError("It must be UID:GID, such as --root-squash=65534:65534.");
}

function joinOptions(value: string, before?: string): string {
  return before === undefined ? value : `${before},${value}`;
}

interface MountOptionFlags {
  readonly o?: string;
  readonly readOnly?: boolean;
  readonly nosuid?: boolean;
  readonly nodev?: boolean;
  readonly noexec?: boolean;
  readonly atime?: keyof typeof ATIME_OPTIONS;
}

const ATIME_OPTIONS = { relatime: "relatime", strict: "strictatime", off: "noatime" } as const;

/** -o, and flags that are short for options of it. */
function withMountOptions(target: Command): Command {
  return target
    .option(
      "-o <options>",
      "comma-separated: ro, nosuid, nodev, noexec, suid, dev, relatime, strictatime, noatime, nodiratime, allow_other, " +
        "sync, noacl, nolock, nowritebehind, root_squash, soft, timeout=SECONDS",
      joinOptions,
    )
    .option("--read-only", "nothing can be changed through it")
    .option("--nosuid", "setuid and setgid programs get no rights")
    .option("--nodev", "devices can't be opened")
    .option("--noexec", "no program can be run")
    .addOption(
      new Option("--atime <when>", "which reads set times of access: first after a change, each, none")
        .choices(Object.keys(ATIME_OPTIONS)),
    );
}

/** All of them as -o has them. */
function mountOptionsOf(flags: MountOptionFlags): string {
  return [
    flags.o ?? "",
    flags.readOnly ? "ro" : "",
    flags.nosuid ? "nosuid" : "",
    flags.nodev ? "nodev" : "",
    flags.noexec ? "noexec" : "",
    flags.atime === undefined ? "" : ATIME_OPTIONS[flags.atime],
  ].filter((option) => option !== "").join(",");
}

const logLevel = () =>
  new Option("--log-level <level>", "least severe lines to log").choices(["debug", "info", "warn", "error"]);

function withLog(target: Command, defaultLevel = "info"): Command {
  return target.option("--log-json", "log lines as JSON")
    .addOption(logLevel().default(defaultLevel))
    .option("--log-file <file>", "append the log to FILE instead of stderr");
}

function withConfig(target: Command): Command {
  return target.option(
    "--config <file>",
    `TOML file whose keys are the names of these flags; flags given here win (default: ${CONFIG_DIR}/${target.name()}.toml)`,
  );
}

interface LogFlags {
  readonly logJson?: boolean;
  readonly logLevel: LogLevel;
  readonly logFile?: string;
}

/** `live`: where the level is looked up each time. */
function logOf(role: string, flags: LogFlags, live?: Command) {
  const level = live === undefined ? flags.logLevel : () => live.opts<LogFlags>().logLevel;
  const settings = { json: flags.logJson === true, level };
  return openLog(role, flags.logFile === undefined ? settings : { ...settings, file: flags.logFile });
}

function need<T>(value: T | undefined, flag: string): T {
  if (value === undefined) throw new UsageError(`${flag} is missing`);
  return value;
}

withConfig(withLog(
  command(
    "nameserver",
    "Serves the namespace of a cluster and the leases on it.",
    "mfs nameserver --dir /var/lib/mfs/nameserver --listen 10.0.0.1:7400",
  ),
))
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
    const { Assembly } = await import("./roles/singlenode/assembly.ts");
    const log = logOf("mfs", options, self);
    const now = () => self.opts<{ repairRate: number }>();
    const reload = reloadOf(settings, ["logLevel", "repairRate"], log);
    await serveUntilStopped("nameserver", log, async (signal) => {
      const assembly = new Assembly(log, signal);
      await assembly.startNameserver({
        dir,
        listen: options.listen,
        replication: options.replication,
        sessionTtlMs: options.sessionTtl * 1000,
        leasesPerSession: options.leases,
        deadAfterMs: options.deadAfter * 1000,
        repairBytesPerSecond: () => now().repairRate * 1024 * 1024,
        inlineLimit: options.inlineLimit,
        ...(options.rootSquash === undefined ? {} : {
          rootSquash: {
            user: options.rootSquash === true ? NOBODY : options.rootSquash,
            exceptHosts: options.rootFrom ?? [],
          },
        }),
        ...(options.backupDir === undefined ? {} : {
          backup: {
            dir: options.backupDir,
            everyMs: options.backupEvery * 60_000,
            keep: options.backupKeep,
          },
        }),
      });
      return assembly;
    }, reload);
  });

/** What SIGHUP does; undefined: it stops the process, as there is no file that could have changed. */
function reloadOf(settings: RoleSettings, live: readonly string[], log: Logger): (() => void) | undefined {
  return settings.file === undefined ? undefined : () => settings.reload(live, log);
}

withConfig(withLog(
  command(
    "dataserver",
    "Keeps block replicas on the directories given, and mounts the file system too if asked.",
    "mfs dataserver --nameserver 10.0.0.1:7400 --volume /disks/1 --volume /disks/2 --listen 10.0.0.2:7401",
  ),
))
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
    const { Assembly, checkMountOptions } = await import("./roles/singlenode/assembly.ts");
    if (mount !== undefined) await usage(() => checkMountOptions(options.o ?? ""));
    const log = logOf("mfs", options, self);
    const now = () => self.opts<{ scrubRate: number }>();
    await serveUntilStopped(
      "dataserver",
      log,
      (signal) =>
        new Assembly(log, signal).startAll(async (assembly) => {
          await assembly.startDataserver({
            ...{ nameserver, volumes, listen, host, rack },
            scrubPeriodMs: options.scrubDays * 24 * 60 * 60_000,
            scrubBytesPerSecond: () => now().scrubRate * 1024 * 1024,
            trashRetentionMs: options.trashHours * 60 * 60_000,
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
          return assembly;
        }),
      reloadOf(settings, ["logLevel", "scrubRate"], log),
    );
  });

/** What `check` finds wrong is wrong usage. */
async function usage(check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}

withConfig(withLog(withMountOptions(command(
  "mount",
  "Mounts the file system; returns once it is mounted and leaves a process in the background.",
  "mfs mount 10.0.0.1:7400 /mnt/mfs -o noatime",
))))
  .argument("[nameserver]", "HOST:PORT of the cluster's nameserver; or --nameserver", address)
  .argument("[mountpoint]", "an empty directory; or --mountpoint")
  .option("--nameserver <host:port>", "the cluster's nameserver, in a configuration file", address)
  .option("--mountpoint <dir>", "where to mount, in a configuration file")
  .option(
    "--root-squash [uid:gid]",
    "root of this machine counts as this user (default: 65534:65534)",
    userIds,
  )
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
      const { Assembly, checkMountOptions } = await import("./roles/singlenode/assembly.ts");
      await usage(() => checkMountOptions(o));
      if (options.foreground !== true) return await mountInBackground(nameserver, mountpoint, options);
      const log = logOf("mfs", flags, self);
      const reload = reloadOf(settings, ["logLevel"], log);
      await serveUntilStopped("mount", log, async (signal) => {
        const assembly = new Assembly(log, signal);
        const { host, rack } = options;
        const mounted = await assembly.startMount({ nameserver, mountpoint, host, rack, options: o });
        return { stop: () => assembly.stop(), ended: mounted.ended, failed: assembly.failed };
      }, reload);
    },
  );

interface MountFlags extends LogFlags, MountOptionFlags {
  readonly config?: string;
  readonly host: string;
  readonly rack: string;
}

async function mountInBackground(nameserver: string, mountpoint: string, flags: MountFlags): Promise<void> {
  const { absolutePath, startInBackground, stateDirectory } = await import("./roles/admin/self.ts");
  const logFile = flags.logFile === undefined
    ? `${stateDirectory()}/${MOUNT_LOG}`
    : absolutePath(flags.logFile);
  const started = await startInBackground([
    ...["mount", nameserver, absolutePath(mountpoint), "--foreground"],
    ...["--host", flags.host, "--rack", flags.rack],
    ...["--log-file", logFile, "--log-level", flags.logLevel, ...flags.logJson ? ["--log-json"] : []],
    ...flags.o ? ["-o", flags.o] : [],
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
    const { umount } = await import("./roles/admin/umount.ts");
    await umount(mountpoint, { lazy: options.lazy === true });
  });

withLog(
  withMountOptions(command(
    "singlenode",
    "Runs a whole cluster on this machine and mounts it, until Ctrl-C.",
    "mfs singlenode /tmp/mfs",
  )),
  "warn",
)
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
      }
    >();
    const mountOptions = mountOptionsOf(options);
    const { checkMountOptions } = await import("./roles/singlenode/assembly.ts");
    await usage(() => checkMountOptions(mountOptions));
    const { describe, startSinglenode } = await import("./roles/singlenode/singlenode.ts");
    const log = logOf("mfs", options);
    const logFlags = ["--log-level", options.logLevel, ...options.logJson ? ["--log-json"] : []];
    const place = mountpoint === undefined ? {} : { mountpoint };
    await serveUntilStopped("singlenode", log, async (signal) => {
      const settings = { ...options, ...place, replication, processes, mountOptions, logFlags, log, signal };
      const singlenode = await startSinglenode(settings);
      printLine(describe(singlenode, replication, programName()));
      return singlenode;
    });
  });

/** How the user called us, for hints. */
function programName(): string {
  return Deno.env.get("MFS_PROGRAM") ?? "mfs";
}

command(
  "format",
  "Makes the directory of a new cluster's nameserver.",
  "mfs format --dir /var/lib/mfs/nameserver",
)
  .option("--dir <dir>", "directory to make (required)")
  .option("--force", "destroy the cluster that the directory holds")
  .option("--json", "answer as JSON")
  .action(async (options: { dir?: string; force?: boolean; json?: boolean }) => {
    const dir = need(options.dir, "--dir");
    const { formatNameserver } = await import("./roles/nameserver/nameserver.ts");
    const { clusterId } = await formatNameserver(dir, { force: options.force === true });
    printLine(options.json ? JSON.stringify({ clusterId, dir }) : `formatted ${dir}: cluster ${clusterId}`);
  });

command(
  "status",
  "Shows dataservers, volumes, space, files and health.",
  "mfs status --nameserver 10.0.0.1:7400",
)
  .option("--nameserver <host:port>", "the cluster's nameserver", address, NAMESERVER_LISTEN)
  .option("--json", "answer as JSON")
  .action(async (options: { nameserver: string; json?: boolean }) => {
    const { fetchStatus, formatStatus } = await import("./roles/admin/status.ts");
    const status = await fetchStatus(options.nameserver);
    printLine(options.json ? JSON.stringify(status) : formatStatus(status));
  });

command(
  "setrep",
  "Sets how many replicas a file has, or what is made in a directory from now on.",
  "mfs setrep -R 3 /mnt/mfs/results",
)
  .argument("<n>", "replicas of each block, 1 to 16; 0: the cluster's default", integer(0, 16))
  .argument("<path>", "on a mount of this machine; with --nameserver: within the file system, such as /a/b")
  .option("--nameserver <host:port>", "the cluster's nameserver", address)
  .option("-R, --recursive", "also of all files and directories below")
  .option(
    "--wait [seconds]",
    "wait until blocks have their replicas; so long at most (600)",
    integer(1, 10_000_000),
  )
  .option("--json", "answer as JSON")
  .action(async (replication: number, path: string, options: SetrepFlags) => {
    const { setrepCommand } = await import("./roles/admin/setrep.ts");
    await setrepCommand(replication, path, options);
  });

command(
  "fsck",
  "Checks the file system while it is in use: names, block maps, and every replica.",
  "mfs fsck --nameserver 10.0.0.1:7400 --repair",
)
  .argument(
    "[path]",
    "only what is below; on a mount, or with --nameserver within the file system (default: all)",
  )
  .option("--nameserver <host:port>", `the cluster's nameserver (default: ${NAMESERVER_LISTEN})`, address)
  .option("--repair", "repair what can be repaired without loss, and say what can't be and why")
  .option(
    "--wait <seconds>",
    "with --repair: wait so long at most for replicas to be made",
    integer(0, 10_000_000),
    600,
  )
  .option("--verify", "have the bytes of all replicas read, and compared with checksums and each other")
  .option(
    "--verify-rate <mib>",
    "MiB a second that --verify may read from one volume",
    integer(1, 1_000_000),
    64,
  )
  .option("--json", "answer as JSON")
  .addHelpText(
    "after",
    "\nExit code: 0 clean; 1 problems remain; 2 wrong usage; 3 no problem was found, but something could not be checked.",
  )
  .action(async (path: string | undefined, options: FsckFlags) => {
    const { fsckCommand } = await import("./roles/admin/fsck.ts");
    await fsckCommand(path, NAMESERVER_LISTEN, options);
  });

command(
  "backup",
  "Saves the cluster's metadata as of now in a file, while the cluster runs.",
  "mfs backup /backups/monday --nameserver 10.0.0.1:7400",
)
  .argument("<file>", "file to make")
  .option("--nameserver <host:port>", "the cluster's nameserver", address, NAMESERVER_LISTEN)
  .option("--force", "replace FILE if it exists")
  .option("--json", "answer as JSON")
  .action(async (file: string, options: { nameserver: string; force?: boolean; json?: boolean }) => {
    const { backup, formatBackup } = await import("./roles/admin/backup.ts");
    const result = await backup(options.nameserver, file, { force: options.force === true });
    printLine(options.json ? JSON.stringify(result) : formatBackup(result));
  });

command(
  "restore",
  "Makes a nameserver's directory from a backup.",
  "mfs restore /backups/monday --dir /var/lib/mfs/nameserver",
)
  .argument("<file>", "what `mfs backup` or the nameserver has made")
  .option("--dir <dir>", "directory to make (required)")
  .option("--force", "destroy the cluster that the directory holds")
  .option("--json", "answer as JSON")
  .action(async (file: string, options: { dir?: string; force?: boolean; json?: boolean }) => {
    const dir = need(options.dir, "--dir");
    const { restore } = await import("./roles/admin/restore.ts");
    const { restoreNameserver } = await import("./roles/nameserver/restore.ts");
    const force = options.force === true;
    printLine(
      await restore((onRecords) => restoreNameserver(file, dir, { force, onRecords }), dir, options.json),
    );
  });

function nodeCommand(name: string, description: string, example: string): Command {
  return command(name, description, example)
    .argument("<node>", "number, host or address of a dataserver, as `mfs status` shows them")
    .option("--nameserver <host:port>", "the cluster's nameserver", address, NAMESERVER_LISTEN)
    .option("--json", "answer as JSON");
}

nodeCommand(
  "decommission",
  "Moves all blocks of a dataserver to others, so that it can be taken away; waits until that is done.",
  "mfs decommission node3",
)
  .option("--no-wait", "return once it has begun")
  .option("--force", "begin although the others have no place for its blocks yet")
  .action(async (node: string, options: NodeFlags & { wait: boolean; force?: boolean }) => {
    const { decommission, describeDecommission } = await import("./roles/admin/nodes.ts");
    const { interruptible } = await import("./roles/admin/interrupt.ts");
    const { nameserver, wait, force = false } = options;
    const note = (text: string) => printLine(`mfs: decommission: ${text}`, Deno.stderr);
    const result = await interruptible((signal) =>
      decommission({ nameserver, node, wait, force, signal, note })
    );
    printLine(options.json ? JSON.stringify(result) : describeDecommission(result));
  });

nodeCommand(
  "recommission",
  "Puts a dataserver back in service that was decommissioned, or is just being.",
  "mfs recommission node3",
).action(async (node: string, options: NodeFlags) => {
  const { describeRecommission, recommission } = await import("./roles/admin/nodes.ts");
  const result = await recommission({ nameserver: options.nameserver, node });
  printLine(options.json ? JSON.stringify(result) : describeRecommission(result));
});

nodeCommand(
  "maintenance",
  "Lets a dataserver be away for a while without its blocks being copied elsewhere.",
  "mfs maintenance node3 --for 2h",
)
  .option("--for <time>", "from now on: 90s, 30m, 2h, 1d", period)
  .option("--end", "it is over")
  .action(async (node: string, options: NodeFlags & { for?: number; end?: boolean }) => {
    if ((options.for === undefined) === (options.end === undefined)) {
      throw new UsageError("give either --for TIME or --end");
    }
    const { describeMaintenance, maintain } = await import("./roles/admin/nodes.ts");
    const result = await maintain({ nameserver: options.nameserver, node, seconds: options.for ?? 0 });
    printLine(options.json ? JSON.stringify(result) : describeMaintenance(result));
  });

interface NodeFlags {
  readonly nameserver: string;
  readonly json?: boolean;
}

function period(text: string): number {
  const seconds = parsePeriod(text);
  if (seconds !== undefined) return seconds;
  throw new InvalidArgumentError("It must be a number with s, m, h or d, such as 2h.");
}

command(
  "balance",
  "Moves blocks from fuller volumes to emptier ones until all are about equally full.",
  "mfs balance --threshold 5",
)
  .option("--nameserver <host:port>", "the cluster's nameserver", address, NAMESERVER_LISTEN)
  .option("--threshold <percent>", "how far off the mean a volume may be", integer(1, 100), 10)
  .option("--json", "answer as JSON")
  .action(async (options: { nameserver: string; threshold: number; json?: boolean }) => {
    const { balance, describeBalance } = await import("./roles/admin/balance.ts");
    const { interruptible } = await import("./roles/admin/interrupt.ts");
    const { nameserver, threshold } = options;
    const result = await interruptible((signal) =>
      balance({ nameserver, threshold: threshold / 100, signal })
    );
    printLine(options.json ? JSON.stringify(result) : describeBalance(result));
  });

command(
  "bench",
  "Measures how quick the file system is that holds a directory, in a directory that it makes and removes there.",
  "mfs bench /mnt/mfs",
)
  .argument("[dir]", "a directory on a mount, or on any other file system to compare with")
  .option("--only <names>", "only these workloads, with commas between", names)
  .option("--skip <names>", "not these", names)
  .option("--scale <factor>", "multiplies counts and sizes; 1 takes up to 512 MiB", scale, 1)
  .option("--limit <seconds>", "a workload ends after so long", integer(1, 3600), 30)
  .option("--cold", "also those that begin with empty caches; empties the whole machine's, as root")
  .option("--list", "show what the workloads are")
  .option("--json", "answer as JSON")
  .action(async (dir: string | undefined, options: BenchFlags) => {
    const { benchCommand } = await import("./roles/admin/bench/command.ts");
    await benchCommand(dir, options);
  });

function names(text: string): readonly string[] {
  return text.split(",").filter((name) => name !== "");
}

function scale(text: string): number {
  const value = /^\d{1,3}(\.\d{1,4})?$/.test(text) ? Number(text) : NaN;
  if (value >= 0.001 && value <= 100) return value;
  throw new InvalidArgumentError("It must be a number from 0.001 to 100.");
}

// What `mfs bench` starts for itself.
program.command("bench-worker <settings>", { hidden: true }).action(async (settings: string) => {
  const { runWorker } = await import("./roles/admin/bench/worker.ts");
  await runWorker(JSON.parse(settings));
});

command(
  "config",
  "Shows a role's settings as a configuration file to edit, or checks one.",
  "mfs config dataserver > /etc/mfs/dataserver.toml",
)
  .addArgument(new Argument("<role>", "whose").choices(["nameserver", "dataserver", "mount"]))
  .option("--check <file>", "whether FILE is right for the role; nothing is started")
  .option("--reference", "show them as a table in Markdown")
  .action((name: string, { check, reference }: { check?: string; reference?: boolean }) => {
    const role = program.commands.find((one) => one.name() === name)!;
    if (check !== undefined) {
      role.setOptionValueWithSource("config", check, "cli");
      new RoleSettings(role).merge();
      printLine(`${check}: right`);
    } else printLine(reference === true ? configReference(role) : configTemplate(role));
  });

command("version", "Shows the version.", "mfs version --json")
  .option("--json", "answer as JSON")
  .action((options: { json?: boolean }) => {
    const version = programVersion();
    const text = `mfs ${version.mfs} (Deno ${version.deno}, ${version.os} ${version.arch})`;
    printLine(options.json ? JSON.stringify(version) : text);
  });

/** The command that the arguments name, for messages. */
function commandName(): string {
  const [first] = programArguments();
  return program.commands.some((candidate) => candidate.name() === first) ? first! : "usage";
}

async function main(): Promise<never> {
  const what = commandName();
  exitOnUncaughtErrors(what);
  const args = programArguments();
  if (args[0] === MOUNT_HELPER) {
    const { runMountHelper } = await import("./roles/admin/mount_helper.ts");
    const { checkMountOptions } = await import("./roles/singlenode/assembly.ts");
    await runMountHelper(args.slice(1), checkMountOptions);
  }
  try {
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) exitWith(what, error);
    if (error.exitCode === 0) Deno.exit(0);
    if (error.code === "commander.help") {
      printLine(program.helpInformation().trimEnd(), Deno.stderr);
      Deno.exit(EXIT_USAGE);
    }
    const hint = what === "usage" ? "mfs --help" : `mfs ${what} --help`;
    exitWith(what, new UsageError(`${messageOf(error).replace(/^error: /, "")} (see ${hint})`));
  }
  Deno.exit(0);
}

await main();
