/**
 * What the exercisers in TypeScript share: their command line, randomness that depends on the seed and the number of
 * the operation alone (so that a sequence that failed can be made smaller by leaving operations out), a log of the
 * last operations, and the way a difference is told.
 */

import { SeededRandom } from "../../base/random.ts";

const LOG_LINES = 20;

export interface ExerciserArguments {
  readonly positional: readonly string[];
  readonly flags: ReadonlySet<string>;
  /** --only 0,5,17: leave out all other operations. */
  readonly only: ReadonlySet<number> | undefined;
}

/** Ends the program with `usage` unless there are as many arguments as wanted, and no unknown flag. */
export function parseArguments(
  usage: string,
  positionals: number,
  knownFlags: readonly string[] = [],
): ExerciserArguments {
  const positional: string[] = [];
  const flags = new Set<string>();
  let only: ReadonlySet<number> | undefined;
  let isUsageWrong = false;
  for (let i = 0; i < Deno.args.length; i++) {
    const argument = Deno.args[i]!;
    if (argument === "--only") only = new Set((Deno.args[++i] ?? "").split(",").map(Number));
    else if (knownFlags.includes(argument)) flags.add(argument);
    else if (argument.startsWith("--")) isUsageWrong = true;
    else positional.push(argument);
  }
  if (isUsageWrong || positional.length !== positionals) {
    console.error(`usage: ${usage}`);
    Deno.exit(2);
  }
  return { positional, flags, only };
}

export function randomOf(seed: number, operation: number): SeededRandom {
  return new SeededRandom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(operation + 1, 0x85ebca6b));
}

/** One of the keys, as often as its weight says. */
export function weighted<T extends string>(random: SeededRandom, weights: Readonly<Record<T, number>>): T {
  const kinds = Object.entries(weights) as [T, number][];
  let left = random.next() * kinds.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [kind, weight] of kinds) {
    left -= weight;
    if (left < 0) return kind;
  }
  return kinds[0]![0];
}

export class Journal {
  readonly #seed: number;
  readonly #lines: string[] = [];

  constructor(seed: number) {
    this.#seed = seed;
  }

  note(line: string): void {
    this.#lines.push(line);
    if (this.#lines.length > LOG_LINES) this.#lines.shift();
  }

  /** Tells the difference and the operations before it, and ends the program with code 1. */
  differ(what: string): never {
    console.error(`DIFFERENCE ${what}\nseed ${this.#seed}; the operations up to it:`);
    for (const line of this.#lines) console.error(`  ${line}`);
    Deno.exit(1);
  }
}
