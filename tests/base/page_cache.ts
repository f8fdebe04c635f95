/** What the kernel's page cache has of a file, asked without reading (which would bring pages in). */

import * as libc from "../../base/libc.ts";

/** asm-generic/unistd.h, the same number on all architectures; Linux 6.5. */
const SYS_CACHESTAT = 451;
const CACHESTAT_BYTES = 40;
const PAGE_BYTES = 4_096;
const TRIES_MAX = 200;
const RETRY_MS = 10;

const { symbols } = Deno.dlopen("libc.so.6", {
  syscall: { parameters: ["i64", "i32", "buffer", "buffer", "u32"], result: "i64" },
});

/** Bytes of the range that are in the page cache, in whole pages. Throws on kernels without cachestat(2). */
export function cachedBytes(fd: number, offset: number, length: number): number {
  const range = BigUint64Array.of(BigInt(offset), BigInt(length));
  const result = new BigUint64Array(CACHESTAT_BYTES / 8);
  if (symbols.syscall(BigInt(SYS_CACHESTAT), fd, range, result, 0) !== 0n) {
    throw new Error("cachestat failed");
  }
  return Number(result[0]) * PAGE_BYTES;
}

/**
 * Has the range of the file on disk and out of the page cache. The kernel keeps a page that somebody looks at just
 * then (reclaim, a processor's own batch), hence more than one try. False: its file system lives in memory.
 */
export async function dropFromCache(fd: number, offset: number, length: number): Promise<boolean> {
  for (let i = 0; i < TRIES_MAX; i++) {
    await libc.fsyncAsync(fd);
    libc.dropCached(fd, offset, length);
    if (cachedBytes(fd, offset, length) === 0) return true;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
  return false;
}
