/**
 * A client of the whole service as fs/ is one: keeps names and attributes for as long as a lease allows, has files open,
 * buffers a size under WRITE, gives back, and is asked about what others remove. See fs/inode_table.ts, recalls.ts and
 * releases.ts, whose rules it follows.
 */

import { bytesOf, textOf } from "../../../base/bytes.ts";
import { isErrno } from "../../../wire/errno.ts";
import type { InodeId } from "../../../wire/ids.ts";
import {
  type Attributes,
  type InodeReply,
  LEASE_RANK,
  type LeaseMode,
  type OpenMode,
} from "../../../wire/messages/inode.ts";
import type { Held, RecallItem, RecallPush } from "../../../wire/messages/nameserver.ts";
import { type Schedule, SimulatedLink } from "../leaseserver/schedule.ts";
import type { FakePeer } from "./fake_peer.ts";
import { type Service, ServiceClient } from "./service.ts";

export const ABSENT = 0 as InodeId;

export class CachedInode {
  readonly ino: InodeId;
  lease: LeaseMode = "none";
  recalledAt = 0;
  /** Null: to be asked for. */
  attributes: Attributes | null = null;
  version = 0;
  readonly names = new Map<string, InodeId>();
  handles = 0;
  /** Opens that have returned. */
  opened = 0;
  writers = 0;
  /** A size that the server does not know yet. */
  dirty: number | null = null;
  /** Own changes under way: of the inode, of its names, removals of it. */
  changing = 0;
  readonly changingNames = new Map<string, number>();
  removing = 0;
  /** Its last name is gone, or was about to go. */
  isUnlinked = false;

  constructor(ino: InodeId) {
    this.ino = ino;
  }

  get open(): OpenMode {
    return this.handles === 0 ? "no" : this.writers > 0 ? "write" : "read";
  }

  lower(keep: LeaseMode): void {
    if (LEASE_RANK[keep] < LEASE_RANK[this.lease]) this.lease = keep;
    if (this.lease !== "none") return;
    this.attributes = null;
    this.names.clear();
  }
}

export class CachingClient {
  readonly rpc: ServiceClient;
  readonly inodes = new Map<InodeId, CachedInode>();
  readonly #link: SimulatedLink;
  readonly #service: Service;
  #moment = 1;
  /** Own changes under way of which only the answer says what inodes they change. */
  changingUnknown = 0;
  #creating = 0;
  readonly #supposed = new Set<InodeId>();
  readonly #closed = new Set<InodeId>();

  private constructor(service: Service, schedule: Schedule) {
    this.#service = service;
    this.#link = new SimulatedLink(schedule);
    this.rpc = new ServiceClient(service, (_op, push) => this.#recall(push as RecallPush));
  }

  static async connect(service: Service, schedule: Schedule, name: string): Promise<CachingClient> {
    const client = new CachingClient(service, schedule);
    await client.rpc.openSession(name);
    await client.rpc.reclaim([]);
    return client;
  }

  get peer(): FakePeer {
    return this.rpc.peer;
  }

  inode(ino: InodeId): CachedInode {
    let inode = this.inodes.get(ino);
    if (inode === undefined) this.inodes.set(ino, inode = new CachedInode(ino));
    return inode;
  }

  async #ask<T>(run: () => Promise<T>, arrived: (reply: T, askedAt: number) => void): Promise<void> {
    const askedAt = this.#moment;
    await this.#link.send();
    let reply: T;
    try {
      reply = await run();
    } catch (error) {
      await this.#link.arrive(() => {});
      throw error;
    }
    await this.#link.arrive(() => arrived(reply, askedAt));
  }

  // ---- replies

  #note(inode: CachedInode): void {
    inode.recalledAt = ++this.#moment;
  }

  #adopt({ attributes, lease }: InodeReply, askedAt: number): CachedInode {
    const inode = this.inode(attributes.ino);
    if (attributes.version >= inode.version && inode.attributes !== null) inode.attributes = attributes;
    inode.version = Math.max(inode.version, attributes.version);
    if (lease === "none" || inode.recalledAt > askedAt) return inode;
    if (LEASE_RANK[lease] > LEASE_RANK[inode.lease]) inode.lease = lease;
    if (attributes.nlink > 0) inode.isUnlinked = false;
    if (inode.changing === 0 && attributes.version === inode.version) inode.attributes = attributes;
    return inode;
  }

  #adoptName(parent: InodeId, name: string, ino: InodeId, lease: LeaseMode, askedAt: number): void {
    const directory = this.inode(parent);
    if (lease === "none" || directory.recalledAt > askedAt) return;
    if (directory.lease === "none") directory.lease = "read";
    if ((directory.changingNames.get(name) ?? 0) === 0) directory.names.set(name, ino);
  }

  /** An own change of these inodes and names; what it brings is taken over by `arrived`. */
  async #change<T>(
    inodes: readonly CachedInode[],
    names: readonly (readonly [parent: InodeId, name: string])[],
    run: () => Promise<T>,
    arrived: (reply: T, askedAt: number) => readonly CachedInode[],
  ): Promise<void> {
    const touched = [...inodes, ...names.map(([parent]) => this.inode(parent))];
    const count = (by: number) => {
      for (const inode of touched) {
        inode.changing += by;
        inode.attributes = null;
      }
      for (const [parent, name] of names) {
        const { changingNames } = this.inode(parent);
        changingNames.set(name, (changingNames.get(name) ?? 0) + by);
        this.inode(parent).names.delete(name);
      }
    };
    const isUnknown = names.length > 0; // others may have put something else there
    count(1);
    if (isUnknown) this.changingUnknown++;
    let isOver = false;
    try {
      await this.#ask(run, (reply, askedAt) => {
        count(-1);
        isOver = true;
        for (const inode of [...touched, ...arrived(reply, askedAt)]) this.#note(inode);
        // Attributes of directories are not in the reply.
        for (const [parent] of names) this.inode(parent).attributes = null;
      });
    } finally {
      if (!isOver) count(-1);
      if (isUnknown) this.changingUnknown--;
    }
  }

  // ---- looks

  async lookup(parent: InodeId, name: string): Promise<InodeId> {
    const directory = this.inode(parent);
    const known = directory.lease === "none" ? undefined : directory.names.get(name);
    if (known !== undefined) return known;
    let found = ABSENT;
    await this.#ask(() => this.rpc.callNow("lookup", { parent, name: bytesOf(name) }), (reply, askedAt) => {
      found = reply.inode?.attributes.ino ?? ABSENT;
      if (reply.inode !== undefined) this.#adopt(reply.inode, askedAt);
      this.#adoptName(parent, name, found, reply.directory, askedAt);
    });
    return found;
  }

  async getattr(ino: InodeId): Promise<void> {
    const { lease, attributes } = this.inode(ino);
    if (lease !== "none" && attributes !== null) return;
    await this.#ask(() => this.rpc.callNow("getattr", { ino }), (reply, askedAt) => {
      this.#adopt(reply, askedAt);
    });
  }

  async list(ino: InodeId): Promise<void> {
    const request = { ino, cookie: 0, limit: 100, withInodes: true };
    await this.#ask(() => this.rpc.callNow("readDirectory", request), (reply, askedAt) => {
      for (const { name, inode, ino: entry } of reply.entries) {
        if (inode !== undefined) this.#adopt(inode, askedAt);
        this.#adoptName(ino, textOf(name), entry, reply.directory, askedAt);
      }
    });
  }

  // ---- files

  /** open(2) of an inode that was looked up. */
  async open(ino: InodeId, write: boolean): Promise<void> {
    const inode = this.inode(ino);
    inode.handles++;
    if (write) inode.writers++;
    const mode = write ? "write" : "read";
    try {
      if (LEASE_RANK[inode.lease] < LEASE_RANK[mode] || inode.removing > 0 || inode.isUnlinked) {
        await this.#ask(() => this.rpc.callNow("acquire", { ino, mode }), (reply) => {
          this.#adopt(reply, this.#moment);
        });
      }
      inode.opened++;
    } catch (error) {
      inode.handles--;
      if (write) inode.writers--;
      if (inode.handles === 0) this.#closed.add(ino);
      throw error;
    }
  }

  async create(parent: InodeId, name: string, exclusive: boolean, write: boolean): Promise<InodeId> {
    this.#creating++;
    let ino = ABSENT;
    const request = { parent, name: bytesOf(name), credentials: { uid: 0, gid: 0 }, mode: 0o644 };
    try {
      await this.#change(
        [],
        [[parent, name]],
        () => this.rpc.callNow("create", { ...request, retry: this.rpc.tag(), exclusive, write }),
        (reply, askedAt) => {
          const inode = this.#adopt(reply, askedAt);
          this.#adoptName(parent, name, inode.ino, reply.directory, askedAt);
          ino = inode.ino;
          inode.handles++;
          inode.opened++;
          if (write) inode.writers++;
          this.#supposed.delete(ino);
          return [];
        },
      );
    } finally {
      this.#creating--;
      if (this.#creating === 0) {
        for (const supposed of this.#supposed) this.#closed.add(supposed);
        this.#supposed.clear();
      }
    }
    return ino;
  }

  /** write(2) at the end; only of what is open for writing. */
  async append(ino: InodeId): Promise<void> {
    const inode = this.inode(ino);
    const write = () => {
      inode.dirty = Math.max(inode.dirty ?? 0, (inode.attributes?.size ?? 0) + 1);
    };
    if (inode.lease === "write") return write();
    await this.#ask(() => this.rpc.callNow("acquire", { ino, mode: "write" }), (reply) => {
      this.#adopt(reply, this.#moment);
      if (inode.lease !== "write") throw new Error(`acquired ${inode.lease}`);
      write();
    });
  }

  async #flush(inode: CachedInode): Promise<void> {
    while (inode.dirty !== null) {
      const size = inode.dirty;
      await this.#change([inode], [], () => this.rpc.commit(inode.ino, size), (reply, askedAt) => {
        if (inode.dirty === size) inode.dirty = null;
        this.#adopt(reply, askedAt);
        return [];
      });
    }
  }

  async close(ino: InodeId, write: boolean): Promise<void> {
    const inode = this.inode(ino);
    await this.#flush(inode);
    inode.opened--;
    inode.handles--;
    if (write) inode.writers--;
    if (inode.handles === 0) this.#closed.add(ino);
  }

  async setattr(ino: InodeId, fields: { readonly mode?: number; readonly size?: number }): Promise<void> {
    const inode = this.inode(ino);
    await this.#flush(inode);
    const request = { ino, ...fields };
    await this.#change(
      [inode],
      [],
      () => this.rpc.callNow("setattr", { ...request, retry: this.rpc.tag() }),
      (reply, askedAt) => [this.#adopt(reply, askedAt)],
    );
  }

  // ---- names

  /** What is known of an inode that is about to lose a name. */
  #known(parent: InodeId, name: string): CachedInode | undefined {
    const ino = this.inode(parent).names.get(name);
    return ino === undefined || ino === ABSENT ? undefined : this.inode(ino);
  }

  async unlink(parent: InodeId, name: string): Promise<void> {
    const known = this.#known(parent, name);
    const hint = known && { removed: { ino: known.ino, open: known.handles > 0 } };
    if (known !== undefined) known.removing++;
    const request = { parent, name: bytesOf(name), directory: false, ...hint };
    try {
      await this.#change(
        known === undefined ? [] : [known],
        [[parent, name]],
        () => this.rpc.callNow("remove", { ...request, retry: this.rpc.tag() }),
        (reply, askedAt) => {
          this.#adoptName(parent, name, ABSENT, reply.directory, askedAt);
          return [this.#lostName(reply.ino, reply.nlink)];
        },
      );
    } finally {
      if (known !== undefined) known.removing--;
    }
  }

  #lostName(ino: InodeId, nlink: number): CachedInode {
    const inode = this.inode(ino);
    inode.attributes = null;
    if (nlink === 0) inode.isUnlinked = true;
    if (nlink === 0 && inode.handles === 0) inode.lower("none");
    return inode;
  }

  async rename(
    [parent, name]: readonly [InodeId, string],
    [newParent, newName]: readonly [InodeId, string],
    flags: number,
  ): Promise<void> {
    const moved = this.#known(parent, name);
    const known = this.#known(newParent, newName);
    const hint = known && { removed: { ino: known.ino, open: known.handles > 0 } };
    if (known !== undefined) known.removing++;
    const names = { parent, name: bytesOf(name), newParent, newName: bytesOf(newName) };
    const request = { ...names, flags, ...hint };
    const inodes = [moved, known].filter((inode) => inode !== undefined);
    try {
      await this.#change(
        inodes,
        [[parent, name], [newParent, newName]],
        () => this.rpc.callNow("rename", { ...request, retry: this.rpc.tag() }),
        (reply, askedAt) => {
          const inode = this.inode(reply.ino);
          inode.attributes = null;
          if (flags === 0 && reply.replaced?.ino !== reply.ino && reply.ino !== known?.ino) {
            this.#adoptName(newParent, newName, reply.ino, reply.directory, askedAt);
            this.#adoptName(parent, name, ABSENT, reply.directory, askedAt);
          }
          const { replaced } = reply;
          return replaced === undefined ? [inode] : [inode, this.#lostName(replaced.ino, replaced.nlink)];
        },
      );
    } finally {
      if (known !== undefined) known.removing--;
    }
  }

  async link(ino: InodeId, parent: InodeId, name: string): Promise<void> {
    const inode = this.inode(ino);
    await this.#change(
      [inode],
      [[parent, name]],
      () => this.rpc.callNow("link", { retry: this.rpc.tag(), ino, parent, name: bytesOf(name) }),
      (reply, askedAt) => {
        this.#adoptName(parent, name, ino, reply.directory, askedAt);
        return [this.#adopt(reply, askedAt)];
      },
    );
  }

  // ---- giving back

  /** Tells what was closed, and gives back what `forgotten` says. */
  async release(forgotten: (ino: InodeId) => boolean): Promise<void> {
    // A creation under way may open what would be said to be closed.
    if (this.#creating > 0) return;
    const held: Held[] = [];
    for (const [ino, inode] of this.inodes) {
      const isClosed = this.#closed.delete(ino);
      if (inode.handles > 0 || inode.dirty !== null) continue;
      if (!isClosed && !forgotten(ino)) continue;
      this.#note(inode);
      inode.lower(forgotten(ino) ? "none" : "read");
      held.push({ ino, lease: inode.lease, open: "no" });
    }
    if (held.length === 0) return;
    await this.#link.send();
    await this.#service.leaseserver.handlers.release({ held, unused: [] }, this.peer.context);
    await this.#link.arrive(() => {});
  }

  async #recall({ items }: RecallPush) {
    const given = await this.#link.arrive(() => items.map((item) => this.#give(item)));
    await Promise.all(given);
    const open = items.map(({ ino, removed }): OpenMode => {
      const inode = this.inode(ino);
      if (inode.open !== "no") return inode.open;
      if (this.#creating > 0) { // it may be what is opened
        this.#supposed.add(ino);
        return "write";
      }
      if (removed === true) inode.lower("none"); // as the server takes it
      return "no";
    });
    await this.#link.send();
    return { open };
  }

  async #give({ ino, keep, names, attributes, removed }: RecallItem): Promise<void> {
    const inode = this.inode(ino);
    if (removed === true) inode.isUnlinked = true;
    this.#note(inode);
    for (const name of names ?? []) inode.names.delete(textOf(name));
    if (names !== undefined || attributes === true) inode.attributes = null;
    if (names !== undefined) return;
    inode.lower(keep);
    if (inode.lease !== "write") await this.#flush(inode);
    if (attributes === true) inode.attributes = null;
  }
}

/** Outcomes that an application may meet when others change the same names. */
export function isExpected(error: unknown): boolean {
  return (["ENOENT", "EEXIST", "EAGAIN"] as const).some((errno) => isErrno(error, errno));
}
