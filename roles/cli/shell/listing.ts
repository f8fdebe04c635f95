/** What `ls -l` and `stat` show of files. */

import type { FileAttributes } from "../../mount/client.ts";

const TYPES = "?pc?d?b?-?l?s???";

/** As `ls -l`: drwxr-xr-x. */
export function modeText(mode: number): string {
  const triple = (shift: number, special: number, letter: string) => {
    const bits = (mode >> shift) & 7;
    const isExecutable = (bits & 1) !== 0;
    const isSpecial = (mode & special) !== 0;
    const last = isSpecial ? (isExecutable ? letter : letter.toUpperCase()) : isExecutable ? "x" : "-";
    return `${bits & 4 ? "r" : "-"}${bits & 2 ? "w" : "-"}${last}`;
  };
  const type = TYPES[(mode >> 12) & 15];
  return `${type}${triple(6, 0o4000, "s")}${triple(3, 0o2000, "s")}${triple(0, 0o1000, "t")}`;
}

export interface Entry {
  readonly name: string;
  readonly attributes: FileAttributes;
  /** Of a symbolic link. */
  readonly target: string | undefined;
}

/** As `ls -ln --time-style=long-iso`, a line each. */
export function longLine(entries: readonly Entry[]): string[] {
  const rows = entries.map(({ name, attributes, target }) => {
    const { mode, nlink, uid, gid, mtime } = attributes;
    const cells = [modeText(mode), String(nlink), String(uid), String(gid), sizeOf(attributes)];
    return { cells, rest: `${minute(mtime.seconds)} ${name}${target === undefined ? "" : ` -> ${target}`}` };
  });
  const widths = [0, 1, 2, 3, 4].map((i) => Math.max(0, ...rows.map(({ cells }) => cells[i]!.length)));
  return rows.map(({ cells, rest }) =>
    `${cells.map((cell, i) => cell.padStart(widths[i]!)).join(" ")} ${rest}`
  );
}

/** Of devices their number. makedev(3): Linux's 32-bit encoding. */
function sizeOf({ mode, size, rdev }: FileAttributes): string {
  const type = TYPES[(mode >> 12) & 15];
  if (type !== "c" && type !== "b") return String(size);
  return `${(rdev >>> 8) & 0xfff}, ${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`;
}

function minute(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${
    two(date.getMinutes())
  }`;
}

/** A line `KEY: VALUE` each. */
export function statText(path: string, attributes: FileAttributes, target: string | undefined): string {
  const { ino, size, blocks, mode, nlink, uid, gid, atime, mtime, ctime, btime } = attributes;
  const time = ({ seconds, nanoseconds }: { seconds: number; nanoseconds: number }) =>
    `${new Date(seconds * 1000).toISOString().slice(0, 19)}.${String(nanoseconds).padStart(9, "0")}Z`;
  return [
    `path: ${path}${target === undefined ? "" : ` -> ${target}`}`,
    `inode: ${ino}`,
    `mode: ${modeText(mode)} (${(mode & 0o7777).toString(8).padStart(4, "0")})`,
    `links: ${nlink}`,
    `owner: ${uid}:${gid}`,
    `size: ${size}`,
    `allocated: ${blocks * 512}`,
    `accessed: ${time(atime)}`,
    `modified: ${time(mtime)}`,
    `changed: ${time(ctime)}`,
    `created: ${time(btime)}`,
  ].join("\n");
}
