/** What a peer's processes take: memory and processor time, of them and of all that they have started. */

export interface Footprint {
  readonly processes: number;
  /** Proportional set size: what is shared counts by its share. */
  readonly pssMib: number;
}

const KIB_PER_MIB = 1024;
/** USER_HZ, which is 100 on all that Linux runs on here: proc(5), stat. */
const TICKS_PER_SECOND = 100;
/** They only start others and wait. */
const WRAPPERS = new Set(["unshare", "nsenter", "sh"]);

interface ProcessState {
  readonly pid: number;
  readonly parent: number;
  readonly name: string;
  readonly cpuSeconds: number;
  /** Of its children that have ended and that it has waited for. */
  readonly endedSeconds: number;
  /** Ticks since the boot at which it started: with the pid, its identity. */
  readonly started: number;
}

function readState(pid: number): ProcessState | undefined {
  let stat: string;
  try {
    stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  } catch {
    return undefined;
  }
  const nameEnd = stat.lastIndexOf(")");
  const fields = stat.slice(nameEnd + 2).split(" ");
  return {
    pid,
    parent: Number(fields[1]),
    name: stat.slice(stat.indexOf("(") + 1, nameEnd),
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
    endedSeconds: (Number(fields[13]) + Number(fields[14])) / TICKS_PER_SECOND,
    started: Number(fields[19]),
  };
}

/** The processes `pids` and all below them; with `withWrappers`, those that only start others as well. */
function family(pids: readonly number[], withWrappers = false): readonly ProcessState[] {
  const all = new Map<number, ProcessState>();
  for (const { name } of Deno.readDirSync("/proc")) {
    const state = /^\d+$/.test(name) ? readState(Number(name)) : undefined;
    if (state !== undefined) all.set(state.pid, state);
  }
  const isOurs = (state: ProcessState | undefined): boolean =>
    state !== undefined && (pids.includes(state.pid) || isOurs(all.get(state.parent)));
  return [...all.values()].filter((state) => isOurs(state) && (withWrappers || !WRAPPERS.has(state.name)));
}

export function footprintOf(pids: readonly number[]): Footprint {
  let pssKib = 0;
  let processes = 0;
  for (const { pid } of family(pids)) {
    try {
      const rollup = Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`);
      pssKib += Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1] ?? 0);
      processes++;
    } catch {
      // It has ended, or is a zombie.
    }
  }
  return { processes, pssMib: pssKib / KIB_PER_MIB };
}

/** Processor seconds of a family of processes; of those that ended, what they had used when they were last seen. */
export class CpuMeter {
  readonly #pids: readonly number[];
  readonly #seen = new Map<string, number>();
  readonly #atStart: number;

  constructor(pids: readonly number[]) {
    this.#pids = pids;
    this.#atStart = this.#total();
  }

  /** Since the meter was made. */
  seconds(): number {
    return this.#total() - this.#atStart;
  }

  #total(): number {
    for (const { pid, started, cpuSeconds } of family(this.#pids)) {
      this.#seen.set(`${pid} ${started}`, cpuSeconds);
    }
    return [...this.#seen.values()].reduce((sum, seconds) => sum + seconds, 0);
  }
}

/**
 * How much of the machine went to others (and to the kernel's own threads, which write back) while we ran: a share of
 * all processors. Who needs several processes for an operation suffers most from it.
 */
export class OthersMeter {
  readonly #startMs = performance.now();
  readonly #busyAtStart = busySeconds();
  readonly #ownAtStart = ownSeconds();

  share(): number {
    const seconds = (performance.now() - this.#startMs) / 1000 * navigator.hardwareConcurrency;
    const others = busySeconds() - this.#busyAtStart - (ownSeconds() - this.#ownAtStart);
    return Math.min(1, Math.max(0, others / seconds));
  }
}

/** Of this process and all below it, with what has ended there. */
function ownSeconds(): number {
  return family([Deno.pid], true).reduce(
    (sum, { cpuSeconds, endedSeconds }) => sum + cpuSeconds + endedSeconds,
    0,
  );
}

/** proc(5), stat: user, nice, system; without idle and iowait. */
function busySeconds(): number {
  const [, user, nice, system, , , irq, softirq] = Deno.readTextFileSync("/proc/stat").split("\n", 1)[0]!
    .split(/\s+/).map(Number) as number[];
  return (user! + nice! + system! + irq! + softirq!) / TICKS_PER_SECOND;
}
