/**
 * Running programs under a time limit. A program that hangs in a system call on a mount cannot be killed, so no
 * one here waits for a child longer than its limit: it is killed with its process group and left behind.
 */

export interface RunOptions {
  readonly timeoutMs?: number;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const TIMEOUT_MS_DEFAULT = 60_000;

/** Rejects with what was too late after `ms`. */
export function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${what}: not done within ${ms} ms`)), ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Asks until `check` is true; rejects after `ms`. */
export async function eventually(
  ms: number,
  what: string,
  check: () => boolean | Promise<boolean>,
): Promise<void> {
  const endMs = performance.now() + ms;
  while (!await within(ms, what, Promise.resolve(check()))) {
    if (performance.now() > endMs) throw new Error(`${what}: not so within ${ms} ms`);
    await sleep(50);
  }
}

/** Kills a process and all that it started, if it leads a process group; a process that is gone is no error. */
export function killGroup(pid: number, signal: Deno.Signal = "SIGKILL"): void {
  for (const target of [-pid, pid]) {
    try {
      Deno.kill(target, signal);
    } catch {
      // Not a group, or gone.
    }
  }
}

/** Runs a program to its end, whatever its exit code. Rejects when it takes longer than the limit. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
  const child = new Deno.Command(program, {
    args: [...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    detached: true,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { LC_ALL: "C", ...options.env },
  }).spawn();
  try {
    const result = await within(timeoutMs, [program, ...args].join(" ").slice(0, 300), child.output());
    const decoder = new TextDecoder();
    return {
      code: result.code,
      stdout: decoder.decode(result.stdout),
      stderr: decoder.decode(result.stderr),
    };
  } catch (error) {
    killGroup(child.pid);
    throw error;
  }
}

/** Runs a bash script (-eu -o pipefail) to its end and answers its stdout; rejects unless it exits with 0. */
export async function sh(script: string, options: RunOptions = {}): Promise<string> {
  const result = await run("bash", ["-eu", "-o", "pipefail", "-c", script], options);
  if (result.code !== 0) {
    const said = `${result.stdout.slice(-2000)}\n${result.stderr.slice(-2000)}`.trim();
    throw new Error(`exit code ${result.code} of: ${script.trim()}\n${said}`);
  }
  return result.stdout.trimEnd();
}

/** True when `name` is a program on PATH. */
export function hasProgram(name: string): boolean {
  return (Deno.env.get("PATH") ?? "").split(":").some((dir) => {
    try {
      return Deno.statSync(`${dir}/${name}`).isFile;
    } catch {
      return false;
    }
  });
}
