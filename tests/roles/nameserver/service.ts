/** The nameserver's service for clients on a journal in memory, with sessions as a test wants them. */

import { bytesOf } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { SeededRandom } from "../../../base/random.ts";
import { Leaseserver } from "../../../roles/leaseserver/leaseserver.ts";
import { BlockRecovery } from "../../../roles/nameserver/block_recovery.ts";
import { clientHandlers } from "../../../roles/nameserver/client_service.ts";
import { Registry } from "../../../roles/nameserver/registry.ts";
import type { StatusReporter } from "../../../roles/nameserver/status_reporter.ts";
import { type InodeId, ROOT_INODE, type SessionId } from "../../../wire/ids.ts";
import type { NAMESERVER, RecallAnswer, RecallPush } from "../../../wire/messages/nameserver.ts";
import type { CallContext, Handlers, RequestOf, ResponseOf } from "../../../wire/service.ts";
import type { LeaseMode } from "../../../wire/messages/inode.ts";
import type { SessionRecord } from "../../../roles/leaseserver/sessions.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeWorld, reopen, type World } from "./harness.ts";

type Methods = typeof NAMESERVER["methods"];

export interface Service extends World {
  /** Sessions as they are stored. */
  readonly stored: SessionRecord[];
  readonly handlers: Handlers<typeof NAMESERVER>;
  readonly leaseserver: Leaseserver;
  readonly registry: Registry;
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
  const leaseserver = new Leaseserver({
    sessionTtlMs: 10_000,
    clock,
    log: silentLogger,
    stored,
    store: {
      nextId: () => namespace.ids.next("session"),
      save: async (record) => void stored.push(record),
      remove: () => {},
    },
    onSessionEnd: (session) => void namespace.endSession(session),
    onRelease: async (session, inodes) => {
      for (const ino of inodes) await namespace.releaseOrphan(session, ino);
    },
    onReclaim: async (session, open) => {
      for (const ino of namespace.orphansOf(session)) {
        if (!open.has(ino)) await namespace.releaseOrphan(session, ino);
      }
    },
  });
  const handlers = clientHandlers({
    namespace,
    registry,
    leaseserver,
    recovery: new BlockRecovery(namespace, registry, silentLogger),
    status: {} as StatusReporter,
    blockBytes: 1024,
    replication: 2,
  });
  return { ...world, handlers, leaseserver, registry, stored };
}

/** A client of the service: its session, and what it answers to recalls. */
export class ServiceClient {
  readonly #service: Service;
  readonly peer: FakePeer;
  session = 0 as SessionId;
  readonly openInodes = new Set<InodeId>();
  readonly recalls: RecallPush[] = [];
  onRecall: (push: RecallPush) => Promise<void> | void = () => {};
  #sequence = 0;

  constructor(service: Service) {
    this.#service = service;
    this.peer = new FakePeer(async (_op, message): Promise<RecallAnswer> => {
      const push = message as RecallPush;
      this.recalls.push(push);
      await this.onRecall(push);
      return { open: this.openInodes.has(push.ino) };
    });
  }

  static async connect(service: Service, name: string): Promise<ServiceClient> {
    const client = new ServiceClient(service);
    const request = { clientId: name, host: name, mountpoint: "/m" };
    const { session } = await service.leaseserver.handlers.openSession(request, client.peer.context);
    client.session = session;
    await service.leaseserver.handlers.reclaim({ open: [] }, client.peer.context);
    return client;
  }

  /** A tag that no change of this client had. */
  tag(): { slot: number; sequence: number } {
    this.#sequence++;
    return { slot: this.#sequence % 128, sequence: this.#sequence };
  }

  /** Calls a method as this client does over its channel. */
  async call<Name extends keyof Methods>(
    name: Name,
    request: RequestOf<Methods[Name]>,
  ): Promise<ResponseOf<Methods[Name]>> {
    const handler = this.#service.handlers[name] as (
      request: RequestOf<Methods[Name]>,
      context: CallContext,
    ) => Promise<ResponseOf<Methods[Name]>>;
    return await handler(request, this.peer.context);
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
    this.openInodes.add(attributes.ino);
    return attributes.ino;
  }

  /** Opens a file and keeps it open; what may be cached of it. */
  async open(ino: InodeId, write: boolean): Promise<LeaseMode> {
    const { lease } = await this.call("open", { ino, write });
    this.openInodes.add(ino);
    return lease;
  }

  async release(ino: InodeId): Promise<void> {
    this.openInodes.delete(ino);
    await this.#service.leaseserver.handlers.releaseLeases({ inodes: [ino] }, this.peer.context);
  }

  async remove(name: string): Promise<void> {
    await this.call("remove", {
      retry: this.tag(),
      parent: ROOT_INODE,
      name: bytesOf(name),
      directory: false,
    });
  }
}
