/**
 * A file of one block, and dataservers whose replicas of it are as a test says: for what is settled when replicas differ, or
 * are ahead of their block.
 */

import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { dataserverHandlers } from "../../../roles/nameserver/dataserver_service.ts";
import { DeletionQueue } from "../../../roles/nameserver/deletions.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import type { Extent } from "../../../roles/nameserver/records.ts";
import { FsError } from "../../../wire/errno.ts";
import { type BlockId, type InodeId, type NodeId, ROOT_INODE, type VolumeId } from "../../../wire/ids.ts";
import { COPY_GENERATION, DATASERVER_PUSHES } from "../../../wire/messages/dataserver.ts";
import type { Block } from "../../../wire/messages/inode.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeService, type Service, ServiceClient } from "./service.ts";

/** Between heartbeats. */
const BEAT_MS = 5_000;
const OPS = DATASERVER_PUSHES.methods;

/** Of the one block; `digest` stands for its bytes. */
interface Replica {
  generation: number;
  length: number;
  digest: string;
  isDoubtful?: boolean;
  isCorrupt?: boolean;
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
export class World {
  readonly service: Service;
  readonly handlers: ReturnType<typeof dataserverHandlers>;
  readonly replicas = new Map<VolumeId, Replica>();
  /** By volume: the connection of its dataserver, and its node. */
  readonly #servers = new Map<VolumeId, { readonly peer: FakePeer; readonly node: NodeId }>();
  client!: ServiceClient;
  ino!: InodeId;
  block!: Block;
  /** Before a dataserver says what it holds, or takes a generation. */
  onState: (volume: VolumeId, digest?: boolean) => Promise<void> = () => Promise.resolve();
  onGeneration: (volume: VolumeId) => Promise<void> = () => Promise.resolve();
  /** Before it answers that it has made a copy. */
  onCopy: (volume: VolumeId) => Promise<void> = () => Promise.resolve();
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
    for (const host of hosts) await world.start(host);
    const client = world.client = await ServiceClient.connect(world.service, "c");
    const ino = world.ino = await client.create("f", ROOT_INODE, true);
    const request = { retry: client.tag(), ino, offset: 0, host: "a", avoid: [] };
    world.block = (await client.call("allocateBlock", request)).block;
    return world;
  }

  /** A dataserver comes (back). */
  async start(name: string, host = name, rack = ""): Promise<VolumeId> {
    const peer = new FakePeer((op, message) => this.#answer(op, message as Request));
    const volumes = [{ label: `${name}.v`, path: "/v", totalBytes: 1e9, freeBytes: 1e9 }];
    const { registry } = this.service;
    const reply = await registry.register({ label: name, host, rack, address: `${name}:1`, volumes }, peer);
    const [volume] = reply.volumes;
    this.#servers.set(volume!, { peer, node: reply.node });
    return volume!;
  }

  /** Its dataserver goes. */
  stop(volume: VolumeId): void {
    this.#servers.get(volume)!.peer.close();
    this.#servers.delete(volume);
  }

  /** Its dataserver stops in order: it has said so, and is still connected. */
  leave(volume: VolumeId): void {
    this.service.registry.leave(this.#servers.get(volume)!.node);
  }

  /** Its disk fails to write from now on. */
  fail(volume: VolumeId): void {
    const stats = { volume, totalBytes: 1e9, freeBytes: 1e9, usedBytes: 0, blocks: 0, failed: "I/O error" };
    this.service.registry.heartbeat(this.#servers.get(volume)!.node, [stats]);
  }

  static async make(...hosts: string[]): Promise<World> {
    const world = await World.makeUnwritten(...hosts);
    await world.commit();
    return world;
  }

  /** Its client tells that it has written to it. */
  async commit(): Promise<void> {
    await this.client.call("commit", {
      retry: this.client.tag(),
      ino: this.ino,
      size: 8,
      mtime: { seconds: 9, nanoseconds: 0 },
      written: [{ block: this.block.id, start: 0 }],
      durable: false,
      killSuidGid: false,
    });
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

  hostOf(volume: VolumeId): string {
    return this.service.registry.location(volume).host;
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
    await this.handlers.blockReport(request as never, this.#servers.get(volume)!.peer.context);
  }

  /** One page of its report, in which there is nothing. */
  async reportPart(volume: VolumeId): Promise<void> {
    const request = { volume, from: this.block.id + 100, to: this.block.id + 200, replicas: [] };
    await this.handlers.blockReport(request as never, this.#servers.get(volume)!.peer.context);
  }

  /** Lets Repair work for a while, in which all that are connected send heartbeats. */
  async repairFor(ms: number): Promise<void> {
    const { repair, clock, registry } = this.service;
    const stopping = new AbortController();
    const repairing = repair.run(stopping.signal);
    for (let passed = 0; passed < ms; passed += BEAT_MS) {
      for (const { node } of this.#servers.values()) registry.heartbeat(node, []);
      await clock.advance(Math.min(BEAT_MS, ms - passed));
    }
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
      await this.onCopy(volume);
      return { length: source.length, state: source.digest };
    }
    if (op === OPS.replicaState.op) {
      await this.onState(volume, request.digest);
      const replica = this.#find(volume, request.generation, request.digest);
      return { length: replica.length, state: replica.digest, digest: replica.digest };
    }
    if (op === OPS.verifyReplica.op) {
      const { length, digest, isCorrupt } = this.#find(volume, request.generation);
      return { digest, bytes: length, state: digest, ...isCorrupt === true ? { corrupt: "rot" } : {} };
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
