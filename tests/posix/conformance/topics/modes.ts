/** Modes and owners: of what is made (umask, setgid directories), by chmod and chown, and what takes setuid and setgid away. */

import { CLASSES, gid, make, octal, pairs, TYPES, uid } from "../build.ts";
import type { Case, Line, Topic, User } from "../script.ts";

const MAKERS = [
  "open f x O_RDWR|O_CREAT|O_EXCL MODE",
  "mkdir x MODE",
  "mknod x S_IFREG|MODE",
  "mknod x S_IFIFO|MODE",
  "mknod x S_IFSOCK|MODE",
  "symlink target x",
  "bind x",
] as const;
const MODES = [0, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o2745, 0o1777, 0o7777] as const;
const UMASKS = [0, 0o022, 0o077, 0o777] as const;

/** Directories in which something is made: mode, owner and group. */
const PLACES: readonly Line[][] = [
  ["+root mkdir d 0777"],
  ["+root mkdir d 0777", "+root chown d 1001 1001", "+root chmod d 02777"],
  ["+root mkdir d 0777", "+root chown d 0 0", "+root chmod d 02777"],
  ["+root mkdir d 0777", "+root chown d 0 1005", "+root chmod d 03777"],
];

const made: Case[] = pairs(pairs(MAKERS, UMASKS), pairs(PLACES, ["owner", "member", "root"] as const)).filter(
  (
    [[maker, umask]],
  ) => umask === 0o022 || /^(open|mkdir)/.test(maker),
).map(
  ([[maker, umask], [place, user]]) => ({
    name: `made by ${user}, umask ${octal(umask)}, in ${place.at(-1)}`,
    lines: [
      ...place,
      "+root chdir d",
      `root umask ${octal(umask)}`,
      ...(maker.includes("MODE") ? MODES : [0]).flatMap((mode, i) => [
        `${user} ${maker.replace("MODE", octal(mode)).replace("x", `x${i}`)}`,
        `root lstat x${i}`,
      ]),
    ],
  }),
);

const CHMODS = [0, 0o644, 0o1777, 0o2755, 0o2745, 0o4711, 0o6777, 0o7777] as const;

const chmods: Case[] = [
  ...pairs(pairs(TYPES, [...CLASSES, "root"] as const), ["chmod", "fchmodat2"]).map((
    [[type, user], call],
  ): Case => ({
    name: `chmod by ${user} of owner's ${type}`,
    lines: [
      ...make(type, "x", "owner"),
      ...(user === "owner" || user === "root" ? CHMODS : [0o600, 0o6777]).flatMap((mode) => [
        `${user} ${call} x ${octal(mode)}${call === "chmod" ? "" : " AT_SYMLINK_NOFOLLOW"}`,
        "root lstat x",
      ]),
    ],
  })),
  // Setgid is only for members of the file's group.
  ...pairs(["file", "dir"] as const, ["owner", "member", "other", "root"] as const).flatMap(([type, user]) =>
    [0, 1001, 1005, 1004, 4242].map((group): Case => ({
      name: `chmod by ${user} of its ${type} in group ${group}`,
      lines: [
        ...make(type, "x"),
        `+root chown x ${uid(user)} ${group}`,
        ...CHMODS.flatMap((mode) => [`${user} chmod x ${octal(mode)}`, "root lstat x"]),
      ],
    }))
  ),
];

const OWNERS = [[-1, -1], [1001, -1], [-1, 1001], [1002, -1], [-1, 1005], [-1, 4242], [1002, 1001], [
  0,
  0,
]] as const;

const chowns: Case[] = pairs(
  pairs(TYPES, ["owner", "member", "other", "root"] as const),
  ["chown", "lchown"] as const,
)
  .map(([[type, user], call]): Case => ({
    name: `${call} by ${user} of its ${type}`,
    lines: OWNERS.flatMap(([owner, group], i) => [
      ...make(type, `x${i}`, user),
      ...(type === "symlink" ? [] : [`+root chmod x${i} 06755`]),
      `${user} ${call} x${i} ${owner} ${group}`,
      `root lstat x${i}`,
    ]),
  }));

/** What a change of owner leaves of setuid and setgid. */
const cleared: Case[] = pairs(["file", "dir", "fifo"] as const, ["owner", "root"] as const).flatMap((
  [type, user],
) =>
  [0o4755, 0o2755, 0o2745, 0o6777, 0o6644, 0o1777].map((mode): Case => ({
    name: `${octal(mode)} ${type} of owner, changed by ${user}`,
    lines: [[-1, -1], [1001, -1], [-1, 1001], [1002, -1], [-1, 1005]].flatMap(([owner, group], i) => [
      ...make(type, `x${i}`, "owner"),
      `+root chmod x${i} ${octal(mode)}`,
      `${user} chown x${i} ${owner} ${group}`,
      `root lstat x${i}`,
    ]),
  }))
);

/** Writers: what each leaves of the mode. */
const WRITES = [
  "write f text",
  "pwrite f text 3",
  "write f EMPTY",
  "ftruncate f 0",
  "ftruncate f 4",
  "ftruncate f 100",
  "truncate x 0",
  "truncate x 4",
  "open g x O_WRONLY|O_TRUNC",
  "open g x O_RDWR|O_CREAT|O_TRUNC 0644",
  "fallocate f 0 0 100",
  "fallocate f FALLOC_FL_KEEP_SIZE 0 100",
  "fallocate f FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE 0 2",
  "fallocate f FALLOC_FL_ZERO_RANGE 0 2",
  "store f text 0",
  "copy from 0 f 0 4 0",
  "sendfile f from 4",
  "utimensat x now now",
  "link x y",
  "rename x y",
] as const;

function writing(user: User, write: string, mode: number, group = gid("owner")): Case {
  return {
    name: `${write} by ${user} on ${octal(mode)} of group ${group}`,
    lines: [
      "+root open from from O_RDWR|O_CREAT 0644",
      "+root write from source",
      "+owner open w x O_RDWR|O_CREAT 0777",
      "+owner write w text",
      `+root chown x -1 ${group}`,
      `+root chmod x ${octal(mode)}`,
      "+root link x z",
      `+${user} open f x O_RDWR`,
      `${user} ${write}`,
      "root stat z",
      "root fstat f",
    ],
  };
}

const writes: Case[] = pairs(pairs(WRITES, ["owner", "member", "other", "root"] as const), [
  0o4777,
  0o2777,
  0o6777,
  0o6767,
]).filter(([[write, user]]) => !(write.startsWith("link") && user !== "owner" && user !== "root"))
  .map(([[write, user], mode]) => writing(user, write, mode));

/** Group 0 is nobody's who has no groups. */
const rootsGroup = pairs(
  ["write f text", "ftruncate f 4", "fallocate f 0 0 100"],
  ["owner", "member"] as const,
)
  .map(([write, user]) => writing(user, write, 0o6767, 0));

export const modes: Topic = { name: "modes", cases: [...made, ...chmods] };
export const owners: Topic = { name: "owners", cases: [...chowns, ...cleared] };
export const privileges: Topic = {
  name: "setuid and setgid after a write",
  cases: [...writes, ...rootsGroup],
};
