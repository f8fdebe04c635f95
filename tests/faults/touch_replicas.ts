/**
 * Reads replicas of one dataserver, so that it notices those that are damaged; run beside it, since its network is its own:
 *
 *     touch_replicas.ts ADDRESS CLUSTER VOLUME BLOCK:GENERATION:LENGTH...
 *
 * Prints for each what came of it: "read", or the error. A block may have got newer generations meanwhile.
 */

import { asBlockId, asGeneration, asVolumeId } from "../../wire/ids.ts";
import { tcpDialer } from "../../wire/dialer.ts";
import { FsError } from "../../wire/errno.ts";
import { helloOf } from "../../wire/hello.ts";
import { DATASERVER } from "../../wire/messages/dataserver.ts";
import { createClient } from "../../wire/service.ts";

const STEP_BYTES = 1024 * 1024;
const GENERATIONS_AHEAD = 50;

const [address, cluster, volume, ...replicas] = Deno.args;
const { channel } = await tcpDialer.dial(address!, {
  hello: helloOf("client", cluster!, "test"),
  expectRole: "dataserver",
});
const client = createClient(DATASERVER, (op, request, call) => channel.call(op, request, call));

async function touch(block: number, generation: number, length: number): Promise<string> {
  for (let offset = 0; offset < length;) {
    try {
      await client.readBlock({
        block: asBlockId(block),
        generation: asGeneration(generation),
        volume: asVolumeId(Number(volume)),
        offset,
        length: Math.min(STEP_BYTES, length - offset),
      });
      offset += STEP_BYTES;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      return error.errno;
    }
  }
  return "read";
}

for (const replica of replicas) {
  const [block, generation, length] = replica.split(":").map(Number) as [number, number, number];
  let last = generation;
  let said = "ESTALE";
  // One that is stale for all of them is not its block's any more.
  for (; said === "ESTALE" && last <= generation + GENERATIONS_AHEAD; last++) {
    said = await touch(block, last, length);
  }
  console.log(`${block} ${said}`);
}
channel.close();
