/**
 * Locks that processes hold through real mounts while mounts and the nameserver die, hang and come back; and SQLite, which
 * relies on them, on two machines at once.
 */

import assert from "node:assert/strict";
import { hasProgram, sh, sleep } from "../harness/command.ts";
import { RoleCluster } from "../harness/role_cluster.ts";
import { LockActor } from "../posix/lock_actor.ts";

const TTL_SECONDS = 3;
const WRITERS = 4;
const ROWS = 12;

Deno.test({
  name: "locks: mounts and the nameserver die and come back",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn(t) {
    const cluster = await RoleCluster.start({
      mounts: 2,
      dataservers: 2,
      nameserverFlags: ["--session-ttl", String(TTL_SECONDS)],
    });
    const [here, there] = cluster.mountpoints as [string, string];
    const actors: LockActor[] = [];
    const start = async (path: string): Promise<LockActor> => {
      const actor = await LockActor.start();
      actors.push(actor);
      assert.equal(await actor.do(`open f ${path} rw`), "ok");
      return actor;
    };
    const step = (name: string, fn: () => Promise<void>) =>
      t.step({ name, fn, sanitizeOps: false, sanitizeResources: false });
    try {
      await step(
        "a restarted nameserver is told of locks before others get any, and of who waits",
        async () => {
          const [holder, waiter, other] = [
            await start(`${here}/a`),
            await start(`${there}/a`),
            await start(`${there}/a`),
          ];
          for (const command of ["posix w f 0 10", "flock ex f", "ofd r f 50 10"]) {
            assert.equal(await holder.do(command), "ok");
          }
          const waiting = await waiter.beginToWait("posix w f 0 10 wait");
          await cluster.restartNameserver();
          for (const command of ["posix r f 9 1", "flock sh f", "ofd w f 55 1"]) {
            assert.equal(await other.do(command), "EAGAIN", command);
          }
          assert.equal(await other.do("posix w f 20 10"), "ok");
          assert.equal(waiting.isAnswered, false);
          assert.equal(await holder.do("posix u f 0 10"), "ok");
          assert.equal(await waiting.answer, "ok");
          assert.equal(await holder.do("close f"), "ok");
          assert.equal(await other.do("flock ex f wait"), "ok");
          const { sessions } = await cluster.status();
          const counts = sessions.map(({ locks, lockWaits }) => [locks, lockWaits]);
          assert.deepEqual(counts.sort(), [[0, 0], [3, 0]]);
        },
      );

      await step(
        "while the nameserver is away, a signal ends a wait and a close is not held up",
        async () => {
          const [holder, waiter] = [await start(`${here}/b`), await start(`${there}/b`)];
          assert.equal(await holder.do("posix w f 0 0"), "ok");
          const early = await waiter.beginToWait("posix w f 0 0 wait");
          await cluster.kill("nameserver");
          const startMs = performance.now();
          waiter.signal("SIGUSR1");
          assert.equal(await early.answer, "EINTR");
          const late = await waiter.beginToWait("posix w f 0 0 wait");
          waiter.signal("SIGUSR1");
          assert.equal(await late.answer, "EINTR");
          assert.equal(await holder.do("close f"), "ok");
          assert.ok(performance.now() - startMs < 20_000, "they hung");
          await cluster.restart("nameserver");
          assert.equal(await waiter.do("posix w f 0 0 wait"), "ok");
          // What was given up meanwhile did not stay behind.
          assert.equal(await waiter.do("close f"), "ok");
          assert.equal(await holder.do(`open f ${here}/b rw`), "ok");
          assert.equal(await holder.do("posix w f 0 0"), "ok");
        },
      );

      await step(
        "a mount that hangs for too long has lost its locks, and its processes are told",
        async () => {
          const [holder, waiter] = [await start(`${here}/c`), await start(`${there}/c`)];
          assert.equal(await holder.do("posix w f 0 0"), "ok");
          assert.equal(await holder.do("write f 0 before"), "ok");
          const waiting = await waiter.beginToWait("posix w f 0 0 wait");
          await cluster.pause("mount1", 2 * TTL_SECONDS + 1, async (ms) => {
            assert.equal(await waiting.answer, "ok");
            await sleep(Math.min(ms, 500));
          });
          assert.equal(await waiter.do("write f 0 after."), "ok");
          for (const command of ["write f 0 wrong.", "read f 0 6", "posix w f 0 0", "posix u f 0 0"]) {
            assert.equal(await holder.do(command), "EIO", command);
          }
          assert.match(cluster.logOf("mount1"), /locks were lost with the session/);
          // EIO: what it had written was not reported by then, and is lost as well.
          assert.match(await holder.do("close f"), /^(ok|EIO)$/);
          assert.equal(await holder.do(`open f ${here}/c rw`), "ok");
          assert.equal(await holder.do("posix w f 0 0"), "EAGAIN");
          assert.equal(await holder.do("read f 0 6"), "after.");
          assert.equal(await waiter.do("close f"), "ok");
          assert.equal(await holder.do("posix w f 0 0"), "ok");
        },
      );

      await step("SQLite on both mounts at once loses nothing", async () => {
        if (!hasProgram("sqlite3")) return;
        const timeout = { timeoutMs: 150_000 };
        await sh(`sqlite3 ${here}/db 'create table t(writer, n, primary key (writer, n))'`, timeout);
        const writer = (id: number) =>
          `for i in $(seq ${ROWS}); do sqlite3 -cmd '.timeout 60000' ${id % 2 ? here : there}/db ` +
          `"insert into t values (${id}, $i)"; done`;
        await Promise.all(Array.from({ length: WRITERS }, (_, id) => sh(writer(id), timeout)));
        for (const mount of [here, there]) {
          const found = await sh(
            `sqlite3 ${mount}/db 'pragma integrity_check; select count(*) from t'`,
            timeout,
          );
          assert.equal(found, `ok\n${WRITERS * ROWS}`);
        }
      });

      await step("kill -9 of a mount: its locks are others' after a while", async () => {
        const [holder, waiter] = [await start(`${here}/d`), await start(`${there}/d`)];
        for (const command of ["posix w f 0 0", "flock ex f"]) assert.equal(await holder.do(command), "ok");
        const waiting = await waiter.beginToWait("posix w f 0 0 wait");
        await cluster.kill("mount1");
        assert.equal(await waiting.answer, "ok");
        assert.equal(await waiter.do("flock ex f wait"), "ok");
      });
    } catch (error) {
      console.error(cluster.log());
      throw error;
    } finally {
      // Who hangs on a dead mount ends with it.
      await cluster.discard();
      for (const actor of actors) await actor[Symbol.asyncDispose]();
    }
  },
});
