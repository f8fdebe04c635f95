/**
 * Encodes replies: one reused buffer that starts with the reply header, and views that are written after it
 * without a copy. Used only in synchronous sections between encoding and the write, so one buffer serves all.
 * Numbers of 64 bits are written as two halves; negative ones (times before 1970) as two's complement.
 */

import type { Timespec } from "../../base/clock.ts";
import type {
  AttributesAnswer,
  DirectoryWriter,
  EntryAnswer,
  KernelAttributes,
  LockRange,
  OpenAnswer,
  StatfsAnswer,
} from "./handlers.ts";
import {
  ATTR,
  ATTR_OUT,
  DIRENT,
  DIRENTPLUS,
  ENTRY_OUT,
  FILE_LOCK,
  KSTATFS,
  OFFSET_MAX,
  OPEN_OUT,
  OUT_HEADER,
  STATX,
  STATX_BASIC_STATS,
  STATX_BTIME,
  STATX_OUT,
  SX_TIME,
} from "./protocol.ts";

const TWO_32 = 0x1_0000_0000;
const TIMEOUT_SECONDS_MAX = 0x7fffffff;
const TAIL_COPY_BYTES_MAX = 16 * 1024;
const DIRECTORY_REPLY_BYTES_MAX = 128 * 1024;

/** Writes `value` (an integer) as a 64-bit little-endian field. */
export function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / TWO_32) >>> 0, true);
}

/** A duration as seconds at `secondsAt` and nanoseconds at `nanosecondsAt`; Infinity becomes the longest. */
function setTimeoutFields(view: DataView, secondsAt: number, nanosecondsAt: number, ms: number): void {
  const seconds = ms > 0 ? Math.min(TIMEOUT_SECONDS_MAX, Math.floor(ms / 1000)) : 0;
  const rest = ms > 0 && seconds < TIMEOUT_SECONDS_MAX ? Math.floor((ms - seconds * 1000) * 1e6) : 0;
  setU64(view, secondsAt, seconds);
  view.setUint32(nanosecondsAt, rest, true);
}

function setAttributes(view: DataView, at: number, from: KernelAttributes): void {
  setU64(view, at + ATTR.ino, from.ino);
  setU64(view, at + ATTR.size, from.size);
  setU64(view, at + ATTR.blocks, from.blocks);
  setU64(view, at + ATTR.atime, from.atime.seconds);
  setU64(view, at + ATTR.mtime, from.mtime.seconds);
  setU64(view, at + ATTR.ctime, from.ctime.seconds);
  view.setUint32(at + ATTR.atimensec, from.atime.nanoseconds, true);
  view.setUint32(at + ATTR.mtimensec, from.mtime.nanoseconds, true);
  view.setUint32(at + ATTR.ctimensec, from.ctime.nanoseconds, true);
  view.setUint32(at + ATTR.mode, from.mode, true);
  view.setUint32(at + ATTR.nlink, from.nlink, true);
  view.setUint32(at + ATTR.uid, from.uid, true);
  view.setUint32(at + ATTR.gid, from.gid, true);
  view.setUint32(at + ATTR.rdev, from.rdev, true);
  view.setUint32(at + ATTR.blksize, from.blockSize, true);
  view.setUint32(at + ATTR.flags, 0, true);
}

function setEntry(view: DataView, at: number, entry: EntryAnswer): void {
  setU64(view, at + ENTRY_OUT.nodeid, entry.nodeid);
  setU64(view, at + ENTRY_OUT.generation, entry.generation);
  setTimeoutFields(
    view,
    at + ENTRY_OUT.entry_valid,
    at + ENTRY_OUT.entry_valid_nsec,
    entry.entryTimeoutMs,
  );
  setTimeoutFields(
    view,
    at + ENTRY_OUT.attr_valid,
    at + ENTRY_OUT.attr_valid_nsec,
    entry.attributeTimeoutMs,
  );
  setAttributes(view, at + ENTRY_OUT.attr, entry.attributes);
}

function expireEntry(view: DataView, at: number): void {
  setTimeoutFields(view, at + ENTRY_OUT.entry_valid, at + ENTRY_OUT.entry_valid_nsec, 0);
  setTimeoutFields(view, at + ENTRY_OUT.attr_valid, at + ENTRY_OUT.attr_valid_nsec, 0);
}

/** The reply under construction: header, then `length - header` encoded bytes, then `tail`. */
export class ReplyBuffer {
  bytes: Uint8Array<ArrayBuffer>;
  view: DataView<ArrayBuffer>;
  /** Header and payload so far. */
  length: number = OUT_HEADER.bytes;
  /** Written after the payload, not copied. */
  tail: Uint8Array | readonly Uint8Array[] | null = null;
  /** Where the payload has an entry, or the time-out of attributes (seconds, nanoseconds), if it has. */
  #entryAt = 0;
  #attributesAt: readonly [number, number] | null = null;

  constructor(byteLength: number) {
    this.bytes = new Uint8Array(byteLength);
    this.view = new DataView(this.bytes.buffer);
  }

  clear(): void {
    this.length = OUT_HEADER.bytes;
    this.tail = null;
    this.#entryAt = 0;
    this.#attributesAt = null;
  }

  /** What was encoded may not be kept. */
  expire(): void {
    if (this.#entryAt > 0) expireEntry(this.view, this.#entryAt);
    if (this.#attributesAt !== null) setTimeoutFields(this.view, ...this.#attributesAt, 0);
  }

  /** Bytes of the whole message. */
  get totalBytes(): number {
    const tail = this.tail;
    if (tail === null) return this.length;
    if (tail instanceof Uint8Array) return this.length + tail.length;
    let total = this.length;
    for (const part of tail) total += part.length;
    return total;
  }

  /** Fills in the header. A short tail is copied in: cheaper than a vectored write. */
  seal(error: number, uniqueLow: number, uniqueHigh: number): void {
    const tail = this.tail;
    if (tail instanceof Uint8Array && tail.length <= TAIL_COPY_BYTES_MAX) {
      const at = this.reserve(tail.length);
      this.bytes.set(tail, at);
      this.tail = null;
    }
    const view = this.view;
    view.setUint32(OUT_HEADER.len, this.totalBytes, true);
    view.setInt32(OUT_HEADER.error, error, true);
    view.setUint32(OUT_HEADER.unique, uniqueLow, true);
    view.setUint32(OUT_HEADER.unique + 4, uniqueHigh, true);
  }

  /** Appends `byteLength` bytes whose content is whatever was there before; returns where they start. */
  reserve(byteLength: number): number {
    const at = this.length;
    this.length = at + byteLength;
    if (this.length > this.bytes.length) this.#grow();
    return at;
  }

  #grow(): void {
    const larger = new Uint8Array(Math.max(this.length, this.bytes.length * 2));
    larger.set(this.bytes);
    this.bytes = larger;
    this.view = new DataView(larger.buffer);
  }

  u32Pair(first: number, second: number): void {
    const at = this.reserve(8);
    this.view.setUint32(at, first, true);
    this.view.setUint32(at + 4, second, true);
  }

  u64(value: number): void {
    const at = this.reserve(8);
    setU64(this.view, at, value);
  }

  entry(entry: EntryAnswer): void {
    const at = this.reserve(ENTRY_OUT.bytes);
    this.#entryAt = at;
    setEntry(this.view, at, entry);
  }

  attributes(answer: AttributesAnswer): void {
    const at = this.reserve(ATTR_OUT.bytes);
    const view = this.view;
    this.#attributesAt = [at + ATTR_OUT.attr_valid, at + ATTR_OUT.attr_valid_nsec];
    setTimeoutFields(view, ...this.#attributesAt, answer.attributeTimeoutMs);
    view.setUint32(at + ATTR_OUT.attr_valid_nsec + 4, 0, true);
    setAttributes(view, at + ATTR_OUT.attr, answer.attributes);
  }

  statx(answer: AttributesAnswer): void {
    const at = this.reserve(STATX_OUT.bytes);
    this.bytes.fill(0, at, at + STATX_OUT.bytes);
    const view = this.view;
    this.#attributesAt = [at + STATX_OUT.attr_valid, at + STATX_OUT.attr_valid_nsec];
    setTimeoutFields(view, ...this.#attributesAt, answer.attributeTimeoutMs);
    const stat = at + STATX_OUT.stat;
    const from = answer.attributes;
    view.setUint32(stat + STATX.mask, STATX_BASIC_STATS | STATX_BTIME, true);
    view.setUint32(stat + STATX.blksize, from.blockSize, true);
    view.setUint32(stat + STATX.nlink, from.nlink, true);
    view.setUint32(stat + STATX.uid, from.uid, true);
    view.setUint32(stat + STATX.gid, from.gid, true);
    view.setUint16(stat + STATX.mode, from.mode, true);
    setU64(view, stat + STATX.ino, from.ino);
    setU64(view, stat + STATX.size, from.size);
    setU64(view, stat + STATX.blocks, from.blocks);
    this.#sxTime(stat + STATX.atime, from.atime);
    this.#sxTime(stat + STATX.btime, from.btime);
    this.#sxTime(stat + STATX.ctime, from.ctime);
    this.#sxTime(stat + STATX.mtime, from.mtime);
    // new_encode_dev (linux/kdev_t.h): 12 bits of major between the low 8 and the high 12 bits of minor
    view.setUint32(stat + STATX.rdev_major, (from.rdev >>> 8) & 0xfff, true);
    view.setUint32(stat + STATX.rdev_minor, (from.rdev & 0xff) | ((from.rdev >>> 12) & 0xfff00), true);
  }

  #sxTime(at: number, time: Timespec): void {
    setU64(this.view, at + SX_TIME.tv_sec, time.seconds);
    this.view.setUint32(at + SX_TIME.tv_nsec, time.nanoseconds, true);
  }

  open(answer: OpenAnswer): void {
    const at = this.reserve(OPEN_OUT.bytes);
    setU64(this.view, at + OPEN_OUT.fh, answer.fh);
    this.view.setUint32(at + OPEN_OUT.open_flags, answer.openFlags, true);
    this.view.setInt32(at + OPEN_OUT.backing_id, answer.backingId ?? 0, true);
  }

  statfs(answer: StatfsAnswer): void {
    const at = this.reserve(KSTATFS.bytes);
    this.bytes.fill(0, at, at + KSTATFS.bytes);
    const view = this.view;
    setU64(view, at + KSTATFS.blocks, answer.blocks);
    setU64(view, at + KSTATFS.bfree, answer.blocksFree);
    setU64(view, at + KSTATFS.bavail, answer.blocksAvailable);
    setU64(view, at + KSTATFS.files, answer.files);
    setU64(view, at + KSTATFS.ffree, answer.filesFree);
    view.setUint32(at + KSTATFS.bsize, answer.blockSize, true);
    view.setUint32(at + KSTATFS.namelen, answer.nameLengthMax, true);
    view.setUint32(at + KSTATFS.frsize, answer.blockSize, true);
  }

  zeros(byteLength: number): void {
    const at = this.reserve(byteLength);
    this.bytes.fill(0, at, at + byteLength);
  }

  lock(lock: LockRange): void {
    const at = this.reserve(FILE_LOCK.bytes);
    const view = this.view;
    view.setBigUint64(at + FILE_LOCK.start, BigInt(lock.start), true);
    view.setBigUint64(at + FILE_LOCK.end, lock.end === Infinity ? OFFSET_MAX : BigInt(lock.end), true);
    view.setUint32(at + FILE_LOCK.type, lock.type, true);
    view.setUint32(at + FILE_LOCK.pid, lock.pid, true);
  }

  /** Names one after another, each with its NUL, as LISTXATTR wants them. */
  names(names: readonly Uint8Array[]): void {
    for (const name of names) {
      const at = this.reserve(name.length + 1);
      this.bytes.set(name, at);
      this.bytes[at + name.length] = 0;
    }
  }
}

const idleDirectories: DirectoryBuffer[] = [];
const IDLE_DIRECTORIES_MAX = 4;

/** Records of a READDIR or READDIRPLUS reply. Taken for one request, then given back for the next. */
export class DirectoryBuffer implements DirectoryWriter {
  static take(replyBytesMax: number): DirectoryBuffer {
    const directory = idleDirectories.pop() ?? new DirectoryBuffer();
    directory.#begin(replyBytesMax);
    return directory;
  }

  static give(directory: DirectoryBuffer): void {
    // A handler that still holds it can add nothing any more.
    directory.#limit = 0;
    if (idleDirectories.length < IDLE_DIRECTORIES_MAX) idleDirectories.push(directory);
  }

  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  #view: DataView<ArrayBuffer> = new DataView(this.#bytes.buffer);
  #length = 0;
  #limit = 0;
  #entriesAt: number[] = [];
  /** When the first entry was encoded (`performance.now`); Infinity: none was. */
  encodedMs = Infinity;

  #begin(replyBytesMax: number): void {
    this.#length = 0;
    this.#entriesAt = [];
    this.encodedMs = Infinity;
    // A shorter reply than asked for is allowed; the kernel comes again for the rest.
    this.#limit = Math.min(replyBytesMax, DIRECTORY_REPLY_BYTES_MAX);
    if (this.#bytes.length < this.#limit) {
      this.#bytes = new Uint8Array(this.#limit);
      this.#view = new DataView(this.#bytes.buffer);
    }
  }

  /** What was encoded may not be kept. */
  expire(): void {
    for (const at of this.#entriesAt) expireEntry(this.#view, at);
  }

  /** The records; valid until it is given back. */
  records(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#length);
  }

  add(name: Uint8Array, ino: number, type: number, cookie: number): boolean {
    const end = this.#length + padded(DIRENT.bytes + name.length);
    if (end > this.#limit) return false;
    this.#record(this.#length, end, name, ino, type, cookie);
    return true;
  }

  addPlus(name: Uint8Array, ino: number, type: number, cookie: number, entry: EntryAnswer | null): boolean {
    const end = this.#length + padded(DIRENTPLUS.bytes + name.length);
    if (end > this.#limit) return false;
    const start = this.#length;
    if (entry === null) {
      this.#bytes.fill(0, start, start + ENTRY_OUT.bytes);
    } else {
      if (this.#entriesAt.length === 0) this.encodedMs = performance.now();
      this.#entriesAt.push(start + DIRENTPLUS.entry_out);
      setEntry(this.#view, start + DIRENTPLUS.entry_out, entry);
    }
    this.#record(start + DIRENTPLUS.dirent, end, name, ino, type, cookie);
    return true;
  }

  #record(at: number, end: number, name: Uint8Array, ino: number, type: number, cookie: number): void {
    const view = this.#view;
    setU64(view, at + DIRENT.ino, ino);
    setU64(view, at + DIRENT.off, cookie);
    view.setUint32(at + DIRENT.namelen, name.length, true);
    view.setUint32(at + DIRENT.type, type, true);
    this.#bytes.set(name, at + DIRENT.bytes);
    this.#bytes.fill(0, at + DIRENT.bytes + name.length, end);
    this.#length = end;
  }
}

/** Records are aligned to 8 bytes (FUSE_DIRENT_ALIGN). */
function padded(byteLength: number): number {
  return (byteLength + 7) & ~7;
}
