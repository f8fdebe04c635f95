/** A table of leases and of sessions without a namespace, on a clock that a test moves. */

import { silentLogger } from "../../../base/log.ts";
import { LeaseTable, type LeaseTableOptions } from "../../../roles/leaseserver/leases.ts";
import { type SessionRecord, SessionTable } from "../../../roles/leaseserver/sessions.ts";
import type { InodeId, SessionId } from "../../../wire/ids.ts";
import type { LeaseMode, OpenMode } from "../../../wire/messages/inode.ts";
import type { RecallAnswer, RecallItem, RecallPush } from "../../../wire/messages/nameserver.ts";
import { FakeClock, settle } from "../../base/fake_clock.ts";
import { FakePeer } from "../nameserver/fake_peer.ts";

export const TTL_MS = 10_000;
const LOOK_MS = 500;

export interface Tables {
  readonly clock: FakeClock;
  readonly sessions: SessionTable;
  readonly leases: LeaseTable;
}

export interface TablesOptions
  extends Partial<Pick<LeaseTableOptions, "perSessionMax" | "fence" | "onWriteEnded" | "presumed">> {
  readonly stored?: readonly SessionRecord[];
}

export function makeTables(options: TablesOptions = {}): Tables {
  const { stored = [], perSessionMax = 1_000_000, fence = () => Promise.resolve(), presumed = new Map() } =
    options;
  const onWriteEnded = options.onWriteEnded ?? (() => {});
  const clock = new FakeClock();
  let next = 1;
  const store = { nextId: () => next++, save: () => Promise.resolve(), remove: () => {} };
  const sessions = new SessionTable(
    { ttlMs: TTL_MS, clock, store, log: silentLogger, onEnd: (session) => leases.dropSession(session) },
    stored,
  );
  const leases: LeaseTable = new LeaseTable({
    sessions,
    clock,
    perSessionMax,
    fence,
    onWriteEnded,
    presumed,
  });
  return { clock, sessions, leases };
}

type Answer = (items: readonly RecallItem[]) => Promise<void> | void;

/** A session whose recalls a test answers, and what it has open. */
export class Member {
  readonly peer: FakePeer;
  readonly #leases: LeaseTable;
  session = 0 as SessionId;
  readonly open = new Map<InodeId, OpenMode>();
  /** Said to be doubtful when it is given up. */
  readonly doubtful = new Set<InodeId>();
  /** Called with what is recalled; it is given up when that has resolved. */
  onRecall: Answer = () => {};

  private constructor(leases: LeaseTable) {
    this.#leases = leases;
    this.peer = new FakePeer(async (_op, message): Promise<RecallAnswer> => {
      const { items } = message as RecallPush;
      await this.onRecall(items);
      const open = items.map(({ ino }) => this.open.get(ino) ?? "no");
      return { open, doubtful: items.map(({ ino }) => ino).filter((ino) => this.doubtful.has(ino)) };
    });
  }

  static async join(
    { sessions, leases }: Pick<Tables, "sessions" | "leases">,
    clientId: string,
    onRecall: Answer = () => {},
  ): Promise<Member> {
    const member = new Member(leases);
    member.onRecall = onRecall;
    const request = { clientId, host: "h", mountpoint: "/m" };
    member.session = (await sessions.open(request, member.peer)).session;
    return member;
  }

  /** What was recalled: the items of each push. */
  get recalls(): readonly (readonly RecallItem[])[] {
    return this.peer.pushes.map(({ message }) => (message as RecallPush).items);
  }

  /** As a look at the inode that anybody may have. */
  lease(ino: InodeId): LeaseMode {
    return this.#leases.lease(ino, this.session);
  }

  /** Opens and acquires; what it may cache, as soon as it is answered. */
  acquireNow(ino: InodeId, mode: "read" | "write", signal?: AbortSignal): Promise<LeaseMode> {
    if (this.open.get(ino) !== "write") this.open.set(ino, mode);
    return this.#leases.acquire(
      ino,
      this.session,
      mode,
      () => this.#leases.lease(ino, this.session, "turn"),
      signal,
    );
  }

  /** As acquireNow; what the caller does next is another event, as over a connection. */
  async acquire(ino: InodeId, mode: "read" | "write", signal?: AbortSignal): Promise<LeaseMode> {
    const lease = await this.acquireNow(ino, mode, signal);
    await settle();
    return lease;
  }

  /** Gives all of an inode back. */
  release(ino: InodeId, lease: LeaseMode = "none"): void {
    this.open.delete(ino);
    const isDoubtful = this.doubtful.has(ino);
    this.#leases.lower(this.session, [{ ino, lease, open: "no", ...isDoubtful ? { doubtful: true } : {} }]);
  }

  /** Changes something and says which sessions said that they have it open. */
  async change(...items: RecallItem[]): Promise<readonly SessionId[]> {
    const openIn = await this.#leases.change(this.session, items, (sessions) => sessions);
    await settle();
    return openIn;
  }
}

/** New tables and as many sessions. */
export async function startMembers(count: number, options?: TablesOptions) {
  const tables = makeTables(options);
  const members = await Promise.all(
    Array.from({ length: count }, (_, i) => Member.join(tables, "abcdef"[i]!)),
  );
  return { ...tables, members: members as [Member, Member, Member, Member] };
}

/** A promise that a test resolves, and whether somebody waits for it. */
export function gate(): { readonly open: () => void; readonly wait: () => Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { open: resolve, wait: () => promise };
}

/** What has come of a promise so far. */
export function watch<T>(work: Promise<T> | T): { isDone: boolean; value: T | undefined } {
  const state: { isDone: boolean; value: T | undefined } = { isDone: false, value: undefined };
  Promise.resolve(work).then((value) => {
    state.isDone = true;
    state.value = value;
  }, () => state.isDone = true);
  return state;
}

/** Until nothing goes on any more by itself: what was answered has gone its way, and turns have been handed on. */
export async function rest(): Promise<void> {
  for (let i = 0; i < 20; i++) await settle();
}

/** Lets `ms` pass in which the sessions are looked at as often as a server does it. */
export async function passLooking(clock: FakeClock, sessions: SessionTable, ms: number): Promise<void> {
  for (let leftMs = ms; leftMs > 0; leftMs -= LOOK_MS) {
    await clock.advance(Math.min(leftMs, LOOK_MS));
    sessions.expire();
  }
}
