/** `mfs restore`: shows how far it is, and what came of it. */

import { Progress } from "./progress.ts";

interface Restored {
  readonly clusterId: string;
  readonly timeMs: number;
  readonly inodes: number;
  readonly blocks: number;
}

type OnRecords = (records: number, total: number | undefined) => void;

/** Runs `make`; what to print. */
export async function restore(
  make: (onRecords: OnRecords) => Promise<Restored>,
  dir: string,
  json = false,
): Promise<string> {
  const progress = new Progress({ label: "restore", unit: "records" });
  try {
    const { timeMs, ...restored } = await make((records, total) => progress.update(records, total));
    const time = new Date(timeMs).toISOString();
    if (json) return JSON.stringify({ dir, time, ...restored });
    const { clusterId, inodes, blocks } = restored;
    return `restored ${dir}: cluster ${clusterId} as of ${time}, ${inodes} inodes, ${blocks} blocks`;
  } finally {
    progress.end();
  }
}
