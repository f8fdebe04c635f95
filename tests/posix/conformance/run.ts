/** Runs the interpreter in a directory, which is made if it is not there. */

import { killGroup, within } from "../../harness/command.ts";

const LIMIT_MS = 120_000;

/** The answers, a line each. Rejects when the interpreter finds the script wrong, or takes longer than the limit. */
export async function runOn(interpreter: string, dir: string, script: string): Promise<string> {
  const child = new Deno.Command("sh", {
    // Made by the child: this process never touches a mount.
    args: ["-c", '[ -d "$2" ] || mkdir -m 755 -- "$2" && exec "$1" "$2"', "sh", interpreter, dir],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  }).spawn();
  const writer = child.stdin.getWriter();
  const written = writer.write(new TextEncoder().encode(script)).then(() => writer.close())
    .catch(() => {}); // it ended before its time, and says why
  try {
    const { code, stdout, stderr } = await within(LIMIT_MS, `the interpreter in ${dir}`, child.output());
    await written;
    if (code !== 0) {
      throw new Error(`the interpreter in ${dir}: code ${code}: ${new TextDecoder().decode(stderr)}`);
    }
    return new TextDecoder().decode(stdout);
  } catch (error) {
    killGroup(child.pid);
    throw error;
  }
}
