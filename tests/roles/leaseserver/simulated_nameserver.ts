/**
 * What a nameserver does around its leaseserver, with counters for files and names: each change adds one, so that what is
 * old can be told from what is new. A name is there while its counter is odd.
 * Invariant: as in client_service.ts, what a reply shows and what it grants are decided in one synchronous step; the
 * reply itself may leave later, as if it waited for the journal.
 */

import assert from "node:assert/strict";
import type { Random } from "../../../base/random.ts";
import type { LeaseTable, Own } from "../../../roles/leaseserver/leases.ts";
import type { InodeId, SessionId } from "../../../wire/ids.ts";
import type { LeaseMode } from "../../../wire/messages/inode.ts";
import type { Held, RecallItem } from "../../../wire/messages/nameserver.ts";
import { bytesOf } from "../../../base/bytes.ts";
import { chance } from "../../base/seeded.ts";
import type { Schedule } from "./schedule.ts";

export type Register = `data ${number}` | `attributes ${number}` | `name ${number} ${string}`;
export const dataOf = (ino: InodeId): Register => `data ${ino}`;
export const attributesOf = (ino: InodeId): Register => `attributes ${ino}`;
export const nameOf = (directory: InodeId, name: string): Register => `name ${directory} ${name}`;

/** What had been seen of a register when somebody asked. */
export interface Seen {
  readonly value: number;
  readonly losses: number;
}

/** What somebody was shown or told is done: nobody who asks afterwards may be shown less. */
export class Truth {
  readonly #seen = new Map<Register, Seen>();

  seen(register: Register): Seen {
    return this.#seen.get(register) ?? NOTHING;
  }

  /** `value` is shown to somebody who asked when `before` had been seen, or who has changed it since. */
  show(register: Register, value: number, before: Seen, who: SessionId, hasChanged = false): void {
    const now = this.seen(register);
    const expected = (before.losses === now.losses ? before.value : 0) + (hasChanged ? 1 : 0);
    assert.ok(
      value >= expected,
      `session ${who} is shown ${value} of "${register}", ${expected} was there before`,
    );
    this.#seen.set(register, { ...now, value: Math.max(value, now.value) });
  }

  /** What was not stored died with the only one who had seen it. */
  lost(register: Register, stored: number): void {
    const { losses } = this.seen(register);
    this.#seen.set(register, { value: stored, losses: losses + 1 });
  }
}

const NOTHING: Seen = { value: 0, losses: 0 };

/** An inode in a reply. */
export interface InodeView {
  readonly ino: InodeId;
  readonly lease: LeaseMode;
  readonly data: number;
  readonly attributes: number;
}

export interface EntryView {
  readonly version: number;
  readonly inode?: InodeView;
  readonly directory: LeaseMode;
}

/** A change of a name, as its author has made it already. */
export interface DeferredName {
  readonly directory: InodeId;
  readonly name: string;
  readonly version: number;
}

export class SimulatedNameserver {
  readonly leases: LeaseTable;
  readonly #schedule: Schedule;
  readonly #random: Random;
  readonly #stored = new Map<Register, number>();
  /** Files that a session which has ended could still write to. */
  readonly #unfenced = new Map<InodeId, number>();
  /** The file that a name leads to while it is there. */
  readonly target: (name: string) => InodeId;

  constructor(
    makeLeases: (fence: (ino: InodeId) => Promise<void>) => LeaseTable,
    schedule: Schedule,
    random: Random,
    target: (name: string) => InodeId,
  ) {
    this.leases = makeLeases((ino) => this.#fence(ino));
    this.#schedule = schedule;
    this.#random = random;
    this.target = target;
  }

  stored(register: Register): number {
    return this.#stored.get(register) ?? 0;
  }

  #bump(register: Register): number {
    const value = this.stored(register) + 1;
    this.#stored.set(register, value);
    return value;
  }

  isFencing(ino: InodeId): boolean {
    return (this.#unfenced.get(ino) ?? 0) > 0;
  }

  async #fence(ino: InodeId): Promise<void> {
    this.#unfenced.set(ino, (this.#unfenced.get(ino) ?? 0) + 1);
    await this.#schedule.delay();
    await this.#schedule.delay();
    this.#unfenced.set(ino, this.#unfenced.get(ino)! - 1);
  }

  /** The reply leaves when what it shows is written. */
  async #written<T>(reply: T): Promise<T> {
    if (chance(this.#random, 0.3)) await this.#schedule.delay();
    return reply;
  }

  /** What is told of a directory may be told to be the asker's alone. */
  #leaseOfNames(directory: InodeId, session: SessionId, own?: Own): LeaseMode {
    return chance(this.#random, 0.5)
      ? this.leases.leaseExclusive(directory, session, own)
      : this.leases.lease(directory, session, own);
  }

  #see(ino: InodeId, session: SessionId, own: Own | undefined): InodeView {
    assert.ok(!this.isFencing(ino), `${ino} is shown while a session that has ended may write to it`);
    return {
      ino,
      lease: this.leases.lease(ino, session, own),
      data: this.stored(dataOf(ino)),
      attributes: this.stored(attributesOf(ino)),
    };
  }

  acquire(session: SessionId, ino: InodeId, mode: "read" | "write"): Promise<InodeView> {
    return this.leases.acquire(ino, session, mode, () => this.#written(this.#see(ino, session, "turn")));
  }

  async getattr(session: SessionId, ino: InodeId): Promise<InodeView> {
    return await this.leases.look(
      session,
      [ino],
      (own) => this.#written(this.#see(ino, session, own)),
    );
  }

  async lookup(session: SessionId, directory: InodeId, name: string): Promise<EntryView> {
    const register = nameOf(directory, name);
    const ino = this.target(name);
    if (this.leases.isExclusiveOfOther(directory, session)) await this.leases.settleNames(directory, session);
    for (;;) {
      if (this.stored(register) % 2 === 0) {
        const version = this.stored(register);
        return await this.#written({ version, directory: this.#leaseOfNames(directory, session) });
      }
      const reply = await this.leases.look(session, [ino], (own) => {
        const version = this.stored(register);
        if (version % 2 === 0) return undefined;
        const inode = this.#see(ino, session, own);
        return this.#written({ version, inode, directory: this.#leaseOfNames(directory, session) });
      });
      if (reply !== undefined) return reply;
    }
  }

  /** A listing that shows what it lists. */
  async list(session: SessionId, inodes: readonly InodeId[]): Promise<readonly InodeView[]> {
    return await this.leases.look(
      session,
      inodes,
      (own) => this.#written(inodes.map((ino) => this.#see(ino, session, own))),
    );
  }

  async setMode(session: SessionId, ino: InodeId): Promise<InodeView> {
    return await this.leases.change(session, [{ ino, keep: "read", attributes: true }], () => {
      this.#bump(attributesOf(ino));
      return this.#written(this.#see(ino, session, "turn"));
    });
  }

  /** A change of the data by the nameserver, whose author goes on to write. */
  async truncate(session: SessionId, ino: InodeId): Promise<InodeView> {
    return await this.leases.change(session, [{ ino, keep: "none", attributes: true }], () => {
      this.leases.grantWrite(ino, session);
      this.#bump(dataOf(ino));
      this.#bump(attributesOf(ino));
      return this.#written(this.#see(ino, session, "turn"));
    });
  }

  /** A flush; it never has to wait for a turn. */
  async commit(session: SessionId, ino: InodeId, value: number): Promise<InodeView> {
    assert.ok(this.leases.mayCommit(ino, session), `session ${session} flushes ${ino} without a right to it`);
    this.#stored.set(dataOf(ino), Math.max(value, this.stored(dataOf(ino))));
    return await this.#written(this.#see(ino, session, undefined));
  }

  async changeName(session: SessionId, directory: InodeId, name: string): Promise<EntryView> {
    const item: RecallItem = { ino: directory, keep: "read", names: [bytesOf(name)] };
    return await this.leases.change(session, [item], () => {
      this.#bump(attributesOf(directory));
      const version = this.#bump(nameOf(directory, name));
      return this.#written({ version, directory: this.#leaseOfNames(directory, session, "names") });
    });
  }

  /** Changes that their author has shown already; they never wait for a turn. */
  async defer(session: SessionId, changes: readonly DeferredName[]): Promise<void> {
    for (const { directory, name, version } of changes) {
      assert.ok(
        this.leases.mayCommit(directory, session),
        `session ${session} changes names of ${directory}`,
      );
      this.#bump(attributesOf(directory));
      assert.equal(this.#bump(nameOf(directory, name)), version, `what is under "${name}" of ${directory}`);
    }
    await this.#written(undefined);
  }

  /** Changes a name in each of two directories, and the attributes of what one of them leads to. */
  async rename(
    session: SessionId,
    from: readonly [directory: InodeId, name: string],
    to: readonly [directory: InodeId, name: string],
  ): Promise<readonly [EntryView, EntryView]> {
    const ino = this.target(from[1]);
    const items: RecallItem[] = from[0] === to[0]
      ? [{ ino: from[0], keep: "read", names: [bytesOf(from[1]), bytesOf(to[1])] }]
      : [from, to].map(([directory, name]) => ({ ino: directory, keep: "read", names: [bytesOf(name)] }));
    items.push({ ino, keep: "read", attributes: true });
    const other = this.target(to[1]);
    if (other !== ino) items.push({ ino: other, keep: "read", attributes: true, removed: true });
    return await this.leases.change(session, items, () => {
      this.#bump(attributesOf(ino));
      if (other !== ino) this.#bump(attributesOf(other));
      return this.#written(
        [from, to].map(([directory, name]) => {
          this.#bump(attributesOf(directory));
          const version = this.#bump(nameOf(directory, name));
          return { version, directory: this.leases.lease(directory, session, "names") };
        }) as unknown as readonly [EntryView, EntryView],
      );
    });
  }

  /** Asks where a file is open, as its removal does. */
  async openIn(session: SessionId, ino: InodeId): Promise<readonly SessionId[]> {
    return await this.leases.change(
      session,
      [{ ino, keep: "read", attributes: true, removed: true }],
      (openIn) => this.#written(openIn),
    );
  }

  release(session: SessionId, held: readonly Held[]): void {
    this.leases.lower(session, held);
  }
}
