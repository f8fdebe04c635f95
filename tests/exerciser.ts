/**
 * The exerciser: random reads, writes, truncates, fallocates, punches, copies, mappings, reopens and renames by several
 * processes on several mounts of one cluster, compared with a model in memory after each.
 *
 *     scripts/test exerciser --seed S --operations N [--processes P] [--files F] [--block BYTES] [--tcp]
 *
 * Each file has a sequence of operations of its own, which depends on the seed alone; each is done by a random one of the
 * processes, half of which use one mount and half the other, and files are worked on at the same time (a copy takes two).
 * What one process has done the next one, on whatever mount, must see. The processes are tests/posix/exerciser_worker.c.
 * Ends with code 1 and the file's last operations at the first difference.
 */

import * as libc from "../base/libc.ts";
import { randomInt, type SeededRandom } from "../base/random.ts";
import { pick } from "./base/seeded.ts";
import { hasProgram, sh, within } from "./harness/command.ts";
import { forgetProcess, trackProcess } from "./harness/scratch.ts";
import { randomOf, weighted } from "./posix/exerciser.ts";
import { SmallCluster } from "./posix/small_cluster_process.ts";
import { FileModel } from "./posix/file_model.ts";

const OFFSET_MAX = 600_000;
const LENGTH_MAX = 70_000;
const KEPT_MAP_BYTES = 200_000;
const LOG_LINES = 25;
/** Of one operation; on an overloaded machine, with leases that go to and fro. */
const ANSWER_MS_MAX = 60_000;
const PUNCH = libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE;

const WEIGHTS = {
  write: 20,
  read: 24,
  readAll: 3,
  append: 6,
  truncate: 5,
  truncateByName: 2,
  punch: 4,
  zero: 3,
  allocate: 3,
  reserve: 1,
  copy: 7,
  mapRead: 5,
  mapWrite: 5,
  mapKept: 4,
  seek: 5,
  stat: 4,
  reopen: 8,
  rename: 3,
  fsync: 1,
};

interface Settings {
  readonly seed: number;
  readonly operations: number;
  readonly processes: number;
  readonly files: number;
  readonly block: number;
  readonly mode: "local" | "tcp";
}

function parse(args: readonly string[]): Settings {
  const numbers = { seed: 1, operations: 100_000, processes: 4, files: 4, block: 100_000 };
  let mode: Settings["mode"] = "local";
  for (let i = 0; i < args.length; i++) {
    const name = args[i]!.slice(2);
    if (args[i] === "--tcp") mode = "tcp";
    else if (args[i]!.startsWith("--") && name in numbers && Number(args[i + 1]) > 0) {
      numbers[name as keyof typeof numbers] = Number(args[++i]);
    } else {
      console.error(
        "usage: exerciser --seed S --operations N [--processes P] [--files F] [--block BYTES] [--tcp]",
      );
      Deno.exit(2);
    }
  }
  return { ...numbers, mode };
}

/** The bytes of a seed, as the workers make them. */
function dataOf(seed: number, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

interface Answer {
  readonly result: number;
  readonly bytes: Uint8Array;
}

/** A process on a mount. It does one thing at a time; who asks meanwhile waits. */
class Worker {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<Uint8Array>;
  #read = new Uint8Array(0);
  #last: Promise<unknown> = Promise.resolve();
  readonly mount: number;
  /** Slots of the files that are open here. */
  readonly open = new Set<number>();

  constructor(program: string, directory: string, mount: number) {
    this.mount = mount;
    this.#child = new Deno.Command(program, {
      args: [directory],
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
      detached: true,
    }).spawn();
    trackProcess(this.#child.pid);
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.getReader();
  }

  ask(line: string): Promise<Answer> {
    const answer = this.#last.then(() => within(ANSWER_MS_MAX, line, this.#ask(line)));
    this.#last = answer.catch(() => {});
    return answer;
  }

  async #ask(line: string): Promise<Answer> {
    await this.#input.write(new TextEncoder().encode(`${line}\n`));
    let end: number;
    while ((end = this.#read.indexOf(0x0a)) < 0) await this.#more();
    const [result, length] = new TextDecoder().decode(this.#read.subarray(0, end)).split(" ").map(Number);
    const whole = end + 1 + length!;
    while (this.#read.length < whole) await this.#more();
    const bytes = this.#read.slice(end + 1, whole);
    this.#read = this.#read.slice(whole);
    return { result: result!, bytes };
  }

  async #more(): Promise<void> {
    const { value, done } = await this.#output.read();
    if (done) throw new Error(`the process has ended: ${JSON.stringify(await this.#child.status)}`);
    const joined = new Uint8Array(this.#read.length + value.length);
    joined.set(this.#read);
    joined.set(value, this.#read.length);
    this.#read = joined;
  }

  async stop(): Promise<void> {
    await this.#input.close().catch(() => {});
    await within(10_000, "end of a process", this.#child.status).catch(() => this.#child.kill("SIGKILL"));
    forgetProcess(this.#child.pid);
  }
}

/** A difference between a file and its model. */
class Difference extends Error {}

class Sample {
  readonly slot: number;
  readonly model = new FileModel();
  name: string;
  readonly #log: string[] = [];
  /** Operations that use it run one after the other. */
  busy: Promise<unknown> = Promise.resolve();

  constructor(slot: number) {
    this.slot = slot;
    this.name = `file${slot}`;
  }

  note(line: string): void {
    this.#log.push(line);
    if (this.#log.length > LOG_LINES) this.#log.shift();
  }

  differ(what: string): never {
    throw new Difference(`${this.name}: ${what}\n  ${this.#log.join("\n  ")}`);
  }

  expect(what: string, { result }: Answer, right: number): void {
    if (result !== right) {
      this.differ(`${what}: ${result < 0 ? `errno ${-result}` : result}, not ${right}`);
    }
  }

  expectBytes(what: string, { result, bytes }: Answer, offset: number, right: Uint8Array): void {
    if (result < 0) this.differ(`${what}: errno ${-result}`);
    let at = 0;
    while (at < Math.min(bytes.length, right.length) && bytes[at] === right[at]) at++;
    if (at < Math.min(bytes.length, right.length)) {
      this.differ(`${what}: wrong from byte ${offset + at} on (${bytes[at]}, not ${right[at]})`);
    }
    if (bytes.length !== right.length) {
      this.differ(`${what}: ${bytes.length} bytes, not ${right.length} (size ${this.model.size})`);
    }
  }
}

class Exerciser {
  readonly #settings: Settings;
  readonly #workers: readonly Worker[];
  readonly #samples: readonly Sample[];
  done = 0;

  constructor(settings: Settings, workers: readonly Worker[]) {
    this.#settings = settings;
    this.#workers = workers;
    this.#samples = Array.from({ length: settings.files }, (_, slot) => new Sample(slot));
  }

  async run(): Promise<void> {
    for (const sample of this.#samples) {
      await this.#workers[0]!.ask(`open ${sample.slot} ${sample.name} ${libc.O_CREAT | libc.O_EXCL}`);
      this.#workers[0]!.open.add(sample.slot);
    }
    const ended = { isOver: false };
    await Promise.all(this.#samples.map((sample) => this.#exercise(sample, ended)));
    for (const sample of this.#samples) {
      for (const worker of this.#workers) {
        sample.note(`the end, process ${this.#workers.indexOf(worker)}`);
        await this.#do(sample, worker, "readAll", randomOf(0, 0));
        await worker.ask(`close ${sample.slot}`);
      }
      sample.expect("unlink", await this.#workers.at(-1)!.ask(`unlink ${sample.name}`), 0);
    }
  }

  async #exercise(sample: Sample, ended: { isOver: boolean }): Promise<void> {
    const { seed, operations, files } = this.#settings;
    try {
      for (let number = sample.slot; number < operations && !ended.isOver; number += files) {
        const random = randomOf(seed, number);
        const kind = weighted(random, WEIGHTS);
        const worker = pick(random, this.#workers);
        const source = kind === "copy" ? pick(random, this.#samples) : sample;
        await this.#alone(sample, source, async () => {
          const process = `process ${this.#workers.indexOf(worker)} mount ${worker.mount + 1}`;
          sample.note(`${number} ${process} (${sample.model.size} bytes) ${kind}`);
          await this.#do(sample, worker, kind, random, source);
        });
        this.done++;
      }
    } catch (error) {
      ended.isOver = true;
      if (error instanceof Difference) throw error;
      return sample.differ(String(error));
    }
  }

  /** A copy waits for its source; of two files that are copied to each other the lower one is waited for first. */
  async #alone(sample: Sample, source: Sample, run: () => Promise<void>): Promise<void> {
    const order = [...new Set([sample, source])].sort((a, b) => a.slot - b.slot);
    const releases: (() => void)[] = [];
    for (const one of order) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const before = one.busy;
      one.busy = before.then(() => promise);
      releases.push(resolve);
      await before;
    }
    try {
      await run();
    } finally {
      for (const release of releases) release();
    }
  }

  async #opened(sample: Sample, worker: Worker): Promise<void> {
    if (worker.open.has(sample.slot)) return;
    sample.expect("open", await worker.ask(`open ${sample.slot} ${sample.name} 0`), 0);
    worker.open.add(sample.slot);
  }

  async #do(
    sample: Sample,
    worker: Worker,
    kind: keyof typeof WEIGHTS,
    random: SeededRandom,
    source: Sample = sample,
  ): Promise<void> {
    const { model, slot } = sample;
    const offset = pick(random, [randomInt(random, OFFSET_MAX), randomInt(random, 150) * 4096]);
    const length = pick(random, [1, 4096, 8192, ...[1, 2, 3].map(() => 1 + randomInt(random, LENGTH_MAX))]);
    const seed = 1 + randomInt(random, 0x7fffffff);
    const shape = `${kind} ${offset}+${length}`;
    if (kind !== "readAll") sample.note(`    ${shape}${kind === "copy" ? ` from ${source.name}` : ""}`);
    const ask = (line: string) => worker.ask(line);
    if (!["append", "truncateByName", "rename", "reopen"].includes(kind)) await this.#opened(sample, worker);
    /** What lies in the file. */
    const inside = Math.max(0, Math.min(length, model.size - offset));
    switch (kind) {
      case "write":
        sample.expect(shape, await ask(`write ${slot} ${offset} ${length} ${seed}`), length);
        return model.write(offset, dataOf(seed, length));
      case "read":
        return sample.expectBytes(
          shape,
          await ask(`read ${slot} ${offset} ${length}`),
          offset,
          model.read(offset, length),
        );
      case "readAll":
        return sample.expectBytes(
          "readAll",
          await ask(`read ${slot} 0 ${model.size + 10}`),
          0,
          model.read(0, model.size),
        );
      case "append": {
        if (model.size > 2 * OFFSET_MAX) return;
        sample.expect(shape, await ask(`append ${sample.name} ${length} ${seed}`), length);
        return model.write(model.size, dataOf(seed, length));
      }
      case "truncate":
        sample.expect(shape, await ask(`truncate ${slot} ${offset}`), 0);
        return model.resize(offset);
      case "truncateByName":
        sample.expect(shape, await ask(`truncname ${sample.name} ${offset}`), 0);
        return model.resize(offset);
      case "punch":
        sample.expect(shape, await ask(`fallocate ${slot} ${PUNCH} ${offset} ${length}`), 0);
        return model.zero(offset, offset + length);
      case "zero": {
        sample.expect(
          shape,
          await ask(`fallocate ${slot} ${libc.FALLOC_FL_ZERO_RANGE} ${offset} ${length}`),
          0,
        );
        model.zero(offset, offset + length);
        return model.resize(Math.max(model.size, offset + length));
      }
      case "allocate":
        sample.expect(shape, await ask(`fallocate ${slot} 0 ${offset} ${length}`), 0);
        return model.resize(Math.max(model.size, offset + length));
      case "reserve":
        return sample.expect(
          shape,
          await ask(`fallocate ${slot} ${libc.FALLOC_FL_KEEP_SIZE} ${offset} ${length}`),
          0,
        );
      case "copy": {
        const from = randomInt(random, OFFSET_MAX);
        sample.note(`    from byte ${from}`);
        if (source === sample && Math.abs(from - offset) < length) return;
        const data = source.model.read(from, length).slice();
        // A file that is copied to its own end gets a new one meanwhile.
        const asked = source === sample ? data.length : length;
        const copied = await ask(`copy ${source.name} ${from} ${slot} ${offset} ${asked}`);
        sample.expect(shape, copied, data.length);
        if (data.length > 0) model.write(offset, data);
        return;
      }
      case "mapRead":
        if (inside === 0) return;
        return sample.expectBytes(
          shape,
          await ask(`mapread ${slot} ${offset} ${inside} ${seed % 2}`),
          offset,
          model.read(offset, inside),
        );
      case "mapWrite":
        if (inside === 0) return;
        sample.expect(shape, await ask(`mapwrite ${slot} ${offset} ${inside} ${seed}`), 0);
        return model.write(offset, dataOf(seed, inside));
      case "mapKept":
        return sample.expectBytes(
          shape,
          await ask(`mapkept ${slot} ${KEPT_MAP_BYTES}`),
          0,
          model.read(0, KEPT_MAP_BYTES),
        );
      case "seek":
        return await this.#seek(sample, worker, offset);
      case "stat": {
        const { bytes } = await ask(`stat ${slot}`);
        const figures = new BigInt64Array(bytes.buffer, 0, 2);
        if (Number(figures[0]) !== model.size) sample.differ(`stat: ${figures[0]} bytes, not ${model.size}`);
        if (model.isZero(0, model.size) || figures[1]! > 0n) return;
        return sample.differ("stat: no room taken, and there is data");
      }
      case "reopen":
        if (worker.open.delete(slot)) sample.expect("close", await ask(`close ${slot}`), 0);
        else await this.#opened(sample, worker);
        return;
      case "rename": {
        const name = `file${slot}.${seed % 1000}`;
        sample.expect(`rename to ${name}`, await ask(`rename ${sample.name} ${name}`), 0);
        sample.name = name;
        return;
      }
      case "fsync":
        return sample.expect(shape, await ask(`fsync ${slot}`), 0);
    }
  }

  /** What is called a hole has no data, and what follows on each other is told alike. */
  async #seek(sample: Sample, worker: Worker, offset: number): Promise<void> {
    const { model, slot } = sample;
    const seek = async (whence: number) => (await worker.ask(`seek ${slot} ${offset} ${whence}`)).result;
    const [data, hole] = [await seek(libc.SEEK_DATA), await seek(libc.SEEK_HOLE)];
    const ENXIO = -6;
    if (offset >= model.size) {
      if (data !== ENXIO || hole !== ENXIO) sample.differ(`seek past the end: ${data}, ${hole}`);
      return;
    }
    const dataEnd = data === ENXIO ? model.size : data;
    if (dataEnd < offset || dataEnd > model.size) sample.differ(`SEEK_DATA of ${offset}: ${data}`);
    if (!model.isZero(offset, dataEnd)) sample.differ(`SEEK_DATA of ${offset}: data before ${data}`);
    if (hole < offset || hole > model.size) sample.differ(`SEEK_HOLE of ${offset}: ${hole}`);
    if ((data === offset) !== (hole > offset)) {
      sample.differ(`${offset} is both data and a hole, or neither: ${data}, ${hole}`);
    }
  }
}

async function main(settings: Settings): Promise<number> {
  const compiler = ["cc", "gcc", "clang"].find(hasProgram);
  if (compiler === undefined) {
    console.error("there is no C compiler: install gcc");
    return 2;
  }
  await using cluster = await SmallCluster.start(settings.mode, settings.block);
  const program = `${cluster.scratch}/exerciser_worker`;
  const source = decodeURIComponent(new URL("posix/exerciser_worker.c", import.meta.url).pathname);
  await sh(`${compiler} -O1 -w -o ${program} ${source}`);
  const { mountpoints } = cluster;
  const workers = Array.from({ length: settings.processes }, (_, i) => {
    const mount = i % mountpoints.length;
    return new Worker(program, mountpoints[mount]!, mount);
  });
  const exerciser = new Exerciser(settings, workers);
  const started = performance.now();
  const progress = setInterval(() => {
    console.error(`${exerciser.done} of ${settings.operations} operations`);
  }, 10_000);
  try {
    await exerciser.run();
  } catch (error) {
    console.error(error instanceof Difference ? `DIFFERENCE ${error.message}` : error);
    console.error(`seed ${settings.seed}, after ${exerciser.done} operations`);
    console.error(`--- end of the cluster's log\n${cluster.log.slice(-4000)}\n---`);
    return 1;
  } finally {
    clearInterval(progress);
    for (const worker of workers) await worker.stop();
  }
  await cluster.stop();
  const seconds = Math.round((performance.now() - started) / 1000);
  console.log(`ok: ${exerciser.done} operations, nothing different, ${seconds} s`);
  return 0;
}

if (import.meta.main) Deno.exit(await main(parse(Deno.args)));
