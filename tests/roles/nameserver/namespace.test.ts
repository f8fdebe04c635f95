import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { randomInt } from "../../../base/random.ts";
import { TOLD_LATELY } from "../../../roles/leaseserver/leases.ts";
import { orphanKey, retryKey } from "../../../roles/nameserver/keys.ts";
import { startNameserver } from "../../../roles/nameserver/nameserver.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asSessionId, type InodeId, ROOT_INODE, type SessionId } from "../../../wire/ids.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { settle } from "../../base/fake_clock.ts";
import { checkNamespace } from "./consistency.ts";
import { makeFile, makeWorld, reopen, type World } from "./harness.ts";

const SESSIONS = [1, 2, 3, 4].map(asSessionId);

/** Unlinks as the service does: the inode stays while `open` have it open. */
function unlink(world: World, name: string, open: readonly SessionId[]): Promise<InodeId> {
  return world.namespace.change((tx) => {
    const inode = operations.remove(tx, ROOT_INODE, bytesOf(name), false, open);
    if (inode.nlink === 0 && open.length > 0) world.namespace.noteOrphan(inode.ino, open);
    return inode.ino;
  });
}

seededTest(
  "orphans: live while a session has them open, also across restarts, and no longer",
  async (random) => {
    let world = await makeWorld();
    const orphans = new Map<InodeId, Set<SessionId>>();
    let made = 0;
    for (let i = 0; i < 1_200; i++) {
      const roll = random.next();
      const ino = orphans.size === 0 ? undefined : pick(random, [...orphans.keys()]);
      if (roll < 0.45) {
        const name = `f${made++}`;
        await world.namespace.change((tx) => makeFile(tx, name));
        const open = SESSIONS.filter(() => chance(random, 0.4));
        const gone = await unlink(world, name, open);
        if (open.length > 0) orphans.set(gone, new Set(open));
      } else if (roll < 0.9 && ino !== undefined) {
        const session = pick(random, SESSIONS);
        await world.namespace.releaseOrphan(session, ino);
        orphans.get(ino)!.delete(session);
      } else if (roll < 0.94) {
        const session = pick(random, SESSIONS);
        await world.namespace.endSession(session);
        for (const open of orphans.values()) open.delete(session);
      } else {
        world = await reopen(world);
      }
      for (const [old, open] of orphans) if (open.size === 0) orphans.delete(old);
      const { inodes } = checkNamespace(world.journal);
      assert.deepEqual([...inodes.keys()].filter((id) => id !== 1).sort(), [...orphans.keys()].sort());
      for (const session of SESSIONS) {
        const expected = [...orphans].filter(([, open]) => open.has(session)).map(([id]) => id);
        assert.deepEqual(world.namespace.orphansOf(session).sort(), expected.sort());
        for (const id of expected) assert.ok(world.journal.get(orphanKey(session, id)) !== undefined);
      }
    }
  },
);

Deno.test("orphans: a file with another name left is none", async () => {
  const world = await makeWorld();
  const { ino } = await world.namespace.change((tx) => makeFile(tx, "f"));
  await world.namespace.change((tx) => operations.link(tx, ino, ROOT_INODE, bytesOf("g")));
  await unlink(world, "f", SESSIONS);
  await world.namespace.releaseOrphan(SESSIONS[0]!, ino);
  assert.equal((await world.namespace.look((tx) => tx.inode(ino))).nlink, 1);
});

Deno.test("orphans: no new name can be given to one", async () => {
  const world = await makeWorld();
  const { ino } = await world.namespace.change((tx) => makeFile(tx, "f"));
  await unlink(world, "f", SESSIONS);
  await assert.rejects(
    world.namespace.change((tx) => operations.link(tx, ino, ROOT_INODE, bytesOf("g"))),
    (error) => isErrno(error, "ENOENT"),
  );
});

seededTest("orphans: a session's end also forgets its answers, all of them", async (random) => {
  const { namespace, journal } = await makeWorld();
  const [session, other] = [SESSIONS[0]!, SESSIONS[1]!];
  for (let slot = 0; slot < 128; slot++) {
    journal.append([[retryKey(session, slot), new Uint8Array(24)]]);
    if (chance(random, 0.5)) journal.append([[retryKey(other, slot), new Uint8Array(24)]]);
  }
  const kept = journal.list().length - 128;
  await namespace.endSession(session);
  assert.equal(journal.list().length, kept);
});

Deno.test("namespace: what is answered was written first", async () => {
  const { namespace, journal } = await makeWorld();
  journal.hold();
  let changed = false;
  let looked = false;
  const change = namespace.change((tx) => makeFile(tx, "f")).then(() => changed = true);
  const look = Promise.resolve(namespace.look((tx) => operations.lookup(tx, ROOT_INODE, bytesOf("f"))))
    .then(() => looked = true);
  await settle();
  assert.deepEqual([changed, looked], [false, false]);
  journal.release();
  await Promise.all([change, look]);
});

Deno.test("namespace: a look at what nobody is changing waits for nothing", async () => {
  const { namespace, journal } = await makeWorld();
  await namespace.change((tx) => makeFile(tx, "old"));
  journal.hold();
  const change = namespace.change((tx) => tx.put(retryKey(SESSIONS[0]!, 1), new Uint8Array(24)));
  const inode = await namespace.look((tx) => operations.lookup(tx, ROOT_INODE, bytesOf("old")));
  assert.equal(inode?.nlink, 1);
  journal.release();
  await change;
});

/** Runs `attempt` while the creation of "f" is not yet written; true when it failed before that was. */
async function failsEarly(attempt: (world: World) => Promise<unknown> | unknown): Promise<boolean> {
  const world = await makeWorld();
  world.journal.hold();
  const making = world.namespace.change((tx) => makeFile(tx, "f"));
  let isOver = false;
  const failing = (async () => await attempt(world))().then(
    () => assert.fail("it succeeds"),
    (error) => {
      assert.ok(isErrno(error, "EEXIST"));
      isOver = true;
    },
  );
  await settle();
  const early = isOver;
  world.journal.release();
  await Promise.all([making, failing]);
  return early;
}

Deno.test("namespace: a refusal because of a change waits until that change is written", async () => {
  // "The name is taken" tells of the file: after a crash before its batch was written, it was not.
  assert.equal(await failsEarly(({ namespace }) => namespace.change((tx) => makeFile(tx, "f"))), false);
  assert.equal(await failsEarly(({ namespace }) => namespace.look((tx) => makeFile(tx, "f"))), false);
});

Deno.test("namespace: a durable change waits for the disk", async () => {
  const { namespace, journal } = await makeWorld();
  await namespace.change((tx) => makeFile(tx, "f"), true);
  assert.equal(journal.durablePositions.at(-1), journal.position);
});

Deno.test("namespace: a durable change of nothing has all that was answered before on disk", async () => {
  const { namespace, journal } = await makeWorld();
  await namespace.change((tx) => makeFile(tx, "f"));
  await namespace.change(() => {}, true); // the service's `sync`: fsync of a directory
  assert.ok((journal.durablePositions.at(-1) ?? 0) >= journal.position, "the last change is on disk");
});

seededTest("namespace: totals and ids survive reopening", async (random) => {
  let world = await makeWorld();
  const inos = new Set<number>();
  for (let i = 0; i < 400; i++) {
    const { ino } = await world.namespace.change((tx) => makeFile(tx, `f${i}`));
    assert.ok(!inos.has(ino));
    inos.add(ino);
    if (chance(random, 0.3)) await unlink(world, `f${i}`, []);
    if (chance(random, 0.05)) world = await reopen(world);
    if (randomInt(random, 20) === 0) checkNamespace(world.journal);
  }
  const { inodes } = checkNamespace(world.journal);
  assert.equal(world.namespace.totals.get("inodes"), inodes.size);
});

Deno.test("namespace: ids are answered when their reservation is on disk", async () => {
  const { namespace, journal } = await makeWorld();
  journal.holdDurable();
  const made: string[] = [];
  const make = (name: string) => namespace.change((tx) => makeFile(tx, name)).then(() => made.push(name));
  const first = make("a");
  const second = make("b");
  await settle();
  assert.deepEqual(made, [], "nor others of the same range");
  journal.release();
  await Promise.all([first, second]);
  journal.holdDurable();
  await make("c");
  assert.deepEqual(made, ["a", "b", "c"], "once they are, nobody waits");
  journal.release();
});

Deno.test("orphans: those of a session that ended right before the server did go when it starts again", async () => {
  const world = await makeWorld();
  const { namespace, journal, clock } = world;
  const [gone, lately] = await Promise.all([SESSIONS[0]!, TOLD_LATELY].map(async (session, i) => {
    await namespace.change((tx) => makeFile(tx, `f${i}`));
    return await unlink(world, `f${i}`, [session]);
  }));
  const open = () => Promise.resolve({ clusterId: "c", mounting: "boot", journal });
  const options = { dir: "/", listen: "127.0.0.1:0", log: silentLogger, clock, open };
  const server = await startNameserver(options);
  await settle();
  const { inodes } = checkNamespace(journal);
  assert.deepEqual([inodes.has(gone!), inodes.has(lately!)], [false, true], "the other may still be opened");
  const stopping = server.stop();
  for (let i = 0; i < 20; i++) await clock.advance(1_000);
  await stopping;
});
