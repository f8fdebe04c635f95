/** Sticky directories: who may remove or replace whose files. */

import { make, octal, pairs, type Type, TYPES, uid } from "../build.ts";
import type { Case, Topic, User } from "../script.ts";

const ACTORS = ["root", "owner", "member", "other"] as const satisfies readonly User[];
const HOLDERS = ["root", "owner", "other"] as const satisfies readonly User[];
const CALLS = [
  "REMOVE d/x",
  "rename d/x d/y",
  "rename d/x out",
  "rename own d/x",
  "renameat2 own d/x RENAME_EXCHANGE",
  "renameat2 d/x own RENAME_EXCHANGE",
  "link d/x d/y",
] as const;

function caseOf(
  call: string,
  type: Type,
  mode: number,
  who: readonly [User, User, User],
): Case {
  const [actor, holder, owner] = who;
  return {
    name: `${actor}; ${type} of ${owner} in ${octal(mode)} of ${holder}`,
    lines: [
      "+root mkdir d 0777",
      ...make(type, "d/x", owner),
      ...(call.includes("own") ? make(type, "own", actor) : []),
      `+root chown d ${uid(holder)} ${uid(holder)}`,
      `+root chmod d ${octal(mode)}`,
      `${actor} ${call.replace("REMOVE", type === "dir" ? "rmdir" : "unlink")}`,
      "root list d",
    ],
  };
}

/** What the kernel does not follow or open in directories that all may write is its own affair, but an equal one. */
const protectedNames: Case[] = pairs(ACTORS, HOLDERS).flatMap(([actor, owner]) => [
  {
    name: `${actor} follows a symlink of ${owner} in a sticky directory`,
    lines: [
      "+root mkdir d 0777",
      "+root chmod d 01777",
      "+root mknod t S_IFREG|0666",
      `+${owner} symlink ../t d/s`,
      `${actor} open f d/s O_RDWR`,
      `${actor} open f d/s O_RDWR|O_CREAT 0666`,
    ],
  },
  {
    name: `${actor} opens with O_CREAT what is ${owner}'s in a sticky directory`,
    lines: [
      "+root mkdir d 0777",
      "+root chmod d 01777",
      ...make("file", "d/f", owner, "0666"),
      ...make("fifo", "d/q", owner, "0666"),
      `${actor} open f d/f O_RDWR|O_CREAT 0666`,
      `${actor} open f d/q O_RDWR|O_CREAT 0666`,
    ],
  },
]);

export const sticky: Topic = {
  name: "sticky directories",
  cases: [
    ...pairs(pairs(CALLS, TYPES), pairs(pairs(ACTORS, HOLDERS), HOLDERS))
      // The kernel looks at neither type nor call but for removing and replacing.
      .filter(([[call, type]]) => type === "file" || /^(REMOVE|rename own)/.test(call))
      .flatMap(([[call, type], [[actor, holder], owner]]) =>
        (type === "file" && call.startsWith("REMOVE") ? [0o1777, 0o777] : [0o1777]).map((mode) =>
          caseOf(call, type, mode, [actor, holder, owner])
        )
      ),
    ...protectedNames,
  ],
};
