/**
 * The file system of one mount, in MaggieFS's own terms: names and attributes through the nameserver or from what a
 * lease lets it keep, open files, reading and writing. The kernel's handlers above only convert; the cluster's clients
 * below only talk. What is known here without asking is returned at once, not as a promise.
 *
 * Invariants:
 * - At most one OpenFile an inode; it exists while a handle does (and until its last commit is through).
 * - What is returned as kept may stay in the kernel for as long as the session is valid: whoever changes it waits until
 *   it was taken away (recalls.ts).
 */

import { bytesKey } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { isErrno } from "../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../wire/ids.ts";
import { type Attributes, type InodeReply, LEASE_RANK, S_ISGID, S_ISUID } from "../wire/messages/inode.ts";
import type {
  CreateRequest,
  DirectoryChange,
  EntryReply,
  MakeRequest,
  Removed,
  SetAttributesRequest,
  StatfsReply,
} from "../wire/messages/nameserver.ts";
import type { Blocks } from "./blocks.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { type DataAccess, pagesOf } from "./data_access.ts";
import { DirectoryStream } from "./directory_stream.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { Reader } from "./reader.ts";
import type { Releases } from "./releases.ts";
import type { Writer } from "./writer.ts";
import {
  ABSENT,
  type Access,
  type ByteRange,
  type Found,
  type Inode,
  type Interruptible,
  OpenFile,
  UNKNOWN,
} from "./inode.ts";

const RENAME_EXCHANGE = 2;
const BACKGROUND_MS = 1_000;
/** Buffered size and times reach the nameserver at the latest after this. */
const DIRTY_MS_MAX = 3_000;

export interface FileSystemOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly access: DataAccess;
  readonly releases: Releases;
  readonly blocks: Blocks;
  readonly reader: Reader;
  readonly writer: Writer;
  readonly clock: Clock;
  readonly log: Logger;
  /** Label of this host: a new file's first block is made near it. */
  readonly host: string;
}

/** How a file was opened. */
export interface OpenOptions {
  readonly write: boolean;
  readonly truncate: boolean;
  readonly killSuidGid: boolean;
}

export interface Handle {
  readonly file: OpenFile;
  readonly write: boolean;
  /**
   * Reads and writes bypass the kernel's page cache: what is written must not be seen there before it counts, and must
   * not be held up by pages that a recall waits for. Of a file that is being written reads do so too, as the kernel
   * passes over a size that it is told while a write of its own returns.
   */
  readonly isDirect: boolean;
  /** Pages that the kernel kept from before are still right. */
  readonly keepsPages: boolean;
  /** Failures of the file's accepted writes that were told here, or came before it was opened. */
  errorsTold: number;
}

export class FileSystem {
  readonly #options: FileSystemOptions;
  /** Those that are open, or closing. */
  readonly #openFiles = new Set<OpenFile>();

  constructor(options: FileSystemOptions) {
    this.#options = options;
  }

  get #session(): ClusterSession {
    return this.#options.session;
  }

  get #table(): InodeTable {
    return this.#options.table;
  }

  inode(ino: InodeId): Inode | undefined {
    return this.#table.get(ino);
  }

  /** Attributes as this mount's processes see them: our own unreported size and times over the nameserver's. */
  shown(inode: Inode): Attributes {
    return inode.file === null ? inode.attributes : inode.file.shown();
  }

  /** For how long the kernel may keep what is known of an inode. */
  attributesForMs(inode: Inode): number {
    return inode.isFresh ? this.#session.validForMs : 0;
  }

  namesForMs(isKept: boolean): number {
    return isKept ? this.#session.validForMs : 0;
  }

  #isFresh(inode: Inode | undefined): inode is Inode {
    return inode !== undefined && inode.isFresh && this.#session.isValid;
  }

  // ---- attributes and names

  lookup(parent: InodeId, name: Uint8Array, interrupt: Interruptible): Found | Promise<Found> {
    const directory = this.#table.get(parent);
    if (directory !== undefined && directory.lease !== "none" && this.#session.isValid) {
      const key = bytesKey(name);
      const ino = directory.entries?.get(key) ?? (directory.isComplete ? ABSENT : UNKNOWN);
      if (ino === ABSENT) {
        directory.setEntry(key, ABSENT); // the kernel has it from now on
        return NOT_THERE;
      }
      const inode = ino === UNKNOWN ? undefined : this.#table.get(ino);
      if (this.#isFresh(inode)) return { inode, isKept: true };
    }
    return this.#lookUp(parent, name, interrupt);
  }

  async #lookUp(parent: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<Found> {
    const askedAt = this.#table.moment;
    const reply = await this.#session.nameserver.lookup({ parent, name }, interrupt);
    const inode = reply.inode === undefined ? null : this.#table.adopt(reply.inode, askedAt);
    const ino = inode?.ino ?? ABSENT;
    return { inode, isKept: this.#table.adoptEntry(parent, name, ino, reply.directory, askedAt) };
  }

  getattr(ino: InodeId, interrupt: Interruptible): Inode | Promise<Inode> {
    const inode = this.#table.get(ino);
    return this.#isFresh(inode) ? inode : this.#refresh(ino, interrupt);
  }

  async #refresh(ino: InodeId, interrupt?: Interruptible): Promise<Inode> {
    const askedAt = this.#table.moment;
    try {
      return this.#table.adopt(await this.#session.nameserver.getattr({ ino }, interrupt), askedAt);
    } catch (error) {
      const inode = this.#table.get(ino);
      // A directory that another client has removed: whoever has it open sees it empty and without a name.
      if (!isErrno(error, "ENOENT") || inode === undefined || inode.directoryHandles === 0) throw error;
      inode.attributes = { ...inode.attributes, nlink: 0 };
      return inode;
    }
  }

  openDirectory(ino: InodeId, isCached: boolean): DirectoryStream {
    const inode = this.#table.get(ino);
    if (inode !== undefined) inode.directoryHandles++;
    return new DirectoryStream(this.#session, this.#table, ino, isCached);
  }

  closeDirectory({ ino }: DirectoryStream): void {
    const inode = this.#table.get(ino);
    if (inode !== undefined && inode.directoryHandles > 0) inode.directoryHandles--;
  }

  async setattr(
    request: Omit<SetAttributesRequest, "retry">,
    interrupt: Interruptible,
  ): Promise<Inode> {
    const file = this.#table.get(request.ino)?.file;
    // What was written before has its size and time first; the change comes on top.
    if (file?.isUnflushed) await this.#options.writer.commit(file, false);
    const askedAt = this.#table.moment;
    const reply = await this.#session.change((retry) =>
      this.#session.nameserver.setattr({ ...request, retry }, interrupt)
    );
    const inode = this.#table.adopt(reply, askedAt);
    if (request.size !== undefined) {
      inode.blocks?.clear();
      if (request.size === 0 && inode.lease !== "none") inode.blocks?.learn(0, Number.MAX_SAFE_INTEGER, []);
    }
    return inode;
  }

  async make(request: Omit<MakeRequest, "retry">, interrupt: Interruptible): Promise<Found> {
    const askedAt = this.#beginChange(request.parent, request.name);
    const reply = await this.#session.change((retry) =>
      this.#session.nameserver.make({ ...request, retry }, interrupt)
    );
    const inode = this.#table.adopt(reply, askedAt);
    // A directory that nobody else can have seen.
    if (inode.lease !== "none" && inode.entries === null) inode.isComplete = true;
    return this.#madeEntry(request.parent, request.name, inode, reply, askedAt);
  }

  /** A name changes by ours: where it leads is not known until the answer says so. The moment of the request. */
  #beginChange(parent: InodeId, name: Uint8Array): number {
    this.#table.get(parent)?.setEntry(bytesKey(name), UNKNOWN);
    return this.#table.moment;
  }

  /** We put a name into a directory. */
  #madeEntry(
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
        this.#changed(parent);
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

  /**
   * We changed an inode by a reply that does not tell its attributes. Answers that were on their way meanwhile may be from
   * before, so this is a recall like any other.
   */
  #changed(ino: InodeId): void {
    this.#table.get(ino)?.forgetAttributes();
    this.#table.noteRecall(ino);
  }

  async link(ino: InodeId, parent: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<Found> {
    const askedAt = this.#beginChange(parent, name);
    const reply = await this.#session.change((retry) =>
      this.#session.nameserver.link({ retry, ino, parent, name }, interrupt)
    );
    return this.#madeEntry(parent, name, this.#table.adopt(reply, askedAt), reply, askedAt);
  }

  async remove(
    parent: InodeId,
    name: Uint8Array,
    directory: boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    const known = this.#removed(parent, name);
    const askedAt = this.#beginChange(parent, name);
    if (known !== undefined) known.removing++;
    try {
      const reply = await this.#session.change((retry) =>
        this.#session.nameserver.remove(withHint({ retry, parent, name, directory }, known), interrupt)
      );
      this.#lostName(reply.ino, reply.nlink);
      this.#keepChange(parent, name, ABSENT, reply.directory, askedAt);
      this.#directoriesChanged([parent], reply.directories, askedAt);
    } finally {
      if (known !== undefined) known.removing--;
    }
  }

  async rename(
    parent: InodeId,
    name: Uint8Array,
    newParent: InodeId,
    newName: Uint8Array,
    flags: number,
    interrupt: Interruptible,
  ): Promise<void> {
    const known = this.#removed(newParent, newName);
    if (known !== undefined) known.removing++;
    // The kernel moves its entry, and its time-out with it, whatever our answer lets it keep.
    this.#beginChange(newParent, newName);
    const askedAt = this.#beginChange(parent, name);
    let isKept = false;
    try {
      const reply = await this.#session.change((retry) =>
        this.#session.nameserver.rename(
          withHint({ retry, parent, name, newParent, newName, flags }, known),
          interrupt,
        )
      );
      this.#changed(reply.ino);
      if (reply.replaced !== undefined) this.#lostName(reply.replaced.ino, reply.replaced.nlink);
      const isMoved = (flags & RENAME_EXCHANGE) === 0 && reply.ino !== known?.ino;
      const directory = isMoved ? reply.directory : "none";
      isKept = this.#keepChange(newParent, newName, reply.ino, directory, askedAt);
      isKept = this.#keepChange(parent, name, ABSENT, directory, askedAt) && isKept;
      this.#directoriesChanged([parent, newParent], reply.directories, askedAt);
    } finally {
      if (known !== undefined) known.removing--;
    }
    // What the kernel moves though nothing lets it keep the name has the old epoch, so that it is looked up again.
    if (!isKept) await this.#options.kernelCache.dropAllNames();
  }

  /** What we know of an inode that is about to lose a name, if anything. */
  #removed(parent: InodeId, name: Uint8Array): Inode | undefined {
    const ino = this.#table.get(parent)?.entries?.get(bytesKey(name));
    const inode = ino === undefined ? undefined : this.#table.get(ino);
    // Its last close must be told.
    if (inode !== undefined && isOpen(inode)) inode.isRegistered = true;
    return inode;
  }

  #lostName(ino: InodeId, nlink: number): void {
    this.#changed(ino);
    const inode = this.#table.get(ino);
    if (inode === undefined || nlink > 0 || inode.file !== null) return;
    inode.forgetAll(); // as the server has
  }

  readlink(ino: InodeId, interrupt: Interruptible): Uint8Array | null | Promise<Uint8Array | null> {
    // A target never changes, and an inode's number is never used again.
    const target = this.#table.get(ino)?.target;
    if (target !== undefined && target !== null) return target;
    return this.#refresh(ino, interrupt).then((inode) => inode.target);
  }

  async setXattr(
    ino: InodeId,
    name: Uint8Array,
    value: Uint8Array,
    flags: number,
    interrupt: Interruptible,
  ): Promise<void> {
    await this.#changeXattrs(
      ino,
      (retry) => this.#session.nameserver.setXattr({ retry, ino, name, value, flags }, interrupt),
    );
  }

  async removeXattr(ino: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<void> {
    await this.#changeXattrs(
      ino,
      (retry) => this.#session.nameserver.removeXattr({ retry, ino, name }, interrupt),
    );
  }

  async #changeXattrs(
    ino: InodeId,
    send: Parameters<typeof ClusterSession.prototype.change<InodeReply>>[0],
  ): Promise<void> {
    const askedAt = this.#table.moment;
    const reply = await this.#session.change(send);
    this.#table.get(ino)?.forgetAttributes();
    this.#table.adopt(reply, askedAt);
    this.#table.noteRecall(ino); // values that are on their way may be from before
  }

  getXattr(
    ino: InodeId,
    name: Uint8Array,
    interrupt: Interruptible,
  ): Uint8Array | null | Promise<Uint8Array | null> {
    const inode = this.#table.get(ino);
    if (this.#isFresh(inode)) {
      if (!inode.attributes.hasXattrs) return null;
      const known = inode.xattrs?.get(bytesKey(name));
      if (known !== undefined) return known;
    }
    return this.#fetchXattr(ino, name, interrupt);
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
    if (this.#isFresh(inode)) {
      if (!inode.attributes.hasXattrs) return [];
      if (inode.xattrNames !== null) return inode.xattrNames;
    }
    return this.#fetchXattrNames(ino, interrupt);
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
    await this.#session.nameserver.sync({});
  }

  // ---- open files

  /** One more handle on the file; at once when a lease allows it. */
  open(ino: InodeId, options: OpenOptions, interrupt: Interruptible): Handle | Promise<Handle> {
    const inode = this.#table.get(ino);
    const needed = options.write ? 2 : 1;
    const isAllowed = this.#isFresh(inode) && inode.removing === 0 && LEASE_RANK[inode.lease] >= needed &&
      (inode.file === null || inode.file.revocation === null);
    if (isAllowed && !options.truncate) {
      this.#addHandle(inode, options.write);
      return this.#handle(inode, options.write);
    }
    return this.#openByAsking(ino, options, interrupt);
  }

  async #openByAsking(ino: InodeId, options: OpenOptions, interrupt: Interruptible): Promise<Handle> {
    const { write, truncate, killSuidGid } = options;
    if (truncate) {
      const kill = killSuidGid ? { killSuidGid } : {};
      await this.setattr({ ino, size: 0, ...write ? { write } : {}, ...kill }, interrupt);
    }
    const inode = this.#table.get(ino) ?? await this.#refresh(ino, interrupt);
    // Counted first: asked meanwhile whether it is open here, we say yes.
    const file = this.#addHandle(inode, write);
    try {
      const needed = write ? 2 : 1;
      const isHeld = LEASE_RANK[inode.lease] >= needed && inode.removing === 0 && this.#session.isValid;
      if (!isHeld) await this.#options.access.acquire(file, write ? "write" : "read", interrupt);
      if (!inode.isFresh) await this.#refresh(ino, interrupt);
      return this.#handle(inode, write);
    } catch (error) {
      await this.#dropHandle(file, write);
      throw error;
    }
  }

  #addHandle(inode: Inode, write: boolean): OpenFile {
    const file = inode.file ??= new OpenFile(inode);
    this.#openFiles.add(file);
    file.handles++;
    if (write) file.writers++;
    return file;
  }

  #handle(inode: Inode, write: boolean): Handle {
    const keepsPages = !inode.hasStalePages;
    inode.hasStalePages = false;
    const file = inode.file!;
    const isDirect = write || file.writers > 0 || inode.isShared;
    return { file, write, isDirect, keepsPages, errorsTold: file.writeErrors };
  }

  /** creat(2): makes the file, or opens the one that is there (without O_EXCL). */
  async create(
    request: Omit<CreateRequest, "retry" | "host">,
    options: Pick<OpenOptions, "truncate">,
    interrupt: Interruptible,
  ): Promise<{ readonly handle: Handle; readonly found: Found }> {
    const { session, releases, host } = this.#options;
    const { write, parent, name } = request;
    const askedAt = this.#beginChange(parent, name);
    const known = releases.beginCreate();
    try {
      const reply = await session.change((retry) =>
        session.nameserver.create({ ...request, retry, ...write ? { host } : {} }, interrupt)
      );
      const inode = this.#table.adopt(reply, askedAt);
      const found = this.#madeEntry(parent, name, inode, reply, askedAt);
      if (!reply.created) inode.isShared = reply.isShared;
      if (write || !reply.created) inode.isRegistered = true;
      const file = this.#addHandle(inode, write);
      known.end(inode.ino);
      try {
        if (reply.created) releases.noteUnused(file, reply.blocks.length > 0);
        else if (options.truncate) {
          await this.setattr({ ino: inode.ino, size: 0, ...write ? { write } : {} }, interrupt);
        }
        return { handle: this.#handle(inode, write), found };
      } catch (error) {
        await this.#dropHandle(file, write);
        throw error;
      }
    } finally {
      known.end();
    }
  }

  /** One handle less; the last one takes the OpenFile with it. Errors were told by flush; late ones are logged. */
  async close({ file, write }: Handle): Promise<void> {
    await this.#dropHandle(file, write);
  }

  async #dropHandle(file: OpenFile, write: boolean): Promise<void> {
    file.handles--;
    if (write) file.writers--;
    if (file.handles > 0) return;
    if (file.isUnflushed) {
      try {
        await this.#options.writer.commit(file, false);
      } catch (error) {
        this.#options.log.error("closed file could not be committed", { ino: file.ino, error });
      }
    }
    while (file.revocation !== null) await file.revocation.ended;
    const { inode } = file;
    if (file.handles > 0 || inode.file !== file) return;
    inode.file = null;
    this.#openFiles.delete(file);
    this.#options.releases.closed(inode, file);
  }

  /** The kernel has forgotten the inode `count` of the times that it was told of it. */
  forget(ino: InodeId, count: number): void {
    const inode = this.#table.get(ino);
    if (inode === undefined || ino === ROOT_INODE) return;
    inode.lookups = Math.max(0, inode.lookups - count);
    if (inode.lookups > 0) return;
    inode.hasPages = false;
    this.#options.releases.forgotten(inode);
  }

  // ---- data

  /** `isDirect`: not into pages of the kernel's (a mapping of a direct handle reads into pages). */
  read(
    { file }: Handle,
    offset: number,
    size: number,
    isDirect: boolean,
    interrupt: Interruptible,
  ): Promise<Uint8Array[]> {
    const access: Access = {
      ...pagesOf(offset, size),
      isWrite: false,
      isPaged: !isDirect,
      isWriteback: false,
    };
    return this.#options.access.use(
      file,
      access,
      interrupt,
      () => this.#options.reader.read(file, offset, size, interrupt),
    );
  }

  async write(
    { file }: Handle,
    offset: number,
    data: Uint8Array,
    options: { readonly append: boolean; readonly isWriteback: boolean; readonly killSuidGid: boolean },
    interrupt: Interruptible,
  ): Promise<void> {
    const { append, isWriteback, killSuidGid } = options;
    const access: Access = {
      ...pagesOf(offset, data.length),
      isWrite: true,
      isPaged: isWriteback,
      isWriteback,
    };
    let position = offset;
    await this.#options.access.use(file, access, interrupt, async () => {
      if (append && !file.inode.attributesKnown) await this.#refresh(file.ino);
      if (append) position = file.size;
      await this.#options.writer.write(file, position, data, killSuidGid);
    });
    // Pages that a mapping brought in while the write was on its way. Outside of the access, as a read may hold them.
    if (!isWriteback && file.inode.hasPages) {
      await this.#dropPages(file.inode, pagesOf(position, data.length));
    }
  }

  /** Drops what the kernel has of a file whose data we changed under it. Must not be waited for by who holds its pages. */
  #dropPages(inode: Inode, range: ByteRange): Promise<void> {
    return this.#options.kernelCache.dropRanges(inode, [range]);
  }

  /** An operation on all of a file's data that is neither a read nor a write of the kernel's. */
  #exclusively<T>(
    file: OpenFile,
    write: boolean,
    interrupt: Interruptible,
    run: () => Promise<T>,
  ): Promise<T> {
    const access: Access = { start: 0, end: Infinity, isWrite: write, isPaged: false, isWriteback: false };
    return this.#options.access.use(file, access, interrupt, run);
  }

  /** close(2) of a descriptor: all replicas and the nameserver have what was written; tells a failure once. */
  async flush(handle: Handle): Promise<void> {
    const { file } = handle;
    const isReported = !file.isUnflushed && file.inode.handingOver === null;
    await this.#tellFailure(handle, isReported ? undefined : this.#options.writer.commit(file, false));
  }

  async fsync(handle: Handle): Promise<void> {
    await this.#tellFailure(handle, this.#options.writer.sync(handle.file));
  }

  /** Waits for `work`, then fails if it did, or if something that was accepted could not be stored; once a handle. */
  async #tellFailure(handle: Handle, work: Promise<void> | undefined): Promise<void> {
    const { file } = handle;
    try {
      await work;
      if (handle.errorsTold !== file.writeErrors) throw file.writeError!;
    } finally {
      handle.errorsTold = file.writeErrors;
    }
  }

  /** Allocates blocks over the holes of [offset, end); `grow` also moves the end of the file. */
  allocate(
    { file }: Handle,
    offset: number,
    end: number,
    grow: boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    const { blocks } = this.#options;
    return this.#exclusively(file, true, interrupt, async () => {
      for (let at = offset; at < end;) {
        await blocks.know(file, at, at + 1);
        const block = file.blocks.at(at) ?? await blocks.allocate(file, at);
        at = block.start + block.length;
      }
      if (grow) await this.#growTo(file, end);
    });
  }

  async #growTo(file: OpenFile, end: number): Promise<void> {
    if (!file.inode.isFresh) await this.#refresh(file.ino);
    if (end <= file.size) return;
    file.wrote(end, this.#session.now(), this.#options.clock.monotonicMs());
    await this.#options.writer.commit(file, false);
  }

  /** [offset, end) reads as zeros from now on; whole blocks in it are given back. */
  async zeroRange(
    { file }: Handle,
    offset: number,
    end: number,
    grow: boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    const { writer } = this.#options;
    await this.#exclusively(file, true, interrupt, async () => {
      await writer.commit(file, false);
      if (!file.inode.isFresh) await this.#refresh(file.ino, interrupt);
      const stop = Math.min(end, file.size);
      if (stop > offset) {
        const { ino } = file;
        const askedAt = this.#table.moment;
        const reply = await this.#session.change((retry) =>
          this.#session.nameserver.punch({ retry, ino, offset, length: stop - offset }, interrupt)
        );
        file.blocks.clear();
        this.#table.adopt(reply, askedAt);
        await writer.zero(file, offset, stop);
        await writer.commit(file, false);
      }
      if (grow) await this.#growTo(file, end);
    });
    // Zeros were written under the kernel's pages.
    await this.#dropPages(file.inode, { start: 0, end: Infinity });
  }

  /** What a change of the data by an ordinary user takes off an executable. */
  async dropPrivileges({ file }: Handle, interrupt: Interruptible): Promise<void> {
    if (!file.inode.isFresh) await this.#refresh(file.ino, interrupt);
    if ((file.shown().mode & (S_ISUID | S_ISGID)) === 0) return;
    await this.setattr({ ino: file.ino, killSuidGid: true }, interrupt);
  }

  /** SEEK_DATA and SEEK_HOLE by blocks; undefined past the end (ENXIO). */
  seek(
    { file }: Handle,
    offset: number,
    wantsData: boolean,
    interrupt: Interruptible,
  ): Promise<number | undefined> {
    return this.#exclusively(file, false, interrupt, async () => {
      await file.settled(0, Infinity);
      if (!file.inode.isFresh) await this.#refresh(file.ino);
      if (offset >= file.size) return undefined;
      for (let at = offset; at < file.size;) {
        await this.#options.blocks.know(file, at, at + 1);
        const block = file.blocks.at(at);
        const isData = block !== undefined && file.hasData(block);
        if (isData === wantsData) return at;
        if (block !== undefined) {
          at = block.start + block.length;
          continue;
        }
        const next = file.blocks.nextStart(at);
        if (next < file.size) {
          at = next;
          continue;
        }
        await this.#options.blocks.know(file, at, file.size);
        if (file.blocks.at(at) === undefined && file.blocks.nextStart(at) >= file.size) break;
      }
      return wantsData ? undefined : file.size;
    });
  }

  // ---- background

  /** Commits what has been dirty for long and tells releases, about once a second. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, releases, writer, log } = this.#options;
    while (!signal.aborted) {
      await clock.sleep(BACKGROUND_MS, signal);
      releases.send();
      const nowMs = clock.monotonicMs();
      for (const file of this.#openFiles) {
        if (!file.dirty || nowMs - file.dirtySinceMs < DIRTY_MS_MAX) continue;
        writer.commit(file, false).catch((error) => {
          log.warn("size and times not committed yet", { ino: file.ino, error });
        });
      }
    }
  }

  /** Before the end: everything accepted is with the cluster. */
  async finish(): Promise<void> {
    const { releases, writer, log } = this.#options;
    for (const file of this.#openFiles) {
      if (!file.isUnflushed) continue;
      await writer.commit(file, false).catch((error) => {
        log.error("written data was not committed", { ino: file.ino, error });
      });
    }
    await releases.send();
  }
}

const NOT_THERE: Found = { inode: null, isKept: true };

function isOpen({ file }: Inode): boolean {
  return (file?.handles ?? 0) > 0;
}

/** Tells with a request that takes a name from `inode` whether it is open here, as it is when the request is sent. */
function withHint<T extends object>(
  request: T,
  inode: Inode | undefined,
): T & { readonly removed?: Removed } {
  if (inode === undefined) return request;
  return Object.defineProperty(request, "removed", {
    enumerable: true,
    get: (): Removed => ({ ino: inode.ino, open: isOpen(inode) }),
  });
}
