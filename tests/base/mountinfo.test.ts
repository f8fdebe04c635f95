import assert from "node:assert/strict";
import { parseMountinfo, readMountinfo } from "../../base/mountinfo.ts";

Deno.test("mountinfo: fields, optional fields and escapes are parsed, broken lines left out", () => {
  const mounts = parseMountinfo([
    "22 27 0:21 / /proc rw,relatime - proc proc rw",
    "40 27 0:52 / /mnt/a\\040b\\134c\\303\\244 rw,nosuid shared:1 master:2 - fuse.mfs mfs@host,\\040x rw,user_id=0",
    "broken",
    "1 2 3 4 5",
    "",
  ].join("\n"));
  assert.deepEqual(mounts, [
    {
      mountId: 22,
      deviceNumber: "0:21",
      deviceMinor: 21,
      root: "/",
      mountpoint: "/proc",
      type: "proc",
      source: "proc",
      options: ["rw", "relatime", "rw"],
    },
    {
      mountId: 40,
      deviceNumber: "0:52",
      deviceMinor: 52,
      root: "/",
      mountpoint: "/mnt/a b\\cä",
      type: "fuse.mfs",
      source: "mfs@host, x",
      options: ["rw", "nosuid", "rw", "user_id=0"],
    },
  ]);
});

Deno.test("mountinfo: this machine's file has /proc in it", async () => {
  assert.ok((await readMountinfo()).some((mount) => mount.mountpoint === "/proc"));
});
