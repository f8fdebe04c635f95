/**
 * The process that runs workloads, one after the other, told by lines of JSON on stdin and answering by lines on stdout
 * (`mfs bench-worker`). It is apart from the one that asks, because it may hang in a system call on what it measures;
 * who asks kills it then, and starts another one in the same directory.
 */

import { close, O_RDONLY, open, syncfsAsync } from "../../../base/libc.ts";
import { lines } from "../self.ts";
import { messageOf, printLine } from "../process.ts";
import { WORKLOADS } from "./catalogue.ts";
import { type BenchContext, must, valueOf } from "./workload.ts";

export interface WorkerSettings {
  readonly dir: string;
  readonly scratch: string;
  readonly scale: number;
  readonly limitMs: number;
}

export interface WorkerRequest {
  readonly workload: string;
}

export type WorkerAnswer =
  | { readonly value: number; readonly seconds: number; readonly cut: boolean }
  | { readonly error: string };

/** Serves until stdin ends. */
export async function runWorker(settings: WorkerSettings): Promise<void> {
  const context: BenchContext = { ...settings, dropCaches: () => dropCaches(settings) };
  for await (const line of lines(Deno.stdin.readable)) {
    const { workload } = JSON.parse(line) as WorkerRequest;
    printLine(JSON.stringify(await answer(context, workload)));
  }
}

async function answer(context: BenchContext, name: string): Promise<WorkerAnswer> {
  const workload = WORKLOADS.find((candidate) => candidate.name === name);
  try {
    if (workload === undefined) throw new Error(`there is no workload ${name}`);
    // What is still to be written of earlier work would slow this down.
    await syncAll(context);
    const timed = await workload.run(context);
    return { value: valueOf(workload.unit, timed), seconds: timed.seconds, cut: timed.cut };
  } catch (error) {
    return { error: messageOf(error) };
  }
}

async function syncAll({ dir, scratch }: Pick<WorkerSettings, "dir" | "scratch">): Promise<void> {
  for (const path of [dir, scratch]) {
    const fd = must(open(path, O_RDONLY), "open", path);
    try {
      must(await syncfsAsync(fd), "syncfs", path);
    } finally {
      close(fd);
    }
  }
}

/** proc_sys_vm(5): 3 is pages, names and inodes; dirty ones stay, so they are written first. */
async function dropCaches(settings: WorkerSettings): Promise<void> {
  await syncAll(settings);
  try {
    Deno.writeTextFileSync("/proc/sys/vm/drop_caches", "3");
  } catch (error) {
    throw new Error(
      `the caches can't be emptied: ${messageOf(error)}: run it as root, or without the cold workloads`,
    );
  }
}
