/**
 * Runs workloads on one directory by a process of their own (worker.ts), and never waits longer than a workload may
 * take: a worker that does not answer is killed and replaced. Owns a directory within the one that is measured, which
 * goes with `close`.
 */

import { lines, selfCommand } from "../self.ts";
import { runProgram } from "./programs.ts";
import type { WorkerAnswer, WorkerSettings } from "./worker.ts";

/** What preparing, checking and syncing may take on top of the measured time: so many times that, and so long. */
const PREPARE_LIMITS = 2;
const PREPARE_MS_MIN = 200_000;
const REMOVE_MS_MAX = 120_000;

interface Running {
  readonly child: Deno.ChildProcess;
  readonly stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly answers: AsyncGenerator<string>;
  readonly stderr: Promise<string>;
}

export class BenchRunner {
  readonly #settings: WorkerSettings;
  readonly #signal: AbortSignal | undefined;
  #running: Running | undefined;

  private constructor(settings: WorkerSettings, signal: AbortSignal | undefined) {
    this.#settings = settings;
    this.#signal = signal;
  }

  /** Makes the directory `settings.dir`. Once `signal` is aborted, `run` rejects with its reason. */
  static async start(settings: WorkerSettings, signal?: AbortSignal): Promise<BenchRunner> {
    await runProgram("mkdir", ["--", settings.dir], { limitMs: REMOVE_MS_MAX });
    return new BenchRunner(settings, signal);
  }

  /** Runs one workload. Rejects only when it is interrupted: what goes wrong otherwise is an answer as well. */
  async run(workload: string): Promise<WorkerAnswer> {
    this.#signal?.throwIfAborted();
    const running = this.#running ??= this.#spawn();
    const limitMs = PREPARE_MS_MIN + (1 + PREPARE_LIMITS) * this.#settings.limitMs;
    const late = Promise.withResolvers<null>();
    const timer = setTimeout(() => late.resolve(null), limitMs);
    const onAbort = () => late.resolve(null);
    this.#signal?.addEventListener("abort", onAbort);
    try {
      const asked = running.stdin.write(new TextEncoder().encode(JSON.stringify({ workload }) + "\n"));
      asked.catch(() => {}); // It has ended, which its answer tells.
      const line = await Promise.race([running.answers.next(), late.promise]);
      if (line !== null && line.done !== true) return JSON.parse(line.value) as WorkerAnswer;
      this.#kill();
      this.#signal?.throwIfAborted();
      if (line === null) return { error: `no answer within ${Math.round(limitMs / 1000)} s` };
      return { error: `its process ended: ${(await running.stderr).trim().slice(-300)}` };
    } finally {
      clearTimeout(timer);
      this.#signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Ends the worker, and leaves the directory to somebody who removes more than that. */
  abandon(): void {
    this.#kill();
  }

  /** Ends the worker and removes the directory; what can't be removed in time is told by rejecting. */
  async close(): Promise<void> {
    this.#kill();
    await runProgram("rm", ["-rf", "--", this.#settings.dir], { limitMs: REMOVE_MS_MAX });
  }

  #spawn(): Running {
    const { program, env } = selfCommand();
    const child = new Deno.Command(program, {
      args: ["bench-worker", JSON.stringify(this.#settings)],
      env: { ...env },
      // Nothing it leaves behind holds a mount.
      cwd: "/",
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      // Ctrl-C is for us; it and the programs it runs are killed together.
      detached: true,
    }).spawn();
    return {
      child,
      stdin: child.stdin.getWriter(),
      answers: lines(child.stdout),
      stderr: new Response(child.stderr).text().catch(() => ""),
    };
  }

  #kill(): void {
    const running = this.#running;
    this.#running = undefined;
    if (running === undefined) return;
    try {
      Deno.kill(-running.child.pid, "SIGKILL");
    } catch {
      // It has ended.
    }
    // One that hangs in a system call stays until that ends: nobody waits for it.
    running.child.unref();
    running.stdin.abort().catch(() => {});
  }
}
