/** Dataservers and volumes as the registry knows them, and what of that is stored. */

import { storedCodec } from "../../wire/codec.ts";
import { asNodeId, asVolumeId, type NodeId, type VolumeId } from "../../wire/ids.ts";
import type { VolumeStats } from "../../wire/messages/dataserver.ts";
import type { Peer } from "../../wire/service.ts";
import type { Journal, Write } from "./journal.ts";
import { nodeKey, TABLE_NODE, TABLE_VOLUME, tableRange, volumeKey } from "./keys.ts";

export const NODES_MAX = 4096;
const VOLUMES_MAX = NODES_MAX * 64;

interface StoredNode {
  readonly node: number;
  readonly label: string;
  readonly host: string;
  readonly address: string;
  /** Absent: not known. */
  readonly rack?: string;
  readonly decommissioning?: boolean;
  /** Milliseconds of the wall clock; absent: none. */
  readonly maintenanceEndMs?: number;
}

interface StoredVolume {
  readonly volume: number;
  readonly node: number;
  readonly label: string;
  readonly path: string;
}

export interface Node {
  readonly id: NodeId;
  readonly label: string;
  host: string;
  address: string;
  /** "": not known. */
  rack: string;
  /** It is to hold nothing that counts. */
  isDecommissioning: boolean;
  /** Until then it may be away; milliseconds of the wall clock. */
  maintenanceEndMs: number;
  peer: Peer | null;
  /** Said that it stops: that its connection ends is no news. */
  hasLeft: boolean;
  /** The dead time that went with the interval of heartbeats that it was told last; 0: none yet. */
  deadAfterMs: number;
  /** When it was heard last: a registration, a heartbeat, or that it stops. */
  lastHeardMs: number;
}

export interface Volume {
  readonly id: VolumeId;
  readonly node: NodeId;
  readonly label: string;
  path: string;
  /** Volumes with the same one share its space. */
  disk: string;
  /** Its dataserver brought it when it registered last. */
  isPresent: boolean;
  /** All that is on it has been reported since then. */
  isReported: boolean;
  stats: VolumeStats | null;
}

/** A dataserver that nobody has said anything about. */
export function newNode(identity: Pick<Node, "id" | "label" | "host" | "address" | "rack">): Node {
  const state = { isDecommissioning: false, maintenanceEndMs: 0 };
  return { ...identity, ...state, peer: null, hasLeft: false, deadAfterMs: 0, lastHeardMs: -Infinity };
}

export async function loadNodes(journal: Journal): Promise<Node[]> {
  const records = await journal.scan(tableRange(TABLE_NODE), NODES_MAX);
  return records.map(([, value]) => {
    const { node, label, host, address, rack = "", ...state } = storedCodec.decode(value) as StoredNode;
    return {
      ...newNode({ id: asNodeId(node), label, host, address, rack }),
      isDecommissioning: state.decommissioning === true,
      maintenanceEndMs: state.maintenanceEndMs ?? 0,
    };
  });
}

export async function loadVolumes(journal: Journal): Promise<Volume[]> {
  const records = await journal.scan(tableRange(TABLE_VOLUME), VOLUMES_MAX);
  return records.map(([, value]) => {
    const { volume, node, label, path } = storedCodec.decode(value) as StoredVolume;
    const identity = { id: asVolumeId(volume), node: asNodeId(node), label, path };
    return { ...identity, disk: "", isPresent: false, isReported: false, stats: null };
  });
}

export function storedNode(node: Node): Write {
  const stored: StoredNode = {
    node: node.id,
    label: node.label,
    host: node.host,
    address: node.address,
    ...(node.rack === "" ? {} : { rack: node.rack }),
    ...(node.isDecommissioning ? { decommissioning: true } : {}),
    ...(node.maintenanceEndMs === 0 ? {} : { maintenanceEndMs: node.maintenanceEndMs }),
  };
  return [nodeKey(node.id), storedCodec.encode(stored)];
}

export function storedVolume({ id, node, label, path }: Volume): Write {
  const stored: StoredVolume = { volume: id, node, label, path };
  return [volumeKey(id), storedCodec.encode(stored)];
}
