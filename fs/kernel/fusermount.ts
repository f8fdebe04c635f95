/**
 * Mounting without privileges: fusermount3 (setuid root) opens /dev/fuse, mounts it and passes the descriptor
 * back over a socket whose number it finds in _FUSE_COMMFD. Source: libfuse util/fusermount.c.
 */

import { delimiter } from "node:path";
import * as libc from "../../base/libc.ts";
import { FsError } from "../../wire/errno.ts";

const PROGRAMS = ["fusermount3", "fusermount"];
const FALLBACK_DIRECTORIES = ["/usr/local/bin", "/usr/bin", "/bin", "/sbin", "/usr/sbin"];
const RUN_TIMEOUT_MS = 10_000;

async function findProgram(): Promise<string> {
  const directories = (Deno.env.get("PATH") ?? "").split(delimiter).filter((directory) => directory !== "");
  for (const program of PROGRAMS) {
    for (const directory of [...directories, ...FALLBACK_DIRECTORIES]) {
      try {
        const candidate = `${directory}/${program}`;
        if ((await Deno.stat(candidate)).isFile) return candidate;
      } catch {
        continue; // not there: the next place
      }
    }
  }
  throw new FsError("ENOENT", "fusermount3 was not found: install fuse3, or mount as root", { op: "mount" });
}

/** The descriptor of the mounted /dev/fuse. */
export async function fusermountMount(mountpoint: string, options: readonly string[]): Promise<number> {
  const program = await findProgram();
  const sockets = libc.socketpair();
  if (typeof sockets === "number") {
    throw new FsError("EIO", `no socket for ${program}: errno ${-sockets}`, { op: "mount" });
  }
  const [ours, theirs] = sockets;
  libc.fcntl(ours, libc.F_SETFD, libc.FD_CLOEXEC);
  let theirsIsOpen = true;
  const closeTheirs = () => {
    if (theirsIsOpen) libc.close(theirs);
    theirsIsOpen = false;
  };
  try {
    const child = new Deno.Command(program, {
      args: ["-o", options.join(","), "--", mountpoint],
      env: { _FUSE_COMMFD: String(theirs) },
      cwd: "/",
      stdin: "null",
      stdout: "null",
      stderr: "piped",
      signal: AbortSignal.timeout(RUN_TIMEOUT_MS),
    }).spawn();
    // The child has its copy now. Without ours closed the end of the child would never be seen.
    closeTheirs();
    const fd = await libc.receiveDescriptor(ours);
    const { stderr } = await child.output();
    if (fd < 0) {
      const reason = new TextDecoder().decode(stderr).trim() || "it gave no reason";
      throw new FsError("EPERM", `${program} did not mount on ${mountpoint}: ${reason}`, { op: "mount" });
    }
    libc.fcntl(fd, libc.F_SETFD, libc.FD_CLOEXEC);
    return fd;
  } finally {
    closeTheirs();
    libc.close(ours);
  }
}

/** True when it unmounted. */
export async function fusermountUnmount(mountpoint: string, lazy: boolean): Promise<boolean> {
  const { success } = await new Deno.Command(await findProgram(), {
    args: ["-u", "-q", ...(lazy ? ["-z"] : []), "--", mountpoint],
    cwd: "/",
    stdin: "null",
    stdout: "null",
    stderr: "null",
    signal: AbortSignal.timeout(RUN_TIMEOUT_MS),
  }).output();
  return success;
}
