/** The command line: help, usage errors, configuration files and exit codes. No cluster but a lone nameserver. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { mfs } from "../harness/cluster.ts";
import { eventually, run } from "../harness/command.ts";
import { MFS, MfsProcess } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";
import { readConfig } from "../../roles/admin/config.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";

const COMMANDS = [
  "nameserver",
  "dataserver",
  "mount",
  "umount",
  "singlenode",
  "format",
  "status",
  "locations",
  "du",
  "doctor",
  "get",
  "set",
  "shell",
  "setrep",
  "fsck",
  "decommission",
  "forget",
  "recommission",
  "maintenance",
  "balance",
  "bench",
  "version",
];

async function withScratch(body: (dir: string) => Promise<void>): Promise<void> {
  const dir = makeScratch();
  try {
    await body(dir);
  } finally {
    await removeScratch(dir);
  }
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `command line: ${name}`, sanitizeOps: false, sanitizeResources: false, fn });
}

/** It fails with this exit code and one line `mfs: WHAT: WHY` on stderr. */
async function refuses(args: readonly string[], code: number, line: RegExp): Promise<void> {
  const result = await mfs(args);
  assertEquals(result.code, code, result.stderr);
  assertEquals(result.stdout, "");
  assertMatch(result.stderr, /^mfs: [a-z]+: [^\n]+\n$/);
  assertMatch(result.stderr, line);
}

test("every command has help with an example", async () => {
  const all = await mfs(["--help"]);
  assertEquals([all.code, all.stderr], [0, ""]);
  for (const name of COMMANDS) {
    assert(all.stdout.includes(`\n  ${name}`), name);
    const help = await mfs([name, "--help"]);
    assertEquals([help.code, help.stderr], [0, ""], name);
    assertMatch(help.stdout, new RegExp(`^Usage: mfs ${name}`));
    assertMatch(help.stdout, new RegExp(`Example: mfs ${name}`));
  }
});

test("no command shows the help on stderr and is wrong usage", async () => {
  const result = await mfs([]);
  assertEquals([result.code, result.stdout], [2, ""]);
  assertMatch(result.stderr, /^Usage: mfs/);
});

test("unknown commands, options and arguments are wrong usage", async () => {
  await refuses(["nonsense"], 2, /unknown command 'nonsense'/);
  await refuses(["status", "--nonsense"], 2, /mfs: status: unknown option '--nonsense'/);
  await refuses(["version", "extra"], 2, /mfs: version: .*arguments/);
  await refuses(["mount", "127.0.0.1:1"], 2, /the directory to mount on is missing/);
  await refuses(["format"], 2, /--dir is missing/);
  await refuses(["dataserver", "--volume", "/tmp"], 2, /--nameserver is missing/);
  await refuses(["mount", "127.0.0.1:1", "/tmp", "-o", "nonsense"], 2, /nonsense/);
  await refuses(["mount", "127.0.0.1:1", "/tmp", "-o", "uid=5"], 2, /unknown option "uid"/);
  await refuses(["mount", "127.0.0.1:1", "/tmp", "-o", "ro=5"], 2, /option ro takes no value/);
});

test("numbers and addresses are checked", async () => {
  await refuses(["mount", "127.0.0.1:1", "/tmp", "--root-squash=nobody"], 2, /UID:GID/);
  await refuses(["mount", "127.0.0.1:1", "/tmp", "-o", "root_squash=1"], 2, /root_squash=1 is not UID:GID/);
  await refuses(["nameserver", "--dir", "/tmp", "--root-from", "a"], 2, /goes with --root-squash/);
  const mount = ["mount", "127.0.0.1:1", "/tmp"];
  await refuses([...mount, "--uidmap", "alice:1"], 2, /"alice:1" is not LOCAL:CLUSTER:COUNT/);
  await refuses([...mount, "-o", "ro,gidmap"], 2, /gidmap: "" is not LOCAL:CLUSTER:COUNT/);
  const twice = ["-o", "uidmap=1000:2000:10,uidmap=5:2009"];
  await refuses([...mount, ...twice], 2, /uidmap: 1000:2000:10 and 5:2009:1 overlap: 2009 comes twice/);
  await refuses([...mount, "--gidmap", "7:8", "-o", "gidmap=7:9"], 2, /gidmap: 7:9:1 and 7:8:1 overlap/);
  await refuses(["singlenode", "--dataservers", "0"], 2, /whole number from 1 to 64/);
  await refuses(["singlenode", "--replication", "2x"], 2, /whole number/);
  await refuses(["nameserver", "--dir", "/tmp", "--listen", "7400"], 2, /HOST:PORT/);
  await refuses(["status", "--nameserver", "localhost:99999"], 2, /HOST:PORT/);
});

test("what is asked of dataservers is checked before anybody is asked", async () => {
  await refuses(["decommission"], 2, /missing required argument 'node'/);
  await refuses(["recommission", "node1", "node2"], 2, /arguments/);
  await refuses(["maintenance", "node1"], 2, /either --for TIME or --end/);
  await refuses(["maintenance", "node1", "--for", "2h", "--end"], 2, /either --for TIME or --end/);
  for (const time of ["2x", "-1h"]) {
    await refuses(["maintenance", "node1", `--for=${time}`], 2, /number with s, m, h or d/);
  }
  await refuses(["balance", "--threshold", "0"], 2, /from 1 to 100/);
  await refuses(["balance", "--nameserver", "127.0.0.1:1", "--threshold"], 2, /--threshold/);
});

test("version answers as text and as JSON", async () => {
  const { version } = JSON.parse(Deno.readTextFileSync(new URL("../../deno.json", import.meta.url)));
  assertMatch((await mfs(["version"])).stdout, /^mfs \d+\.\d+\.\d+ \(Deno /);
  assertEquals(JSON.parse((await mfs(["version", "--json"])).stdout).mfs, version);
});

test("format refuses a directory with a cluster unless forced", () =>
  withScratch(async (dir) => {
    const first = await mfs(["format", "--dir", `${dir}/ns`, "--json"]);
    assertEquals(first.code, 0, first.stderr);
    await refuses(["format", "--dir", `${dir}/ns`], 1, /holds a cluster/);
    const second = await mfs(["format", "--dir", `${dir}/ns`, "--force", "--json"]);
    assertEquals(second.code, 0, second.stderr);
    assert(JSON.parse(first.stdout).clusterId !== JSON.parse(second.stdout).clusterId);
    await Deno.mkdir(`${dir}/other`);
    await Deno.writeTextFile(`${dir}/other/precious`, "");
    await refuses(["format", "--dir", `${dir}/other`, "--force"], 1, /precious/);
  }));

test("a configuration file has flags by name, the command line wins, and mistakes are named", () =>
  withScratch(async (dir) => {
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const [inFile, given] = [freePort("127.0.0.1"), freePort("127.0.0.1")];
    const file = `${dir}/mfs.toml`;
    const write = (text: string) => Deno.writeTextFile(file, text);
    await write(`dir = "${dir}/ns"\nlisten = "127.0.0.1:${inFile}"\nreplication = 2\nlog-json = true\n`);
    const first = await MfsProcess.start(["nameserver", "--config", file]);
    assertEquals((await mfs(["status", "--nameserver", `127.0.0.1:${inFile}`])).code, 0);
    assertEquals(JSON.parse(first.log.split("\n")[0]!).level, "info");
    await first.stop();
    const second = await MfsProcess.start(["nameserver", "--config", file, "--listen", `127.0.0.1:${given}`]);
    assertEquals((await mfs(["status", "--nameserver", `127.0.0.1:${given}`])).code, 0);
    await second.stop();

    await write(`dir = "${dir}/ns"\ncolour = "blue"\n`);
    await refuses(["nameserver", "--config", file], 2, /mfs\.toml:2: unknown key "colour"/);
    await write(`dir = "x"\n\nreplicaton = 2\n`);
    await refuses(["nameserver", "--config", file], 2, /mfs\.toml:3: .*did you mean "replication"\?/);
    await write(`dir = 7\nreplication = "many"\n`);
    await refuses(["nameserver", "--config", file], 2, /mfs\.toml:2: replication/);
    await write("dir = [");
    await refuses(["nameserver", "--config", file], 2, /mfs\.toml/);
    await refuses(["nameserver", "--config", `${dir}/missing`], 2, /missing/);
  }));

test("the environment goes before the file and a flag before both; what is wrong there is named", () =>
  withScratch(async (dir) => {
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const [inFile, given] = [freePort("127.0.0.1"), freePort("127.0.0.1")];
    const file = `${dir}/mfs.toml`;
    await Deno.writeTextFile(file, `dir = "${dir}/nowhere"\nlisten = "127.0.0.1:${inFile}"\n`);
    const environment = {
      MFS_EXIT_ON_STDIN_EOF: "",
      MFS_NAMESERVER_CONFIG: file,
      MFS_NAMESERVER_DIR: `${dir}/ns`,
      MFS_NAMESERVER_REPLICATION: "2",
    };
    const server = await MfsProcess.start(["nameserver", "--listen", `127.0.0.1:${given}`], environment);
    assertEquals((await mfs(["status", "--nameserver", `127.0.0.1:${given}`])).code, 0);
    await server.stop();
    for (
      const [variable, value, message] of [
        ["MFS_NAMESERVER_REPLICATION", "many", /environment: MFS_NAMESERVER_REPLICATION: /],
        ["MFS_NAMESERVER_REPLICATON", "2", /did you mean "MFS_NAMESERVER_REPLICATION"\?/],
      ] as const
    ) {
      const { code, stderr } = await run(MFS, ["nameserver"], { env: { ...environment, [variable]: value } });
      assertEquals(code, 2);
      assertMatch(stderr, message);
      assertEquals(stderr.trim().split("\n").length, 1);
    }
  }));

test("SIGHUP reads the file again: what can change does, the rest is named, a wrong file changes nothing", () =>
  withScratch(async (dir) => {
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const file = `${dir}/mfs.toml`;
    const write = (text: string) =>
      Deno.writeTextFile(file, `dir = "${dir}/ns"\nlisten = "127.0.0.1:0"\n${text}`);
    await write("");
    const server = await MfsProcess.start(["nameserver", "--config", file], { MFS_EXIT_ON_STDIN_EOF: "" });
    const reload = async (text: string, expected: RegExp) => {
      await write(text);
      server.signal("SIGHUP");
      await eventually(10_000, String(expected), () => expected.test(server.log));
    };
    await reload(
      'log-level = "debug"\nrepair-rate = 7\n',
      /read again .*changed="log-level, repair-rate"/,
    );
    await reload("replication = 2\n", /take a restart settings=replication/);
    await reload(
      `leases = 5000\ndead-after = 7\nbackup-dir = "${dir}/backups"\nbackup-every = 5\nsession-ttl = 5\n`,
      /changed="leases, dead-after, backup-dir, backup-every"[^]*take a restart settings=session-ttl\n/,
    );
    // Not only said: it is done.
    await eventually(10_000, "a backup", () => /backup made file=\S+\/backups\//.test(server.log));
    await reload(`leases = 5000\ndead-after = 7\n`, /changed="backup-dir, backup-every"/);
    await reload("replication = 200\n", /left as it was .*mfs\.toml:3/);
    await server.stop();
  }));

interface MountPlace {
  readonly address: string;
  readonly file: string;
  readonly log: string;
  readonly mountpoint: string;
}

/** A test of a mount that goes to the background: beside a nameserver, and unmounted at the end. */
function mountTest(name: string, run: (place: MountPlace) => Promise<void>): void {
  Deno.test({
    name,
    ignore: Deno.uid() !== 0,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () =>
      withScratch(async (dir) => {
        assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
        const address = `127.0.0.1:${freePort("127.0.0.1")}`;
        const server = await MfsProcess.start(["nameserver", "--dir", `${dir}/ns`, "--listen", address]);
        const mountpoint = `${dir}/mnt`;
        Deno.mkdirSync(mountpoint);
        try {
          await run({ address, file: `${dir}/mount.toml`, log: `${dir}/log`, mountpoint });
        } finally {
          await mfs(["umount", mountpoint]);
          await server.stop();
        }
      }),
  });
}

mountTest(
  "command line: maps of users and groups come from the file, the environment, flags and -o",
  async ({ address, file, log, mountpoint }) => {
    Deno.writeTextFileSync(file, 'uidmap = "1000:20001"\ngidmap = "1:2"\n');
    const mounted = async (gidmap: string, flags: readonly string[]) => {
      const args = ["mount", address, mountpoint, "--config", file, "--log-file", log, "--http", "off"];
      const env = { DENO: Deno.execPath(), NO_COLOR: "1", MFS_MOUNT_GIDMAP: gidmap };
      const { code, stderr } = await run(MFS, [...args, ...flags], { env });
      await mfs(["umount", mountpoint]);
      return code === 0 ? / mounted .*$/m.exec(Deno.readTextFileSync(log))![0] : stderr;
    };
    assertMatch(
      await mounted("1:2:0", []),
      /^mfs: mount: environment: MFS_MOUNT_GIDMAP: 1:2:0 is an empty/,
    );
    assertMatch(
      await mounted("100:5000:50+7:8", ["-o", "ro,uidmap=1001:20002"]),
      /uidmap=1001:20002:1\+1000:20001:1 gidmap=100:5000:50\+7:8:1/,
    );
    Deno.removeSync(log);
    assertMatch(
      await mounted("", ["--uidmap", "5:6", "--uidmap", "7:8"]),
      /uidmap=5:6:1\+7:8:1 gidmap=1:2:1/,
    );
  },
);

mountTest(
  "command line: SIGHUP reads the log level again also for a mount in the background",
  async ({ address, file, log, mountpoint }) => {
    Deno.writeTextFileSync(file, 'log-level = "info"\n');
    const flags = ["--config", file, "--log-file", log, "--http", "off"];
    const { stdout, stderr } = await mfs(["mount", address, mountpoint, ...flags]);
    const [, pid] = /by process (\d+)/.exec(stdout) ?? [];
    assert(pid !== undefined, stderr);
    Deno.writeTextFileSync(file, 'log-level = "debug"\n');
    Deno.kill(Number(pid), "SIGHUP");
    const expected = /read again .*changed=log-level/;
    await eventually(10_000, String(expected), () => expected.test(Deno.readTextFileSync(log)));
  },
);

test("`mfs config` prints a file that is right, as it is and with all of it switched on", () =>
  withScratch(async (dir) => {
    for (const role of ["nameserver", "dataserver", "mount"]) {
      const { stdout } = await mfs(["config", role]);
      const example = stdout
        .replace(/^#nameserver = .*$/m, '#nameserver = "10.0.0.1:7400"')
        .replace(/^#root-squash = .*$/m, '#root-squash = "1:2"')
        .replace(/^#([ug]idmap) = .*$/gm, '#$1 = "1000:20001:1+0:100000:1000"')
        .replace(/^#atime = .*$/m, '#atime = "off"');
      for (const text of [stdout, example.replace(/^#(?=[a-z-]+ = )/gm, "")]) {
        await Deno.writeTextFile(`${dir}/${role}.toml`, text);
        const checked = await mfs(["config", role, "--check", `${dir}/${role}.toml`]);
        assertEquals([checked.code, checked.stderr], [0, ""]);
      }
    }
  }));

test("CONFIGURATION.md has every setting as it is (scripts/reference)", async () => {
  const text = await Deno.readTextFile(new URL("../../CONFIGURATION.md", import.meta.url));
  for (const role of ["nameserver", "dataserver", "mount"]) {
    assertStringIncludes(text, (await mfs(["config", role, "--reference"])).stdout.trim());
  }
});

test("a configuration file is flat TOML", () =>
  withScratch(async (dir) => {
    const file = `${dir}/mfs.toml`;
    await Deno.writeTextFile(file, 'a = "x"\nb = ["y", "z"]\nc = true\nd = 5\n');
    const expected: [string, unknown][] = [["a", "x"], ["b", ["y", "z"]], ["c", true], ["d", "5"]];
    const found = [...readConfig(file)].map(([key, { value }]) => [key, value]);
    assertEquals(found, expected);
    assertEquals([...readConfig(file).values()].map(({ line }) => line), [1, 2, 3, 4]);
    await Deno.writeTextFile(file, "[section]\na = 1\n");
    let message = "";
    try {
      readConfig(file);
    } catch (error) {
      message = (error as Error).message;
    }
    assertMatch(message, /section must be/);
  }));

test("SIGINT stops a server, a second signal at once", () =>
  withScratch(async (dir) => {
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const server = await MfsProcess.start(["nameserver", "--dir", `${dir}/ns`, "--listen", "127.0.0.1:0"], {
      MFS_EXIT_ON_STDIN_EOF: "",
    });
    server.signal("SIGINT");
    assertEquals((await server.ended(5_000)).code, 0);
  }));

test("the log can go to a file", () =>
  withScratch(async (dir) => {
    assertEquals((await mfs(["format", "--dir", `${dir}/ns`])).code, 0);
    const file = `${dir}/log`;
    const args = ["nameserver", "--dir", `${dir}/ns`, "--listen", "127.0.0.1:0", "--log-file", file];
    const server = await MfsProcess.start(args);
    await server.stop();
    assertEquals(server.log, "");
    assertMatch(Deno.readTextFileSync(file), /^\S+ INFO +nameserver: /m);
  }));
