/**
 * How a service is described, called and served. A service is a table of methods: name, op number, and the
 * types of request and response. The same description types the client proxy, the server's handlers and the
 * direct calls inside one process.
 *
 * Convention: a message's field `body` (Uint8Array) travels raw behind the CBOR head, never inside it.
 */

import { tracing } from "../base/tracing.ts";
import { tracedCall, tracedHandler } from "./tracing.ts";

export interface Method<Request, Response> {
  readonly op: number;
  /** Never set: carries the types. */
  readonly types?: { readonly request: Request; readonly response: Response };
}

export function method<Request, Response>(op: number): Method<Request, Response> {
  return { op };
}

// deno-lint-ignore no-explicit-any -- the variance of a method table has no other spelling
export type Methods = Readonly<Record<string, Method<any, any>>>;

export interface Service<Table extends Methods = Methods> {
  readonly name: string;
  readonly methods: Table;
}

export function defineService<Table extends Methods>(name: string, methods: Table): Service<Table> {
  return { name, methods };
}

export type RequestOf<M> = M extends Method<infer Request, infer _> ? Request : never;
export type ResponseOf<M> = M extends Method<infer _, infer Response> ? Response : never;

export interface CallOptions {
  /** Deadline from now; the connection's default when absent. */
  readonly timeoutMs?: number;
  /** Gives up waiting and tells the server so. */
  readonly signal?: AbortSignal;
}

/** A typed caller of a service: one function a method. Failures are FsError, transport failures included. */
export type Client<S extends Service> = {
  readonly [Name in keyof S["methods"]]: (
    request: RequestOf<S["methods"][Name]>,
    options?: CallOptions,
  ) => Promise<ResponseOf<S["methods"][Name]>>;
};

/** Who calls: what HELLO said about the peer, and this request's cancellation. */
export interface CallContext {
  readonly peer: Peer;
  /** Aborts when the caller cancelled or its connection ended; undefined where nobody can cancel. */
  readonly signal: AbortSignal | undefined;
  /**
   * Nothing uses the request's body any more, not even something that was given up: its memory may be used again. Absent where
   * it is the caller's own.
   */
  readonly bodyDone?: () => void;
  /** The body of the answer is nobody else's: its memory may be used again when it was sent. Absent where it is the caller's. */
  readonly answerIsOwn?: () => void;
}

export type Handlers<S extends Service> = {
  readonly [Name in keyof S["methods"]]: (
    request: RequestOf<S["methods"][Name]>,
    context: CallContext,
  ) => Promise<ResponseOf<S["methods"][Name]>> | ResponseOf<S["methods"][Name]>;
};

export type Role = "nameserver" | "dataserver" | "client" | "admin";

/** The other end of a channel as a server sees it: identity from HELLO, and the way back to it. */
export interface Peer {
  readonly role: Role;
  readonly description: string;
  /** Set by the service that opened a session or registered a node on this channel. */
  state: unknown;
  /** Sends a push and waits for its acknowledgement. */
  push(op: number, message: unknown, options?: CallOptions): Promise<unknown>;
  /** Resolves when the channel has ended. */
  readonly closed: Promise<void>;
}

/** A way to call a server: a connection, or a direct call inside the process. */
export interface Channel {
  call(op: number, request: unknown, options?: CallOptions): Promise<unknown>;
  /** Resolves when no further call can succeed. */
  readonly closed: Promise<void>;
  close(): void;
}

/** Answers pushes on the client's side of a channel. */
export type PushHandler = (op: number, message: unknown) => Promise<unknown> | unknown;

/** Server side: op number to handler. Built from one or several services. */
export type HandlerTable = ReadonlyMap<
  number,
  (request: unknown, context: CallContext) => Promise<unknown> | unknown
>;

/** A client of `service` whose calls go through `call` (usually a channel's). */
export function createClient<S extends Service>(
  service: S,
  call: (op: number, request: unknown, options?: CallOptions) => Promise<unknown>,
): Client<S> {
  const client: Record<string, unknown> = {};
  for (const [name, { op }] of Object.entries(service.methods)) {
    client[name] = (request: unknown, options?: CallOptions) => {
      const { tracer } = tracing;
      if (tracer === undefined) return call(op, request, options);
      return tracedCall(tracer, service.name, name, request, (traced) => call(op, traced, options));
    };
  }
  return client as Client<S>;
}

/** Sends a peer a push of `service`, and waits for its acknowledgement. */
export function pushTo(
  peer: Peer,
  service: Service,
  op: number,
  message: unknown,
  options?: CallOptions,
): Promise<unknown> {
  const { tracer } = tracing;
  if (tracer === undefined) return peer.push(op, message, options);
  const [name = `operation ${op}`] = Object.entries(service.methods).find(([, method]) => method.op === op) ??
    [];
  return tracedCall(tracer, service.name, name, message, (traced) => peer.push(op, traced, options));
}

/** Adds a service's handlers to a table. */
export function addHandlers<S extends Service>(
  table: Map<number, (request: unknown, context: CallContext) => Promise<unknown> | unknown>,
  service: S,
  handlers: Handlers<S>,
): void {
  for (const [name, { op }] of Object.entries(service.methods)) {
    const handler = handlers[name as keyof S["methods"]] as (
      request: unknown,
      context: CallContext,
    ) => Promise<unknown> | unknown;
    table.set(op, (request, context) => {
      const { tracer } = tracing;
      if (tracer === undefined) return handler(request, context);
      const peer = context.peer.description;
      return tracedHandler(tracer, service.name, name, request, peer, (plain) => handler(plain, context));
    });
  }
}

/** A push handler made of a service's handlers. */
export function createPushHandler<S extends Service>(
  service: S,
  handlers: {
    readonly [Name in keyof S["methods"]]: (
      message: RequestOf<S["methods"][Name]>,
    ) => Promise<ResponseOf<S["methods"][Name]>> | ResponseOf<S["methods"][Name]>;
  },
): PushHandler {
  const byOp = new Map<number, (message: unknown) => unknown>();
  for (const [name, { op }] of Object.entries(service.methods)) {
    const handler = handlers[name as keyof S["methods"]] as (message: unknown) => unknown;
    byOp.set(op, (message) => {
      const { tracer } = tracing;
      if (tracer === undefined) return handler(message);
      return tracedHandler(tracer, service.name, name, message, undefined, handler);
    });
  }
  return (op, message) => {
    const handler = byOp.get(op);
    if (handler === undefined) throw new Error(`no handler for push ${op}`);
    return handler(message);
  };
}
