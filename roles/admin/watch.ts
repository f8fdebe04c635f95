/**
 * What is shown again and again: on a terminal a page that is drawn in place, elsewhere one page after the other, and
 * as JSON a line each. What can't be had once it was shown is told and tried again: who watches wants to see it come back.
 */

import { pause } from "./client.ts";
import { messageOf, printLine, writeAll } from "./process.ts";

const HOME = "\x1b[H";
const CLEAR_LINE = "\x1b[K";
const CLEAR_BELOW = "\x1b[J";
const CLEAR_ALL = "\x1b[2J";

export interface WatchOptions {
  /** For messages: the command. */
  readonly what: string;
  /** The next page, without a line break at its end. */
  readonly next: () => Promise<string>;
  readonly seconds: number;
  /** A page is one line. */
  readonly isJson: boolean;
  /** Ends it. */
  readonly signal: AbortSignal;
  /** Of the terminal, for tests; undefined: stdout is none. */
  readonly screen?: { readonly columns: number; readonly rows: number } | undefined;
  /** Throws when nobody reads any more, which ends it. */
  readonly write?: (text: string) => void;
}

/** Errors: those of the first page. */
export async function watch(options: WatchOptions): Promise<void> {
  const { next, seconds, isJson, signal, write = (text) => writeAll(new TextEncoder().encode(text)) } =
    options;
  for (let shown = 0; !signal.aborted; shown++) {
    let page: string | undefined;
    try {
      page = await next();
    } catch (error) {
      if (signal.aborted) return;
      if (shown === 0) throw error;
      const why = `mfs: ${options.what}: ${messageOf(error)}: trying again`;
      if (isJson || !isTerminal(options)) printLine(why, Deno.stderr);
      else page = why;
    }
    try {
      if (page !== undefined) write(drawn(page, shown === 0, options));
    } catch {
      return;
    }
    await pause(seconds * 1000, signal).catch(() => {}); // the signal only ends it
  }
}

function drawn(page: string, isFirst: boolean, options: WatchOptions): string {
  if (options.isJson) return `${page}\n`;
  if (!isTerminal(options)) return isFirst ? `${page}\n` : `\n${page}\n`;
  const { columns, rows } = screenOf(options);
  // A line that wraps or a page that scrolls could not be drawn over.
  const lines = page.split("\n").slice(0, rows - 1).map((line) =>
    `${[...line].slice(0, columns).join("")}${CLEAR_LINE}\n`
  );
  return `${isFirst ? CLEAR_ALL : ""}${HOME}${lines.join("")}${CLEAR_BELOW}`;
}

function isTerminal(options: WatchOptions): boolean {
  return "screen" in options ? options.screen !== undefined : Deno.stdout.isTerminal();
}

/** It may change its size at any time. */
function screenOf({ screen }: WatchOptions): { readonly columns: number; readonly rows: number } {
  const size = screen ?? Deno.consoleSize();
  return size.columns > 0 && size.rows > 1 ? size : { columns: 80, rows: 24 };
}
