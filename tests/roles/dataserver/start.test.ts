import { deepEqual, equal, match, ok, rejects } from "node:assert/strict";
import { FsError } from "../../../wire/errno.ts";
import { startDataserver } from "../../../roles/dataserver/dataserver.ts";
import { tcpDialer } from "../../../wire/dialer.ts";
import { FakeRegistry, recordingLogger, start, until, withDirectory } from "./harness.ts";

function refused(errno: string, message: RegExp) {
  return (error: unknown) => {
    ok(error instanceof FsError, String(error));
    match(error.message, message);
    equal(error.errno, errno);
    return true;
  };
}

/** Names and contents below a directory, LevelDB's own left out. */
function contents(directory: string, prefix = ""): string[] {
  return [...Deno.readDirSync(directory)].flatMap(({ name, isDirectory }) =>
    isDirectory
      ? contents(`${directory}/${name}`, `${prefix}${name}/`)
      : [`${prefix}${name}: ${Deno.readTextFileSync(`${directory}/${name}`)}`]
  ).sort();
}

Deno.test("a volume of another cluster is refused with both names", () =>
  withDirectory(async (directory) => {
    {
      await using registry = new FakeRegistry("cluster-a");
      await using _server = await start(registry, [`${directory}/v`]);
    }
    await using registry = new FakeRegistry("cluster-b");
    await rejects(
      start(registry, [`${directory}/v`]),
      refused(
        "EPROTO",
        /v belongs to cluster cluster-a, the nameserver at .* serves cluster cluster-b: give another/,
      ),
    );
    equal(registry.registrations.length, 0);
    await using _second = await start(registry, [`${directory}/w`]);
    await rejects(
      start(registry, [`${directory}/x`, `${directory}/v`, `${directory}/w`]),
      refused("EBUSY", /w: .* is used by another process/),
    );
    await _second.stop();
    await rejects(
      start(registry, [`${directory}/v`, `${directory}/w`]),
      refused("EINVAL", /w belongs to cluster cluster-b, .*v to cluster-a/),
    );
  }));

Deno.test("directories that are no volume of this layout are refused and left as they are", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const make = (name: string, files: Record<string, string>) => {
      Deno.mkdirSync(`${directory}/${name}`);
      for (const [file, text] of Object.entries(files)) {
        Deno.writeTextFileSync(`${directory}/${name}/${file}`, text);
      }
      return `${directory}/${name}`;
    };
    const good = { format: 1, label: "x", nodeLabel: "y" };
    const cases: [string, string, RegExp][] = [
      [make("other", { "hello.txt": "hi" }), "ENOTEMPTY", /is not empty and holds no volume.json/],
      [make("leveldb", { CURRENT: "MANIFEST-1", LOCK: "" }), "ENOTEMPTY", /is not empty/],
      [make("new", { "volume.json": JSON.stringify({ ...good, format: 2 }) }), "EINVAL", /layout version 2/],
      [make("torn", { "volume.json": '{ "format": 1, "la' }), "EINVAL", /volume.json is corrupt/],
      [make("empty", { "volume.json": "" }), "EINVAL", /volume.json is corrupt/],
      [make("typed", { "volume.json": JSON.stringify({ ...good, volume: "1" }) }), "EINVAL", /is corrupt/],
      [make("lost", { "volume.json": JSON.stringify({ ...good, volume: 1 }) }), "EINVAL", /lost its meta/],
    ];
    Deno.writeTextFileSync(`${directory}/file`, "");
    cases.push([`${directory}/file`, "ENOTDIR", /is not a directory/]);
    for (const [path, errno, message] of cases) {
      const before = path.endsWith("/file") ? [] : contents(path);
      await rejects(start(registry, [path]), refused(errno, message), path);
      if (!path.endsWith("/file")) deepEqual(contents(path), before);
    }
    await rejects(start(registry, []), refused("EINVAL", /at least one --volume/));
    await rejects(
      start(registry, [`${directory}/twice`, `${directory}/twice/`]),
      refused("EINVAL", /given twice/),
    );
    equal(registry.registrations.length, 0);
  }));

Deno.test("a volume whose LevelDB belongs to another volume is refused", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    {
      await using _server = await start(registry, [`${directory}/a`, `${directory}/b`]);
    }
    Deno.removeSync(`${directory}/a/meta`, { recursive: true });
    Deno.renameSync(`${directory}/b/meta`, `${directory}/a/meta`);
    await rejects(start(registry, [`${directory}/a`]), refused("EINVAL", /belongs to another volume/));
  }));

Deno.test("a missing disk is left out with a warning; when none is left the start fails", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const missing = `${directory}/no/such/disk`;
    await rejects(start(registry, [missing]), refused("ENOENT", /no\/such\/disk/));
    const { log, lines } = recordingLogger();
    await using server = await start(registry, [missing, `${directory}/v`], { log });
    equal(server.volumes.length, 1);
    ok(lines.some((line) => line.includes("volume is left out")));
  }));

Deno.test("a start waits for its nameserver, saying so once, and a signal gives it up", () =>
  withDirectory(async (directory) => {
    let address: string;
    {
      await using gone = new FakeRegistry();
      address = gone.address;
    }
    const { log, lines } = recordingLogger();
    const abort = new AbortController();
    const options = {
      nameserver: address,
      volumes: [`${directory}/v`],
      host: "h",
      log,
      dialer: tcpDialer,
    };
    const said = () =>
      lines.filter((line) => line.includes(`waiting for the nameserver at ${address}`)).length;
    const given = startDataserver({ ...options, signal: abort.signal });
    await until(() => said() === 1, "it says that it waits");
    await new Promise((resolve) => setTimeout(resolve, 500));
    abort.abort();
    await rejects(given, refused("EINTR", /given up/));
    equal(said(), 1);
    const starting = startDataserver(options);
    await until(() => said() === 2, "the second says so, too");
    await using registry = new FakeRegistry("cluster-a", address);
    await using server = await starting;
    equal(said(), 2);
    // And after a lost connection it comes back, with the same ids.
    await registry.restart();
    await until(() => registry.registrations.length === 2, "registered again");
    equal(registry.registrations[1]!.node, server.node);
    equal(registry.registrations[1]!.volumes[0]!.volume, server.volumes[0]!.volume);
    const beats = registry.heartbeats.length;
    await until(() => registry.heartbeats.length > beats + 2, "heartbeats go on");
    ok(registry.heartbeats.at(-1)![0]!.totalBytes > 0);
  }));

Deno.test("a volume whose registration's answer was lost registers with the same label and gets one id", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    registry.refuse = new FsError("EAGAIN", "later");
    const starting = start(registry, [`${directory}/v`]);
    const label = () => JSON.parse(Deno.readTextFileSync(`${directory}/v/volume.json`)).label;
    await new Promise((resolve) => setTimeout(resolve, 300));
    const first = label();
    registry.refuse = null;
    await using _server = await starting;
    equal(registry.registrations[0]!.volumes[0]!.label, first);
    equal(label(), first);
  }));

Deno.test("a stop with nothing to do is quick, may be repeated, and frees the volume and the port", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const server = await start(registry, [`${directory}/v`]);
    const started = performance.now();
    await Promise.all([server.stop(), server.stop()]);
    ok(performance.now() - started < 1000);
    await using _again = await start(registry, [`${directory}/v`], { listen: server.address });
  }));
