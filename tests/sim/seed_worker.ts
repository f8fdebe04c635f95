/** Runs one seed after the other in a thread of its own, as its owner (main.ts) asks. */

import { simulate } from "./run.ts";

export interface SeedRequest {
  readonly seed: number;
  readonly trace: boolean;
}

const scope = self as unknown as {
  onmessage: (event: MessageEvent<SeedRequest>) => void;
  postMessage: (message: unknown) => void;
};

scope.onmessage = async ({ data: { seed, trace } }) => {
  const outcome = await simulate(seed, trace ? console.log : null);
  scope.postMessage({ seed, outcome });
};
