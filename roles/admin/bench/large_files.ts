/** The workloads on one large file. How it is read and written: large_file.ts. */

import {
  BLOCK_BYTES,
  bufferOf,
  createLarge,
  cutLarge,
  dropFileCache,
  fileOf,
  MIB,
  O_RDONLY,
  O_RDWR,
  openLarge,
  readBlocks,
  readInOrder,
  shuffledBlocks,
  writeBlocks,
  writeInOrder,
} from "./large_file.ts";
import { type ReaderJob, type ReaderResult, STARTED } from "./random_reader.ts";
import { fsync } from "../../../base/libc.ts";
import { type BenchContext, check, must, scaled, type Timed, type Workload } from "./workload.ts";

/** MB/s, as disks are sold. */
const MB = 1_000_000;
const RANDOM_READ_MS = 5_000;
const WARM_READ_MS = 4_000;
const SYNC_WRITE_MS = 4_000;
/** A short run is one of a test: what it measures counts for nothing. */
const RUN_MS_MIN = 200;
const WARM_BYTES = 64 * MIB;
const RANDOM_WRITES = WARM_BYTES / BLOCK_BYTES;
const READERS = 8;

function runMs(context: BenchContext, ms: number): number {
  return Math.min(context.limitMs, Math.max(RUN_MS_MIN, ms * Math.min(1, context.scale)));
}

/**
 * Measures `work`, which reads or writes by `chunkBytes`, is given when it has to end, and answers how much it has done
 * of `all` (undefined: as much as there is time for).
 */
function timed(
  chunkBytes: number,
  ms: number,
  all: number | undefined,
  work: (endMs: number) => number,
): Timed {
  bufferOf(chunkBytes);
  const startMs = performance.now();
  const done = work(startMs + ms);
  return { done, seconds: (performance.now() - startMs) / 1000, cut: all !== undefined && done < all };
}

const inMegabytes = ({ done, seconds, cut }: Timed): Timed => ({ done: done / MB, seconds, cut });

function readSequentially(context: BenchContext, chunkBytes: number): Timed {
  using file = openLarge(context, O_RDONLY);
  return inMegabytes(
    timed(chunkBytes, context.limitMs, file.bytes, (endMs) => readInOrder(file, chunkBytes, endMs)),
  );
}

async function readCold(context: BenchContext, chunkBytes: number): Promise<Timed> {
  using file = openLarge(context, O_RDONLY);
  await context.dropCaches();
  dropFileCache(file);
  return readSequentially(context, chunkBytes);
}

/** Several threads, each with a descriptor and an order of its own. */
async function readInParallel(context: BenchContext, bytes: number): Promise<Timed> {
  const gate = new SharedArrayBuffer(4);
  const state = new Int32Array(gate);
  const workers: Worker[] = [];
  try {
    const results = Array.from({ length: READERS }, (_, i) => {
      const worker = new Worker(new URL("./random_reader.ts", import.meta.url), { type: "module" });
      workers.push(worker);
      const result = new Promise<ReaderResult>((resolve) => {
        worker.onmessage = ({ data }: MessageEvent<ReaderResult>) => resolve(data);
        worker.onerror = (event) => {
          event.preventDefault();
          resolve({ error: event.message });
        };
      });
      const job: ReaderJob = {
        path: fileOf(context),
        blocks: bytes / BLOCK_BYTES,
        seed: 100 + i,
        runMs: runMs(context, RANDOM_READ_MS),
        gate,
      };
      worker.postMessage(job);
      return result;
    });
    const all = Promise.all(results);
    const anyFailed = Promise.race(results);
    while (Atomics.load(state, 0) < READERS) {
      const early = await Promise.race([
        anyFailed,
        new Promise<null>((resolve) => setTimeout(resolve, 20, null)),
      ]);
      if (early !== null && "error" in early) throw new Error(early.error);
    }
    await context.dropCaches();
    Atomics.store(state, 0, STARTED);
    Atomics.notify(state, 0);
    let done = 0;
    let seconds = 0;
    for (const result of await all) {
      if ("error" in result) throw new Error(result.error);
      done += result.done;
      seconds = Math.max(seconds, result.seconds);
    }
    return { done, seconds, cut: false };
  } finally {
    for (const worker of workers) worker.terminate();
  }
}

export const LARGE_FILES: readonly Workload[] = [
  {
    name: "seq_write_1m_fsync",
    unit: "MB/s",
    about: "a new file by 1 MiB at a time, with one fsync at the end",
    async run(context) {
      using file = createLarge(context);
      const result = timed(MIB, context.limitMs, file.bytes, (endMs) => {
        const bytes = writeInOrder(file, endMs);
        must(fsync(file.fd), "fsync", "large");
        return bytes;
      });
      cutLarge(file, result.done);
      return inMegabytes(result);
    },
  },
  {
    name: "seq_read_1m_cold",
    unit: "MB/s",
    about: "in order by 1 MiB at a time",
    isCold: true,
    run: (context) => readCold(context, MIB),
  },
  {
    name: "seq_read_1m_warm",
    unit: "MB/s",
    about: "the same again, from whatever cache has it",
    async run(context) {
      readSequentially(context, MIB);
      return readSequentially(context, MIB);
    },
  },
  {
    name: "seq_read_128k_cold",
    unit: "MB/s",
    about: "in order by 128 KiB at a time",
    isCold: true,
    run: (context) => readCold(context, 128 * 1024),
  },
  {
    name: "rand_read_4k_qd1_cold",
    unit: "IOPS",
    about: "4 KiB at random places, one after the other",
    isCold: true,
    async run(context) {
      using file = openLarge(context, O_RDONLY);
      await context.dropCaches();
      dropFileCache(file);
      const blocks = shuffledBlocks(file.bytes / BLOCK_BYTES, 1);
      return timed(
        BLOCK_BYTES,
        runMs(context, RANDOM_READ_MS),
        undefined,
        (endMs) => readBlocks(file.fd, blocks, endMs),
      );
    },
  },
  {
    name: "rand_read_4k_qd1_warm",
    unit: "IOPS",
    about: "the same within 64 MiB that were just read",
    async run(context) {
      using file = openLarge(context, O_RDONLY);
      const bytes = Math.min(WARM_BYTES, file.bytes);
      readInOrder({ ...file, bytes }, MIB, performance.now() + context.limitMs);
      const blocks = shuffledBlocks(bytes / BLOCK_BYTES, 2);
      return timed(
        BLOCK_BYTES,
        runMs(context, WARM_READ_MS),
        undefined,
        (endMs) => readBlocks(file.fd, blocks, endMs),
      );
    },
  },
  {
    name: "rand_read_4k_8jobs_cold",
    unit: "IOPS",
    about: "4 KiB at random places, by 8 threads",
    isCold: true,
    async run(context) {
      using file = openLarge(context, O_RDONLY);
      return await readInParallel(context, file.bytes);
    },
  },
  {
    name: "rand_write_4k_end_fsync",
    unit: "IOPS",
    about: "64 MiB of 4 KiB at random places, with one fsync at the end",
    async run(context) {
      using file = openLarge(context, O_RDWR);
      const blocks = shuffledBlocks(file.bytes / BLOCK_BYTES, 3);
      const count = Math.min(blocks.length, scaled(context, RANDOM_WRITES, 64));
      const result = timed(BLOCK_BYTES, context.limitMs, count, (endMs) => {
        const done = writeBlocks(file.fd, blocks, { count, endMs });
        must(fsync(file.fd), "fsync", "large");
        return done;
      });
      checkAll(context, file);
      return result;
    },
  },
  {
    name: "rand_write_4k_fsync_each",
    unit: "IOPS",
    about: "4 KiB at random places, each with an fsync",
    async run(context) {
      using file = openLarge(context, O_RDWR);
      const blocks = shuffledBlocks(file.bytes / BLOCK_BYTES, 4);
      return timed(
        BLOCK_BYTES,
        runMs(context, SYNC_WRITE_MS),
        undefined,
        (endMs) => writeBlocks(file.fd, blocks, { endMs, fsyncEach: true }),
      );
    },
  },
];

/** What was written at random places is where it belongs, and the rest as it was. */
function checkAll(context: BenchContext, file: { readonly fd: number; readonly bytes: number }): void {
  const end = readInOrder({ ...file, [Symbol.dispose]: () => {} }, MIB, performance.now() + context.limitMs);
  check(end > 0, "the large file is empty");
}
