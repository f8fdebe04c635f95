/** How leases end: given back, too many, with their session or its server. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { asInodeId, asSessionId, type InodeId } from "../../../wire/ids.ts";
import { gate, makeTables, Member, rest, startMembers, watch } from "./harness.ts";

const INO = asInodeId(5);
const OTHER = asInodeId(6);
const DIR = asInodeId(2);
const name = bytesOf("name");

// ---- giving back, and the end of things

Deno.test("leases: a session gives back all or a part, and never gets more by it", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  await a.acquire(INO, "write");
  leases.lower(a.session, [{ ino: INO, lease: "read", open: "no" }]);
  assert.deepEqual(leases.countOf(a.session), { read: 1, exclusive: 0, write: 0 });
  leases.lower(a.session, [{ ino: INO, lease: "write", open: "no" }, {
    ino: OTHER,
    lease: "write",
    open: "no",
  }]);
  assert.deepEqual(leases.countOf(a.session), { read: 1, exclusive: 0, write: 0 });
  leases.lower(a.session, [{ ino: INO, lease: "none", open: "read" }]);
  assert.ok(leases.isOpenIn(INO, a.session) && !leases.isAlone(INO, b.session));
  leases.lower(a.session, [{ ino: INO, lease: "none", open: "no" }]);
  assert.ok(leases.isAlone(INO, b.session));
  leases.lower(asSessionId(99), [{ ino: INO, lease: "none", open: "no" }]);
});

Deno.test("leases: who is asked for what it has given back meanwhile answers so", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  const answer = gate();
  a.onRecall = answer.wait;
  await a.acquire(INO, "write");
  const acquiring = b.acquire(INO, "write");
  await rest();
  a.release(INO);
  answer.open();
  assert.equal(await acquiring, "write");
  assert.deepEqual(leases.countOf(a.session), { read: 0, exclusive: 0, write: 0 });
});

Deno.test("leases: an inode is somebody's alone while no other knows it nor asks for it", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  a.lease(INO);
  assert.ok(leases.isAlone(INO, a.session));
  assert.ok(!leases.isAlone(INO, b.session));
  const answer = gate();
  a.onRecall = answer.wait;
  const change = b.change({ ino: INO, keep: "none" });
  await rest();
  assert.ok(!leases.isAlone(INO, a.session), "another is about to look");
  answer.open();
  await change;
  assert.ok(leases.isAlone(INO, b.session));
});

Deno.test("leases: an inode that is gone is forgotten", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  await a.acquire(INO, "read");
  b.lease(INO);
  leases.forget(INO);
  assert.deepEqual([leases.countOf(a.session), leases.countOf(b.session)], [
    { read: 0, exclusive: 0, write: 0 },
    { read: 0, exclusive: 0, write: 0 },
  ]);
  assert.ok(!leases.isOpenIn(INO, a.session));
});

Deno.test("leases: askOpen hears from the session itself, and from nobody that does not know the inode", async () => {
  const { sessions, leases, clock, members: [a, b] } = await startMembers(2);
  await leases.askOpen(INO, a.session);
  assert.ok(!leases.isOpenIn(INO, a.session));
  assert.deepEqual(a.recalls, []);
  await a.acquire(INO, "write");
  await leases.askOpen(INO, a.session);
  assert.ok(leases.isOpenIn(INO, a.session));
  assert.deepEqual(a.recalls, [[{ ino: INO, keep: "write", removed: true }]], "it keeps what it has");
  await rest();
  assert.equal(a.lease(INO), "write");
  a.open.clear();
  await leases.askOpen(INO, a.session);
  assert.ok(!leases.isOpenIn(INO, a.session));
  assert.deepEqual(
    leases.countOf(a.session),
    { read: 0, exclusive: 0, write: 0 },
    "what is not open is given up",
  );
  b.lease(INO);
  b.onRecall = async () => {
    await clock.sleep(10);
    sessions.end(b.session, "test");
    await new Promise(() => {});
  };
  const asking = watch(leases.askOpen(INO, b.session));
  await clock.advance(20);
  assert.ok(asking.isDone && !leases.isOpenIn(INO, b.session), "who is over has nothing open");
});

Deno.test("leases: figures say what is held, what was asked for and who waits", async () => {
  const { leases, clock, members: [a, b] } = await startMembers(2, { perSessionMax: 77 });
  a.onRecall = () => clock.sleep(250);
  a.lease(OTHER);
  await a.acquire(INO, "write");
  const before = leases.status();
  assert.deepEqual([before.read, before.write, before.granted, before.perSessionMax], [1, 1, 2, 77]);
  const change = b.change({ ino: INO, keep: "none" }, { ino: OTHER, keep: "none" });
  await rest();
  assert.equal(leases.status().waitingRecalls, 1);
  await clock.advance(300);
  await change;
  const { recalls, recalledInodes, recallMs, recallMsMax, waitingRecalls, waitingTurns, read, write } = leases
    .status();
  assert.deepEqual([recalls, recalledInodes, recallMs, recallMsMax], [1, 2, 250, 250]);
  assert.deepEqual([waitingRecalls, waitingTurns, read, write], [0, 0, 0, 0]);
});

Deno.test("leases: nothing is granted while a session is asked about its own inode, which the answer would take", async () => {
  const { leases, members: [a] } = await startMembers(1);
  const answer = gate();
  a.lease(INO);
  a.onRecall = answer.wait;
  const asking = leases.askOpen(INO, a.session);
  await rest();
  a.release(INO); // was on its way when it was asked
  assert.equal(a.lease(INO), "none");
  const acquiring = a.acquire(INO, "write");
  answer.open();
  await asking;
  assert.equal(await acquiring, "write");
  assert.deepEqual(leases.countOf(a.session), { read: 0, exclusive: 0, write: 1 });
});

// ---- too many

Deno.test("leases: of a session that holds too many the oldest are recalled, but not what is open", async () => {
  const { leases, clock, members: [a, b] } = await startMembers(2, { perSessionMax: 100 });
  const inodes = Array.from({ length: 150 }, (_, i) => asInodeId(1000 + i));
  const open = new Set(inodes.slice(0, 10));
  for (const ino of open) await a.acquire(ino, "read");
  b.lease(inodes[20]!);
  for (const ino of inodes) a.lease(ino);
  await clock.advance(1_000);
  const recalled = new Set<InodeId>(a.recalls.flat().map(({ ino }) => ino));
  assert.ok(a.recalls.flat().every(({ keep }) => keep === "none"));
  const { read } = leases.countOf(a.session);
  assert.ok(read <= 100, `${read} are left`);
  assert.equal(read, 150 - recalled.size);
  assert.ok([...open].every((ino) => !recalled.has(ino)), "open files are kept");
  assert.deepEqual([...recalled], inodes.slice(10, 10 + recalled.size), "the oldest go");
  assert.equal(leases.status().evicted, recalled.size);
  assert.deepEqual(
    leases.countOf(b.session),
    { read: 1, exclusive: 0, write: 0 },
    "others are not concerned",
  );
});

Deno.test("leases: while what is too much is given up nobody else gets it beside the old holder", async () => {
  const { members: [a, b], clock } = await startMembers(2, { perSessionMax: 1 });
  const answer = gate();
  a.onRecall = answer.wait;
  a.lease(INO);
  a.lease(OTHER);
  await clock.advance(10);
  assert.deepEqual(a.recalls.flat().map(({ ino }) => ino), [INO, OTHER]);
  const acquiring = watch(b.acquire(INO, "write"));
  await rest();
  assert.ok(!acquiring.isDone);
  assert.deepEqual([a.lease(INO), b.lease(INO)], ["none", "none"]);
  answer.open();
  await rest();
  assert.equal(acquiring.value, "write");
});

Deno.test("leases: eviction passes over what somebody has the turn on, and over all when everything is open", async () => {
  const { leases, clock, members: [a, b] } = await startMembers(2, { perSessionMax: 2 });
  const inodes = [10, 11, 12, 13].map(asInodeId);
  for (const ino of inodes) await a.acquire(ino, "read");
  await clock.advance(1_000);
  assert.deepEqual(a.recalls, []);
  assert.equal(leases.countOf(a.session).read, 4);
  const answer = gate();
  a.onRecall = answer.wait;
  a.open.clear();
  leases.lower(a.session, inodes.map((ino) => ({ ino, lease: "read", open: "no" })));
  const change = b.change({ ino: inodes[0]!, keep: "read", attributes: true });
  await rest();
  a.lease(asInodeId(14));
  await clock.advance(10);
  assert.ok(a.recalls.flat().some(({ ino }) => ino === inodes[1]));
  assert.equal(a.recalls.flat().filter(({ ino }) => ino === inodes[0]).length, 1);
  answer.open();
  await change;
});

// ---- fencing

Deno.test("leases: what a session could write when it ended is fenced before anybody has anything of it", async () => {
  const fenced: InodeId[] = [];
  const done = gate();
  const fence = async (ino: InodeId) => {
    fenced.push(ino);
    await done.wait();
  };
  const { sessions, leases, members: [a, b, c] } = await startMembers(3, { fence });
  await a.acquire(INO, "write");
  await a.acquire(OTHER, "read");
  sessions.end(a.session, "test");
  assert.deepEqual(fenced, [INO], "what it could only read is not");
  assert.equal(leases.status().fenced, 1);
  assert.equal(b.lease(OTHER), "read");
  assert.equal(b.lease(INO), "none");
  assert.ok(!leases.isAlone(INO, b.session));
  const waiting = [
    watch(b.acquire(INO, "read")),
    watch(c.change({ ino: INO, keep: "read", attributes: true })),
    watch(leases.look(c.session, [INO], () => {})),
  ];
  await rest();
  assert.ok(waiting.every(({ isDone }) => !isDone));
  done.open();
  await rest();
  assert.ok(waiting.every(({ isDone }) => isDone));
  assert.equal(c.lease(INO), "read");
});

Deno.test("leases: a writer that ends while it is recalled is fenced as well", async () => {
  const done = gate();
  const { sessions, members: [a, b] } = await startMembers(2, { fence: done.wait });
  a.onRecall = () => new Promise(() => {});
  await a.acquire(INO, "write");
  const acquiring = watch(b.acquire(INO, "write"));
  await rest();
  sessions.end(a.session, "test");
  await rest();
  assert.ok(!acquiring.isDone);
  done.open();
  await rest();
  assert.equal(acquiring.value, "write");
});

Deno.test("leases: a fence that begins while another is waited for is waited for as well", async () => {
  const gates = new Map([[INO, gate()], [OTHER, gate()]]);
  const { sessions, members: [a, b, c] } = await startMembers(3, { fence: (ino) => gates.get(ino)!.wait() });
  await a.acquire(INO, "write");
  await b.acquire(OTHER, "write");
  sessions.end(b.session, "test");
  a.onRecall = () => new Promise(() => {});
  const change = watch(c.change({ ino: INO, keep: "none" }, { ino: OTHER, keep: "none" }));
  await rest();
  sessions.end(a.session, "test");
  gates.get(OTHER)!.open();
  await rest();
  assert.ok(!change.isDone, "the first file may still be written to by a session that has ended");
  gates.get(INO)!.open();
  await rest();
  assert.ok(change.isDone);
});

Deno.test("leases: what is given up and said to be doubtful is fenced before anybody has it", async () => {
  for (const how of ["recalled", "released", "reclaimed"] as const) {
    const done = gate();
    const fenced: InodeId[] = [];
    const ended: InodeId[] = [];
    const { leases, members: [a, b] } = await startMembers(2, {
      fence: async (ino) => {
        fenced.push(ino);
        await done.wait();
      },
      onWriteEnded: (_session, ino) => ended.push(ino),
    });
    a.doubtful.add(INO);
    if (how === "reclaimed") {
      leases.reclaim(a.session, { ino: INO, lease: "read", open: "no", doubtful: true });
    } else for (const ino of [INO, OTHER]) await a.acquire(ino, "write");
    if (how === "released") { for (const ino of [INO, OTHER]) a.release(ino, "exclusive"); }
    const acquiring = watch(b.acquire(INO, "write"));
    assert.equal(await b.acquire(OTHER, "write"), "write", "the other is given up as ever");
    await rest();
    assert.deepEqual([fenced, acquiring.isDone, ended.includes(INO)], [[INO], false, false], how);
    done.open();
    await rest();
    assert.deepEqual([acquiring.value, ended.includes(INO), fenced.length], ["write", true, 1], how);
  }
});

Deno.test("leases: who only read what it says to be doubtful has nothing fenced", async () => {
  const fenced: InodeId[] = [];
  const fence = (ino: InodeId) => Promise.resolve(void fenced.push(ino));
  const { members: [a, b] } = await startMembers(2, { fence });
  a.doubtful.add(INO);
  await a.acquire(INO, "read");
  assert.equal(await b.acquire(INO, "write"), "write");
  await a.acquire(INO, "read");
  a.release(INO);
  assert.deepEqual(fenced, []);
});

// ---- restart

const STORED = [{ session: asSessionId(70), clientId: "old", host: "h", mountpoint: "/m" }];

Deno.test("leases: after a restart nothing is granted, looked at or changed before all have said what they hold", async () => {
  const { sessions, leases, members: [a] } = await startMembers(1, { stored: STORED });
  assert.equal(a.lease(INO), "none");
  const waiting = [
    watch(a.acquire(OTHER, "write")),
    watch(leases.look(a.session, [INO], () => {})),
    watch(a.change({ ino: INO, keep: "read", attributes: true })),
    watch(a.change({ ino: DIR, keep: "read", names: [name] })),
  ];
  const old = await Member.join({ sessions, leases }, "old");
  await rest();
  assert.ok(waiting.every(({ isDone }) => !isDone));
  assert.equal(a.lease(INO), "none");
  assert.equal(leases.reclaim(old.session, { ino: INO, lease: "write", open: "write" }), "write");
  old.open.set(INO, "write");
  await rest();
  assert.ok(waiting.every(({ isDone }) => !isDone), "not before it has said all");
  sessions.markReclaimed(old.session);
  await rest();
  assert.ok(waiting.every(({ isDone }) => isDone));
  assert.deepEqual(old.recalls[0], [{ ino: INO, keep: "read" }]);
  assert.equal(a.lease(INO), "read");
});

Deno.test("leases: after a restart nobody waits for a session that has ended", async () => {
  const { sessions, members: [a] } = await startMembers(1, { stored: STORED });
  const acquiring = watch(a.acquire(INO, "write"));
  await rest();
  assert.ok(!acquiring.isDone);
  sessions.end(asSessionId(70), "test");
  await rest();
  assert.equal(acquiring.value, "write");
});

Deno.test("leases: reclaimed is what does not contradict what others have reclaimed", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const reclaim = (member: Member, lease: "read" | "write") =>
    leases.reclaim(member.session, { ino: INO, lease, open: "no" });
  assert.equal(reclaim(a, "read"), "read");
  assert.equal(reclaim(b, "read"), "read");
  assert.equal(reclaim(c, "write"), "read", "it has given WRITE back, and did not hear that this was heard");
  assert.equal(leases.reclaim(a.session, { ino: OTHER, lease: "write", open: "write" }), "write");
  assert.equal(
    leases.reclaim(a.session, { ino: OTHER, lease: "write", open: "write" }),
    "write",
    "said again",
  );
  assert.equal(leases.reclaim(b.session, { ino: OTHER, lease: "read", open: "read" }), "none");
  assert.ok(leases.isOpenIn(OTHER, b.session));
  assert.deepEqual(leases.countOf(c.session), { read: 1, exclusive: 0, write: 0 });
});

Deno.test("leases: WRITE is not reclaimed by who has given it back where another is known to have got it since", async () => {
  const presumed = new Map([[asSessionId(70), [INO]], [asSessionId(71), [OTHER]]]);
  const stored = [...STORED, { ...STORED[0]!, session: asSessionId(71), clientId: "former" }];
  const { sessions, leases } = makeTables({ stored, presumed });
  const old = await Member.join({ sessions, leases }, "old");
  const former = await Member.join({ sessions, leases }, "former");
  const reclaim = (member: Member, ino: InodeId) =>
    leases.reclaim(member.session, { ino, lease: "write", open: "write" });
  assert.equal(reclaim(former, INO), "none");
  assert.equal(reclaim(old, INO), "write");
  assert.equal(reclaim(former, OTHER), "write", "its own");
  // Who was presumed to has said all, and that it is not so.
  assert.equal(reclaim(old, DIR), "write");
  leases.endPresumed(former.session);
  leases.lower(former.session, [{ ino: OTHER, lease: "none", open: "no" }]);
  assert.equal(reclaim(old, OTHER), "write");
});
