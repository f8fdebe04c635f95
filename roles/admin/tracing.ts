/**
 * Turns tracing on in this process, as the environment variables of OpenTelemetry say: where traces go, what they are said to
 * come from, and how many are taken (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables and
 * .../protocol/exporter).
 * Deno has an exporter of its own (OTEL_DENO). It is not used: it can be turned on only by the environment in which the runtime
 * starts, not by a setting, and an executable of `deno compile` has it always on or never, fixed when it is made.
 */

import type { Logger } from "../../base/log.ts";
import { OtlpExporter, type OtlpOptions } from "../../base/otlp.ts";
import { ContextTracer } from "../../base/tracer.ts";
import { type Attributes, tracing } from "../../base/tracing.ts";
import { VERSION } from "../../base/version.ts";
import { UsageError } from "./process.ts";

const ENDPOINT_DEFAULT = "http://localhost:4318";
const TRACES_PATH = "/v1/traces";
const TIMEOUT_MS_DEFAULT = 10_000;
const PREFIX = "OTEL_EXPORTER_OTLP_";

export type Environment = (name: string) => string | undefined;

export interface TracingSettings extends Omit<OtlpOptions, "log"> {
  /** Which part of the requests begins a trace. */
  readonly share: number;
}

/** What the variables say for a role; undefined: no traces. Throws UsageError. */
export function tracingSettings(role: string, env: Environment): TracingSettings | undefined {
  const get = (name: string) => env(name)?.trim() || undefined;
  if (get("OTEL_SDK_DISABLED")?.toLowerCase() === "true") return undefined;
  const exporter = get("OTEL_TRACES_EXPORTER") ?? "otlp";
  if (exporter === "none") return undefined;
  if (exporter !== "otlp") throw new UsageError(`OTEL_TRACES_EXPORTER=${exporter}: it must be otlp or none`);
  const ofTraces = (name: string) => get(`${PREFIX}TRACES_${name}`) ?? get(`${PREFIX}${name}`);
  const protocol = ofTraces("PROTOCOL");
  // Receivers take both forms of OTLP/HTTP at the same address.
  if (protocol !== undefined && protocol !== "http/json" && protocol !== "http/protobuf") {
    throw new UsageError(`${PREFIX}PROTOCOL=${protocol}: traces are sent by http/json only`);
  }
  const timeoutMs = Number(ofTraces("TIMEOUT") ?? TIMEOUT_MS_DEFAULT);
  if (!(timeoutMs > 0)) throw new UsageError(`${PREFIX}TIMEOUT: it must be a number of milliseconds`);
  const given = keyValues("OTEL_RESOURCE_ATTRIBUTES", get("OTEL_RESOURCE_ATTRIBUTES"));
  const resource: Attributes = {
    "service.name": `mfs-${role}`,
    "service.version": VERSION,
    "host.name": Deno.hostname(),
    "process.pid": Deno.pid,
    ...given,
    ...get("OTEL_SERVICE_NAME") === undefined ? {} : { "service.name": get("OTEL_SERVICE_NAME")! },
  };
  return {
    url: urlOf(get),
    headers: keyValues(`${PREFIX}HEADERS`, ofTraces("HEADERS")),
    timeoutMs,
    resource,
    share: shareOf(get),
  };
}

function urlOf(get: Environment): string {
  const whole = get(`${PREFIX}TRACES_ENDPOINT`);
  const name = whole === undefined ? `${PREFIX}ENDPOINT` : `${PREFIX}TRACES_ENDPOINT`;
  const text = whole ?? get(name) ?? ENDPOINT_DEFAULT;
  const { protocol } = URL.parse(text) ?? {};
  if (protocol !== "http:" && protocol !== "https:") {
    throw new UsageError(`${name}=${text}: it must be an address such as ${ENDPOINT_DEFAULT}`);
  }
  return whole ?? `${text.replace(/\/+$/, "")}${TRACES_PATH}`;
}

/** A request of a traced caller is always traced, so that no trace has holes: "parentbased" in the samplers' names. */
function shareOf(get: Environment): number {
  const sampler = get("OTEL_TRACES_SAMPLER") ?? "parentbased_always_on";
  switch (sampler.replace(/^parentbased_/, "")) {
    case "always_on":
      return 1;
    case "always_off":
      return 0;
    case "traceidratio": {
      const share = Number(get("OTEL_TRACES_SAMPLER_ARG") ?? 1);
      if (share >= 0 && share <= 1) return share;
      throw new UsageError("OTEL_TRACES_SAMPLER_ARG: it must be a number from 0 to 1");
    }
    default:
      throw new UsageError(`OTEL_TRACES_SAMPLER=${sampler}: known are always_on, always_off, traceidratio`);
  }
}

/** A list such as a=1,b=2, with what is special written as in URLs. */
function keyValues(name: string, text = ""): Record<string, string> {
  const found: Record<string, string> = {};
  for (const pair of text.split(",")) {
    if (pair.trim() === "") continue;
    const at = pair.indexOf("=");
    if (at < 1) throw new UsageError(`${name}: it must be KEY=VALUE,KEY=VALUE`);
    try {
      found[pair.slice(0, at).trim()] = decodeURIComponent(pair.slice(at + 1).trim());
    } catch {
      throw new UsageError(`${name}: ${pair.trim()} is not percent-encoded`);
    }
  }
  return found;
}

/** From now on this process makes spans; what that gives ends it, when all else has stopped. Undefined: the environment says no. */
export function startTracing(role: string, log: Logger): (() => Promise<void>) | undefined {
  const settings = tracingSettings(role, (name) => Deno.env.get(name));
  if (settings === undefined) return undefined;
  const { share, ...otlp } = settings;
  const exporter = new OtlpExporter({ ...otlp, log });
  tracing.tracer = new ContextTracer({
    isSampled: () => share === 1 || Math.random() < share,
    finished: (span) => exporter.add(span),
  });
  log.info("traces are sent", { url: otlp.url, share });
  return async () => {
    tracing.tracer = undefined;
    await exporter.stop();
  };
}
