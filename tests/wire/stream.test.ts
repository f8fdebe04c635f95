import assert from "node:assert/strict";
import { EMPTY_BYTES } from "../../base/bytes.ts";
import { randomBytes, randomInt } from "../../base/random.ts";
import { KIND_REQUEST } from "../../wire/frame.ts";
import { FrameStream, type Socket } from "../../wire/stream.ts";
import { chance, seededTest } from "../base/seeded.ts";
import { within } from "./channel_contract.ts";

/** Two sockets joined in memory that take and give as many bytes at a time as `size` says. */
function socketPair(size: () => number): [Socket, Socket] {
  const line = () => ({ chunks: [] as Uint8Array[], wake: () => {}, closed: false });
  const lines = [line(), line()] as const;
  const end = (read: typeof lines[0], write: typeof lines[0]): Socket => ({
    read: async (buffer) => {
      while (read.chunks.length === 0) {
        if (read.closed) return null;
        await new Promise<void>((resolve) => read.wake = resolve);
      }
      const chunk = read.chunks[0]!;
      const count = Math.min(chunk.length, buffer.length, size());
      buffer.set(chunk.subarray(0, count));
      if (count === chunk.length) read.chunks.shift();
      else read.chunks[0] = chunk.subarray(count);
      return count;
    },
    write: async (bytes) => {
      await Promise.resolve();
      if (write.closed) throw new Error("broken pipe");
      const count = Math.min(bytes.length, size());
      write.chunks.push(bytes.slice(0, count));
      write.wake();
      return count;
    },
    close: () => {
      for (const line of lines) {
        line.closed = true;
        line.wake();
      }
    },
  });
  return [end(lines[0], lines[1]), end(lines[1], lines[0])];
}

seededTest(
  "stream: frames arrive whole and in order over a socket that takes a little at a time, and then their memory is free",
  async (random) => {
    const [a, b] = socketPair(() => 1 + randomInt(random, chance(random, 0.5) ? 20 : 50_000));
    const sender = new FrameStream(a);
    const receiver = new FrameStream(b);
    const sent: { head: Uint8Array; body: Uint8Array }[] = [];
    const all = Promise.withResolvers<void>();
    let received = 0;
    let freed = 0;
    const running = receiver.run(({ requestId, head, body }) => {
      assert.equal(requestId, received);
      assert.deepEqual(new Uint8Array(head), sent[received]!.head);
      assert.deepEqual(body, sent[received]!.body);
      if (++received === 200) all.resolve();
      // Sometimes the receiver takes its time.
      return chance(random, 0.1) ? new Promise((resolve) => setTimeout(resolve, 1)) : undefined;
    });
    for (let i = 0; i < 200; i++) {
      const head = randomBytes(random, randomInt(random, 200));
      const body = chance(random, 0.3) ? EMPTY_BYTES : randomBytes(random, randomInt(random, 3_000));
      sent.push({ head, body: body.slice() });
      sender.send(KIND_REQUEST, 1, i, head, body, () => {
        freed++;
        body.fill(0xee);
      });
      if (chance(random, 0.2)) await Promise.resolve();
    }
    await within(
      Promise.race([all.promise, receiver.closed.then((why) => Promise.reject(new Error(why)))]),
      "all",
      10_000,
    );
    assert.equal(freed, sent.filter(({ body }) => body.length > 0).length);
    sender.close("done");
    await running;
  },
);

Deno.test("stream: the reason of an end is told once, and nothing is sent after it", async () => {
  const [a, b] = socketPair(() => 1_000);
  const one = new FrameStream(a);
  const other = new FrameStream(b);
  const frames: number[] = [];
  const running = other.run(({ requestId }) => void frames.push(requestId));
  one.send(KIND_REQUEST, 1, 1, EMPTY_BYTES, EMPTY_BYTES);
  await new Promise((resolve) => setTimeout(resolve, 5));
  one.close("first");
  one.close("second");
  one.send(KIND_REQUEST, 1, 2, EMPTY_BYTES, EMPTY_BYTES);
  assert.equal(await one.closed, "first");
  await running;
  assert.equal(await other.closed, "closed by the peer");
  assert.deepEqual(frames, [1]);
});

Deno.test("stream: whoever waits for room is woken by the end of the stream", async () => {
  const stuck: Socket = {
    read: () => new Promise(() => {}),
    write: () => new Promise(() => {}),
    close: () => {},
  };
  const stream = new FrameStream(stuck);
  for (let i = 0; i < 3; i++) stream.send(KIND_REQUEST, 1, i, EMPTY_BYTES, new Uint8Array(4 << 20));
  const waiting = stream.uncongested();
  stream.close("over");
  await within(waiting, "woken");
});
