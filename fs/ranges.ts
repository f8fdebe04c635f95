/**
 * Ranges of an open file, other than reading and writing: room on the disks (fallocate), holes, where data is, copies
 * inside of the file system, and giving back what a truncate has left on the disks.
 *
 * Invariant: a range that is changed has been taken (`OpenFile.occupy`), so that no write of ours overlaps the change on the
 * replicas.
 */

import type { Clock } from "../base/clock.ts";
import type { Logger } from "../base/log.ts";
import { FsError, isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import { type Block, FILE_BYTES_MAX, S_ISGID, S_ISUID } from "../wire/messages/inode.ts";
import type { RangeChange } from "../wire/messages/dataserver.ts";
import { type Blocks, demandTenure, isDropped } from "./blocks.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { type DataAccess, pagesOf } from "./data_access.ts";
import { checkUsable, type Files, type Handle } from "./files.ts";
import type { Access, Inode, OpenFile } from "./inode.ts";
import { refuseWrite } from "./inode_flags.ts";
import type { InlineData } from "./inline_data.ts";
import type { InodeTable } from "./inode_table.ts";
import type { KernelCache } from "./kernel_cache.ts";
import type { Names } from "./names.ts";
import { beforeGrowth } from "./past_the_end.ts";
import type { ByteRange } from "./pending_write.ts";
import { RangeCopier } from "./range_copier.ts";
import type { Dataservers } from "./dataservers.ts";
import type { Reader } from "./reader.ts";
import type { Writer } from "./writer.ts";
import type { Interruptible } from "./interruptible.ts";

/** Less is not worth the requests: a truncate may leave so much on the disks. */
const TRIM_BYTES_MIN = 1024 * 1024;
const WHOLE: ByteRange = { start: 0, end: Infinity };

export interface RangesOptions {
  readonly session: ClusterSession;
  readonly dataservers: Dataservers;
  readonly names: Names;
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly access: DataAccess;
  readonly blocks: Blocks;
  readonly inline: InlineData;
  readonly reader: Reader;
  readonly writer: Writer;
  readonly files: Files;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What becomes of a range of the file; `grow`: its end moves up to the end of the range, if that is further on. */
export interface RangeOptions {
  readonly grow: boolean;
}

export class Ranges {
  readonly #options: RangesOptions;
  readonly #copier: RangeCopier;

  constructor(options: RangesOptions) {
    this.#options = options;
    this.#copier = new RangeCopier(options);
  }

  /**
   * All of [offset, end) has room on the disks of the replicas that there are: writing there does not fail for lack of it.
   * ENOSPC leaves what could be reserved until then.
   */
  async reserve(
    handle: Handle,
    offset: number,
    end: number,
    { grow }: RangeOptions,
    interrupt: Interruptible,
  ): Promise<void> {
    const { file } = handle;
    if (grow && end > file.size) await beforeGrowth(this.#options.kernelCache, file, Infinity);
    await this.#exclusively(handle, true, interrupt, async (tenure) => {
      await this.#options.writer.outgrow(file);
      await this.#fill(file, "reserve", offset, end, tenure, interrupt);
      if (grow) await this.#growTo(file, end, tenure);
    });
  }

  /** [offset, end) reads as zeros from now on. `keepsRoom`: it has room on the disks; else what it had is free. */
  async zero(
    handle: Handle,
    offset: number,
    end: number,
    { grow, keepsRoom }: RangeOptions & { readonly keepsRoom: boolean },
    interrupt: Interruptible,
  ): Promise<void> {
    const { file } = handle;
    await this.#exclusively(handle, true, interrupt, async (tenure) => {
      await this.#options.writer.commit(file, false);
      if (!file.inode.isFresh) await this.#options.names.refresh(file.ino, interrupt);
      demandTenure(file, tenure);
      if (keepsRoom && end > file.inlineBytes) await this.#options.writer.outgrow(file);
      demandTenure(file, tenure);
      if (file.inlineBytes > 0) await this.#zeroInline(file, offset, end);
      else if (keepsRoom) await this.#fill(file, "zero", offset, end, tenure, interrupt);
      else await this.#punch(file, offset, end, tenure, interrupt);
      demandTenure(file, tenure);
      this.#options.writer.note(file, 0);
      await this.#options.writer.commit(file, false);
      if (grow) await this.#growTo(file, end, tenure);
    });
    // Zeros were written under the kernel's pages.
    await this.#options.kernelCache.dropRanges(file.inode, [WHOLE]);
  }

  /** Of data that the nameserver keeps: it takes its room all the same. */
  async #zeroInline(file: OpenFile, offset: number, end: number): Promise<void> {
    const length = Math.min(end, file.inlineBytes) - offset;
    if (length > 0) await this.#options.writer.write(file, offset, new Uint8Array(length), false);
  }

  /** Whole blocks go; what others have of the range becomes a hole in their replicas. */
  async #punch(
    file: OpenFile,
    offset: number,
    end: number,
    tenure: number,
    interrupt: Interruptible,
  ): Promise<void> {
    const { session, table, blocks } = this.#options;
    const { ino } = file;
    const askedAt = table.moment;
    const release = await file.occupy(offset, end);
    try {
      // As data on its way out: a recall waits for us.
      const reply = await session.flushChange((retry) => {
        demandTenure(file, tenure);
        return session.nameserver.punch({ retry, ino, offset, length: end - offset }, interrupt);
      });
      file.blocks.clear();
      table.adopt(reply, askedAt);
      for (let at = offset; at < end;) {
        const { block, end: pieceEnd } = await blocks.piece(file, at);
        const stop = Math.min(end, pieceEnd);
        if (block !== undefined && (file.hasData(block) || block.allocated !== 0)) {
          await this.#change(file, block, "punch", at, stop, tenure);
        }
        at = stop;
      }
    } finally {
      release();
    }
  }

  /** Blocks over all of [offset, end), with room on the disks. */
  async #fill(
    file: OpenFile,
    change: Exclude<RangeChange, "punch">,
    offset: number,
    end: number,
    tenure: number,
    interrupt: Interruptible,
  ): Promise<void> {
    const { blocks } = this.#options;
    await this.#demandRoom(file, offset, end);
    for (let at = offset; at < end;) {
      if (interrupt.signal.aborted) throw new FsError("EINTR", "interrupted");
      const block = (await blocks.piece(file, at)).block ?? await blocks.allocate(file, at, tenure);
      const stop = Math.min(end, block.start + block.length);
      const release = await file.occupy(at, stop);
      try {
        await this.#change(file, block, change, at, stop, tenure);
      } catch (error) {
        // Some replicas may have zeros now, and all should.
        if (change === "zero" && isErrno(error, "ENOSPC")) {
          await this.#change(file, block, "punch", at, stop, tenure);
        }
        throw error;
      } finally {
        release();
      }
      at = stop;
    }
  }

  /** A block that is dropped under us by another's truncate has nothing there any more. */
  async #change(
    file: OpenFile,
    block: Block,
    change: RangeChange,
    at: number,
    end: number,
    tenure: number,
  ): Promise<void> {
    try {
      await this.#options.writer.changeRange(file, block, change, at, end, tenure);
    } catch (error) {
      if (!isDropped(error)) throw error;
      file.blocks.clear();
    }
  }

  /** ENOSPC before anything was done, when the holes of [offset, end) are larger than all that is free. */
  async #demandRoom(file: OpenFile, offset: number, end: number): Promise<void> {
    const { blocks, session } = this.#options;
    let holes = 0;
    for (let at = offset; at < end;) {
      const { block, end: pieceEnd } = await blocks.piece(file, at);
      const stop = Math.min(end, pieceEnd);
      if (block === undefined) holes += stop - at;
      at = stop;
    }
    if (holes === 0) return;
    const { freeBytes } = await session.nameserver.statfs({});
    if (holes > freeBytes) {
      throw new FsError("ENOSPC", `${holes} bytes are to be reserved, and ${freeBytes} are free`);
    }
  }

  async #growTo(file: OpenFile, end: number, tenure: number): Promise<void> {
    if (!file.inode.isFresh) await this.#options.names.refresh(file.ino);
    demandTenure(file, tenure);
    if (end <= file.size) return;
    this.#options.writer.note(file, end);
    await this.#options.writer.commit(file, false);
  }

  /** An operation on all of a file's data that is neither a read nor a write of the kernel's. */
  #exclusively<T>(
    handle: Handle,
    write: boolean,
    interrupt: Interruptible,
    run: (tenure: number) => Promise<T>,
  ): Promise<T> {
    const access: Access = { start: 0, end: Infinity, isWrite: write, isPaged: false, isWriteback: false };
    const { file } = handle;
    return this.#options.access.use(file, access, interrupt, (tenure) => {
      checkUsable(handle);
      if (write) refuseWrite(file.inode.attributes);
      return run(tenure);
    });
  }

  /** What a change of the data takes off an executable: capabilities, and if an ordinary user makes it setuid and setgid. */
  async dropPrivileges({ file }: Handle, killSuidGid: boolean, interrupt: Interruptible): Promise<void> {
    const { names } = this.#options;
    const { ino } = file;
    if (!file.inode.isFresh) await names.refresh(ino, interrupt);
    if (file.inode.attributes.hasCapability === true) {
      await names.setattr({ ino, killCapability: true }, interrupt);
    }
    if (!killSuidGid || (file.shown().mode & (S_ISUID | S_ISGID)) === 0) return;
    await names.setattr({ ino, killSuidGid }, interrupt);
    await this.#options.kernelCache.dropMode(file.inode);
  }

  /** SEEK_DATA and SEEK_HOLE, as the replicas' disks have it; undefined past the end (ENXIO). */
  async seek(
    handle: Handle,
    offset: number,
    wantsData: boolean,
    interrupt: Interruptible,
  ): Promise<number | undefined> {
    const { blocks, reader, names, kernelCache } = this.#options;
    const { file } = handle;
    // What a mapping has stored is data as well.
    if (file.writers > 0 && file.inode.hasPages) await kernelCache.dropRanges(file.inode, [WHOLE]);
    return await this.#exclusively(handle, false, interrupt, async () => {
      await file.settled(0, Infinity);
      if (!file.inode.isFresh) await names.refresh(file.ino);
      const { size, inlineBytes } = file;
      if (inlineBytes > 0 && offset < size) {
        if (wantsData) return offset < inlineBytes ? offset : undefined;
        return Math.max(offset, inlineBytes);
      }
      for (let at = offset; at < size;) {
        const { block, end } = await blocks.piece(file, at);
        if (block !== undefined && file.hasData(block)) {
          const found = await reader.seek(file, block, at - block.start, wantsData, interrupt);
          if (found !== undefined) return block.start + found < size ? block.start + found : atEnd();
        } else if (!wantsData) {
          return at;
        }
        at = end;
      }
      return offset >= size ? undefined : atEnd();

      function atEnd(): number | undefined {
        return wantsData ? undefined : size;
      }
    });
  }

  /**
   * copy_file_range(2): bytes that were copied, fewer at the source's end, after much, and when it was interrupted; by the
   * dataservers, so that no byte comes here. EOPNOTSUPP where that can't be done now: the kernel reads and writes then.
   */
  async copy(
    source: Handle,
    target: Handle,
    range: { readonly from: number; readonly to: number; readonly length: number },
    interrupt: Interruptible,
  ): Promise<number> {
    const { access, names, writer } = this.#options;
    const { from, to } = range;
    const length = Math.min(range.length, FILE_BYTES_MAX - from);
    if (length > FILE_BYTES_MAX - to) throw new FsError("EFBIG", `copy up to ${to + length}`);
    const how = { isPaged: false, isWriteback: false };
    const write: Access = { ...pagesOf(to, length), isWrite: true, ...how };
    const read: Access = { ...pagesOf(from, length), isWrite: false, ...how };
    await beforeGrowth(this.#options.kernelCache, target.file, to);
    // The lease that allows the write to a file allows a read as well.
    const accesses = [[target.file, write] as const, [source.file, read] as const];
    try {
      return await access.useAll(accesses, interrupt, async () => {
        const { tenure } = target.file;
        for (const { file } of [source, target]) {
          if (!file.inode.isFresh) await names.refresh(file.ino, interrupt);
        }
        refuseWrite(target.file.inode.attributes);
        const end = Math.min(from + length, source.file.size);
        if (end <= from) return 0;
        demandTenure(target.file, tenure);
        const copied = await this.#copier.copy(source.file, target.file, from, to, end - from, interrupt);
        if (target.file.inode.lease !== "write") await writer.commit(target.file, false);
        return copied;
      });
    } catch (error) {
      if (isErrno(error, "EAGAIN")) throw new FsError("EOPNOTSUPP", error.message, { cause: error });
      throw error;
    }
  }

  /**
   * After a truncate that has cut `cutBytes` off a file, as `trim`. Waited for only where the lease for it is there: a recall may
   * wait for the answer to the truncate, until which the kernel writes no page of the file back.
   */
  tidy({ ino, lease, file }: Inode, cutBytes: number, interrupt: Interruptible): Promise<void> | undefined {
    if (cutBytes < TRIM_BYTES_MIN) return undefined;
    const trimmed = this.trim(ino, interrupt);
    return lease === "write" && (file === null || file.revocation === null) ? trimmed : undefined;
  }

  /**
   * What is left of the last block past the file's end goes from the disks. Nothing depends on it; the next write past the end
   * would do it.
   */
  async trim(ino: InodeId, interrupt: Interruptible): Promise<void> {
    const { files, blocks, log, names } = this.#options;
    try {
      const handle = await files.open(
        ino,
        { write: true, truncate: false, killSuidGid: false },
        interrupt,
      );
      try {
        const { file } = handle;
        await this.#exclusively(handle, true, interrupt, async (tenure) => {
          if (!file.inode.isFresh) await names.refresh(ino, interrupt);
          const { size } = file;
          if (size === 0) return;
          const release = await file.occupy(size - 1, Infinity);
          try {
            const { block } = await blocks.piece(file, size - 1);
            // Where it reaches further it has grown again, after its replicas were cut: maybe by a write we waited for.
            const isCut = block !== undefined && file.hasData(block) && block.start + block.length === size;
            if (isCut && file.size === size) await blocks.cut(file, block, tenure);
          } finally {
            release();
          }
        });
      } finally {
        await files.close(handle);
      }
    } catch (error) {
      log.debug("what a truncate has left stays on the disks for now", { ino, error });
    }
  }
}
