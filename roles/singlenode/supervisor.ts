/**
 * Child processes of `singlenode --processes`: starts this program once a role, waits for its `ready`, starts a
 * child that died again with the same arguments (so on the same port), and stops them in order.
 *
 * Invariant: no child outlives this process: each has our end of a pipe as its stdin and stops when it closes,
 * which the kernel does also after a kill -9.
 */

import type { Logger } from "../../base/log.ts";
import { FsError } from "../../wire/errno.ts";
import { withinMs } from "../admin/process.ts";
import { lines, selfCommand } from "../admin/self.ts";

const START_MS_MAX = 30_000;
const BACKOFF_MS_MIN = 200;
const BACKOFF_MS_MAX = 5_000;
/** A child that ran this long is well: the next restart is quick again. */
const WELL_AFTER_MS = 30_000;

export interface ChildOptions {
  /** For messages: "nameserver", "dataserver 2", "mount". */
  readonly name: string;
  /** The command line of this program. */
  readonly args: readonly string[];
  /** A child that ends with code 0 is done, not dead; see `Child.done`. */
  readonly mayEnd?: boolean;
}

export class Child {
  /** Resolves when a child that `mayEnd` did so by itself. */
  readonly done: Promise<void>;
  readonly #options: ChildOptions;
  readonly #log: Logger;
  #process: Deno.ChildProcess | undefined;
  #stopping = false;
  #wakeBackoff: (() => void) | undefined;
  #running: Promise<void> = Promise.resolve();
  #resolveDone!: () => void;

  constructor(options: ChildOptions, log: Logger) {
    this.#options = options;
    this.#log = log;
    this.done = new Promise((resolve) => this.#resolveDone = resolve);
  }

  /** Starts the child and resolves at its `ready`; afterwards it is kept running until `stop`. */
  async start(): Promise<void> {
    const ended = await this.#spawn();
    this.#running = this.#keepRunning(ended);
  }

  /** SIGTERM, and SIGKILL when that has not ended it after `graceMs`. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    this.#wakeBackoff?.();
    this.#kill("SIGTERM");
    await withinMs(graceMs, this.#running).catch(() => {
      this.#log.warn("child did not stop in time", { child: this.#options.name, graceMs });
      this.#kill("SIGKILL");
    });
    await this.#running;
  }

  #kill(signal: Deno.Signal): void {
    try {
      this.#process?.kill(signal);
    } catch {
      // It has ended already.
    }
  }

  /** Resolves at `ready` with a promise of the child's end; rejects with the child's own error line. */
  async #spawn(): Promise<{ readonly ended: Promise<Deno.CommandStatus> }> {
    const { program, env } = selfCommand();
    const process = new Deno.Command(program, {
      args: [...this.#options.args],
      env: { ...env, MFS_EXIT_ON_STDIN_EOF: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#process = process;
    const errors = this.#forward(process.stderr);
    const ready = Promise.withResolvers<boolean>();
    const output = this.#readUntilEnd(process.stdout, () => ready.resolve(true));
    const ended = Promise.all([process.status, output, errors]).then(([status]) => {
      ready.resolve(false);
      return status;
    });
    const isReady = await withinMs(START_MS_MAX, ready.promise).catch(() => false);
    if (isReady) return { ended };
    this.#kill("SIGKILL");
    const status = await ended;
    const why = await errors;
    throw new FsError("EIO", `${this.#options.name}: ${why ?? `ended with code ${status.code}`}`, {
      op: "singlenode",
    });
  }

  async #keepRunning({ ended }: { readonly ended: Promise<Deno.CommandStatus> }): Promise<void> {
    let backoffMs = BACKOFF_MS_MIN;
    let startedMs = performance.now();
    for (;;) {
      const status = await ended;
      if (this.#stopping) return;
      if (this.#options.mayEnd === true && status.code === 0) {
        this.#resolveDone();
        return;
      }
      const how = status.signal ?? `code ${status.code}`;
      this.#log.warn("child died", { child: this.#options.name, how });
      if (performance.now() - startedMs > WELL_AFTER_MS) backoffMs = BACKOFF_MS_MIN;
      for (;;) {
        await this.#backoff(backoffMs);
        if (this.#stopping) return;
        backoffMs = Math.min(BACKOFF_MS_MAX, backoffMs * 2);
        startedMs = performance.now();
        try {
          ({ ended } = await this.#spawn());
          break;
        } catch (error) {
          if (this.#stopping) return;
          this.#log.error("child does not start", { child: this.#options.name, error });
        }
      }
      this.#log.info("child started again", { child: this.#options.name });
      if (this.#stopping) this.#kill("SIGTERM");
    }
  }

  #backoff(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wakeBackoff = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Passes the child's log on; resolves at its end with the reason that it gave for ending, if any. */
  async #forward(stream: ReadableStream<Uint8Array>): Promise<string | undefined> {
    const encoder = new TextEncoder();
    let reason: string | undefined;
    for await (const line of lines(stream)) {
      const error = /^mfs: [^:]*: (.*)$/.exec(line);
      if (error === null) Deno.stderr.writeSync(encoder.encode(line + "\n"));
      else reason = error[1];
    }
    return reason;
  }

  async #readUntilEnd(stream: ReadableStream<Uint8Array>, onReady: () => void): Promise<void> {
    for await (const line of lines(stream)) {
      if (line === "ready") onReady();
    }
  }
}

/** A port of `hostname` that is free now, below the range from which the kernel picks ports by itself. */
export function freePort(hostname: string): number {
  for (let attempt = 0; attempt < 200; attempt++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    try {
      Deno.listen({ hostname, port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
  throw new FsError("EADDRINUSE", `no free port on ${hostname}`, { op: "singlenode" });
}
