/**
 * A cluster for the coherence checker: real processes for nameserver, dataservers and each of several mounts, on
 * loopback, or in network namespaces so that a mount can be cut off. Everything lies in a scratch directory and goes
 * with `discard`. The process that runs this never touches a mount.
 */

import { killGroup, run } from "../harness/command.ts";
import { MFS, MfsProcess } from "../harness/process.ts";
import { clearMounts, makeScratch, removeScratch } from "../harness/scratch.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { Networks } from "./networks.ts";

export interface CoherenceClusterOptions {
  readonly mounts?: number;
  readonly dataservers?: number;
  readonly replication?: number;
  /** Each mount has a network of its own, which can be cut. */
  readonly networks?: boolean;
  /** Another `mfs` than that of this source tree. */
  readonly program?: string;
}

const LOG_FLAGS = ["--log-level", "info"];
/** In a namespace of their own, all ports are free. */
const NAMESERVER_PORT = 7400;

interface Role {
  readonly name: string;
  readonly args: readonly string[];
  /** Which namespace it runs in: 0 is that of the servers. */
  readonly network: number;
  process: MfsProcess;
}

export class CoherenceCluster {
  /** Scratch space on the local disk. */
  readonly scratch: string = makeScratch();
  /** Mount points of the one file system, one for each mount process. */
  readonly mountpoints: readonly string[];
  readonly #options: CoherenceClusterOptions;
  readonly #program: string;
  readonly #roles: Role[] = [];
  #networks: Networks | undefined;
  /** HOST:PORT. */
  nameserver = "";

  private constructor(options: CoherenceClusterOptions) {
    this.#options = options;
    this.#program = options.program ?? MFS;
    this.mountpoints = Array.from({ length: options.mounts ?? 3 }, (_, i) => `${this.scratch}/mount${i + 1}`);
  }

  /** Resolves when every process has said `ready`. */
  static async start(options: CoherenceClusterOptions = {}): Promise<CoherenceCluster> {
    const cluster = new CoherenceCluster(options);
    try {
      await cluster.#start();
      return cluster;
    } catch (error) {
      await cluster.discard();
      throw error;
    }
  }

  async #start(): Promise<void> {
    if (this.#options.networks === true) this.#networks = await Networks.make(this.mountpoints.length);
    const host = this.#networks?.serverAddress ?? "127.0.0.1";
    const port = (i: number) => this.#networks === undefined ? freePort(host) : NAMESERVER_PORT + i;
    const nameserver = this.nameserver = `${host}:${port(0)}`;
    const dir = `${this.scratch}/nameserver`;
    const formatted = await run(this.#program, ["format", "--dir", dir], {
      timeoutMs: 30_000,
      env: { DENO: Deno.execPath(), NO_COLOR: "1" },
    });
    if (formatted.code !== 0) throw new Error(formatted.stderr);
    await this.#startRole("nameserver", 0, [
      ...["nameserver", "--dir", dir, "--listen", nameserver],
      ...["--replication", String(this.#options.replication ?? 2)],
    ]);
    for (let i = 1; i <= (this.#options.dataservers ?? 3); i++) {
      await Deno.mkdir(`${this.scratch}/volume${i}`);
      await this.#startRole(`dataserver${i}`, 0, [
        ...["dataserver", "--nameserver", nameserver, "--volume", `${this.scratch}/volume${i}`],
        ...["--listen", `${host}:${port(i)}`, "--host", `node${i}`],
      ]);
    }
    for (const [i, mountpoint] of this.mountpoints.entries()) {
      await Deno.mkdir(mountpoint);
      await this.#startRole(`mount${i + 1}`, i + 1, [
        ...["mount", nameserver, mountpoint, "--foreground", "--host", `node${i + 1}`],
      ]);
    }
  }

  async #startRole(name: string, network: number, args: readonly string[]): Promise<void> {
    const all = [...args, ...LOG_FLAGS];
    this.#roles.push({ name, args: all, network, process: await this.#startProcess(all, network) });
  }

  #startProcess(args: readonly string[], network: number): Promise<MfsProcess> {
    const enter = this.#networks?.enter(network) ?? [];
    return MfsProcess.start(args, {}, this.scratch, [...enter, this.#program] as [string, ...string[]]);
  }

  #role(name: string): Role {
    const role = this.#roles.find((candidate) => candidate.name === name);
    if (role === undefined) throw new Error(`no role ${name}`);
    return role;
  }

  /** SIGSTOP to a mount's process (they count from 1), and SIGCONT when `wait` resolves. */
  async stopMount(mount: number, seconds: number, wait: (ms: number) => Promise<void>): Promise<void> {
    const { process } = this.#role(`mount${mount}`);
    // It goes on also when this process is killed meanwhile: else it would stay, for it does not see its stdin end.
    const waker = new Deno.Command("sh", {
      args: ["-c", `sleep ${seconds}; kill -CONT ${process.pid}`],
      stdin: "null",
      stdout: "null",
      stderr: "null",
      detached: true,
    }).spawn();
    process.signal("SIGSTOP");
    await wait(seconds * 1000);
    killGroup(waker.pid);
    await waker.status;
    process.signal("SIGCONT");
  }

  /** Cuts a mount off from all servers, or joins it again. */
  async setCutOff(mount: number, cutOff: boolean): Promise<void> {
    if (this.#networks === undefined) throw new Error("the cluster has no networks");
    await this.#networks.setLink(mount, !cutOff);
  }

  /** kill -9 of the nameserver, and the same again with the same arguments after `wait`. Resolves at its `ready`. */
  async restartNameserver(wait: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    const role = this.#role("nameserver");
    role.process.kill();
    await role.process.ended(5_000);
    await wait();
    role.process = await this.#startProcess(role.args, role.network);
  }

  /** The processes that have ended. */
  ended(): string[] {
    return this.#roles.filter(({ process }) => process.hasEnded).map(({ name }) => name);
  }

  /** The ends of all logs. */
  log(bytesOfEach = 4000): string {
    return this.#roles.map(({ name, process }) => `--- ${name}\n${process.log.slice(-bytesOfEach)}`).join(
      "\n",
    );
  }

  /** A clean stop, mounts first; rejects when a process needs more than 5 s or fails. */
  async stop(): Promise<void> {
    for (const { process } of [...this.#roles].reverse()) await process.stop();
  }

  /** Takes everything away, whatever state it is in. Never rejects. */
  async discard(): Promise<void> {
    // A stopped process would neither answer nor end.
    for (const { process } of this.#roles) process.signal("SIGCONT");
    await clearMounts(this.scratch);
    for (const { process } of this.#roles) process.kill();
    await Promise.all(this.#roles.map(({ process }) => process.ended(5_000).catch(() => {})));
    await removeScratch(this.scratch);
    await this.#networks?.remove();
  }
}
