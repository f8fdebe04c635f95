/** What the tables share: making files of each type, and combinations. */

import type { Line, User } from "./script.ts";

export const TYPES = ["file", "dir", "fifo", "block", "char", "socket", "symlink"] as const;
export type Type = (typeof TYPES)[number];
export const CLASSES = ["owner", "member", "group", "other"] as const satisfies readonly User[];

/** Makes something of a type; a symlink leads nowhere. It belongs to `user`. */
export function make(type: Type, name: string, user: User = "root", mode = "0644"): Line[] {
  switch (type) {
    case "file":
      return [`+${user} mknod ${name} S_IFREG|${mode}`];
    case "dir":
      return [`+${user} mkdir ${name} ${mode === "0644" ? "0755" : mode}`];
    case "fifo":
      return [`+${user} mknod ${name} S_IFIFO|${mode}`];
    case "socket":
      return [`+${user} mknod ${name} S_IFSOCK|${mode}`];
    case "block":
    case "char": {
      // 1:3 is /dev/null; of the block devices nobody has one with this number.
      const device = type === "char" ? `S_IFCHR|${mode} 1 3` : `S_IFBLK|${mode} 250 77`;
      const given = user === "root" ? [] : [`+root chown ${name} ${uid(user)} ${gid(user)}`];
      return [`+root mknod ${name} ${device}`, ...given];
    }
    case "symlink":
      return [`+${user} symlink nowhere ${name}`];
  }
}

const IDS: Readonly<Record<User, readonly [number, number]>> = {
  root: [0, 0],
  owner: [1001, 1001],
  member: [1002, 1002],
  group: [1003, 1001],
  other: [1004, 1004],
};

export function uid(user: User): number {
  return IDS[user][0];
}

export function gid(user: User): number {
  return IDS[user][1];
}

/** Octal, as the scripts have it. */
export function octal(mode: number): string {
  return `0${mode.toString(8).padStart(3, "0")}`;
}

/** A mode that gives `bits` to the class that `user` is in of a file of owner's, and everything to the others. */
export function modeFor(user: User, bits: number): number {
  const shift = user === "owner" || user === "root" ? 6 : user === "other" ? 0 : 3;
  return (0o777 & ~(7 << shift)) | (bits << shift);
}

/** Every combination of one of `a` and one of `b`. */
export function pairs<A, B>(a: readonly A[], b: readonly B[]): [A, B][] {
  return a.flatMap((x) => b.map((y): [A, B] => [x, y]));
}
