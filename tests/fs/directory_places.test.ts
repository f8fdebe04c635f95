/** A directory that another mount has moved: the kernel gives up its old name before it hears of the new one. */

import assert from "node:assert/strict";
import type { ClusterSession } from "../../fs/cluster_session.ts";
import type { EntryAnswer, FileSystemHandlers, RequestContext } from "../../fs/kernel/handlers.ts";
import { kernelHandlers } from "../../fs/kernel_handlers.ts";
import { VirtualXattrs } from "../../fs/virtual_xattrs.ts";
import { asInodeId, type InodeId } from "../../wire/ids.ts";
import { S_IFDIR, S_IFREG } from "../../wire/messages/inode.ts";
import { INO, inodeReply, know, nameOf, OTHER, PATIENT, quiet, ROOT, startClient, watch } from "./client.ts";

const CONTEXT: RequestContext = { uid: 7, gid: 8, pid: 1, signal: PATIENT.signal };
const [A, B] = [nameOf("a"), nameOf("b")];
const THIRD = asInodeId(77);
const DIRECTORY = { mode: S_IFDIR | 0o755, nlink: 2 };

function start() {
  const client = startClient();
  const { names, files, ranges, table, kernelCache, accessTimes, clock, nameserver, kernel } = client;
  for (const ino of [ROOT, OTHER, THIRD]) know(client, ino, "read", DIRECTORY);
  const session = client.session as unknown as ClusterSession;
  const handlers = kernelHandlers({
    ...{ names, files, ranges, session, table, kernelCache, accessTimes, clock },
    virtualXattrs: new VirtualXattrs({ session, names, writer: client.writer }),
  }) as Required<FileSystemHandlers>;
  /** Nothing of its name is kept. */
  const reply = (mode: number) => ({ inode: inodeReply(INO, "none", { mode }), directory: "read" as const });
  /** Answers the oldest lookup, whatever else waits. */
  const answer = async (mode = DIRECTORY.mode) => {
    await quiet();
    await nameserver.calls.find(({ method }) => method === "lookup")!.answer(reply(mode));
  };
  /** The kernel looks the name up; what was taken from it before it is answered. */
  const look = async (parent: InodeId, name: Uint8Array, mode = DIRECTORY.mode) => {
    const asking = watch(handlers.lookup(CONTEXT, parent, name) as Promise<EntryAnswer>);
    await answer(mode);
    if (asking.state !== "done") await answer(mode);
    assert.equal((await asking.promise).nodeid, INO);
    return kernel.taken();
  };
  return { ...client, handlers, look, answer };
}

Deno.test("directory places: who looks a moved directory up is answered when its old name is gone, and anew", async () => {
  const { look, nameserver } = start();
  assert.deepEqual(await look(ROOT, A), []);
  assert.deepEqual(await look(ROOT, B), [], "within a directory the kernel moves it");
  nameserver.asked.length = 0;
  assert.deepEqual(await look(OTHER, A), [`entry ${ROOT}/b`]);
  assert.deepEqual(nameserver.asked.filter((method) => method === "lookup"), ["lookup", "lookup"]);
  assert.deepEqual(await look(OTHER, A), [`entry ${ROOT}/b`], "the kernel may try twice");
  assert.deepEqual(await look(OTHER, A), []);
});

Deno.test("directory places: one that the kernel has forgotten, and files, have no place", async () => {
  const { look, handlers } = start();
  await look(ROOT, A);
  handlers.forget(INO, 2);
  assert.deepEqual(await look(OTHER, A), []);
  const files = start();
  await files.look(ROOT, A, S_IFREG | 0o644);
  assert.deepEqual(await files.look(OTHER, A, S_IFREG | 0o644), []);
});

Deno.test("directory places: a rename here moves it in the kernel as well", async () => {
  const { look, handlers, nameserver, kernel } = start();
  await look(ROOT, A);
  const renaming = handlers.rename(CONTEXT, ROOT, A, OTHER, B, 0) as Promise<unknown>;
  await nameserver.answer("rename", { ino: INO, directory: "none", directories: [] });
  await renaming;
  kernel.taken();
  assert.deepEqual(await look(OTHER, B), []);
  assert.deepEqual(await look(ROOT, A), [`entry ${OTHER}/b`]);
});

Deno.test("directory places: a look waits for renames between directories that are under way, but not for long", async () => {
  const { look, handlers, nameserver, answer, clock } = start();
  await look(ROOT, A);
  void handlers.rename(CONTEXT, OTHER, B, THIRD, B, 0);
  const renaming = await nameserver.next("rename");
  const asking = watch(handlers.lookup(CONTEXT, OTHER, A) as Promise<EntryAnswer>);
  await answer();
  assert.equal(asking.state, "waits");
  await clock.advance(20);
  await answer();
  assert.equal(asking.state, "done");
  await renaming.answer({ ino: THIRD, directory: "none", directories: [] });
});
