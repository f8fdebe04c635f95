/**
 * What a power cut may do to LevelDB's logs, put right before LevelDB opens them. Pages that were not synced reach
 * the disk in any order, so a log may have a gap and whole batches behind it, and a log that lost its end may be
 * followed by another. LevelDB skips the gap and takes what is behind it: the namespace would have operations
 * without those that went before. Here the logs end at the first gap.
 * Invariant: what was durable (LogFiles) lies before every gap, so nothing that was promised is cut off.
 *
 * The MANIFEST's last edit may be torn as well, and then LevelDB doesn't open the database. Until an edit is durable
 * LevelDB removes nothing that only the state before it needs, so that without it the database is whole. Of an edit that
 * has others behind it this isn't so: such a MANIFEST is left to LevelDB to refuse.
 *
 * A gap can also be a damaged disk's doing: what is cut off is kept beside the database until the next time.
 */

import { endOfRecord, hasFragment, readRecords } from "./leveldb_log.ts";
import { logName, logNumbers } from "./log_files.ts";

// db/version_edit.cc of LevelDB
const COMPARATOR = 1;
const LOG_NUMBER = 2;
const NEXT_FILE_NUMBER = 3;
const LAST_SEQUENCE = 4;
const COMPACT_POINTER = 5;
const DELETED_FILE = 6;
const NEW_FILE = 7;
const PREVIOUS_LOG_NUMBER = 9;

export interface LogCut {
  /** What was behind the gap, and is left out. */
  readonly bytes: number;
  /** Batches behind the gap that were readable: more than none says that the order was broken. */
  readonly batches: number;
  /** Where the logs are kept as they were. */
  readonly kept: string;
}

/**
 * Ends the logs of the database in `path` at their first gap. Null when there is none. Nobody else may have the
 * database open. Whatever else is wrong with it is left to LevelDB to say.
 */
export async function cutLogsAtGap(path: string): Promise<LogCut | null> {
  const kept = `${path}.cut`;
  const manifest = await readManifest(path);
  if (manifest === null) return null;
  const { first } = manifest;
  const logs = logNumbers(path).filter((number) => number >= first);
  let nextSequence: number | null = null;
  let isCut = false;
  let bytes = 0;
  let batches = 0;
  const cut = async (name: string, content: Uint8Array, end: number): Promise<void> => {
    if (bytes === 0) await Deno.remove(kept, { recursive: true }).catch(ignoreNotFound);
    bytes += content.length - end;
    await Deno.mkdir(kept, { recursive: true });
    await Deno.writeFile(`${kept}/${name}`, content);
    using file = await Deno.open(`${path}/${name}`, { write: true });
    await file.truncate(end);
    await file.sync();
  };
  const { name, content, end } = manifest;
  if (end < content.length && !hasFragment(content, end + 1)) await cut(name, content, end);
  for (const number of logs) {
    const name = logName(number);
    const content = await Deno.readFile(`${path}/${name}`);
    let end = 0;
    // The log that the MANIFEST names first was made before it: without it the rest has no beginning.
    if (number === logs[0] && number !== first) isCut = true;
    for (const record of readRecords(content)) {
      const { sequence, count } = batchHead(record.data);
      if (nextSequence !== null && sequence !== nextSequence) isCut = true;
      if (isCut) batches++;
      else {
        nextSequence = sequence + count;
        end = endOfRecord(record);
      }
    }
    if (end === content.length) continue;
    isCut = true;
    await cut(name, content, end);
  }
  return bytes === 0 ? null : { bytes, batches, kept };
}

interface Manifest {
  readonly name: string;
  readonly content: Uint8Array;
  /** Where the last edit that is whole ends. */
  readonly end: number;
  /** The number of the first log that is not all in tables. */
  readonly first: number;
}

/** Null when CURRENT or the MANIFEST that it names can't be read. */
async function readManifest(path: string): Promise<Manifest | null> {
  try {
    const name = (await Deno.readTextFile(`${path}/CURRENT`)).trimEnd();
    if (!/^MANIFEST-\d+$/.test(name)) return null;
    const content = await Deno.readFile(`${path}/${name}`);
    let first: number | null = null;
    let end = 0;
    for (const edit of readRecords(content)) {
      first = logNumberOf(edit.data) ?? first;
      end = endOfRecord(edit);
    }
    return first === null ? null : { name, content, end, first };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof RangeError) return null;
    throw error;
  }
}

/** The log number that a version edit sets, if it does. Throws RangeError on what is none. */
function logNumberOf(edit: Uint8Array): number | null {
  let at = 0;
  const number = (): number => {
    let value = 0;
    for (let factor = 1;; factor *= 128) {
      const byte = edit[at++];
      if (byte === undefined) throw new RangeError("a version edit ends early");
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  const text = (): void => {
    const length = number();
    at += length;
  };
  let found: number | null = null;
  while (at < edit.length) {
    switch (number()) {
      case COMPARATOR:
        text();
        break;
      case LOG_NUMBER:
        found = number();
        break;
      case NEXT_FILE_NUMBER:
      case LAST_SEQUENCE:
      case PREVIOUS_LOG_NUMBER:
        number();
        break;
      case COMPACT_POINTER:
        number();
        text();
        break;
      case DELETED_FILE:
        number();
        number();
        break;
      case NEW_FILE:
        number();
        number();
        number();
        text();
        text();
        break;
      default:
        throw new RangeError("a version edit of another kind");
    }
  }
  return found;
}

/** The first eight bytes of a batch are its sequence number, the next four how many it takes (db/write_batch.cc). */
function batchHead(batch: Uint8Array): { readonly sequence: number; readonly count: number } {
  if (batch.length < 12) return { sequence: -1, count: 0 };
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength);
  return { sequence: Number(view.getBigUint64(0, true)), count: view.getUint32(8, true) };
}

function ignoreNotFound(error: unknown): void {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}
