/**
 * kill -9 in the middle of an unpacking: every file whose close() had returned is there and whole afterwards, and
 * the mount goes on by itself once its servers are back.
 */

import { assert, assertEquals } from "@std/assert";
import { killGroup, run, sh, sleep, within } from "../harness/command.ts";
import { type Cluster, type Mode, withCluster } from "../harness/cluster.ts";
import { hasCompiler, probe } from "../harness/probe.ts";

const FILES = 800;
/** The kill comes once this many files were closed. */
const KILL_AFTER = 120;

function define(mode: Mode, name: string, body: (cluster: Cluster) => Promise<void>): void {
  Deno.test({
    name: `${mode}: ${name}`,
    ignore: !hasCompiler,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => withCluster({ mode }, (cluster) => within(150_000, name, body(cluster))),
  });
}

/** An unpacking that goes on: files into `dir`, the number of each one that was closed into `list`. */
class Filling {
  readonly dir: string;
  readonly list: string;
  readonly #pid: number;
  readonly #output: Promise<Deno.CommandOutput>;

  private constructor(dir: string, list: string, child: Deno.ChildProcess) {
    this.dir = dir;
    this.list = list;
    this.#pid = child.pid;
    this.#output = child.output();
  }

  static async start(cluster: Cluster): Promise<Filling> {
    const dir = `${cluster.mountpoint}/unpacked`;
    const list = `${cluster.scratch}/closed`;
    await sh(`mkdir ${dir}; : > ${list}`, { timeoutMs: 20_000 });
    const child = new Deno.Command(await probe(), {
      args: ["fill", dir, list, "0", String(FILES)],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).spawn();
    return new Filling(dir, list, child);
  }

  closed(): number {
    return Deno.readTextFileSync(this.list).split("\n").length - 1;
  }

  /** Waits until this many files were closed. */
  async reached(count: number): Promise<void> {
    const endMs = performance.now() + 60_000;
    while (this.closed() < count) {
      if (performance.now() > endMs) {
        throw new Error(`${this.closed()} files closed after 60 s, not ${count}`);
      }
      await sleep(5);
    }
  }

  /** Waits for its end. */
  async end(timeoutMs: number): Promise<{ code: number; text: string }> {
    try {
      const { code, stdout, stderr } = await within(
        timeoutMs,
        `unpacking (${this.closed()} closed)`,
        this.#output,
      );
      return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
    } catch (error) {
      killGroup(this.#pid);
      throw error;
    }
  }

  /** Every file that was closed is whole. */
  async verify(): Promise<void> {
    const count = await sh(`${await probe()} verify ${this.dir} ${this.list}`, { timeoutMs: 60_000 });
    assertEquals(Number(count), this.closed());
  }
}

/** The mount works: new files, old files, directories. */
async function works(cluster: Cluster): Promise<void> {
  await sh(
    `cd ${cluster.mountpoint} && mkdir after && head -c 200000 /dev/urandom > after/file &&
     cp after/file after/copy && cmp after/file after/copy && ls -R . >/dev/null && rm -r after`,
    { timeoutMs: 60_000 },
  );
}

for (const mode of ["processes", "roles"] as const) {
  define(mode, "the nameserver is killed while files are unpacked", async (cluster) => {
    const filling = await Filling.start(cluster);
    await filling.reached(KILL_AFTER);
    await cluster.kill("nameserver");
    await cluster.restart("nameserver");
    const { code, text } = await filling.end(90_000);
    assertEquals([code, text], [0, ""], "a hard mount waits for its nameserver");
    assertEquals(filling.closed(), FILES);
    await filling.verify();
    await works(cluster);
  });

  define(mode, "a dataserver is killed while files are unpacked", async (cluster) => {
    const filling = await Filling.start(cluster);
    await filling.reached(KILL_AFTER);
    await cluster.kill("dataserver1");
    await sleep(500);
    await cluster.restart("dataserver1");
    const { code, text } = await filling.end(90_000);
    assertEquals([code, text], [0, ""], "the other replicas carry on");
    await filling.verify();
    await works(cluster);
    // What is kept once more on the others survives the loss of each one.
    await cluster.kill("dataserver2");
    await cluster.restart("dataserver2");
    await filling.verify();
  });
}

for (const mode of ["one process", "processes", "roles"] as const) {
  define(mode, "everything is killed while files are unpacked", async (cluster) => {
    const filling = await Filling.start(cluster);
    await filling.reached(KILL_AFTER);
    await cluster.killEverything();
    const { code } = await filling.end(30_000);
    assertEquals(code, 3, "the dead mount answers with an error");
    // Where mounts are, a stat of the dead one fails and does not hang.
    assert((await run("stat", [cluster.mountpoint], { timeoutMs: 10_000 })).code !== 0);
    await cluster.restartEverything();
    await filling.verify();
    await works(cluster);
    await cluster.stop();
  });
}

define("processes", "no child outlives a supervisor that is killed", async (cluster) => {
  const [supervisor, ...children] = cluster.pids();
  assertEquals(children.length, 5);
  Deno.kill(supervisor!, "SIGKILL");
  const isGone = (pid: number) => run("bash", ["-c", `kill -0 ${pid}`]).then(({ code }) => code !== 0);
  for (let tenths = 0; tenths < 60; tenths++) {
    if ((await Promise.all(children.map(isGone))).every(Boolean)) return;
    await sleep(100);
  }
  throw new Error("children are still there after 6 s");
});
