/**
 * Traces, as the code sees them that they pass through: a span is a piece of work with a beginning, an end and a parent, and
 * spans of one trace may lie in several processes. Who makes spans is `tracing.tracer`; while tracing is off there is none,
 * and a comparison is all that is done.
 * A span's name for other processes is a `traceparent` (W3C Trace Context, level 1).
 */

/** As OTLP has them (opentelemetry/proto/trace/v1/trace.proto, Span.SpanKind). */
export const SPAN_SERVER = 2;
export const SPAN_CLIENT = 3;

export type Attributes = Readonly<Record<string, string | number>>;

export interface Span {
  readonly traceparent: string;
  set(key: string, value: string | number): void;
  /** `error`: what went wrong, in a sentence. The first call counts. */
  end(error?: string): void;
}

export interface Tracer {
  /** What the running code works for; undefined: nothing that is traced. */
  readonly current: Span | undefined;
  /** Begins a trace, unless this one is not among those that are sampled. */
  root(name: string, kind: number, attributes: Attributes): Span | undefined;
  /** A part of a span, of this process or of another; undefined where the parent is none. */
  child(parent: Span | string, name: string, kind: number, attributes: Attributes): Span | undefined;
  /** Runs `work`, and whatever it starts, for a span, or for none. */
  run<T>(span: Span | undefined, work: () => T): T;
}

/** Of this process: set once, when it starts. */
export const tracing: { tracer: Tracer | undefined } = { tracer: undefined };
