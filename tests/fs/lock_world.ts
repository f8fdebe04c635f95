/**
 * Clients that lock (fs/locks.ts) and the leaseserver's table, with a network between them that the seed decides on:
 * requests and answers arrive late or, when a connection breaks, not at all; the server is restarted and forgets; sessions
 * end. What the session of a client does about that (fs/cluster_session.ts) is done here in few words.
 */

import assert from "node:assert/strict";
import { conflicts, type LockedRange, withRange } from "../../base/lock_ranges.ts";
import { silentLogger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import { type LockCaller, Locks, type LockThread } from "../../fs/locks.ts";
import { lockHandlers } from "../../roles/leaseserver/lock_service.ts";
import { LockTable } from "../../roles/leaseserver/locks.ts";
import type { SessionTable } from "../../roles/leaseserver/sessions.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import { asInodeId, asSessionId, type InodeId, type SessionId } from "../../wire/ids.ts";
import { type LockKind, LOCKS } from "../../wire/messages/locks.ts";
import { createClient, type Handlers, type Peer } from "../../wire/service.ts";
import { FakeClock } from "../base/fake_clock.ts";
import { Schedule } from "../roles/leaseserver/schedule.ts";

/** A connection; `state` is the session that it was made for, `closed` resolves when it breaks. */
type Link = Peer;

const METHODS = new Map(Object.entries(LOCKS.methods).map(([name, { op }]) => [op, name]));

export class World {
  readonly clock = new FakeClock();
  readonly schedule: Schedule;
  readonly clients: SimulatedClient[] = [];
  table!: LockTable;
  handlers!: Handlers<typeof LOCKS>;
  run = 0;
  #nextSession = 1;
  #unreclaimed = new Set<SessionId>();
  #waiters: (() => void)[] = [];

  constructor(random: Random, clients: number) {
    this.schedule = new Schedule(random, this.clock);
    this.restart();
    for (let i = 0; i < clients; i++) this.clients.push(new SimulatedClient(this));
  }

  newSession(): SessionId {
    return asSessionId(this.#nextSession++);
  }

  /** The server forgets all locks; who held some says so before others get any. */
  restart(): void {
    this.run++;
    this.#unreclaimed = new Set(this.clients.map(({ session }) => session));
    const sessions = {
      of: (peer: Peer) => {
        const client = this.clients.find(({ link }) => link === peer);
        if (client === undefined || client.session !== peer.state) {
          throw new FsError("ESHUTDOWN", "no session");
        }
        return client.session;
      },
      allReclaimed: (session: SessionId) => {
        const isWaiting = [...this.#unreclaimed].some((other) => other !== session);
        return isWaiting ? new Promise<void>((resolve) => this.#waiters.push(resolve)) : undefined;
      },
    } as unknown as SessionTable;
    this.table = new LockTable({
      clock: this.clock,
      tell: (session, wait) => void this.#tell(session, (locks) => locks.offered(wait)),
      recall: (session, ino, kept) => void this.#tell(session, (locks) => locks.recalled(ino, kept)),
    });
    this.handlers = lockHandlers(sessions, this.table);
    for (const client of this.clients) client.breakLink();
  }

  /** Nobody keeps the file's record locks afterwards. */
  async freed(session: SessionId, ino: InodeId): Promise<void> {
    for (;;) {
      const waiting = this.table.free(session, { kind: "posix", ino });
      if (waiting === undefined) return;
      await waiting;
    }
  }

  reclaimed(session: SessionId): void {
    this.#unreclaimed.delete(session);
    if (this.#unreclaimed.size > 0) return;
    for (const wake of this.#waiters.splice(0)) wake();
  }

  async #tell(session: SessionId, tell: (locks: Locks) => void): Promise<void> {
    const { run } = this;
    for (;;) {
      await this.schedule.delay();
      const client = this.clients.find((one) => one.session === session);
      if (client === undefined || run !== this.run) return;
      if (client.link !== null) return tell(client.locks);
    }
  }
}

export class SimulatedClient {
  readonly #world: World;
  readonly locks: Locks;
  session: SessionId;
  link: Link | null = null;
  #run: number;
  #connecting: Promise<void> | null = null;
  #onBreak: () => void = () => {};
  /** Who believes to hold what. */
  readonly believed = new Map<string, readonly LockedRange[]>();

  constructor(world: World) {
    this.#world = world;
    this.session = world.newSession();
    this.#run = world.run;
    this.locks = new Locks({
      server: createClient(LOCKS, (op, request) => this.#call(op, request)),
      clock: world.clock,
      log: silentLogger,
      waitsForOfdLock: () => Promise.resolve(false),
      isValid: () => true,
    });
    this.link = this.#newLink();
  }

  #newLink(): Link {
    const { promise: closed, resolve } = Promise.withResolvers<void>();
    this.#onBreak = resolve;
    return { state: this.session, closed } as Link;
  }

  breakLink(): void {
    this.link = null;
    this.#onBreak();
  }

  /** The server gives the session up: others may have all that it held. */
  loseSession(): void {
    const { table } = this.#world;
    table.dropSession(this.session);
    this.#world.reclaimed(this.session);
    this.session = this.#world.newSession();
    this.breakLink();
    this.believed.clear();
    this.locks.lost();
  }

  async #call(op: number, request: unknown): Promise<unknown> {
    for (;;) {
      if (this.link === null) {
        await (this.#connecting ??= this.#connect().finally(() => this.#connecting = null));
      }
      const { link } = this;
      if (link === null) continue;
      try {
        return await this.#over(link, op, request);
      } catch (error) {
        if (!isErrno(error, "ENOTCONN") && !isErrno(error, "ESHUTDOWN")) throw error;
      }
    }
  }

  /** One attempt over a connection; ENOTCONN when it breaks before the answer is here. */
  async #over(link: Link, op: number, request: unknown): Promise<unknown> {
    const { schedule } = this.#world;
    const check = () => {
      if (this.link !== link) throw broken();
    };
    await schedule.delay();
    check();
    const handler = this.#world.handlers[METHODS.get(op) as keyof Handlers<typeof LOCKS>] as (
      request: unknown,
      context: { peer: Peer; signal: undefined },
    ) => unknown;
    try {
      const answering = handler(structuredClone(request), { peer: link, signal: undefined });
      const answer = await Promise.race([answering, link.closed]);
      await schedule.delay();
      check();
      return answer;
    } catch (error) {
      if (isErrno(error, "ENOTCONN") || isErrno(error, "ESHUTDOWN")) throw error;
      await schedule.delay();
      check();
      throw error;
    }
  }

  async #connect(): Promise<void> {
    const { schedule } = this.#world;
    await schedule.delay();
    const { session } = this;
    const { run } = this.#world;
    if (run !== this.#run) {
      // Over a connection of its own: nothing else goes over it before that is done.
      const direct = createClient(LOCKS, async (_op, request) => {
        await schedule.delay();
        if (run !== this.#world.run || session !== this.session) throw broken();
        const { owners } = request as { owners: Parameters<LockTable["set"]>[1][] };
        return { held: owners.map((owned) => this.#world.table.set(session, owned)) };
      });
      try {
        await this.locks.reclaim(direct);
      } catch {
        return; // tried again
      }
      if (run !== this.#world.run || session !== this.session) return;
      this.#run = run;
      this.#world.reclaimed(session);
    }
    this.link = this.#newLink();
    this.locks.connected();
  }

  /** After a restart a client comes back by itself, also when it has nothing to ask. */
  async reconnect(): Promise<void> {
    while (this.link === null) {
      await (this.#connecting ??= this.#connect().finally(() => this.#connecting = null));
    }
  }
}

function broken(): FsError {
  return new FsError("ENOTCONN", "broken");
}

/** A process: it does one thing after the other, and knows what it may believe. */
export class Process {
  readonly #world: World;
  readonly #client: SimulatedClient;
  readonly #caller: LockCaller;

  constructor(world: World, client: SimulatedClient, owner: number, fh: number, kind: LockKind, ino: number) {
    this.#world = world;
    this.#client = client;
    this.#caller = { ino: asInodeId(ino), kind, owner: owner.toString(16), fh, pid: owner };
  }

  /** It locks whole files only (flock). */
  get isWhole(): boolean {
    return this.#caller.kind === "flock";
  }

  get #name(): string {
    const { ino, kind, owner } = this.#caller;
    return `${kind} ${ino} ${owner}`;
  }

  get #believed(): readonly LockedRange[] {
    return this.#client.believed.get(this.#name) ?? [];
  }

  /** "granted", or the errno. */
  async lock(wanted: LockedRange, wait: boolean, signal: AbortSignal): Promise<string> {
    const thread: LockThread = { pid: 1, signal };
    const { session } = this.#client;
    try {
      const { locks } = this.#client;
      // What it has of that may be weaker before it is told.
      this.#client.believed.set(this.#name, withRange(this.#believed, wanted));
      if (this.#caller.kind === "flock") this.#client.believed.delete(this.#name);
      await (wait ? locks.lock(this.#caller, wanted, thread) : locks.tryLock(this.#caller, wanted, thread));
    } catch (error) {
      assert.ok(error instanceof FsError, String(error));
      return error.errno;
    }
    // It may be over already, which the process is told by the next call.
    if (session !== this.#client.session) return "granted, and lost";
    this.#checkAlone(wanted);
    this.#client.believed.set(this.#name, withRange(this.#believed, wanted, wanted.type));
    return "granted";
  }

  /** Invariant: nobody else believes to hold what conflicts. */
  #checkAlone(wanted: LockedRange): void {
    for (const client of this.#world.clients) {
      for (const [name, ranges] of client.believed) {
        if (client === this.#client && name === this.#name) continue;
        if (!name.startsWith(`${this.#caller.kind} ${this.#caller.ino} `)) continue;
        const other = ranges.find((range) => conflicts(range, wanted));
        assert.ok(
          other === undefined,
          `two hold ${JSON.stringify(wanted)}, ${JSON.stringify(other)}: ${name}`,
        );
      }
    }
  }

  /** Unlocks all: the model knows no parts. */
  async unlock(): Promise<string> {
    this.#client.believed.delete(this.#name);
    try {
      const span = { start: 0, end: Infinity };
      await this.#client.locks.unlock(this.#caller, span, { pid: 1, signal: new AbortController().signal });
      return "unlocked";
    } catch (error) {
      assert.ok(error instanceof FsError, String(error));
      return error.errno;
    }
  }

  async close(): Promise<void> {
    this.#client.believed.delete(this.#name);
    const { ino, kind, owner, fh } = this.#caller;
    if (kind === "posix") await this.#client.locks.closed(ino, owner);
    this.#client.locks.released(fh);
  }
}
