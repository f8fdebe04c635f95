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
  const outcome = await simulate(seed, trace ? console.log : null, kinds);
  scope.postMessage({ seed, outcome });
};
