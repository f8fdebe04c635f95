import assert from "node:assert/strict";
import { randomBytes, randomInt, SeededRandom } from "../../../base/random.ts";
import { chance, seededTest } from "../../base/seeded.ts";
import { run } from "../../harness/command.ts";
import { DiskModel, type DiskModelOptions } from "./disk_model.ts";
import { type Image, readImage, writeImage } from "./image.ts";
import { mark, type Operation, readRecording } from "./recording.ts";
import { hasCompiler, recordingEnvironment } from "./shim.ts";

const EXERCISER = decodeURIComponent(new URL("./exerciser.ts", import.meta.url).pathname);

Deno.test({
  name: "power shim: what was recorded, done again, gives the directory that the program left",
  ignore: !hasCompiler,
  fn: async () => {
    const scratch = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "mfs-power-" }));
    try {
      const [dir, log] = [`${scratch}/dir`, `${scratch}/log`];
      Deno.mkdirSync(dir);
      Deno.writeTextFileSync(`${dir}/there`, "from before");
      const base = readImage(dir);
      const { code, stderr } = await run(
        Deno.execPath(),
        ["run", "-A", "--no-check", "--frozen", EXERCISER, dir],
        { env: await recordingEnvironment(dir, log) },
      );
      assert.equal(code, 0, stderr);
      mark(log, "the end");
      const operations = readRecording(log);
      assert.deepEqual(operations.at(-1), { kind: "mark", text: "the end" });
      const model = new DiskModel(base);
      for (const operation of operations) model.apply(operation);
      assert.deepEqual(sorted(model.latest()), sorted(readImage(dir).image));
      const syncs = operations.filter((operation) => operation.kind === "sync" && operation.step === "done");
      assert.ok(syncs.length > 24, "each kind of sync is seen");

      writeImage(model.cut(new SeededRandom(1)), `${scratch}/again`);
      for (const [path, content] of readImage(`${scratch}/again`).image) {
        if (content === null) assert.ok(Deno.statSync(`${scratch}/again/${path}`).isDirectory);
      }
      // A record that was cut off is none; the others are what they were.
      const bytes = Deno.readFileSync(log);
      Deno.writeFileSync(log, bytes.subarray(0, bytes.length - 3));
      assert.deepEqual(readRecording(log), operations.slice(0, -1));
    } finally {
      Deno.removeSync(scratch, { recursive: true });
    }
  },
});

function sorted(image: Image): [string, Uint8Array | null][] {
  return [...image].sort(([a], [b]) => a < b ? -1 : 1);
}

const ROOT = 1;
const EMPTY = { image: new Map(), files: new Map([["", ROOT]]) };
const bytes = (text: string) => new TextEncoder().encode(text);
let tokens = 0;

const create = (path: string, file: number): Operation => ({ kind: "create", path, file });
const write = (file: number, offset: number, text: string): Operation => ({
  ...{ kind: "write", file, offset, data: bytes(text) },
});
function sync(file: number | null): Operation[] {
  const token = ++tokens;
  return [{ kind: "sync", file, step: "start", token }, { kind: "sync", file, step: "done", token }];
}

/** All images that cuts after these operations gave, as text. */
function cuts(operations: readonly Operation[], options: DiskModelOptions = {}): Set<string> {
  const model = new DiskModel(EMPTY, options);
  for (const operation of operations) model.apply(operation);
  const found = new Set<string>();
  for (let seed = 0; seed < 400; seed++) found.add(describe(model.cut(new SeededRandom(seed))));
  return found;
}

function describe(image: Image): string {
  const text = (content: Uint8Array | null) =>
    content === null ? "/" : "=" + new TextDecoder().decode(content).replaceAll("\0", ".");
  return sorted(image).map(([path, content]) => path + text(content)).join(" ");
}

Deno.test("disk model: what was synced stays, what was not may be there in part or not at all", () => {
  const synced = [create("f", 2), write(2, 0, "ab"), ...sync(2), ...sync(ROOT)];
  assert.deepEqual(cuts(synced), new Set(["f=ab"]));
  assert.deepEqual(cuts([...synced, write(2, 2, "cd")]), new Set(["f=ab", "f=abc", "f=abcd", "f=ab.."]));
  // Written while the sync was under way: not of it.
  const [start, done] = sync(2);
  const found = cuts([...synced, write(2, 0, "x"), start!, write(2, 1, "y"), done!]);
  assert.deepEqual(found, new Set(["f=xb", "f=xy"]));
  assert.ok(
    cuts([...synced, write(2, 0, "x"), start!]).has("f=ab"),
    "a sync that has not ended promises nothing",
  );
});

Deno.test("disk model: two syncs at once promise what each saw at its start", () => {
  const synced = [create("f", 2), ...sync(2), ...sync(ROOT)];
  const [start1, done1] = sync(2);
  const [start2, done2] = sync(2);
  const before = [...synced, write(2, 0, "a"), start1!, write(2, 1, "b"), start2!, write(2, 2, "c")];
  assert.deepEqual(cuts([...before, done2!]), new Set(["f=ab", "f=abc", "f=ab."]));
  assert.deepEqual(cuts([...before, done2!, done1!]), new Set(["f=ab", "f=abc", "f=ab."]));
  assert.ok(cuts([...before, done1!]).has("f=a"));
});

Deno.test("disk model: names come and go in order, and are kept by a sync of their directory", () => {
  const names = [create("a", 2), create("b", 3), { kind: "rename", path: "a", to: "b" } as const];
  assert.deepEqual(cuts(names), new Set(["", "a=", "a= b=", "b="]));
  assert.deepEqual(cuts([...names, ...sync(ROOT)]), new Set(["b="]));
  const file = [create("a", 2), create("b", 3), write(3, 0, "x"), ...sync(3)];
  assert.deepEqual(cuts(file), new Set(["", "a=", "b=x", "a= b=x"]), "a synced file may lack its name");
  assert.deepEqual(cuts(file, { fsyncKeeps: "all names" }), new Set(["a= b=x"]));
  assert.deepEqual(cuts(file, { fsyncKeeps: "its name" }), new Set(["b=x", "a= b=x"]));
  assert.deepEqual(cuts([...file, ...sync(null)]), new Set(["a= b=x"]), "syncfs keeps all");
  const made: Operation[] = [{ kind: "mkdir", path: "d", file: 4 }, create("d/f", 5), ...sync(5)];
  assert.deepEqual(cuts(made), new Set(["", "d/", "d/ d/f="]), "nothing without its directory");
  const moved: Operation[] = [...made, { kind: "rename", path: "d", to: "e" }, ...sync(ROOT)];
  assert.deepEqual(cuts(moved), new Set(["e/ e/f="]));
});

Deno.test("disk model: pages reach the disk in any order, and a missing one reads as zeros", () => {
  const page = (letter: string) => letter.repeat(4096);
  const operations = [
    create("f", 2),
    ...sync(2),
    ...sync(ROOT),
    write(2, 0, page("a")),
    write(2, 4096, page("b")),
  ];
  const found = [...cuts(operations)];
  assert.ok(found.includes(`f=${page(".")}${page("b")}`), "the second without the first");
  assert.ok(found.includes(`f=${page("a")}`) && found.includes(`f=${page("a")}${page("b")}`));
  assert.ok(found.some((text) => /^f=a+b+$/.test(text) && text.length < 8194), "torn");
});

seededTest("disk model: any cut holds what was synced, and nothing that was never written", (random) => {
  for (let round = 0; round < 30; round++) {
    const model = new DiskModel(EMPTY);
    for (const operation of [create("f", 2), ...sync(ROOT)]) model.apply(operation);
    const history: Uint8Array[] = [new Uint8Array(0)];
    let syncedAt = 0;
    for (let step = 0; step < 20; step++) {
      const latest = history.at(-1)!;
      if (chance(random, 0.2)) {
        for (const operation of sync(2)) model.apply(operation);
        syncedAt = history.length - 1;
      } else if (chance(random, 0.25)) {
        const size = randomInt(random, 12_000);
        model.apply({ kind: "truncate", file: 2, size });
        const next = new Uint8Array(size);
        next.set(latest.subarray(0, size));
        history.push(next);
      } else {
        const offset = randomInt(random, 10_000);
        const data = randomBytes(random, 1 + randomInt(random, 3000));
        model.apply({ kind: "write", file: 2, offset, data });
        const next = new Uint8Array(Math.max(latest.length, offset + data.length));
        next.set(latest);
        next.set(data, offset);
        history.push(next);
      }
      assert.deepEqual(model.latest().get("f"), history.at(-1));
      const possible = history.slice(syncedAt);
      const found = model.cut(random).get("f")!;
      if (possible.length === 1) assert.deepEqual(found, possible[0]);
      for (let at = 0; at < found.length; at++) {
        const allowed = possible.some((state) => (state[at] ?? 0) === found[at]);
        assert.ok(allowed, `byte ${at} was never ${found[at]} since the last sync`);
      }
    }
  }
});
