/**
 * The nameserver's journal under power cuts: operations run in a process whose file operations are recorded; at
 * many points the directory is made as a disk may hold it then, and opened by the real code.
 */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { bytesEqual, copyBytes } from "../../base/bytes.ts";
import { type Random, randomInt, SeededRandom } from "../../base/random.ts";
import { LevelJournal, type Write } from "../../roles/nameserver/journal.ts";
import { readIdentity } from "../../roles/nameserver/layout.ts";
import { FsError } from "../../wire/errno.ts";
import { chance } from "../base/seeded.ts";
import { run } from "../harness/command.ts";
import { checkNamespace } from "../roles/nameserver/consistency.ts";
import { MemoryJournal } from "../roles/nameserver/memory_journal.ts";
import { lastOperation, Workload } from "./nameserver/workload.ts";
import { DiskModel } from "./power/disk_model.ts";
import { readImage, writeImage } from "./power/image.ts";
import { readRecording } from "./power/recording.ts";
import { hasCompiler, recordingEnvironment } from "./power/shim.ts";

const PROGRAM = decodeURIComponent(new URL("./nameserver/program.ts", import.meta.url).pathname);
const MAIN = decodeURIComponent(new URL("../../main.ts", import.meta.url).pathname);
const ALL = [new Uint8Array([0x01]), new Uint8Array([0xff])] as const;
const OPERATIONS = 1_500;
const CUTS = 30;

const seeds = Deno.env.has("MFS_TEST_SEED")
  ? [Number(Deno.env.get("MFS_TEST_SEED"))]
  : Array.from({ length: Deno.env.has("MFS_TEST_FULL") ? 200 : 3 }, (_, i) => i + 1);

for (const seed of seeds) {
  Deno.test({
    name: `power cuts of the nameserver: what was durable is there, in order (seed ${seed})`,
    ignore: !hasCompiler,
    fn: async () => {
      // In memory where there is such a place: what is on the disk is the model's to say.
      const place = existsSync("/dev/shm") ? { dir: "/dev/shm" } : {};
      const scratch = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "mfs-power-", ...place }));
      try {
        await lives(new SeededRandom(seed), scratch);
      } finally {
        Deno.removeSync(scratch, { recursive: true });
      }
    },
  });
}

Deno.test({
  name:
    "power cuts of the nameserver: a directory counts as formatted when all of it is there, and then it stays",
  ignore: !hasCompiler,
  fn: async () => {
    const scratch = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "mfs-power-" }));
    try {
      const [place, log, cut] = [`${scratch}/place`, `${scratch}/log`, `${scratch}/cut`];
      Deno.mkdirSync(place);
      const model = new DiskModel(readImage(place), { fsyncKeeps: "its name" });
      const env = await recordingEnvironment(place, log);
      const { code, stderr } = await run(
        Deno.execPath(),
        ["run", "-A", "--no-check", "--frozen", MAIN, "format", "--dir", `${place}/dir`],
        { env },
      );
      assert.equal(code, 0, stderr);
      const random = new SeededRandom(1);
      const recording = readRecording(log);
      let formatted = 0;
      for (const [i, operation] of recording.entries()) {
        model.apply(operation);
        writeImage(model.cut(random), cut);
        if (await isFormatted(`${cut}/dir`)) formatted++;
        else assert.ok(i < recording.length - 1, "it was said to be formatted");
        Deno.removeSync(cut, { recursive: true });
      }
      assert.ok(formatted > 0);
    } finally {
      Deno.removeSync(scratch, { recursive: true });
    }
  },
});

/** True when the directory says that it is a nameserver's; then it must have a namespace with a root. */
async function isFormatted(dir: string): Promise<boolean> {
  try {
    await readIdentity(dir);
  } catch (error) {
    if (error instanceof FsError && error.errno === "ENOENT") return false;
    throw error;
  }
  const journal = await LevelJournal.open(`${dir}/db`, {
    createIfMissing: false,
    onFailure: (error) => assert.fail(error),
  });
  const found = new MemoryJournal();
  found.append(
    (await journal.scan(ALL, 1000)).map(([key, value]): Write => [copyBytes(key), copyBytes(value)]),
  );
  await journal.close();
  assert.equal(checkNamespace(found).inodes.size, 1, "the root is there");
  return true;
}

/** Two lives: the second goes on with what a cut has left of the first. */
async function lives(random: Random, scratch: string): Promise<void> {
  const dir = `${scratch}/dir`;
  Deno.mkdirSync(dir);
  let before = new MemoryJournal();
  for (let life = 0; life < 2; life++) {
    const log = `${scratch}/log${life}`;
    const base = readImage(dir);
    const seed = randomInt(random, 1_000_000);
    const { code, stderr } = await run(
      Deno.execPath(),
      ["run", "-A", "--no-check", "--frozen", PROGRAM, `${dir}/db`, String(seed), String(OPERATIONS), log],
      { env: await recordingEnvironment(dir, log) },
    );
    assert.equal(code, 0, stderr);
    const states = await States.of(before, seed);
    const recording = readRecording(log);
    // Not "data only": LevelDB relies on the name of a new table that it synced.
    const model = new DiskModel(base, { fsyncKeeps: chance(random, 0.5) ? "its name" : "all names" });
    let durable = 0;
    let cuts = 0;
    for (const [i, operation] of recording.entries()) {
      model.apply(operation);
      if (operation.kind === "mark") durable = Number(operation.text.split(" ")[1]);
      // Right after a promise is when it is most easily broken.
      const probability = operation.kind === "mark" ? 0.4 : 1.2 * CUTS / recording.length;
      if (i < recording.length - 1 && (cuts === CUTS || !chance(random, probability))) continue;
      cuts++;
      const cut = `${scratch}/cut`;
      writeImage(model.cut(random), cut);
      const found = await reopened(cut, durable, states, `at operation ${i} of life ${life}`);
      if (i < recording.length - 1) {
        Deno.removeSync(cut, { recursive: true });
        continue;
      }
      Deno.removeSync(dir, { recursive: true });
      Deno.renameSync(cut, dir);
      before = found;
    }
  }
}

/** Opens what a cut has left, and checks it: what it holds. */
async function reopened(dir: string, durable: number, states: States, what: string): Promise<MemoryJournal> {
  const found = new MemoryJournal();
  let journal: LevelJournal;
  try {
    journal = await LevelJournal.open(`${dir}/db`, {
      createIfMissing: false,
      onFailure: (error) => assert.fail(error),
    });
  } catch (error) {
    // A database that is being made need not be one yet: `mfs format` was not done.
    if (durable === 0) return found;
    throw new Error(`${what}: ${(error as Error).message}`, { cause: error });
  }
  try {
    const records = await journal.scan(ALL, 1_000_000);
    found.append(records.map(([key, value]): Write => [copyBytes(key), copyBytes(value)]));
  } finally {
    await journal.close();
  }
  const number = lastOperation(found);
  assert.ok(number >= durable, `${what}: ${number} is the last operation, ${durable} was durable`);
  if (number === 0) return found;
  assertSame(found, states.at(number), `${what}: all up to ${number} is there, and nothing later`);
  checkNamespace(found);
  return found;
}

function assertSame(found: MemoryJournal, expected: MemoryJournal, what: string): void {
  const [records, others] = [found.list(), expected.list()];
  const i = others.findIndex(([key, value], at) => {
    const [foundKey, foundValue] = records[at] ?? [];
    return foundKey === undefined || !bytesEqual(foundKey, key) || !bytesEqual(foundValue!, value);
  });
  if (i < 0 && records.length === others.length) return;
  assert.fail(`${what}: record ${i} of ${others.length} differs (${records.length} found)`);
}

/** What the workload's journal holds after each operation. */
class States {
  /** What each operation wrote, from the first of this life. */
  readonly #batches: readonly (readonly Write[])[];
  readonly #first: number;

  private constructor(before: MemoryJournal, batches: readonly (readonly Write[])[]) {
    this.#first = lastOperation(before);
    const there = before.list(ALL).map(([key, value]): Write => [key, value]);
    this.#batches = [there, ...batches];
  }

  static async of(before: MemoryJournal, seed: number): Promise<States> {
    const batches: (readonly Write[])[] = [];
    const journal = new class extends MemoryJournal {
      override append(writes: readonly Write[]): number {
        batches.push(writes);
        return super.append(writes);
      }
    }();
    journal.append(before.list(ALL).map(([key, value]): Write => [key, value]));
    batches.length = 0;
    const workload = await Workload.start(journal, seed);
    for (let i = 0; i < OPERATIONS; i++) await workload.next();
    return new States(before, batches);
  }

  at(number: number): MemoryJournal {
    const journal = new MemoryJournal();
    for (const writes of this.#batches.slice(0, number - this.#first + 1)) journal.append(writes);
    return journal;
  }
}
