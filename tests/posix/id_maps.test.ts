/**
 * Mounts with maps of users and groups: the scripts in id_maps/ say the same of a mapped mount beside one without maps as of a
 * tmpfs that Linux itself shows mapped; and what tells the two apart.
 */

import assert from "node:assert/strict";
import { hasProgram, run, sh } from "../harness/command.ts";
import { SmallCluster } from "./small_cluster_process.ts";

const HERE = decodeURIComponent(new URL("./id_maps/", import.meta.url).pathname);
const PROGRAMS = ["setfacl", "getfacl", "setfattr", "setcap", "getcap", "setpriv", "unshare", "python3"];
const BLOCK_BYTES = 100_000;
const LIMIT_MS = 90_000;
const ignore = Deno.uid() !== 0 || PROGRAMS.some((program) => !hasProgram(program));

/** Of apart.sh. */
const APART = `
--- whom no range names has the same number there
rc 0 of as 7001:7002 touch all/file
rc 0 of as 65534:65534 mkdir all/nobody
rc 0 of touch all/root
rc 0 of chown 7003:65534 all/root
-rw-r--r-- 7001:7002 all/file
drwxr-xr-x 65534:65534 all/nobody
-rw-r--r-- 7003:65534 all/root
there: -rw-r--r-- 7001:7002 all/file
there: drwxr-xr-x 65534:65534 all/nobody
there: -rw-r--r-- 7003:65534 all/root
rc 0 of setfacl -m u:7004:r all/file
user::rw-
user:7004:r--
group::r--
mask::r--
other::r--

there: user::rw-
there: user:7004:r--
there: group::r--
there: mask::r--
there: other::r--

--- with a number that is nobody's nothing can be given
chown: changing ownership of 'all/root': Value too large for defined data type
rc 1 of chown 4294967294 all/root
setfacl: all/root: Invalid argument
rc 1 of setfacl -m u:4294967294:r all/root
`;

/** Of squashed.sh. */
const SQUASHED = `
--- root is that user
rc 0 of touch all/file
-rw-r--r-- 1001:1001 all/file
there: -rw-r--r-- 5001:5001 all/file
chown: changing ownership of 'all/file': Operation not permitted
rc 1 of chown 1002 all/file
rc 0 of chown 1001:1001 all/file
there: rc 0 of bash -c echo text > all/theirs; chown 5002:5002 all/theirs; chmod 600 all/theirs
cat: all/theirs: Permission denied
rc 1 of cat all/theirs
chmod: changing permissions of 'all/theirs': Operation not permitted
rc 1 of chmod 644 all/theirs
there: rc 0 of chown 5001:5001 all/theirs
text
rc 0 of cat all/theirs
--- others are who they are
rc 0 of as 1002:1003 touch all/user
rc 0 of as 1002:1003 chmod 600 all/user
-rw------- 1002:1003 all/user
there: -rw------- 5002:5003 all/user
rc 0 of as 1002:1003 cat all/user
cat: all/user: Permission denied
rc 1 of cat all/user
--- who is mapped to root is not root either
rc 0 of as 1020:1020 mkdir all/made
drwxr-xr-x 1001:1001 all/made
there: drwxr-xr-x 5001:5001 all/made
there: rc 0 of bash -c echo text > all/secret; chmod 600 all/secret
cat: all/secret: Permission denied
rc 1 of as 1020:1020 cat all/secret
chmod: changing permissions of 'all/secret': Operation not permitted
rc 1 of as 1020:1020 chmod 644 all/secret
`;

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `id maps: ${name}`, ignore, sanitizeOps: false, sanitizeResources: false, fn });
}

/** What a script says of the views `here` and `there`, after `before` has made them. */
async function transcript(
  script: string,
  [here, there]: readonly [string, string],
  before = ":",
): Promise<string[]> {
  const said = await run("unshare", [
    ...["--mount", "--propagation", "private", "timeout", "80", "bash", "-c"],
    `exec 2>&1; ${before}; here=${here}; there=${there}; . ${HERE}common.sh; . ${HERE}${script}`,
  ], { timeoutMs: LIMIT_MS });
  return (said.stdout + said.stderr).trim().split("\n");
}

/** The same of Linux itself. Undefined: it can't. */
async function reference(
  script: string,
  scratch: string,
  ranges: readonly string[],
): Promise<string[] | undefined> {
  const [here, there] = [`${scratch}/here`, `${scratch}/there`];
  await sh(`mkdir ${here} ${there}`);
  const before = `mount -t tmpfs tmpfs ${there} && chmod 755 ${there} &&
    { python3 ${HERE}idmapped.py ${there} ${here} ${ranges.join(" ")} || exit; }`;
  const said = await transcript(script, [here, there], before);
  return /^system call \d+:/.test(said[0]!) ? undefined : said;
}

for (
  const [name, script, ranges] of [
    ["users and groups are mapped as Linux maps them", "users.sh", ["0:0:1", "1001:5001:10"]],
    ["root keeps its rights when it is mapped, as for Linux", "root.sh", ["0:100000:1000"]],
  ] as const
) {
  test(name, async () => {
    const map = ranges.join("+");
    await using cluster = await SmallCluster.start("local", BLOCK_BYTES, [`uidmap=${map},gidmap=${map}`]);
    const [ours, theirs] = await Promise.all([
      transcript(script, cluster.mountpoints),
      reference(script, cluster.scratch, ranges),
    ]);
    assert.ok(ours.length > 50, ours.join("\n"));
    if (theirs === undefined) console.log("not compared: this kernel maps no tmpfs");
    else assert.deepEqual(ours, theirs);
    await cluster.stop();
  });
}

test("whom no range names is the same here and there", async () => {
  const map = "1001:5001:10";
  await using cluster = await SmallCluster.start("local", BLOCK_BYTES, [`uidmap=${map},gidmap=${map}`]);
  assert.deepEqual(await transcript("apart.sh", cluster.mountpoints), APART.trim().split("\n"));
  await cluster.stop();
});

test("root is squashed also where it is mapped, and so is who is mapped to root", async () => {
  const map = "1001:5001:10+1020:0";
  const options = [`root_squash=5001:5001,uidmap=${map},gidmap=${map}`];
  await using cluster = await SmallCluster.start("local", BLOCK_BYTES, options);
  assert.deepEqual(await transcript("squashed.sh", cluster.mountpoints), SQUASHED.trim().split("\n"));
  await cluster.stop();
});
