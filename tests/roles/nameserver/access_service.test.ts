/** Times of access on the nameserver: set once by whoever reads first, seen by all, and nothing else is disturbed. */

import assert from "node:assert/strict";
import { timespecCompare } from "../../../base/clock.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asInodeId, type InodeId } from "../../../wire/ids.ts";
import { ACCESSED_MAX } from "../../../wire/messages/nameserver.ts";
import { type ServiceClient, since, startService } from "./service.ts";

async function attributes(client: ServiceClient, ino: InodeId) {
  return (await client.call("getattr", { ino })).attributes;
}

const accessed = (client: ServiceClient, ino: InodeId, version: number, always = false) =>
  client.call("accessed", { inodes: [{ ino, version }], always });

Deno.test("accessed: the time is set to now, and neither mtime nor ctime", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  const before = await attributes(a, ino);
  await service.clock.advance(5_000);
  const { inodes: [reply] } = await accessed(a, ino, before.version);
  const { atime, version, ...rest } = reply!.attributes;
  const { atime: _, version: __, ...restBefore } = before;
  assert.deepEqual([atime, rest], [service.clock.now(), restBefore]);
  assert.ok(version > before.version);
  assert.equal(reply!.lease, "read");
  assert.deepEqual(await attributes(a, ino), reply!.attributes);
});

Deno.test("accessed: others give up the attributes only, and their leases stay; who comes second disturbs nobody", async () => {
  const { service, clients: [a, b, c] } = await startService("a", "b", "c");
  const ino = await a.create("f");
  await a.release(ino, "read");
  const { version } = await attributes(b, ino);
  await attributes(c, ino);
  const [toA, toB, toC] = [since(a), since(b), since(c)];
  await service.clock.advance(5_000);
  const { inodes: [first] } = await accessed(b, ino, version);
  assert.deepEqual([toA(), toB(), toC()], [[`${ino} write attributes`], [], [`${ino} write attributes`]]);
  assert.deepEqual(service.leaseserver.leases.status().read >= 3, true);
  await service.clock.advance(5_000);
  const { inodes: [second] } = await accessed(c, ino, version);
  assert.deepEqual(second!.attributes, first!.attributes, "by the version of before: it is not due any more");
  assert.deepEqual([toB(), toA().length], [[], 1]);
});

Deno.test("accessed: who knows the newest version knows best, as of writes that it has not reported", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  const { version } = await attributes(a, ino);
  await service.clock.advance(1_000);
  const { inodes: [first] } = await accessed(a, ino, version);
  await service.clock.advance(1_000);
  const { inodes: [second] } = await accessed(a, ino, first!.attributes.version);
  assert.ok(timespecCompare(second!.attributes.atime, first!.attributes.atime) > 0);
});

Deno.test("accessed: a time that was set after the access stays, whenever that is told", async () => {
  const { service, clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f");
  const { version } = await attributes(b, ino);
  await service.clock.advance(1_000);
  const time = service.clock.now();
  await service.clock.advance(10);
  const set = { seconds: 528, nanoseconds: 5 };
  await a.call("setattr", { retry: a.tag(), ino, atime: set });
  await b.call("accessed", { inodes: [{ ino, version, time }], always: false });
  assert.deepEqual((await attributes(b, ino)).atime, set);
  await service.clock.advance(10);
  const later = service.clock.now();
  await b.call("accessed", { inodes: [{ ino, version, time: later }], always: false });
  assert.deepEqual((await attributes(b, ino)).atime, later);
});

Deno.test("accessed: a writer keeps its lease, and is not asked for what it has buffered", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const ino = await a.create("f", undefined, true);
  const toA = since(a);
  await b.call("accessed", { inodes: [{ ino, version: -1 }], always: true });
  assert.ok(!toA().some((item) => item.includes("read") || item.includes("none")), `${toA()}`);
});

Deno.test("accessed: always, also what is not due; what is gone is left out; too many at once are refused", async () => {
  const { service, clients: [a] } = await startService("a");
  const ino = await a.create("f");
  await service.clock.advance(1_000);
  const { inodes: [first] } = await accessed(a, ino, -1, true);
  await service.clock.advance(1_000);
  const { inodes: [second] } = await accessed(a, ino, -1, true);
  assert.ok(timespecCompare(second!.attributes.atime, first!.attributes.atime) > 0);
  assert.deepEqual(await accessed(a, asInodeId(12_345), 1), { inodes: [] });
  const many = Array.from({ length: ACCESSED_MAX + 1 }, () => ({ ino, version: 1 }));
  await assert.rejects(
    a.call("accessed", { inodes: many, always: false }),
    (error) => isErrno(error, "EPROTO"),
  );
});
