/**
 * Opens a volume: recognises the directory, locks and opens its database, counts its replicas; and looks in the
 * background for block files that no record speaks of.
 */

import type { Clock } from "../../base/clock.ts";
import { type Live, readerOf } from "../../base/live.ts";
import type { Logger } from "../../base/log.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asBlockId } from "../../wire/ids.ts";
import type { Disk } from "./disk.ts";
import { Keeper } from "./keeper.ts";
import type { ReplicaRecords } from "./replica_records.ts";
import { Scrubber } from "./scrubber.ts";
import { Space } from "./space.ts";
import { Trash } from "./trash.ts";
import { Volume } from "./volume.ts";
import {
  bucketNames,
  bucketOf,
  lostDirectory,
  openVolumeDirectory,
  type VolumeIdentity,
  VolumeUnavailable,
} from "./volume_directory.ts";
import { lifeOf } from "./volume_life.ts";

export interface OpenVolumeOptions {
  readonly disk: Disk;
  /** For a volume that is made now. */
  readonly nodeLabel: string;
  readonly trashRetentionMs: Live<number>;
  readonly finalizeIdleMs: number;
  readonly openReplicasMax: number;
  /** As ScrubOptions. */
  readonly scrubPeriodMs: Live<number>;
  readonly scrubBytesPerSecond: () => number;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface OpenVolume {
  readonly volume: Volume;
  readonly keeper: Keeper;
  readonly scrubber: Scrubber;
}

const BLOCK_FILE = /^(\d{1,16})\.(blk|crc)$/;
const WATCH_MS = 3_000;
const PURGE_MS_MAX = 10 * 60_000;

/** Opens the volume at `path`; throws VolumeUnavailable when only this disk is missing, else a fatal FsError. */
export async function openVolume(path: string, options: OpenVolumeOptions): Promise<OpenVolume> {
  const { disk, clock, log } = options;
  const identity = await openVolumeDirectory(disk, path, options.nodeLabel);
  const records = await openRecords(disk, path, identity);
  try {
    const trash = new Trash(disk, path, readerOf(options.trashRetentionMs), clock, log);
    const volume = new Volume({
      path,
      identity,
      disk,
      records,
      trash,
      space: new Space(disk, path, clock),
      clock,
      log,
    });
    await volume.count();
    const keeper = new Keeper(volume, {
      clock,
      finalizeIdleMs: options.finalizeIdleMs,
      openMax: options.openReplicasMax,
    });
    await keeper.load();
    if (keeper.leftCount > 0) {
      log.info("recovering replicas that were being written", { path, replicas: keeper.leftCount });
    }
    const { scrubPeriodMs: periodMs, scrubBytesPerSecond: bytesPerSecond } = options;
    return { volume, keeper, scrubber: new Scrubber(volume, { periodMs, bytesPerSecond, clock }) };
  } catch (error) {
    await records.close();
    throw error;
  }
}

async function openRecords(disk: Disk, path: string, identity: VolumeIdentity): Promise<ReplicaRecords> {
  const directory = `${path}/meta`;
  const life = await lifeOf(disk, path);
  try {
    try {
      return await disk.openRecords(directory, identity.label, life);
    } catch (error) {
      // A volume that was never registered holds nothing: its making was cut short, by the power for instance.
      if (identity.volume !== undefined || !isErrno(error, "EIO")) throw error;
      for (const name of await disk.names(directory)) await disk.remove(`${directory}/${name}`);
      return await disk.openRecords(directory, identity.label, life);
    }
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    const message = `volume ${path}: ${error.message}`;
    throw error.errno === "EIO"
      ? new VolumeUnavailable("EIO", message, { cause: error })
      : new FsError(error.errno, message, { cause: error });
  }
}

/** Counts the trash and keeps strays aside once, then purges the trash from time to time, until `signal` aborts. Never rejects. */
export async function keepTidy(
  volume: Volume,
  retentionMs: () => number,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  try {
    await volume.trash.load();
  } catch (error) {
    volume.log.warn("what is in trash was not counted", { path: volume.path, error });
  }
  try {
    await findStrays(volume, signal);
  } catch (error) {
    volume.log.warn("looking for stray block files failed", { path: volume.path, error });
  }
  while (!signal.aborted) {
    try {
      await volume.trash.purge();
    } catch (error) {
      volume.log.warn("purging the trash failed", { path: volume.path, error });
    }
    await clock.sleep(Math.max(100, Math.min(PURGE_MS_MAX, retentionMs() / 4)), signal);
  }
}

/** Fails the volume when its directory is gone, unmounted or another one. Until `signal` aborts; never rejects. */
export async function watchDirectory(volume: Volume, clock: Clock, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && volume.failed === undefined) {
    await clock.sleep(WATCH_MS, signal);
    if (signal.aborted) return;
    const reason = await lostDirectory(volume.disk, volume.path, volume.identity);
    if (reason !== undefined) volume.fail(reason);
  }
}

/** Block files without a record go to trash/: a crash in the middle of a deletion leaves such, or a lost database. */
async function findStrays(volume: Volume, signal: AbortSignal): Promise<void> {
  for (const bucket of bucketNames()) {
    for (const name of await volume.disk.names(`${volume.path}/${bucket}`)) {
      if (signal.aborted) return;
      const block = Number(BLOCK_FILE.exec(name)?.[1] ?? NaN);
      if (!Number.isSafeInteger(block) || bucketOf(block) !== bucket) continue;
      // Cheap first look; checkStray looks again while nobody can make or delete the block.
      if (await volume.records.get(asBlockId(block)) === undefined) await volume.checkStray(asBlockId(block));
    }
  }
}
