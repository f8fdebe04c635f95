/**
 * The block report of one volume: every replica with its generation, in pages that cover all block ids (or those of a
 * range) without a gap, and what the nameserver's answer asks for.
 * Invariant: a page is read and sent at once, so that it is as old as its way to the nameserver.
 */

import type { BlockId, VolumeId } from "../../wire/ids.ts";
import type { BlockReportReply, BlockReportRequest } from "../../wire/messages/dataserver.ts";
import type { DoomedReplica } from "./deletions.ts";
import type { Volume } from "./volume.ts";

export const REPORT_PAGE = 5_000;

export interface ReportActions {
  send(page: BlockReportRequest): Promise<BlockReportReply>;
  /** The nameserver has no use for these replicas, as they were reported. */
  onStale(replicas: readonly DoomedReplica[]): void;
  /** The nameserver does not know these blocks. */
  onUnknown(replicas: readonly DoomedReplica[]): Promise<void>;
  /** The nameserver can't tell yet what is to become of these. */
  onUnsettled(blocks: readonly BlockId[]): void;
}

/** Block ids from `from` to below `to`. */
export interface BlockRange {
  readonly from: number;
  readonly to: number;
}

const ALL: BlockRange = { from: 0, to: Number.MAX_SAFE_INTEGER };

/** Reports `volume`; rejects when a page could not be sent. Gives the number of replicas. */
export async function reportBlocks(
  volume: Volume,
  id: VolumeId,
  actions: ReportActions,
  signal: AbortSignal,
  range = ALL,
): Promise<number> {
  let count = 0;
  for (let { from } = range; from < range.to && !signal.aborted;) {
    const limit = Math.min(REPORT_PAGE, range.to - from);
    const page = (await volume.records.page(from, limit)).filter(({ block }) => block < range.to);
    const to = page.length < limit ? range.to : page[page.length - 1]!.block + 1;
    const replicas = page.map(({ block, record: { generation, isDoubtful } }) => ({
      ...{ block, generation },
      ...(isDoubtful === true ? { doubtful: true } : {}),
    }));
    const reply = await actions.send({ volume: id, from, to, replicas });
    count += replicas.length;
    // By the time that the answer is here, a copy may have become a replica of the block.
    const reported = new Map(replicas.map(({ block, generation }) => [block, generation]));
    const doomed = (blocks: readonly BlockId[]) =>
      blocks.map((block) => ({ block, upTo: reported.get(block)! }));
    if (reply.stale.length > 0) actions.onStale(doomed(reply.stale));
    if (reply.unknown.length > 0) await actions.onUnknown(doomed(reply.unknown));
    if (reply.again !== undefined) actions.onUnsettled(reply.again);
    from = to;
  }
  return count;
}
