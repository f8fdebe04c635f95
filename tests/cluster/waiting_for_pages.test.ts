/**
 * A recall waits in the kernel for a page that a read of this mount has still to bring, when the mount is killed, or loses its
 * session: who waits for the mount, or for the lease, goes on all the same.
 */

import { assert, assertEquals } from "@std/assert";
import { eventually, run, sleep, within } from "../harness/command.ts";
import { type MfsProcess, threadsOf } from "../harness/process.ts";
import { RoleCluster, type RoleClusterOptions } from "../harness/role_cluster.ts";

const SEEN_MS = 20_000;
const CALL_MS = 90_000;

/** Mount 2 is in that state; the only dataserver is stopped. */
interface Waiting {
  readonly mount: MfsProcess;
  readonly reader: ReturnType<typeof run>;
  readonly writer: ReturnType<typeof run>;
}

function test(
  name: string,
  options: RoleClusterOptions,
  body: (cluster: RoleCluster, waiting: Waiting) => Promise<void>,
): void {
  Deno.test({
    name: `waiting for pages: ${name}`,
    ignore: Deno.uid() !== 0,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () =>
      RoleCluster.with(
        { mounts: 2, dataservers: 1, replication: 1, ...options },
        100_000,
        async (cluster) => await body(cluster, await startWaiting(cluster)),
      ),
  });
}

async function startWaiting(cluster: RoleCluster): Promise<Waiting> {
  const [writing, reading] = cluster.mountpoints as [string, string];
  const there = await run("sh", ["-c", "head -c 1000000 /dev/zero > file"], {
    timeoutMs: 20_000,
    cwd: writing,
  });
  assertEquals(there.code, 0, there.stderr);
  const mount = cluster.process("mount2");
  cluster.process("dataserver1").signal("SIGSTOP");
  const reader = run("head", ["-c", "4096", `${reading}/file`], { timeoutMs: CALL_MS });
  await sleep(1_000);
  // Takes the lease from the reader's mount, which has the kernel drop its pages.
  const writer = run("sh", ["-c", "echo changed 1<> file"], { timeoutMs: CALL_MS, cwd: writing });
  await eventually(
    SEEN_MS,
    "a thread waits for the page",
    () => threadsOf(mount.pid).includes("folio_lock"),
  );
  return { mount, reader, writer };
}

test("who waits for a mount that is killed is let go, though a thread of it waits, too", {}, async (
  cluster,
  { mount, reader, writer },
) => {
  mount.killAlone();
  await mount.ended(15_000).catch((error) => {
    throw new Error(`${error.message}: ${threadsOf(mount.pid)}`);
  });
  const { code } = await within(5_000, "the reader", reader);
  assert(code !== 0, "it is told that the mount is gone");
  cluster.process("dataserver1").signal("SIGCONT");
  const written = await within(40_000, "the writer", writer);
  assertEquals(written.code, 0, written.stderr);
});

test("a read that is waited for ends, though the session was lost meanwhile", {
  nameserverFlags: ["--session-ttl", "2"],
}, async (cluster, { mount, reader, writer }) => {
  const isLogged = (role: string, text: string) => () => cluster.logOf(role).includes(text);
  mount.signal("SIGSTOP");
  await eventually(SEEN_MS, "the session ends", isLogged("nameserver", "session ended"));
  mount.signal("SIGCONT");
  await eventually(SEEN_MS, "the mount hears of it", isLogged("mount2", "the session was lost"));
  cluster.process("dataserver1").signal("SIGCONT");
  const [read, written] = await within(40_000, "reader and writer", Promise.all([reader, writer]));
  assertEquals([read.code, written.code], [0, 0], `${read.stderr}${written.stderr}`);
  assertEquals(read.stdout.length, 4096);
});
