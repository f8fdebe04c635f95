/** What a dataserver shows to Prometheus. */

import { gauge, type Metric, type OperationMeter, type Sample, withLabels } from "../../base/metrics.ts";
import type { VolumeStats } from "../../wire/messages/dataserver.ts";

export interface DataserverFigures {
  readonly host: string;
  readonly meter: OperationMeter;
  readonly isRegistered: boolean;
  readonly volumes: readonly VolumeStats[];
}

export function dataserverMetrics(figures: DataserverFigures): readonly Metric[] {
  const { host, meter, isRegistered, volumes } = figures;
  const ofVolumes = (value: (volume: VolumeStats) => number): Sample[] =>
    volumes.map((volume) => ({ labels: { host, volume: volume.volume }, value: value(volume) }));
  return [
    // Dataservers that share a process share its page.
    ...meter.metrics("requests to a dataserver").map((metric) => withLabels(metric, { host })),
    gauge(
      "mfs_store_total_bytes",
      "Size of the disk of a volume.",
      ofVolumes(({ totalBytes }) => totalBytes),
    ),
    gauge("mfs_store_free_bytes", "Free on the disk of a volume.", ofVolumes(({ freeBytes }) => freeBytes)),
    gauge("mfs_store_used_bytes", "What a volume's replicas take.", ofVolumes(({ usedBytes }) => usedBytes)),
    gauge("mfs_store_blocks", "Replicas in a volume.", ofVolumes(({ blocks }) => blocks)),
    gauge(
      "mfs_store_failed",
      "Whether a volume's disk has failed.",
      ofVolumes(({ failed }) => failed === undefined ? 0 : 1),
    ),
    gauge("mfs_store_registered", "Whether the nameserver is connected.", [
      { labels: { host }, value: isRegistered ? 1 : 0 },
    ]),
  ];
}
