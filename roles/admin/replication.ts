/** The cluster's own number of replicas, for files and directories that do not say. */

import type { AdminClient } from "./client.ts";

/** `hosts`: those that blocks can have replicas on now. Errors: transport's. */
export async function clusterReplication(
  { admin }: AdminClient,
): Promise<{ readonly replication: number; readonly hosts: number }> {
  // Nothing is set of no inodes, and the answer says what 0 means.
  return await admin.setReplication({ inodes: [], replication: 0 });
}
