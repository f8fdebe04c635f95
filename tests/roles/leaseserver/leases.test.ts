/** Who is granted what, and what others give up before somebody looks or changes. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asInodeId, asSessionId } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { TOLD_LATELY } from "../../../roles/leaseserver/leases.ts";
import { gate, Member, passLooking, rest, startMembers, watch } from "./harness.ts";

const INO = asInodeId(5);
const OTHER = asInodeId(6);
const DIR = asInodeId(2);
const name = bytesOf("name");

// ---- granting

Deno.test("leases: whoever looks gets READ, together with others; WRITE is had alone", async () => {
  const { members: [a, b, c] } = await startMembers(3);
  assert.deepEqual([a, b].map((member) => member.lease(INO)), ["read", "read"]);
  assert.equal(await c.acquire(INO, "read"), "read");
  assert.deepEqual([a, b, c].flatMap(({ recalls }) => recalls), []);
  assert.equal(await c.acquire(INO, "write"), "write");
  for (const other of [a, b]) {
    assert.deepEqual(other.recalls, [[{ ino: INO, keep: "none" }]]);
    assert.equal(other.lease(INO), "none", "nothing is granted beside WRITE");
  }
  assert.deepEqual(c.recalls, []);
  assert.equal(c.lease(INO), "write", "a later look says what is held");
});

Deno.test("leases: acquiring READ leaves a writer READ, WRITE leaves readers nothing", async () => {
  const { members: [a, b, c] } = await startMembers(3);
  await a.acquire(INO, "write");
  assert.equal(await b.acquire(INO, "read"), "read");
  assert.deepEqual(a.recalls, [[{ ino: INO, keep: "read" }]]);
  assert.equal(a.lease(INO), "read");
  assert.equal(await c.acquire(INO, "write"), "write");
  assert.deepEqual(a.recalls.at(-1), [{ ino: INO, keep: "none" }]);
  assert.deepEqual(b.recalls, [[{ ino: INO, keep: "none" }]]);
});

Deno.test("leases: who holds WRITE acquires what it has without a recall", async () => {
  const { members: [a] } = await startMembers(1);
  await a.acquire(INO, "write");
  assert.equal(await a.acquire(INO, "read"), "write");
  assert.equal(await a.acquire(INO, "write"), "write");
  assert.deepEqual(a.recalls, []);
});

Deno.test("leases: who acquires is told whether another has the file open for writing", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const isShared = (member: Member) => leases.acquire(INO, member.session, "read", (isWritten) => isWritten);
  await a.acquire(INO, "read");
  assert.equal(await isShared(b), false);
  await a.acquire(INO, "write");
  assert.equal(await isShared(b), true);
  assert.equal(await isShared(a), false);
  // It has lost its lease, but is still open.
  await b.acquire(INO, "write");
  assert.equal(await isShared(c), true);
  a.release(INO);
  b.release(INO);
  assert.equal(await isShared(c), false);
});

Deno.test("leases: nobody but a session that lives is granted anything", async () => {
  const { sessions, leases, members: [a] } = await startMembers(1);
  assert.equal(leases.lease(INO, asSessionId(0)), "none");
  assert.equal(leases.lease(INO, asSessionId(99)), "none");
  await a.acquire(INO, "write");
  sessions.end(a.session, "test");
  assert.equal(a.lease(INO), "none");
  await assert.rejects(a.acquire(INO, "write"), (error) => isErrno(error, "ESHUTDOWN"));
  assert.throws(() => leases.grantWrite(INO, a.session), (error) => isErrno(error, "ESHUTDOWN"));
  assert.deepEqual(leases.countOf(a.session), { read: 0, exclusive: 0, write: 0 });
  assert.deepEqual([leases.status().read, leases.status().write], [0, 0]);
});

Deno.test("leases: what an acquire finds wrong takes its grant back", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  const fail = (mode: "read" | "write") =>
    assert.rejects(
      leases.acquire(INO, a.session, mode, () => Promise.reject(new FsError("ENOENT", "gone"))),
      (error) => isErrno(error, "ENOENT"),
    );
  await fail("write");
  await rest();
  assert.ok(leases.isAlone(INO, b.session));
  a.lease(INO);
  await fail("write");
  await rest();
  assert.deepEqual(leases.countOf(a.session), { read: 1, exclusive: 0, write: 0 });
});

Deno.test("leases: one acquires after the other, in the order in which they came", async () => {
  const { members } = await startMembers(4);
  const answer = gate();
  members[0].onRecall = answer.wait;
  await members[0].acquire(INO, "write");
  const order: string[] = [];
  const all = (["read", "write", "read"] as const).map(async (mode, i) => {
    const lease = await members[i + 1]!.acquireNow(INO, mode);
    order.push(`${i + 1} ${lease}`);
  });
  await rest();
  assert.deepEqual(order, []);
  answer.open();
  await Promise.all(all);
  assert.deepEqual(order, ["1 read", "2 write", "3 read"]);
  assert.deepEqual(members[1].recalls, [[{ ino: INO, keep: "none" }]]);
  assert.deepEqual(members[2].recalls, [[{ ino: INO, keep: "read" }]]);
});

Deno.test("leases: the recall of a grant starts after its answer was given", async () => {
  const { members: [a, b] } = await startMembers(2);
  const events: string[] = [];
  a.onRecall = () => void events.push("recall");
  const first = a.acquireNow(INO, "write").then(() => events.push("answer"));
  const second = b.acquireNow(INO, "write");
  await Promise.all([first, second]);
  assert.deepEqual(events, ["answer", "recall"]);
});

// The client takes an acquired lease for newer than every recall that came before it (fs/data_access.ts, #ask), and would
// keep what was taken back by what goes on in the same moment (as after the same write of the journal).
Deno.test("leases: the recall of a grant starts after its answer was given, whatever comes in the same moment", async () => {
  for (let steps = 0; steps < 20; steps++) {
    const { leases, members: [a, b] } = await startMembers(2);
    const events: string[] = [];
    a.onRecall = () => void events.push("recall");
    const written = Promise.withResolvers<void>();
    const answering = (async () => await leases.acquire(INO, a.session, "write", () => written.promise))()
      .then(() => events.push("answer"));
    const changing = (async () => {
      await written.promise;
      for (let i = 0; i < steps; i++) await Promise.resolve();
      await b.change({ ino: INO, keep: "none" });
    })();
    await rest();
    written.resolve();
    await Promise.all([answering, changing]);
    assert.deepEqual(events, ["answer", "recall"], `${steps} steps later`);
  }
});

Deno.test("leases: who is interrupted while it waits for its turn gets nothing", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const answer = gate();
  a.onRecall = answer.wait;
  await a.acquire(INO, "write");
  const waiting = b.acquire(INO, "write");
  await rest();
  const abort = new AbortController();
  const interrupted = c.acquire(INO, "read", abort.signal);
  await rest();
  assert.equal(leases.status().waitingTurns, 1);
  abort.abort();
  await assert.rejects(interrupted, (error) => isErrno(error, "EINTR"));
  answer.open();
  assert.equal(await waiting, "write");
  assert.deepEqual(leases.countOf(c.session), { read: 0, exclusive: 0, write: 0 });
});

// ---- looks

Deno.test("leases: a look takes WRITE down to READ first, and is told that it has the turn", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  const answer = gate();
  a.onRecall = answer.wait;
  await a.acquire(INO, "write");
  const look = watch(
    leases.look(b.session, [INO, OTHER], (own) => [own, leases.lease(INO, b.session, own)]),
  );
  await rest();
  assert.ok(!look.isDone);
  answer.open();
  await rest();
  assert.deepEqual(look.value, ["turn", "read"]);
  assert.deepEqual(a.recalls, [[{ ino: INO, keep: "read" }]], "nothing is asked about the other");
});

Deno.test("leases: a look at what nobody writes is answered at once, whatever is being changed", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const answer = gate();
  a.onRecall = answer.wait;
  a.lease(INO);
  const change = b.change({ ino: INO, keep: "read", attributes: true });
  await rest();
  const seen = leases.look(c.session, [INO], (own) => [own, leases.lease(INO, c.session, own)]);
  assert.deepEqual(seen, [undefined, "none"], "without a promise, and it must not be kept");
  answer.open();
  await change;
});

Deno.test("leases: the writer itself is not asked when it looks", async () => {
  const { leases, members: [a] } = await startMembers(1);
  await a.acquire(INO, "write");
  assert.equal(leases.look(a.session, [INO], (own) => own), undefined);
  assert.deepEqual(a.recalls, []);
});

// ---- changes

Deno.test("leases: a change that nobody has to hear of is made in the same step", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  a.lease(INO);
  b.lease(OTHER);
  let isMade = false;
  const items = [{ ino: INO, keep: "none" }, { ino: OTHER, keep: "read" }] as const;
  const change = leases.change(a.session, items, () => {
    isMade = true;
  });
  assert.ok(isMade);
  await change;
  assert.deepEqual([...a.recalls, ...b.recalls], []);
});

Deno.test("leases: a change waits for others, and nothing of the inode is granted meanwhile", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const answer = gate();
  a.onRecall = answer.wait;
  a.lease(INO);
  a.lease(DIR);
  const during = watch(leases.change(b.session, [
    { ino: INO, keep: "none" },
    { ino: DIR, keep: "read", names: [name] },
  ], () => [leases.lease(INO, b.session, "turn"), leases.lease(DIR, b.session, "names")]));
  await rest();
  assert.deepEqual([...a.recalls], [[
    { ino: INO, keep: "none" },
    { ino: DIR, keep: "read", names: [name] },
  ]], "all in one message");
  for (const member of [a, b, c]) {
    assert.deepEqual([member.lease(INO), member.lease(DIR)], ["none", "none"]);
  }
  assert.equal(c.lease(OTHER), "read", "others are");
  assert.ok(!during.isDone);
  answer.open();
  await rest();
  assert.deepEqual(during.value, ["read", "read"], "who changes it may keep what it made");
  assert.deepEqual([a.lease(INO), c.lease(INO), c.lease(DIR)], ["read", "read", "read"]);
});

Deno.test("leases: who is being recalled changes the inode before it gives it back, also when it came before the recall", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  await a.acquire(INO, "write");
  const answer = gate();
  a.onRecall = answer.wait;
  const acquired = watch(b.acquire(INO, "write"));
  await rest();
  assert.equal(a.recalls.length, 1);
  // A truncate, for instance: until it is answered the kernel writes no page of the file back.
  const cut = { ino: INO, keep: "none" } as const;
  const change = watch(leases.change(a.session, [cut], () => leases.lease(INO, a.session, "turn")));
  await rest();
  assert.equal(change.value, "none", "and keeps nothing");
  // Another's waits for its turn, as does one of who has been recalled before.
  const later = watch(leases.change(c.session, [cut], () => "later"));
  await rest();
  assert.ok(!acquired.isDone && !later.isDone);
  answer.open();
  await rest();
  assert.ok(acquired.isDone);
  await rest();
  assert.equal(later.value, "later");
});

Deno.test("leases: a change that waits for its turn goes on when its session is recalled by who has it", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  await a.acquire(INO, "write");
  const [first, second] = [gate(), gate()];
  const cut = { ino: INO, keep: "none" } as const;
  // The turn is taken before anything is recalled.
  const holding = watch(leases.withoutWriters(INO, async () => {
    await first.wait();
  }, "read"));
  await rest();
  a.onRecall = second.wait;
  assert.ok(!holding.isDone);
  const acquired = watch(b.acquire(INO, "write"));
  const change = watch(leases.change(a.session, [cut], () => "changed"));
  await rest();
  assert.ok(!change.isDone && !acquired.isDone);
  first.open();
  await rest();
  await rest();
  assert.equal(change.value, "changed", "while the other waits for its acknowledgement");
  assert.ok(!acquired.isDone);
  second.open();
  await rest();
  assert.ok(acquired.isDone);
});

Deno.test("leases: who is shown the inode after it has given it up is asked again, whoever had the turn meanwhile", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  for (const member of [a, b, c]) assert.equal(member.lease(INO), "read");
  const item = { ino: INO, keep: "read", attributes: true } as const;
  const change = (member: Member, run = () => {}) => watch(leases.change(member.session, [item], run));
  const [ofB, ofC] = [gate(), gate()];
  b.onRecall = ofB.wait;
  const first = change(a);
  await rest();
  c.onRecall = ofC.wait;
  // It is asked by who has the turn, so that it goes first, and asks that one and the third.
  let asked = 0;
  const second = change(b, () => asked = a.recalls.length);
  await rest();
  ofB.open();
  await rest();
  assert.ok(first.isDone && !second.isDone);
  assert.deepEqual([a.recalls.length, a.lease(INO)], [1, "read"], "nobody has the turn");
  const again = gate();
  b.onRecall = again.wait;
  const third = change(a);
  await rest();
  ofC.open();
  await rest();
  again.open();
  await rest();
  assert.ok(second.isDone && third.isDone);
  assert.ok(asked >= 2, "what it was shown is from before the change");
});

Deno.test("leases: who is asked to give the inode up is shown it without a lease, also when nobody has the turn", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  for (const member of [a, b]) assert.equal(member.lease(INO), "read");
  const [ofA, ofB] = [gate(), gate()];
  b.onRecall = ofB.wait;
  const first = watch(a.change({ ino: INO, keep: "read", attributes: true }));
  await rest();
  a.onRecall = ofA.wait;
  // It is asked by who has the turn, so that it goes first.
  const cut = watch(b.change({ ino: INO, keep: "none", attributes: true }));
  await rest();
  ofB.open();
  await rest();
  assert.ok(first.isDone && !cut.isDone);
  assert.equal(
    a.lease(INO),
    "none",
    "its acknowledgement may be on its way: it would keep what it is shown now",
  );
  assert.equal(leases.lease(INO, a.session, "names"), "none");
  ofA.open();
  await rest();
  assert.ok(cut.isDone);
  assert.equal(a.lease(INO), "read");
});

Deno.test("leases: a change of attributes is told to all who hold the inode, and leaves them READ", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  a.lease(INO);
  await b.acquire(OTHER, "write");
  await c.change({ ino: INO, keep: "read", attributes: true }, {
    ino: OTHER,
    keep: "read",
    attributes: true,
  });
  assert.deepEqual(a.recalls, [[{ ino: INO, keep: "read", attributes: true }]]);
  assert.deepEqual(b.recalls, [[{ ino: OTHER, keep: "read", attributes: true }]]);
  assert.deepEqual(leases.countOf(a.session), { read: 1, exclusive: 0, write: 0 });
  assert.deepEqual(leases.countOf(b.session), { read: 1, exclusive: 0, write: 0 });
  // Who has no lease, though it has the file open, knows nothing that could be wrong.
  await c.acquire(OTHER, "write");
  const before = b.recalls.length;
  await c.change({ ino: OTHER, keep: "read", attributes: true });
  assert.equal(b.recalls.length, before);
});

Deno.test("leases: changes of names of one directory go side by side, and none of them may be kept", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const answers = [gate(), gate()];
  let asked = 0;
  a.onRecall = () => answers[asked++]!.wait();
  a.lease(DIR);
  const change = (member: Member) =>
    watch(leases.change(
      member.session,
      [{ ino: DIR, keep: "read", names: [name] }],
      () => leases.lease(DIR, member.session, "names"),
    ));
  const first = change(b);
  await rest();
  const second = change(c);
  await rest();
  assert.equal(asked, 2, "the second does not wait for the first");
  answers[1]!.open();
  await rest();
  assert.deepEqual([first.isDone, second.isDone], [false, true]);
  assert.equal(second.value, "none", "the other changes names as well, and is not done");
  assert.equal(c.lease(DIR), "none");
  answers[0]!.open();
  await rest();
  assert.equal(first.value, "read");
  assert.equal(c.lease(DIR), "read");
});

Deno.test("leases: what is being removed is asked for wherever it is known, and kept where it is open", async () => {
  const { leases, members: [a, b, c, d] } = await startMembers(4);
  await a.acquire(INO, "read");
  b.lease(INO);
  await c.acquire(INO, "read");
  // It is open there, but nothing may be cached.
  c.release(INO);
  await c.acquire(INO, "write");
  await a.acquire(INO, "write");
  b.lease(INO);
  const item = { ino: INO, keep: "read", attributes: true, removed: true } as const;
  // b has it not open, but may be about to.
  assert.deepEqual([...await d.change(item)].sort(), [TOLD_LATELY, a.session, c.session].sort());
  assert.deepEqual(a.recalls.at(-1), [item]);
  assert.deepEqual(c.recalls.at(-1), [item]);
  assert.ok(leases.isOpenIn(INO, a.session) && leases.isOpenIn(INO, c.session));
  assert.ok(!leases.isOpenIn(INO, b.session));
});

Deno.test("leases: of a removed inode nothing is left where it is not open", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  a.lease(INO);
  await b.change({ ino: INO, keep: "read", removed: true });
  assert.deepEqual(leases.countOf(a.session), { read: 0, exclusive: 0, write: 0 });
  assert.ok(leases.isAlone(INO, b.session));
});

Deno.test("leases: a session that does not answer is waited for until it is over, one that answers no longer", async () => {
  const { sessions, clock, members: [a, b, c] } = await startMembers(3);
  a.onRecall = () => Promise.reject(new FsError("ETIMEDOUT", ""));
  await a.acquire(INO, "write");
  c.lease(OTHER);
  const change = watch(b.change({ ino: INO, keep: "none" }));
  const other = watch(b.change({ ino: OTHER, keep: "none" }));
  await rest();
  assert.ok(other.isDone);
  await passLooking(clock, sessions, 9_000);
  sessions.of(b.peer);
  assert.ok(!change.isDone);
  await passLooking(clock, sessions, 1_500);
  await rest();
  assert.ok(change.isDone);
  assert.ok(!sessions.isAlive(a.session));
});

Deno.test("leases: a failed change lets the inodes go", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  a.lease(INO);
  const items = [{ ino: INO, keep: "none" }, { ino: DIR, keep: "read", names: [name] }] as const;
  for (const isPromise of [false, true]) {
    const failing = leases.change(b.session, items, () => {
      const error = new FsError("ENOSPC", "");
      if (isPromise) return Promise.reject(error);
      throw error;
    });
    await assert.rejects(failing, (error) => isErrno(error, "ENOSPC"));
    await rest();
    assert.deepEqual([a.lease(INO), a.lease(DIR)], ["read", "read"]);
  }
});

Deno.test("leases: who has the turn on a directory is granted nothing while another changes its names", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const answer = gate();
  b.lease(DIR);
  c.lease(DIR);
  await c.acquire(INO, "write");
  c.onRecall = answer.wait;
  const making = watch(a.change({ ino: DIR, keep: "read", names: [name] }));
  await rest();
  assert.equal(
    b.recalls.length,
    1,
    "b has given up what it knew of the name and of the directory's attributes",
  );
  c.onRecall = () => {};
  const shown = await leases.look(
    b.session,
    [INO, DIR],
    (own) => [own, leases.lease(DIR, b.session, own)],
  );
  assert.ok(!making.isDone);
  assert.deepEqual(shown, ["turn", "none"]);
  answer.open();
});

Deno.test("leases: who changes names in a directory is granted nothing while another has the turn on it", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  const answer = gate();
  c.lease(DIR);
  c.onRecall = answer.wait;
  const removing = watch(a.change({ ino: DIR, keep: "none" }));
  await rest();
  c.onRecall = () => {};
  const granted = await leases.change(
    b.session,
    [{ ino: DIR, keep: "read", names: [name] }],
    () => leases.lease(DIR, b.session, "names"),
  );
  assert.ok(!removing.isDone);
  assert.equal(granted, "none");
  answer.open();
});

Deno.test("leases: an rmdir ends though two others keep making and removing names in the directory", async () => {
  const { leases, members: [a, b, c] } = await startMembers(3);
  let isOver = false;
  const coming = [b, c].map(async (member) => {
    member.onRecall = rest; // as long as a message takes
    member.lease(DIR);
    for (let i = 0; i < 300 && !isOver; i++) {
      await leases.change(member.session, [{ ino: DIR, keep: "read", names: [name] }], () => {
        leases.lease(DIR, member.session, "names");
      });
      await settle();
    }
    return isOver;
  });
  await settle();
  void a.change({ ino: DIR, keep: "none" }).then(() => isOver = true);
  assert.deepEqual(await Promise.all(coming), [true, true], "it still asks after 300 changes of names each");
});

// ---- flushes

Deno.test("leases: a flush needs no turn from who holds WRITE or is being recalled, from nobody else", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  assert.ok(!leases.mayCommit(INO, a.session));
  await a.acquire(INO, "write");
  assert.ok(leases.mayCommit(INO, a.session));
  let during = false;
  a.onRecall = async () => {
    a.release(INO, "read"); // it has told that it holds less, before it has flushed
    await rest();
    during = leases.mayCommit(INO, a.session);
  };
  await b.acquire(INO, "read");
  assert.ok(during);
  assert.ok(!leases.mayCommit(INO, a.session), "with READ it must ask");
  assert.ok(!leases.mayCommit(INO, b.session));
});

// ---- what a session says of its opens, and a release beside it

/** More than the steps of the program from an answer until whoever waits for it goes on. */
const STEPS_MAX = 20;

Deno.test("leases: a close that is told right behind the answer that the file is open counts", async () => {
  for (let steps = 0; steps <= STEPS_MAX; steps++) {
    const { leases, members: [a, b] } = await startMembers(2);
    await a.acquire(INO, "read");
    const answer = gate();
    a.onRecall = answer.wait;
    let isReleased = false;
    const item = { ino: INO, keep: "read", attributes: true, removed: true } as const;
    const removing = leases.change(b.session, [item], (openIn) => {
      assert.equal(openIn.includes(a.session), !isReleased, `${steps} steps`);
    });
    await rest();
    a.onRecall = () => {};
    answer.open();
    for (let i = 0; i < steps; i++) await Promise.resolve();
    a.release(INO, "read");
    isReleased = true;
    await removing;
    await rest();
    assert.equal(leases.isOpenIn(INO, a.session), false, `${steps} steps`);
  }
});

Deno.test("leases: a close that is told while another inode of the same recall is waited for counts", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  await a.acquire(INO, "read");
  a.lease(OTHER);
  const answer = gate();
  const { open } = a;
  // As it was when this one had been given up.
  a.onRecall = async () => {
    await answer.wait();
    open.set(INO, "read");
  };
  const items = [
    { ino: INO, keep: "read", attributes: true, removed: true },
    { ino: OTHER, keep: "none" },
  ] as const;
  const removing = leases.change(b.session, items, (openIn) => openIn);
  await rest();
  a.release(INO, "read");
  answer.open();
  a.onRecall = () => void open.delete(INO);
  assert.equal((await removing).includes(a.session), false);
  assert.deepEqual(a.recalls.map((pushed) => pushed.length), [2, 1], "that alone is asked again");
});

Deno.test("leases: what was open before an acquire that is refused still is", async () => {
  const { leases, members: [a, b] } = await startMembers(2);
  await a.acquire(INO, "read");
  await b.acquire(INO, "write");
  const refused = leases.acquire(INO, a.session, "write", () => Promise.reject(new FsError("EPERM", "no")));
  await assert.rejects(refused, (error) => isErrno(error, "EPERM"));
  await rest();
  assert.ok(leases.isOpenIn(INO, a.session));
});
