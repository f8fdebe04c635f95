/**
 * A client of the leaseserver as fs/ is one: opens files, caches under READ, buffers writes under WRITE, answers
 * recalls. What it may see is compared with the truth: each file is a number that counts its writes.
 */

import assert from "node:assert/strict";
import type { LeaseTable } from "../../../roles/leaseserver/leases.ts";
import type { InodeId, SessionId } from "../../../wire/ids.ts";
import type { LeaseMode } from "../../../wire/messages/inode.ts";
import type { RecallAnswer, RecallPush } from "../../../wire/messages/nameserver.ts";
import type { Schedule } from "./schedule.ts";

/** Files as everybody together must see them. */
export class Truth {
  /** Writes that an application was told are done. */
  readonly latest = new Map<InodeId, number>();
  /** What the server has of them. */
  readonly stored = new Map<InodeId, number>();

  wrote(ino: InodeId, value: number): void {
    this.latest.set(ino, Math.max(value, this.latestOf(ino)));
  }
  latestOf(ino: InodeId): number {
    return this.latest.get(ino) ?? 0;
  }
  storedOf(ino: InodeId): number {
    return this.stored.get(ino) ?? 0;
  }
}

const RANK: Readonly<Record<LeaseMode, number>> = { none: 0, read: 1, write: 2 };

interface File {
  lease: LeaseMode;
  recalls: number;
  handles: number;
  cached: number;
  isDirty: boolean;
}

export class SimulatedClient {
  readonly session: SessionId;
  readonly #leases: LeaseTable;
  readonly #truth: Truth;
  readonly #schedule: Schedule;
  readonly files = new Map<InodeId, File>();
  isCrashed = false;
  /** What the server sends arrives in order. */
  #arriving: Promise<void> = Promise.resolve();
  /** Opens without an answer yet: nothing is released before it. */
  readonly #opening = new Map<InodeId, number>();
  readonly #releasing = new Map<InodeId, Promise<void>>();
  /** And what the client sends. */
  #sending: Promise<void> = Promise.resolve();

  constructor(session: SessionId, leases: LeaseTable, truth: Truth, schedule: Schedule) {
    this.session = session;
    this.#leases = leases;
    this.#truth = truth;
    this.#schedule = schedule;
  }

  #arrive<T>(run: () => T): Promise<T> {
    const arrived = this.#arriving.then(() => this.#schedule.delay()).then(run);
    this.#arriving = arrived.then(() => {}, () => {});
    return arrived;
  }

  #send(): Promise<void> {
    return this.#sending = this.#sending.then(() => this.#schedule.delay());
  }

  /** Asks the server; `arrived` gets what it saw and granted, in the order of what the server sends. */
  async #ask(
    ino: InodeId,
    run: () => Promise<void> | void,
    arrived: (lease: LeaseMode, value: number) => void,
  ): Promise<number> {
    await this.#send();
    await run();
    const lease = this.#leases.lease(ino, this.session);
    const value = this.#truth.storedOf(ino);
    await this.#arrive(() => arrived(lease, value));
    return value;
  }

  /** Takes an answer over unless a recall crossed it. */
  #adopter(file: File | undefined): (lease: LeaseMode, value: number) => void {
    const recalls = file?.recalls;
    return (lease, value) => {
      if (file === undefined || file.recalls !== recalls) return;
      file.lease = lease;
      file.cached = Math.max(file.cached, value);
    };
  }

  async open(ino: InodeId, write: boolean): Promise<void> {
    // A release that is on its way arrives first.
    while (this.#releasing.has(ino)) await this.#releasing.get(ino);
    const before = this.files.get(ino);
    if (before !== undefined) before.handles++;
    const adopt = this.#adopter(before);
    this.#opening.set(ino, (this.#opening.get(ino) ?? 0) + 1);
    await this.#ask(ino, async () => {
      await this.#leases.open(ino, this.session, write);
      await this.#leases.settle(ino, this.session);
    }, (lease, value) => {
      this.#opening.set(ino, this.#opening.get(ino)! - 1);
      if (before !== undefined) return adopt(lease, value);
      const known = this.files.get(ino);
      if (known === undefined) {
        this.files.set(ino, { lease, recalls: 0, handles: 1, cached: value, isDirty: false });
      } else {
        known.handles++;
        if (known.lease !== "none" || known.recalls === 0) this.#adopter(known)(lease, value);
      }
    });
  }

  async close(ino: InodeId): Promise<void> {
    const file = this.files.get(ino);
    if (file === undefined || file.handles === 0) return;
    file.handles--;
    if (file.handles > 0) return;
    await this.#flush(ino, file);
    if (file.handles > 0 || this.files.get(ino) !== file) return; // opened again meanwhile
    if ((this.#opening.get(ino) ?? 0) > 0) return; // and will be closed again
    this.files.delete(ino);
    const release = async () => {
      await this.#send();
      this.#leases.release(this.session, [ino]);
      await this.#arrive(() => {});
      this.#releasing.delete(ino);
    };
    const releasing = release();
    this.#releasing.set(ino, releasing);
    await releasing;
  }

  /** read(2): from the cache if that is allowed, else from the server; never older than what was written before. */
  async read(ino: InodeId): Promise<void> {
    const file = this.files.get(ino);
    const known = this.#truth.latestOf(ino);
    if (file !== undefined && file.lease !== "none") {
      assert.ok(
        file.cached >= known,
        `session ${this.session} reads ${file.cached} of ${ino}, ${known} was written`,
      );
      return;
    }
    const seen = await this.#ask(ino, () => this.#leases.settle(ino, this.session), this.#adopter(file));
    assert.ok(
      seen >= known,
      `session ${this.session} is told ${seen} of ${ino}, ${known} was written before`,
    );
  }

  /** write(2): buffered under a write lease, else with the server before it returns. */
  async write(ino: InodeId): Promise<void> {
    const file = this.files.get(ino);
    if (file === undefined || file.handles === 0) return;
    if (file.lease === "write") {
      file.cached = Math.max(file.cached, this.#truth.storedOf(ino)) + 1;
      file.isDirty = true;
      this.#truth.wrote(ino, file.cached);
      return;
    }
    let value = 0;
    await this.#ask(ino, async () => {
      await this.#leases.beforeChange(ino, this.session);
      value = this.#truth.storedOf(ino) + 1;
      this.#truth.stored.set(ino, value);
    }, this.#adopter(file));
    file.cached = Math.max(file.cached, value);
    this.#truth.wrote(ino, value);
  }

  async #flush(ino: InodeId, file: File): Promise<void> {
    while (file.isDirty) {
      const value = file.cached;
      await this.#ask(ino, async () => {
        await this.#leases.beforeChange(ino, this.session);
        this.#truth.stored.set(ino, Math.max(value, this.#truth.storedOf(ino)));
      }, this.#adopter(file));
      if (file.cached === value) file.isDirty = false;
    }
  }

  /** The server's push: gives up what it asks for, after what is buffered is out. */
  async recall(push: RecallPush): Promise<RecallAnswer> {
    const { flushed, open } = await this.#arrive(() => {
      const file = this.files.get(push.ino);
      if (file === undefined) return { flushed: Promise.resolve(), open: false };
      file.recalls++;
      return { flushed: this.#give(push, file), open: file.handles > 0 };
    });
    await flushed;
    await this.#send();
    return { open };
  }

  async #give({ ino, keep, removed }: RecallPush, file: File): Promise<void> {
    if (removed) return;
    const hadWrite = file.lease === "write";
    if (RANK[keep] < RANK[file.lease]) file.lease = keep; // nothing more is buffered
    if (hadWrite) await this.#flush(ino, file);
  }
}
