/**
 * The administrators' service for nodes: what one has, decommissioning it, maintenance. It says what is to be; Repair does
 * it, whether or not anybody waits for it.
 */

import { FsError } from "../../wire/errno.ts";
import { asBlockId, type NodeId, type VolumeId } from "../../wire/ids.ts";
import type {
  ADMIN,
  DecommissionRequest,
  NodeReply,
  ReplicaPosition,
  SurveyReply,
} from "../../wire/messages/admin.ts";
import type { Handlers } from "../../wire/service.ts";
import { extentAt } from "./extents.ts";
import type { Journal } from "./journal.ts";
import { fieldRange, getU64, prefixRange, TABLE_REPLICA } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import { decodeReplica } from "./records.ts";
import type { Registry } from "./registry.ts";

const SURVEY_PAGE = 2_000;
const MAINTENANCE_SECONDS_MAX = 366 * 86_400;

export interface NodeParts {
  readonly namespace: Namespace;
  readonly registry: Registry;
  /** Replicas of a block whose file does not say. */
  readonly replication: number;
}

type NodeHandlers = Pick<
  Handlers<typeof ADMIN>,
  "node" | "surveyNode" | "decommission" | "recommission" | "maintain" | "forget"
>;

export function nodeHandlers(options: NodeParts): NodeHandlers {
  const { registry, namespace } = options;
  const reply = (node: NodeId) => describe(registry, namespace.journal, node);
  return {
    node: ({ name }) => reply(registry.findNode(name)),

    surveyNode: ({ node, volume, from }) => survey(options, node, volume, from),

    decommission: async (request) => {
      const { node, force } = request;
      if (!registry.describe(node).isDecommissioning) {
        if (!force) checkRoom(registry, request);
        await registry.decommission(node, true);
      }
      return await reply(node);
    },

    recommission: async ({ node }) => {
      if (registry.describe(node).isDecommissioning) await registry.decommission(node, false);
      return await reply(node);
    },

    maintain: async ({ node, seconds }) => {
      if (!Number.isInteger(seconds) || seconds < 0 || seconds > MAINTENANCE_SECONDS_MAX) {
        throw new FsError("EINVAL", `maintenance for ${seconds} s: at most ${MAINTENANCE_SECONDS_MAX} s`, {
          op: "maintenance",
        });
      }
      await registry.maintain(node, seconds);
      return await reply(node);
    },

    forget: async ({ node, volume, force }) => {
      const { host } = registry.describe(node);
      const volumes = registry.forgettable(node, volume).map((one) => ({ volume: one }));
      if (!force && !await holdsNothing(namespace.journal, volumes)) {
        const what = volume === undefined ? `node ${node} (${host})` : `volume ${volume} of node ${node}`;
        throw new FsError("ENOTEMPTY", `blocks count on ${what}: wait until they have other replicas`, {
          op: "forget",
        });
      }
      return { node, host, volumes: await registry.forget(node, volume) };
    },
  };
}

/** No block counts on any of the volumes, nor is one to be copied from there. */
export async function holdsNothing(
  journal: Journal,
  volumes: readonly { readonly volume: number }[],
): Promise<boolean> {
  for (const { volume } of volumes) {
    if ((await journal.scan(prefixRange(TABLE_REPLICA, volume), 1)).length > 0) return false;
  }
  return true;
}

async function describe(registry: Registry, journal: Journal, nodeId: NodeId): Promise<NodeReply> {
  const { node, host, address, rack, isAlive, isDecommissioning, maintenanceSeconds, volumes } = registry
    .describe(
      nodeId,
    );
  const isEmpty = isDecommissioning && await holdsNothing(journal, volumes.map((volume) => ({ volume })));
  const state = !isDecommissioning ? "in service" : isEmpty ? "decommissioned" : "decommissioning";
  return { node, host, address, rack, alive: isAlive, state, maintenanceSeconds };
}

/** Throws ENOSPC unless the others have hosts and bytes enough for what the node has. */
function checkRoom(registry: Registry, { node, hostsNeeded }: DecommissionRequest): void {
  const { host, usedBytes } = registry.describe(node);
  const room = registry.placement().roomBeside(node);
  const problem = room.hosts < hostsNeeded
    ? `has blocks that need ${hostsNeeded} hosts, and other hosts with room: ${room.hosts}`
    : room.bytes < usedBytes
    ? `has ${mebibytes(usedBytes)} MiB of blocks, and all others have room for ${mebibytes(room.bytes)} MiB`
    : undefined;
  if (problem === undefined) return;
  throw new FsError(
    "ENOSPC",
    `node ${node} (${host}) ${problem}: add a dataserver first, or begin all the same with --force`,
    { op: "decommission" },
  );
}

function mebibytes(bytes: number): number {
  return Math.ceil(Math.max(0, bytes) / (1024 * 1024));
}

/** A part of what the node has. */
async function survey(
  { namespace, registry, replication }: NodeParts,
  node: NodeId,
  only: VolumeId | undefined,
  from: ReplicaPosition | undefined,
): Promise<SurveyReply> {
  const surveyed = registry.describe(node).volumes.filter((volume) => only === undefined || volume === only);
  const volumes = surveyed.filter((volume) => volume >= (from?.volume ?? 0)).sort((a, b) => a - b);
  const own = new Set(surveyed);
  let replicas = 0;
  let onlyHere = 0;
  let hostsNeeded = 0;
  for (const [i, volume] of volumes.entries()) {
    const first = volume === from?.volume ? from.block : 0;
    const page = await namespace.journal.scan(
      fieldRange(TABLE_REPLICA, volume, first, Number.MAX_SAFE_INTEGER + 1),
      SURVEY_PAGE,
    );
    const tx = namespace.begin();
    for (const [key, value] of page) {
      const { ino, start } = decodeReplica(value);
      const inode = tx.findInode(ino);
      const extent = inode === undefined ? undefined : extentAt(tx, inode, start);
      if (inode === undefined || extent?.block !== getU64(key, 9)) continue;
      replicas++;
      hostsNeeded = Math.max(hostsNeeded, inode.replication || replication);
      const isElsewhere = extent.volumes.some((other) => !own.has(other) && registry.isAlive(other));
      if (extent.written && !isElsewhere) onlyHere++;
    }
    const last = page.at(-1);
    const next = nextPosition(volume, volumes[i + 1], page.length === SURVEY_PAGE ? last![0] : undefined);
    // An empty volume costs nothing: the next one belongs to the same step.
    if (next === undefined || page.length > 0) {
      return { replicas, onlyHere, hostsNeeded, ...(next === undefined ? {} : { next }) };
    }
  }
  return { replicas, onlyHere, hostsNeeded };
}

function nextPosition(
  volume: VolumeId,
  nextVolume: VolumeId | undefined,
  lastKey: Uint8Array | undefined,
): ReplicaPosition | undefined {
  if (lastKey !== undefined) return { volume, block: asBlockId(getU64(lastKey, 9) + 1) };
  return nextVolume === undefined ? undefined : { volume: nextVolume, block: asBlockId(0) };
}
