/** Turns of the event loop, as who keeps the thread to itself sees them. */

import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { createLogger } from "../../../base/log.ts";
import * as libc from "../../../base/libc.ts";
import { EventLoopTurns } from "../../../fs/kernel/turns.ts";

const log = createLogger("turns", { json: false, level: "error", write: () => {} });

async function open(): Promise<EventLoopTurns> {
  const turns = await EventLoopTurns.open(log);
  assert.ok(turns !== null, "the runtime's epoll descriptor was found");
  return turns;
}

/** A descriptor that never has anything to read. */
function silence(): number {
  const fd = libc.open("/dev/ptmx", libc.O_RDWR);
  assert.ok(fd >= 0);
  return fd;
}

/** A full turn, and what it has begun. */
async function turned(turns: EventLoopTurns): Promise<void> {
  await turns.turn();
  await new Promise((resolve) => setImmediate(resolve));
}

function blockedMs(turns: EventLoopTurns, fd: number, timeoutMs: number): number {
  const startMs = performance.now();
  turns.block(fd, timeoutMs);
  return performance.now() - startMs;
}

Deno.test("turns: who waits is woken by the descriptor, or after the time-out", async () => {
  const turns = await open();
  const fd = silence();
  const readable = libc.open("/dev/zero", libc.O_RDONLY);
  try {
    await turns.turn();
    assert.equal(turns.block(readable, 1_000), true);
    const ms = blockedMs(turns, fd, 30);
    assert.ok(ms >= 29, `waited for ${ms} ms`);
    assert.equal(turns.block(fd, 0), false);
  } finally {
    libc.close(fd);
    libc.close(readable);
    turns.close();
  }
});

Deno.test("turns: a socket and a call in the pool wake who waits, and are served in the next turn", async () => {
  const turns = await open();
  const fd = silence();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const [sending, receiving] = await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port }),
    listener.accept(),
  ]);
  try {
    let received = 0;
    const reading = receiving.read(new Uint8Array(8)).then((count) => received = count ?? 0);
    await turns.turn();
    await sending.write(new Uint8Array(3));
    assert.ok(blockedMs(turns, fd, 5_000) < 4_000, "the socket has something");
    assert.equal(received, 0);
    await turned(turns);
    assert.equal(received, 3);
    await reading;

    let isDone = false;
    const call = libc.pollAsync(fd, libc.POLLIN, 20).then(() => isDone = true);
    await turns.turn();
    assert.ok(blockedMs(turns, fd, 5_000) < 4_000, "the call has ended");
    await turned(turns);
    assert.equal(isDone, true);
    await call;
  } finally {
    sending.close();
    receiving.close();
    libc.close(fd);
    turns.close();
  }
});
