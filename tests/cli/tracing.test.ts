import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../roles/admin/process.ts";
import { tracingSettings } from "../../roles/admin/tracing.ts";

const settingsOf = (variables: Record<string, string>) => tracingSettings("mount", (name) => variables[name]);

Deno.test("tracing: without variables traces go to the collector of this machine, all of them", () => {
  const { url, headers, timeoutMs, share, resource } = settingsOf({})!;
  assertEquals([url, headers, timeoutMs, share], ["http://localhost:4318/v1/traces", {}, 10_000, 1]);
  assertEquals(resource["service.name"], "mfs-mount");
  assertEquals(resource["process.pid"], Deno.pid);
});

Deno.test("tracing: the variables of OpenTelemetry count, those of traces before those of all", () => {
  const settings = settingsOf({
    OTEL_EXPORTER_OTLP_ENDPOINT: "https://collector:4318/base/",
    OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer%20x,a=b=c",
    OTEL_EXPORTER_OTLP_TIMEOUT: "500",
    OTEL_RESOURCE_ATTRIBUTES: "deployment.environment=test, service.name=other",
    OTEL_SERVICE_NAME: "files",
    OTEL_TRACES_SAMPLER: "parentbased_traceidratio",
    OTEL_TRACES_SAMPLER_ARG: "0.25",
  })!;
  assertEquals(settings.url, "https://collector:4318/base/v1/traces");
  assertEquals(settings.headers, { authorization: "Bearer x", a: "b=c" });
  assertEquals([settings.timeoutMs, settings.share], [500, 0.25]);
  assertEquals(settings.resource["deployment.environment"], "test");
  assertEquals(settings.resource["service.name"], "files");
  const own = settingsOf({
    OTEL_EXPORTER_OTLP_ENDPOINT: "http://a:1",
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "http://b:2/x",
    OTEL_EXPORTER_OTLP_HEADERS: "a=1",
    OTEL_EXPORTER_OTLP_TRACES_HEADERS: "b=2",
  })!;
  assertEquals([own.url, own.headers], ["http://b:2/x", { b: "2" }]);
});

Deno.test("tracing: the variables can turn it off", () => {
  assertEquals(settingsOf({ OTEL_SDK_DISABLED: "true" }), undefined);
  assertEquals(settingsOf({ OTEL_TRACES_EXPORTER: "none" }), undefined);
  assertEquals(settingsOf({ OTEL_TRACES_SAMPLER: "always_off" })!.share, 0);
});

Deno.test("tracing: a variable that is wrong is named in one line", () => {
  const wrong: [string, string][] = [
    ["OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"],
    ["OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"],
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nowhere"],
    ["OTEL_EXPORTER_OTLP_TIMEOUT", "soon"],
    ["OTEL_EXPORTER_OTLP_HEADERS", "secret"],
    ["OTEL_RESOURCE_ATTRIBUTES", "a=%"],
    ["OTEL_TRACES_EXPORTER", "zipkin"],
    ["OTEL_TRACES_SAMPLER", "sometimes"],
  ];
  for (const [name, value] of wrong) {
    assertThrows(() => settingsOf({ [name]: value }), UsageError, name);
  }
  const ratio = { OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "2" };
  assertThrows(() => settingsOf(ratio), UsageError, "OTEL_TRACES_SAMPLER_ARG");
});
