/**
 * A client as fs/ is one: keeps what it was shown for as long as a lease allows, buffers writes under WRITE, answers
 * recalls. Everything that it shows to its applications is compared with the truth.
 *
 * Invariants, as in fs/inode_table.ts and fs/file_system.ts:
 * - A lease in a reply counts only if nothing of the inode was taken back, or given back, since the request was sent. An
 *   acquired one counts at once: it was granted after everything that was taken back before its reply.
 * - "none" in a reply grants nothing, and nothing that the reply shows may be kept by it.
 * - What this client itself is changing is asked for meanwhile.
 * - Giving back waits for nothing but flushes.
 * - Names of a directory that this client has alone are changed at once, and told later, in order: before anything else is
 *   asked, and before the directory is given back. While it is being given back none is.
 */

import { textOf } from "../../../base/bytes.ts";
import { FsError } from "../../../wire/errno.ts";
import type { InodeId, SessionId } from "../../../wire/ids.ts";
import { isExclusive, LEASE_RANK, type LeaseMode, type OpenMode } from "../../../wire/messages/inode.ts";
import type { Held, RecallAnswer, RecallItem, RecallPush } from "../../../wire/messages/nameserver.ts";
import { type Schedule, SimulatedLink } from "./schedule.ts";
import {
  attributesOf,
  dataOf,
  type DeferredName,
  type EntryView,
  type InodeView,
  nameOf,
  type SimulatedNameserver,
  type Truth,
} from "./simulated_nameserver.ts";

/** What is known of an inode. */
class Known {
  readonly ino: InodeId;
  lease: LeaseMode = "none";
  recalledAt = 0;
  readers = 0;
  writers = 0;
  data: number | undefined;
  attributes: number | undefined;
  /** Of replies that come in another order the newer is shown. */
  newestData = 0;
  newestAttributes = 0;
  isDirty = false;
  /** Handles of which open(2) has returned, and how many were closed. */
  opened = 0;
  closings = 0;
  /** Own changes of it that are under way. */
  changing = 0;
  readonly names = new Map<string, number>();
  readonly changingNames = new Map<string, number>();
  /** Recalls that are under way. */
  yielding = 0;

  constructor(ino: InodeId) {
    this.ino = ino;
  }

  get open(): OpenMode {
    return this.writers > 0 ? "write" : this.readers > 0 ? "read" : "no";
  }

  lower(keep: LeaseMode): void {
    if (LEASE_RANK[keep] < LEASE_RANK[this.lease]) this.lease = keep;
    if (keep !== "none") return;
    this.forget();
    this.names.clear();
  }

  forget(): void {
    if (!this.isDirty) this.data = undefined;
    this.attributes = undefined;
  }
}

export class SimulatedClient {
  readonly session: SessionId;
  readonly #nameserver: SimulatedNameserver;
  readonly #truth: Truth;
  readonly #link: SimulatedLink;
  readonly #inodes = new Map<InodeId, Known>();
  #moment = 1;
  isCrashed = false;
  /** Changes of names that the server has not answered yet. */
  #deferred: DeferredName[] = [];
  #telling: Promise<void> | null = null;

  constructor(session: SessionId, nameserver: SimulatedNameserver, truth: Truth, schedule: Schedule) {
    this.session = session;
    this.#nameserver = nameserver;
    this.#truth = truth;
    this.#link = new SimulatedLink(schedule);
  }

  inode(ino: InodeId): Known {
    let known = this.#inodes.get(ino);
    if (known === undefined) this.#inodes.set(ino, known = new Known(ino));
    return known;
  }

  /** What the client believes to hold, and has not begun to give up. */
  leaseOf(ino: InodeId): LeaseMode {
    return this.#inodes.get(ino)?.lease ?? "none";
  }

  dirty(): InodeId[] {
    return [...this.#inodes.values()].filter(({ isDirty }) => isDirty).map(({ ino }) => ino);
  }

  /** Asks the server; `arrived` gets the answer in the order of what the server sends. */
  async #ask<T>(run: () => Promise<T>, arrived: (reply: T, askedAt: number) => void): Promise<void> {
    const askedAt = this.#moment;
    await this.#tellDeferred();
    await this.#link.send();
    const reply = await run();
    await this.#link.arrive(() => {
      if (!this.isCrashed) arrived(reply, askedAt);
    });
  }

  /** Directories of which the server does not know all names. */
  deferred(): readonly DeferredName[] {
    return this.#deferred;
  }

  /** Resolves when the server knows all names as they are now. */
  async #tellDeferred(): Promise<void> {
    const last = this.#deferred.at(-1);
    while (last !== undefined && this.#deferred.includes(last) && !this.isCrashed) {
      await (this.#telling ??= this.#tell().finally(() => this.#telling = null));
    }
  }

  async #tell(): Promise<void> {
    const changes = [...this.#deferred];
    await this.#link.send();
    if (this.isCrashed) return;
    await this.#nameserver.defer(this.session, changes);
    await this.#link.arrive(() => {
      if (!this.isCrashed) this.#deferred.splice(0, changes.length);
    });
  }

  // ---- replies

  #note(known: Known): void {
    known.recalledAt = ++this.#moment;
  }

  #adopt(view: InodeView, askedAt: number): Known {
    const known = this.inode(view.ino);
    known.newestData = Math.max(known.newestData, view.data);
    known.newestAttributes = Math.max(known.newestAttributes, view.attributes);
    if (view.lease === "none" || known.recalledAt > askedAt) return known;
    if (LEASE_RANK[view.lease] > LEASE_RANK[known.lease]) known.lease = view.lease;
    if (known.changing > 0) return known;
    known.data = known.newestData;
    known.attributes = known.newestAttributes;
    return known;
  }

  #adoptName(directory: InodeId, name: string, reply: EntryView, askedAt: number): void {
    const known = this.inode(directory);
    if (reply.directory === "none" || known.recalledAt > askedAt) return;
    if (LEASE_RANK[reply.directory] > LEASE_RANK[known.lease]) known.lease = reply.directory;
    if ((known.changingNames.get(name) ?? 0) === 0) known.names.set(name, reply.version);
  }

  // ---- files

  /** open(2): who is asked meanwhile says that it is open, and the server knows of it before this returns. */
  async open(ino: InodeId, write: boolean): Promise<void> {
    const known = this.inode(ino);
    if (write) known.writers++;
    else known.readers++;
    const mode = write ? "write" : "read";
    if (LEASE_RANK[known.lease] < LEASE_RANK[mode]) {
      await this.#ask(() => this.#nameserver.acquire(this.session, ino, mode), (view) => {
        this.#adopt(view, this.#moment);
      });
    }
    known.opened++;
  }

  /** close(2): what was written is with the server. */
  async close(ino: InodeId, write: boolean): Promise<void> {
    const known = this.inode(ino);
    await this.#flush(known);
    known.closings++;
    known.opened--;
    if (write) known.writers--;
    else known.readers--;
  }

  /** read(2). */
  async read(ino: InodeId): Promise<void> {
    const known = this.inode(ino);
    const register = dataOf(ino);
    const before = this.#truth.seen(register);
    if (known.lease !== "none" && known.data !== undefined) {
      return this.#truth.show(register, known.data, before, this.session);
    }
    await this.#ask(() => this.#nameserver.acquire(this.session, ino, "read"), (view) => {
      this.#adopt(view, this.#moment);
      this.#truth.show(register, known.newestData, before, this.session);
    });
  }

  /** write(2): buffered under WRITE; a lease that was waited for serves who waited. */
  async write(ino: InodeId): Promise<void> {
    const known = this.inode(ino);
    if (known.lease === "write" && known.data !== undefined && known.changing === 0) {
      return this.#buffer(known);
    }
    await this.#ask(() => this.#nameserver.acquire(this.session, ino, "write"), (view) => {
      this.#adopt(view, this.#moment);
      if (known.lease !== "write") {
        throw new Error(`session ${this.session} acquired ${known.lease} of ${ino}`);
      }
      this.#buffer(known);
    });
  }

  #buffer(known: Known): void {
    known.data = ++known.newestData;
    known.isDirty = true;
    this.#truth.show(dataOf(known.ino), known.data, this.#truth.seen(dataOf(known.ino)), this.session);
  }

  async #flush(known: Known): Promise<void> {
    while (known.isDirty && !this.isCrashed) {
      const value = known.data!;
      await this.#ask(() => this.#nameserver.commit(this.session, known.ino, value), (view, askedAt) => {
        if (known.data === value) known.isDirty = false;
        this.#adopt(view, askedAt);
        if (known.lease === "none" && !known.isDirty) known.data = undefined;
      });
    }
  }

  /** truncate(2) by who goes on to write. */
  async truncate(ino: InodeId): Promise<void> {
    const known = this.inode(ino);
    await this.#flush(known);
    const before = this.#truth.seen(dataOf(ino));
    await this.#changing(known, () => this.#nameserver.truncate(this.session, ino), () => {
      this.#truth.show(dataOf(ino), known.newestData, before, this.session);
    });
  }

  /** chmod(2). */
  async setMode(ino: InodeId): Promise<void> {
    await this.#changing(this.inode(ino), () => this.#nameserver.setMode(this.session, ino), () => {});
  }

  async #changing(
    known: Known,
    run: () => Promise<InodeView>,
    arrived: () => void,
  ): Promise<void> {
    this.#beginChange(known);
    const register = attributesOf(known.ino);
    const before = this.#truth.seen(register);
    await this.#ask(run, (view, askedAt) => {
      this.#endChange(known, view, askedAt);
      this.#truth.show(register, view.attributes, before, this.session, true);
      arrived();
    });
  }

  #beginChange(known: Known): void {
    known.changing++;
    known.forget();
  }

  #endChange(known: Known, view?: InodeView, askedAt = 0): void {
    known.changing--;
    known.forget(); // also when the reply was crossed
    if (view !== undefined) this.#adopt(view, askedAt);
    this.#note(known); // what is on its way may be from before
  }

  /** stat(2). */
  async getattr(ino: InodeId): Promise<void> {
    const known = this.inode(ino);
    if (known.lease === "none" || known.data === undefined || known.attributes === undefined) {
      return await this.#look([ino], async () => [await this.#nameserver.getattr(this.session, ino)]);
    }
    this.#truth.show(dataOf(ino), known.data, this.#truth.seen(dataOf(ino)), this.session);
    const register = attributesOf(ino);
    this.#truth.show(register, known.attributes, this.#truth.seen(register), this.session);
  }

  /** Lists a directory and shows what it lists. */
  async list(inodes: readonly InodeId[]): Promise<void> {
    await this.#look(inodes, () => this.#nameserver.list(this.session, inodes));
  }

  async #look(inodes: readonly InodeId[], run: () => Promise<readonly InodeView[]>): Promise<void> {
    const before = inodes.map((ino) =>
      [this.#truth.seen(dataOf(ino)), this.#truth.seen(attributesOf(ino))] as const
    );
    await this.#ask(run, (views, askedAt) => {
      views.forEach((view, i) => {
        const known = this.#adopt(view, askedAt);
        this.#truth.show(dataOf(view.ino), known.newestData, before[i]![0], this.session);
        this.#truth.show(attributesOf(view.ino), known.newestAttributes, before[i]![1], this.session);
      });
    });
  }

  // ---- names

  async lookup(directory: InodeId, name: string): Promise<void> {
    const register = nameOf(directory, name);
    const before = this.#truth.seen(register);
    const known = this.inode(directory);
    const version = known.lease === "none" ? undefined : known.names.get(name);
    if (version !== undefined) return this.#truth.show(register, version, before, this.session);
    await this.#ask(() => this.#nameserver.lookup(this.session, directory, name), (reply, askedAt) => {
      if (reply.inode !== undefined) this.#adopt(reply.inode, askedAt);
      this.#adoptName(directory, name, reply, askedAt);
      this.#truth.show(register, reply.version, before, this.session);
    });
  }

  /** Makes or removes a name that is known here, if that can be told later; false: it must be asked for. */
  #changeDeferred(directory: InodeId, name: string): boolean {
    const known = this.inode(directory);
    const version = known.names.get(name);
    if (!isExclusive(known.lease) || version === undefined || known.yielding > 0 || known.changing > 0) {
      return false;
    }
    const [register, attributes] = [nameOf(directory, name), attributesOf(directory)];
    known.names.set(name, version + 1);
    this.#note(known); // what is on its way is from before
    this.#truth.show(register, version + 1, this.#truth.seen(register), this.session, true);
    if (known.attributes !== undefined) {
      known.attributes = ++known.newestAttributes;
      this.#truth.show(attributes, known.attributes, this.#truth.seen(attributes), this.session, true);
    }
    this.#deferred.push({ directory, name, version: version + 1 });
    return true;
  }

  async changeName(directory: InodeId, name: string): Promise<void> {
    if (this.#changeDeferred(directory, name)) return;
    const done = this.#beginNameChange(directory, name);
    await this.#ask(() => this.#nameserver.changeName(this.session, directory, name), done);
  }

  async rename(
    from: readonly [directory: InodeId, name: string],
    to: readonly [directory: InodeId, name: string],
  ): Promise<void> {
    const done = [from, to].map(([directory, name]) => this.#beginNameChange(directory, name));
    const inodes = [from, to].map(([, name]) => this.inode(this.#nameserver.target(name)));
    for (const inode of inodes) this.#beginChange(inode);
    await this.#ask(() => this.#nameserver.rename(this.session, from, to), (replies, askedAt) => {
      replies.forEach((reply, i) => done[i]!(reply, askedAt));
      for (const inode of inodes) this.#endChange(inode);
    });
  }

  #beginNameChange(directory: InodeId, name: string): (reply: EntryView, askedAt: number) => void {
    const known = this.inode(directory);
    const register = nameOf(directory, name);
    const before = this.#truth.seen(register);
    const changing = known.changingNames;
    changing.set(name, (changing.get(name) ?? 0) + 1);
    known.names.delete(name);
    known.changing++;
    known.attributes = undefined;
    return (reply, askedAt) => {
      changing.set(name, changing.get(name)! - 1);
      known.changing--;
      this.#adoptName(directory, name, reply, askedAt);
      known.attributes = undefined;
      this.#note(known);
      this.#truth.show(register, reply.version, before, this.session, true);
    };
  }

  /** The sessions in which a file is open, as who removes it is told. */
  async openIn(ino: InodeId): Promise<readonly SessionId[]> {
    let openIn: readonly SessionId[] = [];
    await this.#ask(() => this.#nameserver.openIn(this.session, ino), (reply) => openIn = reply);
    return openIn;
  }

  // ---- giving back

  /** Gives back some of what is not open, as the kernel forgets it. */
  async release(inodes: readonly InodeId[], keep: LeaseMode): Promise<void> {
    const held: Held[] = [];
    for (const ino of inodes) {
      const known = this.inode(ino);
      if (known.open !== "no" || known.isDirty) continue;
      if (this.#deferred.some(({ directory }) => directory === ino)) continue;
      this.#note(known);
      known.lower(keep);
      held.push({ ino, lease: known.lease, open: "no" });
    }
    await this.#link.send();
    this.#nameserver.release(this.session, held);
  }

  /** The server's push. */
  async recall({ items }: RecallPush): Promise<RecallAnswer> {
    const given = await this.#link.arrive(() => items.map((item) => this.#giveSettled(item)));
    await Promise.all(given);
    if (this.isCrashed) throw new FsError("ENOTCONN", "crashed");
    const open = items.map(({ ino, removed }) => {
      const known = this.inode(ino);
      if (removed === true && known.open === "no") known.lower("none"); // as the server takes it
      return known.open;
    });
    await this.#link.send();
    return { open };
  }

  async #giveSettled(item: RecallItem): Promise<void> {
    const known = this.inode(item.ino);
    known.yielding++;
    if (this.#deferred.some(({ directory }) => directory === item.ino)) await this.#tellDeferred();
    await this.#give(item);
    known.yielding--;
  }

  async #give(item: RecallItem): Promise<void> {
    const known = this.inode(item.ino);
    this.#note(known);
    for (const name of item.names ?? []) known.names.delete(textOf(name));
    if (item.names !== undefined || item.attributes === true) known.attributes = undefined;
    if (item.names !== undefined) return known.lower("read");
    known.lower(item.removed === true && known.open === "no" ? "none" : item.keep);
    if (known.lease !== "write") await this.#flush(known);
    known.lower(known.lease);
  }
}
