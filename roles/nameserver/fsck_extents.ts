/** Checks the data of one file: its block map in itself (extents.ts says what must hold), and against the index of replicas. */

import type { FsckHint } from "../../wire/messages/fsck.ts";
import { allocatedOf } from "../../wire/messages/inode.ts";
import { PAGE_EXTENTS } from "./extents.ts";
import type { BlockChecks } from "./fsck_blocks.ts";
import type { FsckContext } from "./fsck_context.ts";
import { checkInline } from "./fsck_inline.ts";
import { extentsKey, replicaKey } from "./keys.ts";
import { decodeReplica, type Extent, type InodeRecord } from "./records.ts";

/** A step is over after so many pages. */
const PAGES_PER_STEP = 4;

/** `path`: absent of a file without a name. */
export async function* checkBlockMap(
  run: FsckContext,
  blockChecks: BlockChecks,
  inode: InodeRecord,
  path: (() => Uint8Array) | undefined,
): AsyncGenerator<void> {
  const { ino, version } = inode;
  checkInline(run, inode, path);
  const named = () => path === undefined ? {} : { path: path() };
  const wrong = (detail: string, hint: FsckHint = {}) =>
    run.report({ kind: "extents", detail, ino, ...named(), hint });
  let end = 0;
  let allocatedBytes = 0;
  let isWhole = true;
  for (const [i, { first, page }] of inode.pages.entries()) {
    const extents = run.reader.page(ino, page);
    if (extents === undefined || extents === "damaged" || extents.length === 0) {
      isWhole = false;
      const what = extents === undefined
        ? "is not there"
        : extents === "damaged"
        ? "can't be read"
        : "is empty";
      wrong(`page ${page} of its block map, for what follows byte ${first}, ${what}`);
      continue;
    }
    if (extents.length > PAGE_EXTENTS) wrong(`page ${page} of its block map has ${extents.length} blocks`);
    if (extents[0]!.start !== first) {
      wrong(`page ${page} of its block map begins at byte ${extents[0]!.start}, not ${first}`, {
        key: extentsKey(ino, page),
      });
    }
    if (page >= inode.nextPage) wrong(`page ${page} of its block map was never given out`);
    // Of one page: nothing changes while it is looked at.
    const now = run.parts.namespace.begin();
    for (const extent of extents) {
      const { block, start, length } = extent;
      if (!(length > 0) || !Number.isSafeInteger(start + length)) {
        wrong(`block ${block} has ${length} bytes at ${start}`);
      }
      if (start < end) wrong(`block ${block} at byte ${start} lies on the one before, which ends at ${end}`);
      end = Math.max(end, start + length);
      allocatedBytes += allocatedOf(extent, inode.size);
      checkIndex(run, inode, extent, named);
      blockChecks.look(now, inode, extent, path);
    }
    run.blocks += extents.length;
    if (i % PAGES_PER_STEP === PAGES_PER_STEP - 1) yield;
    if (blockChecks.isFull) yield* blockChecks.ask();
  }
  if (isWhole && inode.allocatedBytes !== allocatedBytes) {
    wrong(`it says that ${inode.allocatedBytes} bytes have blocks, and it is ${allocatedBytes}`, {
      version,
      numbers: [allocatedBytes],
    });
  }
}

function checkIndex(
  run: FsckContext,
  { ino }: InodeRecord,
  { block, start, volumes }: Extent,
  named: () => { readonly path?: Uint8Array },
): void {
  if (new Set(volumes).size !== volumes.length) {
    run.report({
      kind: "extents",
      detail: `block ${block} lists a volume twice`,
      ino,
      block,
      start,
      ...named(),
    });
  }
  for (const volume of volumes) {
    const key = replicaKey(volume, block);
    const record = run.reader.read(key, decodeReplica);
    if (record !== "damaged" && record?.ino === ino && record.start === start) continue;
    const detail = `the index does not have its block ${block} on volume ${volume}`;
    run.report({ kind: "index", detail, ino, block, start, volume, ...named(), hint: { key } });
  }
}
