/**
 * `mfs decommission`, `mfs recommission`, `mfs maintenance` and `mfs forget`. The nameserver does what these ask for by itself: a command
 * that waits only looks on, and may be ended and run again.
 */

import { FsError, isErrno } from "../../wire/errno.ts";
import { asVolumeId, type VolumeId } from "../../wire/ids.ts";
import type { ForgetReply, NodeReply, ReplicaPosition, SurveyReply } from "../../wire/messages/admin.ts";
import { type AdminClient, pause, withNameserver, withNameserverPatiently } from "./client.ts";
import { Progress } from "./progress.ts";
import { duration } from "./units.ts";

const CALL_TIMEOUT_MS = 30_000;
/** Looking how far a drain is may take this part of the time. */
const LOOK_SHARE = 1 / 20;
const LOOK_MS_MIN = 1_000;
const LOOK_MS_MAX = 30_000;
/** Nothing moved for so long: the user is told why. */
const STUCK_MS = 30_000;

/** What a node has: the sum of all steps of a survey. */
export type Survey = Omit<SurveyReply, "next">;

export interface NodeOptions {
  readonly nameserver: string;
  /** Number, host or address. */
  readonly node: string;
}

export interface DecommissionOptions extends NodeOptions {
  readonly force: boolean;
  readonly wait: boolean;
  readonly signal: AbortSignal;
  /** Something the user should know meanwhile. */
  readonly note: (text: string) => void;
}

export interface DecommissionResult extends NodeReply {
  /** Replicas that are still there. */
  readonly replicas: number;
}

/** Begins to drain a node, and waits until it is done if asked to. Errors: ENOENT, EINVAL, ENOSPC, EINTR, transport errors. */
export async function decommission(options: DecommissionOptions): Promise<DecommissionResult> {
  const { nameserver, force, wait } = options;
  const begun = await withNameserver(nameserver, "decommission", async (client) => {
    const { node } = await find(client, options.node);
    const { replicas, hostsNeeded } = await survey(client, node);
    const request = { node, hostsNeeded, force };
    return { ...await client.admin.decommission(request, { timeoutMs: CALL_TIMEOUT_MS }), replicas };
  });
  return wait && begun.state === "decommissioning" ? await drained(options, begun) : begun;
}

/** Shows how far the drain is until it is done. */
async function drained(options: DecommissionOptions, begun: DecommissionResult): Promise<DecommissionResult> {
  const { nameserver, signal, note } = options;
  const { node } = begun;
  const progress = new Progress({ label: `draining node ${node}`, unit: "blocks" });
  let total = begun.replicas;
  let left = begun.replicas;
  let movedMs = performance.now();
  try {
    for (;;) {
      const startMs = performance.now();
      const look = async (client: AdminClient) => ({
        now: await find(client, String(node)),
        found: await survey(client, node),
      });
      const { now, found } = await withNameserverPatiently(nameserver, "decommission", look, signal);
      const { replicas } = found;
      if (now.state === "decommissioned") return { ...now, replicas: 0 };
      if (now.state === "in service") {
        throw new FsError("EINTR", `node ${node} was put in service again by "mfs recommission"`, {
          op: "decommission",
        });
      }
      if (replicas < left) movedMs = startMs;
      left = replicas;
      total = Math.max(total, left);
      progress.update(total - left, total);
      if (startMs - movedMs > STUCK_MS) {
        movedMs = startMs;
        progress.end();
        note(whyStuck(now, found));
      }
      const tookMs = performance.now() - startMs;
      await pause(Math.min(LOOK_MS_MAX, Math.max(LOOK_MS_MIN, tookMs / LOOK_SHARE)), signal);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    throw new FsError(
      "EINTR",
      `the drain goes on: "mfs decommission ${node}" shows it again, "mfs recommission ${node}" ends it`,
      { op: "decommission", cause: error },
    );
  } finally {
    progress.end();
  }
}

function whyStuck({ node, alive }: NodeReply, { replicas, onlyHere }: Survey): string {
  if (!alive && onlyHere > 0) {
    return `waiting: node ${node} is away, and ${onlyHere} blocks are nowhere else: start it again`;
  }
  return `waiting: ${replicas} blocks have not moved for a while: ` +
    `they need another host with room, or servers that are away ("mfs status" shows them)`;
}

/** Puts a node back in service. */
export async function recommission({ nameserver, node }: NodeOptions): Promise<NodeReply> {
  return await withNameserver(nameserver, "recommission", async (client) => {
    const found = await find(client, node);
    return await client.admin.recommission({ node: found.node }, { timeoutMs: CALL_TIMEOUT_MS });
  });
}

export interface MaintenanceResult extends NodeReply {
  /** Blocks that can't be read while the node is away. */
  readonly onlyHere: number;
}

/** The node may be away for `seconds`; 0: not any more. */
export async function maintain(
  { nameserver, node, seconds }: NodeOptions & { readonly seconds: number },
): Promise<MaintenanceResult> {
  return await withNameserver(nameserver, "maintenance", async (client) => {
    const found = await find(client, node);
    const request = { node: found.node, seconds };
    const now = await client.admin.maintain(request, { timeoutMs: CALL_TIMEOUT_MS });
    const onlyHere = seconds === 0 ? 0 : (await survey(client, found.node)).onlyHere;
    return { ...now, onlyHere };
  });
}

export interface ForgetOptions extends NodeOptions {
  /** Only this volume of it. */
  readonly volume?: number;
  readonly force: boolean;
}

export interface ForgetResult extends ForgetReply {
  /** Blocks that are nowhere else. */
  readonly onlyHere: number;
}

/** The node, or one of its volumes, is not listed any more. Errors: ENOENT, EINVAL; EBUSY when it is there, ENOTEMPTY when it is needed. */
export async function forget(
  { nameserver, node: name, volume, force }: ForgetOptions,
): Promise<ForgetResult> {
  return await withNameserver(nameserver, "forget", async (client) => {
    const { node, host } = await find(client, name);
    const of = volume === undefined ? {} : { volume: asVolumeId(volume) };
    const { replicas, onlyHere } = await survey(client, node, of);
    try {
      const request = { node, ...of, force };
      return { ...await client.admin.forget(request, { timeoutMs: CALL_TIMEOUT_MS }), onlyHere };
    } catch (error) {
      if (!isErrno(error, "ENOTEMPTY")) throw error;
      const what = volume === undefined ? `node ${node} (${host})` : `volume ${volume} of node ${node}`;
      const wait = volume === undefined ? `"mfs decommission ${node}" waits` : "wait";
      throw new FsError(
        "ENOTEMPTY",
        `${replicas} blocks count on ${what}, ${onlyHere} of them are nowhere else: ` +
          `${wait} until they have other replicas (--force: forget it all the same)`,
        { op: "forget", cause: error },
      );
    }
  });
}

async function find({ admin }: AdminClient, name: string): Promise<NodeReply> {
  return await admin.node({ name }, { timeoutMs: CALL_TIMEOUT_MS });
}

async function survey(
  { admin }: AdminClient,
  node: NodeReply["node"],
  of: { readonly volume?: VolumeId } = {},
): Promise<Survey> {
  let sum: Survey = { replicas: 0, onlyHere: 0, hostsNeeded: 0 };
  let from: ReplicaPosition | undefined;
  do {
    const request = { node, ...of, ...from === undefined ? {} : { from } };
    const step: SurveyReply = await admin.surveyNode(request, { timeoutMs: CALL_TIMEOUT_MS });
    sum = {
      replicas: sum.replicas + step.replicas,
      onlyHere: sum.onlyHere + step.onlyHere,
      hostsNeeded: Math.max(sum.hostsNeeded, step.hostsNeeded),
    };
    from = step.next;
  } while (from !== undefined);
  return sum;
}

/** What became of `mfs decommission`, for people. */
export function describeDecommission({ node, host, state, replicas }: DecommissionResult): string {
  if (state === "decommissioned") {
    return `node ${node} (${host}) is decommissioned: it can be stopped for good`;
  }
  return `node ${node} (${host}) is being decommissioned, ${replicas} blocks to go: ` +
    `"mfs decommission ${node}" shows how far it is, "mfs recommission ${node}" ends it`;
}

export function describeRecommission({ node, host }: NodeReply): string {
  return `node ${node} (${host}) is in service`;
}

export function describeMaintenance({ node, host, maintenanceSeconds, onlyHere }: MaintenanceResult): string {
  if (maintenanceSeconds === 0) {
    return `node ${node} (${host}) is not in maintenance: it is missed when it is away`;
  }
  const warning = onlyHere === 0
    ? ""
    : `; ${onlyHere} blocks are nowhere else: they can't be read while it is away`;
  return `node ${node} (${host}) may be away for ${duration(maintenanceSeconds)}${warning}`;
}

export function describeForget({ node, host, volumes, onlyHere }: ForgetResult, isVolume: boolean): string {
  const what = isVolume ? `volume ${volumes.join()} of node ${node} (${host})` : `node ${node} (${host})`;
  const lost = onlyHere === 0
    ? ""
    : `; ${onlyHere} blocks are nowhere else: they are missing until it is back`;
  return `${what} is forgotten${lost}`;
}
