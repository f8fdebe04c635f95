import assert from "node:assert/strict";
import { Dataservers } from "../../fs/dataservers.ts";
import { firstAnswer } from "../../fs/hedge.ts";
import type { ReplicaLocation } from "../../wire/messages/inode.ts";
import { FakeClock, settle } from "../base/fake_clock.ts";
import { watch } from "./client.ts";

const HEDGE_MS = 400;

/** Candidates that answer when the test says so. */
function start(candidates: readonly string[]) {
  const clock = new FakeClock();
  const asked = new Map<string, PromiseWithResolvers<string>>();
  const failed: string[] = [];
  const slow: string[] = [];
  const answer = watch(firstAnswer(candidates, {
    ask(name) {
      const call = Promise.withResolvers<string>();
      asked.set(name, call);
      return call.promise;
    },
    onFailure: (name) => void failed.push(name),
    onSlow: (name) => void slow.push(name),
    clock,
    hedgeMs: HEDGE_MS,
  }));
  return { clock, asked, names: () => [...asked.keys()].join(), failed, slow, answer };
}

Deno.test("hedge: the first is asked alone, and its answer is taken", async () => {
  const { clock, asked, names, slow, answer } = start(["a", "b"]);
  await clock.advance(HEDGE_MS - 1);
  assert.equal(names(), "a");
  asked.get("a")!.resolve("from a");
  await settle();
  assert.equal(answer.value, "from a");
  await clock.advance(10 * HEDGE_MS);
  assert.equal(names(), "a", "nobody else is asked afterwards");
  assert.deepEqual(slow, []);
});

Deno.test("hedge: when it takes long the next is asked too; whoever was overtaken was slow", async () => {
  const { clock, asked, names, slow, answer } = start(["a", "b", "c"]);
  await clock.advance(HEDGE_MS);
  assert.equal(names(), "a,b");
  asked.get("b")!.resolve("from b");
  await settle();
  assert.equal(answer.value, "from b");
  assert.deepEqual(slow, ["a"]);
  asked.get("a")!.reject(new Error("late, and of no matter"));
  await clock.advance(10 * HEDGE_MS);
  assert.equal(names(), "a,b");
});

Deno.test("hedge: the first may still answer before the next, which was not slow", async () => {
  const { clock, asked, slow, answer } = start(["a", "b"]);
  await clock.advance(HEDGE_MS);
  asked.get("a")!.resolve("from a");
  await settle();
  assert.equal(answer.value, "from a");
  assert.deepEqual(slow, []);
});

Deno.test("hedge: after a failure the next is asked at once; the last failure is told when all have failed", async () => {
  const { clock, asked, names, failed, answer } = start(["a", "b", "c"]);
  asked.get("a")!.reject(new Error("a"));
  await settle();
  assert.equal(names(), "a,b");
  await clock.advance(HEDGE_MS);
  assert.equal(names(), "a,b,c", "b takes long");
  asked.get("c")!.reject(new Error("c"));
  await settle();
  assert.equal(answer.state, "waits", "b may still answer");
  asked.get("b")!.reject(new Error("b"));
  await settle();
  assert.equal(answer.state, "failed");
  assert.match(String(answer.error), /b/);
  assert.deepEqual(failed, ["a", "c", "b"]);
});

Deno.test("dataservers: one that was slow is asked last for a while", async () => {
  const clock = new FakeClock();
  const dataservers = new Dataservers({
    dialer: { dial: () => Promise.reject(new Error("nobody is called")) },
    host: "a",
    clusterId: () => "",
    isLocal: () => false,
    clock,
  });
  const replicas = ["a", "b"].map((host) => ({
    host,
    address: `${host}:1`,
    alive: true,
  })) as ReplicaLocation[];
  const order = () => dataservers.nearestFirst(replicas).map(({ host }) => host).join();
  assert.equal(order(), "a,b");
  dataservers.noteSlow("a:1");
  assert.equal(order(), "b,a");
  await clock.advance(10_000);
  assert.equal(order(), "a,b");
});

Deno.test("dataservers: this process, this host, this rack, anywhere; the dead last", () => {
  const dataservers = new Dataservers({
    dialer: { dial: () => Promise.reject(new Error("nobody is called")) },
    host: "a",
    rack: "r1",
    clusterId: () => "",
    isLocal: (address) => address === "own:1",
    clock: new FakeClock(),
  });
  const at = (name: string, host: string, rack: string | undefined, alive = true) =>
    ({ host, address: `${name}:1`, alive, ...(rack === undefined ? {} : { rack }) }) as ReplicaLocation;
  const replicas = [
    at("dead", "a", "r1", false),
    at("far", "c", "r2"),
    at("unknown", "e", undefined),
    at("rack", "b", "r1"),
    at("host", "a", "r1"),
    at("own", "x", "r2"),
  ];
  const order = dataservers.nearestFirst(replicas).map(({ address }) => address.split(":")[0]);
  assert.deepEqual(order, ["own", "host", "rack", "far", "unknown", "dead"]);
});
