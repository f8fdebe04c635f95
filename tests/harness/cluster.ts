/**
 * Real clusters for tests: `mfs` processes under a scratch directory with a mount, in the three ways in which a
 * cluster can be run. A test never touches the mount from its own process: it runs programs on it (command.ts).
 */

import { eventually, run, type RunResult } from "./command.ts";
import { childrenOf, MFS, MfsProcess } from "./process.ts";
import { clearMounts, makeScratch, removeScratch } from "./scratch.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";

/** "one process": singlenode; "processes": singlenode --processes; "roles": each role started by hand. */
export type Mode = "one process" | "processes" | "roles";

export interface ClusterOptions {
  readonly mode: Mode;
  readonly dataservers?: number;
  readonly replication?: number;
  /** Flags of the nameserver; of mode "roles". */
  readonly nameserverFlags?: readonly string[];
  /** Flags of dataserver `i`, from 1; of mode "roles". */
  readonly dataserverFlags?: (i: number) => readonly string[];
  /** Done with the empty directory of each volume; of mode "roles". */
  readonly prepareVolume?: (dir: string) => Promise<unknown>;
}

const LOG_FLAGS = ["--log-level", "info"];

/** Runs `mfs ARGS...` to its end. */
export function mfs(args: readonly string[], timeoutMs = 30_000): Promise<RunResult> {
  return run(MFS, args, { timeoutMs, env: { DENO: Deno.execPath(), NO_COLOR: "1" } });
}

export class Cluster {
  readonly mode: Mode;
  /** Scratch space of the test on the local disk; everything else lies under it. */
  readonly scratch: string;
  readonly mountpoint: string;
  readonly nameserver: string;
  /** Where all processes are started: nothing of theirs belongs there. */
  readonly cwd: string;
  /** Of mode "roles"; in the others `#main` runs all. */
  readonly #roles = new Map<string, { process: MfsProcess; readonly args: readonly string[] }>();
  readonly #options: ClusterOptions;
  #main: MfsProcess | undefined;

  private constructor(options: ClusterOptions) {
    this.#options = options;
    this.mode = options.mode;
    this.scratch = makeScratch();
    this.mountpoint = `${this.scratch}/mnt`;
    this.cwd = `${this.scratch}/cwd`;
    Deno.mkdirSync(this.cwd);
    this.nameserver = `127.0.0.1:${freePort("127.0.0.1")}`;
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const cluster = new Cluster(options);
    try {
      if (options.mode === "roles") await cluster.#startRoles();
      else await cluster.#startSinglenode();
      return cluster;
    } catch (error) {
      await cluster.discard();
      throw error;
    }
  }

  get #dataservers(): number {
    return this.#options.dataservers ?? 3;
  }

  get #replication(): number {
    return this.#options.replication ?? 2;
  }

  async #startSinglenode(): Promise<void> {
    this.#main = await MfsProcess.start(
      [
        ...["singlenode", this.mountpoint, "--dir", `${this.scratch}/cluster`, "--listen", this.nameserver],
        ...["--dataservers", String(this.#dataservers), "--replication", String(this.#replication)],
        ...(this.mode === "processes" ? ["--processes"] : []),
        ...LOG_FLAGS,
      ],
      {},
      this.cwd,
    );
  }

  async #startRoles(): Promise<void> {
    const dir = `${this.scratch}/nameserver`;
    const formatted = await mfs(["format", "--dir", dir]);
    if (formatted.code !== 0) throw new Error(formatted.stderr);
    await this.#startRole("nameserver", [
      ...["nameserver", "--dir", dir, "--listen", this.nameserver],
      ...["--replication", String(this.#replication)],
      ...(this.#options.nameserverFlags ?? []),
    ]);
    for (let i = 1; i <= this.#dataservers; i++) {
      await Deno.mkdir(`${this.scratch}/volume${i}`);
      await this.#options.prepareVolume?.(`${this.scratch}/volume${i}`);
      await this.#startRole(`dataserver${i}`, [
        ...["dataserver", "--nameserver", this.nameserver, "--volume", `${this.scratch}/volume${i}`],
        ...["--listen", `127.0.0.1:${freePort("127.0.0.1")}`, "--host", `node${i}`],
        ...(this.#options.dataserverFlags?.(i) ?? []),
      ]);
    }
    await Deno.mkdir(this.mountpoint);
    await this.#startRole("mount", [
      "mount",
      this.nameserver,
      this.mountpoint,
      "--foreground",
      "--host",
      "node1",
    ]);
  }

  async #startRole(name: string, args: readonly string[]): Promise<void> {
    const all = [...args, ...LOG_FLAGS];
    this.#roles.set(name, { process: await MfsProcess.start(all, {}, this.cwd), args: all });
  }

  /** The process ids of a role: "nameserver", "dataserver2", "mount"; empty in one process. */
  pidOf(role: string): number {
    if (this.mode === "roles") return this.#roles.get(role)!.process.pid;
    if (this.mode === "one process") return this.#main!.pid;
    const host = role.startsWith("dataserver") ? [`node${role.slice("dataserver".length)}`] : [];
    const command = role.startsWith("dataserver") ? "dataserver" : role;
    const found = childrenOf(this.#main!.pid, command, ...host);
    if (found.length !== 1) throw new Error(`${found.length} processes of ${role}`);
    return found[0]!;
  }

  /** All processes, for their memory. */
  pids(): number[] {
    if (this.mode === "roles") return [...this.#roles.values()].map(({ process }) => process.pid);
    return [this.#main!.pid, ...childrenOf(this.#main!.pid)];
  }

  get log(): string {
    if (this.mode !== "roles") return this.#main?.log ?? "";
    return [...this.#roles].map(([name, { process }]) => `--- ${name}\n${process.log.slice(-8000)}`).join(
      "\n",
    );
  }

  /** kill -9 of one role. In mode "processes" the supervisor starts it again by itself; else see `restart`. */
  async kill(role: string): Promise<void> {
    if (this.mode === "roles") {
      const { process } = this.#roles.get(role)!;
      process.kill();
      await process.ended(5_000);
      return;
    }
    const pid = this.pidOf(role);
    Deno.kill(pid, "SIGKILL");
    if (this.mode === "processes") {
      await eventually(20_000, `${role} started again`, () => {
        try {
          return this.pidOf(role) !== pid;
        } catch {
          return false;
        }
      });
    }
  }

  /** Starts a killed role again as it was. */
  async restart(role: string): Promise<void> {
    if (this.mode !== "roles") return;
    const { args } = this.#roles.get(role)!;
    this.#roles.set(role, { process: await MfsProcess.start(args, {}, this.cwd), args });
  }

  /** kill -9 of every process at once. */
  async killEverything(): Promise<void> {
    const pids = this.pids();
    for (const pid of pids) {
      try {
        Deno.kill(pid, "SIGKILL");
      } catch {
        // It ended with its parent.
      }
    }
    await eventually(10_000, "all processes gone", () => pids.every((pid) => !isRunning(pid)));
  }

  /** Starts all of it again over the same data; the dead mount is left for the program to clear. */
  async restartEverything(): Promise<void> {
    if (this.mode !== "roles") return await this.#startSinglenode();
    for (const role of this.#roles.keys()) await this.restart(role);
  }

  /** A clean stop, clients first; rejects when a process needs more than 5 s or leaves the mount. */
  async stop(): Promise<void> {
    if (this.mode === "roles") {
      for (const { process } of [...this.#roles.values()].reverse()) await process.stop();
    } else {
      await this.#main!.stop();
    }
  }

  /** Takes everything away, whatever state it is in. Never rejects. */
  async discard(): Promise<void> {
    await clearMounts(this.scratch);
    try {
      if (this.#main !== undefined) { for (const pid of this.pids()) killQuietly(pid); }
    } catch {
      // The main process is gone, and its children follow it.
    }
    this.#main?.kill();
    for (const { process } of this.#roles.values()) process.kill();
    await removeScratch(this.scratch);
  }
}

/** Runs `body` on a cluster of its own; when it fails, the ends of the processes' logs are shown. */
export async function withCluster(
  options: ClusterOptions,
  body: (cluster: Cluster) => Promise<void>,
): Promise<void> {
  const cluster = await Cluster.start(options);
  try {
    await body(cluster);
  } catch (error) {
    console.error(`--- end of the cluster's log\n${cluster.log.slice(-12_000)}\n---`);
    throw error;
  } finally {
    await cluster.discard();
  }
}

function killQuietly(pid: number): void {
  try {
    Deno.kill(pid, "SIGKILL");
  } catch {
    // Gone.
  }
}

/** False for a process that is gone or only waits for its parent to notice. */
export function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}
