/**
 * Accesses and recalls against a model of the kernel's page cache: pages that are locked while a READ or the writeback
 * of a mapping is unanswered, and invalidations that wait for them. Whoever waits for whom, everybody gets on, and what
 * was acknowledged is so: no page is there, no access under way, nothing uncommitted.
 */

import assert from "node:assert/strict";
import { type Random, randomInt } from "../../base/random.ts";
import type { Access, OpenFile } from "../../fs/inode.ts";
import { chance, seededTest } from "../base/seeded.ts";
import { settle } from "../base/fake_clock.ts";
import {
  acquireReply,
  blockOf,
  INO,
  inodeReply,
  opened,
  PATIENT,
  startClient,
  type TestClient,
  time,
  WRITING,
} from "./client.ts";

const PAGE = 4096;
const PAGES = 12;
const STEPS_MAX = 200_000;

interface Page {
  isCached: boolean;
  isLocked: boolean;
}

/** Turns of the event loop: what the model's processes take to do something. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await settle();
}

class Model {
  readonly #random: Random;
  readonly #client: TestClient;
  readonly #file: OpenFile;
  readonly #pages: Page[] = Array.from({ length: PAGES }, () => ({ isCached: false, isLocked: false }));
  #isStopping = false;
  #isOver = false;
  #steps = 0;
  /** The turn on the inode at the server: who has it, and who waits. */
  #isTaken = false;
  readonly #queue: (() => void)[] = [];
  /** What each process has done. */
  readonly done = { reads: 0, hits: 0, writes: 0, writebacks: 0, looks: 0, recalls: 0 };
  roundsMax = 0;
  #rounds = 0;
  #version = 2;

  constructor(random: Random, client: TestClient, file: OpenFile) {
    this.#random = random;
    this.#client = client;
    this.#file = file;
    client.kernel.invalidateInode = (_ino, offset, length) => this.#invalidate(offset, length);
  }

  #between(min: number, max: number): number {
    return min + randomInt(this.#random, max - min + 1);
  }

  async #step(): Promise<void> {
    assert.ok(++this.#steps < STEPS_MAX, `everybody gets on: ${JSON.stringify(this.done)}`);
    await turns(1);
  }

  // ---- the kernel

  async #lock(page: Page): Promise<void> {
    while (page.isLocked) await this.#step();
    page.isLocked = true;
  }

  async #invalidate(offset: number, length: number): Promise<boolean> {
    if (offset < 0) return true;
    this.#rounds++;
    const end = length === 0 ? PAGES : (offset + length) / PAGE;
    await turns(1); // a thread of the pool takes it
    for (const page of this.#pages.slice(offset / PAGE, end)) {
      while (page.isLocked) await this.#step();
      page.isCached = false;
    }
    await turns(this.#between(0, 2)); // until we hear of it
    return true;
  }

  async #use(access: Omit<Access, "start" | "end">, first: number, count: number): Promise<void> {
    const range = { start: first * PAGE, end: (first + count) * PAGE };
    await this.#client.access.use(this.#file, { ...range, ...access }, PATIENT, async () => {
      assert.notEqual(this.#file.inode.lease, "none", "an access runs under a lease");
      await turns(this.#between(0, 3));
      if (access.isWrite) this.#file.wrote(range.end, time(this.#version), 0);
      assert.notEqual(this.#file.inode.lease, "none", "until its end");
    });
  }

  // ---- processes

  async #reader(): Promise<void> {
    while (!this.#isStopping) {
      const first = this.#between(0, PAGES - 1);
      await this.#lock(this.#pages[first]!);
      if (this.#pages[first]!.isCached) {
        this.done.hits++;
        this.#pages[first]!.isLocked = false;
      } else {
        // Read-ahead takes the pages behind as well, as far as they are neither there nor locked: it waits for none.
        const pages = [this.#pages[first]!];
        for (const page of this.#pages.slice(first + 1, first + this.#between(1, 3))) {
          if (page.isCached || page.isLocked) break;
          page.isLocked = true;
          pages.push(page);
        }
        await this.#use({ isWrite: false, isPaged: true, isWriteback: false }, first, pages.length);
        await turns(this.#between(0, 1));
        for (const page of pages) {
          page.isCached = true;
          page.isLocked = false;
        }
        this.done.reads++;
      }
      await this.#step();
    }
  }

  /** Dirties pages of a mapping, which are written back one by one. */
  async #mapper(): Promise<void> {
    while (!this.#isStopping) {
      const page = this.#pages[this.#between(0, PAGES - 1)]!;
      await this.#lock(page);
      if (page.isCached) {
        const at = this.#pages.indexOf(page);
        await this.#use({ isWrite: true, isPaged: true, isWriteback: true }, at, 1);
        this.done.writebacks++;
      }
      page.isLocked = false;
      await turns(this.#between(0, 20));
      await this.#step();
    }
  }

  async #writer(): Promise<void> {
    while (!this.#isStopping) {
      await this.#use({ isWrite: true, isPaged: false, isWriteback: false }, this.#between(0, PAGES - 1), 1);
      this.done.writes++;
      await turns(this.#between(0, 10));
      await this.#step();
    }
  }

  async #looker(): Promise<void> {
    while (!this.#isStopping) {
      await this.#use({ isWrite: false, isPaged: false, isWriteback: false }, 0, PAGES);
      this.done.looks++;
      await turns(this.#between(0, 10));
      await this.#step();
    }
  }

  // ---- the server

  async #take(): Promise<void> {
    if (this.#isTaken) await new Promise<void>((resolve) => this.#queue.push(resolve));
    this.#isTaken = true;
  }

  #give(): void {
    const next = this.#queue.shift();
    if (next === undefined) this.#isTaken = false;
    else next();
  }

  /** Answers what is asked, in turn. */
  async #server(): Promise<void> {
    const { nameserver } = this.#client;
    while (!this.#isOver) {
      for (const call of [...nameserver.calls]) {
        nameserver.calls.splice(nameserver.calls.indexOf(call), 1);
        void this.#serve(call);
      }
      await this.#step();
    }
  }

  async #serve(call: TestClient["nameserver"]["calls"][number]): Promise<void> {
    const { nameserver } = this.#client;
    await turns(this.#between(0, 2));
    nameserver.calls.push(call); // which `answer` takes out
    if (call.method === "commit") {
      const { mtime } = call.request as { mtime: ReturnType<typeof time> };
      const changes = { version: this.#version, size: PAGES * PAGE, mtime, ctime: mtime };
      await call.answer(inodeReply(INO, "none", changes));
      return;
    }
    assert.equal(call.method, "acquire");
    nameserver.calls.pop();
    await this.#take();
    nameserver.calls.push(call);
    const { mode } = call.request as { mode: "read" | "write" };
    const { mtime } = this.#file;
    const changes = { version: this.#version, size: PAGES * PAGE, mtime, ctime: mtime };
    void call.answer(acquireReply(INO, mode, changes, { blocks: [blockOf(1, 0, PAGES * PAGE)] }));
    this.#give();
  }

  /** Another client, which wants the file again and again. */
  async #other(rounds: number, keepsRead: boolean): Promise<void> {
    const { recalls } = this.#client;
    for (let round = 0; round < rounds; round++) {
      await turns(this.#between(0, 30));
      await this.#take();
      const keep = keepsRead && chance(this.#random, 0.3) ? "read" : "none";
      this.#rounds = 0;
      await recalls.recall({ items: [{ ino: INO, keep }] });
      this.done.recalls++;
      this.roundsMax = Math.max(this.roundsMax, this.#rounds);
      for (let hold = this.#between(0, 4); hold >= 0; hold--) {
        this.#check(keep);
        await turns(1);
      }
      this.#version++;
      this.#give();
    }
    this.#isStopping = true;
  }

  /** What the acknowledgement promised, for as long as the other has its turn. */
  #check(keep: "read" | "none"): void {
    const { inode } = this.#file;
    assert.notEqual(inode.lease, "write");
    assert.equal(this.#file.isUnflushed, false, "nothing is uncommitted");
    assert.ok([...this.#file.accesses].every(({ isWrite }) => !isWrite), "nothing is being written");
    if (keep === "read") return;
    assert.equal(inode.lease, "none");
    assert.equal(this.#file.accesses.size, 0, "nothing is under way");
    const readable = this.#pages.findIndex(({ isCached, isLocked }) => isCached && !isLocked);
    assert.equal(readable, -1, "the kernel has no page that could be read");
  }

  async run(
    processes: { readers: number; mappers: number; writers: number; lookers: number },
    rounds: number,
  ) {
    const all = [
      ...Array.from({ length: processes.readers }, () => this.#reader()),
      ...Array.from({ length: processes.mappers }, () => this.#mapper()),
      ...Array.from({ length: processes.writers }, () => this.#writer()),
      ...Array.from({ length: processes.lookers }, () => this.#looker()),
      this.#other(rounds, processes.mappers === 0),
    ];
    const serving = this.#server();
    await Promise.race([serving, Promise.all(all)]);
    this.#isOver = true;
    await serving;
  }
}

async function start(random: Random): Promise<Model> {
  const client = startClient();
  const { file } = await opened(client, WRITING, { size: PAGES * PAGE });
  return new Model(random, client, file);
}

seededTest(
  "data access model: readers, writers and mappings get on with another client's turns",
  async (random) => {
    for (let run = 0; run < 6; run++) {
      const model = await start(random);
      const processes = {
        readers: randomInt(random, 4),
        mappers: randomInt(random, 3),
        writers: randomInt(random, 3),
        lookers: randomInt(random, 2),
      };
      try {
        await model.run(processes, 30);
      } catch (error) {
        throw new Error(`${JSON.stringify(processes)}: ${(error as Error).message}`, { cause: error });
      }
      if (Deno.env.get("DEBUG")) console.log(processes, model.done, model.roundsMax);
      assert.equal(model.done.recalls, 30);
    }
  },
);
