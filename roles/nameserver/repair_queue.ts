/**
 * Blocks that wait for repair, the most urgent first, and those that are tried again later.
 * Invariants: a block waits in one place; QUEUE_MAX at most are known at a time.
 */

import type { BlockId, InodeId } from "../../wire/ids.ts";

export const QUEUE_MAX = 20_000;

export interface Task {
  readonly ino: InodeId;
  readonly start: number;
  readonly block: BlockId;
}

/**
 * 0 to 2: too few good replicas: one left, several left, none left. What endangers nothing comes after them: 3: replicas
 * that are to go, 4: replicas that would lie better elsewhere.
 */
export type Urgency = 0 | 1 | 2 | 3 | 4;

export const NOT_URGENT: Urgency = 3;

export class RepairQueue {
  readonly #queues: readonly Map<BlockId, Task>[] = [0, 1, 2, 3, 4].map(() => new Map());
  /** When blocks that could not be repaired are tried again. */
  readonly #later: { readonly task: Task; readonly atMs: number }[] = [];

  get size(): number {
    return this.#queues.reduce((sum, { size }) => sum + size, 0);
  }

  get laterSize(): number {
    return this.#later.length;
  }

  has(block: BlockId): boolean {
    return this.#queues.some((queue) => queue.has(block));
  }

  /** False when there is no room. A block that waits already waits with the urgency that it has now. */
  add(task: Task, urgency: Urgency): boolean {
    const { block } = task;
    const queue = this.#queues[urgency]!;
    if (queue.has(block)) return true;
    this.#queues.forEach((other) => other.delete(block));
    if (this.size >= QUEUE_MAX) return false;
    queue.set(block, task);
    return true;
  }

  addLater(task: Task, atMs: number): void {
    if (this.#later.length < QUEUE_MAX) this.#later.push({ task, atMs });
  }

  /** Takes those whose time has come, or all. */
  takeLater(nowMs: number, all: boolean): Task[] {
    const due: Task[] = [];
    while (this.#later.length > 0 && (all || this.#later[0]!.atMs <= nowMs)) {
      due.push(this.#later.shift()!.task);
    }
    return due;
  }

  /** In the order in which to begin; `take` each that is begun. */
  *waiting(): Generator<readonly [task: Task, urgency: Urgency]> {
    for (const [urgency, queue] of this.#queues.entries()) {
      for (const task of queue.values()) yield [task, urgency as Urgency];
    }
  }

  take(task: Task): void {
    this.#queues.forEach((queue) => queue.delete(task.block));
  }
}
