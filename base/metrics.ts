/**
 * Figures that a process keeps of itself, in the terms of Prometheus: what is counted costs a few additions, and everything
 * else is done when somebody asks. How they are written down is not of this file (roles/admin/metrics_server.ts).
 */

export interface Sample {
  readonly labels?: Readonly<Record<string, string | number>>;
  readonly value: number;
  /** After the metric's name: `_bucket`, `_sum` and `_count` of a histogram. */
  readonly suffix?: string;
}

/** Names and units by Prometheus' conventions: base units, `_total` for counters. */
export interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly samples: readonly Sample[];
}

export function gauge(name: string, help: string, value: number | readonly Sample[]): Metric {
  return { name, help, type: "gauge", samples: typeof value === "number" ? [{ value }] : value };
}

export function counter(name: string, help: string, value: number | readonly Sample[]): Metric {
  return { name, help, type: "counter", samples: typeof value === "number" ? [{ value }] : value };
}

/** `metric` with these labels on all its samples. */
export function withLabels(metric: Metric, labels: NonNullable<Sample["labels"]>): Metric {
  const samples = metric.samples.map((sample) => ({ ...sample, labels: { ...labels, ...sample.labels } }));
  return { ...metric, samples };
}

/** Upper bounds of latencies, in seconds. */
const BOUNDS = [
  0.000_05,
  0.000_1,
  0.000_25,
  0.000_5,
  0.001,
  0.002_5,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  5,
  10,
] as const;
const BOUNDS_MS = BOUNDS.map((bound) => bound * 1000);
/** Of one operation: a counter for each bucket and one above them, failures, milliseconds, bytes in and out. */
const FAILURES = BOUNDS.length + 1;
const SUM = FAILURES + 1;
const BYTES_IN = SUM + 1;
const BYTES_OUT = BYTES_IN + 1;
const FIELDS = BYTES_OUT + 1;

/** How often operations were done, how long they took, and how many failed; operations have small numbers. */
export class OperationMeter {
  readonly #prefix: string;
  readonly #nameOf: (operation: number) => string;
  #fields: Float64Array;

  /** `prefix`: of the metrics' names, such as `mfs_request`. */
  constructor(prefix: string, nameOf: (operation: number) => string, operations = 64) {
    this.#prefix = prefix;
    this.#nameOf = nameOf;
    this.#fields = new Float64Array(operations * FIELDS);
  }

  note(operation: number, ms: number, isFailed: boolean, bytesIn = 0, bytesOut = 0): void {
    const at = operation * FIELDS;
    if (at + FIELDS > this.#fields.length) this.#grow(operation);
    const fields = this.#fields;
    let bucket = 0;
    while (bucket < BOUNDS_MS.length && ms > BOUNDS_MS[bucket]!) bucket++;
    fields[at + bucket]! += 1;
    fields[at + SUM]! += ms;
    if (isFailed) fields[at + FAILURES]! += 1;
    if (bytesIn !== 0) fields[at + BYTES_IN]! += bytesIn;
    if (bytesOut !== 0) fields[at + BYTES_OUT]! += bytesOut;
  }

  #grow(operation: number): void {
    const larger = new Float64Array((operation + 1) * 2 * FIELDS);
    larger.set(this.#fields);
    this.#fields = larger;
  }

  metrics(what: string): readonly Metric[] {
    const seconds: Sample[] = [];
    const failures: Sample[] = [];
    const bytes: Sample[] = [];
    for (let at = 0; at < this.#fields.length; at += FIELDS) {
      const of = this.#fields.subarray(at, at + FIELDS);
      let count = 0;
      for (let i = 0; i <= BOUNDS.length; i++) count += of[i]!;
      if (count === 0) continue;
      const labels = { operation: this.#nameOf(at / FIELDS) };
      let below = 0;
      BOUNDS.forEach((le, i) => {
        below += of[i]!;
        seconds.push({ labels: { ...labels, le }, value: below, suffix: "_bucket" });
      });
      seconds.push({ labels: { ...labels, le: "+Inf" }, value: count, suffix: "_bucket" });
      seconds.push({ labels, value: of[SUM]! / 1000, suffix: "_sum" });
      seconds.push({ labels, value: count, suffix: "_count" });
      failures.push({ labels, value: of[FAILURES]! });
      if (of[BYTES_IN]! > 0) bytes.push({ labels: { ...labels, direction: "in" }, value: of[BYTES_IN]! });
      if (of[BYTES_OUT]! > 0) bytes.push({ labels: { ...labels, direction: "out" }, value: of[BYTES_OUT]! });
    }
    const name = (end: string) => `${this.#prefix}_${end}`;
    return [
      { name: name("duration_seconds"), help: `How long ${what} took.`, type: "histogram", samples: seconds },
      counter(name("failures_total"), `How many of ${what} failed, also as they should.`, failures),
      counter(
        name("bytes_total"),
        `Bytes of data that came with ${what} (in), and with the answers (out).`,
        bytes,
      ),
    ];
  }
}
