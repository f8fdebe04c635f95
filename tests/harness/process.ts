/** A long-running `mfs` process of a test: started until its `ready`, its log kept, killed or stopped. */

import { killGroup, within } from "./command.ts";
import { forgetProcess, trackProcess } from "./scratch.ts";

const ROOT = decodeURIComponent(new URL("../..", import.meta.url).pathname);
/** The program under test. */
export const MFS = `${ROOT}scripts/mfs`;
const START_MS_MAX = 40_000;
const LOG_BYTES_MAX = 256 * 1024;

export class MfsProcess {
  readonly pid: number;
  /** What it printed before `ready`. */
  banner = "";
  #log = "";
  /** Kept open: a role stops when its stdin ends, so that none outlives a test run that was killed. */
  readonly #stdin: WritableStream<Uint8Array>;
  readonly #ended: Promise<Deno.CommandStatus>;
  #hasEnded = false;

  private constructor(child: Deno.ChildProcess) {
    this.#stdin = child.stdin;
    this.pid = child.pid;
    trackProcess(child.pid);
    this.#ended = child.status;
    void this.#ended.then(() => {
      this.#hasEnded = true;
      forgetProcess(child.pid);
      this.#stdin.abort().catch(() => {}); // its reader is gone
    });
  }

  /**
   * Starts `mfs ARGS...` in `cwd`; rejects with its log when it ends before `ready`. `command`: another program in its
   * place, or what runs it and becomes it.
   */
  static async start(
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
    cwd = "/",
    command: readonly [string, ...string[]] = [MFS],
  ): Promise<MfsProcess> {
    const [program, ...before] = command;
    const child = new Deno.Command(program, {
      args: [...before, ...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      detached: true,
      cwd,
      env: { DENO: Deno.execPath(), NO_COLOR: "1", MFS_EXIT_ON_STDIN_EOF: "1", ...env },
    }).spawn();
    const started = new MfsProcess(child);
    void started.#collect(child.stderr, (text) => started.#log = (started.#log + text).slice(-LOG_BYTES_MAX));
    const ready = Promise.withResolvers<boolean>();
    void started.#collect(child.stdout, (text) => {
      started.banner += text;
      if (/^ready$/m.test(started.banner)) ready.resolve(true);
    }).finally(() => ready.resolve(false));
    const what = `mfs ${args.join(" ")}`;
    const isReady = await within(START_MS_MAX, `${what}: ready`, ready.promise).catch((error) => {
      started.kill();
      throw new Error(`${error.message}\n${started.log}`);
    });
    if (isReady) return started;
    const { code } = await started.ended(5_000);
    throw new Error(`${what}: exit code ${code}\n${started.log}`);
  }

  /** What it has logged so far (the end of it). */
  get log(): string {
    return this.#log;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  ended(timeoutMs: number): Promise<Deno.CommandStatus> {
    return within(timeoutMs, `end of process ${this.pid}`, this.#ended);
  }

  signal(signal: Deno.Signal): void {
    try {
      Deno.kill(this.pid, signal);
    } catch {
      // It has ended.
    }
  }

  /** SIGTERM; rejects unless it has ended within 5 s with code 0. Answers how long it took. */
  async stop(): Promise<number> {
    const startMs = performance.now();
    this.signal("SIGTERM");
    const status = await this.ended(5_500).catch((error) => {
      this.kill();
      throw new Error(`${error.message}\n${this.#log}`);
    });
    if (status.code !== 0) throw new Error(`stopped with code ${status.code}\n${this.#log}`);
    return performance.now() - startMs;
  }

  /** SIGKILL to it and its process group. */
  kill(): void {
    killGroup(this.pid);
  }

  /** SIGKILL to this process alone, not to its children. */
  killAlone(): void {
    this.signal("SIGKILL");
  }

  async #collect(stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> {
    try {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) take(text);
    } catch {
      // The pipe broke with the process.
    }
  }
}

/** Resident memory of a process in MiB. */
export function residentMib(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(Deno.readTextFileSync(`/proc/${pid}/status`));
  return Number(match?.[1] ?? 0) / 1024;
}

/** What each thread of a process is at: its name, its state and where in the kernel it waits. */
export function threadsOf(pid: number): string {
  const read = (path: string): string => {
    try {
      return Deno.readTextFileSync(`/proc/${pid}/${path}`);
    } catch {
      return "?"; // it has ended, or is nobody's to look at
    }
  };
  try {
    return [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name: tid }) => {
      const status = read(`task/${tid}/status`);
      const [, name] = /^Name:\s+(.*)/m.exec(status) ?? [];
      const [, state] = /^State:\s+(\S)/m.exec(status) ?? [];
      return `${name} ${state} ${read(`task/${tid}/wchan`)}`;
    }).join(", ");
  } catch {
    return "none";
  }
}

/** The processes that `pid` started, and whose command line has each of `words`. */
export function childrenOf(pid: number, ...words: string[]): number[] {
  const children = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim();
  // Children may hang below any thread of their parent.
  const all = new Set(children === "" ? [] : children.split(" ").map(Number));
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    try {
      for (const child of Deno.readTextFileSync(`/proc/${pid}/task/${name}/children`).trim().split(" ")) {
        if (child !== "") all.add(Number(child));
      }
    } catch {
      // The thread has ended.
    }
  }
  return [...all].filter((child) => {
    try {
      const parts = Deno.readTextFileSync(`/proc/${child}/cmdline`).split("\0");
      return words.every((word) => parts.includes(word));
    } catch {
      return false;
    }
  });
}
