/**
 * Locks by real processes on two mounts of one cluster, as on two machines, and by several processes on one; the latter
 * also by random programs whose every answer must be that of the local file system.
 */

import assert from "node:assert/strict";
import { randomInt, SeededRandom } from "../../base/random.ts";
import { pick, testSeed } from "../base/seeded.ts";
import { sh } from "../harness/command.ts";
import { LockActor } from "./lock_actor.ts";
import { SmallCluster } from "./small_cluster_process.ts";

const BLOCK_BYTES = 1 << 20;
const RANDOM_OPERATIONS = 250;
const OFFSETS = 12;

/** Gives commands one after the other: [who, command, answer]. */
async function play(script: readonly (readonly [LockActor, string, string])[]): Promise<void> {
  for (const [actor, command, expected] of script) {
    assert.equal(await actor.do(command), expected, command);
  }
}

Deno.test({
  name: "locks: on two mounts and on one",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn(t) {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES);
    const [here, there] = cluster.mountpoints;
    await using a = await LockActor.start();
    await using b = await LockActor.start();
    await using c = await LockActor.start();
    let files = 0;
    /** a and c are on one mount, b is on the other; each has the same new file open. */
    const step = (name: string, fn: () => Promise<void>) =>
      t.step({
        name,
        fn: async () => {
          files++;
          const file = (mount: string) => `${mount}/file${files}`;
          await play([
            [a, `open f ${file(here)} rw`, "ok"],
            [b, `open f ${file(there)} rw`, "ok"],
            [c, `open f ${file(here)} rw`, "ok"],
          ]);
          await fn();
          for (const actor of [a, b, c]) await actor.do("close f");
        },
        sanitizeOps: false,
        sanitizeResources: false,
      });

    await step(
      "the first record lock of a mount, through a file that is only read, ends with its close",
      async () => {
        await play([
          [a, `open g ${here}/file1 r`, "ok"],
          [a, "posix r g 0 0", "ok"],
          [b, "posix w f 0 0", "EAGAIN"],
          [a, "close g", "ok"],
          [b, "posix w f 0 0 wait", "ok"],
        ]);
      },
    );

    for (
      const [kind, shared, exclusive, unlock] of [
        ["fcntl", "posix r f 0 0", "posix w f 0 0", "posix u f 0 0"],
        ["open file", "ofd r f 0 0", "ofd w f 0 0", "ofd u f 0 0"],
        ["flock", "flock sh f", "flock ex f", "flock un f"],
      ] as const
    ) {
      await step(`${kind}: shared, exclusive, waited for, released by unlock, close and death`, async () => {
        await play([
          [a, shared, "ok"],
          [b, shared, "ok"],
          [c, exclusive, "EAGAIN"],
          [a, unlock, "ok"],
        ]);
        const second = await c.beginToWait(`${exclusive} wait`);
        await play([[b, "close f", "ok"]]);
        assert.equal(await second.answer, "ok");
        await play([
          [b, `open f ${there}/file${files} rw`, "ok"],
          [b, exclusive, "EAGAIN"],
          [c, unlock, "ok"],
        ]);
        await using killed = await LockActor.start();
        await play([
          [killed, `open f ${here}/file${files} rw`, "ok"],
          [killed, exclusive, "ok"],
          [b, shared, "EAGAIN"],
        ]);
        const third = await b.beginToWait(`${shared} wait`);
        killed.signal("SIGKILL");
        assert.equal(await third.answer, "ok");
      });

      await step(`${kind}: a signal ends a wait, and leaves nothing`, async () => {
        await play([[a, exclusive, "ok"]]);
        for (const waiter of [b, c]) {
          const waiting = await waiter.beginToWait(`${exclusive} wait`);
          waiter.signal("SIGUSR1");
          assert.equal(await waiting.answer, "EINTR");
        }
        await play([[a, unlock, "ok"], [b, exclusive, "ok"], [b, unlock, "ok"], [c, exclusive, "ok"]]);
      });
    }

    await step("fcntl and flock know nothing of each other; fcntl and open files do", async () => {
      await play([
        [a, "posix w f 0 0", "ok"],
        [b, "flock ex f", "ok"],
        [c, "ofd r f 5 1", "EAGAIN"],
        [a, "ofd r f 5 1", "EAGAIN"],
      ]);
    });

    await step("ranges: split and merged, and told to who asks", async () => {
      await play([
        [a, "posix w f 0 30", "ok"],
        [a, "posix u f 10 10", "ok"],
        [b, "posix w f 10 10", "ok"],
        [b, "get posix r f 20 0", "w 20 10 0"],
        [c, "get posix r f 20 0", `w 20 10 ${a.pid}`],
        [c, "get posix w f 10 5", "w 10 10 0"],
        [a, "posix r f 5 3", "ok"],
        [c, "get posix w f 4 0", `w 0 5 ${a.pid}`],
        [c, "posix r f 5 3", "ok"],
        [a, "get posix w f 0 10", "r 5 3 " + c.pid],
      ]);
    });

    await step("ranges: up to the last byte that there can be", async () => {
      const [last, safe] = ["9223372036854775807", "9007199254740991"]; // 2^63-1, 2^53-1
      await play([
        [a, `posix w f ${last} 1`, "ok"],
        [b, `posix w f ${last} 0`, "EAGAIN"],
        [b, "posix w f 9223372036854775806 1", "ok"],
        [c, "get posix r f 9223372036854775806 1", "w 9223372036854775806 1 0"],
        [b, "posix w f 9007199254740988 8", "ok"],
        [b, `posix u f ${safe} 2`, "ok"],
        [a, `posix r f ${safe} 2`, "ok"],
        [c, `get posix w f ${safe} 0`, `r ${safe} 2 ${a.pid}`],
        [c, "get posix w f 9007199254740993 1", "w 9007199254740993 3 0"],
        [c, "get posix w f 9007199254740996 9", "free"],
        [b, "posix u f 0 0", "ok"],
        [a, "posix w f 5 0", "ok"],
        [b, "get posix r f 9007199254740993 1", "w 5 0 0"],
        [a, "posix u f 9007199254740993 0", "ok"],
        [b, "posix w f 9007199254740993 0", "ok"],
        [c, `get posix r f ${last} 0`, "w 9007199254740993 0 0"],
      ]);
    });

    await step("fcntl: processes of two machines that wait for each other: EDEADLK", async () => {
      await play([[a, "posix w f 0 1", "ok"], [b, "posix w f 1 1", "ok"], [c, "posix w f 2 1", "ok"]]);
      const first = await a.beginToWait("posix w f 1 1 wait");
      const second = await b.beginToWait("posix w f 2 1 wait");
      assert.match(await c.do("posix w f 0 1 wait"), /^EDEADLO?C?K$/);
      await play([[c, "close f", "ok"], [c, `open f ${here}/file${files} rw`, "ok"]]);
      assert.equal(await second.answer, "ok");
      await play([[b, "posix u f 0 0", "ok"]]);
      assert.equal(await first.answer, "ok");
    });

    await step("open files: no deadlock is looked for", async () => {
      await play([[a, "ofd w f 0 1", "ok"], [b, "ofd w f 1 1", "ok"]]);
      const waiting = [await a.beginToWait("ofd w f 1 1 wait"), await b.beginToWait("ofd w f 0 1 wait")];
      for (const [i, actor] of [a, b].entries()) {
        actor.signal("SIGUSR1");
        assert.equal(await waiting[i]!.answer, "EINTR");
      }
    });

    await step(
      "fcntl: any close of the file by the process releases; a child has none of its parent's",
      async () => {
        for (const mode of ["rw", "r"]) {
          await play([
            [a, "posix w f 0 0", "ok"],
            [a, `open g ${here}/file${files} ${mode}`, "ok"],
            [a, "close g", "ok"],
            [b, "posix w f 0 0", "ok"],
            [b, "posix u f 0 0", "ok"],
            [a, `open g ${here}/file${files} ${mode}`, "ok"],
            [a, "dup g h", "ok"],
            [a, "posix r g 0 0", "ok"],
            [a, "close h", "ok"],
            [b, "posix w f 0 0", "ok"],
            [b, "posix u f 0 0", "ok"],
            [a, "close g", "ok"],
          ]);
        }
        await play([
          [a, "posix w f 0 1", "ok"],
          [a, "fork", "ok"], // the child goes on
          [a, "posix w f 0 1", "EAGAIN"],
          [a, "posix w f 1 1", "ok"],
          [b, "posix w f 1 1", "EAGAIN"],
          [a, "exit", "ok"], // the parent goes on
          [b, "posix w f 1 1", "ok"],
          [b, "posix w f 0 1", "EAGAIN"],
        ]);
      },
    );

    await step(
      "flock and open files: shared by duplicates and children, and released by the last of them",
      async () => {
        await play([
          [a, "flock ex f", "ok"],
          [a, "ofd w f 0 0", "ok"],
          [a, "dup f g", "ok"],
          [a, "close f", "ok"],
          [a, "fork", "ok"],
          [a, "flock ex g", "ok"],
          [a, "ofd w g 5 5", "ok"],
          [b, "flock sh f", "EAGAIN"],
          [a, "close g", "ok"],
          [b, "flock sh f", "EAGAIN"],
          [b, "ofd r f 0 1", "EAGAIN"],
          [a, "exit", "ok"],
          [b, "flock sh f", "EAGAIN"],
          [a, "close g", "ok"],
          [b, "flock sh f wait", "ok"],
          [b, "ofd r f 0 1 wait", "ok"],
        ]);
      },
    );

    await step("flock: shared becomes exclusive when others let go", async () => {
      await play([[a, "flock sh f", "ok"], [b, "flock sh f", "ok"]]);
      const waiting = await a.beginToWait("flock ex f wait");
      await play([[b, "flock un f", "ok"]]);
      assert.equal(await waiting.answer, "ok");
      await play([[b, "flock sh f", "EAGAIN"]]);
    });

    await step("who gets the lock sees what was written under it", async () => {
      for (let turn = 0; turn < 10; turn++) {
        const [one, other] = turn % 2 === 0 ? [a, b] : [b, a];
        await play([
          [one, "posix w f 0 0 wait", "ok"],
          [one, `append f line${turn};`, "ok"],
          [one, `write f 0 turn${turn}`, "ok"],
        ]);
        const waiting = await other.beginToWait("posix w f 0 0 wait", 50);
        await play([[one, "posix u f 0 0", "ok"]]);
        assert.equal(await waiting.answer, "ok");
        await play([
          [other, "size f", String(6 * (turn + 1))],
          [other, "read f 0 5", `turn${turn}`],
          [other, "posix u f 0 0", "ok"],
        ]);
      }
    });

    await t.step({
      name: "counters that processes of both machines raise under locks miss nothing",
      sanitizeOps: false,
      sanitizeResources: false,
      async fn() {
        const raise = (mount: string, how: string) =>
          `for i in $(seq 15); do flock ${mount}/lock sh -c 'n=$(cat ${mount}/${how}); echo $((n + 1)) > ${mount}/${how}'; done`;
        await sh(`echo 0 > ${here}/n`);
        const runs = [here, here, there, there].map((mount) => sh(raise(mount, "n"), { timeoutMs: 120_000 }));
        await Promise.all(runs);
        assert.equal(await sh(`cat ${there}/n`), "60");
      },
    });

    await t.step({
      name: "any program of several processes on one mount gets the answers of the local file system",
      sanitizeOps: false,
      sanitizeResources: false,
      fn: () => compare(here, `${cluster.scratch}/local`),
    });

    await cluster.stop();
  },
});

/** The same random commands to processes on the mount and on a local directory. */
async function compare(mount: string, local: string): Promise<void> {
  const seed = testSeed();
  const random = new SeededRandom(seed);
  const PROCESSES = 3;
  await Deno.mkdir(local);
  const ours: LockActor[] = [];
  const theirs: LockActor[] = [];
  const history: string[] = [];
  const give = async (i: number, command: (dir: string) => string): Promise<string> => {
    const [got, expected] = await Promise.all([
      ours[i]!.do(command(mount)),
      theirs[i]!.do(command(local)),
    ]);
    history.push(`${i}: ${command("DIR")} -> ${expected}`);
    const mine = nameless(got, ours);
    const wanted = nameless(expected, theirs);
    // Of locks of open files no process is told; which of ours are such, and which askers, only the kernel knows.
    const isOpenFiles = [mine, wanted].some((answer) => answer.endsWith(" -1"));
    const range = (answer: string) => isOpenFiles ? answer.replace(/ \S+$/, "") : answer;
    assert.ok(
      range(mine) === range(wanted),
      `MFS_TEST_SEED=${seed}: ${got}\n${history.slice(-60).join("\n")}`,
    );
    return expected;
  };
  const openFile = async (i: number, name: string) => {
    const mode = pick(random, ["rw", "rw", "r"]);
    await give(i, (dir) => `open ${name} ${dir}/random ${mode}`);
  };
  try {
    for (let i = 0; i < PROCESSES; i++) {
      ours.push(await LockActor.start());
      theirs.push(await LockActor.start());
    }
    await give(0, (dir) => `open first ${dir}/random rw`);
    await give(0, () => "close first");
    for (let i = 0; i < PROCESSES; i++) for (const name of ["f", "g"]) await openFile(i, name);
    for (let n = 0; n < RANDOM_OPERATIONS; n++) {
      const i = randomInt(random, PROCESSES);
      const name = pick(random, ["f", "g"]);
      const range = `${randomInt(random, OFFSETS)} ${randomInt(random, 5)}`;
      const kind = pick(random, ["posix", "posix", "ofd"]);
      const what = random.next();
      const type = pick(random, ["r", "w"]);
      const how = pick(random, ["sh", "ex", "un"]);
      if (what < 0.45) await give(i, () => `${kind} ${type} ${name} ${range}`);
      else if (what < 0.6) await give(i, () => `${kind} u ${name} ${range}`);
      else if (what < 0.75) await give(i, () => `get ${kind} ${type} ${name} ${range}`);
      else if (what < 0.9) await give(i, () => `flock ${how} ${name}`);
      else if (what < 0.95) {
        await give(i, () => `close ${name}`);
        await openFile(i, name);
      } else {
        await give(i, () => `dup ${name} h`);
        await give(i, () => "close h");
      }
    }
  } finally {
    for (const actor of [...ours, ...theirs]) await actor[Symbol.asyncDispose]();
  }
}

/** An answer with the place of a process among those of the test for its id. */
function nameless(answer: string, actors: readonly LockActor[]): string {
  const [pid] = /\d+$/.exec(answer) ?? [];
  const i = actors.findIndex((actor) => String(actor.pid) === pid);
  return i < 0 || pid === undefined ? answer : `${answer.slice(0, -pid.length)}process${i}`;
}
