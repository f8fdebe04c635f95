import assert from "node:assert/strict";
import { createLogger, type LogOptions } from "../../base/log.ts";

function capture(options: LogOptions = {}) {
  const lines: string[] = [];
  return { lines, log: createLogger("role", { ...options, write: (line) => lines.push(line) }) };
}

Deno.test("log: a text line has time, level, role, message and fields", () => {
  const { lines, log } = capture();
  log.info("it happened", { count: 3, name: "a b", empty: "", list: [1, 2], big: 7n, plain: "x" });
  assert.match(
    lines[0]!,
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO {2}role: it happened count=3 name="a b" empty="" list=\[1,2\] big=7 plain=x$/,
  );
});

Deno.test("log: a JSON line has the same", () => {
  const { lines, log } = capture({ json: true });
  log.error("failed", { error: new Error("why"), bytes: new TextEncoder().encode("name"), big: 1n });
  const event = JSON.parse(lines[0]!);
  assert.ok(!Number.isNaN(Date.parse(event.time)));
  delete event.time;
  assert.deepEqual(event, {
    level: "error",
    role: "role",
    message: "failed",
    error: "why",
    bytes: "name",
    big: "1",
  });
});

Deno.test("log: lines below the level are not written", () => {
  const { lines, log } = capture({ level: "warn" });
  log.debug("a");
  log.info("b");
  log.warn("c");
  log.error("d");
  assert.equal(lines.length, 2);
});

Deno.test("log: a child has its own role and adds its fields", () => {
  const { lines, log } = capture();
  log.child("part", { volume: 1 }).child("piece", { block: 2 }).warn("odd", { block: 3 });
  assert.match(lines[0]!, / WARN {2}piece: odd volume=1 block=3$/);
});

Deno.test("log: no field value breaks the line", () => {
  for (const json of [false, true]) {
    const { lines, log } = capture({ json });
    log.info("event", { name: 'two\nlines\r"quoted"\u2028', bytes: new Uint8Array([0x0a, 0xff]) });
    assert.equal(lines.length, 1);
    assert.ok(!/[\n\r]/.test(lines[0]!));
  }
});

Deno.test("log: no field value makes logging throw", () => {
  const circular: Record<string, unknown> = {};
  circular.self = circular;
  for (const json of [false, true]) {
    for (const value of [undefined, null, { nested: 1n }, circular, () => {}, Symbol("s"), NaN]) {
      const { lines, log } = capture({ json });
      log.info("event", { value });
      assert.equal(lines.length, 1);
    }
  }
});
