/**
 * A child program: random operations on names and inodes, done to a tree on the mount and to one on a local disk
 * (ext4), and compared errno by errno; at the end the whole trees.
 *
 *     tree_exerciser.ts MOUNTED_DIR REFERENCE_DIR SEED OPERATIONS [--users] [--only LIST]
 *
 * --users: as root only; each operation runs as root or as one of two ordinary users with and without the other's
 * group. Exit code 1: a difference, told on stderr.
 *
 * Invariant: no path leaves `tree-SEED`, or the two sides would see different things there. Link targets climb at
 * most one level and only from their own directory; `..` in a path follows a name.
 */

import * as libc from "../../base/libc.ts";
import {
  type Acl,
  ACL_GROUP,
  ACL_GROUP_OBJ,
  ACL_MASK,
  ACL_OTHER,
  ACL_USER,
  ACL_USER_OBJ,
  encodeAcl,
} from "../../base/posix_acl.ts";
import { type Random, randomBytes, randomInt } from "../../base/random.ts";
import { ERRNO, errnoName } from "../../wire/errno.ts";
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import { chance, pick } from "../base/seeded.ts";
import { Journal, parseArguments, randomOf, weighted } from "./exerciser.ts";
import * as sys from "./system_calls.ts";

const S_IFCHR = 0o020000;
const S_IFIFO = 0o010000;
const S_IFSOCK = 0o140000;
/** Major 1, minor 3: /dev/null. */
const NULL_DEVICE = 0x103;
const SLOTS = 6;

const WEIGHTS = {
  create: 10,
  mkdir: 8,
  unlink: 9,
  rmdir: 6,
  rename: 8,
  rename2: 5,
  link: 5,
  symlink: 5,
  chmod: 4,
  chown: 4,
  lchown: 2,
  truncate: 4,
  stat: 4,
  list: 4,
  mknod: 4,
  readlink: 3,
  setXattr: 4,
  getXattr: 3,
  listXattrs: 3,
  removeXattr: 3,
  setAcl: 6,
  getAcl: 3,
  removeAcl: 1,
  utimes: 3,
  open: 4,
  access: 4,
  read: 4,
  hold: 5,
  heldRead: 3,
  heldWrite: 4,
  heldStat: 4,
  heldTruncate: 2,
  heldChmod: 2,
  drop: 2,
};

/** One of the two trees. */
interface Side {
  readonly root: string;
  /** Files that stay open; a slot is used on both sides or on none. */
  readonly held: (number | undefined)[];
}

/** What an operation does to a side, its arguments drawn already; its result is compared as JSON. */
interface Operation {
  readonly text: string;
  run(side: Side): unknown;
}

interface Identity {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

const ROOT: Identity = { uid: 0, gid: 0, groups: [] };
const IDENTITIES: readonly Identity[] = [
  ROOT,
  { uid: 1000, gid: 1000, groups: [] },
  { uid: 1000, gid: 1000, groups: [1001] },
  { uid: 1001, gid: 1001, groups: [] },
];

/** A negative number is an errno: its name. Other results as they are. */
function told(result: unknown): unknown {
  if (typeof result !== "number" || result >= 0) return result;
  const name = errnoName(-result);
  return ERRNO[name] === -result ? name : `errno ${-result}`;
}

function shown(status: number | sys.Status): unknown {
  if (typeof status === "number") return told(status);
  const { mode, nlink, uid, gid, size, rdev } = status;
  // How long a directory is says nothing, and `rdev` only something of a device.
  const isDirectory = (mode & S_IFMT) === S_IFDIR;
  return { mode: mode.toString(8), nlink, uid, gid, ...(isDirectory ? {} : { size, rdev }) };
}

function withFile<T>(path: string, flags: number, mode: number, use: (fd: number) => T): T | number {
  const fd = libc.open(path, flags | libc.O_NONBLOCK, mode);
  if (fd < 0) return fd;
  try {
    return use(fd);
  } finally {
    libc.close(fd);
  }
}

function contentOf(fd: number, length: number, offset = 0): unknown {
  const buffer = new Uint8Array(length);
  const count = libc.pread(fd, buffer, offset);
  return count < 0 ? told(count) : `${count}: ${buffer.subarray(0, count).toHex()}`;
}

// ---- drawing operations

function drawName(random: Random): string {
  if (chance(random, 0.97)) return pick(random, ["a", "b", "c", "d", "e", "f"]);
  return pick(random, ["ä€", "x".repeat(255), "y".repeat(256), "€".repeat(85), ".f"]);
}

function drawNames(random: Random): string {
  const names = Array.from({ length: pick(random, [1, 1, 2, 2, 3]) }, () => drawName(random));
  return names.join("/");
}

/** A path below the tree's root, seldom written in an unusual way. */
function drawPath(random: Random): string {
  const path = drawNames(random);
  if (chance(random, 0.94)) return path;
  return pick(random, [`${path}/`, `${path}/.`, `./${path}`, `${drawName(random)}/../${path}`, `a//${path}`]);
}

interface Support {
  readonly devices: boolean;
  readonly xattrs: boolean;
  readonly acls: boolean;
}

const ACCESS_ACL = "system.posix_acl_access";
const DEFAULT_ACL = "system.posix_acl_default";

/** An ACL of the users and groups that operations run as, a mask where one is needed and sometimes where not. */
function drawAcl(random: Random): Acl {
  const permissions = () => pick(random, [7, 7, 6, 5, 4, 0]);
  const named = (tag: number) =>
    [1000, 1001, 1002].filter(() => chance(random, 0.4)).map((id) => ({
      tag,
      permissions: permissions(),
      id,
    }));
  const users = named(ACL_USER);
  const groups = named(ACL_GROUP);
  const isMasked = users.length + groups.length > 0 || chance(random, 0.3);
  return [
    { tag: ACL_USER_OBJ, permissions: permissions(), id: 0 },
    ...users,
    { tag: ACL_GROUP_OBJ, permissions: permissions(), id: 0 },
    ...groups,
    ...isMasked ? [{ tag: ACL_MASK, permissions: permissions(), id: 0 }] : [],
    { tag: ACL_OTHER, permissions: permissions(), id: 0 },
  ];
}

function drawOperation(random: ReturnType<typeof randomOf>, { devices, xattrs, acls }: Support): Operation {
  const kind = weighted(random, WEIGHTS);
  const path = drawPath(random);
  const other = drawPath(random);
  const slot = randomInt(random, SLOTS);
  const xattr = `user.k${randomInt(random, 3)}`;
  const ids = [sys.KEEP_ID, 0, 1000, 1001];
  const named = (text: string, call: (path: string, other: string) => unknown): Operation => ({
    text: `${kind} ${text}`,
    run: ({ root }) => told(call(`${root}/${path}`, `${root}/${other}`)),
  });
  const held = (text: string, call: (fd: number) => unknown): Operation => ({
    text: `${kind} slot ${slot} ${text}`,
    run: (side) => side.held[slot] === undefined ? "nothing held" : told(call(side.held[slot]!)),
  });
  const needsAcls = (operation: Operation): Operation =>
    acls ? operation : { text: "nothing", run: () => "no ACLs here" };
  const needsXattrs = (operation: Operation): Operation =>
    xattrs ? operation : { text: "nothing", run: () => "no extended attributes here" };

  switch (kind) {
    case "create": {
      const flags = pick(random, [0, libc.O_EXCL, libc.O_TRUNC, libc.O_APPEND, sys.O_NOFOLLOW]) |
        libc.O_WRONLY;
      const mode = pick(random, [0o666, 0o666, 0o4777, 0o400]);
      const data = randomBytes(random, randomInt(random, 200));
      const text = `${path} flags ${flags.toString(8)} mode ${mode.toString(8)}, ${data.length} bytes`;
      return named(
        text,
        (at) =>
          withFile(at, flags | libc.O_CREAT, mode, (fd) => data.length === 0 ? 0 : libc.write(fd, data)),
      );
    }
    case "mkdir": {
      const mode = pick(random, [0o777, 0o755, 0o2755, 0o1777]);
      return named(`${path} ${mode.toString(8)}`, (at) => sys.mkdir(at, mode));
    }
    case "unlink":
      return named(path, sys.unlink);
    case "rmdir":
      return named(path, sys.rmdir);
    case "rename":
      return named(`${path} ${other}`, (from, to) => sys.rename(from, to, 0));
    case "rename2": {
      const flags = pick(random, [1, 2, 2, 3]); // no replacement, exchange, and both, which is an error
      return named(`${path} ${other} flags ${flags}`, (from, to) => sys.rename(from, to, flags));
    }
    case "link":
      return named(`${path} ${other}`, sys.link);
    case "symlink": {
      const target = pick(random, [
        drawNames(random),
        `../${drawNames(random)}`,
        "nonexist",
        "x".repeat(300),
      ]);
      return named(`${target} ${path}`, (at) => sys.symlink(target, at));
    }
    case "chmod": {
      const mode = pick(random, [0o777, 0o777, 0o4755, 0o2755, 0o2775, 0o1777, 0o600, 0]);
      return named(`${path} ${mode.toString(8)}`, (at) => sys.chmod(at, mode));
    }
    case "chown":
    case "lchown": {
      // Not -1:-1: Linux keeps that one from FUSE, and setuid bits stay, which ext4 clears.
      const [uid, gid] = pick(random, [
        [sys.KEEP_ID, pick(random, ids.slice(1))],
        [pick(random, ids.slice(1)), sys.KEEP_ID],
        [pick(random, ids.slice(1)), pick(random, ids.slice(1))],
      ]) as [number, number];
      return named(`${path} ${uid | 0}:${gid | 0}`, (at) => sys.chown(at, uid, gid, kind === "chown"));
    }
    case "truncate": {
      const size = randomInt(random, 5000);
      return named(`${path} ${size}`, (at) => sys.truncate(at, size));
    }
    case "stat":
      return named(path, (at) => shown(sys.status(at)));
    case "list":
      return named(path, (at) => withFile(at, libc.O_RDONLY | sys.O_DIRECTORY, 0, sys.entries));
    case "mknod": {
      const type = pick(random, [S_IFIFO, S_IFSOCK, devices ? S_IFCHR : S_IFREG, S_IFREG]);
      const text = `${path} ${type.toString(8)}`;
      return named(text, (at) => sys.mknod(at, type | 0o666, type === S_IFCHR ? NULL_DEVICE : 0));
    }
    case "readlink":
      return named(path, sys.readlink);
    case "setXattr": {
      const value = randomBytes(random, randomInt(random, 50)).map((byte) => byte & 0x7f);
      const flags = pick(random, [0, 0, 1, 2]);
      return needsXattrs(
        named(
          `${path} ${xattr} ${value.length} bytes, flags ${flags}`,
          (at) => sys.setXattr(at, xattr, value, flags),
        ),
      );
    }
    case "getXattr":
      return needsXattrs(named(`${path} ${xattr}`, (at) => sys.getXattr(at, xattr, true)));
    case "listXattrs":
      return needsXattrs(named(path, (at) => sys.listXattrs(at, true)));
    case "removeXattr":
      return needsXattrs(named(`${path} ${xattr}`, (at) => sys.removeXattr(at, xattr)));
    case "setAcl": {
      const name = pick(random, [ACCESS_ACL, ACCESS_ACL, DEFAULT_ACL]);
      const acl = drawAcl(random);
      const text = acl.map(({ tag, id, permissions }) => `${tag}:${id}:${permissions}`).join(" ");
      return needsAcls(named(`${path} ${name} ${text}`, (at) => sys.setXattr(at, name, encodeAcl(acl), 0)));
    }
    case "getAcl": {
      const name = pick(random, [ACCESS_ACL, DEFAULT_ACL]);
      return needsAcls(named(`${path} ${name}`, (at) => sys.getXattr(at, name, true)));
    }
    case "removeAcl": {
      const name = pick(random, [ACCESS_ACL, DEFAULT_ACL]);
      return needsAcls(named(`${path} ${name}`, (at) => sys.removeXattr(at, name)));
    }
    case "utimes": {
      // Within what ext4 can keep: 1901 to 2446.
      const seconds = pick(random, [1, -1, 10_000_000]) * randomInt(random, 1000);
      return named(`${path} ${seconds} s`, (at) => {
        const result = sys.utimes(at, seconds, 5, 999_999_999);
        const status = result < 0 ? result : sys.status(at);
        if (typeof status === "number") return status;
        // A link itself has not been changed.
        return (status.mode & S_IFMT) === S_IFLNK ? "ok" : `${status.atimeNs} ${status.mtimeNs}`;
      });
    }
    case "open": {
      const flags = pick(random, [
        ...[libc.O_RDONLY, libc.O_RDWR, libc.O_WRONLY, libc.O_WRONLY | libc.O_TRUNC],
        ...[sys.O_DIRECTORY, sys.O_NOFOLLOW],
      ]);
      return named(`${path} flags ${flags.toString(8)}`, (at) => withFile(at, flags, 0, () => "ok"));
    }
    case "access": {
      const mode = pick(random, [0, 4, 2, 1, 6]);
      return named(`${path} ${mode}`, (at) => sys.access(at, mode));
    }
    case "read":
      return named(
        path,
        (at) => withFile(at, libc.O_RDONLY, 0, (fd) => isRegular(fd) ? contentOf(fd, 6000) : "not a file"),
      );
    case "hold": {
      const flags = pick(random, [libc.O_RDWR, libc.O_RDWR | libc.O_APPEND, libc.O_RDONLY]);
      return { text: `hold ${path} in slot ${slot}, flags ${flags.toString(8)}`, run: hold };
      // deno-lint-ignore no-inner-declarations -- it belongs to this kind alone
      function hold(side: Side): unknown {
        drop(side, slot);
        const fd = libc.open(`${side.root}/${path}`, flags | libc.O_NONBLOCK);
        if (fd < 0) return told(fd);
        side.held[slot] = fd;
        if (isRegular(fd)) return "ok";
        drop(side, slot);
        return "not a file";
      }
    }
    case "heldRead": {
      const offset = randomInt(random, 5000);
      return held(`at ${offset}`, (fd) => contentOf(fd, 3000, offset));
    }
    case "heldWrite": {
      const offset = randomInt(random, 8000);
      const data = randomBytes(random, 1 + randomInt(random, 300));
      return held(`${data.length} bytes at ${offset}`, (fd) => libc.pwrite(fd, data, offset));
    }
    case "heldStat":
      return held("", (fd) => shown(sys.status(fd)));
    case "heldTruncate": {
      const size = randomInt(random, 8000);
      return held(String(size), (fd) => libc.ftruncate(fd, size));
    }
    case "heldChmod": {
      // With setgid always the right of execution for the group: without, ext4 clears it after writes of others,
      // and the FUSE protocol (HANDLE_KILLPRIV_V2) does not.
      const mode = pick(random, [0o644, 0o6777, 0o2676]);
      return held(mode.toString(8), (fd) => sys.fchmod(fd, mode));
    }
    case "drop":
      return { text: `drop slot ${slot}`, run: (side) => drop(side, slot) };
  }
}

function isRegular(fd: number): boolean {
  const status = sys.status(fd);
  return typeof status !== "number" && (status.mode & S_IFMT) === S_IFREG;
}

function drop(side: Side, slot: number): unknown {
  const fd = side.held[slot];
  side.held[slot] = undefined;
  return fd === undefined ? "nothing held" : told(libc.close(fd));
}

// ---- whole trees

/** Everything that can be seen of a tree that is to go: a line of JSON for each path. Opens its directories up. */
function snapshot(root: string, xattrs: boolean): Map<string, string> {
  const seen = new Map<string, string>();
  const visit = (path: string, name: string) => {
    const status = sys.status(path);
    const isMode = (type: number) => typeof status !== "number" && (status.mode & S_IFMT) === type;
    const names = xattrs ? sys.listXattrs(path, false) : [];
    const values = typeof names === "number"
      ? told(names)
      : names.map((xattr) => [xattr, sys.getXattr(path, xattr, false)]);
    const content = isMode(S_IFREG)
      ? told(withFile(path, libc.O_RDONLY, 0, (fd) => contentOf(fd, 20_000)))
      : isMode(S_IFLNK)
      ? sys.readlink(path)
      : null;
    seen.set(name, JSON.stringify([shown(status), values, content]));
    if (!isMode(S_IFDIR)) return;
    // It goes soon; nobody but root could look into all of it otherwise, or remove it.
    sys.chmod(path, 0o700);
    const found = withFile(path, libc.O_RDONLY | sys.O_DIRECTORY, 0, sys.entries);
    if (typeof found === "number") return void seen.set(`${name}/`, String(told(found)));
    for (const entry of found.map((line) => line.slice(0, line.lastIndexOf(" ")))) {
      visit(`${path}/${entry}`, `${name}/${entry}`);
    }
  };
  visit(root, ".");
  return seen;
}

function compareTrees(mounted: Map<string, string>, reference: Map<string, string>, journal: Journal): void {
  const different = [...new Set([...mounted.keys(), ...reference.keys()])].sort()
    .filter((name) => mounted.get(name) !== reference.get(name));
  if (different.length === 0) return;
  const lines = different.slice(0, 8).map((name) =>
    `${name}\n    mount      ${mounted.get(name) ?? "(not there)"}\n    local disk ${
      reference.get(name) ?? "(not there)"
    }`
  );
  journal.differ(`${different.length} paths of the final trees:\n  ${lines.join("\n  ")}`);
}

/** What the local disk can: some are mounted without devices or know no extended attributes. */
function probe(dir: string): Support {
  const path = `${dir}/probe`;
  const devices = sys.mknod(path, S_IFCHR | 0o666, NULL_DEVICE) === 0 &&
    withFile(path, libc.O_RDONLY, 0, () => "ok") === "ok";
  sys.unlink(path);
  const xattrs = sys.setXattr(dir, "user.probe", new Uint8Array(1), 0) === 0;
  sys.removeXattr(dir, "user.probe");
  const acls = sys.removeXattr(dir, DEFAULT_ACL) === 0;
  return { devices, xattrs, acls };
}

// ---- the program

const { positional, flags, only } = parseArguments(
  "tree_exerciser.ts MOUNTED_DIR REFERENCE_DIR SEED OPERATIONS [--users] [--only LIST]",
  4,
  ["--users"],
);
const [seed, operations] = [Number(positional[2]), Number(positional[3])];
const bases = [positional[0]!, positional[1]!].map((dir) => `${dir}/tree-${seed}`);
const sides = bases.map((base): Side => {
  Deno.umask(0);
  Deno.mkdirSync(`${base}/t`, { recursive: true, mode: 0o755 });
  Deno.chmodSync(`${base}/t`, 0o777);
  return { root: `${base}/t`, held: [] };
});
const [mounted, reference] = [sides[0]!, sides[1]!];
const journal = new Journal(seed);
const support = probe(bases[1]!);
if (!support.devices || !support.xattrs || !support.acls) {
  console.log("not all compared; the local disk has", support);
}

/**
 * V8 may make system calls of its own between a call and the look at errno: it waits for a lock (EAGAIN), and when it first does, once
 * a process, looks for a file that there may not be (tsc_freq_khz of the processor: ENOENT). What is read then says nothing.
 */
const CLOBBERED = ["ENOENT", "EAGAIN"].map((name) => JSON.stringify(name));
let repetitions = 2;

for (let i = 0; i < operations; i++) {
  if (only?.has(i) === false) continue;
  const random = randomOf(seed, i);
  const identity = flags.has("--users") ? pick(random, IDENTITIES) : undefined;
  Deno.umask(pick(random, [0o022, 0o022, 0, 0o077]));
  const operation = drawOperation(random, support);
  if (identity !== undefined) sys.become(identity.uid, identity.gid, identity.groups);
  const runOn = (side: Side) => JSON.stringify(operation.run(side));
  let [here, there] = [runOn(mounted), runOn(reference)];
  if (here !== there && repetitions > 0 && [here, there].some((result) => CLOBBERED.includes(result!))) {
    repetitions--;
    // What has failed has changed nothing.
    if (CLOBBERED.includes(here!)) here = runOn(mounted);
    if (CLOBBERED.includes(there!)) there = runOn(reference);
  }
  const who = identity === undefined ? "" : ` as ${identity.uid}:${[identity.gid, ...identity.groups]}`;
  journal.note(`${i}${who} ${operation.text} -> ${there!.slice(0, 200)}`);
  if (here !== there) journal.differ(`of operation ${i}: ${here} on the mount, ${there} on the local disk`);
}
if (flags.has("--users")) sys.become(ROOT.uid, ROOT.gid, ROOT.groups);
for (const side of sides) for (let slot = 0; slot < SLOTS; slot++) drop(side, slot);
const trees = bases.map((base) => snapshot(base, support.xattrs));
compareTrees(trees[0]!, trees[1]!, journal);
for (const base of bases) Deno.removeSync(base, { recursive: true });
console.log(`ok: ${operations} operations, ${trees[1]!.size} paths in the end`);
