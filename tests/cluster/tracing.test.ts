/** Traces of a cluster of real processes, as a collector gets them. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { type CollectedSpan, Collector, drawn } from "../harness/collector.ts";
import { eventually, run, within } from "../harness/command.ts";
import { MFS, MfsProcess } from "../harness/process.ts";
import { clearMounts, makeScratch, removeScratch } from "../harness/scratch.ts";

const MINUTE = 60_000;

function define(
  name: string,
  flags: readonly string[],
  body: (mountpoint: string, collector: Collector, cluster: MfsProcess) => Promise<void>,
): void {
  Deno.test({
    name: `tracing: ${name}`,
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      const scratch = makeScratch();
      await using collector = new Collector();
      const mountpoint = `${scratch}/mnt`;
      const cluster = await MfsProcess.start(
        [
          "singlenode",
          mountpoint,
          "--dataservers",
          "2",
          "--replication",
          "2",
          "--log-level",
          "info",
          ...flags,
        ],
        collector.env,
      );
      try {
        await within(2 * MINUTE, name, body(mountpoint, collector, cluster));
      } catch (error) {
        console.error(cluster.log.slice(-6_000));
        throw error;
      } finally {
        await cluster.stop().catch(() => cluster.kill());
        await clearMounts(scratch);
        await removeScratch(scratch);
      }
    },
  });
}

async function work(mountpoint: string): Promise<void> {
  const { code, stderr } = await run("sh", [
    "-ec",
    `if stat ${mountpoint}/absent 2> /dev/null; then exit 1; fi
    dd if=/dev/urandom of=${mountpoint}/file bs=64k count=1 conv=fsync 2> /dev/null`,
  ], { timeoutMs: MINUTE });
  assertEquals(code, 0, stderr);
}

/** The trace that begins with this span, once there. */
async function traceOf(
  collector: Collector,
  name: string,
  isWhole: (trace: string) => boolean,
): Promise<CollectedSpan[]> {
  let trace: CollectedSpan[] = [];
  try {
    await eventually(15_000, `a trace of ${name}`, () => {
      const roots = collector.spans.filter((span) =>
        span.parentSpanId === undefined && span.name.startsWith(name)
      );
      return roots.some(({ traceId }) => {
        trace = collector.spans.filter((span) => span.traceId === traceId);
        return isWhole(drawn(trace).join("\n"));
      });
    });
  } catch (error) {
    throw new Error(`${error}\n${drawn(collector.spans).join("\n")}`);
  }
  return trace;
}

const processes = (trace: readonly CollectedSpan[]) => new Set(trace.map(({ pid }) => pid)).size;

define(
  "fsync, write and lookup on a mount lead through nameserver and dataservers",
  ["--processes", "--tracing"],
  async (mountpoint, collector) => {
    await work(mountpoint);
    const fsync = await traceOf(
      collector,
      "FSYNC",
      (trace) => trace.includes("mfs-nameserver") && trace.match(/mfs-dataserver/g)?.length === 3,
    );
    const lines = drawn(fsync);
    const chain = [
      "  mfs-mount dataserver/syncBlock",
      "    mfs-dataserver dataserver/syncBlock",
      "      mfs-dataserver dataserver/syncBlock",
      "        mfs-dataserver dataserver/syncBlock",
    ];
    const commit = ["  mfs-mount nameserver/commit", "    mfs-nameserver nameserver/commit"];
    assertEquals(lines[0], "mfs-mount FSYNC");
    const at = lines.indexOf(chain[0]!);
    assertEquals(lines.slice(at, at + 4), chain, lines.join("\n"));
    const committed = lines.indexOf(commit[0]!);
    assertEquals(lines.slice(committed, committed + 2), commit, lines.join("\n"));
    assertEquals(processes(fsync), 4);
    for (const span of fsync) {
      const parent = fsync.find(({ spanId }) => spanId === span.parentSpanId);
      assertEquals(span.error, undefined);
      // All are on this machine, and so on one clock, but for what processes differ by when they start.
      assert(parent === undefined || parent.startMs <= span.startMs + 5, lines.join("\n"));
      assert(parent === undefined || span.endMs <= parent.endMs + 5, lines.join("\n"));
    }
    const write = await traceOf(
      collector,
      "WRITE",
      (trace) => (trace.match(/mfs-dataserver/g)?.length ?? 0) === 3,
    );
    assertEquals(processes(write) >= 3, true, drawn(write).join("\n"));
    const lookup = await traceOf(collector, "LOOKUP", (trace) => trace.includes("nameserver"));
    assertEquals(drawn(lookup), [
      "mfs-mount LOOKUP",
      "  mfs-mount nameserver/lookup",
      "    mfs-nameserver nameserver/lookup",
    ]);
    // Nothing hangs in the air: each parent is there.
    const ids = new Set(collector.spans.map(({ spanId }) => spanId));
    assertEquals(
      collector.spans.filter(({ parentSpanId }) => parentSpanId !== undefined && !ids.has(parentSpanId)),
      [],
    );
  },
);

define("an error is told where it arose", ["--tracing"], async (mountpoint, collector) => {
  const { code } = await run("sh", [
    "-c",
    `mkdir ${mountpoint}/d && touch ${mountpoint}/d/f && rmdir ${mountpoint}/d`,
  ], {
    timeoutMs: MINUTE,
  });
  assert(code !== 0);
  const trace = await traceOf(collector, "RMDIR", (trace) => trace.includes("ENOTEMPTY"));
  const root = trace.find(({ parentSpanId }) => parentSpanId === undefined)!;
  assertEquals([root.error, root.attributes["error.type"]], ["ENOTEMPTY", "ENOTEMPTY"]);
  assertEquals(root.service, "mfs-singlenode");
});

define("without --tracing nothing is sent", ["--processes"], async (mountpoint, collector, cluster) => {
  await work(mountpoint);
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  await cluster.stop();
  assertEquals(collector.requests.length, 0);
});

Deno.test("tracing: a protocol that is not spoken is wrong usage", async () => {
  const { code, stderr } = await run(
    MFS,
    ["nameserver", "--dir", "/nowhere", "--tracing", "--http", "off", "--listen", "127.0.0.1:0"],
    { timeoutMs: MINUTE, env: { OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" } },
  );
  assertEquals(code, 2);
  assertMatch(stderr, /^mfs: nameserver: OTEL_EXPORTER_OTLP_PROTOCOL=grpc: /m);
});
