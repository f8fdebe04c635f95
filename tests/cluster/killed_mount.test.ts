/**
 * A mount is killed while one of its threads waits in the kernel for a page that only this mount could bring: who waits for
 * the mount is let go all the same.
 */

import { assert } from "@std/assert";
import { run, sleep, within } from "../harness/command.ts";
import { threadsOf } from "../harness/process.ts";
import { RoleCluster } from "../harness/role_cluster.ts";

Deno.test({
  name: "killed mount: who waits for a page is let go, though a thread waits for that page, too",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () => RoleCluster.with({ mounts: 2, dataservers: 1, replication: 1 }, 100_000, body),
});

async function body(cluster: RoleCluster): Promise<void> {
  const [writing, reading] = cluster.mountpoints as [string, string];
  const there = await run("sh", ["-c", "head -c 1000000 /dev/zero > file"], {
    timeoutMs: 20_000,
    cwd: writing,
  });
  assert(there.code === 0, there.stderr);
  const mount = cluster.process("mount2");
  cluster.process("dataserver1").signal("SIGSTOP");
  const reader = run("head", ["-c", "4096", `${reading}/file`], { timeoutMs: 60_000 });
  await sleep(1_000);
  // Takes the lease from the reader's mount, which has the kernel drop its pages.
  const writer = run("sh", ["-c", "echo changed 1<> file"], { timeoutMs: 60_000, cwd: writing });
  const limitMs = performance.now() + 10_000;
  while (!threadsOf(mount.pid).includes("folio_lock")) {
    assert(performance.now() < limitMs, `no thread waits for the page: ${threadsOf(mount.pid)}`);
    await sleep(50);
  }
  mount.killAlone();
  await mount.ended(15_000).catch((error) => {
    throw new Error(`${error.message}: ${threadsOf(mount.pid)}`);
  });
  const { code } = await within(5_000, "the reader", reader);
  assert(code !== 0, "it is told that the mount is gone");
  cluster.process("dataserver1").signal("SIGCONT");
  const { code: written, stderr } = await within(40_000, "the writer", writer);
  assert(written === 0, stderr);
}
