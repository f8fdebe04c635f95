/**
 * What one mount has done, all others show at once: the checker (checker.c) on a cluster with three mount processes. And
 * before that, the checker itself: on a plain directory nothing is wrong, and each answer that is made wrong is found.
 *
 * MFS_TEST_SEED=N runs with that seed, MFS_TEST_FULL=1 ten times as long.
 */

import { assert, assertEquals } from "@std/assert";
import { makeScratch, removeScratch } from "../harness/scratch.ts";
import { buildChecker, type CheckerResult, hasCompiler, runChecker } from "./checker.ts";
import { RoleCluster } from "../harness/role_cluster.ts";

const FACTOR = Deno.env.get("MFS_TEST_FULL") === "1" ? 10 : 1;
const SEED = Deno.env.get("MFS_TEST_SEED") ?? "1";
const LIMIT_MS = 60_000 * FACTOR;

const LOOKS = [
  ...[
    "operation",
    "stat",
    "stat-former",
    "fstat",
    "read",
    "read-handle",
    "read-all",
    "read-mapping",
    "readdir",
  ],
  ...["readdir-handle", "open", "access", "readlink", "getxattr", "listxattr"],
];
/** By what the threads work on, and by the errors of which one must be told. */
const RACES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  registers: {
    "register-stale": "register order",
    "register-torn": "register torn",
    "register-early": "register order",
    "mapped-stale": "register old",
    "errno": "unexpected errno",
  },
  overlap: { "overlap-stale": "overlap old", "overlap-torn": "overlap torn" },
  append: {
    "append-lost": "append lost",
    "append-twice": "append twice",
    "append-torn": "append torn",
    "append-order": "append order",
    "append-size": "append size",
    "append-read": "append content",
  },
  names: { "names-create": "names", "names-stat": "names", "names-readdir": "names" },
  attributes: { "attributes-mode": "attributes mode", "attributes-time": "attributes time" },
  replace: { "replace-stale": "replace order", "replace-absent": "unexpected errno" },
};

function test(name: string, fn: (context: Deno.TestContext) => Promise<void>): void {
  Deno.test({ name, ignore: !hasCompiler, sanitizeOps: false, sanitizeResources: false, fn });
}

function assertClean({ code, output, json }: CheckerResult): void {
  // The first errors and the totals.
  const told = output.length < 6000 ? output : `${output.slice(0, 4500)}\n...\n${output.slice(-1500)}`;
  assert(code === 0, `exit code ${code} of the checker with seed ${SEED}\n${told}`);
  // A history with too much at once is not checked to its end.
  assert((json?.unchecked ?? 0) === 0, told);
}

test("the checker finds nothing on a plain directory, and each answer that is made wrong", async (context) => {
  const scratch = makeScratch();
  try {
    const program = await buildChecker(scratch);
    const dir = `${scratch}/dir`;
    Deno.mkdirSync(dir);
    const check = (mode: string, amount: number, ...options: string[]) =>
      runChecker(program, [mode, SEED, String(amount), dir, dir, dir, ...options], LIMIT_MS);
    const step = (name: string, fn: () => Promise<void>) => context.step({ name, fn });

    await step("looks", async () => assertClean(await check("look", 10_000 * FACTOR)));
    await step("looks, and writes through mappings", async () => {
      assertClean(await check("look", 5_000 * FACTOR, "--mapped-writes"));
    });
    await step("races", async () => assertClean(await check("race", 3 * FACTOR, "--strict")));
    await step("races with outcomes that nobody knows", async () => {
      const result = await check("race", 2 * FACTOR, "--faults", "--inject", "unknown");
      assertClean(result);
      assert((result.json?.unknown ?? 0) > 0);
    });
    for (const look of LOOKS) {
      await step(`a wrong ${look} is found`, async () => {
        const { code, output } = await check("look", 20_000, "--inject", look);
        assertEquals(code, 1, output);
        assert(output.includes(`STALE ${look}`), output);
      });
    }
    for (const [only, injections] of Object.entries(RACES)) {
      for (const [injection, error] of Object.entries(injections)) {
        await step(`a wrong answer is found: ${injection}`, async () => {
          const inject = (seconds: number) => check("race", seconds, "--only", only, "--inject", injection);
          // A slow machine may not come to make a wrong answer in so short a time.
          let result = await inject(0.4);
          if (result.code === 0) result = await inject(4);
          const { code, output, json } = result;
          assertEquals(code, 1, output.slice(-2000));
          assert((json?.wrong?.[error] ?? 0) > 0, output.slice(-2000));
        });
      }
    }
  } finally {
    await removeScratch(scratch);
  }
});

test("three mounts show the same at all times", async (context) => {
  const cluster = await RoleCluster.start();
  try {
    const program = await buildChecker(cluster.scratch);
    const check = async (mode: string, amount: number, ...options: string[]) =>
      assertClean(
        await runChecker(program, [mode, SEED, String(amount), ...cluster.mountpoints, ...options], LIMIT_MS),
      );
    const step = (name: string, fn: () => Promise<void>) =>
      context.step({ name, fn, sanitizeOps: false, sanitizeResources: false });
    const passed = [
      await step("one operation at a time", () => check("look", 3_000 * FACTOR)),
      await step("operations at once", () => check("race", 8 * FACTOR)),
      // Many of one kind on few objects find what many kinds at once rarely do.
      await step("changes of attributes at once", () => check("race", 4 * FACTOR, "--only", "attributes")),
      // Who pauses leaves what it knows to its kernel, which then is what has to be right.
      await step(
        "names, with pauses",
        () => check("race", 6 * FACTOR, "--only", "names", "--pause", "2"),
      ),
      await step("the cluster stops by itself", () => cluster.stop()),
    ];
    if (!passed.every(Boolean)) console.error(`--- ends of the cluster's logs\n${cluster.log(2000)}\n---`);
  } finally {
    await cluster.discard();
  }
});
