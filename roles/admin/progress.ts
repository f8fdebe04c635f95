/**
 * How far long work has come: on a terminal one line that is written again and again, elsewhere a line now and then.
 * It goes to stderr, so that what a command answers on stdout is only that.
 */

import { duration, size } from "./units.ts";

const TERMINAL_MS = 200;
const PLAIN_MS = 10_000;
/** Of the bar. */
const BAR_COLUMNS = 20;
/** The rate is of so long ago until now. */
const RATE_MS = 10_000;

export type Unit = "bytes" | "blocks" | "files" | "inodes" | "records" | "problems" | "workloads";

export interface ProgressOptions {
  readonly label: string;
  readonly unit: Unit;
  /** Of the screen and the clock, for tests. */
  readonly isTerminal?: boolean;
  readonly nowMs?: () => number;
  readonly write?: (text: string) => void;
}

export class Progress {
  readonly #label: string;
  readonly #unit: Unit;
  readonly #isTerminal: boolean;
  readonly #nowMs: () => number;
  readonly #write: (text: string) => void;
  readonly #seen: { readonly atMs: number; readonly done: number }[] = [];
  #shownMs = -Infinity;
  #width = 0;

  constructor(options: ProgressOptions) {
    this.#label = options.label;
    this.#unit = options.unit;
    this.#isTerminal = options.isTerminal ?? Deno.stderr.isTerminal();
    this.#nowMs = options.nowMs ?? (() => performance.now());
    this.#write = options.write ?? ((text) => void Deno.stderr.writeSync(new TextEncoder().encode(text)));
  }

  /** `total` may grow and shrink; absent: not known. */
  update(done: number, total?: number): void {
    const nowMs = this.#nowMs();
    this.#seen.push({ atMs: nowMs, done });
    while (this.#seen.length > 2 && nowMs - this.#seen[1]!.atMs > RATE_MS) this.#seen.shift();
    if (nowMs - this.#shownMs < (this.#isTerminal ? TERMINAL_MS : PLAIN_MS)) return;
    this.#shownMs = nowMs;
    this.#show(this.#line(done, total));
  }

  /** The line goes, so that the next output stands alone. */
  end(): void {
    if (this.#isTerminal && this.#width > 0) this.#write(`\r${" ".repeat(this.#width)}\r`);
    this.#width = 0;
  }

  #show(line: string): void {
    if (!this.#isTerminal) return this.#write(`${line}\n`);
    this.#write(`\r${line.padEnd(this.#width)}`);
    this.#width = line.length;
  }

  #line(done: number, total: number | undefined): string {
    const first = this.#seen[0]!;
    const seconds = (this.#nowMs() - first.atMs) / 1000;
    const rate = seconds > 0 ? Math.max(0, done - first.done) / seconds : 0;
    const parts = [
      `${this.#label}: ${this.#amount(done)}${total === undefined ? "" : ` of ${this.#amount(total)}`}`,
    ];
    if (total !== undefined && total > 0) parts.push(this.#share(done / total));
    if (rate > 0) parts.push(`${this.#amount(Math.round(rate))}/s`);
    if (rate > 0 && total !== undefined) parts.push(`${duration((total - done) / rate)} left`);
    return parts.join(", ");
  }

  /** With a bar on a terminal. */
  #share(share: number): string {
    const percent = `${Math.floor(share * 100)}%`;
    if (!this.#isTerminal) return percent;
    const full = Math.floor(Math.min(1, Math.max(0, share)) * BAR_COLUMNS);
    return `[${"#".repeat(full).padEnd(BAR_COLUMNS, ".")}] ${percent}`;
  }

  #amount(value: number): string {
    return this.#unit === "bytes" ? size(value) : `${value} ${this.#unit}`;
  }
}
