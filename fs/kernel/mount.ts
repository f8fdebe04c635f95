/**
 * Mounting and unmounting: as root with mount(2), otherwise through fusermount3. Everything that might touch a
 * dead or hung mount has a time limit, and nothing here touches our own mount once it serves.
 * Failures are FsErrors whose message is one sentence for the person who gave the command.
 */

import * as path from "node:path";
import * as libc from "../../base/libc.ts";
import { ERRNO, type ErrnoName, errnoName, FsError, isErrno } from "../../wire/errno.ts";
import { fusermountMount, fusermountUnmount } from "./fusermount.ts";
import { findMount } from "../../base/mountinfo.ts";

export interface MountOptions {
  readonly mountpoint: string;
  /** What `df` shows as the device, such as "host:9000". */
  readonly source: string;
  /** The type is "fuse.<subtype>". */
  readonly subtype?: string;
  readonly readOnly?: boolean;
  /** Other users than the mounter may use it (fusermount: needs user_allow_other). Default: true as root. */
  readonly allowOther?: boolean;
  /** The kernel checks permission bits. Default true. */
  readonly defaultPermissions?: boolean;
  /** Default true; false is for root only. */
  readonly noSuid?: boolean;
  /** Default true; false is for root only. */
  readonly noDev?: boolean;
  readonly noExec?: boolean;
  /** The kernel sends an FSYNC after each write. */
  readonly sync?: boolean;
  /** What the mount table shows; the file system sees to it. Default "relatime". */
  readonly atime?: "relatime" | "strict" | "off";
  /** Default true. */
  readonly directoryAtime?: boolean;
  /** Allows a directory that is not empty, or already a mount point. */
  readonly allowNonEmpty?: boolean;
  /** Use fusermount3 even as root (for tests). */
  readonly useFusermount?: boolean;
}

export interface FuseMount {
  /** The /dev/fuse descriptor; the caller closes it after the session has ended. */
  readonly fd: number;
  /** Absolute, symlinks resolved. */
  readonly mountpoint: string;
  /** "major:minor", as under /sys/class/bdi. */
  readonly deviceNumber: string;
  /** Number under /sys/fs/fuse/connections. */
  readonly deviceMinor: number;
}

// linux/mount.h
const MS_RDONLY = 1;
const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOEXEC = 8;
const MS_SYNCHRONOUS = 16;
const MS_NOATIME = 1024;
const MS_NODIRATIME = 2048;
const MS_STRICTATIME = 1 << 24;

/** A stranger's mount may hang; nobody waits longer for it. */
const PROBE_TIMEOUT_MS = 2000;
const UNMOUNT_TIMEOUT_MS = 5000;
const CONNECTIONS = "/sys/fs/fuse/connections";

/** Mounts; the caller must then run a session on the descriptor, as whoever enters the mount waits for it. */
export async function mountFuse(options: MountOptions): Promise<FuseMount> {
  const mountpoint = await checkedMountpoint(options);
  const type = `fuse.${options.subtype ?? "mfs"}`;
  const asRoot = libc.geteuid() === 0 && !options.useFusermount;
  const fd = asRoot
    ? mountAsRoot(mountpoint, type, options)
    : await fusermountMount(mountpoint, fusermountOptions(options));
  const mount = await findMount(mountpoint);
  if (mount === undefined || !mount.type.startsWith("fuse")) {
    libc.close(fd);
    await unmountFuse(mountpoint, { lazy: true });
    throw new FsError("EIO", `${mountpoint} was mounted but is not in /proc/self/mountinfo`, { op: "mount" });
  }
  return { fd, mountpoint, deviceNumber: mount.deviceNumber, deviceMinor: mount.deviceMinor };
}

function mountAsRoot(mountpoint: string, type: string, options: MountOptions): number {
  const fd = libc.open("/dev/fuse", libc.O_RDWR);
  if (fd < 0) throw deviceError(fd);
  let flags = 0;
  if (options.readOnly) flags |= MS_RDONLY;
  if (options.noSuid ?? true) flags |= MS_NOSUID;
  if (options.noDev ?? true) flags |= MS_NODEV;
  if (options.noExec) flags |= MS_NOEXEC;
  if (options.sync) flags |= MS_SYNCHRONOUS;
  if (options.atime === "off") flags |= MS_NOATIME;
  if (options.atime === "strict") flags |= MS_STRICTATIME;
  if (options.directoryAtime === false) flags |= MS_NODIRATIME;
  // rootmode is the type of the root inode, in octal: a directory
  const data = [`fd=${fd}`, "rootmode=40000", "user_id=0", `group_id=${libc.getegid()}`];
  if (options.defaultPermissions ?? true) data.push("default_permissions");
  if (options.allowOther ?? true) data.push("allow_other");
  let result = libc.mount(options.source, mountpoint, type, flags, data.join(","));
  if (result === -ERRNO.ENODEV) {
    // Without the subtype it is known as ours by its source.
    result = libc.mount(`mfs@${options.source}`, mountpoint, "fuse", flags, data.join(","));
  }
  if (result < 0) {
    libc.close(fd);
    throw mountError(result, mountpoint);
  }
  return fd;
}

function deviceError(result: number): FsError {
  switch (result) {
    case -ERRNO.ENOENT:
    case -ERRNO.ENODEV:
    case -ERRNO.ENXIO:
      return new FsError(
        "ENODEV",
        "/dev/fuse does not exist: load the fuse module (modprobe fuse) or install fuse3",
        { op: "mount" },
      );
    case -ERRNO.EACCES:
    case -ERRNO.EPERM:
      return new FsError("EACCES", "/dev/fuse may not be opened: run as root or pass the device in", {
        op: "mount",
      });
    default:
      return new FsError(errnoName(-result), `opening /dev/fuse failed with errno ${-result}`, {
        op: "mount",
      });
  }
}

function mountError(result: number, mountpoint: string): FsError {
  const reasons: Partial<Record<ErrnoName, string>> = {
    EPERM: "mounting is not permitted: CAP_SYS_ADMIN is needed",
    ENODEV: "the kernel has no fuse: load the fuse module (modprobe fuse)",
    EBUSY: "it is in use as a mount point",
  };
  const name = errnoName(-result);
  return new FsError(name, `cannot mount on ${mountpoint}: ${reasons[name] ?? `errno ${-result}`}`, {
    op: "mount",
  });
}

function fusermountOptions(options: MountOptions): string[] {
  const list = [`fsname=${escapeOption(options.source)}`, `subtype=${options.subtype ?? "mfs"}`];
  if (options.readOnly) list.push("ro");
  if (options.noExec) list.push("noexec");
  if (options.sync) list.push("sync");
  if (options.atime === "off") list.push("noatime");
  if (options.defaultPermissions ?? true) list.push("default_permissions");
  if (options.allowOther ?? false) list.push("allow_other");
  return list;
}

/** Commas separate options; fusermount takes a backslash before one that does not. */
function escapeOption(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll(",", "\\,");
}

async function checkedMountpoint(options: MountOptions): Promise<string> {
  const given = path.resolve(options.mountpoint);
  const fail = (errno: ErrnoName, message: string, cause?: unknown): never => {
    throw new FsError(errno, message, { op: "mount", cause });
  };
  if (!options.allowNonEmpty && await isTaken(given)) {
    fail("EBUSY", `${given} is already a mount point`);
  }
  try {
    const mountpoint = await withinProbeTime(Deno.realPath(given), given);
    if (!options.allowNonEmpty && mountpoint !== given && await isTaken(mountpoint)) {
      fail("EBUSY", `${given} is already a mount point (${mountpoint})`);
    }
    const info = await withinProbeTime(Deno.stat(mountpoint), given);
    if (!info.isDirectory) fail("ENOTDIR", `${given} is not a directory`);
    if (!options.allowNonEmpty && !await withinProbeTime(isEmptyDirectory(mountpoint), given)) {
      fail("ENOTEMPTY", `${given} is not empty`);
    }
    return mountpoint;
  } catch (error) {
    if (error instanceof FsError) throw error;
    if (error instanceof Deno.errors.NotFound) return fail("ENOENT", `${given} does not exist`, error);
    if (isOsError(error, "ENOTCONN")) {
      return fail("ENOTCONN", `${given} is the dead mount of a process that ended: unmount it first`, error);
    }
    return fail("EACCES", `${given} cannot be examined: ${(error as Error).message}`, error);
  }
}

/** Something is mounted there, other than what an automounter puts where it will have something mounted. */
async function isTaken(path: string): Promise<boolean> {
  const mount = await findMount(path);
  return mount !== undefined && mount.type !== "autofs";
}

async function isEmptyDirectory(directory: string): Promise<boolean> {
  for await (const _entry of Deno.readDir(directory)) return false;
  return true;
}

function isOsError(error: unknown, code: string): boolean {
  return (error as { code?: unknown } | null)?.code === code;
}

/** Rejects with ETIMEDOUT when `work` on a path takes too long: a file system there hangs. */
async function withinProbeTime<T>(work: Promise<T>, where: string): Promise<T> {
  return await within(work, PROBE_TIMEOUT_MS, () => {
    throw new FsError("ETIMEDOUT", `${where} does not answer within ${PROBE_TIMEOUT_MS / 1000} s`, {
      op: "mount",
    });
  });
}

async function within<T>(work: Promise<T>, timeoutMs: number, late: () => T): Promise<T> {
  let timer: number | undefined;
  const timeout = new Promise<"late">((resolve) => timer = setTimeout(() => resolve("late"), timeoutMs));
  try {
    const first = await Promise.race([work.then((value) => ({ value })), timeout]);
    return first === "late" ? late() : first.value;
  } finally {
    clearTimeout(timer);
  }
}

export interface UnmountOptions {
  /** Detach at once, even if it is in use; users keep what they have open. */
  readonly lazy?: boolean;
  readonly useFusermount?: boolean;
}

/**
 * Unmounts within a bounded time. Not a mount point: returns at once.
 * @throws FsError EBUSY when it is in use (and not `lazy`), ETIMEDOUT when the kernel does not return
 */
export async function unmountFuse(mountpoint: string, options: UnmountOptions = {}): Promise<void> {
  const target = path.resolve(mountpoint);
  const lazy = options.lazy ?? false;
  const before = await findMount(target);
  if (before === undefined) return;
  const asRoot = libc.geteuid() === 0 && !options.useFusermount;
  const work = asRoot
    ? libc.umountAsync(target, lazy ? libc.MNT_DETACH : 0)
    : fusermountUnmount(target, lazy).then((ok) => ok ? 0 : -ERRNO.EIO);
  const result = await within<number | null>(work, UNMOUNT_TIMEOUT_MS, () => null);
  if (result === 0) return;
  const now = await findMount(target);
  if (now === undefined || now.mountId !== before.mountId) return;
  if (result === null) {
    throw new FsError("ETIMEDOUT", `${target} could not be unmounted in time: abort it or unmount lazily`, {
      op: "unmount",
    });
  }
  throw new FsError("EBUSY", `${target} could not be unmounted: it is in use, or belongs to somebody else`, {
    op: "unmount",
  });
}

/**
 * Ends a connection by force: every caller gets an error at once, the session's reads give ENODEV. The dead
 * mount stays to be unmounted. False where there is no such connection, or no permission.
 */
export async function abortConnection(deviceMinor: number): Promise<boolean> {
  return await writeControl(`${CONNECTIONS}/${deviceMinor}/abort`, "1");
}

/**
 * Raises the read-ahead of a mount; files opened before keep theirs. Only after INIT was answered. False
 * where it is not permitted.
 */
export async function raiseReadAhead(deviceNumber: string, kib: number): Promise<boolean> {
  return await writeControl(`/sys/class/bdi/${deviceNumber}/read_ahead_kb`, String(kib));
}

async function writeControl(file: string, value: string): Promise<boolean> {
  try {
    await Deno.writeTextFile(file, value, { create: false });
    return true;
  } catch {
    // Not root, a read-only /sys, fusectl not mounted, or gone already: the caller decides.
    return false;
  }
}

/**
 * If a dead "fuse.<subtype>" mount (its process has ended) is at `mountpoint`, unmounts it lazily and returns
 * true. False when there is none, or it is alive.
 * @throws FsError ETIMEDOUT when there is one that does not answer
 */
export async function clearDeadMount(mountpoint: string, subtype = "mfs"): Promise<boolean> {
  const mount = await findMount(mountpoint);
  if (mount === undefined || mount.type !== `fuse.${subtype}`) return false;
  try {
    await withinProbeTime(Deno.stat(mount.mountpoint), mount.mountpoint);
    return false;
  } catch (error) {
    if (isErrno(error, "ETIMEDOUT")) throw error;
    if (!isOsError(error, "ENOTCONN")) return false;
  }
  await unmountFuse(mount.mountpoint, { lazy: true });
  return true;
}
