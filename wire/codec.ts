/**
 * CBOR for message heads, one pair of encoder and decoder a direction of a connection: record structures are
 * sent once and referred to afterwards, so heads must be decoded in the order in which they were encoded.
 * Source: cbor-x, options `sequential` and `structures`.
 */

import { Decoder, Encoder } from "cbor-x";
import { EMPTY_BYTES } from "../base/bytes.ts";
import { FsError } from "./errno.ts";
import { FRAME_BYTES_MAX, FRAME_HEADER_BYTES } from "./frame.ts";

// cbor-x's types lack `sequential` and `copyBuffers`, which its documentation has.
type Options = ConstructorParameters<typeof Encoder>[0];

const ENCODER_OPTIONS = { sequential: true, structures: [], useRecords: true, tagUint8Array: false };

export class HeadEncoder {
  #encoder = newEncoder();

  /** The head of `message`; the result is not overwritten by later calls, and must be sent (or `forget`). */
  encode(message: unknown): Uint8Array {
    try {
      return this.#encoder.encode(message);
    } catch (error) {
      this.forget();
      throw error;
    }
  }

  /** What was encoded last is not sent: the structures that it defined must be defined again. */
  forget(): void {
    this.#encoder = newEncoder();
  }
}

function newEncoder(): Encoder {
  return new Encoder({ ...ENCODER_OPTIONS, structures: [] } as Options);
}

export class HeadDecoder {
  readonly #decoder = new Decoder(
    { sequential: true, structures: [], useRecords: true, mapsAsObjects: true, copyBuffers: true } as Options,
  );

  /** Throws on anything that is not one whole CBOR item. Byte strings are copies. */
  decode(head: Uint8Array): unknown {
    return this.#decoder.decode(head);
  }
}

type WithBody = { body?: Uint8Array | null };

/** The raw part of a message: its field `body`, or nothing. */
export function bodyOf(message: unknown): Uint8Array {
  return (message as WithBody | null | undefined)?.body ?? EMPTY_BYTES;
}

/** Encodes all of a message but its body, which stays where it is. Throws when it makes no frame. */
export function encodeWithoutBody(encoder: HeadEncoder, message: unknown): Uint8Array {
  const head = encodeHead(encoder, message);
  const length = FRAME_HEADER_BYTES + head.length + bodyOf(message).length;
  if (length <= FRAME_BYTES_MAX) return head;
  encoder.forget();
  throw new FsError("EINVAL", `a message of ${length} bytes is over ${FRAME_BYTES_MAX}`, { op: "encode" });
}

function encodeHead(encoder: HeadEncoder, message: unknown): Uint8Array {
  const carrier = message as WithBody | null | undefined;
  const body = carrier?.body;
  if (body === undefined || body === null || carrier === null || carrier === undefined) {
    return encoder.encode(message ?? null);
  }
  carrier.body = null; // synchronous: nobody sees the message without its body
  try {
    return encoder.encode(carrier);
  } finally {
    carrier.body = body;
  }
}

/** Puts a received body back into its message. */
export function attachBody(message: unknown, body: Uint8Array): unknown {
  if (message !== null && typeof message === "object" && "body" in message) {
    (message as WithBody).body = body;
  }
  return message;
}

/** CBOR without shared state, for values that are stored and not sent. */
export const storedCodec: { encode(value: unknown): Uint8Array; decode(bytes: Uint8Array): unknown } =
  (() => {
    const encoder = new Encoder({ useRecords: false, tagUint8Array: false } as Options);
    const decoder = new Decoder({ useRecords: false, mapsAsObjects: true, copyBuffers: true } as Options);
    return {
      encode: (value: unknown): Uint8Array => encoder.encode(value),
      decode: (bytes: Uint8Array): unknown => decoder.decode(bytes),
    };
  })();
