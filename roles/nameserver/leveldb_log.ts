/**
 * Reads LevelDB's log format (doc/log_format.md of LevelDB), in which logs and MANIFEST files are written: blocks of
 * 32 KiB, in them fragments of records, each with a checksum. Stops at the first thing that is not as it was
 * written, where LevelDB itself would look for something readable further on.
 */

const BLOCK_BYTES = 32 * 1024;
const HEADER_BYTES = 7;
const FULL = 1;
const FIRST = 2;
const MIDDLE = 3;
const LAST = 4;

export interface LogRecord {
  /** Where its first fragment begins. */
  readonly offset: number;
  readonly data: Uint8Array;
}

/** The records that are whole, from the start up to the first that is not. */
export function* readRecords(log: Uint8Array): Generator<LogRecord> {
  const view = new DataView(log.buffer, log.byteOffset, log.byteLength);
  let fragments: Uint8Array[] = [];
  let start = 0;
  for (let at = 0;;) {
    const left = BLOCK_BYTES - at % BLOCK_BYTES;
    if (left < HEADER_BYTES) at += left; // a block's last bytes, too few for a header
    const end = endOfFragment(log, view, at);
    if (end === null) return;
    const type = log[at + 6]!;
    const isInOrder = fragments.length === 0
      ? type === FULL || type === FIRST
      : type === MIDDLE || type === LAST;
    if (!isInOrder) return;
    if (fragments.length === 0) start = at;
    fragments.push(log.subarray(at + HEADER_BYTES, end));
    at = end;
    if (type === FIRST || type === MIDDLE) continue;
    yield { offset: start, data: fragments.length === 1 ? fragments[0]! : joined(fragments) };
    fragments = [];
  }
}

/** Whether a fragment of a record that is whole begins anywhere at or after `from`. */
export function hasFragment(log: Uint8Array, from: number): boolean {
  const view = new DataView(log.buffer, log.byteOffset, log.byteLength);
  for (let at = from; at < log.length; at++) {
    if (endOfFragment(log, view, at) !== null) return true;
  }
  return false;
}

/** Where the fragment at `at` ends; null when there is none that is whole. */
function endOfFragment(log: Uint8Array, view: DataView, at: number): number | null {
  if (at + HEADER_BYTES > log.length) return null;
  const type = log[at + 6]!;
  const end = at + HEADER_BYTES + view.getUint16(at + 4, true);
  const isInBlock = Math.floor(at / BLOCK_BYTES) === Math.floor((end - 1) / BLOCK_BYTES);
  if (type < FULL || type > LAST || !isInBlock || end > log.length) return null;
  return unmask(view.getUint32(at, true)) === crc32c(log.subarray(at + 6, end)) ? end : null;
}

/** Bytes of the log up to and with the record that begins at `offset` and holds `length` bytes. */
export function endOfRecord({ offset, data }: LogRecord): number {
  let at = offset;
  let left = data.length;
  do {
    const room = BLOCK_BYTES - at % BLOCK_BYTES;
    if (room < HEADER_BYTES) at += room;
    const taken = Math.min(left, BLOCK_BYTES - at % BLOCK_BYTES - HEADER_BYTES);
    at += HEADER_BYTES + taken;
    left -= taken;
  } while (left > 0);
  return at;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** LevelDB stores checksums turned and shifted (util/crc32c.h). */
function unmask(masked: number): number {
  const turned = (masked - 0xa282ead8) >>> 0;
  return ((turned >>> 17) | (turned << 15)) >>> 0;
}

// CRC-32C (Castagnoli), reflected.
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ TABLE[(crc ^ bytes[i]!) & 0xff]!;
  return (crc ^ 0xffffffff) >>> 0;
}
