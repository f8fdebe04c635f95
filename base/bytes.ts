/**
 * Small helpers on byte arrays. Names and symlink targets are bytes everywhere in MaggieFS; text conversion
 * happens only at the edge, for people.
 */

export const EMPTY_BYTES: Uint8Array<ArrayBuffer> = new Uint8Array(0);

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** UTF-8 bytes of a string. */
export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return encoder.encode(text);
}

/** For people and logs only: bytes that are not UTF-8 come out as replacement characters. */
export function textOf(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** True when both hold the same bytes. */
export function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i]) return false;
  }
  return true;
}

export function startsWith(bytes: Uint8Array, prefix: Uint8Array): boolean {
  return bytesEqual(bytes.subarray(0, prefix.length), prefix);
}

/** Lexicographic order, as LevelDB's: negative, 0 or positive. */
export function bytesCompare(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** One array with the parts one after another. */
export function concatBytes(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  let length = 0;
  for (const part of parts) length += part.length;
  const result = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/**
 * A string that is equal exactly when the bytes are (one UTF-16 unit a byte): a key for Map and Set. Not for
 * people.
 */
export function bytesKey(bytes: Uint8Array): string {
  if (bytes.length <= 1024) return String.fromCharCode.apply(null, bytes as unknown as number[]);
  let key = "";
  for (let i = 0; i < bytes.length; i += 1024) {
    key += String.fromCharCode.apply(null, bytes.subarray(i, i + 1024) as unknown as number[]);
  }
  return key;
}

/** A copy that owns its memory (a view into a reused buffer must not outlive the buffer's next use). */
export function copyBytes(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  // Not slice(): on a node Buffer, which the CBOR decoder makes, that is a view.
  return new Uint8Array(bytes);
}
