/**
 * This program under the name mount.mfs: what mount(8) runs for `mount -t mfs HOST:PORT DIR -o ...`, for /etc/fstab and
 * for autofs. Takes the arguments and answers by the exit codes of mount(8), and is `mfs mount` otherwise. Under the name
 * mount.fuse.mfs, by the type that mounts are listed with, it is asked to change one that is there.
 */

import { messageOf, printLine } from "./process.ts";
import { absolutePath, selfCommand, startInBackground, stateDirectory } from "./self.ts";

/** mount(8), "EXIT STATUS". */
const EXIT = { usage: 1, system: 2, internal: 4, failed: 32 } as const;

/** Of mount(8) and fstab(5): not for file systems, but for those who read fstab; or what is so in any case. */
const IGNORED = new Set([
  ...["defaults", "auto", "noauto", "user", "nouser", "users", "owner", "noowner", "group", "nogroup"],
  ...["nofail", "fail", "_netdev", "_rnetdev", "bg", "fg", "silent", "loud", "mand", "nomand"],
  ...["iversion", "noiversion", "lazytime", "nolazytime", "norelatime", "nostrictatime"],
]);
const IGNORED_WITH_VALUE = /^(?:[xX]-[^=]*|comment|user|uhelper|helper)(?:=|$)/;
/** What the kernel itself keeps of a mount, and can change. */
const OF_THE_KERNEL = new Set([
  ...["ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync"],
]);
/** Options that are flags of `mfs mount`. */
const FLAGS: Readonly<Record<string, string>> = {
  host: "--host",
  rack: "--rack",
  log_file: "--log-file",
  log_level: "--log-level",
};

export interface HelperArguments {
  readonly source: string;
  readonly dir: string;
  /** What `mfs mount -o` takes. */
  readonly options: readonly string[];
  /** Flags of `mfs mount` that options stand for. */
  readonly flags: readonly string[];
  /** A mount that is there is given these of the kernel's options; nothing is mounted. */
  readonly remount: readonly string[] | undefined;
  readonly fake: boolean;
  /** Options that are not known are left out. */
  readonly sloppy: boolean;
  readonly verbose: boolean;
  /** A mount namespace to mount in: a process id or a path. */
  readonly namespace: string | undefined;
}

export class HelperUsageError extends Error {
  override readonly name = "HelperUsageError";
}

/** SOURCE DIR [-sfnvrw] [-N NAMESPACE] [-t TYPE] [-o OPTIONS], in any order. Throws HelperUsageError. */
export function parseHelperArguments(args: readonly string[]): HelperArguments {
  const places: string[] = [];
  const options: string[] = [];
  const letters = new Set<string>();
  let namespace: string | undefined;
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (!/^-./.test(arg)) {
      places.push(arg);
      continue;
    }
    for (let at = 1; at < arg.length; at++) {
      const letter = arg[at]!;
      if ("sfnvrw".includes(letter)) {
        letters.add(letter);
        continue;
      }
      if (!"Not".includes(letter)) throw new HelperUsageError(`unknown flag -${letter}`);
      // Its value is the rest of the word, or the next.
      const value = arg.slice(at + 1) || args[++i];
      if (value === undefined) throw new HelperUsageError(`-${letter} needs a value`);
      if (letter === "N") namespace = value;
      if (letter === "o") options.push(...value.split(","));
      if (letter === "t" && !/^(fuse\.)?mfs$/.test(value)) {
        throw new HelperUsageError(`type ${value} is not mfs`);
      }
      break;
    }
  }
  const [source, dir, ...more] = places;
  if (source === undefined || dir === undefined || more.length > 0) {
    throw new HelperUsageError("usage: mount.mfs HOST:PORT DIR [-sfnv] [-N namespace] [-o options]");
  }
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[^:\s/]+):(\d{1,5})$/.exec(source)?.[1];
  if (port === undefined || Number(port) > 65535) {
    throw new HelperUsageError(`${source} is not HOST:PORT of a nameserver`);
  }
  if (letters.has("r")) options.push("ro");
  if (letters.has("w")) options.push("rw");
  const ours = options.filter((option) =>
    option !== "" && !IGNORED.has(option) && !IGNORED_WITH_VALUE.test(option)
  );
  return {
    ...{ source, dir, namespace },
    options: ours.filter((option) => flagOf(option) === undefined),
    flags: ours.flatMap((option) => flagOf(option) ?? []),
    remount: options.includes("remount") ? ours.filter((option) => OF_THE_KERNEL.has(option)) : undefined,
    fake: letters.has("f"),
    sloppy: letters.has("s"),
    verbose: letters.has("v"),
  };
}

/** `rack=r1` as flags of `mfs mount`, if it is one of those. */
function flagOf(option: string): readonly string[] | undefined {
  const at = option.indexOf("=");
  const flag = at < 0 ? undefined : FLAGS[option.slice(0, at)];
  return flag === undefined ? undefined : [flag, option.slice(at + 1)];
}

/** Runs mount.mfs and ends the process. `check`: rejects when `mfs mount -o` would not take it. */
export async function runMountHelper(
  args: readonly string[],
  check: (options: string) => Promise<void>,
): Promise<never> {
  let parsed: HelperArguments;
  let options: readonly string[];
  try {
    parsed = parseHelperArguments(args);
    if (parsed.remount !== undefined && parsed.namespace === undefined) {
      return await remount(parsed.dir, parsed.remount, parsed.fake);
    }
    options = parsed.remount === undefined ? await takenOptions(parsed, check) : [];
  } catch (error) {
    return fail(EXIT.usage, error);
  }
  if (parsed.fake) Deno.exit(0);
  try {
    if (parsed.namespace !== undefined) return await runInNamespace(parsed.namespace, args);
    return await mount(parsed, options);
  } catch (error) {
    return fail(EXIT.system, error);
  }
}

/**
 * The rest of what mount(8) names then is what the mount has already. It is asked again without its helpers; by its path, as
 * it gives us no PATH.
 */
async function remount(dir: string, options: readonly string[], fake: boolean): Promise<never> {
  if (fake) Deno.exit(0);
  const args = ["-i", "-o", ["remount", ...options].join(","), "--", dir];
  const { code } = await new Deno.Command("/bin/mount", { args, stdin: "null" }).spawn().status;
  Deno.exit(code);
}

async function takenOptions(
  { options, sloppy }: HelperArguments,
  check: (options: string) => Promise<void>,
): Promise<readonly string[]> {
  if (!sloppy) {
    await check(options.join(","));
    return options;
  }
  const taken: string[] = [];
  for (const option of options) {
    const isKnown = await check(option).then(() => true, () => false);
    if (isKnown) taken.push(option);
  }
  return taken;
}

async function mount({ source, dir, flags, verbose }: HelperArguments, options: readonly string[]) {
  const started = await startInBackground([
    ...["mount", source, absolutePath(dir), "--foreground"],
    ...(flags.includes("--log-file") ? [] : ["--log-file", `${stateDirectory()}/mfs-mount.log`]),
    ...flags,
    ...(options.length === 0 ? [] : ["-o", options.join(",")]),
  ]);
  if (started.ready) {
    if (verbose) printLine(`mount.mfs: ${source} mounted on ${dir} by process ${started.pid}`);
    Deno.exit(0);
  }
  const why = started.message.replace(/^mfs: mount: /, "");
  const isBug = why.startsWith("internal error");
  return fail(started.code === 2 ? EXIT.usage : isBug ? EXIT.internal : EXIT.failed, why);
}

/** A process with several threads cannot enter another mount namespace itself (setns(2)): nsenter of util-linux does. */
async function runInNamespace(namespace: string, args: readonly string[]): Promise<never> {
  const rest: string[] = [];
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "-N") i++;
    else if (!args[i]!.startsWith("-N")) rest.push(args[i]!);
  }
  const path = /^\d+$/.test(namespace) ? `/proc/${namespace}/ns/mnt` : namespace;
  const { program, env } = selfCommand();
  const { code } = await new Deno.Command("/usr/bin/nsenter", {
    args: [`--mount=${path}`, "--", program, "mount.mfs", ...rest],
    env: { ...env },
  }).spawn().status;
  Deno.exit(code);
}

function fail(code: number, why: unknown): never {
  printLine(`mount.mfs: ${messageOf(why)}`, Deno.stderr);
  Deno.exit(code);
}
