import assert from "node:assert/strict";
import { copyBytes, EMPTY_BYTES } from "../../base/bytes.ts";
import { type Random, randomBytes, randomInt } from "../../base/random.ts";
import {
  attachBody,
  bodyOf,
  encodeWithoutBody,
  HeadDecoder,
  HeadEncoder,
  storedCodec,
} from "../../wire/codec.ts";
import { chance, pick, seededTest } from "../base/seeded.ts";
import { MESSAGES, SERVICES } from "./samples.ts";

/** Decoded byte strings are Buffers; what is compared is their bytes. */
function normal(value: unknown): unknown {
  if (value instanceof Uint8Array) return copyBytes(value);
  if (Array.isArray(value)) return value.map(normal);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, normal(field)]));
  }
  return value;
}

function randomValue(random: Random, depth: number): unknown {
  switch (randomInt(random, depth > 0 ? 11 : 8)) {
    case 0:
      return randomInt(random, 2 ** 32) * (chance(random, 0.5) ? 1 : -1) | 0;
    case 1:
      return Math.floor(random.next() * Number.MAX_SAFE_INTEGER);
    case 2:
      return random.next();
    case 3:
      return pick(random, ["", "text", "\u00e9\u{1f600}\0", "x".repeat(300)]);
    case 4:
      return randomBytes(random, pick(random, [0, 1, 23, 24, 255, 256, 5000]));
    case 5:
      return chance(random, 0.5);
    case 6:
      return null;
    case 7:
      return pick(random, [
        2 ** 31,
        2 ** 32 - 1,
        2 ** 32,
        Number.MAX_SAFE_INTEGER,
        -(2 ** 33),
        NaN,
        Infinity,
      ]);
    case 8:
      return Array.from({ length: randomInt(random, 6) }, () => randomValue(random, depth - 1));
    default:
      return randomRecord(random, depth - 1);
  }
}

function randomRecord(random: Random, depth: number): Record<string, unknown> {
  const record: Record<string, unknown> = {};
  for (let i = randomInt(random, 9); i > 0; i--) {
    record[`f${randomInt(random, 40)}`] = randomValue(random, depth);
  }
  return record;
}

seededTest("codec: thousands of messages of many shapes pass one pair in sequence", (random) => {
  const encoder = new HeadEncoder();
  const decoder = new HeadDecoder();
  const recent: unknown[] = [];
  for (let i = 0; i < 4_000; i++) {
    // Some shapes come again and again, some once.
    const message = chance(random, 0.4) && recent.length > 0 ? pick(random, recent) : randomRecord(random, 3);
    recent[randomInt(random, 30)] = message;
    const kept = pick(random, recent) ?? message;
    for (const value of [message, kept]) {
      assert.deepEqual(normal(decoder.decode(encoder.encode(value))), normal(value));
    }
  }
});

Deno.test("codec: there is a sample of every method of every service", () => {
  for (const [service, samples] of SERVICES) {
    assert.deepEqual(Object.keys(samples).sort(), Object.keys(service.methods).sort(), service.name);
  }
});

Deno.test("codec: op numbers of services that share a connection differ", () => {
  const ops = SERVICES.flatMap(([service]) => Object.values(service.methods).map(({ op }) => op));
  assert.equal(new Set(ops).size, ops.length);
  assert.ok(ops.every((op) => op > 0 && op < 65536));
});

Deno.test("codec: every message arrives as it was sent, its body raw beside the head", () => {
  const encoder = new HeadEncoder();
  const decoder = new HeadDecoder();
  for (let round = 0; round < 3; round++) {
    for (const [name, message] of MESSAGES) {
      const before = normal(message);
      const body = bodyOf(message);
      const head = encodeWithoutBody(encoder, message);
      assert.deepEqual(normal(message), before, `${name}: the sender's message is as it was`);
      assert.ok(body.length === 0 || head.length < body.length, `${name}: the body is not in the head`);
      assert.deepEqual(normal(attachBody(decoder.decode(head), body)), before, name);
    }
  }
});

Deno.test("codec: a record encodes shorter from its second time on", () => {
  const encoder = new HeadEncoder();
  const [, message] = MESSAGES.find(([name]) => name === "nameserver.getattr response")!;
  const first = encoder.encode(message).length;
  assert.ok(encoder.encode(message).length < first);
});

Deno.test("codec: an unfinished body is given back to its message when encoding fails", () => {
  const message = { body: new Uint8Array(3), bad: () => {} };
  assert.throws(() => encodeWithoutBody(new HeadEncoder(), message));
  assert.equal(message.body.length, 3);
});

Deno.test("codec: a message that can't be encoded spoils none after it", () => {
  const encoder = new HeadEncoder();
  const decoder = new HeadDecoder();
  assert.throws(() => encoder.encode({ a: 1, bad: () => {} }));
  for (const message of [{ a: 1, b: 2 }, { a: 1, bad: 3 }, { c: [{ a: 1, bad: 4 }] }]) {
    assert.deepEqual(decoder.decode(encoder.encode(message)), message);
  }
});

Deno.test("codec: messages without a body, or without anything, stay what they are", () => {
  const decoder = new HeadDecoder();
  const encoder = new HeadEncoder();
  assert.equal(decoder.decode(encodeWithoutBody(encoder, undefined)), null);
  assert.equal(decoder.decode(encodeWithoutBody(encoder, null)), null);
  assert.equal(bodyOf(undefined), EMPTY_BYTES);
  assert.equal(bodyOf({ a: 1 }), EMPTY_BYTES);
  assert.deepEqual(attachBody({ a: 1 }, new Uint8Array(1)), { a: 1 });
  assert.equal(attachBody(5, new Uint8Array(1)), 5);
  assert.deepEqual(attachBody(decoder.decode(encoder.encode({ body: null })), EMPTY_BYTES), {
    body: EMPTY_BYTES,
  });
});

Deno.test("codec: decoded bytes do not look into the buffer they came in", () => {
  const head = copyBytes(new HeadEncoder().encode({ name: new Uint8Array([1, 2, 3]) }));
  const message = new HeadDecoder().decode(head) as { name: Uint8Array };
  head.fill(0xee);
  assert.deepEqual([...message.name], [1, 2, 3]);
});

/** Decodes what may be anything: throws an Error or gives a value, and takes little time. */
function survive(decoder: { decode(bytes: Uint8Array): unknown }, bytes: Uint8Array, what: string): void {
  const startMs = performance.now();
  try {
    decoder.decode(bytes);
  } catch (error) {
    assert.ok(error instanceof Error, what);
  }
  assert.ok(performance.now() - startMs < 1_000, `${what} takes long`);
}

Deno.test("codec: every truncation of every message throws or decodes", () => {
  for (const [name, message] of MESSAGES) {
    const head = copyBytes(encodeWithoutBody(new HeadEncoder(), message));
    for (let length = 0; length < head.length; length++) {
      survive(new HeadDecoder(), head.subarray(0, length), `${name} cut at ${length}`);
    }
  }
});

Deno.test("codec: every truncation of a stored value throws or decodes", () => {
  for (const [name, message] of MESSAGES) {
    const bytes = copyBytes(storedCodec.encode(message));
    assert.deepEqual(normal(storedCodec.decode(bytes)), normal(message), name);
    for (let length = 0; length < bytes.length; length += 3) {
      survive(storedCodec, bytes.subarray(0, length), `${name} cut at ${length}`);
    }
  }
});

seededTest("codec: random bytes and spoilt messages throw or decode", (random) => {
  for (let round = 0; round < 6_000; round++) {
    const [name, message] = pick(random, MESSAGES);
    const bytes = chance(random, 0.4)
      ? randomBytes(random, randomInt(random, 60))
      : copyBytes(encodeWithoutBody(new HeadEncoder(), message));
    for (let i = randomInt(random, 5); i > 0 && bytes.length > 0; i--) {
      bytes[randomInt(random, bytes.length)] = randomInt(random, 256);
    }
    survive(new HeadDecoder(), bytes, `${name} in round ${round}`);
  }
});

Deno.test("codec: lengths that promise more than there is, and deep nesting, are refused", () => {
  const hostile: Readonly<Record<string, Uint8Array>> = {
    "array of 2^26": new Uint8Array([0x9a, 0x04, 0, 0, 0]),
    "array of 2^31": new Uint8Array([0x9a, 0x7f, 0xff, 0xff, 0xff]),
    "map of 2^31": new Uint8Array([0xba, 0x7f, 0xff, 0xff, 0xff]),
    "text of 2^31": new Uint8Array([0x7a, 0x7f, 0xff, 0xff, 0xff]),
    "bytes of 2^31": new Uint8Array([0x5a, 0x7f, 0xff, 0xff, 0xff]),
    "bytes of 2^63": new Uint8Array([0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    "a million arrays": new Uint8Array(1_000_000).fill(0x81),
    "a million open arrays": new Uint8Array(1_000_000).fill(0x9f),
    "a million tags": new Uint8Array(1_000_000).fill(0xc1),
  };
  for (const [name, bytes] of Object.entries(hostile)) {
    assert.throws(() => new HeadDecoder().decode(bytes), Error, name);
  }
});
