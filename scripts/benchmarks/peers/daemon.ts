/**
 * A process of a peer that runs until it is stopped, with its output in a file; and a place of its own to run in, so that
 * what servers leave in the system (processes, ports, /var/lib) goes with it.
 */

import { eventually, killGroup, run, within } from "../../../tests/harness/command.ts";

const START_MS_MAX = 30_000;
const STOP_MS_MAX = 5_000;
/** Of a network with nobody else in it; the servers refuse to serve on loopback. */
export const PLACE_ADDRESS = "10.77.0.1";

export class Daemon {
  readonly pid: number;
  readonly #child: Deno.ChildProcess;
  readonly #log: string;
  #ended = false;

  private constructor(child: Deno.ChildProcess, log: string) {
    this.#child = child;
    this.#log = log;
    this.pid = child.pid;
    void child.status.then(() => this.#ended = true);
  }

  /** Runs `command` with its output in the file `log`; resolves once `isReady` says so. */
  static async start(
    command: readonly [string, ...string[]],
    log: string,
    isReady: (said: string) => boolean | Promise<boolean>,
  ): Promise<Daemon> {
    const child = new Deno.Command("sh", {
      args: ["-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", log, ...command],
      // What reads it ends with us.
      stdin: "piped",
      stdout: "null",
      stderr: "null",
      detached: true,
    }).spawn();
    const daemon = new Daemon(child, log);
    try {
      await eventually(START_MS_MAX, `${command.join(" ")}: ready`, async () => {
        if (daemon.#ended) throw new Error(`${command.join(" ")} has ended`);
        return await isReady(daemon.said);
      });
    } catch (error) {
      await daemon.stop();
      throw new Error(`${error instanceof Error ? error.message : error}\n${daemon.said.slice(-2_000)}`);
    }
    return daemon;
  }

  /** What it has put out so far. */
  get said(): string {
    try {
      return Deno.readTextFileSync(this.#log);
    } catch {
      return "";
    }
  }

  /** SIGTERM, and SIGKILL when that does not help. */
  async stop(): Promise<void> {
    if (!this.#ended) killGroup(this.pid, "SIGTERM");
    await within(STOP_MS_MAX, "end", this.#child.status).catch(() => this.kill());
    await this.#child.stdin.close().catch(() => {}); // its reader is gone
  }

  async kill(): Promise<void> {
    killGroup(this.pid);
    await within(STOP_MS_MAX, "end", this.#child.status).catch(() => {});
  }
}

/**
 * Namespaces of mounts, processes and networks. When its first process ends, the kernel ends all others in it; that one
 * ends with us, however we end.
 */
export class Place {
  readonly #outer: Daemon;
  readonly #init: number;

  private constructor(outer: Daemon, init: number) {
    this.#outer = outer;
    this.#init = init;
  }

  static async make(log: string): Promise<Place> {
    const script = `ip link set lo up; ip addr add ${PLACE_ADDRESS}/32 dev lo; echo ready; read -r end`;
    const unshare = ["--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"];
    const outer = await Daemon.start(
      ["unshare", ...unshare, "sh", "-c", script],
      log,
      (said) => said.includes("ready"),
    ).catch((error) => {
      throw new Error(`namespaces can't be made (needs root): ${error.message}`);
    });
    const children = Deno.readTextFileSync(`/proc/${outer.pid}/task/${outer.pid}/children`);
    return new Place(outer, Number(children.trim().split(" ")[0]));
  }

  get pid(): number {
    return this.#outer.pid;
  }

  /** What runs a server inside. */
  get enter(): readonly [string, ...string[]] {
    return ["nsenter", "--target", String(this.#init), "--mount", "--pid", "--net"];
  }

  /** What runs a client, which uses the network inside and mounts outside. */
  get enterNetwork(): readonly [string, ...string[]] {
    return ["nsenter", `--net=/proc/${this.#init}/ns/net`];
  }

  /** Runs a program inside to its end and answers what it said; rejects when it failed. */
  async run(args: readonly string[], enter: readonly string[] = this.enter): Promise<string> {
    const [program, ...before] = enter;
    const { code, stdout, stderr } = await run(program!, [...before, ...args], { timeoutMs: START_MS_MAX });
    if (code !== 0) throw new Error(`${args.join(" ")}: ${stderr.trim() || stdout.trim()}`);
    return stdout;
  }

  async remove(): Promise<void> {
    await this.#outer.kill();
  }
}
