/**
 * Makes spans, and keeps what the running code works for: it follows promises and timers (AsyncLocalStorage).
 * Loaded only where tracing is on.
 * Invariant: a span that is over is a parent for `lingerMs` more at most. What a request has set going may go on after its
 * answer (data that is written behind), but a loop that runs for ever since then does not work for it.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import type { Attributes, Span, Tracer } from "./tracing.ts";

const LINGER_MS_DEFAULT = 5_000;
/** version 00, flag 01: sampled. */
const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-01$/;

export interface FinishedSpan {
  readonly traceId: string;
  readonly spanId: string;
  /** "": it is the first of its trace. */
  readonly parentId: string;
  readonly name: string;
  readonly kind: number;
  /** Milliseconds since 1970, with fractions. */
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Attributes;
  readonly error: string | undefined;
}

export interface TracerOptions {
  /** Whether the next trace is taken. */
  readonly isSampled: () => boolean;
  readonly finished: (span: FinishedSpan) => void;
  /** Default 5 s. */
  readonly lingerMs?: number;
}

class RecordedSpan implements Span {
  readonly traceId: string;
  readonly spanId = randomHex(8);
  readonly #parentId: string;
  readonly #name: string;
  readonly #kind: number;
  readonly #startMs = nowMs();
  readonly #attributes: Record<string, string | number>;
  readonly #finished: (span: FinishedSpan) => void;
  #endMs: number | undefined;

  constructor(
    traceId: string,
    parentId: string,
    name: string,
    kind: number,
    attributes: Attributes,
    finished: (span: FinishedSpan) => void,
  ) {
    this.traceId = traceId;
    this.#parentId = parentId;
    this.#name = name;
    this.#kind = kind;
    this.#attributes = { ...attributes };
    this.#finished = finished;
  }

  get traceparent(): string {
    return `00-${this.traceId}-${this.spanId}-01`;
  }

  /** For how long it is over; below 0: it is not. */
  get overMs(): number {
    return this.#endMs === undefined ? -1 : nowMs() - this.#endMs;
  }

  set(key: string, value: string | number): void {
    this.#attributes[key] = value;
  }

  end(error?: string): void {
    if (this.#endMs !== undefined) return;
    this.#endMs = nowMs();
    this.#finished({
      traceId: this.traceId,
      spanId: this.spanId,
      parentId: this.#parentId,
      name: this.#name,
      kind: this.#kind,
      startMs: this.#startMs,
      endMs: this.#endMs,
      attributes: this.#attributes,
      error,
    });
  }
}

export class ContextTracer implements Tracer {
  readonly #storage = new AsyncLocalStorage<RecordedSpan | undefined>();
  readonly #options: TracerOptions;

  constructor(options: TracerOptions) {
    this.#options = options;
  }

  get current(): Span | undefined {
    const span = this.#storage.getStore();
    const { lingerMs = LINGER_MS_DEFAULT } = this.#options;
    return span !== undefined && span.overMs < lingerMs ? span : undefined;
  }

  root(name: string, kind: number, attributes: Attributes): Span | undefined {
    const { isSampled, finished } = this.#options;
    if (!isSampled()) return undefined;
    return new RecordedSpan(randomHex(16), "", name, kind, attributes, finished);
  }

  child(parent: Span | string, name: string, kind: number, attributes: Attributes): Span | undefined {
    const traceparent = typeof parent === "string" ? parent : parent.traceparent;
    const [, traceId, parentId] = TRACEPARENT.exec(traceparent) ?? [];
    if (traceId === undefined || parentId === undefined) return undefined;
    return new RecordedSpan(traceId, parentId, name, kind, attributes, this.#options.finished);
  }

  run<T>(span: Span | undefined, work: () => T): T {
    return this.#storage.run(span as RecordedSpan | undefined, work);
  }
}

/** The wall clock of the start and the monotonic clock since: durations stay right when the time is set. */
function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

function randomHex(bytes: number): string {
  return Array.from(
    crypto.getRandomValues(new Uint8Array(bytes)),
    (byte) => byte.toString(16).padStart(2, "0"),
  ).join("");
}
