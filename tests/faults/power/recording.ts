/**
 * What shim.c recorded: the operations on the files below a directory, in the order in which they happened, and
 * marks that a test has put between them. Owns the layout of the log's records.
 */

export type Operation =
  | { readonly kind: "create"; readonly path: string; readonly file: number }
  | { readonly kind: "write"; readonly file: number; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "truncate"; readonly file: number; readonly size: number }
  | { readonly kind: "zero"; readonly file: number; readonly offset: number; readonly size: number }
  /** fsync, fdatasync, and (without file) syncfs: "start" is logged before, "done" after it succeeded. */
  | {
    readonly kind: "sync";
    readonly file: number | null;
    readonly step: "start" | "done";
    readonly token: number;
  }
  | { readonly kind: "rename" | "link"; readonly path: string; readonly to: string }
  | { readonly kind: "unlink" | "rmdir"; readonly path: string }
  | { readonly kind: "mkdir"; readonly path: string; readonly file: number }
  /** Not an operation: a test's own note, for instance of what was acknowledged by then. */
  | { readonly kind: "mark"; readonly text: string };

// shim.c, struct record
const HEAD_BYTES = 32;
const MARK = 14;

/** Reads a log. A last record that its process did not come to write whole is left out. */
export function readRecording(logFile: string): Operation[] {
  const bytes = Deno.readFileSync(logFile);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const operations: Operation[] = [];
  for (let at = 0; at + HEAD_BYTES <= bytes.length;) {
    const length = view.getUint32(at, true);
    if (length < HEAD_BYTES) throw new Error(`${logFile}: a broken record at ${at}`);
    if (at + length > bytes.length) break;
    operations.push(decode(bytes.subarray(at, at + length)));
    at += length;
  }
  return operations;
}

function decode(record: Uint8Array): Operation {
  const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
  const kind = view.getUint16(4, true);
  const pathEnd = HEAD_BYTES + view.getUint16(6, true);
  const file = Number(view.getBigUint64(8, true));
  const at = Number(view.getBigUint64(16, true));
  const size = Number(view.getBigUint64(24, true));
  const text = (from: number, to?: number) => new TextDecoder().decode(record.subarray(from, to));
  const path = text(HEAD_BYTES, pathEnd);
  switch (kind) {
    case 1:
      return { kind: "create", path, file };
    case 2:
      return { kind: "write", file, offset: at, data: record.subarray(HEAD_BYTES) };
    case 3:
      return { kind: "truncate", file, size: at };
    case 4:
      return { kind: "zero", file, offset: at, size };
    case 5:
    case 6:
      return { kind: "sync", file, step: kind === 5 ? "start" : "done", token: at };
    case 7:
    case 8:
      return { kind: "sync", file: null, step: kind === 7 ? "start" : "done", token: at };
    case 9:
      return { kind: "rename", path, to: text(pathEnd) };
    case 10:
      return { kind: "unlink", path };
    case 11:
      return { kind: "mkdir", path, file };
    case 12:
      return { kind: "rmdir", path };
    case 13:
      return { kind: "link", path, to: text(pathEnd) };
    case MARK:
      return { kind: "mark", text: text(HEAD_BYTES) };
    default:
      throw new Error(`the recorded program did what can't be recorded: ${path || kind}`);
  }
}

/** Notes `text` in a log that others are writing to: after all that has happened, before what will. */
export function mark(logFile: string, text: string): void {
  const bytes = new TextEncoder().encode(text);
  const record = new Uint8Array(HEAD_BYTES + bytes.length);
  const view = new DataView(record.buffer);
  view.setUint32(0, record.length, true);
  view.setUint16(4, MARK, true);
  record.set(bytes, HEAD_BYTES);
  Deno.writeFileSync(logFile, record, { append: true });
}
