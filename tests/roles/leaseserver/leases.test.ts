import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asInodeId, asSessionId, type InodeId } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { gate, makeTables, Member, rest, watch } from "./harness.ts";

const INO = asInodeId(5);
const OTHER = asInodeId(6);
const DIR = asInodeId(2);
const name = bytesOf("name");

async function start(count: number, options?: Parameters<typeof makeTables>[0]) {
  const tables = makeTables(options);
  const members = await Promise.all(
    Array.from({ length: count }, (_, i) => Member.join(tables, "abcdef"[i]!)),
  );
  return { ...tables, members: members as [Member, Member, Member, Member] };
}

// ---- granting

Deno.test("leases: whoever looks gets READ, together with others; WRITE is had alone", async () => {
  const { members: [a, b, c] } = await start(3);
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
  const { members: [a, b, c] } = await start(3);
  await a.acquire(INO, "write");
  assert.equal(await b.acquire(INO, "read"), "read");
  assert.deepEqual(a.recalls, [[{ ino: INO, keep: "read" }]]);
  assert.equal(a.lease(INO), "read");
  assert.equal(await c.acquire(INO, "write"), "write");
  assert.deepEqual(a.recalls.at(-1), [{ ino: INO, keep: "none" }]);
  assert.deepEqual(b.recalls, [[{ ino: INO, keep: "none" }]]);
});

Deno.test("leases: who holds WRITE acquires what it has without a recall", async () => {
  const { members: [a] } = await start(1);
  await a.acquire(INO, "write");
  assert.equal(await a.acquire(INO, "read"), "write");
  assert.equal(await a.acquire(INO, "write"), "write");
  assert.deepEqual(a.recalls, []);
});

Deno.test("leases: who acquires is told whether another has the file open for writing", async () => {
  const { leases, members: [a, b, c] } = await start(3);
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
  const { sessions, leases, members: [a] } = await start(1);
  assert.equal(leases.lease(INO, asSessionId(0)), "none");
  assert.equal(leases.lease(INO, asSessionId(99)), "none");
  await a.acquire(INO, "write");
  sessions.end(a.session, "test");
  assert.equal(a.lease(INO), "none");
  await assert.rejects(a.acquire(INO, "write"), (error) => isErrno(error, "ESHUTDOWN"));
  assert.throws(() => leases.grantWrite(INO, a.session), (error) => isErrno(error, "ESHUTDOWN"));
  assert.deepEqual(leases.countOf(a.session), { read: 0, write: 0 });
  assert.deepEqual([leases.status().read, leases.status().write], [0, 0]);
});

Deno.test("leases: what an acquire finds wrong takes its grant back", async () => {
  const { leases, members: [a, b] } = await start(2);
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
  assert.deepEqual(leases.countOf(a.session), { read: 1, write: 0 });
});

Deno.test("leases: one acquires after the other, in the order in which they came", async () => {
  const { members } = await start(4);
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
  const { members: [a, b] } = await start(2);
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
    const { leases, members: [a, b] } = await start(2);
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
  const { leases, members: [a, b, c] } = await start(3);
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
  assert.deepEqual(leases.countOf(c.session), { read: 0, write: 0 });
});

// ---- looks

Deno.test("leases: a look takes WRITE down to READ first, and is told that it has the turn", async () => {
  const { leases, members: [a, b] } = await start(2);
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
  const { leases, members: [a, b, c] } = await start(3);
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
  const { leases, members: [a] } = await start(1);
  await a.acquire(INO, "write");
  assert.equal(leases.look(a.session, [INO], (own) => own), undefined);
  assert.deepEqual(a.recalls, []);
});

// ---- changes

Deno.test("leases: a change that nobody has to hear of is made in the same step", async () => {
  const { leases, members: [a, b] } = await start(2);
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
  const { leases, members: [a, b, c] } = await start(3);
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

Deno.test("leases: a change of attributes is told to all who hold the inode, and leaves them READ", async () => {
  const { leases, members: [a, b, c] } = await start(3);
  a.lease(INO);
  await b.acquire(OTHER, "write");
  await c.change({ ino: INO, keep: "read", attributes: true }, {
    ino: OTHER,
    keep: "read",
    attributes: true,
  });
  assert.deepEqual(a.recalls, [[{ ino: INO, keep: "read", attributes: true }]]);
  assert.deepEqual(b.recalls, [[{ ino: OTHER, keep: "read", attributes: true }]]);
  assert.deepEqual(leases.countOf(a.session), { read: 1, write: 0 });
  assert.deepEqual(leases.countOf(b.session), { read: 1, write: 0 });
  // Who has no lease, though it has the file open, knows nothing that could be wrong.
  await c.acquire(OTHER, "write");
  const before = b.recalls.length;
  await c.change({ ino: OTHER, keep: "read", attributes: true });
  assert.equal(b.recalls.length, before);
});

Deno.test("leases: changes of names of one directory go side by side, and none of them may be kept", async () => {
  const { leases, members: [a, b, c] } = await start(3);
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
  const { leases, members: [a, b, c, d] } = await start(4);
  await a.acquire(INO, "read");
  b.lease(INO);
  await c.acquire(INO, "read");
  // It is open there, but nothing may be cached.
  c.release(INO);
  await c.acquire(INO, "write");
  await a.acquire(INO, "write");
  b.lease(INO);
  const item = { ino: INO, keep: "read", attributes: true, removed: true } as const;
  assert.deepEqual([...await d.change(item)].sort(), [a.session, c.session].sort());
  assert.deepEqual(a.recalls.at(-1), [item]);
  assert.deepEqual(c.recalls.at(-1), [item]);
  assert.ok(leases.isOpenIn(INO, a.session) && leases.isOpenIn(INO, c.session));
  assert.ok(!leases.isOpenIn(INO, b.session));
});

Deno.test("leases: of a removed inode nothing is left where it is not open", async () => {
  const { leases, members: [a, b] } = await start(2);
  a.lease(INO);
  await b.change({ ino: INO, keep: "read", removed: true });
  assert.deepEqual(leases.countOf(a.session), { read: 0, write: 0 });
  assert.ok(leases.isAlone(INO, b.session));
});

Deno.test("leases: a session that does not answer is waited for until it is over, one that answers no longer", async () => {
  const { sessions, clock, members: [a, b, c] } = await start(3);
  a.onRecall = () => Promise.reject(new FsError("ETIMEDOUT", ""));
  await a.acquire(INO, "write");
  c.lease(OTHER);
  const change = watch(b.change({ ino: INO, keep: "none" }));
  const other = watch(b.change({ ino: OTHER, keep: "none" }));
  await rest();
  assert.ok(other.isDone);
  await clock.advance(9_000);
  sessions.of(b.peer);
  sessions.expire();
  assert.ok(!change.isDone);
  await clock.advance(1_500);
  sessions.expire();
  await rest();
  assert.ok(change.isDone);
  assert.ok(!sessions.isAlive(a.session));
});

Deno.test("leases: a failed change lets the inodes go", async () => {
  const { leases, members: [a, b] } = await start(2);
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
  const { leases, members: [a, b, c] } = await start(3);
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
  const { leases, members: [a, b, c] } = await start(3);
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
  const { leases, members: [a, b, c] } = await start(3);
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
  const { leases, members: [a, b] } = await start(2);
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

// ---- giving back, and the end of things

Deno.test("leases: a session gives back all or a part, and never gets more by it", async () => {
  const { leases, members: [a, b] } = await start(2);
  await a.acquire(INO, "write");
  leases.lower(a.session, [{ ino: INO, lease: "read", open: "no" }]);
  assert.deepEqual(leases.countOf(a.session), { read: 1, write: 0 });
  leases.lower(a.session, [{ ino: INO, lease: "write", open: "no" }, {
    ino: OTHER,
    lease: "write",
    open: "no",
  }]);
  assert.deepEqual(leases.countOf(a.session), { read: 1, write: 0 });
  leases.lower(a.session, [{ ino: INO, lease: "none", open: "read" }]);
  assert.ok(leases.isOpenIn(INO, a.session) && !leases.isAlone(INO, b.session));
  leases.lower(a.session, [{ ino: INO, lease: "none", open: "no" }]);
  assert.ok(leases.isAlone(INO, b.session));
  leases.lower(asSessionId(99), [{ ino: INO, lease: "none", open: "no" }]);
});

Deno.test("leases: who is asked for what it has given back meanwhile answers so", async () => {
  const { leases, members: [a, b] } = await start(2);
  const answer = gate();
  a.onRecall = answer.wait;
  await a.acquire(INO, "write");
  const acquiring = b.acquire(INO, "write");
  await rest();
  a.release(INO);
  answer.open();
  assert.equal(await acquiring, "write");
  assert.deepEqual(leases.countOf(a.session), { read: 0, write: 0 });
});

Deno.test("leases: an inode is somebody's alone while no other knows it nor asks for it", async () => {
  const { leases, members: [a, b] } = await start(2);
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
  const { leases, members: [a, b] } = await start(2);
  await a.acquire(INO, "read");
  b.lease(INO);
  leases.forget(INO);
  assert.deepEqual([leases.countOf(a.session), leases.countOf(b.session)], [
    { read: 0, write: 0 },
    { read: 0, write: 0 },
  ]);
  assert.ok(!leases.isOpenIn(INO, a.session));
});

Deno.test("leases: askOpen hears from the session itself, and from nobody that does not know the inode", async () => {
  const { sessions, leases, clock, members: [a, b] } = await start(2);
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
  assert.deepEqual(leases.countOf(a.session), { read: 0, write: 0 }, "what is not open is given up");
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
  const { leases, clock, members: [a, b] } = await start(2, { perSessionMax: 77 });
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
  const { leases, members: [a] } = await start(1);
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
  assert.deepEqual(leases.countOf(a.session), { read: 0, write: 1 });
});

// ---- too many

Deno.test("leases: of a session that holds too many the oldest are recalled, but not what is open", async () => {
  const { leases, clock, members: [a, b] } = await start(2, { perSessionMax: 100 });
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
  assert.deepEqual(leases.countOf(b.session), { read: 1, write: 0 }, "others are not concerned");
});

Deno.test("leases: while what is too much is given up nobody else gets it beside the old holder", async () => {
  const { members: [a, b], clock } = await start(2, { perSessionMax: 1 });
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
  const { leases, clock, members: [a, b] } = await start(2, { perSessionMax: 2 });
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
  const { sessions, leases, members: [a, b, c] } = await start(3, { fence });
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
  const { sessions, members: [a, b] } = await start(2, { fence: done.wait });
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
  const { sessions, members: [a, b, c] } = await start(3, { fence: (ino) => gates.get(ino)!.wait() });
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

// ---- restart

const STORED = [{ session: asSessionId(70), clientId: "old", host: "h", mountpoint: "/m" }];

Deno.test("leases: after a restart nothing is granted, looked at or changed before all have said what they hold", async () => {
  const { sessions, leases, members: [a] } = await start(1, { stored: STORED });
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
  const { sessions, members: [a] } = await start(1, { stored: STORED });
  const acquiring = watch(a.acquire(INO, "write"));
  await rest();
  assert.ok(!acquiring.isDone);
  sessions.end(asSessionId(70), "test");
  await rest();
  assert.equal(acquiring.value, "write");
});

Deno.test("leases: reclaimed is what does not contradict what others have reclaimed", async () => {
  const { leases, members: [a, b, c] } = await start(3);
  const reclaim = (member: Member, lease: "read" | "write") =>
    leases.reclaim(member.session, { ino: INO, lease, open: "no" });
  assert.equal(reclaim(a, "read"), "read");
  assert.equal(reclaim(b, "read"), "read");
  assert.equal(reclaim(c, "write"), "none");
  assert.equal(leases.reclaim(a.session, { ino: OTHER, lease: "write", open: "write" }), "write");
  assert.equal(
    leases.reclaim(a.session, { ino: OTHER, lease: "write", open: "write" }),
    "write",
    "said again",
  );
  assert.equal(leases.reclaim(b.session, { ino: OTHER, lease: "read", open: "read" }), "none");
  assert.ok(leases.isOpenIn(OTHER, b.session));
  assert.deepEqual(leases.countOf(c.session), { read: 0, write: 0 });
});
