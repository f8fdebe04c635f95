import assert from "node:assert/strict";
import { bytesOf, concatBytes, copyBytes, EMPTY_BYTES } from "../../base/bytes.ts";
import { createLogger } from "../../base/log.ts";
import { randomBytes } from "../../base/random.ts";
import { connect, type Connection, parseAddress } from "../../wire/client.ts";
import { HeadDecoder, HeadEncoder } from "../../wire/codec.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import {
  encodeFrame,
  type Frame,
  FRAME_BYTES_MAX,
  FrameReader,
  KIND_CANCEL,
  KIND_ERROR,
  KIND_PUSH,
  KIND_PUSH_ACK,
  KIND_REQUEST,
  KIND_RESPONSE,
} from "../../wire/frame.ts";
import { HELLO_OP, HELLO_TIMEOUT_MS, helloOf } from "../../wire/hello.ts";
import { serve } from "../../wire/server.ts";
import type { CallContext } from "../../wire/service.ts";
import { seededTest } from "../base/seeded.ts";
import { until, within } from "./channel_contract.ts";

type Handler = (request: unknown, context: CallContext) => unknown;
const ECHO = 1;
const BIG = 2;
const WAIT = 3;
const HUGE = 4;

function start() {
  const lines: string[] = [];
  const counts = { big: 0, waiting: 0 };
  const released = Promise.withResolvers<void>();
  const handlers = new Map<number, Handler>([
    [ECHO, (request) => request],
    [BIG, () => {
      counts.big++;
      return { body: new Uint8Array(1 << 20) };
    }],
    [WAIT, async () => {
      counts.waiting++;
      await released.promise;
      return {};
    }],
    [HUGE, () => ({ fresh: { shape: 1 }, body: new Uint8Array(FRAME_BYTES_MAX) })],
  ]);
  const server = serve("127.0.0.1:0", {
    role: "nameserver",
    clusterId: () => "home",
    handlers,
    log: createLogger("test", { write: (line) => lines.push(line) }),
  });
  return { server, lines, counts, release: () => released.resolve() };
}

async function client(address: string): Promise<Connection> {
  return (await connect(address, { hello: helloOf("client", "home", "good"), expectRole: "nameserver" }))
    .channel;
}

/** A peer that sends what it likes, byte for byte. */
class RawPeer {
  readonly #socket: Deno.TcpConn;
  readonly #reader = new FrameReader();
  readonly encoder = new HeadEncoder();
  readonly decoder = new HeadDecoder();

  private constructor(socket: Deno.TcpConn) {
    this.#socket = socket;
  }

  static async dial(address: string): Promise<RawPeer> {
    return new RawPeer(await Deno.connect(parseAddress(address)));
  }

  /** Sends bytes; what a closed connection does not take is not missed. */
  async send(...parts: readonly Uint8Array[]): Promise<void> {
    const bytes = concatBytes(parts);
    try {
      for (let at = 0; at < bytes.length;) at += await this.#socket.write(bytes.subarray(at));
    } catch {
      // The server has closed already; the test looks at that.
    }
  }

  frame(kind: number, op: number, id: number, message: unknown, body: Uint8Array = EMPTY_BYTES): Uint8Array {
    return concatBytes([encodeFrame(kind, op, id, this.encoder.encode(message), body.length), body]);
  }

  async greet(): Promise<void> {
    await this.send(this.frame(KIND_REQUEST, HELLO_OP, 1, helloOf("client", "home", "raw")));
    const frame = await this.receive();
    assert.equal(frame?.kind, KIND_RESPONSE);
  }

  /** The next frame, its head decoded; null at the end of the stream. */
  async receive(): Promise<(Omit<Frame, "head"> & { message: unknown }) | null> {
    for (;;) {
      const frame = this.#reader.next();
      if (frame !== null) {
        const { kind, op, requestId, body } = frame;
        return { kind, op, requestId, body, message: this.decoder.decode(frame.head) };
      }
      let count: number | null;
      try {
        count = await this.#socket.read(this.#reader.target());
      } catch {
        return null; // reset
      }
      if (count === null) return null;
      this.#reader.advance(count);
    }
  }

  /** Resolves when the server has closed; fails when it answers instead. */
  async isClosed(what: string): Promise<void> {
    assert.equal(await within(this.receive(), `${what} is closed`), null, `${what} gets no answer`);
  }

  close(): void {
    this.#socket.close();
  }
}

/** While `attack` runs, a client that did nothing wrong is answered as ever. */
async function othersGoOn(attack: (address: string) => Promise<void>): Promise<string[]> {
  const { server, lines } = start();
  const good = await client(server.address);
  let isOver = false;
  const working = (async () => {
    let calls = 0;
    while (!isOver || calls < 3) {
      assert.deepEqual(await within(good.call(ECHO, { n: calls }), "the good client's call"), { n: calls });
      calls++;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  })();
  try {
    await attack(server.address);
  } finally {
    isOver = true;
    await working;
    good.close();
    await good.closed;
    // What the server does for a moment after a refusal, and seeing that the good client went.
    await new Promise((resolve) => setTimeout(resolve, 80));
    await server.close();
  }
  return lines;
}

const header = (length: number, version: number, kind: number, headLength: number): Uint8Array => {
  const bytes = copyBytes(encodeFrame(KIND_REQUEST, ECHO, 9, EMPTY_BYTES, 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length, true);
  view.setUint8(4, version);
  view.setUint8(5, kind);
  view.setUint32(12, headLength, true);
  return bytes;
};

seededTest(
  "server: a peer that sends garbage instead of a HELLO loses its connection only",
  async (random) => {
    const openings: Readonly<Record<string, Uint8Array>> = {
      "an HTTP request": bytesOf("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
      "zeros": new Uint8Array(64),
      "ones": new Uint8Array(64).fill(0xff),
      "an oversized frame": header(FRAME_BYTES_MAX + 1, 1, KIND_REQUEST, 5),
      "another version": header(16, 2, KIND_REQUEST, 0),
      "an unknown kind": header(16, 1, 99, 0),
      "a response": concatBytes([encodeFrame(KIND_RESPONSE, 1, 1, new Uint8Array([0xf6]), 0)]),
      "an error": concatBytes([encodeFrame(KIND_ERROR, 1, 1, new Uint8Array([0xf6]), 0)]),
      "a push": concatBytes([encodeFrame(KIND_PUSH, 1, 1, new Uint8Array([0xf6]), 0)]),
      "broken CBOR": concatBytes([encodeFrame(KIND_REQUEST, HELLO_OP, 1, new Uint8Array([0x9f, 0x81]), 0)]),
      "no head": encodeFrame(KIND_REQUEST, HELLO_OP, 1, EMPTY_BYTES, 0),
      "deep nesting": encodeFrame(KIND_REQUEST, HELLO_OP, 1, new Uint8Array(500_000).fill(0x81), 0),
      "a request before HELLO": encodeFrame(KIND_REQUEST, ECHO, 1, new Uint8Array([0xa0]), 0),
      "random bytes": concatBytes([new Uint8Array([0xff, 0xff, 0xff, 0xff]), randomBytes(random, 5_000)]),
    };
    const lines = await othersGoOn(async (address) => {
      for (const [what, bytes] of Object.entries(openings)) {
        const peer = await RawPeer.dial(address);
        await peer.send(bytes);
        await peer.isClosed(what);
        peer.close();
      }
    });
    const refusals = lines.filter((line) => line.includes("connection refused or broken"));
    assert.equal(refusals.length, Object.keys(openings).length, "each is logged with its reason");
    assert.ok(refusals.every((line) => /reason=/.test(line)));
  },
);

Deno.test("server: a peer of another cluster is told so and loses its connection", async () => {
  const lines = await othersGoOn(async (address) => {
    await assert.rejects(
      connect(address, { hello: helloOf("client", "away", "x"), expectRole: "nameserver" }),
      (error) => isErrno(error, "EPROTO") && /cluster away/.test(error.message),
    );
    const peer = await RawPeer.dial(address);
    await peer.send(peer.frame(KIND_REQUEST, HELLO_OP, 1, helloOf("client", "elsewhere", "raw")));
    const refusal = await peer.receive();
    assert.equal(refusal?.kind, KIND_ERROR);
    await peer.isClosed("a foreign peer");
    peer.close();
  });
  const reasons = lines.filter((line) => line.includes("connection refused or broken"));
  assert.ok(reasons.some((line) => line.includes("elsewhere")), "the reason is logged");
  assert.ok(reasons.some((line) => line.includes("away")), "also of a peer that closes once it was told");
});

Deno.test("server: a peer that was refused is not served, whatever it sends next", async () => {
  await othersGoOn(async (address) => {
    const peer = await RawPeer.dial(address);
    await peer.send(
      peer.frame(KIND_REQUEST, HELLO_OP, 1, helloOf("client", "away", "raw")),
      peer.frame(KIND_REQUEST, ECHO, 2, {}),
    );
    await peer.receive();
    await peer.isClosed("a refused peer");
    peer.close();
  });
});

Deno.test("server: a peer that breaks the rules after its HELLO loses its connection only", async () => {
  const breaches: Readonly<Record<string, (peer: RawPeer) => Uint8Array>> = {
    "broken CBOR": () => encodeFrame(KIND_REQUEST, ECHO, 5, new Uint8Array([0xff, 0xff]), 0),
    "a response": (peer) => peer.frame(KIND_RESPONSE, ECHO, 5, {}),
    "a push": (peer) => peer.frame(KIND_PUSH, ECHO, 5, {}),
    "an oversized frame": () => header(FRAME_BYTES_MAX + 1, 1, KIND_REQUEST, 0),
    "a request id twice": (peer) =>
      concatBytes([peer.frame(KIND_REQUEST, WAIT, 5, {}), peer.frame(KIND_REQUEST, ECHO, 5, {})]),
    "a broken acknowledgement": () => encodeFrame(KIND_PUSH_ACK, 1, 5, new Uint8Array([0x81]), 0),
  };
  await othersGoOn(async (address) => {
    for (const [what, breach] of Object.entries(breaches)) {
      const peer = await RawPeer.dial(address);
      await peer.greet();
      await peer.send(breach(peer));
      await peer.isClosed(what);
      peer.close();
    }
  });
});

Deno.test("server: acknowledgements and cancels that nobody waits for are passed over", async () => {
  await othersGoOn(async (address) => {
    const peer = await RawPeer.dial(address);
    await peer.greet();
    for (const message of [null, 5, { answer: 1 }, { error: { errno: "EIO" } }]) {
      await peer.send(peer.frame(KIND_PUSH_ACK, 60, 77, message));
    }
    await peer.send(
      encodeFrame(KIND_CANCEL, 0, 88, EMPTY_BYTES, 0),
      peer.frame(KIND_REQUEST, ECHO, 2, { a: 1 }),
    );
    assert.deepEqual((await within(peer.receive(), "an answer"))?.message, { a: 1 });
    peer.close();
  });
});

Deno.test("server: a peer that says nothing is closed after the HELLO time, one that said HELLO is not", async () => {
  await othersGoOn(async (address) => {
    const silent = await RawPeer.dial(address);
    const half = await RawPeer.dial(address);
    await half.send(half.frame(KIND_REQUEST, HELLO_OP, 1, helloOf("client", "home", "half")).subarray(0, 20));
    const greeted = await RawPeer.dial(address);
    await greeted.greet();
    const startMs = performance.now();
    await within(Promise.all([silent.receive(), half.receive()]), "closed", HELLO_TIMEOUT_MS + 2_000);
    assert.ok(performance.now() - startMs > HELLO_TIMEOUT_MS - 500);
    await greeted.send(greeted.frame(KIND_REQUEST, ECHO, 2, { here: true }));
    assert.deepEqual((await greeted.receive())?.message, { here: true });
    for (const peer of [silent, half, greeted]) peer.close();
  });
});

Deno.test("server: a connection that breaks within a frame ends alone", async () => {
  await othersGoOn(async (address) => {
    for (let i = 0; i < 20; i++) {
      const peer = await RawPeer.dial(address);
      await peer.greet();
      await peer.send(
        peer.frame(KIND_REQUEST, ECHO, 2, { some: "thing" }, new Uint8Array(100_000)).subarray(0, 60_000),
      );
      peer.close();
    }
  });
});

Deno.test("server: a peer that does not read is not worked for without bound, and gets all when it reads", async () => {
  const { server, counts } = start();
  const good = await client(server.address);
  const peer = await RawPeer.dial(server.address);
  try {
    await peer.greet();
    const requests = 300;
    const frames: Uint8Array[] = [];
    for (let id = 2; id < 2 + requests; id++) frames.push(peer.frame(KIND_REQUEST, BIG, id, {}));
    await peer.send(...frames);
    // Until the server has stopped working for it.
    let before = -1;
    while (counts.big !== before) {
      before = counts.big;
      assert.deepEqual(await within(good.call(ECHO, { n: 1 }), "the good client's call"), { n: 1 });
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
    assert.ok(counts.big < 100, `${counts.big} MiB were made for a peer that reads nothing`);
    const ids = new Set<number>();
    while (ids.size < requests) {
      const frame = await within(peer.receive(), "an answer", 5_000);
      assert.equal(frame?.body.length, 1 << 20);
      ids.add(frame!.requestId);
    }
    assert.equal(counts.big, requests);
  } finally {
    peer.close();
    good.close();
    await server.close();
    await good.closed;
  }
});

Deno.test("server: requests in progress of one connection are bounded, others go on", async () => {
  const { server, counts, release } = start();
  const good = await client(server.address);
  const greedy = await client(server.address);
  try {
    const calls = Array.from({ length: 700 }, () => greedy.call(WAIT, {}));
    await until(() => counts.waiting >= 512, "as many as may run");
    await good.call(ECHO, {});
    await good.call(ECHO, {});
    assert.equal(counts.waiting, 512);
    release();
    await within(Promise.all(calls), "all are answered");
    assert.equal(counts.waiting, 700);
  } finally {
    release();
    for (const channel of [good, greedy]) channel.close();
    await server.close();
    await Promise.all([good.closed, greedy.closed]);
  }
});

Deno.test("server: stopping fails what clients wait for, and its address is free again", async () => {
  const { server, release, counts } = start();
  const channel = await client(server.address);
  const call = channel.call(WAIT, {});
  await until(() => counts.waiting === 1, "the call arrives");
  const failed = assert.rejects(call, (error) => isErrno(error, "ENOTCONN"));
  await server.close();
  await failed;
  await channel.closed;
  release();
  await assert.rejects(client(server.address), (error) => isErrno(error, "ECONNREFUSED"));
  const again = serve(server.address, {
    role: "nameserver",
    clusterId: () => "home",
    handlers: new Map(),
    log: createLogger("x", { write: () => {} }),
  });
  await again.close();
});

Deno.test("server: an address in use is EADDRINUSE", async () => {
  const { server } = start();
  const options = {
    role: "nameserver",
    clusterId: () => "home",
    handlers: new Map(),
    log: createLogger("x", { write: () => {} }),
  } as const;
  assert.throws(() => serve(server.address, options), (error) => isErrno(error, "EADDRINUSE"));
  await server.close();
});

Deno.test("client: another role than expected is refused", async () => {
  const { server } = start();
  await assert.rejects(
    connect(server.address, { hello: helloOf("client", "home", "x"), expectRole: "dataserver" }),
    (error) => isErrno(error, "EPROTO") && /is a nameserver/.test(error.message),
  );
  await server.close();
});

Deno.test("client: a server that accepts and says nothing is ETIMEDOUT", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted = listener.accept();
  await assert.rejects(
    connect(`127.0.0.1:${listener.addr.port}`, {
      hello: helloOf("client", "", "x"),
      expectRole: "nameserver",
      timeoutMs: 50,
    }),
    (error) => isErrno(error, "ETIMEDOUT"),
  );
  (await accepted).close();
  listener.close();
});

Deno.test("client: a server that answers garbage fails the call, at once", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = listener.accept().then(async (socket) => {
    await socket.write(bytesOf("HTTP/1.1 400 Bad Request\r\n\r\n".repeat(4)));
    return socket;
  });
  const dialled = connect(`127.0.0.1:${listener.addr.port}`, {
    hello: helloOf("client", "", "x"),
    expectRole: "nameserver",
  });
  await within(assert.rejects(dialled, FsError), "the call fails");
  (await serving).close();
  listener.close();
});

Deno.test("client: an oversized request is refused and spoils nothing that follows", async () => {
  const { server } = start();
  const channel = await client(server.address);
  try {
    const request = (body: Uint8Array) => ({ brand: { new: "shape" }, body });
    await assert.rejects(
      channel.call(ECHO, request(new Uint8Array(FRAME_BYTES_MAX))),
      (error) => isErrno(error, "EINVAL"),
    );
    const reply = await channel.call(ECHO, request(new Uint8Array(5))) as { brand: unknown };
    assert.deepEqual(reply.brand, { new: "shape" });
  } finally {
    channel.close();
    await server.close();
    await channel.closed;
  }
});

Deno.test("server: an answer that is too large fails that call and spoils nothing that follows", async () => {
  const { server } = start();
  const channel = await client(server.address);
  try {
    await assert.rejects(channel.call(HUGE, {}), FsError);
    const request = { fresh: { shape: 2 }, body: new Uint8Array(3) };
    const reply = await channel.call(ECHO, request) as typeof request;
    assert.deepEqual(reply.fresh, { shape: 2 });
  } finally {
    channel.close();
    await server.close();
    await channel.closed;
  }
});

Deno.test("address: HOST:PORT and [HOST]:PORT are split, all else is EINVAL", () => {
  assert.deepEqual(parseAddress("localhost:9870"), { hostname: "localhost", port: 9870 });
  assert.deepEqual(parseAddress("[::1]:0"), { hostname: "::1", port: 0 });
  for (
    const address of [
      "",
      "host",
      ":1",
      "host:",
      "host:65536",
      "host:x",
      "::1:80",
      "a b:1",
      "[::1]",
      "host:-1",
    ]
  ) {
    assert.throws(() => parseAddress(address), (error) => isErrno(error, "EINVAL"), address);
  }
});
