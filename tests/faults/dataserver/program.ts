/**
 * A volume under random work, to be recorded: arguments DIRECTORY LOG SEED TABLES ("true": LevelDB gets enough for tables). Each operation is noted in the log before
 * it begins and after it was acknowledged, so that whoever cuts the power in between knows what was promised.
 */

import { systemClock } from "../../../base/clock.ts";
import { silentLogger } from "../../../base/log.ts";
import { randomInt, SeededRandom } from "../../../base/random.ts";
import { systemDisk } from "../../../roles/dataserver/disk.ts";
import { openVolume } from "../../../roles/dataserver/open_volume.ts";
import { writeIdentity } from "../../../roles/dataserver/volume_directory.ts";
import { asBlockId, asGeneration, asNodeId, asVolumeId } from "../../../wire/ids.ts";
import { chance } from "../../base/seeded.ts";
import { mark } from "../power/recording.ts";
import { bytesOfWrite, FILLER_FROM, LENGTH_MAX, VOLUME_OPTIONS, type Work } from "./work.ts";

const [directory, log, seed, withTables] = Deno.args;
const random = new SeededRandom(Number(seed));
const WORKERS = 3;
const BLOCKS_EACH = 2;
const OPERATIONS_EACH = 70;

const { volume, keeper } = await openVolume(directory!, {
  ...VOLUME_OPTIONS,
  disk: systemDisk,
  clock: systemClock,
  log: silentLogger,
});
const assigned = { clusterId: "c", volume: asVolumeId(1), node: asNodeId(1) };
await writeIdentity(systemDisk, directory!, { ...volume.identity, ...assigned });
const abort = new AbortController();
const keeping = keeper.run(abort.signal);

async function noted(work: Work, run: () => Promise<unknown>): Promise<void> {
  mark(log!, `start ${JSON.stringify(work)}`);
  await run();
  mark(log!, `done ${JSON.stringify(work)}`);
}

async function step(block: ReturnType<typeof asBlockId>, generations: Map<number, number>): Promise<void> {
  const generation = asGeneration(generations.get(block) ?? 0);
  const choice = random.next();
  if (generation === 0 || choice < 0.45) {
    const isNew = generation === 0;
    const at = isNew ? asGeneration(1 + randomInt(random, 1000)) : generation;
    generations.set(block, at);
    const length = 1 + randomInt(random, chance(random, 0.5) ? 5_000 : 90_000);
    const offset = randomInt(random, LENGTH_MAX - length);
    const write = { offset, length, seed: randomInt(random, 1e9) };
    await noted(
      { kind: "write", block, generation: at, ...write },
      () => volume.write(block, at, offset, bytesOfWrite(write), isNew),
    );
  } else if (choice < 0.75) {
    await noted({ kind: "sync", block, generation }, () => volume.sync(block, generation));
  } else if (choice < 0.83) {
    const length = randomInt(random, LENGTH_MAX);
    await noted(
      { kind: "truncate", block, generation, length },
      () => volume.truncate(block, generation, length),
    );
  } else if (choice < 0.91) {
    const to = asGeneration(generation + 1);
    await noted(
      { kind: "generation", block, generation: to },
      () => volume.setGeneration(block, generation, to),
    );
    generations.set(block, to);
  } else if (choice < 0.97) {
    const isDeleted = chance(random, 0.5);
    await noted(
      { kind: "remove", block, generation },
      () => isDeleted ? volume.delete(block) : volume.keepAside(block),
    );
    generations.delete(block);
  } else {
    // Long enough to be finalized.
    await new Promise((resolve) => setTimeout(resolve, 150));
    await keeper.sweep();
  }
}

async function worker(index: number): Promise<void> {
  const blocks = Array.from({ length: BLOCKS_EACH }, (_, i) => asBlockId(1 + index * BLOCKS_EACH + i));
  const generations = new Map<number, number>();
  for (let i = 0; i < OPERATIONS_EACH; i++) {
    await step(blocks[randomInt(random, blocks.length)]!, generations);
  }
}

/** Fills LevelDB's logs, so that they change under the others. */
async function filler(): Promise<void> {
  for (let i = 0; i < 90; i++) {
    const entries = Array.from({ length: 200 }, (_, j) => ({
      block: asBlockId(FILLER_FROM + j),
      record: { generation: asGeneration(i + 1), state: "finalized" as const, length: 0 },
    }));
    const isDurable = i % 5 === 0;
    const work: Work = { kind: "filler", generation: i + 1 };
    if (isDurable) await noted(work, () => volume.records.put(entries, true));
    else await volume.records.put(entries, false);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

await Promise.all([
  ...withTables === "true" ? [filler()] : [],
  ...Array.from({ length: WORKERS }, (_, i) => worker(i)),
]);
abort.abort();
await keeping;
await keeper.finalizeAll();
await volume.close();
