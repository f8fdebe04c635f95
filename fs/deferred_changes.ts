/**
 * Changes that were made here, under EXCLUSIVE leases, and that the nameserver is still to be told of: one queue a mount, in
 * the order in which they were made, sent in batches.
 *
 * Invariants:
 * - The nameserver applies them in this order; what is lost is the end of it.
 * - Each is told within DELAY_MS, unless the nameserver is away, and before any other request of this mount leaves
 *   (ClusterSession asks `settle`), so that nobody hears of what the nameserver does not know.
 * - An inode is given back when none of its changes is left (`Inode.deferred`).
 */

import type { Clock, Timespec } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { InodeId } from "../wire/ids.ts";
import { FsError } from "../wire/errno.ts";
import type { Block } from "../wire/messages/inode.ts";
import { DEFERRED_MAX, type DeferredChange, type DeferReply } from "../wire/messages/deferred.ts";
import type { ClusterSession } from "./cluster_session.ts";
import type { Inode } from "./inode.ts";

/** Half of what is promised (README): the way there takes time as well. */
const DELAY_MS = 50;
const QUEUED_MAX = 4_096;
const QUEUED_BYTES_MAX = 4 * 1024 * 1024;
/** So many are told without waiting for more. */
const ENOUGH = 256;
/** About what a change takes besides its names. */
const CHANGE_BYTES = 100;

/** Why changes are lost that the nameserver did not refuse. */
export const SESSION_OVER = "the session has ended";

interface Deferred {
  change: DeferredChange;
  readonly inodes: readonly Inode[];
  /** A file that loses its last name by it. */
  readonly lost: Inode | undefined;
  readonly bytes: number;
  /** The nameserver has made it, or never will. */
  isSettled: boolean;
}

export interface DeferredChangesOptions {
  readonly session: Pick<ClusterSession, "defer" | "isFull" | "noteLostChange">;
  readonly clock: Clock;
  readonly log: Logger;
  /** What was shown of these inodes will not come true. */
  readonly onLost: (inodes: readonly Inode[]) => Promise<void>;
}

export class DeferredChanges {
  readonly #options: DeferredChangesOptions;
  #queue: Deferred[] = [];
  /** On their way. */
  #sent: readonly Deferred[] = [];
  #bytes = 0;
  #telling: Promise<void> | null = null;
  #isWaiting = false;
  /** How often changes were lost: whoever syncs or closes a file that was open before is told. */
  losses = 0;

  constructor(options: DeferredChangesOptions) {
    this.#options = options;
  }

  /** Nothing waits for being told. */
  get isEmpty(): boolean {
    return this.#queue.length === 0;
  }

  /** There is room for another one. */
  get hasRoom(): boolean {
    return this.#queue.length < QUEUED_MAX && this.#bytes < QUEUED_BYTES_MAX &&
      !this.#options.session.isFull;
  }

  /** `inodes`: all that it changes, or rests upon; `lost`: the file that loses its last name. */
  add(change: DeferredChange, inodes: readonly Inode[], lost?: Inode): void {
    const bytes = CHANGE_BYTES + bytesOf(change);
    for (const inode of inodes) inode.deferred++;
    this.#queue.push({ change, inodes, lost, bytes, isSettled: false });
    this.#bytes += bytes;
    if (this.#queue.length >= ENOUGH) void this.settle();
    else if (!this.#isWaiting) void this.#tellLater();
  }

  /**
   * Resolves when all that was deferred before is with the nameserver, or lost; undefined: there is nothing. Never rejects:
   * losses are told as DeferredChangesOptions.onLost says.
   */
  settle(): Promise<void> | undefined {
    const last = this.#queue.at(-1) ?? this.#sent.at(-1);
    return last === undefined ? undefined : this.#settled(last);
  }

  /** As `settle`, when a file that is to be made gets its first block by that, near `host`; false: it is made already. */
  async settleWithBlock(ino: InodeId, host: string): Promise<boolean> {
    const waiting = this.#making(ino);
    if (waiting?.change.kind !== "make") return false;
    if (waiting.change.block === undefined) waiting.change = { ...waiting.change, host };
    await this.settle();
    return true;
  }

  /** A file that is to be made gets its first block from `take`. Undefined: it has one, or is made already, or there is none. */
  makeWithBlock(ino: InodeId, take: () => Block | undefined): Block | undefined {
    const waiting = this.#making(ino);
    if (waiting?.change.kind !== "make" || waiting.change.block !== undefined) return undefined;
    const block = take();
    if (block === undefined) return undefined;
    waiting.change = { ...waiting.change, block: block.id };
    return block;
  }

  #making(ino: InodeId): Deferred | undefined {
    return this.#queue.find(({ change }) => change.kind === "make" && change.ino === ino);
  }

  async #settled(last: Deferred): Promise<void> {
    while (!last.isSettled) {
      await (this.#telling ??= this.#tell().finally(() => this.#telling = null));
    }
  }

  async #tellLater(): Promise<void> {
    this.#isWaiting = true;
    await this.#options.clock.sleep(DELAY_MS);
    this.#isWaiting = false;
    await this.settle(); // also of what came later
  }

  async #tell(): Promise<void> {
    const { session } = this.#options;
    const sent = this.#queue.splice(0, DEFERRED_MAX);
    this.#sent = sent;
    for (const one of sent) tellWhatIsHeld(one);
    let reply: DeferReply;
    try {
      reply = await session.defer(sent.map(({ change }) => change), () => {
        // The session that they were made in is over.
        if (sent.every(({ isSettled }) => isSettled)) throw new FsError("EIO", "the changes are lost");
      });
    } catch (error) {
      reply = { applied: 0, refusal: error instanceof Error ? error.message : String(error) };
    }
    this.#sent = [];
    for (const { ino, block } of reply.blocks ?? []) {
      const change = sent.find(({ change }) => change.kind === "make" && change.ino === ino);
      const [made] = change?.inodes ?? [];
      if (change?.isSettled === false) made?.blocks?.put(block);
    }
    const refused = sent.slice(reply.applied).filter(({ isSettled }) => !isSettled);
    this.#end(sent.slice(0, reply.applied));
    if (refused.length === 0) return;
    // Those that wait may build upon what was refused.
    await this.#lose([...refused, ...this.#queue.splice(0)], reply.refusal);
  }

  /** The session has ended: what it had deferred is lost with it. */
  lose(): Inode[] {
    const lost = [...this.#sent.filter(({ isSettled }) => !isSettled), ...this.#queue.splice(0)];
    return this.#lost(lost, SESSION_OVER);
  }

  async #lose(lost: readonly Deferred[], why: string | undefined): Promise<void> {
    const inodes = this.#lost(lost, why);
    await this.#options.onLost(inodes);
  }

  #lost(lost: readonly Deferred[], why: string | undefined): Inode[] {
    const { session, log } = this.#options;
    if (lost.length === 0) return [];
    log.error("changes of names are lost: the nameserver did not take them", { changes: lost.length, why });
    session.noteLostChange();
    this.losses++;
    this.#end(lost);
    for (const { inodes } of lost) {
      for (const inode of inodes) inode.hasLostChange = true;
    }
    return [...new Set(lost.flatMap(({ inodes }) => inodes))];
  }

  #end(ended: readonly Deferred[]): void {
    for (const one of ended) {
      if (one.isSettled) continue;
      one.isSettled = true;
      this.#bytes -= one.bytes;
      for (const inode of one.inodes) inode.deferred--;
    }
  }
}

/** The kernel forgets at once what has lost its last name, unless something holds it. By now we would have heard of that. */
function tellWhatIsHeld(one: Deferred): void {
  const { change, lost } = one;
  if (lost === undefined || lost.lookups === 0) return;
  if (change.kind !== "remove" && change.kind !== "rename") return;
  one.change = { ...change, held: true };
  lost.isHeldWithoutName = true;
  lost.isRegistered = true;
}

function bytesOf(change: DeferredChange): number {
  switch (change.kind) {
    case "make":
      return change.name.length + (change.target?.length ?? 0);
    case "rename":
      return change.name.length + change.newName.length;
    case "link":
    case "remove":
      return change.name.length;
    case "report":
      return (change.body?.length ?? 0) +
        (change.written.length + (change.reserved?.length ?? 0) + (change.inline?.length ?? 0)) * 16;
    case "setattr":
    case "access":
      return 0;
  }
}

/** EIO, once, if a change of one of these that was made here is lost. */
export function refuseAfterLoss(...inodes: readonly (Inode | undefined)[]): void {
  const lost = inodes.filter((inode) => inode?.hasLostChange === true);
  if (lost.length === 0) return;
  for (const inode of lost) inode!.hasLostChange = false;
  throw new FsError("EIO", "what was changed here before could not be told to the nameserver", {
    op: "defer",
  });
}

/** The later of a time and of those at which inodes were changed before: no inode's time goes back. */
export function notBefore(time: Timespec, inodes: readonly Inode[]): Timespec {
  let latest = time;
  for (const { attributes: { ctime } } of inodes) {
    const isLater = ctime.seconds > latest.seconds ||
      (ctime.seconds === latest.seconds && ctime.nanoseconds > latest.nanoseconds);
    if (isLater) latest = ctime;
  }
  return latest;
}
