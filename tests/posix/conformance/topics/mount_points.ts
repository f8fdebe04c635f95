/** Names on which something is mounted, and calls from one file system to another. */

import type { Case, Line, Topic } from "../script.ts";

const CALLS = [
  "rmdir d/m",
  "unlink d/m",
  "rename d/m d/n",
  "rename d/e d/m",
  "rename d d2",
  "renameat2 d/m d/e RENAME_EXCHANGE",
  "renameat2 d/e d/m RENAME_EXCHANGE",
  "renameat2 d/e d/m RENAME_NOREPLACE",
  "mkdir d/m 0755",
  "rmdir d",
  // To the file system that is mounted there, and from it.
  "rename f d/m/f",
  "rename d/m/in f",
  "rename d/m/in new",
  "rename missing d/m/f",
  "rename d/e d/m/e",
  "rename f d/m/in",
  "renameat2 f d/m/in RENAME_EXCHANGE",
  "link f d/m/f",
  "link d/m/in g",
  "link d/e d/m/e",
  "link missing d/m/f",
  "symlink f d/m/s",
  "copy g 0 h 0 4 0",
  "rename f /proc/f",
  "link f /proc/f",
] as const;

const here: Case[] = CALLS.map((call): Case => ({
  name: call,
  lines: [
    "+root mkdir d 0755",
    "+root mkdir d/m 0755",
    "+root mkdir d/e 0755",
    "+root open g f O_RDWR|O_CREAT 0644",
    "+root write g text",
    "+root mount d/m",
    "+root open h d/m/in O_RDWR|O_CREAT 0644",
    `root ${call}`,
    "root list .",
    "root list d",
    "root list d/m",
    "root same d/m/.. d",
    "+root close h",
    ...["d/m", "d2/m"].map((path): Line => `root unmount ${path}`),
    "root list d/m",
    "root rmdir d/m",
  ],
}));

export const mountPoints: Topic = { name: "mount points", cases: here };
