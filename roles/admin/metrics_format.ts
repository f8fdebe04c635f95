/** Metrics of ours, and the process's own, as prom-client writes them down. */

import { collectDefaultMetrics, type Metric as LibraryMetric, Registry } from "prom-client";
import type { Metric } from "../../base/metrics.ts";
import { programVersion } from "./process.ts";

/** Of the process: memory, processor time, descriptors, the event loop's delay, garbage collection. */
const own = new Registry();
collectDefaultMetrics({ register: own, prefix: "mfs_" });

export async function format(
  metrics: readonly Metric[],
): Promise<{ readonly contentType: string; readonly body: string }> {
  const registry = new Registry();
  const version = programVersion();
  const build: Metric = {
    name: "mfs_build_info",
    help: "Which program this is.",
    type: "gauge",
    samples: [{ labels: { version: version.mfs, deno: version.deno }, value: 1 }],
  };
  for (const metric of merged([build, ...metrics])) {
    // What the library asks of a metric is its name and this.
    const get = () => Promise.resolve(inItsTerms(metric));
    registry.registerMetric({ name: metric.name, get } as unknown as LibraryMetric);
  }
  const body = await Registry.merge([own, registry]).metrics();
  return { contentType: registry.contentType, body };
}

function inItsTerms({ name, help, type, samples }: Metric) {
  const values = samples.map(({ labels = {}, value, suffix = "" }) => ({
    labels: { ...labels },
    value,
    metricName: `${name}${suffix}`,
  }));
  return { name, help, type, values, aggregator: "sum" };
}

/** Several roles of a process have metrics of the same name. */
function merged(metrics: readonly Metric[]): readonly Metric[] {
  const byName = new Map<string, Metric>();
  for (const metric of metrics) {
    const before = byName.get(metric.name);
    byName.set(
      metric.name,
      before === undefined ? metric : { ...before, samples: [...before.samples, ...metric.samples] },
    );
  }
  return [...byName.values()];
}
