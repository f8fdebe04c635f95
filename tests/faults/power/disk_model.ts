/**
 * A disk that loses its power: fed with recorded operations, it knows at each point what is surely on the disk, and
 * what may or may not be there, and makes the directory as a start after a cut could find it.
 *
 * What it grants to the programs:
 * - what was written to a file before an fsync of it began is there once the fsync is done;
 * - names: an fsync of a directory has made everything durable that was done to names before it. Names come and
 *   go in order, as in a journal; only the name of a new file that was fsynced may be there before its turn.
 * And no more: an fsync of a new file need not have made its name durable (`fsyncKeeps` grants more: on btrfs it
 * has, on ext4 and XFS all names that came before as well); of what was written since, each page is there or not, whatever came first; a page that
 * is missing inside the file reads as zeros; the last write may be torn within a sector's bounds.
 */

import type { Random } from "../../../base/random.ts";
import { chance } from "../../base/seeded.ts";
import type { Image } from "./image.ts";
import type { Operation } from "./recording.ts";

const PAGE_BYTES = 4096;
const SECTOR_BYTES = 512;

/** What an fsync of a file keeps beside its data. */
export type FsyncKeeps = "data only" | "its name" | "all names";

export interface DiskModelOptions {
  readonly fsyncKeeps?: FsyncKeeps;
}

type DataOperation =
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "truncate"; readonly size: number };

class FileNode {
  readonly isDirectory = false;
  /** What is on the disk for sure. */
  durable = new Content();
  /** What programs see. */
  latest = new Content();
  /** What leads from one to the other. */
  pending: DataOperation[] = [];
  /** Since an fsync of it was done: its name may be there. */
  synced = false;

  change(operation: DataOperation): void {
    this.latest.apply(operation);
    this.pending.push(operation);
  }

  /** The first `count` pending operations have reached the disk. */
  settle(count: number): void {
    for (const operation of this.pending.splice(0, count)) this.durable.apply(operation);
  }
}

class DirectoryNode {
  readonly isDirectory = true;
}

type Node = FileNode | DirectoryNode;
/** Path to node, parents before children. */
type Tree = Map<string, Node>;

type NameOperation =
  | { readonly kind: "add"; readonly path: string; readonly node: Node }
  | { readonly kind: "remove"; readonly path: string }
  | { readonly kind: "move"; readonly path: string; readonly to: string };

/** A growable run of bytes. */
class Content {
  #bytes = new Uint8Array(0);
  size = 0;

  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.size);
  }

  copy(): Content {
    const copy = new Content();
    copy.#bytes = this.bytes.slice();
    copy.size = this.size;
    return copy;
  }

  apply(operation: DataOperation): void {
    if (operation.kind === "truncate") return this.#resize(operation.size);
    const { offset, data } = operation;
    if (offset + data.length > this.size) this.#resize(offset + data.length);
    this.#bytes.set(data, offset);
  }

  #resize(size: number): void {
    if (size > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(size, this.#bytes.length * 2));
      larger.set(this.bytes);
      this.#bytes = larger;
    } else if (size < this.size) this.#bytes.fill(0, size, this.size);
    this.size = size;
  }
}

export class DiskModel {
  readonly #fsyncKeeps: FsyncKeeps;
  /** Names that are on the disk for sure, and what was done to names since. */
  readonly #durable: Tree = new Map();
  readonly #latest: Tree = new Map();
  #names: NameOperation[] = [];
  /** How many operations on names were settled: tokens of a sync remember a total. */
  #settledNames = 0;
  readonly #byInode = new Map<number, Node>();
  readonly #syncs = new Map<string, { readonly names: number; readonly data: Map<FileNode, number> }>();

  /** Starts with a directory that is on the disk, as `readImage` gives it. */
  constructor(
    base: { readonly image: Image; readonly files: ReadonlyMap<string, number> },
    options: DiskModelOptions = {},
  ) {
    this.#fsyncKeeps = options.fsyncKeeps ?? "data only";
    this.#byInode.set(base.files.get("")!, new DirectoryNode());
    for (const [path, content] of base.image) {
      const node = content === null ? new DirectoryNode() : new FileNode();
      if (content !== null && node instanceof FileNode) {
        node.durable.apply({ kind: "write", offset: 0, data: content });
        node.latest.apply({ kind: "write", offset: 0, data: content });
      }
      this.#durable.set(path, node);
      this.#latest.set(path, node);
      this.#byInode.set(base.files.get(path)!, node);
    }
  }

  apply(operation: Operation): void {
    switch (operation.kind) {
      case "create": {
        const there = this.#latest.get(operation.path);
        if (there !== undefined && this.#byInode.get(operation.file) === there) return;
        if (there !== undefined) throw new Error(`${operation.path} was made twice: the recording has a gap`);
        return this.#add(operation.path, operation.file, new FileNode());
      }
      case "mkdir":
        return this.#add(operation.path, operation.file, new DirectoryNode());
      case "write":
        return this.#file(operation.file).change({ ...operation, kind: "write" });
      case "truncate":
        return this.#file(operation.file).change({ ...operation, kind: "truncate" });
      case "zero": {
        const file = this.#file(operation.file);
        const end = Math.min(operation.offset + operation.size, file.latest.size);
        if (end <= operation.offset) return;
        const data = new Uint8Array(end - operation.offset);
        return file.change({ kind: "write", offset: operation.offset, data });
      }
      case "unlink":
      case "rmdir":
        return this.#name({ kind: "remove", path: operation.path });
      case "rename":
        return this.#name({ kind: "move", path: operation.path, to: operation.to });
      case "link":
        return this.#name({ kind: "add", path: operation.to, node: this.#latest.get(operation.path)! });
      case "sync":
        return operation.step === "start" ? this.#syncStarts(operation) : this.#syncEnds(operation);
      case "mark":
        return;
    }
  }

  /** The directory as programs see it. */
  latest(): Image {
    return new Map([...this.#latest].map(([path, node]) => [path, contentOf(node, (file) => file.latest)]));
  }

  /** The directory as it may be found after the power is lost now: one of the possible ones. */
  cut(random: Random): Image {
    const tree = new Map(this.#durable);
    const kept = pickCount(random, this.#names.length);
    const early = this.#fsyncKeeps === "data only" ? 0.5 : 1;
    this.#names.forEach((operation, i) => {
      if (i < kept) applyName(tree, operation);
      else if (operation.kind === "add" && isSynced(operation.node) && chance(random, early)) {
        const parent = operation.path.slice(0, Math.max(0, operation.path.lastIndexOf("/")));
        if (!tree.has(operation.path) && (parent === "" || tree.has(parent))) applyName(tree, operation);
      }
    });
    const contents = new Map<FileNode, Content>();
    return new Map([...tree].map(([path, node]) => [
      path,
      contentOf(node, (file) => {
        const content = contents.get(file) ?? cutFile(file, random);
        contents.set(file, content);
        return content;
      }),
    ]));
  }

  #file(inode: number): FileNode {
    const node = this.#byInode.get(inode);
    if (!(node instanceof FileNode)) throw new Error(`file ${inode} is not known: the recording has a gap`);
    return node;
  }

  #add(path: string, inode: number, node: Node): void {
    this.#byInode.set(inode, node);
    this.#name({ kind: "add", path, node });
  }

  #name(operation: NameOperation): void {
    this.#names.push(operation);
    applyName(this.#latest, operation);
  }

  #syncStarts(sync: { readonly file: number | null; readonly token: number }): void {
    const node = sync.file === null ? null : this.#byInode.get(sync.file);
    if (node === undefined) throw new Error(`what is synced is not known: the recording has a gap`);
    const all = [...this.#byInode.values()].filter((other) => other instanceof FileNode);
    const files = node === null ? all : node instanceof FileNode ? [node] : [];
    const keepsNames = !(node instanceof FileNode) || this.#fsyncKeeps === "all names";
    this.#syncs.set(`${sync.file} ${sync.token}`, {
      names: keepsNames ? this.#settledNames + this.#names.length : 0,
      data: new Map(files.map((file) => [file, file.pending.length])),
    });
  }

  #syncEnds(sync: { readonly file: number | null; readonly token: number }): void {
    const key = `${sync.file} ${sync.token}`;
    const started = this.#syncs.get(key)!;
    this.#syncs.delete(key);
    for (const [file, count] of started.data) {
      // Another sync may have settled some of these; then this one settles the rest.
      const before = file.pending.length;
      file.settle(count);
      file.synced = true;
      const done = before - file.pending.length;
      for (const other of this.#syncs.values()) {
        const theirs = other.data.get(file);
        if (theirs !== undefined) other.data.set(file, Math.max(0, theirs - done));
      }
    }
    const names = Math.max(0, started.names - this.#settledNames);
    for (const operation of this.#names.splice(0, names)) applyName(this.#durable, operation);
    this.#settledNames += names;
  }
}

function isSynced(node: Node): boolean {
  return node instanceof FileNode && node.synced;
}

function contentOf(node: Node, content: (file: FileNode) => Content): Uint8Array | null {
  return node instanceof FileNode ? content(node).bytes.slice() : null;
}

function applyName(tree: Tree, operation: NameOperation): void {
  if (operation.kind === "add") {
    tree.set(operation.path, operation.node);
    return;
  }
  if (operation.kind === "remove") {
    tree.delete(operation.path);
    return;
  }
  const prefix = `${operation.path}/`;
  const moved = [...tree].filter(([path]) => path === operation.path || path.startsWith(prefix));
  for (const [path] of moved) tree.delete(path);
  for (const [path, node] of moved) {
    const to = operation.to + path.slice(operation.path.length);
    tree.delete(to); // so that what is below comes after it
    tree.set(to, node);
  }
}

/** 0, all, or anything between. */
function pickCount(random: Random, count: number): number {
  const choice = random.next();
  return choice < 0.2 ? 0 : choice < 0.4 ? count : Math.floor(random.next() * (count + 1));
}

/** What a cut leaves of a file. */
function cutFile(file: FileNode, random: Random): Content {
  const { pending } = file;
  if (pending.length === 0) return file.durable;
  const choice = random.next();
  if (choice < 0.2) return file.durable;
  if (choice < 0.3) return file.latest;
  return choice < 0.6 ? cutInOrder(file, random) : cutByPages(file, random);
}

/** The first of the pending operations, and the beginning of the next. */
function cutInOrder({ durable, pending }: FileNode, random: Random): Content {
  const content = durable.copy();
  const count = Math.floor(random.next() * (pending.length + 1));
  for (const operation of pending.slice(0, count)) content.apply(operation);
  const torn = pending[count];
  if (torn?.kind === "write") {
    const unit = chance(random, 0.5) ? 1 : SECTOR_BYTES;
    const whole = Math.floor(random.next() * (torn.data.length + 1));
    // Up to a bound of the file's, not of the write's.
    const end = unit === 1 ? whole : Math.floor((torn.offset + whole) / unit) * unit - torn.offset;
    if (end > 0) content.apply({ ...torn, data: torn.data.subarray(0, end) });
  }
  return content;
}

/** Each page as it was after some of the pending operations, the size as well, none knowing of the others. */
function cutByPages({ durable, pending }: FileNode, random: Random): Content {
  const result = durable.copy();
  const unit = chance(random, 0.7) ? PAGE_BYTES : SECTOR_BYTES;
  const sizes = [durable.size];
  const touched = new Map<number, number[]>();
  pending.forEach((operation, i) => {
    const before = sizes.at(-1)!;
    const end = operation.kind === "write" ? operation.offset + operation.data.length : operation.size;
    sizes.push(operation.kind === "write" ? Math.max(before, end) : end);
    const from = operation.kind === "write" ? operation.offset : Math.min(before, end);
    const to = operation.kind === "write" ? end : Math.max(before, end);
    for (let page = Math.floor(from / unit); page * unit < to; page++) {
      const operations = touched.get(page) ?? [];
      operations.push(i);
      touched.set(page, operations);
    }
  });
  const size = sizes[chance(random, 0.5) ? pending.length : Math.floor(random.next() * sizes.length)]!;
  for (const [page, operations] of touched) {
    const kept = chance(random, 0.5)
      ? operations.length
      : Math.floor(random.next() * (operations.length + 1));
    const start = page * unit;
    const bytes = new Content();
    bytes.apply({ kind: "write", offset: 0, data: durable.bytes.subarray(start, start + unit) });
    for (const i of operations.slice(0, kept)) {
      const operation = pending[i]!;
      if (operation.kind === "truncate") {
        bytes.apply({ kind: "truncate", size: Math.min(Math.max(operation.size - start, 0), unit) });
        continue;
      }
      const skip = Math.max(0, start - operation.offset);
      const data = operation.data.subarray(skip, start + unit - operation.offset);
      bytes.apply({ kind: "write", offset: operation.offset + skip - start, data });
    }
    bytes.apply({ kind: "truncate", size: unit });
    result.apply({ kind: "write", offset: start, data: bytes.bytes });
  }
  result.apply({ kind: "truncate", size });
  return result;
}
