/**
 * What the parts of one check of the file system share: what it reads, what it has found, and how far it has come.
 * Bounded: WANTED_MAX problems wait for their path, and UNCHECKED_MAX things that could not be checked are said.
 */

import type { Clock } from "../../base/clock.ts";
import type { BlockId, InodeId, VolumeId } from "../../wire/ids.ts";
import type { FsckPhase, FsckProblem, FsckStartRequest } from "../../wire/messages/fsck.ts";
import type { Leaseserver } from "../leaseserver/leaseserver.ts";
import { extentAt } from "./extents.ts";
import { FsckReader } from "./fsck_reader.ts";
import type { Namespace } from "./namespace.ts";
import type { Registry } from "./registry.ts";
import type { Extent } from "./records.ts";
import type { Repair } from "./repair.ts";
import type { Transaction } from "./transaction.ts";

const WANTED_MAX = 100_000;
const UNCHECKED_MAX = 1_000;

export interface FsckParts {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly repair: Repair;
  readonly leaseserver: Leaseserver;
  readonly clock: Clock;
}

export class FsckContext {
  readonly parts: FsckParts;
  readonly request: FsckStartRequest;
  readonly reader: FsckReader;
  phase: FsckPhase = "tables";
  inodes = 0;
  blocks = 0;
  #problems: FsckProblem[] = [];
  #unchecked: string[] = [];
  readonly #saidUnchecked = new Set<string>();
  /** Problems whose path the walk over the tree will find. */
  readonly #wanted = new Map<InodeId, FsckProblem[]>();
  #wantedCount = 0;

  constructor(parts: FsckParts, request: FsckStartRequest) {
    this.parts = parts;
    this.request = request;
    this.reader = new FsckReader(parts.namespace.journal.snapshot());
  }

  report(problem: FsckProblem): void {
    this.#problems.push(problem);
  }

  /** Reported once the walk over the tree has come to its inode. */
  reportWhenNamed(problem: FsckProblem): void {
    const { ino } = problem;
    if (ino === undefined || this.#wantedCount >= WANTED_MAX) return this.report(problem);
    this.#wantedCount++;
    const others = this.#wanted.get(ino);
    if (others === undefined) this.#wanted.set(ino, [problem]);
    else others.push(problem);
  }

  /** The walk has come to a name of the inode. */
  named(ino: InodeId, path: () => Uint8Array): void {
    if (this.#wanted.size === 0) return;
    const problems = this.#wanted.get(ino);
    if (problems === undefined) return;
    this.#wanted.delete(ino);
    for (const problem of problems) this.report({ ...problem, path: path() });
  }

  /** Nothing more will be named. */
  endNaming(): void {
    for (const problems of this.#wanted.values()) this.#problems.push(...problems);
    this.#wanted.clear();
  }

  cannotCheck(what: string): void {
    if (this.#saidUnchecked.size >= UNCHECKED_MAX || this.#saidUnchecked.has(what)) return;
    this.#saidUnchecked.add(what);
    this.#unchecked.push(what);
  }

  /** How many problems wait to be taken. */
  get found(): number {
    return this.#problems.length;
  }

  take(max: number): { readonly problems: FsckProblem[]; readonly unchecked: string[] } {
    const problems = this.#problems.splice(0, max);
    const unchecked = this.#unchecked;
    this.#unchecked = [];
    return { problems, unchecked };
  }
}

/** The block as it is now, if it is still there. */
export function extentNow(tx: Transaction, ino: InodeId, start: number, block: BlockId): Extent | undefined {
  const inode = tx.findInode(ino);
  const extent = inode === undefined ? undefined : extentAt(tx, inode, start);
  return extent?.block === block ? extent : undefined;
}

export function volumeName({ parts: { registry } }: FsckContext, volume: VolumeId): string {
  const { host } = registry.location(volume);
  return host === "" ? `volume ${volume}` : `volume ${volume} of ${host}`;
}
