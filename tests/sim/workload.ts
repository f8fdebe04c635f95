/**
 * Programs on the clients: they open, write, read, sync, cut, rename and remove a few files, one call after the other, and
 * note in the history what they saw.
 */

import { bytesOf } from "../../base/bytes.ts";
import type { Handle } from "../../fs/files.ts";
import { FsError } from "../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../wire/ids.ts";
import { S_IFDIR } from "../../wire/messages/inode.ts";
import type { ClientHost, Cluster } from "./cluster.ts";
import { type Operation, Register } from "./history.ts";
import type { Interruptible } from "../../fs/interruptible.ts";

/** A register's bytes. */
export const PAGE = 64;
/** Registers of a file. */
export const PAGES = 10;
const NAMES = ["a", "b", "c"];
/** In a client's own directory: many are not there yet. */
const HOME_NAMES = [..."abcdefghijkl"];
const ROOT_USER = { uid: 0, gid: 0 };
const WRITING = { append: false, isWriteback: false, killSuidGid: false };
const PATIENT: Interruptible = { signal: new AbortController().signal };

interface Noted {
  /** What it was written through: it hears of what became of it. */
  readonly opened: OpenHandle;
  readonly register: Register;
  readonly operation: Operation;
}

interface Pages {
  readonly first: number;
  readonly versions: number[];
  readonly data: Uint8Array;
}

interface OpenHandle {
  readonly handle: Handle;
  readonly ino: InodeId;
  readonly isWriter: boolean;
  readonly parent: InodeId;
  readonly name: Uint8Array;
  /** When it was opened by its name. */
  readonly from: number;
}

export class Workload {
  readonly #cluster: Cluster;
  readonly #registers = new Map<string, Register>();
  #versions = 0;
  isStopping = false;
  /** Programs that have not ended. */
  running = 0;
  /** Files that were synced when no name was to change any more: each has its name for good. */
  readonly lasting = new Set<InodeId>();
  /** Changes of names that have not ended, or that died with their client and may yet come; and when one was asked for last. */
  #namesChanging = 0;
  #namesChanged = 0;
  /** Each client has a directory of its own, where its mount makes files by itself. */
  readonly hasHomes: boolean;
  readonly #homes = new Map<string, InodeId>();
  /** Files that only what is copied to others is written to. */
  readonly sources = new Set<InodeId>();
  /** When the nameserver's machine lost its power last. */
  #namespaceCutAt = -1;
  /** What each client has written that may yet be lost. */
  readonly #unstored = new Map<string, Set<Noted>>();
  /** Of those that are stored or not, what no fsync has covered. */
  readonly counts: Record<string, number> = {};

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    this.hasHomes = cluster.simulation.chance(0.4);
  }

  get registers(): Iterable<Register> {
    return this.#registers.values();
  }

  register(ino: InodeId, page: number): Register {
    const name = `${ino}.${page}`;
    let register = this.#registers.get(name);
    if (register === undefined) this.#registers.set(name, register = new Register(name));
    return register;
  }

  /** Whatever a client is doing: see `died`. */
  mayDie(_client: ClientHost): boolean {
    return true;
  }

  /** The client has died: nobody will say what became of what it wrote. */
  died(client: ClientHost): void {
    for (const { register, operation } of this.#unstored.get(client.host) ?? []) {
      register.leave(operation, this.#cluster.simulation.tick());
    }
    this.#unstored.delete(client.host);
  }

  /** Names may come to lead elsewhere. */
  async changeNames(change: () => Promise<void>): Promise<void> {
    this.#namesChanging++;
    this.lasting.clear();
    await change();
    this.#namesChanging--;
    this.#namesChanged = this.#cluster.simulation.tick();
    this.lasting.clear();
  }

  /** What was opened by its name at `from` is on disk by now. */
  synced(ino: InodeId, from: number): void {
    if (this.#namesChanging === 0 && from > this.#namesChanged) this.lasting.add(ino);
  }

  /** The nameserver's machine loses its power. */
  namespaceCut(): void {
    this.#namespaceCutAt = this.#cluster.simulation.tick();
  }

  /** The last write of each page of the file that had ended by now: a sync that begins now covers it, whoever made it. */
  written(ino: InodeId): (readonly [Register, Operation])[] {
    const at = this.#cluster.simulation.tick();
    const last: (readonly [Register, Operation])[] = [];
    for (let page = 0; page < PAGES; page++) {
      const register = this.#registers.get(`${ino}.${page}`);
      const write = register?.lastWriteBefore(at);
      if (write !== undefined) last.push([register!, write]);
    }
    return last;
  }

  /** What was `written` has been synced, by anybody. */
  allSynced(written: readonly (readonly [Register, Operation])[]): void {
    const at = this.#cluster.simulation.tick();
    for (const [register, write] of written) {
      // Whoever had written it would have been told; not whoever syncs.
      if (write.from <= this.#namespaceCutAt || register.wasCutSince(write)) continue;
      register.synced(write, at);
    }
  }

  homeOf(client: ClientHost): InodeId | undefined {
    return this.#homes.get(client.host);
  }

  setHome(client: ClientHost, home: InodeId): void {
    this.#homes.set(client.host, home);
  }

  /** Directories with files. */
  get directories(): InodeId[] {
    return [ROOT_INODE, ...this.#homes.values()];
  }

  /** A program on `client`, until the workload stops or the client dies. */
  async run(client: ClientHost): Promise<void> {
    const { life } = client;
    const program = new Program(this, this.#cluster, client);
    this.running++;
    life!.onEnd.add(() => this.running--);
    try {
      while (!this.isStopping) {
        await life!.wait(this.#cluster.simulation.between(0, 120));
        await program.step();
      }
      await program.closeAll();
    } catch (error) {
      const text = error instanceof Error ? error.stack ?? error.message : String(error);
      this.#cluster.problems.push(`${client.host}: ${text}`);
    }
    if (!life!.isOver) this.running--;
    life!.onEnd.clear();
  }

  count(what: string, more = 1): void {
    this.counts[what] = (this.counts[what] ?? 0) + more;
  }

  nextVersion(): number {
    return ++this.#versions;
  }

  unstored(client: ClientHost): Set<Noted> {
    let noted = this.#unstored.get(client.host);
    if (noted === undefined) this.#unstored.set(client.host, noted = new Set());
    return noted;
  }

  /** Reads every file by its name on a client, when all is well: must succeed. */
  async readAll(client: ClientHost, except: ReadonlySet<InodeId>): Promise<void> {
    const program = new Program(this, this.#cluster, client);
    const found = new Set<InodeId | undefined>();
    for (const parent of this.directories) {
      for (const name of parent === ROOT_INODE ? NAMES : HOME_NAMES) {
        found.add(await program.readWhole(parent, name, except));
      }
    }
    for (const ino of this.lasting) {
      if (!found.has(ino)) this.#cluster.problems.push(`${ino} was synced, and has no name any more`);
    }
  }
}

/** One process. */
class Program {
  readonly #workload: Workload;
  readonly #cluster: Cluster;
  readonly #client: ClientHost;
  /** Which of the client's lives it is in. */
  readonly #who: string;
  readonly #open: OpenHandle[] = [];
  readonly #unsynced = new Map<InodeId, Set<Noted>>();
  /** What is copied to other files is written to it first. */
  #source: Handle | undefined;

  constructor(workload: Workload, cluster: Cluster, client: ClientHost) {
    this.#workload = workload;
    this.#cluster = cluster;
    this.#client = client;
    this.#who = `${client.host}/${client.lives}`;
  }

  get #tick(): number {
    return this.#cluster.simulation.tick();
  }

  async step(): Promise<void> {
    const { simulation } = this.#cluster;
    if (this.#workload.hasHomes && this.#workload.homeOf(this.#client) === undefined) {
      return await this.#makeHome();
    }
    const home = this.#workload.homeOf(this.#client);
    if (home !== undefined && simulation.chance(0.06)) return await this.#unpack(home);
    const opened = this.#open.length > 0 ? simulation.pick(this.#open) : undefined;
    if (opened === undefined || (this.#open.length < 3 && simulation.chance(0.1))) {
      return await this.#openOne();
    }
    const dice = simulation.random.next();
    if (dice < 0.04 && opened.isWriter) return await this.#copy(opened);
    if (dice < 0.32 && opened.isWriter) return await this.#write(opened);
    if (dice < 0.72) return void await this.#read(opened);
    if (dice < 0.82 && opened.isWriter) return await this.#sync(opened);
    if (dice < 0.85 && opened.isWriter) return await this.#truncate(opened);
    if (dice < 0.86 && opened.isWriter) return await this.#zero(opened);
    if (dice < 0.88) {
      const [parent, name] = this.#place();
      return await this.#workload.changeNames(() =>
        this.#attempt("remove", () => this.#fs.names.remove(parent, name, false, PATIENT))
      );
    }
    if (dice < 0.9) {
      const [parent, from, target, to] = [...this.#place(), ...this.#place()];
      return await this.#workload.changeNames(() =>
        this.#attempt("rename", () => this.#fs.names.rename(parent, from, target, to, 0, PATIENT))
      );
    }
    await this.#close(opened);
    // Who opens it again syncs what the closed one has written.
    if (!opened.isWriter || !simulation.chance(0.3)) return;
    const others = this.#open.length;
    await this.#openNamed(opened.parent, opened.name, true);
    if (this.#open.length > others) await this.#sync(this.#open.at(-1)!);
  }

  get #fs() {
    return this.#client.fs!;
  }

  #name(parent: InodeId): Uint8Array {
    return bytesOf(this.#cluster.simulation.pick(parent === ROOT_INODE ? NAMES : HOME_NAMES));
  }

  #place(): [InodeId, Uint8Array] {
    const parent = this.#directory();
    return [parent, this.#name(parent)];
  }

  /** Mostly its own, where nobody else is. */
  #directory(): InodeId {
    const { simulation } = this.#cluster;
    const home = this.#workload.homeOf(this.#client);
    if (home === undefined) return ROOT_INODE;
    return simulation.chance(0.99) ? home : simulation.pick(this.#workload.directories);
  }

  async #makeHome(): Promise<void> {
    const request = {
      parent: ROOT_INODE,
      name: bytesOf(`home of ${this.#client.host}`),
      credentials: ROOT_USER,
    };
    await this.#attempt("mkdir", async () => {
      const found = await this.#fs.names.lookup(ROOT_INODE, request.name, PATIENT);
      const home = found.inode ??
        (await this.#fs.names.make({ ...request, mode: S_IFDIR | 0o755 }, PATIENT)).inode!;
      home.lookups++;
      await this.#fs.names.syncNamespace();
      this.#workload.setHome(this.#client, home.ino);
    });
  }

  /** Runs a call; what it refuses is counted. True: it succeeded. */
  async #attempt(what: string, call: () => unknown): Promise<void> {
    await this.#succeeds(what, call);
  }

  async #succeeds(what: string, call: () => unknown): Promise<boolean> {
    this.#cluster.trace(`${this.#client.host} ${what} ...`);
    try {
      await call();
      this.#workload.count(what);
      this.#cluster.trace(`${this.#client.host} ${what} done`);
      return true;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      this.#workload.count(`${what} ${error.errno}`);
      this.#cluster.trace(`${this.#client.host} ${what} failed: ${error.errno} ${error.message}`);
      return false;
    }
  }

  async #openOne(): Promise<void> {
    await this.#openNamed(...this.#place(), this.#cluster.simulation.chance(0.6));
  }

  async #openNamed(parent: InodeId, name: Uint8Array, isWriter: boolean): Promise<void> {
    const from = this.#tick;
    await this.#attempt(isWriter ? "create" : "open", async () => {
      let handle: Handle;
      if (isWriter) {
        const request = { parent, name, credentials: ROOT_USER, mode: 0o644, exclusive: false, write: true };
        handle = (await this.#fs.files.create(request, { truncate: false }, PATIENT)).handle;
      } else {
        handle = await this.#openToRead(parent, name);
      }
      this.#open.push({ handle, ino: handle.file.ino, isWriter, parent, name, from });
    });
  }

  async #openToRead(parent: InodeId, name: Uint8Array): Promise<Handle> {
    const { inode } = await this.#fs.names.lookup(parent, name, PATIENT);
    if (inode === null) throw new FsError("ENOENT", "no such name");
    return await this.#fs.files.open(
      inode.ino,
      { write: false, truncate: false, killSuidGid: false },
      PATIENT,
    );
  }

  /** Pages to be written, each with a version of its own. */
  #somePages(ino: InodeId): Pages {
    const { simulation } = this.#cluster;
    const first = simulation.below(PAGES);
    return this.#pages(ino, first, 1 + simulation.below(Math.min(3, PAGES - first)));
  }

  #pages(ino: InodeId, first: number, count: number): Pages {
    const data = new Uint8Array(count * PAGE);
    const versions = Array.from({ length: count }, () => this.#workload.nextVersion());
    versions.forEach((version, i) => fill(data.subarray(i * PAGE, (i + 1) * PAGE), ino, first + i, version));
    return { first, versions, data };
  }

  /** New files one after the other, as tar makes them. */
  async #unpack(home: InodeId): Promise<void> {
    const { simulation } = this.#cluster;
    for (let files = 3 + simulation.below(5); files > 0; files--) {
      const name = this.#name(home);
      await this.#workload.changeNames(() =>
        this.#attempt("remove", () => this.#fs.names.remove(home, name, false, PATIENT))
      );
      const others = this.#open.length;
      await this.#openNamed(home, name, true);
      if (this.#open.length === others) return;
      const opened = this.#open.at(-1)!;
      await this.#write(opened, this.#pages(opened.ino, 0, 1 + simulation.below(PAGES)));
      if (simulation.chance(0.1)) await this.#sync(opened);
      if (simulation.chance(0.9)) await this.#close(opened);
    }
  }

  async #write(opened: OpenHandle, pages = this.#somePages(opened.ino)): Promise<void> {
    const { handle } = opened;
    const { first, versions, data } = pages;
    await this.#change("write", opened, first, versions, async () => {
      await this.#fs.files.write(handle, first * PAGE, data, WRITING, PATIENT);
      return versions.length;
    });
  }

  /** `call` gives how many pages, from `first` on, it has given these versions. */
  async #change(
    what: string,
    opened: OpenHandle,
    first: number,
    versions: readonly number[],
    call: () => Promise<number>,
  ): Promise<void> {
    const { ino } = opened;
    const from = this.#tick;
    const noted: Noted[] = versions.map((version, i) => {
      const register = this.#workload.register(ino, first + i);
      return { opened, register, operation: register.begin(true, this.#who, version, from) };
    });
    const unstored = this.#workload.unstored(this.#client);
    for (const one of noted) unstored.add(one);
    let done = 0;
    const isTraced = this.#cluster.options.trace !== null;
    await this.#succeeds(isTraced ? `${what} ${ino}.${first}+${versions.length}` : what, async () => {
      done = await call();
    });
    const to = this.#tick;
    for (const one of noted.slice(0, done)) {
      one.register.end(one.operation, to);
      this.#unsyncedOf(ino).add(one);
    }
    for (const one of noted.slice(done)) {
      one.register.leave(one.operation, to);
      unstored.delete(one);
    }
  }

  /**
   * copy_file_range(2) from a file of its own, where what is copied, maybe with a hole, is on the disks: so it is known what
   * comes, whoever loses power.
   */
  async #copy(opened: OpenHandle): Promise<void> {
    const { simulation } = this.#cluster;
    const { first, versions, data } = this.#somePages(opened.ino);
    const at = simulation.below(PAGES - versions.length + 1);
    const hole = simulation.chance(0.3) ? simulation.below(versions.length) : undefined;
    if (hole !== undefined) versions[hole] = 0;
    if (!await this.#succeeds("prepare", () => this.#writeSource(at, data, hole))) {
      const source = this.#source;
      this.#source = undefined;
      if (source !== undefined) await this.#attempt("release", () => this.#fs.files.close(source));
      return;
    }
    const range = { from: at * PAGE, to: first * PAGE, length: data.length };
    await this.#change("copy", opened, first, versions, async () => {
      const copied = await this.#fs.ranges.copy(this.#source!, opened.handle, range, PATIENT);
      if (copied < data.length) this.#workload.count("copy a part");
      return Math.floor(copied / PAGE);
    });
  }

  async #writeSource(at: number, data: Uint8Array, hole: number | undefined): Promise<void> {
    const { files, ranges } = this.#fs;
    if (this.#source === undefined) {
      const name = bytesOf(`source of ${this.#client.host}, ${this.#client.lives}`);
      const request = {
        parent: ROOT_INODE,
        name,
        credentials: ROOT_USER,
        mode: 0o644,
        exclusive: false,
        write: true,
      };
      this.#source = (await files.create(request, { truncate: false }, PATIENT)).handle;
      this.#workload.sources.add(this.#source.file.ino);
    }
    await files.write(this.#source, at * PAGE, data, WRITING, PATIENT);
    if (hole !== undefined) {
      const how = { grow: false, keepsRoom: false };
      await ranges.zero(this.#source, (at + hole) * PAGE, (at + hole + 1) * PAGE, how, PATIENT);
    }
    await files.fsync(this.#source);
  }

  #unsyncedOf(ino: InodeId): Set<Noted> {
    let noted = this.#unsynced.get(ino);
    if (noted === undefined) this.#unsynced.set(ino, noted = new Set());
    return noted;
  }

  async #read(opened: OpenHandle): Promise<boolean> {
    const { simulation } = this.#cluster;
    const first = simulation.chance(0.3) ? 0 : simulation.below(PAGES);
    const count = simulation.chance(0.3) ? PAGES - first : 1;
    return await this.#readPages(opened, first, count);
  }

  async #readPages({ handle, ino }: OpenHandle, first: number, count: number): Promise<boolean> {
    const from = this.#tick;
    const what = `read ${ino}.${first}+${count}`;
    return await this.#succeeds(this.#cluster.options.trace !== null ? what : "read", async () => {
      const views = await this.#fs.files.read(handle, first * PAGE, count * PAGE, true, PATIENT);
      const to = this.#tick;
      const data = new Uint8Array(count * PAGE);
      let at = 0;
      for (const view of views) {
        data.set(view, at);
        at += view.length;
      }
      for (let i = 0; i < count; i++) {
        const version = versionOf(data.subarray(i * PAGE, (i + 1) * PAGE), ino, first + i);
        if (version === undefined) {
          this.#cluster.problems.push(`${this.#client.host} read wrong bytes of ${ino}.${first + i}`);
          continue;
        }
        this.#workload.register(ino, first + i).read(this.#who, version, from, to);
        this.#cluster.trace(`${this.#client.host} reads ${ino}.${first + i} = ${version}`);
      }
    });
  }

  async #sync(opened: OpenHandle): Promise<void> {
    const { handle, ino } = opened;
    const noted = [...this.#unsyncedOf(ino)].filter((one) => one.opened === opened);
    const written = this.#workload.written(ino);
    const dataOnly = this.#cluster.simulation.random.next() < 0.5;
    const sync = () => this.#fs.files.fsync(handle, dataOnly);
    if (!await this.#stores(dataOnly ? "fdatasync" : "fsync", opened, sync)) return;
    const at = this.#tick;
    this.#workload.synced(ino, opened.from);
    this.#workload.allSynced(written);
    for (const one of noted) {
      one.register.synced(one.operation, at);
      this.#unsyncedOf(ino).delete(one);
    }
  }

  /** A call after which all that this client has written to the file is stored, or else may never be. */
  async #stores(what: string, opened: OpenHandle, call: () => Promise<unknown>): Promise<boolean> {
    const isDone = await this.#succeeds(what, call);
    const unstored = this.#workload.unstored(this.#client);
    const at = this.#tick;
    for (const one of [...unstored]) {
      if (one.opened !== opened) continue;
      unstored.delete(one);
      if (!isDone) {
        one.register.leave(one.operation, at);
        this.#unsyncedOf(opened.ino).delete(one);
      }
    }
    return isDone;
  }

  /** As the kernel's SETATTR does it. */
  async #truncate(opened: OpenHandle): Promise<void> {
    const { ino } = opened;
    const pages = this.#cluster.simulation.below(PAGES);
    const trims = this.#cluster.simulation.chance(0.5);
    await this.#clear("truncate", opened, pages, PAGES, async () => {
      await this.#fs.names.setattr({ ino, size: pages * PAGE }, PATIENT);
      if (trims && pages > 0) await this.#fs.ranges.trim(ino, PATIENT);
    });
  }

  /** fallocate(2): a hole, or zeros with room on the disks. */
  async #zero(opened: OpenHandle): Promise<void> {
    const { simulation } = this.#cluster;
    const first = simulation.below(PAGES);
    const end = first + 1 + simulation.below(PAGES - first);
    const keepsRoom = simulation.chance(0.5);
    await this.#clear(keepsRoom ? "zero" : "punch", opened, first, end, () => {
      const how = { grow: keepsRoom && simulation.chance(0.5), keepsRoom };
      return this.#fs.ranges.zero(opened.handle, first * PAGE, end * PAGE, how, PATIENT);
    });
  }

  /** A call that makes zeros of pages, and is stored when it ends. */
  async #clear(
    what: string,
    opened: OpenHandle,
    first: number,
    end: number,
    call: () => Promise<void>,
  ): Promise<void> {
    const from = this.#tick;
    const noted: Noted[] = [];
    for (let page = first; page < end; page++) {
      const register = this.#workload.register(opened.ino, page);
      noted.push({ opened, register, operation: register.begin(true, this.#who, 0, from) });
    }
    const unstored = this.#workload.unstored(this.#client);
    for (const one of noted) unstored.add(one);
    const isDone = await this.#succeeds(what, call);
    const to = this.#tick;
    for (const one of noted) {
      unstored.delete(one);
      if (isDone) one.register.end(one.operation, to);
      else one.register.leave(one.operation, to);
    }
  }

  async #close(opened: OpenHandle): Promise<void> {
    this.#open.splice(this.#open.indexOf(opened), 1);
    if (opened.isWriter) await this.#stores("close", opened, () => this.#fs.files.flush(opened.handle));
    await this.#attempt("release", () => this.#fs.files.close(opened.handle));
  }

  async closeAll(): Promise<void> {
    while (this.#open.length > 0) await this.#close(this.#open[0]!);
    const source = this.#source;
    if (source !== undefined) await this.#attempt("release", () => this.#fs.files.close(source));
    const { calls } = this.#fs.session;
    for (const call of ["defer", "create", "reserveBlocks"]) {
      this.#workload.count(`call ${call}`, calls[call] ?? 0);
    }
  }

  /** The file of that name, if there is one. */
  async readWhole(
    parent: InodeId,
    name: string,
    except: ReadonlySet<InodeId>,
  ): Promise<InodeId | undefined> {
    const from = this.#tick;
    let handle: Handle;
    try {
      handle = await this.#openToRead(parent, bytesOf(name));
    } catch (error) {
      if (error instanceof FsError && error.errno === "ENOENT") return undefined;
      this.#cluster.problems.push(`${name} can't be opened: ${(error as Error).message}`);
      return undefined;
    }
    const { ino } = handle.file;
    const opened = { handle, ino, isWriter: false, parent, name: bytesOf(name), from };
    if (!except.has(ino) && !await this.#readPages(opened, 0, PAGES)) {
      this.#cluster.problems.push(`${name} (${ino}) can't be read`);
    }
    await this.#fs.files.close(handle);
    return ino;
  }
}

function fill(page: Uint8Array, ino: number, index: number, version: number): void {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  for (let at = 0; at < PAGE; at += 8) {
    view.setUint32(at, ino * PAGES + index);
    view.setUint32(at + 4, version);
  }
}

/** 0 of zeros; undefined: nobody ever wrote that there, or anywhere if `isAnywhere`. */
export function versionOf(
  page: Uint8Array,
  ino: number,
  index: number,
  isAnywhere = false,
): number | undefined {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const version = view.getUint32(4);
  const owner = isAnywhere ? view.getUint32(0) : version === 0 ? 0 : ino * PAGES + index;
  for (let at = 0; at < PAGE; at += 8) {
    if (view.getUint32(at) !== owner || view.getUint32(at + 4) !== version) return undefined;
  }
  return version;
}
