/**
 * Repair, simulated from a seed: writers write, dataservers die and come back, replicas rot. In the end every block has its
 * replicas on different hosts, all of its generation, and all hold what was acknowledged last.
 */

import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { type Random, randomInt } from "../../../base/random.ts";
import { dataserverHandlers } from "../../../roles/nameserver/dataserver_service.ts";
import { DeletionQueue } from "../../../roles/nameserver/deletions.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import type { Extent } from "../../../roles/nameserver/records.ts";
import type { Repair } from "../../../roles/nameserver/repair.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import {
  type BlockReportReply,
  COPY_GENERATION,
  type CopyReplicaRequest,
  DATASERVER_PUSHES,
} from "../../../wire/messages/dataserver.ts";
import type { Block } from "../../../wire/messages/inode.ts";
import { type BlockId, type InodeId, type NodeId, ROOT_INODE, type VolumeId } from "../../../wire/ids.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { Schedule } from "../leaseserver/schedule.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeService, REPLICATION, type Service, ServiceClient } from "./service.ts";

const HOSTS = ["a", "b", "c", "d"];
const TOTAL_BYTES = 1e9;
/** Words of a replica; written and copied one after the other. */
const WORDS = 3;
const OPS = DATASERVER_PUSHES.methods;

interface FakeReplica {
  generation: number;
  readonly words: number[];
  /** Counts changes begun. */
  version: number;
  isCorrupt: boolean;
}

class FakeDataserver {
  readonly #world: World;
  readonly host: string;
  readonly replicas = new Map<BlockId, FakeReplica>();
  isUp = false;
  freeBytes = TOTAL_BYTES;
  node = 0 as NodeId;
  volume = 0 as VolumeId;
  #peer: FakePeer | null = null;

  constructor(world: World, host: string) {
    this.#world = world;
    this.host = host;
  }

  /** Comes (back): registers, and reports what it has. */
  async start(): Promise<void> {
    const { service, handlers } = this.#world;
    this.isUp = true;
    this.#peer = new FakePeer((op, message) => this.#answer(op, message));
    const volume = {
      ...(this.volume === 0 ? {} : { volume: this.volume }),
      label: `${this.host}.v`,
      path: "/v",
      totalBytes: TOTAL_BYTES,
      freeBytes: this.freeBytes,
    };
    const registration = { label: this.host, host: this.host, address: `${this.host}:1`, volumes: [volume] };
    const reply = await service.registry.register(registration, this.#peer);
    this.node = reply.node;
    this.volume = reply.volumes[0]!;
    const replicas = [...this.replicas].map(([block, { generation }]) => ({ block, generation }));
    const report = { volume: this.volume, from: 0, to: Number.MAX_SAFE_INTEGER, replicas };
    const { stale, unknown } = await handlers.blockReport(
      report as never,
      this.#peer.context,
    ) as BlockReportReply;
    for (const block of [...stale, ...unknown]) this.replicas.delete(block);
  }

  stop(): void {
    this.isUp = false;
    this.#peer?.close();
  }

  /** The replica, as a request of this generation gets it. */
  find(block: BlockId, generation: number): FakeReplica {
    if (!this.isUp) throw new FsError("ENOTCONN", "down");
    const replica = this.replicas.get(block);
    if (replica === undefined) throw new FsError("ENOENT", "no such replica");
    if (replica.generation !== generation) throw new FsError("ESTALE", `${replica.generation}`);
    return replica;
  }

  #make(block: BlockId, generation: number): void {
    this.replicas.set(block, { generation, words: Array(WORDS).fill(0), version: 0, isCorrupt: false });
  }

  async write({ id, generation }: Block, value: number, create: boolean): Promise<void> {
    if (create && this.isUp && !this.replicas.has(id)) this.#make(id, generation);
    for (let i = 0; i < WORDS; i++) {
      await this.#world.schedule.delay();
      const replica = this.find(id, generation);
      if (replica.isCorrupt) throw new FsError("EIO", "corrupt");
      replica.version++;
      replica.words[i] = value;
    }
  }

  async #answer(op: number, message: unknown): Promise<unknown> {
    const { schedule } = this.#world;
    const { isUp } = this;
    await schedule.delay();
    if (!isUp || !this.isUp) throw new FsError("ENOTCONN", "down");
    const answer = await this.#run(op, message);
    await schedule.delay();
    if (!this.isUp || chance(this.#world.random, this.#world.lost)) {
      throw new FsError("ETIMEDOUT", "the answer is lost");
    }
    return answer;
  }

  async #run(op: number, message: unknown): Promise<unknown> {
    if (op === OPS.setGeneration.op) {
      const { block, from, to, create } = message as {
        block: BlockId;
        from: number;
        to: number;
        create?: boolean;
      };
      const replica = this.replicas.get(block);
      if (this.isUp && replica === undefined && create === true) this.#make(block, to);
      else if (replica?.generation !== to) this.find(block, from).generation = to;
      return { length: WORDS };
    }
    if (op === OPS.replicaState.op) {
      const { block, generation } = message as { block: BlockId; generation: number };
      return { length: WORDS, state: `${this.find(block, generation).version}` };
    }
    if (op === OPS.copyReplica.op) return await this.#copy(message as CopyReplicaRequest);
    if (op === OPS.deleteBlocks.op) {
      const { blocks, upTo } = message as { blocks: BlockId[]; upTo: number[] };
      void this.#delete(blocks, upTo);
    }
    return { ok: true };
  }

  /** Answered before it is done, as by a real one. */
  async #delete(blocks: readonly BlockId[], upTo: readonly number[]): Promise<void> {
    const { schedule, handlers, random, service } = this.#world;
    await service.clock.sleep(randomInt(random, 4_000));
    blocks.forEach((block, i) => {
      // One that is newer has been made since.
      if ((this.replicas.get(block)?.generation ?? 0) <= upTo[i]!) this.replicas.delete(block);
    });
    await schedule.delay();
    if (this.isUp) handlers.blocksDeleted({ volume: this.volume, blocks }, this.#peer!.context);
  }

  async #copy({ block, generation, source }: CopyReplicaRequest): Promise<unknown> {
    const { schedule, servers, handlers } = this.#world;
    const from = servers.find(({ volume }) => volume === source.volume)!;
    const { version } = from.find(block, generation);
    const words: number[] = [];
    for (let i = 0; i < WORDS; i++) {
      await schedule.delay();
      const replica = from.find(block, generation);
      if (replica.isCorrupt) {
        handlers.replicaCorrupt({ volume: source.volume, block, message: "rot" }, this.#peer!.context);
        throw new FsError("EIO", "corrupt");
      }
      words.push(replica.words[i]!);
    }
    if (!this.isUp) throw new FsError("ENOTCONN", "down");
    this.replicas.set(block, { generation: COPY_GENERATION, words, version: 0, isCorrupt: false });
    return { length: WORDS, state: `${version}` };
  }
}

interface World {
  /** The part of answers that is lost. */
  lost: number;
  readonly random: Random;
  readonly schedule: Schedule;
  readonly service: Service;
  readonly repair: Repair;
  readonly deletions: DeletionQueue;
  readonly handlers: ReturnType<typeof dataserverHandlers>;
  readonly servers: FakeDataserver[];
  readonly files: File[];
}

/** A file of one block, its one writer, and what was acknowledged. */
class File {
  readonly #world: World;
  readonly client: ServiceClient;
  ino = 0 as InodeId;
  acknowledged = 0;
  /** Something was begun that is not acknowledged yet. */
  isWriting = false;
  #hasLease = false;
  #writing: Promise<void> = Promise.resolve();

  constructor(world: World, client: ServiceClient) {
    this.#world = world;
    this.client = client;
  }

  /** `between` runs while the block is allocated and nothing is written to it. */
  static async make(
    world: World,
    name: string,
    between: (block: Block) => Promise<void> = async () => {},
  ): Promise<File> {
    const client = await ServiceClient.connect(world.service, name);
    const file = new File(world, client);
    client.onRecall = async () => {
      file.#hasLease = false;
      await file.#writing;
    };
    file.ino = await client.create(name, ROOT_INODE, true);
    file.#hasLease = true;
    const block = await file.#allocate();
    await between(block);
    await file.#store(block, 0, true);
    // Repair hears of replicas that were lost, and finds nothing to copy yet.
    await world.service.clock.sleep(randomInt(world.random, 2_000));
    await client.call("commit", {
      retry: client.tag(),
      ino: file.ino,
      size: 8,
      mtime: { seconds: 9, nanoseconds: 0 },
      written: [{ block: block.id, start: 0 }],
      durable: false,
      killSuidGid: false,
    });
    return file;
  }

  async #allocate(): Promise<Block> {
    const { schedule, random } = this.#world;
    for (;;) {
      const request = { ino: this.ino, offset: 0, host: pick(random, HOSTS), avoid: [] };
      try {
        return (await this.client.callNow("allocateBlock", { retry: this.client.tag(), ...request })).block;
      } catch (error) {
        if (!isErrno(error, "EHOSTUNREACH")) throw error; // all are down
      }
      await schedule.delay();
    }
  }

  extent(): Extent {
    const tx = this.#world.service.namespace.begin();
    return extentAt(tx, tx.inode(this.ino), 0)!;
  }

  async write(value: number): Promise<void> {
    if (!this.#hasLease) {
      await this.client.callNow("acquire", { ino: this.ino, mode: "write" });
      this.#hasLease = true;
    }
    // Begun in the same step, so that a recall waits for it.
    this.isWriting = true;
    this.#writing = this.client.callNow("blocks", { ino: this.ino, offset: 0, length: 1 }).then((
      { blocks },
    ) => this.#store(blocks[0]!, value, false));
    await this.#writing;
    this.acknowledged = value;
    this.isWriting = false;
  }

  /** On all replicas that the block has in the end; those that fail are taken off it. */
  async #store(first: Block, value: number, create: boolean): Promise<void> {
    const { servers, schedule } = this.#world;
    for (let block = first;;) {
      const failed: VolumeId[] = [];
      let isOutOfDate = false;
      await Promise.all(block.replicas.map(async ({ volume }) => {
        try {
          await servers.find((server) => server.volume === volume)!.write(block, value, create);
        } catch (error) {
          if (isErrno(error, "ESTALE")) isOutOfDate = true;
          else failed.push(volume);
        }
      }));
      if (failed.length === 0 && !isOutOfDate) return;
      await schedule.delay();
      const report = { ino: this.ino, start: 0, block: block.id, generation: block.generation, failed };
      try {
        block = (await this.client.callNow("replicaFailed", report)).block;
      } catch (error) {
        if (!isErrno(error, "EAGAIN")) throw error;
      }
    }
  }
}

async function makeWorld(random: Random): Promise<World> {
  const service = await makeService();
  const { namespace, registry, clock, repair } = service;
  const deletions = new DeletionQueue(service.journal, registry, clock, silentLogger);
  const handlers = dataserverHandlers(namespace, registry, deletions, repair, silentLogger);
  const schedule = new Schedule(random, clock);
  const world: World = {
    ...{ lost: 0.03, random, schedule, service, repair, deletions, handlers },
    ...{ servers: [], files: [] },
  };
  for (const host of HOSTS) world.servers.push(new FakeDataserver(world, host));
  return world;
}

/** Replicas of the file that are listed, current, not rotten, and can be reached without this server. */
function goodWithout({ servers }: World, file: File, without: FakeDataserver): number {
  const { volumes, block, generation } = file.extent();
  return servers.filter((server) =>
    server !== without && server.isUp && volumes.includes(server.volume) &&
    server.replicas.get(block)?.generation === generation && !server.replicas.get(block)!.isCorrupt
  ).length;
}

async function makeTrouble(world: World): Promise<void> {
  const { random, servers, files, service: { clock }, schedule } = world;
  for (let i = 0; i < 12; i++) {
    await clock.sleep(randomInt(random, 45_000));
    const server = pick(random, servers);
    if (!server.isUp) {
      await server.start();
      continue;
    }
    const isSafe = (file: File) => goodWithout(world, file, server) > 0;
    if (chance(random, 0.6)) {
      if (files.every(isSafe)) server.stop();
    } else {
      const file = pick(random, files);
      const replica = server.replicas.get(file.extent().block);
      if (replica !== undefined && isSafe(file)) replica.isCorrupt = true;
    }
    await schedule.delay();
  }
  for (const server of servers) {
    if (!server.isUp) await server.start();
    // As a scrubber does in the end.
    for (const [block, { isCorrupt }] of server.replicas) {
      const { volume } = server;
      if (isCorrupt) world.handlers.replicaCorrupt({ volume, block, message: "rot" }, new FakePeer().context);
    }
  }
}

/** What a reader could get of a file that nobody writes to just now: always what was acknowledged. */
function assertReadable({ servers, files }: World): void {
  for (const file of files) {
    if (file.isWriting) continue;
    const { volumes, block, generation } = file.extent();
    for (const { host, volume, replicas } of servers) {
      const replica = replicas.get(block);
      if (!volumes.includes(volume) || replica?.generation !== generation || replica.isCorrupt) continue;
      assert.deepEqual(replica.words, Array(WORDS).fill(file.acknowledged), `block ${block} on ${host}`);
    }
  }
}

function assertRepaired({ servers, files }: World): void {
  for (const file of files) {
    const { volumes, block, generation } = file.extent();
    assert.equal(volumes.length, REPLICATION, `replicas of block ${block}`);
    assert.equal(new Set(volumes).size, REPLICATION, "on different hosts");
    for (const volume of volumes) {
      const { host, replicas } = servers.find((server) => server.volume === volume)!;
      const replica = replicas.get(block);
      assert.deepEqual(
        { words: replica?.words, generation: replica?.generation, isCorrupt: replica?.isCorrupt },
        { words: Array(WORDS).fill(file.acknowledged), generation, isCorrupt: false },
        `block ${block} on ${host}`,
      );
    }
  }
}

/** Gives how many replicas were made. */
async function simulate(random: Random): Promise<number> {
  const world = await makeWorld(random);
  const { service, schedule, servers, files, repair } = world;
  const stopping = new AbortController();
  const tick = () => {
    for (const { isUp, node } of servers) {
      if (isUp && node !== 0) service.registry.heartbeat(node, []);
    }
    assertReadable(world);
    for (const { client } of files) service.leaseserver.sessions.of(client.peer);
  };
  await schedule.run(
    (async () => {
      for (const server of servers) await server.start();
      for (let i = 0; i < 3; i++) files.push(await File.make(world, `f${i}`));
    })(),
    tick,
  );
  const repairing = Promise.all([repair.run(stopping.signal), world.deletions.run(stopping.signal)]);
  let isTrouble = true;
  const keepWriting = async (file: File) => {
    for (let value = 1; isTrouble; value++) {
      await service.clock.sleep(chance(random, 0.1) ? 5_000 : randomInt(random, 400));
      await file.write(value);
    }
  };
  const writing = files.map(keepWriting);
  // Files whose first write meets servers that die.
  for (let i = 3; i < 8; i++) {
    writing.push((async () => {
      await service.clock.sleep(randomInt(random, 200_000));
      const file = await File.make(world, `f${i}`);
      files.push(file);
      await keepWriting(file);
    })());
  }
  const trouble = makeTrouble(world).finally(() => isTrouble = false);
  await schedule.run(Promise.all([...writing, trouble]), tick);
  const settled = async () => {
    for (let i = 0;; i++) {
      try {
        return assertRepaired(world);
      } catch (error) {
        if (i > 400) throw error;
      }
      await service.clock.sleep(500);
    }
  };
  await schedule.run(settled(), tick);
  stopping.abort();
  await schedule.run(repairing, tick);
  return repair.status().copied;
}

seededTest(
  "repair: replicas that took a generation which the server did not come to write down are its block's again",
  async (random) => {
    const world = await makeWorld(random);
    world.lost = 0;
    const { service, schedule, servers, files, repair } = world;
    const tick = () => {
      for (const { isUp, node } of servers) {
        if (isUp && node !== 0) service.registry.heartbeat(node, []);
      }
    };
    await schedule.run(
      (async () => {
        for (const server of servers) await server.start();
        files.push(await File.make(world, "f"));
      })(),
      tick,
    );
    const { block, volumes } = files[0]!.extent();
    for (const server of servers) {
      if (volumes.includes(server.volume)) server.replicas.get(block)!.generation++;
      server.stop();
    }
    const stopping = new AbortController();
    const repairing = repair.run(stopping.signal);
    await schedule.run(
      (async () => {
        // One after the other: who is not back yet must not be left behind.
        for (const server of servers) {
          await server.start();
          await service.clock.sleep(2_000);
        }
        await service.clock.sleep(10_000);
      })(),
      tick,
    );
    assert.equal(repair.status().copied, 0);
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: a block that lost a replica before anything was written to it gets another",
  async (random) => {
    const world = await makeWorld(random);
    world.lost = 0;
    const { service, schedule, servers, files, repair } = world;
    const tick = () => {
      for (const { isUp, node } of servers) {
        if (isUp) service.registry.heartbeat(node, []);
      }
    };
    await schedule.run(Promise.all(servers.map((server) => server.start())), tick);
    const stopping = new AbortController();
    const repairing = repair.run(stopping.signal);
    await schedule.run(
      (async () => {
        await service.clock.sleep(1_000); // the walk over all blocks, as servers have come
        const lose = async ({ replicas }: Block) => {
          const lost = pick(random, replicas).volume;
          servers.find(({ volume }) => volume === lost)!.stop();
        };
        files.push(await File.make(world, "f", lose));
        await service.clock.sleep(10_000);
      })(),
      tick,
    );
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: a block that found no place gets its replica when a full volume has room again",
  async (random) => {
    const world = await makeWorld(random);
    world.lost = 0;
    const { service, schedule, servers, files, repair } = world;
    const tick = () => {
      for (const { isUp, node, volume, freeBytes } of servers) {
        const stats = { volume, totalBytes: TOTAL_BYTES, freeBytes, usedBytes: 0, blocks: 0 };
        if (isUp && node !== 0) service.registry.heartbeat(node, [stats]);
      }
    };
    const full = servers.slice(REPLICATION - 1);
    for (const server of full) server.freeBytes = 0;
    await schedule.run(Promise.all(servers.map((server) => server.start())), tick);
    const stopping = new AbortController();
    const repairing = repair.run(stopping.signal);
    await schedule.run(
      (async () => {
        files.push(await File.make(world, "f"));
        await service.clock.sleep(60_000);
        assert.equal(files[0]!.extent().volumes.length, REPLICATION - 1);
        pick(random, full).freeBytes = TOTAL_BYTES;
        await service.clock.sleep(30_000);
      })(),
      tick,
    );
    assertRepaired(world);
    stopping.abort();
    await schedule.run(repairing, tick);
  },
);

seededTest(
  "repair: whatever fails, blocks have all replicas again, with what was acknowledged",
  async (random) => {
    let copied = 0;
    for (let round = 0; round < 8; round++) copied += await simulate(random);
    assert.ok(copied > 10, `${copied} replicas were made`);
  },
);
