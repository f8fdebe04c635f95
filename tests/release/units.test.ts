/** The systemd units: systemd understands all of them, and thinks them as closed as the README says. */

import { assert, assertEquals } from "@std/assert";
import { run } from "../harness/command.ts";
import { MFS } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const UNITS = decodeURIComponent(new URL("../../scripts/systemd", import.meta.url).pathname);
/** The most exposure that `systemd-analyze security` may find, in tenths. */
const EXPOSURE_MAX: Record<string, number> = {
  "mfs-nameserver.service": 14,
  "mfs-dataserver.service": 16,
  "mfs-mount@mnt-data.service": 47,
};
const hasSystemd = await run("systemd-analyze", ["--version"]).then(({ code }) => code === 0, () => false);

Deno.test({
  name: "systemd units: nothing in them is wrong, or more open than it was",
  ignore: !hasSystemd,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const scratch = makeScratch();
    try {
      for (const [unit, exposure] of Object.entries(EXPOSURE_MAX)) {
        const text = await Deno.readTextFile(`${UNITS}/${unit.replace("@mnt-data", "@")}`);
        assert(text.includes("ExecStart=/usr/bin/mfs "));
        await Deno.writeTextFile(`${scratch}/${unit}`, text.replaceAll("/usr/bin/mfs", MFS));
        const verified = await run("systemd-analyze", ["verify", `${scratch}/${unit}`]);
        assertEquals([verified.code, verified.stdout, verified.stderr], [0, "", ""], unit);
        const security = await run("systemd-analyze", [
          ...["security", "--offline=true", `--threshold=${exposure}`, "--no-pager", `${scratch}/${unit}`],
        ]);
        assertEquals(security.code, 0, security.stdout);
      }
    } finally {
      await removeScratch(scratch);
    }
  },
});
