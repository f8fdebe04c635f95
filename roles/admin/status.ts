/** `mfs status`: asks the nameserver how the cluster is, and shows it as a page for people or as JSON. */

import { type Dialer, tcpDialer } from "../../wire/dialer.ts";
import {
  type BackupStatus,
  type DataserverStatus,
  type LeaseStatus,
  type ReadCounters,
  type RepairStatus,
  type SessionStatus,
  type StatusReply,
  type VolumeStatus,
} from "../../wire/messages/nameserver.ts";
import { type AdminClient, withNameserver } from "./client.ts";
import { interruptible } from "./interrupt.ts";
import { printLine } from "./process.ts";
import { duration, size, table } from "./units.ts";
import { watch } from "./watch.ts";

/** The first one after a start goes through all blocks. */
const STATUS_TIMEOUT_MS = 120_000;

/** Errors: as Dialer.dial, and ETIMEDOUT. */
export async function fetchStatus(nameserver: string, dialer: Dialer = tcpDialer): Promise<StatusReply> {
  return await withNameserver(nameserver, "status", askStatus, dialer);
}

/** Errors: transport's, and ETIMEDOUT. */
export function askStatus({ nameserver }: AdminClient): Promise<StatusReply> {
  return nameserver.status({}, { timeoutMs: STATUS_TIMEOUT_MS });
}

/** The page for people. */
export function formatStatus(status: StatusReply): string {
  const volumes = status.dataservers.flatMap((server) => server.volumes);
  const used = sum(volumes.map((volume) => volume.usedBytes));
  const alive = status.dataservers.filter((server) => server.alive).length;
  const facts: [string, string][] = [
    ["cluster", status.clusterId],
    [
      "nameserver",
      `${status.version}, up ${duration(status.startedSecondsAgo)}, ${size(status.residentBytes)} resident`,
    ],
    ["dataservers", `${alive} of ${status.dataservers.length} alive, ${volumes.length} volumes`],
    ["space", space(status, used, sum(volumes.map(({ trashBytes = 0 }) => trashBytes)))],
    ["files", files(status)],
    ["health", health(status)],
    ["repair", repair(status.repair)],
    ["scrubbing", scrubbing(volumes)],
    ["leases", leases(status.leases)],
    ...(status.backup === undefined ? [] : [["backup", backup(status.backup)] as [string, string]]),
  ];
  const lines = facts.map(([name, value]) => `${name.padEnd(12)} ${value}`);
  if (status.dataservers.length > 0) lines.push("", ...table(dataserverRows(status.dataservers)));
  if (status.sessions.length > 0) lines.push("", ...table(sessionRows(status.sessions)));
  return lines.join("\n");
}

function files({ inodes, blocks, replicas, inlineFiles = 0, inlineBytes = 0 }: StatusReply): string {
  const small = inlineFiles === 0
    ? ""
    : `, ${size(inlineBytes)} of ${inlineFiles} small files at the nameserver`;
  return `${inodes} inodes, ${blocks} blocks, ${replicas} replicas${small}`;
}

function space({ freeBytes, totalBytes }: StatusReply, used: number, trash: number): string {
  const kept = trash === 0 ? "" : ` with ${size(trash)} in trash`;
  return `${size(used)} in blocks, ${size(freeBytes)} free${kept} of ${size(totalBytes)}`;
}

/** When all volumes were last compared with their checksums. */
function scrubbing(volumes: readonly VolumeStatus[]): string {
  const passes = volumes.flatMap(({ scrub }) => scrub === undefined ? [] : [scrub]);
  if (passes.length === 0) return "off";
  const parts = [`pass under way ${percent(Math.min(...passes.map(({ progress }) => progress)))} done`];
  const never = passes.filter(({ lastPass }) => lastPass === undefined).length;
  if (never > 0) parts.push(`${never} of ${volumes.length} volumes not yet read whole`);
  else {
    const oldest = Math.min(...passes.map(({ lastPass = 0 }) => lastPass));
    parts.push(`all volumes read within ${duration(Math.max(0, Date.now() / 1000 - oldest))}`);
  }
  if (passes.length < volumes.length) parts.push(`off or unknown on ${volumes.length - passes.length}`);
  return parts.join("; ");
}

function percent(part: number): string {
  return `${Math.floor(part * 100)}%`;
}

function health(status: StatusReply): string {
  const problems: string[] = [];
  if (status.missing > 0) problems.push(`${status.missing} blocks missing`);
  if (status.underReplicated > 0) problems.push(`${status.underReplicated} blocks under-replicated`);
  if (status.misplaced > 0) problems.push(`${status.misplaced} blocks misplaced`);
  // Work like any other: of a server that is away they wait until it is back, if it ever is.
  const deletions = status.pendingDeletions === 0 ? "" : `; ${status.pendingDeletions} deletions pending`;
  const found = problems.length === 0 ? "good: 0 under-replicated, 0 missing" : problems.join(", ");
  return found + deletions;
}

function repair({ waiting, running, walking, copied, copiedBytes, failed }: RepairStatus): string {
  const isIdle = waiting + running === 0;
  const parts = [isIdle ? "nothing to do" : `${waiting} blocks wait, ${running} are being copied`];
  if (walking) parts.push("looking at blocks");
  if (copied > 0) parts.push(`${copied} replicas (${size(copiedBytes)}) made since the start`);
  if (failed > 0) parts.push(`${failed} attempts failed`);
  return parts.join("; ");
}

function backup({ dir, lastFile, lastSecondsAgo, error }: BackupStatus): string {
  const last = lastFile === undefined
    ? `none yet in ${dir}`
    : `${duration(lastSecondsAgo ?? 0)} ago, ${lastFile}`;
  return error === undefined ? last : `FAILED: ${error}; last: ${last}`;
}

function leases(status: LeaseStatus): string {
  const {
    read,
    exclusive,
    write,
    recalls,
    recalledInodes,
    recallMs,
    recallMsMax,
    waitingTurns,
    waitingRecalls,
  } = status;
  const parts = [
    `${read} read, ${exclusive} exclusive, ${write} write`,
    `${recalls} recalls of ${recalledInodes} inodes`,
  ];
  if (recalls > 0) parts.push(`${(recallMs / recalls).toFixed(1)} ms each, ${recallMsMax} ms at most`);
  if (waitingTurns + waitingRecalls > 0) {
    parts.push(`${waitingRecalls} awaited, ${waitingTurns} operations in line`);
  }
  if (status.evicted > 0) parts.push(`${status.evicted} over the limit of ${status.perSessionMax} a client`);
  if (status.fenced > 0) parts.push(`${status.fenced} files fenced`);
  return parts.join("; ");
}

function dataserverRows(servers: readonly DataserverStatus[]): string[][] {
  const rows: string[][] = [[
    "NODE",
    "HOST",
    "RACK",
    "ADDRESS",
    "STATE",
    "VOLUME",
    "BLOCKS",
    "USED",
    "FREE",
    "PATH",
  ]];
  for (const server of servers) {
    const node = [
      String(server.node),
      server.host,
      server.rack || "-",
      server.address,
      state(server),
    ];
    if (server.volumes.length === 0) rows.push([...node, "-", "-", "-", "-", "-"]);
    server.volumes.forEach((volume, i) =>
      rows.push([
        ...(i === 0 ? node : ["", "", "", "", ""]),
        String(volume.volume),
        String(volume.blocks),
        size(volume.usedBytes),
        size(volume.freeBytes),
        volume.failed === undefined ? volume.path : `${volume.path} (failed: ${volume.failed})`,
      ])
    );
  }
  return rows;
}

function state({ alive, lastHeartbeatSeconds, state, maintenanceSeconds }: DataserverStatus): string {
  const parts = [alive ? "alive" : `silent for ${duration(Math.round(lastHeartbeatSeconds))}`];
  if (state !== undefined && state !== "in service") parts.push(state);
  if (maintenanceSeconds !== undefined) parts.push(`maintenance for ${duration(maintenanceSeconds)}`);
  return parts.join(", ");
}

function sessionRows(sessions: readonly SessionStatus[]): string[][] {
  const rows: string[][] = [[
    "CLIENT",
    "HOST",
    "STATE",
    "READ",
    "EXCLUSIVE",
    "WRITE",
    "LOCKS",
    "CALLS",
    "REQUESTS",
    "LOCAL",
    "MOUNT",
  ]];
  for (const session of sessions) {
    const { counters } = session;
    const calls = counters === undefined ? "-" : String(sum(Object.values(counters.calls)));
    const state = session.connected ? "connected" : `away for ${duration(session.lastSeenSeconds)}`;
    rows.push([
      String(session.session),
      session.host,
      state,
      String(session.readLeases),
      String(session.exclusiveLeases ?? 0),
      String(session.writeLeases),
      locks(session),
      calls,
      counters === undefined ? "-" : String(counters.kernelRequests),
      localReads(counters?.reads),
      session.mountpoint,
    ]);
  }
  return rows;
}

/** How many of its reads a mount does past the dataservers, from the files of replicas on its machine. */
function localReads(reads: ReadCounters | undefined): string {
  if (reads === undefined) return "-";
  const { cached, disk, served, ahead = 0, refused } = reads;
  const all = cached + disk + served + ahead;
  const share = all === 0 ? "-" : percent((cached + disk) / all);
  return refused === undefined ? share : `${share} (${refused})`;
}

function locks({ locks = 0, lockWaits = 0 }: SessionStatus): string {
  return lockWaits === 0 ? String(locks) : `${locks} (${lockWaits} wait)`;
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

const WATCH_SECONDS_DEFAULT = 2;

export interface StatusFlags {
  readonly nameserver: string;
  /** Seconds between two pages; true: the default. */
  readonly watch?: number | true;
  readonly json?: boolean;
}

/** The command; with `watch` it goes on until it is interrupted. */
export async function statusCommand({ nameserver, watch: period, json = false }: StatusFlags): Promise<void> {
  const next = async () => {
    const status = await fetchStatus(nameserver);
    return json ? JSON.stringify(status) : formatStatus(status);
  };
  if (period === undefined) return printLine(await next());
  const seconds = period === true ? WATCH_SECONDS_DEFAULT : period;
  await interruptible((signal) => watch({ what: "status", next, seconds, isJson: json, signal }));
}
