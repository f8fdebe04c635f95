import { assert, assertEquals, assertRejects } from "@std/assert";
import { createLogger, silentLogger } from "../../base/log.ts";
import { OtlpExporter } from "../../base/otlp.ts";
import { ContextTracer, type FinishedSpan } from "../../base/tracer.ts";
import { SPAN_SERVER, tracing } from "../../base/tracing.ts";
import { connect } from "../../wire/client.ts";
import { FsError } from "../../wire/errno.ts";
import { helloOf } from "../../wire/hello.ts";
import { LocalChannel } from "../../wire/local.ts";
import { serve } from "../../wire/server.ts";
import {
  addHandlers,
  type CallContext,
  type Channel,
  createClient,
  createPushHandler,
  defineService,
  type HandlerTable,
  method,
  type PushHandler,
  pushTo,
} from "../../wire/service.ts";
import { Collector } from "../harness/collector.ts";

type Message = { readonly text: string; readonly body?: Uint8Array };
const SERVICE = defineService("test", {
  echo: method<Message, { readonly seen: string[]; readonly body: Uint8Array }>(1),
  outer: method<Message, Message>(2),
  refuse: method<Message, Message>(3),
});
const PUSHES = defineService("testPushes", { tell: method<Message, Message>(9) });

/** `inner`: what `outer` asks in turn. */
function handlers(inner: () => Channel | undefined): HandlerTable {
  const table = new Map<number, (request: unknown, context: CallContext) => unknown>();
  addHandlers(table, SERVICE, {
    echo: (request) => ({
      seen: Object.keys(request).sort(),
      body: (request.body ?? new Uint8Array()).slice(),
    }),
    outer: async (request, { peer }) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      const channel = inner();
      if (channel === undefined) return await pushTo(peer, PUSHES, 9, request) as Message;
      await createClient(SERVICE, (op, ...rest) => channel.call(op, ...rest)).echo(request);
      return request;
    },
    refuse: () => {
      throw new FsError("ENOSPC", "it is full");
    },
  });
  return table;
}

/** Makes spans while `work` runs. */
async function traced(work: (tracer: ContextTracer, spans: FinishedSpan[]) => Promise<void>): Promise<void> {
  const spans: FinishedSpan[] = [];
  const tracer = new ContextTracer({ isSampled: () => true, finished: (span) => spans.push(span) });
  tracing.tracer = tracer;
  try {
    await work(tracer, spans);
  } finally {
    tracing.tracer = undefined;
  }
}

async function withChannels(
  use: (channel: Channel) => Promise<void>,
  table: HandlerTable,
  onPush?: PushHandler,
): Promise<void> {
  const server = serve("127.0.0.1:0", {
    ...{ role: "nameserver", clusterId: () => "c", handlers: table, log: silentLogger },
  });
  const hello = helloOf("client", "c", "tester");
  const { channel } = await connect(server.address, {
    ...{ hello, expectRole: "nameserver" },
    ...onPush === undefined ? {} : { onPush },
  });
  const local = new LocalChannel(table, "client", "tester", onPush);
  try {
    await use(channel);
    await use(local);
  } finally {
    local.close();
    channel.close();
    await server.close();
    await channel.closed;
  }
}

const named = (spans: readonly FinishedSpan[], name: string, kind: number) => {
  const found = spans.filter((span) => span.name === name && span.kind === kind);
  assertEquals(found.length, 1, `${name}: ${JSON.stringify(spans)}`);
  return found[0]!;
};

Deno.test("tracing: a call, its service and what that asks in turn are one below the other", async () => {
  let inner: Channel | undefined;
  await withChannels((channel) =>
    traced(async (tracer, spans) => {
      inner = channel;
      const client = createClient(SERVICE, (op, ...rest) => channel.call(op, ...rest));
      const root = tracer.root("WRITE", SPAN_SERVER, { "mfs.inode": 7 })!;
      await tracer.run(root, () => client.outer({ text: "a" }));
      root.end();
      const write = named(spans, "WRITE", 2);
      const [call, served] = [named(spans, "test/outer", 3), named(spans, "test/outer", 2)];
      const [asked, echoed] = [named(spans, "test/echo", 3), named(spans, "test/echo", 2)];
      assertEquals(spans.length, 5);
      assertEquals(new Set(spans.map(({ traceId }) => traceId)).size, 1);
      const parents = [write, call, served, asked, echoed].map(({ parentId }) => parentId);
      assertEquals(parents, ["", write.spanId, call.spanId, served.spanId, asked.spanId]);
      assertEquals(served.attributes["mfs.peer"], "tester");
      assert(call.startMs <= served.startMs && served.endMs <= call.endMs && served.endMs > served.startMs);
    }), handlers(() => inner));
});

Deno.test("tracing: a push is below the request that it was sent for", async () => {
  const tell = ({ text }: Message) => ({ text: text + "!" });
  await withChannels(
    (channel) =>
      traced(async (tracer, spans) => {
        const client = createClient(SERVICE, (op, ...rest) => channel.call(op, ...rest));
        const root = tracer.root("UNLINK", SPAN_SERVER, {})!;
        assertEquals(await tracer.run(root, () => client.outer({ text: "a" })), { text: "a!" });
        const [served, pushed] = [named(spans, "test/outer", 2), named(spans, "testPushes/tell", 3)];
        assertEquals(pushed.parentId, served.spanId);
        assertEquals(named(spans, "testPushes/tell", 2).parentId, pushed.spanId);
      }),
    handlers(() => undefined),
    createPushHandler(PUSHES, { tell }),
  );
});

Deno.test("tracing: a failure is the span's, with its errno, at both ends", async () => {
  await withChannels((channel) =>
    traced(async (tracer, spans) => {
      const client = createClient(SERVICE, (op, ...rest) => channel.call(op, ...rest));
      const root = tracer.root("WRITE", SPAN_SERVER, {})!;
      await assertRejects(() => tracer.run(root, () => client.refuse({ text: "" })), FsError, "it is full");
      assertEquals(spans.map(({ error, attributes }) => [error, attributes["error.type"]]), [
        ["it is full", "ENOSPC"],
        ["it is full", "ENOSPC"],
      ]);
    }), handlers(() => undefined));
});

Deno.test("tracing: a service sees requests as they are, and a peer without tracing one field more", async () => {
  await withChannels(async (channel) => {
    const client = createClient(SERVICE, (op, ...rest) => channel.call(op, ...rest));
    const request = { text: "a", body: Uint8Array.of(1, 2, 3) };
    const plain = await client.echo(request);
    await traced(async (tracer) => {
      assertEquals(await client.echo(request), plain);
      const root = tracer.root("READ", SPAN_SERVER, {})!;
      assertEquals(await tracer.run(root, () => client.echo(request)), plain);
    });
    const traceparent = `00-${"a".repeat(32)}-${"b".repeat(16)}-01`;
    const { seen, body } = await client.echo({ ...request, traceparent } as Message);
    assertEquals([seen, body], [["body", "text", "traceparent"], request.body]);
  }, handlers(() => undefined));
});

Deno.test("tracing: what is looked up when it is sent is not looked up before", async () => {
  await traced(async (tracer) => {
    let text = "when it was made";
    const request = {
      get text() {
        return text;
      },
    };
    const sent: unknown[] = [];
    const client = createClient(SERVICE, async (_op, message) => {
      await Promise.resolve();
      sent.push((message as Message).text);
    });
    const root = tracer.root("UNLINK", SPAN_SERVER, {})!;
    const answer = tracer.run(root, () => client.echo(request));
    text = "when it is sent";
    await answer;
    assertEquals(sent, ["when it is sent"]);
  });
});

Deno.test("tracing: what can't be a parent is none, and what nobody asked for is in no trace", async () => {
  await withChannels((channel) =>
    traced(async (tracer, spans) => {
      const client = createClient(SERVICE, (op, ...rest) => channel.call(op, ...rest));
      await client.echo({ text: "" });
      const [trace, span] = ["a".repeat(32), "b".repeat(16)];
      const strange = [5, null, "", `00-${trace}-${span}-00`, `01-${trace}-${span}-01`, `00-${trace}-01`];
      for (const traceparent of strange) {
        // It is refused where it is, and does no harm.
        await client.echo({ text: "", traceparent } as unknown as Message);
        assertEquals(tracer.child(String(traceparent), "x", SPAN_SERVER, {}), undefined);
      }
      assertEquals(spans, []);
    }), handlers(() => undefined));
});

Deno.test("tracing: what goes on for long after a request does not work for it any more", async () => {
  const seen: boolean[] = [];
  const tracer = new ContextTracer({ isSampled: () => true, finished: () => {}, lingerMs: 40 });
  const root = tracer.root("WRITE", SPAN_SERVER, {})!;
  const after = async (ms: number) => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    seen.push(tracer.current === root);
  };
  const goesOn = tracer.run(root, async () => {
    await after(60);
    root.end();
    await after(1);
    await after(60);
  });
  assertEquals(tracer.current, undefined);
  await goesOn;
  assertEquals(seen, [true, true, false]);
});

Deno.test("tracing: who begins no trace gives none to others", async () => {
  const tracer = new ContextTracer({ isSampled: () => false, finished: () => {} });
  assertEquals(tracer.root("READ", SPAN_SERVER, {}), undefined);
  await tracer.run(undefined, () => Promise.resolve(assertEquals(tracer.current, undefined)));
});

function span(name: string): FinishedSpan {
  const ids = { traceId: "0".repeat(31) + "1", spanId: "0".repeat(15) + "2", parentId: "" };
  return { ...ids, name, kind: 2, startMs: 1_700_000_000_000.25, endMs: 1_700_000_000_001, ...REST };
}
const REST = { attributes: { "mfs.inode": 7, "rpc.system": "mfs" }, error: "ENOSPC" };

function exporterFor(url: string, lines: string[]): OtlpExporter {
  const write = (line: string) => lines.push(line);
  const log = createLogger("test", { level: "info", write });
  return new OtlpExporter({
    ...{ url: `${url}/v1/traces`, headers: { key: "secret" }, timeoutMs: 5_000, log },
    resource: { "service.name": "mfs-test", "process.pid": 5 },
  });
}

Deno.test("tracing: spans are sent as OTLP, what waits at the end as well", async () => {
  await using collector = new Collector();
  const exporter = exporterFor(collector.url, []);
  for (let i = 0; i < 1_300; i++) exporter.add(span(`span ${i}`));
  await exporter.stop();
  assertEquals(collector.spans.map(({ name }) => name), Array.from({ length: 1_300 }, (_, i) => `span ${i}`));
  const { service, pid, startMs, endMs, attributes, error, parentSpanId } = collector.spans[0]!;
  assertEquals([service, pid, error, parentSpanId], ["mfs-test", 5, "ENOSPC", undefined]);
  assertEquals([startMs, endMs], [1_700_000_000_000.25, 1_700_000_000_001]);
  assertEquals(attributes, { "mfs.inode": "7", "rpc.system": "mfs" });
  assertEquals(collector.requests[0]!.path, "/v1/traces");
  assertEquals(collector.requests[0]!.headers.get("key"), "secret");
});

Deno.test("tracing: a collector that refuses is told of once, and its return; queues are bounded", async () => {
  await using collector = new Collector();
  const lines: string[] = [];
  const exporter = exporterFor(collector.url, lines);
  collector.status = 503;
  for (let i = 0; i < 20_000; i++) exporter.add(span("lost"));
  await exporter.stop();
  const isRefusal = (line: string) => line.includes("traces can't be sent");
  assertEquals(lines.filter(isRefusal).length, 1);
  assert(lines.some((line) => / dropped=\d{5}$/.test(line)), lines.join("\n"));
  collector.status = 200;
  exporter.add(span("taken"));
  await exporter.stop();
  assert(collector.spans.length > 0);
  assert(lines.at(-1)!.includes("traces are taken again"), lines.join("\n"));
});

Deno.test("tracing: nobody listens: no error but a line in the log, and the end is not held up", async () => {
  const lines: string[] = [];
  const exporter = exporterFor("http://127.0.0.1:9", lines);
  exporter.add(span("lost"));
  const startMs = performance.now();
  await exporter.stop();
  assert(performance.now() - startMs < 2_000);
  assertEquals(lines.length, 1);
});
