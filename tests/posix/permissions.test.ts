/**
 * Permissions, ACLs, inode flags and extended attributes: the scripts in permissions/ say the same on a mount as on ext4;
 * and what one mount changes of them binds the other at once. The reference is ext4 in a file, mounted as a loop device.
 */

import assert from "node:assert/strict";
import { hasProgram, run, sh } from "../harness/command.ts";
import { makeExt4, removeExt4 } from "../harness/ext4.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";
import { SmallCluster } from "./small_cluster_process.ts";

const HERE = decodeURIComponent(new URL("./permissions/", import.meta.url).pathname);
const SCRIPTS = ["acls.sh", "inode_flags.sh", "xattrs.sh"];
const PROGRAMS = ["setfacl", "getfacl", "setfattr", "chattr", "setcap", "setpriv", "python3"];
const BLOCK_BYTES = 100_000;
const LIMIT_MS = 60_000;
const missing = PROGRAMS.filter((program) => !hasProgram(program));
const ignore = Deno.uid() !== 0 || missing.length > 0;

/** Values and listings as large as Linux has them, set on one mount and read on the other. */
const LIMITS = `
import errno, json, os, sys
here, there = sys.argv[1:]
said = []
def until_refused(set_one):
    try:
        for i in range(1000): set_one(i)
    except OSError as error: said.append([i, errno.errorcode[error.errno]])
value = os.urandom(65536)
os.setxattr(here, 'user.large', value)
said.append(os.getxattr(there, 'user.large') == value)
until_refused(lambda i: os.setxattr(here, 'user.large', value + b'x'))
until_refused(lambda i: os.setxattr(here, 'user.' + str(i).zfill(250), b''))
said.append(sum(len(name) + 1 for name in os.listxattr(there)))
for name in os.listxattr(there): os.removexattr(there, name)
said.append(os.listxattr(here))
until_refused(lambda i: os.setxattr(here, 'user.' + str(i), value))
print(json.dumps(said))
`;
const LIMITS_SAID = [true, [0, "E2BIG"], [255, "ENOSPC"], 65_291, [], [15, "ENOSPC"]];

/** What a script says in an empty directory. */
async function transcript(script: string, dir: string): Promise<string[]> {
  Deno.mkdirSync(dir);
  const { stdout, stderr } = await run(
    "timeout",
    ["50", "bash", "-c", `cd ${dir}; exec 2>&1; . ${HERE}common.sh; . ${HERE}${script}`],
    { timeoutMs: LIMIT_MS },
  );
  return (stdout + stderr).split("\n");
}

Deno.test({
  name: "permissions: ACLs, flags and xattrs are as on ext4",
  ignore,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn(t) {
    const dir = makeScratch();
    const ext4 = await makeExt4(dir);
    try {
      if (ext4 === undefined) return console.log("not compared: there is no loop device for ext4");
      Deno.chmodSync(dir, 0o755);
      await using cluster = await SmallCluster.start("local", BLOCK_BYTES);
      for (const script of SCRIPTS) {
        await t.step({
          name: script,
          sanitizeOps: false,
          sanitizeResources: false,
          fn: async () => {
            const [here, there] = await Promise.all([
              transcript(script, `${cluster.mountpoints[0]}/${script}`),
              transcript(script, `${ext4}/${script}`),
            ]);
            assert.ok(there!.length > 50, "the script has run");
            assert.deepEqual(here, there);
          },
        });
      }
      await cluster.stop();
    } finally {
      await removeExt4(dir);
      await removeScratch(dir);
    }
  },
});

Deno.test({
  name: "permissions: what one mount changes of ACLs, capabilities and flags binds the other at once",
  ignore,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES);
    const [here, there] = cluster.mountpoints;
    const said = await sh(
      `. ${HERE}common.sh; cd ${here}; there=${there}
      fails() { if "$@" 2>/dev/null; then echo "should have failed: $*"; exit 1; fi; }
      echo text > f; chmod 600 f
      for i in 1 2 3; do
        fails as 1001:1001:1001 cat $there/f
        setfacl -m u:1001:r f
        as 1001:1001:1001 cat $there/f
        chmod 600 $there/f   # the mask: nothing
        fails as 1001:1001:1001 cat f
        setfacl -b $there/f
        fails as 1001:1001:1001 cat f
      done
      cp /bin/true c; setcap cap_net_raw+ep c
      getcap $there/c | sed 's/.* //'
      echo >> $there/c
      getcap c
      mkdir d; setfacl -d -m u:1001:rwx d; touch $there/d/x; getfacl -cpn $there/d/x | grep 1001
      setfacl -k $there/d; touch d/y; fails grep 1001 <(getfacl -cpn d/y)
      exec 6>>f; echo one >&6
      chattr +i $there/f
      fails bash -c 'echo two >&6'; fails bash -c 'echo three >> f'; fails rm -f f; fails mv f g; fails chmod 644 f
      chattr -i f
      echo four >&6; cat $there/f
      chattr +a f
      fails bash -c "echo five > $there/f"; fails truncate -s 0 $there/f; echo six >> $there/f; tail -n 1 f
      python3 -c "
import fcntl, os
fd = os.open('$there/f', os.O_WRONLY | os.O_APPEND)
os.write(fd, b'seven')
fcntl.fcntl(fd, fcntl.F_SETFL, 0)
try: print(os.pwrite(fd, b'no', 0))
except PermissionError: print('refused')"
      head -n 1 f
      chattr -a f`,
      { timeoutMs: LIMIT_MS },
    );
    assert.deepEqual(said.split("\n"), [
      ...["text", "text", "text", "cap_net_raw=ep", "user:1001:rwx\t#effective:rw-"],
      ...["text", "one", "four", "six", "refused", "text"],
    ]);
    await cluster.stop();
  },
});

Deno.test({
  name:
    "permissions: user.mfs.blockLocs and user.mfs.inoJson tell where blocks are, and are neither listed nor changed",
  ignore,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using cluster = await SmallCluster.start("local", BLOCK_BYTES);
    const [here, there] = cluster.mountpoints;
    const get = (name: string, path: string) => sh(`timeout 20 getfattr --only-values -n ${name} ${path}`);
    await sh(
      `timeout 20 bash -c 'head -c 250000 /dev/zero > ${here}/f; truncate -s 400000 ${here}/f; mkdir ${here}/d'`,
    );
    for (const path of [`${here}/f`, `${there}/f`]) {
      const lines = (await get("user.mfs.blockLocs", path)).split("\n").map((line) => line.split("\t"));
      assert.deepEqual(lines.map(([start, end]) => [Number(start), Number(end)]), [
        [0, 100_000],
        [100_000, 200_000],
        [200_000, 300_000],
      ]);
      for (const [, , hosts] of lines) {
        const names = hosts!.split(",");
        assert.ok(
          names.includes("node1") && names.length === 2,
          `two replicas, one with its writer: ${hosts}`,
        );
      }
      const inode = JSON.parse(await get("user.mfs.inoJson", path));
      assert.deepEqual([inode.Length, inode.Ftype, inode.Mode, inode.Blocks.length], [400_000, 1, 0o644, 3]);
      assert.deepEqual(inode.Blocks[2].Volumes.length, 2);
    }
    assert.equal(JSON.parse(await get("user.mfs.inoJson", `${here}/d`)).Ftype, 0);
    assert.deepEqual(
      JSON.parse(await sh(`timeout 30 python3 - ${here}/d ${there}/d <<'END'${LIMITS}END`)),
      LIMITS_SAID,
    );
    assert.equal(await sh(`timeout 20 getfattr -d -m - ${here}/f`), "");
    for (
      const refused of [
        `setfattr -n user.mfs.blockLocs -v x ${here}/f`,
        `setfattr -x user.mfs.inoJson ${here}/f`,
        `getfattr -n user.mfs.other ${here}/f`,
        `getfattr -n user.mfs.blockLocs ${here}/d`,
      ]
    ) await assert.rejects(sh(`timeout 20 ${refused}`), /not permitted|No such attribute/);
    await cluster.stop();
  },
});

Deno.test({
  name: "permissions: where root counts as another user, it may do what that user may, and no more",
  ignore,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using cluster = await SmallCluster.start("local", BLOCK_BYTES, ["root_squash"]);
    const [squashed, plain] = cluster.mountpoints;
    const run1 = (command: string) => sh(`. ${HERE}common.sh; ${command}`, { timeoutMs: LIMIT_MS });
    for (const name of ["a", "b"]) {
      await run1(`mkdir ${plain}/${name}; cd ${plain}/${name}; . ${HERE}squashed_tree.sh`);
    }
    const script = `bash -c 'exec 2>&1; . ${HERE}common.sh; . ${HERE}squashed.sh'`;
    const [root, user] = await Promise.all([
      // The kernel knows names of directories that others may search.
      run1(`cd ${squashed}/a; as 1001:1001:1001 cat theirs/file >/dev/null; timeout 50 ${script}`),
      run1(`cd ${plain}/b; as 65534:65534:65534 timeout 50 ${script}`),
    ]);
    assert.ok(user!.includes("Permission denied") && user!.includes("Operation not permitted"));
    assert.deepEqual(root!.split("\n"), user!.split("\n"));
    const tree = (name: string) =>
      run1(
        `cd ${plain}/${name}; find . -printf '%M %U:%G %n %s %p %l\\n' | grep -v '^d' | sort -k5; getfacl -Rnp . | sort`,
      );
    assert.deepEqual((await tree("a")).split("\n"), (await tree("b")).split("\n"));
    await cluster.stop();
  },
});
