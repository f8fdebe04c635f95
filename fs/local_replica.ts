/**
 * A replica's file that is read here, past its dataserver: an open descriptor and the checksums of what was in it when it
 * was located. Knows nothing of leases or blocks (local_replicas.ts).
 *
 * Invariants:
 * - Only bytes whose chunk has matched its checksum are given out; each is compared once.
 * - The descriptor is closed once, when nothing reads any more, and not used after that: its number is another file's then.
 */

import { crc32 } from "node:zlib";
import * as libc from "../base/libc.ts";
import { bodies } from "../wire/bodies.ts";
import { ERRNO, errnoName, FsError } from "../wire/errno.ts";

const CRC_BYTES = 4;
/** So far ahead of who reads in order the disk is, and so much it is told at once. */
const AHEAD_BYTES = 4 * 1024 * 1024;
const AHEAD_STEP_BYTES = 1024 * 1024;
const SEEK_END = 2;

export interface ReplicaFile {
  readonly path: string;
  readonly identity: string;
  readonly length: number;
  readonly chunkBytes: number;
}

export class LocalReplica {
  /** In bytes. */
  readonly length: number;
  /** For who keeps several: when it was used last. */
  usedAt = 0;
  readonly #fd: number;
  readonly #path: string;
  readonly #chunkBytes: number;
  readonly #crcs: DataView;
  readonly #isProven: Uint8Array;
  #reading = 0;
  #isClosed = false;
  /** Where the next read begins, if they are in order; whether the disk was waited for in these; what it was told of. */
  #next = -1;
  #isCold = false;
  #toldTo = 0;

  private constructor(fd: number, file: ReplicaFile, crcs: Uint8Array) {
    this.#fd = fd;
    this.#path = file.path;
    this.length = file.length;
    this.#chunkBytes = file.chunkBytes;
    this.#crcs = new DataView(crcs.buffer, crcs.byteOffset, crcs.byteLength);
    this.#isProven = new Uint8Array(Math.ceil(file.length / file.chunkBytes));
  }

  /** Throws FsError: what open(2) says, ESTALE when another file is there than was meant, EIO when it is too short. */
  static async open(file: ReplicaFile, crcs: Uint8Array): Promise<LocalReplica> {
    const { path, identity, length, chunkBytes } = file;
    if (crcs.length !== Math.ceil(length / chunkBytes) * CRC_BYTES) {
      throw new FsError("EIO", `${path} was located with ${crcs.length} bytes of checksums`, {
        op: "locate",
      });
    }
    const fd = await libc.openAsync(path, libc.O_RDONLY | libc.O_NONBLOCK);
    if (fd < 0) throw failure(fd, "open", path);
    const error = libc.fileIdentity(fd) !== identity
      ? new FsError("ESTALE", `${path} is another file here`, { op: "locate" })
      : libc.lseek(fd, 0, SEEK_END) < length
      ? new FsError("EIO", `${path} is too short`, { op: "locate" })
      : undefined;
    if (error === undefined) return new LocalReplica(fd, file, crcs);
    libc.close(fd);
    throw error;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * [from, to), which lies within `length`, as far as that is there without waiting for a disk, else null. In `scratch`, which
   * has room for it and the chunks around; good until that is used again. Throws EIO as `read`.
   */
  readNow(from: number, to: number, scratch: Uint8Array<ArrayBuffer>): Uint8Array | null {
    const bytes = this.#readNow(from, to, scratch);
    if (bytes !== null) this.#readAhead(from, to);
    return bytes;
  }

  #readNow(from: number, to: number, scratch: Uint8Array<ArrayBuffer>): Uint8Array | null {
    const chunk = this.#chunkBytes;
    const first = Math.floor(from / chunk);
    const last = Math.floor((to - 1) / chunk);
    if (this.#areProven(first, last)) {
      const bytes = scratch.subarray(0, to - from);
      return libc.preadNowait(this.#fd, bytes, from) === bytes.length ? bytes : null;
    }
    const start = first * chunk;
    const whole = scratch.subarray(0, Math.min((last + 1) * chunk, this.length) - start);
    if (libc.preadNowait(this.#fd, whole, start) !== whole.length) return null;
    this.#prove(first, last, whole);
    return whole.subarray(from - start, to - start);
  }

  /** [from, to), which lies within `length`. Throws EIO when it can't be read, or is not what was written. */
  async read(from: number, to: number): Promise<Uint8Array> {
    const chunk = this.#chunkBytes;
    const first = Math.floor(from / chunk);
    const last = Math.floor((to - 1) / chunk);
    const isProven = this.#areProven(first, last);
    const start = isProven ? from : first * chunk;
    const end = isProven ? to : Math.min((last + 1) * chunk, this.length);
    const bytes = bodies.take(end - start);
    this.#isCold = true;
    this.#readAhead(from, to);
    await this.#pinned(() => this.#fill(bytes, start));
    if (!isProven) this.#prove(first, last, bytes);
    return bytes.subarray(from - start, to - start);
  }

  /** The descriptor stays open meanwhile. */
  async #pinned(use: () => Promise<void>): Promise<void> {
    this.#reading++;
    try {
      await use();
    } finally {
      this.#reading--;
      if (this.#isClosed && this.#reading === 0) libc.close(this.#fd);
    }
  }

  /** Who reads in order from the disk finds what comes next in the page cache. */
  #readAhead(from: number, to: number): void {
    const isInOrder = from === this.#next;
    this.#next = to;
    if (!isInOrder) {
      this.#isCold = false;
      this.#toldTo = to;
      return;
    }
    if (!this.#isCold) return;
    const end = Math.min(to + AHEAD_BYTES, this.length);
    for (let at = Math.max(this.#toldTo, to); at < end; at += AHEAD_STEP_BYTES) {
      const step = Math.min(AHEAD_STEP_BYTES, this.length - at);
      this.#toldTo = at + step;
      void this.#pinned(() => libc.willNeedAsync(this.#fd, at, step));
    }
  }

  async #fill(bytes: Uint8Array<ArrayBuffer>, start: number): Promise<void> {
    for (let filled = 0; filled < bytes.length;) {
      const count = await libc.preadAsync(this.#fd, bytes.subarray(filled), start + filled);
      if (count === -ERRNO.EINTR) continue;
      if (count < 0) throw failure(count, "read", this.#path);
      if (count === 0) throw new FsError("EIO", `${this.#path} is too short`, { op: "read" });
      filled += count;
    }
  }

  #areProven(first: number, last: number): boolean {
    for (let i = first; i <= last; i++) {
      if (this.#isProven[i] !== 1) return false;
    }
    return true;
  }

  /** `bytes` are those of these chunks. */
  #prove(first: number, last: number, bytes: Uint8Array): void {
    const chunk = this.#chunkBytes;
    for (let i = first; i <= last; i++) {
      if (this.#isProven[i] === 1) continue;
      const at = (i - first) * chunk;
      if (crc32(bytes.subarray(at, at + chunk)) !== this.#crcs.getUint32(i * CRC_BYTES, true)) {
        throw new FsError("EIO", `checksum mismatch in ${this.#path}, chunk ${i}`, { op: "read" });
      }
      this.#isProven[i] = 1;
    }
  }

  /** What is read just now is finished. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#reading === 0) libc.close(this.#fd);
  }
}

function failure(negativeErrno: number, op: string, path: string): FsError {
  const errno = errnoName(-negativeErrno);
  return new FsError(errno, `${op} ${path}: ${errno}`, { op });
}
