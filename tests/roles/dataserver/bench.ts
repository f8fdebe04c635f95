/**
 * How fast one dataserver is on this machine, directly (LocalChannel) and over TCP: streams of 1 MiB writes,
 * 4 KiB reads and writes, many small replicas. Run: deno run -A tests/roles/dataserver/bench.ts [DIRECTORY]
 */

import { silentLogger } from "../../../base/log.ts";
import { ProcessDialer, tcpDialer } from "../../../wire/dialer.ts";
import { asBlockId } from "../../../wire/ids.ts";
import { startDataserver } from "../../../roles/dataserver/dataserver.ts";
import { connectTo, FakeRegistry, GENERATION, pattern, targetOf } from "./harness.ts";

const MIB = 1024 * 1024;
const FILE_BYTES = 128 * MIB;
const directory = await Deno.makeTempDir({
  prefix: "mfs_bench_",
  ...(Deno.args[0] && { dir: Deno.args[0] }),
});
const registry = new FakeRegistry();
const dialer = new ProcessDialer();
const options = { nameserver: registry.address, host: "h", log: silentLogger, dialer };
const server = await startDataserver({ ...options, volumes: [`${directory}/a`], processDialer: dialer });
const second = await startDataserver({ ...options, volumes: [`${directory}/b`], dialer: tcpDialer });

/** Runs `count` operations, `window` at a time; gives operations a second. */
async function rate(
  count: number,
  window: number,
  operation: (i: number) => Promise<unknown>,
): Promise<number> {
  const started = performance.now();
  let next = 0;
  await Promise.all(Array.from({ length: window }, async () => {
    while (next < count) await operation(next++);
  }));
  return count / (performance.now() - started) * 1000;
}

let nextBlock = 1;
for (const [name, through] of [["local", dialer], ["tcp", tcpDialer]] as const) {
  using client = await connectTo(server, through);
  const volume = server.volumes[0]!.volume;
  const body = pattern(MIB, 7);
  const small = pattern(4096, 8);
  const block = asBlockId(nextBlock++);
  const at = { generation: GENERATION, volume, create: true };
  const line = (what: string, figure: string) =>
    console.log(`${name.padEnd(6)} ${what.padEnd(44)} ${figure}`);
  const stream = (chain: ReturnType<typeof targetOf>[], to: number) =>
    rate(
      FILE_BYTES / MIB,
      8,
      (i) => client.call.writeBlock({ ...at, block: asBlockId(to), offset: i * MIB, chain, body }),
    );
  line("write 1 MiB, 8 in flight, 1 replica", `${(await stream([], block)).toFixed(0)} MiB/s`);
  line("the same over again", `${(await stream([], block)).toFixed(0)} MiB/s`);
  line(
    "write 1 MiB, 8 in flight, chain of 2",
    `${(await stream([targetOf(second)], nextBlock++)).toFixed(0)} MiB/s`,
  );
  const read = (length: number, count: number, window: number) =>
    rate(
      count,
      window,
      (i) =>
        client.call.readBlock({
          block,
          generation: GENERATION,
          volume,
          offset: (i * 7919 * length) % FILE_BYTES,
          length,
        }),
    );
  line("read 1 MiB, 4 in flight", `${(await read(MIB, 512, 4)).toFixed(0)} MiB/s`);
  line("read 4 KiB, 1 in flight", `${(await read(4096, 30_000, 1)).toFixed(0)}/s`);
  line("read 4 KiB, 16 in flight", `${(await read(4096, 60_000, 16)).toFixed(0)}/s`);
  const write4k = (window: number) =>
    rate(
      10_000,
      window,
      (i) => client.call.writeBlock({ ...at, block, offset: i * 4096, chain: [], body: small }),
    );
  line("write 4 KiB in order, 1 in flight", `${(await write4k(1)).toFixed(0)}/s`);
  line("write 4 KiB in order, 16 in flight", `${(await write4k(16)).toFixed(0)}/s`);
  const first = nextBlock;
  nextBlock += 4000;
  const files = await rate(
    4000,
    16,
    (i) => client.call.writeBlock({ ...at, block: asBlockId(first + i), offset: 0, chain: [], body: small }),
  );
  line("new replicas of 4 KiB, 16 in flight", `${files.toFixed(0)}/s`);
  const sync = await rate(200, 1, async (i) => {
    await client.call.writeBlock({ ...at, block, offset: i * 4096, chain: [], body: small });
    await client.call.syncBlock({ block, generation: GENERATION, volume, chain: [] });
  });
  line("write 4 KiB + sync, 1 in flight", `${sync.toFixed(0)}/s`);
}
console.log(`rss ${(Deno.memoryUsage().rss / MIB).toFixed(0)} MiB`);
const started = performance.now();
await Promise.all([server.stop(), second.stop()]);
console.log(`stop ${(performance.now() - started).toFixed(0)} ms`);
await registry[Symbol.asyncDispose]();
await Deno.remove(directory, { recursive: true });
