/** Path resolution: what each call says of paths that are too long, lead nowhere, into files, in circles, or end oddly. */

import { make, pairs } from "../build.ts";
import type { Case, Line, Topic } from "../script.ts";

/** Calls with a path at P. */
const CALLS = [
  "mkdir P 0755",
  "rmdir P",
  "unlink P",
  "unlinkat . P AT_REMOVEDIR",
  "mknod P S_IFIFO|0644",
  "mknod P S_IFREG|0644",
  "mknod P S_IFCHR|0644 1 3",
  "open f P O_RDONLY",
  "open f P O_RDONLY|O_DIRECTORY",
  "open f P O_RDONLY|O_NOFOLLOW",
  "open f P O_PATH",
  "open f P O_RDWR|O_CREAT 0644",
  "open f P O_RDWR|O_CREAT|O_EXCL 0644",
  "symlink target P",
  "link P new",
  "linkat . P . new AT_SYMLINK_FOLLOW",
  "link source P",
  "rename P new",
  "rename source P",
  "rename sourcedir P",
  "renameat2 source P RENAME_NOREPLACE",
  "renameat2 source P RENAME_EXCHANGE",
  "chmod P 0600",
  "chown P 7 8",
  "lchown P 7 8",
  "truncate P 3",
  "utimensat P 10 20",
  "utimensat P 10 20 AT_SYMLINK_NOFOLLOW",
  "access P F_OK",
  "access P R_OK|W_OK|X_OK",
  "stat P",
  "lstat P",
  "readlink P",
  "chdir P",
  "getxattr P user.x",
  "lgetxattr P user.x",
  "setxattr P user.x value 0",
  "removexattr P user.x",
  "statfs P",
  "exec P",
] as const;

const FILE = "+root mknod f0 S_IFREG|0644";
const DIR = "+root mkdir d0 0755";
const LOOP = ["+root symlink loop1 loop2", "+root symlink loop2 loop1"];
const NOWHERE = "+root symlink nowhere s0";
const TO_FILE = [FILE, "+root symlink f0 s0"];
const TO_DIR = [DIR, "+root symlink d0 s0"];

function chain(links: number): string[] {
  return [
    FILE,
    ...Array.from({ length: links }, (_, i) => `+root symlink ${i === 0 ? "f0" : `c${i}`} c${i + 1}`),
  ];
}

/** Fifteen directories with names of 255 bytes: what is in the last one may be 255 bytes long up to PATH_MAX. */
const DEEP = Array.from({ length: 15 }, (_, i) => `+root mkdir ${"{d*255}/".repeat(i + 1)} 0755`);
const LAST = "{d*255}/".repeat(15);

interface Path {
  readonly path: string;
  readonly setup?: readonly Line[];
}

const PATHS: readonly Path[] = [
  { path: "{n*255}" },
  { path: "{n*255}", setup: ["+root mknod {n*255} S_IFREG|0644"] },
  { path: "{n*256}" },
  { path: "{n*256}/x" },
  { path: "missing/{n*256}" },
  // PATH_MAX is 4096 with the null.
  { path: "{./*2047}x" },
  { path: "{./*2047}f0", setup: [FILE] },
  { path: "{./*2046}f0", setup: [FILE] },
  { path: "{./*2048}x" },
  { path: "{x*5000}" },
  { path: `${LAST}{n*255}`, setup: DEEP },
  { path: `${LAST}{n*255}`, setup: [...DEEP, `+root mknod ${LAST}{n*255} S_IFREG|0644`] },
  { path: `./${LAST}{n*254}`, setup: DEEP },
  { path: `${LAST}{n*254}/`, setup: [...DEEP, `+root mkdir ${LAST}{n*254} 0755`] },
  { path: "missing" },
  { path: "missing/x" },
  { path: "missing/" },
  { path: "f0", setup: [FILE] },
  { path: "f0/", setup: [FILE] },
  { path: "f0/x", setup: [FILE] },
  { path: "f0/.", setup: [FILE] },
  ...(["fifo", "block", "char", "socket"] as const).map((type) => ({
    path: "q0/x",
    setup: make(type, "q0"),
  })),
  { path: "d0", setup: [DIR] },
  { path: "d0/", setup: [DIR] },
  { path: "d0/.", setup: [DIR] },
  { path: "d0/..", setup: [DIR] },
  { path: "d0//x", setup: [DIR] },
  { path: "d0", setup: [DIR, "+root mkdir d0/x 0755"] },
  { path: "d0/x/..", setup: [DIR, "+root mkdir d0/x 0755"] },
  { path: "." },
  { path: ".." },
  { path: "/" },
  { path: "EMPTY" },
  { path: "BAD" },
  { path: "loop1", setup: LOOP },
  { path: "loop1/x", setup: LOOP },
  { path: "loop1/", setup: LOOP },
  { path: "s0", setup: [NOWHERE] },
  { path: "s0/", setup: [NOWHERE] },
  { path: "s0/x", setup: [NOWHERE] },
  { path: "s0", setup: TO_FILE },
  { path: "s0/", setup: TO_FILE },
  { path: "s0/x", setup: TO_FILE },
  { path: "s0", setup: TO_DIR },
  { path: "s0/", setup: TO_DIR },
  { path: "s0/x", setup: TO_DIR },
  { path: "s0/.", setup: TO_DIR },
  { path: "c40", setup: chain(40) },
  { path: "c41", setup: chain(41) },
  { path: "\\xff\\xfe\\x80", setup: ["+root mknod \\xff\\xfe\\x80 S_IFREG|0644"] },
  { path: "a\\sb\\nc", setup: ["+root mkdir a\\sb\\nc 0755"] },
];

/** They change nothing, and can follow each other; "/" can be asked for them, though what it is made of is the machine's. */
const HARMLESS =
  /^(open f P O_RDONLY|open f P O_PATH|access|stat|lstat|readlink|getxattr|lgetxattr|statfs|exec)/;
const TELLS = /^(stat|lstat|statfs)/;
/** They would change what does not belong to the case: its parent directory. */
const CHANGES = /^(chmod|chown|lchown|utimensat|setxattr|removexattr)/;

function isForeign({ path }: Path): boolean {
  return path === "/" || path === "..";
}

function isMeant(call: string, where: Path): boolean {
  if (isForeign(where) && TELLS.test(call)) return false;
  if (where.path === "/") return false;
  return !(where.path === "." || where.path === "..") || !CHANGES.test(call);
}

function lookedAt(where: Path): Case {
  const calls = CALLS.filter((call) => HARMLESS.test(call) && !(isForeign(where) && TELLS.test(call)));
  return {
    name: "looking",
    lines: [
      ...(where.setup ?? []),
      ...calls.map((call) => `root ${call.replace("P", where.path)}`),
      ...(isForeign(where) ? [] : ["root list ."]),
    ],
  };
}

function changed([call, where]: [string, Path]): Case {
  const needsSource = /\b(source|sourcedir)\b/.test(call);
  const source = needsSource ? ["+root mknod source S_IFREG|0644", "+root mkdir sourcedir 0755"] : [];
  return {
    name: "changing",
    lines: [
      ...(where.setup ?? []),
      ...source,
      `root ${call.replace("P", where.path)}`,
      ...(isForeign(where) || call.startsWith("chdir") ? [] : ["root list ."]),
    ],
  };
}

/** Chains of symlinks are long to make. */
const CHAIN = /^c4[01]$/;
const FOLLOWS = /^(open f P O_RDWR\|O_CREAT 0644|chmod|truncate|unlink P|linkat)/;

export const paths: Topic = {
  name: "paths",
  cases: [
    ...PATHS.map(lookedAt),
    ...pairs(CALLS.filter((call) => !HARMLESS.test(call)), PATHS)
      .filter(([call, where]) => isMeant(call, where) && (!CHAIN.test(where.path) || FOLLOWS.test(call)))
      .map(changed),
  ],
};
