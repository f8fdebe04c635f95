/**
 * A file tree in memory that does what Linux does: what the namespace's operations are compared with. Each
 * operation says which errnos it may end with ("" is success) and changes the tree only when that is success.
 */

import type { Timespec } from "../../../base/clock.ts";
import { S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISGID } from "../../../wire/messages/inode.ts";

export interface Node {
  ino: number;
  mode: number;
  uid: number;
  gid: number;
  nlink: number;
  size: number;
  target: string;
  parent: Node;
  mtime: Timespec;
  ctime: Timespec;
  readonly entries: Map<string, Node>;
}

export type Outcome = readonly string[];
const DONE: Outcome = [""];

export const isDir = (node: Node): boolean => (node.mode & S_IFMT) === S_IFDIR;

export class TreeModel {
  readonly root: Node;
  now: Timespec;

  constructor(now: Timespec) {
    this.now = now;
    this.root = this.#node(S_IFDIR | 0o755, 0, 0);
    this.root.ino = 1;
    this.root.nlink = 2;
    this.root.parent = this.root;
  }

  #node(mode: number, uid: number, gid: number): Node {
    const node = {
      ino: 0,
      mode,
      uid,
      gid,
      nlink: 1,
      size: 0,
      target: "",
      mtime: this.now,
      ctime: this.now,
      entries: new Map(),
    } as unknown as Node;
    node.parent = node;
    return node;
  }

  /** Every node that has a name, and the root. */
  living(): Set<Node> {
    const found = new Set<Node>();
    const visit = (node: Node) => {
      found.add(node);
      for (const child of node.entries.values()) visit(child);
    };
    visit(this.root);
    return found;
  }

  #parentErrors(...parents: readonly Node[]): string[] {
    const errors = parents.map((node) => node.nlink === 0 ? "ENOENT" : isDir(node) ? "" : "ENOTDIR");
    return errors.filter((error) => error !== "");
  }

  #touch(...directories: readonly Node[]): void {
    for (const node of directories) node.mtime = node.ctime = this.now;
  }

  /** Makes a file, directory or symlink. The new node comes out by `made`. */
  make(
    parent: Node,
    name: string,
    mode: number,
    uid: number,
    gid: number,
    target: string,
    made: (node: Node) => void,
  ): Outcome {
    const errors = this.#parentErrors(parent);
    if (errors.length > 0) return errors;
    if (parent.entries.has(name)) return ["EEXIST"];
    const isSetgid = (parent.mode & S_ISGID) !== 0;
    const node = this.#node(mode, uid, isSetgid ? parent.gid : gid);
    node.parent = parent;
    if (isDir(node)) {
      node.nlink = 2;
      parent.nlink++;
      if (isSetgid) node.mode |= S_ISGID;
    }
    if ((mode & S_IFMT) === S_IFLNK) {
      node.target = target;
      node.size = target.length;
    }
    parent.entries.set(name, node);
    this.#touch(parent);
    made(node);
    return DONE;
  }

  link(node: Node, parent: Node, name: string): Outcome {
    const errors = this.#parentErrors(parent);
    if (node.nlink === 0) errors.push("ENOENT");
    if (isDir(node)) errors.push("EPERM");
    if (isDir(parent) && parent.entries.has(name)) errors.push("EEXIST");
    if (errors.length > 0) return errors;
    node.nlink++;
    node.ctime = this.now;
    parent.entries.set(name, node);
    this.#touch(parent);
    return DONE;
  }

  remove(parent: Node, name: string, isRmdir: boolean): Outcome {
    const errors = this.#parentErrors(parent);
    if (errors.length > 0) return errors;
    const node = parent.entries.get(name);
    if (node === undefined) return ["ENOENT"];
    if (isRmdir && !isDir(node)) return ["ENOTDIR"];
    if (isRmdir && node.entries.size > 0) return ["ENOTEMPTY"];
    if (!isRmdir && isDir(node)) return ["EISDIR"];
    this.#unlink(parent, name, node);
    this.#touch(parent);
    return DONE;
  }

  #unlink(parent: Node, name: string, node: Node): void {
    parent.entries.delete(name);
    node.ctime = this.now;
    if (isDir(node)) {
      node.nlink = 0;
      parent.nlink--;
    } else {
      node.nlink--;
    }
  }

  #isWithin(node: Node, ancestor: Node): boolean {
    for (let at = node;; at = at.parent) {
      if (at === ancestor) return true;
      if (at === at.parent) return false;
    }
  }

  /** `whiteout` gets what RENAME_WHITEOUT (4) leaves under the old name. */
  rename(
    source: Node,
    name: string,
    target: Node,
    newName: string,
    flags: number,
    owner: { readonly uid: number; readonly gid: number },
    whiteout: (node: Node) => void,
  ): Outcome {
    if (flags > 5 || flags === 3) return ["EINVAL"];
    const errors = this.#parentErrors(source, target);
    if (errors.length > 0) return errors;
    const moved = source.entries.get(name);
    if (moved === undefined) return ["ENOENT"];
    const existing = target.entries.get(newName);
    if (flags === 2) return this.#exchange(source, name, moved, target, newName, existing);
    if ((flags & 1) !== 0 && existing !== undefined) return ["EEXIST"];
    if (existing === moved) return DONE;
    if (isDir(moved) && this.#isWithin(target, moved)) return ["EINVAL"];
    if (existing !== undefined) {
      // A target that is an ancestor of the source: the kernel says ENOTEMPTY before it looks at types.
      const isAncestor = isDir(existing) && this.#isWithin(source, existing);
      if (isDir(moved) && !isDir(existing)) return ["ENOTDIR"];
      if (!isDir(moved) && isDir(existing)) return isAncestor ? ["EISDIR", "ENOTEMPTY"] : ["EISDIR"];
      if (existing.entries.size > 0) return ["ENOTEMPTY"];
      this.#unlink(target, newName, existing);
    }
    source.entries.delete(name);
    target.entries.set(newName, moved);
    if ((flags & 4) !== 0) {
      const isSetgid = (source.mode & S_ISGID) !== 0;
      const node = this.#node(S_IFCHR, owner.uid, isSetgid ? source.gid : owner.gid);
      source.entries.set(name, node);
      whiteout(node);
    }
    moved.ctime = this.now;
    if (isDir(moved)) {
      source.nlink--;
      target.nlink++;
      moved.parent = target;
    }
    this.#touch(source, target);
    return DONE;
  }

  #exchange(
    source: Node,
    name: string,
    moved: Node,
    target: Node,
    newName: string,
    existing: Node | undefined,
  ): Outcome {
    if (existing === undefined) return ["ENOENT"];
    if (existing === moved) return DONE;
    if (isDir(moved) && this.#isWithin(target, moved)) return ["EINVAL"];
    if (isDir(existing) && this.#isWithin(source, existing)) return ["EINVAL"];
    source.entries.set(name, existing);
    target.entries.set(newName, moved);
    for (const [node, from, to] of [[moved, source, target], [existing, target, source]] as const) {
      node.ctime = this.now;
      if (!isDir(node)) continue;
      node.parent = to;
      from.nlink--;
      to.nlink++;
    }
    this.#touch(source, target);
    return DONE;
  }

  setattr(node: Node, change: { mode?: number; uid?: number; gid?: number; size?: number }): Outcome {
    if (node.nlink === 0) return ["ENOENT"];
    if (change.size !== undefined && isDir(node)) return ["EISDIR"];
    if (change.size !== undefined && (node.mode & S_IFMT) !== S_IFREG) return ["EINVAL"];
    if (change.mode !== undefined) node.mode = node.mode & S_IFMT | change.mode;
    if (change.uid !== undefined) node.uid = change.uid;
    if (change.gid !== undefined) node.gid = change.gid;
    if (change.size !== undefined) {
      node.size = change.size;
      node.mtime = this.now;
    }
    node.ctime = this.now;
    return DONE;
  }
}
