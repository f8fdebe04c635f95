/**
 * Lets a mount die with its process. A thread that waits in the kernel for a lock of the mount, as notifications do, can't be
 * killed, and while it is there the device's descriptor is: after a SIGKILL the connection would stay, with nobody to
 * answer, and whoever uses the mount would wait for ever, that thread among them. So a small process looks on from outside,
 * and aborts the connection when ours is dead but for such threads.
 */

import type { Logger } from "../../base/log.ts";
import type { FuseMount } from "./mount.ts";

/**
 * For sh(1): PID CONNECTION MOUNTPOINT. It waits for the end of its input, which comes with the last thread of its parent PID, or
 * for SIGTERM, which the kernel sends it when the first one ends (setpriv(1)). While PID is its parent, that number is nobody
 * else's; and while a process that is dead has threads, it has its connection.
 */
const LOOK = `
trap : TERM
while :; do
  read -r line
  for seconds in 0.1 1; do
    sleep $seconds
    parent=
    while read -r key value rest; do
      [ "$key" != PPid: ] || parent=$value
    done </proc/$$/status
    [ "$parent" = "$1" ] || exit 0
  done
  state= threads=
  while read -r key value rest; do
    case $key in
      State:) state=$value ;;
      Threads:) threads=$value ;;
    esac
  done </proc/$1/status
  [ "$state" = Z ] && [ "$threads" -gt 1 ] || continue
  echo 1 >/sys/fs/fuse/connections/$2/abort || umount -f -- "$3"
done
`;

/** Looks after the mount of this process, until what it gives is called. */
export function guardMount({ deviceMinor, mountpoint }: FuseMount, log: Logger): () => void {
  let guard: Deno.ChildProcess;
  try {
    const look = ["sh", "-c", LOOK, "mfs-guard", String(Deno.pid), String(deviceMinor), mountpoint];
    guard = new Deno.Command("setpriv", {
      args: ["--pdeathsig", "TERM", ...look],
      cwd: "/",
      stdin: "piped",
      stdout: "null",
      stderr: "null",
      // In a process group of its own: signals from a terminal are for us.
      detached: true,
    }).spawn();
  } catch (error) {
    log.warn("nobody looks after the mount: were this process killed, those who use it might wait for ever", {
      mountpoint,
      error,
    });
    return () => {};
  }
  guard.unref();
  let isOver = false;
  return () => {
    if (isOver) return;
    isOver = true;
    try {
      Deno.kill(-guard.pid, "SIGKILL"); // with what it has started
    } catch {
      // It has ended by itself.
    }
  };
}
