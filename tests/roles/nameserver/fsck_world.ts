/** A nameserver with dataservers that answer what a check asks, and `mfs fsck` on it. */

import { bytesOf } from "../../../base/bytes.ts";
import type { Dialer } from "../../../wire/dialer.ts";
import { fsck, type FsckOptions, type FsckResult } from "../../../roles/admin/fsck.ts";
import { fsckHandlers } from "../../../roles/nameserver/fsck_service.ts";
import { allocateBlock, markWritten } from "../../../roles/nameserver/block_operations.ts";
import { replicationHandlers } from "../../../roles/nameserver/replication_service.ts";
import { grow } from "../../../roles/nameserver/operations.ts";
import type { Write } from "../../../roles/nameserver/journal.ts";
import type { Extent } from "../../../roles/nameserver/records.ts";
import { FsError } from "../../../wire/errno.ts";
import { type BlockId, type InodeId, ROOT_INODE, type VolumeId } from "../../../wire/ids.ts";
import { ADMIN } from "../../../wire/messages/admin.ts";
import {
  COPY_GENERATION,
  DATASERVER_PUSHES,
  type ListReplicasRequest,
} from "../../../wire/messages/dataserver.ts";
import { NAMESERVER } from "../../../wire/messages/nameserver.ts";
import { LocalChannel } from "../../../wire/local.ts";
import { addHandlers, type CallContext, type Handlers } from "../../../wire/service.ts";
import { settle } from "../../base/fake_clock.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeFile } from "./harness.ts";
import { makeService, REPLICATION, type Service } from "./service.ts";

const OPS = DATASERVER_PUSHES.methods;
export const BLOCK_BYTES = 1024;

export interface FakeReplica {
  generation: number;
  length: number;
  fileBytes: number;
  /** Equal for equal bytes. */
  digest: string;
  corrupt?: string;
  /** Its machine has stopped while it was written: it is stale to all, and takes a generation only when it is chosen. */
  isDoubtful?: boolean;
}

/** A dataserver of one volume. */
export class FakeVolume {
  readonly host: string;
  readonly #label: string;
  readonly replicas = new Map<BlockId, FakeReplica>();
  volume = 0 as VolumeId;
  peer = new FakePeer();
  /** Before it answers a list. */
  onList: () => Promise<void> | void = () => {};
  /** Before it says what a replica holds. */
  onState: () => void = () => {};
  /** After a replica has taken a generation, before it is answered. */
  onGeneration: () => void = () => {};

  constructor(host: string, label: string) {
    this.host = host;
    this.#label = label;
  }

  /** Comes, or is back over another connection. */
  async register({ registry }: Pick<Service, "registry">, rack = ""): Promise<void> {
    this.peer = new FakePeer((op, message) => this.#answer(op, message));
    const { volumes: [id] } = await registry.register({
      label: this.#label,
      host: this.host,
      rack,
      address: `${this.host}:1`,
      volumes: [{
        ...(this.volume === 0 ? {} : { volume: this.volume }),
        ...{ label: `${this.#label}.v`, path: "/v", totalBytes: 1e9, freeBytes: 1e9 },
      }],
    }, this.peer);
    this.volume = id!;
  }

  async #answer(op: number, message: unknown): Promise<unknown> {
    if (op === OPS.listReplicas.op) {
      const { blocks, from = 0, limit = 1000 } = message as ListReplicasRequest;
      const ids = blocks ??
        [...this.replicas.keys()].filter((block) => block >= from).sort((a, b) => a - b).slice(0, limit);
      const listed = ids.filter((block) => this.replicas.has(block)).map((block) => {
        const { generation, length, fileBytes } = this.replicas.get(block)!;
        return { block, generation, length, fileBytes, isFinal: true };
      });
      await this.onList();
      return { replicas: listed };
    }
    const { block, generation, from, to, chosen, create, digest: isAsked } = message as {
      block: BlockId;
      generation?: number;
      from?: number;
      to?: number;
      chosen?: boolean;
      create?: boolean;
      digest?: boolean;
    };
    if (op === OPS.replicaState.op) this.onState();
    if (op === OPS.copyReplica.op) {
      const copied = { length: BLOCK_BYTES, fileBytes: BLOCK_BYTES, digest: `${block}` };
      this.replicas.set(block, { generation: COPY_GENERATION, ...copied });
      return { state: `${block}.${generation}`, length: BLOCK_BYTES };
    }
    if (create === true && !this.replicas.has(block)) {
      this.replicas.set(block, { generation: to!, length: 0, fileBytes: 0, digest: "" });
    }
    const replica = this.replicas.get(block);
    if (replica === undefined) throw new FsError("ENOENT", "no such replica");
    if (replica.isDoubtful === true && chosen !== true && isAsked !== true) {
      throw new FsError("ESTALE", "doubtful");
    }
    if (op === OPS.setGeneration.op) {
      replica.isDoubtful = false;
      if (replica.generation !== to && replica.generation !== from) throw new FsError("ESTALE", "generation");
      replica.generation = to!;
      this.onGeneration();
      return { length: replica.length };
    }
    if (replica.generation !== generation) throw new FsError("ESTALE", "generation");
    const state = { state: `${replica.digest}.${replica.generation}`, length: replica.length };
    if (op === OPS.replicaState.op) return isAsked === true ? { ...state, digest: replica.digest } : state;
    if (op === OPS.verifyReplica.op) {
      const { digest, length: bytes, corrupt } = replica;
      return { digest, bytes, state: state.state, ...corrupt === undefined ? {} : { corrupt } };
    }
    throw new FsError("ENOSYS", `operation ${op}`);
  }
}

export interface FsckWorld extends Service {
  readonly volumes: readonly FakeVolume[];
  readonly dialer: Dialer;
  readonly admin: ReturnType<typeof fsckHandlers> & ReturnType<typeof replicationHandlers>;
}

export async function makeFsckWorld(hosts: readonly string[] = ["a", "b", "c"]): Promise<FsckWorld> {
  const service = await makeService();
  const volumes = hosts.map((host, i) => new FakeVolume(host, `${i}`));
  for (const volume of volumes) await volume.register(service);
  const table = new Map<number, (request: unknown, context: CallContext) => unknown>();
  addHandlers(table, NAMESERVER, service.handlers);
  const admin = {
    ...fsckHandlers(service),
    ...replicationHandlers({ ...service, replication: REPLICATION }),
  };
  addHandlers(table, ADMIN, admin as Handlers<typeof ADMIN>); // backups are not asked for here
  const dialer = {
    dial: () => Promise.resolve({ channel: new LocalChannel(table, "admin", "test"), clusterId: "c" }),
  } as unknown as Dialer;
  return { ...service, volumes, dialer, admin };
}

/** Makes a file of so many written blocks. */
export async function writeFile(
  world: FsckWorld,
  name: string,
  parent: InodeId = ROOT_INODE,
  blocks = 1,
): Promise<InodeId> {
  const extents: Extent[] = [];
  const ino = await world.namespace.change((tx) => {
    const inode = makeFile(tx, name, parent);
    for (let i = 0; i < blocks; i++) {
      const place = () => world.registry.place(REPLICATION, "", []);
      extents.push(allocateBlock(tx, inode, i * BLOCK_BYTES, BLOCK_BYTES, place));
    }
    grow(tx, inode, blocks * BLOCK_BYTES);
    markWritten(tx, inode, extents);
    return inode.ino;
  });
  for (const extent of extents) {
    for (const volume of world.volumes) {
      if (extent.volumes.includes(volume.volume)) volume.replicas.set(extent.block, replicaOf(extent));
    }
  }
  return ino;
}

export function replicaOf({ generation, block }: Extent): FakeReplica {
  return { generation, length: BLOCK_BYTES, fileBytes: BLOCK_BYTES, digest: `${block}` };
}

/** Damages the database behind the namespace's back. */
export function damage({ journal }: Service, ...writes: Write[]): void {
  journal.append(writes);
}

/** Runs the command; time goes on while it waits. */
export async function runFsck(
  { dialer, clock, registry, volumes }: FsckWorld,
  options: Partial<FsckOptions> = {},
): Promise<FsckResult> {
  let isDone = false;
  const running = fsck({ nameserver: "n:1", dialer, isQuiet: true, ...options }).finally(() => isDone = true);
  running.catch(() => {});
  for (let idle = 0; !isDone; idle++) {
    await settle();
    if (idle % 20 !== 19) continue;
    for (const node of registry.status()) {
      if (node.alive && volumes.length > 0) registry.heartbeat(node.node as never, []);
    }
    await clock.advance(100);
  }
  return await running;
}

/** What was found, "kind path" in order; of what has no path, the kind. */
export function kindsOf({ problems }: FsckResult): string[] {
  return problems.map(({ kind, path }) => path === undefined ? kind : `${kind} ${path}`).sort();
}

export const name = bytesOf;
