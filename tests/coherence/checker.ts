/** Builds and runs the checker (checker.c and what lies beside it). */

import { hasProgram, killGroup, sh, within } from "../harness/command.ts";
import { forgetProcess, trackProcess } from "../harness/scratch.ts";

const HERE = decodeURIComponent(new URL(".", import.meta.url).pathname);

export const hasCompiler = hasProgram("gcc");

/** Builds the program in a directory and answers its path. */
export async function buildChecker(dir: string): Promise<string> {
  await sh(`gcc -std=gnu11 -O2 -w -pthread -o ${dir}/checker ${HERE}*.c`);
  return `${dir}/checker`;
}

export interface CheckerResult {
  /** 0: nothing is wrong. 1: something is. */
  readonly code: number;
  readonly output: string;
  /** What --json printed. */
  readonly json: CheckerSummary | undefined;
}

/** Of both modes; each has only some. */
export interface CheckerSummary {
  readonly operations: number;
  readonly seconds: number;
  /** look: [looks, stale, lasting] by kind; race: operations by kind. */
  readonly kinds: Readonly<Record<string, unknown>>;
  readonly looks?: number;
  readonly stale?: number;
  readonly lasting?: number;
  readonly mappings_refused?: number;
  readonly errors?: number;
  readonly unknown?: number;
  readonly unchecked?: number;
  /** race: errors by kind. */
  readonly wrong?: Readonly<Record<string, number>>;
  readonly longest_ms?: readonly number[];
}

/**
 * Runs the checker to its end; rejects when that takes longer than the limit, and leaves it behind then: a program that
 * hangs on a mount ends only with the mount. `onOutput` gets what it prints, as it comes.
 */
export async function runChecker(
  program: string,
  args: readonly string[],
  timeoutMs: number,
  onOutput: (text: string) => void = () => {},
): Promise<CheckerResult> {
  const child = new Deno.Command(program, {
    args: [...args, "--json"],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    detached: true,
  }).spawn();
  trackProcess(child.pid);
  let output = "";
  const collect = async (stream: ReadableStream<Uint8Array>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      output += text;
      onOutput(text);
    }
  };
  const ended = Promise.all([child.status, collect(child.stdout), collect(child.stderr)]);
  try {
    const [{ code }] = await within(timeoutMs, `checker ${args.join(" ")}`, ended);
    const line = output.split("\n").findLast((candidate) => candidate.startsWith('{"mode":'));
    return { code, output, json: line === undefined ? undefined : JSON.parse(line) };
  } catch (error) {
    killGroup(child.pid);
    throw new Error(`${(error as Error).message}\n${output.slice(-4000)}`);
  } finally {
    forgetProcess(child.pid);
  }
}
