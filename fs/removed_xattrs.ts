/**
 * Extended attributes of what was removed while somebody here has it open or works in it, and which the nameserver has
 * forgotten (all but regular files, which live on there): they are this mount's own from then on, until the kernel
 * forgets the inode.
 */

import { bytesKey } from "../base/bytes.ts";
import { FsError } from "../wire/errno.ts";

const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
/** Of one inode all together, as on ext4 about. */
const BYTES_MAX = 64 * 1024;

export interface Xattr {
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

export class RemovedXattrs {
  readonly #xattrs: Map<string, Xattr>;

  /** `kept`: what there was before the removal. */
  constructor(kept: readonly Xattr[] = []) {
    this.#xattrs = new Map(kept.map((xattr) => [bytesKey(xattr.name), xattr]));
  }

  /** Null: there is none of that name. */
  get(name: Uint8Array): Uint8Array | null {
    return this.#xattrs.get(bytesKey(name))?.value ?? null;
  }

  list(): Uint8Array[] {
    return [...this.#xattrs.values()].map(({ name }) => name);
  }

  /** As setxattr(2): EEXIST, ENODATA, ENOSPC. */
  set(name: Uint8Array, value: Uint8Array, flags: number): void {
    const key = bytesKey(name);
    const exists = this.#xattrs.has(key);
    if (exists && (flags & XATTR_CREATE) !== 0) throw new FsError("EEXIST", "the attribute exists");
    if (!exists && (flags & XATTR_REPLACE) !== 0) throw new FsError("ENODATA", "no such attribute");
    let bytes = name.length + value.length;
    for (const [other, xattr] of this.#xattrs) {
      if (other !== key) bytes += xattr.name.length + xattr.value.length;
    }
    if (bytes > BYTES_MAX) throw new FsError("ENOSPC", `${bytes} bytes of extended attributes`);
    this.#xattrs.set(key, { name: name.slice(), value: value.slice() });
  }

  /** ENODATA when there is none of that name. */
  remove(name: Uint8Array): void {
    if (!this.#xattrs.delete(bytesKey(name))) throw new FsError("ENODATA", "no such attribute");
  }
}

/** Those of a removed inode; made when they are first asked for. */
export function xattrsOfRemoved(inode: { removedXattrs: RemovedXattrs | null }): RemovedXattrs {
  return inode.removedXattrs ??= new RemovedXattrs();
}
