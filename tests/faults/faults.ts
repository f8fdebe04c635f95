/**
 * What is done to a cluster while workers are on it: faults drawn from a seed, two at a time, each undone before the next.
 *
 * Only what the contract covers is done. Data is destroyed on one dataserver at a time, while nothing else is wrong, every
 * block has all its replicas, and another replica of each block lives; and nothing else is done until all is repaired.
 */

import { randomInt, SeededRandom } from "../../base/random.ts";
import { eventually, sleep } from "../harness/command.ts";
import type { RoleCluster } from "../harness/role_cluster.ts";
import { destroy, type Destruction } from "./destruction.ts";
import { setFull } from "./damage.ts";
import { hasFailed } from "./health.ts";

export const FAULT_KINDS = [
  /** kill -9 of one process, which is away for a while. */
  "kill",
  /** kill -9 of several at once, up to all, which come back in any order. */
  "kills",
  /** SIGSTOP for a while, also for longer than the dead time and a client's session. */
  "stop",
  /** A host is cut off from all others. */
  "cut",
  /** Two hosts do not hear each other, or one does not hear the other. */
  "partition",
  /** A host sends slowly. */
  "slow",
  /** A volume is full. */
  "full",
  /** A volume's file system breaks and refuses every write; what was not synced is lost. */
  "readonly",
  /** A volume's directory is gone while its dataserver runs, and is back after its restart. */
  "gone",
  /** A dataserver gets an empty disk. */
  "wipe",
  /** Replicas, or the log of a volume's database, are torn while their dataserver is dead. */
  "tear",
] as const;
export type FaultKind = typeof FAULT_KINDS[number];

/** What was done, to whom, and when by the clock of the day. */
export interface Injected {
  readonly kind: FaultKind;
  readonly what: string;
  readonly roles: readonly string[];
  readonly fromMs: number;
  toMs: number;
}

export interface InjectorOptions {
  readonly cluster: RoleCluster;
  readonly seed: number;
  readonly kinds: readonly FaultKind[];
  readonly tell: (line: string) => void;
}

const LANES = 2;
const FIRST_QUIET_MS = 1_000;
const QUIET_MS = 2_500;
const AWAY_MS = 5_000;
const STOP_MS = { least: 300, range: 9_000 };
const CUT_MS = { least: 500, range: 8_000 };
const SLOW_BITS = { least: 1_000_000, range: 20_000_000 };
const BACK_MS = 60_000;
/** More than from one heartbeat to the next. */
const HEARD_MS = 4_000;
const DESTRUCTIONS: readonly FaultKind[] = ["readonly", "wipe", "tear"];

export class Injector {
  readonly injected: Injected[] = [];
  readonly #options: InjectorOptions;
  readonly #startMs = performance.now();
  /** Roles that something is done to. */
  readonly #busy = new Set<string>();
  #running = 0;
  /** Data is being destroyed: nothing else is done. */
  #isAlone = false;

  constructor(options: InjectorOptions) {
    this.#options = options;
  }

  /** Until `signal` aborts; everything is undone then. Rejects when a role does not come back. */
  async run(signal: AbortSignal): Promise<void> {
    const lanes = Array.from({ length: LANES }, (_, lane) => this.#lane(lane, signal));
    const failed = (await Promise.allSettled(lanes)).find((lane) => lane.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  async #lane(lane: number, signal: AbortSignal): Promise<void> {
    const random = new SeededRandom(this.#options.seed * LANES + lane);
    await pause(FIRST_QUIET_MS, signal);
    while (!signal.aborted) {
      // Everything is drawn, whether it can be done now or not: the plan comes from the seed alone.
      const kind = this.#options.kinds[randomInt(random, this.#options.kinds.length)]!;
      const plan = new SeededRandom(randomInt(random, 2 ** 32));
      while (this.#isAlone && !signal.aborted) await pause(100, signal);
      if (signal.aborted) return;
      if (DESTRUCTIONS.includes(kind)) await this.#destroy(kind as Destruction, plan, signal);
      else await this.#inject(kind, plan, signal);
      await pause(randomInt(random, QUIET_MS), signal);
    }
  }

  #begin(kind: FaultKind, what: string, roles: readonly string[]): Injected {
    const injected: Injected = { kind, what, roles, fromMs: Date.now(), toMs: Infinity };
    this.injected.push(injected);
    this.#say(`${kind}: ${what}`);
    return injected;
  }

  #say(line: string): void {
    this.#options.tell(
      `${((performance.now() - this.#startMs) / 1000).toFixed(1)} s (${Date.now()}) ${line}`,
    );
  }

  /** Runs what is done to roles, unless something is done to one of them already. */
  async #with(
    kind: FaultKind,
    what: string,
    roles: readonly string[],
    work: () => Promise<void>,
  ): Promise<void> {
    if (roles.some((role) => this.#busy.has(role))) return;
    for (const role of roles) this.#busy.add(role);
    this.#running++;
    const injected = this.#begin(kind, what, roles);
    try {
      await work();
    } finally {
      injected.toMs = Date.now();
      this.#running--;
      for (const role of roles) this.#busy.delete(role);
    }
  }

  async #inject(kind: FaultKind, plan: SeededRandom, signal: AbortSignal): Promise<void> {
    const { cluster } = this.#options;
    const { names, networks } = cluster;
    const some = (roles: readonly string[]) => roles[randomInt(plan, roles.length)]!;
    const role = some(names);
    switch (kind) {
      case "kill": {
        const awayMs = randomInt(plan, 3) === 0 ? 0 : randomInt(plan, AWAY_MS);
        return await this.#with(kind, `${role} for ${awayMs} ms`, [role], async () => {
          await cluster.kill(role);
          await pause(awayMs, signal);
          await this.#comeBack(role);
        });
      }
      case "kills": {
        const order = shuffled(names, plan);
        const some = order.slice(0, 2 + randomInt(plan, order.length - 1));
        const awayMs = randomInt(plan, AWAY_MS);
        return await this.#with(kind, `${some.join(", ")} for ${awayMs} ms`, some, async () => {
          await Promise.all(some.map((each) => cluster.kill(each)));
          await pause(awayMs, signal);
          // Each is ready only when those that it needs are there: they are not waited for one by one.
          const back: Promise<void>[] = [];
          for (const each of shuffled(some, plan)) {
            back.push(this.#comeBack(each));
            await sleep(randomInt(plan, 500));
          }
          await Promise.all(back);
        });
      }
      case "stop": {
        const ms = STOP_MS.least + randomInt(plan, STOP_MS.range);
        return await this.#with(
          kind,
          `${role} for ${ms} ms`,
          [role],
          () => cluster.pause(role, ms / 1000, (ms) => pause(ms, signal)),
        );
      }
      case "cut": {
        const host = some(names.filter((name) => cluster.networkOf(name) !== 0));
        const ms = CUT_MS.least + randomInt(plan, CUT_MS.range);
        return await this.#with(kind, `${host} for ${ms} ms`, [host], async () => {
          await networks!.setLink(cluster.networkOf(host), false);
          await pause(ms, signal);
          await networks!.setLink(cluster.networkOf(host), true);
        });
      }
      case "partition": {
        const [one, other] = shuffled(names, plan).slice(0, 2).map((name) => ({
          name,
          host: cluster.networkOf(name),
        }));
        const bothWays = randomInt(plan, 2) === 0;
        const ms = CUT_MS.least + randomInt(plan, CUT_MS.range);
        const what = `${one!.name} ${bothWays ? "and" : "to"} ${other!.name} for ${ms} ms`;
        return await this.#with(kind, what, [one!.name, other!.name], async () => {
          await networks!.setDropped(one!.host, other!.host, true);
          if (bothWays) await networks!.setDropped(other!.host, one!.host, true);
          await pause(ms, signal);
          await networks!.setDropped(one!.host, other!.host, false);
          if (bothWays) await networks!.setDropped(other!.host, one!.host, false);
        });
      }
      case "slow": {
        const host = some(names.filter((name) => cluster.networkOf(name) !== 0));
        const bits = SLOW_BITS.least + randomInt(plan, SLOW_BITS.range);
        const ms = CUT_MS.least + randomInt(plan, CUT_MS.range);
        return await this.#with(kind, `${host} at ${bits} bit/s for ${ms} ms`, [host], async () => {
          await networks!.setRate(cluster.networkOf(host), bits);
          await pause(ms, signal);
          await networks!.setRate(cluster.networkOf(host), null);
        });
      }
      case "full": {
        const ms = CUT_MS.least + randomInt(plan, CUT_MS.range);
        return await this.#with(kind, `dataserver1 for ${ms} ms`, ["dataserver1"], async () => {
          await setFull(cluster.volumeOf(1), true);
          await pause(ms, signal);
          await setFull(cluster.volumeOf(1), false);
          // Its database may have found no room: then the volume has failed until a restart, as its next heartbeat says.
          await sleep(HEARD_MS);
          if (await hasFailed(cluster, cluster.volumeOf(1))) {
            await cluster.kill("dataserver1");
            await this.#comeBack("dataserver1");
          }
        });
      }
      case "gone": {
        const volume = cluster.volumeOf(3);
        const ms = CUT_MS.least + randomInt(plan, CUT_MS.range);
        return await this.#with(kind, `dataserver3's for ${ms} ms`, ["dataserver3"], async () => {
          await Deno.rename(volume, `${volume}.gone`);
          await pause(ms, signal);
          await cluster.kill("dataserver3");
          await Deno.rename(`${volume}.gone`, volume);
          await this.#comeBack("dataserver3");
        });
      }
    }
  }

  /** A mount is not made without a nameserver: whoever wants one tries again. */
  async #comeBack(role: string): Promise<void> {
    const { cluster } = this.#options;
    const endMs = performance.now() + BACK_MS;
    for (;;) {
      try {
        return await cluster.restart(role);
      } catch (error) {
        if (!role.startsWith("mount") || performance.now() > endMs) throw error;
        await sleep(500);
      }
    }
  }

  async #destroy(kind: Destruction, plan: SeededRandom, signal: AbortSignal): Promise<void> {
    if (this.#isAlone) return;
    this.#isAlone = true;
    try {
      await eventually(60_000, "the other faults undone", () => this.#running === 0);
      if (signal.aborted) return;
      await destroy(kind, {
        cluster: this.#options.cluster,
        random: plan,
        begin: (what, role) => this.#begin(kind, what, [role]),
        say: (line) => this.#say(line),
      });
    } finally {
      this.#isAlone = false;
    }
  }
}

export function shuffled<T>(items: readonly T[], random: SeededRandom): T[] {
  const left = [...items];
  const order: T[] = [];
  while (left.length > 0) order.push(...left.splice(randomInt(random, left.length), 1));
  return order;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
