/**
 * What is mounted where, from /proc/self/mountinfo: this never touches the mounts themselves, so it is safe
 * beside a dead or hung one. Format: proc_pid_mountinfo(5).
 */

import * as path from "node:path";

export interface MountInfo {
  readonly mountId: number;
  /** "major:minor" of the file system's device. */
  readonly deviceNumber: string;
  /** The minor: for FUSE also the name under /sys/fs/fuse/connections. */
  readonly deviceMinor: number;
  /** What of the file system is shown there: "/", or a part of it that was bound there. */
  readonly root: string;
  readonly mountpoint: string;
  /** Such as "ext4" or "fuse.mfs". */
  readonly type: string;
  readonly source: string;
  /** Options of the mount and of the file system, without duplicates removed. */
  readonly options: readonly string[];
}

const decoder = new TextDecoder();
const encoder = new TextEncoder();

/** Space, tab, newline and backslash are written as three octal digits. */
function unescapeField(text: string): string {
  if (!text.includes("\\")) return text;
  const bytes = encoder.encode(text);
  const out: number[] = [];
  for (let i = 0; i < bytes.length; i++) {
    const digits = String.fromCharCode(...bytes.subarray(i + 1, i + 4));
    if (bytes[i] === 0x5c && /^[0-3][0-7]{2}$/.test(digits)) {
      out.push(parseInt(digits, 8));
      i += 3;
    } else {
      out.push(bytes[i]!);
    }
  }
  return decoder.decode(new Uint8Array(out));
}

/** Parses the whole file; lines that make no sense are left out. */
export function parseMountinfo(text: string): MountInfo[] {
  const mounts: MountInfo[] = [];
  for (const line of text.split("\n")) {
    const fields = line.split(" ");
    // Optional fields end with a lone "-", then come type, source and options of the file system.
    const separator = fields.indexOf("-", 6);
    if (separator < 0 || fields.length < separator + 4) continue;
    const deviceNumber = fields[2]!;
    mounts.push({
      mountId: Number(fields[0]),
      deviceNumber,
      deviceMinor: Number(deviceNumber.split(":")[1]),
      root: unescapeField(fields[3]!),
      mountpoint: unescapeField(fields[4]!),
      type: unescapeField(fields[separator + 1]!),
      source: unescapeField(fields[separator + 2]!),
      options: [...fields[5]!.split(","), ...fields[separator + 3]!.split(",")],
    });
  }
  return mounts;
}

export async function readMountinfo(): Promise<MountInfo[]> {
  return parseMountinfo(await Deno.readTextFile("/proc/self/mountinfo"));
}

/** The topmost mount exactly at `mountpoint` (made absolute, symlinks not followed), or undefined. */
export async function findMount(mountpoint: string): Promise<MountInfo | undefined> {
  const wanted = path.resolve(mountpoint);
  return (await readMountinfo()).findLast((mount) => mount.mountpoint === wanted);
}
