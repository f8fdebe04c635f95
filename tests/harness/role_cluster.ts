/**
 * A cluster for tests that disturb it: real processes for nameserver, dataservers and each of several mounts, on
 * loopback, or in network namespaces so that they can be cut off. Everything lies in a scratch directory and goes with
 * `discard`. The process that runs this never touches a mount.
 */

import type { StatusReply } from "../../wire/messages/nameserver.ts";
import { killGroup, run, within } from "./command.ts";
import { MFS, MfsProcess, threadsOf } from "./process.ts";
import { clearMounts, makeScratch, removeScratch } from "./scratch.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { Networks } from "./networks.ts";

export interface RoleClusterOptions {
  readonly mounts?: number;
  readonly dataservers?: number;
  readonly replication?: number;
  /** Of whom each has a network of its own, which can be cut; the others share that of the nameserver. */
  readonly networks?: "none" | "mounts" | "mounts and dataservers";
  readonly nameserverFlags?: readonly string[];
  /** Of mount 1 ... */
  readonly mountFlags?: (mount: number) => readonly string[];
  /** Makes the directory of dataserver 1 ... ready, such as by mounting something there, which goes with `discard`. */
  readonly prepareVolume?: (path: string, dataserver: number) => Promise<void>;
  /** As prepareVolume, of the nameserver's directory. */
  readonly prepareNameserver?: (path: string) => Promise<void>;
  /** Another `mfs` than that of this source tree. */
  readonly program?: string;
}

const LOG_FLAGS = ["--log-level", "info"];
const LOG_BYTES_MAX = 4 * 1024 * 1024;
/** A process that is killed ends when the system call that each of its threads is in has: on a busy disk, an fsync of others. */
const KILLED_MS = 30_000;
/** In a namespace of their own, all ports are free. */
const NAMESERVER_PORT = 7400;

interface Role {
  readonly name: string;
  readonly args: readonly string[];
  /** Which namespace it runs in: 0 is that of the nameserver. */
  readonly network: number;
  process: MfsProcess;
  /** Of those that it was before. */
  formerLog: string;
}

export class RoleCluster {
  /** Scratch space on the local disk. */
  readonly scratch: string = makeScratch();
  /** Mount points of the one file system, one for each mount process. */
  readonly mountpoints: readonly string[];
  readonly #options: RoleClusterOptions;
  readonly program: string;
  readonly #roles: Role[] = [];
  #networks: Networks | undefined;
  /** HOST:PORT. */
  nameserver = "";

  private constructor(options: RoleClusterOptions) {
    this.#options = options;
    this.program = options.program ?? MFS;
    this.mountpoints = Array.from({ length: options.mounts ?? 3 }, (_, i) => `${this.scratch}/mount${i + 1}`);
  }

  /** Resolves when every process has said `ready`. */
  static async start(options: RoleClusterOptions = {}): Promise<RoleCluster> {
    const cluster = new RoleCluster(options);
    try {
      await cluster.#start();
      return cluster;
    } catch (error) {
      await cluster.discard();
      throw error;
    }
  }

  /** Runs `body` on a cluster that is discarded after it; when it fails or takes longer than `limitMs`, the logs are shown. */
  static async with(
    options: RoleClusterOptions,
    limitMs: number,
    body: (cluster: RoleCluster) => Promise<void>,
  ): Promise<void> {
    const cluster = await RoleCluster.start(options);
    try {
      await within(limitMs, "the test", body(cluster));
    } catch (error) {
      console.error(cluster.log());
      throw error;
    } finally {
      await cluster.discard();
    }
  }

  async #start(): Promise<void> {
    const { networks = "none", replication = 2, dataservers = 3, prepareVolume } = this.#options;
    const mounts = this.mountpoints.length;
    const areSplit = networks === "mounts and dataservers";
    if (networks !== "none") this.#networks = await Networks.make(mounts + (areSplit ? dataservers : 0));
    const address = (network: number, port: number): string =>
      this.#networks === undefined
        ? `127.0.0.1:${freePort("127.0.0.1")}`
        : `${this.#networks.address(network)}:${NAMESERVER_PORT + port}`;
    const nameserver = this.nameserver = address(0, 0);
    const dir = `${this.scratch}/nameserver`;
    if (this.#options.prepareNameserver !== undefined) {
      await Deno.mkdir(dir);
      await this.#options.prepareNameserver(dir);
    }
    const formatted = await this.mfs(["format", "--dir", dir]);
    if (formatted.code !== 0) throw new Error(formatted.stderr);
    await this.#startRole("nameserver", 0, [
      ...["nameserver", "--dir", dir, "--listen", nameserver],
      ...["--replication", String(replication), ...this.#options.nameserverFlags ?? []],
    ]);
    for (let i = 1; i <= dataservers; i++) {
      const volume = this.volumeOf(i);
      await Deno.mkdir(volume);
      await prepareVolume?.(volume, i);
      const network = areSplit ? mounts + i : 0;
      await this.#startRole(`dataserver${i}`, network, [
        ...["dataserver", "--nameserver", nameserver, "--volume", volume],
        ...["--listen", address(network, i), "--host", `node${i}`],
      ]);
    }
    for (const [i, mountpoint] of this.mountpoints.entries()) {
      await Deno.mkdir(mountpoint);
      await this.#startRole(`mount${i + 1}`, this.#networks === undefined ? 0 : i + 1, [
        ...["mount", nameserver, mountpoint, "--foreground", "--host", `node${i + 1}`],
        ...this.#options.mountFlags?.(i + 1) ?? [],
      ]);
    }
  }

  async #startRole(name: string, network: number, args: readonly string[]): Promise<void> {
    const all = [...args, ...LOG_FLAGS];
    const process = await this.#startProcess(all, network);
    this.#roles.push({ name, args: all, network, process, formerLog: "" });
  }

  #startProcess(args: readonly string[], network: number): Promise<MfsProcess> {
    const enter = this.#networks?.enter(network) ?? [];
    return MfsProcess.start(args, {}, this.scratch, [...enter, this.program] as [string, ...string[]]);
  }

  #role(name: string): Role {
    const role = this.#roles.find((candidate) => candidate.name === name);
    if (role === undefined) throw new Error(`no role ${name}`);
    return role;
  }

  /** Runs `mfs ARGS...` beside the nameserver, to its end. */
  mfs(args: readonly string[], timeoutMs = 30_000): ReturnType<typeof run> {
    const [program, ...before] = [...this.#networks?.enter(0) ?? [], this.program];
    return run(program!, [...before, ...args], { timeoutMs, env: { DENO: Deno.execPath(), NO_COLOR: "1" } });
  }

  /** What `mfs status` says. */
  async status(): Promise<StatusReply> {
    const { code, stdout, stderr } = await this.mfs(["status", "--nameserver", this.nameserver, "--json"]);
    if (code !== 0) throw new Error(`mfs status: ${stderr}`);
    return JSON.parse(stdout);
  }

  /** "nameserver", "dataserver1" ..., "mount1" ... */
  get names(): readonly string[] {
    return this.#roles.map(({ name }) => name);
  }

  volumeOf(dataserver: number): string {
    return `${this.scratch}/volume${dataserver}`;
  }

  /** Of the hosts that can be cut off; null on loopback. */
  get networks(): Networks | null {
    return this.#networks ?? null;
  }

  /** HOST:PORT at which a server listens. */
  addressOf(name: string): string {
    const { args } = this.#role(name);
    return args[args.indexOf("--listen") + 1]!;
  }

  /** Which of `networks` a role runs in. */
  networkOf(name: string): number {
    return this.#role(name).network;
  }

  process(name: string): MfsProcess {
    return this.#role(name).process;
  }

  /** kill -9 of one role; resolves when it has ended. */
  async kill(name: string): Promise<void> {
    const { process } = this.#role(name);
    process.kill();
    await process.ended(KILLED_MS).catch((error) => {
      throw new Error(`${name}, killed: ${error.message}; its threads: ${threadsOf(process.pid)}`);
    });
  }

  /** Starts a role that has ended again, with the same arguments. Resolves at its `ready`. */
  async restart(name: string): Promise<void> {
    const role = this.#role(name);
    role.formerLog = (role.formerLog + role.process.log).slice(-LOG_BYTES_MAX);
    if (name.startsWith("mount")) {
      await clearMounts(this.mountpoints[Number(name.slice("mount".length)) - 1]!);
    }
    role.process = await this.#startProcess(role.args, role.network);
  }

  /** SIGSTOP to a process, and SIGCONT when `wait` resolves. */
  async pause(name: string, seconds: number, wait: (ms: number) => Promise<void>): Promise<void> {
    const { process } = this.#role(name);
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
    await this.kill("nameserver");
    await wait();
    await this.restart("nameserver");
  }

  /** The processes that have ended. */
  ended(): string[] {
    return this.#roles.filter(({ process }) => process.hasEnded).map(({ name }) => name);
  }

  /** All that a role has logged (the end of it). */
  logOf(name: string): string {
    const { formerLog, process } = this.#role(name);
    return formerLog + process.log;
  }

  /** The ends of all logs. */
  log(bytesOfEach = 4000): string {
    return this.#roles.map(({ name }) => `--- ${name}\n${this.logOf(name).slice(-bytesOfEach)}`).join("\n");
  }

  /** As stop, of the mounts alone. */
  async stopMounts(): Promise<void> {
    for (const { name, process } of [...this.#roles].reverse()) {
      if (name.startsWith("mount")) await process.stop();
    }
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
