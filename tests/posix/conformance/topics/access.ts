/** access(2), chmod and friends by class; programs. */

import { CLASSES, gid, make, modeFor, octal, pairs, TYPES, uid } from "../build.ts";
import type { Case, Line, Topic } from "../script.ts";

const BITS = [0, 1, 2, 3, 4, 5, 6, 7] as const;

const checks: Case[] = [
  ...pairs(pairs([...CLASSES, "root"] as const, BITS), TYPES.filter((type) => type !== "symlink")).map(
    ([[user, bits], type]): Case => ({
      name: `${user}, ${type} of ${octal(modeFor(user, bits))}`,
      lines: [
        ...make(type, "x", "owner"),
        `+root chmod x ${octal(modeFor(user, bits))}`,
        ...["F_OK", "R_OK", "W_OK", "X_OK", "R_OK|W_OK|X_OK", "8"].map((mode) => `${user} access x ${mode}`),
        `${user} faccessat2 x R_OK|W_OK AT_EACCESS`,
      ],
    }),
  ),
  // Without any x, root has none of a file either.
  ...[0, 0o666, 0o100, 0o010, 0o001].map((mode): Case => ({
    name: `root, ${octal(mode)}`,
    lines: [
      ...make("file", "x"),
      ...make("dir", "d"),
      `+root chmod x ${octal(mode)}`,
      `+root chmod d ${octal(mode)}`,
      "root access x X_OK",
      "root access x R_OK|W_OK",
      "root access d X_OK",
      "root chdir d",
    ],
  })),
];

const programs: Case[] = [
  ...pairs([...CLASSES, "root"] as const, [0o000, 0o444, 0o555, 0o111, 0o700, 0o710, 0o701, 0o666]).map(
    ([user, mode]): Case => ({
      name: `${user} runs owner's program of ${octal(mode)}`,
      lines: [
        "+root install x 0755",
        `+root chown x ${uid("owner")} ${gid("owner")}`,
        `+root chmod x ${octal(mode)}`,
        `${user} exec x`,
        `${user} access x X_OK`,
      ],
    }),
  ),
  ...pairs(["owner", "other", "root"] as const, [0o4755, 0o2755, 0o6755, 0o2745, 0o4644]).map((
    [user, mode],
  ): Case => ({
    name: `${user} runs member's program of ${octal(mode)}`,
    lines: [
      "+root install x 0755",
      `+root chown x ${uid("member")} ${gid("member")}`,
      `+root chmod x ${octal(mode)}`,
      `${user} exec x`,
    ],
  })),
  {
    name: "a program that is open for writing, and others",
    lines: [
      "+root install x 0755",
      "+root open w x O_WRONLY",
      "root exec x",
      "root close w",
      "root exec x",
      "root truncate x 0",
      "root exec x",
      "root exec .",
      "+root mknod q S_IFIFO|0777",
      "root exec q",
      "+root symlink x s",
      "root exec s",
      "+root open t t O_WRONLY|O_CREAT 0755",
      "root write t text",
      "root close t",
      "root exec t",
    ],
  },
];

/** What can't be done to a program while it runs, and what can. */
const running: Case[] = [
  "truncate x 3",
  "truncate x 0",
  "open f x O_RDONLY",
  "open f x O_WRONLY",
  "open f x O_RDWR",
  "open f x O_WRONLY|O_TRUNC",
  "open f x O_RDONLY|O_TRUNC",
  "open f x O_RDWR|O_CREAT|O_TRUNC 0755",
  "open f x O_WRONLY|O_APPEND",
  "open f x 3",
  "open f link O_WRONLY",
  "open f symlink O_WRONLY",
  "access x W_OK",
  "chmod x 0644",
  "chown x 1001 1001",
  "utimensat x 1 2",
  "setxattr x user.a b 0",
  "link x y",
  "rename x y",
  "rename other x",
  "unlink x",
  "exec x",
].map((call): Case => ({
  name: `${call} while it runs`,
  lines: [
    "+root install x 0755",
    "+root link x link",
    "+root symlink x symlink",
    "+root mknod other S_IFREG|0644",
    "+root run p x",
    `root ${call}`,
    "root list .",
    "root open w link O_RDWR",
    "+root stop p",
    "root open w link O_RDWR",
    "root run q link",
    "root ftruncate w 10",
    "root close w",
    "root exec link",
  ],
}));

const METADATA = [
  "chmod x 0600",
  "chown x -1 -1",
  "chown x -1 1001",
  "chown x 1001 -1",
  "utimensat x 1 2",
  "utimensat x now now",
  "truncate x 3",
  "setxattr x user.a b 0",
  "getxattr x user.have",
  "listxattr x",
  "removexattr x user.have",
  "setxattr x trusted.a b 0",
  "getxattr x trusted.have",
  "setxattr x security.a b 0",
  "getxattr x security.have",
] as const;

/** Attributes belong to the owner, extended ones to whoever may read or write the file. */
const attributes: Case[] = pairs(pairs([...CLASSES, "root"] as const, [0, 4, 6, 7]), ["file", "dir"] as const)
  .map(
    ([[user, bits], type]): Case => ({
      name: `${user}, ${type} of ${octal(modeFor(user, bits))}`,
      lines: METADATA.flatMap((call, i): Line[] => [
        ...make(type, `x${i}`, "owner"),
        ...["user.have", "trusted.have", "security.have"].filter((name) =>
          call.includes(name) || call.startsWith("list")
        )
          .map((name) => `+root setxattr x${i} ${name} value 0`),
        `+root chmod x${i} ${octal(modeFor(user, bits))}`,
        `${user} ${call.replace(/ x( |$)/, ` x${i}$1`)}`,
      ]),
    }),
  );

export const access: Topic = { name: "access", cases: [...checks, ...programs, ...running] };
export const metadata: Topic = { name: "metadata", cases: attributes };
