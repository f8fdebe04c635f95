/** A collector of traces for tests: takes OTLP/HTTP in its JSON form and keeps the spans. */

export interface CollectedSpan {
  readonly service: string;
  readonly pid: number;
  readonly traceId: string;
  readonly spanId: string;
  /** undefined: the first of its trace. */
  readonly parentSpanId: string | undefined;
  readonly name: string;
  readonly kind: number;
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Readonly<Record<string, string>>;
  readonly error: string | undefined;
}

type KeyValue = {
  readonly key: string;
  readonly value: { readonly stringValue?: string; readonly intValue?: string };
};

const plain = (attributes: readonly KeyValue[]) =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, value.stringValue ?? value.intValue ?? ""]));

export class Collector implements AsyncDisposable {
  readonly spans: CollectedSpan[] = [];
  /** Paths and headers of what came. */
  readonly requests: { readonly path: string; readonly headers: Headers }[] = [];
  /** What is answered. */
  status = 200;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor() {
    this.#server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
      this.requests.push({ path: new URL(request.url).pathname, headers: request.headers });
      const message = await request.json();
      if (this.status === 200) this.#take(message);
      return new Response("{}", {
        status: this.status,
        headers: { "content-type": "application/json" },
      });
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}`;
  }

  /** What a process needs to send its traces here. */
  get env(): Record<string, string> {
    return { OTEL_EXPORTER_OTLP_ENDPOINT: this.url };
  }

  // deno-lint-ignore no-explicit-any -- a message of another program
  #take(message: any): void {
    for (const { resource, scopeSpans } of message.resourceSpans) {
      const of = plain(resource.attributes);
      for (const span of scopeSpans[0].spans) {
        this.spans.push({
          service: of["service.name"]!,
          pid: Number(of["process.pid"]),
          traceId: span.traceId,
          spanId: span.spanId,
          parentSpanId: span.parentSpanId,
          name: span.name,
          kind: span.kind,
          startMs: Number(BigInt(span.startTimeUnixNano) / 1000n) / 1000,
          endMs: Number(BigInt(span.endTimeUnixNano) / 1000n) / 1000,
          attributes: plain(span.attributes),
          error: span.status.code === 2 ? span.status.message : undefined,
        });
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

/** A trace as lines, indented below their parents, in the order of their beginnings. */
export function drawn(spans: readonly CollectedSpan[], parent?: string, indent = ""): string[] {
  return spans.filter((span) => span.parentSpanId === parent).sort((a, b) => a.startMs - b.startMs)
    .flatMap((span) => [
      `${indent}${span.service} ${span.name}${span.error === undefined ? "" : ` (${span.error})`}`,
      ...drawn(spans, span.spanId, `${indent}  `),
    ]);
}
