/** shared_tree.ts with a fixed seed, some calls: by hand (`scripts/test tree`) it makes as many as one likes. */

import assert from "node:assert/strict";
import { compiler, shareTree, sums } from "./shared_tree.ts";
import { SmallCluster } from "./small_cluster_process.ts";

/** At most one of so many calls gets ESTALE (shared_tree.c says why there are any). */
const STALE_CALLS_MIN = 1000;
/** Of a kind of which none was done. */
const REFUSED_MAX = 100;

Deno.test({
  name: "shared tree: calls of all kinds on two mounts leave one tree, and fail only as they may",
  ignore: compiler === undefined,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using cluster = await SmallCluster.start("tcp", 50_000);
    const settings = { seed: 1, calls: 400, processes: 6, mode: "tcp", options: "" } as const;
    const counts = await shareTree(cluster, settings).catch((error) => {
      throw new Error(`${error.message}\n--- end of the cluster's log\n${cluster.log.slice(-6000)}`);
    });
    const never = [...counts].filter(([, { done, refused }]) => done === 0 && refused > REFUSED_MAX);
    assert.deepEqual(never, [], "kinds of which none was done");
    const [calls, stale] = sums(counts);
    assert.ok(stale * STALE_CALLS_MIN <= calls, `${stale} of ${calls} calls got ESTALE`);
    await cluster.stop();
  },
});
