/**
 * Changes of names and attributes that need not be asked for: all that they touch is this mount's alone (EXCLUSIVE), and all
 * that decides them is known. They are made here at once, as the nameserver would make them, and told later
 * (deferred_changes.ts). Undefined or false from any of these: it must be asked for.
 *
 * Invariants:
 * - What is made here comes out as it will at the nameserver, to the version of each inode.
 * - Nothing is changed here of what is being given back, or while any call is under way (`ClusterSession.isQuiet`).
 */

import { bytesKey, copyBytes } from "../base/bytes.ts";
import type { Clock, Timespec } from "../base/clock.ts";
import { decodeAcl, isEquivalentToMode, modeOfAcl } from "../base/posix_acl.ts";
import type { InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  DIRECTORY_BYTES,
  isExclusive,
  NAME_BYTES_MAX,
  NLINK_MAX,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_ISGID,
  S_ISUID,
  SYMLINK_BYTES_MAX,
} from "../wire/messages/inode.ts";
import type { CreateRequest, MakeRequest, SetAttributesRequest } from "../wire/messages/nameserver.ts";
import type { WriteReport } from "../wire/messages/write_report.ts";
import { BlockMap } from "./block_map.ts";
import { Claims, type EntryName } from "./claims.ts";
import type { ClusterSession } from "./cluster_session.ts";
import { type DeferredChanges, notBefore } from "./deferred_changes.ts";
import { ABSENT, Inode, type OpenFile, UNKNOWN } from "./inode.ts";
import type { InodeNumbers } from "./inode_numbers.ts";
import type { InodeTable } from "./inode_table.ts";
import type { Interruptible } from "./interruptible.ts";

const RENAME_NOREPLACE = 1;

export interface LocalChangesOptions {
  readonly session: ClusterSession;
  readonly table: InodeTable;
  readonly deferred: DeferredChanges;
  readonly numbers: InodeNumbers;
  readonly clock: Clock;
}

/** What is to be made, and whether its maker goes on to write it. */
export type LocalMake = Omit<MakeRequest, "retry"> & { readonly write?: boolean };

export class LocalChanges {
  readonly #options: LocalChangesOptions;
  readonly #claims: Claims;

  constructor(options: LocalChangesOptions) {
    this.#options = options;
    this.#claims = new Claims(options);
  }

  /** To be sent with a request that changes names of the directory. */
  wishes(parent: InodeId): { readonly wantsDirectory?: true } {
    return this.#claims.wishes(parent);
  }

  /** As Claims'. */
  noteTaken(inode: Inode): void {
    this.#claims.noteTaken(inode);
  }

  /** As Claims'; undefined also when nothing may be changed here for another reason. */
  claim(names: readonly EntryName[], interrupt: Interruptible): Promise<void> | undefined {
    return this.#mayDefer ? this.#claims.claim(names, interrupt) : undefined;
  }

  /** As `claim`, of directories in which names are to be changed by asking. */
  claimDirectories(directories: readonly Inode[]): Promise<void> | undefined {
    return this.#mayDefer ? this.#claims.claimDirectories(directories) : undefined;
  }

  // ---- what may be changed

  #isOurs(inode: Inode): boolean {
    const { attributes } = inode;
    return isExclusive(inode.lease) && inode.isFresh && !inode.isUnlinked && inode.yielding === 0 &&
      inode.handingOver === null && inode.accessedAt === null && (attributes.flags ?? 0) === 0 &&
      attributes.nlink > 0;
  }

  get #mayDefer(): boolean {
    const { session, deferred } = this.#options;
    return session.isValid && session.isQuiet && deferred.hasRoom;
  }

  /** A directory whose names may be changed. A default ACL would have its say. */
  #directory(ino: InodeId): Inode | undefined {
    const inode = this.#mayDefer ? this.#options.table.get(ino) : undefined;
    if (inode === undefined || !this.#isOurs(inode) || !isDirectory(inode.attributes)) return undefined;
    return inode.attributes.hasXattrs ? undefined : inode;
  }

  #entry(directory: Inode, name: Uint8Array): InodeId {
    return directory.entry(bytesKey(name));
  }

  /** What a name leads to, if that is ours as well. */
  #target(ino: InodeId): Inode | undefined {
    const inode = ino === ABSENT || ino === UNKNOWN ? undefined : this.#options.table.get(ino);
    return inode !== undefined && inode.removing === 0 && this.#isOurs(inode) ? inode : undefined;
  }

  /** It may lose a name here: nobody has it open, and a directory is known to be empty. */
  #isRemovable(inode: Inode): boolean {
    if (inode.file !== null) return false;
    const { mode, hasXattrs } = inode.attributes;
    // Whoever has it open, or works in it, keeps them (removed_xattrs.ts).
    if (hasXattrs && (mode & S_IFMT) !== S_IFREG) return false;
    if (!isDirectory(inode.attributes)) return true;
    if (!inode.isComplete || inode.directoryHandles > 0) return false;
    for (const ino of inode.entries?.values() ?? []) {
      if (ino !== ABSENT) return false;
    }
    return true;
  }

  #now(...inodes: readonly Inode[]): Timespec {
    return notBefore(this.#options.session.now(), inodes);
  }

  // ---- changes

  make(request: LocalMake): Inode | undefined {
    const { table, deferred, numbers } = this.#options;
    const { parent, name, mode, credentials: { uid, gid }, umask = 0, rdev = 0, write = false } = request;
    const directory = this.#directory(parent);
    if (directory === undefined || name.length > NAME_BYTES_MAX) return undefined;
    if (this.#entry(directory, name) !== ABSENT) return undefined;
    const type = mode & S_IFMT;
    const target = type === S_IFLNK ? copyBytes(request.target!) : undefined;
    if (target !== undefined && (target.length === 0 || target.length > SYMLINK_BYTES_MAX)) return undefined;
    const ino = numbers.take();
    if (ino === undefined) return undefined;
    if (!directory.setEntry(bytesKey(name), ino)) return undefined;
    const time = this.#now(directory);
    const { attributes: of } = directory;
    const isSetgid = (of.mode & S_ISGID) !== 0;
    const masked = type === S_IFLNK ? mode : mode & ~(umask & 0o777);
    const inode = new Inode({
      ino,
      mode: type === S_IFDIR && isSetgid ? masked | S_ISGID : masked,
      uid,
      gid: isSetgid ? of.gid : gid,
      nlink: type === S_IFDIR ? 2 : 1,
      size: type === S_IFDIR ? DIRECTORY_BYTES : target?.length ?? 0,
      allocatedBytes: 0,
      atime: time,
      mtime: time,
      ctime: time,
      btime: time,
      rdev,
      replication: of.replication,
      hasXattrs: false,
      version: 1,
    });
    inode.attributesKnown = true;
    inode.lease = write ? "write" : "exclusive";
    inode.target = target ?? null;
    if (type === S_IFDIR) inode.isComplete = true;
    if (type === S_IFREG) {
      inode.blocks = new BlockMap();
      inode.blocks.learn(0, Number.MAX_SAFE_INTEGER, []);
    }
    table.add(inode);
    this.#touch(directory, time, type === S_IFDIR ? 1 : 0);
    deferred.add({
      ...{ kind: "make", time, ino, parent, name: copyBytes(name), uid, gid, mode, umask },
      ...rdev === 0 ? {} : { rdev },
      ...target === undefined ? {} : { target },
      ...write ? { write } : {},
    }, [inode, directory]);
    return inode;
  }

  /** A file that its maker goes on to write. */
  makeFile(request: Omit<CreateRequest, "retry" | "host">): Inode | undefined {
    const { parent, name, credentials, mode, umask } = request;
    return this.make({
      ...{ parent, name, credentials, mode: S_IFREG | (mode & 0o7777), write: true },
      ...umask === undefined ? {} : { umask },
    });
  }

  link(ino: InodeId, parent: InodeId, name: Uint8Array): Inode | undefined {
    const directory = this.#directory(parent);
    const inode = this.#target(ino);
    if (directory === undefined || inode === undefined || name.length > NAME_BYTES_MAX) return undefined;
    const { nlink } = inode.attributes;
    if (isDirectory(inode.attributes) || nlink >= NLINK_MAX || inode.file?.isUnflushed === true) {
      return undefined;
    }
    if (this.#entry(directory, name) !== ABSENT || !directory.setEntry(bytesKey(name), ino)) return undefined;
    const time = this.#now(inode, directory);
    this.#change(inode, { nlink: nlink + 1, ctime: time });
    this.#touch(directory, time, 0);
    this.#options.deferred.add(
      { kind: "link", time, ino, parent, name: copyBytes(name) },
      [inode, directory],
    );
    return inode;
  }

  remove(parent: InodeId, name: Uint8Array, isRmdir: boolean): boolean {
    const directory = this.#directory(parent);
    const inode = directory === undefined ? undefined : this.#target(this.#entry(directory, name));
    if (directory === undefined || inode === undefined) return false;
    if (isDirectory(inode.attributes) !== isRmdir || !this.#isRemovable(inode)) return false;
    const time = this.#now(directory, inode);
    directory.setEntry(bytesKey(name), ABSENT);
    this.#touch(directory, time, isRmdir ? -1 : 0);
    const told = this.#isTold(inode);
    this.#loseName(inode, time);
    const { ino } = inode;
    this.#options.deferred.add(
      { kind: "remove", time, ino, parent, name: copyBytes(name), directory: isRmdir, ...told },
      [inode, directory],
      lostFile(inode),
    );
    return true;
  }

  rename(
    parent: InodeId,
    name: Uint8Array,
    newParent: InodeId,
    newName: Uint8Array,
    flags: number,
  ): boolean {
    if ((flags & ~RENAME_NOREPLACE) !== 0 || newName.length > NAME_BYTES_MAX) return false;
    const source = this.#directory(parent);
    const target = this.#directory(newParent);
    const moved = source === undefined ? undefined : this.#target(this.#entry(source, name));
    if (source === undefined || target === undefined || moved === undefined) return false;
    // What lies above a directory is the nameserver's to know: it must not come to lie below itself.
    if (isDirectory(moved.attributes) && source !== target) return false;
    const there = this.#entry(target, newName);
    const replaced = this.#target(there);
    if (there !== ABSENT) {
      if (flags !== 0 || replaced === undefined || replaced === moved || !this.#isRemovable(replaced)) {
        return false;
      }
      if (isDirectory(replaced.attributes) !== isDirectory(moved.attributes)) return false;
    }
    if (!target.setEntry(bytesKey(newName), moved.ino)) return false;
    source.setEntry(bytesKey(name), ABSENT);
    const inodes = [moved, source, target, ...replaced === undefined ? [] : [replaced]];
    const time = this.#now(...inodes);
    const told = replaced === undefined ? {} : this.#isTold(replaced);
    this.#touch(target, time, replaced !== undefined && isDirectory(replaced.attributes) ? -1 : 0);
    if (source !== target) this.#touch(source, time, 0);
    if (replaced !== undefined) this.#loseName(replaced, time);
    this.#change(moved, { ctime: time });
    this.#options.deferred.add(
      {
        ...{ kind: "rename", time, ino: moved.ino, parent, name: copyBytes(name), newParent },
        newName: copyBytes(newName),
        ...replaced === undefined ? {} : { replaced: replaced.ino },
        ...told,
      },
      inodes,
      lostFile(replaced),
    );
    return true;
  }

  setattr(request: Omit<SetAttributesRequest, "retry">): Inode | undefined {
    const { ino, mode, uid, gid, size, flags, killSuidGid, killCapability } = request;
    const inode = this.#mayDefer ? this.#options.table.get(ino) : undefined;
    if (inode === undefined || size !== undefined || flags !== undefined || killCapability === true) {
      return undefined;
    }
    // An ACL follows the mode, and capabilities go with the owner.
    if (!this.#isOurs(inode) || inode.attributes.hasXattrs || inode.file?.isUnflushed === true) {
      return undefined;
    }
    if (killSuidGid === true && (inode.attributes.mode & (S_ISUID | S_ISGID)) !== 0) return undefined;
    const time = this.#now(inode);
    const atime = request.atime === "now" ? time : request.atime;
    const mtime = request.mtime === "now" ? time : request.mtime;
    const changes = {
      ...mode === undefined ? {} : { mode: (inode.attributes.mode & S_IFMT) | (mode & 0o7777) },
      ...uid === undefined ? {} : { uid },
      ...gid === undefined ? {} : { gid },
      ...atime === undefined ? {} : { atime },
      ...mtime === undefined ? {} : { mtime },
    };
    this.#change(inode, { ...changes, ctime: time });
    if (inode.file !== null) inode.file.unsyncedReports++;
    this.#options.deferred.add({ kind: "setattr", time, ino, ...changes }, [inode]);
    return inode;
  }

  /** An access ACL that says no more than a mode, which is what remains of it. */
  setAcl(ino: InodeId, value: Uint8Array): boolean {
    const inode = this.#options.table.get(ino);
    const acl = decodeAcl(value);
    if (inode === undefined || acl === undefined || acl.length === 0 || !isEquivalentToMode(acl)) {
      return false;
    }
    if ((inode.attributes.mode & S_IFMT) === S_IFLNK) return false;
    return this.setattr({ ino, mode: modeOfAcl(acl, inode.attributes.mode) }) !== undefined;
  }

  /** It is read now. */
  access(inode: Inode): boolean {
    if (!this.#mayDefer || !this.#isOurs(inode) || inode.file?.isUnflushed === true) return false;
    const time = this.#now(inode);
    const { attributes } = inode;
    inode.attributes = { ...attributes, atime: time, version: attributes.version + 1 };
    this.#options.deferred.add({ kind: "access", time, ino: inode.ino }, [inode]);
    return true;
  }

  /** What was written of an open file; false: it must be reported by itself. `isFollowed`: by another change, at once. */
  report(file: OpenFile, report: Omit<WriteReport, "ino">, isFollowed: boolean): boolean {
    const { inode } = file;
    const { deferred } = this.#options;
    // By itself it takes no longer when nothing else has to be told before or after it.
    if (deferred.isEmpty && !isFollowed) return false;
    if (!this.#mayDefer || !this.#isOurs(inode) || inode.lease !== "write") return false;
    if (file.revocation !== null) return false;
    this.#change(inode, file.shown());
    deferred.add({ kind: "report", time: report.mtime, ino: inode.ino, ...report }, [inode]);
    return true;
  }

  // ---- how inodes look afterwards

  #change(inode: Inode, changes: Partial<Attributes>): void {
    const { attributes } = inode;
    inode.attributes = { ...attributes, ...changes, version: attributes.version + 1 };
    inode.changedHereMs = this.#options.clock.monotonicMs();
    this.#options.table.noteRecall(inode.ino); // what is on its way is from before
  }

  #touch(directory: Inode, time: Timespec, subdirectories: number): void {
    const nlink = directory.attributes.nlink + subdirectories;
    this.#change(directory, { mtime: time, ctime: time, nlink });
  }

  #loseName(inode: Inode, time: Timespec): void {
    const nlink = isDirectory(inode.attributes) ? 0 : inode.attributes.nlink - 1;
    this.#change(inode, { nlink, ctime: time });
    if (nlink > 0) return;
    inode.isUnlinked = true;
    inode.forgetAll();
  }

  #isTold(inode: Inode): { readonly told?: true } {
    return !isDirectory(inode.attributes) && inode.mayBeOpenedSoon(this.#options.clock.monotonicMs())
      ? { told: true }
      : {};
  }
}

/** Of others the nameserver keeps nothing without a name. */
function lostFile(inode: Inode | undefined): Inode | undefined {
  if (inode === undefined || inode.attributes.nlink > 0) return undefined;
  return (inode.attributes.mode & S_IFMT) === S_IFREG ? inode : undefined;
}

function isDirectory({ mode }: Attributes): boolean {
  return (mode & S_IFMT) === S_IFDIR;
}
