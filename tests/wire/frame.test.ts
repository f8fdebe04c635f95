import assert from "node:assert/strict";
import { concatBytes, copyBytes, EMPTY_BYTES } from "../../base/bytes.ts";
import { type Random, randomBytes, randomInt } from "../../base/random.ts";
import {
  encodeFrame,
  type Frame,
  FRAME_BYTES_MAX,
  FRAME_HEADER_BYTES,
  FrameError,
  FrameReader,
  KIND_CANCEL,
  KIND_REQUEST,
  KIND_RESPONSE,
} from "../../wire/frame.ts";
import { chance, seededTest } from "../base/seeded.ts";

function wholeFrame(kind: number, op: number, id: number, head: Uint8Array, body: Uint8Array): Uint8Array {
  return concatBytes([encodeFrame(kind, op, id, head, body.length), body]);
}

/** Gives bytes to a reader in pieces of the sizes that `size` says; returns what frames came out, copied. */
function feed(reader: FrameReader, bytes: Uint8Array, size: () => number): Frame[] {
  const frames: Frame[] = [];
  for (let at = 0; at < bytes.length;) {
    const target = reader.target();
    assert.ok(target.length > 0, "the reader offers room");
    const count = Math.min(size(), target.length, bytes.length - at);
    target.set(bytes.subarray(at, at + count));
    reader.advance(count);
    at += count;
    for (let frame = reader.next(); frame !== null; frame = reader.next()) {
      frames.push({ ...plain(frame), head: copyBytes(frame.head) });
    }
  }
  return frames;
}

function plain({ kind, op, requestId, head, body }: Frame): Frame {
  return { kind, op, requestId, head, body };
}

function randomFrame(random: Random, lengthMax: number): Frame {
  return {
    kind: 1 + randomInt(random, KIND_CANCEL),
    op: randomInt(random, 65536),
    requestId: randomInt(random, 2 ** 32),
    head: chance(random, 0.1) ? EMPTY_BYTES : randomBytes(random, randomInt(random, lengthMax)),
    body: chance(random, 0.3) ? EMPTY_BYTES : randomBytes(random, randomInt(random, lengthMax)),
  };
}

const bytesOfFrame = ({ kind, op, requestId, head, body }: Frame) =>
  wholeFrame(kind, op, requestId, head, body);

seededTest("frame: a stream split at every byte gives the same frames", (random) => {
  const frames = [randomFrame(random, 30), randomFrame(random, 5), randomFrame(random, 60)];
  const bytes = concatBytes(frames.map(bytesOfFrame));
  for (const bufferBytes of [32, 64, 256]) {
    for (let split = 0; split <= bytes.length; split++) {
      const reader = new FrameReader(bufferBytes);
      const got = feed(reader, bytes.subarray(0, split), () => Infinity);
      got.push(...feed(reader, bytes.subarray(split), () => Infinity));
      assert.deepEqual(got, frames);
      assert.ok(reader.atBoundary);
    }
    assert.deepEqual(feed(new FrameReader(bufferBytes), bytes, () => 1), frames);
  }
});

seededTest("frame: small and large frames in pieces of any size come out whole and in order", (random) => {
  for (let round = 0; round < 60; round++) {
    const frames = Array.from({ length: 12 }, () => randomFrame(random, chance(random, 0.3) ? 30_000 : 100));
    const reader = new FrameReader(chance(random, 0.5) ? 512 : undefined);
    const got = feed(reader, concatBytes(frames.map(bytesOfFrame)), () => 1 + randomInt(random, 9_000));
    assert.deepEqual(got, frames);
    assert.ok(reader.atBoundary);
  }
});

Deno.test("frame: the largest frame passes, one byte more is refused when made", () => {
  const body = new Uint8Array(FRAME_BYTES_MAX - FRAME_HEADER_BYTES - 3).fill(7);
  const head = new Uint8Array([1, 2, 3]);
  const [frame] = feed(new FrameReader(), wholeFrame(KIND_REQUEST, 1, 2, head, body), () => 1 << 20);
  assert.deepEqual(frame!.head, head);
  assert.equal(frame!.body.length, body.length);
  assert.ok(frame!.body.every((byte) => byte === 7));
  assert.throws(() => encodeFrame(KIND_REQUEST, 1, 2, head, body.length + 1), FrameError);
});

seededTest("frame: every truncation gives null, says so at the end, and never throws", (random) => {
  for (const size of [40, 900]) {
    const bytes = bytesOfFrame({ ...randomFrame(random, size), head: randomBytes(random, size) });
    for (let length = 0; length < bytes.length; length++) {
      const reader = new FrameReader(512);
      assert.deepEqual(feed(reader, bytes.subarray(0, length), () => Infinity), []);
      assert.equal(reader.next(), null);
      assert.equal(reader.atBoundary, length === 0);
    }
  }
});

Deno.test("frame: a bad header throws FrameError as soon as it is there, before its frame comes", () => {
  const bad: [string, (view: DataView) => void][] = [
    ["version 0", (view) => view.setUint8(4, 0)],
    ["version 2", (view) => view.setUint8(4, 2)],
    ["kind 0", (view) => view.setUint8(5, 0)],
    ["kind 7", (view) => view.setUint8(5, KIND_CANCEL + 1)],
    ["kind 255", (view) => view.setUint8(5, 255)],
    ["length 0", (view) => view.setUint32(0, 0, true)],
    ["length below the header's", (view) => view.setUint32(0, FRAME_HEADER_BYTES - 1, true)],
    ["length over the limit", (view) => view.setUint32(0, FRAME_BYTES_MAX + 1, true)],
    ["length 2^32-1", (view) => view.setUint32(0, 0xffffffff, true)],
    ["head longer than the frame", (view) => view.setUint32(12, 9, true)],
    ["head of 2^32-1", (view) => view.setUint32(12, 0xffffffff, true)],
  ];
  for (const [what, spoil] of bad) {
    const header = copyBytes(encodeFrame(KIND_RESPONSE, 1, 1, new Uint8Array(8), 0)).subarray(0, 16);
    spoil(new DataView(header.buffer));
    const before = Deno.memoryUsage().external;
    assert.throws(() => feed(new FrameReader(), header, () => Infinity), FrameError, what);
    assert.ok(Deno.memoryUsage().external - before < 1 << 20, `${what}: no memory for the frame`);
  }
});

Deno.test("frame: the body belongs to the taker, whatever comes next on the stream", () => {
  const reader = new FrameReader(256);
  const first = feed(
    reader,
    wholeFrame(KIND_REQUEST, 1, 1, EMPTY_BYTES, new Uint8Array(20).fill(1)),
    () => 99,
  );
  feed(reader, wholeFrame(KIND_REQUEST, 1, 2, EMPTY_BYTES, new Uint8Array(20).fill(2)), () => 99);
  assert.deepEqual(first[0]!.body, new Uint8Array(20).fill(1));
});

seededTest("frame: random bytes and spoilt frames give frames, null or FrameError", (random) => {
  for (let round = 0; round < 3_000; round++) {
    let bytes = randomBytes(random, randomInt(random, 200));
    if (chance(random, 0.7)) {
      bytes = copyBytes(concatBytes([bytesOfFrame(randomFrame(random, 40)), bytes]));
      for (let i = randomInt(random, 4); i > 0; i--) {
        bytes[randomInt(random, Math.min(bytes.length, 20))] = randomInt(random, 256);
      }
    }
    try {
      feed(new FrameReader(128), bytes, () => 1 + randomInt(random, 50));
    } catch (error) {
      assert.ok(error instanceof FrameError, String(error));
    }
  }
});
