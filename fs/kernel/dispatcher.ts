/**
 * From a request in memory to its reply: finds the operation, calls the handler, encodes what it answers, and
 * hands the reply to a sink. Keeps the requests in flight, so that INTERRUPT reaches them. Knows no descriptor:
 * session.ts reads, and writes what comes out here.
 * Invariant: every request that expects a reply gets exactly one, whatever the handler does, unless it never
 * settles; one that the kernel refuses is replaced by EIO, so that no caller hangs (fuse.md, trap 1).
 */

import type { Logger } from "../../base/log.ts";
import { OperationMeter } from "../../base/metrics.ts";
import { type Span, SPAN_SERVER, type Tracer, tracing } from "../../base/tracing.ts";
import { asFsError, ERRNO, errnoName, FsError } from "../../wire/errno.ts";
import type { FileSystemHandlers } from "./handlers.ts";
import { type ConnectionFeatures, type ConnectionOptions, negotiate } from "./init.ts";
import { watchForKill } from "./kill_watch.ts";
import { type Operation, operationName, operationOf, SETXATTR_EXTENDED } from "./operations.ts";
import * as P from "./protocol.ts";
import { DirectoryBuffer, ReplyBuffer } from "./reply.ts";
import { KernelRequest, type RequestBuffer, RequestReader, uniqueKey } from "./request.ts";
import type { KernelTrace } from "./trace.ts";

/** Where replies and emptied buffers go. */
export interface ReplySink {
  /** Writes a sealed reply: bytes written or a negative errno. */
  send(reply: ReplyBuffer): number;
  /** An asynchronous handler is done with the buffer that `dispatch` kept. */
  giveBack(buffer: RequestBuffer): void;
  /** A request that was waited for was answered. */
  answered(): void;
  /** INIT was answered. */
  connected(features: ConnectionFeatures): void;
}

export interface DispatcherOptions {
  readonly handlers: FileSystemHandlers;
  readonly sink: ReplySink;
  readonly log: Logger;
  readonly connection: ConnectionOptions;
  readonly trace: KernelTrace | null;
}

/** Less than what time-outs have in reserve, more than encoding takes. */
const LATE_MS = 100;
/** Interrupts that came before their request, or after its reply; only so many are remembered. */
const STRAY_INTERRUPTS_MAX = 64;
const REPLY_BUFFER_BYTES = 64 * 1024;
const WRITE_HEADER_BYTES = P.IN_HEADER.bytes + P.WRITE_IN.bytes;

export class Dispatcher {
  readonly #handlers: FileSystemHandlers;
  readonly #operations: (Operation | undefined)[];
  readonly #sink: ReplySink;
  readonly #giveBack = (buffer: RequestBuffer): void => this.#sink.giveBack(buffer);
  readonly #log: Logger;
  readonly #connection: ConnectionOptions;
  readonly #trace: KernelTrace | null;
  readonly #reader = new RequestReader();
  readonly #reply = new ReplyBuffer(REPLY_BUFFER_BYTES);
  /** Requests whose handler has not settled yet, by `unique`. */
  readonly #pending = new Map<number, KernelRequest>();
  readonly #strayInterrupts = new Set<number>();
  /** Requests so far, by opcode. */
  readonly #counts = new Float64Array(P.OPCODE_LIMIT);
  /** Requests that were answered. */
  readonly meter = new OperationMeter("mfs_mount_operation", operationName, P.OPCODE_LIMIT);
  /** Bytes of files that went to the kernel, and came from it. */
  readBytes = 0;
  writtenBytes = 0;

  constructor(options: DispatcherOptions) {
    this.#handlers = options.handlers;
    this.#sink = options.sink;
    this.#log = options.log;
    this.#connection = options.connection;
    this.#trace = options.trace;
    this.#operations = Array.from({ length: P.OPCODE_LIMIT }, (_, opcode) => {
      const operation = operationOf(opcode);
      return operation && options.handlers[operation.handler] ? operation : undefined;
    });
  }

  get requestCount(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  get requestCounts(): Record<string, number> {
    const counts: Record<string, number> = {};
    this.#counts.forEach((count, opcode) => {
      if (count > 0) counts[operationName(opcode)] = count;
    });
    return counts;
  }

  /** Requests that wait for their handler. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /**
   * Serves the request in the first `length` bytes of `buffer`. True: a handler still uses the buffer, which
   * comes back through `giveBack`, or never; false: it may be filled again.
   */
  dispatch(buffer: RequestBuffer, length: number): boolean {
    if (length < P.IN_HEADER.bytes) {
      this.#log.error("a request without a whole header", { bytes: length });
      return false;
    }
    const request = new KernelRequest(buffer, this.#giveBack);
    if (request.opcode < P.OPCODE_LIMIT) this.#counts[request.opcode]! += 1;
    if (request.opcode === P.OP_WRITE) this.writtenBytes += length - WRITE_HEADER_BYTES;
    if (this.#trace !== null) this.#trace.request(request, length);
    const isInterrupted = this.#strayInterrupts.size !== 0 && this.#strayInterrupts.delete(request.key);

    const operation = this.#operations[request.opcode];
    let answer: unknown;
    try {
      this.#reader.start(buffer, length, operation === undefined ? 0 : operation.fixedBytes);
      if (operation === undefined) {
        this.#serveOther(request);
        return false;
      }
      const { tracer } = tracing;
      answer = tracer === undefined
        ? operation.call(this.#handlers as Required<FileSystemHandlers>, request, this.#reader)
        : this.#callTraced(tracer, operation, request);
    } catch (error) {
      this.#fail(request, error);
      return request.isBufferTaken;
    }
    if (answer instanceof Promise) {
      this.#pending.set(request.key, request);
      if (isInterrupted) this.#interrupt(request);
      void this.#finishLater(operation, request, answer, request.usesBuffer ? buffer : null);
      return request.usesBuffer;
    }
    this.#finish(operation, request, answer);
    return request.isBufferTaken;
  }

  /** Begins a trace with this request, if it is to be one, which ends with its reply. */
  #callTraced(tracer: Tracer, operation: Operation, request: KernelRequest): unknown {
    const call = () => operation.call(this.#handlers as Required<FileSystemHandlers>, request, this.#reader);
    const attributes = { "mfs.inode": request.nodeid, "process.pid": request.pid, "user.id": request.uid };
    request.span = tracer.root(operation.name, SPAN_SERVER, attributes);
    return request.span === undefined ? call() : tracer.run(request.span, call);
  }

  /** The session is over: nobody waits for the requests in flight any more. */
  abandon(): void {
    for (const request of this.#pending.values()) request.interrupt();
  }

  /** Never rejects: whatever goes wrong becomes the reply. */
  async #finishLater(
    operation: Operation,
    request: KernelRequest,
    promise: Promise<unknown>,
    buffer: RequestBuffer | null,
  ): Promise<void> {
    try {
      const answer = await promise;
      this.#pending.delete(request.key);
      this.#finish(operation, request, answer);
    } catch (error) {
      this.#pending.delete(request.key);
      this.#fail(request, error);
    } finally {
      if (buffer !== null && !request.isBufferTaken) this.#sink.giveBack(buffer);
      this.#sink.answered();
    }
  }

  #finish(operation: Operation, request: KernelRequest, answer: unknown): void {
    const reply = this.#reply;
    reply.clear();
    const answeredMs = performance.now();
    let error = 0;
    try {
      if (typeof answer === "number" || operation.encode === null) error = this.#statusOf(operation, answer);
      if (error === 0 && operation.encode !== null) error = operation.encode(reply, answer, request);
    } catch (thrown) {
      this.#fail(request, thrown);
      return;
    }
    this.#send(request, error, answeredMs);
  }

  /** The error, or 0, that an answer without a payload stands for. */
  #statusOf(operation: Operation, answer: unknown): number {
    if (typeof answer === "number") {
      if (answer < 0 && answer > -P.ERRNO_LIMIT && Number.isInteger(answer)) return answer;
      if (answer === 0 && operation.encode === null) return 0;
      if (answer >= 0 && operation.isNumeric) return 0;
    }
    this.#log.error("a handler's answer is neither a result nor an errno", { op: operation.name, answer });
    return -ERRNO.EIO;
  }

  /** Answers with the errno of what was thrown; unexpected things are logged. */
  #fail(request: KernelRequest, thrown: unknown): void {
    const error = asFsError(thrown, operationName(request.opcode));
    if (!(thrown instanceof FsError) || (error.errno === "EIO" && error.cause !== undefined)) {
      this.#log.error("an operation failed unexpectedly", {
        op: operationName(request.opcode),
        node: request.nodeid,
        error: error.message,
        stack: (thrown as { stack?: unknown } | null)?.stack,
      });
    } else if (error.op === "decode") {
      this.#log.warn("a malformed request", {
        op: operationName(request.opcode),
        error: error.message,
      });
    }
    if (!expectsReply(request.opcode)) return;
    this.#reply.clear();
    this.#send(request, -ERRNO[error.errno]);
  }

  /**
   * Seals and sends what lies in the reply buffer; with an error, only the error. The kernel counts time-outs from when it gets
   * them: in a reply that is late, as this process was stopped, they are over.
   */
  #send(request: KernelRequest, error: number, answeredMs = Infinity): void {
    const reply = this.#reply;
    if (error !== 0) reply.clear();
    const { directory } = request;
    if (performance.now() - Math.min(answeredMs, directory?.encodedMs ?? Infinity) > LATE_MS) {
      reply.expire();
      directory?.expire();
    }
    reply.seal(error, request.uniqueLow, request.uniqueHigh);
    if (this.#trace !== null) this.#trace.reply(request, error, reply.totalBytes);
    const { opcode } = request;
    if (opcode === P.OP_READ) this.readBytes += reply.totalBytes - P.OUT_HEADER.bytes;
    const result = this.#sink.send(reply);
    request.replied();
    this.meter.note(opcode, performance.now() - request.startMs, error !== 0);
    if (request.span !== undefined) endSpan(request.span, error);
    if (directory !== null) {
      DirectoryBuffer.give(directory);
      request.directory = null;
    }
    if (result >= 0 || isGone(result)) return;
    this.#log.error("the kernel refused a reply", {
      op: operationName(request.opcode),
      errno: -result,
      bytes: reply.totalBytes,
    });
    reply.clear();
    reply.seal(-ERRNO.EIO, request.uniqueLow, request.uniqueHigh);
    this.#sink.send(reply);
  }

  /** Operations that have no handler of their own, or none in this file system. */
  #serveOther(request: KernelRequest): void {
    switch (request.opcode) {
      case P.OP_INIT:
        return this.#serveInit(request);
      case P.OP_INTERRUPT:
        return this.#serveInterrupt();
      case P.OP_FORGET:
        return this.#serveForget(request);
      case P.OP_BATCH_FORGET:
        return this.#serveBatchForget();
      case P.OP_NOTIFY_REPLY:
        return;
      case P.OP_DESTROY:
        return this.#sendStatus(request, 0);
      case P.OP_IOCTL:
        return this.#sendStatus(request, -ERRNO.ENOTTY);
      default:
        return this.#sendStatus(request, -ERRNO.ENOSYS);
    }
  }

  #sendStatus(request: KernelRequest, error: number): void {
    this.#reply.clear();
    this.#send(request, error);
  }

  #serveInit(request: KernelRequest): void {
    this.#reader.require(P.INIT_IN.bytes);
    this.#reply.clear();
    const servesLocks = this.#handlers.getlk !== undefined && this.#handlers.setlk !== undefined;
    const outcome = negotiate(this.#reader, this.#reply, this.#connection, servesLocks);
    if (typeof outcome === "number") {
      this.#log.error("the kernel's FUSE protocol is not supported", {
        major: this.#reader.u32(P.INIT_IN.major),
        minor: this.#reader.u32(P.INIT_IN.minor),
      });
      return this.#send(request, outcome);
    }
    this.#send(request, 0);
    if (outcome === null) return;
    if (outcome.hasSetxattrExt && this.#operations[P.OP_SETXATTR] !== undefined) {
      this.#operations[P.OP_SETXATTR] = SETXATTR_EXTENDED;
    }
    this.#sink.connected(outcome);
  }

  /** No reply: the interrupted request's own reply tells the kernel. */
  #serveInterrupt(): void {
    this.#reader.require(P.INTERRUPT_IN.bytes);
    const key = uniqueKey(
      this.#reader.u32(P.INTERRUPT_IN.unique),
      this.#reader.u32(P.INTERRUPT_IN.unique + 4),
    );
    const request = this.#pending.get(key);
    if (request !== undefined) return this.#interrupt(request);
    // Usually it has just been answered. Forgetting the oldest keeps the set bounded.
    if (this.#strayInterrupts.size >= STRAY_INTERRUPTS_MAX) {
      for (const oldest of this.#strayInterrupts) {
        this.#strayInterrupts.delete(oldest);
        break;
      }
    }
    this.#strayInterrupts.add(key);
  }

  /** Who waits for a lock is told of any signal (EINTR); all else goes on unless its caller is being killed. */
  #interrupt(request: KernelRequest): void {
    if (request.opcode === P.OP_SETLKW) return request.interrupt();
    const isWaiting = () => this.#pending.get(request.key) === request;
    void watchForKill(request.pid, isWaiting).then((isKilled) => {
      if (isKilled) request.interrupt();
    });
  }

  #serveForget(request: KernelRequest): void {
    this.#reader.require(P.FORGET_IN.bytes);
    this.#handlers.forget?.(request.nodeid, this.#reader.u64(P.FORGET_IN.nlookup));
  }

  #serveBatchForget(): void {
    this.#reader.require(P.BATCH_FORGET_IN.bytes);
    const count = this.#reader.u32(P.BATCH_FORGET_IN.count);
    this.#reader.require(P.BATCH_FORGET_IN.bytes + count * P.FORGET_ONE.bytes);
    if (this.#handlers.forget === undefined) return;
    for (let i = 0; i < count; i++) {
      const at = P.BATCH_FORGET_IN.bytes + i * P.FORGET_ONE.bytes;
      this.#handlers.forget(
        this.#reader.u64(at + P.FORGET_ONE.nodeid),
        this.#reader.u64(at + P.FORGET_ONE.nlookup),
      );
    }
  }
}

/** That there is no such name or attribute is an answer, and no failure. */
function endSpan(span: Span, error: number): void {
  if (error === 0) return span.end();
  const name = errnoName(-error);
  span.set("error.type", name);
  span.end(error === -ERRNO.ENOENT || error === -ERRNO.ENODATA ? undefined : name);
}

function expectsReply(opcode: number): boolean {
  return opcode !== P.OP_FORGET && opcode !== P.OP_BATCH_FORGET && opcode !== P.OP_INTERRUPT &&
    opcode !== P.OP_NOTIFY_REPLY;
}

/** The request was killed or aborted meanwhile, or the connection has ended: nobody waits for the reply. */
function isGone(result: number): boolean {
  return result === -ERRNO.ENOENT || result === -ERRNO.ENODEV || result === -ERRNO.ECONNABORTED ||
    result === -ERRNO.EPERM || result === -ERRNO.ENOTCONN;
}
