/** flock(2) and fcntl(2) locks between processes and descriptors of one machine. */

import { pairs } from "../build.ts";
import type { Case, Line, Topic } from "../script.ts";

const BEGIN: Line[] = [
  "+root open f x O_RDWR|O_CREAT 0666",
  "+root write f {0*100}",
  "process p",
  "+p:root open f x O_RDWR",
];

const KINDS = ["F_RDLCK", "F_WRLCK"] as const;
const RANGES = ["0 0", "0 10", "5 10", "10 10", "20 0", "99 1"] as const;
const COMMANDS = [["F_SETLK", "F_GETLK"], ["F_OFD_SETLK", "F_OFD_GETLK"]] as const;

const conflicts: Case[] = pairs(pairs(KINDS, KINDS), pairs(RANGES, COMMANDS)).map(
  ([[mine, theirs], [range, [set, get]]]): Case => ({
    name: `${mine} and ${theirs}`,
    lines: [
      ...BEGIN,
      `root lock f ${set} ${mine} 0 10`,
      `p:root lock f ${get} ${theirs} ${range}`,
      `p:root lock f ${set} ${theirs} ${range}`,
      `root lock f ${get} F_WRLCK 0 0`,
      `root lock f ${set} F_UNLCK 0 0`,
      `p:root lock f ${set} ${theirs} ${range}`,
      `root lock f ${set} ${mine} 0 10`,
    ],
  }),
);

/** More than a mount may decide about by itself. */
const MANY = Array.from({ length: 300 }, (_, i) => i * 10);

const others: Case[] = [
  {
    name: "hundreds of locks on one file",
    lines: [
      ...BEGIN,
      ...MANY.map((start) => `root lock f F_SETLK F_WRLCK ${start} 5`),
      "p:root lock f F_GETLK F_WRLCK 2990 0",
      ...MANY.map((start) => `root lock f F_SETLK F_UNLCK ${start} 5`),
      "p:root lock f F_GETLK F_WRLCK 0 0",
      "p:root lock f F_SETLK F_WRLCK 0 0",
      "root lock f F_GETLK F_WRLCK 0 0",
    ],
  },
  {
    name: "waiting for a lock",
    lines: [
      ...BEGIN,
      "root lock f F_SETLK F_WRLCK 0 0",
      "&p:root lock f F_SETLKW F_WRLCK 0 0",
      "pending p",
      "root lock f F_SETLK F_UNLCK 0 0",
      "await p",
      "root lock f F_SETLK F_RDLCK 5 1",
      "root lock f F_GETLK F_RDLCK 5 1",
      "~root lock f F_SETLKW F_RDLCK 5 1",
      "p:root close f",
      "root lock f F_SETLK F_RDLCK 5 1",
    ],
  },
  {
    name: "ranges are split, joined and changed",
    lines: [
      ...BEGIN,
      "root lock f F_SETLK F_WRLCK 0 100",
      "root lock f F_SETLK F_UNLCK 40 20",
      "p:root lock f F_GETLK F_WRLCK 0 0",
      "p:root lock f F_GETLK F_WRLCK 40 20",
      "p:root lock f F_GETLK F_WRLCK 50 0",
      "root lock f F_SETLK F_RDLCK 10 10",
      "p:root lock f F_GETLK F_RDLCK 10 10",
      "p:root lock f F_SETLK F_RDLCK 10 10",
      "root lock f F_SETLK F_WRLCK 10 10",
      "p:root lock f F_SETLK F_UNLCK 10 10",
      "root lock f F_SETLK F_WRLCK 10 10",
      "p:root lock f F_GETLK F_WRLCK 0 30",
      "root lock f F_SETLK F_WRLCK 60 -10",
      "p:root lock f F_GETLK F_WRLCK 45 10",
      "root lock f F_SETLK F_WRLCK -10 5 SEEK_END",
      "p:root lock f F_GETLK F_WRLCK 85 20",
      "root lock f F_SETLK F_WRLCK -10 0 SEEK_SET",
      "root lock f F_SETLK 7 0 0",
    ],
  },
  {
    name: "a process's locks go with any close of the file",
    lines: [
      ...BEGIN,
      "root open g x O_RDONLY",
      "root lock f F_SETLK F_WRLCK 0 0",
      "p:root lock f F_GETLK F_WRLCK 0 0",
      "root close g",
      "p:root lock f F_SETLK F_WRLCK 0 0",
      "p:root close f",
      "root lock f F_OFD_SETLK F_WRLCK 0 0",
      "root open h x O_RDWR",
      "root lock h F_OFD_SETLK F_RDLCK 0 0",
      "root lock h F_SETLK F_RDLCK 0 0",
      "root dup e f",
      "root lock e F_OFD_SETLK F_RDLCK 0 10",
      "root close e",
      "root lock h F_OFD_SETLK F_WRLCK 5 1",
      "root lock h F_OFD_SETLK F_RDLCK 5 1",
      "root close f",
      "root lock h F_OFD_SETLK F_WRLCK 5 1",
    ],
  },
  {
    name: "flock",
    lines: [
      ...BEGIN,
      "root flock f LOCK_SH|LOCK_NB",
      "p:root flock f LOCK_SH|LOCK_NB",
      "root flock f LOCK_EX|LOCK_NB",
      "p:root flock f LOCK_UN",
      "root flock f LOCK_EX|LOCK_NB",
      "p:root flock f LOCK_SH|LOCK_NB",
      "root open g x O_RDONLY",
      "root flock g LOCK_SH|LOCK_NB",
      "root dup h f",
      "root flock h LOCK_EX|LOCK_NB",
      "root close f",
      "p:root flock f LOCK_SH|LOCK_NB",
      "&p:root flock f LOCK_EX",
      "pending p",
      "root close h",
      "await p",
      "root flock g LOCK_EX|LOCK_NB",
      "~root flock g LOCK_EX",
      "root flock g LOCK_UN",
      "root flock g 0",
      "root flock none LOCK_EX",
      // The other kind of lock knows nothing of it.
      "root lock g F_SETLK F_RDLCK 0 0",
    ],
  },
  {
    name: "locks need the right to read or write",
    lines: [
      "+root open r x O_RDONLY|O_CREAT 0644",
      "+root open w x O_WRONLY",
      "root lock r F_SETLK F_WRLCK 0 0",
      "root lock w F_SETLK F_RDLCK 0 0",
      "root lock r F_SETLK F_RDLCK 0 0",
      "root lock w F_SETLK F_WRLCK 0 0",
      "root flock r LOCK_EX|LOCK_NB",
      "root flock w LOCK_SH|LOCK_NB",
      "root open d . O_RDONLY",
      "root flock d LOCK_EX|LOCK_NB",
      "root lock d F_SETLK F_RDLCK 0 0",
    ],
  },
  {
    name: "a process that ends leaves none",
    lines: [
      ...BEGIN,
      "process q",
      "+q:root open f x O_RDWR",
      "q:root lock f F_SETLK F_WRLCK 0 0",
      "q:root flock f LOCK_EX",
      "root lock f F_SETLK F_WRLCK 0 0",
      "&p:root lock f F_SETLKW F_WRLCK 0 0",
      "pending p",
      "q:root close f",
      "await p",
    ],
  },
];

export const locks: Topic = { name: "locks", cases: [...conflicts, ...others] };
