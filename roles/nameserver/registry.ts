/**
 * Dataservers and volumes: who registered, who is reachable, how much room there is, and how to reach each.
 * Identities are stored; what changes by the second (space, connections, heartbeats) is memory only.
 * A node is connected while the connection it registered on lives, and alive while it also sends heartbeats:
 * new blocks go to live nodes only, and a killed dataserver is known as such at once.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import { FsError } from "../../wire/errno.ts";
import { storedCodec } from "../../wire/codec.ts";
import { asNodeId, asVolumeId, type NodeId, type VolumeId } from "../../wire/ids.ts";
import {
  DATASERVER_PUSHES,
  type RegisterReply,
  type RegisterRequest,
  type VolumeStats,
} from "../../wire/messages/dataserver.ts";
import type { ReplicaLocation } from "../../wire/messages/inode.ts";
import type { DataserverStatus } from "../../wire/messages/nameserver.ts";
import { type Client, createClient, type Peer } from "../../wire/service.ts";
import type { IdAllocator } from "./id_allocator.ts";
import type { Journal, Write } from "./journal.ts";
import { nodeKey, TABLE_NODE, TABLE_VOLUME, tableRange, volumeKey } from "./keys.ts";

interface StoredNode {
  readonly node: number;
  readonly label: string;
  readonly host: string;
  readonly address: string;
}

interface StoredVolume {
  readonly volume: number;
  readonly node: number;
  readonly label: string;
  readonly path: string;
}

interface Node {
  readonly id: NodeId;
  readonly label: string;
  host: string;
  address: string;
  peer: Peer | null;
  /** Said that it stops: that its connection ends is no news. */
  hasLeft: boolean;
  /** When it was heard last: a registration, a heartbeat, or that it stops. */
  lastHeardMs: number;
}

interface Volume {
  readonly id: VolumeId;
  readonly node: NodeId;
  readonly label: string;
  path: string;
  /** Volumes with the same one share its space. */
  disk: string;
  /** Its dataserver brought it when it registered last. */
  isPresent: boolean;
  stats: VolumeStats | null;
}

export interface RegistryOptions {
  readonly journal: Journal;
  readonly ids: IdAllocator;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly heartbeatMs: number;
  /** Silence after which a dataserver counts as dead. */
  readonly deadAfterMs: number;
  /** Room that a volume must keep free to get new blocks. */
  readonly reserveBytes: number;
}

const NODES_MAX = 4096;

export class Registry {
  readonly #options: RegistryOptions;
  readonly #nodes = new Map<NodeId, Node>();
  readonly #volumes = new Map<VolumeId, Volume>();
  /** Nobody has had the time to register before. */
  readonly #startedMs: number;

  private constructor(options: RegistryOptions) {
    this.#options = options;
    this.#startedMs = options.clock.monotonicMs();
  }

  static async load(options: RegistryOptions): Promise<Registry> {
    const registry = new Registry(options);
    for (const [, value] of await options.journal.scan(tableRange(TABLE_NODE), NODES_MAX)) {
      const stored = storedCodec.decode(value) as StoredNode;
      const id = asNodeId(stored.node);
      registry.#nodes.set(id, { ...stored, id, peer: null, hasLeft: false, lastHeardMs: -Infinity });
    }
    for (const [, value] of await options.journal.scan(tableRange(TABLE_VOLUME), NODES_MAX * 64)) {
      const stored = storedCodec.decode(value) as StoredVolume;
      const id = asVolumeId(stored.volume);
      registry.#volumes.set(id, {
        ...stored,
        id,
        node: asNodeId(stored.node),
        disk: "",
        isPresent: false,
        stats: null,
      });
    }
    return registry;
  }

  /** A dataserver reports for duty; its identity is stored before the answer leaves. */
  async register(request: RegisterRequest, peer: Peer): Promise<RegisterReply> {
    const { ids, journal, clock, log } = this.#options;
    if (request.volumes.length === 0) {
      throw new FsError("EINVAL", "a dataserver needs a volume", { op: "register" });
    }
    this.#checkVolumes(request);
    const nodeId = this.#identify(request, ids);
    let node = this.#nodes.get(nodeId);
    if (node?.peer !== null && node?.peer !== undefined && node.peer !== peer && this.#beats(node)) {
      const age = Math.round(clock.monotonicMs() - node.lastHeardMs);
      log.info("dataserver registered again over a new connection", { node: nodeId, heartbeatAgeMs: age });
    }
    if (node === undefined) {
      if (this.#nodes.size >= NODES_MAX) throw new FsError("ENOSPC", `already ${NODES_MAX} dataservers`);
      node = {
        id: nodeId,
        label: request.label,
        host: request.host,
        address: request.address,
        peer: null,
        hasLeft: false,
        lastHeardMs: 0,
      };
      this.#nodes.set(nodeId, node);
    }
    node.host = request.host;
    node.address = request.address;
    const writes: Write[] = [[
      nodeKey(nodeId),
      storedCodec.encode({ node: nodeId, label: node.label, host: node.host, address: node.address }),
    ]];
    const volumes: VolumeId[] = [];
    for (const volume of this.#volumes.values()) {
      if (volume.node === nodeId) volume.isPresent = false;
    }
    for (const registration of request.volumes) {
      const known = registration.volume ?? this.#volumeByLabel(registration.label);
      const id = asVolumeId(known ?? ids.next("volume"));
      if (known !== undefined) ids.skip("volume", known);
      const old = this.#volumes.get(id);
      this.#volumes.set(id, {
        id,
        node: nodeId,
        label: registration.label,
        path: registration.path,
        disk: registration.disk ?? `volume ${id}`,
        isPresent: true,
        stats: {
          volume: id,
          totalBytes: registration.totalBytes,
          freeBytes: registration.freeBytes,
          usedBytes: old?.stats?.usedBytes ?? 0,
          blocks: old?.stats?.blocks ?? 0,
        },
      });
      volumes.push(id);
      const stored: StoredVolume = {
        volume: id,
        node: nodeId,
        label: registration.label,
        path: registration.path,
      };
      writes.push([volumeKey(id), storedCodec.encode(stored)]);
    }
    ids.saveTo({ put: (key, value) => writes.push([key, value]) });
    await journal.durable(journal.append(writes));
    node.peer = peer;
    node.hasLeft = false;
    node.lastHeardMs = clock.monotonicMs();
    const registered = node;
    void peer.closed.then(() => {
      if (registered.peer !== peer) return;
      registered.peer = null;
      if (registered.hasLeft) return;
      log.warn("dataserver disconnected", {
        node: nodeId,
        host: registered.host,
        address: registered.address,
      });
    });
    log.info("dataserver registered", { node: nodeId, host: node.host, address: node.address, volumes });
    return { node: nodeId, volumes, heartbeatMs: this.#options.heartbeatMs };
  }

  /** Before anything changes: the numbers that the volumes claim are possible, and theirs. */
  #checkVolumes(request: RegisterRequest): void {
    for (const { volume, label, path } of request.volumes) {
      if (volume === undefined) continue;
      const known = this.#volumes.get(volume);
      if (
        !Number.isInteger(volume) || volume < 1 || volume > 0xffffffff || (known && known.label !== label)
      ) {
        throw new FsError("EPROTO", `volume ${volume} at ${path} is not the one registered by that number`, {
          op: "register",
        });
      }
    }
  }

  #identify(request: RegisterRequest, ids: IdAllocator): NodeId {
    if (request.node !== undefined) {
      ids.skip("node", request.node);
      return request.node;
    }
    for (const node of this.#nodes.values()) {
      if (node.label === request.label) return node.id;
    }
    return asNodeId(ids.next("node"));
  }

  #volumeByLabel(label: string): VolumeId | undefined {
    for (const volume of this.#volumes.values()) {
      if (volume.label === label) return volume.id;
    }
    return undefined;
  }

  heartbeat(nodeId: NodeId, stats: readonly VolumeStats[]): void {
    const node = this.#nodes.get(nodeId);
    if (node === undefined) throw new FsError("ESHUTDOWN", `dataserver ${nodeId} is not registered`);
    node.lastHeardMs = this.#options.clock.monotonicMs();
    for (const report of stats) {
      const volume = this.#volumes.get(report.volume);
      if (volume === undefined || volume.node !== nodeId) continue;
      if (report.failed !== undefined && volume.stats?.failed === undefined) {
        this.#options.log.error("volume failed", { node: nodeId, path: volume.path, why: report.failed });
      }
      volume.stats = report;
    }
  }

  /** The dataserver stops: no new blocks go to it from now on. */
  leave(nodeId: NodeId): void {
    const node = this.#nodes.get(nodeId);
    if (node === undefined) return;
    node.hasLeft = true;
    node.lastHeardMs = this.#options.clock.monotonicMs();
    this.#options.log.info("dataserver left", { node: nodeId, host: node.host, address: node.address });
  }

  #beats(node: Node): boolean {
    return !node.hasLeft && this.#options.clock.monotonicMs() - node.lastHeardMs < this.#options.deadAfterMs;
  }

  isAlive(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    if (volume === undefined || !volume.isPresent || volume.stats?.failed !== undefined) return false;
    return node !== undefined && node.peer !== null && this.#beats(node);
  }

  /** New replicas may be made there. */
  isPlace(volumeId: VolumeId): boolean {
    return this.isAlive(volumeId) && this.#hasRoom(this.#volumes.get(volumeId)!);
  }

  /**
   * It is not to be counted on any more: its disk has failed, its dataserver came back without it, or has not been heard
   * of for the dead time.
   */
  isLost(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    if (volume === undefined || node === undefined || volume.stats?.failed !== undefined) return true;
    if (this.isAlive(volumeId)) return false;
    if (node.peer !== null && this.#beats(node)) return !volume.isPresent;
    const { clock, deadAfterMs } = this.#options;
    return clock.monotonicMs() - Math.max(node.lastHeardMs, this.#startedMs) >= deadAfterMs;
  }

  /** Everybody has had the time to register who is going to. */
  get isComplete(): boolean {
    const { clock, deadAfterMs } = this.#options;
    if (clock.monotonicMs() - this.#startedMs < deadAfterMs) return false;
    return this.volumes.every((volume) => this.isAlive(volume) || this.isLost(volume));
  }

  get volumes(): VolumeId[] {
    return [...this.#volumes.keys()];
  }

  /** A volume for one more replica beside those on `beside`, on another host; undefined when there is none with room. */
  placeBeside(beside: readonly VolumeId[], avoid: (volume: VolumeId) => boolean): VolumeId | undefined {
    const hosts = new Set(
      beside.map((id) => this.#volumes.get(id)).filter((volume) => volume !== undefined)
        .map((volume) => this.#hostOf(volume)),
    );
    const candidates = [...this.#volumes.values()].filter((volume) =>
      this.isAlive(volume.id) && this.#hasRoom(volume) && !hosts.has(this.#hostOf(volume)) &&
      !avoid(volume.id)
    );
    return this.#pickByFreeSpace(candidates)?.id;
  }

  /** The one of these volumes that has the least room. */
  fullest(volumes: readonly VolumeId[]): VolumeId {
    const free = (id: VolumeId) => this.#volumes.get(id)?.stats?.freeBytes ?? 0;
    return volumes.reduce((least, id) => free(id) < free(least) ? id : least);
  }

  location(volumeId: VolumeId): ReplicaLocation {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    return {
      node: node?.id ?? asNodeId(0),
      volume: volumeId,
      address: node?.address ?? "",
      host: node?.host ?? "",
      alive: this.isAlive(volumeId),
    };
  }

  /** What can be asked of the volume's dataserver, over the connection that it registered on; null when it is away. */
  dataserver(volumeId: VolumeId): Client<typeof DATASERVER_PUSHES> | null {
    const peer = this.#peerOf(volumeId);
    return peer && createClient(DATASERVER_PUSHES, (op, request, options) => peer.push(op, request, options));
  }

  #peerOf(volumeId: VolumeId): Peer | null {
    const volume = this.#volumes.get(volumeId);
    return volume === undefined ? null : this.#nodes.get(volume.node)?.peer ?? null;
  }

  connectedVolumes(): VolumeId[] {
    const connected = [...this.#volumes.values()].filter((volume) => this.#peerOf(volume.id) !== null);
    return connected.map(({ id }) => id);
  }

  /**
   * Volumes for the replicas of a new block: on different hosts, the writer's own first, more likely where more is
   * free. Fewer than `count` when there are not enough hosts. ENOSPC when all that live are full; EHOSTUNREACH
   * when none lives (the caller tries again).
   */
  place(count: number, writerHost: string, avoid: readonly number[]): VolumeId[] {
    const live = [...this.#volumes.values()].filter(({ id }) => this.isAlive(id));
    if (live.length === 0) throw new FsError("EHOSTUNREACH", "no dataserver is up", { op: "allocate" });
    const roomy = live.filter((volume) => this.#hasRoom(volume));
    if (roomy.length === 0) throw new FsError("ENOSPC", "every volume is full", { op: "allocate" });
    const preferred = roomy.filter(({ node }) => !avoid.includes(node));
    const chosen: VolumeId[] = [];
    const hosts = new Set<string>();
    const pick = (candidates: readonly Volume[]) => {
      const volume = this.#pickByFreeSpace(candidates);
      if (volume === undefined) return;
      chosen.push(volume.id);
      hosts.add(this.#hostOf(volume));
    };
    pick(preferred.filter((volume) => this.#hostOf(volume) === writerHost));
    for (const candidates of [preferred, roomy]) {
      while (chosen.length < count) {
        const left = candidates.filter((volume) => !hosts.has(this.#hostOf(volume)));
        if (left.length === 0) break;
        pick(left);
      }
    }
    return chosen;
  }

  #hasRoom({ stats }: Volume): boolean {
    return (stats?.freeBytes ?? 0) > this.#options.reserveBytes;
  }

  #hostOf(volume: Volume): string {
    return this.#nodes.get(volume.node)!.host;
  }

  #pickByFreeSpace(candidates: readonly Volume[]): Volume | undefined {
    let total = 0;
    for (const { stats } of candidates) total += stats!.freeBytes;
    let point = this.#options.random.next() * total;
    for (const volume of candidates) {
      point -= volume.stats!.freeBytes;
      if (point <= 0) return volume;
    }
    return candidates.at(-1);
  }

  /** Bytes of the disks of all live volumes, each disk once. */
  space(): { totalBytes: number; freeBytes: number } {
    let totalBytes = 0;
    let freeBytes = 0;
    const counted = new Set<string>();
    for (const { id, disk, stats } of this.#volumes.values()) {
      if (stats === null || counted.has(disk) || !this.isAlive(id)) continue;
      counted.add(disk);
      totalBytes += stats.totalBytes;
      freeBytes += stats.freeBytes;
    }
    return { totalBytes, freeBytes };
  }

  status(): DataserverStatus[] {
    const nowMs = this.#options.clock.monotonicMs();
    return [...this.#nodes.values()].map((node) => ({
      node: node.id,
      host: node.host,
      address: node.address,
      alive: node.peer !== null && this.#beats(node),
      lastHeartbeatSeconds: Number.isFinite(node.lastHeardMs)
        ? Math.round((nowMs - node.lastHeardMs) / 100) / 10
        : -1,
      volumes: [...this.#volumes.values()].filter((volume) => volume.node === node.id).map((volume) => ({
        volume: volume.id,
        path: volume.path,
        totalBytes: volume.stats?.totalBytes ?? 0,
        freeBytes: volume.stats?.freeBytes ?? 0,
        usedBytes: volume.stats?.usedBytes ?? 0,
        blocks: volume.stats?.blocks ?? 0,
        ...(volume.stats?.trashBytes === undefined ? {} : { trashBytes: volume.stats.trashBytes }),
        ...(volume.stats?.scrub === undefined ? {} : { scrub: volume.stats.scrub }),
        ...this.#failure(node, volume),
      })),
    }));
  }

  #failure(node: Node, { stats, isPresent }: Volume): { readonly failed?: string } {
    if (stats?.failed !== undefined) return { failed: stats.failed };
    const cameWithout = !isPresent && node.peer !== null && this.#beats(node);
    return cameWithout ? { failed: "its dataserver was started without it" } : {};
  }
}
