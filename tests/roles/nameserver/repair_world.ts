/**
 * A simulated cluster for Repair: writers, and dataservers that hold replicas as arrays of words, over a network whose
 * order the seed decides. The nameserver's side is the real one.
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
import { chance, pick } from "../../base/seeded.ts";
import { Schedule } from "../leaseserver/schedule.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeService, type Service, ServiceClient } from "./service.ts";

/** What a dataserver says of itself. */
export interface Spec {
  readonly name: string;
  readonly host: string;
  readonly rack: string;
}

const FOUR_HOSTS: readonly Spec[] = ["a", "b", "c", "d"].map((host) => ({ name: host, host, rack: "" }));
export const TOTAL_BYTES = 1e9;
/** Words of a replica; written and copied one after the other. */
export const WORDS = 3;
const OPS = DATASERVER_PUSHES.methods;

export interface FakeReplica {
  generation: number;
  readonly words: number[];
  /** Counts changes begun. */
  version: number;
  isCorrupt: boolean;
}

export class FakeDataserver {
  readonly #world: World;
  readonly name: string;
  readonly host: string;
  rack: string;
  readonly replicas = new Map<BlockId, FakeReplica>();
  isUp = false;
  /** Its disk fails to write; what is there can be read until a restart, and after it. */
  isFailed = false;
  freeBytes = TOTAL_BYTES;
  node = 0 as NodeId;
  volume = 0 as VolumeId;
  #peer: FakePeer | null = null;

  constructor(world: World, { name, host, rack }: Spec) {
    this.#world = world;
    this.name = name;
    this.host = host;
    this.rack = rack;
  }

  /** Comes (back): registers, and reports what it has. */
  async start(): Promise<void> {
    const { service, handlers } = this.#world;
    this.isUp = true;
    this.isFailed = false;
    this.#peer = new FakePeer((op, message) => this.#answer(op, message));
    const volume = {
      ...(this.volume === 0 ? {} : { volume: this.volume }),
      label: `${this.name}.v`,
      path: "/v",
      totalBytes: TOTAL_BYTES,
      freeBytes: this.freeBytes,
    };
    const { name, host, rack } = this;
    const known = this.node === 0 ? {} : { node: this.node };
    const registration = { ...known, label: name, host, rack, address: `${name}:1`, volumes: [volume] };
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

  fail(): void {
    this.isFailed = true;
    const { volume, freeBytes } = this;
    const stats = {
      volume,
      totalBytes: TOTAL_BYTES,
      freeBytes,
      usedBytes: 0,
      blocks: 0,
      failed: "I/O error",
    };
    this.#world.service.registry.heartbeat(this.node, [stats]);
  }

  #checkDisk(): void {
    if (this.isFailed) throw new FsError("EIO", "the volume has failed");
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
    if (create && this.isUp && !this.isFailed && !this.replicas.has(id)) this.#make(id, generation);
    for (let i = 0; i < WORDS; i++) {
      await this.#world.schedule.delay();
      this.#checkDisk();
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
      this.#checkDisk();
      const replica = this.replicas.get(block);
      if (this.isUp && replica === undefined && create === true) this.#make(block, to);
      else if (replica?.generation !== to) this.find(block, from).generation = to;
      return { length: WORDS };
    }
    if (op === OPS.replicaState.op) {
      const { block, generation } = message as { block: BlockId; generation: number };
      return { length: WORDS, state: `${this.find(block, generation).version}` };
    }
    if (op === OPS.verifyReplica.op) {
      const { block, generation } = message as { block: BlockId; generation: number };
      const { version, isCorrupt } = this.find(block, generation);
      return { digest: "", bytes: 0, state: `${version}`, ...isCorrupt ? { corrupt: "rot" } : {} };
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
    if (this.isFailed) return;
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
    this.#checkDisk();
    this.replicas.set(block, { generation: COPY_GENERATION, words, version: 0, isCorrupt: false });
    return { length: WORDS, state: `${version}` };
  }
}

export interface World {
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
export class File {
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
    // Who makes a file holds WRITE from the beginning: a recall waits until what it has written is committed.
    file.#writing = file.#begin(name, between);
    await file.#writing;
    return file;
  }

  async #begin(name: string, between: (block: Block) => Promise<void>): Promise<void> {
    const { service, random } = this.#world;
    this.ino = await this.client.create(name, ROOT_INODE, true);
    this.#hasLease = true;
    const block = await this.#allocate();
    await between(block);
    await this.#store(block, 0, true);
    // Repair hears of replicas that were lost, and finds nothing to copy yet.
    await service.clock.sleep(randomInt(random, 2_000));
    await this.client.call("commit", {
      retry: this.client.tag(),
      ino: this.ino,
      size: 8,
      mtime: { seconds: 9, nanoseconds: 0 },
      written: [{ block: block.id, start: 0 }],
      durable: false,
      killSuidGid: false,
    });
  }

  async #allocate(): Promise<Block> {
    const { schedule, random, servers } = this.#world;
    for (;;) {
      const request = { ino: this.ino, offset: 0, host: pick(random, servers).host, avoid: [] };
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
        if (!isErrno(error, "EAGAIN") && !isErrno(error, "ENODATA")) throw error;
      }
    }
  }
}

export async function makeWorld(random: Random, specs: readonly Spec[] = FOUR_HOSTS): Promise<World> {
  const service = await makeService();
  const { namespace, registry, clock, repair, recovery, leaseserver: { leases } } = service;
  const deletions = new DeletionQueue(service.journal, registry, clock, silentLogger);
  const handlers = dataserverHandlers(namespace, registry, deletions, repair, leases, recovery, silentLogger);
  const schedule = new Schedule(random, clock);
  const parts = { random, schedule, service, repair, deletions, handlers };
  const world: World = { lost: 0.03, ...parts, servers: [], files: [] };
  for (const spec of specs) world.servers.push(new FakeDataserver(world, spec));
  return world;
}

/** Replicas of the file that are listed, current, not rotten, and can be reached without this server. */
export function goodWithout({ servers }: World, file: File, without: FakeDataserver): number {
  const { volumes, block, generation } = file.extent();
  return servers.filter((server) =>
    server !== without && server.isUp && !server.isFailed && volumes.includes(server.volume) &&
    server.replicas.get(block)?.generation === generation && !server.replicas.get(block)!.isCorrupt
  ).length;
}

/** What a reader could get of a file that nobody writes to just now: always what was acknowledged. */
export function assertReadable({ servers, files }: World): void {
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
