/**
 * Names and attributes of one mount: from what a lease lets us keep, or from the nameserver; and changes of them. What is
 * known here without asking is returned at once, not as a promise. Open files and their data are files.ts'.
 *
 * Invariant: what is returned as kept may stay in the kernel for as long as the session is valid: whoever changes it waits
 * until it was taken away (recalls.ts).
 */

import { bytesEqual, bytesKey } from "../base/bytes.ts";
import type { Clock, Timespec } from "../base/clock.ts";
import { ACCESS_ACL, isAclName } from "../base/posix_acl.ts";
import { FsError, isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  type InodeReply,
  isExclusive,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "../wire/messages/inode.ts";
import type {
  Credentials,
  DirectoryChange,
  EntryReply,
  MakeRequest,
  Removed,
  RenameReply,
  SetAttributesRequest,
  StatfsReply,
} from "../wire/messages/nameserver.ts";
import type { AskedChanges } from "./asked_changes.ts";
import { type EntryName, wishesWithin } from "./claims.ts";
import { CacheCount } from "./cache_counts.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { refuseAfterLoss } from "./deferred_changes.ts";
import { DirectoryStream } from "./directory_stream.ts";
import { ABSENT, type Found, type Inode, UNKNOWN, withAccess } from "./inode.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { LocalChanges } from "./local_changes.ts";
import type { NameReadAhead } from "./name_read_ahead.ts";
import { RemovedXattrs, type Xattr, xattrsOfRemoved } from "./removed_xattrs.ts";
import type { Writer } from "./writer.ts";
import { type Interruptible, withSignal } from "./interruptible.ts";

/** So long after a change of ours in a directory that others use, the kernel keeps no names of it. */
const RESTLESS_MS = 1_000;
export const RENAME_EXCHANGE = 2;
const RENAME_WHITEOUT = 4;

export interface NamesOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly asked: AskedChanges;
  readonly writer: Writer;
  readonly clock: Clock;
  /** Changes that need not be asked for; absent: all are. */
  readonly local?: LocalChanges | undefined;
  readonly readAhead: NameReadAhead;
  /** Resolves when the nameserver has heard of all accesses so far, or they are given up. */
  readonly tellAccesses?: () => Promise<unknown>;
}

export class Names {
  readonly #options: NamesOptions;
  readonly #asked: AskedChanges;
  /** What the kernel asked for. */
  readonly caches = {
    names: new CacheCount(),
    attributes: new CacheCount(),
    listings: new CacheCount(),
    xattrs: new CacheCount(),
  };

  constructor(options: NamesOptions) {
    this.#options = options;
    this.#asked = options.asked;
  }

  get #session(): ClusterSession {
    return this.#options.session;
  }

  get #table(): InodeTable {
    return this.#options.table;
  }

  /** Attributes as this mount's processes see them: our own unreported size and times over the nameserver's. */
  shown(inode: Inode): Attributes {
    return withAccess(inode.file === null ? inode.attributes : inode.file.shown(), inode);
  }

  /** For how long the kernel may keep what is known of an inode. */
  attributesForMs(inode: Inode): number {
    // What is not on the replicas yet may come to take more room, or less.
    if (!inode.isFresh || (inode.file !== null && inode.file.pendingBytes > 0)) return 0;
    return this.#session.validForMs;
  }

  /** For how long the kernel may keep a name of a directory, as it is told now; `isListed`: with a listing. */
  namesForMs(parent: InodeId, isKept: boolean, isListed = false): number {
    if (!isKept) return 0;
    const directory = this.#table.get(parent);
    if (directory !== undefined) {
      const isRestless = this.#options.clock.monotonicMs() < directory.namesAskedMs + RESTLESS_MS;
      if (isRestless && !isExclusive(directory.lease)) return 0;
      directory.namesToldIn = this.#options.kernelCache.epoch;
      if (isListed) directory.namesListed = true;
    }
    return this.#session.validForMs;
  }

  /** True when its attributes can be shown now without asking. */
  isFresh(inode: Inode | undefined): inode is Inode {
    return inode !== undefined && inode.isFresh && this.#session.isValid;
  }

  lookup(parent: InodeId, name: Uint8Array, interrupt: Interruptible): Found | Promise<Found> {
    const directory = this.#table.get(parent);
    if (directory !== undefined && directory.lease !== "none" && this.#session.isValid) {
      const key = bytesKey(name);
      const ino = directory.entry(key);
      if (ino === ABSENT) {
        // The kernel has it from now on.
        if (directory.setEntry(key, ABSENT)) {
          this.caches.names.hits++;
          return NOT_THERE;
        }
        this.caches.names.misses++;
        return this.#lookUp(parent, name, interrupt);
      }
      const inode = ino === UNKNOWN ? undefined : this.#table.get(ino);
      if (this.isFresh(inode)) {
        this.#options.readAhead.found(inode);
        this.caches.names.hits++;
        return { inode, isKept: true };
      }
    }
    this.caches.names.misses++;
    const found = this.#lookUp(parent, name, interrupt);
    if (directory !== undefined) this.#options.readAhead.missed(directory); // behind it
    return found;
  }

  async #lookUp(parent: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<Found> {
    const askedAt = this.#table.moment;
    const reply = await this.#session.nameserver.lookup({
      parent,
      name,
      ...wishesWithin(this.#table.get(parent)),
    }, interrupt);
    const inode = reply.inode === undefined ? null : this.#table.adopt(reply.inode, askedAt);
    const ino = inode?.ino ?? ABSENT;
    this.#options.kernelCache.boundNames(this.#table.get(parent));
    return { inode, isKept: this.#table.adoptEntry(parent, name, ino, reply.directory, askedAt) };
  }

  /** The inode itself ("."; ENOENT when it was removed), or the directory that it is in (".."); no name of it is kept. */
  async lookupDots(ino: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<Found> {
    if (name.length === 1) {
      const inode = await this.getattr(ino, interrupt);
      // It may live on where it is open, or for who was told of it lately (lingering.ts in the nameserver).
      if (inode.attributes.nlink === 0 && inode.directoryHandles === 0 && !isOpen(inode)) {
        throw new FsError("ENOENT", "the inode was removed");
      }
      return { inode, isKept: false };
    }
    const askedAt = this.#table.moment;
    const reply = await this.#session.nameserver.lookup({ parent: ino, name }, interrupt);
    const inode = reply.inode === undefined ? null : this.#table.adopt(reply.inode, askedAt);
    return { inode, isKept: false };
  }

  getattr(ino: InodeId, interrupt: Interruptible): Inode | Promise<Inode> {
    const inode = this.#table.get(ino);
    const { attributes } = this.caches;
    if (this.isFresh(inode)) {
      attributes.hits++;
      return inode;
    }
    attributes.misses++;
    return this.refresh(ino, interrupt);
  }

  /** Asks for attributes. */
  async refresh(ino: InodeId, interrupt?: Interruptible): Promise<Inode> {
    const askedAt = this.#table.moment;
    try {
      return this.#table.adopt(await this.#session.nameserver.getattr({ ino }, interrupt), askedAt);
    } catch (error) {
      const inode = this.#table.get(ino);
      // Removed: whoever has it open sees it without a name, and a directory empty; so does who works in the directory. That
      // the kernel looks the name up anew will not do: it asks in the middle of open(2) as well, and would make a second file.
      if (!isErrno(error, "ENOENT") || inode === undefined || !isHeld(inode)) throw error;
      const ctime = inode.attributes.nlink === 0 ? inode.attributes.ctime : this.#session.now();
      inode.attributes = { ...inode.attributes, nlink: 0, ctime };
      return inode;
    }
  }

  openDirectory(ino: InodeId, isCached: boolean): DirectoryStream {
    const inode = this.#table.get(ino);
    if (inode !== undefined) inode.directoryHandles++;
    return new DirectoryStream({ ...this.#options, ino, isCached, count: this.caches.listings });
  }

  closeDirectory(stream: DirectoryStream): void {
    stream.close();
    const inode = this.#table.get(stream.ino);
    if (inode !== undefined && inode.directoryHandles > 0) inode.directoryHandles--;
  }

  setattr(
    request: Omit<SetAttributesRequest, "retry">,
    interrupt: Interruptible,
  ): Inode | Promise<Inode> {
    refuseAfterLoss(this.#table.get(request.ino));
    return this.#options.local?.setattr(request) ?? this.#setattr(request, interrupt);
  }

  async #setattr(
    request: Omit<SetAttributesRequest, "retry">,
    interrupt: Interruptible,
  ): Promise<Inode> {
    const known = this.#table.get(request.ino);
    const file = known?.file;
    // What was written before has its size and time first; the change comes on top. A report that was handed over may have been
    // lost with its connection, and would come after it when it is sent again.
    if (known !== undefined && known.handingOver !== null) await known.handingOver;
    if (file?.isUnflushed) {
      await this.#options.writer.commitBeforeChange(file);
      const changed = this.#options.local?.setattr(request);
      if (changed !== undefined) return changed;
    }
    // The nameserver would take the change for the later one otherwise.
    if (known !== undefined && known.accessedAt !== null) {
      await withSignal(this.#options.tellAccesses?.() ?? Promise.resolve(), interrupt);
    }
    try {
      return await this.#asked.attributes([known], async () => {
        const askedAt = this.#table.moment;
        if (file !== null && file !== undefined) file.unsyncedReports++;
        const reply = await this.#session.change((retry) =>
          this.#session.nameserver.setattr({ ...request, retry }, interrupt)
        );
        return this.#adoptChange(request, reply, askedAt);
      });
    } catch (error) {
      const removed = this.#table.get(request.ino);
      if (!isErrno(error, "ENOENT") || removed === undefined || !isForgotten(removed)) throw error;
      // The server has forgotten it; whoever still works in it goes on to see what they have set.
      removed.attributes = changed(removed.attributes, request, this.#options.clock.now());
      return removed;
    }
  }

  /** Takes over what the nameserver answers to `request`. */
  #adoptChange(request: Omit<SetAttributesRequest, "retry">, reply: InodeReply, askedAt: number): Inode {
    const inode = this.#table.adopt(reply, askedAt);
    if (request.atime !== undefined) inode.accessedAt = null; // told before
    if (inode.xattrs !== null || reply.attributes.hasXattrs) {
      // An ACL follows the mode, and capabilities go with data and owner: values that are on their way may be from before.
      inode.forgetXattrs();
      this.#table.noteRecall(inode.ino);
    }
    if (request.size !== undefined) {
      inode.blocks?.clear();
      inode.resizeInline(request.size);
      if (request.size === 0 && inode.lease !== "none") inode.blocks?.learn(0, Number.MAX_SAFE_INTEGER, []);
    }
    return inode;
  }

  make(request: Omit<MakeRequest, "retry">, interrupt: Interruptible): Found | Promise<Found> {
    refuseAfterLoss(this.#table.get(request.parent));
    const inode = this.#options.local?.make(request);
    if (inode !== undefined) return { inode, isKept: true };
    const { parent } = request;
    return this.#asked.untilAnswered(
      this.#make(request, interrupt),
      [parent],
      interrupt,
      this.#untold(parent),
    );
  }

  /** What was made for somebody who gave up waiting: the kernel was not told of it. */
  #untold(parent: InodeId): (found: Found) => void {
    return ({ inode }) => {
      if (inode !== null && inode.lookups === 0) this.#options.readAhead.noteUntold(inode, parent);
    };
  }

  async #make(asked: Omit<MakeRequest, "retry">, interrupt: Interruptible): Promise<Found> {
    const { local } = this.#options;
    const request = {
      ...asked,
      ...local?.wishes(asked.parent),
      ...local === undefined ? {} : { wantsFound: true as const },
    };
    const make = () =>
      this.#session.change((retry) => this.#session.nameserver.make({ ...request, retry }, interrupt));
    return await this.#asked.names([[request.parent, request.name]], make, (reply, askedAt) => {
      const inode = this.#table.adopt(reply, askedAt);
      // A directory that nobody else can have seen.
      if (inode.lease !== "none" && inode.entries === null) inode.isComplete = true;
      return this.madeEntry(request.parent, request.name, inode, reply, askedAt);
    });
  }

  /** We put a name into a directory. */
  madeEntry(
    parent: InodeId,
    name: Uint8Array,
    inode: Inode,
    { directory, directories }: EntryReply,
    askedAt: number,
  ): Found {
    const isKept = this.#keepChange(parent, name, inode.ino, directory, askedAt);
    this.#directoriesChanged([parent], directories, askedAt);
    return { inode, isKept };
  }

  /** We changed names of these; `changes` is what the answer says of their attributes. */
  #directoriesChanged(
    parents: readonly InodeId[],
    changes: readonly DirectoryChange[] | undefined,
    askedAt: number,
  ): void {
    for (const parent of new Set(parents)) {
      const inode = this.#table.get(parent);
      const change = changes?.find(({ ino }) => ino === parent);
      const isNext = inode !== undefined && inode.isFresh && change !== undefined &&
        change.version === inode.attributes.version + 1 && !this.#table.isCrossed(parent, askedAt);
      if (isNext) {
        const { version, nlink, mtime } = change;
        inode.attributes = { ...inode.attributes, version, nlink, mtime, ctime: mtime };
        this.#table.noteRecall(parent);
      } else {
        this.#asked.noteChanged(parent);
      }
    }
  }

  /** Notes where a name leads after our change of it. */
  #keepChange(
    parent: InodeId,
    name: Uint8Array,
    ino: InodeId,
    lease: EntryReply["directory"],
    askedAt: number,
  ): boolean {
    const isKept = this.#table.adoptEntry(parent, name, ino, lease, askedAt);
    if (!isKept) this.#table.get(parent)?.setEntry(bytesKey(name), UNKNOWN);
    return isKept;
  }

  link(
    ino: InodeId,
    parent: InodeId,
    name: Uint8Array,
    interrupt: Interruptible,
  ): Found | Promise<Found> {
    refuseAfterLoss(this.#table.get(parent));
    const inode = this.#options.local?.link(ino, parent, name);
    if (inode !== undefined) return { inode, isKept: true };
    const linking = this.#link(ino, parent, name, interrupt);
    return this.#asked.untilAnswered(linking, [parent], interrupt, this.#untold(parent));
  }

  async #link(
    ino: InodeId,
    parent: InodeId,
    name: Uint8Array,
    interrupt: Interruptible,
  ): Promise<Found> {
    const link = () =>
      this.#session.change((retry) => this.#session.nameserver.link({ retry, ino, parent, name }, interrupt));
    const linked = (reply: InodeReply & EntryReply, askedAt: number) =>
      this.madeEntry(parent, name, this.#table.adopt(reply, askedAt), reply, askedAt);
    return await this.#asked.attributes(
      [this.#table.get(ino)],
      () => this.#asked.names([[parent, name]], link, linked),
    );
  }

  remove(
    parent: InodeId,
    name: Uint8Array,
    directory: boolean,
    interrupt: Interruptible,
  ): void | Promise<void> {
    const { local } = this.#options;
    return this.#changeNames(
      () => local?.remove(parent, name, directory) === true,
      () => this.#asked.untilAnswered(this.#remove(parent, name, directory, interrupt), [parent], interrupt),
      [[parent, name]],
      interrupt,
    );
  }

  /** Changes names here, if possible, after what is in the way was claimed (undefined), or asks for it. */
  #changeNames<T>(
    here: () => boolean,
    ask: () => Promise<T>,
    names: readonly EntryName[],
    interrupt: Interruptible,
  ): undefined | Promise<T | undefined> {
    const attempt = () => {
      refuseAfterLoss(...names.map(([parent]) => this.#table.get(parent)));
      return here();
    };
    if (attempt()) return undefined;
    const claimed = this.#options.local?.claim(names, interrupt);
    if (claimed === undefined) return ask();
    return claimed.then(() => attempt() ? undefined : ask());
  }

  async #remove(
    parent: InodeId,
    name: Uint8Array,
    directory: boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    const wishes = this.#options.local?.wishes(parent);
    const known = this.#removed(parent, name);
    if (losesXattrs(known)) await this.#keepXattrs(known, interrupt);
    if (known !== undefined) known.removing++;
    try {
      const remove = () =>
        this.#session.change((retry) =>
          this.#session.nameserver.remove(
            withHint({ retry, parent, name, directory, ...wishes }, known, this.#options.clock),
            interrupt,
          )
        );
      await this.#asked.attributes(
        [known],
        () =>
          this.#asked.names([[parent, name]], remove, (reply, askedAt) => {
            this.#lostName(reply.ino, reply.nlink);
            this.#keepChange(parent, name, ABSENT, reply.directory, askedAt);
            this.#directoriesChanged([parent], reply.directories, askedAt);
          }),
      );
    } finally {
      if (known !== undefined) known.removing--;
    }
  }

  /** What was moved, and what it replaced or was exchanged with; undefined: made here, of what is known. */
  rename(
    parent: InodeId,
    name: Uint8Array,
    newParent: InodeId,
    newName: Uint8Array,
    flags: number,
    interrupt: Interruptible,
    owner?: Credentials,
  ): undefined | Promise<RenameReply | undefined> {
    const { local } = this.#options;
    return this.#changeNames(
      () => local?.rename(parent, name, newParent, newName, flags) === true,
      () =>
        this.#asked.untilAnswered(
          this.#rename(parent, name, newParent, newName, flags, interrupt, owner),
          [parent, newParent],
          interrupt,
        ),
      [[parent, name], [newParent, newName]],
      interrupt,
    );
  }

  async #rename(
    parent: InodeId,
    name: Uint8Array,
    newParent: InodeId,
    newName: Uint8Array,
    flags: number,
    interrupt: Interruptible,
    owner?: Credentials,
  ): Promise<RenameReply> {
    for (const directory of new Set([parent, newParent])) this.#options.local?.wishes(directory);
    const known = this.#removed(newParent, newName);
    if (losesXattrs(known)) await this.#keepXattrs(known, interrupt);
    if (known !== undefined) known.removing++;
    const moved = this.#at(parent, name);
    const credentials = (flags & RENAME_WHITEOUT) !== 0 && owner !== undefined ? { credentials: owner } : {};
    const request = { parent, name, newParent, newName, flags, ...credentials };
    let isKept = false;
    let reply: RenameReply;
    const rename = () =>
      this.#session.change((retry) =>
        this.#session.nameserver.rename(
          withHint({ ...request, retry }, known, this.#options.clock),
          interrupt,
        )
      );
    // The kernel moves its entry, and its time-out with it, whatever our answer lets it keep.
    const names: EntryName[] = [[newParent, newName], [parent, name]];
    try {
      reply = await this.#asked.attributes(
        [moved, known],
        () =>
          this.#asked.names(names, rename, (reply, askedAt) => {
            this.#asked.noteChanged(reply.ino);
            if (reply.replaced !== undefined) this.#lostName(reply.replaced.ino, reply.replaced.nlink);
            // What else has the old name is asked; of two names of one file the answer lets us keep none.
            const directory = (flags & (RENAME_EXCHANGE | RENAME_WHITEOUT)) === 0 ? reply.directory : "none";
            isKept = this.#keepChange(newParent, newName, reply.ino, directory, askedAt);
            isKept = this.#keepChange(parent, name, ABSENT, directory, askedAt) && isKept;
            this.#directoriesChanged([parent, newParent], reply.directories, askedAt);
            return reply;
          }),
      );
    } finally {
      if (known !== undefined) known.removing--;
    }
    // What the kernel moves though nothing lets it keep the name has the old epoch, so that it is looked up again.
    if (!isKept) await this.#options.kernelCache.dropAllNames();
    return reply;
  }

  /** What is under a name, as far as that is known here. */
  #at(parent: InodeId, name: Uint8Array): Inode | undefined {
    const ino = this.#table.get(parent)?.entries?.get(bytesKey(name));
    return ino === undefined ? undefined : this.#table.get(ino);
  }

  /** What we know of an inode that is about to lose a name, if anything. */
  #removed(parent: InodeId, name: Uint8Array): Inode | undefined {
    const inode = this.#at(parent, name);
    // Its last close must be told.
    if (inode !== undefined && isOpen(inode)) inode.isRegistered = true;
    return inode;
  }

  #lostName(ino: InodeId, nlink: number): void {
    this.#asked.noteChanged(ino);
    const inode = this.#table.get(ino);
    if (inode === undefined || nlink > 0) return;
    inode.isUnlinked = true;
    if (inode.file !== null) return;
    inode.forgetAll(); // as the server has
  }

  readlink(ino: InodeId, interrupt: Interruptible): Uint8Array | null | Promise<Uint8Array | null> {
    // A target never changes, and an inode's number is never used again.
    const target = this.#table.get(ino)?.target;
    if (target !== undefined && target !== null) return target;
    return this.refresh(ino, interrupt).then((inode) => inode.target);
  }

  async setXattr(
    ino: InodeId,
    name: Uint8Array,
    value: Uint8Array,
    flags: number,
    interrupt: Interruptible,
    killSetgid = false,
  ): Promise<void> {
    if (!killSetgid && bytesEqual(name, ACCESS_ACL) && await this.#setAclHere(ino, value)) return;
    const kill = killSetgid ? { killSetgid } : {};
    await this.#unlessForgotten(
      ino,
      this.#changeXattrs(
        ino,
        (retry) => this.#session.nameserver.setXattr({ retry, ino, name, value, flags, ...kill }, interrupt),
      ),
      (xattrs) => xattrs.set(name, value, flags),
    );
  }

  async #setAclHere(ino: InodeId, value: Uint8Array): Promise<boolean> {
    const { local, writer } = this.#options;
    const inode = this.#table.get(ino);
    if (local === undefined || inode === undefined || !isExclusive(inode.lease)) return false;
    // As before any other change (#setattr).
    if (inode.file?.isUnflushed === true) await writer.commitBeforeChange(inode.file);
    return local.setAcl(ino, value);
  }

  async removeXattr(ino: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<void> {
    // An ACL that is not there may be removed; who copies attributes does so for each inode.
    if (isAclName(name) && this.#hasNone(this.#table.get(ino))) return;
    await this.#unlessForgotten(
      ino,
      this.#changeXattrs(
        ino,
        (retry) => this.#session.nameserver.removeXattr({ retry, ino, name }, interrupt),
      ),
      (xattrs) => xattrs.remove(name),
    );
  }

  /** It has no attributes that the nameserver could remove, nor a reason to refuse that. */
  #hasNone(inode: Inode | undefined): boolean {
    if (!this.isFresh(inode) || inode.attributes.hasXattrs || (inode.attributes.flags ?? 0) !== 0) {
      return false;
    }
    return (inode.attributes.mode & S_IFMT) !== S_IFLNK;
  }

  /** What `asked` brings, or `local` if the nameserver has forgotten the inode with its last name. */
  async #unlessForgotten<T>(
    ino: InodeId,
    asked: Promise<T>,
    local: (xattrs: RemovedXattrs) => T,
  ): Promise<T> {
    try {
      return await asked;
    } catch (error) {
      const inode = this.#table.get(ino);
      if (!isErrno(error, "ENOENT") || inode === undefined || !isHeld(inode)) throw error;
      if (isRegular(inode.attributes)) throw error;
      return local(xattrsOfRemoved(inode));
    }
  }

  /** Before its removal. */
  async #keepXattrs(inode: Inode, interrupt: Interruptible): Promise<void> {
    const kept: Xattr[] = [];
    for (const name of await this.listXattrs(inode.ino, interrupt)) {
      const value = await this.getXattr(inode.ino, name, interrupt);
      if (value !== null) kept.push({ name, value });
    }
    inode.removedXattrs = new RemovedXattrs(kept);
  }

  async #changeXattrs(
    ino: InodeId,
    send: Parameters<typeof ClusterSession.prototype.change<InodeReply>>[0],
  ): Promise<void> {
    await this.#asked.attributes([this.#table.get(ino)], async () => {
      const askedAt = this.#table.moment;
      const reply = await this.#session.change(send);
      this.#table.get(ino)?.forgetAttributes();
      this.#table.adopt(reply, askedAt);
      this.#table.noteRecall(ino); // values that are on their way may be from before
    });
  }

  getXattr(
    ino: InodeId,
    name: Uint8Array,
    interrupt: Interruptible,
  ): Uint8Array | null | Promise<Uint8Array | null> {
    const inode = this.#table.get(ino);
    const { xattrs } = this.caches;
    if (this.isFresh(inode)) {
      const known = inode.attributes.hasXattrs ? inode.xattrs?.get(bytesKey(name)) : null;
      if (known !== undefined) {
        xattrs.hits++;
        return known;
      }
    }
    xattrs.misses++;
    return this.#unlessForgotten(ino, this.#fetchXattr(ino, name, interrupt), (xattrs) => xattrs.get(name));
  }

  async #fetchXattr(ino: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<Uint8Array | null> {
    const askedAt = this.#table.moment;
    let value: Uint8Array | null;
    try {
      value = (await this.#session.nameserver.getXattr({ ino, name }, interrupt)).value;
    } catch (error) {
      if (!isErrno(error, "ENODATA")) throw error;
      value = null;
    }
    const inode = this.#xattrsKeeper(ino, askedAt);
    if (inode !== undefined) (inode.xattrs ??= new Map()).set(bytesKey(name), value);
    return value;
  }

  /** The inode, if what was asked of its xattrs at `askedAt` may be kept. */
  #xattrsKeeper(ino: InodeId, askedAt: number): Inode | undefined {
    const inode = this.#table.get(ino);
    return inode !== undefined && inode.isFresh && !this.#table.isCrossed(ino, askedAt) ? inode : undefined;
  }

  listXattrs(ino: InodeId, interrupt: Interruptible): readonly Uint8Array[] | Promise<readonly Uint8Array[]> {
    const inode = this.#table.get(ino);
    const { xattrs } = this.caches;
    if (this.isFresh(inode)) {
      const known = inode.attributes.hasXattrs ? inode.xattrNames : [];
      if (known !== null) {
        xattrs.hits++;
        return known;
      }
    }
    xattrs.misses++;
    return this.#unlessForgotten(ino, this.#fetchXattrNames(ino, interrupt), (xattrs) => xattrs.list());
  }

  async #fetchXattrNames(ino: InodeId, interrupt: Interruptible): Promise<readonly Uint8Array[]> {
    const askedAt = this.#table.moment;
    const { names } = await this.#session.nameserver.listXattrs({ ino }, interrupt);
    const inode = this.#xattrsKeeper(ino, askedAt);
    if (inode !== undefined) inode.xattrNames = names;
    return names;
  }

  statfs(interrupt: Interruptible): Promise<StatfsReply> {
    return this.#session.nameserver.statfs({}, interrupt);
  }

  /** Everything that was answered before is on the nameserver's disk. */
  async syncNamespace(): Promise<void> {
    await this.#session.sync();
  }
}

const NOT_THERE: Found = { inode: null, isKept: true };

/** Somebody here has it open, or works in it. */
function isHeld(inode: Inode): boolean {
  return inode.directoryHandles > 0 || isOpen(inode) || isForgotten(inode);
}

/**
 * The nameserver forgets all but regular files with their last name, whoever has them open. This one went by our doing or
 * knowledge, so that the kernel can't come to it by a name.
 */
function isForgotten({ isUnlinked, attributes }: Inode): boolean {
  return isUnlinked && !isRegular(attributes);
}

/** Attributes that somebody may look for when it was removed, as it is open here, or held otherwise. */
function losesXattrs(inode: Inode | undefined): inode is Inode {
  return inode !== undefined && !isRegular(inode.attributes) && inode.attributes.hasXattrs;
}

function isRegular({ mode }: Attributes): boolean {
  return (mode & S_IFMT) === S_IFREG;
}

/** What the attributes of something that was removed are after a change. */
function changed(
  attributes: Attributes,
  { mode, uid, gid, atime, mtime }: Omit<SetAttributesRequest, "retry">,
  now: Timespec,
): Attributes {
  return {
    ...attributes,
    nlink: 0,
    mode: mode === undefined ? attributes.mode : (mode & ~S_IFMT) | (attributes.mode & S_IFMT),
    uid: uid ?? attributes.uid,
    gid: gid ?? attributes.gid,
    atime: atime === "now" ? now : atime ?? attributes.atime,
    mtime: mtime === "now" ? now : mtime ?? attributes.mtime,
    ctime: now,
  };
}

function isOpen({ file }: Inode): boolean {
  return (file?.handles ?? 0) > 0;
}

/**
 * Tells with a request that takes a name from `inode` whether it is open here, or may be soon, as it is when the request
 * is sent.
 */
function withHint<T extends object>(
  request: T,
  inode: Inode | undefined,
  clock: Clock,
): T & { readonly removed?: Removed } {
  if (inode === undefined) return request;
  return Object.defineProperty(request, "removed", {
    enumerable: true,
    get: (): Removed => ({
      ino: inode.ino,
      open: isOpen(inode),
      ...(inode.mayBeOpenedSoon(clock.monotonicMs()) ? { told: true } : {}),
    }),
  });
}
