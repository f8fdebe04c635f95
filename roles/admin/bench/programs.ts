/** Running other programs for a workload, each within a time limit. */

/** Longer takes none of them, whatever the limit of a workload is. */
const LIMIT_MS = 300_000;

export interface ProgramOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly limitMs?: number;
  /** Exit codes that are no failure; 0 unless given. */
  readonly codes?: readonly number[];
}

/** A program was killed because its time was over. */
export class LateError extends Error {
  override readonly name = "LateError";
}

/** Runs a program to its end and answers its stdout. Rejects with what it said, or with LateError. */
export async function runProgram(
  program: string,
  args: readonly string[],
  { cwd, env = {}, limitMs = LIMIT_MS, codes = [0] }: ProgramOptions = {},
): Promise<string> {
  const child = new Deno.Command(program, {
    args: [...args],
    ...cwd === undefined ? {} : { cwd },
    env: { LC_ALL: "C", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    child.kill("SIGKILL");
    // One that hangs in a system call stays until that ends: nobody waits for it.
    child.unref();
    late.reject(new LateError(`${program}: not done within ${Math.round(limitMs / 1000)} s`));
  }, limitMs);
  const output = child.output();
  output.catch(() => {}); // where the time was over, nobody listens
  try {
    const { code, stdout, stderr } = await Promise.race([output, late.promise]);
    const decoder = new TextDecoder();
    if (!codes.includes(code)) {
      const said = decoder.decode(stderr).trim() || decoder.decode(stdout).trim().slice(-500);
      throw new Error(`${program} ${args.join(" ").slice(0, 200)}: exit code ${code}: ${said.slice(0, 500)}`);
    }
    return decoder.decode(stdout);
  } finally {
    clearTimeout(timer);
  }
}

/** rm -rf. */
export async function removeTree(path: string): Promise<void> {
  await runProgram("rm", ["-rf", "--", path]);
}

/** The name is a program on PATH. */
export function hasProgram(name: string): boolean {
  return (Deno.env.get("PATH") ?? "").split(":").concat("/usr/sbin", "/sbin").some((dir) => {
    try {
      return Deno.statSync(`${dir}/${name}`).isFile;
    } catch {
      return false;
    }
  });
}
