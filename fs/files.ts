/**
 * Open files of one mount: opening and closing, reading and writing, and what is done in the background for them. The
 * kernel's handlers above only convert; names and attributes are names.ts'. What a lease allows is answered at once.
 *
 * Invariant: at most one OpenFile an inode; it exists while a handle does, and until its last commit is through and what it
 * asked for is answered.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { bodies } from "../wire/bodies.ts";
import { FsError } from "../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../wire/ids.ts";
import { LEASE_RANK } from "../wire/messages/inode.ts";
import type { CreateRequest, CreateUnnamedRequest } from "../wire/messages/nameserver.ts";
import type { AskedChanges } from "./asked_changes.ts";
import { type Blocks, demandTenure } from "./blocks.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { type DataAccess, pagesOf } from "./data_access.ts";
import { type Access, type Found, type Inode, OpenFile } from "./inode.ts";
import type { ByteRange } from "./pending_write.ts";
import { isAppendOnly, refuseOpen, refuseWrite } from "./inode_flags.ts";
import { type DeferredChanges, refuseAfterLoss } from "./deferred_changes.ts";
import type { FileReadAhead } from "./file_read_ahead.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { LocalReplicas } from "./local_replicas.ts";
import type { LocalChanges } from "./local_changes.ts";
import type { NameReadAhead } from "./name_read_ahead.ts";
import type { Names } from "./names.ts";
import { beforeGrowth, pagesRead, pagesWritten } from "./past_the_end.ts";
import type { Reader } from "./reader.ts";
import type { Releases } from "./releases.ts";
import type { Memory, Writer } from "./writer.ts";
import { type Interruptible, withSignal } from "./interruptible.ts";

const BACKGROUND_MS = 1_000;
/** Buffered size and times reach the nameserver at the latest after this. */
const DIRTY_MS_MAX = 3_000;

export interface FilesOptions {
  readonly session: ClusterSession;
  readonly names: Names;
  readonly asked: AskedChanges;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly access: DataAccess;
  readonly releases: Releases;
  readonly readAhead: NameReadAhead;
  readonly blocks: Blocks;
  readonly reader: Reader;
  readonly localReplicas?: LocalReplicas;
  readonly fileAhead?: FileReadAhead;
  readonly writer: Writer;
  readonly clock: Clock;
  readonly log: Logger;
  /** Label of this host: a new file's first block is made near it. */
  readonly host: string;
  /** Absent: nothing is deferred. */
  readonly deferred?: DeferredChanges;
  /** As NamesOptions'. */
  readonly local?: LocalChanges | undefined;
}

/** How a file was opened. */
export interface OpenOptions {
  readonly write: boolean;
  readonly truncate: boolean;
  readonly killSuidGid: boolean;
  /** O_APPEND. */
  readonly append?: boolean;
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
  /** The file was append-only when it was opened for writing: that O_APPEND is cleared later (fcntl) does not help. */
  readonly mustAppend: boolean;
  /** O_NOATIME: what is read through it is no access. */
  isQuiet: boolean;
  /** Why nothing may be read or written through it any more, if so: a lock that it was to be done under is lost. */
  refusal?: () => FsError | undefined;
  /** Failures of the file's accepted writes that were told here, or came before it was opened. */
  errorsTold: number;
  /** As errorsTold, of changes that were deferred (`DeferredChanges.losses`). */
  lossesTold: number;
}

interface Created {
  readonly handle: Handle;
  readonly found: Found;
  readonly isNew: boolean;
}

export class Files {
  readonly #options: FilesOptions;
  /** Those that are open, or closing. */
  readonly #openFiles = new Set<OpenFile>();

  constructor(options: FilesOptions) {
    this.#options = options;
  }

  get #session(): ClusterSession {
    return this.#options.session;
  }

  get #table(): InodeTable {
    return this.#options.table;
  }

  get #losses(): number {
    return this.#options.deferred?.losses ?? 0;
  }

  get #names(): Names {
    return this.#options.names;
  }

  /** One more handle on the file; at once when a lease allows it. */
  open(ino: InodeId, options: OpenOptions, interrupt: Interruptible): Handle | Promise<Handle> {
    const inode = this.#table.get(ino);
    const needed = LEASE_RANK[options.write ? "write" : "read"];
    const isAllowed = this.#names.isFresh(inode) && !inode.mayVanish &&
      LEASE_RANK[inode.lease] >= needed &&
      (inode.file === null || inode.file.revocation === null);
    if (isAllowed && !options.truncate) {
      refuseOpen(inode.attributes, options);
      this.#addHandle(inode, options.write);
      return this.#handle(inode, options.write);
    }
    return this.#openByAsking(ino, options, interrupt);
  }

  async #openByAsking(ino: InodeId, options: OpenOptions, interrupt: Interruptible): Promise<Handle> {
    const { write, truncate, killSuidGid } = options;
    if (truncate) {
      const kill = killSuidGid ? { killSuidGid } : {};
      // The server takes it for open by that, also if nobody waits for the answer any more.
      const known = this.#table.get(ino);
      if (write && known !== undefined) known.isRegistered = true;
      await this.#names.setattr({ ino, size: 0, ...write ? { write } : {}, ...kill }, interrupt);
    }
    const inode = this.#table.get(ino) ?? await this.#names.refresh(ino, interrupt);
    // Counted first: asked meanwhile whether it is open here, we say yes.
    const file = this.#addHandle(inode, write);
    if (truncate && write) inode.isRegistered = true; // it may have been told to be closed meanwhile
    try {
      const needed = LEASE_RANK[write ? "write" : "read"];
      const isHeld = LEASE_RANK[inode.lease] >= needed && !inode.mayVanish && this.#session.isValid;
      if (!isHeld) await this.#options.access.acquire(file, write ? "write" : "read", interrupt);
      if (!inode.isFresh) await this.#names.refresh(ino, interrupt);
      refuseOpen(inode.attributes, options);
      return this.#handle(inode, write);
    } catch (error) {
      void this.#dropHandle(file, write); // whoever is interrupted does not wait for the answer
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
    const mustAppend = write && isAppendOnly(inode.attributes);
    const told = { errorsTold: file.writeErrors, lossesTold: this.#losses };
    return { file, write, isDirect, keepsPages, mustAppend, isQuiet: false, ...told };
  }

  /** creat(2): makes the file, or opens the one that is there (without O_EXCL). */
  create(
    request: Omit<CreateRequest, "retry" | "host">,
    options: Pick<OpenOptions, "truncate" | "append">,
    interrupt: Interruptible,
  ): Created | Promise<Created> {
    refuseAfterLoss(this.#table.get(request.parent));
    // The close of what is only read would not wait for it (FOPEN_NOFLUSH).
    const inode = request.write ? this.#options.local?.makeFile(request) : undefined;
    if (inode === undefined) return this.#createByAsking(request, options, interrupt);
    inode.isRegistered = true;
    this.#addHandle(inode, true);
    return { handle: this.#handle(inode, true), found: { inode, isKept: true }, isNew: true };
  }

  async #createByAsking(
    request: Omit<CreateRequest, "retry" | "host">,
    options: Pick<OpenOptions, "truncate" | "append">,
    interrupt: Interruptible,
  ): Promise<Created> {
    const creating = this.#create(request, options, interrupt);
    // Who gives up waiting leaves us to close what may be made all the same.
    const { parent } = request;
    return await this.#options.asked.untilAnswered(
      creating,
      [parent],
      interrupt,
      ({ handle }) => this.close(handle),
    );
  }

  async #create(
    asked: Omit<CreateRequest, "retry" | "host">,
    options: Pick<OpenOptions, "truncate" | "append">,
    interrupt: Interruptible,
  ): Promise<Created> {
    const { session, releases, host } = this.#options;
    const { write, parent, name } = asked;
    const request = { ...asked, ...this.#options.local?.wishes(parent) };
    const known = releases.beginCreate();
    const create = () =>
      session.change((retry) => session.create({ ...request, retry, ...write ? { host } : {} }, interrupt));
    try {
      const made = await this.#options.asked.names([[parent, name]], create, (reply, askedAt) => {
        const inode = this.#table.adopt(reply, askedAt);
        const found = this.#names.madeEntry(parent, name, inode, reply, askedAt);
        if (!reply.created) inode.isShared = reply.isShared;
        if (write || !reply.created) inode.isRegistered = true;
        const file = this.#addHandle(inode, write);
        known.end(inode.ino);
        return { reply, askedAt, inode, found, file };
      });
      const { reply, askedAt, inode, found, file } = made;
      try {
        if (reply.created) releases.noteUnused(file, reply.blocks.length > 0);
        else if (this.#table.isCrossed(inode.ino, askedAt)) {
          // A release may have been on its way that calls it closed; what is asked now comes behind that.
          await this.#options.access.acquire(file, write ? "write" : "read", interrupt);
        }
        if (!reply.created) refuseOpen(inode.attributes, { ...options, write });
        if (!reply.created && options.truncate) {
          await this.#names.setattr({ ino: inode.ino, size: 0, ...write ? { write } : {} }, interrupt);
        }
        return { handle: this.#handle(inode, write), found, isNew: reply.created };
      } catch (error) {
        void this.#dropHandle(file, write);
        throw error;
      }
    } finally {
      known.end();
    }
  }

  /** O_TMPFILE: makes a file that has no name, and opens it for writing. */
  async createUnnamed(
    request: Omit<CreateUnnamedRequest, "retry" | "host">,
    interrupt: Interruptible,
  ): Promise<{ readonly handle: Handle; readonly found: Found }> {
    // Nobody else will ever find it: who gives up waiting leaves us to close it.
    const opening = this.#openUnnamed(request);
    try {
      return await withSignal(opening, interrupt);
    } catch (error) {
      opening.then(({ handle }) => this.close(handle)).catch(() => {}); // `error` says why, or nobody waits for it
      throw error;
    }
  }

  async #openUnnamed(request: Omit<CreateUnnamedRequest, "retry" | "host">) {
    const { session, releases, host } = this.#options;
    const askedAt = this.#table.moment;
    const reply = await session.change((retry) =>
      session.nameserver.createUnnamed({ ...request, retry, host })
    );
    const inode = this.#table.adopt(reply, askedAt);
    inode.isRegistered = true; // its last close must be told
    inode.isUnlinked = true;
    const file = this.#addHandle(inode, true);
    releases.noteUnused(file, reply.blocks.length > 0);
    return { handle: this.#handle(inode, true), found: { inode, isKept: false } };
  }

  /** One handle less; the last one takes the OpenFile with it. Errors were told by flush; late ones are logged. */
  async close({ file, write }: Handle): Promise<void> {
    await this.#dropHandle(file, write);
  }

  /** Never rejects. */
  async #dropHandle(file: OpenFile, write: boolean): Promise<void> {
    const { inode } = file;
    file.handles--;
    if (write) file.writers--;
    let isGivenUp = false;
    // After each wait all is looked at anew: the file may have been opened again, written to, and closed.
    for (;;) {
      if (file.handles > 0 || inode.file !== file) return;
      if (file.isUnflushed && !isGivenUp) {
        try {
          await this.#options.writer.commit(file, false);
        } catch (error) {
          isGivenUp = true;
          this.#options.log.error("closed file could not be committed", { ino: file.ino, error });
        }
      } else if (file.revocation !== null) {
        await file.revocation.ended;
      } else if (file.acquiring !== null) {
        // Who asked was interrupted. By what is granted the server takes the file for open: that it is closed is told behind it.
        await file.acquiring.catch(() => {});
      } else {
        break;
      }
    }
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

  /** As `read`, what can be had without waiting for anything, else null. The bytes are good until the next call. */
  readNow(handle: Handle, offset: number, size: number, isDirect: boolean): Uint8Array | null {
    const { access, reader } = this.#options;
    const { file } = handle;
    if (!access.isFree(file)) return null;
    checkUsable(handle);
    const bytes = reader.readNow(file, offset, size);
    if (bytes !== null && !isDirect) {
      file.inode.hasPages = true;
      file.inode.pagesBrought++;
      pagesRead(file, pagesOf(offset, size));
    }
    return bytes;
  }

  /** `isDirect`: not into pages of the kernel's (a mapping of a direct handle reads into pages). */
  read(
    handle: Handle,
    offset: number,
    size: number,
    isDirect: boolean,
    interrupt: Interruptible,
  ): Promise<Uint8Array[]> {
    const { file } = handle;
    const access: Access = {
      ...pagesOf(offset, size),
      isWrite: false,
      isPaged: !isDirect,
      isWriteback: false,
    };
    if (!isDirect) pagesRead(file, access);
    return this.#options.access.use(
      file,
      access,
      interrupt,
      () => {
        checkUsable(handle);
        return this.#options.reader.read(file, offset, size, interrupt);
      },
    );
  }

  /** `isSynced`: what was written is on disk when it resolves, as after fsync. */
  async write(
    handle: Handle,
    offset: number,
    data: Uint8Array,
    options: {
      readonly append: boolean;
      readonly isWriteback: boolean;
      readonly isSynced?: boolean;
      readonly killSuidGid: boolean;
    },
    interrupt: Interruptible & Memory,
  ): Promise<void> {
    const { file } = handle;
    const { append, isWriteback, isSynced = false, killSuidGid } = options;
    const access: Access = {
      ...pagesOf(offset, data.length),
      isWrite: true,
      isPaged: isWriteback,
      isWriteback,
    };
    let position = offset;
    const { mode } = file.shown();
    // As of a store into memory, which the writeback of a mapping is, local file systems don't.
    if (!isWriteback && file.inode.attributes.hasCapability === true) {
      await this.#dropCapability(file, interrupt);
    }
    if (isWriteback) pagesWritten(file, offset, data);
    else if (!append) await beforeGrowth(this.#options.kernelCache, file, offset);
    await this.#options.access.use(file, access, interrupt, async (tenure) => {
      if (!isWriteback) checkUsable(handle);
      const { attributes } = file.inode;
      refuseWrite(attributes);
      if (handle.mustAppend && !isWriteback) refuseOpen(attributes, { write: true, append });
      if (append && !file.inode.attributesKnown) {
        await this.#names.refresh(file.ino);
        demandTenure(file, tenure);
      }
      if (append) position = file.size;
      await this.#options.writer.write(file, position, data, killSuidGid, interrupt);
    });
    // The kernel takes it that a write leaves the mode as it was.
    if (file.shown().mode !== mode) await this.#options.kernelCache.dropMode(file.inode);
    // Pages that a mapping brought in while the write was on its way. Outside of the access, as a read may hold them.
    if (!isWriteback && file.inode.hasPages) {
      await this.#dropPages(file.inode, pagesOf(position, data.length));
    }
    if (isSynced) await this.fsync(handle);
  }

  /** Drops what the kernel has of a file whose data we changed under it. Must not be waited for by who holds its pages. */
  #dropPages(inode: Inode, range: ByteRange): Promise<void> {
    return this.#options.kernelCache.dropRanges(inode, [range]);
  }

  /** close(2) of a descriptor: all replicas and the nameserver have what was written; tells a failure once. */
  async flush(handle: Handle): Promise<void> {
    await this.#tellFailure(handle, this.#report(handle));
  }

  /** What close(2) returned for survives: what was written, that the file is there, and all that was done before. */
  async #report({ file }: Handle): Promise<void> {
    const isReported = !file.isUnflushed && file.inode.handingOver === null;
    if (!isReported) await this.#options.writer.commit(file, false);
    const settling = this.#session.settle();
    if (settling !== undefined) await settling;
  }

  /** `dataOnly`: fdatasync(2). */
  async fsync(handle: Handle, dataOnly = false): Promise<void> {
    await this.#tellFailure(handle, this.#options.writer.sync(handle.file, dataOnly));
  }

  /** Waits for `work`, then fails if it did, or if something that was accepted could not be stored; once a handle. */
  async #tellFailure(handle: Handle, work: Promise<void>): Promise<void> {
    const { file } = handle;
    try {
      await work;
      if (handle.errorsTold !== file.writeErrors) throw file.writeError!;
      if (handle.lossesTold !== this.#losses) {
        throw new FsError("EIO", "what was changed before could not be told to the nameserver", {
          op: "defer",
        });
      }
    } finally {
      handle.errorsTold = file.writeErrors;
      handle.lossesTold = this.#losses;
    }
  }

  /** Before the data changes. Outside of accesses, as it may wait for another client, which waits for them. */
  async #dropCapability(file: OpenFile, interrupt: Interruptible): Promise<void> {
    await this.#names.setattr({ ino: file.ino, killCapability: true }, interrupt);
  }

  // ---- background

  /** Commits what has been dirty for long and tells releases and the like, about once a second. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, releases, readAhead, writer, localReplicas, fileAhead, log } = this.#options;
    while (!signal.aborted) {
      await clock.sleep(BACKGROUND_MS, signal);
      readAhead.sweep();
      releases.send();
      bodies.trim();
      localReplicas?.sweep();
      fileAhead?.sweep();
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
    await this.#session.settle();
    await releases.send();
  }
}

/** In an access: whoever waited for its lease may have lost its locks meanwhile. */
export function checkUsable(handle: Handle): void {
  const error = handle.refusal?.();
  if (error !== undefined) throw error;
}
