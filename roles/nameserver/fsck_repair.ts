/** Repairs what a check has found, as far as nothing can be lost by it. Each problem is looked at again first. */

import type { FsckProblem, FsckRepaired } from "../../wire/messages/fsck.ts";
import { extentNow, type FsckParts } from "./fsck_context.ts";

export class FsckRepairs {
  readonly #parts: FsckParts;

  constructor(parts: FsckParts) {
    this.#parts = parts;
  }

  async repair(problem: FsckProblem): Promise<FsckRepaired> {
    switch (problem.kind) {
      case "under-replicated":
      case "over-replicated":
      case "corrupt":
      case "lost":
      case "stale":
        return this.#replicas(problem);
      default:
        return { outcome: "refused", message: "nothing can be done about it by itself" };
    }
  }

  /** Repair makes replicas and takes them off. */
  #replicas({ kind, ino, start, block, volume }: FsckProblem): FsckRepaired {
    const { namespace, repair } = this.#parts;
    if (ino === undefined || start === undefined || block === undefined) return GONE;
    const extent = extentNow(namespace.begin(), ino, start, block);
    if (extent === undefined) return GONE;
    if (volume !== undefined && !extent.volumes.includes(volume)) return GONE;
    if (volume !== undefined) repair.replicaBad(volume, block, kind !== "stale");
    else repair.look(ino, start, block);
    return { outcome: "waiting", message: "replicas are made and taken off as wanted" };
  }
}

const GONE: FsckRepaired = { outcome: "gone", message: "it is not so any more" };
