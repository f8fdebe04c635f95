/**
 * `mfs fsck`: drives a check of the file system step by step, shows what it finds, and has it repaired round by round:
 * what one round mends may be what another problem came from.
 * Bounded: PROBLEMS_MAX problems are kept for the answer; the others are counted.
 */

import { type Dialer, tcpDialer } from "../../wire/dialer.ts";
import { ADMIN_BATCH_MAX } from "../../wire/messages/admin.ts";
import type { FsckKind, FsckProblem, FsckRepaired } from "../../wire/messages/fsck.ts";
import { type AdminClient, withNameserver } from "./client.ts";
import { formatPath, locate, resolve } from "./fs_path.ts";
import { messageOf, printLine } from "./process.ts";
import { Progress, type Unit } from "./progress.ts";
import { size } from "./units.ts";

/** On stderr, or nowhere. */
function newProgress(label: string, unit: Unit, { isQuiet = false }: FsckOptions): Progress {
  return new Progress({ label, unit, ...isQuiet ? { write: () => {} } : {} });
}

const STEP_TIMEOUT_MS = 60_000;
const REPAIR_TIMEOUT_MS = 300_000;
const PROBLEMS_MAX = 100_000;
const ROUNDS_MAX = 5;
const POLL_MS = 500;

export const EXIT_PROBLEMS = 1;
export const EXIT_UNCHECKED = 3;

export interface FsckOptions {
  readonly nameserver: string;
  /** Within the file system; absent: all of it, with what no name leads to. */
  readonly path?: Uint8Array;
  readonly verifyBytesPerSecond?: number;
  /** Repairs, and waits so long at most until replicas are made. */
  readonly repairWaitMs?: number;
  readonly dialer?: Dialer;
  readonly isQuiet?: boolean;
}

/** A problem as it is shown. */
export interface ShownProblem {
  readonly kind: FsckKind;
  readonly detail: string;
  /** As formatPath writes it. */
  readonly path?: string;
  readonly ino?: number;
  readonly block?: number;
  readonly start?: number;
  readonly volume?: number;
  /** What was done about it, or why nothing was. */
  readonly repair?: string;
}

export interface FsckResult {
  readonly status: "clean" | "problems" | "unchecked";
  readonly inodes: number;
  readonly blocks: number;
  readonly verifiedBytes: number;
  readonly counts: Readonly<Partial<Record<FsckKind, number>>>;
  /** Those that remain. */
  readonly problems: readonly ShownProblem[];
  /** Those that are not listed, as there are too many. */
  readonly omitted: number;
  readonly repaired: readonly ShownProblem[];
  /** Replicas that no file has: they take room, and are no damage. */
  readonly strays: readonly ShownProblem[];
  readonly unchecked: readonly string[];
}

interface Round {
  readonly problems: FsckProblem[];
  readonly counts: Partial<Record<FsckKind, number>>;
  readonly unchecked: string[];
  omitted: number;
  inodes: number;
  blocks: number;
  verifiedBytes: number;
}

/** Errors: as resolve, EBUSY, and transport's. */
export async function fsck(options: FsckOptions): Promise<FsckResult> {
  const { nameserver, repairWaitMs, dialer = tcpDialer } = options;
  return await withNameserver(nameserver, "fsck", async (client) => {
    const repaired: ShownProblem[] = [];
    const refusals = new Map<string, string>();
    let round = await check(client, options);
    for (let rounds = 1; repairWaitMs !== undefined && rounds < ROUNDS_MAX; rounds++) {
      if (round.problems.length === 0) break;
      const before = new Set(round.problems.map(keyOf));
      if (!await repair(client, round.problems, options, repaired, refusals)) break;
      round = await check(client, options);
      if (
        before.size > 0 && before.size === round.problems.length &&
        round.problems.every((p) => before.has(keyOf(p)))
      ) {
        break; // nothing has come of it
      }
    }
    return resultOf(round, repaired, refusals);
  }, dialer);
}

async function check(client: AdminClient, options: FsckOptions): Promise<Round> {
  const { path, verifyBytesPerSecond } = options;
  const root = path === undefined ? undefined : { ino: (await resolve(client, path)).ino, path };
  const { fsck, inodes, blocks } = await client.admin.fsckStart({
    ...root === undefined ? {} : { root },
    ...verifyBytesPerSecond === undefined ? {} : { verifyBytesPerSecond },
  });
  const round: Round = {
    ...{ problems: [], counts: {}, unchecked: [], omitted: 0, inodes: 0, blocks: 0, verifiedBytes: 0 },
  };
  const progress = {
    tables: newProgress("checking tables", "inodes", options),
    volumes: newProgress("checking volumes", "inodes", options),
    files: newProgress("checking files", root === undefined ? "blocks" : "inodes", options),
  };
  try {
    for (;;) {
      const step = await client.admin.fsckNext({ fsck }, { timeoutMs: STEP_TIMEOUT_MS });
      take(round, step.problems);
      round.unchecked.push(...step.unchecked);
      round.inodes = step.inodes;
      round.blocks = step.blocks;
      round.verifiedBytes = step.verifiedBytes;
      if (step.phase === "done") return round;
      for (const phase of ["tables", "volumes", "files"] as const) {
        if (phase !== step.phase) progress[phase].end();
      }
      if (step.phase === "tables") progress.tables.update(step.inodes, Math.max(inodes, step.inodes));
      else if (root === undefined) progress.files.update(step.blocks, Math.max(blocks, step.blocks));
      else progress.files.update(step.inodes);
    }
  } finally {
    for (const one of Object.values(progress)) one.end();
  }
}

function take(round: Round, problems: readonly FsckProblem[]): void {
  for (const problem of problems) {
    round.counts[problem.kind] = (round.counts[problem.kind] ?? 0) + 1;
    if (round.problems.length < PROBLEMS_MAX) round.problems.push(problem);
    else round.omitted++;
  }
}

/** Gives whether anything was done, so that another look is worth it. */
async function repair(
  { admin }: AdminClient,
  problems: readonly FsckProblem[],
  options: FsckOptions,
  repaired: ShownProblem[],
  refusals: Map<string, string>,
): Promise<boolean> {
  const progress = newProgress("repairing", "problems", options);
  const waiting: Waiting[] = [];
  let isChanged = false;
  refusals.clear();
  try {
    for (let at = 0; at < problems.length; at += ADMIN_BATCH_MAX) {
      const batch = problems.slice(at, at + ADMIN_BATCH_MAX);
      const { outcomes } = await admin.fsckRepair({ problems: batch }, { timeoutMs: REPAIR_TIMEOUT_MS });
      batch.forEach((problem, i) => {
        const { outcome, message } = outcomes[i] as FsckRepaired;
        if (outcome === "refused") refusals.set(keyOf(problem), message);
        else isChanged = true;
        if (outcome === "waiting") waiting.push({ problem, message });
        if (outcome === "repaired" && repaired.length < PROBLEMS_MAX) repaired.push(shown(problem, message));
      });
      progress.update(at + batch.length, problems.length);
    }
    for (const [why, some] of await awaitReplicas(admin, waiting, options)) {
      // What remains all the same is told with this.
      for (const { problem, message } of some) {
        refusals.set(keyOf(problem), why);
        if (repaired.length < PROBLEMS_MAX) repaired.push(shown(problem, message));
      }
    }
    return isChanged;
  } finally {
    progress.end();
  }
}

interface Waiting {
  readonly problem: FsckProblem;
  readonly message: string;
}

/** Until the files have the replicas that they should, or nothing more is to be expected; gives why that is. */
async function awaitReplicas(
  admin: AdminClient["admin"],
  waiting: readonly Waiting[],
  options: FsckOptions,
): Promise<(readonly [why: string, some: readonly Waiting[]])[]> {
  const untilMs = performance.now() + (options.repairWaitMs ?? 0);
  const progress = newProgress("waiting for replicas", "problems", options);
  const ended: (readonly [string, readonly Waiting[]])[] = [];
  try {
    for (let at = 0; at < waiting.length; at += ADMIN_BATCH_MAX) {
      const some = waiting.slice(at, at + ADMIN_BATCH_MAX);
      const inodes = [...new Set(some.map(({ problem }) => problem.ino))].filter((ino) => ino !== undefined);
      let why: string | undefined;
      while (why === undefined) {
        const { pending, missing, wanted, hosts } = await admin.replicationState({ inodes });
        if (pending <= missing) {
          why = missing > 0 ? "none of its replicas can be reached" : "it has come up again";
        } else if (wanted > hosts) why = `${wanted} replicas need as many hosts, and ${hosts} can be reached`;
        else if (performance.now() > untilMs) why = "replicas are still being made: look again later";
        else await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        progress.update(at, waiting.length);
      }
      ended.push([why, some]);
    }
    return ended;
  } finally {
    progress.end();
  }
}

function keyOf({ kind, ino, block, volume, path, detail }: FsckProblem): string {
  return [kind, ino, block, volume, path === undefined ? detail : formatPath(path)].join(" ");
}

function shown(
  { kind, detail, path, ino, block, start, volume }: FsckProblem,
  repair?: string,
): ShownProblem {
  return {
    kind,
    detail,
    ...path === undefined ? {} : { path: formatPath(path) },
    ...ino === undefined ? {} : { ino },
    ...block === undefined ? {} : { block },
    ...start === undefined ? {} : { start },
    ...volume === undefined ? {} : { volume },
    ...repair === undefined ? {} : { repair },
  };
}

function resultOf(
  round: Round,
  repaired: readonly ShownProblem[],
  refusals: ReadonlyMap<string, string>,
): FsckResult {
  const { inodes, blocks, verifiedBytes, counts, unchecked, omitted } = round;
  const all = round.problems.map((problem) => shown(problem, refusals.get(keyOf(problem))));
  const problems = all.filter(({ kind }) => kind !== "stray");
  const remain = Object.entries(counts).some(([kind, count]) => kind !== "stray" && count > 0);
  return {
    status: remain ? "problems" : unchecked.length > 0 ? "unchecked" : "clean",
    inodes,
    blocks,
    verifiedBytes,
    counts,
    problems,
    omitted,
    // What came back is not repaired.
    repaired: repaired.filter((one) => !all.some((other) => isSame(one, other))),
    strays: all.filter(({ kind }) => kind === "stray"),
    unchecked,
  };
}

function isSame(a: ShownProblem, b: ShownProblem): boolean {
  return a.kind === b.kind && a.ino === b.ino && a.block === b.block && a.volume === b.volume &&
    a.path === b.path;
}

export function exitCodeOf({ status }: FsckResult): number {
  return status === "clean" ? 0 : status === "problems" ? EXIT_PROBLEMS : EXIT_UNCHECKED;
}

/** The page for people. */
export function formatFsck(result: FsckResult): string {
  const { inodes, blocks, verifiedBytes, counts, problems, omitted, repaired, strays, unchecked, status } =
    result;
  const line = ({ kind, path, detail, repair }: ShownProblem) =>
    `${kind}: ${path === undefined ? "" : `${path}: `}${detail}${repair === undefined ? "" : ` (${repair})`}`;
  const lines = repaired.map((problem) => `repaired ${line(problem)}`);
  lines.push(...problems.map(line), ...strays.map(line));
  if (omitted > 0) lines.push(`and ${omitted} more`);
  lines.push(...unchecked.map((what) => `not checked: ${what}`));
  const looked = [`${inodes} inodes`, `${blocks} blocks`];
  if (verifiedBytes > 0) looked.push(`${size(verifiedBytes)} of replicas verified`);
  lines.push(`looked at ${looked.join(", ")}`);
  const kinds = Object.entries(counts).filter(([kind]) => kind !== "stray").map(([kind, n]) =>
    `${n} ${kind}`
  );
  if (status === "problems") lines.push(`problems: ${kinds.join(", ")}`);
  else lines.push(status === "clean" ? "clean" : "no problem found, but not everything could be checked");
  return lines.join("\n");
}

export interface FsckFlags {
  readonly nameserver?: string;
  readonly repair?: boolean;
  /** Seconds. */
  readonly wait: number;
  readonly verify?: boolean;
  /** MiB a second. */
  readonly verifyRate: number;
  readonly json?: boolean;
}

/** The command: answers on stdout, and ends the process with the exit code that its help tells of. */
export async function fsckCommand(
  path: string | undefined,
  nameserverDefault: string,
  flags: FsckFlags,
): Promise<never> {
  const { nameserver, repair = false, wait, verify = false, verifyRate, json = false } = flags;
  try {
    const at = path === undefined
      ? { nameserver: nameserver ?? nameserverDefault }
      : await locate(path, nameserver);
    const result = await fsck({
      ...at,
      ...repair ? { repairWaitMs: wait * 1000 } : {},
      ...verify ? { verifyBytesPerSecond: verifyRate * 1024 * 1024 } : {},
    });
    printLine(json ? JSON.stringify(result) : formatFsck(result));
    Deno.exit(exitCodeOf(result));
  } catch (error) {
    // Nothing is known: that is not what 1 says.
    printLine(`mfs: fsck: ${messageOf(error)}`, Deno.stderr);
    Deno.exit(EXIT_UNCHECKED);
  }
}
