/**
 * The loop over one /dev/fuse descriptor: reads requests, has them dispatched, writes the replies. Reads are
 * plain non-blocking calls until the queue is empty; then this thread waits in poll(2), for a request or for work of the
 * event loop (turns.ts), and when none has come for a while, a thread of Deno's pool does. So a busy file system pays no
 * hand-over between threads, and an idle one no processor time.
 * It must never touch the mount itself, and never write notifications (notify.ts does, from the pool).
 * Invariant: the event loop makes a full turn at least every millisecond, or as soon as it has something to do, so that
 * sockets and timers are served under any load.
 * The descriptor belongs to the caller, who closes it after `run` has ended.
 */

import { assert } from "../../base/assert.ts";
import { isTurnAwaited, turnAlone } from "../../base/event_loop.ts";
import * as libc from "../../base/libc.ts";
import type { Logger } from "../../base/log.ts";
import { ERRNO, errnoName, FsError } from "../../wire/errno.ts";
import { Dispatcher, type ReplySink } from "./dispatcher.ts";
import type { FileSystemHandlers } from "./handlers.ts";
import { CONNECTION_DEFAULTS, type ConnectionFeatures, type ConnectionOptions } from "./init.ts";
import { PAGE_BYTES, REQUEST_HEADROOM_BYTES } from "./protocol.ts";
import type { ReplyBuffer } from "./reply.ts";
import { RequestBuffer } from "./request.ts";
import { KernelTrace } from "./trace.ts";
import { EventLoopTurns } from "./turns.ts";

export interface KernelSessionParts {
  /** An open, mounted /dev/fuse descriptor. */
  readonly fd: number;
  readonly handlers: FileSystemHandlers;
  readonly log: Logger;
  readonly options?: KernelSessionOptions;
}

export interface KernelSessionOptions extends Partial<ConnectionOptions> {
  /** Log every request and reply at level debug. */
  readonly trace?: boolean;
}

/**
 * Longest time without a full turn of the event loop. Turns made with setImmediate are not enough: the runtime
 * looks at sockets only in every 61st of them (measured: a socket's answer took 61 ms behind 1 ms batches),
 * while whenever it has to wait, even if only for what is there already, all are looked at.
 */
const BUSY_MS_MAX = 1;
/**
 * An empty queue is asked again for that long before a thread is told to wait (measured: 25 us instead of 75 us a
 * request of a single caller on another core; longer brings nothing).
 */
const SPIN_MS = 0.04;
/** So long after a request this thread waits for the next one by itself. */
const HOT_MS = 20;
/** Timers are that late at most, meanwhile. */
const BLOCK_MS_MAX = 2;
const POLL_TIMEOUT_MS = 1000;
/**
 * While handlers are at work the threads of the pool may all be taken by their calls, and poll(2) wait in
 * line behind them; so the queue is looked at that often without it.
 */
const POLL_GUARD_MS = 20;
/** As many as a file has writes in flight, and the one that is read next. */
const IDLE_BUFFERS_MAX = 10;

const ENDED = -1;

export class KernelSession implements ReplySink {
  /** Resolves when INIT was answered; rejects when the session ended before. */
  readonly initialized: Promise<void>;

  readonly #fd: number;
  readonly #log: Logger;
  readonly #dispatcher: Dispatcher;
  readonly #bufferBytes: number;
  readonly #idleBuffers: RequestBuffer[] = [];
  #buffer: RequestBuffer | null = null;
  #turns: EventLoopTurns | null = null;
  /** The poll(2) in a thread of the pool, if there is one. */
  #poll: Promise<void> | null = null;
  /** Ends the loop's sleep; harmless when it is awake. */
  #wake: () => void = () => {};
  #guard: number | undefined;
  #isRunning = false;
  #features: ConnectionFeatures | null = null;
  readonly #initializedResolvers: PromiseWithResolvers<void>;

  constructor(parts: KernelSessionParts) {
    const connection: ConnectionOptions = { ...CONNECTION_DEFAULTS, ...parts.options };
    assert(
      connection.maxWriteBytes >= PAGE_BYTES && connection.maxWriteBytes % PAGE_BYTES === 0,
      "maxWriteBytes is a multiple of the page size",
    );
    this.#fd = parts.fd;
    this.#log = parts.log;
    this.#bufferBytes = connection.maxWriteBytes + REQUEST_HEADROOM_BYTES;
    this.#dispatcher = new Dispatcher({
      handlers: parts.handlers,
      sink: this,
      log: parts.log,
      connection,
      trace: parts.options?.trace ? new KernelTrace(parts.log) : null,
    });
    this.#initializedResolvers = Promise.withResolvers();
    this.initialized = this.#initializedResolvers.promise;
    // Who does not ask must not be killed by an unhandled rejection.
    this.initialized.catch(() => {});
  }

  /** What was agreed on with the kernel; null before INIT. */
  get features(): ConnectionFeatures | null {
    return this.#features;
  }

  /** Requests so far. */
  get requestCount(): number {
    return this.#dispatcher.requestCount;
  }

  /** Requests so far, by operation. */
  get requestCounts(): Record<string, number> {
    return this.#dispatcher.requestCounts;
  }

  /** How long requests took, and bytes of files so far. */
  get figures(): Pick<Dispatcher, "meter" | "readBytes" | "writtenBytes"> {
    return this.#dispatcher;
  }

  /** Requests whose handler is still at work. */
  get pendingCount(): number {
    return this.#dispatcher.pendingCount;
  }

  /**
   * Serves until the file system is unmounted or its connection aborted, or until `signal` aborts (noticed
   * within a second). Unmount first: whoever waits for a request when `signal` aborts waits until the
   * descriptor is closed.
   * @throws FsError when the device fails in an unforeseen way
   */
  async run(signal: AbortSignal): Promise<void> {
    assert(!this.#isRunning, "a session runs once");
    this.#isRunning = true;
    libc.fcntl(this.#fd, libc.F_SETFL, libc.fcntl(this.#fd, libc.F_GETFL, 0) | libc.O_NONBLOCK);
    this.#turns = await EventLoopTurns.open(this.#log);
    try {
      await this.#loop(signal);
    } finally {
      this.#turns?.close();
      this.#dispatcher.abandon();
      this.#initializedResolvers.reject(
        new FsError("ENOTCONN", "the file system was unmounted before the kernel had connected"),
      );
      this.#stopGuard();
      await this.#poll;
      this.#buffer = null;
      this.#idleBuffers.length = 0;
    }
  }

  async #loop(signal: AbortSignal): Promise<void> {
    let turnedMs = performance.now();
    let servedMs = -Infinity;
    /** What was begun here goes on only when this thread is left to the event loop. */
    let hasBegun = false;
    while (!signal.aborted) {
      const served = this.#drain(turnedMs + BUSY_MS_MAX);
      if (served === ENDED) return;
      const nowMs = performance.now();
      if (served > 0) {
        servedMs = nowMs;
        hasBegun = true;
      }
      const isWaitedFor = this.#dispatcher.pendingCount > 0;
      if (nowMs < turnedMs + BUSY_MS_MAX) {
        if (!isWaitedFor && nowMs < servedMs + SPIN_MS) continue;
        if (hasBegun || isTurnAwaited()) {
          hasBegun = !await turnAlone();
          continue;
        }
      }
      const isHot = nowMs < servedMs + HOT_MS;
      // While a handler is at work its answer comes first, by the event loop itself; it ends the wait (`answered`).
      if (this.#turns === null || !isHot || isWaitedFor) {
        await this.#wait();
      } else {
        const isBusy = nowMs >= turnedMs + BUSY_MS_MAX;
        if (!isBusy && this.#turns.block(this.#fd, BLOCK_MS_MAX)) continue;
        await this.#turns.turn();
        hasBegun = true;
      }
      turnedMs = performance.now();
    }
  }

  /** Serves what is in the queue, at most until `deadlineMs`: how many requests, or ENDED. */
  #drain(deadlineMs: number): number {
    let served = 0;
    for (;;) {
      const buffer = this.#buffer ??= this.#takeBuffer();
      const length = libc.read(this.#fd, buffer.bytes);
      if (length < 0) {
        if (length === -ERRNO.EAGAIN) return served;
        if (length === -ERRNO.EINTR || length === -ERRNO.ENOENT) continue;
        if (length === -ERRNO.ENODEV || length === -ERRNO.ECONNABORTED) return ENDED;
        throw new FsError(errnoName(-length), `reading /dev/fuse failed with errno ${-length}`, {
          op: "read /dev/fuse",
        });
      }
      if (this.#dispatcher.dispatch(buffer, length)) this.#buffer = null;
      served++;
      if ((served & 3) === 0 && performance.now() > deadlineMs) return served;
    }
  }

  /** Until the queue has something, a second has gone, or the guard says "look". The event loop sleeps. */
  #wait(): Promise<void> {
    if (this.#poll === null) this.#poll = this.#pollOnce();
    if (this.#guard === undefined && this.#dispatcher.pendingCount > 0) {
      this.#guard = setInterval(() => this.#lookAnyway(), POLL_GUARD_MS);
    }
    return new Promise((resolve) => this.#wake = resolve);
  }

  async #pollOnce(): Promise<void> {
    const events = await libc.pollAsync(this.#fd, libc.POLLIN, POLL_TIMEOUT_MS);
    this.#poll = null;
    if (events === 0) this.#idleBuffers.pop(); // idle for a second: memory goes back bit by bit
    this.#wake();
  }

  #lookAnyway(): void {
    if (this.#dispatcher.pendingCount === 0) this.#stopGuard();
    this.#wake();
  }

  #stopGuard(): void {
    clearInterval(this.#guard);
    this.#guard = undefined;
  }

  #takeBuffer(): RequestBuffer {
    return this.#idleBuffers.pop() ?? new RequestBuffer(this.#bufferBytes);
  }

  // ReplySink, for the dispatcher

  send(reply: ReplyBuffer): number {
    const head = reply.bytes.subarray(0, reply.length);
    const tail = reply.tail;
    if (tail === null) return libc.write(this.#fd, head);
    return libc.writev(this.#fd, tail instanceof Uint8Array ? [head, tail] : [head, ...tail]);
  }

  /** The next request is likely to come from who got the answer. */
  answered(): void {
    if (this.#turns !== null && this.#dispatcher.pendingCount === 0) this.#wake();
  }

  giveBack(buffer: RequestBuffer): void {
    if (this.#idleBuffers.length < IDLE_BUFFERS_MAX) this.#idleBuffers.push(buffer);
  }

  connected(features: ConnectionFeatures): void {
    this.#features = features;
    this.#log.debug("connected to the kernel", { ...features });
    this.#initializedResolvers.resolve();
  }
}
