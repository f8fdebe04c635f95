/** The test's side of lock_actor.py: a process that takes locks, on a mount or elsewhere, as the test says. */

import { killGroup, sleep, within } from "../harness/command.ts";
import { forgetProcess, trackProcess } from "../harness/scratch.ts";

const PROGRAM = decodeURIComponent(new URL("./lock_actor.py", import.meta.url).pathname);
const ANSWER_MS_MAX = 40_000;

/** A command that has not been answered yet. */
export interface Pending {
  readonly answer: Promise<string>;
  isAnswered: boolean;
}

export class LockActor implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: string[] = [];
  readonly #waiting: ((line: string) => void)[] = [];
  pid = 0;

  private constructor() {
    this.#child = new Deno.Command("python3", {
      args: [PROGRAM],
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
      detached: true,
      cwd: "/",
    }).spawn();
    trackProcess(this.#child.pid);
    this.#input = this.#child.stdin.getWriter();
    void this.#collect();
  }

  static async start(): Promise<LockActor> {
    const actor = new LockActor();
    actor.pid = Number(await within(ANSWER_MS_MAX, "a process of the test", actor.#next()));
    return actor;
  }

  async #collect(): Promise<void> {
    let text = "";
    try {
      for await (const part of this.#child.stdout.pipeThrough(new TextDecoderStream())) {
        const lines = (text + part).split("\n");
        text = lines.pop()!;
        for (const line of lines) {
          const take = this.#waiting.shift();
          if (take === undefined) this.#lines.push(line);
          else take(line);
        }
      }
    } catch {
      // The pipe broke with the process.
    }
    for (const take of this.#waiting.splice(0)) take("ended");
  }

  #next(): Promise<string> {
    const line = this.#lines.shift();
    return line === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(line);
  }

  /** Gives a command; what comes of it may take long. */
  begin(command: string): Pending {
    const pending: Pending = {
      answer: within(ANSWER_MS_MAX, command, this.#next()).then((line) => {
        pending.isAnswered = true;
        return line;
      }),
      isAnswered: false,
    };
    void this.#input.write(new TextEncoder().encode(`${command}\n`)).catch(() => {});
    return pending;
  }

  /** Gives a command and waits for what comes of it. */
  do(command: string): Promise<string> {
    return this.begin(command).answer;
  }

  /** Gives a command that must be found waiting after a moment. */
  async beginToWait(command: string, ms = 400): Promise<Pending> {
    const pending = this.begin(command);
    await sleep(ms);
    if (pending.isAnswered) throw new Error(`${command} did not wait: ${await pending.answer}`);
    return pending;
  }

  signal(signal: Deno.Signal): void {
    Deno.kill(this.pid, signal);
  }

  /** Kills it and waits for its end; on a mount that does not answer, no longer than a moment. */
  async [Symbol.asyncDispose](): Promise<void> {
    killGroup(this.#child.pid);
    await within(5_000, "end of a process of the test", this.#child.status).catch(() => {});
    forgetProcess(this.#child.pid);
    await this.#input.abort().catch(() => {});
  }
}
