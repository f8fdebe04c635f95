/**
 * One shell: runs lines of commands on a client, from a script or one by one from a terminal (terminal.ts). cliffy's
 * parsers cut words into parameters and options; options are written as everywhere (-l, -rf), not as cliffy has them (@l).
 */

import { findPromptedCommand } from "cliffy/command-parser";
import { parseOptions } from "cliffy/option-parser";
import { parseParameters } from "cliffy/parameter-parser";
import { concatBytes } from "../../../base/bytes.ts";
import type { FsClient } from "../../mount/client.ts";
import { printLine, writeAll } from "../../admin/process.ts";
import { Progress } from "../../admin/progress.ts";
import { type Environment, makeCommands, type ShellCommand, usageOf } from "./commands.ts";
import { parseLine, textOfPath } from "./words.ts";

const NEWLINE = 0x0a;
/** After an interrupt a command may take so long to end; then it is left alone. */
const INTERRUPTED_MS = 1_000;

export interface ShellOptions {
  readonly nameserver: string;
  readonly client: FsClient;
}

export class Shell {
  readonly commands: Record<string, ShellCommand>;
  readonly #options: ShellOptions;
  #cwd = "/";
  #isOver = false;
  #environment: Environment | undefined;

  constructor(options: ShellOptions) {
    this.#options = options;
    this.commands = makeCommands(() => this.#environment!);
  }

  /** Where relative paths begin. */
  get cwd(): string {
    return this.#cwd;
  }

  /** `exit` was run. */
  get isOver(): boolean {
    return this.#isOver;
  }

  get client(): FsClient {
    return this.#options.client;
  }

  /** Runs the commands of a line up to the first that fails, with what it rejects. `signal` ends the running one. */
  async run(line: string, signal: AbortSignal): Promise<void> {
    for (const words of parseLine(line)) {
      if (this.#isOver) return;
      if (signal.aborted) throw new Error("interrupted");
      await this.#runCommand(words, signal);
    }
  }

  /** A line each, as text. Gives the number of the first that failed, and why; undefined: none did. */
  async runScript(
    lines: AsyncIterable<string> | Iterable<string>,
    signal: AbortSignal,
  ): Promise<{ readonly line: number; readonly error: unknown } | undefined> {
    let line = 0;
    for await (const text of lines) {
      line++;
      try {
        await this.run(text, signal);
      } catch (error) {
        return { line, error };
      }
      if (this.#isOver) return;
    }
    return undefined;
  }

  async #runCommand([name, ...words]: readonly string[], signal: AbortSignal): Promise<void> {
    const found = findPromptedCommand([name!], this.commands);
    if (!found) throw new Error(`${name}: no such command; help shows them`);
    const command = found.command as ShellCommand;
    const fail = (why: string) => new Error(`${name}: ${why}; usage: ${usageOf(name!, command)}`);
    const { options, words: parameters } = this.#parse(words, command, fail);
    const params = parseParameters(command, parameters);
    if (!params) throw fail("too few or too many arguments");
    const ended = new AbortController();
    const either = AbortSignal.any([signal, ended.signal]);
    this.#environment = this.#environmentOf(either);
    try {
      await interrupted(Promise.resolve(command.action(params, options)), signal);
    } catch (error) {
      if (signal.aborted) throw new Error(`${name}: interrupted`);
      throw new Error(`${name}: ${error instanceof Error ? error.message : error}`);
    } finally {
      ended.abort();
    }
  }

  /** Options come before what is no option, or behind it; `--` ends them. */
  #parse(words: readonly string[], command: ShellCommand, fail: (why: string) => Error) {
    const end = words.indexOf("--");
    const isOption = (word: string, i: number) =>
      /^-./.test(word) && !/^-\d/.test(word) && (end < 0 || i < end);
    const letters = words.filter(isOption).flatMap((word) => [...word.slice(1)]);
    const unknown = letters.find((letter) => !command.options.some(({ label }) => label === letter));
    if (unknown !== undefined) throw fail(`-${unknown} is no option`);
    // What begins with "@" would be an option there.
    const parsed = parseOptions(command, letters.map((letter) => `@${letter}`));
    if (!parsed) throw fail("these options do not go together");
    const parameters = words.filter((word, i) => i !== end && !isOption(word, i));
    return { options: parsed.options, words: parameters };
  }

  #environmentOf(signal: AbortSignal): Environment {
    const { nameserver, client } = this.#options;
    const cwd = () => this.#cwd;
    const setCwd = (path: string) => this.#cwd = path;
    return {
      nameserver,
      client: client.until(signal),
      signal,
      get cwd() {
        return cwd();
      },
      set cwd(path: string) {
        if (!signal.aborted) setCwd(path);
      },
      write: (bytes) => {
        signal.throwIfAborted();
        writeAll(bytes);
      },
      print: (line) => {
        signal.throwIfAborted();
        printLine(line);
      },
      progress: (label) => {
        if (!Deno.stderr.isTerminal()) return { update: () => {}, end: () => {} };
        const progress = new Progress({ label, unit: "bytes" });
        return {
          update: (done, total) => {
            if (!signal.aborted) progress.update(done, total);
          },
          end: () => progress.end(),
        };
      },
      exit: () => this.#isOver = true,
    };
  }
}

/** Lines of a script as it comes in, without their ends. */
export async function* linesOf(stream: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  let rest = new Uint8Array(0);
  for await (const chunk of stream) {
    const bytes = concatBytes([rest, chunk]);
    let from = 0;
    for (let to = bytes.indexOf(NEWLINE); to >= 0; to = bytes.indexOf(NEWLINE, from)) {
      yield textOfPath(bytes.subarray(from, to));
      from = to + 1;
    }
    rest = bytes.slice(from);
  }
  if (rest.length > 0) yield textOfPath(rest);
}

/** What does not end when it is told to is left alone. */
function interrupted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  let timer: number | undefined;
  let onAbort = () => {};
  const late = new Promise<void>((_, reject) => {
    onAbort = () => timer = setTimeout(() => reject(new Error("interrupted")), INTERRUPTED_MS);
    signal.addEventListener("abort", onAbort, { once: true });
  });
  return Promise.race([work, late]).finally(() => {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  });
}
