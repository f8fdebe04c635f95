/** Commands that look after a cluster, and end when they are done. */

import { Argument, type Command, InvalidArgumentError } from "commander";
import type { AttributeFlags } from "../admin/attributes.ts";
import type { BenchFlags } from "../admin/bench/command.ts";
import { collect, configReference, configTemplate, RoleSettings } from "../admin/config.ts";
import type { DoctorFlags } from "../admin/doctor.ts";
import type { DuFlags } from "../admin/du.ts";
import type { FsckFlags } from "../admin/fsck.ts";
import type { LocationsFlags } from "../admin/locations.ts";
import { printLine, programVersion, UsageError } from "../admin/process.ts";
import type { SetrepFlags } from "../admin/setrep.ts";
import type { StatusFlags } from "../admin/status.ts";
import { parsePeriod } from "../admin/units.ts";
import type { Shell } from "./completion.ts";
import type { ShellFlags } from "./shell/command.ts";
import { address, command, integer, NAMESERVER_LISTEN, need, program } from "./flags.ts";

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
    const { formatNameserver } = await import("../nameserver/nameserver.ts");
    const { clusterId } = await formatNameserver(dir, { force: options.force === true });
    printLine(options.json ? JSON.stringify({ clusterId, dir }) : `formatted ${dir}: cluster ${clusterId}`);
  });

command(
  "status",
  "Shows dataservers, volumes, space, files and health.",
  "mfs status --nameserver 10.0.0.1:7400",
)
  .option("--nameserver <host:port>", "the cluster's nameserver", address, NAMESERVER_LISTEN)
  .option("--watch [seconds]", "again and again, until Ctrl-C; so long apart (2)", integer(1, 86_400))
  .option("--json", "answer as JSON; with --watch a line each time")
  .action(async (options: StatusFlags) => {
    const { statusCommand } = await import("../admin/status.ts");
    await statusCommand(options);
  });

command(
  "locations",
  "Shows where the blocks of a file lie, or how much of a directory's files each host has.",
  "mfs locations /mnt/mfs/results/run1",
)
  .argument("<path>", "on a mount of this machine; with --nameserver: within the file system, such as /a/b")
  .option("--nameserver <host:port>", "the cluster's nameserver", address)
  .option("--json", "answer as JSON")
  .action(async (path: string, options: LocationsFlags) => {
    const { locationsCommand } = await import("../admin/locations.ts");
    await locationsCommand(path, options);
  });

command(
  "du",
  "Counts files, directories and the room that they take, at the nameserver.",
  "mfs du --depth 1 /mnt/mfs/results",
)
  .argument(
    "[path]",
    "only what is below; on a mount, or with --nameserver within the file system (default: all)",
  )
  .option("--nameserver <host:port>", `the cluster's nameserver (default: ${NAMESERVER_LISTEN})`, address)
  .option("--depth <n>", "also of each directory so far below", integer(0, 1_000_000), 0)
  .option("--json", "answer as JSON")
  .action(async (path: string | undefined, options: DuFlags) => {
    const { duCommand } = await import("../admin/du.ts");
    await duCommand(path, NAMESERVER_LISTEN, options);
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
    const { setrepCommand } = await import("../admin/setrep.ts");
    await setrepCommand(replication, path, options);
  });

command(
  "get",
  "Shows the attributes that a file or directory has, and where it has them from.",
  "mfs get /mnt/mfs/results",
)
  .argument("<path>", "on a mount of this machine; with --nameserver: within the file system, such as /a/b")
  .option("--nameserver <host:port>", "the cluster's nameserver", address)
  .option("--json", "answer as JSON")
  .action(async (path: string, options: AttributeFlags) => {
    const { getCommand } = await import("../admin/attributes.ts");
    await getCommand(path, options);
  });

command(
  "set",
  "Sets an attribute of a file, or of a directory and what is made in it from now on.",
  "mfs set /mnt/mfs/results replication=3",
)
  .argument("<path>", "on a mount of this machine; with --nameserver: within the file system, such as /a/b")
  .argument("<key=value>", "replication=N (1 to 16, or default): replicas of each block")
  .option("--nameserver <host:port>", "the cluster's nameserver", address)
  .option("-R, --recursive", "also of all files and directories below")
  .option("--json", "answer as JSON")
  .action(async (path: string, assignment: string, options: AttributeFlags) => {
    const { setCommand } = await import("../admin/attributes.ts");
    await setCommand(path, assignment, options);
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
    const { fsckCommand } = await import("../admin/fsck.ts");
    await fsckCommand(path, NAMESERVER_LISTEN, options);
  });

command(
  "doctor",
  "Looks for what is wrong with this machine, with disks for volumes and with a cluster, and says what to do.",
  "mfs doctor --nameserver 10.0.0.1:7400 --volume /disks/1",
)
  .option("--nameserver <host:port>", "look at this cluster, too", address)
  .option(
    "--volume <dir>",
    "a volume's directory, for a file of up to 64 MiB; several times for several",
    collect,
  )
  .option("--json", "answer as JSON")
  .addHelpText("after", "\nExit code: 0 no problem, though maybe warnings; 1 problems; 2 wrong usage.")
  .action(async (options: DoctorFlags) => {
    const { doctorCommand } = await import("../admin/doctor.ts");
    await doctorCommand(options);
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
    const { backup, formatBackup } = await import("../admin/backup.ts");
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
    const { restore } = await import("../admin/restore.ts");
    const { restoreNameserver } = await import("../nameserver/restore.ts");
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
    const { decommission, describeDecommission } = await import("../admin/nodes.ts");
    const { interruptible } = await import("../admin/interrupt.ts");
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
  const { describeRecommission, recommission } = await import("../admin/nodes.ts");
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
    const { describeMaintenance, maintain } = await import("../admin/nodes.ts");
    const result = await maintain({ nameserver: options.nameserver, node, seconds: options.for ?? 0 });
    printLine(options.json ? JSON.stringify(result) : describeMaintenance(result));
  });

nodeCommand(
  "forget",
  "Takes a dataserver that is gone for good, or one of its volumes, out of the lists.",
  "mfs forget node3",
)
  .option("--volume <id>", "only this volume of it, by number", integer(1, 999_999_999))
  .option("--force", "although blocks count on it: those that are nowhere else are missing until it is back")
  .action(async (node: string, options: NodeFlags & { volume?: number; force?: boolean }) => {
    const { describeForget, forget } = await import("../admin/nodes.ts");
    const { nameserver, volume, force = false } = options;
    const of = volume === undefined ? {} : { volume };
    const result = await forget({ nameserver, node, ...of, force });
    printLine(options.json ? JSON.stringify(result) : describeForget(result, volume !== undefined));
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
    const { balance, describeBalance } = await import("../admin/balance.ts");
    const { interruptible } = await import("../admin/interrupt.ts");
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
    const { benchCommand } = await import("../admin/bench/command.ts");
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
  const { runWorker } = await import("../admin/bench/worker.ts");
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

command(
  "completion",
  "Prints what makes a shell complete commands and flags of mfs.",
  "mfs completion bash > /usr/share/bash-completion/completions/mfs",
)
  .addArgument(new Argument("<shell>", "which").choices(["bash", "zsh", "fish"]))
  .action(async (shell: Shell) => {
    const { completion } = await import("./completion.ts");
    printLine(completion(program, shell));
  });

command("man", "Prints the man page mfs(1).", "mfs man | man -l -").action(async () => {
  const { manPage } = await import("./man_page.ts");
  printLine(manPage(program));
});

command(
  "shell",
  "Looks at files and moves data on a cluster that is not mounted: commands typed, of -c, or on stdin.",
  "mfs shell --nameserver 10.0.0.1:7400 -c 'put results.csv /results; ls -l /results'",
)
  .option("--nameserver <host:port>", "the cluster's nameserver", address, NAMESERVER_LISTEN)
  .option("-c <commands>", "run these, with ; or line ends between them")
  .option("--host <name>", "label of this machine: replicas on it are read first", Deno.hostname())
  .option("--rack <name>", "label of its rack: replicas in it are read next", "")
  .addHelpText(
    "after",
    "\nIts command `help` shows what there is. Exit code: 0; 1 and one line at the first command that fails, " +
      "but on a terminal; 2 wrong usage.",
  )
  .action(async (flags: ShellFlags) => {
    const { shellCommand } = await import("./shell/command.ts");
    await shellCommand(flags);
  });

command("version", "Shows the version.", "mfs version --json")
  .option("--json", "answer as JSON")
  .action((options: { json?: boolean }) => {
    const version = programVersion();
    const text = `mfs ${version.mfs} (Deno ${version.deno}, ${version.os} ${version.arch})`;
    printLine(options.json ? JSON.stringify(version) : text);
  });
