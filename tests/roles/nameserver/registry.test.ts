import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { type Random, randomInt, SeededRandom } from "../../../base/random.ts";
import { Registry } from "../../../roles/nameserver/registry.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asNodeId, asVolumeId, type NodeId, type VolumeId } from "../../../wire/ids.ts";
import type { VolumeRegistration } from "../../../wire/messages/dataserver.ts";
import { settle } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeWorld, reopen, type World } from "./harness.ts";

const RESERVE = 1_000;
const DEAD_AFTER_MS = 30_000;

function load(
  { journal, namespace, clock }: World,
  random: Random = new SeededRandom(1),
  deadAfterMs = () => DEAD_AFTER_MS,
): Promise<Registry> {
  return Registry.load({
    journal,
    ids: namespace.ids,
    clock,
    random,
    log: silentLogger,
    heartbeatMs: () => Math.min(3_000, deadAfterMs() / 4),
    deadAfterMs,
    reserveBytes: RESERVE,
  });
}

interface Server {
  readonly node: NodeId;
  readonly volumes: readonly VolumeId[];
  readonly peer: FakePeer;
  readonly host: string;
}

const volumeOf = (label: string, freeBytes: number): VolumeRegistration => ({
  label,
  path: `/${label}`,
  totalBytes: 1_000_000,
  freeBytes,
});

async function add(registry: Registry, name: string, host: string, free: readonly number[]): Promise<Server> {
  const peer = new FakePeer();
  const { node, volumes } = await registry.register({
    label: name,
    host,
    address: `${name}:1`,
    volumes: free.map((freeBytes, i) => volumeOf(`${name}.${i}`, freeBytes)),
  }, peer);
  return { node, volumes, peer, host };
}

const failsWith = (run: () => unknown, errno: "ENOSPC" | "EHOSTUNREACH") =>
  assert.throws(run, (error) => isErrno(error, errno));

seededTest("placement: different hosts, the writer's first, only where there is room", async (random) => {
  for (let round = 0; round < 60; round++) {
    const registry = await load(await makeWorld(), random);
    const servers: Server[] = [];
    const free = new Map<VolumeId, number>();
    for (let i = 1 + randomInt(random, 8); i > 0; i--) {
      const room = Array.from(
        { length: 1 + randomInt(random, 3) },
        () => pick(random, [0, RESERVE, 5_000, 900_000]),
      );
      const server = await add(registry, `n${i}`, `h${randomInt(random, 4)}`, room);
      server.volumes.forEach((volume, j) => free.set(volume, room[j]!));
      servers.push(server);
    }
    const dead = servers.filter(() => chance(random, 0.2));
    for (const { peer } of dead) peer.close();
    await settle();
    const serverOf = (volume: VolumeId) => servers.find(({ volumes }) => volumes.includes(volume))!;
    const live = servers.filter((server) => !dead.includes(server));
    const roomy = [...free].filter(([volume, bytes]) => bytes > RESERVE && live.includes(serverOf(volume)))
      .map(([volume]) => volume);
    const hosts = new Set(roomy.map((volume) => serverOf(volume).host));
    for (let i = 0; i < 40; i++) {
      const count = 1 + randomInt(random, 4);
      const writer = `h${randomInt(random, 5)}`;
      const avoid = servers.filter(() => chance(random, 0.2)).map(({ node }) => node);
      if (live.length === 0 || roomy.length === 0) {
        const mayBringRoom = [...free].some(([volume, bytes]) =>
          bytes > RESERVE && dead.includes(serverOf(volume))
        );
        const isFull = live.length > 0 && !mayBringRoom;
        failsWith(() => registry.place(count, writer, avoid), isFull ? "ENOSPC" : "EHOSTUNREACH");
        continue;
      }
      const chosen = registry.place(count, writer, avoid);
      const chosenHosts = chosen.map((volume) => serverOf(volume).host);
      assert.ok(chosen.every((volume) => roomy.includes(volume)), "live and with room");
      assert.equal(new Set(chosenHosts).size, chosen.length, "no two replicas on a host");
      assert.equal(chosen.length, Math.min(count, hosts.size), "as many as there can be");
      const good = roomy.filter((volume) => !avoid.includes(serverOf(volume).node));
      if (good.some((volume) => serverOf(volume).host === writer)) {
        assert.equal(chosenHosts[0], writer, "the writer's own host first");
      }
      const goodHosts = new Set(good.map((volume) => serverOf(volume).host));
      if (goodHosts.size >= count) {
        assert.ok(
          chosen.every((volume) => good.includes(volume)),
          "avoids who failed while others are there",
        );
      }
    }
  }
});

Deno.test("placement: volumes with more room get more blocks", async () => {
  const registry = await load(await makeWorld(), new SeededRandom(5));
  const [small, large] = [await add(registry, "a", "a", [100_000]), await add(registry, "b", "b", [900_000])];
  let chosenLarge = 0;
  for (let i = 0; i < 2_000; i++) {
    const [volume] = registry.place(1, "elsewhere", []);
    assert.ok([...small.volumes, ...large.volumes].includes(volume!));
    if (large.volumes.includes(volume!)) chosenLarge++;
  }
  assert.ok(chosenLarge > 1_600 && chosenLarge < 1_980, `${chosenLarge} of 2000`);
});

Deno.test("placement: nobody there is EHOSTUNREACH, everything full ENOSPC", async () => {
  const registry = await load(await makeWorld());
  failsWith(() => registry.place(2, "a", []), "EHOSTUNREACH");
  const { peer } = await add(registry, "a", "a", [RESERVE]);
  failsWith(() => registry.place(2, "a", []), "ENOSPC");
  peer.close();
  await settle();
  failsWith(() => registry.place(2, "a", []), "EHOSTUNREACH");
});

Deno.test("placement: it is not full while one that may be back soon may have room", async () => {
  const world = await makeWorld();
  const registry = await load(world);
  await add(registry, "a", "a", [RESERVE]);
  const { peer } = await add(registry, "b", "b", [900_000]);
  peer.close();
  await settle();
  failsWith(() => registry.place(2, "a", []), "EHOSTUNREACH");
  const again = await load(world);
  const { node } = await add(again, "a", "a", [RESERVE]);
  failsWith(() => again.place(2, "a", []), "EHOSTUNREACH"); // what there is of the other is not known
  await world.clock.advance(DEAD_AFTER_MS + 1);
  again.heartbeat(node, []);
  failsWith(() => again.place(2, "a", []), "ENOSPC");
});

Deno.test("placement: a silent dataserver and a failed volume get no blocks until they are back", async () => {
  const world = await makeWorld();
  const registry = await load(world);
  const { node, volumes } = await add(registry, "a", "a", [900_000]);
  const stats = { volume: volumes[0]!, totalBytes: 1e6, freeBytes: 9e5, usedBytes: 0, blocks: 0 };
  await world.clock.advance(DEAD_AFTER_MS + 1);
  failsWith(() => registry.place(1, "a", []), "EHOSTUNREACH");
  registry.heartbeat(node, [stats]);
  assert.deepEqual(registry.place(1, "a", []), volumes);
  registry.heartbeat(node, [{ ...stats, failed: "EIO" }]);
  failsWith(() => registry.place(1, "a", []), "EHOSTUNREACH");
  assert.equal(registry.isAlive(volumes[0]!), false);
  registry.heartbeat(node, [stats]);
  assert.equal(registry.isAlive(volumes[0]!), true);
});

Deno.test("registry: who comes again is the same node and volumes, also after a restart", async () => {
  let world = await makeWorld();
  let registry = await load(world);
  const first = await add(registry, "a", "a", [1, 2]);
  const other = await add(registry, "b", "b", [3]);
  for (let i = 0; i < 2; i++) {
    const again = await add(registry, "a", "renamed", [1, 2]);
    assert.deepEqual([again.node, again.volumes], [first.node, first.volumes]);
    world = await reopen(world);
    registry = await load(world);
    assert.deepEqual(registry.connectedVolumes(), []);
    assert.equal(registry.location(first.volumes[0]!).host, "renamed");
  }
  const third = await add(registry, "c", "c", [4]);
  assert.ok(![first.node, other.node].includes(third.node));
  assert.ok(![...first.volumes, ...other.volumes].includes(third.volumes[0]!));
});

Deno.test("registry: after a start a dataserver is awaited for the dead time, and lost then", async () => {
  const world = await makeWorld();
  const { volumes: [volume] } = await add(await load(world), "a", "a", [1]);
  await world.clock.advance(10 * DEAD_AFTER_MS);
  const registry = await load(world);
  const isAwayAs = () => [registry.isAwaited(volume!), registry.isLost(volume!)];
  assert.deepEqual(isAwayAs(), [true, false]);
  await world.clock.advance(DEAD_AFTER_MS - 1);
  assert.deepEqual(isAwayAs(), [true, false]);
  await world.clock.advance(1);
  assert.deepEqual(isAwayAs(), [false, true]);
});

Deno.test("registry: numbers that a dataserver brings along are not given to another", async () => {
  const registry = await load(await makeWorld());
  const peer = new FakePeer();
  await registry.register({
    node: asNodeId(5),
    label: "old",
    host: "a",
    address: "a:1",
    volumes: [{ ...volumeOf("v", 1), volume: asVolumeId(9) }],
  }, peer);
  const fresh = await add(registry, "new", "b", [1]);
  assert.deepEqual([fresh.node, fresh.volumes], [6, [10]]);
});

Deno.test("registry: another volume under a known number is refused", async () => {
  const registry = await load(await makeWorld());
  const { volumes } = await add(registry, "a", "a", [1]);
  await assert.rejects(
    registry.register({
      label: "b",
      host: "b",
      address: "b:1",
      volumes: [{ ...volumeOf("another", 1), volume: volumes[0]! }],
    }, new FakePeer()),
    (error) => isErrno(error, "EPROTO"),
  );
  assert.equal(registry.location(volumes[0]!).host, "a");
});

Deno.test("registry: a volume that its dataserver no longer brings gets no blocks and is not alive", async () => {
  const registry = await load(await makeWorld());
  const { volumes } = await add(registry, "a", "a", [900_000, 900_000]);
  const { volumes: left } = await add(registry, "a", "a", [900_000]);
  assert.deepEqual(left, [volumes[0]]);
  assert.equal(registry.isAlive(volumes[1]!), false);
  for (let i = 0; i < 20; i++) assert.deepEqual(registry.place(1, "a", []), left);
});

Deno.test("registry: a connection that ends late does not take the newer one along", async () => {
  const registry = await load(await makeWorld());
  const old = await add(registry, "a", "a", [900_000]);
  await add(registry, "a", "a", [900_000]);
  old.peer.close();
  await settle();
  assert.equal(registry.isAlive(old.volumes[0]!), true);
});

Deno.test("registry: another dead time counts; a shorter one when the dataserver has heard of it", async () => {
  const world = await makeWorld();
  const { clock } = world;
  let deadAfterMs = 30_000;
  const registry = await load(world, undefined, () => deadAfterMs);
  const [a, b] = [await add(registry, "a", "h1", [900_000]), await add(registry, "b", "h2", [900_000])];
  const alive = () => [a, b].map(({ volumes }) => registry.isAlive(volumes[0]!));
  await clock.advance(10_000);
  deadAfterMs = 4_000;
  // Neither has sent one since: both were told that every 3 s will do, and 30 s are too long.
  assert.deepEqual(alive(), [true, true]);
  assert.equal(registry.heartbeat(a.node, []), 1_000);
  await clock.advance(3_900);
  assert.deepEqual(alive(), [true, true]);
  await clock.advance(200);
  assert.deepEqual(alive(), [false, true]);
  assert.equal(registry.isLost(a.volumes[0]!), true);
  assert.equal(registry.isLost(b.volumes[0]!), false);
  deadAfterMs = 60_000;
  assert.deepEqual(alive(), [true, true], "a longer one counts at once");
  await clock.advance(40_000);
  assert.equal(registry.isLost(b.volumes[0]!), false);
});

Deno.test("registry: a heartbeat of a stranger is ESHUTDOWN, one about another's volume changes nothing", async () => {
  const registry = await load(await makeWorld());
  assert.throws(() => registry.heartbeat(asNodeId(77), []), (error) => isErrno(error, "ESHUTDOWN"));
  const a = await add(registry, "a", "a", [900_000]);
  const b = await add(registry, "b", "b", [900_000]);
  const stats = { volume: b.volumes[0]!, totalBytes: 1, freeBytes: 0, usedBytes: 0, blocks: 0 };
  registry.heartbeat(a.node, [stats]);
  assert.equal(registry.space().freeBytes, 1_800_000 - 2 * RESERVE);
});
