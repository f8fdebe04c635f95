/** open(2): flags by type of file, and by permission. */

import { CLASSES, gid, make, modeFor, octal, pairs, TYPES, uid } from "../build.ts";
import type { Case, Line, Topic, User } from "../script.ts";

const ACCESS = ["O_RDONLY", "O_WRONLY", "O_RDWR"] as const;
const EXTRAS = [
  "",
  "|O_TRUNC",
  "|O_APPEND",
  "|O_CREAT",
  "|O_CREAT|O_EXCL",
  "|O_CREAT|O_TRUNC",
  "|O_DIRECTORY",
  "|O_DIRECTORY|O_CREAT",
  "|O_NOFOLLOW",
  "|O_NOFOLLOW|O_CREAT",
  "|O_PATH",
  "|O_PATH|O_NOFOLLOW",
  "|O_PATH|O_DIRECTORY",
  "|O_NOATIME",
  "|O_SYNC",
  "|O_DIRECT",
] as const;

/** Makes or cuts something, so that the next call would see another thing. */
const CHANGES = /O_CREAT|O_TRUNC/;
const KINDS = ["missing", "link to it", "link to dir", ...TYPES] as const;

function thing(kind: (typeof KINDS)[number]): readonly Line[] {
  switch (kind) {
    case "missing":
      return [];
    case "link to it":
      return ["+root mknod t S_IFREG|0644", "+root symlink t x"];
    case "link to dir":
      return ["+root mkdir t 0755", "+root symlink t x"];
    default:
      return make(kind, "x");
  }
}

const FLAG_SETS = pairs(ACCESS, EXTRAS).map((flags) => flags.join(""));

/** A fifo without its other end blocks, unless it is not to. */
function opens(kind: (typeof KINDS)[number], flags: string): Line[] {
  const nonblocking = kind === "fifo" && !flags.startsWith("O_RDWR") ? "|O_NONBLOCK" : "";
  return [
    `root open f x ${flags}${nonblocking} 0640`,
    ...(kind === "char" || kind === "block" ? [] : ["root list .", "root lstat x"]),
  ];
}

const byFlags: Case[] = KINDS.flatMap((kind) => [
  {
    name: kind,
    lines: [
      ...thing(kind),
      ...FLAG_SETS.filter((flags) => !CHANGES.test(flags)).flatMap((flags) => opens(kind, flags)),
    ],
  },
  ...FLAG_SETS.filter((flags) => CHANGES.test(flags)).map((flags) => ({
    name: kind,
    lines: [...thing(kind), ...opens(kind, flags)],
  })),
]);

const BITS = [0, 1, 2, 3, 4, 5, 6, 7] as const;
const FLAGS = [
  "O_RDONLY",
  "O_WRONLY",
  "O_RDWR",
  "O_RDONLY|O_TRUNC",
  "O_WRONLY|O_TRUNC",
  "O_WRONLY|O_APPEND",
  "O_RDONLY|O_CREAT",
  "O_RDWR|O_CREAT|O_TRUNC",
  "O_RDONLY|O_CREAT|O_EXCL",
  "O_RDONLY|O_NOATIME",
  "O_PATH",
  "O_RDONLY|O_DIRECTORY",
] as const;

function permitted(user: User, bits: number, flags: readonly string[]): Case {
  const mode = octal(modeFor(user, bits));
  return {
    name: `${user}, file of ${mode}`,
    lines: [
      "+root open w x O_WRONLY|O_CREAT 0644",
      "+root write w content",
      `+root chown x ${uid("owner")} ${gid("owner")}`,
      `+root chmod x ${mode}`,
      ...flags.flatMap((each) => [`${user} open f x ${each} 0600`, "root stat x"]),
    ],
  };
}

const PERSONS: readonly [User, number][] = [...pairs(CLASSES, BITS), ["root", 0]];
/** What cuts the file comes last. */
const byPermission: Case[] = PERSONS.flatMap(([user, bits]) => [
  permitted(user, bits, FLAGS.filter((flags) => !flags.includes("O_TRUNC"))),
  ...FLAGS.filter((flags) => flags.includes("O_TRUNC")).map((flags) => permitted(user, bits, [flags])),
]);

/** A descriptor's rights are those of its open(2), whatever becomes of the mode. */
const later: Case[] = [
  {
    name: "rights of a descriptor stay",
    lines: [
      "+owner open w x O_RDWR|O_CREAT 0644",
      "+owner chmod x 0000",
      "owner write w content",
      "owner pread w 10 0",
      "owner open f x O_RDONLY",
      "owner open f x O_WRONLY",
      "owner fchmod w 0444",
      "owner ftruncate w 3",
      "owner open f x O_RDONLY",
      "owner open g x O_WRONLY",
      "owner pread f 10 0",
    ],
  },
  {
    name: "a file that is made without rights can be written by its maker",
    lines: [
      "owner open w x O_RDWR|O_CREAT 0000",
      "owner write w content",
      "owner pread w 20 0",
      "owner open f x O_RDONLY",
      "owner open f x O_RDWR|O_CREAT 0600",
      "other open f x O_RDWR|O_CREAT 0600",
      "owner stat x",
    ],
  },
  {
    name: "reading and writing need the flags for it",
    lines: [
      "+root open r x O_RDONLY|O_CREAT 0644",
      "+root open w x O_WRONLY",
      "+root write w content",
      "+root open p x O_PATH",
      "+root open d . O_RDONLY",
      ...["r", "w", "p", "d"].flatMap((fd) => [
        `root read ${fd} 10`,
        `root pread ${fd} 10 0`,
        `root write ${fd} text`,
        `root pwrite ${fd} text 0`,
        `root ftruncate ${fd} 3`,
        `root fallocate ${fd} 0 0 10`,
        `root fsync ${fd}`,
        `root fdatasync ${fd}`,
        `root lseek ${fd} 0 SEEK_SET`,
        `root flock ${fd} LOCK_SH|LOCK_NB`,
        `root lock ${fd} F_SETLK F_RDLCK 0 0`,
        `root lock ${fd} F_SETLK F_WRLCK 0 0`,
        `root lock ${fd} F_SETLK F_UNLCK 0 0`,
        `root mmap ${fd} 10 PROT_READ MAP_SHARED 0`,
        `root mmap ${fd} 10 PROT_READ MAP_PRIVATE 0`,
        `root mmap ${fd} 10 PROT_READ|PROT_WRITE MAP_SHARED 0`,
        `root mmap ${fd} 10 PROT_READ|PROT_WRITE MAP_PRIVATE 0`,
        `root getfl ${fd}`,
        `root fgetxattr ${fd} user.x`,
        `root fsetxattr ${fd} user.x v 0`,
        `root futimens ${fd} 1 2`,
        `root fstat ${fd}`,
      ]),
      "root getdents r",
      "root getdents d",
      "root getdents d 20",
    ],
  },
  {
    name: "numbers that are no open file",
    lines: [
      "root read none 1",
      "root write none x",
      "root fstat none",
      "root ftruncate none 1",
      "root fchmod none 0644",
      "root fchown none 1 1",
      "root fsync none",
      "root lseek none 0 SEEK_SET",
      "root futimens none 1 1",
      "root fchdir none",
      "root openat f none x O_RDONLY",
      "root mkdirat none x 0755",
      "+root open f x O_RDONLY|O_CREAT 0644",
      "root openat g f y O_RDONLY",
      "root openat g f y O_RDONLY|O_CREAT 0644",
      "root mkdirat f y 0755",
      "root unlinkat f y 0",
      "root fchdir f",
      "root linkat f x . y 0",
    ],
  },
  {
    name: "a directory by descriptor",
    lines: [
      "+root mkdir d 0755",
      "+root open d d O_RDONLY|O_DIRECTORY",
      "+root open p d O_PATH|O_DIRECTORY",
      "root openat f d x O_RDWR|O_CREAT 0644",
      "root openat g p x O_RDONLY",
      "root mkdirat p e 0755",
      "root linkat d x p y 0",
      "root linkat f EMPTY . z AT_EMPTY_PATH",
      "owner linkat f EMPTY . w AT_EMPTY_PATH",
      "root list d",
      "root unlinkat d x 0",
      "root unlinkat d e 0",
      "root unlinkat d e AT_REMOVEDIR",
      "root unlinkat d y AT_REMOVEDIR",
      "root unlinkat d y 4096",
      "root list d",
      "+root rename d moved",
      "root openat h d z O_RDWR|O_CREAT 0644",
      "root list moved",
      "root fchdir d",
      "root list .",
    ],
  },
];

/** Neither to be read nor to be written, but with both permissions: the kernel's fourth way, for ioctl. */
const NEITHER = [
  "3",
  "3|O_CREAT",
  "3|O_TRUNC",
  "3|O_CREAT|O_EXCL",
  "3|O_DIRECTORY",
  "3|O_APPEND",
  "3|O_DIRECT",
] as const;
const neither: Case[] = [
  ...pairs(KINDS, NEITHER).map(([kind, flags]): Case => ({
    name: `${kind}, ${flags}`,
    lines: [
      ...thing(kind),
      `root open f x ${flags}|O_NONBLOCK 0640`,
      "root list .",
      ...(kind === "char" || kind === "block" ? [] : ["root lstat x"]),
    ],
  })),
  ...pairs(CLASSES, BITS).map(([user, bits]) => permitted(user, bits, ["3", "3|O_CREAT", "3|O_TRUNC"])),
  {
    name: "a descriptor for neither",
    lines: [
      "+root open w x O_RDWR|O_CREAT 0644",
      "+root write w content",
      "root open f x 3",
      "root read f 3",
      "root write f text",
      "root ftruncate f 2",
      "root fallocate f 0 0 100",
      "root fstat f",
      "root fsync f",
      "root fchmod f 0600",
      "root futimens f 1 2",
      "root fsetxattr f user.a b 0",
      "root lseek f 0 SEEK_END",
      "root lseek f 0 SEEK_DATA",
      "root flock f LOCK_EX",
      "root lock f F_SETLK F_RDLCK 0 0",
      "root mmap f 5 PROT_READ MAP_PRIVATE 0",
      "root getfl f",
      "root unlink x",
      "root fstat f",
    ],
  },
];

/** Types that are no regular files, by permission. */
const othersByPermission: Case[] = pairs(PERSONS, ["fifo", "dir", "char", "socket"] as const).map(
  ([[user, bits], type]): Case => ({
    name: `${user}, ${type} of ${octal(modeFor(user, bits))}`,
    lines: [
      ...make(type, "x", "owner"),
      `+root chmod x ${octal(modeFor(user, bits))}`,
      "+root open keep x O_PATH",
      ...[
        "O_RDONLY|O_NONBLOCK",
        "O_RDWR",
        "O_WRONLY|O_NONBLOCK",
        "O_RDONLY|O_NONBLOCK|O_TRUNC",
        "O_RDWR|O_TRUNC",
      ]
        .flatMap((flags) => [`${user} open f x ${flags}`, "root fstat keep"]),
    ],
  }),
);

const UNNAMED = [
  "O_RDWR",
  "O_WRONLY",
  "O_RDONLY",
  "O_RDWR|O_EXCL",
  "O_RDWR|O_CREAT",
  "O_RDWR|O_TRUNC",
  "O_RDWR|O_APPEND",
] as const;
const unnamed: Case[] = [
  ...pairs(KINDS, UNNAMED).map(([kind, flags]): Case => ({
    name: `O_TMPFILE in ${kind}, ${flags}`,
    lines: [...thing(kind), `root open f x ${flags}|O_TMPFILE 0640`, "root list ."],
  })),
  ...PERSONS.map(([user, bits]): Case => ({
    name: `O_TMPFILE by ${user} in owner's ${octal(modeFor(user, bits))}`,
    lines: [
      ...make("dir", "d", "owner"),
      `+root chmod d ${octal(modeFor(user, bits))}`,
      `${user} open f d O_RDWR|O_TMPFILE 0640`,
    ],
  })),
  ...pairs(["owner", "member", "other", "root"] as const, [0, 0o644, 0o6777, 0o2745]).map((
    [user, mode],
  ): Case => ({
    name: `what ${user} has made by O_TMPFILE, ${octal(mode)}`,
    lines: [
      "+root mkdir d 0777",
      "+root chown d -1 1005",
      "+root chmod d 03777",
      `+${user} open f d O_RDWR|O_TMPFILE ${octal(mode)}`,
      `${user} fstat f`,
      `${user} write f text`,
      `${user} fstat f`,
      `${user} fchmod f 04755`,
      `${user} ftruncate f 2`,
      `${user} fstat f`,
      "root linkat f EMPTY . x AT_EMPTY_PATH",
      "root lstat x",
      "root linkat f EMPTY . y AT_EMPTY_PATH",
      "root fstat f",
      "root unlink x",
      "root unlink y",
      "root fstat f",
      "root linkat f EMPTY . z AT_EMPTY_PATH",
    ],
  })),
];

export const opening: Topic = {
  name: "opening",
  cases: [...byFlags, ...byPermission, ...othersByPermission, ...later, ...neither, ...unnamed],
};
