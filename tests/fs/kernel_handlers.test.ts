/** The kernel's requests over a whole client: what it is told to keep, counts, handles and errors. */

import assert from "node:assert/strict";
import { bytesKey } from "../../base/bytes.ts";
import * as libc from "../../base/libc.ts";
import type { AtimePolicy } from "../../fs/access_times.ts";
import type { ClusterSession } from "../../fs/cluster_session.ts";
import type {
  EntryAnswer,
  FileSystemHandlers,
  OpenAnswer,
  RequestContext,
} from "../../fs/kernel/handlers.ts";
import {
  FOPEN_CACHE_DIR,
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  FOPEN_NOFLUSH,
} from "../../fs/kernel/protocol.ts";
import { kernelHandlers } from "../../fs/kernel_handlers.ts";
import { VirtualXattrs } from "../../fs/virtual_xattrs.ts";
import { ERRNO, FsError, isErrno } from "../../wire/errno.ts";
import { asInodeId } from "../../wire/ids.ts";
import {
  acquireReply,
  blockOf,
  entryReply,
  found,
  INO,
  inodeReply,
  know,
  nameOf,
  OTHER,
  PATIENT,
  quiet,
  recall,
  ROOT,
  startClient,
  type TestClient,
  watch,
} from "./client.ts";

const CONTEXT: RequestContext = { uid: 7, gid: 8, pid: 1, signal: PATIENT.signal };
const A = nameOf("a");

function start(
  policy: AtimePolicy = "off",
): TestClient & { readonly kernelSide: Required<FileSystemHandlers> } {
  const client = startClient(policy);
  const { names, files, ranges, table, kernelCache, accessTimes, clock } = client;
  know(client, ROOT);
  const session = client.session as unknown as ClusterSession;
  const kernelSide = kernelHandlers({
    ...{ names, files, ranges, session, table, kernelCache, accessTimes, clock },
    virtualXattrs: new VirtualXattrs({ session, names, writer: client.writer }),
  });
  return { ...client, kernelSide: kernelSide as Required<FileSystemHandlers> };
}

function at<T>(answer: T | number | Promise<T | number>): T {
  assert.ok(!(answer instanceof Promise) && typeof answer !== "number", "answered at once, with success");
  return answer;
}

Deno.test("handlers: what is kept has the rest of the session's time, what is not has none", async () => {
  const { kernelSide, nameserver, session } = start();
  const { validForMs } = session;
  const cases = [
    [found(INO, "read", "read"), validForMs, validForMs],
    [found(OTHER, "read", "none"), validForMs, 0],
    [found(asInodeId(7), "none", "read"), 0, validForMs],
  ] as const;
  for (const [i, [reply, names, attributes]] of cases.entries()) {
    const asking = kernelSide.lookup(CONTEXT, ROOT, nameOf(`name${i}`));
    await nameserver.answer("lookup", reply);
    const { entryTimeoutMs, attributeTimeoutMs, nodeid } = await asking as EntryAnswer;
    assert.deepEqual([nodeid, entryTimeoutMs, attributeTimeoutMs], [
      reply.inode!.attributes.ino,
      names,
      attributes,
    ]);
  }
});

Deno.test("handlers: an absent name is kept as node 0, or is ENOENT where it may not be kept", async () => {
  const { kernelSide, nameserver, session } = start();
  const kept = kernelSide.lookup(CONTEXT, ROOT, A);
  await nameserver.answer("lookup", { directory: "read" });
  const { nodeid, entryTimeoutMs } = await kept as EntryAnswer;
  assert.deepEqual([nodeid, entryTimeoutMs], [0, session.validForMs]);
  assert.equal(at(kernelSide.lookup(CONTEXT, ROOT, A)).nodeid, 0);
  const unkept = kernelSide.lookup(CONTEXT, ROOT, nameOf("b"));
  await nameserver.answer("lookup", { directory: "none" });
  assert.equal(await unkept, -ERRNO.ENOENT);
});

Deno.test("handlers: what is given back in any step before the kernel is told of it again is known all the same", async () => {
  for (let steps = 0; steps <= 12; steps++) {
    const { kernelSide, nameserver, releases, table } = start();
    table.adopt(inodeReply(INO, "read"), table.moment).lookups = 1;
    kernelSide.forget(INO, 1);
    const asking = kernelSide.lookup(CONTEXT, ROOT, A);
    await quiet();
    const answered = nameserver.calls[0]!.answer(found(INO));
    for (let i = 0; i < steps; i++) await Promise.resolve();
    void releases.send();
    const { nodeid } = await asking as EntryAnswer;
    await answered;
    assert.deepEqual([nodeid, table.get(INO)?.lookups], [INO, 1], `${steps} steps`);
    kernelSide.forget(INO, 1);
    await releases.send();
    assert.equal(table.get(INO), undefined);
  }
});

Deno.test("handlers: each answer that tells of an inode is counted, and forgotten as often", async () => {
  const client = start();
  const { kernelSide, nameserver, table } = client;
  const asking = kernelSide.lookup(CONTEXT, ROOT, A);
  await nameserver.answer("lookup", found(INO));
  await asking;
  at(kernelSide.lookup(CONTEXT, ROOT, A));
  const linking = kernelSide.link(CONTEXT, INO, ROOT, nameOf("b"));
  await nameserver.answer("link", entryReply(INO, "read", "read", { version: 2 }));
  await linking;
  at(kernelSide.getattr(CONTEXT, INO, undefined));
  const inode = table.get(INO)!;
  assert.equal(inode.lookups, 3);
  kernelSide.forget(INO, 2);
  assert.equal(inode.lookups, 1);
  kernelSide.forget(INO, 1);
  await client.releases.send();
  assert.equal(table.get(INO), undefined);
});

Deno.test("handlers: entries of a listing that the kernel has no room for are not counted", async () => {
  const client = start();
  const { kernelSide, nameserver, table, session } = client;
  const { fh } = at(kernelSide.opendir(CONTEXT, ROOT, 0));
  const added: [number, EntryAnswer | null][] = [];
  const writer = {
    add: () => true,
    addPlus(_name: Uint8Array, ino: number, _type: number, _cookie: number, entry: EntryAnswer | null) {
      if (added.length === 4) return false;
      added.push([ino, entry]);
      return true;
    },
  };
  const reading = kernelSide.readdir(CONTEXT, ROOT, fh, 0, writer, true);
  const entries = [5, 6, 7].map((ino, i) => ({
    name: nameOf(`name${ino}`),
    ino: asInodeId(ino),
    type: 8,
    cookie: 10 + i,
    inode: inodeReply(asInodeId(ino), "read"),
  }));
  await nameserver.answer("readDirectory", { parent: ROOT, directory: "read", entries, end: true });
  assert.equal(await reading, 0);
  assert.deepEqual(added.map(([ino, entry]) => [ino, entry?.entryTimeoutMs]), [
    [ROOT, undefined],
    [ROOT, undefined],
    [5, session.validForMs],
    [6, session.validForMs],
  ]);
  assert.deepEqual([5, 6, 7].map((ino) => table.get(asInodeId(ino))!.lookups), [1, 1, 0]);
  assert.equal(kernelSide.readdir(CONTEXT, ROOT, 99, 0, writer, true), -ERRNO.EBADF);
  assert.equal(kernelSide.releasedir(CONTEXT, ROOT, fh), 0);
  assert.equal(kernelSide.readdir(CONTEXT, ROOT, fh, 0, writer, true), -ERRNO.EBADF);
});

Deno.test("handlers: changes in a directory that wait are known to be in flight in it, lookups and listings are not", async () => {
  const client = start();
  const { kernelSide, nameserver, kernel, kernelCache, table } = client;
  const root = table.get(ROOT)!;
  const directory = know(client, OTHER, "read", { mode: 0o040755 });
  know(client, INO);
  const isInFlight = async (inode = root) => {
    kernel.taken();
    await kernelCache.dropNames(inode, [nameOf("x")]);
    return kernel.taken()[0] === "epoch";
  };
  const credentials = { uid: 7, gid: 8 };
  const waiting: [string, () => unknown, unknown][] = [
    ["make", () => kernelSide.mkdir(CONTEXT, ROOT, A, 0o755, 0o022), entryReply(OTHER, "none", "none")],
    ["make", () => kernelSide.mknod(CONTEXT, ROOT, A, 0o600, 0, 0), entryReply(OTHER, "none", "none")],
    ["make", () => kernelSide.symlink(CONTEXT, ROOT, A, nameOf("t")), entryReply(OTHER, "none", "none")],
    ["remove", () => kernelSide.unlink(CONTEXT, ROOT, A), { ino: OTHER, nlink: 1, directory: "none" }],
    ["remove", () => kernelSide.rmdir(CONTEXT, ROOT, A), { ino: OTHER, nlink: 1, directory: "none" }],
    ["link", () => kernelSide.link(CONTEXT, INO, ROOT, A), entryReply(INO, "none", "none")],
    [
      "create",
      () => kernelSide.create(CONTEXT, ROOT, A, libc.O_RDONLY, 0o666, 0o022),
      { ...acquireReply(INO, "read"), directory: "none", created: true },
    ],
  ];
  for (const [method, call, reply] of waiting) {
    const answer = call() as Promise<unknown>;
    await quiet();
    assert.equal(await isInFlight(), true, method);
    const { request } = nameserver.calls[0]!;
    if ("credentials" in (request as object)) {
      assert.deepEqual((request as { credentials: unknown }).credentials, credentials);
    }
    await nameserver.calls[0]!.answer(reply);
    await answer;
    assert.equal(await isInFlight(), false, method);
  }
  const renaming = watch(kernelSide.rename(CONTEXT, ROOT, A, OTHER, A, 0) as Promise<number>);
  await quiet();
  assert.deepEqual([await isInFlight(), await isInFlight(directory)], [true, true]);
  await nameserver.calls[0]!.fail(new FsError("EXDEV", "no"));
  assert.equal(renaming.state, "failed");
  assert.deepEqual([await isInFlight(), await isInFlight(directory)], [false, false]);
  root.lease = "read";
  root.setEntry(bytesKey(A), INO);
  know(client, INO, "read", { version: 9 });
  at(kernelSide.lookup(CONTEXT, ROOT, A));
  assert.equal(await isInFlight(), false);
});

Deno.test("handlers: how a file was opened says what the kernel does with its pages, and whether close is told", async () => {
  const client = start();
  const { kernelSide, nameserver } = client;
  const inode = know(client, INO, "write");
  const open = (flags: number) => at(kernelSide.open(CONTEXT, INO, flags, false));
  const reader = open(libc.O_RDONLY);
  assert.equal(reader.openFlags, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH);
  const writer = open(libc.O_RDWR);
  assert.equal(writer.openFlags, FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE);
  assert.equal(open(libc.O_WRONLY).openFlags, FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE);
  assert.equal(open(libc.O_RDONLY).openFlags, FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE | FOPEN_NOFLUSH);
  inode.hasStalePages = true;
  assert.equal(open(libc.O_RDONLY).openFlags & FOPEN_KEEP_CACHE, 0);
  assert.equal(new Set([reader.fh, writer.fh]).size, 2);
  assert.deepEqual(nameserver.asked, []);
});

Deno.test("handlers: pages that nobody uses any more go when a writer opens the file, and writes have none to take away", async () => {
  const client = start();
  const { kernelSide, kernel } = client;
  const inode = know(client, INO, "write");
  const open = (flags: number) => watch(Promise.resolve(kernelSide.open(CONTEXT, INO, flags, false)));
  kernel.holds = (message) => message.startsWith("pages");
  inode.hasPages = true;
  const writer = open(libc.O_RDWR);
  await quiet();
  assert.equal(writer.state, "waits");
  assert.equal(inode.hasPages, true, "a recall has to know of them");
  assert.deepEqual(kernel.taken(), [`pages ${INO} 0+`]);
  await kernel.held[0]!.release();
  const { fh } = at(await writer.promise);
  assert.equal(inode.hasPages, false);
  // Those of who has the file open, too, stay.
  inode.hasPages = true;
  at(await open(libc.O_WRONLY).promise);
  assert.deepEqual([kernel.taken(), inode.hasPages], [[], true]);
  assert.notEqual(fh, 0);
});

Deno.test("handlers: pages that are read while older ones are dropped are known", async () => {
  const client = start();
  const { kernelSide, kernel } = client;
  const inode = know(client, INO, "write");
  kernel.holds = (message) => message.startsWith("pages");
  inode.hasPages = true;
  const writer = watch(Promise.resolve(kernelSide.open(CONTEXT, INO, libc.O_RDWR, false)));
  await quiet();
  const { fh } = at(kernelSide.open(CONTEXT, INO, libc.O_RDONLY, false));
  await kernelSide.read(CONTEXT, INO, fh, 0, 10, { isDirect: false } as never);
  await kernel.held[0]!.release();
  await writer.promise;
  assert.equal(inode.hasPages, true);
});

Deno.test("handlers: an inode that is gone is ESTALE to what came by a name, so that the name is looked up again", async () => {
  const client = start();
  const { kernelSide, nameserver } = client;
  know(client, INO, "none");
  for (
    const ask of [
      () => kernelSide.open(CONTEXT, INO, 0, false),
      () => kernelSide.getattr(CONTEXT, INO, undefined),
      () => kernelSide.setattr(CONTEXT, INO, { mode: 0o600, killSuidGid: false }),
      () => kernelSide.readlink(CONTEXT, INO),
      () => kernelSide.getxattr(CONTEXT, INO, nameOf("user.a")),
      () => kernelSide.listxattr(CONTEXT, INO),
      () => kernelSide.setxattr(CONTEXT, INO, nameOf("user.a"), A, 0),
      () => kernelSide.removexattr(CONTEXT, INO, nameOf("user.a")),
    ]
  ) {
    for (const [errno, expected] of [["ENOENT", "ESTALE"], ["EIO", "EIO"]] as const) {
      const asking = watch(ask() as Promise<unknown>);
      await quiet();
      await nameserver.calls[0]!.fail(new FsError(errno, "no"));
      assert.ok(isErrno(asking.error, expected));
    }
  }
  const looking = watch(kernelSide.lookup(CONTEXT, ROOT, A) as Promise<unknown>);
  await (await nameserver.next("lookup")).fail(new FsError("ENOENT", "the directory is gone"));
  assert.ok(isErrno(looking.error, "ENOENT"));
});

Deno.test("handlers: an open file that is gone, as the session was lost, is ESTALE to what is done through its handle", async () => {
  const client = start();
  const { kernelSide, nameserver } = client;
  const inode = know(client, INO, "write", { size: 4096 });
  const { fh } = at(kernelSide.open(CONTEXT, INO, libc.O_RDWR, false));
  for (
    const use of [
      () => kernelSide.read(CONTEXT, INO, fh, 0, 10, { isDirect: true } as never),
      () => kernelSide.lseek(CONTEXT, INO, fh, 0, 3),
      () => kernelSide.fallocate(CONTEXT, INO, fh, 0, 10, 0),
    ]
  ) {
    inode.forgetAll();
    const using = watch(use() as Promise<unknown>);
    await quiet();
    while (nameserver.calls.length > 0) {
      await nameserver.calls[0]!.fail(new FsError("ENOENT", "removed"));
      await quiet();
    }
    assert.ok(isErrno(using.error, "ESTALE"), String(using.error));
  }
});

Deno.test("handlers: a handle is known until it is released; writeback may come by any of the inode's", async () => {
  const client = start();
  const { kernelSide, table, dataservers } = client;
  const inode = know(client, INO, "write", { size: 4096 });
  const one = at(kernelSide.open(CONTEXT, INO, libc.O_RDWR, false));
  const two = at(kernelSide.open(CONTEXT, INO, libc.O_RDWR, false));
  inode.file!.blocks.learn(0, Infinity, [blockOf(1, 0, 8192)]);
  const write = (fh: number, offset = 0) =>
    kernelSide.write(
      CONTEXT,
      INO,
      fh,
      offset,
      new Uint8Array(10),
      {
        openFlags: 0,
        fromPageCache: true,
        killSuidGid: false,
      } as Parameters<typeof kernelSide.write>[5],
    );
  assert.equal(await write(one.fh), 10);
  assert.equal(await write(12345, 4096), 10);
  await client.clock.advance(10);
  assert.equal(dataservers.writes.length, 2);
  inode.file!.dirty = false;
  assert.equal(await kernelSide.release(CONTEXT, INO, two.fh, 0), 0);
  await assert.rejects(
    async () => await kernelSide.flush(CONTEXT, INO, two.fh, 0n as never),
    (error) => isErrno(error, "EBADF"),
  );
  assert.notEqual(table.get(INO)!.file, null);
  await kernelSide.release(CONTEXT, INO, one.fh, 0);
  assert.equal(table.get(INO)!.file, null);
});

Deno.test("handlers: a directory's listing is kept by the kernel under a lease, and dropped where it may be old", async () => {
  const client = start();
  const { kernelSide, table, session } = client;
  const root = table.get(ROOT)!;
  const opendir = (): OpenAnswer => at(kernelSide.opendir(CONTEXT, ROOT, 0));
  const KEPT = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
  assert.equal(opendir().openFlags, KEPT, "what there is of one is not whole, and looked at before it is");
  root.hasPages = true;
  assert.equal(opendir().openFlags, KEPT);
  root.hasStalePages = true;
  assert.equal(opendir().openFlags, FOPEN_CACHE_DIR);
  assert.equal(opendir().openFlags, KEPT);
  root.listedSince = table.moment;
  assert.equal(opendir().openFlags, KEPT);
  table.noteRecall(ROOT); // a change of ours
  assert.equal(opendir().openFlags, FOPEN_CACHE_DIR);
  assert.equal(opendir().openFlags, KEPT);
  session.isValid = false;
  assert.equal(opendir().openFlags, FOPEN_KEEP_CACHE, "it neither shows nor brings any");
  session.isValid = true;
  await recall(client, { ino: ROOT, keep: "none" }).promise;
  assert.equal(opendir().openFlags, FOPEN_KEEP_CACHE);
});

Deno.test("handlers: xattrs that are not there are ENODATA, ACLs as well, and none needs a call", () => {
  const client = start();
  const { kernelSide, nameserver } = client;
  know(client, INO);
  for (const name of ["system.posix_acl_access", "security.capability", "user.x"]) {
    assert.equal(kernelSide.getxattr(CONTEXT, INO, nameOf(name)), -ERRNO.ENODATA);
  }
  assert.deepEqual(nameserver.asked, []);
});

Deno.test(
  "handlers: a name that was recalled while a listing went on is not told as kept",
  async () => {
    const client = start();
    const { kernelSide, nameserver, kernel } = client;
    const { fh } = at(kernelSide.opendir(CONTEXT, ROOT, 0));
    const told = new Map<number, number>();
    const writer = {
      add: () => true,
      addPlus(_name: Uint8Array, ino: number, _type: number, _cookie: number, entry: EntryAnswer | null) {
        told.set(ino, entry?.entryTimeoutMs ?? 0);
        return true;
      },
    };
    const reading = watch(kernelSide.readdir(CONTEXT, ROOT, fh, 0, writer, true) as Promise<number>);
    const entry = (ino: number) => ({
      name: nameOf(`name${ino}`),
      ino: asInodeId(ino),
      type: 8,
      cookie: ino,
      inode: inodeReply(asInodeId(ino), "read"),
    });
    const answer = (ino: number, end: boolean) =>
      nameserver.answer("readDirectory", { parent: ROOT, directory: "read", entries: [entry(ino)], end });
    await answer(10, false);
    if (reading.state === "waits") {
      await recall(client, { ino: ROOT, keep: "read", names: [nameOf("name10")] }).promise;
      assert.equal(kernel.taken()[0], "epoch");
      await answer(11, true);
      // The kernel gives what comes with a listing the epoch of when it takes it, not of when it asked.
      assert.equal(told.get(10), 0);
    }
    assert.equal(reading.state, "done");
  },
);

Deno.test("handlers: a directory's attributes that another thread was told go with a change of its names", async () => {
  const by = (pid: number): RequestContext => ({ ...CONTEXT, pid });
  const cases: [readonly number[], boolean][] = [[[], false], [[1], false], [[2], true], [[1, 2], true], [[
    0,
  ], true]];
  for (const [threads, isDropped] of cases) {
    const { kernelSide, nameserver, kernel, table } = start();
    const change = async () => {
      const made = kernelSide.mkdir(by(1), ROOT, A, 0o755, 0);
      await nameserver.answer("make", entryReply(OTHER, "read", "read", { mode: 0o040755 }));
      await made;
      return kernel.taken().includes(`attributes ${ROOT}`);
    };
    for (const pid of threads) at(kernelSide.getattr(by(pid), ROOT, undefined));
    assert.deepEqual([await change(), await change()], [isDropped, false], `${threads}`);
    const looking = kernelSide.lookup(by(2), ROOT, nameOf("file"));
    await nameserver.answer("lookup", found(INO));
    await looking;
    assert.equal(await change(), false, "of a file nothing is kept that a change of names changes");
    const there = table.get(OTHER)!;
    there.takeAttributesBack(1);
    const lookingThere = kernelSide.lookup(by(2), ROOT, nameOf("b"));
    await nameserver.answer("lookup", {
      ...found(OTHER),
      inode: inodeReply(OTHER, "read", { mode: 0o040755 }),
    });
    await lookingThere;
    assert.equal(there.takeAttributesBack(1), true);
  }
});

Deno.test("handlers: names that come with a listing are noted as such", async () => {
  const { kernelSide, nameserver, table } = start();
  const looking = kernelSide.lookup(CONTEXT, ROOT, A);
  await nameserver.answer("lookup", found(INO));
  await looking;
  assert.equal(table.get(ROOT)!.namesListed, false);
  const { fh } = at(kernelSide.opendir(CONTEXT, ROOT, 0));
  const reading = kernelSide.readdir(CONTEXT, ROOT, fh, 0, { add: () => true, addPlus: () => true }, true);
  const entry = { name: A, ino: INO, type: 8, cookie: 10, inode: inodeReply(INO, "read") };
  await nameserver.answer("readDirectory", { parent: ROOT, directory: "read", entries: [entry], end: true });
  await reading;
  assert.equal(table.get(ROOT)!.namesListed, true);
});

Deno.test("handlers: an entry of a listing that was not told is not kept for ever", async () => {
  const client = start();
  const { kernelSide, nameserver, table } = client;
  const { fh } = at(kernelSide.opendir(CONTEXT, ROOT, 0));
  const writer = { add: () => true, addPlus: (_name: Uint8Array, ino: number) => ino !== INO };
  const reading = kernelSide.readdir(CONTEXT, ROOT, fh, 0, writer, true);
  const entry = { name: nameOf("a"), ino: INO, type: 8, cookie: 10, inode: inodeReply(INO, "read") };
  await nameserver.answer("readDirectory", { parent: ROOT, directory: "read", entries: [entry], end: true });
  await reading;
  kernelSide.releasedir(CONTEXT, ROOT, fh);
  await client.releases.send();
  assert.equal(table.get(INO), undefined);
});
