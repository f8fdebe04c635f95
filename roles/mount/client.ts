/**
 * The file system by paths, without a kernel in between: what a mount's handlers do, for a program that has the cluster's
 * address only (`mfs shell`). Walks paths as the kernel does, and asks the same handlers; data goes through the same reader
 * and writer.
 *
 * Permissions are checked for the caller as root squashing checks them (fs/root_squash.ts): root may do everything, unless
 * the cluster says whom it counts as.
 * Changes are asked for, never deferred: what resolved was made.
 * Invariant: each inode that a handler told of is forgotten again when the operation, or the file, is over (`Told`).
 */

import { bytesOf } from "../../base/bytes.ts";
import { systemClock, within } from "../../base/clock.ts";
import * as libc from "../../base/libc.ts";
import type { Logger } from "../../base/log.ts";
import { randomHexId } from "../../base/random.ts";
import type { UserIds } from "../../base/user_ids.ts";
import { type FileSystem, makeFileSystem } from "../../fs/file_system.ts";
import type {
  Answer,
  EntryAnswer,
  FileSystemHandlers,
  KernelAttributes,
  RequestContext,
  StatfsAnswer,
} from "../../fs/kernel/handlers.ts";
import { kernelHandlers } from "../../fs/kernel_handlers.ts";
import { squashRoot } from "../../fs/root_squash.ts";
import { withForeignSetgid } from "../../fs/setgid.ts";
import type { Dialer } from "../../wire/dialer.ts";
import { type ErrnoName, errnoName, FsError, isErrno } from "../../wire/errno.ts";
import { ROOT_INODE } from "../../wire/ids.ts";
import { NAME_BYTES_MAX, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";

/** As Linux. */
const SYMLINKS_MAX = 40;
const PATH_BYTES_MAX = 4096;
const CREATE_TRIES = 10;
const LIST_BATCH = 1024;
const FINISH_TIMEOUT_MS = 3_000;
const SLASH = 0x2f;
const DOT = bytesOf(".");

export type { KernelAttributes as FileAttributes, StatfsAnswer } from "../../fs/kernel/handlers.ts";

export interface ClientOptions {
  /** HOST:PORT. */
  readonly nameserver: string;
  /** As MountStartOptions'. */
  readonly host: string;
  readonly rack?: string;
  readonly log: Logger;
  readonly dialer: Dialer;
  /** Whose permissions count. */
  readonly user: UserIds;
  /** Supplementary groups of the user. */
  readonly groups: readonly number[];
  /** Permissions that what is made does not get. */
  readonly umask: number;
}

export interface ListedName {
  readonly name: Uint8Array;
  /** DT_* value: (mode >> 12) & 15. */
  readonly type: number;
}

/** What the clients of one session have in common. */
interface Core {
  readonly fileSystem: FileSystem;
  readonly handlers: Required<FileSystemHandlers>;
  readonly isRoot: boolean;
  readonly gid: number;
  readonly umask: number;
  readonly stop: () => Promise<void>;
}

/** Connects. Errors: the transport's, when the nameserver does not answer. */
export async function startClient(options: ClientOptions): Promise<FsClient> {
  const { nameserver, host, rack = "", log, dialer, user, groups, umask } = options;
  const fileSystem = makeFileSystem({
    nameserver,
    clientId: randomHexId(),
    host,
    rack,
    mountpoint: `shell ${Deno.pid}`,
    dialer,
    isLocal: () => false,
    clock: systemClock,
    log,
    kernelRequests: () => 0,
  });
  const { session, files, accessTimes, dataservers, names } = fileSystem;
  await session.connect();
  const { locks: _, ...withoutLocks } = fileSystem;
  const plain = withForeignSetgid(kernelHandlers({ ...withoutLocks, clock: systemClock }), fileSystem);
  const squashed = user.uid === 0 ? session.rootSquash : user;
  const handlers = squashed === undefined
    ? plain
    : squashRoot(plain, names, squashed, user.uid === 0 ? [] : groups);
  const stopping = new AbortController();
  const background = files.run(stopping.signal);
  const stop = async () => {
    await within(Promise.all([files.finish(), accessTimes.tell()]), FINISH_TIMEOUT_MS);
    stopping.abort();
    await background;
    await session.close();
    dataservers.close();
  };
  const core: Core = {
    fileSystem,
    handlers: handlers as Required<FileSystemHandlers>,
    isRoot: squashed === undefined,
    gid: user.gid,
    umask,
    stop,
  };
  return new FsClient(core, new AbortController().signal);
}

/** Paths are bytes, from the root of the file system. Errors: errnos, as the system calls of the same names. */
export class FsClient implements AsyncDisposable {
  readonly #core: Core;
  readonly #signal: AbortSignal;

  constructor(core: Core, signal: AbortSignal) {
    this.#core = core;
    this.#signal = signal;
  }

  /** The same, whose operations end with EINTR when the signal aborts. */
  until(signal: AbortSignal): FsClient {
    return new FsClient(this.#core, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#core.stop();
  }

  get #handlers(): Required<FileSystemHandlers> {
    return this.#core.handlers;
  }

  /** Handlers that check take uid 0 for the user that they check for. */
  #context(): RequestContext {
    return { uid: 0, gid: this.#core.gid, pid: Deno.pid, signal: this.#signal };
  }

  /** `follow`: of what a symbolic link leads to. */
  stat(path: Uint8Array, follow: boolean): Promise<KernelAttributes> {
    return this.#on(path, follow, ({ node }) => Promise.resolve(there(node).attributes));
  }

  readLink(path: Uint8Array): Promise<Uint8Array> {
    return this.#on(
      path,
      false,
      ({ node }) => value(this.#handlers.readlink(this.#context(), there(node).ino)),
    );
  }

  /** Names in the order of the directory, without "." and "..". */
  async *list(path: Uint8Array): AsyncGenerator<ListedName> {
    const handlers = this.#handlers;
    using told = new Told(handlers);
    const { ino, attributes } = there((await this.#walk(path, true, told)).node);
    if (!isDirectory(attributes)) throw new FsError("ENOTDIR", "not a directory");
    const { fh } = await value(handlers.opendir(this.#context(), ino, libc.O_RDONLY));
    try {
      for (let cookie = 0;;) {
        const batch: ListedName[] = [];
        const seen = cookie;
        const add = (name: Uint8Array, _ino: number, type: number, next: number): boolean => {
          if (batch.length >= LIST_BATCH) return false;
          cookie = next;
          if (!isDots(name)) batch.push({ name: name.slice(), type });
          return true;
        };
        await status(handlers.readdir(this.#context(), ino, fh, cookie, { add, addPlus: add }, false));
        yield* batch;
        if (cookie === seen) return;
      }
    } finally {
      await handlers.releasedir(this.#context(), ino, fh);
    }
  }

  makeDirectory(path: Uint8Array, mode = 0o777): Promise<void> {
    return this.#on(path, false, async ({ parent, name, node }, told) => {
      if (node !== undefined) throw new FsError("EEXIST", "it exists");
      const { umask } = this.#core;
      told.note(await value(this.#handlers.mkdir(this.#context(), parent, named(name), mode, umask)));
    });
  }

  symlink(target: Uint8Array, path: Uint8Array): Promise<void> {
    return this.#on(path, false, async ({ parent, name, node }, told) => {
      if (node !== undefined) throw new FsError("EEXIST", "it exists");
      if (target.length === 0) throw new FsError("ENOENT", "a link leads to something");
      if (target.length >= PATH_BYTES_MAX) throw new FsError("ENAMETOOLONG", "the target is too long");
      told.note(await value(this.#handlers.symlink(this.#context(), parent, named(name), target)));
    });
  }

  /** A symbolic link gets another name itself. */
  link(source: Uint8Array, path: Uint8Array): Promise<void> {
    return this.#on(source, false, ({ node }) => {
      const { ino, attributes } = there(node);
      if (isDirectory(attributes)) throw new FsError("EPERM", "a directory has one name");
      return this.#on(path, false, async (to, told) => {
        if (to.node !== undefined) throw new FsError("EEXIST", "it exists");
        told.note(await value(this.#handlers.link(this.#context(), ino, to.parent, named(to.name))));
      });
    });
  }

  removeFile(path: Uint8Array): Promise<void> {
    return this.#on(path, false, async ({ parent, name, node }) => {
      if (isDirectory(there(node).attributes)) throw new FsError("EISDIR", "it is a directory");
      await status(this.#handlers.unlink(this.#context(), parent, named(name)));
    });
  }

  removeDirectory(path: Uint8Array): Promise<void> {
    return this.#on(path, false, async ({ parent, name, node }) => {
      if (!isDirectory(there(node).attributes)) throw new FsError("ENOTDIR", "not a directory");
      await status(this.#handlers.rmdir(this.#context(), parent, named(name)));
    });
  }

  rename(from: Uint8Array, to: Uint8Array): Promise<void> {
    return this.#on(from, false, (source) =>
      this.#on(to, false, async (target) => {
        const moved = there(source.node);
        if (source.name === null || target.name === null) {
          throw new FsError("EBUSY", "it has no name of its own");
        }
        if (endsWithSlash(to) && !isDirectory(moved.attributes)) {
          throw new FsError("ENOTDIR", "not a directory");
        }
        // The kernel does nothing then; so do we.
        if (target.node?.ino === moved.ino) return;
        // The kernel sees to it that a directory does not get into itself.
        if (target.above.includes(moved.ino)) {
          throw new FsError("EINVAL", "a directory can't be moved into itself");
        }
        if (target.node !== undefined && source.above.includes(target.node.ino)) {
          throw new FsError("ENOTEMPTY", "the target is above it");
        }
        const context = this.#context();
        await status(
          this.#handlers.rename(
            context,
            source.parent,
            named(source.name),
            target.parent,
            named(target.name),
            0,
          ),
        );
      }));
  }

  statfs(): Promise<StatfsAnswer> {
    return value(this.#handlers.statfs(this.#context(), ROOT_INODE));
  }

  /** Of a regular file: a line `START END HOST,HOST` a block, with tabs (fs/virtual_xattrs.ts). */
  blockLocations(path: Uint8Array): Promise<Uint8Array> {
    return this.#on(path, true, async ({ node }) => {
      const { ino, attributes } = there(node);
      if (isDirectory(attributes)) throw new FsError("EISDIR", "a directory has no blocks");
      if (!isFile(attributes)) throw new FsError("EINVAL", "only regular files have blocks");
      return await value(this.#handlers.getxattr(this.#context(), ino, bytesOf("user.mfs.blockLocs")));
    });
  }

  /** For reading, a regular file. */
  async openFile(path: Uint8Array): Promise<RemoteFile> {
    const told = new Told(this.#handlers);
    try {
      const { ino, attributes } = there((await this.#walk(path, true, told)).node);
      demandFile(attributes);
      const { fh } = await value(this.#handlers.open(this.#context(), ino, libc.O_RDONLY, false));
      return new RemoteFile(this.#handlers, () => this.#context(), ino, fh, told, false, attributes);
    } catch (error) {
      told[Symbol.dispose]();
      throw error;
    }
  }

  /** For writing, from the start of an empty file: as creat(2). */
  async createFile(path: Uint8Array, mode = 0o666): Promise<RemoteFile> {
    const told = new Told(this.#handlers);
    const { umask, isRoot } = this.#core;
    const flags = libc.O_WRONLY | libc.O_CREAT;
    try {
      for (let tries = 0;; tries++) {
        const { parent, name, node } = await this.#walk(path, true, told);
        if (node !== undefined) {
          const { ino, attributes } = node;
          demandFile(attributes);
          const opened = this.#handlers.open(this.#context(), ino, libc.O_WRONLY | libc.O_TRUNC, !isRoot);
          const { fh } = await value(opened);
          return new RemoteFile(this.#handlers, () => this.#context(), ino, fh, told, true, attributes);
        }
        if (endsWithSlash(path)) throw new FsError("EISDIR", "that is the name of a directory");
        try {
          const { entry, open } = await value(
            this.#handlers.create(
              this.#context(),
              parent,
              named(name),
              flags | libc.O_EXCL,
              mode,
              umask,
            ),
          );
          told.note(entry);
          const { nodeid, attributes } = entry;
          return new RemoteFile(
            this.#handlers,
            () => this.#context(),
            nodeid,
            open.fh,
            told,
            true,
            attributes,
          );
        } catch (error) {
          // Somebody has just made it.
          if (!isErrno(error, "EEXIST") || tries >= CREATE_TRIES) throw error;
        }
      }
    } catch (error) {
      told[Symbol.dispose]();
      throw error;
    }
  }

  async #on<T>(
    path: Uint8Array,
    follow: boolean,
    work: (place: Place, told: Told) => Promise<T>,
  ): Promise<T> {
    using told = new Told(this.#handlers);
    return await work(await this.#walk(path, follow, told), told);
  }

  /** As path_lookup of the kernel, with the permissions of the caller. */
  async #walk(path: Uint8Array, follow: boolean, told: Told): Promise<Place> {
    if (path.length >= PATH_BYTES_MAX) throw new FsError("ENAMETOOLONG", "the path is too long");
    const root = await this.#root();
    let above: Node[] = [root];
    const rest = namesOf(path).reverse();
    let mustBeDirectory = endsWithSlash(path);
    for (let links = 0; rest.length > 0;) {
      const name = rest.pop()!;
      const directory = above.at(-1)!;
      if (!isDirectory(directory.attributes)) throw new FsError("ENOTDIR", "not a directory");
      if (isDots(name)) {
        if (name.length === 2 && above.length > 1) above.pop();
        continue;
      }
      if (name.length > NAME_BYTES_MAX) {
        throw new FsError("ENAMETOOLONG", `a name has at most ${NAME_BYTES_MAX} bytes`);
      }
      const isLast = rest.length === 0;
      const place = { parent: directory.ino, name, above: above.map(({ ino }) => ino) };
      const node = await this.#lookup(directory.ino, name, told);
      if (node === undefined) {
        if (isLast) return { ...place, node };
        throw new FsError("ENOENT", "no such file or directory");
      }
      if ((node.attributes.mode & S_IFMT) === S_IFLNK && (!isLast || follow || mustBeDirectory)) {
        if (++links > SYMLINKS_MAX) throw new FsError("ELOOP", "too many symbolic links");
        const target = await value(this.#handlers.readlink(this.#context(), node.ino));
        if (target[0] === SLASH) above = [root];
        if (isLast && endsWithSlash(target)) mustBeDirectory = true;
        rest.push(...namesOf(target).reverse());
        continue;
      }
      if (isLast) {
        if (mustBeDirectory && !isDirectory(node.attributes)) throw new FsError("ENOTDIR", "not a directory");
        return { ...place, node };
      }
      above.push(node);
    }
    const node = above.at(-1)!;
    return { parent: node.ino, name: null, node, above: above.slice(0, -1).map(({ ino }) => ino) };
  }

  async #root(): Promise<Node> {
    const { attributes } = await value(this.#handlers.getattr(this.#context(), ROOT_INODE, undefined));
    return { ino: ROOT_INODE, attributes };
  }

  /** Looked up again when it goes while it is asked for: then its name leads elsewhere, or nowhere. */
  async #lookup(parent: number, name: Uint8Array, told: Told): Promise<Node | undefined> {
    try {
      const entry = await value(this.#handlers.lookup(this.#context(), parent, name));
      if (entry.nodeid === 0) return undefined;
      told.note(entry);
      return { ino: entry.nodeid, attributes: entry.attributes };
    } catch (error) {
      if (isErrno(error, "ENOENT")) return undefined;
      throw error;
    }
  }
}

/** An open file. Not closed: it stays open for others, and its data may not be reported. */
export class RemoteFile {
  readonly attributes: KernelAttributes;
  readonly #handlers: Required<FileSystemHandlers>;
  readonly #context: () => RequestContext;
  readonly #ino: number;
  readonly #fh: number;
  readonly #told: Told;
  readonly #isWritten: boolean;

  constructor(
    handlers: Required<FileSystemHandlers>,
    context: () => RequestContext,
    ino: number,
    fh: number,
    told: Told,
    isWritten: boolean,
    attributes: KernelAttributes,
  ) {
    this.attributes = attributes;
    this.#handlers = handlers;
    this.#context = context;
    this.#ino = ino;
    this.#fh = fh;
    this.#told = told;
    this.#isWritten = isWritten;
  }

  /**
   * Gives [offset, offset + size), as far as there is of it, to `use`, in order, and says how many bytes that were. The views
   * are good while `use` runs.
   */
  async read(offset: number, size: number, use: (bytes: Uint8Array) => void): Promise<number> {
    const after: (() => void)[] = [];
    const context = { ...this.#context(), onReplied: (action: () => void) => void after.push(action) };
    const answer = this.#handlers.read(context, this.#ino, this.#fh, offset, size, { isDirect: true });
    // What is there at once is good until the next call: no step may lie in between.
    const found = answer instanceof Promise ? await answer : answer;
    if (typeof found === "number") throw failure(found);
    const views = found instanceof Uint8Array ? [found] : found;
    for (const view of views) use(view);
    for (const action of after) action();
    return views.reduce((sum, view) => sum + view.length, 0);
  }

  /**
   * Takes the bytes; `onFree` is called when their memory is the caller's again: if it is not before this resolves, later or,
   * after a failure, never.
   */
  async write(offset: number, bytes: Uint8Array, onFree: () => void): Promise<void> {
    let isTaken = false;
    const takeBuffer = () => {
      isTaken = true;
      return onFree;
    };
    const how = { openFlags: libc.O_WRONLY, fromPageCache: false, killSuidGid: false };
    const context = { ...this.#context(), takeBuffer };
    await status(this.#handlers.write(context, this.#ino, this.#fh, offset, bytes, how));
    if (!isTaken) onFree();
  }

  /** The first of `offset`s from there on that holds data, or a hole. Undefined: there is none up to the end. */
  async seek(
    offset: number,
    whence: typeof libc.SEEK_DATA | typeof libc.SEEK_HOLE,
  ): Promise<number | undefined> {
    try {
      return (await value(this.#handlers.lseek(this.#context(), this.#ino, this.#fh, offset, whence))).offset;
    } catch (error) {
      if (isErrno(error, "ENXIO")) return undefined;
      throw error;
    }
  }

  /** Sets the size: what comes to it reads as zeros. */
  async truncate(size: number): Promise<void> {
    await value(
      this.#handlers.setattr(this.#context(), this.#ino, { size, fh: this.#fh, killSuidGid: false }),
    );
  }

  /** As close(2): fails if what was written could not be stored. The file is closed all the same. */
  async close(): Promise<void> {
    try {
      if (this.#isWritten) await status(this.#handlers.flush(this.#context(), this.#ino, this.#fh, 0n));
    } finally {
      await this.#handlers.release(this.#context(), this.#ino, this.#fh, 0);
      this.#told[Symbol.dispose]();
    }
  }
}

interface Node {
  readonly ino: number;
  readonly attributes: KernelAttributes;
}

/** Where a path leads. `name` null: to a directory by "." or "..", or the root. */
interface Place {
  readonly parent: number;
  readonly name: Uint8Array | null;
  /** Undefined: the name is free. */
  readonly node: Node | undefined;
  /** Directories on the way, from the root; without `node`. */
  readonly above: readonly number[];
}

/** Inodes that handlers have told of, as the kernel counts them. */
class Told implements Disposable {
  readonly #handlers: Required<FileSystemHandlers>;
  readonly #inodes: number[] = [];

  constructor(handlers: Required<FileSystemHandlers>) {
    this.#handlers = handlers;
  }

  note({ nodeid }: EntryAnswer): void {
    if (nodeid !== 0) this.#inodes.push(nodeid);
  }

  [Symbol.dispose](): void {
    for (const ino of this.#inodes.splice(0)) this.#handlers.forget(ino, 1);
  }
}

async function value<T>(answer: Answer<T>): Promise<T> {
  const result = answer instanceof Promise ? await answer : answer;
  if (typeof result === "number") throw failure(result);
  return result as T;
}

async function status(answer: number | Promise<number>): Promise<void> {
  const result = answer instanceof Promise ? await answer : answer;
  if (result < 0) throw failure(result);
}

function failure(negativeErrno: number): FsError {
  const errno: ErrnoName = errnoName(-negativeErrno);
  return new FsError(errno, errno);
}

function there(node: Node | undefined): Node {
  if (node !== undefined) return node;
  throw new FsError("ENOENT", "no such file or directory");
}

function named(name: Uint8Array | null): Uint8Array {
  if (name !== null) return name;
  throw new FsError("EBUSY", "it has no name of its own");
}

function demandFile(attributes: KernelAttributes): void {
  if (isDirectory(attributes)) throw new FsError("EISDIR", "it is a directory");
  if (!isFile(attributes)) throw new FsError("EINVAL", "it is no regular file");
}

function isDirectory({ mode }: KernelAttributes): boolean {
  return (mode & S_IFMT) === S_IFDIR;
}

function isFile({ mode }: KernelAttributes): boolean {
  return (mode & S_IFMT) === S_IFREG;
}

function namesOf(path: Uint8Array): Uint8Array[] {
  const names: Uint8Array[] = [];
  for (let from = 0; from < path.length;) {
    const slash = path.indexOf(SLASH, from);
    const to = slash < 0 ? path.length : slash;
    if (to > from) names.push(path.subarray(from, to));
    from = to + 1;
  }
  return names;
}

function endsWithSlash(path: Uint8Array): boolean {
  return path.at(-1) === SLASH;
}

function isDots(name: Uint8Array): boolean {
  return name[0] === DOT[0] && (name.length === 1 || (name.length === 2 && name[1] === DOT[0]));
}
