import assert from "node:assert/strict";
import { type Random, randomInt, SeededRandom } from "../../../base/random.ts";
import { type Place, Placement } from "../../../roles/nameserver/placement.ts";
import { asNodeId, asVolumeId, type VolumeId } from "../../../wire/ids.ts";
import { isErrno } from "../../../wire/errno.ts";
import { pick, seededTest } from "../../base/seeded.ts";

/** A volume of its own node and host. */
function place(volume: number, rack: string, changes: Partial<Place> = {}): Place {
  return {
    volume: asVolumeId(volume),
    node: asNodeId(volume),
    host: `h${volume}`,
    rack,
    disk: `d${volume}`,
    isAlive: true,
    mayBringRoom: false,
    isDraining: false,
    freeBytes: 1_000,
    ...changes,
  };
}

const placementOf = (places: readonly Place[], random: Random = new SeededRandom(1)) =>
  new Placement(places, random, 100);
const nowhere = () => false;
const ids = (...volumes: number[]) => volumes.map(asVolumeId);

seededTest("placement: the second replica in another rack, the third in the rack of the second", (random) => {
  for (let round = 0; round < 200; round++) {
    const places = Array.from(
      { length: 3 + randomInt(random, 6) },
      (_, i) => place(i + 1, pick(random, ["r1", "r2", "r3"])),
    );
    const rackOf = (volume: VolumeId) => places.find((other) => other.volume === volume)!.rack;
    const racks = new Set(places.map(({ rack }) => rack));
    const [first, second, third] = placementOf(places, random).place(3, "h1", []).map(rackOf);
    assert.equal(first, rackOf(asVolumeId(1)), "the writer's own host first");
    if (racks.size > 1) assert.notEqual(second, first);
    const hasMore = places.filter(({ rack }) => rack === second).length > 1;
    if (racks.size > 1 && hasMore) assert.equal(third, second);
  }
});

Deno.test("placement: racks that are not known are in nobody's way", () => {
  const places = [place(1, ""), place(2, ""), place(3, "r1"), place(4, "r1")];
  const placement = placementOf(places);
  assert.equal(placement.place(4, "h1", []).length, 4);
  assert.equal(placement.betterSpread(ids(1, 2), nowhere), undefined);
  assert.equal(placement.betterSpread(ids(1, 3), nowhere), undefined);
  // There is no rack that is known to be another.
  assert.equal(placement.betterSpread(ids(3, 4), nowhere), undefined);
  assert.ok(ids(1, 2).includes(placement.placeBeside(ids(3, 4), nowhere)!));
});

Deno.test("placement: one more goes to another rack where all are in one", () => {
  const places = [place(1, "r1"), place(2, "r1"), place(3, "r1", { freeBytes: 1e9 }), place(4, "r2")];
  const placement = placementOf(places);
  for (let i = 0; i < 50; i++) assert.equal(placement.placeBeside(ids(1, 2), nowhere), 4);
  assert.equal(placement.placeBeside(ids(1, 2), (volume) => volume === 4), 3, "rather there than nowhere");
  assert.equal(placement.placeBeside(ids(1, 2, 3, 4), nowhere), undefined);
});

Deno.test("placement: a block in one rack, or twice on a host, is moved where there is a better place", () => {
  const twice = { host: "h1" };
  const racks = [place(1, "r1", { freeBytes: 500 }), place(2, "r1"), place(3, "r2"), place(5, "r1", twice)];
  const placement = placementOf(racks);
  assert.deepEqual(placement.betterSpread(ids(1, 2), nowhere), { from: 1, to: 3 });
  assert.equal(placement.betterSpread(ids(1, 2), (volume) => volume === 3), undefined);
  assert.equal(placement.betterSpread(ids(1, 3), nowhere), undefined);
  const [one, two] = [
    placement.betterSpread(ids(1, 5, 3), nowhere)!,
    placement.betterSpread(ids(1), nowhere),
  ];
  assert.deepEqual(one, { from: 1, to: 2 });
  assert.equal(two, undefined);
  for (const changes of [{ isAlive: false }, { isDraining: true }, { freeBytes: 100 }]) {
    const full = placementOf([place(1, "r1"), place(2, "r1"), place(3, "r2", changes)]);
    assert.equal(full.betterSpread(ids(1, 2), nowhere), undefined, JSON.stringify(changes));
  }
});

Deno.test("placement: what is taken off leaves two racks, then room", () => {
  const placement = placementOf([
    place(1, "r1", { freeBytes: 900 }),
    place(2, "r1", { freeBytes: 800 }),
    place(3, "r2", { freeBytes: 200 }),
  ]);
  assert.equal(placement.surplus(ids(1, 2, 3)), 2);
  assert.equal(placement.surplus(ids(1, 2)), 2);
});

Deno.test("placement: a node that is being decommissioned gets nothing; all of them is ENOSPC", () => {
  const draining = { isDraining: true };
  const placement = placementOf([place(1, "", draining), place(2, "")]);
  assert.deepEqual(placement.place(2, "h1", []), [2]);
  assert.equal(placement.placeBeside(ids(2), nowhere), undefined);
  const all = placementOf([place(1, "", draining), place(2, "", draining)]);
  assert.throws(() => all.place(1, "h1", []), (error) => isErrno(error, "ENOSPC"));
  const away = placementOf([place(1, "", draining), place(2, "", { isAlive: false })]);
  assert.throws(() => away.place(1, "h1", []), (error) => isErrno(error, "EHOSTUNREACH"));
});

Deno.test("placement: room beside a node counts other hosts, and each disk once", () => {
  const placement = placementOf([
    place(1, ""),
    place(2, "", { disk: "shared" }),
    place(3, "", { disk: "shared" }),
    place(4, "", { host: "h3", freeBytes: 300 }),
    place(5, "", { isAlive: false }),
  ]);
  assert.deepEqual(placement.roomBeside(asNodeId(1)), { hosts: 2, bytes: 900 + 200 });
});

Deno.test("placement: two hosts are better than two racks", () => {
  const placement = placementOf([place(1, "", { host: "a" }), place(2, "r1", { host: "a" }), place(3, "r1")]);
  assert.ok(placement.spread(ids(2, 3)) > placement.spread(ids(1, 2)));
  assert.ok(placement.spread(ids(1, 3)) > placement.spread(ids(2, 3)), "then racks count");
});
