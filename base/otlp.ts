/**
 * Sends finished spans to a collector: OTLP over HTTP, as JSON (opentelemetry.io/docs/specs/otlp). Loaded only where tracing is
 * on.
 * Invariants: at most QUEUE_MAX spans wait, what comes on top is counted and dropped; one request is under way at a time;
 * whatever becomes of it, nobody waits for it but `stop`.
 */

import type { Logger } from "./log.ts";
import type { FinishedSpan } from "./tracer.ts";
import type { Attributes } from "./tracing.ts";

const QUEUE_MAX = 8_192;
const BATCH_MAX = 512;
const DELAY_MS = 1_000;
/** At the end what waits is sent, if the collector takes it within this time. */
const STOP_MS_MAX = 500;
/** Span status of the protocol. */
const STATUS_ERROR = 2;

export interface OtlpOptions {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  /** What the spans come from: service.name and so on. */
  readonly resource: Attributes;
  readonly log: Logger;
}

export class OtlpExporter {
  readonly #options: OtlpOptions;
  #waiting: FinishedSpan[] = [];
  #dropped = 0;
  #timer: number | undefined;
  #sending: Promise<void> | undefined;
  #isRefused = false;

  constructor(options: OtlpOptions) {
    this.#options = options;
  }

  add(span: FinishedSpan): void {
    if (this.#waiting.length >= QUEUE_MAX) {
      this.#dropped++;
      return;
    }
    this.#waiting.push(span);
    if (this.#sending !== undefined) return;
    if (this.#waiting.length >= BATCH_MAX) this.#send();
    else this.#timer ??= setTimeout(() => this.#send(), DELAY_MS);
  }

  /** Sends what waits, within STOP_MS_MAX. */
  async stop(): Promise<void> {
    const late = AbortSignal.timeout(STOP_MS_MAX);
    while (!late.aborted && (this.#waiting.length > 0 || this.#sending !== undefined)) {
      if (this.#sending === undefined) this.#send(late);
      const ended = new Promise<void>((resolve) => late.addEventListener("abort", () => resolve()));
      await Promise.race([this.#sending, ended]);
    }
    clearTimeout(this.#timer);
  }

  #send(signal?: AbortSignal): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batch = this.#waiting.splice(0, BATCH_MAX);
    if (batch.length === 0) return;
    this.#sending = this.#post(batch, signal).finally(() => {
      this.#sending = undefined;
      if (this.#waiting.length > 0) this.#timer ??= setTimeout(() => this.#send(), this.#pauseMs);
    });
  }

  get #pauseMs(): number {
    return this.#waiting.length >= BATCH_MAX && !this.#isRefused ? 0 : DELAY_MS;
  }

  /** Never rejects: spans that are not taken are gone. */
  async #post(batch: readonly FinishedSpan[], stopping?: AbortSignal): Promise<void> {
    const { url, headers, timeoutMs, resource, log } = this.#options;
    const timeout = AbortSignal.timeout(timeoutMs);
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify(message(resource, batch)),
        signal: stopping === undefined ? timeout : AbortSignal.any([timeout, stopping]),
      });
      await response.body?.cancel();
      if (!response.ok) throw new Error(`the collector answers ${response.status}`);
      if (this.#isRefused) log.info("traces are taken again", { url });
      this.#isRefused = false;
    } catch (error) {
      if (!this.#isRefused) log.warn("traces can't be sent", { url, error });
      this.#isRefused = true;
    }
    if (this.#dropped > 0) log.warn("more spans than can be sent", { dropped: this.#dropped });
    this.#dropped = 0;
  }
}

/** An ExportTraceServiceRequest in its JSON form. */
function message(resource: Attributes, spans: readonly FinishedSpan[]): unknown {
  return {
    resourceSpans: [{
      resource: { attributes: keyValues(resource) },
      scopeSpans: [{ scope: { name: "mfs" }, spans: spans.map(spanMessage) }],
    }],
  };
}

function spanMessage(span: FinishedSpan): unknown {
  const { traceId, spanId, parentId, name, kind, startMs, endMs, attributes, error } = span;
  return {
    ...{ traceId, spanId, ...parentId === "" ? {} : { parentSpanId: parentId }, name, kind, flags: 1 },
    startTimeUnixNano: nanoseconds(startMs),
    endTimeUnixNano: nanoseconds(endMs),
    attributes: keyValues(attributes),
    status: error === undefined ? {} : { code: STATUS_ERROR, message: error },
  };
}

function keyValues(attributes: Attributes): unknown[] {
  return Object.entries(attributes).map(([key, value]) => ({
    key,
    // 64-bit integers are texts in the protocol's JSON.
    value: typeof value === "string" ? { stringValue: value } : { intValue: String(value) },
  }));
}

/** Digits beyond those that a double has are of no use. */
function nanoseconds(ms: number): string {
  const whole = Math.floor(ms);
  return `${whole}${String(Math.floor((ms - whole) * 1e6)).padStart(6, "0")}`;
}
