import assert from "node:assert/strict";
import { systemClock, timespecCompare } from "../../base/clock.ts";
import { FakeClock } from "./fake_clock.ts";

Deno.test("clock: the monotonic time never goes back and the wall clock is the system's", () => {
  let last = systemClock.monotonicMs();
  for (let i = 0; i < 10_000; i++) {
    const now = systemClock.monotonicMs();
    assert.ok(now >= last);
    last = now;
    const { seconds, nanoseconds } = systemClock.now();
    assert.ok(Number.isInteger(seconds) && Number.isInteger(nanoseconds));
    assert.ok(nanoseconds >= 0 && nanoseconds < 1e9);
  }
  const { seconds, nanoseconds } = systemClock.now();
  assert.ok(Math.abs(seconds * 1000 + nanoseconds / 1e6 - Date.now()) < 100);
});

Deno.test("clock: sleep ends after its time", async () => {
  const startMs = performance.now();
  await systemClock.sleep(30);
  assert.ok(performance.now() - startMs >= 28);
});

Deno.test("clock: an aborted sleep ends at once and leaves no timer", async () => {
  const abort = new AbortController();
  const sleeping = systemClock.sleep(60_000, abort.signal);
  abort.abort();
  await sleeping;
  await systemClock.sleep(60_000, abort.signal);
});

Deno.test("clock: timespecs compare by seconds, then nanoseconds", () => {
  assert.ok(timespecCompare({ seconds: 1, nanoseconds: 9 }, { seconds: 2, nanoseconds: 0 }) < 0);
  assert.ok(timespecCompare({ seconds: 2, nanoseconds: 1 }, { seconds: 2, nanoseconds: 0 }) > 0);
  assert.equal(timespecCompare({ seconds: -2, nanoseconds: 1 }, { seconds: -2, nanoseconds: 1 }), 0);
});

Deno.test("fake clock: wakes sleepers in order and only when their time has come", async () => {
  const clock = new FakeClock();
  const woken: number[] = [];
  for (const ms of [30, 10, 20]) void clock.sleep(ms).then(() => woken.push(ms));
  await clock.advance(20);
  assert.deepEqual(woken, [10, 20]);
  await clock.advance(10);
  assert.deepEqual(woken, [10, 20, 30]);
});
