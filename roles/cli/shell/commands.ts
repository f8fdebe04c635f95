/**
 * The commands of the shell, as cliffy takes them: parameters, options, and what they do. They print nothing but their
 * answer, and fail with one line; names in answers are as formatPath shows them.
 */

import type { Command, Commands, Parameter } from "cliffy";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { REPLICATION_MAX } from "../../../wire/messages/admin.ts";
import { DT_DIR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../../../wire/messages/inode.ts";
import { formatAttributes, getAttributes, parseAssignment } from "../../admin/attributes.ts";
import { formatPath, locate } from "../../admin/fs_path.ts";
import { Progress } from "../../admin/progress.ts";
import { setrep } from "../../admin/setrep.ts";
import { fetchStatus, formatStatus } from "../../admin/status.ts";
import { size as sizeText } from "../../admin/units.ts";
import type { FileAttributes, FsClient } from "../../mount/client.ts";
import { readable } from "./errors.ts";
import { longLine, modeText, statText } from "./listing.ts";
import { cat, get, type OnProgress, put } from "./transfer.ts";
import { baseName, bytesOfPath, joinPath, normalPath, textOfPath } from "./words.ts";

/** Removals on their way. */
const REMOVALS = 8;

/** What commands work on; the shell has one, and gives each command a signal. */
export interface Environment {
  readonly nameserver: string;
  readonly client: FsClient;
  /** Aborts when the command is to end. */
  readonly signal: AbortSignal;
  /** Where relative paths begin; normal. */
  cwd: string;
  readonly write: (bytes: Uint8Array) => void;
  readonly print: (line: string) => void;
  /** Shows how a transfer goes, until `end`. */
  readonly progress: (label: string) => { readonly update: OnProgress; readonly end: () => void };
  /** After this command the shell ends. */
  exit(): void;
}

/** Which of a command's arguments are paths, for completion; "local": of this machine. */
export type Place = "remote" | "local" | "command" | "none";

export interface ShellCommand extends Command {
  readonly parameters: Parameter[];
  /** Where the argument of that number leads; what is behind the last is as the last. */
  readonly places: readonly Place[];
  readonly options: { readonly label: string; readonly description: string }[];
  readonly description: string;
}

/** What was given; those without brackets in the definition are there. */
interface Given {
  readonly named: Readonly<Record<string, string>>;
  /** Of the parameter with dots. */
  readonly rest: readonly string[];
  readonly options: Readonly<Record<string, boolean>>;
}

type Action = (env: Environment, given: Given) => Promise<void> | void;

/** `usage` as in `[-r] FROM... [TO]`: brackets are optional, dots stand for more. */
function define(
  description: string,
  parameters: readonly string[],
  options: Readonly<Record<string, string>>,
  places: readonly Place[],
  run: Action,
): (environment: () => Environment) => ShellCommand {
  return (environment) => ({
    description,
    parameters: parameters.map((text) => {
      const label = text.replace(/[[\].]/g, "");
      return { label, optional: text.startsWith("["), ...text.includes("...") ? { rest: true } : {} };
    }),
    options: Object.entries(options).map(([label, description]) => ({ label, description })),
    places,
    action: async (params: Record<string, string | string[]>, options) => {
      const values = Object.values(params);
      const rest = values.find((value) => Array.isArray(value)) as string[] | undefined;
      await run(environment(), { named: params as Record<string, string>, rest: rest ?? [], options });
    },
  });
}

const REMOTE: readonly Place[] = ["remote"];

const DEFINITIONS = {
  ls: define(
    "lists directories and files",
    ["[path...]"],
    {
      l: "type and mode, links, owner, group, size, time of change",
      a: "also names that begin with a dot",
      d: "directories themselves, not what is in them",
    },
    REMOTE,
    list,
  ),
  cd: define("changes the directory (without a path: to the root)", ["[path]"], {}, REMOTE, changeDirectory),
  pwd: define("shows the directory", [], {}, [], (env) => env.print(shown(env.cwd))),
  cat: define("shows what is in files", ["path..."], {}, REMOTE, async (env, { rest: paths }) => {
    needed(paths);
    for (const path of paths) await at(path, () => cat(env.client, remote(env, path), env.write, env.signal));
  }),
  get: define("copies a file to this machine", ["from", "[to]"], {
    r: "directories with all that is in them",
  }, [
    "remote",
    "local",
  ], getFile),
  put: define(
    "copies a file of this machine into the file system",
    ["from", "[to]"],
    {
      r: "directories with all that is in them",
    },
    ["local", "remote"],
    putFile,
  ),
  rm: define(
    "removes files",
    ["path..."],
    {
      r: "directories with all that is in them",
      f: "what is not there is no failure",
    },
    REMOTE,
    remove,
  ),
  mkdir: define(
    "makes directories",
    ["path..."],
    { p: "also those on the way; one that exists is no failure" },
    REMOTE,
    makeDirectories,
  ),
  rmdir: define("removes empty directories", ["path..."], {}, REMOTE, async (env, { rest: paths }) => {
    needed(paths);
    for (const path of paths) await at(path, () => env.client.removeDirectory(remote(env, path)));
  }),
  mv: define("moves or renames; several only into a directory", ["from", "to..."], {}, REMOTE, move),
  ln: define(
    "gives a file another name",
    ["target", "name"],
    { s: "a symbolic link to the text TARGET" },
    REMOTE,
    link,
  ),
  stat: define("shows what is known of a file", ["path..."], {}, REMOTE, async (env, { rest: paths }) => {
    needed(paths);
    for (const path of paths) {
      await at(path, async () => {
        const bytes = remote(env, path);
        const attributes = await env.client.stat(bytes, false);
        const target = isType(attributes, S_IFLNK) ? formatPath(await env.client.readLink(bytes)) : undefined;
        env.print(statText(shown(path), attributes, target));
      });
    }
  }),
  du: define(
    "shows how much room files and directories take, in KiB",
    ["[path...]"],
    {
      s: "only sums",
      h: "in larger units",
    },
    REMOTE,
    diskUsage,
  ),
  df: define("shows the room of the whole file system, in KiB", [], { h: "in larger units" }, [], diskFree),
  locations: define(
    "shows a file's blocks: first byte, end, hosts",
    ["path"],
    {},
    REMOTE,
    async (env, { named: { path } }) => {
      await at(path!, async () => env.write(await env.client.blockLocations(remote(env, path!))));
    },
  ),
  attributes: define(
    "shows what is inherited of a directory, such as replication, and from where",
    ["path"],
    {},
    REMOTE,
    showAttributes,
  ),
  set: define(
    "sets such an attribute: KEY=VALUE",
    ["path", "assignment"],
    { R: "also of all that is below" },
    ["remote", "none"],
    setAttribute,
  ),
  setrep: define(
    "sets how many replicas a file has, or what is made in a directory",
    ["replicas", "path"],
    {
      R: "also of all that is below",
    },
    ["none", "remote"],
    setReplicas,
  ),
  status: define("shows dataservers, volumes, space and health", [], {}, [], async (env) => {
    env.print(formatStatus(await fetchStatus(env.nameserver)));
  }),
  help: define(
    "shows the commands, or one",
    ["[command]"],
    {},
    ["command"],
    (env, { named: { command } }) => {
      env.print(help(command));
    },
  ),
  exit: define("ends the shell", [], {}, [], (env) => env.exit()),
};

export type CommandName = keyof typeof DEFINITIONS;

/** All of them, for cliffy's parsers. Without a prototype: `constructor` is no command. */
export function makeCommands(environment: () => Environment): Commands & Record<string, ShellCommand> {
  const commands: Record<string, ShellCommand> = Object.create(null);
  for (const [name, make] of Object.entries(DEFINITIONS)) commands[name] = make(environment);
  return commands;
}

/** `command` as it is to be used, such as `get [-r] FROM [TO]`. */
export function usageOf(name: string, { parameters, options }: ShellCommand): string {
  const words = parameters.map(({ label, optional, rest }) => {
    const word = `${label.toUpperCase()}${rest ? "..." : ""}`;
    return optional ? `[${word}]` : word;
  });
  return [name, ...options.map(({ label }) => `[-${label}]`), ...words].join(" ");
}

function help(command: string | undefined): string {
  const commands = makeCommands(() => {
    throw new Error("nothing is run for its help");
  });
  if (command === undefined) {
    const usages = Object.entries(commands).map(([name, one]) => [usageOf(name, one), one.description]);
    const width = Math.max(...usages.map(([usage]) => usage!.length));
    return usages.map(([usage, description]) => `${usage!.padEnd(width)}  ${description}`).join("\n");
  }
  const one = commands[command];
  if (one === undefined) throw new Error(`${command}: no such command`);
  const options = one.options.map(({ label, description }) => `  -${label}  ${description}`);
  return [`${usageOf(command, one)}: ${one.description}`, ...options].join("\n");
}

// ---- paths

function remote({ cwd }: Environment, path: string): Uint8Array {
  return bytesOfPath(joinPath(cwd, path));
}

function below(directory: string, name: string): string {
  return joinPath(directory === "" ? "." : directory, name);
}

function shown(path: string): string {
  return formatPath(bytesOfPath(path));
}

function isType({ mode }: FileAttributes, type: number): boolean {
  return (mode & S_IFMT) === type;
}

/** The root, "." and "..". */
function hasNoName(path: string): boolean {
  return /(^|\/)\.{0,2}\/*$/.test(path);
}

function needed(paths: readonly string[]): void {
  if (paths.length === 0) throw new Error("a path is missing");
}

/** What fails names the path. */
async function at<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw readable(error, shown(path));
  }
}

async function isDirectory(client: FsClient, path: Uint8Array): Promise<boolean> {
  try {
    return isType(await client.stat(path, true), S_IFDIR);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return false;
    throw error;
  }
}

/** `to`, or in that directory under the name of `from`. */
async function into({ client, cwd }: Environment, from: string, to: string): Promise<string> {
  if (!await isDirectory(client, bytesOfPath(joinPath(cwd, to)))) return to;
  const name = baseName(from);
  // Of the root, "." and "..": what is in them goes there, as no name can be taken from them.
  return name === "" || name === "." || name === ".." ? to : below(to, name);
}

async function sortedNames(client: FsClient, path: Uint8Array): Promise<{ name: string; type: number }[]> {
  const names: { name: string; type: number }[] = [];
  for await (const { name, type } of client.list(path)) names.push({ name: textOfPath(name), type });
  return names.sort((a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
}

// ---- looking

async function list(env: Environment, { rest: paths, options }: Given) {
  const { client } = env;
  const given = paths.length === 0 ? ["."] : paths.toSorted();
  const lines = async (directory: string, names: readonly string[], labels: readonly string[]) => {
    if (!options.l) return labels.map((label) => shown(label));
    const entries = [];
    for (const [i, name] of names.entries()) {
      env.signal.throwIfAborted();
      try {
        const path = remote(env, below(directory, name));
        const attributes = await client.stat(path, false);
        const target = isType(attributes, S_IFLNK) ? formatPath(await client.readLink(path)) : undefined;
        entries.push({ name: shown(labels[i]!), attributes, target });
      } catch (error) {
        // Removed since it was listed.
        if (directory === "" || !isErrno(error, "ENOENT")) throw readable(error, shown(labels[i]!));
      }
    }
    return longLine(entries);
  };
  const directories: string[] = [];
  const files: string[] = [];
  for (const path of given) {
    const attributes = await at(path, async () => {
      const direct = await client.stat(remote(env, path), false);
      // As ls: a link on the command line is followed, but with -l.
      if (!isType(direct, S_IFLNK) || options.l || options.d) return direct;
      return await client.stat(remote(env, path), true).catch(() => direct);
    });
    (isType(attributes, S_IFDIR) && !options.d ? directories : files).push(path);
  }
  for (const line of await lines("", files, files)) env.print(line);
  for (const [i, path] of directories.entries()) {
    if (given.length > 1) env.print(`${i > 0 || files.length > 0 ? "\n" : ""}${shown(path)}:`);
    await at(path, async () => {
      const names = (await sortedNames(client, remote(env, path))).map(({ name }) => name)
        .filter((name) => options.a || !name.startsWith("."));
      for (const line of await lines(path, names, names)) env.print(line);
    });
  }
}

async function changeDirectory(env: Environment, { named: { path = "/" } }: Given) {
  await at(path, async () => {
    const target = normalPath(joinPath(env.cwd, path));
    if (!isType(await env.client.stat(bytesOfPath(target), true), S_IFDIR)) {
      throw new FsError("ENOTDIR", "not a directory");
    }
    // What may not be searched is told now: looking at "." in it is.
    await env.client.stat(bytesOfPath(joinPath(target, "./.")), true);
    env.cwd = target;
  });
}

async function diskUsage(env: Environment, { rest: paths, options }: Given) {
  const seen = new Set<number>();
  const show = (blocks: number, path: string) => {
    env.print(`${options.h ? sizeText(blocks * 512) : Math.ceil(blocks / 2)}\t${shown(path)}`);
  };
  const walk = async (path: string, isGiven: boolean): Promise<number> => {
    env.signal.throwIfAborted();
    const attributes = await env.client.stat(remote(env, path), false);
    if (attributes.nlink > 1 && !isType(attributes, S_IFDIR)) {
      if (seen.has(attributes.ino)) return 0;
      seen.add(attributes.ino);
    }
    let { blocks } = attributes;
    if (isType(attributes, S_IFDIR)) {
      for await (const { name } of env.client.list(remote(env, path))) {
        const child = below(path, textOfPath(name));
        try {
          blocks += await walk(child, false);
        } catch (error) {
          if (!isErrno(error, "ENOENT")) throw readable(error, shown(child));
        }
      }
      if (!options.s && !isGiven) show(blocks, path);
    }
    if (isGiven) show(blocks, path);
    return blocks;
  };
  for (const path of paths.length === 0 ? ["."] : paths) await at(path, () => walk(path, true));
}

async function diskFree(env: Environment, { options }: Given) {
  const { blocks, blocksFree, blocksAvailable, blockSize, files } = await env.client.statfs();
  const amount = (count: number) =>
    options.h ? sizeText(count * blockSize) : String(count * blockSize / 1024);
  const used = blocks - blocksFree;
  const share = used + blocksAvailable === 0 ? 0 : Math.ceil((used / (used + blocksAvailable)) * 100);
  env.print("size\tused\tavailable\tuse\tinodes");
  env.print([amount(blocks), amount(used), amount(blocksAvailable), `${share}%`, files].join("\t"));
}

// ---- transfers

async function withProgress(env: Environment, path: string, work: (onProgress: OnProgress) => Promise<void>) {
  const progress = env.progress(shown(path));
  try {
    await at(path, () => work(progress.update));
  } finally {
    progress.end();
  }
}

async function getFile(env: Environment, { named: { from, to }, options }: Given) {
  const name = baseName(normalPath(joinPath(env.cwd, from!)));
  const target: string = to ?? (name === "" ? "." : name);
  await refuseMount(target);
  const isThere = await isLocalDirectory(target);
  const attributes = await at(from!, () => env.client.stat(remote(env, from!), true));
  if (!isType(attributes, S_IFDIR)) {
    return await getOne(env, from!, isThere ? `${target}/${name}` : target);
  }
  if (!options.r) throw new FsError("EISDIR", `${shown(from!)}: it is a directory: get -r takes all of it`);
  await getTree(env, from!, isThere && to !== undefined && name !== "" ? `${target}/${name}` : target);
}

async function getOne(env: Environment, from: string, to: string) {
  await withProgress(
    env,
    from,
    (onProgress) => get(env.client, remote(env, from), to, onProgress, env.signal),
  );
}

async function getTree(env: Environment, from: string, to: string) {
  await localPart(to, () => Deno.mkdir(to, { recursive: true }));
  for (const { name } of await at(from, () => sortedNames(env.client, remote(env, from)))) {
    env.signal.throwIfAborted();
    const [source, target] = [below(from, name), `${to}/${name}`];
    const attributes = await at(source, () => env.client.stat(remote(env, source), false));
    if (isType(attributes, S_IFDIR)) await getTree(env, source, target);
    else if (isType(attributes, S_IFREG)) await getOne(env, source, target);
    else if (isType(attributes, S_IFLNK)) {
      const leadsTo = textOfPath(await at(source, () => env.client.readLink(remote(env, source))));
      await localPart(target, () => Deno.symlink(leadsTo, target));
    } else {
      const type = modeText(attributes.mode)[0];
      throw new Error(`${shown(source)}: ${type}: only files, directories and symbolic links are copied`);
    }
  }
}

async function putFile(env: Environment, { named: { from, to }, options }: Given) {
  await refuseMount(from!);
  const { isDirectory, isFile } = await localPart(from!, () => Deno.stat(from!));
  const given: string = to ?? ".";
  const absolute = await localPart(from!, () => Deno.realPath(from!));
  const name = hasNoName(from!) ? absolute : from!;
  const target = await at(given, () => into(env, name, given));
  if (isDirectory && !options.r) {
    throw new FsError("EISDIR", `${from}: it is a directory: put -r takes all of it`);
  }
  if (isDirectory) return await putTree(env, from!, target);
  if (!isFile) throw new Error(`${from}: only files, directories and symbolic links are copied`);
  await putOne(env, from!, target);
}

async function putOne(env: Environment, from: string, to: string) {
  await withProgress(env, to, (onProgress) => put(env.client, from, remote(env, to), onProgress, env.signal));
}

async function putTree(env: Environment, from: string, to: string) {
  await at(to, async () => {
    if (!await isDirectory(env.client, remote(env, to))) await env.client.makeDirectory(remote(env, to));
  });
  const names = await localPart(from, () => Array.fromAsync(Deno.readDir(from)));
  for (const { name, isDirectory: isTree, isFile, isSymlink } of names) {
    env.signal.throwIfAborted();
    const [source, target] = [`${from}/${name}`, below(to, name)];
    if (isTree) await putTree(env, source, target);
    else if (isFile) await putOne(env, source, target);
    else if (isSymlink) {
      const leadsTo = await localPart(source, () => Deno.readLink(source));
      await at(target, () => env.client.symlink(bytesOfPath(leadsTo), remote(env, target)));
    } else throw new Error(`${source}: only files, directories and symbolic links are copied`);
  }
}

/**
 * Local files are worked on in this thread: on a mount of the same cluster, which may wait for a lease of ours meanwhile, both
 * would stand still until our session ends.
 */
async function refuseMount(path: string): Promise<void> {
  const directory = path.replace(/\/*[^/]*\/*$/, "") || (path.startsWith("/") ? "/" : ".");
  for (const place of [path, directory]) {
    const isOnMount = await locate(place, undefined).then(() => true, () => false);
    if (isOnMount) {
      throw new Error(`${path} is on a mount of MaggieFS: use cp there, or a path of this shell`);
    }
  }
}

async function localPart<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw readable(error, `${path} on this machine`);
  }
}

async function isLocalDirectory(path: string): Promise<boolean> {
  return await Deno.stat(path).then(({ isDirectory }) => isDirectory, () => false);
}

// ---- changing

async function makeDirectories(env: Environment, { rest: paths, options }: Given) {
  needed(paths);
  for (const path of paths) {
    if (!options.p) {
      await at(path, () => env.client.makeDirectory(remote(env, path)));
      continue;
    }
    // From the first on that is missing; "." and ".." are looked up on the way.
    const names = path.split("/");
    for (let count = 1; count <= names.length; count++) {
      const part = names.slice(0, count).join("/") || "/";
      await at(path, async () => {
        if (await isDirectory(env.client, remote(env, part))) return;
        await env.client.makeDirectory(remote(env, part));
      });
    }
  }
}

async function remove(env: Environment, { rest: paths, options }: Given) {
  if (!options.f) needed(paths);
  for (const path of paths) {
    await at(path, async () => {
      if (hasNoName(path)) throw new Error("the root, . and .. stay");
      try {
        const attributes = await env.client.stat(remote(env, path), false);
        if (!isType(attributes, S_IFDIR)) return await env.client.removeFile(remote(env, path));
        if (!options.r) throw new FsError("EISDIR", "it is a directory");
        await removeTree(env, path);
      } catch (error) {
        if (!options.f || !isErrno(error, "ENOENT")) throw error;
      }
    });
  }
}

async function removeTree(env: Environment, directory: string): Promise<void> {
  const { client, signal } = env;
  const running = new Set<Promise<void>>();
  const failures: unknown[] = [];
  // Names that come while others go are not missed: the directory is not empty then, which is told.
  for await (const { name, type } of client.list(remote(env, directory))) {
    if (failures.length > 0 || signal.aborted) break;
    const path = below(directory, textOfPath(name));
    if (type === DT_DIR) {
      await removeTree(env, path);
      continue;
    }
    const removal: Promise<void> = client.removeFile(remote(env, path))
      .catch((error) => {
        if (!isErrno(error, "ENOENT")) failures.push(readable(error, shown(path)));
      }).finally(() => running.delete(removal));
    running.add(removal);
    if (running.size >= REMOVALS) await Promise.race(running);
  }
  await Promise.all(running);
  signal.throwIfAborted();
  if (failures.length > 0) throw failures[0];
  await client.removeDirectory(remote(env, directory));
}

async function move(env: Environment, { named: { from }, rest }: Given) {
  const all = [from!, ...rest];
  const to = all.pop()!;
  if (all.length === 0) throw new Error("it is missing where to move to");
  if (all.length > 1 && !await at(to, () => isDirectory(env.client, remote(env, to)))) {
    throw new FsError("ENOTDIR", `${shown(to)}: not a directory`);
  }
  for (const source of all) {
    await at(source, async () => {
      await env.client.rename(remote(env, source), remote(env, await into(env, source, to)));
    });
  }
}

async function link(env: Environment, { named: { target, name }, options }: Given) {
  await at(name!, async () => {
    const path = remote(env, await into(env, target!, name!));
    if (options.s) await env.client.symlink(bytesOfPath(target!), path);
    else await env.client.link(remote(env, target!), path);
  });
}

async function setReplicas(env: Environment, { named: { replicas, path }, options }: Given) {
  if (!/^\d{1,2}$/.test(replicas!) || Number(replicas) > REPLICATION_MAX) {
    throw new Error(`${replicas}: replicas are a whole number from 0 to ${REPLICATION_MAX}`);
  }
  await at(path!, async () => {
    const place = placeOf(env, path!);
    const isQuiet = !Deno.stderr.isTerminal();
    const progress = (label: string) =>
      new Progress({ label, unit: "inodes", ...isQuiet ? { write: () => {} } : {} });
    const result = await setrep(place, {
      replication: Number(replicas),
      recursive: options.R === true,
      progress,
    });
    const { replicas: count, inodes, changed } = result;
    env.print(`replication ${count}; ${changed} of ${inodes} files and directories changed`);
  });
}

async function showAttributes(env: Environment, { named: { path } }: Given) {
  await at(path!, async () => env.print(formatAttributes(await getAttributes(placeOf(env, path!)))));
}

async function setAttribute(env: Environment, { named: { path, assignment }, options }: Given) {
  const { key, value, set } = parseAssignment(assignment!);
  await at(path!, async () => {
    const result = await set({ path: placeOf(env, path!), value, recursive: options.R === true });
    env.print(`${key}=${value}; ${result.changed} of ${result.inodes} files and directories changed`);
  });
}

/** For what asks the nameserver by itself: it wants paths without "." and "..", and follows no symbolic link. */
function placeOf({ nameserver, cwd }: Environment, path: string) {
  return { nameserver, path: bytesOfPath(normalPath(joinPath(cwd, path))) };
}
