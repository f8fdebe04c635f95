import { assert, assertEquals } from "@std/assert";
import { randomInt } from "../../base/random.ts";
import { disjoint, planMoves, unbalanced } from "../../roles/admin/balance_plan.ts";
import { asNodeId, asVolumeId } from "../../wire/ids.ts";
import type { VolumeUsage } from "../../wire/messages/admin.ts";
import { seededTest } from "../base/seeded.ts";

function usage(volume: number, usedBytes: number, totalBytes: number): VolumeUsage {
  const place = { volume: asVolumeId(volume), node: asNodeId(volume), host: `h${volume}`, rack: "" };
  return { ...place, usedBytes, totalBytes, freeBytes: totalBytes - usedBytes };
}

const none = () => false;

Deno.test("balance: nothing is planned while all are within the threshold", () => {
  assertEquals(planMoves([usage(1, 55, 100), usage(2, 45, 100)], 0.06, none), []);
  assertEquals(planMoves([usage(1, 0, 100), usage(2, 0, 200)], 0.01, none), []);
  assertEquals(planMoves([], 0.01, none), []);
});

Deno.test("balance: from the fullest to the emptiest, by what part of them is used", () => {
  const moves = planMoves([usage(1, 90, 100), usage(2, 50, 100), usage(3, 100, 1000)], 0.1, none);
  assertEquals(moves.map(({ source, target, bytes }) => [source, target, bytes]), [[1, 3, 70], [2, 3, 30]]);
});

Deno.test("balance: one that is off is helped by others that are not", () => {
  const volumes = [usage(1, 50, 100), usage(2, 50, 100), usage(3, 50, 100), usage(4, 10, 100)];
  const moves = planMoves(volumes, 0.11, none);
  assertEquals(moves.map(({ source, target, bytes }) => [source, target, bytes]), [
    [1, 4, 10],
    [2, 4, 10],
    [3, 4, 10],
  ]);
  assertEquals(disjoint(moves, 4).length, 1);
  assertEquals(planMoves(volumes, 0.11, (source) => source < 3).map(({ source }) => Number(source)), [3]);
});

seededTest("balance: carried out to the byte, plans leave nobody off the mean", (random) => {
  for (let round = 0; round < 200; round++) {
    let volumes = Array.from({ length: 1 + randomInt(random, 8) }, (_, i) => {
      const total = 1_000 + randomInt(random, 100_000);
      return usage(i + 1, randomInt(random, total), total);
    });
    const threshold = 0.02 + random.next() / 4;
    for (let i = 0; unbalanced(volumes, threshold).length > 0; i++) {
      assert(i < 100, "it ends");
      const moves = disjoint(planMoves(volumes, threshold, none), 4);
      assert(moves.length > 0);
      for (const { source, target, bytes, bytesMax } of moves) {
        // The last block may be more than is needed.
        const moved = bytes + randomInt(random, bytesMax - bytes + 1);
        volumes = volumes.map((volume) => {
          const by = volume.volume === source ? -moved : volume.volume === target ? moved : 0;
          return usage(volume.volume, volume.usedBytes + by, volume.totalBytes);
        });
      }
    }
    assert(volumes.every(({ usedBytes, freeBytes }) => usedBytes >= 0 && freeBytes >= 0));
  }
});
