/** Builds requests byte by byte, one good example of every operation, for the tests of the dispatcher. */

import { bytesOf, concatBytes, EMPTY_BYTES } from "../../../base/bytes.ts";
import * as P from "../../../fs/kernel/protocol.ts";

/** Fixed fields: `bytes` of zeros with u32 values at offsets. */
export function fixed(bytes: number, values: Readonly<Record<number, number>> = {}): Uint8Array {
  const body = new Uint8Array(bytes);
  const view = new DataView(body.buffer);
  for (const [at, value] of Object.entries(values)) view.setUint32(Number(at), value, true);
  return body;
}

export function nameBytes(text: string): Uint8Array {
  return bytesOf(text + "\0");
}

export interface RequestFields {
  readonly opcode: number;
  readonly unique?: number;
  readonly nodeid?: number;
  /** The thread that asks. */
  readonly pid?: number;
  readonly body?: Uint8Array;
}

/** A whole message. */
export function encodeRequest(fields: RequestFields): Uint8Array<ArrayBuffer> {
  const message = concatBytes([new Uint8Array(P.IN_HEADER.bytes), fields.body ?? EMPTY_BYTES]);
  const view = new DataView(message.buffer);
  view.setUint32(P.IN_HEADER.len, message.length, true);
  view.setUint32(P.IN_HEADER.opcode, fields.opcode, true);
  view.setUint32(P.IN_HEADER.unique, fields.unique ?? 2, true);
  view.setUint32(P.IN_HEADER.nodeid, fields.nodeid ?? 1, true);
  view.setUint32(P.IN_HEADER.pid, fields.pid ?? 0, true);
  return message;
}

const file = 2;
const data = new Uint8Array(100).fill(7);

/** One good request an operation, against a MemoryFs where node 2 is the file "file" in the root. */
export const EXAMPLES: readonly RequestFields[] = [
  { opcode: P.OP_LOOKUP, body: nameBytes("file") },
  { opcode: P.OP_GETATTR, nodeid: file, body: fixed(P.GETATTR_IN.bytes) },
  { opcode: P.OP_STATX, nodeid: file, body: fixed(P.STATX_IN.bytes) },
  { opcode: P.OP_SETATTR, nodeid: file, body: fixed(P.SETATTR_IN.bytes, { 0: P.FATTR_SIZE, 16: 9 }) },
  { opcode: P.OP_SYMLINK, body: concatBytes([nameBytes("link"), nameBytes("target")]) },
  { opcode: P.OP_MKNOD, body: concatBytes([fixed(P.MKNOD_IN.bytes, { 0: 0o100644 }), nameBytes("node")]) },
  { opcode: P.OP_MKDIR, body: concatBytes([fixed(P.MKDIR_IN.bytes, { 0: 0o755 }), nameBytes("directory")]) },
  { opcode: P.OP_UNLINK, body: nameBytes("node") },
  { opcode: P.OP_RMDIR, body: nameBytes("directory") },
  {
    opcode: P.OP_RENAME,
    body: concatBytes([fixed(P.RENAME_IN.bytes, { 0: 1 }), nameBytes("file"), nameBytes("file2")]),
  },
  {
    opcode: P.OP_RENAME2,
    body: concatBytes([fixed(P.RENAME2_IN.bytes, { 0: 1 }), nameBytes("file2"), nameBytes("file")]),
  },
  { opcode: P.OP_LINK, body: concatBytes([fixed(P.LINK_IN.bytes, { 0: file }), nameBytes("hard")]) },
  { opcode: P.OP_OPEN, nodeid: file, body: fixed(P.OPEN_IN.bytes) },
  { opcode: P.OP_READ, nodeid: file, body: fixed(P.READ_IN.bytes, { 16: 4096 }) },
  {
    opcode: P.OP_WRITE,
    nodeid: file,
    body: concatBytes([fixed(P.WRITE_IN.bytes, { 16: data.length }), data]),
  },
  { opcode: P.OP_RELEASE, nodeid: file, body: fixed(P.RELEASE_IN.bytes) },
  { opcode: P.OP_FSYNC, nodeid: file, body: fixed(P.FSYNC_IN.bytes) },
  {
    opcode: P.OP_SETXATTR,
    nodeid: file,
    body: concatBytes([fixed(P.SETXATTR_IN_COMPAT_BYTES, { 0: 5 }), nameBytes("user.x"), bytesOf("value")]),
  },
  {
    opcode: P.OP_GETXATTR,
    nodeid: file,
    body: concatBytes([fixed(P.GETXATTR_IN.bytes, { 0: 100 }), nameBytes("user.x")]),
  },
  { opcode: P.OP_LISTXATTR, nodeid: file, body: fixed(P.GETXATTR_IN.bytes, { 0: 100 }) },
  { opcode: P.OP_REMOVEXATTR, nodeid: file, body: nameBytes("user.x") },
  { opcode: P.OP_FLUSH, nodeid: file, body: fixed(P.FLUSH_IN.bytes) },
  {
    opcode: P.OP_INIT,
    body: fixed(P.INIT_IN.bytes, { 0: 7, 4: 45, 8: 131072, 12: 0xffffffff, 16: 0xffffffff }),
  },
  { opcode: P.OP_OPENDIR, body: fixed(P.OPEN_IN.bytes) },
  { opcode: P.OP_READDIR, body: fixed(P.READ_IN.bytes, { 16: 4096 }) },
  { opcode: P.OP_READDIRPLUS, body: fixed(P.READ_IN.bytes, { 16: 4096 }) },
  { opcode: P.OP_RELEASEDIR, body: fixed(P.RELEASE_IN.bytes) },
  { opcode: P.OP_FSYNCDIR, body: fixed(P.FSYNC_IN.bytes) },
  { opcode: P.OP_GETLK, nodeid: file, body: fixed(P.LK_IN.bytes, { 24: 0xffffffff, 28: 0x7fffffff }) },
  { opcode: P.OP_SETLK, nodeid: file, body: fixed(P.LK_IN.bytes) },
  { opcode: P.OP_SETLKW, nodeid: file, body: fixed(P.LK_IN.bytes) },
  {
    opcode: P.OP_CREATE,
    body: concatBytes([fixed(P.CREATE_IN.bytes, { 4: 0o644 }), nameBytes("created")]),
  },
  { opcode: P.OP_TMPFILE, body: concatBytes([fixed(P.CREATE_IN.bytes, { 4: 0o600 }), nameBytes("/")]) },
  { opcode: P.OP_FALLOCATE, nodeid: file, body: fixed(P.FALLOCATE_IN.bytes, { 16: 10 }) },
  {
    opcode: P.OP_COPY_FILE_RANGE,
    nodeid: file,
    body: fixed(P.COPY_FILE_RANGE_IN.bytes, { 16: file, 40: 10 }),
  },
  {
    opcode: P.OP_COPY_FILE_RANGE_64,
    nodeid: file,
    body: fixed(P.COPY_FILE_RANGE_IN.bytes, { 16: file, 32: 20, 40: 10 }),
  },
  { opcode: P.OP_LSEEK, nodeid: file, body: fixed(P.LSEEK_IN.bytes, { 16: 3 }) },
];
