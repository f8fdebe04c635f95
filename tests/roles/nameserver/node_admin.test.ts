/** What administrators say of nodes: whom they mean, what is refused, what is kept over a restart. */

import assert from "node:assert/strict";
import { nodeHandlers } from "../../../roles/nameserver/node_admin.ts";
import { asNodeId, type NodeId } from "../../../wire/ids.ts";
import type { ReplicaPosition, SurveyReply } from "../../../wire/messages/admin.ts";
import { isErrno } from "../../../wire/errno.ts";
import { settle } from "../../base/fake_clock.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeService, REPLICATION, type Service, ServiceClient } from "./service.ts";
import { chance, seededTest } from "../../base/seeded.ts";

const MIB = 1024 * 1024;
const CONTEXT = new FakePeer().context;

const handlersOf = ({ namespace, registry }: Service) =>
  nodeHandlers({ namespace, registry, replication: REPLICATION });

async function add(
  { registry }: Service,
  name: string,
  { host = name, rack = "", volumes = 1, freeBytes = 1e9 } = {},
): Promise<{ readonly node: NodeId; readonly peer: FakePeer }> {
  const peer = new FakePeer();
  const { node } = await registry.register({
    label: name,
    host,
    rack,
    address: `${name}:1`,
    volumes: Array.from({ length: volumes }, (_, i) => ({
      label: `${name}.${i}`,
      path: `/${name}.${i}`,
      totalBytes: 1e9,
      freeBytes,
    })),
  }, peer);
  return { node, peer };
}

async function restart(service: Service): Promise<Service> {
  await service.journal.durable(service.journal.position);
  return await makeService(service);
}

async function survey(service: Service, node: NodeId): Promise<SurveyReply & { readonly steps: number }> {
  const sum = { replicas: 0, onlyHere: 0, hostsNeeded: 0 };
  let from: ReplicaPosition | undefined;
  for (let steps = 1;; steps++) {
    const request = from === undefined ? { node } : { node, from };
    const step = await handlersOf(service).surveyNode(request, CONTEXT);
    sum.replicas += step.replicas;
    sum.onlyHere += step.onlyHere;
    sum.hostsNeeded = Math.max(sum.hostsNeeded, step.hostsNeeded);
    if (step.next === undefined) return { ...sum, steps };
    from = step.next;
  }
}

Deno.test("nodes: are found by number, host and address; who could be several is asked for", async () => {
  const service = await makeService();
  const { node: a } = await add(service, "a", { host: "h" });
  const { node: b } = await add(service, "b", { host: "h" });
  const { node: c } = await add(service, "c", { host: String(a) });
  const { node: find } = handlersOf(service);
  const found = async (name: string) => (await find({ name }, CONTEXT)).node;
  assert.equal(await found(String(b)), b);
  assert.equal(await found("b:1"), b);
  assert.equal(await found(String(a)), a, "a number is a number first");
  assert.equal(await found("c:1"), c);
  await assert.rejects(found("h"), (error) => isErrno(error, "EINVAL") && /1, 2/.test(error.message));
  await assert.rejects(found("x"), (error) => isErrno(error, "ENOENT") && /mfs status/.test(error.message));
});

Deno.test("nodes: racks, decommissioning and maintenance are kept over a restart, and over registrations", async () => {
  let service = await makeService();
  const { node } = await add(service, "a", { rack: "r1" });
  await add(service, "b");
  await handlersOf(service).decommission({ node, hostsNeeded: 0, force: false }, CONTEXT);
  await handlersOf(service).maintain({ node, seconds: 3600 }, CONTEXT);
  for (let i = 0; i < 2; i++) {
    service = await restart(service);
    const reply = await handlersOf(service).node({ name: "a" }, CONTEXT);
    assert.deepEqual([reply.rack, reply.state, reply.maintenanceSeconds > 3_500], [
      "r1",
      "decommissioned",
      true,
    ]);
    await add(service, "a", { rack: "r1" });
  }
  await handlersOf(service).recommission({ node }, CONTEXT);
  await handlersOf(service).maintain({ node, seconds: 0 }, CONTEXT);
  service = await restart(service);
  const reply = await handlersOf(service).node({ name: "a" }, CONTEXT);
  assert.deepEqual([reply.state, reply.maintenanceSeconds], ["in service", 0]);
});

Deno.test("nodes: decommissioning needs hosts and room elsewhere, unless it is forced", async () => {
  const service = await makeService();
  const { node } = await add(service, "a");
  await add(service, "b", { freeBytes: 500 * MIB });
  const { decommission } = handlersOf(service);
  const stats = {
    volume: service.registry.describe(node).volumes[0]!,
    totalBytes: 1e9,
    freeBytes: 1,
    blocks: 1,
  };
  service.registry.heartbeat(node, [{ ...stats, usedBytes: 400 * MIB }]);
  const refuses = (hostsNeeded: number, message: RegExp) =>
    assert.rejects(
      async () => await decommission({ node, hostsNeeded, force: false }, CONTEXT),
      (error) => isErrno(error, "ENOSPC") && message.test(error.message),
    );
  await refuses(2, /need 2 hosts/);
  service.registry.heartbeat(node, [{ ...stats, usedBytes: 501 * MIB }]);
  await refuses(1, /has 501 MiB of blocks.* room for 500 MiB/);
  assert.equal(service.registry.isDraining(stats.volume), false);
  await decommission({ node, hostsNeeded: 2, force: true }, CONTEXT);
  assert.equal(service.registry.isDraining(stats.volume), true);
  // Once begun it is not refused: whoever asks again looks on.
  await decommission({ node, hostsNeeded: 9, force: false }, CONTEXT);
});

Deno.test("nodes: in maintenance one may be away until that ends by itself; a failed disk is missed all the same", async () => {
  const service = await makeService();
  const { registry, clock } = service;
  const { node, peer } = await add(service, "a", { volumes: 2 });
  const [first, second] = registry.describe(node).volumes as [never, never];
  await handlersOf(service).maintain({ node, seconds: 600 }, CONTEXT);
  registry.heartbeat(node, [{
    volume: second,
    totalBytes: 1,
    freeBytes: 1,
    usedBytes: 0,
    blocks: 0,
    failed: "EIO",
  }]);
  peer.close();
  await settle();
  await clock.advance(599_000);
  assert.deepEqual([registry.isAlive(first), registry.isLost(first), registry.isLost(second)], [
    false,
    false,
    true,
  ]);
  assert.throws(() => registry.place(1, "a", []), (error) => isErrno(error, "EHOSTUNREACH"));
  await clock.advance(2_000);
  assert.equal(registry.isLost(first), true);
  await assert.rejects(
    async () => await handlersOf(service).maintain({ node, seconds: 1e9 }, CONTEXT),
    (error) => isErrno(error, "EINVAL"),
  );
  assert.throws(() => registry.describe(asNodeId(99)), (error) => isErrno(error, "ENOENT"));
});

seededTest("nodes: a survey counts every replica of all volumes once", async (random) => {
  const service = await makeService();
  const { node, peer } = await add(service, "a", { volumes: 3 });
  const { peer: other } = await add(service, "b");
  const client = await ServiceClient.connect(service, "c");
  // The first volume gets more than one step's.
  const { registry } = service;
  const stats = { totalBytes: 1e9, freeBytes: 2e7, usedBytes: 0, blocks: 0 };
  registry.heartbeat(node, registry.describe(node).volumes.slice(1).map((volume) => ({ volume, ...stats })));
  const count = 2_300;
  let written = 0;
  const [ino] = [await client.create("f", 1 as never, true)];
  for (let i = 0; i < count; i++) {
    const request = { retry: client.tag(), ino, offset: i * 1024, host: "a", avoid: [] };
    const { block } = await client.callNow("allocateBlock", request);
    if (chance(random, 0.9)) continue;
    written++;
    await client.callNow("commit", {
      retry: client.tag(),
      ino,
      size: (i + 1) * 1024,
      mtime: { seconds: 9, nanoseconds: 0 },
      written: [{ block: block.id, start: block.start }],
      durable: false,
      killSuidGid: false,
    });
  }
  assert.deepEqual(await survey(service, node), { replicas: count, onlyHere: 0, hostsNeeded: 2, steps: 4 });
  other.close();
  await settle();
  assert.equal((await survey(service, node)).onlyHere, written);
  peer.close();
});
