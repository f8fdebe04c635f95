/**
 * Reads every finalized replica of a volume once a period, so that bytes that rotted are found while other
 * replicas still have them. What it finds is reported as for any other reader.
 * Invariant: its reads are spread over the period, STEP_BYTES at a time, never faster than one a STEP_MS_MIN.
 */

import type { Clock } from "../../base/clock.ts";
import { isErrno } from "../../wire/errno.ts";
import type { ReplicaEntry } from "./replica_records.ts";
import type { Volume } from "./volume.ts";

const STEP_BYTES = 1024 * 1024;
const STEP_MS_MIN = 10;
const STEP_MS_MAX = 60 * 60_000;
const PAGE = 64;

/** Scrubs until `signal` aborts. Never rejects. */
export async function scrub(
  volume: Volume,
  periodMs: number,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  for (let from = 0; !signal.aborted;) {
    let page: readonly ReplicaEntry[] = [];
    try {
      page = await volume.records.page(from, PAGE);
    } catch (error) {
      volume.log.warn("scrubbing paused", { path: volume.path, error });
    }
    for (const entry of page) {
      if (entry.record.state === "finalized") await scrubReplica(volume, entry, periodMs, clock, signal);
    }
    from = page.length < PAGE ? 0 : page[page.length - 1]!.block + 1;
    if (page.length === 0) await clock.sleep(stepMs(volume, periodMs), signal);
  }
}

async function scrubReplica(
  volume: Volume,
  { block, record }: ReplicaEntry,
  periodMs: number,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  for (let offset = 0; offset < record.length; offset += STEP_BYTES) {
    await clock.sleep(stepMs(volume, periodMs), signal);
    if (signal.aborted) return;
    try {
      await volume.read(block, record.generation, offset, STEP_BYTES);
    } catch (error) {
      if (!isErrno(error, "EIO")) return; // deleted or given a new generation meanwhile
    }
  }
}

function stepMs(volume: Volume, periodMs: number): number {
  const steps = Math.max(1, volume.usedBytes / STEP_BYTES);
  return Math.min(STEP_MS_MAX, Math.max(STEP_MS_MIN, periodMs / steps));
}
