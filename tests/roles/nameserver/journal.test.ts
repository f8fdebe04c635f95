import assert from "node:assert/strict";
import { bytesKey, bytesOf, copyBytes, textOf } from "../../../base/bytes.ts";
import { type Random, randomBytes, randomInt } from "../../../base/random.ts";
import { type Journal, LevelJournal, type Write } from "../../../roles/nameserver/journal.ts";
import { isErrno } from "../../../wire/errno.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { batchOf, LAST } from "./journal_batches.ts";
import { MemoryJournal } from "./memory_journal.ts";

const ALL = [new Uint8Array([0x01]), new Uint8Array([0xff])] as const;
type Model = Map<string, Uint8Array>;

async function withLevel(run: (path: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "mfs_journal_" });
  try {
    await run(`${dir}/db`);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

const open = (path: string) =>
  LevelJournal.open(path, { createIfMissing: true, onFailure: (error) => assert.fail(error) });

function apply(model: Model, writes: readonly Write[]): void {
  for (const [key, value] of writes) {
    if (value === null) model.delete(bytesKey(key));
    else model.set(bytesKey(key), value);
  }
}

async function assertHolds(journal: Journal, model: Model): Promise<void> {
  const records = await journal.scan(ALL, 100_000);
  const expected = [...model].sort(([a], [b]) => a < b ? -1 : 1);
  assert.deepEqual(records.map(([key, value]) => [bytesKey(key), copyBytes(value)]), expected);
}

function randomWrites(random: Random): Write[] {
  return Array.from({ length: 1 + randomInt(random, 5) }, () => [
    new Uint8Array([1 + randomInt(random, 3), randomInt(random, 20)]),
    chance(random, 0.3) ? null : randomBytes(random, randomInt(random, 50)),
  ]);
}

/** Reads see each append at once, waits end in order, and what was written is what a model says. */
async function workload(random: Random, journal: Journal, model: Model, rounds: number): Promise<void> {
  let acknowledged = 0;
  const waits: Promise<void>[] = [];
  for (let round = 0; round < rounds; round++) {
    const writes = randomWrites(random);
    const position = journal.append(writes);
    apply(model, writes);
    if (chance(random, 0.5)) {
      const wait = chance(random, 0.1) ? journal.durable(position) : journal.written(position);
      waits.push(
        Promise.resolve(wait).then(() => {
          assert.equal(journal.written(position), undefined, "acknowledged means written");
          acknowledged++;
        }),
      );
    }
    for (let i = 0; i < 3; i++) {
      const key = new Uint8Array([1 + randomInt(random, 3), randomInt(random, 20)]);
      const value = journal.get(key);
      assert.deepEqual(value === undefined ? undefined : copyBytes(value), model.get(bytesKey(key)));
    }
    if (chance(random, 0.2)) await pick(random, [() => journal.written(position), () => Promise.resolve()])();
    if (chance(random, 0.05)) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  await Promise.all(waits);
  assert.equal(acknowledged, waits.length);
  await journal.written(journal.append([[bytesOf("\x01end"), null]]));
  await assertHolds(journal, model);
}

seededTest("journal: reads, waits and scans agree with a model, also after opening again", async (random) => {
  await withLevel(async (path) => {
    const model: Model = new Map();
    for (let life = 0; life < 3; life++) {
      const journal = await open(path);
      await assertHolds(journal, model);
      await workload(random, journal, model, 1_500);
      await journal.close();
    }
  });
});

seededTest("journal: the tests' journal in memory passes the same", async (random) => {
  await workload(random, new MemoryJournal(), new Map(), 1_500);
});

Deno.test("journal: acknowledgements come in the order of the appends", async () => {
  await withLevel(async (path) => {
    const journal = await open(path);
    const order: number[] = [];
    const waits: Promise<unknown>[] = [];
    for (let i = 0; i < 300; i++) {
      const position = journal.append([[bytesOf(`k${i % 7}`), bytesOf(String(i))]]);
      waits.push(journal.written(position)!.then(() => order.push(position)));
      if (i % 10 === 0) await Promise.resolve();
      if (i % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    }
    await Promise.all(waits);
    assert.deepEqual(order, [...order].sort((a, b) => a - b));
    assert.equal(order.length, 300);
    await journal.close();
  });
});

Deno.test("journal: `seen` names the newest unwritten append that was read, once", async () => {
  await withLevel(async (path) => {
    const journal = await open(path);
    const [a, b] = [bytesOf("a"), bytesOf("b")];
    const first = journal.append([[a, bytesOf("1")]]);
    const second = journal.append([[b, null]]);
    assert.equal(journal.seen(), 0);
    journal.get(a);
    assert.equal(journal.seen(), first);
    assert.equal(journal.seen(), 0);
    journal.get(b); // a deletion is seen as well
    journal.get(a);
    assert.equal(journal.seen(), second);
    await journal.written(second);
    journal.get(a);
    journal.get(b);
    assert.equal(journal.seen(), 0);
    await journal.close();
  });
});

Deno.test("journal: closing writes what is pending", async () => {
  await withLevel(async (path) => {
    const journal = await open(path);
    for (let i = 0; i < 50; i++) journal.append([[bytesOf(`k${i}`), bytesOf("v")]]);
    await journal.close();
    const again = await open(path);
    assert.equal((await again.scan(ALL, 1000)).length, 50);
    await again.close();
  });
});

Deno.test("journal: a durable wait without anything to write ends", async () => {
  await withLevel(async (path) => {
    const journal = await open(path);
    const position = journal.append([[bytesOf("a"), bytesOf("1")]]);
    await journal.written(position);
    await journal.durable(position);
    await journal.durable(0);
    await assertHolds(journal, new Map([["a", bytesOf("1")]]));
    await journal.close();
  });
});

Deno.test("journal: after a failed write nothing is accepted and everybody who waits is told", async () => {
  await withLevel(async (path) => {
    const failures: Error[] = [];
    const journal = await LevelJournal.open(path, {
      createIfMissing: true,
      onFailure: (error) => failures.push(error),
    });
    await journal.written(journal.append([[bytesOf("good"), bytesOf("1")]]));
    const bad = journal.append([[bytesOf("bad"), undefined as never]]); // what LevelDB refuses
    const waits = [journal.written(bad)!, journal.durable(bad)];
    for (const wait of waits) await assert.rejects(wait, (error) => isErrno(error, "EIO"));
    assert.throws(() => journal.append([[bytesOf("x"), null]]), (error) => isErrno(error, "EIO"));
    await assert.rejects(journal.durable(bad + 1), (error) => isErrno(error, "EIO"));
    assert.equal(failures.length, 1);
    await journal.close();
    const again = await open(path);
    await assertHolds(again, new Map([["good", bytesOf("1")]]));
    await again.close();
  });
});

Deno.test("journal: a database that is open elsewhere is EBUSY, a damaged one or none EIO", async () => {
  await withLevel(async (path) => {
    const options = { createIfMissing: false, onFailure: () => {} };
    await assert.rejects(LevelJournal.open(path, options), (error) => isErrno(error, "EIO"));
    const journal = await open(path);
    await assert.rejects(open(path), (error) => isErrno(error, "EBUSY"));
    await journal.close();
    await Deno.writeTextFile(`${path}/CURRENT`, "nonsense\n");
    await assert.rejects(LevelJournal.open(path, options), (error) => isErrno(error, "EIO"));
  });
});

/** Starts a writer, kills it after `ms`; the number of the last batch that it acknowledged. */
async function writeAndKill(path: string, first: number, seed: number, ms: number): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-check",
      import.meta.resolve("./journal_child.ts"),
      path,
      String(first),
      String(seed),
    ],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let text = "";
  let timer: number | undefined;
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    // Counted from the first acknowledgement: starting takes its time.
    timer ??= setTimeout(() => child.kill("SIGKILL"), ms);
    text += decoder.decode(chunk, { stream: true });
  }
  clearTimeout(timer);
  const { signal } = await child.status;
  assert.equal(signal, "SIGKILL");
  return Number(text.split("\n").slice(0, -1).at(-1));
}

seededTest(
  "journal: a kill -9 leaves a prefix of whole batches, at least what was acknowledged",
  async (random) => {
    await withLevel(async (path) => {
      const model: Model = new Map();
      let next = 1;
      for (let life = 0; life < 5; life++) {
        const acknowledged = await writeAndKill(
          path,
          next,
          randomInt(random, 1e9),
          5 + randomInt(random, 250),
        );
        assert.ok(acknowledged >= next);
        const journal = await open(path);
        const last = Number(textOf(journal.get(LAST)!));
        assert.ok(last >= acknowledged, `batch ${acknowledged} was acknowledged, ${last} is the last there`);
        for (; next <= last; next++) apply(model, batchOf(next));
        await assertHolds(journal, model);
        await journal.close();
      }
    });
  },
);
