/** Settings that may change while the program runs: asked each time that they count. */

import type { Clock } from "./clock.ts";

export type Live<T> = T | (() => T);

/** `live`, or `usual` where it is not given, as a function. */
export function readerOf(live: Live<number> | undefined, usual = 0): () => number {
  if (typeof live === "function") return live;
  const value = live ?? usual;
  return () => value;
}

/** Waits for `ms`, or until a setting has changed (true), which is looked at every `lookMs`. */
export async function restUnlessChanged(
  clock: Clock,
  ms: number,
  lookMs: number,
  hasChanged: () => boolean,
  signal: AbortSignal,
): Promise<boolean> {
  const untilMs = clock.monotonicMs() + ms;
  while (!signal.aborted) {
    if (hasChanged()) return true;
    const leftMs = untilMs - clock.monotonicMs();
    if (leftMs <= 0) break;
    await clock.sleep(Math.min(leftMs, lookMs), signal);
  }
  return false;
}
