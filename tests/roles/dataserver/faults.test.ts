import { equal, match, ok, rejects, throws } from "node:assert/strict";
import { geteuid } from "../../../base/libc.ts";
import { bytesEqual } from "../../../base/bytes.ts";
import { randomInt, SeededRandom } from "../../../base/random.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, asGeneration, asVolumeId } from "../../../wire/ids.ts";
import { LevelRecords } from "../../../roles/dataserver/replica_records.ts";
import { systemDisk } from "../../../roles/dataserver/disk.ts";
import { testSeed } from "../../base/seeded.ts";
import {
  type BlockClient,
  connectTo,
  FakeRegistry,
  GENERATION,
  pattern,
  readAll,
  recordingLogger,
  start,
  until,
  withDirectory,
} from "./harness.ts";

const BLOCK = asBlockId(300);
const errno = (name: string) => (error: unknown) => error instanceof FsError && error.errno === name;
/** The file of BLOCK below a volume: 300 % 256 = 0x2c. */
const FILE = "blocks/2c/300.blk";
const CRC_FILE = "blocks/2c/300.crc";

async function write(
  client: BlockClient,
  volume: number,
  offset: number,
  body: Uint8Array,
  block = BLOCK,
): Promise<void> {
  await client.call.writeBlock({
    block,
    generation: GENERATION,
    volume: volume as never,
    offset,
    chain: [],
    create: true,
    body,
  });
}

/** A volume with one finalized replica of `length` bytes, stopped. */
async function prepared(registry: FakeRegistry, path: string, length: number): Promise<Uint8Array> {
  await using server = await start(registry, [path]);
  using client = await connectTo(server);
  const bytes = pattern(length, 42);
  await write(client, server.volumes[0]!.volume, 0, bytes);
  return bytes;
}

function changeFile(path: string, change: (file: Deno.FsFile) => void): void {
  using file = Deno.openSync(path, { read: true, write: true });
  change(file);
}

function flipByte(path: string, offset: number): void {
  changeFile(path, (file) => {
    const byte = new Uint8Array(1);
    file.seekSync(offset, Deno.SeekMode.Start);
    file.readSync(byte);
    byte[0]! ^= 1;
    file.seekSync(offset, Deno.SeekMode.Start);
    file.writeSync(byte);
  });
}

Deno.test("a flipped byte is EIO, is logged and reported once, and the other chunks can still be read", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const path = `${directory}/v`;
    const bytes = await prepared(registry, path, 500_000);
    flipByte(`${path}/${FILE}`, 70_000);
    const { log, lines } = recordingLogger();
    await using server = await start(registry, [path], { log });
    using client = await connectTo(server);
    ok(bytesEqual(await readAll(client, server, BLOCK, 60_000), bytes.subarray(0, 60_000)));
    await rejects(readAll(client, server, BLOCK, 80_000), errno("EIO"));
    await rejects(readAll(client, server, BLOCK, 80_000), errno("EIO"));
    await until(() => registry.corrupt.length === 1, "a corrupt replica reported");
    ok(bytesEqual(await readAll(client, server, BLOCK, 60_000), bytes.subarray(0, 60_000)));
    await rejects(write(client, server.volumes[0]!.volume, 0, bytes), errno("EIO"));
    equal(registry.corrupt[0]!.block, BLOCK);
    equal(lines.filter((line) => line.includes("replica is corrupt")).length, 1);
    await registry.restart();
    await until(() => registry.corrupt.length === 2, "reported again to a new nameserver");
  }));

Deno.test("the scrubber finds a flipped byte that nobody reads", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const path = `${directory}/v`;
    await prepared(registry, path, 3_000_000);
    flipByte(`${path}/${FILE}`, 2_500_000);
    await using _server = await start(registry, [path], { scrubPeriodMs: 300 });
    await until(() => registry.corrupt.length === 1, "a corrupt replica reported");
  }));

type At = Parameters<BlockClient["call"]["syncBlock"]>[0];
for (
  const [what, change] of [
    [
      "a write",
      ({ call }, at) => call.writeBlock({ ...at, offset: 70_000, create: false, body: pattern(10, 1) }),
    ],
    [
      "a hole",
      ({ call }, at) =>
        call.changeRange({ ...at, create: false, change: "punch", offset: 80_000, length: 10 }),
    ],
    ["a truncate", ({ call }, at) => call.truncateBlock({ ...at, length: 90_000 })],
  ] satisfies readonly (readonly [string, (client: BlockClient, at: At) => Promise<unknown>])[]
) {
  Deno.test(`bytes that had rotted, and are found by ${what} in their chunk, get no new checksum, nor by a crash`, () =>
    withDirectory(async (directory) => {
      await using registry = new FakeRegistry();
      const path = `${directory}/v`;
      await prepared(registry, path, 100_000);
      flipByte(`${path}/${FILE}`, 89_000);
      {
        await using server = await start(registry, [path]);
        using client = await connectTo(server);
        const at = { block: BLOCK, generation: GENERATION, volume: server.volumes[0]!.volume, chain: [] };
        await rejects(change(client, at), errno("EIO"));
        equal(registry.corrupt.length, 1);
      }
      // As it is found after a crash: what is in state "writing" has its checksums computed anew.
      const { label } = JSON.parse(Deno.readTextFileSync(`${path}/volume.json`));
      const records = await LevelRecords.open(`${path}/meta`, label, 1);
      equal((await records.get(BLOCK))!.state, "finalized");
      await records.close();
    }));
}

for (
  const [what, length] of [["shorter", 90_000], ["longer", 110_000], [
    "cut to nothing, so shorter,",
    0,
  ]] as const
) {
  Deno.test(`a block file that is ${what} than its record is EIO and never served as zeros`, () =>
    withDirectory(async (directory) => {
      await using registry = new FakeRegistry();
      const path = `${directory}/v`;
      await prepared(registry, path, 100_000);
      Deno.truncateSync(`${path}/${FILE}`, length);
      const { log, lines } = recordingLogger();
      await using server = await start(registry, [path], { log });
      using client = await connectTo(server);
      await rejects(readAll(client, server, BLOCK, 10), errno("EIO"));
      await rejects(readAll(client, server, BLOCK, 100_000), errno("EIO"));
      equal(lines.filter((line) => line.includes("a truncated block file")).length, length < 100_000 ? 1 : 0);
    }));
}

Deno.test("a block file truncated while it is open is EIO", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const path = `${directory}/v`;
    await prepared(registry, path, 100_000);
    await using server = await start(registry, [path]);
    using client = await connectTo(server);
    await readAll(client, server, BLOCK, 100_000);
    Deno.truncateSync(`${path}/${FILE}`, 50_000);
    await rejects(readAll(client, server, BLOCK, 100_000), errno("EIO"));
  }));

Deno.test("a missing block file or a missing crc file is EIO; a file without a record goes to trash", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const path = `${directory}/v`;
    await prepared(registry, path, 100_000);
    Deno.removeSync(`${path}/${CRC_FILE}`);
    Deno.writeTextFileSync(`${path}/blocks/05/5.blk`, "stray");
    {
      await using server = await start(registry, [path]);
      using client = await connectTo(server);
      await rejects(readAll(client, server, BLOCK, 10), errno("EIO"));
      const trash = () => [...Deno.readDirSync(`${path}/trash`)].map(({ name }) => name);
      await until(() => trash().some((name) => /^5\.none\.\d+\.blk$/.test(name)), "the stray in trash");
      await write(client, server.volumes[0]!.volume, 0, pattern(10, 1), asBlockId(5));
    }
    Deno.removeSync(`${path}/${FILE}`);
    await using server = await start(registry, [path]);
    using client = await connectTo(server);
    await rejects(readAll(client, server, BLOCK, 10), errno("EIO"));
    // The nameserver has it deleted, and may place it here again.
    await registry.pushes().deleteBlocks({ volume: server.volumes[0]!.volume, blocks: [BLOCK] });
    await until(() => registry.deleted.length === 1, "deleted");
    await write(client, server.volumes[0]!.volume, 0, pattern(10, 1));
  }));

Deno.test("kill -9 in the middle of writes: everything that was acknowledged is there", () =>
  withDirectory(async (directory) => {
    const random = new SeededRandom(testSeed());
    await using registry = new FakeRegistry();
    const path = `${directory}/v`;
    const LENGTH_MAX = 600_000;
    const model = new Map<number, { bytes: Uint8Array; known: Uint8Array }>();
    for (let round = 0; round < 3; round++) {
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", import.meta.resolve("./crash_child.ts"), registry.address, path],
        stdout: "piped",
        stderr: "inherit",
      }).spawn();
      const reader = child.stdout.getReader();
      const first = await reader.read();
      const server = JSON.parse(new TextDecoder().decode(first.value));
      if (round === 0) {
        await rejects(start(registry, [path]), (error: unknown) => {
          match(String(error), /is used by another process/);
          return errno("EBUSY")(error);
        });
      }
      using client = await connectTo(server);
      let killed = false;
      const writer = async (block: number) => {
        const state = model.get(block) ??
          { bytes: new Uint8Array(LENGTH_MAX), known: new Uint8Array(LENGTH_MAX) };
        model.set(block, state);
        while (!killed) {
          const length = 1 + randomInt(random, 100_000);
          const offset = randomInt(random, LENGTH_MAX - length);
          const body = pattern(length, randomInt(random, 1e9));
          // Until it is acknowledged, this range may hold either.
          state.known.fill(0, offset, offset + length);
          try {
            await write(client, server.volumes[0].volume, offset, body, asBlockId(block));
          } catch {
            return;
          }
          state.bytes.set(body, offset);
          state.known.fill(1, offset, offset + length);
          if (randomInt(random, 20) === 0) await new Promise((resolve) => setTimeout(resolve, 600));
        }
      };
      const writers = Array.from({ length: 12 }, (_, i) => writer(i + 1));
      await new Promise((resolve) => setTimeout(resolve, 1500));
      Deno.kill(child.pid, "SIGKILL");
      killed = true;
      await Promise.all(writers);
      await reader.cancel();
      await child.status;

      await using again = await start(registry, [path]);
      using reading = await connectTo(again);
      let checked = 0;
      for (const [block, { bytes, known }] of model) {
        const read = await readAll(reading, again, block, LENGTH_MAX);
        for (let i = 0; i < LENGTH_MAX; i++) {
          if (known[i] !== 1) continue;
          checked++;
          if (read[i] !== bytes[i]) throw new Error(`round ${round} block ${block} byte ${i} is lost`);
        }
      }
      ok(checked > 100_000);
      equal(registry.corrupt.length, 0);
      // What the crash left is finalized in the background.
      await again.stop();
      const records = await LevelRecords.open(
        `${path}/meta`,
        JSON.parse(Deno.readTextFileSync(`${path}/volume.json`)).label,
        1,
      );
      equal((await records.writing()).length, 0);
      await records.close();
    }
  }, 60_000));

Deno.test("a replica that was being written when the machine stopped serves nothing until it is chosen", () =>
  withDirectory(async (directory) => {
    const path = `${directory}/v`;
    await using registry = new FakeRegistry();
    let volume: number;
    {
      await using server = await start(registry, [path]);
      using client = await connectTo(server);
      volume = server.volumes[0]!.volume;
      await write(client, volume, 0, pattern(1000, 1));
    }
    // As another life would have left it.
    const { label } = JSON.parse(Deno.readTextFileSync(`${path}/volume.json`));
    const records = await LevelRecords.open(`${path}/meta`, label, 1);
    const record = (await records.get(BLOCK))!;
    equal(record.isDoubtful, undefined);
    await records.put([{ block: BLOCK, record: { ...record, state: "writing" } }], true);
    equal((await records.get(BLOCK))!.isDoubtful, undefined, "the life that wrote it knows it");
    await records.close();

    await using server = await start(registry, [path]);
    using client = await connectTo(server);
    const push = registry.pushes();
    await until(
      () => registry.reports.some(({ replicas }) => replicas[0]?.doubtful === true),
      "it is reported",
    );
    const generation = { from: GENERATION, to: asGeneration(2) };
    const target = { volume: asVolumeId(volume), block: BLOCK };
    for (let i = 0; i < 2; i++) {
      await rejects(readAll(client, server, BLOCK, 10), errno("ESTALE"));
      await rejects(write(client, volume, 0, pattern(10, 2)), errno("ESTALE"));
      await rejects(push.setGeneration({ ...target, ...generation }), errno("ESTALE"));
      // Nor does time make it better: it is not finalized.
      await new Promise((resolve) => setTimeout(resolve, 700));
    }
    const { digest } = await push.replicaState({ ...target, generation: GENERATION, digest: true });
    ok(digest !== undefined);
    await push.setGeneration({ ...target, ...generation, chosen: true });
    ok(bytesEqual(await readAll(client, server, BLOCK, 1000, asGeneration(2)), pattern(1000, 1)));
    const state = await push.replicaState({ ...target, generation: asGeneration(2), digest: true });
    equal(state.digest, digest, "the digest is of the bytes");
  }));

Deno.test("a full volume is ENOSPC, and takes writes again when there is space", {
  ignore: geteuid() !== 0,
}, () =>
  withDirectory(async (directory) => {
    const run = async (command: string, ...args: string[]) => {
      const { success, stderr } = await new Deno.Command(command, { args }).output();
      ok(success, new TextDecoder().decode(stderr));
    };
    await run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory);
    try {
      await using registry = new FakeRegistry();
      await using server = await start(registry, [`${directory}/v`]);
      using client = await connectTo(server);
      const volume = server.volumes[0]!.volume;
      let block = 1;
      await rejects(async () => {
        for (; block < 50; block++) {
          await write(client, volume, 0, pattern(1024 * 1024, block), asBlockId(block));
        }
      }, errno("ENOSPC"));
      ok(block > 5 && block < 17, `after ${block} MiB`);
      ok(bytesEqual(await readAll(client, server, 1, 1024 * 1024), pattern(1024 * 1024, 1)));
      await registry.pushes().deleteBlocks({ volume, blocks: [1, 2, 3, 4].map(asBlockId) });
      await until(() => registry.deleted.length === 4, "deleted");
      await write(client, volume, 0, pattern(1024 * 1024, 9), asBlockId(100));
      equal(registry.heartbeats.at(-1)![0]!.failed, undefined);
    } finally {
      await run("umount", "-l", directory);
    }
  }));

Deno.test("a volume that goes away fails alone: heartbeats say so, the other volume works on", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/a`, `${directory}/b`]);
    using client = await connectTo(server);
    const [a, b] = server.volumes.map(({ volume }) => volume);
    await write(client, a!, 0, pattern(10, 1));
    Deno.renameSync(`${directory}/a`, `${directory}/gone`);
    await until(() => registry.heartbeats.at(-1)![0]!.failed !== undefined, "a failed volume in a heartbeat");
    equal(registry.heartbeats.at(-1)![1]!.failed, undefined);
    await rejects(write(client, a!, 0, pattern(10, 1)), errno("EIO"));
    await write(client, b!, 0, pattern(10, 1), asBlockId(5));
    Deno.renameSync(`${directory}/gone`, `${directory}/a`);
  }));

Deno.test(
  "a volume that is unmounted or replaced fails alone and is told; a read-only one is left out at a start",
  {
    ignore: geteuid() !== 0,
  },
  () =>
    withDirectory(async (directory) => {
      const run = async (command: string, ...args: string[]) => {
        const { success, stderr } = await new Deno.Command(command, { args }).output();
        ok(success, new TextDecoder().decode(stderr));
      };
      const mountpoint = `${directory}/mnt`;
      const paths = [`${directory}/a`, `${mountpoint}/b`, `${directory}/c`];
      Deno.mkdirSync(mountpoint);
      await run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mountpoint);
      try {
        await using registry = new FakeRegistry();
        const failed = (i: number) => registry.heartbeats.findLast(({ length }) => length === 3)?.[i]?.failed;
        {
          await using _server = await start(registry, paths);
        }
        // A child of another test has our files open until its exec.
        for (let tries = 1;; tries++) {
          try {
            await run("mount", "-o", "remount,ro", mountpoint);
            break;
          } catch (error) {
            if (tries === 100) throw error;
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
        }
        throws(() => systemDisk.space(mountpoint), errno("EROFS"));
        {
          const { log, lines } = recordingLogger();
          await using server = await start(registry, paths, { log });
          equal(server.volumes.length, 2);
          ok(lines.some((line) => line.includes("volume is left out") && line.includes("mnt/b")));
        }
        await run("mount", "-o", "remount,rw", mountpoint);
        await using server = await start(registry, paths);
        using client = await connectTo(server);
        const [a, , c] = server.volumes.map(({ volume }) => volume);
        await run("umount", "-l", mountpoint);
        await until(() => failed(1) !== undefined, "unmounted is told");
        match(failed(1)!, /mnt\/b/);
        {
          await using other = new FakeRegistry();
          await using _other = await start(other, [`${directory}/other`]);
        }
        Deno.renameSync(`${directory}/a`, `${directory}/old`);
        Deno.renameSync(`${directory}/other`, `${directory}/a`);
        await until(() => failed(0) !== undefined, "another directory is told");
        match(failed(0)!, /another volume|volume.json/);
        await rejects(write(client, a!, 0, pattern(10, 1), asBlockId(5)), errno("EIO"));
        await write(client, c!, 0, pattern(10, 1), asBlockId(5));
        equal(failed(2), undefined);
      } finally {
        await new Deno.Command("umount", { args: ["-l", mountpoint], stderr: "null" }).output();
      }
    }),
);
