/**
 * Which life a volume is in: a time in which what was written to it and not synced is there. It ends with the run of the
 * machine, with the mount of its file system, and when its disk fails a write; that is noted in the volume, as far as the
 * disk takes it. Replicas that were being written in another life are doubtful (replica_records.ts).
 */

import { createHash } from "node:crypto";
import { bytesOf } from "../../base/bytes.ts";
import { randomHexId } from "../../base/random.ts";
import type { Disk } from "./disk.ts";

const FAILURE_FILE = "failure.json";
/** File systems that have a directory for each that is mounted, by device, below /sys/fs. */
const IN_SYSFS = ["ext4", "xfs", "f2fs"];

/** Names the life that the volume at `path` is in now. Below 2^48, not 0. */
export async function lifeOf(disk: Disk, path: string): Promise<number> {
  const parts = [disk.mounting(path), await lastFailure(disk, path)];
  return 1 + parseInt(createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 11), 16);
}

/** Its disk has failed a write. Best effort: it may take this one no more than others. Never rejects. */
export async function noteFailure(disk: Disk, path: string, why: string): Promise<void> {
  const note = { id: randomHexId(), why };
  // What is not noted here is known by the mounting, where the file system has to be mended before it takes writes again.
  await disk.replaceFile(path, FAILURE_FILE, bytesOf(JSON.stringify(note) + "\n")).catch(() => {});
}

async function lastFailure(disk: Disk, path: string): Promise<string> {
  try {
    return await disk.readText(`${path}/${FAILURE_FILE}`);
  } catch {
    return ""; // there was none; or it can't be read, and then the database can't either
  }
}

/** Names the run of the machine and the mount of the file system that `path` lies in, where the kernel tells mounts apart. */
export function systemMounting(path: string): string {
  const boot = Deno.readTextFileSync("/proc/sys/kernel/random/boot_id").trim();
  return `${boot} ${mountOf(path)}`;
}

/** The inode of a directory that the kernel makes for a file system as it is mounted: another one each time. */
function mountOf(path: string): number {
  try {
    const { dev } = Deno.statSync(path);
    // makedev(3), the other way round.
    const major = Math.floor(dev / 2 ** 8) & 0xfff;
    const minor = (dev & 0xff) | (Math.floor(dev / 2 ** 12) & 0xfff00);
    const device = Deno.realPathSync(`/sys/dev/block/${major}:${minor}`);
    const name = device.slice(device.lastIndexOf("/") + 1);
    for (const type of IN_SYSFS) {
      const { ino } = statOf(`/sys/fs/${type}/${name}`) ?? {};
      if (ino !== undefined && ino !== null) return ino;
    }
  } catch {
    // No block device, as tmpfs; or there is no sysfs.
  }
  return 0;
}

function statOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch {
    return undefined;
  }
}
