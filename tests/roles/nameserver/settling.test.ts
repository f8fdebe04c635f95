/**
 * Replicas that may differ, since their writer or their machines died: what counts is settled before anybody reads, and
 * what differs is taken off.
 */

import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { dataserverHandlers } from "../../../roles/nameserver/dataserver_service.ts";
import { DeletionQueue } from "../../../roles/nameserver/deletions.ts";
import { regularFile, truncateExtents } from "../../../roles/nameserver/block_operations.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import { deletionKey } from "../../../roles/nameserver/keys.ts";
import { decodeNumbers, type Extent } from "../../../roles/nameserver/records.ts";
import { FsError } from "../../../wire/errno.ts";
import { asGeneration, type BlockId, type InodeId, ROOT_INODE, type VolumeId } from "../../../wire/ids.ts";
import { COPY_GENERATION, DATASERVER_PUSHES } from "../../../wire/messages/dataserver.ts";
import type { Block } from "../../../wire/messages/inode.ts";
import { passLooking } from "../leaseserver/harness.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeService, type Service, ServiceClient } from "./service.ts";

const OPS = DATASERVER_PUSHES.methods;

/** Of the one block; `digest` stands for its bytes. */
interface Replica {
  generation: number;
  length: number;
  digest: string;
  isDoubtful?: boolean;
}

interface Request {
  readonly volume: VolumeId;
  readonly block: BlockId;
  readonly generation: number;
  readonly from: number;
  readonly to: number;
  readonly chosen?: boolean;
  readonly create?: boolean;
  readonly digest?: boolean;
  readonly source: { readonly volume: VolumeId };
}

/** A file of one block that client "c" has under WRITE, with data in it, and dataservers whose replicas are as a test says. */
class World {
  readonly service: Service;
  readonly handlers: ReturnType<typeof dataserverHandlers>;
  readonly replicas = new Map<VolumeId, Replica>();
  client!: ServiceClient;
  ino!: InodeId;
  block!: Block;
  /** Before a dataserver says what it holds, or takes a generation. */
  onState: (volume: VolumeId, digest?: boolean) => Promise<void> = () => Promise.resolve();
  onGeneration: (volume: VolumeId) => Promise<void> = () => Promise.resolve();
  /** Before it answers that it has taken one. */
  afterGeneration: (volume: VolumeId) => Promise<void> = () => Promise.resolve();

  private constructor(service: Service) {
    this.service = service;
    const { namespace, registry, repair, journal, clock, recovery, leaseserver: { leases } } = service;
    const deletions = new DeletionQueue(journal, registry, clock, silentLogger);
    this.handlers = dataserverHandlers(
      namespace,
      registry,
      deletions,
      repair,
      leases,
      recovery,
      silentLogger,
    );
  }

  /** Nobody knows of data in it: it may just be written to for the first time. */
  static async makeUnwritten(...hosts: string[]): Promise<World> {
    const world = new World(await makeService());
    for (const host of hosts) {
      const peer = new FakePeer((op, message) => world.#answer(op, message as Request));
      const volumes = [{ label: `${host}.v`, path: "/v", totalBytes: 1e9, freeBytes: 1e9 }];
      await world.service.registry.register({ label: host, host, address: `${host}:1`, volumes }, peer);
    }
    const client = world.client = await ServiceClient.connect(world.service, "c");
    const ino = world.ino = await client.create("f", ROOT_INODE, true);
    const request = { retry: client.tag(), ino, offset: 0, host: "a", avoid: [] };
    world.block = (await client.call("allocateBlock", request)).block;
    return world;
  }

  static async make(...hosts: string[]): Promise<World> {
    const world = await World.makeUnwritten(...hosts);
    const { client, ino } = world;
    await client.call("commit", {
      retry: client.tag(),
      ino,
      size: 8,
      mtime: { seconds: 9, nanoseconds: 0 },
      written: [{ block: world.block.id, start: 0 }],
      durable: false,
      killSuidGid: false,
    });
    return world;
  }

  /** The block's volumes as it was made. */
  get volumes(): [VolumeId, VolumeId] {
    return this.block.replicas.map(({ volume }) => volume) as [VolumeId, VolumeId];
  }

  get extent(): Extent | undefined {
    const tx = this.service.namespace.begin();
    return extentAt(tx, tx.inode(this.ino), 0);
  }

  /** The block's volumes now. */
  get listed(): readonly VolumeId[] {
    return this.extent?.volumes ?? [];
  }

  hold(volume: VolumeId, length: number, digest: string, isDoubtful = false): void {
    this.replicas.set(volume, { generation: this.block.generation, length, digest, isDoubtful });
  }

  /** The volume's dataserver has come back, and says what it has. */
  async report(volume: VolumeId): Promise<void> {
    const replica = this.replicas.get(volume);
    const request = {
      ...{ volume, from: 0, to: Number.MAX_SAFE_INTEGER },
      replicas: replica === undefined
        ? []
        : [{ block: this.block.id, generation: replica.generation, doubtful: replica.isDoubtful }],
    };
    await this.handlers.blockReport(request as never, new FakePeer().context);
  }

  async repairFor(ms: number): Promise<void> {
    const stopping = new AbortController();
    const repairing = this.service.repair.run(stopping.signal);
    await this.service.clock.advance(ms);
    stopping.abort();
    await this.service.clock.advance(1_000);
    await repairing;
  }

  async #answer(op: number, request: Request): Promise<unknown> {
    const { volume } = request;
    if (op === OPS.deleteBlocks.op) return { ok: true };
    if (op === OPS.copyReplica.op) {
      const source = this.#find(request.source.volume, request.generation);
      this.replicas.set(volume, { ...source, generation: COPY_GENERATION });
      return { length: source.length, state: source.digest };
    }
    if (op === OPS.replicaState.op) {
      await this.onState(volume, request.digest);
      const replica = this.#find(volume, request.generation, request.digest);
      return { length: replica.length, state: replica.digest, digest: replica.digest };
    }
    assert.equal(op, OPS.setGeneration.op);
    await this.onGeneration(volume);
    const length = this.#setGeneration(volume, request);
    await this.afterGeneration(volume);
    return { length };
  }

  #setGeneration(volume: VolumeId, request: Request): number {
    const { generation, isDoubtful } = this.replicas.get(volume) ?? {};
    if (generation === request.to && (isDoubtful !== true || request.chosen === true)) {
      this.replicas.get(volume)!.isDoubtful = false;
      return 0;
    }
    if (request.create === true && !this.replicas.has(volume)) {
      this.replicas.set(volume, { generation: request.to, length: 0, digest: "" });
      return 0;
    }
    const replica = this.#find(volume, request.from, request.chosen);
    replica.generation = request.to;
    replica.isDoubtful = false;
    return replica.length;
  }

  #find(volume: VolumeId, generation: number, evenDoubtful = false): Replica {
    const replica = this.replicas.get(volume);
    if (replica === undefined) throw new FsError("ENOENT", "no such replica");
    if (replica.generation !== generation || (replica.isDoubtful === true && !evenDoubtful)) {
      throw new FsError("ESTALE", "not that generation");
    }
    return replica;
  }
}

/** Ends the writer's session by silence, while `other` lives. */
async function endWriter({ service, client }: World, other: ServiceClient): Promise<void> {
  client.onRecall = () => new Promise<void>(() => {});
  const { sessions } = service.leaseserver;
  await passLooking(service.clock, sessions, 9_000);
  sessions.of(other.peer);
  await passLooking(service.clock, sessions, 1_500);
  await service.clock.advance(1_000);
}

Deno.test("settling: a writer died with its last write on one replica: one of the two is left before anybody reads", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "before");
  world.hold(second, 9, "after");
  const gate = Promise.withResolvers<void>();
  world.onState = () => gate.promise;
  const other = await ServiceClient.connect(world.service, "d");
  let isGranted = false;
  const acquired = other.callNow("acquire", { ino: world.ino, mode: "read" }).then(() => isGranted = true);
  await endWriter(world, other);
  assert.equal(isGranted, false, "nobody reads while replicas are compared");
  gate.resolve();
  await acquired;
  assert.deepEqual(world.listed, [second], "of as many the longer one");
});

Deno.test("settling: a writer died: replicas that hold the same stay", async () => {
  const world = await World.make("a", "b");
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const other = await ServiceClient.connect(world.service, "d");
  const acquired = other.callNow("acquire", { ino: world.ino, mode: "read" });
  await endWriter(world, other);
  await acquired;
  assert.deepEqual(world.listed, world.volumes);
  const generations = [...world.replicas.values()].map(({ generation }) => generation);
  assert.deepEqual(generations, [world.block.generation + 1, world.block.generation + 1], "it can't write");
});

Deno.test("settling: a replica that may have got what others did not is compared, unless somebody may write", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "before");
  world.hold(second, 9, "after");
  const tell = async (generation: number) => {
    const replicas = [{ block: world.block.id, generation: asGeneration(generation) }];
    return (await world.handlers.replicasDiffer({ volume: second, replicas }, new FakePeer().context))
      .compared;
  };
  const { generation } = world.block;
  assert.deepEqual([await tell(generation), world.listed], [[], [first, second]], "its writer is there");
  await world.client.release(world.ino);
  assert.deepEqual(await tell(generation - 1), [], "of another generation");
  assert.deepEqual([await tell(generation), world.listed], [[world.block.id], [second]]);
  assert.deepEqual(await tell(generation + 2), [world.block.id], "an only one differs from none");
});

Deno.test("settling: a doubtful replica gives way to one that is not, however short that is", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "whole");
  world.hold(second, 9, "torn", true);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(world.listed.length, 2);
  assert.ok(world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
  for (const volume of world.listed) assert.equal(world.replicas.get(volume)!.digest, "whole");
  assert.equal(world.extent!.chosenAt, undefined, "nothing is lost");
});

Deno.test("settling: of doubtful replicas alone, what one holds is the block's, and the others get that", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "one", true);
  world.hold(second, 9, "two", true);
  await world.report(first);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(world.listed.length, 2);
  assert.ok(world.listed.includes(second) && !world.listed.includes(first), `${world.listed}`);
  for (const volume of world.listed) assert.equal(world.replicas.get(volume)!.digest, "two");
});

Deno.test("settling: an only doubtful replica has taken a generation that nobody heard of: it is the block's", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "torn", true);
  world.replicas.get(first)!.generation++;
  await world.report(first);
  await world.report(second); // it has nothing
  await world.repairFor(20_000);
  assert.ok(world.listed.includes(first));
  assert.equal(world.extent!.generation, world.replicas.get(first)!.generation);
  assert.equal(world.replicas.get(first)!.isDoubtful, false);
});

Deno.test("settling: that the block may have lost something is written down before a doubtful replica counts", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "same", true);
  world.hold(second, 8, "same", true);
  const { generation } = world.block;
  let noted: number | undefined;
  world.onGeneration = async () => {
    noted ??= world.extent!.chosenAt;
  };
  await world.report(first);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(noted, generation + 1, "whoever wrote under a lower generation hears of it");
  const { blocks } = await world.client.call("blocks", { ino: world.ino, offset: 0, length: 1 });
  assert.deepEqual([blocks[0]!.generation, blocks[0]!.chosenAt], [generation + 1, generation + 1]);
});

Deno.test("settling: nothing is chosen of doubtful replicas while one that may be better does not say what it holds", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "one", true);
  world.hold(second, 9, "two", true);
  let isSlow = true;
  world.onState = async (volume, digest) => {
    if (volume === second && digest && isSlow) throw new FsError("ETIMEDOUT", "slow");
  };
  await world.report(first);
  await world.report(second);
  await world.repairFor(20_000);
  assert.deepEqual(world.listed, world.volumes);
  isSlow = false;
  await world.repairFor(20_000);
  assert.deepEqual(world.listed, [second]);
});

Deno.test("settling: who was chosen and whose machine stops again before that is written down is chosen once more", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same", true);
  let stops = 1;
  world.afterGeneration = async (volume) => {
    if (volume !== second) throw new FsError("ETIMEDOUT", "no answer");
    if (stops-- <= 0) return;
    world.replicas.get(second)!.isDoubtful = true;
    await world.report(second);
  };
  await world.report(first);
  await world.report(second);
  await world.repairFor(30_000);
  assert.deepEqual([world.listed, world.replicas.get(second)!.isDoubtful], [[second], false]);
});

Deno.test("settling: an only replica is doubtful: it is the block's", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "gone");
  world.hold(second, 8, "torn");
  const { ino, block, service } = world;
  await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [first]);
  world.replicas.get(second)!.isDoubtful = true;
  await world.report(second);
  await world.repairFor(2_000);
  assert.ok(world.listed.includes(second));
  assert.equal(world.replicas.get(second)!.isDoubtful, false);
});

Deno.test("settling: an only replica of a block that nobody has told of data in is doubtful: its writer goes on with it", async () => {
  const world = await World.makeUnwritten("a", "b");
  const [first, second] = world.volumes;
  const { ino, block, service } = world;
  const { generation } = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [first]);
  world.replicas.set(second, { generation, length: 8, digest: "written", isDoubtful: true });
  await world.report(second);
  await world.repairFor(2_000);
  assert.deepEqual(world.listed, [second]);
  const { isDoubtful, ...chosen } = world.replicas.get(second)!;
  assert.equal(isDoubtful, false);
  const tx = service.namespace.begin();
  assert.equal(extentAt(tx, tx.inode(ino), 0)!.generation, chosen.generation);
  assert.ok(chosen.generation > generation);
});

Deno.test("settling: a doubtful replica of such a block is not chosen where another may hold all", async () => {
  const world = await World.makeUnwritten("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "written");
  world.hold(second, 4, "torn", true);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(world.replicas.get(second)!.isDoubtful, true);
  assert.equal(world.replicas.get(first)!.generation, world.block.generation, "nothing has changed");
});

Deno.test("settling: a replica fails before the block's first write has reached the others: they are there with the new generation, so that it comes too late", async () => {
  const world = await World.makeUnwritten("a", "b");
  const [first, second] = world.volumes;
  const { ino, block, service } = world;
  const changed = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [first]);
  assert.deepEqual(changed.volumes, [second]);
  assert.equal(world.replicas.get(second)?.generation, changed.generation);
  assert.ok(changed.generation > block.generation);
});

Deno.test("repair: a file goes while a copy becomes a replica of its block: the copy is deleted, as it has a generation by then", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "same");
  world.hold(second, 8, "same");
  const { ino, block, service } = world;
  const { generation } = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [second]);
  let copy: VolumeId | undefined;
  world.onGeneration = async (volume) => {
    if (volume === first) return;
    copy ??= volume;
    // As when it was removed before, and whoever had it open has closed it.
    await service.namespace.change((tx) => truncateExtents(tx, regularFile(tx, ino), 0));
  };
  await world.repairFor(10_000);
  assert.equal(world.replicas.get(copy!)?.generation, generation + 1);
  const deletion = service.journal.get(deletionKey(copy!, block.id));
  assert.deepEqual(deletion && decodeNumbers(deletion), [generation + 1]);
});

Deno.test("repair: a copy takes its generation and its answer is lost: it is deleted, and the next one there has a higher one", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "same");
  world.hold(second, 8, "same");
  const { ino, block, service } = world;
  const { generation } = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [second]);
  const lost: VolumeId[] = [];
  world.afterGeneration = async (volume) => {
    if (volume === first || lost.length > 0) return;
    lost.push(volume);
    throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  await world.repairFor(20_000);
  const [copy] = lost;
  const deletion = deletionKey(copy!, block.id);
  assert.deepEqual(decodeNumbers(service.journal.get(deletion)!), [generation + 1]);
  assert.deepEqual(world.listed, [first], "nothing is made where something is to be deleted");
  // Its dataserver has carried it out, and says so.
  world.replicas.delete(copy!);
  service.journal.append([[deletion, null]]);
  await world.repairFor(20_000);
  assert.deepEqual(world.listed, [first, copy]);
  for (const volume of world.listed) assert.equal(world.replicas.get(volume)!.generation, generation + 2);
});
