/** A writer's report, by itself (commit) or among deferred changes. */

import type { Timespec } from "../../base/clock.ts";
import type { BlockId, InodeId } from "../ids.ts";

/** Bytes in the body of a report: where in the file they belong. The body has them one behind the other. */
export interface InlineRange {
  readonly offset: number;
  readonly length: number;
}

/** What was written and acknowledged by every replica of the chain, or is kept by the nameserver itself. */
export interface WriteReport {
  readonly ino: InodeId;
  /** End of what was written: the size is raised to it when it is lower, and never lowered by a report. */
  readonly size: number;
  readonly mtime: Timespec;
  /** Blocks that were given data since this writer's last report, and what each takes on a disk, if that is known. */
  readonly written: readonly {
    readonly block: BlockId;
    readonly start: number;
    readonly allocated?: number;
  }[];
  /** Blocks without data for which room was reserved. */
  readonly reserved?: readonly {
    readonly block: BlockId;
    readonly start: number;
    readonly allocated: number;
  }[];
  /** What was written of a file whose data is kept beside its inode: `body` has the bytes. None of its blocks holds data. */
  readonly inline?: readonly InlineRange[];
  readonly body?: Uint8Array;
  /** What was kept beside the inode is in the file's blocks from now on, all of it. */
  readonly outgrown?: true;
  readonly killSuidGid: boolean;
}
