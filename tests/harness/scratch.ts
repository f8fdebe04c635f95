/**
 * Temporary directories of tests, and the promise that nothing stays behind in them: neither a mount nor a
 * process, also when a test failed, hung or was interrupted. Safe for several test runs at once: what is cleaned
 * up is told by path and process id, never by name.
 */

import { findMount, listMounts } from "../../roles/admin/mounts.ts";
import { killGroup, run, sleep } from "./command.ts";

const pids = new Set<number>();
const dirs = new Set<string>();
const cleanUps = new Set<() => Promise<unknown>>();
let listening = false;

/** A new directory outside every mount of ours. */
export function makeScratch(): string {
  if (!listening) {
    listening = true;
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      Deno.addSignalListener(signal, () => void cleanUpAll().finally(() => Deno.exit(130)));
    }
  }
  const dir = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "mfs-test-" }));
  dirs.add(dir);
  return dir;
}

/** `pid` leads a process group that is killed in the clean-up. */
export function trackProcess(pid: number): void {
  pids.add(pid);
}

export function forgetProcess(pid: number): void {
  pids.delete(pid);
}

/** What is to be done as well when the test run is interrupted, after the processes are killed; until it is forgotten. */
export function trackCleanUp(cleanUp: () => Promise<unknown>): void {
  cleanUps.add(cleanUp);
}

export function forgetCleanUp(cleanUp: () => Promise<unknown>): void {
  cleanUps.delete(cleanUp);
}

/** Ends what is mounted under `dir`: aborts each FUSE connection, so that nothing hangs, and unmounts lazily. */
export async function clearMounts(dir: string): Promise<void> {
  const ours = listMounts().filter(({ mountpoint }) =>
    mountpoint === dir || mountpoint.startsWith(`${dir}/`)
  );
  for (const { mountpoint } of ours.reverse()) {
    const minor = deviceMinor(mountpoint);
    if (minor !== undefined) {
      try {
        Deno.writeTextFileSync(`/sys/fs/fuse/connections/${minor}/abort`, "1");
      } catch {
        // Not root, or the connection is gone.
      }
    }
    const [program, args] = Deno.uid() === 0
      ? ["umount", ["-i", "-l", "--", mountpoint]] as const
      : ["fusermount3", ["-u", "-z", "--", mountpoint]] as const;
    await run(program, args, { timeoutMs: 10_000 }).catch(() => {});
  }
}

function deviceMinor(mountpoint: string): string | undefined {
  const line = Deno.readTextFileSync("/proc/self/mountinfo").split("\n")
    .findLast((candidate) => candidate.split(" ")[4] === mountpoint);
  return line?.split(" ")[2]?.split(":")[1];
}

/** Kills what was started and not forgotten, ends mounts under `dir` and removes it. */
export async function removeScratch(dir: string): Promise<void> {
  await clearMounts(dir);
  for (let attempt = 0; attempt < 20 && findMount(dir) === undefined; attempt++) {
    try {
      // In a child with a limit: the directory may still hold something that hangs.
      const { code } = await run("rm", ["-rf", "--one-file-system", "--", dir], { timeoutMs: 60_000 });
      if (code === 0) break;
    } catch {
      // Tried again.
    }
    await clearMounts(dir);
    await sleep(100);
  }
  dirs.delete(dir);
}

async function cleanUpAll(): Promise<void> {
  for (const pid of pids) killGroup(pid);
  for (const dir of dirs) await removeScratch(dir);
  for (const cleanUp of cleanUps) await cleanUp().catch(() => {});
}
