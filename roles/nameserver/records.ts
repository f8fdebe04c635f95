/**
 * The values of the namespace in LevelDB: hand-laid binary records, since every operation reads and writes some.
 * Little-endian; integers over 32 bit are float64, exact below 2^53. Records that
 * may grow fields start with their layout version; rows of plain numbers do not.
 */

import type { Timespec } from "../../base/clock.ts";
import { copyBytes, EMPTY_BYTES } from "../../base/bytes.ts";
import {
  asBlockId,
  asGeneration,
  asInodeId,
  asVolumeId,
  type BlockId,
  type Generation,
  type InodeId,
  type VolumeId,
} from "../../wire/ids.ts";
import { type Attributes, DIRECTORY_BYTES, INODE_FLAGS, S_IFDIR, S_IFMT } from "../../wire/messages/inode.ts";

export const RECORD_VERSION = 1;
/** Of an inode whose data lies beside it: what does not know of that must not take it for one without data. */
export const INLINE_RECORD_VERSION = 2;

/** Where a page of extents is, and the file offset at which its first extent starts. */
export interface ExtentPageRef {
  first: number;
  readonly page: number;
}

/** An inode as operations work on it; changed in place within a transaction. */
export interface InodeRecord {
  readonly ino: InodeId;
  mode: number;
  uid: number;
  gid: number;
  nlink: number;
  rdev: number;
  size: number;
  version: number;
  allocatedBytes: number;
  atime: Timespec;
  mtime: Timespec;
  ctime: Timespec;
  btime: Timespec;
  replication: number;
  /** Directories: where ".." leads. */
  parent: InodeId;
  /** Directories: entries without "." and "..". */
  entries: number;
  /** Symlinks. */
  target: Uint8Array;
  /** Regular files: pages of extents by `first`, ascending. */
  pages: ExtentPageRef[];
  nextPage: number;
  /** Regular files: length of the data in inlineKey, 0: there is none. */
  inlineBytes: number;
  hasXattrs: boolean;
  /** It was made without a name (O_TMPFILE), and may still get its first. */
  isLinkable: boolean;
  /** One of them is security.capability. */
  hasCapability: boolean;
  /** FS_*_FL. */
  flags: number;
}

const FIXED_BYTES = 128;
const PAGE_REF_BYTES = 12;
// Bits of the record's flags; inode flags (INODE_FLAGS) have their own values among them.
const FLAG_XATTRS = 1;
const FLAG_LINKABLE = 2;
const FLAG_CAPABILITY = 4;

export function encodeInode(inode: InodeRecord): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(FIXED_BYTES + inode.target.length + inode.pages.length * PAGE_REF_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, inode.inlineBytes > 0 ? INLINE_RECORD_VERSION : RECORD_VERSION);
  view.setUint8(1, inode.replication);
  const kept = (inode.hasXattrs ? FLAG_XATTRS : 0) | (inode.isLinkable ? FLAG_LINKABLE : 0) |
    (inode.hasCapability ? FLAG_CAPABILITY : 0);
  view.setUint16(2, kept | inode.flags, true);
  view.setUint32(4, inode.mode, true);
  view.setUint32(8, inode.uid, true);
  view.setUint32(12, inode.gid, true);
  view.setUint32(16, inode.nlink, true);
  view.setUint32(20, inode.rdev, true);
  view.setFloat64(24, inode.size, true);
  view.setFloat64(32, inode.version, true);
  view.setFloat64(40, inode.allocatedBytes, true);
  view.setFloat64(48, inode.atime.seconds, true);
  view.setFloat64(56, inode.mtime.seconds, true);
  view.setFloat64(64, inode.ctime.seconds, true);
  view.setFloat64(72, inode.btime.seconds, true);
  view.setUint32(80, inode.atime.nanoseconds, true);
  view.setUint32(84, inode.mtime.nanoseconds, true);
  view.setUint32(88, inode.ctime.nanoseconds, true);
  view.setUint32(92, inode.btime.nanoseconds, true);
  view.setFloat64(96, inode.parent, true);
  view.setFloat64(104, inode.entries, true);
  view.setUint32(112, inode.target.length, true);
  view.setUint32(116, inode.pages.length, true);
  view.setUint32(120, inode.nextPage, true);
  view.setUint32(124, inode.inlineBytes, true);
  bytes.set(inode.target, FIXED_BYTES);
  let at = FIXED_BYTES + inode.target.length;
  for (const ref of inode.pages) {
    view.setFloat64(at, ref.first, true);
    view.setUint32(at + 8, ref.page, true);
    at += PAGE_REF_BYTES;
  }
  return bytes;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function checkVersion(bytes: Uint8Array, what: string): void {
  if (bytes[0] !== RECORD_VERSION) {
    throw new Error(`${what} record of version ${bytes[0]}, not ${RECORD_VERSION}`);
  }
}

export function decodeInode(ino: InodeId, bytes: Uint8Array): InodeRecord {
  if (bytes[0] !== INLINE_RECORD_VERSION) checkVersion(bytes, "inode");
  const view = viewOf(bytes);
  const time = (secondsAt: number, nanosecondsAt: number): Timespec => ({
    seconds: view.getFloat64(secondsAt, true),
    nanoseconds: view.getUint32(nanosecondsAt, true),
  });
  const targetLength = view.getUint32(112, true);
  const pageCount = view.getUint32(116, true);
  const pages: ExtentPageRef[] = [];
  let at = FIXED_BYTES + targetLength;
  for (let i = 0; i < pageCount; i++, at += PAGE_REF_BYTES) {
    pages.push({ first: view.getFloat64(at, true), page: view.getUint32(at + 8, true) });
  }
  return {
    ino,
    replication: view.getUint8(1),
    hasXattrs: (view.getUint16(2, true) & FLAG_XATTRS) !== 0,
    isLinkable: (view.getUint16(2, true) & FLAG_LINKABLE) !== 0,
    hasCapability: (view.getUint16(2, true) & FLAG_CAPABILITY) !== 0,
    flags: view.getUint16(2, true) & INODE_FLAGS,
    mode: view.getUint32(4, true),
    uid: view.getUint32(8, true),
    gid: view.getUint32(12, true),
    nlink: view.getUint32(16, true),
    rdev: view.getUint32(20, true),
    size: view.getFloat64(24, true),
    version: view.getFloat64(32, true),
    allocatedBytes: view.getFloat64(40, true),
    atime: time(48, 80),
    mtime: time(56, 84),
    ctime: time(64, 88),
    btime: time(72, 92),
    parent: asInodeId(view.getFloat64(96, true)),
    entries: view.getFloat64(104, true),
    target: targetLength === 0
      ? EMPTY_BYTES
      : copyBytes(bytes.subarray(FIXED_BYTES, FIXED_BYTES + targetLength)),
    pages,
    nextPage: view.getUint32(120, true),
    inlineBytes: view.getUint32(124, true),
  };
}

export function isDirectory(inode: InodeRecord): boolean {
  return (inode.mode & S_IFMT) === S_IFDIR;
}

export function attributesOf(inode: InodeRecord): Attributes {
  return {
    ino: inode.ino,
    mode: inode.mode,
    uid: inode.uid,
    gid: inode.gid,
    nlink: inode.nlink,
    // A directory has no size of its own; peers show something that grows with it.
    size: isDirectory(inode) ? DIRECTORY_BYTES : inode.size,
    allocatedBytes: inode.allocatedBytes + inode.inlineBytes,
    ...inode.inlineBytes === 0 ? {} : { inlineBytes: inode.inlineBytes },
    atime: inode.atime,
    mtime: inode.mtime,
    ctime: inode.ctime,
    btime: inode.btime,
    rdev: inode.rdev,
    replication: inode.replication,
    hasXattrs: inode.hasXattrs,
    hasCapability: inode.hasCapability,
    flags: inode.flags,
    version: inode.version,
  };
}

/** Value of an entry key: where the name leads, and its place in the listing. */
export interface EntryRecord {
  readonly ino: InodeId;
  readonly type: number;
  readonly cookie: number;
}

export function encodeEntry(entry: EntryRecord): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(18);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, RECORD_VERSION);
  view.setUint8(1, entry.type);
  view.setFloat64(2, entry.ino, true);
  view.setFloat64(10, entry.cookie, true);
  return bytes;
}

export function decodeEntry(bytes: Uint8Array): EntryRecord {
  checkVersion(bytes, "entry");
  const view = viewOf(bytes);
  return {
    type: view.getUint8(1),
    ino: asInodeId(view.getFloat64(2, true)),
    cookie: view.getFloat64(10, true),
  };
}

/** Value of an order key: the name, beside where it leads. */
export interface OrderRecord {
  readonly ino: InodeId;
  readonly type: number;
  readonly name: Uint8Array;
}

export function encodeOrder(order: OrderRecord): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(10 + order.name.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, RECORD_VERSION);
  view.setUint8(1, order.type);
  view.setFloat64(2, order.ino, true);
  bytes.set(order.name, 10);
  return bytes;
}

export function decodeOrder(bytes: Uint8Array): OrderRecord {
  checkVersion(bytes, "order");
  const view = viewOf(bytes);
  return {
    type: view.getUint8(1),
    ino: asInodeId(view.getFloat64(2, true)),
    name: copyBytes(bytes.subarray(10)),
  };
}

/** A block as the nameserver keeps it: wire/messages/inode.ts Block, with volumes instead of addresses. */
export interface Extent {
  readonly block: BlockId;
  readonly start: number;
  readonly length: number;
  readonly generation: Generation;
  readonly written: boolean;
  /** Bytes that its replicas take on their disks, each; absent: not known, as of blocks of an earlier version. */
  readonly allocated?: number;
  readonly volumes: readonly VolumeId[];
  /** As Block's. */
  readonly chosenAt?: Generation;
}

/** Of a page of extents: since 2 an extent may say what it has allocated, and since when it was chosen. */
export const EXTENTS_VERSION = 2;
const EXTENT_BYTES = 34;
const ALLOCATED_BYTES = 8;
const FLAG_WRITTEN = 1;
const FLAG_ALLOCATED = 2;
const CHOSEN_BYTES = 8;
/** `chosenAt` follows the volumes. */
const FLAG_CHOSEN = 4;

export function encodeExtents(extents: readonly Extent[]): Uint8Array<ArrayBuffer> {
  let length = 3;
  for (const extent of extents) {
    length += EXTENT_BYTES + extent.volumes.length * 4 +
      (extent.allocated === undefined ? 0 : ALLOCATED_BYTES) +
      (extent.chosenAt === undefined ? 0 : CHOSEN_BYTES);
  }
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, EXTENTS_VERSION);
  view.setUint16(1, extents.length, true);
  let at = 3;
  for (const extent of extents) {
    view.setFloat64(at, extent.block, true);
    view.setFloat64(at + 8, extent.start, true);
    view.setFloat64(at + 16, extent.length, true);
    view.setFloat64(at + 24, extent.generation, true);
    const { allocated, chosenAt } = extent;
    view.setUint8(
      at + 32,
      (extent.written ? FLAG_WRITTEN : 0) | (allocated === undefined ? 0 : FLAG_ALLOCATED) |
        (chosenAt === undefined ? 0 : FLAG_CHOSEN),
    );
    view.setUint8(at + 33, extent.volumes.length);
    at += EXTENT_BYTES;
    if (allocated !== undefined) {
      view.setFloat64(at, allocated, true);
      at += ALLOCATED_BYTES;
    }
    for (const volume of extent.volumes) {
      view.setUint32(at, volume, true);
      at += 4;
    }
    if (chosenAt === undefined) continue;
    view.setFloat64(at, chosenAt, true);
    at += CHOSEN_BYTES;
  }
  return bytes;
}

export function decodeExtents(bytes: Uint8Array): Extent[] {
  if (bytes[0] !== RECORD_VERSION && bytes[0] !== EXTENTS_VERSION) {
    throw new Error(`extents record of version ${bytes[0]}, not ${EXTENTS_VERSION}`);
  }
  const view = viewOf(bytes);
  const count = view.getUint16(1, true);
  const extents: Extent[] = [];
  let at = 3;
  for (let i = 0; i < count; i++) {
    const volumes: VolumeId[] = [];
    const volumeCount = view.getUint8(at + 33);
    const flags = view.getUint8(at + 32);
    const saysAllocated = (flags & FLAG_ALLOCATED) !== 0;
    const volumesAt = at + EXTENT_BYTES + (saysAllocated ? ALLOCATED_BYTES : 0);
    const endAt = volumesAt + volumeCount * 4;
    const isChosen = (flags & FLAG_CHOSEN) !== 0;
    for (let j = 0; j < volumeCount; j++) volumes.push(asVolumeId(view.getUint32(volumesAt + j * 4, true)));
    extents.push({
      block: asBlockId(view.getFloat64(at, true)),
      start: view.getFloat64(at + 8, true),
      length: view.getFloat64(at + 16, true),
      generation: asGeneration(view.getFloat64(at + 24, true)),
      written: (flags & FLAG_WRITTEN) !== 0,
      ...(saysAllocated ? { allocated: view.getFloat64(at + EXTENT_BYTES, true) } : {}),
      volumes,
      ...(isChosen ? { chosenAt: asGeneration(view.getFloat64(endAt, true)) } : {}),
    });
    at = endAt + (isChosen ? CHOSEN_BYTES : 0);
  }
  return extents;
}

/** Value of a replica key: which extent the replica belongs to. */
export function encodeReplica(ino: InodeId, start: number): Uint8Array<ArrayBuffer> {
  return encodeTwo(ino, start);
}

export function decodeReplica(bytes: Uint8Array): { readonly ino: InodeId; readonly start: number } {
  const [ino, start] = decodeTwo(bytes);
  return { ino: asInodeId(ino), start };
}

/** Value of a retry key: the last change applied in that slot, and the inodes that its answer spoke of. */
export interface RetryRecord {
  readonly sequence: number;
  readonly ino: number;
  readonly other: number;
}

export function encodeRetry(retry: RetryRecord): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setFloat64(0, retry.sequence, true);
  view.setFloat64(8, retry.ino, true);
  view.setFloat64(16, retry.other, true);
  return bytes;
}

export function decodeRetry(bytes: Uint8Array): RetryRecord {
  const view = viewOf(bytes);
  return {
    sequence: view.getFloat64(0, true),
    ino: view.getFloat64(8, true),
    other: view.getFloat64(16, true),
  };
}

/** Several numbers in a fixed order: counters and the like. */
export function encodeNumbers(numbers: readonly number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(numbers.length * 8);
  const view = new DataView(bytes.buffer);
  numbers.forEach((number, i) => view.setFloat64(i * 8, number, true));
  return bytes;
}

export function decodeNumbers(bytes: Uint8Array): number[] {
  const view = viewOf(bytes);
  return Array.from({ length: bytes.length / 8 }, (_, i) => view.getFloat64(i * 8, true));
}

function encodeTwo(a: number, b: number): Uint8Array<ArrayBuffer> {
  return encodeNumbers([a, b]);
}

function decodeTwo(bytes: Uint8Array): readonly [number, number] {
  const view = viewOf(bytes);
  return [view.getFloat64(0, true), view.getFloat64(8, true)];
}
