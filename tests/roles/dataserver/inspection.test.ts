/** What a dataserver answers to who checks the file system: what there is, and what replicas hold. */

import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, asGeneration, type BlockId, type VolumeId } from "../../../wire/ids.ts";
import type { VerifyReplicaReply } from "../../../wire/messages/dataserver.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  start,
  until,
  withDirectory,
} from "./harness.ts";

const CHUNK = 65_536;

interface Inspected {
  readonly registry: FakeRegistry;
  readonly client: BlockClient;
  readonly volumes: readonly VolumeId[];
  readonly directory: string;
}

/** A dataserver of two volumes. */
function test(name: string, body: (inspected: Inspected) => Promise<void>): void {
  Deno.test(name, () =>
    withDirectory(async (directory) => {
      await using registry = new FakeRegistry();
      await using server = await start(registry, [`${directory}/v0`, `${directory}/v1`]);
      using client = await connectTo(server);
      await body({ registry, client, volumes: server.volumes.map(({ volume }) => volume), directory });
    }));
}

async function write(
  { client, volumes }: Inspected,
  block: number,
  offset: number,
  body: Uint8Array,
  volume = 0,
): Promise<void> {
  await client.call.writeBlock({
    block: asBlockId(block),
    generation: GENERATION,
    volume: volumes[volume]!,
    offset,
    chain: [],
    create: true,
    body,
  });
}

function verify(
  { registry, volumes }: Inspected,
  block: number,
  options: { readonly volume?: number; readonly length?: number; readonly bytesPerSecond?: number } = {},
): Promise<VerifyReplicaReply> {
  const { volume = 0, length = 1e9, bytesPerSecond = 1e9 } = options;
  const request = {
    block: asBlockId(block),
    generation: GENERATION,
    volume: volumes[volume]!,
    length,
    bytesPerSecond,
  };
  return registry.pushes().verifyReplica(request);
}

const fileOf = ({ directory }: Inspected, block: number, volume = 0) =>
  `${directory}/v${volume}/blocks/${(block % 256).toString(16).padStart(2, "0")}/${block}.blk`;

test("a list of replicas says what their records and files are, by id and in pages", async (inspected) => {
  const { registry, volumes } = inspected;
  for (const block of [5, 6, 7]) await write(inspected, block, 0, pattern(1000 * block, block));
  const list = async (request: { blocks?: BlockId[]; from?: number; limit?: number }) =>
    (await registry.pushes().listReplicas({ volume: volumes[0]!, ...request })).replicas;
  const isFinal = async () => (await list({})).every((replica) => replica.isFinal);
  for (let i = 0; !await isFinal(); i++) {
    ok(i < 200, "replicas are finalized");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const expected = [5, 6, 7].map((block) => ({
    ...{ block, generation: GENERATION, length: 1000 * block, isFinal: true, fileBytes: 1000 * block },
  }));
  deepEqual(await list({}), expected);
  deepEqual(await list({ from: 6, limit: 1 }), [expected[1]]);
  Deno.truncateSync(fileOf(inspected, 5), 10);
  Deno.removeSync(fileOf(inspected, 6));
  const some = await list({ blocks: [6, 5, 99].map(asBlockId) });
  deepEqual(some.map(({ block, fileBytes }) => [block, fileBytes]), [[6, -1], [5, 10]]);
  await rejects(list({ limit: 1001 }), /at most 1000/);
});

test("replicas have one digest exactly when they read alike, whatever their length", async (inspected) => {
  const bytes = pattern(3 * CHUNK + 100, 9);
  await write(inspected, 1, 0, bytes);
  // The same, with zeros at the end and written in another order.
  await write(inspected, 1, CHUNK, bytes.subarray(CHUNK), 1);
  await write(inspected, 1, 0, bytes.subarray(0, CHUNK), 1);
  await write(inspected, 1, 6 * CHUNK - 1, new Uint8Array(1), 1);
  const [a, b] = [await verify(inspected, 1), await verify(inspected, 1, { volume: 1 })];
  equal(a.digest, b.digest);
  deepEqual([a.bytes, b.bytes], [bytes.length, 6 * CHUNK]);
  ok(a.state !== undefined);
  // What lies past the extent's end counts for nothing.
  await write(inspected, 1, 5 * CHUNK, pattern(10, 3), 1);
  notEqual((await verify(inspected, 1, { volume: 1 })).digest, a.digest);
  equal((await verify(inspected, 1, { volume: 1, length: 5 * CHUNK })).digest, a.digest);
  await write(inspected, 1, 100, new Uint8Array([1, 2, 3]), 1);
  notEqual((await verify(inspected, 1, { volume: 1, length: 5 * CHUNK })).digest, a.digest);
});

test("bytes that rot under an open replica are found, though they were proven before, and reported", async (inspected) => {
  const { registry } = inspected;
  await write(inspected, 2, 0, pattern(4 * CHUNK, 4));
  equal((await verify(inspected, 2)).corrupt, undefined);
  using file = Deno.openSync(fileOf(inspected, 2), { write: true });
  file.seekSync(2 * CHUNK + 5, Deno.SeekMode.Start);
  file.writeSync(new Uint8Array([7, 7]));
  match((await verify(inspected, 2)).corrupt!, /checksum mismatch .* chunk 2/);
  await until(() => registry.corrupt.some(({ block }) => block === 2), "reported");
});

test("a replica that is written meanwhile, is missing, or of another generation is said to be", async (inspected) => {
  const { registry, volumes } = inspected;
  await write(inspected, 3, 0, pattern(4 * 1024 * 1024, 4));
  // A second or so of reading.
  const verifying = verify(inspected, 3, { bytesPerSecond: 4 * 1024 * 1024 });
  await new Promise((resolve) => setTimeout(resolve, 300));
  await write(inspected, 3, 10, new Uint8Array([1]));
  const startMs = performance.now();
  const { state, corrupt } = await verifying;
  deepEqual([state, corrupt], [undefined, undefined]);
  ok(performance.now() - startMs > 300, "it reads no faster than it was asked to");
  const errno = (name: string) => (error: unknown) => error instanceof FsError && error.errno === name;
  await rejects(verify(inspected, 99), errno("ENOENT"));
  const request = { block: asBlockId(3), volume: volumes[0]!, length: 1, bytesPerSecond: 1e9 };
  await rejects(
    registry.pushes().verifyReplica({ ...request, generation: asGeneration(9) }),
    errno("ESTALE"),
  );
});
