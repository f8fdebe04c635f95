/** mount.mfs: what it takes from mount(8), fstab and autofs, and a real `mount -t mfs` in a mount namespace. */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { HelperUsageError, parseHelperArguments } from "../../roles/admin/mount_helper.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { mfs } from "../harness/cluster.ts";
import { eventually, run } from "../harness/command.ts";
import { MFS, MfsProcess } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const SCRIPT = decodeURIComponent(new URL("./mount_helper.sh", import.meta.url).pathname);
const PLACES = ["10.0.0.1:7400", "/mnt"];

Deno.test("mount helper: options of mount(8) and fstab are taken out, ours stay in their order", () => {
  const options = [
    ...[
      "rw",
      "noauto",
      "user=joe",
      "uidmap=1:2",
      "nofail",
      "_netdev",
      "x-systemd.requires=a.service",
      "X-mount.mkdir=755",
    ],
    ...["comment=systemd.automount", "defaults", "noiversion", "mand", "uhelper=x", "noatime", "timeout=5"],
  ];
  const parsed = parseHelperArguments([...PLACES, "-o", options.join(",")]);
  assertEquals(parsed.options, ["rw", "uidmap=1:2", "noatime", "timeout=5"]);
  assertEquals(parsed.flags, []);
  assertEquals([parsed.source, parsed.dir], PLACES);
});

Deno.test("mount helper: flags stand before, behind and together", () => {
  const parsed = parseHelperArguments([
    "-sv",
    ...PLACES,
    "-fn",
    "-N",
    "12",
    "-t",
    "mfs",
    "-oro,rack=r1",
    "-o",
    "soft",
  ]);
  assertEquals([parsed.fake, parsed.sloppy, parsed.verbose, parsed.namespace], [true, true, true, "12"]);
  assertEquals(parsed.options, ["ro", "soft"]);
  assertEquals(parsed.flags, ["--rack", "r1"]);
  assertEquals(parseHelperArguments([...PLACES, "-r"]).options, ["ro"]);
});

Deno.test("mount helper: of a mount that is there only what the kernel keeps is changed", () => {
  const has =
    "rw,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other,remount,ro,soft,rack=r1";
  assertEquals(parseHelperArguments([...PLACES, "-o", has]).remount, ["rw", "nosuid", "ro"]);
  assertEquals(parseHelperArguments([...PLACES, "-o", "ro"]).remount, undefined);
});

Deno.test("mount helper: what is wrong is said", () => {
  for (
    const args of [
      [],
      ["10.0.0.1:7400"],
      [...PLACES, "more"],
      [...PLACES, "-x"],
      [...PLACES, "-o"],
      [...PLACES, "-t", "ext4"],
      ["10.0.0.1", "/mnt"],
      ["10.0.0.1:99999", "/mnt"],
      ["host:/path", "/mnt"],
    ]
  ) assertThrows(() => parseHelperArguments(args), HelperUsageError, undefined, args.join(" "));
});

/** A nameserver, with a directory of the test's. */
function withNameserver(name: string, body: (nameserver: string, scratch: string) => Promise<void>): void {
  Deno.test({
    name: `mount helper: ${name}`,
    ignore: Deno.uid() !== 0,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const scratch = makeScratch();
      try {
        const address = `127.0.0.1:${freePort("127.0.0.1")}`;
        assertEquals((await mfs(["format", "--dir", `${scratch}/ns`])).code, 0);
        const server = await MfsProcess.start(["nameserver", "--dir", `${scratch}/ns`, "--listen", address]);
        try {
          await body(address, scratch);
        } finally {
          await server.stop();
        }
      } finally {
        await removeScratch(scratch);
      }
    },
  });
}

withNameserver("mount -t mfs, -o, -f, -s, fstab and umount", async (nameserver, scratch) => {
  const dir = `${scratch}/helper`;
  const env = { DENO: Deno.execPath() };
  const script = await run("unshare", ["-m", "bash", SCRIPT, MFS, nameserver, dir], {
    timeoutMs: 120_000,
    env,
  });
  const said = new Map(
    script.stdout.trimStart().split("\n").map((line) =>
      line.split(": ", 1).concat(line.replace(/^\w+: /, "")) as [string, string]
    ),
  );
  const answers = (name: string, answer: RegExp) =>
    assertMatch(said.get(name) ?? "", answer, `${name}\n${script.stdout}${script.stderr}`);
  answers("mount", /^0 mount\.mfs: \S+ mounted on \S+ by process \d+$/);
  answers(
    "shown",
    new RegExp(`^0 .* ${dir}/mnt rw,nosuid,noexec,noatime .*- fuse\\.mfs ${nameserver} rw,sync,`),
  );
  answers("write", /^0 text$/);
  answers("to_readonly", /^0 $/);
  answers("refused_write", /^1 .*Read-only file system$/);
  answers("still_shown", new RegExp(`^0 .* ${dir}/mnt ro,.*noatime .*- fuse\\.mfs ${nameserver} `));
  answers("to_writable", /^0 $/);
  answers("write_again", /^0 $/);
  answers("umount", /^0 $/);
  answers("remount_nothing", /^(1|32) .*not mounted/);
  answers("unknown", /^1 mount\.mfs: unknown option "nonsense": [^\n]*$/);
  answers("refused", /^32 mount\.mfs: 127\.0\.0\.1:1: connection refused/);
  answers("source", /^1 mount\.mfs: nowhere is not HOST:PORT/);
  answers("absent", /^32 mount\.mfs: \S+ does not exist$/);
  answers("fake", /^0 $/);
  answers("after_fake", /^(1|32) /);
  answers("sloppy", /^0 $/);
  answers("readonly", /^1 .*Read-only file system$/);
  answers("umount_sloppy", /^0 $/);
  answers("fstab", /^0 $/);
  answers("fstab_maps", /^0 uidmap=1000:20001:1\+1001:20005:1 gidmap=100:5100:50$/);
  answers("fstab_again", /^0 $/);
  answers("mounted_once", /^0 1$/);
  answers("umount_by_source", /^0 $/);
});

withNameserver("another mount namespace", async (nameserver, scratch) => {
  const dir = `${scratch}/mnt`;
  await Deno.mkdir(dir);
  const holder = new Deno.Command("unshare", { args: ["-m", "sleep", "120"], stdin: "null" }).spawn();
  const inside = (...command: string[]) =>
    run("nsenter", [`--mount=/proc/${holder.pid}/ns/mnt`, "--", ...command]);
  try {
    await eventually(
      5_000,
      "namespace",
      () => Deno.readLinkSync(`/proc/${holder.pid}/ns/mnt`) !== Deno.readLinkSync("/proc/self/ns/mnt"),
    );
    const mounted = await mfs([
      ...["mount.mfs", nameserver, dir, "-N", String(holder.pid), "-o", `log_file=${scratch}/log`],
    ]);
    assertEquals(mounted.code, 0, mounted.stderr);
    assertEquals((await inside("mountpoint", "-q", dir)).code, 0);
    assert((await run("mountpoint", ["-q", dir])).code !== 0);
    assertEquals((await inside("umount", dir)).code, 0);
  } finally {
    holder.kill("SIGKILL");
    await holder.status;
  }
});
