/** What a mount shows to Prometheus. */

import { counter, gauge, type Metric, type OperationMeter, withLabels } from "../../base/metrics.ts";
import type { CacheCounts } from "../../fs/cache_counts.ts";
import type { ClientCounters } from "../../wire/messages/nameserver.ts";

export interface MountFigures {
  readonly meter: OperationMeter;
  readonly counters: ClientCounters;
  readonly caches: CacheCounts;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly pending: number;
  readonly isValid: boolean;
}

export function mountMetrics(mountpoint: string, figures: MountFigures): readonly Metric[] {
  const caches = Object.entries(figures.caches);
  const { counters: { calls, inodes, recalls, recallMs, fences, reads }, meter } = figures;
  return [
    ...meter.metrics("requests of the kernel"),
    counter("mfs_mount_read_bytes_total", "Bytes that the kernel was given.", figures.readBytes),
    counter("mfs_mount_written_bytes_total", "Bytes that the kernel gave.", figures.writtenBytes),
    gauge("mfs_mount_pending_requests", "Requests of the kernel that wait for something.", figures.pending),
    gauge(
      "mfs_mount_session_valid",
      "Whether the caches may be used: the nameserver is heard.",
      figures.isValid ? 1 : 0,
    ),
    counter(
      "mfs_mount_calls_total",
      "Calls to the nameserver.",
      Object.entries(calls).map(([operation, value]) => ({ labels: { operation }, value })),
    ),
    gauge("mfs_mount_inodes", "Inodes that the mount knows.", inodes),
    counter("mfs_mount_recalls_total", "Leases that were taken back.", recalls),
    counter("mfs_mount_recall_seconds_total", "Time until they were given up.", recallMs / 1000),
    counter("mfs_mount_fences_total", "Times that the nameserver was silent for too long.", fences),
    counter(
      "mfs_mount_cache_hits_total",
      "What the kernel asked for and the mount knew, by what it is.",
      caches.map(([cache, { hits }]) => ({ labels: { cache }, value: hits })),
    ),
    counter(
      "mfs_mount_cache_misses_total",
      "What the kernel asked for and the nameserver had to be asked for, by what it is.",
      caches.map(([cache, { misses }]) => ({ labels: { cache }, value: misses })),
    ),
    counter("mfs_mount_block_reads_total", "Reads of blocks, by the way that the bytes came.", [
      { labels: { from: "page cache" }, value: reads?.cached ?? 0 },
      { labels: { from: "local disk" }, value: reads?.disk ?? 0 },
      { labels: { from: "dataserver" }, value: reads?.served ?? 0 },
      { labels: { from: "read ahead" }, value: reads?.ahead ?? 0 },
    ]),
  ].map((metric) => withLabels(metric, { mountpoint }));
}
