/** Deletions are delivered to whoever has the volume now. */

import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { dataserverHandlers } from "../../../roles/nameserver/dataserver_service.ts";
import { leaveDeletion } from "../../../roles/nameserver/block_operations.ts";
import { DeletionQueue } from "../../../roles/nameserver/deletions.ts";
import { prefixRange, TABLE_DELETION } from "../../../roles/nameserver/keys.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, asGeneration } from "../../../wire/ids.ts";
import { DATASERVER_PUSHES, type RegisterReply } from "../../../wire/messages/dataserver.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeService } from "./service.ts";

Deno.test("deletions: a dataserver that came back before it did what it was told is told again at once", async () => {
  const { namespace, registry, journal, clock, repair, recovery, leaseserver: { leases } } =
    await makeService();
  const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
  const handlers = dataserverHandlers(namespace, registry, deletions, repair, leases, recovery, silentLogger);
  const orders: unknown[] = [];
  const register = async () => {
    const peer = new FakePeer((op, message) => {
      assert.equal(op, DATASERVER_PUSHES.methods.deleteBlocks.op);
      orders.push(message);
      return { ok: true };
    });
    const volumes = [{ label: "a.v", path: "/v", totalBytes: 1e9, freeBytes: 1e9 }];
    const registration = { label: "a", host: "a", address: "a:1", volumes };
    const reply = await handlers.register(registration, peer.context) as RegisterReply;
    return { peer, volume: reply.volumes[0]! };
  };
  const { peer, volume } = await register();
  const block = asBlockId(7);
  await namespace.change((tx) => leaveDeletion(tx, volume, block, asGeneration(3)));
  const stopping = new AbortController();
  const running = deletions.run(stopping.signal);
  await clock.advance(5_000);
  const order = { volume, blocks: [block], upTo: [asGeneration(3)] };
  assert.deepEqual(orders, [order], "once, while it may be at it");
  peer.close();
  const { peer: next } = await register();
  await clock.advance(2_000);
  assert.deepEqual(orders, [order, order]);
  handlers.blocksDeleted({ volume, blocks: [block] }, next.context);
  await clock.advance(60_000);
  assert.equal(orders.length, 2);
  stopping.abort();
  await clock.advance(1_000);
  await running;
});

Deno.test("deletions: nobody waits for a volume that was forgotten", async () => {
  const { namespace, registry, journal, clock } = await makeService();
  const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
  const volumes = ["v", "w", "x"].map((label) => ({
    label,
    path: `/${label}`,
    totalBytes: 1e9,
    freeBytes: 1e9,
  }));
  const peers = [new FakePeer(), new FakePeer()];
  const [a, b] = await Promise.all(
    peers.map((peer, i) =>
      registry.register({ label: `n${i}`, host: `n${i}`, address: `n${i}:1`, volumes: [volumes[i]!] }, peer)
    ),
  );
  for (const { volumes: [volume] } of [a!, b!]) {
    await namespace.change((tx) => {
      for (let i = 1; i <= 2_500; i++) leaveDeletion(tx, volume!, asBlockId(i), asGeneration(3));
    });
  }
  const left = async ({ volumes: [volume] }: RegisterReply) =>
    (await journal.scan(prefixRange(TABLE_DELETION, volume!), 10_000)).length;
  for (const peer of peers) peer.close();
  const stopping = new AbortController();
  const running = deletions.run(stopping.signal);
  await clock.advance(60_000);
  assert.deepEqual([await left(a!), await left(b!)], [2_500, 2_500]);
  await registry.forget(a!.node);
  await clock.advance(60_000);
  assert.deepEqual([await left(a!), await left(b!)], [0, 2_500]);
  stopping.abort();
  await clock.advance(1_000);
  await running;
});

Deno.test("deletions: a dataserver that refuses an order, as it has too many, is asked again soon", async () => {
  const { namespace, registry, journal, clock } = await makeService();
  const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
  let orders = 0;
  const peer = new FakePeer(() => {
    if (++orders < 3) throw new FsError("EBUSY", "200000 deletions are pending");
    return { ok: true };
  });
  const volumes = [{ label: "a.v", path: "/v", totalBytes: 1e9, freeBytes: 1e9 }];
  const { volumes: [volume] } = await registry.register(
    { label: "a", host: "a", address: "a:1", volumes },
    peer,
  );
  await namespace.change((tx) => leaveDeletion(tx, volume!, asBlockId(7), asGeneration(3)));
  const stopping = new AbortController();
  const running = deletions.run(stopping.signal);
  await clock.advance(5_000);
  assert.equal(orders, 3);
  stopping.abort();
  await clock.advance(1_000);
  await running;
});

Deno.test("deletions: what led to one is on disk before anybody deletes, as an order or as the answer to a report", async () => {
  const { namespace, registry, journal, clock, repair, recovery, leaseserver: { leases } } =
    await makeService();
  const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
  const handlers = dataserverHandlers(namespace, registry, deletions, repair, leases, recovery, silentLogger);
  let orders = 0;
  const peer = new FakePeer(() => {
    orders++;
    return { ok: true };
  });
  const volumes = [{ label: "a.v", path: "/v", totalBytes: 1e9, freeBytes: 1e9 }];
  const registration = { label: "a", host: "a", address: "a:1", volumes };
  const { volumes: [volume] } = await handlers.register(registration, peer.context) as RegisterReply;
  const block = asBlockId(7);
  await namespace.change((tx) => leaveDeletion(tx, volume!, block, asGeneration(3)));
  const left = journal.position;
  const stopping = new AbortController();
  journal.holdDurable();
  const running = deletions.run(stopping.signal);
  await clock.advance(2_000);
  const replicas = [{ block, generation: asGeneration(3) }];
  let stale: readonly unknown[] | undefined;
  const request = { volume: volume!, from: asBlockId(0), to: asBlockId(100), replicas };
  const reporting = (async () => {
    ({ stale } = await handlers.blockReport(request, peer.context));
  })();
  await clock.advance(2_000);
  assert.deepEqual([orders, stale], [0, undefined]);
  assert.ok(journal.durablePositions.at(-1)! >= left);
  journal.release();
  await clock.advance(2_000);
  await reporting;
  assert.deepEqual([orders, stale], [1, [block]]);
  stopping.abort();
  await clock.advance(1_000);
  await running;
});

Deno.test("deletions: one that is to go up to a higher generation by the time that it is said to be gone is sent again", async () => {
  const { namespace, registry, journal, clock } = await makeService();
  const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
  const orders: unknown[] = [];
  const peer = new FakePeer((_op, message) => {
    orders.push((message as { upTo: unknown }).upTo);
    return { ok: true };
  });
  const volumes = [{ label: "a.v", path: "/v", totalBytes: 1e9, freeBytes: 1e9 }];
  const { volumes: [volume] } = await registry.register(
    { label: "a", host: "a", address: "a:1", volumes },
    peer,
  );
  const block = asBlockId(7);
  await namespace.change((tx) => leaveDeletion(tx, volume!, block, asGeneration(3)));
  const stopping = new AbortController();
  const running = deletions.run(stopping.signal);
  await clock.advance(1_000);
  // A copy that was given this generation, and is not wanted.
  await namespace.change((tx) => leaveDeletion(tx, volume!, block, asGeneration(5)));
  deletions.deleted(volume!, [block]);
  await clock.advance(1_000);
  deletions.deleted(volume!, [block]);
  await clock.advance(60_000);
  assert.deepEqual(orders, [[3], [5]]);
  stopping.abort();
  await clock.advance(1_000);
  await running;
});
