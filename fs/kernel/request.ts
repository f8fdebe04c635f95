/**
 * One request as it came from the kernel: the buffer that holds it, a reader of its fields, and the context that
 * handlers see. Decoding makes no closure and no bigint, but for lock owners.
 * Invariant: the reader checks every length against the message, so that no malformed request is read past
 * its end; what does not fit is thrown as MalformedRequest and answered EIO.
 */

import type { Span } from "../../base/tracing.ts";
import { FsError } from "../../wire/errno.ts";
import type { RequestContext } from "./handlers.ts";
import { IN_HEADER } from "./protocol.ts";
import type { DirectoryBuffer } from "./reply.ts";

const TWO_32 = 0x1_0000_0000;

/** Memory that one read(2) of the device fills. */
export class RequestBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;

  constructor(byteLength: number) {
    this.bytes = new Uint8Array(byteLength);
    this.view = new DataView(this.bytes.buffer);
  }
}

/** The message contradicts its own lengths. The kernel never sends one; answered EIO. */
export class MalformedRequest extends FsError {
  constructor(what: string) {
    super("EIO", `malformed request: ${what}`, { op: "decode" });
  }
}

/** Key of a request in flight: `unique` without the "re-sent" bit 63, exact below 2^53. */
export function uniqueKey(low: number, high: number): number {
  return low + (high & 0x7fffffff) * TWO_32;
}

/** A request in work: what the reply needs, and the context of the handler. */
export class KernelRequest implements RequestContext {
  readonly opcode: number;
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
  readonly nodeid: number;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  /** When it was read from the kernel. */
  readonly startMs = performance.now();
  /** Room for the answer that the caller gives; 0 where the operation has no such thing. */
  replyBytesMax = 0;
  /** The handler was given a view into the request's buffer, which it may use until its promise settles. */
  usesBuffer = false;
  /** The buffer is the handler's, until it has given it back. */
  isBufferTaken = false;
  readonly #buffer: RequestBuffer;
  readonly #giveBack: (buffer: RequestBuffer) => void;
  /** Records of a directory read; given back after the reply. */
  directory: DirectoryBuffer | null = null;
  /** Of this request, where it is traced. */
  span: Span | undefined = undefined;
  /** Set when the request was interrupted before anybody asked for its signal. */
  #interrupted = false;
  #controller: AbortController | null = null;
  #replied: (() => void)[] | null = null;

  constructor(buffer: RequestBuffer, giveBack: (buffer: RequestBuffer) => void) {
    const { view } = buffer;
    this.#buffer = buffer;
    this.#giveBack = giveBack;
    this.opcode = view.getUint32(IN_HEADER.opcode, true);
    this.uniqueLow = view.getUint32(IN_HEADER.unique, true);
    this.uniqueHigh = view.getUint32(IN_HEADER.unique + 4, true);
    this.nodeid = view.getUint32(IN_HEADER.nodeid, true) +
      view.getUint32(IN_HEADER.nodeid + 4, true) * TWO_32;
    this.uid = view.getUint32(IN_HEADER.uid, true);
    this.gid = view.getUint32(IN_HEADER.gid, true);
    this.pid = view.getUint32(IN_HEADER.pid, true);
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.#interrupted) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  onReplied(action: () => void): void {
    (this.#replied ??= []).push(action);
  }

  /** The reply was sent. */
  replied(): void {
    const actions = this.#replied;
    if (actions === null) return;
    this.#replied = null;
    for (const action of actions) action();
  }

  takeBuffer(): (() => void) | undefined {
    if (!this.usesBuffer || this.isBufferTaken) return undefined;
    this.isBufferTaken = true;
    return () => this.#giveBack(this.#buffer);
  }

  /** The kernel, or the end of the session, wants this request finished early. */
  interrupt(): void {
    this.#interrupted = true;
    this.#controller?.abort();
  }

  get key(): number {
    return uniqueKey(this.uniqueLow, this.uniqueHigh);
  }
}

/**
 * Reads the body of the request that lies in a buffer. Field offsets count from the start of the body. One
 * reader is reused for all requests: it is valid only until the handler was called.
 */
export class RequestReader {
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  #end = 0;
  #variableAt = 0;

  /** Starts on a message of `length` bytes whose body begins with `fixedBytes` of fixed fields. */
  start(buffer: RequestBuffer, length: number, fixedBytes: number): void {
    this.#bytes = buffer.bytes;
    this.#view = buffer.view;
    this.#end = length;
    this.#variableAt = IN_HEADER.bytes + fixedBytes;
    if (this.#variableAt > length) throw new MalformedRequest("shorter than its fixed fields");
    if (this.#view.getUint32(IN_HEADER.len, true) !== length) {
      throw new MalformedRequest("another length than was read");
    }
  }

  /** Throws unless the body has at least `byteLength` bytes. */
  require(byteLength: number): void {
    if (IN_HEADER.bytes + byteLength > this.#end) {
      throw new MalformedRequest("shorter than its fixed fields");
    }
  }

  u32(offset: number): number {
    return this.#view.getUint32(IN_HEADER.bytes + offset, true);
  }

  /** A 64-bit value as a number: exact below 2^53, rounded above. */
  u64(offset: number): number {
    const at = IN_HEADER.bytes + offset;
    return this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * TWO_32;
  }

  i64(offset: number): number {
    const at = IN_HEADER.bytes + offset;
    return this.#view.getUint32(at, true) + this.#view.getInt32(at + 4, true) * TWO_32;
  }

  /** An opaque 64-bit key, such as a lock owner. */
  opaque(offset: number): bigint {
    return this.#view.getBigUint64(IN_HEADER.bytes + offset, true);
  }

  /** What lies between the fixed fields (or the last name read) and the end of the message. */
  remaining(): number {
    return this.#end - this.#variableAt;
  }

  /** The next NUL-terminated string, copied: names outlive the buffer. Longer than `bytesMax`: ENAMETOOLONG. */
  name(bytesMax: number): Uint8Array<ArrayBuffer> {
    const start = this.#variableAt;
    const terminator = this.#bytes.indexOf(0, start);
    if (terminator < 0 || terminator >= this.#end) throw new MalformedRequest("a name without its end");
    if (terminator === start) throw new MalformedRequest("an empty name");
    const length = terminator - start;
    if (length > bytesMax) {
      throw new FsError("ENAMETOOLONG", `a name of ${length} bytes, at most ${bytesMax} are possible`);
    }
    this.#variableAt = terminator + 1;
    return this.#bytes.slice(start, terminator);
  }

  /** The next `length` bytes of payload, in place. */
  payload(length: number): Uint8Array<ArrayBuffer> {
    const start = this.#variableAt;
    if (length > this.#end - start) throw new MalformedRequest("less data than announced");
    return this.#bytes.subarray(start, start + length);
  }
}
