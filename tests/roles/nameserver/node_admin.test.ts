/** What administrators say of nodes: whom they mean, what is refused, what is kept over a restart. */

import assert from "node:assert/strict";
import { nodeHandlers } from "../../../roles/nameserver/node_admin.ts";
import { asNodeId, asVolumeId, type NodeId, type VolumeId } from "../../../wire/ids.ts";
import type { ForgetRequest, ReplicaPosition, SurveyReply } from "../../../wire/messages/admin.ts";
import type { Block } from "../../../wire/messages/inode.ts";
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

/** A block with data on the nodes that there are. */
async function writeBlock(client: ServiceClient): Promise<Block> {
  const [ino] = [await client.create(`f${client.tag().sequence}`, 1 as never, true)];
  const request = { retry: client.tag(), ino, offset: 0, host: "a", avoid: [] };
  const { block } = await client.callNow("allocateBlock", request);
  await client.callNow("commit", {
    retry: client.tag(),
    ino,
    size: 1024,
    mtime: { seconds: 9, nanoseconds: 0 },
    written: [{ block: block.id, start: block.start }],
    durable: false,
    killSuidGid: false,
  });
  return block;
}

const listed = ({ registry }: Service) => registry.status().map(({ node }) => node);

Deno.test("nodes: one that is there, or that blocks count on, is not forgotten", async () => {
  const service = await makeService();
  const { node: a, peer } = await add(service, "a");
  await add(service, "b");
  const client = await ServiceClient.connect(service, "c");
  await writeBlock(client);
  const { forget } = handlersOf(service);
  const refuses = (errno: "EBUSY" | "ENOTEMPTY" | "ENOENT", request: Partial<ForgetRequest>) =>
    assert.rejects(
      async () => await forget({ node: a, force: false, ...request }, CONTEXT),
      (error) => isErrno(error, errno),
    );
  await refuses("EBUSY", {});
  await refuses("EBUSY", { force: true });
  await refuses("ENOENT", { node: asNodeId(99) });
  peer.close();
  await settle();
  await refuses("ENOTEMPTY", {});
  await refuses("ENOENT", { volume: asVolumeId(99), force: true });
  assert.deepEqual(listed(service), [a, 2]);
});

Deno.test("nodes: what is forgotten stays so over a restart; its numbers are nobody else's, and its own when it is back", async () => {
  let service = await makeService();
  const { node: a, peer } = await add(service, "a", { volumes: 2 });
  const volumes = service.registry.describe(a).volumes;
  await add(service, "b");
  peer.close();
  await settle();
  const reply = await handlersOf(service).forget({ node: a, force: false }, CONTEXT);
  assert.deepEqual(reply, { node: a, host: "a", volumes });
  for (let i = 0; i < 2; i++) {
    assert.deepEqual(listed(service), [2]);
    assert.equal(volumes.some((volume) => service.registry.isAlive(volume)), false);
    assert.equal(volumes.every((volume) => service.registry.isLost(volume)), true);
    service = await restart(service);
  }
  const { node: c } = await add(service, "c");
  assert.ok(c > 2);
  const { registry } = service;
  const registration = { label: "a", host: "a", address: "a:1" };
  const back = await registry.register({
    ...registration,
    node: a,
    volumes: volumes.map((volume, i) => ({
      ...{ volume, label: `a.${i}`, path: `/a.${i}`, totalBytes: 1e9, freeBytes: 1e9 },
    })),
  }, new FakePeer());
  assert.deepEqual([back.node, back.volumes], [a, volumes]);
  assert.deepEqual(listed(service).sort((x, y) => x - y), [a, 2, c]);
});

Deno.test("nodes: forgotten by force, a block's only replica counts again when it is back", async () => {
  const service = await makeService();
  const { node, peer } = await add(service, "a");
  const [volume] = service.registry.describe(node).volumes;
  const client = await ServiceClient.connect(service, "c");
  const { replicas } = await writeBlock(client);
  assert.deepEqual(replicas.map((replica) => replica.volume), [volume]);
  peer.close();
  await settle();
  await handlersOf(service).forget({ node, force: true }, CONTEXT);
  assert.deepEqual(service.registry.location(volume!).alive, false);
  const registered = await service.registry.register({
    ...{ node, label: "a", host: "a", address: "a:1" },
    volumes: [{ volume: volume!, label: "a.0", path: "/a.0", totalBytes: 1e9, freeBytes: 1e9 }],
  }, new FakePeer());
  assert.deepEqual(registered.volumes, [volume]);
  assert.deepEqual(service.registry.location(volume!).alive, true);
  assert.deepEqual((await survey(service, node)).replicas, 1);
});

Deno.test("nodes: a volume that its dataserver came without is forgotten, one that it has is not", async () => {
  const service = await makeService();
  const { registry } = service;
  const { node } = await add(service, "a", { volumes: 2 });
  const [first, second] = registry.describe(node).volumes;
  await registry.register({
    ...{ node, label: "a", host: "a", address: "a:1" },
    volumes: [{ volume: first!, label: "a.0", path: "/a.0", totalBytes: 1e9, freeBytes: 1e9 }],
  }, new FakePeer());
  const forget = async (volume: VolumeId) =>
    await handlersOf(service).forget({ node, volume, force: false }, CONTEXT);
  await assert.rejects(() => forget(first!), (error) => isErrno(error, "EBUSY"));
  assert.deepEqual((await forget(second!)).volumes, [second]);
  assert.deepEqual(registry.describe(node).volumes, [first]);
  assert.deepEqual((await restart(service)).registry.describe(node).volumes, [first]);
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
