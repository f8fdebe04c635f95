/** Small files that are read one after the other, while another mount writes to those that were fetched ahead. */

import { assertEquals } from "@std/assert";
import { eventually, run } from "../harness/command.ts";
import { RoleCluster } from "../harness/role_cluster.ts";

const FILES = 60;
const SIZE = 20_000;

Deno.test({
  name:
    "read-ahead: small files are read before they are asked for, and what others do to them is seen at once",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () => RoleCluster.with({ mounts: 2, dataservers: 3, replication: 2 }, 100_000, body),
});

async function body(cluster: RoleCluster): Promise<void> {
  const [here, there] = cluster.mountpoints as [string, string];
  const shell = async (cwd: string, script: string): Promise<string> => {
    const { code, stdout, stderr } = await run("sh", ["-c", script], { timeoutMs: 30_000, cwd });
    assertEquals(code, 0, stderr);
    return stdout;
  };
  const fill = (name: string, letter: string, size = SIZE) =>
    shell(there, `head -c ${size} /dev/zero | tr '\\0' ${letter} >d/${name}`);
  /** Letters and sizes of files of the listing, which are read in its order. */
  const read = async (from: number, to: number): Promise<string[]> => {
    const script = `cd d; ls -U | sed -n ${from + 1},${to}p | while read f; do ` +
      `echo $(tr -s a-z <$f) $(wc -c <$f); done`;
    return (await shell(here, script)).trim().split("\n");
  };

  await shell(there, "mkdir d");
  await shell(there, `for i in $(seq ${FILES}); do head -c ${SIZE} /dev/zero | tr '\\0' a >d/$i; done`);
  const listed = (await shell(here, "ls -U d")).trim().split("\n");
  assertEquals(listed.length, FILES);
  const unchanged = `a ${SIZE}`;
  assertEquals(await read(0, 5), new Array(5).fill(unchanged));
  await fill(listed[5]!, "b");
  await fill(listed[6]!, "c", SIZE / 2);
  await shell(there, `truncate -s 100 d/${listed[7]} && truncate -s ${SIZE} d/${listed[7]}`);
  await shell(there, `mv d/${listed[8]} d/other && mv d/other d/${listed[8]}`);
  await shell(here, `printf x | dd of=d/${listed[9]} conv=notrunc bs=1 seek=${SIZE - 1} status=none`);
  const { length } = await shell(here, `tr -d '\\0' <d/${listed[7]}`);
  assertEquals(length, 100, "what was cut is zeros");
  assertEquals([...(await read(5, 7)), ...(await read(8, 10)), ...(await read(10, FILES))], [
    ...[`b ${SIZE}`, `c ${SIZE / 2}`, unchanged, `ax ${SIZE}`],
    ...new Array(FILES - 10).fill(unchanged),
  ]);
  await eventually(20_000, "the mount's counters", async () => {
    const { sessions } = await cluster.status();
    const reads = sessions.find(({ mountpoint }) => mountpoint === here)?.counters?.reads;
    return (reads?.ahead ?? 0) > FILES / 4;
  });
}
