/**
 * `mfs umount`: unmounts and says why when it cannot. Never waits longer than UMOUNT_MS_MAX: a mount whose
 * daemon hangs must not take this command with it, so the system call is made by a child process.
 */

import { FsError } from "../../wire/errno.ts";
import { findMount, isOurs, listMounts } from "./mounts.ts";

const UMOUNT_MS_MAX = 10_000;

export interface UmountOptions {
  /** Takes the mount out of the tree at once, and ends it when its last user has gone. */
  readonly lazy?: boolean;
}

/** Errors: EINVAL not mounted or not ours, EBUSY, EPERM, ETIMEDOUT. */
export async function umount(mountpoint: string, options: UmountOptions = {}): Promise<void> {
  const mount = findMount(mountpoint);
  if (mount === undefined) {
    throw new FsError("EINVAL", `${mountpoint} is not a mount point`, { op: "umount" });
  }
  if (!isOurs(mount)) {
    throw new FsError("EINVAL", `${mountpoint} is a ${mount.type} file system, not MaggieFS`, {
      op: "umount",
    });
  }
  const before = countMounts(mount.mountpoint);
  const lazy = options.lazy ? ["-l"] : [];
  const isRoot = Deno.uid() === 0;
  // -i: no helper, which would look at the mount point and could hang.
  const [program, ...args] = isRoot
    ? ["umount", "-i", ...lazy, "--", mount.mountpoint]
    : ["fusermount3", "-u", ...(options.lazy ? ["-z"] : []), "--", mount.mountpoint];
  const reason = await runBounded(program!, args);
  if (reason === undefined || countMounts(mount.mountpoint) < before) return;
  if (/busy/i.test(reason)) {
    throw new FsError(
      "EBUSY",
      `${mountpoint} is in use: close what is open there (fuser -vm ${mountpoint} lists it), or use --lazy`,
      { op: "umount" },
    );
  }
  throw new FsError("EPERM", `${mountpoint}: ${reason}`, { op: "umount" });
}

function countMounts(mountpoint: string): number {
  return listMounts().filter((mount) => mount.mountpoint === mountpoint).length;
}

/** Runs a program; undefined when it succeeded, else what it said. */
async function runBounded(program: string, args: readonly string[]): Promise<string | undefined> {
  let child: Deno.ChildProcess;
  try {
    child = new Deno.Command(program, { args: [...args], stdin: "null", stdout: "null", stderr: "piped" })
      .spawn();
  } catch {
    throw new FsError("ENOENT", `${program} is not installed`, { op: "umount" });
  }
  const timeout = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => timeout.resolve(undefined), UMOUNT_MS_MAX);
  const result = await Promise.race([child.output(), timeout.promise]);
  clearTimeout(timer);
  if (result === undefined) {
    try {
      child.kill("SIGKILL");
    } catch {
      // It ended just now.
    }
    throw new FsError(
      "ETIMEDOUT",
      "its daemon does not answer; --lazy takes it out of the tree all the same",
      {
        op: "umount",
      },
    );
  }
  if (result.success) return undefined;
  const said = new TextDecoder().decode(result.stderr).trim().split("\n").at(-1) ?? "";
  return said.replace(/^[^:]*: (?:[^:]*: )?/, "") || `${program} failed with code ${result.code}`;
}
