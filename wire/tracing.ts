/**
 * The spans of remote calls: one where a call is made, and below it one where it is served. What the caller works for travels
 * in the request's field `traceparent`, which is there only where both a trace and a tracer are: a peer that knows nothing of
 * it ignores it, as it does all fields that it does not know.
 */

import { type Attributes, type Span, SPAN_CLIENT, SPAN_SERVER, type Tracer } from "../base/tracing.ts";

/** Makes a call with a span around it, if what is done now is traced. */
export function tracedCall<T>(
  tracer: Tracer,
  service: string,
  method: string,
  request: unknown,
  send: (request: unknown) => Promise<T>,
): Promise<T> {
  const parent = tracer.current;
  const span = parent && tracer.child(parent, `${service}/${method}`, SPAN_CLIENT, rpc(service, method));
  if (span === undefined) return send(request);
  // A copy whose fields are as they were: some are looked up when they are sent.
  const fields = Object.getOwnPropertyDescriptors(request);
  const traced = Object.defineProperties({ traceparent: span.traceparent }, fields);
  const answer = tracer.run(span, () => send(traced));
  answer.then(() => span.end(), (error) => fail(span, error));
  return answer;
}

/** Serves a request with a span around it, if it came with one; and for none that happened to be there otherwise. */
export function tracedHandler<T>(
  tracer: Tracer,
  service: string,
  method: string,
  request: unknown,
  peer: string | undefined,
  handle: (request: unknown) => T,
): T {
  const { traceparent, ...plain } = (request ?? {}) as { readonly traceparent?: unknown };
  if (typeof traceparent !== "string") return tracer.run(undefined, () => handle(request));
  const attributes = peer === undefined
    ? rpc(service, method)
    : { ...rpc(service, method), "mfs.peer": peer };
  const span = tracer.child(traceparent, `${service}/${method}`, SPAN_SERVER, attributes);
  if (span === undefined) return tracer.run(undefined, () => handle(plain));
  let answer: T;
  try {
    answer = tracer.run(span, () => handle(plain));
  } catch (error) {
    fail(span, error);
    throw error;
  }
  if (answer instanceof Promise) answer.then(() => span.end(), (error) => fail(span, error));
  else span.end();
  return answer;
}

/** It says already what it is sent for. */
export function isTraced(request: unknown): boolean {
  return (request as { readonly traceparent?: unknown } | null | undefined)?.traceparent !== undefined;
}

function rpc(service: string, method: string): Attributes {
  return { "rpc.system": "mfs", "rpc.service": service, "rpc.method": method };
}

function fail(span: Span, error: unknown): void {
  const { errno, message } = (error ?? {}) as { readonly errno?: unknown; readonly message?: unknown };
  if (typeof errno === "string") span.set("error.type", errno);
  span.end(String(message ?? error));
}
