/**
 * A whole client, put together as roles/mount does, between fakes: a nameserver and dataservers that answer when the
 * test says so, a kernel that takes notifications, a session that the test ends, a clock that the test moves.
 */

import assert from "node:assert/strict";
import { bytesOf } from "../../base/bytes.ts";
import type { Timespec } from "../../base/clock.ts";
import { createLogger, type LogFields } from "../../base/log.ts";
import { AskedChanges } from "../../fs/asked_changes.ts";
import { BlockStock } from "../../fs/block_stock.ts";
import { Blocks } from "../../fs/blocks.ts";
import { AccessTimes, type AtimePolicy } from "../../fs/access_times.ts";
import type { ClusterSession } from "../../fs/cluster_session.ts";
import { DataAccess } from "../../fs/data_access.ts";
import type { Dataservers } from "../../fs/dataservers.ts";
import { FileReadAhead } from "../../fs/file_read_ahead.ts";
import { Files, type Handle, type OpenOptions } from "../../fs/files.ts";
import type { Inode } from "../../fs/inode.ts";
import { InlineData } from "../../fs/inline_data.ts";
import { InodeTable } from "../../fs/inode_table.ts";
import { KernelCache } from "../../fs/kernel_cache.ts";
import { LocalReplicas } from "../../fs/local_replicas.ts";
import { NameReadAhead } from "../../fs/name_read_ahead.ts";
import { Names } from "../../fs/names.ts";
import type { Access, OpenFile } from "../../fs/inode.ts";
import { Ranges } from "../../fs/ranges.ts";
import { Reader } from "../../fs/reader.ts";
import { DeferredChanges } from "../../fs/deferred_changes.ts";
import { InodeNumbers } from "../../fs/inode_numbers.ts";
import { LocalChanges } from "../../fs/local_changes.ts";
import { Recalls } from "../../fs/recalls.ts";
import type {
  DeferredChange,
  DeferReply,
  ReserveBlocksRequest,
  ReservedBlocksReply,
  ReservedInodes,
} from "../../wire/messages/deferred.ts";
import { Releases } from "../../fs/releases.ts";
import { Strays } from "../../fs/strays.ts";
import { Writer } from "../../fs/writer.ts";
import { FsError, isTransportError } from "../../wire/errno.ts";
import {
  asBlockId,
  asGeneration,
  asInodeId,
  asNodeId,
  asVolumeId,
  type InodeId,
  ROOT_INODE,
} from "../../wire/ids.ts";
import type { ChainReply } from "../../wire/messages/dataserver.ts";
import type {
  ChangeRangeRequest,
  CopyRangeReply,
  CopyRangeRequest,
  LocateReplicaReply,
  ReadBlockRequest,
  ReplicaRequest,
  SeekBlockRequest,
  SyncBlockRequest,
  WriteBlockRequest,
  WriteRangesRequest,
} from "../../wire/messages/dataserver.ts";
import type { Attributes, Block, InodeReply, LeaseMode } from "../../wire/messages/inode.ts";
import type {
  AcquireReply,
  CommitRequest,
  CreateReply,
  CreateRequest,
  EntryReply,
  Held,
  LookupReply,
  NAMESERVER,
  RecallAnswer,
  RecallItem,
  RetryTag,
} from "../../wire/messages/nameserver.ts";
import type { Client, RequestOf, ResponseOf } from "../../wire/service.ts";
import { FakeClock, settle } from "../base/fake_clock.ts";
import type { Interruptible } from "../../fs/interruptible.ts";

/** Which run of which machine the client is on. */
export const MACHINE = "this machine";
export const INO = asInodeId(5);
export const OTHER = asInodeId(6);
export const ROOT = ROOT_INODE;
/** Nobody gives up. */
export const PATIENT: Interruptible = { signal: new AbortController().signal };

type NameserverMethods = (typeof NAMESERVER)["methods"];

// ---- what a nameserver says

export function time(seconds: number): Timespec {
  return { seconds, nanoseconds: 0 };
}

export function attributesOf(ino: InodeId, changes: Partial<Attributes> = {}): Attributes {
  return {
    ino,
    mode: ino === ROOT ? 0o040755 : 0o100644,
    uid: 0,
    gid: 0,
    nlink: 1,
    size: 0,
    allocatedBytes: 0,
    atime: time(1),
    mtime: time(1),
    ctime: time(1),
    btime: time(1),
    rdev: 0,
    replication: 1,
    hasXattrs: false,
    version: 1,
    ...changes,
  };
}

export function inodeReply(ino: InodeId, lease: LeaseMode, changes: Partial<Attributes> = {}): InodeReply {
  return { lease, attributes: attributesOf(ino, changes) };
}

export function entryReply(
  ino: InodeId,
  lease: LeaseMode,
  directory: LeaseMode,
  changes: Partial<Attributes> = {},
): EntryReply {
  return { ...inodeReply(ino, lease, changes), directory };
}

export function found(ino: InodeId, directory: LeaseMode = "read", lease: LeaseMode = "read"): LookupReply {
  return { inode: inodeReply(ino, lease), directory };
}

export function acquireReply(
  ino: InodeId,
  lease: LeaseMode,
  changes: Partial<Attributes> = {},
  more: Partial<AcquireReply> = {},
): AcquireReply {
  return { ...inodeReply(ino, lease, changes), blocks: [], blocksComplete: true, isShared: false, ...more };
}

/** A block of one replica, on the one dataserver that there is. */
export function blockOf(id: number, start: number, length: number, written = true): Block {
  const replica = {
    node: asNodeId(1),
    volume: asVolumeId(1),
    address: "dataserver",
    host: "here",
    alive: true,
  };
  return { id: asBlockId(id), generation: asGeneration(1), start, length, written, replicas: [replica] };
}

// ---- a service that answers when the test says so

/** A call that waits for its answer. */
export interface Call<Request = unknown, Response = unknown> {
  readonly method: string;
  readonly request: Request;
  readonly signal: AbortSignal | undefined;
  answer(response: Response): Promise<void>;
  fail(error: Error): Promise<void>;
}

/** What a session does not give up on once it is sent. */
const ENDED: ReadonlySet<string> = new Set(["make", "link", "remove", "rename"]);

export class FakeService<Methods> {
  /** Unanswered, oldest first. */
  readonly calls: Call[] = [];
  /** Names of all so far. */
  readonly asked: string[] = [];
  readonly client: unknown;
  readonly #events: string[];

  constructor(events: string[]) {
    this.#events = events;
    this.client = new Proxy({}, {
      get: (_target, method) => {
        if (method === "then") return undefined; // it is no promise, though it is awaited
        return (request: unknown, options?: Partial<Interruptible>) =>
          this.#ask(String(method), request, ENDED.has(String(method)) ? undefined : options?.signal);
      },
    });
  }

  #ask(method: string, request: unknown, signal: AbortSignal | undefined): Promise<unknown> {
    this.asked.push(method);
    this.#events.push(method);
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const done = () => void this.calls.splice(this.calls.indexOf(call), 1);
    const call: Call = {
      method,
      request,
      signal,
      answer(response) {
        done();
        resolve(response);
        return quiet();
      },
      fail(error) {
        done();
        reject(error);
        return quiet();
      },
    };
    this.calls.push(call);
    signal?.addEventListener("abort", () => {
      if (this.calls.includes(call)) void call.fail(new FsError("EINTR", "the call was cancelled"));
    });
    return promise;
  }

  /** The oldest call that waits, which is one of `method`. */
  async next<Name extends keyof Methods & string>(
    method: Name,
  ): Promise<Call<RequestOf<Methods[Name]>, ResponseOf<Methods[Name]>>> {
    await quiet();
    const call = this.calls[0];
    assert.equal(call?.method, method, `the oldest call that waits is ${method}`);
    return call as Call<RequestOf<Methods[Name]>, ResponseOf<Methods[Name]>>;
  }

  async answer<Name extends keyof Methods & string>(
    method: Name,
    response: ResponseOf<Methods[Name]>,
  ): Promise<void> {
    await (await this.next(method)).answer(response);
  }
}

// ---- the session

export interface Told {
  readonly held: readonly Held[];
  readonly unused: readonly InodeId[];
}

/** Stands for a ClusterSession. */
export class FakeSession {
  isValid = true;
  inlineLimit = 0;
  deferred: DeferredChanges | undefined;
  lostChanges = 0;
  #nextInode = 100;
  /** There is no connection until it resolves. */
  connected: Promise<void> = Promise.resolve();
  readonly nameserver: Client<typeof NAMESERVER>;
  readonly #nameserver: FakeService<NameserverMethods>;
  /** Releases as they were told. */
  readonly told: Told[] = [];
  /** What becomes of a release; a test may make it wait or fail. */
  hear: (told: Told) => Promise<void> = () => Promise.resolve();
  readonly tags: RetryTag[] = [];
  readonly #waiting = new Set<() => void>();
  readonly #clock: FakeClock;
  #sequence = 0;

  constructor(nameserver: FakeService<NameserverMethods>, clock: FakeClock) {
    this.nameserver = nameserver.client as Client<typeof NAMESERVER>;
    this.#nameserver = nameserver;
    this.#clock = clock;
  }

  get validForMs(): number {
    return this.isValid ? 8_000 : 0;
  }

  async untilValid(interrupt?: Partial<Interruptible>): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    if (this.isValid) return;
    this.#waiting.add(resolve);
    interrupt?.signal?.addEventListener("abort", () => reject(new FsError("EINTR", "interrupted")));
    await promise;
  }

  /** Valid again, or another session is. */
  revive(): void {
    this.isValid = true;
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  /** Unlike a session's own, its calls do not wait for what is deferred. */
  settle(): Promise<void> | undefined {
    return this.deferred?.settle();
  }

  get isQuiet(): boolean {
    return this.#nameserver.calls.every(({ method }) => method === "defer");
  }

  async defer(changes: readonly DeferredChange[], onSend: () => void): Promise<DeferReply> {
    onSend();
    const retry = { slot: 127, sequence: ++this.#sequence };
    const reply: DeferReply = await this.nameserver.defer({ retry, changes });
    if (reply.isFull === true) this.isFull = true;
    return reply;
  }

  async reserveInodes(count: number): Promise<ReservedInodes> {
    const first = asInodeId(this.#nextInode);
    this.#nextInode += count;
    return await Promise.resolve({ first, count });
  }

  /** Blocks that it gives in advance. */
  readonly reservable: Block[] = [];

  async reserveBlocks({ count }: ReserveBlocksRequest): Promise<ReservedBlocksReply> {
    return await Promise.resolve({ blocks: this.reservable.splice(0, count) });
  }

  isFull = false;

  noteLostChange(): void {
    this.lostChanges++;
  }

  now(): Timespec {
    return this.#clock.now();
  }

  change<T>(send: (retry: RetryTag) => Promise<T>): Promise<T> {
    const tag = { slot: 20, sequence: ++this.#sequence };
    this.tags.push(tag);
    return send(tag);
  }

  async flushChange<T>(send: (retry: RetryTag) => Promise<T>): Promise<T> {
    return await send({ slot: 0, sequence: ++this.#sequence });
  }

  async commit(request: CommitRequest, onSend: () => void): Promise<InodeReply> {
    for (;;) {
      await this.connected;
      onSend();
      try {
        return await this.nameserver.commit(request);
      } catch (error) {
        if (!isTransportError(error)) throw error;
      }
    }
  }

  create(request: CreateRequest): Promise<CreateReply> {
    return this.nameserver.create(request);
  }

  release(held: readonly Held[], unused: readonly InodeId[]): Promise<void> {
    const told = { held, unused };
    this.told.push(told);
    return this.hear(told);
  }
}

// ---- the kernel

/** Takes notifications; those that `holds` says yes to return when the test lets them. */
export class FakeKernel {
  readonly messages: string[] = [];
  /** Whether the kernel knows an inode that it is told of. */
  knows: (ino: number) => boolean = () => true;
  holds: (message: string) => boolean = () => false;
  readonly held: { readonly message: string; readonly release: () => Promise<void> }[] = [];
  readonly #events: string[];

  constructor(events: string[]) {
    this.#events = events;
  }

  #take(message: string, result: boolean): Promise<boolean> {
    this.messages.push(message);
    this.#events.push(message);
    if (!this.holds(message)) return Promise.resolve(result);
    return new Promise((resolve) => {
      const release = () => {
        this.held.splice(this.held.findIndex((one) => one.release === release), 1);
        resolve(result);
        return quiet();
      };
      this.held.push({ message, release });
    });
  }

  invalidateInode(ino: number, offset: number, length: number): Promise<boolean> {
    const what = offset < 0 ? `attributes ${ino}` : `pages ${ino} ${offset}+${length === 0 ? "" : length}`;
    return this.#take(what, this.knows(ino));
  }

  invalidateEntry(parent: number, name: Uint8Array): Promise<boolean> {
    return this.#take(`entry ${parent}/${new TextDecoder().decode(name)}`, true);
  }

  incrementEpoch(): Promise<boolean> {
    return this.#take("epoch", true);
  }

  /** What came since the last time. */
  taken(): string[] {
    return this.messages.splice(0);
  }
}

// ---- dataservers

interface DataserverCall {
  readonly block: number;
  readonly offset: number;
  readonly length: number;
}

/** One dataserver that keeps nothing: writes wait if the test says so, reads give bytes of one value. */
export class FakeDataservers {
  readonly writes: DataserverCall[] = [];
  /** Of each of those: whether replicas may be made by it. */
  readonly creates: boolean[] = [];
  readonly reads: DataserverCall[] = [];
  readonly syncs: number[] = [];
  fill = 7;
  /** What becomes of a write; a test may make it wait or fail. */
  onWrite: () => Promise<void> = () => Promise.resolve();
  /** Told of each small write. */
  onGeneration: (generation: number) => void = () => {};
  onSync: (generation: number) => Promise<void> = () => Promise.resolve();
  /** What becomes of a read of a generation at an address: bytes of `fill`, unless the test says otherwise. */
  onRead: (address: string, generation: number, block: number) => Promise<void> = () => Promise.resolve();
  /** Bytes that a replica has. */
  replicaBytes = Infinity;
  /** Where a replica lies; a test may say. */
  onLocate: (address: string, request: ReplicaRequest) => Promise<LocateReplicaReply> = () =>
    Promise.resolve({ body: new Uint8Array(0) });
  onCopy: () => CopyRangeReply = () => ({ failed: [] });
  /** Its replicas are, as far as syncs tell. */
  isFinalized = false;
  /** Replicas further down the chain that fail. */
  onChain: () => ChainReply["failed"] = () => [];
  readonly #events: string[];

  constructor(events: string[]) {
    this.#events = events;
  }

  nearestFirst<T>(replicas: readonly T[]): readonly T[] {
    return replicas;
  }

  noteSlow(): void {}

  client(address: string): Promise<unknown> {
    const none = { failed: [] };
    return Promise.resolve({
      writeBlock: async ({ block, create, offset, body }: WriteBlockRequest) => {
        this.writes.push({ block, offset, length: body.length });
        this.creates.push(create);
        this.#events.push(`data ${block} ${offset}+${body.length}`);
        await this.onWrite();
        return { failed: this.onChain() };
      },
      writeRanges: async ({ block, create, generation, ranges, durable }: WriteRangesRequest) => {
        for (const [offset, length] of ranges) {
          this.writes.push({ block, offset, length });
          this.creates.push(create);
          this.#events.push(`data ${block} ${offset}+${length}`);
        }
        this.onGeneration(generation);
        await this.onWrite();
        if (durable) {
          this.syncs.push(block);
          this.#events.push(`sync ${block}`);
          await this.onSync(generation);
        }
        return { failed: this.onChain() };
      },
      syncBlock: async ({ block, generation, chain }: SyncBlockRequest) => {
        this.syncs.push(block);
        this.#events.push(`sync ${block}`);
        await this.onSync(generation);
        const failed = chain.length === 0 ? [] : this.onChain();
        return this.isFinalized ? { failed, isFinalized: true } : { failed };
      },
      truncateBlock: async ({ block, length }: { block: number; length: number }) => {
        this.#events.push(`cut ${block} to ${length}`);
        return none;
      },
      changeRange: async ({ block, change, offset, length }: ChangeRangeRequest) => {
        this.#events.push(`${change} ${block} ${offset}+${length}`);
        await this.onWrite();
        return none;
      },
      copyRange: async ({ block, offset, length, source }: CopyRangeRequest) => {
        this.#events.push(`copy ${source.block} ${source.offset}+${length} to ${block} ${offset}`);
        await this.onWrite();
        return this.onCopy();
      },
      seekBlock: async ({ offset, data }: SeekBlockRequest) => data ? { offset } : {},
      locateReplica: (request: ReplicaRequest) => this.onLocate(address, request),
      readBlock: async ({ block, generation, offset, length }: ReadBlockRequest) => {
        this.reads.push({ block, offset, length });
        const { fill } = this; // of when it was asked
        await this.onRead(address, generation, block);
        const end = Math.min(offset + length, this.replicaBytes);
        return { body: new Uint8Array(Math.max(0, end - offset)).fill(fill) };
      },
    });
  }
}

// ---- all of it

export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: LogFields;
}

export interface TestClient {
  readonly clock: FakeClock;
  readonly session: FakeSession;
  readonly nameserver: FakeService<NameserverMethods>;
  readonly kernel: FakeKernel;
  readonly dataservers: FakeDataservers;
  /** What was asked of nameserver, dataservers and kernel, in order. */
  readonly events: string[];
  readonly log: LogLine[];
  readonly table: InodeTable;
  readonly kernelCache: KernelCache;
  readonly access: DataAccess;
  readonly releases: Releases;
  readonly strays: Strays;
  readonly stock: BlockStock;
  readonly readAhead: NameReadAhead;
  readonly recalls: Recalls;
  readonly reader: Reader;
  readonly localReplicas: LocalReplicas;
  readonly fileAhead: FileReadAhead;
  readonly writer: Writer;
  readonly deferred: DeferredChanges;
  readonly names: Names;
  readonly files: Files;
  readonly accessTimes: AccessTimes;
  readonly ranges: Ranges;
}

/** Times of access are off unless a test asks for them: whatever is made here has one that is due. */
export function startClient(
  policy: AtimePolicy = "off",
  directories = true,
  writeBehind = false,
): TestClient {
  const clock = new FakeClock();
  const events: string[] = [];
  const lines: LogLine[] = [];
  const log = createLogger("client", {
    json: true,
    level: "debug",
    write(line) {
      const { level, message, ...fields } = JSON.parse(line);
      lines.push({ level, message, fields });
    },
  });
  const nameserver = new FakeService<NameserverMethods>(events);
  const fakeSession = new FakeSession(nameserver, clock);
  const session = fakeSession as unknown as ClusterSession;
  const fakeDataservers = new FakeDataservers(events);
  const dataservers = fakeDataservers as unknown as Dataservers;
  const kernel = new FakeKernel(events);
  const host = "here";

  const table = new InodeTable();
  const kernelCache = new KernelCache({ clock, log });
  kernelCache.attach(kernel);
  const deferred: DeferredChanges = new DeferredChanges({
    session,
    clock,
    log,
    onLost: (inodes) => recalls.changesLost(inodes),
  });
  fakeSession.deferred = deferred;
  const numbers = new InodeNumbers(session, log);
  const local = writeBehind ? new LocalChanges({ session, table, deferred, numbers, clock }) : undefined;
  const stock = new BlockStock({ session, host, clock, log });
  const strays = new Strays();
  const blocks = new Blocks({ session, dataservers, host, clock, log, deferred, stock, strays });
  const inline = new InlineData({ session, table, blocks });
  const localReplicas = new LocalReplicas({ dataservers, machine: MACHINE, clock, log });
  const fileAhead = new FileReadAhead({ session, table, dataservers, clock, log });
  const reader = new Reader({ inline, dataservers, localReplicas, fileAhead, blocks, clock, log });
  const attributesChanged = (inode: Inode) => void kernelCache.dropAttributes(inode);
  const writer = new Writer({ session, table, blocks, inline, local, clock, log, attributesChanged });
  const handOver = (file: OpenFile) => writer.handOver(file);
  const access = new DataAccess({ session, table, kernelCache, handOver, strays });
  const releases = new Releases({ session, table, log, strays, keepsExclusive: writeBehind });
  const recalls: Recalls = new Recalls({
    ...{ table, kernelCache, access, releases, clock, log, strays, deferred, local },
  });
  const readAhead = new NameReadAhead({ session, table, releases, fileAhead, clock, log });
  const tellAccesses = (): Promise<unknown> => accessTimes.tell();
  const asked = new AskedChanges({ table, kernelCache, clock, local });
  const names = new Names({
    ...{ session, table, kernelCache, asked, writer, clock, local, readAhead, tellAccesses },
  });
  const files = new Files({
    session,
    names,
    asked,
    table,
    kernelCache,
    access,
    releases,
    readAhead,
    blocks,
    reader,
    localReplicas,
    fileAhead,
    writer,
    clock,
    log,
    host,
    deferred,
    local,
  });
  const accessTimes = new AccessTimes({
    policy,
    directories,
    session,
    table,
    kernelCache,
    clock,
    log,
    local,
  });
  const ranges = new Ranges({
    ...{ session, dataservers, names, table, kernelCache, access, blocks, inline },
    ...{ reader, writer, files, clock, log },
  });
  return {
    clock,
    session: fakeSession,
    nameserver,
    kernel,
    dataservers: fakeDataservers,
    events,
    log: lines,
    table,
    kernelCache,
    access,
    releases,
    strays,
    stock,
    readAhead,
    recalls,
    reader,
    localReplicas,
    fileAhead,
    writer,
    deferred,
    names,
    files,
    accessTimes,
    ranges,
  };
}

/** The client has been told of an inode, and so has the kernel. */
export function know(
  { table }: TestClient,
  ino: InodeId,
  lease: LeaseMode = "read",
  changes: Partial<Attributes> = {},
): Inode {
  const inode = table.adopt(inodeReply(ino, lease, changes), table.moment);
  if (inode.lookups === 0) inode.lookups = 1;
  return inode;
}

export const READ_ONLY: OpenOptions = { write: false, truncate: false, killSuidGid: false };
export const WRITING: OpenOptions = { ...READ_ONLY, write: true };

/** A file that is open under a lease that allows what it is opened for, all of whose blocks are known. */
export async function opened(
  client: TestClient,
  options: OpenOptions,
  changes: Partial<Attributes> = {},
  more: Partial<AcquireReply> = {},
): Promise<Handle> {
  const { files, nameserver } = client;
  const opening = watch(Promise.resolve(files.open(INO, options, PATIENT)));
  for (await quiet(); opening.state === "waits"; await quiet()) {
    if (nameserver.calls[0]?.method === "getattr") {
      await nameserver.answer("getattr", inodeReply(INO, "none", changes));
    } else {
      const lease = options.write ? "write" : "read";
      await nameserver.answer("acquire", acquireReply(INO, lease, changes, more));
    }
  }
  const handle = await opening.promise;
  if (handle.file.inode.lookups === 0) handle.file.inode.lookups = 1;
  return handle;
}

/** The leaseserver takes something back; undefined while that goes on. */
export function recall(
  { recalls }: TestClient,
  item: Partial<RecallItem> & Pick<RecallItem, "keep">,
): Watched<RecallAnswer> {
  return watch(recalls.recall({ items: [{ ino: INO, ...item }] }));
}

export function accessOf(
  start: number,
  end: number,
  how: Partial<Omit<Access, "start" | "end">> = {},
): Access {
  return { start, end, isWrite: false, isPaged: true, isWriteback: false, ...how };
}

/** A promise, and what has become of it. */
export interface Watched<T> {
  readonly promise: Promise<T>;
  state: "waits" | "done" | "failed";
  value?: T;
  error?: unknown;
}

export function watch<T>(work: T | Promise<T>): Watched<T> {
  const promise = Promise.resolve(work);
  const watched: Watched<T> = { promise, state: "waits" };
  promise.then((value) => {
    watched.state = "done";
    watched.value = value;
  }, (error) => {
    watched.state = "failed";
    watched.error = error;
  });
  return watched;
}

/** An operation that is under way until the test ends it. */
export function gate(): { readonly opened: Promise<void>; open(): Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return {
    opened: promise,
    open() {
      resolve();
      return quiet();
    },
  };
}

/** Until nothing goes on that does not wait for the test; a recall takes a turn of the event loop by itself. */
export async function quiet(): Promise<void> {
  for (let turns = 0; turns < 3; turns++) await settle();
}

export function nameOf(text: string): Uint8Array {
  return bytesOf(text);
}
