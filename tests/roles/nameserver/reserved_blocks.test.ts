/** Blocks that a client has before it tells of the files that get them. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { dataserverHandlers } from "../../../roles/nameserver/dataserver_service.ts";
import { DeletionQueue } from "../../../roles/nameserver/deletions.ts";
import { extentsIn } from "../../../roles/nameserver/extents.ts";
import {
  deletionKey,
  replicaKey,
  reservedKey,
  TABLE_DELETION,
  TABLE_RESERVED,
  tableRange,
} from "../../../roles/nameserver/keys.ts";
import type { ReservedBlock } from "../../../roles/nameserver/reserved_blocks.ts";
import { asInodeId, type BlockId, ROOT_INODE } from "../../../wire/ids.ts";
import type { DeferredChange, DeferredMake } from "../../../wire/messages/deferred.ts";
import type { Block } from "../../../wire/messages/inode.ts";
import { S_IFDIR, S_IFREG } from "../../../wire/messages/inode.ts";
import { FakePeer } from "./fake_peer.ts";
import { addDataservers, makeService, REPLICATION, type Service, startService } from "./service.ts";

const TIME = { seconds: 1_800_000_000, nanoseconds: 5 };

/** Client `a` has a directory alone. */
async function start() {
  const { service, clients: [a, b] } = await startService("a", "b");
  await addDataservers(service);
  const { attributes: { ino: parent } } = await a.call("make", {
    ...{ retry: a.tag(), parent: ROOT_INODE, name: bytesOf("d"), mode: S_IFDIR | 0o755 },
    ...{ credentials: { uid: 0, gid: 0 }, wantsFound: true },
  });
  const { first } = await a.call("reserveInodes", { count: 100 });
  const make = (number: number, block?: BlockId): DeferredMake => ({
    ...{ kind: "make", time: TIME, ino: asInodeId(first + number), parent, name: bytesOf(`f${number}`) },
    ...{ uid: 1, gid: 2, mode: S_IFREG | 0o666, umask: 0o22, write: true },
    ...block === undefined ? {} : { block },
  });
  const reserve = async (count: number, unused: readonly BlockId[] = [], client = a) =>
    (await client.call("reserveBlocks", { count, host: "a", unused })).blocks;
  const tell = (...changes: DeferredChange[]) => a.call("defer", { retry: a.tag(), changes });
  return { service, a, b, make, reserve, tell, inode: (number: number) => asInodeId(first + number) };
}

async function rows({ journal }: Service, table: number): Promise<number> {
  await journal.durable(journal.position);
  return (await journal.scan(tableRange(table), 10_000)).length;
}

/** What the dataserver of a volume that has these is told. */
async function report(service: Service, blocks: readonly Block[]) {
  const { namespace, registry, journal, clock, repair, recovery, leaseserver: { leases } } = service;
  const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
  const handlers = dataserverHandlers(namespace, registry, deletions, repair, leases, recovery, silentLogger);
  const { volume } = blocks[0]!.replicas[0]!;
  const replicas = blocks.map(({ id, generation }) => ({ block: id, generation }));
  const request = { volume, from: 0, to: Number.MAX_SAFE_INTEGER, replicas };
  return await handlers.blockReport(request as never, new FakePeer().context);
}

Deno.test("reserved blocks: a file that is told of later has what was written before", async () => {
  const { service, a, make, reserve, tell, inode } = await start();
  const [one, two] = await reserve(2);
  assert.deepEqual([one!.start, one!.length, one!.written, one!.replicas.length], [
    0,
    1024,
    false,
    REPLICATION,
  ]);
  assert.ok(one!.replicas.every(({ address }) => address !== ""));
  assert.notEqual(one!.id, two!.id);
  assert.deepEqual(await tell(make(1, one!.id)), { applied: 1 });
  const extents = await service.namespace.look((tx) => extentsIn(tx, tx.inode(inode(1)), 0, Infinity, 9));
  const volumes = one!.replicas.map(({ volume }) => volume);
  const { id: block, generation } = one!;
  assert.deepEqual(extents, [{
    block,
    start: 0,
    length: 1024,
    generation,
    written: false,
    allocated: 0,
    volumes,
  }]);
  for (const volume of volumes) assert.ok(service.journal.get(replicaKey(volume, block)) !== undefined);
  assert.equal(service.journal.get(reservedKey(a.session, block)), undefined);
  assert.deepEqual([service.namespace.reserved.has(block), service.namespace.reserved.has(two!.id)], [
    false,
    true,
  ]);
  const { blocks } = await a.call("blocks", { ino: inode(1), offset: 0, length: 1 });
  assert.deepEqual(blocks.map(({ id }) => id), [block]);
});

Deno.test("reserved blocks: one that was given while there were too few servers gets its other replicas", async () => {
  const { service, a, make, tell, inode } = await start();
  const { registry, namespace, repair } = service;
  const [volume] = registry.volumes;
  const [{ block }] = await namespace.reserved.reserve(a.session, 1, [], () => [volume!]) as [ReservedBlock];
  assert.equal(repair.status().waiting, 0);
  const report = { size: 10, mtime: TIME, killSuidGid: false, written: [{ block, start: 0 }] };
  const reply = await tell(make(1, block), { kind: "report", time: TIME, ino: inode(1), ...report });
  assert.deepEqual([reply, repair.status().waiting], [{ applied: 2 }, 1]);
});

Deno.test("reserved blocks: given to one session, for one file", async () => {
  const { service, b, make, reserve, tell } = await start();
  const [mine] = await reserve(1);
  const [theirs] = await reserve(1, [], b);
  assert.equal((await tell(make(1, theirs!.id))).applied, 0);
  assert.equal((await tell(make(1, mine!.id), make(2, mine!.id))).applied, 1);
  assert.match((await tell(make(2, mine!.id))).refusal!, /not reserved/);
  assert.equal(await rows(service, TABLE_RESERVED), 1, "theirs");
});

Deno.test("reserved blocks: their replicas are nobody's strays, over a restart as well; others are", async () => {
  const { service, reserve } = await start();
  const reserved = await reserve(2);
  const stray: Block = { ...reserved[0]!, id: reserved[1]!.id + 5 as BlockId };
  assert.deepEqual(await report(service, [...reserved, stray]), { stale: [], unknown: [stray.id] });
  const restarted = await makeService(service);
  assert.deepEqual(await report(restarted, [...reserved, stray]), { stale: [], unknown: [stray.id] });
  await reserve(1, [reserved[1]!.id]);
  assert.deepEqual(await report(service, reserved), { stale: [], unknown: [reserved[1]!.id] });
});

Deno.test("reserved blocks: with the session they go, and their replicas, but not those of files", async () => {
  const { service, a, make, reserve, tell, inode } = await start();
  const [used, left] = await reserve(2);
  const report = { size: 10, mtime: TIME, killSuidGid: false, written: [{ block: used!.id, start: 0 }] };
  await tell(make(1, used!.id), { kind: "report", time: TIME, ino: inode(1), ...report });
  await service.leaseserver.handlers.closeSession({}, a.peer.context);
  await service.clock.advance(1_000);
  assert.equal(await rows(service, TABLE_RESERVED), 0);
  assert.equal(service.namespace.reserved.has(left!.id), false);
  for (const { volume } of left!.replicas) {
    assert.ok(service.journal.get(deletionKey(volume, left!.id)) !== undefined);
  }
  assert.equal(await rows(service, TABLE_DELETION), REPLICATION);
});

Deno.test("reserved blocks: bounded; what is no count is refused; without room there is none", async () => {
  const { service, a, reserve } = await start();
  for (const count of [0, 65, NaN]) await assert.rejects(reserve(count), { errno: "EPROTO" });
  await assert.rejects(a.call("reserveBlocks", { count: 1, host: "a", unused: 7 as never }), {
    errno: "EPROTO",
  });
  let given = 0;
  for (let i = 0; i < 20; i++) given += (await reserve(64)).length;
  assert.equal(given, 1024);
  assert.equal(await rows(service, TABLE_RESERVED), 1024);
  const empty = await startService("a");
  assert.deepEqual(await empty.clients[0].call("reserveBlocks", { count: 3, host: "a", unused: [] }), {
    blocks: [],
  });
});
