/** What a dataserver would say of a replica's file. */

import assert from "node:assert/strict";
import { crc32 } from "node:zlib";
import * as libc from "../../base/libc.ts";

export const CHUNK = 64 * 1024;

export function crcsOf(bytes: Uint8Array, chunkBytes = CHUNK): Uint8Array<ArrayBuffer> {
  const crcs = new Uint8Array(Math.ceil(bytes.length / chunkBytes) * 4);
  const view = new DataView(crcs.buffer);
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    view.setUint32(at / chunkBytes * 4, crc32(bytes.subarray(at, at + chunkBytes)), true);
  }
  return crcs;
}

export function identityOf(path: string): string {
  const fd = libc.open(path, libc.O_RDONLY);
  const identity = libc.fileIdentity(fd);
  libc.close(fd);
  assert.equal(typeof identity, "string");
  return identity as string;
}
