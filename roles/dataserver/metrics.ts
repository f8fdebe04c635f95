/** What a dataserver shows to Prometheus. */

import {
  counter,
  gauge,
  type Metric,
  type OperationMeter,
  type Sample,
  withLabels,
} from "../../base/metrics.ts";
import type { VolumeStats } from "../../wire/messages/dataserver.ts";
import type { ScrubFigures } from "./scrubber.ts";

export interface DataserverFigures {
  readonly host: string;
  readonly meter: OperationMeter;
  readonly isRegistered: boolean;
  readonly volumes: readonly VolumeStats[];
  /** Empty where scrubbing is off. */
  readonly scrubs: readonly ScrubFigures[];
}

export function dataserverMetrics(figures: DataserverFigures): readonly Metric[] {
  const { host, meter, isRegistered, volumes, scrubs } = figures;
  const ofVolumes = (value: (volume: VolumeStats) => number): Sample[] =>
    volumes.map((volume) => ({ labels: { host, volume: volume.volume }, value: value(volume) }));
  const ofScrubs = (value: (scrub: ScrubFigures) => number | undefined): Sample[] =>
    scrubs.flatMap((scrub) => {
      const of = value(scrub);
      return of === undefined ? [] : [{ labels: { host, volume: scrub.volume }, value: of }];
    });
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
    gauge(
      "mfs_scrub_progress_ratio",
      "How much of a volume the pass under way has compared with its checksums, from 0 to 1.",
      ofScrubs(({ progress }) => progress),
    ),
    counter(
      "mfs_scrub_bytes_total",
      "Bytes that were compared with their checksums.",
      ofScrubs(({ bytes }) => bytes),
    ),
    counter(
      "mfs_scrub_errors_total",
      "Replicas that did not match their checksums, or could not be read, when they were compared.",
      ofScrubs(({ errors }) => errors),
    ),
    gauge(
      "mfs_scrub_last_pass_timestamp_seconds",
      "When the last whole pass over a volume ended; absent: never.",
      ofScrubs(({ lastPass }) => lastPass),
    ),
    gauge(
      "mfs_scrub_period_seconds",
      "In which time a pass is to be done.",
      ofScrubs(({ periodMs }) => periodMs / 1000),
    ),
    gauge("mfs_store_registered", "Whether the nameserver is connected.", [
      { labels: { host }, value: isRegistered ? 1 : 0 },
    ]),
  ];
}
