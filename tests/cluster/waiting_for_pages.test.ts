/**
 * A mount loses its session while a recall waits for a page that a read of it has still to bring: the read is served in the
 * next session, and whoever wanted the lease goes on.
 */

import { assert, assertEquals } from "@std/assert";
import { run, sleep, within } from "../harness/command.ts";
import { threadsOf } from "../harness/process.ts";
import { RoleCluster } from "../harness/role_cluster.ts";

const SESSION_TTL_S = 2;

Deno.test({
  name: "waiting for pages: a read that a recall waits for ends, though the session was lost meanwhile",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    RoleCluster.with(
      {
        ...{ mounts: 2, dataservers: 1, replication: 1 },
        nameserverFlags: ["--session-ttl", String(SESSION_TTL_S)],
      },
      100_000,
      body,
    ),
});

async function body(cluster: RoleCluster): Promise<void> {
  const [writing, reading] = cluster.mountpoints as [string, string];
  const there = await run("sh", ["-c", "head -c 1000000 /dev/zero > file"], {
    timeoutMs: 20_000,
    cwd: writing,
  });
  assertEquals(there.code, 0, there.stderr);
  const mount = cluster.process("mount2");
  cluster.process("dataserver1").signal("SIGSTOP");
  const reader = run("head", ["-c", "4096", `${reading}/file`], { timeoutMs: 90_000 });
  await sleep(1_000);
  const writer = run("sh", ["-c", "echo changed 1<> file"], { timeoutMs: 90_000, cwd: writing });
  await until("a thread waits for the page", () => threadsOf(mount.pid).includes("folio_lock"));
  mount.signal("SIGSTOP");
  await until("the session ends", () => cluster.logOf("nameserver").includes("session ended"));
  mount.signal("SIGCONT");
  await until(
    "the mount has lost its session",
    () => cluster.logOf("mount2").includes("the session was lost"),
  );
  cluster.process("dataserver1").signal("SIGCONT");
  const [read, written] = await within(40_000, "reader and writer", Promise.all([reader, writer]));
  assertEquals([read.code, written.code], [0, 0], `${read.stderr}${written.stderr}`);
  assertEquals(read.stdout.length, 4096);
}

async function until(what: string, isSo: () => boolean): Promise<void> {
  const limitMs = performance.now() + 20_000;
  while (!isSo()) {
    assert(performance.now() < limitMs, `in 20 s it did not come to it that ${what}`);
    await sleep(50);
  }
}
