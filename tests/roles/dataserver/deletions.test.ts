/** Replicas that were made anew before the order to delete the old one was carried out. */

import { equal, ok, rejects } from "node:assert/strict";
import { bytesEqual } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, asGeneration } from "../../../wire/ids.ts";
import { COPY_GENERATION } from "../../../wire/messages/dataserver.ts";
import type { Dataserver } from "../../../roles/dataserver/dataserver.ts";
import { Deletions } from "../../../roles/dataserver/deletions.ts";
import type { Volume } from "../../../roles/dataserver/volume.ts";
import { settle } from "../../base/fake_clock.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  readAll,
  start,
  targetOf,
  until,
  withDirectory,
} from "./harness.ts";

const BLOCK = asBlockId(300);
const LENGTH = 300_000;
const errno = (name: string) => (error: unknown) => error instanceof FsError && error.errno === name;

async function write(
  client: BlockClient,
  server: Dataserver,
  offset: number,
  body: Uint8Array,
  generation = GENERATION,
): Promise<void> {
  const [{ volume }] = server.volumes as [Dataserver["volumes"][0]];
  await client.call.writeBlock({
    block: BLOCK,
    generation,
    volume,
    offset,
    chain: [],
    create: true,
    body,
  });
}

Deno.test("deletions: a replica that was made anew since the order was given stays", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/v`]);
    using client = await connectTo(server);
    const bytes = pattern(LENGTH, 1);
    await write(client, server, 0, bytes);
    const { volume } = server.volumes[0]!;
    const newer = asGeneration(GENERATION + 2);
    await registry.pushes().setGeneration({ volume, block: BLOCK, from: GENERATION, to: newer });
    const upTo = [asGeneration(GENERATION + 1)];
    await registry.pushes().deleteBlocks({ volume, blocks: [BLOCK], upTo });
    await until(() => registry.deleted.length === 1, "answered");
    ok(bytesEqual(await readAll(client, server, BLOCK, LENGTH, newer), bytes));
    await registry.pushes().deleteBlocks({ volume, blocks: [BLOCK], upTo: [newer] });
    await until(() => registry.deleted.length === 2, "answered");
    await rejects(readAll(client, server, BLOCK, LENGTH, newer), errno("ENOENT"));
  }));

Deno.test("deletions: nor does one go that nobody has opened since the start", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const bytes = pattern(LENGTH, 1);
    const newer = asGeneration(GENERATION + 2);
    {
      await using server = await start(registry, [`${directory}/v`]);
      using client = await connectTo(server);
      await write(client, server, 0, bytes);
      const { volume } = server.volumes[0]!;
      await registry.pushes().setGeneration({ volume, block: BLOCK, from: GENERATION, to: newer });
    }
    await using server = await start(registry, [`${directory}/v`]);
    const { volume } = server.volumes[0]!;
    await registry.pushes().deleteBlocks({ volume, blocks: [BLOCK], upTo: [asGeneration(GENERATION + 1)] });
    await until(() => registry.deleted.length === 1, "answered");
    using client = await connectTo(server);
    ok(bytesEqual(await readAll(client, server, BLOCK, LENGTH, newer), bytes));
  }));

Deno.test("deletions: a write that comes late does not make a replica again", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/v`]);
    using client = await connectTo(server);
    const bytes = pattern(LENGTH, 1);
    await write(client, server, 0, bytes);
    const { volume } = server.volumes[0]!;
    const newer = asGeneration(GENERATION + 1);
    await registry.pushes().deleteBlocks({ volume, blocks: [BLOCK], upTo: [GENERATION] });
    await until(() => registry.deleted.length === 1, "answered");
    await rejects(write(client, server, 0, bytes), errno("ESTALE"));
    await rejects(readAll(client, server, BLOCK, LENGTH), errno("ENOENT"));
    // Where it is one of the block's again, it has a newer one.
    await registry.pushes().setGeneration({
      volume,
      block: BLOCK,
      from: GENERATION,
      to: newer,
      create: true,
    });
    await write(client, server, 0, bytes, newer);
    ok(bytesEqual(await readAll(client, server, BLOCK, LENGTH, newer), bytes));
  }));

Deno.test("deletions: a copy is made where the block was deleted a moment ago", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using other = new FakeRegistry();
    await using source = await start(other, [`${directory}/a`]);
    await using server = await start(registry, [`${directory}/b`]);
    const bytes = pattern(LENGTH, 1);
    for (const one of [source, server]) {
      using client = await connectTo(one);
      await write(client, one, 0, bytes);
    }
    const { volume } = server.volumes[0]!;
    await registry.pushes().deleteBlocks({ volume, blocks: [BLOCK], upTo: [GENERATION] });
    await until(() => registry.deleted.length === 1, "answered");
    const from = targetOf(source);
    await registry.pushes().copyReplica({ volume, block: BLOCK, generation: GENERATION, source: from });
    using client = await connectTo(server);
    ok(bytesEqual(await readAll(client, server, BLOCK, LENGTH, COPY_GENERATION), bytes));
  }));

Deno.test("generations: a replica that is yet to be made is made with the new one, and late writes are refused", () =>
  withDirectory(async (directory) => {
    const bytes = pattern(LENGTH, 1);
    await using registry = new FakeRegistry();
    const newer = asGeneration(GENERATION + 1);
    {
      await using server = await start(registry, [`${directory}/v`]);
      using client = await connectTo(server);
      const { volume } = server.volumes[0]!;
      const request = { volume, block: BLOCK, from: GENERATION, to: newer };
      await rejects(registry.pushes().setGeneration(request), errno("ENOENT"));
      for (let i = 0; i < 2; i++) {
        equal((await registry.pushes().setGeneration({ ...request, create: true })).length, 0);
      }
      await rejects(write(client, server, 0, bytes), errno("ESTALE"));
      await write(client, server, 0, bytes, newer);
    }
    await using server = await start(registry, [`${directory}/v`]);
    using client = await connectTo(server);
    ok(bytesEqual(await readAll(client, server, BLOCK, LENGTH, newer), bytes));
    // One that is there takes it as ever.
    const { volume } = server.volumes[0]!;
    const to = asGeneration(newer + 1);
    const { length } = await registry.pushes().setGeneration({
      volume,
      block: BLOCK,
      from: newer,
      to,
      create: true,
    });
    equal(length, LENGTH);
  }));

Deno.test("deletions: what is asked for in any step after the last was reported is done", async () => {
  for (let steps = 0; steps <= 12; steps++) {
    const told = Promise.withResolvers<void>();
    const deletions = new Deletions(() => told.promise, silentLogger);
    const deleted: number[] = [];
    const volume = { id: 1, delete: async (block: number) => void deleted.push(block) } as unknown as Volume;
    deletions.add(volume, [{ block: asBlockId(1), upTo: undefined }], { report: true });
    await settle();
    told.resolve();
    for (let i = 0; i < steps; i++) await Promise.resolve();
    deletions.add(volume, [{ block: asBlockId(2), upTo: undefined }], { report: false });
    await settle();
    equal(deleted.join(), "1,2", `${steps} steps`);
  }
});

Deno.test("deletions: what is done makes room for more, and what could not be told is told later", async () => {
  const told: number[] = [];
  let isAway = true;
  const deletions = new Deletions((_volume, blocks) => {
    if (isAway) return Promise.reject(new FsError("ENOTCONN", "not registered"));
    told.push(...blocks);
    return Promise.resolve();
  }, silentLogger);
  let deleted = 0;
  const volume = { id: 1, delete: async () => void deleted++ } as unknown as Volume;
  // Two thirds of what may be pending.
  const many = Array.from({ length: 130_000 }, (_, i) => ({ block: asBlockId(i + 1), upTo: undefined }));
  for (let round = 1; round <= 2; round++) {
    deletions.add(volume, many, { report: false });
    for (let i = 0; i < 100 && deleted < round * many.length; i++) await settle();
    equal(deleted, round * many.length);
  }
  deletions.add(volume, many.slice(0, 3), { report: true });
  await settle();
  equal(told.length, 0);
  isAway = false;
  await deletions.resend();
  equal(told.join(), "1,2,3");
});

for (const field of ["stale", "unknown"] as const) {
  Deno.test(`block report: what has become a newer replica by the time of the answer is not taken for ${field}`, () =>
    withDirectory(async (directory) => {
      await using registry = new FakeRegistry();
      await using server = await start(registry, [`${directory}/v`]);
      using client = await connectTo(server);
      const bytes = pattern(LENGTH, 1);
      await write(client, server, 0, bytes);
      const { volume } = server.volumes[0]!;
      const newer = asGeneration(GENERATION + 2);
      const gate = Promise.withResolvers<void>();
      registry.answerReport = async () => {
        await gate.promise;
        return { stale: [], unknown: [], [field]: [BLOCK] };
      };
      const before = registry.reports.length;
      await registry.restart();
      await until(() => registry.reports.length > before, "report");
      await registry.pushes().setGeneration({ volume, block: BLOCK, from: GENERATION, to: newer });
      gate.resolve();
      const beats = registry.heartbeats.length;
      await until(() => registry.heartbeats.length > beats + 5, "time to delete");
      ok(bytesEqual(await readAll(client, server, BLOCK, LENGTH, newer), bytes));
    }));
}
