/** Runs one seed after the other in a thread of its own, as its owner (main.ts) asks. */

import type { Fault } from "./faults.ts";
import { simulate } from "./run.ts";

export interface SeedRequest {
  readonly seed: number;
  readonly trace: boolean;
  /** Empty: as the seed says. */
  readonly kinds: readonly Fault[];
}

const scope = self as unknown as {
  onmessage: (event: MessageEvent<SeedRequest>) => void;
  postMessage: (message: unknown) => void;
};

scope.onmessage = async ({ data: { seed, trace, kinds } }) => {
  // Errors are many here, and where each came from costs more than all else about them. With a trace it is wanted.
  Error.stackTraceLimit = trace ? 20 : 0;
  const outcome = await simulate(seed, trace ? console.log : null, kinds);
  scope.postMessage({ seed, outcome });
};
