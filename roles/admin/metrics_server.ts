/**
 * A role's page for machines, over HTTP: /metrics in the text format of Prometheus, /healthz (the process answers) and
 * /readyz (its roles serve). What writes the format is loaded when it is asked for first.
 */

import type { Metric } from "../../base/metrics.ts";
import type { Logger } from "../../base/log.ts";
import { messageOf, UsageError } from "./process.ts";

export interface MetricsServerOptions {
  /** HOST:PORT. */
  readonly listen: string;
  /** The port was asked for: without it the role does not start. */
  readonly isWanted: boolean;
  readonly log: Logger;
  readonly metrics: () => Promise<readonly Metric[]>;
  readonly isReady: () => boolean;
}

export interface MetricsServer {
  readonly address: string;
  stop(): Promise<void>;
}

/** Undefined when the usual port is taken, which is logged. Throws UsageError when one was asked for that can't be had. */
export function startMetricsServer(options: MetricsServerOptions): MetricsServer | undefined {
  const { listen, isWanted, log } = options;
  const at = listen.lastIndexOf(":");
  const hostname = listen.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  try {
    const server = Deno.serve(
      { hostname, port: Number(listen.slice(at + 1)), onListen: () => {} },
      (request) => answer(request, options),
    );
    const { hostname: host, port } = server.addr;
    log.info("metrics are served", { address: `${host}:${port}` });
    return { address: `${host}:${port}`, stop: () => server.shutdown() };
  } catch (error) {
    if (isWanted) throw new UsageError(`--http ${listen}: ${messageOf(error)}`);
    log.info("no metrics: the port is taken (--http HOST:PORT names another)", { listen });
    return undefined;
  }
}

async function answer(request: Request, { metrics, isReady, log }: MetricsServerOptions): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (request.method !== "GET" && request.method !== "HEAD") return text("only GET\n", 405);
  switch (pathname) {
    case "/healthz":
      return text("ok\n");
    case "/readyz":
      return isReady() ? text("ready\n") : text("not serving yet\n", 503);
    case "/metrics":
      if (!isReady()) return text("not serving yet\n", 503);
      try {
        const { format } = await import("./metrics_format.ts");
        const { contentType, body } = await format(await metrics());
        return new Response(body, { headers: { "content-type": contentType } });
      } catch (error) {
        log.warn("metrics could not be collected", { error });
        return text(`${messageOf(error)}\n`, 500);
      }
    case "/":
      return text("/metrics\n/healthz\n/readyz\n");
    default:
      return text("there are /metrics, /healthz and /readyz\n", 404);
  }
}

function text(body: string, status = 200): Response {
  return new Response(body, { status, headers: { "content-type": "text/plain; charset=utf-8" } });
}
