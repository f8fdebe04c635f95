/**
 * The shell on a terminal: a line at a time, with history and completion by Tab. Ctrl-C ends the running command, or drops the
 * line; Ctrl-D, and `exit`, end the shell. The line editor is the one that cliffy opens.
 * What is typed while a command runs is run after it.
 */

import { CLI } from "cliffy";
import process from "node:process";
import type { Interface } from "node:readline";
import { Readable } from "node:stream";
import { formatPath } from "../../admin/fs_path.ts";
import { messageOf, printLine } from "../../admin/process.ts";
import { DT_DIR } from "../../../wire/messages/inode.ts";
import type { Shell } from "./shell.ts";
import { bytesOfPath, joinPath, lastWord, quoteWord, textOfPath } from "./words.ts";

const HISTORY_FILE = "mfs-shell-history";
const HISTORY_LINES = 1_000;
const COMPLETION_MS = 3_000;
const COMPLETIONS_MAX = 500;

/** Parts of the line editor that its types do not have. */
interface Editor extends Interface {
  completer?: (line: string, done: (error: unknown, answer: [string[], string]) => void) => void;
  history?: string[];
}

/** Until the shell ends. */
export async function runOnTerminal(shell: Shell): Promise<void> {
  const editor =
    (new CLI({ input: keyboard(), output: process.stdout }) as unknown as { readline: Editor }).readline;
  const history = new History();
  editor.history = history.lines();
  editor.completer = (line, done) => {
    const nothing: [string[], string] = [[], line];
    complete(shell, line).then(
      // What has been typed meanwhile would come to stand in front of it.
      (answer) =>
        done(null, editor.line.startsWith(line) && editor.cursor === line.length ? answer : nothing),
      () => done(null, nothing),
    );
  };
  let running: AbortController | undefined;
  let isEnded = false;
  const typed: string[] = [];
  let wake = () => {};
  editor.on("line", (line) => {
    typed.push(line);
    wake();
  });
  editor.on("close", () => {
    isEnded = true;
    wake();
  });
  const interrupt = () => {
    typed.length = 0;
    if (running !== undefined) return running.abort();
    printLine("^C");
    editor.write(null, { ctrl: true, name: "e" });
    editor.write(null, { ctrl: true, name: "u" });
    editor.prompt();
  };
  editor.on("SIGINT", interrupt);
  Deno.addSignalListener("SIGINT", interrupt);
  const end = () => {
    running?.abort();
    editor.close();
  };
  for (const signal of ["SIGTERM", "SIGHUP"] as const) Deno.addSignalListener(signal, end);
  const prompt = () => {
    editor.setPrompt(`mfs:${formatPath(bytesOfPath(shell.cwd))}> `);
    editor.prompt();
  };
  editor.resume();
  prompt();
  while (!shell.isOver) {
    const line = typed.shift();
    if (line === undefined) {
      if (isEnded) {
        printLine("");
        return;
      }
      await new Promise<void>((resolve) => wake = resolve);
      continue;
    }
    history.add(line);
    running = new AbortController();
    try {
      await shell.run(line, running.signal);
    } catch (error) {
      printLine(messageOf(error), Deno.stderr);
    }
    running = undefined;
    if (!shell.isOver && typed.length === 0 && !isEnded) prompt();
  }
  editor.close();
}

/**
 * The terminal's keys, with one read at a time: the editor pauses and resumes its input for each completion, and after that
 * Deno's own process.stdin has two reads under way, in one buffer.
 */
function keyboard(): NodeJS.ReadableStream {
  const keys = new Readable({ read: () => {} });
  const buffer = new Uint8Array(4096);
  const readAll = async () => {
    for (;;) {
      const count = await Deno.stdin.read(buffer);
      if (count === null) break;
      keys.push(buffer.slice(0, count));
    }
  };
  // A terminal that is gone is at its end.
  void readAll().catch(() => {}).finally(() => keys.push(null));
  return Object.assign(keys, { isTTY: true, setRawMode: (isRaw: boolean) => Deno.stdin.setRaw(isRaw) });
}

/** Whole words for the last one of the line, as they are to be given; and what of the line they stand for. */
export async function complete(shell: Shell, line: string): Promise<[string[], string]> {
  const { words, start } = lastWord(line);
  const raw = line.slice(start);
  const word = words.at(-1)!;
  const names = Object.keys(shell.commands);
  const ofNames = () => names.filter((name) => name.startsWith(word)).map((name) => `${name} `);
  if (words.length === 1) return [ofNames(), raw];
  const command = shell.commands[words[0]!];
  if (command === undefined || word.startsWith("-")) return [[], raw];
  const place = command.places[words.slice(1, -1).filter((one) => !one.startsWith("-")).length] ??
    command.places.at(-1);
  if (place === "command") return [ofNames(), raw];
  if (place !== "remote" && place !== "local") return [[], raw];
  const slash = word.lastIndexOf("/") + 1;
  const [directory, prefix] = [word.slice(0, slash), word.slice(slash)];
  const entries = place === "remote" ? remoteNames(shell, directory) : localNames(directory);
  const found: string[] = [];
  for await (const { name, isDirectory } of entries) {
    const isWanted = name.startsWith(prefix) && (prefix !== "" || !name.startsWith("."));
    if (isWanted) found.push(`${quoteWord(directory + name)}${isDirectory ? "/" : " "}`);
    if (found.length >= COMPLETIONS_MAX) break;
  }
  // The editor compares what is there with what it is told: a word in quotes is written anew.
  return [found.sort(), raw];
}

interface Candidate {
  readonly name: string;
  readonly isDirectory: boolean;
}

async function* remoteNames({ client, cwd }: Shell, directory: string): AsyncGenerator<Candidate> {
  const path = bytesOfPath(directory === "" ? cwd : joinPath(cwd, directory));
  for await (const { name, type } of client.until(AbortSignal.timeout(COMPLETION_MS)).list(path)) {
    yield { name: textOfPath(name), isDirectory: type === DT_DIR };
  }
}

async function* localNames(directory: string): AsyncGenerator<Candidate> {
  for await (const { name, isDirectory } of Deno.readDir(directory === "" ? "." : directory)) {
    yield { name, isDirectory };
  }
}

/** Lines of earlier shells of this user, in a file that only he can read. Without one there is none. */
class History {
  #file: string | undefined;

  /** The newest first. */
  lines(): string[] {
    try {
      const dir = Deno.env.get("XDG_STATE_HOME") ?? `${Deno.env.get("HOME")}/.local/state`;
      Deno.mkdirSync(dir, { recursive: true });
      this.#file = `${dir}/${HISTORY_FILE}`;
      const all = Deno.readTextFileSync(this.#file).split("\n").filter((line) => line !== "");
      const kept = all.slice(-HISTORY_LINES);
      if (all.length > 2 * HISTORY_LINES) Deno.writeTextFileSync(this.#file, `${kept.join("\n")}\n`);
      return kept.reverse();
    } catch {
      return []; // there is none yet, or it can't be read
    }
  }

  add(line: string): void {
    if (line.trim() === "" || this.#file === undefined) return;
    try {
      Deno.writeTextFileSync(this.#file, `${line}\n`, { append: true, mode: 0o600 });
    } catch {
      this.#file = undefined; // it is a convenience
    }
  }
}
