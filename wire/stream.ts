/**
 * One frame stream over one socket: reading frames in order, writing them gathered. Shared by both ends.
 * Owns: the socket. Knows nothing of requests.
 * Invariant: frames leave in the order of `send`; after `close` nothing is sent and `closed` has the reason.
 */

import { encodeFrame, type Frame, FrameError, FrameReader } from "./frame.ts";

/** What we need of a socket; Deno.TcpConn has it, and so can a simulated network. */
export interface Socket {
  read(buffer: Uint8Array): Promise<number | null>;
  write(bytes: Uint8Array): Promise<number>;
  close(): void;
}

const GATHER_BYTES = 64 * 1024;
/** Outgoing bytes over which `congested` is true. */
const CONGESTION_BYTES = 8 * 1024 * 1024;

export class FrameStream {
  readonly #socket: Socket;
  readonly #reader = new FrameReader();
  #outgoing: Uint8Array[] = [];
  #outgoingBytes = 0;
  /** What is to be done when the kernel has taken a body. */
  readonly #onSent = new Map<Uint8Array, () => void>();
  #writing = false;
  #receivedBytes = 0;
  #sentBytes = 0;
  #closed = false;
  #drained: (() => void)[] = [];
  #resolveClosed!: (reason: string) => void;
  /** Resolves with the reason when the stream has ended. */
  readonly closed: Promise<string> = new Promise((resolve) => this.#resolveClosed = resolve);

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  /** Taken by the kernel. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /** Something waits for the kernel to take it. */
  get isSending(): boolean {
    return this.#outgoingBytes > 0;
  }

  /** Queues a frame. The body must not change before it was sent (`onSent`, or never); nothing here copies a large one. */
  send(
    kind: number,
    op: number,
    requestId: number,
    head: Uint8Array,
    body: Uint8Array,
    onSent?: () => void,
  ): void {
    if (this.#closed) return;
    if (onSent !== undefined && body.length > 0) this.#onSent.set(body, onSent);
    const start = encodeFrame(kind, op, requestId, head, body.length);
    this.#outgoing.push(start);
    if (body.length > 0) this.#outgoing.push(body);
    this.#outgoingBytes += start.length + body.length;
    if (!this.#writing) this.#write();
  }

  /** Resolves when the peer has taken enough of what was queued that more may be made for it. */
  async uncongested(): Promise<void> {
    while (this.#outgoingBytes > CONGESTION_BYTES && !this.#closed) {
      await new Promise<void>((resolve) => this.#drained.push(resolve));
    }
  }

  /** Reads frames until the stream ends; `onFrame` may make it wait (back-pressure). Never rejects. */
  async run(onFrame: (frame: Frame) => Promise<void> | void): Promise<void> {
    try {
      while (!this.#closed) {
        const count = await this.#socket.read(this.#reader.target());
        if (count === null) {
          this.close(this.#reader.atBoundary ? "closed by the peer" : "closed by the peer within a frame");
          return;
        }
        this.#receivedBytes += count;
        this.#reader.advance(count);
        for (let frame = this.#reader.next(); frame !== null; frame = this.#reader.next()) {
          const wait = onFrame(frame);
          if (wait !== undefined) await wait;
          if (this.#closed) return;
        }
      }
    } catch (error) {
      const prefix = error instanceof FrameError ? "bad frame: " : "";
      this.close(prefix + (error instanceof Error ? error.message : String(error)));
    }
  }

  close(reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#outgoing = [];
    this.#outgoingBytes = 0;
    this.#onSent.clear();
    try {
      this.#socket.close();
    } catch {
      // Already closed by the runtime; the stream has ended either way.
    }
    this.#wakeDrained();
    this.#resolveClosed(reason);
  }

  #wakeDrained(): void {
    const waiting = this.#drained;
    this.#drained = [];
    for (const wake of waiting) wake();
  }

  async #write(): Promise<void> {
    this.#writing = true;
    // Frames queued in the same turn go out together.
    await Promise.resolve();
    try {
      while (this.#outgoing.length > 0 && !this.#closed) {
        const parts = this.#outgoing;
        this.#outgoing = [];
        for (let i = 0; i < parts.length;) {
          let bytes = parts[i]!;
          let next = i + 1;
          let total = bytes.length;
          while (next < parts.length && total + parts[next]!.length <= GATHER_BYTES) {
            total += parts[next++]!.length;
          }
          if (next > i + 1) bytes = gather(parts, i, next, total);
          await this.#writeAll(bytes);
          this.#outgoingBytes -= total;
          if (this.#onSent.size > 0) this.#noteSent(parts, i, next);
          i = next;
          if (this.#drained.length > 0 && this.#outgoingBytes <= CONGESTION_BYTES) this.#wakeDrained();
        }
      }
    } catch (error) {
      this.close(error instanceof Error ? error.message : String(error));
    } finally {
      this.#writing = false;
    }
  }

  #noteSent(parts: readonly Uint8Array[], from: number, to: number): void {
    for (let i = from; i < to; i++) {
      const part = parts[i]!;
      const onSent = this.#onSent.get(part);
      if (onSent === undefined) continue;
      this.#onSent.delete(part);
      onSent();
    }
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    let at = 0;
    while (at < bytes.length) {
      const count = await this.#socket.write(at === 0 ? bytes : bytes.subarray(at));
      this.#sentBytes += count;
      at += count;
    }
  }
}

function gather(parts: readonly Uint8Array[], from: number, to: number, total: number): Uint8Array {
  const bytes = new Uint8Array(total);
  let at = 0;
  for (let i = from; i < to; i++) {
    bytes.set(parts[i]!, at);
    at += parts[i]!.length;
  }
  return bytes;
}
