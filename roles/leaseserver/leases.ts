/**
 * Who may cache what: for each inode that some session holds open, what each of them may cache, and the recalls
 * that come before a change. Policy of grants: one holder alone may have WRITE if it writes, else READ; several
 * readers have READ; as soon as one of several writes, nobody caches.
 *
 * Invariants:
 * - At most one session holds WRITE on an inode, and then no other holds READ.
 * - While a recall on an inode runs, no lease on it is granted (`lease` answers "none").
 * - After a restart nobody looks or changes before all sessions have said what they hold, or are over.
 * - A session is taken for a holder until it released the inode, ended, or acknowledged the recall.
 */

import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import type { LeaseMode } from "../../wire/messages/inode.ts";
import { LEASE_PUSHES, type RecallAnswer, type RecallPush } from "../../wire/messages/nameserver.ts";
import type { SessionTable } from "./sessions.ts";

interface Holder {
  readonly session: SessionId;
  lease: LeaseMode;
  /** Has it open for writing. */
  writes: boolean;
}

const RANK: Readonly<Record<LeaseMode, number>> = { none: 0, read: 1, write: 2 };

export class LeaseTable {
  readonly #sessions: SessionTable;
  readonly #holders = new Map<InodeId, Holder[]>();
  readonly #bySession = new Map<SessionId, Set<InodeId>>();
  /** Recalls under way, by inode. */
  readonly #recalling = new Map<InodeId, Promise<void>>();

  constructor(sessions: SessionTable) {
    this.#sessions = sessions;
  }

  /** Inodes that sessions hold, counted once a session. */
  get size(): number {
    let count = 0;
    for (const inodes of this.#bySession.values()) count += inodes.size;
    return count;
  }

  /**
   * Registers an open and says what the session may cache. Immediate unless others must give something up first.
   */
  open(ino: InodeId, session: SessionId, write: boolean): LeaseMode | Promise<LeaseMode> {
    if (!this.#sessions.isAlive(session)) throw new FsError("ESHUTDOWN", "the session has ended");
    const holder = this.#register(ino, session);
    holder.writes ||= write;
    const recall = this.#makeRoom(ino, session);
    if (recall === undefined) return this.lease(ino, session);
    return recall.then(() => this.lease(ino, session));
  }

  /** What `session` may cache of `ino` from this reply on. Sessions that do not hold it open get no lease. */
  lease(ino: InodeId, session: SessionId): LeaseMode {
    const holders = this.#holders.get(ino);
    const holder = holders?.find((other) => other.session === session);
    if (holders === undefined || holder === undefined) return "none";
    if (this.#recalling.has(ino) || this.#sessions.unreclaimed(session).length > 0) return "none";
    const others = holders.filter((other) => other !== holder);
    const allowed: LeaseMode = others.length === 0
      ? (holder.writes ? "write" : "read")
      : (holder.writes || others.some((other) => other.writes || other.lease === "write") ? "none" : "read");
    // Never lowered here: the client has what it was granted before until it acknowledged a recall of it.
    if (RANK[allowed] > RANK[holder.lease]) holder.lease = allowed;
    return allowed;
  }

  /** Recalls what others hold beyond what a new holder leaves them. */
  #makeRoom(ino: InodeId, session: SessionId): Promise<void> | undefined {
    const holders = this.#holders.get(ino)!;
    if (holders.length === 1) return undefined;
    const shared = holders.some((holder) => holder.writes);
    return this.#recall(ino, session, shared ? "none" : "read");
  }

  /** Before `session` looks at the inode: another's buffered writes and size come in first. */
  settle(ino: InodeId, session: SessionId): Promise<void> | undefined {
    const reclaimed = this.#sessions.allReclaimed(session);
    if (reclaimed !== undefined) return reclaimed.then(() => this.settle(ino, session));
    return this.#recall(ino, session, "read");
  }

  /** Before `session` changes the inode: nobody else caches it any more. */
  beforeChange(ino: InodeId, session: SessionId): Promise<void> | undefined {
    const reclaimed = this.#sessions.allReclaimed(session);
    if (reclaimed !== undefined) return reclaimed.then(() => this.beforeChange(ino, session));
    return this.#recall(ino, session, "none");
  }

  /** Lowers what others hold to `keep`; undefined when nothing has to be waited for. */
  #recall(ino: InodeId, session: SessionId, keep: LeaseMode): Promise<void> | undefined {
    const holders = this.#holders.get(ino);
    if (holders === undefined) return undefined;
    const conflicting = holders.filter((holder) =>
      holder.session !== session && RANK[holder.lease] > RANK[keep]
    );
    if (conflicting.length === 0) return undefined;
    return this.#exclusively(ino, async () => {
      await Promise.all(conflicting.map(async (holder) => {
        if (RANK[holder.lease] <= RANK[keep]) return; // a recall before this one did it
        await this.#push(holder.session, { ino, keep, removed: false });
        if (RANK[holder.lease] > RANK[keep]) holder.lease = keep;
      }));
    });
  }

  /** Runs recalls of one inode one after the other; the latest promise stands for all before it. */
  #exclusively(ino: InodeId, run: () => Promise<void>): Promise<void> {
    const before = this.#recalling.get(ino);
    const promise = (before === undefined ? run() : before.then(run)).finally(() => {
      if (this.#recalling.get(ino) === promise) this.#recalling.delete(ino);
    });
    this.#recalling.set(ino, promise);
    return promise;
  }

  async #push(session: SessionId, push: RecallPush): Promise<RecallAnswer | undefined> {
    return await this.#sessions.push(session, LEASE_PUSHES.methods.recall.op, push) as
      | RecallAnswer
      | undefined;
  }

  /** Sessions other than `session` that hold the inode. */
  otherHolders(ino: InodeId, session: SessionId): SessionId[] {
    const others = this.#holders.get(ino)?.filter((holder) => holder.session !== session);
    return others?.map((holder) => holder.session) ?? [];
  }

  /** True while the session has the inode open, as far as it has told. */
  holds(ino: InodeId, session: SessionId): boolean {
    return this.#bySession.get(session)?.has(ino) ?? false;
  }

  /** The inode is gone for good. */
  forget(ino: InodeId): void {
    for (const { session } of this.#holders.get(ino) ?? []) this.#bySession.get(session)?.delete(ino);
    this.#holders.delete(ino);
  }

  /** The inode loses its last name: which of these sessions have it open? */
  async askOpen(ino: InodeId, sessions: readonly SessionId[]): Promise<SessionId[]> {
    const answers = await Promise.all(sessions.map((session) => {
      const keep = this.#holders.get(ino)?.find((holder) => holder.session === session)?.lease ?? "none";
      return this.#push(session, { ino, keep, removed: true });
    }));
    return sessions.filter((_, i) => answers[i]?.open === true);
  }

  /** The session dropped these inodes. */
  release(session: SessionId, inodes: readonly InodeId[]): void {
    const held = this.#bySession.get(session);
    if (held === undefined) return;
    for (const ino of inodes) {
      if (held.delete(ino)) this.#unregister(ino, session);
    }
    if (held.size === 0) this.#bySession.delete(session);
  }

  /** The session holds only these: what else it was taken to hold was closed while it could not say so. */
  keepOnly(session: SessionId, open: ReadonlySet<InodeId>): void {
    this.release(session, [...this.#bySession.get(session) ?? []].filter((ino) => !open.has(ino)));
  }

  /** The session is over. */
  dropSession(session: SessionId): void {
    for (const ino of this.#bySession.get(session) ?? []) this.#unregister(ino, session);
    this.#bySession.delete(session);
  }

  #register(ino: InodeId, session: SessionId): Holder {
    let holders = this.#holders.get(ino);
    if (holders === undefined) this.#holders.set(ino, holders = []);
    let holder = holders.find((other) => other.session === session);
    if (holder === undefined) {
      holders.push(holder = { session, lease: "none", writes: false });
      let held = this.#bySession.get(session);
      if (held === undefined) this.#bySession.set(session, held = new Set());
      held.add(ino);
    }
    return holder;
  }

  #unregister(ino: InodeId, session: SessionId): void {
    const holders = this.#holders.get(ino)!;
    const rest = holders.filter((holder) => holder.session !== session);
    if (rest.length === 0) this.#holders.delete(ino);
    else this.#holders.set(ino, rest);
  }
}
