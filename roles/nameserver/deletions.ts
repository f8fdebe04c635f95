/**
 * Delivery of deletions: replicas that lost their block are deleted by their dataserver, whenever it is there.
 * Invariants:
 * - A deletion's key stays until the dataserver reported the replica gone; sending one twice is harmless.
 * - Nobody waits for a volume that was forgotten: what comes back with it is known by no block, and goes to its trash.
 * - What led to it is on disk before it is sent: a power cut would give the file its block back, without its replicas.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import { asBlockId, asGeneration, type BlockId, type Generation, type VolumeId } from "../../wire/ids.ts";
import type { Journal, Write } from "./journal.ts";
import { decodeNumbers } from "./records.ts";
import { deletionKey, getU64, prefixRange, TABLE_DELETION, tableRange } from "./keys.ts";
import type { Registry } from "./registry.ts";

const BATCH = 1000;
const PERIOD_MS = 500;
/** So often, orders for volumes that were forgotten are dropped. */
const FORGET_MS = 10_000;
/** A dataserver that took a batch and did not report it is asked again. */
const RETRY_MS = 30_000;

export class DeletionQueue {
  readonly #journal: Journal;
  readonly #registry: Registry;
  readonly #clock: Clock;
  readonly #log: Logger;
  /** When each volume's outstanding batch was sent. */
  readonly #sentMs = new Map<VolumeId, number>();
  /** Up to which generation each replica of the batch that was sent last is to go. */
  readonly #sent = new Map<VolumeId, ReadonlyMap<BlockId, Generation>>();

  constructor(journal: Journal, registry: Registry, clock: Clock, log: Logger) {
    this.#journal = journal;
    this.#registry = registry;
    this.#clock = clock;
    this.#log = log;
  }

  async run(signal: AbortSignal): Promise<void> {
    let forgotMs = -Infinity;
    while (!signal.aborted) {
      if (this.#clock.monotonicMs() - forgotMs >= FORGET_MS) {
        forgotMs = this.#clock.monotonicMs();
        await this.#dropForgotten().catch((error) => this.#log.warn("deletions are kept", { error }));
      }
      for (const volume of this.#registry.connectedVolumes()) {
        try {
          await this.#deliver(volume);
        } catch (error) {
          if (!signal.aborted) this.#log.debug("deletions wait", { volume, error });
        }
      }
      await this.#clock.sleep(PERIOD_MS, signal);
    }
  }

  async #dropForgotten(): Promise<void> {
    let [from, to] = tableRange(TABLE_DELETION);
    for (;;) {
      const [first] = await this.#journal.scan([from, to], 1);
      if (first === undefined) return;
      const volume = getU64(first[0], 1) as VolumeId;
      const range = prefixRange(TABLE_DELETION, volume);
      if (this.#registry.isKnown(volume)) {
        from = range[1];
        continue;
      }
      const orders = await this.#journal.scan(range, BATCH);
      // It may have come meanwhile.
      if (this.#registry.isKnown(volume)) continue;
      const dropped = orders.map(([key]): Write => [key.slice(), null]);
      await this.#journal.durable(this.#journal.append(dropped));
      this.#log.info("deletions for a forgotten volume are dropped", { volume, count: dropped.length });
    }
  }

  async #deliver(volume: VolumeId): Promise<void> {
    const sentMs = this.#sentMs.get(volume);
    if (sentMs !== undefined && this.#clock.monotonicMs() - sentMs < RETRY_MS) return;
    const records = await this.#journal.scan(prefixRange(TABLE_DELETION, volume), BATCH);
    if (records.length === 0) return;
    const blocks = records.map(([key]) => asBlockId(getU64(key, 9)));
    await this.#journal.durable(this.#journal.position);
    const upTo = records.map(([, value]) => upToOf(value));
    const dataserver = this.#registry.dataserver(volume);
    if (dataserver === null) return;
    this.#sentMs.set(volume, this.#clock.monotonicMs());
    this.#sent.set(volume, new Map(blocks.map((block, i) => [block, upTo[i]!])));
    try {
      await dataserver.deleteBlocks({ volume, blocks, upTo });
    } catch (error) {
      this.#sentMs.delete(volume);
      throw error;
    }
  }

  /** Its dataserver has come (back): what it was told before may be forgotten. */
  registered(volumes: readonly VolumeId[]): void {
    for (const volume of volumes) this.#sentMs.delete(volume);
  }

  /** The dataserver says that these replicas are gone. One that is to go up to a higher generation by now is left to be sent. */
  deleted(volume: VolumeId, blocks: readonly BlockId[]): void {
    const sent = this.#sent.get(volume);
    const gone = blocks.map((block) => ({ key: deletionKey(volume, block), upTo: sent?.get(block) }))
      .filter(({ key, upTo }) => {
        const value = upTo === undefined ? undefined : this.#journal.get(key);
        return value === undefined || upToOf(value) <= upTo!;
      });
    if (gone.length > 0) this.#journal.append(gone.map(({ key }) => [key, null]));
    this.#sentMs.delete(volume);
  }
}

function upToOf(value: Uint8Array): Generation {
  return asGeneration(decodeNumbers(value)[0] ?? Number.MAX_SAFE_INTEGER);
}
