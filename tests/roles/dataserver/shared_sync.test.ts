import { equal, rejects } from "node:assert/strict";
import { SharedSync } from "../../../roles/dataserver/shared_sync.ts";

/** Runs that the test ends, one by one. */
function controlled() {
  const ends: { resolve(): void; reject(error: Error): void }[] = [];
  const shared = new SharedSync(() => new Promise<void>((resolve, reject) => ends.push({ resolve, reject })));
  return { shared, ends };
}

const turn = () => new Promise((resolve) => setTimeout(resolve));

Deno.test("shared sync: who asks while one runs shares the next, which begins when that one has ended", async () => {
  const { shared, ends } = controlled();
  const done: string[] = [];
  const ask = (name: string) => shared.run().then(() => done.push(name));
  const all = [ask("first")];
  all.push(ask("second"), ask("third"));
  await turn();
  equal(ends.length, 1);
  ends[0]!.resolve();
  await turn();
  equal(ends.length, 2, "one more for both");
  equal(done.join(), "first", "a run that began before does not count");
  all.push(ask("fourth"));
  ends[1]!.resolve();
  await turn();
  equal(done.join(), "first,second,third");
  ends[2]!.resolve();
  await Promise.all(all);
  equal(ends.length, 3);
  void ask("fifth");
  equal(ends.length, 4, "at once when nothing runs");
});

Deno.test("shared sync: a failure is told to those who share the run, the next run goes on", async () => {
  const { shared, ends } = controlled();
  const first = shared.run();
  const second = shared.run();
  ends[0]!.reject(new Error("disk"));
  await rejects(first, /disk/);
  await turn();
  ends[1]!.resolve();
  await second;
});
