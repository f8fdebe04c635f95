/**
 * Dataservers and volumes: who registered, who is reachable, how much room there is, how to reach each, and what
 * administrators have said about it (decommissioning, maintenance).
 * Identities and that are stored; what changes by the second (space, connections, heartbeats) is memory only.
 * A node is connected while the connection it registered on lives, and alive while it also sends heartbeats:
 * new blocks go to live nodes only, and a killed dataserver is known as such at once.
 */

import type { Clock } from "../../base/clock.ts";
import { type Live, readerOf } from "../../base/live.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import { FsError } from "../../wire/errno.ts";
import { asNodeId, asVolumeId, type NodeId, type VolumeId } from "../../wire/ids.ts";
import {
  DATASERVER_PUSHES,
  type RegisterReply,
  type RegisterRequest,
  type VolumeStats,
} from "../../wire/messages/dataserver.ts";
import type { VolumeUsage } from "../../wire/messages/admin.ts";
import type { ReplicaLocation } from "../../wire/messages/inode.ts";
import type { DataserverStatus } from "../../wire/messages/nameserver.ts";
import { type Client, createClient, type Peer } from "../../wire/service.ts";
import type { IdAllocator } from "./id_allocator.ts";
import type { Journal, Write } from "./journal.ts";
import { nodeKey, volumeKey } from "./keys.ts";
import {
  loadNodes,
  loadVolumes,
  newNode,
  type Node,
  NODES_MAX,
  storedNode,
  storedVolume,
  type Volume,
} from "./node_records.ts";
import { type Place, Placement } from "./placement.ts";

export interface RegistryOptions {
  readonly journal: Journal;
  readonly ids: IdAllocator;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** What dataservers are told. */
  readonly heartbeatMs: Live<number>;
  /** Silence after which a dataserver counts as dead. */
  readonly deadAfterMs: Live<number>;
  /** Room that a volume must keep free to get new blocks. */
  readonly reserveBytes: number;
}

/** A node as administrators see it. */
export interface NodeDescription {
  readonly node: NodeId;
  readonly host: string;
  readonly address: string;
  readonly rack: string;
  readonly isAlive: boolean;
  readonly isDecommissioning: boolean;
  /** 0: none. */
  readonly maintenanceSeconds: number;
  readonly volumes: readonly VolumeId[];
  readonly usedBytes: number;
}

export class Registry {
  readonly #options: RegistryOptions;
  readonly #nodes = new Map<NodeId, Node>();
  readonly #volumes = new Map<VolumeId, Volume>();
  /** Nobody has had the time to register before. */
  readonly #startedMs: number;
  readonly #heartbeatMs: () => number;
  readonly #deadAfterMs: () => number;
  /** Counts changes after which blocks may have to move: of hosts, racks, and who is to keep what it has. */
  layoutVersion = 0;
  #hasReports = false;

  private constructor(options: RegistryOptions) {
    this.#options = options;
    this.#heartbeatMs = readerOf(options.heartbeatMs);
    this.#deadAfterMs = readerOf(options.deadAfterMs);
    this.#startedMs = options.clock.monotonicMs();
  }

  static async load(options: RegistryOptions): Promise<Registry> {
    const registry = new Registry(options);
    for (const node of await loadNodes(options.journal)) registry.#nodes.set(node.id, node);
    for (const volume of await loadVolumes(options.journal)) registry.#volumes.set(volume.id, volume);
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
    const { label, host, address, rack = "" } = request;
    if (node === undefined) {
      if (this.#nodes.size >= NODES_MAX) throw new FsError("ENOSPC", `already ${NODES_MAX} dataservers`);
      node = newNode({ id: nodeId, label, host, address, rack });
      this.#nodes.set(nodeId, node);
    }
    if (node.host !== host || node.rack !== rack) this.layoutVersion++;
    Object.assign(node, { host, rack, address });
    const writes: Write[] = [storedNode(node)];
    const volumes: VolumeId[] = [];
    for (const volume of this.#volumes.values()) {
      if (volume.node === nodeId) volume.isPresent = false;
    }
    for (const registration of request.volumes) {
      const known = registration.volume ?? this.#volumeByLabel(registration.label);
      const id = asVolumeId(known ?? ids.next("volume"));
      if (known !== undefined) ids.skip("volume", known);
      const old = this.#volumes.get(id);
      const volume: Volume = {
        id,
        node: nodeId,
        label: registration.label,
        path: registration.path,
        disk: registration.disk ?? `volume ${id}`,
        isPresent: true,
        isReported: false,
        stats: {
          volume: id,
          totalBytes: registration.totalBytes,
          freeBytes: registration.freeBytes,
          usedBytes: old?.stats?.usedBytes ?? 0,
          blocks: old?.stats?.blocks ?? 0,
        },
      };
      this.#volumes.set(id, volume);
      volumes.push(id);
      writes.push(storedVolume(volume));
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
    return { node: nodeId, volumes, heartbeatMs: this.#tellHeartbeat(node) };
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

  /** How often a node is to be heard from now on; it is missed by what it was told. */
  #tellHeartbeat(node: Node): number {
    node.deadAfterMs = this.#deadAfterMs();
    return this.#heartbeatMs();
  }

  /** A time that was made shorter counts when the node has heard of it: until then it sends its heartbeats for the longer one. */
  #deadAfterOf(node: Node): number {
    return Math.max(this.#deadAfterMs(), node.deadAfterMs);
  }

  /** Milliseconds until the next is due. */
  heartbeat(nodeId: NodeId, stats: readonly VolumeStats[]): number {
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
    return this.#tellHeartbeat(node);
  }

  /** The block report of a volume has come to its end, over the connection that its dataserver registered on. */
  reported(volumeId: VolumeId, peer: Peer): void {
    const volume = this.#volumes.get(volumeId);
    if (volume !== undefined && this.#peerOf(volumeId) === peer) volume.isReported = true;
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
    return !node.hasLeft &&
      this.#options.clock.monotonicMs() - node.lastHeardMs < this.#deadAfterOf(node);
  }

  #isInMaintenance(node: Node): boolean {
    return this.#wallMs() < node.maintenanceEndMs;
  }

  #wallMs(): number {
    const { seconds, nanoseconds } = this.#options.clock.now();
    return seconds * 1000 + nanoseconds / 1e6;
  }

  isAlive(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    if (volume === undefined || !volume.isPresent || volume.stats?.failed !== undefined) return false;
    return node !== undefined && node.peer !== null && this.#beats(node);
  }

  /** New replicas may be made there. */
  isPlace(volumeId: VolumeId): boolean {
    const freeBytes = this.#volumes.get(volumeId)?.stats?.freeBytes ?? 0;
    return this.isAlive(volumeId) && !this.isDraining(volumeId) && freeBytes > this.#options.reserveBytes;
  }

  /** Its node is being decommissioned: what it has can be read and copied, and does not count. */
  isDraining(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    return volume !== undefined && this.#nodes.get(volume.node)?.isDecommissioning === true;
  }

  /**
   * It is not to be counted on any more: its disk has failed, its dataserver came back without it, or has not been heard
   * of for the dead time. A node in maintenance may be away, or come back without a volume.
   */
  isLost(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    if (volume === undefined || node === undefined || volume.stats?.failed !== undefined) return true;
    if (this.isAlive(volumeId) || this.#isInMaintenance(node)) return false;
    return this.#isGone(node, volume);
  }

  /** Its disk has failed, and its dataserver is there: what it has may still be read. */
  isFailing(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    if (volume === undefined || !volume.isPresent || volume.stats?.failed === undefined) return false;
    return node !== undefined && node.peer !== null && this.#beats(node);
  }

  /** It is away, and may be back within the dead time: a node in maintenance that stays away for longer is not awaited. */
  isAwaited(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    if (volume === undefined || node === undefined || volume.stats?.failed !== undefined) return false;
    return !this.isAlive(volumeId) && !this.#isGone(node, volume);
  }

  #isGone(node: Node, volume: Volume): boolean {
    if (node.peer !== null && this.#beats(node)) return !volume.isPresent;
    const sinceMs = Math.max(node.lastHeardMs, this.#startedMs);
    return this.#options.clock.monotonicMs() - sinceMs >= this.#deadAfterOf(node);
  }

  /** Everybody has had the time to register who is going to, and who is there has said what there is. */
  get #isReported(): boolean {
    if (this.#options.clock.monotonicMs() - this.#startedMs < this.#deadAfterMs()) return false;
    const alive = [...this.#volumes.values()].filter(({ id }) => this.isAlive(id));
    return alive.length > 0 && alive.every(({ isReported }) => isReported);
  }

  /** It has been so once since the start: who comes back later had been heard, or comes too late. */
  get hasReports(): boolean {
    return this.#hasReports ||= this.#isReported;
  }

  /** Everybody is there, and has said what there is, but who is lost. */
  get isComplete(): boolean {
    return this.#isReported && this.volumes.every((volume) => this.isAlive(volume) || this.isLost(volume));
  }

  get volumes(): VolumeId[] {
    return [...this.#volumes.keys()];
  }

  /** Where replicas can go, as it is now. */
  placement(): Placement {
    const { random, reserveBytes } = this.#options;
    const places = [...this.#volumes.values()].map((volume): Place => {
      const node = this.#nodes.get(volume.node)!;
      return {
        volume: volume.id,
        node: node.id,
        host: node.host,
        rack: node.rack,
        disk: volume.disk,
        isAlive: this.isAlive(volume.id),
        mayBringRoom: this.isAwaited(volume.id) && (volume.stats?.freeBytes ?? Infinity) > reserveBytes,
        isDraining: node.isDecommissioning,
        freeBytes: volume.stats?.freeBytes ?? 0,
      };
    });
    return new Placement(places, random, reserveBytes);
  }

  /** As Placement.place, as it is now. */
  place(count: number, writerHost: string, avoid: readonly number[]): VolumeId[] {
    return this.placement().place(count, writerHost, avoid);
  }

  location(volumeId: VolumeId): ReplicaLocation {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    return {
      node: node?.id ?? asNodeId(0),
      volume: volumeId,
      address: node?.address ?? "",
      host: node?.host ?? "",
      ...(node === undefined || node.rack === "" ? {} : { rack: node.rack }),
      alive: this.isAlive(volumeId),
    };
  }

  /** What can be asked of the volume's dataserver, over the connection that it registered on; null when it is away. */
  dataserver(volumeId: VolumeId): Client<typeof DATASERVER_PUSHES> | null {
    const peer = this.#peerOf(volumeId);
    return peer && createClient(DATASERVER_PUSHES, (op, request, options) => peer.push(op, request, options));
  }

  /**
   * Stands for the connection that the volume's dataserver registered on; null when it is away. By another one its machine
   * may have stopped in between.
   */
  connection(volumeId: VolumeId): unknown {
    return this.#peerOf(volumeId);
  }

  #peerOf(volumeId: VolumeId): Peer | null {
    const volume = this.#volumes.get(volumeId);
    return volume === undefined ? null : this.#nodes.get(volume.node)?.peer ?? null;
  }

  /** Its dataserver is connected, and has sent no heartbeat for the dead time: it hangs, or is cut off. */
  isSilent(volumeId: VolumeId): boolean {
    const volume = this.#volumes.get(volumeId);
    const node = volume === undefined ? undefined : this.#nodes.get(volume.node);
    return node !== undefined && node.peer !== null && !this.#beats(node);
  }

  connectedVolumes(): VolumeId[] {
    const connected = [...this.#volumes.values()].filter((volume) => this.#peerOf(volume.id) !== null);
    return connected.map(({ id }) => id);
  }

  /** Bytes of the disks of all live volumes that take blocks, each disk once; free is what new blocks may take. */
  space(): { totalBytes: number; freeBytes: number } {
    let totalBytes = 0;
    let freeBytes = 0;
    const counted = new Set<string>();
    for (const { id, disk, stats } of this.#volumes.values()) {
      if (stats === null || counted.has(disk) || !this.isAlive(id) || this.isDraining(id)) continue;
      counted.add(disk);
      totalBytes += stats.totalBytes;
      freeBytes += Math.max(0, stats.freeBytes - this.#options.reserveBytes);
    }
    return { totalBytes, freeBytes };
  }

  /** The node that an administrator means: its number, host or address. Errors: ENOENT, EINVAL when several fit. */
  findNode(name: string): NodeId {
    const nodes = [...this.#nodes.values()];
    const byId = nodes.find(({ id }) => String(id) === name);
    const found = byId !== undefined
      ? [byId]
      : nodes.filter(({ host, address }) => host === name || address === name);
    if (found.length === 1) return found[0]!.id;
    if (found.length === 0) {
      throw new FsError("ENOENT", `no dataserver ${name}: "mfs status" lists them`, { op: "node" });
    }
    const ids = found.map(({ id }) => id).join(", ");
    throw new FsError("EINVAL", `${name} is the host of nodes ${ids}: give one of these numbers`, {
      op: "node",
    });
  }

  describe(nodeId: NodeId): NodeDescription {
    const node = this.#nodes.get(nodeId);
    if (node === undefined) throw new FsError("ENOENT", `no dataserver ${nodeId}`, { op: "node" });
    const volumes = [...this.#volumes.values()].filter((volume) => volume.node === nodeId);
    return {
      node: nodeId,
      host: node.host,
      address: node.address,
      rack: node.rack,
      isAlive: node.peer !== null && this.#beats(node),
      isDecommissioning: node.isDecommissioning,
      maintenanceSeconds: Math.max(0, Math.ceil((node.maintenanceEndMs - this.#wallMs()) / 1000)),
      volumes: volumes.map(({ id }) => id),
      usedBytes: volumes.reduce((sum, { stats }) => sum + (stats?.usedBytes ?? 0), 0),
    };
  }

  /** Begins or ends the decommissioning of a node; stored before it resolves. */
  async decommission(nodeId: NodeId, isDecommissioning: boolean): Promise<void> {
    await this.#change(nodeId, (node) => node.isDecommissioning = isDecommissioning);
    this.#options.log.info(isDecommissioning ? "node is being decommissioned" : "node is in service again", {
      node: nodeId,
    });
  }

  /** The node may be away for so long from now on; 0: not any more. Stored before it resolves. */
  async maintain(nodeId: NodeId, seconds: number): Promise<void> {
    const endMs = seconds === 0 ? 0 : this.#wallMs() + seconds * 1000;
    await this.#change(nodeId, (node) => node.maintenanceEndMs = endMs);
    this.#options.log.info(seconds === 0 ? "maintenance ended" : "node is in maintenance", {
      node: nodeId,
      seconds,
    });
  }

  /**
   * The volumes that are forgotten with a node, or with one of its volumes. Errors: ENOENT; EBUSY when they are not away: a node
   * must not be connected, a volume not among those that its dataserver has.
   */
  forgettable(nodeId: NodeId, volumeId?: VolumeId): VolumeId[] {
    const { host, volumes } = this.describe(nodeId);
    const isConnected = this.#nodes.get(nodeId)!.peer !== null;
    if (volumeId === undefined) {
      if (!isConnected) return [...volumes];
      throw new FsError("EBUSY", `node ${nodeId} (${host}) is connected: stop it first, for good`, {
        op: "forget",
      });
    }
    if (!volumes.includes(volumeId)) {
      throw new FsError("ENOENT", `node ${nodeId} (${host}) has no volume ${volumeId}`, { op: "forget" });
    }
    if (!isConnected || !this.#volumes.get(volumeId)!.isPresent) return [volumeId];
    throw new FsError(
      "EBUSY",
      `volume ${volumeId} is in use on node ${nodeId} (${host}): start its dataserver without it first`,
      { op: "forget" },
    );
  }

  /**
   * Takes the records of what is away for good off, after another look whether it is. Stored before it resolves.
   * Invariant: numbers are not given to anybody else. Who comes back all the same registers under its own again: of what it has,
   * only that counts for which a block still names its volume, and the rest goes to its trash.
   */
  async forget(nodeId: NodeId, volumeId?: VolumeId): Promise<VolumeId[]> {
    const volumes = this.forgettable(nodeId, volumeId);
    const writes: Write[] = volumes.map((volume) => [volumeKey(volume), null]);
    for (const volume of volumes) this.#volumes.delete(volume);
    if (volumeId === undefined) {
      writes.push([nodeKey(nodeId), null]);
      this.#nodes.delete(nodeId);
    }
    this.layoutVersion++;
    const { journal, log } = this.#options;
    log.info(volumeId === undefined ? "node is forgotten" : "volume is forgotten", { node: nodeId, volumes });
    await journal.durable(journal.append(writes));
    return volumes;
  }

  isKnown(volume: VolumeId): boolean {
    return this.#volumes.has(volume);
  }

  async #change(nodeId: NodeId, change: (node: Node) => void): Promise<void> {
    const node = this.#nodes.get(nodeId);
    if (node === undefined) throw new FsError("ENOENT", `no dataserver ${nodeId}`, { op: "node" });
    change(node);
    this.layoutVersion++;
    const { journal } = this.#options;
    await journal.durable(journal.append([storedNode(node)]));
  }

  /** Volumes of live nodes that are to keep what they have, for balancing. */
  usage(): VolumeUsage[] {
    const usage: VolumeUsage[] = [];
    for (const { id, node: nodeId, stats } of this.#volumes.values()) {
      const node = this.#nodes.get(nodeId)!;
      if (stats === null || stats.totalBytes === 0 || !this.isAlive(id)) continue;
      if (node.isDecommissioning || this.#isInMaintenance(node)) continue;
      const { usedBytes, totalBytes, freeBytes } = stats;
      const place = { volume: id, node: nodeId, host: node.host, rack: node.rack };
      usage.push({ ...place, usedBytes, totalBytes, freeBytes });
    }
    return usage;
  }

  status(): DataserverStatus[] {
    const nowMs = this.#options.clock.monotonicMs();
    return [...this.#nodes.values()].map((node) => ({
      node: node.id,
      host: node.host,
      rack: node.rack,
      address: node.address,
      state: node.isDecommissioning ? "decommissioning" : "in service",
      ...(this.#isInMaintenance(node)
        ? { maintenanceSeconds: Math.ceil((node.maintenanceEndMs - this.#wallMs()) / 1000) }
        : {}),
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
