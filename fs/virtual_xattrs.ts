/**
 * Attributes that are made up when they are asked for, for schedulers that bring work to its data; they are read-only, and
 * not listed:
 * - user.mfs.blockLocs, of a regular file: a line for each of its blocks, START, END and HOST,HOST... with tabs between
 *   them; bytes of the file, END beyond the last one. Holes have no line.
 * - user.mfs.inoJson: the inode as JSON. Times in seconds; Ftype 0: directory, 1: regular file, 2: symlink, 3: another.
 * Values are no longer than an attribute's can be (64 KiB, blocks of some 1,500 lines): E2BIG.
 */

import { bytesOf, startsWith, textOf } from "../base/bytes.ts";
import { isAclName } from "../base/posix_acl.ts";
import { ERRNO, FsError } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  type Block,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  XATTR_VALUE_BYTES_MAX,
} from "../wire/messages/inode.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Inode } from "./inode.ts";
import type { Names } from "./names.ts";
import type { Writer } from "./writer.ts";
import type { Interruptible } from "./interruptible.ts";

const PREFIX = bytesOf("user.mfs.");
const TRUSTED = bytesOf("trusted.");
const NAMESPACES = [bytesOf("security."), bytesOf("user."), TRUSTED];
const PREFIXES = { "user.": bytesOf("user."), "trusted.": TRUSTED, "system.": bytesOf("system.") };

export interface VirtualXattrsOptions {
  readonly session: ClusterSession;
  readonly names: Names;
  readonly writer: Writer;
}

export class VirtualXattrs {
  readonly #options: VirtualXattrsOptions;

  constructor(options: VirtualXattrsOptions) {
    this.#options = options;
  }

  /** The value, or null where there is none of such a name. Undefined: the name is an ordinary one. */
  get(ino: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<Uint8Array | null> | undefined {
    return startsWith(name, PREFIX) ? this.#make(ino, textOf(name), interrupt) : undefined;
  }

  async #make(ino: InodeId, name: string, interrupt: Interruptible): Promise<Uint8Array | null> {
    if (name !== "user.mfs.blockLocs" && name !== "user.mfs.inoJson") return null;
    const { names, writer } = this.#options;
    const inode = await names.getattr(ino, interrupt);
    const isFile = (inode.attributes.mode & S_IFMT) === S_IFREG;
    if (name === "user.mfs.blockLocs" && !isFile) return null;
    // Blocks that we have just written to are reported first.
    if (inode.file?.isUnflushed === true) await writer.commit(inode.file, false);
    const attributes = names.shown(inode);
    const blocks = isFile ? await this.#blocks(ino, attributes.size, interrupt) : [];
    const text = name === "user.mfs.blockLocs"
      ? blocks.map((block) => locationLine(block, attributes.size)).join("")
      : JSON.stringify(describe(inode, attributes, blocks));
    const value = bytesOf(text);
    if (value.length > XATTR_VALUE_BYTES_MAX) {
      throw new FsError("E2BIG", `${name} of ${value.length} bytes, for ${blocks.length} blocks`);
    }
    return value;
  }

  async #blocks(ino: InodeId, size: number, interrupt: Interruptible): Promise<Block[]> {
    const blocks: Block[] = [];
    for (let at = 0; at < size;) {
      const reply = await this.#options.session.nameserver.blocks(
        { ino, offset: at, length: size - at },
        interrupt,
      );
      blocks.push(...reply.blocks);
      if (reply.end <= at || blocks.length > XATTR_VALUE_BYTES_MAX) break;
      at = reply.end;
    }
    return blocks;
  }
}

/**
 * The errno, negative, for a name that no local disk has: the kernel leaves it to us which namespaces there are. 0: it may be.
 */
export function refusedXattrName(name: Uint8Array, hasAcls: boolean): number {
  const namespace = NAMESPACES.find((prefix) => startsWith(name, prefix));
  if (namespace !== undefined) return name.length > namespace.length ? 0 : -ERRNO.EINVAL;
  return hasAcls && isAclName(name) ? 0 : -ERRNO.EOPNOTSUPP;
}

/** The name has that prefix. */
export function isXattrOf(namespace: "user." | "trusted." | "system.", name: Uint8Array): boolean {
  return startsWith(name, PREFIXES[namespace]);
}

/** The names that listxattr(2) shows a user: trusted ones root only, as on a local disk. */
export function listedXattrs(names: readonly Uint8Array[], isRoot: boolean): readonly Uint8Array[] {
  return isRoot ? names : names.filter((name) => !startsWith(name, TRUSTED));
}

function locationLine({ start, length, replicas }: Block, size: number): string {
  const hosts = [...new Set(replicas.filter(({ alive }) => alive).map(({ host }) => host))];
  return `${start}\t${Math.min(start + length, size)}\t${hosts.join(",")}\n`;
}

function describe(inode: Inode, attributes: Attributes, blocks: readonly Block[]): unknown {
  const { ino, mode, size, mtime, ctime, nlink, uid, gid } = attributes;
  const type = [S_IFDIR, S_IFREG, S_IFLNK].indexOf(mode & S_IFMT);
  return {
    Inodeid: ino,
    Generation: 0,
    Ftype: type < 0 ? 3 : type,
    Length: size,
    Mode: mode & 0o7777,
    Mtime: mtime.seconds,
    Ctime: ctime.seconds,
    Nlink: nlink,
    Uid: uid,
    Gid: gid,
    Symlinkdest: inode.target === null ? "" : textOf(inode.target),
    Blocks: blocks.map(({ id, generation, start, length, replicas }) => ({
      Id: id,
      Version: generation,
      Inodeid: ino,
      StartPos: start,
      EndPos: Math.min(start + length, size),
      Volumes: replicas.map(({ volume }) => volume),
    })),
  };
}
