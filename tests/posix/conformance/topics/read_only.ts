/** A file system that is mounted read-only: what is made before, elsewhere, and what is said of it then. */

import { CLASSES, make, TYPES } from "../build.ts";
import type { Case, Topic, User } from "../script.ts";

/** <> is each of those that are there, and one that is not. */
const CALLS = [
  "open f <> O_RDONLY|O_NONBLOCK",
  "open f <> O_WRONLY|O_NONBLOCK",
  "open f <> O_RDWR|O_NONBLOCK",
  "open f <> O_RDONLY|O_TRUNC|O_NONBLOCK",
  "open f <> O_RDONLY|O_CREAT|O_NONBLOCK 0644",
  "open f <> O_RDWR|O_CREAT|O_NONBLOCK 0644",
  "open f <> O_RDWR|O_CREAT|O_EXCL 0644",
  "open f <> O_RDWR|O_TMPFILE 0644",
  "open f <> O_PATH",
  "open f <> 3|O_NONBLOCK",
  "mkdir <> 0755",
  "mkdir <>/new 0755",
  "mknod <> S_IFREG|0644",
  "mknod <> S_IFIFO|0644",
  "mknod <> S_IFCHR|0644 1 3",
  "symlink t <>",
  "bind <>",
  "link <> new",
  "link d <>",
  "link file <>",
  "unlink <>",
  "rmdir <>",
  "rename <> new",
  "rename <> <>",
  "rename file <>",
  "rename d <>",
  "renameat2 file <> RENAME_EXCHANGE",
  "renameat2 file <> RENAME_NOREPLACE",
  "chmod <> 0600",
  "fchmodat2 <> 0600 AT_SYMLINK_NOFOLLOW",
  "chown <> 7 8",
  "chown <> -1 -1",
  "lchown <> 7 8",
  "truncate <> 3",
  "truncate <> -1",
  "utimensat <> 1 2",
  "utimensat <> now now",
  "utimensat <> omit omit",
  "utimensat <> 1 2 AT_SYMLINK_NOFOLLOW",
  "access <> F_OK",
  "access <> R_OK",
  "access <> W_OK",
  "access <> X_OK",
  "setxattr <> user.a b 0",
  "lsetxattr <> trusted.a b 0",
  "lsetxattr <> user.a b 0",
  "removexattr <> user.a",
  "getxattr <> user.have",
  "listxattr <>",
  "lstat <>",
  "stat <>",
  "readlink <>",
] as const;

const PATHS = [
  ...TYPES,
  "d",
  "full",
  "missing",
  "tofile",
  "todir",
  "file/x",
  ".",
  "..",
  "{n*256}",
  "loop",
] as const;

/** By descriptors that were opened to be read. */
const BY_DESCRIPTOR = ["file", "dir"].flatMap((path) => [
  `+root open f ${path} O_RDONLY`,
  ...["root", "owner"].flatMap((user) => [
    `${user} fchmod f 0600`,
    `${user} fchown f 7 8`,
    `${user} futimens f 1 2`,
    `${user} ftruncate f 3`,
    `${user} fallocate f 0 0 10`,
    `${user} fsetxattr f user.a b 0`,
    `${user} fremovexattr f user.have`,
    `${user} setflags f i`,
    `${user} fsync f`,
    `${user} flock f LOCK_EX`,
    `${user} lock f F_SETLK F_RDLCK 0 0`,
    `${user} mmap f 4 PROT_READ|PROT_WRITE MAP_SHARED 0`,
    `${user} mmap f 4 PROT_READ MAP_SHARED 0`,
    `${user} linkat f EMPTY . new AT_EMPTY_PATH`,
    `${user} mkdirat f new 0755`,
    `${user} unlinkat f missing 0`,
    `${user} unlinkat f in AT_REMOVEDIR`,
  ]),
]);

const USERS: readonly User[] = ["root", ...CLASSES];

const made: Case[] = USERS.map((user): Case => ({
  name: user,
  lines: [
    ...TYPES.flatMap((type) => make(type, type, "owner")),
    "+root open f file O_WRONLY",
    "+root write f text",
    "+root setxattr file user.have value 0",
    "+root mkdir dir/in 0755",
    "+root mkdir d 0755",
    "+root mkdir full 0755",
    "+root mkdir full/in 0755",
    "+root symlink file tofile",
    "+root symlink dir todir",
    "+root symlink loop loop",
    "+root install program 0755",
  ],
}));

const asked: Case[] = USERS.map((user): Case => ({
  name: user,
  lines: [
    ...PATHS.flatMap((path) =>
      // Where the parent is not the case's, what it says is the machine's.
      CALLS.filter((call) => path !== ".." || !/^l?stat/.test(call)).map((call) =>
        `${user} ${call.replaceAll("<>", path)}`
      )
    ),
    ...BY_DESCRIPTOR,
    `${user} exec program`,
    "root list .",
    "root list dir",
  ],
}));

/** Cases of both have the same directories. */
export const readOnly: { readonly before: Topic; readonly after: Topic } = {
  before: { name: "read-only", cases: made },
  after: { name: "read-only", cases: asked },
};
