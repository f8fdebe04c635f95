/**
 * Delays of a simulated network: everything that waits for one is let go in an order that the seed decides. Runs
 * until nothing is left to do, and notices when that will never be.
 */

import { type Random, randomInt } from "../../../base/random.ts";
import { type FakeClock, settle } from "../../base/fake_clock.ts";

export class Schedule {
  readonly #random: Random;
  readonly #clock: FakeClock;
  readonly #waiting: (() => void)[] = [];

  constructor(random: Random, clock: FakeClock) {
    this.#random = random;
    this.#clock = clock;
  }

  /** Lasts as long as the seed says. */
  delay(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Lets everything go on until `work` is done. `tick` runs after each step. */
  async run(work: Promise<unknown>, tick: () => void): Promise<void> {
    let isDone = false;
    let failure: unknown;
    work.then(() => isDone = true, (error) => {
      isDone = true;
      failure = error ?? new Error("failed");
    });
    let idle = 0;
    while (!isDone) {
      await settle();
      tick();
      if (this.#waiting.length > 0) {
        idle = 0;
        this.#waiting.splice(randomInt(this.#random, this.#waiting.length), 1)[0]!();
      } else {
        // Nobody waits for the network: only time can help.
        if (++idle > 400) throw new Error("deadlock: nothing goes on any more");
        await this.#clock.advance(250);
      }
    }
    if (failure !== undefined) throw failure;
  }
}

/** A connection over that network: what either end sends arrives in order. */
export class SimulatedLink {
  readonly #schedule: Schedule;
  #sending: Promise<void> = Promise.resolve();
  #arriving: Promise<void> = Promise.resolve();

  constructor(schedule: Schedule) {
    this.#schedule = schedule;
  }

  /** Until what the client sends now has reached the server. */
  send(): Promise<void> {
    return this.#sending = this.#sending.then(() => this.#schedule.delay());
  }

  /** Runs `run` when what the server sends now has reached the client. */
  arrive<T>(run: () => T): Promise<T> {
    const arrived = this.#arriving.then(() => this.#schedule.delay()).then(run);
    this.#arriving = arrived.then(() => {}, () => {});
    return arrived;
  }
}
