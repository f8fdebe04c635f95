/** What roles tell a service manager, with real processes and a datagram socket of the test's. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { ServiceManager } from "../../roles/admin/service_manager.ts";
import { lines } from "../../roles/admin/self.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { mfs } from "../harness/cluster.ts";
import { eventually, run, sleep } from "../harness/command.ts";
import { childrenOf, MfsProcess } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const RECEIVER = decodeURIComponent(new URL("./datagrams.py", import.meta.url).pathname);
const WATCHDOG_MS = 600;

/** A manager's socket and what came there. */
class Manager {
  readonly messages: string[] = [];
  readonly #child: Deno.ChildProcess;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
  }

  static async listen(socket: string): Promise<Manager> {
    const child = new Deno.Command("python3", { args: [RECEIVER, socket], stdin: "piped", stdout: "piped" })
      .spawn();
    const manager = new Manager(child);
    const bound = Promise.withResolvers<void>();
    void (async () => {
      for await (const line of lines(child.stdout)) {
        if (line === "bound") bound.resolve();
        else manager.messages.push(JSON.parse(line));
      }
    })();
    await bound.promise;
    return manager;
  }

  count(word: string): number {
    return this.messages.filter((message) => message.split("\n").includes(word)).length;
  }

  async close(): Promise<void> {
    await this.#child.stdin.close();
    await this.#child.status;
  }
}

function test(name: string, body: (scratch: string) => Promise<void>): void {
  Deno.test({
    name: `service manager: ${name}`,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const scratch = makeScratch();
      try {
        await body(scratch);
      } finally {
        await removeScratch(scratch);
      }
    },
  });
}

async function withManager(socket: string, body: (manager: Manager) => Promise<void>): Promise<void> {
  const manager = await Manager.listen(socket);
  try {
    await body(manager);
  } finally {
    await manager.close();
  }
}

async function format(scratch: string): Promise<string[]> {
  assertEquals((await mfs(["format", "--dir", `${scratch}/ns`])).code, 0);
  return ["nameserver", "--dir", `${scratch}/ns`, "--listen", `127.0.0.1:${freePort("127.0.0.1")}`];
}

const watched = (socket: string) => ({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: `${WATCHDOG_MS * 1000}` });

test("a nameserver says when it serves, lives, hangs no more and stops", (scratch) =>
  withManager(`${scratch}/notify`, async (manager) => {
    const server = await MfsProcess.start(await format(scratch), watched(`${scratch}/notify`));
    await eventually(5_000, "WATCHDOG", () => manager.count("WATCHDOG=1") >= 3);
    assertEquals(manager.count("READY=1"), 1);
    assertMatch(manager.messages[0]!, /^STATUS=Starting$/);
    const before = manager.messages.findIndex((message) => message.includes("READY=1"));
    assertEquals(manager.messages.slice(0, before).filter((text) => text.includes("WATCHDOG")), []);

    Deno.kill(server.pid, "SIGSTOP");
    await sleep(200);
    const count = manager.count("WATCHDOG=1");
    await sleep(3 * WATCHDOG_MS);
    assertEquals(manager.count("WATCHDOG=1"), count, "a process that hangs says that it lives");
    Deno.kill(server.pid, "SIGCONT");
    await eventually(5_000, "WATCHDOG again", () => manager.count("WATCHDOG=1") > count + 1);

    await server.stop();
    await eventually(2_000, "STOPPING", () => manager.count("STOPPING=1") === 1);
    assertMatch(manager.messages.find((text) => text.includes("STOPPING"))!, /^STATUS=Stopping: SIGTERM$/m);
  }));

test("a nameserver that reads its configuration again says so, and that it serves on", (scratch) =>
  withManager(`${scratch}/notify`, async (manager) => {
    await Deno.writeTextFile(`${scratch}/config`, 'log-level = "info"\n');
    const server = await MfsProcess.start(
      [...await format(scratch), "--config", `${scratch}/config`],
      // A child of a supervisor is told by that what to do, and takes no hang-up.
      { NOTIFY_SOCKET: `${scratch}/notify`, MFS_EXIT_ON_STDIN_EOF: "" },
    );
    await eventually(5_000, "READY", () => manager.count("READY=1") === 1);
    Deno.kill(server.pid, "SIGHUP");
    await eventually(5_000, "READY again", () => manager.count("READY=1") === 2);
    const [reloading, ready] = manager.messages.slice(-2);
    assertMatch(reloading!, /^RELOADING=1\nMONOTONIC_USEC=\d+\n/);
    assertMatch(ready!, /^READY=1\n/);
    await server.stop();
    assertEquals(manager.count("STOPPING=1"), 1);
  }));

test("the watchdog is asked at half of its time", (scratch) =>
  withManager(`${scratch}/notify`, async (manager) => {
    const server = await MfsProcess.start(await format(scratch), watched(`${scratch}/notify`));
    await eventually(5_000, "first WATCHDOG", () => manager.count("WATCHDOG=1") >= 1);
    const before = manager.count("WATCHDOG=1");
    await sleep(5 * WATCHDOG_MS);
    const asked = manager.count("WATCHDOG=1") - before;
    assert(asked >= 7 && asked <= 11, `${asked} times in five periods`);
    await server.stop();
  }));

test("the watchdog of another process is left to it, and an abstract socket is as good", async (scratch) => {
  const socket = `@mfs-test-${crypto.randomUUID()}`;
  await withManager(socket, async (manager) => {
    const env = { ...watched(socket), WATCHDOG_PID: "1" };
    const server = await MfsProcess.start(await format(scratch), env);
    await eventually(5_000, "READY", () => manager.count("READY=1") === 1);
    await sleep(2 * WATCHDOG_MS);
    assertEquals(manager.count("WATCHDOG=1"), 0);
    await server.stop();
  });
});

test("a dataserver and a mount are not ready before there is a nameserver", (scratch) =>
  withManager(`${scratch}/notify`, async (manager) => {
    const nameserver = await format(scratch);
    const address = nameserver.at(-1)!;
    const env = { NOTIFY_SOCKET: `${scratch}/notify` };
    await Deno.mkdir(`${scratch}/volume`);
    const starting = MfsProcess.start([
      ...["dataserver", "--nameserver", address, "--volume", `${scratch}/volume`, "--listen", "127.0.0.1:0"],
    ], env);
    await eventually(10_000, "STATUS", () => manager.messages.length > 0);
    await sleep(1_500);
    assertEquals(manager.count("READY=1"), 0);
    const server = await MfsProcess.start(nameserver);
    const dataserver = await starting;
    await eventually(5_000, "READY", () => manager.count("READY=1") === 1);

    await Deno.mkdir(`${scratch}/mnt`);
    const mount = await MfsProcess.start(["mount", address, `${scratch}/mnt`, "--foreground"], env);
    await eventually(5_000, "READY of the mount", () => manager.count("READY=1") === 2);
    assertEquals((await run("mountpoint", ["-q", `${scratch}/mnt`])).code, 0);
    for (const role of [mount, dataserver, server]) await role.stop();
    await eventually(2_000, "STOPPING", () => manager.count("STOPPING=1") === 2);
  }));

test("children say nothing to the manager of their parent", (scratch) =>
  withManager(`${scratch}/notify`, async (manager) => {
    const cluster = await MfsProcess.start(
      ["singlenode", `${scratch}/mnt`, "--processes", "--dataservers", "1", "--replication", "1"],
      watched(`${scratch}/notify`),
    );
    const children = childrenOf(cluster.pid);
    assert(children.length >= 3);
    for (const pid of children) {
      assert(!Deno.readTextFileSync(`/proc/${pid}/environ`).includes("NOTIFY_SOCKET"), `child ${pid}`);
    }
    await eventually(5_000, "READY", () => manager.count("READY=1") === 1);
    await cluster.stop();
  }));

test("a manager that is not there delays nothing", async (scratch) => {
  const server = await MfsProcess.start(await format(scratch), watched(`${scratch}/nobody`));
  assertMatch(server.log, /NOTIFY_SOCKET=\S+\/nobody: error 2/);
  await server.stop();
});

test("reading configuration again is told with the time at which it began", (scratch) =>
  withManager(`${scratch}/notify`, async (manager) => {
    Deno.env.set("NOTIFY_SOCKET", `${scratch}/notify`);
    const problems: string[] = [];
    const of = ServiceManager.fromEnvironment((why) => problems.push(why))!;
    assertEquals(Deno.env.get("NOTIFY_SOCKET"), undefined);
    const clock = async () =>
      Number((await run("python3", ["-c", "import time;print(time.monotonic())"])).stdout);
    const before = await clock();
    await of.reloading(() => sleep(100), "Serving");
    const after = await clock();
    await eventually(5_000, "two messages", () => manager.messages.length === 2);
    const [, us] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)\nSTATUS=/.exec(manager.messages[0]!)!;
    assert(Number(us) >= before * 1e6 && Number(us) <= (after - 0.1) * 1e6, `${before} ${us} ${after}`);
    assertEquals(manager.messages[1], "READY=1\nSTATUS=Serving");
    assertEquals(problems, []);
  }));
