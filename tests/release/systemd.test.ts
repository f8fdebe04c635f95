/** The package's services under a real systemd, which starts them in all that the units close. */

import { assertEquals, assertMatch } from "@std/assert";
import { HOST_TARGET } from "../../scripts/release/base_binary.ts";
import { builtExecutable } from "./built.ts";
import { makeDeb } from "../../scripts/release/package.ts";
import { run } from "../harness/command.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const SCRIPT = decodeURIComponent(new URL("./systemd.sh", import.meta.url).pathname);
/** What the script says where namespaces, overlays or cgroups can't be had. */
const EXIT_UNABLE = 77;
const UNITS = ["mfs-nameserver", "mfs-dataserver", "mfs-mount@mnt-data"];

async function canTry(): Promise<boolean> {
  if (Deno.uid() !== 0) return false;
  const tools = [["dpkg-deb", "--version"], ["/lib/systemd/systemd", "--version"], ["runuser", "--version"]];
  const codes = tools.map(([tool, flag]) => run(tool!, [flag!]).then(({ code }) => code, () => 1));
  return (await Promise.all(codes)).every((code) => code === 0);
}

Deno.test({
  name: "systemd: it runs the services of the package, and starts one that hangs again",
  ignore: !await canTry(),
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const scratch = makeScratch();
    try {
      const of = { executable: await builtExecutable(scratch), target: HOST_TARGET, output: scratch };
      const deb = await makeDeb({ ...of, version: "0.1.0", epoch: 1_700_000_000, compression: "none" });
      await Deno.mkdir(`${scratch}/machine`);
      const namespaces = ["-m", "-p", "-f", "-C", "-u", "-i", "--kill-child"];
      const { code, stderr } = await run("unshare", [
        ...namespaces,
        "bash",
        SCRIPT,
        deb,
        `${scratch}/machine`,
      ], {
        timeoutMs: 150_000,
      });
      if (code === EXIT_UNABLE) {
        console.log(`skipped: no systemd can be booted in namespaces here: ${stderr.trim()}`);
        return;
      }
      assertEquals([code === 1, stderr], [false, ""], "systemd was not reached");
      check(await Deno.readTextFile(`${scratch}/machine/said`));
    } finally {
      await removeScratch(scratch);
    }
  },
});

function check(text: string): void {
  const said = new Map(text.split("\n").map((line) => [line.split(": ", 1)[0]!, line.replace(/^\S+: /, "")]));
  const answers = (name: string, answer: RegExp) =>
    assertMatch(said.get(name) ?? "", answer, `${name}\n${text}`);
  const serving =
    /^0 NRestarts=0\|ActiveState=active\|StatusText=Serving\|$|^0 StatusText=Serving\|NRestarts=0\|ActiveState=active\|$/;
  answers("format", /^0 formatted/);
  for (const unit of UNITS) {
    answers(`start_${unit}`, /^0 \|$/);
    answers(`state_${unit}`, serving);
    answers(`reloaded_${unit}`, serving);
  }
  for (
    const done of [
      "mounted",
      "copy",
      "diff",
      "write",
      "reload",
      "automount",
      "automounted",
      "after_hung",
      "stop",
      "failed",
    ]
  ) {
    answers(done, /^0 \|$/);
  }
  answers("automount_state", /^0 active\|$/);
  answers("automount_stop", /^0 /);
  answers("user", /^0 mfs\|mfs\|$/);
  answers("hung", /NRestarts=1\|/);
  answers("hung", /ActiveState=active\|/);
  answers("write_after", /^0 text\|$/);
  answers("unmounted", /^(1|32) /);
  assertEquals(said.has("unmounted"), true);
}
