/**
 * System calls by path for the exercisers, as the kernel has them: what Deno lacks (mknod, extended attributes,
 * renameat2, links to links, changes of identity) and what it hides (errno, trailing slashes). Every function
 * returns what the call returns, with a failure as a negative errno. For child programs only: they block.
 */

import { cString } from "../../base/libc.ts";

const library = Deno.dlopen("libc.so.6", {
  __errno_location: { parameters: [], result: "pointer" },
  mkdir: { parameters: ["buffer", "u32"], result: "i32" },
  rmdir: { parameters: ["buffer"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
  renameat2: { parameters: ["i32", "buffer", "i32", "buffer", "u32"], result: "i32" },
  linkat: { parameters: ["i32", "buffer", "i32", "buffer", "i32"], result: "i32" },
  symlink: { parameters: ["buffer", "buffer"], result: "i32" },
  readlink: { parameters: ["buffer", "buffer", "usize"], result: "i64" },
  mknod: { parameters: ["buffer", "u32", "u64"], result: "i32" },
  chmod: { parameters: ["buffer", "u32"], result: "i32" },
  fchmod: { parameters: ["i32", "u32"], result: "i32" },
  fchownat: { parameters: ["i32", "buffer", "u32", "u32", "i32"], result: "i32" },
  truncate: { parameters: ["buffer", "i64"], result: "i32" },
  access: { parameters: ["buffer", "i32"], result: "i32" },
  utimensat: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  getdents64: { parameters: ["i32", "buffer", "usize"], result: "i64" },
  setxattr: { parameters: ["buffer", "buffer", "buffer", "usize", "i32"], result: "i32" },
  lgetxattr: { parameters: ["buffer", "buffer", "buffer", "usize"], result: "i64" },
  getxattr: { parameters: ["buffer", "buffer", "buffer", "usize"], result: "i64" },
  llistxattr: { parameters: ["buffer", "buffer", "usize"], result: "i64" },
  listxattr: { parameters: ["buffer", "buffer", "usize"], result: "i64" },
  removexattr: { parameters: ["buffer", "buffer"], result: "i32" },
  setresuid: { parameters: ["u32", "u32", "u32"], result: "i32" },
  setresgid: { parameters: ["u32", "u32", "u32"], result: "i32" },
  setgroups: { parameters: ["usize", "buffer"], result: "i32" },
});
const libc = library.symbols;
const errnoView = new Deno.UnsafePointerView(libc.__errno_location()!);

function checked(result: number | bigint): number {
  return result < 0 ? -errnoView.getInt32(0) : Number(result);
}

// fcntl.h, linux/stat.h
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff;
export const O_NOFOLLOW = Deno.build.arch === "aarch64" ? 0o100000 : 0o400000;
export const O_DIRECTORY = Deno.build.arch === "aarch64" ? 0o40000 : 0o200000;
/** Of chown: leave it as it is. */
export const KEEP_ID = 0xffffffff;

export const mkdir = (path: string, mode: number) => checked(libc.mkdir(cString(path), mode));
export const rmdir = (path: string) => checked(libc.rmdir(cString(path)));
export const unlink = (path: string) => checked(libc.unlink(cString(path)));
export const chmod = (path: string, mode: number) => checked(libc.chmod(cString(path), mode));
export const fchmod = (fd: number, mode: number) => checked(libc.fchmod(fd, mode));
export const truncate = (path: string, size: number) => checked(libc.truncate(cString(path), BigInt(size)));
export const access = (path: string, mode: number) => checked(libc.access(cString(path), mode));
export const mknod = (path: string, mode: number, device: number) =>
  checked(libc.mknod(cString(path), mode, BigInt(device)));
/** `target` is what the link says. */
export const symlink = (target: string, path: string) =>
  checked(libc.symlink(cString(target), cString(path)));

/** renameat2(2); flags 0 are rename(2). */
export const rename = (from: string, to: string, flags: number) =>
  checked(libc.renameat2(AT_FDCWD, cString(from), AT_FDCWD, cString(to), flags));

/** link(2): a symbolic link gets a second name itself. */
export const link = (from: string, to: string) =>
  checked(libc.linkat(AT_FDCWD, cString(from), AT_FDCWD, cString(to), 0));

export const chown = (path: string, uid: number, gid: number, follow: boolean) =>
  checked(libc.fchownat(AT_FDCWD, cString(path), uid, gid, follow ? 0 : AT_SYMLINK_NOFOLLOW));

/** Bytes of a call that fills a buffer, as text, or -errno. */
function textFrom(bytes: number, call: (buffer: Uint8Array<ArrayBuffer>, length: bigint) => number | bigint) {
  const buffer = new Uint8Array(bytes);
  const result = checked(call(buffer, BigInt(bytes)));
  return result < 0 ? result : new TextDecoder().decode(buffer.subarray(0, result));
}

export const readlink = (path: string) =>
  textFrom(4096, (buffer, length) => libc.readlink(cString(path), buffer, length));

export const getXattr = (path: string, name: string, follow: boolean) =>
  textFrom(
    65536,
    (buffer, length) =>
      follow
        ? libc.getxattr(cString(path), cString(name), buffer, length)
        : libc.lgetxattr(cString(path), cString(name), buffer, length),
  );

/** Names of extended attributes, sorted, or -errno. */
export function listXattrs(path: string, follow: boolean): number | string[] {
  const text = textFrom(
    65536,
    (buffer, length) =>
      follow ? libc.listxattr(cString(path), buffer, length) : libc.llistxattr(cString(path), buffer, length),
  );
  return typeof text === "number" ? text : text.split("\0").filter((name) => name !== "").sort();
}

/** `flags`: 1 XATTR_CREATE, 2 XATTR_REPLACE. */
export const setXattr = (path: string, name: string, value: Uint8Array<ArrayBuffer>, flags: number) =>
  checked(libc.setxattr(cString(path), cString(name), value, BigInt(value.length), flags));
export const removeXattr = (path: string, name: string) =>
  checked(libc.removexattr(cString(path), cString(name)));

/** Sets atime and mtime; nanoseconds from 0 to 999,999,999. */
export function utimes(path: string, seconds: number, atimeNs: number, mtimeNs: number): number {
  const times = new BigInt64Array([seconds, atimeNs, seconds, mtimeNs].map(BigInt));
  return checked(libc.utimensat(AT_FDCWD, cString(path), times, 0));
}

export interface Status {
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly rdev: string;
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
}

/** lstat(2) of a path, or fstat(2) of a descriptor. */
export function status(what: string | number): number | Status {
  const buffer = new Uint8Array(256);
  const [fd, path, flags] = typeof what === "number"
    ? [what, "", AT_EMPTY_PATH]
    : [AT_FDCWD, what, AT_SYMLINK_NOFOLLOW];
  const result = checked(libc.statx(fd, cString(path), flags, STATX_BASIC_STATS, buffer));
  if (result < 0) return result;
  const view = new DataView(buffer.buffer);
  // Offsets of struct statx (linux/stat.h).
  const time = (at: number) =>
    view.getBigInt64(at, true) * 1_000_000_000n + BigInt(view.getUint32(at + 8, true));
  return {
    nlink: view.getUint32(16, true),
    uid: view.getUint32(20, true),
    gid: view.getUint32(24, true),
    mode: view.getUint16(28, true),
    size: Number(view.getBigUint64(40, true)),
    rdev: `${view.getUint32(128, true)}:${view.getUint32(132, true)}`,
    atimeNs: time(64),
    mtimeNs: time(112),
  };
}

/** The entries of an open directory but `.` and `..`, sorted, each with its d_type, or -errno. */
export function entries(fd: number): number | string[] {
  const found: string[] = [];
  const buffer = new Uint8Array(32768);
  const view = new DataView(buffer.buffer);
  for (;;) {
    const length = checked(libc.getdents64(fd, buffer, BigInt(buffer.length)));
    if (length < 0) return length;
    if (length === 0) return found.sort();
    // struct linux_dirent64: ino u64, off s64, reclen u16, type u8, name.
    for (let at = 0; at < length; at += view.getUint16(at + 16, true)) {
      const end = buffer.indexOf(0, at + 19);
      const name = new TextDecoder().decode(buffer.subarray(at + 19, end));
      if (name !== "." && name !== "..") found.push(`${name} ${view.getUint8(at + 18)}`);
    }
  }
}

/** Takes on an identity for files; uid and gid 0 give root back. All threads follow (glibc sees to it). */
export function become(uid: number, gid: number, groups: readonly number[]): void {
  const list = new Uint32Array(groups);
  const results = [
    libc.setresuid(KEEP_ID, 0, KEEP_ID),
    libc.setgroups(BigInt(list.length), list),
    libc.setresgid(gid, gid, KEEP_ID),
    libc.setresuid(uid, uid, 0), // the saved one leads back
  ];
  if (results.some((result) => result !== 0)) throw new Error(`cannot become ${uid}:${gid}`);
}
