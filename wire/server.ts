/**
 * The server's end: accepts connections, demands HELLO, hands requests to handlers and answers out of order.
 * Bad input (no HELLO in time, bad frame, broken CBOR, unknown op, foreign cluster) closes that connection with
 * a logged reason and touches nothing else.
 * Invariant: requests in progress of one connection are bounded (REQUESTS_MAX); past that its socket is not read.
 */

import { EMPTY_BYTES } from "../base/bytes.ts";
import type { Logger } from "../base/log.ts";
import { bodies } from "./bodies.ts";
import { attachBody, bodyOf, encodeWithoutBody, HeadDecoder, HeadEncoder } from "./codec.ts";
import { FsError } from "./errno.ts";
import { decodeError, encodeError, type ErrorMessage } from "./error_message.ts";
import {
  type Frame,
  KIND_CANCEL,
  KIND_ERROR,
  KIND_PUSH,
  KIND_PUSH_ACK,
  KIND_REQUEST,
  KIND_RESPONSE,
} from "./frame.ts";
import { checkHello, HELLO_OP, HELLO_TIMEOUT_MS } from "./hello.ts";
import type { CallContext, CallOptions, HandlerTable, Peer, Role } from "./service.ts";
import { PUSH_TIMEOUT_MS_DEFAULT } from "./limits.ts";
import { PING_OP } from "./silence.ts";
import { FrameStream, type Socket } from "./stream.ts";
import { parseAddress } from "./client.ts";

const REQUESTS_MAX = 512;
const CONNECTIONS_MAX = 4096;
/** A fraction of the silence after which peers give up. */
const LIVING_MS = 500;

export interface ServerOptions {
  readonly role: Role;
  /** The cluster that peers must belong to; read at each HELLO. */
  readonly clusterId: () => string;
  readonly handlers: HandlerTable;
  readonly log: Logger;
  /** True once the server stops: connections that it ends itself are not worth a warning. */
  readonly isStopping?: () => boolean;
}

class ServerPeer implements Peer {
  role: Role = "client";
  description = "";
  state: unknown = undefined;
  readonly closed: Promise<void>;
  readonly #stream: FrameStream;
  readonly #encoder: HeadEncoder;
  readonly #pushes = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: FsError) => void }
  >();
  #nextPushId = 1;

  constructor(stream: FrameStream, encoder: HeadEncoder) {
    this.#stream = stream;
    this.#encoder = encoder;
    this.closed = stream.closed.then((reason) => {
      for (const push of this.#pushes.values()) {
        push.reject(new FsError("ENOTCONN", `peer is gone: ${reason}`));
      }
      this.#pushes.clear();
    });
  }

  push(op: number, message: unknown, options: CallOptions = {}): Promise<unknown> {
    if (this.#stream.isClosed) return Promise.reject(new FsError("ENOTCONN", "peer is gone"));
    const id = this.#nextPushId;
    this.#nextPushId = id === 0xffffffff ? 1 : id + 1;
    const timeoutMs = options.timeoutMs ?? PUSH_TIMEOUT_MS_DEFAULT;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pushes.delete(id);
        reject(new FsError("ETIMEDOUT", `no acknowledgement within ${timeoutMs} ms`));
      }, timeoutMs);
      this.#pushes.set(id, {
        resolve: (value) => {
          clearTimeout(timer);
          resolve(value);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      });
      this.#stream.send(KIND_PUSH, op, id, encodeWithoutBody(this.#encoder, message), bodyOf(message));
    });
  }

  acknowledge(id: number, value: unknown): void {
    const push = this.#pushes.get(id);
    if (push === undefined) return; // it was given up
    this.#pushes.delete(id);
    const ack = value as { answer?: unknown; error?: ErrorMessage } | null;
    if (ack?.error !== undefined) push.reject(decodeError(ack.error));
    else push.resolve(ack?.answer);
  }
}

/** Serves one socket until it ends. Never rejects. */
export async function serveSocket(socket: Socket, from: string, options: ServerOptions): Promise<void> {
  const stream = new FrameStream(socket);
  const encoder = new HeadEncoder();
  const decoder = new HeadDecoder();
  const peer = new ServerPeer(stream, encoder);
  const running = new Map<number, AbortController>();
  let greeted = false;
  let refused = false;
  let wakeReader: (() => void) | undefined;
  const helloTimer = setTimeout(() => stream.close("no HELLO in time"), HELLO_TIMEOUT_MS);

  const respond = async (frame: Frame, request: unknown): Promise<void> => {
    let abort: AbortController | undefined;
    let isOwn = false;
    const context: CallContext = {
      peer,
      get signal() {
        abort ??= running.get(frame.requestId);
        return abort?.signal;
      },
      bodyDone: () => bodies.give(frame.body),
      answerIsOwn: () => isOwn = true,
    };
    const { op, requestId } = frame;
    try {
      const handler = options.handlers.get(op);
      if (handler === undefined) throw new FsError("ENOSYS", `unknown operation ${op}`);
      const result = await handler(request, context);
      const body = bodyOf(result);
      const onSent = isOwn ? () => bodies.give(body) : undefined;
      stream.send(KIND_RESPONSE, op, requestId, encodeWithoutBody(encoder, result), body, onSent);
    } catch (error) {
      if (!(error instanceof FsError)) {
        options.log.error("request failed", { op, from, error, stack: stackOf(error) });
      }
      stream.send(KIND_ERROR, op, requestId, encoder.encode(encodeError(error)), EMPTY_BYTES);
    } finally {
      running.delete(requestId);
      wakeReader?.();
    }
  };

  const onFrame = (frame: Frame): Promise<void> | void => {
    switch (frame.kind) {
      case KIND_REQUEST: {
        const request = attachBody(decoder.decode(frame.head), frame.body);
        if (refused) return;
        if (!greeted) {
          if (frame.op !== HELLO_OP) return stream.close("the first message is not a HELLO");
          try {
            const { hello, reply } = checkHello(request, options.clusterId(), options.role);
            greeted = true;
            clearTimeout(helloTimer);
            peer.role = hello.role;
            peer.description = hello.description;
            stream.send(KIND_RESPONSE, HELLO_OP, frame.requestId, encoder.encode(reply), EMPTY_BYTES);
          } catch (error) {
            stream.send(
              KIND_ERROR,
              HELLO_OP,
              frame.requestId,
              encoder.encode(encodeError(error)),
              EMPTY_BYTES,
            );
            const reason = error instanceof Error ? error.message : String(error);
            options.log.warn("connection refused or broken", { from, reason });
            refused = true;
            // Let the refusal leave before the socket closes.
            setTimeout(() => stream.close("closed"), 50);
          }
          return;
        }
        if (frame.op === PING_OP) {
          pong(frame.requestId);
          return;
        }
        if (running.has(frame.requestId)) return stream.close("request id used twice");
        running.set(frame.requestId, new AbortController());
        void respond(frame, request); // answers by itself and never rejects
        return backPressure();
      }
      case KIND_PUSH_ACK:
        peer.acknowledge(frame.requestId, attachBody(decoder.decode(frame.head), frame.body));
        return;
      case KIND_CANCEL:
        running.get(frame.requestId)?.abort();
        return;
      default:
        return stream.close(`unexpected frame of kind ${frame.kind}`);
    }
  };

  const pong = (requestId: number): void =>
    stream.send(KIND_RESPONSE, PING_OP, requestId, encoder.encode({}), EMPTY_BYTES);

  const backPressure = async (): Promise<void> => {
    await stream.uncongested();
    if (running.size < REQUESTS_MAX) return;
    // Pings are not read now: that we live is said without being asked.
    const living = setInterval(() => pong(0), LIVING_MS);
    while (running.size >= REQUESTS_MAX && !stream.isClosed) {
      await new Promise<void>((resolve) => wakeReader = resolve);
      wakeReader = undefined;
    }
    clearInterval(living);
  };

  void stream.closed.then(() => {
    wakeReader?.();
    for (const abort of running.values()) abort.abort();
  });
  await stream.run(onFrame);
  clearTimeout(helloTimer);
  const reason = await stream.closed;
  const isOrdinary = reason === "closed by the peer" || reason === "closed" ||
    options.isStopping?.() === true;
  if (!isOrdinary) {
    options.log.warn("connection refused or broken", { from, reason });
  }
}

function stackOf(error: unknown): string | undefined {
  return error instanceof Error
    ? error.stack?.split("\n").slice(1, 4).map((line) => line.trim()).join(" < ")
    : undefined;
}

export interface RunningServer extends AsyncDisposable {
  /** HOST:PORT as bound. */
  readonly address: string;
  close(): Promise<void>;
}

/** Listens on HOST:PORT (port 0: any). Throws FsError EADDRINUSE and the like with one clear sentence. */
export function serve(listen: string, options: ServerOptions): RunningServer {
  const { hostname, port } = parseAddress(listen);
  let listener: Deno.TcpListener;
  try {
    listener = Deno.listen({ hostname, port });
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) {
      throw new FsError(
        "EADDRINUSE",
        `${listen} is in use: stop what listens there or give another --listen`,
        {
          op: options.role,
        },
      );
    }
    const why = error instanceof Error ? error.message : String(error);
    throw new FsError("EINVAL", `cannot listen on ${listen}: ${why}`, { op: options.role, cause: error });
  }
  const sockets = new Set<Deno.TcpConn>();
  const stoppable = { ...options, isStopping: () => closed };
  const accept = async () => {
    for (;;) {
      let socket: Deno.TcpConn;
      try {
        socket = await listener.accept();
      } catch (error) {
        if (closed) return;
        options.log.warn("accept failed", { error });
        await new Promise((resolve) => setTimeout(resolve, 100)); // such as EMFILE: do not spin
        continue;
      }
      if (sockets.size >= CONNECTIONS_MAX) {
        options.log.warn("too many connections", { max: CONNECTIONS_MAX });
        socket.close();
        continue;
      }
      try {
        socket.setNoDelay(true);
      } catch {
        // The peer was gone before we looked; the read loop will see that.
      }
      sockets.add(socket);
      const remote = socket.remoteAddr;
      void serveSocket(socket, `${remote.hostname}:${remote.port}`, stoppable).finally(() =>
        sockets.delete(socket)
      );
    }
  };
  let closed = false;
  const accepting = accept();
  const close = async () => {
    if (closed) return;
    closed = true;
    listener.close();
    for (const socket of sockets) {
      try {
        socket.close();
      } catch {
        // It ended by itself meanwhile.
      }
    }
    await accepting;
  };
  const bound = listener.addr;
  const host = bound.hostname.includes(":") ? `[${bound.hostname}]` : bound.hostname;
  return { address: `${host}:${bound.port}`, close, [Symbol.asyncDispose]: close };
}
