/** The Debian package and the tarball: the same each time, and what dpkg makes of them on a copy of this machine. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { HOST_TARGET, sha256Of } from "../../scripts/release/base_binary.ts";
import { ROOT } from "../../scripts/release/compile.ts";
import { builtExecutable } from "./built.ts";
import { makeDeb, makeTarball } from "../../scripts/release/package.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { mfs } from "../harness/cluster.ts";
import { run } from "../harness/command.ts";
import { MfsProcess } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const SCRIPT = decodeURIComponent(new URL("./package.sh", import.meta.url).pathname);
const EPOCH = 1_700_000_000;
const canInstall = Deno.uid() === 0 &&
  await run("dpkg-deb", ["--version"]).then(({ code }) => code === 0, () => false);

Deno.test({
  name: "package: it is the same each time, and dpkg installs, upgrades, removes and purges it",
  ignore: !canInstall,
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async (t) => {
    const scratch = makeScratch();
    try {
      const executable = await builtExecutable(scratch);
      const make = async (version: string, name: string) => {
        const output = `${scratch}/${name}`;
        await Deno.mkdir(output);
        const of = { executable, target: HOST_TARGET, version, epoch: EPOCH, output };
        return { deb: await makeDeb({ ...of, compression: "none" }), of };
      };
      const { deb, of } = await make("0.1.0", "first");
      const later = await make("0.1.1", "later");
      await t.step("the same bytes", async () => {
        const { deb: again, of: other } = await make("0.1.0", "again");
        assertEquals(await sha256Of(again), await sha256Of(deb));
        const tarballs = [await makeTarball({ ...of, compression: "none" })];
        tarballs.push(await makeTarball({ ...other, compression: "none" }));
        assertEquals(await sha256Of(tarballs[0]!), await sha256Of(tarballs[1]!));
        const { stdout } = await run("tar", ["-tzf", tarballs[0]!]);
        assertMatch(stdout, /^mfs-0\.1\.0-linux-\w+\/usr\/bin\/mfs$/m);
      });
      await t.step("dpkg", () => throughDpkg(deb, later.deb, `${scratch}/dpkg`));
    } finally {
      await removeScratch(scratch);
    }
  },
});

async function throughDpkg(first: string, later: string, dir: string): Promise<void> {
  await Deno.mkdir(dir);
  const script = await run("unshare", ["-m", "bash", SCRIPT, first, later, dir], { timeoutMs: 300_000 });
  const said = new Map(
    script.stdout.split("\n").map((line) => [line.split(": ", 1)[0]!, line.replace(/^\w+: /, "")]),
  );
  const of = (name: string) => said.get(name) ?? "";
  const answers = (name: string, answer: RegExp) =>
    assertMatch(of(name), answer, `${name}\n${script.stdout}${script.stderr}`);
  answers("install", /^0 /);
  answers("installed", /Status: install ok installed.*Version: 0\.1\.0\|/);
  answers("runs", /^0 mfs \d+\.\d+\.\d+ \(Deno /);
  answers("helper", /^0 \/usr\/bin\/mfs\|$/);
  answers("user", /^0 mfs:x:\d+:\d+:.*:\/var\/lib\/mfs:.*nologin\|$/);
  answers("state", /^0 mfs mfs 750\|$/);
  answers("asked_install", /^0 daemon-reload\|/);
  assert(!/ (start|enable|restart)\b/.test(of("asked_install")), "nothing is started by itself");
  answers("format", /^0 formatted/);
  answers("verify", /^0 \|$/);
  answers("upgrade", /^0 .*still running the old version, until you restart them: mfs-nameserver\.service/);
  answers("upgraded", /Version: 0\.1\.1\|/);
  assert(!/\b(stop|restart|try-restart|kill)\b/.test(of("asked_upgrade")), of("asked_upgrade"));
  answers("kept", /^0 # mine\|$/);
  answers("remove", /^0 /);
  answers(
    "asked_remove",
    /stop mfs-mount@\*\.service\|stop mfs-dataserver\.service\|stop mfs-nameserver\.service\|/,
  );
  answers("config_stays", /^0 # mine\|$/);
  answers("gone", /^2 (ls: [^|]*No such file or directory\|){3}$/);
  answers("again", /^0 /);
  answers("purge", /^0 .*\/var\/lib\/mfs is kept/);
  const left = of("after").slice(2).split("|").filter((path) => path !== "");
  const data = left.filter((path) => path.startsWith("var/lib/mfs"));
  assert(data.length > 3, of("after"));
  assertEquals(left.filter((path) => !data.includes(path)), ["etc/mfs", "etc/mfs/mount-data.env"]);
  answers("data", /^0 .*nameserver\.json/);
  answers("known", /^1 /);
}

Deno.test({
  name: "package: the example configuration is one with which the roles start",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const scratch = makeScratch();
    try {
      const address = `127.0.0.1:${freePort("127.0.0.1")}`;
      assertEquals((await mfs(["format", "--dir", `${scratch}/ns`])).code, 0);
      const config = (role: string) => ["--config", `${ROOT}/scripts/release/etc/${role}.toml`];
      const nameserver = await MfsProcess.start([
        ...["nameserver", ...config("nameserver"), "--dir", `${scratch}/ns`, "--listen", address],
      ]);
      await Deno.mkdir(`${scratch}/volume`);
      const dataserver = await MfsProcess.start([
        ...["dataserver", ...config("dataserver"), "--nameserver", address, "--volume", `${scratch}/volume`],
        ...["--listen", "127.0.0.1:0"],
      ]);
      await dataserver.stop();
      await nameserver.stop();
    } finally {
      await removeScratch(scratch);
    }
  },
});
