/**
 * What lies where under a singlenode's directory, and who may use it:
 *
 *     lock                      held by the running singlenode
 *     nameserver/               the namespace
 *     dataserver1/volume1 ...   block replicas
 *     mnt/                      the mount point, unless another was given
 *
 * The directories themselves say how large the cluster is: nothing else is remembered.
 * Invariant: `nameserver/` appears by a rename, whole, before the first dataserver directory does.
 */

import { FsError } from "../../wire/errno.ts";
import { withinMs } from "../admin/process.ts";
import { umount } from "../admin/umount.ts";

const LOCK_WAIT_MS = 300;
const REMOVE_WAIT_MS = 1_500;
const TEMPORARY_PREFIX = "mfs-singlenode-";

export interface LayoutRequest {
  /** Absent: a temporary directory, removed by `close`. */
  readonly dir?: string;
  readonly mountpoint?: string;
  /** Absent: what is there, at least the default. */
  readonly dataservers?: number;
  readonly volumes?: number;
}

export interface Layout {
  readonly dir: string;
  readonly isTemporary: boolean;
  readonly nameserverDir: string;
  /** The volume directories of each dataserver. */
  readonly dataservers: readonly (readonly string[])[];
  readonly mountpoint: string;
  /** Gives the directory back, and removes it when it is temporary and nothing is mounted in it. */
  close(): Promise<void>;
}

export const DATASERVERS_DEFAULT = 3;
export const VOLUMES_DEFAULT = 1;

/** Makes or finds the directories. `format` makes a new nameserver directory. Throws FsError. */
export async function openLayout(
  request: LayoutRequest,
  format: (dir: string) => Promise<unknown>,
): Promise<Layout> {
  const isTemporary = request.dir === undefined;
  if (isTemporary) await removeLeftovers();
  const dir = isTemporary
    ? await Deno.makeTempDir({ prefix: TEMPORARY_PREFIX })
    : await makeDir(request.dir!);
  const lock = await takeLock(dir);
  const close = async () => {
    lock.close();
    if (isTemporary && !holdsMount(dir)) await removeTree(dir);
  };
  try {
    const nameserverDir = `${dir}/nameserver`;
    const dataservers = planDataservers(dir, request);
    if (!exists(nameserverDir)) {
      const unfinished = `${dir}/nameserver.new`;
      await Deno.remove(unfinished, { recursive: true }).catch(() => {});
      await format(unfinished);
      await Deno.rename(unfinished, nameserverDir);
    }
    for (const volume of dataservers.flat()) await Deno.mkdir(volume, { recursive: true });
    const mountpoint = absolute(request.mountpoint ?? `${dir}/mnt`);
    return { dir, isTemporary, nameserverDir, dataservers, mountpoint, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function absolute(path: string): string {
  return path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
}

async function makeDir(path: string): Promise<string> {
  try {
    await Deno.mkdir(path, { recursive: true });
    return await Deno.realPath(path);
  } catch (error) {
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new FsError("EACCES", `no permission to make or use ${path}`, { op: "singlenode", cause: error });
    }
    const why = error instanceof Deno.errors.AlreadyExists || error instanceof Deno.errors.NotADirectory
      ? "is not a directory"
      : error instanceof Error
      ? error.message
      : String(error);
    throw new FsError("ENOTDIR", `${path} ${why}`, { op: "singlenode", cause: error });
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Names of `dir` that are `prefix` and a number: the largest number. */
function largestNumbered(dir: string, prefix: string): number {
  let largest = 0;
  if (!exists(dir)) return 0;
  for (const entry of Deno.readDirSync(dir)) {
    const digits = entry.name.startsWith(prefix) ? entry.name.slice(prefix.length) : "";
    if (/^[1-9]\d{0,3}$/.test(digits)) largest = Math.max(largest, Number(digits));
  }
  return largest;
}

/** The volume directories of each dataserver; refuses to leave some of the data that is there unused. */
function planDataservers(dir: string, request: LayoutRequest): string[][] {
  const serversThere = largestNumbered(dir, "dataserver");
  const isCluster = exists(`${dir}/nameserver`);
  if (!isCluster && serversThere > 0) {
    throw new FsError("ENOENT", `${dir} holds dataservers but their nameserver/ is missing`, {
      op: "singlenode",
    });
  }
  if (!isCluster) {
    const known = new Set(["lock", "mnt", "nameserver.new", "lost+found"]);
    const foreign = [...Deno.readDirSync(dir)].find((entry) => !known.has(entry.name));
    if (foreign !== undefined) {
      throw new FsError(
        "ENOTEMPTY",
        `${dir} holds ${foreign.name} and no cluster: give an empty or a new directory`,
        {
          op: "singlenode",
        },
      );
    }
  }
  const servers = request.dataservers ?? Math.max(serversThere, DATASERVERS_DEFAULT);
  if (servers < serversThere) throw leftBehind(dir, serversThere, "dataservers", servers);
  const plan: string[][] = [];
  for (let server = 1; server <= servers; server++) {
    const home = `${dir}/dataserver${server}`;
    const volumesThere = largestNumbered(home, "volume");
    const volumes = request.volumes ?? Math.max(volumesThere, VOLUMES_DEFAULT);
    if (volumes < volumesThere) throw leftBehind(home, volumesThere, "volumes", volumes);
    plan.push(Array.from({ length: volumes }, (_, i) => `${home}/volume${i + 1}`));
  }
  return plan;
}

function leftBehind(dir: string, there: number, what: string, asked: number): FsError {
  return new FsError("EINVAL", `${dir} holds ${there} ${what}: --${what} ${asked} would leave data behind`, {
    op: "singlenode",
  });
}

/** An exclusive flock on DIR/lock, which the kernel gives back when this process ends in any way. */
async function takeLock(dir: string): Promise<Deno.FsFile> {
  const lock = await tryLock(dir, { create: true });
  if (lock === undefined) {
    const owner = ownerOf(dir);
    const who = owner === undefined ? "" : ` (process ${owner})`;
    throw new FsError("EBUSY", `${dir} is in use by another singlenode${who}`, { op: "singlenode" });
  }
  lock.truncateSync(0);
  lock.writeSync(new TextEncoder().encode(`${Deno.pid}\n`));
  return lock;
}

/** The lock of `dir`, or undefined when somebody else holds it. Throws FsError EACCES. */
async function tryLock(dir: string, options: { create: boolean }): Promise<Deno.FsFile | undefined> {
  let file: Deno.FsFile;
  try {
    file = await Deno.open(`${dir}/lock`, { read: true, write: true, create: options.create });
  } catch (error) {
    throw new FsError("EACCES", `no permission to use ${dir}`, { op: "singlenode", cause: error });
  }
  return await new Promise((resolve) => {
    // The wait cannot be taken back: a lock that comes too late is given back at once.
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      resolve(undefined);
    }, LOCK_WAIT_MS);
    file.lock(true).then(() => {
      clearTimeout(timer);
      if (isLate) file.close();
      else resolve(file);
    }, () => {
      clearTimeout(timer);
      file.close();
      resolve(undefined);
    });
  });
}

function ownerOf(dir: string): number | undefined {
  try {
    const text = Deno.readTextFileSync(`${dir}/lock`).trim();
    return /^\d+$/.test(text) ? Number(text) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Removes what temporary clusters left that were killed: their dead mount and their directory. Only those whose
 * process is gone and whose lock is free; whatever cannot be removed is left.
 */
async function removeLeftovers(): Promise<void> {
  const parent = Deno.env.get("TMPDIR") ?? "/tmp";
  for (const { name, isDirectory } of Deno.readDirSync(parent)) {
    const dir = `${parent}/${name}`;
    const owner = name.startsWith(TEMPORARY_PREFIX) && isDirectory ? ownerOf(dir) : undefined;
    if (owner === undefined || exists(`/proc/${owner}`)) continue;
    const lock = await tryLock(dir, { create: false }).catch(() => undefined);
    if (lock === undefined) continue;
    try {
      await umount(`${dir}/mnt`, { lazy: true }).catch(() => {}); // most often it is not mounted
      if (!holdsMount(dir)) await removeTree(dir);
    } catch {
      // Another user's, or in use after all: it stays.
    } finally {
      lock.close();
    }
  }
}

/**
 * Removes a tree that may be large: by a process that goes on with it when this one has to end, which is not made
 * to wait for longer than REMOVE_WAIT_MS.
 */
async function removeTree(dir: string): Promise<void> {
  const child = new Deno.Command("rm", {
    args: ["-rf", "--one-file-system", "--", dir],
    cwd: "/",
    stdin: "null",
    stdout: "null",
    stderr: "null",
    detached: true,
  }).spawn();
  await withinMs(REMOVE_WAIT_MS, child.status).catch(() => child.unref());
}

/** True when something is mounted in `dir`: then removing it would remove what is mounted. */
function holdsMount(dir: string): boolean {
  return Deno.readTextFileSync("/proc/self/mountinfo").includes(` ${dir}/`);
}
