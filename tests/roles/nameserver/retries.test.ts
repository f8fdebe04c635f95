import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { type Random, randomInt } from "../../../base/random.ts";
import { lookup } from "../../../roles/nameserver/operations.ts";
import { Retries } from "../../../roles/nameserver/retries.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asSessionId, type InodeId, ROOT_INODE, type SessionId } from "../../../wire/ids.ts";
import { RETRY_SLOTS, type RetryTag } from "../../../wire/messages/nameserver.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { checkNamespace } from "./consistency.ts";
import { makeFile, makeWorld, reopen, type World } from "./harness.ts";

const SESSION = asSessionId(1);
const tag = (slot: number, sequence: number): RetryTag => ({ slot, sequence });

/** Makes a file under a tag: its inode, and whether that was now or before. */
async function make(
  { namespace }: World,
  retries: Retries,
  name: string,
  retry: RetryTag,
  session: SessionId = SESSION,
): Promise<{ ino: InodeId; isReplay: boolean }> {
  return await retries.once<{ ino: InodeId; isReplay: boolean }>(
    session,
    retry,
    (record) =>
      namespace.change((tx) => {
        const { ino } = makeFile(tx, name);
        record(tx, ino);
        return { ino, isReplay: false };
      }),
    ({ ino }) => ({ ino: ino as InodeId, isReplay: true }),
  );
}

const refused = (promise: Promise<unknown>) => assert.rejects(promise, (error) => isErrno(error, "EPROTO"));

Deno.test("retries: the same tag is applied once, also after opening the database again", async () => {
  let world = await makeWorld();
  const first = await make(world, new Retries(world.journal), "f", tag(0, 1));
  assert.equal(first.isReplay, false);
  for (let i = 0; i < 3; i++) {
    const again = await make(world, new Retries(world.journal), "f", tag(0, 1));
    assert.deepEqual(again, { ino: first.ino, isReplay: true });
    world = await reopen(world);
  }
});

Deno.test("retries: a repetition while the first is under way gets the first's answer", async () => {
  const world = await makeWorld();
  const retries = new Retries(world.journal);
  world.journal.hold();
  const calls = [1, 2, 3].map(() => make(world, retries, "f", tag(0, 1)));
  world.journal.release();
  const answers = await Promise.all(calls);
  assert.equal(new Set(answers.map(({ ino }) => ino)).size, 1);
  checkNamespace(world.journal);
});

Deno.test("retries: a change that failed is not remembered and may be tried again", async () => {
  const world = await makeWorld();
  const retries = new Retries(world.journal);
  await make(world, retries, "f", tag(0, 1));
  await assert.rejects(make(world, retries, "f", tag(0, 2)), (error) => isErrno(error, "EEXIST"));
  assert.equal((await make(world, retries, "g", tag(0, 2))).isReplay, false);
  assert.equal((await make(world, retries, "g", tag(0, 2))).isReplay, true);
});

Deno.test("retries: a number that is over is refused", async () => {
  const world = await makeWorld();
  const retries = new Retries(world.journal);
  await make(world, retries, "f", tag(3, 10));
  await refused(make(world, retries, "g", tag(3, 9)));
  await refused(make(world, retries, "g", tag(3, -1)));
  await refused(make(world, new Retries(world.journal), "g", tag(3, 9)));
  assert.equal((await make(world, retries, "g", tag(3, 50))).isReplay, false);
  await refused(make(world, retries, "h", tag(3, 10)));
});

Deno.test("retries: a number that is over is refused also while a later one is under way", async () => {
  const world = await makeWorld();
  const retries = new Retries(world.journal);
  world.journal.hold();
  const later = make(world, retries, "f", tag(0, 5));
  const earlier = refused(make(world, retries, "g", tag(0, 4)));
  const next = make(world, retries, "h", tag(0, 6));
  world.journal.release();
  assert.equal((await later).isReplay, false);
  await earlier;
  assert.equal((await next).isReplay, false);
  assert.equal(lookup(world.namespace.begin(), ROOT_INODE, bytesOf("g")), undefined);
});

Deno.test("retries: slots outside the table and strange numbers are refused", async () => {
  const world = await makeWorld();
  const retries = new Retries(world.journal);
  for (
    const [slot, sequence] of [[-1, 1], [RETRY_SLOTS, 1], [0.5, 1], [NaN, 1], [0, 0.5], [0, 2 ** 53], [
      0,
      NaN,
    ]]
  ) {
    await refused(make(world, retries, "f", tag(slot!, sequence!)));
  }
  for (const strange of [undefined, "1", null, {}] as unknown as number[]) {
    await refused(make(world, retries, "f", tag(strange, 1)));
    await refused(make(world, retries, "f", tag(1, strange)));
  }
  assert.equal((await make(world, retries, "f", tag(RETRY_SLOTS - 1, 0))).isReplay, false);
});

Deno.test("retries: slots and sessions do not know each other", async () => {
  const world = await makeWorld();
  const retries = new Retries(world.journal);
  const made = await Promise.all([
    make(world, retries, "a", tag(0, 1)),
    make(world, retries, "b", tag(1, 1)),
    make(world, retries, "c", tag(0, 1), asSessionId(2)),
  ]);
  assert.ok(made.every(({ isReplay }) => !isReplay));
});

/** One client that sends each change until it hears an answer, over a network that loses both ways. */
async function client(
  random: Random,
  world: () => World,
  retries: () => Retries,
  slot: number,
  session: SessionId,
) {
  const applied: InodeId[] = [];
  for (let sequence = 1; sequence <= 30; sequence++) {
    for (;;) {
      const attempts = Array.from(
        { length: 1 + randomInt(random, 3) },
        () => make(world(), retries(), `s${session}.${slot}.${sequence}`, tag(slot, sequence), session),
      );
      if (chance(random, 0.4)) {
        for (const attempt of attempts) attempt.catch(() => {});
        if (chance(random, 0.5)) await Promise.resolve();
        continue; // no answer came
      }
      const answers = await Promise.all(attempts);
      assert.equal(new Set(answers.map(({ ino }) => ino)).size, 1, "every answer speaks of one inode");
      applied.push(answers[0]!.ino);
      break;
    }
    if (chance(random, 0.2)) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  return applied;
}

seededTest("retries: every change is applied exactly once, whatever is sent how often", async (random) => {
  const world = await makeWorld();
  let retries = new Retries(world.journal);
  const clients = [0, 1, 2, 3, 4, 5].map((slot) =>
    client(random, () => world, () => retries, slot, asSessionId(1 + slot % 2))
  );
  const restarting = (async () => {
    for (let i = 0; i < 10; i++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      retries = new Retries(world.journal);
    }
  })();
  const applied = (await Promise.all(clients)).flat();
  await restarting;
  assert.equal(new Set(applied).size, 6 * 30);
  const { inodes } = checkNamespace(world.journal);
  assert.equal(inodes.size, 1 + 6 * 30);
});

seededTest("retries: a failing change leaves its slot usable", async (random) => {
  const world = await makeWorld();
  const retries = new Retries(world.journal);
  for (let sequence = 1; sequence < 100; sequence++) {
    const isSync = pick(random, [true, false]);
    const failing = retries.once(
      SESSION,
      tag(0, sequence),
      () => {
        const error = new FsError("ENOSPC", "full");
        if (isSync) throw error;
        return Promise.reject(error);
      },
      () => assert.fail("nothing to answer again"),
    );
    await assert.rejects(failing, (error) => isErrno(error, "ENOSPC"));
  }
  assert.equal((await make(world, retries, "f", tag(0, 1))).isReplay, false);
});

Deno.test("retries: what is under way, or was applied last, is known; another session's, a former and a next one are not", async () => {
  const world = await makeWorld();
  const retries = new Retries(world.namespace.journal);
  const making = make(world, retries, "f", tag(2, 5));
  assert.ok(retries.isKnown(SESSION, tag(2, 5)));
  await making;
  const known = (session: SessionId, slot: number, sequence: number) =>
    retries.isKnown(session, tag(slot, sequence));
  assert.deepEqual(
    [known(SESSION, 2, 5), known(SESSION, 2, 4), known(SESSION, 2, 6), known(SESSION, 3, 5)],
    [true, false, false, false],
  );
  assert.deepEqual([known(asSessionId(2), 2, 5), known(SESSION, RETRY_SLOTS, 5)], [false, false]);
});
