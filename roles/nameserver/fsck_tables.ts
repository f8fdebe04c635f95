/**
 * Checks each table of the namespace as a whole: links are counted, and each record is held against those that it speaks
 * of. What hangs together within one directory or one file is fsck_tree.ts's.
 * Bounded: links are counted of WINDOW inodes at a time, each time with a walk over all names.
 */

import { textOf } from "../../base/bytes.ts";
import { asBlockId, asInodeId, asSessionId, asVolumeId, type InodeId, ROOT_INODE } from "../../wire/ids.ts";
import { DT_DIR } from "../../wire/messages/inode.ts";
import { TOLD_LATELY } from "../leaseserver/leases.ts";
import { checkInlineTable } from "./fsck_inline.ts";
import { decoded, inoAt } from "./fsck_reader.ts";
import type { FsckContext } from "./fsck_context.ts";
import {
  getU64,
  inodeKey,
  orphanKey,
  replicaKey,
  TABLE_DELETION,
  TABLE_ENTRY,
  TABLE_EXTENTS,
  TABLE_INODE,
  TABLE_ORDER,
  TABLE_ORPHAN,
  TABLE_REPLICA,
  TABLE_XATTRS,
  tableRange,
} from "./keys.ts";
import {
  decodeEntry,
  decodeExtents,
  decodeInode,
  decodeNumbers,
  decodeOrder,
  decodeReplica,
  type InodeRecord,
  isDirectory,
} from "./records.ts";
import { TOTAL_NAMES, Totals } from "./totals.ts";

const WINDOW = 1_000_000;
const PARENTS_MAX = 100_000;
const DEPTH_MAX = 100_000;

export async function* checkTables(run: FsckContext): AsyncGenerator<void> {
  const orphans = new Set<InodeId>();
  yield* checkOrphans(run, orphans);
  const inodes = yield* checkLinks(run, orphans);
  yield* checkParents(run, TABLE_ENTRY, "entry", (value) => decodeEntry(value));
  yield* checkParents(run, TABLE_ORDER, "order", (value) => decodeOrder(value));
  yield* checkXattrs(run);
  const { blocks, replicas } = yield* checkPages(run);
  yield* checkIndex(run);
  yield* checkDeletions(run);
  const inline = yield* checkInlineTable(run);
  checkTotals(run, [inodes, blocks, replicas, inline.files, inline.bytes]);
}

async function* checkOrphans(run: FsckContext, orphans: Set<InodeId>): AsyncGenerator<void> {
  const { reader, parts: { namespace, leaseserver } } = run;
  for await (const page of reader.pages(tableRange(TABLE_ORPHAN))) {
    for (const [key] of page) {
      const session = asSessionId(getU64(key, 1));
      const ino = inoAt(key, 9);
      orphans.add(ino);
      const inode = reader.inode(ino);
      const isOver = session !== TOLD_LATELY && !leaseserver.sessions.isAlive(session) &&
        !namespace.isEnding(session) && namespace.journal.get(orphanKey(session, ino)) !== undefined;
      const hint = { key };
      const base = { kind: "orphan", ino, hint } as const;
      if (inode === undefined) {
        run.report({ ...base, detail: `an unlinked inode ${ino} is noted, and is not there` });
      } else if (inode !== "damaged" && inode.nlink > 0) {
        run.reportWhenNamed({
          ...base,
          detail: `inode ${ino} is noted as unlinked, and has ${inode.nlink} links`,
        });
      } else if (isOver) {
        run.report({
          ...base,
          detail: `the unlinked inode ${ino} is kept for client ${session}, which is gone`,
        });
      }
    }
    yield;
  }
}

/** Gives the number of inodes. */
async function* checkLinks(run: FsckContext, orphans: ReadonlySet<InodeId>): AsyncGenerator<void, number> {
  const { reader } = run;
  const parents = new Parents(run);
  let total = 0;
  const [from, to] = tableRange(TABLE_INODE);
  for (let next = from;;) {
    const window = new LinkWindow();
    for await (const page of reader.pages([next, to])) {
      for (const [key, value] of page) {
        const ino = inoAt(key, 1);
        window.add(ino);
        const inode = decoded(value, (bytes) => decodeInode(ino, bytes));
        if (inode === "damaged") run.report(damaged(key, `inode ${ino}`));
        else if (isDirectory(inode)) parents.check(inode);
      }
      total += page.length;
      run.inodes += page.length;
      yield;
      if (window.length >= WINDOW) break;
    }
    if (window.length === 0) return total;
    for await (const page of reader.pages(tableRange(TABLE_ENTRY))) {
      for (const [key, value] of page) {
        const entry = decoded(value, decodeEntry);
        if (entry !== "damaged") window.count(inoAt(key, 1), entry.ino, entry.type === DT_DIR);
      }
      yield;
    }
    for (let i = 0; i < window.length; i++) {
      const inode = reader.inode(window.ino(i));
      if (inode !== undefined && inode !== "damaged") checkInodeLinks(run, inode, window.counts(i), orphans);
      if (i % 1000 === 999) yield;
    }
    next = inodeKey(asInodeId(window.last + 1));
  }
}

interface LinkCounts {
  readonly names: number;
  readonly entries: number;
  readonly subdirectories: number;
}

function checkInodeLinks(
  run: FsckContext,
  inode: InodeRecord,
  { names, entries, subdirectories }: LinkCounts,
  orphans: ReadonlySet<InodeId>,
): void {
  const { ino, nlink, version } = inode;
  const isRoot = ino === ROOT_INODE;
  const links = isDirectory(inode) ? 2 + subdirectories : names;
  const hint = { version, numbers: [links, entries] };
  const wrong = (detail: string) => run.reportWhenNamed({ kind: "links", detail, ino, hint });
  if (names === 0 && !isRoot && !(nlink === 0 && orphans.has(ino))) {
    const what = isDirectory(inode) ? "a directory" : "a file";
    run.report({ kind: "nameless", detail: `${what} (inode ${ino}) that no name leads to`, ino, hint });
    return;
  }
  if (nlink !== links && (names > 0 || isRoot)) wrong(`it says that it has ${nlink} links, and has ${links}`);
  if (!isDirectory(inode)) return;
  if (inode.entries !== entries) {
    wrong(`the directory says that it has ${inode.entries} entries, and has ${entries}`);
  }
  if (isRoot ? names > 0 : names > 1) wrong(`the directory has ${names} names`);
}

/** Counts of inodes in ascending order of their ids. */
class LinkWindow {
  #inos = new Float64Array(1024);
  #names = new Uint32Array(0);
  #entries = new Uint32Array(0);
  #subdirectories = new Uint32Array(0);
  length = 0;

  add(ino: InodeId): void {
    if (this.length === this.#inos.length) {
      const grown = new Float64Array(this.#inos.length * 2);
      grown.set(this.#inos);
      this.#inos = grown;
    }
    this.#inos[this.length++] = ino;
  }

  ino(i: number): InodeId {
    return this.#inos[i] as InodeId;
  }

  get last(): InodeId {
    return this.ino(this.length - 1);
  }

  count(parent: InodeId, ino: InodeId, isSubdirectory: boolean): void {
    if (this.#names.length === 0) {
      this.#names = new Uint32Array(this.length);
      this.#entries = new Uint32Array(this.length);
      this.#subdirectories = new Uint32Array(this.length);
    }
    const child = this.#find(ino);
    if (child >= 0) this.#names[child]!++;
    const directory = this.#find(parent);
    if (directory < 0) return;
    this.#entries[directory]!++;
    if (isSubdirectory) this.#subdirectories[directory]!++;
  }

  counts(i: number): LinkCounts {
    return {
      names: this.#names[i] ?? 0,
      entries: this.#entries[i] ?? 0,
      subdirectories: this.#subdirectories[i] ?? 0,
    };
  }

  #find(ino: InodeId): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#inos[middle]! < ino) low = middle + 1;
      else high = middle;
    }
    return low < this.length && this.#inos[low] === ino ? low : -1;
  }
}

/** Directories whose parents lead to the root. */
class Parents {
  readonly #run: FsckContext;
  readonly #good = new Set<InodeId>([ROOT_INODE]);

  constructor(run: FsckContext) {
    this.#run = run;
  }

  check(directory: InodeRecord): void {
    const way = new Set<InodeId>();
    let at: InodeRecord = directory;
    while (!this.#good.has(at.ino)) {
      const parent = way.has(at.ino) || way.size > DEPTH_MAX ? undefined : this.#run.reader.inode(at.parent);
      if (parent === undefined || parent === "damaged" || !isDirectory(parent)) {
        const { ino } = directory;
        const detail =
          `the directory (inode ${ino}) is not below the root: its parents end at inode ${at.parent}`;
        this.#run.report({ kind: "unreachable", detail, ino });
        return;
      }
      way.add(at.ino);
      at = parent;
    }
    if (this.#good.size > PARENTS_MAX) {
      this.#good.clear();
      this.#good.add(ROOT_INODE);
    }
    for (const ino of way) this.#good.add(ino);
  }
}

/** Names belong to a directory that is there. */
async function* checkParents(
  run: FsckContext,
  table: number,
  kind: "entry" | "order",
  decode: (value: Uint8Array) => unknown,
): AsyncGenerator<void> {
  let known: InodeId | undefined;
  for await (const page of run.reader.pages(tableRange(table))) {
    for (const [key, value] of page) {
      const parent = inoAt(key, 1);
      const name = kind === "entry" ? `"${textOf(key.subarray(9))}"` : `${getU64(key, 9)}`;
      if (decoded(value, decode) === "damaged") {
        run.report(damaged(key, `${kind} ${name} of inode ${parent}`));
      }
      if (parent === known) continue;
      const inode = run.reader.inode(parent);
      if (inode === "damaged" || inode !== undefined && isDirectory(inode)) known = parent;
      else {
        const why = inode === undefined ? "is not there" : "is no directory";
        const detail = `${kind} ${name} belongs to inode ${parent}, which ${why}`;
        run.report({ kind, detail, hint: { key } });
      }
    }
    yield;
  }
}

async function* checkXattrs(run: FsckContext): AsyncGenerator<void> {
  for await (const page of run.reader.pages(tableRange(TABLE_XATTRS))) {
    for (const [key] of page) {
      const ino = inoAt(key, 1);
      const inode = run.reader.inode(ino);
      if (inode === "damaged" || inode?.hasXattrs === true) continue;
      const detail = inode === undefined
        ? `extended attributes of inode ${ino}, which is not there`
        : "it has extended attributes that it does not know of";
      const problem = { kind: "xattrs", detail, ino, hint: { key } } as const;
      if (inode === undefined) run.report(problem);
      else run.reportWhenNamed(problem);
    }
    yield;
  }
}

/** Pages of block maps belong to a file that refers to them. */
async function* checkPages(run: FsckContext): AsyncGenerator<void, { blocks: number; replicas: number }> {
  let blocks = 0;
  let replicas = 0;
  let inode: InodeRecord | "damaged" | undefined;
  let ino: InodeId | undefined;
  for await (const page of run.reader.pages(tableRange(TABLE_EXTENTS), 128)) {
    for (const [key, value] of page) {
      const owner = inoAt(key, 1);
      if (owner !== ino) {
        ino = owner;
        inode = run.reader.inode(owner);
      }
      const number = getU64(key, 9);
      const extents = decoded(value, decodeExtents);
      if (extents === "damaged") {
        run.reportWhenNamed({ ...damaged(key, `block map page ${number}`), ino: owner });
      } else {
        blocks += extents.length;
        for (const { volumes } of extents) replicas += volumes.length;
      }
      if (inode === "damaged" || (inode?.pages.some((ref) => ref.page === number) ?? false)) continue;
      const count = extents === "damaged" ? "some" : extents.length;
      const detail = inode === undefined
        ? `${count} blocks of inode ${owner}, which is not there`
        : `page ${number} of its block map, with ${count} blocks, is not referred to`;
      run.reportWhenNamed({ kind: "page", detail, ino: owner, hint: { key } });
    }
    yield;
  }
  return { blocks, replicas };
}

/** Replicas in the index are listed by their block. The other direction is seen file by file. */
async function* checkIndex(run: FsckContext): AsyncGenerator<void> {
  for await (const page of run.reader.pages(tableRange(TABLE_REPLICA))) {
    for (const [key, value] of page) {
      const volume = asVolumeId(getU64(key, 1));
      const block = asBlockId(getU64(key, 9));
      const record = decoded(value, decodeReplica);
      if (record === "damaged") {
        run.report(damaged(key, `index of block ${block} on volume ${volume}`));
        continue;
      }
      const { ino, start } = record;
      const inode = run.reader.inode(ino);
      if (inode === "damaged") continue;
      const extent = inode === undefined ? undefined : run.reader.extent(inode, start);
      if (extent?.block === block && extent.volumes.includes(volume)) continue;
      const detail = extent?.block === block
        ? `block ${block} does not list volume ${volume}, for which the index has it`
        : `the index has block ${block} on volume ${volume} for inode ${ino} at ${start}, where it is not`;
      run.reportWhenNamed({ kind: "index", detail, ino, block, start, volume, hint: { key } });
    }
    yield;
  }
}

async function* checkDeletions(run: FsckContext): AsyncGenerator<void> {
  for await (const page of run.reader.pages(tableRange(TABLE_DELETION))) {
    for (const [key] of page) {
      const volume = asVolumeId(getU64(key, 1));
      const block = asBlockId(getU64(key, 9));
      const owner = run.reader.read(replicaKey(volume, block), decodeReplica);
      if (owner === undefined || owner === "damaged") continue;
      const detail = `the replica of block ${block} on volume ${volume} is in use and is to be deleted`;
      run.reportWhenNamed({ kind: "deletion", detail, ...owner, block, volume, hint: { key } });
    }
    yield;
  }
}

function checkTotals(run: FsckContext, counted: readonly number[]): void {
  const stored = run.reader.read(Totals.key, decodeNumbers);
  const kept = stored === undefined || stored === "damaged" ? [] : stored;
  TOTAL_NAMES.forEach((name, i) => {
    const difference = counted[i]! - (kept[i] ?? 0);
    if (difference === 0) return;
    const detail = `the total of ${name} is ${kept[i] ?? 0}, and there are ${counted[i]}`;
    run.report({ kind: "total", detail, hint: { numbers: [i, difference] } });
  });
}

function damaged(key: Uint8Array, what: string) {
  return { kind: "record", detail: `${what} can't be read`, hint: { key } } as const;
}
