/**
 * Frames: how messages are cut on a byte stream. Little-endian:
 *
 *     u32 length | u8 version | u8 kind | u16 op | u32 requestId | u32 headLength | head | body
 *
 * `length` counts the whole frame, its own four bytes included. `head` is CBOR, `body` raw bytes.
 * Owns: the layout and the incremental reader. Never looks into head or body.
 * Invariant: a frame over FRAME_BYTES_MAX, of another version or with impossible lengths throws FrameError
 * before any memory is taken for it; the connection is then closed.
 */

import { copyBytes, EMPTY_BYTES } from "../base/bytes.ts";
import { bodies } from "./bodies.ts";

export const PROTOCOL_VERSION = 1;
export const FRAME_HEADER_BYTES = 16;
export const FRAME_BYTES_MAX = 16 * 1024 * 1024;

export const KIND_REQUEST = 1;
export const KIND_RESPONSE = 2;
export const KIND_ERROR = 3;
export const KIND_PUSH = 4;
export const KIND_PUSH_ACK = 5;
export const KIND_CANCEL = 6;
const KIND_MAX = KIND_CANCEL;

const LENGTH = 0;
const VERSION = 4;
const KIND = 5;
const OP = 6;
const REQUEST_ID = 8;
const HEAD_LENGTH = 12;

export class FrameError extends Error {
  override readonly name = "FrameError";
}

export interface Frame {
  readonly kind: number;
  readonly op: number;
  readonly requestId: number;
  /** A view that is valid until the next call of `target` on the reader. */
  readonly head: Uint8Array;
  /** Owned by whoever takes the frame, who may give it back to `bodies`. */
  readonly body: Uint8Array;
}

/** The header and head of a frame whose body of `bodyLength` bytes follows. */
export function encodeFrame(
  kind: number,
  op: number,
  requestId: number,
  head: Uint8Array,
  bodyLength: number,
): Uint8Array<ArrayBuffer> {
  const length = FRAME_HEADER_BYTES + head.length + bodyLength;
  if (length > FRAME_BYTES_MAX) throw new FrameError(`frame of ${length} bytes is over ${FRAME_BYTES_MAX}`);
  const bytes = new Uint8Array(FRAME_HEADER_BYTES + head.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(LENGTH, length, true);
  view.setUint8(VERSION, PROTOCOL_VERSION);
  view.setUint8(KIND, kind);
  view.setUint16(OP, op, true);
  view.setUint32(REQUEST_ID, requestId, true);
  view.setUint32(HEAD_LENGTH, head.length, true);
  bytes.set(head, FRAME_HEADER_BYTES);
  return bytes;
}

interface LargeFrame {
  readonly kind: number;
  readonly op: number;
  readonly requestId: number;
  readonly head: Uint8Array<ArrayBuffer>;
  readonly body: Uint8Array<ArrayBuffer>;
  filled: number;
}

/**
 * Cuts a byte stream into frames. The caller reads into `target()`, says how much came with `advance`, then takes
 * frames with `next()` until it gives null. The rest of a frame that does not fit the buffer is read straight
 * into its own memory.
 */
export class FrameReader {
  readonly #buffer: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  #start = 0;
  #end = 0;
  #large: LargeFrame | null = null;

  constructor(bufferBytes = 32 * 1024) {
    this.#buffer = new Uint8Array(bufferBytes);
    this.#view = new DataView(this.#buffer.buffer);
  }

  /** Where the next bytes of the stream go; never empty. */
  target(): Uint8Array<ArrayBuffer> {
    const large = this.#large;
    if (large !== null) {
      return large.filled < large.head.length
        ? large.head.subarray(large.filled)
        : large.body.subarray(large.filled - large.head.length);
    }
    if (this.#start === this.#end) {
      this.#start = this.#end = 0;
    } else if (this.#end === this.#buffer.length) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    return this.#buffer.subarray(this.#end);
  }

  /** `count` bytes of the stream were put into `target()`. */
  advance(count: number): void {
    if (this.#large !== null) this.#large.filled += count;
    else this.#end += count;
  }

  /** True when the stream stands between two frames: an end of the stream here cuts none. */
  get atBoundary(): boolean {
    return this.#large === null && this.#start === this.#end;
  }

  /** The next whole frame, or null when more bytes are needed. */
  next(): Frame | null {
    const large = this.#large;
    if (large !== null) {
      if (large.filled < large.head.length + large.body.length) return null;
      this.#large = null;
      return large;
    }
    const available = this.#end - this.#start;
    if (available < FRAME_HEADER_BYTES) return null;
    const at = this.#start;
    const view = this.#view;
    const length = view.getUint32(at + LENGTH, true);
    const version = view.getUint8(at + VERSION);
    const kind = view.getUint8(at + KIND);
    const headLength = view.getUint32(at + HEAD_LENGTH, true);
    if (version !== PROTOCOL_VERSION) {
      throw new FrameError(`frame version ${version}, not ${PROTOCOL_VERSION}`);
    }
    if (length > FRAME_BYTES_MAX) throw new FrameError(`frame of ${length} bytes is over ${FRAME_BYTES_MAX}`);
    if (length < FRAME_HEADER_BYTES || headLength > length - FRAME_HEADER_BYTES) {
      throw new FrameError(`frame length ${length} does not hold a head of ${headLength} bytes`);
    }
    if (kind < 1 || kind > KIND_MAX) throw new FrameError(`frame kind ${kind} is unknown`);
    const op = view.getUint16(at + OP, true);
    const requestId = view.getUint32(at + REQUEST_ID, true);
    const headAt = at + FRAME_HEADER_BYTES;
    if (length <= available) {
      this.#start += length;
      const bodyAt = headAt + headLength;
      const body = bodyAt === at + length
        ? EMPTY_BYTES
        : copyBytes(this.#buffer.subarray(bodyAt, at + length));
      return { kind, op, requestId, head: this.#buffer.subarray(headAt, bodyAt), body };
    }
    if (at + length <= this.#buffer.length || length <= this.#buffer.length / 2) return null;
    // A frame that the buffer can't hold well: give it memory of its own and take what has come.
    const rest: LargeFrame = {
      kind,
      op,
      requestId,
      head: new Uint8Array(headLength),
      body: bodies.take(length - FRAME_HEADER_BYTES - headLength),
      filled: 0,
    };
    const come = this.#buffer.subarray(headAt, this.#end);
    const headCome = come.subarray(0, headLength);
    rest.head.set(headCome);
    rest.body.set(come.subarray(headCome.length));
    rest.filled = come.length;
    this.#start = this.#end = 0;
    this.#large = rest;
    return null;
  }
}
