/** What `mfs status` says of a cluster's replicas. */

import { eventually } from "../harness/command.ts";
import type { RoleCluster } from "../harness/role_cluster.ts";
import type { StatusReply } from "../../wire/messages/nameserver.ts";

/** The nameserver counts blocks at most this often. */
export const COUNTED_MS = 2_000;
/** So many counts with the same deletions pending: they are those of lost volumes. */
const STEADY_TIMES = 5;
const NAMESERVER_BACK_MS = 60_000;

/**
 * As far as the nameserver says so, which may be away just now. Of a volume that was wiped, also the one that was there before
 * counts, which has the same path.
 */
export async function hasFailed(cluster: RoleCluster, path: string): Promise<boolean> {
  let failed = false;
  await eventually(NAMESERVER_BACK_MS, "mfs status", async () => {
    try {
      const { dataservers } = await cluster.status();
      failed = dataservers.some(({ volumes }) =>
        volumes.some((volume) => volume.path === path && volume.failed !== undefined)
      );
      return true;
    } catch {
      return false;
    }
  });
  return failed;
}

/** Every block has all its replicas, and all dataservers live; one that got a new disk is another from then on. */
function isHealthy(cluster: RoleCluster, status: StatusReply): boolean {
  const { underReplicated, missing, repair } = status;
  const alive = status.dataservers.filter((dataserver) => dataserver.alive).length;
  return underReplicated + missing + repair.waiting + repair.running === 0 && !repair.walking &&
    alive === cluster.names.filter((name) => name.startsWith("dataserver")).length;
}

/**
 * Resolves when all blocks have all their replicas; `idle`: and nothing is left to delete, but from volumes that are gone
 * for good, which nobody can. Tells how much that is; `left` is what was told before: so much need not be seen to stay.
 * Rejects after the limit.
 */
export async function healthy(
  cluster: RoleCluster,
  limitMs: number,
  { idle = false, left = 0 }: { readonly idle?: boolean; readonly left?: number } = {},
): Promise<number> {
  let last: StatusReply | undefined;
  // Twice, and not from one count: what is wrong may be noticed after it has happened.
  let times = 0;
  let countedMs = -Infinity;
  let deletions = left;
  try {
    await eventually(limitMs, "all blocks repaired", async () => {
      last = await cluster.status();
      const nowMs = performance.now();
      const { pendingDeletions } = last;
      if (!isHealthy(cluster, last) || (idle && pendingDeletions !== deletions)) times = 0;
      else if (nowMs - countedMs > COUNTED_MS) {
        times++;
        countedMs = nowMs;
      }
      deletions = pendingDeletions;
      return times >= (!idle ? 1 : deletions <= left ? 2 : STEADY_TIMES);
    });
  } catch (error) {
    const { underReplicated, missing, pendingDeletions, repair, dataservers } = last ?? {};
    const figures = JSON.stringify({ underReplicated, missing, pendingDeletions, repair, dataservers });
    // Which block it is.
    const found = await cluster.mfs(["fsck", "--nameserver", cluster.nameserver], 60_000)
      .then(({ stdout, stderr }) => stdout + stderr, (failure) => `fsck: ${failure.message}`);
    throw new Error(`${(error as Error).message}: ${figures}\n${found}`);
  }
  return deletions;
}
