/** Waiting that whoever asked may give up. */

import { FsError } from "../wire/errno.ts";

/** Something that a user may give up on; the signal is made when it is first looked at. */
export interface Interruptible {
  readonly signal: AbortSignal;
  /** Runs `action` when the answer has been taken, and its memory may be used again. */
  onReplied?(action: () => void): void;
}

/** Waits for `work`, at most until the caller is given up on: EINTR. */
export function withSignal<T>(work: Promise<T>, interrupt: Interruptible | undefined): Promise<T> {
  if (interrupt === undefined) return work;
  const { signal } = interrupt;
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(new FsError("EINTR", "interrupted"));
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
