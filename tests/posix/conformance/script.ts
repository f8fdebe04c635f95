/**
 * Tables of system calls, and how they become the interpreter's script (interpreter.c) and its answers are compared. A case is
 * some lines that are run one after the other in a directory of its own; every line's answer on the mount must be that
 * on ext4.
 */

/** An answer that is not ext4's, and should not be. */
export interface Deviation {
  readonly line: string;
  /** What the mount answers. */
  readonly onMount: string;
  readonly because: string;
}

/**
 * "WHO CALL WORD...". With a "+" before it, it must work on both: what the case is about could not be seen otherwise.
 * TICK lets time pass between the lines before and after it.
 */
export type Line = string | Deviation;

export interface Case {
  readonly name: string;
  readonly lines: readonly Line[];
}

export interface Topic {
  readonly name: string;
  readonly cases: readonly Case[];
}

/** Longer than the kernel's clock needs for another time (10 ms at most). All cases of a topic wait together. */
export const TICK = "tick";
const TICK_MS = 25;

/** A user of the tables. The group of "owner" is a supplementary one of "member", and the only one of "group". */
export const USERS = {
  root: "0 0",
  owner: "1001 1001",
  member: "1002 1002 1001,1005",
  group: "1003 1001",
  other: "1004 1004",
} as const;
export type User = keyof typeof USERS;

interface Step {
  readonly case: Case;
  readonly line: Line;
}

/** The text of a script, and what each of its lines stands for: undefined for those that answer nothing. */
interface Script {
  readonly text: string;
  readonly steps: readonly (Step | undefined)[];
}

export function scriptOf(topic: Topic): Script {
  const text: string[] = [];
  const steps: (Step | undefined)[] = [];
  const add = (line: string, step?: Step) => {
    text.push(line);
    steps.push(step);
  };
  for (const [name, ids] of Object.entries(USERS)) add(`user ${name} ${ids}`);
  // The parts between ticks; most topics have one.
  const parts = topic.cases.map(({ lines }) => split(lines));
  const rounds = Math.max(...parts.map(({ length }) => length));
  for (let round = 0; round < rounds; round++) {
    if (round > 0) add(`sleep ${TICK_MS}`);
    for (const [number, each] of topic.cases.entries()) {
      if (parts[number]![round] === undefined) continue;
      add(`case ${number}`);
      for (const line of parts[number]![round]!) {
        add((typeof line === "string" ? line : line.line).replace(/^\+/, ""), { case: each, line });
      }
      if (round === parts[number]!.length - 1) add(`end ${number}`);
    }
  }
  return { text: text.join("\n") + "\n", steps };
}

function split(lines: readonly Line[]): Line[][] {
  const parts: Line[][] = [[]];
  for (const line of lines) {
    if (line === TICK) parts.push([]);
    else parts.at(-1)!.push(line);
  }
  return parts;
}

export interface Comparison {
  readonly compared: number;
  /** One line each. */
  readonly differences: readonly string[];
}

/** Compares what the interpreters on the mount and on ext4 have answered. */
export function compare(topic: Topic, script: Script, onMount: string, onExt4: string): Comparison {
  const [mounted, reference] = [answersOf(onMount), answersOf(onExt4)];
  const differences: string[] = [];
  let compared = 0;
  for (const [index, step] of script.steps.entries()) {
    if (step === undefined) continue;
    compared++;
    const said = difference(step.line, mounted[index], reference[index]);
    if (said !== undefined) differences.push(`${topic.name}: ${step.case.name}: ${said}`);
  }
  return { compared, differences };
}

function answersOf(text: string): string[] {
  return text.split("\n").slice(0, -1);
}

function difference(line: Line, onMount = "nothing", onExt4 = "nothing"): string | undefined {
  const both = `${onMount} on the mount, ${onExt4} on ext4`;
  if (typeof line !== "string") {
    if (onMount !== line.onMount) return `${line.line}: ${both}; it should be ${line.onMount}`;
    if (onMount === onExt4) return `${line.line}: ${both}; it need not be a deviation`;
    return undefined;
  }
  if (onMount !== onExt4) return `${line}: ${both}`;
  if (line.startsWith("+") && /^E[A-Z0-9]+$/.test(onExt4)) return `${line}: ${both}, but it must work`;
  return undefined;
}
