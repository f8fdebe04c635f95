/**
 * The file system of one mount, in MaggieFS's own terms: the namespace through the nameserver, open files with their
 * caches, reading and writing. The kernel's handlers above only convert; the cluster's clients below only talk.
 *
 * Invariants:
 * - At most one OpenFile an inode; it exists while a handle does (and until its last commit is through).
 * - An inode that is open here is registered with the leaseserver; its release is told only after the last close,
 *   and before it is opened again.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import type { InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  type InodeReply,
  type LeaseMode,
  S_ISGID,
  S_ISUID,
} from "../wire/messages/inode.ts";
import type {
  CreateRequest,
  MakeRequest,
  OpenReply,
  RecallAnswer,
  RecallPush,
  SetAttributesRequest,
  StatfsReply,
} from "../wire/messages/nameserver.ts";
import type { Blocks } from "./blocks.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { type Interruptible, OpenFile } from "./open_file.ts";
import type { Reader } from "./reader.ts";
import type { Writer } from "./writer.ts";

const RELEASE_BATCH = 256;
const BACKGROUND_MS = 1_000;
/** Buffered size and times reach the nameserver at the latest after this. */
const DIRTY_MS_MAX = 3_000;
const KNOWN_VERSIONS_MAX = 20_000;

export interface FileSystemOptions {
  readonly session: ClusterSession;
  readonly blocks: Blocks;
  readonly reader: Reader;
  readonly writer: Writer;
  readonly clock: Clock;
  readonly log: Logger;
  /** Drops what the kernel caches of an inode; attributes only, or pages as well. Must not wait. */
  readonly invalidate: (ino: InodeId, withData: boolean) => void;
}

export interface OpenResult {
  readonly file: OpenFile;
  /** Pages that the kernel kept from before are still right. */
  readonly keepCache: boolean;
}

export class FileSystem {
  readonly #options: FileSystemOptions;
  readonly #open = new Map<InodeId, OpenFile>();
  /** Opens under way, by inode: how many, and how many recalls came meanwhile. */
  readonly #opening = new Map<InodeId, { count: number; recalls: number }>();
  /** Creations under way; which inodes they will open is not known yet. */
  #creating = 0;
  /** All recalls so far. */
  #recalls = 0;
  /** Closed files whose release has not been told yet. */
  readonly #releases = new Set<InodeId>();
  #releasing: Promise<void> = Promise.resolve();
  /** Version that an inode had when it was last closed here: pages of that version may be in the kernel. */
  readonly #knownVersions = new Map<InodeId, number>();

  constructor(options: FileSystemOptions) {
    this.#options = options;
  }

  get #session(): ClusterSession {
    return this.#options.session;
  }

  openFile(ino: InodeId): OpenFile | undefined {
    return this.#open.get(ino);
  }

  /** What to show for a reply: our own unreported size and times over it. */
  shown(reply: InodeReply): Attributes {
    const file = this.#open.get(reply.attributes.ino);
    return file === undefined ? reply.attributes : file.shown(reply.attributes);
  }

  // ---- attributes and names

  lookup(parent: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<InodeReply> {
    return this.#session.nameserver.lookup({ parent, name }, interrupt);
  }

  async getattr(ino: InodeId, interrupt: Interruptible): Promise<Attributes> {
    const file = this.#open.get(ino);
    if (file === undefined) return this.shown(await this.#session.nameserver.getattr({ ino }, interrupt));
    if (!file.isFresh) await this.#refresh(file, interrupt);
    return file.shown();
  }

  async #refresh(file: OpenFile, interrupt?: Interruptible): Promise<void> {
    const { recalls } = file;
    file.adopt(await this.#session.nameserver.getattr({ ino: file.ino }, interrupt), recalls);
  }

  async setattr(
    request: Omit<SetAttributesRequest, "retry">,
    interrupt: Interruptible,
  ): Promise<Attributes> {
    const file = this.#open.get(request.ino);
    // What was written before has its size and time first; the change comes on top.
    if (file !== undefined && (file.dirty || file.pending.size > 0)) {
      await this.#options.writer.commit(file, false);
    }
    const recalls = file?.recalls ?? 0;
    const reply = await this.#session.change((retry) =>
      this.#session.nameserver.setattr({ ...request, retry }, interrupt)
    );
    if (file === undefined) return this.shown(reply);
    if (request.size !== undefined) file.blocks.clear();
    file.adopt(reply, recalls);
    return file.shown();
  }

  make(request: Omit<MakeRequest, "retry">, interrupt: Interruptible): Promise<InodeReply> {
    return this.#session.change((retry) => this.#session.nameserver.make({ ...request, retry }, interrupt));
  }

  async link(ino: InodeId, parent: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<InodeReply> {
    const reply = await this.#session.change((retry) =>
      this.#session.nameserver.link({ retry, ino, parent, name }, interrupt)
    );
    this.#changed(ino);
    return reply;
  }

  async remove(
    parent: InodeId,
    name: Uint8Array,
    directory: boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    const reply = await this.#session.change((retry) =>
      this.#session.nameserver.remove({ retry, parent, name, directory }, interrupt)
    );
    this.#changed(reply.ino);
  }

  async rename(
    parent: InodeId,
    name: Uint8Array,
    newParent: InodeId,
    newName: Uint8Array,
    flags: number,
    interrupt: Interruptible,
  ): Promise<void> {
    const reply = await this.#session.change((retry) =>
      this.#session.nameserver.rename({ retry, parent, name, newParent, newName, flags }, interrupt)
    );
    this.#changed(reply.ino);
    if (reply.replaced !== undefined) this.#changed(reply.replaced.ino);
  }

  /** We changed an inode ourselves, by a reply that does not carry its attributes. */
  #changed(ino: InodeId): void {
    const file = this.#open.get(ino);
    if (file !== undefined) file.attributesKnown = false;
  }

  async setXattr(
    ino: InodeId,
    name: Uint8Array,
    value: Uint8Array,
    flags: number,
    interrupt: Interruptible,
  ): Promise<void> {
    await this.#session.change((retry) =>
      this.#session.nameserver.setXattr({ retry, ino, name, value, flags }, interrupt)
    );
    this.#changed(ino);
  }

  async removeXattr(ino: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<void> {
    await this.#session.change((retry) =>
      this.#session.nameserver.removeXattr({ retry, ino, name }, interrupt)
    );
    this.#changed(ino);
  }

  async getXattr(ino: InodeId, name: Uint8Array, interrupt: Interruptible): Promise<Uint8Array> {
    return (await this.#session.nameserver.getXattr({ ino, name }, interrupt)).value;
  }

  async listXattrs(ino: InodeId, interrupt: Interruptible): Promise<readonly Uint8Array[]> {
    return (await this.#session.nameserver.listXattrs({ ino }, interrupt)).names;
  }

  statfs(interrupt: Interruptible): Promise<StatfsReply> {
    return this.#session.nameserver.statfs({}, interrupt);
  }

  /** Everything that was answered before is on the nameserver's disk. */
  async syncNamespace(): Promise<void> {
    await this.#session.nameserver.sync({});
  }

  // ---- open files

  /** One more handle on the file. `truncate`: O_TRUNC. */
  async open(
    ino: InodeId,
    options: { readonly write: boolean; readonly truncate: boolean; readonly killSuidGid: boolean },
    interrupt: Interruptible,
  ): Promise<OpenResult> {
    if (options.truncate) {
      const { killSuidGid } = options;
      await this.setattr({ ino, size: 0, ...(killSuidGid ? { killSuidGid } : {}) }, interrupt);
    }
    const opening = this.#opening.get(ino) ?? { count: 0, recalls: 0 };
    this.#opening.set(ino, opening);
    opening.count++;
    try {
      await this.#beforeOpen(ino);
      const { recalls } = opening;
      const reply = await this.#session.nameserver.open({ ino, write: options.write }, interrupt);
      return this.#opened(reply, opening.recalls !== recalls);
    } finally {
      if (--opening.count === 0) this.#opening.delete(ino);
      // A handle that was closed meanwhile left the release to the last open.
      if (opening.count === 0 && !this.#open.has(ino)) this.#releases.add(ino);
    }
  }

  /** One more handle on what a reply opened. `isCrossed`: a recall came since the request. */
  #opened(reply: OpenReply, isCrossed: boolean): OpenResult {
    const { ino, version } = reply.attributes;
    const known = this.#open.get(ino);
    const file = known ?? this.#register(reply);
    file.handles++;
    if (known !== undefined) known.adopt(reply, isCrossed ? -1 : known.recalls);
    if (isCrossed) {
      file.lease = "none"; // until an answer that the server gave after the recall says more
      file.attributesKnown = false;
      if (known === undefined) file.blocks.clear();
    }
    return { file, keepCache: known !== undefined || this.#knownVersions.get(ino) === version };
  }

  /** creat(2): makes the file, or opens the one that is there (without O_EXCL). */
  async create(
    request: Omit<CreateRequest, "retry">,
    options: { readonly truncate: boolean },
    interrupt: Interruptible,
  ): Promise<OpenResult & { readonly reply: InodeReply }> {
    const recalls = this.#recalls;
    this.#creating++;
    try {
      const reply = await this.#session.change((retry) =>
        this.#session.nameserver.create({ ...request, retry }, interrupt)
      );
      const opened = this.#opened(reply, this.#recalls !== recalls);
      const { file } = opened;
      if (!reply.created && options.truncate) await this.setattr({ ino: file.ino, size: 0 }, interrupt);
      return { ...opened, reply: { ...reply, attributes: file.shown() } };
    } finally {
      this.#creating--;
    }
  }

  #register(reply: OpenReply): OpenFile {
    const file = new OpenFile(reply);
    const last = reply.blocks.at(-1);
    const knownTo = reply.blocksComplete || last === undefined
      ? Number.MAX_SAFE_INTEGER
      : last.start + last.length;
    file.blocks.learn(0, knownTo, reply.blocks);
    this.#open.set(file.ino, file);
    // Opened again before its release was told: it is simply open.
    this.#releases.delete(file.ino);
    return file;
  }

  /** A release of this inode that is on its way must arrive before the next open is registered. */
  async #beforeOpen(ino: InodeId): Promise<void> {
    if (this.#releases.delete(ino)) return;
    await this.#releasing;
  }

  /** One handle less; the last one takes the OpenFile with it. Errors were told by flush; late ones are logged. */
  async close(file: OpenFile): Promise<void> {
    file.handles--;
    if (file.handles > 0) return;
    if (file.dirty || file.pending.size > 0) {
      try {
        await this.#options.writer.commit(file, false);
      } catch (error) {
        this.#options.log.error("closed file could not be committed", { ino: file.ino, error });
      }
    }
    if (file.handles > 0 || this.#open.get(file.ino) !== file) return;
    this.#open.delete(file.ino);
    if (file.attributesKnown) this.#remember(file.ino, file.attributes.version);
    // Another open of it is registered with the server already, or will be.
    if (this.#opening.has(file.ino)) return;
    this.#releases.add(file.ino);
    if (this.#releases.size >= RELEASE_BATCH) this.#sendReleases();
  }

  #remember(ino: InodeId, version: number): void {
    this.#knownVersions.delete(ino);
    this.#knownVersions.set(ino, version);
    if (this.#knownVersions.size > KNOWN_VERSIONS_MAX) {
      const oldest = this.#knownVersions.keys().next().value;
      if (oldest !== undefined) this.#knownVersions.delete(oldest);
    }
  }

  #sendReleases(): void {
    if (this.#releases.size === 0) return;
    const inodes = [...this.#releases];
    this.#releases.clear();
    this.#releasing = this.#releasing.then(() => this.#session.releaseLeases(inodes)).catch((error) => {
      // The session's end releases them, too.
      this.#options.log.debug("releases were not told", { count: inodes.length, error });
    });
  }

  // ---- data

  async read(file: OpenFile, offset: number, size: number, interrupt: Interruptible): Promise<Uint8Array[]> {
    if (file.lease === "none") {
      // Others may write: size and blocks are looked up each time.
      await this.#refresh(file, interrupt);
      if (file.lease === "none") file.blocks.clear();
    }
    return await this.#options.reader.read(file, offset, size, interrupt);
  }

  async write(
    file: OpenFile,
    offset: number,
    data: Uint8Array,
    options: { readonly append: boolean; readonly killSuidGid: boolean },
    interrupt: Interruptible,
  ): Promise<void> {
    let position = offset;
    if (options.append && file.lease !== "write") {
      await this.#refresh(file, interrupt);
      position = file.size;
    }
    await this.#options.writer.write(file, position, data, options.killSuidGid);
  }

  /** close(2) of a descriptor: all replicas and the nameserver have what was written; tells a failure once. */
  async flush(file: OpenFile): Promise<void> {
    if (file.dirty || file.pending.size > 0) await this.#options.writer.commit(file, false);
    this.#options.writer.throwWriteError(file);
  }

  async fsync(file: OpenFile): Promise<void> {
    await this.#options.writer.sync(file);
    this.#options.writer.throwWriteError(file);
  }

  /** Allocates blocks over the holes of [offset, end); `grow` also moves the end of the file. */
  async allocate(file: OpenFile, offset: number, end: number, grow: boolean): Promise<void> {
    const { blocks } = this.#options;
    if (file.lease === "none") file.blocks.clear();
    for (let at = offset; at < end;) {
      await blocks.know(file, at, at + 1);
      const block = file.blocks.at(at) ?? await blocks.allocate(file, at);
      at = block.start + block.length;
    }
    if (grow) await this.#growTo(file, end);
  }

  async #growTo(file: OpenFile, end: number): Promise<void> {
    if (!file.isFresh) await this.#refresh(file);
    if (end <= file.size) return;
    file.wrote(end, this.#session.now(), this.#options.clock.monotonicMs());
    await this.#options.writer.commit(file, false);
  }

  /** [offset, end) reads as zeros from now on; whole blocks in it are given back. */
  async zeroRange(
    file: OpenFile,
    offset: number,
    end: number,
    grow: boolean,
    interrupt: Interruptible,
  ): Promise<void> {
    const { writer } = this.#options;
    await writer.commit(file, false);
    if (!file.isFresh) await this.#refresh(file, interrupt);
    const stop = Math.min(end, file.size);
    if (stop > offset) {
      const { recalls } = file;
      const reply = await this.#session.change((retry) =>
        this.#session.nameserver.punch({ retry, ino: file.ino, offset, length: stop - offset }, interrupt)
      );
      file.blocks.clear();
      file.adopt(reply, recalls);
      await writer.zero(file, offset, stop);
      await writer.commit(file, false);
    }
    if (grow) await this.#growTo(file, end);
    // Zeros were written under the kernel's pages.
    this.#options.invalidate(file.ino, true);
  }

  /** What a change of the data by an ordinary user takes off an executable. */
  async dropPrivileges(file: OpenFile, interrupt: Interruptible): Promise<void> {
    if (!file.isFresh) await this.#refresh(file, interrupt);
    if ((file.shown().mode & (S_ISUID | S_ISGID)) === 0) return;
    await this.setattr({ ino: file.ino, killSuidGid: true }, interrupt);
  }

  /** SEEK_DATA and SEEK_HOLE by blocks; undefined past the end (ENXIO). */
  async seek(file: OpenFile, offset: number, wantsData: boolean): Promise<number | undefined> {
    await file.settled(0, Infinity);
    if (!file.isFresh) await this.#refresh(file);
    if (file.lease === "none") file.blocks.clear();
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
  }

  // ---- leases

  /** The leaseserver takes something back, or asks whether a removed inode is open here. */
  async recall({ ino, keep, removed }: RecallPush): Promise<RecallAnswer> {
    this.#recalls++;
    // The answer to an open may have come right before this: it is taken in first.
    if (this.#creating > 0 || this.#opening.has(ino)) await turnOfTheEventLoop();
    const opening = this.#opening.get(ino);
    if (opening !== undefined) opening.recalls++;
    const file = this.#open.get(ino);
    if (file === undefined) {
      this.#knownVersions.delete(ino);
      this.#options.invalidate(ino, false);
      return { open: opening !== undefined };
    }
    file.recalls++;
    file.attributesKnown = false;
    const open = file.handles > 0 || opening !== undefined;
    if (removed) return { open };
    const hadWrite = file.lease === "write";
    if (keep === "none" || file.lease === "none") file.lease = "none";
    else file.lease = file.lease === "write" ? keep : "read";
    if (hadWrite && (file.dirty || file.pending.size > 0)) await this.#options.writer.commit(file, false);
    if (keep === "none") file.blocks.clear();
    this.#options.invalidate(ino, keep === "none");
    return { open };
  }

  openInodes(): { readonly ino: InodeId; readonly lease: LeaseMode }[] {
    return [...this.#open.values()].map((file) => ({
      ino: file.ino,
      lease: file.lease === "write" || file.dirty ? "write" : file.lease,
    }));
  }

  /** A new connection: what is granted is what was asked back; all else is looked up again. */
  reclaimed(granted: ReadonlyMap<InodeId, LeaseMode>): void {
    for (const file of this.#open.values()) {
      file.recalls++;
      file.attributesKnown = false;
      file.lease = granted.get(file.ino) ?? "none";
      if (file.lease === "none") this.#options.invalidate(file.ino, true);
    }
  }

  // ---- background

  /** Commits what has been dirty for long and tells releases, about once a second. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#options.clock.sleep(BACKGROUND_MS, signal);
      this.#sendReleases();
      const nowMs = this.#options.clock.monotonicMs();
      for (const file of this.#open.values()) {
        if (!file.dirty || nowMs - file.dirtySinceMs < DIRTY_MS_MAX) continue;
        this.#options.writer.commit(file, false).catch((error) => {
          this.#options.log.warn("size and times not committed yet", { ino: file.ino, error });
        });
      }
    }
  }

  /** Before the end: everything accepted is with the cluster. */
  async finish(): Promise<void> {
    for (const file of this.#open.values()) {
      if (!file.dirty && file.pending.size === 0) continue;
      await this.#options.writer.commit(file, false).catch((error) => {
        this.#options.log.error("written data was not committed", { ino: file.ino, error });
      });
    }
    this.#sendReleases();
    await this.#releasing;
  }
}

/** Until what has come in already was handled. */
function turnOfTheEventLoop(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
