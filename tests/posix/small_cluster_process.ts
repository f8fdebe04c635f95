/**
 * The test's side of small_cluster.ts: starts it under a scratch directory, keeps its log, stops it or takes it away.
 * The test never touches the mounts itself: it runs programs on them (harness/command.ts).
 */

import { killGroup, within } from "../harness/command.ts";
import { clearMounts, forgetProcess, makeScratch, removeScratch, trackProcess } from "../harness/scratch.ts";

/** How the roles reach each other: by direct calls inside their process, or over TCP. */
export type Mode = "local" | "tcp";

const PROGRAM = decodeURIComponent(new URL("./small_cluster.ts", import.meta.url).pathname);
const CONFIG = decodeURIComponent(new URL("../../deno.json", import.meta.url).pathname);
const START_MS_MAX = 40_000;
const STOP_MS_MAX = 10_000;
const LOG_CHARACTERS_MAX = 256 * 1024;

/** The arguments of a deno that runs one of the child programs here. */
export function childArguments(program: string): string[] {
  return ["run", "--quiet", "--no-prompt", "--no-check", "--allow-all", "--config", CONFIG, program];
}

/** What a mount has counted since it started. */
export interface MountCounters {
  /** Requests of the kernel. */
  readonly kernel: Readonly<Record<string, number>>;
  /** Calls to the nameserver. */
  readonly calls: Readonly<Record<string, number>>;
}

export class SmallCluster implements AsyncDisposable {
  /** Everything of the cluster lies under it, and there is room for the test's own things. */
  readonly scratch: string;
  readonly mountpoints: readonly [string, string];
  #log = "";
  readonly #child: Deno.ChildProcess;
  readonly #ended: Promise<Deno.CommandStatus>;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  /** Who waits for the next line of counters. */
  #onCounters: (line: string) => void = () => {};

  private constructor(mode: Mode, blockBytes: number, options: readonly string[]) {
    this.scratch = makeScratch();
    // Other users' programs must get to the mounts.
    Deno.chmodSync(this.scratch, 0o755);
    this.mountpoints = [`${this.scratch}/mount1`, `${this.scratch}/mount2`];
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [
        ...childArguments(PROGRAM),
        ...[mode, `${this.scratch}/cluster`, String(blockBytes)],
        ...this.mountpoints.map((mountpoint, i) => `${mountpoint}=${options[i] ?? ""}`),
      ],
      stdin: "piped", // it ends with us
      stdout: "piped",
      stderr: "piped",
      detached: true,
      cwd: "/",
      env: { NO_COLOR: "1" },
    }).spawn();
    trackProcess(this.#child.pid);
    this.#input = this.#child.stdin.getWriter();
    this.#ended = this.#child.status;
    void this.#ended.then(() => {
      forgetProcess(this.#child.pid);
      this.#input.abort().catch(() => {}); // its reader is gone
    });
  }

  /** Three dataservers, two replicas, two mounts with `options` (-o). Rejects with the log when it does not come up. */
  static async start(
    mode: Mode,
    blockBytes: number,
    options: readonly string[] = [],
  ): Promise<SmallCluster> {
    const cluster = new SmallCluster(mode, blockBytes, options);
    const ready = Promise.withResolvers<boolean>();
    let banner = "";
    void collect(
      cluster.#child.stderr,
      (text) => cluster.#log = (cluster.#log + text).slice(-LOG_CHARACTERS_MAX),
    );
    void collect(cluster.#child.stdout, (text) => {
      banner += text;
      if (/^ready$/m.test(banner)) ready.resolve(true);
      const line = /^\[.*\]$/m.exec(text)?.[0];
      if (line !== undefined) cluster.#onCounters(line);
    }).finally(() => ready.resolve(false));
    try {
      if (await within(START_MS_MAX, `small cluster, ${mode}: ready`, ready.promise)) return cluster;
      throw new Error(`the small cluster, ${mode}, ended before it was ready`);
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw new Error(`${(error as Error).message}\n${cluster.log}`);
    }
  }

  /** What each mount has counted so far. */
  async counters(): Promise<MountCounters[]> {
    const line = new Promise<string>((resolve) => this.#onCounters = resolve);
    await this.#input.write(new Uint8Array([0x0a]));
    return JSON.parse(await within(STOP_MS_MAX, "counters of the small cluster", line));
  }

  /** HOST:PORT of the nameserver, for programs. */
  get nameserver(): string {
    return /nameserver: serving address=(\S+)/.exec(this.#log)![1]!;
  }

  /** What it has logged so far (the end of it). */
  get log(): string {
    return this.#log;
  }

  /** A clean stop; rejects unless it ends in time and with code 0. */
  async stop(): Promise<void> {
    this.#child.kill("SIGTERM");
    const { code } = await within(STOP_MS_MAX, "end of the small cluster", this.#ended);
    if (code !== 0) throw new Error(`the small cluster stopped with code ${code}\n${this.log.slice(-8000)}`);
  }

  /** Takes everything away, whatever state it is in. */
  async [Symbol.asyncDispose](): Promise<void> {
    await clearMounts(this.scratch);
    killGroup(this.#child.pid);
    await within(STOP_MS_MAX, "end of the small cluster", this.#ended).catch(() => {}); // nothing is left to try
    await removeScratch(this.scratch);
  }
}

async function collect(stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> {
  try {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) take(text);
  } catch {
    // The pipe broke with the process.
  }
}
