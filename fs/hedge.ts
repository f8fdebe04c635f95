/**
 * Asking one of several that could all answer: the first alone; the next as well when it fails, or has not answered in a
 * time in which nearly every answer comes. So one that hangs holds nobody up until its deadline.
 */

import { type Clock, OVER } from "../base/clock.ts";

export interface HedgeOptions<Candidate, Answer> {
  readonly ask: (candidate: Candidate) => Promise<Answer>;
  readonly onFailure: (candidate: Candidate, error: unknown) => void;
  /** Another answered before it, though it was asked later. */
  readonly onSlow: (candidate: Candidate) => void;
  readonly clock: Clock;
  readonly hedgeMs: number;
}

/** The first answer; rejects with the last failure when all have failed. There must be a candidate. */
export function firstAnswer<Candidate, Answer>(
  candidates: readonly Candidate[],
  { ask, onFailure, onSlow, clock, hedgeMs }: HedgeOptions<Candidate, Answer>,
): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const ended = new AbortController();
  const waiting = new Set<Candidate>();
  let next = 0;

  const askNext = (): void => {
    const candidate = candidates[next++]!;
    waiting.add(candidate);
    ask(candidate).then((answer) => {
      waiting.delete(candidate);
      if (ended.signal.aborted) return;
      ended.abort(OVER);
      const place = candidates.indexOf(candidate);
      for (const other of waiting) if (candidates.indexOf(other) < place) onSlow(other);
      resolve(answer);
    }, (error) => {
      waiting.delete(candidate);
      if (ended.signal.aborted) return;
      onFailure(candidate, error);
      if (next < candidates.length) return askNext();
      if (waiting.size > 0) return;
      ended.abort(OVER);
      reject(error);
    });
    if (next < candidates.length) hedge(next);
  };

  const hedge = (place: number): void =>
    void clock.sleep(hedgeMs, ended.signal).then(() => {
      if (!ended.signal.aborted && next === place) askNext();
    });

  askNext();
  return promise;
}
