/** What `mfs fsck` says of a cluster that has come to rest. */

import type { RoleCluster } from "../harness/role_cluster.ts";

const PROBLEMS_MAX = 20;
/** Nothing is wrong, but something could not be checked: a disk that was replaced is a server that is away for good. */
const UNCHECKED = 3;
const LIMIT_MS = 120_000;

export async function checkFileSystem(cluster: RoleCluster): Promise<string[]> {
  const { code, stdout, stderr } = await cluster.mfs(["fsck", "--nameserver", cluster.nameserver], LIMIT_MS);
  if (code === 0 || code === UNCHECKED) return [];
  const lines = `${stdout}\n${stderr}`.split("\n").filter((line) => line !== "");
  return [`mfs fsck: exit code ${code}`, ...lines.slice(0, PROBLEMS_MAX)];
}
