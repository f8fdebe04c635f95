/**
 * What `mfs doctor` asks of a directory that is to be a volume, or is one: its file system, room, whether holes can be made
 * and found, and how quick it writes and syncs. It makes one file there, of TEST_BYTES_MAX at most, and removes it.
 * Bounded: each measurement ends after MEASURE_MS and the operation that is under way then.
 */

import { statfs } from "node:fs/promises";
import * as libc from "../../base/libc.ts";
import type { Finding } from "./finding.ts";
import { listMounts } from "./mounts.ts";
import { messageOf } from "./process.ts";
import { size } from "./units.ts";

const CHUNK = 1 << 20;
const TEST_BYTES_MAX = 64 * CHUNK;
const ROOM_MIN = 4 * TEST_BYTES_MAX;
const MEASURE_MS = 2_000;
const SYNCS_MAX = 50;
const WRITE_GOOD = 50 * CHUNK;
const SYNC_GOOD_MS = 30;
/** With less of it free a disk, or a cluster, is nearly full. */
export const FREE_SHARE_GOOD = 0.05;
const SECTOR = 512;
/** They hold nothing over a restart, or not on a disk of this machine. */
const UNFIT = /^(tmpfs|ramfs|overlay|nfs\d?|cifs|smb3|fuse(\..+)?|9p)$/;

export async function checkVolume(dir: string): Promise<Finding[]> {
  const subject = `volume ${dir}`;
  let real: string;
  try {
    real = await Deno.realPath(dir);
    if (!(await Deno.stat(real)).isDirectory) throw new Error("it is no directory");
  } catch (error) {
    const advice = `make it, on a disk of its own: "mkdir -p ${dir}"`;
    return [{ subject, state: "problem", text: messageOf(error), advice }];
  }
  const room = await statfs(real);
  const [free, total] = [room.bavail * room.bsize, room.blocks * room.bsize];
  const findings = [fileSystem(subject, real), space(subject, free, total)];
  if (free < ROOM_MIN) return findings;
  const file = `${real}/.mfs-doctor-${crypto.randomUUID()}`;
  try {
    using handle = await Deno.open(file, { createNew: true, read: true, write: true });
    findings.push(await writing(subject, handle), await syncing(subject, handle));
    findings.push(await holes(subject, file));
  } catch (error) {
    const advice = "it must be writable by who runs the dataserver, and its disk whole";
    findings.push({ subject, state: "problem", text: `cannot be used: ${messageOf(error)}`, advice });
  } finally {
    await Deno.remove(file).catch((error) => {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied) return;
      findings.push({ subject, state: "problem", text: messageOf(error), advice: `remove ${file}` });
    });
  }
  return findings;
}

function fileSystem(subject: string, dir: string): Finding {
  const isOn = ({ mountpoint }: { readonly mountpoint: string }) =>
    mountpoint === "/" || dir === mountpoint || dir.startsWith(`${mountpoint}/`);
  const mounts = listMounts().filter(isOn).sort((a, b) => a.mountpoint.length - b.mountpoint.length);
  const { type = "unknown", mountpoint = "?" } = mounts.at(-1) ?? {};
  const text = `${type}, mounted on ${mountpoint}`;
  if (!UNFIT.test(type)) return { subject, state: "ok", text };
  const advice = "what is written there may not outlast the machine: use ext4 or xfs on a local disk";
  return { subject, state: "warning", text, advice };
}

function space(subject: string, free: number, total: number): Finding {
  const text = `${size(free)} free of ${size(total)}`;
  if (free < ROOM_MIN) {
    return { subject, state: "problem", text, advice: "make room: speed was not measured" };
  }
  if (free >= total * FREE_SHARE_GOOD) return { subject, state: "ok", text };
  return { subject, state: "warning", text, advice: "it is nearly full: add a volume, or make room" };
}

async function writing(subject: string, file: Deno.FsFile): Promise<Finding> {
  // Bytes that no disk can make fewer of.
  const chunk = new Uint8Array(CHUNK);
  for (let at = 0; at < CHUNK; at += 65_536) crypto.getRandomValues(chunk.subarray(at, at + 65_536));
  const startMs = performance.now();
  let written = 0;
  while (written < TEST_BYTES_MAX && performance.now() - startMs < MEASURE_MS) {
    for (let at = 0; at < CHUNK;) at += await file.write(chunk.subarray(at));
    written += CHUNK;
  }
  await file.syncData();
  const rate = written / ((performance.now() - startMs) / 1000);
  const text = `writes ${size(rate)}/s (${size(written)} and a sync)`;
  if (rate >= WRITE_GOOD) return { subject, state: "ok", text };
  return {
    subject,
    state: "warning",
    text,
    advice: "it is slow: is the disk busy or failing? see smartctl -a",
  };
}

async function syncing(subject: string, file: Deno.FsFile): Promise<Finding> {
  const tookMs: number[] = [];
  const page = new Uint8Array(4096).fill(1);
  const startMs = performance.now();
  while (tookMs.length < SYNCS_MAX && performance.now() - startMs < MEASURE_MS) {
    const beginMs = performance.now();
    await file.write(page);
    await file.sync();
    tookMs.push(performance.now() - beginMs);
  }
  tookMs.sort((a, b) => a - b);
  const median = tookMs[tookMs.length >> 1]!;
  const text = `an fsync of 4 KiB takes ${median.toFixed(1)} ms, ${tookMs.at(-1)!.toFixed(1)} ms at most`;
  if (median <= SYNC_GOOD_MS) return { subject, state: "ok", text };
  const advice = "each fsync of a file waits for this: use a disk with a protected write cache, or an SSD";
  return { subject, state: "warning", text, advice };
}

/** Whether a hole gives its room back, and is seen. */
async function holes(subject: string, path: string): Promise<Finding> {
  const fd = libc.open(path, libc.O_RDWR | libc.O_CLOEXEC);
  if (fd < 0) throw new Error(`open: errno ${-fd}`);
  try {
    const before = (await Deno.stat(path)).blocks ?? 0;
    const punched = libc.fallocate(fd, libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE, 0, CHUNK);
    libc.fsync(fd);
    const after = (await Deno.stat(path)).blocks ?? 0;
    const isFound = libc.lseek(fd, 0, libc.SEEK_HOLE) === 0;
    if (punched >= 0 && isFound && (before - after) * SECTOR >= CHUNK / 2) {
      return { subject, state: "ok", text: "holes take no room and are found" };
    }
  } finally {
    libc.close(fd);
  }
  const advice = "sparse files take their whole size: use ext4, xfs or btrfs";
  return { subject, state: "warning", text: "its file system makes no holes in files", advice };
}
