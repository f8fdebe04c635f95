/**
 * Virtual time: a queue of events, each run when all that the one before it set off has come to rest. Whatever happens in
 * a simulated cluster happens in an event, so that one seed gives one history.
 * Owns: the time and the order. `Life` is one life of a process: when it ends, nothing of it goes on.
 */

import type { Clock, Timespec } from "../../base/clock.ts";
import { type Random, randomInt, SeededRandom } from "../../base/random.ts";
import { settle } from "../base/fake_clock.ts";

interface Event {
  readonly atMs: number;
  readonly order: number;
  run: (() => void) | null;
}

const NOTED = new Float64Array(1);
const NOTED_WORDS = new Uint32Array(NOTED.buffer);

/** Never resolves: what a dead process waits for. */
export const NEVER: Promise<never> = new Promise(() => {});

export class Simulation {
  readonly random: Random;
  readonly #heap: Event[] = [];
  #nowMs = 0;
  #order = 0;
  events = 0;
  #hash = 0x811c9dc5;

  constructor(seed: number) {
    this.random = new SeededRandom(seed);
  }

  get nowMs(): number {
    return this.#nowMs;
  }

  /** A number that grows with each call: when something happened, for the history. */
  tick(): number {
    return ++this.#order;
  }

  /** Of all that has happened: each event's time and place in the order, and what was noted. */
  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, "0");
  }

  /** Something that two runs of a seed must agree on. */
  note(value: number): void {
    NOTED[0] = value;
    // FNV-1a, a word at a time.
    this.#hash = Math.imul(Math.imul(this.#hash ^ NOTED_WORDS[0]!, 0x01000193) ^ NOTED_WORDS[1]!, 0x01000193);
  }

  below(count: number): number {
    return randomInt(this.random, count);
  }

  chance(probability: number): boolean {
    return this.random.next() < probability;
  }

  between(min: number, max: number): number {
    return min + this.random.next() * (max - min);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  /** Runs `run` in `ms`; returns what takes it back. */
  after(ms: number, run: () => void): () => void {
    const event: Event = { atMs: this.#nowMs + Math.max(0, ms), order: this.tick(), run };
    push(this.#heap, event);
    return () => event.run = null;
  }

  /** Lets time pass until `isDone` says so, or for `limitMs`; whether it was done. */
  async run(isDone: () => boolean, limitMs: number): Promise<boolean> {
    const untilMs = this.#nowMs + limitMs;
    for (;;) {
      await settle();
      if (isDone()) return true;
      const event = pop(this.#heap);
      if (event === undefined) return false;
      if (event.run === null) continue;
      if (event.atMs > untilMs) {
        push(this.#heap, event);
        return false;
      }
      this.#nowMs = event.atMs;
      this.events++;
      this.note(event.atMs);
      this.note(event.order);
      event.run();
    }
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

function push(heap: Event[], event: Event): void {
  let at = heap.length;
  heap.push(event);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (!isBefore(event, heap[parent]!)) break;
    heap[at] = heap[parent]!;
    at = parent;
  }
  heap[at] = event;
}

function pop(heap: Event[]): Event | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (first === undefined || heap.length === 0) return first;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
    if (!isBefore(heap[child]!, last!)) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = last!;
  return first;
}

/** One life of a process, from its start until it is killed. */
export class Life {
  readonly simulation: Simulation;
  readonly host: string;
  readonly clock: Clock;
  isOver = false;
  /** Called when it is killed. */
  readonly onEnd = new Set<() => void>();

  constructor(simulation: Simulation, host: string) {
    this.simulation = simulation;
    this.host = host;
    this.clock = new LifeClock(this);
  }

  end(): void {
    this.isOver = true;
    for (const ended of [...this.onEnd]) ended();
    this.onEnd.clear();
  }

  /** Resolves after `ms`; never, if the process has died by then. */
  wait(ms: number): Promise<void> {
    if (this.isOver) return NEVER;
    return new Promise((resolve) =>
      this.simulation.after(ms, () => {
        if (!this.isOver) resolve();
      })
    );
  }
}

/** 2023-11-14; timestamps are seen by people only. */
const EPOCH_SECONDS = 1_700_000_000;

class LifeClock implements Clock {
  readonly #life: Life;
  readonly #startMs: number;

  constructor(life: Life) {
    this.#life = life;
    this.#startMs = 1_000_000 * life.simulation.random.next(); // no two machines' clocks say the same
  }

  monotonicMs(): number {
    return this.#startMs + this.#life.simulation.nowMs;
  }

  now(): Timespec {
    const { nowMs } = this.#life.simulation;
    const seconds = Math.floor(nowMs / 1000);
    return { seconds: EPOCH_SECONDS + seconds, nanoseconds: Math.floor((nowMs - seconds * 1000) * 1e6) };
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const life = this.#life;
    if (life.isOver) return NEVER;
    if (signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = life.simulation.after(ms, () => {
        signal?.removeEventListener("abort", onAbort);
        if (!life.isOver) resolve();
      });
      const onAbort = () => {
        cancel();
        resolve();
      };
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }
}
