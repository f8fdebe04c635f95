/**
 * A file system in memory, small but complete enough to be mounted: what the tests and the benchmark of the
 * kernel session serve. Names decide special behaviour: a read of "slow" waits until it is interrupted or
 * `slowMs` have gone (the kernel interrupts only reads past its page cache: "slow-direct" is opened so), "explode" throws, and a write to "later" is answered a turn later from the view it got.
 */

import { bytesKey, bytesOf, copyBytes } from "../../../base/bytes.ts";
import { systemClock, type Timespec } from "../../../base/clock.ts";
import type {
  AttributeChanges,
  AttributesAnswer,
  DirectoryWriter,
  EntryAnswer,
  FilePosition,
  FileSystemHandlers,
  KernelAttributes,
  LockRange,
  RequestContext,
} from "../../../fs/kernel/handlers.ts";
import { FOPEN_DIRECT_IO, FOPEN_PASSTHROUGH } from "../../../fs/kernel/protocol.ts";
import { ERRNO, FsError } from "../../../wire/errno.ts";

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const RENAME_NOREPLACE = 1;
const RENAME_EXCHANGE = 2;
const O_TRUNC = 0o1000;

interface Node {
  readonly ino: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
  size: number;
  data: Uint8Array;
  target: Uint8Array;
  atime: Timespec;
  mtime: Timespec;
  ctime: Timespec;
  readonly btime: Timespec;
  /** By bytesKey of the name. */
  readonly entries: Map<string, { readonly name: Uint8Array; readonly ino: number; readonly cookie: number }>;
  readonly xattrs: Map<string, { readonly name: Uint8Array; readonly value: Uint8Array }>;
}

export interface MemoryFsOptions {
  readonly timeoutMs?: number;
  readonly slowMs?: number;
}

export class MemoryFs implements FileSystemHandlers {
  /** Backing ids of nodes that are opened for passthrough. */
  readonly backings = new Map<number, number>();
  readonly nodes = new Map<number, Node>();
  /** What the test asks for: how often slow reads were interrupted, how many lookups are outstanding ... */
  interrupts = 0;
  forgets = 0;
  readonly #timeoutMs: number;
  readonly #slowMs: number;
  #nextIno = 1;
  #nextCookie = 3;
  #slowIno = 0;
  #slowDirectIno = 0;
  #explodeIno = 0;
  #laterIno = 0;

  constructor(options: MemoryFsOptions = {}) {
    this.#timeoutMs = options.timeoutMs ?? 0;
    this.#slowMs = options.slowMs ?? 3000;
    this.#make(S_IFDIR | 0o755, 0, 0).nlink = 2;
  }

  #make(mode: number, uid: number, gid: number): Node {
    const now = systemClock.now();
    const node: Node = {
      ino: this.#nextIno++,
      mode,
      nlink: 1,
      uid,
      gid,
      rdev: 0,
      size: 0,
      data: new Uint8Array(0),
      target: new Uint8Array(0),
      atime: now,
      mtime: now,
      ctime: now,
      btime: now,
      entries: new Map(),
      xattrs: new Map(),
    };
    this.nodes.set(node.ino, node);
    return node;
  }

  #node(ino: number): Node {
    const node = this.nodes.get(ino);
    if (node === undefined) throw new FsError("ESTALE", `no node ${ino}`);
    return node;
  }

  #attributes(node: Node): KernelAttributes {
    return {
      ino: node.ino,
      size: node.size,
      blocks: Math.ceil(node.size / 512),
      atime: node.atime,
      mtime: node.mtime,
      ctime: node.ctime,
      btime: node.btime,
      mode: node.mode,
      nlink: node.nlink,
      uid: node.uid,
      gid: node.gid,
      rdev: node.rdev,
      blockSize: 4096,
    };
  }

  #entry(node: Node): EntryAnswer {
    return {
      nodeid: node.ino,
      generation: 0,
      entryTimeoutMs: this.#timeoutMs,
      attributeTimeoutMs: this.#timeoutMs,
      attributes: this.#attributes(node),
    };
  }

  #answer(node: Node): AttributesAnswer {
    return { attributeTimeoutMs: this.#timeoutMs, attributes: this.#attributes(node) };
  }

  #touch(node: Node): void {
    node.mtime = node.ctime = systemClock.now();
  }

  #insert(parent: number, name: Uint8Array, node: Node): void {
    const directory = this.#node(parent);
    const key = bytesKey(name);
    directory.entries.set(key, { name: copyBytes(name), ino: node.ino, cookie: this.#nextCookie++ });
    this.#touch(directory);
    if (key === "slow") this.#slowIno = node.ino;
    if (key === "slow-direct") this.#slowDirectIno = node.ino;
    if (key === "explode") this.#explodeIno = node.ino;
    if (key === "later") this.#laterIno = node.ino;
  }

  #add(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    mode: number,
  ): Node | number {
    if (this.#node(parent).entries.has(bytesKey(name))) return -ERRNO.EEXIST;
    const node = this.#make(mode, context.uid, context.gid);
    this.#insert(parent, name, node);
    return node;
  }

  lookup(_context: RequestContext, parent: number, name: Uint8Array): EntryAnswer | number {
    const found = this.#node(parent).entries.get(bytesKey(name));
    return found === undefined ? -ERRNO.ENOENT : this.#entry(this.#node(found.ino));
  }

  forget(_nodeid: number, lookups: number): void {
    this.forgets += lookups;
  }

  getattr(_context: RequestContext, nodeid: number): AttributesAnswer {
    return this.#answer(this.#node(nodeid));
  }

  setattr(_context: RequestContext, nodeid: number, changes: AttributeChanges): AttributesAnswer {
    const node = this.#node(nodeid);
    if (changes.mode !== undefined) node.mode = (node.mode & S_IFMT) | (changes.mode & 0o7777);
    // HANDLE_KILLPRIV_V2 leaves this to us; for chown the kernel does not even say so.
    const kills = changes.killSuidGid || changes.uid !== undefined || changes.gid !== undefined;
    if (kills && (node.mode & S_IFMT) === S_IFREG) node.mode &= node.mode & 0o010 ? ~0o6000 : ~0o4000;
    if (changes.uid !== undefined) node.uid = changes.uid;
    if (changes.gid !== undefined) node.gid = changes.gid;
    if (changes.size !== undefined) this.#resize(node, changes.size);
    const now = systemClock.now();
    if (changes.atime !== undefined) node.atime = changes.atime === "now" ? now : changes.atime;
    if (changes.mtime !== undefined) node.mtime = changes.mtime === "now" ? now : changes.mtime;
    node.ctime = now;
    return this.#answer(node);
  }

  #resize(node: Node, size: number): void {
    if (size > node.data.length) {
      const larger = new Uint8Array(Math.max(size, node.data.length * 2));
      larger.set(node.data.subarray(0, node.size));
      node.data = larger;
    } else if (size < node.size) {
      node.data.fill(0, size, node.size);
    }
    node.size = size;
    this.#touch(node);
  }

  readlink(_context: RequestContext, nodeid: number): Uint8Array {
    return this.#node(nodeid).target;
  }

  symlink(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    target: Uint8Array,
  ): EntryAnswer | number {
    const node = this.#add(context, parent, name, S_IFLNK | 0o777);
    if (typeof node === "number") return node;
    node.target = copyBytes(target);
    node.size = target.length;
    return this.#entry(node);
  }

  mknod(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    mode: number,
    rdev: number,
    umask: number,
  ): EntryAnswer | number {
    const node = this.#add(context, parent, name, mode & ~umask);
    if (typeof node === "number") return node;
    node.rdev = rdev;
    return this.#entry(node);
  }

  mkdir(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    mode: number,
    umask: number,
  ): EntryAnswer | number {
    const node = this.#add(context, parent, name, S_IFDIR | (mode & ~umask));
    if (typeof node === "number") return node;
    node.nlink = 2;
    this.#node(parent).nlink++;
    return this.#entry(node);
  }

  unlink(_context: RequestContext, parent: number, name: Uint8Array): number {
    const directory = this.#node(parent);
    const found = directory.entries.get(bytesKey(name));
    if (found === undefined) return -ERRNO.ENOENT;
    directory.entries.delete(bytesKey(name));
    this.#node(found.ino).nlink--;
    this.#touch(directory);
    return 0;
  }

  rmdir(_context: RequestContext, parent: number, name: Uint8Array): number {
    const directory = this.#node(parent);
    const found = directory.entries.get(bytesKey(name));
    if (found === undefined) return -ERRNO.ENOENT;
    if (this.#node(found.ino).entries.size > 0) return -ERRNO.ENOTEMPTY;
    directory.entries.delete(bytesKey(name));
    directory.nlink--;
    return 0;
  }

  rename(
    _context: RequestContext,
    parent: number,
    name: Uint8Array,
    newParent: number,
    newName: Uint8Array,
    flags: number,
  ): number {
    const from = this.#node(parent);
    const to = this.#node(newParent);
    const source = from.entries.get(bytesKey(name));
    const target = to.entries.get(bytesKey(newName));
    if (source === undefined) return -ERRNO.ENOENT;
    if (target !== undefined && flags & RENAME_NOREPLACE) return -ERRNO.EEXIST;
    if (flags & RENAME_EXCHANGE) {
      if (target === undefined) return -ERRNO.ENOENT;
      this.#insert(parent, name, this.#node(target.ino));
    } else {
      from.entries.delete(bytesKey(name));
      if (target !== undefined) this.#node(target.ino).nlink--;
    }
    this.#insert(newParent, newName, this.#node(source.ino));
    return 0;
  }

  link(_context: RequestContext, nodeid: number, newParent: number, newName: Uint8Array): EntryAnswer {
    const node = this.#node(nodeid);
    node.nlink++;
    this.#insert(newParent, newName, node);
    return this.#entry(node);
  }

  create(
    context: RequestContext,
    parent: number,
    name: Uint8Array,
    _flags: number,
    mode: number,
    umask: number,
  ) {
    const node = this.#add(context, parent, name, S_IFREG | (mode & 0o7777 & ~umask));
    if (typeof node === "number") return node;
    return { entry: this.#entry(node), open: { fh: node.ino, openFlags: 0 } };
  }

  tmpfile(context: RequestContext, _parent: number, _flags: number, mode: number, umask: number) {
    const node = this.#make(S_IFREG | (mode & 0o7777 & ~umask), context.uid, context.gid);
    node.nlink = 0;
    return { entry: this.#entry(node), open: { fh: node.ino, openFlags: 0 } };
  }

  open(_context: RequestContext, nodeid: number, flags: number) {
    const node = this.#node(nodeid);
    if (flags & O_TRUNC) this.#resize(node, 0);
    const backingId = this.backings.get(nodeid);
    if (backingId !== undefined) return { fh: nodeid, openFlags: FOPEN_PASSTHROUGH, backingId };
    return { fh: nodeid, openFlags: nodeid === this.#slowDirectIno ? FOPEN_DIRECT_IO : 0 };
  }

  read(
    context: RequestContext,
    nodeid: number,
    _fh: number,
    offset: number,
    size: number,
  ): Uint8Array | readonly Uint8Array[] | number | Promise<Uint8Array | number> {
    const node = this.#node(nodeid);
    if (nodeid === this.#explodeIno) throw new Error("exploded on purpose");
    const data = node.data.subarray(Math.min(offset, node.size), Math.min(offset + size, node.size));
    if (nodeid === this.#slowIno || nodeid === this.#slowDirectIno) return this.#slowRead(context, data);
    if (data.length < 1000) return data;
    return [data.subarray(0, 500), new Uint8Array(0), data.subarray(500)];
  }

  async #slowRead(context: RequestContext, data: Uint8Array): Promise<Uint8Array | number> {
    await systemClock.sleep(this.#slowMs, context.signal);
    if (!context.signal.aborted) return data;
    this.interrupts++;
    return -ERRNO.EINTR;
  }

  write(
    _context: RequestContext,
    nodeid: number,
    _fh: number,
    offset: number,
    data: Uint8Array,
  ): number | Promise<number> {
    const node = this.#node(nodeid);
    if (nodeid === this.#laterIno) return this.#writeLater(node, offset, data);
    return this.#write(node, offset, data);
  }

  async #writeLater(node: Node, offset: number, data: Uint8Array): Promise<number> {
    await systemClock.sleep(5);
    return this.#write(node, offset, data);
  }

  #write(node: Node, offset: number, data: Uint8Array): number {
    if (offset + data.length > node.size) this.#resize(node, offset + data.length);
    node.data.set(data, offset);
    this.#touch(node);
    return data.length;
  }

  statfs() {
    return {
      blocks: 1000,
      blocksFree: 500,
      blocksAvailable: 400,
      files: 100,
      filesFree: 50,
      blockSize: 4096,
      nameLengthMax: 255,
    };
  }

  flush(): number {
    return 0;
  }

  release(): number {
    return 0;
  }

  fsync(): Promise<number> {
    return Promise.resolve(0);
  }

  opendir(_context: RequestContext, nodeid: number) {
    return { fh: nodeid, openFlags: 0 };
  }

  readdir(
    _context: RequestContext,
    nodeid: number,
    _fh: number,
    cookie: number,
    writer: DirectoryWriter,
    plus: boolean,
  ): number {
    const dots: readonly [string, number][] = [[".", 1], ["..", 2]];
    for (const [name, next] of dots) {
      if (cookie >= next) continue;
      const type = S_IFDIR >> 12;
      const added = plus
        ? writer.addPlus(bytesOf(name), nodeid, type, next, null)
        : writer.add(bytesOf(name), nodeid, type, next);
      if (!added) return 0;
    }
    for (const entry of this.#node(nodeid).entries.values()) {
      if (entry.cookie <= cookie) continue;
      const node = this.#node(entry.ino);
      const type = (node.mode >> 12) & 15;
      const added = plus
        ? writer.addPlus(entry.name, entry.ino, type, entry.cookie, this.#entry(node))
        : writer.add(entry.name, entry.ino, type, entry.cookie);
      if (!added) return 0;
    }
    return 0;
  }

  releasedir(): number {
    return 0;
  }

  fsyncdir(): number {
    return 0;
  }

  setxattr(_context: RequestContext, nodeid: number, name: Uint8Array, value: Uint8Array): number {
    this.#node(nodeid).xattrs.set(bytesKey(name), { name: copyBytes(name), value: copyBytes(value) });
    return 0;
  }

  getxattr(_context: RequestContext, nodeid: number, name: Uint8Array): Uint8Array | number {
    return this.#node(nodeid).xattrs.get(bytesKey(name))?.value ?? -ERRNO.ENODATA;
  }

  listxattr(_context: RequestContext, nodeid: number): Uint8Array[] {
    return [...this.#node(nodeid).xattrs.values()].map((xattr) => xattr.name);
  }

  removexattr(_context: RequestContext, nodeid: number, name: Uint8Array): number {
    return this.#node(nodeid).xattrs.delete(bytesKey(name)) ? 0 : -ERRNO.ENODATA;
  }

  fallocate(_context: RequestContext, nodeid: number, _fh: number, offset: number, length: number): number {
    const node = this.#node(nodeid);
    if (offset + length > node.size) this.#resize(node, offset + length);
    return 0;
  }

  lseek(_context: RequestContext, nodeid: number, _fh: number, offset: number, whence: number) {
    const node = this.#node(nodeid);
    if (offset >= node.size) return -ERRNO.ENXIO;
    return { offset: whence === 3 ? offset : node.size };
  }

  copyFileRange(_context: RequestContext, source: FilePosition, target: FilePosition, length: number) {
    const { data, size } = this.#node(source.nodeid);
    const bytes = data.slice(Math.min(source.offset, size), Math.min(source.offset + length, size));
    return { bytes: this.#write(this.#node(target.nodeid), target.offset, bytes) };
  }

  getlk(_context: RequestContext, _nodeid: number, _fh: number, _owner: bigint, lock: LockRange): LockRange {
    return { ...lock, type: 2 };
  }

  setlk(): number {
    return 0;
  }
}

/** The same handlers, each answered a macrotask later: what a file system behind a network looks like. */
export function answeredLater(handlers: FileSystemHandlers, delayMs: number): FileSystemHandlers {
  return new Proxy(handlers, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== "function") return value;
      const handler = value.bind(target) as (...given: unknown[]) => unknown;
      if (property === "forget") return handler;
      return async (...given: unknown[]) => {
        if (delayMs > 0) await systemClock.sleep(delayMs);
        else await Promise.resolve();
        return await handler(...given);
      };
    },
  });
}
