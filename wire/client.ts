/**
 * The client's end of a connection: requests out, responses in, in any order; pushes in, acknowledgements out.
 * Invariant: every call ends, by its response, its deadline, its signal or the end of the connection. A call that
 * is given up sends CANCEL, and its late response is dropped.
 */

import { FsError } from "./errno.ts";
import { attachBody, bodyOf, encodeWithoutBody, HeadDecoder, HeadEncoder } from "./codec.ts";
import { EMPTY_BYTES } from "../base/bytes.ts";
import {
  type Frame,
  KIND_CANCEL,
  KIND_ERROR,
  KIND_PUSH,
  KIND_PUSH_ACK,
  KIND_REQUEST,
  KIND_RESPONSE,
} from "./frame.ts";
import { type Hello, HELLO_OP, HELLO_TIMEOUT_MS, type HelloReply } from "./hello.ts";
import type { CallOptions, Channel, PushHandler, Role } from "./service.ts";
import { decodeError, encodeError } from "./error_message.ts";
import { CALL_TIMEOUT_MS_DEFAULT } from "./limits.ts";
import { PING_OP, SilenceWatch } from "./silence.ts";
import { FrameStream, type Socket } from "./stream.ts";

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: FsError) => void;
  readonly timer: number;
  readonly signal: AbortSignal | undefined;
  readonly onAbort: (() => void) | undefined;
}

export class Connection implements Channel {
  readonly #stream: FrameStream;
  readonly #encoder = new HeadEncoder();
  readonly #decoder = new HeadDecoder();
  readonly #pending = new Map<number, Pending>();
  readonly #onPush: PushHandler | undefined;
  readonly #peerName: string;
  readonly #silence: SilenceWatch | undefined;
  #nextId = 1;
  readonly closed: Promise<void>;

  /** Takes over a connected socket and starts reading. `peerName` is for error messages. */
  constructor(socket: Socket, peerName: string, onPush?: PushHandler, silenceMs?: number) {
    const stream = new FrameStream(socket);
    this.#stream = stream;
    this.#onPush = onPush;
    this.#peerName = peerName;
    if (silenceMs !== undefined) {
      const isWaiting = () => this.#pending.size > 0;
      const ping = () =>
        stream.send(KIND_REQUEST, PING_OP, this.#takeId(), this.#encoder.encode({}), EMPTY_BYTES);
      this.#silence = new SilenceWatch({ stream, silenceMs, isWaiting, ping });
    }
    this.closed = this.#stream.closed.then((reason) => this.#failAll(reason));
    // Never rejects; ends with the stream.
    void this.#stream.run((frame) => this.#receive(frame));
  }

  call(op: number, request: unknown, options: CallOptions = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#stream.isClosed) {
        reject(new FsError("ENOTCONN", `no connection to ${this.#peerName}`));
        return;
      }
      if (options.signal?.aborted) {
        reject(new FsError("EINTR", `call to ${this.#peerName} was cancelled`));
        return;
      }
      const id = this.#takeId();
      const timeoutMs = options.timeoutMs ?? CALL_TIMEOUT_MS_DEFAULT;
      const giveUp = (error: FsError) => {
        const pending = this.#take(id);
        if (pending === undefined) return;
        this.#stream.send(KIND_CANCEL, 0, id, EMPTY_BYTES, EMPTY_BYTES);
        pending.reject(error);
      };
      const onAbort = options.signal === undefined
        ? undefined
        : () => giveUp(new FsError("EINTR", `call to ${this.#peerName} was cancelled`));
      if (onAbort !== undefined) options.signal!.addEventListener("abort", onAbort, { once: true });
      const timer = setTimeout(
        () => giveUp(new FsError("ETIMEDOUT", `${this.#peerName} did not answer within ${timeoutMs} ms`)),
        timeoutMs,
      );
      this.#pending.set(id, { resolve, reject, timer, signal: options.signal, onAbort });
      this.#silence?.begin();
      try {
        this.#stream.send(KIND_REQUEST, op, id, encodeWithoutBody(this.#encoder, request), bodyOf(request));
      } catch (error) {
        this.#take(id);
        reject(new FsError("EINVAL", error instanceof Error ? error.message : String(error)));
      }
    });
  }

  close(): void {
    this.#stream.close("closed");
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId = id === 0xffffffff ? 1 : id + 1;
    return id;
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) return undefined;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (pending.onAbort !== undefined) pending.signal!.removeEventListener("abort", pending.onAbort);
    return pending;
  }

  #failAll(reason: string): void {
    this.#silence?.end();
    for (const id of [...this.#pending.keys()]) {
      this.#take(id)?.reject(new FsError("ENOTCONN", `connection to ${this.#peerName} ended: ${reason}`));
    }
  }

  #receive(frame: Frame): void {
    switch (frame.kind) {
      case KIND_RESPONSE: {
        // Decoded even when nobody waits: record structures come with the first message that uses them.
        const message = attachBody(this.#decoder.decode(frame.head), frame.body);
        this.#take(frame.requestId)?.resolve(message);
        return;
      }
      case KIND_ERROR: {
        const error = decodeError(this.#decoder.decode(frame.head));
        this.#take(frame.requestId)?.reject(error);
        return;
      }
      case KIND_PUSH: {
        const message = attachBody(this.#decoder.decode(frame.head), frame.body);
        // Answers by itself; a push that takes long must not hold up the responses behind it.
        void this.#answerPush(frame.op, frame.requestId, message);
        return;
      }
      default:
        this.#stream.close(`unexpected frame of kind ${frame.kind}`);
    }
  }

  async #answerPush(op: number, id: number, message: unknown): Promise<void> {
    try {
      if (this.#onPush === undefined) throw new FsError("ENOSYS", "this end takes no pushes");
      const answer = await this.#onPush(op, message);
      this.#stream.send(KIND_PUSH_ACK, op, id, this.#encoder.encode({ answer }), EMPTY_BYTES);
    } catch (error) {
      this.#stream.send(
        KIND_PUSH_ACK,
        op,
        id,
        this.#encoder.encode({ error: encodeError(error) }),
        EMPTY_BYTES,
      );
    }
  }
}

export interface ConnectOptions {
  readonly hello: Hello;
  /** What must be at the other end. */
  readonly expectRole: Role;
  readonly onPush?: PushHandler;
  readonly timeoutMs?: number;
  /** A peer that owes answers and sends nothing at all for so long is given up: the connection ends. */
  readonly silenceMs?: number;
}

/** Splits HOST:PORT ([HOST]:PORT for IPv6); throws EINVAL with what is wrong. */
export function parseAddress(address: string): { hostname: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:\s]+)):(\d{1,5})$/.exec(address);
  const port = Number(match?.[3]);
  if (match === null || port > 65535) {
    throw new FsError("EINVAL", `${JSON.stringify(address)} is not HOST:PORT`, { op: "address" });
  }
  return { hostname: (match[1] ?? match[2])!, port };
}

/** Connects and says HELLO. Errors: ECONNREFUSED, ETIMEDOUT, EPROTO (wrong cluster, version or role). */
export async function connect(
  address: string,
  options: ConnectOptions,
): Promise<{ channel: Connection; reply: HelloReply }> {
  const { hostname, port } = parseAddress(address);
  const timeoutMs = options.timeoutMs ?? HELLO_TIMEOUT_MS;
  const socket = await openSocket(hostname, port, address, timeoutMs);
  const peerName = `${options.expectRole} ${address}`;
  const channel = new Connection(socket, peerName, options.onPush, options.silenceMs);
  try {
    const reply = await channel.call(HELLO_OP, options.hello, { timeoutMs }) as HelloReply;
    if (reply?.role !== options.expectRole) {
      throw new FsError("EPROTO", `${address} is a ${reply?.role}, not a ${options.expectRole}`, {
        op: "hello",
      });
    }
    return { channel, reply };
  } catch (error) {
    channel.close();
    throw error;
  }
}

async function openSocket(
  hostname: string,
  port: number,
  address: string,
  timeoutMs: number,
): Promise<Deno.TcpConn> {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeoutMs);
  try {
    const socket = await Deno.connect({ hostname, port, signal: abort.signal });
    socket.setNoDelay(true);
    return socket;
  } catch (error) {
    if (abort.signal.aborted) {
      throw new FsError("ETIMEDOUT", `${address} did not accept a connection within ${timeoutMs} ms`, {
        op: "connect",
      });
    }
    const why = error instanceof Deno.errors.ConnectionRefused
      ? "connection refused (is it running?)"
      : error instanceof Error
      ? error.message
      : String(error);
    throw new FsError("ECONNREFUSED", `${address}: ${why}`, { op: "connect", cause: error });
  } finally {
    clearTimeout(timer);
  }
}
