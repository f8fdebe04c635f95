/**
 * Short runs of the fault harness; `scripts/test faults --runs N` does it for long. A failure shows the seed and what was
 * done. And that the worker finds what is wrong: a byte that changes under it, and a file that is gone.
 */

import { assert, assertEquals } from "@std/assert";
import { testSeed } from "../base/seeded.ts";
import { eventually, sleep } from "../harness/command.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";
import { whatIsMissing } from "./available.ts";
import { FAULT_KINDS, type FaultKind } from "./faults.ts";
import { runOnce } from "./run.ts";
import { buildWorker, Workers } from "./workers.ts";

const missing = await whatIsMissing();
if (missing !== undefined) console.log(`faults: skipped, as there is no ${missing}`);
/** Kills a mount, then another one with the nameserver and a dataserver, and parts those that are left. */
const SEED = testSeed(4);

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({
    name,
    ignore: missing !== undefined,
    sanitizeOps: false,
    sanitizeResources: false,
    fn,
  });
}

async function run(seconds: number, kinds: readonly FaultKind[]): Promise<void> {
  const lines: string[] = [];
  const result = await runOnce({ seed: SEED, seconds, kinds, tell: (line) => lines.push(line) });
  const told = [...lines, ...result.problems, result.log?.slice(-8_000) ?? ""].join("\n");
  assertEquals(result.problems.length, 0, `MFS_TEST_SEED=${SEED} does the same again:\n${told}`);
  assert(result.files > 0 && result.blocks > 0 && (result.operations?.write ?? 0) > 0, told);
}

/** A worker on a plain directory, and what it says is wrong after something was done to one of its files. */
async function wrongsAfter(
  { running, stopped }: {
    readonly running?: (file: string) => Promise<unknown>;
    readonly stopped?: (file: string) => Promise<unknown>;
  },
): Promise<readonly string[]> {
  const dir = makeScratch();
  const workers = Workers.start(await buildWorker(dir), 1, SEED, [dir, dir]);
  /** The one that is never unlinked; "" before it is there. */
  const file = () => {
    try {
      const names = [...Deno.readDirSync(`${dir}/worker1`)].map(({ name }) => name);
      const name = names.find((name) => name.startsWith("file0-"));
      return name !== undefined && Deno.statSync(`${dir}/worker1/${name}`).size > 0
        ? `${dir}/worker1/${name}`
        : "";
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return "";
      throw error;
    }
  };
  try {
    await eventually(20_000, "a file", () => file() !== "");
    await running?.(file());
    await sleep(500);
    await workers.stop(20_000);
    await stopped?.(file());
    await workers.verify(dir, 20_000);
    return workers.wrongs;
  } finally {
    workers.kill();
    await removeScratch(dir);
  }
}

test("faults: the worker finds nothing wrong with a plain directory", async () => {
  assertEquals(await wrongsAfter({}), []);
});

test("faults: the worker finds a byte that has changed, and a file that is short or gone", async () => {
  const flip = (file: string) => {
    const bytes = Deno.readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    return Deno.writeFile(file, bytes);
  };
  const flipped = await wrongsAfter({ stopped: flip });
  assert(flipped.length === 1 && /other bytes/.test(flipped[0]!), flipped.join("\n"));
  const short = await wrongsAfter({ stopped: (file) => Deno.truncate(file, Deno.statSync(file).size - 1) });
  assert(short.length === 1 && /another size/.test(short[0]!), short.join("\n"));
  const gone = await wrongsAfter({ running: (file) => Deno.remove(file) });
  assert(gone.some((line) => /gone|lost|not there/.test(line)), gone.join("\n"));
});

test("faults: processes that die and hang, and networks that fail, lose nothing", () =>
  run(
    8,
    FAULT_KINDS.filter((kind) => ["kill", "kills", "stop", "cut", "partition", "full"].includes(kind)),
  ));
