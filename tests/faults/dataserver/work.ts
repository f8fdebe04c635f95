/** What the recorded volume is asked to do, as it is noted, and what of it may be found after a cut. */

import assert from "node:assert/strict";
import { crc32 } from "node:zlib";

export const LENGTH_MAX = 200_000;
/** Blocks from here on are records only. */
export const FILLER_FROM = 1_000_000;

export const VOLUME_OPTIONS = {
  nodeLabel: "node",
  trashRetentionMs: 3_600_000,
  finalizeIdleMs: 100,
  openReplicasMax: 3,
  scrubPeriodMs: 0,
  scrubBytesPerSecond: () => 1,
} as const;

export type Work =
  & { readonly generation: number }
  & (
    | {
      readonly kind: "write";
      readonly block: number;
      readonly offset: number;
      readonly length: number;
      readonly seed: number;
    }
    | { readonly kind: "truncate"; readonly block: number; readonly length: number }
    | { readonly kind: "sync" | "generation" | "remove"; readonly block: number }
    | { readonly kind: "filler" }
  );

export function bytesOfWrite(
  { length, seed }: { readonly length: number; readonly seed: number },
): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  for (let i = 0, state = seed >>> 0 || 1; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

/** Null: there is no replica. */
interface State {
  readonly generation: number;
  readonly bytes: Uint8Array | null;
}

const NOTHING: State = { generation: 0, bytes: null };

/** One block as it was promised: the states it may be in, the first of which is on the disk for sure. */
export class BlockModel {
  #states: State[] = [NOTHING];
  /** Index of the state in which a sync began that has not ended. */
  #syncFrom: number | null = null;

  apply(event: "start" | "done", work: Work): void {
    const last = this.#states.at(-1)!;
    if (work.kind === "sync") {
      if (event === "start") this.#syncFrom = this.#states.length - 1;
      else {
        this.#states.splice(0, this.#syncFrom!);
        this.#syncFrom = null;
      }
    } else if (work.kind === "generation") {
      // From its start it may be so, from its end it is; what was written is as durable as before.
      if (event === "start") this.#states.push({ ...last, generation: work.generation });
      else this.#states = this.#states.map((state) => ({ ...state, generation: work.generation }));
    } else if (event === "start") this.#states.push(after(last, work));
  }

  /** May be gone, or be found broken: it was removed, or never synced. */
  get mayBeBroken(): boolean {
    return this.#states.some(({ bytes }) => bytes === null);
  }

  checkGeneration(generation: number): void {
    const possible = this.#states.map((state) => state.generation);
    assert.ok(possible.includes(generation), `generation ${generation} is none of ${possible}`);
  }

  /** Each byte is one that it may be: the old one or the new one of whatever was not synced; zero past the end. */
  checkBytes(found: Uint8Array): void {
    const states = this.#states.map(({ bytes }) => bytes ?? new Uint8Array(0));
    const length = Math.max(...states.map((bytes) => bytes.length), found.length);
    for (let i = 0; i < length; i++) {
      const byte = found[i] ?? 0;
      if (!states.some((bytes) => (bytes[i] ?? 0) === byte)) {
        const expected = states.map((bytes) => bytes[i] ?? 0);
        assert.fail(`byte ${i} of ${found.length} is ${byte}, not one of ${expected}`);
      }
    }
  }
}

function after(state: State, work: Work): State {
  switch (work.kind) {
    case "write": {
      const old = state.bytes ?? new Uint8Array(0);
      const bytes = new Uint8Array(Math.max(old.length, work.offset + work.length));
      bytes.set(old);
      bytes.set(bytesOfWrite(work), work.offset);
      return { generation: work.generation, bytes };
    }
    case "truncate":
      return { ...state, bytes: state.bytes!.slice(0, work.length) };
    case "remove":
      return NOTHING;
    default:
      return state;
  }
}

/** The crcs that a replica with these bytes has on the disk: of each 64 KiB. */
export function crcsOf(bytes: Uint8Array): Uint8Array {
  const chunks = Math.ceil(bytes.length / 65_536);
  const view = new DataView(new ArrayBuffer(chunks * 4));
  for (let i = 0; i < chunks; i++) {
    view.setUint32(i * 4, crc32(bytes.subarray(i * 65_536, (i + 1) * 65_536)), true);
  }
  return new Uint8Array(view.buffer);
}
