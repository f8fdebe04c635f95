/** Taking things away from the kernel, which may hold locks, or not know an inode yet. */

import assert from "node:assert/strict";
import type { Inode } from "../../fs/inode.ts";
import {
  INO,
  know,
  nameOf,
  OTHER,
  quiet,
  ROOT,
  startClient,
  type TestClient,
  watch,
  type Watched,
} from "./client.ts";

const A = nameOf("a");
const B = nameOf("b");

function start(): TestClient & { readonly root: Inode } {
  const client = startClient();
  return { ...client, root: know(client, ROOT) };
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const startMs = performance.now();
  await work;
  assert.ok(performance.now() - startMs < ms, `within ${ms} ms`);
}

const isEntry = (message: string) => message.startsWith("entry");

Deno.test("kernel cache: names go one by one while nothing is in flight in their directory", async () => {
  const { kernelCache, kernel, root } = start();
  kernelCache.enter(OTHER); // somewhere else
  await kernelCache.dropNames(root, [A, B]);
  assert.deepEqual(kernel.taken(), [`entry ${ROOT}/a`, `entry ${ROOT}/b`]);
  kernelCache.enter(ROOT);
  kernelCache.enter(ROOT);
  kernelCache.leave(ROOT);
  kernelCache.leave(ROOT);
  await kernelCache.dropNames(root, [A]);
  assert.deepEqual(kernel.taken(), [`entry ${ROOT}/a`]);
});

Deno.test("kernel cache: while an operation is in flight in the directory all names of the mount go instead", async () => {
  const { kernelCache, kernel, root } = start();
  kernelCache.enter(ROOT);
  kernelCache.enter(ROOT);
  kernelCache.leave(ROOT); // one is still
  await kernelCache.dropNames(root, [A]);
  assert.deepEqual(kernel.taken(), ["epoch"], "INVAL_ENTRY would wait for it, and it may wait for us");
});

Deno.test("kernel cache: an operation that comes while INVAL_ENTRY is in the kernel makes it an epoch at once", async () => {
  const { kernelCache, kernel, root } = start();
  kernel.holds = isEntry;
  const dropping = watch(kernelCache.dropNames(root, [A, B]));
  kernelCache.enter(OTHER);
  await Promise.resolve();
  assert.deepEqual([dropping.state, kernel.messages.length], ["waits", 2]);
  kernelCache.enter(ROOT);
  for (let i = 0; i < 10; i++) await Promise.resolve(); // no time passes
  assert.deepEqual(kernel.taken(), [`entry ${ROOT}/a`, `entry ${ROOT}/b`, "epoch"]);
  await within(500, dropping.promise);
  assert.equal(kernel.held.length, 2, "which is not waited for");
});

Deno.test("kernel cache: an INVAL_ENTRY that takes long is not waited for: the kernel may hold the lock unseen", async () => {
  const { kernelCache, kernel, root, clock } = start();
  kernel.holds = isEntry;
  const dropping = watch(kernelCache.dropNames(root, [A]));
  await clock.advance(500);
  assert.equal(dropping.state, "done");
  assert.deepEqual(kernel.taken(), [`entry ${ROOT}/a`, "epoch"]);
  for (const { release } of [...kernel.held]) await release();
  kernel.holds = () => false;
  await kernelCache.dropNames(root, [A]);
  assert.deepEqual(kernel.taken(), [`entry ${ROOT}/a`], "the next time is as the first");
});

Deno.test("kernel cache: of several that drop names of one directory, each is told of the operation that comes", async () => {
  const { kernelCache, kernel, root } = start();
  kernel.holds = isEntry;
  const all: Watched<void>[] = [A, B].map((name) => watch(kernelCache.dropNames(root, [name])));
  kernelCache.enter(ROOT);
  await Promise.all(all.map(({ promise }) => within(500, promise)));
  assert.equal(kernel.taken().filter((message) => message === "epoch").length, 2);
});

Deno.test("kernel cache: nothing is sent of what the kernel can't have", async () => {
  const { kernelCache, kernel, root, table } = start();
  const inode = know({ table } as TestClient, INO);
  await kernelCache.dropNames(root, []);
  inode.lookups = 0;
  inode.hasPages = true;
  await kernelCache.dropNames(inode, [A]);
  await kernelCache.dropRanges(inode, [{ start: 0, end: Infinity }]);
  assert.deepEqual([kernelCache.dropAttributes(inode), kernelCache.dropAll(inode)], [undefined, undefined]);
  kernelCache.attach(null); // unmounting
  inode.lookups = 1;
  assert.deepEqual([kernelCache.dropAttributes(inode), kernelCache.dropAll(inode)], [undefined, undefined]);
  await kernelCache.dropNames(root, [A]);
  await kernelCache.dropAllNames();
  assert.deepEqual(kernel.taken(), []);
});

Deno.test("kernel cache: attributes are repeated until the kernel knows the inode that it was told of", async () => {
  const client = start();
  const { kernelCache, kernel, clock } = client;
  const inode = know(client, INO);
  kernel.knows = () => false; // the reply that tells it is on its way
  const dropping = watch(kernelCache.dropAttributes(inode)!);
  await clock.advance(3);
  assert.deepEqual([dropping.state, kernel.taken().length], ["waits", 4]);
  kernel.knows = () => true;
  await clock.advance(1);
  assert.deepEqual([dropping.state, kernel.taken()], ["done", [`attributes ${INO}`]]);
});

Deno.test("kernel cache: attributes are repeated until the kernel has forgotten the inode, or is gone", async () => {
  for (const end of ["forgotten", "unmounted", "never"] as const) {
    const client = start();
    const { kernelCache, kernel, clock, log } = client;
    const inode = know(client, INO);
    kernel.knows = () => false;
    const dropping = watch(kernelCache.dropAttributes(inode)!);
    await clock.advance(3);
    assert.equal(dropping.state, "waits");
    if (end === "forgotten") inode.lookups = 0;
    if (end === "unmounted") kernelCache.attach(null);
    await clock.advance(end === "never" ? 3_000 : 1);
    assert.equal(dropping.state, "done", end);
    assert.equal(log.length, end === "never" ? 1 : 0);
  }
});

Deno.test("kernel cache: all of an inode is its pages and attributes in one, or the attributes if it has no pages", async () => {
  const client = start();
  const { kernelCache, kernel } = client;
  const inode = know(client, INO);
  await kernelCache.dropAll(inode);
  inode.hasPages = true;
  const dropping = kernelCache.dropAll(inode);
  assert.equal(inode.hasPages, false, "what is read from now on is there again");
  await dropping;
  assert.deepEqual(kernel.taken(), [`attributes ${INO}`, `pages ${INO} 0+`]);
});

Deno.test("kernel cache: ranges of pages go together", async () => {
  const client = start();
  const { kernelCache, kernel } = client;
  const inode = know(client, INO);
  kernel.holds = () => true;
  const dropping = watch(
    kernelCache.dropRanges(inode, [{ start: 0, end: 8192 }, { start: 16384, end: Infinity }]),
  );
  assert.deepEqual(kernel.taken(), [`pages ${INO} 0+8192`, `pages ${INO} 16384+`]);
  await kernel.held[1]!.release();
  assert.equal(dropping.state, "waits");
  await kernel.held[0]!.release();
  await quiet();
  assert.equal(dropping.state, "done");
});
