/**
 * Which errors an application may see: those of a mount that died, or was out of touch for longer than its session lasts, and
 * that a block's last disk has failed or is full.
 */

import type { Injected } from "./faults.ts";
import type { WorkerError } from "./workers.ts";

/** A mount that was killed: the kernel ends what was under way, and answers for itself until it is mounted again. */
const DEAD = ["ENOTCONN", "ECONNABORTED", "ENODEV", "EIO", "EINTR"];
/** One whose session ended while it was out of touch: what it had accepted is lost, and its handles are. */
const CUT_OFF = ["EIO", "ESTALE"];
/** What was accepted before is told of when the file is closed, which may be a while. */
const TOLD_LATER_MS = 30_000;

/** Before all blocks that lost a replica have another one. */
const REPAIRED_MS = 10_000;

function hitsDataserver({ kind, roles }: Injected): boolean {
  return kind === "partition" || roles.some((role) => role.startsWith("dataserver"));
}

function overlaps(other: Injected, fault: Injected): boolean {
  return other.fromMs < fault.toMs && fault.fromMs < other.toMs + REPAIRED_MS;
}

export function isAllowed(error: WorkerError, injected: readonly Injected[]): boolean {
  // Whether a name must be there is the worker's to say.
  if (error.errno === "ENOENT") return true;
  return injected.some((fault) => {
    const { kind, roles, fromMs, toMs } = fault;
    const hitsMount = roles.includes(`mount${error.mount}`);
    if (error.toMs < fromMs) return false;
    // A handle of a mount that died is of no use, however much later it is tried.
    if (kind.startsWith("kill") && hitsMount && error.errno === "ENOTCONN") return true;
    if (error.fromMs > toMs + TOLD_LATER_MS) return false;
    if (kind === "kill" || kind === "kills") return hitsMount && DEAD.includes(error.errno);
    // The one disk that has all of a block, as the others were away when it was written, goes as well, or is full: where its
    // database found no room, it takes no more writes before a restart.
    if (kind === "gone" || kind === "full") {
      return (kind === "gone" ? ["EIO"] : ["ENOSPC", "EIO"]).includes(error.errno) &&
        injected.some((other) => other !== fault && hitsDataserver(other) && overlaps(other, fault));
    }
    if (kind === "partition") {
      return hitsMount && roles.includes("nameserver") && CUT_OFF.includes(error.errno);
    }
    return hitsMount && CUT_OFF.includes(error.errno);
  });
}
