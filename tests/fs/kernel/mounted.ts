/**
 * A MemoryFs mounted by a child process, for tests. The test process never touches the mount itself: it runs
 * commands with a time limit. Disposing aborts the connection, unmounts and ends the child, whatever happened.
 */

import assert from "node:assert/strict";
import { abortConnection, unmountFuse } from "../../../fs/kernel/mount.ts";
import type { ServerOptions } from "./memory_server.ts";

const SERVER = new URL("./memory_server.ts", import.meta.url).pathname;

/** True when this machine lets us mount; otherwise says why the test is skipped. */
export async function canMount(): Promise<boolean> {
  try {
    (await Deno.open("/dev/fuse", { read: true, write: true })).close();
  } catch {
    console.log("skipped: /dev/fuse cannot be opened");
    return false;
  }
  if (Deno.uid() === 0) return true;
  console.log("skipped: not root");
  return false;
}

export interface CommandResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly ms: number;
}

/** Runs a bash script that may touch a mount; killed after `seconds`. `$M` is its first argument. */
export async function bash(script: string, argument = "", seconds = 10): Promise<CommandResult> {
  const startMs = performance.now();
  const output = await new Deno.Command("timeout", {
    args: ["-s", "KILL", String(seconds), "bash", "-c", `M="$1"; ${script}`, "bash", argument],
    cwd: "/",
    stdin: "null",
  }).output();
  return {
    code: output.code,
    out: new TextDecoder().decode(output.stdout),
    err: new TextDecoder().decode(output.stderr),
    ms: performance.now() - startMs,
  };
}

export class MountedMemory implements AsyncDisposable {
  readonly mountpoint: string;
  deviceMinor = -1;
  deviceNumber = "";
  readonly child: Deno.ChildProcess;
  readonly #lines: string[] = [];
  #arrived: () => void = () => {};
  readonly #reading: Promise<void>;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;

  static async start(
    options: Omit<ServerOptions, "mountpoint"> = {},
    env: Record<string, string> = {},
  ): Promise<MountedMemory> {
    const mounted = new MountedMemory(await Deno.makeTempDir({ prefix: "mfs-kernel-" }), options, env);
    try {
      const ready = await mounted.line() as { deviceMinor: number; deviceNumber: string };
      mounted.deviceMinor = ready.deviceMinor;
      mounted.deviceNumber = ready.deviceNumber;
      return mounted;
    } catch (error) {
      await mounted[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(
    mountpoint: string,
    options: Omit<ServerOptions, "mountpoint">,
    env: Record<string, string>,
  ) {
    this.mountpoint = mountpoint;
    this.child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", SERVER, JSON.stringify({ ...options, mountpoint })],
      cwd: "/",
      env,
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    this.#stdin = this.child.stdin.getWriter();
    this.#reading = this.#read();
  }

  async #read(): Promise<void> {
    let text = "";
    for await (const chunk of this.child.stdout.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
        this.#lines.push(text.slice(0, end));
        text = text.slice(end + 1);
      }
      this.#arrived();
    }
    this.#arrived();
  }

  /** The next line that the server prints, within 20 seconds. */
  async line(): Promise<unknown> {
    const deadline = performance.now() + 20_000;
    while (this.#lines.length === 0) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw new Error("the server does not answer");
      let timer: number | undefined;
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
        timer = setTimeout(resolve, Math.min(leftMs, 100));
      });
      clearTimeout(timer);
    }
    return JSON.parse(this.#lines.shift()!);
  }

  /** Sends a command to the server without waiting for its answer. */
  async tell(...command: unknown[]): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(JSON.stringify(command) + "\n"));
  }

  async command(...command: unknown[]): Promise<unknown> {
    await this.tell(...command);
    return await this.line();
  }

  async bash(script: string, seconds = 10): Promise<CommandResult> {
    return await bash(script, this.mountpoint, seconds);
  }

  /** Runs a script that must succeed; what it printed. */
  async ok(script: string, seconds = 10): Promise<string> {
    const result = await this.bash(`set -euo pipefail; cd "$M"; ${script}`, seconds);
    assert.equal(result.code, 0, `${script}\n${result.out}${result.err}`);
    return result.out.trimEnd();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.deviceMinor > 0) await abortConnection(this.deviceMinor);
    await unmountFuse(this.mountpoint, { lazy: true });
    try {
      this.child.kill("SIGKILL");
    } catch {
      // it has ended already
    }
    await this.child.status;
    await this.#reading;
    await this.#stdin.close().catch(() => {});
    await Deno.remove(this.mountpoint);
  }
}
