/** Changes of where a block's replicas are, when one or the other server does not answer. */

import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { markWritten } from "../../../roles/nameserver/block_operations.ts";
import type { Replacement } from "../../../roles/nameserver/block_recovery.ts";
import { dataserverHandlers } from "../../../roles/nameserver/dataserver_service.ts";
import { DeletionQueue } from "../../../roles/nameserver/deletions.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import { deletionKey } from "../../../roles/nameserver/keys.ts";
import { decodeNumbers } from "../../../roles/nameserver/records.ts";
import { FsError } from "../../../wire/errno.ts";
import {
  asBlockId,
  asGeneration,
  type InodeId,
  type NodeId,
  ROOT_INODE,
  type VolumeId,
} from "../../../wire/ids.ts";
import { rest } from "../leaseserver/harness.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeService, ServiceClient } from "./service.ts";

/** As makeService has it. */
const DEAD_AFTER_MS = 30_000;

/** A block on a and b, and an empty server each on c and on a's host. */
async function start() {
  const service = await makeService();
  const deaf = new Set<string>();
  const slow = new Map<string, Promise<void>>();
  const asked: string[] = [];
  const patience = new Map<string, number | undefined>();
  const volumes = new Map<string, VolumeId>();
  const nodes = new Map<string, NodeId>();
  const add = async (name: string, host: string) => {
    const peer = new FakePeer(async (_op, message, { timeoutMs }) => {
      patience.set(name, timeoutMs);
      const { from, to } = message as { from: number; to: number };
      asked.push(`${name} ${from}-${to}`);
      if (deaf.has(name)) throw new FsError("ETIMEDOUT", "deaf");
      await slow.get(name);
      return { length: 0 };
    });
    const volume = { label: `${name}.v`, path: "/v", totalBytes: 1e9, freeBytes: 1e9 };
    const reply = await service.registry.register({
      label: name,
      host,
      address: `${name}:1`,
      volumes: [volume],
    }, peer);
    volumes.set(name, reply.volumes[0]!);
    nodes.set(name, reply.node);
  };
  await add("a", "a");
  await add("b", "b");
  const client = await ServiceClient.connect(service, "client");
  const ino = await client.create("f", ROOT_INODE, true);
  const { block } = await client.callNow("allocateBlock", {
    retry: client.tag(),
    ino,
    offset: 0,
    host: "a",
    avoid: [],
  });
  await service.namespace.change((tx) => markWritten(tx, tx.inode(ino), [{ block: block.id, start: 0 }]));
  await add("c", "c");
  await add("a2", "a");
  const extent = () =>
    extentAt(service.namespace.begin(), service.namespace.begin().inode(ino), 0) ??
      assert.fail("no extent");
  const names = () =>
    extent().volumes.map((volume) => [...volumes].find(([, other]) => other === volume)![0]).sort().join();
  const replace = async (remove: string[], keep: number, copy?: string, isExact = true) => {
    asked.length = 0;
    const change: Replacement = {
      remove: remove.map((name) => volumes.get(name)!),
      keep,
      ...(copy === undefined
        ? {}
        : { add: { copy: volumes.get(copy)!, isExact: () => Promise.resolve(isExact) } }),
    };
    return await service.recovery.replace(ino as InodeId, 0, extent(), change);
  };
  const deletedUpTo = (name: string) => {
    const value = service.journal.get(deletionKey(volumes.get(name)!, extent().block));
    return value === undefined ? undefined : decodeNumbers(value)[0];
  };
  const unsettled: unknown[] = [];
  service.recovery.onUnsettled = (...block) => unsettled.push(block);
  const allButOneBeat = async (silent: string) => {
    await service.clock.advance(DEAD_AFTER_MS);
    for (const [name, node] of nodes) if (name !== silent) service.registry.heartbeat(node, []);
  };
  const { namespace, registry, journal, clock, repair, recovery, leaseserver: { leases } } = service;
  const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
  const handlers = dataserverHandlers(namespace, registry, deletions, repair, leases, recovery, silentLogger);
  /** What is answered to a report of the block on this server. */
  const report = async (name: string, generation: number, doubtful = false) => {
    const replicas = [{ block: block.id, generation: asGeneration(generation), doubtful }];
    const request = { volume: volumes.get(name)!, from: asBlockId(0), to: asBlockId(100), replicas };
    return await handlers.blockReport(request, new FakePeer().context);
  };
  /** What is held against the replica on this server. */
  const reported = (name: string) => repair.reportOf(volumes.get(name)!, block.id);
  return {
    slow,
    report,
    reported,
    journal,
    deaf,
    asked,
    patience,
    extent,
    names,
    replace,
    deletedUpTo,
    unsettled,
    allButOneBeat,
  };
}

Deno.test("replicas: a server that hangs, and counts as dead, is not waited for long, as readers wait meanwhile", async () => {
  const { deaf, patience, names, replace, allButOneBeat } = await start();
  await allButOneBeat("a");
  deaf.add("a");
  assert.equal(await replace(["a"], 2, "c"), true);
  assert.equal(names(), "b,c");
  const [a, b, c] = ["a", "b", "c"].map((name) => patience.get(name));
  assert.ok(a! <= 300, `${a} ms`);
  assert.ok(b! >= 1000 && c! >= 1000, `${b} and ${c} ms: who lives may have a slow disk`);
});

Deno.test("replicas: a copy takes the place of another in one step, and none is left that takes writes of before", async () => {
  const { asked, extent, names, replace } = await start();
  assert.equal(names(), "a,b");
  assert.equal(await replace(["a"], 2, "c"), true);
  assert.equal(names(), "b,c");
  assert.equal(extent().generation, 2);
  assert.deepEqual(asked.sort(), ["a 1-2", "b 1-2", "c 0-2"]);
});

Deno.test("replicas: one is not taken off when another that is to stay does not answer", async () => {
  const { deaf, names, replace } = await start();
  deaf.add("b");
  assert.equal(await replace(["a"], 2, "c"), true);
  assert.equal(names(), "a,c");
});

Deno.test("replicas: then a copy on the same host is left out", async () => {
  const { deaf, extent, names, replace, deletedUpTo } = await start();
  deaf.add("b");
  assert.equal(await replace(["a"], 2, "a2"), true);
  assert.equal(names(), "a");
  assert.equal(deletedUpTo("a2"), extent().generation);
});

Deno.test("replicas: a copy that is out of date, or does not answer, changes nothing", async () => {
  const { deaf, asked, extent, names, replace, deletedUpTo, unsettled } = await start();
  assert.equal(await replace(["a"], 2, "c", false), false);
  assert.deepEqual(asked, []);
  deaf.add("c");
  assert.equal(await replace(["a"], 2, "c"), false);
  assert.deepEqual(asked, ["c 0-2"]);
  assert.deepEqual([names(), extent().generation], ["a,b", 1]);
  // It may have taken the generation all the same: it goes, and no other copy there gets the same.
  assert.equal(deletedUpTo("c"), 2);
  assert.equal(unsettled.length, 1);
});

Deno.test("replicas: none is taken off when too few would be left, nor when nobody answers", async () => {
  const { deaf, extent, names, replace } = await start();
  assert.equal(await replace(["a"], 2), true);
  assert.equal(names(), "a,b");
  deaf.add("a").add("b");
  const { generation } = extent();
  assert.equal(await replace(["a"], 1), false);
  assert.deepEqual([names(), extent().generation], ["a,b", generation]);
  deaf.clear();
  assert.equal(await replace(["a"], 1), true);
  assert.equal(names(), "b");
});

Deno.test("replicas: a copy that is reported while it becomes a replica is nobody's to delete", async () => {
  const { slow, report, journal, names, replace, extent } = await start();
  const { block } = extent();
  const nothing = { stale: [], unknown: [] };
  const { promise, resolve } = Promise.withResolvers<void>();
  slow.set("b", promise);
  const replacing = replace(["a"], 2, "c");
  await rest();
  assert.deepEqual(
    await report("c", 2),
    { ...nothing, again: [block] },
    "it has the generation, and the block does not have it yet",
  );
  const reading = Promise.withResolvers<void>();
  const scan = journal.scan.bind(journal);
  journal.scan = async (range, limit) => {
    const found = await scan(range, limit);
    await reading.promise;
    return found;
  };
  const reporting = report("c", 2);
  await rest();
  resolve();
  assert.equal(await replacing, true);
  reading.resolve();
  assert.deepEqual(await reporting, nothing, "the index was read before");
  assert.equal(names(), "b,c");
});

Deno.test("replicas: what a change that was cut short has left is not forgotten, though another is under way when it is reported", async () => {
  const { slow, report, extent, names, replace } = await start();
  const { block } = extent();
  const { promise, resolve } = Promise.withResolvers<void>();
  slow.set("b", promise);
  const replacing = replace(["a"], 1);
  await rest();
  assert.deepEqual(await report("c", 2), { stale: [], unknown: [], again: [block] });
  resolve();
  assert.equal(await replacing, true);
  assert.equal(names(), "b");
  assert.deepEqual(await report("c", 2), { stale: [], unknown: [block] });
});

Deno.test("replicas: a copy whose machine stops while it becomes a replica is known to be doubtful afterwards", async () => {
  const { slow, report, reported, names, replace } = await start();
  const { promise, resolve } = Promise.withResolvers<void>();
  slow.set("b", promise);
  const replacing = replace(["a"], 2, "c");
  await rest();
  await report("c", 2, true);
  resolve();
  assert.equal(await replacing, true);
  assert.deepEqual([names(), reported("b"), reported("c")], ["b,c", undefined, "suspect"]);
});

Deno.test("replicas: what no block has is deleted, or kept aside, by who reports it", async () => {
  const { report, deaf, extent, replace } = await start();
  deaf.add("b");
  const { block } = extent();
  assert.deepEqual(await report("c", 2), { stale: [], unknown: [block] });
  assert.equal(await replace(["a"], 2, "a2"), true);
  assert.deepEqual(await report("a2", 2), { stale: [block], unknown: [] });
});
