/**
 * Checks the replicas of blocks as they are now: how many can be reached and where, and whether their volumes have them
 * as the block maps say, and nothing else.
 * Invariant: what two servers say at two times proves nothing; whatever looks wrong is asked again, and told of only if
 * the block map stayed the same in between.
 */

import { asBlockId, type BlockId, type InodeId, type VolumeId } from "../../wire/ids.ts";
import type { FsckKind } from "../../wire/messages/fsck.ts";
import { COPY_GENERATION, LIST_REPLICAS_MAX, type ListedReplica } from "../../wire/messages/dataserver.ts";
import { extentNow, type FsckContext, volumeName } from "./fsck_context.ts";
import type { Verification } from "./fsck_verify.ts";
import { deletionKey, prefixRange, replicaKey, TABLE_REPLICA } from "./keys.ts";
import type { Placement } from "./placement.ts";
import type { Extent, InodeRecord } from "./records.ts";
import type { Transaction } from "./transaction.ts";

/** Replicas whose volumes are asked together, and those of one volume. */
const ASK_MAX = 4_000;
const ASK_VOLUME_MAX = 500;
const ASK_TIMEOUT_MS = 20_000;
const TRIES = 4;
const RETRY_MS = 400;
/** A replica is made a little before its block lists it. */
const STRAY_RETRY_MS = 1_500;

/** A replica that a block lists. */
interface Question {
  readonly volume: VolumeId;
  readonly block: BlockId;
  readonly ino: InodeId;
  readonly start: number;
  readonly path: (() => Uint8Array) | undefined;
}

interface Finding {
  readonly kind: FsckKind;
  readonly detail: string;
}

export class BlockChecks {
  readonly #run: FsckContext;
  readonly #verification: Verification | undefined;
  #questions = new Map<VolumeId, Question[]>();
  #count = 0;
  #most = 0;
  #placement: { readonly now: Transaction; readonly placement: Placement } | undefined;

  constructor(run: FsckContext, verification: Verification | undefined) {
    this.#run = run;
    this.#verification = verification;
  }

  /** Looks at a block of the check's moment as it is by now. */
  look(now: Transaction, { ino }: InodeRecord, seen: Extent, path: (() => Uint8Array) | undefined): void {
    if (!seen.written) return; // nobody has put anything there
    const { registry, repair } = this.#run.parts;
    const { block, start } = seen;
    const extent = extentNow(now, ino, start, block);
    if (extent === undefined) return;
    const report = ({ kind, detail }: Finding, volume?: VolumeId) =>
      this.#run.report({
        ...{ kind, detail, ino, block, start },
        ...volume === undefined ? {} : { volume },
        ...path === undefined ? {} : { path: path() },
      });
    const wanted = repair.wanted(now.findInode(ino));
    const kept = extent.volumes.filter((volume) => !registry.isLost(volume));
    const alive = extent.volumes.filter((volume) => registry.isAlive(volume));
    const good = alive.filter((volume) => repair.reportOf(volume, block) === undefined);
    for (const volume of extent.volumes) {
      if (repair.reportOf(volume, block) !== "corrupt") continue;
      report(
        { kind: "corrupt", detail: `block ${block}: the replica on ${this.#name(volume)} is corrupt` },
        volume,
      );
    }
    if (good.length === 0) {
      const where = extent.volumes.map((volume) => this.#name(volume)).join(", ") || "nowhere";
      report({
        kind: "missing",
        detail: `block ${block} has no replica that can be read: it was on ${where}`,
      });
    } else if (good.length < wanted) {
      report({ kind: "under-replicated", detail: `block ${block} has ${good.length} of ${wanted} replicas` });
    } else if (kept.length > wanted) {
      report({
        kind: "over-replicated",
        detail: `block ${block} has ${kept.length} replicas, ${wanted} are wanted`,
      });
    }
    const staying = kept.filter((volume) => !registry.isDraining(volume));
    const hosts = kept.map((volume) => registry.location(volume).host);
    const twice = hosts.find((host, i) => hosts.indexOf(host) !== i);
    if (twice !== undefined) {
      report({ kind: "misplaced", detail: `block ${block} has more than one replica on host ${twice}` });
    } else if (this.#placementAt(now).betterSpread(staying, () => false) !== undefined) {
      const { rack } = registry.location(staying[0]!);
      report({ kind: "misplaced", detail: `block ${block} has all its replicas in rack ${rack}` });
    }
    for (const volume of alive) this.#question({ volume, block, ino, start, path });
    this.#verification?.add({ extent, ino, path, volumes: alive });
  }

  /** Made once for all blocks that are looked at in one step. */
  #placementAt(now: Transaction): Placement {
    if (this.#placement?.now !== now) {
      this.#placement = { now, placement: this.#run.parts.registry.placement() };
    }
    return this.#placement.placement;
  }

  #question(question: Question): void {
    const { volume } = question;
    const others = this.#questions.get(volume);
    if (others === undefined) this.#questions.set(volume, [question]);
    else others.push(question);
    this.#count++;
    this.#most = Math.max(this.#most, others?.length ?? 1);
  }

  /** Call `ask` before more blocks are looked at. */
  get isFull(): boolean {
    return this.#count >= ASK_MAX || this.#most >= ASK_VOLUME_MAX || this.#verification?.isFull === true;
  }

  /** Asks the volumes for what they should have, and waits until more can be verified. */
  async *ask(): AsyncGenerator<void> {
    if (this.#verification !== undefined) yield* this.#verification.wait();
    if (this.#count < ASK_MAX && this.#most < ASK_VOLUME_MAX) return;
    yield* this.#askAll();
  }

  async *#askAll(): AsyncGenerator<void> {
    const questions = this.#questions;
    this.#questions = new Map();
    this.#count = 0;
    this.#most = 0;
    await Promise.all([...questions].map(([volume, all]) => this.#askVolume(volume, all)));
    yield;
  }

  async *end(): AsyncGenerator<void> {
    if (this.#count > 0) yield* this.#askAll();
  }

  async #askVolume(volume: VolumeId, questions: readonly Question[]): Promise<void> {
    for (let at = 0; at < questions.length; at += LIST_REPLICAS_MAX) {
      await this.#askAgain(volume, questions.slice(at, at + LIST_REPLICAS_MAX));
    }
  }

  async #askAgain(volume: VolumeId, all: readonly Question[]): Promise<void> {
    const { namespace, clock } = this.#run.parts;
    let pending = new Map(all.map((question) => [question, undefined as Finding | undefined]));
    for (let tries = 0; tries < TRIES && pending.size > 0; tries++) {
      if (tries > 0) await clock.sleep(RETRY_MS);
      const before = namespace.begin();
      const generations = new Map(
        [...pending.keys()].map((question) => [question, listing(before, question)?.generation]),
      );
      const found = await this.#list(volume, [...pending.keys()].map(({ block }) => block));
      if (found === undefined) return;
      const now = namespace.begin();
      const next = new Map<Question, Finding | undefined>();
      for (const question of pending.keys()) {
        const extent = listing(now, question);
        if (extent === undefined) continue;
        const finding = this.#compare(extent, volume, found.get(question.block));
        // Between two generations a replica may have either.
        const isSteady = generations.get(question) === extent.generation;
        if (finding !== undefined) next.set(question, isSteady ? finding : undefined);
      }
      pending = next;
    }
    for (const [{ ino, block, start, path }, finding] of pending) {
      if (finding === undefined) {
        this.#run.cannotCheck(`block ${block} of inode ${ino}: its replicas change all the time`);
      } else {this.#run.report({
          ...finding,
          ino,
          block,
          start,
          volume,
          ...path === undefined ? {} : { path: path() },
        });}
    }
  }

  #compare(
    { block, generation }: Extent,
    volume: VolumeId,
    replica: ListedReplica | undefined,
  ): Finding | undefined {
    const what = `block ${block}: the replica on ${this.#name(volume)}`;
    if (replica === undefined) return { kind: "lost", detail: `${what} is not there` };
    if (replica.generation !== generation) {
      return { kind: "stale", detail: `${what} has generation ${replica.generation}, not ${generation}` };
    }
    if (replica.fileBytes < 0) return { kind: "lost", detail: `${what} has lost its file` };
    if (replica.isFinal && replica.fileBytes < replica.length) {
      return { kind: "corrupt", detail: `${what} has ${replica.fileBytes} of ${replica.length} bytes` };
    }
    return undefined;
  }

  async #list(
    volume: VolumeId,
    blocks: readonly BlockId[],
  ): Promise<Map<BlockId, ListedReplica> | undefined> {
    const dataserver = this.#run.parts.registry.dataserver(volume);
    try {
      if (dataserver === null) throw new Error("its dataserver is away");
      const { replicas } = await dataserver.listReplicas({ volume, blocks }, { timeoutMs: ASK_TIMEOUT_MS });
      return new Map(replicas.map((replica) => [replica.block, replica]));
    } catch (error) {
      this.#run.cannotCheck(`${this.#name(volume)}: ${error instanceof Error ? error.message : error}`);
      return undefined;
    }
  }

  #name(volume: VolumeId): string {
    return volumeName(this.#run, volume);
  }
}

/** The block as it is now, if it is still there, has data, and lists the volume. */
function listing(tx: Transaction, { ino, start, block, volume }: Question): Extent | undefined {
  const extent = extentNow(tx, ino, start, block);
  return extent?.written === true && extent.volumes.includes(volume) ? extent : undefined;
}

/** Volumes have no replica that nobody knows of, and can be asked at all. */
export async function* checkVolumes(run: FsckContext): AsyncGenerator<void> {
  const { namespace, registry } = run.parts;
  for (const volume of registry.volumes) {
    const dataserver = registry.dataserver(volume);
    if (dataserver === null || !registry.isAlive(volume)) {
      // One that went for good, and of which no block speaks, is no loss.
      const used = await namespace.journal.scan(prefixRange(TABLE_REPLICA, volume), 1);
      if (used.length > 0) run.cannotCheck(`${volumeName(run, volume)}: it is away`);
      continue;
    }
    try {
      for (let from = 0;;) {
        const request = { volume, from, limit: LIST_REPLICAS_MAX };
        const { replicas } = await dataserver.listReplicas(request, { timeoutMs: ASK_TIMEOUT_MS });
        const strays = await confirmStrays(
          run,
          volume,
          replicas.filter((replica) => isStray(run, volume, replica)),
        );
        for (const { block, generation } of strays) {
          const detail =
            `${volumeName(run, volume)} has a replica of block ${block} (generation ${generation}) that ` +
            "no file has";
          run.report({ kind: "stray", detail, block, volume });
        }
        yield;
        const last = replicas.at(-1);
        if (last === undefined || replicas.length < LIST_REPLICAS_MAX) break;
        from = asBlockId(last.block + 1);
      }
    } catch (error) {
      run.cannotCheck(`${volumeName(run, volume)}: ${error instanceof Error ? error.message : error}`);
    }
  }
}

function isStray(run: FsckContext, volume: VolumeId, { block, generation }: ListedReplica): boolean {
  if (generation === COPY_GENERATION) return false; // being made, or aside soon
  const { journal, reserved } = run.parts.namespace;
  return !reserved.has(block) && journal.get(replicaKey(volume, block)) === undefined &&
    journal.get(deletionKey(volume, block)) === undefined;
}

async function confirmStrays(
  run: FsckContext,
  volume: VolumeId,
  first: readonly ListedReplica[],
): Promise<readonly ListedReplica[]> {
  let strays = first;
  for (let tries = 1; tries < TRIES && strays.length > 0; tries++) {
    await run.parts.clock.sleep(STRAY_RETRY_MS);
    const dataserver = run.parts.registry.dataserver(volume);
    if (dataserver === null) throw new Error("its dataserver is away");
    const blocks = strays.map(({ block }) => block);
    const { replicas } = await dataserver.listReplicas({ volume, blocks }, { timeoutMs: ASK_TIMEOUT_MS });
    strays = replicas.filter((replica) => isStray(run, volume, replica));
  }
  return strays;
}
