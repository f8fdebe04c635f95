/** rename(2) and renameat2(2): every type onto every type, and the special cases. */

import { make, pairs, type Type, TYPES } from "../build.ts";
import type { Case, Line, Topic } from "../script.ts";

const THINGS = ["missing", "full dir", "link to it", ...TYPES] as const;

function thing(what: (typeof THINGS)[number], name: string): Line[] {
  switch (what) {
    case "missing":
      return [];
    case "full dir":
      return [`+root mkdir ${name} 0755`, `+root mkdir ${name}/in 0755`];
    case "link to it":
      return ["+root mkdir target 0755", `+root symlink target ${name}`];
    default:
      return make(what as Type, name);
  }
}

const FLAGS = ["0", "RENAME_NOREPLACE", "RENAME_EXCHANGE"] as const;
/** Flags that there are none of, or that can't be together. */
const WRONG = ["RENAME_NOREPLACE|RENAME_EXCHANGE", "RENAME_WHITEOUT|RENAME_EXCHANGE", "8", "-1"] as const;

const matrix: Case[] = pairs(pairs(THINGS, THINGS), FLAGS).filter(([[a, b]]) => a !== b || a !== "link to it")
  .map(
    ([[from, to], flags]) => ({
      name: `${from} onto ${to}, flags ${flags}`,
      lines: [
        "+root mkdir p 0755",
        "+root mkdir q 0755",
        ...thing(from, "p/a"),
        ...thing(to, "q/b"),
        `root renameat2 p/a q/b ${flags}`,
        "root list p",
        "root list q",
        "root stat p",
        "root stat q",
        "root lstat p/a",
        "root lstat q/b",
      ],
    }),
  );

const special: Case[] = [
  {
    name: "wrong flags",
    lines: [
      "+root mknod a S_IFREG|0644",
      "+root mknod b S_IFREG|0644",
      ...WRONG.flatMap((flags) => [
        `root renameat2 a b ${flags}`,
        `root renameat2 a missing ${flags}`,
        `root renameat2 missing b ${flags}`,
        `root renameat2 a a ${flags}`,
      ]),
      "root list .",
    ],
  },
  {
    name: "into its own subtree",
    lines: [
      "+root mkdir a 0755",
      "+root mkdir a/b 0755",
      "+root mkdir a/b/c 0755",
      "root rename a a/b/c/d",
      "root rename a a/b/c",
      "root rename a a/x",
      "root rename a/b/c a",
      "root rename a/b a",
      "root renameat2 a a/b RENAME_EXCHANGE",
      "root renameat2 a/b/c a RENAME_EXCHANGE",
      "root renameat2 a a/x RENAME_NOREPLACE",
      "root rename a a",
      "root rename a/b a/b/",
      "root rename a/. x",
      "root rename a/b/.. x",
      "root rename x a/.",
      "root list a/b",
    ],
  },
  {
    name: "two names of one file",
    lines: [
      "+root mknod a S_IFREG|0644",
      "+root link a b",
      "root rename a b",
      "root list .",
      "root renameat2 a b RENAME_EXCHANGE",
      "root renameat2 a b RENAME_NOREPLACE",
      "root renameat2 a a RENAME_NOREPLACE",
      "root renameat2 a a RENAME_EXCHANGE",
      "root rename a a",
      "root stat a",
      "root rename a c",
      "root rename b c",
      "root list .",
      "root same b c",
    ],
  },
  {
    name: "over a file that is open",
    lines: [
      "+root open f b O_RDWR|O_CREAT 0644",
      "+root write f old",
      "+root open g a O_RDWR|O_CREAT 0644",
      "+root write g newer",
      "root rename a b",
      "root fstat f",
      "root fstat g",
      "root pread f 10 0",
      "root pwrite f more 3",
      "root pread f 10 0",
      "root fchmod f 0600",
      "root fstat f",
      "root fsetxattr f user.x v 0",
      "root fgetxattr f user.x",
      "root open h b O_RDONLY",
      "root read h 10",
      "root stat b",
      "root same b b",
    ],
  },
  {
    name: "over a directory that is open",
    lines: [
      "+root mkdir a 0755",
      "+root mkdir b 0755",
      "+root mkdir a/in 0755",
      "+root open d b O_RDONLY|O_DIRECTORY",
      "root rename a b",
      "root fstat d",
      "root openat f d x O_RDWR|O_CREAT 0644",
      "root mkdirat d x 0755",
      "root getdents d",
      "root list b",
      "root fchdir d",
      "root getcwd",
      "root list .",
      "root open f x O_RDWR|O_CREAT 0644",
    ],
  },
  {
    name: "trailing slashes",
    lines: [
      "+root mkdir d 0755",
      "+root mknod f S_IFREG|0644",
      "+root symlink d sd",
      "+root symlink f sf",
      "root rename f/ x",
      "root rename f x/",
      "root rename d/ e/",
      "root rename e/ d",
      "root rename sd/ x",
      "root rename d sd/",
      "root rename sf/ x",
      "root rename f d/",
      "root rename sd x",
      "root list .",
    ],
  },
  {
    name: "a directory and its parent's links",
    lines: [
      "+root mkdir a 0755",
      "+root mkdir b 0755",
      "+root mkdir a/x 0755",
      "+root mkdir b/y 0755",
      "+root mknod b/f S_IFREG|0644",
      "root rename a/x b/y",
      "root stat a",
      "root stat b",
      "root same b/y/.. b",
      "root renameat2 b/y b/f RENAME_EXCHANGE",
      "root stat b",
      "root renameat2 b/f a RENAME_EXCHANGE",
      "root renameat2 a b/f RENAME_EXCHANGE",
      "root stat b",
      "root stat a",
      "root list .",
    ],
  },
  {
    name: "a directory needs write permission of its own to get another parent",
    lines: [
      "+root mkdir p 0777",
      "+root mkdir q 0777",
      "+owner mkdir p/d 0555",
      "owner rename p/d p/e",
      "owner rename p/e q/e",
      "owner renameat2 p/e q/e RENAME_NOREPLACE",
      "+owner mkdir q/f 0777",
      "owner renameat2 p/e q/f RENAME_EXCHANGE",
      "+owner mkdir p/m 0777",
      "+owner mkdir q/n 0555",
      "owner renameat2 p/m q/n RENAME_EXCHANGE",
      "owner rename p/m q/n",
      "other rename p/e q/e",
      "root rename p/e q/e",
      "root list p",
      "root list q",
    ],
  },
  {
    name: "the working directory",
    lines: [
      "+root mkdir a 0755",
      "+root mkdir a/b 0755",
      "+root chdir a/b",
      "root rename ../../a ../../c",
      "root getcwd",
      "root mknod x S_IFREG|0644",
      "root list .",
      "root list ..",
      "root rename ../b ../d",
      "root getcwd",
      "root rename . x",
      "root rename x .",
      "root rename .. x",
      "root rmdir .",
      "root rmdir ../d",
      "root unlink x",
      "root rmdir ../d",
      "root list .",
      "root getcwd",
      "root mknod y S_IFREG|0644",
      "root mkdir y 0755",
      "root symlink t y",
      "root open f y O_RDWR|O_CREAT 0644",
      "root open f . O_RDWR|O_TMPFILE 0644",
      "root stat .",
      "root stat ..",
    ],
  },
];

export const renaming: Topic = { name: "renaming", cases: [...matrix, ...special] };
