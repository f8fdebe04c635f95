import assert from "node:assert/strict";
import { silentLogger } from "../../../base/log.ts";
import { type SessionRecord, type SessionStore, SessionTable } from "../../../roles/leaseserver/sessions.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asSessionId, type SessionId } from "../../../wire/ids.ts";
import { FakeClock, settle } from "../../base/fake_clock.ts";
import { passLooking } from "./harness.ts";
import { FakePeer } from "../nameserver/fake_peer.ts";

const TTL_MS = 10_000;

class Store implements SessionStore {
  readonly saved = new Map<SessionId, SessionRecord>();
  saving: () => Promise<void> = () => Promise.resolve();
  #next = 1;

  nextId(): number {
    return this.#next++;
  }
  async save(record: SessionRecord): Promise<void> {
    await this.saving();
    this.saved.set(record.session, record);
  }
  remove(session: SessionId): void {
    this.saved.delete(session);
  }
}

function start(stored: readonly SessionRecord[] = [], cuts = 0) {
  const clock = new FakeClock();
  const store = new Store();
  const ended: SessionId[] = [];
  const table = new SessionTable(
    { ttlMs: TTL_MS, clock, store, log: silentLogger, onEnd: (session) => ended.push(session), cuts },
    stored,
  );
  const open = (clientId: string, peer: FakePeer) =>
    table.open({ clientId, host: "h", mountpoint: "/m" }, peer);
  return { clock, store, ended, table, open };
}

const isShutdown = (error: unknown) => isErrno(error, "ESHUTDOWN");

Deno.test("sessions: a client has one, and gets it again over another connection", async () => {
  const { table, open } = start();
  const [first, second] = [new FakePeer(), new FakePeer()];
  const { session, resumed } = await open("a", first);
  assert.equal(resumed, false);
  assert.deepEqual(await open("a", second), { session, resumed: true });
  assert.notEqual((await open("b", new FakePeer())).session, session);
  assert.equal(table.size, 2);
  first.close();
  await settle();
  assert.deepEqual(await table.push(session, 60, "still reached"), { ok: true });
  assert.equal(second.pushes.length, 1);
});

Deno.test("sessions: one is stored before its number is given out", async () => {
  const { store, open } = start();
  const saving = Promise.withResolvers<void>();
  store.saving = () => saving.promise;
  const opened: SessionId[] = [];
  // The client lost its connection at once and asks again over another.
  const both = Promise.all([1, 2].map(async () => {
    const { session } = await open("a", new FakePeer());
    assert.ok(store.saved.has(session), "it is stored");
    opened.push(session);
  }));
  both.catch(() => {}); // looked at below
  await settle();
  const early = [...opened];
  saving.resolve();
  await both;
  assert.deepEqual(early, []);
  assert.equal(new Set(opened).size, 1);
});

Deno.test("sessions: one that could not be stored is not there", async () => {
  const { table, store, open } = start();
  store.saving = () => Promise.reject(new FsError("EIO", "no disk"));
  await assert.rejects(open("a", new FakePeer()), (error) => isErrno(error, "EIO"));
  assert.equal(table.size, 0);
  store.saving = () => Promise.resolve();
  const { session, resumed } = await open("a", new FakePeer());
  assert.equal(resumed, false);
  assert.ok(store.saved.has(session));
});

Deno.test("sessions: silence for the TTL ends one, any traffic renews it", async () => {
  const { clock, table, open, ended, store } = start();
  const [quiet, busy] = [new FakePeer(), new FakePeer()];
  const { session } = await open("quiet", quiet);
  const { session: other } = await open("busy", busy);
  for (let i = 0; i < 4; i++) {
    await clock.advance(TTL_MS / 4);
    table.of(busy);
    table.expire();
  }
  assert.deepEqual(ended, []);
  await clock.advance(1);
  table.expire();
  assert.deepEqual(ended, [session]);
  assert.ok(!table.isAlive(session) && table.isAlive(other));
  assert.deepEqual([...store.saved.keys()], [other]);
  assert.throws(() => table.of(quiet), isShutdown);
  // Or it would take the answer for a sign that its session lives.
  assert.throws(() => table.ofOrNone(quiet), isShutdown);
  assert.equal(table.ofOrNone(new FakePeer()), 0);
  table.expire();
  table.end(session, "again");
  assert.deepEqual(ended, [session], "it ends once");
});

Deno.test("sessions: while the server stood still nobody was silent; who stays so ends all the same", async () => {
  const { clock, table, open, ended } = start();
  const [quiet, busy] = [new FakePeer(), new FakePeer()];
  const { session } = await open("quiet", quiet);
  await open("busy", busy);
  for (let i = 0; i < 2; i++) {
    await clock.advance(3 * TTL_MS);
    table.expire();
    assert.deepEqual(ended, [], "what they have sent meanwhile is yet to be read");
    table.of(busy);
  }
  await clock.advance(TTL_MS / 4);
  table.expire();
  await clock.advance(3 * TTL_MS);
  table.expire();
  assert.deepEqual(ended, []);
  await clock.advance(1);
  table.expire();
  assert.deepEqual(ended, [session]);
});

Deno.test("sessions: an acknowledged push counts as a sign of life", async () => {
  const { clock, table, open } = start();
  const { session } = await open("a", new FakePeer());
  for (let i = 0; i < 5; i++) {
    await clock.advance(TTL_MS * 0.9);
    await table.push(session, 60, {});
    table.expire();
  }
  assert.ok(table.isAlive(session));
});

Deno.test("sessions: a client whose session ended gets a new one, not the old", async () => {
  const { table, open } = start();
  const peer = new FakePeer();
  const { session } = await open("a", peer);
  table.end(session, "test");
  const again = await open("a", peer);
  assert.equal(again.resumed, false);
  assert.notEqual(again.session, session);
  assert.equal(table.of(peer), again.session);
});

Deno.test("sessions: a peer without one is told so", () => {
  const { table } = start();
  assert.throws(() => table.of(new FakePeer()), isShutdown);
  assert.equal(table.ofOrNone(new FakePeer()), 0);
});

Deno.test("sessions: a push waits for a client that is away, and reaches it when it is back", async () => {
  const { clock, table, open } = start();
  const first = new FakePeer();
  const { session } = await open("a", first);
  first.close();
  await settle();
  let answer: unknown;
  const pushing = table.push(session, 60, { items: [] }).then((value) => answer = value);
  await clock.advance(3_000);
  assert.equal(answer, undefined);
  const second = new FakePeer(() => ({ open: [] }));
  await open("a", second);
  await pushing;
  assert.deepEqual(answer, { open: [] });
});

// A connection may die without a word (a cut network, a lost NAT entry).
Deno.test("sessions: a push that hangs is sent again over the connection with which its client is back", async () => {
  const { clock, table, open, ended } = start();
  const { session } = await open("a", new FakePeer(() => new Promise(() => {})));
  const pushing = table.push(session, 60, { items: [] });
  let answer: unknown;
  void pushing.then((value) => answer = value);
  await clock.advance(3_000);
  const second = new FakePeer(() => ({ open: [] }));
  await open("a", second);
  for (let ms = 0; ms < 3 * TTL_MS - 5_000; ms += 1_000) {
    await clock.advance(1_000);
    table.of(second);
  }
  assert.deepEqual([answer, ended], [{ open: [] }, []]);
});

Deno.test("sessions: a push to one that ends meanwhile, or has ended, is over at once", async () => {
  const { table, open } = start();
  const peer = new FakePeer();
  const { session } = await open("a", peer);
  peer.close();
  await settle();
  const pushing = table.push(session, 60, {});
  table.end(session, "test");
  assert.equal(await pushing, undefined);
  assert.equal(await table.push(session, 60, {}), undefined);
});

Deno.test("sessions: a push that is under way ends at once when the session does", async () => {
  const { table, open } = start();
  const { session } = await open("a", new FakePeer(() => new Promise(() => {})));
  const pushing = table.push(session, 60, {});
  await settle();
  table.end(session, "test");
  assert.equal(await pushing, undefined);
});

Deno.test("sessions: one that renews but never answers a push is ended after three times the TTL", async () => {
  for (
    const answer of [
      () => Promise.reject(new FsError("ETIMEDOUT", "no acknowledgement")),
      // A connection that keeps to the deadline that it is given.
      (clock: FakeClock, timeoutMs: number) =>
        clock.sleep(timeoutMs).then(() => Promise.reject(new FsError("ETIMEDOUT", "no acknowledgement"))),
    ]
  ) {
    const { clock, table, open, ended } = start();
    const peer = new FakePeer((_op, _message, options) => answer(clock, options.timeoutMs!));
    const { session } = await open("a", peer);
    let isOver = false;
    const pushing = table.push(session, 60, {}).then((value) => {
      assert.equal(value, undefined);
      isOver = true;
    });
    for (let ms = 0; ms < 3 * TTL_MS - 1_000; ms += 1_000) {
      await clock.advance(1_000);
      table.of(peer);
      table.expire();
    }
    assert.deepEqual([isOver, ended], [false, []], "it is there, and may have much to flush");
    await clock.advance(1_500);
    await pushing;
    assert.deepEqual(ended, [session]);
  }
});

Deno.test("sessions: one that is silent while a push waits for it ends after the TTL", async () => {
  const { clock, table, open, ended } = start();
  const peer = new FakePeer(() => new Promise(() => {}));
  const { session } = await open("a", peer);
  const pushing = table.push(session, 60, {});
  await passLooking(clock, table, TTL_MS);
  assert.deepEqual(ended, []);
  await clock.advance(1);
  table.expire();
  assert.deepEqual(ended, [session]);
  assert.equal(await pushing, undefined);
});

Deno.test("sessions: a mount at the place of one that has died ends that one at once, of one that lives not", async () => {
  const { table, ended } = start();
  const peers = [new FakePeer(), new FakePeer(), new FakePeer()] as const;
  const openAt = (clientId: string, place: string | undefined, peer: FakePeer) =>
    table.open({ clientId, host: "h", mountpoint: "/m", ...(place === undefined ? {} : { place }) }, peer);
  const { session: first } = await openAt("a", "here", peers[0]);
  await openAt("b", "here", peers[1]);
  assert.equal(ended.length, 0, "the first is connected");
  peers[0].close();
  peers[1].close();
  await settle();
  await openAt("c", "elsewhere", peers[2]);
  await openAt("d", undefined, peers[2]);
  assert.equal(ended.length, 0);
  await openAt("a", "here", peers[2]);
  assert.equal(ended.length, 0, "the client itself is back");
  peers[2].close();
  await settle();
  await openAt("e", "here", new FakePeer());
  assert.equal(ended.length, 2);
  assert.ok(ended.includes(first));
});

Deno.test("sessions: what was heard of each is told", async () => {
  const { clock, table, open } = start();
  const peer = new FakePeer();
  const { session } = await open("a", peer);
  const [before] = table.describe();
  assert.deepEqual(before, {
    record: { session, clientId: "a", host: "h", mountpoint: "/m" },
    connected: true,
    silentMs: 0,
    counters: undefined,
  });
  const counters = { kernelRequests: 1, calls: { lookup: 2 }, inodes: 3, recalls: 4, recallMs: 5, fences: 0 };
  table.count(peer, counters);
  table.count(new FakePeer(), counters);
  await clock.advance(1_500);
  peer.close();
  await settle();
  const [after] = table.describe();
  assert.deepEqual([after!.connected, after!.silentMs, after!.counters], [false, 1_500, counters]);
  table.end(session, "test");
  assert.deepEqual(table.describe(), []);
});

Deno.test("sessions: who waits for all to reclaim goes on when the last has, or is over", async () => {
  const stored = ["a", "b", "c"].map((clientId, i) => ({
    session: asSessionId(i + 10),
    clientId,
    host: "h",
    mountpoint: "/m",
  }));
  const { table } = start(stored);
  const [a, b, c] = stored.map(({ session }) => session) as [SessionId, SessionId, SessionId];
  const over: SessionId[] = [];
  for (const session of [a, c, asSessionId(0)]) {
    void table.allReclaimed(session)!.then(() => over.push(session));
  }
  table.markReclaimed(c);
  await settle();
  assert.deepEqual(over, []);
  table.end(b, "test");
  await settle();
  assert.deepEqual(over, [a], "a itself is not waited for by a");
  table.markReclaimed(a);
  await settle();
  assert.deepEqual(over, [a, c, asSessionId(0)]);
  assert.equal(table.allReclaimed(asSessionId(0)), undefined);
});

Deno.test("sessions: one that is back after a restart but does not reclaim is given up", async () => {
  const stored = [{ session: asSessionId(10), clientId: "a", host: "h", mountpoint: "/m" }];
  const { clock, table, open, ended } = start(stored);
  const peer = new FakePeer();
  await open("a", peer);
  for (let ms = 0; ms < 3 * TTL_MS; ms += 1_000) {
    await clock.advance(1_000);
    table.of(peer);
    table.expire();
  }
  assert.deepEqual(ended, []);
  await clock.advance(1);
  table.expire();
  assert.deepEqual(ended, [asSessionId(10)]);
});

Deno.test("sessions: those from before a restart are waited for, and end when they do not come", async () => {
  const stored = ["a", "b"].map((clientId, i) => ({
    session: asSessionId(i + 10),
    clientId,
    host: "h",
    mountpoint: "/m",
  }));
  const { clock, table, open, ended } = start(stored);
  const [a, b] = stored.map(({ session }) => session) as [SessionId, SessionId];
  assert.deepEqual(table.unreclaimed(asSessionId(0)), [a, b]);
  assert.deepEqual(table.unreclaimed(a), [b]);
  const peer = new FakePeer();
  assert.deepEqual(await open("a", peer), { session: a, resumed: true });
  assert.deepEqual(table.unreclaimed(asSessionId(0)), [a, b], "not before it said what it holds");
  table.markReclaimed(a);
  assert.deepEqual(table.unreclaimed(asSessionId(0)), [b]);
  await passLooking(clock, table, TTL_MS);
  table.of(peer);
  await clock.advance(1);
  table.expire();
  assert.deepEqual(ended, [b]);
  assert.deepEqual(table.unreclaimed(asSessionId(0)), []);
});

Deno.test("sessions: after a power cut none is resumed, and those from before are waited out", async () => {
  const place = "boot 1 /m";
  const client = { clientId: "a", host: "h", mountpoint: "/m", place };
  const old = asSessionId(10);
  const { clock, table, store, ended } = start([{ ...client, session: old, cuts: 1 }], 2);
  const peer = new FakePeer();
  const { session, resumed } = await table.open(client, peer);
  assert.equal(resumed, false);
  assert.notEqual(session, old);
  assert.deepEqual([ended, table.unreclaimed(session)], [[], [old]], "its client does not know yet");
  // The process dies, and its machine lives.
  const again = start([{ ...client, session: old, cuts: 1 }, store.saved.get(session)!], 2);
  assert.deepEqual(await again.table.open(client, new FakePeer()), { session, resumed: true });
  await passLooking(clock, table, TTL_MS);
  table.of(peer);
  await clock.advance(1);
  table.expire();
  assert.deepEqual([ended, table.unreclaimed(session)], [[old], []]);
});
