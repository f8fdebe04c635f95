/**
 * Replicas of this machine's dataservers that this mount reads from their files, without asking anybody: finds out where they
 * lie, keeps them open, and forgets them. What can't be read so is read through a dataserver (reader.ts).
 *
 * Why that is right: whoever changes a file's data holds WRITE, and we hold a lease. So from when a dataserver has said that
 * its replica is the block's, in the block's generation, at rest and on its disk, the bytes in that file are the block's for
 * as long as the lease is held: also when the replica is taken off the block, deleted, or its dataserver stops meanwhile.
 *
 * Invariants:
 * - A replica belongs to a block as the block map has it (the object): what takes the map away, as a recall does, takes the
 *   replica with it, and the next one is located under the next lease.
 * - What this mount itself changes (`Inode.changes`) takes it away as well.
 * - At most OPEN_MAX are open, none that was not used for IDLE_MS, and none for longer than AGE_MS: what was deleted meanwhile
 *   frees its room then, and bytes are compared with their checksums anew.
 * - None is open whose dataserver is known to be gone: its disk can be unmounted.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { asFsError } from "../wire/errno.ts";
import type { LocateReplicaReply, ReplicaRequest } from "../wire/messages/dataserver.ts";
import type { Block, ReplicaLocation } from "../wire/messages/inode.ts";
import type { Dataservers } from "./dataservers.ts";
import type { OpenFile } from "./inode.ts";
import { LocalReplica } from "./local_replica.ts";

const OPEN_MAX = 256;
const IDLE_MS = 5_000;
const AGE_MS = 60_000;
const LOCATE_TIMEOUT_MS = 3_000;
/** A replica that was changed a moment ago is at rest after this; one that can't be read is tried again. */
const RETRY_MS = 2_500;
/** A dataserver of another machine is not asked again for this long. */
const ELSEWHERE_MS = 600_000;
/** Of files with less a single request brings all: locating them would be one more. */
const SMALL_BYTES = 64 * 1024;
/** Reads of disks at once: a disk that hangs must not take all threads of the pool. */
const READS_MAX = 16;

/** What is known of a block's replicas here; of one block object. */
interface Place {
  replica: LocalReplica | null;
  isLocating: boolean;
  retryAtMs: number;
  /** Of the file, when it was located. */
  changes: number;
  openedMs: number;
  /** Of the dataserver that has it. */
  address: string;
}

export interface LocalReplicasOptions {
  readonly dataservers: Pick<Dataservers, "client" | "nearestFirst">;
  /** As LocateReplicaReply's. */
  readonly machine: string;
  readonly clock: Clock;
  readonly log: Logger;
}

export class LocalReplicas {
  readonly #options: LocalReplicasOptions;
  readonly #places = new WeakMap<Block, Place>();
  readonly #open = new Map<LocalReplica, Place>();
  /** Dataservers of other machines, until when. */
  readonly #elsewhere = new Map<string, number>();
  #reading = 0;
  #uses = 0;
  /** Counts dataservers that went. */
  #goings = 0;
  /** Why the last replica on this machine could not be opened, if it could not. */
  refused: string | undefined;

  constructor(options: LocalReplicasOptions) {
    this.#options = options;
  }

  /** The block's replica, if it can be read here now. If not, it is looked for. */
  find(file: OpenFile, block: Block): LocalReplica | null {
    const place = this.#places.get(block);
    if (place === undefined) {
      // Whoever reads a little once is answered sooner by a dataserver.
      const retryAtMs = block.length > SMALL_BYTES && file.size > SMALL_BYTES ? 0 : Infinity;
      this.#places.set(block, {
        replica: null,
        isLocating: false,
        retryAtMs,
        changes: 0,
        openedMs: 0,
        address: "",
      });
      if (retryAtMs === 0) return this.find(file, block);
      return null;
    }
    const { replica } = place;
    if (
      replica !== null && !replica.isClosed && place.changes === file.inode.changes &&
      file.inode.changing === 0
    ) {
      replica.usedAt = ++this.#uses;
      return replica;
    }
    if (!place.isLocating && place.retryAtMs <= this.#options.clock.monotonicMs()) {
      void this.#locate(file, block, place);
    }
    return null;
  }

  /** As much is read as may be at once. */
  get isBusy(): boolean {
    return this.#reading >= READS_MAX;
  }

  /** As LocalReplica.read. */
  async read(replica: LocalReplica, from: number, to: number): Promise<Uint8Array> {
    this.#reading++;
    try {
      return await replica.read(from, to);
    } finally {
      this.#reading--;
    }
  }

  /** It could not be read, or not in time: its dataserver looks into that. */
  drop(block: Block, replica: LocalReplica, error: unknown): void {
    const place = this.#places.get(block);
    if (place?.replica !== replica) return;
    this.#options.log.debug("a replica's file can't be read", { block: block.id, error });
    place.retryAtMs = this.#options.clock.monotonicMs() + RETRY_MS * 4;
    this.#close(replica, place);
  }

  async #locate(file: OpenFile, block: Block, place: Place): Promise<void> {
    const { clock, dataservers, machine, log } = this.#options;
    // Something may be on its way to the replica, or was sent and may come late.
    if (file.inode.changing > 0 || file.isUnflushed) return;
    const { changes } = file.inode;
    const candidate = this.#candidate(block);
    if (candidate === undefined) {
      place.retryAtMs = clock.monotonicMs() + ELSEWHERE_MS;
      return;
    }
    const { address, volume } = candidate;
    if (place.replica !== null) this.#close(place.replica, place);
    place.isLocating = true;
    place.retryAtMs = clock.monotonicMs() + RETRY_MS;
    try {
      const client = await dataservers.client(address);
      const goings = this.#goings;
      const request: ReplicaRequest = { block: block.id, generation: block.generation, volume };
      const { file: found, body }: LocateReplicaReply = await client.locateReplica(request, {
        timeoutMs: LOCATE_TIMEOUT_MS,
      });
      if (found === undefined) return; // not at rest
      if (found.machine !== machine) return this.#noteElsewhere(address, place);
      const replica = await LocalReplica.open(found, body);
      this.refused = undefined;
      if (changes !== file.inode.changes || file.inode.changing > 0 || goings !== this.#goings) {
        return replica.close();
      }
      place.address = address;
      place.replica = replica;
      place.changes = changes;
      place.openedMs = clock.monotonicMs();
      replica.usedAt = ++this.#uses;
      this.#makeRoom();
      this.#open.set(replica, place);
    } catch (error) {
      const { errno, message } = asFsError(error, "locate");
      if (errno === "ENOSYS") return this.#noteElsewhere(address, place); // an older one
      if (errno === "EACCES" || errno === "EPERM") this.refused = message;
      log.debug("a replica's file is not to be had", { block: block.id, address, error: message });
      // A name that leads elsewhere here will do so for long.
      const isLasting = errno === "EACCES" || errno === "EPERM" || errno === "ENOENT";
      if (isLasting) place.retryAtMs = clock.monotonicMs() + ELSEWHERE_MS;
    } finally {
      place.isLocating = false;
    }
  }

  /** The nearest replica whose dataserver may be on this machine. */
  #candidate(block: Block): ReplicaLocation | undefined {
    const nowMs = this.#options.clock.monotonicMs();
    return this.#options.dataservers.nearestFirst(block.replicas).find(({ address, alive }) => {
      const untilMs = this.#elsewhere.get(address);
      if (untilMs !== undefined && untilMs <= nowMs) this.#elsewhere.delete(address);
      return alive && (untilMs === undefined || untilMs <= nowMs);
    });
  }

  #noteElsewhere(address: string, place: Place): void {
    this.#elsewhere.set(address, this.#options.clock.monotonicMs() + ELSEWHERE_MS);
    place.retryAtMs = 0; // another one of the block's may be here
  }

  #makeRoom(): void {
    if (this.#open.size < OPEN_MAX) return;
    let oldest: LocalReplica | undefined;
    for (const replica of this.#open.keys()) {
      if (oldest === undefined || replica.usedAt < oldest.usedAt) oldest = replica;
    }
    this.#close(oldest!, this.#open.get(oldest!)!);
  }

  #close(replica: LocalReplica, place: Place): void {
    this.#open.delete(replica);
    place.replica = null;
    replica.close();
  }

  readonly #lastUses: { readonly atMs: number; readonly uses: number }[] = [];

  /** Closes what was not used for long, and what was open for long. About once a second. */
  sweep(): void {
    const nowMs = this.#options.clock.monotonicMs();
    this.#lastUses.push({ atMs: nowMs, uses: this.#uses });
    while (this.#lastUses.length > 1 && this.#lastUses[1]!.atMs <= nowMs - IDLE_MS) this.#lastUses.shift();
    const [before] = this.#lastUses;
    const isLong = before!.atMs <= nowMs - IDLE_MS;
    for (const [replica, place] of this.#open) {
      const isIdle = isLong && replica.usedAt <= before!.uses;
      if (isIdle || place.openedMs <= nowMs - AGE_MS) this.#close(replica, place);
    }
  }

  /** A dataserver has stopped, or can't be reached. */
  gone(address: string): void {
    this.#goings++;
    for (const [replica, place] of this.#open) {
      if (place.address === address) this.#close(replica, place);
    }
  }

  /** Closes all. */
  close(): void {
    for (const [replica, place] of this.#open) this.#close(replica, place);
  }
}
