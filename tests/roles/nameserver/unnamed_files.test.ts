/** Files without a name (O_TMPFILE): how they get one, and when they go. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { isErrno } from "../../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import type { RetryTag } from "../../../wire/messages/nameserver.ts";
import { checkNamespace } from "./consistency.ts";
import {
  addDataservers,
  endLingering,
  makeService,
  type Service,
  ServiceClient,
  startService,
} from "./service.ts";

const isThere = ({ journal }: Service, ino: InodeId) => checkNamespace(journal).inodes.has(ino);

async function createUnnamed(client: ServiceClient, linkable = true, retry: RetryTag = client.tag()) {
  const { attributes, lease } = await client.call("createUnnamed", {
    retry,
    parent: ROOT_INODE,
    credentials: { uid: 3, gid: 4 },
    mode: 0o640,
    linkable,
    host: "a",
  });
  client.openInodes.set(attributes.ino, "write");
  return { ino: attributes.ino, attributes, lease };
}

const link = (client: ServiceClient, ino: InodeId, name: string) =>
  client.call("link", { retry: client.tag(), ino, parent: ROOT_INODE, name: bytesOf(name) });

const refused = (work: Promise<unknown>) => assert.rejects(work, (error) => isErrno(error, "ENOENT"));

Deno.test("unnamed files: a new one has no links, is leased for writing, and changes no directory", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  await addDataservers(service);
  const before = await b.call("getattr", { ino: ROOT_INODE });
  const { ino, attributes, lease } = await createUnnamed(a);
  assert.deepEqual([attributes.nlink, attributes.mode, attributes.uid, attributes.gid, lease], [
    0,
    0o100640,
    3,
    4,
    "write",
  ]);
  assert.deepEqual(await b.call("getattr", { ino: ROOT_INODE }), before);
  assert.deepEqual(b.recalls, []);
  await a.release(ino);
  assert.ok(!isThere(service, ino), "it goes when it is closed");
});

Deno.test("unnamed files: a name keeps one; when that goes, no other name can be given", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const { ino } = await createUnnamed(a);
  assert.equal((await link(a, ino, "f")).attributes.nlink, 1);
  assert.equal((await b.lookup("f")).inode?.attributes.ino, ino);
  assert.deepEqual(service.namespace.sessionsOfOrphan(ino), []);
  await b.remove("f");
  assert.equal((await a.call("getattr", { ino })).attributes.nlink, 0);
  await refused(link(a, ino, "g"));
  await a.release(ino);
  await endLingering(service); // b was told of it
  assert.ok(!isThere(service, ino));

  const { ino: kept } = await createUnnamed(a);
  await link(a, kept, "kept");
  await a.release(kept);
  assert.ok(isThere(service, kept));
});

Deno.test("unnamed files: O_EXCL says that one never gets a name, and an unlinked file never gets one back", async () => {
  const { service, clients: [a] } = await startService("a");
  const { ino } = await createUnnamed(a, false);
  await refused(link(a, ino, "f"));
  const unlinked = await a.create("g");
  await a.remove("g", { ino: unlinked, open: true });
  await refused(link(a, unlinked, "g"));
  checkNamespace(service.journal);
});

Deno.test("unnamed files: one that is created or linked again after a lost answer is there once", async () => {
  const { service, clients: [a] } = await startService("a");
  const retry = a.tag();
  const first = await createUnnamed(a, true, retry);
  const again = await createUnnamed(a, true, retry);
  assert.deepEqual([again.ino, again.lease], [first.ino, "write"]);
  const tag = a.tag();
  const request = { retry: tag, ino: first.ino, parent: ROOT_INODE, name: bytesOf("f") };
  await a.call("link", request);
  assert.equal((await a.call("link", request)).attributes.nlink, 1);
  await a.release(first.ino);
  assert.equal(checkNamespace(service.journal).inodes.size, 2);
});

Deno.test("unnamed files: one goes with its session, and stays over a restart that the session survives", async () => {
  for (const outcome of ["reclaimed", "not open any more", "session over"] as const) {
    const { service: before, clients: [a] } = await startService("a");
    const { ino } = await createUnnamed(a);
    const service = await makeService(before);
    const back = new ServiceClient(service);
    await back.openSession("a");
    if (outcome !== "session over") {
      await back.reclaim(outcome === "reclaimed" ? [{ ino, lease: "write", open: "write" }] : []);
      assert.equal(isThere(service, ino), outcome === "reclaimed", outcome);
      if (outcome === "reclaimed") {
        back.openInodes.set(ino, "write");
        back.tag(); // those of its life before are used
        assert.equal((await link(back, ino, "f")).attributes.nlink, 1);
        const after = await makeService(service);
        assert.deepEqual(after.namespace.sessionsOfOrphan(ino), [], "the name and the orphan are one change");
        assert.ok(isThere(after, ino));
      }
    } else {
      await service.namespace.endSession(back.session);
      assert.ok(!isThere(service, ino));
    }
  }
});
