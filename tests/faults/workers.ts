/** Runs worker.c on a cluster's mounts and collects what the workers tell. */

import { killGroup, sh, within } from "../harness/command.ts";
import { forgetProcess, trackProcess } from "../harness/scratch.ts";

const HERE = decodeURIComponent(new URL(".", import.meta.url).pathname);

/** What a worker prints; worker.c says when. Times are those of the day, in ms. */
export interface WorkerError {
  readonly error: string;
  readonly errno: string;
  readonly mount: number;
  readonly fromMs: number;
  readonly toMs: number;
}

export interface WorkerPause {
  readonly pause: string;
  readonly ms: number;
  readonly mount: number;
  readonly fromMs: number;
}

export interface WorkerCounts {
  readonly open: number;
  readonly read: number;
  readonly write: number;
  readonly fsync: number;
  readonly close: number;
  readonly meta: number;
  readonly errors: number;
}

const NO_COUNTS: WorkerCounts = { open: 0, read: 0, write: 0, fsync: 0, close: 0, meta: 0, errors: 0 };
const WRONGS_MAX = 200;

export async function buildWorker(dir: string): Promise<string> {
  await sh(
    `gcc -std=gnu11 -O2 -Wall -Wextra -Werror -pthread -o ${dir}/worker ${HERE}worker.c ${HERE}model.c`,
  );
  return `${dir}/worker`;
}

export class Workers {
  readonly errors: WorkerError[] = [];
  readonly pauses: WorkerPause[] = [];
  /** What must not be, as it was told. */
  readonly wrongs: string[] = [];
  readonly #workers: Worker[];

  private constructor(count: number, start: (number: number, tell: (line: string) => void) => Worker) {
    this.#workers = Array.from({ length: count }, (_, i) => start(i + 1, (line) => this.#hear(i + 1, line)));
  }

  static start(program: string, count: number, seed: number, mountpoints: readonly string[]): Workers {
    return new Workers(
      count,
      (number, tell) => new Worker(program, [String(number), String(seed), ...mountpoints], tell),
    );
  }

  #hear(worker: number, line: string): void {
    let told: Record<string, unknown>;
    try {
      told = JSON.parse(line);
    } catch {
      this.wrongs.push(`worker ${worker}: ${line}`);
      return;
    }
    if ("error" in told) this.errors.push(told as unknown as WorkerError);
    else if ("pause" in told) this.pauses.push(told as unknown as WorkerPause);
    else if (("wrong" in told || "again" in told) && this.wrongs.length < WRONGS_MAX) {
      this.wrongs.push(`worker ${worker}: ${line}`);
    }
  }

  /** Each finishes what it is at; rejects with where they are when that takes longer than the limit. */
  async stop(limitMs: number): Promise<WorkerCounts> {
    const all = await this.#ask("stop", "stopped", limitMs) as WorkerCounts[];
    const sum = { ...NO_COUNTS };
    for (const counts of all) {
      for (const key of Object.keys(sum) as (keyof WorkerCounts)[]) sum[key] += counts[key];
    }
    return sum;
  }

  /** Reads everything through another mount; answers how many files there are. What is wrong goes to `wrongs`. */
  async verify(mountpoint: string, limitMs: number): Promise<number> {
    const all = await this.#ask(`verify ${mountpoint}`, "verified", limitMs) as number[];
    return all.reduce((sum, count) => sum + count, 0);
  }

  async #ask(command: string, answer: string, limitMs: number): Promise<unknown[]> {
    try {
      return await within(
        limitMs,
        `workers: ${command}`,
        Promise.all(this.#workers.map((worker) => worker.ask(command, answer))),
      );
    } catch (error) {
      const where = await Promise.all(this.#workers.map((worker) => worker.where()));
      throw new Error(`${(error as Error).message}; they are at ${JSON.stringify(where)}`);
    }
  }

  /** Ends them, whatever they are at: one that hangs on a mount ends with that. */
  kill(): void {
    for (const worker of this.#workers) worker.kill();
  }
}

class Worker {
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #awaited = new Map<string, (value: unknown) => void>();
  readonly #ended: Promise<string>;
  #at: unknown[] = [];

  constructor(program: string, args: readonly string[], tell: (line: string) => void) {
    this.#child = new Deno.Command(program, {
      args: [...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      detached: true,
    }).spawn();
    trackProcess(this.#child.pid);
    this.#stdin = this.#child.stdin.getWriter();
    void this.#lines(this.#child.stdout, (line) => {
      const match = /^\{"(\w+)":/.exec(line);
      const awaited = this.#awaited.get(match?.[1] ?? "");
      if (match?.[1] === "at") this.#at.push(JSON.parse(line));
      else if (awaited === undefined) tell(line);
      else awaited((JSON.parse(line) as Record<string, unknown>)[match![1]!]);
    });
    void this.#lines(this.#child.stderr, tell);
    this.#ended = this.#child.status.then(({ code, signal }) => {
      forgetProcess(this.#child.pid);
      this.#stdin.abort().catch(() => {});
      return `ended with ${signal ?? `code ${code}`}`;
    });
  }

  async ask(command: string, answer: string): Promise<unknown> {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    this.#awaited.set(answer, resolve);
    await this.#stdin.write(new TextEncoder().encode(`${command}\n`));
    const ended = this.#ended.then((how) => Promise.reject(new Error(`a worker ${how}`)));
    return await Promise.race([promise, ended]);
  }

  /** What its threads are doing now, as far as it says so within a moment. */
  async where(): Promise<unknown[]> {
    this.#at = [];
    await this.#stdin.write(new TextEncoder().encode("where\n")).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 500));
    return this.#at;
  }

  kill(): void {
    killGroup(this.#child.pid);
  }

  async #lines(stream: ReadableStream<Uint8Array>, take: (line: string) => void): Promise<void> {
    let rest = "";
    try {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) {
        const lines = (rest + text).split("\n");
        rest = lines.pop()!;
        for (const line of lines) take(line);
      }
    } catch {
      // The pipe broke with the process.
    }
  }
}
