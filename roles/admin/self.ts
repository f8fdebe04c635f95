/**
 * Starting this program again as another process: a child of a supervisor, which lives no longer than it, or a
 * process in the background, which outlives the command that started it.
 */

import { messageOf, OWN_SESSION } from "./process.ts";

export interface SelfCommand {
  readonly program: string;
  readonly env: Readonly<Record<string, string>>;
}

/** As it was when this process started: once it has been replaced by another, the system has no path of it. */
const EXECUTABLE = Deno.build.standalone ? Deno.execPath() : Deno.env.get("MFS_EXECUTABLE");

/** The helper of mount(8) as which the executable may be called; scripts/mfs and the like pass this name on. */
export const MOUNT_HELPER = "mount.mfs";

/** What this program was called with. Called as mount.mfs, that comes first. */
export function programArguments(): readonly string[] {
  if (!Deno.build.standalone) return Deno.args;
  const called = Deno.readTextFileSync("/proc/self/cmdline").split("\0", 1)[0]!;
  return called.replace(/.*\//, "").startsWith("mount.") ? [MOUNT_HELPER, ...Deno.args] : Deno.args;
}

/** How this program is run: the executable that this is, or from source the script beside main.ts. */
export function selfCommand(): SelfCommand {
  if (EXECUTABLE !== undefined) return { program: EXECUTABLE, env: {} };
  const script = decodeURIComponent(new URL("../../scripts/mfs", import.meta.url).pathname);
  return { program: script, env: { DENO: Deno.execPath() } };
}

/** What became of a process that was to say `ready`. */
export type Started =
  | { readonly ready: true; readonly pid: number }
  | { readonly ready: false; readonly code: number; readonly message: string };

/**
 * Runs this program and waits until it says `ready`, when it is in a session of its own, or ends. Afterwards nothing ties
 * it to this process. Until then it is in our process group: what an automounter starts is known by that to be let
 * through to the mount point, where everybody else waits for the mount.
 */
export async function startInBackground(args: readonly string[]): Promise<Started> {
  const { program, env } = selfCommand();
  const child = new Deno.Command(program, {
    args: [...args],
    // A service manager waits for the process that it has started, not for this one.
    env: { ...env, NOTIFY_SOCKET: "", WATCHDOG_USEC: "", [OWN_SESSION]: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    // It must not hold the directory that it happened to be started in.
    cwd: "/",
  }).spawn();
  child.unref();
  const stderr = collect(child.stderr);
  for await (const line of lines(child.stdout)) {
    if (line === "ready") return { ready: true, pid: child.pid };
  }
  const { code } = await child.status;
  const said = (await stderr).trim().split("\n");
  const message = said.findLast((line) => line.startsWith("mfs: ")) ?? said.at(-1) ?? "";
  return { ready: false, code: code === 0 ? 1 : code, message };
}

export function absolutePath(path: string): string {
  return path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
}

/** Where this user's programs keep logs: made when missing. Throws when it cannot be. */
export function stateDirectory(): string {
  const home = Deno.env.get("HOME") ?? "/tmp";
  const dir = Deno.uid() === 0 ? "/var/log" : Deno.env.get("XDG_STATE_HOME") ?? `${home}/.local/state`;
  Deno.mkdirSync(dir, { recursive: true });
  return dir;
}

async function collect(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  try {
    for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
      text = (text + chunk).slice(-64 * 1024);
    }
  } catch (error) {
    text += messageOf(error);
  }
  return text;
}

/** The lines of a byte stream, without their ends; a line over 64 KiB is cut. */
export async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    rest += chunk;
    const whole = rest.split("\n");
    rest = whole.pop()!.slice(-64 * 1024);
    yield* whole;
  }
  if (rest !== "") yield rest;
}
