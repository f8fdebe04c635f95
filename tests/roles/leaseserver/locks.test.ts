import assert from "node:assert/strict";
import type { ByteSpan, LockedRange, LockType, Offset } from "../../../base/lock_ranges.ts";
import { randomInt } from "../../../base/random.ts";
import { FAIR_MS, LockTable, type LockTableOptions } from "../../../roles/leaseserver/locks.ts";
import { FsError } from "../../../wire/errno.ts";
import { asInodeId, asSessionId, type SessionId } from "../../../wire/ids.ts";
import type { LockKind, LockRequest } from "../../../wire/messages/locks.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";

const INO = asInodeId(5);
const OTHER = asInodeId(6);
const A = asSessionId(1);
const B = asSessionId(2);
const C = asSessionId(3);

type Outcome = "granted" | "waiting" | "EAGAIN" | "EDEADLK" | "ENOLCK";

class Table {
  readonly clock = new FakeClock();
  /** Waits whose client was told to ask again. */
  readonly told: string[] = [];
  readonly locks: LockTable;

  constructor(options: Partial<LockTableOptions> = {}) {
    this.locks = new LockTable({
      clock: this.clock,
      tell: (session, wait) => void this.told.push(`${session}/${wait}`),
      recall: (session, ino, kept) => void this.told.push(`${session} gives up ${ino}/${kept}`),
      ...options,
    });
  }

  lock(
    session: SessionId,
    type: LockType,
    start: Offset,
    end: Offset,
    more: Partial<LockRequest> = {},
  ): Outcome {
    try {
      const request = { ino: INO, kind: "posix", owner: "1", pid: 10, ...more, type, start, end } as const;
      return this.locks.lock(session, request) ? "granted" : "waiting";
    } catch (error) {
      assert.ok(error instanceof FsError);
      return error.errno as Outcome;
    }
  }

  flock(session: SessionId, type: LockType, more: Partial<LockRequest> = {}): Outcome {
    return this.lock(session, type, 0, Infinity, { kind: "flock", ...more });
  }

  unlock(
    session: SessionId,
    start: Offset = 0,
    end: Offset = Infinity,
    kind: LockKind = "posix",
    owner = "1",
    ino = INO,
  ): void {
    this.locks.unlock(session, { ino, kind, owner }, { start, end });
  }

  test(session: SessionId, type: LockType, start: number, end: number, owner = "1") {
    return this.locks.test(session, { ino: INO, kind: "posix", owner }, { start, end, type });
  }
}

Deno.test("locks: shared ones go together, an exclusive one stands alone, and who holds it is told", () => {
  const table = new Table();
  assert.equal(table.lock(A, "read", 0, 9, { pid: 77 }), "granted");
  assert.equal(table.lock(B, "read", 5, 20), "granted");
  assert.equal(table.lock(C, "write", 9, 9), "EAGAIN");
  assert.equal(table.lock(C, "write", 21, 30), "granted");
  assert.deepEqual(table.test(A, "read", 0, 99, "2"), { start: 21, end: 30, type: "write", pid: 0 });
  assert.deepEqual(table.test(A, "write", 0, 4, "2"), { start: 0, end: 9, type: "read", pid: 77 });
  assert.equal(table.test(A, "write", 0, 4), undefined);
  assert.equal(table.lock(A, "write", 0, 4), "granted");
  assert.equal(table.lock(A, "write", 5, 9), "EAGAIN");
  assert.deepEqual(table.locks.countOf(A), { locks: 2, waits: 0 });
  table.unlock(B, 0, 9);
  assert.equal(table.lock(A, "write", 5, 9), "granted");
  assert.deepEqual(table.locks.countOf(A), { locks: 1, waits: 0 });
});

Deno.test("locks: flock and fcntl know nothing of each other, nor do files", () => {
  const table = new Table();
  assert.equal(table.flock(A, "write"), "granted");
  assert.equal(table.lock(B, "write", 0, Infinity), "granted");
  assert.equal(table.flock(B, "write"), "EAGAIN");
  assert.equal(table.flock(B, "write", { ino: OTHER }), "granted");
});

Deno.test("locks: an flock of another type goes first, and is lost when the new one is not to be had", () => {
  const table = new Table();
  assert.equal(table.flock(A, "read"), "granted");
  assert.equal(table.flock(B, "read"), "granted");
  assert.equal(table.flock(A, "write"), "EAGAIN");
  assert.deepEqual(table.locks.countOf(A), { locks: 0, waits: 0 });
  assert.equal(table.flock(B, "write"), "granted");
  assert.equal(table.flock(B, "write"), "granted");
});

Deno.test("locks: fcntl converts in one step, and keeps what it had when that fails", () => {
  const table = new Table();
  assert.equal(table.lock(A, "read", 0, 9), "granted");
  assert.equal(table.lock(B, "read", 5, 9), "granted");
  assert.equal(table.lock(A, "write", 0, 9), "EAGAIN");
  assert.equal(table.lock(C, "write", 0, 0), "EAGAIN", "A has it still");
});

Deno.test("locks: what becomes free is kept for who waits, until it takes it or gives it up", () => {
  const table = new Table();
  assert.equal(table.lock(A, "write", 0, 9), "granted");
  assert.equal(table.lock(B, "write", 5, 5, { wait: 1 }), "waiting");
  assert.equal(table.lock(B, "write", 5, 5, { wait: 1 }), "waiting", "sent again");
  table.unlock(A);
  assert.deepEqual(table.told, ["2/1"]);
  assert.equal(table.lock(C, "write", 0, 9), "EAGAIN");
  assert.equal(table.lock(B, "write", 5, 5, { wait: 1 }), "granted");
  assert.equal(table.lock(B, "write", 5, 5, { wait: 1 }), "granted", "its answer was lost");
  assert.deepEqual(table.locks.countOf(B), { locks: 1, waits: 0 });
});

Deno.test("locks: giving up crosses the offer, and nothing stays", () => {
  const table = new Table();
  assert.equal(table.lock(A, "write", 0, 9), "granted");
  assert.equal(table.lock(B, "write", 0, 9, { wait: 1 }), "waiting");
  assert.equal(table.lock(C, "write", 0, 9, { wait: 1 }), "waiting");
  table.unlock(A);
  assert.deepEqual(table.told, ["2/1"]);
  table.locks.cancel(B, 1);
  table.locks.cancel(B, 1);
  assert.deepEqual(table.told, ["2/1", "3/1"]);
  assert.deepEqual(table.locks.countOf(B), { locks: 0, waits: 0 });
  table.locks.cancel(C, 1);
  assert.equal(table.lock(A, "write", 0, 9), "granted");
});

Deno.test("locks: the end of a session releases what it held and what it was offered", () => {
  const table = new Table();
  assert.equal(table.lock(A, "write", 0, 9), "granted");
  assert.equal(table.flock(A, "write"), "granted");
  assert.equal(table.lock(B, "write", 0, 9, { wait: 1 }), "waiting");
  assert.equal(table.flock(C, "read", { wait: 2 }), "waiting");
  table.locks.dropSession(A);
  assert.deepEqual(table.told, ["2/1", "3/2"]);
  assert.equal(table.lock(C, "write", 0, 9, { wait: 3 }), "waiting");
  table.locks.dropSession(B);
  assert.deepEqual(table.told.slice(2), ["3/3"]);
});

Deno.test("locks: who waits is served in order; others let it go first for a while, but not who holds something", async () => {
  const table = new Table();
  const more = (owner: string, wait?: number) => ({ owner, ...wait === undefined ? {} : { wait } });
  assert.equal(table.lock(A, "read", 0, 9, more("1")), "granted");
  assert.equal(table.lock(B, "write", 0, 9, more("1", 1)), "waiting");
  assert.equal(table.lock(C, "read", 0, 9, more("1", 1)), "waiting", "it lets the writer go first");
  assert.equal(table.lock(C, "read", 0, 9, more("2")), "granted", "who does not wait can't");
  assert.equal(table.lock(A, "read", 5, 20, more("1", 1)), "granted", "the writer may wait for just that");
  await table.clock.advance(FAIR_MS);
  assert.deepEqual(table.told, ["3/1"], "after a while it does so no more");
  assert.equal(table.lock(C, "read", 0, 9, more("1", 1)), "granted");
  table.locks.dropSession(A);
  table.locks.dropSession(C);
  assert.deepEqual(table.told, ["3/1", "2/1"]);
});

Deno.test("locks: a stream of readers that come and go does not starve a writer", async () => {
  const table = new Table();
  const HELD_MS = 300;
  const readers: { owner: string; wait: number; isHeld: boolean; untilMs: number }[] = [];
  assert.equal(table.lock(A, "read", 0, 9, { owner: "ffff" }), "granted");
  assert.equal(table.lock(B, "write", 0, 9, { wait: 1 }), "waiting");
  const startMs = table.clock.monotonicMs();
  for (let round = 0; !table.told.includes("2/1"); round++) {
    const nowMs = table.clock.monotonicMs();
    assert.ok(nowMs - startMs < 2_000, "the writer starves");
    if (nowMs - startMs >= HELD_MS) table.unlock(A, 0, Infinity, "posix", "ffff");
    for (const reader of readers) {
      if (reader.isHeld && nowMs >= reader.untilMs) table.unlock(C, 0, Infinity, "posix", reader.owner);
      if (reader.isHeld || !table.told.includes(`3/${reader.wait}`)) continue;
      reader.isHeld = true;
      reader.untilMs = nowMs + HELD_MS;
      table.lock(C, "read", 0, 9, { owner: reader.owner, wait: reader.wait });
    }
    const reader = {
      owner: (round + 1).toString(16),
      wait: round + 1,
      isHeld: false,
      untilMs: nowMs + HELD_MS,
    };
    reader.isHeld = table.lock(C, "read", 0, 9, { owner: reader.owner, wait: reader.wait }) === "granted";
    readers.push(reader);
    await table.clock.advance(100);
  }
});

Deno.test("locks: a process that would wait for itself is told, over files and clients and any number of others", () => {
  const table = new Table();
  assert.equal(table.lock(A, "write", 0, 0), "granted");
  assert.equal(table.lock(B, "write", 0, 0, { ino: OTHER }), "granted");
  assert.equal(table.lock(C, "write", 1, 1), "granted");
  assert.equal(table.lock(A, "write", 0, 0, { ino: OTHER, wait: 1 }), "waiting");
  assert.equal(table.lock(B, "write", 1, 1, { wait: 1 }), "waiting");
  assert.equal(table.lock(C, "write", 0, 0, { wait: 1 }), "EDEADLK");
  assert.deepEqual(table.locks.countOf(C), { locks: 1, waits: 0 });
  assert.equal(table.lock(C, "write", 0, 0), "EAGAIN");
  assert.equal(table.lock(C, "write", 2, 2, { wait: 2 }), "granted");
  table.locks.cancel(B, 1);
  assert.equal(table.lock(C, "write", 0, 0, { wait: 3 }), "waiting", "there is no cycle any more");
});

Deno.test("locks: two that want to make their shared locks exclusive: the second is told", () => {
  const table = new Table();
  assert.equal(table.lock(A, "read", 0, 9), "granted");
  assert.equal(table.lock(B, "read", 0, 9), "granted");
  assert.equal(table.lock(A, "write", 0, 9, { wait: 1 }), "waiting");
  assert.equal(table.lock(B, "write", 0, 9, { wait: 1 }), "EDEADLK");
  table.unlock(B);
  assert.equal(table.lock(A, "write", 0, 9, { wait: 1 }), "granted");
});

Deno.test("locks: no deadlock is looked for among flocks, nor from open files", () => {
  const table = new Table();
  assert.equal(table.flock(A, "write"), "granted");
  assert.equal(table.flock(B, "write", { ino: OTHER }), "granted");
  assert.equal(table.flock(A, "write", { ino: OTHER, wait: 1 }), "waiting");
  assert.equal(table.flock(B, "write", { wait: 1 }), "waiting");
  assert.equal(table.lock(A, "write", 0, 0), "granted");
  assert.equal(table.lock(B, "write", 1, 1), "granted");
  assert.equal(table.lock(A, "write", 1, 1, { wait: 2, isUnchecked: true }), "waiting");
  assert.equal(table.lock(B, "write", 0, 0, { wait: 2 }), "waiting");
});

Deno.test("locks: a lock that one thread gets closes a cycle with what another thread waits for: that one is told", () => {
  const table = new Table();
  assert.equal(table.lock(C, "write", 0, 0), "granted");
  assert.equal(table.lock(B, "write", 1, 1), "granted");
  assert.equal(table.lock(A, "write", 1, 1, { wait: 1 }), "waiting"); // on B
  assert.equal(table.lock(A, "write", 0, 0, { wait: 2 }), "waiting"); // on C
  assert.equal(table.lock(B, "write", 0, 0, { wait: 1 }), "waiting"); // on C, behind A
  table.unlock(C);
  assert.deepEqual(table.told, ["1/2"]);
  assert.equal(table.lock(A, "write", 0, 0, { wait: 2 }), "granted");
  assert.deepEqual(table.told, ["1/2", "1/1"]);
  assert.equal(table.lock(A, "write", 1, 1, { wait: 1 }), "EDEADLK");
});

Deno.test("locks: a session may hold and wait for so many", () => {
  const table = new Table({ rangesPerSessionMax: 3, waitsPerSessionMax: 1 });
  for (const start of [0, 10, 20]) assert.equal(table.lock(A, "write", start, start + 4), "granted");
  assert.equal(table.lock(A, "write", 30, 30), "ENOLCK");
  assert.throws(() => table.unlock(A, 1, 1), { errno: "ENOLCK" });
  assert.equal(table.lock(A, "write", 4, 10), "granted", "ranges that become one are one");
  assert.deepEqual(table.locks.countOf(A), { locks: 2, waits: 0 });
  assert.equal(table.lock(B, "write", 0, 0, { wait: 1 }), "waiting");
  assert.equal(table.lock(B, "write", 0, 0, { wait: 2 }), "ENOLCK");
});

Deno.test("locks: what an owner says that it holds replaces the rest, unless others hold something in the way", () => {
  const table = new Table();
  const owned = { ino: INO, kind: "posix", owner: "1", pid: 1 } as const;
  const ranges: LockedRange[] = [{ start: 0, end: 9, type: "write" }];
  assert.equal(table.locks.set(A, { ...owned, ranges }), true);
  assert.equal(table.lock(B, "read", 10, 20), "granted");
  assert.equal(table.locks.set(A, { ...owned, ranges: [{ start: 5, end: 12, type: "read" }] }), true);
  assert.equal(table.lock(B, "write", 0, 4), "granted");
  assert.equal(table.locks.set(A, { ...owned, ranges }), false);
  assert.deepEqual(table.locks.countOf(A), { locks: 0, waits: 0 });
  assert.equal(table.locks.set(B, { ...owned, ranges: [] }), true);
  assert.deepEqual(table.locks.countOf(B), { locks: 0, waits: 0 });
});

seededTest("locks: any operations of any owners, against a table of single bytes", async (random) => {
  const BYTES = 12;
  const table = new Table();
  const sessions = [A, B, C];
  const inodes = [INO, OTHER];
  /** By kind, inode, byte and owner. */
  const held = new Map<string, LockType>();
  const key = (kind: LockKind, ino: number, byte: number, who: string) => `${kind} ${ino} ${byte} ${who}`;
  const waits = new Map<string, { session: SessionId; request: LockRequest & { readonly wait: number } }>();
  let nextWait = 1;
  let deadlocks = 0;
  const bytesIn = ({ start, end }: ByteSpan) =>
    Array.from({ length: BYTES }, (_, byte) => byte).filter((byte) => byte >= start && byte <= end);
  const who = (session: SessionId, owner: string) => `${session}-${owner}`;
  const allWho = sessions.flatMap((session) => ["1", "2"].map((owner) => who(session, owner)));
  const isFree = (session: SessionId, request: LockRequest): boolean =>
    allWho.every((other) =>
      other === who(session, request.owner) ||
      bytesIn(request).every((byte) => {
        const there = held.get(key(request.kind, request.ino, byte, other));
        return there === undefined || (there === "read" && request.type === "read");
      })
    );
  /** Does it wait for its own owner? `isAll`: counting what is offered, and who was told, which may be over. */
  const closesCycle = (session: SessionId, request: LockRequest, isAll: boolean): boolean => {
    const seen = new Set<string>();
    const next = [{ session, request }];
    for (let one = next.pop(); one !== undefined; one = next.pop()) {
      const self = who(one.session, one.request.owner);
      const { kind, ino, type } = one.request;
      const blockers = allWho.filter((other) =>
        other !== self && bytesIn(one!.request).some((byte) => {
          const there = held.get(key(kind, ino, byte, other));
          return there === "write" || (there === "read" && type === "write");
        })
      );
      for (const [name, wait] of isAll ? waits : []) {
        const other = who(wait.session, wait.request.owner);
        if (table.told.includes(name) && other !== self) blockers.push(other);
      }
      for (const blocker of blockers) {
        if (blocker === who(session, request.owner)) return true;
        if (seen.has(blocker)) continue;
        seen.add(blocker);
        for (const [name, wait] of waits) {
          const isCounted = isAll || !table.told.includes(name);
          const isTheirs = wait.request.kind === "posix" && who(wait.session, wait.request.owner) === blocker;
          if (isTheirs && isCounted) next.push(wait);
        }
      }
    }
    return false;
  };
  const hold = (session: SessionId, request: Omit<LockRequest, "type" | "pid">, type?: LockType) => {
    for (const byte of bytesIn(request)) {
      const at = key(request.kind, request.ino, byte, who(session, request.owner));
      if (type === undefined) held.delete(at);
      else held.set(at, type);
    }
  };
  const sent = (session: SessionId, request: LockRequest): Outcome => {
    const { kind, ino, owner } = request;
    if (kind === "flock" && held.get(key(kind, ino, 0, who(session, owner))) !== request.type) {
      const isPolled = request.wait !== undefined && waits.has(`${session}/${request.wait}`);
      if (!isPolled) hold(session, request);
    }
    const outcome = table.lock(session, request.type, request.start, request.end, request);
    if (outcome === "granted") {
      assert.ok(isFree(session, request), `granted, but not free: ${JSON.stringify(request)}`);
      hold(session, request, request.type);
    }
    return outcome;
  };
  for (let round = 0; round < 2_500; round++) {
    const session = pick(random, sessions);
    const kind = pick(random, ["posix", "posix", "flock"] as const);
    const start = kind === "flock" ? 0 : randomInt(random, BYTES);
    const last = start + randomInt(random, 4);
    // The last byte stands for all that follow.
    const end = kind === "flock" || chance(random, 0.2) || last >= BYTES - 1 ? Infinity : last;
    const type = pick(random, ["read", "write"] as const);
    const common = { ino: pick(random, inodes), kind, owner: pick(random, ["1", "2"]), pid: 1, start, end };
    const isWaiting = [...waits.values()].some(({ session: one, request }) =>
      one === session && request.owner === common.owner
    );
    switch (
      pick(random, ["try", "try", "wait", "unlock", "unlock", "cancel", "poll", "drop", "time"] as const)
    ) {
      case "try": {
        const request = { ...common, type };
        const outcome = sent(session, request);
        // What is offered to another is not free either, though nobody holds it yet.
        if (outcome === "EAGAIN" && isFree(session, request)) {
          assert.ok(waits.size > 0, `free, but refused: ${JSON.stringify(request)}`);
        }
        break;
      }
      case "wait": {
        if (isWaiting) break;
        const request = { ...common, type, wait: nextWait++ };
        const outcome = sent(session, request);
        if (outcome === "waiting") {
          assert.ok(kind === "flock" || !closesCycle(session, request, false), "it waits for itself");
          waits.set(`${session}/${request.wait}`, { session, request });
        } else if (outcome === "EDEADLK") {
          assert.ok(kind === "posix" && closesCycle(session, request, true), "it does not wait for itself");
          deadlocks++;
        } else assert.equal(outcome, "granted");
        break;
      }
      case "unlock":
        table.unlock(session, start, end, kind, common.owner, common.ino);
        hold(session, common);
        break;
      case "cancel":
      case "poll": {
        const [name, wait] = pick(random, [...waits, undefined]) ?? [];
        if (name === undefined) break;
        const isTold = table.told.includes(name);
        if (round % 2 === 0) {
          table.locks.cancel(wait!.session, wait!.request.wait);
          waits.delete(name);
          break;
        }
        const outcome = sent(wait!.session, wait!.request);
        // It may have come to wait for itself by what another thread of its owner got.
        if (isTold && outcome === "EDEADLK") assert.equal(wait!.request.kind, "posix");
        else assert.equal(outcome, isTold ? "granted" : "waiting");
        if (isTold) waits.delete(name);
        break;
      }
      case "drop":
        if (!chance(random, 0.1)) break;
        table.locks.dropSession(session);
        for (const [at] of held) if (at.includes(` ${session}-`)) held.delete(at);
        for (const [name, wait] of waits) if (wait.session === session) waits.delete(name);
        break;
      case "time":
        await table.clock.advance(randomInt(random, 400));
    }
    for (const owner of sessions) {
      let ranges = 0;
      for (const one of ["1", "2"]) {
        for (const lockKind of ["posix", "flock"] as const) {
          for (const ino of inodes) {
            let before: LockType | undefined;
            for (let byte = 0; byte < BYTES; byte++) {
              const now = held.get(key(lockKind, ino, byte, who(owner, one)));
              if (now !== undefined && now !== before) ranges++;
              before = now;
            }
          }
        }
      }
      assert.equal(table.locks.countOf(owner).locks, ranges);
    }
  }
  assert.ok(deadlocks > 0, "no deadlock was made");
  // Nobody is left behind: as soon as all is unlocked, whoever waits is offered its lock in turn.
  for (const [at] of held) {
    const [kind, ino, , name] = at.split(" ") as [LockKind, string, string, string];
    const [session, owner] = name.split("-") as [string, string];
    table.unlock(asSessionId(Number(session)), 0, Infinity, kind, owner, asInodeId(Number(ino)));
    held.delete(at);
  }
  await table.clock.advance(FAIR_MS);
  for (let left = waits.size; left > 0; left--) {
    const [name, { session, request }] = [...waits].find(([one]) => table.told.includes(one))!;
    const outcome = sent(session, request);
    assert.ok(outcome === "granted" || outcome === "EDEADLK", outcome);
    table.unlock(session, request.start, request.end, request.kind, request.owner, request.ino);
    hold(session, request);
    waits.delete(name);
  }
  for (const session of sessions) assert.deepEqual(table.locks.countOf(session), { locks: 0, waits: 0 });
});
