/** Mounts by an ordinary user, through fusermount3: what the user and others may do there. */

import assert from "node:assert/strict";
import { hasProgram, run } from "../harness/command.ts";
import { RoleCluster } from "../harness/role_cluster.ts";
import { childArguments } from "./small_cluster_process.ts";

const HERE = decodeURIComponent(new URL("./unprivileged/", import.meta.url).pathname);
const USER = "65534"; // nobody
const PROGRAMS = ["fusermount3", "setpriv", "unshare"];
const LIMIT_MS = 90_000;

const SAID = `
--- for oneself
fuse.mfs rw
nosuid
nodev
user_id=65534
65534 cat mine/d/missing: No such file or directory
65534 sh -c echo text > mine/d/own; chmod 640 mine/d/own; cat mine/d/own; stat -c "%u:%g %a" mine/d/own: text
65534:65534 640
65534 mine/d/id -u: 65534
65534 cat mine/d/null: Permission denied
1002 ls mine: Permission denied
0 ls mine: Permission denied
exit code 0
65534:65534 640
--- for all, where the machine does not let users
told about fuse.conf
not mounted, exit code 1
--- as somebody else
uidmap and gidmap say who is whom: only root may mount with them
not mounted, exit code 1
--- for all
65534 cat mine/d/own: text
1002 cat mine/d/own: Permission denied
1002 sh -c echo > mine/d/own: Permission denied
1002 sh -c umask 0; mkdir mine/d/theirs; echo theirs > mine/d/theirs/f; stat -c "%u:%g %a" mine/d/theirs/f: 1002:1002 666
65534 cat mine/d/theirs/f: theirs
65534 chmod 600 mine/d/theirs/f: Operation not permitted
1002 mkdir mine/e: Permission denied
65534 mkdir mine/e: Permission denied
1002 chown 65534 mine/d/theirs/f: Operation not permitted
1002 mine/d/id -u: 1002
1002 mknod mine/d/zero c 1 5: Operation not permitted
0 cat mine/d/own: text
exit code 0
`.trim();

Deno.test({
  name: "unprivileged: a user's mount is that user's alone, or lets others do what the modes allow",
  ignore: Deno.uid() !== 0 || PROGRAMS.some((program) => !hasProgram(program)),
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const cluster = await RoleCluster.start({ mounts: 1, dataservers: 1, replication: 1 });
    try {
      Deno.chmodSync(cluster.scratch, 0o755); // for the user, and for others
      const mount = [Deno.execPath(), ...childArguments(`${HERE}mount.ts`), USER, cluster.nameserver];
      const { stdout, stderr } = await run("unshare", [
        ...["--mount", "--propagation", "private", "bash", `${HERE}mounts.sh`],
        ...[cluster.scratch, cluster.mountpoints[0]!, ...mount],
      ], { timeoutMs: LIMIT_MS });
      assert.deepEqual((stdout + stderr).trim().split("\n"), SAID.split("\n"));
    } finally {
      await cluster.discard();
    }
  },
});
