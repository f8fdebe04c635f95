/**
 * A write that has failed may still be in the socket of a server that hangs: what another mount writes after that, and is told
 * to be stored, stays.
 */

import { assert, assertEquals } from "@std/assert";
import { run, sh, sleep } from "../harness/command.ts";
import { RoleCluster } from "../harness/role_cluster.ts";

const FILES = 12;
/** What fails is much more than what is stored, so that it would take longer to be read from its socket. */
const FAILING_KIB = 512;
const STORED_KIB = 4;
/** Until what the second mount sends has left it, if nothing keeps it; less than what it takes a server's silence for. */
const SENT_MS = 1_200;

/** Writes into all files at once; gives how many of the writes failed. */
async function overwrite(mountpoint: string, kib: number, byte: string): Promise<number> {
  const write =
    `head -c ${kib}K /dev/zero | tr '\\0' ${byte} | dd of=$f bs=${kib}K iflag=fullblock conv=notrunc`;
  const script = `for f in f*; do { ${write} 2> /dev/null || echo failed; } & done; wait`;
  const { stdout } = await run("sh", ["-c", script], { timeoutMs: 60_000, cwd: mountpoint });
  return stdout.split("\n").filter((line) => line === "failed").length;
}

Deno.test({
  name: "late writes: what has failed does not come over what another mount has stored since",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    RoleCluster.with(
      {
        mounts: 2,
        dataservers: 1,
        replication: 1,
        mountFlags: (mount) => mount === 1 ? ["-o", "soft,timeout=2"] : [],
      },
      120_000,
      async (cluster) => {
        const [failing, storing] = cluster.mountpoints as [string, string];
        await sh(`cd ${failing}; for i in $(seq ${FILES}); do head -c 1M /dev/zero > f$i; done; sync f*
        cd ${storing}; head -c 1M /dev/zero > other; sync other`); // both are connected
        const dataserver = cluster.process("dataserver1");
        dataserver.signal("SIGSTOP");
        assertEquals(
          await overwrite(failing, FAILING_KIB, "l"),
          FILES,
          "a mount with a time-out tells that nobody answers",
        );
        const stored = overwrite(storing, STORED_KIB, "s");
        await sleep(SENT_MS);
        dataserver.signal("SIGCONT");
        assertEquals(await stored, 0);
        await sleep(1_000);
        for (const mountpoint of [failing, storing]) {
          const found = await sh(
            `cd ${mountpoint}; for f in f*; do head -c ${STORED_KIB}K $f | tr -d s | wc -c; done`,
          );
          assert(found.trim().split("\n").every((others) => others === "0"), found);
        }
      },
    ),
});
