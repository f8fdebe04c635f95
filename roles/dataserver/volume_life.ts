/**
 * Which life a volume is in: a time in which what was written to it and not synced is there. It ends with the run of the
 * machine, with the mount of its file system, and when its disk fails a write; that is noted in the volume, as soon as the
 * disk takes it. Replicas that were being written in another life are doubtful (replica_records.ts).
 */

import { createHash } from "node:crypto";
import { bytesOf } from "../../base/bytes.ts";
import { randomHexId } from "../../base/random.ts";
import type { Disk } from "./disk.ts";

const FAILURE_FILE = "failure.json";

/** Names the life that the volume at `path` is in now. Below 2^48, not 0. */
export async function lifeOf(disk: Disk, path: string): Promise<number> {
  const parts = [disk.mounting(path), await lastFailure(disk, path)];
  return 1 + parseInt(createHash("sha256").update(parts.join("\n")).digest("hex").slice(0, 11), 16);
}

/** Its disk has failed a write. False when it takes this one no more than others. Never rejects. */
export async function noteFailure(disk: Disk, path: string, why: string): Promise<boolean> {
  const note = { id: randomHexId(), why };
  // What is not noted here is known by the mounting, where the file system has to be mended before it takes writes again.
  try {
    await disk.replaceFile(path, FAILURE_FILE, bytesOf(JSON.stringify(note) + "\n"));
    return true;
  } catch {
    return false;
  }
}

async function lastFailure(disk: Disk, path: string): Promise<string> {
  try {
    return await disk.readText(`${path}/${FAILURE_FILE}`);
  } catch {
    return ""; // there was none; or it can't be read, and then the database can't either
  }
}
