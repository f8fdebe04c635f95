import assert from "node:assert/strict";
import { silentLogger } from "../../base/log.ts";
import { connect, type Connection } from "../../wire/client.ts";
import { isErrno, isTransportError } from "../../wire/errno.ts";
import { helloOf } from "../../wire/hello.ts";
import { serveSocket } from "../../wire/server.ts";
import { until, within } from "./channel_contract.ts";

const SILENCE_MS = 400;
const WAIT = 1;

/** A server whose process can be stopped: what it is sent stays unread meanwhile, though TCP takes it. */
function start() {
  let resume: (() => void) | undefined;
  let stopped: Promise<void> | undefined;
  const released = Promise.withResolvers<void>();
  const counts = { waiting: 0 };
  const handlers = new Map([[WAIT, async () => {
    counts.waiting++;
    await released.promise;
    return { done: true };
  }]]);
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = (async () => {
    for await (const socket of listener) {
      void serveSocket(
        {
          read: async (buffer) => {
            const count = await socket.read(buffer);
            await stopped;
            return count;
          },
          write: async (bytes) => {
            await stopped;
            return await socket.write(bytes);
          },
          close: () => socket.close(),
        },
        "test",
        { role: "dataserver", clusterId: () => "home", handlers, log: silentLogger },
      );
    }
  })();
  return {
    address: `127.0.0.1:${listener.addr.port}`,
    counts,
    release: () => released.resolve(),
    stop: () => void (stopped = new Promise((resolve) => resume = resolve)),
    end: async () => {
      resume?.();
      listener.close();
      await serving;
    },
  };
}

async function client(address: string, silenceMs = SILENCE_MS): Promise<Connection> {
  const hello = helloOf("client", "home", "test");
  return (await connect(address, { hello, expectRole: "dataserver", silenceMs })).channel;
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

Deno.test("silence: a peer that stops is given up long before the deadline of what was asked of it", async () => {
  const server = start();
  const channel = await client(server.address);
  const asked = channel.call(WAIT, {}, { timeoutMs: 60_000 });
  await until(() => server.counts.waiting === 1, "asked");
  server.stop();
  await assert.rejects(
    within(asked, "given up", 30_000),
    (error) => isTransportError(error) && /silent/.test(`${error}`),
  );
  await channel.closed;
  await server.end();
});

Deno.test("silence: a peer that works for long, and answers pings, is waited for", async () => {
  const server = start();
  const channel = await client(server.address);
  const asked = channel.call(WAIT, {}, { timeoutMs: 60_000 });
  await sleep(3 * SILENCE_MS);
  server.release();
  assert.deepEqual(await asked, { done: true });
  channel.close();
  await server.end();
});

Deno.test("silence: a peer that has too much to do to read is waited for", async () => {
  const server = start();
  const channel = await client(server.address, 2_000);
  const asked = Array.from({ length: 600 }, () => channel.call(WAIT, {}, { timeoutMs: 60_000 }));
  await until(() => server.counts.waiting === 512, "all that are taken");
  await sleep(3_000);
  server.release();
  await Promise.all(asked);
  channel.close();
  await server.end();
});

Deno.test("silence: a peer of which nothing is asked may be silent", async () => {
  const server = start();
  const channel = await client(server.address);
  server.release();
  await channel.call(WAIT, {});
  server.stop();
  const isClosed = await Promise.race([channel.closed.then(() => true), sleep(3 * SILENCE_MS)]);
  assert.equal(isClosed, undefined);
  channel.close();
  await server.end();
});

Deno.test("silence: deadlines of calls are as before", async () => {
  const server = start();
  const channel = await client(server.address);
  await assert.rejects(channel.call(WAIT, {}, { timeoutMs: 50 }), (error) => isErrno(error, "ETIMEDOUT"));
  channel.close();
  await server.end();
});
