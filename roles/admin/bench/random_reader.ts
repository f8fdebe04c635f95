/**
 * One of several threads that read the large file at random places at the same time: waits for the common start, reads
 * until the common end, tells how much it has read.
 */

import { close, O_RDONLY, open } from "../../../base/libc.ts";
import { BLOCK_BYTES, bufferOf, readBlocks, shuffledBlocks } from "./large_file.ts";
import { must } from "./workload.ts";

export interface ReaderJob {
  readonly path: string;
  readonly blocks: number;
  readonly seed: number;
  readonly runMs: number;
  /** One Int32: how many readers are ready, then STARTED. */
  readonly gate: SharedArrayBuffer;
}

export type ReaderResult = { readonly done: number; readonly seconds: number } | { readonly error: string };

export const STARTED = 1_000_000;
const START_MS_MAX = 60_000;

const scope = self as unknown as {
  onmessage: (event: MessageEvent<ReaderJob>) => void;
  postMessage(result: ReaderResult): void;
};

function run({ path, blocks, seed, runMs, gate }: ReaderJob): ReaderResult {
  const fd = must(open(path, O_RDONLY), "open", path);
  const order = shuffledBlocks(blocks, seed);
  bufferOf(BLOCK_BYTES);
  const state = new Int32Array(gate);
  Atomics.add(state, 0, 1);
  Atomics.notify(state, 0);
  const startByMs = performance.now() + START_MS_MAX;
  for (let value = Atomics.load(state, 0); value < STARTED; value = Atomics.load(state, 0)) {
    Atomics.wait(state, 0, value, 1_000);
    if (performance.now() > startByMs) throw new Error("the other readers were not ready in time");
  }
  const startMs = performance.now();
  const done = readBlocks(fd, order, startMs + runMs);
  const seconds = (performance.now() - startMs) / 1000;
  close(fd);
  return { done, seconds };
}

scope.onmessage = ({ data }) => {
  try {
    scope.postMessage(run(data));
  } catch (error) {
    scope.postMessage({ error: error instanceof Error ? error.message : String(error) });
  }
};
