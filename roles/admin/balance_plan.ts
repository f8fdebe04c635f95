/** Which volumes should give how much to which others, so that all are about equally full. */

import type { VolumeUsage } from "../../wire/messages/admin.ts";
import type { VolumeId } from "../../wire/ids.ts";

export interface PlannedMove {
  readonly source: VolumeId;
  readonly target: VolumeId;
  readonly bytes: number;
  /** More would take one of the two too far to the other side of the mean. */
  readonly bytesMax: number;
}

/** The used part of all volumes together, 0 to 1. */
export function meanShare(volumes: readonly VolumeUsage[]): number {
  const total = volumes.reduce((sum, { totalBytes }) => sum + totalBytes, 0);
  return total === 0 ? 0 : volumes.reduce((sum, { usedBytes }) => sum + usedBytes, 0) / total;
}

/** Volumes whose used part is more than `threshold` (0 to 1) off the mean. */
export function unbalanced(volumes: readonly VolumeUsage[], threshold: number): VolumeUsage[] {
  const mean = meanShare(volumes);
  return volumes.filter(({ usedBytes, totalBytes }) => Math.abs(usedBytes / totalBytes - mean) > threshold);
}

/**
 * Moves after which no volume is more than `threshold` off the mean, as far as there are any: from those above the mean
 * to those below it, the most uneven first. Empty when none is off. `excluded`: pairs that nothing can be moved between.
 */
export function planMoves(
  volumes: readonly VolumeUsage[],
  threshold: number,
  excluded: (source: VolumeId, target: VolumeId) => boolean,
): PlannedMove[] {
  const mean = meanShare(volumes);
  const off = new Set(unbalanced(volumes, threshold).map(({ volume }) => volume));
  const share = ({ usedBytes, totalBytes }: VolumeUsage) => usedBytes / totalBytes;
  /** Bytes above the mean; negative: below. */
  const excess = new Map(
    volumes.map(({ volume, usedBytes, totalBytes }) => [volume, Math.floor(usedBytes - mean * totalBytes)]),
  );
  const used = new Map(volumes.map(({ volume, usedBytes }) => [volume, usedBytes]));
  const totals = new Map(volumes.map(({ volume, totalBytes }) => [volume, totalBytes]));
  const sources = volumes.filter(({ volume }) => excess.get(volume)! > 0).sort((a, b) => share(b) - share(a));
  const targets = volumes.filter(({ volume }) => excess.get(volume)! < 0).sort((a, b) => share(a) - share(b));
  const moves: PlannedMove[] = [];
  const pairUp = (isNeeded: (source: VolumeId, target: VolumeId) => boolean) => {
    for (const { volume: source } of sources) {
      for (const { volume: target, freeBytes } of targets) {
        if (!isNeeded(source, target) || excluded(source, target)) continue;
        const bytes = Math.min(excess.get(source)!, -excess.get(target)!, freeBytes);
        if (bytes <= 0) continue;
        const slack = Math.floor(threshold * Math.min(totals.get(source)!, totals.get(target)!));
        moves.push({
          source,
          target,
          bytes,
          bytesMax: Math.min(bytes + slack, freeBytes, used.get(source)!),
        });
        excess.set(source, excess.get(source)! - bytes);
        excess.set(target, excess.get(target)! + bytes);
      }
    }
  };
  // Those that are off among themselves first; then whoever helps.
  pairUp((source, target) => off.has(source) && off.has(target));
  pairUp((source, target) => off.has(source) || off.has(target));
  return moves;
}

/** The moves that can be made at once: no volume is in two of them. */
export function disjoint(moves: readonly PlannedMove[], max: number): PlannedMove[] {
  const busy = new Set<VolumeId>();
  const chosen: PlannedMove[] = [];
  for (const move of moves) {
    if (chosen.length === max || busy.has(move.source) || busy.has(move.target)) continue;
    busy.add(move.source).add(move.target);
    chosen.push(move);
  }
  return chosen;
}
