/** Settings that may change while the program runs: asked each time that they count. */

export type Live<T> = T | (() => T);

/** `live`, or `usual` where it is not given, as a function. */
export function readerOf(live: Live<number> | undefined, usual = 0): () => number {
  if (typeof live === "function") return live;
  const value = live ?? usual;
  return () => value;
}
