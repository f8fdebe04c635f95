/**
 * The format of a backup: one file with all records of a namespace as of one instant.
 *
 *     "MFSBACK1"  u32 length, JSON head  { u32 length, length bytes of records }...  u32 0  u64 records  u32 crc32
 *
 * A record is u32 key length, u32 value length, key, value; numbers are little-endian; the checksum is of all
 * bytes before it. A file without its end, or with another count or checksum, is no backup.
 */

import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import { bytesOf } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import type { Key } from "./keys.ts";
import type { JournalSnapshot } from "./journal.ts";

const MAGIC = bytesOf("MFSBACK1");
const HEAD_BYTES_MAX = 64 * 1024;
const PAGE_BYTES_MAX = 64 * 1024 * 1024;
const END_BYTES = 12;

export interface BackupHead {
  readonly clusterId: string;
  /** Layout of the records (layout.ts). */
  readonly layout: number;
  /** When it was begun, milliseconds since 1970. */
  readonly timeMs: number;
  /** The mfs that wrote it. */
  readonly program: string;
}

type Records = readonly (readonly [key: Uint8Array, value: Uint8Array])[];

const PIECE_BYTES = 256 * 1024;

/** A backup's bytes, piece by piece (some hundred KiB each). The caller closes the snapshot. */
export async function* encodeBackup(snapshot: JournalSnapshot, head: BackupHead): AsyncGenerator<Uint8Array> {
  let crc = 0;
  let count = 0;
  const summed = (bytes: Uint8Array): Uint8Array => {
    crc = crc32(bytes, crc);
    return bytes;
  };
  const text = bytesOf(JSON.stringify(head));
  let pages: Uint8Array[] = [];
  let bytes = 0;
  yield summed(Buffer.concat([MAGIC, u32(text.length), text]));
  for (let from: Key = new Uint8Array(0);;) {
    const page = await snapshot.read(from);
    const last = page.at(-1)?.[0];
    if (last === undefined) break;
    count += page.length;
    pages.push(summed(encodePage(page)));
    bytes += pages.at(-1)!.length;
    if (bytes >= PIECE_BYTES) {
      yield Buffer.concat(pages);
      pages = [];
      bytes = 0;
    }
    from = new Uint8Array(last.length + 1); // the first key after it
    from.set(last);
  }
  const end = new Uint8Array(END_BYTES);
  new DataView(end.buffer).setBigUint64(4, BigInt(count), true);
  yield Buffer.concat([...pages, summed(end), u32(crc)]);
}

function encodePage(records: Records): Uint8Array {
  const length = records.reduce((sum, [key, value]) => sum + 8 + key.length + value.length, 0);
  const page = new Uint8Array(4 + length);
  const view = new DataView(page.buffer);
  view.setUint32(0, length, true);
  let at = 4;
  for (const [key, value] of records) {
    view.setUint32(at, key.length, true);
    view.setUint32(at + 4, value.length, true);
    page.set(key, at + 8);
    page.set(value, at + 8 + key.length);
    at += 8 + key.length + value.length;
  }
  return page;
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

/** Reads a backup from its beginning, in bounded memory. Every error is EINVAL with what is wrong. */
export class BackupReader implements AsyncDisposable {
  readonly head: BackupHead;
  readonly #file: string;
  readonly #input: Input;
  /** Records that were read. */
  records = 0;

  private constructor(file: string, input: Input, head: BackupHead) {
    this.#file = file;
    this.#input = input;
    this.head = head;
  }

  static async open(file: string): Promise<BackupReader> {
    const input = await Input.open(file);
    try {
      const magic = await input.take(MAGIC.length);
      if (!Buffer.from(magic).equals(MAGIC)) throw bad(file, "is not a backup that this mfs reads");
      const head = JSON.parse(new TextDecoder().decode(await input.take(await input.length(HEAD_BYTES_MAX))));
      return new BackupReader(file, input, head);
    } catch (error) {
      input.close();
      throw error instanceof SyntaxError ? bad(file, "is damaged") : error;
    }
  }

  /** Page by page; ends without an error only when count and checksum are right. */
  async *pages(): AsyncGenerator<Records> {
    for (;;) {
      const length = await this.#input.length(PAGE_BYTES_MAX);
      if (length === 0) break;
      const records = decodePage(await this.#input.take(length));
      if (records === null) throw bad(this.#file, "is damaged");
      this.records += records.length;
      yield records;
    }
    const count = Number(view(await this.#input.take(8)).getBigUint64(0, true));
    const { crc } = this.#input;
    const stored = view(await this.#input.take(4)).getUint32(0, true);
    if (count !== this.records || stored !== crc || !await this.#input.isAtEnd()) {
      throw bad(this.#file, "is damaged (its checksum is wrong)");
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#input.close();
    return Promise.resolve();
  }
}

function decodePage(page: Uint8Array): Records | null {
  const numbers = view(page);
  const records: [Uint8Array, Uint8Array][] = [];
  for (let at = 0; at < page.length;) {
    if (at + 8 > page.length) return null;
    const value = at + 8 + numbers.getUint32(at, true);
    const end = value + numbers.getUint32(at + 4, true);
    if (end > page.length) return null;
    records.push([page.subarray(at + 8, value), page.subarray(value, end)]);
    at = end;
  }
  return records;
}

const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const bad = (file: string, what: string) =>
  new FsError("EINVAL", `${file} ${what}: give another backup`, { op: "restore" });

/** A file read from its beginning, and the checksum of what was taken. */
class Input {
  readonly #name: string;
  readonly #file: Deno.FsFile;
  crc = 0;

  private constructor(name: string, file: Deno.FsFile) {
    this.#name = name;
    this.#file = file;
  }

  static async open(name: string): Promise<Input> {
    try {
      return new Input(name, await Deno.open(name, { read: true }));
    } catch (error) {
      const isMissing = error instanceof Deno.errors.NotFound;
      const why = isMissing ? "there is no such file" : (error as Error).message;
      throw new FsError(isMissing ? "ENOENT" : "EACCES", `${name} can't be read: ${why}`, { op: "restore" });
    }
  }

  async length(max: number): Promise<number> {
    const length = view(await this.take(4)).getUint32(0, true);
    if (length > max) throw bad(this.#name, "is damaged");
    return length;
  }

  async take(length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    for (let filled = 0; filled < length;) {
      const count = await this.#file.read(bytes.subarray(filled));
      if (count === null) throw bad(this.#name, "ends early");
      filled += count;
    }
    this.crc = crc32(bytes, this.crc);
    return bytes;
  }

  async isAtEnd(): Promise<boolean> {
    return await this.#file.read(new Uint8Array(1)) === null;
  }

  close(): void {
    this.#file.close();
  }
}
