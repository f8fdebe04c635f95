/** Replicas that were made anew before the order to delete the old one was carried out. */

import { ok, rejects } from "node:assert/strict";
import { bytesEqual } from "../../../base/bytes.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, asGeneration } from "../../../wire/ids.ts";
import type { Dataserver } from "../../../roles/dataserver/dataserver.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  readAll,
  start,
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
): Promise<void> {
  const [{ volume }] = server.volumes as [Dataserver["volumes"][0]];
  await client.call.writeBlock({
    block: BLOCK,
    generation: GENERATION,
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
