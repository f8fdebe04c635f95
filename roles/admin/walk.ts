/**
 * A walk over what is below a directory, in the order of names' positions, driven from here page by page.
 * Bounded: of each directory on the way down it keeps one page's subdirectories. What is removed meanwhile is passed over.
 */

import { concatBytes } from "../../base/bytes.ts";
import { isErrno } from "../../wire/errno.ts";
import type { InodeId } from "../../wire/ids.ts";
import { type DirectoryEntry, DT_DIR } from "../../wire/messages/inode.ts";
import type { AdminClient } from "./client.ts";

const PAGE = 1024;
/** Clients that have what is listed to themselves are asked for it. */
const PAGE_TIMEOUT_MS = 60_000;
const SLASH = new Uint8Array([0x2f]);

/**
 * Each directory is entered, its entries come in pages with their inodes, each of its subdirectories is walked, and it is
 * left. `depth` of the top is 0.
 */
export type WalkStep =
  | { readonly kind: "enter" | "leave"; readonly path: Uint8Array; readonly depth: number }
  | { readonly kind: "entries"; readonly path: Uint8Array; readonly entries: readonly DirectoryEntry[] };

interface Frame {
  readonly ino: InodeId;
  readonly path: Uint8Array;
  cookie: number;
  isListed: boolean;
  /** Subdirectories of the last page that are still to be walked, the next one last. */
  directories: { readonly ino: InodeId; readonly name: Uint8Array }[];
}

/** Errors: transport's. */
export async function* walk(
  { nameserver }: AdminClient,
  top: { readonly ino: InodeId; readonly path: Uint8Array },
): AsyncGenerator<WalkStep> {
  const stack: Frame[] = [];
  const enter = (ino: InodeId, path: Uint8Array): WalkStep => {
    stack.push({ ino, path, cookie: 0, isListed: false, directories: [] });
    return { kind: "enter", path, depth: stack.length - 1 };
  };
  yield enter(top.ino, top.path);
  while (stack.length > 0) {
    const at = stack[stack.length - 1]!;
    const directory = at.directories.pop();
    if (directory !== undefined) {
      yield enter(directory.ino, joined(at.path, directory.name));
    } else if (at.isListed) {
      stack.pop();
      yield { kind: "leave", path: at.path, depth: stack.length };
    } else {
      const page = await readPage(nameserver, at);
      at.isListed = page.end;
      at.cookie = page.entries.at(-1)?.cookie ?? at.cookie;
      at.directories = page.entries.filter(({ type }) => type === DT_DIR).reverse();
      yield { kind: "entries", path: at.path, entries: page.entries };
    }
  }
}

export function joined(path: Uint8Array, name: Uint8Array): Uint8Array {
  return concatBytes(path.at(-1) === SLASH[0] ? [path, name] : [path, SLASH, name]);
}

async function readPage(
  nameserver: AdminClient["nameserver"],
  { ino, cookie }: Frame,
): Promise<{ readonly entries: readonly DirectoryEntry[]; readonly end: boolean }> {
  try {
    const request = { ino, cookie, limit: PAGE, withInodes: true };
    return await nameserver.readDirectory(request, { timeoutMs: PAGE_TIMEOUT_MS });
  } catch (error) {
    if (isErrno(error, "ENOENT") || isErrno(error, "ESTALE")) return { entries: [], end: true };
    throw error;
  }
}
