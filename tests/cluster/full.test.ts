/** Disks that are full: ENOSPC, nothing that was acknowledged is lost, and all goes on once something is removed. */

import { assert, assertEquals } from "@std/assert";
import { eventually, run, sh, sleep } from "../harness/command.ts";
import { RoleCluster, type RoleClusterOptions } from "../harness/role_cluster.ts";

/** A mount is told with its next renewal that the nameserver has hardly any room, once a second. */
const HEARD_S = 1.5;
/** The nameserver places no block where less than 64 MiB are free. */
const VOLUME = "130M";

const tmpfs = (size: string) => async (path: string) => {
  await sh(`mount -t tmpfs -o size=${size} mfs-test ${path}`);
};

function withCluster(
  options: RoleClusterOptions,
  body: (cluster: RoleCluster) => Promise<void>,
): Promise<void> {
  return RoleCluster.with({ mounts: 1, dataservers: 2, replication: 2, ...options }, 120_000, body);
}

Deno.test({
  name: "full: volumes without room give ENOSPC, lose nothing, and take writes again after a removal",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    withCluster({ prepareVolume: tmpfs(VOLUME) }, async (cluster) => {
      const [mount] = cluster.mountpoints;
      const local = `${cluster.scratch}/local`;
      // Files until one fails; each that was synced is kept. Then one that grows in its block to the last byte of the disks.
      const filled = await run("bash", [
        "-c",
        `
        mkdir ${local}; cd ${local}
        for i in $(seq 30); do
          head -c 12000000 /dev/urandom > f$i
          dd if=f$i of=${mount}/f$i bs=100k conv=fsync status=none || { rm f$i; exit 9; }
        done`,
      ], { timeoutMs: 90_000 });
      assertEquals(filled.code, 9, filled.stderr);
      assert(/No space left on device/.test(filled.stderr), filled.stderr);
      // Not nothing: a replica that found its volume full is given up, and its room is free again.
      await eventually(20_000, "little is said to be free", async () => {
        const [blocks, bytes] = (await sh(`stat -f -c "%a %S" ${mount}`)).split(" ");
        return Number(blocks) * Number(bytes) < 20_000_000;
      });
      const grown = await run(
        "bash",
        [
          "-c",
          `cd ${local}; tail -c 1000 f1 >> ${mount}/f2; cat f1 f1 f1 f1 f1 f1 f1 f1 f1 >> ${mount}/f3 || exit 9`,
        ],
        {
          timeoutMs: 90_000,
        },
      );
      assertEquals(grown.code, 9, grown.stderr);
      assert(/No space left on device/.test(grown.stderr), grown.stderr);
      // What was acknowledged is there, and what needs no room works: names, attributes, writes in place.
      await sh(
        `set -e
        cd ${local}; tail -c 1000 f1 >> f2
        for f in f*; do cmp -n $(stat -c %s $f) $f ${mount}/$f; done
        [ $(ls | wc -l) -ge 4 ]
        mkdir ${mount}/d; mv ${mount}/f1 ${mount}/d/f1; chmod 600 ${mount}/d/f1; mv ${mount}/d/f1 ${mount}/f1
        head -c 100000 /dev/urandom > patch
        dd if=patch of=f2 conv=notrunc status=none
        dd if=patch of=${mount}/f2 conv=notrunc,fsync status=none
        rm patch; cmp f2 ${mount}/f2`,
        { timeoutMs: 60_000 },
      );
      // Removing makes room again without a restart, and so does cutting a file.
      await sh(`set -e; cd ${mount}; for f in f1 f5 f6 f7 f8 f9 f1?; do rm -f ${mount}/$f ${local}/$f; done
        for f in f2 f3; do truncate -s 5000000 ${mount}/$f; truncate -s 5000000 ${local}/$f; done`);
      await eventually(60_000, "room for another file", async () => {
        const again = await run("bash", [
          "-c",
          `
          head -c 20000000 /dev/urandom > ${local}/again
          dd if=${local}/again of=${mount}/again bs=100k conv=fsync status=none`,
        ], { timeoutMs: 60_000 });
        return again.code === 0;
      });
      await sh(`cd ${local}; for f in f* again; do cmp $f ${mount}/$f || exit 1; done`, {
        timeoutMs: 60_000,
      });
    }),
});

Deno.test({
  name:
    "full: a nameserver without room refuses changes, serves what there is, and goes on when there is room",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    withCluster({ prepareNameserver: tmpfs("64M"), replication: 1, dataservers: 1 }, async (cluster) => {
      const [mount] = cluster.mountpoints;
      const ballast = `${cluster.scratch}/nameserver/ballast`;
      await sh(`set -e; cd ${mount}; echo kept > kept; mkdir d; touch d/{1,2,3}; sync kept
        fallocate -l 52M ${ballast}; sleep ${HEARD_S}`);
      const refused = await run("bash", ["-c", `cd ${mount}; echo new > new; mkdir e; mv d/1 d/4`], {
        timeoutMs: 30_000,
      });
      assertEquals(refused.code, 1);
      assertEquals(refused.stderr.match(/No space left on device/g)?.length, 3, refused.stderr);
      // Removing goes on, down to the last mark; reading always.
      await sh(`set -e; cd ${mount}; rm d/2; [ "$(cat kept; ls d)" = "$(printf 'kept\n1\n3')" ]
        fallocate -l 57M ${ballast}; sleep 0.5`);
      const all = await run("bash", ["-c", `cd ${mount}; rm d/3; chmod 600 kept`], { timeoutMs: 30_000 });
      assertEquals(all.stderr.match(/No space left on device/g)?.length, 2, all.stderr);
      await sh(`set -e; cd ${mount}; [ "$(cat kept; ls d)" = "$(printf 'kept\n1\n3')" ]
        rm ${ballast}; sleep 0.5; echo new > new; mkdir e; mv d/1 d/4; rm d/3; [ "$(cat new; ls d)" = "$(printf 'new\n4')" ]`);
      assertEquals(cluster.ended(), []);
    }),
});

Deno.test({
  name:
    "full: a write waits for a dataserver that may come back with room, as after a restart of the nameserver",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    withCluster({
      replication: 1,
      nameserverFlags: ["--dead-after", "12"],
      // Of less than what must stay free: it gets no block.
      prepareVolume: (path, dataserver) => dataserver === 1 ? tmpfs("60M")(path) : Promise.resolve(),
    }, async (cluster) => {
      const [mount] = cluster.mountpoints;
      await sh(`head -c 100000 /dev/zero > ${mount}/before`);
      await cluster.kill("dataserver2");
      await cluster.restartNameserver();
      const write = (name: string) =>
        run("bash", ["-c", `head -c 100000 /dev/zero | dd of=${mount}/${name} conv=fsync status=none`], {
          timeoutMs: 60_000,
        });
      const waiting = write("waiting");
      await eventually(20_000, "the full one is back", async () => {
        return (await cluster.status()).dataservers.some(({ alive }) => alive);
      });
      await sleep(1_000);
      await cluster.restart("dataserver2");
      const { code, stderr } = await waiting;
      assertEquals(code, 0, stderr);
      // Nobody is waited for longer than it takes to be lost.
      await cluster.kill("dataserver2");
      const refused = await write("refused");
      assertEquals(refused.code, 1);
      assert(/No space left on device/.test(refused.stderr), refused.stderr);
    }),
});
