/** Who is being killed: /proc's text, and real processes. That a mount's callers can be killed is in mount_test.ts. */

import assert from "node:assert/strict";
import { isKillPending, watchForKill } from "../../../fs/kernel/kill_watch.ts";

function status(own: string, shared: string): string {
  return `Name:\tcat
State:\tD (disk sleep)
Tgid:\t77
Threads:\t1
SigQ:\t1/15243
SigPnd:\t${own}
ShdPnd:\t${shared}
SigBlk:\t0000000000000100
SigIgn:\t0000000000000100
SigCgt:\t0000000000000100
`;
}

const NONE = "0000000000000000";

Deno.test("kill watch: SIGKILL is found among the thread's signals and the process's, and nothing else is taken for it", () => {
  assert.equal(isKillPending(status(NONE, NONE)), false, "blocked, ignored and caught are other lines");
  assert.equal(isKillPending(status("0000000000000100", NONE)), true);
  assert.equal(isKillPending(status(NONE, "0000000000000100")), true);
  assert.equal(isKillPending(status(NONE, "8000000000000102")), true, "among others, real-time ones too");
  for (let signal = 1; signal <= 64; signal++) {
    const mask = (1n << BigInt(signal - 1)).toString(16).padStart(16, "0");
    assert.equal(isKillPending(status(mask, NONE)), signal === 9, `signal ${signal}`);
    assert.equal(isKillPending(status(NONE, mask)), signal === 9, `signal ${signal}`);
  }
  assert.equal(isKillPending(""), false);
  assert.equal(
    isKillPending("Name:\tSigPnd: 0000000000000100\n"),
    false,
    "a process may call itself anything",
  );
});

Deno.test("kill watch: our own thread is not being killed, whatever its real status says besides", async () => {
  assert.equal(isKillPending(await Deno.readTextFile("/proc/self/status")), false);
});

Deno.test("kill watch: ends with the wait, and says no of who is not being killed", async () => {
  let isWaiting = true;
  const watching = watchForKill(Deno.pid, () => isWaiting);
  const startMs = performance.now();
  setTimeout(() => isWaiting = false, 150);
  assert.equal(await watching, false);
  assert.ok(performance.now() - startMs < 1_000);
  assert.equal(await watchForKill(Deno.pid, () => false), false);
});

for (const [who, pid] of [["nobody's number", 0], ["who has ended", -1]] as const) {
  Deno.test(`kill watch: ${who} is taken for killed, but not at once`, async () => {
    let asked: number = pid;
    if (pid < 0) {
      const child = new Deno.Command("true").spawn();
      await child.status;
      asked = child.pid;
    }
    const startMs = performance.now();
    assert.equal(await watchForKill(asked, () => true), true);
    const tookMs = performance.now() - startMs;
    assert.ok(tookMs > 800 && tookMs < 3_000, `after ${tookMs} ms`);
    let looks = 0;
    assert.equal(await watchForKill(asked, () => looks++ < 3), false, "answered meanwhile");
  });
}
