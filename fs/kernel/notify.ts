/**
 * Notifications to the kernel: drop cached attributes, pages or names. Those that may wait for a lock which
 * the kernel holds until we answer something (INVAL_ENTRY, DELETE, INVAL_INODE with a range) are written only
 * by threads of the pool, a few at a time; the serving thread never writes one (fuse.md, trap 3).
 * What does not wait (attributes only, INC_EPOCH) is written here and now. Attributes share a semaphore with an unmount
 * that waits for a stuck notification; but while one is stuck an operation is in flight, and nothing can be unmounted.
 * A handler must not await a notification that concerns what it is serving.
 * Not cached (ENOENT) is success: the promises tell only whether the kernel had something to drop.
 */

import { assert } from "../../base/assert.ts";
import { bytesKey } from "../../base/bytes.ts";
import * as libc from "../../base/libc.ts";
import { ERRNO, FsError } from "../../wire/errno.ts";
import {
  NOTIFY_DELETE,
  NOTIFY_DELETE_OUT,
  NOTIFY_EXPIRE_ONLY,
  NOTIFY_INC_EPOCH,
  NOTIFY_INVAL_ENTRY,
  NOTIFY_INVAL_ENTRY_OUT,
  NOTIFY_INVAL_INODE,
  NOTIFY_INVAL_INODE_OUT,
  OUT_HEADER,
} from "./protocol.ts";
import { setU64 } from "./reply.ts";

export interface KernelNotifierOptions {
  readonly fd: number;
  /** Threads of the pool that may be waiting in the kernel, for names and for pages each. Default 8. */
  readonly concurrency?: number;
  /** Notifications of either kind that may wait for a thread; equal ones are joined. Default 65536. */
  readonly queueMax?: number;
}

interface Waiting {
  readonly key: string;
  readonly message: Uint8Array<ArrayBuffer>;
  readonly promise: Promise<boolean>;
  resolve(wasCached: boolean): void;
}

/**
 * Names wait for a directory's lock, pages for a page's: what holds up the one may wait for who waits for the other, so
 * neither takes the other's threads.
 */
interface Lane {
  /** In order of arrival; equal notifications that have not begun share one. */
  readonly queue: Map<string, Waiting>;
  running: number;
}

const BODY = OUT_HEADER.bytes;

/** The system calls that it needs, for tests. */
export interface NotifyDevice {
  write(fd: number, message: Uint8Array<ArrayBuffer>): number;
  writeAsync(fd: number, message: Uint8Array<ArrayBuffer>): Promise<number>;
}

export class KernelNotifier {
  readonly #fd: number;
  readonly #concurrency: number;
  readonly #queueMax: number;
  readonly #device: NotifyDevice;
  readonly #names: Lane = { queue: new Map(), running: 0 };
  readonly #pages: Lane = { queue: new Map(), running: 0 };
  readonly #lanes = [this.#names, this.#pages];
  #isClosed = false;
  #idle: PromiseWithResolvers<void> | null = null;

  constructor(options: KernelNotifierOptions, device: NotifyDevice = libc) {
    this.#fd = options.fd;
    this.#concurrency = options.concurrency ?? 8;
    this.#queueMax = options.queueMax ?? 65536;
    this.#device = device;
  }

  /** Notifications waiting or in the kernel. */
  get pendingCount(): number {
    return this.#lanes.reduce((sum, { queue, running }) => sum + queue.size + running, 0);
  }

  /**
   * Drops attributes and the pages of `length` bytes from `offset`; `length` 0 or less: to the end; `offset`
   * below 0: attributes only, which never waits for a page.
   */
  invalidateInode(nodeid: number, offset: number, length: number): Promise<boolean> {
    const message = newMessage(NOTIFY_INVAL_INODE, NOTIFY_INVAL_INODE_OUT.bytes);
    const view = new DataView(message.buffer);
    setU64(view, BODY + NOTIFY_INVAL_INODE_OUT.ino, nodeid);
    setU64(view, BODY + NOTIFY_INVAL_INODE_OUT.off, offset);
    setU64(view, BODY + NOTIFY_INVAL_INODE_OUT.len, length);
    if (offset < 0) return this.#sendLockless(message);
    return this.#enqueue(this.#pages, message, `i${nodeid}:${offset}:${length}`);
  }

  /** Drops a name of a directory, present or absent; waits while an operation in the directory is in flight. */
  invalidateEntry(
    parent: number,
    name: Uint8Array,
    options: { readonly expireOnly?: boolean } = {},
  ): Promise<boolean> {
    const E = NOTIFY_INVAL_ENTRY_OUT;
    const message = newMessage(NOTIFY_INVAL_ENTRY, E.bytes + name.length + 1);
    const view = new DataView(message.buffer);
    setU64(view, BODY + E.parent, parent);
    view.setUint32(BODY + E.namelen, name.length, true);
    view.setUint32(BODY + E.flags, options.expireOnly ? NOTIFY_EXPIRE_ONLY : 0, true);
    message.set(name, BODY + E.bytes);
    return this.#enqueue(
      this.#names,
      message,
      `${options.expireOnly ? "x" : "e"}${parent}:${bytesKey(name)}`,
    );
  }

  /** As invalidateEntry for a name that was removed elsewhere; watchers see an unlink. */
  deleteEntry(parent: number, child: number, name: Uint8Array): Promise<boolean> {
    const D = NOTIFY_DELETE_OUT;
    const message = newMessage(NOTIFY_DELETE, D.bytes + name.length + 1);
    const view = new DataView(message.buffer);
    setU64(view, BODY + D.parent, parent);
    setU64(view, BODY + D.child, child);
    view.setUint32(BODY + D.namelen, name.length, true);
    message.set(name, BODY + D.bytes);
    return this.#enqueue(this.#names, message, `d${parent}:${child}:${bytesKey(name)}`);
  }

  /**
   * Makes every cached name of the mount stale at once, without waiting for a lock. False where the kernel is
   * older than Linux 6.16 (`features.hasIncrementEpoch`).
   */
  incrementEpoch(): Promise<boolean> {
    return this.#sendLockless(newMessage(NOTIFY_INC_EPOCH, 0));
  }

  /**
   * Before unmount: forgets what waits (the promises resolve false), accepts nothing more, and resolves when none is in
   * the kernel any more. One that is stuck there returns when its operation is answered or the connection aborted.
   */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const { queue } of this.#lanes) {
      for (const waiting of queue.values()) waiting.resolve(false);
      queue.clear();
    }
    if (this.pendingCount === 0) return;
    this.#idle ??= Promise.withResolvers();
    await this.#idle.promise;
  }

  #sendLockless(message: Uint8Array<ArrayBuffer>): Promise<boolean> {
    if (this.#isClosed) return Promise.resolve(false);
    return Promise.resolve(this.#device.write(this.#fd, message) >= 0);
  }

  #enqueue(lane: Lane, message: Uint8Array<ArrayBuffer>, key: string): Promise<boolean> {
    if (this.#isClosed) return Promise.resolve(false);
    const equal = lane.queue.get(key);
    if (equal !== undefined) return equal.promise;
    if (lane.queue.size >= this.#queueMax) {
      return Promise.reject(
        new FsError("EAGAIN", `${this.#queueMax} notifications wait for the kernel already`, {
          op: "notify",
        }),
      );
    }
    const { promise, resolve } = Promise.withResolvers<boolean>();
    lane.queue.set(key, { key, message, promise, resolve });
    this.#startMore(lane);
    return promise;
  }

  #startMore(lane: Lane): void {
    for (const waiting of lane.queue.values()) {
      if (lane.running >= this.#concurrency) return;
      // Once begun it may have passed the point where a later change matters: an equal one must queue again.
      lane.queue.delete(waiting.key);
      lane.running++;
      void this.#send(lane, waiting);
    }
  }

  async #send(lane: Lane, waiting: Waiting): Promise<void> {
    let result: number = -ERRNO.EIO;
    try {
      result = await this.#device.writeAsync(this.#fd, waiting.message);
    } finally {
      lane.running--;
      assert(lane.running >= 0, "as many notifications end as begin");
      waiting.resolve(result >= 0);
      this.#startMore(lane);
      if (this.pendingCount === 0) this.#idle?.resolve();
    }
  }
}

/** A notification is a reply header with unique 0 and the code in place of the error. */
function newMessage(code: number, bodyBytes: number): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(OUT_HEADER.bytes + bodyBytes);
  const view = new DataView(message.buffer);
  view.setUint32(OUT_HEADER.len, message.length, true);
  view.setInt32(OUT_HEADER.error, code, true);
  return message;
}
