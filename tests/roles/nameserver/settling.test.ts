/**
 * Replicas that may differ, since their writer or their machines died: what counts is settled before anybody reads, and
 * what differs is taken off.
 */

import assert from "node:assert/strict";
import { regularFile, truncateExtents } from "../../../roles/nameserver/block_operations.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import { deletionKey } from "../../../roles/nameserver/keys.ts";
import { setReplication } from "../../../roles/nameserver/operations.ts";
import { decodeNumbers } from "../../../roles/nameserver/records.ts";
import { FsError, isErrno } from "../../../wire/errno.ts";
import { asGeneration, type VolumeId } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { passLooking } from "../leaseserver/harness.ts";
import { FakePeer } from "./fake_peer.ts";
import { ServiceClient } from "./service.ts";
import { World } from "./settling_world.ts";

/** Ends the writer's session by silence, while `other` lives. */
async function endWriter({ service, client }: World, other: ServiceClient): Promise<void> {
  client.onRecall = () => new Promise<void>(() => {});
  const { sessions } = service.leaseserver;
  await passLooking(service.clock, sessions, 9_000);
  sessions.of(other.peer);
  await passLooking(service.clock, sessions, 1_500);
  await service.clock.advance(1_000);
}

Deno.test("settling: a writer died with its last write on one replica: one of the two is left before anybody reads", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "before");
  world.hold(second, 9, "after");
  const gate = Promise.withResolvers<void>();
  world.onState = () => gate.promise;
  const other = await ServiceClient.connect(world.service, "d");
  let isGranted = false;
  const acquired = other.callNow("acquire", { ino: world.ino, mode: "read" }).then(() => isGranted = true);
  await endWriter(world, other);
  assert.equal(isGranted, false, "nobody reads while replicas are compared");
  gate.resolve();
  await acquired;
  assert.deepEqual(world.listed, [second], "of as many the longer one");
});

Deno.test("settling: a writer died: replicas that hold the same stay", async () => {
  const world = await World.make("a", "b");
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const other = await ServiceClient.connect(world.service, "d");
  const acquired = other.callNow("acquire", { ino: world.ino, mode: "read" });
  await endWriter(world, other);
  await acquired;
  assert.deepEqual(world.listed, world.volumes);
  const generations = [...world.replicas.values()].map(({ generation }) => generation);
  assert.deepEqual(generations, [world.block.generation + 1, world.block.generation + 1], "it can't write");
});

Deno.test("settling: a writer died: what it wrote and told nobody of is in no extent, and none goes past the end", async () => {
  const unwritten = await World.makeUnwritten("a", "b");
  await unwritten.client.call("commit", {
    retry: unwritten.client.tag(),
    ino: unwritten.ino,
    size: 4096,
    mtime: { seconds: 9, nanoseconds: 0 },
    written: [],
    durable: false,
    killSuidGid: false,
  });
  assert.notEqual(unwritten.extent, undefined);
  await endWriter(unwritten, await ServiceClient.connect(unwritten.service, "d"));
  assert.equal(unwritten.extent, undefined);
  const world = await World.make("a", "b");
  for (const volume of world.volumes) world.hold(volume, 9, "same");
  assert.ok(world.extent!.length > 8);
  await endWriter(world, await ServiceClient.connect(world.service, "d"));
  assert.equal(world.extent!.length, 8);
});

Deno.test("settling: a replica that may have got what others did not is compared, unless somebody may write", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "before");
  world.hold(second, 9, "after");
  const tell = async (generation: number) => {
    const replicas = [{ block: world.block.id, generation: asGeneration(generation) }];
    return (await world.handlers.replicasDiffer({ volume: second, replicas }, new FakePeer().context))
      .compared;
  };
  const { generation } = world.block;
  assert.deepEqual([await tell(generation), world.listed], [[], [first, second]], "its writer is there");
  await world.client.release(world.ino);
  assert.deepEqual(await tell(generation - 1), [], "of another generation");
  assert.deepEqual([await tell(generation), world.listed], [[world.block.id], [second]]);
  assert.deepEqual(await tell(generation + 2), [world.block.id], "an only one differs from none");
});

Deno.test("settling: a replica whose answer was lost is not left behind, when nobody says that it has failed", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  let lost = 0;
  world.afterGeneration = async (volume) => {
    if (volume === second && lost++ === 0) throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  const { service: { recovery }, ino, block: { id, generation } } = world;
  await recovery.settle(ino, 0, id, generation);
  assert.deepEqual([lost, world.listed], [2, [first, second]]);
});

for (const when of ["the first", "the second"] as const) {
  Deno.test(`settling: a replica has the new generation, and its machine stops while ${when} answer of the other is waited for: the other, which has all, is not left behind`, async () => {
    const world = await World.make("a", "b");
    const [first, second] = world.volumes;
    for (const volume of world.volumes) world.hold(volume, 8, "same");
    let asked = 0;
    world.onGeneration = async (volume) => {
      if (volume !== second) return;
      await settle(); // the other has answered
      if (++asked === (when === "the first" ? 1 : 2)) {
        world.stop(first);
        Object.assign(world.replicas.get(first)!, { isDoubtful: true, length: 0, digest: "" });
        await world.start(world.hostOf(first));
      }
      throw new FsError("ETIMEDOUT", "no answer");
    };
    const { service: { recovery }, ino, block: { id, generation } } = world;
    await assert.rejects(recovery.settle(ino, 0, id, generation), (error) => isErrno(error, "EAGAIN"));
    assert.deepEqual(world.listed, [first, second]);
    world.onGeneration = () => Promise.resolve();
    await world.report(first);
    await world.repairFor(2_000);
    assert.ok(world.listed.includes(second) && !world.listed.includes(first), `${world.listed}`);
  });
}

Deno.test("settling: who has taken the new generation and goes while another is waited for is not left behind", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  await world.client.release(world.ino);
  const { service: { recovery, clock }, ino, block: { id, generation } } = world;
  world.onGeneration = async (volume) => {
    if (volume !== second) return;
    await settle(); // the other has answered
    world.stop(first);
  };
  assert.equal(await recovery.settle(ino, 0, id, generation), false);
  assert.deepEqual([world.listed, world.extent!.generation], [[first, second], generation]);
  assert.deepEqual([first, second].map((volume) => world.replicas.get(volume)!.generation), [
    ...[generation + 1, generation + 1],
  ]);
  world.onGeneration = () => Promise.resolve();
  await world.repairFor(5_000);
  assert.equal(world.extent!.generation, generation, "it is waited for");
  await world.start(world.hostOf(first));
  await clock.advance(1_000);
  await world.repairFor(20_000);
  assert.deepEqual([world.listed, world.extent!.generation], [[first, second], generation + 1]);
});

Deno.test("settling: what most replicas hold counts, not what is longest", async () => {
  const world = await World.make("a", "b", "c");
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  await world.client.release(world.ino);
  const { service: { namespace, recovery }, ino, block } = world;
  await namespace.change((tx) => setReplication(tx, tx.inode(ino), 3));
  await world.repairFor(2_000);
  const [, , third] = world.listed;
  world.replicas.set(third!, { ...world.replicas.get(third!)!, length: 9, digest: "other" });
  await recovery.settle(ino, 0, block.id, world.extent!.generation);
  assert.deepEqual(world.listed, world.volumes);
});

Deno.test("settling: of two reports at once, each of the other's replica, one counts, and who is left behind has the old generation", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const { service: { recovery }, ino, block: { id, generation } } = world;
  const [one, other] = await Promise.all(
    world.volumes.map((failed) => recovery.replicasFailed(ino, 0, id, generation, [failed])),
  );
  assert.deepEqual([one!.volumes, other!.volumes], [[second], [second]]);
  assert.equal(world.replicas.get(first)!.generation, generation);
});

Deno.test("settling: a writer died while a replica was away for a moment: that is not left behind", async () => {
  const world = await World.make("a", "b");
  const [, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  world.stop(second);
  const other = await ServiceClient.connect(world.service, "d");
  await endWriter(world, other);
  assert.equal(world.extent!.generation, world.block.generation);
  await world.start(world.hostOf(second));
  await world.service.clock.advance(1_000);
  assert.deepEqual([world.extent!.generation, world.listed], [world.block.generation + 1, world.volumes]);
});

Deno.test("settling: nobody may write while replicas are compared, and one that is away for a moment is waited for", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "before");
  world.hold(second, 9, "after");
  await world.client.release(world.ino);
  const replicas = [{ block: world.block.id, generation: world.block.generation }];
  const tell = async () =>
    (await world.handlers.replicasDiffer({ volume: second, replicas }, new FakePeer().context)).compared;
  world.stop(first);
  await world.service.clock.advance(1);
  assert.deepEqual([await tell(), world.listed], [[], world.volumes]);
  await world.start(world.hostOf(first));
  const gate = Promise.withResolvers<void>();
  world.onState = () => gate.promise;
  const telling = tell();
  const other = await ServiceClient.connect(world.service, "d");
  let isGranted = false;
  const acquired = other.callNow("acquire", { ino: world.ino, mode: "write" }).then(() => isGranted = true);
  await world.service.clock.advance(1_000);
  assert.equal(isGranted, false);
  gate.resolve();
  await acquired;
  assert.deepEqual([await telling, world.listed], [[world.block.id], [second]]);
});

/** The dataserver of `volume` goes the next time that it is asked for what it holds; it can be started again. */
function goWhenAsked(world: World, volume: VolumeId): void {
  world.onState = async (asked) => {
    if (asked !== volume) return;
    world.onState = () => Promise.resolve();
    world.stop(volume);
    throw new FsError("ECONNRESET", "the connection has ended");
  };
}

Deno.test("settling: a dataserver that goes while its replica is compared has not lost it, and is asked again when it is back", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  await world.client.release(world.ino);
  const tell = async () => {
    const replicas = [{ block: world.block.id, generation: world.extent!.generation }];
    return (await world.handlers.replicasDiffer({ volume: first, replicas }, new FakePeer().context))
      .compared;
  };
  goWhenAsked(world, second);
  assert.deepEqual([await tell(), world.listed], [[], world.volumes]);
  const host = world.hostOf(second);
  // Back before the others have answered.
  goWhenAsked(world, await world.start(host));
  const { onState } = world;
  world.onState = async (volume) => {
    if (volume === second) return await onState(volume).finally(() => world.start(host));
  };
  assert.deepEqual([await tell(), world.listed], [[], world.volumes]);
  world.onState = () => Promise.resolve();
  assert.deepEqual([await tell(), world.listed], [[world.block.id], world.volumes]);
  // Nor is anything compared when all have gone.
  world.onState = async (volume) => {
    world.stop(volume);
    throw new FsError("ECONNRESET", "the connection has ended");
  };
  assert.deepEqual([await tell(), world.listed], [[], world.volumes]);
});

Deno.test("settling: a writer died, and a dataserver goes while its replica is compared: it is waited for, but not for long", async () => {
  for (const isBack of [true, false]) {
    const world = await World.make("a", "b");
    const [first, second] = world.volumes;
    for (const volume of world.volumes) world.hold(volume, 8, "same");
    goWhenAsked(world, second);
    await endWriter(world, await ServiceClient.connect(world.service, "d"));
    assert.deepEqual([world.extent!.generation, world.listed], [world.block.generation + 1, world.volumes]);
    if (isBack) await world.start(world.hostOf(second));
    await world.service.clock.advance(8_000);
    assert.deepEqual(world.listed, isBack ? world.volumes : [first]);
  }
});

Deno.test("settling: a writer died while a dataserver that stops had said so: its replica is not left behind", async () => {
  const world = await World.make("a", "b");
  const [, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  world.onGeneration = async (volume) => {
    if (volume === second) throw new FsError("ESHUTDOWN", "the dataserver stops");
  };
  world.leave(second);
  await endWriter(world, await ServiceClient.connect(world.service, "d"));
  assert.deepEqual([world.extent!.generation, world.listed], [world.block.generation, world.volumes]);
  world.onGeneration = () => Promise.resolve();
  await world.start(world.hostOf(second));
  await world.service.clock.advance(1_000);
  assert.deepEqual([world.extent!.generation, world.listed], [world.block.generation + 1, world.volumes]);
});

Deno.test("repair: replicas that are ahead of their block are settled once more, when a dataserver goes meanwhile", async () => {
  const world = await World.make("a", "b");
  const [, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const { service: { recovery, clock }, block, ino } = world;
  world.afterGeneration = async () => {
    throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  await assert.rejects(recovery.replicasFailed(ino, 0, block.id, block.generation, []));
  world.afterGeneration = () => Promise.resolve();
  goWhenAsked(world, second);
  await world.repairFor(2_000);
  assert.deepEqual([world.extent!.generation, world.listed], [block.generation + 1, world.volumes]);
  await world.start(world.hostOf(second));
  await clock.advance(1_000);
  let asked = 0;
  world.onState = async () => void asked++;
  await world.repairFor(20_000);
  assert.deepEqual([asked, world.listed], [2, world.volumes]);
});

Deno.test("repair: a replica that was ahead of its block before that had data is so afterwards", async () => {
  const world = await World.makeUnwritten("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const { service: { recovery }, block, ino } = world;
  world.onGeneration = (volume) =>
    volume === second ? Promise.reject(new FsError("ETIMEDOUT", "cut")) : Promise.resolve();
  world.afterGeneration = () => Promise.reject(new FsError("ETIMEDOUT", "the answer is lost"));
  await assert.rejects(recovery.replicasFailed(ino, 0, block.id, block.generation, []));
  world.onGeneration = world.afterGeneration = () => Promise.resolve();
  await world.repairFor(5_000);
  // Both had it before the first took the generation that nobody has heard of.
  await world.commit();
  await world.repairFor(20_000);
  const { generation } = world.extent!;
  assert.deepEqual(
    [world.listed, world.replicas.get(first)!.generation, world.replicas.get(second)!.generation],
    [world.volumes, generation, generation],
  );
});

Deno.test("settling: an only replica that is behind its block is not held to be bad", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const { service: { recovery, repair }, ino, block: { id, generation } } = world;
  await recovery.replicasFailed(ino, 0, id, generation, [first]);
  world.replicas.get(second)!.generation = generation;
  await world.report(second);
  assert.equal(repair.reportOf(second, id), undefined);
});

Deno.test("settling: a doubtful replica gives way to one that is not, however short that is", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "whole");
  world.hold(second, 9, "torn", true);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(world.listed.length, 2);
  assert.ok(world.listed.includes(first) && !world.listed.includes(second), `${world.listed}`);
  for (const volume of world.listed) assert.equal(world.replicas.get(volume)!.digest, "whole");
  assert.equal(world.extent!.chosenAt, undefined, "nothing is lost");
});

Deno.test("settling: of doubtful replicas alone, what one holds is the block's, and the others get that", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "one", true);
  world.hold(second, 9, "two", true);
  await world.report(first);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(world.listed.length, 2);
  assert.ok(world.listed.includes(second) && !world.listed.includes(first), `${world.listed}`);
  for (const volume of world.listed) assert.equal(world.replicas.get(volume)!.digest, "two");
});

Deno.test("settling: an only doubtful replica has taken a generation that nobody heard of: it is the block's", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "torn", true);
  world.replicas.get(first)!.generation++;
  await world.report(first);
  await world.report(second); // it has nothing
  await world.repairFor(20_000);
  assert.ok(world.listed.includes(first));
  assert.equal(world.extent!.generation, world.replicas.get(first)!.generation);
  assert.equal(world.replicas.get(first)!.isDoubtful, false);
});

Deno.test("settling: that the block may have lost something is written down before a doubtful replica counts", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "same", true);
  world.hold(second, 8, "same", true);
  const { generation } = world.block;
  let noted: number | undefined;
  world.onGeneration = async () => {
    noted ??= world.extent!.chosenAt;
  };
  await world.report(first);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(noted, generation + 1, "whoever wrote under a lower generation hears of it");
  const { blocks } = await world.client.call("blocks", { ino: world.ino, offset: 0, length: 1 });
  assert.deepEqual([blocks[0]!.generation, blocks[0]!.chosenAt], [generation + 1, generation + 1]);
});

Deno.test("settling: nothing is chosen of doubtful replicas while one that may be better does not say what it holds", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "one", true);
  world.hold(second, 9, "two", true);
  let isSlow = true;
  world.onState = async (volume, digest) => {
    if (volume === second && digest && isSlow) throw new FsError("ETIMEDOUT", "slow");
  };
  await world.report(first);
  await world.report(second);
  await world.repairFor(20_000);
  assert.deepEqual(world.listed, world.volumes);
  isSlow = false;
  await world.repairFor(20_000);
  assert.deepEqual(world.listed, [second]);
});

Deno.test("settling: who was chosen and whose machine stops again before that is written down is chosen once more", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same", true);
  let stops = 1;
  world.afterGeneration = async (volume) => {
    if (volume !== second) throw new FsError("ETIMEDOUT", "no answer");
    if (stops-- <= 0) return;
    world.replicas.get(second)!.isDoubtful = true;
    await world.report(second);
  };
  await world.report(first);
  await world.report(second);
  await world.repairFor(30_000);
  assert.deepEqual([world.listed, world.replicas.get(second)!.isDoubtful], [[second], false]);
});

Deno.test("settling: a doubtful replica that was chosen unheard stays the chosen one, though a longer one comes back", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 9, "longer", true);
  world.hold(second, 8, "chosen", true);
  world.stop(first);
  await world.report(second);
  let isLost = true;
  world.afterGeneration = async (volume) => {
    if (volume !== second || !isLost) return;
    isLost = false;
    await world.report(await world.start(world.hostOf(first)));
    throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  await world.repairFor(60_000);
  assert.equal(isLost, false);
  assert.deepEqual([world.listed, world.replicas.get(second)!.digest], [[second], "chosen"]);
});

Deno.test("settling: that a doubtful replica counts is on disk, as is why, before anything goes on with it", async () => {
  const world = await World.make("a", "b");
  const { service: { journal, repair, clock }, block } = world;
  for (const volume of world.volumes) {
    world.hold(volume, 8, "same", true);
    await world.report(volume);
  }
  const stopping = new AbortController();
  journal.holdDurable();
  const repairing = repair.run(stopping.signal);
  await clock.advance(1_000);
  assert.ok(
    [...world.replicas.values()].every(({ isDoubtful }) => isDoubtful),
    "what it may have lost is first",
  );
  world.onGeneration = async () => journal.holdDurable();
  journal.release();
  await clock.advance(1_000);
  assert.deepEqual([world.extent!.generation > block.generation, repair.isBusy(block.id)], [true, true]);
  journal.release();
  await clock.advance(1_000);
  assert.equal(repair.isBusy(block.id), false);
  stopping.abort();
  await clock.advance(1_000);
  await repairing;
});

Deno.test("settling: which replicas a block has is on disk before anybody goes on with them", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  await world.client.release(world.ino);
  const { service: { journal, recovery, clock }, block, ino } = world;
  const isHeldUp = async (change: () => Promise<unknown>) => {
    journal.holdDurable();
    let isDone = false;
    const changing = change().then(() => isDone = true);
    await clock.advance(1_000);
    const wasDone = isDone;
    journal.release();
    await changing;
    return !wasDone;
  };
  assert.ok(await isHeldUp(() => recovery.replicasFailed(ino, 0, block.id, block.generation, [])));
  const seen = world.extent!;
  assert.ok(await isHeldUp(() => recovery.replace(ino, 0, seen, { remove: [second], keep: 1 })));
  assert.deepEqual(world.listed, [first]);
});

Deno.test("settling: replicas have taken a generation and nobody has heard of it: their block goes on with them", async () => {
  const world = await World.make("a", "b");
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const { service: { recovery }, block, ino } = world;
  world.afterGeneration = async () => {
    throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  const isAgain = (error: unknown) => isErrno(error, "EAGAIN");
  await assert.rejects(recovery.replicasFailed(ino, 0, block.id, block.generation, []), isAgain);
  world.afterGeneration = () => Promise.resolve();
  await world.repairFor(10_000);
  assert.deepEqual([world.extent!.generation, world.listed], [block.generation + 1, world.volumes]);
});

Deno.test("settling: that all replicas are missing is said, and nothing else is taken for that", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  for (const volume of world.volumes) world.hold(volume, 8, "same");
  const { service: { recovery }, block, ino } = world;
  const report = (failed: VolumeId[]) =>
    recovery.replicasFailed(ino, 0, block.id, block.generation, failed).then(
      () => "ok",
      ({ errno }) => errno,
    );
  world.onGeneration = async (volume) => {
    throw new FsError(volume === first ? "ENOENT" : "ETIMEDOUT", "on purpose");
  };
  assert.deepEqual([await report([]), await report([first!])], ["EAGAIN", "EAGAIN"]);
  world.onGeneration = async () => {
    throw new FsError("ENOENT", "no replica");
  };
  assert.deepEqual([await report([]), await report([second!])], ["ENODATA", "EAGAIN"]);
  assert.deepEqual(world.listed, world.volumes);
});

Deno.test("settling: an only replica is doubtful: it is the block's", async () => {
  const world = await World.make("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "gone");
  world.hold(second, 8, "torn");
  const { ino, block, service } = world;
  await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [first]);
  world.replicas.get(second)!.isDoubtful = true;
  await world.report(second);
  await world.repairFor(2_000);
  assert.ok(world.listed.includes(second));
  assert.equal(world.replicas.get(second)!.isDoubtful, false);
});

Deno.test("settling: an only replica of a block that nobody has told of data in is doubtful: its writer goes on with it", async () => {
  const world = await World.makeUnwritten("a", "b");
  const [first, second] = world.volumes;
  const { ino, block, service } = world;
  const { generation } = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [first]);
  world.replicas.set(second, { generation, length: 8, digest: "written", isDoubtful: true });
  await world.report(second);
  await world.repairFor(2_000);
  assert.deepEqual(world.listed, [second]);
  const { isDoubtful, ...chosen } = world.replicas.get(second)!;
  assert.equal(isDoubtful, false);
  const tx = service.namespace.begin();
  assert.equal(extentAt(tx, tx.inode(ino), 0)!.generation, chosen.generation);
  assert.ok(chosen.generation > generation);
});

Deno.test("settling: a doubtful replica of such a block is not chosen where another may hold all", async () => {
  const world = await World.makeUnwritten("a", "b");
  const [first, second] = world.volumes;
  world.hold(first, 8, "written");
  world.hold(second, 4, "torn", true);
  await world.report(second);
  await world.repairFor(2_000);
  assert.equal(world.replicas.get(second)!.isDoubtful, true);
  assert.equal(world.replicas.get(first)!.generation, world.block.generation, "nothing has changed");
});

Deno.test("settling: a replica fails before the block's first write has reached the others: they are there with the new generation, so that it comes too late", async () => {
  const world = await World.makeUnwritten("a", "b");
  const [first, second] = world.volumes;
  const { ino, block, service } = world;
  const changed = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [first]);
  assert.deepEqual(changed.volumes, [second]);
  assert.equal(world.replicas.get(second)?.generation, changed.generation);
  assert.ok(changed.generation > block.generation);
});

Deno.test("repair: a file goes while a copy becomes a replica of its block: the copy is deleted, as it has a generation by then", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "same");
  world.hold(second, 8, "same");
  const { ino, block, service } = world;
  const { generation } = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [second]);
  let copy: VolumeId | undefined;
  world.onGeneration = async (volume) => {
    if (volume === first) return;
    copy ??= volume;
    // As when it was removed before, and whoever had it open has closed it.
    await service.namespace.change((tx) => truncateExtents(tx, regularFile(tx, ino), 0));
  };
  await world.repairFor(10_000);
  assert.equal(world.replicas.get(copy!)?.generation, generation + 1);
  const deletion = service.journal.get(deletionKey(copy!, block.id));
  assert.deepEqual(deletion && decodeNumbers(deletion), [generation + 1]);
});

Deno.test("repair: a copy takes its generation and its answer is lost: it is deleted, and the next one there has a higher one", async () => {
  const world = await World.make("a", "b", "c");
  const [first, second] = world.volumes;
  world.hold(first, 8, "same");
  world.hold(second, 8, "same");
  const { ino, block, service } = world;
  const { generation } = await service.recovery.replicasFailed(ino, 0, block.id, block.generation, [second]);
  const lost: VolumeId[] = [];
  world.afterGeneration = async (volume) => {
    if (volume === first || lost.length > 0) return;
    lost.push(volume);
    throw new FsError("ETIMEDOUT", "the answer is lost");
  };
  await world.repairFor(20_000);
  const [copy] = lost;
  const deletion = deletionKey(copy!, block.id);
  assert.deepEqual(decodeNumbers(service.journal.get(deletion)!), [generation + 1]);
  assert.deepEqual(world.listed, [first], "nothing is made where something is to be deleted");
  // Its dataserver has carried it out, and says so.
  world.replicas.delete(copy!);
  service.journal.append([[deletion, null]]);
  await world.repairFor(20_000);
  assert.deepEqual(world.listed, [first, copy]);
  for (const volume of world.listed) assert.equal(world.replicas.get(volume)!.generation, generation + 2);
});
