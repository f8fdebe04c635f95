/** Replicas that may hold other bytes than the others of their block, and of whom nobody has told the nameserver. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { asBlockId, type BlockId } from "../../../wire/ids.ts";
import { Differences } from "../../../roles/dataserver/differences.ts";
import {
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  start,
  targetOf,
  until,
  withDirectory,
} from "./harness.ts";

const BLOCK = asBlockId(7);

Deno.test("differences: are told after a while, again and again, and at once to another nameserver, until they were compared", async () => {
  const differences = new Differences();
  let compared: BlockId[] = [];
  const told = async (nowMs: number) => {
    const all: BlockId[] = [];
    await differences.tellDue(nowMs, (blocks) => {
      all.push(...blocks);
      return Promise.resolve(compared);
    });
    return all;
  };
  differences.note(BLOCK, 0);
  deepEqual(await told(4_999), []);
  deepEqual(await told(5_000), [BLOCK]);
  deepEqual(await told(14_999), []);
  deepEqual(await told(15_000), [BLOCK]);
  differences.tellAll();
  deepEqual(await told(15_001), [BLOCK]);
  differences.tellAll();
  compared = [BLOCK];
  await differences.tellDue(16_000, (blocks) => {
    differences.note(BLOCK, 16_000); // another one, while they are compared
    return Promise.resolve(blocks);
  });
  ok(differences.has(BLOCK));
  deepEqual(await told(21_000), [BLOCK]);
  equal(differences.has(BLOCK), false);
});

Deno.test("differences: while it is not known whether all have done it, a replica may differ, but nobody is told", async () => {
  const differences = new Differences();
  const first = differences.begin(BLOCK);
  const second = differences.begin(BLOCK);
  deepEqual([differences.has(BLOCK), differences.blocks], [true, [BLOCK]]);
  first(false, 0);
  equal(differences.has(BLOCK), true);
  differences.tellAll();
  await differences.tellDue(60_000, () => Promise.reject(new Error("nothing is known yet")));
  second(false, 0);
  equal(differences.has(BLOCK), false);
  differences.begin(BLOCK)(true, 0);
  equal(differences.has(BLOCK), true);
});

Deno.test("differences: what the next in the chain did not get is told, and not finalized until it was compared", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using a = await start(registry, [`${directory}/a`]);
    const b = await start(registry, [`${directory}/b`]);
    using client = await connectTo(a);
    const volume = a.volumes[0]!.volume;
    const at = { block: BLOCK, generation: GENERATION, volume, chain: [targetOf(b)], create: true };
    await client.call.writeBlock({ ...at, offset: 0, body: pattern(100, 1) });
    await b.stop();
    const reply = await client.call.writeBlock({ ...at, offset: 50, body: pattern(100, 2) });
    equal(reply.failed.length, 1);
    const name = `${BLOCK}.${GENERATION}`;
    const toldAnew = async () => {
      registry.differing.length = 0;
      await registry.restart();
      await until(() => registry.differing.includes(name), "it is told");
    };
    const isFinal = async () => (await registry.pushes().listReplicas({ volume })).replicas[0]!.isFinal;
    await toldAnew();
    equal(await isFinal(), false);
    registry.compares = () => true;
    await toldAnew();
    for (let tries = 0; !await isFinal(); tries++) {
      ok(tries < 200, "it is finalized");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }));

Deno.test("differences: what was being written when its dataserver was killed is told", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const options = { finalizeIdleMs: 60_000 };
    {
      await using a = await start(registry, [`${directory}/a`], options);
      using client = await connectTo(a);
      const at = {
        block: BLOCK,
        generation: GENERATION,
        volume: a.volumes[0]!.volume,
        chain: [],
        create: true,
      };
      await client.call.writeBlock({ ...at, offset: 0, body: pattern(100, 1) });
      // What a kill leaves: the records as they are now.
      await copyTree(`${directory}/a`, `${directory}/killed`);
    }
    deepEqual(registry.differing, []);
    // Then stopped, before it was compared, and started again.
    for (let starts = 0; starts < 2; starts++) {
      registry.differing.length = 0;
      await using a = await start(registry, [`${directory}/killed`]);
      await until(() => registry.differing.includes(`${BLOCK}.${GENERATION}`), "it is told");
      if (starts === 0) continue;
      // It is finalized by then, but nobody may go on reading its file while it gives way to another.
      using client = await connectTo(a);
      const at = { block: BLOCK, generation: GENERATION, volume: a.volumes[0]!.volume };
      equal((await client.call.locateReplica(at)).file, undefined);
      registry.compares = () => true;
      await registry.restart();
      for (let tries = 0; (await client.call.locateReplica(at)).file === undefined; tries++) {
        ok(tries < 100, "it may be read from its file once it was compared");
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }));

async function copyTree(from: string, to: string): Promise<void> {
  const { success } = await new Deno.Command("cp", { args: ["-a", from, to] }).output();
  equal(success, true);
}
