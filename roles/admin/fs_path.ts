/**
 * Paths within the file system, as commands take and show them: bytes, written as text in which a backslash stands
 * before another one, or before xHH for a byte that is no character to be shown. What a command shows can be given to
 * another.
 */

import { bytesOf, concatBytes, textOf } from "../../base/bytes.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../wire/ids.ts";
import { type Attributes, NAME_BYTES_MAX, S_IFDIR, S_IFLNK, S_IFMT } from "../../wire/messages/inode.ts";
import type { AdminClient } from "./client.ts";
import { isOurs, listMounts } from "./mounts.ts";

const BACKSLASH = 0x5c;
const SLASH = 0x2f;
const REAL_PATH_MS = 5_000;

/** What a command is to work on: a path within the file system of this nameserver. */
export interface FsPath {
  readonly nameserver: string;
  readonly path: Uint8Array;
}

/** For people and JSON. */
export function formatPath(path: Uint8Array): string {
  let text = "";
  for (let at = 0; at < path.length;) {
    const length = characterLength(path, at);
    const character = length === 0 ? "" : textOf(path.subarray(at, at + length));
    if (character === "\\") text += "\\\\";
    else if (length === 0 || /\p{C}|\p{Zl}|\p{Zp}/u.test(character)) {
      for (const byte of path.subarray(at, at + Math.max(1, length))) {
        text += `\\x${byte.toString(16).padStart(2, "0")}`;
      }
    } else text += character;
    at += Math.max(1, length);
  }
  return text;
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes of the UTF-8 character at `at`; 0: there is none. */
function characterLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  const length = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  try {
    return [...strict.decode(bytes.subarray(at, at + length))].length === 1 ? length : 0;
  } catch {
    return 0;
  }
}

/** The reverse of formatPath. Errors: EINVAL. */
export function parsePath(text: string): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [part] of text.matchAll(/\\x[0-9a-fA-F]{2}|\\\\|\\|[^\\]+/g)) {
    if (part === "\\") {
      throw new FsError("EINVAL", `${text}: write a backslash as \\\\, and a byte as \\xHH`, { op: "path" });
    }
    if (part.startsWith("\\x")) parts.push(new Uint8Array([parseInt(part.slice(2), 16)]));
    else parts.push(part === "\\\\" ? new Uint8Array([BACKSLASH]) : bytesOf(part));
  }
  return concatBytes(parts);
}

/**
 * What PATH and --nameserver mean together: with a nameserver a path within the file system, as formatPath writes it;
 * else one on a mount of this machine. Errors: EINVAL, ETIMEDOUT (a mount that does not answer).
 */
export async function locate(path: string, nameserver: string | undefined): Promise<FsPath> {
  if (nameserver !== undefined) {
    if (path.startsWith("/")) return { nameserver, path: parsePath(path) };
    throw new FsError("EINVAL", `with --nameserver the path begins at the root: write /${path}`, {
      op: "path",
    });
  }
  const absolute = path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
  const found = onMount(normalized(absolute)) ?? onMount(await realPath(absolute));
  if (found !== undefined) return found;
  throw new FsError(
    "EINVAL",
    `${path} is not on a mount of MaggieFS on this machine: give --nameserver, and the path within the file system`,
    { op: "path" },
  );
}

/** Without "." and ".."; symbolic links are not looked at, so that no mount is touched. */
function normalized(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

async function realPath(path: string): Promise<string> {
  let timer: number | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new FsError("ETIMEDOUT", `${path} can't be looked at: its mount does not answer`, {
      op: "path",
    });
    timer = setTimeout(() => reject(error), REAL_PATH_MS);
  });
  try {
    return await Promise.race([Deno.realPath(path), late]);
  } catch (error) {
    if (error instanceof FsError) throw error;
    throw new FsError("EINVAL", `${path}: ${error instanceof Error ? error.message : error}`, { op: "path" });
  } finally {
    clearTimeout(timer);
  }
}

/** The path on the mount of ours that shows it, if it is one. */
function onMount(path: string): FsPath | undefined {
  const isBelow = (mountpoint: string) =>
    mountpoint === "/" || path === mountpoint || path.startsWith(`${mountpoint}/`);
  let nearest;
  for (const mount of listMounts()) {
    if (isBelow(mount.mountpoint) && mount.mountpoint.length >= (nearest?.mountpoint.length ?? 0)) {
      nearest = mount;
    }
  }
  if (nearest === undefined || !isOurs(nearest)) return undefined;
  // Where the kernel takes no subtype a name stands before it: mfs@HOST:PORT.
  const nameserver = nearest.source.replace(/^[^@]*@/, "");
  if (!/:\d+$/.test(nameserver)) return undefined;
  const below = nearest.mountpoint === "/" ? path : path.slice(nearest.mountpoint.length);
  return { nameserver, path: bytesOf(normalized(`${nearest.root}/${below}`)) };
}

export interface Found {
  readonly ino: InodeId;
  readonly attributes: Attributes;
}

/** The inode that the path leads to. Errors: ENOENT, ENOTDIR, ELOOP (a symbolic link), ENAMETOOLONG, and transport's. */
export async function resolve({ nameserver }: AdminClient, path: Uint8Array): Promise<Found> {
  let { attributes } = await nameserver.getattr({ ino: ROOT_INODE });
  let passed = "";
  for (const name of namesOf(path)) {
    const fail = (errno: "ENOENT" | "ENOTDIR" | "ELOOP", why: string): never => {
      throw new FsError(errno, why, { op: "path" });
    };
    if ((attributes.mode & S_IFMT) === S_IFLNK) {
      fail("ELOOP", `${passed} is a symbolic link: give the path that it leads to`);
    }
    if ((attributes.mode & S_IFMT) !== S_IFDIR) fail("ENOTDIR", `${passed} is not a directory`);
    passed += `/${formatPath(name)}`;
    try {
      const { inode } = await nameserver.lookup({ parent: attributes.ino, name });
      if (inode === undefined) fail("ENOENT", `${passed} does not exist in the file system`);
      attributes = inode!.attributes;
    } catch (error) {
      if (isErrno(error, "ENOENT") && error.op !== "path") fail("ENOENT", `${passed} has just been removed`);
      throw error;
    }
  }
  if ((attributes.mode & S_IFMT) === S_IFLNK) {
    throw new FsError("ELOOP", `${passed} is a symbolic link: give the path that it leads to`, {
      op: "path",
    });
  }
  return { ino: attributes.ino, attributes };
}

function namesOf(path: Uint8Array): Uint8Array[] {
  const names: Uint8Array[] = [];
  for (let from = 0; from <= path.length;) {
    const slash = path.indexOf(SLASH, from);
    const to = slash < 0 ? path.length : slash;
    const name = path.subarray(from, to);
    from = to + 1;
    const text = textOf(name);
    if (name.length === 0 || text === ".") continue;
    if (text === "..") throw new FsError("EINVAL", `give the path without ".."`, { op: "path" });
    if (name.includes(0)) throw new FsError("EINVAL", "a name has no NUL byte", { op: "path" });
    if (name.length > NAME_BYTES_MAX) {
      throw new FsError("ENAMETOOLONG", `a name has at most ${NAME_BYTES_MAX} bytes`, { op: "path" });
    }
    names.push(name);
  }
  return names;
}
