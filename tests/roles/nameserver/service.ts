/** The nameserver's service for clients on a journal in memory, with sessions as a test wants them. */

import { bytesOf, textOf } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { SeededRandom } from "../../../base/random.ts";
import { TOLD_MS } from "../../../roles/leaseserver/leases.ts";
import { Leaseserver } from "../../../roles/leaseserver/leaseserver.ts";
import { dropUnused } from "../../../roles/nameserver/block_operations.ts";
import { BlockRecovery } from "../../../roles/nameserver/block_recovery.ts";
import { clientHandlers } from "../../../roles/nameserver/client_service.ts";
import { Lingering } from "../../../roles/nameserver/lingering.ts";
import { Registry } from "../../../roles/nameserver/registry.ts";
import { Repair } from "../../../roles/nameserver/repair.ts";
import type { StatusReporter } from "../../../roles/nameserver/status_reporter.ts";
import { type InodeId, ROOT_INODE, type SessionId } from "../../../wire/ids.ts";
import type {
  AcquireReply,
  EntryReply,
  Held,
  LookupReply,
  NAMESERVER,
  RecallAnswer,
  RecallItem,
  RecallPush,
  Removed,
  RemoveReply,
  RenameReply,
} from "../../../wire/messages/nameserver.ts";
import type { CallContext, Handlers, RequestOf, ResponseOf } from "../../../wire/service.ts";
import {
  type InodeReply,
  type LeaseMode,
  type OpenMode,
  S_IFDIR,
  S_IFLNK,
} from "../../../wire/messages/inode.ts";
import type { SessionRecord } from "../../../roles/leaseserver/sessions.ts";
import { settle } from "../../base/fake_clock.ts";
import { FakePeer, type PushAnswer } from "./fake_peer.ts";
import { makeWorld, reopen, type World } from "./harness.ts";

/** Replicas of a file's blocks. */
export const REPLICATION = 2;

type Methods = typeof NAMESERVER["methods"];

export interface Service extends World {
  /** Sessions as they are stored. */
  readonly stored: SessionRecord[];
  readonly handlers: Handlers<typeof NAMESERVER>;
  readonly leaseserver: Leaseserver;
  readonly lingering: Lingering;
  readonly recovery: BlockRecovery;
  readonly registry: Registry;
  readonly repair: Repair;
}

/** A service on a new namespace, or on one that was there before. */
export async function makeService(before?: Pick<Service, "stored" | keyof World>): Promise<Service> {
  const stored = [...before?.stored ?? []];
  const world = before === undefined ? await makeWorld() : await reopen(before);
  const { namespace, journal, clock } = world;
  const registry = await Registry.load({
    journal,
    ids: namespace.ids,
    clock,
    random: new SeededRandom(1),
    log: silentLogger,
    heartbeatMs: 3_000,
    deadAfterMs: 30_000,
    reserveBytes: 0,
  });
  const recovery = new BlockRecovery(namespace, registry, silentLogger);
  const leaseserver = new Leaseserver({
    sessionTtlMs: 10_000,
    run: `run ${++runs}`,
    clock,
    log: silentLogger,
    stored,
    store: {
      nextId: () => namespace.ids.next("session"),
      save: async (record) => void stored.push(record),
      remove: (session) => {
        const at = stored.findIndex((record) => record.session === session);
        if (at >= 0) stored.splice(at, 1);
      },
    },
    onSessionEnd: (session) => void namespace.endSession(session),
    onRelease: (session, ino) => namespace.releaseOrphan(session, ino),
    onUnused: (inodes) => namespace.change((tx) => inodes.forEach((ino) => dropUnused(tx, ino))),
    onReclaim: async (session, isOpen) => {
      for (const ino of namespace.orphansOf(session)) {
        if (!isOpen(ino)) await namespace.releaseOrphan(session, ino);
      }
    },
    fence: (ino) => recovery.fence(ino),
  });
  namespace.onOrphanGone = (ino) => leaseserver.leases.forget(ino);
  const repair = new Repair({
    namespace,
    registry,
    leases: leaseserver.leases,
    recovery,
    clock,
    log: silentLogger,
    replication: REPLICATION,
    bytesPerSecond: () => 1e9,
  });
  const lingering = new Lingering(namespace, clock, silentLogger);
  const handlers = clientHandlers({
    namespace,
    registry,
    leaseserver,
    recovery,
    repair,
    lingering,
    status: {} as StatusReporter,
    blockBytes: 1024,
    replication: REPLICATION,
  });
  return { ...world, handlers, leaseserver, lingering, recovery, registry, repair, stored };
}

/** Nobody was told of anything lately any more. */
export async function endLingering({ clock, lingering }: Service): Promise<void> {
  await clock.advance(TOLD_MS);
  await lingering.releaseDue();
}

/** Three hosts with a dataserver of one volume each. */
export async function addDataservers({ registry }: Service): Promise<void> {
  for (const host of ["a", "b", "c"]) {
    await registry.register({
      label: host,
      host,
      address: `${host}:1`,
      volumes: [{ label: `${host}.v`, path: "/v", totalBytes: 1e9, freeBytes: 1e9 }],
    }, new FakePeer());
  }
}

let runs = 0;

/** A new service and its clients. */
export async function startService(...names: string[]) {
  const service = await makeService();
  const clients = await Promise.all(names.map((who) => ServiceClient.connect(service, who)));
  return { service, clients: clients as [ServiceClient, ServiceClient, ServiceClient, ServiceClient] };
}

/** A recalled item as text. */
export function describe({ ino, keep, attributes, names, removed }: RecallItem): string {
  const parts = [`${ino} ${keep}`];
  if (attributes) parts.push("attributes");
  if (names !== undefined) parts.push(`names ${names.map(textOf)}`);
  if (removed) parts.push("removed");
  return parts.join(" ");
}

/** What was recalled since, as text. */
export function since(client: ServiceClient): () => string[] {
  const from = client.recalls.length;
  return () => client.recalls.slice(from).map(describe);
}

/** A client of the service: its session, what it has open, and what it answers to recalls. */
export class ServiceClient {
  readonly #service: Service;
  readonly peer: FakePeer;
  session = 0 as SessionId;
  readonly openInodes = new Map<InodeId, OpenMode>();
  /** What was recalled, in order: the items of all pushes. */
  readonly recalls: RecallItem[] = [];
  onRecall: (items: readonly RecallItem[]) => Promise<void> | void = () => {};
  #sequence = 0;

  constructor(service: Service, answer?: PushAnswer) {
    this.#service = service;
    this.peer = new FakePeer(answer ?? ((_op, message) => this.#answer(message as RecallPush)));
  }

  async #answer({ items }: RecallPush): Promise<RecallAnswer> {
    this.recalls.push(...items);
    await this.onRecall(items);
    return { open: items.map(({ ino }) => this.openInodes.get(ino) ?? "no") };
  }

  static async connect(service: Service, name: string): Promise<ServiceClient> {
    const client = new ServiceClient(service);
    await client.openSession(name);
    await client.reclaim([]);
    return client;
  }

  async openSession(name: string): Promise<void> {
    const request = { clientId: name, host: name, mountpoint: "/m" };
    const { session } = await this.#service.leaseserver.handlers.openSession(request, this.peer.context);
    this.session = session;
  }

  /** Says what is held, after a restart of the server. */
  async reclaim(held: readonly Held[]): Promise<void> {
    await this.#service.leaseserver.handlers.reclaim({ held, last: true }, this.peer.context);
  }

  /** A tag that no change of this client had. */
  tag(): { slot: number; sequence: number } {
    this.#sequence++;
    return { slot: this.#sequence % 128, sequence: this.#sequence };
  }

  /** Calls a method as this client does over its channel; what it does next is another event. */
  async call<Name extends keyof Methods>(
    name: Name,
    request: RequestOf<Methods[Name]>,
    signal?: AbortSignal,
  ): Promise<ResponseOf<Methods[Name]>> {
    try {
      return await this.callNow(name, request, signal);
    } finally {
      await settle();
    }
  }

  /** As call; answered in the moment in which the answer is sent. */
  async callNow<Name extends keyof Methods>(
    name: Name,
    request: RequestOf<Methods[Name]>,
    signal?: AbortSignal,
  ): Promise<ResponseOf<Methods[Name]>> {
    const handler = this.#service.handlers[name] as (
      request: RequestOf<Methods[Name]>,
      context: CallContext,
    ) => Promise<ResponseOf<Methods[Name]>>;
    return await handler(request, { peer: this.peer, signal });
  }

  /** Makes a file and keeps it open. */
  async create(name: string, parent: InodeId = ROOT_INODE, write = false): Promise<InodeId> {
    const { attributes } = await this.call("create", {
      retry: this.tag(),
      parent,
      name: bytesOf(name),
      credentials: { uid: 0, gid: 0 },
      mode: 0o644,
      exclusive: true,
      write,
    });
    this.openInodes.set(attributes.ino, write ? "write" : "read");
    return attributes.ino;
  }

  /** Makes a directory. */
  async mkdir(name: string, parent: InodeId = ROOT_INODE): Promise<InodeId> {
    const { attributes } = await this.call("make", {
      retry: this.tag(),
      parent,
      name: bytesOf(name),
      credentials: { uid: 0, gid: 0 },
      mode: S_IFDIR | 0o755,
    });
    return attributes.ino;
  }

  /** Makes a symlink in the root. */
  async symlink(name: string, target: string): Promise<EntryReply> {
    return await this.call("make", {
      retry: this.tag(),
      parent: ROOT_INODE,
      name: bytesOf(name),
      credentials: { uid: 0, gid: 0 },
      mode: S_IFLNK | 0o777,
      target: bytesOf(target),
    });
  }

  async chmod(ino: InodeId, mode = 0o600): Promise<InodeReply> {
    return await this.call("setattr", { retry: this.tag(), ino, mode });
  }

  /** Opens the file under a name of the root, or makes it, and does not keep it open. */
  async openByName(name: string, write = false): Promise<ResponseOf<Methods["create"]>> {
    return await this.call("create", {
      retry: this.tag(),
      parent: ROOT_INODE,
      name: bytesOf(name),
      credentials: { uid: 0, gid: 0 },
      mode: 0o600,
      exclusive: false,
      write,
    });
  }

  /** Opens a file and keeps it open. */
  async open(ino: InodeId, write = false): Promise<AcquireReply> {
    const mode = write ? "write" : "read";
    const before = this.openInodes.get(ino);
    this.openInodes.set(ino, before === "write" ? before : mode);
    return await this.call("acquire", { ino, mode });
  }

  /** Closes a file, and gives back what is held of it but `lease`. */
  release(ino: InodeId, lease: LeaseMode = "none", unused: readonly InodeId[] = []): Promise<void> {
    return this.releaseAll([ino], lease, unused);
  }

  /** As `release`, of several by one message. */
  async releaseAll(
    inodes: readonly InodeId[],
    lease: LeaseMode = "none",
    unused: readonly InodeId[] = [],
  ): Promise<void> {
    for (const ino of inodes) this.openInodes.delete(ino);
    const held = inodes.map((ino) => ({ ino, lease, open: "no" } as const));
    await this.#service.leaseserver.handlers.release({ held, unused }, this.peer.context);
  }

  async lookup(name: string, parent: InodeId = ROOT_INODE): Promise<LookupReply> {
    return await this.call("lookup", { parent, name: bytesOf(name) });
  }

  async remove(name: string, removed?: Removed): Promise<RemoveReply> {
    return await this.call("remove", {
      retry: this.tag(),
      parent: ROOT_INODE,
      name: bytesOf(name),
      directory: false,
      ...(removed && { removed }),
    });
  }

  async rename(from: string, to: string, flags = 0, removed?: Removed): Promise<RenameReply> {
    return await this.call("rename", {
      retry: this.tag(),
      parent: ROOT_INODE,
      name: bytesOf(from),
      newParent: ROOT_INODE,
      newName: bytesOf(to),
      flags,
      ...(removed && { removed }),
    });
  }

  /** Reports a size, as a flush does. */
  async commit(ino: InodeId, size: number): Promise<InodeReply> {
    return await this.call("commit", {
      retry: this.tag(),
      ino,
      size,
      mtime: { seconds: 9, nanoseconds: 0 },
      written: [],
      durable: false,
      killSuidGid: false,
    });
  }
}

/** A reply but for what it says of the directories that were changed, which the answer to a repetition lacks. */
export function withoutDirectories<T extends object>(reply: T): Omit<T, "directories"> {
  const { directories: _, ...rest } = reply as T & { directories?: unknown };
  return rest;
}
