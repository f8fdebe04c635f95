/**
 * Under which name the kernel has each directory. It has one dentry of a directory, and moves it when a lookup finds the
 * directory elsewhere, as another mount has moved it. For that Linux does not wait for the locks that it needs (that of renames,
 * and the old parent's): while a change here holds one, whoever looks gets ESTALE, for the kernel tries once more only. So the
 * old name is taken away before the answer; then there is nothing to be moved.
 *
 * A directory that is in use (open, or what is below it) keeps its dentry all the same. For its sake the answer comes when no
 * rename is under way here, nor a change in the old parent; so does that to the kernel's second try.
 */

import { bytesKey } from "../base/bytes.ts";
import type { InodeId } from "../wire/ids.ts";
import { S_IFDIR, S_IFMT } from "../wire/messages/inode.ts";
import type { Inode } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { Names } from "./names.ts";

const RENAME_EXCHANGE = 2;

interface Place {
  readonly parent: InodeId;
  readonly name: Uint8Array;
}

interface Told extends Place {
  /** Where it was before, if the kernel may not have taken over yet that it is elsewhere. */
  readonly left?: Place | undefined;
}

type Renaming = ReturnType<Names["rename"]>;

export class DirectoryPlaces {
  readonly #table: InodeTable;
  readonly #kernelCache: Pick<KernelCache, "dropOldName">;
  readonly #places = new WeakMap<Inode, Told>();
  /** Between two directories, under way. */
  readonly #renames = new Set<Promise<unknown>>();

  constructor(table: InodeTable, kernelCache: Pick<KernelCache, "dropOldName">) {
    this.#table = table;
    this.#kernelCache = kernelCache;
  }

  /**
   * The kernel is about to be told that a name in `parent` leads to `inode`. Resolves when it has it under no name elsewhere, or
   * that takes too long; undefined: at once. What was known before may not be so any more.
   */
  leave(inode: Inode | null, parent: InodeId): Promise<void> | undefined {
    const told = inode === null || inode.lookups === 0 ? undefined : this.#places.get(inode);
    const place = told?.parent === parent ? told.left : told;
    if (place === undefined) return undefined;
    return this.#kernelCache.dropOldName(place.parent, place.name, [...this.#renames]);
  }

  /** The kernel is told that it is there; of a listing, which moves nothing, only if it has the directory nowhere. */
  note(inode: Inode | null, parent: InodeId, name: Uint8Array, isListed = false): void {
    if (inode === null || (inode.attributes.mode & S_IFMT) !== S_IFDIR) return;
    const before = inode.lookups === 0 ? undefined : this.#places.get(inode);
    if (isListed && before !== undefined) return;
    const left = before === undefined || before.parent === parent
      ? undefined
      : { parent: before.parent, name: before.name };
    this.#places.set(inode, { parent, name, left });
  }

  /** `renaming` is a rename here; when it is made the kernel moves by itself what it has. */
  moving(source: Place, target: Place, flags: number, renaming: () => Renaming): Renaming {
    const made = (reply: Awaited<Renaming>) => {
      // One that was not asked for has left the name where it is known, and exchanges nothing.
      this.#moved(reply?.ino ?? this.#at(target), target);
      if ((flags & RENAME_EXCHANGE) !== 0) this.#moved(reply?.replaced?.ino, source);
      return reply;
    };
    const result = renaming();
    if (result === undefined) return made(undefined) as undefined;
    const under = result.then(made);
    if (source.parent !== target.parent) {
      const ended = under.then(() => {}, () => {}).then(() => void this.#renames.delete(ended));
      this.#renames.add(ended);
    }
    return under;
  }

  #at({ parent, name }: Place): InodeId | undefined {
    return this.#table.get(parent)?.entries?.get(bytesKey(name));
  }

  #moved(ino: InodeId | undefined, place: Place): void {
    const inode = ino === undefined ? undefined : this.#table.get(ino);
    if (inode !== undefined && this.#places.has(inode)) this.#places.set(inode, place);
  }
}
