/**
 * Memory for large bodies that come over sockets, used again and again: fresh memory costs more than the bytes in it (the
 * kernel clears it page by page, and V8 collects garbage after every few megabytes of it).
 * Invariant: memory is handed out again only after it was given back, once, by who knows that nothing reads or writes it any
 * more. Whatever is not given back is the garbage collector's.
 */

/** Smaller bodies are not worth it, larger ones are rare. Both powers of two, as are the sizes in between. */
const BYTES_MIN = 128 * 1024;
const BYTES_MAX = 1024 * 1024;
const IDLE_BYTES_MAX = 16 * 1024 * 1024;

export class BodyPool {
  /** By size. */
  readonly #idle = new Map<number, ArrayBuffer[]>();
  /** Handed out and not given back. */
  readonly #lent = new WeakSet<ArrayBufferLike>();
  #idleBytes = 0;
  /** The least that was idle since `trim`: nobody has needed it. */
  #sparedBytes = 0;

  get idleBytes(): number {
    return this.#idleBytes;
  }

  /** `length` bytes with anything in them. */
  take(length: number): Uint8Array<ArrayBuffer> {
    if (length < BYTES_MIN || length > BYTES_MAX) return new Uint8Array(length);
    const size = sizeFor(length);
    let buffer = this.#idle.get(size)?.pop();
    if (buffer === undefined) buffer = new ArrayBuffer(size);
    else this.#idleBytes -= size;
    this.#sparedBytes = Math.min(this.#sparedBytes, this.#idleBytes);
    this.#lent.add(buffer);
    return new Uint8Array(buffer, 0, length);
  }

  /** Nothing uses `body` any more. What was not taken here, or is back already, is passed over. */
  give({ buffer }: Uint8Array): void {
    if (!this.#lent.delete(buffer)) return;
    const size = buffer.byteLength;
    if (this.#idleBytes + size > IDLE_BYTES_MAX) return;
    const idle = this.#idle.get(size);
    if (idle === undefined) this.#idle.set(size, [buffer as ArrayBuffer]);
    else idle.push(buffer as ArrayBuffer);
    this.#idleBytes += size;
  }

  /** From time to time: lets go of what was not needed since the last time. */
  trim(): void {
    let spared = this.#sparedBytes;
    for (const [size, idle] of this.#idle) {
      while (spared >= size && idle.length > 0) {
        idle.pop();
        spared -= size;
        this.#idleBytes -= size;
      }
    }
    this.#sparedBytes = this.#idleBytes;
  }
}

function sizeFor(length: number): number {
  let size = BYTES_MIN;
  while (size < length) size *= 2;
  return size;
}

/** Of this process. */
export const bodies = new BodyPool();
