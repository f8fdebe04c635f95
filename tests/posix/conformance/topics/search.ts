/** Permission to search and to change a directory, by class of the caller: owner, group, supplementary group, others. */

import { CLASSES, gid, modeFor, octal, pairs, uid } from "../build.ts";
import type { Case, Line, Topic, User } from "../script.ts";

/** Calls on what is in the directory d: f is a file, e an empty directory, s a symlink to f; "user" is who calls. */
const CALLS = [
  "open x d/f O_RDONLY",
  "open x d/f O_PATH",
  "open x d/new O_RDWR|O_CREAT 0644",
  "open x d/f O_RDWR|O_CREAT 0644",
  "open x d O_RDONLY|O_DIRECTORY",
  "mkdir d/new 0755",
  "mknod d/new S_IFIFO|0644",
  "mknod d/new S_IFSOCK|0644",
  "symlink f d/new",
  "link own d/new",
  "link d/f new",
  "unlink d/f",
  "rmdir d/e",
  "rename own d/new",
  "rename own d/f",
  "rename d/f new",
  "rename d/e new",
  "renameat2 own d/f RENAME_EXCHANGE",
  "stat d/f",
  "lstat d/s",
  "lstat d/missing",
  "readlink d/s",
  "chmod d/f 0600",
  "truncate d/f 3",
  "utimensat d/f 1 2",
  "access d/f F_OK",
  "access d R_OK",
  "access d W_OK",
  "access d X_OK",
  "faccessat2 d R_OK|W_OK|X_OK AT_EACCESS",
  "chdir d",
  "list d",
  "getxattr d/f user.x",
  "bind d/new",
  "exec d/f",
] as const;

const BITS = [0, 1, 2, 3, 4, 5, 6, 7] as const;
/** They change nothing, and can follow each other. */
const HARMLESS =
  /^(open x d\/f O_RDONLY|open x d\/f O_PATH|open x d O|stat|lstat|readlink|access|faccessat2|list|getxattr|exec)/;

function caseOf(calls: readonly string[], user: User, bits: number): Case {
  const text = ` ${calls.join(" ")} `;
  const setup: Line[] = [
    "+root mkdir d 0777",
    ...(/d\/(f|s)/.test(text) ? [`+${user} mknod d/f S_IFREG|0777`] : []),
    ...(/d\/e/.test(text) ? [`+${user} mkdir d/e 0777`] : []),
    ...(/d\/s/.test(text) ? [`+${user} symlink f d/s`] : []),
    ...(/ own /.test(text) ? [`+${user} mknod own S_IFREG|0777`] : []),
    `+root chown d ${uid("owner")} ${gid("owner")}`,
    `+root chmod d ${octal(modeFor(user, bits))}`,
  ];
  return {
    name: `${user} in ${octal(modeFor(user, bits))}`,
    lines: [...setup, ...calls.map((call) => `${user} ${call}`)],
  };
}

const WHO: readonly [User, number][] = [...pairs(CLASSES, BITS), ["root", 0]];
const HARMFUL = CALLS.filter((call) => !HARMLESS.test(call));

export const search: Topic = {
  name: "search",
  cases: [
    ...WHO.map(([user, bits]) => caseOf(CALLS.filter((call) => HARMLESS.test(call)), user, bits)),
    ...pairs(WHO, HARMFUL).map(([[user, bits], call]) => caseOf([call], user, bits)),
  ],
};
