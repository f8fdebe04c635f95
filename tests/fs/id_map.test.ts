/** Handlers whose users and groups are mapped: what they are asked for, and what the kernel is told. */

import assert from "node:assert/strict";
import { bytesOf } from "../../base/bytes.ts";
import { IdRanges } from "../../base/id_ranges.ts";
import {
  ACCESS_ACL,
  ACL_GROUP,
  ACL_GROUP_OBJ,
  ACL_MASK,
  ACL_OTHER,
  ACL_USER,
  ACL_USER_OBJ,
  decodeAcl,
  DEFAULT_ACL,
  encodeAcl,
} from "../../base/posix_acl.ts";
import { type IdMapOptions, mapIds } from "../../fs/id_map.ts";
import {
  type AttributesAnswer,
  type CreateAnswer,
  type DirectoryWriter,
  type EntryAnswer,
  type FileSystemHandlers,
  isRoot,
  type KernelAttributes,
  type RequestContext,
} from "../../fs/kernel/handlers.ts";
import { ERRNO, type ErrnoName, isErrno } from "../../wire/errno.ts";
import { PATIENT, time } from "./client.ts";

const MAPS = { users: IdRanges.parse("100:500:10+0:900"), groups: IdRanges.parse("200:600:10") };
const NAME = bytesOf("name");
const NO_ID = 0xffffffff;
const UNKNOWN_ID = 0xfffffffe;

type Call = readonly [name: string, ...args: unknown[]];

function contextOf(uid: number, gid: number): RequestContext {
  return { uid, gid, pid: 4711, signal: PATIENT.signal };
}

function attributesOf(uid: number, gid: number): KernelAttributes {
  const [atime, mtime, ctime, btime] = [time(1), time(2), time(3), time(4)];
  return {
    ...{ ino: 5, size: 6, blocks: 7, atime, mtime, ctime, btime },
    ...{ mode: 0o100644, nlink: 8, uid, gid, rdev: 9, blockSize: 10 },
  };
}

function entryOf(uid: number, gid: number): EntryAnswer {
  return {
    ...{ nodeid: 5, generation: 1, entryTimeoutMs: 2, attributeTimeoutMs: 3 },
    attributes: attributesOf(uid, gid),
  };
}

/** Handlers that note what they are asked for, and answer with what `uid` and `gid` own; at once, or later. */
function start(uid: number, gid: number, isLate = false, options: IdMapOptions = { isRootSquashed: false }) {
  const calls: Call[] = [];
  const attributes: AttributesAnswer = { attributeTimeoutMs: 3, attributes: attributesOf(uid, gid) };
  const entry = entryOf(uid, gid);
  const created: CreateAnswer = { entry, open: { fh: 1, openFlags: 2 } };
  const answers = {
    ...{
      lookup: entry,
      getattr: attributes,
      setattr: attributes,
      symlink: entry,
      mknod: entry,
      mkdir: entry,
    },
    ...{ link: entry, create: created, tmpfile: created, rename: 0, unlink: 0, listxattr: [], write: 4 },
  };
  const inner = Object.fromEntries(
    Object.entries(answers).map(([name, answer]) => [name, (...args: unknown[]) => {
      calls.push([name, ...args]);
      return isLate ? Promise.resolve(answer) : answer;
    }]),
  ) as FileSystemHandlers;
  inner.forget = (nodeid, lookups) => void calls.push(["forget", nodeid, lookups]);
  const handlers = mapIds(inner, MAPS, options) as Required<FileSystemHandlers>;
  return { handlers, calls };
}

/** All that makes something, or a name. */
function making(
  handlers: Required<FileSystemHandlers>,
  context: RequestContext,
): Record<string, () => unknown> {
  return {
    symlink: () => handlers.symlink(context, 1, NAME, NAME),
    mknod: () => handlers.mknod(context, 1, NAME, 2, 3, 4),
    mkdir: () => handlers.mkdir(context, 1, NAME, 2, 3),
    create: () => handlers.create(context, 1, NAME, 2, 3, 4),
    tmpfile: () => handlers.tmpfile(context, 1, 2, 3, 4),
    link: () => handlers.link(context, 2, 1, NAME),
    rename: () => handlers.rename(context, 1, NAME, 1, NAME, 0),
  };
}

function asking(
  handlers: Required<FileSystemHandlers>,
  context: RequestContext,
): Record<string, () => unknown> {
  const how = { openFlags: 1, fromPageCache: false, killSuidGid: true };
  return {
    lookup: () => handlers.lookup(context, 1, NAME),
    getattr: () => handlers.getattr(context, 1, undefined),
    unlink: () => handlers.unlink(context, 1, NAME),
    listxattr: () => handlers.listxattr(context, 1),
    write: () => handlers.write(context, 1, 2, 3, NAME, how),
    exchange: () => handlers.rename(context, 1, NAME, 1, NAME, 2),
  };
}

function isRefused(errno: ErrnoName): (error: unknown) => boolean {
  return (error) => isErrno(error, errno);
}

function ownersOf(answer: unknown): [number, number] | undefined {
  if (typeof answer !== "object" || answer === null || Array.isArray(answer)) return undefined;
  const { attributes, entry } = answer as { attributes?: KernelAttributes; entry?: EntryAnswer };
  const { uid, gid, ...others } = attributes ?? entry!.attributes;
  const { uid: _uid, gid: _gid, ...expected } = attributesOf(0, 0);
  assert.deepEqual(others, expected);
  return [uid, gid];
}

for (const isLate of [false, true]) {
  Deno.test(`id map: callers are mapped, and owners back (answers ${isLate ? "later" : "at once"})`, async () => {
    const { handlers, calls } = start(503, 609, isLate);
    const context = contextOf(102, 201);
    for (
      const [name, ask] of Object.entries({ ...making(handlers, context), ...asking(handlers, context) })
    ) {
      calls.length = 0;
      const answer = ask();
      assert.equal(answer instanceof Promise, isLate, name);
      const owners = ownersOf(await answer);
      if (owners !== undefined) assert.deepEqual(owners, [103, 209], name);
      const [, asked] = calls[0] as [string, RequestContext];
      assert.deepEqual(
        [asked.uid, asked.gid, asked.pid, asked.signal],
        [502, 601, 4711, context.signal],
        name,
      );
      assert.equal(isRoot(asked), false);
    }
    handlers.forget(3, 4);
    assert.deepEqual(calls.at(-1), ["forget", 3, 4]);
  });
}

Deno.test("id map: an owner without a number here is nobody's, not even nobody's of 65534", async () => {
  const { handlers } = start(103, 203);
  const context = contextOf(102, 201);
  assert.deepEqual(ownersOf(await handlers.getattr(context, 1, undefined)), [NO_ID, NO_ID]);
  assert.deepEqual(ownersOf(await handlers.lookup(context, 1, NAME)), [NO_ID, NO_ID]);
});

Deno.test("id map: root keeps its rights by whatever number, and nobody gets them by one", async () => {
  const { handlers, calls } = start(0, 0);
  const isRootFor = async (uid: number): Promise<[number, boolean]> => {
    await handlers.listxattr(contextOf(uid, 0), 1);
    const [, asked] = calls.at(-1) as [string, RequestContext];
    return [asked.uid, isRoot(asked)];
  };
  assert.deepEqual(await isRootFor(0), [900, true]);
  const swapped = mapIds(
    { listxattr: (context) => (calls.push(["listxattr", context]), []) },
    { users: IdRanges.parse("0:7+7:0"), groups: IdRanges.none },
    { isRootSquashed: false },
  );
  for (const [uid, mapped, isItsRoot] of [[0, 7, true], [7, 0, false]] as const) {
    await swapped.listxattr!(contextOf(uid, 0), 1);
    const [, asked] = calls.at(-1) as [string, RequestContext];
    assert.deepEqual([asked.uid, isRoot(asked)], [mapped, isItsRoot]);
  }
});

Deno.test("id map: who has no number in the cluster makes no name; all else is asked for as nobody", () => {
  for (const [uid, gid] of [[505, 201], [102, 605]] as const) {
    const { handlers, calls } = start(503, 609);
    const context = contextOf(uid, gid);
    for (const [name, make] of Object.entries(making(handlers, context))) {
      assert.throws(make, isRefused("EOVERFLOW"), name);
    }
    assert.deepEqual(calls, []);
    for (const [name, ask] of Object.entries(asking(handlers, context))) {
      ask();
      const asked = calls.at(-1)![1] as RequestContext;
      assert.deepEqual([asked.uid, asked.gid], [uid === 505 ? NO_ID : 502, gid === 605 ? NO_ID : 601], name);
    }
  }
});

Deno.test("id map: root needs no number where it is squashed", () => {
  const users = IdRanges.parse("7:0");
  const inner: FileSystemHandlers = { mkdir: () => entryOf(1, 1) };
  for (const isRootSquashed of [false, true]) {
    const handlers = mapIds(inner, { users, groups: IdRanges.none }, { isRootSquashed });
    const make = () => handlers.mkdir!(contextOf(0, 0), 1, NAME, 2, 3);
    if (isRootSquashed) assert.deepEqual(ownersOf(make()), [1, 1]);
    else assert.throws(make, isRefused("EOVERFLOW"));
  }
});

Deno.test("id map: chown is mapped, and refused where nobody in the cluster is meant", async () => {
  const { handlers, calls } = start(503, 609);
  const context = contextOf(0, 0);
  const asked = async (changes: { uid?: number; gid?: number; mode?: number }) => {
    await handlers.setattr(context, 1, { ...changes, killSuidGid: true });
    return calls.at(-1)![3];
  };
  assert.deepEqual(await asked({ uid: 109, gid: 200 }), { uid: 509, gid: 600, killSuidGid: true });
  assert.deepEqual(await asked({ gid: 7 }), { gid: 7, killSuidGid: true });
  assert.deepEqual(await asked({ mode: 7 }), { mode: 7, killSuidGid: true });
  calls.length = 0;
  for (const changes of [{ uid: 509 }, { gid: 600 }, { uid: UNKNOWN_ID }]) {
    assert.throws(
      () => handlers.setattr(context, 1, { ...changes, killSuidGid: true }),
      isRefused("EOVERFLOW"),
    );
  }
  assert.deepEqual(calls, []);
});

Deno.test("id map: a listing's entries are mapped as they are told", async () => {
  const told: unknown[] = [];
  const inner: FileSystemHandlers = {
    readdir: (_context, _nodeid, _fh, _cookie, writer, plus) => {
      if (!plus) return writer.add(NAME, 5, 8, 1) ? -ERRNO.EIO : 0;
      assert.equal(writer.addPlus(NAME, 5, 8, 1, null), true);
      assert.equal(writer.addPlus(NAME, 5, 8, 2, entryOf(504, 103)), false);
      return 0;
    },
  };
  const writer: DirectoryWriter = {
    add: (...args) => (told.push(args), false),
    addPlus: (...args) => told.push(args) === 1,
  };
  const { readdir } = mapIds(inner, MAPS, { isRootSquashed: false });
  assert.equal(await readdir!(contextOf(1, 1), 1, 2, 0, writer, true), 0);
  assert.deepEqual(told, [[NAME, 5, 8, 1, null], [NAME, 5, 8, 2, entryOf(104, 103)]]);
  told.length = 0;
  assert.equal(await readdir!(contextOf(1, 1), 1, 2, 0, writer, false), 0);
  assert.deepEqual(told, [[NAME, 5, 8, 1]]);
});

/** What is kept when the kernel sets `value`, and what it is told of that, or of `kept`. */
async function xattr(name: Uint8Array, { value, kept }: { value?: Uint8Array; kept?: Uint8Array }) {
  let stored = kept;
  const handlers = mapIds(
    {
      setxattr: (_context, _nodeid, _name, value) => (stored = value.slice(), 0),
      getxattr: () => stored ?? -ERRNO.ENODATA,
    },
    MAPS,
    { isRootSquashed: false },
  );
  if (value !== undefined) assert.equal(await handlers.setxattr!(contextOf(0, 0), 1, name, value, 0), 0);
  return { stored, shown: await handlers.getxattr!(contextOf(0, 0), 1, name) };
}

function aclOf(user: number, group: number): Uint8Array {
  const of = (tag: number, id = NO_ID) => ({ tag, permissions: 4, id });
  return encodeAcl([
    ...[of(ACL_USER_OBJ), of(ACL_USER, user), of(ACL_GROUP_OBJ), of(ACL_GROUP, group)],
    ...[of(ACL_MASK), of(ACL_OTHER)],
  ]);
}

function namedIn(acl: unknown): number[] {
  return decodeAcl(acl as Uint8Array)!.filter(({ id }) => id !== NO_ID).map(({ id }) => id);
}

Deno.test("id map: ACLs name users by the one, groups by the other, and only whom there is", async () => {
  for (const name of [ACCESS_ACL, DEFAULT_ACL]) {
    const { stored, shown } = await xattr(name, { value: aclOf(101, 201) });
    assert.deepEqual([namedIn(stored), namedIn(shown)], [[501, 601], [101, 201]]);
    const foreign = await xattr(name, { kept: aclOf(101, 201) });
    assert.deepEqual(namedIn(foreign.shown), [UNKNOWN_ID, UNKNOWN_ID]);
    for (const acl of [aclOf(501, 1), aclOf(1, 601), aclOf(UNKNOWN_ID, 1)]) {
      await assert.rejects(xattr(name, { value: acl }), isRefused("EINVAL"));
    }
    const broken = bytesOf("no ACL");
    assert.deepEqual(
      (await xattr(name, { value: broken })).stored,
      broken,
      "others say what is wrong with it",
    );
  }
  assert.equal((await xattr(ACCESS_ACL, {})).shown, -ERRNO.ENODATA);
});

Deno.test("id map: other attributes are left alone, whatever is in them", async () => {
  const value = aclOf(101, 201);
  assert.deepEqual(await xattr(bytesOf("user.acl"), { value }), { stored: value, shown: value });
});

/** struct vfs_ns_cap_data (linux/capability.h): effective, one capability. */
function capabilities(root?: number): Uint8Array {
  const bytes = new Uint8Array(root === undefined ? 20 : 24);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, (root === undefined ? 0x02000000 : 0x03000000) | 1, true);
  view.setUint32(4, 1 << 13, true);
  if (root !== undefined) view.setUint32(20, root, true);
  return bytes;
}

Deno.test("id map: capabilities count for the root of who set them", async () => {
  const name = bytesOf("security.capability");
  const own = await xattr(name, { value: capabilities() });
  assert.deepEqual([own.stored, own.shown], [capabilities(900), capabilities()]);
  const contained = await xattr(name, { value: capabilities(104) });
  assert.deepEqual([contained.stored, contained.shown], [capabilities(504), capabilities(104)]);
  for (const kept of [capabilities(), capabilities(0), capabilities(104)]) {
    assert.equal((await xattr(name, { kept })).shown, -ERRNO.ENODATA);
  }
  await assert.rejects(xattr(name, { value: capabilities(504) }), isRefused("EINVAL"));
  const unknown = bytesOf("?".repeat(20));
  assert.deepEqual((await xattr(name, { value: unknown })).stored, unknown);
});
