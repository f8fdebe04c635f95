/** The notifier over a device in memory: bytes, order, bounds. The kernel's side is in mount_test.ts. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { KernelNotifier } from "../../../fs/kernel/notify.ts";
import { ERRNO } from "../../../wire/errno.ts";

class FakeDevice {
  readonly messages: Uint8Array[] = [];
  readonly syncMessages: Uint8Array[] = [];
  readonly finish: ((result: number) => void)[] = [];
  syncResult = 40;

  write(_fd: number, message: Uint8Array<ArrayBuffer>): number {
    this.syncMessages.push(message);
    return this.syncResult;
  }

  writeAsync(_fd: number, message: Uint8Array<ArrayBuffer>): Promise<number> {
    this.messages.push(message);
    return new Promise((resolve) => this.finish.push(resolve));
  }
}

function hex(bytes: Uint8Array | undefined): string {
  return Array.from(bytes ?? [], (byte) => byte.toString(16).padStart(2, "0")).join("");
}

Deno.test("notifier: messages have the kernel's layout", async () => {
  const device = new FakeDevice();
  const notifier = new KernelNotifier({ fd: 3, concurrency: 9 }, device);
  void notifier.invalidateInode(5, -1, 0);
  void notifier.incrementEpoch();
  void notifier.invalidateInode(5, 4096, 10);
  void notifier.invalidateEntry(1, bytesOf("ab"));
  void notifier.deleteEntry(1, 5, bytesOf("ab"));
  assert.equal(
    hex(device.syncMessages[0]),
    "28000000020000000000000000000000" + "0500000000000000ffffffffffffffff0000000000000000",
  );
  assert.equal(hex(device.syncMessages[1]), "10000000080000000000000000000000");
  assert.equal(
    hex(device.messages[0]),
    "28000000020000000000000000000000" + "050000000000000000100000000000000a00000000000000",
  );
  assert.equal(
    hex(device.messages[1]),
    "23000000030000000000000000000000" + "01000000000000000200000000000000616200",
  );
  assert.equal(
    hex(device.messages[2]),
    "2b000000060000000000000000000000" + "010000000000000005000000000000000200000000000000616200",
  );
  for (const finish of device.finish) finish(1);
  await notifier.close();
});

Deno.test("notifier: only so many are in the kernel, equal ones that wait are joined, the queue is bounded", async () => {
  const device = new FakeDevice();
  const notifier = new KernelNotifier({ fd: 3, concurrency: 2, queueMax: 2 }, device);
  const results: boolean[] = [];
  const send = (nodeid: number) => {
    const promise = notifier.invalidateInode(nodeid, 0, 0);
    void promise.then((result) => results.push(result), () => {});
    return promise;
  };
  send(1);
  send(2);
  send(3);
  send(4);
  send(3); // joined with the one that waits
  send(1); // not joined: the first has begun... and the queue is full
  assert.equal(device.messages.length, 2);
  assert.equal(notifier.pendingCount, 4);
  await assert.rejects(send(5), /2 notifications wait/);
  device.finish[0]!(40);
  device.finish[1]!(-ERRNO.EIO); // not cached, as far as we can tell: no error
  await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(results, [true, false]);
  assert.equal(device.messages.length, 4);
  device.finish[2]!(40);
  device.finish[3]!(40);
  await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(results, [true, false, true, true, true]);
  assert.equal(notifier.pendingCount, 0);
});

Deno.test("notifier: what never waits is written at once, whatever is in the kernel or waits to be", async () => {
  const device = new FakeDevice();
  const notifier = new KernelNotifier({ fd: 3, concurrency: 1, queueMax: 1 }, device);
  void notifier.invalidateInode(1, 0, 0);
  void notifier.invalidateEntry(1, bytesOf("ab"));
  assert.equal(notifier.pendingCount, 2, "one is in the kernel, and the queue is full");
  assert.equal(await notifier.invalidateInode(2, -1, 0), true);
  assert.equal(await notifier.incrementEpoch(), true);
  assert.deepEqual(device.syncMessages.map((message) => message[4]), [2, 8]);
  device.syncResult = -ERRNO.ENOENT;
  assert.equal(await notifier.invalidateInode(3, -1, 0), false, "not in the kernel");
  device.finish[0]!(40);
  await new Promise((resolve) => setTimeout(resolve, 1));
  device.finish[1]!(40);
  await notifier.close();
});

Deno.test("notifier: close forgets what waits, ends with what is in the kernel, and takes nothing more", async () => {
  const device = new FakeDevice();
  const notifier = new KernelNotifier({ fd: 3, concurrency: 1 }, device);
  const first = notifier.invalidateInode(1, 0, 0);
  const second = notifier.invalidateInode(2, 0, 0);
  let isClosed = false;
  const closed = notifier.close().then(() => isClosed = true);
  assert.equal(await second, false);
  assert.equal(isClosed, false);
  device.finish[0]!(40);
  assert.equal(await first, true);
  await closed;
  assert.equal(await notifier.incrementEpoch(), false);
  assert.equal(await notifier.invalidateInode(1, -1, 0), false);
  assert.equal(await notifier.invalidateInode(1, 0, 0), false);
  assert.deepEqual([device.messages.length, device.syncMessages.length], [1, 0]);
});

Deno.test("notifier: names that wait for their directory hold up no pages", async () => {
  const device = new FakeDevice();
  const notifier = new KernelNotifier({ fd: 3 }, device);
  // One operation in flight in the directory is enough to hold up all of them.
  for (let i = 0; i < 100; i++) void notifier.invalidateEntry(1, bytesOf(`name${i}`));
  void notifier.invalidateInode(5, 0, 0);
  const isPages = (message: Uint8Array) => message[4] === 2;
  assert.ok(device.messages.some(isPages), "the operation may wait for who waits for these pages");
  while (device.finish.length > 0) {
    for (const finish of device.finish.splice(0)) finish(1);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await notifier.close();
});
